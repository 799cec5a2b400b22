"""verify on a real engine, in both directions: what is closed holds, what is not as declared does not."""

from __future__ import annotations

import io
import json
import os
import signal
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import docker
import jsonschema
import pytest

from sandboxrun.backend.docker.client import connect
from sandboxrun.backend.session import Made, Session
from sandboxrun.errors import ApplyError
from sandboxrun.evidence.store import Store
from sandboxrun.lifecycle import apply as converge
from sandboxrun.lifecycle.verify import Proving
from sandboxrun.probe.verdicts import Verdict
from sandboxrun.profile.files import bases
from sandboxrun.profile.loader import load
from sandboxrun.spec.project import DeclaredSandbox
from tests.conftest import Cli, Ran
from tests.engine.own_engine import OwnEngine, open_engine, why_impossible

SCHEMA = json.loads((Path(__file__).parents[2] / "schemas" / "verify.schema.json").read_text())


def write(folder: Path, project: str, text: str) -> None:
    (folder / "sandbox.yaml").write_text(f"name: {project}\nsandboxes:\n{text}")


def document(ran: Ran) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(ran.out)
    jsonschema.validate(found, SCHEMA)
    return found


def verdicts(found: Mapping[str, Any], sandbox: str = "agent") -> dict[str, str]:
    """Control → verdict of one sandbox."""
    one = next(s for s in found["sandboxes"] if s["sandbox"] == sandbox)
    return {finding["control"]: finding["verdict"] for finding in one["findings"]}


def faults(found: Mapping[str, Any]) -> dict[str, str]:
    """What does not hold or is inconclusive: control → verdict and what was seen."""
    return {
        f["control"]: f"{f['verdict']}: {f['seen']} {f['note']}"
        for one in found["sandboxes"]
        for f in one["findings"]
        if f["verdict"] in ("does_not_hold", "inconclusive")
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def destroyed(folder: Path, cli: Cli) -> Iterator[None]:
    yield
    ran = cli("destroy", "-y", "-q")
    assert ran.code == 0, ran.err


@pytest.fixture(autouse=True)
def _no_evidence_left(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Probes' evidence goes to the state directory, and is gone afterwards; TMPDIR is left alone."""
    state, temporary = (tmp_path_factory.mktemp(name) for name in ("state", "temporary"))
    monkeypatch.setenv("XDG_STATE_HOME", str(state))
    monkeypatch.setenv("TMPDIR", str(temporary))
    yield
    assert [str(path) for path in state.rglob("*") if path.is_file() and path.name != "seal.key"] == []
    assert list(temporary.iterdir()) == []


# -- the probe from inside ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("base", sorted(bases()))
def test_every_shipped_base_holds(base: str, folder: Path, project: str, agent_image: str, cli: Cli) -> None:
    write(folder, project, f"  agent:\n    extends: {base}\n    image: {agent_image}\n    command: [sh, -c, exit 3]\n")
    (folder / "file").write_text("content")
    ran = cli("verify", "--json", timeout=300)
    if base == "gvisor" and "runsc" in ran.err:
        assert "runtime" in ran.err, ran.err
        pytest.skip("the engine has no runtime runsc")
    found = document(ran)
    assert faults(found) == {}
    assert ran.code == 0 and found["verified"]
    assert found["summary"]["holds"] >= (20 if base == "gvisor" else 40)
    assert not (folder / ".sandboxrun" / "evidence").exists()  # no run of the agent's


def test_an_image_from_scratch_is_verified(
    engine_client: docker.DockerClient, folder: Path, project: str, cli: Cli
) -> None:
    empty = io.BytesIO()
    with tarfile.open(fileobj=empty, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("only"))
    answer = engine_client.api.import_image_from_data(empty.getvalue(), repository=f"{project}-scratch", tag="latest")
    try:
        write(folder, project, f"  agent: {{image: {project}-scratch, network_mode: none, command: [/only]}}\n")
        ran = cli("verify", "--json")
        assert faults(document(ran)) == {}
        assert ran.code == 0, (answer, ran.err)
    finally:
        engine_client.images.remove(f"{project}-scratch:latest", force=True)


def test_what_the_profile_opens_is_said(folder: Path, project: str, busybox: str, cli: Cli) -> None:
    """What is declared open is no fault: the profile is reviewed. Each says so."""
    write(
        folder,
        project,
        f"  agent: {{image: {busybox}, network_mode: none, mem_limit: 0, pids_limit: 0, cpus: 0, read_only: false, "
        'user: root, cap_add: [NET_ADMIN, SYS_PTRACE], security_opt: ["no-new-privileges:false"]}\n',
    )
    # what it does side by side must not wait for its own lock in vain, as on a slow engine
    ran = cli("verify", "--json", "--lock-timeout", "0s")
    found = document(ran)
    assert faults(found) == {} and ran.code == 0
    told = {f["control"]: f"{f['verdict']} {f['expected']} {f['note']}" for f in found["sandboxes"][0]["findings"]}
    for control in (
        "no-new-privileges",
        "user",
        "groups",
        "netlink",
        "tracing",
        "memory-limit",
        "pids-limit",
        "cpu-quota",
    ):
        assert told[control].startswith("not_applicable  the profile"), told[control]
    assert "at most NET_ADMIN, SYS_PTRACE" in told["capabilities"] and "runs it as root" in told["user"]


def test_each_instance_and_only_those_named(folder: Path, project: str, busybox: str, cli: Cli) -> None:
    write(
        folder,
        project,
        f"  agent: {{for_each: [a, b], image: {busybox}, network_mode: none}}\n"
        f"  other: {{image: {busybox}, network_mode: none}}\n",
    )
    ran = cli("verify", "--json", "agent")
    assert [one["sandbox"] for one in document(ran)["sandboxes"]] == ['agent["a"]', 'agent["b"]']
    assert ran.code == 0
    wrong = cli("verify", "agnet")
    assert wrong.code == 2 and 'did you mean "agent"?' in wrong.err


def test_an_image_that_is_not_there_is_an_error(folder: Path, project: str, cli: Cli) -> None:
    write(folder, project, "  agent: {image: no-such-image:latest, network_mode: none, pull_policy: never}\n")
    ran = cli("verify", "--json")
    assert ran.code == 1 and ran.out == ""
    assert "agent: the image no-such-image:latest is not on the engine" in ran.err


def test_an_engine_that_does_not_separate_neighbours_is_found_out(
    make_engine: Callable[..., OwnEngine], folder: Path, project: str, busybox: str, cli: Cli
) -> None:
    """Without iptables an engine takes the network's option, shows it, and enforces nothing. What it limits by itself
    shows in a weak sandbox too, unless that one has more."""
    limits = ("--default-ulimit=nofile=1024:4096", "--default-ulimit=core=0:0")
    engine = make_engine("--iptables=false", *limits)
    profile = f"name: {project}\nnetworks: {{inner: {{}}}}\nsandboxes:\n"
    profile += f"  agent: {{image: {busybox}, networks: [inner], command: [sleep, '600']}}\n"
    (folder / "sandbox.yaml").write_text(profile)
    ran = cli("verify", "--json", "--host", engine.host)
    found = document(ran)
    assert ran.code == 1 and not found["verified"]
    assert faults(found).keys() == {"neighbours"} and verdicts(found)["neighbours"] == "does_not_hold"

    applied = cli("apply", "--verify", "-y", "--host", engine.host)
    assert applied.code == 1
    assert "error: agent: neighbours does not hold" in applied.err
    assert "Plan: 2 to add" in applied.out and "does not hold" in applied.out and "Done:" not in applied.out
    client = engine.client()
    assert client.containers.list(all=True, ignore_removed=True) == []
    assert {n.name for n in client.networks.list()} == {"bridge", "host", "none"}
    client.close()


@pytest.mark.own_engine
@pytest.mark.skipif("SANDBOXRUN_DEV_SYSTEM" in os.environ, reason="the ids are given in this system's files")
def test_an_engine_with_user_namespaces_holds(folder: Path, project: str, busybox: str, cli: Cli) -> None:
    """Its root is nobody on the host; what is written to a workspace belongs to who the user is there."""
    if reason := why_impossible():
        pytest.skip(reason)
    (ids := folder / "ids").write_text("daemon:200000:65536\n")
    binds = [f"mount --bind {ids} /etc/{name}" for name in ("subuid", "subgid")]
    engine = open_engine("--userns-remap=daemon", mounts=" && ".join(binds))
    try:
        (folder / "ws").mkdir()
        os.chown(folder / "ws", 201000, 201000)
        write(
            folder,
            project,
            f"  agent: {{image: {busybox}, network_mode: none, command: [touch, made], workspace: {{source: ws, "
            "access: rw}}\n",
        )
        assert cli("run", "--host", engine.host).code == 0
        assert (folder / "ws/made").stat().st_uid == 201000
        ran = cli("verify", "--json", "--host", engine.host)
        found = document(ran)
        assert faults(found) == {} and ran.code == 0

        live = f"  agent: {{image: {busybox}, network_mode: none, command: [sleep, '600']}}\n"
        write(folder, project, live)
        assert cli("apply", "-y", "--host", engine.host).code == 0
        ran = cli("verify", "--running", "--json", "--host", engine.host)
        assert faults(document(ran)) == {} and ran.code == 0
        assert cli("destroy", "-y", "--host", engine.host).code == 0
    finally:
        engine.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_nothing(
    number: int, engine_client: docker.DockerClient, folder: Path, project: str, busybox: str, cli: Cli
) -> None:
    write(folder, project, f"  agent: {{image: {busybox}, network_mode: none}}\n")
    process = cli.start("verify", "-v")
    assert process.stderr is not None
    while "weak sandbox for comparison: battery" not in (line := process.stderr.readline()):
        assert line, "ended before its time"
    os.kill(process.pid, number)
    ran = cli.finish(process)
    assert ran.code == 128 + number
    assert ran.out == "" and "interrupted: nothing is known" in ran.err
    assert (
        engine_client.containers.list(all=True, filters={"label": f"sandboxrun.project={project}"}, ignore_removed=True)
        == []
    )


def test_what_a_killed_one_left_is_collected(
    engine_client: docker.DockerClient, folder: Path, project: str, busybox: str, cli: Cli
) -> None:
    """The next destroy takes its sandboxes, volumes and network; its probes were no run of the agent's."""
    write(folder, project, f"  agent: {{image: {busybox}, network_mode: none, command: [sleep, '600']}}\n")
    process = cli.start("verify", "-v")
    assert process.stderr is not None
    while "weak sandbox for comparison: battery" not in (line := process.stderr.readline()):
        assert line, "ended before its time"
    process.kill()
    cli.finish(process)
    mine = {"label": f"sandboxrun.project={project}"}
    assert engine_client.containers.list(all=True, filters=mine, ignore_removed=True) != []
    planned = cli("plan", "--json")
    changes = {c["address"]: c["change"]["actions"] for c in json.loads(planned.out)["resource_changes"]}
    assert changes["agent"] == ["create"]
    assert cli("destroy", "-y", "-q").code == 0
    assert engine_client.containers.list(all=True, filters=mine, ignore_removed=True) == []
    assert engine_client.networks.list(filters=mine) == engine_client.volumes.list(filters=mine) == []


@pytest.mark.parametrize("then", ["run", "verify"])
def test_what_a_killed_one_keeps_in_a_workspace_goes_with_the_next(
    then: str, engine_client: docker.DockerClient, folder: Path, project: str, busybox: str, cli: Cli
) -> None:
    """With all its containers, whatever they do, and their networks; what a killed run left stays, and is told."""
    workspace = "workspace: {source: ./ws, access: rw}"
    write(folder, project, f"  agent: {{image: {busybox}, network_mode: none, command: ['true'], {workspace}}}\n")
    (folder / "ws").mkdir()
    mine = {"label": f"sandboxrun.project={project}"}

    def kill(*arguments: str) -> None:
        process = cli.start(*arguments)
        until = time.monotonic() + 60
        while not any((folder / "ws").iterdir()) or not engine_client.containers.list(
            filters=mine, ignore_removed=True
        ):
            assert process.poll() is None and time.monotonic() < until
            time.sleep(0.02)
        process.kill()
        cli.finish(process)

    def there() -> tuple[int, int, list[str]]:
        containers = engine_client.containers.list(all=True, filters=mine, ignore_removed=True)
        return len(containers), len(engine_client.networks.list(filters=mine)), os.listdir(folder / "ws")

    kill("verify", "agent")
    assert there()[0] > 0 and len(there()[2]) > 10
    ran = cli(then, "agent", timeout=300)
    assert (ran.code, "notice" in ran.err, there()) == (0, False, (0, 0, [])), ran.err

    kill("run", "agent", "--", "sleep", "600")
    ran = cli(then, "agent", timeout=300)
    assert ran.code == 0 and "stays there for sandboxes of killed commands: agent (run " in ran.err
    assert there()[0] == 1 and len(there()[2]) > 10
    assert cli("destroy", "-y", "-q").code == 0
    assert there() == (0, 0, [])


# -- apply --verify and run --verify --------------------------------------------------------------------------------


def test_apply_verifies_first_and_then_looks(
    folder: Path, project: str, busybox: str, cli: Cli, destroyed: None
) -> None:
    write(folder, project, f"  agent: {{image: {busybox}, network_mode: none, command: [sleep, '600']}}\n")
    ran = cli("apply", "--verify", "-y")
    assert ran.code == 0, ran.err
    lines = ran.out.rstrip("\n").split("\n")
    assert lines[-3].startswith("Verified: ") and lines[-2].startswith("Looked at from outside: ")
    assert lines[-1] == "Done: 1 added, 0 changed, 0 destroyed."
    again = cli("apply", "--verify", "-y")
    assert again.code == 0 and "Verified" not in again.out  # nothing is made: nothing to verify
    assert "No changes." in again.out


def test_apply_tells_a_verification_as_a_json_line(
    folder: Path, project: str, busybox: str, cli: Cli, destroyed: None
) -> None:
    write(folder, project, f"  agent: {{image: {busybox}, network_mode: none, command: [sleep, '600']}}\n")
    ran = cli("apply", "--verify", "-y", "--json")
    told = [json.loads(line) for line in ran.out.splitlines()]
    found = [line["verification"] for line in told if line["type"] == "verification"]
    for one in found:
        jsonschema.validate(one, SCHEMA)
        assert faults(one) == {}
    assert [one["mode"] for one in found] == ["probe", "running"], ran.err


class Tampering(Proving):
    """A proof in which somebody else raises a limit between the start of a sandbox and the look at it."""

    def before(self, sandboxes: tuple[DeclaredSandbox, ...], guard: Callable[[], None] | None = None) -> None:
        """What comes after is tested."""

    def look(self, session: Session, sandbox: DeclaredSandbox, made: Made) -> None:
        session.engine.update_container(made.id, {"Memory": 128 << 20, "MemorySwap": 128 << 20})
        super().look(session, sandbox, made)


def test_one_that_does_not_hold_once_it_runs_is_ended_with_its_evidence(
    engine_client: docker.DockerClient, engine_host: str, folder: Path, project: str, busybox: str
) -> None:
    write(
        folder,
        project,
        f"  agent: {{image: {busybox}, network_mode: none, mem_limit: 64m, command: [sh, -c, 'echo up; sleep 600']}}\n",
    )
    profile, store, settings = (
        load([folder / "sandbox.yaml"]),
        Store(project_directory=folder),
        converge.ApplySettings(),
    )
    with connect(engine_host) as engine:
        proof = Tampering(engine, profile, settings)
        with pytest.raises(ApplyError, match="agent: memory-limit does not hold: expected 64m, seen 128m") as raised:
            converge.apply(engine, profile, store, settings=settings, proof=proof)
    assert "its evidence is kept" in str(raised.value)
    assert {f.control for f in proof.outside if f.verdict is Verdict.FAILS} >= {"memory-limit", "swap-limit"}
    assert [entry.sandbox for entry in store.entries()] == ["agent"]
    assert (
        engine_client.containers.list(all=True, filters={"label": f"sandboxrun.project={project}"}, ignore_removed=True)
        == []
    )


def test_run_verifies_first(folder: Path, project: str, busybox: str, cli: Cli) -> None:
    write(folder, project, f"  agent: {{image: {busybox}, network_mode: none, command: [sh, -c, 'sleep 1; exit 3']}}\n")
    ran = cli("run", "--verify")
    assert ran.code == 3, ran.err
    assert "Verified: " in ran.err and "Looked at from outside: " in ran.err


# -- live sandboxes, from outside -----------------------------------------------------------------------------------


@pytest.fixture
def live(folder: Path, project: str, busybox: str, cli: Cli, destroyed: None) -> str:
    """A running sandbox's container name."""
    write(
        folder,
        project,
        f"  agent: {{image: {busybox}, network_mode: none, mem_limit: 64m, command: [sleep, '600']}}\n",
    )
    ran = cli("apply", "-y", "-q")
    assert ran.code == 0, ran.err
    return f"{project}-agent"


def test_a_live_sandbox_holds(live: str, cli: Cli) -> None:
    ran = cli("verify", "--running", "--json")
    found = document(ran)
    assert faults(found) == {}
    assert ran.code == 0 and found["mode"] == "running"
    seen = verdicts(found)
    for control in ("options", "user", "capabilities", "seccomp", "namespaces", "memory-limit", "pids-limit", "mounts"):
        assert seen[control] == "holds"


def test_a_live_sandbox_of_an_image_whose_sbin_is_a_link(
    folder: Path, project: str, agent_image: str, cli: Cli, destroyed: None
) -> None:
    """There the engine's init stands elsewhere."""
    write(folder, project, f"  agent: {{image: {agent_image}, network_mode: none, command: [sleep, '600']}}\n")
    ran = cli("apply", "-y", "-q")
    assert ran.code == 0, ran.err
    link = cli("exec", "agent", "--", "readlink", "/sbin")
    assert link.out == "usr/sbin\n", "the image has no such link: this test shows nothing"
    assert faults(document(cli("verify", "--running", "--json"))) == {}


def test_text_and_markdown(live: str, project: str, cli: Cli) -> None:
    text, comment = cli("verify", "--running"), cli("verify", "--running", "--format", "markdown")
    assert json.loads(cli("schema", "--verify").out) == SCHEMA
    assert text.out.split("\n")[1].split() == ["CONTROL", "ENGINE", "FIELD", "EXPECTED", "SEEN", "VERDICT"]
    assert "0 do not hold, 0 inconclusive" in text.out.rstrip("\n").rpartition("\n")[2]
    assert comment.out.startswith(f"<!-- sandboxrun verify {project} -->\n")
    assert text.code == comment.code == 0


def test_a_limit_changed_behind_its_back_does_not_hold(live: str, engine_client: docker.DockerClient, cli: Cli) -> None:
    engine_client.containers.get(live).update(mem_limit="128m", memswap_limit="128m")
    ran = cli("verify", "--running", "--json")
    found = document(ran)
    assert ran.code == 1
    assert set(faults(found)) == {"option mem_limit", "option memswap_limit", "memory-limit", "swap-limit"}
    told = {f["control"]: f for f in found["sandboxes"][0]["findings"]}
    assert told["memory-limit"]["seen"] == "128m" and told["memory-limit"]["expected"] == "64m"
    assert "changed on the engine since it was applied" in told["option mem_limit"]["note"]


def test_a_limit_changed_behind_the_engines_back_does_not_hold(
    live: str, engine_client: docker.DockerClient, cli: Cli
) -> None:
    """The engine's own answer is not taken for it: the kernel is asked."""
    id = engine_client.containers.get(live).id
    file = Path(f"/sys/fs/cgroup/pids/docker/{id}/pids.max")
    if not file.exists():
        file = Path(f"/sys/fs/cgroup/docker/{id}/pids.max")
    if not file.exists():
        pytest.skip("the container's cgroup is not where this engine's driver has it")
    file.write_text("max")
    ran = cli("verify", "--running", "--json")
    assert ran.code == 1 and set(faults(document(ran))) == {"pids-limit"}


def test_a_process_of_another_user_in_it_does_not_hold(live: str, engine_client: docker.DockerClient, cli: Cli) -> None:
    engine_client.containers.get(live).exec_run(["sleep", "60"], user="0", detach=True)
    ran = cli("verify", "--running", "--json")
    assert ran.code == 1 and set(faults(document(ran))) == {"user", "groups"}


def test_a_container_made_by_hand_with_our_labels_does_not_hold(
    live: str, engine_client: docker.DockerClient, project: str, busybox: str, cli: Cli
) -> None:
    """Its labels say what the profile declares; neither the engine nor the kernel does."""
    real = engine_client.containers.get(live)
    labels = real.labels
    real.remove(force=True)
    engine_client.containers.run(
        busybox, ["sleep", "600"], name=live, labels=labels, detach=True, pid_mode="host", cap_add=["NET_ADMIN"]
    )
    ran = cli("verify", "--running", "--json")
    found = document(ran)
    assert ran.code == 1
    wrong = {c for c, verdict in verdicts(found).items() if verdict == "does_not_hold"}
    assert wrong >= {
        *("user", "capabilities", "no-new-privileges", "namespaces", "memory-limit", "swap-limit", "pids-limit"),
        *("cpu-quota", "ulimits", "root", "mounts", "network", "option user", "option cap_drop", "option pid"),
    }
    assert verdicts(found)["groups"] == "does_not_hold"


def test_a_changed_profile_is_told_from_a_changed_container(live: str, folder: Path, cli: Cli) -> None:
    file = folder / "sandbox.yaml"
    file.write_text(file.read_text().replace("64m", "32m"))
    found = document(cli("verify", "--running", "--json"))
    told = {f["control"]: f["note"] for f in found["sandboxes"][0]["findings"]}
    assert "the profile has changed since it was applied" in told["option mem_limit"]
    assert set(faults(found)) == {"option mem_limit", "option memswap_limit", "memory-limit", "swap-limit"}


def test_what_nothing_declares_is_inconclusive(live: str, folder: Path, cli: Cli) -> None:
    file = folder / "sandbox.yaml"
    declared = file.read_text()
    file.write_text(declared.replace("  agent:", "  other:"))
    ran = cli("verify", "--running", "--json")
    assert ran.code == 1 and set(faults(document(ran))) == {"declared"}
    file.write_text(declared)


def test_nothing_that_runs_is_an_error(folder: Path, project: str, busybox: str, cli: Cli) -> None:
    write(folder, project, f"  agent: {{image: {busybox}, network_mode: none}}\n")
    ran = cli("verify", "--running")
    assert ran.code == 2 and ran.out == ""
    assert f"no sandbox of {project} runs" in ran.err
    named = cli("verify", "--running", "agent")
    assert named.code == 2 and "no sandbox agent runs" in named.err


def test_an_engine_that_is_not_seen_from_here_is_inconclusive(live: str, cli: Cli) -> None:
    """What only this machine's kernel could tell is not taken from the engine's word."""
    ran = cli("verify", "--running", "--json", env={"SANDBOXRUN_SHARED_FILESYSTEM": "0"})
    found = document(ran)
    assert ran.code == 1
    seen = verdicts(found)
    assert seen["options"] == "holds"
    assert {seen[c] for c in ("user", "capabilities", "memory-limit", "mounts", "network")} == {"inconclusive"}


def test_a_gateway_is_looked_at_with_its_sandbox(
    engine_client: docker.DockerClient, folder: Path, project: str, busybox: str, cli: Cli, destroyed: None
) -> None:
    """It holds; then a stranger joins its network, then it is gone."""
    write(
        folder,
        project,
        f"  agent: {{image: {busybox}, egress: {{allow: ['api.example.com:443']}}, command: [sleep, '600']}}\n",
    )
    applied = cli("apply", "-y", "-q")
    assert applied.code == 0, applied.err
    found = document(cli("verify", "--running", "--json"))
    assert faults(found) == {}
    assert {c for c in verdicts(found) if c.startswith("gateway")} >= {
        *("gateway", "gateway network", "gateway rules", "gateway options", "gateway user", "gateway capabilities"),
    }
    network = engine_client.networks.get(f"{project}-agent.net")
    stranger = engine_client.containers.run(
        busybox, ["sleep", "600"], name=f"{project}-stranger", detach=True, network=network.name
    )
    ran = cli("verify", "--running", "--json")
    assert ran.code == 1
    assert faults(document(ran)) == {"gateway network": f"does_not_hold: {project}-stranger is on it "}
    stranger.remove(force=True)

    file = folder / "sandbox.yaml"
    file.write_text(file.read_text().replace("api.example.com:443", "other.example.com:443"))
    wrong = faults(document(cli("verify", "--running", "--json")))
    assert wrong["gateway rules"] == "does_not_hold: other rules than the declared ones "

    engine_client.containers.get(f"{project}-agent.gateway").kill()
    wrong = faults(document(cli("verify", "--running", "--json")))
    assert wrong["gateway"] == "does_not_hold: exited "
