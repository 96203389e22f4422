"""Images of a layout are pushed as any client pushes them, and nothing of a damaged layout is."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from holdfast.testing.sample import Sample, build_sample
from support.clients import everything
from support.command_line import Said, command
from support.node import Node
from support.transfer import fetch

NAME = "org.opencontainers.image.ref.name"
SAMPLE = build_sample()
OTHER = build_sample("other", architectures=("amd64",))
LAYER = SAMPLE.layers["amd64"][0]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A root that takes pushes from anybody."""
    with Node(tmp_path_factory.mktemp("root"), "--anonymous", "push", workers=1) as serving:
        yield serving


def descriptor(sample: Sample, digest: str, name: str = "") -> dict[str, Any]:
    kind, body = next((kind, body) for found, kind, body in sample.manifests if found == digest)
    entry = {"mediaType": kind, "digest": digest, "size": len(body)}
    return {**entry, "annotations": {NAME: name}} if name else entry


def write_layout(place: Path, *images: tuple[Sample, str], referrers: bool = False) -> Path:
    """A layout of samples by their names, as skopeo writes one; with their artifacts, as oras does."""
    (place / "blobs" / "sha256").mkdir(parents=True)
    (place / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    manifests = []
    for sample, name in images:
        held = {**sample.blobs, **{digest: body for digest, _, body in sample.manifests}}
        for digest, body in held.items():
            (place / "blobs" / "sha256" / digest[7:]).write_bytes(body)
        manifests.append(descriptor(sample, sample.index, name))
        manifests += [descriptor(sample, sample.artifact)] if referrers else []
    (place / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": manifests}))
    return place


def blob(place: Path, digest: str) -> Path:
    return place / "blobs" / "sha256" / digest[7:]


def load(node: Node, source: Path, name: str, *arguments: str) -> Said:
    return command("import", str(source), name, "--node", node.url, *arguments)


def tags(node: Node, name: str) -> Any:
    answer = fetch(node.url, f"/v2/{name}/tags/list")
    return json.loads(answer.body)["tags"] if answer.status == 200 else answer.status


def holds(node: Node, name: str, sample: Sample) -> bool:
    """Whether the repository has every byte of a sample."""
    manifests = {digest for digest, _, _ in sample.manifests}
    for digest, body in everything(sample).items():
        place = "manifests" if digest in manifests else "blobs"
        if fetch(node.url, f"/v2/{name}/{place}/{digest}").body != body:
            return False
    return True


def test_an_image_gets_the_tag_that_is_named(node: Node, tmp_path: Path) -> None:
    source = write_layout(tmp_path / "in", (SAMPLE, "whatever"))
    done = load(node, source, "one/tag:v1")
    assert (done.code, done.out, done.err) == (0, "6 blobs, 3 manifests: no problems\n", "")
    assert tags(node, "one/tag") == ["v1"]
    assert holds(node, "one/tag", SAMPLE)
    again = load(node, source, "one/tag:v2")
    assert (again.code, again.out) == (0, "6 blobs that were there, 3 manifests: no problems\n")
    assert tags(node, "one/tag") == ["v1", "v2"]


def test_without_a_tag_each_image_keeps_its_own(node: Node, tmp_path: Path) -> None:
    """skopeo writes a tag as the name, crane the whole reference."""
    source = write_layout(tmp_path / "in", (SAMPLE, "a"), (OTHER, "registry.example/other:b"))
    assert load(node, source, "own/tags").code == 0
    assert tags(node, "own/tags") == ["a", "b"]
    assert holds(node, "own/tags", SAMPLE)
    assert holds(node, "own/tags", OTHER)


def test_referrers_come_along(node: Node, tmp_path: Path) -> None:
    source = write_layout(tmp_path / "in", (SAMPLE, "a"), (OTHER, "b"), referrers=True)
    assert load(node, source, "with/referrers:1", "--ref", "a").code == 0
    assert tags(node, "with/referrers") == ["1"]
    listed = json.loads(fetch(node.url, f"/v2/with/referrers/referrers/{SAMPLE.index}").body)["manifests"]
    assert [one["digest"] for one in listed] == [SAMPLE.artifact]
    assert fetch(node.url, f"/v2/with/referrers/manifests/{OTHER.artifact}").status == 404


def test_which_of_several_images_must_be_said(node: Node, tmp_path: Path) -> None:
    source = write_layout(tmp_path / "in", (SAMPLE, "a"), (OTHER, "b"))
    done = load(node, source, "several/images:1")
    assert done.code == 2
    assert done.err == (
        f"holdfast: {source} has 2 images: a, b; choose one with --ref, or give no tag and each gets its own\n"
    )
    done = load(node, source, "several/images:1", "--ref", "c")
    assert (done.code, done.err) == (2, f"holdfast: {source} has no image 'c'; found: a, b\n")
    assert tags(node, "several/images") == 404


def test_two_images_of_one_tag_do_not_take_it_from_each_other(node: Node, tmp_path: Path) -> None:
    """The same image twice is no contradiction; --ref takes the whole name, or the digest."""
    source = write_layout(tmp_path / "in", (SAMPLE, "one/app:v1"), (OTHER, "other/app:v1"))
    done = load(node, source, "same/tags")
    assert (done.code, done.out) == (2, "")
    assert done.err == (
        f"holdfast: {source} has several images for the tag 'v1': one/app:v1, other/app:v1; import one at a time, each"
        " into its repository, with --ref\n"
    )
    assert tags(node, "same/tags") == 404
    assert load(node, source, "same/tags", "--ref", "other/app:v1").code == 0
    assert holds(node, "same/tags", OTHER)
    document = json.loads((source / "index.json").read_text())
    for entry, whose in zip(document["manifests"], ("one/app:v1", "other/app:v1"), strict=True):
        entry["annotations"] = {"org.opencontainers.image.ref.name": "v1", "io.containerd.image.name": whose}
    (source / "index.json").write_text(json.dumps(document))
    assert "one/app:v1, other/app:v1; import one" in load(node, source, "same/tags").err
    for reference in ("one/app:v1", SAMPLE.index):
        assert load(node, source, f"same/whole:{len(reference)}", "--ref", reference).code == 0
    assert holds(node, "same/whole", SAMPLE)
    again = write_layout(tmp_path / "again", (SAMPLE, "one/app:v1"), (SAMPLE, "other/app:v1"))
    assert load(node, again, "same/image").code == 0


def packed(source: Path, to: Path, prefix: str = "") -> Path:
    with tarfile.open(to, "w") as archive:
        for file in sorted(source.rglob("*")):
            if file.is_file():
                archive.add(file, f"{prefix}{file.relative_to(source)}")
    return to


@pytest.mark.parametrize("prefix", ["", "./"])
def test_from_a_tar(node: Node, tmp_path: Path, prefix: str) -> None:
    source = packed(write_layout(tmp_path / "in", (SAMPLE, "t")), tmp_path / "in.tar", prefix)
    name = f"from/tar{len(prefix)}"
    assert load(node, source, name).code == 0
    assert tags(node, name) == ["t"]
    assert holds(node, name, SAMPLE)


def flip(place: Path, digest: str) -> None:
    body = bytearray(blob(place, digest).read_bytes())
    body[5] ^= 1
    blob(place, digest).write_bytes(body)


def lose(place: Path, digest: str) -> None:
    blob(place, digest).unlink()


@pytest.mark.parametrize(
    ("harm", "digest", "sentence"),
    [
        (flip, LAYER, ": its file hashes to sha256:"),
        (lose, LAYER, f" is missing, which {SAMPLE.images['amd64']} names"),
        (flip, SAMPLE.images["arm64"], ": its file hashes to sha256:"),
        (lose, SAMPLE.index, " is missing, which index.json lists"),
    ],
)
def test_nothing_of_a_damaged_layout_is_pushed(
    node: Node, tmp_path: Path, harm: Callable[[Path, str], None], digest: str, sentence: str
) -> None:
    source = write_layout(tmp_path / "in", (SAMPLE, "a"))
    harm(source, digest)
    done = load(node, source, "damaged/layout")
    assert (done.code, done.err) == (1, "")
    assert f"{digest}{sentence}" in done.out
    assert done.out.endswith("1 problem\n")
    assert tags(node, "damaged/layout") == 404
    assert fetch(node.url, f"/v2/damaged/layout/blobs/{SAMPLE.layers['arm64'][0]}").status == 404


def test_a_platform_that_is_not_in_it_is_left_out(node: Node, tmp_path: Path) -> None:
    """skopeo copies one platform of an index."""
    source = write_layout(tmp_path / "in", (SAMPLE, "a"))
    lose(source, SAMPLE.images["arm64"])
    done = load(node, source, "sparse/index")
    assert (done.code, done.out) == (0, "3 blobs, 2 manifests, 1 manifests left out: no problems\n")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_a_link_in_a_tar_is_no_file(node: Node, tmp_path: Path, kind: bytes) -> None:
    """It could lead to any file of this machine."""
    source = write_layout(tmp_path / "in", (SAMPLE, "a"))
    lose(source, LAYER)
    packed(source, tmp_path / "in.tar")
    with tarfile.open(tmp_path / "in.tar", "a") as archive:
        link = tarfile.TarInfo(f"blobs/sha256/{LAYER[7:]}")
        link.type, link.linkname = kind, "/etc/hostname"
        archive.addfile(link)
    done = load(node, tmp_path / "in.tar", "linked/layer")
    assert (done.code, f"{LAYER} is missing" in done.out) == (1, True)


def without(name: str) -> Callable[[Path], None]:
    def harm(place: Path) -> None:
        (place / name).unlink()

    return harm


def with_index(text: str) -> Callable[[Path], None]:
    def harm(place: Path) -> None:
        (place / "index.json").write_text(text)

    return harm


@pytest.mark.parametrize(
    ("harm", "sentence"),
    [
        (without("oci-layout"), "has no oci-layout: it is no OCI layout"),
        (without("index.json"), "has no index.json: it is no OCI layout"),
        (with_index("{"), "index.json cannot be read: not JSON (JSONDecodeError)"),
        (with_index("[]"), "index.json lists no manifests"),
        (with_index('{"manifests": [{"digest": "md5:x"}]}'), "index.json: descriptor: None is no size"),
    ],
)
def test_what_is_no_layout(node: Node, tmp_path: Path, harm: Callable[[Path], None], sentence: str) -> None:
    source = write_layout(tmp_path / "in", (SAMPLE, "a"))
    harm(source)
    done = load(node, source, "no/layout")
    assert done.code == 2
    assert sentence in done.err


def test_what_is_no_tar(node: Node, tmp_path: Path) -> None:
    (tmp_path / "in.tar").write_bytes(b"no tar" * 200)
    for place, sentence in (
        ("in.tar", "is neither a directory nor a tar"),
        ("gone", "is not there; allowed: "),
    ):
        done = load(node, tmp_path / place, "no/tar")
        assert (done.code, sentence in done.err) == (2, True)


def test_a_node_that_takes_no_pushes_refuses(tmp_path: Path) -> None:
    source = write_layout(tmp_path / "in", (SAMPLE, "a"))
    with Node(tmp_path / "frozen", "--anonymous", "push", "--mode", "ReadOnly", workers=0) as frozen:
        done = load(frozen, source, "app/web")
    assert done.code == 2
    assert "405: This operation is not allowed on this registry." in done.err


def test_a_lock_holds(node: Node, tmp_path: Path) -> None:
    source = write_layout(tmp_path / "in", (SAMPLE, "a"))
    assert load(node, source, "locked/app").code == 0
    body = json.dumps({"writeEnabled": False}).encode()
    assert fetch(node.url, "/acr/v1/locked/app", "PATCH", body=body).status == 200
    done = load(node, source, "locked/app:b")
    assert (done.code, "405: " in done.err, "writeEnabled" in done.err) == (2, True, True)
    assert tags(node, "locked/app") == ["a"]


def test_a_login_is_asked_for_and_never_crosses_a_network_in_clear(tmp_path: Path) -> None:
    source = write_layout(tmp_path / "in", (SAMPLE, "a"))
    with Node(tmp_path / "closed", "--anonymous", "none", workers=0) as closed:
        done = load(closed, source, "app/web")
    assert (done.code, "401: the node wants a login; say --username and --password-stdin" in done.err) == (
        2,
        True,
    )
    done = command(
        "import",
        str(source),
        "app/web",
        "--node",
        "http://far.example:5000",
        "-u",
        "me",
        "--password-stdin",
        stdin="secret\n",
    )
    assert done.code == 2
    assert done.err == (
        "holdfast: --node: found 'http://far.example:5000'; a password goes over http to this machine only: use https\n"
    )


def test_no_node(tmp_path: Path) -> None:
    source = write_layout(tmp_path / "in", (SAMPLE, "a"))
    done = command("import", str(source), "app/web", "--node", "http://127.0.0.1:1")
    assert (done.code, done.err) == (
        1,
        "holdfast: http://127.0.0.1:1 cannot be reached: [Errno 111] Connection refused\n",
    )
