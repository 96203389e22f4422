"""Memory to receive into: it is free when nobody has a part of it, and not before."""

from __future__ import annotations

import pytest
from holdfast.http.block import Block


def test_a_block_is_free_once_every_part_of_it_is_gone() -> None:
    block = Block(1000)
    assert block.is_free
    whole = memoryview(block)
    assert (len(whole), whole.readonly) == (1000, False)
    part = whole[10:20][2:]
    whole.release()
    del whole
    assert not block.is_free
    part[:] = b"12345678"
    del part
    assert block.is_free
    assert bytes(memoryview(block)[12:20]) == b"12345678"


def test_two_views_count_as_two() -> None:
    block = Block(10)
    first, second = memoryview(block), memoryview(block)
    first.release()
    assert not block.is_free
    second.release()
    assert block.is_free


def test_a_view_outlives_the_name_of_its_block() -> None:
    part = memoryview(Block(1 << 20))[5:]
    part[:] = bytes(len(part))
    assert bytes(part[:3]) == b"\0\0\0"


@pytest.mark.parametrize("size", [-1, 1 << 62])
def test_memory_that_cannot_be_had_is_refused(size: int) -> None:
    with pytest.raises((MemoryError, ValueError)):
        Block(size)
