"""What a parent confirmed may be evicted, whole images alone; a note of it that is not true loses acknowledged bytes,
so each case looks for one."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from holdfast_core import Digest, LockTarget, Store, fsck, rebuild
from holdfast_core import format as layout
from holdfast_core.changes import outbox_rows
from holdfast_core.errors import NotEvictable, StoreError
from holdfast_core.record import Lock
from support.image_graph import body_of, cache, index_of, is_here, layer, sound
from support.kill_steps import kills
from support.stores import MEDIA, confirm, push, push_file, put_file

Opener = Callable[..., Store]
HERE, OTHER = b"the parent here.", b"another parent.."
LAYER = layer(1)
BODY = body_of(LAYER)
IMAGE = (Digest.of(BODY), Digest.of(LAYER))


def pushed(store: Store, repository: str = "a", *, notes: bool = False) -> None:
    """An image that a client pushed, by digest."""
    push_file(store, repository, LAYER)
    push(store, repository, BODY, notes=(lambda before: [b"a row"]) if notes else outbox_rows.nothing)


def stays(store: Store, digest: Digest, parent: bytes = HERE, repository: str = "a") -> str:
    """Why an image is not evicted; also what a survey is told."""
    error = store.space.evict(repository, digest, now=9.0, parent=parent).exception(30)
    assert isinstance(error, NotEvictable), error
    held = store.space.holding(repository, digest, now=9.0, parent=parent)
    assert held is not None
    assert held.kept
    assert held.kept in str(error)
    return held.kept


def test_a_whole_image_goes_by_the_word_of_its_parent_alone(store: Store, root: Path) -> None:
    pushed(store)
    assert "was pushed here" in stays(store, IMAGE[0])
    confirm(store, "a", HERE, *IMAGE)
    assert "was pushed here" in stays(store, IMAGE[0], parent=b"")
    assert "did not confirm" in stays(store, IMAGE[0], parent=OTHER)
    held = store.space.holding("a", IMAGE[0], now=9.0, parent=HERE)
    assert held is not None
    assert [(one.kind, one.digest) for one in held.pushed] == [(b"m", IMAGE[0]), (b"b", IMAGE[1])]
    assert (held.kept, held.freed_bytes) == ("", len(LAYER))
    gone = store.space.evict("a", IMAGE[0], now=9.0, parent=HERE).result()
    assert (gone.digests, gone.freed_bytes) == (2, len(LAYER))
    assert [store.references.outbox.confirmed_by("a", digest) for digest in IMAGE] == [b"", b""]
    assert store.upkeep.reclaim(list(IMAGE)).result() == len(BODY) + len(LAYER)
    # what comes back from the parent is cached
    digest = cache(store, "a", BODY, LAYER)
    assert store.space.evict("a", digest, now=9.0).result().digests == 2
    sound(store, root)


@pytest.mark.parametrize("lacking", [0, 1])
def test_an_image_of_which_a_part_is_not_confirmed_stays(store: Store, root: Path, lacking: int) -> None:
    pushed(store)
    confirm(store, "a", HERE, IMAGE[1 - lacking])
    stays(store, IMAGE[0])
    assert is_here(store, "a", LAYER)
    sound(store, root)


def test_an_index_goes_when_its_platforms_are_confirmed_as_well(store: Store, root: Path) -> None:
    pushed(store)
    body = index_of(BODY)
    whole = push(store, "a", body)
    confirm(store, "a", HERE, whole)
    stays(store, whole)
    confirm(store, "a", HERE, *IMAGE)
    assert store.space.evict("a", whole, now=9.0, parent=HERE).result().digests == 3
    sound(store, root)


def test_another_repository_of_the_same_bytes_keeps_them(store: Store, root: Path) -> None:
    pushed(store)
    pushed(store, "b")
    confirm(store, "a", HERE, *IMAGE)
    assert store.space.evict("a", IMAGE[0], now=9.0, parent=HERE).result().freed_bytes == 0
    stays(store, IMAGE[0], repository="b")
    assert is_here(store, "b", LAYER)
    sound(store, root)


def test_a_push_of_any_part_makes_it_owned_again(store: Store, root: Path) -> None:
    pushed(store)
    confirm(store, "a", HERE, *IMAGE)
    push_file(store, "a", LAYER)
    stays(store, IMAGE[0])
    confirm(store, "a", HERE, *IMAGE)
    push(store, "a", BODY)
    stays(store, IMAGE[0])
    confirm(store, "a", HERE, *IMAGE)
    assert store.space.evict("a", IMAGE[0], now=9.0, parent=HERE).result().digests == 2
    sound(store, root)


def test_a_layer_that_is_pushed_before_its_manifest_is_not_confirmed_by_another_image(
    store: Store, root: Path
) -> None:
    """It is pushed again while the parent has it of an earlier image: it is kept for the manifest that comes."""
    pushed(store)
    confirm(store, "a", HERE, *IMAGE)
    push_file(store, "a", LAYER)
    assert "did not confirm" in stays(store, IMAGE[0])
    later = body_of(LAYER, x=1)
    digest = push(store, "a", later)
    confirm(store, "a", HERE, Digest.of(LAYER))
    assert store.space.evict("a", IMAGE[0], now=9.0, parent=HERE).result().digests == 1
    stays(store, digest)
    assert is_here(store, "a", LAYER)
    sound(store, root)


def test_pins_locks_local_tags_and_what_is_pending_hold_against_a_parents_word(store: Store) -> None:
    pushed(store)
    confirm(store, "a", HERE, *IMAGE)
    store.references.set_lock("a", LockTarget("manifest", str(IMAGE[0])), Lock(delete=False), now=2.0)
    assert stays(store, IMAGE[0]) == "is locked"
    store.references.set_lock("a", LockTarget("manifest", str(IMAGE[0])), Lock(), now=2.0).result()
    push(store, "a", BODY, "v1", pending=True)
    confirm(store, "a", HERE, *IMAGE)
    assert "does not have it yet" in stays(store, IMAGE[0])
    sent = partial(outbox_rows.manifest_sent, repository="a", digest=IMAGE[0])
    store.references.outbox.change([], [], sent).result()
    error = store.space.evict("a", IMAGE[0], now=9.0, parent=HERE).exception(30)
    assert "moved here and not at the parent" in str(error)


def test_there_is_nothing_to_note_of_what_is_not_here_or_was_not_pushed(store: Store, root: Path) -> None:
    put_file(store, "a", LAYER)
    push_file(store, "b", layer(2))
    confirm(store, "a", HERE, *IMAGE, Digest.of(layer(2)))
    assert list(store._index.scan(layout.CONFIRMED)) == []
    sound(store, root)


def test_what_the_parent_does_not_have_after_all_is_owned_again(store: Store, root: Path) -> None:
    pushed(store)
    confirm(store, "a", HERE, *IMAGE)
    store.references.outbox.withdraw("a", [IMAGE[1], Digest.of(b"never here")]).result()
    stays(store, IMAGE[0])
    sound(store, root)


def test_the_word_outlives_a_restart_and_not_a_rebuild(store: Store, root: Path, opener: Opener) -> None:
    pushed(store)
    confirm(store, "a", HERE, *IMAGE)
    store.close()
    store = opener(root)
    assert store.references.outbox.confirmed_by("a", IMAGE[0]) == HERE
    store.close()
    shutil.rmtree(root / "index")
    assert rebuild(root).problems == []
    store = opener(root)
    stays(store, IMAGE[0])
    sound(store, root)


def test_an_older_index_hears_from_the_journal_that_it_was_pushed_again(
    store: Store, root: Path, opener: Opener, tmp_path: Path
) -> None:
    pushed(store)
    confirm(store, "a", HERE, *IMAGE)
    store.close()
    shutil.copytree(root / "index", tmp_path / "index")
    store = opener(root)
    push_file(store, "a", LAYER)
    store.close()
    shutil.rmtree(root / "index")
    shutil.copytree(tmp_path / "index", root / "index")
    store = opener(root)
    assert [store.references.outbox.confirmed_by("a", digest) for digest in IMAGE] == [HERE, b""]
    sound(store, root)


def test_fsck_names_a_word_about_what_is_not_there(store: Store, root: Path) -> None:
    pushed(store)
    key = layout.CONFIRMED + layout.repository_hash("a") + Digest.of(b"never").key
    with store._index.begin(write=True) as txn:
        txn.put(key, layout.seal(key, HERE))
    store.close()
    (problem,) = fsck(root).problems
    assert problem == f"a does not have {Digest.of(b'never')}, which its parent confirmed"


# --- between the parent's answer and the note, and between the next push and its answer -----------------------

WORK = """
from functools import partial
from holdfast_core import Digest, Store
from holdfast_core.changes import outbox_rows
from support.stores import push, push_file
store = Store.create_or_open(sys.argv[2], write=True)
digests = sys.argv[4:]
settled = partial(outbox_rows.confirmed, repository="a", digests=digests, parent=b"the parent here.")
store.references.outbox.change([], [1], settled).result()
push_file(store, "a", open(sys.argv[3], "rb").read())
store.references.push_manifest("a", Digest.of(b"later"), "m", b"later", tags=["t"], now=3.0).result()
open(sys.argv[3] + ".pushed", "x").close()
"""


def is_true(root: Path, opener: Opener, *, is_pushed: bool) -> list[bool]:
    """A note is there only when the entry of the outbox has ended, and of the layer only until its next push was
    acknowledged; which of the two are noted. Then the store is sound."""
    store = opener(root)
    noted = [bool(store.references.outbox.confirmed_by("a", digest)) for digest in IMAGE]
    if any(noted):
        assert store.references.outbox.rows() == []
    assert not (is_pushed and noted[1])
    assert is_here(store, "a", LAYER)
    sound(store, root)
    return noted


def test_killed_at_each_step(root: Path, opener: Opener, tmp_path: Path) -> None:
    store = opener(root)
    pushed(store, notes=True)
    store.close()
    shutil.copytree(root, tmp_path / "first")
    (tmp_path / "layer").write_bytes(LAYER)
    marker, seen = tmp_path / "layer.pushed", set()
    for _ in kills("import os", WORK, root, tmp_path / "layer", *IMAGE):
        seen.add((*is_true(root, opener, is_pushed=marker.exists()), marker.exists()))
        marker.unlink(missing_ok=True)
        shutil.rmtree(root)
        shutil.copytree(tmp_path / "first", root)
    assert {(False, False, False), (True, True, False), (True, False, False)} <= seen


@contextmanager
def refused_at(number: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], bool]]:
    """One write or sync of files, by its number, finds a full disk; whether there were so many."""
    calls = count(1)
    last = 0

    def full(call: Callable[..., Any]) -> Callable[..., Any]:
        def called(*args: Any, **kwargs: Any) -> Any:
            nonlocal last
            last = next(calls)
            if last == number:
                raise OSError(errno.ENOSPC, "full")
            return call(*args, **kwargs)

        return called

    with monkeypatch.context() as patch:
        for name in ("pwrite", "write", "fdatasync", "fsync", "rename"):
            patch.setattr(os, name, full(getattr(os, name)))
        yield lambda: last >= number


def test_a_full_disk_at_each_write(
    root: Path, opener: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opener(root)
    pushed(store, notes=True)
    store.close()
    shutil.copytree(root, tmp_path / "first")
    seen = set()
    settled = partial(outbox_rows.confirmed, repository="a", digests=list(map(str, IMAGE)), parent=HERE)
    for number in count(1):
        store, is_pushed = opener(root), False
        with refused_at(number, monkeypatch) as were_so_many:
            try:
                store.references.outbox.change([], [1], settled).result()
                push_file(store, "a", LAYER)
                store.references.push_manifest(
                    "a", Digest.of(b"later"), MEDIA, b"later", tags=["t"], now=3.0
                ).result()
                is_pushed = True
            except (StoreError, OSError):
                pass
            is_over = not were_so_many()
        store.close()
        seen.add((*is_true(root, opener, is_pushed=is_pushed), is_pushed))
        shutil.rmtree(root)
        if is_over:
            break
        shutil.copytree(tmp_path / "first", root)
    assert {(False, False, False), (True, False, True)} <= seen
