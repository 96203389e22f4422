"""Who passes to the admin API: the operator, from a program or from a page of this very listener.

What is asked for does not matter here: without credentials every path of the API answers alike.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from holdfast.admin.operator import Operator
from holdfast.clock import Clock
from holdfast.errors import Denied, TooManyLogins, Unauthorized
from holdfast.login.limiter import Limiter
from holdfast.wire.message import Request

CHALLENGE = ("WWW-Authenticate", 'Basic realm="holdfast admin", charset="UTF-8"')


class Gate:
    """Lets the operator through, and nobody else. `failures` a minute from one address, then 429; but never for the
    right password when it is one that nobody can guess."""

    def __init__(self, operator: Operator, clock: Clock, failures: int) -> None:
        self._operator, self._clock = operator, clock
        self._limiter = Limiter(failures)

    def admit(self, request: Request) -> None:
        """Returns for the operator. Raises `TooManyLogins`, `Unauthorized`, and `Denied` for what a browser was made to
        send by a page from elsewhere."""
        # by address alone: there is one name, and who guesses at it must not shut the operator out
        address, now = request.client, self._clock.monotonic()
        said = request.header_lines("authorization")
        is_right = len(said) == 1 and self._operator.is_said_by(said[0])
        # others on the operator's machine guess as the same address; what cannot be guessed need not wait for them
        waits = not (is_right and self._operator.is_unguessable)
        if waits and (wait := self._limiter.wait(address, address, now)):
            raise TooManyLogins("too many wrong passwords from this address", retry_after=int(wait) + 1)
        if not is_right:
            if said:
                self._limiter.failed(address, address, now)
            raise Unauthorized(
                "the admin API wants the operator's name and password (Basic); they are in operator.json in the data"
                " directory of the node",
                headers=(CHALLENGE,),
            )
        _refuse_foreign_pages(request)


def _refuse_foreign_pages(request: Request) -> None:
    """S24: a browser keeps Basic credentials and sends them along with a form of any site. There is no CORS either."""
    site, origin = request.header("sec-fetch-site"), request.header("origin")
    foreign = origin is not None and urlsplit(origin).netloc.lower() != (request.header("host") or "").lower()
    if foreign or site in ("cross-site", "same-site"):
        raise Denied("a page of another site may not use the admin API")
