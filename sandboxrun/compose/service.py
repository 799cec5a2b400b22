"""One Compose service as what the review judges, whatever spelling it uses.

Owns the meaning of Compose's keys, those too that no option of a profile expresses. Pure.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Mapping

from sandboxrun.audit.subject import (
    COMPOSE,
    DEPLOYED,
    NONE,
    Building,
    GivenFile,
    Hook,
    JoinedNetwork,
    Mounted,
    Note,
    Port,
    Scratch,
    Subject,
    log_options,
    network_of,
    scratch_of,
    with_sharing,
)
from sandboxrun.compose.files import (
    CALLERS,
    REMOTE,
    MissingFile,
    Services,
    as_map,
    by_name,
    dotenv,
    interpolate,
    split_mount,
    variables_in,
)
from sandboxrun.data import Data, json_as
from sandboxrun.errors import ListNode, MapNode, Node, Scalar, Span, plain_of
from sandboxrun.spec.forms import is_of_the_host, split_security, volume_shows
from sandboxrun.spec.records import Device
from sandboxrun.spec.types import freeze, parse_size

# Every key of a service in the Compose Specification.
KNOWN = frozenset(
    """annotations attach blkio_config build cap_add cap_drop cgroup cgroup_parent command configs container_name
    cpu_count cpu_percent cpu_period cpu_quota cpu_rt_period cpu_rt_runtime cpu_shares cpus cpuset credential_spec
    depends_on deploy develop device_cgroup_rules devices dns dns_opt dns_search domainname driver_opts entrypoint
    env_file environment expose extends external_links extra_hosts gpus group_add healthcheck hostname image init ipc
    isolation label_file labels links logging mac_address mem_limit mem_reservation mem_swappiness memswap_limit models
    network_mode networks oom_kill_disable oom_score_adj pid pids_limit platform ports post_start pre_stop privileged
    profiles provider pull_policy pull_refresh_after read_only restart runtime scale secrets security_opt shm_size
    stdin_open stop_grace_period stop_signal storage_opt sysctls tmpfs tty ulimits use_api_socket user userns_mode uts
    volumes volumes_from working_dir""".split()
)
_NOT_ENFORCED = {
    "cpu_count": "it is for Windows containers",
    "cpu_percent": "it is for Windows containers",
    "mem_swappiness": "engines with cgroup v2 ignore it",
}
# Options whose value decides what the container may do: what fills them in should stand in the file.
_DECISIVE = (
    "privileged network_mode pid ipc uts cgroup userns_mode cap_add cap_drop security_opt read_only "
    "use_api_socket".split()
)
# What the task is, not what it may do.
_TASK = frozenset(
    "command entrypoint environment labels annotations healthcheck hostname container_name depends_on".split()
)


class ComposeSubjects(Data):
    """The services; what could not be taken into account; and by service the options that a variable decides, as
    `key=variable`: `free` those that restrict, `variables` all but what is the task's own."""

    subjects: tuple[Subject, ...]
    missing: tuple[MissingFile, ...]
    free: Mapping[str, tuple[str, ...]]
    variables: Mapping[str, tuple[str, ...]]


def subjects(loaded: Services) -> ComposeSubjects:
    """What the services of a project are."""
    made, missing, free, variables = [], list(loaded.missing), {}, {}
    for name, (key, node) in loaded.services.items():
        reader = _Service(name, key, node, loaded, missing)
        made.append(reader.subject())
        found = tuple(
            dict.fromkeys(
                (str(option.value), variable)
                for option, value in node.entries
                if option.value not in _TASK
                for variable in variables_in(_raw(value))
            )
        )
        variables[name] = tuple(f"{option}={variable}" for option, variable in found)
        decided = (*((option, variable) for option, variable in found if option in _DECISIVE), *reader.undecided)
        free[name] = tuple(dict.fromkeys(f"{option}={variable}" for option, variable in decided))
    return ComposeSubjects(subjects=with_sharing(made), missing=tuple(missing), free=free, variables=variables)


def _raw(node: Node | None) -> Node | None:
    """The node with its texts as the file has them."""
    match node:
        case Scalar(value=str(), text=text):
            return Scalar(value=text, text=text)
        case ListNode():
            return ListNode(items=tuple(found for item in node.items if (found := _raw(item)) is not None))
        case MapNode():
            raw = ((key, _raw(value)) for key, value in node.entries)
            return MapNode(entries=tuple((key, value) for key, value in raw if value is not None))
    return None


def _text(node: Node | None) -> str:
    if not isinstance(node, Scalar) or node.value is None:
        return ""
    if isinstance(node.value, bool):
        return "true" if node.value else "false"
    return str(node.value)


def _flag(node: Node | None) -> bool:
    return _text(node).lower() in ("true", "yes", "y", "on", "1")


def _called(declared: MapNode) -> dict[str, str]:
    """Which volume or network of the engine's one of the top level is, as far as the file says it."""
    external = declared.get("external")
    said = {
        "name": _text(as_map(external).get("name")) or _text(declared.get("name")),
        "external": "true" if _flag(external) or isinstance(external, MapNode) else "",
        "driver": "" if (driver := _text(declared.get("driver"))) in ("local", "default") else driver,
    }
    return {key: text for key, text in said.items() if text}


def _items(node: Node | None) -> tuple[Node, ...]:
    match node:
        case ListNode():
            return node.items
        case Scalar() if node.value is not None:
            return (node,)
    return ()


def _texts(node: MapNode) -> dict[str, str]:
    return {str(key.value): _text(value) for key, value in node.entries}


def _whole(node: Node | None) -> int | None:
    text = _text(node)
    return int(text) if re.fullmatch(r"-?\d{1,18}", text) else None


def _real(node: Node | None) -> float | None:
    try:
        return float(_text(node)) if _text(node) else None
    except ValueError:
        return None


def _size(node: Node | None) -> int | None:
    text = _text(node)
    if re.fullmatch(r"-?\d{1,18}", text):
        return int(text)
    try:
        return parse_size(text.lower()) if text else None
    except ValueError:
        return None


def _positive(node: Node | None) -> int | None:
    size = _size(node)
    return size if size is not None and size > 0 else None


def _words(node: Node | None) -> tuple[str, ...]:
    if isinstance(node, ListNode):
        return tuple(map(_text, node.items))
    return tuple(_text(node).split())


class _Service:
    """Reads one service. `places` collects where options and their items are written, `undecided` the options whose
    paths begin with a variable that has no value, each with the variable."""

    def __init__(self, name: str, key: Scalar, node: MapNode, loaded: Services, missing: list[MissingFile]) -> None:
        self.name, self.key, self.node, self.loaded, self.missing = name, key, node, loaded, missing
        self.places: dict[tuple[str, str | None], Span] = {}
        self.undecided: list[tuple[str, str]] = []
        for option, value in node.entries:
            span = value.span if isinstance(value, Scalar) and value.span is not None else option.span
            if span is not None:
                self.places[str(option.value), None] = span

    def at(self, key: str, item: str, node: Node | None) -> str:
        """Note where an item is, and give it back."""
        if node is not None and node.span is not None:
            self.places.setdefault((key, item), node.span)
        return item

    def find(self, key: str, item: str | None = None) -> Span | None:
        return self.places.get((key, item)) or self.places.get((key, None)) or self.key.span

    def get(self, key: str) -> Node | None:
        return self.node.get(key)

    def within(self, *keys: str) -> MapNode:
        """The mapping below several keys."""
        node = self.node
        for key in keys:
            node = as_map(node.get(key))
        return node

    def listed(self, key: str) -> tuple[str, ...]:
        return tuple(self.at(key, _text(item), item) for item in _items(self.get(key)))

    def pairs(self, key: str) -> Iterator[tuple[str, str | None]]:
        """A mapping, or a list of NAME=value; None where only a name is given."""
        for name, value in as_map(by_name(self.get(key))).entries:
            self.at(key, str(name.value), value if value.span is not None else name)
            bare = isinstance(value, Scalar) and value.value is None
            yield str(name.value), None if bare else _text(value)

    def subject(self) -> Subject:
        limits = self.within("deploy", "resources", "limits")
        for option, name in DEPLOYED.items():
            limit = limits.get(name)
            if limit is not None and limit.span is not None:
                self.places.setdefault((option, None), limit.span)
        mounts, scratch = self.mounts()
        mode = _text(self.get("network_mode"))
        environment = self.environment()
        labels = {name: value or "" for name, value in self.pairs("labels")}
        quota, period = _real(self.get("cpu_quota")), _real(self.get("cpu_period")) or 100_000
        cpus = _real(self.get("cpus")) or _real(limits.get("cpus")) or (quota / period if quota and quota > 0 else None)
        pids = _whole(self.get("pids_limit")) or _whole(limits.get("pids"))
        own_driver = _text(self.within("logging").get("driver"))
        health = self.within("healthcheck")
        unchecked = _flag(health.get("disable")) or _words(health.get("test"))[:1] == ("NONE",)
        return Subject(
            name=self.name,
            kind=COMPOSE,
            image=_text(self.get("image")) or None,
            user=_text(self.get("user")) or None,
            groups=self.listed("group_add"),
            privileged=_flag(self.get("privileged")),
            cap_add=self.listed("cap_add"),
            cap_drop=self.listed("cap_drop"),
            security=freeze(dict(self.security())),
            namespaces=freeze(dict(self.namespaces(mode))),
            devices=tuple(self.devices()),
            device_rules=self.listed("device_cgroup_rules"),
            gpus=bool(
                _items(self.get("gpus")) or _items(self.within("deploy", "resources", "reservations").get("devices"))
            ),
            sysctls=freeze({name: value or "" for name, value in self.pairs("sysctls")}),
            cgroup_parent=_text(self.get("cgroup_parent")),
            oom_kill_disable=_flag(self.get("oom_kill_disable")),
            oom_score_adj=_whole(self.get("oom_score_adj")) or 0,
            read_only=_flag(self.get("read_only")),
            mounts=mounts,
            volumes_from=self.listed("volumes_from"),
            scratch=scratch,
            api_socket=_flag(self.get("use_api_socket")),
            networks=tuple(self.networks(mode)),
            no_network=mode == "none",
            ports=tuple(self.ports()),
            dns=self.listed("dns"),
            hosts=freeze(dict(self.hosts())),
            memory=_positive(self.get("mem_limit")) or _positive(limits.get("memory")),
            swap=_size(self.get("memswap_limit")),
            cpus=cpus,
            pids=pids if pids is not None and pids > 0 else None,
            ulimits=freeze(dict(self.ulimits())),
            log_driver=own_driver,
            log_options=log_options(own_driver, _texts(self.within("logging", "options"))),
            restart=self.restart(),
            healthcheck=bool(health.entries) and not unchecked,
            unchecked=unchecked,
            health_test=_words(health.get("test")),
            environment=freeze(environment),
            passed=freeze(dict(self.passed(environment))),
            env_files=tuple(self.files("env_file")),
            label_files=tuple(self.files("label_file")),
            command=_words(self.get("command")),
            entrypoint=_words(self.get("entrypoint")),
            labels=freeze({**self.filed("label_file", "labels"), **labels}),
            notes=tuple(self.notes()),
            secrets=tuple(self.given("secrets", self.get("secrets"))),
            configs=tuple(self.given("configs", self.get("configs"))),
            working_dir=_text(self.get("working_dir")),
            runtime=_text(self.get("runtime")),
            build=self.build(),
            hooks=tuple(self.hooks()),
            provider=_text(self.within("provider").get("type")),
            watched=tuple(self.watched()),
            unknown=tuple(self.unknown()),
            ignored=tuple(self.ignored()),
            remote=tuple(self.remote()),
            options=lambda: plain_of(self.node),
            find=self.find,
        )

    # -- privilege

    def security(self) -> Iterator[tuple[str, str]]:
        for item in _items(self.get("security_opt")):
            name, value = split_security(_text(item))
            self.at("security_opt", name, item)
            if name == "seccomp" and value not in ("unconfined", "default", "builtin") and not value.startswith("{"):
                value = self.seccomp(value)
            yield name, value

    def seccomp(self, path: str) -> str:
        file = self.loaded.read(posixpath.normpath(posixpath.join(self.loaded.directory, path)))
        if file is None:
            self.missing.append(MissingFile(what=path, why="the seccomp profile cannot be read", file=self.file))
            return path
        if not isinstance(json_as(dict, file.text).get("defaultAction"), str):
            self.missing.append(MissingFile(what=path, why="it is not a seccomp profile", file=self.file))
        return file.text

    @property
    def file(self) -> str:
        return self.key.span.file.name if self.key.span is not None else ""

    def namespaces(self, mode: str) -> Iterator[tuple[str, str]]:
        for key in ("pid", "ipc", "uts", "cgroup", "userns_mode"):
            value = _text(self.get(key))
            if value == "host" or value.startswith(("container:", "service:")):
                yield key.removesuffix("_mode"), value
        if mode and mode != "none":
            yield "network", mode
        elif not mode and self.on_host_network():
            yield "network", "host"

    def devices(self) -> Iterator[Device]:
        for item in _items(self.get("devices")):
            if isinstance(item, MapNode):
                source, target = _text(item.get("source")), _text(item.get("target"))
                permissions = _text(item.get("permissions")) or "rwm"
            else:
                source, target, permissions, *_ = [*split_mount(_text(item)), "", ""]
            self.at("devices", target or source, item)
            yield Device(source=source, target=target or source, permissions=permissions or "rwm")

    # -- files

    def mounts(self) -> tuple[tuple[Mounted, ...], tuple[Scratch, ...]]:
        mounts: list[Mounted] = []
        scratch: list[Scratch] = []
        for item in _items(self.get("volumes")):
            made = self.long_mount(item) if isinstance(item, MapNode) else self.short_mount(_text(item), item)
            self.at("volumes", made.target, item)
            if isinstance(made, Mounted):
                mounts.append(made)
            else:
                scratch.append(made)
        build = as_map(self.get("build")).get("secrets")
        given = (("secrets", self.get("secrets")), ("configs", self.get("configs")), ("secrets", build))
        for key, node in given:  # which Compose mounts from the host, also while it builds
            for file in self.given(key, node):
                if file.origin == "file" and not self.is_inside(led := self.led(file.source)):
                    mounts.append(
                        Mounted(kind="bind", source=led, target=file.name, written=file.source, read_only=True,
                                inside=False, key=key)
                    )  # fmt: skip
        for item in _items(self.get("tmpfs")):
            target, _, options = _text(item).partition(":")
            self.at("tmpfs", target, item)
            scratch.append(scratch_of(target, options.split(",")))
        return tuple(mounts), tuple(scratch)

    def short_mount(self, text: str, item: Node) -> Mounted:
        parts = split_mount(text)
        written = split_mount(item.text)[0] if isinstance(item, Scalar) and item.text else parts[0]
        if len(parts) == 1:
            return Mounted(kind="volume", source="", target=parts[0], written=parts[0])
        source, target, modes = parts[0], parts[1], parts[2].split(",") if len(parts) > 2 else []
        propagation = next((mode for mode in modes if re.fullmatch("r?(shared|slave|private)", mode)), "")
        return self.mounted(source, target, written, "ro" in modes, propagation)

    def mounted(self, source: str, target: str, written: str, read_only: bool, propagation: str) -> Mounted:
        """A bind where the source is a path, else a volume, which may be a bind by its driver's options."""
        kind, inside, said = "volume", True, NONE
        if source.startswith((".", "/", "~", "$", "\\")) or re.match(r"[A-Za-z]:[\\/]", source):
            source = self.led(source)
            kind, inside = "npipe" if source.startswith("\\\\") else "bind", self.is_inside(source)
            if source.startswith("$"):
                self.undecided += [
                    ("volumes", name) for name in variables_in(Scalar(value=source)) if name not in CALLERS
                ]
        else:
            declared = as_map(as_map(self.loaded.top.get("volumes")).get(source))
            options = as_map(declared.get("driver_opts"))
            written_out = {str(key.value): _text(value) for key, value in options.entries}
            device = volume_shows(written_out, _text(declared.get("driver")))
            said = freeze(_called(declared) | {f"driver_opts.{key}": value for key, value in written_out.items()})
            if is_of_the_host(device):
                self.at("volumes", target, options.get("device") or declared.get("driver"))
                kind, source, written = "bind", self.led(device), device
                inside = device.startswith((".", "$")) and self.is_inside(source)
        return Mounted(
            kind=kind,
            source=source,
            target=target,
            written=written or source,
            read_only=read_only,
            propagation=propagation,
            inside=inside,
            declared=said,
        )

    def is_inside(self, source: str) -> bool:
        if source.startswith("${PWD}") or source.startswith("$PWD"):
            return ".." not in source
        if source.startswith(("/", "~", "\\")) or re.match(r"[A-Za-z]:", source):
            return False
        if source.startswith("$"):
            return True  # the caller's to say, which is a finding of its own
        return not posixpath.normpath(source).startswith("..")

    def led(self, source: str) -> str:
        """A path as it is written, or where links in the repository lead from there if that is elsewhere."""
        if not self.is_inside(source) or source.startswith("$"):
            return source
        return self.loaded.leads(posixpath.join(self.loaded.directory, source)) or source

    def long_mount(self, node: MapNode) -> Mounted | Scratch:
        kind, source = _text(node.get("type")) or "volume", node.get("source")
        target, read_only = _text(node.get("target")), _flag(node.get("read_only"))
        if kind == "tmpfs":
            options = as_map(node.get("tmpfs"))
            return Scratch(target=target, size=_size(options.get("size")) or None, exec=False, key="volumes")
        propagation = _text(as_map(node.get("bind")).get("propagation"))
        text = _text(source)
        written = source.text if isinstance(source, Scalar) and source.text else text
        if kind == "bind" and not text.startswith((".", "/", "~", "$", "\\")):
            text = f"./{text}"
        return self.mounted(text, target, written, read_only, propagation)

    # -- network

    def joined(self) -> list[tuple[str, Node, MapNode]]:
        """The networks that it is on: the name, where it is written, and what is declared of it."""
        named, top = self.get("networks"), as_map(self.loaded.top.get("networks"))
        nodes = [key for key, _ in named.entries] if isinstance(named, MapNode) else list(_items(named))
        nodes = nodes or [Scalar(value="default", span=self.key.span)]
        return [(_text(node), node, as_map(top.get(_text(node)))) for node in nodes]

    def on_host_network(self) -> bool:
        """Whether a network that it joins is the host's own, by its name or driver."""
        for name, _, declared in self.joined():
            external = declared.get("external")
            own = _text(as_map(external).get("name")) or _text(declared.get("name")) or name
            if _text(declared.get("driver")) == "host" or (own == "host" and external is not None):
                return True
        return False

    def networks(self, mode: str) -> Iterator[JoinedNetwork]:
        if mode in ("bridge", "default"):
            yield JoinedNetwork(name="bridge", external=False)
        if mode not in ("", "bridge", "none", "default", "host") and ":" not in mode:
            yield JoinedNetwork(name=self.at("network_mode", mode, self.get("network_mode")), external=True)
        if mode:
            return
        for name, node, declared in self.joined():
            if self.get("networks") is not None:
                self.at("networks", name, node)
            called = _called(declared)
            yield network_of(
                name,
                _texts(as_map(declared.get("driver_opts"))),
                internal=_flag(declared.get("internal")),
                external="external" in called,
                ipv6=_flag(declared.get("enable_ipv6")),
                driver=_text(declared.get("driver")),
                called=called.get("name", ""),
            )

    def ports(self) -> Iterator[Port]:
        for item in _items(self.get("ports")):
            if isinstance(item, MapNode):
                target, address = _text(item.get("target")), _text(item.get("host_ip"))
                published = _text(item.get("published"))
                written = self.at("ports", target, item)
                yield Port(target=target, published=published, address=address, written=written)
                continue
            text = _text(item)
            bare = text.partition("/")[0]
            found = re.fullmatch(r"(?:(?P<ip>\[[^\]]*\]|[^:]*(?:\.[^:]*){3}|localhost):)?(?P<rest>.*)", bare)
            address = (found["ip"] or "") if found else ""
            rest = found["rest"] if found else bare
            *outer, target = split_mount(rest)
            published = outer[-1] if outer else ""
            written = self.at("ports", text, item)
            yield Port(target=target, published=published, address=address.strip("[]"), written=written)

    def hosts(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        node = self.get("extra_hosts")
        if isinstance(node, MapNode):
            for key, value in node.entries:
                self.at("extra_hosts", str(key.value), key)
                yield str(key.value), tuple(_text(item).strip("[]") for item in _items(value))
            return
        found: dict[str, tuple[str, ...]] = {}
        for item in _items(node):
            name, _, address = re.sub("=", ":", _text(item), count=1).partition(":")
            self.at("extra_hosts", name, item)
            found[name] = (*found.get(name, ()), address.strip("[]"))
        yield from found.items()

    # -- limits

    def ulimits(self) -> Iterator[tuple[str, int]]:
        for key, value in as_map(self.get("ulimits")).entries:
            hard = _whole(value.get("hard")) if isinstance(value, MapNode) else _whole(value)
            self.at("ulimits", str(key.value), key)
            if hard is not None:
                yield str(key.value), hard

    def restart(self) -> str:
        given = _text(self.get("restart"))
        policy = self.within("deploy", "restart_policy")
        if given or not policy.entries:
            return "no" if given in ("", "false") else given
        condition, most = _text(policy.get("condition")) or "any", _text(policy.get("max_attempts"))
        words = {"none": "no", "any": "always", "on-failure": f"on-failure:{most}" if most else "on-failure"}
        self.places.setdefault(("restart", None), self.find("deploy") or self.key.span)  # type: ignore[arg-type]
        return words.get(condition, "no")

    # -- secrets

    def environment(self) -> dict[str, str | None]:
        found: dict[str, str | None] = {**self.filed("env_file", "environment")}
        for key, node in as_map(by_name(self.get("environment"))).entries:
            place = node.span or key.span
            if place is not None:
                self.places["environment", str(key.value)] = place  # instead of the file's, which it replaces
            bare = isinstance(node, Scalar) and node.value is None
            found[str(key.value)] = None if bare else _text(node)
        return found

    def passed(self, environment: Mapping[str, str | None]) -> Iterator[tuple[str, tuple[str, ...]]]:
        """Variables that the caller's own may fill in: those without a value in an environment file of the project."""
        for key, node in as_map(by_name(self.get("environment"))).entries:
            name, raw = str(key.value), _raw(node)
            found = variables_in(raw)
            if found and isinstance(raw, Scalar) and interpolate(raw.text, {}) == environment.get(name):
                yield name, found

    def files(self, key: str) -> Iterator[str]:
        for item in _items(self.get(key)):
            path = item.get("path") if isinstance(item, MapNode) else item
            yield self.at(key, _text(path), item)

    def filed(self, key: str, option: str) -> dict[str, str]:
        """What the files of a key add to an option, of which they are lines NAME=VALUE."""
        found = {}
        for path in self.files(key):
            file = self.loaded.read(posixpath.normpath(posixpath.join(self.loaded.directory, path)))
            for name, value in dotenv(file, {}).pairs:
                found[self.at(option, str(name.value), value)] = str(value.value)
        return found

    def given(self, key: str, node: Node | None) -> Iterator[GivenFile]:
        top = as_map(self.loaded.top.get(key))
        for item in _items(node):
            source = _text(item.get("source") if isinstance(item, MapNode) else item)
            mode = _mode(item.get("mode") if isinstance(item, MapNode) else None)
            declared = as_map(top.get(source))
            origin = next(
                (o for o in ("file", "environment", "content", "external") if declared.get(o) is not None), ""
            )
            yield GivenFile(
                name=self.at(key, source, item),
                origin=origin,
                source=_text(declared.get(origin)),
                mode=mode,
                content=_text(declared.get("content")),
            )

    # -- building, and what runs beside

    def build(self) -> Building | None:
        node = self.get("build")
        if node is None:
            return None
        if isinstance(node, Scalar):
            return Building(context=self.context(node))
        body = as_map(node)
        for key, value in body.entries:
            self.at("build", str(key.value), key if key.span is not None else value)
        args = {}
        for name, value in as_map(by_name(body.get("args"))).entries:
            args[self.at("build", str(name.value), name if name.span is not None else value)] = _text(value)
        others = as_map(by_name(body.get("additional_contexts")))
        return Building(
            context=self.context(body.get("context")) or ".",
            contexts=tuple(self.context(value) for _, value in others.entries),
            args=freeze(args),
            network=_text(body.get("network")),
            ssh=body.get("ssh") is not None,
            entitlements=tuple(map(_text, _items(body.get("entitlements")))),
            privileged=_flag(body.get("privileged")),
        )

    def context(self, node: Node | None) -> str:
        """A build's context as it is written; one that lies outside of the repository, where that is."""
        text = _text(node)
        if not text or text.startswith(("/", "~", "$")) or REMOTE.search(text):
            return text
        return self.loaded.leads(posixpath.join(self.loaded.directory, text)) or text

    def hooks(self) -> Iterator[Hook]:
        for key in ("post_start", "pre_stop"):
            for item in _items(self.get(key)):
                if isinstance(item, MapNode):
                    yield _hook(key, item)
        for item in _items(self.within("develop").get("watch")):
            command = item.get("exec") if isinstance(item, MapNode) else None
            if isinstance(command, MapNode):
                yield _hook("develop", command)

    def notes(self) -> Iterator[Note]:
        labelled = (
            ("annotations", "the annotation", self.get("annotations")),
            ("deploy", "the service's label", self.within("deploy").get("labels")),
            ("build", "the image's label", self.within("build").get("labels")),
        )
        for key, what, node in labelled:
            for name, value in as_map(by_name(node)).entries:
                label = self.at(key, str(name.value), value)
                yield Note(what=f"{what} {label}", name=label, text=_text(value), key=key, item=label)
        for item in _items(self.get("volumes")):
            used = _text(item.get("source")) if isinstance(item, MapNode) else split_mount(_text(item))[0]
            declared = as_map(as_map(self.loaded.top.get("volumes")).get(used))
            for name, value in as_map(declared.get("driver_opts")).entries:
                what = f"the option {name.value} of the volume {used}"
                place = self.at("volumes", what, value)
                yield Note(what=what, name=str(name.value), text=_text(value), key="volumes", item=place)

    def watched(self) -> Iterator[tuple[str, str]]:
        for item in _items(self.within("develop").get("watch")):
            if isinstance(item, MapNode):
                path = _text(item.get("path"))
                yield self.at("develop", path, item.get("path")), _text(item.get("target"))

    def unknown(self) -> Iterator[str]:
        for key, _ in self.node.entries:
            word = str(key.value)
            if word not in KNOWN and not word.startswith("x-"):
                if key.span is not None:
                    self.places[word, None] = key.span
                yield word

    def ignored(self) -> Iterator[tuple[str, str]]:
        for key, why in _NOT_ENFORCED.items():
            if self.get(key) is not None:
                yield key, why
        reservations = self.within("deploy", "resources", "reservations")
        if reservations.get("cpus") is not None:
            self.at("deploy", "deploy.resources.reservations.cpus", reservations.get("cpus"))
            yield "deploy.resources.reservations.cpus", "an engine reserves no CPUs; set cpus"

    def remote(self) -> Iterator[tuple[str, str]]:
        for key, address, node in self.loaded.remote:
            if node.span is not None:
                self.places.setdefault((key, None), node.span)
            yield key, address


def _hook(key: str, node: MapNode) -> Hook:
    environment = freeze(_texts(as_map(by_name(node.get("environment")))))
    user, command = _text(node.get("user")), _words(node.get("command"))
    return Hook(key=key, user=user, privileged=_flag(node.get("privileged")), command=command, environment=environment)


def _mode(node: Node | None) -> int:
    """Permissions: octal as a text or with a zero before it, else a decimal number, as Compose reads it."""
    match node:
        case Scalar(value=int() as number) if not node.text.startswith("0"):
            return number
        case Scalar(text=text) if re.fullmatch("(0o)?[0-7]{3,5}", text):
            return int(text.removeprefix("0o"), 8)
    return 0o400
