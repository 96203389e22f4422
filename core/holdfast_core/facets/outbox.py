"""The outbox: what was changed here and is still to go up to the parent."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from concurrent.futures import Future

from holdfast_core import format as layout
from holdfast_core.changes import outbox_rows
from holdfast_core.changes.change import IndexChange, IndexView
from holdfast_core.digest import Digest
from holdfast_core.errors import RecordDamaged
from holdfast_core.index.lmdb_index import Index
from holdfast_core.journal.group_commit import Plan
from holdfast_core.write_access import WriteAccess


def _nothing_settled(_: IndexView) -> Sequence[IndexChange]:
    return ()


class OutboxRows:
    """The numbered rows of the outbox, and the manifests that the parent does not know yet. The rows are added in the
    transaction of the change that they tell of (`References`)."""

    def __init__(self, index: Index, access: WriteAccess) -> None:
        self._index = index
        self._access = access
        self._get = index.get

    def rows(self, *, after: int = 0, limit: int | None = None) -> list[tuple[int, bytes]]:
        """(number, body) of what is still to go up to the parent, in order, those above `after`, at most `limit`. A
        damaged row is left out."""
        rows = []
        start = layout.outbox_key(after) if after else layout.OUTBOX
        for key, value in self._index.scan(layout.OUTBOX, after=start, limit=limit):
            with contextlib.suppress(RecordDamaged):
                rows.append((layout.outbox_number(key), layout.unseal(key, value)))
        return rows

    def row(self, number: int) -> bytes | None:
        """One of these. Raises RecordDamaged."""
        return self._get(layout.outbox_key(number))

    def last(self) -> int:
        """The number that was given last; cheap. Raises RecordDamaged."""
        return layout.decode_number(self._get(layout.OUTBOX))

    def is_pending(self, repository: str, digest: Digest) -> bool:
        """Whether a manifest was pushed here and the parent does not know it yet."""
        return self._get(layout.pending_key(repository, digest)) is not None

    def pending(self) -> list[tuple[str, Digest]]:
        """(repository, digest) of all of these; a damaged row is left out."""
        rows = self._index.scan(layout.PENDING)
        entries = []
        for key, value in rows:
            with contextlib.suppress(RecordDamaged):
                name = layout.decode_pending(layout.unseal(key, value))
                entries.append((name, layout.digest_from(key, key[17:])))
        return entries

    def confirmed_by(self, repository: str, digest: Digest) -> bytes:
        """The mark of the parent that confirmed a digest which was pushed here; b"" for none."""
        return self._get(layout.CONFIRMED + layout.repository_hash(repository) + digest.key) or b""

    def withdraw(self, repository: str, digests: Sequence[Digest]) -> Future[None]:
        """The parent does not have these, whatever it said before."""
        return self._access.submit(lambda view: outbox_rows.unconfirmed(view, repository, digests))

    def change(
        self, puts: Sequence[tuple[int, bytes]], removes: Sequence[int], settled: Plan = _nothing_settled
    ) -> Future[None]:
        """Rewrite and remove rows of the outbox, in one transaction with what `settled` changes. The keeper's doing,
        no client's: allowed in every mode."""
        return self._access.submit(
            lambda view: [*outbox_rows.rewritten(puts, removes), *settled(view)], frees=True
        )
