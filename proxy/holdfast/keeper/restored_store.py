"""What a store that was restored from a backup does not go on with: the store that it was copied from may have done
more since."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
from holdfast_core.changes.resource_rows import ResourceView
from holdfast_core.record import ResourceChange
from holdfast_core.store import Store
from msgspec.structs import replace

from holdfast.gateway.identity import SELF
from holdfast.keeper.heartbeats import KIND as LEASES
from holdfast.keeper.heartbeats import NAME
from holdfast.resources.model import IDENTITY, Identity

QUIET = frozenset({LEASES, IDENTITY})


def settle(store: Store, instance: str) -> None:
    """Two things are as if nobody knew them, on disk when this returns. The leases of connected registries below count
    as after a kill, because they may have been renewed after the backup: two instances are never active at once. And a
    connected registry is another `instance` (a random name) than the one that was copied, so that its parent tells them
    apart: it refuses the restored one while the lease of the other lasts, and the other one after that. Raises
    StoreError."""

    def changes(view: ResourceView) -> list[ResourceChange]:
        return list(_changes(view, instance))

    store.documents.change(changes, quiet=QUIET, synced=QUIET).result()


def _changes(view: ResourceView, instance: str) -> Iterator[ResourceChange]:
    yield ResourceChange(LEASES, NAME, None)
    if (held := view.get(IDENTITY, SELF)) is not None:
        identity = msgspec.json.decode(held.body, type=Identity)
        body = msgspec.json.encode(replace(identity, instance=instance, generation=0))
        yield ResourceChange(IDENTITY, SELF, body)
