"""What could not run is listed at the end with its reason, and is a failure where everything must run."""

from __future__ import annotations

import os
from collections import defaultdict

import hypothesis
import pytest

# timing never decides a test; a failure prints what reproduces it
hypothesis.settings.register_profile("holdfast", deadline=None, print_blob=True)
hypothesis.settings.load_profile("holdfast")

#: Set by .ci/run where it may install what is missing: a skipped test then fails the run.
REQUIRE_ALL = "HOLDFAST_REQUIRE_ALL"
#: The quick suites first, so that a mistake shows early; folders that are not named come in between.
FIRST, LAST = ("core", "proxy"), ("faults", "clients", "conformance")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order by folder; within a folder the order stays."""

    def rank(item: pytest.Item) -> int:
        folder = item.path.parent.name
        if folder in LAST:
            return len(FIRST) + 1 + LAST.index(folder)
        return FIRST.index(folder) if folder in FIRST else len(FIRST)

    items.sort(key=rank)


def reason_of(report: pytest.TestReport | pytest.CollectReport) -> str:
    """Why a test was skipped, as it was said."""
    if isinstance(report.longrepr, tuple):
        return report.longrepr[2].removeprefix("Skipped: ")
    return str(report.longrepr)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """List every skipped test under its reason."""
    reasons = defaultdict(list)
    for report in terminalreporter.stats.get("skipped", []):
        reasons[reason_of(report)].append(report.nodeid)
    if reasons:
        terminalreporter.section("not run on this machine", yellow=True)
    for reason, tests in sorted(reasons.items()):
        terminalreporter.write_line(f"{reason}:")
        for test in tests:
            terminalreporter.write_line(f"    {test}")
    if reasons and os.environ.get(REQUIRE_ALL):
        terminalreporter.write_line(f"{REQUIRE_ALL} is set: every test must run here", red=True)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Skipped tests fail a run that must leave none out."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get(REQUIRE_ALL) and exitstatus == 0 and reporter and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
