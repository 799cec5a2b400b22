"""What the host shows of a running container: the types, how the kernel's text is read, how answers become
findings. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from sandboxrun.backend.base import Accounts, EngineTerms
from sandboxrun.data import Data
from sandboxrun.errors import few, shown
from sandboxrun.plan.changes import Difference
from sandboxrun.probe.verdicts import GVISOR, NOTHING, Finding, Verdict
from sandboxrun.spec.spec import SandboxSpec
from sandboxrun.spec.types import freeze

# -- What the host shows of a running container, as text of its kernel: the types, and how the text is read

NAMESPACES = ("pid", "mnt", "net", "ipc", "uts", "cgroup")
SETS = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
UNLIMITED = 2**60  # bytes; cgroup v1 writes "no limit" as the largest number of whole pages


class Process(Data):
    """One process: the fields of its status, and where its namespace links lead (`net:[4026531840]`), by kind."""

    pid: int
    status: Mapping[str, str]
    namespaces: Mapping[str, str]

    @property
    def name(self) -> str:
        """What it calls itself, with its number on the host."""
        return f"{self.status.get('Name', '?')} ({self.pid})"

    def ids(self, field: str) -> tuple[int, ...]:
        """The numbers of `Uid`, `Gid` or `Groups`."""
        return tuple(int(word) for word in self.status.get(field, "").split() if word.isdigit())


class MountLine(Data):
    """One line of mountinfo. `root` is what of the filesystem is mounted, `peers` its `shared:1 master:2` fields,
    `system` the options of the filesystem itself."""

    target: str
    root: str
    options: frozenset[str]
    peers: tuple[str, ...]
    type: str
    source: str
    system: frozenset[str] = frozenset()

    @property
    def writable(self) -> bool:
        """Whether this mount can be written to."""
        return "ro" not in self.options


class Outside(Data):
    """A container as the host sees it. The first process is the engine's own (`State.Pid`).

    `host` are the namespaces that are not the sandbox's to have, by whom they belong to; `cgroup` the texts of its
    cgroup's files by name; `present` those of the paths to be masked that this host has; `unread` what could not be
    read, with the reason.
    """

    processes: tuple[Process, ...] = ()
    host: Mapping[str, str] = freeze({})
    limits: Mapping[str, tuple[int, int]] = freeze({})  # -1 is unlimited
    mounts: tuple[MountLine, ...] = ()
    cgroup_version: int = 2
    cgroup: Mapping[str, str] = freeze({})
    interfaces: tuple[str, ...] = ()
    oom_score_adj: int | None = None
    uid_map: str = ""
    gid_map: str = ""
    present: frozenset[str] = frozenset()
    unread: Mapping[str, str] = freeze({})


def read_status(text: str) -> Mapping[str, str]:
    """The fields of /proc/<pid>/status. The kernel escapes line ends in a name, so every line is the kernel's."""
    pairs = (line.partition(":") for line in text.split("\n") if ":" in line)
    return freeze({name: value.strip() for name, _, value in pairs})


_LIMITS = {
    "Max cpu time": "cpu",
    "Max file size": "fsize",
    "Max data size": "data",
    "Max stack size": "stack",
    "Max core file size": "core",
    "Max resident set": "rss",
    "Max processes": "nproc",
    "Max open files": "nofile",
    "Max locked memory": "memlock",
    "Max file locks": "locks",
    "Max pending signals": "sigpending",
    "Max msgqueue size": "msgqueue",
    "Max nice priority": "nice",
    "Max realtime priority": "rtprio",
    "Max realtime timeout": "rttime",
}


def read_limits(text: str) -> Mapping[str, tuple[int, int]]:
    """/proc/<pid>/limits as (soft, hard) by a ulimit's name; -1 is unlimited."""
    found = {}
    for title, name in _LIMITS.items():
        for line in text.split("\n"):
            words = line.removeprefix(title).split()
            if line.startswith(f"{title} ") and len(words) >= 2:
                found[name] = (_limit(words[0]), _limit(words[1]))
    return freeze(found)


def _limit(word: str) -> int:
    return -1 if word == "unlimited" else int(word)


def read_mounts(text: str) -> tuple[MountLine, ...]:
    """/proc/<pid>/mountinfo. Lines that are not in its form are left out: there are none."""
    found = []
    for line in text.split("\n"):
        before, dash, after = line.partition(" - ")
        fields, kind = before.split(" "), after.split(" ")
        if dash and len(fields) >= 6 and len(kind) >= 2:
            found.append(
                MountLine(
                    target=_unescaped(fields[4]),
                    root=_unescaped(fields[3]),
                    options=frozenset(fields[5].split(",")),
                    peers=tuple(fields[6:]),
                    type=kind[0],
                    source=_unescaped(kind[1]),
                    system=frozenset(kind[2].split(",")) if len(kind) > 2 else frozenset(),
                )
            )
    return tuple(found)


def _unescaped(text: str) -> str:
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, character)
    return text


def read_cgroups(text: str) -> Mapping[str, str]:
    """/proc/<pid>/cgroup: the path by controller; "" is the unified hierarchy's."""
    found = {}
    for line in text.split("\n"):
        _, colon, rest = line.partition(":")
        names, colon, path = rest.partition(":")
        if colon:
            found.update(dict.fromkeys(names.split(","), path))
    return freeze(found)


def read_interfaces(text: str) -> tuple[str, ...]:
    """The names in /proc/<pid>/net/dev."""
    return tuple(line.partition(":")[0].strip() for line in text.split("\n") if ":" in line)


def inside(number: int, id_map: str) -> int | None:
    """An id of the host as the sandbox knows it, by its uid_map or gid_map; None where it has none for it."""
    for line in id_map.split("\n"):
        words = line.split()
        if len(words) == 3 and all(word.isdigit() for word in words):
            first, host, count = map(int, words)
            if host <= number < host + count:
                return first + number - host
    return None


def mask_of(status: Mapping[str, str], field: str) -> int | None:
    """A set of capabilities as its bits."""
    try:
        return int(status.get(field, ""), 16)
    except ValueError:
        return None


def first_number(text: str) -> int | None:
    """The number that a cgroup file begins with; -1 for `max`, and for what is as good as none."""
    word = (text.split() or [""])[0]
    if word == "max":
        return -1
    if not word.removeprefix("-").isdigit():
        return None
    return -1 if int(word) >= UNLIMITED else int(word)


def listed(words: Iterable[str], most: int = 8) -> str:
    """Some words, and how many more there are."""
    return few(dict.fromkeys(words), most)


# -- How one thing is looked at from outside: what a check is given, what it answers, and how answers become …

SENTRY = "the runtime's own kernel answers in there; its processes on the host are not the sandbox's"


class Looked(Data):
    """What a check is given. `devices` are the numbers of the declared ones (`c 10:229`), `volumes` the paths that the
    image declares as volumes."""

    spec: SandboxSpec
    outside: Outside
    accounts: Accounts | None = None
    devices: frozenset[str] = frozenset()
    volumes: frozenset[str] = frozenset()


class Comparison(Data):
    """What was expected and seen; `holds` None: it could not be told, and `note` says why."""

    expected: str
    seen: str
    holds: bool | None
    note: str = ""


class Check(Data, kw_only=False):
    """One thing that is looked at. `parts` are what it reads, by their names in `Outside.unread`; `kernel`: it reads
    what the host's kernel says of the processes, which means nothing where another kernel runs them. `look` gives the
    answer, or as a text why it does not apply."""

    id: str
    title: str
    parts: tuple[str, ...]
    look: Callable[[Looked], Comparison | str]
    kernel: bool = True


def findings(
    sandbox: str, looked: Looked, checks: Iterable[Check], fields: Mapping[str, str] = NOTHING
) -> tuple[Finding, ...]:
    """One finding a check, in their order; `fields` are the engine's own names of the checks."""
    found = []
    for check in checks:
        verdict, answer = _answer(looked, check)
        found.append(
            Finding(
                sandbox=sandbox,
                control=check.id,
                title=check.title,
                field=fields.get(check.id, ""),
                expected=answer.expected,
                seen=answer.seen,
                verdict=verdict,
                note=answer.note,
            )
        )
    return tuple(found)


def _answer(looked: Looked, check: Check) -> tuple[Verdict, Comparison]:
    if check.kernel and (looked.spec.runtime or "").startswith(GVISOR):
        return Verdict.NOT_APPLICABLE, Comparison(expected="", seen="", holds=None, note=SENTRY)
    unread = [looked.outside.unread[part] for part in check.parts if part in looked.outside.unread]
    if "processes" in check.parts and not looked.outside.processes:
        unread.append("no process of it was seen")
    if unread:
        return Verdict.INCONCLUSIVE, Comparison(expected="", seen="not read", holds=None, note=unread[0])
    answer = check.look(looked)
    if isinstance(answer, str):
        return Verdict.NOT_APPLICABLE, Comparison(expected="", seen="", holds=None, note=answer)
    return verdict_of(answer.holds), answer


def verdict_of(holds: bool | None) -> Verdict:
    """Of whether something holds; None: it could not be told."""
    return {True: Verdict.HOLDS, False: Verdict.FAILS, None: Verdict.INCONCLUSIVE}[holds]


# -- What the engine shows of a running sandbox, option by option, against what is declared. Pure

_LONGEST = 300
DRIFT = "changed on the engine since it was applied: apply puts it right"
STALE = "the profile has changed since it was applied: apply brings it in line"


def options(
    sandbox: str,
    differences: Iterable[Difference],
    *,
    applied: bool,
    terms: EngineTerms,
    sensitive: frozenset[str] = frozenset(),
) -> tuple[Finding, ...]:
    """A finding for each option that reaches the engine and differs; one for all of them where none does. `applied`:
    whether it is known what was asked when the sandbox was made, so that drift differs from a changed profile."""

    def short(value: Any) -> str:
        text = shown(value, sensitive)
        return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"

    found = tuple(
        Finding(
            sandbox=sandbox,
            control=f"option {one.key}",
            title=f"{one.key} is as declared",
            field=terms.options[one.key],
            expected=short(one.after),
            seen=short(one.before),
            verdict=Verdict.FAILS,
            note=DRIFT if one.drift or not applied else STALE,
        )
        for one in differences
        if one.key in terms.options
    )
    return found or (
        Finding(
            sandbox=sandbox,
            control="options",
            title="the engine shows every option as declared",
            field=terms.checks.get("options", ""),
            expected="as declared",
            seen=f"{terms.shown} options as declared",
            verdict=Verdict.HOLDS,
        ),
    )
