"""4xx, resources and lifetime: how much of the host a sandbox takes, and how long."""

from __future__ import annotations

from collections.abc import Iterator

from sandboxrun.audit.finding import DATA, DIRECT, INDIRECT, STEP, TRACE, WORK, Hit, OptionEdit, about, rule, where
from sandboxrun.audit.subject import PROFILE, Subject
from sandboxrun.spec.types import SECOND, format_duration

_MANY_FILES = 65536
_LOCAL = OptionEdit("{driver: local}", safe=True)


no_memory_limit = rule(
    about("SBX401", "No memory limit", WORK, DIRECT, cis="5.11", cwe=770, nist="3.4.3"),
    why="One container can use up the host's memory, and the kernel then ends other programs.",
    fix="set mem_limit",
    bad="mem_limit: 0",
    good="mem_limit: 512m",
)(where(lambda s: s.memory is None, "mem_limit", "memory is not limited", edit=OptionEdit("512m")))


@rule(
    about("SBX402", "Swap beyond memory", WORK, STEP, cis="5.11", cwe=770),
    why="Where memswap_limit is not set an engine allows as much swap again as memory; -1 allows all there is.",
    fix="set memswap_limit to the value of mem_limit",
    bad="memswap_limit: -1",
    good="mem_limit: 512m",
)
def swap(s: Subject) -> Iterator[Hit]:
    """memswap_limit unset (where the engine doubles) or -1."""
    if s.swap == -1:
        yield Hit("memswap_limit", "swap is not limited")
    elif s.memory is not None and (s.swap is None or s.swap == 0):
        yield Hit("memswap_limit", "memswap_limit is not set: the engine allows as much swap as memory")
    elif s.memory is not None and s.swap is not None and s.swap > s.memory:
        yield Hit("memswap_limit", "swap beyond memory is allowed")


no_cpu_limit = rule(
    about("SBX403", "No CPU limit", WORK, STEP, cis="5.12", cwe=770, nist="3.4.3"),
    why="One container can use all CPUs of the host.",
    fix="set cpus",
    bad="cpus: 0",
    good="cpus: 1.0",
)(where(lambda s: s.cpus is None, "cpus", "CPU time is not limited", edit=OptionEdit("1.0")))
no_process_limit = rule(
    about("SBX404", "No process limit", WORK, DIRECT, cis="5.29", cwe=770, nist="3.4.3"),
    why="A fork bomb in one container uses up the host's process ids.",
    fix="set pids_limit",
    bad="pids_limit: -1",
    good="pids_limit: 256",
)(where(lambda s: s.pids is None, "pids_limit", "processes are not limited", edit=OptionEdit("256")))


@rule(
    about("SBX405", "Very many open files", WORK, STEP, cis="5.19", cwe=770),
    why="Open files are kernel memory, and programs that close all possible descriptors become slow.",
    fix="set ulimits.nofile to a few thousand",
    bad="ulimits: {nofile: 1048576}",
    good="ulimits: {nofile: 4096}",
)
def many_files(s: Subject) -> Iterator[Hit]:
    """A nofile limit that bounds nothing."""
    limit = s.ulimits.get("nofile")
    if limit is not None and (limit == -1 or limit > _MANY_FILES):
        shown = "unlimited" if limit == -1 else f"{limit:,}"
        yield Hit("ulimits", f"open files: {shown}", item="nofile")


@rule(
    about("SBX406", "Default limits of the engine", WORK, INDIRECT, cis="5.19", cwe=770),
    why="Without ulimits the engine's defaults hold, which are a million open files and core dumps of any size.",
    fix="set ulimits: {nofile: 4096, core: 0}",
    bad="services: {agent: {image: busybox}}",
    good="services: {agent: {image: busybox, ulimits: {nofile: 4096, core: 0}}}",
    strict=True,
)
def default_ulimits(s: Subject) -> Iterator[Hit]:
    """nofile or core unset."""
    missing = [name for name in ("nofile", "core") if name not in s.ulimits]
    if missing:
        yield Hit("ulimits", f"ulimits does not set {' and '.join(missing)}")


@rule(
    about("SBX407", "Logs without a bound", WORK, STEP, cwe=(770, 400)),
    why="json-file, the engine's default, keeps everything: a container that prints fills the host's disk.",
    fix="set logging.options.max-size and max-file, or use the driver local",
    bad="logging: {driver: json-file, options: {}}",
    good="logging: {driver: local}",
)
def unbounded_logs(s: Subject) -> Iterator[Hit]:
    """json-file without max-size, or one of 0 or -1."""
    size = str(s.log_options.get("max-size", ""))
    if s.log_driver in ("", "json-file") and (not size or size in ("0", "-1")):
        yield Hit("logging", "the log has no max-size: output fills the host's disk", edit=_LOCAL)


@rule(
    about("SBX408", "No deadline", WORK, INDIRECT, cwe=770),
    why="A task that hangs holds its memory and its secrets until somebody looks.",
    fix="set lifetime.timeout",
    bad="lifetime: {}",
    good="lifetime: {timeout: 30m}",
    strict=True,
)
def no_deadline(s: Subject) -> Iterator[Hit]:
    """Neither timeout nor ttl."""
    if s.kind == PROFILE and s.timeout is None and s.ttl is None:
        yield Hit("lifetime", "the sandbox has no timeout and no ttl")


LONGEST_GRACE = 10 * 60 * SECOND


@rule(
    about("SBX415", "Long time to stop", WORK, STEP, cwe=770),
    why="A program that ignores its stop signal goes on for that long after its timeout, with its secrets and its way "
    "out.",
    fix="set stop_grace_period to what the program needs to stop, at most 10m",
    bad="lifetime: {timeout: 30m}\nstop_grace_period: 24h",
    good="lifetime: {timeout: 30m}\nstop_grace_period: 1m",
)
def long_grace(s: Subject) -> Iterator[Hit]:
    """More than ten minutes between the stop signal and the end."""
    if s.grace is not None and s.grace > LONGEST_GRACE:
        yield Hit("stop_grace_period", f"it may go on for {format_duration(s.grace)} after it is told to stop")


@rule(
    about("SBX409", "Restarts without end", WORK, STEP, cis="5.15", cwe=770),
    why="A container that fails is started again and again, and one that was broken into comes back by itself.",
    fix='write restart: "no", or on-failure:5',
    bad="restart: always",
    good='restart: "no"',
)
def restarts(s: Subject) -> Iterator[Hit]:
    """always, unless-stopped, and on-failure without a count."""
    name, _, count = s.restart.partition(":")
    if name in ("always", "unless-stopped"):
        yield Hit("restart", f"restart: {name} has no end")
    elif name == "on-failure" and (not count.isdecimal() or int(count) == 0 or int(count) > 5):
        yield Hit("restart", "restart: on-failure without a count of at most 5")


@rule(
    about("SBX410", "Accepted and not enforced", WORK, STEP, cwe=1188),
    why="The file reads as if there were a limit, and the engine applies none.",
    fix="use the option that the engine enforces",
    bad="services: {agent: {image: busybox, deploy: {resources: {reservations: {cpus: '1'}}}}}",
    good="services: {agent: {image: busybox, cpus: 1}}",
)
def not_enforced(s: Subject) -> Iterator[Hit]:
    """Keys that Compose reads and no engine acts on."""
    for key, why in s.ignored:
        yield Hit(key.split(".")[0], f"{key} is not enforced: {why}", item=key)


no_healthcheck = rule(
    about("SBX411", "No health check", TRACE, INDIRECT, cis="5.27"),
    why="Without one a program that hangs counts as running.",
    fix="add healthcheck",
    bad="services: {agent: {image: busybox}}",
    good="services: {agent: {image: busybox, healthcheck: {test: [CMD, 'true']}}}",
    strict=True,
)(where(lambda s: s.kind != PROFILE and not s.healthcheck, "healthcheck", "no health check"))


no_log = rule(
    about("SBX413", "No log", TRACE, DIRECT, cis="2.13", cwe=778, nist="3.4.3"),
    why="With the driver none the engine keeps nothing of what the container prints: nobody can tell what it did.",
    fix="remove the driver, or use local",
    bad="services: {agent: {image: busybox, logging: {driver: none}}}",
    good="services: {agent: {image: busybox, logging: {driver: local}}}",
)(where(lambda s: s.log_driver == "none", "logging", "nothing of what the container prints is kept", edit=_LOCAL))
unchecked = rule(
    about("SBX414", "Health check switched off", TRACE, INDIRECT, cis="5.27"),
    why="The image's own check is switched off: a program that hangs counts as running.",
    fix="remove disable, or write a test",
    bad="services: {agent: {image: busybox, healthcheck: {disable: true}}}",
    good="services: {agent: {image: busybox, healthcheck: {test: [CMD, 'true']}}}",
)(where(lambda s: s.unchecked, "healthcheck", "the health check is switched off"))


@rule(
    about("SBX412", "Core dumps of secrets", DATA, INDIRECT, cwe=528),
    why="A core dump holds the process's memory, with keys and tokens, and is written where the host says.",
    fix="set ulimits.core to 0",
    bad="ulimits: {core: -1}",
    good="ulimits: {core: 0}",
)
def core_dumps(s: Subject) -> Iterator[Hit]:
    """A core limit above 0."""
    if s.ulimits.get("core", 0) != 0:
        yield Hit("ulimits", "core dumps are allowed", item="core", edit=OptionEdit("0", safe=True))
