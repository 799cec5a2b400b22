"""The second look of `make test`: what failed beside other tests on a busy machine runs once more, alone.

A test that fails then too fails the run. One that passes is named as unsteady: a fault of the test or a race in the
software, to be found. More than a few failures are no matter of the machine: they get no second look.

Usage: python -m scripts.again JUNIT_XML EXIT_CODE_OF_PYTEST
"""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree
from pathlib import Path

MOST = 3  # tests
_SOME_FAILED = 1  # pytest's exit code


def main(junit: Path, code: int) -> int:
    """Run what failed once more; 0 where all of it passed, else pytest's exit code."""
    names = failed(junit) if code == _SOME_FAILED else []
    if not 1 <= len(names) <= MOST:
        return code
    print(f"==> Running alone what failed beside other tests: {', '.join(names)}", flush=True)
    if code := subprocess.run([sys.executable, "-m", "coverage", "run", "-m", "pytest", *names]).returncode:
        return code
    for name in names:
        print(f"warning: {name} is unsteady: it failed beside other tests and passed alone", file=sys.stderr)
    return 0


def failed(junit: Path) -> list[str]:
    """The ids of the tests that failed or whose fixtures did, by pytest's report. Tests are functions of modules."""
    cases = xml.etree.ElementTree.parse(junit).getroot().iter("testcase")
    bad = (c for c in cases if c.find("failure") is not None or c.find("error") is not None)
    return list(dict.fromkeys(f"{c.get('classname', '').replace('.', '/')}.py::{c.get('name')}" for c in bad))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
