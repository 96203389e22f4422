"""Tag lists and referrers from the parent: pages, bounds, the fallback tag."""

from __future__ import annotations

import json

import pytest
from holdfast import config
from holdfast.errors import ParentBroken, ParentDenied, ParentNotFound
from holdfast.manifest import OCI_INDEX, OCI_MANIFEST
from holdfast.parent.lists import next_link
from holdfast.testing.content import digest_of
from holdfast.testing.fault import Fault
from holdfast.testing.sample import SBOM, build_sample
from holdfast.testing.scripted_parent import ScriptedParent
from holdfast.testing.scripted_token import Door
from support.parent_cases import client_of, run

NAMES = [f"t{number:03}" for number in range(25)]


def tagged(scripted: ScriptedParent) -> None:
    """A repository with 25 tags."""
    scripted.add_manifest("a", b"{}", OCI_MANIFEST, *NAMES)


@pytest.mark.parametrize("size", [0, 1, 7, 25, 100])
def test_tags_of_all_pages(size: int) -> None:
    async def case(scripted: ScriptedParent) -> None:
        tagged(scripted)
        scripted.page_size = size
        async with client_of(scripted) as parent:
            assert await parent.tags("a") == NAMES
            with pytest.raises(ParentNotFound):
                await parent.tags("none")

    run(case)


def test_what_is_no_tag_is_left_out() -> None:
    async def case(scripted: ScriptedParent) -> None:
        body = json.dumps({"name": "a", "tags": ["v1", "v1", "../x", 7, None, "a" * 200, "v2"]})
        scripted.script(Fault(status=200, body=body), Fault(status=200, body='{"name":"a","tags":null}'))
        async with client_of(scripted) as parent:
            assert await parent.tags("a") == ["v1", "v2"]
            assert await parent.tags("a") == []

    run(case)


@pytest.mark.parametrize(
    "body", ["", "[]", '{"tags":"x"}', '{"tags":{}, "tags":[]}', '{"tags":[' + "[" * 5000]
)
def test_a_list_that_cannot_be_read_is_broken(body: str) -> None:
    async def case(scripted: ScriptedParent) -> None:
        scripted.script(Fault(status=200, body=body))
        async with client_of(scripted) as parent:
            with pytest.raises(ParentBroken):
                await parent.tags("a")

    run(case)


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
def test_a_list_that_goes_on_elsewhere_is_broken(link: str) -> None:
    async def case(scripted: ScriptedParent) -> None:
        tagged(scripted)
        async with ScriptedParent() as other:
            line = link.format(port=scripted.port, other=other.port) + '; rel="next"'
            scripted.script(Fault(repeat=[("Link", line)]))
            async with client_of(scripted) as parent:
                with pytest.raises(ParentBroken):
                    await parent.tags("a")
            assert other.connections_made == 0
        assert scripted.count() == 1

    run(case)


def test_a_list_without_end_is_broken() -> None:
    async def case(scripted: ScriptedParent) -> None:
        tagged(scripted)
        line = '</v2/a/tags/list?n=1&last=x>; rel="next"'
        scripted.script(Fault(repeat=[("Link", line)], times=-1))
        async with client_of(scripted) as parent:
            with pytest.raises(ParentBroken, match="does not end"):
                await parent.tags("a")
        assert scripted.count() == 2

    run(case)


def test_a_page_too_large_is_broken() -> None:
    async def case(scripted: ScriptedParent) -> None:
        scripted.script(Fault(status=200, body='{"tags":[]}' + " " * (4 << 20)))
        async with client_of(scripted) as parent:
            with pytest.raises(ParentBroken):
                await parent.tags("a")

    run(case)


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
def test_referrers_by_the_api(size: int) -> None:
    async def case(scripted: ScriptedParent) -> None:
        sample = scripted.add_sample("a")
        scripted.page_size = size
        async with client_of(scripted) as parent:
            (found,) = await parent.referrers("a", sample.index)
            assert (found["digest"], found["artifact_type"]) == (sample.artifact, SBOM)
            assert set(found) == {"media_type", "digest", "size", "artifact_type", "annotations"}
            assert await parent.referrers("a", sample.artifact) == []
        assert scripted.count(path="/manifests/") == 0

    run(case)


def test_referrers_by_the_fallback_tag_and_by_nothing() -> None:
    async def case(scripted: ScriptedParent) -> None:
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

    run(case)


def test_an_answer_of_another_type_is_no_referrers_api() -> None:
    async def case(scripted: ScriptedParent) -> None:
        sample = scripted.add_sample("a")
        scripted.script(Fault(path="/referrers/", headers=[("Content-Type", "application/json")]))
        async with client_of(scripted) as parent:
            assert await parent.referrers("a", sample.index) == []

    run(case)


def test_a_referrer_with_a_bad_digest_is_broken() -> None:
    async def case(scripted: ScriptedParent) -> None:
        body = json.dumps({"manifests": [{"mediaType": "a/b", "digest": "sha256:../..", "size": 1}]})
        headers = [("Content-Type", OCI_INDEX)]
        scripted.script(Fault(path="/referrers/", status=200, body=body, headers=headers))
        async with client_of(scripted) as parent:
            with pytest.raises(ParentBroken):
                await parent.referrers("a", digest_of(b""))

    run(case)


@pytest.mark.parametrize("size", [0, 2, 5])
def test_the_catalogue_of_all_pages(size: int) -> None:
    async def case(scripted: ScriptedParent) -> None:
        scripted.page_size = size
        for name in ("a", "team/b", "team/c/d", "teamwork", "z"):
            scripted.repository(name)
        async with client_of(scripted) as parent:
            assert await parent.catalogue() == ["a", "team/b", "team/c/d", "teamwork", "z"]
        async with client_of(f"{scripted.url}/team") as parent:
            assert await parent.catalogue() == ["b", "c/d"]

    run(case)


def test_the_catalogue_is_asked_for_with_its_own_scope() -> None:
    async def case(scripted: ScriptedParent) -> None:
        scripted.door = Door(scheme="bearer", username="u", password="p")
        tagged(scripted)
        login = config.Credentials(username="u", password="p")
        async with client_of(scripted, credentials=login) as parent:
            assert await parent.tags("a") == NAMES
            assert await parent.catalogue() == ["a"]
            assert await parent.tags("a") == NAMES
        asked = [r.parameters()["scope"] for r in scripted.log if r.path == "/token"]
        assert asked == ["repository:a:pull", "registry:catalog:*"]
        async with client_of(scripted) as stranger:
            with pytest.raises(ParentDenied):
                await stranger.catalogue()

    run(case)


def test_a_parent_without_a_catalogue_and_names_that_are_none() -> None:
    async def case(scripted: ScriptedParent) -> None:
        names = ["a", "A", "../b", 7, "", "a", "b" * 300]
        scripted.script(
            Fault(status=200, body=json.dumps({"repositories": names})),
            Fault(status=200, body='{"repositories":null}'),
            Fault(status=200, body='{"repositories":"a"}'),
        )
        scripted.catalogue = False
        async with client_of(scripted) as parent:
            assert await parent.catalogue() == ["a"]
            assert await parent.catalogue() == []
            with pytest.raises(ParentBroken):
                await parent.catalogue()
            with pytest.raises(ParentNotFound):
                await parent.catalogue()

    run(case)
