"""`verify --running`: live sandboxes, looked at from outside without entering them.

Owns what is looked at: what the engine shows, what the host's kernel shows, and the gateway beside the sandbox. The
verdicts are the probe room's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import attrs

from sandboxrun.engine.client import Engine
from sandboxrun.engine.errors import EngineError
from sandboxrun.errors import ApplyError, Diagnostic, UsageError
from sandboxrun.model.declared import Profile
from sandboxrun.model.observed import Image, ObservedSandbox, Running
from sandboxrun.model.spec import SandboxSpec
from sandboxrun.plan.diff import compare
from sandboxrun.probe import outside_limits, outside_places, outside_process
from sandboxrun.probe.findings import Finding, Verdict
from sandboxrun.probe.outside_look import Accounts, Looked, findings
from sandboxrun.probe.outside_options import options
from sandboxrun.probe.staging import CONFIG
from sandboxrun.workflow.gateside import gateway_findings
from sandboxrun.workflow.hostside import device_numbers, look, namespaces_of
from sandboxrun.workflow.observe import take_snapshot

if TYPE_CHECKING:
    from sandboxrun.evidence.store import Store

CHECKS = (*outside_process.CHECKS, *outside_limits.CHECKS, *outside_places.CHECKS)


def verify_running(engine: Engine, profile: Profile, store: Store, names: tuple[str, ...] = ()) -> tuple[Finding, ...]:
    """Findings of every live sandbox of the project, in the profile's order; of those that `names` mean, if any.

    Raises UsageError where nothing runs, or nothing of a name; EngineError.
    """
    snapshot = take_snapshot(engine, profile, store)
    live = [o for o in snapshot.sandboxes if isinstance(o.state, Running) and not _is_probe(o)]
    chosen = _chosen(live, names, profile)
    order = {sandbox.address: n for n, sandbox in enumerate(profile.sandboxes)}
    chosen.sort(key=lambda o: (order.get(o.address, len(order)), o.address, o.one_off, o.name))
    spaces = {o.id: _namespaces(o.inspect, label(o)) for o in live}
    found: list[Finding] = []
    for observed in chosen:
        others = {link: whose for id, links in spaces.items() if id != observed.id for link, whose in links.items()}
        spec = expected(profile, observed)
        if profile.sandbox(observed.address) is None:
            found.append(_undeclared(label(observed)))
        found += look_at(engine, profile, observed, spec, snapshot.images.get(spec.image), others)
    return tuple(found)


def look_at(
    engine: Engine,
    profile: Profile,
    observed: ObservedSandbox,
    spec: SandboxSpec,
    image: Image | None,
    others: Mapping[str, str],
) -> tuple[Finding, ...]:
    """All findings of one live sandbox that must be as `spec`. `image` is what its reference means now, `others` are
    the namespaces of others, by whom they belong to."""
    name = label(observed)
    differences = compare(spec, observed, image if image is not None and image.config is not None else None)
    shown = options(name, differences, applied=observed.applied is not None, sensitive=profile.sensitive)
    looked = Looked(
        spec=spec,
        outside=look(engine, observed.inspect, others),
        accounts=_accounts(engine, observed.id, spec),
        devices=frozenset(device_numbers(device.source for device in spec.devices)),
        volumes=frozenset((observed.inspect.get("Config") or {}).get("Volumes") or ()),
    )
    return (
        *shown,
        *findings(name, looked, CHECKS),
        *gateway_findings(engine, profile, name, spec, observed),
    )


def label(observed: ObservedSandbox) -> str:
    """How findings name it: its address, and of a one-off its run."""
    return f"{observed.address} (run {observed.run[:12]})" if observed.one_off else observed.address


def expected(profile: Profile, observed: ObservedSandbox) -> SandboxSpec:
    """What it must be: as declared. A one-off may have a command and a terminal of its own; of one that nothing
    declares there is only what its own label says."""
    declared, applied = profile.sandbox(observed.address), observed.applied
    if declared is None:
        return applied or SandboxSpec(image=observed.spec.image)
    if observed.one_off and applied is not None:
        return attrs.evolve(declared.spec, command=applied.command, tty=applied.tty, stdin_open=applied.stdin_open)
    return declared.spec


def _undeclared(name: str) -> Finding:
    return Finding(
        sandbox=name,
        control="declared",
        title="the profile declares it",
        field="label sandboxrun.sandbox",
        expected="declared",
        seen="not declared",
        verdict=Verdict.INCONCLUSIVE,
        note="what it must be is taken from its own label, which whoever made it wrote",
    )


def _is_probe(observed: ObservedSandbox) -> bool:
    """Whether a verification of its own runs there: its options are not the declared ones on purpose."""
    spec = observed.applied or observed.spec
    return observed.one_off and any(config.source == CONFIG for config in spec.configs)


def _chosen(live: list[ObservedSandbox], names: tuple[str, ...], profile: Profile) -> list[ObservedSandbox]:
    chosen = [o for o in live if not names or _means(names, o.address)]
    missing = [name for name in names if not any(_means((name,), o.address) for o in live)]
    faults = [Diagnostic(message=f"no sandbox {name} runs", help=_ADVICE) for name in missing]
    if not chosen and not faults:
        faults = [Diagnostic(message=f"no sandbox of {profile.project} runs", help=_ADVICE)]
    if faults:
        raise UsageError(*faults)
    return chosen


_ADVICE = "apply first; without --running, sandboxes are started to be verified"


def _means(names: Iterable[str], address: str) -> bool:
    return address in names or address.partition("[")[0] in names


def _namespaces(inspect: Mapping[str, Any], whose: str) -> Mapping[str, str]:
    pid = int((inspect.get("State") or {}).get("Pid") or 0)
    try:
        return dict.fromkeys(namespaces_of(pid).values(), whose) if pid > 0 else {}
    except OSError:
        return {}  # what it shares, the other one's own look finds


def _accounts(engine: Engine, container: str, spec: SandboxSpec) -> Accounts | None:
    """The declared user by number; None where the image does not know it."""
    from sandboxrun.apply.accounts import login, look_up

    try:
        uid, gid, groups = login(engine, container, spec.user)
        added = {look_up(engine, container, "0", group)[1] for group in spec.group_add}
    except (ApplyError, EngineError):
        return None
    return Accounts(uid=uid, gid=gid, groups=groups | added)


__all__ = ["expected", "label", "look_at", "verify_running"]
