"""The review of files: finding them, what they are judged by, Compose files, and the verdict.

Owns what of the disk a review reads. What it judges by is `audit`'s; nothing is run, and no engine is asked. How a
profile is loaded for it is `declaring`'s, which a review of Compose files does not import.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from datetime import date
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from sandboxrun.audit.finding import AuditFinding, Hit, placed
from sandboxrun.audit.judge import (
    AuditVerdict,
    Gap,
    KnownFindings,
    ReviewTerms,
    Waiver,
    baseline_data,
    inline,
    judge,
    look,
    parse_baseline,
    parse_waivers,
)
from sandboxrun.audit.policy import parse_policy
from sandboxrun.audit.rules.meta import FREE_VARIABLE
from sandboxrun.audit.subject import Subject
from sandboxrun.data import Data
from sandboxrun.errors import MapNode, Problems, SourceFile, UsageError
from sandboxrun.profile.files import LARGEST_FILE, is_there, project_root, read_regular, read_source, reason
from sandboxrun.profile.yaml import parse_yaml
from sandboxrun.spec.names import BASELINE, POLICY, PROFILES, WAIVERS

if TYPE_CHECKING:
    from sandboxrun.compose.files import Services
    from sandboxrun.compose.service import ComposeSubjects
    from sandboxrun.profile.variables import Inputs
    from sandboxrun.spec.project import Profile

# In the order in which Compose looks for them.
COMPOSE_NAMES = ("compose.yaml", "compose.yml", "docker-compose.yml", "docker-compose.yaml")
OVERRIDES = ("compose.override.yml", "compose.override.yaml", "docker-compose.override.yml",
             "docker-compose.override.yaml")  # fmt: skip
MOST_FILES = 20_000
_SKIPPED = frozenset({".git", "node_modules", ".venv", "venv", ".sandboxrun", ".tox", "__pycache__", ".mypy_cache"})
_PROFILE = re.compile(r"^[\"']?sandboxes[\"']?\s*:", re.MULTILINE)
_COMPOSE = re.compile(r"^[\"']?services[\"']?\s*:|^\{\s*[\"']?services|^include\s*:", re.MULTILINE)
_MAY_HOLD = re.compile(r"sandboxes|services|include|\\[xuU\r\n]")  # in whatever spelling YAML has for a key
_MAY_BE_PROFILE = re.compile(r"sandboxes|\\[xuU\r\n]")


class Target(Data):
    """What is audited together: a profile, or the files of one Compose project."""

    kind: str
    paths: tuple[Path, ...]


# -- finding files


def targets(paths: Sequence[Path], *, compose: Sequence[Path] = ()) -> tuple[tuple[Target, ...], tuple[Gap, ...]]:
    """What the paths name: files by what they hold, directories with all that is in them. `compose` are Compose files
    merged as one project. Raises UsageError for a path that is not there."""
    found: list[Target] = []
    gaps: list[Gap] = []
    for path in paths:
        if path.is_dir():
            found += _in_directory(path, gaps)
        elif not os.path.lexists(path):
            raise UsageError(f"{path} does not exist", help="pass a profile, a Compose file or a directory")
        else:
            try:
                kind = _held(path) or ("compose" if path.name in (*COMPOSE_NAMES, *OVERRIDES) else None)
                why = "it is neither a profile nor a Compose file"
            except OSError as error:
                kind, why = None, f"it cannot be read: {reason(error)}"
            if kind is not None:
                found += _targets(kind, path)
            else:
                gaps.append(Gap(what=str(path), why=why, file=str(path)))
    if compose:
        found.append(Target(kind="compose", paths=tuple(compose)))
    unique = {target.paths: target for target in found}
    return tuple(unique.values()), tuple(gaps)


def _targets(kind: str, path: Path) -> list[Target]:
    """What is audited of one file. A Compose file that is found by its name has each override file with it that Compose
    may take: the first directory's file any, another one those called like it. An override goes with its file."""
    if kind != "compose" or path.name not in (*COMPOSE_NAMES, *OVERRIDES):
        return [Target(kind=kind, paths=(path,))]
    there = [name for name in COMPOSE_NAMES if (path.parent / name).is_file()]
    pairs = [
        (name, over)
        for name in there
        for over in OVERRIDES
        if (path.parent / over).is_file() and (name == there[0] or over.startswith(f"{Path(name).stem}.override."))
    ]
    found: list[tuple[str, ...]] = [pair for pair in pairs if path.name in pair] or [(path.name,)]
    return [Target(kind=kind, paths=tuple(path.parent / name for name in names)) for names in found]


def _instead(path: Path) -> Iterator[Target]:
    """The Compose files that an environment file names: Compose takes them in place of those with its own names."""
    from sandboxrun.compose.files import files_named

    file = read_source(path, str(path), Problems())
    if file is not None and (names := files_named(file)):
        yield Target(kind="compose", paths=tuple(path.parent / name for name in names))


def _held(path: Path) -> str | None:
    """What a YAML file is, by the keys of its top level; None for neither profile nor Compose file. Raises OSError."""
    text = read_regular(path, LARGEST_FILE).decode("utf-8-sig", "replace")
    if _PROFILE.search(text):
        return "profile"
    compose = _COMPOSE.search(text) is not None  # or a line of a text in it
    if compose and not _MAY_BE_PROFILE.search(text):
        return "compose"
    root = parse_yaml(SourceFile(name="", text=text), Problems()) if _MAY_HOLD.search(text) else None
    if not isinstance(root, MapNode):
        return "compose" if compose else None
    if root.get("sandboxes") is not None:
        return "profile"
    named = root.get("services") is not None or root.get("include") is not None
    return "compose" if compose or named else None


def _in_directory(top: Path, gaps: list[Gap]) -> Iterator[Target]:
    """Profiles by what they hold, Compose files by their names. Links are not followed; one that is named as either,
    and leads to nothing that is found, is a gap."""
    count = 0
    links: list[Path] = []
    seen: set[str] = set()

    def unreadable(error: OSError) -> None:
        where = str(error.filename or top)
        gaps.append(Gap(what=where, why=f"it cannot be read: {reason(error)}", file=where))

    for directory, names, found in os.walk(top, onerror=unreadable):
        names[:] = sorted(name for name in names if name not in _SKIPPED)
        for name in sorted(found):
            path = Path(directory, name)
            if name == ".env" and path.is_file():
                yield from _instead(path)
            if not name.lower().endswith((".yaml", ".yml")):
                continue
            if path.is_symlink():
                links += [path] * (name in (*PROFILES, *COMPOSE_NAMES))
                continue
            count += 1
            if count > MOST_FILES:
                gaps.append(Gap(what=str(top), why=f"it holds more than {MOST_FILES} YAML files"))
                return
            if name in OVERRIDES:
                continue
            try:
                kind = _held(path) or ""
            except PermissionError as error:
                gaps.append(Gap(what=str(path), why=f"it cannot be read: {reason(error)}", file=str(path)))
                continue
            except OSError:  # no profile either: none is as large, or anything but a regular file
                kind = ""
            if name in COMPOSE_NAMES or kind == "profile":
                kind = kind or "compose"
                seen.add(os.path.realpath(path))
                yield from _targets(kind, path)
    gaps += [
        Gap(what=str(link), why="it is a link, which is not followed: name it as an argument", file=str(link))
        for link in links
        if os.path.realpath(link) not in seen
    ]


# -- what it is judged by


class Sources(Data):
    """Where policy, waivers and baseline are; None finds them in the project's root, or in `trusted`: a directory that
    holds the root as it is in a revision."""

    root: Path
    trusted: Path | None = None
    policy: Path | None = None
    max_profile: Path | None = None
    waivers: Path | None = None
    baseline: Path | None = None

    @property
    def top(self) -> Path:
        """The directory that holds them."""
        return self.trusted if self.trusted is not None else self.root


def terms(
    sources: Sources,
    *,
    today: date,
    strict: bool = False,
    found: Sequence[Target] = (),
    inputs: Inputs | None = None,
) -> ReviewTerms:
    """What the review judges by. `found`, with their `inputs`, is what it is about: of a trusted revision they say what
    comments waive there. Raises ProfileError for a policy, waivers or a baseline that is wrong."""
    problems = Problems()
    policy_file = _source(sources, sources.policy, POLICY, problems)
    waivers_file = _source(sources, sources.waivers, WAIVERS, problems)
    baseline_file = _source(sources, sources.baseline, BASELINE, problems)
    nodes = [parse_yaml(file, problems) if file is not None else None for file in (policy_file, waivers_file)]
    policy, waivers = parse_policy(nodes[0], problems), parse_waivers(nodes[1], problems)
    baseline: KnownFindings | None = None
    if baseline_file is not None:
        try:
            data: Any = json.loads(baseline_file.text)
        except (ValueError, RecursionError):
            data = None
        baseline = parse_baseline(data, problems, baseline_file.name)
    problems.check()

    @cache  # every finding asks
    def path(name: str) -> str:
        return os.path.relpath(name, sources.root).replace(os.sep, "/")

    greatest = sources.max_profile
    if greatest is None and policy.max_profile is not None:
        greatest = (policy_file_of(sources).parent / policy.max_profile) if policy_file else None
    most: Profile | None = None
    if greatest is not None:  # read from the disk: a policy that names one names a file
        from sandboxrun.lifecycle.declaring import load_target

        most = load_target(Target(kind="profile", paths=(greatest,)), greatest=True).profile
    named = (sources.policy, sources.max_profile, sources.waivers, sources.baseline)
    by = ReviewTerms(
        policy=policy,
        waivers=waivers,
        baseline=baseline,
        today=today,
        strict=strict,
        path=path,
        greatest=most,
        named=tuple(str(file) for file in named if file is not None),
    )
    if sources.trusted is None:
        return by
    known = _inline_waivers(sources.trusted)
    waived = _waived_then(sources.root, sources.trusted, found, by, inputs)

    def trusted(waiver: Waiver, finding: AuditFinding | None) -> bool:
        identity = (path(waiver.file), *waiver.identity)
        if finding is None:
            return identity in known
        return all((identity, finding.rule, name) in waived for name in _declared(finding))

    return msgspec.structs.replace(by, trusted=trusted)


def _waived_then(
    root: Path, top: Path, found: Sequence[Target], by: ReviewTerms, inputs: Inputs | None
) -> frozenset[tuple[object, ...]]:
    """What comments of a revision, whose root is at `top`, waive of the targets as they are there: each comment with
    the rule and the sandbox. A copy of a line elsewhere, or a new sandbox that extends one, was not accepted."""
    earlier = []
    for target in found:
        paths = [top / os.path.relpath(os.path.realpath(path), os.path.realpath(root)) for path in target.paths]
        earlier += (
            [Target(kind=target.kind, paths=tuple(there))] if (there := [p for p in paths if p.is_file()]) else []
        )

    @cache  # every finding asks
    def path(name: str) -> str:
        return os.path.relpath(name, top).replace(os.sep, "/")

    waivers: dict[tuple[str, int | None], list[Waiver]] = {}
    read, waived = set(), set()
    for finding in review(earlier, msgspec.structs.replace(by, path=path, baseline=None), inputs=inputs).findings:
        if (span := finding.span) is None:
            continue
        if span.file.name not in read:
            read.add(span.file.name)
            for waiver in inline(span.file):
                waivers.setdefault((waiver.file, waiver.line), []).append(waiver)
        for waiver in waivers.get((span.file.name, span.line), ()):
            identity = (path(waiver.file), *waiver.identity)
            waived |= {(identity, finding.rule, name) for name in _declared(finding) if finding.rule in waiver.rules}
    return frozenset(waived)


def _declared(finding: AuditFinding) -> list[str]:
    """The sandboxes of a finding as they are declared, without the items of `for_each`."""
    return [name.partition("[")[0] for name in finding.subjects] or [""]


def _inline_waivers(top: Path) -> frozenset[tuple[object, ...]]:
    """The inline waivers of all files of a directory, each with its file's path there."""
    found = []
    for directory, _, names in os.walk(top):
        for name in (name for name in names if name.endswith((".yaml", ".yml"))):
            at = Path(directory, name)
            file = SourceFile(name=str(at.relative_to(top)), text=at.read_text("utf-8", "replace"))
            found += [(file.name, *waiver.identity) for waiver in inline(file)]
    return frozenset(found)


def policy_file_of(sources: Sources) -> Path:
    """Where the policy is."""
    return sources.policy if sources.policy is not None else sources.top / POLICY


def _source(sources: Sources, given: Path | None, name: str, problems: Problems) -> SourceFile | None:
    if given is not None:
        return read_source(given, str(given), problems)
    path = sources.top / name
    shown = name if sources.trusted is not None else os.path.relpath(path)
    return read_source(path, shown, problems) if is_there(path) else None  # a link to nothing is an error


# -- loading


class Reviewed(msgspec.Struct, kw_only=True):
    """What loading gave: what can be judged and what the rules find in it, what was found on the way, what could not be
    audited, and the texts."""

    subjects: list[Subject] = msgspec.field(default_factory=list)
    looked: list[AuditFinding] = msgspec.field(default_factory=list)
    findings: list[AuditFinding] = msgspec.field(default_factory=list)
    gaps: list[Gap] = msgspec.field(default_factory=list)
    files: dict[str, SourceFile] = msgspec.field(default_factory=dict)


def review(
    found: Sequence[Target], by: ReviewTerms, *, inputs: Inputs | None = None, gaps: Sequence[Gap] = ()
) -> AuditVerdict:
    """The verdict on targets."""
    loaded = Reviewed(gaps=list(gaps))
    for target in found:
        if target.kind == "profile":
            from sandboxrun.lifecycle.declaring import add_profile

            add_profile(target, inputs, by, loaded)
        else:
            _compose(target, loaded)
    return judge(
        loaded.subjects,
        by,
        files=loaded.files.values(),
        looked=loaded.looked,
        others=loaded.findings,
        gaps=loaded.gaps,
    )


def load_services(target: Target) -> tuple[Services, ComposeSubjects]:
    """The files of a Compose project put together, and what they say."""
    from sandboxrun.compose import files, service

    root = os.path.realpath(project_root(target.paths[0]))

    def read(path: str) -> SourceFile | None:
        """Files of the repository only: others may be anybody's, and a Compose file could name any."""
        real = os.path.realpath(path)
        if not (real == root or real.startswith(root + os.sep)) or not os.path.isfile(real):
            return None
        problems = Problems()
        source = read_source(Path(real), path, problems)
        for fault in problems.diagnostics:
            unread[path] = fault.message
        return source

    unread: dict[str, str] = {}

    def leads(path: str) -> str | None:
        """Where an engine would follow a path to."""
        real = os.path.realpath(path)
        return None if real == root or real.startswith(root.rstrip(os.sep) + os.sep) else real

    loaded = files.load([os.path.normpath(str(path)) for path in target.paths], read, leads=leads)
    made = service.subjects(loaded)
    missing = (msgspec.structs.replace(one, why=unread.get(one.file, one.why)) for one in made.missing)
    return loaded, msgspec.structs.replace(made, missing=tuple(missing))


def _compose(target: Target, into: Reviewed) -> None:
    loaded, made = load_services(target)
    into.files.update({file.name: file for file in loaded.files})
    into.gaps += [
        Gap(what=fault.message, why="the file is not valid", file=str(fault.span or "")) for fault in loaded.faults
    ]
    into.gaps += [Gap(what=one.what, why=one.why, file=one.file) for one in made.missing]
    into.subjects += made.subjects
    into.looked += look(made.subjects)
    for subject in made.subjects:
        for option, _, variable in (text.partition("=") for text in made.free.get(subject.name, ())):
            message = f"{option} is decided by ${{{variable}}}, which may hold anything"
            into.findings.append(placed(FREE_VARIABLE, Hit(option, message), subject))


def write_baseline(path: Path, verdict: AuditVerdict, by: ReviewTerms) -> None:
    """Write the open findings to the baseline. One that is there already only shrinks."""
    data = baseline_data(verdict.findings, by.baseline)
    path.write_text(json.dumps(data, indent=2, ensure_ascii=True) + "\n", encoding="utf-8")
