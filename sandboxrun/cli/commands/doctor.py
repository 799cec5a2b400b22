"""`sandboxrun doctor`: the engine, and whether it can enforce the profile."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from sandboxrun.cli import options as opt
from sandboxrun.cli.output import note, result

if TYPE_CHECKING:
    from sandboxrun.backend.docker.client import Engine
    from sandboxrun.backend.docker.connect import Endpoint
    from sandboxrun.errors import Diagnostic, SandboxrunError
    from sandboxrun.spec.project import Profile


@click.command()
@opt.on_engine
@opt.as_json
def doctor(given: opt.Given, host: str | None, as_json: bool) -> int:
    """Show what the engine offers and, if there is a profile, which of its options the engine cannot enforce.

    Exits with 1 if something cannot be enforced, or if no engine answers.
    """
    from sandboxrun.backend.docker.connect import connect, resolve
    from sandboxrun.backend.errors import EngineError

    endpoint = resolve(host, os.environ)
    try:
        engine = connect(host)
    except EngineError as error:
        return _unreachable(error, host, endpoint, as_json)
    with engine:
        return _examine(engine, endpoint, given, as_json)


def _examine(engine: Engine, endpoint: Endpoint, given: opt.Given, as_json: bool) -> int:
    from sandboxrun.backend.docker.facts import engine_facts
    from sandboxrun.backend.docker.filesystem import filters_paths
    from sandboxrun.cli import doctoring

    facts = engine_facts(engine.version(), engine.info(), engine.networks())
    shares, why = engine.shares_filesystem(), engine.filesystem_reason()
    files = given.files or _default_files()
    profile = _profile(given) if files else None
    faults = _faults(engine, profile) if profile is not None else []
    if as_json:
        told: dict[str, Any] = {"engine": doctoring.engine_plain(facts, engine.api_version, endpoint, shares, why)}
        told["gateway"] = doctoring.gateway_plain(engine)
        told["host_filters_paths"] = filters_paths(engine)
        told["profile"] = None if profile is None else _profile_plain(profile, faults)
        result(told)
        return 1 if faults else 0
    lines = [
        *doctoring.engine_lines(facts, engine.api_version, endpoint, shares, why),
        doctoring.gateway_line(engine),
        doctoring.broadcasts_line(filters_paths(engine)),
    ]
    width = max(len(name) for name, _ in lines)
    result("\n".join(f"{name:<{width}}  {text}" for name, text in lines))
    for warning in facts.warnings:
        result(f"{'warning':<{width}}  {warning}")
    if profile is None:
        note("\nThere is no profile here to check against it: pass one with --file.")
        return 0
    return _verdict(profile, faults)


def _default_files() -> tuple[Any, ...]:
    from sandboxrun.cli.project import default_files

    return default_files()


def _profile(given: opt.Given) -> Profile:
    from sandboxrun.cli.project import load_profile

    return load_profile(given)


def _faults(engine: Engine, profile: Profile) -> list[Diagnostic]:
    from sandboxrun.backend.docker.observe import offers_of
    from sandboxrun.plan.preflight import preflight

    return preflight(profile.sandboxes, profile, offers_of(engine, engine.info(), profile.sandboxes))


def _profile_plain(profile: Profile, faults: list[Diagnostic]) -> dict[str, Any]:
    from sandboxrun.report.diagnostics import diagnostic_json

    return {
        "project": profile.project,
        "sandboxes": [sandbox.address for sandbox in profile.sandboxes],
        "enforceable": not faults,
        "faults": [diagnostic_json(fault) for fault in faults],
    }


def _verdict(profile: Profile, faults: list[Diagnostic]) -> int:
    from sandboxrun.cli.output import tell

    count = len(profile.sandboxes)
    of_what = f"{count} sandbox{'' if count == 1 else 'es'}"
    if not faults:
        result(f"\nproject {profile.project}: every option of its {of_what} can be enforced here")
        return 0
    options = f"{len(faults)} option{'' if len(faults) == 1 else 's'}"
    result(f"\nproject {profile.project}: {options} of its {of_what} can't be enforced here")
    for fault in faults:
        tell(fault)
    return 1


def _unreachable(error: SandboxrunError, host: str | None, endpoint: Endpoint, as_json: bool) -> int:
    """No engine: where it was looked for, and what to do."""
    from sandboxrun.cli import doctoring

    if as_json:
        message = error.diagnostics[0].message
        result({"engine": None, "endpoint": endpoint.url, "origin": endpoint.origin, "error": message})
        return 1
    lines = [f"no engine: {error.diagnostics[0].message}", "", "looked for in this order:"]
    lines += [f"  {line}" for line in doctoring.sought(host, os.environ, endpoint)]
    lines += ["", "what to do:", *(f"  - {line}" for line in doctoring.advice(endpoint))]
    result("\n".join(lines))
    return 1
