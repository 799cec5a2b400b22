"""What every backend does, on the fake and on a real engine alike."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from msgspec import structs

from sandboxrun.backend.base import Happened
from sandboxrun.backend.errors import EngineError, EngineTimeout, LockHeld, NotFound
from sandboxrun.backend.session import Event, StillRunning
from sandboxrun.errors import SandboxrunError
from sandboxrun.lifecycle.apply import ApplySettings
from sandboxrun.lifecycle.job import apply_and_wait
from sandboxrun.lifecycle.reap import Homes, ProjectReaper, Scope
from sandboxrun.lifecycle.run import RunOptions, run
from sandboxrun.spec import labels
from sandboxrun.spec.state import Ended, How, Running
from sandboxrun.threads import Aside
from tests.conftest import until
from tests.contract.conftest import Side


def sh(script: str, **more: Any) -> dict[str, Any]:
    return {"command": ["sh", "-c", script], **more}


def there(job: Any) -> set[str]:
    """The ids of what there is of a job's project."""
    snapshot = job.backend.observe(job.profile, job.store)
    return {one.id for one in (*snapshot.sandboxes, *snapshot.companions)}


def said(job: Any, id: str) -> bytes:
    """What it has written until now."""
    with job.backend.logs(id) as output:
        return b"".join(data for _, data in output)


def started(side: Side, **sandbox: Any) -> tuple[Any, str]:
    """A job whose one sandbox was applied, and that sandbox's id."""
    job = side.job(agent=sandbox)
    job.apply()
    return job, job.observed("agent").id


@pytest.mark.parametrize(
    ("script", "code"), [("true", 0), ("false", 1), ("exit 3", 3), ("nothing-of-the-kind", 127), ("echo a; exit 7", 7)]
)
def test_the_exit_code_is_the_commands_own(side: Side, script: str, code: int) -> None:
    job, id = started(side, **sh(script))
    assert job.backend.wait(id, timeout=30) == code
    state = job.backend.state(id)
    assert isinstance(state, Ended) and (state.exit_code, state.oom) == (code, False)
    assert state.started is not None and state.finished is not None


def test_the_last_lines_can_be_read_alone(side: Side) -> None:
    job, id = started(side, **sh("echo a; echo b; echo c; sleep 1000"))
    until(lambda: said(job, id).endswith(b"c\n"))
    for count, text in ((1, b"c\n"), (2, b"b\nc\n"), (9, b"a\nb\nc\n")):
        with job.backend.logs(id, tail=count) as output:
            assert b"".join(data for _, data in output) == text


def test_who_waits_is_told_how_they_are_that_run(side: Side) -> None:
    job, heard = side.job(agent=sh("echo hello; sleep 1000")), list[StillRunning]()

    def listener(event: Event) -> None:
        if isinstance(event, StillRunning):
            heard.append(event)

    how = ApplySettings(glance=0.05, listener=listener)
    waiting = Aside(lambda: apply_and_wait(job.backend, job.profile, job.store, settings=how), name="waiting")
    until(lambda: not waiting.alive or any(one.line == "hello" for event in heard for one in event.sandboxes))
    job.destroy()
    waited = waiting.result()
    assert waited.exit_code == 137 or waited.exit_code == 143
    (one,) = next(event.sandboxes for event in heard if event.sandboxes)
    assert one.address == "agent" and one.seconds >= 0 and one.limit == job.profile.sandboxes[0].spec.mem_limit
    assert heard[-1].sandboxes == ()


# Under the engine's init, which is mounted into the root as well, and under sandboxrun's.
@pytest.mark.parametrize(("timeout", "read_only"), [(None, True), (None, False), ("1h", True), ("1h", False)])
def test_a_command_that_is_not_there_was_not_started(side: Side, timeout: str | None, read_only: bool) -> None:
    lifetime = {} if timeout is None else {"lifetime": {"timeout": timeout}}
    job = side.job(agent={"command": ["nothing-of-the-kind", "-v"], "read_only": read_only, **lifetime})
    (result,) = run(job.backend, job.profile, job.store, job.profile.sandboxes)
    assert result.evidence is not None and result.evidence.index is not None
    ending = result.evidence.index.ending
    assert (ending.how, ending.detail) == (How.NOT_STARTED, "nothing-of-the-kind: command not found")
    assert result.exit_code == 125


@pytest.mark.parametrize("timeout", [None, "1h"])
def test_a_command_that_removes_itself_has_run(side: Side, timeout: str | None) -> None:
    """Nobody inside can make a run look as if it had never been."""
    lifetime = {} if timeout is None else {"lifetime": {"timeout": timeout}}
    script = "echo a; rm -f $(command -v sh); exit 127"
    job = side.job(agent=sh(script, read_only=False, user="0:0", **lifetime))
    (result,) = run(job.backend, job.profile, job.store, job.profile.sandboxes)
    assert result.evidence is not None and result.evidence.index is not None
    ending = result.evidence.index.ending
    assert (ending.how, ending.exit_code) == (How.FAILED, 127)


def test_output_is_kept_by_stream_and_in_order(side: Side) -> None:
    job, id = started(side, **sh("echo a; echo b >&2; sleep 0.3; echo c"))
    job.backend.wait(id, timeout=30)
    with job.backend.logs(id) as output:
        pieces = list(output)
    assert b"".join(data for stream, data in pieces if stream == 1) == b"a\nc\n"
    assert b"".join(data for stream, data in pieces if stream == 2) == b"b\n"


def test_whoever_attaches_gets_what_comes_until_the_end(side: Side) -> None:
    job = side.job(agent=sh("echo a; sleep 0.2; echo b; exit 4"))
    seen: list[tuple[str, int, bytes]] = []
    options = RunOptions(output=lambda address, stream, data: seen.append((address, stream, data)))
    results = run(job.backend, job.profile, job.store, job.profile.sandboxes, options=options)
    assert [r.exit_code for r in results] == [4]
    assert b"".join(data for _, _, data in seen) == b"a\nb\n"
    assert there(job) == set()


def test_waiting_has_an_end_and_the_sandbox_runs_on(side: Side) -> None:
    job, id = started(side)
    with pytest.raises(EngineTimeout):
        job.backend.wait(id, timeout=0.3)
    assert isinstance(job.backend.state(id), Running)
    job.destroy()


@pytest.mark.parametrize(("script", "code"), [("echo up; sleep 1000", 143), ("trap '' TERM; echo up; sleep 1000", 137)])
def test_a_stop_is_a_signal_and_after_the_grace_period_a_kill(side: Side, script: str, code: int) -> None:
    job, id = started(side, **sh(script))
    until(lambda: said(job, id))  # the trap is set by then
    grace = 1 if code == 137 else 60
    began = time.monotonic()
    assert job.backend.stop(id, timeout=grace) is True
    assert job.backend.wait(id, timeout=30) == code
    assert (time.monotonic() - began >= grace) == (code == 137)
    assert job.backend.stop(id, timeout=1) is False
    job.destroy()


def test_an_end_is_told_by_the_events_that_are_followed(side: Side) -> None:
    job = side.job(agent=sh("echo up; sleep 1000"))
    with job.backend.follow(side.project, time.time() - 1) as events:
        job.apply()
        id = job.observed("agent").id
        assert events.exit_code(id, 0.05) is None
        until(lambda: said(job, id))
        job.backend.stop(id, timeout=60)
        assert events.exit_code(id, 60) == 143
        assert events.exit_code(id, 0) == 143  # whoever asks later, too
        assert events.exit_code("0" * 64, 0.05) is None
        assert isinstance(job.backend.state(id), Ended)
    job.destroy()


def test_a_signal_needs_a_process(side: Side) -> None:
    job, id = started(side)
    job.backend.signal(id, "KILL")
    assert job.backend.wait(id, timeout=30) == 137
    with pytest.raises(EngineError) as raised:
        job.backend.signal(id, "TERM")
    assert raised.value.status == 409
    job.destroy()


@pytest.mark.parametrize("call", ["state", "document", "logs", "wait", "signal", "changes", "attach", "addresses"])
def test_what_is_not_there_is_not_found(side: Side, call: str) -> None:
    with pytest.raises(NotFound):
        getattr(side.connected(), call)("0123456789ab" * 5)
    with pytest.raises(NotFound):
        side.connected().stop("0123456789ab" * 5, timeout=1)


def test_memory_is_bounded(side: Side) -> None:
    job = side.job(agent=sh("sleep 1; tail /dev/zero; sleep 1; exit 137", mem_limit="16m"))
    (result,) = run(job.backend, job.profile, job.store, job.profile.sandboxes)
    assert result.exit_code == 137
    assert result.evidence is not None and result.evidence.entry is not None
    assert result.evidence.entry.outcome.value == "oom"
    usage = result.evidence.index.usage if result.evidence.index is not None else None
    assert usage is not None and (usage.memory_peak_bytes or 0) >= 16 << 20  # no sample need have seen it


def test_a_timeout_is_seen_on_what_runs(side: Side) -> None:
    job, id = started(side, **sh("sleep 300"), lifetime={"timeout": "5m"})
    state = job.backend.state(id)
    assert isinstance(state, Running) and state.limit == 300
    assert job.plan().empty


@pytest.mark.parametrize("script", ["sleep 300", "trap '' TERM; sleep 300"])
def test_a_timeout_holds_though_nobody_watches(side: Side, script: str) -> None:
    job, id = started(side, **sh(script), lifetime={"timeout": "2s"}, stop_grace_period="1s")
    assert job.backend.wait(id, timeout=60) == 124
    state = job.backend.state(id)
    assert isinstance(state, Ended) and state.held
    observed = job.observed("agent")
    assert observed.timed_out and observed.spec.command == observed.applied.command
    job.apply()
    assert [entry.outcome.value for entry in job.store.entries(job.profile.project)] == ["timeout"]


def test_whoever_exits_with_the_code_of_a_timeout_has_ended_by_itself(side: Side) -> None:
    job, id = started(side, **sh("exit 124"), lifetime={"timeout": "1m"})
    assert job.backend.wait(id, timeout=60) == 124
    assert not job.observed("agent").timed_out
    job.apply()
    assert [entry.outcome.value for entry in job.store.entries(job.profile.project)] == ["failed"]


def test_what_was_applied_is_observed_and_stays(side: Side) -> None:
    job, id = started(side, pids_limit=100)
    observed = job.observed("agent")
    assert (observed.spec.pids_limit, observed.applied) == (100, job.profile.sandboxes[0].spec)
    assert job.plan().empty
    job.apply()
    assert there(job) == {id}
    job.destroy()
    assert there(job) == set()


def test_a_document_is_the_engines_own_answer_and_says_the_same(side: Side) -> None:
    job, id = started(side, **sh("echo a; exit 3"))
    job.backend.wait(id, timeout=30)
    document = job.backend.document(id)
    assert (document.id, document.name, document.tty) == (id, job.observed("agent").name, False)
    assert document.state == job.backend.state(id) and document.image == job.observed("agent").image_id
    assert document.created and document.started and document.finished and document.raw
    assert document.labels == job.observed("agent").labels
    job.destroy()


def test_what_verifying_looks_at(side: Side) -> None:
    job, id = started(side, user="1000:1000")
    backend, observed = job.backend, job.backend.observe_one(job.profile, id)
    assert (observed.id, observed.spec) == (id, job.observed("agent").spec)
    accounts = backend.accounts(id, observed.spec)
    assert accounts is not None and (accounts.uid, accounts.gid) == (1000, 1000)
    view, machine = backend.host_view(observed), backend.machine()
    assert view.id == id and (view.pid > 0) == (not view.unseen)
    assert machine.cpus > 0 and machine.runtime
    assert (
        backend.addresses(id) == () and backend.gateway_view(job.profile, observed.spec, observed).status == "not there"
    )
    job.destroy()


def test_what_can_change_in_place_does_and_the_rest_is_replaced(side: Side) -> None:
    job, id = started(side)
    job = side.job(agent={"mem_limit": "64m"})
    job.apply()
    assert (job.observed("agent").id, job.observed("agent").spec.mem_limit) == (id, 64 << 20)
    assert job.plan().empty
    job = side.job(agent={"mem_limit": "64m", "environment": {"A": "1"}})
    job.apply()
    assert job.observed("agent").id != id
    assert job.plan().empty
    job.destroy()


def test_networks_are_made_and_go_with_the_last_sandbox(side: Side) -> None:
    job, _ = started(side, network_mode=None, networks=["default"])
    networks = job.backend.observe(job.profile, job.store).networks
    assert [network.key for network in networks] == ["default"]
    job.destroy()
    assert job.backend.observe(job.profile, job.store).networks == ()


def test_nothing_foreign_is_touched(side: Side) -> None:
    job = side.job(agent={})
    side.stranger(job.profile.sandboxes[0].name)
    with pytest.raises(SandboxrunError, match="exists and is not this project's"):
        job.apply()
    (foreign,) = job.backend.observe(job.profile, job.store).foreign
    assert (foreign.kind, foreign.name) == ("container", job.profile.sandboxes[0].name)


def test_a_project_has_one_holder_of_its_lock(side: Side) -> None:
    one, other = side.connected(), side.connected()
    with one.lock(side.project, wait=5) as lock:
        lock.check()
        with pytest.raises(LockHeld), other.lock(side.project, wait=0.2):
            pass
    with other.lock(side.project, wait=5) as lock:
        lock.check()


def test_two_jobs_at_once_run_an_agent_once(side: Side) -> None:
    jobs = [side.job(agent=sh("echo once; exit 5")) for _ in range(2)]
    codes: list[int] = []
    began = time.time()  # of both: what ended since counts for the later one too

    def work(job: Any) -> None:
        settings = ApplySettings(began=began)
        codes.append(apply_and_wait(job.backend, job.profile, job.store, settings=settings).exit_code)

    threads = [threading.Thread(target=work, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert codes == [5, 5]
    runs = {entry.run for job in jobs for entry in job.store.entries(side.project)}
    assert len(runs) == 1


def test_a_project_is_listed_as_long_as_anything_of_it_is_there(side: Side) -> None:
    job = side.job(agent={"network_mode": None, "networks": ["default"], **sh("exit 3")}, stays={})
    names = job.profile.names
    assert not job.backend.projects(names.project)
    job.apply()
    until(lambda: job.backend.projects(names.project)[0].ended)
    (found,) = (one for one in job.backend.projects() if one.names.project == names.project)
    assert dict(found.names.given_networks) == {"default": names.network("default")}
    assert [own[labels.SANDBOX] for own in found.ended.values()] == ["agent"]
    job.destroy()
    assert not job.backend.projects(names.project)


def test_news_tell_what_starts_ends_and_goes_and_how_it_ended(side: Side) -> None:
    job = side.job(agent=sh("exit 3"), killed={})
    project, heard = job.profile.project, list[Happened]()
    with job.backend.news() as news:

        def listen() -> None:
            for one in news:
                if one.project == project:
                    heard.append(one)

        thread = threading.Thread(target=listen, daemon=True)
        thread.start()
        job.apply()
        ids = {address: job.observed(address).id for address in ("agent", "killed")}
        job.backend.signal(ids["killed"], "KILL")

        def told(action: str) -> dict[str, Happened]:
            return {one.labels[labels.SANDBOX]: one for one in [*heard] if one.action == action}

        until(lambda: told("start").keys() == told("die").keys() == {"agent", "killed"})
        ended = {one.id: one.history for one in told("die").values()}
        assert ended.keys() == set(ids.values())
        assert all(history is None or history.started for history in ended.values())
        other = structs.replace(job.profile, project="other")
        assert job.backend.observe_ended(other, job.store, ended).sandboxes == ()
        reaper = ProjectReaper(job.backend, job.profile.names, Scope(), Homes(), ApplySettings())
        assert not reaper.reap_ended({**ended, "0" * 64: None}).left
        assert {e.sandbox: e.outcome.value for e in job.store.entries()} == {"agent": "failed", "killed": "killed"}
        until(lambda: told("destroy").keys() == {"agent", "killed"})
    thread.join(30)
    assert not thread.is_alive()
