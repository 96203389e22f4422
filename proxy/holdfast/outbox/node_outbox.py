"""The outbox of a node: the queues of all parents. Changes of content write rows into it; a sender for each
parent reads its queue."""

from __future__ import annotations

from collections.abc import Iterable

from holdfast_core.digest import Digest
from holdfast_core.facets.outbox import OutboxRows

from holdfast.outbox.stored_queue import StoredQueue


class NodeOutbox:
    """One queue for each parent, by namespace; none on a root."""

    def __init__(self, rows: OutboxRows, namespaces: Iterable[str]) -> None:
        self.queues = {namespace: StoredQueue(rows, namespace) for namespace in namespaces}

    def wake_senders(self) -> None:
        """Have the senders look for new rows now."""
        for queue in self.queues.values():
            queue.changed.set()

    def is_going_up(self, repository: str, tag: str) -> bool:
        """Whether a change of a tag is still to be sent, as far as its row was read."""
        return any(queue.is_going_up(repository, tag) for queue in self.queues.values())

    async def moved_to(self, repository: str, tag: str) -> str:
        """The digest of the last move of a tag that is still to be sent; "" for none, and for a delete."""
        for queue in self.queues.values():
            if digest := await queue.moved_to(repository, tag):
                return digest
        return ""

    async def blobs_arrived(self, repository: str, digest: Digest) -> None:
        """All blobs of a pushed manifest are here now."""
        for queue in self.queues.values():
            await queue.blobs_arrived(repository, digest)

    async def retry(self, number: int) -> bool:
        """Have an entry sent now, for an operator; False when there is no such entry."""
        for queue in self.queues.values():
            if await queue.retry(number):
                return True
        return False

    async def retry_damaged(self) -> None:
        """Have the entries sent that failed because content here was damaged: it is whole again."""
        for queue in self.queues.values():
            await queue.retry_damaged()
