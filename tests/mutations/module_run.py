"""Makes one small change at a time in the modules of `mutated_modules.MODULES`, runs the tests that run the changed
lines, and prints as patches the changes that none of them noticed and that `accepted.ACCEPTED` does not explain.

    PYTHONPATH=tests python -m mutations.module_run [MODULE…]

What was tried is noted, so that a run that was broken off goes on where it was: a change that was noticed is not tried
again while its function is the same, one that was not is tried again when a test of its module changed.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from queue import Empty, SimpleQueue

from mutations.accepted import reason_for
from mutations.checkout_copy import ROOT, checkout_copy
from mutations.mutated_modules import MODULES, MutatedModule
from mutations.source_changes import SourceChange, changes
from mutations.trial import TestedLines, Trials

#: where it is noted what was tried
NOTES = ROOT / "build" / "mutate.jsonl"
#: a run may take this long, and so many times as long as without a change (seconds)
LEAST_SECONDS, LONGER = 15.0, 3.0


class Notes:
    """What was tried, on the disk: a line each."""

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, threading.Lock()
        self._noticed: set[str] = set()
        self._survived: set[str] = set()
        for line in path.read_text().splitlines() if path.exists() else ():
            key, is_noticed = json.loads(line)
            (self._noticed if is_noticed else self._survived).add(key)

    def known(self, file: str, change: SourceChange, tests: str) -> bool | None:
        """Whether a change is noticed; None when that is to be tried."""
        if self._key(file, change) in self._noticed:
            return True
        return False if self._key(file, change, tests) in self._survived else None

    def add(self, file: str, change: SourceChange, tests: str, *, is_noticed: bool) -> None:
        """Note a change that was tried."""
        key = self._key(file, change) if is_noticed else self._key(file, change, tests)
        with self._lock, open(self._path, "a") as notes:
            (self._noticed if is_noticed else self._survived).add(key)
            notes.write(json.dumps([key, is_noticed]) + "\n")

    @staticmethod
    def _key(file: str, change: SourceChange, *tests: str) -> str:
        return _digest(file, change.function, change.changed, *tests)


def _digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:32]


def is_noticed(trials: Trials, change: SourceChange, tested: TestedLines) -> bool:
    """Whether a test that runs the changed lines fails, or does not end."""
    tests = tested.tests_of(change)
    limit = LEAST_SECONDS + LONGER * sum(tested.seconds[name] for name in tests)
    return bool(tests) and trials.is_noticed(change, tests, limit)


def survivors(
    workplaces: Sequence[Trials], module: MutatedModule, source: str, notes: Notes
) -> tuple[int, list[SourceChange]]:
    """How many changes a module has, and those that no test noticed."""
    place = workplaces[0].place
    found = [change for change in changes(source) if module.has(change.function)]
    tests = _digest(*((place / file).read_text() for file in module.test_files(place)))
    known = {change: notes.known(module.file, change, tests) for change in found}
    left: SimpleQueue[SourceChange] = SimpleQueue()
    for change in sorted(found, key=lambda change: change.is_loaded):  # those that are quickly tried first
        if known[change] is None:
            left.put(change)
    if not left.empty():
        for trials in workplaces:
            trials.begin(module.file, module.tests)
        tested = workplaces[0].tested_lines()

        def work(trials: Trials) -> None:
            with suppress(Empty):
                while True:
                    change = left.get_nowait()
                    known[change] = is_noticed(trials, change, tested)
                    notes.add(module.file, change, tests, is_noticed=bool(known[change]))

        with ThreadPoolExecutor(len(workplaces)) as threads:
            running = [threads.submit(work, trials) for trials in workplaces]
            try:
                for done in running:
                    done.result()
            finally:  # one that failed, or was broken off, ends the others
                with suppress(Empty):
                    while True:
                        left.get_nowait()
        for trials in workplaces:
            trials.end()
    return len(found), [change for change in found if not known[change]]


def main() -> int:
    """All modules, or those that are named."""
    unknown = sorted(set(sys.argv[1:]) - MODULES.keys())
    if unknown:
        raise SystemExit(f"no such modules: {', '.join(unknown)}; there are {', '.join(MODULES)}")
    NOTES.parent.mkdir(exist_ok=True)
    notes, unexplained = Notes(NOTES), 0
    with ExitStack() as copies:
        workplaces = [Trials(copies.enter_context(checkout_copy())) for _ in range(os.cpu_count() or 1)]
        for name in sys.argv[1:] or MODULES:
            module, began = MODULES[name], time.monotonic()
            source = (workplaces[0].place / module.file).read_text()
            count, survived = survivors(workplaces, module, source, notes)
            open_ = [change for change in survived if reason_for(name, change) is None]
            for change in open_:
                print(f"\n{name}: {change.kind} in {change.function or 'the module'}")
                print(change.diff(source, module.file), end="")
            unexplained += len(open_)
            print(
                f"{name}: {count} changes, {count - len(survived)} noticed, {len(survived) - len(open_)} accepted,"
                f" {len(open_)} survive; {time.monotonic() - began:.0f} s",
                flush=True,
            )
    return bool(unexplained)


if __name__ == "__main__":
    sys.exit(main())
