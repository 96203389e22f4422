"""A hostile parent, hostile clients and a hostile connected registry, as a program: `python -m benchmarks.flood NAME`.

Its first line of output is the URL of the parent. The first line of its input is the URL of the node, and for those of
`CHILDS` the password of the sync token of the connected registry `CHILD` there; then it floods, with connections from
127.0.0.2, until it is ended.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from itertools import count
from urllib.parse import urlsplit

from holdfast.testing.fault import ScriptedFault
from holdfast.testing.random_content import GeneratedContent, digest_of
from holdfast.testing.scripted_parent import ScriptedParent

#: name of the parent at the node, and of what it serves there
PARENT = "flood"
#: the connected registry that floods, and what it is allowed to read
CHILD, CHILDS_REPOSITORY = "hostile", "team/app"
GATEWAY = f"/acr/gateway/v1/{CHILD}"
#: where floods come from: what a node counts by address is not what it counts of those who are measured
ADDRESS = "127.0.0.2"
MIB = 1 << 20
CLIENTS = 8

Flood = Callable[[ScriptedParent, str], Awaitable[None]]
ChildFlood = Callable[[str, str, int], Awaitable[None]]


async def connect(node: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """To the node, from the flood's address."""
    where = urlsplit(node)
    return await asyncio.open_connection(where.hostname, where.port, local_addr=(ADDRESS, 0), limit=MIB)


async def send(node: str, head: str, body: bytes = b"", *, patience: float = 10.0) -> None:
    """One request on a connection of its own; its answer is read, and whatever goes wrong is the flood's business."""
    with suppress(OSError, TimeoutError):
        reader, writer = await connect(node)
        try:
            async with asyncio.timeout(patience):
                lines = f"{head}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
                writer.write(lines.encode() + body)
                while await reader.read(MIB):
                    pass
        finally:
            writer.close()


async def again(
    node: str,
    head: Callable[[int], str],
    body: bytes | Callable[[int], bytes] = b"",
    *,
    patience: float = 10.0,
) -> None:
    """Clients that send one such request after another."""
    numbers = count()

    async def client() -> None:
        while True:
            number = next(numbers)
            content = body if isinstance(body, bytes) else body(number)
            await send(node, head(number), content, patience=patience)

    await asyncio.gather(*(client() for _ in range(CLIENTS)))


def get(target: str, host: str = "node") -> str:
    """The head of a GET."""
    return f"GET {target} HTTP/1.1\r\nHost: {host}"


async def slow_readers(parent: ScriptedParent, node: str) -> None:
    """Twelve that read nothing of blobs that the disk does not take."""
    kept = []
    for number in range(12):
        digest = parent.add_blob("big", GeneratedContent(100 * MIB, f"slow-{number}"))
        reader, writer = await connect(node)
        writer.write(f"{get(f'/v2/{PARENT}/big/blobs/{digest}')}\r\n\r\n".encode())
        kept.append((reader, writer))
    await asyncio.Event().wait()


async def lists(parent: ScriptedParent, node: str) -> None:
    """Lists without end, in pages as large as they may be."""
    page = json.dumps({"tags": [f"t{number}" for number in range(300_000)]})
    for number in range(10_000):
        link = ("Link", f'</v2/a/tags/list?last={number}>; rel="next"')
        parent.script(ScriptedFault(path="/tags/", status=200, body=page, repeat=[link]))
    await again(node, lambda number: get(f"/v2/{PARENT}/list-{number}/tags/list"))


async def interim(parent: ScriptedParent, node: str) -> None:
    """1xx without end."""
    parent.script(ScriptedFault(interim=-1, times=-1))
    await again(node, lambda number: get(f"/v2/{PARENT}/interim/manifests/v{number}"))


async def pages(parent: ScriptedParent, node: str) -> None:
    """Pages of ten of the long lists that the node holds."""
    await again(
        node,
        lambda number: get(
            f"/v2/many/tags/list?n=10&last=v{number % 90_000:06}"
            if number % 2
            else "/v2/_catalog?n=10&last=r005"
        ),
    )


async def hosts(parent: ScriptedParent, node: str) -> None:
    """Ever new Host headers of 28 kB."""
    await again(node, lambda number: get("/v2/many/tags/list?n=1", f"{number}.{'h' * 28_000}"))


async def numbers(parent: ScriptedParent, node: str) -> None:
    """Manifests of long integers."""
    body = b'{"schemaVersion":2,"x":[' + b",".join([b"9" * 4000] * 1000) + b"]}"
    kind = "Content-Type: application/vnd.oci.image.manifest.v1+json"
    await again(
        node, lambda number: f"PUT /v2/numbers/manifests/v{number} HTTP/1.1\r\nHost: node\r\n{kind}", body
    )


async def leavers(parent: ScriptedParent, node: str) -> None:
    """Those who ask for 640 MB and leave after 50 ms."""
    digests = [
        parent.add_blob("left", GeneratedContent(640_000_000, f"left-{number}")) for number in range(2)
    ]
    await again(
        node, lambda number: get(f"/v2/{PARENT}/left/blobs/{digests[number % len(digests)]}"), patience=0.05
    )


async def made_up(parent: ScriptedParent, node: str) -> None:
    """Referrers of what nobody has, in repositories that nobody has."""
    await again(
        node,
        lambda number: get(f"/v2/{PARENT}/made-{number}/referrers/{digest_of(os.urandom(8))}"),
    )


async def sessions(parent: ScriptedParent, node: str) -> None:
    """Uploads that are begun and left."""
    await again(node, lambda number: "POST /v2/sessions/blobs/uploads/ HTTP/1.1\r\nHost: node")


async def reports(node: str, login: str, generation: int) -> None:
    """Reports of 3.7 MB, each with news."""

    def report(number: int) -> bytes:
        said = {"instance": "first", "generation": generation, "version": f"v{number}"}
        return json.dumps({**said, "lastSyncTime": "t" * 3_700_000}).encode()

    await again(node, lambda _: f"PUT {GATEWAY}/status HTTP/1.1\r\nHost: node\r\n{login}", report)


async def notices(node: str, login: str, generation: int) -> None:
    """Pushes that it says it had, fifty at a time."""

    def pushes(number: int) -> bytes:
        numbers = range(50 * number + 1, 50 * number + 51)
        said = {"instance": "first", "generation": generation, "log": LOG}
        return json.dumps({**said, "notices": [pushed(one) for one in numbers]}).encode()

    await again(node, lambda _: f"POST {GATEWAY}/messages HTTP/1.1\r\nHost: node\r\n{login}", pushes)


LOG = "0123456789abcdef" * 2


def pushed(number: int) -> dict[str, object]:
    """A notice of a push."""
    event = {
        "id": f"{CHILD}/{LOG}-{number}",
        "at": 5.0,
        "verb": "push",
        "repository": CHILDS_REPOSITORY,
        "digest": digest_of(str(number).encode()),
        "tag": f"v{number}",
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "size": 7,
    }
    return {"number": number, "event": event, "registry": CHILD}


async def inquiries(node: str, login: str, generation: int) -> None:
    """Whether a thousand tags exist."""
    sought = [{"repository": CHILDS_REPOSITORY, "tags": [f"v{number}" for number in range(1000)]}]
    body = json.dumps({"instance": "first", "generation": generation, "sought": sought}).encode()
    await again(node, lambda _: f"POST {GATEWAY}/exists HTTP/1.1\r\nHost: node\r\n{login}", body)


#: by name
FLOODS: dict[str, Flood] = {
    flood.__name__: flood
    for flood in (slow_readers, lists, interim, pages, hosts, numbers, leavers, made_up, sessions)
}
#: the same by a connected registry
CHILDS: dict[str, ChildFlood] = {flood.__name__: flood for flood in (reports, notices, inquiries)}


async def activated(node: str, password: str) -> tuple[str, int]:
    """The line that says who asks, and the generation of the child's instance."""
    login = "Authorization: Basic " + base64.b64encode(f"{CHILD}:{password}".encode()).decode()
    body = b'{"instance":"first","version":"1"}'
    reader, writer = await connect(node)
    head = f"POST {GATEWAY}/activate HTTP/1.1\r\nHost: node\r\n{login}\r\nContent-Length: {len(body)}"
    writer.write(f"{head}\r\nConnection: close\r\n\r\n".encode() + body)
    answer = await reader.read()
    writer.close()
    return login, int(json.loads(answer.partition(b"\r\n\r\n")[2])["generation"])


async def main(name: str) -> None:
    """See the module."""
    async with ScriptedParent() as parent:
        print(parent.url, flush=True)
        node, _, password = (await asyncio.to_thread(sys.stdin.readline)).strip().partition(" ")
        if node and name in CHILDS:
            await CHILDS[name](node, *await activated(node, password))
        elif node:
            await FLOODS[name](parent, node)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
