"""What probing is made of: what was seen, what it is judged by, what was found. Pure data."""

from __future__ import annotations

import enum
import errno
import re
from collections.abc import Callable, Iterable, Iterator, Mapping

from sandboxrun.data import Data
from sandboxrun.spec.project import NetworkSpec
from sandboxrun.spec.spec import SandboxSpec
from sandboxrun.spec.types import freeze

# -- What probing is made of: what was seen, what it is judged by. Pure data

Seen = Mapping[str, Mapping[str, str]]  # the name of a probe: its values, as the program printed them
OUTCOME = "@outcome"  # no line can have this name: what is known from outside
GVISOR = "runsc"


class Phase(enum.StrEnum):
    """One start of the program. What may end the sandbox has a start of its own."""

    BATTERY = "battery"  # all that only looks and tries
    PROCESSES = "processes"  # forks until it can't: gVisor ends a sandbox at its limit
    MEMORY = "memory"  # takes memory until it is killed
    STUBBORN = "stubborn"  # ignores TERM and outlives its deadline, if it is let


class Context(Data):
    """What expectations depend on. `spec` is settled, and the sandbox's own, also where a weak one is judged.

    `architecture` is the image's (x86_64, aarch64); `runtime` the OCI runtime's name; `gateway` the
    gateway's address where it has one; `hosts` and `neighbours` addresses that must not be reached, beside those that
    the program finds itself; `networks` what the spec's networks are; `host_namespaces` the host's own namespaces as
    `/proc/self/ns` names them ("pid" to "pid:[4026531836]"), empty where nobody can tell; `host_cpus` how many CPUs
    the engine has, 0 if unknown; `rootless`: the engine has no rights on its host but a user's.
    """

    spec: SandboxSpec
    architecture: str = "x86_64"
    runtime: str = "runc"
    gateway: str | None = None
    hosts: tuple[str, ...] = ()
    neighbours: tuple[str, ...] = ()
    networks: Mapping[str, NetworkSpec] = freeze({})
    host_namespaces: Mapping[str, str] = freeze({})
    host_cpus: int = 0
    rootless: bool = False

    @property
    def gvisor(self) -> bool:
        """Whether another kernel than the host's answers inside."""
        return self.runtime.startswith(GVISOR)


class Comparison(Data, kw_only=False):
    """What was expected and seen, "" where nothing was; `holds` None: it could not be told, and `note` says why."""

    expected: str = ""
    seen: str = ""
    holds: bool | None = None
    note: str = ""


Answer = Comparison | str  # a text: why there is nothing to look for


class Control(Data, kw_only=False):
    """One thing that must hold, and how it is told.

    `look` compares what was seen with what is expected in this context, or gives the reason why there is nothing to
    look for, which depends on the context alone. `negative` says whether the negative control failed as it must, from
    what the sandbox and the weak one showed: by default the weak one must not hold. `moot` gives the reason where it
    shows that there was nothing to look for after all (a kernel without that call). `exempt` is the reason why nothing
    can be weakened, `undecided` what is said where the negative control did not fail: by default, what the weak one
    showed. `takes_root`: what it tries takes rights of the host's root. What it means, how it is seen and what its
    negative control is, is documentation: scripts/controls.toml.
    """

    id: str
    title: str
    look: Callable[[Seen, Context], Answer]
    phase: Phase = Phase.BATTERY
    negative: Callable[[Seen, Seen, Context], bool] | None = None
    moot: Callable[[Seen, Seen, Context], str | None] = lambda strong, weak, context: None
    exempt: str = ""
    undecided: str = ""
    takes_root: bool = False


# -- What verifying found: one verdict a control, from inside or from outside. Pure data


class Verdict(enum.Enum):
    """What became of one control. Unknown is never counted as passed."""

    HOLDS = "holds"
    FAILS = "does not hold"
    INCONCLUSIVE = "inconclusive"
    NOT_APPLICABLE = "not applicable"

    @property
    def passes(self) -> bool:
        """Whether a verification with this verdict may succeed."""
        return self in (Verdict.HOLDS, Verdict.NOT_APPLICABLE)


class Finding(Data):
    """One control of one sandbox; `field` is where the engine has it, in its own words. `seen` may hold what an image
    wrote: escape it before it is shown."""

    sandbox: str
    control: str
    title: str
    field: str
    expected: str
    seen: str
    verdict: Verdict
    note: str = ""

    @classmethod
    def of(
        cls, sandbox: str, control: str, title: str, field: str, answer: Answer, verdict: Verdict | None = None
    ) -> Finding:
        """What became of a control by its answer, unless `verdict` says more than that."""
        told = Comparison(note=answer) if isinstance(answer, str) else answer
        plain = Verdict.NOT_APPLICABLE if isinstance(answer, str) else _VERDICTS[answer.holds]
        return cls(
            sandbox=sandbox,
            control=control,
            title=title,
            field=field,
            expected=told.expected,
            seen=told.seen,
            verdict=verdict or plain,
            note=told.note,
        )


_VERDICTS = {True: Verdict.HOLDS, False: Verdict.FAILS, None: Verdict.INCONCLUSIVE}


# -- How values that the program printed are read and told. Pure

OK = "ok"
NOTHING: Mapping[str, str] = freeze({})
# What a call gives that a filter or the kernel refuses. 31: the signal of a filter that kills.
REFUSED = frozenset({f"errno:{errno.EPERM}", f"errno:{errno.ENOSYS}", "signal:31"})
# What one gives that this kernel does not have at all; 11: an entry that it does not have.
MISSING = frozenset(
    {f"errno:{number}" for number in (errno.ENOSYS, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT, errno.ESOCKTNOSUPPORT)}
    | {"signal:11"}
)
UNKNOWN = frozenset({"timeout", "unrun", ""})
UNLIMITED = 2**60  # bytes; cgroup v1 writes "no limit" as the largest number of whole pages


def value(seen: Seen, probe: str, key: str) -> str:
    """One value; "" where it was not printed."""
    return seen.get(probe, NOTHING).get(key, "")


def mounted_at(text: str) -> str:
    """A path as mountinfo writes it: blanks and the like stand as \\040."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)


def number(text: str) -> int | None:
    """A decimal number; None for anything else."""
    return int(text) if re.fullmatch(r"-?[0-9]{1,20}", text) else None


def first_number(text: str) -> int | None:
    """The number that a cgroup file begins with; -1 for `max`, and for what is as good as none."""
    word = (text.split() or [""])[0]
    found = -1 if word == "max" else number(word)
    return -1 if found is not None and found >= UNLIMITED else found


def quota(text: str) -> float | None:
    """The CPUs that a quota and a period, in microseconds, amount to; -1 for none set."""
    most, period = (first_number(word) for word in (*text.split(), "", "")[:2])
    if most is not None and most < 0:
        return -1
    return most / period if most is not None and period else None


def bits(text: str) -> int | None:
    """A set as the kernel writes it, such as one of capabilities."""
    return int(text, 16) if text and set(text) <= set("0123456789abcdef") else None


def numbered(seen: Seen, probe: str) -> Iterator[Mapping[str, str]]:
    """The lines `probe.0`, `probe.1` and so on."""
    index = 0
    while f"{probe}.{index}" in seen:
        yield seen[f"{probe}.{index}"]
        index += 1


def result(text: str) -> str:
    """How a call ended, in words: `EPERM`, `worked`, `killed by signal 31`, `no answer in time`."""
    kind, _, rest = text.partition(":")
    match kind:
        case "errno":
            return errno.errorcode.get(number(rest) or 0, f"error {rest}")
        case "signal":
            return f"killed by signal {rest}"
        case "timeout":
            return "no answer in time"
        case "ok":
            return "worked"
    return "not tried"


def results(values: Mapping[str, str], keys: Iterable[str] | None = None) -> str:
    """How several calls ended, those that ended alike together: `EPERM: mount, umount2; worked: chroot`."""
    groups: dict[str, list[str]] = {}
    for key in values if keys is None else keys:
        groups.setdefault(result(values.get(key, "")), []).append(key)
    return "; ".join(f"{how}: {', '.join(names)}" for how, names in groups.items())


def fails(text: str, *names: str) -> bool:
    """Whether a call failed with one of these errors, given by name."""
    return text in {f"errno:{getattr(errno, name)}" for name in names}


def every(answers: Iterable[bool | None]) -> bool | None:
    """True if all are; False if one is; else, or if there is none, None."""
    found = list(answers)
    if False in found:
        return False
    return None if None in found or not found else True


def none_worked(hows: Iterable[str]) -> bool | None:
    """Whether every call was refused; None where one, or all, could not be tried."""
    return every(None if how in UNKNOWN else how != OK for how in hows)
