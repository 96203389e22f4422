"""The feed of a parent's log: the next query, the changes that may be applied, and the cursor. Pure: answers in,
changes out, in an order in which each one may be applied.

    start_listing ─▶ messages since `kept`, if it is known ─▶ contents, page by page ─▶ messages until the last
                  ─▶ end_comparison ─▶ messages, for ever

- A full listing reads the log from `kept` to its end first: what was removed since then is in the log alone, because a
  listing that lacks something removes nothing by itself.
- The last of several messages for one name counts. No change begins before the log was read to its end, so that a node
  that was disconnected goes straight to the present state.
- Changes of one tag or one digest keep the order of the log. The removal of a repository waits for the changes under
way in it and replaces the earlier ones that wait. All other changes are independent.
- `kept` is the cursor to store. It moves when every change before it is settled: applied, or recorded as a trouble. A
  node that is killed reads the rest again, and content that is here already is not fetched again.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Set
from dataclasses import dataclass

from msgspec import Struct

from holdfast.gateway.protocol import Contents, Message, Messages


class FeedChange(Struct, frozen=True, gc=False):
    """A push, or with `removes` a delete, at the parent: of a tag, with `tag` "" of a manifest, with `digest` "" as
    well of a repository. `at` is when it was pushed (wall seconds), None unknown; `subject` is that of a referrer."""

    number: int
    repository: str
    tag: str = ""
    digest: str = ""
    removes: bool = False
    subject: str = ""
    artifact_type: str = ""
    at: float | None = None

    @property
    def key(self) -> str:
        """Returns the key as in `SyncTarget.key`; that of a repository is its name."""
        if self.tag:
            return f"{self.repository}:{self.tag}"
        return f"{self.repository}@{self.digest}" if self.digest else self.repository

    @property
    def names(self) -> tuple[tuple[str, str], ...]:
        """Returns the (repository, tag or digest) that no other change may touch meanwhile."""
        if self.tag and self.removes:
            return ((self.repository, self.tag),)
        return tuple((self.repository, name) for name in (self.tag, self.digest) if name)


class ContentsQuery(Struct, frozen=True):
    """Asks for the page of the parent's content that follows `after`; "" for the first one."""

    after: str


class MessagesQuery(Struct, frozen=True):
    """Asks for the messages after the cursor `after`."""

    after: str


@dataclass(slots=True, eq=False)
class _Batch:
    """The changes of one answer. Its cursor counts once none of them is left."""

    cursor: str
    left: int = 0
    open: bool = False


class Feed:
    """One node's view of its parent's log. With `kept` "" nothing is known, and a full listing is needed."""

    def __init__(self, kept: str = "") -> None:
        self.kept = kept
        self._reset(kept)

    def _reset(self, seen: str) -> None:
        self.seen = seen
        self._page: str | None = None
        #: whether a full listing follows when the log was read to its end
        self._is_listing_due = False
        #: the changes of a full listing, and of the log before it: the cursor moves past all of them at once
        self._listing: _Batch | None = None
        #: whether the parent has messages that were not read
        self.is_behind = bool(seen)
        self._listed: dict[str, set[str]] | None = None
        #: whether the parent itself is complete: until then it may have content that it does not list
        self.is_complete = True
        self._number = 0
        self._waiting: dict[str, FeedChange] = {}
        self._at_work: dict[int, FeedChange] = {}
        self._busy: Counter[str] = Counter()
        self._queues: dict[tuple[str, str], dict[int, FeedChange]] = {}
        self._removals: dict[str, FeedChange] = {}
        self._ready: deque[FeedChange] = deque()
        self._batches: deque[_Batch] = deque()
        self._batch_of: dict[int, _Batch] = {}

    def start_listing(self) -> None:
        """Starts a full listing; the previous state is dropped, but for the cursor."""
        self._reset(self.kept)
        self._listing, self._is_listing_due = _Batch("", open=True), True
        self._batches.append(self._listing)
        self._list_when_read()

    def _list_when_read(self) -> None:
        if self._is_listing_due and not self.is_behind:
            self._is_listing_due, self._page, self._listed = False, "", {}

    def query(self) -> ContentsQuery | MessagesQuery | None:
        """Returns the next query to the parent; None while `start_listing` is needed."""
        if self._page is not None:
            return ContentsQuery(self._page)
        return MessagesQuery(self.seen) if self.seen else None

    def add_contents(self, query: str, page: Contents) -> bool:
        """Adds a page of the listing. Returns False, and does nothing, when it answers an old query."""
        if query != self._page or self._listed is None or self._listing is None:
            return False
        self._listing.cursor = self._listing.cursor or page.cursor
        for entry in page.entries:
            self._put(entry.repository, entry.tag, entry.digest, subject=entry.subject)
            self._list(entry.repository, entry.tag, entry.digest)
        self._page = page.next or None
        if self._page is None:
            self.seen, self.is_behind = self._listing.cursor, True
            self.is_complete = page.complete
        return True

    def add_messages(self, query: str, page: Messages) -> bool:
        """Adds messages. Returns False, and does nothing, when they answer an old query."""
        if query != self.seen or self._page is not None:
            return False
        if not self._is_listing_due:
            self._batches.append(_Batch(page.cursor))
        for message in page.messages:
            self._add_message(message)
        self.seen, self.is_behind = page.cursor, page.more
        self._list_when_read()
        self._advance()
        return True

    def trimmed(self) -> None:
        """Records that the log no longer has this node's cursor (410): a full listing is needed."""
        self.kept = ""
        self._reset("")

    def add_answer(self, repository: str, tag: str, digest: str) -> bool:
        """Adds the parent's answer to a HEAD for a tag; `digest` "" when it has none. Returns False, and does nothing,
        while a change of the tag waits or a listing is under way: those are as new, or newer."""
        is_listed = (repository, tag) in self._queues or repository in self._removals
        if is_listed or self._listing is not None or not self.seen:
            return False
        self._batches.append(_Batch(self.seen))
        self._put(repository, tag, digest, removes=not digest)
        return True

    def _add_message(self, message: Message) -> None:
        removes, repository = message.verb == "delete", message.repository
        if message.kind == "repository":
            return self._remove_repository(repository) if removes else None
        tag = message.tag if message.kind == "tag" else ""
        if not removes:
            self._list(repository, tag, message.digest)
        return self._put(
            repository,
            tag,
            message.digest,
            removes=removes,
            subject=message.subject,
            artifact_type=message.artifact_type,
            at=message.at,
        )

    @property
    def is_comparison_due(self) -> bool:
        """Whether the listing is complete and has to be compared with the store; `end_comparison` ends that."""
        return self._listed is not None and self._page is None and not self.is_behind

    def listed(self, repository: str) -> Set[str]:
        """Returns the tags and digests of a repository in the listing."""
        return (self._listed or {}).get(repository, set())

    @property
    def listed_repositories(self) -> list[str]:
        """Returns the repositories in the listing."""
        return list(self._listed or {})

    def _list(self, repository: str, tag: str, digest: str) -> None:
        if self._listed is not None:
            self._listed.setdefault(repository, set()).update(name for name in (tag, digest) if name)

    def add_missing(self, repository: str, tag: str = "", digest: str = "") -> None:
        """Adds the removal of something that is here and not in the listing. The cursor of the listing waits for it."""
        self._put(repository, tag, digest, removes=True, batch=self._listing)

    def end_comparison(self) -> None:
        """Ends the comparison: every missing name was added."""
        self._listed = self._listing = None
        for batch in self._batches:
            batch.open = False
        self._advance()

    def __bool__(self) -> bool:
        """Whether anything waits or is under way."""
        return bool(self._waiting or self._at_work)

    @property
    def has_ready(self) -> bool:
        """Whether `take` returns a change now."""
        return not self._is_reading and any(self._is_ready(change) for change in self._ready)

    @property
    def _is_reading(self) -> bool:
        return self._page is not None or self.is_behind

    def take(self) -> FeedChange | None:
        """Returns a change that may be applied now, None without one; `settle` or `give_back` ends it."""
        while self._ready and not self._is_reading:
            change = self._ready.popleft()
            if self._is_ready(change):
                del self._waiting[change.key]
                self._at_work[change.number] = change
                self._busy[change.repository] += 1
                return change
        return None

    def settle(self, change: FeedChange) -> None:
        """Ends a change that is applied, not selected, or recorded as a trouble."""
        if self._stop(change):
            self._finish(change)
            self._advance()

    def give_back(self, change: FeedChange) -> None:
        """Ends a change that was stopped half-way: it waits again, unless a newer one replaces it."""
        if not self._stop(change):
            return
        if change.key in self._waiting or self._removals.get(change.repository, change) is not change:
            self._finish(change)
            self._advance()
        else:
            self._waiting[change.key] = change
            self._offer(change)

    def _stop(self, change: FeedChange) -> bool:
        """Takes a change off those under way; False when it is not one of them."""
        if self._at_work.get(change.number) is not change:
            return False
        del self._at_work[change.number]
        self._busy[change.repository] -= 1
        return True

    def _put(
        self,
        repository: str,
        tag: str,
        digest: str,
        *,
        removes: bool = False,
        subject: str = "",
        artifact_type: str = "",
        at: float | None = None,
        batch: _Batch | None = None,
    ) -> None:
        self._number += 1
        change = FeedChange(self._number, repository, tag, digest, removes, subject, artifact_type, at)
        before = self._waiting.pop(change.key, None)
        self._waiting[change.key] = change
        self._count(change, batch or self._batches[-1])
        for name in change.names:
            self._queues.setdefault(name, {})[change.number] = change
        if before is not None:
            self._finish(before)
        self._offer(change)

    def _remove_repository(self, repository: str) -> None:
        for change in [change for change in self._waiting.values() if change.repository == repository]:
            del self._waiting[change.key]
            self._finish(change)
        self._number += 1
        change = FeedChange(self._number, repository, removes=True)
        self._removals[repository] = self._waiting[change.key] = change
        self._count(change, self._batches[-1])
        self._offer(change)

    def _count(self, change: FeedChange, batch: _Batch) -> None:
        batch.left += 1
        self._batch_of[change.number] = batch

    def _offer(self, change: FeedChange) -> None:
        if self._is_ready(change):
            self._ready.append(change)

    def _is_ready(self, change: FeedChange) -> bool:
        if self._waiting.get(change.key) is not change:
            return False
        removal = self._removals.get(change.repository)
        if removal is not None:
            return removal is change and not self._busy[change.repository]
        return all(next(iter(self._queues[name])) == change.number for name in change.names)

    def _finish(self, change: FeedChange) -> None:
        """Drops a change and makes those that waited for it ready."""
        self._batch_of.pop(change.number).left -= 1
        for name in change.names:
            queue = self._queues[name]
            del queue[change.number]
            if queue:
                self._offer(next(iter(queue.values())))
            else:
                del self._queues[name]
        for other in list(self._unblocked(change)):
            self._offer(other)

    def _unblocked(self, change: FeedChange) -> Iterator[FeedChange]:
        """Yields the changes that waited for the removal of a repository, or the removal that waited for the change."""
        removal = self._removals.get(change.repository)
        if removal is change:
            del self._removals[change.repository]
            yield from (other for other in self._waiting.values() if other.repository == change.repository)
        elif removal is not None:
            yield removal

    def _advance(self) -> None:
        while self._batches and not self._batches[0].left and not self._batches[0].open:
            self.kept = self._batches.popleft().cursor
