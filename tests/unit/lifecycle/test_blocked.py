"""What a failed dependency comes to: who was not started, why, and the one exit code."""

from __future__ import annotations

from msgspec import structs

from sandboxrun.backend.errors import DependencyFailed
from sandboxrun.errors import ApplyError, SandboxrunError
from sandboxrun.lifecycle.apply import Applied, Failure, not_started
from sandboxrun.plan import operations as op
from sandboxrun.spec.project import DeclaredSandbox
from sandboxrun.spec.records import Dependency
from sandboxrun.spec.types import freeze
from tests.unit.plan.world import declared, profile


def needing(name: str, *others: str) -> DeclaredSandbox:
    return structs.replace(declared(name), depends_on=freeze({other: Dependency() for other in others}))


PROFILE = profile(needing("last", "main"), needing("main", "prepare", "seed"), declared("prepare"), declared("seed"))


def applied(*errors: SandboxrunError, left_out: tuple[str, ...] = ("last", "main")) -> Applied:
    step = op.AwaitSandbox(id="await main prepare", address="main", cause="", dependency="prepare", condition="")
    failures = tuple(Failure(step=step, error=error) for error in errors)
    return Applied(done=(), failures=failures, skipped=(), left_out=left_out)


def test_who_needs_what_failed_is_not_started_nor_who_needs_that() -> None:
    one = DependencyFailed("main", "prepare", "exited with 3")
    two = DependencyFailed("main", "seed", "was killed for exceeding its memory limit")
    assert str(one) == "error: main needs prepare, which exited with 3"
    assert not_started(PROFILE, applied(one, two)) == {
        "main": "not started: prepare exited with 3; seed was killed for exceeding its memory limit",
        "last": "not started: main was not started",
    }
    assert not_started(PROFILE, applied(one, left_out=("main", "stranger"))) == {
        "main": "not started: prepare exited with 3"
    }


def test_another_failure_beside_it_stays_an_error() -> None:
    failed = DependencyFailed("main", "prepare", "exited with 3")
    assert not_started(PROFILE, applied()) == {}
    assert not_started(PROFILE, applied(failed, ApplyError("no space"))) == {}
    assert not applied().dependencies_failed and applied(failed).dependencies_failed
