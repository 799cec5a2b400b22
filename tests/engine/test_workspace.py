"""A workspace of access rw can't bite: what the host runs, the profile and the evidence stay out of reach."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from sandboxrun import SandboxService, Settings
from sandboxrun.backend.docker.client import Engine
from sandboxrun.errors import ApplyError, PlanError, ProfileError
from sandboxrun.plan.changes import Action
from sandboxrun.profile.loader import load
from sandboxrun.spec import labels
from sandboxrun.spec.guard import GUARDS
from sandboxrun.spec.names import JUDGING, PROFILES
from sandboxrun.spec.option import to_plain
from sandboxrun.spec.project import Profile
from tests.conftest import Cli, until
from tests.engine.chaos import Project, killed_at
from tests.engine.world import World, change, open_world

AGENT = 1000


@pytest.fixture
def world(engine_host: str, project: str, tmp_path: Path, busybox: str) -> Iterator[World]:
    """A project whose directory is the agent's own: nothing but mounts keeps it from writing there."""
    home = tmp_path / "home"
    (home / ".git/hooks").mkdir(parents=True)
    (home / ".git/config").write_text("[core]\n")
    (home / "conf/deep").mkdir(parents=True)
    (home / "Makefile").write_text("all:\n\t@echo made\n")
    (home / "code").write_text("1\n")
    with open_world(engine_host, project, home, busybox) as opened:
        yield opened


def profile_of(world: World, workspace: str = "{access: rw}", *, at: str = "sandbox.yaml", more: str = "") -> Profile:
    path = world.directory / at
    image = world.base["image"]
    path.write_text(
        f"name: {world.project}\n"
        "sandboxes:\n"
        "  a:\n"
        f"    image: {image}\n"
        "    command: [sleep, '600']\n"
        "    network_mode: none\n"
        "    stop_grace_period: 1s\n"
        f"    workspace: {workspace}\n"
        f"{more}"
    )
    give(world.directory)
    return load([path], directory=world.directory)


def give(directory: Path) -> None:
    """All of it to the agent's user."""
    for above, folders, files in os.walk(directory):
        for name in ("", *folders, *files):
            os.chown(os.path.join(above, name), AGENT, AGENT, follow_symlinks=False)


def shell(world: World, profile: Profile, script: str) -> str:
    """What a script in the sandbox prints, errors included; it works in the workspace."""
    return world.run(world.ids(profile)["a"], "sh", "-c", f"cd /workspace; exec 2>&1; {script}")[1]


def before_and_after(directory: Path) -> dict[str, bytes | None]:
    found = {}
    for path in sorted(directory.rglob("*")):
        name = str(path.relative_to(directory))
        if not name.startswith(".sandboxrun"):
            found[name] = path.read_bytes() if path.is_file() else None
    return found


ATTACKS = {
    "write a hook": ("echo x > .git/hooks/pre-commit", "Read-only file system"),
    "change git's configuration": ("echo x >> .git/config", "Read-only file system"),
    "move git's directory aside": ("mv .git old; cp -r old .git", "Device or resource busy"),
    "remove git's directory": ("rm -rf .git", "Read-only file system"),
    "put a link in its place": ("ln -sfn /tmp .git/hooks", "Read-only file system"),
    "link to it by another name": ("ln .git/config other", "Invalid cross-device link"),
    "replace the profile": ("echo x > sandbox.yaml", "Read-only file system"),
    "rename over the profile": ("echo x > new; mv new sandbox.yaml; rm new", "Device or resource busy"),
    "remove the profile": ("rm -f sandbox.yaml", "Device or resource busy"),
    "change the profile's rights": ("chmod 777 sandbox.yaml", "Read-only file system"),
    "replace the makefile": ("echo x > new; mv -f new Makefile; rm new", "Device or resource busy"),
    "shadow the makefile": ("echo x > GNUmakefile", "Read-only file system"),
    "shadow it in lower case": ("echo x > makefile/x; rmdir makefile", "Device or resource busy"),
    "make a task that the editor runs": ("mkdir -p .vscode; echo x > .vscode/tasks.json", "Read-only file system"),
    "make what direnv runs": ("echo x > .envrc", "Is a directory"),
    "put a file in the place of a stand-in": ("rmdir .envrc; echo x > .envrc", "Device or resource busy"),
    "write to the evidence": ("echo x > .sandboxrun/x", "Read-only file system|Permission denied"),
    "move the evidence": ("mv .sandboxrun gone", "Device or resource busy"),
    "unmount what is in the way": ("umount .git", "not permitted|superuser"),
    "move the workspace itself": ("mv /workspace /gone", "Device or resource busy|Permission denied|Read-only"),
}


def test_no_attack_reaches_what_is_kept(world: World) -> None:
    profile = profile_of(world)
    earlier = before_and_after(world.directory)
    world.apply(profile)
    said = {name: shell(world, profile, script) for name, (script, _) in ATTACKS.items()}
    kept = {name: any(word in said[name] for word in expected.split("|")) for name, (_, expected) in ATTACKS.items()}
    assert [f"{name}: {said[name]}" for name, held in kept.items() if not held] == []
    assert "denied" in shell(world, profile, "ls .sandboxrun")
    assert shell(world, profile, "echo 2 > code; mkdir new; echo 3 > new/file; cat code") == "2\n"
    assert world.plan(profile).empty
    world.destroy(profile)
    assert before_and_after(world.directory) == {**earlier, "code": b"2\n", "new": None, "new/file": b"3\n"}
    assert os.stat(world.directory / "new").st_uid == AGENT


def test_while_it_runs_git_and_make_work_on_the_host(world: World) -> None:
    git = ["git", "-c", "safe.directory=*", "-C", str(world.directory)]
    (world.directory / ".gitignore").write_text(".sandboxrun\n")
    profile = profile_of(world)
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    for words in (["init", "-q"], ["add", "-A"], [*who, "commit", "-qm1"]):
        subprocess.run([*git, *words], check=True)
    give(world.directory)
    world.apply(profile)
    seen = subprocess.run([*git, "status", "--porcelain"], check=True, capture_output=True, text=True).stdout
    assert seen == "?? GNUmakefile\n"  # leads to the Makefile: an empty directory there would end make
    made = subprocess.run(["make", "-C", world.directory, "-s"], check=True, capture_output=True, text=True).stdout
    assert made == "made\n"
    world.destroy(profile)
    assert not (world.directory / "GNUmakefile").exists()


def test_deeper_files_of_the_profile_are_kept_with_the_directories_above_them(world: World) -> None:
    (world.directory / "conf/deep/agent.env").write_text("A=1\n")
    (world.directory / "conf/key").write_text("secret")
    more = "    env_file: [conf/deep/agent.env]\n    secrets: [key]\nsecrets: {key: {file: conf/key}}\n"
    profile = profile_of(world, at="conf/sandbox.yaml", more=more)
    workspace = profile.sandboxes[0].spec.workspace
    assert workspace is not None
    own = [path for path in workspace.protected if path.startswith("conf")]
    assert own == ["conf/deep/agent.env", "conf/key", "conf/sandbox.yaml"]
    world.apply(profile)
    assert "Read-only" in shell(world, profile, "echo B=2 > conf/deep/agent.env")
    assert "busy" in shell(world, profile, "mv conf/deep aside; mkdir conf/deep")
    assert "busy" in shell(world, profile, "mv conf aside; mkdir conf")
    assert "busy" in shell(world, profile, "rm -f conf/sandbox.yaml")
    assert shell(world, profile, "echo 1 > conf/deep/other && mv conf/deep/other conf/deep/more && ls conf/deep") == (
        "agent.env\nmore\n"
    )


def test_names_are_opened_one_by_one(world: World) -> None:
    profile = profile_of(world, '{access: rw, writable: [".git", "Makefile"]}')
    world.apply(profile)
    assert shell(world, profile, "echo x > .git/hooks/x; echo x > Makefile; echo x > GNUmakefile; rm GNUmakefile") == ""
    assert "Read-only" in shell(world, profile, "echo x > sandbox.yaml")
    assert (world.directory / ".git/hooks/x").read_text() == "x\n"
    changed = profile_of(world)
    found = change(world.plan(changed), "a")
    assert found.action is Action.REPLACE
    assert [difference.key for difference in found.differences] == ["workspace"]
    assert ".git" in str(world.plan(changed))


def test_what_is_not_really_mounted_is_told(world: World) -> None:
    """An engine that left out one of the mounts: the read-back names the option."""
    profile = profile_of(world)
    world.apply(profile)
    observed = world.observed(profile, "a")
    mounts = observed.document["Mounts"]
    from sandboxrun.backend.docker.codec import observe

    for gone in (".git", ".sandboxrun"):
        left = [mount for mount in mounts if mount["Destination"] != f"/workspace/{gone}"]
        seen = observe({**observed.document, "Mounts": left}, profile.names, None)
        assert seen.spec.workspace is not None and observed.spec.workspace is not None
        assert set(observed.spec.workspace.protected) - set(seen.spec.workspace.protected) == {gone}
        assert seen.spec.volumes == ()


def test_two_sandboxes_share_stand_ins_and_the_last_one_takes_them_away(world: World) -> None:
    profile = profile_of(world)
    both = structs.replace(profile, sandboxes=(*profile.sandboxes, structs.replace(profile.sandboxes[0], address="b",
                        sandbox="b", name=f"{world.project}-b")))  # fmt: skip
    world.apply(both)
    assert (world.directory / ".vscode").is_dir() and os.stat(world.directory / ".vscode").st_uid == AGENT
    world.destroy(both, targets=("a",))
    assert (world.directory / ".vscode").is_dir()
    b = world.ids(both)["b"]
    assert "Read-only" in world.run(b, "sh", "-c", "echo x > /workspace/.vscode/tasks.json 2>&1; true")[1]
    world.destroy(both)
    assert not (world.directory / ".vscode").exists() and not (world.directory / "GNUmakefile").exists()


def test_what_keeps_places_in_a_workspace_changes_no_plan(cli: Cli, tmp_path: Path, project: str, busybox: str) -> None:
    """An empty `.git` that stands in a directory of the project makes no repository of it."""
    (tmp_path / "inner").mkdir()
    (tmp_path / "sandbox.yaml").write_text(
        f"name: {project}\nsandboxes:\n  a: {{image: '{busybox}', network_mode: none, command: [sleep, '300'],\n"
        "      workspace: {source: inner, access: rw}, stop_grace_period: 1s}\n"
    )
    give(tmp_path / "inner")
    assert cli("apply", "-y", cwd=tmp_path).code == 0
    assert (tmp_path / "inner/.git").is_dir()
    assert "No changes" in cli("plan", cwd=tmp_path).out
    assert cli("destroy", "-y", cwd=tmp_path).code == 0


def test_an_agent_writes_no_policy_for_the_next_one(cli: Cli, tmp_path: Path, project: str, busybox: str) -> None:
    """And what keeps the places says nothing to the commands that run meanwhile."""
    words = "for f in policy.yaml waivers.yaml baseline.json; do echo '{}' >sandboxrun-$f; done; touch begun; sleep 300"
    (tmp_path / "sandbox.yaml").write_text(
        f"name: {project}\nsandboxes:\n  a: {{image: '{busybox}', network_mode: none, command: [sh, -c, \"{words}\"],\n"
        "      workspace: {source: ., access: rw}, stop_grace_period: 1s}\n"
    )
    give(tmp_path)
    assert cli("apply", "-y", cwd=tmp_path).code == 0
    until((tmp_path / "begun").exists)
    names = [path.name for path in tmp_path.glob("sandboxrun-*") if list(path.iterdir()) == []]
    assert sorted(names) == sorted(JUDGING)
    assert cli("plan", cwd=tmp_path).code == 0
    assert cli("audit", "--fail-on", "never", cwd=tmp_path).code == 0
    assert cli("destroy", "-y", cwd=tmp_path).code == 0
    assert list(tmp_path.glob("sandboxrun-*")) == []


def test_an_agent_writes_no_profile_for_the_next_command(cli: Cli, tmp_path: Path, project: str, busybox: str) -> None:
    """Which takes up sandbox.yaml where it is given none; meanwhile it finds none."""
    words = "for f in sandbox.yaml sandbox.yml; do echo '{}' >$f; mv $f x; done; touch begun; sleep 300"
    (tmp_path / "other.yaml").write_text(
        f"name: {project}\nsandboxes:\n  a: {{image: '{busybox}', network_mode: none, command: [sh, -c, \"{words}\"],\n"
        "      workspace: {source: ., access: rw}, stop_grace_period: 1s}\n"
    )
    give(tmp_path)
    assert cli("apply", "-y", "-f", "other.yaml", cwd=tmp_path).code == 0
    until((tmp_path / "begun").exists)
    assert [list((tmp_path / name).iterdir()) for name in PROFILES] == [[], []]
    told = cli("plan", cwd=tmp_path)
    assert (told.code, "there is no profile here" in told.err) == (2, True)
    assert cli("plan", "-f", "other.yaml", "--detailed-exitcode", cwd=tmp_path).code == 0
    assert cli("destroy", "-y", "-f", "other.yaml", cwd=tmp_path).code == 0
    assert not any((tmp_path / name).exists() for name in (*PROFILES, "x"))


def test_what_the_user_puts_in_a_stand_in_stays(world: World) -> None:
    profile = profile_of(world)
    world.apply(profile)
    (world.directory / ".vscode/settings.json").write_text("{}")
    (world.directory / "GNUmakefile").write_text("all:\n")
    world.destroy(profile)
    assert (world.directory / ".vscode/settings.json").read_text() == "{}"
    assert (world.directory / "GNUmakefile").read_text() == "all:\n"
    assert not (world.directory / ".idea").exists()


@pytest.mark.parametrize("name", sorted(GUARDS))
def test_a_link_in_the_place_of_a_kept_name_is_refused(world: World, name: str) -> None:
    path = world.directory / name
    if path.exists():
        path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")
    with pytest.raises(ProfileError, match=f"{name} in the workspace is a link: it can't be kept read-only"):
        profile_of(world)


def test_what_becomes_a_link_after_the_profile_was_read_is_refused(world: World) -> None:
    profile = profile_of(world)
    (world.directory / ".git").rename(world.directory / "aside")
    (world.directory / ".git").symlink_to("aside")
    with pytest.raises(ApplyError, match=r"a: the workspace can't be protected: \.git is a link"):
        world.apply(profile)
    assert world.ids(profile) == {}


def test_a_profile_with_a_second_name_is_refused(world: World) -> None:
    profile = profile_of(world)
    os.link(world.directory / "sandbox.yaml", world.directory / "second")
    with pytest.raises(ApplyError, match=r"sandbox\.yaml is a hard link: it could be written to by its other name"):
        world.apply(profile)


def test_a_bind_that_holds_the_profile_is_refused(world: World) -> None:
    with pytest.raises(ProfileError, match=r"the bind /b lets the sandbox write to sandbox\.yaml"):
        profile_of(world, "{access: ro}", more="    volumes: ['.:/b']\n")


def test_evidence_in_another_place_of_the_workspace_is_refused(world: World) -> None:
    profile = profile_of(world)
    store = structs.replace(world.store, root=Path("kept"))
    world.store = store
    with pytest.raises(PlanError, match="lets the sandbox write to its own evidence"):
        world.apply(profile)


def test_a_worktrees_git_file_is_kept(world: World) -> None:
    import shutil

    shutil.rmtree(world.directory / ".git")
    (world.directory / ".git").write_text("gitdir: /elsewhere\n")
    profile = profile_of(world)
    world.apply(profile)
    assert "Read-only" in shell(world, profile, "echo gitdir: /workspace/evil > .git")
    assert "busy" in shell(world, profile, "mv .git old")


def test_labels_and_plans_say_what_is_kept(world: World) -> None:
    profile = profile_of(world)
    world.apply(profile)
    observed = world.observed(profile, "a")
    assert observed.spec.workspace == profile.sandboxes[0].spec.workspace
    assert observed.spec.workspace is not None
    assert ".git" in to_plain(observed.spec.workspace)["protected"]
    assert ".git" in json.loads(observed.labels[labels.WORKSPACE])["protected"]


@pytest.mark.parametrize("second", ["volumes: ['./work/sub:/data']", "workspace: {source: work/sub}"])
def test_a_link_that_a_sandbox_leaves_leads_the_next_one_nowhere(world: World, second: str, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (world.directory / "work/sub").mkdir(parents=True)
    text = (
        f"name: {world.project}\n"
        "sandboxes:\n"
        f"  a: {{image: '{world.base['image']}', network_mode: none, workspace: {{source: work, access: rw}},\n"
        f"      command: [sh, -c, 'mv sub away; ln -s {tmp_path}/elsewhere sub']}}\n"
        f"  b: {{image: '{world.base['image']}', network_mode: none, {second}, command: [touch, /data/x],\n"
        "      depends_on: {a: {condition: service_completed_successfully}}}\n"
    )
    (world.directory / "sandbox.yaml").write_text(text)
    give(world.directory)
    profile = load([world.directory / "sandbox.yaml"])
    with pytest.raises(
        ApplyError, match=r"b: .*/work/sub now resolves to a different directory than when this command started"
    ):
        world.apply(profile)
    assert list((tmp_path / "elsewhere").iterdir()) == []
    with pytest.raises(ProfileError, match="is outside of the project"):
        load([world.directory / "sandbox.yaml"])


@pytest.mark.parametrize(
    "given", ["volumes: ['./work:/data']", "workspace: {source: work}", "workspace: {source: work, access: rw}"]
)
def test_a_link_that_comes_after_the_profile_was_read_leads_nowhere(world: World, given: str, tmp_path: Path) -> None:
    """Whoever has to agree to the plan, or waits for the lock, leaves time for it."""
    (tmp_path / "elsewhere").mkdir()
    (world.directory / "work").mkdir()
    text = (
        f"name: {world.project}\nsandboxes:\n"
        f"  a: {{image: '{world.base['image']}', network_mode: none, {given}, command: [touch, /data/x]}}\n"
    )
    (world.directory / "sandbox.yaml").write_text(text)
    profile = load([world.directory / "sandbox.yaml"])
    (world.directory / "work").rmdir()
    (world.directory / "work").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ApplyError, match=r"a: .*/work now resolves to a different directory"):
        world.apply(profile)
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_no_kill_leaves_stand_ins(engine_host: str, project: str, tmp_path: Path, busybox: str) -> None:
    """Killed before each of an apply's calls to the engine: destroy takes away what it had made."""
    chaos = Project(name=project, directory=tmp_path, host=engine_host, image=busybox)
    chaos.write(
        "name: {project}\nsandboxes:\n"
        "  a: {{image: {image}, command: [sleep, '300'], network_mode: none, workspace: {{source: src, access: rw}}}}\n"
    )
    held = []
    for number in range(1, 60):
        died = killed_at(number, "before", lambda: chaos.apply(parallelism=1))
        held.append(sorted(path.name for path in (tmp_path / "src").iterdir()) != ["file"])
        chaos.destroy()
        assert [path.name for path in (tmp_path / "src").iterdir()] == ["file"]
        if not died:
            break
    else:
        pytest.fail("an apply makes more calls than were tried")
    assert held.count(True) > 2 and held.count(False) > 2


def test_hooks_that_gits_configuration_names_are_kept(world: World) -> None:
    (world.directory / ".git/config").write_text(
        "[core]\n\thooksPath = conf/hooks\n[include]\n\tpath = ../gone/config\n"
    )
    (world.directory / "conf/hooks").mkdir()
    with pytest.raises(ApplyError, match="gone is not there, and gone/config must be kept"):
        world.apply(profile_of(world))
    (world.directory / ".git/config").write_text("[core]\n\thooksPath = conf/hooks\n[include]\n\tpath = ../shared\n")
    profile = profile_of(world)
    world.apply(profile)
    assert "Read-only" in shell(world, profile, "echo x > conf/hooks/pre-commit")
    assert "busy" in shell(world, profile, "mv conf/hooks aside")
    assert "Read-only" in shell(world, profile, "echo x > shared")
    world.destroy(profile)
    assert not (world.directory / "shared").exists()


def test_a_sandbox_of_another_project_that_may_write_there_is_waited_for(world: World, engine_host: str) -> None:
    """The profile of one knows nothing of the other's; the engine does."""
    (world.directory / "work/sub").mkdir(parents=True)
    (world.directory / "work/.vscode").mkdir()
    writer = profile_of(world, "{source: work, access: rw}")
    world.apply(writer)
    with open_world(engine_host, f"{world.project}x", world.directory, str(world.base["image"])) as other:
        for options in ({"volumes": ["./work/sub:/data"]}, {"workspace": {"source": "work/sub"}}):
            with pytest.raises(ApplyError, match=f"work/sub lies where {world.project}-a may write"):
                other.apply(other.profile({"b": options}))
        kept = other.profile({"b": {"volumes": ["./work/.vscode:/data:ro", "./work:/work:ro", "./conf:/conf"]}})
        other.apply(kept)
        other.destroy(kept)
        world.destroy(writer)
        other.apply(other.profile({"b": {"volumes": ["./work/sub:/data"]}}))


def test_sandboxes_of_a_service_keep_apart_too(world: World, engine_host: str) -> None:
    (world.directory / "work/sub").mkdir(parents=True)
    give(world.directory)
    settings = Settings(docker_host=engine_host, default_image=str(world.base["image"]), network_mode="none")
    with SandboxService(settings, project=world.project, directory=world.directory) as service:
        command, work = ["sleep", "600"], world.directory / "work"
        first = service.create("a", command=command, workspace=work, access="rw")
        with pytest.raises(ApplyError, match=r"work/sub lies where .*-a may write"):
            service.create("b", command=command, workspace=work / "sub", access="rw")
        first.remove()
        service.create("b", command=command, workspace=work / "sub", access="ro").remove()


@pytest.mark.parametrize("part", ["workspace", "configs"])
def test_what_would_be_put_beside_its_volume_is_an_error(
    part: str, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine, or a proxy before it, that drops the mount of the container which fills the volume: the sandbox would
    have run on nothing, and its patch would have said that the agent removed it all."""
    (world.directory / "file").write_text("x")
    options = {"workspace": {"source": ".", "access": "copy"}} if part == "workspace" else {"configs": ["c"]}
    profile = world.profile({"a": options}, configs={"c": {"content": "x"}})
    create = Engine.create_container

    def unmounted(engine: Engine, name: str, payload: Any, **more: Any) -> Any:
        dropped = {**payload, "HostConfig": {**payload["HostConfig"], "Mounts": []}}
        return create(engine, name, dropped if "courier" in name else payload, **more)

    with monkeypatch.context() as patch, pytest.raises(ApplyError, match=f"did not mount {world.project}-a.{part}"):
        patch.setattr(Engine, "create_container", unmounted)
        world.apply(profile)
    assert world.ids(profile) == {}
