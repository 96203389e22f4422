"""Transactions outside the writer's thread, while there is no other writer, and what follows from changes in any."""

from __future__ import annotations

from collections.abc import Iterable

from holdfast_core.changes.change import IndexChange
from holdfast_core.changes.derivation import Derivation
from holdfast_core.index.lmdb_index import Index, Transaction, TransactionView


def derivation_in(index: Index, txn: Transaction) -> tuple[TransactionView, Derivation]:
    """(what planners see, where their changes are put) in a transaction."""
    view = TransactionView(txn)

    def write(key: bytes, value: bytes | None) -> None:
        if value is None:
            txn.delete(key)
        else:
            txn.put(key, value)

    return view, Derivation(view, write, index.written_at)


def commit(index: Index, changes: Iterable[IndexChange]) -> None:
    """One transaction, with all that follows from the changes."""
    with index.begin(write=True) as txn:
        _, derivation = derivation_in(index, txn)
        for change in changes:
            derivation.put(change)
        derivation.finish()


def commit_alone(index: Index, changes: Iterable[IndexChange]) -> None:
    """One transaction with nothing but the changes."""
    with index.begin(write=True) as txn:
        for key, value, _ in changes:
            if value is None:
                txn.delete(key)
            else:
                txn.put(key, value)
