"""What a request says about the bytes it brings (distribution-spec, "Pushing a blob in chunks")."""

from __future__ import annotations

import re
from typing import NamedTuple

from holdfast.errors import SizeInvalid, UploadInvalid
from holdfast.wire.message import Request

#: `<start>-<end>`, both inclusive, nothing else: neither a unit nor a total, as RFC 9110 has them. 19 digits
#: hold every size a file can have.
_GRAMMAR = re.compile(r"([0-9]{1,19})-([0-9]{1,19})")


class Claim(NamedTuple):
    """Where the bytes are to begin (None: where the session ends) and how many there are (None: as many as
    come)."""

    start: int | None
    length: int | None

    def fits(self, size: int) -> bool:
        """Whether they go on where a session of `size` bytes ends."""
        return self.start is None or self.start == size


def claimed(request: Request) -> Claim:
    """What Content-Range and Content-Length say. Raises UploadInvalid for a Content-Range outside its grammar,
    SizeInvalid when the two contradict each other."""
    length = request.body.length if request.body is not None else 0
    lines = request.header_lines("content-range")
    if not lines:
        return Claim(None, length)
    found = _GRAMMAR.fullmatch(lines[0]) if len(lines) == 1 else None
    if found is None or (span := int(found[2]) - int(found[1]) + 1) < 1:
        raise UploadInvalid("Content-Range is not one <start>-<end>, both counted from 0 and included")
    if length not in (None, span):
        raise SizeInvalid(f"Content-Range says {span} bytes, Content-Length says {length}")
    return Claim(int(found[1]), span)
