"""Several agents side by side from asyncio, each with another end.

Usage: orchestrate.py [PROJECT]. With SANDBOX_ENABLED=false they are plain processes, with no limits at all.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from sandboxrun import AgentResult, AgentSpawner

WORKSPACE = Path(__file__).with_name("notes")
AGENTS = {
    "lister": ["sh", "-c", "ls"],
    "failing": ["sh", "-c", "echo 'something is wrong' >&2; exit 3"],
    "endless": ["sh", "-c", "while true; do sleep 1; done"],
    "editor": ["sh", "-c", "echo 'Looked at.' >> monday.md"],
}


async def main(project: str) -> int:
    """Run all, and say how each ended; 0 when they ended as they must."""
    # Leaving the block kills what still runs, keeps its evidence and removes it, whatever happens in between.
    async with AgentSpawner(project=project, max_parallel=3) as spawner:
        sandboxed = spawner.settings.sandbox_enabled
        sessions = {
            name: spawner.spawn(
                command,
                name=name,
                workspace=WORKSPACE,
                # A plain process has no copy: it works on the directory itself.
                access="copy" if sandboxed else "rw",
                # `bridge`, public hosts through a gateway, is the default; these agents need no network.
                network_mode="none",
                timeout=3.0 if name == "endless" else 60.0,
            )
            for name, command in AGENTS.items()
            if sandboxed or name != "editor"
        }
        results: dict[str, AgentResult] = {name: await session for name, session in sessions.items()}
    for name, result in results.items():
        print(f"{name}: {sessions[name].state}, {result.how}, exit code {result.exit_code}")
        for line in (result.stdout + result.stderr).decode().splitlines():
            print(f"  {line}")
        if result.patch:
            print("  its patch:", *result.patch.decode().splitlines()[-1:])
    return 0 if results["lister"].ok and not results["failing"].ok else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main(*sys.argv[1:] or ["example-orchestrate"])))
