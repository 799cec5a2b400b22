"""What verify asks a gateway, asked of one at work: it lets pass what it allows, and nothing else."""

from __future__ import annotations

import selectors
import time
from collections.abc import Mapping

import pytest

from sandboxrun.probe.controls import BY_ID
from sandboxrun.probe.network import GATEWAY as CONTROLS
from sandboxrun.probe.network import requests
from sandboxrun.probe.verdicts import OUTCOME, Context, Seen
from sandboxrun.spec.option_types import PUBLIC, Egress
from sandboxrun.spec.spec import SandboxSpec, settle
from sandboxrun.spec.types import freeze
from tests.unit.gateway.world import AT, SERVER, World, echo, until, why_not
from tests.unit.probe.seeing import left_out, told

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
LISTS = {
    "open": PUBLIC,
    "tls": Egress(allow=("api.example.com:443",)),
    "both": Egress(allow=("*.models.example.org:443", "one.example.com:8443", "two.example.com:8443")),
    "names": Egress(allow=("ssh.example.com:22",)),
}
SECONDS = 6.0


def asked(world: World, context: Context) -> dict[str, Mapping[str, str]]:
    """As the program would: all side by side, and the first bytes of what came back."""
    found: dict[str, Mapping[str, str]] = {}
    with selectors.DefaultSelector() as selector:
        for index, request in enumerate(requests(context)):
            values = {"name": request.name, "connect": "ok", "over": "no", "answer": ""}
            found[f"request.{index}"] = values
            try:
                sock = world.connect(request.port)
            except ConnectionRefusedError:
                values["connect"] = "errno:111"
                continue
            sock.sendall(request.data)
            selector.register(sock, selectors.EVENT_READ, values)
        until = time.monotonic() + SECONDS
        while selector.get_map() and time.monotonic() < until:
            for key, _ in selector.select(0.2):
                try:
                    data = key.fileobj.recv(64)  # type: ignore[union-attr]
                except ConnectionError:
                    data = b""
                key.data["answer"] += data.hex()
                if not data or len(key.data["answer"]) >= 128:
                    key.data["over"] = "yes"
                    selector.unregister(key.fileobj)
                    key.fileobj.close()  # type: ignore[union-attr]
        for key in list(selector.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]
    return found


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize("served", [True, False], ids=["served", "nobody"])
def test_a_gateway_at_work_holds(name: str, served: bool, own: World) -> None:
    egress = LISTS[name]
    own.names.table |= {"example.com": [SERVER], "sandboxrun-probe.models.example.org": [SERVER]}
    if served:
        for port in (80, 443, 8443):
            own.serve(SERVER, port, echo)
    own.start(mode=egress.mode, allow=egress.allow)
    context = Context(spec=settle(SandboxSpec(egress=egress)), gateway=AT, hosts=("198.41.0.11",))
    found = asked(own, context)
    wanted = [request for request in requests(context) if request.group == "allowed" and request.kind != "dns"]
    until(lambda: sum(r["verdict"] == "allowed" for r in own.requests()) >= len(wanted))
    passed = " ".join(f"{r['host']}:{r['port']}" for r in own.records if r.get("verdict") == "allowed")
    seen: Seen = freeze({**found, OUTCOME: freeze({"passed": passed})})
    for control in CONTROLS:
        assert BY_ID[control.id] is control and control.negative is not None
        if left_out(control, context) is None:
            assert told(control, seen, context).holds is True, (control.id, told(control, seen, context).seen)
            assert control.negative(seen, freeze({}), context), control.id
