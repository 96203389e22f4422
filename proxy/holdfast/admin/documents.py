"""What the admin API answers, with the original's property names (references.md 1.1, 1.17). The OpenAPI document
is made from these structs. Times are RFC 3339 in UTC.

An answer never holds a verifier, a lease, or an operator's order that is on its way down.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from holdfast import timestamps
from holdfast.control.command import GeneratedPassword
from holdfast.parent.switch import ParentReport
from holdfast.resources import states
from holdfast.resources.derived_fields import fields_of, shared
from holdfast.resources.model import (
    INTERNAL,
    PATHS,
    REGISTRY,
    SCOPE_MAP,
    TOKEN,
    ConnectedRegistry,
    ConnectionState,
    EnabledStatus,
    LoginServer,
    Password,
    PasswordName,
    Revision,
    ScopeMap,
    Status,
    StatusDetail,
    SyncProgress,
    SyncProperties,
    SyncResult,
    Token,
    id_of,
)
from holdfast.storage.scrubbing.scrub_report import ScrubStatus
from holdfast.sync.report import SyncReport

#: The original's types, without its resource provider.
TYPES = {kind: f"Holdfast/{path}" for kind, path in PATHS.items()}


class Document(Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """Base of every answer."""


def _envelope(kind: str, name: str, etag: str) -> dict[str, str]:
    return {"id": id_of(kind, name), "name": name, "type": TYPES[kind], "etag": etag}


class Activation(Document, frozen=True):
    """Whether an instance has taken the resource up."""

    status: Literal["Active", "Inactive"]


@fields_of(SyncProperties, "required")
class SyncDocument(Document, frozen=True):
    """How and when it synchronised. `gatewayEndpoint` is where the parent is reached, with its scheme, as far as
    this node knows; "" where the parent did not report it."""

    last_sync_time: str | None
    gateway_endpoint: str


class ParentDocument(Document, frozen=True):
    """`id` is null directly below this registry."""

    id: str | None
    sync_properties: SyncDocument


@fields_of(ConnectedRegistry, "required", without=INTERNAL)
class RegistryProperties(Document, frozen=True):
    """Every field of references.md 1.1."""

    provisioning_state: Literal["Succeeded"]
    version: str | None
    connection_state: ConnectionState
    last_activity_time: str | None
    last_activity_seconds: int | None
    expected_time: str | None
    not_taken_over_since: str | None
    activation: Activation
    parent: ParentDocument
    login_server: LoginServer | None
    status_details: tuple[StatusDetail, ...]
    registry_sync_result: SyncResult
    sync_progress: SyncProgress | None


class RegistryDocument(Document, frozen=True):
    """A connected registry."""

    id: str
    name: str
    type: str
    etag: str
    properties: RegistryProperties

    @classmethod
    def of(
        cls,
        registry: ConnectedRegistry,
        status: Status,
        revision: Revision,
        now: float,
        etag: str,
        gateway_endpoint: str = "",
    ) -> RegistryDocument:
        """A connected registry as it is now. `gateway_endpoint` is where its parent is reached, as far as that is
        known."""
        active = status.last_activity_time
        settings = {**shared(registry, RegistryProperties), **shared(status, RegistryProperties)}
        settings["parent"] = ParentDocument(
            id=registry.parent.id,
            sync_properties=SyncDocument(
                **shared(registry.parent.sync_properties, SyncDocument),
                last_sync_time=status.last_sync_time,
                gateway_endpoint=gateway_endpoint,
            ),
        )
        properties = RegistryProperties(
            **settings,
            provisioning_state="Succeeded",
            connection_state=states.connection(status, registry, now),
            last_activity_seconds=None if active is None else max(0, int(now - timestamps.seconds(active))),
            expected_time=states.expected(status, registry, now),
            not_taken_over_since=states.missed(status, revision),
            activation=Activation(status=states.activation(status)),
        )
        return cls(**_envelope(REGISTRY, registry.name, etag), properties=properties)


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

    @classmethod
    def of(cls, scope_map: ScopeMap, etag: str) -> ScopeMapDocument:
        """A scope map."""
        properties = ScopeMapProperties(
            provisioning_state="Succeeded",
            type=scope_map.type,
            description=scope_map.description,
            creation_date=scope_map.creation_date or None,
            actions=scope_map.actions,
        )
        return cls(**_envelope(SCOPE_MAP, scope_map.name, etag), properties=properties)


class PasswordDocument(Document, frozen=True):
    """A password; `expiry` null is never. `value` is there in the one answer that made it, and never again."""

    name: PasswordName
    creation_time: str
    expiry: str | None
    value: str | UnsetType = UNSET

    @classmethod
    def of(cls, password: Password | GeneratedPassword) -> PasswordDocument:
        """A password, with its value when it is generated just now and without anything that proves it otherwise."""
        return cls(**shared(password, cls))


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

    @classmethod
    def of(cls, token: Token, etag: str, generated: tuple[GeneratedPassword, ...] = ()) -> TokenDocument:
        """A token. The passwords `generated` just now are shown with their values."""
        if generated:
            passwords = tuple(PasswordDocument.of(one) for one in generated)
        else:
            passwords = tuple(PasswordDocument.of(one) for one in token.passwords)
        properties = TokenProperties(
            provisioning_state="Succeeded",
            status=token.status,
            scope_map_id=token.scope_map_id,
            creation_date=token.creation_date or None,
            credentials=CredentialsDocument(passwords=passwords),
        )
        return cls(**_envelope(TOKEN, token.name, etag), properties=properties)


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
    """The environment block of a connected registry (references.md 1.12), and sentences for the operator. Without
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


@fields_of(ParentReport, "required", without=frozenset({"name"}))
class ParentStateProperties(Document, frozen=True):
    """The state of a parent, and the operator's switch. `since` is when the state began; `losses` are those
    of the last half hour; the limits are those that the parent reports for requests, null where it reports none."""


class ParentStateDocument(Document, frozen=True):
    """One parent; `default` is the one without a name."""

    id: str
    name: str
    type: str
    properties: ParentStateProperties


class NodeStatusDocument(Document, frozen=True):
    """The state of a node. `troubles` are sentences on what is wrong and what to do; `synchronisation` is null where
    the node does not synchronise, or its state cannot be read. `outbox_capped` of the entries wait for the end of a cap
    of 0. `scrub` is null when the keeper does not answer."""

    health: Literal["Healthy", "Troubled", "NotReady"]
    troubles: list[str]
    role: str
    mode: Literal["ReadWrite", "ReadOnly"]
    version: str
    parents: list[ParentStateDocument]
    synchronisation: SyncReport | None
    outbox_entries: int
    outbox_capped: int
    free_bytes: int
    scrub: ScrubStatus | None


class ParentStateList(Document, frozen=True):
    """All of them."""

    value: tuple[ParentStateDocument, ...]
    next_link: str | None = None


class OutboxProperties(Document, frozen=True):
    """A change of this node that is to be sent to the parent. `parked`: the parent refuses it for lack of rights;
    `conflict`: an operator has to decide; `arrived` and `overruled` are decided conflicts."""

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
    """The outbox for all parents: its entries, how many of them are being sent, the time and age of the oldest, and how
    many entries a minute the parents confirmed, about in the last half minute."""

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
    happened, "" for this node; `eventId` is its id in webhooks, "" when they do not report it. `theirs` and
    `winner` are of a conflict: what the tag names at the parent, and the side that won."""

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
    """A page of the log `log`, the oldest first. `cursor` is the number of the last event that was read: it is
    the `after` of the request for later events."""

    value: tuple[EventDocument, ...]
    next_link: str | None
    log: str
    cursor: int
