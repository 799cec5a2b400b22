"""All that secrets and configs hold, read before anything is touched: a missing one fails the apply at once.

Owns which are needed. Contents never reach a message.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import attrs

from sandboxrun.errors import ApplyError, Problems
from sandboxrun.model.declared import DeclaredSandbox, Profile
from sandboxrun.model.names import CONFIGS, SECRETS
from sandboxrun.model.records import FileRef
from sandboxrun.profile.contents import content_of, placed


@attrs.frozen(kw_only=True)
class Contents:
    """By part and key; `masked` are the secrets' values as texts, for masking evidence."""

    files: Mapping[tuple[str, str], bytes] = attrs.field(repr=False)
    masked: frozenset[str] = attrs.field(repr=False)


def file_contents(profile: Profile, environment: Mapping[str, str], needed: Iterable[DeclaredSandbox]) -> Contents:
    """All that `needed` sandboxes use, and whatever else can be read (for masking). Raises ApplyError."""
    problems = Problems()
    required: dict[tuple[str, str], tuple[DeclaredSandbox, FileRef]] = {}
    for sandbox in needed:
        for part, refs in ((SECRETS, sandbox.spec.secrets), (CONFIGS, sandbox.spec.configs)):
            for ref in refs:
                required.setdefault((part, ref.source), (sandbox, ref))
    files: dict[tuple[str, str], bytes] = {}
    declared = [((SECRETS, k), v) for k, v in profile.secrets.items()]
    declared += [((CONFIGS, k), v) for k, v in profile.configs.items()]
    for (part, key), spec in declared:
        content = content_of(f"the {part.removesuffix('s')} {key}", spec, profile.directory, environment)
        if isinstance(content, bytes):
            files[part, key] = content
        elif (part, key) in required:
            sandbox, ref = required[part, key]
            problems.extend([placed(content, sandbox, part, ref)])
    problems.check(ApplyError)
    texts = (files[at].decode("utf-8", "surrogateescape").strip() for at in files if at[0] == SECRETS)
    return Contents(files=files, masked=frozenset(text for text in texts if text))
