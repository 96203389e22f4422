"""What is asked of a repository reads as many records beside thousands of tags, manifests and blobs as beside few."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from holdfast_core import Digest, Store
from holdfast_core.index import lmdb_index
from holdfast_core.journal import compaction
from holdfast_core.record import CollectionRule
from support.stores import push

Opener = Callable[..., Store]

FEW, MANY = 20, 2_000
BODY, SUBJECT = b"[1]", Digest.of(b"subject")


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by the number of records of each look into the index."""
    seen: list[int] = []

    def counted(look: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*arguments: Any, **named: Any) -> Any:
            found = look(*arguments, **named)
            seen.append(len(found) if isinstance(found, list) else 1)
            return found

        return wrapper

    monkeypatch.setattr(lmdb_index, "collect", counted(lmdb_index.collect))
    for kind, names in (
        (lmdb_index.TransactionView, ("get", "keys")),
        (lmdb_index.Index, ("get", "get_and_locks", "linked")),
    ):
        for name in names:
            monkeypatch.setattr(kind, name, counted(getattr(kind, name)))
    return seen


def fill(store: Store, first: int, end: int) -> None:
    """Tags, referrers of one manifest, and blobs, numbered."""
    made = []
    for number in range(first, end):
        body = b"[%d, 0]" % number
        digest = Digest.of(body)
        made.append(
            store.references.push_manifest(
                "r", digest, "m", body, now=1.0, subject=SUBJECT, tags=(f"t{number:06}",)
            )
        )
        made.append(store.blobs.push_inline("r", Digest.of(b"%d" % number), b"%d" % number, now=1.0))
    for future in made:
        future.result()


def asked(store: Store) -> dict[str, Callable[[], object]]:
    """What clients ask, each of which leaves the store as the next one needs it."""
    digest, blob = Digest.of(BODY), Digest.of(b"blob")
    return {
        "push": lambda: push(store, "r", BODY, "a", "b", subject=Digest.of(b"other")),
        "push of a blob": lambda: store.blobs.push_inline("r", blob, b"blob", now=1.0).result(),
        "mount": lambda: store.blobs.mount("q", blob, source=None, now=1.0).result(),
        "manifest": lambda: store.references.manifest("r", digest),
        "tag": lambda: store.references.tag("r", "a"),
        "blob": lambda: store.blobs.get("r", blob),
        "referrers": lambda: store.references.lists.referrers("r", Digest.of(b"other")),
        "retag": lambda: push(store, "r", BODY, "b"),
        "delete of a tag": lambda: store.references.delete_tag("r", "a", now=2.0).result(),
        "delete of a manifest": lambda: store.references.delete_manifest("r", digest, now=2.0).result(),
        "delete of a blob": lambda: store.blobs.delete("r", blob, now=2.0).result(),
    }


def cost(store: Store, reads: list[int]) -> dict[str, int]:
    """Records read by each."""
    found = {}
    for what, act in asked(store).items():
        reads.clear()
        act()
        found[what] = sum(reads)
    return found


def test_case_73_what_is_not_asked_for_is_not_read(reads: list[int], store: Store) -> None:
    fill(store, 0, FEW)
    cost(store, reads)  # the first round makes what the second finds
    beside_few = cost(store, reads)
    fill(store, FEW, MANY)
    assert cost(store, reads) == beside_few
    assert all(0 < records < 40 for records in beside_few.values()), beside_few


def test_case_73_a_page_is_read_and_no_more(reads: list[int], store: Store) -> None:
    fill(store, 0, MANY)
    for last in ("", f"t{MANY // 2:06}"):
        reads.clear()
        assert len(store.references.tags("r", last=last, limit=10)) == 10
        assert sum(reads) <= lmdb_index.SCAN_KEYS


def test_case_73_a_start_reads_as_many_records_beside_many_as_beside_few(
    reads: list[int], opener: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the journal is long: it is written again while the store serves."""
    monkeypatch.setattr(compaction, "SLACK_BYTES", -(1 << 30))
    found = []
    for first, end in ((0, FEW), (FEW, MANY)):
        store = opener()
        fill(store, first, end)
        store.close()
        reads.clear()
        store = opener()
        found.append(sum(reads))
        assert store.upkeep.journal_is_long
        store.close()
    assert found[0] == found[1] < 20, found


def test_case_73_a_collection_asks_once_a_transaction_when_the_index_was_written(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked_at, written_at = [], lmdb_index.Index.written_at

    def counted(index: lmdb_index.Index) -> float:
        asked_at.append(index)
        return written_at(index)

    loose = []
    for number in range(FEW):
        body = b"%d" % number
        store.blobs.put_inline("r", Digest.of(body), body, owned=False, now=1.0).result()
        loose.append(("r", Digest.of(body)))
    monkeypatch.setattr(lmdb_index.Index, "written_at", counted)
    rule = CollectionRule(blobs_before=5.0, manifests_before=5.0, cached_before=5.0, deleted_before=5.0)
    assert store.space.collect(loose, rule, now=9.0).result().digests == FEW
    assert len(asked_at) == 1
