"""Tag lists, referrers and the catalogue: pages read to their end within bounds, every entry checked.

A page may have megabytes, and the parent may be malicious: a page is parsed on a thread, and all pages of a list
together are bounded in number and bytes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, cast

from yarl import URL

from holdfast.errors import ParentBroken
from holdfast.http.authority import CATALOGUE
from holdfast.http.endpoint import Endpoint, ParentRequest
from holdfast.http.retry import Deadline
from holdfast.oci.manifest import (
    OCI_INDEX,
    ChildDescriptor,
    ManifestUnreadable,
    aside,
    child_of,
    decode,
    essence,
)
from holdfast.oci.names import is_repository, is_tag

#: bounds of one list; a longer one is refused
PAGES = 1000
ENTRIES = 200_000
LIST_BYTES = 32 << 20
#: most referrers of one digest; each has annotations
REFERRERS = 10_000
#: longest page (bytes), as for clients (references.md 2.8)
PAGE_BYTES = 4 << 20
#: requested from the parent; it may send fewer
PAGE_SIZE = 1000

_NEXT = re.compile(r"""<([^<>]{1,8192})>[^<>]*;\s*rel\s*=\s*"?next"?(?:\s*[;,].*)?""", re.IGNORECASE)


async def tags(endpoint: Endpoint, name: str, deadline: Deadline) -> list[str]:
    """Every tag, in the parent's order, without invalid ones. Raises ParentFailed."""
    request = ParentRequest("GET", name, f"tags/list?n={PAGE_SIZE}", {"Accept": "application/json"})
    names: dict[str, None] = {}

    def take(body: bytes, _: str) -> None:
        names.update(dict.fromkeys(tag for tag in _strings(body, "tags") if is_tag(tag)))
        _require(len(names) <= ENTRIES, f"the parent's tag list has over {ENTRIES} entries")

    await _each_page(endpoint, request, deadline, take)
    return list(names)


async def catalogue(endpoint: Endpoint, deadline: Deadline) -> list[str]:
    """Every repository below the endpoint's prefix, without it, in the parent's order. Raises ParentFailed; many
    parents have no catalogue, or refuse it."""
    request = ParentRequest(
        "GET", "", f"_catalog?n={PAGE_SIZE}", {"Accept": "application/json"}, want=CATALOGUE
    )
    repositories: dict[str, None] = {}

    def take(body: bytes, _: str) -> None:
        below = (name for name in _strings(body, "repositories") if name.startswith(endpoint.prefix))
        names = (name.removeprefix(endpoint.prefix) for name in below)
        repositories.update(dict.fromkeys(filter(is_repository, names)))
        _require(len(repositories) <= ENTRIES, f"the parent's catalogue has over {ENTRIES} entries")

    await _each_page(endpoint, request, deadline, take)
    return list(repositories)


async def referrers(
    endpoint: Endpoint, name: str, digest: str, deadline: Deadline
) -> list[ChildDescriptor] | None:
    """The referrers of a digest by the referrers API; None when the answer is not one of that API.

    Raises ParentNotFound when the parent has no such API (references.md 2.8).
    """
    request = ParentRequest("GET", name, f"referrers/{digest}", {"Accept": OCI_INDEX})
    rows: list[ChildDescriptor] = []

    def take(body: bytes, content_type: str) -> None:
        if essence(content_type) != OCI_INDEX:
            raise _OtherApi
        rows.extend(descriptors(_document(body)))
        _require(len(rows) <= REFERRERS, f"the parent's referrers of one digest are over {REFERRERS}")

    try:
        await _each_page(endpoint, request, deadline, take)
    except _OtherApi:
        return None
    return rows


class _OtherApi(Exception):
    """The answer is none of the referrers API."""


def _document(body: bytes) -> dict[str, Any]:
    try:
        document = decode(body)
    except ManifestUnreadable as error:
        raise ParentBroken(f"the parent's list cannot be read: {error}") from None
    _require(isinstance(document, dict), "the parent's list is no object")
    return cast(dict[str, Any], document)


def _strings(body: bytes, key: str) -> Iterator[str]:
    # the number of entries decides how much memory the parsed page takes
    _require(body.count(b",") <= ENTRIES, f"a page of the parent's list of {key} has over {ENTRIES} entries")
    names = _document(body).get(key) or []
    _require(isinstance(names, list), f"the parent's list of {key} is no list")
    return (name for name in names if isinstance(name, str))


def _require(right: bool, otherwise: str) -> None:
    if not right:
        raise ParentBroken(otherwise)


def descriptors(document: dict[str, Any]) -> list[ChildDescriptor]:
    """The entries of an index of referrers. Raises ParentBroken."""
    entries = document.get("manifests") or []
    if not isinstance(entries, list):
        raise ParentBroken("the parent's referrers are no list")
    try:
        return [child_of(entry) for entry in entries]
    except ManifestUnreadable as error:
        raise ParentBroken(f"the parent's referrers cannot be used: {error}") from None


def next_link(lines: list[str]) -> str | None:
    """The target of `rel="next"` among Link headers (RFC 8288), or None."""
    for line in lines:
        for part in re.split(r",\s*(?=<)", line[:16384]):
            if match := _NEXT.fullmatch(part.strip()):
                return match[1]
    return None


async def _each_page(
    endpoint: Endpoint, request: ParentRequest, deadline: Deadline, take: Callable[[bytes, str], None]
) -> None:
    """Give each page's body and Content-Type to `take`, one after another; a large one on a thread."""
    async with endpoint.lists:
        await _walk(endpoint, request, deadline, take)


async def _walk(
    endpoint: Endpoint, request: ParentRequest, deadline: Deadline, take: Callable[[bytes, str], None]
) -> None:
    page: URL | None = endpoint.url_of(request)
    seen: set[URL] = set()
    left = LIST_BYTES
    while page is not None:
        _require(page not in seen and len(seen) < PAGES, "the parent's list does not end")
        seen.add(page)
        answer = await endpoint.request(request, deadline, page=page)
        try:
            body = await answer.body(PAGE_BYTES)
        finally:
            await answer.close()
        left -= len(body)
        _require(left >= 0, f"the parent's list has over {LIST_BYTES >> 20} MiB")
        await aside(take, body, answer.header("Content-Type") or "")
        link = next_link(answer.header_lines("Link"))
        page = endpoint.page_url(page, link) if link else None
