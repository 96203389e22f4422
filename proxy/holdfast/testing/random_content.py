"""What a scripted parent serves: bytes in memory, or bytes computed from a seed and held nowhere."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Protocol

from blake3 import blake3

SLICE = 1 << 20


class ScriptedContent(Protocol):
    """Immutable bytes with a size and a digest. `read` returns [offset, offset + length) cut at the end."""

    size: int

    @property
    def digest(self) -> str: ...

    def read(self, offset: int, length: int) -> bytes: ...


class HeldContent:
    """Bytes in memory."""

    def __init__(self, body: bytes) -> None:
        self.body, self.size = body, len(body)
        self.digest = digest_of(body)

    def read(self, offset: int, length: int) -> bytes:
        """Bytes from `offset`, at most `length`."""
        return self.body[offset : offset + length]


class GeneratedContent:
    """`size` pseudo-random bytes: the BLAKE3 output stream of a seed, which can be read at any offset."""

    def __init__(self, size: int, seed: str = "holdfast") -> None:
        self.size, self.seed = size, seed
        self._stream = blake3(seed.encode())

    @property
    def digest(self) -> str:
        """sha256 over all bytes; computed once per (size, seed) in a process, about 1 s a gigabyte."""
        return _generated_digest(self.size, self.seed)

    def read(self, offset: int, length: int) -> bytes:
        """Bytes from `offset`, at most `length`."""
        length = max(0, min(length, self.size - offset))
        return self._stream.digest(length=length, seek=offset) if length else b""


@lru_cache(maxsize=256)
def _generated_digest(size: int, seed: str) -> str:
    content, hasher = GeneratedContent(size, seed), hashlib.sha256()
    for offset in range(0, size, SLICE):
        hasher.update(content.read(offset, SLICE))
    return f"sha256:{hasher.hexdigest()}"


def digest_of(body: bytes, algorithm: str = "sha256") -> str:
    """The digest of bytes, as text."""
    return f"{algorithm}:{hashlib.new(algorithm, body).hexdigest()}"
