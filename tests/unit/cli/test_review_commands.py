"""`audit`, `diff`, `explain SBX…`: whole texts, exit codes, every format, fixes, revisions, what plan refuses."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from sandboxrun.cli import output

from .conftest import Say

PROFILE = """\
name: p
sandboxes:
  agent:
    image: node:20-alpine  # the agent
    egress: {allow: ["api.example.com:443"]}
    cap_add:
      - NET_BIND_SERVICE
      - SYS_ADMIN  # why
    logging: {driver: json-file, options: {}}
"""
TEXT = """\
sandbox.yaml:4:12: low[SBX601]: agent: node:20-alpine can change: it has no digest
  4 |     image: node:20-alpine  # the agent
    |            ^^^^^^^^^^^^^^
  help: write the digest as well: name:tag@sha256:…

sandbox.yaml:8:9: high[SBX102]: agent: cap_add SYS_ADMIN gives mounts, namespaces and most of what root may do
  8 |       - SYS_ADMIN  # why
    |         ^^^^^^^^^
  help: remove it from cap_add

sandbox.yaml:9:14: low[SBX407]: agent: the log has no max-size: output fills the host's disk
  9 |     logging: {driver: json-file, options: {}}
    |              ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
  help: set logging.options.max-size and max-file, or use the driver local

1 file, 1 sandbox: 1 high, 2 low
"""


@pytest.fixture
def profile(here: Path) -> Path:
    """A profile with something to find."""
    (here / "sandbox.yaml").write_text(PROFILE)
    return here / "sandbox.yaml"


def test_what_a_person_reads(say: Say, profile: Path) -> None:
    said = say("audit")
    assert (said.code, said.out, said.err) == (1, TEXT, "")


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ([], 1),
        (["--fail-on", "high"], 1),
        (["--fail-on", "critical"], 0),
        (["--fail-on", "never"], 0),
        (["nowhere.yaml"], 3),
        (["--write"], 3),
        (["--fail-on", "grave"], 3),
    ],
)
def test_exit_codes(arguments: list[str], code: int, say: Say, profile: Path) -> None:
    assert say("audit", *arguments).code == code


def test_not_audited_is_not_clean(say: Say, here: Path) -> None:
    (here / "sandbox.yaml").write_text("sandboxes:\n  a: {imag: x}\n")
    said = say("audit")
    assert said.code == 3
    assert said.out == (
        'not audited: sandbox.yaml: sandbox.yaml:2:7: unknown key "imag" in a sandbox\n\n'
        "0 files, 0 sandboxes: nothing found; 1 not audited\n"
    )


def test_json(say: Say, profile: Path) -> None:
    told = json.loads(say("audit", "--json").out)
    assert told["complete"] is True
    assert told["summary"]["high"] == 1
    assert [finding["rule"] for finding in told["findings"]] == ["SBX601", "SBX102", "SBX407"]
    assert told["findings"][1]["place"] == {"file": "sandbox.yaml", "line": 8, "column": 9, "length": 9}


def test_json_is_as_its_schema_says(say: Say, repository: Path, profile: Path) -> None:
    profile.write_text(PROFILE + "    user: root  # sandboxrun: ignore[SBX107] until=2999-01-01 reason=x\n")
    (repository / "bad.yaml").write_text("sandboxes: {a: {imag: x}}\n")
    for arguments in (["--base", "HEAD", "sandbox.yaml"], ["."], ["--persona", "strict"]):
        told = json.loads(say("audit", "--json", *arguments).out)
        jsonschema.Draft202012Validator(json.loads(say("schema", "--audit").out)).validate(told)


@pytest.mark.parametrize(
    ("policy", "valid"),
    [
        ({}, True),
        ({"fail_on": "high", "rules": {"SBX301": "off", "SBX4*": "low"}, "images": {"digests": True}}, True),
        ({"paths": [{"match": ["ci/*"], "ceilings": {"cpus": 1}}], "x-note": 1}, True),
        ({"paths": [{"rules": {}}]}, False),
        ({"fail_on": "grave"}, False),
        ({"rule": {}}, False),
        ({"ceilings": {"memory": 1}}, False),
    ],
)
def test_a_policy_is_as_its_schema_says(
    policy: dict[str, Any], valid: bool, say: Say, profile: Path, here: Path
) -> None:
    assert jsonschema.Draft202012Validator(json.loads(say("schema", "--policy").out)).is_valid(policy) is valid
    (here / "sandboxrun-policy.yaml").write_text(json.dumps(policy))
    assert (say("audit", "--fail-on", "never").code == 0) is valid


def sarif(say: Say, *arguments: str) -> dict[str, Any]:
    """The SARIF log's one run."""
    told = json.loads(say("audit", "--format", "sarif", *arguments).out)
    assert told["version"] == "2.1.0"
    assert told["$schema"].endswith("sarif-schema-2.1.0.json")
    run: dict[str, Any] = told["runs"][0]
    return run


def test_sarif_has_what_code_scanning_asks_for(say: Say, profile: Path) -> None:
    run = sarif(say)
    driver = run["tool"]["driver"]
    assert driver["name"] == "sandboxrun"
    for rule in driver["rules"]:
        assert rule["id"] and rule["shortDescription"]["text"] and rule["fullDescription"]["text"]
        assert rule["help"]["text"] and rule["help"]["markdown"]
        assert rule["properties"]["precision"] in ("very-high", "high", "medium", "low")
        assert "security" in rule["properties"]["tags"]
        assert isinstance(rule["properties"]["security-severity"], str)
        assert 0 < float(rule["properties"]["security-severity"]) <= 10
    for result in run["results"]:
        assert result["ruleId"] == driver["rules"][result["ruleIndex"]]["id"]
        assert result["level"] in ("error", "warning", "note")
        assert result["message"]["text"]
        place = result["locations"][0]["physicalLocation"]
        assert place["artifactLocation"]["uri"] == "sandbox.yaml"
        assert place["region"]["startLine"] == place["region"]["endLine"]
        assert result["partialFingerprints"]["primaryLocationLineHash"]


def test_sarif_scores_follow_the_severity(say: Say, profile: Path) -> None:
    scores = {rule["id"]: rule["properties"]["security-severity"] for rule in sarif(say)["tool"]["driver"]["rules"]}
    assert scores == {"SBX102": "8.0", "SBX407": "2.5", "SBX601": "2.5"}


def test_sarif_leaves_out_what_is_waived(say: Say, profile: Path) -> None:
    waiver = '  # sandboxrun: ignore[SBX102] until=2999-01-01 reason="x"'
    profile.write_text(PROFILE.replace("  # why", waiver))
    assert [result["ruleId"] for result in sarif(say)["results"]] == ["SBX601", "SBX407"]


def test_sarif_paths_start_at_the_repository(say: Say, profile: Path, here: Path) -> None:
    (here.parent / ".git").mkdir()
    (here.parent / ".git" / "HEAD").touch()
    uri = sarif(say)["results"][0]["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
    assert uri == "demo/sandbox.yaml"


def test_sarif_has_fixes(say: Say, profile: Path) -> None:
    result = next(result for result in sarif(say)["results"] if result["ruleId"] == "SBX102")
    replacement = result["fixes"][0]["artifactChanges"][0]["replacements"][0]
    assert replacement["deletedRegion"] == {"startLine": 8, "startColumn": 1, "endLine": 9, "endColumn": 1}
    assert replacement["insertedContent"]["text"] == ""


def test_sarif_says_what_was_not_audited(say: Say, here: Path) -> None:
    (here / "sandbox.yaml").write_text("sandboxes:\n  a: {imag: x}\n")
    invocation = sarif(say)["invocations"][0]
    assert invocation["executionSuccessful"] is False
    assert len(invocation["toolExecutionNotifications"]) == 1


def test_other_formats(say: Say, profile: Path) -> None:
    assert "| high | SBX102 | <code>sandbox&#46;yaml</code>:8 |" in say("audit", "--format", "markdown").out
    suite = ET.fromstring(say("audit", "--format", "junit").out)[0]
    assert suite.attrib["failures"] == "3"
    assert "::error title=sandboxrun,file=sandbox.yaml,line=8," in say("audit", "--format", "github").out
    issues = json.loads(say("audit", "--format", "gitlab").out)
    assert [issue["severity"] for issue in issues] == ["minor", "critical", "minor"]
    assert len({issue["fingerprint"] for issue in issues}) == 3


HOSTILE = "x\\x1b[2J|`<b>@everyone %0A::error::"


@pytest.mark.parametrize("form", ["text", "json", "sarif", "markdown", "junit", "github", "gitlab"])
def test_nothing_that_a_file_says_breaks_a_format(form: str, say: Say, here: Path) -> None:
    (here / "compose.yaml").write_text(f'services: {{a: {{image: x, "k{HOSTILE}": 1, cap_add: ["{HOSTILE}"]}}}}\n')
    out = say("audit", "compose.yaml", "--format", form).out
    assert "\x1b" not in out
    if form == "junit":
        ET.fromstring(out)
    elif form == "markdown":
        assert "<b>" not in out and "@everyone" not in out
    elif form == "github":
        assert all(line.startswith("::") or line.startswith("1 file") for line in out.splitlines())
        assert "::error::" not in [line[:9] for line in out.splitlines()]
    elif form != "text":
        json.loads(out)


# -- fixes


@pytest.mark.parametrize("form", ["text", "json", "sarif", "markdown", "junit", "github", "gitlab"])
def test_whatever_files_are_called(form: str, say: Say, here: Path) -> None:
    """A checkout may call them as nothing that reads a report expects: with line ends, escapes, or no UTF-8."""
    for name in ("a\n::stop-commands::x", "a\x1b[31m", "a`|<b>", b"a\xff\xfe".decode("utf-8", "surrogateescape")):
        (here / name).mkdir()
        (here / name / "sandbox.yaml").write_text("sandboxes: {a: {image: 'x:1', egress: open}}\n")
        (here / name / "bad.yaml").write_text("sandboxes: {a: {bogus: 1}}\n")
    said = say("audit", "--format", form, ".")
    assert said.code == 3 and "bug" not in said.err
    assert "\x1b" not in said.out and not any(line.startswith("::stop") for line in said.out.splitlines())
    if form in ("json", "sarif", "gitlab"):
        json.loads(said.out)
    elif form == "junit":
        ET.fromstring(said.out)
    if form == "sarif":
        uris = [r["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
                for r in json.loads(said.out)["runs"][0]["results"]]  # fmt: skip
        assert "a%FF%FE/sandbox.yaml" in uris and "a%0A%3A%3Astop-commands%3A%3Ax/sandbox.yaml" in uris


@pytest.mark.parametrize("words", [["render"], ["audit", "--fix"], ["validate"], ["plan", "--offline"]])
def test_the_log_of_a_job_obeys_nothing_of_a_profile(
    words: list[str], say: Say, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "sandbox.yaml").write_text(
        "name: p\nsandboxes:\n  a:\n    image: x:1\n    egress: none\n    cap_add: [SYS_ADMIN]\n    command:\n"
        "      - sh\n      - -c\n      - |\n        ::error::forged\n        ::stop-commands::x\n        ##[group]x\n"
        "    user: root\n    ulimits: {core: -1}\n"
    )
    plain = say(*words)
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    assert say(*words).out == plain.out  # in a file, as here
    monkeypatch.setattr(output, "_is_file", lambda stream: False)
    said = say(*words)
    lines = [line.strip() for line in (said.out + said.err).splitlines()]
    assert not any(line.startswith(("::error::f", "::stop")) or "##[" in line for line in lines)
    assert said.out.replace("\u2060", "") == plain.out


def test_fixes_are_shown_as_a_diff_with_labels(say: Say, profile: Path) -> None:
    said = say("audit", "--fix")
    assert (said.code, said.out) == (
        0,
        """\
# SBX102 Capability that leads to the host: changes behaviour
--- a/sandbox.yaml
+++ b/sandbox.yaml
@@ -6,4 +6,3 @@
     cap_add:
       - NET_BIND_SERVICE
-      - SYS_ADMIN  # why
     logging: {driver: json-file, options: {}}

# SBX407 Logs without a bound: safe
--- a/sandbox.yaml
+++ b/sandbox.yaml
@@ -6,3 +6,3 @@
     cap_add:
       - NET_BIND_SERVICE
-    logging: {driver: json-file, options: {}}
+    logging: {driver: local}
""",
    )
    assert profile.read_text() == PROFILE


def test_safe_fixes_are_written(say: Say, profile: Path) -> None:
    said = say("audit", "--fix", "--write")
    assert said.code == 0
    assert profile.read_text() == PROFILE.replace("{driver: json-file, options: {}}", "{driver: local}")
    assert "1 left that change behaviour" in said.err


def test_all_fixes_are_written(say: Say, profile: Path) -> None:
    assert say("audit", "--fix", "--write", "--unsafe-fixes").code == 0
    assert say("audit").out.endswith("1 file, 1 sandbox: 1 low\n")
    assert "# the agent" in profile.read_text()


def test_a_fix_says_what_was_not_audited(say: Say, profile: Path) -> None:
    (profile.parent / "other.yaml").write_text("sandboxes: {a: {image: 'busybox:1', frob: 1}}\n")
    for arguments in ((), ("--write",)):
        said = say("audit", ".", "--fix", *arguments)
        assert said.code == 3 and "not audited: other.yaml: " in said.err


def test_who_writes_a_baseline_is_told_what_is_left_then(say: Say, profile: Path) -> None:
    assert say("audit").code == 1
    said = say("audit", "--write-baseline")
    assert said.code == 0 and "wrote " in said.err and "SBX" not in said.out
    assert say("audit").code == 0
    profile.write_text(PROFILE.replace("SYS_ADMIN", "SYS_MODULE"))
    said = say("audit", "--write-baseline")  # it only shrinks
    assert said.code == 1 and "SYS_MODULE" in said.out
    before = (profile.parent / "sandboxrun-baseline.json").read_text()
    profile.write_text(PROFILE + "    privileged: true\n")
    said = say("audit", "--write-baseline")
    assert said.code == 3 and "the baseline was not written: not everything could be audited" in said.err
    assert (profile.parent / "sandboxrun-baseline.json").read_text() == before


def test_a_baseline_is_not_written_by_another_revisions(say: Say, profile: Path) -> None:
    (profile.parent / "sandboxrun-baseline.json").write_text('{"findings": []}')
    said = say("audit", "--trust-ref", "HEAD", "--write-baseline")
    assert said.code == 3 and "--trust-ref and --write-baseline exclude each other" in said.err
    assert (profile.parent / "sandboxrun-baseline.json").read_text() == '{"findings": []}'


# -- revisions


def git(here: Path, *arguments: str) -> None:
    """Run git as the tests' own user."""
    subprocess.run(
        ["git", "-c", "user.name=t", "-c", "user.email=t@example.com", "-C", here, *arguments],
        check=True, capture_output=True,
    )  # fmt: skip


@pytest.fixture
def repository(here: Path, profile: Path) -> Path:
    """A repository whose one commit has the profile."""
    git(here, "init", "-q", "-b", "main")
    git(here, "add", ".")
    git(here, "commit", "-q", "-m", "x")
    return here


def test_what_a_change_widens(say: Say, repository: Path, profile: Path) -> None:
    profile.write_text(
        PROFILE.replace('443"]', '443", "b.example.com:443"]') + "    secrets: [k]\nsecrets: {k: {file: k}}\n"
    )
    said = say("audit", "--base", "HEAD", "--fail-on", "never")
    assert said.out.splitlines()[:3] == [
        "+ WIDENED  network: agent may now open b.example.com:443 while holding the secret k  sandbox.yaml:5:45",
        "+ WIDENED  secrets: agent now holds the secret k while api.example.com:443, b.example.com:443 can be reached  "
        "sandbox.yaml:10:15",
        "Privileges: 2 widened, 0 maybe, 0 narrowed.",
    ]
    assert said.code == 0
    assert say("audit", "--base", "HEAD", "--fail-on", "never", "--fail-on-widening").code == 1


def test_a_destination_is_told_at_its_own_line(say: Say, here: Path) -> None:
    text = "sandboxes:\n  a:\n    image: busybox:1\n    egress:\n      allow:\n        - api.example.com:443\n"
    (here / "old.yaml").write_text(text)
    (here / "new.yaml").write_text(f"{text}        - GIST.github.com:80  # new\n")
    said = say("diff", "old.yaml", "new.yaml").out.splitlines()[0]
    assert said == "+ WIDENED  network: a may now open gist.github.com:80  new.yaml:7:11"
    assert "new.yaml:7:11: low[SBX311]: a: gist.github.com:80: port 80 is clear text" in say("audit", "new.yaml").out


def test_nothing_changed(say: Say, repository: Path) -> None:
    said = say("audit", "--base", "HEAD", "--fail-on", "never", "--fail-on-widening")
    assert said.code == 0
    assert said.out.startswith("Privileges: unchanged, in 1 sandbox.\n")


def test_a_file_of_a_revision_takes_from_above_its_own_directory(say: Say, repository: Path) -> None:
    (repository / "sub").mkdir()
    (repository / "common.yaml").write_text("services: {b: {image: x}}\n")
    (repository / "sub/compose.yaml").write_text(
        "services:\n  a: {extends: {file: ../common.yaml, service: b}, build: {context: ..}, volumes: ['../data:/d']}\n"
    )
    git(repository, "add", ".")
    git(repository, "commit", "-q", "-m", "y")
    assert say("diff", "HEAD:sub/compose.yaml", "sub/compose.yaml").out == "Privileges: unchanged, in 1 sandbox.\n"
    said = say("audit", "--base", "HEAD", "--fail-on", "never", "--fail-on-widening", "sub")
    assert (said.code, said.out.partition("\n")[0]) == (0, "Privileges: unchanged, in 1 sandbox.")


def test_a_file_of_a_revision_may_be_called_as_it_likes(say: Say, repository: Path, profile: Path) -> None:
    (repository / "vars of a").write_text("A=1\n")
    (repository / "calls.seccomp").write_text('{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": []}')
    (repository / "bases").mkdir()
    (repository / "bases/one").write_text(
        "sandboxes:\n  b: {image: 'busybox:1', egress: none, env_file: '../vars of a',\n"
        "      security_opt: [seccomp=../calls.seccomp]}\n"
    )
    profile.write_text("sandboxes: {a: {extends: {file: bases/one, sandbox: b}}}\n")
    git(repository, "add", ".")
    git(repository, "commit", "-q", "-m", "y")
    assert say("diff", "HEAD:sandbox.yaml", "sandbox.yaml").out == "Privileges: unchanged, in 1 sandbox.\n"
    (repository / "calls.seccomp").write_text(
        '{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["bpf"], "action": "SCMP_ACT_ALLOW"}]}'
    )
    said = say("audit", "--base", "HEAD", "--fail-on", "never")
    assert (said.code, said.out.partition("  ")[0]) == (0, "+ WIDENED")
    assert "a may now call bpf" in said.out


@pytest.mark.parametrize("option", ["--base", "--trust-ref"])
def test_a_large_file_beside_the_profile_is_in_nobodys_way(option: str, say: Say, repository: Path) -> None:
    """A lock file of packages, say: no profile is as large."""
    for name in ("package-lock.json", "data.yaml"):
        (repository / name).write_text("x" * (1 << 20) + "x")
    git(repository, "add", ".")
    git(repository, "commit", "-q", "-m", "y")
    said = say("audit", option, "HEAD", "--fail-on", "never")
    assert (said.code, said.err) == (0, "")


def test_what_is_judged_by_is_not_lost_for_its_size(say: Say, repository: Path) -> None:
    for name in ("sandboxrun-policy.yaml", "sandboxrun-waivers.yaml", "sandboxrun-baseline.json"):
        (repository / name).write_text("{}" + " " * (1 << 20))
        git(repository, "add", ".")
        git(repository, "commit", "-q", "-m", "y")
        said = say("audit", "--trust-ref", "HEAD")
        assert said.code == 3 and f'the file "{name}" can\'t be read' in said.err
        (repository / name).unlink()


def test_a_base_that_widens_is_reported_where_it_is(say: Say, repository: Path, profile: Path) -> None:
    (repository / "base.yaml").write_text("sandboxes: {b: {image: 'busybox:1', egress: none}}\n")
    profile.write_text("sandboxes: {a: {extends: {file: base.yaml, sandbox: b}}}\n")
    git(repository, "add", ".")
    git(repository, "commit", "-q", "-m", "y")
    (repository / "base.yaml").write_text("sandboxes: {b: {image: 'busybox:1', egress: open}}\n")
    told = json.loads(say("audit", "--base", "HEAD", "--json").out)["privilege_diff"]
    assert told["widens"] is True
    assert told["changes"][0]["place"]["file"] == "base.yaml"
    assert told["sandboxes"]["a"]["network"] == "WIDENED"


def test_a_revision_that_is_not_there(say: Say, repository: Path) -> None:
    said = say("audit", "--base", "nothing")
    assert said.code == 3
    assert 'the repository has no revision "nothing"' in said.err


def test_a_shallow_clone_is_named(say: Say, repository: Path, profile: Path, tmp_path: Path, monkeypatch: Any) -> None:
    git(repository, "commit", "-q", "--allow-empty", "-m", "y")
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", "--depth", "1", f"file://{repository}", clone], check=True)
    monkeypatch.chdir(clone)
    said = say("audit", "--base", "HEAD~1")
    assert said.code == 3
    assert "this clone is shallow" in said.err


def test_nothing_in_a_repository_is_run(say: Say, repository: Path, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    for key in ("core.fsmonitor", "core.sshCommand", "core.pager", "diff.external", "filter.x.smudge", "core.editor"):
        git(repository, "config", key, f"touch {mark}; true")
    (repository / ".gitattributes").write_text("* filter=x diff=x\n")
    git(repository, "config", "diff.x.textconv", f"touch {mark}; cat")
    (repository / ".git/hooks").mkdir(exist_ok=True)
    mark.unlink(missing_ok=True)
    assert say("audit", "--base", "HEAD", "--trust-ref", "HEAD", "--fail-on", "never").code == 0
    assert not mark.exists()


def test_policy_and_waivers_of_a_trusted_revision(say: Say, repository: Path) -> None:
    (repository / "sandboxrun-policy.yaml").write_text("rules: {SBX102: off, SBX4*: off, SBX6*: off}\n")
    assert say("audit").code == 0
    assert say("audit", "--trust-ref", "HEAD").code == 1


WAIVER = '  # sandboxrun: ignore[SBX102] until=2999-01-01 reason="known"'


def test_a_comment_waives_what_it_waived_in_the_trusted_revision(say: Say, repository: Path, profile: Path) -> None:
    waived = PROFILE.replace("      - SYS_ADMIN  # why", f"      {WAIVER.strip()}\n      - SYS_ADMIN")
    profile.write_text(waived)
    trust = ("audit", "--trust-ref", "HEAD", "--fail-on", "high")
    assert say("audit", "--fail-on", "high").code == 0
    told = say(*trust)
    assert (told.code, "SBX908" in told.out) == (1, True)  # the change brings its own
    git(repository, "commit", "-q", "-a", "-m", "accepted")
    assert say(*trust).code == 0
    profile.write_text("# moved\n" + waived)
    assert say(*trust).code == 0
    profile.write_text(waived.replace("- SYS_ADMIN", "- SYS_MODULE"))
    assert say(*trust).code == 1
    profile.write_text(waived + f"    user: root\n    group_add:\n      {WAIVER.strip()}\n      - docker\n")
    assert say(*trust).code == 1


OTHER = '  other:\n    image: "node:20-alpine"\n    secrets: [key]\n'
KEY = "secrets: {key: {environment: KEY}}\n"


@pytest.mark.parametrize(
    "brought",
    [
        f"{OTHER}    cap_add:\n    {WAIVER}\n      - SYS_ADMIN\n",
        "  other:\n    extends: {sandbox: agent}\n    secrets: [key]\n",
    ],
    ids=["copied", "extended"],
)
def test_a_comment_waives_nothing_of_another_sandbox(brought: str, say: Say, repository: Path, profile: Path) -> None:
    """Not in a copy of its line, which the trusted revision has, and not by a base that another one now extends."""
    waived = PROFILE.replace("      - SYS_ADMIN  # why", f"    {WAIVER}\n      - SYS_ADMIN")
    profile.write_text(waived)
    git(repository, "commit", "-q", "-a", "-m", "accepted")
    profile.write_text(f"{waived}{brought}{KEY}")
    said = say("audit", "--trust-ref", "HEAD", "--fail-on", "high")
    assert said.code == 1
    assert re.search("SBX908.*: the trusted revision does not waive SBX102 of .*other here", said.out)


@pytest.mark.parametrize("name", ["sandboxrun-policy.yaml", "sandboxrun-waivers.yaml", "sandboxrun-baseline.json"])
def test_what_is_judged_by_is_not_lost_behind_a_link(name: str, say: Say, repository: Path) -> None:
    (repository / name).symlink_to("elsewhere.yaml")
    said = say("audit")
    assert said.code == 3
    assert f'the file "{name}" can\'t be read' in said.err
    (repository / "elsewhere.yaml").write_text("{}")
    git(repository, "add", ".")
    git(repository, "commit", "-q", "-m", "a link")
    said = say("audit", "--trust-ref", "HEAD")
    assert said.code == 3
    assert f"{name} is not a regular file in the revision" in said.err


def test_trees_without_end_are_refused(say: Say, repository: Path) -> None:
    """Ten levels of a hundred names each: as many files as nobody can list."""
    blob = subprocess.run(
        ["git", "hash-object", "-w", "--stdin"], input=b"x", cwd=repository, check=True, capture_output=True
    )
    kind, mode, name = "blob", "100644", blob.stdout.decode().strip()
    for _ in range(10):
        entries = "".join(f"{mode} {kind} {name}\t{number}.yaml\n" for number in range(100))
        made = subprocess.run(
            ["git", "mktree"], input=entries.encode(), cwd=repository, check=True, capture_output=True
        )
        kind, mode, name = "tree", "040000", made.stdout.decode().strip()
    commit = subprocess.run(
        ["git", "-c", "user.name=t", "-c", "user.email=t@example.com", "commit-tree", "-m", "x", name],
        cwd=repository, check=True, capture_output=True,
    )  # fmt: skip
    said = say("audit", "--base", commit.stdout.decode().strip())
    assert said.code == 3
    assert "too large to be reviewed" in said.err


def test_a_git_directory_that_leads_elsewhere_is_not_believed(say: Say, repository: Path, tmp_path: Path) -> None:
    git(repository, "config", "core.worktree", str(tmp_path / "elsewhere"))
    (tmp_path / "elsewhere").mkdir()
    said = say("audit", "--base", "HEAD", "sandbox.yaml")
    assert said.code == 3
    assert "is not in the repository" in said.err


def test_the_greatest_profile_is_that_of_the_trusted_revision(say: Say, repository: Path, profile: Path) -> None:
    (repository / "sandboxrun-policy.yaml").write_text("max_profile: most.yaml\nrules: {'SBX[1-6]*': off}\n")
    (repository / "most.yaml").write_text("sandboxes: {m: {image: 'node:20-alpine', egress: none}}\n")
    git(repository, "add", ".")
    git(repository, "commit", "-q", "-m", "policy")
    (repository / "most.yaml").write_text(PROFILE)
    assert say("audit", "sandbox.yaml").code == 0
    said = say("audit", "sandbox.yaml", "--trust-ref", "HEAD")
    assert said.code == 1
    assert "SBX915" in said.out


def test_diff_of_two_files(say: Say, here: Path) -> None:
    (here / "a.yaml").write_text("sandboxes: {a: {image: 'busybox:1', mem_limit: 1g}}\n")
    (here / "b.yaml").write_text("sandboxes: {a: {image: 'busybox:1', mem_limit: 512m}}\n")
    said = say("diff", "a.yaml", "b.yaml", "--fail-on-widening")
    assert (said.code, said.out) == (
        0,
        "- NARROWED limits: a may only use memory: 512m, was 1g  b.yaml:1:48\n"
        "Privileges: 0 widened, 0 maybe, 1 narrowed.\n",
    )
    assert say("diff", "b.yaml", "a.yaml", "--fail-on-widening").code == 1


def test_diff_under_other_values(say: Say, here: Path) -> None:
    """What a value changes besides is told with it, and nothing twice."""
    text = "variables: {v: {type: string, enum: [none, open], default: none}}\nsandboxes:\n  a: {image: 'busybox:1', "
    (here / "a.yaml").write_text(text + "egress: none}\n")
    (here / "b.yaml").write_text(text + "egress: '{{ v }}', user: root}\n")
    assert say("diff", "a.yaml", "b.yaml").out.splitlines() == [
        '+ WIDENED  network: a may now reach every public host, was nothing, when v is "open"  b.yaml:3:35',
        "+ WIDENED  user: a now runs as root (root)  b.yaml:3:52",
        "Privileges: 2 widened, 0 maybe, 0 narrowed.",
    ]


def test_diff_of_a_revision(say: Say, repository: Path, profile: Path) -> None:
    profile.write_text(PROFILE + "    user: root\n")
    assert "+ WIDENED  user: agent now runs as root (root)" in say("diff", "HEAD:sandbox.yaml", "sandbox.yaml").out
    assert "user" in say("diff", "HEAD", "sandbox.yaml").out


def test_places_in_a_revision_are_told_by_its_name(say: Say, repository: Path, profile: Path) -> None:
    profile.write_text(PROFILE.replace("SYS_ADMIN", "SYS_PTRACE"))
    git(repository, "commit", "-q", "-a", "-m", "y")
    said = say("diff", "HEAD~1", "HEAD")
    assert said.out.startswith("+ WIDENED") and "  HEAD:sandbox.yaml:8:9\n" in said.out
    where = "| WIDENED | capabilities | <code>HEAD&#58;sandbox&#46;yaml</code>:8 | agent |"
    assert where in say("diff", "HEAD~1", "HEAD", "--format", "markdown").out
    data = json.loads(say("diff", "HEAD~1", "HEAD", "--json").out)
    assert data["changes"][0]["place"]["file"] == "HEAD:sandbox.yaml"
    profile.write_text("sandboxes: {a: {frob: 1}}\n")
    git(repository, "commit", "-q", "-a", "-m", "z")
    assert say("diff", "HEAD~1", "HEAD").err.startswith("HEAD:sandbox.yaml:1:17: error: unknown key")
    profile.write_text(PROFILE)
    assert say("audit", "--base", "HEAD").err.startswith("HEAD:sandbox.yaml:1:17: error: unknown key")


def test_two_paths_that_no_revision_has_are_not_equal(say: Say, repository: Path) -> None:
    said = say("diff", "HEAD:typo.yaml", "HEAD:typos.yaml")
    assert (said.code, said.err.splitlines()[0]) == (
        2, "error: neither revision has its file: typo.yaml, typos.yaml"
    )  # fmt: skip


def test_what_a_change_of_a_compose_file_widens(say: Say, repository: Path) -> None:
    compose = repository / "compose.yaml"
    compose.write_text("services:\n  web:\n    image: busybox:1\n    network_mode: none\n")
    git(repository, "add", ".")
    git(repository, "commit", "-q", "-m", "y")
    said = say("audit", "--base", "HEAD", "compose.yaml", "--fail-on", "never")
    assert said.out.startswith("Privileges: unchanged, in 1 sandbox.\n")
    (repository / "compose.override.yaml").write_text("services:\n  web:\n    privileged: true\n")
    said = say("audit", "--base", "HEAD", ".", "--fail-on", "never", "--fail-on-widening")
    assert said.code == 1
    assert said.out.splitlines()[0] == (
        "+ WIDENED  capabilities: web is now privileged: it controls the host  compose.override.yaml:3:17"
    )
    assert "is now privileged" in say("diff", "HEAD:compose.yaml", "compose.override.yaml").out


def test_a_review_of_compose_files_imports_no_options(here: Path) -> None:
    """They are what takes longest of a start."""
    (here / "compose.yaml").write_text("services: {web: {image: 'nginx:1', environment: {TOKEN: abcdef12}}}\n")
    code = (
        "import sys; from sandboxrun.cli.main import main; main(['audit', 'compose.yaml']); "
        "print(sorted({'sandboxrun.spec.options', 'sandboxrun.spec.spec', 'logging'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=here, capture_output=True, text=True, check=True)
    assert done.stdout.endswith("\n[]\n"), done


# -- what the review demands, plan refuses


def test_plan_refuses_what_the_policy_does_not_allow(say: Say, profile: Path, here: Path) -> None:
    assert say("plan", "--offline").code == 0
    (here / "sandboxrun-policy.yaml").write_text("fail_on: high\n")
    said = say("plan", "--offline")
    assert said.code == 1
    assert "agent: cap_add SYS_ADMIN gives mounts, namespaces and most of what root may do (SBX102)" in said.err
    (here / "sandboxrun-policy.yaml").write_text("fail_on: critical\n")
    assert say("plan", "--offline").code == 0
    (here / "other.yaml").write_text("fail_on: low\n")
    assert say("plan", "--offline", "--policy", "other.yaml").code == 1


@pytest.mark.parametrize("own", [None, "fail_on: critical\n", "fail_on: low\n"])
def test_a_repository_in_another_one_is_judged_by_both(own: str | None, say: Say, repository: Path) -> None:
    """An agent that writes to a directory of a repository needs no more than a `.git` in it to make it another one."""
    inner = repository / "ci"
    (inner / ".git").mkdir(parents=True)
    (inner / ".git" / "HEAD").touch()
    (repository / "sandboxrun-policy.yaml").write_text("fail_on: high\n")
    (inner / "sandbox.yaml").write_text("sandboxes: {a: {image: 'x:1', egress: none, cap_add: [SYS_ADMIN]}}\n")
    if own is not None:
        (inner / "sandboxrun-policy.yaml").write_text(own)
    said = say("plan", "--offline", "-f", "ci/sandbox.yaml")
    assert said.code == 1
    assert "SYS_ADMIN" in said.err
    by = inner if own == "fail_on: low\n" else repository  # the innermost is asked first
    assert f"the policy {by / 'sandboxrun-policy.yaml'} refuses it" in said.err
    (inner / "sandbox.yaml").write_text("sandboxes: {a: {image: 'x:1', egress: none}}\n")
    assert say("plan", "--offline", "-f", "ci/sandbox.yaml").code == (1 if own == "fail_on: low\n" else 0)


def test_a_rule_is_explained(say: Say, here: Path) -> None:
    assert say("explain", "sbx301").out.startswith(
        "SBX301  Every public host reachable\n\n  severity    medium: it gives"
    )
    assert json.loads(say("explain", "SBX301", "--json").out)["severity"] == "medium"
    assert say("explain", "SBX999").code == 2


def test_annotations_mark_what_a_plan_opens(say: Say, here: Path) -> None:
    (here / "sandbox.yaml").write_text("sandboxes: {a: {image: 'busybox:1', user: root}}\n")
    out = say("plan", "--offline", "--format", "github").out
    assert "::warning title=sandboxrun::a runs as root (root), unlike the defaults" in out.splitlines()
    assert "#### More open than the defaults" in say("plan", "--offline", "--format", "markdown").out


def test_what_was_looked_at_are_the_users_files(say: Say, profile: Path) -> None:
    profile.write_text(f"sandboxes: {{a: {{extends: offline, image: 'x:1@sha256:{'0' * 64}'}}}}\n")
    assert say("audit", "--fail-on", "high").out.endswith("1 file, 1 sandbox: nothing found\n")
    fixed = say("audit", "--fix", "--write")
    assert (fixed.code, fixed.out, fixed.err) == (0, "", "nothing to fix\n")
