"""The seam: what is asked of whatever runs sandboxes.

Owns the protocol that a backend fulfils, in neutral words. How an engine is told, and what its answers look like, is
known to that backend alone: an answer that has to be kept as evidence is handed on as a document, opaque.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol, Self

if TYPE_CHECKING:
    from sandboxrun.spec.outcome import History


class Output(Protocol):
    """What a sandbox writes: (1 stdout or 2 stderr, bytes), in order. Iterate it in one thread, close it from any."""

    def __iter__(self) -> Iterator[tuple[int, bytes]]: ...

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: Any, error: Any, at: Any) -> None: ...

    def close(self) -> None:
        """End it; whoever waits for the next piece gets to the end."""


class Backend(Protocol):
    """One engine. Usable from several threads at once; every method may raise EngineError.

    `id` is the engine's own name of one sandbox, or of what runs beside it, as a snapshot has it.
    """

    @property
    def endpoint(self) -> str:
        """Where the engine is, as a URL."""

    def clock(self) -> datetime:
        """The engine's time, UTC: deadlines and leases count by it, not by this machine's."""

    def version(self) -> Mapping[str, Any]:
        """What the engine says of itself."""

    def document(self, id: str) -> Mapping[str, Any]:
        """The engine's own answer about a sandbox. Raises NotFound."""

    def image(self, reference: str) -> Mapping[str, Any] | None:
        """The engine's own answer about an image; None where it has none of that name."""

    def histories(self, ended: Mapping[str, Mapping[str, Any]]) -> Mapping[str, History]:
        """What the engine remembers of sandboxes that have ended, by id."""

    def history_of_removed(self, id: str) -> History:
        """What it remembers of one that is gone."""

    def stop(self, id: str, *, timeout: int) -> bool:
        """Ask it to end, and kill it after `timeout` seconds. False when it did not run."""

    def logs(self, id: str, *, tty: bool | None = None) -> Output:
        """What it has written."""

    def changes(self, id: str) -> Sequence[Mapping[str, Any]]:
        """What it changed in its file system."""

    def usage(self, id: str) -> Mapping[str, Any]:
        """A sample of what it uses now."""

    def read_tree(self, id: str, path: str) -> Any:
        """A file or directory of it as a tar, which is hostile."""

    def pull(
        self, ref: str, *, platform: str | None = None, progress: Callable[[Mapping[str, Any]], None] | None = None
    ) -> None:
        """Fetch an image from its registry."""

    def build_image(self, context: bytes, tag: str, *, labels: Mapping[str, str] | None = None) -> str:
        """Make an image from a tar; its id."""
