"""Manifests over a real socket: hits, conditions, ranges, and every row of the miss table (sync.md,
"A miss, and a parent that is away")."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import msgspec
import pytest
from holdfast import errors
from holdfast.config import Configuration, ParentSection, TagsSection
from holdfast.keeper.api import ManifestAnswer
from holdfast_core.digest import Digest
from support.serving import MEDIA_TYPE, Answer, serving

BODY = b'{"schemaVersion":2, "mediaType":"x"}\n'
OTHER = b'{"schemaVersion":2}'
PARENT = Configuration(parent=(ParentSection(url="http://parent.test"),))
STRICT = msgspec.structs.replace(PARENT, on_miss="strict")
ACCEPT = {"Accept": "application/vnd.docker.distribution.manifest.v2+json;q=0.1, text/html;q=0"}


def code(answer: Answer) -> str:
    found = json.loads(answer.body)["errors"]
    assert len(found) == 1
    assert isinstance(found[0]["detail"], str)
    return str(found[0]["code"])


async def test_a_manifest_is_served_as_it_was_stored(tmp_path: Path) -> None:
    async with serving(tmp_path, PARENT) as node:
        digest = node.put_manifest("a/b", BODY, "latest")
        for reference in (digest, "latest", digest.replace(":", "%3A"), digest.replace(":", "%3a")):
            answer = await node.ask(
                f"/v2/a/b/manifests/{reference}", **ACCEPT, Accept_Encoding="gzip, zstd, br"
            )
            assert (answer.status, answer.body) == (200, BODY)
            assert answer.headers["content-type"] == MEDIA_TYPE
            assert answer.headers["docker-content-digest"] == digest
            assert answer.headers["etag"] == f'"{digest}"'
            assert answer.headers["accept-ranges"] == "bytes"
            assert answer.headers["docker-distribution-api-version"] == "registry/2.0"
            assert "content-encoding" not in answer.headers
            assert "transfer-encoding" not in answer.headers
            assert ("cache-control" in answer.headers) == (reference != "latest")
        assert node.port.hits == [("a/b", digest)] * 4
        assert not node.port.calls


async def test_case_56_head_has_the_headers_of_get_and_no_body(tmp_path: Path) -> None:
    async with serving(tmp_path) as node:
        digest = node.put_manifest("a", BODY, "latest")
        blob, large = node.put_blob("a", b"x" * 100), node.put_blob("a", b"x" * 100_000)
        client = await node.connect()
        targets = [f"manifests/{digest}", "manifests/latest", f"blobs/{blob}", f"blobs/{large}", "tags/list"]
        targets += [f"referrers/{digest}", "manifests/none", f"blobs/{digest}", "manifests/sha256:bad"]
        for target in targets:
            get = await client.ask(f"/v2/a/{target}")
            head = await client.ask(f"/v2/a/{target}", "HEAD", Range="bytes=0-1")
            assert (head.status, head.lines, head.body) == (get.status, get.lines, b"")


CURRENT = ['"{0}"', "{0}", 'W/"{0}"', '"x", "{0}"', "*"]


async def test_case_45_if_none_match(tmp_path: Path) -> None:
    async with serving(tmp_path) as node:
        digest = node.put_manifest("a", BODY, "latest")
        targets = [f"manifests/{digest}", "manifests/latest", f"blobs/{node.put_blob('a', BODY)}"]
        client = await node.connect()
        for condition, target, method in product([*CURRENT, '"sha256:other"', ""], targets, ("GET", "HEAD")):
            answer = await client.ask(f"/v2/a/{target}", method, If_None_Match=condition.format(digest))
            assert answer.status == (304 if condition in CURRENT else 200)
            assert answer.headers["docker-content-digest"] == digest
            assert ("content-length" in answer.headers) == (answer.status == 200)


async def test_case_16_ranges_of_a_manifest(tmp_path: Path) -> None:
    async with serving(tmp_path) as node:
        digest = node.put_manifest("a", BODY)
        client = await node.connect()
        whole = await client.ask(f"/v2/a/manifests/{digest}", Range="bytes=0-")
        assert (whole.status, whole.body) == (206, BODY)
        assert whole.headers["content-range"] == f"bytes 0-{len(BODY) - 1}/{len(BODY)}"
        assert whole.headers["content-type"] == MEDIA_TYPE
        none = await client.ask(f"/v2/a/manifests/{digest}", Range="bytes=100-")
        assert (none.status, none.headers["content-range"]) == (416, f"bytes */{len(BODY)}")
        assert code(none) == "SIZE_INVALID"


async def test_a_manifest_is_in_its_repository_only(tmp_path: Path) -> None:
    async with serving(tmp_path) as node:
        digest = node.put_manifest("a", BODY)
        blob = node.put_blob("a", b"blob")
        for target in (
            f"b/manifests/{digest}",
            f"b/blobs/{blob}",
            f"a/blobs/{digest}",
            f"a/manifests/{blob}",
        ):
            assert (await node.ask(f"/v2/{target}")).status == 404


REFERENCES = [
    (".INVALID_MANIFEST_NAME", 404, "MANIFEST_UNKNOWN"),
    ("-x", 404, "MANIFEST_UNKNOWN"),
    ("a" * 129, 404, "MANIFEST_UNKNOWN"),
    ("none", 404, "MANIFEST_UNKNOWN"),
    ("sha256:baddigeststring", 400, "DIGEST_INVALID"),
    ("sha256%253A" + "a" * 64, 404, "MANIFEST_UNKNOWN"),
    ("md5:d41d8cd98f00b204e9800998ecf8427e", 400, "DIGEST_INVALID"),
    ("sha256:" + "a" * 64, 404, "MANIFEST_UNKNOWN"),
    ("sha512:" + "a" * 128, 404, "MANIFEST_UNKNOWN"),
]


async def test_case_01_02_04_09_references_that_name_nothing(tmp_path: Path) -> None:
    async with serving(tmp_path) as node:
        client = await node.connect()
        for reference, status, expected in REFERENCES:
            answer = await client.ask(f"/v2/a/manifests/{reference}")
            assert (answer.status, code(answer)) == (status, expected)
            assert (await client.ask(f"/v2/a/manifests/{reference}", "HEAD")).status == status


async def test_case_41_43_both_algorithms_live_side_by_side(tmp_path: Path) -> None:
    async with serving(tmp_path) as node:
        long = Digest.of(BODY, "sha512")
        node.store.references.put_manifest("a", long, "type/long", BODY, owned=False, now=1.0).result()
        short = node.put_manifest("a", BODY)
        first, second = await node.ask(f"/v2/a/manifests/{long}"), await node.ask(f"/v2/a/manifests/{short}")
        assert (first.headers["docker-content-digest"], first.headers["content-type"]) == (
            str(long),
            "type/long",
        )
        assert (second.headers["docker-content-digest"], second.headers["content-type"]) == (
            short,
            MEDIA_TYPE,
        )


# -- misses ----------------------------------------------------------------------------------------


async def test_a_miss_is_fetched_once_and_then_held(tmp_path: Path) -> None:
    async with serving(tmp_path, PARENT) as node:
        digest = str(Digest.of(BODY))
        for reference in (digest, "latest"):
            node.port.manifests["a", reference] = (MEDIA_TYPE, BODY)
        for reference in (digest, "latest", digest, "latest"):
            answer = await node.ask(f"/v2/a/manifests/{reference}")
            assert (answer.status, answer.body) == (200, BODY)
            assert "warning" not in answer.headers
        assert node.port.calls == {"manifest": 2}


FAILURES: list[tuple[Exception, int, str]] = [
    (errors.ManifestUnknown("x"), 404, "MANIFEST_UNKNOWN"),
    (errors.ParentNotFound("x"), 404, "MANIFEST_UNKNOWN"),
    (errors.ParentDenied("x"), 404, "MANIFEST_UNKNOWN"),
    (errors.ParentUnreachable("x", retry_after=7), 503, "MANIFEST_UNKNOWN"),
    (errors.ParentErred("x"), 502, "MANIFEST_UNKNOWN"),
    (errors.ParentBroken("x"), 502, "MANIFEST_UNKNOWN"),
    (errors.ParentThrottled("x", retry_after=9), 429, "TOOMANYREQUESTS"),
    (errors.KeeperAway("x"), 503, "MANIFEST_UNKNOWN"),
]


async def test_a_miss_that_fails_says_so(tmp_path: Path) -> None:
    async with serving(tmp_path, PARENT) as node:
        client = await node.connect()
        for (failure, status, expected), reference in product(FAILURES, ("latest", str(Digest.of(BODY)))):
            node.port.failure = failure
            answer = await client.ask(f"/v2/a/manifests/{reference}")
            assert (answer.status, code(answer)) == (status, expected)
            assert ("retry-after" in answer.headers) == (status in (429, 503))
            head = await client.ask(f"/v2/a/manifests/{reference}", "HEAD")
            assert (head.status, head.lines) == (status, answer.lines)
        assert node.port.calls == {"manifest": 4 * len(FAILURES)}


@pytest.mark.parametrize("config", [STRICT, Configuration()], ids=["strict", "root"])
async def test_strict_and_roots_ask_nobody(tmp_path: Path, config: Configuration) -> None:
    async with serving(tmp_path, config) as node:
        node.put_manifest("a", BODY, "latest")
        node.clock.advance(1e6)
        answer = await node.ask("/v2/a/manifests/latest")
        assert (answer.status, answer.body) == (200, BODY)
        for target in ("manifests/none", f"blobs/{Digest.of(b'')}", "manifests/" + str(Digest.of(b""))):
            assert (await node.ask(f"/v2/a/{target}")).status == 404
        assert not node.port.calls


async def test_a_tag_is_confirmed_when_its_time_is_over(tmp_path: Path) -> None:
    async with serving(tmp_path, PARENT) as node:
        node.put_manifest("a", BODY, "latest", "1.27")
        node.port.manifests["a", "latest"] = node.port.manifests["a", "1.27"] = (MEDIA_TYPE, OTHER)
        node.clock.advance(59)
        assert (await node.ask("/v2/a/manifests/latest")).body == BODY
        assert not node.port.calls
        node.clock.advance(1)
        assert (await node.ask("/v2/a/manifests/latest")).body == OTHER
        assert (await node.ask("/v2/a/manifests/latest")).body == OTHER
        assert (await node.ask("/v2/a/manifests/1.27")).body == BODY
        assert node.port.calls == {"manifest": 1}


async def test_a_held_tag_is_served_whatever_the_parent_does(tmp_path: Path) -> None:
    async with serving(tmp_path, PARENT) as node:
        digest = node.put_manifest("a", BODY, "latest")
        node.clock.advance(90)
        client = await node.connect()
        for failure, _, _ in FAILURES[1:]:
            node.port.failure = failure
            get = await client.ask("/v2/a/manifests/latest")
            head = await client.ask("/v2/a/manifests/latest", "HEAD")
            assert (get.status, get.body, get.headers["docker-content-digest"]) == (200, BODY, digest)
            assert get.headers["age"] == "90"
            assert get.headers["warning"] == '299 - "served from this node, last confirmed 90 s ago: x"'
            assert head.lines == get.lines


async def test_the_keeper_says_why_a_tag_is_stale(tmp_path: Path) -> None:
    async with serving(tmp_path, PARENT) as node:
        digest = node.put_manifest("a", BODY, "latest")
        node.clock.advance(90)
        node.port.answers["a", "latest"] = ManifestAnswer(digest, 90, 'odd "text"\r\nX: ä\\')
        answer = await node.ask("/v2/a/manifests/latest")
        assert answer.headers["warning"].endswith(r'odd \"text\"??X: ?\\"')
        assert answer.headers["age"] == "90"
        assert "x" not in answer.headers


async def test_a_silent_keeper_does_not_hold_back_what_is_held(tmp_path: Path) -> None:
    quick = msgspec.structs.replace(PARENT, tags=TagsSection(confirm_budget=0))
    async with serving(tmp_path, quick) as node:
        node.put_manifest("a", BODY, "latest")
        node.clock.advance(90)
        node.port.hang = True
        answer = await node.ask("/v2/a/manifests/latest")
        assert (answer.status, answer.body) == (200, BODY)
        assert "in time" in answer.headers["warning"]


async def test_policy_may_refuse_a_tag_that_the_parent_no_longer_has(tmp_path: Path) -> None:
    refusing = msgspec.structs.replace(PARENT, tags=TagsSection(on_parent_404="refuse"))
    async with serving(tmp_path, refusing) as node:
        node.put_manifest("a", BODY, "latest")
        node.clock.advance(90)
        node.port.failure = errors.ParentNotFound("gone")
        assert (await node.ask("/v2/a/manifests/latest")).status == 404


async def test_oci_namespace_is_answered_when_ns_scoped(tmp_path: Path) -> None:
    hub = Configuration(parent=(ParentSection(url="https://registry-1.docker.io", name="docker.io"),))
    async with serving(tmp_path, msgspec.structs.replace(hub, on_miss="strict")) as node:
        node.put_manifest("docker.io:library/nginx", BODY, "1.27")
        for target in ("manifests/1.27", "tags/list"):
            scoped = await node.ask(f"/v2/library/nginx/{target}?ns=docker.io")
            assert (scoped.status, scoped.headers["oci-namespace"]) == (200, "docker.io")
            plain = await node.ask(f"/docker.io/v2/library/nginx/{target}")
            assert (plain.status, "oci-namespace" in plain.headers) == (200, False)
        other = await node.ask("/v2/library/nginx/manifests/1.27?ns=evil")
        assert (other.status, code(other)) == (404, "NAME_UNKNOWN")
