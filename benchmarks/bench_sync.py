"""What does synchronisation cost the link, and how soon is what was pushed at the root further down?

Links are relays on this machine that count bytes at the level of HTTP (requests, heads and bodies, both ways; no
headers of TCP and IP), and write requests down. A tag that is at a parent unchanged costs one HEAD where the parent is
polled, and nothing where it is a Holdfast that manages the node. How soon a tag comes down is measured over three
connected registries below a root, on loopback: from the answer to the push until the store of the last one has it.
A plan is made in a process of its own, in memory, of manifests that were read.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from holdfast.testing.link import RelayLink

from benchmarks.case import HOLDFAST, Case, Effort, Figure, Verdict
from benchmarks.content import MB
from benchmarks.images import Held, Images, administer, push_image, some, string, wait
from benchmarks.load import split
from benchmarks.machine import ROOT
from benchmarks.peers import Holdfast

NAME = "bench/app"
SHARE_BOUND, POLLED_BOUND, MANAGED_BOUND, DOWN_BOUND = 1.02, 1.0, 0.0, 5.0
PLAN_SECONDS, PLAN_BYTES = 2.0, 300e6
MIRROR = """
[[parent]]
url = "{url}"
insecure = true
default = true

[sync]
schedule = "* * * * *"
[[sync.repositories]]
name = "{name}"
"""


def run(place: Path, effort: Effort) -> list[Case]:
    """All of it."""
    return [
        chain(place / "chain", effort),
        polled(place / "polled", effort),
        managed(place / "managed", effort),
        down(place / "down", effort),
        planned(effort),
    ]


def link_to(node: Holdfast) -> RelayLink:
    """A counted way to it."""
    host, port, _ = split(node.url)
    return RelayLink(host, port)


def mirror(place: Path, link: RelayLink) -> Holdfast:
    """A node that polls what is at the other end."""
    toml = MIRROR.format(url=link.url, name=NAME)
    return Holdfast(place, data=place / "data", workers=0, configuration=toml)


def chain(place: Path, effort: Effort) -> Case:
    """Images that share a base layer, down two mirrors; the bytes on each link."""
    images = Images(place / "root")
    base = images.blob(NAME, some(effort.pick(40, 4) * MB, "base"))
    tags = {
        f"v{n}": images.image(
            NAME, f"v{n}", [base, images.blob(NAME, some(effort.pick(8, 1) * MB, f"own {n}"))]
        )
        for n in range(20)
    }
    images.close()
    with ExitStack() as stack:
        above, links = (
            stack.enter_context(Holdfast(place / "node", data=place / "root", workers=0)),
            list[RelayLink](),
        )
        for number in range(2):
            links.append(stack.enter_context(link_to(above)))
            above = stack.enter_context(mirror(place / f"mirror-{number}", links[-1]))
        held = Held(above)
        wait(lambda: held.has(NAME, tags), "all images at the last mirror")
        held.close()
        shares = [(link.down + link.up) / images.unique for link in links]
    return Case(
        f"sync down two mirrors, {images.unique // MB} MB in 20 images",
        (Figure(HOLDFAST, "×", tuple(shares)),),
        (Verdict("of the unique bytes on a link", max(shares), SHARE_BOUND, at_least=False),),
    )


def polled(place: Path, effort: Effort) -> Case:
    """Requests of a scheduled run that finds nothing new."""
    count = effort.pick(1000, 50)
    images = Images(place / "root")
    layer = images.blob(NAME, some(1000, "layer"))
    tags = {f"v{n}": images.image(NAME, f"v{n}", [layer]) for n in range(count)}
    images.close()
    with (
        Holdfast(place / "node", data=place / "root", workers=0) as root,
        link_to(root) as link,
        mirror(place / "mirror", link) as node,
    ):
        wait(lambda: synchronised(node), "the first run")
        first, before = synchronised(node), len(link.heads)
        wait(lambda: synchronised(node) > first, "the next run")
        asked = [head.target for head in link.heads[before:]]
    named = sum("/manifests/" in target for target in asked)
    return Case(
        f"sync of {len(tags)} unchanged tags, polled parent",
        (Figure(HOLDFAST, "requests", (float(len(asked)),)),),
        (Verdict("requests a tag", named / count, POLLED_BOUND, at_least=False, unit=""),),
        (f"{len(asked) - named} more for the list of tags, whatever their number.",),
    )


def manage(root: Holdfast, name: str, parent: str | None = None) -> None:
    """A connected registry."""
    properties = {"mode": "ReadOnly", "parent": {"id": parent} if parent else {}, "repositories": [NAME]}
    administer(root, "PUT", f"connectedRegistries/{name}", {"properties": properties})


def child(place: Path, connection_string: str) -> Holdfast:
    """A node that was given nothing else."""
    environ = {"ACR_REGISTRY_CONNECTION_STRING": connection_string}
    return Holdfast(place, data=place / "data", workers=0, environ=environ)


def managed(place: Path, effort: Effort) -> Case:
    """Requests of a full synchronisation that finds nothing new, at a Holdfast parent."""
    count = effort.pick(1000, 50)
    images = Images(place / "root")
    layer = images.blob(NAME, some(1000, "layer"))
    tags = {f"v{n}": images.image(NAME, f"v{n}", [layer]) for n in range(count)}
    images.close()
    with Holdfast(place / "node", data=place / "root", workers=0) as root, link_to(root) as link:
        manage(root, "plant")
        with child(place / "plant", string(root, "plant", f"127.0.0.1:{link.port}")) as node:
            held = Held(node)
            wait(lambda: held.has(NAME, tags), "all at the node")
            held.close()
            wait(lambda: synchronised(node), "the first run")
            before = len(link.heads)
            administer(root, "POST", "connectedRegistries/plant/resync")
            wait(lambda: listed(link, before) and synchronised(node), "a full run")
            asked = [head.target for head in link.heads[before:]]
    named = sum("/v2/" in target for target in asked)
    return Case(
        f"full sync of {len(tags)} unchanged tags, Holdfast parent",
        (Figure(HOLDFAST, "requests", (float(named),)),),
        (Verdict("requests for content", float(named), MANAGED_BOUND, at_least=False, unit=""),),
        (f"{listed(link, before)} questions for the list of contents.",),
    )


def listed(link: RelayLink, since: int) -> int:
    """Questions for the contents of a parent."""
    return sum("/contents" in head.target for head in link.heads[since:])


def synchronised(node: Holdfast) -> str:
    """When a node's last complete run ended, "" while one is under way."""
    found = administer(node, "GET", "sync")
    return "" if found["running"] else found["lastSyncTime"] or ""


def down(place: Path, effort: Effort) -> Case:
    """How soon a tag is three connected registries below the root where it is pushed."""
    took = []
    with ExitStack() as stack:
        root = stack.enter_context(Holdfast(place / "root", data=place / "data", workers=0, anonymous="push"))
        above = root
        for number, name in enumerate(names := ("first", "second", "third")):
            manage(root, name, names[number - 1] if number else None)
            host, port, _ = split(above.url)
            above = stack.enter_context(child(place / name, string(root, name, f"{host}:{port}")))
        wait(lambda: synchronised(above), "the third is synchronised")
        held = Held(above)
        stack.callback(held.close)
        for number in range(effort.pick(10, 3)):
            wanted = {f"v{number}": push_image(root.url, NAME, f"v{number}")}
            began = time.perf_counter()
            wait(lambda wanted=wanted: held.has(NAME, wanted), "the tag at the third")  # type: ignore[misc]
            took.append(time.perf_counter() - began)
    return Case(
        "a tag pushed at the root, three levels down",
        (Figure(HOLDFAST, "s", tuple(took)),),
        (
            Verdict("later", statistics.median(took), DOWN_BOUND, at_least=False, unit="s"),
            Verdict(f"later, the worst of {len(took)}", max(took), DOWN_BOUND, at_least=False, unit="s"),
        ),
    )


def planned(effort: Effort) -> Case:
    """Time and memory of a plan."""
    seconds, size = [], []
    for _ in range(min(effort.rounds, 3)):
        command = [sys.executable, "-m", "benchmarks.large_plan"]
        said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
        seconds.append(float(said[1]))
        size.append(float(said[2]) * MB)
    return Case(
        "plan over 100,000 tags, nothing held",
        (Figure(HOLDFAST, "s", tuple(seconds)),),
        (
            Verdict("of processor", statistics.median(seconds), PLAN_SECONDS, at_least=False, unit="s"),
            Verdict("at most in memory", max(size), PLAN_BYTES, at_least=False, unit="bytes"),
        ),
    )


if __name__ == "__main__":
    from benchmarks.alone import main

    main(run)
