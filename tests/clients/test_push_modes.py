"""Pushes to a node with a parent: taken in ReadWrite whether the parent is there or not, refused in ReadOnly."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from holdfast.oci.manifest import MEDIA_TYPES
from holdfast.testing.sample import build_sample
from support.clients import CLIENTS
from support.node import Node, parent_toml
from support.programs import wait_until
from support.push_clients import EXACT, PACKED, holds, holds_packed
from support.registry import DockerRegistry
from support.transfer import fetch

REFUSAL = "This operation is not allowed on this registry."
#: one of each family: containerd asks by HEAD first, podman streams, skopeo copies a whole index
PUSHERS = ("containerd", "podman", "skopeo")
CHANGES = ("POST", "PATCH", "PUT", "DELETE")
#: What each prints of a refusal. containerd 1.6 prints the status and the URL, and nothing of the body.
PRINTED = {
    "skopeo": f"denied: {REFUSAL}",
    "podman": f"denied: {REFUSAL}",
    "buildah": f"denied: {REFUSAL}",
    "crane": f"DENIED: {REFUSAL}",
    "oras": f"denied: {REFUSAL}",
    "regctl": REFUSAL,
    "containerd": "405 Method Not Allowed",
}


def changed(parent: DockerRegistry) -> list[str]:
    """Requests that would change the parent."""
    return [asked.target for asked in parent.asked() if asked.method in CHANGES]


def is_there(url: str, target: str) -> bool:
    """Whether a registry has a manifest."""
    return fetch(url, target, "HEAD", headers={"Accept": ", ".join(MEDIA_TYPES)}).status == 200


def test_read_write_takes_pushes_with_and_without_the_parent(tmp_path: Path, short_path: Path) -> None:
    held = build_sample("held")

    def pushed(client: str, state: str) -> None:
        name, sample = f"team/{client}-{state}", build_sample(f"{client}/{state}")
        (place := short_path / f"{client}{state}").mkdir()
        {**EXACT, **PACKED}[client](node.address, place, name, sample)
        (holds if client in EXACT else holds_packed)(node.address, name, sample)

    def pulled(client: str) -> None:
        (place := short_path / f"{client}back").mkdir()
        CLIENTS[client](node.address, place, "team/held", held)

    with DockerRegistry(tmp_path / "parent") as parent:
        parent.push("team/held", held, "latest", "1.0")
        flags = ("--mode", "ReadWrite", "--anonymous", "push")
        with Node(tmp_path / "node", *flags, configuration=parent_toml(parent.url)) as node:
            for client in PUSHERS:
                pushed(client, "up")
            pulled("skopeo")
            for client in PUSHERS:
                target = f"/v2/team/{client}-up/manifests/latest"
                wait_until(partial(is_there, parent.url, target), f"{target} at the parent")
            parent.stop()
            for client in PUSHERS:
                pushed(client, "down")
            node.restart()
            pulled("crane")
            for client in PUSHERS:
                for state in ("up", "down"):
                    target = f"/v2/team/{client}-{state}/manifests/latest"
                    assert fetch(node.url, target).status == 200, target


@pytest.fixture(scope="module")
def read_only(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Node, DockerRegistry]]:
    """A node with a parent, in the mode such a node has when none is named, and its parent."""
    place = tmp_path_factory.mktemp("read-only")
    with (
        DockerRegistry(place / "parent") as parent,
        Node(place / "node", "--anonymous", "push", configuration=parent_toml(parent.url)) as node,
    ):
        yield node, parent


@pytest.mark.parametrize("client", PRINTED)
def test_read_only_refuses_pushes_in_the_words_of_the_original(
    client: str, read_only: tuple[Node, DockerRegistry], short_path: Path
) -> None:
    node, parent = read_only
    with pytest.raises(AssertionError) as refusal:
        {**EXACT, **PACKED}[client](node.address, short_path, f"team/{client}", build_sample("refused"))
    assert PRINTED[client] in str(refusal.value)
    assert changed(parent) == []
    assert fetch(node.url, f"/v2/team/{client}/manifests/latest").status == 404
