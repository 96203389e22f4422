from collections.abc import Iterable
from typing import Final

from typing_extensions import Buffer, disjoint_base

IS_NATIVE: Final[bool]
LANES: Final[int]

@disjoint_base
class Sha256:
    def __init__(self, *, openssl: bool = False) -> None: ...
    def update(self, data: Buffer) -> None: ...
    def digest(self) -> bytes: ...

def update_together(streams: Iterable[Sha256], data: Iterable[Buffer]) -> None: ...
