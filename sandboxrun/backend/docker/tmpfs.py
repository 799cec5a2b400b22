"""A tmpfs that is mounted over a directory of the image: some runtimes give it that directory's mode.

Owns that check. The engine shows the declared mode either way, so the read-back can't see it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from sandboxrun.backend.docker.streams import file_mode
from sandboxrun.backend.errors import NotFound
from sandboxrun.backend.session import Session
from sandboxrun.errors import ApplyError, Diagnostic
from sandboxrun.spec.option_types import options_of
from sandboxrun.spec.project import DeclaredSandbox
from sandboxrun.spec.state import Offers

KEEPS_MODES = (1, 1, 8)  # runc's first version that lets a declared mode win
_MADE = 0o755  # of a directory that a runtime makes to mount on: it is there when the container starts again
_LINK = 1 << 27  # in Go's FileMode
_RUNTIMES_OWN = ("/dev/", "/proc/", "/sys/")  # below mounts that are new at every start


def check_tmpfs(sandbox: DeclaredSandbox, container: str, session: Session) -> None:
    """Raise ApplyError for each tmpfs whose mode would not be the declared one. The container is made and filled."""
    spec, offers = sandbox.spec, session.snapshot.offers
    runtime = spec.runtime or offers.default_runtime
    if _keeps_modes(runtime, offers):
        return
    version = f" {offers.runc}" if runtime == "runc" and offers.runc else ""
    faults = []
    for path, declared in _with_mode(sandbox):
        found = _mode_at(session, container, path)
        if found is None and spec.restart != "no":
            found = _MADE
        if found is not None and found != declared:
            message = (
                f"{sandbox.address}: the tmpfs {path} is declared with mode={declared:04o}, and the runtime "
                f"{runtime}{version} gives it the mode of the directory below it, {found:04o}"
            )
            help = (
                f"set the mode of {path} in the image, declare mode={found:04o} with uid and gid of the user, or use "
            )
            faults.append(
                Diagnostic(message=message, span=sandbox.place("tmpfs", path), help=f"{help}runc 1.1.8 or newer")
            )
    if faults:
        raise ApplyError(*faults)


def _keeps_modes(runtime: str, offers: Offers) -> bool:
    numbers = re.match(r"(\d+)\.(\d+)\.(\d+)", offers.runc)
    return runtime == "runc" and numbers is not None and tuple(map(int, numbers.groups())) >= KEEPS_MODES


def _with_mode(sandbox: DeclaredSandbox) -> Iterator[tuple[str, int]]:
    """Those that declare a mode and do not lie on another one, which is empty at every start."""
    mounts = sandbox.spec.tmpfs
    for path, options in mounts.items():
        mode = options_of(options).get("mode")
        fresh = any(path.startswith(f"{other.rstrip('/')}/") for other in mounts if other != path)
        if mode is not None and not fresh and not path.startswith(_RUNTIMES_OWN):
            yield path, int(mode, 8)


def _mode_at(session: Session, container: str, path: str) -> int | None:
    """The mode of what the tmpfs is mounted on, None where nothing is."""
    try:
        stat = session.engine.stat_archive(container, path)
        if int(stat["mode"]) & _LINK:
            stat = session.engine.stat_archive(container, str(stat["linkTarget"]))
    except NotFound:
        return None
    return file_mode(int(stat["mode"]))
