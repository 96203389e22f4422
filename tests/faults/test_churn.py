"""Days of work in minutes: a working set three times the budget, pulled, pushed, deleted and moved, while the node
evicts, collects, scrubs, and is killed. No pull of anything that can be had fails, nothing acknowledged is lost,
and the disk stays within the budget.

`make soak HOURS=24` makes it last so long, and prints what it took.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from itertools import accumulate
from pathlib import Path

from holdfast_core import fsck
from holdfast_core.recovery.compact import compact
from holdfast_core.store import Store
from support.format_reader import FormatReader
from support.node import Node, parent_toml
from support.plain_push import has, push, put_blob
from support.programs import wait_until
from support.pushing import OCI_MANIFEST, image
from support.transfer import Answer, fetch

MINUTES = float(os.environ.get("HOLDFAST_CHURN_MINUTES", "0"))
MIB = 1 << 20
BUDGET = 48 * MIB
#: images at the parent: families that share a base layer, and tags in each
FAMILIES, TAGS = 8, 10
BASE_BYTES, LAYER_BYTES = 6 * MIB, int(1.3 * MIB)
#: what is pushed stays, so that it must leave room for the rest
PUSHED_BYTES = 100_000
#: how often an image is pulled falls with its rank
SKEW = 0.9
#: clients at once; steps of a short run, and between two kills
CLIENTS, STEPS, KILLS = 3, 300, 60
#: how long a client repeats a request that a kill broke off (s)
PATIENT_SECONDS = 60.0
#: bytes a process may have gained, and descriptors
GAIN_BYTES, GAIN_DESCRIPTORS = 96 * MIB, 40
#: the index is at most so many times as long as what it holds, and so many bytes
INDEX_TIMES, INDEX_SLACK_BYTES = 1.3, MIB
CONFIGURATION = f"""\
mode = "ReadWrite"
anonymous = "push"
[store]
max_bytes = {BUDGET}
[push]
sweep_interval = 5.0
sweep_grace = 0.0
[garbage_collection]
schedule = "* * * * *"
lease = "PT1M"
untagged_after = "PT1M"
cached_after = "PT1M"
[scrub]
period = 60.0
"""


def some_bytes(size: int, *names: object) -> bytes:
    """Bytes that no encoder shortens, the same for the same names."""
    return random.Random(repr(names)).randbytes(size)


class Churn:
    """The load, and what must be true of it."""

    def __init__(self, root: Node, site: Node) -> None:
        self.root, self.site, self.chance = root, site, random.Random(13)
        #: repository and tag of what the parent has, by rank; digests of what was pushed here
        self.images: list[tuple[str, str]] = []
        self.mine: dict[str, str] = {}
        self.seen: Counter[str] = Counter()
        self.most = 0

    def fill_the_parent(self) -> None:
        """The working set."""
        for family in range(FAMILIES):
            name = f"family/{family}"
            base = put_blob(self.root.url, name, some_bytes(BASE_BYTES, family))
            for tag in range(TAGS):
                self._at_the_parent(name, f"v{tag}", base, some_bytes(LAYER_BYTES, family, tag))
                self.images.append((name, f"v{tag}"))
        self.chance.shuffle(self.images)

    def _at_the_parent(self, name: str, tag: str, base: str, layer: bytes) -> None:
        url = self.root.url
        body = image(put_blob(url, name, tag.encode()), base, put_blob(url, name, layer))
        kind = {"Content-Type": OCI_MANIFEST}
        answer = fetch(url, f"/v2/{name}/manifests/{tag}", "PUT", headers=kind, body=body)
        assert answer.status == 201, answer

    def step(self, number: int) -> None:
        """One of the things that clients do."""
        kind = self.chance.choices(("pull", "push", "delete", "move"), (80, 12, 4, 4))[0]
        self.seen[kind] += 1
        getattr(self, f"_{kind}")(number)

    def _pull(self, _: int) -> None:
        weights = [1 / rank**SKEW for rank in range(1, len(self.images) + 1)]
        name, tag = self.chance.choices(self.images, cum_weights=list(accumulate(weights)))[0]
        self.pull(name, tag)

    def pull(self, name: str, tag: str) -> None:
        """A whole image, each byte compared."""
        manifest = self._got(f"/v2/{name}/manifests/{tag}")
        digest = f"sha256:{hashlib.sha256(manifest.body).hexdigest()}"
        assert manifest.headers["docker-content-digest"] == digest
        document = json.loads(manifest.body)
        for piece in (document["config"], *document["layers"]):
            body = self._got(f"/v2/{name}/blobs/{piece['digest']}").body
            assert f"sha256:{hashlib.sha256(body).hexdigest()}" == piece["digest"]

    def _got(self, target: str) -> Answer:
        """The answer, of a client that repeats what a kill broke off."""
        end = time.monotonic() + PATIENT_SECONDS
        while True:
            try:
                answer = fetch(self.site.url, target, headers={"Accept": OCI_MANIFEST})
            except (OSError, HTTPException):
                self.seen["broken off"] += 1
            else:
                if answer.status == 200:
                    return answer
                assert answer.status in (502, 503), (target, answer)
                self.seen[str(answer.status)] += 1
            assert time.monotonic() < end, f"{target} cannot be had"
            time.sleep(0.1)

    def _push(self, number: int) -> None:
        """What is not acknowledged means nothing."""
        tag = f"t{number}"
        try:
            self.mine[tag] = push(self.site.url, "plant/app", tag, some_bytes(PUSHED_BYTES, "mine", number))
        except (OSError, HTTPException, AssertionError):
            self.seen["push broken off"] += 1

    def _delete(self, _: int) -> None:
        """One that a kill breaks off may have been made or not: nothing is expected of that image."""
        if len(self.mine) < 4:
            return
        tag = self.chance.choice(list(self.mine))
        digest = self.mine.pop(tag, "")
        try:
            fetch(self.site.url, f"/v2/plant/app/manifests/{digest}", "DELETE")
        except (OSError, HTTPException):
            self.seen["delete broken off"] += 1

    def _move(self, number: int) -> None:
        name, tag = self.chance.choice(self.images)
        base = put_blob(self.root.url, name, some_bytes(BASE_BYTES, int(name.split("/")[1])))
        self._at_the_parent(name, tag, base, some_bytes(LAYER_BYTES, "moved", number))

    def kill(self) -> None:
        """The keeper ends without a word, amid requests; what the next one finds is what there is."""
        (keeper,) = self.site.children("keeper")
        self.seen["kill"] += 1
        os.kill(keeper, signal.SIGKILL)
        wait_until(lambda: self.site.children("keeper") != [keeper], "another keeper")

    def look(self) -> None:
        """The disk is within the budget."""
        used = disk_bytes(self.site.data)
        self.most = max(self.most, used)
        assert used <= BUDGET * 1.01, f"{used} bytes, {self.seen}"

    def check(self) -> None:
        """Nothing acknowledged is lost, here or above."""
        wait_until(has(self.root.url, "plant/app", self.mine), "all pushes at the parent")
        for tag in self.mine:
            self.pull("plant/app", tag)
        for name, tag in self.images:
            self.pull(name, tag)


def disk_bytes(data: Path) -> int:
    """What the files of a store take."""
    total = 0
    for directory, _, files in os.walk(data):
        for file in files:
            try:
                total += os.stat(f"{directory}/{file}").st_blocks * 512
            except FileNotFoundError:  # it went meanwhile
                continue
    return total


def footprint(node: Node) -> dict[str, tuple[int, int]]:
    """(bytes of memory, descriptors) of the largest process of each kind."""
    found = {}
    for role in ("keeper", "worker"):
        processes = [Path(f"/proc/{pid}") for pid in node.children(role)]
        memory = [
            int((place / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") for place in processes
        ]
        found[role] = max(memory), max(len(os.listdir(place / "fd")) for place in processes)
    return found


def dangling(data: Path) -> list[str]:
    """Tags whose manifests are not here."""
    store = Store.create_or_open(data, write=False)
    try:
        return [
            f"{name}:{tag}"
            for name in store.references.repositories()
            for tag in store.references.tags(name)
            if (held := store.references.tag(name, tag)) is not None
            and store.references.manifest(name, held.digest) is None
        ]
    finally:
        store.close()


def test_a_working_set_of_three_budgets(tmp_path: Path) -> None:
    with Node(tmp_path / "root", "--anonymous", "push", workers=1) as root:
        configuration = CONFIGURATION + parent_toml(root.url)
        with Node(tmp_path / "site", configuration=configuration, workers=1) as site:
            churn, number, end = Churn(root, site), 0, time.monotonic() + MINUTES * 60
            churn.fill_the_parent()
            early = {}
            with ThreadPoolExecutor(CLIENTS + 1) as clients:
                while number < STEPS or time.monotonic() < end:
                    steps = [clients.submit(churn.step, number + n) for n in range(CLIENTS)]
                    number += CLIENTS
                    if number % KILLS == 0:
                        steps.append(clients.submit(churn.kill))
                    for step in steps:
                        step.result()
                    churn.look()
                    if number == STEPS // 2:
                        site.wait_ready()
                        early = footprint(site)
            site.wait_ready()
            late = footprint(site)
            for role, (memory, descriptors) in late.items():
                assert memory <= early[role][0] + GAIN_BYTES, (early, late)
                assert descriptors <= early[role][1] + GAIN_DESCRIPTORS, (early, late)
            churn.check()
            churn.look()
            assert site.stop() == 0
            evicted = [event for event in site.events() if event["event"] == "room made"]
            assert evicted, "the working set is three times the budget"
            print(f"{number} steps {dict(churn.seen)}, at most {churn.most / BUDGET:.1%} of the budget")
            print(f"bytes and descriptors of a keeper and a worker: {early} at first, {late} at last")
        assert dangling(site.data) == []
        assert fsck(site.data, (1, 1)).problems == []
        assert FormatReader(site.data).run() == []
        index = compact(site.data)
        print(f"index: {index.before} bytes, {index.after} of them live")
        assert index.before <= INDEX_TIMES * index.after + INDEX_SLACK_BYTES
