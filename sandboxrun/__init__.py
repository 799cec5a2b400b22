"""sandboxrun: a declarative runner for agent sandboxes on Docker.

The names below are the Python API. They are imported on first use, so that importing the package costs
nothing on the command line's start-up path.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from sandboxrun.probe.findings import Finding, Verdict
    from sandboxrun.service import ExecResult, ExecTimeout, Sandbox, SandboxService
    from sandboxrun.settings import Settings
    from sandboxrun.spawner import AgentResult, AgentSession, AgentSpawner, AgentState

_HOME = {
    "ExecResult": "service",
    "ExecTimeout": "service",
    "Finding": "probe.findings",
    "Sandbox": "service",
    "SandboxService": "service",
    "Settings": "settings",
    "AgentResult": "spawner",
    "AgentSession": "spawner",
    "AgentSpawner": "spawner",
    "AgentState": "spawner",
    "Verdict": "probe.findings",
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
