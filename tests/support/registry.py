"""Debian's docker-registry on a directory of its own and a port the kernel picked, and what was asked of it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from holdfast.testing.sample import OCI_INDEX, OCI_MANIFEST, Sample
from support.programs import Program, program
from support.transfer import fetch, target_of

CONFIG = """\
version: 0.1
log:
  level: info
  accesslog: {{disabled: false}}
storage:
  filesystem: {{rootdirectory: {storage}}}
  delete: {{enabled: true}}
http:
  addr: {listen}:0
  host: ""
"""
ACCESS = re.compile(r'"(GET|HEAD|PUT|POST|PATCH|DELETE) (\S+) HTTP/1\.[01]" (\d{3}) ')


@dataclass(frozen=True, slots=True)
class Asked:
    """One line of the access log."""

    method: str
    target: str
    status: int


class DockerRegistry:
    """The reference implementation as a parent. `place` holds its storage, configuration and log; `url` is for this
    machine."""

    def __init__(self, place: Path, listen: str = "127.0.0.1") -> None:
        place.mkdir(parents=True, exist_ok=True)
        self._seen, config = 0, place / "config.yml"
        config.write_text(CONFIG.format(storage=place / "storage", listen=listen))
        self._program = Program([program("docker-registry"), "serve", config], place / "log")
        self.port = int(self._program.wait_for(r"listening on \S+:(\d+)\b")[1])
        self.url = f"http://127.0.0.1:{self.port}"

    def stop(self) -> None:
        """It is gone: connections are refused."""
        self._program.kill()

    def asked(self) -> list[Asked]:
        """Every request since the start, or since `forget`."""
        text = self._program.log.read_text(errors="replace")
        found = [Asked(m[1], m[2], int(m[3])) for m in ACCESS.finditer(text)]
        return found[self._seen :]

    def forget(self) -> None:
        """Count from here."""
        self._seen += len(self.asked())

    def taken(self) -> list[str]:
        """References of manifests in the order in which they came."""
        return [
            one.target.rpartition("/")[2]
            for one in self.asked()
            if one.method == "PUT" and "/manifests/" in one.target
        ]

    def push(self, name: str, sample: Sample, *tags: str) -> None:
        """Put a sample in by the push API; the tags name its index."""
        for digest, body in sample.blobs.items():
            self._put_blob(name, digest, body)
        for digest, media_type, body in sample.manifests:
            self._put_manifest(name, digest, media_type, body)
            for tag in tags if digest == sample.index else ():
                self._put_manifest(name, tag, media_type, body)
        self._put_fallback(name, sample)
        self.forget()

    def _put_fallback(self, name: str, sample: Sample) -> None:
        """It knows no referrers API, so referrers lie under a tag (distribution-spec, "Referrers tag schema")."""
        (body,) = (body for digest, _, body in sample.manifests if digest == sample.artifact)
        document = json.loads(body)
        entry = {
            "mediaType": OCI_MANIFEST,
            "digest": sample.artifact,
            "size": len(body),
            "artifactType": document["artifactType"],
            "annotations": document["annotations"],
        }
        index = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]}).encode()
        self._put_manifest(name, sample.index.replace(":", "-"), OCI_INDEX, index)

    def _put_blob(self, name: str, digest: str, body: bytes) -> None:
        begun = fetch(self.url, f"/v2/{name}/blobs/uploads/", "POST", body=b"")
        assert begun.status == 202, begun
        target = target_of(begun.headers["location"])
        done = fetch(self.url, f"{target}{'&' if '?' in target else '?'}digest={digest}", "PUT", body=body)
        assert done.status == 201, done

    def _put_manifest(self, name: str, reference: str, media_type: str, body: bytes) -> None:
        target = f"/v2/{name}/manifests/{reference}"
        done = fetch(self.url, target, "PUT", headers={"Content-Type": media_type}, body=body)
        assert done.status == 201, done

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
