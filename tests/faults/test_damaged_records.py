"""Damaged records met by a worker: the keeper, another process, mends them, and the request is answered."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from holdfast.testing.random_content import digest_of
from holdfast_core import Store
from support.node import Node
from support.pushing import OCI_MANIFEST, image
from support.stores import some_bytes
from support.transfer import fetch, target_of

LAYER, CONFIG = some_bytes(1_500_000), b'{"config":1}'
IMAGE = image(digest_of(CONFIG), digest_of(LAYER))
PATHS = ("manifests/x", f"blobs/{digest_of(CONFIG)}", f"blobs/{digest_of(LAYER)}", "tags/list")


def push(node: Node) -> None:
    """Each blob that HEAD does not find, then the manifest."""
    for body in (LAYER, CONFIG):
        digest = digest_of(body)
        if fetch(node.url, f"/v2/a/blobs/{digest}", "HEAD").status != 200:
            begun = fetch(node.url, "/v2/a/blobs/uploads/", "POST", body=b"")
            target = target_of(begun.headers["location"])
            glue = "&" if "?" in target else "?"
            assert fetch(node.url, f"{target}{glue}digest={digest}", "PUT", body=body).status == 201
    headers = {"Content-Type": OCI_MANIFEST}
    assert fetch(node.url, "/v2/a/manifests/x", "PUT", headers=headers, body=IMAGE).status == 201


def flip(data: Path, tables: bytes) -> None:
    """A bit of each record of some tables, of a store that nobody has open."""
    store = Store.create_or_open(data, write=True)
    with store._index.begin(write=True) as txn:
        for table in tables:
            for key, value in [row for row in txn.cursor() if row[0][:1] == bytes([table])]:
                txn.put(key, value[:-9] + bytes([value[-9] ^ 4]) + value[-8:])
    store.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_case_fault_5_a_worker_s_request_is_answered_after_the_keeper_mended(
    tmp_path: Path, workers: int
) -> None:
    with Node(tmp_path, "--anonymous", "push", workers=workers) as node:
        push(node)
        before = [fetch(node.url, f"/v2/a/{path}").body for path in PATHS]
        assert node.stop() == 0
        flip(node.data, b"SRLBCTHE")
        node.start()
        for _ in range(2):
            answers = [fetch(node.url, f"/v2/a/{path}") for path in PATHS]
            assert [answer.status for answer in answers] == [200] * 4
            assert [answer.body for answer in answers] == before
        assert json.loads(fetch(node.url, "/readyz").body)["troubles"] == []
        assert "record restored" in node.text()
        assert "Traceback" not in node.text()
