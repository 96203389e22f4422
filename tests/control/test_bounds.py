"""What of a status is kept: any text, any number of troubles, and always within the bytes that it may have."""

from __future__ import annotations

import msgspec
from holdfast.resources.model import (
    Certificate,
    Lease,
    LoginServer,
    LoginTls,
    Status,
    StatusDetail,
    SyncProgress,
    SyncResult,
)
from holdfast.resources.report_bounds import BELOW_BYTES, LEAST_BYTES, STATUS_BYTES, fitting, relayed, share
from hypothesis import given
from hypothesis import strategies as st

texts = st.builds(lambda text, times: text * times, st.text(max_size=20), st.integers(0, 5000))
numbers = st.integers() | st.integers(-(10**400), 10**400)
details = st.builds(
    StatusDetail, type=texts, code=texts, description=texts, timestamp=texts, correlation_id=texts
)
statuses = st.builds(
    Status,
    version=st.none() | texts,
    last_activity_time=st.none() | texts,
    last_sync_time=st.none() | texts,
    login_server=st.builds(
        LoginServer,
        host=texts,
        tls=st.builds(LoginTls, certificate=st.builds(Certificate, location=texts)),
    ),
    status_details=st.lists(details, max_size=8).map(lambda found: tuple(found * 30)),
    registry_sync_result=st.builds(
        SyncResult,
        last_sync_start_time=texts,
        last_sync_end_time=texts,
        last_successful_sync_end_time=texts,
    ),
    sync_progress=st.none()
    | st.builds(
        SyncProgress,
        images_done=numbers,
        images=numbers,
        bytes_done=numbers,
        bytes=numbers,
        rate=st.floats(allow_nan=False, allow_infinity=False),
        seconds_left=st.none(),
        retrying=numbers,
        failed=numbers,
        parked=numbers,
    ),
    lease=st.builds(Lease, instance=texts, generation=numbers, expires=texts),
    generation=numbers,
)


@given(statuses)
def test_case_trust_19_no_status_is_longer_than_its_share(status: Status) -> None:
    for most in (STATUS_BYTES, LEAST_BYTES):
        found = fitting(status, most)
        assert len(msgspec.json.encode(found)) <= most
        assert fitting(found, most) == found


def test_case_trust_19_troubles_that_fill_the_share_to_a_byte_stay_within_it() -> None:
    """The field around the troubles counts, too: it is not there while there are none."""
    for length in range(1, 1000):
        detail = StatusDetail(type="Disk", code="DiskError", description="x" * length)
        found = fitting(Status(version="1", status_details=(detail,) * 100), LEAST_BYTES)
        assert len(msgspec.json.encode(found)) <= LEAST_BYTES
        assert found.status_details


def test_case_trust_19_an_ordinary_status_is_handed_on_whole() -> None:
    detail = StatusDetail(type="Disk", code="DiskError", description="the disk of this node is full; " * 8)
    status = Status(
        version="1.4.2", status_details=(detail,) * 20, login_server=LoginServer(host="plant:5000")
    )
    assert fitting(status) == status


def test_case_trust_19_of_more_registries_than_fit_the_new_ones_go_up() -> None:
    status = fitting(
        Status(
            version="v" * 64, status_details=(StatusDetail(type="D", code="E", description="f" * 900),) * 9
        ),
        share(3000),
    )
    below = {f"line{at}": status for at in range(3000)}
    found = relayed(below, lambda name, _: name in ("line2999", "line7"))
    assert list(found)[:2] == ["line7", "line2999"]
    assert BELOW_BYTES - 2 * LEAST_BYTES <= len(msgspec.json.encode(found)) <= BELOW_BYTES
