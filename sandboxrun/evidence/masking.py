"""Masks known secret values in bytes, texts and JSON data of the evidence.

Owns the search in streams; `errors.spellings` says what of a value is looked for. A program that splits or encrypts a
secret before it writes it cannot be caught here. Values shorter than `SHORTEST` stay in streams and texts, and in JSON
data they are masked where they are a whole string or the value of a `NAME=value` entry.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from sandboxrun.errors import EVIDENCE_MASK, SHORTEST, spellings

MASK = EVIDENCE_MASK.encode()


class Masker:
    """Hides `values` (str as UTF-8, or bytes). Immutable; usable from several threads."""

    def __init__(self, values: Iterable[str | bytes] = ()) -> None:
        raw = {v.encode("utf-8", "surrogateescape") if isinstance(v, str) else v for v in values}
        forms = {form for value in raw for form in spellings(value)}
        long = sorted((form for form in forms if len(form) >= SHORTEST), key=lambda form: (-len(form), form))
        self._short = frozenset(forms.difference(long))
        self.longest = len(long[0]) if long else 0
        self.pattern = re.compile(b"|".join(map(re.escape, long))) if long else None

    def stream(self) -> MaskStream:
        """A masker for data that comes in chunks."""
        return MaskStream(self)

    def data(self, data: bytes) -> bytes:
        """`data` with every secret's place taken by `MASK`."""
        stream = self.stream()
        return stream.feed(data) + stream.finish()

    def text(self, text: str) -> str:
        """The same for text."""
        if self.pattern is None:
            return text
        masked = self.data(text.encode("utf-8", "surrogateescape"))
        return masked.decode("utf-8", "surrogateescape")

    def json(self, value: Any) -> Any:
        """JSON data with all strings masked, keys included; a new structure, the given one stays as it is."""
        match value:
            case str():
                return self._string(value)
            case Mapping():
                return {self.text(str(key)): self.json(item) for key, item in value.items()}
            case list() | tuple():
                return [self.json(item) for item in value]
        return value

    def _string(self, text: str) -> str:
        if self._short:
            name, equals, rest = text.partition("=")
            if text.encode("utf-8", "surrogateescape") in self._short:
                return MASK.decode()
            if equals and rest.encode("utf-8", "surrogateescape") in self._short:
                return f"{self.text(name)}={MASK.decode()}"
        return self.text(text)


class MaskStream:
    """Masks one stream: `feed` each chunk, `finish` once. What it gives never depends on how chunks were cut.

    Occurrences that overlap become one mask, so that no end of a second secret is left standing.
    """

    def __init__(self, masker: Masker) -> None:
        self._masker = masker
        self._held = b""
        self._covered = 0  # bytes at the start of `_held` that belong to an occurrence already masked
        self.hits = 0

    def feed(self, chunk: bytes) -> bytes:
        """What of the stream is certain after `chunk`."""
        if self._masker.pattern is None:
            return chunk
        self._held += chunk
        return self._advance(len(self._held) - self._masker.longest + 1)

    def finish(self) -> bytes:
        """The rest of the stream."""
        return self._advance(len(self._held)) if self._masker.pattern else b""

    def _advance(self, safe: int) -> bytes:
        """Emit everything that starts before `safe`: an occurrence from there on may still be incomplete."""
        pattern, held, out = self._masker.pattern, self._held, []
        if pattern is None or safe <= 0:
            return b""
        emitted, search = self._covered, 0
        while (found := pattern.search(held, search)) and found.start() < safe:
            self.hits += 1
            if found.start() >= emitted:
                out += [held[emitted : found.start()], MASK]
            emitted, search = max(emitted, found.end()), found.start() + 1
        if emitted < safe:
            out.append(held[emitted:safe])
        self._covered = max(0, emitted - safe)
        self._held = held[safe:]
        return b"".join(out)
