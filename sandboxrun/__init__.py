"""sandboxrun: a declarative runner for agent sandboxes on Docker.

The names below are the Python API. They are imported on first use, so that importing the package costs
nothing on the command line's start-up path.
"""

__version__ = "0.1.0"

TYPE_CHECKING = False  # not typing's: a ^C while that is read would show a traceback, for nothing catches it yet
if TYPE_CHECKING:
    from typing import Any

    from sandboxrun.api.processes import ProcessFailed
    from sandboxrun.api.service import (
        ExecResult,
        ExecTimeout,
        Sandbox,
        SandboxCaptured,
        SandboxCreated,
        SandboxEnded,
        SandboxEvent,
        SandboxKept,
        SandboxReaped,
        SandboxRemoved,
        SandboxService,
        SandboxStarted,
    )
    from sandboxrun.api.settings import Settings
    from sandboxrun.api.spawner import AgentResult, AgentSession, AgentSpawner, AgentState
    from sandboxrun.backend.docker.client import connect
    from sandboxrun.backend.errors import (
        DependencyFailed,
        EngineError,
        EngineTimeout,
        EngineUnreachable,
        LockHeld,
        LockLost,
        NameConflict,
        NotFound,
        RegistryError,
        Unsupported,
    )
    from sandboxrun.errors import ApplyError, PlanError, ProfileError, SandboxrunError, UsageError
    from sandboxrun.evidence.checking import verify_chain
    from sandboxrun.evidence.errors import EvidenceError
    from sandboxrun.evidence.store import Store, last_line
    from sandboxrun.lifecycle.apply import ApplySettings, apply, destroy, plan
    from sandboxrun.lifecycle.job import WaitTimeout
    from sandboxrun.lifecycle.run import RunFailed
    from sandboxrun.lifecycle.verify import Unverified
    from sandboxrun.probe.verdicts import Finding, Verdict
    from sandboxrun.profile.loader import load
    from sandboxrun.profile.variables import Inputs

_HOME = {
    name: module
    for module, names in {
        "api.processes": "ProcessFailed",
        "api.service": "ExecResult ExecTimeout Sandbox SandboxCaptured SandboxCreated SandboxEnded SandboxEvent "
        "SandboxKept SandboxReaped SandboxRemoved SandboxService SandboxStarted",
        "api.settings": "Settings",
        "api.spawner": "AgentResult AgentSession AgentSpawner AgentState",
        "backend.docker.client": "connect",
        "backend.errors": "DependencyFailed EngineError EngineTimeout EngineUnreachable LockHeld "
        "LockLost NameConflict NotFound RegistryError Unsupported",
        "errors": "ApplyError PlanError ProfileError SandboxrunError UsageError",
        "evidence.checking": "verify_chain",
        "evidence.errors": "EvidenceError",
        "evidence.store": "Store last_line",
        "lifecycle.apply": "ApplySettings apply destroy plan",
        "lifecycle.job": "WaitTimeout",
        "lifecycle.run": "RunFailed",
        "lifecycle.verify": "Unverified",
        "probe.verdicts": "Finding Verdict",
        "profile.loader": "load",
        "profile.variables": "Inputs",
    }.items()
    for name in names.split()
}
__all__ = [
    "AgentResult",
    "AgentSession",
    "AgentSpawner",
    "AgentState",
    "ApplyError",
    "ApplySettings",
    "DependencyFailed",
    "EngineError",
    "EngineTimeout",
    "EngineUnreachable",
    "EvidenceError",
    "ExecResult",
    "ExecTimeout",
    "Finding",
    "Inputs",
    "LockHeld",
    "LockLost",
    "NameConflict",
    "NotFound",
    "PlanError",
    "ProcessFailed",
    "ProfileError",
    "RegistryError",
    "RunFailed",
    "Sandbox",
    "SandboxCaptured",
    "SandboxCreated",
    "SandboxEnded",
    "SandboxEvent",
    "SandboxKept",
    "SandboxReaped",
    "SandboxRemoved",
    "SandboxService",
    "SandboxStarted",
    "SandboxrunError",
    "Settings",
    "Store",
    "Unsupported",
    "Unverified",
    "UsageError",
    "Verdict",
    "WaitTimeout",
    "__version__",
    "apply",
    "connect",
    "destroy",
    "last_line",
    "load",
    "plan",
    "verify_chain",
]


def __getattr__(name: str) -> "Any":
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"sandboxrun.{_HOME[name]}"), name)
