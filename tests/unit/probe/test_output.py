"""Reading what the program printed: any bytes at all, and what it escapes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sandboxrun.probe import program as output
from sandboxrun.probe.program import complete, parse, unescaped, with_outcome
from sandboxrun.probe.verdicts import OUTCOME


def test_lines_are_probes_and_fields_their_values() -> None:
    seen = parse(b"status\tuid=1000\\x091000\tgid=5\nroot\tetc=errno:30\tproc/sys=ok\nend\n")
    assert dict(seen) == {
        "status": {"uid": "1000\t1000", "gid": "5"},
        "root": {"etc": "errno:30", "proc/sys": "ok"},
        "end": {},
    }
    assert complete(seen)
    assert not complete(parse(b"status\tuid=0\n"))


def test_of_two_the_first_counts() -> None:
    assert parse(b"a\tk=1\tk=2\na\tk=3\n") == {"a": {"k": "1"}}


def test_what_is_no_line_of_the_programs_is_left_out() -> None:
    noise = b"\n\tk=v\nUPPER\tk=v\nspaces in it\tk=v\n\x1b[2J\tk=v\na\tno value\t=x\t b=c\tk=v\n"
    assert parse(noise) == {"a": {"k": "v"}}


def test_no_line_can_say_what_is_known_from_outside() -> None:
    forged = parse(f"{OUTCOME}\thow=oom\toom_killed=yes\n".encode())
    assert OUTCOME not in forged
    assert with_outcome(forged, how="failed", exit_code=1)[OUTCOME]["oom_killed"] == "no"


def test_the_outcome() -> None:
    known = {"exit_code": 137, "oom_killed": True, "seconds": 1.23456, "gateway": "10.1.0.2", "passed": "a.b:1"}
    seen = with_outcome(parse(b"memory.begin\tmap=ok\n"), how="oom", **known)
    assert seen["memory.begin"] == {"map": "ok"}
    texts = {"exit_code": "137", "oom_killed": "yes", "seconds": "1.235", "gateway": "10.1.0.2", "passed": "a.b:1"}
    assert seen[OUTCOME] == {"how": "oom", **texts}
    assert with_outcome({}, how="timeout")[OUTCOME]["exit_code"] == ""


@given(st.binary(max_size=2000))
def test_any_bytes_are_read(data: bytes) -> None:
    for values in parse(data).values():
        assert all(isinstance(value, str) for value in values.values())


@given(st.lists(st.sampled_from([b"a", b"=", b"\t", b"\n", b"\\x", b"\\x09", b"0f", b".", b"@", b"\xff", b"end"])))
def test_what_looks_like_lines_is_read(parts: list[bytes]) -> None:
    seen = parse(b"".join(parts))
    assert all(not name.startswith("@") and "\t" not in name for name in seen)


@given(st.binary(max_size=300))
def test_what_was_escaped_comes_back(data: bytes) -> None:
    escaped = "".join(chr(c) if 0x20 <= c < 0x7F and c != 0x5C else f"\\x{c:02x}" for c in data)
    assert unescaped(escaped) == data.decode("utf-8", errors="replace")
    assert parse(f"a\tk={escaped}\n".encode())["a"]["k"] == data.decode("utf-8", errors="replace")


def test_only_so_much_is_kept() -> None:
    many = b"".join(b"p%d\tk=v\n" % n for n in range(3 * output.MOST_LINES))
    assert len(parse(many)) == output.MOST_LINES
    wide = b"a" + b"".join(b"\tk%d=v" % n for n in range(3 * output.MOST_VALUES))
    assert len(parse(wide)["a"]) == output.MOST_VALUES
    assert len(parse(b"a\tk=" + b"v" * (2 * output.LONGEST))["a"]["k"]) == output.LONGEST
    assert parse(b"\n" * output.MOST_BYTES + b"late\tk=v\n") == {}
