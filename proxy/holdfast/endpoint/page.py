"""Pages of a sorted list: `n`, `last` and the `Link` to the next (oci-spec 1.12, 1.13, 4.6)."""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import quote

from holdfast.errors import PageInvalid
from holdfast.wire.message import Request
from holdfast.wire.query import encode_query

# 1*DIGIT; int() alone takes "1_0", " 5 " and other alphabets
_NUMBER = re.compile(r"[0-9]+")
_DIGITS = 9


class Page(NamedTuple):
    """What was asked: at most `size` entries (None: all), those after `last`."""

    size: int | None
    last: str

    def cut(self, entries: list[str]) -> tuple[list[str], bool]:
        """The entries of this page out of a sorted list, and whether more follow. No more follow `n=0`:
        a Link from it would lead nowhere."""
        after = [entry for entry in entries if entry > self.last] if self.last else entries
        if self.size is None or len(after) <= self.size:
            return after, False
        return after[: self.size], self.size > 0


def asked_page(request: Request, limit: int) -> Page:
    """The page a request asks for; `n` over `limit` is cut to it. Raises `PageInvalid`."""
    sizes = {value for name, value in request.query if name == "n"}
    last = request.parameter("last") or ""
    if not sizes:
        return Page(None, last)
    text = sizes.pop()
    if sizes or not _NUMBER.fullmatch(text):
        raise PageInvalid("n is not a whole number, or is given twice", detail=f"0 to {limit}")
    return Page(limit if len(text.lstrip("0")) > _DIGITS else min(int(text), limit), last)


def next_link(request: Request, last: str) -> tuple[str, str]:
    """The Link header to the page after `last`: the same URL with another `last`, as a path, so that it
    holds behind any proxy that keeps paths (RFC 8288 3; relative to the request's own URL)."""
    kept = tuple((name, value) for name, value in request.query if name != "last")
    target = f"{quote(request.path, safe='/:@')}?{encode_query((*kept, ('last', last)))}"
    return "Link", f'<{target}>; rel="next"'
