"""The gateway beside a live sandbox, looked at from outside: that it runs, confined, by the declared rules, and that
nobody else is on the network between the two.

Owns those questions to the engine. Must not enter either container.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from sandboxrun.apply.owned import own_containers
from sandboxrun.engine.client import Engine
from sandboxrun.engine.errors import EngineError
from sandboxrun.errors import printable
from sandboxrun.model import labels
from sandboxrun.model.declared import DeclaredSandbox, Profile
from sandboxrun.model.names import GATEWAY, companion
from sandboxrun.model.objects import decode_network
from sandboxrun.model.observed import ObservedSandbox
from sandboxrun.model.spec import SandboxSpec
from sandboxrun.model.types import freeze
from sandboxrun.model.wiring import Plot, private_network
from sandboxrun.probe.findings import Finding, Verdict
from sandboxrun.probe.outside import listed
from sandboxrun.probe.outside_look import Accounts, Looked, findings
from sandboxrun.probe.outside_process import CHECKS as PROCESS_CHECKS
from sandboxrun.workflow.hostside import look

MOST_RULES = 4 << 20
MOST_LOG = 128 << 20  # beyond the engine's bound of a gateway's log


def gateway_findings(
    engine: Engine, profile: Profile, name: str, spec: SandboxSpec, observed: ObservedSandbox
) -> tuple[Finding, ...]:
    """Findings of the gateway; none for a sandbox that has none."""
    if spec.egress is None or not spec.egress.has_gateway:
        return ()
    try:
        return tuple(_findings(engine, profile, name, spec, observed))
    except EngineError as error:
        return (_finding(name, "gateway", "its gateway runs", "running", "not told", None, error.cause),)


def _findings(
    engine: Engine, profile: Profile, name: str, spec: SandboxSpec, observed: ObservedSandbox
) -> Iterator[Finding]:
    inspect = _gateway(engine, profile, observed)
    running = bool((inspect.get("State") or {}).get("Running"))
    seen = "running" if running else str((inspect.get("State") or {}).get("Status") or "not there")
    yield _finding(name, "gateway", "its gateway runs", "running", seen, running)
    yield _between(engine, name, observed, inspect)
    if not running:
        return
    yield _rules(engine, name, spec, observed, inspect)
    yield _confined(engine, profile, name, spec, observed, inspect)
    yield from _processes(engine, name, inspect)


def _gateway(engine: Engine, profile: Profile, observed: ObservedSandbox) -> Mapping[str, Any]:
    """The inspect answer of the gateway of that run; empty where there is none."""
    wanted = {labels.RUN: observed.run, labels.ROLE: GATEWAY}
    name = companion(observed.base, GATEWAY)
    found = own_containers(engine, profile.project, more=wanted, names=(name,))
    inspected = engine.inspect_containers([str(c["Id"]) for c in found])
    return inspected[0] if inspected else {}


def _between(engine: Engine, name: str, observed: ObservedSandbox, gateway: Mapping[str, Any]) -> Finding:
    """The network between the two: sealed, and nobody else is on it."""
    from sandboxrun.gateway.container import SEALED

    network = engine.network(private_network(observed.base))
    title, expected = "nobody but its gateway is on its network", "sealed; the sandbox and its gateway"
    if network is None:
        return _finding(name, "gateway network", title, expected, "not there", False, field="Network")
    live = decode_network(network)
    wrong = [
        f"{key}={live.driver_opts.get(key)}" for key, value in SEALED.items() if live.driver_opts.get(key) != value
    ]
    wrong += [] if live.internal else ["not internal"]
    wrong += ["with IPv6"] if live.enable_ipv6 else []
    mine = {observed.id, str(gateway.get("Id"))}
    others = {str(of.get("Name")) for id, of in (network.get("Containers") or {}).items() if id not in mine}
    wrong += [f"{printable(other)} is on it" for other in sorted(others)]
    seen = listed(wrong) if wrong else expected
    return _finding(name, "gateway network", title, expected, seen, not wrong, field="Network.Internal, Options")


def _rules(
    engine: Engine, name: str, spec: SandboxSpec, observed: ObservedSandbox, gateway: Mapping[str, Any]
) -> Finding:
    """By which rules it says that it serves: those in its file, which must be the declared ones. The addresses that it
    refuses beside them are the engine's machine's, as they were when it was started."""
    from sandboxrun.gateway.container import DIRECTORY, FILE
    from sandboxrun.gateway.rules import digest_of_rules, rules_document

    assert spec.egress is not None
    title, field = "its gateway serves by the declared rules", f"{DIRECTORY}/{FILE}"
    said = _last_said(engine, str(gateway["Id"]))
    if not said:
        note = "its log no longer tells by which rules it serves"
        return _finding(name, "gateway rules", title, "the declared rules", "not told", None, note, field=field)
    document = _file(engine, str(gateway["Id"]), f"{DIRECTORY}/{FILE}")
    declared = _less_refused(rules_document(spec.egress, sandbox=observed.address, run=observed.run))
    wrong = [] if said == digest_of_rules(document) else ["not those in its file"]
    wrong += [] if _less_refused(document) == declared else ["other rules than the declared ones"]
    seen = listed(wrong) if wrong else f"the declared rules ({said[:19]})"
    return _finding(name, "gateway rules", title, "the declared rules", seen, not wrong, field=field)


def _less_refused(document: bytes) -> Any:
    from sandboxrun.evidence.egress import record_of

    return {key: value for key, value in record_of(document).items() if key != "refused"}


def _file(engine: Engine, container: str, path: str) -> bytes:
    """A file of the container, as the engine hands it out; at most MOST_RULES bytes of it count."""
    import io
    import tarfile

    archive = engine.get_archive(container, path)
    try:
        data = bytearray()
        for piece in archive.stream:
            data += piece
            if len(data) > MOST_RULES:
                return b""
    finally:
        archive.close()
    with tarfile.open(fileobj=io.BytesIO(bytes(data))) as tar:
        member = tar.next()
        file = tar.extractfile(member) if member is not None and member.isreg() else None
        return file.read() if file is not None else b""


def _last_said(engine: Engine, gateway: str) -> str:
    """The digest in the last `ready` or `rules` record."""
    from sandboxrun.evidence.egress import lines, record_of

    said, read = "", 0
    with engine.logs(gateway, tty=False) as output:
        for line in lines(data for stream, data in output if stream == 1):
            read += len(line)
            record = record_of(line) if b'"digest"' in line else {}
            if record.get("event") in ("ready", "rules"):
                said = str(record.get("digest") or "")
            if read > MOST_LOG:
                return ""
    return said


def _confined(
    engine: Engine,
    profile: Profile,
    name: str,
    spec: SandboxSpec,
    observed: ObservedSandbox,
    gateway: Mapping[str, Any],
) -> Finding:
    """Whether the engine shows it as it was asked to make it."""
    from sandboxrun.gateway.container import gateway_payload, not_taken

    title = "its gateway is as it was made"
    network = engine.network(private_network(observed.base))
    subnet = decode_network(network).subnet if network is not None else None
    if subnet is None:
        return _finding(name, "gateway options", title, "as made", "not told", None, "its network is not there")
    sandbox = DeclaredSandbox(
        address=observed.address, sandbox=observed.address, each=None, name=observed.base, spec=spec
    )
    payload = gateway_payload(sandbox, profile.names, observed.run, Plot.of(subnet), str(gateway.get("Image")))
    lost = list(not_taken(payload, gateway))
    if (gateway.get("Config") or {}).get("Cmd") != payload["Cmd"]:
        lost.append("Config.Cmd")
    return _finding(
        name, "gateway options", title, "as made", listed(lost) if lost else "as made", not lost, field="inspect"
    )


def _processes(engine: Engine, name: str, gateway: Mapping[str, Any]) -> Iterator[Finding]:
    """What the kernel says of its processes, by the checks of a sandbox's own."""
    from sandboxrun.gateway.container import USER

    uid, gid = map(int, USER.split(":"))
    spec = SandboxSpec(image=str(gateway.get("Image")), user=USER, security_opt=freeze({"no-new-privileges": "true"}))
    looked = Looked(spec=spec, outside=look(engine, gateway, {}), accounts=Accounts(uid=uid, gid=gid))
    for found in findings(name, looked, PROCESS_CHECKS):
        yield Finding(
            sandbox=name,
            control=f"gateway {found.control}",
            title=f"its gateway {found.title}"
            if found.control != "seccomp"
            else "its gateway's system calls are filtered",
            field=found.field,
            expected=found.expected,
            seen=found.seen,
            verdict=found.verdict,
            note=found.note,
        )


def _finding(
    sandbox: str,
    control: str,
    title: str,
    expected: str,
    seen: str,
    holds: bool | None,
    note: str = "",
    *,
    field: str = "State",
) -> Finding:
    verdicts = {True: Verdict.HOLDS, False: Verdict.FAILS, None: Verdict.INCONCLUSIVE}
    return Finding(
        sandbox=sandbox,
        control=control,
        title=title,
        field=field,
        expected=expected,
        seen=seen,
        verdict=verdicts[holds],
        note=note,
    )
