"""Fixes are reviewed before they are written: what would be worse is not."""

from __future__ import annotations

import codecs
from pathlib import Path

import msgspec
import pytest

from sandboxrun.audit.judge import AuditVerdict, ReviewTerms
from sandboxrun.errors import SandboxrunError
from sandboxrun.lifecycle import fixing
from sandboxrun.lifecycle.review import Target, review
from tests.unit.audit.reviewing import TODAY, reviewed, rules_of

COMPOSE = "services:\n  agent:\n    image: busybox:1.36\n    security_opt: [seccomp=unconfined]\n"


@pytest.mark.parametrize(
    ("edited", "said"),
    [
        ("    privileged: true\n", "with the fixes, the container is privileged: it controls the host (SBX101)"),
        ("    volumes: {\n", "could not be audited"),
        ("    cpu_shares: 512\n", None),
    ],
)
def test_a_file_is_reviewed_with_its_fixes(edited: str, said: str | None, tmp_path: Path) -> None:
    path = tmp_path / "compose.yaml"
    path.write_text(COMPOSE)

    def again() -> AuditVerdict:
        return review([Target(kind="compose", paths=(path,))], ReviewTerms(today=TODAY))

    before = again()
    (fix, *_) = fixing.fixes(before, unsafe=True).made
    fixing.check([fix], before, again)
    worse = msgspec.structs.replace(fix, after=fix.after + edited)
    if said is None:
        fixing.check([worse], before, again)
    else:
        with pytest.raises(SandboxrunError, match="the fixes were not written") as raised:
            fixing.check([worse], before, again)
        assert said in str(raised.value)
    assert path.read_text() == COMPOSE
    assert rules_of(again()) == rules_of(before)


def test_of_too_many_fixes_the_rest_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each fix is parsed with its whole file: a large file with thousands would take hours."""
    services = "".join(f"  s{number}: {{image: x, privileged: true}}\n" for number in range(20))
    before = reviewed(tmp_path, f"services:\n{services}", "compose.yaml")
    every = fixing.fixes(before, unsafe=True)
    assert every.left == 0
    monkeypatch.setattr(fixing, "MOST_FIXED", 3000)
    some = fixing.fixes(before, unsafe=True)
    assert 0 < len(some.made) < len(every.made)
    assert some.made == every.made[: len(some.made)]
    assert some.left >= len(every.made) - len(some.made)


def test_a_limit_below_deploy_is_fixed_where_it_is(tmp_path: Path) -> None:
    """Compose refuses a limit that is written in both places."""
    text = (
        "services:\n  agent:\n    image: busybox:1.36\n    read_only: true\n"
        "    deploy:\n      resources:\n        limits:\n"
        "          memory: 1g\n          cpus: '1'\n          pids: -1\n"
    )
    verdict = reviewed(tmp_path, text, "compose.yaml")
    (finding,) = (one for one in verdict.findings if one.rule == "SBX404")
    assert finding.span is not None and (finding.span.line, finding.span.column) == (10, 17)
    assert fixing.edited(text, finding) == text.replace("pids: -1", "pids: 256")


def test_a_fix_is_made_in_the_sandbox_that_says_it(tmp_path: Path) -> None:
    """Not in one of those that extend it, which would leave the others as they are."""
    text = (
        "variables: {}\nsandboxes:\n  a:\n    extends: {sandbox: common}\n"
        "  common:\n    image: busybox:1\n    pids_limit: -1\n    cap_add: [SYS_ADMIN]\n"
        "  z:\n    extends: {sandbox: common}\nname: p\n"
    )
    verdict = reviewed(tmp_path, text, "sandbox.yaml")
    made = {one.rule: fixing.edited(text, one) for one in verdict.findings if one.rule in ("SBX102", "SBX404")}
    assert made == {
        "SBX102": text.replace("    cap_add: [SYS_ADMIN]\n", ""),
        "SBX404": text.replace("pids_limit: -1", "pids_limit: 256"),
    }


@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_a_file_keeps_its_line_ends_and_its_mark(ending: str, mark: bytes, tmp_path: Path) -> None:
    """As editors of other systems save it."""
    written = (
        "services:\n  a:\n    image: x  # é\n    pids_limit: 100  # why\n    cap_drop:\n      - NET_RAW  # b\n"
        "    security_opt:\n      - seccomp=unconfined\n      - label=disable\n    volumes: [data:/d]\n"
    )
    path = tmp_path / "compose.yaml"
    path.write_bytes(mark + written.replace("\n", ending).encode())
    made = fixing.fixes(review([Target(kind="compose", paths=(path,))], ReviewTerms(today=TODAY)), unsafe=True).made
    assert {"cap_drop", "security_opt", "mem_limit"} <= {fix.finding.key for fix in made}
    fixing.write(made)
    data = path.read_bytes()
    assert data.startswith(mark + b"services:")
    assert data.count(b"\n") == data.count(ending.encode())
    plain = tmp_path / "plain" / "compose.yaml"
    plain.parent.mkdir()
    plain.write_text(written)
    fixing.write(
        fixing.fixes(review([Target(kind="compose", paths=(plain,))], ReviewTerms(today=TODAY)), unsafe=True).made
    )
    assert data.removeprefix(mark).replace(b"\r\n", b"\n") == plain.read_bytes()
