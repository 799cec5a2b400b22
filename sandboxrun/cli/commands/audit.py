"""`sandboxrun audit` and `diff`: review profiles and Compose files as a security reviewer would."""

from __future__ import annotations

import datetime
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from sandboxrun import __version__
from sandboxrun.cli import options as opt
from sandboxrun.cli.output import coloured, note, result, shout
from sandboxrun.errors import UsageError, one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sandboxrun.audit.diff import PrivilegeDiff
    from sandboxrun.audit.judge import AuditVerdict, ReviewTerms
    from sandboxrun.lifecycle.review import Target
    from sandboxrun.profile.variables import Inputs


_PATH = click.Path(path_type=Path)
_FORMATS = ("text", "json", "sarif", "markdown", "junit", "github", "gitlab")
_SEVERITIES = ("info", "low", "medium", "high", "critical", "never")
FOUND, NOT_AUDITED = 1, 3
_BESIDE = "--trust-ref and --write-baseline exclude each other: a baseline is written beside its profile"
_RUNNING = "--running and --all-containers review what runs: --fix and --base do not go with them"


@click.command()
@click.argument("paths", nargs=-1, type=_PATH, metavar="[FILE|DIRECTORY]...")
@opt.taking(opt.var, opt.var_file, opt.policy, opt.host, opt.format_of(*_FORMATS), opt.as_json, *opt.SPOKEN)
@click.option(
    "--compose", multiple=True, type=_PATH, metavar="FILE", help="A Compose file; several are merged as one project."
)
@click.option("--running", is_flag=True, help="Review the profile's sandboxes that run, as they are now.")
@click.option("--all-containers", is_flag=True, help="Review every running container of the engine.")
@click.option(
    "--fail-on",
    type=click.Choice(_SEVERITIES),
    help="The least severity that makes the exit code 1. Default: the policy's fail_on, or medium.",
)
@click.option(
    "--persona",
    type=click.Choice(("everyday", "strict")),
    default="everyday",
    show_default=True,
    help="strict shows rules of good practice too.",
)
@click.option("--max-profile", type=_PATH, metavar="FILE", help="No sandbox may exceed what this profile allows.")
@click.option("--waivers", type=_PATH, metavar="FILE", help="Waivers. Default: sandboxrun-waivers.yaml in the root.")
@click.option("--baseline", type=_PATH, metavar="FILE", help="Known findings. Default: sandboxrun-baseline.json.")
@click.option("--write-baseline", is_flag=True, help="Write the baseline; an existing one only shrinks.")
@click.option("--trust-ref", metavar="REF", help="Read policy, waivers and baseline from this revision.")
@click.option("--base", metavar="REV", help="Show what the sandboxes may do that those of this revision could not.")
@click.option("--fail-on-widening", is_flag=True, help="With --base: exit with 1 if a sandbox may do more, or maybe.")
@click.option("--fix", "fixing", is_flag=True, help="Print fixes as a unified diff, each labelled.")
@click.option("--write", "writing", is_flag=True, help="With --fix: write the safe fixes to the files.")
@click.option("--unsafe-fixes", is_flag=True, help="With --fix --write: write those that change behaviour too.")
def audit(
    given: opt.Given,
    paths: tuple[Path, ...],
    compose: tuple[Path, ...],
    running: bool,
    all_containers: bool,
    fail_on: str | None,
    persona: str,
    max_profile: Path | None,
    waivers: Path | None,
    baseline: Path | None,
    write_baseline: bool,
    trust_ref: str | None,
    base: str | None,
    fail_on_widening: bool,
    fixing: bool,
    writing: bool,
    unsafe_fixes: bool,
) -> int:
    """Review profiles and Compose files: what their sandboxes may do, and what that is worth to an attacker.

    Without a path, reviews the profile in the current directory. Needs no engine and runs nothing. Exits with 1 for
    findings of --fail-on or worse, and with 3 if anything could not be audited.
    """
    from sandboxrun.lifecycle import review
    from sandboxrun.profile.files import project_root
    from sandboxrun.spec.names import BASELINE, POLICY, WAIVERS

    form = opt.chosen_format(given)
    live = running or all_containers
    for clashes, message in (
        (writing and not fixing, "--write needs --fix"),
        (unsafe_fixes and not writing, "--unsafe-fixes needs --fix --write"),
        (fail_on_widening and base is None, "--fail-on-widening needs --base"),
        (fixing and base is not None, "--fix and --base exclude each other"),
        (trust_ref is not None and write_baseline, _BESIDE),
        (live and (fixing or base is not None), _RUNNING),
    ):
        if clashes:
            raise UsageError(message)
    named = paths if paths or compose or all_containers else opt.default_files() or (Path(),)
    found, gaps = review.targets(named, compose=compose)
    if not found and not gaps and not all_containers and base is None:
        raise UsageError("there is nothing to audit here", help="pass a profile, a Compose file or a directory")
    root = project_root((*named, *compose, Path())[0])
    sources = review.Sources(
        root=root, policy=given.policy, max_profile=max_profile, waivers=waivers, baseline=baseline
    )
    # Compose files have no variables, and are reviewed without what reads profiles
    inputs = opt.inputs_of(given) if any(target.kind == "profile" for target in found) else None
    today, strict = datetime.datetime.now(datetime.UTC).date(), persona == "strict"
    if trust_ref is None:
        terms = review.terms(sources, today=today, strict=strict)
    else:
        import tempfile

        from sandboxrun.lifecycle.comparing import called
        from sandboxrun.lifecycle.git import Repository

        # the revision's, once it is written into a directory; files that are named are the caller's, read as they are
        repository = Repository(root)
        with tempfile.TemporaryDirectory(prefix="sandboxrun-") as name:
            top = Path(name).resolve()
            with called({top: trust_ref}):
                commit = repository.commit(trust_ref)
                below = root.resolve().relative_to(repository.root)
                repository.check_files(commit, *(str(below / name) for name in (POLICY, WAIVERS, BASELINE)))
                repository.export(commit, top)
                trusted = top / below
                sources = msgspec.structs.replace(sources, trusted=trusted)
                terms = review.terms(sources, today=today, strict=strict, found=found, inputs=inputs)

    def reviewed() -> AuditVerdict:
        return review.review(found, terms, inputs=inputs, gaps=gaps)

    verdict = _live(given, found, terms, inputs, all_containers=all_containers) if live else reviewed()
    if fixing:
        return _fix(verdict, reviewed, writing, unsafe_fixes, quiet=given.quiet)
    if write_baseline and verdict.gaps:
        shout("the baseline was not written: not everything could be audited")
    elif write_baseline:
        path = baseline if baseline is not None else root / BASELINE
        review.write_baseline(path, verdict, terms)
        note(f"wrote {path}", quiet=given.quiet)
        # From here on it is known; what an older baseline had no place for is still found.
        terms = review.terms(sources, today=today, strict=strict)
        verdict = _live(given, found, terms, inputs, all_containers=all_containers) if live else reviewed()
    diff = None
    if base is not None and not verdict.gaps:  # what cannot be loaded cannot be compared: the exit code says so
        from sandboxrun.lifecycle.comparing import since

        diff = since(base, named, found, inputs)
    shown = verdict_in(form, verdict, str(root), diff, verbose=given.verbose)
    result(shown, annotated=form == "github")
    if diff is not None and diff.widens and fail_on_widening:
        return FOUND
    return exit_code(verdict, fail_on or terms.policy.fail_on.word)


def _live(
    given: opt.Given, found: Sequence[Target], terms: ReviewTerms, inputs: Inputs | None, *, all_containers: bool
) -> AuditVerdict:
    """The verdict on what the engine runs: all of it, or the sandboxes of the profiles."""
    from sandboxrun.audit.judge import judge
    from sandboxrun.backend.docker.reviewing import engine_findings, every_container, running_sandboxes
    from sandboxrun.lifecycle.declaring import load_target

    with opt.open_engine(given.host) as engine:
        if all_containers:
            return judge(every_container(engine), terms, others=engine_findings(engine))
        profiles = [load_target(target, inputs).profile for target in found if target.kind == "profile"]
        subjects = [subject for profile in profiles for subject in running_sandboxes(engine, profile.names)]
        return judge(subjects, terms, others=engine_findings(engine))


def _fix(verdict: AuditVerdict, again: Callable[[], AuditVerdict], writing: bool, unsafe: bool, *, quiet: bool) -> int:
    from sandboxrun.lifecycle import fixing

    fixes = fixing.fixes(verdict, unsafe=unsafe or not writing)
    made = fixes.made
    if fixes.left:
        note(f"{fixes.left} findings are not fixed yet: write these fixes, and run the command again", quiet=quiet)
    for gap in verdict.gaps:
        shout(f"not audited: {one_line(gap.what)}: {one_line(gap.why)}")
    code = NOT_AUDITED if verdict.gaps else 0
    if not writing:
        result(fixing.diff(made) or "nothing to fix")
        return code
    fixing.check(made, verdict, again)
    for name in fixing.write(made):
        note(f"wrote {name}: {sum(fix.file == name for fix in made)} fixed", quiet=quiet)
    left = sum(finding.edit is not None for finding in verdict.open) - len(made) - fixes.left
    if not made and left <= 0:
        note("nothing to fix", quiet=quiet)
    if left > 0 and not unsafe:
        note(f"{left} left that change behaviour: pass --unsafe-fixes to write them too", quiet=quiet)
    return code


def exit_code(verdict: AuditVerdict, fail_on: str) -> int:
    """3 where something was not audited, which may be worse than what was found; 1 for findings; else 0."""
    from sandboxrun.audit.finding import SEVERITIES

    if verdict.gaps:
        return NOT_AUDITED
    return FOUND if fail_on != "never" and verdict.at_least(SEVERITIES[fail_on]) else 0


def verdict_in(
    form: str, verdict: AuditVerdict, root: str, diff: PrivilegeDiff | None = None, *, verbose: bool = False
) -> Any:
    """The verdict in one of the formats, and the privilege diff with it."""
    from sandboxrun.report import audit as forms

    if diff is not None:
        match form:
            case "text":
                told = forms.verdict_text(verdict, colour=coloured(sys.stdout), verbose=verbose)
                return f"{forms.diff_text(diff)}\n{told}"
            case "json":
                return {**forms.verdict_json(verdict), "privilege_diff": forms.diff_json(diff)}
            case "markdown":
                return f"{forms.diff_markdown(diff)}\n{forms.verdict_markdown(verdict)}"
        verdict = msgspec.structs.replace(verdict, findings=(*verdict.findings, *forms.widenings(diff)))

    match form:
        case "text":
            return forms.verdict_text(verdict, colour=coloured(sys.stdout), verbose=verbose)
        case "sarif":
            from sandboxrun.lifecycle.fixing import suggester

            return forms.verdict_sarif(verdict, root, __version__, suggester())
        case "gitlab":
            return forms.verdict_gitlab(verdict, root)
    return getattr(forms, f"verdict_{form}")(verdict)


RUNNING = "running"


@click.command()
@click.argument("old")
@click.argument("new")
@opt.taking(*opt.PROJECT, opt.format_of("text", "json", "markdown"), opt.as_json)
@click.option("--fail-on-widening", is_flag=True, help="Exit with 1 if a sandbox may do more, or maybe.")
def diff(given: opt.Given, old: str, new: str, fail_on_widening: bool) -> int:
    """Compare what the sandboxes of OLD and NEW may do, axis by axis, each difference with a witness.

    Each is a profile or Compose file, REVISION:FILE, or a revision (of the profile that --file names). One may be the
    word `running`: the other profile's sandboxes as they are on the engine. MAYBE means that nobody can tell.
    """
    from sandboxrun.lifecycle.comparing import between
    from sandboxrun.report.audit import diff_json, diff_markdown, diff_text

    form = opt.chosen_format(given)
    if RUNNING in (old, new):  # beside a profile on the disk, which is loaded as `plan` loads it
        from sandboxrun.lifecycle import apply as planning
        from sandboxrun.lifecycle.comparing import with_running

        name = new if old == RUNNING else old
        if not os.path.exists(name):
            raise UsageError(f'"{name}" is not a file', help=f"`{RUNNING}` is compared with a profile on the disk")
        profile = opt.load_profile(given._replace(files=(Path(name),)))
        with opt.open_engine(given.host) as engine:
            plan = planning.plan_changes(engine, profile, opt.open_store(profile, given))
        found = with_running(plan, profile, running_is_new=new == RUNNING)
    else:
        found = between(_side(old, given.files), _side(new, given.files), opt.inputs_of(given))
    forms: dict[str, Any] = {"json": diff_json, "markdown": diff_markdown}
    result(forms.get(form, diff_text)(found))
    return 1 if fail_on_widening and found.widens else 0


def _side(text: str, files: tuple[Path, ...]) -> tuple[str | None, Path]:
    """A revision (None is the disk) and a path."""
    if os.path.exists(text):
        return None, Path(text)
    revision, colon, path = text.partition(":")
    if colon and path:
        return revision, Path(path)
    named = files or opt.default_files()
    if len(named) != 1:
        raise UsageError(f'"{text}" is not a file', help="for a revision, pass its profile with --file")
    return text, named[0]
