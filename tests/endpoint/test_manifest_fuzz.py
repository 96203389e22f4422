"""Any body at all, pushed as a manifest: it is kept to the byte, or refused in the spec's words and nothing changed
(references.md 4.1: I1 to I4 and I8)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from holdfast.errors import CODES
from holdfast_core.digest import Digest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.pushing import OCI_INDEX, OCI_MANIFEST, OPEN, Registry, code, descriptor, image, index, pushing

NONE = f"sha256:{'a' * 64}"
VALUE = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(allow_nan=False, allow_infinity=False),
        st.text(max_size=8),
        st.just(descriptor(NONE)),
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
#: a document has them and a reader that knows the specification passes them over
FOREIGN = st.dictionaries(st.text(max_size=6).map("x-{}".format), VALUE, max_size=3)
KNOWN = ["schemaVersion", "mediaType", "config", "layers", "manifests", "subject", "annotations", "MediaType"]
KEY = st.one_of(
    st.sampled_from(KNOWN),
    st.text(max_size=6),
)
MANY = settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
FEW = settings(MANY, max_examples=40)
CUT = st.tuples(st.integers(0, 400), st.integers(0, 20), st.binary(max_size=6))
KIND = st.sampled_from([OCI_MANIFEST, OCI_INDEX, "", "application/json", f"{OCI_INDEX} ; a=b", "text/html"])
REFERENCE = st.one_of(
    st.sampled_from(["tag", "sha256", "sha512", "tags"]), st.text(st.characters(codec="utf-8"), max_size=6)
)


def documents(held: str) -> st.SearchStrategy[bytes]:
    """Manifests, most of them not quite."""
    plain = st.sampled_from([image(held), image(held, held), index(), index(held, NONE)])
    changed = st.builds(_changed, plain, st.dictionaries(KEY, VALUE, max_size=2))
    return st.one_of(plain, changed, st.builds(_cut, changed, CUT), st.binary(max_size=40))


def _changed(document: bytes, changes: dict[str, Any]) -> bytes:
    return json.dumps(json.loads(document) | changes).encode()


def _cut(document: bytes, cut: tuple[int, int, bytes]) -> bytes:
    start, length, put = cut
    return document[:start] + put + document[start + length :]


def _path(reference: str, body: bytes) -> str:
    if reference in ("sha256", "sha512"):
        return str(Digest.of(body, reference))
    return f"{Digest.of(body)}?tag=a&tag=b" if reference == "tags" else quote(reference, safe="")


async def check(node: Registry, body: bytes, kind: str, reference: str) -> int:
    """One push and what must hold after it; its status."""
    before, path = node.dump(), _path(reference, body)
    headers = {"Content_Type": kind} if kind else {}
    answer = await node.ask("PUT", f"/v2/a/manifests/{path}", body, **headers)
    if answer.status != 201:
        assert 400 <= answer.status < 500
        assert code(answer) in CODES
        assert node.dump() == before
        return answer.status
    location = answer.headers["location"]
    assert location == f"/v2/a/manifests/{answer.headers['docker-content-digest']}"
    for target in (location, f"/v2/a/manifests/{path.partition('?')[0]}"):
        got = await node.ask("GET", target)
        assert (got.status, got.body) == (200, body)
        assert got.headers["docker-content-digest"] == answer.headers["docker-content-digest"]
        assert got.headers["content-type"] in (OCI_MANIFEST, OCI_INDEX)
    return answer.status


Attempt = Callable[[bytes, str, str], int]


@pytest.fixture
def node(tmp_path: Path) -> Iterator[tuple[Attempt, str]]:
    """A push to a node, checked, and the digest of a blob that it has."""
    with asyncio.Runner() as runner:
        context = pushing(tmp_path / "data", OPEN)
        registry = runner.run(context.__aenter__())
        try:
            yield (
                lambda *what: runner.run(check(registry, *what)),
                runner.run(registry.blob("a", b"{}")),
            )
        finally:
            runner.run(context.__aexit__(None, None, None))


def test_case_35_37_any_body_is_kept_or_refused(node: tuple[Attempt, str]) -> None:
    attempt, held = node

    @MANY
    @given(documents(held), KIND, REFERENCE)
    def tried(body: bytes, kind: str, reference: str) -> None:
        attempt(body, kind, reference)

    tried()


def test_case_35_37_a_manifest_is_kept_whatever_else_it_says(node: tuple[Attempt, str]) -> None:
    attempt, held = node
    images = st.tuples(st.sampled_from([image(held), image(held, held)]), st.sampled_from([OCI_MANIFEST, ""]))
    kinds = st.sampled_from([OCI_INDEX, f"{OCI_INDEX} ; a=b", ""])
    sound = st.one_of(images, st.tuples(st.sampled_from([index(), index(held)]), kinds))

    @FEW
    @given(sound, FOREIGN, st.sampled_from(["tag", "sha256", "sha512", "tags"]))
    def tried(document: tuple[bytes, str], foreign: dict[str, Any], reference: str) -> None:
        body, kind = document
        assert attempt(_changed(body, foreign), kind, reference) == 201

    tried()


def test_case_35_37_a_manifest_that_ends_early_is_refused(node: tuple[Attempt, str]) -> None:
    attempt, held = node
    plain = st.sampled_from([image(held), image(held, held), index(), index(held, NONE)])

    @FEW
    @given(plain, st.integers(1), KIND, st.sampled_from(["tag", "sha256", "sha512", "tags"]))
    def tried(body: bytes, less: int, kind: str, reference: str) -> None:
        assert attempt(body[: -1 - less % len(body)], kind, reference) == 400

    tried()
