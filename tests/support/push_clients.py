"""Real clients as black boxes that push: what each sent is compared with what the registry then gives.

A push takes the address, an empty directory, the repository and a sample. What keeps the bytes of an OCI
layout pushes the sample's index under `latest` and `1.0` (`EXACT`); what unpacks an image and packs it again
pushes one platform under `latest` (`PACKED`). Both raise AssertionError with what the client said.
"""

from __future__ import annotations

import gzip
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

from holdfast.testing.random_content import digest_of
from holdfast.testing.sample import OCI_INDEX, Sample
from support.clients import ARCHITECTURE, CONTAINERD, everything
from support.programs import Program, program, run
from support.transfer import Answer, fetch

Push = Callable[[str, Path, str, Sample], None]
ACCEPT = {
    "Accept": "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, */*"
}


def write_layout(place: Path, sample: Sample, *, referrers: bool = False) -> Path:
    """The sample as an OCI layout under `place`, its index named `latest`; with referrers as regctl and oras
    look for them there: as an entry of its own, and in an index under the fallback tag."""
    blobs = place / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    manifests = {digest: (kind, body) for digest, kind, body in sample.manifests}
    for digest, body in [*sample.blobs.items(), *((d, b) for d, (_, b) in manifests.items())]:
        (blobs / digest[7:]).write_bytes(body)

    def entry(digest: str, tag: str = "") -> dict[str, object]:
        kind, body = manifests[digest]
        name = {"annotations": {"org.opencontainers.image.ref.name": tag}} if tag else {}
        return {"mediaType": kind, "digest": digest, "size": len(body), **name}

    entries = [entry(sample.index, "latest")]
    if referrers:
        body = json.dumps(
            {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry(sample.artifact)]}
        ).encode()
        fallback = digest_of(body)
        (blobs / fallback[7:]).write_bytes(body)
        manifests[fallback] = (OCI_INDEX, body)
        entries += [entry(sample.artifact), entry(fallback, sample.index.replace(":", "-"))]
    (place / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    (place / "index.json").write_text(
        json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries})
    )
    return place


def get(address: str, target: str) -> Answer:
    """What the registry gives for a path below /v2/; must be 200."""
    answer = fetch(f"http://{address}", f"/v2/{target}", headers=ACCEPT)
    assert answer.status == 200, (target, answer)
    return answer


def holds(address: str, name: str, sample: Sample, *, artifact: bool = False) -> None:
    """The registry gives every manifest and blob of the sample byte for byte, and both tags are its index."""
    kinds = {digest: kind for digest, kind, _ in sample.manifests}
    wanted = everything(sample)
    if artifact:
        wanted[sample.artifact] = next(
            body for digest, _, body in sample.manifests if digest == sample.artifact
        )
    for digest, body in wanted.items():
        noun = "manifests" if digest in kinds else "blobs"
        answer = get(address, f"{name}/{noun}/{digest}")
        assert (answer.body, answer.headers["docker-content-digest"]) == (body, digest)
        assert answer.headers["content-type"] == kinds.get(digest, "application/octet-stream")
    for tag in ("latest", "1.0"):
        assert get(address, f"{name}/manifests/{tag}").body == wanted[sample.index]
    if artifact:
        found = json.loads(get(address, f"{name}/referrers/{sample.index}").body)["manifests"]
        assert [entry["digest"] for entry in found] == [sample.artifact]


def holds_packed(address: str, name: str, sample: Sample) -> None:
    """The registry gives an image with the sample's config, byte for byte, and layers that unpack to its."""
    manifest = json.loads(get(address, f"{name}/manifests/latest").body)
    original = {digest: body for digest, _, body in sample.manifests}[sample.images[ARCHITECTURE]]
    config = json.loads(original)["config"]["digest"]
    for part in (manifest["config"], *manifest["layers"]):
        assert digest_of(get(address, f"{name}/blobs/{part['digest']}").body) == part["digest"]
    assert get(address, f"{name}/blobs/{manifest['config']['digest']}").body == sample.blobs[config]
    layers = [unpacked(get(address, f"{name}/blobs/{layer['digest']}").body) for layer in manifest["layers"]]
    assert layers == [unpacked(sample.blobs[digest]) for digest in sample.layers[ARCHITECTURE]]


def unpacked(layer: bytes) -> bytes:
    """The tar of a layer, whether it is packed or not."""
    return gzip.decompress(layer) if layer[:2] == b"\x1f\x8b" else layer


def skopeo(address: str, place: Path, name: str, sample: Sample) -> None:
    """skopeo copy --all: monolithic by chunked POST, PATCH and PUT."""
    layout = write_layout(place / "in", sample)
    for tag in ("latest", "1.0"):
        flags = ("--insecure-policy", "copy", "--quiet", "--all", "--dest-tls-verify=false")
        run(program("skopeo"), *flags, f"oci:{layout}:latest", f"docker://{address}/{name}:{tag}")


def crane(address: str, place: Path, name: str, sample: Sample) -> None:
    """crane push of a layout, then tag (a manifest put by tag of what is there)."""
    layout, tool = write_layout(place / "in", sample), program("crane")
    run(tool, "push", "--insecure", layout, f"{address}/{name}:latest")
    run(tool, "tag", "--insecure", f"{address}/{name}:latest", "1.0")


def oras(address: str, place: Path, name: str, sample: Sample) -> None:
    """oras copy of the graph with its referrers, to two tags at once."""
    layout = write_layout(place / "in", sample, referrers=True)
    target = f"{address}/{name}:latest,1.0"
    run(
        program("oras"),
        "copy",
        "--recursive",
        "--from-oci-layout",
        f"{layout}:latest",
        "--to-plain-http",
        target,
    )


def regctl(address: str, place: Path, name: str, sample: Sample) -> None:
    """regctl image copy with referrers, then from tag to tag."""
    layout = write_layout(place / "in", sample, referrers=True)
    command = (program("regctl"), "--host", f"reg={address},tls=disabled", "image", "copy", "--referrers")
    env = {"REGCTL_CONFIG": f"{place}/regctl-push.json"}
    run(*command, f"ocidir://{layout}:latest", f"{address}/{name}:latest", env=env)
    run(*command, f"{address}/{name}:latest", f"{address}/{name}:1.0", env=env)


def containerd(address: str, place: Path, name: str, sample: Sample) -> None:
    """ctr images push of an imported layout: HEAD of the manifest and of every blob first."""
    layout, archive = write_layout(place / "in", sample), place / "in.tar"
    with tarfile.open(archive, "w") as packed:
        for path in sorted(layout.iterdir()):
            packed.add(path, path.name)
    (place / "config.toml").write_text(CONTAINERD.format(place=place))
    ctr = (program("ctr"), "--address", place / "sock", "images")
    with Program([program("containerd"), "--config", place / "config.toml"], place / "log") as daemon:
        daemon.wait_for("containerd successfully booted")
        run(*ctr, "import", "--all-platforms", "--no-unpack", "--base-name", "in", archive)
        for tag in ("latest", "1.0"):
            run(*ctr, "push", "--plain-http", f"{address}/{name}:{tag}", "in:latest")
        assert daemon.stop() == 0


def storage(place: Path) -> tuple[str, ...]:
    """Flags that keep podman and buildah in a storage of their own."""
    return ("--root", f"{place}/root", "--runroot", f"{place}/runroot", "--storage-driver", "vfs")


def policy(place: Path) -> tuple[str, ...]:
    """The flag for a policy that takes images without signatures."""
    file = place / "policy.json"
    file.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
    return ("--signature-policy", str(file))


def podman(address: str, place: Path, name: str, sample: Sample) -> None:
    """podman push of an image it has unpacked."""
    layout = write_layout(place / "in", sample)
    engine = ("--tmpdir", f"{place}/tmpdir", "--cgroup-manager", "cgroupfs", "--events-backend", "file")
    _packed((program("podman"), *storage(place), *engine), layout, address, place, name)


def buildah(address: str, place: Path, name: str, sample: Sample) -> None:
    """buildah push of an image it has unpacked."""
    layout = write_layout(place / "in", sample)
    _packed((program("buildah"), *storage(place)), layout, address, place, name)


def _packed(command: tuple[str, ...], layout: Path, address: str, place: Path, name: str) -> None:
    image = run(*command, "pull", "--quiet", *policy(place), f"oci:{layout}:latest").strip()
    flags = ("--quiet", "--tls-verify=false", "--digestfile", f"{place}/digest", *policy(place))
    run(*command, "push", *flags, image, f"docker://{address}/{name}:latest")
    answer = get(address, f"{name}/manifests/latest")
    assert digest_of(answer.body) == (place / "digest").read_text().strip()
    shutil.rmtree(place / "root")  # nothing of it is left to be reused


EXACT: dict[str, Push] = {
    "skopeo": skopeo,
    "crane": crane,
    "oras": oras,
    "regctl": regctl,
    "containerd": containerd,
}
PACKED: dict[str, Push] = {"podman": podman, "buildah": buildah}
