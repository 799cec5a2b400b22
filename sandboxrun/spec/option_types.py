"""Option types of single options: networks, GPUs, tmpfs, capabilities, security_opt, extra_hosts, restart, egress.

Each reads every form that Compose has for it and gives one value. Pure.
"""

from __future__ import annotations

import ipaddress
import re
from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import Any

from sandboxrun.errors import ListNode, MapNode, Node, Problems, Scalar, did_you_mean
from sandboxrun.spec import forms, seccomp
from sandboxrun.spec import types as units
from sandboxrun.spec.forms import LABEL_PART, join_security, split_security
from sandboxrun.spec.names import KEY
from sandboxrun.spec.option import Record, RowData, option
from sandboxrun.spec.types import (
    INVALID,
    Choice,
    Integer,
    ListOf,
    MapOf,
    OptionType,
    Schema,
    Short,
    Text,
    freeze,
    refuse,
    span_of,
)

# -- networks, secrets, depends_on: option types that are a list of names or a mapping from names

_NAME = Text(pattern=KEY, hint="a name of letters, digits, _ . and -")


class Named(OptionType):
    """A list of names, or a mapping from names to `item`; a name alone means `empty`."""

    item: OptionType
    empty: Any

    def parse(self, node: Node, problems: Problems) -> Mapping[str, Any]:
        match node:
            case ListNode():
                pairs: list[tuple[Node, Node | None]] = [(item, None) for item in node.items]
            case MapNode():
                pairs = [(key, value) for key, value in node.entries]
            case _:
                return refuse(problems, node, "a list of names, or a mapping")
        values: dict[str, Any] = {}
        twice = False
        for key, value in pairs:
            name = _NAME.parse(key, problems)
            if name in values and name is not INVALID:
                twice = True
                problems.add(f'"{name}" is listed twice', key.span, "remove one of them")
            bare = value is None or (isinstance(value, Scalar) and value.value is None)
            values[name] = self.empty if bare or value is None else self.item.parse(value, problems)
        return INVALID if twice or INVALID in values or INVALID in values.values() else freeze(values)

    def split(self, text: str) -> tuple[str, str | None]:
        return text, None

    def schema(self) -> Schema:
        by_name = MapOf(item=self.item, name=_NAME).schema()
        by_name["additionalProperties"] = {"anyOf": [by_name["additionalProperties"], {"type": "null"}]}
        return {"anyOf": [{"type": "array", "items": _NAME.schema(), "uniqueItems": True}, by_name]}

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


class Tmpfs(OptionType):
    """Mount options by path. `/tmp` alone, or `/tmp:size=64m,exec`."""

    def parse(self, node: Node, problems: Problems) -> Mapping[str, str]:
        match node:
            case MapNode():
                found = [(str(k.value), v) for k, v in node.entries]
                texts = [(path, v) for path, v in found if isinstance(v, Scalar) and isinstance(v.value, str | None)]
                items = [(path, str(v.value or ""), v) for path, v in texts]
                if len(items) != len(found):
                    return refuse(problems, node, "a mapping of paths to mount options")
            case ListNode() | Scalar(value=str()):
                items = []
                for item in node.items if isinstance(node, ListNode) else (node,):
                    if not isinstance(item, Scalar) or not isinstance(item.value, str):
                        return refuse(problems, item, "a path, or path:options")
                    path, _, options = item.value.partition(":")
                    items.append((path, options, item))
            case _:
                return refuse(problems, node, "a list of paths, each with its options")
        return self._build(items, problems)

    def _build(self, items: list[tuple[str, str, Scalar]], problems: Problems) -> Mapping[str, str]:
        mounts: dict[str, str] = {}
        before = len(problems)
        for path, options, item in items:
            if not path.startswith("/") or "\0" in path:
                problems.add(f'"{path}" is not an absolute path', item.span)
            path = forms.path(path) if path.startswith("/") else path
            if path in mounts:
                problems.add(f'"{path}" is listed twice', item.span, "remove one of them")
            try:
                mounts[path] = read_options(options)
            except ValueError as error:
                problems.add(f"the options of the tmpfs {path} are wrong: {error}", item.span)
        return freeze(dict(sorted(mounts.items()))) if len(problems) == before else INVALID

    def split(self, text: str) -> tuple[str, str | None]:
        path, colon, options = text.partition(":")
        return path, options if colon else None

    def schema(self) -> Schema:
        item: Schema = {"type": "string", "pattern": r"^/[^:]*(:[a-z_,=0-9a-zA-Z.]*)?$"}
        names, values = {"pattern": "^/"}, {"type": ["string", "null"]}
        by_path: Schema = {"type": "object", "propertyNames": names, "additionalProperties": values}
        return {"anyOf": [item, {"type": "array", "items": item, "uniqueItems": True}, by_path]}

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


class SecurityOpts(OptionType):
    """Options by name. no-new-privileges and the seccomp profile are on unless they are turned off by name: a list
    that only sets another option must not loosen them."""

    def parse(self, node: Node, problems: Problems) -> Mapping[str, str]:
        match node:
            case ListNode():
                texts = [(str(i.value), i) for i in node.items if isinstance(i, Scalar)]
                if len(texts) != len(node.items):
                    return refuse(problems, node, "a list of texts")
            case MapNode():
                found = [(str(k.value), v) for k, v in node.entries if isinstance(v, Scalar)]
                texts = [(join_security(name, v.text or str(v.value)), v) for name, v in found]
                if len(texts) != len(node.entries):
                    return refuse(problems, node, "a mapping of texts")
            case _:
                return refuse(problems, node, "a list")
        return self._build(texts, problems)

    def _build(self, texts: list[tuple[str, Scalar]], problems: Problems) -> Mapping[str, str]:
        options: dict[str, str] = {}
        before = len(problems)
        for text, item in texts:
            name, value = split_security(text)
            _check(name, value, item, problems)
            if name in options:
                problems.add(f'"{name}" is listed twice', item.span, "remove one of them")
            options[name] = value
            labels = [other for other in options if other.startswith(LABEL_PART)]
            if options.get("label") == "disable" and (name in labels or (labels and name == "label")):
                problems.add("label=disable turns labels off, and a label is set", item.span, "remove one of them")
        return freeze({**CLOSED_OPTIONS, **options}) if len(problems) == before else INVALID

    def split(self, text: str) -> tuple[str, str | None]:
        return split_security(text)

    def schema(self) -> Schema:
        item: Schema = {"type": "string", "pattern": rf"^({'|'.join(KNOWN)})([=:].+)?$"}
        values: Schema = {"type": ["string", "boolean"]}
        names: Schema = {"enum": list(_ORDER)}
        by_name: Schema = {"type": "object", "propertyNames": names, "additionalProperties": values}
        return {"anyOf": [{"type": "array", "items": item}, by_name]}

    def plain(self, value: Mapping[str, str]) -> list[str]:
        return [
            f"{name}:{item}" if name == "no-new-privileges" else join_security(name, item)
            for name, item in sorted(value.items(), key=lambda option: _ORDER.index(option[0]))
        ]


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


Pair = tuple[Scalar, Scalar]


class Hosts(OptionType):
    """The addresses of names: a list of NAME=address or NAME:address, or a mapping from names to one or several."""

    def parse(self, node: Node, problems: Problems) -> Mapping[str, tuple[str, ...]]:
        before = len(problems)
        if not isinstance(node, ListNode | MapNode):
            return refuse(problems, node, "a list of NAME=address, or a mapping")
        found: dict[str, list[str]] = {}
        for name, address in pairs_of(node, problems):
            self._add(found, name, address, problems)
        return freeze({name: tuple(those) for name, those in found.items()}) if len(problems) == before else INVALID

    def _add(self, found: dict[str, list[str]], name: Scalar, address: Scalar, problems: Problems) -> None:
        try:
            known = found.setdefault(host_name(str(name.value)), [])
        except ValueError as error:
            problems.add(f'"{name.value}" is not a host name: {error}', name.span, _HELP)
            return
        try:
            value = host_address(str(address.value))
        except ValueError:
            problems.add(f'"{address.value}" is not an IP address, for the host "{name.value}"', address.span, _HELP)
            return
        if value in known:
            problems.add(f'"{name.value}" has the address {value} twice', address.span, "remove one of them")
        known.append(value)

    def split(self, text: str) -> tuple[str, str | None]:
        return re.split("[=:]", text, maxsplit=1)[0], None

    def schema(self) -> Schema:
        text: Schema = {"type": "string", "minLength": 1}
        names: Schema = {"pattern": f"^{HOST}$"}
        several: Schema = {"anyOf": [text, {"type": "array", "items": text, "minItems": 1}]}
        by_name: Schema = {"type": "object", "propertyNames": names, "additionalProperties": several}
        item: Schema = {"type": "string", "pattern": f"^{HOST}[=:].+$"}
        return {"anyOf": [by_name, {"type": "array", "items": item, "uniqueItems": True}]}

    def plain(self, value: Mapping[str, tuple[str, ...]]) -> dict[str, str | list[str]]:
        return {name: those[0] if len(those) == 1 else list(those) for name, those in value.items()}


_HELP = "such as db.example.com=192.0.2.10 or db.example.com=2001:db8::10"


def pairs_of(node: Node, problems: Problems) -> list[Pair]:
    """Each name with one of its addresses, in the file's order; what is neither is noted."""
    found: list[Pair] = []
    for key, value in node.entries if isinstance(node, MapNode) else ():
        items = value.items if isinstance(value, ListNode) else (value,)
        if not items or any(not isinstance(item, Scalar) or not isinstance(item.value, str) for item in items):
            refuse(problems, value, "an address, or a list of them", _HELP)
            continue
        found += [(key, item) for item in items if isinstance(item, Scalar)]
    for item in node.items if isinstance(node, ListNode) else ():
        text = item.value if isinstance(item, Scalar) else None
        match = re.match(r"([^=:]*)[=:](.*)", text, re.DOTALL) if isinstance(text, str) else None
        if match is None:
            refuse(problems, item, "NAME=address", _HELP)
            continue
        name, address = (Scalar(value=part, text=part, span=item.span) for part in match.groups())
        found.append((name, address))
    return found


def by_name(node: Node) -> list[tuple[Scalar, Node]] | None:
    """The entries of a mapping with the same meaning, one a name; None where something is wrong."""
    pairs = pairs_of(node, problems := Problems())
    if problems:
        return None
    found: dict[str, tuple[Scalar, list[Scalar]]] = {}
    for name, address in pairs:
        found.setdefault(str(name.value), (name, []))[1].append(address)
    return [(name, ListNode(items=tuple(those), span=those[0].span)) for name, those in found.values()]


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
    if text and ":" not in text and "/" not in text:
        return f'say which port: "{text}:443"'
    if "://" in text:
        return "leave out the scheme and the path: api.example.com:443"
    if re.match(r"[0-9.]+(:|$)|\[", text):
        return "destinations are names: an address does not identify who answers"
    host, _, port = text.partition(":")
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
