"""Extents against the plainest model there is: a set of integers."""

from __future__ import annotations

import itertools

from holdfast.fill.extents import Extents
from hypothesis import given
from hypothesis import strategies as st

SPAN = 40
offsets = st.integers(0, SPAN)
steps = st.lists(st.tuples(st.sampled_from(["add", "remove"]), offsets, offsets), max_size=25)


def played(script: list[tuple[str, int, int]]) -> tuple[Extents, set[int]]:
    extents, model = Extents(), set[int]()
    for verb, start, end in script:
        span = set(range(start, end))
        changed = getattr(extents, verb)(start, end)
        before = len(model)
        model = model | span if verb == "add" else model - span
        assert changed == abs(len(model) - before)
    return extents, model


def as_set(runs: list[tuple[int, int]]) -> set[int]:
    return {offset for start, end in runs for offset in range(start, end)}


@given(steps)
def test_holds_what_the_model_holds(script: list[tuple[str, int, int]]) -> None:
    extents, model = played(script)
    assert as_set(list(extents)) == model
    assert extents.total == len(model)


@given(steps)
def test_runs_are_sorted_disjoint_and_merged(script: list[tuple[str, int, int]]) -> None:
    runs = list(played(script)[0])
    assert all(start < end for start, end in runs)
    assert all(left[1] < right[0] for left, right in itertools.pairwise(runs))


@given(steps, offsets, offsets)
def test_answers_match_the_model(script: list[tuple[str, int, int]], start: int, end: int) -> None:
    extents, model = played(script)
    assert extents.covers(start, end) == (set(range(start, end)) <= model)
    gaps = extents.gaps(start, end)
    assert as_set(gaps) == set(range(start, end)) - model
    assert gaps == sorted(gaps)
    expected_end = next(o for o in range(start, SPAN + 2) if o not in model)
    assert extents.run_end(start) == expected_end
    if start <= end:
        assert extents.first_gap(start, end) == next((o for o in range(start, end) if o not in model), end)
    if start < end:
        touching = [run for run in extents if run[0] < end and run[1] > start]
        assert extents.runs(start, end) == touching


@given(steps, steps)
def test_a_copy_is_independent(script: list[tuple[str, int, int]], more: list[tuple[str, int, int]]) -> None:
    extents, model = played(script)
    twin = extents.copy()
    assert twin == extents
    for verb, start, end in more:
        getattr(twin, verb)(start, end)
    assert as_set(list(extents)) == model


def test_neighbours_merge_and_a_hole_stays() -> None:
    extents = Extents([(0, 10), (20, 30)])
    assert extents.add(10, 15) == 5
    assert list(extents) == [(0, 15), (20, 30)]
    assert extents.add(5, 25) == 5
    assert list(extents) == [(0, 30)]
    assert extents.remove(10, 12) == 2
    assert list(extents) == [(0, 10), (12, 30)]
