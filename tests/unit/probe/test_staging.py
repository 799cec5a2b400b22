"""What is started to be looked at: as declared but for what a phase needs, and the weak one, which has nothing."""

from __future__ import annotations

import json

import pytest
from msgspec import structs

from sandboxrun.backend.docker.codec import encode
from sandboxrun.probe.program import CONFIG, MARK, WEAK_NETWORK, WEAK_NETWORK_SPEC, staged, staged_weak, weak
from sandboxrun.probe.verdicts import Phase
from sandboxrun.spec.names import Names
from sandboxrun.spec.option import value_of
from sandboxrun.spec.records import Mount
from sandboxrun.spec.spec import BY_KEY, ROWS, SandboxSpec, settle
from sandboxrun.spec.types import SECOND, freeze
from tests.unit.probe.seeing import context

MIB = 1 << 20
ITS_OWN = {"command", "entrypoint", "healthcheck", "depends_on", "lifetime", "evidence", "configs", "restart"}


def changed(before: SandboxSpec, after: SandboxSpec) -> set[str]:
    """The keys of the options that differ."""
    return {row.key for row in ROWS if value_of(before, row) != value_of(after, row)}


@pytest.mark.parametrize(
    ("phase", "more"),
    [
        (Phase.BATTERY, set()),
        (Phase.MEMORY, {"mem_limit", "memswap_limit"}),
        (Phase.PROCESSES, {"pids_limit"}),
        (Phase.STUBBORN, {"stop_grace_period"}),
    ],
)
def test_the_sandbox_is_as_declared_but_for_what_a_phase_needs(phase: Phase, more: set[str]) -> None:
    declared = context()
    made = staged(declared, phase)
    assert changed(declared.spec, made) <= ITS_OWN | more
    assert made.command is not None and made.command[:2] == ("/run/configs/sandboxrun-probe", phase.value)
    assert made.entrypoint == () and made.healthcheck is not None and made.healthcheck.disable
    assert made == settle(made)


def test_what_is_filled_is_small() -> None:
    large = context(spec={"mem_limit": 64 << 30, "memswap_limit": (64 << 30) + MIB, "pids_limit": 30000})
    assert (staged(large, Phase.MEMORY).mem_limit, staged(large, Phase.MEMORY).memswap_limit) == (64 * MIB, 65 * MIB)
    assert staged(large, Phase.PROCESSES).pids_limit == 64
    small = context(spec={"mem_limit": 16 * MIB, "pids_limit": 10})
    assert staged(small, Phase.MEMORY).mem_limit == staged(small, Phase.MEMORY).memswap_limit == 16 * MIB
    assert staged(small, Phase.PROCESSES).pids_limit == 10
    none = context(spec={"mem_limit": 0, "pids_limit": 0})
    assert staged(none, Phase.MEMORY).mem_limit == 0 and staged(none, Phase.PROCESSES).pids_limit == 0


def test_swap_without_bound_stays_so() -> None:
    assert staged(context(spec={"memswap_limit": -1}), Phase.MEMORY).memswap_limit == -1


def test_the_stubborn_one_has_little_time() -> None:
    made = staged(context(), Phase.STUBBORN)
    assert (made.lifetime.timeout, made.stop_grace_period) == (2 * SECOND, SECOND)
    assert (staged_weak(context(), Phase.STUBBORN).lifetime.timeout or 0) > 8 * SECOND


def test_the_program_comes_with_a_copy_that_could_raise() -> None:
    files = {ref.file_name: ref for ref in staged(context(), Phase.BATTERY).configs}
    assert {(name, ref.source, ref.uid, ref.mode) for name, ref in files.items()} == {
        ("sandboxrun-probe", CONFIG, 0, 0o555),
        ("sandboxrun-probe-setuid", CONFIG, 0, 0o4555),
    }


def test_the_weak_one_has_nothing_of_the_profiles() -> None:
    given = {"environment": freeze({"TOKEN": "value"}), "labels": freeze({"team": "a"}), "working_dir": "/workspace"}
    made = weak(context(spec={**given, "image": "agent:1", "runtime": "runsc"}).spec)
    assert (made.image, made.runtime) == ("agent:1", "runsc")
    assert (made.secrets, made.volumes, made.workspace, made.configs) == ((), (), None, ())
    assert dict(made.environment) == {"SANDBOXRUN_PROBE": MARK}
    assert made.labels == {} and made.working_dir is None


def test_the_weak_one_is_stopped_at_once() -> None:
    """A neighbour ignores TERM: a destroy after a killed verify would wait for it."""
    assert staged_weak(context(), Phase.STUBBORN).stop_grace_period == SECOND


def test_the_weak_one_has_every_restriction_taken_off() -> None:
    payload = encode(staged_weak(context(), Phase.BATTERY), name="weak", names=Names(project="p"), own_labels={})
    host = payload["HostConfig"]
    assert payload["User"] == "0:0"
    assert len(host["CapAdd"]) > 30 and {"SYS_ADMIN", "MKNOD", "NET_ADMIN", "SYS_PTRACE"} <= set(host["CapAdd"])
    assert not host.get("CapDrop")
    assert set(host["SecurityOpt"]) >= {"seccomp=unconfined"}
    assert not host["ReadonlyRootfs"]
    assert [host.get(field) or 0 for field in ("Memory", "MemorySwap", "NanoCpus", "PidsLimit")] == [0, 0, 0, 0]
    assert host["NetworkMode"] == f"p_{WEAK_NETWORK}"
    assert not host["Privileged"] and not host.get("PidMode") and not host.get("Devices")
    assert WEAK_NETWORK_SPEC.driver_opts == {} and not WEAK_NETWORK_SPEC.internal


def test_the_weak_one_has_something_on_every_path_that_the_sandbox_has() -> None:
    """An image's volume with nothing on it is refused; what stands there is twice as large, and runs programs."""
    volume = Mount(type="volume", source="cache", target="/cache/")
    made = weak(context(spec={"volumes": (volume,), "tmpfs": freeze({"/tmp": "rw,noexec,size=1m"})}).spec)
    assert dict(made.tmpfs) == {
        "/cache": "rw,exec,suid,dev,size=1m,mode=1777",
        "/tmp": "rw,exec,suid,dev,size=2m,mode=1777",
        "/workspace": "rw,exec,suid,dev,size=1m,mode=1777",
    }


def test_the_weak_one_differs_in_every_option_that_restricts() -> None:
    closed, opened = context().spec, weak(context().spec)
    for key in ("user", "read_only", "cap_drop", "cap_add", "security_opt", "tmpfs", "mem_limit", "cpus", "pids_limit"):
        assert value_of(closed, BY_KEY[key]) != value_of(opened, BY_KEY[key]), key
    assert opened.shm_size > closed.shm_size


def test_specs_of_probes_are_plain_data() -> None:
    for phase in Phase:
        for made in (staged(context(), phase), staged_weak(context(), phase)):
            assert json.loads(json.dumps(made.plain))
            assert structs.replace(made).digest == made.digest
