"""The entry point: what is imported, how errors are told, and the exit codes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from sandboxrun import __version__
from sandboxrun.cli import main as group
from sandboxrun.cli import options as project
from sandboxrun.cli.main import COMMANDS, OPTIONS_ELSEWHERE, root
from sandboxrun.errors import ExitCode

from .conftest import Say


def test_version(say: Say) -> None:
    said = say("--version")
    assert (said.code, said.out, said.err) == (0, f"sandboxrun {__version__}\n", "")


def test_help_names_every_command_and_no_arguments_are_a_call_for_help(say: Say) -> None:
    said = say("--help")
    assert said.code == 0
    assert all(f"\n  {name} " in said.out and entry.help.split(",")[0] in said.out for name, entry in COMMANDS.items())
    assert say().out == said.out


@pytest.mark.parametrize("option", ["--version", "--help"])
def test_the_short_answers_import_none_of_what_is_heavy(option: str) -> None:
    """By the modules that are loaded rather than by the clock."""
    code = (
        "import sys; from sandboxrun.cli.main import main; main(sys.argv[1:]); "
        "print([m for m in sys.modules if m.split('.')[0] in "
        "('attr', 'attrs', 'yaml', 'jinja2', 'jsonschema_rs', 'docker', 'rich', 'json', 'subprocess')], "
        "[m for m in sys.modules if m.startswith('sandboxrun.') and not m.startswith('sandboxrun.cli')])"
    )
    # A process whose coverage is measured imports what coverage needs.
    env = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    ran = subprocess.run([sys.executable, "-c", code, option], env=env, capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == "[] []"


@pytest.mark.parametrize("group", ["evidence", "gateway"])
def test_a_group_without_a_command_prints_its_help(group: str) -> None:
    bare, asked = CliRunner().invoke(root(), [group]), CliRunner().invoke(root(), [group, "--help"])
    assert (bare.exit_code, bare.output) == (0, asked.output) and "Commands:" in bare.output


def test_every_command_can_be_imported_and_has_help() -> None:
    group = root()
    context = click.Context(group, info_name="sandboxrun")
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None and command.name == name and command.help, name
        described = [p.help for p in command.params if isinstance(p, click.Option)]
        assert all(described), name
        ran = CliRunner().invoke(group, [name, "--help"])
        assert ran.exit_code == 0 and ran.output.startswith(f"Usage: sandboxrun {name}"), name


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["valdate"], 2, 'error: there is no command "valdate"\n  help: did you mean "validate"?\n'),
        (["frob"], 2, 'error: there is no command "frob"\n  help: `sandboxrun --help` lists the commands\n'),
        (["ls"], 2, 'error: there is no command "ls"\n  help: use `sandboxrun ps`\n'),
        (["down", "-v"], 2, 'error: there is no command "down"\n  help: use `sandboxrun destroy`\n'),
        (["taint", "a"], 2, 'error: there is no command "taint"\n  help: use `sandboxrun apply --replace SANDBOX`\n'),
        (["apply", "--check"], 2, "error: no such option --check\n  help: use `sandboxrun plan`\n"),
        (["run", "--name", "x", "a"], 125,
         "error: no such option --name\n  help: leave it out: containers are named after project and sandbox\n"),
        (["run", "-w", "/x", "a"], 125, "error: no such option -w\n  help: set working_dir: in the profile\n"),
        (["run", "--gpus", "all", "a"], 125, "error: no such option --gpus\n  help: set gpus: in the profile\n"),
        (["apply", "--cap-add", "KILL"], 2, "error: no such option --cap-add\n  help: set cap_add: in the profile\n"),
        (["apply", "-w"], 2, "error: no such option -w\n  help: see `sandboxrun apply --help`\n"),
        (["verify", "--all"], 2, f"error: no such option --all\n  help: {OPTIONS_ELSEWHERE['--all']}\n"),
        (["apply", "--auto-approve"], 2, "error: no such option --auto-approve\n  help: use -y (--yes)\n"),
        (["plan", "--force"], 2, "error: no such option --force\n  help: leave it out: plan does not ask\n"),
        (["run", "--rerun", "a"], 125, "error: no such option --rerun\n  help: leave it out: run always runs again\n"),
        (["plan", "--yes"], 2, "error: no such option --yes\n  help: leave it out: plan does not ask\n"),
        (["apply", "-auto-approve"], 2, "error: no such option -a\n  help: use -y (--yes)\n"),
        (["run", "-it", "a"], 125, "error: no such option -t\n  help: leave it out: -i passes the terminal\n"),
        (["apply", "-t", "a"], 2, "error: no such option -t\n  help: see `sandboxrun apply --help`\n"),
        (["apply", "--force-recreate"], 2, "error: no such option --force-recreate\n  help: use --replace SANDBOX\n"),
        (["run", "--detach"], 125, f"error: no such option --detach\n  help: {OPTIONS_ELSEWHERE['--detach']}\n"),
        (["plan", "-target=a"], 2, "error: no such option -t\n  help: write --target: a long option has two dashes\n"),
        (["plan", "-var-file=a"], 2,
         "error: no such option -a\n  help: write --var-file: a long option has two dashes\n"),
        (["plan", "-var", "a=b"], 2, "error: no such option -a\n  help: write --var: a long option has two dashes\n"),
        (["-f", "a.yaml", "plan"], 2,
         "error: no such option -f\n  help: write it after the command: sandboxrun plan -f\n"),
        (["-f", "a.yaml", "explain"], 2, "error: no such option -f\n  help: see `sandboxrun --help`\n"),
        (["destroy", "a"], 2, "error: got unexpected extra argument (a)\n  help: name a sandbox with --target NAME\n"),
        *(([command, "sandbox.yaml"], 2,
           "error: got unexpected extra argument (sandbox.yaml)\n  help: write --file sandbox.yaml\n")
          for command in ("plan", "destroy", "validate", "render")),
        (["run", "ls", "-la"], 125,
         "error: no such option -l\n  help: for a command write: sandboxrun run -- ls -la\n"),
        (["run", "node", "--version"], 125,
         "error: no such option --version\n"
         '  help: did you mean "--verify"? Or for a command write: sandboxrun run -- node --version\n'),
        (["run", "--verfy", "a"], 125, 'error: no such option --verfy\n  help: did you mean "--verify"?\n'),
        (["apply", "sandbox.yaml"], 2,
         "error: sandbox.yaml is a profile, not a saved plan\n  help: write --file sandbox.yaml\n"),
        (["reap", "--job"], 2, "error: option '--job' requires an argument\n  help: see `sandboxrun reap --help`\n"),
        (["evidence", "lst"], 2,
         "error: there is no command \"evidence lst\"\n  help: `sandboxrun evidence --help` lists the commands\n"),
        (["gateway", "biuld"], 2, 'error: there is no command "gateway biuld"\n  help: did you mean "build"?\n'),
        *((["validate", "--file", stream], 2,
           f"error: a profile can't be read from a stream: {stream}\n"
           "  help: write it to a file in the project's directory: relative paths start there\n")
          for stream in ("-", "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0")),
        (["--bog"], 2, "error: no such option --bog\n  help: see `sandboxrun --help`\n"),
        (["plan", "--tarrget", "a"], 2, 'error: no such option --tarrget\n  help: did you mean "--target"?\n'),
        (
            ["plan", "--parallelism", "0"],
            2,
            "error: invalid value for '--parallelism': 0 is not in the range 1<=x<=64\n"
            "  help: see `sandboxrun plan --help`\n",
        ),
        (["schema", "b"], 2, "error: got unexpected extra argument (b)\n  help: see `sandboxrun schema --help`\n"),
        (
            ["wait", "--timeout", "5x"],
            125,
            "error: invalid value for '--timeout': \"5x\" is not a duration, such as 90s, 30m or 1h30m\n"
            "  help: see `sandboxrun wait --help`\n",
        ),
        (["plan", "--json", "--format", "text"], 2, "error: --json and --format text exclude each other\n"),
        (
            ["apply", "--json"],
            2,
            "error: --json cannot ask for confirmation\n  help: review the plan first, then pass --yes as well\n",
        ),
        (["verify", "--json", "--format", "markdown"], 2, "error: --json and --format markdown exclude each other\n"),
        (["apply", "--wait-timeout", "3"], 2, "error: --wait-timeout requires --wait\n"),
        (
            ["apply", "--refresh-only", "--rerun"],
            2,
            "error: --refresh-only changes nothing: "
            "it cannot be combined with --replace, --rerun, --wait or --verify\n",
        ),
        (
            ["logs", "-f", "other.yaml"],
            2,
            'error: there is no sandbox "other.yaml"\n  help: here -f means follow: write --file other.yaml\n',
        ),
        (["run", "--"], 125, "error: there is no command after --\n"),
        (
            ["run", "--base", "offlin", "--", "ls"],
            125,
            'error: there is no base "offlin"\n  help: did you mean "offline"?\n',
        ),
        (
            ["run", "--base", "offline"],
            125,
            "error: --base needs a command\n  help: sandboxrun run --base default -- COMMAND\n",
        ),
        (
            ["exec", "agent"],
            125,
            "error: there is no command to run\n  help: write it after the name: sandboxrun exec agent -- ls\n",
        ),
        (["schema", "--evidence", "--plan"], 2,
         "error: --evidence and --plan exclude each other\n  help: see `sandboxrun schema --help`\n"),
    ],
)  # fmt: skip
def test_a_wrong_command_line(say: Say, arguments: list[str], code: int, text: str) -> None:
    said = say(*arguments)
    assert (said.code, said.out, said.err) == (code, "", text)


@pytest.mark.parametrize("command", ["validate", "render", "plan", "apply", "ps", "logs", "verify"])
def test_without_a_profile(say: Say, here: Path, command: str) -> None:
    said = say(command)
    assert (said.code, said.out, said.err) == (
        2,
        "",
        f"error: there is no profile here: neither sandbox.yaml nor sandbox.yml is in {here}\n"
        "  help: create one with `sandboxrun init`, or pass one with --file\n",
    )


@pytest.mark.parametrize("command", ["destroy", "reap"])
def test_what_does_without_a_profile_says_how(say: Say, here: Path, command: str) -> None:
    """Somebody cleans up in a hurry, and the profile is elsewhere or does not load."""
    missing = f"error: there is no profile here: neither sandbox.yaml nor sandbox.yml is in {here}\n"
    missing += "  help: name the project with --project NAME, or pass its profile with --file\n"
    said = say(command)
    assert (said.code, said.out, said.err) == (2, "", missing)
    (here / "sandbox.yaml").write_text("name: demo\nsandboxes: {agent: {mem: 1g}}\n")
    said = say(command)
    assert said.code == 1 and '"mem" is not offered' in said.err
    assert said.err.endswith("\nnotice: with --project NAME the profile is not needed\n")
    assert "--project" not in say("plan").err


@pytest.mark.parametrize("more", [[], ["-f", "sandbox.yaml"]])
def test_a_sandbox_where_a_saved_plan_is_expected(say: Say, here: Path, more: list[str]) -> None:
    (here / "sandbox.yaml").write_text("name: demo\nsandboxes: {agent: {}}\n")
    assert "for one sandbox write: --target agent" in say("apply", "agent", *more).err
    assert "--target" not in say("apply", "agents.plan").err


@pytest.mark.parametrize("command", ["run", "wait"])
@pytest.mark.parametrize("without", ["when: false", "for_each: []"])
def test_a_sandbox_that_is_left_out(say: Say, here: Path, command: str, without: str) -> None:
    """It is in the file, so it is not said to be missing."""
    (here / "sandbox.yaml").write_text(f"name: demo\nsandboxes:\n  agent: {{{without}}}\n  other: {{}}\n")
    said = say(command, "agent")
    assert (said.code, said.err) == (
        125,
        'error: sandbox "agent" is left out by its when or its for_each\n'
        "  help: check the variables that they depend on\n",
    )


def test_two_default_profiles_are_one_too_many(say: Say, here: Path) -> None:
    (here / "sandbox.yaml").touch()
    (here / "sandbox.yml").touch()
    said = say("plan")
    assert said.err == (
        "error: there are both sandbox.yaml and sandbox.yml\n  help: pass the one you mean with --file\n"
    )


@pytest.mark.parametrize(
    ("command", "arguments", "usual", "code"),
    [
        ("plan", ["plan"], 1, 1),
        ("plan", ["plan"], 2, 2),
        ("plan", ["plan", "--detailed-exitcode"], 2, 1),
        ("apply", ["apply"], 1, 1),
        ("apply", ["apply", "--wait"], 1, 125),
        ("run", ["run"], 1, 125),
        ("run", ["run"], 2, 125),
        ("run", ["run"], 124, 124),
        ("run", ["run"], 130, 130),
        ("exec", ["exec"], 1, 125),
        ("wait", ["wait"], 1, 125),
        ("plan", ["plan", "--", "--detailed-exitcode"], 2, 2),
        (None, [], 2, 2),
    ],
)
def test_a_failure_is_told_from_an_agents_own_code(
    command: str | None, arguments: list[str], usual: int, code: int
) -> None:
    assert group.code_of_failure(command, arguments, usual) == code


def test_the_table_has_every_code() -> None:
    assert {str(int(code)) for code in ExitCode} < group.TABLE.keys()


def test_a_bug_is_one_line_and_a_log(say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(given: object) -> None:
        raise RuntimeError("boo\nmore")

    monkeypatch.setattr(project, "profile_files", broken)
    said = say("validate")
    [log] = (tmp_path / "state" / "sandboxrun").iterdir()
    assert (said.code, said.out, said.err) == (
        1,
        "",
        f"error: this is a bug in sandboxrun: RuntimeError: boo\n"
        f"  help: what led to it is in {log}; please report it\n",
    )
    assert "Traceback" in log.read_text() and "in broken" in log.read_text()
    assert log.stat().st_mode & 0o077 == 0


def test_a_log_that_cannot_be_written_where_it_belongs_goes_to_the_temporary_folder(
    say: Say, here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(project, "profile_files", lambda given: 1 / 0)
    (here / "a file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(here / "a file"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert say("validate").code == 1
    assert len(list(tmp_path.glob("sandboxrun-crash-*.log"))) == 1


def test_an_interrupt_is_no_bug(say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(given: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(project, "profile_files", interrupted)
    said = say("validate")
    assert (said.code, said.out, said.err) == (130, "", "interrupted\n")


def test_what_the_system_refuses_is_named(say: Say, here: Path) -> None:
    (here / "folder").mkdir()
    (here / ".sandboxrun").write_text("in the way")
    said = say("init", here / "folder" / "missing" / "x.yaml")
    assert (said.code, said.err) == (1, f"error: {here}/folder/missing/x.yaml: No such file or directory\n")


def test_a_reader_that_goes_away_ends_it_quietly() -> None:
    read, write = os.pipe()
    os.close(read)
    ran = subprocess.run([sys.executable, "-m", "sandboxrun", "schema"], stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    assert (ran.returncode, ran.stderr) == (group.BROKEN_PIPE, b"")


def test_colours_only_on_a_terminal_that_wants_them(monkeypatch: pytest.MonkeyPatch) -> None:
    from sandboxrun.cli.output import coloured

    class Stream:
        def isatty(self) -> bool:
            return True

    terminal = Stream()
    assert coloured(terminal)  # type: ignore[arg-type]
    monkeypatch.setenv("NO_COLOR", "1")
    assert not coloured(terminal)  # type: ignore[arg-type]
    monkeypatch.setenv("NO_COLOR", "")
    assert coloured(terminal)  # type: ignore[arg-type]
    monkeypatch.setenv("TERM", "dumb")
    assert not coloured(terminal)  # type: ignore[arg-type]


@pytest.mark.parametrize("thread", [False, True])
def test_the_process_ends_with_its_command_and_loses_nothing(thread: bool) -> None:
    waits = "threading.Timer(0.2, lambda: os.write(1, b'thread\\n')).start(); " if thread else ""
    code = (
        "import atexit, os, sys, threading; atexit.register(lambda: os.write(1, b'exit\\n')); "
        f"{waits}sys.argv = ['sandboxrun', 'no-such-command']; "
        "from sandboxrun.cli.main import main; sys.exit(main())"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (ran.returncode, ran.stdout) == (2, "thread\nexit\n" if thread else "exit\n"), ran.stderr
    assert "no-such-command" in ran.stderr
