"""What tests of the command line share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.command_line import RecordedAdmin, recorded_admin


@pytest.fixture
def admin() -> Iterator[RecordedAdmin]:
    """An admin API that records."""
    with recorded_admin() as serving:
        yield serving
