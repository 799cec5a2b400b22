"""sandboxrun: a declarative runner for agent sandboxes on Docker.

The names below are the Python API. They are imported on first use, so that importing the package costs
nothing on the command line's start-up path.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from sandboxrun.api.service import ExecResult, ExecTimeout, Sandbox, SandboxService
    from sandboxrun.api.settings import Settings
    from sandboxrun.api.spawner import AgentResult, AgentSession, AgentSpawner, AgentState
    from sandboxrun.probe.verdicts import Finding, Verdict

_HOME = {
    "ExecResult": "api.service",
    "ExecTimeout": "api.service",
    "Finding": "probe.verdicts",
    "Sandbox": "api.service",
    "SandboxService": "api.service",
    "Settings": "api.settings",
    "AgentResult": "api.spawner",
    "AgentSession": "api.spawner",
    "AgentSpawner": "api.spawner",
    "AgentState": "api.spawner",
    "Verdict": "probe.verdicts",
}
__all__ = [
    "AgentResult",
    "AgentSession",
    "AgentSpawner",
    "AgentState",
    "ExecResult",
    "ExecTimeout",
    "Finding",
    "Sandbox",
    "SandboxService",
    "Settings",
    "Verdict",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"sandboxrun.{_HOME[name]}"), name)
