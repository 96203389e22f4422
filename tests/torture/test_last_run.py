"""The full run is too long for every day; its last result is kept."""

from __future__ import annotations

import json
from datetime import date

from torture.__main__ import RESULTS, WANTED
from torture.flips import PLACES
from torture.flows import FLOWS


def test_the_last_full_run_was_whole_and_lost_nothing() -> None:
    found = json.loads(RESULTS.read_text())
    jobs = {job["job"]: job for job in found["jobs"]}
    assert date.fromisoformat(found["date"])
    assert isinstance(found["seed"], int)
    assert found["cuts"] == sum(job["cuts"] for job in jobs.values()) >= WANTED.cuts
    assert all(jobs[f"kills, {flow}"]["kills"] > 0 for flow in FLOWS)
    for where in PLACES:
        for parent in ("parent", "no parent"):
            named = [job["flips"] for name, job in jobs.items() if name == f"bit flips, {where}, {parent}"]
            assert sum(named) >= WANTED.flips
    for kind in ("ext4", "xfs"):
        named = [job["full_disks"] for name, job in jobs.items() if name.startswith(f"full disks, {kind}")]
        assert sum(named) >= WANTED.full_disks
    assert found["losses"] == 0
    assert [loss for job in jobs.values() for loss in job["losses"]] == []
