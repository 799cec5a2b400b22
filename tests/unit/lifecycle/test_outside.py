"""No sandbox may write to its own evidence."""

from __future__ import annotations

from pathlib import Path

import pytest

from sandboxrun.backend.fake import Fake
from sandboxrun.errors import PlanError
from sandboxrun.evidence.checking import verify_chain
from sandboxrun.evidence.store import Store
from sandboxrun.lifecycle.places import check_outside
from sandboxrun.profile.loader import load
from sandboxrun.spec.project import Profile
from tests.scenarios.world import Job, new_world


def _load(directory: Path, options: str, allow_outside: bool = False) -> Profile:
    (directory / "src").mkdir(exist_ok=True)
    file = directory.parent / "sandbox.yaml"  # not in it: a bind of the directory would be refused for that
    file.write_text(f"name: p\nsandboxes:\n  a:\n    image: example\n    {options}\n")
    return load([file], directory=directory, allow_outside=allow_outside)


@pytest.mark.parametrize(
    "options", ["volumes: ['.:/data']", "volumes: ['./link:/data']", "volumes: ['.sandboxrun:/data']"]
)
def test_a_place_that_holds_the_evidence_is_refused(tmp_path: Path, options: str) -> None:
    (tmp_path / "link").symlink_to(".")
    (tmp_path / ".sandboxrun").mkdir()
    with pytest.raises(PlanError) as caught:
        check_outside(_load(tmp_path, options).sandboxes, Store(project_directory=tmp_path))
    (fault,) = caught.value.diagnostics
    assert fault.message.endswith("lets the sandbox write to its own evidence")
    assert fault.span is not None and fault.span.line == 5


def test_evidence_in_another_place_of_a_workspace_is_refused(tmp_path: Path) -> None:
    store = Store(project_directory=tmp_path, root=Path("kept"))
    with pytest.raises(PlanError, match=r"the workspace .* lets the sandbox write to its own evidence"):
        check_outside(_load(tmp_path, "workspace: {access: rw}").sandboxes, store)


def test_evidence_behind_a_link_is_not_hidden(tmp_path: Path) -> None:
    profile = _load(tmp_path, "workspace: {access: rw}")
    (tmp_path / "kept").mkdir()
    (tmp_path / ".sandboxrun").symlink_to("kept")
    with pytest.raises(PlanError, match="lets the sandbox write to its own evidence"):
        check_outside(profile.sandboxes, Store(project_directory=tmp_path))


@pytest.mark.parametrize(
    "options", ["workspace: {access: ro}", "volumes: ['.:/data:ro']", "volumes: ['./below:/data']"]
)
def test_a_place_that_holds_the_state_is_refused(tmp_path: Path, options: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "below").mkdir()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "below/state"))
    with pytest.raises(PlanError) as caught:
        check_outside(_load(tmp_path, options).sandboxes, Store(project_directory=tmp_path))
    (fault,) = caught.value.diagnostics
    state = tmp_path / "below/state/sandboxrun"
    assert fault.message.endswith(f"gives the sandbox the state directory {state}, with the key that seals evidence")
    assert "XDG_STATE_HOME" in (fault.help or "") and not fault.option  # another --evidence would not help


@pytest.mark.parametrize(
    "options",
    [
        "workspace: {access: rw}",  # a mount hides the evidence
        "workspace: {access: ro}",
        "workspace: {access: copy}",
        "workspace: {source: src, access: rw}",
        "volumes: ['.:/data:ro', './src:/src']",
    ],
)
def test_other_places_are_fine(tmp_path: Path, options: str) -> None:
    check_outside(_load(tmp_path, options).sandboxes, Store(project_directory=tmp_path))


def test_with_the_evidence_elsewhere_the_whole_project_may_be_written(tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    store = Store(project_directory=project, root=tmp_path / "kept")
    check_outside(_load(project, "workspace: {access: rw}").sandboxes, store)
    with store.staging("run", engine="e") as staging:
        staging.write("file", b"")
    assert not (project / ".sandboxrun").exists()
    store.unstage("run")
    with pytest.raises(FileNotFoundError), store.staging("run"):
        raise AssertionError("not reached")
    assert verify_chain(store) == ()


@pytest.mark.parametrize(
    ("options", "warned"),
    [
        ("volumes: ['/var/run:/r:ro']", "the directory of the engine's socket: it gives control of the host (SBX201)"),
        ("volumes: ['/home:/h:ro', './src:/src']", "/home of the host can be read from inside (SBX205)"),
        ("workspace: {source: /etc, access: ro}", "/etc of the host can be read from inside (SBX205)"),
        ("volumes: ['/sys/class:/c:ro']", "(SBX205)"),
        ("volumes: ['./src:/src']", None),
    ],
)
def test_a_plan_warns_of_the_host_and_of_homes(tmp_path: Path, options: str, warned: str | None) -> None:
    profile = _load(tmp_path, options, allow_outside=True)
    planned = Job.of(Fake(new_world()), profile, tmp_path / "evidence").plan()
    found = [warning for warning in planned.warnings if "SBX" in warning.message]
    assert [(f.severity, f.span.line if f.span else None) for f in found] == ([("warning", 5)] if warned else [])
    assert warned is None or found[0].message.endswith(warned)
