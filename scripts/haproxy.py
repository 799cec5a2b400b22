"""HAProxy for what needs no engine: the machine's own, else unpacked below `.cache/` with the libraries it lacks; and
those of newer Debians, each of a system of its own.

Usage: python -m scripts.haproxy [SUITE]. Nothing is installed, so that no service is started. With a SUITE (trixie),
prints the folder that has its program; SANDBOXRUN_DEV_HAPROXY names that folder to the tests.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

from scripts import debian, system

TOOLS = system.CACHE / "tools"
CHOSEN = "SANDBOXRUN_DEV_HAPROXY"
NEWER = ("trixie",)  # has 3.0
# Looked for in the folder that is named, where it was unpacked to, and in sbin, which is not in everybody's path.
PATH = os.pathsep.join([*filter(None, [os.environ.get(CHOSEN)]), str(TOOLS), system.SEARCH_PATH])


def ensure() -> None:
    """See that there is one."""
    if system.program("haproxy") or (TOOLS / "haproxy").exists():
        return
    roots = [system.unpacked(package) for package in system.lacking("haproxy")]
    libraries = sorted({str(path.parent) for root in roots for path in root.rglob("lib*.so.*")})
    (binary,) = (path for root in roots for path in root.glob("usr/sbin/haproxy"))
    where = shlex.quote(os.pathsep.join(libraries))
    _write(TOOLS, f"LD_LIBRARY_PATH={where} exec {shlex.quote(str(binary))}")


def of(suite: str) -> Path:
    """The folder with the HAProxy of one of Debian's suites, which runs with that suite's own C library."""
    folder = system.CACHE / "haproxy" / suite
    root = folder / "system"
    with system.locked(system.CACHE / "haproxy" / f"{suite}.lock"):
        if not root.exists():
            system.say(f"Making a system of Debian {suite} with haproxy: about a minute")
            fresh = folder / "new"
            shutil.rmtree(fresh, ignore_errors=True)
            fresh.parent.mkdir(parents=True, exist_ok=True)
            if wrong := debian.bootstrap(fresh, debian.sources_of(suite), ("haproxy",)):
                system.fail(f"{wrong}the system of {suite} could not be made; its output is above")
            fresh.rename(root)
        libraries = sorted({str(path.parent) for path in root.glob("usr/lib/*/lib*.so.*")})
        (loader,) = {path.resolve() for path in root.glob("usr/lib*/**/ld-linux-*.so.*")}
        words = [str(loader), "--library-path", os.pathsep.join(libraries), str(root / "usr/sbin/haproxy")]
        _write(folder, f"exec {shlex.join(words)}")
    return folder


def _write(folder: Path, command: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    fresh = folder / "haproxy.new"
    fresh.write_text(f'#!/bin/sh\n{command} "$@"\n')
    fresh.chmod(0o755)
    fresh.rename(folder / "haproxy")


def main(arguments: list[str]) -> None:
    """See that there is one, or the one of a suite."""
    if arguments:
        print(of(arguments[0]))
    else:
        ensure()


if __name__ == "__main__":
    main(sys.argv[1:])
