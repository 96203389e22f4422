"""Asks every question and writes the answers: `python -m benchmarks [--quick] [--only NAME] [--out DIR]`.

A run writes `benchmarks/results/` and the front page; with `--only` the answers to other questions stay. `--quick`
(three short rounds, smaller contents: a check that all of it works, not a measurement) writes `build/bench/`. Ends with
1 when a question could not be asked; a missed bound is a fact for the table, not a failure.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:  # started as a file, not as a module
    sys.path.insert(0, str(ROOT))

from benchmarks.alone import FULL, QUICK, ask  # noqa: E402
from benchmarks.case import Case, Effort  # noqa: E402
from benchmarks.load import LoadFailed  # noqa: E402
from benchmarks.machine import Machine, describe  # noqa: E402
from benchmarks.peers import PeerFailed  # noqa: E402
from benchmarks.report import Answer, Report, verdict_text  # noqa: E402

RESULTS = ROOT / "benchmarks/results"
QUESTIONS = (
    "hits",
    "miss",
    "herd",
    "range_miss",
    "offline",
    "chain",
    "share",
    "push",
    "login",
    "sync",
    "climb",
    "descent",
    "start",
    "size",
    "upkeep",
    "rot",
    "idle",
    "writes",
    "loris",
    "floods",
)


def main() -> None:
    """The command."""
    options = arguments()
    effort = QUICK if options.quick else FULL
    effort = replace(
        effort, rounds=options.rounds or effort.rounds, seconds=options.seconds or effort.seconds
    )
    place = Path(options.out or (ROOT / "build/bench" if options.quick else RESULTS))
    command = f"make bench: {effort.rounds} rounds of {effort.seconds:g} s"
    command += " (quick: not a measurement)" if options.quick else ""
    report = Report.read(place) if options.only else Report()
    asked, machine = options.only or QUESTIONS, describe()
    for name in asked:
        report.answers[name] = question(name, effort, machine, command)
    report.answers = {name: report.answers[name] for name in QUESTIONS if name in report.answers}
    report.write(place)
    if place == RESULTS:
        show(report)
    print(report.table())
    failed = any(report.answers[name].failed for name in asked)
    sys.exit(1 if failed or not (options.only or micro(place, options.quick)) else 0)


def show(report: Report) -> None:
    """Put the table on the front page."""
    page = ROOT / "README.md"
    before, opening, rest = page.read_text().partition("<!-- figures -->\n")
    _, closing, after = rest.partition("<!-- /figures -->")
    page.write_text(f"{before}{opening}{report.table()}{closing}{after}")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="check that everything runs; measures nothing well"
    )
    parser.add_argument("--only", action="append", choices=QUESTIONS, help="one question; may repeat")
    parser.add_argument("--rounds", type=int, help="turns of each server")
    parser.add_argument("--seconds", type=float, help="of a turn")
    parser.add_argument("--out", help="directory for the results")
    return parser.parse_args()


def question(name: str, effort: Effort, machine: Machine, command: str) -> Answer:
    """Ask one; what cannot be asked is said in the table."""
    started = time.perf_counter()
    try:
        cases = ask(import_module(f"benchmarks.bench_{name}").run, effort)
    except (PeerFailed, LoadFailed, OSError, subprocess.SubprocessError) as error:
        print(f"{name}: {type(error).__name__}: {error}", file=sys.stderr)
        return Answer(machine, command, failed=f"{type(error).__name__}: {error}".splitlines()[0])
    for case in cases:
        say(case)
    print(f"({name}: {time.perf_counter() - started:.0f} s)", flush=True)
    return Answer(machine, command, tuple(cases))


def say(case: Case) -> None:
    """One line of progress a verdict."""
    for verdict in case.verdicts:
        print(f"{case.name}: {verdict_text(verdict)}", flush=True)


def micro(place: Path, quick: bool) -> bool:
    """The micro-benchmarks, by pytest-benchmark; their figures are kept beside the rest."""
    with tempfile.TemporaryDirectory() as scratch:
        raw = Path(scratch) / "micro.json"
        command = [sys.executable, "-m", "pytest", "benchmarks/micro", "--benchmark-only", "-q"]
        command += [f"--benchmark-json={raw}", "--benchmark-columns=min,median,iqr,rounds"]
        command += ["-p", "no:cacheprovider"]
        command += ["--benchmark-max-time=0.05", "--benchmark-min-rounds=3"] if quick else []
        passed = subprocess.run(command, cwd=ROOT, check=False).returncode == 0
        if passed:
            (place / "micro.json").write_text(figures(raw.read_text()))
    return passed


def figures(raw: str) -> str:
    """What is worth keeping of pytest-benchmark's report: not the machine's name, not every round."""
    kept = ("min", "median", "iqr", "rounds")
    rows = [
        {"benchmark": row["name"], "unit": "s", **{key: row["stats"][key] for key in kept}}
        for row in json.loads(raw)["benchmarks"]
    ]
    return json.dumps(sorted(rows, key=lambda row: row["benchmark"]), indent=1) + "\n"


if __name__ == "__main__":
    main()
