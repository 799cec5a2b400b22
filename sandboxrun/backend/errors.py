"""What can go wrong at the engine, as exceptions that name the operation, the object and the engine's own cause.

Owns the translation of an HTTP status and message. Does not know how the answer was carried.
"""

from __future__ import annotations

from sandboxrun.errors import ApplyError, Diagnostic, SandboxrunError


class EngineError(SandboxrunError):
    """An engine call failed: `operation` ("creating container demo-a"), the engine's `cause`, its HTTP `status`."""

    def __init__(self, operation: str, cause: str, *, status: int | None = None, help: str | None = None) -> None:
        self.operation = operation
        self.cause = cause
        self.status = status
        super().__init__(Diagnostic(message=f"{operation}: {cause}", help=help))


class NotFound(EngineError):
    """The object that a call names does not exist (any more)."""


class NameConflict(EngineError):
    """Another object has the name already."""


class EngineUnreachable(EngineError):
    """No answer: the engine cannot be reached, or went away before it had answered.

    `maybe_done` is True when the request had been sent: whether it was carried out is then unknown.
    """

    def __init__(self, operation: str, cause: str, *, help: str | None = None, maybe_done: bool = False) -> None:
        self.maybe_done = maybe_done
        super().__init__(operation, cause, help=help)


class EngineTimeout(EngineError):
    """The engine is there, and did not answer within the time that the call was given."""


class RegistryError(EngineError):
    """The engine could not ask an image's registry: unreachable, refused, or not allowed."""


class Unsupported(EngineError):
    """This engine or this connection cannot do what was asked."""


class LockHeld(ApplyError):
    """Another run had the project's lock all the time that was waited."""


class LockLost(ApplyError):
    """This run had the project's lock and has it no longer: nothing more may be changed."""


class DependencyFailed(ApplyError):
    """What a sandbox waits for can't come any more: `dependency` (an address) has ended, and `ending` says how."""

    def __init__(
        self,
        address: str,
        dependency: str,
        ending: str,
        *,
        help: str | None = None,
        option: str = "",
        argument: str = "",
    ) -> None:
        message = f"{address} needs {dependency}, which {ending}"
        super().__init__(message, help=help, option=option, argument=argument)
        self.address, self.dependency, self.ending = address, dependency, ending


_HELP: tuple[tuple[str, str], ...] = (
    ("no such image", "pull the image first, or set pull_policy: missing"),
    ("all predefined address pools", "remove unused networks (docker network prune), or give the network a subnet"),
    ("non-overlapping", "remove unused networks (docker network prune), or give the network a subnet"),
    ("pool overlaps", "another network has this subnet already: choose a different one"),
    ("runtime name", "`sandboxrun doctor` lists the runtimes this engine has"),
    ("unknown or invalid runtime", "`sandboxrun doctor` lists the runtimes this engine has"),
    ("executable file not found", "the image has no such program: check command and entrypoint"),
    ("unable to start container process: exec:", "the image can't run this: check command and entrypoint"),
    ("unable to find user", "user names one that the image's /etc/passwd does not have: write its uid and gid"),
    (
        "unable to find group",
        "user or group_add names one that the image's /etc/group does not have: write its gid",
    ),
    ("cannot mkdir", "something else is there in the image: choose a different working_dir"),
    (
        "not match the specified platform",
        "pull the image for this platform, or declare the one that the engine has it for",
    ),
    ("bind source path does not exist", "the engine looks for the path on its own filesystem: create it there"),
    ("no space left on device", "free some space on the engine's disk (docker system df shows what uses it)"),
    ("storage-opt", "a disk quota needs a storage driver that has one: see `sandboxrun doctor`"),
    ("port is already allocated", "another container publishes this port: choose a different one"),
    ("no such host", "the engine can't reach the registry: check its network, or name an image that is already there"),
    ("x509", "the registry's certificate is not trusted by the engine"),
    ("server gave http response to https", "the registry has no TLS: list it in the engine's insecure-registries"),
)


def help_for(cause: str) -> str | None:
    """What to do about the engine's message `cause`, where that is known."""
    lowered = cause.lower()
    return next((help for mark, help in _HELP if mark in lowered), None)


_TAKEN = ("is already in use", "already exists", "name is in use", "already used")


def failure(operation: str, status: int, cause: str) -> EngineError:
    """The exception for an answer with an error status (400 to 599) and the engine's message."""
    cause = cause.strip().rstrip(".") or f"the engine answered with status {status} and no message"
    help = help_for(cause)
    if status == 404:
        return NotFound(operation, cause, status=status, help=help)
    # 409 is also "container is running"; Podman (5.4) answers 500 when a name is taken
    if status in (409, 500) and any(mark in cause.lower() for mark in _TAKEN):
        return NameConflict(operation, cause, status=status, help=help)
    return EngineError(operation, cause, status=status, help=help)
