"""The profile's side of a review: loading it alike for everybody, every value of its variables, and refusing it.

Owns what a review assumes where a profile takes something from its caller.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date
from functools import cache
from itertools import combinations, islice, product
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec

from sandboxrun.audit import declared
from sandboxrun.audit.diff import Party, grants, side_of
from sandboxrun.audit.diff import exceeding as over
from sandboxrun.audit.finding import AuditFinding, Hit, Severity, placed
from sandboxrun.audit.judge import Gap, ReviewTerms, judge, look
from sandboxrun.audit.policy import breaches
from sandboxrun.audit.rules.meta import EXCEEDS, FREE_VARIABLE, JUDGES_ITSELF
from sandboxrun.audit.subject import NONE, Subject, callers
from sandboxrun.data import Data
from sandboxrun.errors import Diagnostic, ListNode, MapNode, Node, ProfileError, SandboxrunError, Scalar, Span
from sandboxrun.lifecycle.review import Reviewed, Sources, Target, policy_file_of, terms
from sandboxrun.profile.files import may_be_written, own_files, reason
from sandboxrun.profile.loader import Loaded, Written, load_whole
from sandboxrun.profile.templates import Place, Ways
from sandboxrun.profile.variables import InputRefused, Inputs, Variable, VariableRules, check
from sandboxrun.spec.guard import GUARDS
from sandboxrun.spec.project import DeclaredSandbox, Profile

# -- loading


class Everywhere(dict[str, str]):
    """An environment in which every name has a value: a review does not depend on who makes it. What a profile takes
    from there is sensitive, and shown nowhere."""

    def get(self, key: str, default: Any = None) -> Any:
        """A value that no other name has."""
        return callers(key)


def load_target(target: Target, inputs: Inputs | None = None, *, greatest: bool = False) -> Loaded:
    """A profile as the review loads it: no value of the caller's environment plays a part. `greatest`: it is what
    others are judged by. Raises ProfileError."""
    given = inputs or Inputs()
    return load_whole(target.paths, lambda variables: _completed(given, variables), greatest=greatest)


def load_under(loaded: Loaded, inputs: Inputs, values: Mapping[str, Any], ways: Ways | None = None) -> Profile | None:
    """The same with some variables at other values, or templates that choose otherwise; None where the profile refuses
    them."""
    kept = tuple(text for text in inputs.vars if text.partition("=")[0] not in values)
    given = msgspec.structs.replace(inputs, vars=kept)
    try:
        return loaded.under(_completed(given, loaded.written.variables, values), ways)
    except ProfileError:
        return None


def _completed(inputs: Inputs, variables: Mapping[str, Variable], values: Mapping[str, Any] = NONE) -> Inputs:
    """What is given, with values for variables that must be given and are not."""
    known = {text.partition("=")[0] for text in inputs.vars} | inputs.values.keys()
    needed = {n: v for n, v in variables.items() if v.required and n not in known and not inputs.var_files}
    assumed = {name: example for name, v in needed.items() for example in islice(_examples(v.rules), 1)}
    return msgspec.structs.replace(inputs, environment=Everywhere(), values={**assumed, **values, **inputs.values})


def add_profile(target: Target, given: Inputs | None, by: ReviewTerms, into: Reviewed) -> None:
    """Load a profile into what is reviewed; one that cannot be loaded is a gap."""
    inputs = given or Inputs()
    path = target.paths[0]
    try:
        loaded = load_target(target, inputs)
        into.files.update({file.name: file for file in loaded.profile.files})
        disk = declared.Disk(real=cache(os.path.realpath), holds=cache(held))
        made = declared.subjects(loaded.profile, disk)
        found = tuple(look(made))
        into.subjects += made
        into.looked += found
        beyond = (*exceeding(loaded.profile, by), *judging_itself(loaded.profile, by))
        into.findings += beyond
        if loaded.written.variables:
            now = (*found, *beyond, *(breach for subject in made for breach in _breaches(subject, by)))
            _vary(target, inputs, loaded, disk, {_identity(finding) for finding in now}, by, into)
    except SandboxrunError as error:
        first = error.diagnostics[0]
        more = f", and {len(error.diagnostics) - 1} more" if len(error.diagnostics) > 1 else ""
        where = f"{first.span}: " if first.span is not None else ""
        into.gaps.append(Gap(what=str(path), why=f"{where}{first.message}{more}", file=str(path)))
    except OSError as error:
        into.gaps.append(Gap(what=str(path), why=f"it cannot be read: {reason(error)}", file=str(path)))


def held(directory: str) -> tuple[str, ...]:
    """What lies in a directory of what the host runs by itself or by habit."""
    try:
        names = set(islice(os.listdir(directory), 10_000))
    except OSError:
        return ()
    return tuple(name for name in GUARDS if name in names)


def exceeding(profile: Profile, by: ReviewTerms, disk: declared.Disk | None = None) -> Iterator[AuditFinding]:
    """In what the sandboxes of a profile exceed the greatest one: of the same name there, else the only one."""
    if by.greatest is None:
        return
    pairs = zip(by.greatest.sandboxes, declared.subjects(by.greatest), strict=True)
    named = {one.sandbox: Party(side=side_of(one, by.greatest), grants=grants(subject)) for one, subject in pairs}
    only = next(iter(named.values())) if len(named) == 1 else None
    for sandbox, subject in zip(profile.sandboxes, declared.subjects(profile, disk), strict=True):
        greatest = named.get(sandbox.sandbox, only)
        if greatest is None:
            message = f"the greatest profile has no sandbox {sandbox.sandbox}"
            yield placed(EXCEEDS, Hit("", message), subject)
            continue
        for axis, step in over(greatest, Party(side=side_of(sandbox, profile), grants=grants(subject))):
            clause, most = step.state
            message = f"{axis}: {clause}, beyond the greatest profile{f' ({most})' if most else ''}"
            yield placed(EXCEEDS, Hit(step.key, message, item=step.item), subject)


def judging_itself(profile: Profile, by: ReviewTerms, disk: declared.Disk | None = None) -> Iterator[AuditFinding]:
    """The files that sandboxes are judged by, and that one of them may write to."""
    files = own_files(map(Path, by.named)) | (by.greatest.rests_on if by.greatest is not None else frozenset())
    for sandbox, subject in zip(profile.sandboxes, declared.subjects(profile, disk), strict=True) if files else ():
        for key, item, path in may_be_written(sandbox, files):
            message = f"the sandbox may write to {by.path(str(path))}, by which it is judged"
            yield placed(JUDGES_ITSELF, Hit(key, message, item=item), subject)


def refuse(profile: Profile, sources: Sources, environment: Mapping[str, str], today: date) -> None:
    """Raise ProfileError for what the policy does not allow of a profile: the same judging as in a review."""
    by = terms(sources, today=today)
    disk = declared.Disk(real=os.path.realpath, holds=held, caller=environment.get)
    made = declared.subjects(profile, disk)
    others = (*exceeding(profile, by, disk), *judging_itself(profile, by, disk))
    verdict = judge(made, by, files=profile.files, others=others)
    faults = []
    for finding in verdict.at_least(by.policy.fail_on):
        message = f"{', '.join(finding.subjects)}: {finding.message} ({finding.rule})"
        help = f"the policy {policy_file_of(sources)} refuses it: {finding.help}"
        faults.append(Diagnostic(message=message, span=finding.span, help=help))
    if faults:
        raise ProfileError(*faults)


# -- every value that a variable may have

MOST_LOADS = 200
# What an attacker would put into a free variable, by the option whose template it is in.
_WORST: Mapping[str, tuple[Any, ...]] = {
    "user": ("root", "0", "0:0"),
    "group_add": ("docker", ["docker"]),
    "image": ("latest", "busybox:latest"),
    "cap_add": ("SYS_ADMIN", ["SYS_ADMIN"], "ALL", ["ALL"]),
    "cap_drop": ("CHOWN", ["CHOWN"], []),
    "security_opt": ("seccomp=unconfined", ["seccomp=unconfined"], "unconfined", "false"),
    "read_only": (False, "false"),
    "network_mode": ("bridge",),
    "networks": ("default", ["default"]),
    "egress": ("open", ["*.amazonaws.com:443"], "*.amazonaws.com:443", "*.amazonaws.com", "allow"),
    "extra_hosts": ("metadata:169.254.169.254", "169.254.169.254", ["metadata:169.254.169.254"]),
    "volumes": ("/etc", "/", ["/:/host"], "/var/run/docker.sock"),
    "workspace": ("/", "rw", "/etc"),
    "devices": ("/dev/sda", ["/dev/sda"]),
    "userns_mode": ("host",),
    "restart": ("always",),
    "mem_limit": (0, "0"),
    "memswap_limit": (-1, "-1"),
    "cpus": (0, "0"),
    "pids_limit": (-1, 0, "-1"),
    "ulimits": (-1, "-1", 1048576),
    "tmpfs": ("/tmp:exec", "exec", ["/tmp:exec"]),
    "sysctls": ("1",),
    "working_dir": ("/proc/self/fd/8", "self/fd/8"),
    "dns": ("8.8.8.8", ["8.8.8.8"]),
}


def _breaches(subject: Subject, by: ReviewTerms) -> Iterator[AuditFinding]:
    """What of a sandbox the policy does not allow."""
    home = subject.find("", None)
    return breaches(subject, by.path(home.file.name) if home is not None else "", by.policy)


def _vary(
    target: Target,
    inputs: Inputs,
    loaded: Loaded,
    disk: declared.Disk,
    known: set[tuple[Any, ...]],
    by: ReviewTerms,
    into: Reviewed,
) -> None:
    """Load the profile again with other values of its variables: what is found then, and is not `known` from now, is a
    finding too."""
    seen: set[tuple[Any, ...]] = set()  # with another value of one variable: a pair that holds it is no news
    reported: set[tuple[str, str]] = set()
    choosing, complete = other_ways(loaded, inputs)
    if not complete:
        why = "its templates choose in more ways than can be tried"
        into.gaps.append(Gap(what=str(target.paths[0]), why=why, file=str(target.paths[0])))
    for count, other in enumerate((*islice(alternatives(loaded), MOST_LOADS + MOST_PAIRS), *choosing)):
        if count >= MOST_LOADS and len(other.values) == 1:
            why = f"its variables have more than {MOST_LOADS} values to try"
            into.gaps.append(Gap(what=str(target.paths[0]), why=why, file=str(target.paths[0])))
            return
        if other.option and (other.name, other.option) in reported:
            continue
        for subject, finding in _found_in(other.loaded(loaded, inputs), disk, by):
            if _identity(finding) in known or (len(other.values) != 1 and _identity(finding) in seen):
                continue
            if not other.option:
                seen.add(_identity(finding))
                into.findings.append(msgspec.structs.replace(finding, when=other.words))
            elif finding.key == other.option:
                reported.add((other.name, other.option))
                rest = f" where {other.condition}" if len(other.values) > 1 else ""
                message = (
                    f'{other.option} is decided by the variable "{other.name}"{rest}, which may hold anything: with '
                    f"{_shown(other.values[-1][1])}, {finding.message} ({finding.rule})"
                )
                raised = placed(FREE_VARIABLE, Hit(other.option, message, item=finding.item), subject)
                into.findings.append(msgspec.structs.replace(raised, span=other.span or raised.span))
                break


NO_PLACES: Mapping[Place, Any] = MappingProxyType({})


class Alternative(Data, unshown=("values", "assumed")):
    """Other values of one or two variables, or of a template that chooses otherwise. `option` is the one that a free
    variable, the last one, would open; "" where all values are known."""

    values: tuple[tuple[str, Any], ...] = ()
    assumed: Mapping[Place, Any] = NO_PLACES
    option: str = ""
    span: Span | None = None

    @property
    def name(self) -> str:
        """The variable that decides."""
        return self.values[-1][0]

    @property
    def words(self) -> str:
        """The values as a condition."""
        if self.assumed:
            return "its template chooses otherwise"
        return " and ".join(f"{name} is {_shown(value)}" for name, value in self.values)

    @property
    def condition(self) -> str:
        """That of all but the one that decides."""
        return msgspec.structs.replace(self, values=self.values[:-1]).words

    def loaded(self, whole: Loaded, inputs: Inputs) -> Profile | None:
        """The profile then; None where it refuses that."""
        ways = Ways(assumed=self.assumed) if self.assumed else None
        return load_under(whole, inputs, dict(self.values), ways)


MOST_PAIRS = 60
_TASK = ("command", "entrypoint", "healthcheck", "hostname", "labels")  # what it does, not what it may do
_CHOOSES = re.compile(r"[=<>!]=|[<>\[]|\b(?:if|in|is|and|or|not|get)\b")


def other_ways(loaded: Loaded, inputs: Inputs) -> tuple[tuple[Alternative, ...], bool]:
    """What the templates choose by variables that may hold too much to try, each as if it had chosen otherwise; and
    whether these are all. A name that is compared with something hidden in the template chooses whatever it hides."""
    written = loaded.written
    documents = (*written.bases, *written.documents)
    nodes: list[Node] = [node for document in documents for _, node in document.sandboxes.values()]
    nodes += [node for document in documents for block in document.objects.values() for _, node in block.entries]
    if not any(_CHOOSES.search(str(text.value)) for node in nodes for text in _templates(node)):
        return (), True
    closed = {name for name, variable in written.variables.items() if _is_closed(variable.rules)}
    iterated = [node.get("for_each") for node in nodes if isinstance(node, MapNode)]
    used = {word for each in iterated if each is not None for text in _templates(each) for word in _words(text)}
    if used & written.variables.keys() <= closed:
        closed.add("each")
    options = [
        entry for node in nodes if isinstance(node, MapNode) for entry in node.entries if entry[0].value in _TASK
    ]
    spans = (text.span for _, value in options for text in _templates(value))
    task = frozenset((span.file.name, span.line, span.column) for span in spans if span is not None)
    ways = Ways(closed=frozenset(closed), beside=task, exploring=True)
    load_under(loaded, inputs, {}, ways)
    found = [Alternative(assumed={place: value}) for place, values in ways.found.items() for value in values]
    if len(ways.found) > 1:  # what each alone would be refused for
        most = max(map(len, ways.found.values()), default=0)
        rounds = ({place: vs[min(n, len(vs) - 1)] for place, vs in ways.found.items() if vs} for n in range(most))
        found += [Alternative(assumed=together) for together in rounds]
    return tuple(found[:MOST_LOADS]), ways.complete and len(found) <= MOST_LOADS


def _is_closed(rules: VariableRules) -> bool:
    """Whether all its values are tried."""
    return rules.type == "boolean" or (rules.enum is not None and len(rules.enum) <= MOST_LOADS)


def _words(text: Scalar) -> set[str]:
    return set(re.findall(r"[A-Za-z_]\w*", str(text.value)))


def alternatives(loaded: Loaded) -> Iterator[Alternative]:
    """Values that the variables in a profile's templates may have besides those given, one variable after the other,
    then of two that one option is made of, up to `MOST_PAIRS`."""
    uses = _uses(loaded.written)
    singles = {name: list(_singles(name, loaded, uses.get(name, {}))) for name in loaded.written.variables}
    for found in singles.values():
        yield from found
    yield from islice(_pairs(singles, uses), MOST_PAIRS)


def _singles(name: str, loaded: Loaded, options: Mapping[str, Span | None]) -> Iterator[Alternative]:
    variable, now = loaded.written.variables[name], loaded.profile.inputs.get(name)
    kind, fixed = variable.rules.type, _domain(variable.rules)
    if options and fixed is not None:
        for value in fixed:
            if value != now or isinstance(value, bool) != isinstance(now, bool):
                yield Alternative(values=((name, value),))
        return
    for value in _compared(name, loaded.written):
        if isinstance(value, _KINDS.get(kind, ())) and value != now and _fits(variable.rules, value):
            yield Alternative(values=((name, value),))
    for option, span in options.items():
        for value in _WORST.get(option, ()):
            if kind == "object" and isinstance(now, Mapping) and isinstance(value, str):
                value = dict.fromkeys(now, value)  # all that it holds are texts
            typed = isinstance(value, bool) == (kind == "boolean") and isinstance(value, _KINDS.get(kind, ()))
            if typed and _fits(variable.rules, value):
                yield Alternative(values=((name, value),), option=option, span=span)


_LITERAL = re.compile(r"'([^'\\]{1,200})'|\"([^\"\\]{1,200})\"|(?<![\w.])([0-9]{1,18})(?![\w.])")
MOST_COMPARED = 20


def _compared(name: str, written: Written) -> list[Any]:
    """What a variable may be compared with: the texts and numbers in the templates that name it."""
    documents = (*written.bases, *written.documents)
    nodes = (node for document in documents for _, node in document.sandboxes.values())
    texts = (str(text.value) for node in nodes for text in _templates(node) if name in _words(text))
    found = (match for text in texts for match in _LITERAL.finditer(text))
    values = dict.fromkeys(int(match[3]) if match[3] else match[1] or match[2] for match in found)
    return list(islice(values, MOST_COMPARED))


def _pairs(
    singles: Mapping[str, Sequence[Alternative]], uses: Mapping[str, Mapping[str, Span | None]]
) -> Iterator[Alternative]:
    """Of two variables in one option's templates, of which all values of at least one are known."""
    for one, other in combinations(singles, 2):
        shared = uses.get(one, {}).keys() & uses.get(other, {}).keys()
        for a, b in product(singles[one], singles[other]) if shared else ():
            if a.option:
                a, b = b, a
            if not a.option and (not b.option or b.option in shared):
                yield msgspec.structs.replace(b, values=(*a.values, *b.values))


def _identity(finding: AuditFinding) -> tuple[Any, ...]:
    return (finding.rule, finding.subjects, finding.key, finding.item)


def _found_in(profile: Profile | None, disk: declared.Disk, by: ReviewTerms) -> Iterator[tuple[Subject, AuditFinding]]:
    """What is found with other values, and what the policy says of them; nothing where the profile refuses them."""
    if profile is None:
        return
    subjects = {subject.name: subject for subject in declared.subjects(profile, disk)}
    for subject in subjects.values():
        for finding in (*look((subject,)), *_breaches(subject, by)):
            yield subject, finding
    for finding in exceeding(profile, by):
        yield subjects[finding.subjects[0]], finding


def _shown(value: Any) -> str:
    return json.dumps(value) if not isinstance(value, str) else f'"{value}"'


def _domain(rules: VariableRules) -> list[Any] | None:
    """All values of a variable, where they can be counted; None for one that is free."""
    if rules.enum is not None:
        return list(rules.enum[: MOST_LOADS + 2])
    if rules.type == "boolean":
        return [True, False]
    if rules.type in ("integer", "number") and rules.least is not None and rules.most is not None:
        return [rules.least, rules.most]
    return None


def _examples(rules: VariableRules) -> Iterator[Any]:
    """Values that a variable takes."""
    if (domain := _domain(rules)) is not None:
        yield from domain
    candidates: tuple[Any, ...]
    match rules.type:
        case "integer" | "number":
            candidates = (rules.least, rules.most, 1, 0)
        case "array":
            candidates = ([], ["main"], ["api.example.com:443"], [1])
        case "object":
            candidates = ({}, {"a": "b"})
        case _:
            candidates = ("main", "1", "v1.0.0", "example", "api.example.com", "a1b2c3d4", "0" * 40, "2024-01-01", "a")
    yield from (value for value in candidates if value is not None and _fits(rules, value))


_KINDS: Mapping[str, tuple[type, ...]] = {
    "string": (str,), "integer": (int,), "number": (int, float), "array": (list,), "boolean": (bool,),
    "object": (dict,),
}  # fmt: skip


def _fits(rules: VariableRules, value: Any) -> bool:
    try:
        check(value, rules)
    except InputRefused:
        return False
    return True


def _uses(written: Written) -> Mapping[str, Mapping[str, Span | None]]:
    """Which options of sandboxes each variable is in a template of, and where."""
    found: dict[str, dict[str, Span | None]] = {}
    for document in (*written.bases, *written.documents):
        for _, node in document.sandboxes.values():
            for key, value in node.entries:
                option = str(key.value)
                for text in _templates(value):
                    for name in _words(text):
                        found.setdefault(name, {})[option] = text.span
    return found


def _templates(node: Node) -> Iterator[Scalar]:
    match node:
        case Scalar(value=str() as text) if "{{" in text or "{%" in text:
            yield node
        case ListNode():
            for item in node.items:
                yield from _templates(item)
        case MapNode():
            for _, value in node.entries:
                yield from _templates(value)


def exposed(sandboxes: Iterable[DeclaredSandbox], profile: Profile) -> Iterator[Diagnostic]:
    """A warning for each place that gives one of these sandboxes the host, or what its users keep secret: by the
    review's rules, so that both say the same."""
    chosen = {sandbox.address for sandbox in sandboxes}
    subjects = zip(profile.sandboxes, declared.subjects(profile), strict=True)
    for finding in look(subject for sandbox, subject in subjects if sandbox.address in chosen):
        if finding.severity >= Severity.HIGH and finding.key in ("volumes", "workspace"):
            message = f"{finding.subjects[0]}: {finding.message} ({finding.rule})"
            yield Diagnostic(message=message, span=finding.span, help=finding.help, severity="warning")
