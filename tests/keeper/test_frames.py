"""The keeper's protocol: any chopping of the stream gives the same frames, and nonsense ends it."""

import pytest
from holdfast import errors
from holdfast.fill.readers import FillFailed, FillGrown, FillMoved, FillVerified
from holdfast.keeper.rpc.frames import (
    CallFrame,
    ChangedFrame,
    DiskRefusedFrame,
    FrameInvalid,
    FrameReader,
    LeaveFrame,
    ResultFrame,
    SeenFrame,
    encode,
    failure_of,
    refusal_of,
)
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw
from msgspec.msgpack import encode as encode_value

FRAMES = [
    CallFrame(1, "manifest", Raw(encode_value(("docker.io:library/nginx", "latest")))),
    LeaveFrame(7),
    DiskRefusedFrame(),
    SeenFrame((("a", "sha256:" + "0" * 64),)),
    ResultFrame(1, Raw(encode_value(["sha256:" + "0" * 64, 0, ""]))),
    failure_of(2, errors.ParentUnreachable("away", retry_after=5)),
    ChangedFrame(3, FillGrown(0, 1 << 40)),
    ChangedFrame(3, FillMoved(5, "/proc/1/fd/9")),
    ChangedFrame(3, FillVerified()),
    ChangedFrame(3, FillFailed("ParentBroken", "wrong digest")),
]


@given(st.lists(st.integers(1, 40), max_size=200))
def test_split_invariance(sizes):
    stream = b"".join(encode(frame) for frame in FRAMES)
    reader, found = FrameReader(), []
    for size in sizes:
        found += reader.feed(stream[:size])
        stream = stream[size:]
    assert found + reader.feed(stream) == FRAMES


@pytest.mark.parametrize("data", [b"\xff\xff\xff\xff", b"\x00\x00\x00\x01\xc1", b"\x00\x00\x00\x03abc"])
def test_nonsense_is_refused(data):
    with pytest.raises(FrameInvalid):
        FrameReader().feed(data)


@pytest.mark.parametrize("kind", [k for k in errors.TABLE if issubclass(k, errors.Refusal)])
def test_refusals_survive_the_socket(kind):
    sent = kind("what", detail="why", code="BLOB_UNKNOWN", retry_after=3, headers=(("A", "b"),))
    frame = failure_of(1, sent)
    (got,) = FrameReader().feed(encode(frame))
    back = refusal_of(got.kind, got.message, got.detail, got.code, got.retry_after, got.headers)
    assert type(back) is kind
    assert (back.message, back.detail, back.code, back.retry_after) == ("what", "why", "BLOB_UNKNOWN", 3)
    assert back.headers == (("A", "b"),)


@pytest.mark.parametrize("name", ["os", "TABLE", "status_and_code", "Exception", ""])
def test_an_unknown_refusal_is_a_fault_of_the_node(name):
    assert type(refusal_of(name, "m")) is errors.NodeFailed
