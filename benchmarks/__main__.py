"""Usage: python -m benchmarks [--quick] [--only NAME] [--json]"""

from __future__ import annotations

import argparse
import json
import sys

from benchmarks.measures import MEASURES, QUICK, Effort
from benchmarks.table import Result, plain, table
from benchmarks.timing import BenchmarkError
from benchmarks.world import World, world


def main() -> int:
    """Measure and print; the exit code says whether all could be measured, never how quick it was."""
    parser = argparse.ArgumentParser(prog="benchmarks", description="sandboxrun beside what it is measured by.")
    parser.add_argument("--quick", action="store_true", help="fewer rounds, fewer sandboxes")
    parser.add_argument("--only", action="append", choices=list(MEASURES), help="only this measure; may be repeated")
    parser.add_argument("--json", action="store_true", help="the results as JSON")
    given = parser.parse_args()
    results: list[Result] = []
    try:
        with world() as made:
            _say(_where(made))
            for name in given.only or MEASURES:
                _say(f"measuring {name} …")
                results += MEASURES[name](made, QUICK if given.quick else Effort())
            told = {"where": _where(made), "results": plain(results)}
    except BenchmarkError as error:
        _say(f"benchmarks: {error}")
        return 1
    print(json.dumps(told, indent=2) if given.json else table(results))
    return 0


def _where(made: World) -> str:
    python = ".".join(map(str, sys.version_info[:3]))
    compose = f"docker compose {made.compose.version}" if made.compose else "no docker compose here to compare with"
    return f"{made.engine}; Python {python}; {compose}"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
