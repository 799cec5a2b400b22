"""What is sensitive appears in no output: one profile that has it wherever it can be, through every command."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from sandboxrun.backend.errors import EngineError
from sandboxrun.backend.fake import Fake, World
from sandboxrun.backend.session import Alive, StillRunning
from sandboxrun.cli import options as project
from sandboxrun.cli import output
from sandboxrun.cli.lines import Lines
from sandboxrun.errors import EVIDENCE_MASK, MASK, Diagnostic, mask, redact, redact_texts, redacted, spellings
from sandboxrun.evidence.store import Captured, RunResult
from sandboxrun.lifecycle.apply import ApplySettings
from sandboxrun.lifecycle.job import glancing
from sandboxrun.lifecycle.places import never_shown
from sandboxrun.plan.operations import Operation, StartSandbox
from sandboxrun.probe.verdicts import Finding, Verdict
from sandboxrun.profile.loader import load
from sandboxrun.profile.variables import Inputs
from sandboxrun.report.diagnostics import annotations_text, diagnostic_text, diagnostics_json
from sandboxrun.report.evidence import evidence_text
from sandboxrun.report.verify import Report, verify_json, verify_markdown, verify_text
from sandboxrun.spec.state import Ending, How
from tests.conftest import Ran
from tests.scenarios.world import IMAGE
from tests.unit.plan.world import profile

VARIABLE = "hunter2 'quoted' \"twice\" \\ end"
SECRET = "-----BEGIN KEY-----\n0123456789abcdefghij\nklmnopqrstuvwxyz0123\n-----END KEY-----"
TAKEN = "taken-from-outside/+="
NAMED = "tok3n-as-a-name"
EVERY = (VARIABLE, SECRET, TAKEN, NAMED)
PROFILE = f"""\
name: tale
variables:
  token: {{type: string, sensitive: true}}
  label: {{type: string, sensitive: true}}
sandboxes:
  agent:
    image: "{IMAGE}"
    network_mode: none
    command: [echo, "{{{{ token }}}}"]
    environment: {{TOKEN: "Bearer {{{{ token }}}}", TAKEN: null, JSON: "{{{{ {{'a': token}} | tojson }}}}"}}
    labels: {{note: "{{{{ token }}}}", "plain": "{{{{ label }}}}"}}
    hostname: "{{{{ label }}}}"
    secrets: [key]
    configs: [settings]
  other:
    image: "{IMAGE}"
    network_mode: none
    for_each: ["{{{{ label }}}}"]
    environment: ["{{{{ label }}}}=as a name"]
    command: ["true"]
secrets: {{key: {{environment: KEY}}}}
configs: {{settings: {{content: "token = {{{{ token }}}}"}}}}
"""
ENVIRONMENT = {"KEY": SECRET, "TAKEN": TAKEN, "SANDBOXRUN_VAR_token": VARIABLE, "SANDBOXRUN_VAR_label": NAMED}
Say = Callable[..., tuple[int, str]]


def leaks(text: str | bytes) -> list[bytes]:
    """The spellings of a sensitive value that are in a text."""
    data = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
    return sorted({form for value in EVERY for form in spellings(value.encode()) if len(form) >= 4 and form in data})


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    here = tmp_path / "checkout"
    here.mkdir()
    monkeypatch.chdir(here)
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    (here / "sandbox.yaml").write_text(PROFILE)
    yield here
    output.hide(())


@pytest.fixture
def say(in_process: Callable[..., Ran]) -> Say:
    """Runs a command; its code, and all that it printed, in which nothing sensitive is."""

    def run(*arguments: str) -> tuple[int, str]:
        ran = in_process(*arguments)
        assert leaks(ran.out + ran.err) == [], arguments
        return ran.code, ran.out + ran.err

    return run


FORMATS = {
    "validate": ("text", "json", "github"),
    "render": ("yaml", "json"),
    "plan": ("text", "json", "markdown", "github"),
}


@pytest.mark.parametrize(("command", "form"), [(c, form) for c, forms in FORMATS.items() for form in forms])
def test_no_format_shows_it(say: Say, command: str, form: str) -> None:
    code, said = say(command, "--format", form)
    assert code == 0, said
    if command != "validate":
        assert MASK in said or "&#40;sensitive value&#41;" in said
    if form == "json":
        json.loads(said)


def test_applying_waiting_and_destroying_show_it_nowhere(say: Say, here: Path) -> None:
    assert say("apply", "-y", "-v", "--wait")[0] == 0
    assert say("apply", "-y", "--wait", "--json", "--rerun")[0] == 0
    assert say("apply", "-y")[0] == 0
    assert say("plan", "--replace", "agent", "--out", "saved.plan")[0] == 0
    for arguments in (["ps"], ["ps", "-a"], ["ps", "-a", "--json"], ["wait"], ["wait", "--json"], ["explain", "image"]):
        assert say(*arguments)[0] == 0
    assert say("destroy", "-y", "--json")[0] == 0
    assert leaks((here / "saved.plan").read_bytes()) == []


def test_a_run_shows_it_neither_in_an_agents_output_nor_in_the_evidence(say: Say, here: Path) -> None:
    code, said = say("run", "agent")
    assert code == 0 and MASK in said
    assert say("run", "agent", "--json", "-v")[0] == 0
    files = [path for path in (here / ".sandboxrun").rglob("*") if path.is_file()]
    assert {path.name: found for path in files if (found := leaks(path.read_bytes()))} == {}
    logs = [path.read_text() for path in files if path.name == "stdout.log"]
    assert logs and all(EVIDENCE_MASK in log for log in logs)


PRINTING = f"""\
name: tale
sandboxes: {{a: {{image: "{IMAGE}", network_mode: none, secrets: [key, file], command: [echo, "Pa55-Word x y"]}}}}
secrets: {{key: {{environment: PASSWORD}}, file: {{file: ./word}}}}
"""


@pytest.mark.parametrize("command", [("run",), ("run", "--json")])
def test_what_a_secret_holds_is_masked_in_what_an_agent_prints(
    command: tuple[str, ...], here: Path, monkeypatch: pytest.MonkeyPatch, in_process: Callable[..., Ran]
) -> None:
    """And nowhere else: a file that a checkout calls a secret could hide words of a plan."""
    monkeypatch.setenv("PASSWORD", "pa55-word")
    (here / "word").write_text("Pa55-Word x\n")
    (here / "sandbox.yaml").write_text(PRINTING)
    assert in_process("plan").out.count("Pa55-Word x y") == 1
    ran = in_process(*command)
    printed = ran.err if "--json" in command else ran.out
    assert (ran.code, printed.splitlines()[0]) == (0, f"{MASK} y")


def test_the_last_line_of_what_is_waited_for_is_masked(
    here: Path, monkeypatch: pytest.MonkeyPatch, world: World
) -> None:
    monkeypatch.setenv("PASSWORD", "pa55-word")
    (here / "word").write_text("Pa55-Word x\n")
    (here / "sandbox.yaml").write_text(PRINTING)
    seen: list[str] = []

    def listen(event: object) -> None:
        seen.extend(one.line for one in event.sandboxes) if isinstance(event, StillRunning) else None

    class Job:
        def never_shown(self) -> frozenset[str]:
            return never_shown(load((here / "sandbox.yaml",)), os.environ)

        @property
        def watches(self) -> Mapping[str, Any]:
            alive = Alive(address="a", seconds=1.0, memory=None, limit=None, line="Pa55-Word x y")
            return {"a": SimpleNamespace(begun=True, ended=False, address="a", glance=lambda line: alive)}

    with glancing(cast(Any, Job()), ["a"], ApplySettings(listener=listen, glance=0.01)):
        while not seen:
            time.sleep(0.01)
    assert set(seen) == {f"{MASK} y"}


def test_names_have_no_case() -> None:
    """A gateway records a name in lower case."""
    known = frozenset({"ghp_AbCdEfGh"})
    assert redact("ghp_abcdefgh.example.com, GHP_ABCDEFGH", known) == f"{MASK}.example.com, {MASK}"


def test_an_engines_errors_are_shown_without_it(say: Say, world: World) -> None:
    def refuse(job: Fake, step: Operation) -> None:
        if isinstance(step, StartSandbox):
            cause = f"bad environment {[VARIABLE, TAKEN, NAMED]!r}, {VARIABLE}"
            raise EngineError("starting", cause, help=f"see {VARIABLE}")

    world.before = refuse
    for arguments in (["apply", "-y"], ["apply", "-y", "--json"], ["run", "agent"], ["run", "agent", "--json"]):
        code, said = say(*arguments)
        assert code in (1, 125) and "bad environment" in said


@pytest.mark.parametrize("line", ["mem_limit: '{{ token }}'", "user: '{{ token }}:x:y'", "pids_limit: ['{{ label }}']"])
def test_a_faulty_profile_is_reported_without_it(say: Say, here: Path, line: str) -> None:
    (here / "sandbox.yaml").write_text(PROFILE.replace("    secrets: [key]\n", f"    {line}\n"))
    for arguments in (["validate"], ["validate", "--json"], ["validate", "--format", "github"], ["plan"], ["run"]):
        code, said = say(*arguments)
        assert code in (1, 125) and "sandbox.yaml" in said, said


def test_a_bugs_traceback_is_written_without_it(say: Say, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def break_down(*args: Any) -> None:
        raise RuntimeError(f"{VARIABLE} and {[VARIABLE, TAKEN, NAMED]!r}")

    monkeypatch.setattr(project, "open_store", break_down)
    code, said = say("plan", "--json")
    assert code == 1 and "bug" in said
    crashes = list((here.parent / "state").rglob("*crash*.log"))
    assert crashes and all(leaks(path.read_bytes()) == [] for path in crashes)


def test_reports_show_it_in_no_form() -> None:
    known = frozenset(EVERY)
    text = " ".join([*EVERY, repr(EVERY), json.dumps(EVERY)])
    finding = Finding(
        sandbox=f'other["{NAMED}"]', control=text, title=text, field=text, expected=text, seen=text, note=text,
        verdict=Verdict.FAILS,
    )  # fmt: skip
    for running in (True, False):
        report = Report.of(profile(project="tale", sensitive=known), (finding,), running=running)
        told = [verify_text(report), verify_text(report, width=40), json.dumps(verify_json(report))]
        assert [leaks(form) for form in (*told, verify_markdown(report))] == [[], [], [], []]
    fault = redacted(Diagnostic(message=text, help=text), known)
    shown = [diagnostic_text(fault), json.dumps(diagnostics_json([fault])), annotations_text([fault])]
    assert [leaks(form) for form in shown] == [[], [], []]
    ended = RunResult(address=f'other["{NAMED}"]', evidence=None, seen=Ending(how=How.FAILED, exit_code=1, detail=text))
    lost = RunResult(address="agent", evidence=Captured(entry=None, failure=text))
    assert leaks(evidence_text([ended, lost], sensitive=known)) == []


def test_output_of_sandboxes_is_masked_however_it_is_cut(capfd: pytest.CaptureFixture[str]) -> None:
    data = "\n".join([f"1 {VARIABLE} 2", repr(VARIABLE), json.dumps({"a": TAKEN}), "the end"]).encode()
    for size in (1, 7, 1000):
        for addresses in (["agent"], ["agent", "other"]):
            lines = Lines(addresses, sensitive=frozenset(EVERY))
            for start in range(0, len(data), size):
                lines("agent", 1, data[start : start + size])
            lines.finish()
    said = capfd.readouterr().out
    assert leaks(said) == [] and said.count("the end") == 6


def test_no_repr_shows_it(here: Path) -> None:
    loaded = load((here / "sandbox.yaml",), inputs=Inputs(environment=ENVIRONMENT))
    assert set(EVERY) - {SECRET} <= loaded.sensitive
    assert leaks(repr(loaded.inputs)) == [] and "sensitive=" not in repr(loaded)


def test_a_short_value_is_masked_where_it_is_a_whole_one() -> None:
    known = frozenset({"no", "42"})
    assert redact("no", known) == MASK and redact("nothing", known) == "nothing"
    assert mask({"a": ["no", 42, "42", True, "a no b"]}, known) == {"a": [MASK, MASK, MASK, True, "a no b"]}
    assert mask({"a": "see 4242 here"}, frozenset({"4242"})) == {"a": MASK}
    assert mask({"4242": "see 4242 here"}, frozenset({"4242"}), whole=False) == {MASK: f"see {MASK} here"}


def test_a_document_of_ours_keeps_its_keys_and_numbers() -> None:
    document: dict[str, Any] = {"address": "address 4242", "bytes": 4242, "kept": ["4242", None, True]}
    assert redact_texts(document, frozenset({"4242", "bytes"})) == {
        "address": f"address {MASK}",
        "bytes": 4242,
        "kept": [MASK, None, True],
    }
