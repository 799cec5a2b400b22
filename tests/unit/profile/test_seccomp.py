"""A seccomp profile is named by a file inside the project, and sent as its content."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sandboxrun.errors import ProfileError
from sandboxrun.profile.loader import load
from sandboxrun.spec.project import Profile
from sandboxrun.spec.seccomp import profile

PROFILE = "name: p\nsandboxes:\n  a: {image: example, security_opt: ['seccomp=%s']}\n"


def _load(directory: Path, named: str) -> Profile:
    file = directory / "sandbox.yaml"
    file.write_text(PROFILE % named)
    return load([file])


def _fault(directory: Path, named: str) -> str:
    with pytest.raises(ProfileError) as caught:
        _load(directory, named)
    (fault,) = caught.value.diagnostics
    assert fault.span is not None
    return fault.message


def test_the_files_content_is_sent(tmp_path: Path) -> None:
    wanted = {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW"}]}
    (tmp_path / "calls.json").write_text(json.dumps(wanted, indent=2))
    options = _load(tmp_path, "calls.json").sandboxes[0].spec.security_opt
    assert json.loads(options["seccomp"]) == wanted
    assert "\n" not in options["seccomp"]
    assert options["no-new-privileges"] == "true"


def test_a_list_that_sets_another_option_leaves_seccomp_closed(tmp_path: Path) -> None:
    file = tmp_path / "sandbox.yaml"
    for given in ("[]", "['no-new-privileges:false']", "{apparmor: unconfined}"):
        file.write_text(f"name: p\nsandboxes:\n  a: {{image: example, security_opt: {given}}}\n")
        assert load([file]).sandboxes[0].spec.security_opt["seccomp"] == "sandboxrun"


def test_a_profile_inline_and_a_name_stay_as_they_are(tmp_path: Path) -> None:
    for name in ("unconfined", "engine", "debug", "sandboxrun"):
        assert _load(tmp_path, name).sandboxes[0].spec.security_opt["seccomp"] == name
    inline = '{"defaultAction":"SCMP_ACT_ALLOW"}'
    assert _load(tmp_path, inline).sandboxes[0].spec.security_opt["seccomp"] == inline


@pytest.mark.parametrize("name", ["sandboxrun", "debug"])
def test_a_file_with_one_of_ours_is_that_one(name: str, tmp_path: Path) -> None:
    """An engine that has it is read so, too: it would have done something else than it was asked."""
    (tmp_path / "calls.json").write_text(json.dumps(profile(name), indent=2, sort_keys=True))
    assert _load(tmp_path, "calls.json").sandboxes[0].spec.security_opt["seccomp"] == name


def test_what_is_no_profile_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("nonsense")
    (tmp_path / "list").write_text("[]")
    (tmp_path / "huge").write_text(" " * (256 * 1024 + 1))
    assert (
        _fault(tmp_path, "missing.json")
        == 'the seccomp profile "missing.json" can\'t be read: no such file or directory'
    )
    (tmp_path / "half").write_text('{"defaultAction": "\\ud800"}')
    assert _fault(tmp_path, "half").endswith("holds half of a surrogate pair, which is not a character")
    for inline in ("{", '{"defaultAction": NaN}', '{"syscalls": []}'):
        assert _fault(tmp_path, inline.replace("'", "''")).startswith("the seccomp profile ")
    assert _fault(tmp_path, "text").startswith('the seccomp profile "text" is not JSON')
    assert _fault(tmp_path, "list") == 'the seccomp profile "list" has no defaultAction'
    assert _fault(tmp_path, "huge") == 'the seccomp profile "huge" can\'t be read: larger than 256 KiB'


def test_a_name_that_is_nearly_one_of_ours_is_recognised(tmp_path: Path) -> None:
    with pytest.raises(ProfileError) as caught:
        _load(tmp_path, "unconfind")
    assert [fault.help for fault in caught.value.diagnostics] == ['did you mean "unconfined"?']


def test_a_file_outside_of_the_project_is_refused(tmp_path: Path) -> None:
    (tmp_path / "calls.json").write_text('{"defaultAction": "SCMP_ACT_ALLOW"}')
    project = tmp_path / "project"
    project.mkdir()
    assert _fault(project, "../calls.json") == 'the seccomp profile "../calls.json" is outside of the project'
