"""Saved plans: what is written, what is refused, and what a stale one says."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from sandboxrun.errors import PlanError
from sandboxrun.lifecycle.saved import SavedPlan, explain_stale, read_saved, write_saved
from sandboxrun.plan.changes import Plan
from sandboxrun.plan.planner import Options, make_destroy_plan, make_plan
from sandboxrun.report.plan import plan_json
from sandboxrun.spec.spec import digest_of
from sandboxrun.spec.state import Image, ImageConfig
from sandboxrun.spec.types import freeze
from tests.conftest import examples
from tests.unit.plan.world import declared, ended, observed, profile, snapshot

SECRET = "hunter2-secret"
LINT = declared("lint", environment=freeze({"TOKEN": SECRET}))
INPUTS = freeze({"ref": "main", "tasks": ["a", "b"], "n": 3, "token": "(sensitive value)"})


def made(*observed_ones: Any, options: Options | None = None, **rest: Any) -> Plan:
    p = profile(LINT, declared("agent", "a"), sensitive=frozenset({SECRET}), inputs=INPUTS)
    return make_plan(structs.replace(p, **rest), snapshot(*observed_ones, engine_id="ENGINE:1"), options)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "project" / "sub").mkdir(parents=True)
    for name in ("sandbox.yaml", "sub/more.yaml"):
        (tmp_path / "project" / name).write_text("name: review\n")
    return tmp_path / "project"


def save(project: Path, plan: Plan, path: Path | None = None, options: Options | None = None) -> Path:
    path = path or project / "plan.out"
    write_saved(
        path,
        plan,
        files=[project / "sandbox.yaml", project / "sub" / "more.yaml"],
        directory=project,
        options=options,
    )
    return path


def test_what_is_written_is_read(project: Path) -> None:
    options = Options(targets=("lint",), replace=("lint",), rerun=True)
    plan = made(observed(LINT), options=options)
    saved = read_saved(save(project, plan, options=options))
    assert (saved.project, saved.directory) == ("review", project)
    assert saved.files == (project / "sandbox.yaml", project / "sub" / "more.yaml")
    assert (saved.digest, saved.profile_digest, saved.engine_id) == (plan.digest, "sha256:profile", "ENGINE:1")
    assert saved.options == options and not saved.destroy
    assert dict(saved.inputs) == {"ref": "main", "tasks": ["a", "b"], "n": 3}
    assert saved.ask == ("token",)
    assert [(seen.address, seen.state) for seen in saved.observed] == [("lint", "Running")]
    assert saved.plan == plan_json(plan)


def test_a_destroy_is_saved_as_such(project: Path) -> None:
    plan = make_destroy_plan(profile(LINT), snapshot(observed(LINT)))
    assert read_saved(save(project, plan)).destroy


def test_it_is_its_owners_only_replaces_whole_and_holds_no_secret(project: Path) -> None:
    path = project / "plan.out"
    path.write_text("older")
    path.chmod(0o644)
    save(project, made())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert SECRET not in path.read_text()
    assert sorted(p.name for p in project.iterdir()) == ["plan.out", "sandbox.yaml", "sub"]


def test_project_and_plan_may_move_together(tmp_path: Path, project: Path) -> None:
    (tmp_path / "out").mkdir()
    save(project, made(), tmp_path / "out" / "plan")
    moved = tmp_path.parent / f"{tmp_path.name}-moved"
    os.rename(tmp_path, moved)
    try:
        assert read_saved(moved / "out" / "plan").files[0] == moved / "project" / "sandbox.yaml"
    finally:
        os.rename(moved, tmp_path)


def test_a_profile_outside_the_project_cannot_be_saved(tmp_path: Path, project: Path) -> None:
    with pytest.raises(PlanError, match="is outside the project"):
        write_saved(project / "plan", made(), files=[tmp_path / "other.yaml"], directory=project)
    assert not (project / "plan").exists()


def test_where_it_cannot_be_written_is_told(project: Path) -> None:
    with pytest.raises(PlanError, match=r"nowhere/plan cannot be written: no such file or directory"):
        save(project, made(), project / "nowhere" / "plan")
    (project / "folder").mkdir()
    with pytest.raises(PlanError, match="cannot be written"):
        save(project, made(), project / "folder")
    assert sorted(p.name for p in project.iterdir()) == ["folder", "sandbox.yaml", "sub"]


@pytest.mark.parametrize("kind", ["fifo", "symlink", "dangling symlink", "device", "folder"])
def test_nothing_but_a_regular_file_is_replaced(project: Path, kind: str) -> None:
    path = project / "plan.out"
    match kind:
        case "fifo":
            os.mkfifo(path)
        case "symlink" | "dangling symlink":
            path.symlink_to("sandbox.yaml" if kind == "symlink" else "nowhere")
        case "folder":
            path.mkdir()
        case "device":
            try:
                os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 3))
            except PermissionError:
                pytest.skip("only root can make a device")
    before = path.lstat()
    with pytest.raises(PlanError, match=r"plan\.out cannot be written: it exists and is not a regular file"):
        save(project, made(), path)
    assert (path.lstat().st_ino, path.lstat().st_mode) == (before.st_ino, before.st_mode)


def changed(path: Path, **fields: Any) -> Path:
    """The file with other fields and a checksum that fits: what somebody with bad intent writes."""
    body = json.loads(path.read_text())
    body.pop("checksum")
    body.update(fields)
    for name in [name for name, value in fields.items() if value is ...]:
        del body[name]
    path.write_text(json.dumps({**body, "checksum": digest_of(body)}))
    return path


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"directory": "/etc"}, '"/etc" is not a relative path'),
        ({"files": ["../other.yaml"]}, '"../other.yaml" points outside the project'),
        ({"files": ["a/../../b"]}, "points outside the project"),
        ({"files": ["/etc/passwd"]}, "is not a relative path"),
        ({"files": ["a\0b"]}, "is not a relative path"),
        ({"files": [1]}, '"1" is not a relative path'),
        ({"project": "../x"}, "project is not a valid project name"),
        ({"digest": 7}, "Expected `str`, got `int` - at `$.digest`"),
        ({"options": []}, "Expected `object`, got `array` - at `$.options`"),
        ({"inputs": ...}, "Object missing required field `inputs`"),
        ({"observed": [{"container": "x"}]}, "Object missing required field `state` - at `$.observed[0]`"),
        ({"images": {"x": 1}}, "Expected `str`, got `int` - at `$.images[...]`"),
    ],
)
def test_a_file_with_other_contents_is_refused(project: Path, fields: dict[str, Any], said: str) -> None:
    with pytest.raises(PlanError) as caught:
        read_saved(changed(save(project, made()), **fields))
    assert "is damaged: " in str(caught.value) and said in str(caught.value)


def test_foreign_newer_and_torn_files_say_what_they_are(project: Path) -> None:
    path = save(project, made())
    whole = path.read_bytes()
    cases = {
        b"": "is damaged or not a saved plan",
        whole[:-40]: "is damaged or not a saved plan",
        b"\x50\x4b\x03\x04\xff": "is damaged or not a saved plan",
        b"[1]": "is not a saved plan",
        b"{}": "is not a saved plan",
        b"[" * 100_000: "is damaged or not a saved plan",
        b'{"a": ' + b"9" * 5000 + b"}": "is damaged or not a saved plan",
        json.dumps(plan_json(made())).encode(): "is a plan's JSON, not a saved plan",
        whole.replace(b'"main"', b'"evil"'): "is damaged: its checksum does not match",
        whole.replace(b'"format_version": "1.0"', b'"format_version": "2.0"', 1): "has format 2.0, made by sandboxrun",
        whole.replace(b'"main"', b'"\\ud800"'): "is damaged: ",
    }
    for data, said in cases.items():
        path.write_bytes(data)
        with pytest.raises(PlanError) as caught:
            read_saved(path)
        assert said in str(caught.value)
    with pytest.raises(PlanError, match="absent cannot be read: no such file or directory"):
        read_saved(project / "absent")
    with pytest.raises(PlanError, match="cannot be read: it is a directory"):
        read_saved(project)


@examples(15)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda s: st.lists(s) | st.dictionaries(st.text(), s)
    )
)
def test_no_value_in_a_field_gives_a_traceback(value: Any) -> None:
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as name:
        project = Path(name)
        (project / "sub").mkdir()
        good = json.loads(save(project, made(observed(LINT))).read_text())
        for field in ("project", "files", "options", "observed", "images", "inputs", "plan", "directory"):
            path = project / "plan.out"
            path.write_text(json.dumps(good))
            try:
                assert isinstance(read_saved(changed(path, **{field: value})), SavedPlan)
            except PlanError:
                continue


# -- what has moved ---------------------------------------------------------------------------------------------


def said(project: Path, before: Plan, after: Plan) -> str:
    assert before.digest != after.digest
    told = explain_stale(read_saved(save(project, before)), after)
    assert told.help is not None
    return told.message.removeprefix("the saved plan is stale: ")


def test_profile_inputs_and_engine(project: Path) -> None:
    assert said(project, made(), made(digested=lambda: "sha256:other")) == (
        "the profile has changed, or another value is given for a sensitive variable (token)"
    )
    plain = profile(LINT)
    assert (
        said(
            project,
            make_plan(plain, snapshot()),
            make_plan(structs.replace(plain, digested=lambda: "sha256:other"), snapshot()),
        )
        == "the profile has changed"
    )
    other = freeze({**INPUTS, "ref": "dev", "n": 4})
    assert (
        said(project, made(), made(inputs=other, inputs_digest="sha256:other")) == "other values are given for n, ref"
    )
    assert said(project, made(), made(inputs_digest="sha256:other")) == "other variables are sensitive"
    assert said(project, made(), structs.replace(made(), engine_id="ENGINE:2")) == "it was made for another engine"
    elsewhere = structs.replace(made(), project="other")
    assert said(project, made(), elsewhere) == "it is for the project review, this profile is other"


def test_containers(project: Path) -> None:
    running, done = observed(LINT), observed(LINT, ended(0))
    assert said(project, made(), made(running)) == "lint (review-lintc) has appeared"
    assert said(project, made(running), made()) == "lint (review-lintc) has gone"
    assert said(project, made(running), made(done)) == "lint (review-lintc) has ended"
    new = structs.replace(running, id="d" * 64)
    assert said(project, made(running), made(new)) == ("lint (dddddddddddd) has appeared; lint (review-lintc) has gone")


def test_images(project: Path) -> None:
    p = profile(LINT)
    moved = {"node:20-alpine": Image(config=ImageConfig(id="sha256:" + "e" * 64))}
    before, after = make_plan(p, snapshot()), make_plan(p, snapshot(images=moved))
    assert said(project, before, after) == "node:20-alpine means another image now"


def test_other_changes_are_told_when_nothing_else_is_known(project: Path) -> None:
    late = declared("lint", environment=freeze({"TOKEN": "x"}))
    before = make_plan(profile(late), snapshot(observed(late)))
    after = make_plan(profile(late), snapshot(observed(late)), Options(replace=("lint",)))
    assert said(project, before, after) == (
        "lint would now be replaced, and the plan says that it would be left as it is"
    )


def test_a_long_list_is_cut_and_secrets_are_masked(project: Path) -> None:
    many = [declared(f"s{n}") for n in range(20)]
    p = profile(*many, sensitive=frozenset({"review-s1"}))
    told = said(project, make_plan(p, snapshot()), make_plan(p, snapshot(*(observed(s) for s in many))))
    assert told.endswith("; and 14 more") and "review-s1" not in told


@pytest.mark.parametrize(
    "plan",
    [
        {},
        {"resource_changes": None},
        {"resource_changes": ["x"]},
        {"resource_changes": [{}]},
        {"resource_changes": [{"address": "a", "change": {"actions": [[]]}}]},
    ],
)
def test_a_saved_plan_that_holds_another_plan_is_damaged(project: Path, plan: dict[str, Any]) -> None:
    path = project / "saved.plan"
    write_saved(path, made(), files=(), directory=project)
    body = {**json.loads(path.read_text()), "plan": plan}
    body["checksum"] = digest_of({key: value for key, value in body.items() if key != "checksum"})
    path.write_text(json.dumps(body))
    with pytest.raises(PlanError, match="is damaged"):
        read_saved(path)
