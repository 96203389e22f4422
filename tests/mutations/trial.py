"""Runs tests of a copy of the checkout with one change after the other.

Most of a short run is the loading of pytest, of libraries, of the project and of its tests. So one process, the trial,
loads them once and is forked for each change: in the fork the changed function gets its new code, and its tests
run. A change outside of functions counts when the module is loaded: it runs in a process that loads all anew.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import select
import signal
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from types import CodeType, FrameType, FunctionType, ModuleType
from typing import Any, NamedTuple

import hypothesis
import pytest

from mutations.checkout_copy import environment, packages
from mutations.source_changes import SourceChange

#: what every process of a trial has loaded when it begins; none of it knows the project
LOADED = ["aiohttp", "hypothesis", "hypothesis.strategies", "msgspec", "pytest", "structlog", "uvloop"]
#: plug-ins are those of the project alone; nothing is remembered from one run to the next
OPTIONS = ("-q", "-x", "-p", "no:cacheprovider", "--tb=short")
#: exit codes of pytest, and of a fork whose change is none of one function's code
PASSED, FAILED, NOTHING_RAN, NO_FUNCTION = 0, 1, 5, 77
Tracer = Callable[[FrameType, str, Any], Any]


class TestedLines(NamedTuple):
    """Which lines of a module each test runs, by test, and how long each test took (seconds)."""

    lines: dict[str, list[int]]
    seconds: dict[str, float]

    def tests_of(self, change: SourceChange) -> list[str]:
        """The tests that run any of its lines, the shortest first; all of them for what runs at loading."""
        span = set(range(change.first, change.last + 1))
        names = (
            self.seconds
            if change.is_loaded
            else [name for name, lines in self.lines.items() if not span.isdisjoint(lines)]
        )
        return sorted(names, key=lambda name: self.seconds[name])


class Trials:
    """Tests in a copy of the checkout at `place`."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(LOADED)
        self._trial: Connection | None = None
        self._file = ""

    def begin(self, file: str, tests: Sequence[str]) -> None:
        """From now on `file` is changed, and these tests run, as files or folders. Raises SystemExit when they
        cannot be loaded."""
        self.end()
        self._trial, theirs = self._context.Pipe()
        self._file = file
        self._context.Process(target=_load, args=(self.place, tests, theirs), daemon=True).start()
        theirs.close()
        self._answer()

    def end(self) -> None:
        """No more changes of this file."""
        if self._trial is not None:
            self._trial.close()
            self._trial = None

    def tested_lines(self) -> TestedLines:
        """Which lines of the file the tests run. Raises SystemExit unless all pass."""
        code = self._fork(None, "", "", ())
        if code != PASSED:
            raise SystemExit(f"they fail without a change ({code}):\n{self._output()}")
        found = json.loads((self.place / "tested-lines.json").read_text())
        return TestedLines(found["lines"], found["seconds"])

    def is_noticed(self, change: SourceChange, tests: Sequence[str], limit: float) -> bool:
        """Whether one of these tests fails, each as `file::name`, or all do not end within `limit` seconds."""
        code: int | None = NO_FUNCTION
        if not change.is_loaded:
            code = self._fork(limit, change.function, change.source, tests)
        if code == NO_FUNCTION:
            code = self._run(limit, change.source, tests)
        if code == NOTHING_RAN:
            raise SystemExit(f"no test ran: {tests}")
        return code != PASSED

    def _fork(self, limit: float | None, function: str, source: str, tests: Sequence[str]) -> int | None:
        assert self._trial is not None
        self._trial.send((limit, str(self.place / self._file), function, source, tests))
        return self._answer()

    def _answer(self) -> int | None:
        assert self._trial is not None
        try:
            return self._trial.recv()  # type: ignore[no-any-return]
        except EOFError:
            raise SystemExit(f"the tests cannot be loaded:\n{self._output()}") from None

    def _output(self) -> str:
        return (self.place / "trial.out").read_text(errors="replace")[-6000:]

    def _run(self, limit: float, source: str, tests: Sequence[str]) -> int | None:
        """In a process that loads all anew; None when it did not end."""
        path = self.place / self._file
        before = path.read_text()
        for code in path.parent.glob(f"__pycache__/{path.stem}.*.pyc"):
            code.unlink()
        path.write_text(source)
        try:
            process = self._context.Process(target=_tests, args=(self.place, tests), daemon=True)
            process.start()
            assert process.pid is not None
            process.join(limit)
            ended = process.exitcode
            _kill(process.pid)
            process.join()
            return ended
        finally:
            path.write_text(before)


# --- in other processes ----------------------------------------------------------------------------------------


def _enter(place: Path) -> None:
    """Make a process one of the copy. What it prints goes to a file."""
    os.setsid()
    os.chdir(place)
    os.environ.update(environment(place), PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")
    sys.path[:0] = packages(place)
    sys.dont_write_bytecode = True
    with open(place / "trial.out", "wb") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)


def _arguments(place: Path, files: Iterable[str]) -> list[str]:
    return [*OPTIONS, f"--basetemp={place / 'basetemp'}", *files]


def _tests(place: Path, names: Sequence[str]) -> None:
    """Runs the tests of these names. What is left behind in threads does not hold the process up."""
    _enter(place)
    files = dict.fromkeys(name.partition("::")[0] for name in names)
    os._exit(pytest.main(_arguments(place, files), [_Selection(names)]))


def _load(place: Path, files: Sequence[str], orders: Connection) -> None:
    """Loads the tests of these files and runs them as it is ordered."""
    _enter(place)
    pytest.main(_arguments(place, files), [_Trial(place, orders)])
    os._exit(FAILED)


class _Profile:
    """A plug-in under which an example that fails is enough: it is not made smaller, and not kept."""

    def pytest_sessionstart(self) -> None:
        """After `conftest.py`, before the tests are loaded."""
        phases = (hypothesis.Phase.explicit, hypothesis.Phase.generate)
        hypothesis.settings.register_profile("mutation", deadline=None, database=None, phases=phases)
        hypothesis.settings.load_profile("mutation")


class _Selection(_Profile):
    """A plug-in that leaves these tests, in this order."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """In place, as pytest wants it."""
        items[:] = _selected(items, self._names)


class _Trial(_Profile):
    """A plug-in that runs tests in forks, as it is ordered, in place of pytest."""

    def __init__(self, place: Path, orders: Connection) -> None:
        self._place, self._orders = place, orders

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> None:
        """Until no more orders come."""
        if session.testsfailed:
            os._exit(FAILED)
        with suppress(EOFError):
            self._orders.send(PASSED)
            while True:
                limit, *order = self._orders.recv()
                self._orders.send(self._forked(limit, session, *order))
        os._exit(PASSED)

    def _forked(self, limit: float | None, *order: Any) -> int | None:
        """The exit code of a fork; None when it did not end."""
        child = os.fork()
        if child == 0:
            try:
                os.setsid()
                code = self._run(*order)
            except BaseException:  # noqa: BLE001 - whatever a change does
                code = FAILED
            os._exit(code)
        handle = os.pidfd_open(child)
        try:
            has_ended = bool(select.select([handle], [], [], limit)[0])
        finally:
            os.close(handle)
        _kill(child)
        _, status = os.waitpid(child, 0)
        return os.waitstatus_to_exitcode(status) if has_ended else None

    def _run(
        self, session: pytest.Session, path: str, function: str, source: str, names: Sequence[str]
    ) -> int:
        """Without a function all tests run and the lines of the file at `path` are noted."""
        if not function:
            return self._recorded(session, path)
        if not _give_code(path, function, source):
            return NO_FUNCTION
        return _outcome(session, _selected(session.items, names))

    def _recorded(self, session: pytest.Session, path: str) -> int:
        recorder = _Recorder(path)
        session.config.pluginmanager.register(recorder)
        recorder.begin()
        code = _outcome(session, session.items)
        sys.settrace(None)
        found = {
            "lines": {name: sorted(lines) for name, lines in recorder.lines.items()},
            "seconds": recorder.seconds,
        }
        (self._place / "tested-lines.json").write_text(json.dumps(found))
        return code


class _Recorder:
    """A plug-in that notes the lines of one file by test."""

    def __init__(self, path: str) -> None:
        self._path, self._test = path, ""
        self.lines: defaultdict[str, set[int]] = defaultdict(set)
        self.seconds: dict[str, float] = {}

    def begin(self) -> None:
        """From now on lines are noted, on every thread that begins later."""
        threading.settrace(self._call)
        sys.settrace(self._call)

    def _call(self, frame: FrameType, event: str, _: object) -> Tracer | None:
        if frame.f_code.co_filename != self._path:
            return None
        self.lines[self._test].add(frame.f_lineno)
        return self._line

    def _line(self, frame: FrameType, event: str, _: object) -> Tracer:
        self.lines[self._test].add(frame.f_lineno)
        return self._line

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, None, None]:
        """One test, with what is made for it."""
        self._test, began = item.nodeid, time.monotonic()
        yield
        self.seconds[item.nodeid] = time.monotonic() - began


def _selected(items: Iterable[pytest.Item], names: Sequence[str]) -> list[pytest.Item]:
    ranks = {name: rank for rank, name in enumerate(names)}
    return sorted((item for item in items if item.nodeid in ranks), key=lambda item: ranks[item.nodeid])


def _outcome(session: pytest.Session, items: Sequence[pytest.Item]) -> int:
    """Run tests until one fails."""
    for item, following in zip(items, [*items[1:], None], strict=True):
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        if session.testsfailed:
            return FAILED
    return PASSED if items else NOTHING_RAN


def _kill(leader: int) -> None:
    """End a process with all that it started."""
    with suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)


# --- the code of one function ------------------------------------------------------------------------------------


def _give_code(path: str, function: str, source: str) -> bool:
    """Give the function of a loaded module the code that it has in `source`; whether it is one that can have it."""
    module = next((one for one in sys.modules.values() if getattr(one, "__file__", "") == path), None)
    if module is None:
        return False
    codes = {code.co_qualname: code for code in _functions_in(compile(source, path, "exec"))}
    found = _outermost(module, function.split("."))
    if found is None or found.__qualname__ not in codes:
        return False
    try:
        found.__code__ = codes[found.__qualname__]
    except ValueError:  # it closes over other names
        return False
    return True


def _functions_in(code: CodeType) -> Iterator[CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant
            yield from _functions_in(constant)


def _outermost(module: ModuleType, names: Sequence[str]) -> FunctionType | None:
    """The function that all of a change lies in; None when it has no name in the module."""
    place: Any = module
    for name in names:
        place = vars(place).get(name)
        if place is None:
            return None
        if isinstance(place, property):
            return place.fget if place.fset is None and isinstance(place.fget, FunctionType) else None
        place = getattr(place, "__wrapped__", getattr(place, "__func__", place))
        if not isinstance(place, type):
            return place if isinstance(place, FunctionType) else None
    return None
