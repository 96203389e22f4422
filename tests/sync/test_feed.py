"""A child that reads its parent's log: order, coalescing, cursors; and simulated lives of pushes, deletes, lost
answers, kills between any two steps and logs that were trimmed, at whose end the child has what the parent has."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from holdfast.gateway.protocol import Contents, ContentsEntry, Message, Messages
from holdfast.sync.source.feed import ContentsQuery, Feed, FeedChange, MessagesQuery

SEEDS = range(300)
#: steps after which a child that follows well has long been where its parent is
PEACE = 5_000
REPOSITORIES, TAGS, DIGESTS = ("a", "b/c"), ("1", "2", "latest"), tuple(f"sha256:{n:064x}" for n in range(6))


def push(number: int, tag: str, digest: str, repository: str = "a") -> Message:
    """A tag that moved, or with "" a manifest that came."""
    return Message(number, 0.0, "push", "tag" if tag else "manifest", repository, tag, digest)


def delete(number: int, tag: str = "", digest: str = "", repository: str = "a") -> Message:
    """A tag, a manifest or a repository that was deleted."""
    kind = "tag" if tag else "manifest" if digest else "repository"
    return Message(number, 0.0, "delete", kind, repository, tag, digest)  # type: ignore[arg-type]


def following(*messages: Message, more: bool = False) -> Feed:
    """A feed with these messages."""
    feed = Feed("log-0")
    assert feed.add_messages("log-0", Messages(f"log-{len(messages)}", messages, more))
    return feed


def taken(feed: Feed) -> list[FeedChange]:
    """All that may begin now."""
    return list(iter(feed.take, None))


def keys_of(changes: list[FeedChange]) -> list[str]:
    return [("-" if change.removes else "+") + change.key for change in changes]


def test_many_messages_for_a_tag_are_one_deed() -> None:
    feed = following(*(push(n, "1", DIGESTS[n]) for n in range(5)), push(5, "2", DIGESTS[0]))
    assert [(change.tag, change.digest) for change in taken(feed)] == [("1", DIGESTS[4]), ("2", DIGESTS[0])]


def test_nothing_begins_before_all_was_read() -> None:
    feed = following(push(1, "1", DIGESTS[0]), more=True)
    assert taken(feed) == []
    assert feed.query() == MessagesQuery("log-1")
    feed.add_messages("log-1", Messages("log-9", (delete(2, "1"),)))
    assert keys_of(taken(feed)) == ["-a:1"]


def test_deeds_of_one_name_follow_each_other_and_others_do_not_wait() -> None:
    feed = following(push(1, "1", DIGESTS[0]))
    (first,) = taken(feed)
    feed.add_messages("log-1", Messages("log-2", (push(2, "1", DIGESTS[1]), push(3, "2", DIGESTS[2]))))
    (other,) = taken(feed)
    assert other.tag == "2"
    feed.settle(first)
    assert [change.digest for change in taken(feed)] == [DIGESTS[1]]


def test_a_digest_that_was_deleted_goes_before_it_comes_again() -> None:
    feed = following(delete(1, digest=DIGESTS[0]), push(2, "1", DIGESTS[0]))
    (gone,) = taken(feed)
    assert gone.removes
    feed.settle(gone)
    assert keys_of(taken(feed)) == ["+a:1"]


def test_a_repository_goes_when_nothing_is_under_way_in_it() -> None:
    feed = following(push(1, "1", DIGESTS[0]))
    (first,) = taken(feed)
    feed.add_messages(
        "log-1", Messages("log-2", (push(2, "2", DIGESTS[1]), delete(3), push(4, "1", DIGESTS[2])))
    )
    assert taken(feed) == []
    feed.settle(first)
    (gone,) = taken(feed)
    assert keys_of([gone]) == ["-a"]
    assert feed.kept == "log-1"
    feed.settle(gone)
    (last,) = taken(feed)
    assert last.digest == DIGESTS[2]
    feed.settle(last)
    assert (feed.kept, bool(feed)) == ("log-2", False)


def test_the_cursor_waits_for_the_first_that_is_not_settled() -> None:
    feed = following(push(1, "1", DIGESTS[0]))
    feed.add_messages("log-1", Messages("log-2", (push(2, "2", DIGESTS[1]),)))
    first, second = taken(feed)
    feed.settle(second)
    assert feed.kept == "log-0"
    feed.settle(first)
    assert feed.kept == "log-2"


def test_an_answer_to_an_old_question_is_dropped() -> None:
    feed = following(push(1, "1", DIGESTS[0]))
    assert not feed.add_messages("log-0", Messages("log-7", (push(1, "1", DIGESTS[0]),)))
    assert feed.seen == "log-1"


def test_what_was_not_listed_is_known_before_the_cursor_counts() -> None:
    feed = Feed()
    assert feed.query() is None
    feed.start_listing()
    assert feed.query() == ContentsQuery("")
    feed.add_contents("", Contents("log-5", (ContentsEntry("a", DIGESTS[0], "1"),), "page"))
    feed.add_contents("page", Contents("log-5", (ContentsEntry("a", DIGESTS[1]),)))
    assert not feed.is_comparison_due
    feed.add_messages("log-5", Messages("log-8", (push(6, "2", DIGESTS[2]),)))
    assert feed.is_comparison_due
    assert feed.listed("a") == {"1", "2", *DIGESTS[:3]}
    feed.add_missing("a", tag="3")
    for change in taken(feed):
        feed.settle(change)
    assert feed.kept == ""
    feed.end_comparison()
    assert feed.kept == "log-8"


def test_a_full_listing_loses_no_removal() -> None:
    """A listing without something may come from a parent that lost its disk; the log says that it was removed."""
    feed = following(push(1, "1", DIGESTS[0]))
    for change in taken(feed):
        feed.settle(change)
    feed.start_listing()
    assert feed.query() == MessagesQuery("log-1")
    feed.add_messages("log-1", Messages("log-2", (push(2, "2", DIGESTS[1]),), more=True))
    feed.add_messages("log-2", Messages("log-4", (delete(3, "1"), delete(4, "2"))))
    assert feed.query() == ContentsQuery("")
    feed.add_contents("", Contents("log-5", (ContentsEntry("a", DIGESTS[1], "2"),)))
    assert feed.query() == MessagesQuery("log-5")
    assert taken(feed) == []
    feed.add_messages("log-5", Messages("log-5", ()))
    assert feed.is_comparison_due
    feed.end_comparison()
    one, other = taken(feed)
    assert sorted(keys_of([one, other])) == ["+a:2", "-a:1"]
    feed.settle(one)
    assert feed.kept == "log-1"
    feed.settle(other)
    assert (feed.kept, bool(feed)) == ("log-5", False)


def test_a_full_listing_goes_on_without_a_log_that_was_trimmed() -> None:
    feed = following(push(1, "1", DIGESTS[0]))
    feed.start_listing()
    feed.trimmed()
    assert (feed.kept, feed.query()) == ("", None)
    feed.start_listing()
    assert feed.query() == ContentsQuery("")


# ---- a parent and a child


@dataclass
class Above:
    """A registry with a log, of which the front is trimmed."""

    tags: dict[tuple[str, str], str] = field(default_factory=dict)
    manifests: set[tuple[str, str]] = field(default_factory=set)
    log: list[Message] = field(default_factory=list)
    first: int = 1
    number: int = 0
    id: str = "x"

    def note(self, message: Message) -> None:
        self.number = message.number
        self.log.append(message)

    def change(self, dice: random.Random) -> None:
        """Somebody does something."""
        repository, tag, digest = dice.choice(REPOSITORIES), dice.choice(TAGS), dice.choice(DIGESTS)
        number, what = self.number + 1, dice.random()
        if what < 0.6:
            self.manifests.add((repository, digest))
            if tagged := dice.random() < 0.7:
                self.tags[repository, tag] = digest
            self.note(push(number, tag if tagged else "", digest, repository))
        elif what < 0.8 and (old := self.tags.pop((repository, tag), None)):
            self.note(delete(number, tag, old, repository))
        elif what < 0.95 and (repository, digest) in self.manifests:
            self.manifests.discard((repository, digest))
            self.note(delete(number, digest=digest, repository=repository))
            for name in [t for r, t in self.tags if r == repository and self.tags[r, t] == digest]:
                del self.tags[repository, name]
                self.note(delete(self.number + 1, name, digest, repository))
        elif what > 0.98:
            self.tags = {key: value for key, value in self.tags.items() if key[0] != repository}
            self.manifests = {key for key in self.manifests if key[0] != repository}
            self.note(delete(number, repository=repository))

    def forget(self, dice: random.Random) -> None:
        """The log is trimmed, or begun anew."""
        if dice.random() < 0.3:
            self.id += "x"
        self.first = self.number + 1

    def messages(self, after: str, most: int) -> Messages | None:
        """None: 410."""
        log, _, at = after.partition("-")
        if log != self.id or int(at) + 1 < self.first:
            return None
        rest = [message for message in self.log if message.number > int(at)]
        last = rest[:most][-1].number if rest else int(at)
        return Messages(f"{log}-{last}", tuple(rest[:most]), len(rest) > most)

    def contents(self, after: str, most: int) -> Contents:
        """A page."""
        named = {(r, d) for (r, _), d in self.tags.items()}
        every = sorted((r, t, d) for (r, t), d in self.tags.items())
        every = sorted(every + [(r, "", d) for r, d in self.manifests - named])
        rest = [row for row in every if " ".join(row) > after]
        page = tuple(ContentsEntry(r, d, t) for r, t, d in rest[:most])
        return Contents(
            f"{self.id}-{self.number}", page, " ".join(rest[most - 1]) if len(rest) > most else ""
        )


@dataclass
class Below:
    """A child: what it holds and what it wrote down outlast a kill."""

    above: Above
    dice: random.Random
    tags: dict[tuple[str, str], str] = field(default_factory=dict)
    manifests: set[tuple[str, str]] = field(default_factory=set)
    kept: str = ""
    troubles: set[tuple[str, str, str]] = field(default_factory=set)
    fetched: int = 0
    reads: type[Feed] = Feed
    #: whether an operator has everything listed now and then
    lists: bool = True

    def __post_init__(self) -> None:
        self.feed = self.reads(self.kept)
        self.fresh = set(self.troubles)
        self.work: list[FeedChange] = []
        self.cursor = ""

    def kill(self) -> None:
        """What was not written down is lost."""
        self.__post_init__()

    def step(self) -> None:
        """One thing of many."""
        what = self.dice.random()
        if what < 0.3:
            self.ask()
        elif what < 0.5 and (change := self.feed.take()) is not None:
            self.work.append(change)
        elif what < 0.8 and self.work:
            self.act(self.work.pop(self.dice.randrange(len(self.work))))
        elif what < 0.9:
            self.kept, self.troubles = self.feed.kept, set(self.fresh)
        elif self.fresh:
            self.retry(self.dice.choice(sorted(self.fresh)))

    def ask(self) -> None:
        """A question, whose answer may be lost; now and then a full listing."""
        question = self.feed.query()
        if question is None or (self.lists and self.dice.random() < 0.02):
            self.feed.start_listing()
            self.work.clear()
            return
        most = self.dice.choice((1, 3, 50))
        if isinstance(question, ContentsQuery):
            page = self.above.contents(question.after, most)
            if self.dice.random() > 0.2:
                # the cursor is where the log stood before the first page
                self.cursor = page.cursor if not question.after else self.cursor
                self.feed.add_contents(question.after, Contents(self.cursor, page.entries, page.next))
        else:
            answer = self.above.messages(question.after, most)
            if answer is None:
                self.feed.trimmed()
                self.work.clear()
            elif self.dice.random() > 0.2:
                self.feed.add_messages(question.after, answer)
        self.compare()

    def compare(self) -> None:
        if not self.feed.is_comparison_due:
            return
        for repository, tag in self.tags:
            if tag not in self.feed.listed(repository):
                self.feed.add_missing(repository, tag=tag)
        for repository, digest in self.manifests:
            if digest not in self.feed.listed(repository):
                self.feed.add_missing(repository, digest=digest)
        self.feed.end_comparison()

    def act(self, change: FeedChange) -> None:
        """Do it; now and then it fails for a while, and is recorded, or is given back."""
        if self.dice.random() < 0.1:
            self.feed.give_back(change)
            return
        self.fresh.discard((change.repository, change.tag, "" if change.tag else change.digest))
        if change.removes:
            self.remove(change)
        elif (change.repository, change.digest) not in self.above.manifests or self.dice.random() < 0.1:
            self.fresh.add((change.repository, change.tag, "" if change.tag else change.digest))
        else:
            self.have(change.repository, change.tag, change.digest)
        self.feed.settle(change)

    def have(self, repository: str, tag: str, digest: str) -> None:
        self.fetched += (repository, digest) not in self.manifests
        self.manifests.add((repository, digest))
        if tag:
            self.tags[repository, tag] = digest

    def remove(self, change: FeedChange) -> None:
        one = (change.repository, change.tag)
        if change.tag:
            self.tags.pop(one, None)
            return
        self.manifests = {
            (r, d) for r, d in self.manifests if r != change.repository or d != (change.digest or d)
        }
        gone = [
            key
            for key, d in self.tags.items()
            if key[0] == change.repository and (not change.digest or d == change.digest)
        ]
        for key in gone:
            del self.tags[key]

    def retry(self, trouble: tuple[str, str, str]) -> None:
        """Recorded troubles are requested; a tag by its name, because it may have moved."""
        repository, tag, digest = trouble
        if any(change.repository == repository for change in self.work):
            return
        self.fresh.discard(trouble)
        digest = self.above.tags.get((repository, tag), "") if tag else digest
        if (repository, digest) in self.above.manifests:
            self.have(repository, tag, digest)


def life(seed: int, reads: type[Feed] = Feed) -> tuple[Above, Below]:
    """A parent that lives its life, a child that follows, and in the end a while of peace."""
    dice = random.Random(seed)
    above = Above()
    below = Below(above, dice, reads=reads)
    for _ in range(dice.randrange(100, 600)):
        what = dice.random()
        if what < 0.2:
            above.change(dice)
        elif what < 0.21:
            above.forget(dice)
        elif what < 0.23:
            below.kill()
        else:
            below.step()
    below.lists = False
    for _ in range(PEACE):
        below.step()
        feed = below.feed
        if feed.kept == feed.seen != "" and not (feed or feed.is_behind or below.fresh):
            answer = above.messages(feed.seen, 50)
            if answer is not None and not answer.messages:
                return above, below
    raise AssertionError(f"seed {seed}: no peace: {below.feed.query()}, {below.fresh}, {below.work}")


class CountsEarly(Feed):
    """The cursor counts what was read, and not what was done."""

    def _advance(self) -> None:
        super()._advance()
        self.kept = self.seen if self._page is None else self.kept


class KeepsNoOrder(Feed):
    """Whatever is next is begun."""

    def _is_ready(self, change: FeedChange) -> bool:
        return self._waiting.get(change.key) is change


class ForgetsWhatStopped(Feed):
    """What was given back does not wait again."""

    def give_back(self, change: FeedChange) -> None:
        """See `Feed`."""
        self.settle(change)


@pytest.mark.parametrize("reads", [CountsEarly, KeepsNoOrder, ForgetsWhatStopped])
def test_a_planted_fault_is_found(reads: type[Feed]) -> None:
    assert not all(ends_well(seed, reads) for seed in range(200))


def ends_well(seed: int, reads: type[Feed]) -> bool:
    try:
        above, below = life(seed, reads)
    except (AssertionError, LookupError):
        return False
    return below.tags == above.tags and below.manifests <= above.manifests and not set(missing(above, below))


@pytest.mark.parametrize("seed", SEEDS)
def test_in_the_end_the_child_has_what_the_parent_has(seed: int) -> None:
    above, below = life(seed)
    assert below.tags == above.tags
    assert below.manifests <= above.manifests
    assert set(missing(above, below)) == set()


def missing(above: Above, below: Below) -> Iterator[tuple[str, str]]:
    """Manifests of the parent that the child should have: what a tag names, and what no tag ever did. A digest that a
    tag that was skipped in between may be missing."""
    named = {(r, d) for (r, _), d in above.tags.items()}
    passed = {(m.repository, m.digest) for m in above.log if m.kind == "tag"}
    yield from (named | (above.manifests - passed)) - below.manifests


def test_what_is_here_is_not_fetched_again_after_a_kill() -> None:
    above = Above()
    for n in range(3):
        above.manifests.add(("a", DIGESTS[n]))
        above.tags["a", TAGS[n]] = DIGESTS[n]
        above.note(push(n + 1, TAGS[n], DIGESTS[n]))
    below = Below(above, random.Random(1), kept="x-0")
    for _ in range(3):
        below.kill()
        for _ in range(500):
            below.step()
    assert (below.tags, below.fetched) == (above.tags, 3)
