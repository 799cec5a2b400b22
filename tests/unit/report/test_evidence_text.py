"""How runs ended, in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sandboxrun.evidence.index import EgressSummary, Index, Kept, MissingPart, RefusedName, Usage
from sandboxrun.evidence.store import Captured, RunResult
from sandboxrun.report.evidence import ending_text, evidence_plain, evidence_text, runs_text
from sandboxrun.report.table import duration, size
from sandboxrun.spec.records import Lifetime
from sandboxrun.spec.spec import SandboxSpec
from sandboxrun.spec.state import WAS_IDLE, Ending, How

ROOT = Path("/project")
FOLDER = ROOT / ".sandboxrun/evidence/20260301T120000Z-review-lint-0123456789ab"
SPEC = SandboxSpec(lifetime=Lifetime(timeout=30 * 10**9))


def captured(ending: Ending, **rest: Any) -> Captured:
    index = Index(
        run="0123456789ab",
        project="review",
        sandbox="lint",
        container_id="c",
        container_name="review-lint",
        ending=ending,
        **rest,
    )
    return Captured(entry=None, folder=FOLDER, index=index)


def kept(path: str, *, truncated: bool = False) -> Kept:
    return Kept(path=path, sha256="", bytes=1, truncated=truncated)


def test_a_run_that_went_well() -> None:
    done = captured(
        Ending(how=How.EXITED, exit_code=0),
        ran_seconds=3.24,
        usage=Usage(samples=3, memory_peak_bytes=43201331, memory_peak_by="kernel"),
        kept=(kept("stdout"), kept("workspace.patch")),
        patched_paths=3,
    )
    assert evidence_text([RunResult(address="lint", evidence=done, spec=SPEC)], relative_to=ROOT).split("\n") == [
        "lint: completed (exit 0), after 3.2s, peak memory 41.2 MiB",
        "    evidence: .sandboxrun/evidence/20260301T120000Z-review-lint-0123456789ab",
        "    patch:    workspace.patch, 3 files changed",
    ]


def test_what_is_missing_cut_and_refused_is_said() -> None:
    gone = tuple(MissingPart(part=f"part{n}", reason="it\nbroke\x1b[2J") for n in range(7))
    done = captured(
        Ending(how=How.FAILED, exit_code=2),
        missing=gone,
        kept=(kept("stdout", truncated=True), kept("workspace.patch")),
        patched_paths=0,
        refused=(RefusedName(part="artifacts", path="/x", reason="a socket"),),
        refused_total=12,
    )
    told = evidence_text([RunResult(address="lint", evidence=done)], relative_to=Path("/elsewhere")).split("\n")
    listed = "; ".join(f"part{n} (it\\nbroke\\x1b[2J)" for n in range(5))
    assert told == [
        "lint: failed with exit 2",
        f"    evidence: {FOLDER}",
        "    patch:    nothing changed in the workspace",
        f"    missing:  {listed}; and 2 more, see index.json",
        "    cut:      stdout",
        "    refused:  12 names that the agent left: /x (a socket); more in index.json",
    ]


@pytest.mark.parametrize(
    ("ending", "note", "said"),
    [
        (Ending(how=How.EXITED, exit_code=0), "", "completed (exit 0)"),
        (Ending(how=How.FAILED, exit_code=3), "", "failed with exit 3"),
        (Ending(how=How.FAILED, exit_code=139, signal=11), "", "failed with exit 139 (as SIGSEGV gives)"),
        (Ending(how=How.FAILED, exit_code=160, signal=32), "", "failed with exit 160 (as signal 32 gives)"),
        (
            Ending(how=How.OOM, exit_code=137, signal=9, oom_killed=True),
            "",
            "killed for exceeding its memory limit of 512m (exit 137)",
        ),
        (
            Ending(how=How.OOM, exit_code=1, oom_killed=True, detail="a process in it was killed for memory"),
            "",
            "killed for exceeding its memory limit of 512m (exit 1); a process in it was killed for memory",
        ),
        (Ending(how=How.TIMEOUT, exit_code=143), "", "stopped after its timeout of 30s (exit 124)"),
        (
            Ending(how=How.TIMEOUT, exit_code=143),
            "past its timeout of 5s",
            "stopped after its timeout of 5s (exit 124)",
        ),
        (Ending(how=How.TIMEOUT, exit_code=143, detail="past its ttl"), "", "stopped after its ttl (exit 124)"),
        (
            Ending(how=How.TIMEOUT, exit_code=143, detail=WAS_IDLE),
            "no output and no CPU use for 3s",
            "stopped: no output and no CPU use for 3s (exit 124)",
        ),
        (Ending(how=How.TIMEOUT, detail=WAS_IDLE), "", f"stopped: {WAS_IDLE} (exit 124)"),
        (Ending(how=How.TIMEOUT), "no output for 10m", "stopped: no output for 10m (exit 124)"),
        (Ending(how=How.KILLED, exit_code=137), "", "stopped before its end (exit 137)"),
        (
            Ending(how=How.KILLED, exit_code=143, detail="the run ended"),
            "the run ended",
            "stopped because the run ended (exit 143)",
        ),
        (
            Ending(how=How.KILLED, exit_code=143, detail="stopped by somebody else"),
            "",
            "stopped before its end (exit 143): stopped by somebody else",
        ),
        (Ending(how=How.KILLED), "did not end\x1b", "stopped before its end: did not end\\x1b"),
        (Ending(how=How.ENGINE_LOST), "", "lost: the engine stopped while it was running"),
        (Ending(how=How.ENGINE_LOST, detail="exit code 255"), "", "lost: exit code 255"),
        (Ending(how=How.NOT_STARTED, exit_code=127, detail="no sh"), "", "not started (exit 127): no sh"),
    ],
)
def test_endings(ending: Ending, note: str, said: str) -> None:
    assert ending_text(ending, SPEC, note) == said


def test_without_a_spec_limits_are_not_guessed() -> None:
    assert ending_text(Ending(how=How.OOM, exit_code=137)) == "killed for exceeding its memory limit (exit 137)"
    assert ending_text(Ending(how=How.TIMEOUT)) == "stopped after its timeout (exit 124)"


def test_a_run_that_never_was_and_evidence_that_was_not_kept() -> None:
    lost = Captured(entry=None, failure="no space is left\n")
    runs = [
        RunResult(address='agent["a\nb"]', evidence=None),
        RunResult(address="b", evidence=None, note="it was not started"),
        RunResult(address="c", evidence=lost),
    ]
    assert evidence_text(runs).split("\n") == [
        'agent["a\\nb"]: was not run',
        "b: it was not started",
        "c: its evidence could not be saved: no space is left\\n",
    ]


def test_an_end_that_was_seen_is_told_with_why_its_evidence_is_not_here() -> None:
    seen, full = Ending(how=How.FAILED, exit_code=3), Captured(entry=None, failure="no space is left")
    elsewhere, lost = (RunResult(address="a", evidence=evidence, seen=seen) for evidence in (None, full))
    assert evidence_text([lost]) == "a: failed with exit 3; its evidence could not be saved: no space is left"
    assert evidence_text([elsewhere]).startswith("a: failed with exit 3; no evidence here: another job collected it, ")
    told = {"sandbox": "a", "note": "", "outcome": "failed", "exit_code": 3, "evidence": None}
    assert evidence_plain(elsewhere) == told
    assert evidence_plain(lost) == {**told, "failure": "no space is left"}


@pytest.mark.parametrize(
    ("part", "untracked", "said"),
    [
        ("workspace.patch", 0, "no change but those below"),
        ("artifacts", 2, "no change but those below"),
        ("artifacts", 0, "nothing changed in the workspace"),
    ],
)
def test_a_patch_of_nothing_hides_no_change_that_is_elsewhere(part: str, untracked: int, said: str) -> None:
    done = captured(
        Ending(how=How.EXITED, exit_code=0),
        kept=(kept("workspace.patch"),),
        patched_paths=0,
        untracked_paths=untracked,
        refused=(RefusedName(part=part, path="big.bin", reason="larger than 5 bytes"),),
        refused_total=1,
    )
    rows = evidence_text([RunResult(address="a", evidence=done)]).split("\n")
    assert [row.partition(":")[2].strip() for row in rows if "patch: " in row] == [said]
    assert rows[-1].endswith(" 1 name that the agent left: big.bin (larger than 5 bytes)")


def test_secrets_are_masked() -> None:
    failed = captured(Ending(how=How.NOT_STARTED, exit_code=127, detail='exec: "hunter2-secret"'))
    told = evidence_text([RunResult(address="a", evidence=failed)], sensitive=frozenset({"hunter2-secret"}))
    assert told.startswith('a: not started (exit 127): exec: "(sensitive value)"')


def test_measures() -> None:
    assert [duration(s) for s in (0, 0.44, 59.9, 60, 185.4, 7380)] == [
        "0.0s",
        "0.4s",
        "59.9s",
        "1m00s",
        "3m05s",
        "2h03m",
    ]
    assert [size(n) for n in (0, 1023, 1024, 43201331, 3 << 30, 5 << 40)] == [
        "0 B", "1023 B", "1.0 KiB", "41.2 MiB", "3.0 GiB", "5.0 TiB",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("how", "by", "said"),
    [
        (How.EXITED, "kernel", "peak memory 1.0 MiB"),
        (How.EXITED, "samples", "peak memory at least 1.0 MiB"),
        (How.OOM, "kernel", "peak memory at least 1.0 MiB"),
    ],
)
def test_a_peak_that_may_have_been_higher_is_told_as_such(how: How, by: str, said: str) -> None:
    done = captured(Ending(how=how), usage=Usage(samples=1, memory_peak_bytes=1 << 20, memory_peak_by=by))
    assert evidence_text([RunResult(address="a", evidence=done)]).split("\n")[0].endswith(f", {said}")


def test_runs_as_data() -> None:
    late = captured(
        Ending(how=How.TIMEOUT, exit_code=143), ran_seconds=5.0, missing=(MissingPart(part="logs", reason=""),)
    )
    assert evidence_plain(RunResult(address="lint", evidence=late, note="past its timeout of 5s")) == {
        "sandbox": "lint",
        "note": "past its timeout of 5s",
        "run": "0123456789ab",
        "outcome": "timeout",
        "exit_code": 124,
        "ran_seconds": 5.0,
        "evidence": str(FOLDER),
        "missing": ["logs"],
        "protected_paths_touched": [],
    }
    assert evidence_plain(RunResult(address="a", evidence=None, note="not started: b exited with 1")) == {
        "sandbox": "a",
        "note": "not started: b exited with 1",
        "outcome": "not_started",
    }
    lost = Captured(entry=None, failure="the disk is full")
    assert evidence_plain(RunResult(address="a", evidence=lost)) == {
        "sandbox": "a",
        "note": "",
        "failure": "the disk is full",
    }


def test_a_run_of_no_time_at_all() -> None:
    done = captured(Ending(how=How.EXITED, exit_code=0), ran_seconds=0.0)
    assert (
        evidence_text([RunResult(address="a", evidence=done)]).split("\n")[0]
        == "a: completed (exit 0), after less than 0.1s"
    )


@pytest.mark.parametrize(
    ("egress", "said"),
    [
        (EgressSummary(allowed=0, denied=0), ["    egress:   no host was asked for"]),
        (EgressSummary(allowed=1, denied=0), ["    egress:   1 request allowed"]),
        (
            EgressSummary(
                allowed=2,
                denied=3,
                denied_targets=("paste.example.org", "b.example.org:22", "?:80", "x y.example"),
                unlisted_targets=("paste.example.org", "b.example.org:22", "x y.example"),
            ),
            [
                "    egress:   2 requests allowed, 3 refused: paste.example.org, b.example.org:22, ?:80, x y.example",
                '    to allow: add "paste.example.org:443", "b.example.org:22" to egress: allow: in the profile',
            ],
        ),
        (
            EgressSummary(
                allowed=0,
                denied=1,
                denied_targets=("169.254.169.254:80",),
                unlisted_targets=("169.254.169.254:80",),
            ),
            ["    egress:   0 requests allowed, 1 refused: 169.254.169.254:80"],
        ),
        (
            EgressSummary(
                allowed=0,
                denied=2,
                denied_targets=("Metadata.google.internal", "instance-data.ec2.internal:80"),
                unlisted_targets=("b.example.org", "Metadata.google.internal", "instance-data.ec2.internal:80"),
            ),
            [
                "    egress:   0 requests allowed, 2 refused: Metadata.google.internal, instance-data.ec2.internal:80",
                "    metadata: no setting allows Metadata.google.internal:443, instance-data.ec2.internal:80: "
                "it hands out the cloud's credentials; some SDKs try it",
                '    to allow: add "b.example.org:443" to egress: allow: in the profile',
            ],
        ),
        (
            EgressSummary(allowed=0, denied=1, denied_targets=("*.example.org",), unlisted_targets=("*.example.org",)),
            ["    egress:   0 requests allowed, 1 refused: *.example.org"],
        ),
        (
            EgressSummary(allowed=3, failed=1, denied=0),
            ["    egress:   3 requests allowed (1 found no host)"],
        ),
        (  # it is listed: another line of the list would not help
            EgressSummary(
                allowed=0, denied=1, denied_targets=("db.example.org:5432",), private_addresses=("10.1.2.3",)
            ),
            [
                "    egress:   0 requests allowed, 1 refused: db.example.org:5432",
                "    to allow: list a range that has 10.1.2.3 under egress: private_networks: in the profile",
            ],
        ),
    ],
)
def test_what_was_asked_for_and_the_line_that_would_allow_it(egress: EgressSummary, said: list[str]) -> None:
    done = captured(Ending(how=How.EXITED, exit_code=0), egress=egress)
    lines = evidence_text([RunResult(address="lint", evidence=done, spec=SPEC)], relative_to=ROOT).split("\n")
    assert lines[2:] == said


def _many(*hows: How) -> list[RunResult]:
    return [RunResult(address=f"a{n}", evidence=captured(Ending(how=how, exit_code=0))) for n, how in enumerate(hows)]


def test_several_are_counted_and_of_many_only_the_others_are_listed() -> None:
    few = runs_text(_many(How.EXITED, How.FAILED)).splitlines()
    assert few[0].startswith("a0: completed") and few[-1] == "2 sandboxes: 1 passed, 1 failed"
    assert "sandboxes:" not in runs_text(_many(How.EXITED))
    many = runs_text(_many(*[How.EXITED] * 18, How.FAILED, How.FAILED, How.TIMEOUT, How.OOM)).splitlines()
    assert [line.partition(":")[0] for line in many if line[0] == "a"] == ["a18", "a19", "a20", "a21"]
    assert many[-1] == "22 sandboxes: 18 passed, 2 failed, 1 timed out, 1 out of memory"
    assert runs_text(_many(How.EXITED, How.EXITED), brief=True) == "2 sandboxes: 2 passed"
    assert runs_text([RunResult(address="a", evidence=None)] * 2).endswith("2 sandboxes: 2 not run")


def test_a_destroy_of_many_does_not_list_what_it_stopped_itself() -> None:
    by_hand = captured(Ending(how=How.KILLED, exit_code=137, detail="stopped by somebody else"))
    runs = [*_many(*[How.KILLED] * 11), RunResult(address="b", evidence=by_hand)]
    assert len([line for line in runs_text(runs).splitlines() if line[0] in "ab"]) == 12
    assert [line for line in runs_text(runs, stopping=True).splitlines() if line[0] != " "] == [
        "b: stopped before its end (exit 137): stopped by somebody else",
        "12 sandboxes: 12 stopped",
    ]
