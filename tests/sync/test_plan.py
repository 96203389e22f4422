"""The plan: order, links, exact indexes, absent platforms, referrers, fit; and 100,000 tags."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field

import pytest
from holdfast.config import SyncRepositorySection
from holdfast.oci.image import Branch, Facts, ImageBlob, Referrer, facts_of
from holdfast.oci.manifest import parse
from holdfast.sync.plan import Image, Plan, PlannedAction, Planner, PlanStep, SyncTarget, plan
from holdfast.sync.source.selection import Rule
from hypothesis import given
from hypothesis import strategies as st
from support.programs import ROOT

ALL = Rule(SyncRepositorySection(name="a"))


@dataclass
class Here:
    """A store and what is known of manifests."""

    known: dict[str, Facts] = field(default_factory=dict)
    held: set[str] = field(default_factory=set)
    links: set[tuple[str, str]] = field(default_factory=set)
    parts: dict[str, int] = field(default_factory=dict)
    tags: dict[tuple[str, str], str] = field(default_factory=dict)
    attached: dict[str, list[Referrer]] = field(default_factory=dict)

    def has(self, digest: str) -> bool:
        return digest in self.held

    def linked(self, repository: str, digest: str) -> bool:
        return (repository, digest) in self.links

    def part(self, digest: str) -> int:
        return self.parts.get(digest, 0)

    def tag(self, repository: str, name: str) -> str:
        return self.tags.get((repository, name), "")

    def facts(self, repository: str, digest: str) -> Facts | None:
        return self.known.get(digest)

    def referrers(self, repository: str, digest: str) -> list[Referrer]:
        return self.attached.get(digest, [])

    def take(self, action: PlannedAction) -> None:
        """Do it."""
        if action.step == PlanStep.TAG:
            self.tags[(action.repository, action.tag)] = action.digest
        else:
            self.held.add(action.digest)
            self.links.add((action.repository, action.digest))


def image(*pieces: str, size: int = 100) -> Facts:
    return Facts(size, tuple(ImageBlob(p, 1000) for p in pieces))


class Counted(Here):
    """Counts what is looked at, and bears no more than `most`."""

    looked, most = 0, 0

    def facts(self, repository: str, digest: str) -> Facts | None:
        self.looked += 1
        assert self.looked <= self.most
        return super().facts(repository, digest)


def test_s41_indexes_that_share_their_children_cost_each_of_them_once() -> None:
    """Thirty indexes a level, each of which names all of the next: 30^8 ways down."""
    here, wide, deep = Counted(), 30, 40
    here.most = 1 + 8 * wide
    for level in range(deep):
        below = tuple(Branch(f"{level + 1}-{at}", 100, "") for at in range(wide))
        here.known |= {f"{level}-{at}": Facts(50, (), below) for at in range(wide)}
    result = planned(here, SyncTarget("a", "v1", "0-0"))
    assert any("nested over 8 deep" in remark for remark in result.words)


def planned(here: Here, *targets: SyncTarget, rule: Rule = ALL) -> Plan:
    return plan([(rule, targets)], here, here)


def steps(result: Plan) -> list[str]:
    return [f"{a.step.name} {a.repository} {a.tag or a.digest}" for a in result.actions()]


INDEX = {
    "i": Facts(
        50,
        (),
        (
            Branch("m1", 100, "linux/amd64"),
            Branch("m2", 100, "linux/arm64/v8"),
            Branch("att1", 100, "", "m1"),
            Branch("att2", 100, "", "m2"),
        ),
    ),
    "m1": image("c1", "base", "l1"),
    "m2": image("c2", "base", "l2"),
    "att1": image("ca", "la"),
    "att2": image("cb", "lb"),
}


def test_blobs_children_index_tag_in_this_order_and_each_once() -> None:
    result = planned(Here(INDEX), SyncTarget("a", "v1", "i"))
    lines = steps(result)
    assert lines[:4] == ["FETCH_BLOB a c1", "FETCH_BLOB a base", "FETCH_BLOB a l1", "FETCH_MANIFEST a m1"]
    assert lines[-2:] == ["FETCH_MANIFEST a i", "TAG a v1"]
    assert lines.count("FETCH_BLOB a base") == 1
    assert result.size == 9 * 1000 + 4 * 100 + 50


def test_other_platforms_stay_absent_and_attestations_go_with_their_child() -> None:
    rule = Rule(SyncRepositorySection(name="a", platforms=("linux/arm64",)))
    result = planned(Here(INDEX), SyncTarget("a", "v1", "i"), rule=rule)
    assert [a.digest for a in result.actions()] == ["c2", "base", "l2", "m2", "cb", "lb", "att2", "i", "i"]
    assert result.absent == 2
    assert result.words == []


def test_an_index_without_the_platform_says_so() -> None:
    rule = Rule(SyncRepositorySection(name="a", platforms=("windows/amd64",)))
    result = planned(Here(INDEX), SyncTarget("a", "v1", "i"), rule=rule)
    assert [a.step for a in result.actions()] == [PlanStep.FETCH_MANIFEST, PlanStep.TAG]
    assert result.words == ["a:v1: its index has no child for windows/amd64"]


def test_what_any_repository_has_is_linked_and_a_part_is_not_fetched_again() -> None:
    here = Here({"m": image("c", "base", "l")}, held={"base"}, links={("b", "base")}, parts={"l": 400})
    result = planned(here, SyncTarget("a", "v1", "m"))
    assert steps(result) == [
        "FETCH_BLOB a c",
        "LINK_BLOB a base",
        "FETCH_BLOB a l",
        "FETCH_MANIFEST a m",
        "TAG a v1",
    ]
    assert result.size == 1000 + 600 + 100


def test_a_blob_that_an_earlier_image_brings_is_linked_by_the_later_ones() -> None:
    here = Here({"m": image("c", "base"), "n": image("d", "base")})
    one = (Rule(SyncRepositorySection(name="a")), [SyncTarget("a", "v1", "m")])
    other = (Rule(SyncRepositorySection(name="b")), [SyncTarget("b", "v1", "n")])
    result = plan([one, other], here, here)
    assert "LINK_BLOB b base" in steps(result)
    assert result.size == 3 * 1000 + 200


def test_what_is_here_needs_nothing_and_a_moved_tag_only_its_move() -> None:
    here = Here({"m": image("c")}, tags={("a", "v1"): "m"})
    here.links = {("a", "m"), ("a", "c")}
    assert planned(here, SyncTarget("a", "v1", "m")).here == 1
    assert steps(planned(here, SyncTarget("a", "v2", "m"))) == ["TAG a v2"]


def test_what_was_not_read_is_read_first_and_planned_again() -> None:
    here = Here()
    planner = Planner(here, here)
    first = planner.image(ALL, SyncTarget("a", "v1", "i"))
    assert [a.step for a in first.actions] == [PlanStep.READ_MANIFEST]
    here.known["i"] = INDEX["i"]
    second = planner.image(ALL, SyncTarget("a", "v1", "i"))
    assert {a.step for a in second.actions} == {PlanStep.READ_MANIFEST}
    assert second.unread == 4
    here.known.update(INDEX)
    assert planner.image(ALL, SyncTarget("a", "v1", "i")).unread == 0


def test_referrers_follow_their_subject_by_type() -> None:
    here = Here({"m": image("c"), "sig": image("s"), "sbom": image("b"), "sig2": image("s2")})
    here.attached = {
        "m": [Referrer("sig", 100, "signature"), Referrer("sbom", 100, "sbom")],
        "sbom": [Referrer("sig2", 100, "signature")],
    }
    rule = Rule(SyncRepositorySection(name="a", referrers=("signature",)))
    assert [a.digest for a in planned(here, SyncTarget("a", "v1", "m"), rule=rule).actions()] == [
        "c",
        "m",
        "m",
        "s",
        "sig",
    ]
    assert planned(here, SyncTarget("a", "v1", "m")).images[0].actions[-1].digest == "sig2"


def test_a_nested_index_has_an_end() -> None:
    deep = {f"i{n}": Facts(1, (), (Branch(f"i{n + 1}", 1),)) for n in range(20)}
    result = planned(Here(deep), SyncTarget("a", "v1", "i0"))
    assert "nested over 8 deep" in result.words[0]


def test_whether_it_fits() -> None:
    here = Here({f"m{n}": image(f"c{n}") for n in range(10)})
    result = planned(here, *(SyncTarget("a", f"v{n}", f"m{n}") for n in range(10)))
    assert result.size == 11_000
    assert result.fit(seconds=100, rate=110).whole
    late = result.fit(seconds=50, rate=110)
    assert (late.whole, late.images, late.size, late.seconds) == (False, 5, 5500, 100.0)
    assert result.fit(seconds=50).whole is None
    assert result.fit(size=2500).images == 2
    assert result.fit().whole
    assert "does not fit" in late.words()
    assert "is not known" in result.fit(seconds=1).words()


def chain(count: int) -> dict[str, Facts]:
    """Indexes, each of which names the next one."""
    return {f"i{n}": Facts(1, (), (Branch(f"i{n + 1}", 1),)) for n in range(count)}


def test_eight_indexes_within_one_another_are_followed() -> None:
    eight = [f"i{n}" for n in range(9)]
    result = planned(Here(chain(20)), SyncTarget("a", "v1", "i0"))
    assert {a.digest for a in result.actions()} == set(eight)
    here = Here({"m": image("c")} | chain(20), attached={"m": [Referrer("i0", 1, "x")]})
    assert {a.digest for a in planned(here, SyncTarget("a", "v1", "m")).actions()} == {"m", "c", *eight}


def test_three_referrers_of_one_another_are_followed() -> None:
    here = Here({name: image(f"c{name}") for name in "mrstu"})
    here.attached = {one: [Referrer(other, 100, "x")] for one, other in ("mr", "rs", "st", "tu")}
    result = planned(here, SyncTarget("a", "v1", "m")).actions()
    assert [a.digest for a in result if a.step is PlanStep.FETCH_MANIFEST] == ["m", "r", "s", "t"]


def test_referrers_wait_until_the_image_was_read() -> None:
    here = Here({"sig": image("s")}, attached={"m": [Referrer("sig", 100, "signature")]})
    (result,) = planned(here, SyncTarget("a", "v1", "m")).images
    assert result.actions == (PlannedAction(PlanStep.READ_MANIFEST, "a", "m", 0, ""),)


def test_what_an_image_names_twice_is_brought_once() -> None:
    here = Here({"i": Facts(50, (), (Branch("m", 100), Branch("m", 100)))})
    (result,) = planned(here, SyncTarget("a", "v1", "i")).images
    assert (result.unread, [a.digest for a in result.actions]) == (1, ["m"])
    here.known["m"] = image("c", "l", "l")
    lines = steps(planned(here, SyncTarget("a", "v1", "i")))
    assert lines == [
        "FETCH_BLOB a c",
        "FETCH_BLOB a l",
        "FETCH_MANIFEST a m",
        "FETCH_MANIFEST a i",
        "TAG a v1",
    ]


def test_what_is_here_for_another_repository_costs_no_byte() -> None:
    here = Here({"m": image("c", "l")}, held={"m", "c"}, parts={"l": 1000})
    result = planned(here, SyncTarget("a", "v1", "m"))
    assert list(result.actions()) == [
        PlannedAction(PlanStep.LINK_BLOB, "a", "c", 0, ""),
        PlannedAction(PlanStep.FETCH_BLOB, "a", "l", 0, ""),
        PlannedAction(PlanStep.LINK_MANIFEST, "a", "m", 0, ""),
        PlannedAction(PlanStep.TAG, "a", "m", 0, "v1"),
    ]
    assert result.size == 0


def test_what_is_not_given_is_nothing() -> None:
    target = SyncTarget("a", "v1", "m")
    assert Image(target, (), 7) == Image(target, (), 7, 0, 0, ())
    assert Plan([]) == Plan([], 0, 0, 0, 0, [])
    assert [step.value for step in PlanStep] == [0, 1, 2, 3, 4, 5]


def test_whether_it_fits_in_words() -> None:
    """Three images of 1,100 bytes."""
    here = Here({f"m{n}": image(f"c{n}") for n in range(3)})
    result = planned(here, *(SyncTarget("a", f"v{n}", f"m{n}") for n in range(3)))
    assert result.fit().words() == "it fits"
    assert result.fit(rate=27.5).words() == "it fits (2 min)"
    assert result.fit(size=2200, rate=27.5).words() == "it does not fit (2 min): 2 images will be here"
    assert result.fit(size=3299).words() == "it does not fit: 2 images will be here"
    assert result.fit(size=3300).words() == "it fits"
    assert result.fit(seconds=float("inf")).words() == "it fits"
    assert planned(here).fit(seconds=10).words() == "it fits"
    unknown = result.fit(seconds=10)
    assert unknown.words() == "whether it fits is not known: no rate was measured yet"
    assert (unknown.whole, unknown.images, unknown.size, unknown.seconds) == (None, 0, 0, None)
    less = [(result.fit(size=1100, seconds=20, rate=110)), (result.fit(size=2200, seconds=10, rate=110))]
    assert [(fit.whole, fit.images, fit.size, fit.seconds) for fit in less] == [(False, 1, 1100, 30.0)] * 2


def test_facts_of_a_manifest() -> None:
    digest = "sha256:" + "a" * 64
    body = (
        b'{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":['
        b'{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"%s","size":7,'
        b'"platform":{"os":"linux","architecture":"arm64","variant":"v8"}},'
        b'{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"%s","size":7,'
        b'"annotations":{"vnd.docker.reference.digest":"%s"},'
        b'"platform":{"os":"unknown","architecture":"unknown"}},'
        b'{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"%s","size":7,"platform":7}]}'
    ) % ((digest.encode(),) * 4)
    facts = facts_of(parse(body, ""), len(body))
    assert [b.platform for b in facts.branches] == ["linux/arm64/v8", "", ""]
    assert [b.describes for b in facts.branches] == ["", digest, ""]


names = st.sampled_from([f"d{n}" for n in range(12)])


@given(
    st.dictionaries(names, st.lists(st.sampled_from([f"b{n}" for n in range(8)]), max_size=4), min_size=1),
    st.lists(st.tuples(st.sampled_from(["a", "b", "c"]), st.sampled_from(["x", "y"]), names), max_size=12),
    st.sets(st.sampled_from([f"b{n}" for n in range(8)])),
)
def test_done_once_it_is_complete_and_no_byte_twice(
    images: dict[str, list[str]], tags: list[tuple[str, str, str]], held: set[str]
) -> None:
    here = Here({name: image(*blobs) for name, blobs in images.items()}, held=set(held))
    final = {(r, t): d for r, t, d in tags if d in images}
    targets = [SyncTarget(r, t, d) for (r, t), d in final.items()]
    result = planned(here, *targets)
    fetched = [a.digest for a in result.actions() if a.step in (PlanStep.FETCH_BLOB, PlanStep.FETCH_MANIFEST)]
    assert len(fetched) == len(set(fetched))
    assert not set(fetched) & held
    for action in result.actions():
        if action.step in (PlanStep.FETCH_MANIFEST, PlanStep.LINK_MANIFEST):
            assert all((action.repository, p.digest) in here.links for p in here.known[action.digest].pieces)
        if action.step == PlanStep.TAG:
            assert (action.repository, action.digest) in here.links
        if action.step in (PlanStep.LINK_BLOB, PlanStep.LINK_MANIFEST):
            assert action.digest in here.held
        here.take(action)
    assert planned(here, *targets).images == []
    assert here.tags == final


def test_a_plan_over_100_000_tags_needs_at_most_300_mb() -> None:
    """In a process of its own, so that the memory is the plan's, its input's included. The time (bound: 2 s) is printed
    and decides nothing."""
    command = [sys.executable, "-m", "benchmarks.large_plan"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    images, seconds, megabytes = done.stdout.split()
    assert int(images) == 100_000
    print(f"100,000 tags, nothing held: {float(seconds):.2f} s of processor time, {megabytes} MB in all")
    assert float(megabytes) <= 300.0


def test_keys() -> None:
    assert SyncTarget("a/b", "v1", "m").key == "a/b:v1"
    assert SyncTarget("a/b", "", "sha256:0").key == "a/b@sha256:0"
    with pytest.raises(ValueError, match="9"):
        PlanStep(9)
