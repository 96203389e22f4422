"""Pins and the delete of a repository over the admin API of a node with a real store."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path

import pytest
from holdfast.storage.images.repository_removal import RepositoryDeletes
from holdfast.testing.manual_clock import START, FakeClock
from holdfast_core import Digest, LockChange, LockTarget, Pin, Store
from support.admin import AdminServing, admin_serving
from support.images import body_of, layer, pushed

DIGEST = "sha256:" + "a" * 64


async def test_a_pin_from_its_beginning_to_its_end(tmp_path: Path) -> None:
    async with admin_serving(tmp_path) as admin:
        pushed(admin.store, "app/web", layer(1), tag="v1")
        made = await admin.good("POST", "pins", {"image": "app/web:v1", "until": "2027-02-01T00:00:00Z"})
        assert made == {
            "value": [
                {
                    "image": "app/web:v1",
                    "until": "2027-02-01T00:00:00Z",
                    "withReferrers": False,
                    "pinned": "2027-01-15T08:00:00Z",
                    "held": True,
                    "over": False,
                }
            ],
            "nextLink": None,
        }
        await admin.good("POST", "pins", {"image": f"app/web@{DIGEST}", "withReferrers": True})
        await admin.good("POST", "pins", {"image": "app/web:v1"})
        assert admin.store.space.pins() == [
            Pin("app/web", "manifest", DIGEST, math.inf, True, START),
            Pin("app/web", "tag", "v1", math.inf, False, START),
        ]
        listed = (await admin.good("GET", "pins"))["value"]
        assert [(row["image"], row["until"], row["held"]) for row in listed] == [
            ("app/web:v1", None, True),
            (f"app/web@{DIGEST}", None, False),
        ]
        left = await admin.good("DELETE", f"pins?image=app/web@{DIGEST}")
        assert [row["image"] for row in left["value"]] == ["app/web:v1"]
        admin.clock.advance(1)
        assert await admin.refused("DELETE", f"pins?image=app/web@{DIGEST}") == (
            404,
            "that image is not pinned",
        )
        said = [(line["event"], line["by"], line["name"]) for line in admin.logs if "pinned" in line["event"]]
        assert said == [
            ("pinned", "operator", "v1"),
            ("pinned", "operator", DIGEST),
            ("pinned", "operator", "v1"),
            ("unpinned", "operator", DIGEST),
        ]


async def test_a_pin_that_is_over_is_shown_as_that(tmp_path: Path) -> None:
    async with admin_serving(tmp_path) as admin:
        await admin.good("POST", "pins", {"image": "a:v1", "until": "2027-01-15T08:00:01Z"})
        admin.clock.advance(1)
        assert [row["over"] for row in (await admin.good("GET", "pins"))["value"]] == [True]


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({"image": "app/web"}, "image: found 'app/web'; allowed: NAME:TAG or NAME@DIGEST"),
        ({"image": "node:5000/app/web:v1"}, "image: found 'node:5000/app/web:v1'; allowed: NAME:TAG"),
        ({"image": "app/web@sha256:12"}, "image: found 'app/web@sha256:12'; allowed: NAME:TAG"),
        (
            {"image": "app/web:v1", "until": "tomorrow"},
            "until: found 'tomorrow'; allowed: a time of RFC 3339",
        ),
        ({"image": "app/web:v1", "until": "2020-01-01T00:00:00Z"}, "until: a pin until 1577836800 "),
        ({}, "image: missing; it must be given"),
    ],
)
async def test_a_pin_that_cannot_be_is_refused(tmp_path: Path, body: dict[str, str], sentence: str) -> None:
    async with admin_serving(tmp_path) as admin:
        status, said = await admin.refused("POST", "pins", body)
        assert status == 400
        assert said.startswith(sentence)
        assert admin.store.space.pins() == []


# --- repositories ------------------------------------------------------------------------------------------


async def test_a_repository_is_deleted_with_all_that_it_has(tmp_path: Path) -> None:
    async with admin_serving(tmp_path) as admin:
        for number in range(40):
            pushed(admin.store, "app/old", layer(number), tag=f"v{number}")
        kept = pushed(admin.store, "app/new", layer(1), tag="v1")
        gone = await admin.good("DELETE", "repositories?repository=app/old")
        assert gone == {"name": "app/old", "deleted": 40, "gone": True}
        assert admin.store.references.repositories() == ["app/new"]
        assert admin.store.references.manifest("app/new", kept) is not None
        assert admin.store.space.account().file_bytes - admin.store.space.account().own_bytes == 39 * 40_960
        assert (await admin.refused("DELETE", "repositories?repository=app/old"))[0] == 404
        lines = [line for line in admin.logs if line["event"] == "repository deleted"]
        assert [(line["by"], line["repository"], line["deleted"]) for line in lines] == [
            ("operator", "app/old", 40)
        ]


async def test_a_large_one_goes_part_by_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast.storage.images.repository_removal.PART", 32)
    async with admin_serving(tmp_path) as admin:
        for number in range(40):
            pushed(admin.store, "app/old", layer(number), tag=f"v{number}")
        answers = [await admin.good("DELETE", "repositories?repository=app/old") for _ in range(2)]
        assert [(one["deleted"], one["gone"]) for one in answers] == [(32, False), (8, True)]


async def test_tags_of_manifests_that_are_not_here_go_as_well(tmp_path: Path) -> None:
    async with admin_serving(tmp_path) as admin:
        lost = Digest.of(b"lost")
        admin.store.references.put_tag("a", "v1", lost, now=1.0, origin="local").result()
        gone = await admin.good("DELETE", "repositories?repository=a")
        assert gone == {"name": "a", "deleted": 1, "gone": True}
        assert admin.store.references.repositories() == []


async def test_below_a_parent_it_stays_known_what_was_deleted(store: Store) -> None:
    """Or the next miss would bring it back before the parent has heard of the delete."""

    async def delete(repository: str, kind: str, name: str) -> None:
        assert kind == "manifest"
        gone = store.references.delete_manifest(repository, Digest.parse(name), now=1.0, tombstone=True)
        await asyncio.wrap_future(gone)

    digest = pushed(store, "a", layer(1), tag="v1")
    deletes = RepositoryDeletes(store, delete, lambda _: True, FakeClock())
    assert (await deletes.delete_repository("a", "a", "operator")).gone
    assert store.references.is_deleted("a", "tag", "v1")
    assert store.references.is_deleted("a", "manifest", str(digest))


@pytest.mark.parametrize("target", ["repository", "manifest", "tag"])
async def test_a_lock_keeps_the_whole_of_it(tmp_path: Path, target: str) -> None:
    async with admin_serving(tmp_path) as admin:
        digest = pushed(admin.store, "a", layer(1), tag="v1")
        pushed(admin.store, "a", layer(2), tag="v2")
        name = {"repository": "", "manifest": str(digest), "tag": "v1"}[target]
        lock = LockTarget(target, name)
        admin.store.references.set_lock("a", lock, LockChange(delete=False), now=1.0).result()
        status, said = await admin.refused("DELETE", "repositories?repository=a")
        assert status == 409
        assert "deleteEnabled is false on" in said
        assert said.endswith("Nothing was deleted")
        assert admin.store.references.tags("a") == ["v1", "v2"]


async def test_a_read_only_node_keeps_what_its_parent_gave_it(tmp_path: Path) -> None:
    async with admin_serving(tmp_path) as admin:
        pushed(admin.store, "a", layer(1), tag="v1")
        admin.store.set_mode("ReadOnly")
        status, said = await admin.refused("DELETE", "repositories?repository=a")
        assert status == 409
        assert said.startswith("this node is ReadOnly: its parent decides what it has")
        assert admin.store.references.tags("a") == ["v1"]


async def test_what_is_missing_is_said(tmp_path: Path) -> None:
    async with admin_serving(tmp_path) as admin:
        for method, path, sentence in (
            ("DELETE", "repositories", "repository: missing; it must be given"),
            ("DELETE", "pins", "image: missing; it must be given"),
            ("GET", "usage/tags", "repository: missing; it must be given"),
        ):
            assert await admin.refused(method, path) == (400, sentence)
        assert (await admin.refused("GET", "usage/tags?repository=a"))[0] == 404


# --- usage -------------------------------------------------------------------------------------------------


async def test_usage_is_paged_by_names_as_they_are_written(tmp_path: Path) -> None:
    async with admin_serving(tmp_path) as admin:
        for name in ("a", "b", "c"):
            pushed(admin.store, name, layer(1), tag="v1")
        for tag in ("B", "a", "c"):
            pushed(admin.store, "tags", layer(2), body_of().replace(b"2", b"2 "), tag=tag)
        assert await _pages(admin, "usage/repositories?$top=2", "name") == [["a", "b"], ["c", "tags"]]
        assert await _pages(admin, "usage/tags?repository=tags&$top=1", "tag") == [["B"], ["a"], ["c"]]


async def test_what_a_lock_hides_is_counted_all_the_same(tmp_path: Path) -> None:
    async with admin_serving(tmp_path) as admin:
        pushed(admin.store, "a", layer(1), tag="v1")
        hidden = LockChange(list=False)
        admin.store.references.set_lock("a", LockTarget("repository"), hidden, now=1.0).result()
        rows = (await admin.good("GET", "usage/repositories"))["value"]
        assert [(row["name"], row["bytes"], row["ownBytes"]) for row in rows] == [("a", 40_960, 40_960)]


async def _pages(admin: AdminServing, path: str, field: str) -> list[list[str]]:
    pages = []
    while path:
        page = await admin.good("GET", path)
        pages.append([row[field] for row in page["value"]])
        path = page["nextLink"]
    return pages
