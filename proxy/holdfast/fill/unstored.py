"""A fill while the disk is full: bytes pass through a window of memory at the pace of its slowest reader.

What is behind every reader and the hash is dropped, so each reader is wanted for from where it is.

Who comes while nothing was dropped shares the transfer. Who comes later gets a fill, and a transfer, of his
own: the bytes that he needs first are nowhere here any more, and to fetch them into this window would make
its readers wait for him.
"""

from __future__ import annotations

from holdfast.fill.audience import Audience
from holdfast.fill.extents import Extents, Run
from holdfast.fill.hashing import Frontier
from holdfast.fill.medium import Medium
from holdfast.fill.plan import Want


def unstored_wants(audience: Audience, hashed: int | None) -> set[Want]:
    """What readers still have before them, and for whole ones what the hash (at `hashed`, None: it is
    through) has."""
    wants = {
        Want(at, reader.end, position=at)
        for reader in audience.readers
        if reader.failure is None and (at := max(reader.start, reader.position)) < reader.end
    }
    wants |= {Want(want.start, want.end) for want in audience.tickets()}
    if audience.has_whole and hashed is not None:
        wants.add(Want(hashed, None, position=hashed))
    return wants


def make_room(medium: Medium, held: Extents, frontier: Frontier, wants: set[Want]) -> list[Run]:
    """Drop from memory what nobody has before him; returns what was dropped."""
    wanted = Extents([(frontier.position, held.run_end(frontier.position))])
    for want in wants:
        wanted.add(want.start, medium.size if want.end is None else want.end)
    dropped = medium.keep(wanted)
    for run in dropped:
        held.remove(*run)
    return dropped
