"""Make the virtual environment `.venv` with this project (editable) and its test extras.

Runs under the machine's own Python before anything is installed, so: standard library only.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

from scripts import system

VENV = system.REPOSITORY / ".venv"


def main() -> None:
    """Create the environment where it is missing or broken, and bring its packages up to date."""
    if sys.version_info < (3, 11):  # noqa: UP036 - the machine's Python, not yet the project's
        system.fail(f"Python 3.11 or later is needed, this is {sys.version.split()[0]}; try make PYTHON=python3.13")
    if not _works(VENV / "bin" / "python"):
        _create()
    system.say("Installing sandboxrun and its test extras into .venv")
    pip = [str(VENV / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    if subprocess.run([*pip, "--editable", ".[test]"], cwd=system.REPOSITORY, check=False).returncode != 0:
        system.fail("pip could not install the project; its output is above")


def _works(python: Path) -> bool:
    if not python.exists():
        return False
    return subprocess.run([python, "-m", "pip", "--version"], capture_output=True, check=False).returncode == 0


def _create() -> None:
    """Debian's python3 comes without ensurepip, which `venv` needs: its package is installed then."""
    if importlib.util.find_spec("ensurepip") is None:
        package = f"python{sys.version_info.major}.{sys.version_info.minor}-venv"
        if not system.is_root():
            system.fail(f"this Python cannot make virtual environments; run `apt-get install {package}` as root")
        system.say(f"Installing the package {package}")
        system.install(package)
    system.say(f"Making .venv with Python {sys.version.split()[0]}")
    made = subprocess.run([sys.executable, "-m", "venv", "--clear", VENV], check=False)
    if made.returncode != 0:
        system.fail("the virtual environment could not be made; the reason is above")


if __name__ == "__main__":
    main()
