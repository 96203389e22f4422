"""What a connected registry fetches by its parent's log, counted at the parent."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from holdfast.gateway.agent_state import NoAnswer
from holdfast.gateway.gateway_client import Trimmed, Unlogged
from holdfast.keeper.keeper import Keeper
from holdfast.resources.model import ConnectedRegistry, ParentProperties, SyncProperties
from holdfast.sync.run_record import read_record
from holdfast.testing.fault import RequestGate, ScriptedFault
from holdfast.testing.manual_clock import FakeClock
from holdfast.testing.random_content import GeneratedContent
from holdfast.testing.scripted_parent import ScriptedParent
from holdfast_core.changes import outbox_rows as rows
from holdfast_core.changes.change import IndexChange, IndexView
from holdfast_core.digest import Digest
from holdfast_core.record import LockTarget
from msgspec.structs import replace
from support.fills import MIB, until
from support.managed import ScriptedLog, configured, managed, receive
from support.replicas import advance, holds, idle, replica_of, synchronised

pytestmark = pytest.mark.loop("asyncio")

APP = configured("app")
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
EMPTY_INDEX = b'{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}'
#: nothing goes up
STILL = {"caps": [{"mbit": 0, "work": "push"}]}


def state_of(keeper: Keeper) -> str:
    """Of the last full synchronisation."""
    return replica_of(keeper).record.result.sync_state


async def first(keeper: Keeper, trigger: str = "InitialSync") -> None:
    """Until a full synchronisation for this reason is over."""

    def is_over() -> bool:
        result = replica_of(keeper).record.result
        return result.sync_trigger == trigger and result.sync_state in ("Succeeded", "Failed")

    await until(is_over)
    await idle(keeper)


async def test_the_scope_comes_first_and_every_push_after_it(tmp_path: Path) -> None:
    async with ScriptedParent() as parent:
        log = ScriptedLog(parent)
        one, other = log.push("app", "1", b"one"), log.push("other", "1", b"not in the scope")
        async with managed(tmp_path, log, APP) as keeper:
            await first(keeper)
            assert state_of(keeper) == "Succeeded"
            assert holds(keeper, "app", "1", one)
            two = log.push("app", "2", b"two")
            await until(lambda: holds(keeper, "app", "2", two))
            log.push("other", "2", b"nor this")
            log.untag("app", "1")
            await until(lambda: keeper.store.references.tags("app") == ["2"])
            await idle(keeper)
            assert not keeper.store.references.tags("other")
            assert parent.count("HEAD", "/manifests/") == 0
            assert not any(other in path for _, path in parent.requests)
            await until(lambda: replica_of(keeper).record.cursor == log.head)


async def test_an_index_comes_with_its_children_and_referrers(tmp_path: Path) -> None:
    """Listed by digest, or a message with a digest, as for manifests without a tag."""
    async with ScriptedParent() as parent:
        log = ScriptedLog(parent)
        sample = parent.add_sample("app", "1.0")
        async with managed(tmp_path, log, APP) as keeper:
            await first(keeper)
            assert state_of(keeper) == "Succeeded"
            assert holds(keeper, "app", "1.0", sample.index)
            for digest in (*sample.images.values(), sample.artifact):
                assert keeper.store.references.is_there("app", LockTarget("manifest", digest))
            later = log.push("app", "", b"a manifest without a tag")
            await until(lambda: keeper.store.references.is_there("app", LockTarget("manifest", later)))
            log.note("delete", "manifest", "app", digest=later)
            await until(lambda: not keeper.store.references.is_there("app", LockTarget("manifest", later)))
            assert parent.count("GET", "/referrers/") == 0


async def test_what_is_unchanged_costs_no_request_a_tag(tmp_path: Path) -> None:
    tags = 1000
    async with ScriptedParent() as parent:
        log = ScriptedLog(parent)
        digests = {f"1.0.{n}": log.push("app", f"1.0.{n}") for n in range(tags)}
        async with managed(tmp_path, log, APP) as keeper:
            await first(keeper)
            assert all(holds(keeper, "app", tag, digest) for tag, digest in digests.items())
            parent.reset_counts()
            for tag, digest in digests.items():
                log.note("push", "tag", "app", tag, digest)
            await until(lambda: replica_of(keeper).record.cursor == log.head)
            await receive(keeper, configured("app", resync="2026-11-27T00:00:00Z"))
            await first(keeper, "ManualResync")
            assert replica_of(keeper).status().up_to_date == tags
            assert sum(parent.requests.values()) == 0


async def test_many_moves_of_a_tag_cost_one(tmp_path: Path) -> None:
    async with ScriptedParent() as parent:
        log = ScriptedLog(parent)
        async with managed(tmp_path, log, APP) as keeper:
            await first(keeper)
            digests = [log.push("app", "latest", str(n).encode()) for n in range(50)]
            await until(lambda: holds(keeper, "app", "latest", digests[-1]))
            assert parent.count("GET", "/manifests/") == 1


async def test_a_kill_loses_nothing_and_costs_nothing_twice(tmp_path: Path) -> None:
    async with ScriptedParent() as parent:
        log, layer = ScriptedLog(parent), GeneratedContent(16 * MIB)
        async with managed(tmp_path, log, APP) as keeper:
            await first(keeper)
            parent.script(ScriptedFault(method="GET", path=layer.digest, stall_after=6 * MIB, times=1))
            large = log.push("app", "large", layer)

            def came() -> int:
                progress = replica_of(keeper).status().progress
                return 0 if progress is None else progress.bytes_done

            await until(lambda: came() >= 6 * MIB)
            small = log.push("app", "small", b"does not wait for it")
            await until(lambda: holds(keeper, "app", "small", small))
            assert replica_of(keeper).record.cursor != log.head
        assert recall_cursor(tmp_path, log) != log.head
        async with managed(tmp_path, log) as keeper:
            await until(lambda: holds(keeper, "app", "large", large))
            await until(lambda: replica_of(keeper).record.cursor == log.head)
        assert parent.bytes_sent[layer.digest] <= layer.size + MIB
        assert log.asked["contents"] == 1


def recall_cursor(place: Path, log: ScriptedLog) -> str:
    from holdfast_core.store import Store

    store = Store.create_or_open(place / "store", write=False)
    try:
        return read_record(store).cursor
    finally:
        store.close()


async def test_one_that_fails_stops_nothing_and_is_tried_again(tmp_path: Path) -> None:
    async with ScriptedParent() as parent:
        log = ScriptedLog(parent)
        async with managed(tmp_path, log, APP) as keeper:
            await first(keeper)
            refused = ScriptedFault(path=str(Digest.of(b"refused")), status=403, times=-1)
            parent.script(refused)
            log.push("app", "bad", b"refused")
            good = log.push("app", "good", b"good")
            await until(lambda: holds(keeper, "app", "good", good))
            await until(lambda: replica_of(keeper).record.cursor == log.head)
            (trouble,) = replica_of(keeper).status().troubles
            assert replica_of(keeper).status().incomplete == 1
            assert (trouble.image, trouble.kind) == ("app:bad", "denied")
            better = log.push("app", "bad", b"another that may be read")
            await until(lambda: holds(keeper, "app", "bad", better))
            await idle(keeper)
            assert replica_of(keeper).status().troubles == ()
            assert replica_of(keeper).status().incomplete == 0


async def test_a_scope_that_changes_is_synchronised_anew(tmp_path: Path) -> None:
    async with ScriptedParent() as parent:
        log = ScriptedLog(parent)
        deep = log.push("team/a/b", "1", b"deep")
        async with managed(tmp_path, log, APP) as keeper:
            await first(keeper)
            assert keeper.store.references.tags("team/a/b") == []
            await receive(keeper, configured("app", "team/*"))
            await first(keeper, "SyncTokenUpdate")
            assert holds(keeper, "team/a/b", "1", deep)


async def test_a_log_that_was_trimmed_is_listed_anew(tmp_path: Path) -> None:
    async with ScriptedParent() as parent:
        log = ScriptedLog(parent)
        log.push("app", "1", b"one")
        async with managed(tmp_path, log, APP) as keeper:
            await first(keeper)
        two = log.push("app", "2", b"two")
        log.trim()
        async with managed(tmp_path, log) as keeper:
            await first(keeper, "RecoveryService")
            assert holds(keeper, "app", "2", two)
            three = log.push("app", "3", b"three")
            await until(lambda: holds(keeper, "app", "3", three))


async def test_what_a_node_in_the_middle_brings_is_told_below_once_it_is_whole(tmp_path: Path) -> None:
    """Its own log has an image by its tag alone, once all that the tag needs is here."""
    above = ParentProperties(sync_properties=SyncProperties(token_id="/tokens/below"), id="plant")
    configuration = replace(APP, below=(ConnectedRegistry(name="below", mode="ReadOnly", parent=above),))
    async with ScriptedParent() as parent:
        log = ScriptedLog(parent)
        one = log.push("app", "1", b"one")
        async with managed(tmp_path, log, configuration) as keeper:
            await until(lambda: keeper.store.events.head() is not None)
            await first(keeper)
            two = log.push("app", "2", b"two")
            await until(lambda: holds(keeper, "app", "2", two))
            await idle(keeper)
            events = [(event.kind, event.tag, event.digest) for event in keeper.store.events.after(0, 100)]
            assert [event for event in events if event[2] != one] == [("tag", "2", two)]
            assert {event.origin for event in keeper.store.events.after(0, 100)} == {"parent"}
            assert holds(keeper, "app", "1", one)


async def resync(keeper: Keeper, wish: str) -> None:
    """A full synchronisation that the operator wishes."""
    await receive(keeper, configured("app", resync=wish))
    await until(lambda: replica_of(keeper).record.resync == wish)
    await first(keeper, "ManualResync")


@pytest.mark.parametrize("complete", [True, False])
async def test_what_a_parent_that_lacks_some_itself_does_not_list_stays(
    complete: bool, tmp_path: Path
) -> None:
    """As after the parent lost its disk. One that has everything is believed after two listings."""
    async with ScriptedParent() as parent:
        log = ScriptedLog(parent)
        log.push("app", "1", b"one")
        two = log.push("app", "2", b"two")
        sync = {"on_parent_delete": "remove"}
        async with managed(tmp_path, log, APP, sync=sync) as keeper:
            await first(keeper)
            del parent.repository("app").tags["2"]
            log.complete = complete
            for wish in ("2026-11-26T22:00:00Z", "2026-11-26T23:00:00Z"):
                await resync(keeper, wish)
            assert holds(keeper, "app", "2", two) != complete
            remarks = " ".join(replica_of(keeper).status().words)
            assert ("is not complete itself" in remarks) != complete


async def test_a_parent_without_a_log_is_polled(tmp_path: Path) -> None:
    async with ScriptedParent() as parent:
        log = ScriptedLog(parent)
        log.answers = [Unlogged()]
        one = log.push("app", "1", b"one")
        clock = FakeClock(jump=False)
        async with managed(tmp_path, log, APP, clock=clock) as keeper:
            await advance(clock, 120.0, lambda: holds(keeper, "app", "1", one))
            await advance(clock, 120.0, lambda: not replica_of(keeper).record.state.running)
            two = log.push("app", "2", b"two")
            await advance(clock, 180.0, lambda: holds(keeper, "app", "2", two))
            assert log.asked["messages"] == 0


async def test_rows_of_the_file_narrow_what_the_scope_has(tmp_path: Path) -> None:
    async with ScriptedParent() as parent:
        log = ScriptedLog(parent)
        log.push("app", "1.0.0", b"one")
        two = log.push("app", "2.0.0", b"two")
        rows = {"name": "app", "semver": ">=2", "newest": 1}, {"name": "elsewhere"}
        async with managed(tmp_path, log, APP, *rows) as keeper:
            await first(keeper)
            assert keeper.store.references.tags("app") == ["2.0.0"]
            assert (
                "elsewhere: this rule is for no repository of the scope"
                in replica_of(keeper).status().words[0]
            )
            log.push("app", "1.5.0", b"too old")
            three = log.push("app", "3.0.0", b"three")
            await until(lambda: holds(keeper, "app", "3.0.0", three))
            await idle(keeper)
            assert keeper.store.references.tags("app") == ["2.0.0", "3.0.0"]
            assert holds(keeper, "app", "2.0.0", two)


async def test_outside_its_window_it_asks_for_nothing(tmp_path: Path) -> None:
    configuration = configured("app", schedule="0 22 * * *", sync_window="PT1H", message_ttl="P9D")
    ten = 20834 * 86400.0 + 22 * 3600.0
    clock = FakeClock(ten + 600, jump=False)
    async with ScriptedParent() as parent:
        log = ScriptedLog(parent)
        one = log.push("app", "1", b"one")
        async with managed(tmp_path, log, configuration, clock=clock) as keeper:
            await advance(clock, 600.0, lambda: holds(keeper, "app", "1", one))
            two = log.push("app", "2", b"two")
            await advance(clock, 600.0, lambda: holds(keeper, "app", "2", two))
            await advance(clock, 7200.0, lambda: clock.now() > ten + 4200, 60.0)
            queries, requests = sum(log.asked.values()), parent.count()
            three = log.push("app", "3", b"three")
            await advance(clock, 86400.0, lambda: clock.now() > ten + 86000, 600.0)
            assert (sum(log.asked.values()), parent.count()) == (queries, requests)
            await advance(clock, 1800.0, lambda: holds(keeper, "app", "3", three), 10.0)


async def test_a_full_run_that_outlasts_the_messages_has_timed_out_and_goes_on(tmp_path: Path) -> None:
    configuration = configured("app", schedule="0 22 * * *", sync_window="PT1H", message_ttl="P1D")
    ten = 20834 * 86400.0 + 22 * 3600.0
    clock = FakeClock(ten + 600, jump=False)
    async with ScriptedParent() as parent:
        log, layer = ScriptedLog(parent), GeneratedContent(4 * MIB)
        digest = log.push("app", "1", layer)
        parent.script(ScriptedFault(method="GET", path=layer.digest, stall_after=MIB, times=-1))
        async with managed(tmp_path, log, configuration, clock=clock) as keeper:
            await until(lambda: parent.bytes_sent.get(layer.digest, 0) >= MIB)
            await advance(clock, 7200.0, lambda: not replica_of(keeper).record.state.running, 60.0)
            assert (state_of(keeper), replica_of(keeper).record.state.requested) == ("Syncing", "InitialSync")
            await advance(clock, 2 * 86400.0, lambda: state_of(keeper) == "TimedOut", 600.0)
            parent.faults.clear()
            await advance(clock, 2 * 86400.0, lambda: state_of(keeper) == "Succeeded", 60.0)
            assert holds(keeper, "app", "1", digest)
            assert replica_of(keeper).record.result.sync_trigger == "InitialSync"


NONSENSE = [
    {"kind": "tag", "repository": "other.example:app", "tag": "1", "digest": f"sha256:{'0' * 64}"},
    {"kind": "tag", "repository": "../app", "tag": "1", "digest": f"sha256:{'0' * 64}"},
    {"kind": "tag", "repository": "app", "tag": "a/b", "digest": f"sha256:{'0' * 64}"},
    {"kind": "tag", "repository": "app", "tag": "1", "digest": "sha256:../../x"},
    {"kind": "tag", "repository": "app", "tag": "1", "digest": ""},
    {"kind": "manifest", "repository": "app", "digest": "md5:0"},
    {"kind": "manifest", "repository": "app", "digest": f"sha256:{'1' * 64}", "subject": "sha256:x"},
    {"kind": "repository", "repository": "", "verb": "delete"},
    {"kind": "repository", "repository": "other.example:app", "verb": "delete"},
]


async def test_a_parent_that_tells_nonsense_is_passed_over(tmp_path: Path) -> None:
    """Also one that names another parent's namespace, whatever the scope."""
    async with ScriptedParent() as parent:
        log = ScriptedLog(parent)
        async with managed(tmp_path, log, configured("*")) as keeper:
            await first(keeper)
            requests = parent.count()
            for message in NONSENSE:
                log.note(**{"verb": "push", **message})
            await until(lambda: replica_of(keeper).record.cursor == log.head)
            assert parent.count() == requests
            assert keeper.store.references.repositories() == []
            assert all("is not a valid name" in words for words in replica_of(keeper).status().words)
            digest = log.push("app", "1", b"sense")
            await until(lambda: holds(keeper, "app", "1", digest))


async def test_an_answer_that_was_lost_is_asked_for_again(tmp_path: Path) -> None:
    async with ScriptedParent() as parent:
        log = ScriptedLog(parent, page=2)
        digests = {str(n): log.push("app", str(n), str(n).encode()) for n in range(7)}
        log.answers = [NoAnswer("the link broke", 0.01), NoAnswer("again", 0.01)]
        async with managed(tmp_path, log, APP) as keeper:
            await first(keeper)
            assert all(holds(keeper, "app", tag, digest) for tag, digest in digests.items())


async def test_a_surprise_does_not_end_the_listening(tmp_path: Path) -> None:
    async with ScriptedParent() as parent:
        log = ScriptedLog(parent)
        async with managed(tmp_path, log, APP) as keeper:
            await first(keeper)
            log.answers = [RuntimeError("unforeseen")]
            await until(lambda: not log.answers)
            one = log.push("app", "1", b"one")
            await until(lambda: holds(keeper, "app", "1", one))


async def test_a_plan_lists_and_keeps_nothing(tmp_path: Path) -> None:
    async with ScriptedParent() as parent:
        log = ScriptedLog(parent)
        async with managed(tmp_path, log, APP) as keeper:
            await first(keeper)
            parent.script(ScriptedFault(path="/blobs/", status=403, times=-1))
            log.push("app", "1", GeneratedContent(MIB))
            await until(lambda: len(replica_of(keeper).status().troubles) == 1)
            plan = await replica_of(keeper).plan()
            assert plan.ready
            assert [one.image for one in plan.images] == ["app:1"]
            assert plan.bytes > MIB
            assert keeper.store.references.tags("app") == []


async def test_a_push_here_that_comes_back_as_a_message_costs_nothing(tmp_path: Path) -> None:
    async with ScriptedParent() as parent:
        log = ScriptedLog(parent)
        async with managed(tmp_path, log, configured("app", mode="ReadWrite")) as keeper:
            await first(keeper)
            body = b'{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}'
            digest = str(Digest.of(body))
            kind = "application/vnd.oci.image.index.v1+json"
            await keeper.put_manifest("app", digest, ("mine",), kind, body)
            before = parent.count("GET")
            log.note("push", "tag", "app", "mine", digest)
            await until(lambda: replica_of(keeper).record.cursor == log.head)
            await idle(keeper)
            assert parent.count("GET") == before
            assert str(keeper.store.references.tag("app", "mine").digest) == digest  # type: ignore[union-attr]
            log.note("delete", "tag", "app", "mine", digest)
            await until(lambda: replica_of(keeper).record.cursor == log.head)
            assert keeper.store.references.tag("app", "mine") is not None  # on its way up


async def test_a_tag_that_gave_way_is_the_parents_soon(tmp_path: Path) -> None:
    """Its message came while the tag that was pushed here was still on its way up."""
    async with ScriptedParent() as parent:
        log = ScriptedLog(parent)
        async with managed(tmp_path, log, configured("app", mode="ReadWrite")) as keeper:
            await first(keeper)
            keeper.parents[""].is_closed = lambda work: work == "push"  # type: ignore[method-assign]
            body = b'{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}'
            ours, kind = Digest.of(body), "application/vnd.oci.image.index.v1+json"
            await keeper.put_manifest("app", str(ours), ("both",), kind, body)
            theirs = log.push("app", "both", b"theirs")
            await until(lambda: replica_of(keeper).record.cursor == log.head)
            assert any("pushed here" in words for words in replica_of(keeper).status().words)
            assert not holds(keeper, "app", "both", theirs)

            def settled(view: IndexView) -> list[IndexChange]:
                handed = rows.tag_sent(view, "app", "both", ours, 0.0)
                return [*rows.manifest_sent(view, "app", ours), *handed]

            numbers = [number for number, _ in keeper.store.references.outbox.rows()]
            await asyncio.wrap_future(keeper.store.references.outbox.change([], numbers, settled))
            replica_of(keeper).tag_decided("app", "both", ours=False)
            await until(lambda: holds(keeper, "app", "both", theirs))


@pytest.mark.parametrize("is_decided", [False, True])
async def test_case_fault_14_a_tag_pushed_here_while_its_image_was_coming_is_asked_for(
    is_decided: bool, tmp_path: Path
) -> None:
    """The image arrives after the push, so it leaves the tag as it is. The outbox decides before or after; the parent's
    tag is to be here in the end."""
    async with ScriptedParent() as parent:
        log, configuration = ScriptedLog(parent), configured("app", mode="ReadWrite")
        log.push("app", "both", b"first")
        async with managed(tmp_path, log, configuration, link=STILL) as keeper:
            await first(keeper)
            blob, head = RequestGate(), RequestGate()
            parent.script(
                ScriptedFault(path=f"blobs/{Digest.of(b'theirs')}", gate=blob),
                ScriptedFault(method="HEAD", path="manifests/both", gate=head),
            )
            theirs, ours = log.push("app", "both", b"theirs"), Digest.of(EMPTY_INDEX)
            await blob.wait_arrived()
            await keeper.put_manifest("app", str(ours), ("both",), OCI_INDEX, EMPTY_INDEX)

            def settled(view: IndexView) -> list[IndexChange]:
                handed = rows.tag_sent(view, "app", "both", ours, 0.0)
                return [*rows.manifest_sent(view, "app", ours), *handed]

            async def give_way() -> None:
                numbers = [number for number, _ in keeper.store.references.outbox.rows()]
                await asyncio.wrap_future(keeper.store.references.outbox.change([], numbers, settled))
                replica_of(keeper).tag_decided("app", "both", ours=False)

            if is_decided:
                await give_way()
                await head.wait_arrived()
            blob.release()
            await until(lambda: keeper.store.references.manifest("app", Digest.parse(theirs)) is not None)
            await idle(keeper)
            head.release()
            if not is_decided:
                await give_way()
            await until(lambda: holds(keeper, "app", "both", theirs))
            await until(lambda: not replica_of(keeper).record.held)
            assert parent.count("HEAD", "/manifests/both") == 1


@pytest.mark.parametrize("ours_wins", [True, False])
async def test_case_fault_14_a_tag_that_the_parent_deleted_waits_for_the_outbox(
    ours_wins: bool, tmp_path: Path
) -> None:
    """While it waits it is not requested; when the outbox has decided on it, it is requested, by a node that
    was started anew meanwhile."""
    async with ScriptedParent() as parent:
        log, configuration = ScriptedLog(parent), configured("app", mode="ReadWrite")
        theirs, ours = log.push("app", "both", b"theirs"), Digest.of(EMPTY_INDEX)
        async with managed(tmp_path, log, configuration, link=STILL) as keeper:
            await first(keeper)
            await keeper.put_manifest("app", str(ours), ("both",), OCI_INDEX, EMPTY_INDEX)
            log.untag("app", "both")
            await until(lambda: replica_of(keeper).record.cursor == log.head)
            for number in range(5):  # each begins a run
                digest = log.push("app", f"t{number}", str(number).encode())
                await until(lambda n=number, d=digest: holds(keeper, "app", f"t{n}", d))  # type: ignore[misc]
            await idle(keeper)
        assert parent.count("HEAD", "/manifests/") == 0
        async with managed(tmp_path, log, link=STILL) as keeper:
            await until(lambda: "app:both" in replica_of(keeper).record.held)
            await idle(keeper)
            assert keeper.store.references.tag("app", "both") is not None
            if ours_wins:
                parent.repository("app").tags["both"] = [theirs]

            def settled(view: IndexView) -> list[IndexChange]:
                handed = rows.tag_sent(view, "app", "both", ours, 0.0)
                return [*rows.manifest_sent(view, "app", ours), *handed]

            numbers = [number for number, _ in keeper.store.references.outbox.rows()]
            await asyncio.wrap_future(keeper.store.references.outbox.change([], numbers, settled))
            replica_of(keeper).tag_decided("app", "both", ours=ours_wins)
            if ours_wins:  # and was moved there again before this node recorded that it was sent
                await until(lambda: holds(keeper, "app", "both", theirs))
            else:
                await until(lambda: keeper.store.references.tag("app", "both") is None)
            # a second time when a run scans between the commit and its report
            assert parent.count("HEAD", "/manifests/both") in (1, 2)
            await until(lambda: not replica_of(keeper).record.held)


async def test_a_repository_that_left_the_scope_goes_after_a_while(tmp_path: Path) -> None:
    clock, grace = FakeClock(jump=False), {"prune_grace": "PT1H"}
    async with ScriptedParent() as parent:
        log = ScriptedLog(parent)
        one, two = log.push("app", "1", b"one"), log.push("team/b", "1", b"two")
        both = configured("app", "team/*")
        async with managed(tmp_path, log, both, clock=clock, sync=grace) as keeper:

            def is_here() -> bool:
                return holds(keeper, "app", "1", one) and holds(keeper, "team/b", "1", two)

            await advance(clock, 120.0, is_here)
            await advance(clock, 60.0, lambda: state_of(keeper) == "Succeeded")
            await receive(keeper, configured("app"))

            def says_so() -> bool:
                return any(
                    "team/b is no longer selected" in words for words in replica_of(keeper).status().words
                )

            await advance(clock, 120.0, says_so)
            assert replica_of(keeper).record.result.sync_trigger == "SyncTokenUpdate"
            planning = asyncio.create_task(replica_of(keeper).plan())
            await advance(clock, 60.0, planning.done)
            assert [removal.name for removal in planning.result().removals] == ["team/b"]
            assert holds(keeper, "team/b", "1", two)
            await advance(clock, 7200.0, lambda: not keeper.store.references.has_repository("team/b"), 20.0)
            assert holds(keeper, "app", "1", one)


async def test_a_full_run_that_stops_half_way_is_still_under_way(tmp_path: Path) -> None:
    async with ScriptedParent() as parent:
        log, layer = ScriptedLog(parent), GeneratedContent(8 * MIB)
        parent.script(ScriptedFault(method="GET", path=layer.digest, stall_after=3 * MIB, times=1))
        digest = log.push("app", "1", layer)
        async with managed(tmp_path, log, APP) as keeper:
            await until(lambda: parent.bytes_sent.get(layer.digest, 0) >= 3 * MIB)
            await until(lambda: replica_of(keeper).synchronised().syncing)
            progress = replica_of(keeper).synchronised().progress
            assert progress is not None
            assert (progress.images_done, progress.images) == (0, 1)
            assert progress.bytes >= 8 * MIB
            began = replica_of(keeper).record.result.last_sync_start_time
        async with managed(tmp_path, log) as keeper:
            await first(keeper)
            assert holds(keeper, "app", "1", digest)
            assert replica_of(keeper).record.result.last_sync_start_time == began
            await synchronised(keeper)


async def test_what_comes_during_a_trim_is_not_lost(tmp_path: Path) -> None:
    async with ScriptedParent() as parent:
        log = ScriptedLog(parent)
        async with managed(tmp_path, log, APP) as keeper:
            await first(keeper)
            log.answers = [Trimmed()]
            digest = log.push("app", "1", b"one")
            await until(lambda: holds(keeper, "app", "1", digest))
            await asyncio.sleep(0)
            await first(keeper, "RecoveryService")


async def test_case_fault_8_a_tag_that_a_rule_keeps_out_does_not_come_down(tmp_path: Path) -> None:
    """Nor one of another parent's repository. So nothing is known of it here, whatever the parent has."""
    async with ScriptedParent() as parent:
        log = ScriptedLog(parent)
        configuration = configured("app", "team/*")
        async with managed(tmp_path, log, configuration, {"name": "app", "tags": ["v*"]}) as keeper:
            await first(keeper)
            names = [
                ("app", "v1"),
                ("app", "latest"),
                ("team/a", "latest"),
                ("b", "v1"),
                ("edge:team/a", "v1"),
            ]
            follows = [replica_of(keeper).follows(*name) for name in names]
            assert follows == [True, False, True, False, False]
