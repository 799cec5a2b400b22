"""What a profile declares, whole: the planner's desired state.

Owns the types that the profile room produces and the planner, the reports and the Python API read. Pure data.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from sandboxrun.errors import Diagnostic
from sandboxrun.model.items import name_of
from sandboxrun.model.names import Names
from sandboxrun.model.objects import FileSpec, NetworkSpec, VolumeSpec
from sandboxrun.model.records import Dependency
from sandboxrun.model.spec import SandboxSpec
from sandboxrun.model.types import freeze
from sandboxrun.source import SourceFile, Span


@attrs.frozen(kw_only=True)
class Provenance:
    """Where a value came from: its place, or in words (`default`, `implied by workspace.target`)."""

    span: Span | None = None
    via: str = ""  # "base hardened", "default", "implied by …", "--var"; "" for the profile itself
    items: Mapping[str, Span] = attrs.field(factory=lambda: freeze({}), repr=False)  # by `name_of`


@attrs.frozen(kw_only=True)
class DeclaredSandbox:
    """One sandbox: one instance of a `for_each`. `spec` is settled; bind sources in it are absolute paths."""

    address: str
    sandbox: str
    each: str | None
    name: str
    spec: SandboxSpec
    workspace: Path | None = None  # the absolute directory behind a workspace of access `copy`
    depends_on: Mapping[str, Dependency] = attrs.field(factory=lambda: freeze({}))  # by address
    provenance: Mapping[str, Provenance] = attrs.field(factory=lambda: freeze({}), eq=False, repr=False)
    span: Span | None = attrs.field(default=None, eq=False, repr=False)

    def place(self, key: str, item: object = None) -> Span | None:
        """Where an option was written, or the `item` of it: a mount's target, a variable's name, a value."""
        found = self.provenance.get(key)
        if found is None or found.span is None:
            return self.span
        return found.span if item is None else found.items.get(name_of(item), found.span)


@attrs.frozen(kw_only=True)
class Profile:
    """A project as declared, with every template rendered and every `extends` resolved.

    `inputs` are the variables' values with the sensitive ones masked; `sensitive` holds those values, so that
    all output can mask them; `directory` is where relative paths start and the project ends; `digest` is
    `sha256:…` of the effective profile, `inputs_digest` of the inputs.
    """

    project: str
    directory: Path
    sandboxes: tuple[DeclaredSandbox, ...]
    names: Names
    networks: Mapping[str, NetworkSpec] = attrs.field(factory=lambda: freeze({}))
    volumes: Mapping[str, VolumeSpec] = attrs.field(factory=lambda: freeze({}))
    secrets: Mapping[str, FileSpec] = attrs.field(factory=lambda: freeze({}))
    configs: Mapping[str, FileSpec] = attrs.field(factory=lambda: freeze({}))
    inputs: Mapping[str, Any] = attrs.field(factory=lambda: freeze({}))
    sensitive: frozenset[str] = attrs.field(default=frozenset(), repr=False)
    digest: str = ""
    inputs_digest: str = ""
    files: tuple[SourceFile, ...] = attrs.field(default=(), eq=False, repr=False)
    warnings: tuple[Diagnostic, ...] = attrs.field(default=(), eq=False, repr=False)
    rests_on: frozenset[Path] = attrs.field(default=frozenset(), eq=False, repr=False)  # those, and others, absolute

    def sandbox(self, address: str) -> DeclaredSandbox | None:
        """The sandbox of that address."""
        return next((s for s in self.sandboxes if s.address == address), None)
