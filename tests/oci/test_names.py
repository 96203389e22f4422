"""Names, tags, digests, paths and queries: the spec's grammar and what must never pass for it."""

from __future__ import annotations

import re
from urllib.parse import quote

import pytest
from holdfast.errors import (
    DigestInvalid,
    ManifestUnknown,
    MethodNotAllowed,
    NameInvalid,
    PathUnknown,
    QueryInvalid,
)
from holdfast.oci import names
from holdfast.wire import query, routes
from holdfast.wire.routes import METHODS, Noun, Route
from hypothesis import given
from hypothesis import strategies as st

HEX = "0123456789abcdef" * 4

GOOD_NAMES = ["a", "a/b", "library/nginx", "a__b", "a----b", "a.b", "a_b", "0", "v2", "blobs", "manifests"]
GOOD_NAMES += ["tags/list", "a/blobs/uploads", "referrers", "v2/x", "a" * 255, "/".join(["a"] * 128)]
BAD_NAMES = [
    "",
    "A",
    "a/",
    "/a",
    "a//b",
    "a___b",
    "a._b",
    "a..b",
    "a-_b",
    "-a",
    "a-",
    "a.",
    "a\n",
    "a\t",
    "a ",
]
BAD_NAMES += [
    ".",
    "..",
    "a/../b",
    "a b",
    "a:b",
    "ä",
    "ａ",
    "é",
    "a" * 256,
    "a" * 10_000,
    "a/_b",
    "a%2fb",
    "a\\b",
]


@pytest.mark.parametrize("name", GOOD_NAMES)
def test_case_09_10_names_within_the_grammar(name: str) -> None:
    assert names.repository(name) == name


@pytest.mark.parametrize("name", BAD_NAMES)
def test_s37_case_05_06_09_10_names_outside_the_grammar(name: str) -> None:
    with pytest.raises(NameInvalid):
        names.repository(name)


@pytest.mark.parametrize(
    "tag", ["_", "0", "latest.sig", "latest", "A" * 128, f"sha256-{HEX}", "v1.0_x-y", "TEST0"]
)
def test_case_09_tags_within_the_grammar(tag: str) -> None:
    assert names.reference(tag) == tag


@pytest.mark.parametrize(
    "tag", ["", "-x", ".x", "A" * 129, "a\n", "a b", "a/b", "ä", ".INVALID_MANIFEST_NAME", "a+b"]
)
def test_case_09_tags_outside_the_grammar_are_unknown(tag: str) -> None:
    with pytest.raises(ManifestUnknown):
        names.reference(tag)


BAD_DIGESTS = [
    f"SHA256:{HEX}",
    f"sha256:{HEX.upper()}",
    f"sha256:{HEX[:-1]}",
    f"sha256:{HEX}0",
    "sha256:",
    ":abc",
]
BAD_DIGESTS += [
    "sha256",
    f"sha256::{HEX[1:]}",
    "md5:d41d8cd98f00b204e9800998ecf8427e",
    f"sha384:{HEX}{HEX[:32]}",
]
BAD_DIGESTS += [
    "multihash+base58:QmRZxt2b1FVZPNqd8hsiykDL3TdBDeTSPX9Kv46HmX4Gx8",
    f"blake3:{HEX}",
    f"sha256+:{HEX}",
]
BAD_DIGESTS += [
    f"+sha256:{HEX}",
    f"sha..256:{HEX}",
    f"sha256:{HEX}\n",
    f"sha256:{HEX[:-1]}٣",
    f"sha256:../{HEX[3:]}",
]


@pytest.mark.parametrize("text", BAD_DIGESTS)
def test_s37_case_01_02_03_digests_outside_the_grammar(text: str) -> None:
    with pytest.raises(DigestInvalid):
        names.digest(text)


@pytest.mark.parametrize("text", [f"sha256:{HEX}", f"sha512:{HEX}{HEX}"])
def test_digests_keep_their_text(text: str) -> None:
    assert str(names.digest(text)) == text
    assert names.reference(text) == names.digest(text)


ALPHABET = st.sampled_from("az09._-/Aß\n %")
# the spec's own expression, over what fullmatch and a length bound leave
SPEC_NAME = re.compile(r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(\/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*", re.ASCII)


@given(st.text(ALPHABET, max_size=12))
def test_names_follow_the_spec_expression(text: str) -> None:
    assert names.is_repository(text) == (SPEC_NAME.fullmatch(text) is not None)


@given(st.text())
def test_a_shown_text_is_printable_and_short(text: str) -> None:
    shown = names.shown(text)
    assert shown.isascii()
    assert len(shown) <= 200


BAD_PATHS = [
    "/v2/a%2Fb/manifests/x",
    "/v2/a%2fb",
    "/v2/%2E%2E/x",
    "/v2/../x",
    "/v2/./x",
    "/v2/a/%2e",
    "/v2/a%00",
]
BAD_PATHS += [
    "/v2/%C0%AE",
    "/v2/%ff",
    "//v2/",
    "/v2//a/manifests/x",
    "/v2/a//manifests/x",
    "/v2/a%5cb",
    "/v2/a\\b",
]
BAD_PATHS += ["/v2/a%", "/v2/a%4", "/v2/a%zz", "/v2/a/manifests//x", "/v2/a/..", "/v2/%252e%252e/%zz"]


@pytest.mark.parametrize("path", BAD_PATHS)
def test_case_05_07_paths_that_could_mean_two_things_are_refused(path: str) -> None:
    with pytest.raises(PathUnknown):
        query.decode_path(path)


def test_case_04_a_path_is_decoded_once() -> None:
    assert query.decode_path(f"/v2/a/blobs/sha256%3A{HEX}") == f"/v2/a/blobs/sha256:{HEX}"
    assert query.decode_path(f"/v2/a/blobs/sha256%253A{HEX}") == f"/v2/a/blobs/sha256%3A{HEX}"


def test_case_04_12_a_query_is_decoded_once_and_keeps_every_pair() -> None:
    assert query.decode_query("a=1&a=2&b&=c&&d=%2B+%252B;e") == (
        ("a", "1"),
        ("a", "2"),
        ("b", ""),
        ("", "c"),
        ("d", "+ %2B;e"),
    )


@pytest.mark.parametrize("text", ["a=%", "a=%f", "a=%ff", "%zz=1", "&".join(["t=1"] * 129)])
def test_case_12_a_malformed_query_is_refused(text: str) -> None:
    with pytest.raises(QueryInvalid):
        query.decode_query(text)


@given(st.lists(st.tuples(st.text(), st.text())).map(tuple))
def test_a_query_survives_its_encoding(pairs: query.Pairs) -> None:
    kept = tuple(pair for pair in pairs)
    assert query.decode_query(query.encode_query(kept)) == kept[:128] or len(kept) > 128


WORD = st.sampled_from(
    ["a", "0", "blobs", "manifests", "tags", "list", "uploads", "referrers", "v2", "nginx"]
)
JOINT = st.sampled_from(["/", "/", "/", ".", "_", "__", "-", "---"])
REPOSITORY = st.builds(
    lambda first, rest: first + "".join(joint + word for joint, word in rest),
    WORD,
    st.lists(st.tuples(JOINT, WORD), max_size=5),
)
TAG = st.from_regex(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}", fullmatch=True).filter(names.is_tag)
DIGEST = st.sampled_from([f"sha256:{HEX}", f"sha512:{HEX}{HEX}"])
PREFIX = st.sampled_from(["", "hub", "a/b", "docker.io"])
ROUTE = st.one_of(
    st.builds(Route, st.just(Noun.MANIFEST), REPOSITORY, st.one_of(TAG, DIGEST), PREFIX),
    st.builds(Route, st.sampled_from([Noun.BLOB, Noun.REFERRERS]), REPOSITORY, DIGEST, PREFIX),
    st.builds(Route, st.sampled_from([Noun.TAGS, Noun.UPLOADS]), REPOSITORY, st.just(""), PREFIX),
    st.builds(
        Route, st.just(Noun.UPLOAD), REPOSITORY, st.from_regex("[0-9a-f]{1,32}", fullmatch=True), PREFIX
    ),
    st.builds(Route, st.sampled_from([Noun.BASE, Noun.CATALOG]), st.just(""), st.just(""), PREFIX),
    st.builds(Route, st.just(Noun.TAG_HISTORY), REPOSITORY, TAG, PREFIX),
    st.builds(Route, st.just(Noun.ATTRIBUTES), REPOSITORY, st.one_of(st.just(""), TAG, DIGEST), st.just("")),
    st.sampled_from([Route(Noun.HEALTH), Route(Noun.READINESS)]),
)


@given(ROUTE)
def test_case_08_a_route_survives_its_path(route: Route) -> None:
    assert routes.read(routes.build(route)).route == route


COLLISIONS = [
    ("/v2/blobs/manifests/x", Noun.MANIFEST, "blobs", "x"),
    ("/v2/manifests/manifests/manifests", Noun.MANIFEST, "manifests", "manifests"),
    ("/v2/tags/list/tags/list", Noun.TAGS, "tags/list", ""),
    ("/v2/tags/list/manifests/list", Noun.MANIFEST, "tags/list", "list"),
    ("/v2/a/blobs/uploads/tags/list", Noun.TAGS, "a/blobs/uploads", ""),
    ("/v2/a/blobs/uploads/blobs/x", Noun.BLOB, "a/blobs/uploads", "x"),
    ("/v2/a/blobs/uploads/blobs/uploads/", Noun.UPLOADS, "a/blobs/uploads", ""),
    ("/v2/referrers/referrers/x", Noun.REFERRERS, "referrers", "x"),
    ("/v2/v2/v2/manifests/x", Noun.MANIFEST, "v2/v2", "x"),
    ("/v2/a/blobs/uploads", Noun.UPLOADS, "a", ""),
    ("/v2/a/blobs/uploads/", Noun.UPLOADS, "a", ""),
    ("/v2/a/blobs/uploads/x", Noun.UPLOAD, "a", "x"),
    ("/v2/a/_holdfast/tag-history/latest", Noun.TAG_HISTORY, "a", "latest"),
    ("/v2/tag-history/_holdfast/tag-history/x", Noun.TAG_HISTORY, "tag-history", "x"),
    ("/acr/v1/a", Noun.ATTRIBUTES, "a", ""),
    ("/acr/v1/a/manifests/x", Noun.ATTRIBUTES, "a/manifests/x", ""),
    ("/acr/v1/v2/a/tags/list", Noun.ATTRIBUTES, "v2/a/tags/list", ""),
    ("/acr/v1/a/_tags/latest", Noun.ATTRIBUTES, "a", "latest"),
    (f"/acr/v1/a/b/_manifests/sha256:{HEX}", Noun.ATTRIBUTES, "a/b", f"sha256:{HEX}"),
    ("/v2", Noun.BASE, "", ""),
    ("/v2/", Noun.BASE, "", ""),
]


@pytest.mark.parametrize(("path", "noun", "name", "reference"), COLLISIONS)
def test_case_07_08_paths_are_read_from_the_right(path: str, noun: Noun, name: str, reference: str) -> None:
    assert routes.locate(path) == Route(noun, name, reference)


@pytest.mark.parametrize(
    "path",
    [
        *(
            "/",
            "/v1/",
            "/v2x/",
            "/v2/a",
            "/v2/manifests/x",
            "/v2/tags/list",
            "/v2/a/b/c",
            "/v2/blobs/uploads",
        ),
        *("/v2/_holdfast/tag-history/x", "/v2/tag-history/x", "/v2/a/tag-history/x", "/acr/v1"),
        *("/acr/v1/_tags/x", "/acr/v1/a/_tags/sha256:x", "/acr/v1/a/_manifests/latest"),
    ],
)
def test_paths_that_lead_nowhere(path: str) -> None:
    with pytest.raises(PathUnknown):
        routes.locate(path)


def test_every_noun_says_what_it_takes() -> None:
    assert set(METHODS) == set(Noun)
    for noun, methods in METHODS.items():
        for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "get", "OPTIONS"):
            if method in methods:
                routes.check_method(Route(noun), method)
                continue
            with pytest.raises(MethodNotAllowed) as refused:
                routes.check_method(Route(noun), method)
            assert refused.value.headers == (("Allow", ", ".join(methods)),)


@given(st.binary(max_size=40))
def test_any_path_routes_or_is_refused(raw: bytes) -> None:
    target = "/" + quote(raw, safe="/%:@?=&")
    try:
        path, _ = query.split(target)
        route = routes.locate(path)
    except (PathUnknown, QueryInvalid):
        return
    assert ".." not in path.split("/")
    assert isinstance(route.noun, Noun)
