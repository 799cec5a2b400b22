"""Option types of single options: networks, GPUs, tmpfs, capabilities, security_opt, extra_hosts, restart, egress.

Each reads every form that Compose has for it and gives one value. Pure.
"""

from __future__ import annotations

import ipaddress
import re
from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import Any, ClassVar

from msgspec import structs

from sandboxrun.errors import ListNode, MapNode, Node, Problems, Scalar, did_you_mean, is_null
from sandboxrun.spec import forms, seccomp
from sandboxrun.spec import types as units
from sandboxrun.spec.forms import LABEL_PART, join_security, split_security
from sandboxrun.spec.names import KEY
from sandboxrun.spec.option import Record, RowData, option
from sandboxrun.spec.types import (
    INVALID,
    Choice,
    Entries,
    Entry,
    Integer,
    ListOf,
    OptionType,
    Schema,
    Short,
    Text,
    freeze,
    list_of,
    mapping_of,
    refuse,
    span_of,
)

# -- networks, secrets, depends_on: option types that are a list of names or a mapping from names

_NAME = Text(pattern=KEY, hint="a name of letters, digits, _ . and -")


class Named(Entries):
    """A list of names, or a mapping from names to `item`; a name alone means `empty`."""

    whole: ClassVar[str] = "a list of names, or a mapping"
    name: Text = _NAME
    item: OptionType
    empty: Any

    def entries(self, node: Node, problems: Problems) -> list[Entry]:
        if isinstance(node, ListNode):
            named = (item for item in node.items if _NAME.parse(item, problems) is not INVALID)
            node = structs.replace(node, items=tuple(named))
        return super().entries(node, problems)

    def value(self, name: str, node: Node, problems: Problems) -> Any:
        return self.empty if is_null(node) else self.item.parse(node, problems)

    def split(self, text: str) -> tuple[str, str | None]:
        return text, None

    def schema(self) -> Schema:
        by_name = mapping_of({"pattern": f"^(?:{KEY})$"}, {"anyOf": [self.item.schema(), {"type": "null"}]})
        return {"anyOf": [list_of(_NAME.schema()), by_name]}

    def plain(self, value: Mapping[str, Any]) -> Any:
        if all(item == self.empty for item in value.values()):
            return list(value)
        return {name: self.item.plain(item) for name, item in value.items()}


# -- GPUs: the option type of `gpus`


class Gpus(OptionType):
    """`all` (kept as -1), or how many."""

    def parse(self, node: Node, problems: Problems) -> int:
        match node:
            case Scalar(value="all"):
                return -1
            case Scalar(value=bool()):
                pass
            case Scalar(value=int() as count) if 1 <= count <= 1024:
                return count
            case Scalar(value=str() as text) if re.fullmatch("[1-9][0-9]{0,3}", text, re.ASCII) and int(text) <= 1024:
                return int(text)
        return refuse(problems, node, "all, or a number of GPUs from 1 to 1024")

    def schema(self) -> Schema:
        text = {"type": "string", "pattern": "^(all|[1-9][0-9]{0,3})$"}
        return {"anyOf": [text, {"type": "integer", "minimum": 1, "maximum": 1024}]}

    def plain(self, value: int) -> int | str:
        return "all" if value == -1 else value


# -- tmpfs: the option type of `tmpfs`, which never leaves one unsized (that would be half of the host's RAM)

FLAGS = ("rw", "ro", "exec", "noexec", "suid", "nosuid", "dev", "nodev")
VALUED = ("size", "mode", "uid", "gid", "nr_inodes")
CLOSED_TMPFS = {"access": "rw", "exec": "noexec", "suid": "nosuid", "dev": "nodev"}
_AXIS = {"rw": "access", "ro": "access", "exec": "exec", "noexec": "exec"}
_AXIS |= {"suid": "suid", "nosuid": "suid", "dev": "dev", "nodev": "dev"}
DEFAULT_SIZE = "64m"


def read_options(text: str) -> str:
    """Mount options in canonical order, with what was left out closed: noexec, nosuid, nodev, size=64m.

    Raises ValueError with a clause for the message.
    """
    flags, values = dict(CLOSED_TMPFS), {"size": DEFAULT_SIZE}
    given: set[str] = set()
    for item in filter(None, text.split(",")):
        name, equals, value = item.partition("=")
        if (axis := _AXIS.get(name, name)) in given:
            raise ValueError(f'"{item}" repeats another option')
        given.add(axis)
        if not equals and name in _AXIS:
            flags[_AXIS[name]] = name
        elif equals and name in VALUED:
            values[name] = _value(name, value)
        else:
            known = did_you_mean(name, (*FLAGS, *VALUED)) or f"known are {', '.join((*FLAGS, *VALUED))}"
            raise ValueError(f'"{item}" is not an option of a tmpfs; {known}')
    return ",".join([*flags.values(), *(f"{name}={values[name]}" for name in VALUED if name in values)])


def options_of(text: str) -> dict[str, str]:
    """The options that have a value: size, mode, uid, gid, nr_inodes."""
    return dict(item.split("=", 1) for item in text.split(",") if "=" in item)


def _value(name: str, value: str) -> str:
    if name == "size":
        size = units.parse_size(value)
        if size == 0:
            raise ValueError("size=0 is unlimited; give it a size")
        return units.format_size(size)
    if not re.fullmatch("(0o?)?[0-7]{3,4}" if name == "mode" else r"[0-9]{1,10}", value, re.ASCII):
        raise ValueError(f'"{value}" is not a valid {name}')
    return f"{int(value.removeprefix('0o'), 8):04o}" if name == "mode" else str(int(value))


class Tmpfs(Entries):
    """Mount options by path. `/tmp` alone, or `/tmp:size=64m,exec`."""

    whole: ClassVar[str] = "a list of paths, each with its options"
    each: ClassVar[tuple[str, ...]] = ("a path, or path:options",)

    def parse(self, node: Node, problems: Problems) -> Any:
        given = node.entries if isinstance(node, MapNode) else ()
        if not all(isinstance(value, Scalar) and isinstance(value.value, str | None) for _, value in given):
            return refuse(problems, node, "a mapping of paths to mount options")
        found = super().parse(node, problems)
        return found if found is INVALID else freeze(dict(sorted(found.items())))

    def entries(self, node: Node, problems: Problems) -> list[Entry]:
        alone = isinstance(node, Scalar) and isinstance(node.value, str)
        return super().entries(ListNode(items=(node,)) if alone else node, problems)

    def named(self, key: Scalar, problems: Problems) -> Any:
        path = str(key.value)
        if not path.startswith("/") or "\0" in path:
            problems.add(f'"{path}" is not an absolute path', key.span)
        return forms.path(path) if path.startswith("/") else path

    def value(self, name: str, node: Node, problems: Problems) -> Any:
        try:
            return read_options(str(getattr(node, "value", None) or ""))
        except ValueError as error:
            problems.add(f"the options of the tmpfs {name} are wrong: {error}", node.span)

    def split(self, text: str) -> tuple[str, str | None]:
        path, colon, options = text.partition(":")
        return path, options if colon else None

    def schema(self) -> Schema:
        item: Schema = {"type": "string", "pattern": r"^/[^:]*(:[a-z_,=0-9a-zA-Z.]*)?$"}
        return {"anyOf": [item, list_of(item), mapping_of({"pattern": "^/"}, {"type": ["string", "null"]})]}

    def plain(self, value: Mapping[str, str]) -> list[str]:
        return [f"{path}:{options}" for path, options in value.items()]


# -- Capabilities: their names, and the option type that normalises them

# capabilities(7), Linux 5.9 and later
# In the order of the kernel's numbers.
CAPABILITIES = tuple(
    (
        "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE "
        "NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT "
        "SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE "
        "AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ "
        "PERFMON BPF CHECKPOINT_RESTORE"
    ).split()
)
NAMES = tuple(sorted(CAPABILITIES))


class Capability(OptionType):
    """One capability, in any case, with or without `CAP_`."""

    def parse(self, node: Node, problems: Problems) -> str:
        text = Text(hint="the name of a capability").parse(node, problems)
        if text is INVALID:
            return INVALID
        name = str(text).upper().removeprefix("CAP_")
        if name != "ALL" and name not in NAMES:
            span = node.span if isinstance(node, Scalar) else None
            problems.add(f'"{text}" is not a capability', span, did_you_mean(name, NAMES) or "see capabilities(7)")
            return INVALID
        return name

    def schema(self) -> Schema:
        # JSON Schema's patterns know no "ignore case"
        either = "|".join("".join(f"[{c}{c.lower()}]" if c.isalpha() else c for c in name) for name in ("ALL", *NAMES))
        return {"type": "string", "pattern": f"^([cC][aA][pP]_)?({either})$"}


Capabilities = ListOf(item=Capability(), ordered=False, once=True)


# -- security_opt: the option type that reads its list into options by name, and refuses those not offered

KNOWN = ("no-new-privileges", "seccomp", "apparmor", "label")
LABELS = ("user", "role", "type", "level", "filetype")  # parts of an SELinux label, each an option of its own
_WHOLE = ("disable", "nested")
_ORDER = (*KNOWN, *(f"{LABEL_PART}{part}" for part in LABELS))
CLOSED_OPTIONS: Mapping[str, str] = freeze({"no-new-privileges": "true", "seccomp": seccomp.OWN})


class SecurityOpts(Entries):
    """Options by name. no-new-privileges and the seccomp profile are on unless they are turned off by name: a list
    that only sets another option must not loosen them."""

    whole: ClassVar[str] = "a list"

    def parse(self, node: Node, problems: Problems) -> Any:
        found = super().parse(node, problems)
        return found if found is INVALID else freeze({**CLOSED_OPTIONS, **found})

    def entries(self, node: Node, problems: Problems) -> list[Entry]:
        found = super().entries(node, problems)
        if not all(isinstance(value, Scalar) for _, value in found):
            refuse(problems, node, "a mapping of texts")
            return []
        return [_split(key, value) for key, value in found if isinstance(value, Scalar)]

    def entry(self, item: Node) -> Entry | None:
        return super().entry(structs.replace(item, value=str(item.value)) if isinstance(item, Scalar) else item)

    def add(self, values: dict[str, Any], key: Scalar, node: Node, problems: Problems) -> None:
        super().add(values, key, node, problems)
        labels = [other for other in values if other.startswith(LABEL_PART)]
        if values.get("label") == "disable" and (key.value in labels or (labels and key.value == "label")):
            problems.add("label=disable turns labels off, and a label is set", node.span, "remove one of them")

    def named(self, key: Scalar, problems: Problems) -> Any:
        return key.value

    def value(self, name: str, node: Node, problems: Problems) -> Any:
        if isinstance(node, Scalar):
            _check(name, str(node.value), node, problems)
            return node.value

    def split(self, text: str) -> tuple[str, str | None]:
        return split_security(text)

    def schema(self) -> Schema:
        item: Schema = {"type": "string", "pattern": rf"^({'|'.join(KNOWN)})([=:].+)?$"}
        by_name = mapping_of({"enum": list(_ORDER)}, {"type": ["string", "boolean"]})
        return {"anyOf": [{"type": "array", "items": item}, by_name]}

    def plain(self, value: Mapping[str, str]) -> list[str]:
        return [
            f"{name}:{item}" if name == "no-new-privileges" else join_security(name, item)
            for name, item in sorted(value.items(), key=lambda option: _ORDER.index(option[0]))
        ]


def _split(key: Scalar, value: Scalar) -> Entry:
    """An entry with the option's whole name: `label: user:root` is that of `label=user`."""
    name, text = split_security(join_security(str(key.value), value.text or str(value.value)))
    return structs.replace(key, value=name, text=name), structs.replace(value, value=text, text=text)


def _check(name: str, value: str, item: Scalar, problems: Problems) -> None:
    if name.startswith(LABEL_PART) and name not in _ORDER:
        part = name.removeprefix(LABEL_PART)
        help = did_you_mean(part, LABELS) or f"known are {', '.join(LABELS)}"
        problems.add(f'"{part}" is not a part of a label', item.span, help)
    elif name not in _ORDER:
        help = did_you_mean(name, KNOWN) or f"known are {', '.join(KNOWN)}"
        if name == "systempaths":
            help = "the engine's masked paths stay masked"
        problems.add(f'"{name}" is not a supported security option', item.span, help)
    elif name == "no-new-privileges" and value not in ("true", "false"):
        problems.add(f'no-new-privileges is true or false, not "{value}"', item.span)
    elif not value:
        problems.add(f'"{name}" needs a value', item.span, f"write {join_security(name, '…')}")
    elif name == "label" and value not in _WHOLE:
        help = f"write label={' or label='.join(_WHOLE)}, or a part of it, as in label=type:…"
        problems.add(f'"{value}" is not a label', item.span, help)


# -- Host names, and `extra_hosts`: the option type of lines for /etc/hosts

LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
HOST = rf"{LABEL}(?:\.{LABEL})*"
GATEWAY = "host-gateway"  # the engine fills in an address of the host
_LONGEST = 253


def host_name(text: str) -> str:
    """`text`, if a resolver takes it for a name. Raises ValueError with a clause."""
    if not re.fullmatch(HOST, text):
        raise ValueError("a name is labels of letters, digits, - and _, with a dot between two")
    if len(text) > _LONGEST:
        raise ValueError(f"a name has at most {_LONGEST} characters")
    return text


def host_address(text: str) -> str:
    """An address in its canonical form; IPv6 may be in brackets, as in Compose. Raises ValueError."""
    if text == GATEWAY:
        return text
    bracketed = text.startswith("[") and text.endswith("]") and ":" in text
    return str(ipaddress.ip_address(text[1:-1] if bracketed else text))


_HELP = "such as db.example.com=192.0.2.10 or db.example.com=2001:db8::10"


class Hosts(Entries):
    """The addresses of names: a list of NAME=address or NAME:address, or a mapping from names to one or several."""

    whole: ClassVar[str] = "a list of NAME=address, or a mapping"
    each: ClassVar[tuple[str, ...]] = ("NAME=address", _HELP)

    def entries(self, node: Node, problems: Problems) -> list[Entry]:
        """Each name once, with all its addresses."""
        found: dict[str, tuple[Scalar, tuple[Scalar, ...]]] = {}
        for name, value in super().entries(node, problems):
            those = value.items if isinstance(value, ListNode) else (value,)
            texts = [one for one in those if isinstance(one, Scalar) and isinstance(one.value, str)]
            if len(texts) < len(those) or not texts:
                refuse(problems, value, "an address, or a list of them", _HELP)
            else:
                first, known = found.get(str(name.value), (name, ()))
                found[str(name.value)] = (first, (*known, *texts))
        return [(name, ListNode(items=those, span=those[0].span)) for name, those in found.values()]

    def named(self, key: Scalar, problems: Problems) -> Any:
        try:
            return host_name(str(key.value))
        except ValueError as error:
            problems.add(f'"{key.value}" is not a host name: {error}', key.span, _HELP)
            return INVALID

    def value(self, name: str, node: Node, problems: Problems) -> Any:
        known: list[str] = []
        for one in node.items if isinstance(node, ListNode) else ():
            text = str(one.value) if isinstance(one, Scalar) else ""
            try:
                value = host_address(text)
            except ValueError:
                problems.add(f'"{text}" is not an IP address, for the host "{name}"', one.span, _HELP)
                continue
            if value in known:
                problems.add(f'"{name}" has the address {value} twice', one.span, "remove one of them")
            known.append(value)
        return tuple(known)

    def split(self, text: str) -> tuple[str, str | None] | None:
        match = re.match(r"([^=:]*)[=:](.*)", text, re.DOTALL)
        return (match[1], match[2]) if match is not None else None

    def schema(self) -> Schema:
        text: Schema = {"type": "string", "minLength": 1}
        several: Schema = {"anyOf": [text, {"type": "array", "items": text, "minItems": 1}]}
        item: Schema = {"type": "string", "pattern": f"^{HOST}[=:].+$"}
        return {"anyOf": [mapping_of({"pattern": f"^{HOST}$"}, several), list_of(item)]}

    def plain(self, value: Mapping[str, tuple[str, ...]]) -> dict[str, str | list[str]]:
        return {name: those[0] if len(those) == 1 else list(those) for name, those in value.items()}


# -- restart: the option type of Compose's restart policies


class Restart(Text):
    """A policy. `no` may be written as false, which it is in other versions of YAML."""

    pattern: str | None = "no|always|unless-stopped|on-failure(:[0-9]{1,6})?"
    hint: str = "no, on-failure[:n], always or unless-stopped"
    form: forms.Form = forms.restart

    def parse(self, node: Node, problems: Problems) -> Any:
        return "no" if isinstance(node, Scalar) and node.value is False else super().parse(node, problems)

    def schema(self) -> Schema:
        return {"anyOf": [super().schema(), {"const": False}]}


# -- egress: what of the outside a sandbox reaches, by name; everything else is refused by its gateway

NONE, OPEN, ALLOW = "none", "open", "allow"
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_NAME_egress = (
    rf"(?:\*\.)?(?:{_LABEL}\.)+(?=[A-Za-z0-9-]*[A-Za-z]){_LABEL}"  # a last label of digits alone is an address's
)
METADATA_NAMES = frozenset(  # of clouds' metadata services; the addresses that they have are open to no gateway
    {
        "metadata.google.internal", "metadata.goog", "instance-data", "instance-data.ec2.internal",
        "metadata.azure.internal", "metadata.oraclecloud.com", "metadata.tencentyun.com",
    }
)  # fmt: skip
DESTINATION = rf"{_NAME_egress}:[0-9]{{1,5}}"


Address = Text(pattern=r"[0-9A-Fa-f.:]+", hint="an IP address", form=forms.address)


class Destination(OptionType):
    """`host:port`, or `*.domain:port` for every name below the domain (not the domain itself). Kept in lower case."""

    def parse(self, node: Node, problems: Problems) -> Any:
        match node:
            case Scalar(value=str() as text) if re.fullmatch(DESTINATION, text, re.ASCII):
                host, _, port = text.lower().rpartition(":")
                if len(host) <= 253 and 0 < int(port) < 65536:
                    return f"{host}:{int(port)}"
        return refuse(problems, node, "host:port or *.domain:port", _help(node))

    def schema(self) -> Schema:
        return {"type": "string", "pattern": f"^{DESTINATION}$"}


def _help(node: Node) -> str:
    text = node.value if isinstance(node, Scalar) and isinstance(node.value, str) else ""
    if text == "*" or text.startswith("*:"):
        return "for every public host write egress: open"
    if re.match(r"[0-9.]+([:/]|$)|\[|[0-9a-fA-F:]+::", text):
        return "destinations are names: an address does not identify who answers"
    if "/" in text:
        return "leave out the scheme and the path: api.example.com:443"
    if text and ":" not in text:
        return f'say which port: "{text}:443"'
    host, _, port = text.partition(":")
    if re.fullmatch(r"[0-9]+[-,][0-9,-]+", port):
        return "write a destination for each port"
    if re.fullmatch(r"[0-9]+", port) and not 1 <= int(port[:6]) <= 65535:
        return "a port is from 1 to 65535"
    if "." not in host:
        return "a name has a dot: what has none is local, and never reached"
    return 'such as "api.example.com:443"; names outside of ASCII in their xn-- form'


class NetworkRange(OptionType):
    """A range of private addresses in CIDR form."""

    def parse(self, node: Node, problems: Problems) -> Any:
        try:
            text = node.value if isinstance(node, Scalar) else None
            network = ipaddress.ip_network(text) if isinstance(text, str) and "/" in text else None
        except ValueError:
            network = None
        if network is None:
            return refuse(problems, node, "a range of addresses, such as 10.1.0.0/16", "host bits must be zero")
        return str(network)

    def schema(self) -> Schema:
        return {"type": "string", "pattern": r"^[0-9A-Fa-f.:]+/[0-9]{1,3}$"}


class Egress(RowData):
    """What a sandbox reaches: nothing, every public host, or the destinations listed."""

    mode: str = option(
        Choice(values=(ALLOW, OPEN, NONE)),
        default=ALLOW,
        description="allow: the destinations listed and no other; open: every public name on ports 80 and 443, with "
        "TLS that names it or plain HTTP; none: nothing at all.",
        example="allow",
    )
    allow: tuple[str, ...] = option(
        ListOf(item=Destination(), unique=True, ordered=False),
        default=(),
        description="host:port, or *.domain:port for every name below the domain. With mode open: other ports.",
        example=["api.example.com:443", "*.models.example.org:443"],
    )
    ports: tuple[int, ...] = option(
        ListOf(item=Integer(least=1, most=65535), unique=True, ordered=False),
        default=(),
        description="With mode open: ports besides 80 and 443 on which every public name is open, to TLS and HTTP.",
        example=[8443],
    )
    private_networks: tuple[str, ...] = option(
        ListOf(item=NetworkRange(), unique=True, ordered=False),
        default=(),
        description="Private ranges allowed names may resolve to; never loopback, link-local or metadata addresses.",
        example=["10.1.0.0/16"],
    )
    resolvers: tuple[str, ...] = option(
        ListOf(item=Address, unique=True),
        default=(),
        description="Name servers that the gateway asks; the engine's own when left out. The sandbox asks none.",
        example=["10.1.0.53"],
    )

    @property
    def has_gateway(self) -> bool:
        """Whether the sandbox has a network, whose only way out is its gateway."""
        return self.mode != NONE

    @property
    def listed(self) -> frozenset[str] | None:
        """The names of all hosts that it allows; None where they are not all known: open, or with a wildcard."""
        hosts = frozenset(entry.rpartition(":")[0] for entry in self.allow)
        return None if self.mode == OPEN or any(host.startswith("*.") for host in hosts) else hosts


CLOSED, PUBLIC = Egress(mode=NONE), Egress(mode=OPEN)


# Ports of protocols whose client does not say which host it wants: the gateway knows the host by the port alone.
ONE_HOST = frozenset(
    {21, 22, 23, 25, 110, 143, 389, 587, 873, 1433, 1521, 1883, 3306, 5432, 5672, 5900, 6379, 9418, 11211, 27017}
)
OPEN_PORTS = frozenset({80, 443})
MOST_PORTS = 128


def _check_egress(egress: Egress, node: MapNode, problems: Problems) -> None:
    if egress.mode == ALLOW and not egress.allow:
        problems.add("egress allows nothing", node.span, "list destinations under allow:, or write egress: none")
    if egress.mode == ALLOW and egress.ports:
        problems.add("ports are for mode open", span_of(node, "ports"), "list host:port under allow:")
    if egress.mode == NONE and egress != CLOSED:
        problems.add("mode none reaches nothing", node.span, "write egress: none alone")
    hosts = defaultdict[int, list[str]](list)
    for host, _, port in (entry.rpartition(":") for entry in egress.allow):
        hosts[int(port)].append(host)
    span = span_of(node, "allow")
    if 53 in hosts or 53 in egress.ports:
        problems.add("port 53 is the gateway's own name server", span if 53 in hosts else span_of(node, "ports"))
    if len(hosts.keys() | {*egress.ports}) > MOST_PORTS:
        problems.add(f"more than {MOST_PORTS} ports", span)
    if shared := sorted(ONE_HOST & {*egress.ports}):
        message = f"port {shared[0]} is given to every public host: clients do not say which they want"
        problems.add(message, span_of(node, "ports"), f'list the host that is meant under allow: "HOST:{shared[0]}"')
    for number, named in sorted(hosts.items()):
        if number in ONE_HOST and (len(named) > 1 or named[0].startswith("*.")):
            message = f"port {number} is given to {' and '.join(sorted(named))}: clients do not say which they want"
            problems.add(message, span, "list one host with that port, and no wildcard")
        if egress.mode == OPEN and number in OPEN_PORTS | {*egress.ports}:
            problems.add(f"egress: open allows {named[0]}:{number} already", span, "remove it")


def _read(text: str) -> Egress:
    if text not in (NONE, OPEN):
        raise ValueError("write none, open, or {allow: [...]}")
    return CLOSED if text == NONE else PUBLIC


class EgressOption(OptionType):
    """`none`, `open`, or a mapping; shown in the shortest form."""

    record: OptionType = Record(cls=Egress, title="egress", check=_check_egress)

    def parse(self, node: Node, problems: Problems) -> Any:
        expected = "none, open, or a mapping with allow"
        match node:
            case ListNode():
                return refuse(problems, node, expected, "write {allow: […]}")
            case Scalar(value=bool() as reaches):
                return refuse(problems, node, expected, f"write {OPEN if reaches else NONE}")
            case Scalar(value=str() as text) if text not in (NONE, OPEN):
                listed = did_you_mean(text, (NONE, OPEN)) or 'write {allow: ["api.example.com:443"]} for a host'
                return refuse(problems, node, expected, listed)
        return Short(record=self.record, read=_read, expected=expected).parse(node, problems)

    def schema(self) -> Schema:
        return {"anyOf": [{"enum": [NONE, OPEN]}, self.record.schema()]}

    def plain(self, value: Egress) -> Any:
        if value in (CLOSED, PUBLIC):
            return value.mode
        plain = self.record.plain(value)
        return {key: item for key, item in plain.items() if item not in ([], ()) and (key, item) != ("mode", ALLOW)}


def same_gateway(one: Any, other: Any, names: Collection[str] | None = None) -> bool:
    """Whether a change to `one` from `other` is a matter of the gateway's rules alone. `names` are the hosts that stand
    in the sandbox's own hosts file, which stays as it was made; None where it asks the gateway for names."""
    both = isinstance(one, Egress) and isinstance(other, Egress) and one.has_gateway and other.has_gateway
    return both and one.resolvers == other.resolvers and (names is None or one.listed == frozenset(names))
