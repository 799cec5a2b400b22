"""The hunks of a unified diff, with a bound on the work whatever the two texts are.

Owns the algorithm: Myers' greedy one on the lines that differ, given up for a plain replacement when the
budget is used up. (`difflib` can take cubic time on texts made for it.)
"""

from __future__ import annotations

from collections.abc import Iterator

CONTEXT = 3
_MOST_LINES = 50_000  # of either text, between the common start and end
_MOST_EDITS = 1_000
_STEPS_A_FILE = 2_000_000
_BLOCK = 1 << 16
_NO_NEWLINE = b"\\ No newline at end of file\n"

Edit = tuple[int, int, int, int]  # lines old[a:b] became new[c:d]


class Budget:
    """What a whole patch may take: steps of comparing lines (ten million are a second or two)."""

    def __init__(self, steps: int = 30_000_000) -> None:
        self.left = steps


def hunks(old: bytes, new: bytes, budget: Budget) -> bytes:
    """The hunks that turn `old` into `new`, lines ending at b"\\n" alone; b"" for equal texts."""
    if old == new:
        return b""
    start, old_end, new_end = _window(old, new)
    first = old.count(b"\n", 0, start)
    old, new = old[start:old_end], new[start:new_end]
    if old.count(b"\n") > _MOST_LINES or new.count(b"\n") > _MOST_LINES:
        return _replacement(old, new, first)
    old_lines, new_lines = _lines(old), _lines(new)
    edits = _edits(old_lines, new_lines, budget)
    return b"".join(_hunk(group, old_lines, new_lines, first) for group in _groups(edits))


def _window(old: bytes, new: bytes) -> tuple[int, int, int]:
    """Where the part begins and ends that holds all differences and, where there are any, context lines around."""
    shortest = min(len(old), len(new))
    same = _common(old, new, shortest)
    start = old.rfind(b"\n", 0, same) + 1
    for _ in range(CONTEXT):
        start = old.rfind(b"\n", 0, max(0, start - 1)) + 1
    tail = _common_end(old, new, shortest - same)
    end = len(old) - tail
    for _ in range(CONTEXT + 1):
        found = old.find(b"\n", end)
        end = len(old) if found < 0 else found + 1
    return start, end, end + len(new) - len(old)


def _common(old: bytes, new: bytes, most: int) -> int:
    """How many bytes are the same from the start."""
    at = 0
    while at < most and old[at : at + _BLOCK] == new[at : at + _BLOCK]:
        at += _BLOCK
    if at >= most:
        return most
    low, high = 0, min(_BLOCK, most - at)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if old[at : at + middle] == new[at : at + middle] else (low, middle - 1)
    return at + low


def _common_end(old: bytes, new: bytes, most: int) -> int:
    """How many bytes are the same at the end, `most` at the most."""
    at = 0
    while at < most:
        size = min(_BLOCK, most - at)
        ends = len(old) - at, len(new) - at
        one, other = old[ends[0] - size : ends[0]], new[ends[1] - size : ends[1]]
        if one != other:
            return at + _common(one[::-1], other[::-1], size)
        at += size
    return at


def _lines(text: bytes) -> list[bytes]:
    lines = [line + b"\n" for line in text.split(b"\n")]
    last = lines.pop()[:-1]
    return [*lines, last] if last else lines


def _edits(old: list[bytes], new: list[bytes], budget: Budget) -> list[Edit]:
    """What changed, in order; the lines at both ends that are the same are taken off first."""
    numbers: dict[bytes, int] = {}
    a = [numbers.setdefault(line, len(numbers)) for line in old]
    b = [numbers.setdefault(line, len(numbers)) for line in new]
    head = 0
    while head < min(len(a), len(b)) and a[head] == b[head]:
        head += 1
    tail = 0
    while tail < min(len(a), len(b)) - head and a[-1 - tail] == b[-1 - tail]:
        tail += 1
    a, b = a[head : len(a) - tail], b[head : len(b) - tail]
    found = _myers(a, b, budget) if a and b else None
    if found is None:
        found = [(0, len(a), 0, len(b))]
    return [(i + head, j + head, k + head, m + head) for i, j, k, m in found]


def _myers(a: list[int], b: list[int], budget: Budget) -> list[Edit] | None:
    """A shortest edit script, or None when finding it would take too many steps."""
    steps = min(_STEPS_A_FILE, budget.left)
    if set(a).isdisjoint(b):
        return None
    n, m = len(a), len(b)
    spent, most = 0, min(n + m, _MOST_EDITS)
    reach = [0] * (2 * most + 3)  # by diagonal, from -most-1 on: the furthest line of `a`
    trace: list[list[int]] = []
    for d in range(most + 1):
        trace.append(reach[most + 1 - d : most + 2 + d])
        for k in range(-d, d + 1, 2):
            at = most + 1 + k
            x = reach[at + 1] if k == -d or (k != d and reach[at - 1] < reach[at + 1]) else reach[at - 1] + 1
            y, begin = x - k, x
            while x < n and y < m and a[x] == b[y]:
                x, y = x + 1, y + 1
            reach[at] = x
            spent += 1 + x - begin
            if x == n and y == m:
                budget.left -= spent
                return _path(trace, n, m)
            if spent > steps:
                budget.left -= spent
                return None
    budget.left -= spent
    return None


def _path(trace: list[list[int]], x: int, y: int) -> list[Edit]:
    """Walk back through what each round reached, collecting single edits, then join those that touch."""
    edits: list[Edit] = []
    for d in range(len(trace) - 1, 0, -1):
        before, k = trace[d], x - y

        def reached(diagonal: int, before: list[int] = before, d: int = d) -> int:
            return before[diagonal + d] if -d <= diagonal <= d else -1

        down = k == -d or (k != d and reached(k - 1) < reached(k + 1))
        k = k + 1 if down else k - 1
        px = reached(k)
        py = px - k
        edits.append((px, px, py, py + 1) if down else (px, px + 1, py, py))
        x, y = px, py
    joined: list[Edit] = []
    for edit in reversed(edits):
        if joined and joined[-1][1] == edit[0] and joined[-1][3] == edit[2]:
            joined[-1] = (joined[-1][0], edit[1], joined[-1][2], edit[3])
        else:
            joined.append(edit)
    return joined


def _groups(edits: list[Edit]) -> Iterator[list[Edit]]:
    """Edits whose context lines would touch, together."""
    group: list[Edit] = []
    for edit in edits:
        if group and edit[0] - group[-1][1] > 2 * CONTEXT:
            yield group
            group = []
        group.append(edit)
    if group:
        yield group


def _hunk(group: list[Edit], old: list[bytes], new: list[bytes], first: int) -> bytes:
    begin, end = max(0, group[0][0] - CONTEXT), min(len(old), group[-1][1] + CONTEXT)
    new_begin = group[0][2] - (group[0][0] - begin)
    new_end = group[-1][3] + end - group[-1][1]
    body, at = [], begin
    for a, b, c, d in group:
        body += [_line(b" ", line) for line in old[at:a]]
        body += [_line(b"-", line) for line in old[a:b]]
        body += [_line(b"+", line) for line in new[c:d]]
        at = b
    body += [_line(b" ", line) for line in old[at:end]]
    return _head(first + begin, end - begin, first + new_begin, new_end - new_begin) + b"".join(body)


def _replacement(old: bytes, new: bytes, first: int) -> bytes:
    """One hunk that takes all of `old` out and puts all of `new` in, without splitting either."""
    counts = [text.count(b"\n") + (not text.endswith(b"\n")) if text else 0 for text in (old, new)]
    return _head(first, counts[0], first, counts[1]) + _marked(b"-", old) + _marked(b"+", new)


def _marked(mark: bytes, text: bytes) -> bytes:
    if not text:
        return b""
    whole = text.endswith(b"\n")
    marked = mark + (text[:-1] if whole else text).replace(b"\n", b"\n" + mark) + b"\n"
    return marked if whole else marked + _NO_NEWLINE


def _line(mark: bytes, line: bytes) -> bytes:
    return mark + line if line.endswith(b"\n") else mark + line + b"\n" + _NO_NEWLINE


def _head(old_at: int, old_count: int, new_at: int, new_count: int) -> bytes:
    """Positions are 1-based; an empty range is named by the line before it."""
    old_start, new_start = old_at + (old_count > 0), new_at + (new_count > 0)
    return b"@@ -%d,%d +%d,%d @@\n" % (old_start, old_count, new_start, new_count)
