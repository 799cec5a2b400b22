"""The parts that commands share: lines of output, signals, durations, arguments."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from sandboxrun.cli import doctoring
from sandboxrun.cli.commands.logs import last_lines
from sandboxrun.cli.commands.wait import first_failure
from sandboxrun.cli.lines import Lines
from sandboxrun.cli.options import Seconds, WithCommand
from sandboxrun.cli.running import matches
from sandboxrun.cli.signals import CleanStop, Forwarding
from sandboxrun.engine.connect import resolve
from sandboxrun.errors import PlanError
from sandboxrun.plan.changes import Plan

from .conftest import Say

# -- lines


def test_one_sandbox_has_no_prefix_and_keeps_its_unfinished_line(capfd: pytest.CaptureFixture[str]) -> None:
    lines = Lines(["a"])
    lines("a", 1, b"one\ntw")
    lines("a", 1, b"o\r\nunfini")
    lines("a", 2, b"err\n")
    assert capfd.readouterr() == ("one\ntwo\n", "err\n")
    lines("a", 1, b"shed")
    lines.finish()
    assert capfd.readouterr() == ("unfinished", "")


def test_several_are_prefixed_and_every_line_is_whole(capfd: pytest.CaptureFixture[str]) -> None:
    lines = Lines(["a", 'bb["x"]'])
    lines("a", 1, b"on")
    lines('bb["x"]', 1, b"other\n")
    lines("a", 1, b"e\n\nrest")
    lines.finish()
    assert capfd.readouterr().out == 'bb["x"] | other\na       | one\na       | \na       | rest\n'


def test_escapes_are_made_visible_unless_raw(capfd: pytest.CaptureFixture[str]) -> None:
    hostile = b"\x1b]52;c;aGk=\x07\tx\xff\r50%\r\n"
    Lines(["a"])("a", 1, hostile)
    assert capfd.readouterr().out == "\\x1b]52;c;aGk=\\x07\tx\\xff\\r50%\n"
    raw = Lines(["a"], raw=True)
    raw("a", 1, b"\x1b[2J no end")
    assert capfd.readouterr().out == "\x1b[2J no end"
    both = Lines(["a", "b"], raw=True)
    both("b", 1, b"\x1b[1m\n")
    assert capfd.readouterr().out == "b | \x1b[1m\n"


def test_sensitive_texts_are_masked(capfd: pytest.CaptureFixture[str]) -> None:
    Lines(["a"], sensitive=frozenset({"hunter2hunter2"}))("a", 1, b"token=hunter2hunter2!\n")
    shown = capfd.readouterr().out
    assert "hunter2" not in shown and shown.startswith("token=(sensitive") and shown.endswith("!\n")


def test_no_line_is_a_command_to_the_job_that_shows_it(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    Lines(["a"])("a", 1, b"::add-path::/tmp\n")
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    Lines(["a"])("a", 1, b"::add-path::/tmp\n")
    assert capfd.readouterr().out == "::add-path::/tmp\n\u2060::add-path::/tmp\n"


def test_output_goes_aside_where_stdout_is_for_something_else(capfd: pytest.CaptureFixture[str]) -> None:
    Lines(["a"], aside=True)("a", 1, b"x\n")
    assert capfd.readouterr() == ("", "x\n")


def test_a_line_without_end_is_written_in_pieces(capfd: pytest.CaptureFixture[str]) -> None:
    lines = Lines(["a"])
    for _ in range(5):
        lines("a", 1, b"x" * 20000)
    assert len(capfd.readouterr().out.replace("\n", "")) >= 64 * 1024


@pytest.mark.parametrize(
    ("data", "count", "left"),
    [(b"a\nb\nc\n", 2, b"b\nc\n"), (b"a\nb", 1, b"b"), (b"a\n", 5, b"a\n"), (b"a\n", 0, b""), (b"", 3, b"")],
)
def test_the_last_lines(data: bytes, count: int, left: bytes) -> None:
    assert last_lines(data, count) == left


# -- exit codes


@pytest.mark.parametrize(
    ("codes", "code"), [({}, 0), ({"a": 0, "b": 3, "c": 4}, 3), ({"a": None, "b": 4}, 125), ({"a": 0}, 0)]
)
def test_the_first_code_that_is_not_0(codes: dict[str, int | None], code: int) -> None:
    assert first_failure(codes) == code


# -- arguments


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90.0), ("1h30m", 5400.0), ("2", 2.0), ("0.5", 0.5), ("250ms", 0.25), ("0", 0.0)]
)
def test_durations(text: str, seconds: float) -> None:
    assert Seconds().convert(text, None, None) == seconds


@pytest.mark.parametrize("text", ["", "x", "5x", "-1", "1e3", "nan", "²"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is not a duration, such as 90s"):
        Seconds().convert(text, None, None)


@pytest.mark.parametrize(
    ("arguments", "names", "command"),
    [
        ([], (), None),
        (["a", "b"], ("a", "b"), None),
        (["a", "--", "ls", "-l", "--", "x"], ("a",), ("ls", "-l", "--", "x")),
        (["--"], (), ()),
        (["--", "--help"], (), ("--help",)),
    ],
)
def test_a_sandboxs_command_is_set_apart(
    arguments: list[str], names: tuple[str, ...], command: tuple[str, ...] | None
) -> None:
    seen: list[object] = []

    @click.command(cls=WithCommand)
    @click.argument("names", nargs=-1)
    def probe(names: tuple[str, ...], command: tuple[str, ...] | None) -> None:
        seen.append((names, command))

    assert CliRunner().invoke(probe, arguments).exit_code == 0
    assert seen == [(names, command)]
    assert "[NAMES]... [-- COMMAND...]" in CliRunner().invoke(probe, ["--help"]).output


def test_names_mean_all_instances_or_one() -> None:
    assert matches('a["x"]', ("a",)) and matches('a["x"]', ('a["x"]',)) and matches("a", ("b", "a"))
    assert not matches('a["x"]', ('a["y"]',)) and not matches("ab", ("a",))


# -- signals


def plan() -> Plan:
    return Plan(project="p", changes=(), operations=(), profile_digest="", inputs_digest="")


def test_before_anything_changes_a_signal_ends_as_ever() -> None:
    with pytest.raises(KeyboardInterrupt), CleanStop():
        os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(SystemExit) as ended, CleanStop():
        os.kill(os.getpid(), signal.SIGTERM)
    assert ended.value.code == 143


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_while_it_changes_the_first_signal_stops_cleanly(
    number: signal.Signals, code: int, capfd: pytest.CaptureFixture[str]
) -> None:
    begun: list[Plan] = []
    before = signal.getsignal(number)
    with pytest.raises(PlanError) as raised, CleanStop() as stopping:
        stopping.before(begun.append)(plan())
        os.kill(os.getpid(), number)
        assert stopping.stop.wait(5) and len(begun) == 1
        assert stopping.exit_code(0) == code
        raise PlanError("stopped")
    assert raised.value.exit_code == code and signal.getsignal(number) is before
    assert capfd.readouterr().err == "stopping: what is under way is finished first; once more ends at once\n"


def test_the_second_signal_ends_at_once() -> None:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(writing, 2)
        sys.stderr = os.fdopen(2, "w")
        stopping = CleanStop().__enter__()
        stopping.before(lambda plan: None)(plan())
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        threading.Event().wait(10)
        os._exit(1)
    os.close(writing)
    with os.fdopen(reading) as told:
        text = told.read()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 143
    assert text.splitlines()[-1] == "ended at once; the next apply or destroy puts right what was left"


def test_a_run_forwards_once_it_has_begun() -> None:
    told: list[str] = []
    steps: list[object] = []
    forwarding = Forwarding(steps.append)
    with forwarding.to(told.append):
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        forwarding.listener("a step")  # type: ignore[arg-type]
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGHUP)
    assert (told, steps) == (["INT", "HUP"], ["a step"])
    assert [forwarding.exit_code(code) for code in (0, 125, 5)] == [129, 129, 5]
    assert Forwarding(steps.append).exit_code(125) == 125


# -- doctor's words


@pytest.mark.parametrize(
    ("host", "environment", "line"),
    [
        ("unix:///a", {"DOCKER_HOST": "unix:///b"}, 0),
        (None, {"DOCKER_SOCKET": "/a", "DOCKER_HOST": "unix:///b"}, 1),
        (None, {"DOCKER_HOST": "unix:///b"}, 2),
        (None, {}, 5),
    ],
)
def test_where_an_engine_was_sought(host: str | None, environment: dict[str, str], line: int, tmp_path: Path) -> None:
    given = {"HOME": str(tmp_path), "DOCKER_CONFIG": str(tmp_path), **environment}
    lines = doctoring.sought(host, given, resolve(host, given))
    assert [n for n, text in enumerate(lines) if text.endswith("   <- this one")] == [line]


def test_advice_fits_the_address() -> None:
    socket, remote, tcp = (
        resolve(url, {}) for url in ("unix:///x.sock", "ssh://me@example.com", "tcp://example.com:1")
    )
    assert "Its socket would be /x.sock" in doctoring.advice(socket)[0]
    assert doctoring.advice(remote) == ["does `ssh me@example.com docker version` work?"]
    assert doctoring.advice(tcp)[0].startswith("does the engine listen on that address")


# -- the choice of what to run


def test_what_run_refuses(say: Say, here: Path) -> None:
    (here / "sandbox.yaml").write_text("name: demo\nsandboxes: {a: {image: example, when: false}}\n")
    assert say("run").err == (
        "error: the profile declares no sandbox that could run\n  help: look at its when: and for_each:\n"
    )
    both = say("run", "--base", "offline", "-f", "sandbox.yaml", "--", "ls")
    assert (both.code, both.err) == (125, "error: --base and --file exclude each other\n")
