"""A real node: what rots on its disk is found by an order, refused to clients, listed, and over with a push."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from holdfast_core.digest import Digest
from support.command_line import command
from support.node import Node
from support.plain_push import push, put_blob
from support.programs import wait_until
from support.stores import file_of, flip_bit, some_bytes
from support.transfer import fetch

BODY = some_bytes((1 << 20) + 9)


def scrub(node: Node, *arguments: str, code: int = 0) -> Any:
    """The document of the verb."""
    done = command("scrub", *arguments, "--data", str(node.data), "-o", "json")
    assert done.code == code, done
    return done.document


def test_an_ordered_scrub_finds_it_and_a_push_heals_it(tmp_path: Path) -> None:
    with Node(tmp_path, "--anonymous", "push") as node:
        push(node.url, "app/web", "v1", BODY)
        digest = Digest.of(BODY)
        flip_bit(file_of(node.data, digest), 77)
        before = scrub(node)
        assert (before["period"], before["lastFullPass"], before["unrepaired"]) == (604_800.0, None, 0)
        assert before["held"] == len(BODY)
        scrub(node, "--now")
        wait_until(lambda: command("scrub", "--data", str(node.data)).code == 1, "the pass")
        wait_until(lambda: scrub(node, code=1)["lastFullPass"] is not None, "its end")
        report = scrub(node, code=1)["lastFullPass"]
        assert (report["trigger"], report["found"], report["repaired"]) == ("Ordered", 1, 0)
        assert report["bytes"] == len(BODY)
        ready = json.loads(fetch(node.url, "/readyz").body)
        assert any(str(digest) in sentence for sentence in ready["troubles"])
        assert fetch(node.url, f"/v2/app/web/blobs/{digest}").status == 404
        ordered = [one for one in node.events() if one.get("event") == "scrub ordered"]
        assert [one["by"] for one in ordered] == ["operator"]
        put_blob(node.url, "app/web", BODY)
        assert scrub(node)["unrepaired"] == 0
        assert fetch(node.url, f"/v2/app/web/blobs/{digest}").body == BODY
        status = command("status", "--data", str(node.data), "-o", "json")
        assert status.document["scrub"]["lastFullPass"] == report
