"""Real clients before a parent that misbehaves: each pull ends with the right bytes, and the parent is asked
for what was promised and no more. Or, where nothing can help, the pull fails, and the next one does not."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from holdfast.testing.fault import ScriptedFault
from holdfast.testing.sample import Sample, build_sample
from holdfast.testing.scripted_process import ScriptedProcess, scripted_process
from support.clients import CLIENTS, everything
from support.node import Node, parent_toml
from support.sequences import layer_of
from support.transfer import fetch

#: of a body under 1 MiB that is cut, what the HTTP client had and nobody took yet is lost
LAYER_BYTES = (4_000, 2_300_000)


@dataclass(frozen=True)
class Site:
    """A node, its parent behind token authentication, and the storage that the parent redirects to."""

    node: Node
    parent: ScriptedProcess
    storage: ScriptedProcess

    def stocked(self, name: str) -> Sample:
        """A repository that nobody asked for yet, with tags `latest` and `1.0`; its counts begin here."""
        wanted = {"name": name, "tags": ["latest", "1.0"], "layer_bytes": LAYER_BYTES}
        self.parent.control("sample", wanted)
        for counted in (self.parent, self.storage):
            counted.control("reset")
        return build_sample(name, layer_bytes=LAYER_BYTES)

    def pull(self, client: str, place: Path, name: str, sample: Sample) -> None:
        """A real client's pull. When it fails, what the node said is shown."""
        try:
            CLIENTS[client](self.node.address, place, name, sample)
        except AssertionError:
            print(self.node.text()[-8000:])
            raise

    def bytes_of(self, digest: str) -> int:
        """What parent and storage sent of an object."""
        return sum(int(seen.stats()["bytes"].get(digest, 0)) for seen in (self.parent, self.storage))


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with (
        tempfile.TemporaryDirectory(prefix="hf-") as place,
        scripted_process("--sample", "library/first:latest") as parent,
        scripted_process() as storage,
    ):
        parent.control("settings", {"door": {"scheme": "bearer"}})
        with Node(Path(place), configuration=parent_toml(parent.url)) as node:
            # the first request of all learns where tokens are
            assert fetch(node.url, "/v2/library/first/manifests/latest").status == 200
            yield Site(node, parent, storage)


@pytest.fixture
def place() -> Iterator[Path]:
    """An empty directory with a short name: podman takes 50 characters, a Unix socket 107."""
    with tempfile.TemporaryDirectory(prefix="hf-", ignore_cleanup_errors=True) as name:
        yield Path(name)


@dataclass(frozen=True)
class Misbehaviour:
    """What the parent does once; `tag` and `layer` are the GETs of the tag and of the large layer that it
    sees in all, `tokens` the tokens it gives. `refused`: so many more GETs of anything may have carried the
    old token (which of several at once meet the refusal is theirs to race for)."""

    script: Callable[[Site, str, str, int], None]
    tag: int = 1
    layer: int = 1
    tokens: int = 1
    refused: int = 0


def cut(site: Site, name: str, layer: str, half: int) -> None:
    site.parent.script(ScriptedFault(method="GET", path=layer, cut_after=half))


def reset(site: Site, name: str, layer: str, half: int) -> None:
    site.parent.script(ScriptedFault(method="GET", path=layer, drop=True, reset=True))


def one_503(site: Site, name: str, layer: str, half: int) -> None:
    site.parent.script(
        ScriptedFault(method="GET", path=f"{name}/manifests/latest", status=503),
        ScriptedFault(method="GET", path=layer, status=503),
    )


def one_429(site: Site, name: str, layer: str, half: int) -> None:
    site.parent.script(
        ScriptedFault(
            method="GET", path=f"{name}/manifests/latest", status=429, headers=[("Retry-After", "1")]
        )
    )


def expired_redirects(site: Site, name: str, layer: str, half: int) -> None:
    """The first signature is too old when it is used, the third in the middle of the layer."""
    site.storage.control("sample", {"name": name, "layer_bytes": LAYER_BYTES})
    site.parent.script(
        ScriptedFault(
            method="GET", path=layer, times=-1, redirect=site.storage.url + "{path}?signature=secret"
        )
    )
    site.storage.script(
        ScriptedFault(path=layer, status=403),
        ScriptedFault(path=layer, cut_after=half),
        ScriptedFault(path=layer, status=403),
    )


def expired_token(site: Site, name: str, layer: str, half: int) -> None:
    """The token runs out while the layer is sent: going on is refused with 401, and asked again."""
    site.parent.script(ScriptedFault(method="GET", path=layer, cut_after=half, expire=True))


MISBEHAVIOURS = {
    "cut": Misbehaviour(cut, layer=2),
    "reset": Misbehaviour(reset, layer=2),
    "503": Misbehaviour(one_503, tag=2, layer=2),
    "429": Misbehaviour(one_429, tag=2),
    "redirect": Misbehaviour(expired_redirects, layer=4),
    "token": Misbehaviour(expired_token, layer=2, tokens=2, refused=1),
}
#: every client meets a cut; the rest is for those that ask in ways of their own
MEETS = {
    "skopeo": tuple(MISBEHAVIOURS),
    "containerd": tuple(MISBEHAVIOURS),
    "crane": tuple(MISBEHAVIOURS),
    "dockerd": ("cut", "429", "token"),
    "podman": ("cut", "503", "token"),
    "oras": ("cut", "redirect"),
    "regctl": ("cut", "503"),
}
MEETINGS = [(client, met) for client in CLIENTS for met in MEETS[client]]


def gets(parent: ScriptedProcess) -> Counter[str]:
    """GETs by the last part of their path: a tag, a digest, or "token"."""
    asked = parent.stats()["requests"]
    return Counter({key.rpartition("/")[2]: times for key, times in asked.items() if key.startswith("GET ")})


@pytest.mark.parametrize(("client", "misbehaviour"), MEETINGS)
def test_a_pull_succeeds_and_costs_what_was_promised(
    client: str, misbehaviour: str, site: Site, place: Path
) -> None:
    name, expected = f"library/{client}-{misbehaviour}", MISBEHAVIOURS[misbehaviour]
    sample = site.stocked(name)
    layer, body = layer_of(sample)
    expected.script(site, name, layer, len(body) // 2)
    site.pull(client, place, name, sample)
    asked, contents = gets(site.parent), everything(sample)
    assert (asked.pop("latest"), asked.pop("token")) == (expected.tag, expected.tokens)
    for digest in contents:
        least = expected.layer if digest == layer else 1
        assert asked[digest] == 0 or least <= asked[digest] <= least + expected.refused, digest
    assert asked[layer]
    for digest, content in contents.items():
        assert site.bytes_of(digest) <= 1.02 * len(content), digest


@pytest.mark.parametrize("client", ["skopeo", "containerd", "crane"])
def test_wrong_bytes_fail_the_pull_and_are_never_kept(client: str, site: Site, place: Path) -> None:
    """One byte of a layer is wrong for as long as the parent sends it so: the client says that the pull
    failed, whatever it tries again. Once the parent is well, so is the pull, and it starts from nothing."""
    name = f"library/{client}-flipped"
    sample = site.stocked(name)
    layer, body = layer_of(sample)
    site.parent.script(ScriptedFault(method="GET", path=layer, times=-1, flip_at=len(body) // 3))
    (place / "first").mkdir()
    (place / "second").mkdir()
    with pytest.raises(AssertionError, match=r"exit [1-9]"):
        site.pull(client, place / "first", name, sample)
    assert not list((site.node.data / "blobs").rglob(layer.partition(":")[2]))
    assert site.bytes_of(layer) >= len(body)
    site.parent.control("reset")
    site.pull(client, place / "second", name, sample)
    assert list((site.node.data / "blobs").rglob(layer.partition(":")[2]))
    assert site.bytes_of(layer) == len(body)
