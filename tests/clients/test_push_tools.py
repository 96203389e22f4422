"""What real tools make themselves: images from a tar, artifacts, indexes of what is there, charts, signatures."""

from __future__ import annotations

import gzip
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from holdfast.testing.random_content import GeneratedContent, digest_of
from holdfast.testing.sample import build_sample
from support.node import Node
from support.programs import program, run
from support.push_clients import EXACT, get
from support.transfer import fetch


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A root that takes pushes from anybody."""
    with Node(tmp_path_factory.mktemp("root"), "--anonymous", "push", workers=2) as node:
        yield node


def manifest(node: Node, name: str, reference: str) -> dict[str, Any]:
    """A manifest, whose bytes match the digest that came with it."""
    answer = get(node.address, f"{name}/manifests/{reference}")
    assert digest_of(answer.body) == answer.headers["docker-content-digest"]
    found: dict[str, Any] = json.loads(answer.body)
    return found


def blob(node: Node, name: str, descriptor: dict[str, Any]) -> bytes:
    """A blob, whose bytes match its descriptor."""
    body = get(node.address, f"{name}/blobs/{descriptor['digest']}").body
    assert (digest_of(body), len(body)) == (descriptor["digest"], descriptor["size"])
    return body


def referrers(node: Node, name: str, digest: str) -> list[dict[str, Any]]:
    """What refers to a digest, as the registry lists it."""
    found: list[dict[str, Any]] = json.loads(get(node.address, f"{name}/referrers/{digest}").body)[
        "manifests"
    ]
    return found


def layer(place: Path) -> Path:
    """A tar with one file of 200 kB."""
    file, packed = place / "file.bin", place / "layer.tar"
    file.write_bytes(GeneratedContent(200_000, "layer").read(0, 200_000))
    with tarfile.open(packed, "w") as archive:
        archive.add(file, "opt/file.bin")
    return packed


def test_crane_appends_mutates_and_copies(root: Node, tmp_path: Path) -> None:
    tool, place = program("crane"), f"{root.address}/crane/app"
    packed = layer(tmp_path)
    run(tool, "append", "--insecure", "-f", packed, "-t", f"{place}:one")
    (only,) = manifest(root, "crane/app", "one")["layers"]
    assert gzip.decompress(blob(root, "crane/app", only)) == packed.read_bytes()

    run(tool, "mutate", "--insecure", "--label", "a=b", "--env", "X=1", "-t", f"{place}:two", f"{place}:one")
    mutated = manifest(root, "crane/app", "two")
    assert mutated["layers"] == [only]
    said = run(tool, "config", "--insecure", f"{place}:two")
    assert said.encode() == blob(root, "crane/app", mutated["config"])
    assert json.loads(said)["config"] == {"Env": ["X=1"], "Labels": {"a": "b"}}

    run(tool, "copy", "--insecure", f"{place}:two", f"{root.address}/crane/copy:two")  # mounts its blobs
    assert manifest(root, "crane/copy", "two") == mutated
    run(tool, "validate", "--insecure", "--remote", f"{root.address}/crane/copy:two")
    run(tool, "delete", "--insecure", f"{place}@{digest_of(json_bytes(root, 'crane/app', 'two'))}")
    assert fetch(root.url, "/v2/crane/app/manifests/two").status == 404
    assert manifest(root, "crane/copy", "two") == mutated


def json_bytes(node: Node, name: str, reference: str) -> bytes:
    """A manifest's bytes."""
    return get(node.address, f"{name}/manifests/{reference}").body


def test_oras_pushes_attaches_and_discovers(root: Node, tmp_path: Path) -> None:
    tool, place = program("oras"), f"{root.address}/oras/app"
    (tmp_path / "note.txt").write_text("note")
    (tmp_path / "empty.txt").write_bytes(b"")
    options = ("--plain-http", "--disable-path-validation", "--export-manifest")
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    files = (f"{tmp_path}/note.txt:text/plain", f"{tmp_path}/empty.txt:text/plain")
    run(tool, "push", *options, first, "--artifact-type", "application/x.app", f"{place}:v1", *files)
    assert json_bytes(root, "oras/app", "v1") == first.read_bytes()
    run(tool, "attach", *options, second, "--artifact-type", "application/x.note", f"{place}:v1", files[0])

    subject = digest_of(first.read_bytes())
    (entry,) = referrers(root, "oras/app", subject)
    assert (entry["digest"], entry["artifactType"]) == (digest_of(second.read_bytes()), "application/x.note")
    assert entry["annotations"] == json.loads(second.read_bytes())["annotations"]
    seen = json.loads(run(tool, "discover", "--plain-http", "--format", "json", f"{place}:v1"))
    assert [found["digest"] for found in seen["referrers"]] == [entry["digest"]]
    run(tool, "pull", "--plain-http", "--allow-path-traversal", "-o", tmp_path / "out", f"{place}:v1")
    contents = [blob(root, "oras/app", part) for part in manifest(root, "oras/app", "v1")["layers"]]
    assert contents == [b"note", b""]
    # no fallback tag beside the referrers API
    assert run(tool, "repo", "tags", "--plain-http", place).split() == ["v1"]


def test_regctl_makes_an_index_and_an_artifact(root: Node, tmp_path: Path) -> None:
    sample = build_sample("regctl")
    EXACT["crane"](root.address, tmp_path, "regctl/app", sample)
    place, env = f"{root.address}/regctl/app", {"REGCTL_CONFIG": f"{tmp_path}/regctl.json"}
    tool = (program("regctl"), "--host", f"reg={root.address},tls=disabled")
    platforms = [word for name in sample.images for word in ("--platform", f"linux/{name}")]
    run(*tool, "index", "create", f"{place}:index", "--ref", f"{place}:latest", *platforms, env=env)
    index = manifest(root, "regctl/app", "index")
    assert [entry["digest"] for entry in index["manifests"]] == list(sample.images.values())
    assert run(*tool, "manifest", "get", "--format", "raw-body", f"{place}:index", env=env).encode() == (
        json_bytes(root, "regctl/app", "index")
    )
    bill = tmp_path / "bill.json"
    bill.write_text('{"bill":1}')
    kind = ("--artifact-type", "application/x.bill", "--subject", f"{place}:index", "--file", bill)
    run(*tool, "artifact", "put", *kind, env=env)
    (entry,) = referrers(root, "regctl/app", digest_of(json_bytes(root, "regctl/app", "index")))
    assert entry["artifactType"] == "application/x.bill"
    (only,) = manifest(root, "regctl/app", entry["digest"])["layers"]
    assert blob(root, "regctl/app", only) == bill.read_bytes()
    run(*tool, "tag", "delete", f"{place}:index", env=env)
    assert fetch(root.url, "/v2/regctl/app/manifests/index").status == 404


CHART = "apiVersion: v2\nname: chart\nversion: 1.2.3+build.1\ndescription: a chart\n"
TEMPLATE = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\n"


def test_helm_pushes_and_pulls_a_chart(root: Node, tmp_path: Path) -> None:
    tool, chart = program("helm"), tmp_path / "chart"
    homes = ("HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME")
    env = dict.fromkeys(homes, str(tmp_path / "home"))
    (chart / "templates").mkdir(parents=True)
    (chart / "Chart.yaml").write_text(CHART)
    (chart / "templates" / "map.yaml").write_text(TEMPLATE)
    run(tool, "package", chart, "-d", tmp_path, env=env)
    packed = tmp_path / "chart-1.2.3+build.1.tgz"
    run(tool, "push", "--plain-http", packed, f"oci://{root.address}/charts", env=env)
    source = (f"oci://{root.address}/charts/chart", "--version", "1.2.3+build.1", "--plain-http")
    (tmp_path / "out").mkdir()
    run(tool, "pull", *source, "-d", tmp_path / "out", env=env)
    assert (tmp_path / "out" / packed.name).read_bytes() == packed.read_bytes()
    (only,) = manifest(root, "charts/chart", "1.2.3_build.1")["layers"]
    assert blob(root, "charts/chart", only) == packed.read_bytes()
    assert run(tool, "template", *source, env=env).strip().endswith(TEMPLATE.strip())


#: How cosign keeps a signature: its flags for sign, for verify, and what the signature is listed as
SIGNATURES = {
    "tag": (("--new-bundle-format=false",), ("--new-bundle-format=false",), None),
    "referrer": (
        ("--new-bundle-format=false", "--registry-referrers-mode=oci-1-1"),
        ("--new-bundle-format=false", "--experimental-oci11"),
        "application/vnd.dev.cosign.artifact.sig.v1+json",
    ),
    "bundle": (
        ("--new-bundle-format=true",),
        ("--new-bundle-format=true",),
        "application/vnd.dev.sigstore.bundle.v0.3+json",
    ),
}


@pytest.mark.parametrize("scheme", SIGNATURES)
def test_cosign_signs_and_verifies(scheme: str, root: Node, tmp_path: Path) -> None:
    tool, name, sample = program("cosign"), f"cosign/{scheme}", build_sample("cosign")
    EXACT["crane"](root.address, tmp_path / "image", name, sample)
    env = {"HOME": str(tmp_path), "COSIGN_PASSWORD": "", "COSIGN_EXPERIMENTAL": "1"}
    for key in ("mine", "other"):
        run(tool, "generate-key-pair", "--output-key-prefix", tmp_path / key, env=env)
    to_sign, to_verify, kind = SIGNATURES[scheme]
    image = f"{root.address}/{name}@{sample.index}"
    offline = ("--yes", "--tlog-upload=false", "--use-signing-config=false", "--allow-http-registry")
    run(tool, "sign", *offline, "--key", tmp_path / "mine.key", *to_sign, image, env=env)

    verify = (tool, "verify", "--insecure-ignore-tlog", "--allow-http-registry", *to_verify)
    assert sample.index in run(*verify, "--key", tmp_path / "mine.pub", image, env=env)
    with pytest.raises(AssertionError, match=r"no (matching )?signatures|failed to verify"):
        run(*verify, "--key", tmp_path / "other.pub", image, env=env)
    tags = json.loads(get(root.address, f"{name}/tags/list").body)["tags"]
    signature = f"{sample.index.replace(':', '-')}.sig"
    assert tags == ["1.0", "latest", *([] if kind else [signature])]
    listed = [entry["artifactType"] for entry in referrers(root, name, sample.index)]
    assert listed == ([kind] if kind else [])
