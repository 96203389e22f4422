"""A chain of real nodes whose top is gone: what none of them holds is refused at once, and says which level is away."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from holdfast.demo.seed import seed
from holdfast.testing.link import RelayLink
from holdfast.testing.sample import build_sample
from support.node import Node
from support.programs import wait_until
from support.transfer import fetch

NAME = "library/sample"
#: nodes below the top
LEVELS = 4
UNKNOWN = "sha256:" + "0" * 64
KINDS = ("manifests/new", f"manifests/{UNKNOWN}", f"blobs/{UNKNOWN}")


def test_case_trust_6_a_miss_below_a_dead_top_costs_one_request_a_level(tmp_path: Path) -> None:
    """503 with Retry-After at every depth, once for each kind of miss: nobody asks again and again what the level
    above has just said. What is held is served as before, and once the top is back a miss is answered by it."""
    sample = build_sample(NAME)
    (tmp_path / "top").mkdir()
    seed(tmp_path / "top" / "data", NAME, "latest", sample, 1.0)
    with ExitStack() as stack:
        top = stack.enter_context(Node(tmp_path / "top", "--anonymous", "push", workers=1))
        nodes, links, above = list[Node](), list[RelayLink](), top
        for depth in range(1, LEVELS + 1):
            link = stack.enter_context(RelayLink("127.0.0.1", above.port, round_trip=0.0))
            file = (
                f'[[parent]]\nurl = "http://127.0.0.1:{link.port}"\ninsecure = true\nprobe_interval = 1.0\n'
            )
            above = stack.enter_context(Node(tmp_path / f"level{depth}", configuration=file, workers=1))
            nodes.append(above)
            links.append(link)
        held = fetch(nodes[-1].url, f"/v2/{NAME}/manifests/latest")
        assert held.status == 200
        top.program.kill()
        wait_until(lambda: fetch(nodes[0].url, f"/v2/{NAME}/{KINDS[0]}").status == 503, "the loss is known")
        for depth, node in enumerate(nodes[1:], 2):
            for kind in KINDS:
                before = [len(link.heads) for link in links]
                answer = fetch(node.url, f"/v2/{NAME}/{kind}")
                assert (answer.status, answer.headers["holdfast-away"]) == (503, str(depth)), (
                    depth,
                    kind,
                    answer,
                )
                assert int(answer.headers["retry-after"]) >= 0
                assert f"level {depth} above this node is away".encode() in answer.body
                asked = [len(link.heads) - count for link, count in zip(links, before, strict=True)]
                assert asked[1:depth] == [1] * (depth - 1), (depth, kind)
            assert fetch(node.url, f"/v2/{NAME}/manifests/{sample.index}").status == 200
        top.start()
        wait_until(lambda: fetch(nodes[-1].url, f"/v2/{NAME}/{KINDS[0]}").status == 404, "the top is back")
