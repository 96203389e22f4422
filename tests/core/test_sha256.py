"""SHA-256 side by side: each stream as hashlib hashes it, whatever the others do; the same by OpenSSL."""

from __future__ import annotations

import hashlib
import random
import threading
from pathlib import Path

import pytest
from holdfast_core import CHUNK_BYTES, ChunkHasher, Digest
from holdfast_core.digest import update_together as update_hashers
from holdfast_core.opening import SELF_TEST_SAMPLE, self_test
from holdfast_core.sha256 import IS_NATIVE, LANES, Sha256, update_together
from hypothesis import given, settings
from hypothesis import strategies as st
from support.stores import some_bytes

#: lengths at which padding and whole blocks change
EDGES = [0, 1, 55, 56, 57, 63, 64, 65, 119, 120, 127, 128, 129, 191, 192, 1000]
BODY = some_bytes(300_000)
WAYS = pytest.mark.parametrize("openssl", [False, True])


def expected(body: bytes | bytearray | memoryview) -> bytes:
    return hashlib.sha256(body).digest()


def test_the_processor_says_what_is_used() -> None:
    """Where the kernel does not say, there is nothing to compare with, and OpenSSL is right in any case."""
    flags = Path("/proc/cpuinfo").read_text().split()
    has_all = {"sha_ni", "sse4_1", "ssse3"} <= {*flags}
    assert has_all == IS_NATIVE or "flags" not in flags


@WAYS
@pytest.mark.parametrize("length", EDGES)
def test_every_length_about_a_block(length: int, openssl: bool) -> None:
    stream = Sha256(openssl=openssl)
    stream.update(BODY[:length])
    assert stream.digest() == expected(BODY[:length])
    assert stream.digest() == expected(BODY[:length])
    stream.update(BODY[length : 2 * length])
    assert stream.digest() == expected(BODY[: 2 * length])


@pytest.mark.parametrize("length", [len(SELF_TEST_SAMPLE), 5, 64, 20_001])
@pytest.mark.parametrize("count", range(1, LANES + 1))
def test_streams_of_one_length(count: int, length: int) -> None:
    bodies = [some_bytes(length, seed) for seed in range(count)]
    streams = [Sha256() for _ in bodies]
    update_together(streams, bodies)
    assert [stream.digest() for stream in streams] == [expected(body) for body in bodies]


lengths = st.one_of(st.sampled_from(EDGES), st.integers(0, 5000), st.integers(0, 60_000))
turn = st.lists(lengths, min_size=LANES, max_size=LANES)


@settings(deadline=None)
@given(
    st.lists(turn, max_size=6), st.lists(st.booleans(), min_size=LANES, max_size=LANES), st.integers(0, 63)
)
def test_any_cut_of_any_streams(turns: list[list[int]], openssl: list[bool], shift: int) -> None:
    """Also beside streams of OpenSSL, and from any address."""
    streams = [Sha256(openssl=flag) for flag in openssl]
    bodies = [bytearray() for _ in streams]
    for number, row in enumerate(turns):
        starts = [shift + 977 * number + 31 * lane for lane in range(LANES)]
        pieces = [memoryview(BODY)[at : at + length] for at, length in zip(starts, row, strict=True)]
        order = random.Random(number).sample(range(LANES), 1 + number % LANES)
        update_together([streams[i] for i in order], [pieces[i] for i in order])
        for i in order:
            bodies[i] += pieces[i]
        assert [stream.digest() for stream in streams] == [expected(body) for body in bodies]


def test_bytes_behind_a_buffer_are_not_read() -> None:
    """The sanitizer build finds a read beyond the end; here what follows must not matter."""
    for length in EDGES:
        room = bytearray(BODY[: length + 256])
        before, after = Sha256(), Sha256()
        before.update(memoryview(room)[:length])
        room[length:] = bytes(256)
        after.update(memoryview(room)[:length])
        assert before.digest() == after.digest() == expected(BODY[:length])


@pytest.mark.parametrize(
    ("streams", "data"),
    [
        ([Sha256()] * 2, [b"x"] * 2),
        ([Sha256()], [b"x", b"y"]),
        ([Sha256(), Sha256()], [b"x"]),
        ([Sha256() for _ in range(LANES + 1)], [b"x"] * (LANES + 1)),
    ],
)
def test_other_than_different_streams_with_a_buffer_each_is_refused(
    streams: list[Sha256], data: list[bytes]
) -> None:
    with pytest.raises(ValueError, match=f"up to {LANES} different streams, a buffer each"):
        update_together(streams, data)
    assert {stream.digest() for stream in streams} == {expected(b"")}


@pytest.mark.parametrize("wrong", ["text", None, 5, memoryview(b"abcd")[::2]])
def test_what_is_no_buffer_is_refused_before_any_byte_is_taken(wrong: object) -> None:
    first, second = Sha256(), Sha256()
    room = bytearray(b"abc")
    with pytest.raises((TypeError, BufferError)):
        update_together([first, second], [room, wrong])  # type: ignore[list-item]
    assert first.digest() == second.digest() == expected(b"")
    room.append(0)  # and the buffer was given back


def test_what_is_no_stream_is_refused() -> None:
    stream = Sha256()
    with pytest.raises(TypeError):
        update_together([stream, ChunkHasher()], [b"x", b"y"])  # type: ignore[list-item]
    assert stream.digest() == expected(b"")


def test_threads_hash_at_the_same_time() -> None:
    results = list[bytes]()

    def work() -> None:
        streams = [Sha256() for _ in range(LANES)]
        for at in range(0, len(BODY), 10_007):
            update_together(streams, [BODY[at : at + 10_007]] * LANES)
        results.extend(stream.digest() for stream in streams)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [expected(BODY)] * 4 * LANES


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.sampled_from([0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, 2_500_000]), max_size=2 * LANES),
    st.lists(st.sampled_from(["sha256", "sha512"]), min_size=2 * LANES, max_size=2 * LANES),
    st.booleans(),
)
def test_hashers_together_are_as_each_alone(sizes: list[int], algorithms: list[str], openssl: bool) -> None:
    bodies = [some_bytes(size, seed) for seed, size in enumerate(sizes)]
    kinds = algorithms[: len(bodies)]
    together = [ChunkHasher(kind, openssl=openssl) for kind in kinds]
    cut = [len(body) // 3 for body in bodies]
    update_hashers(together, [body[:at] for body, at in zip(bodies, cut, strict=True)])
    update_hashers(together, [memoryview(body)[at:] for body, at in zip(bodies, cut, strict=True)])
    for hasher, body, kind in zip(together, bodies, kinds, strict=True):
        alone = ChunkHasher(kind)
        alone.update(body)
        assert hasher.size == len(body)
        assert hasher.digest() == Digest.of(body, kind)
        assert hasher.table() == alone.table()


def test_hashers_are_refused_before_any_byte_is_taken() -> None:
    one, ended = ChunkHasher(), ChunkHasher()
    ended.table()
    for hashers, data in (([one, one], [b"x", b"x"]), ([one], []), ([one, ended], [b"x", b"x"])):
        with pytest.raises(ValueError, match=r"different hashers|after table"):
            update_hashers(hashers, data)
    assert (one.size, one.digest()) == (0, Digest.of(b""))


def test_a_build_that_hashes_wrongly_side_by_side_opens_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    self_test()

    def wrong(hashers: list[ChunkHasher], data: list[bytes]) -> None:
        for hasher, piece in zip(hashers, reversed([b"", *data[1:]]), strict=True):
            hasher.update(piece)

    monkeypatch.setattr("holdfast_core.opening.update_together", wrong)
    with pytest.raises(Exception, match="this build hashes wrongly"):
        self_test()
