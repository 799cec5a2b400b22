"""Small Debian systems made from packages by mmdebstrap: what they are made of, and from which sources.

No mirror is named here: the sources are those of this machine's apt.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from scripts import system

_LEFT_OUT = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("man", "doc", "locale", "info")]


def own_sources() -> str:
    """The machine's own package sources of its distribution, one a line; third parties' are left out."""
    name = distribution()
    listed = _index_targets("$(REPO_URI) $(RELEASE) $(COMPONENT)", f"Origin: {name.title()}")
    if not listed:
        system.fail(f"apt has no package lists of {name}; run `apt-get update` as root, then this again")
    return "".join(_source(name, line) for line in listed)


def sources_of(suite: str) -> str:
    """Another of Debian's suites, from where this machine has its own; on Debian only."""
    mirrors = _index_targets("$(REPO_URI)", "Label: Debian") if distribution() == "debian" else []
    if not mirrors:
        system.fail(f"packages of {suite} are needed, and this machine's apt has no package lists of Debian")
    return _source("debian", f"{mirrors[0]} {suite} main")


def bootstrap(target: Path, sources: str, packages: Sequence[str], *options: str) -> str | None:
    """Make a system with these packages: a folder, or a tar where `target` ends so. Returns what went wrong, if so."""
    tools = system.unpacked("mmdebstrap") / "usr/bin"
    with tempfile.NamedTemporaryFile("w", suffix=".list", dir=system.CACHE) as file:
        file.write(sources)
        file.flush()
        command = [
            str(tools / "mmdebstrap"), "--quiet", "--variant=essential", f"--include={','.join(packages)}",
            *_LEFT_OUT, *options, "", str(target), file.name,
        ]  # fmt: skip
        environment = {**os.environ, "PATH": f"{tools}{os.pathsep}{system.SEARCH_PATH}"}  # it calls its mmtarfilter
        done = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, check=False,
        )  # fmt: skip
    return done.stdout if done.returncode != 0 else None


def distribution() -> str:
    """The machine's, as /etc/os-release names it."""
    lines = Path("/etc/os-release").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line).get("ID", "debian").strip('"')


def _source(name: str, line: str) -> str:
    keyring = Path(f"/usr/share/keyrings/{name}-archive-keyring.gpg")
    signed = f"[signed-by={keyring}] " if keyring.exists() else ""
    return f"deb {signed}{line}\n"


def _index_targets(wanted: str, *which: str) -> list[str]:
    command = ["apt-get", "indextargets", f"--format={wanted}", "Created-By: Packages", *which]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return list(dict.fromkeys(listed))
