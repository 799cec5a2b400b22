"""A log of the engine that lacks lines which it had read and not written when it was killed."""

from __future__ import annotations

import tempfile
from types import SimpleNamespace
from typing import Any, cast

from hypothesis import example, given
from hypothesis import strategies as st

from sandboxrun.evidence import parts
from sandboxrun.evidence.masking import Masker


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[bytes], int, int, int, int]:
    """Lines, which of them the engine lost (from, to), how many the copy has, and in what pieces the log is read."""
    words = draw(st.lists(st.binary(max_size=6).map(lambda b: b.hex().encode()), min_size=2, max_size=12))
    lines = [b"%d %s\n" % pair for pair in enumerate(words)]
    start = draw(st.integers(1, len(lines)))
    end = draw(st.integers(start, len(lines)))
    return lines, start, end, draw(st.integers(0, len(lines))), draw(st.integers(1, 40))


@given(cases())
@example(([b"%d \n" % n for n in range(11)], 1, 10, 2, 1))
def test_what_the_copy_has_stands_where_the_log_lacks_it(case: tuple[list[bytes], int, int, int, int]) -> None:
    lines, start, end, copied, size = case
    written: list[bytes] = []
    writer = SimpleNamespace(write=written.append, commit=lambda truncated: None)
    source = SimpleNamespace(masker=Masker(frozenset()), limits=SimpleNamespace(log_bytes=1 << 20))
    log = parts._Log(cast(Any, writer), cast(Any, source))
    with tempfile.TemporaryFile() as copy:
        copy.write(b"".join(lines[:copied]))
        copy.seek(0)
        log.compare(copy)
        whole = b"".join(lines[:start] + lines[end:])
        for at in range(0, len(whole), size):
            log.write(whole[at : at + size])
        log.complete()
        log.commit(False)
    expected = lines[: max(start, copied)] + lines[max(end, copied) :]
    assert b"".join(written) == b"".join(expected)
