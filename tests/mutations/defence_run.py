"""Takes every defence of `defences.DEFENCES` out of a copy of the checkout, one at a time, runs the tests that must
miss it, and prints those that no test missed. The checkout itself is not touched.

    PYTHONPATH=tests python -m mutations.defence_run [NUMBER…]
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from support.threats import named_tests

from mutations.checkout_copy import checkout_copy, environment
from mutations.defences import DEFENCES, Defence

#: a test that hangs without the defence misses it, too (seconds)
LIMIT = 300.0
#: exit codes of pytest
PASSED, FAILED = 0, 1


@contextmanager
def without(place: Path, defence: Defence) -> Iterator[None]:
    """The copy without a defence."""
    file = place / defence.file
    before = file.read_text()
    file.write_text(before.replace(defence.old, defence.new))
    try:
        _build(place, defence)
        yield
    finally:
        file.write_text(before)
        _build(place, defence)


def _build(place: Path, defence: Defence) -> None:
    if defence.file.endswith((".pyx", ".pxd")):
        run(place, sys.executable, "setup.py", "--quiet", "build_ext", "--inplace")


def run(place: Path, *command: str) -> subprocess.CompletedProcess[str] | None:
    """In the copy, whose packages come before the installed ones; None when it took too long."""
    with subprocess.Popen(
        command,
        cwd=place,
        env=environment(place),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            said, _ = process.communicate(timeout=LIMIT)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.communicate()
            return None
    return subprocess.CompletedProcess(command, process.returncode, said)


def tested(place: Path, tests: Iterable[str]) -> subprocess.CompletedProcess[str] | None:
    """What pytest says of tests, each as `file::name`."""
    base = f"--basetemp={place / 'basetemp'}"
    nodes = [f"tests/{test}" for test in tests]
    return run(place, sys.executable, "-m", "pytest", "-q", "-x", "-rf", "--tb=no", base, *nodes)


def tests_of(number: int) -> dict[str, str]:
    """The tests of a threat, by name."""
    return {test.partition("::")[2]: test for test in named_tests()[number]}


def verdict(place: Path, number: int, defence: Defence) -> tuple[bool, str]:
    """Whether each of its tests misses the defence; and what they say."""
    is_missed, said = True, []
    for name in defence.tests:
        done = tested(place, [tests_of(number)[name]])
        if done is None:
            said.append(f"{name} does not end")
            continue
        is_missed = is_missed and done.returncode == FAILED
        failed = [line.partition(" - ")[2] for line in done.stdout.splitlines() if line.startswith("FAILED")]
        said.append(f"{name}: {failed[0][:160] if failed else done.stdout[-2000:]}")
    return is_missed, "; ".join(said)


def require_sound(place: Path, wanted: Iterable[int]) -> None:
    """With every defence in place every test passes. Raises SystemExit."""
    rows = ((number, row) for number in wanted for row in DEFENCES[number])
    done = tested(place, {tests_of(number)[name]: None for number, row in rows for name in row.tests})
    if done is None or done.returncode != PASSED:
        raise SystemExit(f"they fail with every defence in place:\n{done.stdout if done else 'no end'}")


def main() -> int:
    """All of them, or those of the threats that are named."""
    wanted = [int(text) for text in sys.argv[1:]] or list(DEFENCES)
    survivors, began, count = [], time.monotonic(), 0
    with checkout_copy() as place:
        require_sound(place, wanted)
        for number in wanted:
            for defence in DEFENCES[number]:
                count += 1
                with without(place, defence):
                    is_missed, said = verdict(place, number, defence)
                print(f"S{number} {'' if is_missed else 'SURVIVES '}{defence.file}: {said}", flush=True)
                survivors += [] if is_missed else [f"S{number} {defence.file}: {defence.old[:60]!r}"]
    minutes = (time.monotonic() - began) / 60
    print(
        f"{len(wanted)} threats, {count} defences taken out, {len(survivors)} survivors, {minutes:.1f} minutes"
    )
    for survivor in survivors:
        print(f"survives: {survivor}")
    return bool(survivors)


if __name__ == "__main__":
    sys.exit(main())
