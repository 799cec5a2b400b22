"""Capabilities: their names, and the option type that normalises them."""

from __future__ import annotations

import attrs

from sandboxrun.errors import Problems, did_you_mean
from sandboxrun.model.composite import ListOf
from sandboxrun.model.types import INVALID, OptionType, Schema, Text
from sandboxrun.source import Node, Scalar

# capabilities(7), Linux 5.9 and later
NAMES = tuple(
    (
        "AUDIT_CONTROL AUDIT_READ AUDIT_WRITE BLOCK_SUSPEND BPF CHECKPOINT_RESTORE CHOWN DAC_OVERRIDE "
        "DAC_READ_SEARCH FOWNER FSETID IPC_LOCK IPC_OWNER KILL LEASE LINUX_IMMUTABLE MAC_ADMIN MAC_OVERRIDE "
        "MKNOD NET_ADMIN NET_BIND_SERVICE NET_BROADCAST NET_RAW PERFMON SETFCAP SETGID SETPCAP SETUID SYSLOG "
        "SYS_ADMIN SYS_BOOT SYS_CHROOT SYS_MODULE SYS_NICE SYS_PACCT SYS_PTRACE SYS_RAWIO SYS_RESOURCE "
        "SYS_TIME SYS_TTY_CONFIG WAKE_ALARM "
    ).split()
)


@attrs.frozen(kw_only=True)
class Capability:
    """One capability, in any case, with or without `CAP_`."""

    def parse(self, node: Node, problems: Problems) -> str:
        text = Text(hint="the name of a capability").parse(node, problems)
        if text is INVALID:
            return INVALID
        name = str(text).upper().removeprefix("CAP_")
        if name != "ALL" and name not in NAMES:
            span = node.span if isinstance(node, Scalar) else None
            problems.add(f'"{text}" is no capability', span, did_you_mean(name, NAMES) or "see capabilities(7)")
            return INVALID
        return name

    def schema(self) -> Schema:
        # JSON Schema's patterns know no "ignore case"
        either = "|".join("".join(f"[{c}{c.lower()}]" if c.isalpha() else c for c in name) for name in ("ALL", *NAMES))
        return {"type": "string", "pattern": f"^([cC][aA][pP]_)?({either})$"}

    def plain(self, value: str) -> str:
        return value


@attrs.frozen(kw_only=True)
class Capabilities:
    """A set of capabilities, sorted: their order means nothing."""

    item: OptionType = Capability()

    def parse(self, node: Node, problems: Problems) -> tuple[str, ...]:
        names = ListOf(item=self.item).parse(node, problems)
        return INVALID if names is INVALID else tuple(sorted(set(names)))

    def schema(self) -> Schema:
        return ListOf(item=self.item).schema()

    def plain(self, value: tuple[str, ...]) -> list[str]:
        return list(value)
