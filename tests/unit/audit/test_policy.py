"""Policy, waivers and baseline: what they change, and what is wrong with them."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from sandboxrun.audit.finding import Severity
from sandboxrun.audit.judge import AuditVerdict, ReviewTerms
from sandboxrun.errors import ProfileError
from sandboxrun.lifecycle.review import Sources, review, targets, terms, write_baseline
from sandboxrun.profile.layers import ProfileDocument, read_document
from tests.unit.audit.reviewing import TODAY

PROFILE = """\
name: p
sandboxes:
  agent:
    image: node:20-alpine
    egress: open
    pids_limit: -1
"""


def judged(directory: Path, profile: str = PROFILE, *, today: date = TODAY, strict: bool = False) -> AuditVerdict:
    """The verdict on a profile, by the files of the directory."""
    (directory / "sandbox.yaml").write_text(profile)
    by = terms(Sources(root=directory), today=today, strict=strict)
    return review(targets([directory / "sandbox.yaml"])[0], by)


def policy(directory: Path, text: str) -> None:
    """Write the project's policy."""
    (directory / "sandboxrun-policy.yaml").write_text(text)


def told(verdict: AuditVerdict) -> list[str]:
    """The open findings as lines."""
    return [f"{finding.severity.word} {finding.rule} {finding.message}" for finding in verdict.open]


PLAIN = [
    "low SBX601 node:20-alpine can change: it has no digest",
    "medium SBX301 egress is open: every public host can be reached",
    "medium SBX404 processes are not limited",
]


def test_without_a_policy(tmp_path: Path) -> None:
    assert told(judged(tmp_path)) == PLAIN


def test_rules_are_raised_lowered_and_switched_off(tmp_path: Path) -> None:
    policy(tmp_path, "rules: {SBX301: critical, SBX404: info, 'SBX6*': off}")
    assert told(judged(tmp_path)) == [PLAIN[1].replace("medium", "critical"), PLAIN[2].replace("medium", "info")]


def test_a_strict_rule_is_shown_to_everybody_once_the_policy_names_it(tmp_path: Path) -> None:
    policy(tmp_path, "rules: {SBX408: high}")
    assert "high SBX408 the sandbox has no timeout and no ttl" in told(judged(tmp_path))


def test_a_part_is_about_its_paths(tmp_path: Path) -> None:
    policy(tmp_path, "rules: {SBX301: off}\npaths:\n  - {match: ['ci/*'], rules: {SBX301: critical}}\n")
    assert "SBX301" not in " ".join(told(judged(tmp_path)))
    (tmp_path / "ci").mkdir()
    (tmp_path / "ci/sandbox.yaml").write_text(PROFILE)
    by = terms(Sources(root=tmp_path), today=TODAY)
    verdict = review(targets([tmp_path / "ci/sandbox.yaml"])[0], by)
    assert "critical SBX301 egress is open: every public host can be reached" in told(verdict)


BREACHES = [
    ("images: {allow: ['registry.example.com/*']}", "SBX910 node:20-alpine is not an image that the policy allows"),
    ("images: {digests: true}", "SBX910 the policy requires a digest, and node:20-alpine has none"),
    ("egress: {allow: ['*.example.com:443']}", "SBX911 the policy lists destinations, and egress is open"),
    ("ceilings: {mem_limit: 256m}", "SBX912 the policy's ceiling for mem_limit is 256m, and this is 512m"),
    ("ceilings: {pids_limit: 100}", "SBX912 the policy's ceiling for pids_limit is 100, and this is not limited"),
    ("ceilings: {lifetime.idle: 1h}", "SBX912 the policy's ceiling for lifetime.idle is 1h, and this is not limited"),
    ("require: {read_only: false}", "SBX914 the policy requires read_only: false"),
    ("require: {user: '2000:2000'}", "SBX914 the policy requires user: 2000:2000"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "line"), BREACHES, ids=[text for text, _ in BREACHES])
def test_what_the_policy_does_not_allow_is_found(text: str, line: str, tmp_path: Path) -> None:
    policy(tmp_path, text)
    assert line in [f"{finding.rule} {finding.message}" for finding in judged(tmp_path).open]


@pytest.mark.parametrize(
    ("text", "what"),
    [("images: {allow: ['registry.example.com/*']}", "lists images"), ("images: {digests: true}", "requires a digest")],
)
def test_what_is_built_is_on_no_list_of_images(text: str, what: str, tmp_path: Path) -> None:
    """Whatever it is called: with `image` beside it, that is the name that the result gets."""
    policy(tmp_path, text)
    image = f"registry.example.com/agent:1@sha256:{'0' * 64}"
    (tmp_path / "compose.yaml").write_text(f"services: {{a: {{image: '{image}', build: ./agent}}, b: {{build: .}}}}\n")
    verdict = review(targets([tmp_path / "compose.yaml"])[0], terms(Sources(root=tmp_path), today=TODAY))
    found = [finding.message for finding in verdict.open if finding.rule == "SBX910"]
    assert found == [f"the policy {what}, and this one is built from {context}" for context in ("./agent", ".")]


def seccomp(*calls: str) -> str:
    """A profile of its own that allows these calls."""
    names = ", ".join(f'"{call}"' for call in calls)
    rule = f'{{"names": [{names}], "action": "SCMP_ACT_ALLOW"}}'
    text = f'{{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{rule}]}}'
    return f"{PROFILE}    security_opt: ['seccomp={text}']\n"


def test_nobody_elses_name_server_says_where_listed_destinations_are(tmp_path: Path) -> None:
    """Who runs it leads api.example.com to an address of theirs, and the gateway connects there."""
    policy(tmp_path, "egress: {allow: ['api.example.com:443']}")
    listed = PROFILE.replace("egress: open", "egress: {allow: ['api.example.com:443'], resolvers: [%s]}")
    found = told(judged(tmp_path, listed % "9.9.9.9, 10.1.0.53"))
    assert [line for line in found if "SBX911" in line] == [
        "high SBX911 the policy lists destinations, and the public name server 9.9.9.9 decides where they are"
    ]
    assert not any("SBX911" in line for line in told(judged(tmp_path, listed % "10.1.0.53, 'fd00::53'")))


KEPT = [
    "images: {allow: ['node:*']}",
    "images: {allow: [node]}",
    "ceilings: {mem_limit: 512m, cpus: 1}",
    "require: {read_only: true, cap_drop: [CAP_ALL], mem_limit: 512m}",
    "mounts: {roots: []}",
]


@pytest.mark.parametrize("text", KEPT)
def test_what_the_policy_allows_is_not(text: str, tmp_path: Path) -> None:
    policy(tmp_path, text)
    assert told(judged(tmp_path)) == PLAIN


def test_mount_roots(tmp_path: Path) -> None:
    policy(tmp_path, "mounts: {roots: [/srv/shared]}")
    profile = PROFILE + "    volumes: ['/srv/shared/a:/a:ro', '/srv/other:/b:ro']\n"
    found = [finding.message for finding in judged(tmp_path, profile).open if finding.rule == "SBX913"]
    assert found == ["/srv/other is outside of the roots that the policy allows"]


def test_the_greatest_profile(tmp_path: Path) -> None:
    policy(tmp_path, "max_profile: greatest.yaml\nrules: {'SBX[1-6]*': off}")
    (tmp_path / "greatest.yaml").write_text(
        "sandboxes: {most: {image: 'node:20-alpine', mem_limit: 1g, egress: {allow: ['*.example.com:443']}}}\n"
    )
    assert told(judged(tmp_path)) == [
        "high SBX915 network: may reach every public host, beyond the greatest profile (listed hosts)",
        "high SBX915 limits: may use processes: unlimited, beyond the greatest profile (256)",
    ]
    inside = PROFILE.replace("open", "{allow: ['api.example.com:443']}").replace("-1", "64")
    assert told(judged(tmp_path, inside)) == []


def test_the_greatest_profile_bounds_what_is_taken_over_from_the_caller(tmp_path: Path) -> None:
    """Which no option expresses."""
    policy(tmp_path, "max_profile: greatest.yaml\nrules: {'SBX[1-6]*': off}")
    (tmp_path / "greatest.yaml").write_text("sandboxes: {most: {image: 'busybox:1', environment: [CI]}}\n")
    text = "name: p\nsandboxes: {a: {image: 'busybox:1', egress: none, environment: [CI, TOKEN]}}\n"
    assert told(judged(tmp_path, text)) == ["high SBX915 secrets: gets the caller's TOKEN, beyond the greatest profile"]


WRITES = "name: p\nsandboxes: {a: {image: 'busybox:1', egress: none, workspace: {source: W, access: rw}}}\n"


@pytest.mark.parametrize("kind", ["policy", "max_profile", "waivers", "baseline"])
@pytest.mark.parametrize("at", ["work/file", "work/a/b/file", "work/link"])
def test_no_sandbox_may_write_what_judges_it(tmp_path: Path, kind: str, at: str) -> None:
    (tmp_path / "work/a/b").mkdir(parents=True)
    texts = {"baseline": '{"findings": []}', "max_profile": WRITES.replace("W", ".").replace("rw", "copy")}
    file = tmp_path / at
    if file.name == "link":
        file.symlink_to(tmp_path / "elsewhere")
    file.write_text(texts.get(kind, "{}"))
    (tmp_path / "sandbox.yaml").write_text(WRITES.replace("W", "work"))
    found = targets([tmp_path / "sandbox.yaml"])[0]
    sources = Sources(root=tmp_path, **{kind: file})
    verdict = review(found, terms(sources, today=TODAY))
    line = f"high SBX916 the sandbox may write to {at}, by which it is judged"
    assert [one for one in told(verdict) if "SBX916" in one] == [line]
    (tmp_path / "sandbox.yaml").write_text(WRITES.replace("W", "work").replace("rw", "copy"))
    assert "SBX916" not in str(told(review(found, terms(sources, today=TODAY))))


def test_what_judges_and_is_kept_is_fine(tmp_path: Path) -> None:
    """What the host runs is read-only anyway, and so are the policy's own names."""
    (tmp_path / ".github").mkdir()
    (tmp_path / "sandboxrun-policy.yaml").write_text("{}")
    (tmp_path / ".github/policy.yaml").write_text("{}")
    (tmp_path / "sandbox.yaml").write_text(WRITES.replace("W", "."))
    found = targets([tmp_path / "sandbox.yaml"])[0]
    for name in ("sandboxrun-policy.yaml", ".github/policy.yaml"):
        sources = Sources(root=tmp_path, policy=tmp_path / name)
        assert "SBX916" not in str(told(review(found, terms(sources, today=TODAY))))
    (tmp_path / "sandbox.yaml").write_text(WRITES.replace("W,", "., writable: [.github],"))
    assert "SBX916" in str(told(review(found, terms(sources, today=TODAY))))


def test_files_of_the_greatest_profile_that_could_not_be_kept_are_found(tmp_path: Path) -> None:
    policy(tmp_path, "max_profile: greatest.yaml\nrules: {'SBX[1-6]*': off}")
    (tmp_path / "calls.json").write_text('{"defaultAction": "SCMP_ACT_ERRNO"}')
    (tmp_path / "greatest.yaml").write_text(
        "variables: {v: {type: string}}\nsandboxes: {a: {image: 'busybox:1', hostname: '{{ v }}', egress: none,"
        " security_opt: [seccomp=calls.json], workspace: {access: rw}}}\n"
    )
    found = [line for line in told(judged(tmp_path, WRITES.replace("W", "."))) if "SBX916" in line]
    assert found == ["high SBX916 the sandbox may write to calls.json, by which it is judged"]


def test_the_policy_judges_what_a_variable_may_hold_too(tmp_path: Path) -> None:
    policy(tmp_path, "ceilings: {mem_limit: 4g}\nmax_profile: greatest.yaml\nrules: {'SBX[1-6]*': off}")
    (tmp_path / "greatest.yaml").write_text(
        "sandboxes: {most: {image: 'node:20-alpine', egress: none, mem_limit: 2g}}\n"
    )
    profile = (
        "variables: {size: {type: string, enum: [1g, 16g], default: 1g}}\n"
        "sandboxes: {agent: {image: 'node:20-alpine', egress: none, mem_limit: '{{ size }}'}}\n"
    )
    assert [(finding.rule, finding.message, finding.when) for finding in judged(tmp_path, profile).open] == [
        ("SBX912", "the policy's ceiling for mem_limit is 4g, and this is 16g", 'size is "16g"'),
        ("SBX915", "limits: may use memory: 16g, beyond the greatest profile (2g)", 'size is "16g"'),
    ]
    now = profile.replace("default: 1g", "default: 16g")
    assert [finding.when for finding in judged(tmp_path, now).open] == ["", ""]


def test_the_policy_judges_what_a_free_variable_may_hold(tmp_path: Path) -> None:
    policy(tmp_path, "images: {allow: ['registry.example.com/*']}\nrules: {'SBX[1-6]*': off}")
    profile = (
        "variables: {image: {type: string, default: 'registry.example.com/a:1'}}\n"
        "sandboxes: {agent: {image: '{{ image }}', egress: none}}\n"
    )
    assert [finding.rule for finding in judged(tmp_path, profile).open] == ["SBX901"]


FAULTS = [
    ("rule: {}", 'unknown key "rule" in a policy'),
    ("rules: {SBX999: high}", '"SBX999" is not a rule'),
    ("rules: {SBX301: grave}", "expected one of info, low, medium, high, critical, off, found"),
    ("ceilings: {memory: 1g}", '"memory" has no ceiling'),
    ("ceilings: {mem_limit: lots}", "expected"),
    ("require: {colour: red}", '"colour" is not an option'),
    ("paths: [{rules: {}}]", "a part of a policy lacks match"),
    ("fail_on: grave", '"grave" is not a severity'),
    ("- a", "expected a policy, found a list"),
]


@pytest.mark.parametrize(("text", "message"), FAULTS, ids=[text for text, _ in FAULTS])
def test_a_wrong_policy_is_refused(text: str, message: str, tmp_path: Path) -> None:
    policy(tmp_path, text)
    with pytest.raises(ProfileError, match=message.replace("[", r"\[")):
        judged(tmp_path)


# -- waivers

COMMENT = '# sandboxrun: ignore[SBX301] until=2027-03-31 reason="the task needs it"'


def test_a_comment_waives_its_line(tmp_path: Path) -> None:
    verdict = judged(tmp_path, PROFILE.replace("egress: open", f"egress: open  {COMMENT}"))
    assert told(verdict) == [PLAIN[0], PLAIN[2]]
    waived = next(finding for finding in verdict.findings if finding.status)
    assert (waived.rule, waived.status, waived.reason) == ("SBX301", "waived", "the task needs it (until 2027-03-31)")


def test_a_comment_of_its_own_waives_the_next_line(tmp_path: Path) -> None:
    text = PROFILE.replace("    egress: open", f"    {COMMENT}\n    # and more\n    egress: open")
    assert told(judged(tmp_path, text)) == [PLAIN[0], PLAIN[2]]


def test_a_comment_elsewhere_waives_nothing_and_is_found(tmp_path: Path) -> None:
    assert told(judged(tmp_path, PROFILE.replace("pids_limit: -1", f"pids_limit: -1  {COMMENT}"))) == [
        *PLAIN[:2],
        PLAIN[2],
        "low SBX903 SBX301 found nothing that this waives",
    ]


WRONG = [
    ("ignore[SBX301] until=2027-01-14 reason=x", "medium SBX902 the waiver of SBX301 expired on 2027-01-14"),
    ("ignore[SBX301] reason=x", "medium SBX905 the waiver has no until: it waives nothing"),
    ("ignore[SBX301] until=2027-02-30 reason=x", "medium SBX905 the waiver has no until: it waives nothing"),
    ("ignore[SBX301] until=2027-03-31", "medium SBX905 the waiver has no reason: it waives nothing"),
    ('ignore[SBX301] until=2027-03-31 reason="x', "medium SBX905 the waiver has no until and no reason: it waives "
     "nothing"),
    ("ignore[SBX999] until=2027-03-31 reason=x", "medium SBX904 SBX999 is not a rule"),
    ("ignore[] until=2027-03-31 reason=x", "medium SBX904 the waiver names no rule"),
    ("ignore[SBX101] until=2027-03-31 reason=x", "medium SBX906 SBX101 can't be waived by a comment"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "line"), WRONG, ids=[words for words, _ in WRONG])
def test_a_wrong_waiver_waives_nothing(words: str, line: str, tmp_path: Path) -> None:
    lines = told(judged(tmp_path, PROFILE.replace("egress: open", f"egress: open  # sandboxrun: {words}")))
    assert PLAIN[1] in lines
    assert line in lines


def test_the_policy_bounds_waivers(tmp_path: Path) -> None:
    policy(tmp_path, "waivers: {not_inline: ['SBX3*'], longest_days: 30}")
    lines = told(judged(tmp_path, PROFILE.replace("egress: open", f"egress: open  {COMMENT}")))
    assert "medium SBX906 SBX301 can't be waived by a comment" in lines
    assert "medium SBX905 the policy lets a waiver run 30 days, and this runs until 2027-03-31" in lines


def waivers(directory: Path, text: str) -> None:
    """Write the project's waivers."""
    (directory / "sandboxrun-waivers.yaml").write_text(text)


def test_a_file_of_waivers(tmp_path: Path) -> None:
    waivers(
        tmp_path,
        "waivers:\n  - {rules: [SBX301, SBX404], until: 2027-03-31, owner: team-a, reason: agreed, sandbox: agent}\n"
        "  - {rules: SBX601, until: 2027-03-31, owner: team-a, reason: agreed, file: 'other/*'}\n",
    )
    assert told(judged(tmp_path)) == ["low SBX903 SBX601 found nothing that this waives", PLAIN[0]]


def test_a_key_of_a_waiver_with_nothing_says_nothing(tmp_path: Path) -> None:
    keys = "until: 2027-03-31, owner: , reason: "
    waivers(tmp_path, f"waivers: [{{rules: [SBX301], {keys}}}, {{rules: , {keys}}}, {{rules: [null], {keys}}}]")
    lines = told(judged(tmp_path))
    assert PLAIN[1] in lines
    assert lines.count("medium SBX905 the waiver has no reason and no owner: it waives nothing") == 3
    assert lines.count("medium SBX904 the waiver names no rule") == 2


def test_a_waiver_in_a_file_needs_an_owner(tmp_path: Path) -> None:
    waivers(tmp_path, "waivers: [{rules: [SBX301], until: 2027-03-31, reason: agreed}]")
    assert "medium SBX905 the waiver has no owner: it waives nothing" in told(judged(tmp_path))


def test_a_grave_rule_can_be_waived_in_a_file(tmp_path: Path) -> None:
    waivers(tmp_path, "waivers: [{rules: [SBX306], until: 2027-03-31, owner: o, reason: r}]")
    profile = PROFILE + "    extra_hosts: ['m.example.com:169.254.169.254']\n"
    assert [line for line in told(judged(tmp_path, profile)) if "SBX306" in line] == []


# -- the baseline


def test_a_baseline_hides_what_was_there_and_may_only_shrink(tmp_path: Path) -> None:
    first = judged(tmp_path)
    by = ReviewTerms(today=TODAY)
    write_baseline(tmp_path / "sandboxrun-baseline.json", first, by)
    assert told(judged(tmp_path)) == []
    moved = PROFILE.replace("sandboxes:", "# a comment\nsandboxes:") + "    user: root\n"
    assert told(judged(tmp_path, moved)) == ['medium SBX107 user "root" is root']
    fixed = PROFILE.replace("egress: open", "egress: none") + "    user: root\n"
    verdict = judged(tmp_path, fixed)
    assert told(verdict)[-1] == "low SBX907 1 of sandboxrun-baseline.json is no longer found".replace(
        "sandboxrun-baseline.json", next(f for f in verdict.open if f.rule == "SBX907").message.split(" ")[2]
    )
    write_baseline(tmp_path / "sandboxrun-baseline.json", verdict, terms(Sources(root=tmp_path), today=TODAY))
    assert told(judged(tmp_path, fixed)) == ['medium SBX107 user "root" is root']


def test_a_baseline_hides_no_higher_value(tmp_path: Path) -> None:
    policy(tmp_path, "ceilings: {mem_limit: 256m}")
    write_baseline(tmp_path / "sandboxrun-baseline.json", judged(tmp_path), ReviewTerms(today=TODAY))
    assert told(judged(tmp_path)) == []
    higher = "medium SBX912 the policy's ceiling for mem_limit is 256m, and this is 64g"
    assert higher in told(judged(tmp_path, f"{PROFILE}    mem_limit: 64g\n"))


def test_a_baseline_accepts_the_calls_that_it_saw_and_no_others(tmp_path: Path) -> None:
    calls = ["mount", "setns", "unshare", "bpf", "keyctl"]
    write_baseline(tmp_path / "sandboxrun-baseline.json", judged(tmp_path, seccomp(*calls)), ReviewTerms(today=TODAY))
    assert told(judged(tmp_path, seccomp(*calls))) == []
    swapped = told(judged(tmp_path, seccomp(*calls[:4], "kexec_load")))
    assert "high SBX112 the seccomp profile allows mount, setns, unshare, kexec_load, bpf" in swapped


INCLUDED = "}}\ninclude: ['https://a.example.com/x.git:c.yaml']\nx-more: {a: {"
HOLDS = "secrets: [k], networks: [out], volumes: ['./d:/d']"


@pytest.mark.parametrize(
    ("rule", "before", "after"),
    [
        ("SBX507", HOLDS, HOLDS.replace("[k]", "[k, l]")),
        ("SBX507", HOLDS, HOLDS.replace("'./d:/d'", "'./d:/d', './e:/e'")),
        ("SBX610", "build: 'https://u:p@a.example.com/x.git'", "build: 'https://u:p@b.example.com/x.git'"),
        ("SBX314", "networks: [in, out]", "networks: [in, out, db]"),
        ("SBX614", INCLUDED, INCLUDED.replace("a.example", "b.example")),
    ],
)  # fmt: skip
def test_a_baseline_accepts_what_a_finding_of_several_things_names(
    rule: str, before: str, after: str, tmp_path: Path
) -> None:
    top = """
        networks: {in: {internal: true}, out: {}, db: {internal: true}}
        secrets: {k: {file: ./k}, l: {file: ./l}}
    """

    def reviewed(options: str) -> AuditVerdict:
        (tmp_path / "compose.yaml").write_text(f"services: {{a: {{image: busybox, {options}}}}}\n{dedent(top)}")
        return review(targets([tmp_path / "compose.yaml"])[0], terms(Sources(root=tmp_path), today=TODAY))

    first = reviewed(before)
    assert rule in [finding.rule for finding in first.open]
    assert all("u:p" not in finding.message for finding in first.findings)
    write_baseline(tmp_path / "sandboxrun-baseline.json", first, ReviewTerms(today=TODAY))
    assert rule not in [finding.rule for finding in reviewed(before).open]
    assert rule in [finding.rule for finding in reviewed(after).open]


def test_a_baseline_has_nothing_of_what_is_wrong_with_waivers(tmp_path: Path) -> None:
    profile = PROFILE.replace("open\n", "open  # sandboxrun: ignore[SBX301] until=2020-01-01 reason='old'\n")
    write_baseline(tmp_path / "sandboxrun-baseline.json", judged(tmp_path, profile), ReviewTerms(today=TODAY))
    expired = ["medium SBX902 the waiver of SBX301 expired on 2020-01-01"]
    assert told(judged(tmp_path, profile)) == expired
    again = terms(Sources(root=tmp_path), today=TODAY)
    write_baseline(tmp_path / "sandboxrun-baseline.json", judged(tmp_path, profile), again)
    assert told(judged(tmp_path, profile)) == expired


def test_a_baseline_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "sandboxrun-baseline.json").write_text("[1]")
    with pytest.raises(ProfileError, match="is not a baseline"):
        judged(tmp_path)


# -- variables


def variables(declared: str, options: str) -> str:
    """A profile with variables."""
    return f"name: p\nvariables: {{{declared}}}\nsandboxes: {{a: {{image: 'busybox:1', egress: none, {options}}}}}\n"


def test_every_value_of_a_variable_is_judged(tmp_path: Path) -> None:
    text = variables("n: {type: string, enum: [none, bridge], default: none}", "network_mode: '{{ n }}'")
    text = text.replace("egress: none, ", "")
    found = [finding for finding in judged(tmp_path, text).open if finding.rule == "SBX301"]
    assert [finding.when for finding in found] == ['n is "bridge"']


def test_a_switch_is_judged_both_ways(tmp_path: Path) -> None:
    text = variables("w: {type: boolean, default: false}", "read_only: '{{ not w }}'")
    found = [finding for finding in judged(tmp_path, text).open if finding.rule == "SBX211"]
    assert [finding.when for finding in found] == ["w is true"]


@pytest.mark.parametrize(
    ("declared", "options", "rule"),
    [
        ("u: {type: string, default: '1000:1000'}", "user: '{{ u }}'", "SBX107"),
        ("o: {type: object, default: {u: '1000:1000'}}", "user: '{{ o.u }}'", "SBX107"),
        ("c: {type: array, default: []}", "cap_add: '{{ c }}'", "SBX102"),
        ("m: {type: integer, default: 64}", "pids_limit: '{{ m }}'", "SBX404"),
        ("s: {type: string, default: ./data}", "volumes: ['{{ s }}:/x']", "SBX204"),
    ],
)
def test_a_free_variable_is_a_finding(declared: str, options: str, rule: str, tmp_path: Path) -> None:
    found = [finding for finding in judged(tmp_path, variables(declared, options)).open if finding.rule == "SBX901"]
    assert len(found) == 1
    assert found[0].message.endswith(f"({rule})")
    assert found[0].severity is Severity.MEDIUM


def test_a_pattern_closes_a_variable(tmp_path: Path) -> None:
    text = variables("u: {type: string, default: '1000', pattern: '[1-9][0-9]{3}'}", "user: '{{ u }}'")
    assert "SBX901" not in " ".join(told(judged(tmp_path, text)))


def test_a_variable_that_must_be_given_is_given_something(tmp_path: Path) -> None:
    text = variables("u: {type: string, enum: ['1000', '2000']}", "user: '{{ u }}'")
    verdict = judged(tmp_path, text)
    assert verdict.gaps == ()
    assert verdict.subjects == ("a",)


def test_a_variable_with_no_value_to_try_is_a_gap(tmp_path: Path) -> None:
    text = variables("u: {type: string, pattern: 'x[0-9]{40}y'}", "user: '{{ u }}'")
    assert [gap.file for gap in judged(tmp_path, text).gaps] == [str(tmp_path / "sandbox.yaml")]


def test_two_values_that_open_something_together(tmp_path: Path) -> None:
    switches = "a: {type: boolean, default: false}, b: {type: boolean, default: false}"
    found = judged(tmp_path, variables(switches, "read_only: '{{ not (a and b) }}'")).open
    assert [finding.when for finding in found if finding.rule == "SBX211"] == ["a is true and b is true"]


def test_a_free_variable_behind_a_switch(tmp_path: Path) -> None:
    declared = "own: {type: boolean, default: false}, who: {type: string, default: '1000'}"
    found = judged(tmp_path, variables(declared, "user: \"{{ who if own else '1000' }}\"")).open
    assert [finding.message for finding in found if finding.rule == "SBX901"] == [
        'user is decided by the variable "who" where own is true, which may hold anything: with "root", '
        'user "root" is root (SBX107)'
    ]


def test_one_value_that_opens_something_is_not_told_again_with_another(tmp_path: Path) -> None:
    switches = "a: {type: boolean, default: false}, b: {type: boolean, default: false}"
    found = judged(tmp_path, variables(switches, "read_only: '{{ not (a or b) }}'")).open
    assert [finding.when for finding in found if finding.rule == "SBX211"] == ["a is true", "b is true"]


def test_other_values_need_no_second_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []

    def counted(path: Path, *given: Any, **more: Any) -> ProfileDocument | None:
        read.append(path)
        return read_document(path, *given, **more)

    monkeypatch.setattr("sandboxrun.profile.loader.read_document", counted)
    text = variables("u: {type: string, default: '1000'}, w: {type: boolean, default: true}", "user: '{{ u }}'")
    assert any(finding.rule == "SBX901" for finding in judged(tmp_path, text).open)
    assert read == [tmp_path / "sandbox.yaml"]


def test_a_variable_that_a_base_demands_is_given_something(tmp_path: Path) -> None:
    base = variables("u: {type: string, enum: ['1000', '2000']}", "user: '{{ u }}'")
    (tmp_path / "base.yaml").write_text(base)
    verdict = judged(tmp_path, "name: p\nsandboxes: {b: {extends: {file: base.yaml, sandbox: a}, image: x}}\n")
    assert verdict.gaps == ()
    assert verdict.subjects == ("b",)


# -- what a template hides behind a value that nobody knows

REF = "ref: {type: string, default: main}"
HIDDEN = {
    "compared": "\"{{ ['SYS_ADMIN'] if ref == 'x' else [] }}\"",
    "put together": "\"{{ ['SYS_ADMIN'] if ref == 'x' ~ 'y' else [] }}\"",
    "all of three": "\"{{ ['SYS_ADMIN'] if ref[0] == 'x' ~ '' and ref[1] == 'y' ~ '' and ref[2] == 'z' else [] }}\"",
    "not in": "\"{{ [] if ref not in ['x' ~ 'y'] else ['SYS_ADMIN'] }}\"",
    "by its length": "\"{{ ['SYS_ADMIN'] if ref | length > 40 else [] }}\"",
    "by a test": "\"{{ ['SYS_ADMIN'] if ref is lower and ref.startswith('x' ~ 'y') else [] }}\"",
    "looked up": "\"{{ {'main': [], 'x': ['SYS_ADMIN']}[ref] }}\"",
    "got": "\"{{ {'x': ['SYS_ADMIN']}.get(ref, []) }}\"",
    "by an index": "\"{{ [[], ['SYS_ADMIN']][0 if ref == 'main' else 1] }}\"",
    "cut": "\"{{ ['SYS_ADMIN'][:(ref | length) - 4] }}\"",
    "a statement": "[\"{% set s = ref == 'x' ~ 'y' %}{% if s %}SYS_ADMIN{% else %}CHOWN{% endif %}\"]",
    "the last of many": "[\"{% if ref == 'a' ~ '' %}CHOWN{% elif ref == 'b' ~ '' %}KILL{% else %}"
    "{{ 'SYS_ADMIN' if ref == 'c' ~ '' else 'CHOWN' }}{% endif %}\"]",
}


@pytest.mark.parametrize("hidden", HIDDEN)
def test_what_a_template_may_choose_is_found(hidden: str, tmp_path: Path) -> None:
    verdict = judged(tmp_path, variables(REF, f"cap_add: {HIDDEN[hidden]}"))
    assert verdict.gaps == ()
    found = [finding for finding in verdict.open if finding.rule == "SBX102"]
    assert [finding.severity for finding in found] == [Severity.HIGH]
    assert found[0].when


def test_a_sandbox_that_is_hidden_is_found(tmp_path: Path) -> None:
    found = judged(tmp_path, variables(REF, "when: \"{{ ref == 'x' }}\", cap_add: [SYS_ADMIN]")).open
    assert "SBX102" in [finding.rule for finding in found]


def test_what_is_hidden_in_two_options_is_found(tmp_path: Path) -> None:
    """Either alone would be refused: without egress no gateway, and with networks none."""
    hidden = "{{ 'none' if ref != 'x' ~ 'y' else none }}"
    options = f"egress: \"{hidden}\", networks: \"{{{{ ['default'] if ref == 'x' ~ 'y' else [] }}}}\""
    text = variables(REF, options).replace("egress: none, ", "")
    assert "SBX302" in [finding.rule for finding in judged(tmp_path, text).open]


def test_items_of_a_variable_choose_too(tmp_path: Path) -> None:
    declared = "t: {type: array, items: {type: string}, default: [a]}"
    options = "for_each: '{{ t }}', user: \"{{ '0' if each == 'x' else '1000' }}\""
    assert "SBX107" in [finding.rule for finding in judged(tmp_path, variables(declared, options)).open]


@pytest.mark.parametrize(
    ("declared", "options"),
    [
        ("m: {type: string, enum: [a, b], default: a}", "user: \"{{ '0' if m == 'c' else '1000' }}\""),
        ("b: {type: boolean, default: true}", "mem_limit: \"{{ '256m' if b else '512m' }}\""),
        (REF, "mem_limit: \"{{ '256m' if ref == 'x' else '512m' }}\""),
        (REF, "for_each: [a, b], user: \"{{ '0' if each == 'c' else '1000' }}\", environment: {REF: '{{ ref }}'}"),
        (REF, "user: \"{{ '0' if 1 == 2 else '1000' }}\", environment: {REF: '{{ ref }}'}"),
    ],
)
def test_what_no_value_chooses_is_not_found(declared: str, options: str, tmp_path: Path) -> None:
    assert not [
        f for f in judged(tmp_path, variables(declared, options)).open if f.rule in ("SBX107", "SBX401", "SBX901")
    ]


def test_too_many_choices_are_a_gap(tmp_path: Path) -> None:
    tests = "".join(f"{{% if ref[{n}:] == 'x' ~ '{n}' %}}{n}{{% endif %}}" for n in range(10))
    assert judged(tmp_path, variables(REF, f'user: "1{tests}"')).gaps
    assert not judged(tmp_path, variables(REF, f'command: [echo, "h{tests}"]')).gaps
    every = ", ".join(f"v{n}" for n in range(300))
    assert judged(tmp_path, variables(f"m: {{type: string, enum: [{every}], default: v0}}", "hostname: '{{ m }}'")).gaps
