"""What a request says of a connected registry: the fields of `ConnectedRegistry` with the defaults of a creation, or
each of them left out for a change. The admin API reads these structs, and the commands carry them to the keeper."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType, field

from holdfast.resources.derived_fields import fields_of
from holdfast.resources.model import (
    AT_CREATION,
    INTERNAL,
    ConnectedRegistry,
    GarbageCollection,
    Logging,
    Mode,
    Patterns,
    SyncProperties,
    Text,
    TokenNames,
)

#: `Registry` and `Mirror` are what the modes were called before (C1)
AnyMode = Literal["ReadWrite", "ReadOnly", "Registry", "Mirror"]
MODES: dict[AnyMode, Mode] = {
    "ReadWrite": "ReadWrite",
    "ReadOnly": "ReadOnly",
    "Registry": "ReadWrite",
    "Mirror": "ReadOnly",
}
Repositories = Annotated[
    tuple[Text, ...], Meta(extra_json_schema={"examples": [["team/app", "team/base/*"]]})
]


class AdminBody(Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """Base of every request body."""


@fields_of(SyncProperties, "default")
class NewSync(AdminBody, frozen=True):
    """How the connected registry synchronises. `tokenId` is an existing token, instead of `repositories`."""

    token_id: Text | None = None


class NewParent(AdminBody, frozen=True):
    """`id` of another connected registry; null for this registry itself."""

    id: Text | None = None
    sync_properties: NewSync = field(default_factory=NewSync)


@fields_of(Logging, "default")
class LoggingSettings(AdminBody, frozen=True):
    """What the node logs."""


@fields_of(GarbageCollection, "default")
class CollectionSettings(AdminBody, frozen=True):
    """When bytes that no repository has are removed; `schedule` is cron."""


@fields_of(
    ConnectedRegistry,
    "default",
    without=INTERNAL,
    nested={Logging: LoggingSettings, GarbageCollection: CollectionSettings},
)
class NewRegistryProperties(AdminBody, frozen=True):
    """`repositories` are what it synchronises: token and scope map are made for them. Exactly one of `repositories`
    and `parent.syncProperties.tokenId`."""

    mode: AnyMode
    parent: NewParent = field(default_factory=NewParent)
    repositories: Repositories | None = None


@fields_of(SyncProperties, "optional", without=frozenset({"token_id"}))
class SyncChange(AdminBody, frozen=True):
    """A field that is left out stays; `syncWindow` null removes the window."""


@fields_of(Logging, "optional")
class LoggingChange(AdminBody, frozen=True):
    """A field that is left out stays."""


@fields_of(GarbageCollection, "optional")
class CollectionChange(AdminBody, frozen=True):
    """A field that is left out stays."""


@fields_of(
    ConnectedRegistry,
    "optional",
    without=INTERNAL | AT_CREATION,
    nested={Logging: LoggingChange, GarbageCollection: CollectionChange},
)
class RegistryChangeProperties(AdminBody, frozen=True):
    """`clientTokenIds` and `notificationsList` replace the whole list; the add and remove lists change it."""

    sync_properties: SyncChange = field(default_factory=SyncChange)
    client_token_ids: TokenNames | UnsetType = UNSET
    notifications_list: Patterns | UnsetType = UNSET
    add_client_tokens: TokenNames = ()
    remove_client_tokens: TokenNames = ()
    add_notifications: Patterns = ()
    remove_notifications: Patterns = ()
