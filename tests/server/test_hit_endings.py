"""What ends an answer of the hit lane: each row, right, setting and time that an answer depends on, at once. Every test
first gets the answer from the lane, so that it would get it again if nothing had ended it."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any

import msgspec
import pytest
from holdfast.config import Configuration, ParentSection, TagsSection
from holdfast.control import command as commands
from holdfast.server.hits import FILE_BYTES, FILE_SECONDS, Hits
from holdfast.server.server import Server
from holdfast.wire.hit_lane import HitLane
from holdfast_core import format as layout
from holdfast_core.digest import Digest
from holdfast_core.errors import StoreError
from holdfast_core.record import LockChange, LockTarget
from holdfast_core.store import Store
from support.control import create_registry
from support.login import CLOSED, READ, Client, actions, basic, bearer, do, token
from support.pushing import OPEN, Registry, running
from support.serving import Answer, Serving, serving
from support.serving import Client as Connection

BODY, OTHER = b'{"schemaVersion":2}', b'{"schemaVersion":2,"layers":[]}'
DIGEST = str(Digest.of(BODY))
PARENT = Configuration(parent=(ParentSection(url="http://parent.test", name="up"),))


def learning(node: Any) -> HitLane:
    """The lane of a node that learns at once."""
    server: Server = node.server
    server.hits = Hits(node.node, server.date, at_once=True)
    return server.hits.lane


class Asked:
    """One request, on one connection."""

    def __init__(
        self, node: Any, client: Connection, target: str, method: str = "GET", **headers: str
    ) -> None:
        self.lane: HitLane = node.server.hits.lane
        self.client, self.target, self.method, self.headers = client, target, method, headers

    async def ask(self) -> Answer:
        return await self.client.ask(self.target, self.method, **self.headers)

    async def from_lane(self) -> Answer:
        """Asked once more, it is answered from the lane, as before."""
        first, given = await self.ask(), self.lane.given
        second = await self.ask()
        assert self.lane.given == given + 1, "not learned"
        assert (second.status, second.lines, second.body) == (first.status, first.lines, first.body)
        return second

    async def ordinary(self) -> Answer:
        """Not answered from the lane."""
        given = self.lane.given
        found = await self.ask()
        assert self.lane.given == given, "the lane gave an answer that had ended"
        return found


async def asked(node: Any, target: str, method: str = "GET", **headers: str) -> Asked:
    """The request, which the lane knows."""
    if node.server.hits is None or not node.server.hits._at_once:
        learning(node)
    one = Asked(node, await node.connect(), target, method, **headers)
    await one.from_lane()
    return one


# --- rows --------------------------------------------------------------------------------------------------

MANIFEST, TAG = f"/v2/a/manifests/{DIGEST}", "/v2/a/manifests/v1"
BLOB = f"/v2/a/blobs/{DIGEST}"
Change = Callable[[Store, float], Any]
LOCKED = LockChange(read=False)


def drop_link(store: Store, now: float) -> None:
    store.references.delete_manifest("a", Digest.parse(DIGEST), now=now).result()


def move(store: Store, now: float) -> None:
    store.references.put_manifest("a", Digest.of(OTHER), "x/y", OTHER, owned=True, now=now).result()
    store.references.put_tag("a", "v1", Digest.of(OTHER), now=now, origin="local").result()


def lock(kind: str, name: str = "") -> Change:
    target = LockTarget(kind, name)
    return lambda store, now: store.references.set_lock("a", target, LOCKED, now=now).result()


ROWS: dict[str, tuple[str, Change, int]] = {
    "the tag moves": (TAG, move, 200),
    "the tag goes": (TAG, lambda store, now: store.references.drop_tag("a", "v1", now=now).result(), 404),
    "the manifest goes": (MANIFEST, drop_link, 404),
    "the manifest goes, and with it the tag": (TAG, drop_link, 404),
    "the blob goes": (
        BLOB,
        lambda store, now: store.blobs.delete("a", Digest.parse(DIGEST), now=now).result(),
        404,
    ),
    "the repository is locked": (MANIFEST, lock("repository"), 405),
    "the repository is locked, tag": (TAG, lock("repository"), 405),
    "the repository is locked, blob": (BLOB, lock("repository"), 405),
    "the manifest is locked": (MANIFEST, lock("manifest", DIGEST), 405),
    "the tag is locked": (TAG, lock("tag", "v1"), 405),
}


@pytest.mark.parametrize("name", ROWS)
async def test_s53_a_row_that_changes_ends_what_was_made_of_it(tmp_path: Path, name: str) -> None:
    target, change, status = ROWS[name]
    async with serving(tmp_path, OPEN) as node:
        node.put_manifest("a", BODY, "v1")
        node.store.blobs.put_inline("a", Digest.of(BODY), BODY, owned=True, now=node.clock.now()).result()
        requests = [await asked(node, target, method) for method in ("GET", "HEAD")]
        requests.append(await asked(node, target, If_None_Match=f'"{DIGEST}"'))
        change(node.store, node.clock.now())
        for one in requests:
            answer = await one.ordinary()
            assert answer.status == status
            assert status != 200 or answer.headers["docker-content-digest"] == str(Digest.of(OTHER))


async def test_a_commit_that_changes_nothing_of_it_ends_no_answer(tmp_path: Path) -> None:
    async with serving(tmp_path, OPEN) as node:
        node.put_manifest("a", BODY, "v1")
        one = await asked(node, TAG)
        compared = one.lane.compared
        node.put_manifest("b", OTHER, "v1")
        await one.from_lane()
        assert one.lane.compared == compared + 1, "compared once, and then known for this commit"


async def test_locks_elsewhere_end_nothing_and_one_here_does(tmp_path: Path) -> None:
    """Also where there are locks is a hit one of the lane."""
    async with serving(tmp_path, OPEN) as node:
        node.put_manifest("a", BODY, "v1")
        node.put_manifest("b", OTHER, "v1")
        locked = LockTarget("repository")
        node.store.references.set_lock("b", locked, LOCKED, now=1.0).result()
        requests = [await asked(node, target) for target in (TAG, MANIFEST)]
        node.store.references.set_lock("b", locked, LockChange(read=True), now=1.0).result()
        for one in requests:
            await one.from_lane()
        node.store.references.set_lock("a", locked, LOCKED, now=1.0).result()
        for one in requests:
            assert (await one.ordinary()).status == 405
        node.store.references.set_lock("a", locked, LockChange(read=True), now=1.0).result()
        for one in requests:
            assert (await one.from_lane()).status == 200


async def test_a_damaged_record_ends_what_was_made_of_it(tmp_path: Path) -> None:
    """Bytes that change below the index, with the next commit of anybody at the latest."""
    async with serving(tmp_path, OPEN) as node:
        node.put_manifest("a", BODY, "v1")
        one = await asked(node, TAG)
        key = layout.BLOB + Digest.of(BODY).key
        with node.store._index.begin(write=True) as txn:
            row = bytearray(txn.get(key) or b"")
            row[-20] ^= 1
            txn.put(key, bytes(row))
        assert (await one.ordinary()).status == 404, "to a caller that may push it again"


async def test_a_blob_that_is_about_to_go_is_not_here_for_who_may_push(tmp_path: Path) -> None:
    """HEAD of a blob that no manifest names is answered otherwise after a while, and by the mode."""
    async with serving(tmp_path, OPEN) as node:
        small = b"config"
        digest = Digest.of(small)
        node.store.blobs.push_inline("a", digest, small, now=node.clock.now()).result()
        one = await asked(node, f"/v2/a/blobs/{digest}", "HEAD")
        node.clock.advance(node.node.found_for - 1)
        await one.from_lane()
        node.clock.advance(2)
        assert (await one.ordinary()).status == 404
        node.store.set_mode("ReadOnly")
        assert (await one.from_lane()).status == 200
        node.store.set_mode("ReadWrite")
        assert (await one.ordinary()).status == 404


# --- rights and logins -------------------------------------------------------------------------------------


COMMANDS: dict[str, commands.Command] = {
    "the token is disabled": commands.UpdateToken(name="robot", status="disabled"),
    "the token is deleted": commands.DeleteToken(name="robot"),
    "its password is another one": commands.GenerateCredentials(token="robot", passwords=("password1",)),
    "its passwords are gone": commands.DeleteCredentials(token="robot"),
    "its scope map names another repository": commands.UpdateScopeMap(
        name="robot-scope-map", actions=actions("b", *READ)
    ),
    "its scope map lets it read no content": commands.UpdateScopeMap(
        name="robot-scope-map", remove=actions("a", "content/read")
    ),
}


async def put_image(node: Registry) -> None:
    """An image, put in place without a login."""
    digest, now = Digest.of(BODY), node.clock.now()
    node.store.references.put_manifest("a", digest, "x/y", BODY, owned=True, now=now).result()
    node.store.references.put_tag("a", "v1", digest, now=now, origin="local").result()


async def robot(node: Registry) -> tuple[Asked, Client]:
    """A pull with a token, which the lane knows."""
    await put_image(node)
    learning(node)
    client = Client(node, "robot", await token(node, "robot", *actions("a", *READ)))
    said = bearer(await client.token("repository:a:pull"))
    return await asked(node, TAG, Authorization=said), client


@pytest.mark.parametrize("name", COMMANDS)
async def test_s53_what_ends_a_login_or_a_right_ends_its_answers_at_once(tmp_path: Path, name: str) -> None:
    async with running(tmp_path, CLOSED) as node:
        one, _ = await robot(node)
        stranger = Asked(node, await node.connect(), TAG)
        assert (await stranger.ordinary()).status == 401
        await do(node, COMMANDS[name])
        assert (await one.ordinary()).status == 401


async def test_s53_a_token_that_expires_ends_its_answers(tmp_path: Path) -> None:
    async with running(tmp_path, CLOSED) as node:
        one, client = await robot(node)
        seconds = 0
        while (await one.ask()).status == 200:
            node.clock.advance(10)
            seconds += 10
            assert seconds < 36_000
        assert (await one.ordinary()).status == 401
        assert (await client.ask("GET", TAG)).status == 200


async def test_a_token_of_a_stranger_that_expires_ends_its_answers(tmp_path: Path) -> None:
    """In a repository that strangers may read on a node that is closed to them otherwise."""
    login = msgspec.structs.replace(CLOSED.login, anonymous_repositories=("a",))
    async with running(tmp_path, msgspec.structs.replace(CLOSED, login=login)) as node:
        await put_image(node)
        learning(node)
        await token(node, "robot", *actions("a", *READ))  # there is a login, so that tokens are looked at
        said = bearer(await Client(node).token("repository:a:pull"))
        one = await asked(node, TAG, Authorization=said)
        seconds = 0
        while (await one.ask()).status == 200:
            node.clock.advance(10)
            seconds += 10
            assert seconds < 36_000
        assert (await one.ordinary()).status == 401


async def test_a_right_of_strangers_that_ends_ends_their_answers_at_once(tmp_path: Path) -> None:
    """A root is open to strangers until there is a connected registry; no time passes here."""
    async with running(tmp_path, Configuration()) as node:
        await put_image(node)
        one = await asked(node, TAG)
        await do(node, create_registry(name="plant", mode="ReadOnly", repositories=("a",)))
        assert (await one.ordinary()).status == 401


async def test_a_password_is_checked_each_time(tmp_path: Path) -> None:
    """An answer to a password is not learned: each right one ends the count of wrong ones."""
    async with running(tmp_path, CLOSED) as node:
        _, client = await robot(node)
        one = Asked(node, await node.connect(), TAG, Authorization=basic(client.name, client.secret))
        for _ in range(3):
            assert (await one.ordinary()).status == 200


async def test_credentials_that_do_not_count_are_no_part_of_the_answer(tmp_path: Path) -> None:
    async with running(tmp_path, Configuration()) as node:
        await put_image(node)
        one = await asked(node, TAG, Authorization="Basic d3Jvbmc6d3Jvbmc=")
        assert (await one.from_lane()).status == 200


# --- time, and what is in memory ---------------------------------------------------------------------------


async def held_below_a_parent(node: Serving) -> Asked:
    node.put_manifest("up:a", BODY, "v1", "latest")
    node.port.manifests["up:a", "latest"] = ("x/y", BODY)
    return await asked(node, "/v2/a/manifests/latest")


async def test_a_tag_is_confirmed_when_its_time_is_over(tmp_path: Path) -> None:
    async with serving(tmp_path, PARENT) as node:
        one = await held_below_a_parent(node)
        node.clock.advance(TagsSection().floating_ttl - 0.5)
        await one.from_lane()
        before = node.port.calls["manifest"]
        node.clock.advance(0.5)
        await one.ordinary()
        assert node.port.calls["manifest"] == before + 1
        await one.from_lane()  # it was confirmed: known again
        node.clock.advance(-1.0)
        await one.ordinary()  # a clock that was set back proves nothing


async def test_a_confirmation_in_memory_counts_as_for_the_ordinary_way(tmp_path: Path) -> None:
    """One that is older than the row, too: then it is not fresh any more."""
    async with serving(tmp_path, PARENT) as node:
        one = await held_below_a_parent(node)
        earlier = node.clock.now() - 2 * TagsSection().floating_ttl
        node.store.references.confirm_tag("up:a", "v1", Digest.of(BODY), earlier)
        await one.from_lane()  # another tag
        node.store.references.confirm_tag("up:a", "latest", Digest.of(BODY), earlier)
        before = node.port.calls["manifest"]
        await one.ordinary()
        assert node.port.calls["manifest"] == before + 1


async def test_names_that_are_adopted_count_at_once(tmp_path: Path) -> None:
    """`ns` may mean another parent from one moment to the next."""
    rows = (
        ParentSection(url="http://up.test", name="up", default=True),
        ParentSection(url="http://other.test", name="other", namespaces=("*",)),
    )
    async with serving(tmp_path, Configuration(parent=rows)) as node:
        node.put_manifest("other:a", BODY, "v1")
        node.put_manifest("up:a", OTHER, "v1")
        one = await asked(node, "/v2/a/manifests/v1?ns=above.test")
        assert (await one.from_lane()).body == BODY
        node.node.router.adopt(["above.test"])
        assert (await one.ordinary()).body == OTHER
        await one.from_lane()
        node.node.router.adopt([])
        assert (await one.ordinary()).body == BODY


def _without(_: Serving, file: Path) -> None:
    file.unlink()


def _with_a_bad_byte(_: Serving, file: Path) -> None:
    with file.open("r+b") as found:
        found.write(b"y")
        os.fsync(found)


def _quarantined(node: Serving, _: Path) -> None:
    node.store.blobs.quarantine(Digest.of(BYTES), 0, 1).result()


BYTES = random.Random(7).randbytes(20_000)


async def held_in_a_file(node: Serving, body: bytes = BYTES) -> str:
    """A blob whose bytes were read once, so that they are verified."""
    digest = node.put_blob("a", body)
    learning(node)
    await node.ask(f"/v2/a/blobs/{digest}")
    await node.ask(f"/v2/a/blobs/{digest}", Range="bytes=0-0")
    return digest


@pytest.mark.disk
@pytest.mark.parametrize("spoil", [_without, _with_a_bad_byte, _quarantined])
async def test_a_body_of_a_file_is_looked_at_again_after_a_moment(
    tmp_path: Path, spoil: Callable[[Serving, Path], None]
) -> None:
    async with serving(tmp_path, OPEN) as node:
        if not node.store.blobs.knows_pages:
            pytest.skip("this kernel does not tell which pages stayed in memory")
        digest = await held_in_a_file(node)
        target = f"/v2/a/blobs/{digest}"
        requests = [await asked(node, target), await asked(node, target, Range="bytes=5-9")]
        requests.append(await asked(node, target, Range="bytes=0-1,7-9"))
        assert [(await one.from_lane()).body for one in requests[:2]] == [BYTES, BYTES[5:10]]
        (file,) = (tmp_path / "store" / "blobs").rglob(digest.removeprefix("sha256:"))
        spoil(node, file)
        if spoil is not _quarantined:  # of that the index knows
            node.clock.advance(FILE_SECONDS - 0.1)
            for one in requests:
                await one.from_lane()
            node.clock.advance(0.1)
        for one in requests:
            answer = await one.ordinary()
            assert answer.status in (404, 500) or not answer.complete


@pytest.mark.disk
async def test_long_bodies_and_heads_of_files_are_not_learned(tmp_path: Path) -> None:
    async with serving(tmp_path, OPEN) as node:
        digest = await held_in_a_file(node, random.Random(8).randbytes(FILE_BYTES + 2))
        for method, headers in (("GET", {}), ("HEAD", {}), ("GET", {"Range": "bytes=1-"})):
            one = Asked(node, await node.connect(), f"/v2/a/blobs/{digest}", method, **headers)
            for _ in range(3):
                assert (await one.ordinary()).status in (200, 206)
            assert len(one.lane) <= 1


@pytest.mark.disk
async def test_a_manifest_of_a_file_is_learned_for_a_moment(tmp_path: Path) -> None:
    async with serving(tmp_path, msgspec.structs.replace(OPEN, inline_bytes=16)) as node:
        node.put_manifest("a", BODY, "v1")
        one = await asked(node, TAG)
        node.clock.advance(FILE_SECONDS)
        assert (await one.ordinary()).status == 200


async def test_an_index_that_cannot_be_read_gives_no_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(tmp_path, OPEN) as node:
        node.put_manifest("a", BODY, "v1")
        one = await asked(node, TAG)

        def closed(*_: object, **__: object) -> Any:
            raise StoreError("no")

        with monkeypatch.context() as broken:
            broken.setattr(node.store._index, "begin", closed)
            assert (await one.ordinary()).status == 500
        await one.from_lane()


async def test_reads_of_other_threads_are_no_part_of_an_answer(tmp_path: Path) -> None:
    async with serving(tmp_path, OPEN) as node:
        node.put_manifest("a", BODY, "v1")
        with node.store.repeated_reads.noted() as snapshot:
            thread = Thread(target=lambda: node.store.references.manifest("a", Digest.of(BODY)))
            thread.start()
            thread.join()
            assert (snapshot.rows, snapshot.is_partial, snapshot.any_locks) == ({}, False, None)
            node.store.references.manifest("a", Digest.of(BODY))
            assert len(snapshot.rows) == 2
        node.store.references.tag("a", "v1")
        assert len(snapshot.rows) == 2
