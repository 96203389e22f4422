"""When an image was made, as it says itself."""

from __future__ import annotations

import json

import pytest
from holdfast.oci.manifest import OCI_INDEX, OCI_MANIFEST, parse
from holdfast.oci.platforms import Platforms
from holdfast.sync.image_age import CREATED, dating_child, time_of_annotations, time_of_config

DIGESTS = [f"sha256:{number:064x}" for number in range(4)]


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("2026-11-27T06:00:00Z", 1_795_759_200.0),
        ("2026-11-27T06:00:00.123456789Z", 1_795_759_200.0),
        ("2026-11-27T08:00:00+02:00", 1_795_759_200.0),
        ("1970-01-01T00:00:00Z", None),  # a reproducible build
        ("1980-01-01T00:00:01Z", None),
        ("0001-01-01T00:00:00Z", None),
        ("2026-11-27T06:00:00", None),
        ("yesterday", None),
        ("", None),
    ],
)
def test_a_time_is_what_both_say(text: str, at: float | None) -> None:
    assert time_of_annotations({CREATED: text}) == at
    assert time_of_config(json.dumps({"created": text, "config": {}}).encode()) == at


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b'{"created":5}', b'{"created":null}', b"\xff"])
def test_a_config_that_says_nothing(body: bytes) -> None:
    assert time_of_config(body) is None
    assert time_of_annotations({}) is None


def _index(*platforms: str) -> bytes:
    rows = []
    for digest, text in zip(DIGESTS, platforms, strict=False):
        system, architecture = text.split("/")
        platform = {"os": system, "architecture": architecture}
        rows.append({"mediaType": OCI_MANIFEST, "digest": digest, "size": 1, "platform": platform})
    return json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": rows}).encode()


def test_of_an_index_a_wanted_child_is_asked_and_never_an_attestation() -> None:
    index = parse(_index("unknown/unknown", "linux/arm64", "linux/amd64"), OCI_INDEX)
    for platforms, digest in [
        ((), DIGESTS[1]),
        (("linux/amd64",), DIGESTS[2]),
        (("windows/amd64",), DIGESTS[1]),
    ]:
        child = dating_child(index, Platforms(platforms))
        assert child is not None
        assert child.digest == digest
    assert dating_child(parse(_index("unknown/unknown"), OCI_INDEX), Platforms()) is None
