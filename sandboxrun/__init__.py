"""sandboxrun: a declarative runner for agent sandboxes on Docker.

The names below are the Python API. They are imported on first use, so that importing the package costs
nothing on the command line's start-up path.
"""

__version__ = "0.1.0"

TYPE_CHECKING = False  # not typing's: a ^C while that is read would show a traceback, for nothing catches it yet
if TYPE_CHECKING:
    from typing import Any

    from sandboxrun.api.processes import ProcessFailed as ProcessFailed
    from sandboxrun.api.service import ExecResult as ExecResult
    from sandboxrun.api.service import ExecTimeout as ExecTimeout
    from sandboxrun.api.service import Sandbox as Sandbox
    from sandboxrun.api.service import SandboxCaptured as SandboxCaptured
    from sandboxrun.api.service import SandboxCreated as SandboxCreated
    from sandboxrun.api.service import SandboxEnded as SandboxEnded
    from sandboxrun.api.service import SandboxEvent as SandboxEvent
    from sandboxrun.api.service import SandboxKept as SandboxKept
    from sandboxrun.api.service import SandboxReaped as SandboxReaped
    from sandboxrun.api.service import SandboxRemoved as SandboxRemoved
    from sandboxrun.api.service import SandboxService as SandboxService
    from sandboxrun.api.service import SandboxStarted as SandboxStarted
    from sandboxrun.api.settings import Settings as Settings
    from sandboxrun.api.spawner import AgentResult as AgentResult
    from sandboxrun.api.spawner import AgentSession as AgentSession
    from sandboxrun.api.spawner import AgentSpawner as AgentSpawner
    from sandboxrun.api.spawner import AgentState as AgentState
    from sandboxrun.backend.docker.client import connect as connect
    from sandboxrun.backend.errors import DependencyFailed as DependencyFailed
    from sandboxrun.backend.errors import EngineError as EngineError
    from sandboxrun.backend.errors import EngineTimeout as EngineTimeout
    from sandboxrun.backend.errors import EngineUnreachable as EngineUnreachable
    from sandboxrun.backend.errors import LockHeld as LockHeld
    from sandboxrun.backend.errors import LockLost as LockLost
    from sandboxrun.backend.errors import NameConflict as NameConflict
    from sandboxrun.backend.errors import NotFound as NotFound
    from sandboxrun.backend.errors import RegistryError as RegistryError
    from sandboxrun.backend.errors import Unsupported as Unsupported
    from sandboxrun.errors import ApplyError as ApplyError
    from sandboxrun.errors import PlanError as PlanError
    from sandboxrun.errors import ProfileError as ProfileError
    from sandboxrun.errors import SandboxrunError as SandboxrunError
    from sandboxrun.errors import UsageError as UsageError
    from sandboxrun.evidence.checking import verify_chain as verify_chain
    from sandboxrun.evidence.errors import EvidenceError as EvidenceError
    from sandboxrun.evidence.store import Store as Store
    from sandboxrun.evidence.store import last_line as last_line
    from sandboxrun.lifecycle.apply import ApplySettings as ApplySettings
    from sandboxrun.lifecycle.apply import apply as apply
    from sandboxrun.lifecycle.apply import destroy as destroy
    from sandboxrun.lifecycle.apply import plan_changes as plan_changes
    from sandboxrun.lifecycle.job import WaitTimeout as WaitTimeout
    from sandboxrun.lifecycle.run import RunFailed as RunFailed
    from sandboxrun.lifecycle.verify import Unverified as Unverified
    from sandboxrun.probe.verdicts import Finding as Finding
    from sandboxrun.probe.verdicts import Verdict as Verdict
    from sandboxrun.profile.loader import load as load
    from sandboxrun.profile.variables import Inputs as Inputs

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
        "lifecycle.apply": "ApplySettings apply destroy plan_changes",
        "lifecycle.job": "WaitTimeout",
        "lifecycle.run": "RunFailed",
        "lifecycle.verify": "Unverified",
        "probe.verdicts": "Finding Verdict",
        "profile.loader": "load",
        "profile.variables": "Inputs",
    }.items()
    for name in names.split()
}
__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> "Any":
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"sandboxrun.{_HOME[name]}"), name)
