"""A real node with short leases: what the command line and the API say of its disk is what happens to its disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from holdfast.storage.disk_usage import allocated
from support.command_line import command
from support.node import Node
from support.plain_push import at, digest_of, has, put_blob
from support.plain_push import push as push_image
from support.programs import wait_until
from support.stores import some_bytes
from support.transfer import fetch
from support.tree import Operator, child

SHORT = """
anonymous = "push"
[push]
sweep_interval = 1.0
sweep_grace = 0.0
[garbage_collection]
lease = "PT1S"
"""


def ask(node: Node, *arguments: str) -> Any:
    """The document that a verb prints."""
    done = command(*arguments, "--data", str(node.data), "-o", "json")
    assert done.code == 0, done
    return done.document


def blocks(node: Node) -> int:
    """Bytes of all files of blobs, as the disk has them."""
    return allocated(node.data / "blobs" / "sha256")


def test_delete_collect_and_sweep_free_what_usage_says(tmp_path: Path) -> None:
    with Node(tmp_path, configuration=SHORT) as node:
        base, own = some_bytes(40_960, 1), some_bytes(1 << 20, 2)
        kept = push_image(node.url, "app/web", "v1", base)
        gone = push_image(node.url, "app/web", "v2", own)
        put_blob(node.url, "app/db", some_bytes(81_920, 3))
        assert blocks(node) == 40_960 + (1 << 20) + 81_920
        rows = {row["tag"]: row for row in ask(node, "usage", "app/web")}
        assert {tag: (row["digest"], row["bytes"], row["freedBytes"]) for tag, row in rows.items()} == {
            "v1": (kept, 40_960, 40_960),
            "v2": (gone, 1 << 20, 1 << 20),
        }
        usage = ask(node, "usage")
        assert (usage["files"], usage["bytes"], usage["ownBytes"]) == (3, 1_171_456, 1_171_456)
        assert {row["name"]: row["bytes"] for row in usage["repositories"]} == {
            "app/db": 81_920,
            "app/web": 1_089_536,
        }
        assert fetch(node.url, f"/v2/app/web/manifests/{gone}", "DELETE").status == 202
        wait_until(lambda: ask(node, "gc", "--dry-run")["report"]["bytes"] == 1_130_496, "leases of a second")
        dry = ask(node, "gc", "--dry-run")["report"]
        report = ask(node, "gc")["report"]
        assert (report["dryRun"], report["trigger"]) == (False, "Ordered")
        for field in ("lookedAt", "digests", "bytes", "repositories"):
            assert report[field] == dry[field], field
        assert report["bytes"] == (1 << 20) + 81_920
        wait_until(lambda: blocks(node) == 40_960, "the sweep")
        assert fetch(node.url, "/v2/app/web/manifests/v1").status == 200
        assert ask(node, "usage")["unlinkedBytes"] == 0
        assert ask(node, "gc", "--last")["report"] == report
        ordered = [one for one in node.events() if one.get("event") == "garbage collection ordered"]
        assert [(one["by"], one["dry_run"]) for one in ordered][-1] == ("operator", False)
        node.restart()
        assert ask(node, "gc", "--last")["report"] == report, "it outlasts the node"


def test_the_default_is_daily_and_nobody_but_the_operator_may(tmp_path: Path) -> None:
    with Node(tmp_path, "--anonymous", "push", workers=0) as node:
        status = ask(node, "gc", "--last")
        assert (status["enabled"], status["schedule"], status["report"]) == (True, "0 0 * * *", None)
        assert status["nextRun"].endswith("T00:00:00Z")
        url = json.loads((node.data / "admin.json").read_text())["url"]
        for method, path in (
            ("GET", "collection"),
            ("POST", "collection/run"),
            ("GET", "usage"),
            ("GET", "usage/repositories"),
            ("GET", "usage/tags?repository=a"),
        ):
            assert fetch(url, f"/api/v1/{path}", method).status == 401, path
            assert fetch(node.url, f"/api/v1/{path}", method).status == 404, path


def test_the_control_plane_of_the_parent_says_when_a_node_collects(tmp_path: Path) -> None:
    with Node(tmp_path / "root", workers=1) as root:
        operator = Operator(root)
        operator.registry("plant", "app/web")
        with child(tmp_path / "plant", operator.string("plant", root)) as plant:
            operator.wait_online("plant")
            status = ask(plant, "gc", "--last")
            assert (status["enabled"], status["schedule"]) == (True, "0 0 * * *")
            operator.change("plant", garbageCollection={"schedule": "30 3 * * *"})
            wait_until(lambda: ask(plant, "gc", "--last")["schedule"] == "30 3 * * *", "the new schedule")
            assert ask(plant, "gc", "--last")["nextRun"].endswith("T03:30:00Z")
            operator.change("plant", garbageCollection={"enabled": False})
            wait_until(lambda: not ask(plant, "gc", "--last")["enabled"], "switched off")
            assert ask(plant, "gc", "--last")["nextRun"] is None
            assert ask(plant, "gc")["report"]["failure"] == "", "by order it is done all the same"


def test_an_image_is_prefetched_pinned_and_outlives_a_collection(tmp_path: Path) -> None:
    site_toml = SHORT.replace('"push"', '"pull"') + 'untagged_after = "PT1S"\ncached_after = "PT1S"\n'
    with Node(tmp_path / "root", "--anonymous", "push", workers=1) as root:
        layer = some_bytes(1 << 20, 1)
        digest = push_image(root.url, "app/web", "v1", layer)
        parent = ("--parent", root.url, "--parent-insecure")
        with Node(tmp_path / "site", *parent, configuration=site_toml, workers=1) as site:
            by_digest = f"app/web@{digest}"
            (row,) = ask(site, "prefetch", by_digest, "--pin", "--with-referrers")
            assert (row["image"], row["state"], row["reason"]) == (by_digest, "Done", "")
            assert row["bytesDone"] >= 1 << 20
            assert blocks(site) == 1 << 20
            (pin,) = ask(site, "pins")
            assert (pin["image"], pin["until"], pin["withReferrers"], pin["held"]) == (
                by_digest,
                None,
                True,
                True,
            )
            wait_until(
                lambda: ask(site, "gc", "--dry-run")["report"]["lookedAt"] == 1, "it has no other name"
            )
            assert ask(site, "gc")["report"]["digests"] == 0
            root.stop()
            assert fetch(site.url, f"/v2/app/web/manifests/{digest}").status == 200
            assert fetch(site.url, f"/v2/app/web/blobs/{digest_of(layer)}").body == layer
            assert ask(site, "unpin", by_digest) == []
            done = command("prefetch", "app/web:v2", "--data", str(site.data), "-o", "json")
            assert (done.code, done.document[0]["state"]) == (1, "Failed")
            assert "parent" in done.document[0]["reason"]


def test_a_repository_is_deleted_here_and_at_the_parent(tmp_path: Path) -> None:
    with Node(tmp_path / "root", "--anonymous", "push", workers=1) as root:
        flags = ("--parent", root.url, "--parent-insecure", "--mode", "ReadWrite", "--anonymous", "push")
        with Node(tmp_path / "site", *flags, workers=1) as site:
            for tag in ("v1", "v2"):
                digest = push_image(site.url, "app/old", tag, some_bytes(40_960, ord(tag[1])))
                wait_until(has(root.url, "app/old", {tag: digest}), f"{tag} at the parent")
            refused = command("repository", "delete", "app/old", "--data", str(site.data))
            assert refused.code == 2
            assert "add --yes" in refused.err
            gone = ask(site, "repository", "delete", "app/old", "--yes")
            assert gone == {"name": "app/old", "deleted": 2, "gone": True}
            for tag in ("v1", "v2"):
                wait_until(lambda tag=tag: at(root.url, "app/old", tag) is None, "gone at the parent")  # type: ignore[misc]
                assert at(site.url, "app/old", tag) is None, "and the parent does not bring it back"
        assert ask(root, "repository", "delete", "app/old", "-y") == {
            "name": "app/old",
            "deleted": 0,
            "gone": True,
        }
        assert ask(root, "usage")["repositories"] == []
