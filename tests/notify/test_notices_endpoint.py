"""POST messages at a parent's gateway: who may, what is taken, and that it never goes down."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from holdfast.endpoint.gateway.received_notices import NOTICES, NOTICES_BYTES
from support.gateway import BASE, refused, tree

DIGEST = f"sha256:{'a' * 64}"
LOG = "0123456789abcdef" * 2
PLACE = f"{BASE}/messages"


def event(number: int, where: str = "plantA", **more: Any) -> dict[str, Any]:
    """A push, as JSON."""
    fields = {
        "id": f"{where}/{LOG}-{number}",
        "at": 5.0,
        "verb": "push",
        "repository": "team/app",
        "digest": DIGEST,
        "tag": f"v{number}",
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "size": 7,
    }
    return {"number": number, "event": {**fields, **more}, "registry": where}


def order_of(generation: int, *notices: dict[str, Any], **more: Any) -> dict[str, Any]:
    """The body of the first instance."""
    return {"instance": "first", "generation": generation, "log": LOG, "notices": notices, **more}


async def test_notices_are_taken_once_and_never_go_down(tmp_path: Path) -> None:
    async with tree(tmp_path) as root:
        generation = await root.activate()
        began = msgspec.json.decode((await root.ask("GET", PLACE)).body)["cursor"]
        body = order_of(generation, event(3), event(4, "plantB"), event(5, "plantC"))
        for _ in range(2):
            answer = await root.ask("POST", PLACE, body)
            assert answer.status == 200, answer
            assert msgspec.json.decode(answer.body) == {"log": LOG, "number": 5}
        rows = [(row.registry, row.tag, row.happened) for row in root.held.store.events.after(0, 100)]
        assert rows == [("plantA", "v3", 5.0), ("plantB", "v4", 5.0)]
        down = msgspec.json.decode((await root.ask("GET", f"{PLACE}?after={began}")).body)
        assert down["messages"] == []
        assert down["cursor"] != began


async def test_s51_nobody_else_may(tmp_path: Path) -> None:
    async with tree(tmp_path) as root:
        generation = await root.activate()
        body = order_of(generation, event(1))
        await root.token("reader", "repositories/team/app/content/read", "gateway/planta/message/read")
        await root.registry("plantC")
        for user in ("reader", "plantC", "plantB"):
            assert (await root.ask("POST", PLACE, body, user)).status == 403
        other = await root.ask("POST", PLACE, order_of(generation, event(1), instance="second"))
        assert other.status == 409
        assert "ALREADY_ACTIVATED" in refused(other)
        assert not root.held.store.events.after(0, 100)


async def test_s51_a_body_that_cannot_be_is_refused_whole(tmp_path: Path) -> None:
    async with tree(tmp_path) as root:
        generation = await root.activate()
        many = [event(number) for number in range(1, NOTICES + 2)]
        wrong: list[tuple[dict[str, Any], str]] = [
            (order_of(generation, event(1, digest="x")), "notices[0].event.digest"),
            (order_of(generation, event(1, verb="pull")), "verb"),
            (order_of(generation, event(1, color="red")), "color"),
            (order_of(generation, event(1), more="x"), "more"),
            (order_of(generation, event(2), event(1)), "notices[1].number"),
            (order_of(generation, *many), f"notices: found {NOTICES + 1}; allowed: {NOTICES} at most"),
            (
                order_of(generation, event(1, mediaType="x" * NOTICES_BYTES)),
                f"a body over {NOTICES_BYTES} bytes",
            ),
        ]
        for body, words in wrong:
            answer = await root.ask("POST", PLACE, body)
            assert answer.status in (400, 413), (words, answer)
            assert words in refused(answer)
        assert not root.held.store.events.after(0, 100)
        longest = [event(number, repository="team/app") for number in range(1, NOTICES + 1)]
        assert (await root.ask("POST", PLACE, order_of(generation, *longest))).status == 200
