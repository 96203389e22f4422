"""Where the admin API is: `admin.json`, and which addresses leave the machine."""

import stat

import pytest
from holdfast.admin import address_file
from holdfast.config import Configuration, TlsSection

CERTIFIED = Configuration(tls=TlsSection(cert="a", key="b"))


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("127.3.2.1", True), ("::1", True), ("0.0.0.0", False), ("::", False), ("10.0.0.1", False),
     ("fe80::1%eth0", False), ("192.0.2.1", False)],
)  # fmt: skip
def test_loopback(host, loopback):
    assert address_file.is_loopback(host) is loopback


@pytest.mark.parametrize(
    ("host", "config", "url"),
    [
        ("127.0.0.1", Configuration(), "http://127.0.0.1:99"),
        ("127.0.0.1", CERTIFIED, "http://127.0.0.1:99"),
        ("0.0.0.0", CERTIFIED, "https://127.0.0.1:99"),
        ("::", CERTIFIED, "https://[::1]:99"),
        ("192.0.2.1", CERTIFIED, "https://192.0.2.1:99"),
    ],
)
def test_url(host, config, url):
    assert address_file.url_of((host, 99), config) == url


def test_s36_written_read_and_removed(tmp_path):
    address_file.write(tmp_path, "http://127.0.0.1:99")
    assert address_file.read(tmp_path) == "http://127.0.0.1:99"
    assert stat.S_IMODE((tmp_path / "admin.json").stat().st_mode) == 0o600
    address_file.remove(tmp_path)
    address_file.remove(tmp_path)
    with pytest.raises(FileNotFoundError):
        address_file.read(tmp_path)
