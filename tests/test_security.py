"""Every threat that must be answered has a test with its number in its name, and docs/security.md lists them."""

from __future__ import annotations

import pytest
from support.threats import BEGIN, DOCUMENT, END, THREATS, markdown, named_tests, numbers

#: the rows that must be there; others may
REQUIRED = (1, *range(6, 37))


@pytest.mark.parametrize("number", REQUIRED)
def test_every_threat_has_a_test(number: int) -> None:
    assert named_tests().get(number), f"no test is named test_s{number:02}_…"
    assert THREATS[number].threat
    assert THREATS[number].answer


def test_no_test_has_a_number_that_is_not_listed() -> None:
    assert sorted(set(named_tests()) - THREATS.keys()) == []


def test_the_document_lists_them_as_they_are() -> None:
    table = DOCUMENT.read_text().partition(BEGIN)[2].partition(END)[0]
    assert table == markdown(), "run `PYTHONPATH=tests .venv/bin/python -m support.threats`"


def test_numbers_are_read_from_names() -> None:
    assert numbers("test_s20_s37_hostile_paths") == [20, 37]
    assert numbers("test_s09_spoofed") == [9]
    assert numbers("test_size_of_20") == []
