"""A damaged chunk of a held blob comes again from the parent: exactly its bytes, checked before they count."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from holdfast_core.digest import CHUNK_BYTES, Digest
from holdfast_core.errors import DigestMismatch
from holdfast_core.store import Store

from holdfast.errors import BlobUnknown, ParentBroken, ParentUnreachable

if TYPE_CHECKING:
    from holdfast.parent.client import Parent


#: A chunk is a mebibyte; one that cannot be had in so many tries waits for the next reader.
TRIES = 3


async def repair_chunks(
    store: Store, parent: Parent, name: str, digest: Digest, start: int, end: int
) -> None:
    """Quarantine the chunks of [start, end), fetch them and put them back. Raises the parent's refusal, or
    ParentBroken when its bytes are not the chunk's."""
    blob = store.blob_anywhere(digest)
    if blob is None:
        raise BlobUnknown(f"{digest} is not held")
    await asyncio.wrap_future(store.quarantine(digest, start, end))
    for offset in range(start - start % CHUNK_BYTES, end, CHUNK_BYTES):
        body = await fetch(parent, name, str(digest), offset, min(offset + CHUNK_BYTES, blob.size))
        try:
            await asyncio.wrap_future(store.repair_chunk(digest, offset, body))
        except DigestMismatch as error:
            raise ParentBroken(f"the parent's bytes are not {digest}", detail=str(error)) from error


async def fetch(parent: Parent, name: str, digest: str, start: int, end: int) -> bytes:
    """[start, end) of a blob, resumed when cut."""
    body = b""
    for attempt in range(1, TRIES + 1):
        try:
            async with parent.get_blob(name, digest, start=start + len(body), end=end) as stream:
                at = stream.start
                async for data in stream:
                    body += data[max(0, start + len(body) - at) :]
                    at += len(data)
                    if at >= end:
                        return body[: end - start]
        except ParentUnreachable:
            if attempt == TRIES:
                raise
    raise ParentBroken(f"the parent did not send bytes {start}-{end - 1} of {digest}")
