"""The hit lane (hit_lane.pyx)."""

from collections.abc import Callable

from holdfast_core.index.row_snapshot import RowSnapshot

from holdfast.log import AccessLine

class RepeatedAnswer:
    """An answer that may be given again."""

    def __init__(
        self,
        facts: bytes,
        head: bytes,
        data: bytes,
        *,
        snapshot: RowSnapshot,
        moment: tuple[int, object, float],
        until: float,
        use: tuple[str, str] | None = None,
        line: AccessLine | None = None,
    ) -> None: ...
    @property
    def key(self) -> bytes: ...
    @property
    def head_size(self) -> int: ...
    @property
    def line(self) -> AccessLine: ...
    @property
    def data(self) -> bytes: ...
    @property
    def size(self) -> int: ...

class HitLane:
    """The answers of one process."""

    def __init__(
        self,
        moment: Callable[[], tuple[int, object, float]],
        is_same: Callable[[RowSnapshot], bool],
        date_of: Callable[[float], str],
        limit: int,
    ) -> None: ...
    def __len__(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def given(self) -> int: ...
    @property
    def compared(self) -> int: ...
    def find(self, facts: bytes, data: bytes) -> RepeatedAnswer | None: ...
    def learn(self, answer: RepeatedAnswer) -> None: ...
    def take_uses(self) -> list[tuple[str, str]]: ...
