"""The commands that need no engine: init, validate, render, schema, explain, completion."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from sandboxrun.cli.commands import explain as explaining
from sandboxrun.errors import Problems, node_of
from sandboxrun.profile.render import schema_text
from sandboxrun.spec.spec import ROWS, SpecType

from .conftest import Say

GOOD = "name: demo\nsandboxes:\n  a: {image: example}\n  b: {for_each: [x, y], image: example}\n"
BAD = "name: demo\nsandboxes:\n  a:\n    mem_limt: 5m\n    pids_limit: many\n"
BAD_TEXT = """\
sandbox.yaml:4:5: error: unknown key "mem_limt" in a sandbox
  4 |     mem_limt: 5m
    |     ^^^^^^^^
  help: did you mean "mem_limit"?
"""


def write(here: Path, text: str, name: str = "sandbox.yaml") -> None:
    (here / name).write_text(text)


WARNED = "name: demo\nsandboxes:\n  a: {image: example, command: [echo, '${NAME:-x}']}\n"
WARNING = """\
sandbox.yaml:3:40: warning: nothing is filled in from "${NAME:-x}": no shell reads this command
  3 |   a: {image: example, command: [echo, '${NAME:-x}']}
    |                                        ^^^^^^^^^^
  help: declare a variable, variables: {name: {type: string, default: x}}, and write {{ name }}, or run it by a shell: \
[sh, -c, …]
"""


# -- init


def test_init_writes_a_profile_that_is_valid_and_its_schema(say: Say, here: Path) -> None:
    said = say("init")
    assert (said.code, said.out, said.err) == (
        0,
        "created sandbox.yaml\n",
        "next: `sandboxrun plan` shows what would be created, `sandboxrun run` runs it\n",
    )
    text = (here / "sandbox.yaml").read_text()
    assert text.startswith("# yaml-language-server: $schema=.sandboxrun/sandbox.schema.json\n")
    assert "\nname: demo\n" in text
    assert (here / ".sandboxrun" / "sandbox.schema.json").read_text() == schema_text()
    assert (here / ".sandboxrun" / ".gitignore").read_text() == "*\n"
    assert say("validate").out == "sandbox.yaml: valid, 1 sandbox\n"


def test_what_comes_next_names_a_file_of_another_name(say: Say, here: Path) -> None:
    """Without it, plan would take another profile, or none."""
    (here / "two words").mkdir()
    assert say("init", "two words/a.yaml").err == (
        "next: `sandboxrun plan -f 'two words/a.yaml'` shows what would be created, "
        "`sandboxrun run -f 'two words/a.yaml'` runs it\n"
    )
    assert "\t" not in say("completion").err


def test_init_overwrites_nothing(say: Say, here: Path) -> None:
    write(here, "mine", "sandbox.yml")
    said = say("init")
    assert (said.code, said.out, said.err) == (
        2,
        "",
        "error: sandbox.yml exists\n  help: nothing was written; edit that one\n",
    )
    assert [p.name for p in here.iterdir()] == ["sandbox.yml"]
    assert say("init", "other.yaml", "-q").err == ""
    assert say("init", "other.yaml").err == "error: other.yaml exists\n  help: nothing was written; name another file\n"


def test_init_takes_an_image_and_refuses_what_is_none(say: Say, here: Path) -> None:
    assert say("init", "--image", "example/agent:1").code == 0
    assert "\n    image: example/agent:1\n" in (here / "sandbox.yaml").read_text()
    said = say("init", "b.yaml", "--image", "a b: c")
    assert said.code == 2 and said.err.startswith("error: --image: expected an image reference")


def test_init_reports_what_is_in_the_place_of_its_schema(say: Say, here: Path) -> None:
    (here / ".sandboxrun" / "sandbox.schema.json").mkdir(parents=True)
    said = say("init", "-q")
    assert (said.code, said.err) == (
        1,
        "error: .sandboxrun/sandbox.schema.json cannot be written: is a directory\n"
        "  help: remove what is in its place\n",
    )


def test_init_follows_no_link_out_of_the_project(say: Say, here: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (here / ".sandboxrun").symlink_to(tmp_path / "elsewhere")
    assert say("init").code == 1
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.parametrize(
    ("folder", "name"), [("Demo Project", "demo-project"), ("-", "sandbox"), ("x" * 80, "x" * 63), ("Ünï", "n")]
)
def test_a_projects_name_is_made_of_its_folders(folder: str, name: str) -> None:
    from sandboxrun.cli.commands.init import project_name

    assert project_name(Path("/somewhere") / folder) == name


# -- validate


def test_validate_says_one_line_a_file(say: Say, here: Path) -> None:
    write(here, GOOD)
    write(here, "sandboxes: {a: {cpus: 2}}", "more.yaml")
    assert say("validate").out == "sandbox.yaml: valid, 3 sandboxes\n"
    assert say("validate", "-v").out == 'sandbox.yaml: valid, 3 sandboxes: a, b["x"], b["y"]\n'
    assert say("validate", "-q").out == ""
    both = say("validate", "-f", "sandbox.yaml", "-f", "more.yaml")
    assert both.out == "sandbox.yaml: valid, merged into more.yaml\nmore.yaml: valid, 3 sandboxes\n"


def test_validate_tells_all_faults_with_their_places(say: Say, here: Path) -> None:
    write(here, BAD)
    said = say("validate")
    assert (said.code, said.out) == (1, "")
    assert said.err.startswith(BAD_TEXT) and "sandbox.yaml:5:17: error: expected" in said.err


def test_validate_for_programs(say: Say, here: Path) -> None:
    write(here, BAD)
    said = say("validate", "--json")
    told = json.loads(said.out)
    assert (said.code, said.err, told["valid"], told["error_count"]) == (1, "", False, 2)
    assert told["diagnostics"][0]["range"] == {
        "filename": "sandbox.yaml",
        "start": {"line": 4, "column": 5},
        "end": {"line": 4, "column": 13},
    }
    write(here, GOOD)
    good = json.loads(say("validate", "--json").out)
    assert good.keys() == told.keys()
    assert (good["valid"], good["sandboxes"], good["diagnostics"]) == (True, ["a", 'b["x"]', 'b["y"]'], [])


def test_validate_as_annotations(say: Say, here: Path) -> None:
    write(here, BAD)
    said = say("validate", "--format", "github")
    assert said.code == 1
    assert said.out.startswith(
        "::error title=sandboxrun,file=sandbox.yaml,line=4,col=5,endColumn=13"
        '::unknown key "mem_limt" in a sandbox%0Adid you mean "mem_limit"?\n'
    )
    write(here, GOOD)
    assert say("validate", "--format", "github").out == ""


def test_validate_imports_only_what_it_needs(here: Path) -> None:
    write(here, GOOD)
    code = (
        "import sys; from sandboxrun.cli.main import main; main(['validate']); "
        "print([m for m in ('docker', 'jinja2', 'requests', 'rich', 'ssl', 'subprocess') if m in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "sandbox.yaml: valid, 3 sandboxes\n[]\n"


def test_values_are_part_of_the_verdict(say: Say, here: Path) -> None:
    write(here, "name: demo\nvariables: {n: {type: integer}}\nsandboxes: {a: {pids_limit: '{{ n }}'}}\n")
    assert say("validate", "--var", "n=10").code == 0
    assert say("validate", "--var", "n=-5").code == 1
    assert say("validate").err.startswith('sandbox.yaml:2:13: error: the variable "n" has no value')


def test_paths_outside_need_a_word(say: Say, here: Path) -> None:
    write(here, "name: demo\nsandboxes: {a: {image: example, volumes: ['../x:/x:ro']}}\n")
    assert say("validate").code == 1
    assert say("validate", "--allow-outside").code == 0
    assert say("validate").code == 1


# -- render


def test_render_says_where_each_value_came_from(say: Say, here: Path) -> None:
    write(here, "name: demo\nsandboxes:\n  a:\n    image: example\n    mem_limit: 64m\n    network_mode: none\n")
    said = say("render")
    origins = {line.split(":")[0].strip(): line.split("#")[-1].strip() for line in said.out.splitlines()[3:]}
    assert origins == {
        "image": "sandbox.yaml:4",
        "mem_limit": "sandbox.yaml:5",
        "memswap_limit": "implied by mem_limit",
        "network_mode": "sandbox.yaml:6",
        "egress": "implied by network_mode",
    }
    assert "# default" not in said.out
    assert "# default" in say("render", "--defaults").out
    assert json.loads(say("render", "--json").out)["sandboxes"]["a"]["mem_limit"] == "64m"
    assert say("render", "--format", "json").out == say("render", "--json").out


def test_render_masks(say: Say, here: Path) -> None:
    write(
        here,
        "name: demo\nvariables: {t: {type: string, sensitive: true}}\n"
        "sandboxes: {a: {image: example, command: [run, '{{ t }}']}}\n",
    )
    said = say("render", "--var", "t=hunter2hunter2")
    assert said.code == 0 and "hunter2" not in said.out + said.err and "(sensitive value)" in said.out


# -- schema


def test_schema(say: Say) -> None:
    assert say("schema").out == schema_text()
    for option in ("--evidence", "--plan"):
        assert json.loads(say("schema", option).out)["$schema"].startswith("https://json-schema.org/")


# -- explain


def test_explain_an_option(say: Say) -> None:
    said = say("explain", "mem_limit")
    assert (said.code, said.err) == (0, "")
    assert (
        said.out
        == """\
mem_limit
  Memory, a hard limit: beyond it the sandbox is killed and reported as OOM. 0 is unlimited.

  type       a size, such as 512m or 1.5g, or a number of bytes
  default    512m
  engine     HostConfig.Memory
  a change   updated in place; removing it replaces the sandbox
  the image  cannot override this
  extends    the later value replaces it

  example:
    mem_limit: 512m
"""
    )


def test_explain_an_option_inside_another(say: Say) -> None:
    said = say("explain", "workspace.access")
    text = "copy: works on a copy, changes come back as a patch; rw, ro: the directory itself, of which rw keeps "
    assert (
        said.out
        == f"""\
workspace.access
  {text}read-only what the host runs.

  type       one of copy, rw, ro
  default    copy
  engine     HostConfig.Mounts
  a change   the sandbox is replaced
  the image  cannot override this
  extends    as part of workspace: merged entry by entry

  example:
    workspace:
      access: copy
"""
    )


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("memlimit", 'error: there is no option "memlimit"\n  help: did you mean "mem_limit"?\n'),
        ("qqqq", 'error: there is no option "qqqq"\n  help: `sandboxrun explain` lists them\n'),
        ("workspace.acess", 'error: there is no option "workspace.acess"\n  help: did you mean "workspace.access"?\n'),
        (
            "workspace.qq",
            'error: there is no option "workspace.qq"\n'
            "  help: there are: workspace.source, workspace.target, workspace.access, workspace.exclude, "
            "workspace.size, workspace.writable\n",
        ),
        ("mem_limit.x", 'error: there is no option "mem_limit.x"\n  help: `sandboxrun explain` lists them\n'),
        (
            "build",
            'error: "build" is not offered\n'
            "  help: build and push the image in an earlier step, then name it by digest in image:\n",
        ),
    ],
)
def test_explain_what_is_not_there(say: Say, option: str, text: str) -> None:
    said = say("explain", option)
    assert (said.code, said.out, said.err) == (2, "", text)


def test_explain_lists_every_option(say: Say) -> None:
    listed = [line.split()[0] for line in say("explain").out.splitlines()]
    assert listed == [*("extends", "for_each", "when", "env_file"), *(row.key for row in ROWS if row.settable)]
    assert list(json.loads(say("explain", "--json").out)) == listed


@pytest.mark.parametrize("option", [name for name, _ in explaining.options()])
def test_every_option_can_be_explained(say: Say, here: Path, option: str) -> None:
    said = say("explain", option)
    assert said.code == 0 and said.out.startswith(f"{option}\n  ")
    told = json.loads(say("explain", option, "--json").out)
    assert told["option"] == option and told["schema"]["description"] == told["description"]
    for row in explaining.explained(option).keys:
        inner = say("explain", f"{option}.{row.key}")
        assert inner.code == 0 and inner.out.startswith(f"{option}.{row.key}\n  {row.description}\n")


@pytest.mark.parametrize("option", [row.key for row in ROWS if row.settable])
def test_the_example_of_every_option_is_what_a_profile_takes(option: str) -> None:
    explained = explaining.explained(option)
    for one in [explained, *(explaining.explained(f"{option}.{row.key}") for row in explained.keys)]:
        text = explaining.example_text(one.example)
        problems = Problems()
        # the example of one key may lack others that must be given
        if "." not in one.name or one.example[option] == explained.example[option]:
            beside = {"networks": ["default"]} if option == "dns" else {}  # with a gateway it asks nobody
            SpecType.parse(node_of({**yaml.safe_load(text), **beside}), problems)
        assert problems.diagnostics == (), text
        assert yaml.safe_load(text).keys() == {option}


# -- completion


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(say: Say, shell: str) -> None:
    said = say("completion", shell)
    assert said.code == 0 and "_SANDBOXRUN_COMPLETE" in said.out


def test_completion_knows_commands_and_options(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def complete(words: str, at: int) -> list[str]:
        import os

        asked = {"_SANDBOXRUN_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(at)}
        ran = subprocess.run(
            [sys.executable, "-m", "sandboxrun"], env={**os.environ, **asked}, capture_output=True, text=True
        )
        return [line.split(",")[1] for line in ran.stdout.splitlines()]

    assert complete("sandboxrun de", 1) == ["destroy"]
    assert complete("sandboxrun plan --re", 2) == ["--replace", "--rerun", "--refresh-only"]
    assert complete("sandboxrun --v", 1) == ["--version"]


# -- warnings


def test_a_warning_is_shown_each_time_in_each_form_and_is_no_fault(say: Say, here: Path) -> None:
    write(here, WARNED)
    for _ in range(2):  # a verdict that is remembered would be silent
        said = say("validate")
        assert (said.code, said.out, said.err) == (0, "sandbox.yaml: valid, 1 sandbox\n", WARNING)
    told = json.loads(say("validate", "--json").out)
    assert (told["valid"], told["error_count"], told["warning_count"], told["sandboxes"]) == (True, 0, 1, ["a"])
    assert [one["severity"] for one in told["diagnostics"]] == ["warning"]
    assert say("validate", "--format", "github").out.startswith("::warning title=sandboxrun,file=sandbox.yaml,line=3,")
    assert say("render").err == WARNING


def test_warnings_stand_beside_errors(say: Say, here: Path) -> None:
    write(here, WARNED.replace("image: example", "image: $X"))
    told = json.loads(say("validate", "--json").out)
    assert (told["valid"], told["error_count"], told["warning_count"]) == (False, 2, 1)
