"""Names, tags and digests over HTTP, into a root: what is outside the grammar changes nothing, what is inside
keeps apart from everything that looks like it (cases 1 to 11)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from urllib.parse import quote

import pytest
from holdfast.testing.random_content import digest_of
from holdfast.testing.sample import OCI_INDEX
from support.node import Node
from support.transfer import Answer, fetch, target_of

HEX = "0123456789abcdef" * 4
BODY = b"some bytes"
DIGEST = digest_of(BODY)
KIND = {"Content-Type": OCI_INDEX}
WRONG, UNKNOWN = (400, 404), (400, 404, 405)


def index(note: str = "", *children: str) -> bytes:
    """An index that differs by its note."""
    entries = [{"mediaType": "a/b", "digest": digest, "size": 1} for digest in children]
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_INDEX,
        "manifests": entries,
        "annotations": {"note": note},
    }
    return json.dumps(document).encode()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A root that takes pushes from anybody and lists its repositories."""
    place = tmp_path_factory.mktemp("root")
    with Node(place, "--anonymous", "push", configuration="catalog = true\n", workers=1) as node:
        yield node


def repositories(node: Node) -> list[str]:
    """All there are."""
    names: list[str] = json.loads(fetch(node.url, "/v2/_catalog").body)["repositories"]
    return names


@pytest.fixture
def root(served: Node) -> Iterator[Node]:
    """The root; a test leaves no file beside its store, and it goes on serving."""
    place = served.data.parent
    before = {path.name for path in place.iterdir()}
    yield served
    assert {path.name for path in place.iterdir()} == before
    assert fetch(served.url, "/readyz").status == 200


def put(node: Node, name: str, reference: str, body: bytes = b"") -> Answer:
    """Put an index."""
    return fetch(node.url, f"/v2/{name}/manifests/{reference}", "PUT", headers=KIND, body=body or index())


def post(node: Node, name: str, query: str = "", body: bytes = b"") -> Answer:
    """Begin an upload, or do it at once."""
    return fetch(node.url, f"/v2/{name}/blobs/uploads/{query}", "POST", body=body)


def closed(node: Node, name: str, digest: str) -> Answer:
    """An upload of BODY, closed with a digest as the query has it; the session answers as before when refused."""
    target = target_of(post(node, name).headers["location"])
    done = fetch(node.url, f"{target}{'&' if '?' in target else '?'}digest={digest}", "PUT", body=BODY)
    if done.status != 201:
        assert fetch(node.url, target).status == 204
        assert fetch(node.url, target, "DELETE").status == 204
    return done


def refused(answer: Answer, code: str) -> None:
    """400, in the words of the specification."""
    assert (answer.status, json.loads(answer.body)["errors"][0]["code"]) == (400, code), answer


MALFORMED = [
    f"SHA256:{HEX}",
    f"sha256:{HEX.upper()}",
    f"sha256:{HEX[1:]}",
    f"sha256:{HEX}0",
    "sha256:",
    ":abc",
    f"sha256::{HEX[1:]}",
    f"sha256+:{HEX}",
    f"+sha256:{HEX}",
    f"sha..256:{HEX}",
]
UNSUPPORTED = [
    "md5:d41d8cd98f00b204e9800998ecf8427e",
    f"sha384:{HEX}{HEX[:32]}",
    "multihash+base58:QmRZxt2b1FVZPNqd8hsiykDL3TdBDeTSPX9Kv46HmX4Gx8",
    f"blake3:{HEX}",
]


@pytest.mark.parametrize("digest", [*MALFORMED, *UNSUPPORTED])
def test_case_1_2_3_a_digest_that_is_none_here_is_refused(digest: str, root: Node) -> None:
    refused(put(root, "digests/a", digest), "DIGEST_INVALID")
    quoted = quote(digest, safe="")
    refused(post(root, "digests/a", f"?digest={quoted}", BODY), "DIGEST_INVALID")
    refused(closed(root, "digests/a", quoted), "DIGEST_INVALID")
    for noun in ("blobs", "manifests", "referrers"):
        assert fetch(root.url, f"/v2/digests/a/{noun}/{digest}").status in WRONG
    assert "digests/a" not in repositories(root)


def test_case_1_a_word_without_a_colon_is_no_digest(root: Node) -> None:
    refused(post(root, "digests/a", "?digest=sha256", BODY), "DIGEST_INVALID")
    assert fetch(root.url, "/v2/digests/a/blobs/sha256").status in WRONG


@pytest.mark.parametrize("digest", UNSUPPORTED)
def test_case_2_a_descriptor_may_have_any_algorithm(digest: str, root: Node) -> None:
    body = index(digest, digest)
    assert put(root, "digests/foreign", "a", body).status == 201
    assert fetch(root.url, "/v2/digests/foreign/manifests/a").body == body
    refused(
        post(root, "digests/foreign", f"?digest-algorithm={quote(digest.partition(':')[0])}"),
        "DIGEST_INVALID",
    )


def test_case_4_a_digest_is_decoded_once(root: Node) -> None:
    encoded, twice = DIGEST.replace(":", "%3A"), DIGEST.replace(":", "%253A")
    refused(closed(root, "digests/coded", twice), "DIGEST_INVALID")
    assert closed(root, "digests/coded", encoded).status == 201
    assert fetch(root.url, f"/v2/digests/coded/blobs/{encoded}").body == BODY
    assert fetch(root.url, f"/v2/digests/coded/blobs/{twice}").status in WRONG
    for plus in ("sha256+b64u", "sha256%2Bb64u"):
        refused(closed(root, "digests/coded", f"{plus}:{HEX}"), "DIGEST_INVALID")


#: as they stand in the path
STRANGE = [
    "a%2Fb",
    "a%2fb",
    "%2E%2E",
    "a/%2e%2e/b",
    "../b",
    "a/../../b",
    "./a",
    "a%00",
    "a%0a",
    "a%09",
    "a%20",
    "a.",
    "a/",
    "/a",
    "a//b",
    "%C0%AE%C0%AE/b",
    "%ff",
    quote("é"),
    quote("e\u0301"),
    quote("ａ"),
    "A",
    "a___b",
    "a._b",
    "a..b",
    "a-_b",
    "-a",
    "_a",
    "a%5Cb",
    "a" * 256,
    "a/" * 128 + "a",
]


@pytest.mark.parametrize("name", STRANGE)
def test_case_5_6_7_9_10_a_name_outside_the_grammar_makes_nothing(name: str, root: Node) -> None:
    before = repositories(root)
    for answer in (put(root, name, "x"), post(root, name), post(root, name, f"?digest={DIGEST}", BODY)):
        assert answer.status in UNKNOWN
    assert fetch(root.url, f"/v2/{name}/manifests/x").status in WRONG
    assert repositories(root) == before


def test_case_9_a_name_of_ten_thousand_letters_is_refused(root: Node) -> None:
    assert put(root, "a" * 10_000, "x").status in (400, 404, 414)


@pytest.mark.parametrize(
    "target",
    [
        "//v2/way/manifests/x",
        "/v2//way/manifests/x",
        "/v2/way//manifests/x",
        "/v2/way/manifests//x",
        "/v2/./way/manifests/x",
        "/v2/no/../way/manifests/x",
        "/v2/way/manifests/./x",
        "/v2/way/manifests/x/",
    ],
)
def test_case_7_there_is_one_way_to_a_manifest(target: str, root: Node) -> None:
    assert put(root, "way", "x").status == 201
    assert fetch(root.url, "/v2/way/manifests/x").status == 200
    assert fetch(root.url, target).status in WRONG
    assert fetch(root.url, target, "DELETE").status in UNKNOWN
    assert fetch(root.url, target, "PUT", headers=KIND, body=index("other")).status in UNKNOWN
    assert fetch(root.url, "/v2/way/manifests/x").body == index()


def test_case_7_slashes_at_the_end(root: Node) -> None:
    assert fetch(root.url, "/v2").status == fetch(root.url, "/v2/").status == 200
    assert fetch(root.url, "/v2/way/blobs/uploads", "POST", body=b"").status in (202, *UNKNOWN)


COLLIDING = [
    "blobs",
    "manifests",
    "tags/list",
    "a/blobs/uploads",
    "referrers",
    "v2",
    "v2/v2",
    "uploads",
    "catalog",
]
SHAPED = [
    "a__b",
    "a----b",
    "a.b",
    "0",
    "con",
    "nul",
    "aux.c",
    "a" * 255,
    "/".join(["a"] * 128),
    "x" * 200 + "/y",
]


@pytest.mark.parametrize("name", [*COLLIDING, *SHAPED])
def test_case_8_9_10_11_a_name_within_the_grammar_is_a_repository_of_its_own(name: str, root: Node) -> None:
    body = index(name)
    assert put(root, name, "list", body).status == 201
    assert post(root, name, f"?digest={DIGEST}", BODY).status == 201
    assert fetch(root.url, f"/v2/{name}/manifests/list").body == body
    assert fetch(root.url, f"/v2/{name}/blobs/{DIGEST}").body == BODY
    assert json.loads(fetch(root.url, f"/v2/{name}/tags/list").body) == {"name": name, "tags": ["list"]}
    assert fetch(root.url, f"/v2/{name}/referrers/{digest_of(body)}").status == 200
    assert name in repositories(root)


TAGS = [
    "_",
    "0",
    "latest.sig",
    "test0",
    "TEST0",
    "Test0",
    "con",
    "T" * 128,
    f"sha256-{HEX}",
    "a_",
    "a.",
    "a-",
]


def test_case_9_11_tags_that_look_alike_are_kept_apart(root: Node) -> None:
    for tag in TAGS:
        assert put(root, "tags", tag, index(tag)).status == 201
    for tag in TAGS:
        assert fetch(root.url, f"/v2/tags/manifests/{tag}").body == index(tag)
    assert json.loads(fetch(root.url, "/v2/tags/tags/list").body)["tags"] == sorted(TAGS)
    assert fetch(root.url, "/v2/tags/manifests/TEST0", "DELETE").status == 202
    assert fetch(root.url, "/v2/tags/manifests/test0").status == 200


@pytest.mark.parametrize("tag", ["T" * 129, "-x", ".x", "a%0a", "a%20", "a%09", quote("é"), "a+b", "a%2Bb"])
def test_case_6_9_a_tag_outside_the_grammar_is_unknown(tag: str, root: Node) -> None:
    assert put(root, "tags/none", tag).status in WRONG
    for method in ("GET", "HEAD"):
        assert fetch(root.url, f"/v2/tags/none/manifests/{tag}", method).status in WRONG
    assert "tags/none" not in repositories(root)
