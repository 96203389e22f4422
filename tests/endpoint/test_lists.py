"""Tags, referrers, the catalog and health over a real socket."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from holdfast import errors
from holdfast.config import Configuration, LimitsSection, ParentSection
from holdfast.endpoint import referrers
from holdfast_core.digest import Digest
from holdfast_core.record import Descriptor, LockChange, LockTarget
from support.serving import Answer, Client, serving

PARENT = Configuration(parent=(ParentSection(url="http://parent.test"),))
BODY = b'{"schemaVersion":2}'
SUBJECT = str(Digest.of(b"subject"))


def tags_of(answer: Answer) -> list[str]:
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    found = json.loads(answer.body)
    assert set(found) == {"name", "tags"}
    return list(found["tags"])


def next_of(answer: Answer) -> str | None:
    link = answer.headers.get("link")
    if link is None:
        return None
    target, _, relation = link.partition(">; ")
    assert relation == 'rel="next"'
    return target.removeprefix("<")


async def walk(client: Client, target: str) -> list[list[str]]:
    pages = []
    following: str | None = target
    while following is not None:
        answer = await client.ask(following)
        pages.append(tags_of(answer))
        following = next_of(answer)
    return pages


TAGS = ["A", "Z", "_", "a", "b", "test0", "v1.0", "v1.10", "v1.2"]


async def test_case_46_47_tags(tmp_path: Path) -> None:
    async with serving(tmp_path) as node:
        node.put_manifest("a/b", BODY, *reversed(TAGS))
        client = await node.connect()
        everything = await client.ask("/v2/a/b/tags/list")
        assert json.loads(everything.body)["name"] == "a/b"
        assert (tags_of(everything), next_of(everything)) == (TAGS, None)
        for n in (1, 2, 4, 8, 9, 10):
            pages = await walk(client, f"/v2/a/b/tags/list?n={n}")
            assert [tag for page in pages for tag in page] == TAGS
            assert {len(page) for page in pages[:-1]} <= {n}
        nothing = await client.ask("/v2/a/b/tags/list?n=0")
        assert (tags_of(nothing), next_of(nothing)) == ([], None)
        assert tags_of(await client.ask("/v2/a/b/tags/list?n=99999999999999999999")) == TAGS
        assert tags_of(await client.ask("/v2/a/b/tags/list?n=01")) == TAGS[:1]
        for last, expected in [
            ("", TAGS),
            ("a", TAGS[4:]),
            ("aa", TAGS[4:]),
            ("v1.2", []),
            ("zzz", []),
            ("%25%26%23", TAGS),
        ]:
            assert tags_of(await client.ask(f"/v2/a/b/tags/list?last={last}")) == expected
        for bad in ("-1", "abc", "1e3", "", "1_0", "%D9%A3", "+1", "1.0", "1&n=2"):
            answer = await client.ask(f"/v2/a/b/tags/list?n={bad}")
            assert (answer.status, b'"UNSUPPORTED"' in answer.body) == (400, True)


async def test_case_48_a_link_keeps_prefix_namespace_and_odd_cursors(tmp_path: Path) -> None:
    hub = ParentSection(url="https://registry-1.docker.io", name="docker.io")
    config = Configuration(parent=(hub,), on_miss="strict", limits=LimitsSection(page_size=2))
    async with serving(tmp_path, config) as node:
        node.put_manifest("docker.io:a", BODY, "x", "y", "z")
        answer = await node.ask("/docker.io/v2/a/tags/list?ns=docker.io&n=5&last=%2C%3E%0D%0A")
        assert answer.headers["link"] == '</docker.io/v2/a/tags/list?ns=docker.io&n=5&last=y>; rel="next"'
        assert tags_of(await node.ask(next_of(answer) or "")) == ["z"]


async def test_case_49_an_unknown_repository(tmp_path: Path) -> None:
    async with serving(tmp_path) as node:
        answer = await node.ask("/v2/none/tags/list")
        assert (answer.status, b'"NAME_UNKNOWN"' in answer.body) == (404, True)
        assert (await node.ask("/v2/Bad/tags/list")).status == 400


async def test_the_parents_tags_are_merged_with_what_is_held(tmp_path: Path) -> None:
    async with serving(tmp_path, PARENT) as node:
        node.put_manifest("a", BODY, "held", "both")
        node.port.tag_lists["a"] = ["both", "parent"]
        for _ in range(2):
            answer = await node.ask("/v2/a/tags/list")
            assert tags_of(answer) == ["both", "held", "parent"]
            assert "warning" not in answer.headers
        assert node.port.calls == {"tags": 1}
        node.clock.advance(61)
        node.port.failure = errors.ParentUnreachable("offline")
        answer = await node.ask("/v2/a/tags/list")
        assert tags_of(answer) == ["both", "held", "parent"]
        assert (answer.headers["age"], "offline" in answer.headers["warning"]) == ("61", True)
        unknown = await node.ask("/v2/b/tags/list")
        assert (unknown.status, b'"NAME_UNKNOWN"' in unknown.body) == (503, True)
        node.port.failure = None
        assert (await node.ask("/v2/b/tags/list")).status == 404


async def test_the_parent_is_not_asked_for_lists_of_what_may_not_be_read(tmp_path: Path) -> None:
    async with serving(tmp_path, PARENT) as node:
        digest = node.put_manifest("a", BODY, "held")
        node.store.references.set_lock(
            "a", LockTarget("repository"), LockChange(read=False), now=1.0
        ).result()
        node.port.tag_lists["a"] = ["parent"]
        for path in ("tags/list", f"referrers/{digest}", "_holdfast/tag-history/held"):
            answer = await node.ask(f"/v2/a/{path}")
            assert (answer.status, b'"DENIED"' in answer.body) == (405, True)
        assert node.port.calls == {}


def descriptor(number: int, kind: str = "application/x", **annotations: str) -> Descriptor:
    digest = str(Digest.of(str(number).encode()))
    return Descriptor("application/vnd.oci.image.manifest.v1+json", digest, number, kind, annotations)


async def test_a_list_that_no_parent_ever_confirmed_says_so(tmp_path: Path) -> None:
    async with serving(tmp_path, PARENT) as node:
        node.put_manifest("a", BODY, "held")
        digest, subject, now = Digest.of(BODY), Digest.parse(SUBJECT), node.clock.now()
        node.store.references.put_manifest(
            "a", digest, "x", BODY, owned=False, now=now, subject=subject
        ).result()
        for failure in (errors.ParentUnreachable("offline"), errors.KeeperAway("offline")):
            node.port.failure = failure
            for path in ("/v2/a/tags/list", f"/v2/a/referrers/{SUBJECT}"):
                answer = await node.ask(path)
                assert (answer.status, "age" in answer.headers) == (200, False)
                assert answer.headers["warning"] == (
                    '299 - "served from this node, never confirmed by a parent: offline"'
                )


def index_of(answer: Answer) -> list[dict[str, Any]]:
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/vnd.oci.image.index.v1+json"
    found = json.loads(answer.body)
    assert (found["schemaVersion"], found["mediaType"]) == (2, answer.headers["content-type"])
    assert set(found) == {"schemaVersion", "mediaType", "manifests"}
    return list(found["manifests"])


async def test_case_39_referrers(tmp_path: Path) -> None:
    rows = [descriptor(1, "a/x+y", k="v", e=""), descriptor(2, "b"), descriptor(3, ""), descriptor(4, "b")]
    async with serving(tmp_path) as node:
        subject = Digest.parse(SUBJECT)
        node.store.references.lists.put_referrers("a", subject, rows, now=node.clock.now()).result()
        client = await node.connect()
        everything = index_of(await client.ask(f"/v2/a/referrers/{SUBJECT}"))
        by_digest = {row["digest"]: row for row in everything}
        assert by_digest[rows[0].digest] == {
            "mediaType": rows[0].media_type,
            "digest": rows[0].digest,
            "size": 1,
            "artifactType": "a/x+y",
            "annotations": {"k": "v", "e": ""},
        }
        assert set(by_digest[rows[2].digest]) == {"mediaType", "digest", "size"}
        for value, count in (
            ("b", 2),
            ("a/x%2By", 1),
            ("a/x+y", 1),
            ("B", 0),
            ("none", 0),
            ("b&artifactType=a/x%2By", 3),
        ):
            answer = await client.ask(f"/v2/a/referrers/{SUBJECT}?artifactType={value}")
            assert len(index_of(answer)) == count
            assert answer.headers["oci-filters-applied"] == "artifactType"
        unfiltered = await client.ask(f"/v2/a/referrers/{SUBJECT}?artifactType=")
        assert (len(index_of(unfiltered)), "oci-filters-applied" in unfiltered.headers) == (4, False)
        for target in (f"a/referrers/{Digest.of(b'other')}", f"none/referrers/{SUBJECT}"):
            assert index_of(await client.ask(f"/v2/{target}")) == []
        bad = await client.ask("/v2/a/referrers/sha256:bad")
        assert (bad.status, b'"DIGEST_INVALID"' in bad.body) == (400, True)
        pages = [await client.ask(f"/v2/a/referrers/{SUBJECT}?n=1&artifactType=b")]
        while (following := next_of(pages[-1])) is not None:
            assert "artifactType=b" in following
            pages.append(await client.ask(following))
        assert [len(index_of(page)) for page in pages] == [1, 1]
        assert len({index_of(page)[0]["digest"] for page in pages}) == 2


async def test_rule_85_a_long_list_is_paged_by_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(referrers, "PAGE_BYTES", 2000)
    rows = [descriptor(number, "k", a="x" * 300) for number in range(20)]
    async with serving(tmp_path) as node:
        node.store.references.lists.put_referrers(
            "a", Digest.parse(SUBJECT), rows, now=node.clock.now()
        ).result()
        found, following = list[str](), f"/v2/a/referrers/{SUBJECT}"
        while following:
            answer = await node.ask(following)
            assert len(answer.body) < 2200
            found += [row["digest"] for row in index_of(answer)]
            following = next_of(answer) or ""
        assert found == sorted(row.digest for row in rows)


async def test_referrers_of_the_parent_are_kept_for_offline(tmp_path: Path) -> None:
    async with serving(tmp_path, PARENT) as node:
        node.port.referrer_lists["a", SUBJECT] = [descriptor(1)]
        for _ in range(2):
            assert len(index_of(await node.ask(f"/v2/a/referrers/{SUBJECT}"))) == 1
        assert node.port.calls == {"referrers": 1}
        node.clock.advance(61)
        node.port.failure = errors.ParentUnreachable("offline")
        answer = await node.ask(f"/v2/a/referrers/{SUBJECT}")
        assert (len(index_of(answer)), answer.headers["age"]) == (1, "61")
        assert "offline" in answer.headers["warning"]
        # nothing is known: an empty list would say that nobody signed it
        assert (await node.ask(f"/v2/a/referrers/{Digest.of(b'other')}")).status == 503
        for failure in (errors.ParentNotFound("x"), errors.ParentDenied("x"), errors.NameUnknown("x")):
            node.port.failure = failure
            assert index_of(await node.ask(f"/v2/a/referrers/{Digest.of(b'other')}")) == []


async def test_the_catalog_is_off_unless_configured(tmp_path: Path) -> None:
    async with serving(tmp_path / "off") as node:
        answer = await node.ask("/v2/_catalog")
        assert (answer.status, b'"UNSUPPORTED"' in answer.body) == (404, True)
    async with serving(tmp_path / "on", Configuration(catalog=True)) as node:
        names = [f"r{number:03}" for number in range(130)]
        for name in names:
            node.put_manifest(name, BODY)
        client = await node.connect()
        first = await client.ask("/v2/_catalog")
        assert json.loads(first.body) == {"repositories": names[:100]}
        second = await client.ask(next_of(first) or "")
        assert json.loads(second.body) == {"repositories": names[100:]}
        assert next_of(second) is None
        assert json.loads((await client.ask("/v2/_catalog?n=0")).body) == {"repositories": []}
        assert json.loads((await client.ask("/v2/_catalog?n=2&last=r127")).body) == {
            "repositories": names[128:]
        }
        for n in ("-1", "x", "1001"):
            assert (await client.ask(f"/v2/_catalog?n={n}")).status == 400


async def test_health_and_readiness(tmp_path: Path) -> None:
    async with serving(tmp_path) as node:
        assert json.loads((await node.ask("/healthz")).body) == {"status": "ok"}
        node.port.troubles = ("parent x is offline",)
        ready = await node.ask("/readyz")
        assert (ready.status, json.loads(ready.body)["troubles"]) == (200, ["parent x is offline"])
        node.port.ready = False
        assert (await node.ask("/readyz")).status == 503
        node.port.failure = errors.KeeperAway("the keeper is away")
        away = await node.ask("/readyz")
        assert (away.status, json.loads(away.body)["reasons"]) == (503, ["the keeper is away"])
        assert (await node.ask("/healthz")).status == 200


async def test_version_check(tmp_path: Path) -> None:
    async with serving(tmp_path, msgspec.structs.replace(PARENT, on_miss="strict")) as node:
        for target in ("/v2/", "/v2", "/v2/?ns=anything"):
            answer = await node.ask(target)
            assert (answer.status, answer.body) == (200, b"{}")
            assert answer.headers["docker-distribution-api-version"] == "registry/2.0"
        assert (await node.ask("/unknown/v2/")).status == 404
