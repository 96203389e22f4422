"""Logs on stderr: one JSON line an event for collectors, words and colours on a terminal. Secrets never come here.

A line that cannot be written is dropped: its disk may be full, or its reader dead, and a request must not fail for
that.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import traceback
from collections.abc import Callable, Hashable, Mapping, Sequence
from datetime import UTC, datetime
from select import PIPE_BUF
from typing import Literal

import msgspec

from holdfast.clock import Clock
from holdfast.printable import printable, printable_json

LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "none": logging.CRITICAL + 1,
}
#: SGR codes of a terminal, by level, and of what stands beside the words
_COLOURS = {"debug": "2", "info": "32", "warning": "33", "error": "1;31"}
_FAINT = "2"

Format = Literal["auto", "json", "text"]

#: `LogLimit`: each subject once in this time (seconds), and so many subjects at most
SECONDS, MOST = 60.0, 20


def write_stderr(line: bytes) -> None:
    """Writes one event, or several, by one system call, so that lines of several processes never mix."""
    with contextlib.suppress(OSError):
        os.write(2, line + b"\n")


def say(line: str) -> None:
    """Writes a line on stdout, for the person or service that started the node."""
    with contextlib.suppress(OSError):
        os.write(1, f"{line}\n".encode())


def _encoded(event: object) -> bytes:
    line = msgspec.json.encode(event, enc_hook=str)
    return line if line.isascii() and b"\x7f" not in line else printable_json(line.decode()).encode()


class TextLines:
    """An event for a person: time of day (UTC), level, words, then what belongs to them."""

    def __init__(self, coloured: bool) -> None:
        self._coloured = coloured

    def __call__(self, fields: Mapping[str, object]) -> bytes:
        event = dict(fields)
        level, trace = str(event.pop("level", "info")), event.pop("exception", "")
        time, words = str(event.pop("timestamp", ""))[11:19], printable(str(event.pop("event", "")))
        who = f"{event.pop('role', '')} {event.pop('pid', '')}".strip()
        rest = "".join(f"  {key}={_shown(value)}" for key, value in event.items())
        line = f"{time} {self._in(_COLOURS.get(level, ''), f'{level:<7}')} {words}{rest}"
        if who:
            line += self._in(_FAINT, f"  [{who}]")
        return "\n".join([line, *map(printable, str(trace).splitlines())]).encode()

    def _in(self, colour: str, text: str) -> str:
        return f"\x1b[{colour}m{text}\x1b[0m" if self._coloured and colour else text


def _shown(value: object) -> str:
    """A value; in quotes where its end could not be seen, and no quote within it ends it."""
    if not isinstance(value, str):
        return printable(_encoded(value).decode())
    if value and not set(' "') & set(value):
        return printable(value)
    return printable('"{}"'.format(value.replace("\\", "\\\\").replace('"', '\\"')))


def _now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


class Log:
    """Events of this process, each with fields: `log.info("range ignored", digest=…)`. What JSON has no type
    for is written as its `str`. Before `configure`, text lines of every level on stderr.

    Considered instead: structlog, which imports rich where that is installed, as it is for the command line (5.8 MB and
    0.1 s a process; 1.2 MB without rich); the loggers of the standard library, whose events have no fields.
    """

    def __init__(self) -> None:
        #: the least level that is written, as the standard library counts them
        self.least = LEVELS["debug"]
        self.render: Callable[[Mapping[str, object]], bytes] = TextLines(coloured=False)
        self.write: Callable[[bytes], None] = write_stderr
        #: fields of every event
        self.origin: Mapping[str, object] = {}

    def set_level(self, level: str) -> None:
        """Write from this level on, "none" for nothing at all. A parent may change it while the process runs
        (references.md 1.1, logLevel)."""
        self.least = LEVELS[level]

    def debug(self, event: str, /, **fields: object) -> None:
        """Logs detail that helps to find a fault."""
        if self.least <= LEVELS["debug"]:
            self._emit("debug", event, fields)

    def info(self, event: str, /, **fields: object) -> None:
        """Logs what the node did."""
        if self.least <= LEVELS["info"]:
            self._emit("info", event, fields)

    def warning(self, event: str, /, **fields: object) -> None:
        """Logs what an operator may have to change."""
        if self.least <= LEVELS["warning"]:
            self._emit("warning", event, fields)

    def error(self, event: str, /, **fields: object) -> None:
        """Logs a failure. `exc_info`: an exception whose traceback is written."""
        if self.least <= LEVELS["error"]:
            self._emit("error", event, fields)

    def exception(self, event: str, /, **fields: object) -> None:
        """Logs a failure with the traceback of the exception that is being handled."""
        self.error(event, **fields, exc_info=sys.exception())

    def _emit(self, level: str, event: str, fields: dict[str, object]) -> None:
        error = fields.pop("exc_info", None)
        fields |= {"event": event, "level": level, "timestamp": _now(), **self.origin}
        if isinstance(error, BaseException):
            fields["exception"] = "".join(traceback.format_exception(error)).rstrip("\n")
        self.write(self.render(fields))


log = Log()


class AccessLine(msgspec.Struct, omit_defaults=True, gc=False):
    """One answered request. `user` is the token that the caller proved to hold, `cache` "hit" for content that was
    here and "miss" for what the parent was asked for; what is not known is left out."""

    client: str
    method: str
    path: str
    status: int
    received: int
    bytes: int
    seconds: float
    complete: bool
    user: str = ""
    agent: str = ""
    ns: str = ""
    cache: str = ""


_ANSWERED = "request answered"


def _one_by_one(lines: Sequence[AccessLine]) -> None:
    """As any other event."""
    for line in lines:
        log.info(_ANSWERED, **msgspec.to_builtins(line))


def _together(role: str) -> Callable[[Sequence[AccessLine]], None]:
    """JSON lines with few system calls, each of which a pipe takes whole (PIPE_BUF): 1 µs a line, where an event of
    its own takes 10."""
    encoder = msgspec.json.Encoder()

    def write(lines: Sequence[AccessLine]) -> None:
        if log.least > LEVELS["info"]:
            return
        about = {"event": _ANSWERED, "level": "info", "timestamp": _now(), "role": role, "pid": os.getpid()}
        tail = b"," + encoder.encode(about)[1:]
        held: list[bytes] = []
        size = 0
        for line in lines:
            text = encoder.encode(line)[:-1] + tail
            if not text.isascii() or b"\x7f" in text:
                text = printable_json(text.decode()).encode()
            if held and size + len(text) >= PIPE_BUF:
                write_stderr(b"\n".join(held))
                held, size = [], 0
            held.append(text)
            size += len(text) + 1
        if held:
            write_stderr(b"\n".join(held))

    return write


class AccessLog:
    """The access log of this process."""

    def __init__(self) -> None:
        self.write: Callable[[Sequence[AccessLine]], None] = _one_by_one


access_log = AccessLog()


def configure(level: str, role: str, form: Format = "auto") -> None:
    """Send the events of this process to stderr from `level` on, each with its role and process id."""
    is_terminal = os.isatty(2)
    in_words = form == "text" or (form == "auto" and is_terminal)
    log.set_level(level)
    log.origin = {"role": role, "pid": os.getpid()}
    log.render = TextLines(is_terminal and wants_colour(os.environ)) if in_words else _encoded
    access_log.write = _one_by_one if in_words else _together(role)
    logging.basicConfig(level=LEVELS["warning"], stream=sys.stderr, format="%(message)s")


def wants_colour(environ: Mapping[str, str]) -> bool:
    """Whether a terminal is to be coloured (https://no-color.org)."""
    return not environ.get("NO_COLOR") and environ.get("TERM", "") != "dumb"


class LogLimit:
    """Limits lines that clients can cause without a login, so that they do not fill the log."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._since, self._left_out = float("-inf"), 0
        self._said: set[Hashable] = set()

    def due(self, thing: Hashable) -> dict[str, int] | None:
        """What to log with it: how many lines were left out since the last one, if any were. None to log nothing."""
        now = self._clock.monotonic()
        if now - self._since >= SECONDS:
            self._since = now
            self._said.clear()
        if thing in self._said or len(self._said) >= MOST:
            self._left_out += 1
            return None
        self._said.add(thing)
        left, self._left_out = self._left_out, 0
        return {"left_out": left} if left else {}
