"""Stores with runs in them, made as captures make them."""

from __future__ import annotations

from types import MappingProxyType

from sandboxrun.evidence.folder import RunFolder
from sandboxrun.evidence.index import Digests, Index
from sandboxrun.evidence.store import ChainEntry, Store
from sandboxrun.spec.state import Ending, How


def index(
    run: str,
    folder: RunFolder,
    previous: str | None,
    *,
    how: How = How.EXITED,
    spec: str = "s",
    project: str = "demo",
    sandbox: str = 'agent["a"]',
) -> Index:
    return Index(
        run=run,
        project=project,
        sandbox=sandbox,
        container_id="c1",
        container_name="demo-agent",
        ending=Ending(how=how, exit_code=0),
        finished_at="2026-01-01T00:00:00Z",
        captured_at="2026-01-01T00:00:01Z",
        digests=Digests(spec=spec, inputs="i", workspace="sha256:w"),
        labels=MappingProxyType({}),
        kept=folder.close_parts(),
        previous=previous,
    )


def record(
    store: Store,
    run: str,
    *,
    how: How = How.EXITED,
    spec: str = "s",
    text: bytes = b"log",
    project: str = "demo",
    sandbox: str = 'agent["a"]',
) -> ChainEntry:
    with store.recording(run, "demo-agent") as folder:
        if isinstance(folder, ChainEntry):
            return folder
        folder.write("stdout.log", text)
        folder.write("artifacts/deep/x", run.encode())
        return store.finish(
            folder,
            lambda previous: index(run, folder, previous, how=how, spec=spec, project=project, sandbox=sandbox),
        )
