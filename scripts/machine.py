"""An emulated machine for what cannot be done to this one: its clock is set, it loses power, it is booted again.

QEMU and the kernel come from Debian's packages, unpacked below `.cache/` and not installed. The machine's root is this
one's, read-only over 9p below an overlay in its memory, so that it has the same programs at the same paths; one disk, a
file, outlives a reboot. There is no network but its loopback. Commands go over a virtio port (guest.py); what the
kernel prints is in `console.log`. It runs on KVM where that can be used, else by translation, which is slower.

Needs root, since only root may read all files of its own root.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from scripts import system
from scripts.guest import DISK, PORT

_CACHE = system.CACHE / "machine"
_KERNEL = "linux-image-amd64"
# What the kernel may load by itself: of all modules, its loader would take seconds to find one.
_MODULES = ("net", "lib", "crypto", "fs", "drivers/virtio", "drivers/block", "drivers/char", "drivers/net/*.ko")
# In the first file system, since they are what the others are read with.
_FIRST = ("virtio_pci", "virtio_console", "virtio_blk", "9pnet_virtio", "9p", "overlay", "crc32c_generic", "ext4")
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# What is translated need not defend itself against its processor: switching page tables is most of a system call.
_LIGHT = "tsc=reliable mitigations=off audit=0 apparmor=0 random.trust_cpu=on rcupdate.rcu_expedited=1"
_INIT = """\
#!/busybox sh
b=/busybox
fail() {{ echo "init: $1"; $b poweroff -f; }}
for at in proc sys dev host memory new; do $b mkdir -p /$at; done
$b mount -t proc proc /proc && $b mount -t sysfs sys /sys && $b mount -t devtmpfs dev /dev || fail "kernel's own"
for module in $($b cat /modules/order); do $b insmod /modules/$module || fail "$module"; done
$b mount -t 9p -o trans=virtio,version=9p2000.L,ro,cache=loose,msize=512000 host /host || fail "the host's files"
$b mount -t tmpfs memory /memory && $b mkdir /memory/changes /memory/work /memory/modules
$b mount -t overlay -o lowerdir=/host,upperdir=/memory/changes,workdir=/memory/work root /new || fail "the root"
$b mkdir -p /new{disk} /new/lib/modules
$b mount -t ext4 /dev/vda /new{disk} || fail "the disk"
$b mount -t tmpfs run /new/run
for at in proc sys dev; do $b mount --move /$at /new/$at; done
$b mkdir -p /new/dev/pts /new/dev/shm /new{disk}/engine/exec
$b mount -t devpts pts /new/dev/pts
$b mount -t tmpfs shm /new/dev/shm
$b mount -t tmpfs exec /new{disk}/engine/exec
$b mount -t cgroup2 groups /new/sys/fs/cgroup
$b ip link set lo up
$b hostname machine
$b rm -f /new/sbin/modprobe
$b cp /busybox /new/sbin/modprobe
$b mount --bind /new{modules} /new/lib/modules || fail "the modules"
$b mkdir -p /new{disk}/home
export HOME={disk}/home PATH={path}
exec $b switch_root /new /bin/sh -c 'cd {repository}; {python} -S -m scripts.guest serve; {busybox} poweroff -f'
"""


class MachineError(Exception):
    """It could not be made, or does not answer; the text has the end of what its kernel printed."""


@dataclass(frozen=True, kw_only=True)
class Ran:
    """How a command ended inside."""

    code: int
    out: str
    err: str


def why_impossible() -> str | None:
    """Why there can be none here; None where there can."""
    if not system.is_root():
        return "an emulated machine of this one's files needs root"
    if os.uname().machine != "x86_64":
        return f"the emulated machine is an x86_64 one, and this is {os.uname().machine}"
    missing = [name for name in ("apt-get", "mkfs.ext4", "setpriv", "dockerd") if system.program(name) is None]
    return f"an emulated machine needs {', '.join(missing)}" if missing else None


class Machine:
    """One that runs. Raises MachineError where it does not do what it is told."""

    def __init__(self, process: subprocess.Popen[bytes], console: Path, control: Path, port: Path) -> None:
        self._process, self._console = process, console
        self._control = _Lines(self._connected(control))
        self._port = _Lines(self._connected(port))
        self._control.read(60)  # its greeting
        self._ask_qemu("qmp_capabilities")
        self._boot = ""
        self._booted()

    def run(
        self, *argv: str | Path, cwd: Path = DISK, env: Mapping[str, str] | None = None, timeout: float = 180
    ) -> Ran:
        """Run a command to its end."""
        return Ran(**self._ask(argv, cwd=cwd, env=env, log=None, timeout=timeout))

    def start(self, *argv: str | Path, log: Path, cwd: Path = DISK, env: Mapping[str, str] | None = None) -> int:
        """Start a command in a process group of its own, its output going to a file inside; its process id."""
        return int(self._ask(argv, cwd=cwd, env=env, log=log, timeout=60)["pid"])

    def ask_engine(self, method: str, path: str) -> Any:
        """What its engine answers; None where it does not, or with nothing."""
        self._send({"engine": [method, path]})
        return self._read(360)["answer"]

    def write(self, path: Path, text: str) -> None:
        """A file inside, in a folder that is made if need be."""
        ran = self.run("/bin/sh", "-c", 'mkdir -p "$2" && printf %s "$1" > "$2/$3"', "sh", text, path.parent, path.name)
        if ran.code != 0:
            raise self._error(f"{path}: {ran.err}")

    def cut_power(self) -> None:
        """As the reset button: nothing is told, and what was not written to the disk is lost. Returns when it is up
        again, with nothing started."""
        self._ask_qemu("system_reset")
        self._booted()

    def reboot(self) -> None:
        """As an administrator: everything is told to end, the disk is written and let go of."""
        self._send({"argv": ["/bin/sh", "-c", f"umount {DISK}/engine/exec; umount {DISK} && {_busybox()} reboot -f"]})
        self._booted()

    def _booted(self) -> None:
        said, before = self._read(600), self._boot
        self._boot = said.get("boot", before)
        if self._boot == before:
            raise self._error(f"it was not booted again: {said}")

    def _ask(
        self, argv: Sequence[str | Path], *, cwd: Path, env: Mapping[str, str] | None, log: Path | None, timeout: float
    ) -> dict[str, Any]:
        to = str(log) if log is not None else None
        self._send({"argv": [*map(str, argv)], "cwd": str(cwd), "env": dict(env or {}), "log": to, "timeout": timeout})
        return self._read(timeout + 60)

    def _send(self, asked: Mapping[str, Any]) -> None:
        self._port.write({"cwd": "/", "env": {}, "log": None, "timeout": 60, **asked})

    def _read(self, within: float) -> dict[str, Any]:
        try:
            return self._port.read(within)
        except (OSError, ValueError) as error:
            raise self._error(f"nothing came from it: {error}") from error

    def _ask_qemu(self, command: str) -> Any:
        self._control.write({"execute": command})
        while True:
            answer = self._control.read(60)
            if "return" in answer:
                return answer["return"]
            if "error" in answer:
                raise self._error(f"{command}: {answer['error']}")

    def _connected(self, path: Path) -> socket.socket:
        deadline = time.monotonic() + 60
        while True:
            connection = socket.socket(socket.AF_UNIX)
            try:
                connection.connect(str(path))
                return connection
            except OSError as error:
                connection.close()
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise self._error(f"QEMU does not answer: {error}") from error
                time.sleep(0.05)

    def _error(self, what: str) -> MachineError:
        tail = self._console.read_text(errors="replace").splitlines()[-25:] if self._console.exists() else []
        return MachineError("\n".join([f"{what}; the end of {self._console}:", *tail]))


class _Lines:
    """Messages of one line of JSON each."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._file = connection.makefile("rb")

    def write(self, message: Mapping[str, Any]) -> None:
        self._connection.sendall(json.dumps(message).encode() + b"\n")

    def read(self, within: float) -> dict[str, Any]:
        self._connection.settimeout(within)
        line = self._file.readline()
        if not line.endswith(b"\n"):
            raise OSError("the connection was closed")
        message: dict[str, Any] = json.loads(line)
        return message


@contextlib.contextmanager
def running(folder: Path, contents: Path) -> Iterator[Machine]:
    """A machine that is up; its disk, in `folder`, begins with the files below `contents`."""
    disk, control, port, console = (folder / name for name in ("disk", "qmp", "port", "console.log"))
    kernel, first = _ready()
    system.say(f"Starting an emulated machine ({accelerator()})")
    with disk.open("wb") as file:
        file.truncate(4 << 30)
    system.run(["mkfs.ext4", "-q", "-d", str(contents), str(disk)])
    command = [
        "setpriv", "--pdeathsig=KILL", "--",  # it goes with whoever started it, however that ends
        *_qemu(), "-accel", accelerator(), "-cpu", "max", "-smp", "2", "-m", "1536",
        "-nodefaults", "-no-user-config", "-display", "none", "-serial", f"file:{console}",
        "-qmp", f"unix:{control},server=on,wait=off",
        "-kernel", str(kernel), "-initrd", str(first), "-append", f"console=ttyS0 panic=-1 quiet {_LIGHT}",
        "-drive", f"file={disk},format=raw,if=virtio,cache=unsafe",
        "-device", "virtio-serial", "-chardev", f"socket,id=port,path={port},server=on,wait=off",
        "-device", f"virtserialport,chardev=port,name={PORT}",
        "-virtfs", "local,path=/,mount_tag=host,security_model=passthrough,readonly=on,multidevs=remap",
    ]  # fmt: skip
    with (folder / "qemu.log").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        machine = Machine(process, console, control, port)
        yield machine
    finally:
        process.kill()
        process.wait()
        disk.unlink()


def accelerator() -> str:
    """KVM where the processor has it; a /dev/kvm may be there though it hasn't, and then a guest hangs. Else TCG, which
    translates."""
    usable = os.access("/dev/kvm", os.R_OK | os.W_OK)
    flags = re.search(r"^flags\s*:.*\b(vmx|svm)\b", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return "kvm" if usable and flags else "tcg"


def fetch() -> None:
    """Have all that it is made of. Ends as system.fail does where that can't be had."""
    _qemu()
    _ready()


@cache
def _qemu() -> list[str]:
    """The program with its libraries and firmware, wherever they were unpacked."""
    if (installed := system.program("qemu-system-x86_64")) is not None:
        return [installed]
    roots = [system.unpacked(package) for package in system.lacking("qemu-system-x86")]
    libraries = sorted({str(path.parent) for root in roots for path in root.rglob("lib*.so.*")})
    (binary,) = (path for root in roots for path in root.glob("usr/bin/qemu-system-x86_64"))
    firmware = [str(f) for root in roots for name in ("qemu", "seabios") if (f := root / "usr/share" / name).is_dir()]
    (plugins,) = {str(path.parent) for root in roots for path in root.rglob("accel-tcg-x86_64.so")}
    return [
        "env", f"LD_LIBRARY_PATH={os.pathsep.join(libraries)}", f"QEMU_MODULE_DIR={plugins}", str(binary),
        *(word for folder in firmware for word in ("-L", folder)),
    ]  # fmt: skip


def _busybox() -> Path:
    (found,) = [path for path in system.unpacked("busybox-static").rglob("bin/busybox") if path.is_file()]
    return found


@cache
def _ready() -> tuple[Path, Path]:
    """The kernel, and its first file system."""
    told = system.run(["apt-cache", "depends", _KERNEL])
    (package,) = set(re.findall(r"Depends: (linux-image-\S+)", told))
    unpacked = system.unpacked(package)
    (kernel,) = (unpacked / "boot").glob("vmlinuz-*")
    target = _CACHE / package
    with system.locked(_CACHE / "lock"):
        modules = target / "lib/modules" / kernel.name.removeprefix("vmlinuz-")
        if not (modules / "modules.dep").exists():
            (source,) = unpacked.rglob(f"lib/modules/{modules.name}")
            _copy_modules(source, modules)
            system.run([str(_busybox()), "depmod", "-b", str(target), modules.name])
        tree = target / "first"
        shutil.rmtree(tree, ignore_errors=True)
        (tree / "modules").mkdir(parents=True)
        order = _with_dependencies(modules)
        for path in order:
            shutil.copy(modules / path, tree / "modules")
        (tree / "modules/order").write_text("".join(f"{Path(path).name}\n" for path in order))
        shutil.copy(_busybox(), tree / "busybox")
        init = tree / "init"
        init.write_text(
            _INIT.format(
                disk=DISK, modules=target / "lib/modules", repository=system.REPOSITORY, python=sys.executable,
                busybox=_busybox(), path=_PATH,
            )
        )  # fmt: skip
        init.chmod(0o755)
        archive = tree.with_suffix(".cpio")
        system.run(["/bin/sh", "-c", f"cd {tree} && {_busybox()} find . | {_busybox()} cpio -o -H newc > {archive}"])
    return kernel, archive


def _copy_modules(source: Path, target: Path) -> None:
    for pattern in _MODULES:
        for path in source.glob(f"kernel/{pattern}"):
            to = target / path.relative_to(source)
            if path.is_dir():
                shutil.copytree(path, to, dirs_exist_ok=True)
            else:
                to.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, to)
    for path in source.glob("modules.*"):
        shutil.copy(path, target)


def _with_dependencies(modules: Path) -> list[str]:
    """The modules' files, each after those that it needs. What is none is built in."""
    needs = {
        path: needed.split()
        for path, _, needed in (line.partition(":") for line in (modules / "modules.dep").read_text().splitlines())
    }
    by_name = {Path(path).name.split(".")[0].replace("-", "_"): path for path in needs}
    order: dict[str, None] = {}

    def add(path: str) -> None:
        for other in needs[path]:
            if other not in order:
                add(other)
        order[path] = None

    for name in _FIRST:
        if name in by_name and by_name[name] not in order:
            add(by_name[name])
    return list(order)
