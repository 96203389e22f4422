"""What the admin API answers, as structs: from these the OpenAPI document is made, and tests hold every answer to it.

`holdfast.control.view` makes the answers themselves. Times are RFC 3339 in UTC.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from holdfast.control.resource import (
    ConnectionState,
    EnabledStatus,
    GarbageCollection,
    Logging,
    LoginServer,
    Mode,
    PasswordName,
    StatusDetail,
    SyncProgress,
    SyncResult,
)
from holdfast.replica.report import SyncReport


class Document(Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """Base of every answer."""


class Activation(Document, frozen=True):
    """Whether an instance has taken the resource up."""

    status: Literal["Active", "Inactive"]


class SyncDocument(Document, frozen=True):
    """How and when it synchronised. `gatewayEndpoint` is empty: where a parent is reached, its operator knows."""

    token_id: str
    schedule: str
    sync_window: str | None
    message_ttl: str
    last_sync_time: str | None
    gateway_endpoint: str


class ParentDocument(Document, frozen=True):
    """`id` is null directly below this registry."""

    id: str | None
    sync_properties: SyncDocument


class RegistryProperties(Document, frozen=True):
    """Every field of connected-registry 1.2."""

    provisioning_state: Literal["Succeeded"]
    mode: Mode
    version: str | None
    connection_state: ConnectionState
    last_activity_time: str | None
    last_activity_seconds: int | None
    expected_time: str | None
    activation: Activation
    parent: ParentDocument
    client_token_ids: tuple[str, ...]
    login_server: LoginServer | None
    logging: Logging
    status_details: tuple[StatusDetail, ...]
    notifications_list: tuple[str, ...]
    garbage_collection: GarbageCollection
    registry_sync_result: SyncResult
    sync_progress: SyncProgress | None


class RegistryDocument(Document, frozen=True):
    """A connected registry."""

    id: str
    name: str
    type: str
    etag: str
    properties: RegistryProperties


class ScopeMapProperties(Document, frozen=True):
    """Connected-registry 4.1."""

    provisioning_state: Literal["Succeeded"]
    type: Literal["UserDefined", "SystemDefined"]
    description: str
    creation_date: str | None
    actions: tuple[str, ...]


class ScopeMapDocument(Document, frozen=True):
    """A scope map."""

    id: str
    name: str
    type: str
    etag: str
    properties: ScopeMapProperties


class PasswordDocument(Document, frozen=True):
    """A password; `expiry` null is never. `value` is there in the one answer that made it, and never again."""

    name: PasswordName
    creation_time: str
    expiry: str | None
    value: str | UnsetType = UNSET


class CredentialsDocument(Document, frozen=True):
    """A token's passwords."""

    passwords: tuple[PasswordDocument, ...]


class TokenProperties(Document, frozen=True):
    """Connected-registry 4.1."""

    provisioning_state: Literal["Succeeded"]
    status: EnabledStatus
    creation_date: str | None
    scope_map_id: str
    credentials: CredentialsDocument


class TokenDocument(Document, frozen=True):
    """A token."""

    id: str
    name: str
    type: str
    etag: str
    properties: TokenProperties


class RegistryList(Document, frozen=True):
    """A page. `nextLink` is where the next one is; null on the last."""

    value: tuple[RegistryDocument, ...]
    next_link: str | None


class ScopeMapList(Document, frozen=True):
    """A page. `nextLink` is where the next one is; null on the last."""

    value: tuple[ScopeMapDocument, ...]
    next_link: str | None


class TokenList(Document, frozen=True):
    """A page. `nextLink` is where the next one is; null on the last."""

    value: tuple[TokenDocument, ...]
    next_link: str | None


class NewCredentials(Document, frozen=True):
    """Passwords that were made just now, with their values."""

    username: str
    passwords: tuple[PasswordDocument, ...]


class SettingsDocument(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The environment block of a connected registry (connected-registry 3.3), and sentences for the operator. Without
    a new password there is no SYNC_TOKEN_PASSWORD, and the string holds a placeholder."""

    ACR_REGISTRY_CONNECTION_STRING: str
    ACR_REGISTRY_CERTIFICATE_VOLUME: str
    ACR_REGISTRY_DATA_VOLUME: str
    SYNC_TOKEN_USER: str
    SYNC_TOKEN_PASSWORD: str | UnsetType = UNSET
    ACR_REGISTRY_LOGIN_SERVER: str | UnsetType = UNSET
    warnings: tuple[str, ...] = ()


class DifferenceDocument(Document, frozen=True):
    """What changed about one resource: of a scope map the actions, of a connected registry the client tokens and
    notifications."""

    kind: str
    name: str
    change: str
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()


class ChangeDocument(Document, frozen=True):
    """What was changed, or, with `dryRun`, what would be. `followUp` are commands that are left to the operator."""

    name: str
    changed: bool
    difference: tuple[DifferenceDocument, ...]
    follow_up: tuple[str, ...]


class ErrorDocument(Document, frozen=True):
    """One error: a code of the distribution spec, a sentence, and the field at fault where there is one."""

    code: str
    message: str
    detail: str


class OpenApi(Struct, frozen=True):
    """An OpenAPI 3.1 document, as far as it is described here."""

    openapi: str
    info: dict[str, str]
    paths: dict[str, Any]


class Errors(Document, frozen=True):
    """Every answer of 400 and above."""

    errors: Annotated[tuple[ErrorDocument, ...], Meta(min_length=1)]


OutboxState = Literal["waiting", "failing", "parked", "conflict", "arrived", "overruled"]


class ConflictDocument(Document, frozen=True):
    """A tag that both sides moved. `base` is what it named at the parent when it was first moved here; "" is nothing,
    null unknown."""

    ours: str
    theirs: str
    base: str | None
    time: str
    policy: Literal["parent-wins", "child-wins", "reject"]
    winner: Literal["parent", "child", "undecided"]


class ParentStateProperties(Document, frozen=True):
    """Whether a parent is there, and what the operator says of it. `since` is when it went or came; `losses` are those
    of the last half hour; the limits are the parent's own words about requests, null where it says nothing."""

    url: str
    state: Literal["online", "degraded", "offline", "denied", "untrusted"]
    switch: Literal["auto", "offline"]
    since: str
    losses: int
    requests: int
    rate_limit: int | None
    rate_limit_remaining: int | None
    note: str


class ParentStateDocument(Document, frozen=True):
    """One parent; `default` is the one without a name."""

    id: str
    name: str
    type: str
    properties: ParentStateProperties


class NodeStatusDocument(Document, frozen=True):
    """How a node is. `troubles` are sentences that say what is wrong and what to do; `synchronisation` is null where
    the node does not synchronise by itself, or cannot say."""

    health: Literal["Healthy", "Troubled", "NotReady"]
    troubles: list[str]
    role: str
    mode: Literal["ReadWrite", "ReadOnly"]
    version: str
    parents: list[ParentStateDocument]
    synchronisation: SyncReport | None
    outbox_entries: int
    free_bytes: int


class ParentStateList(Document, frozen=True):
    """All of them."""

    value: tuple[ParentStateDocument, ...]
    next_link: str | None = None


class OutboxProperties(Document, frozen=True):
    """What was done here and is to be done at the parent. `parked`: the parent refuses it until somebody grants it;
    `conflict`: an operator has to decide; `arrived` and `overruled` are conflicts that were decided."""

    repository: str
    deed: Literal["manifest", "tag", "untag", "delete"]
    digest: str
    tag: str
    state: OutboxState
    time: str
    attempts: int
    reason: str
    next_try: str | None
    conflict: ConflictDocument | None


class OutboxDocument(Document, frozen=True):
    """One entry of the outbox."""

    id: str
    name: str
    type: str
    properties: OutboxProperties


class BacklogDocument(Document, frozen=True):
    """What is still to go up to all parents: entries, how many of them are under way, when the oldest came, how many
    seconds ago, and how many entries a minute the parents confirm, about as it was in the last half minute."""

    entries: int
    under_way: int
    oldest_time: str | None
    oldest_seconds: int
    per_minute: int


class OutboxList(Document, frozen=True):
    """A page of them."""

    value: tuple[OutboxDocument, ...]
    next_link: str | None


class WebhookProperties(Document, frozen=True):
    """A receiver of events, and how far it is. `url` is shown up to its host; `pending` counts among the next 1,000
    events of the log. `failing`: the last try failed, and the event is tried again at `nextTry`."""

    url: str
    patterns: tuple[str, ...]
    format: Literal["eventgrid", "acr"]
    signed: bool
    state: Literal["idle", "delivering", "failing"]
    cursor: int
    pending: int
    delivered: int
    dropped: int
    last_drop_time: str | None
    last_drop_reason: str
    last_answer: str
    last_answer_time: str | None
    failing_since: str | None
    failures: int
    next_try: str | None


class WebhookDocument(Document, frozen=True):
    """One of `[[webhook]]`."""

    id: str
    name: str
    type: str
    properties: WebhookProperties


class WebhookList(Document, frozen=True):
    """A page of them."""

    value: tuple[WebhookDocument, ...]
    next_link: str | None


class EventProperties(Document, frozen=True):
    """Something that changed here. `origin`: by a client here, or after the parent. `connectedRegistry` is where it
    happened, "" for this node; `eventId` is the id by which webhooks tell it, "" when they do not. `theirs` and
    `winner` are of a conflict: what the tag names at the parent, and who won."""

    time: str
    action: Literal["push", "delete", "conflict"]
    kind: Literal["tag", "manifest", "repository"]
    repository: str
    tag: str
    digest: str
    media_type: str
    size: int
    artifact_type: str
    subject: str
    origin: Literal["local", "parent"]
    connected_registry: str
    event_id: str
    theirs: str = ""
    winner: Literal["", "parent", "child", "undecided"] = ""


class EventDocument(Document, frozen=True):
    """One event of the log, by its number."""

    id: str
    name: str
    type: str
    properties: EventProperties


class EventList(Document, frozen=True):
    """A page of the log `log`, the oldest first. `cursor` is the number of the last event that was looked at: what
    happens later is asked for with it as `after`."""

    value: tuple[EventDocument, ...]
    next_link: str | None
    log: str
    cursor: int
