"""What child and parent say to each other under `/acr/gateway/v1/<connected registry>/`, as JSON in camelCase.

    POST activate     Activation → Lease
    POST deactivate   Deactivation → Lease without a life
    GET  config       resource.Configuration, with ETag
    PUT  status       StatusReport → Lease
    GET  messages     ?after=&max=&wait= → Messages; 410 when what came after the cursor is not kept any more
    GET  contents     ?after=&max= → Contents
    POST messages     Notices → Taken
    POST exists       Inquiry → Known

Every GET may say `instance` and `generation`; the answer is 409 when they are not the active instance's. What a child
says is read strictly. Of what a parent answers, a child takes what it knows: a newer parent may say more.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct, field

from holdfast.control.resource import LoginServer, Status, StatusDetail, SyncProgress, SyncResult, Wire
from holdfast.sync.notification import Event

#: `code` and text of a refused activation (connected-registry 2.5)
ALREADY_ACTIVATED = "ALREADY_ACTIVATED"
NOT_ACTIVATED = "NOT_ACTIVATED"
#: detail of 410: the messages after a cursor are not kept; only the contents tell what changed
GONE = "GONE"
#: longest bodies (bytes): a question, a report with what is below (a node keeps its own within `control.bounds`, well
#: below that), a configuration
BODY_BYTES, REPORT_BYTES, CONFIGURATION_BYTES = 4096, 4 << 20, 48 << 20
#: most names, all repositories together, in a question for what exists; and its longest body (bytes)
INQUIRY_NAMES, INQUIRY_BYTES = 1000, 512 << 10
#: longest that a question for configuration is held open (seconds); the node's answer time-out bounds it, too
WAIT_SECONDS = 55.0


class Activation(Wire, frozen=True):
    """An instance asks to be the active one."""

    instance: str
    version: str | None = None


class Deactivation(Wire, frozen=True):
    """An instance leaves."""

    instance: str
    generation: int


class StatusReport(Wire, frozen=True):
    """What an active instance says of itself, and of the registries below it by name."""

    instance: str
    generation: int
    version: str | None = None
    last_sync_time: str | None = None
    login_server: LoginServer | None = None
    status_details: tuple[StatusDetail, ...] = ()
    registry_sync_result: SyncResult | None = None
    syncing: bool = False
    sync_progress: SyncProgress | None = None
    below: dict[str, Status] = field(default_factory=dict)


class Lease(Struct, frozen=True, rename="camel"):
    """The parent's word on the lease. `lease_seconds` count from the question: clocks need not agree."""

    generation: int
    lease_seconds: float
    expires: str = ""


class Message(Struct, frozen=True, rename="camel", omit_defaults=True):
    """Something that changed at the parent. `at` is the parent's wall clock. `repository` is as the child names it.

    A tag that moved (`kind` "tag", `verb` "push") names its new manifest, one that was deleted the manifest that it
    named; a "manifest" came without a tag, or was deleted, and the tags that named it are messages of their own. A
    "repository" was deleted with all that was in it, and nothing but `repository` is said."""

    number: int
    at: float
    verb: Literal["push", "delete"]
    kind: Literal["tag", "manifest", "repository"]
    repository: str
    tag: str = ""
    digest: str = ""
    media_type: str = ""
    size: int = 0
    artifact_type: str = ""
    subject: str = ""


class Messages(Struct, frozen=True, rename="camel"):
    """The messages after a cursor, in the order in which the parent committed the changes. The next question's `after`
    is `cursor`, also when there are none: what does not concern the child moves it on. `more`: ask again at once."""

    cursor: str
    messages: tuple[Message, ...] = ()
    more: bool = False


class Entry(Struct, frozen=True, rename="camel", omit_defaults=True):
    """A tag, or with `tag` "" a manifest that no tag names. `subject` is that of a referrer."""

    repository: str
    digest: str
    tag: str = ""
    media_type: str = ""
    size: int = 0
    subject: str = ""


class Contents(Struct, frozen=True, rename="camel"):
    """A page of all that the child may have, in the order of (repository, tag, digest). `next` is the next page's
    `after`, "" on the last; a page may be empty and not be the last. `cursor`, the same on every page, is where the log
    stood before the first page was made: the messages after it complete the listing. `complete`, of the last page: this
    node has brought everything from its own parent once; while it has not, what is not listed may be all the same."""

    cursor: str
    entries: tuple[Entry, ...] = ()
    next: str = ""
    complete: bool = True


class Notice(Wire, frozen=True):
    """An event that a child tells its parent. `number` is that of the child's log; `registry` the connected registry
    in which it happened, which may be further down."""

    number: int
    event: Event
    registry: str


class Notices(Wire, frozen=True):
    """Notices in order. `log` is the id of the child's log, in which they are numbered: the same notice may be sent
    again and counts once."""

    instance: str
    generation: int
    log: str
    notices: tuple[Notice, ...] = ()


class Taken(Struct, frozen=True, rename="camel"):
    """The parent has kept the notices of `log` up to `number`."""

    log: str
    number: int


class Sought(Wire, frozen=True):
    """What may exist in one repository, as the child names it: digests of blobs and manifests, and tags."""

    repository: str
    blobs: tuple[str, ...] = ()
    manifests: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()


class Inquiry(Wire, frozen=True):
    """Whether the parent has these itself; it asks nobody for them. At most `INQUIRY_NAMES`."""

    instance: str
    generation: int
    sought: tuple[Sought, ...] = ()


class Present(Struct, frozen=True, rename="camel"):
    """The answer for one repository, in the order of the question: whether each digest is there, and what each tag
    names ("" nothing). What the child may not pull is not there."""

    blobs: tuple[bool, ...] = ()
    manifests: tuple[bool, ...] = ()
    tags: tuple[str, ...] = ()


class Known(Struct, frozen=True, rename="camel"):
    """The answers, in the order of the question."""

    present: tuple[Present, ...] = ()
