"""The modules that promises hang on, and for each the tests that should notice when it does something else. These run
in the process of pytest: what another process does is not seen."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple


class MutatedModule(NamedTuple):
    """A module, its tests as files or folders, and its functions that count; all of them when none is named."""

    file: str
    tests: tuple[str, ...]
    functions: tuple[str, ...] = ()

    def has(self, function: str) -> bool:
        """Whether a function counts."""
        return not self.functions or function in self.functions

    def test_files(self, place: Path) -> list[str]:
        """The files of its tests, in the copy of the checkout at `place`."""
        found = [
            [place / name] if name.endswith(".py") else sorted((place / name).glob("**/test_*.py"))
            for name in self.tests
        ]
        return [path.relative_to(place).as_posix() for paths in found for path in paths]


def _core(file: str, *tests: str) -> MutatedModule:
    return MutatedModule(f"core/holdfast_core/{file}", tuple(f"tests/core/{name}" for name in tests))


def _proxy(file: str, *tests: str, functions: tuple[str, ...] = ()) -> MutatedModule:
    return MutatedModule(f"proxy/holdfast/{file}", tuple(f"tests/{name}" for name in tests), functions)


MODULES: dict[str, MutatedModule] = {
    # an acknowledged byte is on the disk: the order of commits, the journal, one piece of work a digest
    "group_commit": _core("journal/group_commit.py", "journal/test_group_commit.py"),
    "journal_file": _core(
        "journal/journal_file.py",
        *("journal/test_journal_sync.py", "journal/test_group_commit.py", "journal/test_compaction.py"),
        "journal/test_salvage.py",
    ),
    "file_work": _core("blob_files/file_work.py", "blob_files/test_file_work.py"),
    # what may be taken away
    "garbage": _core("upkeep/garbage.py", "upkeep/test_garbage.py", "upkeep/test_expired_files.py"),
    # what leaves by itself: what may, what names it, what is pinned
    "collection": _core("changes/collection.py", "changes/test_collection.py", "test_space.py"),
    "pins": _core("changes/pins.py", "changes/test_collection.py", "test_space.py"),
    "derivation": _core(
        "changes/derivation.py",
        *("changes/test_derivation.py", "changes/test_collection.py", "changes/test_unchanged.py"),
        "test_space.py",
    ),
    "space": _core("facets/space.py", "changes/test_collection.py", "test_space.py"),
    # never wrong bytes: what is written of a fill, what counts of it after a kill, what its digest decides
    "fill_file": _core(
        "blob_files/fill_file.py",
        "blob_files/test_fill_progress.py",
        "journal/test_commit_order.py",
        "test_store.py",
    ),
    "checkpoint": _proxy("fill/checkpoint.py", "fill/test_progress.py", "fill/test_restart.py"),
    "fill": _proxy(
        "fill/fill.py",
        *("fill/test_faults.py", "fill/test_unstored.py", "fill/test_endings.py"),
        functions=("Fill._verify", "Fill._admit", "Fill._mismatched"),
    ),
    # where a request ends
    "framing": _proxy(
        "wire/framing.py",
        "wire/test_framing.py",
        "wire/test_chunks.py",
        "wire/test_exchange.py",
        "server/test_body.py",
    ),
    "second_reader": _proxy("wire/second_reader.py", "wire/test_second_reader.py"),
    "connection_state": _proxy(
        "server/connection_state.py", "server/test_connection_state.py", "test_docs.py"
    ),
    # what a fill may do after what
    "phases": _proxy("fill/phases.py", "fill/test_phases.py", "test_docs.py"),
    # who may do what
    "authorization": _proxy(
        "endpoint/authorization.py",
        *("login", "endpoint/test_deletion.py", "gateway/test_gateway_endpoint.py"),
    ),
    # what is fetched, brought down, taken away, sent up
    "planner": _proxy("fill/planner.py", "fill/test_plan.py"),
    "sync_plan": _proxy("sync/plan.py", "sync/test_plan.py", "sync/test_planning.py"),
    "removal": _proxy(
        "sync/removal.py",
        *("sync/test_parent_state.py", "sync/test_removal.py", "sync/test_removal_record.py"),
        "sync/test_departure.py",
    ),
    "upload_plan": _proxy("outbox/upload_plan.py", "outbox/test_queue.py"),
}
