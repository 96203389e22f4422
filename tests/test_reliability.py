"""docs/reliability.md names a test for each fault, or says plainly that there is none; the tests exist, and the
figures are those of the last torture run."""

from __future__ import annotations

import json

import pytest
from support.reliability import BEGIN, DOCUMENT, END, REQUIRED, RESULTS, FaultRow, complaints, figures, rows


def test_every_fault_is_listed_once() -> None:
    assert sorted(row.number for row in rows(DOCUMENT.read_text())) == sorted(REQUIRED)


def test_every_row_names_tests_that_exist_or_says_why_not() -> None:
    assert [text for row in rows(DOCUMENT.read_text()) for text in complaints(row)] == []


def test_the_figures_are_those_of_the_last_torture_run() -> None:
    shown = DOCUMENT.read_text().partition(BEGIN)[2].partition(END)[0]
    assert shown == figures(json.loads(RESULTS.read_text())), (
        "run `PYTHONPATH=tests .venv/bin/python -m support.reliability`"
    )


@pytest.mark.parametrize(
    ("shown", "said"),
    [
        ("`core/test_nothing.py::test_nothing`", "there is no test core/test_nothing.py::test_nothing"),
        ("`test_case_fault_99_*`", "there is no test"),
        ("somehow", "neither a test nor a reason"),
        ("not shown", "no reason"),
    ],
)
def test_a_gap_is_seen(shown: str, said: str) -> None:
    (complaint,) = complaints(FaultRow("D1", "a fault", "a promise", shown))
    assert said in complaint
