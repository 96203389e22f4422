"""The health of a node: its troubles, in sentences that say what to do, for its operator in /readyz and, of a connected
registry, for the registries above it in its status; and its counters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from holdfast_core.record import Damage

from holdfast.keeper import disk
from holdfast.keeper.api import KeeperStatus
from holdfast.keeper.keeper_parts import KeeperParts
from holdfast.parent.switch import trouble_of
from holdfast.resources.model import StatusDetail
from holdfast.routing import Repository

if TYPE_CHECKING:  # without a parent a node does without these: aiohttp is 10 MB
    from holdfast.gateway.own_registry import OwnRegistry
    from holdfast.notify.notices import NoticeSender
    from holdfast.notify.webhook_delivery import Webhooks
    from holdfast.sync.synchroniser import Synchroniser

#: damaged blobs that are counted for a sentence, and those that it names
DAMAGE_COUNTED, DAMAGE_NAMED = 1000, 5


class NodeHealth:
    """Reads the health from the parts of the keeper."""

    def __init__(self, parts: KeeperParts) -> None:
        self._parts = parts

    def troubles(self) -> list[StatusDetail]:
        """All troubles. `type` is the component and `code` the error, as the original's `Disk` and `DiskError` are
        (references.md 1.9)."""
        parents = [sentence for parent in self._parts.parents.values() if (sentence := trouble_of(parent))]
        parents += [sentence for parent in self._parts.parents.values() for sentence in parent.mirror_faults]
        full = self._parts.disk.sentences()
        rows = [
            ("Disk", disk.CODE, full or self._parts.fills.passing()),
            ("Store", "BudgetSpent", [] if full else self._parts.eviction.sentences()),
            (
                "Content",
                "Damaged",
                [*self._damage(), *self._parts.scrub.notes(), *self._parts.records.notes()],
            ),
            ("Parent", "NothingToBeHad", parents),
            ("Parent", "Transfers", self._parts.fills.troubles()),
            ("Synchronisation", "Stalled", _notes(self._parts.synchroniser)),
            (
                "Outbox",
                "Refused",
                [sentence for sender in self._parts.senders for sentence in sender.notes()],
            ),
            ("Notices", "Refused", _notes(self._parts.notices)),
            ("Webhook", "Failing", _notes(self._parts.webhooks)),
        ]
        return [
            StatusDetail(type=kind, code=code, description=sentence)
            for kind, code, sentences in rows
            for sentence in sentences
        ]

    async def status(self) -> KeeperStatus:
        """See `KeeperApi.status`."""
        troubles = [*(detail.description for detail in self.troubles()), *_notes(self._parts.own_registry)]
        states: dict[str, str] = {name: parent.verdict for name, parent in self._parts.parents.items()}
        return KeeperStatus(not self._parts.disk.is_failed, tuple(troubles), states, self._counters())

    def _counters(self) -> dict[str, int]:
        counters = {**self._parts.fills.counters, "unstored_manifests": self._parts.manifests.unstored}
        counters |= self._outbox_counters() | self._parts.eviction.counters | self._parts.scrub.counters
        for name, parent in self._parts.parents.items():
            counters |= {f"parent.{name or 'default'}.{key}": value for key, value in parent.counters.items()}
        return counters

    def _outbox_counters(self) -> dict[str, int]:
        """Entries that are still to be sent, how many of them wait for a cap of 0 and how many are under way, when the
        oldest was written (wall seconds, 0 for none), and how many a minute the parents confirm."""
        oldest = [at for sender in self._parts.senders if (at := sender.oldest_at) is not None]
        return {
            "outbox": sum(map(len, self._parts.senders)),
            "outbox.capped": sum(len(sender) for sender in self._parts.senders if sender.is_capped),
            "outbox.under_way": sum(sender.under_way for sender in self._parts.senders),
            "outbox.oldest_at": int(min(oldest, default=0.0)),
            "outbox.per_minute": round(60 * sum(sender.per_second() for sender in self._parts.senders)),
        }

    def _damage(self) -> list[str]:
        """A sentence about content that is damaged here and that no parent brings back by itself."""
        damaged = self._parts.store.blobs.damage(limit=DAMAGE_COUNTED)
        lost = [one for one in damaged if one.owned or not any(map(self._has_parent, one.repositories))]
        return [damage_sentence(lost, len(damaged) == DAMAGE_COUNTED)] if lost else []

    def _has_parent(self, repository: str) -> bool:
        return Repository.from_key(repository).namespace in self._parts.parents


def _notes(part: Synchroniser | NoticeSender | Webhooks | OwnRegistry | None) -> list[str]:
    return part.notes() if part is not None else []


def damage_sentence(damaged: Sequence[Damage], more: bool) -> str:
    """Which blobs are damaged, where, and what to do about it."""
    named = "; ".join(
        f"{one.digest} in {', '.join(one.repositories[:DAMAGE_NAMED]) or 'no repository'}"
        for one in damaged[:DAMAGE_NAMED]
    )
    rest = "; …" if len(damaged) > DAMAGE_NAMED else ""
    count = f"{len(damaged)}{' or more' if more else ''} blob(s) are damaged"
    return f"{count}: {named}{rest} (push them again; holdfast fsck lists all)"
