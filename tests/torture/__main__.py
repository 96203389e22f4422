"""The full run: 400 power cuts under load, and a kill at every write of every operation.

    python -m torture [--seed N] [--cuts N] [--jobs N] [--output FILE]

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

from torture.jobs import Outcome, jobs, run

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results" / "torture.json"
CUTS = 400


def summary(seed: int, seconds: float, outcomes: list[Outcome]) -> dict[str, object]:
    """What is kept."""
    together: dict[str, Outcome] = {}
    for outcome in sorted(outcomes, key=lambda outcome: outcome.job):
        total = together.setdefault(outcome.job, Outcome(outcome.job))
        for name in ("cuts", "cuts_during_start", "kills", "acknowledged", "compared"):
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
        "losses": sum(len(outcome.losses) for outcome in outcomes),
        "jobs": [asdict(outcome) for outcome in together.values()],
    }


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(prog="torture", description=__doc__)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--cuts", type=int, default=CUTS)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    began, outcomes = time.monotonic(), []
    print(f"seed {options.seed}", flush=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.jobs, spawn, max_tasks_per_child=1) as pool:
        try:
            for done in as_completed([pool.submit(run, job) for job in jobs(options.seed, options.cuts)]):
                outcomes.append(outcome := done.result())
                print(f"{time.monotonic() - began:6.0f} s  {told(outcome)}", flush=True)
        except KeyboardInterrupt:
            pool.shutdown(cancel_futures=True)  # what is at work gives its disks and nodes back first
            raise
    found = summary(options.seed, time.monotonic() - began, outcomes)
    options.output.write_text(json.dumps(found, indent=2) + "\n")
    print(f"{found['cuts']} cuts, {found['kill points']} kill points, {found['losses']} losses", flush=True)
    return int(bool(found["losses"]))


def told(outcome: Outcome) -> str:
    """A line for a person, and one for each loss."""
    counts = (
        f"{outcome.job}: {outcome.cuts + outcome.kills} faults, {outcome.acknowledged} changes acknowledged"
    )
    return "\n    ".join([f"{counts}, {outcome.compared} things compared", *outcome.losses])


if __name__ == "__main__":
    sys.exit(main())
