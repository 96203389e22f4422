"""A repository as this node knows it: the parent's namespace and the name there.

The store sees one string, `key`. Names never hold a colon (distribution-spec 1.0), so `namespace:name`
splits in one way only, and one cache entry is reached whichever way a client came.
"""

from __future__ import annotations

from typing import NamedTuple


class Repository(NamedTuple):
    """`namespace` is the parent's name in the configuration, "" for the default parent and on a root."""

    namespace: str
    name: str

    @property
    def key(self) -> str:
        """The store's name of it."""
        return f"{self.namespace}:{self.name}" if self.namespace else self.name

    @classmethod
    def from_key(cls, key: str) -> Repository:
        """The inverse of `key`."""
        namespace, _, name = key.rpartition(":")
        return cls(namespace, name)
