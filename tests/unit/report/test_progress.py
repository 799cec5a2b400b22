"""What an apply shows while it works, in each of its forms: whole outputs, with a clock that the test turns."""

from __future__ import annotations

import io
import json
import re
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, get_args

import pytest
from msgspec import Struct, structs
from rich.console import Console

from sandboxrun.backend.errors import DependencyFailed
from sandboxrun.backend.session import (
    Alive,
    Event,
    Planned,
    StepDone,
    StepFailed,
    StepProgress,
    StepSkipped,
    StepStarted,
    StillRunning,
    Undone,
    guarded,
)
from sandboxrun.errors import ApplyError, Diagnostic, SourceFile, Span
from sandboxrun.plan import operations as op
from sandboxrun.plan.changes import Plan
from sandboxrun.plan.operations import Operation
from sandboxrun.plan.planner import Options, make_destroy_plan, make_plan
from sandboxrun.report import progress as steps
from sandboxrun.report.progress import EVERY, LineProgress, Progress, progress_for, writer
from sandboxrun.report.progress_json import JsonProgress
from sandboxrun.report.progress_live import LiveProgress
from sandboxrun.spec.types import freeze
from tests.unit.plan.world import declared, ended, observed, profile, snapshot

SECRET = "hunter2-secret"
LINT = declared("lint")
AGENT = declared("agent", "a", environment=freeze({"T": SECRET}))


class Clock(Struct):
    seconds: float = 100.0

    def __call__(self) -> float:
        return self.seconds


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def rerun() -> Plan:
    """lint is replaced, agent and the network are made."""
    p = profile(LINT, AGENT, sensitive=frozenset({SECRET}))
    return make_plan(p, snapshot(observed(LINT, ended(3)), networks=()), Options(rerun=True))


def step(plan: Plan, id: str) -> Operation:
    return next(s for s in plan.operations if s.id == id)


def carry_out(progress: Progress, plan: Plan, clock: Clock, fail: Mapping[str, ApplyError] | None = None) -> None:
    """Every step in order, a tenth of a second each; what needs one that failed is skipped, as the executor does."""
    failed: dict[str, Operation] = {}
    progress.begin(plan)
    for one in plan.operations:
        lost = [need for need in one.needs if need in failed]
        if lost:
            failed[one.id] = failed[lost[0]]
            progress(StepSkipped(step=one, failed=failed[one.id]))
            continue
        progress(StepStarted(step=one))
        clock.seconds += 0.1
        if fail and one.id in fail:
            failed[one.id] = one
            progress(StepFailed(step=one, error=fail[one.id]))
        else:
            progress(StepDone(step=one, seconds=0.1, note=""))
    progress.end()


def lines_of(make: Callable[..., Progress], act: Callable[[Progress, Clock], None], **options: Any) -> list[str]:
    told: list[str] = []
    clock = Clock()
    act(make(told.append, clock=clock, **options), clock)
    return told


def test_one_line_for_each_resource_when_it_is_done() -> None:
    assert lines_of(LineProgress, lambda p, c: carry_out(p, rerun(), c)) == [
        "network default: created (0.1s)",
        "lint: evidence saved, removed, created, started (0.5s)",
        'agent["a"]: created, started (0.2s)',
    ]


def test_verbose_tells_each_step() -> None:
    assert lines_of(LineProgress, lambda p, c: carry_out(p, rerun(), c), verbose=True) == [
        "lint: evidence saved (0.1s)",
        "lint: removed (0.1s)",
        "network default: created (0.1s)",
        "lint: created (0.1s)",
        "lint: started (0.1s)",
        'agent["a"]: created (0.1s)',
        'agent["a"]: started (0.1s)',
    ]


BROKEN = ApplyError(f"no program {SECRET}\x1b[2J\nin the image", help="check command:")


def test_a_failure_says_what_was_done_and_what_is_left_out() -> None:
    fail = {"create lint": BROKEN, "create network.default": ApplyError("no subnet is left")}
    assert lines_of(LineProgress, lambda p, c: carry_out(p, rerun(), c, fail)) == [
        "network default: failed while creating: no subnet is left",
        "lint: skipped: network default failed while creating",
        'agent["a"]: skipped: network default failed while creating',
    ]
    del fail["create network.default"]
    assert lines_of(LineProgress, lambda p, c: carry_out(p, rerun(), c, fail), quiet=True) == [
        "lint: evidence saved, removed; failed while creating: no program (sensitive value)\\x1b[2J\\nin the image",
    ]


def test_annotations_for_github() -> None:
    span = Span(file=SourceFile(name="a,b:c.yaml", text="x: 1\n"), line=1, column=4)
    error = ApplyError(Diagnostic(message="100% wrong\nindeed", span=span, help="fix it"))
    told = lines_of(LineProgress, lambda p, c: carry_out(p, rerun(), c, {"create lint": error}), github=True)
    assert told[1:3] == [
        "lint: evidence saved, removed; failed while creating: 100% wrong\\nindeed",
        "::error title=sandboxrun,file=a%2Cb%3Ac.yaml,line=1,col=4,endColumn=5::100%25 wrong%0Aindeed%0Afix it",
    ]


def test_what_takes_long_is_told_now_and_then() -> None:
    plan = rerun()
    pull = op.PullImage(id="pull x", address="image.x:1", cause="", reference="x:1", platform=None, digest=None)

    def act(progress: Progress, clock: Clock) -> None:
        progress.begin(structs.replace(plan, operations=(pull,)))
        progress(StepStarted(step=pull))
        for n in range(4):
            progress(StepProgress(step=pull, text=f"{n} of 9 layers"))
            clock.seconds += EVERY * 0.6
        progress(StepDone(step=pull, seconds=12, note="sha256:abc"))
        progress.end()

    assert lines_of(LineProgress, act) == [
        "image x:1: pulling: 0 of 9 layers",
        "image x:1: pulling: 2 of 9 layers",
        "image x:1: pulled (12.0s)",
    ]
    assert lines_of(LineProgress, act, verbose=True)[-1] == "image x:1: pulled, sha256:abc (12.0s)"
    assert lines_of(LineProgress, act, quiet=True) == []


def test_an_apply_that_is_stopped_says_what_was_not_come_to() -> None:
    plan = rerun()

    def act(progress: Progress, clock: Clock) -> None:
        progress.begin(plan)
        for id in ("create network.default", "evidence lint"):
            progress(StepStarted(step=step(plan, id)))
            progress(StepDone(step=step(plan, id), seconds=0.1))
        progress(Undone(address="lint", what="removed"))
        progress.end()

    assert lines_of(LineProgress, act) == [
        "network default: created (0.0s)",
        "lint: rolled back",
        "lint: evidence saved; not finished",
        'agent["a"]: not begun',
    ]


def test_json_lines_in_opentofus_shape() -> None:
    told: list[str] = []
    clock = Clock()
    progress = JsonProgress(told.append, clock=clock, now=lambda: datetime(2026, 3, 1, 12, tzinfo=UTC))
    progress.say("waiting for the lock")
    carry_out(progress, rerun(), clock, {"create lint": BROKEN})
    lines = [json.loads(line) for line in told]
    assert [(line["type"], line["@level"], line["@message"]) for line in lines] == [
        ("log", "info", "waiting for the lock"),
        ("version", "info", "sandboxrun 0.1.0"),
        ("planned_change", "info", "network.default: Plan to create"),
        ("planned_change", "info", "lint: Plan to replace"),
        ("planned_change", "info", 'agent["a"]: Plan to create'),
        ("change_summary", "info", "Plan: 3 to add, 0 to change, 1 to destroy."),
        ("apply_start", "info", "lint: Replacing..."),
        ("apply_start", "info", "network.default: Creating..."),
        ("apply_complete", "info", "network.default: created (0.1s)"),
        ("apply_errored", "error", "lint: failed while creating"),
        ("diagnostic", "error", "Error: no program (sensitive value)\\x1b[2J\\nin the image"),
        ("log", "warn", "lint: skipped starting: lint failed while creating"),
        ("apply_start", "info", 'agent["a"]: Creating...'),
        ("apply_complete", "info", 'agent["a"]: created, started (0.2s)'),
        ("change_summary", "info", "Apply ended. Resources: 2 added, 0 changed, 0 destroyed."),
    ]
    assert lines[8]["hook"] == {
        "resource": {
            "addr": "network.default",
            "module": "",
            "resource": "network.default",
            "implied_provider": "sandboxrun",
            "resource_type": "sandboxrun_network",
            "resource_name": "default",
            "resource_key": None,
        },
        "action": "create",
        "elapsed_seconds": 0,
    }
    assert lines[13]["hook"]["resource"]["resource_key"] == "a"
    assert lines[10]["diagnostic"]["detail"] == "check command:" and lines[10]["diagnostic"]["address"] == "lint"
    assert lines[-1]["changes"] == {"add": 2, "change": 0, "remove": 0, "operation": "apply"}
    assert {line["@timestamp"] for line in lines} == {"2026-03-01T12:00:00.000000Z"}
    assert {line["@module"] for line in lines} == {"sandboxrun.ui"}
    assert SECRET not in "".join(told)


def test_json_tells_drift_and_what_was_taken_back() -> None:
    told: list[str] = []
    progress = JsonProgress(told.append)
    drifted = observed(LINT, mem_limit=2**30)
    progress.begin(make_plan(profile(LINT), snapshot(drifted)))
    progress(Undone(address="lint", what="removed"))
    progress.end()
    lines = [json.loads(line) for line in told]
    assert [line["type"] for line in lines] == [
        "version", "resource_drift", "planned_change", "change_summary", "log", "log", "change_summary",
    ]  # fmt: skip
    assert lines[1]["change"]["action"] == lines[2]["change"]["action"] == "update"
    assert lines[5]["@message"] == "lint: not begun"


def test_live_on_a_terminal() -> None:
    out = Terminal()
    progress = progress_for(out, {"TERM": "xterm-256color"})
    assert isinstance(progress, LiveProgress)
    progress.say("waiting for the lock")
    carry_out(progress, rerun(), Clock(), {"create lint": BROKEN})
    shown = out.getvalue()
    assert 'agent["a"]: created, started' in shown and "waiting for the lock" in shown
    assert "\x1b[31mlint: evidence saved, removed; failed while creating: no program (sensitive value)\\x1b[2J" in shown
    assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h") == 1, "the cursor is hidden, and shown again"
    assert SECRET not in shown and "\x1b[2J" not in shown


def test_the_live_display_names_what_goes_on() -> None:
    out, plan = Terminal(), rerun()
    progress = LiveProgress(out, colour=False, clock=Clock())
    progress.begin(plan)
    progress(StepStarted(step=step(plan, "create lint")))
    with progress._console.capture() as captured:
        progress._console.print(progress._draw())
    progress.end()
    assert "lint creating 0s" in re.sub(r"\x1b\[\d+m", "", captured.get())
    assert "\x1b[31m" not in out.getvalue()


def alive(address: str, line: str = "", seconds: float = 125) -> Alive:
    return Alive(address=address, seconds=seconds, memory=41 << 20, limit=512 << 20, line=line)


HOSTILE = f"key {SECRET} \x1b[2J" + "x" * 200
SEEN = StillRunning(sandboxes=(alive("lint", "compiling module 7"), alive('agent["a"]', HOSTILE)))


def test_what_is_waited_for() -> None:
    def act(progress: Progress, clock: Clock) -> None:
        progress.begin(rerun())
        progress(SEEN)
        progress(StillRunning(sandboxes=tuple(Alive(address=f"s{n}", seconds=3) for n in range(7))))
        progress(StillRunning(sandboxes=()))

    lint, agent, *others, more = lines_of(LineProgress, act)
    assert lint == "lint: running for 2m05s, 41.0 MiB of 512.0 MiB: compiling module 7"
    assert agent.startswith('agent["a"]: running for 2m05s, 41.0 MiB of 512.0 MiB: key (sensitive value) \\x1b[2Jxxx')
    assert agent.endswith("xx…") and len(agent) < 180
    assert others == [f"s{n}: running for 3.0s" for n in range(5)] and more == "and 2 more"
    assert lines_of(LineProgress, act, quiet=True) == []
    hooks = [json.loads(line) for line in lines_of(JsonProgress, act)]
    first, second, *rest = [line for line in hooks if line["type"] == "apply_progress"]
    assert first["@message"] == "lint: running for 2m05s, 41.0 MiB of 512.0 MiB: compiling module 7"
    assert (first["hook"]["elapsed_seconds"], first["hook"]["memory_bytes"]) == (125, 41 << 20)
    assert first["hook"]["last_line"] == "compiling module 7" and SECRET not in json.dumps(second)
    assert len(rest) == 7


def test_the_live_display_shows_what_is_waited_for() -> None:
    clock = Clock()
    progress = LiveProgress(Terminal(), colour=False, sensitive=frozenset({SECRET}), clock=clock)

    def drawn() -> str:
        Console(file=(out := io.StringIO()), width=100).print(progress._draw())
        return out.getvalue()

    progress(SEEN)  # without a plan: all of it ran already
    clock.seconds += 10
    shown = drawn()
    assert re.search(r"lint +running for 2m15s, 41.0 MiB of 512.0 MiB: comp", shown) and SECRET not in shown
    progress(StillRunning(sandboxes=tuple(alive(f"s{n}") for n in range(30))))
    assert drawn().count("\n") == 13 and "and 18 more" in drawn()
    progress(StillRunning(sandboxes=()))
    assert "running" not in drawn()
    progress.end()
    progress(SEEN)
    assert progress._live is None


def test_many_at_once_do_not_fill_the_screen() -> None:
    plan = make_plan(profile(*(declared("s", str(n)) for n in range(30))), snapshot())
    progress = LiveProgress(Terminal(), colour=False)
    progress.begin(plan)
    for one in plan.operations:
        progress(StepStarted(step=one))
    with progress._console.capture() as captured:
        progress._console.print(progress._draw())
    progress.end()
    assert captured.get().count("\n") == 13 and "and 18 more" in captured.get()


@pytest.mark.parametrize(
    ("environment", "terminal", "options", "kind"),
    [
        ({}, False, {}, LineProgress),
        ({"TERM": "xterm"}, True, {}, LiveProgress),
        ({"TERM": "dumb"}, True, {}, LineProgress),
        ({"TERM": "xterm"}, True, {"quiet": True}, LineProgress),
        ({"TERM": "xterm"}, False, {"form": "live"}, LineProgress),
        ({"TERM": "xterm", "GITHUB_ACTIONS": "true"}, True, {}, LineProgress),
        ({}, True, {"form": "lines"}, LineProgress),
        ({}, True, {"form": "json"}, JsonProgress),
    ],
)
def test_the_choice(environment: dict[str, str], terminal: bool, options: dict[str, Any], kind: type) -> None:
    assert type(progress_for(Terminal() if terminal else io.StringIO(), environment, **options)) is kind


def test_no_color_is_honoured() -> None:
    out = Terminal()
    carry_out(progress_for(out, {"TERM": "xterm", "NO_COLOR": "1"}), rerun(), Clock(), {"create lint": BROKEN})
    assert "failed while creating" in out.getvalue() and "\x1b[31m" not in out.getvalue()


def test_a_reader_that_has_gone_stops_nothing() -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    class GoneTerminal(Gone, Terminal):
        pass

    for progress in (
        progress_for(Gone(), {}),
        progress_for(Gone(), {}, form="json"),
        progress_for(GoneTerminal(), {"TERM": "xterm"}),
    ):
        carry_out(progress, rerun(), Clock(), {"create lint": BROKEN})


def test_a_listener_that_raises_stops_nothing() -> None:
    heard: list[Event] = []

    def listener(event: Event) -> None:
        heard.append(event)
        raise RuntimeError

    guarded(listener)(Undone(address="a", what="removed"))
    assert len(heard) == 1


def test_lines_of_several_threads_stay_whole() -> None:
    out = io.StringIO()
    names = [f"sandbox-{n}" for n in range(40)]
    plan = make_plan(profile(*map(declared, names)), snapshot())
    progress = LineProgress(writer(out))
    progress.begin(plan)

    def work(mine: list[Operation]) -> None:
        for one in mine:
            progress(StepStarted(step=one))
            progress(StepDone(step=one, seconds=0.0))

    threads = [
        threading.Thread(target=work, args=([s for s in plan.operations if s.address in names[n::4]],))
        for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    progress.end()
    told = sorted(line.rpartition(" (")[0] for line in out.getvalue().splitlines())
    assert told == sorted(f"{name}: created, started" for name in names)


def waiting(condition: str) -> op.AwaitSandbox:
    return op.AwaitSandbox(id="await lint db", address="lint", cause="", dependency="db", condition=condition)


def test_the_end_of_a_dependency_is_told_by_the_caller() -> None:
    """What it comes to (an error, or a result) is said once, at the end."""

    def act(progress: Progress, clock: Clock) -> None:
        plan = rerun()
        progress.begin(plan)
        one = waiting("service_completed_successfully")
        progress(StepStarted(step=one))
        progress(StepProgress(step=one, text=""))
        progress(StepFailed(step=one, error=DependencyFailed("lint", "db", "exited with 3")))
        progress(StepSkipped(step=step(plan, "start lint"), failed=None))
        progress(Undone(address="lint", what="removed"))

    assert lines_of(LineProgress, act) == ["lint: waiting for db to complete"]


def test_a_second_plan_begins_anew() -> None:
    """As at the end of `apply --wait`: what the first one did to a resource is told."""

    def act(progress: Progress, clock: Clock) -> None:
        carry_out(progress, rerun(), clock)
        ending = make_destroy_plan(profile(LINT), snapshot(observed(LINT, ended(0)), networks=()))
        progress(Planned(operations=ending.operations))
        for one in ending.operations:
            progress(StepStarted(step=one))
            clock.seconds += 0.1
            progress(StepDone(step=one, seconds=0.1))

    assert lines_of(LineProgress, act)[-2:] == [
        'agent["a"]: created, started (0.2s)',
        "lint: evidence saved, removed (0.2s)",
    ]


def test_every_step_has_words() -> None:
    common: dict[str, Any] = {"id": "i", "address": "a", "cause": "c"}
    values: dict[str, Any] = {
        "sandbox": LINT, "files": (), "attachment": None, "options": ("cpus", "mem_limit"), "grace": 1, "volumes": (),
        "spec": None, "image_id": None, "part": "workspace", "network": "review_x", "dependency": "db",
        "condition": "service_started",
    }  # fmt: skip
    told = {}
    for kind in Operation.__args__:
        fields = {name: values.get(name, "x") for name in kind.__struct_fields__ if name not in (*common, "needs")}
        one = kind(**common, **fields)
        told[kind.__name__] = (steps.doing(one), steps.done(one, "12 files"))
    assert all(doing and done for doing, done in told.values())
    assert told["UpdateSandbox"] == ("updating cpus, mem_limit", "updated cpus, mem_limit")
    assert told["UploadWorkspace"] == ("copying the workspace in", "workspace copied in (12 files)")
    assert told["AwaitSandbox"] == ("waiting for db to start", "waited for db")
    assert steps.doing(waiting("service_completed_successfully")) == "waiting for db to complete"
    assert steps.doing(waiting("service_healthy"), "unhealthy") == "waiting for db to be healthy: unhealthy"
    assert told["ConnectNetwork"] == ("connecting to review_x", "connected to review_x")
    assert steps.resource_of("") == "leftovers" and steps.resource_of("volume.x\ny") == "volume x\\ny"


def test_every_step_has_its_words() -> None:
    assert set(steps.WORDS) == set(get_args(Operation))
