"""Layouts go both ways: other tools read what `export` writes, and `import` reads what they write."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from holdfast.testing.sample import Sample, build_sample
from support import clients
from support.clients import everything
from support.command_line import command
from support.node import Node
from support.programs import program, run
from support.transfer import fetch

SAMPLE = build_sample()


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A root that takes pushes from anybody, with the sample and its artifact as app/web."""
    place = tmp_path_factory.mktemp("root")
    with Node(place, "--anonymous", "push", workers=1) as serving:
        for digest, body in SAMPLE.blobs.items():
            target = f"/v2/app/web/blobs/uploads/?digest={digest}"
            assert fetch(serving.url, target, "POST", body=body).status == 201
        for digest, kind, body in SAMPLE.manifests:
            tags = ("latest", "1.0") if digest == SAMPLE.index else (digest,)
            for tag in tags:
                headers = {"Content-Type": kind}
                answer = fetch(serving.url, f"/v2/app/web/manifests/{tag}", "PUT", headers=headers, body=body)
                assert answer.status == 201
        yield serving


def holds(node: Node, name: str, sample: Sample = SAMPLE) -> bool:
    """Whether a repository has every byte of the sample."""
    manifests = {digest for digest, _, _ in sample.manifests}
    bodies = (
        fetch(node.url, f"/v2/{name}/{'manifests' if digest in manifests else 'blobs'}/{digest}").body == body
        for digest, body in everything(sample).items()
    )
    return all(bodies)


def has_artifact(node: Node, name: str) -> bool:
    return SAMPLE.artifact.encode() in fetch(node.url, f"/v2/{name}/referrers/{SAMPLE.index}").body


def skopeo(node: Node, layout: Path, name: str) -> None:
    command = (program("skopeo"), "--insecure-policy", "copy", "--all", "--dest-tls-verify=false")
    kind = "oci-archive" if layout.is_file() else "oci"
    run(*command, f"{kind}:{layout}:1.0", f"docker://{node.address}/{name}:1.0")


def crane(node: Node, layout: Path, name: str) -> None:
    run(program("crane"), "push", "--insecure", layout, f"{node.address}/{name}:1.0")


def oras(node: Node, layout: Path, name: str) -> None:
    tool = program("oras")
    run(
        tool,
        "copy",
        "--recursive",
        "--from-oci-layout",
        f"{layout}:1.0",
        "--to-plain-http",
        f"{node.address}/{name}:1.0",
    )


@pytest.mark.parametrize(
    ("reader", "place", "referrers"),
    [(skopeo, "out", False), (skopeo, "out.tar", True), (crane, "out", False), (oras, "out", True)],
)
def test_other_tools_read_what_is_exported(
    node: Node, tmp_path: Path, reader: Callable[[Node, Path, str], None], place: str, referrers: bool
) -> None:
    name = f"read/{reader.__name__}{int(referrers)}"
    flags = ["--with-referrers"] if referrers else []
    done = command("export", "app/web:1.0", "--to", str(tmp_path / place), "--data", str(node.data), *flags)
    assert done.code == 0, done
    reader(node, tmp_path / place, name)
    assert holds(node, name)
    assert has_artifact(node, name) is (reader is oras)  # the others copy what index.json names alone


@pytest.mark.parametrize("writer", [clients.skopeo, clients.crane, clients.oras, clients.regctl])
def test_what_other_tools_write_is_imported(
    node: Node, tmp_path: Path, writer: Callable[[str, Path, str, Sample], None]
) -> None:
    name = f"written/{writer.__name__}"
    writer(node.address, tmp_path, "app/web", SAMPLE)
    done = command("import", str(tmp_path / "out"), f"{name}:1.0", "--node", node.url)
    assert done.code == 0, done
    assert holds(node, name)
    assert fetch(node.url, f"/v2/{name}/manifests/1.0").headers["docker-content-digest"] == SAMPLE.index
    if writer in (clients.oras, clients.regctl):
        assert has_artifact(node, name)
