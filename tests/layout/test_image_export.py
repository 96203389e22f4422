"""Images of a store become an OCI layout that holds every byte of them, or none is begun to be called one."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import tarfile
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from holdfast.demo.seed import seed
from holdfast.testing.sample import Sample, build_sample
from holdfast_core import Digest, LockChange, LockTarget, Store
from support.clients import same_layout
from support.command_line import Said, command
from support.disk import Disk
from support.stores import file_of, flip_bit

NAME = "org.opencontainers.image.ref.name"
IMAGE = "io.containerd.image.name"
SAMPLE = build_sample()
#: layers of over 16 KiB are files of the store
LARGE = [digest for digest, body in SAMPLE.blobs.items() if len(body) > 16384]


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that owns the sample as app/web:latest and app/web:1.0, with its artifact as a referrer."""
    data = tmp_path_factory.mktemp("filled") / "data"
    seed(data, "app/web", "latest", SAMPLE, 1.0)
    image, artifact = Digest.parse(SAMPLE.index), SAMPLE.manifests[-1]
    with closing(Store.create_or_open(data, write=True)) as store:
        store.references.put_tag("app/web", "1.0", image, now=1.0, origin="local").result()
        digest, kind, body = Digest.parse(artifact[0]), artifact[1], artifact[2]
        store.references.push_manifest("app/web", digest, kind, body, now=1.0, subject=image).result()
    return data


@pytest.fixture
def data(filled: Path, tmp_path: Path) -> Path:
    """A copy of it, to be damaged."""
    place = tmp_path / "data"
    shutil.copytree(filled, place)
    return place


def export(data: Path, to: Path, *arguments: str) -> Said:
    return command("export", *arguments, "--to", str(to), "--data", str(data))


def entries(place: Path) -> Any:
    document = json.loads((place / "index.json").read_text())
    assert (document["schemaVersion"], document["mediaType"]) == (
        2,
        "application/vnd.oci.image.index.v1+json",
    )
    return document["manifests"]


def entry(name: str, sample: Sample = SAMPLE) -> dict[str, Any]:
    size = next(len(body) for digest, _, body in sample.manifests if digest == sample.index)
    kind = "application/vnd.oci.image.index.v1+json"
    return {
        "mediaType": kind,
        "digest": sample.index,
        "size": size,
        "annotations": {NAME: name, IMAGE: f"app/web:{name}"},
    }


def test_an_image_with_its_platforms(filled: Path, tmp_path: Path) -> None:
    done = export(filled, tmp_path / "out", "app/web")
    assert (done.code, done.err) == (0, "")
    assert re.fullmatch(
        r"6 blobs, (2 shared|\d+ bytes copied, 2 copied), 3 manifests: no problems\n", done.out
    )
    assert json.loads((tmp_path / "out" / "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}
    assert entries(tmp_path / "out") == [entry("latest")]
    same_layout(tmp_path / "out", SAMPLE)
    for digest in LARGE:
        assert (tmp_path / "out" / "blobs" / "sha256" / digest[7:]).stat().st_nlink == 1


def test_who_changes_a_layout_changes_no_byte_of_the_store(data: Path, tmp_path: Path) -> None:
    """What was pushed would be lost; a link is made by order alone."""
    assert export(data, tmp_path / "out", "app/web").code == 0
    assert export(data, tmp_path / "links", "app/web", "--hard-links").code == 0
    for digest in LARGE:
        flip_bit(tmp_path / "out" / "blobs" / "sha256" / digest[7:], 5)
        held = file_of(data, Digest.parse(digest))
        assert f"sha256:{hashlib.sha256(held.read_bytes()).hexdigest()}" == digest
        assert (tmp_path / "links" / "blobs" / "sha256" / digest[7:]).stat().st_ino == held.stat().st_ino


@pytest.mark.parametrize(("kind", "way"), [("ext4", "copied"), ("xfs", "shared")])
def test_on_a_file_system(filled: Path, tmp_path: Path, kind: str, way: str) -> None:
    """Blocks are shared where it can, and each file can be written to; links are made by order on either."""
    with Disk(tmp_path / "disk", kind, 320 << 20) as disk:
        data = disk.root / "data"
        shutil.copytree(filled, data)
        done = export(data, disk.root / "out", "app/web")
        assert (done.code, f"2 {way}" in done.out) == (0, True), done.out
        linked = export(data, disk.root / "links", "app/web", "--hard-links")
        assert ("2 linked" in linked.out) == (kind == "ext4"), linked.out
        for digest in LARGE:
            flip_bit(disk.root / "out" / "blobs" / "sha256" / digest[7:], 5)
        assert command("fsck", "--read-data", "--data", str(data)).code == 0


def test_a_blob_that_was_changed_in_the_layout_is_written_anew(filled: Path, tmp_path: Path) -> None:
    assert export(filled, tmp_path / "out", "app/web").code == 0
    for file in (tmp_path / "out" / "blobs" / "sha256").iterdir():
        flip_bit(file, 1)
    assert export(filled, tmp_path / "out", "app/web").code == 0
    same_layout(tmp_path / "out", SAMPLE)


def test_with_referrers_they_are_entries_without_a_name(filled: Path, tmp_path: Path) -> None:
    assert export(filled, tmp_path / "out", "app/web:1.0", "--with-referrers").code == 0
    image, artifact = entries(tmp_path / "out")
    assert image == entry("1.0")
    assert artifact == {
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": SAMPLE.artifact,
        "size": 759,
        "artifactType": "application/spdx+json",
    }
    blobs = {f"sha256:{file.name}" for file in (tmp_path / "out" / "blobs" / "sha256").iterdir()}
    assert blobs == {*SAMPLE.blobs, *(digest for digest, _, _ in SAMPLE.manifests)}


def test_into_a_tar(filled: Path, tmp_path: Path) -> None:
    assert export(filled, tmp_path / "out.tar", "app/web:1.0", "app/web:latest").code == 0
    with tarfile.open(tmp_path / "out.tar") as archive:
        archive.extractall(tmp_path / "out", filter="data")
        names = archive.getnames()
    assert len(names) == len(set(names)) == 11  # nine blobs, index.json, oci-layout
    assert entries(tmp_path / "out") == [entry("1.0"), entry("latest")]
    same_layout(tmp_path / "out", SAMPLE)
    assert sorted(os.listdir(tmp_path)) == ["out", "out.tar"]


def test_a_layout_is_added_to(data: Path, tmp_path: Path) -> None:
    """An image that moved takes its former place; names of several repositories are whole."""
    other = build_sample("other", architectures=("amd64",))
    seed(data, "docker.io:library/other", "latest", other, 1.0)
    assert export(data, tmp_path / "out", "app/web:latest").code == 0
    with closing(Store.create_or_open(data, write=True)) as store:
        moved = Digest.parse(SAMPLE.images["amd64"])
        store.references.put_tag("app/web", "latest", moved, now=2.0, origin="local").result()
    assert export(data, tmp_path / "out", "app/web:latest").code == 0
    (found,) = entries(tmp_path / "out")
    assert (found["digest"], found["annotations"][NAME]) == (SAMPLE.images["amd64"], "latest")
    assert export(data, tmp_path / "out", "app/web:1.0", "docker.io/library/other").code == 0
    assert [one["annotations"][NAME] for one in entries(tmp_path / "out")] == [
        "latest",
        "app/web:1.0",
        "docker.io/library/other:latest",
    ]
    same_layout(tmp_path / "out", SAMPLE)
    same_layout(tmp_path / "out", other)


@pytest.mark.parametrize("says", [True, False], ids=["whose it is", "nothing"])
def test_an_image_of_another_repository_keeps_its_name(data: Path, tmp_path: Path, says: bool) -> None:
    other = build_sample("other", architectures=("amd64",))
    seed(data, "docker.io:library/other", "latest", other, 1.0)
    assert export(data, tmp_path / "out", "app/web").code == 0
    if not says:  # as other tools write it
        (kept,) = entries(tmp_path / "out")
        del kept["annotations"][IMAGE]
        (tmp_path / "out" / "index.json").write_text(
            json.dumps(
                {
                    "schemaVersion": 2,
                    "mediaType": "application/vnd.oci.image.index.v1+json",
                    "manifests": [kept],
                }
            )
        )
    before = entries(tmp_path / "out")
    done = export(data, tmp_path / "out", "docker.io/library/other")
    whose = "app/web:latest" if says else f"{SAMPLE.index}, which does not say its repository"
    sentence = (
        f"holdfast: {tmp_path}/out has an image 'latest' already: {whose}; docker.io/library/other:latest would take"
        " its place. Allowed: another directory, or export both with one command into a new one\n"
    )
    assert (done.code, done.out, done.err) == (2, "", sentence)
    assert entries(tmp_path / "out") == before
    assert export(data, tmp_path / "out", "app/web").code == 0
    assert entries(tmp_path / "out") == [entry("latest")]


def test_by_digest_it_has_no_name(filled: Path, tmp_path: Path) -> None:
    assert export(filled, tmp_path / "out", f"app/web@{SAMPLE.images['amd64']}").code == 0
    (found,) = entries(tmp_path / "out")
    assert (found["digest"], "annotations" in found) == (SAMPLE.images["amd64"], False)


def test_a_platform_that_is_not_here_is_left_out(data: Path, tmp_path: Path) -> None:
    with closing(Store.create_or_open(data, write=True)) as store:
        store.references.delete_manifest("app/web", Digest.parse(SAMPLE.images["arm64"]), now=2.0).result()
    done = export(data, tmp_path / "out", "app/web")
    assert done.code == 0
    assert "3 blobs, " in done.out
    assert done.out.endswith("2 manifests, 1 manifests left out: no problems\n")


@pytest.mark.parametrize(
    ("image", "sentence"),
    [
        ("app/web:gone", "app/web:gone is not here; pull it through this node first, or look at its tags"),
        ("app/none", "app/none is not here; pull it through this node first, or look at its tags"),
        ("app/web@sha256:1", "app/web@sha256:1: found 'sha256:1'; allowed: a sha256 or sha512 digest"),
    ],
)
def test_what_is_not_here_is_refused(filled: Path, tmp_path: Path, image: str, sentence: str) -> None:
    done = export(filled, tmp_path / "out", image)
    assert (done.code, done.out, done.err) == (2, "", f"holdfast: {sentence}\n")
    assert not (tmp_path / "out").exists()


def test_a_directory_of_something_else_is_refused(filled: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes").write_text("mine")
    done = export(filled, tmp_path / "out", "app/web")
    assert (done.code, done.err) == (2, f"holdfast: {tmp_path}/out has no oci-layout: it is no OCI layout\n")
    assert os.listdir(tmp_path / "out") == ["notes"]


@pytest.mark.parametrize("to", ["out", "out.tar"])
def test_a_damaged_layer_is_named_and_nothing_becomes_a_layout(data: Path, tmp_path: Path, to: str) -> None:
    """One flipped bit; the layout that was there is as it was, and no tar is there."""
    assert export(data, tmp_path / "out", "app/web:1.0").code == 0
    bad = Digest.parse(LARGE[0])
    flip_bit(file_of(data, bad), 100_000)
    for file in (tmp_path / "out" / "blobs").rglob(bad.hex):
        file.unlink()
    before = entries(tmp_path / "out")
    done = export(data, tmp_path / to, "app/web:latest")
    assert done.code == 1
    assert f"{bad}: its file hashes to sha256:" in done.out
    assert done.out.endswith(": 1 problem\n")
    assert entries(tmp_path / "out") == before
    assert sorted(os.listdir(tmp_path)) == ["data", "out"]
    assert list((tmp_path / "out" / "blobs").rglob(f"{bad.hex}*")) == []


def test_a_lost_layer_is_named(data: Path, tmp_path: Path) -> None:
    bad = Digest.parse(LARGE[1])
    file_of(data, bad).unlink()
    done = export(data, tmp_path / "out", "app/web")
    assert (done.code, done.out.splitlines()[0]) == (
        1,
        f"{bad}: its file is gone; a pull fetches it again from the parent; where there is none, push it again",
    )


def test_a_lock_against_reading_holds(data: Path, tmp_path: Path) -> None:
    with closing(Store.create_or_open(data, write=True)) as store:
        target = LockTarget("repository", "")
        store.references.set_lock("app/web", target, LockChange(read=False), now=2.0).result()
    done = export(data, tmp_path / "out", "app/web")
    assert (done.code, done.out) == (1, "")
    assert "read" in done.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("to", ["out", "out.tar"])
def test_a_full_disk_leaves_the_layout_as_it_was(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: str
) -> None:
    assert export(data, tmp_path / "out", "app/web:1.0").code == 0
    before = entries(tmp_path / "out")

    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    done = export(data, tmp_path / to, "app/web:latest")
    monkeypatch.undo()
    sentence = f"holdfast: {tmp_path}/{to} cannot be written: No space left on device\n"
    assert (done.code, done.err) == (1, sentence)
    assert entries(tmp_path / "out") == before
    assert [file for file in tmp_path.rglob("*.new") if "data" not in file.parts] == []
