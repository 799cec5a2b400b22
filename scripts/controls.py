"""Writes the controls into docs/verify.md: what each means, how it is seen, its negative control, where it is left out.

Usage: python -m scripts.controls (a part of `make reference`). What stands before the heading "The controls" is written
by hand and stays; the rest comes from where the program itself has it, and its prose from controls.toml. Where a
control is left out is found by asking it about sandboxes of every kind.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path

from msgspec import structs

from sandboxrun.backend.docker.looking import TERMS
from sandboxrun.probe.controls import FAMILIES
from sandboxrun.probe.outside import CHECKS
from sandboxrun.probe.privilege import OURS, THEMES
from sandboxrun.probe.verdicts import Context, Control
from sandboxrun.spec.option_types import CLOSED, PUBLIC, Egress
from sandboxrun.spec.project import NetworkSpec
from sandboxrun.spec.records import Attachment, Ulimit
from sandboxrun.spec.spec import SandboxSpec, settle
from sandboxrun.spec.types import freeze

PROSE = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
FILE = Path(__file__).resolve().parents[1] / "docs" / "verify.md"
BEGIN = "## The controls\n"
HEAD = (
    BEGIN
    + """
Derived from the program itself by `make reference`, to the end of this page; a test fails when it is stale.
"""
)
OPENED = settle(
    SandboxSpec(
        user="0:0",
        read_only=False,
        cap_add=("ALL",),
        security_opt=freeze({"no-new-privileges": "false", "seccomp": "unconfined"}),
        tmpfs=freeze({}),
        ipc="none",
        mem_limit=0,
        cpus=0.0,
        pids_limit=0,
        ulimits=freeze({}),
        egress=PUBLIC,
    )
)
SPECS = (
    OPENED,
    settle(SandboxSpec(user="0:0")),
    settle(SandboxSpec(egress=CLOSED)),
    settle(SandboxSpec(networks=freeze({"team": Attachment()}))),
    settle(SandboxSpec(egress=Egress(allow=("api.example.com:443",)), memswap_limit=-1)),
    settle(SandboxSpec(ulimits=freeze({"nofile": Ulimit(soft=1 << 20, hard=1 << 20)}))),
    *(
        settle(SandboxSpec(security_opt=freeze({"no-new-privileges": "true", "seccomp": profile})))
        for profile in ("debug", "engine", "{}")
    ),
)
CONTEXTS = (
    *(Context(spec=spec, gateway="10.231.0.2") for spec in SPECS),
    Context(spec=SPECS[3], networks=freeze({"team": NetworkSpec(driver_opts=freeze({}))})),
    Context(spec=SandboxSpec(), runtime="runsc"),
    Context(spec=SandboxSpec(), architecture="aarch64"),
    Context(spec=structs.replace(SandboxSpec(), cpus=8.0), host_cpus=2),
)


def text() -> str:
    """The whole file: what is written by hand, and what is derived."""
    return FILE.read_text(encoding="utf-8").partition(BEGIN)[0] + derived()


def derived() -> str:
    """The part that is derived."""
    parts = [HEAD]
    for family, controls in FAMILIES.items():
        parts.append(f"### {family}\n")
        for control in controls:
            parts.extend(_control(control))
    return "\n".join([*parts, *_outside()]) + "\n"


def reasons(control: Control) -> list[str]:
    """Why the control is left out, of whichever sandboxes it is."""
    return list(dict.fromkeys(said for context in CONTEXTS if isinstance(said := control.look({}, context), str)))


def prose_of(control: Control) -> Mapping[str, str]:
    """What it means, how it is seen, and what its negative control is."""
    theme = next((one for one in THEMES if one.id == control.id), None)
    tried = {"how": f"Each is tried: {', '.join(f'`{item}`' for item in theme.items(OURS))}."} if theme else {}
    return {**PROSE["kernel" if theme else control.id], **PROSE[control.id], **tried}


def _control(control: Control) -> Iterator[str]:
    yield f"#### `{control.id}`: {_plain(control.title)}\n"
    prose = prose_of(control)
    yield f"{_plain(prose['meaning'])}\n"
    yield f"- on the engine: {_plain(TERMS.controls[control.id])}"
    yield f"- seen by: {prose['how']}"
    yield f"- negative control: {_plain(f'none: {control.exempt}' if control.exempt else prose['weak'])}"
    left_out = reasons(control)
    if left_out:
        yield f"- not applicable: {'; '.join(map(_plain, left_out))}"
    yield ""


def _outside() -> Iterator[str]:
    yield "### From outside\n"
    yield "What `verify --running` reads of a live sandbox, on the engine and in the host's /proc and cgroups.\n"
    yield "| check | what holds | on the engine |"
    yield "| --- | --- | --- |"
    for check in CHECKS:
        yield f"| `{check.id}` | {_plain(check.title)} | {_plain(TERMS.checks[check.id])} |"


def _plain(words: str) -> str:
    """Words that hold no mark of Markdown's by accident."""
    return words.replace("*", "\\*").replace("<", "\\<").replace("|", "\\|")


def main() -> None:
    """Write the file."""
    FILE.write_text(text(), encoding="utf-8")
    print(f"{FILE.relative_to(FILE.parents[1])} is written")


if __name__ == "__main__":
    main()
