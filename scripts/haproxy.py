"""HAProxy for what needs no engine: the machine's own, else unpacked below `.cache/` with the libraries it lacks.

Usage: python -m scripts.haproxy. Nothing is installed, so that no service is started.
"""

from __future__ import annotations

import os
import shlex

from scripts import system

TOOLS = system.CACHE / "tools"
# Looked for where it was unpacked to first, and in sbin, which is not in everybody's path.
PATH = os.pathsep.join([str(TOOLS), system.SEARCH_PATH])


def main() -> None:
    """See that there is one."""
    if system.program("haproxy") or (TOOLS / "haproxy").exists():
        return
    roots = [system.unpacked(package) for package in system.lacking("haproxy")]
    libraries = sorted({str(path.parent) for root in roots for path in root.rglob("lib*.so.*")})
    (binary,) = (path for root in roots for path in root.glob("usr/sbin/haproxy"))
    TOOLS.mkdir(parents=True, exist_ok=True)
    fresh = TOOLS / "haproxy.new"
    where = shlex.quote(os.pathsep.join(libraries))
    fresh.write_text(f'#!/bin/sh\nLD_LIBRARY_PATH={where} exec {shlex.quote(str(binary))} "$@"\n')
    fresh.chmod(0o755)
    fresh.rename(TOOLS / "haproxy")


if __name__ == "__main__":
    main()
