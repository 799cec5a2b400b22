from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sandboxrun.evidence.masking import MASK, Masker

letters = st.binary(max_size=40).map(lambda data: bytes(b"ab"[byte % 2] for byte in data))
secrets = st.lists(letters.filter(lambda s: len(s) >= 4), min_size=1, max_size=4)


@given(secrets, letters, st.lists(st.integers(1, 7), max_size=40))
def test_how_the_stream_is_cut_never_matters(values: list[bytes], data: bytes, cuts: list[int]) -> None:
    masker = Masker(values)
    stream, out, at = masker.stream(), b"", 0
    for cut in [*cuts, len(data)]:
        out += stream.feed(data[at : at + cut])
        at += cut
    out += stream.feed(data[at:]) + stream.finish()
    assert out == masker.data(data)


@given(secrets, letters)
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
