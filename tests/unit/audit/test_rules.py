"""Every rule on its own examples: the bad one is found where it is written, the good one is not.

What is printed of each bad example is in diagnostics.txt; SANDBOXRUN_DEV_UPDATE=1 writes it anew.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from sandboxrun.audit.finding import Rule
from sandboxrun.audit.rules import by_id, rules
from sandboxrun.audit.rules.image import BELOW, PERHAPS, below_floors
from sandboxrun.audit.rules.secrets import FORMS, form_of
from sandboxrun.report.audit import verdict_text
from tests.unit.audit.reviewing import names, reviewed, rules_of

WITH_EXAMPLES = [rule for rule in by_id().values() if rule.bad]


@pytest.mark.parametrize("rule", WITH_EXAMPLES, ids=names)
def test_the_bad_example_is_found_at_its_line(rule: Rule, tmp_path: Path) -> None:
    verdict = reviewed(tmp_path, rule.bad)
    assert verdict.gaps == () or rule.id == "SBX614"  # what is fetched from elsewhere is not audited either
    mine = [finding for finding in verdict.findings if finding.rule == rule.id]
    assert mine, rules_of(verdict)
    assert all(finding.span is not None for finding in mine)


@pytest.mark.parametrize("rule", WITH_EXAMPLES, ids=names)
def test_the_good_example_is_not(rule: Rule, tmp_path: Path) -> None:
    verdict = reviewed(tmp_path, rule.good)
    assert verdict.gaps == ()
    assert rule.id not in rules_of(verdict)


def test_what_is_printed_of_every_bad_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = []
    for rule in WITH_EXAMPLES:
        home = tmp_path / rule.id
        home.mkdir()
        monkeypatch.chdir(home)
        verdict = reviewed(Path(), rule.bad)
        mine = tuple(finding for finding in verdict.findings if finding.rule == rule.id)
        printed = verdict_text(msgspec.structs.replace(verdict, findings=mine, gaps=()))
        parts.append(f"== {rule.id} {rule.title}\n\n{printed}")
    told, file = "\n".join(parts), Path(__file__).with_name("diagnostics.txt")
    if os.environ.get("SANDBOXRUN_DEV_UPDATE"):
        file.write_text(told, encoding="utf-8")
    assert told == file.read_text(encoding="utf-8"), "SANDBOXRUN_DEV_UPDATE=1 writes tests/unit/audit/diagnostics.txt"


@pytest.mark.parametrize("rule", rules(), ids=names)
def test_every_rule_is_documented(rule: Rule) -> None:
    assert rule.why.endswith("."), rule.id
    assert rule.title[0].isupper()
    assert not rule.fix.endswith(".")
    assert not rule.fix[0].isupper()
    assert rule.references or rule.strict
    assert rule.bad and rule.good


def test_ids_are_unique_and_in_their_family() -> None:
    every = rules()
    assert len({rule.id for rule in every}) == len(every) > 90
    assert {rule.id[:3] for rule in every} == {"SBX"}


# One of each form, made up: joined, so that no scanner takes this file for a leak.
TOKENS = {
    "an AWS access key": "AKIA" + "0123456789ABCDEF",
    "a GitHub token": "ghp_" + "a1" * 20,
    "a GitLab token": "glpat-" + "a1" * 12,
    "a Slack token": "xoxb-" + "1234567890-abc",
    "a Slack webhook": "https://hooks.slack.com/services/" + "T0/B0/" + "a1" * 12,
    "a Google API key": "AIza" + "a1-" * 11 + "a1",
    "a key of an AI service": "sk-ant-" + "a1" * 20,
    "a Stripe key": "sk_live_" + "a1" * 12,
    "an npm token": "npm_" + "a1" * 18,
    "a PyPI token": "pypi-AgEIcHlwaS5vcmc" + "a1" * 30,
    "a Hugging Face token": "hf_" + "a1" * 17,
    "a Docker Hub token": "dckr_pat_" + "a1" * 12,
    "a SendGrid key": "SG." + "a1" * 11 + "." + "a1" * 20,
    "a private key": "-----BEGIN " + "RSA PRIVATE KEY-----",
    "a JSON web token": "eyJ" + "a1" * 6 + ".eyJ" + "a1" * 6 + "." + "a1" * 6,
    "an Azure storage key": "AccountKey=" + "a1" * 43 + "==",
    "a Google OAuth secret": "GOCSPX-" + "a1" * 14,
    "a Slack app token": "xapp-" + "1-A1B2-123-" + "a1" * 20,
    "a DigitalOcean token": "dop_v1_" + "a1" * 32,
    "a Vault token": "hvs." + "a1" * 14,
    "a Grafana token": "glsa_" + "a1" * 16 + "_" + "a1" * 4,
    "a Shopify token": "shpat_" + "a1" * 16,
    "an Atlassian token": "ATATT3" + "a1" * 40,
    "a Tailscale key": "tskey-" + "auth-" + "a1" * 8 + "-" + "a1" * 12,
    "a Postman key": "PMAK-" + "a1" * 12 + "-" + "a1" * 17,
    "a New Relic key": "NRAK-" + "A1" * 13 + "A",
    "a RubyGems key": "rubygems_" + "a1" * 24,
    "a Telegram token": "123456789" + ":AA" + "a1" * 16 + "b",
    "a Twilio key": "SK" + "a1" * 16,
    "an age key": "AGE-SECRET-KEY-1" + "A1" * 29,
    "an authorization header": "Bearer " + "a1b2" * 6,
}


@pytest.mark.parametrize("what", TOKENS)
def test_tokens_are_known_by_their_form(what: str) -> None:
    assert form_of(f"x {TOKENS[what]} y") == what


def test_every_form_has_an_example() -> None:
    assert TOKENS.keys() == FORMS.keys()


@pytest.mark.parametrize(
    ("source", "rule"), [("/etc", "SBX205"), ("~/.ssh", "SBX206"), ("/var/run", "SBX201"), ("/", "SBX205"), (".", None)]
)
@pytest.mark.parametrize("access", ["rw", "ro", "copy"])
def test_a_workspace_outside_of_the_project_is_a_mount(
    tmp_path: Path, source: str, access: str, rule: str | None
) -> None:
    found = reviewed(tmp_path, f"image: example\nworkspace: {{source: '{source}', access: {access}}}")
    rule = "SBX204" if rule == "SBX205" and access == "rw" else rule  # writable, not only readable
    kept = [(f.rule, f.key) for f in found.findings if f.rule in ("SBX201", "SBX204", "SBX205", "SBX206")]
    assert ((rule, "workspace") in kept) if rule else not kept


@pytest.mark.parametrize(
    ("version", "cves"),
    [
        ("1.0.0-rc6", "2019-5736 2021-30465 2024-21626 2025-31133 2025-52881"),
        ("1.0.0-rc95", "2024-21626 2025-31133 2025-52881"),
        ("1.1.11", "2024-21626 2025-31133 2025-52881"),
        ("1.1.15", "2025-31133 2025-52881"),
        ("1.2.7", "2025-31133 2025-52881"),
        ("1.2.8", ""),
        ("1.3.2", "2025-31133 2025-52881"),
        ("v1.3.3", ""),
        ("1.4.0-rc.2", "2025-31133 2025-52881"),
        ("1.4.0-rc.3", ""),
        ("1.4.0", ""),
        ("2.0.0", ""),
        ("unknown", "2019-5736 2021-30465 2024-21626 2025-31133 2025-52881"),
    ],
)
def test_floors_of_versions(version: str, cves: str) -> None:
    found = [(rule, floor.cve.removeprefix("CVE-")) for rule, floor, _ in below_floors({"runc": version})]
    assert [cve for _, cve in found] == cves.split()
    assert all(rule is BELOW for rule, _ in found)


def test_a_distribution_may_have_the_fix() -> None:
    for version in ("1.1.5+ds1", "1.1.5-0ubuntu1~22.04.1", "1.1.4-1.el9"):
        assert all(rule is PERHAPS for rule, _, _ in below_floors({"runc": version}))
    told = [message for _, _, message in below_floors({"Engine": "25.0.3", "containerd": "1.7.1"})]
    assert told == [
        "engine 25.0.3 has CVE-2024-29018: names asked for on an internal network reach name servers outside "
        "(fixed in 23.0.11, 25.0.5, 26.0.0)"
    ]
