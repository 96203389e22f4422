"""Real clients as black boxes: each pulls one image into an empty place, and every byte it got is compared.

A pull takes the node's address, an empty directory, the repository and the sample that is there under the
tag `latest`. It raises AssertionError with what the client said.
"""

from __future__ import annotations

import io
import json
import platform
import tarfile
from collections.abc import Callable
from pathlib import Path

from holdfast.testing.random_content import digest_of
from holdfast.testing.sample import Sample
from support.docker_engine import DockerEngine
from support.programs import Program, program, run, run_bytes

Pull = Callable[[str, Path, str, Sample], None]
#: The name that clients with a mirror concept ask for; nothing listens there.
ORIGIN = "registry.example"
ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())


def everything(sample: Sample) -> dict[str, bytes]:
    """Digest to bytes of all that hangs below the sample's index (not its referrers)."""
    manifests = {digest: body for digest, _, body in sample.manifests}
    found = {sample.index: manifests[sample.index]}
    for digest in sample.images.values():
        found[digest] = manifests[digest]
        document = json.loads(manifests[digest])
        for part in (document["config"], *document["layers"]):
            found[part["digest"]] = sample.blobs[part["digest"]]
    return found


def same_layout(place: Path, sample: Sample) -> None:
    """An OCI layout on disk holds all of the sample, byte for byte."""
    for digest, body in everything(sample).items():
        algorithm, _, name = digest.partition(":")
        assert (place / "blobs" / algorithm / name).read_bytes() == body, digest


def skopeo(address: str, place: Path, name: str, sample: Sample) -> None:
    """skopeo copy of every platform, then inspect (which also lists tags)."""
    tool, source = program("skopeo"), f"docker://{address}/{name}:latest"
    run(
        tool,
        "--insecure-policy",
        "copy",
        "--all",
        "--src-tls-verify=false",
        source,
        f"oci:{place}/out:latest",
    )
    same_layout(place / "out", sample)
    raw = run(tool, "inspect", "--tls-verify=false", "--raw", source)
    assert digest_of(raw.encode()) == sample.index
    platform_flags = ("--override-os", "linux", "--override-arch", ARCHITECTURE)
    seen = json.loads(run(tool, *platform_flags, "inspect", "--tls-verify=false", source))
    assert (seen["Digest"], seen["Layers"]) == (sample.index, sample.layers[ARCHITECTURE])
    assert set(seen["RepoTags"]) >= {"latest", "1.0"}


def crane(address: str, place: Path, name: str, sample: Sample) -> None:
    """crane pull of every platform, digest (by HEAD), validate (reads all layers), ls."""
    tool, image = program("crane"), f"{address}/{name}:latest"
    run(tool, "pull", "--insecure", "--format=oci", image, place / "out")
    same_layout(place / "out", sample)
    assert run(tool, "digest", "--insecure", image).strip() == sample.index
    run(tool, "validate", "--insecure", "--remote", image)
    assert set(run(tool, "ls", "--insecure", f"{address}/{name}").split()) >= {"latest", "1.0"}


def oras(address: str, place: Path, name: str, sample: Sample) -> None:
    """oras copy with referrers, and discover."""
    tool, image = program("oras"), f"{address}/{name}:latest"
    run(tool, "copy", "--from-plain-http", "--recursive", image, "--to-oci-layout", f"{place}/out:latest")
    same_layout(place / "out", sample)
    assert sample.artifact in run(tool, "discover", "--plain-http", "--format", "json", image)


def regctl(address: str, place: Path, name: str, sample: Sample) -> None:
    """regctl copy with referrers, and artifact list."""
    tool, image = program("regctl"), f"{address}/{name}:latest"
    command = (tool, "--host", f"reg={address},tls=disabled")
    env = {"REGCTL_CONFIG": f"{place}/regctl.json"}
    run(*command, "image", "copy", "--referrers", image, f"ocidir://{place}/out:latest", env=env)
    same_layout(place / "out", sample)
    assert (place / "out" / "blobs" / "sha256" / sample.artifact[7:]).exists()
    assert sample.artifact in run(
        *command, "artifact", "list", image, "--format", "{{jsonPretty .}}", env=env
    )


PODMAN_MIRROR = """\
unqualified-search-registries = []
[[registry]]
prefix = "{origin}"
location = "{origin}"
[[registry.mirror]]
location = "{address}"
insecure = true
"""


def podman(address: str, place: Path, name: str, sample: Sample) -> None:
    """podman pull through a registries.conf mirror into a storage of its own; the unpacked files compared."""
    mirrors, policy, image = place / "registries.conf", place / "policy.json", f"{ORIGIN}/{name}:latest"
    mirrors.write_text(PODMAN_MIRROR.format(origin=ORIGIN, address=address))
    policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
    folders = [f for key in ("root", "runroot", "tmpdir") for f in (f"--{key}", str(place / key))]
    flags = ("--storage-driver", "vfs", "--cgroup-manager", "cgroupfs", "--events-backend", "file")
    command = (program("podman"), *folders, *flags)
    env = {"CONTAINERS_REGISTRIES_CONF": str(mirrors)}
    run(*command, "pull", "--quiet", "--signature-policy", policy, image, env=env)
    (seen,) = json.loads(run(*command, "image", "inspect", image))
    assert seen["Digest"] in (sample.index, sample.images[ARCHITECTURE])
    unpacked = Path(run(*command, "image", "mount", image).strip())
    for path, body in files(sample, ARCHITECTURE).items():
        assert (unpacked / path).read_bytes() == body, path


def files(sample: Sample, architecture: str) -> dict[str, bytes]:
    """Path to content of every file in an image's layers."""
    found = {}
    for layer in sample.layers[architecture]:
        with tarfile.open(fileobj=io.BytesIO(sample.blobs[layer])) as archive:
            for entry in archive:
                content = archive.extractfile(entry)
                assert content
                found[entry.name] = content.read()
    return found


CONTAINERD = """\
version = 2
root = "{place}/root"
state = "{place}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]
[grpc]
  address = "{place}/sock"
"""
CONTAINERD_HOST = """\
server = "http://127.0.0.1:1"
[host."http://{address}"]
  capabilities = ["pull", "resolve"]
"""


def containerd(address: str, place: Path, name: str, sample: Sample) -> None:
    """containerd of its own, pointed at the node by a hosts directory: `?ns=` on every request."""
    hosts, image = place / "hosts", f"{ORIGIN}/{name}:latest"
    (hosts / ORIGIN).mkdir(parents=True)
    (hosts / ORIGIN / "hosts.toml").write_text(CONTAINERD_HOST.format(address=address))
    (place / "config.toml").write_text(CONTAINERD.format(place=place))
    ctr = (program("ctr"), "--address", place / "sock")
    with Program([program("containerd"), "--config", place / "config.toml"], place / "log") as daemon:
        daemon.wait_for("containerd successfully booted")
        run(*ctr, "content", "fetch", "--hosts-dir", hosts, "--all-platforms", image)
        for digest, body in everything(sample).items():
            assert run_bytes(*ctr, "content", "get", digest) == body, digest
        assert daemon.stop() == 0


def dockerd(address: str, place: Path, name: str, sample: Sample) -> None:
    """dockerd of its own with the node as its mirror of Docker Hub: no `ns` and no credentials. It checks each digest
    itself."""
    with DockerEngine(place / "d", f"--registry-mirror=http://{address}") as engine:
        engine.docker("pull", "--quiet", f"{name}:latest")
        (seen,) = json.loads(engine.docker("image", "inspect", f"{name}:latest"))
        assert seen["RepoDigests"] == [f"{name.removeprefix('library/')}@{sample.index}"]


CLIENTS: dict[str, Pull] = {
    "skopeo": skopeo,
    "podman": podman,
    "containerd": containerd,
    "dockerd": dockerd,
    "crane": crane,
    "oras": oras,
    "regctl": regctl,
}
