"""Case 77: an index under a fallback tag brings in the referrers it lists, and nothing else (references.md 2.9)."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from holdfast_core import Descriptor, Digest, Store
from holdfast_core.changes import referrers_tag
from support.stores import MEDIA, dump, push, put_manifest

INDEX = "application/vnd.oci.image.index.v1+json"
SUBJECT = Digest.of(b"subject")
TAG = f"sha256-{SUBJECT.hex}"


def manifest(**fields: Any) -> bytes:
    return json.dumps({"schemaVersion": 2, **fields}).encode()


def naming(subject: object = None, **fields: Any) -> bytes:
    """A manifest with a subject."""
    subject = {"digest": str(SUBJECT), "size": 7} if subject is None else subject
    return manifest(subject=subject, **fields)


def listing(*digests: object) -> bytes:
    """An index that lists them, and claims what is not so."""
    claims = {"mediaType": "wrong/type", "artifactType": "wrong", "size": 1, "annotations": {"wrong": "yes"}}
    return manifest(manifests=[{"digest": str(d), **claims} for d in digests])


def listed(store: Store, subject: Digest = SUBJECT) -> tuple[Descriptor, ...]:
    found = store.references.lists.referrers("r", subject)
    return () if found is None else found.descriptors


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_case_77_what_the_index_lists_becomes_a_referrer(store: Store, algorithm: str) -> None:
    subject = Digest.of(b"subject", algorithm)
    own = {"digest": str(subject)}
    image = naming(own, config={"mediaType": "config/type"}, annotations={"k": "v", "n": 5})
    artifact = naming(own, artifactType="artifact/type", config={"mediaType": "config/type"})
    index = naming(own, manifests=[])
    large = naming(own, artifactType="large", padding="x" * 50_000)
    digests = [push(store, "r", body) for body in (image, artifact, index, large)]
    assert listed(store, subject) == ()
    tag = f"{algorithm}-{subject.hex[:64]}"
    push(store, "r", listing(*digests, digests[0]), "other", tag, "v1")
    expected = [
        Descriptor(MEDIA, str(digests[0]), len(image), "config/type", {"k": "v"}),
        Descriptor(MEDIA, str(digests[1]), len(artifact), "artifact/type"),
        Descriptor(MEDIA, str(digests[2]), len(index)),
        Descriptor(MEDIA, str(digests[3]), len(large), "large"),
    ]
    assert sorted(listed(store, subject), key=lambda d: d.digest) == sorted(expected, key=lambda d: d.digest)


def test_case_77_the_true_subject_counts_not_the_tags(store: Store) -> None:
    other = Digest.of(b"another subject")
    digest = push(store, "r", naming({"digest": str(other)}))
    push(store, "r", listing(digest), TAG)
    assert listed(store) == ()
    assert [d.digest for d in listed(store, other)] == [str(digest)]


def test_case_77_a_referrer_that_is_known_is_left_as_it_is(store: Store) -> None:
    digest = push(store, "r", naming(), subject=SUBJECT, artifact_type="mine")
    push(store, "r", listing(digest), TAG)
    assert listed(store) == (Descriptor(MEDIA, str(digest), len(naming()), "mine"),)


WRONG = {
    "not held": lambda store: listing(Digest.of(b"missing")),
    "held elsewhere": lambda store: listing(push(store, "q", naming())),
    "held as a blob": lambda store: listing(pushed_blob(store, naming())),
    "no subject": lambda store: listing(push(store, "r", manifest())),
    "subject of null": lambda store: listing(push(store, "r", naming(subject=[]))),
    "subject without digest": lambda store: listing(push(store, "r", naming({"size": 1}))),
    "subject of no digest": lambda store: listing(push(store, "r", naming({"digest": "sha256:x"}))),
    "no JSON": lambda store: listing(push(store, "r", b"{")),
    "deep": lambda store: listing(push(store, "r", b"[" * 100_000)),
    "not text": lambda store: listing(push(store, "r", b'{"subject":{"digest":"\xff"}}')),
    "itself": lambda store: manifest(manifests=[{"digest": str(Digest.of(b"cycle"))}]),
    "no list": lambda store: manifest(manifests={"digest": str(SUBJECT)}),
    "no objects": lambda store: manifest(manifests=[1, None, "x", [], {"digest": 5}, {"digest": "x"}]),
    "no index": lambda store: b'"index"',
    "nothing": lambda store: b"",
}


def pushed_blob(store: Store, body: bytes) -> Digest:
    digest = Digest.of(body)
    store.blobs.push_inline("r", digest, body, now=1.0).result()
    return digest


@pytest.mark.parametrize("wrong", WRONG)
def test_case_77_what_is_wrong_is_passed_over(store: Store, wrong: str) -> None:
    body = WRONG[wrong](store)
    good = push(store, "r", naming(artifactType="good"))
    index = push(store, "r", body, TAG)
    assert listed(store) == ()
    assert store.references.manifest("r", index) is not None
    both = json.loads(listing(good)) | {"more": 1}
    if wrong in ("no objects", "not held", "no JSON"):
        both["manifests"] += json.loads(body)["manifests"]
    push(store, "r", json.dumps(both).encode(), TAG)
    assert [d.digest for d in listed(store)] == [str(good)]


def test_case_77_manifests_that_name_one_another(store: Store) -> None:
    """A cycle cannot be made by digests; two that name each other's tag, and a chain, can."""
    first = push(store, "r", naming())
    second = push(store, "r", naming({"digest": str(first)}))
    index = listing(first, second, SUBJECT)
    chain = json.loads(index) | {"subject": {"digest": str(second)}}
    push(store, "r", json.dumps(chain).encode(), TAG, f"sha256-{first.hex}", subject=second)
    assert [d.digest for d in listed(store)] == [str(first)]
    assert [d.digest for d in listed(store, first)] == [str(second)]
    assert len(listed(store, second)) == 1


@pytest.mark.parametrize("padding", [0, 50_000])
def test_files_of_listed_manifests_are_read_on_no_thread_that_others_wait_for(
    store: Store, monkeypatch: pytest.MonkeyPatch, padding: int
) -> None:
    digests = [push(store, "r", naming(padding="x" * 50_000, number=n)) for n in range(3)]
    known = push(store, "r", naming(padding="x" * 50_000), subject=SUBJECT)
    opened: list[tuple[Digest, str]] = []
    plain = store._directory.open_blob

    def noted(digest: Digest, size: int) -> tuple[int, tuple[int, ...]]:
        opened.append((digest, threading.current_thread().name))
        return plain(digest, size)

    monkeypatch.setattr(store._directory, "open_blob", noted)
    index = json.loads(listing(*digests, known)) | {"padding": "x" * padding}
    push(store, "r", json.dumps(index).encode(), TAG)
    assert {digest for digest, _ in opened} == set(digests)
    assert all(name.startswith("holdfast-files") for _, name in opened), opened
    assert {d.digest for d in listed(store)} == {str(digest) for digest in (*digests, known)}


def test_a_listed_manifest_that_goes_meanwhile_is_no_referrer(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone, kept, own = (push(store, "r", naming(number=n)) for n in range(3))
    plain = store.references._listed

    def slow(repository: str, body: bytes) -> object:
        found = plain(repository, body)
        assert len(found) == 3
        store.references.delete_manifest("r", gone, now=2.0).result()
        push(store, "r", naming(number=2), subject=SUBJECT, artifact_type="own")
        return found

    monkeypatch.setattr(store.references, "_listed", slow)
    push(store, "r", listing(gone, kept, own), TAG)
    assert {(d.digest, d.artifact_type) for d in listed(store)} == {(str(kept), ""), (str(own), "own")}


def test_one_push_brings_in_so_many_and_the_next_one_more(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(referrers_tag, "MANIFESTS", 2)
    digests = [push(store, "r", naming(number=n)) for n in range(5)]
    for count in (2, 4, 5, 5):
        push(store, "r", listing(*digests), TAG)
        assert [d.digest for d in listed(store)] == sorted(map(str, digests[:count]))


def test_case_77_an_index_over_the_limit_is_stored_and_not_looked_into(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = push(store, "r", naming())
    body = listing(digest)
    monkeypatch.setattr(referrers_tag, "INDEX_BYTES", len(body) - 1)
    push(store, "r", body, TAG)
    assert listed(store) == ()
    monkeypatch.setattr(referrers_tag, "INDEX_BYTES", len(body))
    push(store, "r", body, TAG)
    assert len(listed(store)) == 1


@pytest.mark.parametrize(
    "tag",
    ["v1", TAG[:-1], TAG + "0", TAG.upper(), TAG + ".sig", f"sha512-{'0' * 100}", f"x{TAG}", f"{TAG}\n"],
)
def test_other_tags_are_no_fallback_tags(store: Store, tag: str) -> None:
    digest = push(store, "r", naming())
    push(store, "r", listing(digest), tag)
    assert listed(store) == ()


def test_a_refused_index_brings_nothing_in(store: Store, root: Path) -> None:
    from holdfast_core import Lock, LockTarget
    from holdfast_core.errors import ContentLocked

    digest = push(store, "r", naming(), "v1")
    store.references.set_lock("r", LockTarget("tag", "v1"), Lock(write=False), now=1.0).result()
    before = dump(store, root)
    with pytest.raises(ContentLocked):
        push(store, "r", listing(digest), TAG, "v1")
    assert dump(store, root) == before
    put_manifest(store, "r", listing(digest))
    assert listed(store) == ()
