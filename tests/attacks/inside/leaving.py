"""Tampering by what is left behind: files that would do harm when they are copied out, kept, or looked at.

They say what they left; whether it was stopped is seen in the evidence (`tests/attacks/left.py`).
"""

from __future__ import annotations

import base64
import os
import stat
from pathlib import Path

from tests.attacks.inside.record import EXFILTRATION, EXHAUSTION, TAMPERING, attack, held, left, won

WORKSPACE = Path("/workspace")
REPORT = WORKSPACE / "report"
PLAIN = "artifacts are regular files and directories only"
NAMES = "artifacts have plain names of limited length and depth"
PATCH = "sandboxrun itself writes the patch from the files; git is never run on them"
LEFT = "left"
JUDGED = "it is in the archive that the engine returns"


def _report(name: str) -> Path:
    REPORT.mkdir(exist_ok=True)
    return REPORT / name


def _leaves(path: Path) -> str:
    return left(path.name.encode(errors="backslashreplace").decode())


# -- artifacts ------------------------------------------------------------------------------------------------------


@attack(TAMPERING, PLAIN, LEFT, cage="copy", control=JUDGED)
def a_link_to_the_hosts_files() -> str:
    """a symlink to a host file, to be followed where it is copied"""
    (path := _report("passwd")).symlink_to("/etc/passwd")
    return _leaves(path)


@attack(TAMPERING, PLAIN, LEFT, cage="copy", control=JUDGED)
def a_link_upwards() -> str:
    """a symlink up and out of the evidence, and a file below it"""
    (path := _report("up")).symlink_to("../../../../..")
    return _leaves(path)


@attack(TAMPERING, PLAIN, LEFT, cage="copy", control=JUDGED)
def a_hard_link() -> str:
    """a second name for a file"""
    _report("first").write_text("first\n")
    os.link(REPORT / "first", path := REPORT / "second")
    return _leaves(path)


@attack(TAMPERING, PLAIN, LEFT, cage="copy", control=JUDGED)
def a_fifo() -> str:
    """a fifo, whose reader would wait forever"""
    os.mkfifo(path := _report("fifo"))
    return _leaves(path)


@attack(TAMPERING, PLAIN, LEFT, cage="copy", control=JUDGED)
def a_setuid_file() -> str:
    """a program with setuid and setgid bits"""
    (path := _report("setuid")).write_bytes(Path("/usr/bin/true").read_bytes())
    path.chmod(0o6755)
    return _leaves(path) if path.stat().st_mode & stat.S_ISUID else held("no setuid bit")


@attack(TAMPERING, NAMES, LEFT, cage="copy", control=JUDGED)
def a_name_with_commands_for_terminals() -> str:
    """names that clear the screen and break a report's line"""
    _report("two\nlines").write_text("x")
    (path := REPORT / "clear\x1b[2J\x1b]52;c;aGFjaw==\x07").write_text("x")
    return _leaves(path)


@attack(TAMPERING, NAMES, LEFT, cage="copy", control=JUDGED)
def a_name_that_is_no_text() -> str:
    """a name that is not valid Unicode"""
    name = os.path.join(os.fsencode(_report("x").parent), b"no-text-\xff\xfe")
    with open(name, "wb"):
        return left(repr(name))


@attack(TAMPERING, NAMES, LEFT, cage="copy", control=JUDGED)
def directories_without_end() -> str:
    """directories in directories, deeper than paths may be"""
    path = _report("deep")
    path.mkdir()
    os.chdir(path)
    for _ in range(300):
        os.mkdir("d" * 8)
        os.chdir("d" * 8)
    Path("bottom").write_text("x")
    return _leaves(path)


@attack(TAMPERING, "a repository is not an artifact: git on the host would run its hooks", LEFT, cage="copy",
        control=JUDGED)  # fmt: skip
def a_repository_among_artifacts() -> str:
    """a repository with hooks, with .git spelled in capitals"""
    (path := _report("sub") / ".GIT" / "hooks").mkdir(parents=True)
    (path / "pre-commit").write_text("echo x\n")
    return _leaves(path)


@attack(TAMPERING, "of names equal on some file systems only one is saved", LEFT, cage="copy", control=JUDGED)
def two_names_in_one() -> str:
    """two files whose names are equal on case-insensitive file systems"""
    _report("Summary").write_text("true\n")
    (path := REPORT / "SUMMARY").write_text("false\n")
    return _leaves(path)


@attack(TAMPERING, PLAIN, LEFT, cage="copy", control=JUDGED)
def the_artifact_itself_a_link() -> str:
    """a symlink in place of the directory that the profile names as an artifact"""
    (path := WORKSPACE / "gate").symlink_to("/etc")
    return _leaves(path)


@attack(TAMPERING, "artifacts have their own folder, apart from what sandboxrun writes", LEFT, cage="copy",
        control=JUDGED)  # fmt: skip
def an_index_of_ones_own() -> str:
    """files with the names of the evidence's own: index.json, chain.jsonl, stdout.log"""
    for name in ("index.json", "chain.jsonl", "stdout.log"):
        (path := _report(name)).write_text('{"ending": {"how": "exited"}}')
    return _leaves(path)


@attack(EXHAUSTION, "artifacts have a size limit; sparse files count at their full size", LEFT, cage="giant",
        control=JUDGED)  # fmt: skip
def a_sparse_giant() -> str:
    """a file of a terabyte that uses no space"""
    (path := _report("giant")).touch()
    os.truncate(path, 1 << 40)
    return _leaves(path)


@attack(EXHAUSTION, "artifacts have a limited number", LEFT, cage="many", control=JUDGED)
def more_files_than_are_taken() -> str:
    """more than ten thousand files"""
    for number in range(10_100):
        os.close(os.open(_report(f"{number:x}") if number == 0 else f"/workspace/report/{number:x}", os.O_CREAT))
    return left("10100 files")


@attack(
    TAMPERING,
    "what is too deep is reported, the rest is saved, the volume is removed",
    LEFT,
    cage="bottomless",
    control="the engine silently omits them from its archive",
)
def paths_past_the_limit() -> str:
    """directories deeper than any path can name, so that neither copying nor removing can finish"""
    _report("kept.txt").write_text("x")
    os.chdir(WORKSPACE)
    for number in range(700):
        os.mkdir("d" * 8)
        os.chdir("d" * 8)
        if number % 100 == 0:
            Path("here").write_text("x")
    return left("700 levels")


# -- the patch ------------------------------------------------------------------------------------------------------


@attack(TAMPERING, f"{PATCH}; nothing in .git is in it", LEFT, cage="copy", control="git add -A would include it")
def hooks_in_the_copy() -> str:
    """change the copy's .git, so that hooks come back with the patch"""
    (path := WORKSPACE / ".git/hooks/pre-commit").write_text("echo x\n")
    path.chmod(0o755)
    return _leaves(path)


@attack(TAMPERING, f"{PATCH}; names are quoted as git quotes them", LEFT, cage="copy",
        control="the name is in the patch, in quotes")  # fmt: skip
def a_name_that_ends_the_patch() -> str:
    """a name that would end one file of the patch and begin another, outside the directory"""
    (path := WORKSPACE / "x\n--- a\n+++ b").mkdir()
    (path / "y").write_text("x\n@@ -0,0 +1 @@\n+hack\n")
    (WORKSPACE / "plain").write_text("--- a/../../outside\n+++ b/../../outside\n@@ -0,0 +1 @@\n+hack\n")
    return _leaves(path)


@attack(TAMPERING, f"{PATCH}; symlinks to the outside are skipped and reported", LEFT, cage="copy",
        control="a careless copy of the workspace would follow the link")  # fmt: skip
def a_directory_that_became_a_link() -> str:
    """replace a directory with a symlink to the outside, and change a file behind it"""
    for path in (WORKSPACE / "src").iterdir():
        path.unlink()
    (WORKSPACE / "src").rmdir()
    (WORKSPACE / "src").symlink_to("/tmp")
    Path("/tmp/code").write_text("changed\n")
    return left("src")


# -- secrets --------------------------------------------------------------------------------------------------------


def _secret() -> str:
    return Path("/run/secrets/key").read_text()


@attack(EXFILTRATION, "secrets are files of the sandbox's user on tmpfs, in no variable, argument or mount table",
        "only its own file", cage="copy")  # fmt: skip
def a_secret_by_the_environment() -> str:
    """look for the secret where every process in the sandbox, and the engine's inspect, would see it"""
    secret = _secret().encode()
    for number in filter(str.isdigit, os.listdir("/proc")):
        for name in ("environ", "cmdline", "mountinfo"):
            try:
                if secret in Path(f"/proc/{number}/{name}").read_bytes():
                    return won(f"/proc/{number}/{name}")
            except OSError:
                continue
    return held("in only its own file")


@attack(EXFILTRATION, "a sandbox has only the secrets that it names", "only key", cage="copy",
        control="the profile has another secret for another sandbox")  # fmt: skip
def secrets_of_others() -> str:
    """look for secrets of other sandboxes of the profile"""
    found = sorted(os.listdir("/run/secrets"))
    return held("only key") if found == ["key"] else won(found)


@attack(EXFILTRATION, "secrets in the evidence are masked, however the output is split", LEFT, cage="copy",
        control="the same bytes are unmasked where no secret is known")  # fmt: skip
def a_secret_in_the_output() -> str:
    """print the secret, in pieces and on both streams, so that it stays in the evidence"""
    secret = _secret()
    for piece in ("PRINTED:", secret[:7], secret[7:], "\n"):
        os.write(2, piece.encode())
        os.write(1, piece.encode())
    return left("on both streams")


@attack(EXFILTRATION, "usual encodings of a secret are masked as well", LEFT, cage="copy",
        control="the same bytes are unmasked where no secret is known")  # fmt: skip
def a_secret_encoded() -> str:
    """print it in base64, in hexadecimal and backwards"""
    secret = _secret()
    for form in (base64.b64encode(f"xx{secret}yy".encode()).decode(), secret.encode().hex(), secret[::-1]):
        os.write(2, f"ENCODED:{form}\n".encode())
    return left("in three forms")


@attack(EXFILTRATION, "files containing a secret are marked in the index; names containing one are refused", LEFT,
        cage="copy", control=JUDGED)  # fmt: skip
def a_secret_among_artifacts() -> str:
    """write the secret into an artifact, and into the name of one"""
    _report("notes.txt").write_text(f"the key is {_secret()}\n")
    _report(f"key-{_secret()}").write_text("x")
    return left("notes.txt")
