"""What was deleted and can be restored, over the admin API and on a real node."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from holdfast.config import CollectionSection, Configuration
from holdfast.testing.manual_clock import START
from holdfast_core import Digest, LockChange, LockTarget, Store
from support.admin import AdminServing, admin_serving
from support.command_line import command
from support.images import has, layer
from support.node import Node
from support.plain_push import push as push_image
from support.programs import wait_until
from support.stores import MEDIA, push, push_file, some_bytes
from support.transfer import fetch

WEEK = Configuration(garbage_collection=CollectionSection(deleted_after="P7D"))


def image_of(*layers: bytes) -> bytes:
    """A manifest that a client may push."""
    rows = [
        {"mediaType": "layer", "digest": str(Digest.of(one)), "size": len(one)} for one in (b"{}", *layers)
    ]
    return json.dumps(
        {"schemaVersion": 2, "mediaType": MEDIA, "config": rows[0], "layers": rows[1:]}
    ).encode()


def pushed(store: Store, repository: str, content: bytes, tag: str) -> Digest:
    for one in (b"{}", content):
        push_file(store, repository, one)
    return push(store, repository, image_of(content), tag)


async def delete(admin: AdminServing, repository: str, kind: str, name: str) -> None:
    await admin.port.delete(repository, kind, name)  # type: ignore[arg-type]


async def test_a_deleted_image_is_listed_and_restored(tmp_path: Path) -> None:
    async with admin_serving(tmp_path, WEEK) as admin:
        digest = pushed(admin.store, "app/web", layer(1), tag="v1")
        push(admin.store, "app/web", image_of(layer(1)), "latest")
        await delete(admin, "app/web", "manifest", str(digest))
        assert admin.store.references.manifest("app/web", digest) is None
        row = {
            "image": f"app/web@{digest}",
            "digest": str(digest),
            "tags": ["latest", "v1"],
            "deleted": "2027-01-15T08:00:00Z",
            "until": "2027-01-22T08:00:00Z",
            "bytes": 40_960,
        }
        assert await admin.good("GET", "deleted") == {"value": [row], "nextLink": None}
        (usage,) = (await admin.good("GET", "usage/repositories"))["value"]
        assert (usage["manifests"], usage["deletedBytes"]) == (0, 40_960)
        push(admin.store, "app/web", image_of(), "latest")
        answer = await admin.good("POST", "deleted", {"image": f"app/web@{digest}"})
        assert answer == {"digest": str(digest), "tags": ["v1"], "taken": ["latest"]}
        tag = admin.store.references.tag("app/web", "v1")
        assert tag is not None
        assert (tag.digest, tag.origin) == (digest, "local")
        assert admin.store.references.tag("app/web", "latest") != tag
        assert (await admin.good("GET", "deleted"))["value"] == []
        assert [line["by"] for line in admin.logs if line["event"] == "restored"] == ["operator"]


async def test_it_is_restored_under_other_tags(tmp_path: Path) -> None:
    async with admin_serving(tmp_path, WEEK) as admin:
        digest = pushed(admin.store, "app/web", layer(1), tag="v1")
        await delete(admin, "app/web", "manifest", str(digest))
        push(admin.store, "app/web", image_of(), "v1")
        image = f"app/web@{digest}"
        refused = await admin.refused("POST", "deleted", {"image": image, "tags": ["v1", "v2"]})
        assert refused == (409, "tags that name something already: v1; delete them, or give others")
        assert admin.store.references.manifest("app/web", digest) is None
        answer = await admin.good("POST", "deleted", {"image": image, "tags": ["old"]})
        assert answer == {"digest": str(digest), "tags": ["old"], "taken": []}


@pytest.mark.parametrize("whole", [False, True])
async def test_a_deleted_tag_is_restored(tmp_path: Path, whole: bool) -> None:
    """Whether its manifest is here, or was deleted as well."""
    async with admin_serving(tmp_path, WEEK) as admin:
        digest = pushed(admin.store, "app/web", layer(1), tag="v1")
        await delete(admin, "app/web", "tag", "v1")
        (row,) = (await admin.good("GET", "deleted"))["value"]
        assert (row["image"], row["tags"], row["bytes"]) == ("app/web:v1", ["v1"], 0)
        if whole:
            await delete(admin, "app/web", "manifest", str(digest))
            rows = (await admin.good("GET", "deleted"))["value"]
            assert [row["image"] for row in rows] == [f"app/web@{digest}"]
        answer = await admin.good("POST", "deleted", {"image": "app/web:v1"})
        assert answer == {"digest": str(digest), "tags": ["v1"], "taken": []}
        assert admin.store.references.manifest("app/web", digest) is not None
        assert await admin.refused("POST", "deleted", {"image": "app/web:v1"}) == (
            404,
            "v1 was not deleted here, or is not kept any more",
        )


async def test_a_tag_is_listed_as_long_as_it_is_kept(tmp_path: Path) -> None:
    async with admin_serving(tmp_path, WEEK) as admin:
        pushed(admin.store, "app/web", layer(1), tag="v1")
        await delete(admin, "app/web", "tag", "v1")
        admin.clock.advance(7 * 86_400.0)
        assert (await admin.good("GET", "deleted"))["value"] == []


async def test_without_days_a_delete_is_for_good(tmp_path: Path) -> None:
    async with admin_serving(tmp_path) as admin:
        digest = pushed(admin.store, "app/web", layer(1), tag="v1")
        await delete(admin, "app/web", "manifest", str(digest))
        assert (await admin.good("GET", "deleted"))["value"] == []
        assert (await admin.refused("POST", "deleted", {"image": f"app/web@{digest}"}))[0] == 404
        assert admin.store.references.deleted("app/web") == []


async def test_a_lock_forbids_it(tmp_path: Path) -> None:
    async with admin_serving(tmp_path, WEEK) as admin:
        digest = pushed(admin.store, "app/web", layer(1), tag="v1")
        await delete(admin, "app/web", "manifest", str(digest))
        target, closed = LockTarget("repository", ""), LockChange(write=False)
        admin.store.references.set_lock("app/web", target, closed, now=START).result()
        status, said = await admin.refused("POST", "deleted", {"image": f"app/web@{digest}"})
        assert (status, "writeEnabled is false" in said) == (405, True)
        assert len(admin.store.references.deleted("app/web")) == 1


async def test_a_deleted_repository_keeps_its_name_for_what_can_be_restored(tmp_path: Path) -> None:
    async with admin_serving(tmp_path, WEEK) as admin:
        first, second = (pushed(admin.store, "app/web", layer(n), tag=f"v{n}") for n in (1, 2))
        gone = await admin.good("DELETE", "repositories?repository=app/web")
        assert gone == {"name": "app/web", "deleted": 2, "gone": True}
        assert admin.store.references.tags("app/web") == []
        assert admin.store.references.repositories() == ["app/web"]
        rows = (await admin.good("GET", "deleted"))["value"]
        assert {row["digest"] for row in rows} == {str(first), str(second)}
        for one in rows:
            await admin.good("POST", "deleted", {"image": one["image"]})
        assert admin.store.references.tags("app/web") == ["v1", "v2"]
        assert has(admin.store, "app/web", layer(1))


def test_on_a_node_a_delete_is_undone_by_the_operator(tmp_path: Path) -> None:
    """And goes by collection once it is switched off."""
    settings = '\nanonymous = "push"\n[garbage_collection]\nlease = "PT1S"\n'
    with Node(tmp_path, configuration=settings + 'deleted_after = "P1D"\n') as node:
        digest = push_image(node.url, "app/web", "v1", some_bytes(40_960, 1))
        node_said = ("--data", str(node.data), "-o", "json")
        assert fetch(node.url, f"/v2/app/web/manifests/{digest}", "DELETE").status == 202
        for path in (f"manifests/{digest}", "manifests/v1", f"blobs/{digest}"):
            assert fetch(node.url, f"/v2/app/web/{path}").status == 404, path
        assert command("gc", *node_said).document["report"]["digests"] == 0
        (row,) = command("deleted", *node_said).document
        assert (row["image"], row["tags"], row["bytes"]) == (f"app/web@{digest}", ["v1"], 40_960)
        restored = command("undelete", f"app/web@{digest}", *node_said)
        assert (restored.code, restored.document["tags"]) == (0, ["v1"])
        assert fetch(node.url, "/v2/app/web/manifests/v1").status == 200
        assert command("undelete", f"app/web@{digest}", *node_said).code != 0, "it is here"
        assert fetch(node.url, f"/v2/app/web/manifests/{digest}", "DELETE").status == 202
        node.file.write_text(settings)
        node.restart()
        wait_until(lambda: command("gc", *node_said).document["report"]["digests"], "the deleted manifest")
        assert command("deleted", *node_said).document == []
