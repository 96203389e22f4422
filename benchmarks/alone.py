"""Runs one question by itself: `python -m benchmarks.bench_hits [--quick]` prints one JSON line a case."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.case import Case, Effort
from benchmarks.machine import commit
from benchmarks.report import document_of

#: What a question is: given an empty directory and the effort, its rows.
Question = Callable[[Path, Effort], list[Case]]

FULL = Effort()
QUICK = Effort(rounds=3, seconds=1.0, quick=True)


def main(question: Question) -> None:
    """Ask, print, and end."""
    effort = QUICK if "--quick" in sys.argv[1:] else FULL
    for case in ask(question, effort):
        print(json.dumps({**document_of(case), "commit": commit()}))


def ask(question: Question, effort: Effort) -> list[Case]:
    """Ask one question in a directory that is removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="holdfast-bench-") as place:
        return question(Path(place), effort)
