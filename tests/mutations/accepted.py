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
        "GarbageCollector._stray",
        "if status is None or max(status.st_mtime, status.st_ctime) > before or self._has_row(digest):",
        "if status is None or max(status.st_mtime, status.st_ctime) >= before or self._has_row(digest):",
        MOMENT,
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
