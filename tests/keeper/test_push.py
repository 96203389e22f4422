"""What clients change, through the keeper: in process, over the socket, and over a keeper that dies meanwhile."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from holdfast import errors
from holdfast.clock import SystemClock
from holdfast.config import Configuration, LimitsSection, PushSection
from holdfast.keeper.api import KeeperApi
from holdfast.keeper.keeper import Keeper
from holdfast.keeper.rpc import frames
from holdfast.keeper.rpc.remote_keeper import ATTEMPTS, RemoteKeeper
from holdfast.keeper.rpc.remote_methods import KEEPER_METHODS
from holdfast.keeper.rpc.service import Service
from holdfast.process.assembly import make_keeper
from holdfast.testing.manual_clock import FakeClock
from holdfast_core.digest import ChunkHasher, Digest
from holdfast_core.record import Lock, LockTarget
from holdfast_core.store import Store
from support.patience import patience
from support.pushing import OCI_INDEX, descriptor, index

BODY = index()
DIGEST = str(Digest.of(BODY))
NONE = f"sha256:{'a' * 64}"

Both = Callable[[KeeperApi, Keeper], Coroutine[Any, Any, None]]


@asynccontextmanager
async def kept(place: Path, config: Configuration) -> AsyncIterator[Keeper]:
    """A keeper over a real store."""
    store = Store.create_or_open(
        place / "data", write=True, inline_bytes=config.inline_bytes, mode=config.store_mode
    )
    keeper = make_keeper(config, store, FakeClock(jump=False))
    await keeper.start()
    try:
        yield keeper
    finally:
        await keeper.close()
        store.close()


@asynccontextmanager
async def served(path: str, keeper: Any) -> AsyncIterator[Service]:
    """A keeper on a socket."""
    if os.path.exists(path):
        os.unlink(path)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    service = Service(keeper)
    await service.start(listener)
    try:
        yield service
    finally:
        await service.close()


@asynccontextmanager
async def asking(path: str, store: Any = None) -> AsyncIterator[RemoteKeeper]:
    """A worker's side of the socket."""
    port = RemoteKeeper.at(path, store, SystemClock())
    await port.start()
    try:
        yield port
    finally:
        await port.close()


@asynccontextmanager
async def carried(
    tmp_path: Path, carrier: str, config: Configuration | None = None
) -> AsyncIterator[tuple[KeeperApi, Keeper]]:
    """A keeper as it is asked, in process or through the socket, and itself."""
    async with kept(tmp_path, config or Configuration()) as keeper:
        path = str(tmp_path / "keeper.sock")
        async with served(path, keeper), asking(path, keeper.store) as port:
            yield keeper if carrier == "process" else port, keeper


CARRIERS = pytest.mark.parametrize("carrier", ["process", "socket"])


@CARRIERS
async def test_every_change_by_either_carrier(tmp_path: Path, carrier: str) -> None:
    async with carried(tmp_path, carrier) as (port, keeper):
        store, parsed = keeper.store, Digest.parse(DIGEST)
        body = index(subject=descriptor(NONE), annotations={"a": "b"}, artifactType="x/y")
        digest = Digest.of(body)
        await port.put_manifest("a", str(digest), ("x", "y"), OCI_INDEX, body)
        held = store.references.manifest("a", digest)
        assert held is not None
        assert (held.body, held.media_type, held.owned) == (body, OCI_INDEX, True)
        assert store.references.tags("a") == ["x", "y"]
        found = store.references.lists.referrers("a", Digest.parse(NONE))
        assert found is not None
        assert [(d.digest, d.artifact_type, d.annotations) for d in found.descriptors] == [
            (str(digest), "x/y", {"a": "b"})
        ]
        await port.put_blob("a", DIGEST, BODY)
        assert store.blobs.get("a", parsed) is not None
        assert await port.mount("b", DIGEST, "a") is True
        assert await port.mount("c", DIGEST, "") is True
        assert await port.mount("d", DIGEST, "nowhere") is False
        assert await port.mount("d", NONE, "") is False
        assert store.blobs.get("b", parsed) is not None
        assert store.blobs.get("d", parsed) is None
        await port.set_lock("a", "tag", "x", (None, None, False, None))
        await port.set_lock("a", "tag", "x", (None, True, None, False))
        assert store.references.lock("a", LockTarget("tag", "x")) == Lock(delete=False, list=False)
        with pytest.raises(errors.Locked, match="deleteEnabled"):
            await port.delete("a", "tag", "x")
        await port.set_lock("a", "tag", "x", (True, True, True, True))
        for kind, name in (("tag", "x"), ("manifest", str(digest)), ("blob", DIGEST)):
            await port.delete("a", kind, name)  # type: ignore[arg-type]
        assert store.references.tags("a") == []
        assert store.blobs.get("a", parsed) is None


@CARRIERS
async def test_a_blob_that_went_since_the_endpoint_saw_it_is_named(tmp_path: Path, carrier: str) -> None:
    async with carried(tmp_path, carrier) as (port, keeper):
        await port.put_blob("a", DIGEST, BODY)
        body = index()
        digest = str(Digest.of(body))
        with pytest.raises(errors.ManifestBlobUnknown) as refused:
            await port.put_manifest("a", digest, ("x",), OCI_INDEX, body, blobs=(DIGEST, NONE))
        assert refused.value.detail == f"{NONE} is not in a any more; push it again"
        assert keeper.store.references.tags("a") == []
        await port.put_manifest("a", digest, ("x",), OCI_INDEX, body, blobs=(DIGEST,))
        assert keeper.store.references.tags("a") == ["x"]


@CARRIERS
async def test_refusals_arrive_as_what_they_are(tmp_path: Path, carrier: str) -> None:
    async with carried(tmp_path, carrier) as (port, _):
        await port.put_blob("a", DIGEST, BODY)
        cases: list[tuple[type[errors.Refusal], Callable[[], Coroutine[Any, Any, Any]]]] = [
            (errors.DigestInvalid, lambda: port.put_blob("a", NONE, BODY)),
            (errors.DigestInvalid, lambda: port.put_manifest("a", NONE, (), OCI_INDEX, BODY)),
            (errors.ManifestInvalid, lambda: port.put_manifest("a", DIGEST, (), OCI_INDEX, b"[]")),
            (errors.ManifestUnknown, lambda: port.delete("a", "tag", "x")),
            (errors.ManifestUnknown, lambda: port.delete("a", "manifest", NONE)),
            (errors.BlobUnknown, lambda: port.delete("a", "blob", NONE)),
            (errors.NameUnknown, lambda: port.set_lock("b", "repository", "", (True,) * 4)),
            (errors.ManifestUnknown, lambda: port.set_lock("a", "tag", "x", (True,) * 4)),
            (errors.PreconditionFailed, lambda: port.delete("a", "tag", "x", ("x", "*", None))),
            (
                errors.PreconditionFailed,
                lambda: port.put_manifest("a", DIGEST, ("x",), OCI_INDEX, BODY, ("x", f'"{NONE}"', None)),
            ),
            (errors.UploadUnknown, lambda: port.commit_upload("a", "b" * 64, 1, NONE, b"x" * 32)),
        ]
        for kind, call in cases:
            with pytest.raises(kind) as refused:
                await call()
            assert "/" not in refused.value.message


@CARRIERS
async def test_read_only_refuses_every_change_in_the_store(tmp_path: Path, carrier: str) -> None:
    async with carried(tmp_path, carrier, Configuration(mode="ReadOnly")) as (port, keeper):
        calls: list[Callable[[], Coroutine[Any, Any, Any]]] = [
            lambda: port.put_manifest("a", DIGEST, (), OCI_INDEX, BODY),
            lambda: port.put_blob("a", DIGEST, BODY),
            lambda: port.commit_upload("a", "b" * 64, 1, NONE, b"x" * 32),
            lambda: port.mount("a", DIGEST, ""),
            lambda: port.delete("a", "tag", "x"),
            lambda: port.set_lock("a", "repository", "", (False,) * 4),
        ]
        for call in calls:
            with pytest.raises(Exception) as refused:  # noqa: PT011
                await call()
            assert errors.status_and_code(refused.value) == (405, "DENIED")
            assert str(refused.value) == "This operation is not allowed on this registry."
        assert keeper.store.references.repositories() == []


def staged(store: Store, body: bytes) -> tuple[str, bytes, str]:
    """An upload with all its bytes: (sealed name, table, digest)."""
    hasher = ChunkHasher("sha256")
    hasher.update(body)
    name = store.uploads.name("session", "a")
    store.uploads.create(name)
    with closing(store.uploads.open(name)) as staging:
        staging.append(body)
        sealed = staging.seal()
    return sealed, hasher.table(), str(hasher.digest())


@CARRIERS
async def test_an_upload_is_committed_once_and_may_be_asked_twice(tmp_path: Path, carrier: str) -> None:
    async with carried(tmp_path, carrier) as (port, keeper):
        body = b"x" * 100_000
        sealed, table, digest = staged(keeper.store, body)
        for _ in range(2):  # the second time the file is gone and the blob is there
            await port.commit_upload("a", sealed, len(body), digest, table)
        held = keeper.store.blobs.get("a", Digest.parse(digest))
        assert held is not None
        assert (held.size, held.owned) == (len(body), True)
        assert keeper.store.uploads.count() == 0
        with pytest.raises(errors.UploadUnknown):
            await port.commit_upload("b", sealed, len(body), digest, table)


class Dying:
    """A keeper of which the first `deaths` calls end the connection, after the work when `late`."""

    def __init__(self, keeper: Any, deaths: int, *, late: bool) -> None:
        self.keeper, self.deaths, self.late = keeper, deaths, late
        self.service: Service | None = None
        self.asked: list[str] = []

    def __getattr__(self, method: str) -> Any:
        async def answer(*arguments: Any) -> Any:
            self.asked.append(method)
            dies, self.deaths = self.deaths > 0, self.deaths - 1
            try:
                return await getattr(self.keeper, method)(*arguments) if not dies or self.late else None
            finally:
                if dies:
                    assert self.service is not None
                    for connection in list(self.service.connections):
                        connection.end()

        return answer

    def seen(self, repository: str, digest: str) -> None:
        """Not asked."""


@pytest.mark.parametrize("late", [False, True])
async def test_a_change_over_which_the_keeper_dies_is_made_once(tmp_path: Path, late: bool) -> None:
    """Before the commit or after it: the next keeper is asked again, and the client hears of success."""
    path = str(tmp_path / "keeper.sock")
    async with kept(tmp_path, Configuration()) as keeper:
        dying = Dying(keeper, 0, late=late)
        body = b"x" * 100_000
        sealed, table, digest = staged(keeper.store, body)
        async with served(path, dying) as service, asking(path, keeper.store) as port:
            dying.service = service
            calls: list[Callable[[], Coroutine[Any, Any, Any]]] = [
                lambda: port.put_manifest("a", DIGEST, ("x", "y"), OCI_INDEX, BODY),
                lambda: port.put_blob("a", DIGEST, BODY),
                lambda: port.commit_upload("a", sealed, len(body), digest, table),
                lambda: port.mount("b", DIGEST, "a"),
                lambda: port.set_lock("a", "tag", "y", (True, True, True, False)),
                lambda: port.delete("a", "tag", "x"),
                lambda: port.delete("a", "blob", DIGEST),
                lambda: port.delete("a", "manifest", DIGEST),
            ]
            for call in calls:
                dying.deaths, before = 2, len(dying.asked)
                assert await call() in (None, True)
                assert len(dying.asked) - before == 3
            assert [len(keeper.store.references.tag_moves("a", tag)) for tag in ("x", "y")] == [2, 2]
            for name in ("x", DIGEST):
                with pytest.raises(errors.ManifestUnknown):
                    await port.delete("a", "manifest" if ":" in name else "tag", name)


async def test_a_keeper_that_keeps_dying_is_503(tmp_path: Path) -> None:
    path = str(tmp_path / "keeper.sock")
    async with kept(tmp_path, Configuration()) as keeper:
        dying = Dying(keeper, 100, late=False)
        async with served(path, dying) as service, asking(path, keeper.store) as port:
            dying.service = service
            calls: list[Callable[[], Coroutine[Any, Any, Any]]] = [
                lambda: port.put_blob("a", DIGEST, BODY),
                lambda: port.delete("a", "tag", "x"),
            ]
            for call in calls:
                with pytest.raises(errors.KeeperAway) as away:
                    await call()
                assert errors.status_and_code(away.value)[0] == 503
            assert len(dying.asked) == 2 * ATTEMPTS
            # asked once: the next keeper could not tell this change from another's
            conditional: list[Callable[[], Coroutine[Any, Any, Any]]] = [
                lambda: port.put_manifest("a", DIGEST, ("x",), OCI_INDEX, BODY, ("x", None, "*")),
                lambda: port.delete("a", "tag", "x", ("x", "*", None)),
            ]
            for call in conditional:
                with pytest.raises(errors.KeeperAway):
                    await call()
            assert len(dying.asked) == 2 * ATTEMPTS + 2
        assert keeper.store.references.repositories() == []


async def test_the_socket_carries_the_largest_manifest_that_can_be_configured(tmp_path: Path) -> None:
    class Sink:
        def __init__(self) -> None:
            self.sizes: list[int] = []

        async def put_manifest(self, *arguments: Any) -> None:
            self.sizes.append(len(arguments[4]))

        def seen(self, repository: str, digest: str) -> None:
            """Not asked."""

    path, sink = str(tmp_path / "keeper.sock"), Sink()
    async with served(path, sink), asking(path) as port:
        await port.put_manifest("a" * 255, NONE, ("t" * 128,) * 64, OCI_INDEX, bytes(64 << 20))
    assert sink.sizes == [64 << 20]
    bounds = get_type_hints(LimitsSection, include_extras=True)["manifest_bytes"].__metadata__[0]
    assert bounds.le == 64 << 20


async def test_hits_travel_in_frames_of_bounded_size(tmp_path: Path) -> None:
    class Counting:
        rows = 0

        def seen(self, repository: str, digest: str) -> None:
            self.rows += 1

        async def status(self) -> tuple[bool]:
            return (True,)

    path, keeper = str(tmp_path / "keeper.sock"), Counting()
    many = frames.SEEN_ROWS * 2 + 1
    async with served(path, keeper), asking(path) as port:
        await port._connected()
        sent: list[int] = []
        link = port._link
        assert link is not None
        send = link.send

        def count(frame: frames.Frame) -> None:
            sent.append(len(frames.encode(frame)))
            send(frame)

        link.send = count  # type: ignore[method-assign]
        for number in range(many):
            port.seen("r" * 255, f"sha512:{number:0128x}")
        port._send_seen()
        await port.status()
    assert keeper.rows == many
    assert max(sent) < frames.LARGEST_BYTES / 10


def test_the_port_is_what_the_socket_offers() -> None:
    """But for what has frames of its own, and no answer."""
    own = {name for name in vars(KeeperApi) if not name.startswith("_")}
    assert own - {"seen", "disk_refused"} == KEEPER_METHODS.keys()


#: what a keeper without parents does now and then: sync, sweep, the log of changes, the disk, its space, the records,
#: garbage, the scrub
ROUNDS = 8


async def test_sessions_and_bytes_that_nobody_has_go_in_rounds(tmp_path: Path) -> None:
    config = Configuration(push=PushSection(expiry=60.0, sweep_interval=10.0, sweep_grace=30.0))
    async with kept(tmp_path, config) as keeper:
        store, clock, body = keeper.store, keeper.clock, b"x" * 100_000
        assert isinstance(clock, FakeClock)
        await until(lambda: clock.sleepers == ROUNDS)
        sealed, table, digest = staged(store, body)
        await keeper.commit_upload("a", sealed, len(body), digest, table)
        file = tmp_path / "data" / "blobs" / "sha256" / digest[7:9] / digest[7:]
        assert file.exists()
        await keeper.delete("a", "blob", digest)
        name = store.uploads.name("other", "a")
        store.uploads.create(name)
        os.utime(tmp_path / "data" / "uploads" / name, (clock.now(), clock.now()))
        for _ in range(4):
            clock.advance(10.0)
            await until(lambda: clock.sleepers == ROUNDS)
            assert store.uploads.count() == 1
        assert not file.exists()
        for _ in range(3):
            clock.advance(10.0)
            await until(lambda: clock.sleepers == ROUNDS)
        assert store.uploads.count() == 0


async def until(true: Callable[[], bool]) -> None:
    async with patience():
        while not true():
            await asyncio.sleep(0.002)
