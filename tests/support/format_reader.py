"""Reads a store by docs/format.md alone, to see whether the document says what is on the disk.

Nothing of the store's own code is used, so a mistake there is not made here again.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import struct
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import lmdb
import msgspec
from blake3 import blake3

CHUNK, SEGMENT = 1 << 20, 60
JOURNALED = b"RLBCTHPDGONZVEp"
ALGORITHMS = {1: ("sha256", 32), 2: ("sha512", 64)}
JSON_KINDS = (
    *("connected-registry", "status", "scope-map", "token", "identity", "notices"),
    *("leases", "parents", "custody", "made", "sync", "collection", "scrub", "prefetch"),
)
MESSAGEPACK_KINDS = ("webhook", "notices-sent", "conflict")
NAME = re.compile(r"[0-9a-f]{64}(\.[0-9a-f]{32})?")
PART = re.compile(r"(sha256-[0-9a-f]{64}|sha512-[0-9a-f]{128})-[0-9a-f]{32}(\.chunks)?|put-.*")


class Wrong(Exception):
    """A record that is not as the document says."""


def need(condition: object, what: str) -> None:
    """Raise Wrong unless it holds."""
    if not condition:
        raise Wrong(what)


def seal(key: bytes, payload: bytes) -> bytes:
    """A value as the document describes it."""
    return b"\1" + payload + blake3(key + b"\1" + payload).digest(8)


def digest_at(raw: bytes, at: int) -> bytes:
    """The digest key that begins there."""
    need(at < len(raw) and raw[at] in ALGORITHMS, "no digest where one should be")
    found = raw[at : at + 1 + ALGORITHMS[raw[at]][1]]
    need(len(found) == 1 + ALGORITHMS[raw[at]][1], "a digest is cut short")
    return found


def only_digest(raw: bytes) -> bytes:
    """The digest key that is all of it."""
    found = digest_at(raw, 0)
    need(found == raw, "more than a digest")
    return found


def times(payload: bytes, count: int) -> tuple[float, ...]:
    """Little-endian doubles."""
    need(len(payload) >= 8 * count, "cut short")
    found = struct.unpack_from(f"<{count}d", payload)
    need(all(time == 0 or 1e-6 < time < 1e12 for time in found), f"times {found}")
    return found


class FormatReader:
    """`problems` after `run`: what is not as the document says. `bodies`: hash every file, too."""

    def __init__(self, root: Path, *, bodies: bool = True) -> None:
        self.root, self.bodies = root, bodies
        self.problems: list[str] = []
        self.counts: Counter[str] = Counter()
        self.rows: dict[str, dict[bytes, bytes]] = defaultdict(dict)

    def run(self) -> list[str]:
        """All of it."""
        identity = json.loads((self.root / "store.json").read_bytes())
        self.check("store.json", lambda: self._identity(identity))
        self._read_index()
        self.repositories = {blake3(name).digest(16) for name in self.rows["R"]}
        self.manifests = {key[:16] + key[17:] for key in self.rows["L"] if key[16:17] == b"m"}
        self.holding = {key[:16] + key[17:] for key in self.rows["L"] if key[16:17] in (b"m", b"d")}
        for table, rows in sorted(self.rows.items()):
            look = getattr(self, f"_look_{table}", self._look_elsewhere)
            for key, payload in rows.items():
                self.check(f"{table} {key.hex()[:120]}", partial(look, key, payload))
        for part in (
            self._lists,
            self._derived,
            self._graph,
            self._accounts,
            self._uses,
            self._events,
            self._counted,
            self._journal,
            self._files,
        ):
            self.check(part.__name__.strip("_"), part)
        self.check("identity", lambda: need(self.rows["S"][b""].hex() == self.uuid, "another store's index"))
        self.check("blobs", self._owner)
        return self.problems

    def check(self, what: str, look: Callable[[], None]) -> None:
        """Note what is wrong."""
        try:
            look()
        except (Wrong, msgspec.MsgspecError, UnicodeDecodeError, ValueError, KeyError, struct.error) as error:
            self.problems.append(f"{what}: {error!r}")

    def _identity(self, found: dict[str, Any]) -> None:
        self.uuid = found["uuid"].replace("-", "")
        need(found["format"] in (1, 2, 3, 4, 5) and found["engine"] == "lmdb-0.9", f"{found}")

    def _read_index(self) -> None:
        environment = lmdb.open(str(self.root / "index"), readonly=True, lock=os.access(self.root, os.W_OK))
        try:
            with environment.begin() as transaction, transaction.cursor() as cursor:
                for key, value in cursor:
                    self.check(f"record {key.hex()[:120]}", partial(self._sealed, key, value))
        finally:
            environment.close()

    def _sealed(self, key: bytes, value: bytes) -> None:
        table = key[:1].decode()
        need(table in "SJRLBCUXTHPDGFKAONZVMQEWYIceaugpn", "no such table")
        need(len(value) >= 9 and value == seal(key, value[1:-8]), "the seal does not fit")
        self.rows[table][key[1:]] = value[1:-8]
        self.counts[f"{table} records"] += 1

    # --- one record

    def _look_elsewhere(self, key: bytes, payload: bytes) -> None:
        """Of a table that `run` looks at as a whole."""

    def _look_R(self, key: bytes, payload: bytes) -> None:
        key.decode()
        need(1 <= len(key) <= 480 and len(payload) == 8, "lengths")
        times(payload, 1)

    def _look_L(self, key: bytes, payload: bytes) -> None:
        need(key[:16] in self.repositories, "its repository has no name")
        need(key[16:17] in (b"b", b"m", b"d"), "its kind")
        need(only_digest(key[17:]) in self.rows["B"], "its bytes are not held")
        times(payload, 1)
        payload[8:].decode()
        need(key[16:17] != b"b" or len(payload) == 8, "a blob with a media type")
        need(key[16:17] == b"d" or b"\0" not in payload[8:], "tags of what is not deleted")
        need(
            key[16:17] != b"d" or key[:16] + key[17:] not in self.manifests, "deleted, and a manifest as well"
        )

    def _look_B(self, key: bytes, payload: bytes) -> None:
        only_digest(key)
        flags, size = struct.unpack_from("<BQ", payload)
        boot, body = payload[9:25], payload[25:]
        need(flags < 8 and len(boot) == 16, "flags or boot id")
        if flags & 2:
            need(len(body) == size, "its length")
            need(hashlib.new(ALGORITHMS[key[0]][0], body).digest() == key[1:], "its bytes are others")
            return
        need(not body, "bytes of a blob in a file")
        need(any(boot) == (key in self.rows["U"]), "boot id and U record do not go together")
        marks = [chunk for chunk in self.rows["X"] if chunk[:-4] == key]
        need(bool(flags & 4) == bool(marks), "the flag and the X records do not go together")
        self._check_file(key, size, known_bad={int.from_bytes(mark[-4:], "big") for mark in marks})

    def _check_file(self, key: bytes, size: int, known_bad: set[int]) -> None:
        count = -(-size // CHUNK)
        segments = [self.rows["C"].get(key + n.to_bytes(4, "big"), b"") for n in range(-(-count // SEGMENT))]
        need(all(len(part) == 32 * SEGMENT for part in segments[:-1]), "a short segment of chunks")
        table = b"".join(segments)
        need(len(table) == 32 * count, "its table of chunks")
        path = self.path_of(key)
        found = path.lstat() if path.is_symlink() or path.exists() else None
        if found is None or not stat.S_ISREG(found.st_mode) or found.st_size != size:
            need(len(known_bad) == count, "its file is not there, or not as long, and that is not recorded")
            return
        if self.bodies:
            self._check_bytes(path, key, table, known_bad)

    def _check_bytes(self, path: Path, key: bytes, table: bytes, known_bad: set[int]) -> None:
        whole = hashlib.new(ALGORITHMS[key[0]][0])
        with path.open("rb") as file:
            for number, chunk in enumerate(iter(lambda: file.read(CHUNK), b"")):
                whole.update(chunk)
                fits = blake3(chunk).digest() == table[32 * number : 32 * number + 32]
                need(fits or number in known_bad, f"chunk {number} is damaged")
        need(known_bad or whole.digest() == key[1:], "its bytes are others")
        self.counts["files hashed"] += 1

    def path_of(self, key: bytes) -> Path:
        """Where a blob's file lies."""
        name = key[1:].hex()
        return self.root / "blobs" / ALGORITHMS[key[0]][0] / name[:2] / name

    def _look_C(self, key: bytes, payload: bytes) -> None:
        flags, size = struct.unpack_from("<BQ", self.rows["B"][key[:-4]])
        need(not flags & 2 and int.from_bytes(key[-4:], "big") * SEGMENT * CHUNK < size, "of no file")
        need(payload and len(payload) % 32 == 0, "its length")

    def _look_U(self, key: bytes, payload: bytes) -> None:
        need(not payload and key in self.rows["B"], "of no blob")

    def _look_X(self, key: bytes, payload: bytes) -> None:
        size = struct.unpack_from("<BQ", self.rows["B"][key[:-4]])[1]
        need(not payload and int.from_bytes(key[-4:], "big") * CHUNK < size, "of no chunk")

    def _look_T(self, key: bytes, payload: bytes) -> None:
        need(0 < len(key[16:].decode()) <= 128, "its name")
        times(payload, 2)
        need(payload[16:17] in (b"p", b"l"), "its origin")
        digest = only_digest(payload[17:])
        need(key[:16] + digest in self.manifests, "its manifest is not held there")
        moves = self.rows["H"][key]
        need(moves[10 : 10 + moves[9]] == digest, "its last move is not to where it points")

    def _look_H(self, key: bytes, payload: bytes) -> None:
        at = moves = 0
        while at < len(payload):
            times(payload[at:], 1)
            need(payload[at + 8 : at + 9] in (b"p", b"l"), "an origin")
            length = payload[at + 9]
            need(length == 0 or only_digest(payload[at + 10 : at + 10 + length]), "a digest")
            at, moves = at + 10 + length, moves + 1
        need(0 < moves <= 16, f"{moves} moves")

    def _look_D(self, key: bytes, payload: bytes) -> None:
        subject = digest_at(key, 16)
        referrer = only_digest(key[16 + len(subject) :])
        need(key[:16] + referrer in self.manifests, "the referrer is not held there")
        need(self._descriptor(payload) == self.spelled(referrer), "a descriptor of another")

    def _descriptor(self, raw: bytes) -> str:
        media_type, digest, size, artifact_type, annotations = msgspec.msgpack.decode(raw)
        need(isinstance(media_type, str) and isinstance(artifact_type, str) and size >= 0, "a descriptor")
        need(annotations is None or isinstance(annotations, dict), "annotations")
        return str(digest)

    def spelled(self, key: bytes) -> str:
        """A digest as clients write it."""
        return f"{ALGORITHMS[key[0]][0]}:{key[1:].hex()}"

    def _look_F(self, key: bytes, payload: bytes) -> None:
        name, size, etag, extents, whole, updated = msgspec.msgpack.decode(payload)
        digest = digest_at(key, 0)
        need(blake3(name.encode()).digest(16) == key[len(digest) :], "another repository's name")
        need(isinstance(etag, str) and isinstance(whole, bool) and updated >= 0, "its fields")
        bounds = [place for extent in extents for place in extent]
        need(bounds == sorted(bounds) and all(0 <= place <= size for place in bounds), "its extents")
        part = self.root / "fills" / f"{self.spelled(digest).replace(':', '-')}-{key[len(digest) :].hex()}"
        need(part.is_file() and part.stat().st_size == size, "its part is not there")

    def _look_K(self, key: bytes, payload: bytes) -> None:
        need(key[:-4] in self.rows["F"], "of no fill")
        places = [payload[at] for at in range(0, len(payload), 33)]
        need(len(payload) % 33 == 0 and places == sorted(set(places)) and places[-1] < SEGMENT, "its places")

    def _look_A(self, key: bytes, payload: bytes) -> None:
        only_digest(key[16:])
        times(payload, 1)

    def _target(self, rest: bytes) -> None:
        noun, name = rest[:1], rest[1:]
        if noun == b"r":
            need(not name, "a name of a repository")
        elif noun == b"t":
            need(0 < len(name.decode()) <= 128, "a tag's name")
        else:
            need(noun in (b"m", b"b") and only_digest(name), "its noun")

    def _look_O(self, key: bytes, payload: bytes) -> None:
        self._target(key[16:])
        times(payload, 1)
        need(len(payload) == 9 and payload[8] < 16, "what it allows")

    def _look_N(self, key: bytes, payload: bytes) -> None:
        times(payload, 1)
        need(blake3(payload[8:]).digest(16) == key[:16], "another repository's name")
        need(key[:16] + only_digest(key[16:]) in self.manifests, "of no manifest")

    def _look_n(self, key: bytes, payload: bytes) -> None:
        only_digest(key[16:])
        need(len(payload) == 16, "its length")
        need(any(key[:16] + kind + key[16:] in self.rows["L"] for kind in (b"b", b"m")), "of no link")

    def _look_Z(self, key: bytes, payload: bytes) -> None:
        self._target(key[16:])
        times(payload, 1)

    def _look_V(self, key: bytes, payload: bytes) -> None:
        if key:
            last = int.from_bytes(self.rows["V"][b""], "little")
            need(len(key) == 8 and int.from_bytes(key, "big") <= last, "a number that was not given")

    def _look_Q(self, key: bytes, payload: bytes) -> None:
        times(payload, 1)
        need(only_digest(key) in self.rows["B"], "of no blob")
        need(not any(link[17:] == key for link in self.rows["L"]), "of bytes that are linked")

    def _look_E(self, key: bytes, payload: bytes) -> None:
        kind, _, name = key.partition(b"\0")
        if not name:
            need(len(payload) == 8, "its length")
            return
        shown, revision, body = msgspec.msgpack.decode(payload)
        need(shown.lower().encode() == name and revision > 0, "its name or revision")
        need(1 <= len(kind) <= 32 and len(name) <= 255, "lengths")
        if kind.decode() in JSON_KINDS:
            json.loads(body)
        elif kind.decode() in MESSAGEPACK_KINDS:
            msgspec.msgpack.decode(body)
        else:
            need(kind == b"link" and body == b"", "of a kind that the document does not have")

    def _look_g(self, key: bytes, payload: bytes) -> None:
        need(key[16:] and only_digest(key[16:]), "its digest")
        times(payload, 1)
        need(len(payload) == 8, "its length")

    def _look_p(self, key: bytes, payload: bytes) -> None:
        need(key[:16] in self.repositories, "its repository has no name")
        need(key[16:17] in b"tm", "its noun")
        self._target(key[16:])
        pinned, until, referrers = struct.unpack("<ddB", payload)
        need(pinned < until and referrers in (0, 1), "until when it holds")

    # --- what belongs together

    def _lists(self) -> None:
        orders = (
            ("P", 31, bytes.decode),
            ("G", 30, lambda item: self._descriptor(item) or msgspec.msgpack.decode(item)[1]),
        )
        for table, bit, place in orders:
            lists: dict[bytes, list[bytes]] = defaultdict(list)
            for key, payload in sorted(self.rows[table].items()):
                need(
                    int.from_bytes(key[-4:], "big") == len(lists[key[:-4]]), f"{table}: a segment is missing"
                )
                lists[key[:-4]].append(payload)
            for key, parts in lists.items():
                count = struct.unpack_from("<dI", parts[0])[1]
                need(count & ~(3 << 30) == len(parts), f"{table} {key.hex()}: segments")
                places = [place(item) for item in self._items(parts)]
                rises = all(low < high for low, high in pairwise(places))
                need(rises or not count >> bit & 1, f"{table} {key.hex()}: its items do not rise")

    def _items(self, parts: list[bytes]) -> Iterator[bytes]:
        for number, part in enumerate(parts):
            at = 12 if number == 0 else 0
            while at < len(part):
                end = at + 4 + int.from_bytes(part[at : at + 4], "little")
                need(end <= len(part), "an item is cut short")
                yield part[at + 4 : end]
                at = end

    def _derived(self) -> None:
        holders = {key[17:] + key[16:17] + key[:16] for key in self.rows["L"]}
        tagged = {key[:16] + payload[17:] + key[16:] for key, payload in self.rows["T"].items()}
        subjects = set()
        for key in self.rows["D"]:
            subject = digest_at(key, 16)
            subjects.add(key[:16] + key[16 + len(subject) :] + subject)
        for table, wanted in (("W", holders), ("Y", tagged), ("I", subjects)):
            need(set(self.rows[table]) == wanted, f"{table} is not what it is derived from")
            need(not any(self.rows[table].values()), f"{table} has values")

    def _children(self, manifest: bytes) -> dict[bytes, tuple[bytes, int]]:
        """Digest key -> (kind, size) of what a manifest names."""
        parts = [payload for key, payload in sorted(self.rows["c"].items()) if key[:-4] == manifest]
        need(parts, f"the children of {manifest.hex()} are not noted")
        need(struct.unpack_from("<I", parts[0])[0] == len(parts), "a segment of children is missing")
        raw, at, children = parts[0][4:] + b"".join(parts[1:]), 0, {}
        while at < len(raw):
            kind, size = struct.unpack_from("<cQ", raw, at)
            digest = digest_at(raw, at + 9)
            need(kind in (b"b", b"m") and digest not in children, "a child")
            children[digest] = (kind, size)
            at += 9 + len(digest)
        return children

    def _named(self, manifest: bytes) -> dict[bytes, tuple[bytes, int]]:
        """The same out of its body."""
        row = self.rows["B"][manifest]
        body = row[25:] if row[0] & 2 else self.path_of(manifest).read_bytes()
        named: dict[bytes, tuple[bytes, int]] = {}
        try:
            read = json.loads(body)
            for field, kind in (("manifests", b"m"), ("config", b"b"), ("layers", b"b"), ("blobs", b"b")):
                rows = read.get(field) or []
                for descriptor in [rows] if isinstance(rows, dict) else rows:
                    named.setdefault(self._key(descriptor["digest"]), (kind, descriptor.get("size", 0)))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            spelled = re.findall(rb"sha256:[0-9a-f]{64}(?![0-9a-f])|sha512:[0-9a-f]{128}(?![0-9a-f])", body)
            named = {self._key(digest.decode()): (b"b", 0) for digest in spelled}
        return named

    def _key(self, spelled: str) -> bytes:
        """The digest key of a digest as clients write it."""
        algorithm, _, digest = spelled.partition(":")
        return {"sha256": b"\1", "sha512": b"\2"}[algorithm] + bytes.fromhex(digest)

    def _graph(self) -> None:
        linked = {key[16:] for key in self.holding}
        need({key[:-4] for key in self.rows["c"]} == linked, "children are not those of the linked manifests")
        children = {manifest: self._children(manifest) for manifest in linked}
        for manifest in linked:
            need(children[manifest] == self._named(manifest), f"children of {manifest.hex()}")
        edges = {child + link for link in self.holding for child in children[link[16:]]}
        need(set(self.rows["e"]) == edges and not any(self.rows["e"].values()), "the edges")
        links = {key[:16] + key[17:] for key in self.rows["L"]}
        tagged = {key[:16] + payload[17:] for key, payload in self.rows["T"].items()}
        named = {edge[len(digest_at(edge, 0)) :][:16] + digest_at(edge, 0) for edge in edges}
        need(set(self.rows["g"]) == links - tagged - named, "what is loose")

    def _accounts(self) -> None:
        holders: dict[bytes, set[bytes]] = defaultdict(set)
        for key in self.rows["L"]:
            holders[key[17:]].add(key[:16])
        accounts: dict[bytes, list[int]] = defaultdict(lambda: [0] * 5)
        for key in self.rows["L"]:
            accounts[key[:16]][0 if key[16:17] == b"m" else 1] += key[16:17] != b"d"
        store = [0] * 6
        for digest, row in self.rows["B"].items():
            flags, size = struct.unpack_from("<BQ", row)
            of_files = not flags & 2
            store[0 if of_files else 4] += 1
            store[1 if of_files else 5] += size
            for repository in holders[digest]:
                accounts[repository][2 if of_files else 4] += size
                accounts[repository][3] += size if of_files and len(holders[digest]) == 1 else 0
            if of_files and holders[digest]:
                store[2 if len(holders[digest]) == 1 else 3] += size
        counted = {repository: struct.pack("<5Q", *account) for repository, account in accounts.items()}
        counted |= {b"": struct.pack("<6Q", *store)} if any(store) else {}
        need(self.rows["a"] == counted, "the accounts")

    def _uses(self) -> None:
        hours: dict[bytes, int] = {}
        for key, payload in self.rows["L"].items():
            place = key[:16] + key[17:]
            seen = self.rows["A"].get(place)
            need(len(seen or b"") in (0, 8, 12), f"access {place!r}")
            whens = [struct.unpack_from("<d", row)[0] for row in (payload, seen) if row]
            hours[place] = max(hours.get(place, 0), *(int(when // 3600) for when in whens))
        rows = {hour.to_bytes(4, "big") + place for place, hour in hours.items()}
        need(set(self.rows["u"]) == rows and not any(self.rows["u"].values()), "the order of use")

    def _events(self) -> None:
        head = self.rows["M"].get(b"")
        numbers = [int.from_bytes(key, "big") for key in self.rows["M"] if key]
        if head is None:
            need(not numbers, "events without a head")
            return
        log, last, given, floor, count = msgspec.msgpack.decode(head)
        kept = [number for number in numbers if number > floor]
        if log:
            need((len(kept), max(kept, default=floor)) == (count, last), f"head {head.hex()}")
        need(given >= last and len(log) in (0, 16), "the head")
        for key, payload in self.rows["M"].items():
            event = msgspec.msgpack.decode(payload) if key else [*["push", "tag", "a"], *[0] * 12]
            verbs = ("push", "delete", "conflict")
            need(13 <= len(event) <= 17 and event[0] in verbs and event[12] == 0, f"event {event}")
            need(event[1] in ("tag", "manifest", "repository"), f"event {event}") if key else None

    def _counted(self) -> None:
        found = Counter(key.partition(b"\0")[0] for key in self.rows["E"] if key.partition(b"\0")[2])
        said = {
            key[:-1]: int.from_bytes(payload, "little")
            for key, payload in self.rows["E"].items()
            if key.endswith(b"\0")
        }
        need({kind: number for kind, number in said.items() if number} == dict(found), f"{said} for {found}")

    # --- the journal and the files

    def _journal(self) -> None:
        generation, length, synced = struct.unpack_from("<QQQ", self.rows["J"][b""])
        need(len(self.rows["J"][b""]) == 40 and synced <= length, "the J record")
        data = (self.root / "journal" / "log").read_bytes()
        head = b"HFJOURN1" + self.rows["S"][b""] + generation.to_bytes(8, "little")
        need(data[:40] == head + blake3(head).digest(8), "its head")
        at = 40
        state: dict[bytes, bytes] = {}
        while at < length:
            at = self._frame(data, at, state)
        need(at == length <= len(data), f"frames end at {at}, recorded are {length} of {len(data)}")
        for table in JOURNALED.decode():
            raw = table.encode()
            held = {key: self._lasting(raw + key, payload) for key, payload in self.rows[table].items()}
            told = {key[1:]: self._lasting(key, state[key]) for key in state if key[:1] == raw}
            differ = {key for key in {*held, *told} if held.get(key) != told.get(key)}
            need(not differ, f"table {table}: {len(differ)} differ, such as {sorted(differ)[:1]}")

    def _frame(self, data: bytes, at: int, state: dict[bytes, bytes]) -> int:
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        end = at + 8 + size
        need(data[at : at + 4] == b"\xf5\x48\x46\x6a" and end + 8 <= len(data), f"no frame at {at}")
        need(data[end : end + 8] == blake3(data[at:end]).digest(8), f"the frame at {at} is damaged")
        at += 8
        while at < end:
            key_bytes, value_bytes = struct.unpack_from("<HI", data, at)
            key, at = data[at + 6 : at + 6 + key_bytes], at + 6 + key_bytes
            in_frames = key[:1] in JOURNALED + b"n" or (key[:1] == b"M" and len(key) == 9)
            need(in_frames, f"the journal has {key[:1]!r}")
            if value_bytes == 0xFFFFFFFF:
                state.pop(key, None)
                continue
            value, at = data[at : at + value_bytes], at + value_bytes
            need(value == seal(key, value[1:-8]), f"a seal in the frame before {end}")
            state[key] = value[1:-8]
        self.counts["frames"] += 1
        return end + 8

    def _lasting(self, key: bytes, payload: bytes) -> bytes:
        """What of a record is never changed in the index alone."""
        if key[:1] == b"T" or (key[:1] in b"PG" and not any(key[-4:])):
            return payload[8:]
        if key[:1] == b"B":
            return bytes([payload[0] & 3]) + payload[1:9] + payload[25:]
        return payload

    def _owner(self) -> None:
        note = self.root / "blobs" / "uuid"
        need(
            not note.exists() or note.read_text().replace("-", "") == f"{self.uuid}\n",
            "another store's blobs",
        )

    def _files(self) -> None:
        for algorithm, length in ALGORITHMS.values():
            folders = sorted(os.listdir(self.root / "blobs" / algorithm))
            need(folders == [f"{n:02x}" for n in range(256)], f"the directories of {algorithm}")
            for path in (self.root / "blobs" / algorithm).glob("*/*"):
                key = bytes([1 if length == 32 else 2]) + bytes.fromhex(path.name)
                need(path == self.path_of(key), f"{path} lies in a wrong place")
                self.counts["strays"] += key not in self.rows["B"]
        for name in os.listdir(self.root / "fills"):
            need(PART.fullmatch(name), f"the file {name} among the fills")
        for name in os.listdir(self.root / "uploads"):
            need(NAME.fullmatch(name), f"the upload {name}")
