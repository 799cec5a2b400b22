"""2xx, filesystem: sockets, host paths and what a sandbox may write to."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache

from sandboxrun.audit.finding import (
    DATA,
    DIRECT,
    HOST,
    INDIRECT,
    REMOVE,
    STEP,
    TRACE,
    WORK,
    Hit,
    OptionEdit,
    about,
    rule,
    where,
)
from sandboxrun.audit.subject import COMPOSE, Mounted, Subject, host_path, names_variable
from sandboxrun.spec.forms import below
from sandboxrun.spec.guard import GUARDS

_PATHS = "HostPath Volumes"  # in the Pod Security Standards
_ENGINE_SOCKETS = re.compile(
    r"(^|/)(docker\.sock|docker\.raw\.sock|podman\.sock|containerd\.sock|crio\.sock|buildkitd\.sock|dockershim\.sock|"
    r"cri-dockerd\.sock|balena-engine\.sock|docker_engine)$"
)
_ENGINE_DIRECTORIES = (
    "/run", "/run/docker", "/run/containerd", "/run/podman", "/run/crio", "/run/user", "/run/buildkit",
    "~/.docker/run", "~/.docker/desktop",
)  # fmt: skip
_AGENT_SOCKETS = re.compile(
    r"(^|/)(ssh-auth\.sock|agent\.\d+|S\.gpg-agent[^/]*|S\.scdaemon|system_bus_socket|session_bus_socket|keyring/ssh|"
    r"1password/agent\.sock|agent\.sock|ssh-[A-Za-z0-9]+)$|^/run/user/[^/]+/bus$|^/run/dbus(/|$)|^/tmp/\.X11-unix"
)
_HOST_CRITICAL = (
    "/etc", "/boot", "/dev", "/proc", "/sys", "/usr", "/bin", "/sbin", "/lib", "/lib64", "/var/lib/docker",
    "/var/lib/containerd", "/var/lib/containers", "/var/lib/kubelet", "/run/systemd", "/var/spool/cron", "/home",
    "/Users", "/var/lib/rancher", "/var/lib/etcd", "/var/lib", "/var", "/opt", "/snap",
    "/Windows",
)  # fmt: skip
_PARTS_ONLY = {"/var", "/var/lib", "/opt", "/home", "/Users", "/snap"}  # the directory itself, not what is below
# Only to be read; but the time zone's names, which many mount without a thought.
_HARMLESS = ("/etc/localtime", "/etc/timezone", "/usr/share/zoneinfo", "/etc/ssl/certs", "/etc/ca-certificates",
             "/usr/share/ca-certificates", "/usr/local/share/ca-certificates", "/usr/share/fonts",
             "/etc/resolv.conf", "/etc/hosts", "/etc/machine-id", "/lib/modules")  # fmt: skip
_TIME_ZONE = _HARMLESS[:2]
_CREDENTIALS = (
    "~/.ssh", "~/.aws", "~/.azure", "~/.config/gcloud", "~/.kube", "~/.docker", "~/.gnupg", "~/.netrc", "~/.npmrc",
    "~/.pypirc", "~/.gitconfig", "~/.git-credentials", "~/.config/gh", "~/.config/git", "~/.config/op",
    "~/.vault-token",
    "~/.cargo/credentials", "~/.cargo/credentials.toml", "~/.m2/settings.xml", "~/.gem/credentials", "~/.pgpass",
    "~/.my.cnf", "~/.bash_history", "~/.zsh_history", "~/.password-store", "~/.local/share/keyrings", "~/.mozilla",
    "~/.config/google-chrome", "~/.claude", "~/.claude.json", "~/.codex", "~/.config/anthropic", "~/.terraform.d",
    "~/.config/doctl", "~/.boto", "~/.s3cfg", "~/.config/rclone", "/etc/shadow", "/etc/ssl/private", "/etc/kubernetes",
    "/run/secrets/kubernetes.io",
)  # fmt: skip


def _binds(s: Subject) -> Iterator[tuple[Mounted, str]]:
    """Host paths, in one spelling."""
    for mount in s.mounts:
        if mount.kind in ("bind", "npipe"):
            yield mount, host_path(mount.source)


def _at(mount: Mounted, message: str, help: str | None = None, edit: OptionEdit | None = None) -> Hit:
    if mount.key == "workspace":  # has no items, and no edit that would leave a workspace
        return Hit("workspace", message, help=help)
    return Hit(mount.key, message, item=mount.target, help=help, edit=edit)


def _is_engine_socket(mount: Mounted, path: str) -> bool:
    return (
        (_ENGINE_SOCKETS.search(path) is not None and path.startswith(("/", "~", "$")))
        or path in _ENGINE_DIRECTORIES
        or re.fullmatch(r"/run/user/\d+(/podman)?", path) is not None
        or names_variable(mount.written, "DOCKER_SOCK", "DOCKER_SOCKET", "DOCKER_HOST_SOCKET")
    )


@rule(
    about(
        "SBX201", "Engine socket in the container", HOST, DIRECT, cis="5.32", cwe=(250, 668), nist="3.4.3", pss=_PATHS
    ),
    why="Whoever talks to the engine starts a privileged container with the host's root directory. A read-only mount "
    "changes nothing: a socket is connected to, not written.",
    fix="remove the mount; let a service outside of the container do what needs the engine",
    bad="services: {agent: {image: busybox, volumes: ['/var/run/docker.sock:/var/run/docker.sock:ro']}}",
    good="services: {agent: {image: busybox, volumes: ['./mock.sock:/var/run/docker.sock']}}",
    inline=False,
)
def engine_socket(s: Subject) -> Iterator[Hit]:
    """Sockets of docker, containerd, CRI-O and podman, and the directories above them."""
    if s.api_socket:
        yield Hit("use_api_socket", "use_api_socket gives the container the engine")
    for mount, path in _binds(s):
        if _is_engine_socket(mount, path):
            what = "the engine's socket" if _ENGINE_SOCKETS.search(path) else "the directory of the engine's socket"
            yield _at(mount, f"{mount.written or path} is {what}: it gives control of the host", edit=REMOVE)


@rule(
    about("SBX202", "Engine reached over the network", HOST, STEP, cis="2.7", cwe=(250, 668), nist="3.4.3"),
    why="DOCKER_HOST with an address lets the container start others on that engine, privileged ones too.",
    fix="remove DOCKER_HOST; let a service outside of the container do what needs the engine",
    bad="environment: {DOCKER_HOST: 'tcp://engine:2375'}",
    good="environment: {CI: '1'}",
)
def engine_address(s: Subject) -> Iterator[Hit]:
    """DOCKER_HOST and kin."""
    for name in ("DOCKER_HOST", "CONTAINER_HOST", "CONTAINERD_ADDRESS"):
        value = s.environment.get(name)
        if value and not value.startswith(("unix://", "npipe://")):
            yield Hit("environment", f"{name} names an engine: whoever reaches it controls it", item=name)


@rule(
    about("SBX203", "Agent socket in the container", DATA, DIRECT, cwe=(522, 668), nist="3.4.3", pss=_PATHS),
    why="Through the socket of an SSH or GPG agent, a keyring or D-Bus the container uses the host user's keys and "
    "services as they do themselves.",
    fix="remove the mount; give the task a key of its own, as a secret",
    bad="services: {agent: {image: busybox, volumes: ['${SSH_AUTH_SOCK}:/agent']}}",
    good="services: {agent: {image: busybox, secrets: [key]}}\nsecrets: {key: {file: ./key}}",
)
def agent_socket(s: Subject) -> Iterator[Hit]:
    """ssh-agent, gpg-agent, keyrings, D-Bus, X11."""
    for mount, path in _binds(s):
        if _AGENT_SOCKETS.search(path) or names_variable(mount.written, "SSH_AUTH_SOCK", "DBUS_SESSION_BUS_ADDRESS"):
            yield _at(mount, f"{mount.written or path} gives the use of the host user's agent or bus", edit=REMOVE)


@lru_cache(4096)
def _is_host(path: str, read_only: bool) -> bool:
    if path == "/":
        return True
    if any(below(path, harmless) for harmless in (_HARMLESS if read_only else _TIME_ZONE)):
        return False
    return any(path == top or (top not in _PARTS_ONLY and below(path, top)) for top in _HOST_CRITICAL)


@lru_cache(4096)
def _is_secret(path: str) -> bool:
    return path == "~" or any(below(path, top) or below(top, path) for top in _CREDENTIALS if path not in ("/", "/etc"))


def _is_only_host(mount: Mounted, path: str) -> bool:
    """Whether it is the host's system, of which no rule of its own speaks."""
    return _is_host(path, mount.read_only) and not _is_engine_socket(mount, path) and not _is_secret(path)


@rule(
    about(
        "SBX204", "Host's system writable", HOST, DIRECT, cis="5.6", cwe=(668, 732), nist=("3.4.3", "3.5.5"), pss=_PATHS
    ),
    why="Who writes to these directories changes what the host runs, with its rights.",
    fix="mount a directory of the project instead",
    bad="services: {agent: {image: busybox, volumes: ['/etc:/host/etc']}}",
    good="services: {agent: {image: busybox, volumes: ['./etc:/etc/agent:ro']}}",
)
def system_writable(s: Subject) -> Iterator[Hit]:
    """System directories, read-write."""
    for mount, path in _binds(s):
        if not mount.read_only and _is_only_host(mount, path):
            yield _at(mount, f"{path} of the host can be written from inside")


@rule(
    about(
        "SBX205", "Host's system readable", DATA, DIRECT, cis="5.6", cwe=(552, 668), nist=("3.4.3", "3.5.5"), pss=_PATHS
    ),
    why="These directories hold the host's configuration, accounts, keys and the data of other containers.",
    fix="mount the single file that is needed, or a copy of it",
    bad="services: {agent: {image: busybox, volumes: ['/:/host:ro']}}",
    good="services: {agent: {image: busybox, volumes: ['/etc/localtime:/etc/localtime:ro']}}",
)
def system_readable(s: Subject) -> Iterator[Hit]:
    """System directories, read-only."""
    for mount, path in _binds(s):
        if mount.read_only and _is_only_host(mount, path):
            yield _at(mount, f"{path} of the host can be read from inside")


@rule(
    about(
        "SBX206", "Credentials of the host's user", DATA, DIRECT, cis="5.6", cwe=(522, 552), nist="3.4.3", pss=_PATHS
    ),
    why="Keys and tokens of the person who starts the container reach whatever they reach.",
    fix="remove the mount; give the task a credential of its own, as a secret",
    bad="services: {agent: {image: busybox, volumes: ['$HOME/.aws:/root/.aws:ro']}}",
    good="services: {agent: {image: busybox, volumes: ['./aws:/root/.aws:ro']}}",
)
def credentials(s: Subject) -> Iterator[Hit]:
    """Home directories and what in them holds credentials."""
    for mount, path in _binds(s):
        if _is_secret(path) and not _is_engine_socket(mount, path) and path != "/":
            what = "a whole home directory" if path == "~" else f"{path}, which holds credentials,"
            yield _at(mount, f"{what} is mounted into the container", edit=REMOVE)


def _is_special(mount: Mounted, path: str) -> bool:
    """Whether another rule speaks of the path."""
    return (
        _is_engine_socket(mount, path)
        or _is_secret(path)
        or _is_host(path, mount.read_only)
        or bool(_AGENT_SOCKETS.search(path))
    )


def _is_outside(mount: Mounted, path: str) -> bool:
    harmless = any(below(path, top) for top in _HARMLESS) and mount.read_only
    return not mount.inside and not _is_special(mount, path) and not harmless


@rule(
    about("SBX207", "Writable path outside of the project", DATA, STEP, cis="5.6", cwe=(22, 668), pss=_PATHS),
    why="A review of the project does not see what lies there, and what the container leaves there outlives it.",
    fix="mount a directory below the project, or a volume",
    bad="services: {agent: {image: busybox, volumes: ['../../other:/other']}}",
    good="services: {agent: {image: busybox, volumes: ['./other:/other:ro']}}",
)
def outside_writable(s: Subject) -> Iterator[Hit]:
    """Sources that leave the project, read-write."""
    for mount, path in _binds(s):
        if not mount.read_only and _is_outside(mount, path):
            yield _at(mount, f"{mount.written or path} is outside of the project, and writable")


@rule(
    about("SBX208", "Path outside of the project", DATA, INDIRECT, cis="5.6", cwe=(22, 668), pss=_PATHS),
    why="A review of the project does not see what lies there.",
    fix="mount a directory below the project",
    bad="services: {agent: {image: busybox, volumes: ['/srv/data:/data:ro']}}",
    good="services: {agent: {image: busybox, volumes: ['./data:/data:ro']}}",
)
def outside_readable(s: Subject) -> Iterator[Hit]:
    """Sources that leave the project, read-only."""
    for mount, path in _binds(s):
        if mount.read_only and _is_outside(mount, path):
            yield _at(mount, f"{mount.written or path} is outside of the project")


@rule(
    about("SBX209", "Mounts propagate to the host", HOST, STEP, cis="5.20", cwe=668),
    why="With shared propagation what is mounted inside appears on the host, over its own files.",
    fix="remove the propagation: rprivate is the default",
    bad="services: {agent: {image: busybox, volumes: ['./data:/data:rshared']}}",
    good="services: {agent: {image: busybox, volumes: ['./data:/data:rprivate']}}",
)
def shared_propagation(s: Subject) -> Iterator[Hit]:
    """shared and rshared."""
    for mount in s.mounts:
        if mount.propagation in ("shared", "rshared"):
            yield _at(mount, f"mounts below {mount.target} appear on the host ({mount.propagation})")


@rule(
    about("SBX210", "Mounts of the host propagate", DATA, INDIRECT, cis="5.20", cwe=668),
    why="What is mounted on the host later appears inside, without a review.",
    fix="remove the propagation: rprivate is the default",
    bad="services: {agent: {image: busybox, volumes: ['./data:/data:rslave']}}",
    good="services: {agent: {image: busybox, volumes: ['./data:/data:rprivate']}}",
)
def slave_propagation(s: Subject) -> Iterator[Hit]:
    """slave and rslave."""
    for mount in s.mounts:
        if mount.propagation in ("slave", "rslave"):
            yield _at(mount, f"later mounts of the host appear below {mount.target} ({mount.propagation})")


writable_root = rule(
    about("SBX211", "Root filesystem writable", HOST, INDIRECT, cis="5.13", cwe=732, nist="3.4.3"),
    why="An attacker can replace programs of the image and keep tools; only the host's disk bounds the writable layer.",
    fix="write read_only: true, with tmpfs for what must be written",
    bad="read_only: false",
    good="read_only: true",
)(where(lambda s: not s.read_only, "read_only", "the root filesystem is writable", edit=OptionEdit("true")))


@rule(
    about("SBX212", "Unbounded tmpfs", WORK, STEP, cwe=770),
    why="Without a size a tmpfs may take half of the host's memory, unless the container's own memory is limited.",
    fix="add size=64m",
    bad="services: {agent: {image: busybox, tmpfs: [/tmp]}}",
    good="services: {agent: {image: busybox, tmpfs: ['/tmp:size=64m,noexec,nosuid,nodev']}}",
)
def unbounded_tmpfs(s: Subject) -> Iterator[Hit]:
    """tmpfs without a size."""
    for scratch in s.scratch:
        if not scratch.size:
            yield Hit(scratch.key, f"the tmpfs {scratch.target} has no size", item=scratch.target)


@rule(
    about("SBX213", "Programs run from a tmpfs", DATA, INDIRECT, cwe=732),
    why="Where downloads can be run, an attacker brings tools along; setuid programs and devices there are worse.",
    fix="add noexec,nosuid,nodev",
    bad="tmpfs: ['/tmp:size=64m,exec']",
    good="tmpfs: ['/tmp:size=64m']",
)
def loose_tmpfs(s: Subject) -> Iterator[Hit]:
    """tmpfs with exec, suid or dev."""
    for scratch in s.scratch:
        open_ = [name for name in ("exec", "suid", "dev") if getattr(scratch, name)]
        if open_:
            yield Hit(scratch.key, f"the tmpfs {scratch.target} allows {', '.join(open_)}", item=scratch.target)


@rule(
    about("SBX214", "Git's own files writable", HOST, STEP, cwe=(829, 732)),
    why="Git on the host runs what .git holds: hooks, and commands of its configuration at a mere `git status`. An "
    "agent that writes there runs its code outside.",
    fix="remove .git from writable, or use access: copy",
    bad="workspace: {source: ., access: rw, writable: [.git]}",
    good="workspace: {source: ., access: copy}",
)
def writable_git(s: Subject) -> Iterator[Hit]:
    """A writable .git."""
    if s.workspace is not None and ".git" in s.workspace.writable:
        yield Hit("workspace", "the workspace's .git is writable: git on the host runs it", item=".git")
    for mount, path in _binds(s):
        if not mount.read_only and (path.rpartition("/")[2] == ".git" or "/.git/" in f"{path}/"):
            yield _at(mount, f"{mount.written or path} is writable: git on the host runs what it holds")


@rule(
    about("SBX215", "Files that the host runs are writable", HOST, STEP, cwe=(829, 732)),
    why="Editors, direnv, make, hooks and pipelines run these files with the rights of whoever opens the project.",
    fix="remove them from writable, or use access: copy",
    bad="workspace: {source: ., access: rw, writable: [.github]}",
    good="workspace: {source: ., access: rw}",
)
def host_runs(s: Subject) -> Iterator[Hit]:
    """Other names that a workspace keeps read-only by itself."""
    for name in s.workspace.writable if s.workspace is not None else ():
        if name != ".git":
            why = GUARDS[name].why if name in GUARDS else "the host runs it"
            yield Hit("workspace", f"{name} is writable from inside: {why}", item=name)
    for mount, path in _binds(s):
        name = path.rpartition("/")[2]
        if not mount.read_only and name in GUARDS and name != ".git":
            yield _at(mount, f"{mount.written or path} is writable from inside: {GUARDS[name].why}")


@rule(
    about("SBX216", "Project writable as a whole", HOST, INDIRECT, cwe=(829, 732)),
    why="The project's directory holds what the host runs: .git, editor settings, hooks, workflow files, the Makefile. "
    "Protecting some of them from inside does not help, since the directory above can be moved.",
    fix="mount single directories, or use a workspace with access: copy",
    bad="services: {agent: {image: busybox, volumes: ['.:/work']}}",
    good="services: {agent: {image: busybox, volumes: ['./data:/work']}}",
)
def writable_project(s: Subject) -> Iterator[Hit]:
    """A bind of the project's directory, or of one with such files."""
    for mount, path in _binds(s):
        if mount.read_only or _is_special(mount, path):
            continue
        if mount.holds:
            shown = ", ".join(mount.holds[:3])
            yield _at(mount, f"{mount.written or path} is writable and holds {shown}, which the host runs")
        elif s.kind == COMPOSE and (mount.written.rstrip("/") in (".", "${PWD}", "$PWD") or path in (".", "..")):
            yield _at(mount, f"{mount.written} is writable as a whole, with what the host runs in it")


@rule(
    about("SBX217", "Volume written by several", DATA, INDIRECT, cwe=668),
    why="Through a volume that both may write, one sandbox changes what the other reads and runs.",
    fix="mount it read-only in all but one",
    bad="services:\n  a: {image: busybox, volumes: ['data:/data']}\n  b: {image: busybox, volumes: ['data:/data']}\n"
    "volumes: {data: {}}",
    good="services:\n  a: {image: busybox, volumes: ['data:/data']}\n"
    "  b: {image: busybox, volumes: ['data:/data:ro']}\nvolumes: {data: {}}",
)
def shared_volume(s: Subject) -> Iterator[Hit]:
    """A writable volume or bind in two sandboxes."""
    for mount in s.mounts:
        others = s.sharing.get(f"{mount.kind} {mount.source}", ())
        if others and not mount.read_only:
            shown = ", ".join(others[:3]) + ("…" if len(others) > 3 else "")
            yield _at(mount, f"{mount.written or mount.source} is written by {shown} as well")


@rule(
    about("SBX218", "Artifacts without a bound", WORK, STEP, cwe=770),
    why="Artifacts are copied to the host: without a bound an agent fills its disk.",
    fix="set evidence.artifacts_limit",
    bad="evidence: {artifacts: [/workspace/out], artifacts_limit: 0}",
    good="evidence: {artifacts: [/workspace/out], artifacts_limit: 64m}",
)
def unbounded_artifacts(s: Subject) -> Iterator[Hit]:
    """artifacts_limit of 0, or beyond 4 GiB."""
    limit = s.artifacts_limit
    if s.artifacts and limit is not None and (limit == 0 or limit > 4 * 1024**3):
        shown = "no limit" if limit == 0 else f"a limit of {limit // 1024**3} GiB"
        yield Hit("evidence", f"artifacts have {shown}", item="artifacts_limit")


@rule(
    about("SBX219", "Works on the directory itself", DATA, INDIRECT, cwe=732),
    why="What the agent changes stands in the checkout at once, before anybody has seen it. What the host runs by "
    "itself stays read-only.",
    fix="use access: copy: changes come back as a patch",
    bad="workspace: {source: ., access: rw}",
    good="workspace: {source: ., access: copy}",
)
def workspace_itself(s: Subject) -> Iterator[Hit]:
    """workspace.access rw."""
    if s.workspace is not None and s.workspace.access == "rw":
        yield Hit("workspace", "the agent writes to the workspace's directory itself", item="access")


@rule(
    about("SBX220", "Anonymous volume", TRACE, INDIRECT, cwe=770),
    why="Nothing names it or bounds it: it stays writable under a read-only root, and is left behind on the host.",
    fix="name a volume, or use tmpfs",
    bad="services: {agent: {image: busybox, volumes: [/data]}}",
    good="services: {agent: {image: busybox, tmpfs: ['/data:size=64m']}}",
    strict=True,
)
def anonymous_volume(s: Subject) -> Iterator[Hit]:
    """Volumes without a name, those of an image included."""
    for mount in s.mounts:
        if mount.kind == "volume" and not mount.source:
            yield _at(mount, f"{mount.target} is an anonymous volume: unbounded, and left behind")
