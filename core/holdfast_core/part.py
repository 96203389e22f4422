"""A fill's growing file: sparse, of its full size from the start, written at any offset."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from holdfast_core.digest import Digest
from holdfast_core.directory import os_error
from holdfast_core.errors import StoreError

if TYPE_CHECKING:
    from typing_extensions import Buffer


class FillPart:
    """An open part. `fd` stays valid for readers after the part became a blob, until `close`."""

    def __init__(
        self,
        path: str,
        fd: int,
        repository: str,
        digest: Digest,
        size: int,
        on_close: Callable[[], None],
        refused: Callable[[OSError, str], StoreError],
    ) -> None:
        self.path = path
        self.fd = fd
        self.repository = repository
        self.digest = digest
        self.size = size
        self._on_close = on_close
        self._refused = refused

    def write(self, offset: int, data: Buffer) -> None:
        """Write all of `data` at `offset`. Raises Unwritable when the disk takes it not."""
        view = memoryview(data).cast("B")
        if offset < 0 or offset + len(view) > self.size:
            raise StoreError(
                f"{self.digest}: write of {len(view)} bytes at {offset} leaves its {self.size} bytes"
            )
        done = 0
        try:
            while done < len(view):
                done += os.pwrite(self.fd, view[done:], offset + done)
        except OSError as error:
            raise self._refused(error, str(self.digest)) from error

    def read(self, offset: int, length: int) -> bytes:
        """Up to `length` bytes at `offset`, as they are on disk now; holes read as zeros."""
        try:
            return os.pread(self.fd, length, offset)
        except OSError as error:
            raise os_error(error, str(self.digest)) from error

    def close(self) -> None:
        """Give the descriptor back. May be called twice."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
            self._on_close()
