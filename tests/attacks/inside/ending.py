"""Tampering with the end of a run, and with what is told of it. Each runs in a sandbox of its own, and does not return.

What became of it is seen in the evidence (`tests/attacks/test_ending.py`).
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time

from tests.attacks.inside.record import ATTACKS, EXHAUSTION, TAMPERING, attack, left, won

SEEN = "left"
JUDGED = "the test also produces the real ending or harm, and distinguishes the two"
ENGINE = "an ending is determined by the engine's state and by who stopped it, not by an exit code"


def _leave(code: int) -> None:
    sys.stdout.flush()
    os._exit(code)


@attack(TAMPERING, ENGINE, SEEN, cage="code-137", control=JUDGED)
def ends_as_if_out_of_memory() -> str:
    """exit with 137, like a process killed for memory"""
    _leave(137)
    return won("")


@attack(TAMPERING, ENGINE, SEEN, cage="code-124", control=JUDGED)
def ends_as_if_out_of_time() -> str:
    """exit with 124, like a process past its timeout"""
    _leave(124)
    return won("")


@attack(TAMPERING, f"{ENGINE}; the runner saw the end itself", SEEN, cage="code-255", control=JUDGED)
def ends_as_if_the_engine_was_lost() -> str:
    """exit with 255, like a sandbox whose engine was lost"""
    _leave(255)
    return won("")


@attack(
    TAMPERING, "after the grace period SIGKILL follows, which cannot be ignored", SEEN, cage="stubborn", control=JUDGED
)
def ignores_the_end() -> str:
    """ignore SIGTERM beyond its grace period"""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    print("it ignores", flush=True)
    time.sleep(60)
    return won("it outlived its time")


@attack(TAMPERING, "SIGKILL ends what is stopped too", SEEN, cage="stopped", control=JUDGED)
def stops_itself() -> str:
    """stop itself, so that it handles no signal"""
    print("it stops", flush=True)
    os.kill(0, signal.SIGSTOP)
    return won("it went on")


@attack(TAMPERING, "the sandbox's processes end with its first one, whoever their parents are", SEEN, cage="daemon",
        control=JUDGED)  # fmt: skip
def stays_behind() -> str:
    """leave a detached process behind (double fork, setsid), and exit with 0"""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
            os.execv("/usr/bin/python3", ["python3", "-c", "import time; time.sleep(60)", os.environ["MARK"]])
        os._exit(0)
    time.sleep(0.3)
    _leave(0)
    return won("")


@attack(TAMPERING, "the end is the process's, not its output's", SEEN, cage="silent", control=JUDGED)
def goes_on_unheard() -> str:
    """close its outputs, so that it seems to have ended, and continue"""
    print("the last words", flush=True)
    for descriptor in range(256):
        try:
            os.close(descriptor)
        except OSError:
            continue
    time.sleep(1.5)
    os._exit(7)


@attack(EXHAUSTION, "evidence.logs_limit limits what is saved, logging what the engine keeps; the run continues", SEEN,
        cage="flood", control=JUDGED)  # fmt: skip
def floods_the_log() -> str:
    """print megabytes, in lines and in one line without an end"""
    print("the first words", flush=True)
    os.write(1, b"x" * (1 << 22))
    for _ in range(1 << 12):
        os.write(1, b"y" * 1023 + b"\n")
    _leave(3)
    return won("")


@attack(
    TAMPERING, "output is saved as it arrives; the engine reports out of memory", SEEN, cage="memory", control=JUDGED
)
def ends_by_memory() -> str:
    """get killed for memory, to lose its earlier output"""
    print("what it did before", flush=True)
    time.sleep(1)  # an engine that is asked too early has not heard of the kill
    kept = []
    while True:
        kept.append(bytearray(b"x") * (1 << 22))


@attack(TAMPERING, "control characters are made visible; the evidence keeps the bytes", SEEN, cage="escapes",
        control=JUDGED)  # fmt: skip
def commands_for_the_terminal() -> str:
    """print escapes that write the clipboard and clear the screen, and a job's commands"""
    os.write(1, b"\x1b]52;c;aGFjaw==\x07\x1b[2J\x1b[H\n::add-mask::x\n::set-env name=PATH::/tmp\n")
    _leave(0)
    return won("")


@attack(TAMPERING, "records are the gateway's own, from its own output; the agent's output is only its output", SEEN,
        cage="forger", control=JUDGED)  # fmt: skip
def records_of_its_own() -> str:
    """print lines that look like the gateway's records and like a run's result"""
    record = {"event": "request", "verdict": "allowed", "host": "forged.example.net", "port": 443, "sent": 1}
    print(json.dumps(record))
    print(json.dumps({"event": "ready", "digest": "sha256:0"}))
    print(json.dumps({"format_version": "1.0", "ending": {"how": "exited", "exit_code": 0}}))
    _leave(4)
    return left("")


# Each cage by its attack.
ALONE = {one.cage: one.name for one in ATTACKS.values() if one.script.__module__ == __name__}
