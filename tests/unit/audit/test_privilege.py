"""The privilege diff: its orders' properties, each axis's witnesses, and flows that only show together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandboxrun.audit.diff import NOTHING, PrivilegeDiff, compare, privilege_diff
from sandboxrun.errors import Problems, node_of
from sandboxrun.profile.loader import load_data
from sandboxrun.spec.option import rows
from sandboxrun.spec.option_types import NAMES
from sandboxrun.spec.privilege import AXES, Side, Step, Way
from sandboxrun.spec.project import FileSpec, NetworkSpec, Profile, VolumeSpec
from sandboxrun.spec.records import FileRef, Lifetime, Workspace
from sandboxrun.spec.spec import ROWS, SandboxSpec, parse_spec
from tests.conftest import examples


def spec(options: dict[str, Any]) -> SandboxSpec:
    """A settled spec of a profile's options."""
    problems = Problems()
    made = parse_spec(node_of({"image": "busybox:1", **options}), problems)
    assert made is not None, [str(one) for one in problems.diagnostics]
    return made


def steps(old: dict[str, Any], new: dict[str, Any]) -> list[Step]:
    """All steps between two sandboxes."""
    return [step for _, step in compare(Side(spec=spec(old)), Side(spec=spec(new)))]


def test_every_option_belongs_to_an_axis() -> None:
    known = {key for axis in AXES for key in axis.keys}
    fixed = {row.key for row in ROWS if not row.settable}
    assert {row.key for row in ROWS} - known - fixed == set()
    assert known - {row.key for row in ROWS} == set()


SIZES = st.sampled_from(["64m", "128m", "512m", "1g"])
HOSTS = ["api.example.com:443", "b.example.com:443", "*.example.com:443", "x.example.org:80"]
OPTIONS: dict[str, st.SearchStrategy[Any]] = {
    "user": st.sampled_from(["1000:1000", "root", "0:0", "2000:2000", "node"]),
    "cap_drop": st.lists(st.sampled_from(["ALL", "CHOWN", "NET_RAW"]), unique=True, max_size=3),
    "cap_add": st.lists(st.sampled_from(["ALL", *NAMES[:8], "NET_RAW"]), unique=True, max_size=4),
    "security_opt": st.sampled_from(
        [
            ["no-new-privileges:false"],
            ["seccomp=unconfined"],
            ["seccomp=debug"],
            ["seccomp=engine"],
            ["apparmor=unconfined"],
            ["label=disable"],
            ['seccomp={"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["read"],"action":"SCMP_ACT_ALLOW"}]}'],
            ['seccomp={"defaultAction":"SCMP_ACT_ALLOW"}'],
        ]
    ),
    "read_only": st.booleans(),
    "group_add": st.lists(st.sampled_from(["10", "20", "docker"]), unique=True, max_size=2),
    "ipc": st.sampled_from(["private", "none", "shareable"]),
    "userns_mode": st.just("host"),
    "mem_limit": st.sampled_from(["256m", "512m", "2g", 0]),
    "cpus": st.sampled_from([0, 0.5, 1, 2]),
    "pids_limit": st.sampled_from([0, -1, 64, 256, 1024]),
    "shm_size": SIZES,
    "ulimits": st.fixed_dictionaries(
        {}, optional={"nofile": st.sampled_from([1024, 4096, 1048576]), "core": st.just(-1)}
    ),
    "devices": st.lists(st.sampled_from(["/dev/fuse", "/dev/kvm", "/dev/fuse:/dev/fuse:r"]), max_size=1),
    "gpus": st.sampled_from(["all", 1, 2]),
    "runtime": st.sampled_from(["runsc", "runc"]),
    "volumes": st.sampled_from([["/srv/data:/data"], ["/srv/data/x:/x:ro"], ["/srv:/srv:ro"], ["/srv:/srv"]]),
    "tmpfs": st.sampled_from([["/tmp:size=64m"], ["/tmp:size=128m,exec"], ["/tmp", "/run"], []]),
    "egress": st.one_of(
        st.sampled_from(
            ["none", "open", {"mode": "open", "ports": [8443]}, {"mode": "open", "allow": ["ssh.example.com:22"]}]
        ),
        st.fixed_dictionaries(
            {"allow": st.lists(st.sampled_from(HOSTS), unique=True, min_size=1, max_size=3)},
            optional={"private_networks": st.lists(st.sampled_from(["10.0.0.0/8", "10.1.0.0/16"]), unique=True)},
        ),
    ),
    "lifetime": st.fixed_dictionaries({}, optional={"timeout": st.sampled_from(["1m", "1h"]), "ttl": st.just("2h")}),
    "restart": st.sampled_from(["no", "on-failure:3", "always"]),
    "image": st.sampled_from(["busybox:1", "busybox:2", "busybox:1@sha256:" + "a" * 64]),
    "evidence": st.fixed_dictionaries({}, optional={"patch": st.booleans(), "artifacts_limit": SIZES}),
    "logging": st.sampled_from([{"driver": "json-file", "options": {}}, {"options": {"max-size": "5m"}}]),
}
SPECS = st.fixed_dictionaries({}, optional=OPTIONS)


@given(SPECS)
@examples(60)
def test_nothing_differs_from_itself(options: dict[str, Any]) -> None:
    assert steps(options, options) == []


MIRROR = {Way.WIDENED: Way.NARROWED, Way.NARROWED: Way.WIDENED, Way.MAYBE: Way.MAYBE}


@given(SPECS, SPECS)
@examples(100)
def test_the_other_way_round_mirrors(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Per axis: what widens one way narrows the other."""
    there, back = (axis_ways(a, b) for a, b in ((one, other), (other, one)))
    for axis in {*there, *back}:
        assert {MIRROR[way] for way in there.get(axis, set())} == back.get(axis, set()), axis


def axis_ways(old: dict[str, Any], new: dict[str, Any]) -> dict[str, set[Way]]:
    """The verdicts of each axis that has any."""
    found: dict[str, set[Way]] = {}
    for axis, step in compare(Side(spec=spec(old)), Side(spec=spec(new))):
        found.setdefault(axis, set()).add(step.way)
    return found


@given(SPECS, SPECS, SPECS)
@examples(100)
def test_narrower_than_narrower_is_narrower(a: dict[str, Any], b: dict[str, Any], c: dict[str, Any]) -> None:
    """Per axis: where neither step widens, both together don't."""
    first, second, whole = axis_ways(a, b), axis_ways(b, c), axis_ways(a, c)
    for axis, ways in whole.items():
        if Way.WIDENED in ways:
            both = first.get(axis, set()) | second.get(axis, set())
            assert both & {Way.WIDENED, Way.MAYBE}, axis


@given(SPECS, st.randoms())
@examples(40)
def test_the_order_of_keys_means_nothing(options: dict[str, Any], random: Any) -> None:
    keys = list(options)
    random.shuffle(keys)
    assert steps(options, {key: options[key] for key in keys}) == []


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"cap_add": ["CAP_SYS_ADMIN"]}, {"cap_add": ["sys_admin"]}),
        ({"mem_limit": "1g"}, {"mem_limit": "1024m"}),
        ({"pids_limit": -1}, {"pids_limit": 0}),
        ({"volumes": ["/srv/data/:/data"]}, {"volumes": [{"type": "bind", "source": "/srv/data", "target": "/data"}]}),
        ({"egress": "none"}, {"network_mode": "none"}),
        ({"security_opt": ["no-new-privileges"]}, {"security_opt": ["no-new-privileges:true"]}),
    ],
)
def test_spellings_mean_nothing(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert steps(one, other) == []


@given(SPECS, SPECS)
@examples(100)
def test_what_an_engine_is_sent_differs_only_with_a_step(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Whatever an applier could carry out: two specs of which no axis says anything are the same but for the task."""
    task = next(axis for axis in AXES if axis.name == "task")
    if steps(one, other):
        return
    left, right = (dict(spec(options).plain) for options in (one, other))
    differing = {key for key in {*left, *right} if left.get(key) != right.get(key)} - set(task.keys)
    # what these spell differently comes to the same: dropping single ones of all, a mount's target, a tmpfs's owner …
    assert differing <= {
        "cap_add",
        "cap_drop",
        "network_mode",
        "volumes",
        "security_opt",
        "pids_limit",
        "tmpfs",
        "ulimits",
    }, differing


WITNESSES: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({}, {"cap_add": ["NET_RAW"]}, "WIDENED now has the capabilities NET_RAW"),
    ({}, {"user": "root"}, "WIDENED now runs as root (root)"),
    ({}, {"user": "2000"}, "MAYBE now runs as 2000, was 1000:1000: files of that user are its own"),
    ({}, {"read_only": False}, "WIDENED may now write to its root filesystem"),
    ({}, {"security_opt": ["seccomp=unconfined"]}, "WIDENED now has the seccomp profile unconfined, was sandboxrun"),
    ({}, {"security_opt": ["no-new-privileges:false"]}, "WIDENED may now get root from setuid programs"),
    ({}, {"mem_limit": 0}, "WIDENED may now use memory: unlimited, was 512m"),
    ({"pids_limit": 0}, {}, "NARROWED may only use processes: 256, was unlimited"),
    ({}, {"volumes": ["/srv:/srv:ro"]}, "WIDENED may now read /srv"),
    ({"volumes": ["/srv:/srv:ro"]}, {"volumes": ["/srv:/srv"]}, "WIDENED may now write to /srv, was to read it"),
    ({"volumes": ["/srv:/srv"]}, {"volumes": ["/srv/a:/a"]}, "NARROWED may no longer write to /srv"),
    ({"egress": "none"}, {}, "WIDENED may now reach every public host, was nothing"),
    (
        {"egress": {"allow": ["*.example.com:443"]}},
        {"egress": {"allow": ["api.example.com:443"]}},
        "NARROWED may no longer open *.example.com:443",
    ),
    (
        {"egress": "open"},
        {"egress": {"mode": "open", "ports": [8443]}},
        "WIDENED may now open every public name on port 8443",
    ),
    ({"egress": {"mode": "open", "ports": [8443]}}, {}, "NARROWED may no longer open every public name on port 8443"),
    ({}, {"egress": {"mode": "open", "allow": ["ssh.example.com:22"]}}, "WIDENED may now open ssh.example.com:22"),
    ({}, {"egress": {"allow": ["ssh.example.com:22"]}}, "WIDENED may now open ssh.example.com:22"),
    ({"egress": {"allow": ["ssh.example.com:22"]}}, {}, "NARROWED may no longer open ssh.example.com:22"),
    (
        {"egress": "none"},
        {"egress": {"allow": ["api.example.com:443"]}, "secrets": ["api_key"]},
        "WIDENED may now open api.example.com:443 while holding the secret api_key",
    ),
    (
        {"egress": {"allow": ["api.example.com:443"]}},
        {"egress": {"allow": ["api.example.com:443"]}, "secrets": ["api_key"]},
        "WIDENED now holds the secret api_key while api.example.com:443 can be reached",
    ),
    ({"lifetime": {"timeout": "1h"}}, {}, "WIDENED may now run for ever, was 1h"),
    (
        {"lifetime": {"timeout": "1h"}},
        {"lifetime": {"timeout": "1h"}, "init": False},
        "WIDENED its timeout holds only while sandboxrun watches it: no init does",
    ),
    (
        {},
        {"stop_grace_period": "24h"},
        "WIDENED may now go on for 24h after it is told to stop, was 10s",
    ),
    ({"runtime": "runsc"}, {}, "WIDENED now talks to the host's kernel: the runtime is the default, was runsc"),
    ({}, {"devices": ["/dev/fuse"]}, "WIDENED may now use the device /dev/fuse (mrw)"),
    ({}, {"restart": "always"}, "WIDENED restart is now always, was no"),
    ({}, {"image": "busybox:2"}, "MAYBE runs another image, busybox:2, was busybox:1"),
]


@pytest.mark.parametrize(("old", "new", "told"), WITNESSES, ids=[told for _, _, told in WITNESSES])
def test_each_difference_has_a_witness(old: dict[str, Any], new: dict[str, Any], told: str) -> None:
    assert told in [f"{step.way.value} {step.witness}" for step in steps(old, new)]


def profile(directory: Path, sandboxes: dict[str, Any], **top: Any) -> Profile:
    """A profile of plain data."""
    return load_data({"name": "p", "sandboxes": sandboxes, **top}, directory=directory, allow_outside=True)


def told(diff: PrivilegeDiff) -> list[str]:
    """The changes as lines."""
    return [f"{c.way.value} {','.join(c.sandboxes)} {c.witness}" for c in diff.changes]


def test_new_and_removed_sandboxes(tmp_path: Path) -> None:
    one = profile(tmp_path, {"a": {"egress": "none"}})
    other = profile(tmp_path, {"b": {"egress": {"allow": ["api.example.com:443"]}}})
    assert told(privilege_diff(one, other)) == [
        "WIDENED b may now open api.example.com:443",
        "WIDENED b is new",
        "NARROWED a is no longer declared",
    ]


def test_one_cause_of_many_sandboxes_is_counted_once(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("sandboxes: {base: {egress: none}}\n")
    (tmp_path / "wide.yaml").write_text("sandboxes: {base: {egress: open}}\n")
    each = {"for_each": ["x", "y", "z"]}
    one = profile(tmp_path, {"a": {"extends": {"file": "base.yaml", "sandbox": "base"}, **each}})
    other = profile(tmp_path, {"a": {"extends": {"file": "wide.yaml", "sandbox": "base"}, **each}})
    found = privilege_diff(one, other).changes
    assert [(change.witness, change.sandboxes) for change in found] == [
        ("may now reach every public host, was nothing", ('a["x"]', 'a["y"]', 'a["z"]'))
    ]
    assert str(found[0].span).startswith("wide.yaml:1:")


def test_a_secret_from_elsewhere_may_be_another(tmp_path: Path) -> None:
    one = profile(tmp_path, {"a": {"secrets": ["k"]}}, secrets={"k": {"environment": "A"}})
    other = profile(tmp_path, {"a": {"secrets": ["k"]}}, secrets={"k": {"environment": "B"}})
    assert told(privilege_diff(one, other)) == ["MAYBE a the secret k is taken from elsewhere"]


def test_the_verdict_of_each_axis(tmp_path: Path) -> None:
    one = profile(tmp_path, {"a": {"mem_limit": "256m"}})
    other = profile(tmp_path, {"a": {"mem_limit": "512m"}})
    row = privilege_diff(one, other).by_axis()["a"]
    assert row["limits"] is Way.WIDENED
    assert {way for axis, way in row.items() if axis != "limits"} == {Way.UNCHANGED}


def test_nothing_is_the_least() -> None:
    """No sandbox is narrower than none but in its limits and its task."""
    wide = msgspec.structs.replace(NOTHING.spec, mem_limit=0)
    assert all(step.way is not Way.NARROWED for _, step in compare(NOTHING, Side(spec=wide)))


# What each field of what a sandbox refers to, or is made of, means: old and new options of one sandbox, old and new
# top level, and the verdict. What is not here is of no privilege: `PLAIN`.
FILE = {"secrets": ["s"]}
FIELDS: dict[tuple[type, str], tuple[dict[str, Any], dict[str, Any], dict[str, Any], dict[str, Any], str]] = {
    (VolumeSpec, "driver_opts"): (
        {"volumes": ["v:/v"]},
        {"volumes": ["v:/v"]},
        {"volumes": {"v": {}}},
        {"volumes": {"v": {"driver_opts": {"type": "none", "o": "bind", "device": "/etc"}}}},
        "WIDENED a may now write to /etc",
    ),
    (VolumeSpec, "external"): (
        {"volumes": ["v:/v"]},
        {"volumes": ["v:/v"]},
        {"volumes": {"v": {}}},
        {"volumes": {"v": {"external": True}}},
        "MAYBE a the volume v is now the existing v, was the project's own",
    ),
    (VolumeSpec, "name"): (
        {"volumes": ["v:/v"]},
        {"volumes": ["v:/v"]},
        {"volumes": {"v": {}}},
        {"volumes": {"v": {"name": "other_data"}}},
        "MAYBE a the volume v is now other_data, was the project's own",
    ),
    **{
        (NetworkSpec, key): (
            {"networks": ["n"]},
            {"networks": ["n"]},
            {"networks": {"n": {"internal": True}}},
            {"networks": {"n": {"internal": True, **changed}}},
            told,
        )
        for key, changed, told in (
            ("internal", {"internal": False}, "WIDENED a may now reach anything, unfiltered, was internal networks"),
            ("external", {"external": True}, "MAYBE a the network n is now the existing n, was the project's own"),
            ("name", {"name": "other"}, "MAYBE a the network n is now other, was the project's own"),
            (
                "subnet",
                {"subnet": "10.77.0.0/29"},
                "MAYBE a the subnet of the network n is now 10.77.0.0/29, was of the engine's choice",
            ),
            ("enable_ipv6", {"enable_ipv6": True}, "WIDENED a the network n now has IPv6"),
            (
                "driver_opts",
                {"driver_opts": {"com.docker.network.bridge.enable_icc": "true"}},
                "MAYBE a the network n has other options: com.docker.network.bridge.enable_icc",
            ),
        )
    },
    (FileSpec, "environment"): (
        {"configs": ["c"]},
        {"configs": ["c"]},
        {"configs": {"c": {"content": "x"}}},
        {"configs": {"c": {"environment": "AWS_SECRET_ACCESS_KEY"}}},
        "WIDENED a now gets the caller's AWS_SECRET_ACCESS_KEY, as the config c",
    ),
    (FileSpec, "file"): (
        {"configs": ["c"]},
        {"configs": ["c"]},
        {"configs": {"c": {"content": "x"}}},
        {"configs": {"c": {"file": "./sandbox.key"}}},
        "WIDENED a now gets ./sandbox.key, as the config c",
    ),
    (FileRef, "source"): ({}, {"secrets": ["s"]}, {}, {}, "WIDENED a now holds the secret s"),
    (FileRef, "uid"): (
        FILE,
        {"secrets": [{"source": "s", "uid": 7}]},
        {},
        {},
        "MAYBE a the secret s now belongs to another user or group",
    ),
    (FileRef, "gid"): (
        FILE,
        {"secrets": [{"source": "s", "gid": 7}]},
        {},
        {},
        "MAYBE a the secret s now belongs to another user or group",
    ),
    (FileRef, "mode"): (
        FILE,
        {"secrets": [{"source": "s", "target": "t", "mode": "0444"}, "s"]},
        {},
        {},
        "WIDENED a the secret s now has mode 0444",
    ),
    (Workspace, "source"): ({}, {"workspace": "."}, {}, {}, "WIDENED a may now read a copy of ."),
    (Workspace, "access"): (
        {"workspace": "."},
        {"workspace": {"source": ".", "access": "rw"}},
        {},
        {},
        "WIDENED a may now write to ., was to read a copy of it",
    ),
    (Workspace, "exclude"): (
        {"workspace": {"source": ".", "exclude": ["*.key"]}},
        {"workspace": "."},
        {},
        {},
        "WIDENED a its copy now holds *.key",
    ),
    (Workspace, "size"): (
        {"workspace": {"source": ".", "size": "1m"}},
        {"workspace": "."},
        {},
        {},
        "WIDENED a may now use space for its workspace: unlimited, was 1m",
    ),
    (Workspace, "writable"): (
        {"workspace": {"source": ".", "access": "rw"}},
        {"workspace": {"source": ".", "access": "rw", "writable": [".git"]}},
        {},
        {},
        "WIDENED a may now write to .git, which the host runs",
    ),
    (Lifetime, "timeout"): ({"lifetime": {"timeout": "1m"}}, {}, {}, {}, "WIDENED a may now run for ever, was 1m"),
    (Lifetime, "idle"): ({"lifetime": {"idle": "1m"}}, {}, {}, {}, "WIDENED a may now be silent for ever, was 1m"),
    (Lifetime, "ttl"): ({"lifetime": {"ttl": "1m"}}, {}, {}, {}, "WIDENED a may now stay for ever, was 1m"),
    (Lifetime, "on_complete"): (
        {},
        {"lifetime": {"on_complete": "keep"}},
        {},
        {},
        "WIDENED a is kept after its end until it is removed, was: is removed after its end",
    ),
    (Lifetime, "keep_for"): (
        {"lifetime": {"on_complete": "keep", "keep_for": "1h"}},
        {"lifetime": {"on_complete": "keep"}},
        {},
        {},
        "WIDENED a is kept after its end until it is removed, was: is kept after its end for 1h",
    ),
}
PLAIN = {
    (VolumeSpec, "labels"),
    (NetworkSpec, "labels"),
    (FileSpec, "content"),  # of the profile itself
    (FileRef, "target"),
    (Workspace, "target"),
}


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: f"{field[0].__name__}.{field[1]}")
def test_each_field_of_what_it_refers_to_is_compared(field: tuple[type, str], tmp_path: Path) -> None:
    old, new, before, after, verdict = FIELDS[field]
    (tmp_path / "sandbox.key").write_text("k")
    top = {"secrets": {"s": {"environment": "S"}}, "networks": {}}
    one = profile(tmp_path, {"a": old}, **{**top, **before})
    other = profile(tmp_path, {"a": new}, **{**top, **after})
    assert [line for line in told(privilege_diff(one, other)) if line.startswith(verdict)]
    assert privilege_diff(other, other).changes == ()


def test_no_field_is_forgotten() -> None:
    classes = {cls for cls, _ in FIELDS}
    every = {(cls, row.key) for cls in classes for row in rows(cls) if row.settable}
    assert every == FIELDS.keys() | PLAIN


def test_a_project_of_another_name_is_another_project(tmp_path: Path) -> None:
    """What the engine has of that name would be taken for its own."""
    one, other = (load_data({"name": name, "sandboxes": {"a": {}}}, directory=tmp_path) for name in "pq")
    assert told(privilege_diff(one, other)) == [
        "MAYBE a the project is now q, was p: what there is of that name is its own"
    ]
