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
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from sandboxrun.backend.errors import EngineError
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


def labelled(haproxy: str) -> dict[str, str]:
    return {image.HAPROXY_LABEL: haproxy, image.DIGEST_LABEL: image.image_digest(haproxy)}


def test_a_fixed_haproxy_makes_another_image() -> None:
    """Its package's revision counts too: distributions fix without another version."""
    versions = ("2.6.12-1+deb12u2", "2.6.12-1+deb12u3", "3.0.11-1")
    assert len({image.image_digest(version) for version in versions}) == len(versions)
    for version in versions:
        assert image.haproxy_of(labelled(version)) == version
        assert image.unfit(labelled(version)) is None


@pytest.mark.parametrize(
    ("labels", "why"),
    [
        (labelled("2.4.22-0ubuntu0.22.04.3"), "has HAProxy 2.4.22-0ubuntu0.22.04.3, and 2.6 or newer is needed"),
        (labelled("1.9.9"), "has HAProxy 1.9.9, and 2.6 or newer is needed"),
        (labelled("dev"), "does not say which HAProxy it has"),
        ({}, "does not say which HAProxy it has"),
        ({image.HAPROXY_LABEL: "2.8.1"}, "does not say which HAProxy it has"),
        ({**labelled("2.6.12"), image.HAPROXY_LABEL: "2.8.1"}, "does not say which HAProxy it has"),
    ],
)
def test_an_image_that_gateways_cannot_run_from(labels: dict[str, str], why: str) -> None:
    assert image.unfit(labels) == why


class Builder:
    """An engine that builds: what it was asked for, and what its builds print."""

    def __init__(self, *output: str, fails: bool = False) -> None:
        self.asked: list[tuple[str | None, dict[str, str]]] = []
        self._output, self._fails = output, fails

    def image_config(self, ref: str) -> None:
        return None

    def build_image(
        self, context: bytes, tag: str | None, *, labels: Mapping[str, str] | None = None, progress: Any = None
    ) -> str:
        self.asked.append((tag, dict(labels or {})))
        for piece in self._output if progress is not None else ():
            progress({"stream": piece})
        if self._fails:
            raise EngineError("building an image", "a step returned a non-zero code")
        return "sha256:" + "a" * 64


def test_a_build_is_named_once_it_is_known_what_is_in_it() -> None:
    engine: Any = Builder("Step 3/8\n", "sandboxrun: HAProxy 2.6", ".12-1\n", "Removing\n")  # pieces are not lines
    image.build(engine, "base")
    (unnamed, none), (name, labels) = engine.asked
    assert (unnamed, none, name) == (None, {}, image.reference())
    assert image.haproxy_of(labels) == "2.6.12-1"


def test_a_build_that_does_not_say_its_haproxy_gets_no_name() -> None:
    engine: Any = Builder("sandboxrun: HAProxy of mine\n")
    with pytest.raises(SandboxrunError, match="did not say which HAProxy"):
        image.build(engine, "base")
    assert [name for name, _ in engine.asked] == [None]


def test_what_is_wrong_with_a_base_is_said_by_name() -> None:
    engine: Any = Builder("sandboxrun: it has Python 3.11.2 and HAProxy 2.4.22\n", fails=True)
    with pytest.raises(SandboxrunError, match=r"base can't be built on: it has Python 3.11.2 and HAProxy 2.4.22"):
        image.build(engine, "base")


def run_check(folder: Path, said: str) -> subprocess.CompletedProcess[str]:
    """The recipe's own check, with a haproxy that says this of itself."""
    with tarfile.open(fileobj=io.BytesIO(image.build_context("x"))) as tar:
        file = tar.extractfile("Dockerfile")
        assert file is not None
        recipe = file.read().decode().replace("\\\n", "")
    (line,) = [line for line in recipe.splitlines() if "haproxy', '-v'" in line]
    program = folder / "haproxy"
    program.write_text(f"#!/bin/sh\necho '{said}'\n")
    program.chmod(0o755)
    command = [sys.executable, *json.loads(line.removeprefix("RUN "))[1:]]
    return subprocess.run(command, env={"PATH": f"{folder}:{os.environ['PATH']}"}, capture_output=True, text=True)


@pytest.mark.parametrize("version", ["2.6.12-1+deb12u3", "2.10.1", "3.0.11-1"])
def test_the_recipe_says_which_haproxy_there_is(tmp_path: Path, version: str) -> None:
    done = run_check(tmp_path, f"HAProxy version {version} 2025/10/03 - https://haproxy.example.org/")
    assert (done.returncode, done.stdout) == (0, f"sandboxrun: HAProxy {version}\n")


@pytest.mark.parametrize(
    ("said", "told"),
    [("HAProxy version 2.4.22 2023/02/14", "HAProxy 2.4.22"), ("HA-Proxy version 1.9.9 2019", "HAProxy 1.9.9"),
     ("nothing", "no HAProxy")],
)  # fmt: skip
def test_the_recipe_refuses_an_older_haproxy(tmp_path: Path, said: str, told: str) -> None:
    done = run_check(tmp_path, said)
    assert done.returncode == 1 and done.stderr.endswith(f" and {told}\n")
    assert done.stderr.startswith("sandboxrun: it has Python ")


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
            assert process.wait(120) == 0


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
