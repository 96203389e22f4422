"""The last landed version and this one, each with its own code: an update keeps everything, the older one refuses what
the newer wrote, and goes on from a backup of before the update.

The older code is `data/landed-core.tar.xz`: setup.py, pyproject.toml, README.md, core/ and tests/support/stores.py as
`git archive` gives them of the commit beside LANDED. Make it anew when a version lands. It is built here, which takes
ten seconds. `test_golden` has stores of each format that earlier versions made.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
from contextlib import closing
from pathlib import Path

import pytest
from holdfast_core import Digest, Store, fsck
from support.format_reader import FormatReader
from support.patience import PROGRAM_PATIENCE
from support.stores import hashed, read_all, some_bytes

#: b3e1575bf24daf3444c9b23b1e9fa807fd4e57eb
LANDED = Path(__file__).parents[1] / "data" / "landed-core.tar.xz"
#: until a build counts as one that hangs
BUILD_SECONDS = 300.0
BODY, CACHED = some_bytes(2_500_000), some_bytes(40_000, 2)
IMPORTS = """
import sys
from holdfast_core import Store, rebuild
from holdfast_core.errors import StoreError
from holdfast_core.recovery.backup import backup, restore
from holdfast_core.recovery.compact import compact
from support.stores import push, push_file, put_file, some_bytes
root, aside = sys.argv[1:]
"""
MAKE = """
store = Store.create_or_open(root, write=True)
push_file(store, "owned", some_bytes(2_500_000))
push(store, "owned", b"an image", "v1")
put_file(store, "cached", some_bytes(40_000, 2))
store.close()
assert backup(root, aside).problems == []
"""
REFUSALS = """
for work in (
    lambda: Store.create_or_open(root, write=True),
    lambda: Store.create_or_open(root, write=False),
    lambda: compact(root),
    lambda: backup(root, aside + "-2"),
    lambda: rebuild(root),
):
    try:
        work()
    except StoreError as error:
        print(error)
"""
BACK = """
assert restore(aside, root).problems == []
store = Store.create_or_open(root, write=True)
print(store.references.tag("owned", "v1").digest)
store.close()
"""


@pytest.fixture(scope="module")
def landed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The code of the last landed version, built."""
    place = tmp_path_factory.mktemp("landed")
    (place / "proxy").mkdir()  # where its setup looks for modules as well
    with tarfile.open(LANDED) as archive:
        archive.extractall(place, filter="data")
    command = [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"]
    subprocess.run(command, cwd=place, check=True, capture_output=True, timeout=BUILD_SECONDS)
    return place


def older(landed: Path, work: str, root: Path, aside: Path) -> str:
    """What a process of that version prints."""
    path = f"import sys; sys.path[:0] = [{str(landed / 'core')!r}, {str(landed / 'tests')!r}]"
    command = [sys.executable, "-c", path + IMPORTS + work, str(root), str(aside)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PROGRAM_PATIENCE, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def number(root: Path) -> int:
    return int(json.loads((root / "store.json").read_text())["format"])


def files(root: Path) -> dict[str, bytes]:
    names = (file for file in root.rglob("*") if file.is_file() and file.name != "lock.mdb")
    return {str(file.relative_to(root)): file.read_bytes() for file in names}


def test_an_update_and_the_way_back(landed: Path, tmp_path: Path) -> None:
    root, aside = tmp_path / "store", tmp_path / "backup"
    older(landed, MAKE, root, aside)
    before = number(root)
    with closing(Store.create_or_open(root, write=True)) as store:
        owned, cached = (
            store.blobs.get("owned", hashed(BODY)[0]),
            store.blobs.get("cached", hashed(CACHED)[0]),
        )
        assert owned is not None
        assert cached is not None
        assert (read_all(store, owned), read_all(store, cached)) == (BODY, CACHED)
        tag = store.references.tag("owned", "v1")
        assert tag is not None
        assert tag.digest == Digest.of(b"an image")
    assert fsck(root, (1, 1)).problems == []
    assert FormatReader(root).run() == []
    if number(root) > before:
        updated = files(root)
        said = older(landed, REFUSALS, root, aside).splitlines()
        assert len(said) == 5
        assert all(f"is of format {number(root)}, which a newer version wrote" in line for line in said), said
        assert files(root) == updated
    back = tmp_path / "back"
    assert older(landed, BACK, back, aside).split() == [str(Digest.of(b"an image"))]
    assert number(back) == before
