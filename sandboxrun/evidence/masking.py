"""Masks known secret values in bytes, texts and JSON data of the evidence.

Owns the search in streams; `errors.spellings` says what of a value is looked for. A program that splits or encrypts a
secret before it writes it cannot be caught here. Values shorter than `SHORTEST` stay in streams and texts, and in JSON
data they are masked where they are a whole string or the value of a `NAME=value` entry.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sandboxrun.errors import EVIDENCE_MASK, SHORTEST, Finder, spellings

MASK = EVIDENCE_MASK.encode()


class Masker:
    """Hides `values` (str as UTF-8, or bytes). Immutable; usable from several threads."""

    def __init__(self, values: Iterable[str | bytes] = ()) -> None:
        raw = {v.encode("utf-8", "surrogateescape") if isinstance(v, str) else v for v in values}
        forms = {form for value in raw for form in spellings(value)}
        self._short = frozenset(form for form in forms if len(form) < SHORTEST)
        self.finder = Finder(forms)

    def stream(self) -> MaskStream:
        """A masker for data that comes in chunks."""
        return MaskStream(self)

    def data(self, data: bytes) -> bytes:
        """`data` with every secret's place taken by `MASK`."""
        stream = self.stream()
        return stream.feed(data) + stream.finish()

    def text(self, text: str) -> str:
        """The same for text."""
        if not self.finder.longest:
            return text
        masked = self.data(text.encode("utf-8", "surrogateescape"))
        return masked.decode("utf-8", "surrogateescape")

    def json(self, value: Any) -> Any:
        """JSON data with all strings masked, keys included; a new structure, the given one stays as it is."""
        match value:
            case str():
                return self._string(value)
            case list() | tuple():
                return [self.json(item) for item in value]
            case None | int() | float():  # before what it takes longer to tell
                return value
            case Mapping():
                return {self.text(str(key)): self.json(item) for key, item in value.items()}
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
        self._finder = masker.finder
        self._held = bytearray()
        self._covered = 0  # bytes at the start of `_held` that belong to an occurrence already masked
        self.hits = 0

    def feed(self, chunk: bytes) -> bytes:
        """What of the stream is certain after `chunk`; nothing before that is as much as a secret may be long, so that
        little is looked at twice."""
        longest = self._finder.longest
        if not longest:
            return chunk
        self._held += chunk
        return self._advance(len(self._held) - longest + 1) if len(self._held) >= 2 * longest else b""

    def finish(self) -> bytes:
        """The rest of the stream."""
        return self._advance(len(self._held))

    def _advance(self, safe: int) -> bytes:
        """Emit everything that starts before `safe`: an occurrence from there on may still be incomplete."""
        held, emitted, out = bytes(self._held), self._covered, bytearray()
        for start, end in self._finder.spans(held, safe):
            self.hits += 1
            if start >= emitted:
                out += held[emitted:start] + MASK
            emitted = max(emitted, end)
        out += held[emitted:safe]
        self._covered = max(0, emitted - safe)
        del self._held[:safe]
        return bytes(out)
