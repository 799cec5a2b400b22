"""Fixes as edits of a file's text: comments, order and everything else stay as they are.

Owns finding the lines of an option or an item in a YAML text, and changing them. Pure. What it is not sure of, it
leaves: flow collections over several lines, anchors and aliases.
"""

from __future__ import annotations

import re

from sandboxrun.audit.finding import OptionEdit
from sandboxrun.source import ListNode, MapNode, Node, Scalar

_TOPS = ("sandboxes", "services")


def fixed(text: str, root: Node, sandbox: str, edit: OptionEdit) -> str | None:
    """The text with the edit made in a sandbox or service; None where it cannot be made safely."""
    holder = _holder(root, sandbox)
    if holder is None:
        return None
    name, body = holder
    lines = text.splitlines(keepends=True)
    key, value = body.key(edit.key), body.get(edit.key)
    if key is not None and value is not None and not _is_own(key, value, lines):
        return None
    if edit.item is not None:
        return _item(lines, name, body, key, value, edit)
    if edit.value is None:
        return None if key is None else _without_key(lines, key, value)
    if key is None:
        return _added(lines, name, body, f"{edit.key}: {edit.value}")
    return _replaced(lines, key, value, edit.value)


def _holder(root: Node, sandbox: str) -> tuple[Scalar, MapNode] | None:
    for top in _TOPS:
        listed = root.get(top) if isinstance(root, MapNode) else None
        if isinstance(listed, MapNode):
            name, body = listed.key(sandbox), listed.get(sandbox)
            if name is not None and isinstance(body, MapNode):
                return name, body
    return None


def _is_own(key: Scalar, value: Node, lines: list[str]) -> bool:
    """Whether key and value are written here: what came by an alias or a merge stands elsewhere."""
    if key.span is None or key.span.line > len(lines):
        return False
    line = lines[key.span.line - 1]
    written = re.match(rf"[\"']?{re.escape(str(key.value))}[\"']?\s*:(\s|$)", line[key.span.column - 1 :]) is not None
    rest = line[key.span.column - 1 + key.span.length :]
    return written and re.match(r"\s*:\s*[*&!|>]", rest) is None


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip(" "))


def _block_end(lines: list[str], first: int, column: int) -> int:
    """The line after the last of a block that begins at line `first` (0-based) and is indented by `column`; comments
    and blank lines after it are not of it."""
    end = first + 1
    for at in range(first + 1, len(lines)):
        line = lines[at]
        if not line.strip():
            continue
        if line.lstrip().startswith("#") and _indent(line) <= column:
            continue
        is_item = line.lstrip().startswith("- ") or line.strip() == "-"
        if _indent(line) > column or (is_item and _indent(line) == column and not _starts_item(lines[first])):
            end = at + 1
        else:
            break
    return end


def _starts_item(line: str) -> bool:
    return line.lstrip().startswith("- ")


def _without_key(lines: list[str], key: Scalar, value: Node | None) -> str | None:
    assert key.span is not None
    first, column = key.span.line - 1, key.span.column - 1
    if lines[first][:column].strip():
        return _without_flow(lines, first, column, key, value)
    end = _block_end(lines, first, column)
    return "".join((*lines[:first], *lines[end:]))


def _flow_end(line: str, start: int) -> int | None:
    """Where a value in a flow collection ends: at the comma or bracket after it."""
    depth, quote = 0, ""
    for at in range(start, len(line)):
        character = line[at]
        if quote:
            quote = "" if character == quote else quote
        elif character in "\"'":
            quote = character
        elif character in "[{":
            depth += 1
        elif character in "]}":
            if depth == 0:
                return at
            depth -= 1
        elif character == "," and depth == 0:
            return at
        elif character == "\n":
            return None
    return None


def _cut(line: str, start: int, end: int) -> str:
    """A line without an entry of a flow collection, and without the comma that set it apart."""
    before, after = line[:start], line[end:]
    if after.startswith(","):
        return before + after[1:].lstrip(" ")
    return re.sub(r",\s*$", "", before) + after


def _without_flow(lines: list[str], first: int, column: int, key: Scalar, value: Node | None) -> str | None:
    end = _flow_end(lines[first], column)
    if end is None:
        return None
    lines = [*lines]
    lines[first] = _cut(lines[first], column, end)
    return "".join(lines)


def _added(lines: list[str], name: Scalar, body: MapNode, text: str) -> str | None:
    """A new first entry of the sandbox."""
    if name.span is None or not body.entries:
        return None
    own = [key for key, _ in body.entries if key.span is not None and key.span.line >= name.span.line]
    if not own or own[0].span is None:
        return None
    first, column = own[0].span.line - 1, own[0].span.column - 1
    if first >= len(lines):
        return None
    before = lines[first][:column]
    if not before.strip():
        return "".join((*lines[:first], f"{before}{text}\n", *lines[first:]))
    lines = [*lines]
    lines[first] = f"{before}{text}, {lines[first][column:]}" if before.rstrip().endswith(("{", ",")) else ""
    return "".join(lines) if lines[first] else None


def _replaced(lines: list[str], key: Scalar, value: Node | None, text: str) -> str | None:
    assert key.span is not None
    first, column = key.span.line - 1, key.span.column - 1
    line = lines[first]
    if (
        isinstance(value, Scalar)
        and value.span is not None
        and value.span.line == key.span.line
        and value.value is not None
    ):
        start = value.span.column - 1
        new = line[:start] + text + line[start + value.span.length :]
        return "".join((*lines[:first], new, *lines[first + 1 :]))
    colon = line.index(":", column + key.span.length - 1)
    if line[:column].strip():
        end = _flow_end(line, column)
        return (
            None
            if end is None
            else "".join((*lines[:first], f"{line[: colon + 1]} {text}{line[end:]}", *lines[first + 1 :]))
        )
    end = _block_end(lines, first, column)
    comment = re.search(r"\s#.*$", line[colon + 1 :].rstrip("\n"))
    tail = comment[0] if comment is not None and end > first + 1 else ""
    return "".join((*lines[:first], f"{line[: colon + 1]} {text}{tail}\n", *lines[end:]))


def _item(
    lines: list[str], name: Scalar, body: MapNode, key: Scalar | None, value: Node | None, edit: OptionEdit
) -> str | None:
    """An item of a list or mapping removed, replaced or added."""
    if key is None or value is None:
        return None if edit.value is None else _added(lines, name, body, f"{edit.key}: [{_quoted(edit.value)}]")
    match value:
        case ListNode():
            at = next((item for item in value.items if _is_item(item, edit.item or "")), None)
            if at is None:
                return None if edit.value is None else _appended(lines, key, value, edit.value)
            if edit.value is not None:
                return _swapped(lines, at, _quoted(edit.value))
            if len(value.items) == 1:
                return _without_key(lines, key, value)
            return _without_item(lines, at)
        case MapNode():
            inner, old = value.key(edit.item or ""), value.get(edit.item or "")
            if inner is None or old is None or not _is_own(inner, old, lines):
                return None
            if edit.value is not None:
                return _replaced(lines, inner, old, edit.value)
            return _without_key(lines, key if len(value.entries) == 1 else inner, old)
    return None


def _quoted(text: str) -> str:
    return text if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_=-]*", text) else '"' + text.replace('"', '\\"') + '"'


def _is_item(item: Node, wanted: str) -> bool:
    """Whether an item of a list is the one that is named: by its text, its name before = or :, or its target."""
    match item:
        case Scalar(value=value, text=text):
            words = {str(value), text, *re.split("[=:]", str(value), maxsplit=1)[:1]}
            parts = str(value).split(":")
            return wanted in words or (len(parts) > 1 and parts[1] == wanted)
        case MapNode():
            target = item.get("target") or item.get("source")
            return isinstance(target, Scalar) and target.value == wanted
    return False


def _without_item(lines: list[str], item: Node) -> str | None:
    if item.span is None or item.span.line > len(lines):
        return None
    first, column = item.span.line - 1, item.span.column - 1
    line = lines[first]
    if re.fullmatch(r"\s*-\s+", line[:column]):
        dash = line.index("-")
        return "".join((*lines[:first], *lines[_item_end(lines, first, dash) :]))
    end = _flow_end(line, column)
    if end is None:
        return None
    return "".join((*lines[:first], _cut(line, column, end), *lines[first + 1 :]))


def _item_end(lines: list[str], first: int, dash: int) -> int:
    end = first + 1
    while end < len(lines) and lines[end].strip() and _indent(lines[end]) > dash:
        end += 1
    return end


def _swapped(lines: list[str], item: Node, text: str) -> str | None:
    if not isinstance(item, Scalar) or item.span is None or item.span.line > len(lines):
        return None
    first, start = item.span.line - 1, item.span.column - 1
    line = lines[first]
    return "".join((*lines[:first], line[:start] + text + line[start + item.span.length :], *lines[first + 1 :]))


def _appended(lines: list[str], key: Scalar, value: ListNode, text: str) -> str | None:
    if not value.items:
        return _replaced(lines, key, value, f"[{_quoted(text)}]")
    last = value.items[-1]
    if last.span is None or last.span.line > len(lines):
        return None
    first, column = last.span.line - 1, last.span.column - 1
    line = lines[first]
    if re.fullmatch(r"\s*-\s+", line[:column]):
        dash = line.index("-")
        after = _item_end(lines, first, dash)
        return "".join((*lines[:after], f"{line[:dash]}- {_quoted(text)}\n", *lines[after:]))
    end = _flow_end(line, column)
    if end is None or line[end] != "]":
        return None
    return "".join((*lines[:first], f"{line[:end]}, {_quoted(text)}{line[end:]}", *lines[first + 1 :]))
