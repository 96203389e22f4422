"""The closing PUT of an upload, refused at each point between its last byte and the commit: the session is as it was,
and the same PUT is taken once the disk or the keeper is well again."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lmdb
import pytest
from holdfast.errors import KeeperAway, NodeUnwritable
from holdfast_core import ChunkHasher, Digest
from holdfast_core.filesystem.directory import IN_DOUBT
from holdfast_core.filesystem.disk_state import DiskState
from support.pushing import Registry, code, running
from support.stores import flip_bit
from support.uploads import BODY, DIGEST, HALF, SPAN, Session, files, finishes, half, held, is_created


class Disk:
    """Calls of this process on the files of a store: those in `refused` fail with `error`. `seen` has all, in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.refused: tuple[str, ...] = ()
        self.error = errno.EIO
        self.seen: list[str] = []
        for name in ("pwrite", "rename", "fdatasync", "fsync"):
            monkeypatch.setattr(os, name, self._watched(name, getattr(os, name)))
        self._real_copy = os.copy_file_range
        monkeypatch.setattr(os, "copy_file_range", self._copy)

    def _copy(self, *arguments: int) -> int:
        self.meet("copy")
        return self._real_copy(*arguments)

    def _watched(self, name: str, real: Callable[..., object]) -> Callable[..., object]:
        def call(target: Any, *rest: Any, **more: Any) -> object:
            self.meet(" ".join([name, *self._tables(target, more)]))
            return real(target, *rest, **more)

        return call

    def meet(self, what: str) -> None:
        """Note a call, or refuse it."""
        self.seen.append(what)
        if what in self.refused:
            raise OSError(self.error, os.strerror(self.error))

    def _tables(self, target: Any, more: dict[str, Any]) -> list[str]:
        ends = [more.get("src_dir_fd", target), more.get("dst_dir_fd")]
        paths = [
            os.readlink(f"/proc/self/fd/{end}") if isinstance(end, int) else str(end) for end in ends if end
        ]
        kinds = ("uploads", "blobs", "journal", "fills", "quarantine")
        return [next((kind for kind in kinds if f"/{kind}" in path), "other") for path in paths]


class Vfat:
    """A file system that shows the same permissions of every file. It takes no notice of others, or refuses them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, shown: int, refuses: bool) -> None:
        self._shown, self._refuses = shown, refuses
        for name in ("stat", "fstat"):
            monkeypatch.setattr(os, name, self._seen(getattr(os, name)))
        for name in ("chmod", "fchmod"):
            monkeypatch.setattr(os, name, self._set)

    def _seen(self, real: Callable[..., os.stat_result]) -> Callable[..., os.stat_result]:
        def call(*arguments: Any, **more: Any) -> os.stat_result:
            found = real(*arguments, **more)
            if not stat.S_ISREG(found.st_mode):
                return found
            rest = {name: getattr(found, name) for name in dir(found) if name.startswith("st_")}
            return os.stat_result((stat.S_IFREG | self._shown, *found[1:]), rest)

        return call

    def _set(self, *arguments: Any, **more: Any) -> None:
        if self._refuses:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))


VFAT = pytest.mark.parametrize(("shown", "refuses"), [(0o755, False), (0o755, True), (0o644, False)])


#: what is refused after the last byte of the body, in the order in which it is met
POINTS = [
    ("rename uploads uploads",),  # the seal
    ("fdatasync uploads",),
    ("rename uploads blobs",),
    ("fsync blobs",),
    ("fsync blobs", "rename blobs uploads"),  # and the file cannot go back
    ("pwrite journal",),
    ("pwrite journal", "rename blobs uploads"),
    ("fdatasync journal",),
    ("index",),
    ("index", "rename blobs uploads"),
]


def place_of(node: Registry) -> Path:
    """Where the blob's file is."""
    return node.data / "blobs" / "sha256" / DIGEST[7:9] / DIGEST[7:]


def refuse_index(node: Registry, disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    """LMDB's own writes are met as "index"."""
    writer = node.store._writer
    assert writer is not None
    real = writer._note

    def note(*arguments: Any) -> None:
        try:
            disk.meet("index")
        except OSError as error:
            raise lmdb.DiskError(f"mdb_txn_commit: {error.strerror}") from error
        real(*arguments)

    monkeypatch.setattr(writer, "_note", note)


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO], ids=["ENOSPC", "EIO"])
@pytest.mark.parametrize("known", [False, True], ids=["new", "held"])
@pytest.mark.parametrize("refused", POINTS, ids=" and ".join)
async def test_case_fault_2_a_refused_commit_leaves_the_session(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: tuple[str, ...], known: bool, error: int
) -> None:
    """`known`: the blob is held already, so that the file takes its place after the commit alone."""
    disk, location = Disk(monkeypatch), ""

    async def refuse(node: Registry) -> None:
        nonlocal location
        refuse_index(node, disk, monkeypatch)
        if known:
            assert is_created(await (await half(node)).put(DIGEST, BODY[HALF:]), DIGEST)
        session = await half(node)
        location = session.location
        disk.refused, disk.error = refused, error
        if error == errno.ENOSPC and len(refused) == 1:  # then there is no room for a copy either
            disk.refused += ("copy",)
        answer = await session.put(DIGEST, BODY[HALF:], SPAN)
        disk.refused = ()
        if known and answer.status == 201:  # none of these calls is made before the commit of what is held
            assert set(refused) <= {"rename uploads blobs", "fsync blobs", "rename blobs uploads"}
            assert (await session.offset(), files(node)) == (None, [])
            location = ""
            return
        assert (answer.status, code(answer)) == (507 if error == errno.ENOSPC else 503, "BLOB_UPLOAD_INVALID")
        assert "nothing was stored" in answer.body.decode()
        assert await held(node, BODY) == known
        assert await session.offset() == HALF
        if node.store.condition.state is not DiskState.FAILED:
            node.store.probe()
            await finishes(session)
            location = ""

    async with running(tmp_path) as node:
        await refuse(node)
    monkeypatch.undo()
    if location:
        async with running(tmp_path) as node:
            await finishes(Session(node, location))


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO], ids=["ENOSPC", "EIO"])
async def test_case_fault_2_bytes_whose_sync_failed_are_written_again_before_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    """A second sync alone would succeed over lost bytes."""
    disk = Disk(monkeypatch)
    async with running(tmp_path) as node:
        session = await half(node)
        disk.refused, disk.error = ("fdatasync uploads",), error
        assert (await session.put(DIGEST, BODY[HALF:], SPAN)).status in (503, 507)
        disk.refused = ()
        node.store.probe()
        written: dict[int, int] = {}
        real = os.pwrite

        def pwrite(fd: int, data: memoryview, at: int) -> int:
            done = real(fd, data, at)
            if "/uploads/" in os.readlink(f"/proc/self/fd/{fd}"):
                assert disk.seen[-1] == "pwrite uploads"
                written[at] = done
            return done

        monkeypatch.setattr(os, "pwrite", pwrite)
        first = len(disk.seen)
        await finishes(session)
        assert 0 in written
        assert sum(written.values()) >= len(BODY)
        calls = disk.seen[first:]
        assert calls.index("fdatasync uploads") > max(n for n, c in enumerate(calls) if c == "pwrite uploads")


@pytest.mark.parametrize("by", ["the same process", "another process"])
async def test_case_fault_2_bytes_that_a_failed_sync_lost_never_become_a_blob(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    """They were hashed as they came, so only the file knows."""
    disk, location = Disk(monkeypatch), ""

    async def lose(node: Registry) -> None:
        nonlocal location
        session = await half(node)
        location = session.location
        disk.refused = ("fdatasync uploads",)
        assert (await session.put(DIGEST, BODY[HALF:], SPAN)).status == 503
        disk.refused = ()
        (name,) = files(node)
        with (node.data / "uploads" / name).open("r+b") as file:
            file.write(bytes(4096))
        if by == "the same process":
            await refused(node)

    async def refused(node: Registry) -> None:
        session = Session(node, location)
        if by == "another process":  # which had taken the first half, and knows what it hashed to
            came = ChunkHasher()
            came.update(BODY[:HALF])
            node.node.push.hashes.keep(files(node)[0], "sha256", came)
        answer = await session.put(DIGEST, BODY[HALF:], SPAN)
        assert (answer.status, code(answer)) == (400, "DIGEST_INVALID")
        assert not await held(node, BODY)

    async with running(tmp_path) as node:
        await lose(node)
    if by == "another process":
        async with running(tmp_path) as node:
            await refused(node)


@pytest.mark.parametrize("known", [False, True], ids=["new", "held"])
async def test_case_fault_2_a_keeper_whose_sync_failed_and_who_died_hands_nothing_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    """The next one is asked to commit the same file, and its sync would succeed."""
    disk = Disk(monkeypatch)
    async with running(tmp_path) as node:
        if known:
            assert is_created(await (await half(node)).put(DIGEST, BODY[HALF:]), DIGEST)
        real = node.keeper.commit_upload

        async def twice(*arguments: Any) -> None:
            disk.refused = ("fdatasync uploads",)
            with pytest.raises(Exception, match="nothing was stored"):
                await real(*arguments)
            disk.refused = ()
            await real(*arguments)

        session = await half(node)
        with monkeypatch.context() as patch:
            patch.setattr(node.keeper, "commit_upload", twice)
            assert (await session.put(DIGEST, BODY[HALF:], SPAN)).status == 503
        assert await session.offset() == HALF
        assert await held(node, BODY) == known
        await finishes(session)


@VFAT
async def test_case_fault_2_uploads_are_taken_on_a_file_system_without_permissions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shown: int, refuses: bool
) -> None:
    """Nothing tells a session that came back from a commit: each is read and written again before it is synced."""
    Vfat(monkeypatch, shown, refuses)
    disk = Disk(monkeypatch)
    async with running(tmp_path) as node:
        session = await half(node)
        disk.error, disk.refused = errno.ENOSPC, ("pwrite journal",)
        assert (await session.put(DIGEST, BODY[HALF:], SPAN)).status in (503, 507)
        disk.refused = ()
        assert await session.offset() == HALF
        disk.seen.clear()
        assert is_created(await session.put(DIGEST, BODY[HALF:], SPAN), DIGEST)
        upto = disk.seen[: disk.seen.index("fdatasync uploads")]
        assert upto.count("pwrite uploads") >= 2  # the second half, and all of it once more
        assert await held(node, BODY)
        assert files(node) == []


@VFAT
async def test_case_fault_2_a_failed_sync_ends_a_session_on_a_file_system_without_permissions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shown: int, refuses: bool
) -> None:
    Vfat(monkeypatch, shown, refuses)
    disk = Disk(monkeypatch)
    async with running(tmp_path) as node:
        session = await half(node)
        disk.error, disk.refused = errno.ENOSPC, ("fdatasync uploads",)
        assert (await session.put(DIGEST, BODY[HALF:], SPAN)).status in (503, 507)
        disk.refused = ()
        assert await session.offset() is None
        assert not await held(node, BODY)
        assert is_created(await (await half(node)).put(DIGEST, BODY[HALF:], SPAN), DIGEST)


@pytest.mark.parametrize("died", ["before the rename", "after the rename", "after the commit"])
async def test_case_fault_2_a_keeper_that_dies_over_a_commit_and_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, died: str
) -> None:
    """The file that it took may be a blob yet, so the session goes on with a copy; where it did commit, that is the
    answer."""
    async with running(tmp_path) as node:
        real, place = node.keeper.commit_upload, place_of(node)

        async def dies(repository: str, name: str, size: int, digest: str, table: bytes) -> None:
            if died == "after the rename":
                os.rename(node.data / "uploads" / name, place)
            if died == "after the commit":
                await real(repository, name, size, digest, table)
            raise KeeperAway("the keeper keeps restarting")

        session = await half(node)
        with monkeypatch.context() as patch:
            patch.setattr(node.keeper, "commit_upload", dies)
            answer = await session.put(DIGEST, BODY[HALF:], SPAN)
        if died == "after the commit":
            assert is_created(answer, DIGEST)
            assert await session.offset() is None
            assert await held(node, BODY)
            assert not place.stat().st_mode & IN_DOUBT
            assert is_created(await session.put(DIGEST), DIGEST), "its answer was lost, and it is repeated"
            assert (await session.put(DIGEST, BODY[HALF:], SPAN)).status == 404, (
                "with bytes that nobody wants"
            )
            return
        assert answer.status == 503
        assert await session.offset() == HALF
        assert not await held(node, BODY)
        await finishes(session)
        assert files(node) == []


async def test_case_fault_2_a_refusal_is_one_also_where_the_row_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that failed over its commit may show the row, and the disk may not have it."""
    async with running(tmp_path) as node:
        real = node.keeper.commit_upload

        async def fails(*arguments: Any) -> None:
            await real(*arguments)
            raise NodeUnwritable("the disk of this node failed; nothing was stored")

        session = await half(node)
        with monkeypatch.context() as patch:
            patch.setattr(node.keeper, "commit_upload", fails)
            assert (await session.put(DIGEST, BODY[HALF:], SPAN)).status == 503
        assert await session.offset() == HALF
        await finishes(session)


@pytest.mark.parametrize("harm", ["lost", "damaged"])
@pytest.mark.parametrize("refused", ["rename uploads blobs", "fsync blobs", "pwrite journal", "index"])
async def test_case_fault_2_bytes_for_a_blob_that_is_damaged_go_back_to_their_session(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: str, harm: str
) -> None:
    """Its row is there, so the file that was put in its place could be taken for the blob's; the session would be gone
    on a full disk, where there is no room for a copy."""
    disk = Disk(monkeypatch)
    async with running(tmp_path) as node:
        refuse_index(node, disk, monkeypatch)
        assert is_created(await (await half(node)).put(DIGEST, BODY[HALF:]), DIGEST)
        place, digest = place_of(node), Digest.parse(DIGEST)
        if harm == "lost":
            place.unlink()
        else:
            flip_bit(place, 77)
            node.store.blobs.quarantine(digest, 0, 100).result()
        found = place.read_bytes() if place.exists() else None
        session = await half(node)
        disk.refused, disk.error = (refused, "copy"), errno.ENOSPC
        assert (await session.put(DIGEST, BODY[HALF:], SPAN)).status == 507
        disk.refused = ()
        assert (place.read_bytes() if place.exists() else None) == found
        assert await session.offset() == HALF
        node.store.probe()
        await finishes(session)
        assert await held(node, BODY)
        assert list((node.data / "quarantine").iterdir()) == []


async def test_case_fault_2_what_lies_in_the_blobs_place_is_not_taken_for_the_upload(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file without a row, which an earlier keeper left, while the upload never came that far."""
    disk = Disk(monkeypatch)
    async with running(tmp_path) as node:
        session = await half(node)
        place_of(node).write_bytes(bytes(len(BODY)))
        disk.refused = ("fdatasync uploads",)
        assert (await session.put(DIGEST, BODY[HALF:], SPAN)).status == 503
        disk.refused = ()
        assert await session.offset() == HALF
        await finishes(session)


async def test_case_fault_2_a_session_that_was_ended_over_a_commit_stays_ended(tmp_path: Path) -> None:
    async with running(tmp_path) as node:
        session = await half(node)

        async def ended(*_: object) -> None:
            assert (await node.ask("DELETE", session.location)).status == 204
            raise KeeperAway("the keeper keeps restarting")

        setattr(node.keeper, "commit_upload", ended)  # noqa: B010
        assert (await session.put(DIGEST, BODY[HALF:], SPAN)).status == 503
        assert await session.offset() is None
        assert files(node) == []


async def test_case_fault_2_no_room_for_the_copy_ends_the_session(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The keeper has the file and gave no word, and the disk is full: nothing is left to go on with."""
    async with running(tmp_path) as node:

        async def take(repository: str, name: str, *_: object) -> None:
            os.rename(node.data / "uploads" / name, tmp_path / "taken")
            raise KeeperAway("the keeper keeps restarting")

        def full(*_: object) -> int:
            raise OSError(errno.ENOSPC, "full")

        session = await half(node)
        setattr(node.keeper, "commit_upload", take)  # noqa: B010
        monkeypatch.setattr(os, "copy_file_range", full)
        assert (await session.put(DIGEST, BODY[HALF:], SPAN)).status == 503
        assert await session.offset() is None
        assert files(node) == []
        assert (tmp_path / "taken").read_bytes() == BODY
