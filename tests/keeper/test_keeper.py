"""What a miss gets (sync.md, "A miss, and a parent that is away"), row by row, counted at the parent."""

import asyncio
import errno
import json
from concurrent.futures import Future
from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest
from holdfast import errors
from holdfast.config import Configuration
from holdfast.config_file import from_table
from holdfast.fill.readers import BlobAnswer
from holdfast.keeper.api import ListAnswer
from holdfast.oci.manifest import parse
from holdfast.process.assembly import compose
from holdfast.testing.manual_clock import FakeClock
from holdfast_core.digest import Digest
from holdfast_core.errors import Exhausted
from holdfast_core.filesystem.disk_state import Write
from holdfast_core.format import encode_descriptor
from holdfast_core.record import Descriptor
from holdfast_core.store import Store

pytestmark = pytest.mark.loop("asyncio")

MEDIA_TYPE = "application/vnd.oci.image.manifest.v1+json"


def manifest(number=0, subject=""):
    subject = f',"subject":{{"mediaType":"x","digest":"{subject}","size":1}}' if subject else ""
    return (
        f'{{"schemaVersion":2,"mediaType":"{MEDIA_TYPE}","layers":[]{subject},'
        f'"config":{{"mediaType":"a/b","digest":"sha256:{number:064x}","size":2}}}}'
    ).encode()


class ParentDouble:
    """A parent with tags; `failure` is raised instead of any answer, `gate` delays every answer."""

    def __init__(self):
        self.config = SimpleNamespace(probe_interval=10.0)
        self.availability = SimpleNamespace(switch="auto")
        self.name, self.url, self.state, self.fault = "", "http://parent", "online", None
        self.last_failure, self.upstream_outage, self.clock_ahead, self.mirror_faults = "", "", 0.0, []
        self.tagged, self.bodies, self.asked = {}, {}, []
        self.failure, self.gate = None, None
        self.up = SimpleNamespace()  # nothing goes up here
        self.found, self.listed, self.counters = [], [], {"requests": 0}

    def is_closed(self, work):
        return False

    def push(self, tag, body):
        digest = str(Digest.of(body))
        self.tagged[tag], self.bodies[digest] = digest, body
        return digest

    @property
    def verdict(self):
        return self.state

    async def _answer(self, *asked):
        self.asked.append(asked)
        if self.gate:
            await self.gate.wait()
        if self.failure:
            raise self.failure

    async def head_manifest(self, name, reference):
        await self._answer("HEAD", name, reference)
        digest = self.tagged.get(reference)
        if digest is None:
            raise errors.ParentNotFound("the parent has no such manifest")
        return SimpleNamespace(digest=digest, media_type=MEDIA_TYPE, size=len(self.bodies[digest]))

    async def get_manifest(self, name, reference):
        await self._answer("GET", name, reference)
        digest = self.tagged.get(reference, reference)
        if digest not in self.bodies:
            raise errors.ParentNotFound("the parent has no such manifest")
        body = self.bodies[digest]
        inspected = parse(body, json.loads(body)["mediaType"])
        return SimpleNamespace(body=body, media_type=inspected.media_type, digest=digest, inspected=inspected)

    async def head_blob(self, name, digest):
        await self._answer("HEAD", name, digest)
        return 17

    async def tags(self, name):
        await self._answer("tags", name)
        return self.listed

    async def referrers(self, name, digest):
        await self._answer("referrers", name, digest)
        return self.found

    def until_probe(self):
        return 10.0

    async def probe(self):
        if self.state == "offline":
            self.asked.append(("probe",))
        return self.state != "offline"

    async def close(self):
        pass


class FillsDouble:
    def __init__(self):
        self.counters = {"fills": 0}
        self.repaired_chunks = 0
        self.failure = None

    async def start(self):
        pass

    async def close(self):
        pass

    def troubles(self):
        return []

    def coming(self):
        return set()

    def passing(self):
        return ["the disk is full"]

    def size_of(self, repository, digest):
        return None

    async def bring(self, repository, digest):
        raise AssertionError("nothing was pushed here")

    def is_coming(self, repository, digest, start, end):
        return False

    async def open(self, *arguments):
        if self.failure:
            raise self.failure
        return BlobAnswer(17, 1)


@asynccontextmanager
async def keeping(tmp_path, *, parents=None, config=None):
    store = Store.create_or_open(tmp_path / "data", write=True)
    clock = FakeClock(jump=False)
    keeper = compose(config or Configuration(), store, clock, parents or {}, FillsDouble())
    try:
        yield keeper, clock
    finally:
        await keeper.close()
        store.close()


@asynccontextmanager
async def fresh(tmp_path, *, root=False, config=None):
    """A keeper, its clock and its parent."""
    parent = ParentDouble()
    parents = {} if root else {"": parent}
    async with keeping(tmp_path, parents=parents, config=config) as (keeper, clock):
        yield keeper, clock, parent


async def test_a_cold_tag_costs_one_get_for_a_herd(tmp_path):
    async with fresh(tmp_path) as (keeper, _, parent):
        digest = parent.push("latest", manifest())
        answers = await asyncio.gather(*(keeper.manifest("a/b", "latest") for _ in range(50)))
        assert {a.digest for a in answers} == {digest}
        assert parent.asked == [("GET", "a/b", "latest")]
        assert keeper.store.references.manifest("a/b", Digest.parse(digest)).body == manifest()


async def test_s48_a_cold_digest_costs_one_get_for_a_herd(tmp_path):
    async with fresh(tmp_path) as (keeper, _, parent):
        digest = parent.push("latest", manifest())
        await asyncio.gather(*(keeper.manifest("a", digest) for _ in range(50)))
        assert parent.asked == [("GET", "a", digest)]
        await keeper.manifest("a", digest)
        assert len(parent.asked) == 1


async def test_children_are_not_fetched_before_they_are_asked_for(tmp_path):
    async with fresh(tmp_path) as (keeper, _, parent):
        child = parent.push("child", manifest(1))
        index = (
            '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":'
            f'[{{"mediaType":"{MEDIA_TYPE}","digest":"{child}","size":1}}]}}'
        ).encode()
        parent.push("latest", index)
        await keeper.manifest("a", "latest")
        assert len(parent.asked) == 1


async def test_a_fresh_tag_asks_nobody(tmp_path):
    async with fresh(tmp_path) as (keeper, clock, parent):
        parent.push("latest", manifest())
        await keeper.manifest("a", "latest")
        clock.advance(59)
        assert (await keeper.manifest("a", "latest")).age == 59
        assert len(parent.asked) == 1


async def test_an_old_tag_is_confirmed_by_one_head_for_a_herd(tmp_path):
    async with fresh(tmp_path) as (keeper, clock, parent):
        parent.push("latest", manifest())
        await keeper.manifest("a", "latest")
        clock.advance(61)
        answers = await asyncio.gather(*(keeper.manifest("a", "latest") for _ in range(50)))
        assert {(a.age, a.stale) for a in answers} == {(0, "")}
        assert parent.asked[1:] == [("HEAD", "a", "latest")]
        clock.advance(30)
        await keeper.manifest("a", "latest")
        assert len(parent.asked) == 2


async def test_a_tag_that_moved_is_fetched_once(tmp_path):
    async with fresh(tmp_path) as (keeper, clock, parent):
        parent.push("latest", manifest())
        await keeper.manifest("a", "latest")
        clock.advance(61)
        moved = parent.push("latest", manifest(2))
        answers = await asyncio.gather(*(keeper.manifest("a", "latest") for _ in range(9)))
        assert {a.digest for a in answers} == {moved}
        assert [row[0] for row in parent.asked] == ["GET", "HEAD", "GET"]


async def test_a_slow_parent_does_not_hold_up_a_held_tag(tmp_path):
    config = from_table({"tags": {"confirm_budget": 0.01}})
    async with fresh(tmp_path, config=config) as (keeper, clock, parent):
        first = parent.push("latest", manifest())
        await keeper.manifest("a", "latest")
        clock.advance(61)
        second = parent.push("latest", manifest(2))
        parent.gate = asyncio.Event()
        answer = await keeper.manifest("a", "latest")
        assert (answer.digest, answer.age) == (first, 61)
        assert "not answered" in answer.stale
        parent.gate.set()
        while keeper.parts.manifests.flights:
            await asyncio.sleep(0)
        assert (await keeper.manifest("a", "latest")).digest == second


@pytest.mark.parametrize(
    "failure",
    [
        errors.ParentUnreachable("away"),
        errors.ParentThrottled("busy", retry_after=3),
        errors.ParentErred("ill"),
        errors.ParentBroken("nonsense"),
        errors.ParentDenied("no"),
        errors.ParentNotFound("gone"),
    ],
    ids=lambda failure: type(failure).__name__,
)
async def test_a_held_tag_is_served_whatever_the_parent_says(tmp_path, failure):
    async with fresh(tmp_path) as (keeper, clock, parent):
        digest = parent.push("latest", manifest())
        await keeper.manifest("a", "latest")
        clock.advance(3600)
        parent.failure = failure
        answer = await keeper.manifest("a", "latest")
        assert (answer.digest, answer.age, answer.stale) == (digest, 3600, failure.message)


async def test_a_tag_that_the_parent_dropped_is_refused_where_policy_says_so(tmp_path):
    async with fresh(tmp_path, config=from_table({"tags": {"on_parent_404": "refuse"}})) as (
        keeper,
        clock,
        parent,
    ):
        parent.push("latest", manifest())
        await keeper.manifest("a", "latest")
        clock.advance(61)
        parent.tagged.clear()
        with pytest.raises(errors.ManifestUnknown):
            await keeper.manifest("a", "latest")


@pytest.mark.parametrize("reference", ["latest", "sha256:" + "7" * 64])
async def test_a_miss_while_the_parent_is_away_is_its_refusal(tmp_path, reference):
    async with fresh(tmp_path) as (keeper, _, parent):
        parent.failure = errors.ParentUnreachable("away", retry_after=10)
        with pytest.raises(errors.ParentUnreachable) as refusal:
            await keeper.manifest("a", reference)
        assert refusal.value.retry_after == 10


@pytest.mark.parametrize("reference", ["latest", "sha256:" + "7" * 64])
async def test_s45_a_404_is_remembered_for_30_seconds(tmp_path, reference):
    async with fresh(tmp_path) as (keeper, clock, parent):
        for _ in range(3):
            with pytest.raises(errors.ManifestUnknown):
                await keeper.manifest("a", reference)
        assert len(parent.asked) == 1
        clock.advance(30)
        with pytest.raises(errors.ManifestUnknown):
            await keeper.manifest("a", reference)
        assert len(parent.asked) == 2
        with pytest.raises(errors.ManifestUnknown):
            await keeper.manifest("b", reference)
        assert len(parent.asked) == 3


async def test_s45_a_refused_credential_is_a_404_and_not_remembered(tmp_path):
    async with fresh(tmp_path) as (keeper, _, parent):
        parent.failure = errors.ParentDenied("credentials refused")
        for _ in range(2):
            with pytest.raises(errors.ManifestUnknown) as refusal:
                await keeper.manifest("a", "latest")
            assert refusal.value.detail == "credentials refused"
        assert len(parent.asked) == 2


async def test_a_root_answers_404_and_lists_nothing_to_fetch(tmp_path):
    async with fresh(tmp_path, root=True) as (keeper, _, _):
        with pytest.raises(errors.ManifestUnknown):
            await keeper.manifest("a", "latest")
        with pytest.raises(errors.BlobUnknown):
            await keeper.blob("a", "sha256:" + "7" * 64, 0, -1, True)
        assert (await keeper.tags("a")).stale == ""
        assert (await keeper.referrers("a", "sha256:" + "7" * 64)).stale == ""


async def test_a_root_serves_a_tag_for_ever(tmp_path):
    async with fresh(tmp_path, root=True) as (keeper, clock, _):
        digest = Digest.of(manifest())
        for change in (
            keeper.store.references.put_manifest(
                "a", digest, MEDIA_TYPE, manifest(), owned=True, now=clock.now()
            ),
            keeper.store.references.put_tag("a", "latest", digest, now=clock.now(), origin="local"),
        ):
            await asyncio.wrap_future(change)
        clock.advance(10**6)
        answer = await keeper.manifest("a", "latest")
        assert (answer.digest, answer.stale) == (str(digest), "")


async def test_case_fault_2_many_refusals_are_one_look_a_second(tmp_path, monkeypatch):
    async with fresh(tmp_path) as (keeper, clock, _):
        looks = []
        monkeypatch.setattr(keeper.store, "probe", lambda: bool(looks.append(None)) or True)
        for _ in range(5):
            await keeper.parts.disk.check()
        assert len(looks) == 1
        clock.advance(1)
        await keeper.parts.disk.check()
        assert len(looks) == 2
        keeper.store.condition.met(Write.FILE, errno.ENOSPC, "full")
        clock.advance(1)
        await keeper.parts.disk.check()
        assert len(looks) == 2, "what is known is not looked for"


async def test_a_full_disk_lets_manifests_through(tmp_path, monkeypatch):
    async with fresh(tmp_path) as (keeper, _, parent):

        def put_manifest(*_, **__):
            full = Future()
            full.set_exception(Exhausted("no space left"))
            return full

        monkeypatch.setattr(keeper.store.references, "put_manifest", put_manifest)
        digest = parent.push("latest", manifest())
        for reference in ("latest", digest):
            answer = await keeper.manifest("a", reference)
            assert (answer.digest, answer.media_type, answer.body) == (digest, MEDIA_TYPE, manifest())
        assert (await keeper.status()).counters["unstored_manifests"] == 2


def full_disk(*_, **__):
    full = Future()
    full.set_exception(Exhausted("no space left"))
    return full


async def test_a_full_disk_refuses_nothing_that_is_held(tmp_path, monkeypatch):
    async with fresh(tmp_path) as (keeper, clock, parent):
        digest = parent.push("latest", manifest())
        parent.listed = ["latest"]
        await keeper.manifest("a", "latest")
        await keeper.tags("a")
        clock.advance(100)
        references = keeper.store.references
        monkeypatch.setattr(references, "put_tag", full_disk)
        monkeypatch.setattr(references.lists, "put_tag_list", full_disk)
        monkeypatch.setattr(references.lists, "put_referrers", full_disk)
        assert (await keeper.manifest("a", "latest")).digest == digest
        parent.listed = ["latest", "new"]
        assert await keeper.tags("a") == ListAnswer(unstored=(b"latest", b"new"))
        assert await keeper.referrers("a", digest) == ListAnswer(unstored=())
        parent.found = [row := Descriptor(MEDIA_TYPE, "sha256:" + "a" * 64, 7)]
        assert await keeper.referrers("a", digest) == ListAnswer(unstored=(encode_descriptor(row),))


async def test_a_tag_moves_by_what_a_get_brought_never_by_a_head(tmp_path):
    """HEAD and GET disagree: the hashed GET is trusted (reliability.md P15)."""
    async with fresh(tmp_path) as (keeper, clock, parent):
        old = parent.push("latest", manifest())
        new = parent.push("latest", manifest(2))
        for reference in (old, "latest"):
            await keeper.manifest("a", reference)
        clock.advance(61)

        async def head_manifest(name, reference):
            return SimpleNamespace(digest=old)

        parent.head_manifest = head_manifest
        assert (await keeper.manifest("a", "latest")).digest == new
        assert str(keeper.store.references.tag("a", "latest").digest) == new


async def test_a_tag_that_moves_leaves_its_history(tmp_path):
    async with fresh(tmp_path) as (keeper, clock, parent):
        digests = []
        for number in range(3):
            digests.append(parent.push("latest", manifest(number % 2)))
            await keeper.manifest("a", "latest")
            clock.advance(61)
        moves = keeper.store.references.tag_moves("a", "latest")
        assert {str(move.digest) for move in moves} == set(digests)
        assert len(moves) == 3


async def test_blob_sizes_are_asked_once(tmp_path):
    async with fresh(tmp_path) as (keeper, clock, parent):
        digest = "sha256:" + "7" * 64
        assert await asyncio.gather(*(keeper.blob_size("a", digest) for _ in range(20))) == [17] * 20
        assert parent.asked == [("HEAD", "a", digest)]
        clock.advance(61)
        await keeper.blob_size("a", digest)
        assert len(parent.asked) == 2


async def test_refusals_of_blobs_name_the_blob(tmp_path):
    async with fresh(tmp_path) as (keeper, _, _):
        digest = "sha256:" + "7" * 64
        keeper.fills.failure = errors.ParentUnreachable("away", retry_after=2)
        with pytest.raises(errors.ParentUnreachable) as refusal:
            await keeper.blob("a", digest, 0, -1, True)
        assert errors.status_and_code(refusal.value) == (503, "BLOB_UNKNOWN")
        keeper.fills.failure = errors.ParentNotFound("none")
        for _ in range(2):
            with pytest.raises(errors.BlobUnknown):
                await keeper.blob("a", digest, 0, -1, True)
            keeper.fills.failure = None  # the second time it is remembered


async def test_lists_are_kept_for_offline(tmp_path):
    async with fresh(tmp_path) as (keeper, clock, parent):
        parent.listed = ["1", "2"]
        await keeper.tags("a")
        assert keeper.store.references.lists.tag_list("a").tags == ("1", "2")
        clock.advance(30)
        assert await keeper.tags("a")
        assert parent.asked == [("tags", "a")]
        clock.advance(60)
        parent.failure = errors.ParentUnreachable("away")
        answer = await keeper.tags("a")
        assert (answer.age, answer.stale) == (90, "away")


async def test_a_list_nobody_knows_is_refused(tmp_path):
    async with fresh(tmp_path) as (keeper, _, parent):
        parent.failure = errors.ParentNotFound("none")
        with pytest.raises(errors.NameUnknown):
            await keeper.tags("a")
        parent.failure = errors.ParentUnreachable("away")
        with pytest.raises(errors.ParentUnreachable) as refusal:
            await keeper.tags("b")
        assert refusal.value.code == "NAME_UNKNOWN"


async def test_a_list_that_no_parent_ever_said_has_no_age(tmp_path):
    async with fresh(tmp_path) as (keeper, _, parent):
        parent.push("latest", manifest())
        await keeper.manifest("a", "latest")
        parent.failure = errors.ParentUnreachable("away")
        assert await keeper.tags("a") == ListAnswer(None, "away")


async def test_referrers_are_fetched_once_and_kept(tmp_path):
    async with fresh(tmp_path) as (keeper, clock, parent):
        subject = "sha256:" + "7" * 64
        parent.found = [Descriptor("m", "sha256:" + "8" * 64, 5, "sbom", {"a": "b"})]
        await asyncio.gather(*(keeper.referrers("a", subject) for _ in range(9)))
        assert parent.asked == [("referrers", "a", subject)]
        parent.failure = errors.ParentUnreachable("away")
        clock.advance(1000)
        assert (await keeper.referrers("a", subject)).stale == "away"
        held = keeper.store.references.lists.referrers("a", Digest.parse(subject))
        assert held.descriptors == tuple(parent.found)


async def test_case_trust_22_made_up_names_leave_nothing_in_the_store(tmp_path):
    """Strangers may ask for what they like; what the parent has not is remembered in memory alone, for as long as a
    list counts, and no more of it than the memory has room for."""
    async with fresh(tmp_path) as (keeper, clock, parent):
        before = keeper.store.statistics().committed
        subjects = ["sha256:" + f"{number:064x}" for number in range(50)]
        for _ in range(2):
            for subject in subjects:
                assert await keeper.referrers(f"made/up-{subject[-4:]}", subject) == ListAnswer(unstored=())
            assert await keeper.tags("made/up") == ListAnswer(unstored=())
        assert len(parent.asked) == 51
        assert keeper.store.statistics().committed == before
        assert keeper.store.references.repositories() == []
        clock.advance(61)
        parent.failure = errors.ParentUnreachable("away")
        for ask in (keeper.referrers("made/up-0000", subjects[0]), keeper.tags("made/up")):
            with pytest.raises(errors.ParentUnreachable):  # it was not said that there is nothing
                await ask


async def test_case_trust_22_the_empty_list_of_what_is_held_is_kept(tmp_path):
    """Without a parent it says that nothing was signed; not to know it would be a refusal."""
    async with fresh(tmp_path) as (keeper, clock, parent):
        subject = parent.push("latest", manifest())
        await keeper.manifest("a", "latest")
        assert await keeper.referrers("a", subject) == ListAnswer()
        parent.failure = errors.ParentUnreachable("away")
        clock.advance(1000)
        assert (await keeper.referrers("a", subject)).stale == "away"


async def test_an_offline_parent_is_probed_once_an_interval(tmp_path):
    async with fresh(tmp_path) as (keeper, clock, parent):
        await keeper.start()
        for state, probes in (("online", 0), ("offline", 1), ("offline", 2)):
            parent.state = state
            while clock.sleepers < 10:  # every round of the keeper
                await asyncio.sleep(0)
            clock.advance(10)
            while clock.sleepers < 10:  # every round of the keeper
                await asyncio.sleep(0)
            assert parent.asked.count(("probe",)) == probes


async def test_status_says_what_is_wrong(tmp_path):
    async with fresh(tmp_path) as (keeper, _, parent):
        parent.state = "offline"
        status = await keeper.status()
        assert status.ready
        assert status.parents == {"": "offline"}
        assert [word for word in ("disk", "offline") if any(word in t for t in status.troubles)] == [
            "disk",
            "offline",
        ]
        assert "parent.default.requests" in status.counters
