"""What `make mutate` makes of a module, and that it tells a change that a test notices from one that none does."""

from __future__ import annotations

from pathlib import Path

import pytest

from mutations.accepted import ACCEPTED, BEGIN, DOCUMENT, END, markdown
from mutations.checkout_copy import ROOT
from mutations.module_run import Notes, survivors
from mutations.mutated_modules import MODULES, MutatedModule
from mutations.source_changes import changes
from mutations.trial import Trials

MODULE = '''
"""A module with a change of each kind."""

from enum import Enum


class Level(Enum):
    LOW = 1
    HIGH = 2


ROWS = {"a": Level.LOW, "b": Level.HIGH}


def may(name: str, count: int, *, strict: bool = True) -> bool:
    """Whether it may."""
    log.warning("asked", count=1)
    if count < 3 and not strict:
        raise ValueError(f"{count} of {3}")
    names.append(name)
    rows.clear()
    return name in ROWS or strict
'''


def made(source: str, kind: str) -> set[tuple[str, str]]:
    return {(change.before, change.after) for change in changes(source) if change.kind == kind}


def test_each_kind_of_change_is_made() -> None:
    test, row = "if count < 3 and not strict:", 'ROWS = {"a": Level.LOW, "b": Level.HIGH}'
    last, head = (
        "return name in ROWS or strict",
        "def may(name: str, count: int, *, strict: bool = True) -> bool:",
    )
    assert made(MODULE, "comparison") == {
        (test, "if count <= 3 and not strict:"),
        (last, "return name not in ROWS or strict"),
    }
    assert made(MODULE, "constant") == {
        ("LOW = 1", "LOW = 2"),
        ("HIGH = 2", "HIGH = 3"),
        (head, head.replace("True", "False")),
        (test, "if count < 4 and not strict:"),
    }
    assert made(MODULE, "condition") == {
        (test, "if (not (count < 3 and not strict)):"),
        (test, "if count < 3 and (strict):"),
    }
    assert made(MODULE, "boolean operator") == {
        (test, "if count < 3 or not strict:"),
        (last, "return name in ROWS and strict"),
    }
    assert made(MODULE, "return value") == {(last, "return None")}
    assert made(MODULE, "entry") == {
        (row, 'ROWS = { "b": Level.HIGH}'),
        (row, 'ROWS = {"a": Level.LOW, }'),
    }
    assert made(MODULE, "member") == {
        (row, row.replace("LOW", "HIGH")),
        (row, row.replace("HIGH", "LOW")),
    }
    assert made(MODULE, "statement") == {
        ('raise ValueError(f"{count} of {3}")', "pass"),
        (f'{test} raise ValueError(f"{{count}} of {{3}}")', "pass"),
        ("names.append(name)", "pass"),
        ("rows.clear()", "pass"),
    }
    assert made(MODULE, "order") == {("names.append(name) rows.clear()", "rows.clear() names.append(name)")}


def test_statements_that_need_each_other_keep_their_order() -> None:
    assert made("async def f():\n    a = await g()\n    await h(a)\n", "order") == set()
    assert made("async def f():\n    await g()\n    await h()\n", "order") == {
        ("await g() await h()", "await h() await g()")
    }


def test_a_change_shows_as_a_patch() -> None:
    source = "def f(a):\n    # why\n    return a < 3\n"
    change = next(change for change in changes(source) if change.kind == "comparison")
    assert change.function == "f"
    assert change.diff(source, "f.py") == (
        "--- a/f.py\n+++ b/f.py\n@@ -1,3 +1,3 @@\n def f(a):\n     # why\n-    return a < 3\n+    return a <= 3\n"
    )


PLANTED = '''
def clamped(value: int, most: int) -> int:
    """At most so much."""
    if value > most:
        return most
    return value


def unused(value: int) -> bool:
    return not value
'''
TESTS = """
from planted import clamped


def test_it_is_at_most_that():
    assert clamped(5, 3) == 3
    assert clamped(2, 3) == 2
"""


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    """A checkout of one module and its tests."""
    for name, text in {
        "core/planted.py": PLANTED,
        "tests/test_planted.py": TESTS,
        "pytest.ini": "[pytest]\naddopts = --import-mode=importlib\n",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_a_planted_survivor_is_found_and_all_others_are_noticed(planted: Path) -> None:
    module = MutatedModule("core/planted.py", ("tests/test_planted.py",))
    notes = planted / "notes.jsonl"
    count, survived = survivors([Trials(planted)], module, PLANTED, Notes(notes))
    assert {(change.function, change.after) for change in survived} == {
        ("clamped", "if value >= most:"),  # which is the same
        ("unused", "return (value)"),  # no test runs it
        ("unused", "return None"),
    }
    assert count == 7
    assert (planted / "core/planted.py").read_text() == PLANTED
    # what was tried is not tried again: there is no copy to try it in
    assert survivors([Trials(planted)], module, PLANTED, Notes(notes)) == (count, survived)
    assert len(notes.read_text().splitlines()) == count
    (planted / "tests/test_planted.py").write_text(
        TESTS + "\n\ndef test_unused():\n    from planted import unused\n\n    assert unused(0) is True\n"
    )
    again, left = survivors([Trials(planted)], module, PLANTED, Notes(notes))
    assert (again, [change.after for change in left]) == (count, ["if value >= most:"])
    assert len(notes.read_text().splitlines()) == count + 3, "those that survived before"


def test_a_module_whose_tests_fail_without_a_change_is_refused(planted: Path) -> None:
    (planted / "tests/test_planted.py").write_text(TESTS.replace("== 3", "== 4"))
    module = MutatedModule("core/planted.py", ("tests/test_planted.py",))
    with pytest.raises(SystemExit, match="they fail without a change"):
        survivors([Trials(planted)], module, PLANTED, Notes(planted / "notes.jsonl"))


def test_a_change_that_does_not_end_is_noticed(planted: Path) -> None:
    text = "def counted(n: int) -> int:\n    while n > 0:\n        n -= 1\n    return n\n"
    (planted / "core/counting.py").write_text(text)
    test = "from counting import counted\n\n\ndef test_it_ends():\n    assert counted(2) == 0\n"
    (planted / "tests/test_counting.py").write_text(test)
    trials = Trials(planted)
    trials.begin("core/counting.py", ["tests/test_counting.py"])
    lines = trials.tested_lines()
    assert {name: set(numbers) for name, numbers in lines.lines.items()} == {
        "tests/test_counting.py::test_it_ends": {1, 2, 3, 4}
    }
    endless = next(change for change in changes(text) if change.after == "pass" and "-=" in change.before)
    assert trials.is_noticed(endless, lines.tests_of(endless), 2.0)
    same = endless._replace(source=text)
    assert not trials.is_noticed(same, lines.tests_of(same), 60.0)
    assert not trials.is_noticed(same._replace(is_loaded=True), lines.tests_of(same), 60.0)


@pytest.mark.parametrize("name", MODULES)
def test_each_module_and_its_tests_are_there(name: str) -> None:
    module = MODULES[name]
    found = changes((ROOT / module.file).read_text())
    assert all(any(change.function == function for change in found) for function in module.functions)
    assert all((ROOT / test).exists() for test in module.tests)
    made = {(change.function, change.before, change.after) for change in found}
    stale = [row for row in ACCEPTED if row.module == name and row[1:4] not in made]
    assert stale == [], "the source is another now: run `make mutate`, and take out what it says nothing of"


def test_the_document_lists_what_is_accepted() -> None:
    table = DOCUMENT.read_text().partition(BEGIN)[2].partition(END)[0]
    assert table == markdown(), "run `PYTHONPATH=tests .venv/bin/python -m mutations.accepted`"
