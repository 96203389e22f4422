"""Tag lists, referrers and the catalogue: pages read to their end within bounds, every entry checked."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any

from yarl import URL

from holdfast.errors import ParentBroken
from holdfast.manifest import OCI_INDEX, Child, ManifestInvalid, child_of, decode, essence
from holdfast.parent.endpoint import Ask, Endpoint
from holdfast.parent.retry import Deadline
from holdfast.parent.token import CATALOGUE
from holdfast.wire.names import is_repository, is_tag

PAGES = 1000
ENTRIES = 200_000
#: what clients accept of one page (oci-spec 1.13, rule 85)
PAGE_BYTES = 4 << 20
#: asked of the parent; it may give fewer
PAGE_SIZE = 1000

_NEXT = re.compile(r"""<([^<>]{1,8192})>[^<>]*;\s*rel\s*=\s*"?next"?(?:\s*[;,].*)?""", re.IGNORECASE)


async def tags(endpoint: Endpoint, name: str, deadline: Deadline) -> list[str]:
    """Every tag, in the parent's order, without what is no tag. Raises ParentFailed."""
    ask = Ask("GET", name, f"tags/list?n={PAGE_SIZE}", {"Accept": "application/json"})
    found: list[str] = []
    async for document, _ in _pages(endpoint, ask, deadline):
        names = document.get("tags") or []
        if not isinstance(names, list):
            raise ParentBroken("the parent's tag list is no list")
        found += [tag for tag in names if isinstance(tag, str) and is_tag(tag)]
        if len(found) > ENTRIES:
            raise ParentBroken(f"the parent's tag list has over {ENTRIES} entries")
    return list(dict.fromkeys(found))


async def catalogue(endpoint: Endpoint, deadline: Deadline) -> list[str]:
    """Every repository below the endpoint's prefix, without it, in the parent's order. Raises ParentFailed; many
    parents have no catalogue, or show it to nobody."""
    ask = Ask("GET", "", f"_catalog?n={PAGE_SIZE}", {"Accept": "application/json"}, want=CATALOGUE)
    found: list[str] = []
    async for document, _ in _pages(endpoint, ask, deadline):
        names = document.get("repositories") or []
        if not isinstance(names, list):
            raise ParentBroken("the parent's catalogue is no list")
        texts = [name for name in names if isinstance(name, str) and name.startswith(endpoint.prefix)]
        found += filter(is_repository, (name.removeprefix(endpoint.prefix) for name in texts))
        if len(found) > ENTRIES:
            raise ParentBroken(f"the parent's catalogue has over {ENTRIES} entries")
    return list(dict.fromkeys(found))


async def referrers(endpoint: Endpoint, name: str, digest: str, deadline: Deadline) -> list[Child] | None:
    """What refers to a digest by the referrers API; None when the answer is not one of that API.

    Raises ParentNotFound when the parent has no such API (oci-spec 1.13, rule 78: if supported, never 404).
    """
    ask = Ask("GET", name, f"referrers/{digest}", {"Accept": OCI_INDEX})
    found: list[Child] = []
    async for document, content_type in _pages(endpoint, ask, deadline):
        if essence(content_type) != OCI_INDEX:
            return None
        found += descriptors(document)
        if len(found) > ENTRIES:
            raise ParentBroken(f"the parent's referrers are over {ENTRIES}")
    return found


def descriptors(document: dict[str, Any]) -> list[Child]:
    """The entries of an index of referrers. Raises ParentBroken."""
    entries = document.get("manifests") or []
    if not isinstance(entries, list):
        raise ParentBroken("the parent's referrers are no list")
    try:
        return [child_of(entry) for entry in entries]
    except ManifestInvalid as error:
        raise ParentBroken(f"the parent's referrers cannot be used: {error}") from None


def next_link(lines: list[str]) -> str | None:
    """The target of `rel="next"` among Link headers (RFC 8288), or None."""
    for line in lines:
        for part in re.split(r",\s*(?=<)", line[:16384]):
            if match := _NEXT.fullmatch(part.strip()):
                return match[1]
    return None


async def _pages(
    endpoint: Endpoint, ask: Ask, deadline: Deadline
) -> AsyncIterator[tuple[dict[str, Any], str]]:
    """Each page's document and its Content-Type."""
    page: URL | None = endpoint.url_of(ask)
    seen: set[URL] = set()
    while page is not None:
        if page in seen or len(seen) >= PAGES:
            raise ParentBroken("the parent's list does not end")
        seen.add(page)
        answer = await endpoint.ask(ask, deadline, page=page)
        try:
            body = await answer.body(PAGE_BYTES)
        finally:
            await answer.close()
        link = next_link(answer.header_lines("Link"))
        try:
            document = decode(body)
        except ManifestInvalid as error:
            raise ParentBroken(f"the parent's list cannot be read: {error}") from None
        if not isinstance(document, dict):
            raise ParentBroken("the parent's list is no object")
        yield document, answer.header("Content-Type") or ""
        page = endpoint.page_url(page, link) if link else None
