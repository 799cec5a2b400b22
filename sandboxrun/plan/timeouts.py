"""Timeouts: where a sandbox's own PID 1 holds its timeout, where that needs a watcher, and what a change of it asks.

Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from sandboxrun.errors import Diagnostic
from sandboxrun.spec import seccomp
from sandboxrun.spec.project import DeclaredSandbox
from sandboxrun.spec.spec import SandboxSpec
from sandboxrun.spec.state import ObservedSandbox, Offers, Running, Snapshot

# What lets a process inside stop, trace or change its PID 1, or the kernel below both.
_UNLEASHED = frozenset({"ALL", "BPF", "PERFMON", "SYS_ADMIN", "SYS_MODULE", "SYS_PTRACE", "SYS_RAWIO"})
_RUNTIMES = ("", "runc", "crun", "io.containerd.runc.v2", "nvidia")  # containers of the host's own kernel


def needs_watcher(spec: SandboxSpec, offers: Offers) -> str:
    """Why the sandbox's own PID 1 can't hold its timeout, as a clause; "" where it does, or where there is none."""
    if spec.lifetime.timeout is None:
        return ""
    runtime = spec.runtime or offers.default_runtime
    if not spec.init:
        return "init is false, so its command is PID 1"
    if spec.restart != "no":
        return f"with restart: {spec.restart} every start would have the whole time again"
    if able := sorted(_UNLEASHED.intersection(spec.cap_add)):
        return f"with {', '.join(able)} it could stop its PID 1"
    if offers.podman or runtime not in _RUNTIMES:
        return f"sandboxrun's init is not tested under {'Podman' if offers.podman else f'the runtime {runtime}'}"
    if offers.architecture not in ("", *seccomp.ARCHITECTURES):
        return f"sandboxrun's init is not built for {offers.architecture}"
    return ""


def watched_timeouts(sandboxes: Iterable[DeclaredSandbox], offers: Offers) -> Iterator[Diagnostic]:
    """A warning for each sandbox whose timeout holds only while somebody watches it."""
    for sandbox in sandboxes:
        if why := needs_watcher(sandbox.spec, offers):
            yield Diagnostic(
                message=f"{sandbox.address}: timeout needs a watcher here: {why}",
                span=sandbox.place("lifetime", "timeout"),
                help="keep `run`, `apply --wait`, `wait` or `reap --watch` running until the sandbox has ended",
                severity="warning",
            )


def fixed_timeout(declared: DeclaredSandbox, observed: ObservedSandbox, snapshot: Snapshot) -> str:
    """Why another timeout makes another container: its PID 1 was told the timeout when it was made."""
    limit = observed.state.limit if isinstance(observed.state, Running) else None
    wanted = declared.spec.lifetime.timeout
    if wanted == (observed.applied or observed.spec).lifetime.timeout:
        return ""
    if limit is not None:
        return "its PID 1 holds the timeout it was started with"
    return "" if wanted is None or needs_watcher(declared.spec, snapshot.offers) else "its PID 1 must hold the timeout"
