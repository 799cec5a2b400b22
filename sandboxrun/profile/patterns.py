"""Regular expressions that a profile's author wrote, matched in linear time.

Owns the choice of engine: Rust's, which has no backtracking, so that no pattern can be made to run for long. It knows
neither look-around nor back-references.
"""

from __future__ import annotations

from collections.abc import Callable

_LARGEST = 1 << 20  # bytes of the compiled expression
LONGEST = 1000  # characters


def compile_pattern(pattern: str) -> Callable[[str], bool] | None:
    """Whether a text matches `pattern` whole; None when that is no pattern of the engine's kind."""
    import jsonschema_rs

    if len(pattern) > LONGEST:
        return None
    options = jsonschema_rs.RegexOptions(size_limit=_LARGEST, dfa_size_limit=_LARGEST)
    try:
        for text in (pattern, f"^(?:{pattern})$"):
            schema = {"type": "string", "pattern": text}
            validator = jsonschema_rs.Draft7Validator(schema, pattern_options=options)
    except jsonschema_rs.ValidationError:
        return None
    matches: Callable[[str], bool] = validator.is_valid
    return matches
