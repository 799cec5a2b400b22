"""Builds the programs that run in sandboxes, the probe and the init, from their C source into the package.

Usage: python -m scripts.probe [x86_64|aarch64 ...]. Needs gcc (and gcc-aarch64-linux-gnu for the other architecture)
and the kernel's headers; no C library. The bytes depend on the compiler alone: `bin/built.json` records which made
them.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "sandboxrun"
ROOMS = {"probe": PACKAGE / "probe", "init": PACKAGE / "backend" / "docker" / "init"}
COMPILERS = {"x86_64": "x86_64-linux-gnu-gcc", "aarch64": "aarch64-linux-gnu-gcc"}
FLAGS = (
    "-std=c11 -Wall -Wextra -Werror -Os -static -nostdlib -ffreestanding -fno-builtin -fno-stack-protector "
    "-fno-asynchronous-unwind-tables -fno-tree-loop-distribute-patterns -fno-pie -no-pie -fcf-protection=none "
    "-Wl,--build-id=none -Wl,-z,noexecstack -Wl,-z,norelro -s"
).split()


def flags(architecture: str) -> list[str]:
    """The compiler's flags; those that only one architecture knows are left out for the other."""
    return [flag for flag in FLAGS if architecture == "x86_64" or not flag.startswith("-fcf")]


def sources(program: str) -> list[Path]:
    """The files that are compiled, in one order."""
    return sorted((ROOMS[program] / "c").glob("*.c"))


def compiler_version(architecture: str) -> str | None:
    """What the compiler says it is; None where there is none."""
    try:
        shown = subprocess.run([COMPILERS[architecture], "--version"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return shown.stdout.splitlines()[0].partition(" ")[2]


def build(architecture: str, into: Path, program: str = "probe") -> None:
    """Compile a program into the file `into`. Raises subprocess.CalledProcessError where that fails."""
    names = [path.name for path in sources(program)]  # relative: no path of this machine gets into the file
    command = [COMPILERS[architecture], *flags(architecture), "-o", str(into.resolve()), *names]
    subprocess.run(command, check=True, cwd=ROOMS[program] / "c")


def recorded(program: str = "probe") -> dict[str, str]:
    """The version of the compiler that made each committed file."""
    built = ROOMS[program] / "bin" / "built.json"
    return dict(json.loads(built.read_text(encoding="utf-8"))) if built.is_file() else {}


def main(architectures: Sequence[str]) -> None:
    """Build for these architectures, for all when none is named."""
    for program, room in ROOMS.items():
        folder, versions = room / "bin", recorded(program)
        folder.mkdir(exist_ok=True)
        for architecture in architectures or tuple(COMPILERS):
            version = compiler_version(architecture)
            if version is None:
                package = f"gcc-{architecture.replace('_', '-')}-linux-gnu"
                sys.exit(f"there is no {COMPILERS[architecture]}: install {package}")
            path = folder / f"{program}-{architecture}"
            build(architecture, path, program)
            versions[architecture] = version
            print(f"{path.name}: {path.stat().st_size} bytes")
        text = json.dumps(versions, indent=2, sort_keys=True) + "\n"
        (folder / "built.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
