"""What one connected registry below may ask for: its flood costs itself, and no other is held up by it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

import msgspec
from holdfast.gateway.agent_state import Outcome
from holdfast.gateway.gateway_client import GatewayAnswer as LinkAnswer
from holdfast.gateway.gateway_client import GatewayClient, NoticesRefused, meaning_for_notices
from holdfast.gateway.protocol import Notices, Taken
from holdfast.gateway.rates import (
    KEPT,
    NOTICES,
    PATIENCE_SECONDS,
    PROCESS_RATES,
    QUESTIONS,
    REPORTS,
    BucketRate,
    Rates,
    node_rates,
)
from holdfast.notify.notices import NoticeSender
from holdfast.resources.model import NOTICES as TAKEN
from holdfast.resources.model import STATUS
from hypothesis import given
from hypothesis import strategies as st
from notify.test_notices_endpoint import LOG, event
from notify.test_upward import World, all_of
from support.gateway import BASE, FIRST, Tree, refused, tree
from support.serving import Answer

OTHER = "/acr/gateway/v1/plantc"


def test_a_bucket_is_full_at_first_and_fills_evenly() -> None:
    rates = Rates({"reports": BucketRate(burst=10, second=2, least=1)})
    rates.spend("plantA", "reports", 10, 100.0)
    assert rates.wait("plantA", "reports", 100.0) == 0
    rates.spend("plantA", "reports", 0, 100.0)
    assert rates.wait("PLANTa", "reports", 100.0) == 0.5
    assert rates.wait("plantA", "reports", 100.5) == 0
    assert rates.wait("plantB", "reports", 100.0) == 0
    rates.spend("plantA", "reports", 10, 1e9)
    assert rates.wait("plantA", "reports", 1e9) == 0


def test_a_clock_that_stands_still_or_goes_back_gives_nothing() -> None:
    rates = Rates({"reports": BucketRate(burst=10, second=2)})
    rates.spend("plantA", "reports", 30, 100.0)
    assert rates.wait("plantA", "reports", 50.0) == 10.0


@given(st.lists(st.tuples(st.floats(0, 50), st.floats(0, 100)), max_size=50))
def test_who_waits_his_turn_spends_no_more_than_there_is(requests: list[tuple[float, float]]) -> None:
    rate, now, spent, largest = BucketRate(burst=40, second=2, least=1), 0.0, 0.0, 1.0
    rates = Rates({"reports": rate})
    for cost, pause in requests:
        now += pause
        now += rates.wait("plantA", "reports", now)
        rates.spend("plantA", "reports", cost, now)
        spent, largest = spent + max(cost, 1), max(largest, cost)
        assert spent <= rate.burst + rate.second * now + largest + 1e-6


async def flood(root: Tree, path: str, bodies: list[bytes], method: str = "PUT") -> list[Answer]:
    """Requests of plantA, one after the other, as fast as they are answered."""
    answers = []
    for body in bodies:
        asked = asyncio.ensure_future(root.ask(method, f"{BASE}/{path}", msgspec.Raw(body)))
        while not asked.done():
            await asyncio.sleep(0.002)
            if root.held.clock.sleepers:  # what is held back has its turn
                root.held.clock.advance(0.02)
        answers.append(await asked)
    return answers


def journal_bytes(root: Tree) -> int:
    """What the store has written down."""
    place = Path(root.held.store.path) / "journal"
    return sum(file.stat().st_size for file in place.rglob("*") if file.is_file())


def report_of(generation: int, number: int, size: int) -> bytes:
    """A report as long as that; what it says is new each time."""
    below = {"plantB": {"version": f"{number}", "statusDetails": [detail(number, at) for at in range(99)]}}
    said = {"instance": "first", "generation": generation, "version": f"v{number}", "below": below}
    rest = size - len(msgspec.json.encode(said))
    return msgspec.json.encode({**said, "lastSyncTime": "t" * max(1, rest - 20)})


def detail(number: int, at: int) -> dict[str, str]:
    """A trouble with a text of its own."""
    return {"type": f"{number}", "code": f"{at}", "description": f"{number}-{at}" * 100}


async def honest(root: Tree) -> None:
    """plantC says where it stands, tells of a push, and asks what changed: each is answered at once."""
    answer = await root.ask("POST", f"{OTHER}/activate", FIRST, "plantC")
    assert answer.status == 200, answer
    generation = msgspec.json.decode(answer.body)["generation"]
    status = {"instance": "first", "generation": generation, "version": "9"}
    assert (await root.ask("PUT", f"{OTHER}/status", status, "plantC")).status == 200
    assert root.held.node.access.catalogue.status("plantC").version == "9"
    said = {
        "instance": "first",
        "generation": generation,
        "log": LOG,
        "notices": [event(1, "plantC")],
    }
    assert (await root.ask("POST", f"{OTHER}/messages", said, "plantC")).status == 200
    for question in ("messages", "contents", "config"):
        assert (await root.ask("GET", f"{OTHER}/{question}", user="plantC")).status == 200, question


async def test_case_trust_20_a_flood_of_reports_costs_its_child_alone(tmp_path: Path) -> None:
    async with tree(tmp_path) as root:
        await root.registry("plantC")
        generation = await root.activate()
        before, began = journal_bytes(root), root.held.clock.monotonic()
        answers = await flood(root, "status", [report_of(generation, at, 3_700_000) for at in range(8)])
        taken = [answer for answer in answers if answer.status == 200]
        late = [answer for answer in answers if answer.status == 429]
        assert (len(taken), len(late)) == (2, 6)
        assert "plantA: too many reports; the next one is taken in" in refused(late[0])
        assert 40 <= int(late[0].headers["retry-after"]) <= 60
        # none of their bodies was read meanwhile
        assert root.held.clock.monotonic() - began >= len(late) * PATIENCE_SECONDS
        assert journal_bytes(root) - before < 200_000
        await honest(root)
        root.held.clock.advance(int(late[-1].headers["retry-after"]))
        (answer,) = await flood(root, "status", [report_of(generation, 99, 1)])
        assert answer.status == 200
        assert root.held.node.access.catalogue.status("plantA").version == "v99"


async def test_case_trust_20_what_is_written_is_counted_once_for_all_workers(tmp_path: Path) -> None:
    """As many workers as there are requests: each has seen nothing of what the others took."""
    async with tree(tmp_path) as root:
        await root.registry("plantC")
        generation = await root.activate()
        endless = BucketRate(1e12, 1e12)
        root.held.node.shares = Rates(dict.fromkeys(PROCESS_RATES, endless))
        least = PROCESS_RATES[REPORTS].least
        root.held.port.control_plane.rates = Rates(
            {**node_rates(1000), REPORTS: BucketRate(10 * least, 1, least), NOTICES: BucketRate(20_000, 1)}
        )
        reports = [report_of(generation, at, int(least)) for at in range(20)]
        told = [order(generation, range(at, at + 5)) for at in range(1, 501, 5)]
        for path, bodies, method, most in (("status", reports, "PUT", 11), ("messages", told, "POST", 13)):
            answers = await flood(root, path, bodies, method)
            late = [answer for answer in answers if answer.status == 429]
            assert len(bodies) - len(late) == most, path
            assert answers[-1] == late[-1], path
            assert "plantA: too many" in refused(late[0])
            await honest(root)


async def test_case_trust_20_small_reports_have_a_rate_too(tmp_path: Path) -> None:
    async with tree(tmp_path) as root:
        await root.registry("plantC")
        generation = await root.activate()
        began, least = root.held.clock.monotonic(), PROCESS_RATES[REPORTS].least
        root.held.node.shares = Rates({**PROCESS_RATES, REPORTS: BucketRate(10 * least, least, least)})
        said = [{"instance": "first", "generation": generation, "version": f"v{at}"} for at in range(20)]
        answers = await flood(root, "status", [msgspec.json.encode(one) for one in said])
        passed = root.held.clock.monotonic() - began
        assert 10 < [answer.status for answer in answers].count(200) <= 12 + passed
        await honest(root)


async def test_case_trust_20_a_request_costs_the_least_once(tmp_path: Path) -> None:
    """It is taken before the body is read, and is part of what the body costs."""
    async with tree(tmp_path) as root:
        generation = await root.activate()
        clock, least = root.held.clock, PROCESS_RATES[REPORTS].least
        for body in (report_of(generation, 1, 1), report_of(generation, 2, int(1.5 * least))):
            shares = root.held.node.shares = Rates(
                {**PROCESS_RATES, REPORTS: BucketRate(3 * least, 1.0, least)}
            )
            assert (await flood(root, "status", [body]))[0].status == 200
            shares.take("plantA", REPORTS, 3 * least - max(least, len(body)), clock.monotonic())
            assert shares.wait("plantA", REPORTS, clock.monotonic()) == 0
            shares.take("plantA", REPORTS, 1000.0, clock.monotonic())
            assert shares.wait("plantA", REPORTS, clock.monotonic()) > 0


async def test_case_trust_20_a_report_that_says_nothing_new_is_not_written_again(tmp_path: Path) -> None:
    async with tree(tmp_path) as root:
        generation = await root.activate()
        body = report_of(generation, 1, 1)
        assert (await flood(root, "status", [body]))[0].status == 200
        before, held = journal_bytes(root), root.held.store.documents.get(STATUS, "plantA")
        for _ in range(20):
            root.held.clock.advance(1.0)
            assert (await flood(root, "status", [body]))[0].status == 200
        assert journal_bytes(root) == before
        assert root.held.store.documents.get(STATUS, "plantA") == held


async def test_case_trust_20_a_flood_of_notices_pushes_no_other_cursor_out(tmp_path: Path) -> None:
    async with tree(tmp_path) as root:
        await root.registry("plantC")
        keep = 1000
        root.held.port.control_plane.rates = Rates(node_rates(keep))
        generation = await root.activate()
        began = msgspec.json.decode((await root.ask("GET", f"{OTHER}/messages", user="plantC")).body)
        orders = [order(generation, range(at, at + 50)) for at in range(1, 4000, 50)]
        answers = await flood(root, "messages", orders, "POST")
        late = [answer for answer in answers if answer.status == 429]
        assert "plantA has told a tenth of gateway.messages" in refused(late[0])
        assert int(late[0].headers["retry-after"]) == 60
        kept = len(root.held.store.events.after(0, 5000))
        assert kept <= keep / 10 + 50
        assert root.held.store.events.trim(before=0.0, keep=keep).result() == 0
        place = f"{OTHER}/messages?after={began['cursor']}"
        assert (await root.ask("GET", place, user="plantC")).status == 200
        await honest(root)
        assert len(root.held.store.events.after(0, 5000)) == kept + 1
        for _ in range(100):  # each hour some are taken, in order; none is lost
            root.held.clock.advance(3600.0)
            number = taken(root)
            (answer,) = await flood(
                root, "messages", [order(generation, range(number + 1, number + 5))], "POST"
            )
            assert (answer.status, taken(root)) in ((200, number + 4), (429, number))
        told = [row.tag for row in root.held.store.events.after(0, 5000) if row.registry == "plantA"]
        assert told == [f"v{at}" for at in range(1, len(told) + 1)]
        assert len(told) > kept + 200


def order(generation: int, numbers: range) -> bytes:
    """Notices of plantA."""
    notices = [event(number) for number in numbers]
    return msgspec.json.encode(
        {"instance": "first", "generation": generation, "log": LOG, "notices": notices}
    )


def taken(root: Tree) -> int:
    """Up to which number plantA's are taken."""
    held = root.held.store.documents.get(TAKEN, "plantA")
    return 0 if held is None else int(msgspec.json.decode(held.body)["number"])


async def test_case_trust_20_notices_have_a_rate_whatever_becomes_of_them(tmp_path: Path) -> None:
    async with tree(tmp_path) as root:
        await root.registry("plantC")
        generation = await root.activate()
        again = order(generation, range(1, 401))  # taken once, passed over from then on
        began, rate = root.held.clock.monotonic(), BucketRate(4 * len(again), 256 << 10)
        root.held.node.shares = Rates({**PROCESS_RATES, NOTICES: rate})
        answers = await flood(root, "messages", [again] * 20, "POST")
        passed = root.held.clock.monotonic() - began
        sent = [answer.status for answer in answers].count(200) * len(again)
        assert 4 * len(again) < sent <= rate.burst + rate.second * passed + len(again)
        assert len(root.held.store.events.after(0, 5000)) == 400
        await honest(root)


async def test_case_trust_20_questions_have_a_rate(tmp_path: Path) -> None:
    async with tree(tmp_path) as root:
        await root.registry("plantC")
        generation = await root.activate()
        sought = [{"repository": "team/app", "tags": [f"v{at}" for at in range(1000)]}]
        inquiry = {"instance": "first", "generation": generation, "sought": sought}
        questions: list[tuple[str, str, Any, int]] = [
            ("GET", "messages", None, 20),
            ("GET", "contents", None, 2),
            ("GET", "config", None, 20),
            ("POST", "exists", inquiry, 1),
        ]
        for method, what, body, most in questions:
            root.held.node.shares = Rates({**PROCESS_RATES, QUESTIONS: BucketRate(3000, 1, 150)})
            answers = [
                await root.pass_time(asyncio.ensure_future(root.ask(method, f"{BASE}/{what}", body)))
                for _ in range(30)
            ]
            answer = answers[-1]
            assert (answer.status, answer.headers.get("retry-after", "") != "") == (429, True), what
            assert 1 <= [one.status for one in answers].count(200) <= most + 1, what
            assert "plantA: too many questions" in refused(answer)
            await honest(root)


async def test_case_trust_20_who_asks_one_thing_at_a_time_is_held_back_and_not_refused(
    tmp_path: Path,
) -> None:
    async with tree(tmp_path) as root:
        root.held.node.shares = Rates({**PROCESS_RATES, QUESTIONS: BucketRate(0, 100, 150)})
        for _ in range(2):  # the bucket goes below nothing by the first one
            asked = asyncio.ensure_future(root.ask("GET", f"{BASE}/config"))
            answer = await root.pass_time(asked)
            assert answer.status == 200
        assert 0 < max(root.held.clock.slept) <= 2.0


class Asked:
    """The link of plantA's node, over the requests of a test; it reads answers as the real one does."""

    def __init__(self, root: Tree) -> None:
        self.root, self.statuses = root, list[int]()

    async def notices(self, said: Notices) -> Taken | NoticesRefused | Outcome:
        found = await self.root.ask("POST", f"{BASE}/messages", said)
        self.statuses.append(found.status)
        if found.status == 200:
            return msgspec.json.decode(found.body, type=Taken)
        return meaning_for_notices(
            LinkAnswer(found.status, "", float(found.headers["retry-after"]), found.body)
        )


async def test_case_trust_20_a_child_of_ours_waits_and_loses_nothing(tmp_path: Path) -> None:
    async with tree(tmp_path) as root:
        root.held.port.control_plane.rates = Rates(node_rates(1000))
        generation, link = await root.activate(), Asked(root)
        own, clock = World(tmp_path / "child"), root.held.clock
        upward = NoticeSender(
            own.store, "plantA", cast(GatewayClient, link), lambda: ("first", generation), clock
        )
        await all_of(upward)
        tags = [f"v{at}" for at in range(450)]
        own.push(*tags)
        for _ in range(24 * 400):
            await all_of(upward)
            if not upward.notes():
                break
            assert "plantA has told a tenth of gateway.messages" in upward.notes()[0]
            clock.advance(900.0)
        own.store.close()
        assert [row.tag for row in root.held.store.events.after(0, 5000)] == tags
        assert link.statuses.count(200) == 3
        assert len(link.statuses) < 24 * 4 * 5


def test_a_tenth_of_the_log_is_for_one_child() -> None:
    assert node_rates(1_000_000)[KEPT] == BucketRate(100_000, 100_000 / 86_400)
