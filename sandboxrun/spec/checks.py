"""Values that an engine, a runtime or the kernel refuses or ignores, whatever machine it is: known without asking one.

Owns those checks of a whole spec; what a single option's type can tell is said by the type. Pure.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import attrs

from sandboxrun.errors import did_you_mean
from sandboxrun.spec import types as units
from sandboxrun.spec.forms import IMAGE
from sandboxrun.spec.option_types import host_name

if TYPE_CHECKING:
    from sandboxrun.spec.spec import SandboxSpec

LARGEST_ID = 2**31 - 1
_MIB = 1024**2


@attrs.frozen
class Fault:
    """What is wrong at a path of keys and items in the sandbox, and what to do."""

    path: tuple[str, ...]
    message: str
    help: str | None = None


def faults_of(spec: SandboxSpec) -> Iterator[Fault]:
    """All that is wrong with the values of a spec."""
    yield from _process(spec)
    yield from _resources(spec)
    yield from _sysctls(spec)
    yield from _logging(spec)
    yield from _names(spec)
    for key in ("timeout", "idle", "ttl"):
        if getattr(spec.lifetime, key) == 0:
            yield Fault(("lifetime", key), f"{key} must be greater than 0", "leave it out for no bound")


# -- the process -------------------------------------------------------------------------------------------------


def _process(spec: SandboxSpec) -> Iterator[Fault]:
    if not re.fullmatch(rf"sha256:[0-9a-f]{{64}}|{IMAGE}", spec.image):
        help = "the form is [registry/]name[:tag][@sha256:…], the name in lower case"
        yield Fault(("image",), f'"{spec.image}" is not a valid image reference', help)
    for key, groups in (("user", spec.user.split(":")), ("group_add", spec.group_add)):
        for name in groups:
            if name.isdecimal() and (len(name) > 10 or int(name) > LARGEST_ID):
                yield Fault((key, name), f"{name} is above {LARGEST_ID}, the largest id that an engine takes")
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


# -- resources ---------------------------------------------------------------------------------------------------

_MOST_PIDS = 4_194_304  # the kernel's own bound


def _resources(spec: SandboxSpec) -> Iterator[Fault]:
    if 0 < spec.mem_reservation < 6 * _MIB:
        yield Fault(("mem_reservation",), "mem_reservation is below 6m", "the engine refuses less; 0 is none")
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
    try:
        return units.parse_size(text) > 0
    except ValueError:
        return False


# -- kernel parameters -------------------------------------------------------------------------------------------

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


# -- logging -----------------------------------------------------------------------------------------------------

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


# -- names on the network ----------------------------------------------------------------------------------------

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
        if item.ipv4_address is not None and not _is_ipv4(item.ipv4_address):
            at = ("networks", key, "ipv4_address")
            yield Fault(at, f'"{item.ipv4_address}" is not an IPv4 address', "such as 10.77.0.2")


def _is_ipv4(text: str) -> bool:
    try:
        ipaddress.IPv4Address(text)
    except ValueError:
        return False
    return True
