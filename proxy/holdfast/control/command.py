"""Commands to the keeper: everything that changes the control plane, as JSON between processes.

A command says what is wanted; `control/execute.py` decides, inside the transaction of the write, whether that can be.
Names are taken plain or as ids (`/tokens/plant`). Unless said otherwise None leaves a field as it is. `if_match` is an
ETag as `control/view.etag_of` gives it, or "*"; `dry_run` answers what would change and changes nothing.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec
from msgspec import UNSET, Struct, UnsetType

from holdfast.control.resource import (
    Configuration,
    EnabledStatus,
    Identity,
    LoginServer,
    LogLevel,
    Mode,
    PasswordName,
    Status,
    StatusDetail,
    SwitchStatus,
    SyncProgress,
    SyncResult,
    Wire,
)
from holdfast.errors import ControlInvalid
from holdfast.gateway.message import Notice

#: At most so many bytes of a command (a configuration of 10 times the limits is under 32 MiB).
COMMAND_BYTES = 64 << 20


class Order(Struct, frozen=True, kw_only=True, tag=True, tag_field="command", forbid_unknown_fields=True):
    """Base of the commands."""


class CreateRegistry(Order, frozen=True):
    """A connected registry, and with `repositories` its scope map and sync token, named like it; exactly one of
    `repositories` and `sync_token`. Where it exists the changeable fields are replaced. `only_new` refuses one that
    exists."""

    name: str
    mode: Mode
    parent: str | None = None
    repositories: tuple[str, ...] | None = None
    sync_token: str | None = None
    schedule: str = "* * * * *"
    sync_window: str | None = None
    message_ttl: str = "P2D"
    log_level: LogLevel = "Information"
    audit_log_status: SwitchStatus = "Disabled"
    client_tokens: tuple[str, ...] = ()
    notifications: tuple[str, ...] = ()
    gc_enabled: bool = True
    gc_schedule: str = "0 0 * * *"
    if_match: str | None = None
    only_new: bool = False
    dry_run: bool = False


class UpdateRegistry(Order, frozen=True):
    """Changes of a connected registry. `sync_window` None takes the window away. A whole list (`client_tokens`,
    `notifications`) replaces; `add_…` and `remove_…` change the one that is there."""

    name: str
    schedule: str | None = None
    sync_window: str | UnsetType | None = UNSET
    message_ttl: str | None = None
    log_level: LogLevel | None = None
    audit_log_status: SwitchStatus | None = None
    client_tokens: tuple[str, ...] | None = None
    add_client_tokens: tuple[str, ...] = ()
    remove_client_tokens: tuple[str, ...] = ()
    notifications: tuple[str, ...] | None = None
    add_notifications: tuple[str, ...] = ()
    remove_notifications: tuple[str, ...] = ()
    gc_enabled: bool | None = None
    gc_schedule: str | None = None
    if_match: str | None = None
    dry_run: bool = False


class DeleteRegistry(Order, frozen=True):
    """Without `cleanup` the sync token, its scope map and the ancestors' gateway permissions stay, and the answer
    says what is left to do."""

    name: str
    cleanup: bool = False
    if_match: str | None = None
    dry_run: bool = False


class Deactivate(Order, frozen=True):
    """Cut the active instance loose."""

    name: str


class Resync(Order, frozen=True):
    """Ask for a full synchronisation; the node does it when it next hears of it."""

    name: str


class UpdatePermissions(Order, frozen=True):
    """Repositories of a connected registry: what is added is added to every ancestor, what is removed is removed from
    every descendant (connected-registry 2.4)."""

    name: str
    add: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()
    if_match: str | None = None
    dry_run: bool = False


class CreateScopeMap(Order, frozen=True):
    """A scope map. One that is there and equal is no change; another is refused."""

    name: str
    actions: tuple[str, ...]
    description: str = ""
    only_new: bool = False


class UpdateScopeMap(Order, frozen=True):
    """`actions` replaces them all; otherwise `add` and `remove` change those that are there."""

    name: str
    add: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()
    actions: tuple[str, ...] | None = None
    description: str | None = None
    if_match: str | None = None


class DeleteScopeMap(Order, frozen=True):
    """Refused while a token has it."""

    name: str
    if_match: str | None = None


class CreateToken(Order, frozen=True):
    """A token with a scope map that exists, or with one made of `actions`, named `<token>-scope-map`. Unless
    `no_passwords` both passwords are generated. One that is there and equal is no change, and keeps its passwords."""

    name: str
    scope_map: str | None = None
    actions: tuple[str, ...] | None = None
    status: EnabledStatus = "enabled"
    no_passwords: bool = False
    expiry: str | None = None
    only_new: bool = False


class UpdateToken(Order, frozen=True):
    """Another scope map, another status."""

    name: str
    scope_map: str | None = None
    status: EnabledStatus | None = None
    if_match: str | None = None


class DeleteToken(Order, frozen=True):
    """Refused while it is a sync token. As a client token it leaves every list."""

    name: str
    if_match: str | None = None


class GenerateCredentials(Order, frozen=True):
    """New passwords, both unless `passwords` names one; their values are in the answer and nowhere else. `secret` is
    what a person chose instead, for exactly one. `expiry` None: never."""

    token: str
    passwords: tuple[PasswordName, ...] = ()
    expiry: str | None = None
    secret: str | None = None


class DeleteCredentials(Order, frozen=True):
    """Passwords end at once. Both unless `passwords` names one."""

    token: str
    passwords: tuple[PasswordName, ...] = ()


class Activate(Order, frozen=True):
    """An instance asks to be the active one for `lease_seconds`. Raises ControlConflict ALREADY_ACTIVATED while
    another is. The same instance keeps its generation and has its lease renewed."""

    name: str
    instance: str
    lease_seconds: float
    version: str | None = None


class Release(Order, frozen=True):
    """The active instance leaves. Nothing when it is not the active one any more."""

    name: str
    instance: str
    generation: int


class Report(Order, frozen=True):
    """What the active instance says of itself, which renews its lease. `below` is what it knows of the registries
    below it, by name; what is not below it is left out. Raises ControlConflict ALREADY_ACTIVATED or NOT_ACTIVATED."""

    name: str
    instance: str
    generation: int
    lease_seconds: float
    version: str | None = None
    last_sync_time: str | None = None
    login_server: LoginServer | None = None
    status_details: tuple[StatusDetail, ...] = ()
    registry_sync_result: SyncResult | None = None
    syncing: bool = False
    sync_progress: SyncProgress | None = None
    below: dict[str, Status] = {}


class TakeNotices(Order, frozen=True):
    """What the active instance of a connected registry tells of itself and of those below it, in the order of its log
    `log`. What was taken before is passed over; so is what it may not speak of. Raises ControlConflict
    ALREADY_ACTIVATED or NOT_ACTIVATED, and ControlInvalid for a notice that cannot be."""

    name: str
    instance: str
    generation: int
    log: str
    notices: tuple[Notice, ...]


class Receive(Order, frozen=True):
    """On a managed node: the parent's word replaces every resource, or with `configuration` None only `identity`."""

    identity: Identity
    configuration: Configuration | None = None


Command: TypeAlias = (
    CreateRegistry
    | UpdateRegistry
    | DeleteRegistry
    | Deactivate
    | Resync
    | UpdatePermissions
    | CreateScopeMap
    | UpdateScopeMap
    | DeleteScopeMap
    | CreateToken
    | UpdateToken
    | DeleteToken
    | GenerateCredentials
    | DeleteCredentials
    | Activate
    | Release
    | Report
    | TakeNotices
    | Receive
)


#: Commands after which there is less.
DELETIONS = (DeleteRegistry, DeleteScopeMap, DeleteToken)


class Difference(Wire, frozen=True):
    """What changed about one resource. `kind` as in control/resource.py; what a scope map and a list of client
    tokens got and lost, and of the settings of a connected registry the new and the old ones."""

    kind: str
    name: str
    change: str
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()


class GeneratedPassword(Wire, frozen=True):
    """A password, this once with its value."""

    name: PasswordName
    value: str
    creation_time: str
    expiry: str | None = None


class Result(Wire, frozen=True, omit_defaults=True):
    """The answer to a command. `changed` is False when all was so already. `follow_up` are commands that are left to
    the operator. The rest belongs to the commands that say so: `passwords` to those that generate, `generation` and
    `expires` to Activate and Report, `number` (up to which notices are taken) and `refused` to TakeNotices."""

    name: str = ""
    changed: bool = False
    difference: tuple[Difference, ...] = ()
    follow_up: tuple[str, ...] = ()
    passwords: tuple[GeneratedPassword, ...] = ()
    generation: int = 0
    expires: str = ""
    number: int = 0
    refused: int = 0


_decoder = msgspec.json.Decoder(Command)
_result_decoder = msgspec.json.Decoder(Result)


def understood(raw: bytes) -> Command:
    """A command. Raises `ControlInvalid`, whose text names the field."""
    try:
        command: Command = _decoder.decode(raw)
    except msgspec.MsgspecError as error:
        raise ControlInvalid(f"this is no command: {error}") from error
    return command


def is_conditional(command: Command) -> bool:
    """Whether a command depends on how things are, so that a keeper that died over it leaves the answer open."""
    return bool(getattr(command, "if_match", None) or getattr(command, "only_new", False))


def result_of(raw: bytes) -> Result:
    """The answer of `KeeperPort.control`."""
    return _result_decoder.decode(raw)
