"""Small images pushed by plain HTTP: quicker than a client that is started for each."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping

from support.pushing import OCI_MANIFEST, image
from support.transfer import fetch, target_of


def digest_of(body: bytes) -> str:
    return f"sha256:{hashlib.sha256(body).hexdigest()}"


def put_blob(url: str, name: str, body: bytes, login: Mapping[str, str] | None = None) -> str:
    """A blob; its digest."""
    digest = digest_of(body)
    begun = fetch(url, f"/v2/{name}/blobs/uploads/", "POST", headers=login)
    assert begun.status == 202, begun
    place = target_of(begun.headers["location"])
    target = f"{place}{'&' if '?' in place else '?'}digest={digest}"
    closed = fetch(url, target, "PUT", headers=login, body=body)
    assert closed.status == 201, closed
    return digest


def push(url: str, name: str, tag: str, layer: bytes, login: Mapping[str, str] | None = None) -> str:
    """An image with a layer of its own; its digest."""
    body = image(put_blob(url, name, tag.encode(), login), put_blob(url, name, layer, login))
    kind = {"Content-Type": OCI_MANIFEST, **(login or {})}
    answer = fetch(url, f"/v2/{name}/manifests/{tag}", "PUT", headers=kind, body=body)
    assert answer.status == 201, answer
    return answer.headers["docker-content-digest"]


def has(url: str, name: str, wanted: dict[str, str]) -> Callable[[], bool]:
    """Whether a registry has the tags with these digests; the last is looked at first."""

    def look() -> bool:
        return all(at(url, name, tag) == wanted[tag] for tag in reversed(wanted))

    return look


def at(url: str, name: str, tag: str) -> str | None:
    """The digest that a tag has there, or None."""
    answer = fetch(url, f"/v2/{name}/manifests/{tag}", "HEAD", headers={"Accept": OCI_MANIFEST})
    return answer.headers.get("docker-content-digest")
