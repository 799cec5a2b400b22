"""What a gateway's records come to, and what is told when some of them are gone."""

from __future__ import annotations

import json

import pytest

from sandboxrun.evidence.parts import Counted

READY = {"event": "ready", "digest": "sha256:0"}
ASKED = {"event": "request", "verdict": "denied", "host": "example.com", "port": 443}


@pytest.mark.parametrize(
    ("records", "served", "whole"),
    [
        ([READY, ASKED], True, True),
        ([READY, ASKED, READY, ASKED], True, True),  # it was started again, and its log was kept
        ([ASKED, READY, ASKED], True, False),  # the log's first file is gone
        ([ASKED], False, False),
        ([], False, None),
    ],
)
def test_a_log_whose_beginning_is_gone_is_not_whole(
    records: list[dict[str, object]], served: bool, whole: bool | None
) -> None:
    counted = Counted()
    for record in records:
        counted.add(json.dumps(record).encode())
    assert (counted.served, counted.whole) == (served, whole)


@pytest.mark.parametrize(("event", "faulty", "spent"), [("fault", True, False), ("budget", False, True)])
def test_a_gateway_that_lost_records_or_refused_the_rest_is_told(event: str, faulty: bool, spent: bool) -> None:
    counted = Counted()
    for record in (READY, ASKED, {"event": event}, {"event": "stopped"}):
        counted.add(json.dumps(record).encode())
    assert (counted.faulty, counted.spent, counted.whole) == (faulty, spent, True)


STOPPED = {"event": "stopped", "unrecorded": 0}


@pytest.mark.parametrize(
    ("records", "cut_off"),
    [
        ([READY, ASKED, STOPPED], False),
        ([READY, STOPPED, READY, ASKED, STOPPED], False),  # started again by an apply
        ([READY, {"event": "died", "code": 1}, STOPPED], False),  # HAProxy was; the gateway has told it
        ([READY, ASKED], True),  # killed while it stopped
        ([READY], True),
        ([READY, ASKED, READY, STOPPED], True),  # killed, and started again
        ([{"event": "rules-refused"}], False),  # it never served, which is told as that
        ([], False),
    ],
)
def test_a_gateway_that_was_killed_is_told(records: list[dict[str, object]], cut_off: bool) -> None:
    counted = Counted()
    for record in records:
        counted.add(json.dumps(record).encode())
    assert counted.cut_off is cut_off


def test_a_name_that_was_refused_has_no_port() -> None:
    counted = Counted()
    for host, port in (("evil.example.net", 0), ("api.example.com", 8443), ("", 0), ("evil.example.net", 0)):
        counted.add(json.dumps({**ASKED, "host": host, "port": port}).encode())
    assert counted.result.denied_targets == ("evil.example.net", "api.example.com:8443", "?:?")


def test_what_would_open_each_is_known_by_its_reason() -> None:
    counted = Counted()
    for host, port, reason, address in (
        ("paste.example.net", 0, "host", ""),
        ("api.example.com", 8443, "port", ""),
        ("db.example.com", 5432, "private", "10.1.2.3"),
        ("far.example.com", 443, "reserved", "169.254.169.254"),
        ("api.example.com", 80, "method", ""),
    ):
        counted.add(json.dumps({**ASKED, "host": host, "port": port, "reason": reason, "address": address}).encode())
    told = counted.result
    assert (told.denied, len(told.denied_targets)) == (5, 5)
    assert told.unlisted_targets == ("paste.example.net", "api.example.com:8443")
    assert told.private_addresses == ("10.1.2.3",)


def test_allowed_requests_that_found_no_host_are_counted() -> None:
    counted = Counted()
    for reason in ("", "unresolved", "unreachable", "timeout", "idle", "stopped"):
        counted.add(json.dumps({**ASKED, "verdict": "allowed", "reason": reason}).encode())
    assert (counted.result.allowed, counted.result.failed) == (6, 3)
