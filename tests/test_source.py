"""The source keeps the project's rules, and each rule can fail: a violation is planted for every one."""

from __future__ import annotations

import statistics
import types

import pytest
from holdfast import errors
from support import source
from support.source import Rule, Source, broken, sources

PRODUCT = sources("core", "proxy")
EVERYTHING = [*PRODUCT, *sources("tests", "benchmarks", "tools")]
TEXTS = [*EVERYTHING, *sources(".", endings=(".md", ".toml", ".lock", ".in"))]

RULES: list[tuple[Rule, list[Source]]] = [
    (source.layering, PRODUCT),
    (source.loop_imports, EVERYTHING),
    (source.time_and_chance, PRODUCT),
    (source.unsynced, PRODUCT),
    (source.names, EVERYTHING),
    (source.exception_rules, PRODUCT),
    (source.sizes, EVERYTHING),
    (source.silent_skips, EVERYTHING),
]


@pytest.mark.parametrize(("rule", "files"), RULES, ids=lambda v: getattr(v, "__name__", ""))
def test_the_source_keeps_the_rule(rule: Rule, files: list[Source]) -> None:
    assert files
    assert broken(rule, files) == []


#: half of all functions have no more lines than this (design: a median of 8)
MEDIAN_LINES = 8

LONG = "def long() -> None:\n" + "    pass\n" * 60

PLANTED = [
    (source.layering, "core/holdfast_core/blob.py", "def f():\n    from holdfast.clock import Clock\n"),
    (source.layering, "core/holdfast_core/blob.pyx", "cimport cython\nfrom holdfast.wire cimport head\n"),
    (source.layering, "core/holdfast_core/blob.pxd", "import holdfast.errors as e\n"),
    (source.layering, "proxy/holdfast/wire/ranges.py", "import asyncio\n"),
    (source.layering, "proxy/holdfast/wire/head.pyx", "from socket import socket\n"),
    (source.loop_imports, "proxy/holdfast/parent/client.py", "import uvloop\n"),
    (source.loop_imports, "core/holdfast_core/store.pyx", "    import uvloop\n"),
    (source.time_and_chance, "proxy/holdfast/fill/planner.py", "import time\nx = time.time()\n"),
    (source.time_and_chance, "proxy/holdfast/fill/planner.py", "from time import monotonic\n"),
    (source.time_and_chance, "proxy/holdfast/fill/planner.py", "await asyncio.sleep(0.1)\n"),
    (source.time_and_chance, "proxy/holdfast/fill/planner.py", "import random\n"),
    (source.time_and_chance, "core/holdfast_core/scrub.pyx", "    now = time.monotonic()\n"),
    (source.unsynced, "core/holdfast_core/environment.py", "lmdb.open(p, writemap=True)\n"),
    (source.unsynced, "core/holdfast_core/environment.py", "lmdb.open(p, sync=False)\n"),
    (source.names, "proxy/holdfast/utils.py", ""),
    (source.names, "proxy/holdfast/keeper/manager.pyx", ""),
    (source.exception_rules, "core/holdfast_core/a.pyx", "cdef int f(int a):\n    return a\n"),
    (
        source.exception_rules,
        "core/holdfast_core/a.pyx",
        "cdef inline size_t f(\n    int a,\n) nogil:\n    pass\n",
    ),
    (
        source.exception_rules,
        "core/holdfast_core/a.pyx",
        "cdef class A:\n    cpdef bint g(self):\n        pass\n",
    ),
    (source.exception_rules, "core/holdfast_core/a.pxd", "cdef char *f(object a)\n"),
    (source.sizes, "proxy/holdfast/a.py", LONG),
    (source.sizes, "core/holdfast_core/a.pyx", LONG.replace("def long()", "cdef int long()")),
    (source.sizes, "core/holdfast_core/a.py", "x = 1\n" * 701),
    (source.silent_skips, "tests/test_a.py", "import pytest\npytest.skip('')\n"),
    (source.silent_skips, "tests/test_a.py", "import pytest\n@pytest.mark.skip\ndef test(): ...\n"),
    (source.silent_skips, "tests/test_a.py", "import pytest\npytestmark = pytest.mark.skipif(True)\n"),
    (source.silent_skips, "tests/test_a.py", "import pytest\nx = pytest.importorskip('podman')\n"),
    (source.places, "README.md", "cd /" + "root/holdfast\n"),
    (source.places, "requirements.lock", "--index" + "-url https://example.org/simple\n"),
]


@pytest.mark.parametrize(("rule", "path", "text"), PLANTED)
def test_a_planted_violation_is_found(rule: Rule, path: str, text: str) -> None:
    assert len(rule(path, text)) >= 1


KEPT = [
    (
        source.layering,
        "core/holdfast_core/a.py",
        '"""from holdfast import x"""\nimport holdfast_core.errors\n',
    ),
    (
        source.layering,
        "core/holdfast_core/a.pyx",
        "# import asyncio\nfrom holdfast_core.errors import NotHeld\n",
    ),
    (source.time_and_chance, "proxy/holdfast/a.py", "await clock.sleep(delay)\nasyncio.timeout(5)\n"),
    (source.unsynced, "core/holdfast_core/a.py", "lmdb.open(p, writemap=False, sync=True)\n"),
    (source.exception_rules, "core/holdfast_core/a.pyx", "cdef int f(int a) except -1:\n    return a\n"),
    (source.exception_rules, "core/holdfast_core/a.pyx", "cdef void f() noexcept nogil:\n    pass\n"),
    (source.exception_rules, "core/holdfast_core/a.pyx", "cdef bytes f():\n    x = g(1)\n"),
    (
        source.exception_rules,
        "core/holdfast_core/a.pyx",
        "cdef class A:\n    cdef int n\n    cdef Digest d(self):\n        pass\n",
    ),
    (source.exception_rules, "core/holdfast_core/a.pyx", "cdef int x = len(y)\n"),
    (source.sizes, "core/holdfast_core/a.pyx", "def f():\n    pass\n" * 40),
    (source.silent_skips, "tests/test_a.py", "import pytest\npytest.skip(f'{x} is not here')\n"),
]


@pytest.mark.parametrize(("rule", "path", "text"), KEPT)
def test_what_keeps_a_rule_is_let_through(rule: Rule, path: str, text: str) -> None:
    assert rule(path, text) == []


def test_no_file_names_a_machine_or_a_package_index() -> None:
    outside = (".venv/", ".tools/", ".git/", "build/")
    assert broken(source.places, [f for f in TEXTS if not f.path.startswith(outside)]) == []


def test_every_refusal_has_its_row_and_every_code_is_the_specs() -> None:
    assert len(errors.CODES) == 14
    assert source.without_row(source.leaves(errors), errors.TABLE, errors.CODES) == []


def test_a_refusal_without_a_row_is_found() -> None:
    planted = types.ModuleType("planted")

    class Branch(Exception): ...

    class Leaf(Branch): ...

    for kind in (Branch, Leaf):
        kind.__module__ = "planted"
        setattr(planted, kind.__name__, kind)
    assert source.leaves(planted) == [Leaf]
    assert source.without_row([Leaf], {}, errors.CODES) == ["Leaf has no row"]
    assert len(source.without_row([], {Leaf: (200, "NOT_A_CODE")}, errors.CODES)) == 2


def test_functions_are_short() -> None:
    found = sorted((s for f in PRODUCT for s in source.functions(f.path, f.text)), reverse=True)
    median = statistics.median(s.lines for s in found)
    print(f"{len(found)} functions, median {median} lines; the longest:")
    print(*(f"{s.lines:5} {s.where}" for s in found[:10]), sep="\n")
    assert median <= MEDIAN_LINES
