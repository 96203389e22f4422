"""What to write into clients' configuration so that they ask a node first."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import urlsplit

from holdfast.oci.names import DOCKER_HUB_HOSTS


class Lines(NamedTuple):
    """A file's path and what belongs into it."""

    client: str
    path: str
    syntax: str
    text: str


def origin_of(parent: str) -> str:
    """What image names call the registry at that URL."""
    host = urlsplit(parent).netloc
    return "docker.io" if host in DOCKER_HUB_HOSTS else host


def client_lines(node: str, origin: str, server: str) -> list[Lines]:
    """Lines for the node at `node` (URL) in front of the registry that image names call `origin` and that
    is reached at `server` (URL) when the node is away."""
    host = urlsplit(node).netloc
    return [
        Lines("Docker (images of Docker Hub)", "/etc/docker/daemon.json", "json", _docker(node)),
        Lines(
            "containerd", f"/etc/containerd/certs.d/{origin}/hosts.toml", "toml", _containerd(node, server)
        ),
        Lines("Podman", "/etc/containers/registries.conf.d/holdfast.conf", "toml", _podman(host, origin)),
    ]


def _docker(node: str) -> str:
    return f'{{\n  "registry-mirrors": ["{node}"]\n}}'


def _containerd(node: str, server: str) -> str:
    return f'server = "{server}"\n\n[host."{node}"]\n  capabilities = ["pull", "resolve"]'


def _podman(host: str, origin: str) -> str:
    return (
        f'[[registry]]\nprefix = "{origin}"\nlocation = "{origin}"\n\n'
        f'[[registry.mirror]]\nlocation = "{host}"\ninsecure = true'
    )
