"""Attacks as one file that Python runs, and their words read back. The words are an agent's: read like hostile ones."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path

from tests.attacks.inside.main import MODULES as MODULES
from tests.attacks.inside.record import ATTACKS, Attack

INSIDE = Path(__file__).parent / "inside"
NAME = "attacks.pyz"
COMMAND = ("python3", f"/run/configs/{NAME}")


def archive() -> bytes:
    """All that runs inside, for `python3 FILE cage`. The same bytes every time: no member has the time of now."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as packed:
        for package in ("tests", "tests/attacks", "tests/attacks/inside"):
            packed.writestr(zipfile.ZipInfo(f"{package}/__init__.py"), b"")
        for path in sorted(INSIDE.glob("*.py")):
            packed.writestr(zipfile.ZipInfo(f"tests/attacks/inside/{path.name}"), path.read_bytes())
        packed.writestr(zipfile.ZipInfo("__main__.py"), "from tests.attacks.inside.main import main\nmain()\n")
    return buffer.getvalue()


def said_by(output: bytes) -> Mapping[str, str]:
    """What each attack said. The first word counts: what comes later under its name is no attack's own."""
    found: dict[str, str] = {}
    for line in output.splitlines():
        try:
            value = json.loads(line)
            found.setdefault(value["attack"], value["said"])
        except (ValueError, KeyError, TypeError):
            continue
    return found


def attacks(*cages: str) -> tuple[Attack, ...]:
    """Those that run in these cages."""
    return tuple(one for one in ATTACKS.values() if one.cage in cages)


def controlled(*cages: str) -> tuple[Attack, ...]:
    """Those of them that run in the weak sandbox too."""
    return tuple(one for one in attacks(*cages) if not one.control)
