"""Upload sessions as files: names, locks, seals, room, expiry, and what is left when a process dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from contextlib import closing, contextmanager
from itertools import product

import pytest
from holdfast_core import Store
from holdfast_core.blob_files import upload_files
from holdfast_core.blob_files.upload_files import Staging, Uploads
from holdfast_core.errors import DiskFailed, Exhausted, StoreError, StoreReadOnly, UploadBusy, UploadNotFound
from holdfast_core.filesystem.directory import IN_DOUBT
from support.stores import hashed, some_bytes

NAME = Uploads.name("id", "repository")


@pytest.fixture
def folder(tmp_path):
    return tmp_path


@pytest.fixture
def uploads(folder):
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    yield Uploads(fd)
    os.close(fd)


@contextmanager
def writing(uploads, name=NAME):
    staging = uploads.open(name)
    try:
        yield staging
    finally:
        staging.close()


def begun(uploads, body=b"", name=NAME):
    uploads.create(name)
    with writing(uploads, name) as staging:
        staging.append(body)


def test_case_27_a_name_is_of_all_three_and_tells_none():
    names = {Uploads.name(*fields) for fields in product(("a", "ab", ""), ("a", "ba", "b"), ("", "a"))}
    assert len(names) == 18
    assert all(len(name) == 64 and set(name) <= set("0123456789abcdef") for name in names)


def test_a_session_grows_and_any_process_sees_how_far(uploads, folder):
    uploads.create(NAME)
    assert uploads.size(NAME) == 0
    with writing(uploads) as staging:
        staging.append(b"abc")
        assert uploads.size(NAME) == 3  # while it is written to
        staging.append(memoryview(b"de"))
    with writing(uploads) as staging:
        assert staging.size == 5
        staging.append(b"")
    assert (folder / NAME).read_bytes() == b"abcde"


def test_a_long_write_goes_towards_the_disk_and_arrives_whole(uploads, folder, monkeypatch):
    asked = []
    monkeypatch.setattr(
        upload_files, "start_writeback", lambda fd, start, length: asked.append((start, length))
    )
    body = some_bytes(3 << 20)
    uploads.create(NAME)
    with writing(uploads) as staging:
        for _ in range(9):
            staging.append(body)
    assert asked == [(0, 9 << 20), (9 << 20, 9 << 20), (18 << 20, 9 << 20)]
    assert (folder / NAME).read_bytes() == body * 9


def test_a_file_system_without_early_writeback_is_no_obstacle(uploads, folder, monkeypatch):
    def refuse(*_):
        raise OSError(upload_files.errno.ENOSYS, "no")

    monkeypatch.setattr(upload_files, "start_writeback", refuse)
    begun(uploads, some_bytes(9 << 20))
    assert (folder / NAME).read_bytes() == some_bytes(9 << 20)


def test_short_writes_are_gone_on_with(uploads, folder, monkeypatch):
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: real(fd, data[:7], at))
    begun(uploads, some_bytes(100))
    assert (folder / NAME).read_bytes() == some_bytes(100)


def test_case_22_one_writes_at_a_time(uploads):
    begun(uploads, b"x")
    with writing(uploads):
        with pytest.raises(UploadBusy):
            uploads.open(NAME)
        assert uploads.size(NAME) == 1
    with writing(uploads) as staging:
        assert staging.size == 1


def test_unknown_names(uploads):
    for call in (uploads.size, uploads.remove, uploads.open):
        with pytest.raises(UploadNotFound):
            call(NAME)


def test_case_28_an_ended_session_is_gone_for_all(uploads, folder):
    begun(uploads, b"x")
    with writing(uploads) as staging:
        uploads.remove(NAME)
        assert not staging.is_open()
        staging.append(b"y")  # harmless
        with pytest.raises(UploadNotFound):
            staging.seal()
        staging.remove()
    for call in (uploads.size, uploads.remove, uploads.open):
        with pytest.raises(UploadNotFound):
            call(NAME)
    assert os.listdir(folder) == []


def test_a_session_that_ends_between_open_and_lock_is_not_handed_out(uploads, monkeypatch):
    begun(uploads, b"x")
    real = upload_files.fcntl.flock

    def flock(fd, how):
        os.unlink(NAME, dir_fd=uploads._directory)
        uploads.create(NAME)
        monkeypatch.setattr(upload_files.fcntl, "flock", real)
        real(fd, how)

    monkeypatch.setattr(upload_files.fcntl, "flock", flock)
    with writing(uploads) as staging:
        assert staging.size == 0  # the file that has the name now, not the one that had it


def test_a_link_or_a_directory_in_place_of_a_session_is_none(uploads, folder):
    (folder / "elsewhere").write_bytes(b"secret")
    (folder / NAME).symlink_to(folder / "elsewhere")
    with pytest.raises(Exception, match="upload"):
        uploads.open(NAME)
    assert (folder / "elsewhere").read_bytes() == b"secret"


def test_room_is_reserved_without_growing_and_given_back(uploads, folder):
    uploads.create(NAME)
    with writing(uploads) as staging:
        staging.append(b"x" * 100)
        staging.reserve(1 << 20)
        assert staging.size == uploads.size(NAME) == 100
        assert os.fstat(staging.fd).st_blocks * 512 >= 1 << 20
        staging.roll_back(100)
        assert os.fstat(staging.fd).st_blocks * 512 < 1 << 16


def test_a_seal_gives_unused_room_back(uploads):
    uploads.create(NAME)
    with writing(uploads) as staging:
        staging.reserve(1 << 20)
        staging.append(b"x")
        staging.seal()
        assert os.fstat(staging.fd).st_blocks * 512 < 1 << 16


def test_a_seal_gives_the_room_of_a_writer_that_died_back(uploads):
    uploads.create(NAME)
    with writing(uploads) as staging:
        staging.append(b"x")
        staging.reserve(1 << 20)
    with writing(uploads) as staging:
        staging.seal()
        assert os.fstat(staging.fd).st_blocks * 512 < 1 << 16


@pytest.mark.parametrize("length", [1 << 42, 1 << 50, 1 << 62, 10**19])
def test_case_30_no_room_is_said_before_a_byte_comes(uploads, length):
    uploads.create(NAME)
    with writing(uploads) as staging:
        with pytest.raises(Exhausted):
            staging.reserve(length)
        assert staging.size == uploads.size(NAME) == os.fstat(staging.fd).st_blocks == 0


def test_case_30_room_that_was_taken_in_vain_is_given_back(uploads, monkeypatch):
    real = upload_files.reserve

    def too_little(fd, offset, length):
        real(fd, offset, 1 << 20)
        raise OSError(upload_files.errno.ENOSPC, "full")

    monkeypatch.setattr(upload_files, "reserve", too_little)
    uploads.create(NAME)
    with writing(uploads) as staging:
        with pytest.raises(Exhausted):
            staging.reserve(2 << 20)
        assert os.fstat(staging.fd).st_blocks == 0


def test_a_file_system_that_cannot_reserve_is_no_obstacle(uploads, monkeypatch):
    def refuse(*_):
        raise OSError(upload_files.errno.EOPNOTSUPP, "no")

    monkeypatch.setattr(upload_files, "reserve", refuse)
    uploads.create(NAME)
    with writing(uploads) as staging:
        staging.reserve(100)


@pytest.mark.parametrize("allowed", [0, 1, 50, 99])
def test_case_30_a_full_disk_leaves_what_is_in_place_known(uploads, folder, monkeypatch, allowed):
    real, left = os.pwrite, [allowed]

    def pwrite(fd, data, at):
        if not left[0]:
            raise OSError(upload_files.errno.ENOSPC, "full")
        done = real(fd, data[: left[0]], at)
        left[0] -= done
        return done

    begun(uploads, b"abc")
    monkeypatch.setattr(os, "pwrite", pwrite)
    with writing(uploads) as staging:
        with pytest.raises(Exhausted):
            staging.append(b"x" * 100)
        assert staging.size == uploads.size(NAME) == 3 + allowed
        staging.roll_back(3)
    assert (folder / NAME).read_bytes() == b"abc"


def test_a_sealed_session_is_found_under_its_old_name_but_is_another_file(uploads, folder):
    begun(uploads, b"abc")
    with writing(uploads) as staging:
        sealed = staging.seal()
        assert os.listdir(folder) == [sealed]
        assert sealed.startswith(NAME)
        assert sealed != NAME
        assert uploads.size(NAME) == 3
        with pytest.raises(UploadBusy):
            uploads.open(NAME)
        staging.unseal()
        assert os.listdir(folder) == [NAME]
        assert staging.seal() != sealed


def test_a_late_commit_does_not_find_a_session_that_was_taken_back(uploads, folder):
    begun(uploads, b"abc")
    with writing(uploads) as staging:
        sealed = staging.seal()
        staging.unseal()
        staging.append(b"d")
        staging.seal()
        with pytest.raises(FileNotFoundError):
            os.rename(folder / sealed, folder / "blob")


def test_a_commit_that_won_leaves_nothing_to_take_back(uploads, folder):
    begun(uploads, b"abc")
    with writing(uploads) as staging:
        os.rename(folder / staging.seal(), folder / "blob")
        with pytest.raises(UploadNotFound):
            staging.unseal()
    (folder / "blob").unlink()
    with pytest.raises(UploadNotFound):
        uploads.open(NAME)


def test_a_seal_whose_owner_died_is_taken_back(uploads, folder):
    begun(uploads, b"abc")
    staging = uploads.open(NAME)
    staging.seal()
    staging.close()  # as a killed process does
    with writing(uploads) as again:
        assert (again.size, again.name) == (3, NAME)
        assert os.listdir(folder) == [NAME]
        again.append(b"d")
    assert uploads.size(NAME) == 4


@pytest.mark.parametrize(
    ("error", "expected"), [(FileNotFoundError, UploadNotFound), (OSError, StoreError)], ids=["gone", "disk"]
)
def test_a_seal_that_cannot_be_taken_back_leaves_no_lock(uploads, monkeypatch, error, expected):
    begun(uploads, b"abc")
    with writing(uploads) as staging:
        staging.seal()
    before = os.listdir("/proc/self/fd")

    def refuse(*_, **__):
        raise error(5, "no")

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", refuse)
        with pytest.raises(expected):
            uploads.open(NAME)
    assert os.listdir("/proc/self/fd") == before
    with writing(uploads) as staging:
        assert staging.size == 3


def test_case_23_a_claimed_session_is_nobody_elses_until_it_is_given_back(uploads, folder):
    begun(uploads, b"abc")
    with writing(uploads) as staging:
        staging.claim()
        for call in (uploads.size, uploads.remove, uploads.open):
            with pytest.raises(UploadNotFound):
                call(NAME)
        (claimed,) = os.listdir(folder)
        assert len(claimed) == len(NAME)
        assert staging.is_sealed
        assert uploads.expire(before=1e12) == 0
        staging.unseal()
        assert uploads.size(NAME) == 3
        staging.claim()
        staging.remove()
        assert os.listdir(folder) == []


def test_a_session_that_was_ended_is_not_claimed(uploads):
    begun(uploads)
    with writing(uploads) as staging:
        uploads.remove(NAME)
        with pytest.raises(UploadNotFound):
            staging.claim()


def test_what_a_dead_process_claimed_expires(uploads, folder):
    begun(uploads, b"abc")
    with writing(uploads) as staging:
        staging.claim()
    assert uploads.expire(before=1e12) == 1
    assert os.listdir(folder) == []


def test_a_read_only_store_takes_no_uploads_and_lets_them_expire(tmp_path):
    with closing(Store.create_or_open(tmp_path / "data", write=True)) as store:
        begun(store.uploads, b"abc")
    with closing(Store.create_or_open(tmp_path / "data", write=True, mode="ReadOnly")) as store:
        for call in (store.uploads.create, store.uploads.open, store.uploads.remove):
            with pytest.raises(StoreReadOnly, match="not allowed on this registry"):
                call(NAME)
        assert os.listdir(tmp_path / "data" / "uploads") == [NAME]
        assert store.uploads.expire(before=1e12) == 1


def test_case_23_a_sealed_session_can_be_ended(uploads, folder):
    begun(uploads, b"abc")
    with writing(uploads) as staging:
        staging.seal()
        uploads.remove(NAME)
        assert not staging.is_open()
        with pytest.raises(UploadNotFound):
            staging.unseal()
    assert os.listdir(folder) == []


def test_case_34_sessions_are_counted(uploads, monkeypatch):
    names = [Uploads.name(str(number), "r") for number in range(20)]
    for number, name in enumerate(names):
        uploads._counted = (-1, 0)  # the clock of the file system is coarser than this loop
        assert uploads.count() == number
        uploads.create(name)
    uploads._counted = (-1, 0)
    assert uploads.count() == 20
    monkeypatch.setattr(os, "listdir", None)
    assert uploads.count() == 20  # nothing changed: nothing is read


@pytest.mark.parametrize("limit", [1, 3, 16, 100, 1000])
def test_case_34_several_processes_stay_within_the_limit(uploads, monkeypatch, limit):
    """Each has its own count; far from the limit most sessions cost no look at the directory."""
    looks = []
    real = os.listdir
    monkeypatch.setattr(os, "listdir", lambda *a: looks.append(a) or real(*a))
    processes = [Uploads(uploads._directory) for _ in range(4)]
    begun = 0
    for number in range(limit + 20):
        process = processes[number % 4]
        process._counted = (-1, 0)  # the clock of the file system is coarser than this loop
        if process.has_room(limit):
            process.create(Uploads.name(str(number), "r"))
            begun += 1
        if number == limit // 2:
            half = len(looks)
    assert begun == limit
    assert not any(process.has_room(limit) for process in processes)
    assert half <= max(4, limit // 2 + 1) if limit < 100 else half < limit // 4
    for name in real(uploads._directory)[:2]:
        uploads.remove(name)
        processes[0]._counted = (-1, 0)
    assert processes[0].has_room(limit)


def test_case_trust_23_one_client_has_its_part_and_no_more(uploads):
    greedy, other = Uploads.client("token", "greedy"), Uploads.client("token", "other")
    for _ in range(30):
        uploads._counted = (-1, 0)
        if uploads.has_room(100, greedy, 20):
            uploads.create(Uploads.name(Uploads.session(greedy, uuid.uuid4()), "r"))
    uploads._counted = (-1, 0)
    assert uploads.count() == 20
    assert not uploads.has_room(100, greedy, 20)
    assert uploads.has_room(100, other, 20)


def test_case_trust_23_idle_sessions_of_the_greedy_make_room(uploads, folder):
    greedy, other = Uploads.client("token", "greedy"), Uploads.client("token", "other")
    mine = Uploads.name(Uploads.session(other, uuid.uuid4()), "r")
    names = [Uploads.name(Uploads.session(greedy, uuid.uuid4()), "r") for _ in range(19)]
    for at, name in enumerate((mine, *names)):
        begun(uploads, b"x", name)
        os.utime(folder / name, (1000 + at, 1000 + at))
    os.utime(folder / names[0])  # written to just now
    with writing(uploads, names[1]):
        uploads._counted = (-1, 0)
        assert not uploads.has_room(20, greedy, 20, 2000.0)  # its own do not make room for it
        assert len(os.listdir(folder)) == 20
        assert not uploads.has_room(20, other, 20, 1000.0)  # none has been idle for so long
        assert len(os.listdir(folder)) == 20
        assert uploads.has_room(20, other, 20, 2000.0)
    left = os.listdir(folder)
    assert {mine, names[0], names[1]} <= set(left)
    assert len(left) == 19
    assert names[2] not in left  # the one that waited longest


def test_case_trust_23_a_name_tells_whose_it_is_and_no_id():
    client = Uploads.client("token", "a")
    session = Uploads.session(client, uuid.uuid4())
    name = Uploads.name(session, "r", "a")
    assert not session.startswith(client)
    assert name.startswith(client)
    assert len(name) == len(NAME)
    assert client != Uploads.client("address", "a")
    assert name[8:] == Uploads.former_name(session, "r", "a")[: len(name) - 8]


def test_case_28_expiry_takes_what_nobody_wrote_to_and_nobody_has_open(uploads, folder):
    old, new, held, sealed = (Uploads.name(n, "r") for n in ("old", "new", "held", "sealed"))
    for name in (old, new, held, sealed):
        begun(uploads, b"x", name)
    with writing(uploads, sealed) as staging:
        gone = staging.seal()
    with writing(uploads, held):
        for name in (old, held, gone):
            os.utime(folder / name, (1000, 1000))
        assert uploads.expire(before=2000.0) == 2
        assert sorted(os.listdir(folder)) == sorted([new, held])
    assert uploads.expire(before=2000.0) == 1
    assert os.listdir(folder) == [new]


def test_expiry_passes_over_what_it_cannot_remove(uploads, folder):
    begun(uploads, b"x")
    os.mkdir(folder / "lost+found")
    os.mkfifo(folder / "0")
    os.symlink("nowhere", folder / "1")
    for name in os.listdir(folder):
        os.utime(folder / name, (1000, 1000), follow_symlinks=False)
    assert uploads.expire(before=2000.0) == 1
    assert NAME not in os.listdir(folder)
    assert uploads.expire(before=2000.0) == 0


def test_expiry_spares_what_was_written_to_lately(uploads, folder):
    begun(uploads, b"x")
    written = os.stat(folder / NAME).st_mtime
    assert uploads.expire(before=written) == 0
    assert uploads.expire(before=written + 1) == 1


def test_an_upload_that_is_there_already_is_not_begun_again(uploads):
    begun(uploads, b"x")
    with pytest.raises(Exception, match="upload"):
        uploads.create(NAME)
    assert uploads.size(NAME) == 1


def test_reading_back(uploads):
    begun(uploads, b"abcdef")
    with writing(uploads) as staging:
        buffer = bytearray(4)
        assert (staging.read(0, buffer), bytes(buffer)) == (4, b"abcd")
        assert (staging.read(4, buffer), bytes(buffer[:2])) == (2, b"ef")
        assert staging.read(6, buffer) == 0


def test_a_closed_turn_holds_no_descriptor(uploads):
    begun(uploads, b"x")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        staging = uploads.open(NAME)
        with pytest.raises(UploadBusy):
            uploads.open(NAME)
        staging.close()
        staging.close()
    assert len(os.listdir("/proc/self/fd")) == before


CHILD = """
import os, sys
from holdfast_core.blob_files.upload_files import Uploads
uploads = Uploads(os.open(sys.argv[1], os.O_RDONLY))
staging = uploads.open(sys.argv[2])
staging.append(b"from the child")
if sys.argv[3] == "seal":
    staging.seal()
print("holding", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("how", ["write", "seal"])
def test_case_29_a_killed_process_lets_go_of_its_session(uploads, folder, how):
    uploads.create(NAME)
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(folder), NAME, how], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdout.readline() == b"holding\n"
    with pytest.raises(UploadBusy):
        uploads.open(NAME)
    child.send_signal(signal.SIGKILL)
    child.communicate(timeout=60)
    with writing(uploads) as staging:
        assert staging.size == len(b"from the child")
        assert isinstance(staging, Staging)
    assert os.listdir(folder) == [NAME]


# -- commits -------------------------------------------------------------------------------------------

BODY = some_bytes((2 << 20) + 5)


@pytest.fixture
def store(tmp_path):
    with closing(Store.create_or_open(tmp_path / "store", write=True)) as found:
        yield found


def sealed_upload(store, body):
    begun(store.uploads, body)
    with writing(store.uploads) as staging:
        return staging.seal()


def commit(store, name, body=BODY):
    digest, table = hashed(body)
    store.blobs.push_upload("r", name, len(body), digest, table, now=1.0).result()


def is_whole(store, body=BODY):
    blob = store.blobs.get("r", hashed(body)[0])
    if blob is None or not blob.owned:
        return False
    with closing(store.blobs.open(blob)) as reader:
        found = b""
        while len(found) < len(body):
            found += reader.read(len(found), 1 << 20)
        return found == body


def placed(store, digest):
    return store._directory.path / "blobs" / digest.algorithm / digest.hex[:2] / digest.hex


def test_a_commit_moves_the_file(store):
    commit(store, sealed_upload(store, BODY))
    assert is_whole(store)
    assert store.uploads.count() == 0


def test_case_29_a_keeper_that_died_between_rename_and_commit_is_asked_again(store):
    name, digest = sealed_upload(store, BODY), hashed(BODY)[0]
    os.rename(store._directory.path / "uploads" / name, placed(store, digest))
    commit(store, name)
    assert is_whole(store)


def test_case_fault_2_a_keeper_that_died_over_a_damaged_blob_is_asked_again(store):
    commit(store, sealed_upload(store, BODY))
    digest = hashed(BODY)[0]
    store.blobs.quarantine(digest, 0, len(BODY)).result()
    name = sealed_upload(store, BODY)
    os.rename(store._directory.path / "uploads" / name, placed(store, digest))
    commit(store, name)
    assert is_whole(store)


def test_case_fault_2_a_session_that_comes_back_is_in_doubt_until_it_was_written_again(store):
    sealed_upload(store, BODY)
    with writing(store.uploads) as staging:  # as after a worker that was killed
        assert staging.is_in_doubt
        with pytest.raises(DiskFailed, match="not written again"):
            commit(store, staging.seal())
        staging.unseal()
        staging.rewrite(0, BODY)
        staging.trust()
        staging.seal()
        assert not staging.is_in_doubt
        staging.unseal()
        assert staging.is_in_doubt
        staging.rewrite(0, BODY)
        staging.trust()
        name = staging.seal()
    commit(store, name)
    assert is_whole(store)
    assert not placed(store, hashed(BODY)[0]).stat().st_mode & IN_DOUBT


def test_case_fault_2_a_session_goes_on_with_a_copy_of_its_first_bytes(uploads, folder):
    begun(uploads, b"abcdef")
    with writing(uploads) as staging:
        os.rename(folder / staging.seal(), folder / "blob")
        staging.leave(4)
        assert (staging.size, staging.is_in_doubt, staging.is_sealed) == (4, True, False)
        with pytest.raises(UploadBusy):
            uploads.open(NAME)
        staging.append(b"x")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {NAME: b"abcdx", "blob": b"abcdef"}


@pytest.mark.parametrize("other", [b"", BODY[:-1], BODY[:-1] + b"\0", b"\0" * len(BODY)])
def test_other_bytes_in_the_place_of_a_lost_upload_are_not_taken_for_it(store, other):
    digest = hashed(BODY)[0]
    placed(store, digest).write_bytes(other)
    with pytest.raises(UploadNotFound):
        commit(store, f"{NAME}.{'0' * 32}")
    assert store.blobs.get("r", digest) is None


def test_a_commit_of_an_open_session_is_none_of_the_names_a_session_had(store):
    name = sealed_upload(store, BODY)
    with writing(store.uploads) as staging:
        staging.append(b"more")
        with pytest.raises(UploadNotFound):
            commit(store, name)
    assert store.uploads.size(NAME) == len(BODY) + 4
