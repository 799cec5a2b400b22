"""What a plain YAML scalar means: the core schema of YAML 1.2, with the traps of 1.1 left out.

`yes`, `on` and `22:22` are strings, as are dates. Digits after a leading zero (`0644`) stay a string too:
YAML 1.1 reads them as octal, 1.2 as decimal, and a file mode must not depend on who reads it. Pure.
"""

from __future__ import annotations

import re

from sandboxrun.source import Plain

_WORDS: dict[str, Plain] = {
    "": None, "~": None, "null": None, "Null": None, "NULL": None,
    "true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False,
}  # fmt: skip
_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]*)|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_NO_NUMBER = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
LARGEST_INTEGER = 2**63 - 1
_LONGEST_NUMBER = 40  # characters; int() of a long text is slow, and nothing longer is in range
_NUMERIC_START = frozenset("0123456789.+-")


def resolve(text: str) -> Plain:
    """The value of a plain scalar. Raises ValueError, saying why, for a number that can't be had."""
    if text in _WORDS:
        return _WORDS[text]
    if text[0] not in _NUMERIC_START:
        return text
    if _INTEGER.fullmatch(text):
        return _integer(text)
    if _NO_NUMBER.fullmatch(text):
        raise ValueError("infinity and not-a-number mean nothing here")
    if _FLOAT.fullmatch(text):
        return _float(text)
    return text


def _integer(text: str) -> int:
    value = int(text, 0) if len(text) <= _LONGEST_NUMBER else None
    if value is None or abs(value) > LARGEST_INTEGER:
        raise ValueError("the number is too large")
    return value


def _float(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError("the number is too large")
    return value


_SURROGATE = re.compile("[\ud800-\udfff]")


def is_text(text: str) -> bool:
    """Whether a string is made of characters: half of a surrogate pair is none, and can't be written as UTF-8."""
    return text.isascii() or _SURROGATE.search(text) is None


def tagged(tag: str, text: str) -> Plain:
    """The value of a scalar with an explicit tag (`!!str` is `str`). Raises ValueError when they don't fit."""
    if tag == "str":
        return text
    value = resolve(text)
    fits = {
        "null": value is None,
        "bool": isinstance(value, bool),
        "int": isinstance(value, int) and not isinstance(value, bool),
        "float": isinstance(value, int | float) and not isinstance(value, bool),
    }[tag]
    if not fits:
        raise ValueError(f"the value does not fit its tag !!{tag}")
    return float(value) if tag == "float" and isinstance(value, int) else value
