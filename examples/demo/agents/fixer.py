"""An agent without a model: it runs a Python project's tests, mends by fixed rules what it finds, and tests again.

Usage: fixer.py PROJECT REPORT

PROJECT is the directory to work in, REPORT the directory for what was done. Ends with 0 when all tests pass at last.
"""

import ast
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

PAUSE = 0.4  # seconds after each fix, so that a person can follow
MOST_FIXES = 100  # a rule that undoes another's work must not go on for ever


class Fix(NamedTuple):
    """One fault and the whole new text of its file."""

    line: int
    fault: str
    text: str


def main(project: Path, report: Path) -> int:
    """Test, mend, test again, report."""
    before = run_tests(project)
    print(f"Before: {before.verdict}", flush=True)
    fixes = []
    for path, fix in mend(project):
        fixes.append(f"{path.relative_to(project)}:{fix.line}: {fix.fault}")
        print(f"Fixed {fixes[-1]}", flush=True)
        time.sleep(PAUSE)
    after = run_tests(project)
    print(f"After: {after.verdict}", flush=True)
    report.mkdir(parents=True, exist_ok=True)
    lines = ["# What the fixer did", "", f"Before: {before.verdict}", "", *(f"- {fix}" for fix in fixes)]
    (report / "fixes.md").write_text("\n".join([*lines, "", f"After: {after.verdict}", ""]))
    return 0 if after.passed else 1


class Tests(NamedTuple):
    """How a run of the tests ended."""

    passed: bool
    verdict: str


def run_tests(project: Path) -> Tests:
    """All tests below `project`, with unittest."""
    command = [sys.executable, "-W", "ignore", "-m", "unittest", "discover", "-s", "tests", "-t", "."]
    ran = subprocess.run(command, cwd=project, capture_output=True, text=True)
    count = re.search(r"^Ran (\d+) tests?", ran.stderr, re.MULTILINE)
    failed = re.findall(r"^(?:FAIL|ERROR): (\w+)", ran.stderr, re.MULTILINE)
    ends = f"{len(failed)} failed ({', '.join(failed)})" if failed else "all passed"
    return Tests(ran.returncode == 0, f"{count[1] if count else 'no'} tests, {ends}")


def mend(project: Path) -> Iterator[tuple[Path, Fix]]:
    """Fix one fault at a time, and look at the file anew after each: places move."""
    for path in sorted(project.rglob("*.py")):
        for _ in range(MOST_FIXES):
            fix = next(faults(path.read_text()), None)
            if fix is None:
                break
            path.write_text(fix.text)
            yield path, fix


def faults(text: str) -> Iterator[Fix]:
    """What the rules find in one file."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            yield from shared_default(node, text)
        elif isinstance(node, ast.Compare):
            yield from wrong_comparison(node, text)
    yield from unused_import(tree, text)


def shared_default(node: ast.FunctionDef, text: str) -> Iterator[Fix]:
    """`def f(a=[])`: one list for all calls."""
    named = node.args.args[len(node.args.args) - len(node.args.defaults) :]
    for argument, default in zip(named, node.args.defaults, strict=True):
        if isinstance(default, ast.List | ast.Dict | ast.Set):
            literal = ast.get_source_segment(text, default)
            lines = replaced(text, default, "None").splitlines(keepends=True)
            documented = ast.get_docstring(node) is not None
            place = (node.body[0].end_lineno if documented else node.body[0].lineno - 1) or 0
            indent = " " * node.body[0].col_offset
            lines[place:place] = [f"{indent}if {argument.arg} is None:\n", f"{indent}    {argument.arg} = {literal}\n"]
            fault = f"{node.name}() shares the default of {argument.arg} between calls"
            yield Fix(default.lineno, fault, "".join(lines))


def wrong_comparison(node: ast.Compare, text: str) -> Iterator[Fix]:
    """`a is "text"` asks for the same object, `a == None` for what a class calls equal."""
    right = node.comparators[0]
    if len(node.ops) > 1 or not isinstance(right, ast.Constant):
        return
    negated = isinstance(node.ops[0], ast.IsNot | ast.NotEq)
    if right.value is None and isinstance(node.ops[0], ast.Eq | ast.NotEq):
        sign, fault = "is not" if negated else "is", "None is compared by value"
    elif (
        isinstance(right.value, str | int)
        and not isinstance(right.value, bool)
        and isinstance(node.ops[0], ast.Is | ast.IsNot)
    ):
        sign, fault = "!=" if negated else "==", f"{right.value!r} is compared by identity"
    else:
        return
    left, other = (ast.get_source_segment(text, part) for part in (node.left, right))
    yield Fix(node.lineno, fault, replaced(text, node, f"{left} {sign} {other}"))


def unused_import(tree: ast.Module, text: str) -> Iterator[Fix]:
    """`import a` where nothing says `a`."""
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    for node in tree.body:
        if isinstance(node, ast.Import) and len(node.names) == 1 and "." not in node.names[0].name:
            name = node.names[0].asname or node.names[0].name
            if name not in used:
                lines = text.splitlines(keepends=True)
                del lines[node.lineno - 1 : node.end_lineno]
                yield Fix(node.lineno, f"{name} is imported and never used", "".join(lines))


def replaced(text: str, node: ast.expr, new: str) -> str:
    """`text` with what stands for `node` replaced. Columns count bytes."""
    lines = text.encode().splitlines(keepends=True)
    first, last = lines[node.lineno - 1], lines[(node.end_lineno or node.lineno) - 1]
    whole = first[: node.col_offset] + new.encode() + last[node.end_col_offset :]
    lines[node.lineno - 1 : node.end_lineno] = [whole]
    return b"".join(lines).decode()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
