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
from contextlib import ExitStack
from pathlib import Path

from holdfast.testing.link import Link

from benchmarks.case import HOLDFAST, Case, Effort, Figure, Verdict
from benchmarks.content import MB
from benchmarks.images import Held, Images, administer, some, wait
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
    return [chain(place / "chain", effort), polled(place / "polled", effort), planned(effort)]


def link_to(node: Holdfast) -> Link:
    """A counted way to it."""
    host, port, _ = split(node.url)
    return Link(host, port)


def mirror(place: Path, link: Link) -> Holdfast:
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
            list[Link](),
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

        def ended() -> str:
            found = administer(node, "GET", "sync")
            return "" if found["running"] else found["lastSyncTime"] or ""

        wait(ended, "the first run")
        first, before = ended(), len(link.heads)
        wait(lambda: ended() > first, "the next run")
        asked = [head.target for head in link.heads[before:]]
    named = sum("/manifests/" in target for target in asked)
    return Case(
        f"sync of {len(tags)} unchanged tags, polled parent",
        (Figure(HOLDFAST, "requests", (float(len(asked)),)),),
        (Verdict("requests a tag", named / count, POLLED_BOUND, at_least=False, unit=""),),
        (f"{len(asked) - named} more for the list of tags, whatever their number.",),
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
