"""An index that is read page by page: each thing that a damaged page can be is found and named, and no record is shown
that is not in the tree."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from holdfast_core import Store
from holdfast_core import format as layout
from holdfast_core.index.page_reader import IndexPages, Row
from support.stores import push, some_bytes

Opener = Callable[..., Store]
PAGE = 4096
HEAD = struct.Struct("<QHHHH")
NODE = struct.Struct("<HHHH")
#: where a meta page has the records of the main tree
ENTRIES = 120
BRANCH, LEAF, OVERFLOW = 1, 2, 4


class Pages:
    """The file as bytes that can be changed, and the newest tree in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.data = bytearray(path.read_bytes())
        with IndexPages(path) as pages:
            self.meta = pages.metas[0]
        assert self.meta.root is not None
        assert self.meta.free is not None
        self.root, self.free = self.meta.root, self.meta.free
        assert self.kind(self.root) == BRANCH
        self.leaf = self.child(self.root, 0)
        assert self.kind(self.leaf) == LEAF

    def head(self, number: int) -> list[int]:
        return list(HEAD.unpack_from(self.data, number * PAGE))

    def kind(self, number: int) -> int:
        return self.head(number)[2]

    def set_head(self, number: int, at: int, value: int) -> None:
        head = self.head(number)
        head[at] = value
        HEAD.pack_into(self.data, number * PAGE, *head)

    def pointers(self, number: int) -> list[int]:
        """Where in the page its nodes are."""
        lower = self.head(number)[3]
        start = number * PAGE
        return [int.from_bytes(self.data[i : i + 2], "little") for i in range(start + 16, start + lower, 2)]

    def point(self, number: int, node: int, place: int) -> None:
        at = number * PAGE + 16 + 2 * node
        self.data[at : at + 2] = place.to_bytes(2, "little")

    def node(self, number: int, which: int) -> list[int]:
        """Value's length or child in two parts, flags, key's length."""
        return list(NODE.unpack_from(self.data, number * PAGE + self.pointers(number)[which]))

    def set_node(self, number: int, which: int, at: int, value: int) -> None:
        node = self.node(number, which)
        node[at] = value
        NODE.pack_into(self.data, number * PAGE + self.pointers(number)[which], *node)

    def child(self, number: int, which: int) -> int:
        low, high, flags, _ = self.node(number, which)
        return low | high << 16 | flags << 32

    def value_at(self, number: int, which: int) -> int:
        """Where in the file the value of a node begins."""
        place = self.pointers(number)[which]
        return number * PAGE + place + NODE.size + self.node(number, which)[3]

    def elsewhere(self) -> tuple[int, int]:
        """(leaf, node) of a value on overflow pages."""
        for which in range(len(self.pointers(self.root))):
            leaf = self.child(self.root, which)
            for node in range(len(self.pointers(leaf))):
                if self.node(leaf, node)[2] == 1:
                    return leaf, node
        raise AssertionError("no value is on pages of its own")

    def overflow(self) -> int:
        at = self.value_at(*self.elsewhere())
        return int.from_bytes(self.data[at : at + 8], "little")

    def number(self, at: int, value: int) -> None:
        self.data[at : at + 8] = value.to_bytes(8, "little")


@pytest.fixture
def pages(opener: Opener, root: Path) -> Pages:
    """An index of several leaves, with values on pages of their own and with free pages."""
    store = opener()
    for n in range(30):
        push(store, "a", some_bytes(700, n), f"t{n}")
    push(store, "a", some_bytes(12_000), "large")
    store.references.delete_tag("a", "t3", now=2.0).result()
    store.close()
    return Pages(root / "index" / "data.mdb")


def a_record_too_few(pages: Pages) -> None:
    at = (pages.meta.transaction & 1) * PAGE + ENTRIES
    pages.number(at, pages.meta.entries + 1)


def a_free_page_in_use(pages: Pages) -> None:
    pages.number(pages.value_at(pages.free, 0) + 8, pages.leaf)


def a_list_of_free_pages(pages: Pages) -> None:
    pages.number(pages.value_at(pages.free, 0), 0)


def two_keys(pages: Pages) -> None:
    first, second = pages.pointers(pages.leaf)[:2]
    pages.point(pages.leaf, 0, second)
    pages.point(pages.leaf, 1, first)


def a_separator(pages: Pages) -> None:
    """Greater than the first keys of its child."""
    place = pages.root * PAGE + pages.pointers(pages.root)[1] + NODE.size
    length = pages.node(pages.root, 1)[3]
    pages.data[place + length - 1] = 0xFF
    pages.data[place + length - 2] = 0xFF


def a_child_twice(pages: Pages) -> None:
    for at, value in enumerate(pages.node(pages.root, 0)[:3]):
        pages.set_node(pages.root, 1, at, value)


def an_overflow(at: int, value: int) -> Callable[[Pages], None]:
    return lambda pages: pages.set_head(pages.overflow(), at, pages.head(pages.overflow())[at] + value)


def an_overflow_far_away(pages: Pages) -> None:
    pages.number(pages.value_at(*pages.elsewhere()), 1 << 40)


def an_overflow_that_ends_late(pages: Pages) -> None:
    """The value's length leads behind the end of the file."""
    leaf, node = pages.elsewhere()
    pages.set_node(leaf, node, 1, 0x7F)


HARM: dict[str, tuple[Callable[[Pages], None], str]] = {
    "entries": (a_record_too_few, "records, not"),
    "free and in use": (a_free_page_in_use, "1 pages are free and in use"),
    "free list": (a_list_of_free_pages, "a list of free pages is damaged"),
    "order": (two_keys, "is out of its order"),
    "separator": (a_separator, "does not belong here"),
    "child": (a_child_twice, "is used twice"),
    "number": (lambda p: p.set_head(p.leaf, 0, p.leaf + 1), "page {leaf} is damaged"),
    "kind": (lambda p: p.set_head(p.leaf, 2, OVERFLOW), "page {leaf} is damaged"),
    "bounds": (lambda p: p.set_head(p.leaf, 3, PAGE), "page {leaf} is damaged"),
    "pointer": (lambda p: p.point(p.leaf, 0, PAGE - 2), "page {leaf}: a node is damaged"),
    "key's length": (lambda p: p.set_node(p.leaf, 0, 3, PAGE), "page {leaf}: a node is damaged"),
    "flags": (lambda p: p.set_node(p.leaf, 0, 2, 4), "page {leaf}: the node of key"),
    "value's length": (lambda p: p.set_node(p.leaf, 0, 0, PAGE), "page {leaf}: the node of key"),
    "overflow's place": (an_overflow_far_away, "lies behind the end of the file"),
    "overflow's end": (an_overflow_that_ends_late, "lies behind the end of the file"),
    "overflow's number": (an_overflow(0, 1), "page {overflow} is damaged"),
    "overflow's kind": (an_overflow(2, LEAF - OVERFLOW), "page {overflow} is damaged"),
    "overflow's pages": (an_overflow(3, 1), "page {overflow} is damaged"),
}


def test_a_sound_index_is_whole_and_has_no_strays(pages: Pages) -> None:
    with IndexPages(pages.path) as found:
        assert found.is_whole(found.metas[0])
        assert found.problems == []
        rows = list(found.rows(found.metas[0]))
        assert len(rows) == found.metas[0].entries
        assert list(found.strays(found.metas[0])) == []
        assert found.is_whole(found.metas[1]), "one transaction before"


@pytest.mark.parametrize("name", HARM)
def test_case_fault_6_what_a_page_cannot_be_is_named(pages: Pages, name: str) -> None:
    true = set(sound_rows(pages))
    harm, said = HARM[name]
    said = said.format(leaf=pages.leaf, overflow=pages.overflow())
    harm(pages)
    pages.path.write_bytes(pages.data)
    with IndexPages(pages.path) as found:
        meta = found.metas[0]
        assert not found.is_whole(meta)
        assert any(said in problem for problem in found.problems), found.problems
        assert set(found.rows(meta)) <= true
        strays = {row for row in found.strays(meta) if row[0][:1] in layout.JOURNALED_TABLES}
        assert strays <= true


def sound_rows(pages: Pages) -> list[Row]:
    with IndexPages(pages.path) as found:
        return list(found.rows(found.metas[0]))


def test_case_fault_6_strays_are_found_where_a_branch_is_lost(pages: Pages) -> None:
    true = set(sound_rows(pages))
    pages.data[pages.root * PAGE : (pages.root + 1) * PAGE] = bytes(PAGE)
    pages.path.write_bytes(pages.data)
    with IndexPages(pages.path) as found:
        assert list(found.rows(found.metas[0])) == []
        assert set(found.strays(found.metas[0])) == true
    a_list_of_free_pages(pages)
    pages.path.write_bytes(pages.data)
    with IndexPages(pages.path) as found:
        assert list(found.rows(found.metas[0])) == []
        assert list(found.strays(found.metas[0])) == [], "nobody knows which of the pages are old"


def test_case_fault_6_a_value_that_looks_like_a_page_is_none(pages: Pages) -> None:
    """Whoever pushes chooses the bytes of a value, and may guess where they will lie."""
    inside = pages.overflow() + 1
    leaf = bytearray(pages.data[pages.leaf * PAGE : (pages.leaf + 1) * PAGE])
    leaf[:8] = inside.to_bytes(8, "little")
    pages.data[inside * PAGE : (inside + 1) * PAGE] = leaf
    pages.path.write_bytes(pages.data)
    with IndexPages(pages.path) as found:
        list(found.rows(found.metas[0]))
        assert list(found.strays(found.metas[0])) == []


def test_the_later_meta_page_comes_first(opener: Opener, root: Path) -> None:
    for n in range(2):
        store = opener()
        push(store, "a", b"%d" % n)
        store.close()
        with IndexPages(root / "index" / "data.mdb") as found:
            first, second = found.metas
            assert first.transaction == second.transaction + 1


@pytest.mark.parametrize(("at", "value"), [(16, 1), (20, 2), (40, 2 * PAGE)])
def test_a_meta_page_that_cannot_be_one_does_not_count(
    pages: Pages, opener: Opener, at: int, value: int
) -> None:
    """Another magic number, another version, another size of pages; of the second one, the first says the size."""
    for n in range(4):
        if pages.meta.transaction % 2 == 0:
            break
        store = opener()
        push(store, "b", b"%d" % n)
        store.close()
        pages = Pages(pages.path)
    pages.data[PAGE + at : PAGE + at + 4] = value.to_bytes(4, "little")
    pages.path.write_bytes(pages.data)
    with IndexPages(pages.path) as found:
        assert found.metas == [pages.meta]
