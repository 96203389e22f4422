"""GET of what refers to a digest (distribution-spec end-12). Never 404: clients take that as "no such API"
and turn to fallback tags for good (oci-spec 1.13, rule 78)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
from holdfast_core.digest import Digest
from holdfast_core.record import Descriptor, ReferrersList

from holdfast.endpoint.node import Answer, Node
from holdfast.endpoint.page import asked_page, next_link
from holdfast.endpoint.warning import warning
from holdfast.errors import KeeperAway, NameUnknown, ParentDenied, ParentFailed, ParentNotFound
from holdfast.keeper.port import ListAnswer
from holdfast.routing import Scope
from holdfast.wire import names
from holdfast.wire.message import Reply, Request

INDEX = "application/vnd.oci.image.index.v1+json"
#: clients accept 4 MiB of index; a page stays well below (rule 85)
PAGE_BYTES = 3 << 20

NOTHING = ReferrersList((), 0.0)


def answer(node: Node, request: Request) -> Answer:
    """The referrers, or what will ask the keeper for the parent's. Raises `Locked` where the repository may not be
    read."""
    scope = node.router.scope(request)
    subject = names.digest(request.route.reference)
    node.store.require_read(scope.key)
    held = node.store.referrers(scope.key, subject)
    if not node.asks(scope) or (held is not None and _is_fresh(node, held)):
        return _reply(node, request, scope, held or NOTHING, ListAnswer())
    return _fetched(node, request, scope, subject)


def _is_fresh(node: Node, held: ReferrersList) -> bool:
    return 0 <= node.clock.now() - held.fetched_at < node.config.tags.list_ttl


async def _fetched(node: Node, request: Request, scope: Scope, subject: Digest) -> Reply:
    """Raises what the keeper raises when nothing is known: an empty list would say "unsigned"."""
    try:
        told = await node.port.referrers(scope.key, str(subject))
        if not told.stale and told.unstored is None:
            node.store.confirm_referrers(scope.key, subject, node.clock.now() - told.age)
    except (ParentNotFound, ParentDenied, NameUnknown):
        told = ListAnswer()
    except (ParentFailed, KeeperAway) as error:
        held = node.store.referrers(scope.key, subject)
        if held is None:
            raise
        told = ListAnswer(max(0, int(node.clock.now() - held.fetched_at)), error.message)
    return _reply(
        node, request, scope, node.store.referrers(scope.key, subject, told.unstored) or NOTHING, told
    )


def _reply(node: Node, request: Request, scope: Scope, held: ReferrersList, told: ListAnswer) -> Reply:
    # A media type holds no blank, so a blank was a plus that a client did not escape
    kinds = {value.replace(" ", "+") for name, value in request.query if name == "artifactType" and value}
    rows = sorted(_chosen(held.descriptors, kinds), key=lambda row: row.digest)
    manifests, last = _page(request, rows, node.config.limits.page_size)
    headers = [("Content-Type", INDEX)]
    if kinds:
        headers.append(("OCI-Filters-Applied", "artifactType"))
    if last:
        headers.append(next_link(request, last))
    if told.stale:
        headers += [("Age", str(told.age)), ("Warning", warning(told.stale, told.age))]
    if scope.namespace:
        headers.append(("OCI-Namespace", scope.namespace))
    index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [msgspec.Raw(row) for row in manifests]}
    return Reply(200, headers, msgspec.json.encode(index))


def _chosen(rows: Iterable[Descriptor], kinds: set[str]) -> list[Descriptor]:
    return [row for row in rows if not kinds or row.artifact_type in kinds]


def _page(request: Request, rows: list[Descriptor], limit: int) -> tuple[list[bytes], str]:
    """The encoded rows of the page asked for, bounded in number and bytes, and its last digest when more
    follow. A page holds at least one row unless none were asked for."""
    page = asked_page(request, limit)
    size, encoded = 0, list[bytes]()
    after = [row for row in rows if row.digest > page.last]
    for row in after:
        text = msgspec.json.encode(_encoded(row))
        if len(encoded) == page.size or (encoded and size + len(text) > PAGE_BYTES):
            return encoded, after[len(encoded) - 1].digest if encoded else ""
        encoded.append(text)
        size += len(text) + 1
    return encoded, ""


def _encoded(row: Descriptor) -> dict[str, Any]:
    """A descriptor as the image-spec spells it; empty fields are left out (rules 83, 84)."""
    fields: dict[str, Any] = {"mediaType": row.media_type, "digest": row.digest, "size": row.size}
    if row.artifact_type:
        fields["artifactType"] = row.artifact_type
    if row.annotations:
        fields["annotations"] = row.annotations
    return fields
