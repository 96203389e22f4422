"""docs/reliability.md: its rows, the tests that they name, and the figures of the last torture run."""

from __future__ import annotations

import json
import re
from fnmatch import fnmatchcase
from functools import cache
from typing import Any, NamedTuple

from support.programs import ROOT

DOCUMENT = ROOT / "docs" / "reliability.md"
RESULTS = ROOT / "benchmarks" / "results" / "torture.json"
BEGIN, END = "<!-- torture -->\n", "<!-- /torture -->"
#: numbers of the rows that have to be there
REQUIRED = (
    *map(str, range(1, 16)),
    *(
        f"{letter}{number}"
        for letter, last in (("L", 24), ("D", 18), ("C", 13), ("P", 19))
        for number in range(1, last + 1)
    ),
)
_ROW = re.compile(r"\| ([LDCP]?[0-9]+) \| (.+) \| (.+) \| (.+) \|")
_TEST = re.compile(r"^ *(?:async )?def (test_\w+)\(", re.MULTILINE)
_NAMED = re.compile(r"`([^`]+)`")


class FaultRow(NamedTuple):
    """One row: its number, the fault, the promise, and the cell that names tests or says why there is none."""

    number: str
    fault: str
    promise: str
    shown: str

    @property
    def tests(self) -> list[str]:
        """`file::name`, or a name alone; `*` at the end of a name stands for any rest."""
        return _NAMED.findall(self.shown)


def rows(text: str) -> list[FaultRow]:
    """The rows of every table."""
    return [FaultRow(*found.groups()) for line in text.splitlines() if (found := _ROW.fullmatch(line))]


@cache
def every_test() -> frozenset[str]:
    """`file::name` of all tests."""
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    return frozenset(
        f"{path.relative_to(ROOT / 'tests')}::{name}"
        for path in files
        for name in _TEST.findall(path.read_text())
    )


def is_there(named: str) -> bool:
    """Whether a test that a row names exists."""
    pattern = named if "::" in named else f"*::{named}"
    return any(fnmatchcase(test, pattern) for test in every_test())


def complaints(row: FaultRow) -> list[str]:
    """What is wrong with a row, in words."""
    if row.shown.startswith("not shown"):
        reason = row.shown.removeprefix("not shown").strip(": ")
        return [] if reason and not row.tests else [f"{row.number}: no reason why it is not shown"]
    if not row.tests:
        return [f"{row.number}: neither a test nor a reason"]
    return [f"{row.number}: there is no test {name}" for name in row.tests if not is_there(name)]


def figures(found: dict[str, Any]) -> str:
    """The result of a torture run, as the document has it."""
    whole = {key: value for key, value in found.items() if not isinstance(value, (list, dict))}
    columns = list(
        dict.fromkeys(key for job in found["jobs"] for key in job if key not in ("job", "seen", "losses"))
    )
    lines = ["; ".join(f"{key} {value}" for key, value in whole.items()) + ".", ""]
    lines += [f"| job | {' | '.join(key.replace('_', ' ') for key in columns)} | losses |"]
    lines += ["|---|" + "---|" * (len(columns) + 1)]
    for job in found["jobs"]:
        cells = [str(job.get(key, "")) for key in columns]
        lines += [f"| {job['job']} | {' | '.join(cells)} | {len(job['losses'])} |"]
    return "\n".join(lines) + "\n"


def write_figures() -> None:
    """Put those of the last run into the document."""
    before, _, rest = DOCUMENT.read_text().partition(BEGIN)
    DOCUMENT.write_text(
        before + BEGIN + figures(json.loads(RESULTS.read_text())) + END + rest.partition(END)[2]
    )


if __name__ == "__main__":
    write_figures()
