"""Every file that a profile, a checkout or the caller names, wherever it is read: never waited for, never a crash."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sandboxrun.profile.sandbox import content_of
from sandboxrun.spec.project import FileSpec

from .conftest import Say

LONG = "n" * 300


@pytest.fixture
def odd(here: Path) -> Iterator[Path]:
    """A project with one of each kind of file that can't be read as a file."""
    os.mkfifo(here / "fifo")
    (here / "loop").symlink_to("loop")
    (here / "into").symlink_to("fifo")
    (here / "folder").mkdir()
    (here / "huge").touch()
    os.truncate(here / "huge", 1 << 34)
    (here / "file").write_text("x")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket")
        yield here


REASONS = {
    "fifo": "not a regular file",
    "into": "not a regular file",
    "socket": "not a regular file",
    "folder": "it is a directory",
    "loop": "too many levels of symbolic links",
    "loop/below": "too many levels of symbolic links",
    "file/below": "not a directory",
    "gone": "no such file or directory",
    LONG: "file name too long",
    "huge": "larger than",
}


def _profile(options: str) -> Callable[[Path, str], tuple[str, ...]]:
    def write(here: Path, name: str) -> tuple[str, ...]:
        text = f"name: demo\nsandboxes:\n  a:\n    image: example\n    {options.replace('NAME', name)}\n"
        (here / "sandbox.yaml").write_text(text)
        return ("validate",)

    return write


def _given(*words: str) -> Callable[[Path, str], tuple[str, ...]]:
    def write(here: Path, name: str) -> tuple[str, ...]:
        (here / "sandbox.yaml").write_text("name: demo\nsandboxes: {a: {image: example}}\n")
        return tuple(word.replace("NAME", name) for word in words)

    return write


PLACES = {
    "extends": (_profile("extends: {file: NAME, sandbox: a}"), "sandbox.yaml:5:21: error: the file "),
    "env_file": (_profile("env_file: NAME"), "sandbox.yaml:5:15: error: the file "),
    "env_file list": (_profile("env_file: [{path: NAME}]"), "sandbox.yaml:5:23: error: the file "),
    "seccomp": (_profile("security_opt: [apparmor=x, seccomp=NAME]"), "sandbox.yaml:5:32: error: the seccomp profile "),
    "--file": (_given("validate", "-f", "NAME"), "error: the file "),
    "--var-file": (_given("validate", "--var-file", "NAME"), "error: the file "),
    "a saved plan": (_given("apply", "NAME", "-y"), "error: "),
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", REASONS)
def test_what_is_not_a_file_is_an_error_with_its_place(say: Say, odd: Path, place: str, name: str) -> None:
    write, start = PLACES[place]
    said = say(*write(odd, name))
    assert said.code == 1
    first = said.err.partition("\n")[0]
    assert first.startswith(start) and name in first, said.err
    assert REASONS[name] in first


@pytest.mark.timeout(60)
def test_an_optional_env_file_may_be_missing_and_nothing_else(say: Say, odd: Path) -> None:
    for name, why in REASONS.items():
        said = say(*_profile("env_file: [{path: NAME, required: false}]")(odd, name))
        missing = name in ("gone", "file/below")
        assert (said.code, why in said.err) == ((0, False) if missing else (1, True))


@pytest.mark.timeout(60)
def test_a_device_is_not_read(say: Say, here: Path) -> None:
    for name in ("/dev/zero", "/dev/tty", "/proc/self/mem"):
        said = say("validate", "-f", name)
        assert said.code == 1 and said.err.startswith(f'error: the file "{name}" can\'t be read: '), said.err
    write = _profile("security_opt: [seccomp=/dev/zero]")
    assert "can't be read: not a regular file" in say(*write(here, ""), "--allow-outside").err
    refused = say(*write(here, "")).err
    assert "is outside of the project" in refused and "can't be read" not in refused


@pytest.mark.timeout(60)
def test_a_project_below_a_symlink_loop_is_an_error(say: Say, odd: Path) -> None:
    for command in ("validate", "render", "plan"):
        said = say(command, "-f", "loop/sandbox.yaml")
        assert (said.code, said.err.partition("\n")[0]) == (
            1,
            'error: the file "loop/sandbox.yaml" can\'t be read: too many levels of symbolic links',
        )


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", [*REASONS, "nul\0"])
def test_a_secret_or_config_that_is_not_a_file_is_not_an_empty_one(odd: Path, name: str) -> None:
    found = content_of("the secret key", FileSpec(file=name), odd, {})
    why = REASONS.get(name, "not a valid path")
    assert not isinstance(found, bytes) and f"can't be read: {why}" in found.message


def test_a_workspace_that_is_a_symlink_loop_is_reported_as_such(say: Say, odd: Path) -> None:
    said = say(*_profile("workspace: {source: NAME, access: rw}")(odd, "loop"))
    assert said.code == 1
    first = "sandbox.yaml:5:16: error: the workspace can't be read: too many levels of symbolic links"
    assert said.err.splitlines()[0] == first


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", ["fifo", "folder", "loop", "huge"])
def test_a_checkouts_git_configuration_that_cannot_be_read_is_an_error(say: Say, odd: Path, name: str) -> None:
    (odd / ".git").mkdir()
    (odd / ".git" / "HEAD").touch()
    os.rename(odd / name, odd / ".git" / "config")
    if name == "loop":
        (odd / ".git" / "config").unlink()
        (odd / ".git" / "config").symlink_to("config")
    said = say(*_profile("workspace: {source: ., access: rw}")(odd, ""))
    assert said.code == 1
    assert said.err.startswith("sandbox.yaml:5:16: error: the workspace's .git/config can't be read: ")
    assert REASONS[name] in said.err
