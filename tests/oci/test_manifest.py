"""Reading manifests: what is one, what is refused, what is kept."""

from __future__ import annotations

import json
from typing import Any

import pytest
from holdfast.oci.manifest import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    NODE_LIMIT,
    OCI_INDEX,
    OCI_MANIFEST,
    ManifestUnreadable,
    decode,
    fallback_tag,
    is_digest,
    parse,
)
from hypothesis import given
from hypothesis import strategies as st

HEX = "a" * 64


def descriptor(**changes: Any) -> dict[str, Any]:
    """A well-formed descriptor."""
    return {"mediaType": "application/x", "digest": f"sha256:{HEX}", "size": 1, **changes}


def image(**changes: Any) -> bytes:
    """An image manifest."""
    document = {"schemaVersion": 2, "config": descriptor(), "layers": [descriptor(size=5)], **changes}
    return json.dumps({key: value for key, value in document.items() if value != "absent"}).encode()


def index(**changes: Any) -> bytes:
    """An index."""
    document = {"schemaVersion": 2, "manifests": [descriptor(mediaType=OCI_MANIFEST)], **changes}
    return json.dumps({key: value for key, value in document.items() if value != "absent"}).encode()


@pytest.mark.parametrize(
    ("body", "content_type", "media_type"),
    [
        (image(), OCI_MANIFEST, OCI_MANIFEST),
        (image(), DOCKER_MANIFEST, DOCKER_MANIFEST),
        (image(mediaType=OCI_MANIFEST), f"{OCI_MANIFEST}; charset=utf-8", OCI_MANIFEST),
        (image(mediaType=DOCKER_MANIFEST), "", DOCKER_MANIFEST),
        (image(mediaType=DOCKER_MANIFEST), "application/json", DOCKER_MANIFEST),
        (image(), "", OCI_MANIFEST),
        (index(), "", OCI_INDEX),
        (index(), DOCKER_LIST, DOCKER_LIST),
        (image(layers=None), OCI_MANIFEST, OCI_MANIFEST),
        (image(layers=[]), OCI_MANIFEST, OCI_MANIFEST),
        (index(manifests=[]), OCI_INDEX, OCI_INDEX),
        (image(unknown={"Layers": 1}), OCI_MANIFEST, OCI_MANIFEST),
        (image(annotations={"Size": "1", "size": "2", "MEDIATYPE": "x"}), OCI_MANIFEST, OCI_MANIFEST),
        (index(manifests=[descriptor(mediaType="application/unknown")]), OCI_INDEX, OCI_INDEX),
        (image(config=descriptor(digest="multihash+base58:QmX")), OCI_MANIFEST, OCI_MANIFEST),
    ],
)
def test_legal(body: bytes, content_type: str, media_type: str) -> None:
    assert parse(body, content_type).media_type == media_type


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (image(), OCI_INDEX),
        (index(), OCI_MANIFEST),
        (image(), "text/html"),
        (image(), "application/vnd.docker.distribution.manifest.v1+prettyjws"),
        (image(mediaType=OCI_INDEX), OCI_MANIFEST),
        (image(mediaType="application/vnd.oci.artifact.manifest.v1+json"), ""),
        (image(mediaType=7), OCI_MANIFEST),
        (image(manifests=[]), OCI_MANIFEST),
        (image(manifests=None), OCI_MANIFEST),
        (index(layers=[]), OCI_INDEX),
        (index(config=descriptor()), OCI_INDEX),
        (image(layers="absent"), OCI_MANIFEST),
        (image(config="absent"), OCI_MANIFEST),
        (image(config=None), OCI_MANIFEST),
        (image(layers={}), OCI_MANIFEST),
        (image(layers="x"), OCI_MANIFEST),
        (index(manifests="absent"), OCI_INDEX),
        (image(schemaVersion="absent"), OCI_MANIFEST),
        (image(schemaVersion=1), OCI_MANIFEST),
        (image(schemaVersion="2"), OCI_MANIFEST),
        (image(schemaVersion=True), OCI_MANIFEST),
        (image(Config=1), OCI_MANIFEST),
        (image(LAYERS=[]), OCI_MANIFEST),
        (image(layers=[descriptor(Digest="x")]), OCI_MANIFEST),
        (image(layers=[descriptor(size=True)]), OCI_MANIFEST),
        (image(layers=[descriptor(size=-1)]), OCI_MANIFEST),
        (image(layers=[descriptor(size=1.0)]), OCI_MANIFEST),
        (image(layers=[descriptor(size=1 << 63)]), OCI_MANIFEST),
        (image(layers=[descriptor(digest=f"sha256:{HEX.upper()}")]), OCI_MANIFEST),
        (image(layers=[descriptor(digest=f"sha256:{HEX}\n")]), OCI_MANIFEST),
        (image(layers=[descriptor(digest="sha256:")]), OCI_MANIFEST),
        (image(layers=[descriptor(digest="../../etc/passwd")]), OCI_MANIFEST),
        (image(layers=[descriptor(mediaType=1)]), OCI_MANIFEST),
        (image(layers=[descriptor(urls="x")]), OCI_MANIFEST),
        (image(layers=["x"]), OCI_MANIFEST),
        (image(annotations={"a": 1}), OCI_MANIFEST),
        (image(annotations=["a"]), OCI_MANIFEST),
        (image(subject="x"), OCI_MANIFEST),
        (image()[:-1], OCI_MANIFEST),
        (image() + b"x", OCI_MANIFEST),
        (b"\xef\xbb\xbf" + image(), OCI_MANIFEST),
        (image().decode().encode("utf-16"), OCI_MANIFEST),
        (image().replace(b'"size": 1', b'"size": NaN'), OCI_MANIFEST),
        (image().replace(b'"size": 1', b'"size": ' + b"1" * 5000), OCI_MANIFEST),
        (image().replace(b"{", b'{"schemaVersion": 2,', 1), OCI_MANIFEST),
    ],
)
def test_s39_s40_what_clients_could_read_differently_is_refused(body: bytes, content_type: str) -> None:
    with pytest.raises(ManifestUnreadable):
        parse(body, content_type)


def test_facts() -> None:
    body = image(
        subject=descriptor(digest=f"sha512:{'b' * 128}"),
        artifactType="application/own",
        annotations={"a": "b"},
        layers=[descriptor(urls=["https://x/y"]), descriptor(mediaType=OCI_INDEX)],
    )
    found = parse(body, OCI_MANIFEST)
    assert (found.subject, found.artifact_type) == (f"sha512:{'b' * 128}", "application/own")
    assert found.annotations == {"a": "b"}
    assert not found.is_index
    assert [child.is_manifest for child in found.children] == [False, False, True]
    assert found.children[1].urls == ("https://x/y",)
    assert parse(index(), OCI_INDEX).is_index


def test_artifact_type_is_the_configs_for_an_image_and_none_for_an_index() -> None:
    assert parse(image(), OCI_MANIFEST).artifact_type == "application/x"
    assert parse(image(artifactType=""), OCI_MANIFEST).artifact_type == "application/x"
    assert parse(index(), OCI_INDEX).artifact_type == ""


def test_a_subject_of_an_unknown_algorithm_is_legal_and_refers_to_nothing() -> None:
    assert parse(image(subject=descriptor(digest="sha384:abc")), OCI_MANIFEST).subject == ""
    assert parse(image(subject=None), OCI_MANIFEST).subject == ""


@pytest.mark.parametrize("depth", [65, 900, 100_000])
def test_s41_bombs_of_nesting(depth: int) -> None:
    for opening, closing in ((b"[", b"]"), (b'{"a":', b"}")):
        with pytest.raises(ManifestUnreadable):
            decode(opening * depth + b"1" + closing * depth)
    assert decode(b"[" * 60 + b"]" * 60)


@pytest.mark.parametrize(
    ("digest", "tag"),
    [
        (f"sha256:{HEX}", f"sha256-{HEX}"),
        (f"sha512:{'b' * 128}", f"sha512-{'b' * 64}"),
        (
            "test+algorithm+using+algorithm+separators+and+lots+of+characters:alsoSome=InTheEncoded",
            "test-algorithm-using-algorithm-s-alsoSome-InTheEncoded",
        ),
    ],
)
def test_fallback_tag(digest: str, tag: str) -> None:
    assert fallback_tag(digest) == tag


def test_digests() -> None:
    assert is_digest(f"sha256:{HEX}")
    assert is_digest("sha256+b64u:LCa0a2j_xo_5m0U8HTBBNBNCLXBkg7-g-YpeiGJm564")
    for text in ("", ":", "sha256", f"sha256:{HEX[1:]}", f"sha256:{HEX}a", f"SHA256:{HEX}", 7, None):
        assert not is_digest(text)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(
                st.sampled_from(
                    [
                        "schemaVersion",
                        "mediaType",
                        "config",
                        "layers",
                        "manifests",
                        "subject",
                        "digest",
                        "size",
                        "annotations",
                    ]
                )
                | st.text(),
                inner,
            )
        ),
        max_leaves=30,
    )
)
def test_any_json_is_parsed_or_refused(document: Any) -> None:
    try:
        parse(json.dumps(document).encode(), OCI_MANIFEST)
    except ManifestUnreadable:
        return


@given(st.binary(max_size=300))
def test_any_bytes_are_parsed_or_refused(body: bytes) -> None:
    with pytest.raises(ManifestUnreadable):
        parse(body, OCI_MANIFEST)


def test_s41_case_38_hundred_thousand_children_are_within_the_bound_and_more_members_are_not() -> None:
    child = json.dumps(descriptor(mediaType=OCI_MANIFEST), separators=(",", ":"))
    body = f'{{"schemaVersion":2,"manifests":[{",".join([child] * 100_000)}]}}'.encode()
    assert len(parse(body, OCI_INDEX).children) == 100_000
    for mark in (b"[],", b"{},", b"0,"):
        with pytest.raises(ManifestUnreadable, match="over 500000 members"):
            decode(b"[" + mark * NODE_LIMIT + b"0]")


def test_case_trust_24_a_number_longer_than_any_size_is_not_read() -> None:
    """8 MB of numbers of 4,000 digits took 0.7 s, in which the process did nothing else."""
    assert decode(b"[" + b"9" * 100 + b"]") == [int("9" * 100)]
    for number in (b"9" * 101, b"-" + b"1" * 100, b"1" * 4000):
        with pytest.raises(ManifestUnreadable, match="a number of over 100 digits"):
            decode(b'{"size": [' + number + b"]}")


@pytest.mark.parametrize("text", ['"\\ud800"', '{"\\udc00":1}', '["\\ud800\\ud800"]', '"\\udc00\\ud800"'])
def test_case_35_half_of_a_surrogate_pair_is_no_text(text: str) -> None:
    with pytest.raises(ManifestUnreadable, match="surrogate"):
        decode(text.encode())


@pytest.mark.parametrize("text", ['"\\ud83d\\ude00"', '"\\\\ud800"', '"\\u00e9"'])
def test_case_35_whole_characters_are_kept(text: str) -> None:
    assert decode(text.encode()) == json.loads(text)


@pytest.mark.parametrize("version", [2.0, True, "2", 1, 3, None, "absent"])
def test_the_schema_version_is_the_number_2(version: Any) -> None:
    with pytest.raises(ManifestUnreadable, match="schemaVersion"):
        parse(image(schemaVersion=version), OCI_MANIFEST)


def test_layers_that_are_kept_elsewhere() -> None:
    def layer(**changes: Any) -> bool:
        return parse(image(layers=[descriptor(**changes)]), OCI_MANIFEST).children[1].is_foreign

    assert layer(urls=["https://elsewhere.example/"])
    assert layer(mediaType="application/vnd.docker.image.rootfs.foreign.diff.tar.gzip")
    assert layer(mediaType="application/vnd.oci.image.layer.nondistributable.v1.tar+zstd")
    assert not layer(mediaType="application/vnd.oci.image.layer.v1.tar+gzip")
    assert not layer(urls=[])
