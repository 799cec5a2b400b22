"""Reads what secrets and configs hold, before anything is touched: a missing one fails the apply at once.

Owns the reading from the caller's environment and files. Contents never reach a message.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import attrs

from sandboxrun.errors import ApplyError, Diagnostic, Problems
from sandboxrun.model.declared import DeclaredSandbox, Profile
from sandboxrun.model.names import CONFIGS, SECRETS
from sandboxrun.model.objects import FileSpec

LARGEST = 1 << 20  # bytes of one secret or config


@attrs.frozen(kw_only=True)
class Contents:
    """By part and key; `masked` are the secrets' values as texts, for masking evidence."""

    files: Mapping[tuple[str, str], bytes] = attrs.field(repr=False)
    masked: frozenset[str] = attrs.field(repr=False)


def file_contents(profile: Profile, environment: Mapping[str, str], needed: Iterable[DeclaredSandbox]) -> Contents:
    """All that `needed` sandboxes use, and whatever else can be read (for masking). Raises ApplyError."""
    problems = Problems()
    required = {(SECRETS, r.source) for s in needed for r in s.spec.secrets}
    required |= {(CONFIGS, r.source) for s in needed for r in s.spec.configs}
    files: dict[tuple[str, str], bytes] = {}
    declared = [((SECRETS, k), v) for k, v in profile.secrets.items()]
    declared += [((CONFIGS, k), v) for k, v in profile.configs.items()]
    for (part, key), spec in declared:
        content = _content(part, key, spec, profile.directory, environment)
        if isinstance(content, bytes):
            files[part, key] = content
        elif (part, key) in required:
            problems.extend([content])
    problems.check(ApplyError)
    texts = (files[at].decode("utf-8", "surrogateescape").strip() for at in files if at[0] == SECRETS)
    return Contents(files=files, masked=frozenset(text for text in texts if text))


def _content(
    part: str, key: str, spec: FileSpec, directory: Path, environment: Mapping[str, str]
) -> bytes | Diagnostic:
    what = f"the {part.removesuffix('s')} {key}"
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
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            content = file.read(LARGEST + 1)
    except OSError as error:
        return Diagnostic(message=f"{what}: {path.name} can't be read: {error.strerror}", help="check its path")
    if len(content) > LARGEST:
        return Diagnostic(message=f"{what}: {path.name} is larger than {LARGEST} bytes")
    return content
