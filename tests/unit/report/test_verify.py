"""A verification's reports: whole texts, and what they do with hostile ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from msgspec import structs

from sandboxrun import __version__
from sandboxrun.probe.verdicts import Finding, Verdict
from sandboxrun.report.markdown import LIMIT
from sandboxrun.report.verify import LONGEST, Report, counted, verify_json, verify_markdown, verify_text
from tests.unit.plan.world import declared, profile

SCHEMA = json.loads((Path(__file__).parents[3] / "schemas" / "verify.schema.json").read_text())
HOSTILE = "a|b`c```</details></code><script>@octocat\n| x |\r\n# h [l](https://example.com) <!-- --> \x1b[2J"


def finding(control: str, verdict: Verdict = Verdict.HOLDS, **changed: Any) -> Finding:
    values = {
        "sandbox": "agent",
        "title": f"{control} is limited",
        "field": f"HostConfig.{control.title()}",
        "expected": "512m",
        "seen": "512m",
        **changed,
    }
    return Finding(control=control, verdict=verdict, **values)


FOUND = (
    finding("memory"),
    finding("pids", Verdict.FAILS, expected="256", seen="no limit"),
    finding("cpuset", Verdict.NOT_APPLICABLE, expected="", seen="", note="the profile binds it to no CPUs"),
    finding("network", Verdict.INCONCLUSIVE, seen="", note="the weak sandbox shows no difference: nothing was seen"),
    finding("memory", sandbox='agent["lint"]', note="declared open: no limit"),
)


def of(*findings: Finding, running: bool = False, sensitive: frozenset[str] = frozenset()) -> Report:
    return Report.of(profile(project="review", sensitive=sensitive), findings, running=running)


REPORT = of(*FOUND)


def test_the_whole_text() -> None:
    assert verify_text(REPORT) == "\n".join(
        [
            "agent: 1 holds, 1 does not hold, 1 inconclusive, 1 not applicable",
            "CONTROL  ENGINE FIELD        EXPECTED  SEEN      VERDICT",
            "pids     HostConfig.Pids     256       no limit  does not hold",
            "network  HostConfig.Network  512m                inconclusive: the weak sandbox shows no difference: "
            "nothing was seen",
            "memory   HostConfig.Memory   512m      512m      holds",
            "cpuset   HostConfig.Cpuset                       not applicable: the profile binds it to no CPUs",
            "",
            'agent["lint"]: 1 holds, 0 do not hold, 0 inconclusive, 0 not applicable',
            "CONTROL  ENGINE FIELD       EXPECTED  SEEN  VERDICT",
            "memory   HostConfig.Memory  512m      512m  holds: declared open: no limit",
            "",
            "agent, pids: does not hold (pids is limited)",
            "    expected: 256",
            "    seen:     no limit",
            "    to do:    the engine does not enforce it: `sandboxrun doctor` shows what it offers, "
            "docs/verify.md how pids is seen",
            "agent, network: inconclusive (network is limited)",
            "    expected: 512m",
            "    seen:     -",
            "    note:     the weak sandbox shows no difference: nothing was seen",
            "    to do:    what is unknown counts as not enforced; docs/verify.md explains how network is seen",
            "",
            "2 hold, 1 does not hold, 1 inconclusive, 1 not applicable (review)",
        ]
    )


def test_what_the_profile_opens_comes_first() -> None:
    options = {"user": "root", "cap_add": ("NET_ADMIN",), "read_only": False}
    agent = declared("agent", network_mode="none", **options)
    holds = (finding("memory"), finding("capabilities", note="declared open: +NET_ADMIN"))
    found = (*holds, *(structs.replace(f, sandbox="agent (run 0123456789ab)") for f in holds))
    report = Report.of(profile(agent, declared("lint")), found, running=True)
    said = verify_text(report)
    first, *opened = said.split("\n\n")[0].split("\n")
    assert first == "The profile opens what the defaults close:"
    assert {line.split()[1] for line in opened} == {"agent"} and len(opened) == len(set(opened)) >= 6
    assert any("root" in line for line in opened) and any("NET_ADMIN" in line for line in opened)
    assert [f.control for f in report.parts[0].findings] == ["capabilities", "memory"]
    document = verify_json(report)
    jsonschema.validate(document, SCHEMA)
    assert [f"  ! agent {line}" for line in document["sandboxes"][0]["opened"]] == opened[: len(opened) // 2]
    comment = verify_markdown(report)
    assert (
        comment.index("The profile opens") < comment.index("<details>") and "agent has the capabilities NET" in comment
    )
    closed = Report.of(profile(declared("agent")), holds, running=True)
    assert "opens" not in verify_text(closed) and "opens" not in verify_markdown(closed)


def test_a_narrow_terminal_has_a_list() -> None:
    said = verify_text(of(*FOUND[:3]), width=60)
    assert said.startswith(
        "\n".join(
            [
                "agent: 1 holds, 1 does not hold, 0 inconclusive, 1 not applicable",
                "! pids: does not hold",
                "    expected 256, seen no limit",
                "+ memory: holds",
                "    expected 512m, seen 512m",
                "- cpuset: not applicable: the profile binds it to no CPUs",
                "",
            ]
        )
    )


@pytest.mark.parametrize("width", [None, 60])
def test_colours_add_nothing_but_colours(width: int | None) -> None:
    import re

    coloured = verify_text(REPORT, width=width, colour=True)
    assert coloured != verify_text(REPORT, width=width)
    assert re.sub("\x1b\\[[0-9;]*m", "", coloured) == verify_text(REPORT, width=width)


def test_the_whole_document() -> None:
    report = of(*FOUND[:2], running=True)
    summary = {"holds": 1, "does_not_hold": 1, "inconclusive": 0, "not_applicable": 0}
    document = verify_json(report)
    assert document == {
        "format_version": "1.1",
        "sandboxrun_version": __version__,
        "project": "review",
        "mode": "running",
        "verified": False,
        "summary": summary,
        "sandboxes": [
            {
                "sandbox": "agent",
                "verified": False,
                "summary": summary,
                "opened": [],
                "findings": [
                    {
                        "control": "pids",
                        "title": "pids is limited",
                        "field": "HostConfig.Pids",
                        "expected": "256",
                        "seen": "no limit",
                        "verdict": "does_not_hold",
                        "note": "",
                        "advice": "what runs does not match the profile: "
                        "run `sandboxrun apply --replace agent` to replace it",
                    },
                    {
                        "control": "memory",
                        "title": "memory is limited",
                        "field": "HostConfig.Memory",
                        "expected": "512m",
                        "seen": "512m",
                        "verdict": "holds",
                        "note": "",
                        "advice": "",
                    },
                ],
            }
        ],
    }
    jsonschema.validate(document, SCHEMA)


def test_the_schema_is_strict() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    document = verify_json(REPORT)
    jsonschema.validate(document, SCHEMA)
    for place in (document, document["sandboxes"][0], document["sandboxes"][0]["findings"][0], document["summary"]):
        place["more"] = 1
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(document, SCHEMA)
        del place["more"]


def test_the_whole_comment() -> None:
    report = of(*FOUND[:2])
    assert verify_markdown(report) == "\n".join(
        [
            "<!-- sandboxrun verify review -->",
            "### sandboxrun verify: <code>review</code>",
            "",
            "**not verified**: 1 holds, 1 does not hold, 0 inconclusive, 0 not applicable &#40;review&#41;",
            "",
            "| | Sandbox | Control | Expected | Seen | What to do |",
            "| --- | --- | --- | --- | --- | --- |",
            "| **does not hold** | <code>agent</code> | <code>pids</code> | 256 | no limit | the engine does not "
            "enforce it&#58; &#96;sandboxrun doctor&#96; shows what it offers, docs&#47;verify&#46;md how pids is seen "
            "|",
            "",
            "",
            "<details><summary><code>agent</code>: 1 holds, 1 does not hold, 0 inconclusive, 0 not applicable"
            "</summary>",
            "",
            "| | Control | Engine field | Expected | Seen |",
            "| --- | --- | --- | --- | --- |",
            "| **does not hold** | <code>pids</code> | HostConfig&#46;Pids | 256 | no limit |",
            "| holds | <code>memory</code> | HostConfig&#46;Memory | 512m | 512m |",
            "",
            "</details>",
            "",
        ]
    )


@pytest.mark.parametrize(
    ("findings", "verified"),
    [
        ((), False),  # nothing found is nothing verified
        (FOUND[:1], True),
        ((FOUND[0], FOUND[2]), True),
        (FOUND[:2], False),
        ((FOUND[0], FOUND[3]), False),
    ],
)
def test_unknown_never_counts_as_passed(findings: tuple[Finding, ...], verified: bool) -> None:
    assert of(*findings).verified is verified


def test_what_a_sandbox_wrote_is_told_harmlessly() -> None:
    hostile = finding(HOSTILE, Verdict.FAILS, seen=HOSTILE, sandbox=f'agent["{HOSTILE}"]', note=HOSTILE)
    report = of(hostile)
    text, document, comment = verify_text(report), json.dumps(verify_json(report)), verify_markdown(report)
    for said in (text, document, comment):
        assert "\x1b" not in said and "\r" not in said
    assert len(text.split("\n")) == len(verify_text(of(*FOUND[3:4])).split("\n"))
    assert comment.count("</details>") == comment.count("<details>") == 1
    assert "<script>" not in comment and "@octocat" not in comment and "](https" not in comment
    assert all(line.count("|") in (6, 7) for line in comment.split("\n") if line.startswith("| **"))
    jsonschema.validate(verify_json(report), SCHEMA)


def test_sensitive_values_are_masked_and_endless_ones_cut() -> None:
    long = finding("memory", Verdict.FAILS, seen="x" * 10 * LONGEST, expected="hunter22")
    report = of(long, sensitive=frozenset({"hunter22"}))
    for said in (verify_text(report), json.dumps(verify_json(report)), verify_markdown(report)):
        assert "hunter22" not in said and "x" * (LONGEST + 1) not in said


def test_what_is_sensitive_is_masked_before_a_text_is_cut() -> None:
    report = of(
        finding("memory", Verdict.FAILS, seen="x" * (LONGEST - 4) + "hunter22"), sensitive=frozenset({"hunter22"})
    )
    for said in (verify_text(report), json.dumps(verify_json(report)), verify_markdown(report)):
        assert "hunt" not in said


def test_two_sandboxes_whose_names_are_masked_stay_two() -> None:
    agents = tuple(declared(f'agent["{key}"]', read_only=False) for key in ("hunter21", "hunter22"))
    given = profile(*agents, sensitive=frozenset({"hunter21", "hunter22"}))
    told = verify_json(Report.of(given, [finding("memory", sandbox=one.address) for one in agents], running=False))
    assert [len(one["findings"]) for one in told["sandboxes"]] == [1, 1]
    assert all(one["opened"] for one in told["sandboxes"]) and "hunter" not in json.dumps(told)


def test_a_comment_is_never_too_long() -> None:
    many = tuple(
        finding(f"c{n}", Verdict.FAILS, seen="|" * LONGEST, sandbox=f"s{s}") for s in range(20) for n in range(40)
    )
    comment = verify_markdown(of(*many))
    assert len(comment) <= LIMIT
    assert "are left out here" in comment


def test_counts_agree_with_their_words() -> None:
    assert counted(FOUND[:1]) == "1 holds, 0 do not hold, 0 inconclusive, 0 not applicable"
    assert counted(FOUND) == "2 hold, 1 does not hold, 1 inconclusive, 1 not applicable"
