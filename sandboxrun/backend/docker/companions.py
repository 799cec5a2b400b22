"""Makes sandboxes' gateways and the networks they share with them: network, rules, container, start, other rules.

Owns these steps' engine calls. A gateway that does not say that it serves by the rules it was given is a failure: then
the sandbox does not start. No decisions.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from secrets import token_hex
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any, BinaryIO

from sandboxrun.backend.docker import codec, facts
from sandboxrun.backend.docker.making import create_container, create_network, files_tar
from sandboxrun.backend.docker.observe import begin_rules, is_own
from sandboxrun.backend.errors import EngineError, EngineUnreachable, NameConflict, NotFound
from sandboxrun.backend.session import Session
from sandboxrun.data import lines, record_of
from sandboxrun.errors import ApplyError, SandboxrunError, printable
from sandboxrun.gateway import DIRECTORY, FILE
from sandboxrun.gateway.rules import digest_of_rules, rules_document
from sandboxrun.gateway.subnets import candidates
from sandboxrun.plan import operations as op
from sandboxrun.spec import labels
from sandboxrun.spec.names import COMPANIONS, EGRESS, GATEWAY, companion
from sandboxrun.spec.option import OwnAddresses, private_network
from sandboxrun.spec.project import DeclaredSandbox
from sandboxrun.spec.records import FileRef
from sandboxrun.threads import Aside, together

if TYPE_CHECKING:
    from sandboxrun.backend.docker.client import Engine

PATIENCE = 30.0  # seconds until a gateway must serve
_STOPPING = 10  # seconds until one that does not stop is killed
MOST_TRIES = 50  # subnets that others took meanwhile
_IN_MAKING = 5.0  # seconds that an engine may take for a network whose maker is gone
_OVERLAPS = ("overlap", "already used", "conflicts with network", "being used by", "subnet")


def build_helper(step: op.BuildHelper, session: Session) -> str:
    """Build the image of gateways and keepers; what it is built from is pulled where the engine lacks it."""
    from sandboxrun.gateway.image import build, pull_base

    try:
        if session.engine.image(step.base) is None:
            pull_base(session.engine, step.base)
        return build(session.engine, step.base)
    except EngineUnreachable:
        raise
    except SandboxrunError as error:
        why = error.diagnostics[0].message
        help = "`sandboxrun gateway build --from IMAGE` makes it on any image with Python 3.11 and HAProxy 2.6"
        raise ApplyError(f"{step.reference}, which gateways run from, could not be built: {why}", help=help) from error


def create_private_network(step: op.CreatePrivateNetwork, session: Session) -> str:
    """Make the sandbox's own network on a subnet that is free."""
    with session.plotting:  # two steps must not choose the same subnet
        taken = codec.taken_by(session.engine.networks())
        network, subnet = _first_free(step.sandbox, taken, session)
    session.own_addresses[step.address] = OwnAddresses.of(subnet, in_hosts=_by_hosts_file(step.sandbox, session))
    session.private_networks[step.address] = network
    return subnet


def _by_hosts_file(sandbox: DeclaredSandbox, session: Session) -> bool:
    """Whether the sandbox's hosts file must name its hosts. Raises ApplyError where it can't."""
    if facts.hands_names(str(session.engine.version().get("Version", ""))):
        return False
    if sandbox.spec.egress is None or sandbox.spec.egress.listed is None:
        message = f"{sandbox.address}: this version of the engine can't resolve names that egress does not list"
        raise ApplyError(message, help="list every host by its name under allow:, or update the engine")
    return True


def _first_free(sandbox: DeclaredSandbox, taken: Iterable[Any], session: Session) -> tuple[str, str]:
    """The network's id and its subnet. A network of that name that an apply left when it was killed makes way."""
    run, project = session.run_of(sandbox.address), session.profile.project
    for tries, subnet in enumerate(candidates(sandbox.name, taken)):
        payload = codec.private_network_payload(sandbox, project, run, subnet)
        try:
            return create_network(session.engine, payload), subnet
        except NameConflict:
            _remove_left(payload["Name"], session)
            return create_network(session.engine, payload), subnet
        except EngineError as error:
            if tries >= MOST_TRIES or not any(mark in error.cause.lower() for mark in _OVERLAPS):
                raise
    raise ApplyError(f"no subnet is free for {sandbox.address}", help="remove networks that nothing uses")


def _remove_left(name: str, session: Session) -> None:
    """Remove what an apply that was killed has left. The engine may still be at making it: a name that is taken and
    not shown yet is waited for."""
    until = monotonic() + _IN_MAKING
    while (found := session.engine.network(name)) is None and monotonic() < until:
        sleep(0.1)
    if found is None:
        return
    if not is_own(found, labels.NETWORK, session.profile.project):
        raise ApplyError(f"the network {name} exists and is not this project's", help="rename or remove it")
    session.engine.remove_network(str(found["Id"]))  # it may be at removing it, too, for whoever was killed


def create_gateway(step: op.CreateGateway, session: Session) -> str:
    """Make the container on the network that leads outside, give it its rules and its place beside the sandbox."""
    sandbox, network = step.sandbox, private_network(step.sandbox.name)
    own_addresses = session.own_addresses.get(step.address) or _addresses_of(network, session)
    run = step.run or session.run_of(step.address)
    payload = codec.gateway_payload(sandbox, session.profile.names, run, own_addresses, step.image)
    made = create_container(session.engine, companion(sandbox.name, GATEWAY), payload)
    session.companions[step.address][GATEWAY] = made.id
    if made.warnings:
        raise ApplyError(*(f"the gateway of {step.address}: the engine warned: {text}" for text in made.warnings))
    place = {"IPAMConfig": {"IPv4Address": own_addresses.gateway}}
    with Aside(lambda: session.engine.connect_network(network, made.id, place), name="connect gateway") as connecting:
        _give_rules(sandbox, made.id, run, session)
    connecting.result()
    lost = list(codec.not_taken(payload, session.engine.inspect_container(made.id)))
    if lost:
        help = "see `sandboxrun doctor`"
        raise ApplyError(f"the gateway of {step.address}: the engine did not apply {', '.join(lost)}", help=help)
    return made.id[:12]


def start_gateway(step: op.StartGateway, session: Session) -> str:
    """Start it, and wait for its word that it serves by its rules."""
    container = step.container or session.companions[step.address][GATEWAY]
    run = step.run or session.run_of(step.address)
    if step.container:
        _bring_back(step.sandbox, step.container, session)
        wanted = _give_rules(step.sandbox, container, run, session)
    else:
        wanted = digest_of_rules(_rules(step.sandbox, run, session))
    with session.engine.attach(container, tty=False) as output:
        session.engine.start_container(container)
        _await(output, "ready", wanted, step.address)
    return container[:12]


def _bring_back(sandbox: DeclaredSandbox, container: str, session: Session) -> None:
    """Stop one that runs, its records whole, and put it onto its own two networks and no other: somebody paused it, or
    took it off or onto one."""
    engine, inside = session.engine, private_network(sandbox.name)
    seen = engine.inspect_container(container)
    state = seen.get("State") or {}
    if state.get("Paused"):
        engine.unpause_container(container)
    if state.get("Running"):
        engine.stop_container(container, timeout=_STOPPING)
    place = {"IPAMConfig": {"IPv4Address": _addresses_of(inside, session).gateway}}
    wanted = {session.profile.names.network(EGRESS): None, inside: place}
    on = set((seen.get("NetworkSettings") or {}).get("Networks") or {})
    for network in sorted(on - set(wanted)):
        with suppress(NotFound):
            engine.disconnect_network(network, container, force=True)
    for network in sorted(set(wanted) - on):
        engine.connect_network(network, container, wanted[network])


def reload_gateway(step: op.ReloadGateway, session: Session) -> str:
    """Replace the rules, and wait for its word that it serves by them."""
    wanted = _give_rules(step.sandbox, step.container, step.run, session)
    with session.engine.attach(step.container, tty=False) as output:
        session.engine.kill_container(step.container, "HUP")
        _await(output, "rules", wanted, step.address)
    return "rules reloaded"


_REPLACING = {"option": "--replace", "argument": "Options(replace=…)"}


def _addresses_of(network: str, session: Session) -> OwnAddresses:
    """The addresses on a network that is there."""
    found = session.engine.network(network)
    subnet = codec.decode_network(found).subnet if found is not None else None
    if subnet is None:
        raise ApplyError(f"the network {network} is gone", help="replace the sandbox", **_REPLACING)
    return OwnAddresses.of(subnet)


def _rules(sandbox: DeclaredSandbox, run: str, session: Session) -> bytes:
    assert sandbox.spec.egress is not None
    refused = session.engine.host_addresses
    return rules_document(sandbox.spec.egress, sandbox=sandbox.address, run=run, refused=refused)


def _give_rules(sandbox: DeclaredSandbox, container: str, run: str, session: Session) -> str:
    """Put the rules into their volume, as a file that the gateway can read and not write; their digest."""
    seen = next((o for o in session.snapshot.sandboxes if o.run == run), None)
    if seen is not None and (seen.applied is None or seen.applied.egress != sandbox.spec.egress):
        # until the end of this apply, what is recorded may not be so
        begin_rules(session.store, run, engine=session.engine.identity)
    document = _rules(sandbox, run, session)
    session.engine.put_archive(container, DIRECTORY, rules_tar(document))
    return digest_of_rules(document)


def rules_tar(document: bytes) -> BinaryIO:
    """The rules as a file that everybody reads and only root writes."""
    return files_tar({FileRef(source=FILE, mode=0o444): document}, 0, 0)


def _await(output: Any, event: str, digest: str, address: str) -> None:
    """Read what the gateway says until it says `event` for these rules. Raises ApplyError when it does not."""
    last = ""
    with output.within(PATIENCE):
        for line in lines(data for _, data in output):
            said = record_of(line)
            if said.get("event") == event and said.get("digest") == digest:
                return
            if said.get("event") == "rules-refused":
                last = str(said.get("error"))
                break
            if said.get("event") not in ("request", None):
                last = str(said.get("error") or said.get("event"))
            elif not said:
                last = line.decode(errors="replace")[:300]
    help = {
        "ready": "nothing passes it; `sandboxrun gateway build` rebuilds the gateway's image",
        "rules": "it may serve by its old rules still: apply again, or replace the sandbox",
    }
    raise ApplyError(
        f"{address}: its gateway does not serve by its rules{': ' + printable(last) if last else ''}",
        help=help[event],
        **(_REPLACING if event == "rules" else {}),
    )


def remove_companions(containers: Iterable[str], network: str | None, session: Session) -> None:
    """Remove a sandbox's companions, and then its network; what is gone already is fine."""
    remove = partial(session.engine.remove_container, force=True, volumes=True)  # those that its image declares
    together(remove, tuple(containers), workers=len(COMPANIONS))
    if network is not None:
        session.engine.remove_network(network)


# -- Whether gateways may listen on the ports of names, HTTP and TLS, though they have no capability

PROBE_SECONDS = 30.0


def low_ports_closed(engine: Engine, image: str) -> str | None:
    """Why a gateway, made from `image`, can't listen on ports below 1024; None where it can. A container tries it."""
    try:
        made = create_container(engine, f"sandboxrun-check-{token_hex(16)}", codec.low_ports_payload(image))
        try:
            with engine.attach(made.id, tty=False) as output, output.within(PROBE_SECONDS):
                engine.start_container(made.id)
                said = b"".join(data for _, data in output)[:200].decode("utf-8", "replace").strip()
        finally:
            with suppress(EngineError):  # it is gone already, or going
                engine.remove_container(made.id, force=True)
    except EngineError as error:
        return error.cause
    return None if said == "open" else said or "the container that was to try it said nothing"
