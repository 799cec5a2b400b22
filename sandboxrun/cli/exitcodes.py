"""The exit codes, in one table: what the program does, and what the docs and `--help` say.

Owns which commands give an agent's own code, and with what they tell their own failures from it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

# code → what it means, for the docs
TABLE: Mapping[str, str] = {
    "0": "done; with plan --detailed-exitcode: no changes; with doctor: everything can be enforced; with verify: "
    "everything holds",
    "1": "failed: the profile is wrong, no plan can be made, a step failed, doctor found what can't be enforced, or "
    "verify what does not hold or is unknown",
    "2": "the command line is wrong; with plan --detailed-exitcode: there are changes",
    "124": "run, wait, apply --wait: a sandbox was ended by its timeout, or did not end in time",
    "125": "run, exec, wait, apply --wait: sandboxrun failed, not the agent",
    "130": "ended by SIGINT (^C)",
    "141": "stdout or stderr was closed before everything was written",
    "143": "ended by SIGTERM",
    "other": "run, exec, wait, apply --wait: the agent's own code; 137 when it was killed, as for too much memory",
}

BROKEN_PIPE = 141
_OWN = 125
# (command, the option that makes it so) → the code of every failure, where the usual one could be taken for a result
_FAILS_WITH: Mapping[tuple[str, str | None], int] = {
    ("run", None): _OWN,
    ("exec", None): _OWN,
    ("wait", None): _OWN,
    ("apply", "--wait"): _OWN,
    ("plan", "--detailed-exitcode"): 1,
}


def code_of_failure(command: str | None, arguments: Sequence[str], usual: int) -> int:
    """The exit code of a failure of `command` that would be `usual` elsewhere.

    `arguments` are looked at as they were written: they may be what could not be understood.
    """
    if usual not in (1, 2):
        return usual  # a timeout says more than that
    ours = arguments[: arguments.index("--")] if "--" in arguments else arguments
    for (name, option), code in _FAILS_WITH.items():
        if name == command and (option is None or option in ours):
            return code
    return usual
