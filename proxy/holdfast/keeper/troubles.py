"""What is wrong with a node, in sentences that say what to do: for its operator in /readyz, and, of a connected
registry, for those above it in its status."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from holdfast_core.record import Damage

from holdfast.control.resource import StatusDetail
from holdfast.keeper import disk
from holdfast.keeper.switches import trouble_of
from holdfast.repository import Repository

if TYPE_CHECKING:
    from holdfast.keeper.keeper import Keeper
    from holdfast.notify.upward import Upward
    from holdfast.notify.webhooks import Webhooks
    from holdfast.replica.replica import Replica

#: damaged blobs that are counted for a sentence, and those that it names
DAMAGE_COUNTED, DAMAGE_NAMED = 1000, 5


def troubles_of(keeper: Keeper) -> list[StatusDetail]:
    """All of them. `type` is the component and `code` the error, as the original's `Disk` and `DiskError` are
    (connected-registry 2.5)."""
    parents = [words for parent in keeper.parents.values() if (words := trouble_of(parent))]
    parents += [words for parent in keeper.parents.values() for words in parent.mirror_faults]
    found = [
        ("Disk", disk.CODE, keeper.disk.sentences() or keeper.fills.passing()),
        ("Content", "Damaged", [*_damage(keeper), *keeper.records.notes()]),
        ("Parent", "NothingToBeHad", parents),
        ("Parent", "Transfers", keeper.fills.troubles()),
        ("Synchronisation", "Stalled", _notes(keeper.replica)),
        ("Outbox", "Refused", [words for climb in keeper.climbs for words in climb.notes()]),
        ("Notices", "Refused", _notes(keeper.upward)),
        ("Webhook", "Failing", _notes(keeper.webhooks)),
    ]
    return [
        StatusDetail(type=kind, code=code, description=words) for kind, code, said in found for words in said
    ]


def _notes(part: Replica | Upward | Webhooks | None) -> list[str]:
    return part.notes() if part is not None else []


def _damage(keeper: Keeper) -> list[str]:
    """A sentence about content that is damaged here and that no parent brings back by itself."""
    found = keeper.store.damage(limit=DAMAGE_COUNTED)
    lost = [
        one for one in found if one.owned or not any(_parent_of(keeper, name) for name in one.repositories)
    ]
    return [damage_sentence(lost, len(found) == DAMAGE_COUNTED)] if lost else []


def _parent_of(keeper: Keeper, repository: str) -> bool:
    return Repository.from_key(repository).namespace in keeper.parents


def damage_sentence(found: Sequence[Damage], more: bool) -> str:
    """What is damaged, where, and what to do about it."""
    named = "; ".join(
        f"{one.digest} in {', '.join(one.repositories[:DAMAGE_NAMED]) or 'no repository'}"
        for one in found[:DAMAGE_NAMED]
    )
    rest = "; …" if len(found) > DAMAGE_NAMED else ""
    count = f"{len(found)}{' or more' if more else ''} blob(s) are damaged"
    return f"{count}: {named}{rest} (push them again; holdfast fsck lists all)"
