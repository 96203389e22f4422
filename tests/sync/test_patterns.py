"""Repositories that a pattern means: found in the parent's catalogue, and the report where there is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
from holdfast.config_file import from_table
from holdfast.sync.context import SyncContext
from holdfast.sync.source.polled_source import PolledSource
from holdfast.testing.fault import ScriptedFault
from holdfast.testing.manual_clock import FakeClock
from holdfast.testing.scripted_parent import ScriptedParent
from support.replicas import image_of, one_run, replica_of, replicating

pytestmark = pytest.mark.loop("asyncio")

NIGHTLY = {"schedule": "0 22 * * *", "prune_grace": "PT1S"}
NOW = 1_800_000_000.0
CATALOGUE = "/_catalog"


def stocked(parent: ScriptedParent, *names: str) -> None:
    """An image with tag v1 in each."""
    for name in names:
        image_of(parent, name, "v1", name.encode())


async def test_a_pattern_finds_what_is_there_and_what_comes_later(tmp_path: Path) -> None:
    """One request a page; a repository that left the catalogue is still selected, so it is not pruned."""
    clock = FakeClock(NOW, jump=False)
    async with ScriptedParent() as parent:
        parent.page_size = 2
        stocked(parent, "team/a", "team/b", "team/c/d", "teamwork", "base")
        rows = [{"name": "team/*"}, {"name": "base"}]
        async with replicating(tmp_path, parent, *rows, schedule=NIGHTLY, clock=clock) as keeper:
            await one_run(keeper, clock)
            assert keeper.store.references.repositories() == ["base", "team/a", "team/b"]
            parent.reset_counts()
            stocked(parent, "team/new")
            del parent.repositories["team/a"]
            for _ in range(2):
                await one_run(keeper, clock)
                clock.advance(10.0)
            assert keeper.store.references.repositories() == ["base", "team/a", "team/b", "team/new"]
            assert keeper.store.references.tags("team/a") == ["v1"]
            assert parent.count("GET", CATALOGUE) == 2 * 3
            assert (await replica_of(keeper).plan()).up_to_date == 3


async def test_the_first_row_for_a_repository_counts(tmp_path: Path) -> None:
    clock = FakeClock(NOW, jump=False)
    async with ScriptedParent() as parent:
        stocked(parent, "team/a", "team/b")
        image_of(parent, "team/a", "v2", b"v2")
        rows: list[dict[str, Any]] = [{"name": "team/a", "tags": ["v2"]}, {"name": "**"}]
        async with replicating(tmp_path, parent, *rows, schedule=NIGHTLY, clock=clock) as keeper:
            await one_run(keeper, clock)
            assert keeper.store.references.tags("team/a") == ["v2"]
            assert keeper.store.references.tags("team/b") == ["v1"]


async def test_a_pattern_or_a_filter_that_finds_nothing_says_so(tmp_path: Path) -> None:
    clock = FakeClock(NOW, jump=False)
    async with ScriptedParent() as parent:
        stocked(parent, "team/a")
        rows = [{"name": "teams/*"}, {"name": "team/a", "semver": ">=9"}]
        async with replicating(tmp_path, parent, *rows, schedule=NIGHTLY, clock=clock) as keeper:
            await one_run(keeper, clock)
            words = "\n".join(replica_of(keeper).status().words)
            assert "teams/*: none of the parent's 1 repositories matches" in words
            assert "team/a: none of 1 tags passes semver >=9" in words
            plan = await replica_of(keeper).plan()
            assert list(plan.words) == list(replica_of(keeper).status().words)


@pytest.mark.parametrize(
    ("status", "advised"), [(404, True), (401, True), (403, True), (405, False), (500, False)]
)
async def test_a_parent_without_a_catalogue_says_what_to_do_and_stops_no_other_row(
    tmp_path: Path, status: int, advised: bool
) -> None:
    clock = FakeClock(NOW, jump=False)
    async with ScriptedParent() as parent:
        stocked(parent, "team/a", "base")
        parent.script(ScriptedFault(path=CATALOGUE, status=status, times=-1))
        rows = [{"name": "team/*"}, {"name": "base"}]
        async with replicating(tmp_path, parent, *rows, schedule=NIGHTLY, clock=clock) as keeper:
            await one_run(keeper, clock)
            if status != 500:  # then the parent counts as away
                assert keeper.store.references.repositories() == ["base"]
                (trouble,) = replica_of(keeper).status().troubles
                assert trouble.image == "team/*"
                assert (
                    "the parent's catalogue, which team/* is matched against, cannot be read"
                    in trouble.reason
                )
                assert ("name each repository in a row of its own" in trouble.reason) == advised
            parent.faults.clear()
            clock.advance(3600.0)
            await one_run(keeper, clock)
            assert keeper.store.references.repositories() == ["base", "team/a"]


@pytest.mark.parametrize(
    ("repository", "tag", "follows"),
    [
        ("team/a", "v1", True),
        ("team/a", "latest", False),
        ("team/b", "latest", True),
        ("team/c/d", "latest", False),
        ("edge:team/b", "latest", False),
        ("edge:big/a", "latest", True),
        ("few", "v1", False),
        ("young", "v1", False),
    ],
)
def test_case_fault_8_what_comes_down_is_what_the_look_would_find(
    repository: str, tag: str, follows: bool
) -> None:
    """Also by a pattern, of each parent its own; not what a filter keeps out, or may keep out."""
    parents = [
        {"name": "", "url": "https://above.example"},
        {"name": "edge", "url": "https://edge.example"},
    ]
    rows = [
        {"name": "team/a", "tags": ["v*"]},
        {"name": "team/*"},
        {"name": "big/*", "parent": "edge"},
        {"name": "few", "newest": 2},
        {"name": "young", "newer_than": "P30D"},
    ]
    config = from_table({"parent": parents, "sync": {**NIGHTLY, "repositories": rows}})
    assert PolledSource(cast(SyncContext, None), config).follows(repository, tag) is follows
