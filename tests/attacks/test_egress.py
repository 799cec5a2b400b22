"""Attacks of sandboxes that have a gateway: each is stopped, reaches nobody, and wins in the weak sandbox."""

from __future__ import annotations

import contextlib
import json
import re

import pytest

from scripts import engine
from tests.attacks.inside.record import Attack
from tests.attacks.outside import EGRESS, Outside
from tests.attacks.shipping import attacks, controlled
from tests.attacks.world import METADATA, OTHER, PRIVATE, SERVER, TCP
from tests.engine.world import leads_nowhere


@pytest.mark.parametrize("one", attacks(*EGRESS), ids=lambda one: one.name)
def test_stopped(one: Attack, outside: Outside) -> None:
    assert re.search(rf"^held: .*({one.held})", outside.caged.get(one.name, "never ran"))


@pytest.mark.parametrize("one", controlled(*EGRESS), ids=lambda one: one.name)
def test_wins_in_the_weak_sandbox(one: Attack, outside: Outside) -> None:
    assert outside.weak.get(one.name, "never ran").startswith("won: ")


def test_nothing_reached_whom_it_must_not(outside: Outside) -> None:
    """By the words of those who were to be reached."""
    assert {name for name in outside.saw_caged.reached if not name.startswith(SERVER)} == set()
    assert outside.saw_caged.datagrams == ()
    weak = outside.saw_weak.reached
    assert all(weak.get(f"{address}:{port}") for address, port in ((OTHER, 443), (PRIVATE, 80), (METADATA, 80)))
    assert weak.get(f"0.0.0.0:{TCP}") and outside.saw_weak.datagrams


def test_a_host_that_filters_no_paths_hears_shouts(outside: Outside) -> None:
    """What is not defended, as SECURITY.md and doctor say it: were it otherwise, their words would have to change.

    Where a newer engine gives the sandbox no default route, it can't."""
    with contextlib.closing(engine.client()) as client:
        assert (b"shout" in outside.saw_unfiltered.datagrams) is not leads_nowhere(client)
    assert outside.saw_unfiltered.reached == {}


def test_no_name_server_was_asked_what_carries_something_out(outside: Outside) -> None:
    assert [name for name in outside.saw_caged.asked if "evil" in name or "secret" in name] == []
    assert "api.example.com" in outside.saw_caged.asked
    assert [name for name in outside.saw_weak.asked if "secret" in name] != []


def test_records_tell_all_of_it(outside: Outside) -> None:
    records = [json.loads(line) for line in outside.records["allow"].splitlines()]
    requests = [record for record in records if record["event"] == "request"]
    allowed = {record["host"] for record in requests if record["verdict"] == "allowed" and record["address"]}
    assert allowed <= {"api.example.com"}
    denied = {record["host"] for record in requests if record["verdict"] == "denied"}
    assert {"evil.example.net", "metadata.example.com", "private.example.com", "host.example.com"} <= denied
    assert {record["host"] for record in requests} >= {
        f"flood-{n}.{'x' * 60}.{'y' * 60}.example.net" for n in range(300)
    }
    assert "forged.example.net" not in {record.get("host") for record in records}
