"""What requests to the admin API carry: one struct a body, with the original's property names (connected-registry 1.2,
2.1, 4.1). The schema that the OpenAPI document shows is made of these very structs.

A body has only what its caller may set. What is read-only, or cannot change after creation, is no field here; the
reader of bodies says so by name (`holdfast.admin.reading`). Ids are paths (`/tokens/plant`) or plain names.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType, field

from holdfast.control.resource import EnabledStatus, LogLevel, PasswordName, SwitchStatus
from holdfast.parent.health import Switch

#: `Registry` and `Mirror` are what the modes were called before (C1)
AnyMode = Literal["ReadWrite", "ReadOnly", "Registry", "Mirror"]

Text = Annotated[str, Meta(max_length=512)]
# what follows says more in the schema; the rules themselves are the control plane's, with better sentences
Cron = Annotated[
    str, Meta(max_length=512, description="5 fields, UTC", extra_json_schema={"examples": ["0 9 * * *"]})
]
Duration = Annotated[
    str, Meta(max_length=512, description="ISO 8601", extra_json_schema={"examples": ["P2D"]})
]
Moment = Annotated[
    str,
    Meta(max_length=512, description="RFC 3339", extra_json_schema={"examples": ["2099-01-31T00:00:00Z"]}),
]
Repositories = Annotated[
    tuple[Text, ...], Meta(extra_json_schema={"examples": [["team/app", "team/base/*"]]})
]
TokenNames = Annotated[tuple[Text, ...], Meta(extra_json_schema={"examples": [["client1"], []]})]
Patterns = Annotated[tuple[Text, ...], Meta(extra_json_schema={"examples": [["team/app:*:push"], []]})]
Actions = Annotated[
    tuple[Text, ...],
    Meta(extra_json_schema={"examples": [["repositories/team/app/content/read"]]}),
]
Description = Annotated[str, Meta(max_length=256)]
Days = Annotated[int, Meta(ge=1, le=36500, description="days from now")]


class Body(Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """Base of every request body."""


class NewSync(Body, frozen=True):
    """How the connected registry synchronises. `tokenId` is an existing token, instead of `repositories`."""

    token_id: Text | None = None
    schedule: Cron = "* * * * *"
    sync_window: Duration | None = None
    message_ttl: Duration = "P2D"


class NewParent(Body, frozen=True):
    """`id` of another connected registry; null for this registry itself."""

    id: Text | None = None
    sync_properties: NewSync = field(default_factory=NewSync)


class LoggingSettings(Body, frozen=True):
    """What the node logs."""

    log_level: LogLevel = "Information"
    audit_log_status: SwitchStatus = "Disabled"


class CollectionSettings(Body, frozen=True):
    """When bytes that nobody has go; `schedule` is cron."""

    enabled: bool = True
    schedule: Cron = "0 0 * * *"


class NewRegistryProperties(Body, frozen=True):
    """`repositories` are what it synchronises: token and scope map are made for them. Exactly one of `repositories`
    and `parent.syncProperties.tokenId`."""

    mode: AnyMode
    parent: NewParent = field(default_factory=NewParent)
    repositories: Repositories | None = None
    client_token_ids: TokenNames = ()
    logging: LoggingSettings = field(default_factory=LoggingSettings)
    notifications_list: Patterns = ()
    garbage_collection: CollectionSettings = field(default_factory=CollectionSettings)


class NewRegistry(Body, frozen=True):
    """PUT of a connected registry."""

    properties: NewRegistryProperties


class ParentChange(Body, frozen=True):
    """`offline`: not a packet goes to this parent; `auto`: what the node finds counts."""

    switch: Switch


class SyncChange(Body, frozen=True):
    """What is not said stays; `syncWindow` null removes the window."""

    schedule: Cron | UnsetType = UNSET
    sync_window: Duration | UnsetType | None = UNSET
    message_ttl: Duration | UnsetType = UNSET


class LoggingChange(Body, frozen=True):
    """What is not said stays."""

    log_level: LogLevel | UnsetType = UNSET
    audit_log_status: SwitchStatus | UnsetType = UNSET


class CollectionChange(Body, frozen=True):
    """What is not said stays."""

    enabled: bool | UnsetType = UNSET
    schedule: Cron | UnsetType = UNSET


class RegistryChangeProperties(Body, frozen=True):
    """`clientTokenIds` and `notificationsList` replace the whole list; the add and remove lists change it."""

    sync_properties: SyncChange = field(default_factory=SyncChange)
    logging: LoggingChange = field(default_factory=LoggingChange)
    garbage_collection: CollectionChange = field(default_factory=CollectionChange)
    client_token_ids: TokenNames | UnsetType = UNSET
    notifications_list: Patterns | UnsetType = UNSET
    add_client_tokens: TokenNames = ()
    remove_client_tokens: TokenNames = ()
    add_notifications: Patterns = ()
    remove_notifications: Patterns = ()


class RegistryChange(Body, frozen=True):
    """PATCH of a connected registry."""

    properties: RegistryChangeProperties


class PermissionsChange(Body, frozen=True):
    """Repositories to add to a connected registry and all its ancestors, and to remove from it and all its
    descendants."""

    add: Repositories = ()
    remove: Repositories = ()


class SettingsWanted(Body, frozen=True):
    """`generatePassword` makes a new password of that number and thereby ends the old one; without it nothing changes.
    `parentEndpoint` is host[:port] of the parent where this node does not know it."""

    parent_protocol: Literal["http", "https"]
    generate_password: Literal[1, 2] | None = None
    parent_endpoint: Text | None = None


class NewScopeMapProperties(Body, frozen=True):
    """Actions as `repositories/<name>/content/read`."""

    actions: Actions
    description: Description = ""


class NewScopeMap(Body, frozen=True):
    """PUT of a scope map."""

    properties: NewScopeMapProperties


class ScopeMapChangeProperties(Body, frozen=True):
    """`actions` replaces the whole list; the add and remove lists change it."""

    actions: Actions | UnsetType = UNSET
    description: Description | UnsetType = UNSET
    add_actions: Actions = ()
    remove_actions: Actions = ()


class ScopeMapChange(Body, frozen=True):
    """PATCH of a scope map."""

    properties: ScopeMapChangeProperties


class NewTokenProperties(Body, frozen=True):
    """Exactly one of `scopeMapId` and `actions`; with `actions` a scope map `<token>-scope-map` is made. Both
    passwords are generated unless `noPasswords`."""

    scope_map_id: Text | None = None
    actions: Actions | None = None
    status: EnabledStatus = "enabled"
    no_passwords: bool = False
    expiry: Moment | None = None
    expiration_in_days: Days | None = None


class NewToken(Body, frozen=True):
    """PUT of a token."""

    properties: NewTokenProperties


class TokenChangeProperties(Body, frozen=True):
    """What is not said stays."""

    scope_map_id: Text | UnsetType = UNSET
    status: EnabledStatus | UnsetType = UNSET


class TokenChange(Body, frozen=True):
    """PATCH of a token."""

    properties: TokenChangeProperties


class CredentialsWanted(Body, frozen=True):
    """Passwords to make anew; both when none is named. `value` is a password that a person chose, for one of them."""

    passwords: tuple[PasswordName, ...] = ()
    expiry: Moment | None = None
    expiration_in_days: Days | None = None
    value: Annotated[str, Meta(max_length=1024)] | None = None


class CredentialsGone(Body, frozen=True):
    """Passwords to end."""

    passwords: Annotated[tuple[PasswordName, ...], Meta(min_length=1)]
