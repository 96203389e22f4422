"""Power cuts, as ext4 knows them: what was not synced is gone, then the journal of the file system is replayed.

A writer works on a small ext4 image; at some moment the file system is shut down under it (EXT4_IOC_SHUTDOWN),
unmounted, mounted again and looked at. What was acknowledged as owned is there; no byte read is wrong.
"""

from __future__ import annotations

import fcntl
import os
import random
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from holdfast_core import Digest, Store, fsck
from holdfast_core.errors import Damaged, NotHeld
from holdfast_core.filesystem import files
from support.stores import hashed, push, read_all, some_bytes

pytestmark = pytest.mark.disk

SHUTDOWN = 0x8004587D
MODES = {"journal flushed": 1, "journal not flushed": 2}
CUTS = 4  # for each mode; the rarest fault seen needed hundreds, see `HOLDFAST_POWER_CUTS`

WRITER = """
import sys
sys.path[:0] = {path!r}
from holdfast_core import Store
from support.stores import push, push_file, put_file, put_manifest, some_bytes
store, n = Store.create_or_open(sys.argv[1], write=True), int(sys.argv[2])
store.events.keep(True).result()
while True:
    n += 1
    owned = n % 4 < 2
    if n % 2 and owned:
        push(store, "r", b"manifest %d" % n, "t%d" % n, now=float(n))
        gone = push_file(store, "gone", some_bytes(20_000, -n)).digest
        store.blobs.delete("gone", gone, now=float(n)).result()
    elif n % 2:
        digest = put_manifest(store, "r", b"manifest %d" % n)
        store.references.put_tag("r", "t%d" % n, digest, now=float(n)).result()
    elif owned:
        push_file(store, "r", some_bytes(40_000, n))
    else:
        put_file(store, "r", some_bytes(40_000, n))
    if n % 8 == 0:
        store.upkeep.sweep(now=float(n), grace=5.0).result()
    if n % 16 == 0:
        store.upkeep.sync_cached().result()
    print(n, store.events.head().last, flush=True)
"""


class Image:
    """A mounted ext4 image."""

    def __init__(self, place: Path) -> None:
        self.file, self.mount_point = place / "image", place / "mount"
        self.mount_point.mkdir()
        with self.file.open("wb") as file:
            file.truncate(64 << 20)
        self._run("mkfs.ext4", "-q", "-F", str(self.file))
        self.mount()

    def _run(self, *command: str) -> None:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            pytest.skip(f"{command[0]} does not work here: {done.stderr.strip()}")

    def mount(self) -> None:
        self._run("mount", "-o", "loop", str(self.file), str(self.mount_point))

    def unmount(self) -> None:
        subprocess.run(["umount", str(self.mount_point)], check=True)

    def cut(self, mode: int) -> None:
        fd = os.open(self.mount_point, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, SHUTDOWN, struct.pack("I", mode))
        finally:
            os.close(fd)


@pytest.fixture
def image(tmp_path: Path) -> Iterator[Image]:
    if os.geteuid() != 0:
        pytest.skip(f"mounting an image needs root; this is uid {os.geteuid()}")
    if shutil.which("mkfs.ext4") is None:
        pytest.skip("mkfs.ext4 is not installed")
    image = Image(tmp_path)
    yield image
    image.unmount()


def work_until_cut(image: Image, mode: int, last: int, acks: int) -> tuple[int, int]:
    """(the last step acknowledged by a writer under which the power was cut, the last event that a reader saw)."""
    code = WRITER.format(path=[p for p in sys.path if p])
    command = [sys.executable, "-c", code, str(image.mount_point / "store"), str(last)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as child:
        assert child.stdout
        for _ in range(acks):
            line = child.stdout.readline()
        image.cut(mode)
        child.kill()
        line = [line, *filter(None, child.stdout.read().split("\n"))][-1]
        step, seen = map(int, line.split())
        return max(last, step), seen


def look(root: Path, last: int, seen: int) -> None:
    """All that was owned is there; what is there is right. The log tells of just that, and goes on above every number
    that was seen."""
    store = Store.create_or_open(root, write=True)
    try:
        wrong = [n for n in range(1, last + 1) if not sound(store, n)]
        assert wrong == []
        told = [event for event in store.events.after(0, 1_000_000) if event.kind == "tag"]
        assert sorted(event.tag for event in told) == store.references.tags("r")
        push(store, "r", b"after %d" % seen, f"after{seen}")
        head = store.events.head()
        assert head is not None
        assert head.last > seen
    finally:
        store.close()


def sound(store: Store, n: int) -> bool:
    """Whether the n-th step is as it must be after a cut."""
    owned = n % 4 < 2
    if n % 2:
        digest = Digest.of(b"manifest %d" % n)
        manifest, tag = store.references.manifest("r", digest), store.references.tag("r", f"t{n}")
        assert manifest is None or manifest.body == b"manifest %d" % n
        assert not owned or store.blobs.get("gone", hashed(some_bytes(20_000, -n))[0]) is None
        return not owned or (manifest is not None and tag is not None and tag.digest == digest)
    blob = store.blobs.get("r", hashed(some_bytes(40_000, n))[0])
    try:
        if blob is not None:
            assert read_all(store, blob) == some_bytes(40_000, n)
            return True
    except (Damaged, NotHeld):
        return not owned
    return not owned


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES.keys())
def test_case_71_power_cuts(image: Image, mode: int, monkeypatch: pytest.MonkeyPatch) -> None:
    root, last, draw = image.mount_point / "store", 0, random.Random(mode)
    for number in range(int(os.environ.get("HOLDFAST_POWER_CUTS", CUTS))):
        last, seen = work_until_cut(image, mode, last, draw.randint(1, 40))
        image.unmount()
        image.mount()
        monkeypatch.setattr(files, "boot_id", lambda number=number: b"boot %011d" % number)
        look(root, last, seen)
        assert [p for p in fsck(root).problems if "quarantined" not in p] == []
