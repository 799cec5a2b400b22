"""What the gateway's image is made from, and that it runs as the image runs it."""

from __future__ import annotations

import ast
import io
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from sandboxrun.errors import SandboxrunError
from sandboxrun.gateway import image
from sandboxrun.gateway.rules import rules_document
from sandboxrun.spec.option_types import PUBLIC
from scripts.spaces import Space
from tests.unit.gateway.world import why_not

COMPANION = Path(image.__file__).parent / "companion"


def entries(context: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(context)) as tar:
        return {entry.name: entry for entry in tar.getmembers()}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The program's folder, as the image has it."""
    with tarfile.open(fileobj=io.BytesIO(image.build_context("x"))) as tar:
        tar.extractall(tmp_path, filter="data")
    return tmp_path / image.HOME


def test_the_name_tells_the_version() -> None:
    assert re.fullmatch(r"sandboxrun/gateway:[0-9a-f]{12}", image.reference())
    assert image.digest().startswith(f"sha256:{image.reference().rpartition(':')[2]}")


def test_the_context_is_the_same_every_time() -> None:
    assert image.build_context("python:3.13-alpine") == image.build_context("python:3.13-alpine")
    for entry in entries(image.build_context("x")).values():
        assert entry.isreg() and (entry.mode, entry.uid, entry.gid, entry.mtime) == (0o644, 0, 0, 0)


def test_what_is_in_it() -> None:
    names = set(entries(image.build_context("x")))
    own = {f"{image.HOME}/sandboxrun/gateway/companion/{path.name}" for path in COMPANION.glob("*.py")}
    assert own <= names and "Dockerfile" in names
    others = {name for name in names if "sandboxrun/" in name.removeprefix(image.HOME) and name not in own}
    assert others == {f"{image.HOME}/sandboxrun/__init__.py", f"{image.HOME}/sandboxrun/gateway/__init__.py"}


def test_the_recipe() -> None:
    with tarfile.open(fileobj=io.BytesIO(image.build_context("registry.example.com:5000/python@sha256:0a"))) as tar:
        file = tar.extractfile("Dockerfile")
        assert file is not None
        lines = file.read().decode().splitlines()
    assert lines[0] == "FROM registry.example.com:5000/python@sha256:0a"
    assert "USER 65532:65532" in lines
    assert 'ENTRYPOINT ["python3", "-I", "-S", "-B", "/usr/lib/sandboxrun-gateway"]' in lines


@pytest.mark.parametrize("base", ["", "a b", "a\nRUN x", "a\tb", "${X}", 'a"', "ä", "a\\"])
def test_what_is_no_base(base: str) -> None:
    with pytest.raises(SandboxrunError, match="is not an image reference"):
        image.build_context(base)


def test_the_companion_needs_nothing_but_the_standard_library() -> None:
    found = set()
    for path in COMPANION.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found.add(str(node.module))
    foreign = {name for name in found if name.split(".")[0] not in sys.stdlib_module_names}
    assert {name for name in foreign if not name.startswith("sandboxrun.gateway.companion")} == set()


@pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
def test_it_serves_as_the_image_starts_it(home: Path, tmp_path: Path) -> None:
    rules = tmp_path / "rules.json"
    rules.write_bytes(rules_document(PUBLIC, sandbox="a", run="r"))
    with Space() as space:
        command = [*space.command, sys.executable, "-I", "-S", "-B", str(home), "serve", "--at", "127.0.0.1"]
        command += ["--rules", str(rules), "--run", str(tmp_path)]
        with subprocess.Popen(command, cwd="/", stdout=subprocess.PIPE, env={"PATH": os.environ["PATH"]}) as process:
            assert process.stdout is not None
            assert json.loads(process.stdout.readline())["event"] == "ready"
            process.send_signal(signal.SIGTERM)
            assert json.loads(process.stdout.readline())["event"] == "stopped"
            assert process.wait(10) == 0


def test_it_loads_little(home: Path) -> None:
    """What a gateway loads, it pays for with each sandbox that starts."""
    load = "import sys; sys.path.insert(0, sys.argv[1]); import sandboxrun.gateway.companion.gateway as g"
    script = f"{load}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", script, str(home)], capture_output=True, text=True)
    loaded = set(done.stdout.split())
    assert "sandboxrun.gateway.companion.gateway" in loaded
    slow = {"asyncio", "ssl", "logging", "http", "email", "random", "dataclasses", "inspect"}
    assert loaded & slow == set()
    assert not any(name.startswith("sandboxrun.") and not name.startswith("sandboxrun.gateway") for name in loaded)
