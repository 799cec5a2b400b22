"""What a sandbox takes from this machine is looked at by a plan, before anything is made, as by the Python API."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandboxrun import SandboxService
from sandboxrun.errors import PlanError, SandboxrunError
from tests.conftest import Cli


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Path]:
    """A project with one of each kind of path."""
    (tmp_path / "file").write_text("x")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "folder").mkdir(mode=0o755)
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as listening:
        old = Path.cwd()
        os.chdir(tmp_path)  # a socket's path is short
        listening.bind("socket")
        os.chdir(old)
        yield tmp_path


def write(here: Path, project: str, image: str, *options: str, top: str = "") -> None:
    lines = [f"name: {project}", "sandboxes:", "  a:", f"    image: {image}", "    egress: none", *options]
    (here / "sandbox.yaml").write_text("\n".join(lines) + f"\n{top}\n")


PATHS = """\
sandbox.yaml:8:9: error: a: the bind's source {here}/gone does not exist
sandbox.yaml:9:9: error: a: the bind's source {here}/file/below does not exist
sandbox.yaml:10:9: error: a: the bind's source {here}/loop can't be used: too many levels of symbolic links
sandbox.yaml:11:9: error: a: the bind's source {here}/socket is a socket: the sandbox would talk to a process of the \
host
sandbox.yaml:12:9: error: a: the bind's source /dev/null is a device
sandbox.yaml:14:9: error: a: the bind's source {here}/fifo is a fifo: the sandbox would talk to a process of the host"""


def errors(text: str) -> str:
    return "\n".join(line for line in text.splitlines() if ": error: " in line or line.startswith("error: "))


def test_a_plan_reports_binds_that_cannot_be(cli: Cli, here: Path, project: str, busybox: str) -> None:
    options = ["    volumes:", "      - ./folder:/a:ro", "      - ./gone:/b:ro", "      - ./file/below:/c:ro"]
    options += ["      - ./loop:/d:ro", "      - ./socket:/e:ro", "      - /dev/null:/f:ro", "      - ./file:/g:ro"]
    options += ["      - ./fifo:/h:ro"]
    write(here, project, busybox, *options)
    assert cli("validate", "--allow-outside").code == 0
    for command in (["plan"], ["apply", "-y"], ["run"]):
        said = cli(*command, "--allow-outside")
        assert (said.code, errors(said.err)) == (125 if command == ["run"] else 1, PATHS.format(here=here))


@pytest.mark.parametrize("access", ["copy", "ro", "rw"])
def test_a_plan_reports_a_workspace_that_cannot_be(
    cli: Cli, here: Path, project: str, busybox: str, access: str
) -> None:
    for name, why in {"gone": "does not exist", "file": "is not a directory", "fifo": "is not a directory"}.items():
        write(here, project, busybox, f"    workspace: {{source: {name}, access: {access}}}")
        said = cli("plan")
        assert (said.code, errors(said.err)) == (1, f"sandbox.yaml:6:16: error: a: the workspace {here}/{name} {why}")


def test_a_plan_reports_devices_and_more_cpus_than_there_are(cli: Cli, here: Path, project: str, busybox: str) -> None:
    write(here, project, busybox, "    devices: [/dev/null, /dev/gone, /etc/passwd]")
    assert errors(cli("plan").err).splitlines() == [
        "sandbox.yaml:6:26: error: a: the device /dev/gone can't be used: no such file or directory",
        "sandbox.yaml:6:37: error: a: the device /etc/passwd can't be used: not a device",
    ]
    write(here, project, busybox, "    cpus: 9999", "    cpuset: 0,4095")
    first, second = errors(cli("plan").err).splitlines()
    assert first.startswith("sandbox.yaml:6:11: error: a: cpus is 9999, and the engine has ")
    assert second.startswith("sandbox.yaml:7:13: error: a: cpuset names CPU 4095, and the engine has ")


def test_a_plan_reports_files_of_secrets_and_configs(cli: Cli, here: Path, project: str, busybox: str) -> None:
    top = "secrets: {k: {file: ./gone}, f: {file: ./fifo}, v: {environment: NOT_SET_HERE}}\nconfigs: {c: {file: .}}"
    write(here, project, busybox, "    secrets: [k, f]", "    configs: [c]", top=top)
    faults = [
        "sandbox.yaml:6:15: error: a: the secret k: gone can't be read: no such file or directory",
        "sandbox.yaml:6:18: error: a: the secret f: fifo can't be read: not a regular file",
        "sandbox.yaml:7:15: error: a: the config c: " + f"{here.name} can't be read: it is a directory",
    ]
    for command, code in ((["plan"], 1), (["apply", "-y"], 1), (["run"], 125)):
        said = cli(*command)
        assert (said.code, errors(said.err).splitlines()) == (code, faults)
    write(here, project, busybox, "    secrets: [v]", top=top)
    said = cli("plan")
    warned = "sandbox.yaml:6:15: warning: a: the secret v: the variable NOT_SET_HERE is not set"
    assert (said.code, said.err.partition("\n")[0]) == (0, warned)
    assert cli("plan", env={"NOT_SET_HERE": "x"}).err == ""


@pytest.mark.skipif(os.getuid() != 0, reason="gives directories to other users")
def test_a_plan_warns_of_directories_that_the_user_cannot_write_to(
    cli: Cli, here: Path, project: str, busybox: str
) -> None:
    options = ["    workspace: {source: folder, access: rw}", "    volumes: ['./out:/out', './read:/read:ro']"]
    for name in ("out", "read"):
        (here / name).mkdir(mode=0o755)
    write(here, project, busybox, *options)
    said = cli("plan")
    assert said.code == 0
    assert [line for line in said.err.splitlines() if "warning" in line] == [
        f"sandbox.yaml:6:16: warning: a: the sandbox's user 1000:1000 can't write to the workspace {here}/folder",
        f"sandbox.yaml:7:15: warning: a: the sandbox's user 1000:1000 can't write to the bind's source {here}/out",
    ]
    assert cli("plan", "--format", "github").out.count("\n::warning ") == 2 + 2  # and what it may write to
    os.chown(here / "folder", 1000, 1000)
    os.chown(here / "out", 0, 2000)
    (here / "out").chmod(0o775)
    write(here, project, busybox, *options, "    group_add: [2000]")
    assert cli("plan").err == ""


@pytest.mark.skipif(os.getuid() != 0, reason="gives files to other users")
def test_a_plan_warns_of_what_the_user_cannot_read_or_reaches_beyond(
    cli: Cli, here: Path, project: str, busybox: str
) -> None:
    for name, mode in {"secret": 0o600, "log": 0o644, "shared": 0o640}.items():
        (here / name).write_text("x")
        (here / name).chmod(mode)
    os.chown(here / "shared", 0, 1000)
    (here / "closed").mkdir(mode=0o700)
    (here / "deep").mkdir(mode=0o755)
    os.rename(here / "fifo", here / "deep" / "fifo")
    options = ["    workspace: {source: closed, access: ro}", "    volumes:", "      - ./secret:/a:ro"]
    options += ["      - ./log:/b", "      - ./shared:/c:ro", "      - ./log:/d:ro", "      - ./deep:/e:ro"]
    write(here, project, busybox, *options)
    said = cli("plan")
    assert said.code == 0
    assert sorted(line for line in said.err.splitlines() if "warning" in line) == [
        f"sandbox.yaml:12:9: warning: a: the bind's source {here}/deep: sockets, fifos or devices, and the sandbox may "
        "reach the programs behind them: fifo",
        f"sandbox.yaml:6:16: warning: a: the sandbox's user 1000:1000 can't read the workspace {here}/closed",
        f"sandbox.yaml:8:9: warning: a: the sandbox's user 1000:1000 can't read the bind's source {here}/secret",
        f"sandbox.yaml:9:9: warning: a: the sandbox's user 1000:1000 can't write to the bind's source {here}/log",
    ]
    write(here, project, busybox, *options[1:-1], "    user: 0:0", "    cap_add: [DAC_OVERRIDE]")
    assert cli("plan").err == ""


def test_the_python_api_reports_the_same(here: Path, project: str, busybox: str, engine_host: str) -> None:
    with SandboxService(project=project, directory=here, host=engine_host) as service:
        for source, why in {"gone": "does not exist", "socket": "is a socket: "}.items():
            with pytest.raises(PlanError, match=f"a: the bind's source {here}/{source} {why}"):
                service.create("a", image=busybox, volumes=[f"./{source}:/x:ro"])
        with pytest.raises(SandboxrunError, match="is not a directory"):
            service.create("a", image=busybox, workspace=here / "file")


def test_a_name_may_have_several_addresses(cli: Cli, here: Path, project: str, busybox: str) -> None:
    hosts = '["db6.test=[fd00::5]", "dual.test=192.0.2.9", "dual.test=2001:db8:0::9"]'
    write(here, project, busybox, f"    extra_hosts: {hosts}", "    command: [cat, /etc/hosts]")
    said = cli("run", "-q")
    assert said.code == 0
    for line in ("fd00::5\tdb6.test", "192.0.2.9\tdual.test", "2001:db8::9\tdual.test"):
        assert line in said.out.splitlines()
