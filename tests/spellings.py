"""Options with other spellings of the same meaning, and options that hold several values: what the tests of the model
and of the engine walk over. An option that is in neither table fails them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import field

from sandboxrun.data import Data


class Spelling(Data):
    """Values of an option that mean the `same`, and `others` that mean something else. `also` are options of the same
    sandbox, `top` keys of the profile's top level; `shown` is what an engine shows of another of these spellings."""

    same: tuple[Any, ...]
    others: tuple[Any, ...] = ()
    also: Mapping[str, Any] = field(default_factory=dict)
    top: Mapping[str, Any] = field(default_factory=dict)
    shown: Mapping[str, Any] = field(default_factory=dict)


ARGUMENTS = {"command": ["x"]}
BRIDGE = {"network_mode": "bridge"}
JOINED = {"networks": ["one"]}
NETWORKS = {"networks": {"one": {"subnet": "10.251.79.0/28"}, "two": {}}}
SECRETS = {"secrets": {"a": {"environment": "A"}, "b": {"environment": "B"}}}
CONFIGS = {"configs": {"a": {"content": "1"}, "b": {"content": "2"}}}
DIGEST = "sha256:" + "0123456789abcdef" * 4
ZERO, NULL = "/dev/zero", "/dev/null"

SPELLINGS: Mapping[str, tuple[Spelling, ...]] = {
    "image": (
        Spelling(
            same=("x", "x:latest", "library/x", "library/x:latest"),
            others=("x:1", "y/x", "library/y/x"),
            shown={"Image": "x"},
        ),
        Spelling(same=(f"x@{DIGEST}", f"x:1@{DIGEST}"), others=("x", "x:1")),
        Spelling(same=("example.com:5000/a/x", "example.com:5000/a/x:latest"), others=("example.com/a/x",)),
        Spelling(same=("y/x", "y/x:latest"), others=("library/y/x",)),
        Spelling(same=(DIGEST,), others=("0123456789ab", "0123456789ab:latest")),
    ),
    "command": (
        Spelling(same=("sleep '4 0' 1", ["sleep", "4 0", 1]), others=(["sleep", "4", "0", "1"], ["1", "sleep", "4 0"])),
        Spelling(same=(None, [], ""), others=(["x"],), also={"entrypoint": ["sleep"]}),
    ),
    "entrypoint": (Spelling(same=("sleep 1", ["sleep", "1"]), others=([], None, ["1", "sleep"]), also=ARGUMENTS),),
    "user": (
        Spelling(same=(1000, "1000", "01000"), others=("1000:1000", "agent"), shown={"User": "01000"}),
        Spelling(same=("1000:1000", "1000:01000"), others=(1000, "1000:0")),
    ),
    "environment": (
        Spelling(same=({"A": 1, "B": "x=y"}, ["B=x=y", "A=1"], {"B": "x=y", "A": "1"}), others=({"A": 1}, ["A=1.0"])),
    ),
    "stop_signal": (
        Spelling(same=("SIGINT", "INT", "sigint", "2", 2), others=("SIGTERM", "3"), shown={"StopSignal": "2"}),
        Spelling(same=("SIGABRT", "IOT", 6), others=("SIGKILL",)),
        Spelling(same=("SIGRTMIN+3", "RTMIN+3", 37), others=("SIGRTMIN", "SIGRTMAX-3"), shown={"StopSignal": "37"}),
        Spelling(same=("RTMAX-10", "RTMIN+20", 54), others=("RTMAX",)),
    ),
    "stop_grace_period": (Spelling(same=("90s", "1m30s", "1.5m", "90000ms", "89s1ms"), others=("9s",)),),
    "restart": (
        Spelling(same=("no", False, None), others=("always", "on-failure")),
        Spelling(same=("on-failure", "on-failure:0", "on-failure:00"), others=("on-failure:1", "no")),
        Spelling(same=("on-failure:3", "on-failure:03"), others=("on-failure:30",)),
    ),
    "healthcheck": (
        Spelling(
            same=({"test": "true"}, {"test": ["CMD-SHELL", "true"], "interval": "30s", "retries": "3"}),
            others=({"test": ["CMD", "true"]}, {"disable": True}),
        ),
    ),
    "labels": (Spelling(same=({"a": 1, "b": ""}, ["b=", "a=1"], {"b": None, "a": "1"}), others=({"a": 1},)),),
    "annotations": (Spelling(same=({"a": 1, "b": ""}, ["b=", "a=1"]), others=({"a": 1},)),),
    "platform": (
        Spelling(
            same=("linux/amd64", "linux/x86_64", "linux/x86-64", "amd64", "x86_64", "Linux/AMD64", "linux/amd64/v1"),
            others=("linux", "linux/arm64", "linux/amd64/v3"),
        ),
        Spelling(same=("linux/arm64", "aarch64", "arm64", "linux/arm64/v8", "arm64/v8"), others=("linux/arm/v7",)),
        Spelling(same=("linux/arm/v7", "linux/arm", "armhf", "arm/7"), others=("linux/arm/v6", "armel")),
    ),
    "pull_policy": (Spelling(same=("missing", "if_not_present", None), others=("always", "never")),),
    "logging": (
        Spelling(
            same=(
                {"driver": "local", "options": {"max-size": "1m", "max-file": 2}},
                {"options": ["max-file=2", "max-size=1m"]},
            ),
            others=({"driver": "json-file"}, {"options": {"max-size": "1m"}}),
        ),
    ),
    "group_add": (
        Spelling(
            same=([1, 2, "agent"], ["agent", "2", "1"], ["02", "agent", "01"]),
            others=([1, 2], [1, 2, 3]),
            shown={"GroupAdd": ["2", "1", "agent"]},
        ),
    ),
    "mem_limit": (
        Spelling(same=("512m", 536870912, "0.5g", "512 MiB", "512Mi", "524288K", "512mb", None), others=("51m",)),
    ),
    "memswap_limit": (
        Spelling(same=(-1, "-1", "unlimited"), others=("1g",)),
        Spelling(same=("512m", "0.5g", None), others=("513m",)),
    ),
    "mem_reservation": (Spelling(same=("64m", 67108864, "65536k"), others=("65m",)),),
    "cpus": (
        Spelling(same=(1, 1.0, "1", "1.0", "1.", None), others=(2,)),
        Spelling(same=(0.5, "0.5", ".5", 0.50), others=(0.05,)),
    ),
    "cpu_shares": (Spelling(same=(512, "512"), others=(51,)),),
    "cpuset": (
        Spelling(same=("0-1", "0,1", "1,0", "0-1,1", "00,1"), others=("0", "1"), shown={"CpusetCpus": "1,0"}),
        Spelling(same=("0-2,5", "5,2,0-1", "0,1,2,5-5"), others=("0-5", "0-2")),
        Spelling(same=("0", 0, "0-0"), others=("0-1",)),
    ),
    "pids_limit": (
        Spelling(same=(64, "64"), others=(6,)),
        Spelling(same=(0, -1, "0"), others=(1, None)),
    ),
    "ulimits": (
        Spelling(
            same=(
                {"nofile": 1024, "nproc": {"soft": 1, "hard": 2}},
                {"nproc": {"hard": "2", "soft": "1"}, "nofile": {"soft": 1024, "hard": 1024}},
                {"nproc": {"soft": 1, "hard": 2}, "nofile": "1024"},
            ),
            others=({"nofile": 1024}, {"nofile": 1024, "nproc": -1}),
        ),
    ),
    "shm_size": (Spelling(same=("64m", 67108864, "0.0625g", None), others=("64k",)),),
    "storage_opt": (Spelling(same=({"size": "1g"}, ["size=1g"]), others=({"size": "2g"},)),),
    "oom_score_adj": (Spelling(same=(500, "500"), others=(50,)),),
    "devices": (
        Spelling(
            same=(
                [f"{ZERO}:/dev/nil:mr", NULL],
                [f"{NULL}:{NULL}", f"{ZERO}:/dev/nil:rm"],
                [{"source": NULL, "permissions": "mwr"}, {"source": ZERO, "target": "/dev/nil", "permissions": "rmr"}],
            ),
            others=([NULL], [f"{ZERO}:/dev/nil:r", NULL]),
            shown={
                "Devices": [
                    {"PathOnHost": NULL, "PathInContainer": NULL, "CgroupPermissions": "wrm"},
                    {"PathOnHost": ZERO, "PathInContainer": "/dev/nil", "CgroupPermissions": "mr"},
                ]
            },
        ),
    ),
    "gpus": (Spelling(same=(2, "2"), others=("all", 1)),),
    "cap_add": (
        Spelling(same=(["KILL", "cap_chown"], ["CHOWN", "CAP_KILL"], ["chown", "kill", "CHOWN"]), others=(["KILL"],)),
    ),
    "cap_drop": (Spelling(same=(["KILL", "cap_chown"], ["CHOWN", "CAP_KILL"]), others=(["KILL"],)),),
    "security_opt": (
        Spelling(
            same=(["no-new-privileges:true", "apparmor=x"], ["apparmor:x", "no-new-privileges"], ["apparmor=x"]),
            others=(["no-new-privileges:false", "apparmor=x"], ["apparmor=y"]),
        ),
        Spelling(
            same=(
                ["label=user:a", "label=type:b", "seccomp=unconfined"],
                ["label:type:b", "seccomp:unconfined", "label:user:a"],
                {"label=type": "b", "label=user": "a", "seccomp": "unconfined"},
            ),
            others=(["label=user:a"], ["label=disable"]),
            shown={"SecurityOpt": ["no-new-privileges=true", "seccomp=unconfined", "label:type:b", "label=user:a"]},
        ),
        Spelling(
            same=(["seccomp=a.json"], ['seccomp={"defaultAction": "SCMP_ACT_ALLOW"}'], {"seccomp": "./a.json"}),
            others=(["seccomp=unconfined"],),
        ),
    ),
    "sysctls": (
        Spelling(
            same=(
                {"net.ipv4.ip_unprivileged_port_start": 0, "kernel.msgmax": 9},
                ["kernel/msgmax=9", "net/ipv4/ip_unprivileged_port_start=0"],
            ),
            others=({"kernel.msgmax": 9},),
        ),
    ),
    "tmpfs": (
        Spelling(
            same=(
                ["/x:size=1m,mode=700", "/y"],
                ["/y:nosuid,size=65536k,rw,noexec,nodev", "/x:mode=0700,size=1048576"],
                {"/x": "mode=0o700,size=1m", "/y": None},
            ),
            others=(["/x", "/y"], ["/x:size=1m,mode=700"]),
        ),
        Spelling(same=(["/x:mode=1777,uid=5"], ["/x:uid=05,mode=01777"]), others=(["/x:mode=777,uid=5"],)),
    ),
    "volumes": (
        Spelling(
            same=(
                ["data:/data:ro", "./:/src"],
                ["./:/src:rw", {"type": "volume", "source": "data", "target": "/data", "read_only": True}],
                [{"type": "bind", "source": ".", "target": "/src", "read_only": False}, "data:/data:ro"],
            ),
            others=(["data:/data:ro"], ["data:/data", "./:/src"]),
            top={"volumes": {"data": {}}},
        ),
    ),
    "workspace": (
        Spelling(
            same=(
                {"source": "sub", "exclude": ["b", "a"], "size": "2m"},
                {"source": "./sub", "access": "copy", "exclude": ["a", "b"], "size": 2097152, "target": "/workspace"},
            ),
            others=("sub", {"source": "sub", "access": "ro"}),
        ),
        Spelling(
            same=(
                {"source": "sub", "access": "rw", "writable": ["Makefile", ".vscode"]},
                {"source": "sub", "access": "rw", "writable": [".vscode", "Makefile"]},
            ),
            others=({"source": "sub", "access": "rw"},),
        ),
        Spelling(same=("sub", {"source": "sub"}), others=(".",)),
    ),
    "secrets": (
        Spelling(
            same=(
                ["a", {"source": "b", "mode": "0440", "target": "c"}],
                [{"target": "c", "source": "b", "mode": "0o440"}, {"source": "a", "target": "a", "mode": "0400"}],
            ),
            others=(["a", "b"],),
            top=SECRETS,
        ),
    ),
    "configs": (Spelling(same=(["b", "a"], ["a", {"source": "b", "target": "b"}]), others=(["a"],), top=CONFIGS),),
    "network_mode": (Spelling(same=("bridge", None), others=("none",)),),
    "networks": (
        Spelling(
            same=(
                {"two": None, "one": {"aliases": ["B", "a"], "ipv4_address": "10.251.79.9"}},
                {"one": {"ipv4_address": "10.251.79.9", "aliases": ["a", "b"]}, "two": {}},
            ),
            others=({"one": {"aliases": ["a"], "ipv4_address": "10.251.79.9"}, "two": {}}, ["one", "two"]),
            also=BRIDGE,
            top=NETWORKS,
        ),
        Spelling(same=(["one", "two"], ["two", "one"], {"two": {}, "one": None}), others=(["one"],), top=NETWORKS),
    ),
    "dns": (
        Spelling(same=("fd00::5", ["fd00:0::5"], ["FD00:0:0::0005"]), others=("fd00::6",), also=JOINED, top=NETWORKS),
        Spelling(
            same=(["192.0.2.1", "fd00::5"],),
            others=(["fd00::5", "192.0.2.1"],),  # the first is asked first
            also=JOINED,
            top=NETWORKS,
            shown={"Dns": ["192.0.2.1", "fd00:0::5"]},
        ),
    ),
    "egress": (
        Spelling(
            same=(
                {"allow": ["a.example.com:443", "*.example.org:8443"], "private_networks": ["10.1.0.0/16", "fd00::/8"]},
                {
                    "mode": "allow",
                    "allow": ["*.Example.org:08443", "A.example.com:443"],
                    "private_networks": ["FD00:0::/8", "10.1.0.0/16"],
                },
            ),
            others=({"allow": ["a.example.com:443"]}, "open"),
        ),
        Spelling(
            same=({"mode": "open", "resolvers": ["fd00::5"]}, {"mode": "open", "resolvers": ["fd00:0::5"]}),
            others=("open", {"mode": "open", "resolvers": ["192.0.2.1"]}),
        ),
        Spelling(same=("open", {"mode": "open"}, None), others=("none",)),
        Spelling(same=("none", {"mode": "none"}), others=("open",)),
    ),
    "dns_search": (
        Spelling(same=("example.com", ["Example.com."]), others=("example.org",), shown={"DnsSearch": ["Example.com"]}),
        Spelling(same=(["a.example", "b.example"],), others=(["b.example", "a.example"],)),
    ),
    "dns_opt": (
        Spelling(
            same=(["timeout:2", "ndots:3", "rotate"], ["rotate", "ndots:3", "timeout:2"]),
            others=(["timeout:2"], ["timeout:3", "ndots:3", "rotate"]),
            shown={"DnsOptions": ["timeout:2", "rotate", "ndots:3"]},
        ),
    ),
    "extra_hosts": (
        Spelling(same=({"a.example": "192.0.2.1"}, ["a.example:192.0.2.1"], ["a.example=192.0.2.1"]), others=({},)),
    ),
    "depends_on": (
        Spelling(same=(["other"], {"other": {"condition": "service_started"}}, {"other": None}), others=([],)),
    ),
    "lifetime": (Spelling(same=({"timeout": "1h30m"}, {"timeout": "90m"}), others=({"timeout": "90s"},)),),
    "evidence": (
        Spelling(same=({"usage_every": "90s", "logs_limit": "1m"}, {"logs_limit": "1024k", "usage_every": "1m30s"})),
    ),
}

ONE_FORM: Mapping[str, str] = {
    "working_dir": "a path is written in one way only",
    "init": "true or false",
    "tty": "true or false",
    "stdin_open": "true or false",
    "read_only": "true or false",
    "hostname": "programs see it in the case that it is written in",
    "runtime": "a name",
    "userns_mode": "one word",
    "ipc": "one of a few words",
}


class Many(Data):
    """A value that says several things, and a word of each."""

    value: Any
    words: tuple[str, ...]
    also: Mapping[str, Any] = field(default_factory=dict)
    top: Mapping[str, Any] = field(default_factory=dict)


MANY: Mapping[str, Many] = {
    "command": Many(value=["a1", "a1", "a2"], words=("a1", "a1", "a2")),
    "entrypoint": Many(value=["a1", "a1", "a2"], words=("a1", "a1", "a2")),
    "environment": Many(value=["A=v1", "B=v2", "C=v1=v3"], words=("v1", "v2", "v1=v3")),
    "labels": Many(value={"a1": "v1", "a2": "v2=v3"}, words=("a1", "v1", "a2", "v2=v3")),
    "annotations": Many(value={"a1": "v1", "a2": "v2"}, words=("a1", "v1", "a2", "v2")),
    "group_add": Many(value=[1111, "g2", 3333], words=("1111", "g2", "3333")),
    "ulimits": Many(value={"nofile": 1111, "stack": 2222, "core": 3333}, words=("1111", "2222", "3333")),
    "storage_opt": Many(value={"size": "1g"}, words=("size", "1g")),  # its only option
    "devices": Many(value=["/dev/a1", "/dev/a2:/dev/a3:r"], words=("/dev/a1", "/dev/a2", "/dev/a3")),
    "cap_add": Many(value=["CHOWN", "KILL", "FOWNER"], words=("CHOWN", "KILL", "FOWNER")),
    "cap_drop": Many(value=["CHOWN", "KILL", "FOWNER"], words=("CHOWN", "KILL", "FOWNER", "ALL")),
    "security_opt": Many(
        value=["label=user:l1", "label=type:l2", "label=role:l3", "label=level:s0:c1,c2", "apparmor=p5"],
        words=("user:l1", "type:l2", "role:l3", "level:s0:c1,c2", "apparmor=p5", "no-new-privileges", "seccomp"),
    ),
    "sysctls": Many(value={"net.a1": 1111, "net.a2": "2222"}, words=("net.a1", "1111", "net.a2", "2222")),
    "tmpfs": Many(value=["/a1:size=11m", "/a2:size=22m,exec"], words=("/a1", "size=11m", "/a2", "size=22m", "/tmp")),
    "volumes": Many(
        value=["v1:/a1", "v1:/a2:ro", "./sub:/a3"],
        words=("v1", "/a1", "v1", "/a2", "sub", "/a3"),
        top={"volumes": {"v1": {}}},
    ),
    "secrets": Many(value=["a", {"source": "a", "target": "x1"}, "b"], words=("a", "x1", "b"), top=SECRETS),
    "configs": Many(value=["a", {"source": "a", "target": "x1"}, "b"], words=("a", "x1", "b"), top=CONFIGS),
    "networks": Many(
        value={"one": {"aliases": ["n1", "n2"]}, "two": {"aliases": ["n1", "n3"]}},
        words=("one", "n1", "n2", "two", "n1", "n3"),
        top=NETWORKS,
    ),
    "dns": Many(
        value=["192.0.2.1", "192.0.2.2", "::1"], words=("192.0.2.1", "192.0.2.2", "::1"), also=JOINED, top=NETWORKS
    ),
    "dns_search": Many(value=["a1.example", "a2.example"], words=("a1.example", "a2.example")),
    "dns_opt": Many(value=["timeout:11", "ndots:7", "rotate"], words=("timeout:11", "ndots:7", "rotate")),
    "extra_hosts": Many(value={"h1": "192.0.2.1", "h2": "::1"}, words=("h1", "192.0.2.1", "h2", "::1")),
    "depends_on": Many(value=["other", "third"], words=("other", "third")),
}
