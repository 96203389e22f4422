"""Looks at a node after a fault: all that was acknowledged is there, all that is there is right."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from time import sleep

from holdfast_core import fsck
from support.format_reader import FormatReader
from torture.client import GONE, Connection, Unexpected, Upload, fetched
from torture.ledger import ABSENT, Key
from torture.load import World

READERS = 3
#: so often is a store looked at that has problems, and so long apart (s)
LOOKS, PAUSE = 4, 0.5


def check(world: World, url: str, keys: Sequence[Key]) -> None:
    """Ask the node for every key, among them all that are fresh, and complain about what may not be."""
    shares = [keys[n::READERS] for n in range(READERS)]
    with ThreadPoolExecutor(READERS) as readers:
        list(readers.map(lambda share: look_at_all(world, url, share), shares))
    world.ledger.settle(len(keys))


def look_at_all(world: World, url: str, keys: Sequence[Key]) -> None:
    """One reader."""
    with closing(Connection(url)) as http:
        for key in keys:
            try:
                look(world, http, key)
            except (*GONE, Unexpected) as error:
                world.ledger.complain(f"{' '.join(key)}: {error!r}")
                http.close()


def look(world: World, http: Connection, key: Key) -> None:
    """Every byte of a thing."""
    kind, repository, name = key
    if kind == "referrer":
        world.ledger.found(key, referrer(http, repository, *name.split("@")))
        return
    if kind == "cached":
        answer = http.expect(200, "GET", f"/v2/{repository}/{name}")
        if not fetched(answer, name.partition("/")[2]):
            world.ledger.complain(f"{' '.join(key)}: {len(answer.body)} wrong bytes")
        return
    noun = "blobs" if kind == "blob" else "manifests"
    answer = http.ask("GET", f"/v2/{repository}/{noun}/{name}")
    if answer.status == 404:
        world.ledger.found(key, ABSENT)
        return
    if answer.status != 200:
        raise Unexpected(f"{answer.status}: {answer.body[:300]!r}")
    digest = answer.headers["docker-content-digest"]
    if not fetched(answer, digest) or (kind != "tag" and digest != name):
        world.ledger.complain(f"{' '.join(key)}: {len(answer.body)} wrong bytes as {digest}")
    states = {"blob": str(len(answer.body)), "manifest": answer.headers["content-type"], "tag": digest}
    world.ledger.found(key, states[kind])


def referrer(http: Connection, repository: str, subject: str, digest: str) -> str:
    """The media type under which a manifest is listed as a referrer; "" when it is not."""
    answer = http.expect(200, "GET", f"/v2/{repository}/referrers/{subject}")
    listed = {entry["digest"]: entry["mediaType"] for entry in json.loads(answer.body)["manifests"]}
    return str(listed.get(digest, ABSENT))


def go_on(world: World, url: str, *, lost: bool) -> None:
    """Each session that clients know of goes on where the node says, or (`lost`: after a power cut only) is gone."""
    with closing(Connection(url)) as http:
        for upload in world.uploads.open():
            try:
                resume(world, http, upload, lost=lost)
            except (*GONE, Unexpected) as error:
                world.ledger.complain(f"session of {upload.repository} at {upload.offset}: {error!r}")
                http.close()
            world.uploads.forget(upload)


def resume(world: World, http: Connection, upload: Upload, *, lost: bool) -> None:
    """Ask how far it is, send the rest, close it."""
    key = "blob", upload.repository, upload.content.digest
    answer = http.ask("GET", upload.target)
    if answer.status == 404:
        world.seen["sessions gone"] += 1
        # a PUT that was cut off may have closed it
        if not lost and not (upload.sent == upload.content.size and len(world.ledger.allowed(key)) > 1):
            raise Unexpected("it is gone")
        return
    found = re.fullmatch(r"0-([0-9]+)", answer.headers.get("range", ""))
    if answer.status != 204 or not found:
        raise Unexpected(f"{answer.status}, Range {answer.headers.get('range')!r}")
    offset = int(found[1]) + 1 if upload.sent > 0 and int(found[1]) else 0
    if offset > upload.sent or (offset < upload.offset and not lost):
        raise Unexpected(f"offset {offset}; acknowledged {upload.offset}, sent {upload.sent}")
    world.seen["sessions behind" if offset < upload.offset else "sessions as acknowledged"] += 1
    upload.offset = offset
    with world.ledger.changing((key, str(upload.content.size))) as change:
        world.uploads.finish(http, upload)
        change.acknowledged = True


def sound(world: World, data: Path, *, read_data: bool = False) -> None:
    """fsck and a reader of docs/format.md find nothing that stays. Beside a node at work they may meet a blob that is
    just being removed, and a journal that is a commit ahead."""
    problems: set[str] | None = None
    for _ in range(LOOKS):
        found = {f"fsck: {problem}" for problem in fsck(data, (1, 1) if read_data else None).problems}
        found |= {f"by docs/format.md: {problem}" for problem in FormatReader(data, bodies=read_data).run()}
        problems = found if problems is None else problems & found
        if not problems:
            return
        sleep(PAUSE)
    for problem in sorted(problems or ()):
        world.ledger.complain(problem)
