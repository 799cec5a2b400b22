"""What the set-up needs of the machine: telling, failing, locking, and Debian's packages.

Packages are unpacked below `.cache/` where that is enough and installed only where it is not (the engine), so
that a machine with an engine stays as it was. No mirror is named here: apt's own sources are used.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NoReturn

REPOSITORY = Path(__file__).resolve().parent.parent
CACHE = REPOSITORY / ".cache"
# Clients that tests bring along, by Debian 12's packages: what the image of agents lacks of each.
CLIENTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "ssh": ("openssh-client", "libedit2", "libbsd0", "libfido2-1", "libcbor0.8"),
        "psql": ("postgresql-client-15", "libpq5"),
        "musl": ("musl-dev",),
        "java": ("openjdk-17-jre-headless",),
        "go": ("golang-1.19-go", "golang-1.19-src"),
    }
)
# cron, su and some CI runners leave sbin out of root's path; dockerd and iptables live there.
SEARCH_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])


def say(text: str) -> None:
    """One line of what the set-up is doing."""
    print(f"==> {text}", flush=True)


def fail(text: str) -> NoReturn:
    """End with a message that says what to do; never a traceback."""
    sys.stdout.flush()
    sys.exit(f"error: {text}")


def is_root() -> bool:
    """Whether packages can be installed and an engine started."""
    return os.geteuid() == 0


def program(name: str) -> str | None:
    """Where the program stands, sbin included."""
    return shutil.which(name, path=SEARCH_PATH)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock that the kernel drops with the process, also after SIGKILL."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def install(*packages: str) -> None:
    """apt-get install, without recommended packages; as root only."""
    _apt("install", "-y", "--no-install-recommends", *packages)


def lacking(package: str) -> list[str]:
    """What apt-get would install for a package, the package itself among it."""
    told = _apt("install", "--simulate", "--no-install-recommends", package)
    return [line.split()[1] for line in told.splitlines() if line.startswith("Inst ")]


def unpacked(package: str) -> Path:
    """The files of a Debian package, unpacked below `.cache/` once; nothing is installed or started."""
    target = CACHE / "packages" / package
    with locked(CACHE / "packages.lock"):
        if not target.exists():
            say(f"Unpacking the package {package} into {target.relative_to(REPOSITORY)}")
            _download_and_unpack(package, target)
    return target


def _download_and_unpack(package: str, target: Path) -> None:
    fresh = target.with_name(f"{package}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    _apt("download", package, cwd=fresh)
    (archive,) = fresh.glob("*.deb")
    run(["dpkg-deb", "-x", str(archive), str(fresh)])
    archive.unlink()
    fresh.rename(target)


def _apt(*arguments: str, cwd: Path | None = None) -> str:
    """Run apt-get; what it said. Where it fails, fetch the package lists (a bare machine has none, or stale ones) and
    retry."""
    if program("apt-get") is None:
        fail(f"this machine has no apt-get; provide what `apt-get {' '.join(arguments)}` would, by hand")
    # Fetching as root rather than as _apt: that user may not write where a clone lies.
    command = ["apt-get", "-q", "-o", "DPkg::Lock::Timeout=300", "-o", "APT::Sandbox::User=root"]
    first = _quiet([*command, *arguments], cwd=cwd)
    if first.returncode == 0:
        return first.stdout
    if not is_root():
        fail(f"{first.stdout.strip()}\nrun `apt-get update` as root, then this again")
    say("Fetching the package lists")
    update = _quiet([*command, "update"])
    second = _quiet([*command, *arguments], cwd=cwd)
    if second.returncode != 0:
        fail(f"{update.stdout}{second.stdout}`apt-get {' '.join(arguments)}` failed; its output is above")
    return second.stdout


def _quiet(command: list[str], cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "PATH": SEARCH_PATH}
    return subprocess.run(
        command, cwd=cwd, env=environment, text=True, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
    )  # fmt: skip


def run(command: list[str]) -> str:
    """Run it; what it said. Ends as `fail` does where it fails."""
    done = _quiet(command)
    if done.returncode != 0:
        fail(f"{done.stdout}`{' '.join(command)}` failed; its output is above")
    return done.stdout


def main(packages: list[str]) -> None:
    """Unpack each named package."""
    for package in packages:
        unpacked(package)


if __name__ == "__main__":
    main(sys.argv[1:])
