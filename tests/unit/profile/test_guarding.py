"""Which files a workspace of access rw keeps, and which sandboxes may not be near each other."""

from __future__ import annotations

from pathlib import Path

import pytest

from sandboxrun.errors import ProfileError
from sandboxrun.profile.files import project_root
from sandboxrun.profile.loader import load, load_data
from sandboxrun.profile.variables import Inputs
from sandboxrun.spec.guard import guarded
from sandboxrun.spec.names import JUDGING, PROFILES
from sandboxrun.spec.project import Profile


def loaded(directory: Path, text: str, name: str = "sandbox.yaml", inputs: Inputs | None = None) -> Profile:
    path = directory / name
    path.write_text(text)
    return load([path], directory=directory, inputs=inputs)


def kept(profile: Profile) -> set[str]:
    workspace = profile.sandboxes[0].spec.workspace
    assert workspace is not None
    return set(workspace.protected)


def test_every_file_that_the_profile_rests_on_is_kept(tmp_path: Path) -> None:
    for name in ("env", "key", "settings", "base.yaml", "calls.json", "values.yaml"):
        (tmp_path / "d").mkdir(exist_ok=True)
        (tmp_path / "d" / name).write_text("A=1\n")
    (tmp_path / "d/base.yaml").write_text("sandboxes: {b: {image: example}}\n")
    (tmp_path / "d/calls.json").write_text('{"defaultAction": "SCMP_ACT_ALLOW"}')
    (tmp_path / "d/values.yaml").write_text("v: 1\n")
    text = (
        "variables: {v: {type: integer}}\n"
        "sandboxes:\n  a:\n    extends: {file: d/base.yaml, sandbox: b}\n"
        "    env_file: [d/env, {path: d/no, required: false}]\n"
        "    security_opt: [seccomp=d/calls.json]\n    workspace: {access: rw}\n    secrets: [key]\n    configs: [c]\n"
        "secrets: {key: {file: d/key}}\nconfigs: {c: {file: d/settings}}\n"
    )
    profile = loaded(tmp_path, text, inputs=Inputs(var_files=(tmp_path / "d/values.yaml",)))
    own = {path for path in kept(profile) if "/" in path or path == "sandbox.yaml"}
    names = ("base.yaml", "calls.json", "env", "key", "no", "settings", "values.yaml")
    assert own == {"sandbox.yaml", *(f"d/{name}" for name in names)}


def test_a_profile_beside_the_workspace_needs_no_keeping(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    assert "sandbox.yaml" not in kept(
        loaded(tmp_path, "sandboxes: {a: {image: i, workspace: {source: src, access: rw}}}")
    )


def test_a_mount_over_a_kept_name_stands_for_it(tmp_path: Path) -> None:
    mounts = "tmpfs: [/workspace/.idea], volumes: ['v:/workspace/.vscode']"
    text = f"sandboxes: {{a: {{image: i, workspace: {{access: rw}}, {mounts}}}}}\nvolumes: {{v: }}\n"
    found = kept(loaded(tmp_path, text))
    assert ".git" in found and not found & {".idea", ".vscode"}


def test_a_mount_where_the_profile_is_kept_is_refused(tmp_path: Path) -> None:
    (tmp_path / "d/e").mkdir(parents=True)
    text = "sandboxes: {a: {image: i, workspace: {access: rw}, volumes: ['v:/workspace/d/e']}}\nvolumes: {v: }\n"
    with pytest.raises(ProfileError, match=r":62: error: volumes: /workspace/d/e would hide files of the workspace"):
        loaded(tmp_path, text, "d/e/sandbox.yaml")


def test_a_profile_reached_through_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with pytest.raises(
        ProfileError, match=r"link in the workspace is a link: link/sandbox\.yaml can't be kept read-only"
    ):
        loaded(tmp_path, "sandboxes: {a: {image: i, workspace: {access: rw}}}", "link/sandbox.yaml")


BESIDE = """\
sandboxes:
  writer: {image: i, workspace: {source: work, access: rw}}
  other: {image: i, OPTIONS}
"""


@pytest.mark.parametrize(
    "options",
    [
        "volumes: ['./work/sub:/data:ro']",
        "volumes: ['./work/sub/deep:/data']",
        "volumes: ['./link:/data']",
        "workspace: {source: work/sub, access: rw}",
        "workspace: {source: work/sub, access: ro}",
        "workspace: {source: work/sub}",
        "workspace: {source: work/sub}, depends_on: [writer]",
    ],
)
def test_no_sandbox_starts_from_where_another_may_put_a_link(tmp_path: Path, options: str) -> None:
    (tmp_path / "work/sub/deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to("work/sub")
    with pytest.raises(ProfileError, match="lies where writer may write: it could put a link in its place"):
        loaded(tmp_path, BESIDE.replace("OPTIONS", options))


@pytest.mark.parametrize(
    "options",
    [
        "workspace: {source: work, access: rw}",  # its own place can't be moved
        "volumes: ['./work/.github:/data:ro']",  # nor what is kept
        "volumes: ['./work/.github/workflows:/data:ro']",
        "workspace: {source: work/sub}, depends_on: {writer: {condition: service_completed_successfully}}",
        "volumes: ['./else:/data']",
    ],
)
def test_other_neighbours_are_fine(tmp_path: Path, options: str) -> None:
    (tmp_path / "work/sub").mkdir(parents=True)
    loaded(tmp_path, BESIDE.replace("OPTIONS", options))


def test_what_sandboxes_are_judged_by_is_kept(tmp_path: Path) -> None:
    """In the root of the repository, and whether it is there or not: an agent could write the next one's policy."""
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "HEAD").touch()
    (tmp_path / "sub").mkdir()
    text = "sandboxes: {a: {image: i, workspace: {access: rw}}}"
    assert {*JUDGING, "sandbox.yaml"} <= kept(loaded(tmp_path, text))
    assert not {*JUDGING} & kept(loaded(tmp_path / "sub", text))
    (tmp_path / "sandboxrun-policy.yaml").write_text("max_profile: sub/greatest.yaml\n")
    assert {*JUDGING, "sub/greatest.yaml"} <= kept(loaded(tmp_path, text))


def test_a_profile_that_the_next_command_would_take_up_is_kept(tmp_path: Path) -> None:
    """With -f another one there may be none: an agent could write it."""
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "HEAD").touch()
    (tmp_path / "ci").mkdir()
    other = "sandboxes: {a: {image: i, workspace: {source: .., access: rw}}}"
    (tmp_path / "ci/other.yaml").write_text(other)

    def names() -> set[str]:
        profile = load([tmp_path / "ci/other.yaml"], allow_outside=True)
        return {path for path in kept(profile) if path.rpartition("/")[2].startswith("sandbox.")}

    assert names() == {"sandbox.yaml", "sandbox.yml", "ci/sandbox.yaml", "ci/sandbox.yml"}
    (tmp_path / "sandbox.yaml").mkdir()  # as it is while a sandbox may write beside it
    assert "sandbox.yml" in names()
    (tmp_path / "sandbox.yaml").rmdir()
    (tmp_path / "sandbox.yaml").write_text(other)
    assert names() == {"sandbox.yaml", "ci/sandbox.yaml", "ci/sandbox.yml"}


def test_a_repository_that_is_not_the_projects_has_its_own_kept(tmp_path: Path) -> None:
    """What is run there next takes them up."""
    for name in ("project", "work/.git/objects", "other"):
        (tmp_path / name).mkdir(parents=True)
    for source, names in (("work", {*JUDGING, *PROFILES}), ("other", set())):
        workspace = {"source": str(tmp_path / source), "access": "rw"}
        data = {"sandboxes": {"a": {"image": "i", "workspace": workspace}}}
        profile = load_data(data, directory=tmp_path / "project", allow_outside=True)
        assert kept(profile) & {*JUDGING, *PROFILES} == names


def test_an_empty_folder_in_the_place_of_git_makes_no_repository(tmp_path: Path) -> None:
    """It keeps a sandbox from making one: what is kept is the same before and meanwhile."""
    data = {"sandboxes": {"a": {"image": "i", "workspace": {"source": ".", "access": "rw"}}}}
    (tmp_path / "outer/.git/objects").mkdir(parents=True)
    (inner := tmp_path / "outer/inner").mkdir()
    before = kept(load_data(data, directory=inner))
    (inner / ".git").mkdir()
    assert kept(load_data(data, directory=inner)) == before and project_root(inner) == tmp_path / "outer"


def test_what_a_repository_around_the_projects_own_judges_by_is_kept(tmp_path: Path) -> None:
    for name in ("outer/.git/objects", "outer/inner/.git/objects"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "outer/sandboxrun-policy.yaml").write_text("max_profile: greatest.yaml\n")
    data = {"sandboxes": {"a": {"image": "i", "workspace": {"source": str(tmp_path), "access": "rw"}}}}
    found = kept(load_data(data, directory=tmp_path / "outer/inner", allow_outside=True))
    names = {*JUDGING, *PROFILES}
    every = {*(f"outer/{name}" for name in (*names, "greatest.yaml")), *(f"outer/inner/{name}" for name in names)}
    assert every <= found and not names & found


def test_all_that_the_greatest_profile_is_made_of_is_kept(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    text = "sandboxes: {a: {image: i, workspace: {access: rw}}}"
    (tmp_path / "sandboxrun-policy.yaml").write_text("max_profile: sub/greatest.yaml\n")
    greatest = (
        "sandboxes:\n  most:\n    extends: {file: base.yaml, sandbox: b}\n    image: i\n"
        "    security_opt: [seccomp=calls.json]\n"
    )
    (tmp_path / "sub/greatest.yaml").write_text(greatest)
    (tmp_path / "sub/base.yaml").write_text("sandboxes: {b: {extends: {file: deep.yaml, sandbox: d}}}\n")
    (tmp_path / "sub/deep.yaml").write_text("sandboxes: {d: {mem_limit: 1g}}\n")
    (tmp_path / "sub/calls.json").write_text('{"defaultAction": "SCMP_ACT_ALLOW"}')
    names = {"sub/greatest.yaml", "sub/base.yaml", "sub/deep.yaml"}
    assert {*names, "sub/calls.json"} <= kept(loaded(tmp_path, text))
    # whoever judges gives a value, and refuses what may be written then
    (tmp_path / "sub/greatest.yaml").write_text(
        f"variables: {{v: {{type: string}}}}\n{greatest}    hostname: '{{{{ v }}}}'\n"
    )
    assert names <= kept(loaded(tmp_path, text))


def test_a_bind_over_what_sandboxes_are_judged_by_is_refused_where_that_is_there(tmp_path: Path) -> None:
    data = {"sandboxes": {"a": {"image": "i", "volumes": [".:/src"]}}}
    (tmp_path / "sandboxrun-waivers.yaml").mkdir()  # as it is while a sandbox may write beside it
    load_data(data, directory=tmp_path)
    (tmp_path / "sandboxrun-policy.yaml").write_text("fail_on: high\n")
    with pytest.raises(ProfileError, match=r"lets the sandbox write to sandboxrun-policy\.yaml"):
        load_data(data, directory=tmp_path)


def test_what_gits_configuration_names_in_the_workspace_is_kept(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "HEAD").touch()
    (tmp_path / "tools").mkdir()
    (tmp_path / ".git/config").write_text(
        '[core]\n\tHooksPath = "tools/hooks" ; ours\n[include] path = ../.shared\n'
        '[include]\n\tpath = /etc/gitconfig\n\tpath = ~/.gitconfig\n\tpath =\n[remote "o"]\n\turl = x\n'
    )
    found = kept(loaded(tmp_path, "sandboxes: {a: {image: i, workspace: {access: rw}}}"))
    assert found - {"tools/hooks", ".shared", "sandbox.yaml", *JUDGING} == set(guarded((), ()))
    opened = kept(loaded(tmp_path, "sandboxes: {a: {image: i, workspace: {access: rw, writable: [.git]}}}"))
    assert found - opened == {"tools/hooks", ".shared", ".git"}
