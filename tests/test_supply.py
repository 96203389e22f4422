"""What is installed is what was chosen: every package by its version and the digests of its files."""

from __future__ import annotations

import re

from support.programs import ROOT

HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}")
INSTALL = re.compile(r"pip install .*")


def test_s49_every_package_is_pinned_by_the_digest_of_its_files() -> None:
    for name in ("requirements.lock", "requirements-dev.lock"):
        text = (ROOT / name).read_text().replace("\\\n", " ")
        lines = [line for line in text.splitlines() if line and not line.lstrip().startswith("#")]
        assert len(lines) > 10
        for line in lines:
            assert re.match(r"[A-Za-z0-9._-]+==[^ ]+ ", line), line
            assert HASH.search(line), line


def test_s49_nothing_is_installed_that_is_not_pinned() -> None:
    """But for this project itself, which brings nothing along."""
    found = INSTALL.findall((ROOT / "Makefile").read_text())
    assert len(found) >= 3
    for line in found:
        assert "--require-hashes -r requirements" in line or "--no-deps --editable ." in line, line
