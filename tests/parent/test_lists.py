"""Tag lists and referrers from the parent: pages, bounds, the fallback tag."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable

import pytest
from holdfast import config
from holdfast.errors import ParentBroken, ParentDenied, ParentNotFound
from holdfast.http.endpoint import LISTS
from holdfast.oci.manifest import OCI_INDEX, OCI_MANIFEST
from holdfast.parent import listings
from holdfast.parent.listings import next_link
from holdfast.testing.fault import RequestGate, ScriptedFault
from holdfast.testing.random_content import digest_of
from holdfast.testing.sample import SBOM, build_sample
from holdfast.testing.scripted_parent import ScriptedParent
from holdfast.testing.scripted_token import Door
from support.parent_cases import client_of

pytestmark = pytest.mark.loop("asyncio")

NAMES = [f"t{number:03}" for number in range(25)]


def tagged(scripted: ScriptedParent) -> None:
    """A repository with 25 tags."""
    scripted.add_manifest("a", b"{}", OCI_MANIFEST, *NAMES)


@pytest.mark.parametrize("size", [0, 1, 7, 25, 100])
async def test_tags_of_all_pages(size: int) -> None:
    async with ScriptedParent() as scripted:
        tagged(scripted)
        scripted.page_size = size
        async with client_of(scripted) as parent:
            assert await parent.tags("a") == NAMES
            with pytest.raises(ParentNotFound):
                await parent.tags("none")


async def test_what_is_no_tag_is_left_out() -> None:
    async with ScriptedParent() as scripted:
        body = json.dumps({"name": "a", "tags": ["v1", "v1", "../x", 7, None, "a" * 200, "v2"]})
        scripted.script(
            ScriptedFault(status=200, body=body), ScriptedFault(status=200, body='{"name":"a","tags":null}')
        )
        async with client_of(scripted) as parent:
            assert await parent.tags("a") == ["v1", "v2"]
            assert await parent.tags("a") == []


@pytest.mark.parametrize(
    "body", ["", "[]", '{"tags":"x"}', '{"tags":{}, "tags":[]}', '{"tags":[' + "[" * 5000]
)
async def test_a_list_that_cannot_be_read_is_broken(body: str) -> None:
    async with ScriptedParent() as scripted:
        scripted.script(ScriptedFault(status=200, body=body))
        async with client_of(scripted) as parent:
            with pytest.raises(ParentBroken):
                await parent.tags("a")


@pytest.mark.parametrize(
    "link",
    [
        "<http://127.0.0.1:{other}/v2/a/tags/list>",
        "<http://localhost:{port}/v2/a/tags/list>",
        "<https://127.0.0.1:{port}/v2/a/tags/list>",
        "<http://user:word@127.0.0.1:{port}/v2/a/tags/list>",
        "<http://169.254.169.254/latest/meta-data>",
    ],
)
async def test_a_list_that_goes_on_elsewhere_is_broken(link: str) -> None:
    async with ScriptedParent() as scripted:
        tagged(scripted)
        async with ScriptedParent() as other:
            line = link.format(port=scripted.port, other=other.port) + '; rel="next"'
            scripted.script(ScriptedFault(repeat=[("Link", line)]))
            async with client_of(scripted) as parent:
                with pytest.raises(ParentBroken):
                    await parent.tags("a")
            assert other.connections_made == 0
        assert scripted.count() == 1


async def test_a_list_without_end_is_broken() -> None:
    async with ScriptedParent() as scripted:
        tagged(scripted)
        line = '</v2/a/tags/list?n=1&last=x>; rel="next"'
        scripted.script(ScriptedFault(repeat=[("Link", line)], times=-1))
        async with client_of(scripted) as parent:
            with pytest.raises(ParentBroken, match="does not end"):
                await parent.tags("a")
        assert scripted.count() == 2


async def test_a_page_too_large_is_broken() -> None:
    async with ScriptedParent() as scripted:
        scripted.script(ScriptedFault(status=200, body='{"tags":[]}' + " " * (4 << 20)))
        async with client_of(scripted) as parent:
            with pytest.raises(ParentBroken):
                await parent.tags("a")


@pytest.mark.parametrize(
    ("line", "target"),
    [
        ('</x>; rel="next"', "/x"),
        ("</x>; rel=next", "/x"),
        ('</x?a=1,2>; rel="next"; title="y"', "/x?a=1,2"),
        ('</p>; rel="prev", </x>; rel="next"', "/x"),
        ('</p>; rel="prev"', None),
        ("garbage", None),
        ("<" * 10_000, None),
    ],
)
def test_link(line: str, target: str | None) -> None:
    assert next_link([line]) == target


# ---- referrers


@pytest.mark.parametrize("size", [0, 1])
async def test_referrers_by_the_api(size: int) -> None:
    async with ScriptedParent() as scripted:
        sample = scripted.add_sample("a")
        scripted.page_size = size
        async with client_of(scripted) as parent:
            (found,) = await parent.referrers("a", sample.index)
            assert (found["digest"], found["artifact_type"]) == (sample.artifact, SBOM)
            assert set(found) == {"media_type", "digest", "size", "artifact_type", "annotations"}
            assert await parent.referrers("a", sample.artifact) == []
        assert scripted.count(path="/manifests/") == 0


async def test_referrers_by_the_fallback_tag_and_by_nothing() -> None:
    async with ScriptedParent() as scripted:
        sample = build_sample()
        scripted.add_sample("a", sample=sample)
        scripted.referrers_api = False
        async with client_of(scripted) as parent:
            assert await parent.referrers("a", sample.index) == []
            entry = {"mediaType": OCI_MANIFEST, "digest": sample.artifact, "size": 1, "artifactType": SBOM}
            index = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]}).encode()
            scripted.add_manifest("a", index, OCI_INDEX, sample.index.replace(":", "-"))
            (found,) = await parent.referrers("a", sample.index)
            assert found["digest"] == sample.artifact
            scripted.add_manifest("a", b"{}", OCI_INDEX, sample.index.replace(":", "-"))
            with pytest.raises(ParentBroken):
                await parent.referrers("a", sample.index)


async def test_an_answer_of_another_type_is_no_referrers_api() -> None:
    async with ScriptedParent() as scripted:
        sample = scripted.add_sample("a")
        scripted.script(ScriptedFault(path="/referrers/", headers=[("Content-Type", "application/json")]))
        async with client_of(scripted) as parent:
            assert await parent.referrers("a", sample.index) == []


async def test_a_referrer_with_a_bad_digest_is_broken() -> None:
    async with ScriptedParent() as scripted:
        body = json.dumps({"manifests": [{"mediaType": "a/b", "digest": "sha256:../..", "size": 1}]})
        headers = [("Content-Type", OCI_INDEX)]
        scripted.script(ScriptedFault(path="/referrers/", status=200, body=body, headers=headers))
        async with client_of(scripted) as parent:
            with pytest.raises(ParentBroken):
                await parent.referrers("a", digest_of(b""))


@pytest.mark.parametrize("size", [0, 2, 5])
async def test_the_catalogue_of_all_pages(size: int) -> None:
    async with ScriptedParent() as scripted:
        scripted.page_size = size
        for name in ("a", "team/b", "team/c/d", "teamwork", "z"):
            scripted.repository(name)
        async with client_of(scripted) as parent:
            assert await parent.catalogue() == ["a", "team/b", "team/c/d", "teamwork", "z"]
        async with client_of(f"{scripted.url}/team") as parent:
            assert await parent.catalogue() == ["b", "c/d"]


async def test_the_catalogue_is_asked_for_with_its_own_scope() -> None:
    async with ScriptedParent() as scripted:
        scripted.door = Door(scheme="bearer", username="u", password="p")
        tagged(scripted)
        login = config.CredentialsSection(username="u", password="p")
        async with client_of(scripted, credentials=login) as parent:
            assert await parent.tags("a") == NAMES
            assert await parent.catalogue() == ["a"]
            assert await parent.tags("a") == NAMES
        asked = [r.parameters()["scope"] for r in scripted.log if r.path == "/token"]
        assert asked == ["repository:a:pull", "registry:catalog:*"]
        async with client_of(scripted) as stranger:
            with pytest.raises(ParentDenied):
                await stranger.catalogue()


async def test_a_parent_without_a_catalogue_and_names_that_are_none() -> None:
    async with ScriptedParent() as scripted:
        names = ["a", "A", "../b", 7, "", "a", "b" * 300]
        scripted.script(
            ScriptedFault(status=200, body=json.dumps({"repositories": names})),
            ScriptedFault(status=200, body='{"repositories":null}'),
            ScriptedFault(status=200, body='{"repositories":"a"}'),
        )
        scripted.catalogue = False
        async with client_of(scripted) as parent:
            assert await parent.catalogue() == ["a"]
            assert await parent.catalogue() == []
            with pytest.raises(ParentBroken):
                await parent.catalogue()
            with pytest.raises(ParentNotFound):
                await parent.catalogue()


@pytest.mark.parametrize("kind", ["tags", "catalogue", "referrers"])
async def test_case_trust_24_a_list_of_a_parent_is_bounded_whatever_its_pages_have(kind: str) -> None:
    """Pages without end, each within the limit of one, and none with an entry that counts."""
    async with ScriptedParent() as scripted:
        tagged(scripted)
        for number in range(60):
            scripted.script(
                ScriptedFault(
                    status=200,
                    body=" " * (1 << 20) + "{}",
                    headers=[("Content-Type", OCI_INDEX)],
                    repeat=[("Link", f'</v2/a/tags/list?last={number}>; rel="next"')],
                )
            )
        async with client_of(scripted) as parent:
            ask: dict[str, Callable[[], Awaitable[object]]] = {
                "tags": lambda: parent.tags("a"),
                "catalogue": parent.catalogue,
                "referrers": lambda: parent.referrers("a", digest_of(b"")),
            }
            with pytest.raises(ParentBroken, match="over 32 MiB"):
                await ask[kind]()
        assert scripted.count() <= 33


async def test_case_trust_24_large_pages_are_read_beside_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others go on while megabytes of a parent's list are read."""

    readers = list[threading.Thread]()
    decode = listings.decode  # type: ignore[attr-defined]

    def watched(body: bytes) -> object:
        readers.append(threading.current_thread())
        return decode(body)

    monkeypatch.setattr(listings, "decode", watched)
    async with ScriptedParent() as scripted:
        names = [f"t{number:05}{'x' * 90}" for number in range(20_000)]
        scripted.script(
            ScriptedFault(path="tags", status=200, body=json.dumps({"tags": names})),
            ScriptedFault(path="_catalog", status=200, body=json.dumps({"repositories": names})),
        )
        async with client_of(scripted) as parent:
            assert await parent.tags("a") == names
            assert await parent.catalogue() == names
        assert len(readers) == 2
        assert threading.current_thread() not in readers


async def test_more_referrers_of_one_digest_than_anybody_has_are_broken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:

    monkeypatch.setattr(listings, "REFERRERS", 0)
    async with ScriptedParent() as scripted:
        sample = scripted.add_sample("a")
        async with client_of(scripted) as parent:
            with pytest.raises(ParentBroken, match="over 0"):
                await parent.referrers("a", sample.index)


async def test_case_trust_24_lists_of_one_parent_are_read_in_turns() -> None:
    """Each may have tens of megabytes, and strangers may ask for as many as they like."""
    async with ScriptedParent() as scripted:
        gate = RequestGate()
        for number in range(12):
            scripted.add_manifest(f"r{number}", b"{}", OCI_MANIFEST, "v1")
        async with client_of(scripted, connections=64) as parent:
            assert await parent.tags("r0") == ["v1"]  # the way in is known
            scripted.script(ScriptedFault(path="/tags/", gate=gate, times=-1))
            asked = [asyncio.ensure_future(parent.tags(f"r{number}")) for number in range(12)]
            await gate.wait_arrived(LISTS)
            assert await parent.head_manifest("r0", "v1")
            assert gate.arrived == LISTS
            gate.release()
            assert await asyncio.gather(*asked) == [["v1"]] * 12


async def test_a_page_with_more_entries_than_a_list_may_have_is_not_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:

    monkeypatch.delattr(listings, "decode")
    async with ScriptedParent() as scripted:
        scripted.script(ScriptedFault(status=200, body=json.dumps({"tags": ["a"] * 200_002})))
        async with client_of(scripted) as parent:
            with pytest.raises(ParentBroken, match="over 200000 entries"):
                await parent.tags("a")
