"""Frames of the journal that its index does not know of: after a crash one at most, more when an older index was put
back. Each is a whole transaction, its files were in place before it was written, so it is done again: nothing that was
acknowledged is cut off, whichever of the two it was.

The journal has the journaled tables alone. What a commit writes beside them, and `derivation` does not, is made here:
notes of the files that no syncfs covered, of the bytes that no repository links, of what nothing in its repository
names and of what manifests name, the quarantine, the events but for those of documents.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from msgspec.structs import replace

from holdfast_core import format as layout
from holdfast_core.changes import change, store_events
from holdfast_core.changes.change import IndexChange, IndexView
from holdfast_core.changes.derived_tables import complete
from holdfast_core.changes.transaction import commit, derivation_in
from holdfast_core.errors import REBUILD, RecordDamaged, StoreRefused
from holdfast_core.filesystem.directory import Directory
from holdfast_core.index.lmdb_index import Index
from holdfast_core.journal.journal_file import NAME, Frame, frames, head_of, sync
from holdfast_core.record import EventRecord, Verb

Put = Callable[[Iterable[IndexChange]], None]


def replay(place: Directory, index: Index, uuid: bytes) -> int:
    """Do the frames again that lie behind the recorded length of the journal; how many there were. Raises StoreRefused
    when the index is older than the last compaction, or frames lie behind damage."""
    path = place.journal
    state, head = journaled(index), head_of(path)
    if state is None or not state.length or not (path / NAME).exists():
        return (
            0  # no length: the index was rebuilt from what is there, and the journal is to be written from it
        )
    if head is not None and head[0] == uuid and head[1] > state.generation:
        raise StoreRefused(
            f"the index is older than the journal: it knows generation {state.generation} of it, found {head[1]}; "
            f"{REBUILD}"
        )
    if head not in (None, (uuid, state.generation)):
        return 0  # an older one, or another store's: it is written again from the index
    missed = _missed(path, state.length)
    if missed:
        sync(path)
        names, now = _names(index), (path / NAME).stat().st_mtime
        links: dict[tuple[bytes, bytes], None] = {}
    for frame in missed:
        state = layout.Journaled(state.generation, frame.end, frame.end, state.boot)
        _do_again(index, frame, state, names, now, links)
    if missed:
        _forget_unplaced(place, index, missed[-1])
        complete(place, index, dict.fromkeys(digest_key for _, digest_key in links))
        _note_loose(index, links, now)
    return len(missed)


def journaled(index: Index) -> layout.Journaled | None:
    """What the index records about its journal; None when it records nothing. Raises StoreRefused."""
    try:
        payload = index.get(layout.JOURNALED)
    except RecordDamaged as error:
        raise StoreRefused(f"{error}: nobody knows how far the journal goes; {REBUILD}") from error
    return None if payload is None else layout.decode_journaled(payload)


def _missed(path: Path, start: int) -> list[Frame]:
    """The intact frames from `start` on. Nothing intact behind it is the torn tail of a crash."""
    missed = list(frames(path, start))
    if missed and missed[-1].changes is None:
        missed.pop()
    for frame in missed:
        if frame.changes is None:
            raise StoreRefused(
                f"the journal goes on behind the end that the index knows, byte {start}, and is damaged from byte "
                f"{frame.start} to {frame.end}; {REBUILD}"
            )
    return missed


def _names(index: Index) -> dict[bytes, str]:
    """Repositories by their hash."""
    names = (layout.repository_name(key) for key, _ in index.scan(layout.REPOSITORY))
    return {layout.repository_hash(name): name for name in names}


def _do_again(
    index: Index,
    frame: Frame,
    state: layout.Journaled,
    names: dict[bytes, str],
    now: float,
    links: dict[tuple[bytes, bytes], None],
) -> None:
    """One frame in one transaction, with the journal's new end. It happened by `now`, when the journal was written.
    `links` gets the (repository, digest key) of all that it may have made loose."""
    with index.begin(write=True) as txn:
        view, derivation = derivation_in(index, txn)

        def put(changes: Iterable[IndexChange]) -> None:
            for row in changes:
                derivation.put(row)

        _Again(view, put, names, now, links).run(frame.changes or [])
        put([change.put(layout.JOURNALED, layout.encode_journaled(state))])
        derivation.finish()


def _note_loose(index: Index, links: Iterable[tuple[bytes, bytes]], now: float) -> None:
    with index.view() as view:
        rows = [
            row
            for repository, digest_key in links
            if change.is_linked(view, repository, digest_key)
            for row in change.loose(view, repository, digest_key, now=now)
        ]
    commit(index, rows)


def _forget_unplaced(place: Directory, index: Index, last: Frame) -> None:
    """The commit of the last frame may have failed, and its files been taken back, before the frame was cut off."""
    keys = {key for key, _ in last.changes or () if key[:1] == layout.BLOB}
    with index.view() as view:
        blobs = (change.blob_of(view, layout.digest_from(key, key[1:])) for key in keys)
        files = [blob for blob in blobs if blob is not None and blob.inline is None]
        gone = [blob.digest for blob in files if not place.has_blob(blob.digest, blob.size)]
        changes = change.discard(view, gone)
    commit(index, changes)


class _Again:
    """One frame. Changes go into the index one by one, because a batch may change a record twice."""

    def __init__(
        self,
        view: IndexView,
        put: Put,
        names: dict[bytes, str],
        now: float,
        links: dict[tuple[bytes, bytes], None],
    ) -> None:
        self._view = view
        self._links = links
        self._put = put
        self._names = names
        self._now = now
        self._bytes: dict[bytes, None] = {}
        self._tags: list[tuple[str, bytes]] = []
        self._manifests: list[tuple[str, bytes]] = []
        self._gone: list[IndexChange] = []

    def run(self, changes: Sequence[tuple[bytes, bytes | None]]) -> None:
        """All of it."""
        for key, value in changes:
            self._one(key, value)
        for raw in self._bytes:
            self._put(self._note_of(raw))
        self._put(store_events.numbered(self._view, [*self._gone, *self._came()]))

    def _one(self, key: bytes, value: bytes | None) -> None:
        old, new = self._view.get(key), _payload(key, value)
        if key[:1] == layout.EVENT:  # of documents; its number is another one now
            self._gone += (
                [] if new is None else [IndexChange(store_events.UNNUMBERED, new, change.Keep.INDEX)]
            )
            return
        if (
            value is not None and new is None
        ):  # damaged before it was written: that removes nothing and makes no event
            self._put([IndexChange(key, value, change.Keep.INDEX)])
            return
        if key[:1] == layout.REPOSITORY:
            self._names[layout.repository_hash(layout.repository_name(key))] = layout.repository_name(key)
            if value is None:
                self._tell(
                    EventRecord(
                        "delete", "repository", layout.repository_name(key), self._now, origin="parent"
                    )
                )
        self._notice(key, old, new)
        self._loosen(key, old)
        self._put([IndexChange(key, value, change.Keep.INDEX), *self._beside(key, old, new)])

    def _loosen(self, key: bytes, old: bytes | None) -> None:
        """Remember what may have lost its last name, or come without one."""
        repository = key[1:17]
        if key[:1] == layout.LINK:
            self._links[repository, key[18:]] = None
            for child in change.children_in(self._view, key[18:]) or ():
                self._links[repository, child.digest.key] = None
        if key[:1] == layout.TAG and old is not None:
            self._links[repository, _target(key, old)] = None

    def _beside(self, key: bytes, old: bytes | None, new: bytes | None) -> Iterator[IndexChange]:
        """What goes along with a record in its transaction."""
        if key[:1] == layout.LINK:
            self._bytes[key[18:]] = None
        if key[:1] == layout.BLOB:
            self._bytes[key[1:]] = None
            yield from self._beside_bytes(key, new)

    def _beside_bytes(self, key: bytes, new: bytes | None) -> Iterator[IndexChange]:
        blob = None if new is None else layout.decode_blob(layout.digest_from(key, key[1:]), new)
        unsynced = layout.UNSYNCED + key[1:]
        yield (
            change.put(unsynced, b"")
            if blob and blob.boot
            else IndexChange(unsynced, None, change.Keep.INDEX)
        )
        if blob is None or not blob.damaged:
            yield from change.remove(self._view.keys(layout.QUARANTINE + key[1:]))

    def _note_of(self, raw: bytes) -> list[IndexChange]:
        """Whether no repository links the bytes. They are not read at an opening either, so garbage collection need not
        wait."""
        held = change.present(self._view, layout.BLOB + raw)
        if held and not self._view.keys(layout.HOLDER + raw, limit=1):
            return [change.put(layout.UNLINKED + raw, layout.encode_time(0.0))]
        return change.remove([layout.UNLINKED + raw])

    # --- events

    def _notice(self, key: bytes, old: bytes | None, new: bytes | None) -> None:
        """Remember what followers are to hear of; of what goes, before it went."""
        repository = self._names.get(key[1:17])
        if repository is None:
            return
        if key[:1] == layout.TAG:
            if new is None:
                name = key[17:].decode("utf-8", "surrogatepass")
                events = store_events.untagged(
                    self._view, repository, [name], now=self._now, origin=_origin(old)
                )
                self._gone += events
            elif old is None or _target(key, old) != _target(key, new):
                self._tags.append((repository, key))
        if key[:1] == layout.LINK and key[17:18] == layout.AS_MANIFEST and (old is None) != (new is None):
            if new is None:
                self._tell(self._manifest("delete", repository, key[18:]))
            else:
                self._manifests.append((repository, key[18:]))

    def _tell(self, event: EventRecord) -> None:
        self._gone.append(store_events.unnumbered(event))

    def _manifest(self, verb: Verb, repository: str, raw: bytes) -> EventRecord:
        digest = layout.digest_from(raw, raw)
        blob = change.blob_of(self._view, digest)
        origin = "local" if blob is not None and blob.owned else "parent"
        return store_events.of_manifest(self._view, verb, repository, digest, now=self._now, origin=origin)

    def _came(self) -> Iterator[IndexChange]:
        """A tag that moved, and each manifest that came without one."""
        named = set()
        for repository, key in dict.fromkeys(self._tags):
            name = key[17:].decode("utf-8", "surrogatepass")
            tag = change.tag_of(self._view, repository, name)
            if tag is not None:
                named.add((repository, tag.digest.key))
                event = self._manifest("push", repository, tag.digest.key)
                yield store_events.unnumbered(replace(event, kind="tag", tag=name, origin=tag.origin))
        for repository, raw in dict.fromkeys(self._manifests):
            link = layout.link_key(repository, layout.AS_MANIFEST, raw)
            if (repository, raw) not in named and change.present(self._view, link):
                yield store_events.unnumbered(self._manifest("push", repository, raw))


def _payload(key: bytes, value: bytes | None) -> bytes | None:
    try:
        return None if value is None else layout.unseal(key, value)
    except RecordDamaged:
        return None


def _target(key: bytes, payload: bytes) -> bytes:
    return layout.decode_tag("", payload).digest.key


def _origin(payload: bytes | None) -> str:
    return "parent" if payload is None else layout.decode_tag("", payload).origin
