"""The gateway's answers one by one: who may ask what, when nothing changed, and how a held question ends."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest
from holdfast.config import Configuration
from holdfast.control import command
from holdfast.errors import NodeFull
from holdfast.resources.model import Identity, Status, StatusDetail
from holdfast.resources.model import RegistryConfiguration as Received
from holdfast.resources.report_bounds import STATUS_BYTES
from support.control import update_registry
from support.gateway import BASE, FIRST, Tree, refused, tree
from support.serving import Answer, Serving


async def test_activation_is_a_lease(tmp_path: Path) -> None:
    async with tree(tmp_path, lease=30.0) as root:
        first = msgspec.json.decode((await root.ask("POST", f"{BASE}/activate", FIRST)).body)
        assert (first["generation"], first["leaseSeconds"]) == (1, 30.0)
        second = await root.ask("POST", f"{BASE}/activate", {"instance": "second"})
        assert second.status == 409
        assert "ALREADY_ACTIVATED" in refused(second)
        assert (
            "already activated by another instance. Only one instance is supported at any time."
            in refused(second)
        )
        again = msgspec.json.decode((await root.ask("POST", f"{BASE}/activate", FIRST)).body)
        assert again["generation"] == 1
        root.held.clock.advance(31)
        second = await root.ask("POST", f"{BASE}/activate", {"instance": "second"})
        assert msgspec.json.decode(second.body)["generation"] == 2
        status = {"instance": "first", "generation": 1}
        for answer in (
            await root.ask("PUT", f"{BASE}/status", status),
            await root.ask("GET", f"{BASE}/config?instance=first&generation=1"),
        ):
            assert answer.status == 409
            assert "ALREADY_ACTIVATED" in refused(answer)


async def test_a_report_that_finds_no_room_is_to_come_again(tmp_path: Path) -> None:
    """It is no push: 507 would have the child ask for room."""
    async with tree(tmp_path) as root:
        await root.activate()

        async def full(_: bytes) -> bytes:
            raise NodeFull("the disk of this node is full; nothing was stored", retry_after=5)

        setattr(root.held.port, "control", full)  # noqa: B010
        status = {"instance": "first", "generation": 1, "statusDetails": []}
        answer = await root.ask("PUT", f"{BASE}/status", status)
        assert (answer.status, answer.headers["retry-after"]) == (503, "5")
        assert "the disk of this node is full" in refused(answer)


async def test_a_schedule_keeps_its_place_between_its_slots(tmp_path: Path) -> None:
    async with tree(tmp_path, lease=30.0) as root:
        await root.registry("daily", schedule="0 9 * * *", sync_window="PT1H")
        said = await root.ask("POST", "/acr/gateway/v1/daily/activate", FIRST, "daily")
        lease = msgspec.json.decode(said.body)["leaseSeconds"]
        root.held.clock.advance(lease - 60)
        second = await root.ask("POST", "/acr/gateway/v1/daily/activate", {"instance": "second"}, "daily")
        assert second.status == 409
        root.held.clock.advance(120)
        second = await root.ask("POST", "/acr/gateway/v1/daily/activate", {"instance": "second"}, "daily")
        assert second.status == 200


async def test_status_is_kept_and_what_is_below_only_of_descendants(tmp_path: Path) -> None:
    async with tree(tmp_path) as root:
        await root.registry("plantC")
        generation = await root.activate()
        below = {"plantB": Status(version="7"), "plantC": Status(version="7"), "nobody": Status(version="7")}
        detail = StatusDetail(type="Disk", code="DiskError", description="full")
        said = {
            "instance": "first",
            "generation": generation,
            "version": "2",
            "statusDetails": [detail],
            "below": below,
        }
        answer = await root.ask("PUT", f"{BASE}/status", said)
        assert answer.status == 200
        find = root.held.node.access.catalogue.status
        (kept,) = find("plantA").status_details
        assert (find("plantA").version, kept.timestamp > "2") == ("2", True)
        assert msgspec.structs.replace(kept, timestamp="") == detail
        assert [find(name).version for name in ("plantB", "plantC", "nobody")] == ["7", None, None]


async def test_case_trust_19_a_report_is_cut_to_what_its_parent_can_hand_up(tmp_path: Path) -> None:
    async with tree(tmp_path) as root:
        generation = await root.activate()
        said = {
            "instance": "first",
            "generation": generation,
            "version": "7" * 1_900_000,
            "statusDetails": [StatusDetail(type="Disk", code="DiskError", description="d" * 1000)] * 400,
            "syncProgress": {"rate": 1.0, "secondsLeft": None}
            | dict.fromkeys(
                ("imagesDone", "images", "bytesDone", "bytes", "retrying", "failed", "parked"), 1
            ),
            "below": {"plantB": Status(version="\0" * 300_000), "nobody": Status(version="7")},
        }
        answer = await root.ask("PUT", f"{BASE}/status", said)
        assert answer.status == 200
        for held in root.held.store.documents.of_kind("status"):
            assert len(held.body) <= STATUS_BYTES, held.name
        find = root.held.node.access.catalogue.status
        assert (find("plantA").version or "").startswith("777")
        assert (find("plantB").version or "").startswith("\0\0")


async def test_deactivation_by_the_instance_itself(tmp_path: Path) -> None:
    async with tree(tmp_path) as root:
        generation = await root.activate()
        other = {"instance": "second", "generation": generation}
        assert (await root.ask("POST", f"{BASE}/deactivate", other)).status == 200
        assert root.held.node.access.catalogue.status("plantA").lease is not None
        own = {"instance": "first", "generation": generation}
        assert (await root.ask("POST", f"{BASE}/deactivate", own)).status == 200
        assert (await root.ask("POST", f"{BASE}/activate", {"instance": "second"})).status == 200


async def test_deactivation_by_the_operator_is_told(tmp_path: Path) -> None:
    async with tree(tmp_path) as root:
        generation = await root.activate()
        asked = asyncio.ensure_future(
            config(root, f"wait=20&instance=first&generation={generation}", await etag(root))
        )
        await asyncio.sleep(0.05)
        await root.order(command.Deactivate(name="plantA"))
        answer = await root.pass_time(asked)
        assert (answer.status, "NOT_ACTIVATED" in refused(answer)) == (409, True)
        answer = await root.ask("PUT", f"{BASE}/status", {"instance": "first", "generation": generation})
        assert (answer.status, "NOT_ACTIVATED" in refused(answer)) == (409, True)


async def etag(root: Tree) -> str:
    """Of plantA's configuration now."""
    return (await root.ask("GET", f"{BASE}/config")).headers["etag"]


async def config(root: Tree, query: str, known: str, user: str = "plantA") -> Answer:
    """plantA's configuration unless it is known."""
    return await root.ask("GET", f"{BASE}/config?{query}", user=user, If_None_Match=known)


async def test_configuration_has_what_is_needed_below_and_no_more(tmp_path: Path) -> None:
    async with tree(tmp_path) as root:
        await root.token("reader", "repositories/team/app/content/read")
        await root.token("stranger", "repositories/team/app/content/read")
        await root.order(update_registry(name="plantB", add_client_tokens=("reader",)))
        found = msgspec.json.decode((await root.ask("GET", f"{BASE}/config")).body, type=Received)
        assert found.registry.name == "plantA"
        assert [one.name for one in found.below] == ["plantB"]
        assert {token.name for token in found.tokens} == {"plantA", "plantB", "reader"}
        text = msgspec.json.encode(found).decode()
        assert not any(password in text for password in root.passwords.values())


async def test_an_unchanged_configuration_is_304_at_once_or_after_the_wait(tmp_path: Path) -> None:
    async with tree(tmp_path) as root:
        known = await etag(root)
        assert known.startswith('"')
        assert (await config(root, "wait=0", known)).status == 304
        assert (await config(root, "", f'W/"x", {known}')).status == 304
        assert (await config(root, "", '"another"')).status == 200
        before = root.held.clock.monotonic()
        answer = await root.pass_time(asyncio.ensure_future(config(root, "wait=10", known)))
        assert answer.status == 304
        assert 10 <= root.held.clock.monotonic() - before < 12


async def test_a_change_ends_the_wait(tmp_path: Path) -> None:
    async with tree(tmp_path) as root:
        known, before = await etag(root), root.held.clock.monotonic()
        asked = asyncio.ensure_future(config(root, "wait=20", known))
        await asyncio.sleep(0.05)
        await root.token("unrelated", "repositories/team/app/content/read")
        root.held.clock.advance(0.5)
        await asyncio.sleep(0.05)
        assert not asked.done()
        await root.order(update_registry(name="plantA", log_level="Debug"))
        answer = await root.pass_time(asked)
        assert (answer.status, answer.headers["etag"] != known) == (200, True)
        assert root.held.clock.monotonic() - before < 5


@pytest.mark.parametrize("gone", ["token", "right", "registry"])
async def test_a_right_that_ends_ends_the_wait(gone: str, tmp_path: Path) -> None:
    async with tree(tmp_path) as root:
        right = "gateway/planta/config/read"
        await root.token("relay", right, "gateway/planta/config/write")
        asked = asyncio.ensure_future(config(root, "wait=20", await etag(root), "relay"))
        await asyncio.sleep(0.05)
        if gone == "token":
            await root.order(command.UpdateToken(name="relay", status="disabled"))
        elif gone == "right":
            await root.order(command.UpdateScopeMap(name="relay-scope-map", remove=(right,)))
        else:
            await root.order(command.DeleteRegistry(name="plantB", cleanup=True))
            await root.order(command.DeleteRegistry(name="plantA"))
        assert (await root.pass_time(asked)).status == {"token": 401, "right": 403, "registry": 404}[gone]


async def test_a_draining_node_lets_its_children_go(tmp_path: Path) -> None:
    async with tree(tmp_path) as root:
        asked = asyncio.ensure_future(config(root, "wait=20", await etag(root)))
        await asyncio.sleep(0.05)
        root.held.node.draining, before = True, root.held.clock.monotonic()
        assert (await root.pass_time(asked)).status == 304
        assert root.held.clock.monotonic() - before < 2


RIGHTS = {
    "config": ("GET", "config/read", None),
    "messages": ("GET", "message/read", None),
    "contents": ("GET", "message/read", None),
    "activate": ("POST", "config/write", FIRST),
    "deactivate": ("POST", "config/write", {"instance": "first", "generation": 1}),
    "status": ("PUT", "config/write", {"instance": "first", "generation": 1}),
}


@pytest.mark.parametrize("what", RIGHTS)
async def test_each_question_needs_its_own_right(what: str, tmp_path: Path) -> None:
    method, right, body = RIGHTS[what]
    every = {"config/read", "config/write", "message/read", "message/write"}
    async with tree(tmp_path) as root:
        await root.activate()
        await root.token("entitled", f"gateway/planta/{right}")
        await root.token("nearly", *(f"gateway/planta/{other}" for other in every - {right}))
        await root.token("elsewhere", f"gateway/plantb/{right}", "repositories/*/content/read")
        assert (await root.ask(method, f"{BASE}/{what}", body, "entitled")).status == 200
        assert (await root.ask(method, f"/acr/gateway/v1/PlantA/{what}", body, "entitled")).status == 200
        for user in ("nearly", "elsewhere"):
            assert (await root.ask(method, f"{BASE}/{what}", body, user)).status == 403, user
        root.passwords["plantA"] = "wrong"
        assert (await root.ask(method, f"{BASE}/{what}", body)).status == 401
        stranger = await root.held.ask(f"{BASE}/{what}", method)
        assert (stranger.status, "www-authenticate" in stranger.headers) == (401, True)


async def test_who_may_not_cannot_tell_whether_it_is_there(tmp_path: Path) -> None:
    async with tree(tmp_path) as root:
        there = await root.ask("GET", "/acr/gateway/v1/plantb/config", user="plantB")
        assert there.status == 403  # its own, and this is not its parent
        await root.token("curious", "repositories/*/content/read")
        answers = [
            await root.ask("GET", f"/acr/gateway/v1/{name}/config", user="curious")
            for name in ("planta", "nobody")
        ]
        assert {answer.status for answer in answers} == {403}
        assert answers[0].body == answers[1].body.replace(b"nobody", b"planta")


async def test_a_registry_connects_to_its_own_parent(tmp_path: Path) -> None:
    async with tree(tmp_path) as root:
        for user in ("plantB", "plantA"):  # plantA may relay, but not here
            answer = await root.ask("POST", "/acr/gateway/v1/plantb/activate", FIRST, user)
            assert answer.status == 403
            assert "the parent of connected registry plantB is plantA; this is the root" in refused(answer)


async def test_a_managed_node_is_the_parent_of_those_directly_below(tmp_path: Path) -> None:
    async with tree(tmp_path) as root:
        await root.registry("plantC", parent="plantB")
        found = msgspec.json.decode((await root.ask("GET", f"{BASE}/config")).body, type=Received)
        passwords = dict(root.passwords)

        async def below(held: Serving) -> None:
            node = Tree(held)
            node.passwords = passwords
            identity = Identity(name="plantA", instance="i", activated="2026-01-01T00:00:00Z")
            await node.order(command.Receive(identity=identity, configuration=found))
            said = await node.ask("POST", "/acr/gateway/v1/plantb/activate", FIRST, "plantB")
            assert said.status == 200, said
            answer = await node.ask("GET", "/acr/gateway/v1/plantb/config", user="plantB")
            inner = msgspec.json.decode(answer.body, type=Received)
            assert (inner.registry.name, [one.name for one in inner.below]) == ("plantB", ["plantC"])
            # plantC's parent is plantB, and its token does not even log in here
            assert (await node.ask("GET", "/acr/gateway/v1/plantc/config", user="plantC")).status == 401

        from support.serving import serving

        async with serving(tmp_path / "below", Configuration()) as held:
            await below(held)


MALFORMED = [
    (b"", "not as it must be"),
    (b"{}", "instance"),
    (b'{"instance": 5}', "instance"),
    (b'{"instance": "i", "generation": 1, "mood": 1}', "mood"),
    (b"[" * 4000, "not as it must be"),
    (b'{"instance": "' + b"i" * 5000 + b'", "generation": 1}', "4096"),
]


@pytest.mark.parametrize(("body", "why"), MALFORMED, ids=range(len(MALFORMED)))
async def test_a_malformed_body_is_400_and_says_why(body: bytes, why: str, tmp_path: Path) -> None:
    async with tree(tmp_path) as root:
        answer = await root.ask("POST", f"{BASE}/deactivate", msgspec.Raw(body) if body else None)
        assert answer.status == 400
        assert why in refused(answer)


async def test_what_is_no_question_is_refused(tmp_path: Path) -> None:
    async with tree(tmp_path) as root:
        assert (await root.ask("GET", f"{BASE}/nothing")).status == 404
        wrong = await root.ask("POST", f"{BASE}/config", FIRST)
        assert (wrong.status, wrong.headers["allow"]) == (405, "GET")
        for wait in ("-1", "x", "nan", "1e9"):
            assert (await root.ask("GET", f"{BASE}/config?wait={wait}")).status == 400, wait
