"""Tables, whole."""

from __future__ import annotations

from sandboxrun.report.table import columns, table


def test_columns_are_aligned() -> None:
    rows = [("lint", "running", "3", "node:20-alpine"), ('agent["tests"]', "ended", "120", "-")]
    assert table(("SANDBOX", "STATE", "PIDS", "IMAGE"), rows).split("\n") == [
        "SANDBOX         STATE    PIDS  IMAGE",
        "lint            running  3     node:20-alpine",
        'agent["tests"]  ended    120   -',
    ]


def test_heads_alone_and_empty_cells() -> None:
    assert table(("A", "B"), []) == "A  B"
    assert table(("A", "B"), [("", "x"), ("y", "")]).split("\n") == ["A  B", "   x", "y"]


def test_cells_stay_on_their_line_and_wide_characters_count_twice() -> None:
    shown = table(("A", "B"), [("漢字", "x\n\x1b[2J"), ("abcd", "y")]).split("\n")
    assert shown == ["A     B", "漢字  x\\n\\x1b[2J", "abcd  y"]
    assert (columns("漢字a"), columns("e\u0301")) == (5, 1)
