"""Whatever a file holds, the review ends with a verdict: no rule, reader, format or fix raises."""

from __future__ import annotations

import json
import os
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from sandboxrun.audit.judge import ReviewTerms, inline
from sandboxrun.compose.service import KNOWN
from sandboxrun.errors import ProfileError, SourceFile
from sandboxrun.lifecycle.comparing import Pair, compared
from sandboxrun.lifecycle.fixing import edited
from sandboxrun.lifecycle.review import Sources, Target, review, targets, terms
from sandboxrun.report import audit as forms
from sandboxrun.report.audit import verdict_sarif
from tests.conftest import examples
from tests.unit.audit.reviewing import TODAY

WORDS = st.sampled_from(
    ["host", "ALL", "/etc", "../..", "${A:-b}", "$HOME/.ssh", "80:80",
     "a:b:c", "[::1]:1:2", "seccomp=x", "1g", "-1", ":",
     "", "0", "true", "~", "*", "{{ x }}", "a=b", "${", "$",
     "/var/run/docker.sock:/x", "::", "\u2028", "1e9", "c 1:* rw"]
)  # fmt: skip
SCALARS = st.one_of(
    WORDS, st.integers(-5, 2**40), st.booleans(), st.none(), st.floats(allow_nan=False, allow_infinity=False)
)
KEYS = st.sampled_from(
    ["source", "target", "type", "path", "service", "limits", "hard", "mode", "external", "user", "a"]
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=6
)
SERVICES = st.dictionaries(st.sampled_from(sorted(KNOWN)), VALUES, max_size=6)
FILES = st.fixed_dictionaries(
    {"services": st.dictionaries(st.sampled_from(["a", "b"]), st.one_of(SERVICES, VALUES), max_size=2)},
    optional=dict.fromkeys(("networks", "volumes", "secrets", "configs", "include"), VALUES),
)


@given(FILES)
@examples(250, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_compose_file_has_a_verdict(tmp_path: Path, data: Any) -> None:
    file = tmp_path / "compose.yaml"
    file.write_text(json.dumps(data, indent=2))
    every, gaps = targets([file])
    verdict = review(every, ReviewTerms(today=TODAY, strict=True), gaps=gaps)
    for made in (
        forms.verdict_text,
        forms.verdict_json,
        forms.verdict_markdown,
        forms.verdict_junit,
        forms.verdict_github,
    ):
        assert made(verdict)
    assert verdict_sarif(verdict, str(tmp_path), "1")
    for finding in verdict.open:
        edited(file.read_text(), finding)


@given(SERVICES)
@examples(100, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_profile_has_a_verdict(tmp_path: Path, data: Any) -> None:
    file = tmp_path / "sandbox.yaml"
    file.write_text(json.dumps({"sandboxes": {"a": {"image": "x", **data}}}, indent=2))
    every, gaps = targets([file])
    assert review(every, ReviewTerms(today=TODAY, strict=True), gaps=gaps)


LONG: dict[str, dict[str, Any]] = {
    "scheme": {"environment": {"X": "a." * 32_000}},
    "scheme in a command": {"command": "a." * 32_000},
    "fragment": {"build": "https://x" + "#" * 60_000},
    "default": {"environment": {"X": "${A:-" * 12_000}},
    "name": {"environment": ["_KEY" * 10_000 + ".=x"]},
    "words": {"command": "mysql " * 10_000},
    "mount": {"volumes": ["{:" * 30_000]},
    "port": {"ports": [":." * 30_000]},
    "path": {"volumes": ["/.." * 20_000 + ":/x"]},
    "digits": {"cpus": "9" * 60_000, "mem_limit": "9" * 60_000},
}


@pytest.mark.parametrize("name", LONG)
def test_long_texts_are_read_in_linear_time(name: str, tmp_path: Path) -> None:
    """What would need seconds or minutes with a pattern that tries every way, as some did."""
    file = tmp_path / "compose.yaml"
    file.write_text(json.dumps({"services": {"a": {"image": "x", **LONG[name]}}}))
    every, gaps = targets([file])
    assert review(every, ReviewTerms(today=TODAY, strict=True), gaps=gaps).findings


ODD_SECCOMP: dict[str, bool] = {  # whether it is judged
    '{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [5, {"names": [{"a": 1}, ["b"], null], "action": []}]}': True,
    '{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": {"names": 1}, "architectures": 7}': True,
    '{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": 7, "action": "SCMP_ACT_ALLOW"}]}': True,
    '{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": {"mount": 1}, "action": {"a": 1}, "args": 1}]}': True,
    '{"defaultAction": 5}': False,
    "{}": False,
    "[" * 90_000: False,
    '"text"': False,
    "": False,
}


@pytest.mark.parametrize("text", ODD_SECCOMP, ids=lambda text: text[:60])
def test_an_odd_seccomp_file_is_judged_or_said(text: str, tmp_path: Path) -> None:
    for name, opened in (("a", "'seccomp:s.json'"), ("b", "'seccomp:unconfined'")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "s.json").write_text(text)
        (tmp_path / name / "compose.yaml").write_text(
            f"services: {{a: {{image: x, security_opt: [no-new-privileges, {opened}]}}}}\n"
        )
    every, gaps = targets([tmp_path / "a"])
    verdict = review(every, ReviewTerms(today=TODAY), gaps=gaps)
    assert bool(verdict.gaps) is not ODD_SECCOMP[text]
    for old, new in (("a", "b"), ("b", "a")):
        pair = [targets([tmp_path / name])[0][0] for name in (old, new)]
        assert compared([Pair(name="x", old=pair[0], new=pair[1])]).changes


SECCOMP = '{{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{{"names": ["mount"], "action": "{action}"}}]}}'


@pytest.mark.parametrize(
    ("before", "after", "way"),
    [
        ("SCMP_ACT_KILL_PROCESS", "SCMP_ACT_ALLOW", "WIDENED"),
        ("SCMP_ACT_TRAP", "SCMP_ACT_LOG", "WIDENED"),
        ("SCMP_ACT_ALLOW", "SCMP_ACT_KILL_THREAD", "NARROWED"),
        ("SCMP_ACT_TRACE", "SCMP_ACT_ALLOW", "MAYBE"),
        ("SCMP_ACT_ERRNO", "SCMP_ACT_NOTIFY", "MAYBE"),
        ("SCMP_ACT_ERRNO", "SCMP_ACT_UNHEARD_OF", "MAYBE"),
    ],
)
def test_what_a_seccomp_row_does_decides(before: str, after: str, way: str, tmp_path: Path) -> None:
    pair: list[Target] = []
    for name, action in (("a", before), ("b", after)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "s.json").write_text(SECCOMP.format(action=action))
        (tmp_path / name / "compose.yaml").write_text("services: {a: {image: x, security_opt: ['seccomp:s.json']}}\n")
        pair += targets([tmp_path / name])[0]
    found = compared([Pair(name="x", old=pair[0], new=pair[1])]).changes
    assert [change.way.value for change in found] == [way]


# A policy, waivers and comments that each finding would be asked about, one after the other.
MANY = 2000
SERVICES_TEXT = "services:\n" + "".join(f"  s{n}: {{image: x, privileged: true}}\n" for n in range(MANY))
COMMENTS = "".join(f'# sandboxrun: ignore[SBX{n % 900:03}] until=2999-01-01 reason="x"\n' for n in range(9000))


def test_a_comment_is_asked_of_its_own_line_only() -> None:
    """Thousands of comments and thousands of findings: each finding meets those of its line, no others."""
    file = SourceFile(name="compose.yaml", text=SERVICES_TEXT + COMMENTS)
    made = list(inline(file))
    assert len(made) == 9000
    assert {waiver.line for waiver in made} == {waiver.span.line for waiver in made if waiver.span is not None}


@pytest.mark.parametrize(
    "text",
    [
        "rules:\n" + "".join(f'  "SBX{n:05}*": off\n' for n in range(20_000)),
        "paths:\n" + "  - {match: [x], rules: {}}\n" * 5000,
        "images: {allow: [" + "x, " * 5000 + "]}\n",
        "waivers: {longest_days: 99999999999999}\n",
        "waivers: {longest_days: -1}\n",
    ],
    ids=("rules", "paths", "images", "days", "no days"),
)
def test_a_policy_of_any_size_is_an_error(text: str, tmp_path: Path) -> None:
    (tmp_path / "sandboxrun-policy.yaml").write_text(text)
    with pytest.raises(ProfileError) as caught:
        terms(Sources(root=tmp_path), today=TODAY)
    assert len(caught.value.diagnostics) == 1


def test_waivers_of_any_number_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "sandboxrun-waivers.yaml").write_text("waivers:\n" + "  - {rules: [SBX101]}\n" * 5000)
    with pytest.raises(ProfileError, match="more than 1000 waivers"):
        terms(Sources(root=tmp_path), today=TODAY)


def test_a_waiver_that_runs_for_ever_is_judged(tmp_path: Path) -> None:
    (tmp_path / "sandboxrun-policy.yaml").write_text("waivers: {longest_days: 36500}\n")
    (tmp_path / "compose.yaml").write_text(
        'services: {a: {image: x, cap_add: [ALL]}} # sandboxrun: ignore[SBX102] until=9999-12-31 reason="x"\n'
    )
    by = terms(Sources(root=tmp_path), today=date(9999, 1, 1))
    assert review(targets([tmp_path / "compose.yaml"])[0], by).findings


SANDBOXES = "{agent: {image: busybox, cap_add: [SYS_ADMIN]}}"


@pytest.mark.parametrize(
    "text",
    [
        f"\ufeffsandboxes: {SANDBOXES}\nname: p\n",
        f'"sandb\\x6fxes": {SANDBOXES}\n',
        f'"s\\u0061ndboxes": {SANDBOXES}\n',
        f"{{name: p, sandboxes: {SANDBOXES}}}\n",
        f"--- {{name: p, sandboxes: {SANDBOXES}}}\n",
        f" name: p\n sandboxes: {SANDBOXES}\n",
        f"? sandboxes\n: {SANDBOXES}\n",
        f'? "sand\\\n  boxes"\n: {SANDBOXES}\n',
        f"name: &name sandboxes\n*name : {SANDBOXES}\n",
        f'x-text: "a\nservices:\n  {{}}"\n"sandb\\x6fxes": {SANDBOXES}\n',
        f"x-text: 'a\ninclude:\n  b'\n? sandboxes\n: {SANDBOXES}\n",
    ],
)
def test_a_profile_is_found_however_it_is_spelled(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(text)
    for path in (tmp_path, tmp_path / "a.yaml"):
        found, gaps = targets([path])
        assert [target.kind for target in found] == ["profile"] and not gaps
        verdict = review(found, ReviewTerms())
        assert "SBX102" in [finding.rule for finding in verdict.findings] and not verdict.gaps


def test_a_profile_with_a_name_in_capitals_is_found(tmp_path: Path) -> None:
    (tmp_path / "agents.YAML").write_text(f"sandboxes: {SANDBOXES}\n")
    assert [target.kind for target in targets([tmp_path])[0]] == ["profile"]


def test_a_profile_that_is_called_like_a_compose_file_is_one(tmp_path: Path) -> None:
    (tmp_path / "compose.yaml").write_text(f"sandboxes: {SANDBOXES}\n")
    assert [target.kind for target in targets([tmp_path])[0]] == ["profile"]


@pytest.mark.parametrize("mark", ["\r", "\x85", "\u2028", "\u2029", "\u202e", "\u2066", "\u200b", "\U000e0041"])
@pytest.mark.parametrize("kind", ["sandboxes", "services"])
def test_a_character_that_nobody_sees_is_said(mark: str, kind: str, tmp_path: Path) -> None:
    """Some end a comment for the parser alone: what follows reads as a part of it, and is an option."""
    comment = f"# harmless{mark}    cap_add: [SYS_ADMIN]\n"
    (tmp_path / "a.yaml").write_text(f"{kind}:\n  agent:\n    image: busybox  {comment}", newline="")
    found, gaps = targets([tmp_path / "a.yaml"])
    assert not gaps
    verdict = review(found, ReviewTerms())
    assert any(f"U+{ord(mark):04X}, a character that can't be seen" in f"{gap.what} {gap.why}" for gap in verdict.gaps)


def test_a_directory_that_nobody_may_list_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "closed").mkdir()
    real = os.scandir

    def refuse(path: str) -> Any:
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert [(gap.what, gap.why) for gap in targets([tmp_path])[1]] == [
        (str(tmp_path / "closed"), "it cannot be read: permission denied")
    ]


def test_other_yaml_is_not_taken_for_a_profile(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text('jobs: {sandboxes: {}}\ntext: "a\\u0062"\n')
    (tmp_path / "b.yaml").write_text("- sandboxes\n")
    (tmp_path / "c.yaml").write_text("a: [sandboxes\n")
    assert targets([tmp_path]) == ((), ())


def test_a_link_that_hides_a_profile_is_said(tmp_path: Path) -> None:
    (tmp_path / "outside.yaml").write_text("sandboxes: {}\n")
    top = tmp_path / "top"
    top.mkdir()
    (top / "inside.yaml").write_text("sandboxes: {}\n")
    (top / "compose.yaml").symlink_to("../outside.yaml")
    (top / "sandbox.yaml").symlink_to("inside.yaml")
    (top / "other.yaml").symlink_to("../outside.yaml")
    found, gaps = targets([top])
    assert [target.paths for target in found] == [(top / "inside.yaml",)]
    assert [(gap.what, gap.why) for gap in gaps] == [
        (str(top / "compose.yaml"), "it is a link, which is not followed: name it as an argument")
    ]


def test_a_file_that_nobody_may_read_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.yaml").write_text("sandboxes: {}\n")

    def refuse(path: Path, most: int) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("sandboxrun.lifecycle.review.read_regular", refuse)
    found, gaps = targets([tmp_path])
    assert not found and [gap.what for gap in gaps] == [str(tmp_path / "a.yaml")]


def test_a_change_that_hides_behind_a_value_is_compared(tmp_path: Path) -> None:
    """What the old side could choose as well is no news."""
    variables = "variables: {ref: {type: string, default: main}}\n"
    sandbox = "sandboxes: {a: {image: 'busybox:1', cap_add: \"{{ ['%s'] if ref == 'x' ~ 'y' else [] }}\"}}\n"
    sides = []
    for name, capability in (("old", "CHOWN"), ("new", "SYS_ADMIN")):
        (tmp_path / name).mkdir()
        path = tmp_path / name / "sandbox.yaml"
        path.write_text(f"name: p\n{variables}{sandbox % capability}")
        sides.append(Target(kind="profile", paths=(path,)))
    old, new = sides
    assert compared([Pair(name="p", old=old, new=old)]).changes == ()
    assert [change.witness for change in compared([Pair(name="p", old=old, new=new)]).changes] == [
        "now has the capabilities SYS_ADMIN, when its template chooses otherwise"
    ]


def test_a_link_in_place_of_a_mounted_directory_is_compared(tmp_path: Path) -> None:
    sides = []
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "sandbox.yaml").write_text("name: p\nsandboxes: {a: {volumes: ['./data:/data']}}\n")
        sides.append(Target(kind="profile", paths=(tmp_path / name / "sandbox.yaml",)))
    (tmp_path / "old/data").mkdir()
    (tmp_path / "new/data").symlink_to("/etc")
    assert [change.witness for change in compared([Pair(name="p", old=sides[0], new=sides[1])]).changes] == [
        f"is now given /etc, where {tmp_path}/new/data leads"
    ]
