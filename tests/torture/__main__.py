"""The full run: power cuts under load, a kill at every write of every operation, flipped bits, full disks.

    python -m torture [--seed N] [--cuts N] [--flips N] [--full-disks N] [--no-kills] [--jobs N] [--output FILE]

Needs root and Linux on x86-64. Ends with 1 when anything was lost or wrong, and says what.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import random
import signal
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from torture.jobs import Outcome, Wanted, jobs, kills, run

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results" / "torture.json"
WANTED = Wanted()
COUNTED = ("cuts", "cuts_during_start", "kills", "flips", "full_disks", "acknowledged", "compared")


def summary(seed: int, seconds: float, outcomes: list[Outcome]) -> dict[str, object]:
    """What is kept."""
    together: dict[str, Outcome] = {}
    for outcome in sorted(outcomes, key=lambda outcome: outcome.job):
        total = together.setdefault(outcome.job, Outcome(outcome.job))
        for name in COUNTED:
            setattr(total, name, getattr(total, name) + getattr(outcome, name))
        total.seen = dict(Counter(total.seen) + Counter(outcome.seen))
        total.losses += outcome.losses
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "seed": seed,
        "minutes": round(seconds / 60, 1),
        "machine": f"{os.cpu_count()} cores, {platform.system()} {platform.release()}",
        "cuts": sum(outcome.cuts for outcome in outcomes),
        "kill points": sum(outcome.kills for outcome in outcomes),
        "bit flips": sum(outcome.flips for outcome in outcomes),
        "full disks": sum(outcome.full_disks for outcome in outcomes),
        "losses": sum(len(outcome.losses) for outcome in outcomes),
        "jobs": [asdict(outcome) for outcome in together.values()],
    }


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(prog="torture", description=__doc__)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--cuts", type=int, default=WANTED.cuts)
    parser.add_argument(
        "--flips", type=int, default=WANTED.flips, help="of each place, with and without a parent"
    )
    parser.add_argument("--full-disks", type=int, default=WANTED.full_disks, help="of each file system")
    parser.add_argument("--no-kills", action="store_true")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    began, outcomes = time.monotonic(), []
    print(f"seed {options.seed}", flush=True)
    wanted = Wanted(options.cuts, options.flips, options.full_disks)
    work = [job for job in jobs(options.seed, wanted) if not (options.no_kills and job[0] is kills)]
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.jobs, spawn, max_tasks_per_child=1) as pool:
        try:
            for done in as_completed([pool.submit(run, job) for job in work]):
                outcomes.append(outcome := done.result())
                print(f"{time.monotonic() - began:6.0f} s  {told(outcome)}", flush=True)
        except KeyboardInterrupt:
            pool.shutdown(cancel_futures=True)  # what is at work gives its disks and nodes back first
            raise
    found = summary(options.seed, time.monotonic() - began, outcomes)
    options.output.write_text(json.dumps(found, indent=2) + "\n")
    names = ("cuts", "kill points", "bit flips", "full disks", "losses")
    print(", ".join(f"{found[name]} {name}" for name in names), flush=True)
    return int(bool(found["losses"]))


def told(outcome: Outcome) -> str:
    """A line for a person, and one for each loss."""
    faults = outcome.cuts + outcome.kills + outcome.flips + outcome.full_disks
    counts = f"{outcome.job}: {faults} faults, {outcome.acknowledged} changes acknowledged"
    return "\n    ".join([f"{counts}, {outcome.compared} things compared", *outcome.losses])


if __name__ == "__main__":
    sys.exit(main())
