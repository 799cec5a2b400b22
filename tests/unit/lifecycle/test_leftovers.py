"""What killed processes left is taken away by the next one that may, and nothing that anybody may still need."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct, field, structs

from sandboxrun.backend.docker.leftovers import collect, held
from sandboxrun.backend.owner import this_process
from sandboxrun.errors import ApplyError
from sandboxrun.evidence.folder import OWNER, Folder, keep, scratch, state_path
from sandboxrun.evidence.store import Store
from sandboxrun.profile.loader import load
from sandboxrun.spec import labels
from sandboxrun.spec.project import DeclaredSandbox


class Engine(Struct, kw_only=True):
    """What a collection asks an engine: who it is, and which containers it has."""

    identity: str = "engine-1"
    endpoint: str = "unix:///run/example.sock"
    found: list[dict[str, str]] = field(default_factory=list)

    def containers(self, *, labels: Mapping[str, str | None]) -> list[dict[str, Any]]:
        """Those that have the labels."""
        found = [(own.get("Id", ""), {key: own[key] for key in own if key != "Id"}) for own in self.found]
        return [{"Id": id, "Names": [f"/{id}"], "Labels": own} for id, own in found if labels.keys() <= own.keys()]


def collected(engine: Engine, store: Store) -> None:
    collect(engine, store, thorough=False)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def _state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "project").mkdir()
    return tmp_path / "project"


@pytest.fixture
def store(project: Path) -> Store:
    return Store(project_directory=project)


def killed(work: Callable[[], object]) -> None:
    """Do `work` in a process that is killed right after."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os.kill(os.getpid(), signal.SIGKILL)
        finally:
            os._exit(1)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1]), "the work failed"


def left(*where: str) -> list[str]:
    folder = state_path().joinpath(*where)
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


# -- staging --------------------------------------------------------------------------------------------------------


def stage(store: Store, run: str, engine: str = "engine-1") -> None:
    with store.staging(run, engine=engine) as folder, folder.append("workspace.tar") as file:
        file.write(b"x" * 1000)


def test_staging_of_a_killed_process_goes_once_its_container_is_gone(store: Store) -> None:
    killed(lambda: stage(store, "run-1"))
    engine = Engine(found=[{labels.RUN: "run-1"}, {"other": "x"}])
    collected(engine, store)
    assert left("staging") == ["run-1"]
    engine.found.clear()
    collected(engine, store)
    assert left("staging") == []


def test_staging_of_a_living_process_or_of_another_engine_stays(store: Store) -> None:
    stage(store, "mine")
    killed(lambda: stage(store, "elsewhere", "engine-2"))
    killed(lambda: stage(store, "by-address", "unix:///run/example.sock"))
    collected(Engine(), store)
    assert left("staging") == ["elsewhere", "mine"]
    collected(Engine(identity="engine-2"), store)
    assert left("staging") == ["mine"]


def test_staging_that_another_process_goes_on_with_is_still_that_of_the_first(store: Store) -> None:
    killed(lambda: stage(store, "run-1"))
    stage(store, "run-1")
    collected(Engine(), store)
    assert left("staging") == []


def test_a_folder_without_a_note_goes_when_it_is_empty(store: Store) -> None:
    stage(store, "mine")
    (state_path() / "staging/empty").mkdir()
    (state_path() / "staging/full").mkdir()
    (state_path() / "staging/full/file").touch()
    (state_path() / "staging/file").touch()
    collected(Engine(), store)
    assert left("staging") == ["file", "full", "mine"]


def test_a_folder_whose_removal_was_killed_goes(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its note may be the first that went: nobody could tell whose the rest is."""

    def killed_in_the_middle(folder: Folder, name: str) -> None:
        os.unlink(OWNER, dir_fd=folder.fd)
        os.kill(os.getpid(), signal.SIGKILL)

    stage(store, "run-1")
    with monkeypatch.context() as patched:
        patched.setattr(Folder, "unlink", killed_in_the_middle)
        killed(lambda: store.unstage("run-1"))
    assert len(left("staging")) == 1
    collected(Engine(found=[{labels.RUN: "run-1"}]), store)
    assert left("staging") == []


# -- scratch folders -------------------------------------------------------------------------------------------------


def test_a_scratch_folder_goes_with_its_process(store: Store) -> None:
    with scratch(store) as folder:
        assert left("verify") == [folder.path.name]
        collected(Engine(), store)
        assert left("verify") == [folder.path.name]
    assert left("verify") == []
    stack = ExitStack()
    killed(lambda: stack.enter_context(scratch(store)))
    (_one,) = left("verify")
    collected(Engine(), store)
    assert left("verify") == []


def test_what_is_kept_for_the_user_stays_until_the_next_verification(store: Store) -> None:
    with scratch(store) as folder:
        (folder.path / "log").write_text("x")
        kept = keep(folder)
    collected(Engine(), store)
    assert (kept / "log").read_text() == "x"
    with scratch(store) as folder:
        assert left("verify") == [folder.path.name]


# -- stand-ins -------------------------------------------------------------------------------------------------------


@pytest.fixture
def sandbox(project: Path) -> DeclaredSandbox:
    (project / "code").write_text("1")
    (project / "ws").mkdir()
    (project / "ws/makefile").write_text("all:\n")
    text = "name: p\nsandboxes:\n  a: {image: example, env_file: [{path: ws/.env, required: false}]," \
        " workspace: {source: ws, access: rw}}\n"  # fmt: skip
    (project / "sandbox.yaml").write_text(text)
    (found,) = load([project / "sandbox.yaml"]).sandboxes
    return found


@pytest.fixture
def made(sandbox: DeclaredSandbox, store: Store, project: Path) -> Iterator[Path]:
    """The workspace, as a process leaves it that was killed before it had made the container."""
    killed(lambda: ExitStack().enter_context(held(sandbox, store, Engine())))  # type: ignore[arg-type]
    assert {".git", ".vscode", "GNUmakefile", ".env"} <= {path.name for path in (project / "ws").iterdir()}
    yield project / "ws"


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_stand_ins_go_when_no_container_needs_them(made: Path, store: Store) -> None:
    label = json.dumps({"source": str(made), "protected": [".git", ".env"]})
    engine = Engine(found=[{labels.WORKSPACE: label}, {labels.WORKSPACE: "[" * 5000}, {labels.WORKSPACE: "[1]"}])
    collected(engine, store)
    assert names(made) == [".env", ".git", "makefile"]
    engine.found.clear()
    collected(Engine(identity="engine-2"), store)
    assert names(made) == [".env", ".git", "makefile"]
    collected(engine, store)
    assert names(made) == ["makefile"]
    assert left("stand-ins") == []


def test_who_keeps_stand_ins_though_nobody_collects_it_is_told(made: Path, store: Store) -> None:
    gone, alive = structs.replace(this_process(), started=1).encode(), this_process().encode()
    label = json.dumps({"source": str(made), "protected": [".git"]})
    other = json.dumps({"source": str(made), "protected": ["makefile"]})
    one = {labels.WORKSPACE: label, labels.OWNER: gone, labels.ONE_OFF: "1", labels.RUN: "run-1"}
    known = {
        "dead": one,
        "alive": {**one, labels.OWNER: alive},
        "applied": {key: text for key, text in one.items() if key != labels.ONE_OFF},
        "of nobody": {**one, labels.OWNER: "?"},
        "with no stand-in": {**one, labels.WORKSPACE: other},
        "p-a.kept-run-1": one,
    }
    engine = Engine(found=[{"Id": name, **own} for name, own in known.items()])
    assert collect(engine, store) == {"dead": one}  # type: ignore[arg-type]
    assert names(made) == [".git", "makefile"]
    engine.found = [found for found in engine.found if found["Id"] == "alive"]
    assert collect(engine, store) == {}  # type: ignore[arg-type]
    engine.found.clear()
    assert collect(engine, store) == {}  # type: ignore[arg-type]
    assert names(made) == ["makefile"]


def test_what_was_put_to_use_or_put_in_its_place_is_the_users(made: Path, store: Store) -> None:
    (made / ".vscode/settings.json").write_text("{}")
    (made / "GNUmakefile").write_text("all:\n")
    (made / ".env").rename(made / "aside")
    (made / ".env").touch()
    (made / ".idea").rename(made / "was-idea")
    (made / ".idea").mkdir()
    collected(Engine(), store)
    assert names(made) == [".env", ".idea", ".vscode", "GNUmakefile", "aside", "makefile", "was-idea"]


def test_what_became_a_link_is_refused_by_name(sandbox: DeclaredSandbox, store: Store, project: Path) -> None:
    (project / "ws" / ".git").symlink_to("aside")
    with pytest.raises(ApplyError) as raised, held(sandbox, store, Engine()):  # type: ignore[arg-type]
        pass
    [fault] = raised.value.diagnostics
    assert fault.message == f"{sandbox.address}: the workspace can't be protected: .git is a link"


def test_no_link_is_followed_to_a_stand_in(made: Path, store: Store, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for name in (".env", "GNUmakefile"):
        (made / name).rename(other / name)
    (made / ".git").rename(other / ".git")
    made.rename(made.with_name("away"))
    made.symlink_to(other)
    collected(Engine(), store)
    assert names(other) == [".env", ".git", "GNUmakefile"]


def test_a_note_that_was_written_before_anything_was_made_removes_nothing_else(made: Path, store: Store) -> None:
    (note,) = (state_path() / "stand-ins").iterdir()
    body = json.loads(note.read_text())
    body["made"] = {path: {**one, "inode": None} for path, one in body["made"].items()}
    note.write_text(json.dumps(body))
    (state_path() / "stand-ins/torn").write_text('{"made": [')
    (made / ".git/config").touch()
    (made / ".vscode").rmdir()
    (made / ".vscode").write_text("a file")
    collected(Engine(), store)
    assert names(made) == [".git", ".vscode", "makefile"]
    assert left("stand-ins") == []


def test_notes_that_a_checkout_brings_are_not_read(store: Store, project: Path, tmp_path: Path) -> None:
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim/empty").mkdir()
    (tmp_path / "victim/known").write_text("known\n")
    planted = project / ".sandboxrun/staging/stand-ins"
    planted.mkdir(parents=True)
    for number, (name, content) in enumerate([("empty", None), ("known", "known\n")]):
        old = {"at": str(tmp_path / "victim" / name), "content": content}
        new = {"source": str(tmp_path / "victim"), "engine": "engine-1", "made": {name: {"content": content}}}
        (planted / f"{number:032x}").write_text(json.dumps({**old, **new}))
    for root in (None, Path(".sandboxrun"), Path(".sandboxrun/staging")):
        collected(Engine(), Store(project_directory=project, root=root))
    assert names(tmp_path / "victim") == ["empty", "known"]


@pytest.mark.parametrize("bring", ["state", "link"])
def test_a_state_directory_in_the_project_is_not_used(
    bring: str, made: Path, store: Store, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "brought").mkdir()
    state_path().rename(project / "brought/sandboxrun")
    if bring == "link":
        state_path().parent.rmdir()
        state_path().parent.symlink_to(project / "brought")
    else:
        monkeypatch.setenv("XDG_STATE_HOME", str(project / "brought"))
    before = names(made)
    collected(Engine(), store)
    assert names(made) == before
