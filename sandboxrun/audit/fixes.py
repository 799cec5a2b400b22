"""Fixes as edits of a file's text: comments, order and everything else stay as they are.

Owns finding the lines of an option or an item in a YAML text, and changing them. Pure. What it is not sure of, it
leaves: flow collections over several lines, anchors and aliases.
"""

from __future__ import annotations

import re

from sandboxrun.audit.finding import AuditFinding
from sandboxrun.audit.subject import DEPLOYED
from sandboxrun.errors import ListNode, MapNode, Node, Scalar

_TOPS = ("sandboxes", "services")


def fixed(text: str, root: Node, sandbox: str, finding: AuditFinding) -> str | None:
    """The text with a finding's edit made in a sandbox or service; None where it cannot be made safely."""
    listed = (root.get(top) for top in _TOPS) if isinstance(root, MapNode) else ()
    for services in listed:
        if isinstance(services, MapNode):
            name, body = services.key(sandbox), services.get(sandbox)
            if name is not None and isinstance(body, MapNode):
                made = _Text(text.splitlines(keepends=True), name, body).edited(finding)
                dos = "\r\n" in text and text.count("\r\n") == text.count("\n")
                return re.sub(r"\r?\n", "\r\n", made) if made is not None and dos else made  # lines end as the others
    return None


def holder(root: Node, line: int) -> str | None:
    """The sandbox or service that a line is in: of several that extend one another, the one that says it."""
    found = None
    for key, value in root.entries if isinstance(root, MapNode) else ():
        if key.span is None or key.span.line > line:
            continue
        found = None  # another key of the top level has begun
        if key.value in _TOPS and isinstance(value, MapNode):
            for name, _ in value.entries:
                if name.span is not None and name.span.line <= line:
                    found = str(name.value)
    return found


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip(" "))


class _Text:
    """The lines of a file, and where a sandbox is in it. Every change gives the whole text, None where it can't be made
    safely."""

    def __init__(self, lines: list[str], name: Scalar, body: MapNode) -> None:
        self._lines, self._name, self._body = lines, name, body

    def edited(self, finding: AuditFinding) -> str | None:
        """The text with the finding's edit made."""
        assert finding.edit is not None
        option, item, new = finding.key, finding.item, finding.edit.value
        key, value = self._body.key(option), self._body.get(option)
        if key is not None and value is not None and not self._is_own(key, value):
            return None
        if item is not None and key is not None and value is not None:
            return self._item(key, value, item, new)
        if new is None:
            return self._without_key(key) if key is not None and item is None else None
        if key is None and (limit := self._deployed(option)) is not None:
            return self._replaced(*limit, new) if self._is_own(*limit) else None
        if key is None:
            return self._added(f"{option}: {new}" if item is None else f"{option}: [{_quoted(new)}]")
        return self._replaced(key, value, new) if item is None else None

    def _deployed(self, option: str) -> tuple[Scalar, Node] | None:
        """A limit where Compose has it below `deploy`: it may not be written in both places."""
        node: Node | None = self._body
        for name in ("deploy", "resources", "limits"):
            node = node.get(name) if isinstance(node, MapNode) else None
        if not isinstance(node, MapNode) or option not in DEPLOYED:
            return None
        key, value = node.key(DEPLOYED[option]), node.get(DEPLOYED[option])
        return (key, value) if key is not None and value is not None else None

    def _with(self, first: int, text: str = "", end: int | None = None) -> str:
        """The whole text with these lines, from `first` to before `end`, replaced; one line where `end` is left out."""
        return "".join((*self._lines[:first], text, *self._lines[first + 1 if end is None else end :]))

    def _is_own(self, key: Scalar, value: Node) -> bool:
        """Whether key and value are written here: what came by an alias or a merge stands elsewhere."""
        if key.span is None or key.span.line > len(self._lines):
            return False
        line = self._lines[key.span.line - 1]
        written = (
            re.match(rf"[\"']?{re.escape(str(key.value))}[\"']?\s*:(\s|$)", line[key.span.column - 1 :]) is not None
        )
        rest = line[key.span.column - 1 + key.span.length :]
        return written and re.match(r"\s*:\s*[*&!|>]", rest) is None

    def _block_end(self, first: int, column: int) -> int:
        """The line after the last of a block that begins at line `first` (0-based) and is indented by `column`;
        comments and blank lines after it are not of it."""
        end, in_list = first + 1, self._lines[first].lstrip().startswith("- ")
        for at in range(first + 1, len(self._lines)):
            line = self._lines[at]
            if not line.strip() or (line.lstrip().startswith("#") and _indent(line) <= column):
                continue
            is_item = line.lstrip().startswith("- ") or line.strip() == "-"
            if _indent(line) <= column and not (is_item and _indent(line) == column and not in_list):
                break
            end = at + 1
        return end

    def _item_end(self, first: int, dash: int) -> int:
        end = first + 1
        while end < len(self._lines) and self._lines[end].strip() and _indent(self._lines[end]) > dash:
            end += 1
        return end

    def _without_key(self, key: Scalar) -> str | None:
        assert key.span is not None
        first, column = key.span.line - 1, key.span.column - 1
        if self._lines[first][:column].strip():
            return self._without_entry(first, column)
        return self._with(first, end=self._block_end(first, column))

    def _without_entry(self, first: int, column: int) -> str | None:
        """Without what begins there in a flow collection."""
        line = self._lines[first]
        end = _flow_end(line, column)
        if end is None:
            return None
        before, after = line[:column], line[end:]
        if after.startswith(","):  # without the comma that set it apart, either
            return self._with(first, before + after[1:].lstrip(" "))
        return self._with(first, re.sub(r",\s*$", "", before) + after)

    def _added(self, text: str) -> str | None:
        """A new first entry of the sandbox."""
        above = self._name.span
        spans = (key.span for key, _ in self._body.entries if key.span is not None)
        own = next((span for span in spans if above is not None and span.line >= above.line), None)
        if own is None or own.line > len(self._lines):
            return None
        first, line = own.line - 1, self._lines[own.line - 1]
        before, after = line[: own.column - 1], line[own.column - 1 :]
        if not before.strip():
            return self._with(first, f"{before}{text}\n{line}")
        return self._with(first, f"{before}{text}, {after}") if before.rstrip().endswith(("{", ",")) else None

    def _replaced(self, key: Scalar, value: Node | None, text: str) -> str | None:
        assert key.span is not None
        first, column = key.span.line - 1, key.span.column - 1
        line = self._lines[first]
        if isinstance(value, Scalar) and value.value is not None and value.span and value.span.line == key.span.line:
            return self._swapped(value, text)
        colon = line.index(":", column + key.span.length - 1)
        if line[:column].strip():
            end = _flow_end(line, column)
            return None if end is None else self._with(first, f"{line[: colon + 1]} {text}{line[end:]}")
        end = self._block_end(first, column)
        comment = re.search(r"\s#.*$", line[colon + 1 :].rstrip("\r\n"))
        tail = comment[0] if comment is not None and end > first + 1 else ""
        return self._with(first, f"{line[: colon + 1]} {text}{tail}\n", end)

    def _swapped(self, value: Node, text: str) -> str | None:
        """Another text in place of a scalar's."""
        if not isinstance(value, Scalar) or value.span is None or value.span.line > len(self._lines):
            return None
        line, start = self._lines[value.span.line - 1], value.span.column - 1
        return self._with(value.span.line - 1, line[:start] + text + line[start + value.span.length :])

    def _item(self, key: Scalar, value: Node, item: str, new: str | None) -> str | None:
        """An item of a list or mapping removed, replaced or added."""
        match value:
            case ListNode(items=items):
                at = next((one for one in items if _is_item(one, item)), None)
                if at is None:
                    return None if new is None else self._appended(key, value, new)
                if new is not None:
                    return self._swapped(at, _quoted(new))
                return self._without_key(key) if len(items) == 1 else self._without_item(at)
            case MapNode(entries=entries):
                inner, old = value.key(item), value.get(item)
                if inner is None or old is None or not self._is_own(inner, old):
                    return None
                if new is not None:
                    return self._replaced(inner, old, new)
                return self._without_key(key if len(entries) == 1 else inner)
        return None

    def _without_item(self, item: Node) -> str | None:
        if item.span is None or item.span.line > len(self._lines):
            return None
        first, column = item.span.line - 1, item.span.column - 1
        line = self._lines[first]
        if re.fullmatch(r"\s*-\s+", line[:column]):
            return self._with(first, end=self._item_end(first, line.index("-")))
        return self._without_entry(first, column)

    def _appended(self, key: Scalar, value: ListNode, text: str) -> str | None:
        if not value.items:
            return self._replaced(key, value, f"[{_quoted(text)}]")
        last = value.items[-1].span
        if last is None or last.line > len(self._lines):
            return None
        first, column, line = last.line - 1, last.column - 1, self._lines[last.line - 1]
        if re.fullmatch(r"\s*-\s+", line[:column]):
            dash = line.index("-")
            after = self._item_end(first, dash)
            return self._with(after, f"{line[:dash]}- {_quoted(text)}\n", after)
        end = _flow_end(line, column)
        if end is None or line[end] != "]":
            return None
        return self._with(first, f"{line[:end]}, {_quoted(text)}{line[end:]}")


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
        elif character in "\r\n":
            return None
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
