"""What the removals remember from run to run, and what they tell the operator: over a real store, without a parent."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
from holdfast.errors import ParentBroken, ParentNotFound
from holdfast.routing import Repository
from holdfast.sync.context import SyncContext
from holdfast.sync.removal import KIND, NAME, RemovalRecord, Removals, RemovalVerdict, read_removals
from holdfast_core import Digest, LockChange, LockTarget, Store
from holdfast_core.record import ResourceChange
from support.stores import MEDIA

pytestmark = pytest.mark.loop("asyncio")

NOW = 1_800_000_000.0
DAY_SECONDS = 86400.0


class RefusingParent:
    """Answers each HEAD for a manifest with an error, or with success for None."""

    def __init__(self, error: Exception | None) -> None:
        self.error, self.asked = error, list[tuple[str, str]]()

    async def head_manifest(self, name: str, reference: str) -> None:
        self.asked.append((name, reference))
        if self.error is not None:
            raise self.error


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A ReadOnly node's store that has demo:v1, demo:v2 and old:v1."""
    opened = Store.create_or_open(tmp_path / "store", write=True, mode="ReadOnly")
    body = b"{}"
    for repository, tag in (("demo", "v1"), ("demo", "v2"), ("old", "v1")):
        opened.references.put_manifest(
            repository, Digest.of(body), MEDIA, body, owned=False, now=1.0, tag=tag
        ).result()
    yield opened
    opened.close()


def removals(
    store: Store, before: RemovalRecord | None = None, *, acts: bool = True, parent: Any = None
) -> Removals:
    """One run that finds this record."""
    if before is not None:
        put_record(store, msgspec.json.encode(before))
    sync = SimpleNamespace(on_parent_delete="remove", prune="", prune_grace="P1D")
    context = SimpleNamespace(
        store=store,
        clock=SimpleNamespace(now=lambda: NOW),
        config=SimpleNamespace(sync=sync),
        background={Repository.from_key("demo").namespace: parent},
    )
    return Removals(cast(SyncContext, context), acts=acts)


def put_record(store: Store, body: bytes) -> None:
    store.documents.change(lambda _: [ResourceChange(KIND, NAME, body)], quiet=frozenset({KIND})).result()


def selects_demo(name: str) -> bool:
    return name == "demo"


async def test_what_was_never_scanned_comes_first(store: Store) -> None:
    run = removals(store, RemovalRecord(looked={"a": 0.5, "c": 0.25}))
    assert run.oldest_scan_first(["a", "b", "c"]) == ["b", "c", "a"]


async def test_a_scan_is_remembered(store: Store) -> None:
    run = removals(store)
    run.synchronised("demo")
    run.scanned("demo")
    await run.write()
    assert read_removals(store) == RemovalRecord(brought=("demo",), looked={"demo": NOW})


async def test_a_dry_run_remembers_nothing(store: Store) -> None:
    run = removals(store, acts=False)
    run.synchronised("demo")
    run.scanned("demo")
    await run.write()
    assert store.documents.get(KIND, NAME) is None


async def test_a_record_that_is_not_one_is_none(store: Store) -> None:
    put_record(store, b"not JSON")
    assert read_removals(store) == RemovalRecord()


async def test_a_tag_stays_for_now_when_the_parent_fails_to_answer_for_it(store: Store) -> None:
    parent = RefusingParent(ParentBroken("the parent answered 500"))
    run = removals(store, parent=parent)
    await run.remove_lost("demo", RemovalVerdict("v1", "remove", NOW - 60, "why", NOW))
    assert parent.asked == [("demo", "v1")]
    assert run.words == ["demo:v1 stays for now: the HEAD for it failed: the parent answered 500"]
    assert run.verdicts == [RemovalVerdict("demo:v1", "wait", NOW - 60, "why", None)]
    assert store.references.tags("demo") == ["v1", "v2"]


async def test_a_tag_goes_when_the_parent_does_not_have_it(store: Store) -> None:
    run = removals(store, parent=RefusingParent(ParentNotFound("no such manifest")))
    await run.remove_lost("demo", RemovalVerdict("v1", "remove", NOW - 60, "why", NOW))
    assert (run.words, store.references.tags("demo")) == ([], ["v2"])


async def test_a_lost_tag_that_may_not_be_read_is_told_as_any_other(store: Store) -> None:
    store.set_mode("ReadWrite")
    store.references.set_lock("demo", LockTarget("tag", "v1"), LockChange(read=False), now=1.0).result()
    run = removals(store, RemovalRecord(lost={"demo": {"v1": NOW - 60}}))
    assert [(one.name, one.fate, one.since) for one in run.lost_in("demo", ["v2"])] == [
        ("v1", "remove", NOW - 60)
    ]


async def test_what_is_not_selected_is_forgotten_with_a_whole_scope(store: Store) -> None:
    """Its scans and lost tags; when it comes back, it begins anew."""
    lost = {"demo": {"v1": NOW - 60}, "old": {"v1": NOW - 60}}
    looked = {"demo": NOW - 60, "old": NOW - 60}
    run = removals(store, RemovalRecord(brought=("demo",), lost=lost, looked=looked))
    await run.remove_unselected(selects_demo)
    await run.write()
    assert read_removals(store) == RemovalRecord(
        brought=("demo",), lost={"demo": {"v1": NOW - 60}}, looked={"demo": NOW - 60}
    )


@pytest.mark.parametrize("whole", [False, True])
async def test_a_repository_that_was_removed_is_forgotten(store: Store, whole: bool) -> None:
    """Also where the scope is as it was: its grace period ran out meanwhile."""
    run = removals(store, RemovalRecord(brought=("demo", "old"), outside={"old": NOW - DAY_SECONDS}))
    await run.remove_unselected(selects_demo, whole=whole)
    assert store.references.repositories() == ["demo"]
    assert run.words == ["old is not selected since 1 d; it is removed"]
    await run.write()
    assert read_removals(store) == RemovalRecord(brought=("demo",))


async def test_a_repository_that_had_to_stay_is_not_forgotten(store: Store) -> None:
    store.set_mode("ReadWrite")
    store.references.set_lock("old", LockTarget("repository"), LockChange(delete=False), now=1.0).result()
    store.set_mode("ReadOnly")
    before = RemovalRecord(brought=("demo", "old"), outside={"old": NOW - DAY_SECONDS})
    run = removals(store, before)
    await run.remove_unselected(selects_demo)
    assert store.references.repositories() == ["demo", "old"]
    assert run.words[1].startswith("old stays: ")
    await run.write()
    assert read_removals(store) == before


async def test_a_repository_that_went_otherwise_is_forgotten_and_not_told(store: Store) -> None:
    run = removals(store, RemovalRecord(brought=("demo", "elsewhere"), outside={"elsewhere": 1.0}))
    await run.remove_unselected(selects_demo)
    assert (run.words, run.verdicts) == ([], [])
    await run.write()
    assert read_removals(store) == RemovalRecord(brought=("demo",))
