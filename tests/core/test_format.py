"""Layouts: what is encoded decodes to the same, and no changed bit goes unnoticed."""

from __future__ import annotations

import pytest
from blake3 import blake3
from holdfast_core import Descriptor, Digest, FillState, list_format
from holdfast_core import format as layout
from holdfast_core.errors import Mistake, RecordDamaged
from holdfast_core.journal import frame as framing
from holdfast_core.record import TagMove
from hypothesis import given
from hypothesis import strategies as st

digests = st.binary(max_size=8).map(Digest.of) | st.binary(max_size=8).map(lambda b: Digest.of(b, "sha512"))
times = st.floats(0, 1e11)
names = st.text(min_size=1, max_size=60)


@given(st.binary(min_size=1, max_size=80), st.binary(max_size=400))
def test_a_sealed_value_opens_to_its_payload(key: bytes, payload: bytes) -> None:
    assert layout.unseal(key, layout.seal(key, payload)) == payload


@given(st.binary(min_size=1, max_size=40), st.binary(max_size=100), st.data())
def test_any_flipped_bit_is_noticed(key: bytes, payload: bytes, data: st.DataObject) -> None:
    value = bytearray(layout.seal(key, payload))
    at = data.draw(st.integers(0, len(value) * 8 - 1))
    value[at // 8] ^= 1 << at % 8
    with pytest.raises(RecordDamaged):
        layout.unseal(key, bytes(value))


@given(st.binary(min_size=1, max_size=40), st.binary(max_size=40), st.binary(min_size=1, max_size=3))
def test_a_value_under_another_key_is_noticed(key: bytes, payload: bytes, more: bytes) -> None:
    with pytest.raises(RecordDamaged):
        layout.unseal(key + more, layout.seal(key, payload))


@pytest.mark.parametrize("value", [b"", b"x", b"12345678"])
def test_a_short_value_is_noticed(value: bytes) -> None:
    with pytest.raises(RecordDamaged):
        layout.unseal(b"B", value)


def test_an_unknown_version_is_named() -> None:
    body = b"\x07payload"
    value = body + blake3(b"B" + body).digest(layout.SEAL_BYTES)
    with pytest.raises(RecordDamaged, match="has version 7, this code reads 1"):
        layout.unseal(b"B", value)


@given(digests, st.integers(0, 2**63), st.booleans(), st.none() | st.binary(max_size=50), st.booleans())
def test_blob_rows(digest: Digest, size: int, owned: bool, inline: bytes | None, damaged: bool) -> None:
    flags = owned * layout.OWNED | damaged * layout.DAMAGED | (inline is not None) * layout.INLINE
    boot = b"b" * 16
    blob = layout.decode_blob(digest, layout.encode_blob(size, flags=flags, boot=boot, inline=inline or b""))
    assert (blob.size, blob.owned, blob.inline, blob.damaged, blob.boot) == (
        size,
        owned,
        inline,
        damaged,
        boot,
    )
    assert layout.decode_blob(digest, layout.encode_blob(size, flags=flags)).boot == b""


@given(digests, times, times, st.sampled_from(["parent", "local"]))
def test_tags(digest: Digest, checked: float, moved: float, origin: str) -> None:
    tag = layout.decode_tag("v1", layout.encode_tag(digest, checked, moved, origin))
    assert (tag.digest, tag.checked_at, tag.moved_at, tag.origin) == (digest, checked, moved, origin)


@given(st.lists(st.builds(TagMove, digests, times, st.sampled_from(["parent", "local"])), max_size=20))
def test_the_last_sixteen_moves_are_kept(moves: list[TagMove]) -> None:
    assert layout.decode_moves(layout.encode_moves(moves)) == moves[:16]


@given(st.lists(st.binary(max_size=900), max_size=30), times)
def test_lists_of_any_length(items: list[bytes], fetched_at: float) -> None:
    payloads = list_format.encode_list(items, fetched_at, list_format.LIST_ORDERS[layout.TAG_LIST])
    assert list_format.decode_list(payloads) == (items, fetched_at)
    assert all(len(p) <= layout.SEGMENT_BYTES + 12 for p in payloads)
    if len(payloads) > 1:
        with pytest.raises(RecordDamaged):
            list_format.decode_list(payloads[:-1])


@given(
    st.builds(
        Descriptor, names, digests.map(str), st.integers(0, 2**53), names, st.dictionaries(names, names)
    )
)
def test_descriptors(descriptor: Descriptor) -> None:
    assert layout.decode_descriptor(layout.encode_descriptor(descriptor)) == descriptor


@given(st.dictionaries(st.integers(0, 2**20), st.binary(min_size=32, max_size=32), max_size=80))
def test_chunks_of_fills(chunks: dict[int, bytes]) -> None:
    decoded: dict[int, bytes] = {}
    for segment, payload in layout.encode_fill_chunks(chunks).items():
        assert len(payload) <= 33 * layout.SEGMENT_CHUNKS
        decoded |= layout.decode_fill_chunks(segment, payload)
    assert decoded == chunks


def test_fill_heads() -> None:
    state = FillState("r", Digest.of(b""), 9, '"e"', ((0, 4), (6, 9)), {}, True, 2.5)
    head = layout.decode_fill(layout.encode_fill(state))
    assert (head.repository, head.size, head.etag, head.extents) == ("r", 9, '"e"', ((0, 4), (6, 9)))
    assert (head.whole, head.updated_at) == (True, 2.5)


@given(st.binary(max_size=32 * 200))
def test_chunk_tables_are_cut_into_small_records(table: bytes) -> None:
    parts = layout.encode_table(table)
    assert b"".join(parts) == table
    assert all(0 < len(p) <= 1920 for p in parts)


change = st.tuples(st.binary(min_size=1, max_size=60), st.none() | st.binary(max_size=200))


@given(st.lists(change, max_size=20))
def test_frames(changes: list[tuple[bytes, bytes | None]]) -> None:
    frame = framing.encode_frame(changes)
    assert framing.frame_bytes(frame) == len(frame)
    assert framing.decode_frame(frame) == changes


@given(st.lists(change, min_size=1, max_size=5), st.data())
def test_a_damaged_frame_is_none(changes: list[tuple[bytes, bytes | None]], data: st.DataObject) -> None:
    frame = bytearray(framing.encode_frame(changes))
    frame[data.draw(st.integers(0, len(frame) - 1))] ^= 0x40
    assert framing.decode_frame(bytes(frame)) is None


def test_a_journal_head_that_is_none() -> None:
    head = framing.encode_journal_head(b"u" * 16, 3)
    assert len(head) == framing.JOURNAL_HEAD_BYTES
    assert framing.decode_journal_head(head) == (b"u" * 16, 3)
    assert framing.decode_journal_head(head[:-1]) is None
    assert framing.decode_journal_head(head[:-1] + b"\x00") is None


@pytest.mark.parametrize("name", ["", "x" * 481])
def test_a_repository_name_that_fits_no_key(name: str) -> None:
    with pytest.raises(Mistake, match="allowed: 1 to 480"):
        layout.repository_key(name)


@pytest.mark.parametrize("name", ["", "x" * 129])
def test_a_tag_that_fits_no_key(name: str) -> None:
    with pytest.raises(Mistake, match="allowed: 1 to 128"):
        layout.tag_key("r", name)


def test_every_key_fits() -> None:
    long, digest = "r" * layout.NAME_BYTES, Digest.of(b"", "sha512")
    keys = [
        layout.repository_key(long),
        layout.tag_key(long, "t" * layout.TAG_BYTES),
        layout.link_key(long, layout.AS_BLOB, digest.key),
        layout.segment_key(layout.referrer_list_prefix(long, digest), 1),
        layout.referrer_prefix(long, digest) + digest.key,
        layout.segment_key(layout.fill_chunks_prefix(long, digest), 1),
    ]
    assert max(map(len, keys)) <= 511


def test_an_unknown_origin() -> None:
    with pytest.raises(Mistake, match="tag origin 'x'; allowed: parent, local"):
        layout.encode_tag(Digest.of(b""), 1.0, 1.0, "x")
