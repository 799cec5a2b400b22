"""The engine's own addresses, as the kernel or the endpoint tells them."""

from __future__ import annotations

import os
import subprocess
from typing import Any

import pytest

from sandboxrun.backend.docker.looking import host_addresses
from sandboxrun.backend.docker.transport import Unreachable


class Reached:
    """An engine as far as its endpoint and its listener's process go."""

    def __init__(self, endpoint: str, pid: int | None) -> None:
        self.endpoint, self._pid = endpoint, pid

    @property
    def transport(self) -> Reached:
        return self

    def peer_pid(self) -> int | None:
        if self._pid == -1:
            raise Unreachable("gone")
        return self._pid


def addresses(endpoint: str = "unix:///run/x.sock", pid: int | None = None) -> tuple[str, ...]:
    engine: Any = Reached(endpoint, pid)
    return host_addresses(engine)


@pytest.mark.skipif(os.getuid() != 0, reason="makes a network namespace")
def test_those_of_the_engines_own_network_namespace() -> None:
    script = "ip link set lo up; ip addr add 192.0.2.7/24 dev lo; ip -6 addr add 2001:db8::7/64 dev lo nodad; "
    script += "echo ready; exec sleep 60"
    with subprocess.Popen(["unshare", "--net", "sh", "-ec", script], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        try:
            found = addresses(pid=process.pid)
        finally:
            process.kill()
    assert {"192.0.2.7", "2001:db8::7"} <= set(found)
    assert not any(one.startswith("127.") or one == "::1" for one in found)


def test_of_one_elsewhere_the_address_it_was_reached_at() -> None:
    assert addresses("tcp://192.0.2.9:2376") == ("192.0.2.9",)
    assert addresses("tcp://[2001:db8::9]:2376") == ("2001:db8::9",)
    assert addresses("tcp://no-such-host.invalid:2376") == ()
    assert addresses("tcp://127.0.0.1:2375") == ()


def test_a_listener_that_cannot_be_seen_is_this_machines_as_far_as_known() -> None:
    assert addresses(pid=0) == addresses(pid=os.getpid())
    assert addresses(pid=-1) == ()
