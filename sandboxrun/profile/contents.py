"""What secrets and configs hold: read from the caller's environment, from files, or from the profile itself.

Owns the reading, and the digests by which a changed config is seen. Contents never reach a message.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import attrs

from sandboxrun.errors import Diagnostic
from sandboxrun.model.declared import DeclaredSandbox
from sandboxrun.model.objects import FileSpec
from sandboxrun.model.records import FileRef
from sandboxrun.profile.regular import read_regular, reason

LARGEST = 1 << 20  # bytes of one secret or config


def content_of(what: str, spec: FileSpec, directory: Path, environment: Mapping[str, str]) -> bytes | Diagnostic:
    """The content, or why there is none; `what` names it, as in "the config settings"."""
    if spec.content is not None:
        return spec.content.encode()
    if spec.environment is not None:
        value = environment.get(spec.environment)
        if value is None:
            message = f"{what}: the variable {spec.environment} is not set"
            return Diagnostic(message=message, help="set it and try again")
        return value.encode("utf-8", "surrogateescape")
    return _read(what, directory / (spec.file or ""))


def _read(what: str, path: Path) -> bytes | Diagnostic:
    try:
        return read_regular(path, LARGEST)
    except OSError as error:
        return Diagnostic(message=f"{what}: {path.name} can't be read: {reason(error)}", help="check its path")


def placed(fault: Diagnostic, sandbox: DeclaredSandbox, part: str, ref: FileRef) -> Diagnostic:
    """A fault of `content_of` where a sandbox names the secret or config; `part` is "secrets" or "configs"."""
    return attrs.evolve(fault, message=f"{sandbox.address}: {fault.message}", span=sandbox.place(part, ref.file_name))


def digest(content: bytes) -> str:
    """`sha256:…` of a content."""
    return "sha256:" + hashlib.sha256(content).hexdigest()


def with_digests(
    sandboxes: Iterable[DeclaredSandbox],
    configs: Mapping[str, FileSpec],
    directory: Path,
    environment: Mapping[str, str],
    sensitive: Collection[str],
) -> tuple[DeclaredSandbox, ...]:
    """The sandboxes with the digest of each config's content in its reference: it is a part of what they are.

    Secrets have none, nor has a config that holds a sensitive value: a short one could be guessed from it. One that
    can't be read has none either; an apply that needs it says why.
    """
    known: dict[str, str | None] = {}

    def reference(ref: FileRef) -> FileRef:
        if ref.source not in known:
            known[ref.source] = _digest_of(configs.get(ref.source), directory, environment, sensitive)
        return attrs.evolve(ref, digest=known[ref.source])

    return tuple(
        attrs.evolve(s, spec=attrs.evolve(s.spec, configs=tuple(map(reference, s.spec.configs))))
        if s.spec.configs
        else s
        for s in sandboxes
    )


def _digest_of(
    spec: FileSpec | None, directory: Path, environment: Mapping[str, str], sensitive: Collection[str]
) -> str | None:
    content = content_of("", spec, directory, environment) if spec is not None else None
    if not isinstance(content, bytes):
        return None
    text = content.decode("utf-8", "surrogateescape")
    return None if any(secret and secret in text for secret in sensitive) else digest(content)
