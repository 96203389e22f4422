"""The messages between child and parent under `/acr/gateway/v1/<connected registry>/`, as JSON in camelCase.

    POST activate     ActivationRequest → LeaseAnswer
    POST deactivate   Deactivation → LeaseAnswer without a lease
    GET  config       ?wait= → RegistryConfiguration, with ETag; 304
    PUT  status       StatusReport → LeaseAnswer
    GET  messages     ?after=&max=&wait= → Messages; 410 when messages after the cursor were deleted already
    GET  contents     ?after=&max= → Contents
    POST messages     Notices → Taken
    POST exists       Inquiry → InquiryAnswer

Every GET may have `instance` and `generation`; the answer is 409 when they are not those of the active instance. The
parent refuses a request with an unknown field. A child ignores unknown fields of an answer: the parent may be newer.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct, field

from holdfast.resources.model import (
    LoginServer,
    ResourceStruct,
    Status,
    StatusDetail,
    SyncProgress,
    SyncResult,
)
from holdfast.resources.notification import Notice

#: `code` and text of a refused activation (references.md 1.9)
ALREADY_ACTIVATED = "ALREADY_ACTIVATED"
NOT_ACTIVATED = "NOT_ACTIVATED"
#: detail of 410: messages after the cursor were deleted; the child has to compare the contents
GONE = "GONE"
#: longest bodies (bytes): a request, a report with the registries below (a node keeps its own within
#: `resources.report_bounds`, well below that), a configuration
BODY_BYTES, REPORT_BYTES, CONFIGURATION_BYTES = 4096, 4 << 20, 48 << 20
#: most names in an inquiry, all repositories together; and its longest body (bytes)
INQUIRY_NAMES, INQUIRY_BYTES = 1000, 512 << 10
#: longest that a request for configuration is held open (seconds); the node's answer time-out bounds it, too
WAIT_SECONDS = 55.0


class ActivationRequest(ResourceStruct, frozen=True):
    """An instance requests to be the active one."""

    instance: str
    version: str | None = None


class Deactivation(ResourceStruct, frozen=True):
    """An instance gives up its activation."""

    instance: str
    generation: int


class StatusReport(ResourceStruct, frozen=True, omit_defaults=True):
    """The status of an active instance, and that of the registries below it by name. `revision` is that of the
    configuration in force, None where the parent has no revisions. Defaults are left out, because an older parent
    refuses a field that it does not know."""

    instance: str
    generation: int
    version: str | None = None
    revision: int | None = None
    last_sync_time: str | None = None
    login_server: LoginServer | None = None
    status_details: tuple[StatusDetail, ...] = ()
    registry_sync_result: SyncResult | None = None
    syncing: bool = False
    sync_progress: SyncProgress | None = None
    below: dict[str, Status] = field(default_factory=dict)


class LeaseAnswer(Struct, frozen=True, rename="camel"):
    """The lease that the parent grants. `lease_seconds` count from the request, so that clocks need not agree."""

    generation: int
    lease_seconds: float
    expires: str = ""


class Message(Struct, frozen=True, rename="camel", omit_defaults=True):
    """One change at the parent. `at` is the parent's wall clock. `repository` is the child's name of it.

    "tag" with "push" has the digest of the tag's new manifest, with "delete" that of its last one. A "manifest" was
    pushed without a tag, or deleted; the tags that it had are messages of their own. A "repository" was deleted with
    its whole content; the message has no other field."""

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
    """The messages after a cursor, in the order in which the parent committed the changes. `cursor` is `after` of the
    next request, also when there are no messages: changes outside the child's scope advance it. `more`: request again
    at once."""

    cursor: str
    messages: tuple[Message, ...] = ()
    more: bool = False


class ContentsEntry(Struct, frozen=True, rename="camel", omit_defaults=True):
    """A tag, or with `tag` "" a manifest that no tag names. `subject` is that of a referrer."""

    repository: str
    digest: str
    tag: str = ""
    media_type: str = ""
    size: int = 0
    subject: str = ""


class Contents(Struct, frozen=True, rename="camel"):
    """A page of all that the child may have, in the order of (repository, tag, digest). `next` is `after` of the next
    page, "" on the last; a page may be empty and not be the last. `cursor`, the same on every page, is the position of
    the log before the first page: the messages after it complete the listing. `complete`, of the last page: this node
    has itself synchronised everything once; until then content may exist that is not listed."""

    cursor: str
    entries: tuple[ContentsEntry, ...] = ()
    next: str = ""
    complete: bool = True


class Notices(ResourceStruct, frozen=True):
    """Notices in order. `log` is the id of the child's log, in which they are numbered: a notice that is sent twice
    counts once."""

    instance: str
    generation: int
    log: str
    notices: tuple[Notice, ...] = ()


class Taken(Struct, frozen=True, rename="camel"):
    """The parent has kept the notices of `log` up to `number`."""

    log: str
    number: int


class InquiredNames(ResourceStruct, frozen=True):
    """Names to look for in one repository, which has the child's name: digests of blobs and manifests, and tags."""

    repository: str
    blobs: tuple[str, ...] = ()
    manifests: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()


class Inquiry(ResourceStruct, frozen=True):
    """Asks which of at most `INQUIRY_NAMES` names the parent holds itself; it does not ask its own parent."""

    instance: str
    generation: int
    sought: tuple[InquiredNames, ...] = ()


class Present(Struct, frozen=True, rename="camel"):
    """The answer for one repository, in the order of the inquiry: whether each digest exists, and the digest of each
    tag ("" for none). Content that the child may not pull does not exist for it."""

    blobs: tuple[bool, ...] = ()
    manifests: tuple[bool, ...] = ()
    tags: tuple[str, ...] = ()


class InquiryAnswer(Struct, frozen=True, rename="camel"):
    """The answers by repository, in the order of the inquiry."""

    present: tuple[Present, ...] = ()
