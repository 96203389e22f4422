"""Every numbered case of the specification is a test with that number in its name, or is excused with a reason."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable

import pytest
from support.conformance import DOCUMENT, table
from support.programs import ROOT

CASES = range(1, 78)
TEST = re.compile(r"^ *(?:async )?def (test_\w+)\(", re.MULTILINE)
NUMBERED = re.compile(r"test_(?:s[0-9]+_)*case_((?:[0-9]+_)+)")


def numbered(name: str) -> list[int]:
    """The cases that a test's name says it answers."""
    found = NUMBERED.match(name + "_")
    return [int(number) for number in found[1].split("_")[:-1]] if found else []


def named_tests() -> dict[int, list[str]]:
    """Case to the tests that carry its number."""
    found: dict[int, list[str]] = defaultdict(list)
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for name in TEST.findall(path.read_text()):
            for case in numbered(name):
                found[case].append(f"{path.relative_to(ROOT)}::{name}")
    return found


def excused() -> dict[int, str]:
    """Case to reason, as the document lists them."""
    return {int(case): reason for case, reason in table(DOCUMENT.read_text(), "Cases without a test").items()}


def complaints(tested: Iterable[int], reasons: dict[int, str]) -> list[str]:
    """What is wrong with the two together, in words."""
    tested = set(tested)
    return [
        *(
            f"case {case} has neither a test nor a reason"
            for case in CASES
            if case not in tested | reasons.keys()
        ),
        *(
            f"case {case} has a test, and a reason for having none"
            for case in sorted(tested & reasons.keys())
        ),
        *(f"there is no case {case}" for case in sorted((tested | reasons.keys()) - set(CASES))),
        *(f"case {case} is excused without a reason" for case, reason in reasons.items() if not reason),
    ]


def test_every_case_is_answered_once() -> None:
    assert complaints(named_tests(), excused()) == []


def test_numbers_are_read_from_names() -> None:
    assert numbered("test_case_19_20_wrong_ranges_are_416") == [19, 20]
    assert numbered("test_case_5") == [5]
    assert numbered("test_case_50_to_57_refused") == [50]
    assert numbered("test_cases_are_read") == numbered("test_page_3") == []


@pytest.mark.parametrize(
    ("tested", "reasons", "said"),
    [
        (set(CASES) - {7}, {}, "case 7 has neither"),
        (set(CASES), {7: "why"}, "case 7 has a test, and"),
        ({*CASES, 78}, {}, "there is no case 78"),
        (set(CASES) - {7}, {7: ""}, "case 7 is excused without"),
    ],
)
def test_a_gap_is_seen(tested: set[int], reasons: dict[int, str], said: str) -> None:
    (complaint,) = complaints(tested, reasons)
    assert said in complaint
