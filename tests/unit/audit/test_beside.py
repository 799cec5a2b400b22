"""docs/audit-compared.md has every option of test_compose.py, with what another auditor says of it.

SANDBOXRUN_DEV_UPDATE=1 writes the table anew where compose-lint is installed beside this interpreter.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.unit.audit.test_compose import ONE_THING_MORE, SILENT, closed

PAGE = Path(__file__).parents[3] / "docs" / "audit-compared.md"
PLACE = re.compile(r"(<!-- table: [^\n]*-->\n).*?(<!-- end of table -->)", re.DOTALL)
OTHER = Path(sys.executable).with_name("compose-lint")
# no page names a home directory by its path, or a host that is not documentation's own
OPENED = {option: rule for option, rule in ONE_THING_MORE.items() if "/root/" not in option and "://u:" not in option}
OPTIONS: Mapping[str, str] = {**OPENED, **dict.fromkeys(SILENT, "")}


def shown(option: str) -> str:
    """An option as a cell of the table."""
    return "`" + option.strip("\n").replace("\n", " ⏎ ").replace("|", "\\|") + "`"


def asked(directory: Path) -> dict[str, str]:
    """What the other auditor reports of each option beyond what it reports of the service without it."""
    files = {}
    for number, option in enumerate(("", *OPTIONS)):
        files[option] = directory / str(number) / "compose.yaml"
        files[option].parent.mkdir()
        files[option].write_text(closed(option))
    done = subprocess.run([OTHER, "--format", "json", *files.values()], capture_output=True, text=True, check=False)
    found: dict[str, set[str]] = {}
    for finding in json.loads(done.stdout)["findings"]:
        found.setdefault(finding["file"], set()).add(finding["rule_id"])
    always = found.get(str(files[""]), set())
    return {option: ", ".join(sorted(found.get(str(files[option]), set()) - always)) for option in OPTIONS}


def table(theirs: Mapping[str, str]) -> str:
    """The figures, and a row an option."""
    opened, quiet = list(OPENED), SILENT
    told, noise = (sum(bool(theirs[option]) for option in options) for options in (opened, quiet))
    lines = [
        f"Of {len(opened)} options that open something compose-lint reports {told}, sandboxrun all. "
        f"Of {len(quiet)} harmless ones",
        f"compose-lint reports {noise}, sandboxrun none.",
        "",
        "| option | sandboxrun | compose-lint |",
        "| --- | --- | --- |",
        *(f"| {shown(option)} | {ours} | {theirs[option]} |" for option, ours in OPTIONS.items()),
    ]
    return "\n".join(lines)


def test_the_page_has_every_option(tmp_path: Path) -> None:
    text = PAGE.read_text(encoding="utf-8")
    if os.environ.get("SANDBOXRUN_DEV_UPDATE") and OTHER.exists():
        theirs = asked(tmp_path)
    else:  # what the page says of it is believed
        rows = re.findall(r"^\| (`.*`) \| (?:SBX\d+)? ?\| ?([A-Z\d, -]*) ?\|$", text, re.MULTILINE)
        known = {cell: said.strip() for cell, said in rows}
        theirs = {option: known.get(shown(option), "") for option in OPTIONS}
    made = PLACE.sub(lambda match: f"{match[1]}\n{table(theirs)}\n\n{match[2]}", text)
    if os.environ.get("SANDBOXRUN_DEV_UPDATE"):
        PAGE.write_text(made, encoding="utf-8")
    assert made == PAGE.read_text(encoding="utf-8"), "SANDBOXRUN_DEV_UPDATE=1 writes the table, with compose-lint"
