"""The plan's text, whole: what a user reads before saying yes."""

from __future__ import annotations

from msgspec import structs

from sandboxrun.errors import MASK, Diagnostic, mask, redact
from sandboxrun.plan.planner import Options, make_destroy_plan, make_plan
from sandboxrun.plan.text import warnings
from sandboxrun.spec.option_types import PUBLIC
from sandboxrun.spec.state import Completed, Created, Image, ImageConfig
from sandboxrun.spec.types import freeze
from tests.unit.plan.world import HELPER, NODE, declared, ended, network, observed, profile, snapshot

LINT = declared("lint", command=("npm", "run", "lint"), environment=freeze({"CI": "1"}))
TESTS = declared("agent", "tests", mem_limit=2**30)


def text(plan: object) -> list[str]:
    return str(plan).split("\n")


def test_what_is_new_shows_the_options_that_matter() -> None:
    plan = make_plan(profile(LINT, TESTS), snapshot(networks=()))
    assert text(plan) == [
        "  + network default will be created",
        '      + driver_opts: {"com.docker.network.bridge.enable_icc": "false"}',
        "",
        "  + sandbox lint will be created",
        '      + image:        "node:20-alpine"',
        '      + command:      ["npm", "run", "lint"]',
        '      + user:         "1000:1000"',
        '      + environment:  {"CI": "1"}',
        '      + mem_limit:    "512m"',
        "      + cpus:         1",
        "      + pids_limit:   256",
        '      + network_mode: "bridge"',
        '      + networks:     ["default"]',
        "      # every other option at its closed default: see sandboxrun render",
        "",
        '  + sandbox agent["tests"] will be created',
        '      + image:        "node:20-alpine"',
        '      + user:         "1000:1000"',
        '      + mem_limit:    "1g"',
        "      + cpus:         1",
        "      + pids_limit:   256",
        '      + network_mode: "bridge"',
        '      + networks:     ["default"]',
        "      # every other option at its closed default: see sandboxrun render",
        "",
        "Plan: 3 to add, 0 to change, 0 to destroy.",
    ]


def test_what_it_reaches_is_always_told() -> None:
    lines = text(make_plan(profile(declared("a", egress=PUBLIC)), snapshot(networks=(), helper=HELPER)))
    assert lines[0] == "  + network egress will be created"
    assert ["+", "egress:", '"open"'] in [line.split() for line in lines]
    remark = "      # with a network and a gateway of its own, its only way out: <container>.net, <container>.gateway"
    assert remark in lines
    closed = text(make_plan(profile(declared("a", network_mode="none")), snapshot(networks=())))
    assert remark not in closed


def test_what_another_option_says_already_is_left_out() -> None:
    alone = declared("alone", network_mode="none", mem_limit=2**30, memswap_limit=2**31)
    assert text(make_plan(profile(alone), snapshot(networks=())))[1:-3] == [
        '      + image:         "node:20-alpine"',
        '      + user:          "1000:1000"',
        '      + mem_limit:     "1g"',
        '      + memswap_limit: "2g"',
        "      + cpus:          1",
        "      + pids_limit:    256",
        '      + network_mode:  "none"',
    ]


def test_a_root_without_a_bound_is_remarked_on() -> None:
    remark = "# its root may fill the engine's disk: storage_opt: {size: …} bounds it where the engine has quotas"
    for quota, said in ((freeze({}), True), (freeze({"size": "1g"}), False)):
        open_ = declared("a", network_mode="none", read_only=False, storage_opt=quota)
        lines = text(make_plan(profile(open_), snapshot(networks=())))
        assert (f"      {remark}" in lines) == said


def test_nothing_to_do() -> None:
    assert text(make_plan(profile(LINT), snapshot(observed(LINT)))) == [
        "No changes. What runs matches the profile (review)."
    ]


def test_an_update_in_place_a_replacement_and_a_teardown() -> None:
    lint = declared("lint", command=("npm", "run", "lint"), mem_limit=2**30, memswap_limit=2**30)
    agent = declared("agent", "tests", user="2000:2000", environment=freeze({"A": "1", "C": "3"}))
    was = declared("agent", "tests", environment=freeze({"A": "1", "B": "2"}))
    old = declared("old")
    live = snapshot(observed(declared("lint", command=("npm", "run", "lint"))), observed(was), observed(old, ended(3)))
    assert text(make_plan(profile(lint, agent), live)) == [
        "  ~ sandbox lint will be updated in place",
        '      ~ mem_limit:     "512m" -> "1g"',
        '      ~ memswap_limit: "512m" -> "1g"',
        "",
        '-/+ sandbox agent["tests"] must be replaced',
        '      ~ user:        "1000:1000" -> "2000:2000"  # forces replacement',
        "      ~ environment:  # forces replacement",
        '          - B: "2"',
        '          + C: "3"',
        "",
        "  - sandbox old will be torn down (no longer declared)",
        "",
        "This plan widens what sandboxes may do:",
        "  + lint may now use memory: 1g, was 512m",
        '  + agent["tests"] now runs as 2000:2000, was 1000:1000: files of that user are its own (maybe wider)',
        "",
        "Plan: 1 to add, 1 to change, 2 to destroy.",
    ]


def test_what_a_plan_widens_is_told() -> None:
    running = observed(declared("agent", read_only=True))
    plan = make_plan(profile(declared("agent", read_only=False, mem_limit=2**30)), snapshot(running))
    assert text(plan)[-5:-1] == [
        "This plan widens what sandboxes may do:",
        "  + agent may now write to its root filesystem",
        "  + agent may now use memory: 1g, was 512m",
        "",
    ]
    narrower = make_plan(profile(declared("agent", mem_limit=2**28)), snapshot(running))
    assert "This plan widens what sandboxes may do:" not in text(narrower)


def test_what_a_new_sandbox_opens_is_told() -> None:
    """What is closed by default; more of what it has anyway is not."""
    weak = declared("agent", user="root", read_only=False, cap_add=("NET_RAW",), mem_limit=2**31)
    plan = make_plan(profile(weak), snapshot())
    assert text(plan)[-6:-2] == [
        "This plan creates sandboxes that are more open than the defaults:",
        "  ! agent has the capabilities NET_RAW",
        "  ! agent runs as root (root)",
        "  ! agent may write to its root filesystem",
    ]
    assert "more open" not in str(make_plan(profile(declared("agent", mem_limit=2**31)), snapshot()))


def test_drift_comes_first_and_is_put_right() -> None:
    live = snapshot(observed(LINT, environment=freeze({"CI": "0"})), observed(TESTS, mem_limit=2**29))
    assert text(make_plan(profile(LINT, TESTS), live)) == [
        "Changed outside sandboxrun since the last apply:",
        "",
        "  ~ sandbox lint",
        "      ~ environment:",
        '          ~ CI: "1" -> "0"',
        "",
        '  ~ sandbox agent["tests"]',
        '      ~ mem_limit: "1g" -> "512m"',
        "",
        "-/+ sandbox lint must be replaced",
        "      ~ environment:  # forces replacement, changed on the engine",
        '          ~ CI: "0" -> "1"',
        "",
        '  ~ sandbox agent["tests"] will be updated in place',
        '      ~ mem_limit: "512m" -> "1g"  # changed on the engine',
        "",
        "This plan widens what sandboxes may do:",
        '  + agent["tests"] may now use memory: 1g, was 512m',
        "",
        "Plan: 1 to add, 1 to change, 1 to destroy.",
    ]


def test_refresh_only_shows_drift_and_nothing_else() -> None:
    live = snapshot(observed(TESTS, mem_limit=2**29))
    assert text(make_plan(profile(TESTS), live, Options(refresh_only=True))) == [
        "Changed outside sandboxrun since the last apply:",
        "",
        '  ~ sandbox agent["tests"]',
        '      ~ mem_limit: "1g" -> "512m"',
        "",
        "Nothing is changed by this: a plan that is not for refreshing only shows how it would be put right.",
    ]
    same = make_plan(profile(TESTS), snapshot(observed(TESTS)), Options(refresh_only=True))
    assert text(same) == ["No drift. What runs is as it was applied (review)."]


def test_how_sandboxes_ended_is_said() -> None:
    a, b, c, d = (declared(name) for name in "abcd")
    live = snapshot(
        observed(a, ended(0)), observed(b, ended(137, oom=True)), observed(c, ended(2)), observed(d, Created())
    )
    assert text(make_plan(profile(a, b, c, d), live)) == [
        "  - sandbox a will be torn down (completed)",
        "",
        "  - sandbox b will be torn down (killed for exceeding its memory limit)",
        "",
        "  - sandbox c will be torn down (exited with 2)",
        "",
        "-/+ sandbox d must be replaced (made, but never started)",
        "",
        "Plan: 1 to add, 0 to change, 4 to destroy.",
    ]


def test_what_has_run_already_is_told_with_how_to_run_it_again() -> None:
    record = {
        LINT.address: freeze({LINT.spec.digest: Completed(outcome="exited", exit_code=0, run="0123456789abcdef")})
    }
    plan = make_plan(profile(LINT), snapshot(networks=(), completed=record))
    assert text(plan) == [
        "    sandbox lint: exited with 0 in run 0123456789ab; Options(rerun=True) runs it again",
        "",
        "No changes. Everything has run already (review).",
    ]
    again = make_plan(profile(LINT), snapshot(completed=record), Options(rerun=True))
    assert text(again)[0] == (
        "  + sandbox lint will be created (asked to run again; exited with 0 in run 0123456789ab)"
    )


def test_an_ended_sandbox_whose_profile_changed_shows_what_changed() -> None:
    now = declared("lint", cpus=2.0)
    was = declared("lint")
    assert text(make_plan(profile(now), snapshot(observed(was, ended(1))))) == [
        "-/+ sandbox lint must be replaced (exited with 1; the profile has changed)",
        "      ~ cpus: 1 -> 2",
        "",
        "This plan widens what sandboxes may do:",
        "  + lint may now use CPUs: 2, was 1",
        "",
        "Plan: 1 to add, 0 to change, 1 to destroy.",
    ]


def test_images_are_pulled_and_a_moved_tag_is_named() -> None:
    missing = {"node:20-alpine": Image(config=None, digest="sha256:" + "b" * 64)}
    plan = make_plan(profile(declared("a")), snapshot(images=missing))
    assert text(plan)[0] == f"  + image node:20-alpine will be pulled (sha256:{'b' * 64})"
    silent = {"node:20-alpine": Image(config=None, note="no such host")}
    unasked = make_plan(profile(declared("a")), snapshot(images=silent))
    assert text(unasked)[0] == (
        "  + image node:20-alpine will be pulled (the registry could not be asked: no such host)"
    )
    unknown = {"node:20-alpine": Image(config=None)}
    plan = make_plan(profile(declared("a")), snapshot(images=unknown))
    assert text(plan)[0] == "  + image node:20-alpine will be pulled (its registry does not know it)"
    assert plan.digest == unasked.digest  # what a registry answers today makes no plan stale
    moved = {"node:20-alpine": Image(config=ImageConfig(id="sha256:" + "c" * 64))}
    a = declared("a")
    assert text(make_plan(profile(a), snapshot(observed(a), images=moved))) == [
        "-/+ sandbox a must be replaced (its tag means another image now)",
        f'      ~ image: "node:20-alpine ({NODE[7:19]})" -> "node:20-alpine (cccccccccccc)"'
        "  # forces replacement, the tag has moved to another image",
        "",
        "Plan: 1 to add, 0 to change, 1 to destroy.",
    ]


def test_destroy() -> None:
    live = snapshot(observed(LINT), networks=(network(), network("x")))
    assert text(make_destroy_plan(profile(LINT), live)) == [
        "  - network default will be removed (no sandbox uses it)",
        "",
        "  - network x will be removed (no sandbox uses it)",
        "",
        "  - sandbox lint will be torn down",
        "",
        "Plan: 0 to add, 0 to change, 3 to destroy.",
    ]
    assert text(make_destroy_plan(profile(LINT), snapshot(networks=()))) == [
        "Nothing to destroy. The engine has nothing of review."
    ]


def test_sensitive_values_are_masked_wherever_they_are() -> None:
    secret = "hunter2-secret"
    a = declared("a", environment=freeze({"TOKEN": secret}), command=("run", f"--token={secret}"), pids_limit=4321)
    was = declared("a", environment=freeze({"TOKEN": f"old {secret}"}))
    p = profile(a, sensitive=frozenset({secret, "4321"}))
    new, changed = make_plan(p, snapshot()), make_plan(p, snapshot(observed(was)))
    failed = make_plan(p, snapshot(observed(a, ended(127, error=f'exec: "{secret}": not found'))))
    for plan in (new, changed, failed):
        assert secret not in str(plan)
        assert "4321" not in str(plan)
        assert MASK in str(plan)
    assert '      + command:      ["run", "(sensitive value)"]' in text(new)
    assert '  - sandbox a will be torn down (exec: "(sensitive value)": not found)' in text(failed)


def test_what_a_profile_or_the_engine_wrote_cannot_break_out_of_its_line() -> None:
    a = declared("agent", "x\n  + sandbox forged\x1b[2J\u202e", command=("echo", "\x1b]52;c;eA==\x07\n"))
    plan = str(make_plan(profile(a), snapshot(observed(declared("b"), ended(1, error="no\nsuch\tfile\r")))))
    assert "\x1b" not in plan and "\r" not in plan and "\u202e" not in plan and "\t" not in plan
    assert '  + sandbox agent["x\\n  + sandbox forged\\x1b[2J\\u202e"] will be created' in plan.split("\n")
    assert not any(line.startswith("  + sandbox forged") for line in plan.split("\n"))


def test_mask_reaches_every_depth_and_keeps_short_values_apart() -> None:
    value = {"a": ["x-secret", {"b": ("secret",)}], "n": 12, "t": True, "none": None, "f": 1.5}
    assert mask(value, frozenset({"secret", "12", "1.5", "True"})) == {
        "a": [MASK, {"b": [MASK]}], "n": MASK, "t": True, "none": None, "f": MASK,
    }  # fmt: skip
    assert mask(["ab", "about"], frozenset({"ab", ""})) == [MASK, "about"]
    assert redact("ab is in a secret sentence", frozenset({"ab", "secret", ""})) == (
        "ab is in a (sensitive value) sentence"
    )
    assert redact("ab", frozenset({"ab"})) == MASK


def test_the_same_state_gives_the_same_digest() -> None:
    live = snapshot(observed(LINT), networks=())
    again = snapshot(observed(LINT, run="f" * 32), networks=())
    first, second = make_plan(profile(LINT, TESTS), live), make_plan(profile(LINT, TESTS), again)
    assert first.digest == second.digest
    one_off = observed(declared("lint"), one_off=True)
    assert make_plan(profile(LINT, TESTS), snapshot(observed(LINT), one_off, networks=())).digest == first.digest
    assert make_plan(profile(LINT, TESTS), snapshot(observed(LINT, ended()), networks=())).digest != first.digest


def test_a_warning_of_several_sandboxes_is_told_once_with_their_names() -> None:
    several = [declared("agent", each) for each in "abcde"]
    made = make_plan(profile(LINT, *several), snapshot(networks=()))
    about = [Diagnostic(message=f"{s.address}: no gateway", severity="warning", help="add one") for s in several]
    other = [Diagnostic(message="lint: no image"), Diagnostic(message="nobody: no gateway", severity="warning")]
    found = warnings(structs.replace(made, warnings=(about[0], other[0], *about[1:2], other[1])))
    assert [w.message for w in found] == ['agent["a"], agent["b"]: no gateway', "lint: no image", "nobody: no gateway"]
    assert (found[0].severity, found[0].help) == ("warning", "add one")
    (one,) = warnings(structs.replace(made, warnings=tuple(about)))
    assert one.message == 'agent["a"], agent["b"], agent["c"] and 2 more: no gateway'
