"""The OCI distribution conformance program: run against a registry, its results read, and judged.

Its exit code is 0 after an error in its own configuration and with a filter (references.md 2.16), so nothing is
believed but a results file that it has just written. Its JUnit file calls what was disabled skipped, so what
each test did is read from the report on its stdout.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from support.programs import ROOT, program

DOCUMENT = ROOT / "docs" / "conformance.md"
STATUSES = frozenset({"Disabled", "Skip", "Pass", "FAIL", "Error"})
#: a line of the report; its root, which has no `/`, is left out
TEST = re.compile(r"^ *(OCI Conformance Test/.+): (\w+)$")
ENTRY = re.compile(r"^  (\w[^:]*): (\w+)$")
#: The longest run (s). A run takes about a second on an idle machine.
LIMIT = 300.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """One run. `tests` is every test with its status, groups included; `apis` and `data` are the results file."""

    exit_code: int
    said: str
    tests: tuple[tuple[str, str], ...]
    apis: dict[str, str]
    data: dict[str, str]


@dataclass(frozen=True, slots=True)
class Demand:
    """What a run must amount to: that many tests (at the pinned commit), nothing disabled but these."""

    version: str
    tests: int
    sparse: bool = False
    disabled: frozenset[str] = frozenset()


STABLE = Demand(
    "stable",
    831,
    disabled=frozenset(
        {
            "Blob upload cancel",
            "Manifest put with tag params",
            "Sparse Manifests",
            "Tag Param",
            "Tag Param sha512",
        }
    ),
)
DEV = Demand("dev", 981, sparse=True)


def run(address: str, demand: Demand, place: Path) -> Outcome:
    """Run the program against `host:port`, plain HTTP, anonymous. Results of earlier runs in `place` are deleted.

    Raises AssertionError with all it said when it left no results file, and ValueError when that cannot be read.
    """
    tool, results = program("conformance"), place / "results"
    shutil.rmtree(results, ignore_errors=True)
    settings = {
        "OCI_REGISTRY": address,
        "OCI_TLS": "disabled",
        "OCI_VERSION": demand.version,
        "OCI_RESULTS_DIR": str(results),
        "OCI_DATA_SPARSE": str(demand.sparse).lower(),
    }
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("OCI_")}
    done = subprocess.run(
        [tool],
        cwd=place,
        env={**inherited, **settings},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    file = results / "results.yaml"
    assert file.exists(), f"no results file; the program said:\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    apis, data = read_results(file.read_text())
    return Outcome(done.returncode, done.stderr, read_report(done.stdout), apis, data)


def read_results(text: str) -> tuple[dict[str, str], dict[str, str]]:
    """The statuses of APIs and of data sets in a results.yaml. Raises ValueError for anything it cannot be."""
    sections: dict[str, dict[str, str]] = {"apis": {}, "data": {}}
    current: dict[str, str] | None = None
    for line in text.splitlines():
        if not line.startswith(" "):
            current = sections.get(line.removesuffix(":"))
        elif current is not None:
            found = ENTRY.match(line)
            if not found or found[2] not in STATUSES:
                raise ValueError(
                    f"results.yaml: found {line!r}; a name and one of {sorted(STATUSES)} is allowed"
                )
            current[found[1]] = found[2]
    if not all(sections.values()):
        raise ValueError(f"results.yaml has no statuses of apis and data ({len(text)} bytes): {text[:200]!r}")
    return sections["apis"], sections["data"]


def read_report(text: str) -> tuple[tuple[str, str], ...]:
    """Every test in the report with its status, in the order they ran."""
    return tuple((found[1], found[2]) for line in text.splitlines() if (found := TEST.match(line)))


def complaints(outcome: Outcome, demand: Demand, allowed: Iterable[str] = ()) -> list[str]:
    """All that is wrong with a run, in words; empty when it conforms. `allowed` are tests that may be skipped."""
    found = [] if outcome.exit_code == 0 else [f"exit code {outcome.exit_code}"]
    if len(outcome.tests) != demand.tests:
        found.append(f"{len(outcome.tests)} tests ran, {demand.tests} are in {demand.version}")
    found += [
        f"{name}: {status}" for name, status in outcome.tests if status not in ("Pass", "Skip", "Disabled")
    ]
    for name, status in {**outcome.apis, **outcome.data}.items():
        if status != ("Disabled" if name in demand.disabled else "Pass"):
            found.append(f"{name} is {status}")
    skipped = {name for name, status in outcome.tests if status == "Skip"}
    found += [f"{name} was skipped, which is not allowed" for name in sorted(skipped - set(allowed))]
    found += [f"{name} is allowed to be skipped, and was not" for name in sorted(set(allowed) - skipped)]
    return found


def allowed_skips() -> dict[str, str]:
    """Test name to reason, as `docs/conformance.md` lists them."""
    return table(DOCUMENT.read_text(), "Allowed skips")


def table(text: str, heading: str) -> dict[str, str]:
    """First column to second of the Markdown table below a heading. Raises ValueError where there is none."""
    _, found, section = text.partition(f"\n## {heading}\n")
    if not found:
        raise ValueError(f"docs/conformance.md has no section {heading!r}")
    lines = section.partition("\n## ")[0].splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    if len(rows) < 2:
        raise ValueError(f"docs/conformance.md: {heading!r} has no table")
    return {row[0].strip("`"): row[1] for row in rows[2:]}
