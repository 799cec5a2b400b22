"""One sandbox, step by step: files in, commands inside, files out, its evidence.

Usage: by_hand.py [PROJECT]. SANDBOX_DEFAULT_IMAGE and the others of the README say what the sandbox is like.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from sandboxrun import SandboxService

# Takes any command, so that several can be run one after another in the same sandbox.
IDLE = ["sleep", "infinity"]


def main(project: str) -> None:
    """Make a sandbox, work in it, leave nothing but its evidence."""
    # Entering the service also collects what a killed run of this program may have left.
    with SandboxService(project=project) as service:
        # A workspace is what it can write to: its root is read-only. `copy`: the directory here stays as it is.
        notes = Path(__file__).with_name("notes")
        closed: dict[str, Any] = {"network_mode": "none", "mem_limit": "128m"}  # any option of a profile, by its name
        with service.sandbox("counter", command=IDLE, workspace=notes, **closed) as sandbox:
            print("state:", sandbox.state)
            sandbox.put({"count.sh": b'wc -w *.md > "$1"\n'}, "/workspace")
            ran = sandbox.exec(["sh", "count.sh", "words.txt"], timeout=30)
            print("exit code:", ran.exit_code)
            print("words:", sandbox.get("/workspace/words.txt").decode().strip())
            print("elsewhere:", sandbox.exec(["touch", "/etc/mine"]).stderr.decode().strip())
    # The container is gone at the end of the block, and its evidence saved before that.
    assert sandbox.evidence is not None and sandbox.evidence.index is not None
    print("state:", sandbox.state)
    print("kept:", ", ".join(kept.path for kept in sandbox.evidence.index.kept))


if __name__ == "__main__":
    main(*sys.argv[1:] or ["example-by-hand"])
