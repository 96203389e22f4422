"""PUT of manifests over a real socket: how it is answered, under which digest and tags it is kept, and that a
refusal changes nothing."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from holdfast.config import PushSection
from holdfast.endpoint.manifest_push import TAG_LIMIT
from holdfast_core.digest import Digest
from support.pushing import (
    OCI_INDEX,
    OCI_MANIFEST,
    OPEN,
    code,
    descriptor,
    image,
    index,
    put,
    refused,
    running,
    same,
    sha512,
    without,
)

DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
SPARSE = msgspec.structs.replace(OPEN, push=PushSection(require_blobs=False))
HEX = "a" * 64
NONE = f"sha256:{HEX}"


async def test_a_push_by_tag_is_answered_as_clients_want_it(tmp_path: Path) -> None:
    async with running(tmp_path) as node:
        body = await node.image_body("a/b")
        digest = str(Digest.of(body))
        answer = await node.put("a/b", "latest", body)
        assert answer.status == 201
        assert answer.body == b""
        assert answer.headers["location"] == f"/v2/a/b/manifests/{digest}"
        assert answer.headers["docker-content-digest"] == digest
        assert "oci-subject" not in answer.headers
        assert "oci-tag" not in answer.headers
        for reference in ("latest", digest):
            await same(node, reference, body, OCI_MANIFEST, "a/b")
        held = node.store.references.manifest("a/b", Digest.parse(digest))
        tag = node.store.references.tag("a/b", "latest")
        assert held is not None
        assert held.owned
        assert tag is not None
        assert tag.origin == "local"


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
async def test_case_41_a_push_by_digest_uses_the_urls_algorithm(tmp_path: Path, algorithm: str) -> None:
    async with running(tmp_path) as node:
        body = await node.image_body("a")
        digest = str(Digest.of(body, algorithm))
        answer = await node.put("a", f"{digest}?tag=x&tag=y&tag=x", body)
        assert answer.status == 201
        assert answer.headers["location"] == f"/v2/a/manifests/{digest}"
        assert [value for name, value in answer.lines if name == "OCI-Tag"] == ["x", "y"]
        for reference in (digest, "x", "y"):
            got = await node.ask("GET", f"/v2/a/manifests/{reference}")
            assert (got.status, got.headers["docker-content-digest"], got.body) == (200, digest, body)
        other = {"sha256": sha512(body), "sha512": str(Digest.of(body))}[algorithm]
        assert (await node.ask("GET", f"/v2/a/manifests/{other}")).status == 404


async def test_case_41_both_algorithms_live_and_die_apart(tmp_path: Path) -> None:
    async with running(tmp_path) as node:
        body = await node.image_body("a", subject=descriptor(NONE))
        short, long = str(Digest.of(body)), sha512(body)
        assert (await node.put("a", f"{short}?tag=short", body)).status == 201
        assert (await node.put("a", f"{long}?tag=long", body)).status == 201
        listed = json.loads((await node.ask("GET", f"/v2/a/referrers/{NONE}")).body)["manifests"]
        assert {row["digest"] for row in listed} == {short, long}
        assert (await node.ask("DELETE", f"/v2/a/manifests/{short}")).status == 202
        statuses = {ref: (await node.ask("GET", f"/v2/a/manifests/{ref}")).status for ref in (short, "short")}
        assert set(statuses.values()) == {404}
        await same(node, "long", body, OCI_MANIFEST)
        await same(node, long, body, OCI_MANIFEST)
        listed = json.loads((await node.ask("GET", f"/v2/a/referrers/{NONE}")).body)["manifests"]
        assert [row["digest"] for row in listed] == [long]


DIGESTS = [
    f"SHA256:{HEX}",
    f"sha256:{'A' * 64}",
    "sha256:" + "a" * 63,
    "sha256:" + "a" * 65,
    "sha256:",
    ":abc",
    "sha256::x",
    f"md5:{'a' * 32}",
    f"sha384:{'a' * 96}",
    "multihash+base58:QmX",
    f"blake3:{HEX}",
    f"sha256+:{HEX}",
    f"+sha256:{HEX}",
    f"sha..256:{HEX}",
]


async def test_case_1_2_3_digests_that_are_none_are_refused(tmp_path: Path) -> None:
    async with running(tmp_path) as node:
        body = await node.image_body("a")
        for digest in DIGESTS:
            await refused(node, put(digest, body), 400, "DIGEST_INVALID")
            for method in ("GET", "DELETE"):
                assert (await node.ask(method, f"/v2/a/manifests/{digest}")).status == 400
        await refused(node, put("sha256%3a" + HEX, body), 400, "DIGEST_INVALID")  # read, and no match
        for name, reference in (("a", "-x"), ("a", ".x"), ("a", "x" * 129), ("a", "x%20"), ("a", "x%0a")):
            await refused(node, put(reference, body, name=name), 400, "NAME_INVALID")
        for name in ("A", "a_-b", "a..b", "%61/B", "a" * 256):
            await refused(node, put("x", body, name=name), 400, "NAME_INVALID")


async def test_case_12_tags_as_parameters(tmp_path: Path) -> None:
    async with running(tmp_path) as node:
        body = await node.image_body("a")
        digest = str(Digest.of(body))
        many = [f"t{number}" for number in range(TAG_LIMIT)]
        path = f"{digest}?{'&'.join(f'tag={tag}' for tag in many)}"
        answer = await node.put("a", path, body)
        assert answer.status == 201
        assert [value for name, value in answer.lines if name == "OCI-Tag"] == many
        await refused(node, put(f"{path}&tag=more", body, name="b"), 414, "UNSUPPORTED")
        for query in ("tag=a&tag=.x", "tag=a&tag=", "tag=%2Fx", "tag=sha256:x", f"tag={'a' * 129}"):
            await refused(node, put(f"{digest}?{query}", body), 400, "NAME_INVALID")
        await refused(node, put("path?tag=query", body), 400, "UNSUPPORTED")
        other = index()
        await refused(node, put(f"{digest}?tag=a", other), 400, "DIGEST_INVALID")
        # unknown and stray parameters change nothing
        stray = f"{digest}?digest=&x=1&digest=md5:1"
        assert (await node.put("a", stray, body)).status == 201


async def test_case_12_a_tag_pushed_with_digest_keeps_that_digest(tmp_path: Path) -> None:
    async with running(tmp_path) as node:
        body = await node.image_body("a")
        answer = await node.put("a", f"x?digest={sha512(body)}", body)
        assert (answer.status, answer.headers["docker-content-digest"]) == (201, sha512(body))
        assert (await node.ask("HEAD", "/v2/a/manifests/x")).headers["docker-content-digest"] == sha512(body)
        assert (await node.put("a", "x?digest=", body)).headers["docker-content-digest"] == str(
            Digest.of(body)
        )
        await refused(node, put(f"x?digest={NONE}", body), 400, "DIGEST_INVALID")


async def test_case_40_pushes_of_one_tag_never_mix(tmp_path: Path) -> None:
    async with running(tmp_path) as node:
        bodies = [await node.image_body("a", number) for number in range(4)]
        by_digest = {str(Digest.of(body)): body for body in bodies}

        async def pusher(body: bytes) -> None:
            for _ in range(5):
                assert (await node.put("a", "x", body)).status == 201

        async def reader(done: asyncio.Event) -> int:
            seen = 0
            while not done.is_set():
                answer = await node.ask("GET", "/v2/a/manifests/x")
                if answer.status == 200:
                    assert by_digest[answer.headers["docker-content-digest"]] == answer.body
                    seen += 1
            return seen

        async def deleter() -> None:
            for _ in range(5):
                assert (await node.ask("DELETE", "/v2/a/manifests/x")).status in (202, 404)

        done = asyncio.Event()
        watching = asyncio.create_task(reader(done))
        await asyncio.gather(deleter(), *map(pusher, bodies))
        assert (await node.put("a", "x", bodies[0])).status == 201
        done.set()
        assert await watching > 0
        assert (await node.ask("GET", "/v2/a/manifests/x")).body == bodies[0]


async def test_case_42_one_digest_as_blob_and_as_manifest(tmp_path: Path) -> None:
    """Fixed: a manifest is no blob and a blob is no manifest; each is deleted by itself."""
    async with running(tmp_path) as node:
        body = index()
        digest = str(Digest.of(body))
        await node.put("a", "x", body, OCI_INDEX)
        assert (await node.ask("GET", f"/v2/a/blobs/{digest}")).status == 404
        await node.blob("a", body)
        assert (await node.ask("DELETE", f"/v2/a/manifests/{digest}")).status == 202
        assert (await node.ask("GET", f"/v2/a/blobs/{digest}")).body == body
        await node.put("a", "x", body, OCI_INDEX)
        assert (await node.ask("DELETE", f"/v2/a/blobs/{digest}")).status == 202
        await same(node, "x", body, OCI_INDEX)


async def test_case_43_the_last_type_counts(tmp_path: Path) -> None:
    async with running(tmp_path) as node:
        body = without(await node.image_body("a"), mediaType="absent")
        for kind in (OCI_MANIFEST, DOCKER_MANIFEST, OCI_MANIFEST):
            assert (await node.put("a", "x", body, kind)).status == 201
            await same(node, "x", body, kind)
            await same(node, str(Digest.of(body)), body, kind)


async def test_a_blob_that_is_collected_before_the_commit_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as node:
        held, put_manifest = await node.blob("a", b"{}"), node.keeper.put_manifest

        async def after_the_collector(*arguments: Any) -> None:
            await node.keeper.delete("a", "blob", held)
            await put_manifest(*arguments)

        with monkeypatch.context() as patched:
            patched.setattr(node.keeper, "put_manifest", after_the_collector)
            answer = await node.put("a", "x", image(held))
        assert (answer.status, code(answer)) == (400, "MANIFEST_BLOB_UNKNOWN")
        assert f"{held} is not in a any more; push it again".encode() in answer.body
        assert node.store.references.tags("a") == []


async def test_an_image_needs_its_blobs_and_the_refusal_names_what_is_missing(tmp_path: Path) -> None:
    async with running(tmp_path) as node:
        held = await node.blob("a", b"{}")
        elsewhere = await node.blob("b", b"elsewhere")
        body = image(held, NONE, elsewhere)
        for reference in ("x", str(Digest.of(body))):
            error = await refused(node, put(reference, body), 400, "MANIFEST_BLOB_UNKNOWN")
            assert error["detail"] == f"{NONE}, {elsewhere}"
        await refused(node, put("x", image(NONE)), 400, "MANIFEST_BLOB_UNKNOWN")
        await refused(node, put("x", image("multihash+base58:QmX")), 400, "MANIFEST_BLOB_UNKNOWN")
        many = image(held, *(f"sha256:{number:064x}" for number in range(30)))
        error = await refused(node, put("x", many), 400, "MANIFEST_BLOB_UNKNOWN")
        assert error["detail"].endswith(" and 10 more")
        foreign = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
        outside = [
            descriptor(NONE, urls=["https://elsewhere.example/x"]),
            descriptor(NONE) | {"mediaType": foreign},
            descriptor(NONE) | {"mediaType": "application/vnd.oci.image.layer.nondistributable.v1.tar"},
        ]
        assert (await node.put("a", "x", image(held, layers=outside))).status == 201


async def test_missing_blobs_may_be_allowed(tmp_path: Path) -> None:
    async with running(tmp_path, SPARSE) as node:
        for body in (image(NONE, NONE), image("multihash+base58:QmX")):
            assert (await node.put("a", "x", body)).status == 201
            await same(node, "x", body, OCI_MANIFEST)


async def test_case_45_conditions_on_a_push(tmp_path: Path) -> None:
    async with running(tmp_path) as node:
        first, second = await node.image_body("a", 1), await node.image_body("a", 2)
        one, two = str(Digest.of(first)), str(Digest.of(second))

        async def push(body: bytes, reference: str = "x", **conditions: str) -> int:
            headers = {"Content_Type": OCI_MANIFEST, **conditions}
            return (await node.ask("PUT", f"/v2/a/manifests/{reference}", body, **headers)).status

        assert await push(first, If_Match="*") == 412
        assert await push(first, If_Match=f'"{one}"') == 412
        assert await push(first, If_None_Match="*") == 201
        before = node.dump()
        for failing in (
            {"If_None_Match": "*"},
            {"If_None_Match": f'"{one}"'},
            {"If_Match": f'"{two}"'},
            {"If_Match": f'W/"{one}"'},
            {"If_Match": ""},
        ):
            assert await push(second, **failing) == 412
        assert node.dump() == before
        assert await push(second, If_Match=f'"{two}", "{one}"') == 201
        assert await push(second, two, If_None_Match="*") == 412
        assert await push(second, two, If_Match=two) == 201
        answer = await node.ask("DELETE", "/v2/a/manifests/x", If_Match=f'"{one}"')
        assert (answer.status, code(answer)) == (412, "DENIED")
        assert (await node.ask("DELETE", "/v2/a/manifests/x", If_Match=f'"{two}"')).status == 202


async def test_case_45_of_writers_that_name_the_same_state_one_gets_it(tmp_path: Path) -> None:
    async with running(tmp_path) as node:
        bodies = [await node.image_body("a", number) for number in range(12)]

        async def push(body: bytes, **condition: str) -> int:
            raw = {"Content_Type": OCI_MANIFEST, **condition}
            return (await node.ask("PUT", "/v2/a/manifests/x", body, **raw)).status

        async def race(**condition: str) -> None:
            plain = asyncio.create_task(push(bodies[0])) if "If_Match" not in condition else None
            if plain is not None:
                assert await plain == 201
                assert (await node.ask("DELETE", "/v2/a/manifests/x")).status == 202
            statuses = await asyncio.gather(*(push(body, **condition) for body in bodies[1:]))
            assert sorted(statuses) == [201] + [412] * 10

        await race(If_None_Match="*")
        for _ in range(3):
            held = (await node.ask("HEAD", "/v2/a/manifests/x")).headers["docker-content-digest"]
            body = next(body for body in bodies if str(Digest.of(body)) == held)
            bodies.remove(body)
            bodies.insert(0, body)
            await race(If_Match=f'"{held}"')
        moves = node.store.references.tag_moves("a", "x")
        assert len(moves) == 6  # a push, a delete, and one winner a race


async def test_the_lists_of_a_root_are_complete(tmp_path: Path) -> None:
    async with running(tmp_path, msgspec.structs.replace(OPEN, catalog=True)) as node:
        for name in ("b", "a/b", "a"):
            await node.image(name, "x", "a")
        await node.blob("only/blobs", b"a blob")

        async def catalog(query: str = "") -> list[str]:
            answer = await node.ask("GET", f"/v2/_catalog{query}")
            assert answer.status == 200
            found: list[str] = json.loads(answer.body)["repositories"]
            return found

        assert await catalog() == ["a", "a/b", "b", "only/blobs"]
        assert await catalog("?n=2&last=a") == ["a/b", "b"]
        await node.ask("PATCH", "/acr/v1/a/b", b'{"listEnabled":false}')
        assert await catalog() == ["a", "b", "only/blobs"]
        assert json.loads((await node.ask("GET", "/v2/b/tags/list")).body)["tags"] == ["a", "x"]
        assert json.loads((await node.ask("GET", "/v2/only/blobs/tags/list")).body)["tags"] == []
        assert (await node.ask("GET", "/v2/none/tags/list")).status == 404
