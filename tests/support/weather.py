"""Images that skopeo pushes at one end of a row and pulls at the other, and weather on the wires between."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast.testing.sample import Sample, build_sample
from holdfast_core.store import Store
from support.clients import everything, same_layout
from support.namespaces import Row, Site, SiteNode, Wire
from support.programs import program, run, wait_until
from support.push_clients import write_layout

APP, BASE = "team/app", "team/base"
#: link bytes ÷ unique bytes, headers of Ethernet, IP and TCP aside
BOUND = 1.02


@dataclass(frozen=True, slots=True)
class Image:
    """One image at the root."""

    repository: str
    tag: str
    sample: Sample


def images() -> list[Image]:
    """Versions of one image that share their larger layer, and another repository that holds one of them as well."""
    versions = [
        build_sample("app", layer_bytes=(2_000_000, 1_200_000 + 1000 * number)) for number in range(5)
    ]
    found = [Image(APP, f"1.{number}", sample) for number, sample in enumerate(versions)]
    return [*found, Image(BASE, "stable", versions[0])]


def unique_bytes(wanted: list[Image]) -> int:
    """Bytes of everything below the images' indexes, each digest once."""
    held = {digest: body for image in wanted for digest, body in everything(image.sample).items()}
    return sum(map(len, held.values()))


SKOPEO = ("--insecure-policy", "copy", "--quiet", "--all")


def push(site: Site, port: int, place: Path, image: Image) -> None:
    """`skopeo copy` into the registry on a site, from there."""
    layout = write_layout(place / f"{image.repository}-{image.tag}", image.sample)
    target = f"docker://127.0.0.1:{port}/{image.repository}:{image.tag}"
    tool = program("skopeo")
    site.do(run, tool, *SKOPEO, "--dest-tls-verify=false", f"oci:{layout}:latest", target)


def pull(site: Site, port: int, place: Path, image: Image, login: str = "") -> None:
    """`skopeo copy` from the node on a site, as a client there does; every byte is compared. `login` is
    name:password."""
    source = f"docker://127.0.0.1:{port}/{image.repository}:{image.tag}"
    flags = ("--src-tls-verify=false", *(("--src-creds", login) if login else ()))
    site.do(run, program("skopeo"), *SKOPEO, *flags, source, f"oci:{place}:latest")
    same_layout(place, image.sample)


def holds(node: SiteNode, wanted: list[Image]) -> bool:
    """Whether a node has the images, by a look into its store: asking it could make it fetch."""
    store = Store.create_or_open(node.data, write=False)
    try:
        found = [store.references.tag(image.repository, image.tag) for image in wanted]
    finally:
        store.close()
    return [tag and str(tag.digest) for tag in found] == [image.sample.index for image in wanted]


def shares(sites: Row, wanted: list[Image]) -> list[float]:
    """What crossed each wire since it was made, as a share of the images' bytes; what TCP sent again counts once.
    Printed beside it: with headers and with what was sent again. All must have arrived."""
    size = unique_bytes(wanted)
    found = [wire.unique() / size for wire in sites.wires]
    for number, (share, wire) in enumerate(zip(found, sites.wires, strict=True)):
        print(f"wire {number}: {share:.4f} of the unique bytes, {wire.count().raw / size:.4f} in all")
        assert share >= 1, "images arrived that did not cross the wire: it is not counted"
    return found


class Storm(threading.Thread):
    """Cuts one wire each time more bytes have come down, silently and unplugged in turn; heals it a while later."""

    EVERY_BYTES, DARK_SECONDS = 3_000_000, 1.2

    def __init__(self, wire: Wire) -> None:
        super().__init__(daemon=True)
        self._wire, self._over, self.cuts = wire, threading.Event(), 0

    def run(self) -> None:
        mark = self._wire.count().down_bytes
        while not self._over.wait(0.02):
            if self._wire.count().down_bytes - mark > self.EVERY_BYTES:
                self._wire.cut(unplugged=self.cuts % 2 == 1)
                self._over.wait(self.DARK_SECONDS)
                self._wire.heal()
                self.cuts += 1
                mark = self._wire.count().down_bytes

    def stop(self) -> None:
        """The wire is whole afterwards."""
        self._over.set()
        self.join()


@contextmanager
def storms(sites: Row) -> Iterator[list[Storm]]:
    """One on every wire."""
    found = [Storm(wire) for wire in sites.wires]
    for storm in found:
        storm.start()
    try:
        yield found
    finally:
        for storm in found:
            storm.stop()
        print("cuts:", *(storm.cuts for storm in found))


def persistently(work: Callable[..., Any], *args: Any) -> None:
    """A client that tries again, as they do: what fails while a wire is cut must work after it is healed."""

    def done() -> bool:
        try:
            work(*args)
        except AssertionError as failed:
            print(failed)
            return False
        return True

    wait_until(done, f"{work.__name__} {args}")
