"""Runs the tests that failed once more, each in a process of its own: `make test` calls it with the exit code of a run
that was not clean.

Thousands of tests with real processes, disks and clients share one machine. What fails every time is a fault and fails
here, too. What passes alone depends on what ran beside it; it is named at the end, so that it is seen, and is to be
repaired as well. Over MOST failures, or a run that was broken off, is never repeated.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

#: failures of a whole run that may depend on what ran beside them
MOST = 6
#: pytest's exit code of a run that was not broken off and had failures
FAILED = 1
LAST_FAILED = Path(".pytest_cache/v/cache/lastfailed")


def failures(record: Path = LAST_FAILED) -> list[str]:
    """The ids of the tests that failed in the last run, as pytest recorded them; none without a record."""
    return list(json.loads(record.read_text())) if record.exists() else []


def passes(test: str) -> bool:
    """Whether a test passes alone."""
    command = [sys.executable, "-m", "pytest", "--quiet", "-p", "no:cacheprovider", test]
    return subprocess.run(command, check=False).returncode == 0


def main(ended: int) -> int:
    """The exit code: 0 when every test that failed passes alone. `ended` is that of the run."""
    failed = failures()
    if ended != FAILED or not 0 < len(failed) <= MOST:
        print(f"exit code {ended}, {len(failed)} tests failed; 1 to {MOST} of a whole run are run once more")
        return ended or 1
    print(f"{len(failed)} tests failed and run once more, each alone")
    still = [test for test in failed if not passes(test)]
    for test in failed:
        print(f"{'FAILED twice' if test in still else 'PASSED ALONE, FAILED BESIDE OTHERS'}: {test}")
    return 1 if still else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
