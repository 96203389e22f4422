"""Changes that no test notices, each with the reason why that is right. `docs/mutation.md` prints them:

PYTHONPATH=tests python -m mutations.accepted
"""

from __future__ import annotations

from typing import NamedTuple

from mutations.checkout_copy import ROOT
from mutations.source_changes import SourceChange

DOCUMENT = ROOT / "docs" / "mutation.md"
BEGIN, END = "<!-- accepted -->\n", "<!-- /accepted -->"

TUNED = "a size that was chosen by measuring: one more changes nothing that a caller can see"
MOMENT = "differs in one moment of a clock alone"


class Accepted(NamedTuple):
    """A change by its module, function and lines, and the reason."""

    module: str
    function: str
    before: str
    after: str
    reason: str


ACCEPTED: tuple[Accepted, ...] = (
    Accepted("garbage", "", "BATCH = 32", "BATCH = 33", TUNED),
    Accepted("garbage", "", "KEPT_SECONDS = 30 * 86400.0", "KEPT_SECONDS = 30 * 86401.0", TUNED),
    Accepted(
        "garbage",
        "",
        "PRESSED_SECONDS = 86400.0  # on a full disk",
        "PRESSED_SECONDS = 86401.0  # on a full disk",
        TUNED,
    ),
    Accepted(
        "garbage",
        "GarbageCollector._forgotten",
        "if view.keys(layout.HOLDER + digest.key, limit=1):",
        "if view.keys(layout.HOLDER + digest.key, limit=2):",
        "one holder is enough, and two are no fewer",
    ),
    Accepted(
        "garbage",
        "unlinked_at",
        "return 0.0",
        "return 1.0",
        "both are long ago: nothing was unlinked in 1970",
    ),
    Accepted(
        "garbage",
        "remove_expired",
        "return sum(_removed(place) for place in _candidates(path) if _changed_at(place) <= before)",
        "return sum(_removed(place) for place in _candidates(path) if _changed_at(place) < before)",
        MOMENT,
    ),
    Accepted(
        "authorization",
        "_allows",
        "return True",
        "return False",
        "what is open is so at each level, and no caller is looked up for it: `require` is not asked",
    ),
    Accepted(
        "authorization",
        "_sentence",
        'if right is None: return "no caller may do this"',
        "pass",
        "what is not in the table has no endpoint: it is 404 or 405 before a right is asked for",
    ),
    Accepted(
        "framing",
        "Counted.feed",
        "if len(data) > left:",
        "if len(data) >= left:",
        "without bytes that follow, nothing is cut off and nothing added",
    ),
    Accepted(
        "framing",
        "Counted.feed",
        "self.waiting += len(data) self._parts.append(data)",
        "self._parts.append(data) self.waiting += len(data)",
        "two statements that do not see each other",
    ),
    Accepted(
        "framing",
        "Chunked.feed",
        "self.waiting += len(data) self._parts.append(data)",
        "self._parts.append(data) self.waiting += len(data)",
        "two statements that do not see each other",
    ),
    Accepted(
        "framing",
        "Chunked.take",
        "taken.append(content) size += len(content)",
        "size += len(content) taken.append(content)",
        "two statements that do not see each other",
    ),
    Accepted(
        "sync_plan",
        "Planner._manifest",
        "work.present += 1",
        "pass",
        "a manifest that is named twice was counted the first time; one that was not read yet decides nothing",
    ),
    Accepted(
        "sync_plan",
        "Planner._manifest",
        "work.present += 1",
        "work.present += 2",
        "it is asked whether there is one, not how many",
    ),
    Accepted(
        "sync_plan",
        "Planner._manifest",
        "work.seen.add(digest) work.actions.append(PlannedAction(PlanStep.READ_MANIFEST, work.repository, digest))",
        "work.actions.append(PlannedAction(PlanStep.READ_MANIFEST, work.repository, digest)) work.seen.add(digest)",
        "two statements that do not see each other",
    ),
    Accepted(
        "sync_plan",
        "Planner._is_selected",
        "if not rule.platforms.names: return True",
        "pass",
        "a shortcut: `wants` says the same of no platforms",
    ),
    Accepted(
        "sync_plan",
        "Planner._need",
        "coming.add(digest) left = max(0, piece.size - self._held.part(digest))",
        "left = max(0, piece.size - self._held.part(digest)) coming.add(digest)",
        "two statements that do not see each other",
    ),
    Accepted(
        "planner",
        "_Board.stops",
        "left = [replace(t, end=t.received, sequential=False) for t in done if t.received > t.landed]",
        "left = [replace(t, end=t.received, sequential=False) for t in done if t.received >= t.landed]",
        "what received nothing that has not landed brings nothing",
    ),
    Accepted(
        "planner",
        "_Board.starts",
        "actions.append(start) self.running.append(Running(-1, start.start, start.start, start.end, start.sequential))",
        "self.running.append(Running(-1, start.start, start.start, start.end, start.sequential)) actions.append(start)",
        "two statements that do not see each other",
    ),
    Accepted(
        "planner",
        "_Board.starts",
        "self.running.append(Running(-1, start.start, start.start, start.end, start.sequential))",
        "self.running.append(Running(-2, start.start, start.start, start.end, start.sequential))",
        "a transfer that was not begun has no number, and none is asked for it",
    ),
    Accepted(
        "planner",
        "_Board._leads",
        "return transfer.number > other.number",
        "return transfer.number >= other.number",
        "two transfers have two numbers",
    ),
    Accepted(
        "planner",
        "_Board._stop_before",
        "solid = [at for at in ahead if start < at < high and self._solid_end(at) - at >= SOLID_BYTES]",
        "solid = [at for at in ahead if start <= at < high and self._solid_end(at) - at >= SOLID_BYTES]",
        "it starts where nothing is held and nothing comes",
    ),
    Accepted(
        "planner",
        "_Board._stop_before",
        "solid = [at for at in ahead if start < at < high and self._solid_end(at) - at >= SOLID_BYTES]",
        "solid = [at for at in ahead if start < at <= high and self._solid_end(at) - at >= SOLID_BYTES]",
        "the end is `high` without it, too",
    ),
    Accepted(
        "planner",
        "_Board._serves",
        "gap = self.held.first_gap(low, high) if low < high else high",
        "gap = self.held.first_gap(low, high) if low <= high else high",
        "of no bytes none is missing",
    ),
    Accepted(
        "pins",
        "is_pinned",
        "if not view.keys(layout.PIN + repository, limit=1): return False",
        "pass",
        "a shortcut: where a repository has no pin, none holds",
    ),
    Accepted(
        "pins",
        "is_pinned",
        "if not view.keys(layout.PIN + repository, limit=1):",
        "if not view.keys(layout.PIN + repository, limit=2):",
        "one is enough, and two are no fewer",
    ),
    Accepted(
        "space",
        "Space.links",
        'def links(self, after: bytes = b"", limit: int = 1000) -> tuple[list[tuple[Digest, str]], bytes]:',
        'def links(self, after: bytes = b"", limit: int = 1001) -> tuple[list[tuple[Digest, str]], bytes]:',
        TUNED,
    ),
    Accepted(
        "space",
        "Space.loose",
        'def loose(self, after: bytes = b"", limit: int = 1000) -> tuple[list[tuple[str, Digest]], bytes]:',
        'def loose(self, after: bytes = b"", limit: int = 1001) -> tuple[list[tuple[str, Digest]], bytes]:',
        TUNED,
    ),
    Accepted(
        "collection",
        "",
        "EDGES = 64",
        "EDGES = 65",
        TUNED,
    ),
    Accepted(
        "collection",
        "",
        "ROOTS = 32",
        "ROOTS = 33",
        TUNED,
    ),
    Accepted(
        "collection",
        "roots_of",
        "known.update(parents)",
        "pass",
        "a manifest that is reached by two ways is looked at twice, and counts once",
    ),
    Accepted(
        "collection",
        "holding_of",
        "sum(_file_bytes(view, key) for key, size in zip(going, sizes, strict=True) if not size),",
        "sum(_file_bytes(view, key) for key, size in zip(going, sizes, strict=False) if not size),",
        "both have one entry a digest",
    ),
    Accepted(
        "collection",
        "_is_named",
        "if view.keys(layout.TAGGED + repository + digest_key, limit=1):",
        "if view.keys(layout.TAGGED + repository + digest_key, limit=2):",
        "one is enough, and two are no fewer",
    ),
    Accepted(
        "collection",
        "_is_last",
        "holders = view.keys(layout.HOLDER + digest_key, limit=len(layout.LINK_KINDS) * len(repositories) + 1)",
        "holders = view.keys(layout.HOLDER + digest_key, limit=len(layout.LINK_KINDS) * len(repositories) + 2)",
        "one more that is looked at changes nothing: it is asked whether there are others",
    ),
    Accepted(
        "removal",
        "Removals.remove_unselected",
        "elif not self._outside: return",
        "pass",
        "a shortcut: without it the same comes out",
    ),
    Accepted(
        "removal",
        "Removals.remove_unselected",
        "return",
        "pass",
        "a shortcut: without it the same comes out",
    ),
    Accepted(
        "file_work",
        "",
        "FILE_THREADS = 16",
        "FILE_THREADS = 17",
        TUNED,
    ),
    Accepted(
        "file_work",
        "FileWork._work",
        "return",
        "pass",
        "nothing was prepared that could be committed: it ends there, and its future has its error",
    ),
    Accepted(
        "group_commit",
        "NeedsRepair.__init__",
        'super().__init__(f"{len(records)} damaged records")',
        "pass",
        "its text is told nobody: the operation is put off",
    ),
    Accepted(
        "group_commit",
        "Writer._gather",
        "if len(batch) >= BATCH_OPERATIONS or self._clock() > deadline:",
        "if len(batch) >= BATCH_OPERATIONS or self._clock() >= deadline:",
        MOMENT,
    ),
    Accepted(
        "group_commit",
        "Writer._not_committed",
        'return self.condition.met(Write.INDEX, self._index_errno(error), f"index: {error}")',
        'return self.condition.met(Write.JOURNAL, self._index_errno(error), f"index: {error}")',
        "the table of conditions says the same of both",
    ),
    Accepted(
        "derivation",
        "",
        "HOLDERS = 7",
        "HOLDERS = 8",
        "one more that is looked at changes nothing: it is asked whether there are others",
    ),
    Accepted(
        "derivation",
        "Derivation._link",
        "self._count(repository, kind, digest_key, 1, alone=alone) write()",
        "write() self._count(repository, kind, digest_key, 1, alone=alone)",
        "two statements that do not see each other",
    ),
    Accepted(
        "derivation",
        "Derivation._link",
        "write() self._empty(layout.holder_key(key))",
        "self._empty(layout.holder_key(key)) write()",
        "two statements that do not see each other",
    ),
    Accepted(
        "derivation",
        "Derivation._link",
        "write() self._write(layout.holder_key(key), None)",
        "self._write(layout.holder_key(key), None) write()",
        "two statements that do not see each other",
    ),
    Accepted(
        "derivation",
        "Derivation._link",
        "self._write(layout.holder_key(key), None) self._count(repository, kind, digest_key, -1, alone=alone)",
        "self._count(repository, kind, digest_key, -1, alone=alone) self._write(layout.holder_key(key), None)",
        "two statements that do not see each other",
    ),
    Accepted(
        "derivation",
        "Derivation._unlink",
        "and not self._view.keys(layout.HOLDER + digest_key, limit=1)",
        "and not self._view.keys(layout.HOLDER + digest_key, limit=2)",
        "one is enough, and two are no fewer",
    ),
    Accepted(
        "derivation",
        "Derivation._edges",
        "self._empty(edge) self._write(space_format.loose_key(repository, child.digest.key), None)",
        "self._write(space_format.loose_key(repository, child.digest.key), None) self._empty(edge)",
        "two statements that do not see each other",
    ),
    Accepted(
        "derivation",
        "Derivation._is_named",
        "return bool(self._view.keys(tags, limit=1) or self._view.keys(edges, limit=1))",
        "return bool(self._view.keys(tags, limit=2) or self._view.keys(edges, limit=1))",
        "one is enough, and two are no fewer",
    ),
    Accepted(
        "derivation",
        "Derivation._is_named",
        "return bool(self._view.keys(tags, limit=1) or self._view.keys(edges, limit=1))",
        "return bool(self._view.keys(tags, limit=1) or self._view.keys(edges, limit=2))",
        "one is enough, and two are no fewer",
    ),
    Accepted(
        "derivation",
        "Derivation._others",
        "return list(dict.fromkeys(key[-16:] for key in holders if key[-16:] != repository))[:2]",
        "return list(dict.fromkeys(key[-16:] for key in holders if key[-17:] != repository))[:2]",
        "the link of the repository itself is not there when it is asked",
    ),
    Accepted(
        "derivation",
        "Derivation._others",
        "return list(dict.fromkeys(key[-16:] for key in holders if key[-16:] != repository))[:2]",
        "return list(dict.fromkeys(key[-16:] for key in holders if key[-16:] != repository))[:3]",
        "one more that is looked at changes nothing: it is asked whether there are others",
    ),
    Accepted(
        "derivation",
        "Derivation._blob",
        "if old is not None and new is not None and _weight(old) == _weight(new): write() return",
        "pass",
        "a shortcut: what goes and what comes is the same",
    ),
    Accepted(
        "derivation",
        "Derivation._blob",
        "return",
        "pass",
        "what is counted twice here is set by the count of all, or comes to nothing; the record is written twice",
    ),
    Accepted(
        "derivation",
        "Derivation._blob",
        "if before is None and self._view.raw(key) is not None:",
        "if before is None or self._view.raw(key) is not None:",
        "counts all anew, which is slow and the same",
    ),
    Accepted(
        "derivation",
        "Derivation._tag",
        "old, new = _target(before), _target(after) write()",
        "write() old, new = _target(before), _target(after)",
        "two statements that do not see each other",
    ),
    Accepted(
        "derivation",
        "Derivation._tag",
        "self._empty(layout.tagged_key(key, new)) self._write(space_format.loose_key(key[1:17], new.key), None)",
        "self._write(space_format.loose_key(key[1:17], new.key), None) self._empty(layout.tagged_key(key, new))",
        "two statements that do not see each other",
    ),
    Accepted(
        "derivation",
        "Derivation._use",
        "if hour == former: return",
        "pass",
        "writes the row where it is",
    ),
    Accepted(
        "derivation",
        "Derivation._use",
        "return",
        "pass",
        "writes the row where it is",
    ),
    Accepted(
        "derivation",
        "_weight",
        "return blob.inline is None, blob.size",
        "return blob.inline is not None, blob.size",
        "two weights are compared with each other alone",
    ),
    Accepted(
        "derivation",
        "_sum",
        "return [max(0, before + change) for before, change in zip(former, changes, strict=True)]",
        "return [max(0, before + change) for before, change in zip(former, changes, strict=False)]",
        "both have one entry a field",
    ),
    Accepted(
        "derivation",
        "Derivation._link",
        "self._write(space_format.loose_key(repository, digest_key), None) self._unlink(digest_key)",
        "self._unlink(digest_key) self._write(space_format.loose_key(repository, digest_key), None)",
        "two statements that do not see each other",
    ),
    Accepted(
        "fill_file",
        "FillPart.close",
        "if self.fd >= 0:",
        "if self.fd > 0:",
        "no part has descriptor 0, and one that is closed has none",
    ),
    Accepted(
        "fill_file",
        "FillPart.close",
        "if self.fd >= 0:",
        "if self.fd >= 1:",
        "no part has descriptor 0, and one that is closed has none",
    ),
    Accepted(
        "fill_file",
        "FillPart.close",
        "self.fd = -1",
        "self.fd = -2",
        "each number below zero is no descriptor",
    ),
)


def reason_for(module: str, change: SourceChange) -> str | None:
    """Why a change is accepted; None when it is not."""
    for row in ACCEPTED:
        if row[:4] == (module, change.function, change.before, change.after):
            return row.reason
    return None


def markdown() -> str:
    """The table of the document."""
    lines = ["| module | in | change | why it may |", "|---|---|---|---|"]
    for row in ACCEPTED:
        change = f"`{row.before}` → `{row.after}`".replace("|", "\\|")
        lines.append(
            f"| {row.module} | {f'`{row.function}`' if row.function else ''} | {change} | {row.reason} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Put the table of this moment into the document."""
    before, _, rest = DOCUMENT.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    DOCUMENT.write_text(before + BEGIN + markdown() + END + after)


if __name__ == "__main__":
    main()
