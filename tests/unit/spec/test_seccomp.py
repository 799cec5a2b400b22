"""The table of system calls says of each call one thing, and the profile made from it allows that and no more.

`allows` reads the JSON as the engine's runtime does; what the kernel makes of it is looked at in tests/engine.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import pytest

from sandboxrun.backend.docker import fields as convert
from sandboxrun.spec import seccomp
from sandboxrun.spec.seccomp import profile, profile_text
from sandboxrun.spec.seccomp.table import ALLOWED, ENOSYS, REFUSED, REFUSED_SOCKETS
from sandboxrun.spec.types import freeze

OWN = "sandboxrun"
ALWAYS = {call for row in ALLOWED if not (row.when or row.variant or row.capability) for call in row.names}
CLOSED = {call for row in REFUSED for call in row.names}


def allows(name: str, call: str, *arguments: int, capabilities: Iterable[str] = ()) -> bool:
    """Whether the profile lets the call pass with these arguments."""
    have = {f"CAP_{item}" for item in capabilities}
    return any(
        rule["action"] == "SCMP_ACT_ALLOW"
        and call in rule["names"]
        and have.issuperset(rule.get("includes", {}).get("caps", ()))
        and all(_holds(condition, arguments) for condition in rule.get("args", ()))
        for rule in profile(name)["syscalls"]
    )


def _holds(condition: Mapping[str, Any], arguments: tuple[int, ...]) -> bool:
    given = arguments[condition["index"]]
    if condition["op"] == "SCMP_CMP_EQ":
        return bool(given == condition["value"])
    return bool(given & condition["value"] == condition["valueTwo"])


def test_each_call_has_one_place() -> None:
    listed = [call for row in ALLOWED if not row.when and not row.variant and not row.capability for call in row.names]
    assert {call: count for call, count in Counter(listed).items() if count > 1} == {}
    assert {c for c, count in Counter(call for row in REFUSED for call in row.names).items() if count > 1} == set()
    assert not ALWAYS & CLOSED
    # What a variant or a capability opens is refused without it, or allowed then for some arguments only.
    opened = {call for row in ALLOWED if row.variant or row.capability for call in row.names}
    assert opened - CLOSED == {"mknod", "mknodat", "personality", "socket"}


def test_each_row_has_its_reason() -> None:
    for row in (*ALLOWED, *REFUSED):
        assert row.title and row.why.endswith((".", ")")), row.title
        assert row.names, row.title
    titles = [row.title for row in (*ALLOWED, *REFUSED)]
    assert len(titles) == len(set(titles))


def test_what_is_refused_is_not_in_the_profile() -> None:
    for call in CLOSED:
        assert not allows(OWN, call, 0, 0, 0), call
    assert profile(OWN)["defaultAction"] == "SCMP_ACT_ERRNO"
    (other,) = [rule for rule in profile(OWN)["syscalls"] if rule["action"] != "SCMP_ACT_ALLOW"]
    assert other == {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": ENOSYS}


def test_threads_yes_namespaces_no() -> None:
    thread, child = 0x003D0F00, 0x01200011  # what glibc gives clone for a thread, and for fork
    assert allows(OWN, "clone", thread) and allows(OWN, "clone", child)
    for flag in (0x20000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000):
        assert not allows(OWN, "clone", flag | 17), hex(flag)
        assert not allows(OWN, "clone", flag | 17 | 1 << 40)


@pytest.mark.parametrize(
    ("family", "kind", "protocol"),
    [(1, 1, 0), (1, 2 | 0o2000000, 0), (2, 1, 0), (2, 1 | 0o4000, 6), (10, 2, 17), (10, 2, 0), (16, 3, 0), (16, 2, 0)],
)
def test_the_sockets_of_every_day_are_made(family: int, kind: int, protocol: int) -> None:
    assert allows(OWN, "socket", family, kind, protocol)


@pytest.mark.parametrize(("name", "family", "kind", "protocol", "why"), REFUSED_SOCKETS)
def test_other_sockets_are_not(name: str, family: int, kind: int, protocol: int, why: str) -> None:
    assert not allows(OWN, "socket", family, kind, protocol), name
    assert why


def test_high_bits_that_the_kernel_drops_open_nothing() -> None:
    high = 1 << 32
    assert not allows(OWN, "socket", high | 40, 1, 0) and not allows(OWN, "socket", high | 2, 1, high | 132)
    assert not allows(OWN, "socketpair", high | 30, 1, 0)
    assert not allows(OWN, "personality", high | 0x0040000)
    assert not allows(OWN, "mknod", 0, high | 0o020000, 0x103)


def test_fifos_yes_devices_no() -> None:
    for kind in (0, 0o010000, 0o100000, 0o140000):
        assert allows(OWN, "mknod", 0, kind | 0o600, 0) and allows(OWN, "mknodat", 0, 0, kind | 0o600)
    for kind in (0o020000, 0o060000):
        assert not allows(OWN, "mknod", 0, kind | 0o600, 0x103) and not allows(OWN, "mknodat", 0, 0, kind | 0o600)
        assert allows(OWN, "mknod", 0, kind | 0o600, 0x103, capabilities=["MKNOD"])


def test_debug_opens_debugging_and_nothing_else() -> None:
    debugging = {"ptrace", "process_vm_readv", "process_vm_writev", "kcmp", "pidfd_getfd"}
    assert {c for c in CLOSED if allows("debug", c, 0, 0, 0)} == debugging
    assert allows("debug", "personality", 0x40000) and not allows(OWN, "personality", 0x40000)
    assert not allows("debug", "personality", 0x400000)  # READ_IMPLIES_EXEC


def test_a_capability_opens_its_own_calls() -> None:
    assert allows(OWN, "chroot", capabilities=["SYS_CHROOT"])
    assert allows(OWN, "clock_settime", capabilities=["SYS_TIME"])
    assert allows(OWN, "socket", 17, 3, 0, capabilities=["NET_RAW"])
    assert allows(OWN, "socket", 16, 3, 12, capabilities=["NET_ADMIN"])
    assert not allows(OWN, "socket", 40, 1, 0, capabilities=["NET_ADMIN", "NET_RAW", "SYS_ADMIN"])
    for call in ("bpf", "mount", "io_uring_setup", "unshare"):
        assert not allows(OWN, call, 0, 0, 0, capabilities=["SYS_ADMIN", "BPF"]), call


def test_the_text_is_the_same_each_time_and_names_only_native_entries() -> None:
    assert json.loads(profile_text(OWN)) == profile(OWN)
    assert profile_text(OWN) != profile_text("debug")
    assert "\n" not in profile_text(OWN)
    assert profile(OWN)["archMap"] == [
        {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": []},
        {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": []},
    ]


def test_a_name_is_sent_as_its_content_and_read_back_as_the_name() -> None:
    for name in (OWN, "debug"):
        sent = convert.to_security(freeze({"no-new-privileges": "true", "seccomp": name}))
        assert sent == ["no-new-privileges=true", f"seccomp={profile_text(name)}"]
        assert convert.from_security(sent) == {"no-new-privileges": "true", "seccomp": name}


def test_nothing_sent_is_the_engines_own() -> None:
    assert convert.to_security(freeze({"seccomp": "engine"})) == []
    assert convert.from_security(None) == {"seccomp": "engine"}
    assert convert.from_security(["seccomp=unconfined"]) == {"seccomp": "unconfined"}


def test_a_profile_is_recognised_by_what_it_says_not_by_its_spaces() -> None:
    own = profile(OWN)
    assert seccomp.from_engine(json.dumps(own, indent=2)) == OWN
    assert seccomp.from_engine(json.dumps(dict(reversed(own.items())))) == OWN
    own["syscalls"][0]["names"].append("bpf")
    changed = json.dumps(own)
    assert seccomp.from_engine(changed) == changed
    assert seccomp.from_engine("{no json") == "{no json"
