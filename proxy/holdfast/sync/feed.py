"""What a parent's log means for this node: which question is next, what may be begun, and up to where all is here.
Pure: answers in, deeds out, in an order in which each may be done.

    list_anew ─▶ contents, page by page ─▶ messages until there are no more ─▶ compared ─▶ messages, for ever

- Of many messages for one name the last counts. Nothing begins before all that waits at the parent was read, so that a
  node that was away goes straight to what is true now.
- Deeds about one tag or one digest follow each other as they do in the log; the removal of a repository waits for what
  is under way in it, and what was said before of that repository is void. Everything else goes at once.
- `kept` is the cursor to store. It moves when everything before it is settled: here, removed, or recorded as trouble. A
  node that is killed reads the rest again, and what is here already costs nothing.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Set
from dataclasses import dataclass

from msgspec import Struct

from holdfast.gateway.message import Contents, Message, Messages


class Deed(Struct, frozen=True, gc=False):
    """One thing to have, or to have no longer: a tag, with `tag` "" a manifest, with `digest` "" as well a repository.
    `at` is when it was pushed (wall seconds), None unknown; `subject` what a referrer is one of."""

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
        """As `sync.plan.Target.key`; a repository's is its name."""
        if self.tag:
            return f"{self.repository}:{self.tag}"
        return f"{self.repository}@{self.digest}" if self.digest else self.repository

    @property
    def names(self) -> tuple[tuple[str, str], ...]:
        """What no other deed may touch meanwhile."""
        if self.tag and self.removes:
            return ((self.repository, self.tag),)
        return tuple((self.repository, name) for name in (self.tag, self.digest) if name)


class AskContents(Struct, frozen=True):
    """The page of what the parent has, after `after`; "" for the first."""

    after: str


class AskMessages(Struct, frozen=True):
    """What happened since the cursor `after`."""

    after: str


@dataclass(slots=True, eq=False)
class _Batch:
    """What one answer brought: the cursor is good once nothing of it is left."""

    cursor: str
    left: int = 0
    open: bool = False


class Feed:
    """One node's reading of its parent's log. `kept` "": nothing is known, and only a full listing helps."""

    def __init__(self, kept: str = "") -> None:
        self.kept = kept
        self._forget(kept)

    def _forget(self, seen: str) -> None:
        self.seen = seen
        self._page: str | None = None
        #: whether more waits at the parent than was read
        self.is_behind = bool(seen)
        self._listed: dict[str, set[str]] | None = None
        #: whether the parent has everything itself: until then what it does not list may be there all the same
        self.is_complete = True
        self._number = 0
        self._waiting: dict[str, Deed] = {}
        self._at_work: dict[int, Deed] = {}
        self._busy: Counter[str] = Counter()
        self._lines: dict[tuple[str, str], dict[int, Deed]] = {}
        self._razed: dict[str, Deed] = {}
        self._ready: deque[Deed] = deque()
        self._batches: deque[_Batch] = deque()
        self._batch_of: dict[int, _Batch] = {}

    # ---- questions and answers

    def list_anew(self) -> None:
        """A full synchronisation begins: nothing that was known counts."""
        self.kept = ""
        self._forget("")
        self._page, self._listed = "", {}

    def question(self) -> AskContents | AskMessages | None:
        """What to ask the parent; None while only `list_anew` helps."""
        if self._page is not None:
            return AskContents(self._page)
        return AskMessages(self.seen) if self.seen else None

    def contents(self, asked: str, found: Contents) -> bool:
        """A page arrived. False, and nothing is done, when it answers an old question."""
        if asked != self._page or self._listed is None:
            return False
        if not self._batches:
            self._batches.append(_Batch(found.cursor, open=True))
        for entry in found.entries:
            self._put(entry.repository, entry.tag, entry.digest, subject=entry.subject)
            self._note(entry.repository, entry.tag, entry.digest)
        self._page = found.next or None
        if self._page is None:
            self.seen, self.is_behind = self._batches[0].cursor, True
            self.is_complete = found.complete
        return True

    def messages(self, asked: str, found: Messages) -> bool:
        """Messages arrived. False, and nothing is done, when they answer an old question."""
        if asked != self.seen or self._page is not None:
            return False
        self._batches.append(_Batch(found.cursor))
        for message in found.messages:
            self._hear(message)
        self.seen, self.is_behind = found.cursor, found.more
        self._advance()
        return True

    def gone(self) -> None:
        """The log does not go back as far as this node (410): only a full listing helps."""
        self.kept = ""
        self._forget("")

    def say(self, repository: str, tag: str, digest: str) -> bool:
        """The parent was asked for a tag, and names this ("": it has none). False, and nothing is done, while the log
        says something of the tag that is not settled, or everything is listed: that is as new, or newer."""
        is_told = (repository, tag) in self._lines or repository in self._razed
        if is_told or self._listed is not None or not self.seen:
            return False
        self._batches.append(_Batch(self.seen))
        self._put(repository, tag, digest, removes=not digest)
        return True

    def _hear(self, message: Message) -> None:
        removes, repository = message.verb == "delete", message.repository
        if message.kind == "repository":
            return self._raze(repository) if removes else None
        tag = message.tag if message.kind == "tag" else ""
        if not removes:
            self._note(repository, tag, message.digest)
        return self._put(
            repository,
            tag,
            message.digest,
            removes=removes,
            subject=message.subject,
            artifact_type=message.artifact_type,
            at=message.at,
        )

    # ---- what the listing lacks

    @property
    def compares(self) -> bool:
        """Whether all was listed, and what is here is to be held against it; `compared` ends that."""
        return self._listed is not None and self._page is None and not self.is_behind

    def listed(self, repository: str) -> Set[str]:
        """Tags and digests that the parent has."""
        return (self._listed or {}).get(repository, set())

    @property
    def repositories(self) -> list[str]:
        """Those of which anything was listed."""
        return list(self._listed or {})

    def _note(self, repository: str, tag: str, digest: str) -> None:
        if self._listed is not None:
            self._listed.setdefault(repository, set()).update(name for name in (tag, digest) if name)

    def lose(self, repository: str, tag: str = "", digest: str = "") -> None:
        """What is here and was not listed is to go, too, before the cursor of the listing counts."""
        self._put(repository, tag, digest, removes=True, batch=self._batches[0])

    def compared(self) -> None:
        """Everything that was not listed was named."""
        self._listed = None
        for batch in self._batches:
            batch.open = False
        self._advance()

    # ---- deeds

    def __bool__(self) -> bool:
        """Whether anything waits or is under way."""
        return bool(self._waiting or self._at_work)

    @property
    def waits(self) -> bool:
        """Whether something may be taken now."""
        return not self._is_reading and any(self._may_begin(deed) for deed in self._ready)

    @property
    def _is_reading(self) -> bool:
        return self._page is not None or self.is_behind

    def take(self) -> Deed | None:
        """What may be begun now; `settled` or `give_back` tells how it ended."""
        while self._ready and not self._is_reading:
            deed = self._ready.popleft()
            if self._may_begin(deed):
                del self._waiting[deed.key]
                self._at_work[deed.number] = deed
                self._busy[deed.repository] += 1
                return deed
        return None

    def settled(self, deed: Deed) -> None:
        """It is done, not wanted, or recorded as trouble."""
        if self._rest(deed):
            self._leave(deed)
            self._advance()

    def give_back(self, deed: Deed) -> None:
        """It stopped half-way: it waits again, unless something newer is known of it."""
        if not self._rest(deed):
            return
        if deed.key in self._waiting or self._razed.get(deed.repository, deed) is not deed:
            self._leave(deed)
            self._advance()
        else:
            self._waiting[deed.key] = deed
            self._offer(deed)

    def _rest(self, deed: Deed) -> bool:
        """It is not under way any more; False when it never was, as far as this knows."""
        if self._at_work.get(deed.number) is not deed:
            return False
        del self._at_work[deed.number]
        self._busy[deed.repository] -= 1
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
        deed = Deed(self._number, repository, tag, digest, removes, subject, artifact_type, at)
        before = self._waiting.pop(deed.key, None)
        self._waiting[deed.key] = deed
        self._count(deed, batch or self._batches[-1])
        for name in deed.names:
            self._lines.setdefault(name, {})[deed.number] = deed
        if before is not None:
            self._leave(before)
        self._offer(deed)

    def _raze(self, repository: str) -> None:
        for deed in [deed for deed in self._waiting.values() if deed.repository == repository]:
            del self._waiting[deed.key]
            self._leave(deed)
        self._number += 1
        deed = Deed(self._number, repository, removes=True)
        self._razed[repository] = self._waiting[deed.key] = deed
        self._count(deed, self._batches[-1])
        self._offer(deed)

    def _count(self, deed: Deed, batch: _Batch) -> None:
        batch.left += 1
        self._batch_of[deed.number] = batch

    def _offer(self, deed: Deed) -> None:
        if self._may_begin(deed):
            self._ready.append(deed)

    def _may_begin(self, deed: Deed) -> bool:
        if self._waiting.get(deed.key) is not deed:
            return False
        razed = self._razed.get(deed.repository)
        if razed is not None:
            return razed is deed and not self._busy[deed.repository]
        return all(next(iter(self._lines[name])) == deed.number for name in deed.names)

    def _leave(self, deed: Deed) -> None:
        """Nothing waits for it any more."""
        self._batch_of.pop(deed.number).left -= 1
        for name in deed.names:
            line = self._lines[name]
            del line[deed.number]
            if line:
                self._offer(next(iter(line.values())))
            else:
                del self._lines[name]
        for other in list(self._unblocked(deed)):
            self._offer(other)

    def _unblocked(self, deed: Deed) -> Iterator[Deed]:
        """What waited for a removed repository, or to remove it."""
        razed = self._razed.get(deed.repository)
        if razed is deed:
            del self._razed[deed.repository]
            yield from (other for other in self._waiting.values() if other.repository == deed.repository)
        elif razed is not None:
            yield razed

    def _advance(self) -> None:
        while self._batches and not self._batches[0].left and not self._batches[0].open:
            self.kept = self._batches.popleft().cursor
