"""A spec goes to the engine and comes back the same."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from sandboxrun.backend.docker.codec import (
    decode,
    encode,
    encode_update,
    gateway_payload,
    image_config,
    keeper_payload,
    not_taken,
)
from sandboxrun.backend.docker.fields import FIELDS, KEPT, Live, field_of
from sandboxrun.spec.names import Names
from sandboxrun.spec.option import Effect, OwnAddresses
from sandboxrun.spec.option_types import Egress
from sandboxrun.spec.project import DeclaredSandbox
from sandboxrun.spec.records import Attachment, FileRef, Healthcheck, Logging, Mount, Workspace
from sandboxrun.spec.spec import BY_KEY, ROWS, SandboxSpec, digest_of, settle
from sandboxrun.spec.state import ImageConfig, from_label, own_labels, unsupported, without_inherited
from sandboxrun.spec.types import freeze
from tests.conftest import examples
from tests.unit.spec.echo import as_inspect
from tests.unit.spec.values import specs

NAME = "p-a"
NAMES = Names(project="p", given_networks={"shared": "office"}, given_volumes={"cache": "big.cache"})


def there_and_back(spec: SandboxSpec, names: Names = NAMES, *, in_hosts: bool = False) -> SandboxSpec:
    own = own_labels(project="p", address="a", run="r", spec=spec)
    own_addresses = OwnAddresses.of("10.231.0.8/29", in_hosts=in_hosts)
    body = encode(spec, name=NAME, names=names, own_labels=own, own_addresses=own_addresses)
    return decode(as_inspect(body, spec, name=NAME, names=names), names, spec)


@given(spec=specs, in_hosts=st.booleans())
@examples(80)
def test_what_the_engine_shows_is_what_was_asked(spec: SandboxSpec, in_hosts: bool) -> None:
    found = there_and_back(spec, in_hosts=in_hosts)
    if spec.runtime is None:
        assert found.runtime == "runc"  # the engine's own; not compared where nobody asked for one
        found = structs.replace(found, runtime=None)
    spec, found = without_inherited(spec, ImageConfig()), without_inherited(found, ImageConfig())
    different = [row.key for row in ROWS if getattr(found, row.key) != getattr(spec, row.key)]
    assert different == []


@given(spec=specs)
@examples(60)
def test_a_label_keeps_the_whole_spec(spec: SandboxSpec) -> None:
    assert from_label(spec.label) == spec
    assert from_label(spec.label).digest == spec.digest  # type: ignore[union-attr]


@given(spec=specs, text=st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
@examples(60)
def test_a_digest_is_that_of_the_plain_data_whatever_is_escaped_in_the_label(spec: SandboxSpec, text: str) -> None:
    for one in (spec, structs.replace(spec, labels=freeze({text: f"\x7f{text}", "back": "\\u0041"}))):
        assert one.digest == digest_of(one.plain) == digest_of(json.loads(one.label))


@given(spec=specs)
@examples(60)
def test_settling_twice_is_settling_once(spec: SandboxSpec) -> None:
    assert settle(spec) == spec


def test_labels_of_anybody_are_not_trusted() -> None:
    for text in (None, "", "{", "[]", "1", '{"image": 1}', '{"unknown": 1}', '{"mem_limit": "-5"}'):
        assert from_label(text) is None
    workspace = settle(SandboxSpec(workspace=Workspace(source="/src"), secrets=(FileRef(source="k"),)))
    body = encode(workspace, name=NAME, names=NAMES, own_labels={})
    inspect = as_inspect(body, workspace, name=NAME, names=NAMES)
    for text in ("{", "[]", "null", '"x"', "5"):
        inspect["Config"]["Labels"] = {"sandboxrun.workspace": text, "sandboxrun.secrets": text}
        found = decode(inspect, NAMES)
        assert found.workspace is None
        assert found.secrets == ()


def test_every_mount_is_told_apart() -> None:
    spec = settle(
        SandboxSpec(
            workspace=Workspace(source="/src", access="copy"),
            secrets=(FileRef(source="key", target="k", uid=0, gid=1, mode=0o440),),
            configs=(FileRef(source="conf"),),
            volumes=(
                Mount(type="volume", source="cache", target="/cache"),
                Mount(type="volume", source="own", target="/own", read_only=True),
                Mount(type="bind", source="/host", target="/bound"),
            ),
        )
    )
    body = encode(spec, name=NAME, names=NAMES, own_labels={})
    assert [(m["Source"], m["Target"], m["ReadOnly"]) for m in body["HostConfig"]["Mounts"]] == [
        ("/host", "/bound", False),
        ("big.cache", "/cache", False),
        ("p_own", "/own", True),
        ("p-a.workspace", "/workspace", False),
        ("p-a.secrets", "/run/secrets", True),
        ("p-a.configs", "/run/configs", True),
    ]
    assert there_and_back(spec).volumes == spec.volumes
    assert there_and_back(spec).secrets == spec.secrets
    assert there_and_back(spec).workspace == spec.workspace
    # a secret's volume that is writable is not what was asked
    inspect = as_inspect(body, spec, name=NAME, names=NAMES)
    for mount in inspect["Mounts"]:
        mount["RW"] = True
    assert decode(inspect, NAMES).secrets == ()


def test_a_network_or_volume_that_is_not_ours_says_so() -> None:
    spec = settle(SandboxSpec(networks=freeze({"one": Attachment(aliases=("x",)), "shared": Attachment()})))
    inspect = as_inspect(encode(spec, name=NAME, names=NAMES, own_labels={}), spec, name=NAME, names=NAMES)
    inspect["NetworkSettings"]["Networks"]["bridge"] = {}
    inspect["Mounts"] = [{"Type": "volume", "Name": "strange", "Source": "/x", "Destination": "/s", "RW": True}]
    found = decode(inspect, NAMES)
    assert set(found.networks) == {"engine:bridge", "one", "shared"}
    assert found.volumes == (Mount(type="volume", source="engine:strange", target="/s"),)
    assert NAMES.network("engine:bridge") == "bridge"
    assert NAMES.volume("engine:strange") == "strange"
    for mode in ("host", "bridge", "container:abc"):
        inspect["HostConfig"]["NetworkMode"] = mode
        assert decode(inspect, NAMES).network_mode == mode


def test_an_anonymous_volume_of_the_image_is_seen() -> None:
    spec = settle(SandboxSpec(network_mode="none"))
    inspect = as_inspect(encode(spec, name=NAME, names=NAMES, own_labels={}), spec, name=NAME, names=NAMES)
    inspect["Config"]["Volumes"] = {"/data": {}}
    inspect["Mounts"] = [{"Type": "volume", "Name": "f" * 64, "Source": "/x", "Destination": "/data", "RW": True}]
    assert [mount.target for mount in decode(inspect, NAMES).volumes] == ["/data"]


IMAGE = image_config(
    {
        "Id": "sha256:1",
        "RepoDigests": ["x@sha256:2"],
        "Config": {
            "Cmd": ["node"],
            "Entrypoint": ["entry"],
            "WorkingDir": "/app",
            "Env": ["PATH=/bin", "NODE_VERSION=20"],
            "Labels": {"maintainer": "a", "sandboxrun.project": "p"},
            "Healthcheck": {"Test": ["CMD", "true"], "Interval": 5},
            "StopSignal": "SIGTERM",
            "Volumes": {"/data": {}},
        },
    }
)


def test_what_the_image_gives_is_no_difference() -> None:
    assert (IMAGE.id, IMAGE.digests, IMAGE.volumes) == ("sha256:1", ("x@sha256:2",), ("/data",))
    assert IMAGE.healthcheck == Healthcheck(test=("CMD", "true"), interval=5)
    given = SandboxSpec(
        command=("node",),
        entrypoint=("entry",),
        working_dir="/app",
        environment=freeze({"PATH": "/bin", "NODE_VERSION": "18", "CI": "1"}),
        labels=freeze({"maintainer": "a", "team": "b"}),
        healthcheck=IMAGE.healthcheck,
        stop_signal="SIGTERM",
    )
    assert without_inherited(given, IMAGE) == SandboxSpec(
        environment=freeze({"NODE_VERSION": "18", "CI": "1"}), labels=freeze({"team": "b"})
    )
    assert without_inherited(given, None) is given
    assert without_inherited(SandboxSpec(), IMAGE) == SandboxSpec()


def test_the_path_that_an_engine_gives_to_an_image_without_one_is_the_images() -> None:
    """With images in containerd's store it shows that as an option of the container."""
    bare, usual = (
        image_config({"Config": {"Env": None}}),
        "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    )
    shown = SandboxSpec(environment=freeze({"PATH": usual, "A": "1"}))
    assert without_inherited(shown, bare).environment == {"A": "1"}
    assert without_inherited(SandboxSpec(environment=freeze({"PATH": "/x"})), bare).environment == {"PATH": "/x"}
    assert without_inherited(shown, IMAGE).environment == {"PATH": usual, "A": "1"}


def test_an_entry_point_can_be_taken_away() -> None:
    none = settle(SandboxSpec(entrypoint=(), command=("node",), network_mode="none"))
    assert encode(none, name=NAME, names=NAMES, own_labels={})["Entrypoint"] == []
    found = there_and_back(none)
    assert without_inherited(found, IMAGE).entrypoint == () == without_inherited(none, IMAGE).entrypoint
    assert (
        without_inherited(found, ImageConfig()).entrypoint is None is without_inherited(none, ImageConfig()).entrypoint
    )


def test_an_update_sends_what_belongs_together_and_nothing_else() -> None:
    spec = settle(SandboxSpec(mem_limit=64 << 20, cpus=0.5, pids_limit=7, restart="on-failure:2"))
    assert encode_update(spec, ["mem_limit"]) == {"Memory": 64 << 20, "MemorySwap": 64 << 20}
    assert encode_update(spec, ["memswap_limit"]) == {"Memory": 64 << 20, "MemorySwap": 64 << 20}
    assert encode_update(spec, ["cpus", "pids_limit", "restart"]) == {
        "NanoCpus": 500_000_000,
        "PidsLimit": 7,
        "RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 2},
    }


def test_only_fields_of_the_host_are_updated_live() -> None:
    for row in ROWS:
        if row.effect is Effect.LIVE:
            assert (field_of(row) or "").startswith("HostConfig."), row.key
        assert all(BY_KEY[key].effect is Effect.LIVE for key in row.together)


def test_an_option_that_the_engine_is_too_old_for_is_named() -> None:
    spec = SandboxSpec(annotations=freeze({"a": "b"}))
    assert [row.key for row in unsupported(spec, "1.42")] == ["annotations"]
    assert unsupported(spec, "1.43") == unsupported(spec, "1.100") == unsupported(SandboxSpec(), "1.12") == ()


def test_other_engines_words_are_read_as_well() -> None:
    """Podman's names of capabilities and limits; an engine that shows a duration of 0 for none."""
    live = Live(
        inspect={
            "Config": {"Healthcheck": {"Test": ["NONE"]}, "Env": ["A", "B=1=2"], "StopTimeout": None},
            "HostConfig": {
                "CapDrop": ["CAP_KILL", "chown"],
                "Ulimits": [{"Name": "RLIMIT_NOFILE", "Soft": 1, "Hard": -1}],
                "RestartPolicy": {"Name": "", "MaximumRetryCount": 0},
                "LogConfig": {"Type": "local", "Config": None},
                "SecurityOpt": ["no-new-privileges", "seccomp=unconfined", "label:disable"],
                "ExtraHosts": ["six:::1"],
                "DeviceRequests": [{"Count": -1, "Capabilities": [["gpu"]]}],
                "PidsLimit": -1,
                "NanoCpus": 1,
            },
        },
        names=NAMES,
    )

    def read(key: str) -> object:
        placement = FIELDS[key]
        assert placement is not None
        return placement.get(live)

    assert read("healthcheck") == Healthcheck(disable=True)
    assert read("environment") == {"A": None, "B": "1=2"}
    assert read("stop_grace_period") is None
    assert read("cap_drop") == ("CHOWN", "KILL")
    assert read("restart") == "no"
    assert read("logging") == Logging(driver="local", options=freeze({}))
    assert dict(read("security_opt")) == {"no-new-privileges": "true", "seccomp": "unconfined", "label": "disable"}  # type: ignore[call-overload]
    assert read("extra_hosts") == {"six": ("::1",)}
    assert (read("gpus"), read("pids_limit"), read("cpus")) == (-1, 0, 1e-9)
    assert read("network_mode") == "none"


def test_every_option_has_a_place_on_the_engine_or_is_kept_in_our_label() -> None:
    assert {row.key for row in ROWS} - FIELDS.keys() - KEPT == set()
    assert (FIELDS.keys() | KEPT) - {row.key for row in ROWS} == set()
    assert FIELDS.keys() & KEPT == set()


API = Egress(allow=("api.example.com:443", "db.example.com:5432", "db.example.com:22"))


def in_hosts_file(spec: SandboxSpec) -> dict[str, Any]:
    own = own_labels(project="p", address="a", run="r", spec=spec)
    own_addresses = OwnAddresses.of("10.231.0.8/29", in_hosts=True)
    return encode(spec, name=NAME, names=NAMES, own_labels=own, own_addresses=own_addresses)


def test_where_the_gateway_is_not_asked_names_stand_in_the_hosts_file() -> None:
    spec = settle(SandboxSpec(image="i", egress=API, extra_hosts=freeze({"other": ("192.0.2.1",)})))
    body = in_hosts_file(spec)
    lines = {"api.example.com:10.231.0.10", "db.example.com:10.231.0.10", "other:192.0.2.1"}
    assert set(body["HostConfig"]["ExtraHosts"]) == lines and len(body["HostConfig"]["ExtraHosts"]) == 3
    assert body["Labels"]["sandboxrun.names"] == "api.example.com db.example.com"
    found = decode(as_inspect(body, spec, name=NAME, names=NAMES), NAMES, spec)
    assert (found.egress, found.extra_hosts) == (spec.egress, spec.extra_hosts)


@pytest.mark.parametrize("line", ["api.example.com:192.0.2.66", None])
def test_a_hosts_file_that_leads_elsewhere_is_not_what_was_asked(line: str | None) -> None:
    spec = settle(SandboxSpec(image="i", egress=API))
    body = in_hosts_file(spec)
    kept = [given for given in body["HostConfig"]["ExtraHosts"] if not given.startswith("api.")]
    body["HostConfig"]["ExtraHosts"] = kept if line is None else [line, *kept]
    assert decode(as_inspect(body, spec, name=NAME, names=NAMES), NAMES, spec).egress is None


@pytest.mark.parametrize("kind", ["gateway", "keeper"])
def test_of_a_companion_whatever_the_engine_dropped_is_named(kind: str) -> None:
    spec = settle(SandboxSpec(egress=Egress(mode="allow", allow=("a.example.com:443",), resolvers=("10.1.0.53",))))
    one = DeclaredSandbox(address="a", sandbox="a", name=NAME, spec=spec)
    own_addresses = OwnAddresses.of("10.231.0.8/29")
    payload = (
        gateway_payload(one, NAMES, "r", own_addresses, "x")
        if kind == "gateway"
        else keeper_payload(one, "p", "r", {"secrets": "/held/secrets"}, "x")
    )
    host = payload["HostConfig"]
    mounts = [{"Name": mount["Source"], "Destination": mount["Target"]} for mount in host["Mounts"]]

    def taken(**less: Any) -> list[str]:
        own = {"HostConfig": {key: value for key, value in host.items() if key != "Mounts"}, "Mounts": mounts}
        own |= {"Config": {"User": payload["User"], "Labels": {**payload["Labels"], "of.the.image": "x"}}}
        return list(not_taken(payload, {**own, **less}))

    assert taken() == []
    for field in host.keys() - {"Mounts", "Init", "RestartPolicy"}:
        assert taken(HostConfig={key: value for key, value in host.items() if key != field}) == [f"HostConfig.{field}"]
    assert taken(Mounts=[]) == ["HostConfig.Mounts"]
    assert taken(HostConfig={**host, "RestartPolicy": {"Name": "always"}}) == ["HostConfig.RestartPolicy"]
    assert taken(Config={"User": "", "Labels": payload["Labels"]}) == ["Config.User"]
    for label in payload["Labels"]:
        fewer = {name: text for name, text in payload["Labels"].items() if name != label}
        assert taken(Config={"User": payload["User"], "Labels": fewer}) == ["Config.Labels"]
    for field, value in (
        ("CapAdd", ["CAP_SYS_ADMIN"]),
        ("Devices", [{"PathOnHost": "/dev/kvm"}]),
        ("PortBindings", {"80/tcp": [{"HostPort": "80"}]}),
        ("Privileged", True),
        ("PidMode", "host"),
        ("AutoRemove", True),
    ):
        assert taken(HostConfig={**host, field: value}) == [f"HostConfig.{field}"]
    assert taken(HostConfig={**host, "MaskedPaths": [], "ReadonlyPaths": []}) == ["HostConfig.MaskedPaths"]
    closed: dict[str, Any] = {
        "CapAdd": None,
        "Devices": [],
        "PortBindings": {},
        "Privileged": False,
        "MaskedPaths": ["/proc/kcore"],
    }
    assert taken(HostConfig={**host, **closed, "UTSMode": "", "ReadonlyPaths": ["/proc/sys"]}) == []
