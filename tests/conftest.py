"""What could not run is listed at the end with its reason, and is a failure where everything must run."""

from __future__ import annotations

import asyncio
import inspect
import os
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Awaitable, Callable, Generator, Iterator
from pathlib import Path

import holdfast
import holdfast_core
import hypothesis
import pytest
import uvloop
from holdfast_core.native_build import why_stale

# timing never decides a test; a failure prints what reproduces it
hypothesis.settings.register_profile("holdfast", deadline=None, print_blob=True)
hypothesis.settings.load_profile("holdfast")

#: Set by .ci/run where it may install what is missing: a skipped test then fails the run.
REQUIRE_ALL = "HOLDFAST_REQUIRE_ALL"
#: the exit code of such a run, which no second run of what failed mends (support/second_run.py)
SKIPPED = 64
#: The quick suites first, so that a mistake shows early; folders that are not named come in between.
FIRST = (
    *("core", "wire", "oci", "config", "bandwidth", "fill", "http", "parent", "push", "server", "endpoint"),
    *("keeper", "process"),
)
LAST = ("faults", "clients", "conformance")
#: `tmp_path` lies in memory, where a sync costs nothing: half of a run were syncs. These folders, and what is marked
#: `disk`, are about disks, or are the whole node as it is in the field.
ON_DISK = ("faults", "clients", "conformance", "network", "torture")
MEMORY, LEAST_FREE_BYTES = Path("/dev/shm"), 4 << 30
if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free >= LEAST_FREE_BYTES:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))


def folder_of(path: Path) -> str:
    """The folder below tests/."""
    return path.relative_to(Path(__file__).parent).parts[0]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order by folder; within a folder the order stays."""

    def rank(item: pytest.Item) -> int:
        folder = folder_of(item.path)
        if folder in LAST:
            return len(FIRST) + 1 + LAST.index(folder)
        return FIRST.index(folder) if folder in FIRST else len(FIRST)

    items.sort(key=rank)


#: A test that hangs fails, however slow the machine is.
HANGS_SECONDS = 300.0
#: `pytest.mark.loop(name)`; without it a test has the loop that the product runs on
LOOPS = {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}


def pytest_configure(config: pytest.Config) -> None:
    if reason := why_stale(Path(str(package.__file__)).parent for package in (holdfast_core, holdfast)):
        pytest.exit(reason, 1)
    config.addinivalue_line("markers", f"loop(name): the event loop of an async test: {', '.join(LOOPS)}")
    config.addinivalue_line("markers", "disk: its tmp_path lies on a disk")


@pytest.fixture
def tmp_path(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A directory of the test's own; where it should be on a disk, on that of `TMPDIR`."""
    is_on_disk = folder_of(request.path) in ON_DISK or request.node.get_closest_marker("disk")
    if not (is_on_disk and tmp_path.is_relative_to(MEMORY)):
        yield tmp_path
        return
    failed = request.session.testsfailed
    place = Path(tempfile.mkdtemp(prefix=f"{tmp_path.name}-"))
    yield place
    if request.session.testsfailed == failed:  # else it is looked at
        shutil.rmtree(place, ignore_errors=True)


def on_a_loop(test: Callable[..., Awaitable[None]], loop: str) -> Callable[..., None]:
    """The test as a plain function, which runs it on an event loop of its own."""

    async def bounded(**arguments: object) -> None:
        async with asyncio.timeout(HANGS_SECONDS):
            await test(**arguments)

    def run(**arguments: object) -> None:
        with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
            runner.run(bounded(**arguments))

    return run


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """An `async def` test is run on a loop; one that hypothesis calls, each time on a new one."""
    mark = pyfuncitem.get_closest_marker("loop")
    loop = mark.args[0] if mark else "uvloop"
    drawn = getattr(pyfuncitem.obj, "hypothesis", None)
    if drawn is not None and inspect.iscoroutinefunction(drawn.inner_test):
        drawn.inner_test = on_a_loop(drawn.inner_test, loop)
    elif inspect.iscoroutinefunction(pyfuncitem.obj):
        pyfuncitem.obj = on_a_loop(pyfuncitem.obj, loop)
    return (yield)


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
    if os.environ.get(REQUIRE_ALL) and exitstatus in (0, 1) and reporter and reporter.stats.get("skipped"):
        session.exitstatus = SKIPPED
