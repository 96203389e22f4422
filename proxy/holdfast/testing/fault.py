"""How a scripted parent misbehaves: which requests, how many of them, and in what way."""

from __future__ import annotations

import asyncio
import re

from msgspec import Struct, field


class RequestGate:
    """Holds requests back until the test releases them. `arrived` counts those that wait or waited."""

    def __init__(self) -> None:
        self.arrived = 0
        self._open = asyncio.Event()
        self._arrival = asyncio.Condition()

    async def pass_through(self) -> None:
        """Called by the parent for each request that the fault takes."""
        async with self._arrival:
            self.arrived += 1
            self._arrival.notify_all()
        await self._open.wait()

    async def wait_arrived(self, number: int = 1) -> None:
        """Wait until that many requests have arrived."""
        async with self._arrival:
            await self._arrival.wait_for(lambda: self.arrived >= number)

    def release(self) -> None:
        """Let everyone through, now and from now on."""
        self._open.set()


class ScriptedFault(Struct, kw_only=True, omit_defaults=True):
    """One rule of the script. The first rule that matches a request and has `times` left takes it.

    Matching: `method` ("" any) and `path`, a regular expression searched in the path without its query.
    `skip` lets that many matching requests through first; `times` -1 means for ever.

    Effects, all of which may be combined:
      delay        seconds before the answer starts
      drop         the connection ends without an answer (by RST when `reset`)
      status       this status instead, with `body` as its body
      headers      [name, value] pairs that replace (or add) headers; a value of "" removes
      repeat       [name, value] pairs that are added, repeated lines kept
      redirect     a Location; {path} and {query} stand for the request's own
      flip_at      this byte of the whole content is inverted; negative counts from the end
      cut_after    the body ends after that many bytes, by FIN or, with `reset`, by RST
      stall_after  after that many bytes of the body nothing more is sent, and the connection stays open
      drip         after `drip_after` bytes of the body: one byte at a time, so many a second
      surplus      that many bytes more than Content-Length
      ignore_range 200 and the whole content whatever Range is
      shift        a 206 with the requested Content-Range whose bytes start that many later
      endless      "headers", "body" (chunked, without end) or "line" (one header line without end)
      interim      so many answers 103 before the answer; -1 for ever
      gzip         the body compressed, with Content-Encoding
      expire       every token given out so far stops working while this answer is sent
      gate         waits until the test releases it (in process only)
    """

    method: str = ""
    path: str = ""
    skip: int = 0
    times: int = 1
    delay: float = 0.0
    drop: bool = False
    reset: bool = False
    status: int = 0
    body: str = ""
    headers: list[tuple[str, str]] = field(default_factory=list)
    repeat: list[tuple[str, str]] = field(default_factory=list)
    redirect: str = ""
    flip_at: int | None = None
    cut_after: int = -1
    stall_after: int = -1
    drip: float = 0.0
    drip_after: int = 0
    surplus: int = 0
    ignore_range: bool = False
    shift: int = 0
    endless: str = ""
    interim: int = 0
    gzip: bool = False
    expire: bool = False
    gate: RequestGate | None = None
    taken: int = 0

    def takes(self, method: str, path: str) -> bool:
        """Whether this rule takes the request; counts it when it does."""
        if self.times == 0 or (self.method and self.method != method) or not re.search(self.path, path):
            return False
        if self.skip > 0:
            self.skip -= 1
            return False
        self.times -= self.times > 0
        self.taken += 1
        return True


NO_FAULT = ScriptedFault(times=0)
