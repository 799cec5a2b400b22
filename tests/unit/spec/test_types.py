"""Every option's type: reading, schema and canonical form agree."""

from __future__ import annotations

from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandboxrun.errors import Problems, node_of
from sandboxrun.spec.project import ConfigType, NetworkType, SecretType, VolumeType
from sandboxrun.spec.records import EvidencePolicy, EvidenceType
from sandboxrun.spec.spec import SpecType
from sandboxrun.spec.types import INVALID
from tests.conftest import examples
from tests.unit.spec.values import CASES, Case, raw, values

OBJECTS = (
    Case("network", NetworkType),
    Case("volume", VolumeType),
    Case("secret", SecretType),
    Case("config", ConfigType),
)
VALIDATORS = {case.name: jsonschema_rs.validator_for(case.type.schema()) for case in (*CASES, *OBJECTS)}
VALUES = {case.name: values(case.type) for case in (*CASES, *OBJECTS)}  # made once: that takes longer than to draw
RAW = {case.name: raw(case.type) for case in (*CASES, *OBJECTS)}
ALL = pytest.mark.parametrize("case", [*CASES, *OBJECTS], ids=lambda case: case.name)

# What the parser refuses beyond the schema, and why no schema can say it.
STRICTER = {
    "command": "quotes that are not closed",
    "entrypoint": "quotes that are not closed",
    "healthcheck": "the test's first word; disable with more; times below 1ms; durations beyond 2^63 ns",
    "evidence": "sizes and durations beyond 2^63; usage_every below 1s",
    "lifetime": "durations beyond 2^63 ns",
    "stop_grace_period": "durations beyond 2^63 ns",
    "mem_limit": "sizes beyond 2^63",
    "memswap_limit": "sizes beyond 2^63",
    "mem_reservation": "sizes beyond 2^63",
    "shm_size": "sizes beyond 2^63",
    "cpus": "CPUs below 0.01, texts beyond 65536",
    "cpu_shares": "texts out of range",
    "oom_score_adj": "texts out of range",
    "pids_limit": "texts out of range",
    "ulimits": "soft above hard, texts out of range",
    "tmpfs": "unknown options, the same path or option twice",
    "security_opt": "values out of range; an option twice; a part of a label that there is not",
    "volumes": "two mounts of one target; a bind without source",
    "dns": "what is not an address; one address in two forms",
    "dns_opt": "an option twice",
    "dns_search": "a domain in two forms",
    "networks": "what is not an address; an alias in two forms",
    "platform": "a word that is neither a system nor an architecture",
    "secrets": "two files of one name",
    "configs": "two files of one name",
    "group_add": "a number that is no group",
    "workspace": "what access excludes; names that nothing guards; sizes beyond 2^63",
    "gpus": "1.0, a whole number to a schema",
    "egress": "nothing allowed; a list beside a mode; ports and ranges that are none",
    "cpuset": "a number that is no CPU",
    "stop_signal": "a number that is no signal",
    "user": "a number that is no uid",
    "devices": "two devices of one path",
    "labels": "our own prefix, the same name twice",
    "environment": "the same name twice, names in a list",
    "annotations": "the same name twice, names in a list",
    "sysctls": "the same name twice, names in a list",
    "storage_opt": "the same name twice, names in a list",
    "logging": "the same name twice, names in a list",
    "extra_hosts": "the same name twice, names in a list",
    "network": "the same name twice, names in a list",
    "volume": "the same name twice, names in a list",
    "secret": "exactly one source, no content",
    "config": "exactly one source",
}


def parse(case: Case, data: Any) -> tuple[Any, Problems]:
    problems = Problems()
    return case.type.parse(node_of(data), problems), problems


@ALL
@given(data=st.data())
@examples(20)
def test_the_canonical_form_is_read_as_the_value(case: Case, data: st.DataObject) -> None:
    value = data.draw(VALUES[case.name])
    read, problems = parse(case, case.type.plain(value))
    assert not problems, str(problems.diagnostics[0])
    assert read == value


@ALL
@given(data=st.data())
@examples(60)
def test_parser_and_schema_agree(case: Case, data: st.DataObject) -> None:
    given = data.draw(RAW[case.name])
    value, problems = parse(case, given)
    in_schema = VALIDATORS[case.name].is_valid(given)
    assert (value is INVALID) is bool(problems)
    if value is not INVALID:
        assert in_schema, "an editor would underline what is right"
        assert case.type.plain(value) is not None
    elif in_schema:
        assert case.name in STRICTER, str(problems.diagnostics[0])


@pytest.mark.parametrize("text", ["\r", "\n", "a\nb", "\u2028"])
@ALL
def test_parser_and_schema_agree_on_line_ends(case: Case, text: str) -> None:
    value, _ = parse(case, text)
    assert value is INVALID or VALIDATORS[case.name].is_valid(text)


@given(data=st.data())
def test_a_sandbox_of_any_data_gives_a_spec_or_its_faults(data: st.DataObject) -> None:
    keys = data.draw(st.lists(st.sampled_from([case.name for case in CASES]), max_size=3, unique=True))
    given = {key: data.draw(RAW[key]) for key in keys}
    problems = Problems()
    value = SpecType.parse(node_of(given), problems)
    assert (value is INVALID) is bool(problems)


def test_usage_is_sampled_once_a_second_at_most() -> None:
    problems = Problems()
    assert EvidenceType.parse(node_of({"usage_every": "999ms"}), problems) is INVALID
    assert [d.message for d in problems.diagnostics] == ['expected a duration of at least 1s, found the text "999ms"']
    assert EvidenceType.parse(node_of({"usage_every": "1s"}), Problems()) == EvidencePolicy()
