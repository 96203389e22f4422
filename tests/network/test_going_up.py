"""A ReadWrite child takes pushes while it is cut off, is killed twice, and the root has all of them in order after."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from support.namespaces import SiteNode, SiteOperator, require, row
from support.plain_push import has, push
from support.programs import wait_until
from support.transfer import fetch
from support.tree import QUICK, login

PUSHES, LAYER_BYTES = 200, 1 << 20
KILLS = (70, 140)
RATE = 50_000_000.0
REPOSITORY = "team/app"


def kill(node: SiteNode) -> None:
    """kill -9 of every process of it, and another start."""
    node.program.kill()
    node.start()


def created(node: SiteNode, tag: str) -> str:
    """When a node got a tag."""
    answer = node.site.do(fetch, node.url, f"/acr/v1/{REPOSITORY}/_tags/{tag}")
    return str(json.loads(answer.body)["tag"]["createdTime"])


def test_two_hundred_pushes_arrive_in_order_after_a_cut_and_two_kills(tmp_path: Path) -> None:
    require()
    with (
        row(2, RATE) as sites,
        SiteNode(
            sites.sites[0], tmp_path / "root", "--anonymous", "pull", configuration=QUICK, workers=1
        ) as root,
    ):
        (wire,), operator = sites.wires, SiteOperator(root)
        password = operator.token("pusher", REPOSITORY, "content/read", "content/write", "metadata/read")
        operator.registry("plant", REPOSITORY, mode="ReadWrite", clients=("pusher",))
        environ = {"ACR_REGISTRY_CONNECTION_STRING": operator.string("plant", root)}
        with SiteNode(
            sites.sites[1], tmp_path / "child", configuration=QUICK, workers=1, env=environ
        ) as child:
            known = login("pusher", password)

            def pushed(tag: str, layer: bytes) -> str:
                return child.site.do(push, child.url, REPOSITORY, tag, layer, known)

            begin = f"/v2/{REPOSITORY}/blobs/uploads/"
            wait_until(
                lambda: child.site.do(fetch, child.url, begin, "POST", headers=known).status == 202,
                "the mode is taken up",
            )
            wire.cut()
            wanted: dict[str, str] = {}
            size = 0
            for number in range(PUSHES):
                layer = os.urandom(LAYER_BYTES)
                wanted[f"t{number:03}"] = pushed(f"t{number:03}", layer)
                size += len(layer)
                if number in KILLS:
                    kill(child)
            began = time.monotonic()
            before = wire.count()
            wire.heal()
            there = has(root.url, REPOSITORY, {"t000": wanted["t000"]})
            wait_until(lambda: root.site.do(there), "the first tag at the root")
            wire.cut(unplugged=True)
            assert not root.site.do(has(root.url, REPOSITORY, wanted))
            wire.heal()
            wait_until(lambda: root.site.do(has(root.url, REPOSITORY, wanted)), "all tags at the root")
            crossed = wire.count() - before
            print(f"up in {time.monotonic() - began:.1f} s")
            print(f"{crossed.payload / size:.4f} of the unique bytes, {crossed.raw / size:.4f} raw")
            assert crossed.payload <= 1.02 * size
            times = [created(root, tag) for tag in wanted]
            assert times == sorted(times)
