"""The hit lane beside the ordinary way: the same bytes in, the same bytes out, whatever they are and however they are
cut. Two servers serve one node; one of them learns its hits at once, the other knows none.

    HOLDFAST_LANE_SEEDS=1000    that many more streams of requests
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from email.utils import formatdate
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from holdfast.config import Configuration
from holdfast.log import access_log, log
from holdfast.server.connection import TURN_REQUESTS, ClientConnection
from holdfast.server.connection_state import ConnectionState
from holdfast.server.hits import LARGEST_ANSWER, Hits
from holdfast.server.server import Server
from holdfast.wire.hit_lane import HitLane, RepeatedAnswer
from holdfast.wire.message import Reply
from holdfast_core.digest import Digest
from holdfast_core.index.row_snapshot import RowSnapshot
from support.patience import patience
from support.serving import Serving, serving

SEEDS = int(os.environ.get("HOLDFAST_LANE_SEEDS", "150"))
WAITING = (ConnectionState.ANSWERING, ConnectionState.SENDING)
OVER = (ConnectionState.LINGERING, ConnectionState.CLOSED, ConnectionState.ABANDONED)


class MemoryTransport(asyncio.Transport):
    """A socket without a socket: what was written, and whether it was ended."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.ended = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Of all that a socket knows, the peer."""
        return ("192.0.2.1", 40000) if name == "peername" else default

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        """Keep it."""
        self.written += data

    def write_eof(self) -> None:
        """The answers are over."""
        self.ended = True

    def can_write_eof(self) -> bool:
        """As a plain socket."""
        return True

    def is_closing(self) -> bool:
        """Never: the test ends it."""
        return False

    def get_write_buffer_size(self) -> int:
        """All was taken."""
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Nothing is ever full."""

    def pause_reading(self) -> None:
        """The test goes on all the same."""

    def resume_reading(self) -> None:
        """The same."""

    def close(self) -> None:
        """The answers are over."""
        self.ended = True

    abort = close


class Wire:
    """A connection to a server, fed piece by piece."""

    def __init__(self, server: Server) -> None:
        self.server, self.transport = server, MemoryTransport()
        self.connection = ClientConnection(server)
        self.connection.connection_made(self.transport)

    async def feed(self, *pieces: bytes) -> None:
        """Bytes arrive, and what they cause is over."""
        for piece in pieces:
            if self.connection.state not in OVER:
                self.connection.data_received(piece)
            await self._settle()

    async def _settle(self) -> None:
        async with patience():
            while self.connection.state in WAITING or self._is_busy:
                await asyncio.sleep(0)
        self.server.flush()

    @property
    def _is_busy(self) -> bool:
        """Whether requests of one read wait for their turn."""
        exchange = self.connection._exchange
        whole = exchange.unread.find(b"\r\n\r\n") >= 0
        return whole and self.connection.state not in OVER

    def end(self) -> bytes:
        """All answers, and whether the connection was ended after them."""
        self.server.flush()
        ended = self.transport.ended
        self.connection.connection_lost(None)
        return bytes(self.transport.written) + (b"<ended>" if ended else b"")


class Pair:
    """Two servers of one node: with the lane, and without."""

    def __init__(self, held: Serving) -> None:
        self.held, self.learning = held, held.server
        self.learning.hits = Hits(held.node, held.server.date, at_once=True)
        self.plain = Server(held.node, held.node.config.limits)
        self.plain.hits = None

    @property
    def lane(self) -> HitLane:
        """That of the first server."""
        assert self.learning.hits is not None
        return self.learning.hits.lane

    async def both(self, *pieces: bytes) -> tuple[bytes, bytes]:
        """What each of them answers on a new connection."""
        answers = []
        for server in (self.learning, self.plain):
            wire = Wire(server)
            await wire.feed(*pieces)
            answers.append(wire.end())
        return answers[0], answers[1]

    async def same(self, *pieces: bytes) -> bytes:
        """The answer of both."""
        lane, ordinary = await self.both(*pieces)
        assert lane == ordinary, pieces
        return lane


@asynccontextmanager
async def paired(place: Path, config: Configuration | None = None) -> AsyncIterator[Pair]:
    """Both servers, running."""
    async with serving(place, config) as held:
        pair = Pair(held)
        yield pair
        await pair.plain.close()


# --- what is sent ------------------------------------------------------------------------------------------

MANIFEST, SECOND = b'{"schemaVersion":2}', b'{"schemaVersion":2,"layers":[]}'
SMALL, LARGE = bytes(range(256)) * 4, random.Random(1).randbytes(200_000)


class Heads:
    """Requests of a node that has two manifests, a small blob and a large one."""

    def __init__(self, held: Serving, chance: random.Random) -> None:
        self.chance = chance
        first, second = (
            held.put_manifest("a/b", MANIFEST, "v1", "latest"),
            held.put_manifest("a/b", SECOND, "v2"),
        )
        small, large = str(Digest.of(SMALL)), held.put_blob("a/b", LARGE)
        held.store.blobs.put_inline(
            "a/b", Digest.of(SMALL), SMALL, owned=False, now=held.clock.now()
        ).result()
        self._pool: list[bytes] = []
        self.digests = [first, second, small, large]
        self.targets = [
            *(f"/v2/a/b/manifests/{name}" for name in ("v1", "v2", "latest", first, second)),
            f"/v2/a/b/blobs/{small}",
            f"/v2/a/b/blobs/{small}",
            f"/v2/a/b/blobs/{large}",
        ]
        self.odd = [
            *("/v2/", "/v2/a/b/tags/list", "/v2/a/b/manifests/none", "/v2/a/c/manifests/v1", "/healthz"),
            *(
                f"/v2/a/b/manifests/{small}",
                f"/v2/a/b/blobs/{first}",
                "/v2/a/b/manifests/v%31",
                "/v2//manifests/v1",
            ),
            *(
                f"/v2/a/b/blobs/{small[:-1]}",
                f"/v2/a/b/blobs/{large}?ns=x",
                "/v2/a/b/manifests/v1?ns=docker.io&x=%zz",
            ),
        ]

    def known(self) -> bytes:
        """A request as clients send them, out of few, so that most of them were sent before."""
        if len(self._pool) < 60 or self.chance.random() < 0.02:
            self._pool.append(self._new())
        return self.chance.choice(self._pool)

    def _new(self) -> bytes:
        pick = self.chance.choice
        method, target = pick(("GET", "GET", "HEAD")), pick(self.targets)
        query = pick(("", "", "", "?ns=registry.example"))
        lines = [pick(("Host: node.test", "Host: node.test:5000", "host:other"))]
        if self.chance.random() < 0.5:
            lines.append(pick(self.lines()))
        if self.chance.random() < 0.2:
            lines.insert(0, "Accept: */*")
        return self.head(f"{method} {target}{query} HTTP/1.1", lines)

    def lines(self) -> list[str]:
        """Header lines that an answer may depend on."""
        return [
            *(
                "Accept: application/vnd.oci.image.manifest.v1+json",
                "User-Agent: test/1.0",
                "Connection: keep-alive",
            ),
            *(
                "Range: bytes=0-9",
                "Range: bytes=-5",
                "Range: bytes=3-",
                "Range: bytes=0-1,4-5",
                "Range: bytes=9999999-",
            ),
            *("If-None-Match: *", f'If-None-Match: "{self.chance.choice(self.digests)}"', "Range: lines=1-2"),
            *(
                f"If-None-Match: W/{self.digests[0]}",
                "Authorization: Basic eDp5",
                "Authorization: Bearer x.y.z",
            ),
        ]

    def strange(self) -> bytes:
        """One that is valid and seldom, or that no client sends."""
        pick, lines = self.chance.choice, ["Host: node.test"]
        method, target = pick(("GET", "HEAD", "PUT", "get", "OPTIONS")), pick((*self.targets, *self.odd))
        line = f"{method} {target} HTTP/1.{pick('1101')}"
        for _ in range(self.chance.randrange(3)):
            lines.insert(
                self.chance.randrange(len(lines) + 1),
                pick(
                    [
                        *self.lines(),
                        *(
                            "Connection: close",
                            "Content-Length: 0",
                            "Content-Length: 3",
                            "Transfer-Encoding: chunked",
                        ),
                        *(
                            "Host: again",
                            " folded: x",
                            "X: \x01",
                            "Expect: 100-continue",
                            "X-Forwarded-For: 10.0.0.1",
                        ),
                    ]
                ),
            )
        return self.head(line, lines)

    def hostile(self) -> bytes:
        """One of a client, with a few bytes wrong."""
        data = bytearray(self.known())
        for _ in range(self.chance.randrange(1, 4)):
            at = self.chance.randrange(len(data))
            kind = self.chance.randrange(4)
            if kind == 0:
                data[at] ^= 1 << self.chance.randrange(8)
            elif kind == 1:
                del data[at : at + self.chance.randrange(1, 4)]
            elif kind == 2:
                data[at:at] = self.chance.choice(
                    (b"\r\n", b"\n", b"\r", b"\0", b" ", b"\r\n\r\n", b"\xff", b"%")
                )
            else:
                del data[at:]
            data = data or bytearray(b"\n")
        return bytes(data)

    @staticmethod
    def head(line: str, lines: Sequence[str]) -> bytes:
        return "\r\n".join([line, *lines, "", ""]).encode("latin-1")

    def stream(self) -> bytes:
        """Requests one behind the other, most of them known ones."""
        kinds = [self.known] * 37 + [self.strange] * 2 + [self.hostile]
        return b"".join(self.chance.choice(kinds)() for _ in range(self.chance.choice((1, 1, 2, 5, 12, 40))))

    def cut(self, data: bytes) -> list[bytes]:
        """The same in pieces."""
        if self.chance.random() < 0.4:
            return [data]
        cuts = sorted(self.chance.randrange(len(data) + 1) for _ in range(self.chance.randrange(1, 8)))
        return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True) if a < b]


async def test_streams_of_requests_have_the_same_answers_on_both_ways(tmp_path: Path) -> None:
    async with paired(tmp_path) as pair:
        heads = Heads(pair.held, random.Random(14))
        for turn in range(SEEDS):
            await pair.same(*heads.cut(heads.stream()))
            if turn % 10 == 0:  # the Date is another one, and what was learned stays
                pair.held.clock.advance(1.0)
        answered = pair.learning.statistics().answered
        assert answered == pair.plain.statistics().answered
        assert pair.lane.given > answered / 2, "most of what was compared came from the lane"
        assert pair.lane.given < answered


async def test_a_head_may_be_cut_at_every_byte(tmp_path: Path) -> None:
    async with paired(tmp_path) as pair:
        heads = Heads(pair.held, random.Random(2))
        data = heads.head(f"GET {heads.targets[0]} HTTP/1.1", ["Host: node.test"])
        await pair.same(data)
        for at in range(1, len(data)):
            given = pair.lane.given
            assert (await pair.same(data[:at], data[at:])).endswith(MANIFEST)
            assert pair.lane.given == given + 1, "also one that came in two pieces is known"
        await pair.same(*(bytes([byte]) for byte in data))
        for at in range(len(data)):  # and what lacks a byte is not
            given = pair.lane.given
            await pair.same(data[:at] + data[at + 1 :])
            await pair.same(data[:at] + data[at + 1 :] + data)
            assert pair.lane.given <= given + 2


async def test_what_is_not_known_goes_the_ordinary_way_with_all_behind_it(tmp_path: Path) -> None:
    async with paired(tmp_path) as pair:
        heads = Heads(pair.held, random.Random(3))
        known = heads.head(f"GET {heads.targets[0]} HTTP/1.1", ["Host: node.test"])
        other = heads.head("GET /v2/ HTTP/1.1", ["Host: node.test"])
        ends = heads.head(f"GET {heads.targets[0]} HTTP/1.1", ["Host: node.test", "Connection: close"])
        await pair.same(known)
        for stream in (
            known + other + known,
            known * (2 * TURN_REQUESTS + 3),
            known + ends + known,
            known + b"G" + known,
        ):
            given = pair.lane.given
            await pair.same(stream)
            assert pair.lane.given > given
        assert pair.lane.given == 2 + 2 * TURN_REQUESTS + 3 + 1 + 1


async def test_s53_facts_of_the_connection_are_part_of_the_request(tmp_path: Path) -> None:
    """A head that is known from one kind of connection is not from another."""
    near = msgspec.structs.replace(Configuration().login, client_addresses=("192.0.2.0/24",))
    for config, differs in ((None, False), (Configuration(anonymous="none", login=near), True)):
        async with paired(tmp_path / str(differs), config) as pair:
            head = Heads.head(
                f"GET /v2/a/manifests/{pair.held.put_manifest('a', MANIFEST)} HTTP/1.1", ["Host: a"]
            )
            assert b"200 OK" in await pair.same(head)
            wire = Wire(pair.learning)
            for name, value in (
                ("client", "198.51.100.1"),
                ("secure", True),
                ("certified", True),
                ("sni", "x.test"),
            ):
                exchange = wire.connection._exchange
                before = getattr(exchange, name)
                setattr(exchange, name, value)
                assert pair.learning.hits is not None
                facts = pair.learning.hits.facts(exchange)
                found = pair.lane.find(facts, head)
                assert (found is None) is (differs or name != "client"), name
                setattr(exchange, name, before)
            wire.end()


# --- what else an answer does ------------------------------------------------------------------------------


async def test_lines_counts_and_uses_are_those_of_the_ordinary_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[Any] = []
    monkeypatch.setattr(access_log, "write", lines.extend)
    async with paired(tmp_path) as pair:
        heads = Heads(pair.held, random.Random(4))
        sent = [heads.known() for _ in range(120)]
        told: list[tuple[tuple[str, str], ...]] = []
        logged: list[list[Any]] = []
        for server in (pair.learning, pair.plain):
            uses: list[tuple[str, str]] = []
            monkeypatch.setattr(pair.held.port, "seen", lambda *use, uses=uses: uses.append(use))
            wire = Wire(server)
            await wire.feed(*sent)
            wire.end()
            if server.hits is not None:
                server.hits.tell_uses()
                assert server.hits.lane.given > 50
                before = len(uses)
                server.hits.tell_uses()
                assert len(uses) == before, "each use is told once"
            server.flush_access()
            logged.append([msgspec.structs.replace(line, seconds=0.0) for line in lines])
            lines.clear()
            told.append(tuple(sorted(set(uses))))
        assert logged[0] == logged[1]
        assert len(logged[0]) == 120
        assert told[0] == told[1]
        assert told[0]
        assert pair.learning.statistics().answered == pair.plain.statistics().answered == 120
        level = log.least
        log.set_level("warning")
        try:
            await pair.same(sent[0])
            assert pair.learning._lines == []
        finally:
            log.least = level


async def test_uses_are_told_within_a_second_and_at_the_end(tmp_path: Path) -> None:
    async with paired(tmp_path) as pair:
        uses: list[tuple[str, str]] = []
        pair.held.port.seen = lambda *use: uses.append(use)  # type: ignore[method-assign]
        digest = pair.held.put_manifest("a", MANIFEST, "v1")
        head = Heads.head("GET /v2/a/manifests/v1 HTTP/1.1", ["Host: a"])
        await pair.same(head * 3)
        uses.clear()
        await pair.same(head * 3)
        assert uses == [("a", digest)] * 3, "the three of the ordinary way"
        pair.learning._sweep()
        assert uses == [("a", digest)] * 4
        await pair.same(head)
        pair.learning.begin_drain()
        assert uses == [("a", digest)] * 6


async def test_a_node_that_drains_ends_the_connection(tmp_path: Path) -> None:
    async with paired(tmp_path) as pair:
        pair.held.put_manifest("a", MANIFEST, "v1")
        head = Heads.head("GET /v2/a/manifests/v1 HTTP/1.1", ["Host: a"])
        await pair.same(head)
        wires = [Wire(server) for server in (pair.learning, pair.plain)]
        for wire in wires:
            await wire.feed(head[:9])
        for server in (pair.learning, pair.plain):
            server.begin_drain()
        answers = []
        for wire in wires:
            await wire.feed(head[9:])
            answers.append(wire.end())
        assert answers[0] == answers[1]
        assert b"Connection: close" in answers[0]


async def test_a_hit_of_the_lane_calls_little(tmp_path: Path) -> None:
    """Python calls of our own, which do not depend on the machine: a sixth of the ordinary way's."""
    async with paired(tmp_path) as pair:
        pair.held.put_manifest("a", MANIFEST, "v1")
        head = Heads.head("GET /v2/a/manifests/v1 HTTP/1.1", ["Host: a"])
        counts = []
        for server in (pair.learning, pair.plain):
            server.logs_access = False
            wire = Wire(server)
            await wire.feed(head, head)
            counts.append(calls(lambda wire=wire: wire.connection.data_received(head)))
            wire.end()
        assert counts[0] <= 12, counts
        assert counts[0] * 6 < counts[1], counts


def calls(work: Any) -> int:
    """How many Python functions `work` calls."""
    count = 0

    def event(frame: Any, kind: str, _: Any) -> None:
        nonlocal count
        count += kind == "call"

    sys.setprofile(event)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


# --- memory ------------------------------------------------------------------------------------------------

DATA = b"HTTP/1.1 200 OK\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\n\r\n"


def lane_of(limit: int, now: list[float] | None = None) -> HitLane:
    return HitLane(lambda: (0, 0, now[0] if now else 0.0), lambda _: True, dates, limit)


def dates(at: float) -> str:
    return formatdate(at, usegmt=True)


def answer(name: str, body: bytes = b"", since: float = 0.0, until: float = 9.0) -> RepeatedAnswer:
    head = f"GET /{name} HTTP/1.1\r\n\r\n".encode()
    return RepeatedAnswer(
        b"\0", head, DATA + body, snapshot=RowSnapshot("root"), moment=(0, 0, since), until=until
    )


def head_of(name: str) -> bytes:
    return f"GET /{name} HTTP/1.1\r\n\r\n".encode()


def test_memory_is_bounded_and_what_was_used_longest_ago_goes() -> None:
    one = answer("0", b"x" * 1000).size
    lane = lane_of(10 * one)
    for n in range(10):
        lane.learn(answer(str(n), b"x" * 1000))
    assert (len(lane), lane.size) == (10, 10 * one)
    assert lane.find(b"\0", head_of("0")) is not None
    lane.learn(answer("a", b"x" * 1000))
    assert (len(lane), lane.size) == (10, 10 * one)
    assert lane.find(b"\0", head_of("1")) is None, "the one that was used longest ago"
    assert lane.find(b"\0", head_of("0")) is not None
    lane.learn(answer("0", b"x" * 1000))
    assert (len(lane), lane.size) == (10, 10 * one), "in place of the former one"
    lane.learn(answer("b", b"x" * 20 * one))
    assert (len(lane), lane.size) == (0, 0), "one that is too large leaves nothing, and its size is not lost"


def test_an_answer_is_right_from_when_it_was_given_until_it_ends() -> None:
    now = [5.0]
    for moment, is_right in ((4.9, False), (5.0, True), (6.9, True), (7.0, False)):
        lane = lane_of(1 << 20, now)
        lane.learn(answer("0", since=5.0, until=7.0))
        now[0] = moment
        assert (lane.find(b"\0", head_of("0")) is not None) is is_right
        assert len(lane) == is_right


def test_the_date_is_that_of_the_moment() -> None:
    now = [1.0]
    lane = lane_of(1 << 20, now)
    lane.learn(answer("0", b"body with\r\nDate: in it", until=1e9))
    for moment, second in ((1.0, b"01"), (1.9, b"01"), (2.0, b"02"), (59.0, b"59")):
        now[0] = moment
        found = lane.find(b"\0", head_of("0"))
        assert found is not None
        assert found.data == DATA.replace(b"00 GMT", second + b" GMT") + b"body with\r\nDate: in it"


async def test_large_answers_and_those_of_long_heads_are_not_learned(tmp_path: Path) -> None:
    config = Configuration(inline_bytes=1 << 16)
    async with paired(tmp_path, config) as pair:
        body = b'{"schemaVersion":2}'.ljust(40_000)
        pair.held.put_manifest("a", body, "v1")
        pair.held.put_manifest("a", MANIFEST, "v2")
        assert len(body) < LARGEST_ANSWER
        for target, line, learned in (
            ("v1", "X: y", 1),
            ("v2", "X: " + "y" * 8000, 2),
            ("v2", "X: " + "y" * 8200, 2),
        ):
            head = Heads.head(f"GET /v2/a/manifests/{target} HTTP/1.1", ["Host: a", line])
            await pair.same(head)
            await pair.same(head)
            assert len(pair.lane) == learned


async def test_an_answer_is_learned_when_it_is_asked_for_the_second_time(tmp_path: Path) -> None:
    async with serving(tmp_path) as node:
        node.put_manifest("a", MANIFEST, "v1")
        assert node.server.hits is not None
        client = await node.connect()
        for learned, given in ((0, 0), (1, 0), (1, 1), (1, 2)):
            assert (await client.ask("/v2/a/manifests/v1")).body == MANIFEST
            assert (len(node.server.hits.lane), node.server.hits.lane.given) == (learned, given)


def test_the_heads_that_were_seen_once_are_bounded() -> None:
    from holdfast.server import hits as module

    node = cast(
        Any,
        type(
            "Node",
            (),
            {
                "store": type("Store", (), {"repeated_reads": type("R", (), {"is_same": None})}),
                "router": None,
                "clock": None,
            },
        ),
    )
    known = Hits(node, dates)
    from holdfast.wire.message import Request
    from holdfast.wire.routes import Noun, Route

    request = Request("GET", "/", route=Route(Noun.BLOB))
    for n in range(3 * module.SEEN_ONCE):
        assert known.lesson(b"\0", b"%d" % n, request) is None
        assert len(known._seen_once) <= module.SEEN_ONCE


# --- the connection ----------------------------------------------------------------------------------------


@asynccontextmanager
async def known_head(place: Path) -> AsyncIterator[tuple[Pair, bytes]]:
    """A pair, and a head that the lane knows."""
    async with paired(place) as pair:
        pair.held.put_manifest("a", MANIFEST, "v1")
        head = Heads.head("GET /v2/a/manifests/v1 HTTP/1.1", ["Host: a"])
        await pair.same(head, head)
        assert pair.lane.given == 1
        yield pair, head


async def test_an_answer_that_ends_its_connection_is_not_learned(tmp_path: Path) -> None:
    async with known_head(tmp_path) as (pair, head):
        close = head.replace(b"Host: a", b"Host: a\r\nConnection: close")
        for ends in (close, head.replace(b"HTTP/1.1", b"HTTP/1.0")):
            for _ in range(3):
                assert (await pair.same(ends)).endswith(MANIFEST + b"<ended>")
        assert (pair.lane.given, len(pair.lane)) == (1, 1)


async def test_an_answer_of_another_dispatch_is_not_learned(tmp_path: Path) -> None:
    """Only what an endpoint says to be a hit is one."""
    async with known_head(tmp_path) as (pair, head):
        pair.learning.dispatch = pair.plain.dispatch = lambda *_: Reply(200, [], b"mine")
        for _ in range(3):
            assert (await pair.same(head.replace(b"v1", b"v2"))).endswith(b"mine")
        assert len(pair.lane) == 1


async def test_what_waits_for_its_turn_is_answered_first(tmp_path: Path) -> None:
    async with known_head(tmp_path) as (pair, head):
        other = head.replace(b"/v2/a/manifests/v1", b"/v2/")
        answers = []
        for server in (pair.learning, pair.plain):
            wire = Wire(server)
            wire.connection.data_received(other * (TURN_REQUESTS + 2))
            wire.connection.data_received(head)
            await wire.feed()
            answers.append(wire.end())
        assert answers[0] == answers[1]
        assert answers[0].endswith(MANIFEST)


async def test_a_client_that_does_not_read_gets_no_more_answers(tmp_path: Path) -> None:
    async with known_head(tmp_path) as (pair, head):
        wire = Wire(pair.learning)
        wire.connection.pause_writing()
        for _ in range(3):
            wire.connection.data_received(head)
        pair.learning.flush()
        assert wire.transport.written == b""
        wire.connection.resume_writing()
        pair.learning.flush()
        assert bytes(wire.transport.written).count(MANIFEST) == 3
        wire.end()


async def test_who_speaks_plain_http_where_tls_is_spoken_gets_no_answer_of_the_lane(tmp_path: Path) -> None:
    async with known_head(tmp_path) as (pair, head):
        wire = Wire(pair.learning)
        wire.connection = ClientConnection(pair.learning, misled=True)
        wire.connection.connection_made(wire.transport)
        await wire.feed(head)
        assert wire.end().startswith(b"HTTP/1.1 400 ")


async def test_a_hit_winds_the_clocks_up(tmp_path: Path) -> None:
    """That of an idle connection, and that of the next head, of which a part has come."""
    async with known_head(tmp_path) as (pair, head):
        wire = Wire(pair.learning)
        for pieces in ((head,), (head[:5], head[5:] + head[:3])):
            for piece in pieces:
                wire.connection._deadline = -1.0
                await wire.feed(piece)
            assert wire.connection._deadline > 0, pieces
        assert pair.lane.given == 3
        wire.end()


async def test_what_the_lane_gave_stays_counted_when_it_ends(tmp_path: Path) -> None:
    async with known_head(tmp_path) as (pair, _):
        assert pair.learning.statistics().answered == 2
        pair.learning.begin_drain()
        assert pair.learning.statistics().answered == 2
