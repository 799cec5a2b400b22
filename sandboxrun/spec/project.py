"""What a profile declares, whole: sandboxes, networks, volumes, secrets and configs.

Owns the types that the profile room produces and that the planner, the reports and the Python API read. Pure data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from sandboxrun.data import Data
from sandboxrun.errors import Diagnostic, MapNode, Problems, SourceFile, Span
from sandboxrun.spec import forms, labels
from sandboxrun.spec.names import Names
from sandboxrun.spec.option import Record, RowData, option, to_plain
from sandboxrun.spec.records import Dependency
from sandboxrun.spec.spec import SandboxSpec, digest_of
from sandboxrun.spec.types import Flag, Pairs, Text, freeze, name_of, span_of

# -- What a profile declares besides sandboxes: networks, volumes, secrets and configs

# Sandboxes on one network must not reach each other.
ISOLATED = freeze({"com.docker.network.bridge.enable_icc": "false"})


class NetworkSpec(RowData):
    """A network of the project, or one that exists already (`external`)."""

    internal: bool = option(Flag(), default=False, description="No route to the outside.", example=True)
    driver_opts: Mapping[str, str] = option(
        Pairs(),
        default=ISOLATED,
        description="Options of the bridge driver; sandboxes can't reach each other unless enable_icc is true.",
        example={"com.docker.network.bridge.enable_icc": "false"},
        merge="map",
    )
    subnet: str | None = option(
        Text(pattern=r"[0-9A-Fa-f.:]+/[0-9]{1,3}", hint="a subnet, such as 10.77.0.0/29", form=forms.subnet),
        default=None,
        description="The subnet. Default: chosen by the engine.",
        example="10.77.0.0/29",
    )
    enable_ipv6: bool = option(Flag(), default=False, description="Enable IPv6.", example=False)
    external: bool = option(
        Flag(), default=False, description="It exists already: never created, changed or removed.", example=True
    )
    name: str | None = option(
        Text(pattern=r"[A-Za-z0-9][A-Za-z0-9_.-]*", hint="a network's name"),
        default=None,
        description="Its name on the engine. Default: `<project>_<key>`.",
        example="shared",
    )
    labels: Mapping[str, str] = option(
        Pairs(reserved=labels.PREFIX), default=freeze({}), description="Custom labels.", example={"team": "a"}
    )


class VolumeSpec(RowData):
    """A volume of the project, or one that exists already (`external`)."""

    driver_opts: Mapping[str, str] = option(
        Pairs(),
        default=freeze({}),
        description="Options of the local driver.",
        example={"type": "tmpfs", "device": "tmpfs", "o": "size=64m"},
    )
    external: bool = option(
        Flag(), default=False, description="It exists already: never created, changed or removed.", example=True
    )
    name: str | None = option(
        Text(pattern=r"[A-Za-z0-9][A-Za-z0-9_.-]*", hint="a volume's name"),
        default=None,
        description="Its name on the engine. Default: `<project>_<key>`.",
        example="cache",
    )
    labels: Mapping[str, str] = option(
        Pairs(reserved=labels.PREFIX), default=freeze({}), description="Custom labels.", example={"team": "a"}
    )

    @property
    def bound(self) -> str:
        """What of the host or the network its options show; "" for a volume of the engine's own."""
        return forms.volume_shows(self.driver_opts)


class FileSpec(RowData):
    """Where a secret or config comes from; exactly one of the sources."""

    file: str | None = option(
        Text(hint="a path"), default=None, description="A file, relative to the profile.", example="./api_key"
    )
    environment: str | None = option(
        Text(pattern=r"[A-Za-z_][A-Za-z0-9_]*", hint="a variable's name"),
        default=None,
        description="A variable of the environment that sandboxrun runs in.",
        example="AGENT_API_KEY",
    )
    content: str | None = option(
        Text(empty=True), default=None, description="The content itself; for configs only.", example="debug: false"
    )


def _check_secret(spec: FileSpec, node: MapNode, problems: Problems) -> None:
    _check_config(spec, node, problems)
    if spec.content is not None:
        problems.add(
            "a secret's content does not belong in a profile", span_of(node, "content"), "use environment: or file:"
        )


def _check_config(spec: FileSpec, node: MapNode, problems: Problems) -> None:
    given = [name for name in ("file", "environment", "content") if getattr(spec, name) is not None]
    if len(given) != 1:
        found = " and ".join(given) or "none"
        problems.add(f"exactly one source is needed, found {found}", node.span, "give file: or environment:")


NetworkType = Record(
    cls=NetworkSpec,
    title="a network",
    refused=freeze({"driver": "it is always bridge"}),
    same=freeze({"driver": ("bridge", "default")}),
)
VolumeType = Record(
    cls=VolumeSpec,
    title="a volume",
    refused=freeze({"driver": "it is always local"}),
    same=freeze({"driver": ("local", "default")}),
)
SecretType = Record(cls=FileSpec, title="a secret", check=_check_secret)
ConfigType = Record(cls=FileSpec, title="a config", check=_check_config)


def config_digest(spec: NetworkSpec | VolumeSpec) -> str:
    """What the label of a network or volume holds, to tell whether its options changed."""
    return digest_of(to_plain(spec))


# -- What a profile declares, whole: the planner's desired state


class Provenance(Data, unshown=("items",)):
    """Where a value came from: its place, or in words (`default`, `implied by workspace.target`)."""

    span: Span | None = None
    via: str = ""  # "base hardened", "default", "implied by …", "--var"; "" for the profile itself
    items: Mapping[str, Span] = freeze({})  # by `name_of`


class DeclaredSandbox(Data, unshown=("provenance", "span"), uncompared=("provenance", "span")):
    """One sandbox: one instance of a `for_each`. `spec` is settled; bind sources in it are absolute paths."""

    address: str
    sandbox: str
    name: str
    spec: SandboxSpec
    workspace: Path | None = None  # the absolute directory behind a workspace of access `copy`
    depends_on: Mapping[str, Dependency] = freeze({})  # by address
    provenance: Mapping[str, Provenance] = freeze({})
    span: Span | None = None

    def place(self, key: str, item: object = None) -> Span | None:
        """Where an option was written, or the `item` of it: a mount's target, a variable's name, a value."""
        found = self.provenance.get(key)
        if found is None:
            return self.span
        place = found.items.get(name_of(item)) if item is not None else None
        return place or found.span or self.span


class Profile(
    Data,
    dict=True,  # for what is worked out once
    unshown=("sensitive", "digested", "files", "warnings", "rests_on", "left_out", "led"),
    uncompared=("digested", "files", "warnings", "rests_on", "left_out", "led"),
):
    """A project as declared, with every template rendered and every `extends` resolved.

    `inputs` are the variables' values with the sensitive ones masked; `sensitive` holds those values, so that
    all output can mask them; `directory` is where relative paths start and the project ends; `digested` works out
    `digest`, `sha256:…` of the effective profile as it was read; `inputs_digest` is that of the inputs.
    """

    project: str
    directory: Path
    sandboxes: tuple[DeclaredSandbox, ...]
    names: Names
    networks: Mapping[str, NetworkSpec] = freeze({})
    volumes: Mapping[str, VolumeSpec] = freeze({})
    secrets: Mapping[str, FileSpec] = freeze({})
    configs: Mapping[str, FileSpec] = freeze({})
    inputs: Mapping[str, Any] = freeze({})
    sensitive: frozenset[str] = frozenset()
    digested: Callable[[], str] = str
    inputs_digest: str = ""
    files: tuple[SourceFile, ...] = ()
    warnings: tuple[Diagnostic, ...] = ()
    rests_on: frozenset[Path] = frozenset()  # those, and others, absolute
    left_out: frozenset[str] = frozenset()  # sandboxes that a when or a for_each leaves none of
    led: Mapping[str, str] = freeze({})  # where the host paths of its sandboxes led when it was read, links followed

    @property
    def digest(self) -> str:
        """What its labels and saved plans know it by. Most plans do without: it takes a tenth of one's time."""
        return self.digested()

    @cached_property
    def _positions(self) -> Mapping[str, int]:
        return {sandbox.address: number for number, sandbox in enumerate(self.sandboxes)}

    def sandbox(self, address: str) -> DeclaredSandbox | None:
        """The sandbox of that address."""
        number = self._positions.get(address)
        return self.sandboxes[number] if number is not None else None

    def position(self, address: str) -> int:
        """Where its sandbox of that address is in the file; behind all others for one that it does not declare."""
        return self._positions.get(address, len(self.sandboxes))


def undeclared(names: Names, directory: Path) -> Profile:
    """A project of which only the engine knows: its names, and nothing that is declared."""
    return Profile(project=names.project, directory=directory, sandboxes=(), names=names)
