"""What is a manifest and what is not, over a real socket: exact bytes, sizes, types, children, subjects; and that a
refusal changes nothing."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from holdfast.config import LimitsSection
from holdfast.oci.manifest import NODE_LIMIT
from holdfast_core.digest import Digest
from support.pushing import (
    OCI_INDEX,
    OCI_MANIFEST,
    OPEN,
    chunked,
    code,
    descriptor,
    image,
    index,
    put,
    refused,
    request,
    running,
    same,
    without,
)

DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
NONE = f"sha256:{'a' * 64}"


ODD = json.dumps({"schemaVersion": 2, "manifests": []})

EXACT = [
    ODD.encode() + b"\r\n\r\n  \t\n",
    b"\r\n " + ODD.replace(" ", "\r\n").encode(),
    b'{"manifests":[],"schemaVersion":2,"z":1e400,"y":123456789012345678901234567890,"a":-0.0}',
    b'{"schemaVersion":2,"manifests":[],"annotations":{"\\u0061":"\\u00e9","b":"\xc3\xa9","c":"\\ud83d\\ude00"}}',
    b'{"schemaVersion":2,"manifests":[],"unknown":{"a":{"a":[[[1,2,null,true]]]}},"Other":1,"data":"e30="}',
]


async def test_case_35_the_bytes_are_kept_exactly(tmp_path: Path) -> None:
    async with running(tmp_path) as node:
        for number, body in enumerate(EXACT):
            for sent in (put(f"t{number}", body, OCI_INDEX), chunked_put(f"t{number}", body)):
                client = await node.connect()
                client.send(sent)
                assert (await client.answer()).status == 201
            await same(node, f"t{number}", body, OCI_INDEX)


def chunked_put(reference: str, body: bytes) -> bytes:
    parts = [body[at : at + 7] for at in range(0, len(body), 7)]
    return chunked("PUT", f"/v2/a/manifests/{reference}", parts, Content_Type=OCI_INDEX)


BROKEN = [
    b"",
    b"null",
    b"[]",
    b'"x"',
    b"2",
    b"{}",
    b"\xef\xbb\xbf" + ODD.encode(),
    ODD.encode("utf-16"),
    ODD.encode()[:-1],
    ODD.encode() + b"{}",
    ODD.replace("2", "NaN").encode(),
    ODD.replace("2", '2, "x": Infinity').encode(),
    ODD.replace("2", "1").encode(),
    ODD.replace("2", "true").encode(),
    ODD.replace("2", "2.0").encode(),
    ODD.replace("2", '"2"').encode(),
    b'{"schemaVersion":2,"manifests":[],"a":"\xff"}',
    b'{"schemaVersion":2,"manifests":[],"annotations":{"a":"\\ud800"}}',
    b'{"schemaVersion":2,"manifests":[],"x":{"a":1,"a":1}}',
    b'{"schemaVersion":2,"manifests":[],"manifests":[]}',
    b'{"schemaVersion":2,"manifests":[],"MediaType":"x"}',
    b'{"schemaVersion":2,"SchemaVersion":2,"manifests":[]}',
    b"[" * 200_000,
    b'{"schemaVersion":2,"manifests":[],"x":' + b"[" * 64 + b"]" * 64 + b"}",
    b'{"schemaVersion":2,"manifests":[],"x":' + b"9" * 5000 + b"}",
    b'{"schemaVersion":2,"manifests":[],"x":[' + b"0," * NODE_LIMIT + b"0]}",
]


async def test_case_35_38_what_is_no_manifest_is_refused(tmp_path: Path) -> None:
    async with running(tmp_path) as node:
        for body in BROKEN:
            for reference in ("x", str(Digest.of(body))):
                await refused(node, put(reference, body, OCI_INDEX), 400, "MANIFEST_INVALID")
        nothing = request("PUT", "/v2/a/manifests/x", None, Content_Type=OCI_INDEX)
        await refused(node, nothing, 400, "MANIFEST_INVALID")


def padded(size: int) -> bytes:
    """An index of exactly so many bytes."""
    body = b'{"schemaVersion":2,"manifests":[],"annotations":{"a":"'
    return body + b"x" * (size - len(body) - 3) + b'"}}'


async def test_case_36_sizes_around_the_limit(tmp_path: Path) -> None:
    limit = 4 << 20
    config = msgspec.structs.replace(OPEN, limits=LimitsSection(manifest_bytes=limit))
    async with running(tmp_path, config) as node:
        for size in (limit - 1, limit):
            body = padded(size)
            assert (await node.put("a", "x", body, OCI_INDEX)).status == 201
            await same(node, "x", body, OCI_INDEX)
            parts = [body[at : at + 100_000] for at in range(0, size, 100_000)]
            client = await node.connect()
            client.send(chunked("PUT", "/v2/a/manifests/y", parts, Content_Type=OCI_INDEX))
            assert (await client.answer()).status == 201
            await same(node, "y", body, OCI_INDEX)
        body = padded(limit + 1)
        before = node.dump()
        parts = [body[at : at + 100_000] for at in range(0, len(body), 100_000)]
        for sent in (
            request("PUT", "/v2/a/manifests/z", None, Content_Length=str(limit + 1), Expect="100-continue"),
            put("z", body, OCI_INDEX),
            chunked("PUT", "/v2/a/manifests/z", parts, Content_Type=OCI_INDEX),
        ):
            client = await node.connect()
            client.send(sent)
            answer = await client.answer()
            assert (answer.status, code(answer)) == (413, "SIZE_INVALID")
        assert node.dump() == before


async def test_case_36_a_body_that_drips_arrives_whole(tmp_path: Path) -> None:
    async with running(tmp_path) as node:
        body = index()
        client = await node.connect()
        client.send(request("PUT", "/v2/a/manifests/x", None, Content_Length=str(len(body))))
        for at in range(len(body)):
            client.send(body[at : at + 1])
            await client.writer.drain()
        assert (await client.answer()).status == 201
        await same(node, "x", body, OCI_INDEX)


KINDS: list[tuple[dict[str, Any], str, str]] = [
    ({}, OCI_MANIFEST, OCI_MANIFEST),
    ({}, f"{OCI_MANIFEST}; charset=utf-8", OCI_MANIFEST),
    ({}, OCI_MANIFEST.upper(), OCI_MANIFEST),
    ({}, "", OCI_MANIFEST),
    ({}, "application/json", OCI_MANIFEST),
    ({"mediaType": "absent"}, "", OCI_MANIFEST),
    ({"mediaType": "absent"}, DOCKER_MANIFEST, DOCKER_MANIFEST),
    ({"mediaType": DOCKER_MANIFEST}, "application/octet-stream", DOCKER_MANIFEST),
    ({"layers": []}, OCI_MANIFEST, OCI_MANIFEST),
    ({"layers": None}, OCI_MANIFEST, OCI_MANIFEST),
]
NO_DIGESTS: list[Any] = [1, None, "x", "sha256:x", []]
WRONG: list[tuple[dict[str, Any], str]] = [
    ({}, DOCKER_MANIFEST),
    ({}, OCI_INDEX),
    ({}, "application/vnd.oci.artifact.manifest.v1+json"),
    ({"mediaType": "absent"}, "application/vnd.docker.distribution.manifest.v1+prettyjws"),
    ({"mediaType": "absent"}, "text/html"),
    ({"mediaType": 5}, OCI_MANIFEST),
    ({"manifests": []}, OCI_MANIFEST),
    ({"config": None}, OCI_MANIFEST),
    ({"config": "absent"}, OCI_MANIFEST),
    ({"config": {}}, OCI_MANIFEST),
    ({"config": []}, OCI_MANIFEST),
    ({"layers": "absent"}, OCI_MANIFEST),
    ({"layers": {}}, OCI_MANIFEST),
    ({"layers": [None]}, OCI_MANIFEST),
    *(
        ({"layers": [descriptor(NONE) | {"size": s}]}, OCI_MANIFEST)
        for s in ("1", 1.0, -1, 1 << 63, None, True)
    ),
    *(({"layers": [descriptor(NONE) | {"digest": d}]}, OCI_MANIFEST) for d in NO_DIGESTS),
    ({"layers": [descriptor(NONE) | {"mediaType": 1}]}, OCI_MANIFEST),
    ({"layers": [descriptor(NONE) | {"urls": "x"}]}, OCI_MANIFEST),
    ({"annotations": {"a": 1}}, OCI_MANIFEST),
    ({"annotations": []}, OCI_MANIFEST),
    ({"subject": {}}, OCI_MANIFEST),
    ({"subject": []}, OCI_MANIFEST),
    ({"subject": "x"}, OCI_MANIFEST),
]


async def test_case_37_types(tmp_path: Path) -> None:
    async with running(tmp_path) as node:
        plain = await node.image_body("a")
        for changes, said, kept in KINDS:
            body = without(plain, **changes)
            headers = {"Content_Type": said} if said else {}
            assert (await node.ask("PUT", "/v2/a/manifests/x", body, **headers)).status == 201
            await same(node, "x", body, kept)
            await node.ask("DELETE", f"/v2/a/manifests/{Digest.of(body)}")
        for changes, said in WRONG:
            await refused(node, put("x", without(plain, **changes), said), 400, "MANIFEST_INVALID")
        both = without(index(), layers=[], mediaType="absent")
        for kind in ("", OCI_INDEX, OCI_MANIFEST, DOCKER_LIST):
            await refused(node, put("x", both, kind), 400, "MANIFEST_INVALID")


async def test_case_38_indexes_hold_what_they_like(tmp_path: Path) -> None:
    async with running(tmp_path) as node:
        layer = await node.blob("a", b"a blob")
        child = await node.image("a")
        for number, body in enumerate(
            [
                index(),
                index(NONE),
                index(child, child, child),
                index(layer),
                index(*(f"sha256:{number:064x}" for number in range(20_000))),
            ]
        ):
            assert (await node.put("a", f"t{number}", body, OCI_INDEX)).status == 201
            await same(node, f"t{number}", body, OCI_INDEX)
        digest = child
        for depth in range(8):
            body = index(digest)
            answer = await node.put("a", f"nested{depth}", body, OCI_INDEX)
            assert answer.status == 201
            digest = answer.headers["docker-content-digest"]


async def test_case_39_subjects(tmp_path: Path) -> None:
    async with running(tmp_path) as node:
        here = await node.image("a")
        config = (await node.blob("a", b"{}"),)
        pushes: list[tuple[Callable[..., bytes], str, str]] = [
            (index, OCI_INDEX, "tag"),
            (index, OCI_INDEX, "digest"),
            (lambda **more: image(*config, **more), OCI_MANIFEST, "tag"),
            (lambda **more: image(*config, **more), OCI_MANIFEST, "digest"),
        ]
        for number, (build, kind, by) in enumerate(pushes):
            for subject in (here, NONE, "sha512:" + "b" * 128):
                body = build(subject=descriptor(subject), annotations={"n": str(number), "é": ""})
                digest = str(Digest.of(body))
                reference = "x" if by == "tag" else digest
                answer = await node.put("a", reference, body, kind)
                assert (answer.status, answer.headers["oci-subject"]) == (201, subject)
                listed = json.loads((await node.ask("GET", f"/v2/a/referrers/{subject}")).body)["manifests"]
                row = next(row for row in listed if row["digest"] == digest)
                assert row["annotations"] == {"n": str(number), "é": ""}
                assert (row["mediaType"], row["size"]) == (kind, len(body))
                assert row.get("artifactType") == (None if kind == OCI_INDEX else "application/octet-stream")
        for body in (index(subject=None), without(index(), subject="absent")):
            answer = await node.put("a", "x", body, OCI_INDEX)
            assert (answer.status, "oci-subject" in answer.headers) == (201, False)


async def test_case_39_filters_read_the_type_as_it_is(tmp_path: Path) -> None:
    async with running(tmp_path) as node:
        kinds = ["a/b", "a/b+c", "A/B"]
        for kind in kinds:
            body = index(subject=descriptor(NONE), artifactType=kind)
            assert (await node.put("a", str(Digest.of(body)), body, OCI_INDEX)).status == 201

        async def found(query: str) -> set[str]:
            answer = await node.ask("GET", f"/v2/a/referrers/{NONE}?{query}")
            return {row["artifactType"] for row in json.loads(answer.body)["manifests"]}

        assert await found("artifactType=a/b") == {"a/b"}
        assert await found("artifactType=a/b+c") == {"a/b+c"}
        assert await found("artifactType=a/b%2Bc") == {"a/b+c"}
        assert await found("artifactType=a/b&artifactType=A/B") == {"a/b", "A/B"}
        assert await found("artifactType=") == set(kinds)
        assert await found("artifactType=none") == set()


async def test_case_61_a_coded_body_is_not_decoded(tmp_path: Path) -> None:
    async with running(tmp_path) as node:
        body = gzip.compress(index())
        raw = request("PUT", "/v2/a/manifests/x", body, Content_Type=OCI_INDEX, Content_Encoding="gzip")
        await refused(node, raw, 400, "MANIFEST_INVALID")


async def test_case_2_an_unknown_algorithm_inside_a_descriptor_is_taken(tmp_path: Path) -> None:
    async with running(tmp_path) as node:
        child = "multihash+base58:QmRZxt2b1FVZPNqd8hsiykDL3TdBDeTSPX9Kv46HmX4Gx8"
        body = index(child, "sha384:" + "b" * 96)
        assert (await node.put("a", "x", body, OCI_INDEX)).status == 201
        await same(node, "x", body, OCI_INDEX)
        subject = index(subject=descriptor(child))
        answer = await node.put("a", "y", subject, OCI_INDEX)
        assert answer.status == 201
        assert "oci-subject" not in answer.headers  # nobody could ask for its referrers
