"""The outbox: order, coalescing, confirmation, conflicts; and a model of it under hypothesis."""

from __future__ import annotations

import time
from functools import partial

import pytest
from holdfast.oci.image import Facts, ImageBlob
from holdfast.outbox.entry import Deed, OutboxEntry, Upload
from holdfast.outbox.order import STUCK, OutboxOrder
from holdfast.outbox.queue import Outbox, ParentTag, Policy, QueueChange, TagVerdict
from holdfast.outbox.upload_plan import UploadStepKind, plan_upload
from hypothesis import given
from hypothesis import strategies as st

NOW = 1_800_000_000.0


def told(box: Outbox) -> list[str]:
    return [f"{e.deed} {e.tag or e.digest}" + (f"={e.digest}" if e.deed == "tag" else "") for e in box]


def drain(box: Outbox, now: float = NOW) -> list[str]:
    """Send everything that may go, in the order in which it may."""
    sent = []
    while ready := box.ready(now):
        entry = ready[0]
        sent.append(f"{entry.deed} {entry.tag or entry.digest}")
        box.sending(entry.seq)
        box.confirmed(entry.seq, entry.digest, now)
    return sent


def image(box: Outbox, digest: str, tag: str, repository: str = "a", needs: tuple[str, ...] = ()) -> None:
    box.pushed(repository, digest, needs, NOW)
    box.tagged(repository, tag, digest, NOW, base="")


def test_everything_goes_in_the_order_in_which_it_came() -> None:
    box = Outbox()
    image(box, "m1", "v1")
    image(box, "m2", "v2", "b")
    box.deleted("a", "m1", NOW)
    assert drain(box) == ["manifest m1", "tag v1", "manifest m2", "tag v2", "delete m1"]


def test_what_is_stuck_holds_back_what_depends_on_it_alone() -> None:
    box = Outbox()
    box.pushed("a", "child", (), NOW)
    image(box, "index", "v1", needs=("child",))
    image(box, "other", "v2")
    box.failed(1, "denied", "403", NOW, 1.0)
    assert drain(box) == ["manifest other", "tag v2"]
    assert told(box) == ["manifest child", "manifest index", "tag v1=index"]
    at = box.wake(NOW)
    assert at is not None
    assert drain(box, at) == ["manifest child", "manifest index", "tag v1"]


def test_case_fault_14_what_failed_is_known_by_why_and_how_often() -> None:
    """Until it is tried anew, or done, by whatever way."""
    box = Outbox()
    for number in range(1, 5):
        box.pushed("a", f"m{number}", (), NOW)
    for seq in (1, 2, 3):
        box.failed(seq, "damaged", "not whole", NOW, 1.0)
    assert [entry.seq for entry in box.troubled("damaged")] == [1, 2, 3]
    assert box.stuck() == (0, None)
    for _ in range(STUCK):
        box.failed(1, "denied", "403", NOW, 1.0)
        box.failed(2, "denied", "403", NOW, 1.0)
    assert box.stuck() == (2, box.get(1))
    assert [entry.seq for entry in box.troubled("damaged")] == [3]
    box.retry(1)
    assert box.stuck() == (1, box.get(2))
    box.dropped(2)
    box.confirmed(3, "m3", NOW)
    assert box.stuck() == (0, None)
    assert box.troubled("damaged") == box.troubled("denied") == []


def test_a_delete_waits_for_all_before_it_in_its_repository() -> None:
    box = Outbox()
    image(box, "m1", "v1")
    box.deleted("a", "m0", NOW)
    image(box, "m2", "v2", "b")
    box.failed(1, "transient", "reset", NOW, 1.0)
    assert drain(box) == ["manifest m2", "tag v2"]


def test_of_several_moves_the_last_goes_and_manifests_all_go() -> None:
    box = Outbox()
    image(box, "m1", "v1")
    box.pushed("a", "m2", (), NOW)
    change = box.tagged("a", "v1", "m2", NOW, base="m1")
    assert change.removes == (2,)
    assert change.puts[0].base == ""
    assert told(box) == ["manifest m1", "manifest m2", "tag v1=m2"]
    assert box.pushed("a", "m2", (), NOW) == QueueChange()


def test_a_move_that_may_have_arrived_is_not_overtaken() -> None:
    box = Outbox()
    image(box, "m1", "v1")
    box.sending(2)
    change = box.untagged("a", "v1", NOW)
    assert change.removes == ()
    assert change.puts[0].base == "m1"


def test_a_push_that_is_deleted_before_it_went_need_not_go() -> None:
    box = Outbox()
    box.pushed("a", "m1", (), NOW)
    assert box.deleted("a", "m1", NOW).removes == (1,)
    assert told(box) == ["delete m1"]
    named = Outbox()
    image(named, "m1", "v1")
    assert named.deleted("a", "m1", NOW).removes == ()


def test_a_move_waits_for_the_delete_that_took_its_tag() -> None:
    box = Outbox()
    image(box, "m1", "v1")
    box.deleted("a", "m1", NOW, ["v1"])
    image(box, "m2", "v1")
    image(box, "m3", "v2")
    box.failed(1, "transient", "reset", NOW, 1.0)
    assert drain(box) == ["manifest m2", "manifest m3", "tag v2"]
    at = box.wake(NOW)
    assert at is not None
    assert drain(box, at) == ["manifest m1", "tag v1", "delete m1", "tag v1"]


def test_a_move_after_a_delete_of_what_the_tag_named_starts_from_nothing() -> None:
    box = Outbox()
    image(box, "m1", "v1")
    box.deleted("a", "m1", NOW)
    assert box.tagged("a", "v1", "m2", NOW, base="").puts[0].base == ""


def test_another_digest_confirms_nothing() -> None:
    box = Outbox()
    image(box, "m1", "v1")
    change = box.confirmed(1, "m9", NOW)
    assert change.removes == ()
    found = box.get(1)
    assert found is not None
    assert found.trouble is not None
    assert "confirmed m9 where m1 was sent" in found.trouble.reason
    assert box.ready(NOW) == []


def seqs(entries: list[OutboxEntry]) -> list[int]:
    return [entry.seq for entry in entries]


def test_case_fault_15_independent_entries_are_under_way_side_by_side() -> None:
    """None is begun twice, and none goes while what it depends on is under way."""
    box = Outbox()
    image(box, "m1", "v1")
    image(box, "m2", "v2")
    box.tagged("a", "v1", "m2", NOW, base="m1")
    image(box, "m3", "v3", "b", needs=("m4",))
    box.deleted("a", "m9", NOW)
    assert seqs(box.take(NOW, 10)) == [1, 3, 6]
    assert box.take(NOW, 10) == []
    box.confirmed(3, "m2", NOW)
    assert seqs(box.take(NOW, 10)) == [4, 5]
    box.confirmed(1, "m1", NOW)
    box.confirmed(4, "m2", NOW)
    assert box.take(NOW, 10) == []
    box.leave(5)
    assert seqs(box.take(NOW, 10)) == [5]
    box.confirmed(5, "m2", NOW)
    assert seqs(box.take(NOW, 10)) == [8]


def test_case_fault_15_a_tag_goes_along_with_its_manifest() -> None:
    box = Outbox()
    image(box, "m1", "v1")
    image(box, "m2", "v1")
    box.sending(2)
    assert [e.seq for e in box] == [1, 3, 4]
    (first,) = box.take(NOW)
    assert box.take_tag(first.seq, NOW) is None
    (second,) = box.take(NOW)
    tag = box.take_tag(second.seq, NOW)
    assert tag is not None
    assert tag.seq == 4
    assert box.take_tag(second.seq, NOW) is None
    box.confirmed(3, "m2", NOW)
    assert box.take(NOW, 5) == []
    box.leave(4)
    assert seqs(box.take(NOW, 5)) == [4]


def test_a_tag_whose_predecessor_is_under_way_does_not_go_along() -> None:
    box = Outbox()
    image(box, "m1", "v1")
    box.confirmed(1, "m1", NOW)
    assert seqs(box.take(NOW)) == [2]
    image(box, "m2", "v1")
    assert [e.seq for e in box] == [2, 3, 4], "what is under way is not overtaken"
    assert seqs(box.take(NOW)) == [3]
    assert box.take_tag(3, NOW) is None


def test_a_push_under_way_is_not_dropped_by_its_delete() -> None:
    box = Outbox()
    box.pushed("a", "m1", (), NOW)
    box.take(NOW)
    assert box.deleted("a", "m1", NOW).removes == ()


def test_a_clock_that_was_set_back_tries_again_what_was_left_alone() -> None:
    box = Outbox()
    box.pushed("a", "m1", (), NOW)
    box.failed(1, "denied", "403", NOW, 1.0)
    assert box.ready(NOW + 1) == []
    assert seqs(box.ready(NOW - 5)) == [1]
    again = Outbox(list(box))
    assert again.ready(NOW + 1) == []
    assert seqs(Outbox(list(box)).ready(NOW - 5)) == [1]


def test_uploads_of_several_blobs_are_remembered() -> None:
    box = Outbox()
    box.pushed("a", "m1", (), NOW)
    one, two = Upload("b1", "u1"), Upload("b2", "u2")
    box.began(1, one)
    assert box.began(1, two).puts[0].uploads == (one, two)
    assert box.began(1, two) == QueueChange()
    assert box.ended(1, "b1").puts[0].uploads == (two,)
    assert box.ended(1, "b1") == QueueChange()


def test_a_parent_that_is_away_leaves_no_mark() -> None:
    box = Outbox()
    image(box, "m1", "v1")
    assert box.failed(1, "offline", "no route", NOW, 1.0) == QueueChange()
    assert len(box.ready(NOW)) == 1


def test_it_comes_back_from_its_rows() -> None:
    box = Outbox()
    image(box, "m1", "v1")
    box.sending(1)
    again = Outbox(list(box))
    assert told(again) == told(box)
    assert again.pushed("a", "m9", (), NOW).puts[0].seq == 3
    assert box.is_pending("a", "m1")
    assert not box.is_pending("a", "m2")


CONFLICTS: list[tuple[Policy, str, str]] = [
    ("parent-wins", "drop", "parent"),
    ("child-wins", "send", "child"),
    ("reject", "hold", ""),
]


@pytest.mark.parametrize(("policy", "fate", "winner"), CONFLICTS)
@pytest.mark.parametrize(("event", "known"), [(0, 0), (9, 5)])
def test_a_tag_that_both_sides_moved(policy: Policy, fate: str, winner: str, event: int, known: int) -> None:
    box = Outbox()
    box.tagged("a", "v1", "ours", NOW, base="old", event=known)
    found = box.settle(1, ParentTag("theirs", event), policy, NOW)
    assert found.fate == fate
    assert found.conflict is not None
    assert (found.conflict.winner, found.conflict.ours, found.conflict.theirs) == (winner, "ours", "theirs")


def test_no_conflict() -> None:
    box = Outbox()
    box.tagged("a", "v1", "ours", NOW, base="old", event=5)
    assert box.settle(1, ParentTag("old", 5), "parent-wins", NOW).fate == "send"
    assert box.settle(1, ParentTag("ours", 9), "parent-wins", NOW).fate == "there"
    box.sending(1)  # the answer was lost, and then the parent moved on: ours was first
    assert box.settle(1, ParentTag("newer", 9, since=("ours", "newer")), "child-wins", NOW).fate == "there"


@pytest.mark.parametrize("base", [None, ""])
@pytest.mark.parametrize(("policy", "fate", "winner"), CONFLICTS)
def test_case_fault_8_a_tag_that_is_new_on_both_sides(
    policy: Policy, fate: str, winner: str, base: str | None
) -> None:
    """Whether it was known that the parent had none, or nothing was known."""
    box = Outbox()
    box.tagged("a", "v1", "ours", NOW, base=base)
    assert box.settle(1, ParentTag(""), policy, NOW).fate == "send"
    assert box.settle(1, ParentTag("ours"), policy, NOW) == TagVerdict("there")
    found = box.settle(1, ParentTag("theirs"), policy, NOW)
    assert (found.fate, found.conflict and found.conflict.winner) == (fate, winner)


def fate_of(box: Outbox, seq: int, theirs: str = "theirs") -> str:
    """What becomes of a move where nothing is synchronised and the parent wins."""
    return box.settle(seq, ParentTag(theirs), "parent-wins", NOW, follows=False).fate


def test_case_fault_8_what_the_parent_had_all_along_is_no_conflict() -> None:
    """Asked since the tag was moved here, and no outage between."""
    box = Outbox()
    box.tagged("a", "v1", "ours", NOW)
    assert fate_of(box, 1) == "send"
    box.answered(1, "theirs")
    assert fate_of(box, 1) == "send"
    assert fate_of(box, 1, "moved since") == "drop"


def test_case_fault_8_where_it_was_asked_for_nothing_a_tag_is_new() -> None:
    box = Outbox()
    box.tagged("a", "v1", "ours", NOW)
    assert box.answered(1, "") == QueueChange()
    assert fate_of(box, 1, "") == "send"
    assert fate_of(box, 1) == "drop"


def test_case_fault_8_after_an_outage_or_a_kill_it_is_too_late_to_ask() -> None:
    box = Outbox()
    box.tagged("a", "v1", "ours", NOW)
    entries = list(box)
    box.waited()
    assert box.answered(1, "theirs") == QueueChange()
    assert fate_of(box, 1) == "drop"
    assert fate_of(Outbox(entries), 1) == "drop"


def test_case_fault_8_a_later_move_knows_no_more_than_the_first() -> None:
    """It takes the place of one that waited through an outage."""
    box = Outbox()
    box.tagged("a", "v1", "one", NOW)
    box.waited()
    box.tagged("a", "v1", "two", NOW)
    assert box.unrequested() == []
    assert fate_of(box, 2) == "drop"
    box.tagged("a", "v2", "one", NOW)
    box.tagged("a", "v2", "two", NOW)
    assert [entry.seq for entry in box.unrequested()] == [4]
    assert fate_of(box, 4) == "send"


def test_each_tag_is_asked_for_once_and_none_that_is_on_its_way() -> None:
    box = Outbox()
    box.tagged("a", "v1", "ours", NOW)
    box.tagged("a", "v2", "ours", NOW)
    box.tagged("a", "v3", "ours", NOW, base="known")
    box.take(NOW, 1)
    assert [entry.tag for entry in box.unrequested()] == ["v2"]
    assert box.unrequested() == []


@pytest.mark.parametrize(
    ("policy", "fate"), [("parent-wins", "drop"), ("child-wins", "hold"), ("reject", "hold")]
)
def test_what_comes_down_while_ours_is_on_its_way(policy: Policy, fate: str) -> None:
    box = Outbox()
    box.tagged("a", "v1", "ours", NOW, base="old")
    assert box.arrived("a", "v1", ParentTag("theirs", 9), policy, NOW).fate == fate
    assert box.arrived("a", "v1", ParentTag("old", 1), policy, NOW).fate == "there"
    assert box.arrived("a", "v1", ParentTag("ours", 9), policy, NOW).fate == "there"
    assert box.arrived("a", "v2", ParentTag("theirs", 9), policy, NOW).fate == "send"


def test_what_was_deleted_here_does_not_come_down_again() -> None:
    box = Outbox()
    box.deleted("a", "m1", NOW)
    assert box.arrived("a", "v1", ParentTag("m1", 9), "parent-wins", NOW).fate == "hold"


def test_a_list_from_before_something_was_done_here_decides_nothing() -> None:
    box = Outbox()
    mark = box.mark
    box.deleted("a", "m1", NOW)
    assert drain(box) == ["delete m1"]
    assert box.arrived("a", "v1", ParentTag("m1"), "parent-wins", NOW, listed=mark).fate == "hold"
    assert box.arrived("a", "v1", ParentTag("m1"), "parent-wins", NOW, listed=box.mark).fate == "send"


def test_an_operator_decides_what_was_rejected() -> None:
    box = Outbox()
    box.tagged("a", "v1", "ours", NOW, base="old")
    box.held(1, "both sides moved it")
    assert box.ready(NOW) == []
    moved = box.tagged("a", "v1", "newer", NOW, base="ours")
    assert moved.removes == (1,)
    assert moved.puts[0].conflict == "both sides moved it"
    box.retry(2)
    assert box.settle(2, ParentTag("theirs"), "reject", NOW).fate == "send"
    box.held(2, "again")
    assert box.dropped(2).removes == (2,)
    assert len(box) == 0


def test_case_fault_15_a_step_costs_what_it_frees(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many entries are stuck before, and behind it."""
    looks, is_free = 0, OutboxOrder._is_free

    def counted(order: OutboxOrder, entry: OutboxEntry, but: int = 0) -> bool:
        nonlocal looks
        looks += 1
        return is_free(order, entry, but)

    box = Outbox()
    for number in range(5000):
        image(box, f"m{number}", f"v{number}")
        box.failed(2 * number + 1, "denied", "403", NOW, 1.0)
    for number in range(100):
        image(box, f"m{number}", f"v{number}", "b")
    monkeypatch.setattr(OutboxOrder, "_is_free", counted)
    assert len(drain(box)) == 200
    assert looks <= 200 * 6


def test_100_000_pushes_wait_and_go() -> None:
    """Weeks without a link: one tag moved over and over, and a delete now and then; each costs microseconds."""
    began, box = time.process_time(), Outbox()
    for number in range(50_000):
        box.pushed("a", f"m{number}", (), NOW)
        box.tagged("a", "latest" if number % 2 else f"v{number}", f"m{number}", NOW, base="")
        if number % 1000 == 999:
            box.deleted("a", f"m{number - 500}", NOW)
    filled, count = time.process_time() - began, len(box)
    again = Outbox(list(box))
    sent = drain(again)
    print(
        f"{count} entries: {filled:.1f} s to take, {time.process_time() - began - filled:.1f} s to read and send"
    )
    assert len(sent) == count
    assert time.process_time() - began < 20


class Above:
    """A parent that has some of it."""

    def has(self, repository: str, digest: str) -> bool:
        return digest == "there"

    def elsewhere(self, digest: str) -> str:
        return "b" if digest == "mountable" else ""

    def received(self, repository: str, digest: str) -> int:
        return 700 if digest == "begun" else 0


def test_blobs_are_skipped_mounted_or_uploaded_from_their_byte_and_then_the_manifest() -> None:
    pieces = tuple(ImageBlob(d, 1000) for d in ("there", "mountable", "begun", "new", "new"))
    found = plan_upload(OutboxEntry(1, "a", "manifest", "m", NOW), Facts(100, pieces), Above())
    assert [(s.kind, s.digest, s.source, s.offset) for s in found] == [
        (UploadStepKind.MOUNT, "mountable", "b", 0),
        (UploadStepKind.UPLOAD, "begun", "", 700),
        (UploadStepKind.UPLOAD, "new", "", 0),
        (UploadStepKind.PUT, "m", "", 0),
    ]
    assert [s.kind for s in plan_upload(OutboxEntry(1, "a", "untag", "", NOW, "v1"), None, Above())] == [
        UploadStepKind.UNTAG
    ]


@pytest.mark.parametrize(
    ("deed", "kind"), [("tag", "tag"), ("untag", "untag"), ("delete", "delete"), ("manifest", "put")]
)
def test_what_is_no_manifest_with_blobs_is_one_request_without_content(deed: Deed, kind: str) -> None:
    (step,) = plan_upload(OutboxEntry(1, "a", deed, "m", NOW, "v1"), None, Above())
    assert (str(step.kind), step.digest, step.size, step.source, step.offset) == (kind, "m", 0, "", 0)


def test_the_steps_of_a_manifest_have_the_sizes_of_what_is_sent() -> None:
    found = plan_upload(
        OutboxEntry(1, "a", "manifest", "m", NOW), Facts(100, (ImageBlob("new", 1000),)), Above()
    )
    assert [step.size for step in found] == [1000, 100]


DEEDS = st.lists(
    st.tuples(
        st.sampled_from(["image", "move", "untag", "delete", "begin", "send", "fail", "restart"]),
        st.sampled_from(["a", "b"]),
        st.integers(0, 3),
        st.integers(0, 2),
    ),
    max_size=60,
)


#: tags and manifests
Side = tuple[dict[tuple[str, str], str], set[tuple[str, str]]]


def apply(side: Side, entry: OutboxEntry) -> None:
    """Do what an entry says. A tag comes after its manifest."""
    tags, manifests = side
    if entry.deed == "manifest":
        manifests.add((entry.repository, entry.digest))
    elif entry.deed == "delete":
        manifests.discard((entry.repository, entry.digest))
        for key in [k for k, d in tags.items() if k[0] == entry.repository and d == entry.digest]:
            del tags[key]
    elif entry.deed == "tag":
        assert (entry.repository, entry.digest) in manifests, "a tag before its manifest"
        tags[(entry.repository, entry.tag)] = entry.digest
    else:
        tags.pop((entry.repository, entry.tag), None)


def write(rows: dict[int, OutboxEntry], change: QueueChange) -> None:
    """The rows of one transaction."""
    for seq in change.removes:
        del rows[seq]
    rows.update({entry.seq: entry for entry in change.puts})


@given(DEEDS)
def test_whatever_happens_the_parent_ends_as_the_child(deeds: list[tuple[str, str, int, int]]) -> None:
    """A parent without other writers has, once all was sent, the tags and manifests of the child."""
    box = Outbox()
    rows: dict[int, OutboxEntry] = {}
    under_way: list[int] = []
    here: Side = ({}, set())
    there: Side = ({}, set())

    store = partial(write, rows)

    def begin() -> None:
        for entry in box.take(NOW, 3):
            assert entry.seq not in under_way, "begun twice"
            under_way.append(entry.seq)

    def send(which: int, answer: bool) -> None:
        seq = under_way.pop(which % len(under_way))
        entry = box.get(seq)
        assert entry is not None, "dropped while it was under way"
        tag = box.take_tag(seq, NOW) if entry.deed == "manifest" else None
        for one in (entry, *([tag] if tag is not None else [])):
            if one.tag:
                known = ParentTag(there[0].get((one.repository, one.tag), ""))
                assert box.settle(one.seq, known, "reject", NOW).fate in ("send", "there")
            store(box.sending(one.seq))
            apply(there, one)
            if answer:
                store(box.confirmed(one.seq, one.digest, NOW))
            else:
                box.leave(one.seq)

    for kind, repository, digest, tag in deeds:
        name, base = f"m{digest}", here[0].get((repository, f"t{tag}"), "")
        if kind == "image":
            store(box.pushed(repository, name, (), NOW))
            apply(here, OutboxEntry(0, repository, "manifest", name, NOW))
        if kind in ("image", "move") and (repository, name) in here[1]:
            store(box.tagged(repository, f"t{tag}", name, NOW, base=base))
            apply(here, OutboxEntry(0, repository, "tag", name, NOW, f"t{tag}"))
        elif kind == "untag" and base:
            store(box.untagged(repository, f"t{tag}", NOW, base=base))
            apply(here, OutboxEntry(0, repository, "untag", "", NOW, f"t{tag}"))
        elif kind == "delete" and (repository, name) in here[1]:
            gone = [t for (r, t), d in here[0].items() if r == repository and d == name]
            store(box.deleted(repository, name, NOW, gone))
            apply(here, OutboxEntry(0, repository, "delete", name, NOW))
        elif kind == "begin":
            begin()
        elif kind in ("send", "fail") and under_way:
            send(digest, kind == "send")
        elif kind == "restart":
            box = Outbox(rows.values())
            under_way.clear()
    begin()
    while under_way:
        send(0, True)
        begin()
    assert len(box) == 0
    assert rows == {}
    assert there == here


def test_case_fault_14_what_is_under_way_stays_so_when_the_queue_is_read_anew() -> None:
    """Nobody begins with it a second time, and what is known of tags stays known of those that are there."""
    box = Outbox()
    for number in (1, 2, 3):
        box.came(OutboxEntry(number, "a", "tag", f"sha256:{number}", 1.0, f"v{number}"))
    assert [entry.seq for entry in box.take(1.0)] == [1]
    assert [entry.seq for entry in box.unrequested()] == [2, 3]
    box.dropped(3)
    box.reread(OutboxEntry(number, "a", "tag", f"sha256:{number}", 1.0, f"v{number}") for number in (1, 2))
    assert [entry.seq for entry in box.ready(1.0, 3)] == [2]
    assert box.answered(2, "sha256:before").puts
    box.leave(1)
    assert [entry.seq for entry in box.ready(1.0, 3)] == [1, 2]
    box.reread(())
    assert len(box) == 0
    assert box.unrequested() == []
