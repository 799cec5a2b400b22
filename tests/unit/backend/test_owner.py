"""Whether a lock's owner still runs, and what a lock volume's labels say."""

from __future__ import annotations

import os
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from msgspec import structs

from sandboxrun.backend.docker import lease
from sandboxrun.backend.docker.lock import LEASE, claim_of
from sandboxrun.backend.errors import EngineError
from sandboxrun.backend.owner import clock_mark, clock_set_since, decode, this_process
from sandboxrun.spec import labels

SINCE = datetime(2026, 11, 24, 10, 0, 0, tzinfo=UTC)


def test_this_process_is_alive_and_survives_its_label() -> None:
    owner = this_process()
    assert not owner.is_gone
    assert decode(owner.encode()) == owner


def test_a_process_that_ended_is_gone_even_while_nobody_asked_for_its_status() -> None:
    child = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    stat = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
    owner = structs.replace(this_process(), pid=child.pid, started=int(stat[19]))
    assert not owner.is_gone
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert owner.is_gone  # a zombie
    child.communicate()
    assert owner.is_gone


def test_a_pid_that_was_given_again_is_gone() -> None:
    assert structs.replace(this_process(), started=1).is_gone


@pytest.mark.parametrize("kernel", ["", "another-boot/1"])
def test_of_another_machine_nothing_is_known(kernel: str) -> None:
    assert not structs.replace(this_process(), kernel=kernel, started=1).is_gone


@pytest.mark.parametrize("text", ["", "{", "{}", "[]", '{"kernel": "a", "pid": "x", "started": 1, "who": "b"}'])
def test_labels_that_name_nobody(text: str) -> None:
    assert decode(text) is None


def test_a_claim_lives_as_long_as_its_lease() -> None:
    labels = {"sandboxrun.lock": "p", "sandboxrun.lock.lease": "10", "sandboxrun.lock.token": "t"}
    claim = claim_of({"Name": "v", "CreatedAt": "2026-11-24T11:00:00+01:00", "Labels": labels})
    assert (claim.token, claim.since, claim.lease) == ("t", SINCE, 10)
    assert not claim.is_dead(lambda: SINCE + timedelta(seconds=12))
    assert claim.is_dead(lambda: SINCE + timedelta(seconds=13))
    assert claim.holder == "an unknown process, since 10:00:00 by the engine's clock"


@pytest.mark.parametrize(("told", "lease"), [("", LEASE), ("x", LEASE), ("-5", 0), ("100000", 3600), ("nan", LEASE)])
def test_leases_that_make_no_sense(told: str, lease: int) -> None:
    labels = {"sandboxrun.lock.lease": told}
    assert claim_of({"Name": "v", "CreatedAt": "2026-11-24T10:00:00Z", "Labels": labels}).lease == lease


def test_a_claim_of_a_dead_process_needs_no_clock() -> None:
    owner = structs.replace(this_process(), started=1)
    labels = {"sandboxrun.lock.owner": owner.encode()}
    claim = claim_of({"Name": "v", "CreatedAt": "2026-11-24T10:00:00Z", "Labels": labels})
    assert claim.is_dead(lambda: pytest.fail("the clock was asked"))


def test_a_clock_that_is_set_is_noticed_on_the_same_boot() -> None:
    mark = clock_mark(datetime.now(UTC))
    assert clock_set_since(mark, lambda: datetime.now(UTC) - timedelta(seconds=1)) == 0
    assert -3601 < clock_set_since(mark, lambda: datetime.now(UTC) - timedelta(hours=1)) < -3599


@pytest.mark.parametrize("hours", [2, -2])
@pytest.mark.parametrize(("age", "dead"), [(5, False), (300, True)])
def test_a_set_clock_ends_no_lease_early_or_late_on_the_same_boot(hours: int, age: int, dead: bool) -> None:
    now, by = datetime.now(UTC), timedelta(hours=hours)
    labels = {"sandboxrun.lock.lease": "60", "sandboxrun.lock.clock": clock_mark(now - by)}
    made = now - by - timedelta(seconds=age)
    claim = claim_of({"Name": "v", "CreatedAt": made.isoformat(), "Labels": labels})
    assert claim.is_dead(lambda: datetime.now(UTC)) == dead


@pytest.mark.parametrize("then", ["", "x", "nan", "1e9", "1.000 ", "9" * 40 + ".000", "1.0", "-"])
def test_a_mark_that_is_none_says_nothing(then: str) -> None:
    boot = clock_mark(SINCE).partition(" ")[0]
    marks = (f"{boot} {then}", then, f"another {then}")
    assert [clock_set_since(mark, lambda: SINCE) for mark in marks] == [0, 0, 0]


def test_a_mark_of_another_boot_says_nothing() -> None:
    assert clock_set_since("00000000-0000-0000-0000-000000000000 1.000", lambda: SINCE) == 0


def test_a_lease_that_somebody_has_mounted_keeps_no_other() -> None:
    gone = {labels.LEASE: "token", f"{labels.LEASE}.owner": structs.replace(this_process(), started=1).encode()}
    begin = "sandboxrun-lease-token-"
    there: dict[str, Any] = dict.fromkeys((f"{begin}a", f"{begin}mounted", f"{begin}z"), gone)
    there[f"{begin}living"] = {**gone, f"{labels.LEASE}.owner": ""}
    others = ("data", "sandboxrun-lease-", "sandboxrun-lease-other-a")  # have the labels, whoever gave them to them
    there |= dict.fromkeys(others, gone)

    class Engine:
        def clock(self) -> datetime:
            return SINCE

        def volumes(self, *, labels: object) -> list[dict[str, object]]:
            return [{"Name": name, "Labels": own} for name, own in there.items()]

        def remove_volume(self, name: str) -> None:
            if name.endswith("mounted"):
                raise EngineError(f"removing volume {name}", "volume is in use", status=409)
            del there[name]

    with pytest.raises(EngineError, match="mounted: volume is in use"):
        lease.sweep(cast(Any, Engine()))
    assert [*there] == [f"{begin}mounted", f"{begin}living", *others]
