"""GET of the referrers of a digest (distribution-spec end-12). Never 404: clients take that for a registry without this
API and use fallback tags from then on (references.md 2.8)."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec
from holdfast_core.digest import Digest
from holdfast_core.record import Descriptor

from holdfast.endpoint.content import unconfirmed
from holdfast.endpoint.lists import Page, asked_page, next_link
from holdfast.endpoint.node import Answer, Node
from holdfast.errors import KeeperAway, NameUnknown, ParentDenied, ParentFailed, ParentNotFound
from holdfast.keeper.api import ListAnswer
from holdfast.oci import names
from holdfast.routing import RoutedRepository
from holdfast.wire.message import Reply, Request

INDEX = "application/vnd.oci.image.index.v1+json"
#: clients accept 4 MiB of index; a page stays well below (references.md 2.8)
PAGE_BYTES = 3 << 20


class _Row(NamedTuple):
    """A referrer on a page, encoded."""

    digest: str
    text: bytes


def answer(node: Node, request: Request) -> Answer:
    """The referrers; waits for the keeper where the parent's list is due. Raises `Locked` where the repository may not
    be read."""
    scope = node.router.scope(request)
    subject = names.digest(request.route.reference)
    node.references.require_read(scope.key)
    page = asked_page(request, node.config.limits.page_size)
    if not node.asks(scope) or _is_fresh(node, scope, subject):
        return _listed(node, request, scope, subject, page, ListAnswer())
    return _fetched(node, request, scope, subject, page)


def _is_fresh(node: Node, scope: RoutedRepository, subject: Digest) -> bool:
    fetched_at = node.references.lists.referrers_time(scope.key, subject)
    return fetched_at is not None and 0 <= node.clock.now() - fetched_at < node.config.tags.list_ttl


async def _fetched(
    node: Node, request: Request, scope: RoutedRepository, subject: Digest, page: Page
) -> Reply:
    """The list after the keeper fetched the parent's. Raises the keeper's failure when no list is stored: to a client
    an empty list would mean that an image is unsigned."""
    try:
        list_answer = await node.port.referrers(scope.key, str(subject))
        if not list_answer.stale and list_answer.unstored is None:
            node.references.lists.confirm_referrers(
                scope.key, subject, node.clock.now() - (list_answer.age or 0)
            )
    except (ParentNotFound, ParentDenied, NameUnknown):
        list_answer = ListAnswer()
    except (ParentFailed, KeeperAway) as error:
        if not node.references.lists.has_referrers(scope.key, subject):
            raise
        fetched_at = node.references.lists.referrers_time(scope.key, subject)
        list_answer = ListAnswer.held(fetched_at, node.clock.now(), error.message)
    reply = _listed(node, request, scope, subject, page, list_answer)
    return reply if isinstance(reply, Reply) else await reply


def _listed(
    node: Node,
    request: Request,
    scope: RoutedRepository,
    subject: Digest,
    page: Page,
    list_answer: ListAnswer,
) -> Answer:
    kinds = _kinds(request)

    def look(last: str, limit: int) -> tuple[list[_Row], str | None]:
        rows, through = node.references.lists.referrer_page(
            scope.key, subject, last=last, limit=limit, unstored=list_answer.unstored
        )
        chosen = (row for row in rows if not kinds or row.artifact_type in kinds)
        return [_Row(row.digest, msgspec.json.encode(_encoded(row))) for row in chosen], through

    return page.read(
        look,
        lambda rows, more: _reply(request, scope, list_answer, rows, more),
        weight=lambda row: len(row.text) + 1,
        room=PAGE_BYTES,
    )


def _kinds(request: Request) -> set[str]:
    # a media type has no blank: a blank here is a plus that the client did not escape
    return {value.replace(" ", "+") for name, value in request.query if name == "artifactType" and value}


def _reply(
    request: Request, scope: RoutedRepository, list_answer: ListAnswer, rows: list[_Row], more: bool
) -> Reply:
    headers = [("Content-Type", INDEX)]
    if _kinds(request):
        headers.append(("OCI-Filters-Applied", "artifactType"))
    if more:
        headers.append(next_link(request, rows[-1].digest))
    if list_answer.stale:
        headers += unconfirmed(list_answer.stale, list_answer.age)
    if scope.namespace:
        headers.append(("OCI-Namespace", scope.namespace))
    index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [msgspec.Raw(row.text) for row in rows]}
    return Reply(200, headers, msgspec.json.encode(index))


def _encoded(row: Descriptor) -> dict[str, Any]:
    """A descriptor as the image-spec spells it; empty fields are left out (references.md 2.8)."""
    fields: dict[str, Any] = {"mediaType": row.media_type, "digest": row.digest, "size": row.size}
    if row.artifact_type:
        fields["artifactType"] = row.artifact_type
    if row.annotations:
        fields["annotations"] = row.annotations
    return fields
