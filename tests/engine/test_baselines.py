"""What the commands ask of the engine and what they print, for the plainest sandboxes: as files that changes are held
against. A call more, or another word, is seen in the difference; SANDBOXRUN_DEV_UPDATE=1 writes them.

Durations, sizes in use, ids and the project's name are replaced; everything else is compared as it is.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandboxrun.lifecycle.watch import AT_ONCE
from tests.conftest import Cli, Ran
from tests.engine.counting import Counting, counting

BASELINES = Path(__file__).resolve().parent.parent / "baselines"
PROFILE = """\
name: {project}
sandboxes:
  plain: {{image: "{image}", network_mode: none, command: [echo, hello]}}
"""
BACKGROUND = """\
name: {project}
sandboxes:
  plain: {{image: "{image}", network_mode: none, command: [sleep, "300"], mem_limit: {memory}}}
"""
STEPS = ("run", "apply --wait", "apply", "plan, nothing to do", "apply, nothing to do", "apply, in place", "destroy")
_HIDDEN = (
    (re.compile(r"    missing:  usage \(.*\n|, peak memory [0-9.]+ \S+"), ""),  # the first sample may come in time
    (re.compile(r"\d{8}T\d{6}Z-\S*?-plain-\S*"), "RUN"),
    (re.compile(r"\b\d+(\.\d+)? (B|KiB|MiB)\b"), "SIZE"),
    (re.compile(r"\b(less than )?\d+\.\d+s\b"), "SECONDS"),
    (re.compile(r"-run-[0-9a-f]{6}"), "-run-ID"),
    (re.compile(r"(?<![0-9a-z])[0-9a-f]{12,64}(?![0-9a-z])"), "ID"),
)


@pytest.fixture
def counted(engine_host: str, tmp_path: Path) -> Iterator[Counting]:
    if not engine_host.startswith("unix://"):
        pytest.skip("requests are counted on a local socket only")
    with counting(engine_host.removeprefix("unix://"), tmp_path) as found:
        yield found


def test_calls_and_outputs_are_as_recorded(
    cli: Cli,
    counted: Counting,
    project: str,
    busybox: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    monkeypatch.setenv(
        "XDG_STATE_HOME", str(tmp_path_factory.mktemp("state"))
    )  # what other tests left is looked into, by calls
    profile = cli.cwd / "sandbox.yaml"
    profile.write_text(PROFILE.format(project=project, image=busybox))
    calls: dict[str, dict[str, int]] = {}
    outputs: list[str] = []

    def step(name: str, *arguments: str) -> None:
        began = time.monotonic()
        ran = cli(*arguments, "--host", counted.host)
        assert ran.code == 0, ran
        late = name == "apply --wait" and time.monotonic() - began > AT_ONCE
        calls[name] = {kind: n - (late and n > 1 and kind in _LOCKING) for kind, n in counted.take().items()}
        outputs.append(_shown(name, ran, project))

    step("run", "run")
    profile.write_text(profile.read_text().replace("hello", "good morning"))  # else it has run already
    step("apply --wait", "apply", "--wait", "--yes")
    profile.write_text(BACKGROUND.format(project=project, image=busybox, memory="64m"))
    step("apply", "apply", "--yes")
    step("plan, nothing to do", "plan")
    step("apply, nothing to do", "apply", "--yes")
    profile.write_text(BACKGROUND.format(project=project, image=busybox, memory="96m"))
    step("apply, in place", "apply", "--yes")
    step("destroy", "destroy", "--yes")
    assert tuple(calls) == STEPS
    _compare_outputs("\n".join(outputs))
    _compare_calls({name: {"all": _steady(kinds), **kinds} for name, kinds in calls.items()})


def _shown(name: str, ran: Ran, project: str) -> str:
    text = f"=== {name}\n--- stdout\n{ran.out}--- stderr\n{ran.err}".replace(project, "PROJECT")
    for pattern, word in _HIDDEN:
        text = pattern.sub(word, text)
    return text


def _compare_outputs(found: str) -> None:
    file = BASELINES / "outputs.txt"
    if os.environ.get("SANDBOXRUN_DEV_UPDATE"):
        file.write_text(found)
    assert found == file.read_text(), "SANDBOXRUN_DEV_UPDATE=1 writes tests/baselines/outputs.txt"


# What ends later than AT_ONCE is collected under a lock of its own: on a busy machine, anything may.
_LOCKING = ("POST /volumes/create", "GET /volumes", "DELETE /volumes/*")
_UNSTEADY = ("GET /containers/*/stats", "GET /version", "GET /networks/*")


def _steady(kinds: dict[str, int]) -> int:
    """All calls but those that depend on the machine's speed: samples of usage, what two threads ask at once, and the
    age of an engine that has forgotten the start, since so much else happens on it."""
    return sum(count for kind, count in kinds.items() if kind not in _UNSTEADY)


# What else goes on may add so many calls. Where the engine has more than 50 containers, what other tests made among
# them, it is asked for the project's own, and for those with the names of what is to be made; for its events once more
# where it forgets within a minute.
_LISTS, _OWN_LIST = {"GET /containers/json": 2, "GET /events": 1}, {"GET /containers/json": 1}
# A machine that takes seconds for an echo: its end is waited for by a call then, and collected under a lock of its own.
_SLOW = dict.fromkeys(("POST /containers/*/wait", *_LOCKING), 1)
_MAY_ADD = {
    "apply": _LISTS,
    "apply --wait": {**_LISTS, **_SLOW},
    "apply, nothing to do": _OWN_LIST,
    "apply, in place": _OWN_LIST,
}


def _more(step: str, now: dict[str, int], then: dict[str, int]) -> bool:
    """Whether a step makes more calls than it did, beyond those for what else goes on."""
    may = _MAY_ADD.get(step, {})
    added = sum(min(most, max(0, now.get(kind, 0) - then.get(kind, 0))) for kind, most in may.items())
    return now["all"] - added > then["all"]


def _compare_calls(found: dict[str, dict[str, int]]) -> None:
    """No step makes more calls than recorded."""
    file = BASELINES / "calls.json"
    if os.environ.get("SANDBOXRUN_DEV_UPDATE"):
        file.write_text(json.dumps(found, indent=2) + "\n")
    recorded = json.loads(file.read_text())
    more = {name: (calls, recorded[name]) for name, calls in found.items() if _more(name, calls, recorded[name])}
    kinds = {
        name: {k: (n, then.get(k, 0)) for k, n in now.items() if n > then.get(k, 0)}
        for name, (now, then) in more.items()
    }
    assert not kinds, "SANDBOXRUN_DEV_UPDATE=1 writes tests/baselines/calls.json"
