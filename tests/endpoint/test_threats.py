"""Threats that are answered by what is already there: by membership, by transactions, by exact origins."""

from __future__ import annotations

import asyncio
import contextlib
import json
from pathlib import Path

import pytest
from holdfast.config import Configuration, CredentialsSection
from holdfast.errors import ParentFailed
from holdfast.testing.fault import ScriptedFault
from holdfast.testing.random_content import GeneratedContent
from holdfast.testing.scripted_parent import ScriptedParent
from holdfast.wire.routes import METHODS, Noun, Route, build
from holdfast_core.digest import Digest
from support.parent_cases import client_of, read_all
from support.pushing import OCI_MANIFEST, OPEN, image, request, running
from support.stores import some_bytes

BLOB = GeneratedContent(50_000, "credentials")
LOGIN = CredentialsSection(username="canary-user", password="canary-password")


async def test_s05_urls_of_a_foreign_layer_are_never_fetched(tmp_path: Path) -> None:
    async with running(tmp_path) as node, ScriptedParent() as canary:
        config, layer = await node.blob("a", b"config"), str(Digest.of(b"elsewhere"))
        document = json.loads(image(config, layer))
        document["layers"][0] |= {
            "mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
            "urls": [f"{canary.url}/layer"],
        }
        body = json.dumps(document).encode()
        assert (await node.put("a", "v1", body)).status == 201
        assert (await node.ask("GET", "/v2/a/manifests/v1")).body == body
        assert (await node.ask("GET", f"/v2/a/blobs/{layer}")).status == 404
        assert canary.connections_made == 0


@pytest.mark.loop("asyncio")
@pytest.mark.parametrize(
    "lookalike", ["{home}.evil.example", "evil-{home}", "{home}:1", "user@{home}", "{home}"]
)
async def test_s06_a_host_that_looks_like_the_parent_gets_nothing(lookalike: str) -> None:
    """The parent redirects to hosts whose names begin or end like its own: no credential goes there."""
    async with ScriptedParent() as scripted:
        scripted.add_blob("a", BLOB)
        scripted.door.scheme, scripted.door.username, scripted.door.password = (
            "basic",
            LOGIN.username,
            LOGIN.password,
        )
        async with ScriptedParent() as thief:
            thief.add_blob("a", BLOB)
            place = f"http://{lookalike.format(home='127.0.0.1')}:{thief.port}"
            async with client_of(
                scripted, credentials=LOGIN, redirects=(f"127.0.0.1:{thief.port}",)
            ) as parent:
                await read_all(parent, "a", BLOB.digest)  # from here on Basic goes with every request
                scripted.script(ScriptedFault(path="/blobs/", redirect=f"{place}{{path}}", times=-1))
                with contextlib.suppress(ParentFailed):
                    await read_all(parent, "a", BLOB.digest)
                scripted.door.challenges = [f'Bearer realm="{place}/token",service="s"']
                scripted.door.scheme = "bearer"
                with contextlib.suppress(ParentFailed):
                    await read_all(parent, "a", BLOB.digest)
            assert bool(thief.log) is (lookalike == "{home}")  # the redirect that is allowed, without a login
            assert [r for r in thief.log if r.header("authorization") or b"canary" in r.body] == []


@pytest.mark.loop("asyncio")
async def test_s07_credentials_belong_to_one_parent_and_go_with_it() -> None:
    """A parent that takes another's place gets nothing of its login: what was learnt at one origin stays there."""
    async with ScriptedParent() as scripted:
        scripted.add_blob("a", BLOB)
        scripted.door.scheme = "bearer"
        scripted.door.username, scripted.door.password = LOGIN.username, LOGIN.password
        async with client_of(scripted, credentials=LOGIN) as parent:
            await read_all(parent, "a", BLOB.digest)
        for scheme in ("", "basic", "bearer"):
            async with ScriptedParent() as other, client_of(other) as parent:
                other.add_blob("a", BLOB)
                other.door.scheme = scheme
                other.door.username, other.door.password = LOGIN.username, LOGIN.password
                with contextlib.suppress(ParentFailed):
                    await read_all(parent, "a", BLOB.digest)
                assert other.log
                assert [r for r in other.log if "canary" in r.query or b"canary" in r.body] == []
                said = [r.header("authorization") or "" for r in other.log]
                assert not any(text.startswith("Basic") for text in said), scheme


async def test_s11_a_digest_known_elsewhere_is_unknown_here(tmp_path: Path) -> None:
    """The same status, headers and words as for bytes that nobody has; also of a manifest."""
    async with running(tmp_path) as node:
        held = await node.blob("secret", some_bytes(70_000))
        manifest = await node.image("secret", "v1")
        for kind, digest in (("blobs", held), ("manifests", manifest)):
            nobody = str(Digest.of(b"nobody has this"))
            for method in ("GET", "HEAD"):
                known = await node.ask(method, f"/v2/a/{kind}/{digest}")
                unknown = await node.ask(method, f"/v2/a/{kind}/{nobody}")
                assert known.status == unknown.status == 404
                assert known.body.replace(digest.encode(), b"") == unknown.body.replace(nobody.encode(), b"")
                assert known.headers == unknown.headers


async def test_s12_what_was_deleted_is_gone_for_the_next_request(tmp_path: Path) -> None:
    async with running(tmp_path) as node:
        digest = await node.blob("a", some_bytes(70_000))
        client = await node.connect()
        for expected in (200, 404):
            client.send(request("GET", f"/v2/a/blobs/{digest}"))
            assert (await client.answer()).status == expected
            if expected == 200:
                assert (await node.ask("DELETE", f"/v2/a/blobs/{digest}")).status == 202
        client.close()


async def test_s16_of_a_hundred_who_create_a_tag_one_does(tmp_path: Path) -> None:
    """`If-None-Match: *` is decided in the transaction: the others get 412 and move nothing."""
    async with running(tmp_path) as node:
        bodies = [await node.image_body("a", number) for number in range(100)]
        target = "/v2/a/manifests/latest"
        answers = await asyncio.gather(
            *(node.ask("PUT", target, body, Content_Type=OCI_MANIFEST, If_None_Match="*") for body in bodies)
        )
        assert sorted(answer.status for answer in answers) == [201, *[412] * 99]
        winner = next(a.headers["docker-content-digest"] for a in answers if a.status == 201)
        assert (await node.ask("HEAD", target)).headers["docker-content-digest"] == winner


@pytest.mark.parametrize("by_digest", [False, True])
async def test_s16_a_locked_tag_is_not_moved_by_a_push_under_another_name(
    tmp_path: Path, by_digest: bool
) -> None:
    async with running(tmp_path) as node:
        first = await node.image("a", "latest")
        locked = await node.ask(
            "PATCH", "/acr/v1/a/_tags/latest", b'{"writeEnabled":false}', Content_Type="application/json"
        )
        assert locked.status == 200
        body = await node.image_body("a", 2)
        reference = f"{Digest.of(body)}?tag=latest" if by_digest else "latest"
        assert (await node.put("a", reference, body)).status == 405
        assert (await node.ask("HEAD", "/v2/a/manifests/latest")).headers["docker-content-digest"] == first


async def test_s26_nothing_answers_with_a_redirect(tmp_path: Path) -> None:
    """Every route and method, with targets that open redirects are made of."""
    async with running(tmp_path, config=OPEN) as node:
        digest = await node.image("a", "v1")
        for noun in Noun:
            for method in METHODS[noun]:
                path = build(Route(noun, "a", digest if noun in (Noun.MANIFEST, Noun.BLOB) else "v1"))
                for query in ("", "?next=//evil.example", "?redirect_uri=/%5Cevil.example"):
                    answer = await node.ask(method, path + query, b"" if method in ("POST", "PUT") else None)
                    assert not 300 <= answer.status < 400, (method, path, answer)


async def test_s24_no_answer_invites_another_origin(tmp_path: Path) -> None:
    """No CORS: neither a preflight nor an answer names an origin that may read it."""
    async with running(tmp_path, config=Configuration(anonymous="push")) as node:
        await node.image("a", "v1")
        for method in ("GET", "OPTIONS"):
            answer = await node.ask(method, "/v2/a/manifests/v1", Origin="https://evil.example")
            assert answer.status == (200 if method == "GET" else 405)
            assert [name for name in answer.headers if name.startswith("access-control-")] == []
