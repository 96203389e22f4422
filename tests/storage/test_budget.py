"""The budget of a store: what it allows, and what is refused with figures."""

from __future__ import annotations

from typing import Any

import pytest
from holdfast.config import ConfigInvalid, ShareSection, StoreSection
from holdfast.config_file import from_table
from holdfast.storage.budget import (
    UNBOUNDED,
    DiskBudget,
    ShareUse,
    disk_contradictions,
    free_bytes,
)

GB, MIB, GIB = 10**9, 1 << 20, 1 << 30


def budget(disk: int = 100 * GB, **keys: Any) -> DiskBudget:
    return DiskBudget.of(StoreSection(**keys), disk)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("", None),
        ("0", 0),
        ("10%", 10 * GB),
        ("2.5%", int(2.5 * GB)),
        ("20GB", 20 * GB),
        ("500MiB", 500 * MIB),
        ("7 TB", 7000 * GB),
        ("12345", 12345),
        ("12B", 12),
    ],
)
def test_free_space_is_a_share_or_bytes(text: str, size: int | None) -> None:
    assert free_bytes(text, 100 * GB) == size


def test_a_cache_leaves_a_tenth_of_its_disk_and_32_gib_at_most() -> None:
    assert budget().limit(50 * GB) == 40 * GB
    assert budget(10_000 * GB).limit(9000 * GB) == 9000 * GB - 32 * GIB
    assert budget().limit_of_pushes(50 * GB) == 50 * GB
    assert budget(max_bytes=30 * GB, min_free="0").limit(20 * GB) == 20 * GB


def test_the_lesser_bound_counts_whoever_uses_the_rest() -> None:
    both = budget(max_bytes=30 * GB, min_free="20GB")
    assert (both.limit(90 * GB), both.limit(40 * GB), both.limit(10 * GB)) == (30 * GB, 20 * GB, 0)
    assert both.limit_of_pushes(40 * GB) == 20 * GB
    assert budget(max_bytes=30 * GB).limit_of_pushes(40 * GB) == 30 * GB


def test_nothing_free_and_no_maximum_is_no_budget() -> None:
    none = budget(min_free="0")
    assert (none.is_bounded, none.limit(1)) == (False, UNBOUNDED)
    assert budget().is_bounded
    assert budget(min_free="0", max_bytes=GB).is_bounded


@pytest.mark.parametrize(
    ("keys", "figures"),
    [
        ({"min_free": "a lot"}, ["store.min_free: found 'a lot'", "'10%'"]),
        ({"min_free": "100%"}, ["found '100%'"]),
        ({"high_water": 0.8, "low_water": 0.8}, ["store.low_water: found 0.8", "store.high_water 0.8"]),
        ({"max_bytes": 1000}, ["store.max_bytes: found 1000", "33554432"]),
        ({"shares": [{"soft": 0.6, "hard": 0.5}]}, ["store.shares[0].soft: found 0.6", "hard 0.5"]),
        ({"shares": [{"repositories": ["Line/**"]}]}, ["store.shares[0].repositories: found 'Line/**'"]),
        ({"shares": [{"parent": "docker.io"}]}, ["store.shares[0].parent: found 'docker.io'"]),
        ({"shares": [{"soft": 0.7}, {"soft": 0.5}]}, ["0.7 + 0.5 = 1.2"]),
        ({"high_water": 1.5}, ["store.high_water: found 1.5"]),
    ],
)
def test_a_budget_that_contradicts_itself_is_refused_with_its_figures(
    keys: dict[str, Any], figures: list[str]
) -> None:
    with pytest.raises(ConfigInvalid) as refusal:
        from_table({"store": keys})
    for figure in figures:
        assert figure in str(refusal.value)


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ({}, ""),
        ({"max_bytes": 90 * GB}, ""),
        (
            {"max_bytes": 95 * GB, "min_free": "10%"},
            "store.max_bytes: found 95000000000 beside store.min_free '10%'; the file system has 100000000000 bytes,"
            " which leaves 90000000000",
        ),
        (
            {"max_bytes": 101 * GB},
            "store.max_bytes: found 101000000000; the file system has 100000000000 bytes",
        ),
        (
            {"min_free": "200GB"},
            "store.min_free: found '200GB', which is 200000000000 bytes; the file system has 100000000000, and a store"
            " needs 33554432",
        ),
    ],
)
def test_a_budget_that_its_disk_cannot_have_is_a_problem_with_its_figures(
    keys: dict[str, Any], problem: str
) -> None:
    assert list(disk_contradictions(StoreSection(**keys), 100 * GB)) == ([problem] if problem else [])


def test_the_first_row_that_names_a_repository_counts() -> None:
    shares = ShareUse(
        [
            ShareSection(parent="hub", repositories=("library/*",), hard=0.1),
            ShareSection(parent="default", soft=0.3),
            ShareSection(hard=0.5),
        ]
    )
    shares.counted([("hub:library/a", 200), ("hub:x/y", 400), ("own/app", 100), ("hub:library/b", 50)])
    assert shares.excess(1000) == 150
    assert [shares.is_over(name, 1000) for name in ("hub:library/z", "hub:x/z", "own/app")] == [
        True,
        False,
        False,
    ]
    assert [shares.is_below(name, 1000) for name in ("hub:library/z", "own/app", "other")] == [
        False,
        True,
        True,
    ]
    shares.add("own/app", 300)
    assert not shares.is_below("own/app", 1000)
    shares.add("hub:x/y", 101)
    assert shares.excess(1000) == 151
