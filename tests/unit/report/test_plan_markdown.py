"""The Markdown of a plan: whole, within its bound, and safe against what profiles hold."""

from __future__ import annotations

import re

import pytest

from sandboxrun.plan.planner import Options, make_plan
from sandboxrun.report.markdown import LIMIT, escaped, fenced
from sandboxrun.report.plan import plan_markdown
from sandboxrun.spec.types import freeze
from tests.unit.plan.world import declared, ended, observed, profile, snapshot

HOSTILE = "a|b`c```</details></code><script>@octocat\n| x |\r\n# h [l](https://example.com) <!-- --> \x1b[2J ~~~"


def test_the_whole_of_a_small_one() -> None:
    lint = declared("lint", environment=freeze({"CI": "1"}))
    tests = declared("tests", user="2000:2000")
    live = snapshot(
        observed(lint, environment=freeze({"CI": "0"})),
        observed(declared("tests")),
        observed(declared("old"), ended(3)),
    )
    plan = make_plan(profile(lint, tests), live)
    assert plan_markdown(plan) == "\n".join(
        [
            "<!-- sandboxrun plan review -->",
            "### sandboxrun plan: <code>review</code>",
            "",
            "**Plan&#58; 2 to add, 0 to change, 3 to destroy&#46;**",
            "",
            "| | Resource | What happens | Why |",
            "| --- | --- | --- | --- |",
            "| <code>-&#47;&#43;</code> | <code>sandbox lint</code> | must be replaced "
            "| environment forces replacement |",
            "| <code>-&#47;&#43;</code> | <code>sandbox tests</code> | must be replaced | user forces replacement |",
            "| <code>-</code> | <code>sandbox old</code> | will be torn down | no longer declared |",
            "",
            "",
            "#### Widens what sandboxes may do",
            "",
            "- tests now runs as 2000&#58;2000, was 1000&#58;1000&#58; "
            "files of that user are its own &#40;maybe wider&#41;",
            "",
            "",
            "#### Changed outside sandboxrun since the last apply",
            "",
            "<code>sandbox lint</code>",
            "",
            "```diff",
            "! environment:",
            '!     CI: "1" -> "0"',
            "```",
            "",
            "<details><summary><code>-&#47;&#43; sandbox lint</code> must be replaced</summary>",
            "",
            "```diff",
            "! environment:  # forces replacement, changed on the engine",
            '!     CI: "0" -> "1"',
            "```",
            "",
            "</details>",
            "",
            "<details><summary><code>-&#47;&#43; sandbox tests</code> must be replaced</summary>",
            "",
            "```diff",
            '! user: "1000:1000" -> "2000:2000"  # forces replacement',
            "```",
            "",
            "</details>",
            f"<sub><code>{plan.digest.replace(':', '&#58;')}</code></sub>",
            "",
        ]
    )


def test_no_changes() -> None:
    lint = declared("lint")
    shown = plan_markdown(make_plan(profile(lint), snapshot(observed(lint))))
    assert "**No changes&#46; What runs matches the profile &#40;review&#41;&#46;**" in shown
    assert "| |" not in shown and "<details>" not in shown


def outside_fences(text: str) -> str:
    """The text less its code blocks, found as CommonMark finds them."""
    kept, fence = [], ""
    for line in text.split("\n"):
        opened = re.fullmatch("(`{3,})diff", line)
        if fence:
            fence = "" if re.fullmatch(f"`{{{len(fence)},}} *", line) else fence
        elif opened:
            fence = opened[1]
        else:
            kept.append(line)
    assert not fence, "a code block is not closed"
    return "\n".join(kept)


def test_nothing_that_a_profile_wrote_is_markup() -> None:
    agent = declared("agent", HOSTILE, command=("sh", "-c", HOSTILE), environment=freeze({HOSTILE: HOSTILE}))
    was = declared("agent", HOSTILE, environment=freeze({HOSTILE: "x"}))
    drifted = observed(was, applied=agent.spec)
    failed = observed(declared("b"), ended(1, error=HOSTILE))
    for plan in (
        make_plan(profile(agent), snapshot(failed)),
        make_plan(profile(agent), snapshot(drifted)),
        make_plan(profile(agent, declared("b")), snapshot(drifted, failed)),
    ):
        shown = plan_markdown(plan)
        plain = outside_fences(shown)
        assert "\x1b" not in shown and "\r" not in shown
        for mark in ("@octocat", "<script", "[l](", "https://", "```", "~~~", "| x |"):
            assert mark not in plain
        rest = re.sub(r"<!-- sandboxrun plan review -->|<!-- -->&#64;<!-- -->", "", plain)
        tags = set(re.findall(r"<[^>]*>", rest))
        assert tags <= {"<code>", "</code>", "<sub>", "</sub>", "<details>", "</details>", "<summary>", "</summary>"}
        assert plain.count("<details>") == plain.count("</details>") == plain.count("<summary>")
        rows = [line for line in plain.split("\n") if line.startswith("| <code>")]
        assert rows and all(row.count("|") == 5 for row in rows)


@pytest.mark.parametrize("text", [HOSTILE, "`" * 50, "````diff", "</details>"])
def test_a_code_block_is_closed_by_its_own_fence_only(text: str) -> None:
    block = fenced([text, "last"])
    assert outside_fences(f"before\n{block}after") == "before\nafter"


def test_escaped_keeps_the_text() -> None:
    import html

    text = "a <b> & \"c\" 'd' | `e` *f* _g_ ~h~ [i](j) #1 @k \\ ü 漢"
    assert html.unescape(escaped(text)).replace("<!-- -->", "") == text
    assert not set(escaped(text).replace("<!-- -->", "")) & set("<>|`*_~[]()@\\\"'")


def test_a_large_plan_is_cut_with_a_note() -> None:
    many = [declared("agent", f"task-{n:04}", environment=freeze({"LONG": "x" * 3000})) for n in range(400)]
    shown = plan_markdown(make_plan(profile(*many), snapshot()))
    assert 50_000 < len(shown) <= LIMIT
    assert re.search(r"\*\*\d+ of the changes' options are left out here\*\*", shown)
    assert "**Plan&#58; 400 to add, 0 to change, 0 to destroy&#46;**" in shown
    outside_fences(shown)


def test_even_the_lines_of_a_very_large_plan_are_cut() -> None:
    many = [declared("agent", "|" * 200 + str(n), command=("x",)) for n in range(800)]
    shown = plan_markdown(make_plan(profile(*many), snapshot()))
    assert len(shown) <= LIMIT
    assert "of the changes' lines are left out here" in shown


def test_one_long_value_is_cut_where_it_stands() -> None:
    shown = plan_markdown(make_plan(profile(declared("a", command=("x" * 50_000,))), snapshot()))
    assert "… (50000 characters, sha256:" in shown and len(shown) < 5_000


def test_secrets_are_masked_and_refresh_only_has_no_table() -> None:
    a = declared("a", environment=freeze({"T": "hunter2-secret"}))
    p = profile(a, sensitive=frozenset({"hunter2-secret"}))
    live = snapshot(observed(a, environment=freeze({"T": "hunter2-secret-old"})))
    for options in (Options(), Options(refresh_only=True)):
        shown = plan_markdown(make_plan(p, live, options))
        assert "hunter2" not in shown and "(sensitive value)" in shown
    assert "| --- |" not in shown and "Changed outside" in shown


def test_what_is_new_says_why() -> None:
    shown = plan_markdown(make_plan(profile(declared("a")), snapshot(networks=())))
    rows = [line for line in shown.splitlines() if line.startswith("| <code>")]
    assert rows == [
        f"| <code>&#43;</code> | <code>{what}</code> | will be created | declared, and not there |"
        for what in ("network default", "sandbox a")
    ]
