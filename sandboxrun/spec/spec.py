"""The spec of one sandbox: every option, as rows.

Owns the list of options, the keys of Compose that are not offered with what to do instead, and what options
imply of each other. The rows themselves are in options.py. Pure.
"""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
import json
import re
from collections.abc import Collection, Iterator, Mapping
from functools import cached_property
from typing import Any, cast

from msgspec import structs

from sandboxrun.data import Data
from sandboxrun.errors import ListNode, MapNode, Problems, Span, did_you_mean
from sandboxrun.spec import types as units
from sandboxrun.spec.forms import IMAGE
from sandboxrun.spec.option import Record, Row, rows, to_plain, values_of
from sandboxrun.spec.option_types import CLOSED, PUBLIC, Egress, host_name, read_options
from sandboxrun.spec.options import CONFIGS_AT, INIT_AT, MIB, SECRETS_AT, PlaceOptions
from sandboxrun.spec.records import Logging, Mount, TmpfsMount
from sandboxrun.spec.types import ANY, INVALID, freeze, item_spans, name_of, span_of

# What Compose and other tools call what is an option here, and that option.
_OURS = """profiles=when cpu_period=cpus cpu_quota=cpus cpu_count=cpus cpu_percent=cpus cpu_rt_runtime=cpus
    cpu_rt_period=cpus mem_swappiness=memswap_limit label_file=labels domainname=hostname args=command
    capabilities=cap_add cpuset_cpus=cpuset cwd=working_dir dns_servers=dns env=environment etc_hosts=extra_hosts
    groups=group_add ipc_mode=ipc kernel_memory=mem_limit mem=mem_limit memory=mem_limit
    memory_reservation=mem_reservation memory_swap=memswap_limit mount=volumes mounts=volumes net=network_mode
    pids=pids_limit pull=pull_policy restart_policy=restart security_opts=security_opt
    stop_timeout=stop_grace_period device_requests=gpus dns_opts=dns_opt dns_search_domains=dns_search
    force_kill=stop_grace_period interactive=stdin_open kill_signal=stop_signal storage_opts=storage_opt uid=user
    gid=user working_directory=working_dir workdir=working_dir""".split()
# What is not offered at all, and what to do instead, or why.
_WHY = {
    "build": "build and push the image in an earlier step, then name it by digest in image:",
    "ports published_ports default_host_ip publish_all_ports": "a sandbox publishes no ports; read results as "
    "evidence, or use sandboxrun exec",
    "expose exposed_ports": "sandboxes do not reach each other; leave it out",
    "privileged": "a privileged container is not a sandbox; list single capabilities in cap_add:",
    "container_name": "containers are named after project and sandbox; set name: at the top level",
    "deploy": "set mem_limit, cpus and pids_limit on the sandbox; for several of one kind use for_each",
    "scale count replicas matrix strategy": "use for_each",
    "links external_links": "use networks",
    "volumes_from": "name each volume under volumes:",
    "pid pid_mode": "the PID namespace is always the sandbox's own",
    "uts uts_mode": "the UTS namespace is always the sandbox's own",
    "cgroup cgroupns_mode": "the cgroup namespace is always the sandbox's own",
    "cgroup_parent": "limits are set on the sandbox itself",
    "oom_kill_disable oom_killer": "a sandbox beyond its memory limit is ended and reported as OOM",
    "device_cgroup_rules": "name each device under devices:",
    "credential_spec isolation": "it is for Windows containers",
    "develop": "it is for development with Compose",
    "provider": "it is for Compose's plug-ins",
    "mac_address": "the engine chooses it",
    "blkio_config": "engines before API 1.55 accept and ignore it",
    "attach output_logs": "use sandboxrun logs",
    "post_start pre_stop": "make it part of the command",
    "allow": "use egress: {allow: […]}",
    "auto_remove rm": "sandboxrun removes the container once its evidence is saved",
    "blkio_weight device_read_bps device_read_iops device_write_bps device_write_iops": "engines do not enforce it "
    "everywhere",
    "cpuset_mems": "memory nodes are the engine's choice; cpuset: pins CPUs",
    "detach": "use sandboxrun apply",
    "log_driver": "use logging: {driver: …}",
    "log_opt log_options": "use logging: {options: …}",
    "network": "use egress:, network_mode: or networks:",
    "paused": "a sandbox runs from its start to its end",
    "resources": "set mem_limit, cpus and pids_limit on the sandbox",
    "timeout": "use lifetime: {timeout: …}",
    "ttl": "use lifetime: {ttl: …}",
    "volume_driver": "volumes are local",
    "cleanup": "use lifetime: {on_complete: …}: it says whether a sandbox that has ended stays",
    "command_handling": "command is Compose's: a list of words, or a text that is split as a shell would",
    "comparisons image_comparison image_label_mismatch image_name_mismatch": "plan compares every option with what "
    "runs",
    "container_default_behavior": "`sandboxrun render --defaults` prints what the profile doesn't say",
    "docker_host": "set DOCKER_HOST, or run `sandboxrun plan --host URL`",
    "healthy_wait_timeout": "a sandbox that depends on a healthy one waits for it; see depends_on:",
    "keep_volumes": "destroy removes the project's volumes; a volume that is external: true stays",
    "models": "give the model's address in environment:, and its host under egress:",
    "name": "a sandbox has the name of its key; the project has name: at the top level",
    "networks_cli_compatible purge_networks": "a sandbox joins the networks that it lists, and no other",
    "recreate": "use `sandboxrun apply --replace SANDBOX`",
    "removal_wait_timeout": "destroy waits until the sandbox is gone",
    "restart_retries": "use restart: on-failure:N",
    "state": "use sandboxrun apply and destroy; for one that is not wanted now, when: false",
    "use_api_socket": "the engine's socket gives control of the host",
}
NOT_OFFERED: Mapping[str, str] = freeze(
    {word: f"use {ours}:" for word, _, ours in (pair.partition("=") for pair in _OURS)}
    | {word: why for words, why in _WHY.items() for word in words.split()}
)


class SandboxSpec(PlaceOptions, dict=True):  # the dict is for what is worked out once
    """Everything that one sandbox is; `SandboxSpec()` is the default sandbox with all that is silent closed.

    Build it with keyword arguments in the model's own units (bytes, nanoseconds), or from a profile's
    values with `parse_spec`.
    """

    @cached_property
    def plain(self) -> Mapping[str, Any]:
        """The spec as canonical JSON data, defaults included. Made once: not to be changed."""
        return to_plain(self)

    @cached_property
    def shown(self) -> Mapping[str, Any]:
        """The spec as plans show it: every option that has a value, those that no profile can set too. As `plain`."""
        values = zip(ROWS, values_of(self), strict=True)
        return {row.key: row.plain(value) for row, value in values if value is not None}

    @cached_property
    def label(self) -> str:
        """The text of its label: canonical JSON in ASCII, defaults included, so that it outlives their change."""
        return json.dumps(self.plain, sort_keys=True, separators=(",", ":"))

    @cached_property
    def digest(self) -> str:
        """`sha256:…` of the canonical JSON: equal for equal specs, whatever they were written like."""
        # which is the label's text, unless something in that is escaped
        return digest_of(self.plain) if "\\u" in self.label else _digest(self.label)

    @property
    def digests(self) -> frozenset[str]:
        """The digest, and the one that versions recorded that kept an image's `:latest` apart from none."""
        untagged = {**self.plain, "image": self.image.removesuffix(":latest")}
        return frozenset((self.digest, digest_of(untagged)))


def digest_of(plain: Any) -> str:
    """`sha256:…` of JSON data in its canonical form: keys sorted, no white space."""
    return _digest(json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False))


def _digest(text: str) -> str:
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def _egress(spec: SandboxSpec) -> Egress | None:
    """What it reaches, said or implied; None where that is its networks' to say."""
    if spec.egress is not None:
        return spec.egress
    if spec.network_mode == "none":
        return CLOSED
    return None if spec.networks else PUBLIC


# -- What is wrong with a spec, whatever machine it is for: known without asking an engine


class Fault(Data, kw_only=False):
    """What is wrong at a path of keys and items in the sandbox, and what to do."""

    path: tuple[str, ...]
    message: str
    help: str | None = None


def _check(spec: SandboxSpec, node: MapNode, problems: Problems) -> None:
    """What must hold between options, and what an engine, a runtime or the kernel refuses or ignores, whatever machine
    it is: known without asking one."""
    for of in (_network, _memory, _targets, _process, _resources, _sysctls, _logging, _names, _lifetime):
        with contextlib.suppress(_Unread):
            for fault in of(spec):
                problems.add(fault.message, _place(node, *fault.path), fault.help)


def _network(spec: SandboxSpec) -> Iterator[Fault]:
    """One of the three ways to say what it reaches; two would contradict each other."""
    closed, wired = spec.network_mode == "none", _egress(spec)
    if closed and spec.networks:
        yield Fault(("networks",), "network_mode: none has no networks", "remove one of the two")
    if spec.networks and spec.egress is not None:
        help = "remove networks: egress uses a network of its own, so nothing can bypass the gateway"
        yield Fault(("egress",), "egress and networks cannot be combined", help)
    if closed and spec.egress is not None and spec.egress.has_gateway:
        help = "write network_mode: bridge, or egress: none"
        yield Fault(("egress",), "network_mode: none reaches nothing", help)
    if wired is None or not wired.has_gateway:
        return
    if spec.dns:
        help = "the gateway resolves names: set egress.resolvers"
        yield Fault(("dns",), "dns cannot be combined with egress", help)


def _memory(spec: SandboxSpec) -> Iterator[Fault]:
    memory, both, at = spec.mem_limit, spec.memswap_limit, ("memswap_limit",)
    if both is not None and both > 0 and memory == 0:
        yield Fault(at, "memswap_limit needs a mem_limit")
    if both is not None and 0 < both < memory:
        message = "memswap_limit counts memory and swap together, so it can't be below mem_limit"
        yield Fault(at, message, "leave it out for no swap")
    if both == 0 < memory:
        help = "leave it out for no swap; -1 is unlimited"
        yield Fault(at, "a memswap_limit of 0 leaves the choice to the engine", help)
    if spec.mem_reservation > memory > 0:
        yield Fault(("mem_reservation",), "mem_reservation is above mem_limit")
    if 0 < memory < 6 * MIB:
        help = "the engine refuses less; a number without a unit is bytes"
        yield Fault(("mem_limit",), "mem_limit is below 6m", help)
    if 0 < spec.mem_reservation < 6 * MIB:
        yield Fault(("mem_reservation",), "mem_reservation is below 6m", "the engine refuses less; 0 is none")
    size = spec.workspace.size if spec.workspace is not None else None
    if size is not None and 0 < memory <= size:
        message = "workspace.size is not below mem_limit, and what is written there counts against that"
        yield Fault(("workspace",), message, "raise mem_limit, or take a smaller size")


def _targets(spec: SandboxSpec) -> Iterator[Fault]:
    """Each mount point once."""
    targets = [("secrets", SECRETS_AT)] if spec.secrets else []
    targets += [("configs", CONFIGS_AT)] if spec.configs else []
    targets += [("tmpfs", path) for path in spec.tmpfs]
    targets += [("workspace", spec.workspace.target)] if spec.workspace else []
    targets += [("volumes", mount.target) for mount in spec.volumes]
    taken: dict[str, str] = {}
    for key, path in targets:
        at = (key, "target" if key == "workspace" else path)
        if path == "/":
            yield Fault(at, "nothing can be mounted over /")
        if path == "/dev" or f"{path}/".startswith(("/proc/", f"{INIT_AT}/")):
            needs = "sandboxrun's init" if path.startswith(INIT_AT) else "the runtime needs what"
            help = f"{needs} is there; choose another path"
            yield Fault(at, f"nothing can be mounted over {path}", help)
        if (other := taken.get(path)) is not None:
            yield Fault(at, f"{path} is mounted by {other} and by {key}", "choose another path")
        taken[path] = key


LARGEST_ID = 2**31 - 1


def _process(spec: SandboxSpec) -> Iterator[Fault]:
    if spec.entrypoint == () and spec.command == ():
        yield Fault(("command",), "entrypoint and command are both empty: nothing would run", "set one")
    if not re.fullmatch(rf"sha256:[0-9a-f]{{64}}|{IMAGE}", spec.image):
        help = "the form is [registry/]name[:tag][@sha256:…], the name in lower case"
        yield Fault(("image",), f'"{spec.image}" is not a valid image reference', help)
    for key, groups in (("user", spec.user.split(":")), ("group_add", spec.group_add)):
        for name in groups:
            if name.isdecimal() and (len(name) > 10 or int(name) > LARGEST_ID):
                yield Fault((key, name), f"{name} is above {LARGEST_ID}, the largest id that an engine accepts")
    for key in ("command", "entrypoint"):
        words = getattr(spec, key)
        if words and not words[0] and (key == "entrypoint" or not spec.entrypoint):
            yield Fault((key,), f"the first word of {key} is empty", "it names the program to run")
    check = spec.healthcheck
    if check is not None and check.test and check.test[0] in ("CMD", "CMD-SHELL"):
        words = check.test[1:]
        if not words or not words[0].strip():
            yield Fault(("healthcheck", "test"), "the test has no command", 'such as ["CMD", "true"]')
        elif check.test[0] == "CMD-SHELL" and len(words) > 1:
            help = "write one text, or use CMD for a program and its arguments"
            yield Fault(("healthcheck", "test"), "CMD-SHELL takes one text: the rest would be ignored", help)


_MOST_PIDS = 4_194_304  # the kernel's own bound


def _resources(spec: SandboxSpec) -> Iterator[Fault]:
    if spec.cpu_shares == 1:
        yield Fault(("cpu_shares",), "cpu_shares is below 2", "the kernel refuses less; 0 is the engine's default")
    if spec.pids_limit > _MOST_PIDS:
        yield Fault(("pids_limit",), f"pids_limit is above {_MOST_PIDS}, the kernel's own", "-1 is unlimited")
    if spec.shm_size == 0:
        yield Fault(("shm_size",), "a shm_size of 0 is the engine's 64m", "set a size; ipc: none has no /dev/shm")
    files = spec.ulimits.get("nofile")
    if files is not None and -1 in (files.soft, files.hard):
        yield Fault(("ulimits", "nofile"), "nofile can't be unlimited", "the kernel refuses it; set a number")
    if files is not None and files.soft == 0:
        yield Fault(("ulimits", "nofile"), "nofile is 0: no process can start without open files", "set a number")
    for name, value in spec.storage_opt.items():
        if name != "size":
            yield Fault(("storage_opt", name), f'"{name}" is not an option of storage_opt', "it has size")
        elif not _is_size(value):
            yield Fault(("storage_opt", name), f'"{value}" is not a size', "such as 10g")


def _is_size(text: str) -> bool:
    with contextlib.suppress(ValueError):
        return units.parse_size(text) > 0
    return False


_SYSCTLS = tuple(f"kernel.{name}" for name in "msgmax msgmnb msgmni sem shmall shmmax shmmni shm_rmid_forced".split())
_BELOW = ("fs.mqueue.", "net.")


def _sysctls(spec: SandboxSpec) -> Iterator[Fault]:
    for written in spec.sysctls:
        name = written if "." in written.partition("/")[0] else written.replace("/", ".")
        if name in ("kernel.hostname", "kernel.domainname"):
            yield Fault(("sysctls", written), f"{written} is not set by sysctls", "use hostname")
        elif name not in _SYSCTLS and not name.startswith(_BELOW):
            help = did_you_mean(name, _SYSCTLS) or f"a sandbox has its own {', '.join(_SYSCTLS)}, fs.mqueue.* and net.*"
            yield Fault(("sysctls", written), f"{written} belongs to the host, not to a sandbox", help)


_COMMON = ("max-size", "max-file", "compress", "mode", "max-buffer-size")
_OPTIONS: Mapping[str, tuple[str, ...]] = {
    "local": _COMMON,
    "json-file": (*_COMMON, "tag", "labels", "labels-regex", "env", "env-regex"),
}
_FLAGS = ("1", "t", "T", "TRUE", "true", "True", "0", "f", "F", "FALSE", "false", "False")


def _logging(spec: SandboxSpec) -> Iterator[Fault]:
    driver, options = spec.logging.driver, spec.logging.options
    for name, value in options.items():
        path = ("logging", "options", name)
        known = _OPTIONS.get(driver, ())
        if name not in known:
            help = did_you_mean(name, known) or f"it has: {', '.join(known)}"
            yield Fault(path, f'the log driver {driver} has no option "{name}"', help)
        elif name in ("max-size", "max-buffer-size") and not _is_size(value):
            yield Fault(path, f'{name} is not a size: "{value}"', "such as 10m")
        elif name == "max-file" and not re.fullmatch("[1-9][0-9]{0,5}", value):
            yield Fault(path, f'max-file is not a number of files: "{value}"', "such as 3")
        elif name == "compress" and value not in _FLAGS:
            yield Fault(path, f'compress is true or false, not "{value}"')
        elif name == "mode" and value not in ("blocking", "non-blocking"):
            yield Fault(path, f'mode is blocking or non-blocking, not "{value}"')
    if "max-buffer-size" in options and options.get("mode") != "non-blocking":
        path = ("logging", "options", "max-buffer-size")
        yield Fault(path, "max-buffer-size needs mode: non-blocking", "add it, or leave max-buffer-size out")


_RESOLVER = (
    "debug rotate no-aaaa no-check-names inet6 edns0 single-request single-request-reopen no-tld-query use-vc "
    "no-reload trust-ad"
).split()
_COUNTED = ("ndots", "timeout", "attempts")


def _names(spec: SandboxSpec) -> Iterator[Fault]:
    named: list[tuple[tuple[str, ...], str]] = []
    if spec.hostname is not None:
        named.append((("hostname",), spec.hostname))
    named += [(("dns_search", name), name) for name in spec.dns_search if name != "."]
    named += [
        (("networks", key, "aliases", alias), alias) for key, item in spec.networks.items() for alias in item.aliases
    ]
    for path, name in named:
        try:
            host_name(name.removesuffix("."))
        except ValueError as error:
            yield Fault(path, f'"{name}" is not a host name: {error}')
    for option in spec.dns_opt:
        name, colon, count = option.partition(":")
        if not (colon and name in _COUNTED and count.isdecimal()) and option not in _RESOLVER:
            known = did_you_mean(name, (*_RESOLVER, *_COUNTED))
            help = f"write {name}:2" if name in _COUNTED else known or "see resolv.conf(5)"
            yield Fault(("dns_opt", option), f'"{option}" is not an option of resolv.conf', help)
    for key, item in spec.networks.items():
        try:
            ipaddress.IPv4Address(item.ipv4_address or "0.0.0.0")
        except ValueError:
            at = ("networks", key, "ipv4_address")
            yield Fault(at, f'"{item.ipv4_address}" is not an IPv4 address', "such as 10.77.0.2")


def _lifetime(spec: SandboxSpec) -> Iterator[Fault]:
    for key in ("timeout", "idle", "ttl", "keep_for"):
        if getattr(spec.lifetime, key) == 0:
            yield Fault(("lifetime", key), f"{key} must be greater than 0", "leave it out for no bound")
    if spec.lifetime.keep_for is not None and spec.lifetime.on_complete == "remove":
        help = "set on_complete: keep or keep_on_failure, or remove keep_for"
        yield Fault(("lifetime", "keep_for"), "keep_for needs a container that is kept", help)


def _place(node: MapNode, key: str, *path: str) -> Span | None:
    """Where an item of an option is written, or what is below it; what holds it where none has this name."""
    span, inner, type_ = span_of(node, key), node.get(key), BY_KEY[key].type
    for step in path:
        span = item_spans(type_, inner).get(name_of(step), span)
        inner, type_ = (inner.get(step) if isinstance(inner, MapNode) else None), ANY
    return span


SpecType = Record(cls=SandboxSpec, title="a sandbox", refused=NOT_OFFERED, check=_check)


def settle(spec: SandboxSpec) -> SandboxSpec:
    """The spec with what its options imply written out: no swap, the default network, the workspace as directory,
    whole seconds of grace.

    Idempotent. Plans, payloads and labels hold settled specs only.
    """
    implied: dict[str, Any] = _settled_files(spec)
    if spec.egress is None:
        implied["egress"] = _egress(spec)
    if spec.egress == CLOSED:
        implied["network_mode"] = "none"
    if spec.network_mode == "bridge" and spec.networks:
        implied["networks"] = freeze(dict(sorted(spec.networks.items())))
    if spec.memswap_limit is None:
        implied["memswap_limit"] = spec.mem_limit
    if spec.working_dir is None and spec.workspace is not None:
        implied["working_dir"] = spec.workspace.target
    if spec.stop_grace_period % units.SECOND:  # the engine counts it in seconds
        implied["stop_grace_period"] = -(-spec.stop_grace_period // units.SECOND) * units.SECOND
    if spec.pids_limit == -1:
        implied["pids_limit"] = 0
    if spec.entrypoint and spec.command == ():  # which is what it implies
        implied["command"] = None
    if spec.logging.options and "max-size" not in spec.logging.options:  # another one does not lift the bound
        options = freeze({**Logging().options, **spec.logging.options})
        implied["logging"] = structs.replace(spec.logging, options=options)
    if spec.pull_policy == "if_not_present":
        implied["pull_policy"] = "missing"
    return structs.replace(spec, **implied) if implied else spec


def _settled_files(spec: SandboxSpec) -> dict[str, Any]:
    """Mounts, devices and files: in one order, each with the place that it has."""
    implied: dict[str, Any] = {}
    if spec.volumes:
        mounts = [mount for mount in spec.volumes if mount.type != "tmpfs"]
        implied["volumes"] = tuple(sorted(mounts, key=lambda mount: mount.target))
        if len(mounts) < len(spec.volumes):
            found = {**spec.tmpfs, **{m.target: _tmpfs_of(m) for m in spec.volumes if m.type == "tmpfs"}}
            implied["tmpfs"] = freeze(dict(sorted(found.items())))
    if any(device.target is None for device in spec.devices):
        implied["devices"] = tuple(
            structs.replace(device, target=device.target or device.source) for device in spec.devices
        )
    for key in ("secrets", "configs"):
        refs = getattr(spec, key)
        if any(ref.target == ref.source for ref in refs):
            implied[key] = tuple(structs.replace(r, target=None if r.target == r.source else r.target) for r in refs)
    return implied


def _tmpfs_of(mount: Mount) -> str:
    """The options of a mount of type tmpfs, as the option `tmpfs` has them."""
    given = mount.tmpfs or TmpfsMount()
    items = ["ro"] if mount.read_only else []
    items += [f"size={given.size}"] if given.size is not None else []
    items += [f"mode={given.mode:04o}"] if given.mode is not None else []
    return read_options(",".join(items))


def parse_spec(node: Any, problems: Problems) -> SandboxSpec | None:
    """A node as a settled spec, or None with the reasons in `problems`."""
    spec = SpecType.parse(node, problems)
    return settle(spec) if isinstance(spec, SandboxSpec) else None


def parse_rest(node: MapNode, problems: Problems) -> SandboxSpec | None:
    """What can be read of a node that `parse_spec` refused, for the checks that follow: its valid options, and of a
    faulty list or mapping the valid items. What is wrong between those options is added to `problems`."""
    entries, unread = [], set()
    for key, value in node.entries:
        row = BY_KEY[str(key.value)]
        if row.type.parse(value, Problems()) is not INVALID:
            entries.append((key, value))
            continue
        unread.add(row.attribute)
        if isinstance(value, ListNode):
            items = tuple(
                i for i in value.items if row.type.parse(structs.replace(value, items=(i,)), Problems()) is not INVALID
            )
            entries += [(key, structs.replace(value, items=items))] if items else []
    rest = structs.replace(node, entries=tuple(entries))
    spec = structs.replace(SpecType, check=None).parse(rest, Problems())
    if not isinstance(spec, SandboxSpec):
        return None
    if unread:  # else `parse_spec` has checked them
        _check(cast(SandboxSpec, _PartlyRead(spec, unread)), rest, problems)
    return settle(spec)


class _Unread(Exception):
    """A rule asked for an option that could not be read."""


class _PartlyRead:
    """A spec of which some options could not be read: a rule that asks for one of them can't be judged."""

    def __init__(self, spec: SandboxSpec, unread: Collection[str]) -> None:
        self._spec, self._unread = spec, unread

    def __getattr__(self, name: str) -> Any:
        if name in self._unread:
            raise _Unread
        return getattr(self._spec, name)


ROWS: tuple[Row, ...] = rows(SandboxSpec)
BY_KEY: Mapping[str, Row] = freeze({row.key: row for row in ROWS})
