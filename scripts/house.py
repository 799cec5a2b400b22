"""The house in figures: how much code there is, how it is cut, and how much of it the plainest `run` enters.

Usage: python -m scripts.house [--json] [--root DIR] [--run]

Counts what design decisions are judged by: files, lines, functions, complexity, private functions that one place
calls, imports inside functions, files of a package. `--run` also runs the plainest sandbox on the engine in this
process and counts the files and functions of the package that it enters. `ruff` measures complexity once more, as
the limit of `make lint`.
"""

from __future__ import annotations

import argparse
import ast
import collections
import inspect
import json
import statistics
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import cast

ROOT = Path(__file__).resolve().parent.parent
Function = ast.FunctionDef | ast.AsyncFunctionDef
_BRANCHES = ast.If | ast.For | ast.AsyncFor | ast.While | ast.ExceptHandler | ast.IfExp | ast.comprehension
_PLAIN = """\
name: {project}
sandboxes:
  plain: {{image: "sandboxrun/busybox:latest", network_mode: none, command: ["true"]}}
"""


def figures(package: Path) -> Mapping[str, float]:
    """The static figures of the package in `package`, by name."""
    files = sorted(package.rglob("*.py"))
    texts = {path: path.read_text(encoding="utf-8") for path in files}
    trees = {path: nodes(ast.parse(text)) for path, text in texts.items()}
    functions = [node for tree in trees.values() for node in tree if isinstance(node, Function)]
    lengths = sorted((node.end_lineno or node.lineno) - node.lineno + 1 for node in functions)
    complexities = sorted(map(complexity, functions))
    private, lonely = _private(trees.values())
    folders = collections.Counter(path.parent for path in files)
    return {
        "files": len(files),
        "lines": sum(text.count("\n") for text in texts.values()),
        "longest file": max(text.count("\n") for text in texts.values()),
        "files of the largest folder": max(folders.values()),
        "functions": len(functions),
        "function length, median": statistics.median(lengths),
        "function length, 90 %": lengths[len(lengths) * 9 // 10],
        "complexity, 90 %": complexities[len(complexities) * 9 // 10],
        "complexity, most": complexities[-1],
        "private functions": private,
        "private functions with one caller, %": round(100 * lonely / private),
        "imports inside functions": sum(map(_imports_inside, functions)),
    }


def nodes(tree: ast.AST) -> list[ast.AST]:
    """What `ast.walk` gives, in a third of its time: the trees of a whole package are walked."""
    found = [tree]
    for node in found:
        for name in node._fields:
            match getattr(node, name, None):
                case ast.AST() as child:
                    found.append(child)
                case list() as several:
                    found += [child for child in several if isinstance(child, ast.AST)]
    return found


def complexity(function: Function) -> int:
    """McCabe's number: one, and one for each branch; of a match, one for each case but the first."""
    count = 1
    for node in nodes(function):
        if isinstance(node, _BRANCHES):
            count += 1
        elif isinstance(node, ast.BoolOp):
            count += len(node.values) - 1
        elif isinstance(node, ast.Match):
            count += len(node.cases) - 1
    return count


def _imports_inside(function: Function) -> int:
    return sum(isinstance(node, ast.Import | ast.ImportFrom) for node in own_nodes(function))


def own_nodes(function: Function) -> Iterator[ast.AST]:
    """What stands in a function, but not in one that is defined inside of it."""
    waiting: list[ast.AST] = list(ast.iter_child_nodes(function))
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, Function):
            waiting += ast.iter_child_nodes(node)


def _private(trees: Iterable[list[ast.AST]]) -> tuple[int, int]:
    """Functions of a module that begin with `_`, and how many of them are named at one place of it only."""
    every = lonely = 0
    for tree in trees:
        body = cast(ast.Module, tree[0]).body
        names = [n.name for n in body if isinstance(n, Function) and n.name.startswith("_")]
        uses = collections.Counter(n.id for n in tree if isinstance(n, ast.Name))
        every += len(names)
        lonely += sum(uses[name] == 1 for name in names)
    return every, lonely


def entered(package: Path, host: str) -> Mapping[str, float]:
    """Run the plainest sandbox in this process; the files and functions of the package that it entered."""
    from sandboxrun.cli.main import main

    seen: set[tuple[str, str]] = set()
    inside = f"{package}/"

    def note(frame: FrameType, event: str, argument: object) -> None:
        code = frame.f_code
        if event != "call" or not code.co_filename.startswith(inside) or not code.co_flags & inspect.CO_OPTIMIZED:
            return
        if not code.co_name.startswith("<") and not _importing(frame):
            seen.add((code.co_filename, code.co_qualname))

    with tempfile.TemporaryDirectory() as folder:
        profile = Path(folder) / "sandbox.yaml"
        profile.write_text(_PLAIN.format(project=f"house-{Path(folder).name.lower().replace('_', '-')}"))
        threading.setprofile(note)
        sys.setprofile(note)
        try:
            if code := main(["run", "-q", "-f", str(profile), "--host", host]):
                sys.exit(f"error: the run failed with {code}")
        finally:
            sys.setprofile(None)
            threading.setprofile(None)
    return {"files that run enters": len({file for file, _ in seen}), "functions that run enters": len(seen)}


def _importing(frame: FrameType) -> bool:
    """Whether a module is being imported: what it calls then makes names, and is no part of the story."""
    above: FrameType | None = frame
    while above is not None:
        if above.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        above = above.f_back
    return False


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description="The house in figures.")
    parser.add_argument("--json", action="store_true", help="Print JSON.")
    parser.add_argument("--root", type=Path, default=ROOT, help="The checkout to measure.")
    parser.add_argument("--run", action="store_true", help="Also run the plainest sandbox on the engine.")
    given = parser.parse_args()
    package = given.root.resolve() / "sandboxrun"
    found = dict(figures(package))
    if given.run:
        from scripts import engine

        found |= entered(package, engine.endpoint())
    if given.json:
        print(json.dumps(found, indent=2))
        return
    for name, value in found.items():
        print(f"{name:40} {value:>9,g}")


if __name__ == "__main__":
    main()
