"""The resources of the control plane, field by field as the original has them (references.md 1.1, 1.17).

What is stored, what the API shows and what goes down to a child are the same structs. JSON names are camelCase.
Times are RFC 3339 in UTC ("2026-11-26T22:00:00Z"), durations ISO 8601 ("PT3H"). Ids are paths
(`/tokens/plant`); a plain name is taken on input.

The operator's configuration of a connected registry (`ConnectedRegistry`) and what the node reports (`Status`) are
two records: a heartbeat changes no other writer's fields and no ETag.
"""

from __future__ import annotations

from string import ascii_lowercase, ascii_uppercase
from typing import Annotated, Literal

from msgspec import Meta, Struct, field

from holdfast.resources.derived_fields import Requested

_LOWER = str.maketrans(ascii_uppercase, ascii_lowercase)

Mode = Literal["ReadWrite", "ReadOnly"]
LogLevel = Literal["Debug", "Information", "Warning", "Error", "None"]
EnabledStatus = Literal["enabled", "disabled"]
SwitchStatus = Literal["Enabled", "Disabled"]
SyncTrigger = Literal["SyncTokenUpdate", "InitialSync", "ManualResync", "RecoveryService"]
SyncState = Literal["NotActivated", "Pending", "Syncing", "Succeeded", "Failed", "TimedOut"]
ConnectionState = Literal["Online", "Offline", "Syncing", "Unhealthy"]
PasswordName = Literal["password1", "password2"]

#: A text in a request. The rules themselves are in rules.py, with better sentences.
Text = Annotated[str, Meta(max_length=512)]
CronText = Annotated[
    str, Meta(max_length=512, description="5 fields, UTC", extra_json_schema={"examples": ["0 9 * * *"]})
]
DurationText = Annotated[
    str, Meta(max_length=512, description="ISO 8601", extra_json_schema={"examples": ["P2D"]})
]
TokenNames = Annotated[tuple[Text, ...], Meta(extra_json_schema={"examples": [["client1"], []]})]
Patterns = Annotated[tuple[Text, ...], Meta(extra_json_schema={"examples": [["team/app:*:push"], []]})]


class ResourceStruct(Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """Base of everything that is stored or sent as JSON."""


class SyncProperties(ResourceStruct, frozen=True):
    """How a connected registry synchronises with its parent. `token_id` is the sync token."""

    token_id: str
    schedule: Annotated[str, Requested(CronText)] = "* * * * *"
    sync_window: Annotated[str | None, Requested(DurationText | None)] = None
    message_ttl: Annotated[str, Requested(DurationText)] = "P2D"


class ParentProperties(ResourceStruct, frozen=True):
    """The parent: `id` of another connected registry, None for the root."""

    sync_properties: SyncProperties
    id: str | None = None


class Logging(ResourceStruct, frozen=True):
    """What the node logs; taken up at its next sync."""

    log_level: LogLevel = "Information"
    audit_log_status: SwitchStatus = "Disabled"


class GarbageCollection(ResourceStruct, frozen=True):
    """When bytes that no repository has are removed; `schedule` is cron."""

    enabled: bool = True
    schedule: Annotated[str, Requested(CronText)] = "0 0 * * *"


class ConnectedRegistry(ResourceStruct, frozen=True):
    """The operator's configuration of one connected registry. `name` keeps its casing; names compare without it.

    `deactivated` and `resync_requested` are when the operator last requested it: they are sent down the tree with the
    rest, so that the request reaches a registry whose parent is no root; the API does not show them."""

    name: str
    mode: Mode
    parent: ParentProperties
    created: str = ""
    client_token_ids: Annotated[tuple[str, ...], Requested(TokenNames)] = ()
    logging: Logging = field(default_factory=Logging)
    notifications_list: Annotated[tuple[str, ...], Requested(Patterns)] = ()
    garbage_collection: GarbageCollection = field(default_factory=GarbageCollection)
    deactivated: str = ""
    resync_requested: str = ""


#: Fields of a connected registry that its name and the node's service decide, not a request.
INTERNAL = frozenset({"name", "created", "deactivated", "resync_requested"})
#: Fields that a request sets at creation alone, or elsewhere than the other settings.
AT_CREATION = frozenset({"mode", "parent"})


class StatusDetail(ResourceStruct, frozen=True):
    """One trouble. `type` is a component ("Disk"), `code` its error ("DiskError")."""

    type: str
    code: str
    description: str
    timestamp: str = ""
    correlation_id: str = ""


class Certificate(ResourceStruct, frozen=True):
    """Where the node's certificate lies."""

    type: Literal["LocalDirectory"] = "LocalDirectory"
    location: str = ""


class LoginTls(ResourceStruct, frozen=True):
    """Whether clients speak TLS to the node."""

    status: SwitchStatus = "Disabled"
    certificate: Certificate | None = None


class LoginServer(ResourceStruct, frozen=True):
    """The address of the node for clients, as it reports it."""

    host: str = ""
    tls: LoginTls = field(default_factory=LoginTls)


class SyncResult(ResourceStruct, frozen=True):
    """The last full synchronisation."""

    sync_trigger: SyncTrigger | None = None
    sync_state: SyncState = "NotActivated"
    last_sync_start_time: str | None = None
    last_sync_end_time: str | None = None
    last_successful_sync_end_time: str | None = None


class SyncProgress(ResourceStruct, frozen=True):
    """The progress of a run of synchronisation. `rate` is bytes a second; `secondsLeft` is null while it is not
    known."""

    images_done: int
    images: int
    bytes_done: int
    bytes: int
    rate: float
    seconds_left: float | None
    retrying: int
    failed: int
    parked: int


class Lease(ResourceStruct, frozen=True):
    """Which instance is active. `generation` counts activations; `expires` is when another may take over."""

    instance: str
    generation: int
    expires: str


class Status(ResourceStruct, frozen=True, omit_defaults=True):
    """The last report of a connected registry on itself. Never shown with its lease."""

    version: str | None = None
    last_activity_time: str | None = None
    last_sync_time: str | None = None
    login_server: LoginServer | None = None
    status_details: tuple[StatusDetail, ...] = ()
    registry_sync_result: SyncResult = field(default_factory=SyncResult)
    syncing: bool = False
    sync_progress: SyncProgress | None = None
    lease: Lease | None = None
    #: of the last lease; stays after deactivation, so that an old instance is recognised
    generation: int = 0
    #: of the configuration by which it works, None where it does not say
    revision: int | None = None


class ScopeMap(ResourceStruct, frozen=True):
    """Named permissions. `actions` keep the casing they were given in."""

    name: str
    actions: tuple[str, ...] = ()
    description: str = ""
    type: Literal["UserDefined", "SystemDefined"] = "UserDefined"
    creation_date: str = ""


class Password(ResourceStruct, frozen=True):
    """One of a token's two passwords. `verifier` proves it and never leaves but for a child's gateway: "sha256:<hex>"
    of a generated secret of 256 bits, an argon2id string for what a person chose."""

    name: PasswordName
    creation_time: str
    verifier: str
    expiry: str | None = None


class Token(ResourceStruct, frozen=True):
    """An identity: name, status, two passwords, one scope map."""

    name: str
    scope_map_id: str
    status: EnabledStatus = "enabled"
    creation_date: str = ""
    passwords: tuple[Password, ...] = ()


class Revision(ResourceStruct, frozen=True):
    """How often the configuration of a connected registry was changed at the root, and since when there is a change
    that the node has not taken over, "" for none. A node reports the number that it works by."""

    number: int = 0
    since: str = ""


class RegistryConfiguration(ResourceStruct, frozen=True):
    """What the gateway hands to a child: its own resource, those below it, and every token and scope map that any of
    them needs, verifiers included. `etag` is that of the answer."""

    registry: ConnectedRegistry
    etag: str = ""
    below: tuple[ConnectedRegistry, ...] = ()
    tokens: tuple[Token, ...] = ()
    scope_maps: tuple[ScopeMap, ...] = ()
    #: what the levels above are called: clients that mean one of them by `ns` mean this content
    namespaces: tuple[str, ...] = ()
    #: of its own configuration and of those below, by lower-cased name
    revisions: dict[str, Revision] = field(default_factory=dict)


class Identity(ResourceStruct, frozen=True):
    """The identity of a managed node. One record, kind "identity", name "self". `activated` is "" until the parent
    activated it; from then on the node starts without it. `generation` is that of its lease. `namespaces` are what
    the levels above are called."""

    name: str
    instance: str
    activated: str = ""
    generation: int = 0
    etag: str = ""
    last_contact: str = ""
    trouble: str = ""
    namespaces: tuple[str, ...] = ()


class NoticesTaken(ResourceStruct, frozen=True):
    """On a parent: how far it has taken a connected registry's notices, by the numbers of that node's event log."""

    log: str
    number: int


#: Kinds of records in the store. QUIET ones do not count as a change of the control plane.
REGISTRY, STATUS, SCOPE_MAP, TOKEN, IDENTITY, NOTICES, REVISION = (
    "connected-registry",
    "status",
    "scope-map",
    "token",
    "identity",
    "notices",
    "revision",
)
KINDS = {
    REGISTRY: ConnectedRegistry,
    STATUS: Status,
    SCOPE_MAP: ScopeMap,
    TOKEN: Token,
    IDENTITY: Identity,
    NOTICES: NoticesTaken,
    REVISION: Revision,
}
QUIET = frozenset({STATUS, IDENTITY, NOTICES})
PATHS = {REGISTRY: "connectedRegistries", SCOPE_MAP: "scopeMaps", TOKEN: "tokens"}


def id_of(kind: str, name: str) -> str:
    """`/tokens/plant`."""
    return f"/{PATHS[kind]}/{name}"


def name_in(id: str) -> str:
    """The name at the end of an id, or the plain name itself."""
    return id.rpartition("/")[2]


def lowered(name: str) -> str:
    """A name as names are compared: ASCII letters in lower case. `str.lower` would make a k of U+212A, and so a name
    that none may have another spelling of one that is there."""
    return name.translate(_LOWER)
