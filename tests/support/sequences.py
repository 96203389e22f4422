"""Request sequences of clients that cannot run here, replayed as they are on the wire, each header checked.

Every function has the form of a pull in `support.clients`. What each client needs is said where it is
asserted: a header that is missing makes the real client slow, silent or wrong, seldom loud.
"""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from holdfast.testing.random_content import digest_of
from holdfast.testing.sample import Sample
from support.clients import ARCHITECTURE, ORIGIN, Pull, everything
from support.transfer import Answer, connect, fetch

DOCKER_ACCEPT = ", ".join(
    (
        "application/vnd.docker.distribution.manifest.v2+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.oci.image.index.v1+json",
        "*/*",
    )
)
CONTAINERD_ENCODING = "zstd;q=1.0, gzip;q=0.8, deflate;q=0.5"
#: containers/image accepts a boundary of plain token characters
BOUNDARY = re.compile(r'multipart/byteranges; ?boundary="?([A-Za-z0-9_-]{1,70})"?')


def whole(answer: Answer, digest: str, body: bytes, media_type: str | None = None) -> None:
    """A 200 with everything that any client reads from it."""
    assert answer.status == 200, answer
    assert answer.body == body
    described(answer, digest, media_type)
    assert answer.headers["content-length"] == str(len(body))


def described(answer: Answer, digest: str, media_type: str | None) -> None:
    """What a manifest or blob answer says of itself, whatever part of it is sent."""
    assert answer.headers["docker-content-digest"] == digest
    assert answer.headers["etag"] == f'"{digest}"'
    assert answer.headers["docker-distribution-api-version"] == "registry/2.0"
    assert "content-encoding" not in answer.headers
    assert "transfer-encoding" not in answer.headers
    if media_type:
        assert answer.headers["content-type"] == media_type


def part(answer: Answer, digest: str, body: bytes, start: int, end: int) -> None:
    """A 206 with bytes [start, end) of a blob, as moby, SOCI and containers/image demand it."""
    assert answer.status == 206, answer
    assert answer.body == body[start:end]
    assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/{len(body)}"
    assert answer.headers["content-length"] == str(end - start)
    assert answer.headers["accept-ranges"] == "bytes"
    described(answer, digest, None)


def layer_of(sample: Sample) -> tuple[str, bytes]:
    """The larger layer of this machine's image."""
    digest = sample.layers[ARCHITECTURE][-1]
    return digest, sample.blobs[digest]


def media_types(sample: Sample) -> dict[str, str]:
    """Digest to media type of the manifests."""
    return {digest: media_type for digest, media_type, _ in sample.manifests}


def same_head(base: str, target: str, accept: str) -> Answer:
    """HEAD and GET say the same (crane and containerd take either); returns the GET."""
    head = fetch(base, target, "HEAD", headers={"Accept": accept})
    got = fetch(base, target, headers={"Accept": accept})
    drifting = ("date", "age", "warning")
    assert {k: v for k, v in head.headers.items() if k not in drifting} == {
        k: v for k, v in got.headers.items() if k not in drifting
    }
    assert (head.status, head.body) == (got.status, b"")
    return got


def containerd_ranges(address: str, _: Path, name: str, sample: Sample) -> None:
    """containerd with parallel layer fetch: `bytes=0-` first, on manifests too; then open ranges, each read
    for one chunk and closed early."""
    base, query, contents = f"http://{address}", f"?ns={ORIGIN}", everything(sample)
    head = fetch(base, f"/v2/{name}/manifests/latest{query}", "HEAD", headers={"Accept": DOCKER_ACCEPT})
    described(head, sample.index, media_types(sample)[sample.index])
    assert head.headers["oci-namespace"] == ORIGIN
    headers = {"Accept": "*/*", "Accept-Encoding": CONTAINERD_ENCODING, "Range": "bytes=0-"}
    got = fetch(base, f"/v2/{name}/manifests/{sample.index}{query}", headers=headers)
    assert got.status in (200, 206)
    assert got.body == contents[sample.index]
    digest, body = layer_of(sample)
    target, step = f"/v2/{name}/blobs/{digest}{query}", len(body) // 4
    first = fetch(base, target, headers=headers)
    part(first, digest, body, 0, len(body))
    starts = range(0, len(body), step)
    with ThreadPoolExecutor(4) as threads:
        chunks = threads.map(
            lambda start: early_closed(base, target, start, min(step, len(body) - start)), starts
        )
    assert b"".join(chunks) == body


def early_closed(base: str, target: str, start: int, length: int) -> bytes:
    """Ask for an open range, read `length` bytes of it, and leave."""
    connection = connect(base)
    try:
        connection.request("GET", target, headers={"Range": f"bytes={start}-"})
        answer = connection.getresponse()
        assert answer.status == 206
        return answer.read(length)
    finally:
        connection.close()


def stargz(address: str, _: Path, name: str, sample: Sample) -> None:
    """stargz: `bytes=0-1` to look for redirects, the size from Content-Range, then many ranges at once."""
    base, target = f"http://{address}", f"/v2/{name}/blobs/{layer_of(sample)[0]}?ns={ORIGIN}"
    digest, body = layer_of(sample)
    probe = fetch(base, target, headers={"Range": "bytes=0-1", "Accept-Encoding": "identity"})
    part(probe, digest, body, 0, 2)
    size = int(probe.headers["content-range"].rpartition("/")[2])
    footer = fetch(base, target, headers={"Range": f"bytes={size - 51}-{size - 1}"})
    part(footer, digest, body, size - 51, size)
    wanted = [(0, 1000), (size // 2, size // 2 + 4096), (size - 100, size)]
    assert_parts(base, target, digest, body, wanted)


def soci(address: str, _: Path, name: str, sample: Sample) -> None:
    """SOCI: size by HEAD, closed ranges in parallel, `Accept-Ranges: bytes` on each answer."""
    digest, body = layer_of(sample)
    base, target = f"http://{address}", f"/v2/{name}/blobs/{digest}?ns={ORIGIN}"
    head = fetch(base, target, "HEAD")
    assert (head.status, head.headers["content-length"]) == (200, str(len(body)))
    assert head.headers["accept-ranges"] == "bytes"
    step = len(body) // 5 + 1
    spans = [(start, min(start + step, len(body))) for start in range(0, len(body), step)]
    with ThreadPoolExecutor(4) as threads:
        ask = lambda span: fetch(base, target, headers={"Range": f"bytes={span[0]}-{span[1] - 1}"})  # noqa: E731
        for span, answer in zip(spans, threads.map(ask, spans), strict=True):
            part(answer, digest, body, *span)


def zstd_chunked(address: str, _: Path, name: str, sample: Sample) -> None:
    """containers/image, partial pull: many ranges in one request, the last one open; exactly as many parts,
    in the order asked."""
    digest, body = layer_of(sample)
    base, target, size = f"http://{address}", f"/v2/{name}/blobs/{digest}", len(body)
    spans = [
        (size // 2, size // 2 + 700),
        (10, 20),
        (40, 41),
        (size // 3, size // 3 + 65_536),
        (size - 300, size),
    ]
    assert_parts(base, target, digest, body, spans, open_end=True)
    assert_parts(base, target, digest, body, [(n * 1000, n * 1000 + 10) for n in range(100)])
    single = fetch(base, target, headers={"Range": f"bytes={size - 300}-"})
    part(single, digest, body, size - 300, size)


def assert_parts(
    base: str, target: str, digest: str, body: bytes, spans: list[tuple[int, int]], *, open_end: bool = False
) -> None:
    """Several ranges in one request come back as as many parts, in order, each saying where it belongs."""
    texts = [f"{start}-{end - 1}" for start, end in spans]
    if open_end:
        texts[-1] = f"{spans[-1][0]}-"
    answer = fetch(base, target, headers={"Range": "bytes=" + ",".join(texts), "Accept-Encoding": "identity"})
    assert answer.status == 206, answer
    described(answer, digest, None)
    assert answer.headers["content-length"] == str(len(answer.body))
    boundary = BOUNDARY.fullmatch(answer.headers["content-type"])
    assert boundary, answer.headers["content-type"]
    expected = [(f"bytes {start}-{end - 1}/{len(body)}", body[start:end]) for start, end in spans]
    assert parts(answer.body, boundary[1]) == expected


def parts(body: bytes, boundary: str) -> list[tuple[str, bytes]]:
    """(Content-Range, bytes) of each part of a multipart body (RFC 2046 section 5.1.1)."""
    first, *middle, last = (b"\r\n" + body).split(b"\r\n--" + boundary.encode())
    assert first == b""
    assert last.rstrip(b"\r\n") == b"--"
    found = []
    for text in middle:
        head, _, content = text.partition(b"\r\n\r\n")
        names = dict(line.split(": ", 1) for line in head.decode().strip().split("\r\n"))
        found.append(({k.lower(): v for k, v in names.items()}["content-range"], content))
    return found


def verified(address: str, name: str, sample: Sample) -> None:
    """Every blob and manifest whole, by digest: what a later run must find here."""
    for digest, body in everything(sample).items():
        kind = "manifests" if digest in media_types(sample) else "blobs"
        answer = fetch(f"http://{address}", f"/v2/{name}/{kind}/{digest}")
        assert (answer.status, digest_of(answer.body)) == (200, digest), answer.status
        assert answer.body == body


#: which of them read parts only; the rest of the blob comes when somebody asks for it
LAZY = ("stargz", "soci", "zstd_chunked")
SEQUENCES: dict[str, Pull] = {
    "containerd_ranges": containerd_ranges,
    "stargz": stargz,
    "soci": soci,
    "zstd_chunked": zstd_chunked,
}
