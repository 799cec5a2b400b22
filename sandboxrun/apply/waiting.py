"""Waits for what another sandbox must have reached: `depends_on`. No decisions."""

from __future__ import annotations

from time import sleep

from sandboxrun.apply.events import StepProgress
from sandboxrun.apply.session import Session
from sandboxrun.errors import ApplyError
from sandboxrun.model.observed import Completed, Created, Ended, Running, State, read_state
from sandboxrun.plan import operations as op

EVERY = 0.1  # seconds between looks


class DependencyFailed(ApplyError):
    """What a sandbox waits for can't come any more: `dependency` (an address) has ended, and `ending` says how."""

    def __init__(self, address: str, dependency: str, ending: str, *, help: str | None = None) -> None:
        super().__init__(f"{address} needs {dependency}, which {ending}", help=help)
        self.address, self.dependency, self.ending = address, dependency, ending


def await_condition(step: op.AwaitSandbox, session: Session) -> None:
    """Wait until the condition holds. Raises ApplyError when it no longer can."""
    container = _container(step, session)
    if container is None:
        return _by_record(step, session)
    if isinstance(container, Ended):  # torn down in this very apply, perhaps already
        _holds(step, container)
        return None
    session.listener(StepProgress(step=step, text=""))
    while not _holds(step, read_state(session.engine.inspect_container(container).get("State") or {})):
        if step.address in session.abandoned:
            return None  # nothing waits for it any more: the failure is that of the step that kept it from starting
        if session.stop.is_set():
            raise ApplyError(f"stopped while waiting for {step.dependency}")
        sleep(EVERY)
    return None


def _container(step: op.AwaitSandbox, session: Session) -> str | Ended | None:
    """The container to look at; the state it had when the plan was made if it had ended by then."""
    made = session.made.get(step.dependency)
    if made is not None:
        return made.id
    for observed in session.snapshot.sandboxes:
        if observed.address == step.dependency and not observed.one_off:
            return observed.state if isinstance(observed.state, Ended) else observed.id
    return None


def _by_record(step: op.AwaitSandbox, session: Session) -> None:
    """The dependency ran in an earlier run and is gone: the record says how it ended."""
    declared = session.profile.sandbox(step.dependency)
    digest = declared.spec.digest if declared is not None else ""
    record: Completed | None = session.snapshot.completed.get(step.dependency, {}).get(digest)
    if record is None:
        raise ApplyError(f"{step.address} needs {step.dependency}, which is not there", help="--rerun runs it again")
    if step.condition == "service_completed_successfully" and not record.succeeded:
        raise DependencyFailed(
            step.address, step.dependency, f"{record.ending} in an earlier run", help="--rerun runs it again"
        )


def _holds(step: op.AwaitSandbox, state: State) -> bool:
    match step.condition, state:
        case _, Created():
            return False
        case "service_started", _:
            return True
        case "service_healthy", Running(health="healthy"):
            return True
        case "service_healthy", Running(health=None):
            raise ApplyError(
                f"{step.address} waits for {step.dependency} to be healthy, which has no healthcheck",
                help="give it a healthcheck:, or use condition: service_started",
            )
        case "service_healthy", Running(health="unhealthy"):
            raise ApplyError(f"{step.address} needs {step.dependency}, which is unhealthy")
        case "service_completed_successfully", Ended(succeeded=True):
            return True
        case _, Ended() as ended:
            raise DependencyFailed(step.address, step.dependency, ended.ending)
    return False
