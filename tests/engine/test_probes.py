"""Every control in both directions on a real engine: the closed sandbox holds, and the weak one does not.

One closed sandbox that has a secret, a workspace of the host's and a gateway, and one weak one beside it, each started
once a phase for all tests.
"""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import docker
import pytest
from msgspec import structs

from sandboxrun.backend.docker.client import Engine, connect
from sandboxrun.data import Data
from sandboxrun.evidence.store import Store
from sandboxrun.lifecycle.apply import ApplySettings
from sandboxrun.lifecycle.verify import Prober
from sandboxrun.probe.controls import BY_ID, CONTROLS, failed, judge
from sandboxrun.probe.program import complete
from sandboxrun.probe.verdicts import Context, Phase, Seen, Verdict
from sandboxrun.profile.loader import load_data
from sandboxrun.spec.project import Profile
from tests.unit.probe.seeing import left_out, told

SECRET = "a value that no output may hold"
SAME_RUN = [one.id for one in CONTROLS if one.id.startswith("gateway-")]  # their negative control is no weak sandbox
OPTIONS = {
    "cpus": 0.5,
    "mem_limit": "96m",
    "pids_limit": 40,
    "tmpfs": ["/tmp:size=8m,mode=1777", "/scratch:size=1m,mode=1777"],
    "group_add": ["3456"],
    "workspace": {"source": "project", "target": "/workspace", "access": "rw"},
    "secrets": ["key"],
    "egress": {"allow": ["api.example.com:443", "*.models.example.org:8443"]},
}


class Probed(Data):
    """What the closed sandbox and the weak one showed, in every phase."""

    context: Context
    strong: Mapping[Phase, Seen]
    weak: Mapping[Phase, Seen]


@pytest.fixture(scope="module")
def probed(
    engine_host: str, run_id: str, tmp_path_factory: pytest.TempPathFactory, busybox: str, gateway_image: str
) -> Iterator[Probed]:
    """All phases, one after the other."""
    folder = tmp_path_factory.mktemp("probes")
    (folder / "project/.git/hooks").mkdir(parents=True)
    (folder / "project/.git/config").write_text("[core]\n")
    os.chown(folder / "project", 1000, 1000)
    with connect(host=engine_host) as engine:
        yield _probe(engine, _profile(f"{run_id}-probes", folder, {"image": busybox, **OPTIONS}), folder)


def _profile(project: str, folder: Path, options: Mapping[str, object]) -> Profile:
    secrets = {"secrets": {"key": {"environment": "KEY"}}} if "secrets" in options else {}
    return load_data({"name": project, "sandboxes": {"a": options}, **secrets}, directory=folder)


def _probe(engine: Engine, profile: Profile, folder: Path) -> Probed:
    (sandbox,) = profile.sandboxes
    prober = Prober(engine, profile, Store(project_directory=folder), ApplySettings(environment={"KEY": SECRET}))
    info = engine.info()
    context = Context(spec=sandbox.spec, host_cpus=int(info["NCPU"]))
    with prober.neighbour(context, ("sandboxrun-weak",)) as neighbours:
        context = structs.replace(context, neighbours=neighbours)
        strong = {phase: prober.strong(sandbox, context, (phase,))[phase] for phase in Phase}
        weak = {phase: prober.weak(context, (phase,))[phase] for phase in Phase}
    return Probed(context=context, strong=strong, weak=weak)


@pytest.mark.parametrize("id", BY_ID)
def test_the_closed_sandbox_holds(probed: Probed, id: str) -> None:
    one = BY_ID[id]
    assert left_out(one, probed.context) is None
    answer = told(one, probed.strong[one.phase], probed.context)
    assert answer.holds is True, answer.seen


@pytest.mark.parametrize("id", [one.id for one in CONTROLS if not one.exempt and one.id not in SAME_RUN])
def test_the_weak_one_does_not(probed: Probed, id: str) -> None:
    one = BY_ID[id]
    weak = probed.weak[one.phase]
    assert failed(one, probed.context, probed.strong[one.phase], weak), told(one, weak, probed.context).seen
    busy_or_partly_missing = one.id == "cpu-time" or one.moot(probed.strong[one.phase], weak, probed.context)
    if not busy_or_partly_missing:
        assert told(one, weak, probed.context).holds is False, told(one, weak, probed.context).seen


@pytest.mark.parametrize("id", SAME_RUN)
def test_the_gateway_lets_a_listed_host_through(probed: Probed, id: str) -> None:
    one = BY_ID[id]
    assert failed(one, probed.context, probed.strong[one.phase], {})


def test_every_verdict_is_that_it_holds(probed: Probed) -> None:
    findings = judge("a", probed.context, probed.strong, probed.weak)
    assert {
        f.control: f"{f.verdict.value}: {f.seen} {f.note}" for f in findings if f.verdict is not Verdict.HOLDS
    } == {}


def test_the_weak_one_would_be_found_out(probed: Probed) -> None:
    """Judged as if it were the sandbox: whatever can be taken off is seen to be off."""
    findings = judge("a", probed.context, probed.weak, probed.weak)
    passed = {f.control for f in findings if f.verdict is Verdict.HOLDS}
    assert passed <= {one.id for one in CONTROLS if one.exempt} | {"cpu-time"}


def test_nothing_shows_the_secret(probed: Probed) -> None:
    shown = [value for seen in probed.strong.values() for values in seen.values() for value in values.values()]
    assert shown
    assert not [value for value in shown if SECRET in value]


def test_every_phase_ended_as_it_should(probed: Probed) -> None:
    assert complete(probed.strong[Phase.BATTERY]) and complete(probed.strong[Phase.PROCESSES])
    assert not complete(probed.strong[Phase.MEMORY]) and not complete(probed.strong[Phase.STUBBORN])
    assert all(complete(probed.weak[phase]) for phase in Phase)


def test_nothing_of_the_probes_is_left_in_the_workspace(
    probed: Probed, tmp_path_factory: pytest.TempPathFactory
) -> None:
    left = [path.name for path in tmp_path_factory.getbasetemp().glob("probes*/project/*")]
    assert not [name for name in left if "probe" in name]


@pytest.fixture(scope="module")
def nothing(engine_client: docker.DockerClient, run_id: str) -> Iterator[str]:
    """An image that holds no file at all."""
    data = io.BytesIO()
    tarfile.open(fileobj=data, mode="w").close()
    name = f"{run_id}-nothing:latest"
    engine_client.api.import_image_from_data(data.getvalue(), repository=f"{run_id}-nothing", tag="latest")
    yield name
    engine_client.images.remove(name, force=True)


def test_an_image_without_any_file_is_probed_the_same(
    engine_host: str, project: str, tmp_path: Path, nothing: str
) -> None:
    with connect(host=engine_host) as engine:
        found = _probe(engine, _profile(project, tmp_path, {"image": nothing, "network_mode": "none"}), tmp_path)
    findings = judge("a", found.context, found.strong, found.weak)
    assert {f.control: f"{f.verdict.value}: {f.seen} {f.note}" for f in findings if not f.verdict.passes} == {}
    assert sum(f.verdict is Verdict.HOLDS for f in findings) > 40
