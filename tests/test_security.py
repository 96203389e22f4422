"""Every threat that must be answered has a test with its number in its name, and docs/security.md lists them."""

from __future__ import annotations

import pytest
from mutations.defences import DEFENCES
from support.programs import ROOT
from support.threats import BEGIN, DOCUMENT, END, THREATS, markdown, named_tests, numbers

#: the rows that must be there; others may
REQUIRED = range(1, 53)


@pytest.mark.parametrize("number", REQUIRED)
def test_every_threat_has_a_test(number: int) -> None:
    assert named_tests().get(number), f"no test is named test_s{number:02}_…"
    assert THREATS[number].threat
    assert THREATS[number].answer


@pytest.mark.parametrize("number", THREATS)
def test_every_threat_has_a_defence_that_can_be_taken_out(number: int) -> None:
    """`make defences` does so, and runs the tests: here only that each place is there, and what misses it."""
    assert DEFENCES.get(number), f"mutations.defences has no row {number}"
    named = [test.partition("::")[2] for test in named_tests()[number]]
    for row in DEFENCES[number]:
        found = (ROOT / row.file).read_text().count(row.old)
        assert found == 1, (
            f"{row.file} has this {found} times, and once is right; write it in tests/mutations/defences.py as it"
            f" is now, and run `make defences THREATS={number}`:\n{row.old}"
        )
        assert row.new != row.old
        assert row.tests
        for test in row.tests:
            assert named.count(test) == 1, test


def test_no_defence_is_of_a_threat_that_is_not_listed() -> None:
    assert sorted(DEFENCES.keys() - THREATS.keys()) == []


def test_no_test_has_a_number_that_is_not_listed() -> None:
    assert sorted(set(named_tests()) - THREATS.keys()) == []


def test_the_document_lists_them_as_they_are() -> None:
    table = DOCUMENT.read_text().partition(BEGIN)[2].partition(END)[0]
    assert table == markdown(), "run `PYTHONPATH=tests .venv/bin/python -m support.threats`"


def test_numbers_are_read_from_names() -> None:
    assert numbers("test_s20_s37_hostile_paths") == [20, 37]
    assert numbers("test_s09_spoofed") == [9]
    assert numbers("test_size_of_20") == []
