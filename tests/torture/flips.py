"""One flipped bit, again and again: in a blob's file, in the index, in the journal, with a parent and without.

Each time a copy of one store is hit and opened in a process of its own, because a damaged index may abort it. Then:
nothing that it gives is wrong; what it does not give is named by fsck, by the refusal, or by the end of its process;
what a parent has is right again once it was fetched; a rebuild brings back all but a blob whose only file was hit.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from holdfast_core import CHUNK_BYTES, Digest, Lock, LockTarget, Store, fsck, rebuild
from holdfast_core.errors import ContentLocked, Damaged, NotHeld, StoreError, StoreRefused
from support.format_reader import FormatReader
from support.stores import (
    MEDIA,
    flip_bit,
    hashed,
    push,
    push_file,
    put_file,
    put_manifest,
    some_bytes,
)

PLACES = ("blobs", "index", "journal")
OWNED, CACHED = "owned", "cached"
#: in one file of several chunks, in files of one, in the index
SIZES = (1_300_000, 70_000, 20_000, 9_000, 300)
IMAGES = 30
WRONG, MISSING, RIGHT = "wrong", "missing", "right"


@dataclass
class Found:
    """What came of one flip. `losses` are sentences; none is how it must be."""

    seen: Counter[str] = field(default_factory=Counter)
    losses: list[str] = field(default_factory=list)


def body(repository: str, number: int) -> bytes:
    """Of a blob or, from 100 on, of a manifest."""
    size = SIZES[number] if number < 100 else 200 + 40 * (number % 50)
    return b"%s %d " % (repository.encode(), number) + some_bytes(size, number)


def make(root: Path) -> None:
    """The store that is hit: the same in both repositories, but that a parent has the second. Some was deleted."""
    store = Store.create_or_open(root, write=True)
    for n in range(len(SIZES)):
        push_file(store, OWNED, body(OWNED, n))
        put_file(store, CACHED, body(CACHED, n))
    for n in range(100, 100 + IMAGES):
        push(store, OWNED, body(OWNED, n), f"t{n}", subject=hashed(body(OWNED, 0))[0] if n % 5 == 0 else None)
        digest = put_manifest(store, CACHED, body(CACHED, n))
        store.references.put_tag(CACHED, f"t{n}", digest, now=1.0).result()
        if n % 3 == 0:
            store.references.delete_manifest(OWNED, Digest.of(body(OWNED, n)), now=2.0).result()
    store.references.set_lock(OWNED, LockTarget("tag", "t100"), Lock(delete=False), now=3.0).result()
    store.upkeep.sync_cached().result()
    store.close()


def strike(root: Path, place: str, chance: random.Random) -> Path:
    """Flip one bit; the file that it was in."""
    path = {
        "blobs": lambda: chance.choice(sorted(p for p in (root / "blobs").glob("*/*/*") if p.is_file())),
        "index": lambda: root / "index" / "data.mdb",
        "journal": lambda: root / "journal" / "log",
    }[place]()
    flip_bit(path, chance.randrange(path.stat().st_size), chance.randrange(8))
    return path


# --- looking -----------------------------------------------------------------------------------------------


def blob(store: Store, repository: str, number: int) -> str:
    """Every byte, by the checked way."""
    wanted = body(repository, number)
    held = store.blobs.get(repository, hashed(wanted)[0])
    if held is None:
        return MISSING
    with store.blobs.open(held) as reader:
        got = b"".join(reader.read(at, CHUNK_BYTES) for at in range(0, held.size, CHUNK_BYTES))
    return RIGHT if got == wanted else WRONG


def manifest(store: Store, repository: str, number: int) -> str:
    """Its bytes and its type; of one that was deleted, that it is not there."""
    wanted = body(repository, number)
    held = store.references.manifest(repository, Digest.of(wanted))
    if held is None:
        return RIGHT if deleted(repository, number) else MISSING
    fits = held.body == wanted and held.media_type == MEDIA and not deleted(repository, number)
    return RIGHT if fits else WRONG


def tag(store: Store, repository: str, number: int) -> str:
    """Where it points."""
    held = store.references.tag(repository, f"t{number}")
    if held is None:
        return RIGHT if deleted(repository, number) else MISSING
    fits = held.digest == Digest.of(body(repository, number)) and not deleted(repository, number)
    return RIGHT if fits else WRONG


def lock(store: Store, repository: str, _: int) -> str:
    """That the tag may not be deleted: one that cannot be read forbids, too."""
    held = store.references.lock(repository, LockTarget("tag", "t100"))
    return MISSING if held.delete else RIGHT


def deleted(repository: str, number: int) -> bool:
    """Whether `make` deleted it."""
    return repository == OWNED and number >= 100 and number % 3 == 0


Look = tuple[Callable[[Store, str, int], str], str, int]
LOOKS: tuple[Look, ...] = (
    *((blob, repository, n) for repository in (OWNED, CACHED) for n in range(len(SIZES))),
    *((manifest, repository, n) for repository in (OWNED, CACHED) for n in range(100, 100 + IMAGES)),
    *((tag, repository, n) for repository in (OWNED, CACHED) for n in range(100, 100 + IMAGES)),
    (lock, OWNED, 100),
)


def looked(store: Store, look: Look) -> str:
    """What the store gives: right, wrong, missing, or an error, which is as good as missing."""
    what, repository, number = look
    try:
        return what(store, repository, number)
    except ContentLocked:
        return RIGHT if what is lock else MISSING
    except (Damaged, NotHeld):
        return MISSING
    except StoreError:
        return MISSING


def fetch(store: Store, look: Look) -> None:
    """What a parent's answer does to the store."""
    what, repository, number = look
    wanted = body(repository, number)
    if what is blob:
        held = store.blobs.anywhere(hashed(wanted)[0])
        if held is not None and held.inline is None:
            for start in range(0, held.size, CHUNK_BYTES):
                store.blobs.quarantine(held.digest, start, min(start + CHUNK_BYTES, held.size)).result()
        put_file(store, repository, wanted)
    elif what is manifest:
        put_manifest(store, repository, wanted)
    else:
        store.references.put_tag(repository, f"t{number}", Digest.of(wanted), now=9.0).result()


# --- one flip ----------------------------------------------------------------------------------------------


def live(root: Path, found: Found, *, parent: bool) -> None:
    """Open the store as a node does, look at everything, go on writing, look again."""
    try:
        store = Store.create_or_open(root, write=True)
    except StoreRefused:
        found.seen["refused"] += 1
        return
    try:
        missing = see(store, found)
        if parent:
            heal(store, [look for look in missing if look[1] == CACHED], found)
        push(store, "more", b"goes on", "more")
        missing = [*missing, *see(store, found)]
    except StoreError as error:
        found.seen[f"stopped by {type(error).__name__}"] += 1
    finally:
        store.close()
    named = fsck(root, (1, 1)).problems
    found.seen["named by fsck"] += bool(named)
    healed = {look for look in missing if parent and look[1] == CACHED}
    if set(missing) - healed and not named:
        found.losses.append(f"missing and not named: {[spoken(look) for look in missing]}")


def see(store: Store, found: Found) -> list[Look]:
    """What is missing; wrong answers are losses."""
    answers = {look: looked(store, look) for look in LOOKS}
    found.losses += [f"wrong: {spoken(look)}" for look, answer in answers.items() if answer == WRONG]
    missing = [look for look, answer in answers.items() if answer == MISSING]
    found.seen["missing"] += bool(missing)
    return missing


def heal(store: Store, missing: list[Look], found: Found) -> None:
    """A parent has it: after it was fetched it is right."""
    for look in missing:
        fetch(store, look)
    still = [spoken(look) for look in missing if looked(store, look) != RIGHT]
    found.seen["healed by the parent"] += bool(missing)
    if still:
        found.losses.append(f"fetched again, and not right: {still}")


def repaired(root: Path, found: Found, *, hit: Path) -> None:
    """A rebuild brings back everything but a blob whose file was hit, and that is named."""
    lost = rebuild(root).problems
    store = Store.create_or_open(root, write=True)
    answers = {look: looked(store, look) for look in LOOKS}
    store.close()
    named = [*fsck(root, (1, 1)).problems, *lost]
    for look, answer in answers.items():
        if answer == WRONG:
            found.losses.append(f"wrong after a rebuild: {spoken(look)}")
        elif answer == MISSING and not (look[0] is blob and any(hit.name in problem for problem in named)):
            found.losses.append(f"missing after a rebuild: {spoken(look)}")
    if "blobs" not in hit.parts and (problems := [*named, *FormatReader(root).run()]):
        found.losses.append(f"a rebuild leaves problems: {problems[:3]}")
    found.seen["rebuilt"] += 1


def spoken(look: Look) -> str:
    """For a person."""
    return f"{look[0].__name__} {look[2]} of {look[1]}"


def in_child(work: Callable[[Found], None]) -> tuple[Found, bool]:
    """What it found, and whether its process came to its end."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        found = Found()
        try:
            os.close(reader)
            work(found)
        except BaseException:  # noqa: BLE001 - told to the parent process
            found.losses.append(traceback.format_exc())
        with os.fdopen(writer, "w") as file:
            json.dump([found.seen, found.losses], file)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as file:
        said = file.read()
    _, status = os.waitpid(child, 0)
    if status or not said:
        return Found(), False
    seen, losses = json.loads(said)
    return Found(Counter(seen), losses), True


def flip(template: Path, root: Path, place: str, *, parent: bool, chance: random.Random) -> Found:
    """One copy, one bit, and all of the above."""
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(template, root)
    hit = strike(root, place, chance)
    found, ended = in_child(lambda found: live(root, found, parent=parent))
    found.seen["process aborted"] += not ended
    healed = parent and "cached" in str(hit)
    if not healed:
        after, ended = in_child(lambda found: repaired(root, found, hit=hit))
        found.seen.update(after.seen)
        found.losses += after.losses
        if not ended:
            found.losses.append("a rebuild aborts")
    return found


def flips(place: Path, seed: str, where: str, number: int, *, parent: bool) -> Iterator[Found]:
    """So many, each on a fresh copy. A loss says which seed it came from."""
    template, root = place / "template", place / "store"
    make(template)
    for n in range(number):
        found = flip(
            template, root, where, parent=parent, chance=random.Random(f"{seed} {where} {parent} {n}")
        )
        found.losses = [f"flip {n} of seed {seed!r}: {loss}" for loss in found.losses]
        yield found
    shutil.rmtree(root, ignore_errors=True)
    shutil.rmtree(template)
