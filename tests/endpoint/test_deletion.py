"""DELETE over a real socket: what goes, what stays, what is refused, and that it is seen at once."""

from __future__ import annotations

import json
from pathlib import Path

from holdfast_core.digest import Digest
from support.pushing import OCI_INDEX, Registry, code, descriptor, index, running

NONE = f"sha256:{'a' * 64}"


async def statuses(node: Registry, *targets: str) -> list[int]:
    """Of GET and HEAD, which agree."""
    found = [(await node.ask("GET", target)).status for target in targets]
    assert found == [(await node.ask("HEAD", target)).status for target in targets]
    return found


async def test_case_44_a_tag_goes_and_the_manifest_stays(tmp_path: Path) -> None:
    async with running(tmp_path) as node:
        digest = await node.image("a", "x", "y")
        answer = await node.ask("DELETE", "/v2/a/manifests/x")
        assert (answer.status, answer.body) == (202, b"")
        where = [f"/v2/a/manifests/{reference}" for reference in ("x", "y", digest)]
        assert await statuses(node, *where) == [404, 200, 200]
        listed = json.loads((await node.ask("GET", "/v2/a/tags/list")).body)
        assert listed == {"name": "a", "tags": ["y"]}
        again = await node.ask("DELETE", "/v2/a/manifests/x")
        assert (again.status, code(again)) == (404, "MANIFEST_UNKNOWN")


async def test_case_44_a_manifest_goes_with_its_tags_and_comes_back_without_them(tmp_path: Path) -> None:
    async with running(tmp_path) as node:
        body = index(subject=descriptor(NONE))
        digest = str(Digest.of(body))
        child = index(digest)
        for reference in ("x", "y"):
            await node.put("a", reference, body, OCI_INDEX)
        await node.put("a", "parent", child, OCI_INDEX)
        await node.put("b", "x", body, OCI_INDEX)
        assert (await node.ask("DELETE", f"/v2/a/manifests/{digest}")).status == 202
        where = [f"/v2/a/manifests/{reference}" for reference in ("x", "y", digest, "parent")]
        assert await statuses(node, *where, "/v2/b/manifests/x") == [404, 404, 404, 200, 200]
        referrers = json.loads((await node.ask("GET", f"/v2/a/referrers/{NONE}")).body)
        assert referrers["manifests"] == []
        assert (await node.ask("DELETE", f"/v2/a/manifests/{digest}")).status == 404
        assert (await node.put("a", digest, body, OCI_INDEX)).status == 201
        assert await statuses(node, *where) == [404, 404, 200, 200]
        referrers = json.loads((await node.ask("GET", f"/v2/a/referrers/{NONE}")).body)
        assert [row["digest"] for row in referrers["manifests"]] == [digest]


async def test_case_44_a_subject_goes_and_its_referrers_stay(tmp_path: Path) -> None:
    async with running(tmp_path) as node:
        subject = await node.image("a", "x")
        referrer = index(subject=descriptor(subject))
        await node.put("a", "referrer", referrer, OCI_INDEX)
        await node.ask("DELETE", f"/v2/a/manifests/{subject}")
        answer = await node.ask("GET", f"/v2/a/referrers/{subject}")
        assert [row["digest"] for row in json.loads(answer.body)["manifests"]] == [str(Digest.of(referrer))]


async def test_case_44_a_blob_goes_although_a_manifest_names_it(tmp_path: Path) -> None:
    async with running(tmp_path) as node:
        body = await node.image_body("a")
        await node.put("a", "x", body)
        layer = json.loads(body)["layers"][0]["digest"]
        await node.blob("b", b"layer 0")
        answer = await node.ask("DELETE", f"/v2/a/blobs/{layer}")
        assert answer.status == 202
        where = [f"/v2/a/blobs/{layer}", "/v2/a/manifests/x", f"/v2/b/blobs/{layer}"]
        assert await statuses(node, *where) == [404, 200, 200]
        again = await node.ask("DELETE", f"/v2/a/blobs/{layer}")
        assert (again.status, code(again)) == (404, "BLOB_UNKNOWN")
        await node.blob("a", b"layer 0")
        assert await statuses(node, *where) == [200, 200, 200]


async def test_what_is_not_there_is_404_and_changes_nothing(tmp_path: Path) -> None:
    async with running(tmp_path) as node:
        await node.image("a", "x")
        before = node.dump()
        cases = [
            ("a/manifests/none", 404, "MANIFEST_UNKNOWN"),
            (f"a/manifests/{NONE}", 404, "MANIFEST_UNKNOWN"),
            ("a/manifests/.x", 404, "MANIFEST_UNKNOWN"),
            ("a/manifests/sha256:x", 400, "DIGEST_INVALID"),
            (f"a/blobs/{NONE}", 404, "BLOB_UNKNOWN"),
            ("a/blobs/x", 400, "DIGEST_INVALID"),
            ("none/manifests/x", 404, "NAME_UNKNOWN"),
            (f"none/manifests/{NONE}", 404, "NAME_UNKNOWN"),
            (f"none/blobs/{NONE}", 404, "NAME_UNKNOWN"),
            ("None/manifests/x", 400, "NAME_INVALID"),
            ("a/tags/list", 405, "UNSUPPORTED"),
        ]
        for target, status, expected in cases:
            answer = await node.ask("DELETE", f"/v2/{target}")
            assert (answer.status, code(answer)) == (status, expected), target
        assert node.dump() == before


async def test_case_55_a_delete_may_have_a_body(tmp_path: Path) -> None:
    async with running(tmp_path) as node:
        await node.image("a", "x")
        assert (await node.ask("DELETE", "/v2/a/manifests/x", b"{}")).status == 202
        assert await statuses(node, "/v2/a/manifests/x") == [404]
