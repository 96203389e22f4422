"""An operation of the admin API: everything that routing, checking and the OpenAPI document need to know of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec
from msgspec import UnsetType

from holdfast.admin import request_reading
from holdfast.admin.documents import ChangeDocument, DifferenceDocument
from holdfast.control.catalogue import Catalogue
from holdfast.control.command import CommandResult, ControlCommand, result_of
from holdfast.endpoint.node import Node
from holdfast.wire.message import Reply, Request

T = TypeVar("T")

#: one segment of a path stands for any name
NAME = "{name}"
#: by collection (references.md 1.4, 1.21); names compare without casing
NAME_SCHEMAS: dict[str, dict[str, Any]] = {
    "connectedRegistries": {"type": "string", "pattern": "^[a-zA-Z][a-zA-Z0-9]{4,39}$", "example": "plant1"},
    "scopeMaps": {"type": "string", "pattern": "^[a-zA-Z0-9_][a-zA-Z0-9_-]{4,63}$", "example": "readers"},
    "tokens": {"type": "string", "pattern": "^[a-zA-Z0-9][a-zA-Z0-9-]{4,49}$", "example": "client1"},
    "parents": {"type": "string", "pattern": "^[a-zA-Z0-9][a-zA-Z0-9.:_-]{0,127}$", "example": "default"},
    "outbox": {"type": "string", "pattern": "^[0-9]{1,18}$", "example": "1"},
    "webhooks": {"type": "string", "pattern": "^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$", "example": "ci"},
}
#: headers that make a request conditional, and what they may hold (RFC 9110 13.1; one ETag, not a list)
CONDITIONS = {"If-Match": r'^(\*|"[!#-~]*")$', "If-None-Match": r"^\*$"}


@dataclass(frozen=True, slots=True)
class Parameter:
    """A query parameter: how it is read, and its JSON schema."""

    name: str
    read: Callable[[str, str], Any]
    schema: dict[str, Any]
    description: str


DRY_RUN = Parameter(
    "dryRun", request_reading.flag, {"type": "boolean"}, "Only say what would change; nothing is changed."
)
OF_DRY_RUN = Parameter(
    "dryRun",
    request_reading.flag,
    {"type": "boolean"},
    "The report of the last dry run, where there was one.",
)
CLEANUP = Parameter(
    "cleanup",
    request_reading.flag,
    {"type": "boolean"},
    "Delete its sync token and scope map too, and take its gateway from every ancestor's scope map.",
)
TOP = Parameter(
    "$top",
    request_reading.page_size,
    {"type": "integer", "minimum": 1, "maximum": 1000},
    "Entries on one page; 100 without it.",
)
SKIP_TOKEN = Parameter(
    "$skipToken",
    request_reading.text,
    {"type": "string", "minLength": 1, "maxLength": 512},
    "Where the page begins; taken from nextLink.",
)
PARENT = Parameter(
    "parent",
    request_reading.text,
    {"type": "string", "minLength": 1, "maxLength": 512},
    "Only what is below this connected registry, at any depth.",
)
NO_CHILDREN = Parameter(
    "noChildren",
    request_reading.flag,
    {"type": "boolean"},
    "Only what is directly below `parent`, or directly below this registry.",
)
PAGE = (TOP, SKIP_TOKEN)
AFTER = Parameter(
    "after",
    request_reading.number,
    {"type": "integer", "minimum": 0},
    "Events with higher numbers; without it the last page of them.",
)
OF_REGISTRY = Parameter(
    "registry",
    request_reading.text,
    {"type": "string", "minLength": 1, "maxLength": 512},
    "Only what happened in this connected registry.",
)
OF_REPOSITORY = Parameter(
    "repository",
    request_reading.text,
    {"type": "string", "minLength": 1, "maxLength": 512},
    "Only what happened in this repository.",
)
OF_IMAGE = Parameter(
    "image",
    request_reading.text,
    {"type": "string", "minLength": 1, "maxLength": 512},
    "NAME:TAG or NAME@DIGEST; it must be given.",
)
IN_REPOSITORY = Parameter(
    "repository",
    request_reading.text,
    {"type": "string", "minLength": 1, "maxLength": 512},
    "The repository, as clients call it; it must be given.",
)


@dataclass(frozen=True, slots=True)
class AdminCall:
    """A request as a handler sees it: the name in its path, its query, its body as a struct."""

    node: Node
    catalogue: Catalogue
    request: Request
    name: str = ""
    query: dict[str, Any] = field(default_factory=dict)
    body: Any = None
    #: host and port on which clients reach this node
    clients: tuple[str, int] = ("", 0)

    @property
    def if_match(self) -> str | None:
        """The If-Match header: an ETag, `*`, or None."""
        return self.request.header("if-match")

    @property
    def is_dry(self) -> bool:
        """Whether nothing is to be changed."""
        return bool(self.query.get("dryRun", False))

    def created(self, kind: str, result: CommandResult) -> int:
        """201 when the command made the resource that the path names, else 200."""
        name = self.name.lower()
        made = (row for row in result.difference if row.kind == kind and row.change == "created")
        return 201 if any(row.name.lower() == name for row in made) else 200

    async def order(self, command: ControlCommand) -> CommandResult:
        """Have the keeper do it. Raises what the command is refused with."""
        return result_of(await self.node.port.control(msgspec.json.encode(command)))

    @property
    def if_absent(self) -> bool:
        """Whether the resource must not be there yet (`If-None-Match: *`)."""
        return self.request.header("if-none-match") == "*"


Handler = Callable[[AdminCall], Awaitable[Reply]]


@dataclass(frozen=True, slots=True)
class Operation:
    """One row of the table. `answers` are the successes by status, with the structs that the body may be;
    `refusals` are further statuses, beside those of every operation. `conditional` are the headers that it honours."""

    id: str
    method: str
    path: str
    summary: str
    handler: Handler
    answers: Mapping[int, tuple[type[Any], ...]]
    refusals: tuple[int, ...] = ()
    query: tuple[Parameter, ...] = ()
    body: type[Any] | None = None
    conditional: tuple[str, ...] = ()
    #: whether the answer is one resource, with its ETag
    versioned: bool = False
    readers: dict[str, Callable[[str, str], Any]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.readers.update({parameter.name: parameter.read for parameter in self.query})

    @property
    def name_schema(self) -> dict[str, Any]:
        """What `{name}` may be."""
        return NAME_SCHEMAS[self.path.partition("/")[0]]


def or_none(value: T | UnsetType) -> T | None:
    """The value of a field, None for one that is left out."""
    return None if isinstance(value, UnsetType) else value


def change_reply(result: CommandResult) -> Reply:
    """What a command changed, or would change."""
    difference = tuple(DifferenceDocument(**msgspec.structs.asdict(row)) for row in result.difference)
    return reply(
        ChangeDocument(
            name=result.name, changed=result.changed, difference=difference, follow_up=result.follow_up
        )
    )


def reply(document: Any, status: int = 200, etag: str = "") -> Reply:
    """A JSON answer that no cache keeps, because it may hold a secret."""
    headers = [("Content-Type", "application/json"), ("Cache-Control", "no-store")]
    if etag:
        headers.append(("ETag", etag))
    return Reply(status, headers, msgspec.json.encode(document))
