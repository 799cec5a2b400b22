"""Loading: several files, bases, paths, digests, masking, and hostile input."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sandboxrun.errors import ProfileError
from sandboxrun.profile.files import bases, real_places
from sandboxrun.profile.loader import effective, load, load_data
from sandboxrun.profile.render import render_json, render_yaml
from sandboxrun.profile.variables import Inputs
from sandboxrun.spec.names import JUDGING
from sandboxrun.spec.option import rows, value_of
from sandboxrun.spec.option_types import CLOSED, PUBLIC
from sandboxrun.spec.project import Profile
from sandboxrun.spec.spec import SandboxSpec, settle

Load = Callable[..., Profile]


def spec(profile: Profile, address: str = "agent") -> SandboxSpec:
    sandbox = profile.sandbox(address)
    assert sandbox is not None
    return sandbox.spec


def faults(load_text: Load, *texts: str, **inputs: object) -> list[str]:
    with pytest.raises(ProfileError) as raised:
        load_text(*texts, **inputs)
    return [diagnostic.message for diagnostic in raised.value.diagnostics]


def test_a_sandbox_that_says_nothing_is_the_default_one(load_text: Load) -> None:
    assert spec(load_text("sandboxes: {agent: }")) == settle(SandboxSpec())


def test_hardened_spells_out_what_is_the_default_anyway(load_text: Load) -> None:
    plain = spec(load_text("sandboxes: {agent: {}}"))
    extended = spec(load_text("sandboxes: {agent: {extends: hardened}}"))
    assert plain.egress == PUBLIC and extended.egress == CLOSED  # what a profile does not say of the network is open
    assert extended == spec(load_text("sandboxes: {agent: {egress: none}}"))
    written = bases()["hardened"].read_text()
    silent = {"image", "workspace"}
    for row in rows(SandboxSpec):
        closes = row.settable and row.always and row.default not in (None, (), {}) and row.key not in silent
        assert not closes or f"    {row.key}:" in written, row.key


@pytest.mark.parametrize("name", sorted(bases()))
def test_every_shipped_base_loads_by_itself_and_as_a_base(name: str, load_text: Load) -> None:
    alone = load([bases()[name]])
    assert [sandbox.sandbox for sandbox in alone.sandboxes] == [name]
    assert alone.project == name
    extended = load_text(f"sandboxes: {{agent: {{extends: {name}}}}}")
    assert spec(extended) == spec(alone, name)
    assert extended.sandboxes[0].workspace in (None, extended.directory)


def test_the_default_base_is_the_sandbox_the_design_names(load_text: Load) -> None:
    found = spec(load_text("sandboxes: {agent: {extends: default}}"))
    assert (found.image, found.mem_limit, found.cpus) == ("node:20-alpine", 512 * 1024**2, 1.0)
    assert (found.user, found.network_mode) == ("1000:1000", "bridge")
    assert found.workspace is not None and found.workspace.access == "copy"
    assert spec(load_text("sandboxes: {agent: {extends: offline}}")).network_mode == "none"
    assert spec(load_text("sandboxes: {agent: {extends: gvisor}}")).runtime == "runsc"


def test_later_files_are_merged_over_earlier_ones(load_text: Load) -> None:
    profile = load_text(
        "name: one\nvariables: {a: {type: string, default: x}}\n"
        "sandboxes:\n  agent: {image: a, environment: {A: '1', B: '1'}, cap_add: [CHOWN]}\n  other: {}\n"
        "networks: {default: {internal: true}}\n",
        "name: two\nsandboxes:\n  agent: {image: '{{ a }}', environment: [B=2], cap_add: [KILL]}\n"
        "networks: {default: {enable_ipv6: true}}\n",
    )
    assert profile.project == "two"
    assert [sandbox.address for sandbox in profile.sandboxes] == ["agent", "other"]
    found = spec(profile)
    assert found.image == "x:latest" and dict(found.environment) == {"A": "1", "B": "2"}
    assert found.cap_add == ("CHOWN", "KILL")
    assert profile.networks["default"].internal and profile.networks["default"].enable_ipv6


@pytest.mark.parametrize(
    ("below", "above", "key", "value"),
    [
        ("command: [a]", "command: [b]", "command", ("b",)),
        ("command: [a]", "command: null", "command", None),
        ("cap_add: [CHOWN]", "cap_add: [cap_chown, KILL]", "cap_add", ("CHOWN", "KILL")),
        ("cap_add: [CHOWN]", "cap_add: null", "cap_add", ()),
        ("dns: 192.0.2.1, networks: [default]", "dns: [192.0.2.2, 192.0.2.1]", "dns", ("192.0.2.2", "192.0.2.1")),
        ("labels: [a=1, b=1]", "labels: {b: 2}", "labels", {"a": "1", "b": "2"}),
        ("extra_hosts: ['a:192.0.2.1']", "extra_hosts: {b: 192.0.2.2}", "extra_hosts",
         {"a": ("192.0.2.1",), "b": ("192.0.2.2",)}),
        ("extra_hosts: ['a=192.0.2.1', 'a=[2001:db8::1]', 'b=192.0.2.2']", "extra_hosts: {b: ['192.0.2.3', '::1']}",
         "extra_hosts", {"a": ("192.0.2.1", "2001:db8::1"), "b": ("192.0.2.3", "::1")}),
        ("ulimits: {nproc: 1}", "ulimits: null", "ulimits", SandboxSpec().ulimits),
        ("security_opt: ['no-new-privileges:false']", "security_opt: [seccomp=unconfined]", "security_opt",
         {"no-new-privileges": "false", "seccomp": "unconfined"}),
        ("mem_limit: 1g", "mem_limit: 2g", "mem_limit", 2 * 1024**3),
        ("mem_limit: 1g", "mem_limit: '{{ none_ }}'", "mem_limit", 512 * 1024**2),
        ("lifetime: {timeout: 1m, ttl: 2m}", "lifetime: {timeout: 3m}", "lifetime.ttl", 120 * 10**9),
        ("lifetime: {timeout: 1m, ttl: 2m}", "lifetime: {ttl: null}", "lifetime.ttl", None),
    ],
)  # fmt: skip
def test_merging_by_option(load_text: Load, below: str, above: str, key: str, value: object) -> None:
    profile = load_text(
        f"variables: {{none_: {{type: string, required: false}}}}\nsandboxes: {{agent: {{{below}}}}}\n",
        f"sandboxes: {{agent: {{{above}}}}}\n",
    )
    found: object = spec(profile)
    for part in key.split("."):
        found = getattr(found, part)
    assert found == value


def test_tmp_stays_beside_a_tmpfs_of_ones_own_and_gives_way_to_a_mount(load_text: Load) -> None:
    assert set(spec(load_text("sandboxes: {agent: {tmpfs: [/run]}}")).tmpfs) == {"/tmp", "/run"}
    assert set(spec(load_text("sandboxes: {agent: {volumes: ['./t:/tmp']}}")).tmpfs) == set()
    both = "sandboxes: {agent: {tmpfs: [/run], volumes: ['./t:/tmp']}}"
    assert set(spec(load_text(both)).tmpfs) == {"/run"}
    clash = "sandboxes: {agent: {tmpfs: [/tmp], volumes: ['./t:/tmp']}}"
    assert faults(load_text, clash) == ["/tmp is mounted by tmpfs and by volumes"]


@pytest.mark.parametrize(
    ("volume", "tmpfs"),
    [
        ("{type: tmpfs, target: /scratch}", "/scratch"),
        ("{type: tmpfs, target: /scratch, tmpfs: {size: 128m, mode: 01777}}", "/scratch:size=128m,mode=1777"),
        ("{type: tmpfs, target: /scratch, tmpfs: {size: 1048576, mode: '0700'}}", "/scratch:size=1m,mode=0700"),
        ("{type: tmpfs, target: /scratch/, read_only: true, tmpfs: {mode: 0o755}}", "/scratch:ro,mode=0755"),
        ("{type: tmpfs, target: /tmp, tmpfs: {size: 1m}}", "/tmp:size=1m"),
    ],
)
def test_the_long_form_of_a_tmpfs_is_the_option(load_text: Load, volume: str, tmpfs: str) -> None:
    long = f"sandboxes: {{agent: {{volumes: ['./a:/a', {volume}]}}}}"
    short = f"sandboxes: {{agent: {{volumes: ['./a:/a'], tmpfs: ['{tmpfs}']}}}}"
    assert spec(load_text(long)) == spec(load_text(short))
    if "scratch" in volume:
        assert load_text(long).sandboxes[0].provenance["tmpfs"].via == "implied by volumes"


@pytest.mark.parametrize(
    ("volume", "fault"),
    [
        ("{type: tmpfs, target: /t, source: x}", 'a tmpfs mount has no "source"'),
        ("{type: tmpfs, target: /t, tmpfs: {size: 0}}", "a size of 0 is unlimited"),
        ("{type: tmpfs, target: /t, tmpfs: {size: 1q}}", "expected a size, such as 512m, 1.5g or a number of bytes, "
         'found the text "1q"'),
        ("{type: tmpfs, target: /t, tmpfs: {mode: 1777}}", "expected permissions in octal, such as 0400, "
         "found the number 1777"),
        ("{type: tmpfs, target: /a}", '"/a" is listed twice'),
        ("{type: bind, source: ., target: /t, tmpfs: {size: 1m}}", "a bind mount has no tmpfs options"),
    ],
)  # fmt: skip
def test_what_the_long_form_of_a_tmpfs_refuses(load_text: Load, volume: str, fault: str) -> None:
    assert faults(load_text, f"sandboxes: {{agent: {{volumes: ['./a:/a', {volume}]}}}}") == [fault]


def test_paths_start_at_the_project_and_in_a_base_at_its_file(load_text: Load, tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "base.yaml").write_text(
        "sandboxes: {agent: {volumes: ['./b:/b', '../up:/up'], workspace: {source: w, access: rw}}}"
    )
    profile = load_text(
        "sandboxes: {agent: {extends: {file: deep/base.yaml, sandbox: agent}, volumes: ['./a:/a', "
        f"'{tmp_path}/abs:/abs']}}}}"
    )
    sources = {mount.target: mount.source for mount in spec(profile).volumes}
    assert sources == {
        "/a": str(tmp_path / "a"),
        "/b": str(tmp_path / "deep" / "b"),
        "/up": str(tmp_path / "up"),
        "/abs": str(tmp_path / "abs"),
    }
    workspace = spec(profile).workspace
    assert workspace is not None and workspace.source == str(tmp_path / "deep" / "w")
    assert profile.sandboxes[0].workspace is None


def test_a_copied_workspace_keeps_its_spec_free_of_the_place(load_text: Load, tmp_path: Path) -> None:
    profile = load_text("sandboxes: {agent: {workspace: {source: ./src}}}")
    assert profile.sandboxes[0].workspace == tmp_path / "src"
    workspace = spec(profile).workspace
    assert workspace is not None and workspace.source == "./src"


@pytest.mark.parametrize("text", ["sandbox.yaml", "sub/../../x.yaml", "../x.yaml", "link.yaml", "linked/x.yaml"])
def test_no_file_outside_of_the_project_is_read(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (tmp_path / "x.yaml").write_text("sandboxes: {agent: {image: stolen}}")
    (project / "link.yaml").symlink_to(tmp_path / "x.yaml")
    (project / "linked").symlink_to(tmp_path)
    monkeypatch.chdir(project)
    (project / "sandbox.yaml").write_text(
        f"sandboxes: {{agent: {{}}, other: {{extends: {{file: {text}, sandbox: agent}}}}}}"
    )
    if text == "sandbox.yaml":
        assert load([Path("sandbox.yaml")]).sandbox("other") is not None
        assert load("sandbox.yaml") == load(["sandbox.yaml"]) == load(Path("sandbox.yaml"))
        return
    with pytest.raises(ProfileError, match="outside of the project"):
        load([Path("sandbox.yaml")])


def test_a_pipe_is_no_profile(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    with pytest.raises(ProfileError, match="can't be read: not a regular file"):
        load([tmp_path / "pipe.yaml"])
    with pytest.raises(ProfileError, match="can't be read"):
        load([tmp_path])


def test_the_callers_environment_reaches_bare_names_only(load_text: Load) -> None:
    profile = load_text(
        "sandboxes: {agent: {environment: [KEY, ABSENT, OWN=1]}}", environment={"KEY": "swordfish", "OWN": "theirs"}
    )
    assert dict(spec(profile).environment) == {"KEY": "swordfish", "OWN": "1"}
    assert "swordfish" in profile.sensitive
    assert "swordfish" not in render_json(profile) and "swordfish" not in render_yaml(profile)


@pytest.mark.parametrize("value", ["SYS_ADMIN", "NIMDA_SYS", "/srv/data"])
def test_no_value_of_the_callers_hides_an_option(value: str, load_text: Load, tmp_path: Path) -> None:
    """Whoever opens a change may choose one: the name of its branch, in a variable that a profile then takes over."""
    (tmp_path / "srv/data").mkdir(parents=True)
    profile = load_text(
        "sandboxes: {agent: {environment: [REF, KEY], cap_add: [SYS_ADMIN], volumes: ['./srv/data:/d']}}",
        environment={"REF": value, "KEY": "swordfish"},
    )
    assert profile.sensitive == {"swordfish"}


def test_secrets_are_masked_everywhere(load_text: Load) -> None:
    text = (
        "variables: {token: {type: string, sensitive: true}, pin: {type: integer, sensitive: true}}\n"
        "sandboxes: {agent: {environment: {A: '{{ token }}', B: 'x{{ token }}y', C: '{{ token | upper }}',"
        " D: '{{ pin }}'}}}\n"
    )
    profile = load_text(text, vars=("token=swordfish", "pin=42"))
    assert spec(profile).environment["B"] == "xswordfishy"
    for shown in (render_json(profile), render_yaml(profile), str(profile.inputs), repr(profile.inputs)):
        assert "swordfish" not in shown.lower() and '"42"' not in shown


def test_the_digest_follows_meaning_and_not_writing(load_text: Load, tmp_path: Path) -> None:
    one = load_text("name: n\nsandboxes:\n  agent: {mem_limit: 512m, cpus: 1}\n")
    two = load_text("# a comment\nsandboxes: {agent: {cpus: 1.0, mem_limit: '0.5g'}}\nname: n\n")
    other = load_text("name: n\nsandboxes: {agent: {mem_limit: 513m}}\n")
    assert one.digest == two.digest != other.digest
    assert one.digest.startswith("sha256:")


def test_the_digest_does_not_follow_the_project_around(tmp_path: Path) -> None:
    found = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        path = tmp_path / name / "sandbox.yaml"
        path.write_text("name: n\nsandboxes: {agent: {volumes: ['./d:/d'], workspace: {access: rw}}}\n")
        found.append(load([path]).digest)
    assert found[0] == found[1]


def test_origins(load_text: Load) -> None:
    profile = load_text(
        "variables: {m: {type: string, default: 1g}}\n"
        "sandboxes:\n  agent:\n    extends: offline\n    mem_limit: '{{ m }}'\n    workspace: .\n"
    )
    shown = {
        line.split(":")[0].strip(): line.rsplit("# ", 1)[1]
        for line in render_yaml(profile).splitlines()
        if "# " in line
    }
    assert shown["mem_limit"] == "sandbox.yaml:5"
    assert shown["memswap_limit"] == "implied by mem_limit"
    assert shown["network_mode"] == "base offline"
    assert shown["image"] == "base default"
    assert shown["pids_limit"] == "default"
    assert shown["working_dir"] == "implied by workspace.target"


def test_a_fault_of_a_base_points_into_the_base(load_text: Load, tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("sandboxes:\n  agent:\n    cpus: '{{ n }}'\n")
    with pytest.raises(ProfileError) as raised:
        load_text(
            "variables: {n: {type: string, default: many}}\n"
            "sandboxes: {a: {extends: {file: base.yaml, sandbox: agent}}, b: {image: '{{ n | nope }}'}}\n"
        )
    assert [str(d.span) for d in raised.value.diagnostics] == ["base.yaml:3:11", "sandbox.yaml:2:81"]


def test_a_template_that_is_overridden_is_not_rendered(load_text: Load) -> None:
    profile = load_text("sandboxes: {agent: {command: '{{ missing }}'}}", "sandboxes: {agent: {command: [b]}}")
    assert spec(profile).command == ("b",)


def test_too_many_sandboxes(load_text: Load) -> None:
    assert faults(load_text, "sandboxes: {agent: {for_each: '{{ range(1001) }}'}}") == [
        "for_each has more than 1000 items"
    ]
    many = "x-l: &l [" + ", ".join(["a=b"] * 700) + "]\nsandboxes: {a: {for_each: '{{ range(999) }}', labels: *l}}"
    assert faults(load_text, many) == ["the profile declares too many sandboxes"]


def test_a_thousand_faulty_instances_do_not_say_it_a_thousand_times(load_text: Load) -> None:
    found = faults(load_text, "sandboxes: {agent: {for_each: '{{ range(900) }}', cpus: 'x{{ each }}'}}")
    assert len(found) == 10


def test_deep_bases_are_bounded(load_text: Load) -> None:
    chain = "".join(f"  s{i}: {{extends: {{sandbox: s{i + 1}}}}}\n" for i in range(30))
    assert "more than 10 sandboxes extend each other" in faults(load_text, f"sandboxes:\n{chain}  s30: {{}}\n")


def test_data_instead_of_files(tmp_path: Path) -> None:
    profile = load_data(
        {"name": "api", "variables": {"n": {"type": "integer"}}, "sandboxes": {"agent": {"cpus": "{{ n }}"}}},
        directory=tmp_path,
        inputs=Inputs(values={"n": 2}),
    )
    assert spec(profile).cpus == 2.0
    with pytest.raises(ProfileError, match="expected a number of CPUs"):
        load_data({"sandboxes": {"agent": {"cpus": "many"}}}, directory=tmp_path)


def test_every_file_that_was_read_is_named(load_text: Load, tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("sandboxes: {agent: {env_file: [{path: none.env, required: false}, a.env]}}")
    (tmp_path / "a.env").write_text("A=1")
    (tmp_path / "v.yaml").write_text("{}")
    load_text("sandboxes: {agent: {extends: {file: base.yaml, sandbox: agent}}}")
    profile = load([Path("sandbox.yaml")], inputs=Inputs(var_files=(Path("v.yaml"),)))
    named = {"sandbox.yaml", "base.yaml", "a.env", "none.env", "v.yaml", *JUDGING}
    assert named == set(map(os.path.relpath, profile.rests_on))
    assert [file.name for file in profile.files] == ["sandbox.yaml", "base.yaml", "v.yaml", "a.env"]


def test_the_effective_profile_says_everything(load_text: Load) -> None:
    plain = effective(load_text("sandboxes: {agent: {healthcheck: {test: 'true'}, ulimits: {nproc: 5}}}"))
    agent = plain["sandboxes"]["agent"]
    assert agent["healthcheck"]["disable"] is False
    assert agent["ulimits"]["nproc"] == {"soft": 5, "hard": 5}
    assert set(agent) >= {row.key for row in rows(SandboxSpec) if row.settable and value_of(SandboxSpec(), row)}


HOSTILE = [
    "9" * 400 + "s", "9" * 400 + ".5m", "9" * 5000, "1." + "9" * 500, "a" * 60000, "a:" * 30000, "\0", "\ud800", "٣",
    "٣m",
    "a=b\n=c", "=", "::::", ":/", "~/x:/y", "%s", 2**62, -(2**62), 1e300, -0.0, "- 1", " ", "\n", [], {}, [[]], [{}],
    {"": ""}, {"a": None}, [None], True, "no", ["a"] * 1000, {"source": "x"}, "CMD'", {"test": []}, {"soft": 1},
    "./a\0b:/x", "./a\0b", "~a\0b", "~a\0b:/x",
]  # fmt: skip


@pytest.mark.parametrize(
    "key", [row.key for row in rows(SandboxSpec) if row.settable] + ["for_each", "when", "env_file"]
)
def test_no_option_falls_over_a_hostile_value(key: str, tmp_path: Path) -> None:
    for value in HOSTILE:
        for form in (value, [value], {"a": value}):
            try:
                profile = load_data({"sandboxes": {"agent": {key: form}}}, directory=tmp_path)
                assert profile.digest and real_places(profile.sandboxes) is not None
            except ProfileError as error:
                assert error.diagnostics


@pytest.mark.parametrize("given", ["workspace: {source: '.', access: rw}", "volumes: ['./w:/w:ro']"])
def test_a_path_that_no_engine_can_be_told_is_a_fault(given: str, tmp_path: Path) -> None:
    directory = Path(f"{tmp_path}/d\udcff")
    (directory / "w").mkdir(parents=True)
    (directory / "sandbox.yaml").write_text(f"name: a\nsandboxes: {{agent: {{image: x, {given}}}}}\n")
    with pytest.raises(ProfileError, match="whose name is not UTF-8"):
        load([directory / "sandbox.yaml"])


@pytest.mark.parametrize("hooks", [b"\xff", b"~\xff\xfe", b"~a\0b"])
def test_a_hostile_configuration_of_git_is_no_bug(hooks: bytes, tmp_path: Path) -> None:
    (tmp_path / "w/.git").mkdir(parents=True)
    (tmp_path / "w/.git" / "HEAD").touch()
    (tmp_path / "w/.git/config").write_bytes(b"[core]\n\thooksPath = " + hooks + b"\n")
    data = {"sandboxes": {"agent": {"image": "x", "workspace": {"source": "w", "access": "rw"}}}}
    if b"\0" in hooks:  # which git takes for no path
        assert load_data(data, directory=tmp_path).digest
    else:
        with pytest.raises(ProfileError, match="in the workspace can't be kept read-only: its name is not UTF-8"):
            load_data(data, directory=tmp_path)


def test_so_many_faults_are_enough(load_text: Load) -> None:
    found = faults(load_text, "sandboxes:\n  agent:\n" + "".join(f"    k{i}: 1\n" for i in range(5000)))
    assert len(found) == 200


PROFILEISH = st.recursive(
    st.one_of(
        st.integers(-2, 9),
        st.booleans(),
        st.none(),
        st.sampled_from(["a", "512m", "/x:/y", "{{ n }}", "{{ l }}", ""]),
    ),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                "sandboxes agent image command environment extends for_each when networks volumes tmpfs ulimits name "
                "file sandbox depends_on variables type default secrets labels env_file workspace healthcheck".split()
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)
VARIABLES = {"n": {"type": "integer", "default": 1}, "l": {"type": "array", "default": ["a"]}}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(one=PROFILEISH, two=PROFILEISH, whole=st.booleans())
def test_any_data_gives_a_profile_or_diagnostics(one: object, two: object, whole: bool, tmp_path: Path) -> None:
    data = {"variables": VARIABLES, "sandboxes": {"agent": one, "other": two}}
    try:
        profile = load_data(one if whole and isinstance(one, dict) else data, directory=tmp_path)
    except ProfileError as error:
        assert error.diagnostics
    else:
        assert profile.digest and render_yaml(profile) and render_json(profile)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=200))
def test_any_bytes_give_a_profile_or_diagnostics(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "sandbox.yaml"
    path.write_bytes(data)
    try:
        load([path])
    except ProfileError as error:
        assert str(error)


@pytest.mark.parametrize(
    "options",
    [
        "volumes: ['./link:/a']",
        "volumes: ['link/below:/a:ro']",
        "volumes: ['{{ where }}:/a']",
        "volumes: ['./loop:/a']",
        "workspace: {source: link, access: copy}",
        "workspace: {source: .., access: ro}",
        "workspace: '{{ where }}'",
    ],
)
def test_paths_outside_the_project_are_refused_unless_allowed(load_text: Load, tmp_path: Path, options: str) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "link").symlink_to(tmp_path / "other")
    (project / "loop").symlink_to("loop")
    profile = project / "sandbox.yaml"
    variables = f"variables: {{where: {{type: string, default: '{tmp_path}/other'}}}}\n"
    profile.write_text(f"{variables}sandboxes: {{agent: {{{options}}}}}\n")
    if "loop" in options:
        load([profile])  # leads nowhere: the engine refuses it
        return
    with pytest.raises(ProfileError, match="is outside of the project"):
        load([profile])
    assert load([profile], allow_outside=True).sandbox("agent") is not None


@pytest.mark.parametrize("base", ["hardened", "default", "offline", "gvisor"])
@pytest.mark.parametrize("limit", ["256m", "1g"])
def test_a_base_allows_no_swap_whatever_the_memory_limit(load_text: Load, base: str, limit: str) -> None:
    found = spec(load_text(f"sandboxes: {{agent: {{extends: {base}, mem_limit: {limit}}}}}"))
    assert found.memswap_limit == found.mem_limit


def test_each_tmpfs_has_the_place_where_it_is_written(tmp_path: Path) -> None:
    """However it is: its mode is only found wrong where it is mounted."""
    (tmp_path / "sandbox.yaml").write_text(
        "sandboxes:\n  a:\n    image: i\n    tmpfs:\n      - /x\n      - /y:mode=0700\n    volumes:\n"
        "      - {type: tmpfs, target: /z, tmpfs: {mode: 0700}}\n      - type: tmpfs\n        target: /w/\n"
        "  b:\n    image: i\n    volumes: [{type: tmpfs, target: /v}, {type: tmpfs, target: /w}]\n"
    )
    places = [
        {path: (span.line, span.column) for path in one.spec.tmpfs if (span := one.place("tmpfs", path)) is not None}
        for one in load(tmp_path / "sandbox.yaml").sandboxes
    ]
    del places[0]["/tmp"], places[1]["/tmp"]  # nobody wrote them
    assert places == [{"/w": (9, 9), "/x": (5, 9), "/y": (6, 9), "/z": (8, 9)}, {"/v": (13, 15), "/w": (13, 42)}]
