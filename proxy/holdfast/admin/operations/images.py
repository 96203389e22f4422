"""Images and repositories over the admin API: pins, what was deleted, prefetches, and the delete of a repository."""

from __future__ import annotations

from typing import NamedTuple

from msgspec import UNSET

from holdfast import timestamps
from holdfast.admin.filter import PAGE_ENTRIES, next_link
from holdfast.admin.operation import AdminCall, reply
from holdfast.clock import give_way
from holdfast.errors import ControlInvalid, QueryInvalid
from holdfast.oci.names import is_digest, is_repository, is_tag, shown
from holdfast.routing import RoutedRepository
from holdfast.storage.images.deleted_images import DeletedImage, DeletedList, deleted_images
from holdfast.storage.images.pinned_images import PinKind, PinList, report_of
from holdfast.sync.report import ImageOrder, PrefetchList
from holdfast.wire.message import Reply


class NamedImage(NamedTuple):
    """An image as an operator names it, `name:tag` or `name@digest`."""

    text: str
    scope: RoutedRepository
    kind: PinKind
    reference: str


def image_of(call: AdminCall, text: str, field: str) -> NamedImage:
    """The image of a text. Raises `ControlInvalid`, and `NameUnknown` for a repository that this node does not
    serve."""
    name, at, reference = text.partition("@")
    if not at:
        name, _, reference = text.rpartition(":")
    if not is_repository(name) or not (is_digest if at else is_tag)(reference):
        raise ControlInvalid(
            f"{field}: found {shown(text)!r}; allowed: NAME:TAG or NAME@DIGEST, with a name as clients of this node"
            " use it",
            field=field,
        )
    return NamedImage(text, call.node.router.named(name), "manifest" if at else "tag", reference)


async def pins(call: AdminCall) -> Reply:
    """GET of all pins."""
    node, now = call.node, call.node.clock.now()
    rows = [
        report_of(node.store, pin, node.router.shown_name(pin.repository), now)
        for pin in node.store.space.pins()
    ]
    return reply(PinList(value=tuple(sorted(rows, key=lambda row: row.image))))


async def pin(call: AdminCall) -> Reply:
    """POST: keep an image, whether it is here yet or not."""
    image, body = image_of(call, call.body.image, "image"), call.body
    until = float("inf")
    if body.until is not UNSET:
        try:
            until = timestamps.seconds(body.until)
        except ValueError:
            raise ControlInvalid(
                f"until: found {shown(body.until)!r}; allowed: a time of RFC 3339, such as 2099-01-31T00:00:00Z",
                field="until",
            ) from None
    by = call.request.note.user
    await call.node.port.pin(image.scope.key, image.kind, image.reference, until, body.with_referrers, by)
    return await pins(call)


async def unpin(call: AdminCall) -> Reply:
    """DELETE: end the pin of an image."""
    image = image_of(call, _given(call, "image"), "image")
    await call.node.port.unpin(image.scope.key, image.kind, image.reference, call.request.note.user)
    return await pins(call)


async def deleted(call: AdminCall) -> Reply:
    """GET of what can be restored, of a page of repositories."""
    node, size = call.node, call.query.get("$top", PAGE_ENTRIES)
    keys = node.references.every_name(last=call.query.get("$skipToken", ""), limit=size + 1)
    rows: list[DeletedImage] = []
    for key in keys[:size]:
        kept = node.config.garbage_collection.deleted_after
        rows += deleted_images(node.store, key, node.router.shown_name(key), kept, node.clock.now())
        await give_way()
    following = next_link(call, keys[size - 1]) if len(keys) > size else None
    return reply(DeletedList(value=tuple(rows), next_link=following))


async def undelete(call: AdminCall) -> Reply:
    """POST: restore one of them."""
    image, by = image_of(call, call.body.image, "image"), call.request.note.user
    return reply(
        await call.node.port.undelete(image.scope.key, image.kind, image.reference, call.body.tags, by)
    )


async def prefetches(call: AdminCall) -> Reply:
    """GET of the prefetches under way, and of those that are over."""
    return reply(PrefetchList(value=await call.node.port.prefetches()))


async def prefetch(call: AdminCall) -> Reply:
    """POST: bring images from their parents."""
    images = [image_of(call, text, f"images[{number}]") for number, text in enumerate(call.body.images)]
    orders = tuple(
        ImageOrder(repository=one.scope.key, reference=one.reference, image=one.text) for one in images
    )
    answer = await call.node.port.order_prefetch(orders, call.request.note.user)
    return reply(PrefetchList(value=answer))


async def delete_repository(call: AdminCall) -> Reply:
    """DELETE of a repository, a part of it a request."""
    name = _given(call, "repository")
    scope = call.node.router.named(name)
    return reply(await call.node.port.delete_repository(scope.key, name, call.request.note.user))


def _given(call: AdminCall, name: str) -> str:
    """A query parameter that must be there. Raises `QueryInvalid`."""
    if not (text := call.query.get(name, "")):
        raise QueryInvalid(f"{name}: missing; it must be given", detail=name)
    return str(text)
