"""The papers say what is so: their profiles are valid, their command lines exist, their links lead somewhere.

A fenced block's first line says what it is: `yaml` a whole profile, `yaml sandbox` options of one sandbox, `yaml
fragment` a part that only has to be YAML; in `console` and `sh` blocks every line that calls sandboxrun is looked at.
"""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import yaml

from sandboxrun.api.settings import _VARIABLES
from sandboxrun.backend.docker.transport import resolve
from sandboxrun.cli.main import COMMANDS, TABLE, root
from sandboxrun.data import Data
from sandboxrun.profile.files import bases
from sandboxrun.profile.functions import FILTERS, MAP_METHODS, TEXT_METHODS
from sandboxrun.profile.loader import load
from sandboxrun.spec.option import rows
from sandboxrun.spec.spec import NOT_OFFERED, ROWS
from scripts import controls, reference, rules, seccomp

CHECKOUT = Path(__file__).resolve().parents[1]
PAPERS = sorted(
    [*CHECKOUT.glob("*.md"), *CHECKOUT.glob("docs/*.md"), *CHECKOUT.glob("examples/*/README.md")],
    key=lambda path: path.as_posix(),
)


class Block(Data):
    """A fenced block: its file, the line of its fence, its info string's words, its text."""

    path: Path
    line: int
    info: tuple[str, ...]
    text: str

    def __str__(self) -> str:
        return f"{self.path.relative_to(CHECKOUT)}:{self.line}"


def blocks(path: Path) -> Iterator[Block]:
    lines = path.read_text(encoding="utf-8").splitlines()
    opened: int | None = None
    for number, line in enumerate(lines):
        if not line.startswith("```"):
            continue
        if opened is None:
            opened = number
            continue
        info = tuple(lines[opened].removeprefix("```").split())
        yield Block(path=path, line=opened + 1, info=info, text="\n".join(lines[opened + 1 : number]) + "\n")
        opened = None
    assert opened is None, f"{path}: the block of line {(opened or 0) + 1} is not ended"


BLOCKS = [block for path in PAPERS for block in blocks(path)]
YAML = [block for block in BLOCKS if block.info[:1] == ("yaml",)]
PYTHON = [block for block in BLOCKS if block.info[:1] == ("python",)]


def test_the_papers_are_there() -> None:
    names = {path.relative_to(CHECKOUT).as_posix() for path in PAPERS}
    assert {"README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "docs/reference.md"} <= names
    assert len(YAML) > 50 and len(PYTHON) >= 2


def test_every_block_says_what_it_is() -> None:
    known = {"yaml", "console", "sh", "text", "python", "json", "diff", "dotenv"}
    assert [str(block) for block in BLOCKS if not block.info or block.info[0] not in known] == []


# -- the reference -----------------------------------------------------------------------------------------------


def test_the_reference_is_fresh() -> None:
    assert reference.FILE.read_text(encoding="utf-8") == reference.text(), "run `make reference`"


def test_the_table_of_system_calls_is_fresh() -> None:
    assert seccomp.FILE.read_text(encoding="utf-8") == seccomp.text(), "run `make reference`"


def test_the_rules_are_fresh() -> None:
    assert rules.FILE.read_text(encoding="utf-8") == rules.page(), "run `make reference`"


def test_the_controls_are_fresh() -> None:
    assert controls.FILE.read_text(encoding="utf-8") == controls.text(), "run `make reference`"


def test_the_reference_has_every_option_command_and_exit_code() -> None:
    text = reference.FILE.read_text(encoding="utf-8")
    assert [row.key for row in ROWS if row.settable and f"\n#### `{row.key}`\n" not in text] == []
    assert [name for name in COMMANDS if f"\n#### `sandboxrun {name}`\n" not in text] == []
    assert [code for code in TABLE if f"\n| {code} |" not in text] == []
    assert [key for key in NOT_OFFERED if f"\n| `{key}` |" not in text] == []
    objects = [row.key for type_ in reference.OBJECTS.values() for row in rows(type_.cls)]
    assert [key for key in objects if f"\n| `{key}` |" not in text] == []


# -- profiles ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", YAML, ids=str)
def test_yaml(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    kind = " ".join(block.info[1:])
    assert kind in ("", "sandbox", "fragment")
    if kind == "fragment":
        assert yaml.safe_load(block.text) is not None
        return
    text = block.text if kind == "" else as_profile(block.text)
    Path("agent.env").write_text("A=1\n")
    Path("sandbox.yaml").write_text(text)
    assert load([Path("sandbox.yaml")]).sandboxes is not None


def as_profile(text: str) -> str:
    """Options of one sandbox as a whole profile, with all that they name declared beside it."""
    options = yaml.safe_load(text)
    if "dns" in options:
        options["networks"] = {"default": None}  # with a gateway it asks no name server
    named = {kind: _names(options.get(kind, ())) for kind in ("secrets", "configs")}
    volumes = [v.split(":")[0] for v in options.get("volumes", ()) if isinstance(v, str) and v[0] not in "./"]
    profile = {
        "variables": {"ref": {"type": "string", "default": "main"}},
        "sandboxes": {"agent": options, **{name: {} for name in options.get("depends_on", ())}},
        "secrets": {name: {"environment": "A"} for name in named["secrets"]},
        "configs": {name: {"content": "a"} for name in named["configs"]},
        "networks": {name: {} for name in options.get("networks", ())},
        "volumes": {name: {} for name in volumes},
    }
    return yaml.safe_dump(profile, sort_keys=False)


def _names(refs: list[object]) -> list[str]:
    return [str(ref["source"]) if isinstance(ref, dict) else str(ref) for ref in refs]


# -- command lines -----------------------------------------------------------------------------------------------


def command_lines() -> Iterator[tuple[str, list[str]]]:
    """Every call of sandboxrun in a console or sh block, and in backticks."""
    for block in BLOCKS:
        if block.info[0] not in ("console", "sh"):
            continue
        joined = re.sub(r"\\\n\s*", "", block.text)
        for line in joined.splitlines():
            line = line.removeprefix("$ ") if line.startswith("$ ") else "" if block.info[0] == "console" else line
            if (words := words_of(line)) is not None:
                yield f"{block}: {line}", words
    for path in PAPERS:
        outside = re.sub(r"(?ms)^```.*?^```$", "", path.read_text(encoding="utf-8"))
        for found in re.findall(r"`(sandboxrun [^`]+)`", outside):
            if (words := words_of(found)) is not None:
                yield f"{path.relative_to(CHECKOUT)}: {found}", words


def words_of(line: str) -> list[str] | None:
    """The words after `sandboxrun`; None for a line that does not call it."""
    words = shlex.split(line, comments=True)
    while words and re.fullmatch(r"[A-Z_a-z]+=.*", words[0]):  # variables set for one command
        words = words[1:]
    if words[:1] != ["sandboxrun"]:
        return None
    ends = [number for number, word in enumerate(words) if word.startswith((">", "2>")) or word in ("|", "&&", ";")]
    return words[1 : min(ends, default=len(words))]


LINES = list(command_lines())


def test_command_lines_are_found() -> None:
    assert len(LINES) > 20


@pytest.mark.parametrize(("where", "words"), LINES, ids=[where for where, _ in LINES])
def test_command_line_is_understood(where: str, words: list[str]) -> None:
    group = root()
    if words[0].startswith("-"):
        assert words[0] in ("--help", "--version", "-h")
        return
    name, *rest = words
    above = click.Context(group, info_name="sandboxrun")
    command = group.get_command(above, name)
    assert command is not None, f"there is no command {name}"
    named = [word.replace("…", "x") for word in rest]
    bare = not rest and (
        isinstance(command, click.Group) or any(isinstance(p, click.Argument) and p.required for p in command.params)
    )
    if not bare:  # a mention of the command, such as `sandboxrun exec`, is fine without its arguments
        command.make_context(name, named, parent=above, resilient_parsing=False)


# -- links -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PAPERS, ids=lambda path: path.relative_to(CHECKOUT).as_posix())
def test_links_lead_somewhere(path: Path) -> None:
    text = re.sub(r"(?ms)^```.*?^```$", "", path.read_text(encoding="utf-8"))
    text = re.sub(r"`[^`\n]*`", "", text)
    lost = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http://", "https://")):
            continue
        file, _, anchor = target.partition("#")
        there = path if not file else path.parent / file
        if not there.exists() or (anchor and anchor not in anchors(there)):
            lost.append(target)
    assert lost == []


def anchors(path: Path) -> set[str]:
    text = re.sub(r"(?ms)^```.*?^```$", "", path.read_text(encoding="utf-8"))
    return {reference.anchor(title.strip()) for title in re.findall(r"(?m)^#+ (.+)$", text)}


@pytest.mark.parametrize("path", PAPERS, ids=lambda path: path.relative_to(CHECKOUT).as_posix())
def test_no_paper_names_a_place_that_is_not_everybodys(path: Path) -> None:
    """Hosts are documentation's own; no folder of one machine."""
    text = path.read_text(encoding="utf-8")
    hosts = re.findall(r"https?://([A-Za-z0-9.-]+)", text)
    assert [host for host in hosts if not re.search(r"(^|\.)example\.(com|org)$", host)] == []
    assert re.findall(r"(?:^|[\s`\"'(])(/(?:home|root|Users|work)/\S*)", text) == []


# -- Python ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_python_is_python_and_imports_what_there_is(block: Block) -> None:
    tree = ast.parse(block.text) if not block.text.startswith(" ") else ast.parse(f"class Options:\n{block.text}")
    assert tree.body
    for module, names in re.findall(r"(?m)^\s*from (sandboxrun\S*) import (.+)$", block.text):
        found = __import__(module, fromlist=["x"])
        assert [name for name in names.split(", ") if not hasattr(found, name)] == []


def test_python_passes_a_type_checker(tmp_path: Path) -> None:
    """Strictly, by the checkout's settings: what a user copies is checked like that at once."""
    paths = []
    for number, block in enumerate(block for block in PYTHON if "from sandboxrun import" in block.text):
        paths.append(tmp_path / f"block{number}.py")
        paths[-1].write_text(f"# {block}\n{block.text}", encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--no-error-summary", *map(str, paths)]
    ran = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert len(paths) > 4 and (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


# -- what the papers say of the program --------------------------------------------------------------------------


def test_the_engines_paper_has_the_order_in_which_settings_count() -> None:
    """By trying: each setting in turn decides once those before it are gone."""
    text = (CHECKOUT / "docs" / "engines.md").read_text(encoding="utf-8")
    told = re.findall(r"(?m)^\d\. `?(--host|[A-Z_]+)`?", text)
    env = {"DOCKER_SOCKET": "/a.sock", "DOCKER_HOST": "unix:///b.sock"}
    assert told[:3] == ["--host", "DOCKER_SOCKET", "DOCKER_HOST"]
    assert resolve("unix:///c.sock", env).url == "unix:///c.sock"
    assert resolve(None, env).url == "unix:///a.sock"
    del env["DOCKER_SOCKET"]
    assert resolve(None, env).url == "unix:///b.sock"


# Set by sandboxrun itself, in what it starts.
OWN_VARIABLES = {
    "SANDBOXRUN_EXEC": "marks the processes of an exec in Python, to end them",
    "SANDBOXRUN_PROBE": "marks the weak sandbox of a verify",
    "SANDBOXRUN_API_SECRET_": "what the Python API's secrets are called within",
    "_SANDBOXRUN_COMPLETE": "set by the completion scripts",
}


def test_every_variable_that_a_caller_may_set_is_documented() -> None:
    texts = [
        path.read_text(encoding="utf-8") for end in ("py", "c") for path in CHECKOUT.glob(f"sandboxrun/**/*.{end}")
    ]
    read = {name for text in texts for name in re.findall(r"\b_?SANDBOXRUN_[A-Z_]+", text)}
    papers = "\n".join(path.read_text(encoding="utf-8") for path in CHECKOUT.glob("docs/*.md"))
    told = set(re.findall(r"\b_?SANDBOXRUN_[A-Z_]+", papers))
    assert len(read) > 5 and read - told == OWN_VARIABLES.keys()


def paper(name: str) -> str:
    return (CHECKOUT / "docs" / name).read_text(encoding="utf-8")


def test_the_exit_codes_are_those_of_the_program() -> None:
    told = re.findall(r"(?m)^\| (\d+|other) \| (.+) \|$", paper("plan-and-apply.md"))
    assert dict(told) == dict(TABLE)


def test_the_profiles_paper_names_every_filter_and_method() -> None:
    [filters] = re.findall(r"(?m)^\| many filters \| (.+) \|$", paper("profile.md"))
    named = set(re.findall(r"\w+", filters))
    assert named == set(FILTERS)
    [methods] = re.findall(r"(?m)^\| any method \| of texts: (.+); of mappings: (.+) \|$", paper("profile.md"))
    assert [set(part.split(", ")) for part in methods] == [set(TEXT_METHODS), set(MAP_METHODS)]


def test_the_profiles_paper_says_how_options_combine() -> None:
    """A rule's options are listed in full, but those of `replace`, and of `map` where it ends with an ellipsis."""
    table = dict(re.findall(r"(?m)^\| (append|map|target) \| (.+?) \|", paper("profile.md")))
    for rule, options in table.items():
        listed = set(re.findall(r"`(\w+)`", options))
        really = {row.key for row in ROWS if row.merge == rule}
        assert listed <= really if "…" in options else listed == really


def test_the_shipped_bases_are_named() -> None:
    assert [name for name in bases() if f"`{name}`" not in paper("profile.md")] == []


def test_the_python_paper_has_every_setting() -> None:
    told = set(re.findall(r"(?m)^\| `([A-Z_]+)` \|", paper("python-api.md")))
    assert told == {"DOCKER_SOCKET", "DOCKER_HOST", *_VARIABLES}


def test_what_the_security_paper_points_at_is_there() -> None:
    text = (CHECKOUT / "SECURITY.md").read_text(encoding="utf-8")
    rooms = "tests|profiles|api|backend|cli|evidence|gateway|lifecycle|plan|probe|profile|report|spec"
    named = re.findall(rf"`((?:{rooms})/[^`]*)`", text)
    assert len(named) > 20
    roots = (CHECKOUT, CHECKOUT / "sandboxrun")
    assert [name for name in named if not any((root / name).exists() for root in roots)] == []


def test_the_contributing_paper_has_every_target_and_room() -> None:
    text = (CHECKOUT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    targets = re.findall(r"(?m)^([a-z-]+):.*## ", (CHECKOUT / "Makefile").read_text(encoding="utf-8"))
    assert [name for name in targets if f"make {name}" not in text] == []
    rooms = [path.name for path in (CHECKOUT / "sandboxrun").iterdir() if (path / "__init__.py").exists()]
    assert [room for room in rooms if f"`{room}/`" not in text] == []
