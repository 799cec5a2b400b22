"""Everything that can be tested on this machine, part after part: `make test-full`.

Usage: python -m scripts.full [PART...]     parts: tests, chaos, haproxy, engines, pythons

A part that fails does not keep the others from running. At the end a table says which ran, which could not and why,
and how each ended; the exit code is 1 where one failed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from scripts import debian, engines, haproxy, machine, system

OTHERS = ("3.12", "3.13", "3.14")  # what is tested beside the Python of .venv, where it is here
OURS = f"{sys.version_info.major}.{sys.version_info.minor}"
# Where none is here, these come from a newer Debian, as root on Debian.
NEWER: Mapping[str, engines.Kind] = MappingProxyType(
    {"3.13": engines.Kind(suite="trixie", packages=("python3", "git", "iproute2", "procps"))}
)
_USABLE = "import ensurepip, sys; print('%d.%d' % sys.version_info[:2])"
_PIP = ("-m", "pip", "--disable-pip-version-check", "install", "--quiet")
_PYTEST = ("-m", "pytest")
Row = tuple[str, str]  # a part, and how it ended


def _make(*arguments: str) -> str:
    ran = subprocess.run(["make", "--no-print-directory", *arguments], cwd=system.REPOSITORY, check=False)
    return "passed" if ran.returncode == 0 else f"FAILED (exit {ran.returncode})"


def _tests() -> Iterator[Row]:
    left_out = machine.why_impossible()
    where = f", on an emulated machine ({machine.accelerator()}) too" if left_out is None else f"; left out: {left_out}"
    yield f"all tests, Python {OURS}{where}", _make("test", "SELECT=")


def _chaos() -> Iterator[Row]:
    yield "kills at random moments", _make("chaos")


def _haproxy() -> Iterator[Row]:
    """The gateway's bytes on newer Debians' HAProxy."""
    for suite in haproxy.NEWER:
        if not system.is_root():
            yield f"the gateway on HAProxy of {suite}", "left out: network namespaces need root"
            continue
        environment = {**os.environ, haproxy.CHOSEN: str(haproxy.of(suite))}
        command = [sys.executable, "-m", "pytest", "-q", "-m", "haproxy", "tests/unit/gateway"]
        code = subprocess.run(command, cwd=system.REPOSITORY, env=environment, check=False).returncode
        yield f"the gateway on HAProxy of {suite}", "passed" if code == 0 else f"FAILED (exit {code})"


def _engines() -> Iterator[Row]:
    reason = "" if system.is_root() else "left out: engines of one's own need root"
    yield "newer engines", reason or _make("test-engines")


def _pythons() -> Iterator[Row]:
    for version in OTHERS:
        if version != OURS:
            yield f"tests without an engine, Python {version}", _python(version)


def _python(version: str) -> str:
    """The tests without an engine with this Python: the one that is here, or a newer Debian's."""
    found = shutil.which(f"python{version}")
    if found is not None and _said(found) == version:
        return _with_own(found, system.CACHE / f"python{version}")
    if version in NEWER and system.is_root() and debian.distribution() == "debian":
        return f"{_with_newer_debian(version)}, with the Python of Debian {NEWER[version].suite}"
    return f"left out: no usable python{version} is here"


def _with_own(python: str, folder: Path) -> str:
    """In an environment of its own."""
    inside = folder / "bin/python"
    return _all_of(
        [python, "-m", "venv", "--clear", folder],
        [inside, *_PIP, "--editable", ".[test]"],
        [inside, *_PYTEST, "-n", os.environ.get("WORKERS", "2"), "-m", "not engine"],
    )


def _with_newer_debian(version: str) -> str:
    """Unpacked beside this system. Our own pip, which is set up for this machine, picks the packages for it. HAProxy is
    this system's, so what starts it is left out."""
    site = system.CACHE / f"python{version}-packages"
    shutil.rmtree(site, ignore_errors=True)
    project = tomllib.loads((system.REPOSITORY / "pyproject.toml").read_text())["project"]
    needed = [*project["dependencies"], *project["optional-dependencies"]["test"]]
    try:
        root = engines.system_root(NEWER[version])
    except SystemExit as error:
        return f"FAILED ({error})"
    enter: list[str | Path] = [sys.executable, engines.ENTER, root, system.CACHE / f"python{version}-scratch", "--"]
    path = f"PYTHONPATH={system.REPOSITORY}{os.pathsep}{site}"
    which = ("-n", os.environ.get("WORKERS", "2"), "-m", "not engine and not haproxy")
    return _all_of(
        [sys.executable, *_PIP, "--target", site, "--python-version", version, "--only-binary=:all:", *needed],
        [*enter, "env", path, f"python{version}", *_PYTEST, *which],
    )


def _all_of(*commands: Sequence[str | Path]) -> str:
    for command in commands:
        if (code := subprocess.run(command, cwd=system.REPOSITORY, check=False).returncode) != 0:
            return f"FAILED (exit {code})"
    return "passed"


def _said(python: str) -> str:
    return subprocess.run([python, "-c", _USABLE], capture_output=True, text=True, check=False).stdout.strip()


PARTS: Mapping[str, Callable[[], Iterator[Row]]] = MappingProxyType(
    {"tests": _tests, "chaos": _chaos, "haproxy": _haproxy, "engines": _engines, "pythons": _pythons}
)


def main(names: list[str]) -> int:
    """Run these parts, or all; 1 where one failed."""
    if unknown := [name for name in names if name not in PARTS]:
        system.fail(f"no part is called {', '.join(unknown)}; there are {', '.join(PARTS)}")
    rows: list[Row] = []
    try:
        for name in names or PARTS:
            system.say(f"test-full: {name}")
            rows += PARTS[name]()
    finally:
        width = max((len(part) for part, _ in rows), default=0)
        print("\n".join(f"{part.ljust(width)}  {ended}" for part, ended in rows), flush=True)
    return 1 if any(ended.startswith("FAILED") for _, ended in rows) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
