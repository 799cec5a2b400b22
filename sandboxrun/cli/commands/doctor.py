"""`sandboxrun doctor`: the engine's facts in words, what of a profile it can't enforce, where an engine was sought; and
`sandboxrun gateway`: the image that sandboxes' gateways run from.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

import click
import msgspec

from sandboxrun.audit.rules.image import below_floors
from sandboxrun.backend.docker.client import connect
from sandboxrun.backend.docker.facts import EngineFacts, Quota, engine_facts, filters_paths
from sandboxrun.backend.docker.reviewing import components
from sandboxrun.backend.docker.transport import Endpoint, resolve
from sandboxrun.backend.errors import EngineError
from sandboxrun.cli import options as opt
from sandboxrun.cli.output import note, result, tell_all
from sandboxrun.errors import amount, printable
from sandboxrun.report.diagnostics import diagnostic_json

if TYPE_CHECKING:
    from sandboxrun.backend.docker.client import Engine


@click.command()
@opt.taking(*opt.PROFILE, opt.host, opt.as_json)
def doctor(given: opt.Given) -> int:
    """Show what the engine offers and, if there is a profile, which of its options the engine cannot enforce.

    Exits with 1 if something cannot be enforced, or if no engine answers.
    """
    endpoint = resolve(given.host, os.environ)
    if given.host:
        endpoint = msgspec.structs.replace(endpoint, origin="--host")
    try:
        engine = connect(given.host)
    except EngineError as error:
        message = error.diagnostics[0].message
        if given.as_json:
            result({"engine": None, "endpoint": endpoint.url, "origin": endpoint.origin, "error": message})
            return 1
        looked = [f"  {line}" for line in sought(given.host, os.environ, endpoint)]
        do = [f"  - {line}" for line in advice(endpoint)]
        result("\n".join([f"no engine: {message}", "", "looked for in this order:", *looked, "", "what to do:", *do]))
        return 1
    with engine:
        return _examine(engine, endpoint, given)


def _examine(engine: Engine, endpoint: Endpoint, given: opt.Given) -> int:
    from sandboxrun.backend.docker.companions import low_ports_closed
    from sandboxrun.backend.docker.observe import helper_on, offers_of
    from sandboxrun.plan.preflight import preflight

    facts = engine_facts(engine.version(), engine.info(), engine.networks())
    shares, why = engine.shares_filesystem(), engine.filesystem_reason()
    holes = [message for _, _, message in below_floors(components(engine))]
    helper = helper_on(engine)
    closed = low_ports_closed(engine, helper.id) if helper.id is not None else None
    profile, faults = None, []
    if given.files or opt.default_files():
        profile = opt.load_profile(given)
        offers = offers_of(engine, engine.info(), profile.sandboxes)
        offers = msgspec.structs.replace(offers, low_ports_closed=closed)
        faults = preflight(profile.sandboxes, offers)
    if given.as_json:
        judged = None
        if profile is not None:
            judged = {
                "project": profile.project,
                "sandboxes": [sandbox.address for sandbox in profile.sandboxes],
                "enforceable": not faults,
                "faults": [diagnostic_json(fault) for fault in faults],
            }
        told = {
            **msgspec.to_builtins(facts),
            "api_in_use": engine.api_version,
            "endpoint": endpoint.url,
            "origin": endpoint.origin,
            "shares_filesystem": shares,
            "filesystem_reason": why,
        }
        gateway = {
            "image": helper.reference,
            "present": helper.id is not None,
            "haproxy": helper.haproxy or None,
            "unfit": helper.unfit,
            "low_ports": closed is None if helper.id is not None else None,  # None: nobody tried
            "low_ports_closed": closed,
        }
        beside = {"host_filters_paths": filters_paths(engine), "below_floors": holes, "profile": judged}
        result({"engine": told, "gateway": gateway, **beside})
        return 1 if faults else 0
    has = f"image {helper.reference}, HAProxy {helper.haproxy}"
    low_ports = "open to gateways (53, 80 and 443, without a capability)"
    if closed is not None:
        low_ports = f"NOT open: {printable(closed)}"
    if helper.id is None:
        has = "NO image: `sandboxrun gateway build` makes it"
        low_ports = "not tried: there is no gateway image to try them with"
    elif helper.unfit is not None:
        has = f"image {helper.reference} {helper.unfit}: `sandboxrun gateway build` makes it again"
    lines = [
        *engine_lines(facts, engine.api_version, endpoint, shares, why),
        ("gateway", has),
        ("low ports", low_ports),
        ("broadcasts", _BROADCASTS[filters_paths(engine)]),
        *(("version", printable(hole)) for hole in holes),
        *(("warning", warning) for warning in facts.warnings),
    ]
    width = max(len(name) for name, _ in lines)
    result("\n".join(f"{name:<{width}}  {text}" for name, text in lines))
    if profile is None:
        note("\nThere is no profile here to check against it: pass one with --file.")
        return 0
    of_what = f"its {amount(len(profile.sandboxes), 'sandbox', 'es')}"
    if not faults:
        result(f"\nproject {profile.project}: every option of {of_what} can be enforced here")
        return 0
    result(f"\nproject {profile.project}: {amount(len(faults), 'option')} of {of_what} can't be enforced here")
    tell_all(faults)
    return 1


_QUOTA = {
    Quota.YES: "can be limited",
    Quota.NO: "can't be limited",
    Quota.UNKNOWN: "depends on a mount option (pquota) that the engine does not report",
}
_LIMITS = {
    "memory": "memory", "swap": "swap", "cpus": "CPUs", "cpu_shares": "CPU shares", "cpuset": "cpusets",
    "pids": "processes",
}  # fmt: skip
# What settles the engine, in the order it counts; the same as backend/docker/transport.py has.
SETTINGS = ("DOCKER_SOCKET", "DOCKER_HOST", "DOCKER_CONTEXT")


def engine_lines(facts: EngineFacts, api: str, endpoint: Endpoint, shares: bool, why: str) -> list[tuple[str, str]]:
    """The engine in words: what, and what of it."""
    limits = msgspec.structs.asdict(facts.limits)
    missing = [words for key, words in _LIMITS.items() if not limits[key]]
    kept = [words for key, words in _LIMITS.items() if limits[key]]
    there = {"AppArmor": facts.apparmor, "SELinux": facts.selinux, "user namespaces": facts.userns}
    on = [name for name, holds in {**there, "rootless": facts.rootless}.items() if holds]
    swap = "counted: memswap_limit is enforced" if limits["swap"] else "NOT counted: memswap_limit can't be enforced"
    told = [
        ("engine", f"{facts.name} {facts.version} at {endpoint}"),
        ("API", f"{api} in use, {facts.api_version} offered"),
        ("system", f"{facts.system}, {facts.architecture}, kernel {facts.kernel}"),
        ("machine", f"{facts.cpus} CPUs, {facts.memory / 2**30:.1f} GiB of memory"),
        ("cgroups", f"version {facts.cgroup_version}, driver {facts.cgroup_driver}"),
        ("limits", "; ".join(filter(None, (", ".join(kept), f"NOT {', '.join(missing)}" if missing else "")))),
        ("swap", swap),
        ("runtimes", f"{', '.join(facts.runtimes)}; default {facts.default_runtime}"),
        ("seccomp", f"on, profile {facts.seccomp}" if facts.seccomp else "OFF"),
        ("security", ", ".join(on) or "no AppArmor, SELinux, user namespaces or rootless mode"),
        ("storage", f"{facts.storage_driver}; a sandbox's disk use {_QUOTA[facts.storage_quota]}"),
        ("logging", f"{facts.logging_driver} by default"),
        ("networks", f"room for {facts.free_subnets} more"),
        ("files", f"{'shared with' if shares else 'not shared with'} this process: {why}"),
    ]
    return [(name, printable(text)) for name, text in told]


# What happens to what a sandbox sends to everybody on its network, the engine's machine among them
_BROADCASTS = {
    True: "of sandboxes are dropped by the host (rp_filter)",
    False: "of sandboxes reach the HOST's UDP services: set net.ipv4.conf.default.rp_filter=2, then recreate networks",
    None: "of sandboxes: whether the host drops them (rp_filter) can't be seen from here",
}


def sought(host: str | None, environment: Mapping[str, str], taken: Endpoint) -> list[str]:
    """Where an engine was looked for, in the order that counts, the one that was taken marked."""
    given = [("--host", host), *((name, environment.get(name)) for name in SETTINGS)]
    lines = [f"{name:<26} {printable(value) if value else 'not given'}" for name, value in given]
    lines += ["docker's current context", "the usual socket"]
    names = ["--host", *SETTINGS]
    at = next((n for n, name in enumerate(names) if given[n][1]), None)
    if at is None:
        at = len(lines) - 1 if taken.origin == "the default" else len(lines) - 2
        lines[at] = f"{lines[at]:<26} {printable(taken.url)}"
    lines[at] += "   <- this one"
    return lines


def advice(endpoint: Endpoint) -> list[str]:
    """What to do about an engine that does not answer."""
    if endpoint.url.startswith("unix://"):
        path = printable(endpoint.url.removeprefix("unix://"))
        return [
            f"is an engine running on this machine? Its socket would be {path}",
            f"may this user use it? See `ls -l {path}`; the engine's group is usually docker",
            "in a pipeline job, mount the socket or start the engine beside the job, and set DOCKER_HOST",
        ]
    if endpoint.url.startswith("ssh://"):
        return [f"does `ssh {printable(endpoint.url.removeprefix('ssh://'))} docker version` work?"]
    return [
        "does the engine listen on that address, and do firewalls let it through?",
        "with TLS: DOCKER_TLS_VERIFY=1, and ca.pem, cert.pem and key.pem in DOCKER_CERT_PATH",
    ]


@click.group(cls=opt.Subcommands)
def gateway() -> None:
    """Build the image of the gateways through which sandboxes reach the network."""


@gateway.command()
@opt.taking(
    click.option(
        "--from",
        "base",
        metavar="IMAGE",
        help="What to build on: any image with Python 3.11 or newer as python3; HAProxy 2.6 or newer is installed from "
        "its packages if it is missing. Default: python:3.13-alpine.",
    ),
    click.option(
        "--pull",
        "again",
        is_flag=True,
        help="Pull the base and build again, even if the image is there: to get a fixed HAProxy.",
    ),
    opt.host,
    opt.quiet,
)
def build(given: opt.Given, base: str | None, again: bool) -> None:
    """Build the gateway's image on the engine, if it is missing, and print its name.

    Downloads only the base image and HAProxy, if the engine or the base does not have them. Gateways that run keep the
    image that they were made from; sandboxes created later get the new one.
    """
    from sandboxrun.backend.docker.observe import helper_on
    from sandboxrun.gateway import image

    with opt.open_engine(given.host) as engine:
        there = helper_on(engine)
        if there.id is None or there.unfit is not None or base is not None or again:
            base = base or image.BASE
            if again or engine.image(base) is None:
                note(f"pulling {base}", quiet=given.quiet)
                image.pull_base(engine, base)
            note(f"building {image.reference()} on {base}", quiet=given.quiet)
            image.build(engine, base)
        result(image.reference())
