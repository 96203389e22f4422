"""Digests: the grammar, exactly; hashes: the same however the bytes are cut."""

from __future__ import annotations

import copy
import hashlib
import pickle
import re

import pytest
from blake3 import blake3
from holdfast_core import CHUNK_BYTES, ChunkHasher, Digest, chunk_hash
from holdfast_core.errors import MalformedDigest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.stores import some_bytes

GRAMMAR = re.compile(r"(sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})\Z")
HEX = "0123456789abcdef"


@given(st.sampled_from(["sha256", "sha512"]), st.data())
def test_every_digest_of_the_grammar_parses_and_prints_the_same(algorithm: str, data: st.DataObject) -> None:
    length = 64 if algorithm == "sha256" else 128
    text = algorithm + ":" + data.draw(st.text(HEX, min_size=length, max_size=length))
    digest = Digest.parse(text)
    assert str(digest) == text
    assert digest.raw == bytes.fromhex(digest.hex)
    assert Digest.from_key(digest.key) == digest
    assert digest.algorithm == algorithm


near = st.one_of(
    st.text(),
    st.text(HEX + "AFgx: \n", max_size=80),
    st.tuples(
        st.sampled_from(["sha256:", "sha512:", "SHA256:", "sha256", "sha384:", "sha1:", ""]),
        st.text(HEX + "A", min_size=62, max_size=66) | st.text(HEX, min_size=127, max_size=129),
        st.sampled_from(["", "\n", " ", "0"]),
    ).map("".join),
)


@given(near)
def test_exactly_the_grammar_is_taken(text: str) -> None:
    if GRAMMAR.match(text):
        assert str(Digest.parse(text)) == text
    else:
        with pytest.raises(MalformedDigest):
            Digest.parse(text)


@pytest.mark.parametrize(
    "text", [None, 5, b"sha256:" + b"0" * 64, "sha256:" + "é" * 64, "sha256:" + "٠" * 64]
)
def test_what_is_not_ascii_text_is_refused(text: object) -> None:
    with pytest.raises(MalformedDigest):
        Digest.parse(text)  # type: ignore[arg-type]


@pytest.mark.parametrize("key", [b"", b"\x01", b"\x01" + b"x" * 64, b"\x02" + b"x" * 32, b"\x03" + b"x" * 32])
def test_a_key_that_is_none_is_refused(key: bytes) -> None:
    with pytest.raises(MalformedDigest):
        Digest.from_key(key)


def test_digests_are_values() -> None:
    a, b = Digest.of(b"a"), Digest.of(b"b")
    assert a == Digest.parse(str(a))
    assert hash(a) == hash(Digest.parse(str(a)))
    assert a != b
    assert a != str(a)
    assert sorted([a, b], key=str) == sorted([a, b])
    assert copy.deepcopy(a) == pickle.loads(pickle.dumps(a)) == a
    assert Digest.of(b"a", "sha512").hex == hashlib.sha512(b"a").hexdigest()
    with pytest.raises(TypeError):
        Digest()
    with pytest.raises(MalformedDigest):
        Digest.of(b"a", "md5")
    with pytest.raises(AttributeError):
        a.hex = "0"  # type: ignore[misc]


def table_by_slices(body: bytes) -> bytes:
    return b"".join(blake3(body[at : at + CHUNK_BYTES]).digest() for at in range(0, len(body), CHUNK_BYTES))


@settings(max_examples=20, deadline=None)
@given(
    st.sampled_from([0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 2 * CHUNK_BYTES, 2_500_000]),
    st.lists(st.integers(0, 1_200_000), max_size=6),
    st.sampled_from(["sha256", "sha512"]),
)
def test_a_stream_hashes_the_same_however_it_is_cut(size: int, cuts: list[int], algorithm: str) -> None:
    body = some_bytes(size)
    hasher, at = ChunkHasher(algorithm), 0
    for cut in [*cuts, size]:
        hasher.update(memoryview(body)[at : at + cut])
        at = min(size, at + cut)
    assert hasher.size == size
    assert hasher.digest() == Digest.of(body, algorithm)
    assert len(hasher.complete_chunks()) == size // CHUNK_BYTES
    assert hasher.table() == table_by_slices(body)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_buffer_is_taken(kind: type) -> None:
    hasher = ChunkHasher()
    hasher.update(kind(b""))
    hasher.update(kind(b"abc"))
    assert hasher.digest() == Digest.of(b"abc")
    assert hasher.table() == chunk_hash(kind(b"abc"))


def test_a_table_ends_the_hasher() -> None:
    hasher = ChunkHasher()
    hasher.update(b"x")
    hasher.table()
    with pytest.raises(ValueError, match="after table"):
        hasher.update(b"y")
