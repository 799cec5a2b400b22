"""The end of `make test`: how many tests passed, and whether they cover enough of the package.

coverage's own `fail_under` mixes lines and branches into one number; here each has a floor of its own.

Usage: python -m scripts.floors JUNIT_XML
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import xml.etree.ElementTree
from pathlib import Path

FLOORS = {"lines": 90.0, "branches": 85.0}  # percent of sandboxrun/; the only place where they stand


def main(junit: Path) -> int:
    """Print the counts and both percentages; 1 where a floor is missed."""
    covered = percentages(_totals())
    missed = [name for name, value in covered.items() if value < FLOORS[name]]
    for name in missed:
        print(f"error: the tests cover too few {name}; the table above says where")
    print(tests(junit))
    print("  ".join(f"{name}: {value:.1f} % (at least {FLOORS[name]:.0f})" for name, value in covered.items()))
    return 1 if missed else 0


def percentages(totals: dict[str, int]) -> dict[str, float]:
    """Lines and branches apart, from coverage's totals."""
    return {
        "lines": _percent(totals["covered_lines"], totals["num_statements"]),
        "branches": _percent(totals["covered_branches"], totals["num_branches"]),
    }


def tests(junit: Path) -> str:
    """pytest's counts, once more: its own summary has scrolled away behind the coverage table."""
    suite = xml.etree.ElementTree.parse(junit).getroot().find("testsuite")
    assert suite is not None, f"{junit} holds no test suite"
    total, skipped, failures, errors = (int(suite.get(k, 0)) for k in ("tests", "skipped", "failures", "errors"))
    counts = [f"{total - skipped - failures - errors} passed"]
    counts += [f"{n} {word}" for n, word in ((failures, "failed"), (errors, "errors"), (skipped, "skipped")) if n]
    return f"tests: {', '.join(counts)} in {float(suite.get('time', 0)):.0f} s"


def _percent(part: int, whole: int) -> float:
    return 100.0 * part / whole if whole else 100.0


def _totals() -> dict[str, int]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "coverage.json"
        subprocess.run([sys.executable, "-m", "coverage", "json", "-q", "-o", file], check=True)
        totals: dict[str, int] = json.loads(file.read_text())["totals"]
        return totals


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
