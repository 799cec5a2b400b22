"""The parts that commands share: lines of output, signals, durations, arguments."""

from __future__ import annotations

import contextlib
import io
import os
import pty
import select
import signal
import sys
import threading
import time
import tty
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from sandboxrun.backend.docker.transport import resolve
from sandboxrun.cli import changing
from sandboxrun.cli.changing import CleanStop, Forwarding
from sandboxrun.cli.commands import doctor
from sandboxrun.cli.commands.logs import to_last_lines
from sandboxrun.cli.lines import LONGEST, Lines, OutputFailed
from sandboxrun.cli.options import Seconds, WithCommand
from sandboxrun.errors import PlanError
from sandboxrun.spec.names import matches

from .conftest import Say

# -- lines


HOSTILE = b"\x1b]52;c;aGk=\x07\tx\xff\r50%\r\n"


@contextlib.contextmanager
def on_a_terminal() -> Iterator[Callable[[], bytes]]:
    """Standard output is a terminal; what it shows."""
    ours, theirs = pty.openpty()
    tty.setraw(theirs)
    with open(theirs, "w", encoding="utf-8") as stream, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        yield lambda: os.read(ours, 1 << 16) if select.select([ours], [], [], 5)[0] else b""
    os.close(ours)


@pytest.mark.parametrize(
    "data",
    [
        b"one\ntwo\r\nunfinished",
        HOSTILE,
        b"\x1b[2J no end",
        bytes(range(256)) * 3,
        b"\xff\xfe\n\0\n\n",
        b"x" * 200_010 + b"\n" + b"y" * (3 << 20),
    ],
)
@pytest.mark.parametrize("size", [1, 7, 65536])
def test_what_one_sandbox_writes_to_a_pipe_or_a_file_stays_as_it_is(
    data: bytes, size: int, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    size = size if len(data) < 1000 else 65536
    lines = Lines(["a"])
    for at in range(0, len(data), size):
        lines("a", 1, data[at : at + size])
        lines("a", 2, data[at : at + size][::-1])
    shown = capfdbinary.readouterr()
    assert shown.out == data and sorted(shown.err) == sorted(data)
    lines.finish()
    assert capfdbinary.readouterr() == (b"", b"") and lines.failure is None


@pytest.mark.parametrize("odd", [b"\x1b[2J", b"\r", b"\xff", "\u202e".encode(), "\u2028".encode(), b"\x85"])
def test_on_a_terminal_many_lines_look_as_each_by_itself(odd: bytes) -> None:
    data = b"plain\n\n\tindented\n" + "gr\u00fcn \U0001f600\n".encode()
    for whole in (data, data + odd + b"\n" + data, data[:-1] + odd + data):
        with on_a_terminal() as shown:
            Lines(["a"])("a", 1, whole)
            together = shown()
            lines = Lines(["a"])
            alone = b""
            for line in whole.split(b"\n")[:-1]:
                lines("a", 1, line + b"\n")
                alone += shown()
            assert together == alone
        assert odd not in together or whole is data


@pytest.mark.parametrize("odd", ["", "\x1b[2J", "\r", "\u202e", "\xff", "gr\u00fcn \U0001f600"])
@pytest.mark.parametrize("size", [LONGEST // 3 + 1, LONGEST + 1])
def test_on_a_terminal_a_long_line_looks_as_a_short_one(odd: str, size: int) -> None:
    line = ("x" * LONGEST + odd + "y" * (2 * LONGEST)).encode("latin-1" if odd == "\xff" else "utf-8")
    with on_a_terminal() as shown:
        Lines(["a"])("a", 1, odd.encode("latin-1" if odd == "\xff" else "utf-8") + b"z\n")
        form = (shown() if odd else b"z\n").removesuffix(b"z\n")
    whole = b"x" * LONGEST + form + b"y" * (2 * LONGEST) + b"\nnext \\x1b\n"
    ours, theirs = pty.openpty()
    tty.setraw(theirs)
    seen = bytearray()

    def read() -> None:
        while len(seen) < len(whole) and (piece := os.read(ours, 1 << 16)):
            seen.extend(piece)

    reader = threading.Thread(target=read, daemon=True)
    with open(theirs, "w", encoding="utf-8") as stream, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        reader.start()
        lines = Lines(["a"])
        for at in range(0, len(line), size):
            lines("a", 1, line[at : at + size])
            assert sum(map(len, lines._begun.values())) <= LONGEST
        lines("a", 1, b"\nnext \x1b\n")
        lines.finish()
        reader.join(60)
    os.close(ours)
    assert bytes(seen) == whole


def test_on_a_terminal_escapes_are_made_visible_unless_raw() -> None:
    with on_a_terminal() as shown:
        Lines(["a"])("a", 1, HOSTILE)
        assert shown() == b"\\x1b]52;c;aGk=\\x07\tx\\xff\\r50%\n"
        Lines(["a"], raw=True)("a", 1, b"\x1b[2J no end")
        assert shown() == b"\x1b[2J no end"


def test_several_are_prefixed_and_every_line_is_whole(capfd: pytest.CaptureFixture[str]) -> None:
    lines = Lines(["a", 'bb["x"]'])
    lines("a", 1, b"on")
    lines('bb["x"]', 1, b"other\n")
    lines("a", 1, b"e\n\nrest")
    lines("a", 1, HOSTILE)
    lines("a", 1, b"end")
    lines.finish()
    assert capfd.readouterr().out == (
        'bb["x"] | other\na       | one\na       | \na       | rest\\x1b]52;c;aGk=\\x07\tx\\xff\\r50%\na       | end\n'
    )
    raw = Lines(["a", "b"], raw=True)
    raw("b", 1, b"\x1b[1m\n")
    assert capfd.readouterr().out == "b | \x1b[1m\n"


def test_a_line_without_end_takes_bounded_memory(capfd: pytest.CaptureFixture[str]) -> None:
    for lines, start, end in (
        (Lines(["a", "b"]), "a | ", "\n"),
        (Lines(["a"], sensitive=frozenset({"hunter2"})), "", ""),
    ):
        for _ in range(80):
            lines("a", 1, "é".encode() * 32768)
        assert sum(map(len, lines._begun.values())) <= LONGEST
        lines.finish()
        parts = capfd.readouterr().out.split(end) if end else [capfd.readouterr().out]
        assert "".join(part.removeprefix(start) for part in parts) == "é" * 32768 * 80
        assert (len(parts) > 2) == bool(end)


@pytest.mark.parametrize("shift", range(0, 40, 7))
def test_sensitive_texts_are_masked(shift: int, capfd: pytest.CaptureFixture[str]) -> None:
    lines = Lines(["a"], sensitive=frozenset({"hunter2hunter2"}))
    lines("a", 1, b"token=hunter2hunter2!\r\n")
    shown = capfd.readouterr().out
    assert "hunter2" not in shown and shown.startswith("token=(sensitive") and shown.endswith("!\r\n")
    lines("a", 1, b"x" * (LONGEST - shift) + b"hunter2hunter2" * 3)
    lines("a", 1, b"hunter2hunter2\n")
    shown = capfd.readouterr().out
    assert "hunter2" not in shown and shown.count("(sensitive") == 4 and shown.startswith("x" * (LONGEST - shift) + "(")


def test_no_line_is_a_command_to_the_job_that_shows_it(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    Lines(["a"])("a", 1, b"::add-path::/tmp\n")
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    Lines(["a"])("a", 1, b"::add-path::/tmp\nx\r\n")
    assert capfd.readouterr().out == "::add-path::/tmp\n\u2060::add-path::/tmp\nx\r\n"


def test_output_goes_aside_where_stdout_is_for_something_else(capfd: pytest.CaptureFixture[str]) -> None:
    Lines(["a"], aside=True)("a", 1, b"x\n")
    assert capfd.readouterr() == ("", "x\n")


def test_a_descriptor_that_does_not_block_gets_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = os.pipe()
    os.set_blocking(theirs, False)
    data, seen = os.urandom(1 << 20), bytearray()
    with open(theirs, "w", encoding="utf-8") as stream:
        monkeypatch.setattr(sys, "stdout", stream)

        def read() -> None:
            while piece := os.read(ours, 1 << 16):
                seen.extend(piece)

        reader = threading.Thread(target=read)
        reader.start()
        lines = Lines(["a"])
        lines("a", 1, data)
        monkeypatch.undo()
    reader.join()
    os.close(ours)
    assert bytes(seen) == data and lines.failure is None


def test_what_cannot_be_written_is_said_and_the_other_stream_goes_on(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with open("/dev/full", "w", encoding="utf-8") as full:
        monkeypatch.setattr(sys, "stdout", full)
        lines = Lines(["a"])
        lines("a", 1, b"lost\n")
        lines("a", 2, b"kept\n")
        monkeypatch.undo()
    assert capfd.readouterr().err == "kept\n"
    with pytest.raises(OutputFailed, match="cannot write to /dev/full: No space left on device"):
        lines.check()


@pytest.mark.parametrize(
    ("data", "count", "left"),
    [
        (b"a\nb\nc\n", 2, b"b\nc\n"),
        (b"a\nb", 1, b"b"),
        (b"a\n", 5, b"a\n"),
        (b"a\n", 0, b""),
        (b"", 3, b""),
        (b"\n", 1, b"\n"),
        (b"\n\n\n", 2, b"\n\n"),
        (b"a\n5%\r6%\r", 1, b"5%\r6%\r"),
        (b"%7d\n" * 3 % (1, 2, 3) + b"x\n" * (1 << 21), (1 << 21) + 2, b"%7d\n" * 2 % (2, 3) + b"x\n" * (1 << 21)),
        (b"\n" * (3 << 20), (2 << 20) + 1, b"\n" * ((2 << 20) + 1)),
        (b"a\n" + b"b" * (2 << 20), 1, b"b" * (2 << 20)),
    ],
)
def test_the_last_lines_are_found_without_holding_all_of_a_log(data: bytes, count: int, left: bytes) -> None:
    class Log(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            assert size is not None and 0 <= size <= 1 << 20
            return super().read(size)

    to_last_lines(log := Log(data), count)
    assert data[log.tell() :] == left


def test_a_tail_is_looked_for_in_the_end_of_a_log_that_a_checkout_made_huge(tmp_path: Path) -> None:
    with Path(tmp_path, "stdout.log").open("w+b") as log:
        log.truncate(1 << 43)  # takes up no room
        to_last_lines(log, 2)
        assert log.tell() == (1 << 43) - (256 << 20)


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


def test_before_anything_changes_a_signal_ends_as_ever(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyboardInterrupt), CleanStop():
        os.kill(os.getpid(), signal.SIGINT)
    assert capfd.readouterr().err == ""
    with pytest.raises(SystemExit) as ended, CleanStop():
        os.kill(os.getpid(), signal.SIGTERM)
    assert ended.value.code == 143
    assert capfd.readouterr().err == "Ended by SIGTERM before anything was changed.\n"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_while_it_changes_the_first_signal_stops_cleanly(
    number: signal.Signals, code: int, capfd: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(number)
    with pytest.raises(PlanError) as raised, CleanStop() as stopping:
        stopping.begin()
        os.kill(os.getpid(), number)
        assert stopping.stop.wait(120)
        assert stopping.exit_code(0) == code
        raise PlanError("stopped")
    assert raised.value.exit_code == code and signal.getsignal(number) is before
    told = f"Stopping after the current steps, because of {number.name}. Press Ctrl-C again to abort immediately.\n"
    assert capfd.readouterr().err == told


def test_the_second_signal_ends_at_once() -> None:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(writing, 2)
        sys.stderr = os.fdopen(2, "w")
        stopping = CleanStop().__enter__()
        stopping.begin()
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        threading.Event().wait(10)
        os._exit(1)
    os.close(writing)
    with os.fdopen(reading) as told:
        text = told.read()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 143
    assert text.splitlines()[-1] == "Aborted. The next apply or destroy cleans up."


@pytest.mark.parametrize(("number", "ends"), [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)])
def test_a_signal_ends_no_import_in_the_middle(
    number: signal.Signals, ends: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What releases the lock needs the module that was being loaded to take it."""
    text = "import os\nos.kill(os.getpid(), %d)\nfor _ in range(1000): pass\ncomplete = True\n"
    (tmp_path / "half_loaded.py").write_text(text % number)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ends), CleanStop():
        import half_loaded  # type: ignore[import-not-found]

        time.sleep(60)
    del sys.modules["half_loaded"]
    assert half_loaded.complete


@pytest.mark.parametrize("kind", [CleanStop, lambda: Forwarding(lambda event: None).to(lambda name: None)])
def test_what_nohup_started_goes_on_without_its_terminal(kind: Callable[[], CleanStop | Forwarding]) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with kind() as signals:
            signals.begin()
            os.kill(os.getpid(), signal.SIGHUP)
        assert signals.exit_code(0) == 0 and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


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
    lines = doctor.sought(host, given, resolve(host, given))
    assert [n for n, text in enumerate(lines) if text.endswith("   <- this one")] == [line]


def test_advice_fits_the_address() -> None:
    socket, remote, tcp = (
        resolve(url, {}) for url in ("unix:///x.sock", "ssh://me@example.com", "tcp://example.com:1")
    )
    assert "Its socket would be /x.sock" in doctor.advice(socket)[0]
    assert doctor.advice(remote) == ["does `ssh me@example.com docker version` work?"]
    assert doctor.advice(tcp)[0].startswith("does the engine listen on that address")


# -- the choice of what to run


def test_what_run_refuses(say: Say, here: Path) -> None:
    (here / "sandbox.yaml").write_text("name: demo\nsandboxes: {a: {image: example, when: false}}\n")
    assert say("run").err == (
        "error: the profile declares no sandbox that could run\n  help: look at its when: and for_each:\n"
    )
    both = say("run", "--base", "offline", "-f", "sandbox.yaml", "--", "ls")
    assert (both.code, both.err) == (125, "error: --base and --file exclude each other\n")


def test_a_second_signal_counts_as_soon_as_the_first_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    steps: list[str] = []

    def shout(text: str, *, patience: float) -> None:
        told.append(text.partition(":")[0].partition(",")[0])
        if len(told) == 1:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(changing, "shout", shout)
    forwarding = Forwarding(lambda event: None)
    with forwarding.to(steps.append):
        forwarding.begin()
        os.kill(os.getpid(), signal.SIGINT)
    assert told == ["Stopping", "Killing what still runs"]
    assert steps == ["INT", "INT"]
