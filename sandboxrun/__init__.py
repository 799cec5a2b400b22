"""sandboxrun: a declarative runner for agent sandboxes on Docker.

The names below are the Python API. They are imported on first use, so that importing the package costs
nothing on the command line's start-up path.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from sandboxrun.api.events import (
        SandboxCaptured,
        SandboxCreated,
        SandboxEnded,
        SandboxEvent,
        SandboxKept,
        SandboxReaped,
        SandboxRemoved,
        SandboxStarted,
    )
    from sandboxrun.api.processes import ProcessFailed
    from sandboxrun.api.service import ExecResult, ExecTimeout, Sandbox, SandboxService
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
    "SandboxCaptured": "api.events",
    "SandboxCreated": "api.events",
    "SandboxEnded": "api.events",
    "SandboxEvent": "api.events",
    "SandboxKept": "api.events",
    "SandboxReaped": "api.events",
    "SandboxRemoved": "api.events",
    "SandboxStarted": "api.events",
    "ExecResult": "api.service",
    "ExecTimeout": "api.service",
    "Sandbox": "api.service",
    "SandboxService": "api.service",
    "Settings": "api.settings",
    "AgentResult": "api.spawner",
    "AgentSession": "api.spawner",
    "AgentSpawner": "api.spawner",
    "AgentState": "api.spawner",
    "connect": "backend.docker.client",
    "EngineError": "backend.errors",
    "EngineTimeout": "backend.errors",
    "EngineUnreachable": "backend.errors",
    "ApplyError": "errors",
    "PlanError": "errors",
    "ProfileError": "errors",
    "SandboxrunError": "errors",
    "UsageError": "errors",
    "Store": "evidence.store",
    "last_line": "evidence.store",
    "verify_chain": "evidence.checking",
    "ApplySettings": "lifecycle.apply",
    "apply": "lifecycle.apply",
    "destroy": "lifecycle.apply",
    "plan": "lifecycle.apply",
    "WaitTimeout": "lifecycle.job",
    "Finding": "probe.verdicts",
    "Verdict": "probe.verdicts",
    "load": "profile.loader",
    "Inputs": "profile.variables",
    "NotFound": "backend.errors",
    "NameConflict": "backend.errors",
    "RegistryError": "backend.errors",
    "Unsupported": "backend.errors",
    "LockHeld": "backend.errors",
    "LockLost": "backend.errors",
    "DependencyFailed": "backend.errors",
    "EvidenceError": "evidence.errors",
    "Unverified": "lifecycle.verify",
    "RunFailed": "lifecycle.run",
    "ProcessFailed": "api.processes",
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


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"sandboxrun.{_HOME[name]}"), name)
