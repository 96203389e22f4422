"""Clients that push, delete and pull at once, each in a repository of its own, and write down what they were told."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Event, Thread

from holdfast.testing.random_content import digest_of
from holdfast.testing.sample import OCI_CONFIG, OCI_LAYER, OCI_MANIFEST
from support.transfer import target_of
from torture.client import GONE, Connection, Content, Unexpected, Uploads, fetched
from torture.ledger import ABSENT, Key, Ledger, State

SIZES = (2, 300, 16_384, 16_385, 70_000, 400_000, 2_500_000)
#: so much that the kernel writes the first of it before the last has come
LARGE_SIZES = (9_500_000, 12_000_000)
#: what the manifests of the longer kind carry along; they do not fit into the index
PADDING = "x" * 20_000
CLIENTS = 4
TAGS = tuple(f"moving-{n}" for n in range(3))
COLD = "cold/blobs"


@dataclass
class World:
    """What clients and checks have in common."""

    ledger: Ledger = field(default_factory=Ledger)
    uploads: Uploads = field(default_factory=Uploads)
    #: content that several repositories push and the parent has too
    shared: list[Content] = field(default_factory=list)
    #: at the parent and not yet pulled: repository, "manifests" or "blobs", digest
    cold: list[tuple[str, str, str]] = field(default_factory=list)
    #: digest to media type and body of every manifest pushed
    manifests: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    #: how upload sessions were found that a fault cut off, and pulls that were put off before a fault
    seen: Counter[str] = field(default_factory=Counter)
    #: set just before the fault: from then on any answer but an acknowledgement means nothing
    faulted: Event = field(default_factory=Event)
    #: has a collection and a scrub begin
    upkeep: Callable[[], None] = lambda: None


class Pusher:
    """What one client does. Each method is one operation; it raises GONE when the node goes, and Unexpected."""

    def __init__(self, world: World, http: Connection, repository: str, chance: random.Random) -> None:
        self.world, self.http, self.repository, self.chance = world, http, repository, chance

    def _key(self, kind: str, name: str) -> Key:
        return kind, self.repository, name

    def _content(self) -> Content:
        if self.world.shared and self.chance.random() < 0.25:
            return self.chance.choice(self.world.shared)
        return Content(self.chance.choice(SIZES), f"{self.chance.getrandbits(64):x}")

    def _held(self, kind: str) -> list[str]:
        return sorted(self.world.ledger.certain(kind, self.repository))

    def push_whole(self) -> None:
        """A blob in one request."""
        self.push(self._content())

    def push(self, content: Content) -> None:
        """This blob in one request."""
        body = content.bytes()
        target = f"/v2/{self.repository}/blobs/uploads/?digest={content.digest}"
        with self.world.ledger.changing((self._key("blob", content.digest), str(content.size))) as change:
            self.http.expect(201, "POST", target, body, {"Content-Type": "application/octet-stream"})
            change.acknowledged = True

    def push_in_two(self) -> None:
        """A blob by POST and PUT."""
        self.push_by_session(self._content(), [], finish=True)

    def push_in_chunks(self) -> None:
        """A blob by PATCHes; some sessions are left open."""
        content = self._content()
        ends = sorted({self.chance.randint(2, content.size) for _ in range(self.chance.randint(1, 4))})
        self.push_by_session(content, ends, finish=self.chance.random() > 0.15)

    def push_large(self) -> None:
        """The same with much to push; half of the sessions are left open."""
        content = Content(self.chance.choice(LARGE_SIZES), f"{self.chance.getrandbits(64):x}")
        ends = sorted({self.chance.randint(2, content.size) for _ in range(self.chance.randint(2, 6))})
        self.push_by_session(content, ends, finish=self.chance.random() > 0.5)

    def mount(self) -> None:
        """A blob of another client, who may delete it just now: then there is a session instead."""
        other = f"push/{self.chance.randrange(CLIENTS)}"
        sizes = self.world.ledger.certain("blob", other)
        if other == self.repository or not sizes:
            return
        digest = self.chance.choice(sorted(sizes))
        target = f"/v2/{self.repository}/blobs/uploads/?mount={digest}&from={other}"
        with self.world.ledger.changing((self._key("blob", digest), sizes[digest])) as change:
            answer = self.http.ask("POST", target, b"")
            if answer.status == 202:
                self.http.expect(204, "DELETE", target_of(answer.headers["location"]))
            elif answer.status != 201:
                raise Unexpected(f"POST {target}: {answer.status}, {answer.body[:300]!r}")
            change.acknowledged = answer.status == 201

    def push_by_session(self, content: Content, ends: list[int], *, finish: bool) -> None:
        """This blob by PATCHes that end there, and a PUT with the rest."""
        with self.world.ledger.changing((self._key("blob", content.digest), str(content.size))) as change:
            upload = self.world.uploads.begin(self.http, self.repository, content)
            for end in ends:
                self.world.uploads.append(self.http, upload, end, streamed=self.chance.random() < 0.3)
            if finish:
                self.world.uploads.finish(self.http, upload)
                change.acknowledged = True

    def push_manifest(self) -> None:
        """An image of blobs that are held, under a digest, a tag, or a digest with tags."""
        media_type, body = self._image()
        digest, tags = digest_of(body), self.chance.sample(TAGS, self.chance.choice((0, 0, 1, 2)))
        self.world.manifests[digest] = media_type, body
        subject = json.loads(body).get("subject")
        changes = [(self._key("manifest", digest), media_type)]
        changes += [(self._key("tag", tag), digest) for tag in tags]
        if subject:
            changes.append((self._key("referrer", f"{subject['digest']}@{digest}"), media_type))
        self.put(digest if len(tags) != 1 else tags[0], tags if len(tags) > 1 else [], digest, changes)

    def move_tag(self) -> None:
        """A tag points at another manifest that is held."""
        manifests = self._held("manifest")
        if manifests:
            digest, tag = self.chance.choice(manifests), self.chance.choice(TAGS)
            self.put(tag, [], digest, [(self._key("tag", tag), digest)])

    def put(self, reference: str, tags: list[str], digest: str, changes: list[tuple[Key, State]]) -> None:
        """A manifest that was written down, under a reference and more tags; what that changes."""
        media_type, body = self.world.manifests[digest]
        query = "?" + "&".join(f"tag={tag}" for tag in tags) if tags else ""
        target = f"/v2/{self.repository}/manifests/{reference}{query}"
        with self.world.ledger.changing(*changes) as change:
            self.http.expect(201, "PUT", target, body, {"Content-Type": media_type})
            change.acknowledged = True

    def _image(self) -> tuple[str, bytes]:
        sizes = self.world.ledger.certain("blob", self.repository)
        parts = self.chance.sample(sorted(sizes), min(len(sizes), 3))
        described = [{"mediaType": OCI_LAYER, "digest": d, "size": int(sizes[d])} for d in parts]
        if not described:
            self.push_whole()
            return self._image()
        document: dict[str, object] = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": {**described[0], "mediaType": OCI_CONFIG},
            "layers": described[1:],
            "annotations": {"n": f"{self.chance.getrandbits(64):x}"},
        }
        if self.chance.random() < 0.3:
            document["annotations"] = {"n": f"{self.chance.getrandbits(64):x}", "padding": PADDING}
        held = self._held("manifest")
        if held and self.chance.random() < 0.25:
            subject = self.chance.choice(held)
            size = len(self.world.manifests[subject][1])
            document["subject"] = {"mediaType": OCI_MANIFEST, "digest": subject, "size": size}
        return OCI_MANIFEST, json.dumps(document).encode()

    def delete_tag(self) -> None:
        """A tag goes."""
        if tags := self._held("tag"):
            self.delete("manifests", tag := self.chance.choice(tags), [(self._key("tag", tag), ABSENT)])

    def delete_manifest(self) -> None:
        """A manifest goes, with the tags that point at it and its place among the referrers."""
        if not (manifests := self._held("manifest")):
            return
        digest, ledger = self.chance.choice(manifests), self.world.ledger
        changes = [(self._key("manifest", digest), ABSENT)]
        for tag, named in ledger.certain("tag", self.repository).items():
            if named == digest:
                changes.append((self._key("tag", tag), ABSENT))
        for name in ledger.certain("referrer", self.repository):
            if name.endswith(f"@{digest}"):
                changes.append((self._key("referrer", name), ABSENT))
        # a move that was refused may have been made, and then the tag stays
        ledger.may_be(ledger.uncertain("tag", self.repository, digest), ABSENT)
        self.delete("manifests", digest, changes)

    def delete_blob(self) -> None:
        """A blob goes that no manifest needs: one that does could not be pushed again."""
        needed = "".join(self.world.manifests[digest][1].decode() for digest in self._held("manifest"))
        if blobs := [digest for digest in self._held("blob") if digest not in needed]:
            self.delete("blobs", digest := self.chance.choice(blobs), [(self._key("blob", digest), ABSENT)])

    def delete(self, noun: str, name: str, changes: list[tuple[Key, State]]) -> None:
        """Something goes, and that changes this."""
        with self.world.ledger.changing(*changes) as change:
            self.http.expect(202, "DELETE", f"/v2/{self.repository}/{noun}/{name}")
            change.acknowledged = True

    def pull(self) -> None:
        """Something that only the parent has, whole or from the middle on."""
        if not self.world.cold:
            return
        repository, noun, digest = self.chance.choice(self.world.cold)
        self.world.ledger.may_be([("cached", repository, f"{noun}/{digest}")], noun)
        span = {"Range": "bytes=1000-"} if noun == "blobs" and self.chance.random() < 0.3 else {}
        answer = self.http.ask("GET", f"/v2/{repository}/{noun}/{digest}", None, span)
        if answer.status == 503 and not self.world.faulted.is_set():
            self.world.seen["pulls put off"] += 1
        elif answer.status != (206 if span else 200) or not (span or fetched(answer, digest)):
            raise Unexpected(f"GET {repository} {noun} {digest}: {answer.status}, {len(answer.body)} bytes")

    def upkeep(self) -> None:
        """A collection and a scrub, beside everything else."""
        self.world.upkeep()
        self.world.seen["upkeep ordered"] += 1


#: operations by how often they are drawn
Work = dict[str, int]
MIXED: Work = {
    "push_whole": 5,
    "push_in_two": 3,
    "push_in_chunks": 5,
    "push_large": 1,
    "mount": 3,
    "push_manifest": 6,
    "move_tag": 4,
    "delete_tag": 1,
    "delete_manifest": 1,
    "delete_blob": 1,
    "pull": 6,
    "upkeep": 1,
}


class Load:
    """All clients, until the node is gone; or, with `over`, until that is set: they go on over what they are refused
    after the fault."""

    def __init__(
        self, world: World, url: str, work: Work, chance: random.Random, over: Event | None = None
    ) -> None:
        self._world, self._url, self._names, self._weights = world, url, list(work), list(work.values())
        self._over = over
        seeds = [chance.getrandbits(64) for _ in range(CLIENTS)]
        self._threads = [Thread(target=self._run, args=(n, seed)) for n, seed in enumerate(seeds)]
        for thread in self._threads:
            thread.start()

    def _run(self, number: int, seed: int) -> None:
        chance, http = random.Random(seed), Connection(self._url)
        pusher = Pusher(self._world, http, f"push/{number}", chance)
        try:
            while not (self._over or self._world.faulted).is_set():
                self._step(pusher, chance)
        except (*GONE, Unexpected) as error:
            if not self._world.faulted.is_set():
                self._world.ledger.complain(f"under load: {error!r}")
        finally:
            http.close()

    def _step(self, pusher: Pusher, chance: random.Random) -> None:
        try:
            getattr(pusher, chance.choices(self._names, self._weights)[0])()
        except (*GONE, Unexpected):
            if self._over is None or not self._world.faulted.is_set():
                raise
            self._world.seen["refused while full"] += 1
            pusher.http.close()

    def working(self) -> bool:
        """Whether all clients are at work."""
        return all(thread.is_alive() for thread in self._threads)

    def join(self) -> None:
        """Wait until all have noticed."""
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive(), "a client hangs"
