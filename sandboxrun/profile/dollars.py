"""Dollars as Compose reads them: `$$`, `${NAME:-x}` and `$NAME` are plain text here, with a message that says so.

Owns where it matters. An error where no shell can read the text; in commands, which shells read, a warning for what no
correct script has; nothing for what a template makes, which is meant as it is.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator, Sequence

from sandboxrun.errors import Problems
from sandboxrun.profile.layers import Layer, ProfileDocument
from sandboxrun.profile.templates import literal
from sandboxrun.source import ListNode, MapNode, Node, Scalar, Span, walk

_BRACES = r"\$\{[A-Za-z_](?:[^{}\n]|\{[^{}\n]*\})*\}?"  # Compose's may hold another: ${A:-${B}}
_ANY = re.compile(rf"\$\$|{_BRACES}|\$[A-Za-z_]\w*")
_BRACED = re.compile(rf"\$\$|{_BRACES}|^\$[A-Za-z_]\w*$")
_CONTENT = re.compile(rf"\$\$(?=[A-Za-z_{{(])|(?<!\$){_BRACES}")
_ESCAPED = re.compile(r"\$\$(?=[A-Za-z_{(])")  # a shell takes it for its process id, with a name right after it
_PARTS = re.compile(r"\$\{?(\w+)(?::?-([^}]*))?")

_SHELLS = frozenset("sh bash dash ash zsh ksh fish busybox".split())
_CODE = _SHELLS | frozenset("awk gawk mawk nawk sed jq perl envsubst".split())  # give dollars a meaning of their own
_CODE_NEXT = re.compile(r"-[a-z]*[ce]|-p|--eval|--command|--print")  # what follows is a program's text


def check_layer(layer: Layer, problems: Problems) -> None:
    """Note the dollars in a sandbox of a file."""
    entrypoint = _words(layer.node.get("entrypoint"))
    for key, value in layer.node.entries:
        match str(key.value):
            case word if word.startswith("x-"):
                continue
            case "command" | "entrypoint":
                _command(value, entrypoint, problems)
            case "healthcheck" if isinstance(value, MapNode):
                _refused("", value.without("test"), problems)
                test = value.get("test")
                if isinstance(test, ListNode) and _words(test)[:1] != ["CMD-SHELL"]:
                    _command(test, (), problems)
                    continue
                for scalar, found in _found(test, _ESCAPED):
                    _warn(scalar, found, "a shell reads it as its process id", problems)
            case word:
                _refused(word, key, problems)
                _refused(word, value, problems)


def check_document(document: ProfileDocument, problems: Problems) -> None:
    """Note the dollars in the rest of a file: its name, its variables, its networks, volumes, secrets and configs."""
    _refused("name", document.name, problems)
    variables = document.variables.entries if isinstance(document.variables, MapNode) else ()
    for _, declared in variables:
        for key in ("default", "enum"):
            value = declared.get(key) if isinstance(declared, MapNode) else None
            for scalar, found in _found(value, _ANY):
                help = "write the value out, or give it with --var or SANDBOXRUN_VAR_…"
                problems.warn(f'"{found}" in a variable stays as it is', _at(scalar, found), help)
    for kind, block in document.objects.items():
        for _, node in block.entries:
            value = node
            if kind == "configs" and isinstance(value, MapNode):
                # another program's text: a script's dollars are its own, a template's may be
                content = value.get("content")
                script = isinstance(content, Scalar) and str(content.value).startswith("#!")
                for scalar, found in _found(content, _ESCAPED if script else _CONTENT):
                    if found == "$$":
                        _warn(scalar, found, "Compose writes one $ for it", problems)
                    else:
                        message = f'"{found}" stays as it is: Compose would fill it in'
                        problems.warn(message, _at(scalar, found), f"{_declare(found)}; {_meant(found)}")
                value = value.without("content")
            _refused(kind, value, problems)


def _meant(found: str) -> str:
    return f"if the text is meant, write {{{{ '$' }}}}{found[1:]}"


# -- where no shell reads it -------------------------------------------------------------------------------------


def _refused(option: str, node: Node | None, problems: Problems) -> None:
    keys = (
        {id(key) for inner in walk(node) if isinstance(inner, MapNode) for key, _ in inner.entries} if node else set()
    )
    for scalar, found in _found(node, _ANY):
        if found == "$$":
            help = "write one $; if two are meant, write {{ '$$' }}"
            problems.add('"$$" stays "$$" here: it is not read as one "$"', _at(scalar, found), help)
            continue
        whole = str(scalar.value).partition("=")[2] or str(scalar.value)
        passes = option == "environment" and whole == found
        passed = f"to pass the caller's {_parts(found)[0]}, leave the value out; else " if passes else ""
        help = f"{passed}{_declare(found)}; {_meant(found)}"
        if id(scalar) in keys:
            help = "write the key out: only values are filled in"
        problems.add(f'nothing is filled in from "{found}"', _at(scalar, found), help)


def _declare(found: str) -> str:
    name, default = _parts(found)
    own = name.lower()
    rules = "type: string" + (f", default: {default}" if re.fullmatch(r"[\w./-]+", default or "") else "")
    own_directory = 'for the project\'s directory write "."; else ' if name == "PWD" else ""
    return f"{own_directory}declare a variable, variables: {{{own}: {{{rules}}}}}, and write {{{{ {own} }}}}"


def _parts(found: str) -> tuple[str, str | None]:
    match = _PARTS.match(found)
    return (match[1], match[2]) if match is not None else ("", None)


# -- commands ----------------------------------------------------------------------------------------------------


def _command(node: Node, entrypoint: Sequence[str], problems: Problems) -> None:
    words = _words(node)
    coded = any(os.path.basename(word) in _CODE for word in (*entrypoint, *words))
    items = node.items if isinstance(node, ListNode) else (node,)
    before = ""
    for item in items:
        code = coded or _CODE_NEXT.fullmatch(before) is not None
        pattern = _ESCAPED if code else _BRACED if isinstance(node, ListNode) else _ANY
        for scalar, found in _found(item, pattern):
            reads = "a shell reads it as its process id" if code else "no shell reads this command"
            _warn(scalar, found, reads, problems)
        before = str(item.value) if isinstance(item, Scalar) else ""


def _words(node: Node | None) -> list[str]:
    if isinstance(node, ListNode):
        return [str(item.value) for item in node.items if isinstance(item, Scalar)]
    text = str(node.value) if isinstance(node, Scalar) and isinstance(node.value, str) else ""
    try:
        return shlex.split(text)
    except ValueError:
        return text.split()


def _warn(scalar: Scalar, found: str, why: str, problems: Problems) -> None:
    if found == "$$":
        help = "write one $ for what Compose writes $$; if two are meant, write {{ '$$' }}"
        problems.warn(f'"$$" stays "$$" here: {why}', _at(scalar, found), help)
    else:
        help = f"{_declare(found)}, or run it by a shell: [sh, -c, …]"
        problems.warn(f'nothing is filled in from "{found}": {why}', _at(scalar, found), help)


# -- finding -----------------------------------------------------------------------------------------------------


def _found(node: Node | None, pattern: re.Pattern[str]) -> Iterator[tuple[Scalar, str]]:
    """The texts below a node, keys too, with each different match of `pattern` that a file has literally."""
    match node:
        case Scalar(value=str() as text) if "$" in text and node.span is not None:
            yield from ((node, found) for found in dict.fromkeys(pattern.findall(literal(text))))
        case ListNode():
            for item in node.items:
                yield from _found(item, pattern)
        case MapNode():
            for key, value in node.entries:
                yield from _found(key, pattern)
                yield from _found(value, pattern)


def _at(scalar: Scalar, found: str) -> Span | None:
    """Where `found` is in the file: the first line from the scalar's on that has it."""
    span = scalar.span
    if span is None:
        return None
    for number in range(span.line, span.line + str(scalar.value).count("\n") + 2):
        at = span.file.line(number).find(found, span.column - 1 if number == span.line else 0)
        if at >= 0:
            return Span(file=span.file, line=number, column=at + 1, length=len(found))
    return span
