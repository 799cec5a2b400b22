"""What the Python API says speaks of Python: an option of the command line is named in a diagnostic's `option` only,
which the command line alone shows."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import sandboxrun
from sandboxrun.cli.main import COMMANDS, root
from sandboxrun.errors import Diagnostic, SandboxrunError
from sandboxrun.report.diagnostics import annotation, diagnostic_json, diagnostic_text

HOME = Path(sandboxrun.__file__).parent
# What programs can't reach: the command line, its formats, and what runs in a gateway's container.
ELSEWHERE = ("cli", "report", "gateway/companion", "gateway/program", "audit")
ALLOWED = {
    "lifecycle/git.py": "git's own options, and a review's, which has no Python API",
    "evidence/revision.py": "git's own options",
    "lifecycle/reap.py": "no Python API",
}


def own_options() -> set[str]:
    """Every long option that a command has."""
    group = root()
    context = click.Context(group)
    commands = [group.get_command(context, name) for name in COMMANDS]
    spelled = [o for c in commands if c is not None for p in _all(c) for o in p.opts]
    return {option for option in spelled if option.startswith("--")}


def _all(command: click.Command) -> Iterator[click.Parameter]:
    yield from command.params
    for inner in getattr(command, "commands", {}).values():
        yield from _all(inner)


def sentences(path: Path) -> Iterator[tuple[int, str]]:
    """The texts of a module that a user may read: all but docstrings, and but what is passed as `option`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    left_out: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            left_out.add(id(node.value))
        if isinstance(node, ast.keyword) and node.arg == "option":
            left_out |= {id(inner) for inner in ast.walk(node.value)}
        if isinstance(node, ast.Dict):  # keyword arguments of a diagnostic that several share
            named = [v for k, v in zip(node.keys, node.values, strict=True) if getattr(k, "value", "") == "option"]
            left_out |= {id(inner) for value in named for inner in ast.walk(value)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in left_out:
            yield node.lineno, node.value


def test_no_sentence_that_a_program_may_get_names_an_option() -> None:
    options = own_options()
    assert {"--take-over", "--rerun", "--evidence", "--host"} <= options
    found = []
    for path in sorted(HOME.rglob("*.py")):
        at = path.relative_to(HOME).as_posix()
        if at.startswith(ELSEWHERE) or at in ALLOWED:
            continue
        for line, text in sentences(path):
            told = re.sub(r"`[^`]*`", "", text)  # a command line in full is one in Python, too
            if " " in told and options & set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", told)):
                found.append(f"{at}:{line}: {text}")
    assert found == []


@pytest.mark.parametrize(("help", "before"), [("save it elsewhere", "save it elsewhere ("), (None, "use (")])
def test_each_kind_of_caller_is_shown_its_own_spelling(help: str | None, before: str) -> None:
    error = SandboxrunError("no room", help=help, option="--evidence DIR", argument="Store(root=…)")
    assert str(error) == f"error: no room\n  help: {before}Store(root=…))"
    (diagnostic,) = error.diagnostics
    assert diagnostic_text(diagnostic) == f"error: no room\n  help: {before}--evidence DIR)"
    assert diagnostic_json(diagnostic)["detail"] == f"{before}--evidence DIR)"
    assert annotation(diagnostic).endswith(f"no room%0A{before}--evidence DIR)")
    only = Diagnostic(message="m", help="h", option="--x")
    assert (str(only), diagnostic_text(only)) == ("error: m\n  help: h", "error: m\n  help: h (--x)")
