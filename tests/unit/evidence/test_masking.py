from __future__ import annotations

import base64
import contextlib
import html
import json
import urllib.parse
import xml.sax.saxutils
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandboxrun.errors import ENCODED, SHORTEST, Finder
from sandboxrun.evidence.masking import MASK, Masker

letters = st.binary(max_size=40).map(lambda data: bytes(b"ab"[byte % 2] for byte in data))
secrets = st.lists(letters.filter(lambda s: len(s) >= SHORTEST), min_size=1, max_size=4)
plain = st.lists(letters.filter(lambda s: SHORTEST <= len(s) < ENCODED), min_size=1, max_size=4)  # no other forms


@given(secrets, letters, st.lists(st.integers(1, 7), max_size=40))
def test_how_the_stream_is_cut_never_matters(values: list[bytes], data: bytes, cuts: list[int]) -> None:
    masker = Masker(values)
    stream, out, at = masker.stream(), b"", 0
    for cut in [*cuts, len(data)]:
        out += stream.feed(data[at : at + cut])
        at += cut
    out += stream.feed(data[at:]) + stream.finish()
    assert out == masker.data(data)


@given(plain, letters)
def test_no_byte_of_an_occurrence_is_left(values: list[bytes], data: bytes) -> None:
    covered = bytearray(len(data))
    for value in values:
        for at in range(len(data)):
            if data.startswith(value, at):
                covered[at : at + len(value)] = b"\1" * len(value)
    kept = bytes(byte for byte, hidden in zip(data, covered, strict=True) if not hidden)
    masked = Masker(values).data(data)
    assert masked.replace(MASK, b"") == kept


def test_overlapping_secrets_become_one_mask_and_neighbours_two() -> None:
    assert Masker(["abcd", "cdef"]).data(b"-abcdef-abcdabcd-") == b"-***-******-"


def test_the_ends_of_a_secret_file_do_not_matter() -> None:
    assert Masker(["s3cret\n"]).data(b"token=s3cret; and s3cret\n.") == b"token=***; and ***."


def test_json_data_is_masked_in_keys_and_values_and_short_secrets_where_they_stand_alone() -> None:
    masker = Masker(["hunter22", "ab"])
    value = {"Env": ["A=hunter22", "B=ab", "C=cab"], "x hunter22": [1, None, True, ("ab",)], "n": {"m": "ab"}}
    assert masker.json(value) == {
        "Env": ["A=***", "B=***", "C=cab"],
        "x ***": [1, None, True, ["***"]],
        "n": {"m": "***"},
    }


def test_without_secrets_nothing_changes() -> None:
    masker = Masker(["", "  "])
    assert masker.data(b"a") == b"a" and masker.text("a\udcff") == "a\udcff" and masker.json({"a": 1}) == {"a": 1}


def test_hits_are_counted() -> None:
    stream = Masker(["abcd"]).stream()
    stream.feed(b"abcd ab")
    stream.feed(b"cd")
    stream.finish()
    assert stream.hits == 2


SECRET = b"p4ss/w+rd 'x' \"y\" <&> \xc3\xa9z"


def encodings(value: bytes) -> dict[str, bytes]:
    text = value.decode()
    return {
        "base64": base64.b64encode(value),
        "base64 of more": base64.b64encode(b"user:" + value + b":rest of it"),
        "base64 of more, by one": base64.b64encode(b"user:x" + value + b"!"),
        "base64 for URLs": base64.urlsafe_b64encode(b"ab" + value + b"??>>"),
        "hexadecimal": value.hex().encode(),
        "hexadecimal in upper case": value.hex().upper().encode(),
        "percent": urllib.parse.quote(text, safe="").encode(),
        "percent with slashes": urllib.parse.quote(text).encode(),
        "a form": urllib.parse.urlencode({"k": text}).encode(),
        "JSON": json.dumps({"k": text}).encode(),
        "JSON with letters": json.dumps({"k": text}, ensure_ascii=False).encode(),
        "the shell": b"'" + value.replace(b"'", b"'\\''") + b"'",
        "reversed": value[::-1],
        "a text reversed": text[::-1].encode(),
        "upper case": text.upper().encode(),
        "lower case": text.lower().encode(),
        "HTML": html.escape(text).encode(),
        "HTML without quotes": html.escape(text, quote=False).encode(),
        "an attribute in XML": xml.sax.saxutils.quoteattr(text)[1:-1].encode(),
    }


@pytest.mark.parametrize("name", encodings(SECRET))
def test_what_usual_programs_make_of_a_secret_is_masked(name: str) -> None:
    found = Masker([SECRET]).data(b"before " + encodings(SECRET)[name] + b" after")
    assert MASK in found and found.startswith(b"before ") and found.endswith(b" after")
    left = found.removeprefix(b"before ").removesuffix(b" after").replace(MASK, b"")
    assert len(left) < 40 and SECRET not in left
    assert not any(SECRET[at : at + 9] in decoded for decoded in decodings(left) for at in range(len(SECRET) - 8))


def decodings(data: bytes) -> list[bytes]:
    """What can be read from what was left."""
    whole = data + b"=" * (-len(data) % 4)
    tries = [data, data[::-1], urllib.parse.unquote_to_bytes(data)]
    with contextlib.suppress(ValueError):
        tries.append(base64.b64decode(whole, altchars=b"-_"))
    with contextlib.suppress(ValueError):
        tries.append(bytes.fromhex(data.decode()))
    return tries


@given(st.binary(min_size=8, max_size=40), st.binary(max_size=7), st.binary(max_size=7))
def test_base64_is_found_wherever_it_lies(secret: bytes, before: bytes, after: bytes) -> None:
    coded = base64.b64encode(before + secret + after)
    left = Masker([secret]).data(coded)
    assert MASK in left
    assert len(left.replace(MASK, b"")) <= len(base64.b64encode(before)) + len(base64.b64encode(after)) + 8


def test_the_lines_of_a_key_are_masked_one_by_one_and_its_frame_is_not() -> None:
    lines = ["-----BEGIN PRIVATE KEY-----", "MIIEvQIBADANBgkqhkiG9w0BAQEF", "AASCBKcwggSjAgEAAoIBAQC7VJTU", "short"]
    masker = Masker(["\n".join(lines) + "\n"])
    assert masker.text(f"key: {lines[1]}\n  {lines[2]}\n{lines[0]} short") == f"key: ***\n  ***\n{lines[0]} short"


def test_short_secrets_are_not_looked_for_in_their_encodings() -> None:
    text = b"7365637265 c2VjcmV0 terces"
    assert Masker(["secret"]).data(text) == text


def test_a_long_secret_is_looked_for_by_its_beginning_and_no_output_is_looked_at_over_and_over() -> None:
    value = "".join(f"line {n} of a long secret\n" for n in range(4000))
    masker, looked = Masker([value]), 0
    finder = masker.finder

    class Counting(Finder[bytes]):
        def __init__(self) -> None: ...

        longest = finder.longest

        def spans(self, text: bytes, before: int) -> Iterator[tuple[int, int]]:
            nonlocal looked
            looked += len(text)
            return finder.spans(text, before)

    masker.finder = Counting()
    data = (b"some output\n" * 50_000) + value.encode() + b"the end"
    stream = masker.stream()
    out = b"".join(stream.feed(data[at : at + 50]) for at in range(0, len(data), 50)) + stream.finish()
    assert out == b"some output\n" * 50_000 + MASK + b"the end"
    assert looked <= 3 * len(data)
