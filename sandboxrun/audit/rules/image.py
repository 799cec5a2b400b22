"""6xx, image and engine: what runs, how it was built, what runs beside it, and engines with published ways out.

Owns the floors of the engine's programs and how a version is compared with them. Those rules look at no sandbox: the
review of what runs raises them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from sandboxrun.audit.finding import DATA, DIRECT, HOST, INDIRECT, REACH, STEP, TRACE, Hit, Rule, about, rule, where
from sandboxrun.audit.rules.meta import never
from sandboxrun.audit.subject import Subject, host_path
from sandboxrun.data import Data
from sandboxrun.spec.forms import image_parts


def _is_pinned(image: str) -> bool:
    return "@sha256:" in image or re.fullmatch("sha256:[0-9a-f]{64}", image) is not None


def _is_open(image: str) -> bool:
    """Whether a variable of Compose may be the tag."""
    return "$" in image


@rule(
    about("SBX601", "Image without a digest", TRACE, STEP, cwe=(829, 494), nist=("3.1.5", "4.1.5")),
    why="Whoever may push to the registry changes what runs under a tag, after the review.",
    fix="write the digest as well: name:tag@sha256:…",
    bad="image: node:20-alpine",
    good=f"image: node:20-alpine@sha256:{'0' * 64}",
)
def no_digest(s: Subject) -> Iterator[Hit]:
    """A tag and no digest; an image whose name or tag a variable without a default decides."""
    if s.image and _is_open(s.image) and not _is_pinned(s.image):
        yield Hit("image", f"{s.image} can be any image: whoever gives the variable decides")
    if s.image and not _is_pinned(s.image) and not _is_open(s.image) and image_parts(s.image)[1] not in ("", "latest"):
        yield Hit("image", f"{s.image} can change: it has no digest")


@rule(
    about("SBX602", "Image without a version", TRACE, DIRECT, cis="5.28", cwe=(829, 494), nist=("3.1.5", "4.1.5")),
    why="latest, or no tag at all, is another image tomorrow, and nobody can tell which one ran.",
    fix="name a version and its digest: name:tag@sha256:…",
    bad="image: busybox:latest",
    good=f"image: busybox:1.36@sha256:{'0' * 64}",
)
def no_version(s: Subject) -> Iterator[Hit]:
    """latest, or no tag."""
    if s.image and not _is_pinned(s.image) and not _is_open(s.image) and image_parts(s.image)[1] in ("", "latest"):
        yield Hit("image", f"{s.image} has no version")


@rule(
    about("SBX603", "Working directory in a process's files", HOST, STEP, cwe=(403, 668), nist="3.4.1"),
    why="With runc before 1.1.12 a working directory below /proc/self/fd is a directory of the host (CVE-2024-21626).",
    fix="use a directory of the image",
    bad="working_dir: /proc/self/fd/8",
    good="working_dir: /workspace",
)
def leaked_directory(s: Subject) -> Iterator[Hit]:
    """working_dir below /proc/*/fd."""
    if re.match(r"/+proc/+[^/]+/+(fd|cwd|root)(/|$)", s.working_dir):
        yield Hit("working_dir", f"working_dir {s.working_dir} leads to descriptors of the engine")


@rule(
    about("SBX605", "Privileged hook", HOST, DIRECT, cis="5.23", cwe=250, nist="3.4.3", pss="Privileged Containers"),
    why="The command runs beside the main one with every capability, whatever the container is limited to.",
    fix="remove privileged from the hook",
    bad="services: {agent: {image: busybox, post_start: [{command: setup, privileged: true}]}}",
    good="services: {agent: {image: busybox, post_start: [{command: setup, user: '1000'}]}}",
    inline=False,
)
def privileged_hook(s: Subject) -> Iterator[Hit]:
    """post_start and pre_stop, privileged."""
    for hook in s.hooks:
        if hook.privileged:
            yield Hit(hook.key, f"{hook.key} runs privileged: it controls the host")


@rule(
    about("SBX606", "Hook as root", HOST, INDIRECT, cis="5.24", cwe=250, pss="Running as Non-root user"),
    why="The command runs as root beside a main one that does not.",
    fix="set the hook's user to that of the service",
    bad="services: {agent: {image: busybox, post_start: [{command: setup, user: root}]}}",
    good="services: {agent: {image: busybox, post_start: [{command: setup, user: '1000'}]}}",
)
def root_hook(s: Subject) -> Iterator[Hit]:
    """post_start and pre_stop, as root."""
    for hook in s.hooks:
        if hook.user.partition(":")[0] in ("root", "0"):
            yield Hit(hook.key, f"{hook.key} runs as root")


@rule(
    about("SBX607", "Build with the host's rights", HOST, STEP, cwe=250, nist="3.4.3"),
    why="With this entitlement a step of the Dockerfile runs with the host's capabilities or network.",
    fix="remove it",
    bad="services: {agent: {build: {context: ., entitlements: [security.insecure]}}}",
    good="services: {agent: {build: {context: .}}}",
)
def build_rights(s: Subject) -> Iterator[Hit]:
    """build.entitlements and build.privileged."""
    if s.build is None:
        return
    for name in s.build.entitlements:
        yield Hit("build", f"the build is entitled to {name}", item="entitlements")
    if s.build.privileged:
        yield Hit("build", "the build is privileged", item="privileged")


build_ssh = rule(
    about("SBX608", "Build with the caller's SSH keys", DATA, STEP, cwe=(522, 668)),
    why="Every step of the Dockerfile, and what it downloads and runs, may use the keys of the agent.",
    fix="use a deploy key as a build secret",
    bad="services: {agent: {build: {context: ., ssh: [default]}}}",
    good="services: {agent: {build: {context: .}}}",
)(where(lambda s: s.build is not None and s.build.ssh, "build", "the build may use the caller's SSH keys", item="ssh"))


@rule(
    about("SBX609", "Build on the host's network", REACH, STEP, cis="5.10", cwe=668),
    why="Steps of the Dockerfile reach services on the host's loopback.",
    fix="remove build.network",
    bad="services: {agent: {build: {context: ., network: host}}}",
    good="services: {agent: {build: {context: ., network: none}}}",
)
def build_network(s: Subject) -> Iterator[Hit]:
    """build.network: host."""
    if s.build is not None and s.build.network == "host":
        yield Hit("build", "the build runs on the host's network", item="network")


_REMOTE = re.compile(r"^(?:https?|git|ssh|oci)://|^git@|^github\.com/|^docker-image://|\.git(?:#|$)")
_COMMIT = re.compile(r"[#@?](?:[^#@?]{0,100}=)?[0-9a-f]{40}\b|@sha256:[0-9a-f]{64}")


@rule(
    about("SBX610", "Remote build context", TRACE, DIRECT, cwe=(829, 494), nist="3.1.5"),
    why="What is built is somebody else's to change, after the review.",
    fix="name a commit: …#<40 hex digits>, or build from the project",
    bad="services: {agent: {build: 'https://git.example.com/agent.git#main'}}",
    good="services: {agent: {build: .}}",
)
def remote_context(s: Subject) -> Iterator[Hit]:
    """A context by address, without a commit."""
    if s.build is None:
        return
    for item, contexts in (("context", (s.build.context,)), ("additional_contexts", s.build.contexts)):
        remote = [_public(one) for one in contexts if _REMOTE.search(one) and not _COMMIT.search(one)]
        if remote:
            yield Hit("build", f"the build's context {', '.join(remote)} is remote, and no commit is named", item=item)


def _public(address: str) -> str:
    """An address without what identifies its caller, which may be a password."""
    return re.sub(r"//[^/]*@", "//", address)


@rule(
    about("SBX611", "Program of the host as a service", HOST, STEP, cwe=829),
    why="A provider is a plug-in that runs on the host, with the caller's rights.",
    fix="remove provider",
    bad="services: {agent: {provider: {type: example}}}",
    good="services: {agent: {image: busybox}}",
)
def provider(s: Subject) -> Iterator[Hit]:
    """provider."""
    if s.provider:
        yield Hit("provider", f'the plug-in "{s.provider}" runs on the host')


@rule(
    about("SBX612", "System path copied into the container", DATA, STEP, cwe=668),
    why="develop.watch copies what changes there into the container, credentials included.",
    fix="watch directories of the project",
    bad="services: {agent: {image: busybox, develop: {watch: [{path: /etc, action: sync, target: /etc}]}}}",
    good="services: {agent: {image: busybox, develop: {watch: [{path: ./src, action: sync, target: /src}]}}}",
)
def watched(s: Subject) -> Iterator[Hit]:
    """develop.watch outside of the project."""
    for path, _ in s.watched:
        real = host_path(path)
        if real.startswith(("/", "~", "..")):
            yield Hit("develop", f"{path} of the host is copied into the container", item=path)


@rule(
    about("SBX613", "Unknown key", TRACE, DIRECT, cwe=1287),
    why="A misspelled key is ignored, and the restriction that it names does not hold.",
    fix="correct the key, or remove it",
    bad="services: {agent: {image: busybox, cap_dropp: [ALL]}}",
    good="services: {agent: {image: busybox, x-note: fine}}",
)
def unknown(s: Subject) -> Iterator[Hit]:
    """Keys of a service that Compose does not know."""
    for key in s.unknown:
        yield Hit(key, f'unknown key "{key}": nothing reads it')


@rule(
    about("SBX614", "Included from elsewhere", TRACE, DIRECT, cwe=(829, 494), nist="3.1.5"),
    why="A file that is fetched when it is used was not reviewed, and can change at any time.",
    fix="copy it into the project, or name a commit or digest",
    bad="include: ['https://git.example.com/shared.git#main:compose.yaml']\nservices: {agent: {image: busybox}}",
    good="services: {agent: {image: busybox}}",
)
def included(s: Subject) -> Iterator[Hit]:
    """Remote include and extends."""
    for key, address in s.remote:
        if not _COMMIT.search(address):
            yield Hit(key, f"{key} fetches {_public(address)}")


@rule(
    about("SBX616", "Build context outside of the project", DATA, INDIRECT, cwe=(22, 668), nist="4.1.4"),
    why="All that lies there is sent to the builder and may get into the image, unseen by a review of the project.",
    fix="build from a directory of the project",
    bad="services: {agent: {build: /srv/agent}}",
    good="services: {agent: {build: ./agent}}",
)
def outside_context(s: Subject) -> Iterator[Hit]:
    """A local context by an absolute path, or in a home directory."""
    for context in (s.build.context, *s.build.contexts) if s.build is not None else ():
        if host_path(context).startswith(("/", "~")):
            yield Hit("build", f"{context} of the host is sent to the builder", item="context")


# -- the engine's own programs

_WHY = (
    "For each of these holes there is a published way out of a container, or into what a setting closed: whatever a "
    "profile says, the engine does not hold it."
)
_REFERS: Mapping[str, Any] = {"cis": "1.2.2", "cwe": 1395, "nist": ("3.4.1", "4.4.1")}
BELOW = rule(
    about("SBX604", "Engine or runtime with a published hole", HOST, STEP, **_REFERS),
    why=_WHY,
    fix="update the engine, containerd and runc",
)(never)
PERHAPS = rule(
    about("SBX615", "Engine or runtime of a distribution, older than a fix", HOST, INDIRECT, **_REFERS),
    why=_WHY
    + " Distributions bring fixes to older versions, so the version alone does not say whether this one has it.",
    fix="look the identifier up in the distribution's security tracker, and install its updates",
)(never)


class Floor(Data, kw_only=False):
    """A published hole: in which component, what it allows, and in which versions it was fixed: the first of each
    release line that got the fix, the last of which all later ones have."""

    component: str
    cve: str
    what: str
    fixed: tuple[str, ...]


# By the projects' own advisories.
FLOORS = (
    Floor("runc", "CVE-2019-5736", "root inside overwrites runc on the host", ("1.0.0-rc7",)),
    Floor("runc", "CVE-2021-30465", "a mount is led to the host by a symlink", ("1.0.0-rc95",)),
    Floor("runc", "CVE-2024-21626", "a leaked directory leads to the host", ("1.1.12",)),
    Floor(
        "runc",
        "CVE-2025-31133",
        "masked paths are replaced by links, and the host's /proc is written",
        ("1.2.8", "1.3.3", "1.4.0-rc.3"),
    ),
    Floor(
        "runc",
        "CVE-2025-52881",
        "writes to /proc are redirected past the security module",
        ("1.2.8", "1.3.3", "1.4.0-rc.3"),
    ),
    Floor(
        "containerd",
        "CVE-2020-15257",
        "root on the host's network starts containers through an abstract socket",
        ("1.3.9", "1.4.3"),
    ),
    Floor("Engine", "CVE-2021-21284", "root of a user namespace becomes root of the host", ("19.3.15", "20.10.3")),
    Floor("Engine", "CVE-2024-23653", "a build runs a container with the host's rights", ("24.0.9", "25.0.2")),
    Floor(
        "Engine",
        "CVE-2024-29018",
        "names asked for on an internal network reach name servers outside",
        ("23.0.11", "25.0.5", "26.0.0"),
    ),
)
_VERSION = re.compile(r"v?(\d{1,4})\.(\d{1,4})(?:\.(\d{1,4}))?(?:[-~.]?rc\.?(\d{1,4}))?", re.IGNORECASE)
_PACKAGED = re.compile(r"[+~](?:ds|dfsg|deb)|ubuntu|debian|\.(?:el|fc|amzn|mga)\d|alpine|suse", re.IGNORECASE)
_FINAL = 10_000  # above every release candidate


def _parsed(version: str) -> tuple[int, int, int, int] | None:
    found = _VERSION.match(version)
    if found is None:
        return None
    major, minor, patch, candidate = found.groups()
    return int(major), int(minor), int(patch or 0), int(candidate) if candidate else _FINAL


def is_below(version: str, fixed: tuple[str, ...]) -> bool:
    """Whether a version has none of the fixes. One that cannot be read counts as having none."""
    own = _parsed(version)
    if own is None:
        return True
    fixes = [one for text in fixed if (one := _parsed(text)) is not None]
    return own < fixes[-1] and not any(own[:2] == fix[:2] and own >= fix for fix in fixes)


def below_floors(components: Mapping[str, str]) -> Iterator[tuple[Rule, Floor, str]]:
    """The holes that the versions of an engine's components have, or may have, each with a sentence."""
    for floor in FLOORS:
        version = components.get(floor.component)
        if version and is_below(version, floor.fixed):
            packaged = _PACKAGED.search(version) is not None
            has = "may have" if packaged else "has"
            shown = f"{floor.component.lower()} {version} {has} {floor.cve}: {floor.what}"
            yield PERHAPS if packaged else BELOW, floor, f"{shown} (fixed in {', '.join(floor.fixed)})"
