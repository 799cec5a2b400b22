"""The privilege diff of Compose files: each key has its witness, and the orders' properties hold for services too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given

from sandboxrun.audit.diff import PrivilegeDiff
from sandboxrun.lifecycle.comparing import between
from sandboxrun.spec.privilege import Way
from tests.conftest import examples
from tests.unit.audit.test_hostile import SERVICES

TOP = {
    "networks": {"closed": {"internal": True}, "out": {}, "lan": {"driver": "macvlan"}},
    "secrets": {"k": {"file": "./k"}},
    "volumes": {"data": {}},
}


def compared(directory: Path, old: Any, new: Any, **top: Any) -> PrivilegeDiff:
    """The diff of two files with one service."""
    for name, options in (("old", old), ("new", new)):
        data = {"services": {"a": options}, **TOP, **top}
        (directory / f"{name}.yaml").write_text(json.dumps(data, indent=1))
    return between((None, directory / "old.yaml"), (None, directory / "new.yaml"))


BASE: dict[str, Any] = {"image": "busybox:1", "networks": ["closed"], "cap_drop": ["ALL"], "user": "1000"}
WITNESSES: list[tuple[dict[str, Any], str]] = [
    ({"privileged": True}, "WIDENED is now privileged: it controls the host"),
    ({"pid": "host"}, "WIDENED now shares the host's processes"),
    ({"ipc": "service:b"}, "WIDENED now shares the shared memory of service:b"),
    ({"network_mode": "host", "networks": None}, "WIDENED now shares the host's network"),
    (
        {"network_mode": "host", "networks": None},
        "WIDENED may now reach anything, unfiltered, was internal networks",
    ),
    ({"device_cgroup_rules": ["a *:* rwm"]}, 'WIDENED may now use the devices "a *:* rwm"'),
    ({"security_opt": ["systempaths:unconfined"]}, "WIDENED now has the security option systempaths=unconfined"),
    ({"security_opt": ["seccomp:unconfined"]}, "WIDENED now has the seccomp profile unconfined, was engine"),
    ({"cgroup_parent": "/x"}, "MAYBE is now in the cgroup /x"),
    ({"oom_kill_disable": True}, "WIDENED is now not ended beyond its memory limit"),
    (
        {"volumes": ["/var/run/docker.sock:/s:ro"]},
        "WIDENED now has the engine's socket: it controls the host",
    ),
    ({"use_api_socket": True}, "WIDENED now has the engine's socket: it controls the host"),
    ({"volumes": ["./data:/data:rshared"]}, "WIDENED now propagates mounts at /data (rshared)"),
    ({"volumes": ["./data:/data"]}, "WIDENED may now write to ./data"),
    ({"volumes": ["~/.ssh:/k:ro"]}, "WIDENED may now read ~/.ssh"),
    ({"volumes": ["data:/data"]}, "WIDENED may now write to volume data"),
    ({"volumes": ["${SRC:-./data}:/data"]}, "MAYBE now lets ${SRC} decide volumes"),
    ({"volumes_from": ["b"]}, "WIDENED now has the mounts of b"),
    ({"ports": ["8080:80"]}, "WIDENED is now reached on port 80 from all interfaces"),
    ({"networks": ["closed", "lan"]}, "WIDENED is now on the local network (macvlan)"),
    ({"networks": ["out"]}, "WIDENED may now reach anything, unfiltered, was internal networks"),
    ({"post_start": [{"command": "x", "privileged": True}]}, "WIDENED now runs a privileged post_start"),
    ({"pre_stop": [{"command": "x", "user": "root"}]}, "WIDENED now runs pre_stop as root"),
    ({"provider": {"type": "x"}}, "WIDENED now runs the plug-in x on the host"),
    ({"develop": {"watch": [{"path": "/etc", "target": "/e"}]}}, "WIDENED now copies /etc of the host to /e"),
    ({"build": "."}, "MAYBE is now built from ."),
    ({"build": {"context": ".", "ssh": ["default"]}}, "WIDENED is now built with the caller's SSH keys"),
    ({"environment": ["GITHUB_TOKEN"]}, "WIDENED now gets the caller's GITHUB_TOKEN"),
    ({"environment": {"A": "${B:-}"}}, "WIDENED now gets the caller's B"),
    ({"env_file": ["x.env"]}, "MAYBE now gets the variables of x.env"),
    ({"label_file": "x.labels"}, "MAYBE now has the lines of x.labels as labels"),
    ({"logging": {"driver": "awslogs"}}, "WIDENED now sends its output to Amazon CloudWatch"),
    ({"logging": {"driver": "syslog", "options": {"syslog-address": "udp://192.0.2.1:514"}}},
     "WIDENED now sends its output to 192.0.2.1:514"),
    ({"secrets": ["k"]}, "WIDENED now holds the secret k while internal networks can be reached"),
    ({"user": None}, "WIDENED now runs as its image says, which may be root, was 1000"),
    ({"user": "0:0"}, "WIDENED now runs as root (0:0)"),
    ({"cap_drop": []}, "WIDENED now has the capabilities AUDIT_WRITE"),
    ({"cap_add": ["CAP_SYS_ADMIN"]}, "WIDENED now has the capabilities SYS_ADMIN"),
    ({"tmpfs": ["/x"]}, "WIDENED may now write to a tmpfs at /x"),
    ({"restart": "always"}, "WIDENED restart is now always, was no"),
    ({"extra_hosts": ["x:169.254.169.254"]}, "MAYBE the name x now leads to 169.254.169.254"),
    ({"image": "busybox:2"}, "MAYBE runs another image, busybox:2, was busybox:1"),
]  # fmt: skip


def lines(diff: PrivilegeDiff) -> list[str]:
    """The changes, without whose they are."""
    return [f"{change.way.value} {change.witness}" for change in diff.changes]


@pytest.mark.parametrize(("options", "told"), WITNESSES, ids=[told for _, told in WITNESSES])
def test_each_key_has_a_witness(options: dict[str, Any], told: str, tmp_path: Path) -> None:
    new = {key: value for key, value in {**BASE, **options}.items() if value is not None}
    assert any(line.startswith(told) for line in lines(compared(tmp_path, BASE, new)))
    back = compared(tmp_path, new, BASE)
    assert back.changes
    assert "networks" in options or not any(change.way is Way.WIDENED for change in back.changes)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"cap_drop": ["ALL"]}, {"cap_drop": ["CAP_all"]}),
        ({"mem_limit": "1g"}, {"deploy": {"resources": {"limits": {"memory": "1024m"}}}}),
        ({"volumes": ["./data/:/data"]}, {"volumes": [{"type": "bind", "source": "./data", "target": "/data"}]}),
        ({"volumes": ["/var/run/x:/x"]}, {"volumes": ["/run/x/:/x"]}),
        ({"networks": ["out"]}, {"networks": {"out": None}}),
        ({"environment": ["A=1", "B"]}, {"environment": {"A": "1", "B": None}}),
        ({"security_opt": ["seccomp:unconfined"]}, {"security_opt": ["seccomp=unconfined"]}),
        ({"labels": ["a=b"]}, {"command": "x", "healthcheck": {"test": "true"}}),
    ],
)
def test_spellings_mean_nothing(one: dict[str, Any], other: dict[str, Any], tmp_path: Path) -> None:
    assert lines(compared(tmp_path, {**BASE, **one}, {**BASE, **other})) == []


@given(SERVICES, SERVICES)
@examples(100, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_two_services_are_compared(tmp_path: Path, one: Any, other: Any) -> None:
    """Nothing raises, nothing differs from itself, and the other way round mirrors."""
    assert all(change.axis == "files" for change in compared(tmp_path, one, one).changes)
    mirror = {Way.WIDENED: Way.NARROWED, Way.NARROWED: Way.WIDENED, Way.MAYBE: Way.MAYBE}
    there, back = (
        {(change.axis, change.way) for change in compared(tmp_path, *pair).changes}
        for pair in ((one, other), (other, one))
    )
    assert {(axis, mirror[way]) for axis, way in there} == back


def test_a_name_that_is_not_given_any_more(tmp_path: Path) -> None:
    found = compared(tmp_path, {**BASE, "extra_hosts": ["x:192.0.2.1"]}, BASE)
    assert lines(found) == ["MAYBE the name x no longer leads to 192.0.2.1"]


def test_what_could_not_be_read_may_be_wider(tmp_path: Path) -> None:
    found = compared(tmp_path, BASE, {**BASE, "extends": {"file": "gone.yaml", "service": "x"}})
    assert found.widens
    assert "gone.yaml was not compared" in lines(found)[0]


def test_a_service_beside_a_profile(tmp_path: Path) -> None:
    (tmp_path / "compose.yaml").write_text("services: {a: {image: 'busybox:1', privileged: true}}\n")
    (tmp_path / "sandbox.yaml").write_text("sandboxes: {a: {image: 'busybox:1', egress: none}}\n")
    found = between((None, tmp_path / "compose.yaml"), (None, tmp_path / "sandbox.yaml"))
    assert "NARROWED is no longer privileged: it controls the host" in lines(found)
    assert not any(change.way is Way.WIDENED and change.axis == "network" for change in found.changes)


@pytest.mark.parametrize(
    ("declared", "told"),
    [
        ({"external": True}, ["the volume data is now the existing data, was the project's own"]),
        ({"external": {"name": "prod"}}, ["the volume data is now the existing prod, was the project's own"]),
        ({"name": "prod"}, ["the volume data is now prod, was the project's own"]),
        ({"driver": "local"}, []),
    ],
)
def test_another_volume_of_the_same_key(declared: dict[str, Any], told: list[str], tmp_path: Path) -> None:
    found = two_tops(tmp_path, {"volumes": {"data": {}}}, {"volumes": {"data": declared}})
    assert found == [f"MAYBE {words}" for words in told]


def two_tops(directory: Path, *tops: dict[str, Any]) -> list[str]:
    """The diff of two files that differ in their top level alone."""
    service = {**BASE, "volumes": ["data:/data"], "networks": ["n"]}
    for name, top in zip(("old", "new"), tops, strict=True):
        data = {"services": {"a": service}, "networks": {"n": {"internal": True}}, "volumes": {"data": {}}, **top}
        (directory / f"{name}.yaml").write_text(json.dumps(data))
    found = between((None, directory / "old.yaml"), (None, directory / "new.yaml"))
    return [f"{change.way.value.upper()} {change.witness}" for change in found.changes]


def test_another_server_of_a_share_and_another_network(tmp_path: Path) -> None:
    old, new = (
        {
            "volumes": {"data": {"driver_opts": {"type": "nfs", "o": f"addr={name}.example.com", "device": ":/x"}}},
            "networks": {"n": {"name": name, "external": True}},
        }
        for name in ("one", "two")
    )
    assert sorted(two_tops(tmp_path, old, new)) == [
        "MAYBE the network n is now the existing two, was the existing one",
        "MAYBE the volume data has other options: o",
    ]
    plugin = {**old, "volumes": {"data": {"driver": "plugin", "driver_opts": {"device": "/etc"}}}}
    words = "MAYBE the volume data has other options: driver, driver_opts.device"
    assert words in two_tops(tmp_path, {"networks": old["networks"]}, plugin)


def test_another_project(tmp_path: Path) -> None:
    """Its volumes and networks are those of that name."""
    words = "what there is of that name is its own"
    assert two_tops(tmp_path, {}, {"name": "prod"}) == [
        f"MAYBE the project is now prod, was called after its directory: {words}"
    ]
    assert two_tops(tmp_path, {"name": "x"}, {"name": "${P:-prod}"}) == [
        f"MAYBE the project is now prod, was x: {words}"
    ]
    assert two_tops(tmp_path, {"name": "x"}, {"name": "x"}) == []
    (tmp_path / ".env").write_text("COMPOSE_PROJECT_NAME=y\n")
    assert two_tops(tmp_path, {}, {"name": "y"}) == []
