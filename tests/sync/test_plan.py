"""The plan: order, links, exact indexes, absent platforms, referrers, fit; and 100,000 tags."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field

import pytest
from holdfast.config import SyncRepository
from holdfast.manifest import parse
from holdfast.sync.image import Branch, Facts, Piece, Referrer, facts_of
from holdfast.sync.plan import Action, Plan, Planner, Step, Target, plan
from holdfast.sync.wanted import Rule
from hypothesis import given
from hypothesis import strategies as st
from support.programs import ROOT

ALL = Rule(SyncRepository(name="a"))


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

    def take(self, action: Action) -> None:
        """Do it."""
        if action.step == Step.TAG:
            self.tags[(action.repository, action.tag)] = action.digest
        else:
            self.held.add(action.digest)
            self.links.add((action.repository, action.digest))


def image(*pieces: str, size: int = 100) -> Facts:
    return Facts(size, tuple(Piece(p, 1000) for p in pieces))


def planned(here: Here, *targets: Target, rule: Rule = ALL) -> Plan:
    return plan([(rule, targets)], here, here)


def steps(found: Plan) -> list[str]:
    return [f"{a.step.name} {a.repository} {a.tag or a.digest}" for a in found.actions()]


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
    found = planned(Here(INDEX), Target("a", "v1", "i"))
    told = steps(found)
    assert told[:4] == ["FETCH_BLOB a c1", "FETCH_BLOB a base", "FETCH_BLOB a l1", "FETCH_MANIFEST a m1"]
    assert told[-2:] == ["FETCH_MANIFEST a i", "TAG a v1"]
    assert told.count("FETCH_BLOB a base") == 1
    assert found.size == 9 * 1000 + 4 * 100 + 50


def test_other_platforms_stay_absent_and_attestations_go_with_their_child() -> None:
    rule = Rule(SyncRepository(name="a", platforms=("linux/arm64",)))
    found = planned(Here(INDEX), Target("a", "v1", "i"), rule=rule)
    assert [a.digest for a in found.actions()] == ["c2", "base", "l2", "m2", "cb", "lb", "att2", "i", "i"]
    assert found.absent == 2
    assert found.words == []


def test_an_index_without_the_platform_says_so() -> None:
    rule = Rule(SyncRepository(name="a", platforms=("windows/amd64",)))
    found = planned(Here(INDEX), Target("a", "v1", "i"), rule=rule)
    assert [a.step for a in found.actions()] == [Step.FETCH_MANIFEST, Step.TAG]
    assert found.words == ["a:v1: its index has no child for windows/amd64"]


def test_what_any_repository_has_is_linked_and_a_part_is_not_fetched_again() -> None:
    here = Here({"m": image("c", "base", "l")}, held={"base"}, links={("b", "base")}, parts={"l": 400})
    found = planned(here, Target("a", "v1", "m"))
    assert steps(found) == [
        "FETCH_BLOB a c",
        "LINK_BLOB a base",
        "FETCH_BLOB a l",
        "FETCH_MANIFEST a m",
        "TAG a v1",
    ]
    assert found.size == 1000 + 600 + 100


def test_a_blob_that_an_earlier_image_brings_is_linked_by_the_later_ones() -> None:
    here = Here({"m": image("c", "base"), "n": image("d", "base")})
    one = (Rule(SyncRepository(name="a")), [Target("a", "v1", "m")])
    other = (Rule(SyncRepository(name="b")), [Target("b", "v1", "n")])
    found = plan([one, other], here, here)
    assert "LINK_BLOB b base" in steps(found)
    assert found.size == 3 * 1000 + 200


def test_what_is_here_needs_nothing_and_a_moved_tag_only_its_move() -> None:
    here = Here({"m": image("c")}, tags={("a", "v1"): "m"})
    here.links = {("a", "m"), ("a", "c")}
    assert planned(here, Target("a", "v1", "m")).here == 1
    assert steps(planned(here, Target("a", "v2", "m"))) == ["TAG a v2"]


def test_what_was_not_read_is_read_first_and_planned_again() -> None:
    here = Here()
    planner = Planner(here, here)
    first = planner.image(ALL, Target("a", "v1", "i"))
    assert [a.step for a in first.actions] == [Step.READ_MANIFEST]
    here.known["i"] = INDEX["i"]
    second = planner.image(ALL, Target("a", "v1", "i"))
    assert {a.step for a in second.actions} == {Step.READ_MANIFEST}
    assert second.unread == 4
    here.known.update(INDEX)
    assert planner.image(ALL, Target("a", "v1", "i")).unread == 0


def test_referrers_follow_their_subject_by_type() -> None:
    here = Here({"m": image("c"), "sig": image("s"), "sbom": image("b"), "sig2": image("s2")})
    here.attached = {
        "m": [Referrer("sig", 100, "signature"), Referrer("sbom", 100, "sbom")],
        "sbom": [Referrer("sig2", 100, "signature")],
    }
    rule = Rule(SyncRepository(name="a", referrers=("signature",)))
    assert [a.digest for a in planned(here, Target("a", "v1", "m"), rule=rule).actions()] == [
        "c",
        "m",
        "m",
        "s",
        "sig",
    ]
    assert planned(here, Target("a", "v1", "m")).images[0].actions[-1].digest == "sig2"


def test_a_nested_index_has_an_end() -> None:
    deep = {f"i{n}": Facts(1, (), (Branch(f"i{n + 1}", 1),)) for n in range(20)}
    found = planned(Here(deep), Target("a", "v1", "i0"))
    assert "nested over 8 deep" in found.words[0]


def test_whether_it_fits() -> None:
    here = Here({f"m{n}": image(f"c{n}") for n in range(10)})
    found = planned(here, *(Target("a", f"v{n}", f"m{n}") for n in range(10)))
    assert found.size == 11_000
    assert found.fit(seconds=100, rate=110).whole
    late = found.fit(seconds=50, rate=110)
    assert (late.whole, late.images, late.size, late.seconds) == (False, 5, 5500, 100.0)
    assert found.fit(seconds=50).whole is None
    assert found.fit(size=2500).images == 2
    assert found.fit().whole
    assert "does not fit" in late.words()
    assert "cannot be said" in found.fit(seconds=1).words()


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
    found = facts_of(parse(body, ""), len(body))
    assert [b.platform for b in found.branches] == ["linux/arm64/v8", "", ""]
    assert [b.describes for b in found.branches] == ["", digest, ""]


names = st.sampled_from([f"d{n}" for n in range(12)])


@given(
    st.dictionaries(names, st.lists(st.sampled_from([f"b{n}" for n in range(8)]), max_size=4), min_size=1),
    st.lists(st.tuples(st.sampled_from(["a", "b", "c"]), st.sampled_from(["x", "y"]), names), max_size=12),
    st.sets(st.sampled_from([f"b{n}" for n in range(8)])),
)
def test_done_once_it_is_complete_and_no_byte_twice(
    images: dict[str, list[str]], wanted: list[tuple[str, str, str]], held: set[str]
) -> None:
    here = Here({name: image(*blobs) for name, blobs in images.items()}, held=set(held))
    final = {(r, t): d for r, t, d in wanted if d in images}
    targets = [Target(r, t, d) for (r, t), d in final.items()]
    found = planned(here, *targets)
    fetched = [a.digest for a in found.actions() if a.step in (Step.FETCH_BLOB, Step.FETCH_MANIFEST)]
    assert len(fetched) == len(set(fetched))
    assert not set(fetched) & held
    for action in found.actions():
        if action.step in (Step.FETCH_MANIFEST, Step.LINK_MANIFEST):
            assert all((action.repository, p.digest) in here.links for p in here.known[action.digest].pieces)
        if action.step == Step.TAG:
            assert (action.repository, action.digest) in here.links
        if action.step in (Step.LINK_BLOB, Step.LINK_MANIFEST):
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
    assert Target("a/b", "v1", "m").key == "a/b:v1"
    assert Target("a/b", "", "sha256:0").key == "a/b@sha256:0"
    with pytest.raises(ValueError, match="9"):
        Step(9)
