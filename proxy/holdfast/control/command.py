"""Commands to the keeper: everything that changes the control plane, as JSON between processes.

A command is a request; `control/execute.py` decides, inside the transaction of the write, whether that can be.
Names are plain or ids (`/tokens/plant`). None leaves a field as it is, unless its command says otherwise. `if_match` is
an ETag of `control/draft.etag_of`, or "*"; `dry_run` returns the changes without making them.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec
from msgspec import Struct, field

from holdfast.errors import ControlInvalid
from holdfast.resources.model import (
    EnabledStatus,
    Identity,
    LoginServer,
    PasswordName,
    RegistryConfiguration,
    ResourceStruct,
    Status,
    StatusDetail,
    SyncProgress,
    SyncResult,
)
from holdfast.resources.notification import Notice
from holdfast.resources.registry_requests import NewRegistryProperties, RegistryChangeProperties

#: At most so many bytes of a command (a configuration of 10 times the limits is under 32 MiB).
COMMAND_BYTES = 64 << 20


class ControlCommand(
    Struct, frozen=True, kw_only=True, tag=True, tag_field="command", forbid_unknown_fields=True
):
    """Base of the commands."""


class CreateRegistry(ControlCommand, frozen=True):
    """A connected registry, and with `properties.repositories` its scope map and sync token, named like it. Where it
    exists the changeable fields are replaced. `only_new` refuses one that exists."""

    name: str
    properties: NewRegistryProperties
    if_match: str | None = None
    only_new: bool = False
    dry_run: bool = False


class UpdateRegistry(ControlCommand, frozen=True):
    """Changes of a connected registry."""

    name: str
    properties: RegistryChangeProperties = field(default_factory=RegistryChangeProperties)
    if_match: str | None = None
    dry_run: bool = False


class DeleteRegistry(ControlCommand, frozen=True):
    """Without `cleanup` the sync token, its scope map and the ancestors' gateway permissions stay, and the answer
    says what is left to do."""

    name: str
    cleanup: bool = False
    if_match: str | None = None
    dry_run: bool = False


class Deactivate(ControlCommand, frozen=True):
    """Ends the lease of the active instance."""

    name: str


class Resync(ControlCommand, frozen=True):
    """Requests a full synchronisation, which the node begins at its next contact."""

    name: str


class UpdatePermissions(ControlCommand, frozen=True):
    """Repositories of a connected registry: what is added is added to every ancestor, what is removed is removed from
    every descendant (references.md 1.8)."""

    name: str
    add: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()
    if_match: str | None = None
    dry_run: bool = False


class CreateScopeMap(ControlCommand, frozen=True):
    """A scope map. An equal one that exists is no change; a different one is refused."""

    name: str
    actions: tuple[str, ...]
    description: str = ""
    only_new: bool = False


class UpdateScopeMap(ControlCommand, frozen=True):
    """`actions` replaces all actions; otherwise `add` and `remove` change the existing ones."""

    name: str
    add: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()
    actions: tuple[str, ...] | None = None
    description: str | None = None
    if_match: str | None = None


class DeleteScopeMap(ControlCommand, frozen=True):
    """Refused while a token has it."""

    name: str
    if_match: str | None = None


class CreateToken(ControlCommand, frozen=True):
    """A token with a scope map that exists, or with one made of `actions`, named `<token>-scope-map`. Unless
    `no_passwords` both passwords are generated. An equal token that exists is no change, and keeps its passwords."""

    name: str
    scope_map: str | None = None
    actions: tuple[str, ...] | None = None
    status: EnabledStatus = "enabled"
    no_passwords: bool = False
    expiry: str | None = None
    only_new: bool = False


class UpdateToken(ControlCommand, frozen=True):
    """A new scope map, or a new status."""

    name: str
    scope_map: str | None = None
    status: EnabledStatus | None = None
    if_match: str | None = None


class DeleteToken(ControlCommand, frozen=True):
    """Refused while it is a sync token. As a client token it leaves every list."""

    name: str
    if_match: str | None = None


class GenerateCredentials(ControlCommand, frozen=True):
    """New passwords, both unless `passwords` names one; their values are in the answer and nowhere else. `secret` is
    a chosen password instead, for exactly one. `expiry` None: never."""

    token: str
    passwords: tuple[PasswordName, ...] = ()
    expiry: str | None = None
    secret: str | None = None


class DeleteCredentials(ControlCommand, frozen=True):
    """Removes passwords, both unless `passwords` names one."""

    token: str
    passwords: tuple[PasswordName, ...] = ()


class Activate(ControlCommand, frozen=True):
    """An instance asks to be the active one for `lease_seconds`. Raises ControlConflict ALREADY_ACTIVATED while
    another is. The same instance keeps its generation and has its lease renewed."""

    name: str
    instance: str
    lease_seconds: float
    version: str | None = None


class Release(ControlCommand, frozen=True):
    """The active instance gives up its lease. No change when it is no longer the active one."""

    name: str
    instance: str
    generation: int


class RecordReport(ControlCommand, frozen=True):
    """The active instance's report on itself, which renews its lease. `below` is what it knows of the registries
    below it, by name; what is not below it is left out. Raises ControlConflict ALREADY_ACTIVATED or NOT_ACTIVATED."""

    name: str
    instance: str
    generation: int
    lease_seconds: float
    version: str | None = None
    revision: int | None = None
    last_sync_time: str | None = None
    login_server: LoginServer | None = None
    status_details: tuple[StatusDetail, ...] = ()
    registry_sync_result: SyncResult | None = None
    syncing: bool = False
    sync_progress: SyncProgress | None = None
    below: dict[str, Status] = {}


class TakeNotices(ControlCommand, frozen=True):
    """Events that the active instance reports of itself and of the registries below it, in the order of
    its log `log`. Notices that were accepted before are skipped, and so are those that it may not report. Raises
    ControlConflict ALREADY_ACTIVATED or NOT_ACTIVATED, and ControlInvalid for an invalid notice."""

    name: str
    instance: str
    generation: int
    log: str
    notices: tuple[Notice, ...]


class Receive(ControlCommand, frozen=True):
    """On a managed node: the parent's configuration replaces every resource, or with `configuration` None only
    `identity`."""

    identity: Identity
    configuration: RegistryConfiguration | None = None


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
    | RecordReport
    | TakeNotices
    | Receive
)


#: commands that remove a resource
DELETIONS = (DeleteRegistry, DeleteScopeMap, DeleteToken)


class Difference(ResourceStruct, frozen=True):
    """What changed about one resource. `kind` as in resources/model.py; what a scope map and a list of client
    tokens got and lost, and of the settings of a connected registry the new and the old ones."""

    kind: str
    name: str
    change: str
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()


class GeneratedPassword(ResourceStruct, frozen=True):
    """A generated password with its value, which is returned only this once."""

    name: PasswordName
    value: str
    creation_time: str
    expiry: str | None = None


class CommandResult(ResourceStruct, frozen=True, omit_defaults=True):
    """The answer to a command. `changed` is False when nothing had to be changed. `follow_up` are commands that are
    left to the operator. The rest belongs to the commands that say so: `passwords` to those that generate, `generation`
    and `expires` to Activate and Report, `number` (up to which notices are accepted) and `refused` to TakeNotices."""

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
_result_decoder = msgspec.json.Decoder(CommandResult)


def decode_command(raw: bytes) -> Command:
    """Decodes a command. Raises `ControlInvalid`, whose text names the field."""
    try:
        command: Command = _decoder.decode(raw)
    except msgspec.MsgspecError as error:
        raise ControlInvalid(f"this is no command: {error}") from error
    return command


def is_conditional(command: Command) -> bool:
    """Whether a command depends on the present state, so that it cannot be repeated after the death of the keeper."""
    return bool(getattr(command, "if_match", None) or getattr(command, "only_new", False))


def result_of(raw: bytes) -> CommandResult:
    """The answer of `KeeperApi.control`."""
    return _result_decoder.decode(raw)
