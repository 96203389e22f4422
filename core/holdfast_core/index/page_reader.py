"""The index read page by page, without LMDB, which has no checksums: one flipped bit makes it return the wrong record
or abort the process. Here a page that is damaged is left out and named, and nothing is read that is not in the file.

LMDB 0.9: pages 0 and 1 are meta pages, the one of the later transaction counts, and the other's tree is whole as well,
as it was one transaction before. A page begins with its number, its kind and the bounds of its free space; the nodes of
a branch lead to pages, those of a leaf have a key and a value or the number of overflow pages. What no page of the tree
uses is in a second tree, of free pages.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import msgspec

_META = struct.Struct("<II16x" + "IHHQQQQQ" * 2 + "QQ")
_META_MAGIC, _META_VERSION = 0xBEEFC0DE, 1
_HEAD = struct.Struct("<QHHHH")  # number, -, kind, end of the pointers, start of the nodes
_NODE = struct.Struct("<HHHH")  # value's length or child's number in two parts, flags, key's length
_NUMBER = struct.Struct("<Q")
_BRANCH, _LEAF, _OVERFLOW = 1, 2, 4
_ELSEWHERE = 1  # the value is on overflow pages
_META_BYTES = _HEAD.size + _META.size
_PAGE_BYTES = frozenset(1 << n for n in range(9, 17))
_NONE = (1 << 64) - 1
_DEEPEST = 32

Row = tuple[bytes, bytes]


class MetaPage(msgspec.Struct, frozen=True):
    """What a meta page says. `pages` are those of both trees; roots are None for an empty tree."""

    transaction: int
    page_bytes: int
    free: int | None
    root: int | None
    entries: int
    pages: int
    last: int


class PageDamaged(Exception):
    """A page that cannot be what leads to it."""


class IndexPages:
    """The file of an index. `problems` are what was met so far, as sentences."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        self._size = os.fstat(self._fd).st_size
        self.problems: list[str] = []
        first = _meta(os.pread(self._fd, _META_BYTES, 0))
        self._step = first.page_bytes if first else mmap.PAGESIZE
        second = _meta(os.pread(self._fd, _META_BYTES, self._step))
        metas = [meta for meta in (first, second) if meta and meta.page_bytes == self._step]
        #: the intact ones, the later first
        self.metas = sorted(metas, key=lambda meta: meta.transaction, reverse=True)
        self._used: set[int] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def is_whole(self, meta: MetaPage) -> bool:
        """Whether the tree has every page, every key in its order, and as many records as it should. `problems` says
        what it has not."""
        self.problems = []
        count = sum(1 for _ in self.rows(meta))
        if count != meta.entries:
            self.problems.append(f"{count} records, not {meta.entries}")
        free = self.free(meta)
        if both := len(free & self._used):
            self.problems.append(f"{both} pages are free and in use")
        return not self.problems

    def rows(self, meta: MetaPage) -> Iterator[Row]:
        """All records that the tree leads to, values sealed."""
        self._used = set()
        last = b""
        for key, value in self._tree(meta.root, 0, b"", None):
            if key <= last:
                self.problems.append(f"key {key.hex()} is out of its order")
            last = key
            yield key, value

    def strays(self, meta: MetaPage) -> Iterator[Row]:
        """Records of the leaves that a damaged branch no longer leads to: neither used by the tree, all of which
        `rows` has just gone through, nor free. None when the free pages are not known."""
        before = len(self.problems)
        free = self.free(meta)
        if len(self.problems) > before:
            return
        for number in range(2, min(meta.last, self._size // self._step - 1) + 1):
            if number not in self._used and number not in free:
                yield from self._leaf_of(number)

    def leaves(self) -> Iterator[Row]:
        """Records of every page that is or was a leaf, old versions among them."""
        for number in range(2, self._size // self._step):
            yield from self._leaf_of(number)

    def free(self, meta: MetaPage) -> set[int]:
        """The pages that the tree of free pages lists, and its own."""
        used, self._used = self._used, set()
        try:
            pages: set[int] = set()
            for _, value in self._tree(meta.free, 0, b"", None, ordered=False):
                count = len(value) // _NUMBER.size
                numbers = struct.unpack_from(f"<{count}Q", value)
                if not numbers or numbers[0] != count - 1:
                    self.problems.append("a list of free pages is damaged")
                pages.update(numbers[1:])
            return pages | self._used
        finally:
            self._used = used

    # --- pages

    def _tree(
        self, root: int | None, depth: int, low: bytes, high: bytes | None, *, ordered: bool = True
    ) -> Iterator[Row]:
        """Records below a page, whose keys lie from `low` up to `high`."""
        if root is None:
            return
        try:
            page, kind = self._page(root)
            if root in self._used or depth > _DEEPEST:
                raise PageDamaged(f"page {root} is used twice")
            self._used.add(root)
            if kind == _LEAF:
                for key, value in self._leaf(page, root):
                    if ordered and not (low <= key and (high is None or key < high)):
                        self.problems.append(f"page {root}: key {key.hex()} does not belong here")
                    yield key, value
                return
            children = list(self._branch(page, root))
        except PageDamaged as error:
            self.problems.append(str(error))
            return
        bounds = [low, *(key for key, _ in children[1:])]
        for (_, child), start, end in zip(children, bounds, [*bounds[1:], high], strict=True):
            yield from self._tree(child, depth + 1, start, end, ordered=ordered)

    def _leaf_of(self, number: int) -> Iterator[Row]:
        """Of a page that nothing leads to."""
        try:
            page, kind = self._page(number)
        except PageDamaged:
            return
        if kind == _LEAF:
            yield from self._leaf(page, number)

    def _page(self, number: int) -> tuple[bytes, int]:
        """The page and its kind. Raises Damaged."""
        page = (
            os.pread(self._fd, self._step, number * self._step) if number * self._step < self._size else b""
        )
        if len(page) != self._step:
            raise PageDamaged(f"page {number} lies behind the end of the file")
        page_number, _, kind, lower, upper = _HEAD.unpack_from(page)
        if (
            page_number != number
            or kind not in (_BRANCH, _LEAF)
            or not _HEAD.size <= lower <= upper <= self._step
        ):
            raise PageDamaged(f"page {number} is damaged")
        return page, kind

    def _nodes(self, page: bytes, number: int) -> Iterator[tuple[int, int, int, int, int]]:
        """(place, low, high, flags, key's length) of each node."""
        lower = _HEAD.unpack_from(page)[3]
        for at in range(_HEAD.size, lower, 2):
            place = int.from_bytes(page[at : at + 2], "little")
            if not lower <= place <= self._step - _NODE.size:
                self.problems.append(f"page {number}: a node is damaged")
                continue
            low, high, flags, length = _NODE.unpack_from(page, place)
            if place + _NODE.size + length > self._step:
                self.problems.append(f"page {number}: a node is damaged")
                continue
            yield place + _NODE.size, low, high, flags, length

    def _branch(self, page: bytes, number: int) -> Iterator[tuple[bytes, int]]:
        for at, low, high, flags, length in self._nodes(page, number):
            yield page[at : at + length], low | high << 16 | flags << 32

    def _leaf(self, page: bytes, number: int) -> Iterator[Row]:
        for at, low, high, flags, length in self._nodes(page, number):
            key, start, size = page[at : at + length], at + length, low | high << 16
            try:
                if flags == _ELSEWHERE:
                    yield key, self._overflow(page[start : start + 8], size)
                elif flags or start + size > self._step:
                    raise PageDamaged(f"page {number}: the node of key {key.hex()} is damaged")
                else:
                    yield key, page[start : start + size]
            except PageDamaged as error:
                self.problems.append(str(error))

    def _overflow(self, raw: bytes, size: int) -> bytes:
        """A value on pages of its own. Raises Damaged."""
        number = int.from_bytes(raw, "little")
        start = number * self._step
        head = os.pread(self._fd, _HEAD.size, start) if start < self._size else b""
        if len(head) < _HEAD.size or start + _HEAD.size + size > self._size:
            raise PageDamaged(f"page {number} lies behind the end of the file")
        page_number, _, kind, low, high = _HEAD.unpack(head)
        count = low | high << 16
        if page_number != number or kind != _OVERFLOW or count != -(-(size + _HEAD.size) // self._step):
            raise PageDamaged(f"page {number} is damaged")
        self._used.update(range(number, number + count))
        return os.pread(self._fd, size, start + _HEAD.size)


def _meta(page: bytes) -> MetaPage | None:
    if len(page) < _META_BYTES:
        return None
    fields = _META.unpack_from(page, _HEAD.size)
    magic, version, step, _, _, *first = fields[:10]
    _, _, _, *second = fields[10:18]
    last, transaction = fields[18:]
    if magic != _META_MAGIC or version != _META_VERSION or step not in _PAGE_BYTES:
        return None
    free_pages, (free_root, (entries, root)) = sum(first[:3]), (first[4], (second[3], second[4]))
    return MetaPage(
        transaction,
        step,
        None if free_root == _NONE else free_root,
        None if root == _NONE else root,
        entries,
        free_pages + sum(second[:3]),
        last,
    )
