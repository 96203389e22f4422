"""A native module that was compiled from other source than lies beside it is found before a node starts."""

from __future__ import annotations

from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import holdfast
import holdfast_core
import pytest
from click.testing import CliRunner
from holdfast.cli.commands import holdfast as command
from holdfast_core.native_build import mark_of, stale_sources, why_stale


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A .pyx in a package, and a module that was compiled from it."""
    file = tmp_path / "inner" / "head.pyx"
    file.parent.mkdir()
    file.write_text("cdef int a = 1\n")
    file.with_suffix(EXTENSION_SUFFIXES[0]).write_bytes(b"\x7fELF.." + mark_of(file).encode() + b"..")
    return file


def test_a_module_of_this_source_is_current(source: Path, tmp_path: Path) -> None:
    assert stale_sources([tmp_path]) == []
    assert why_stale([tmp_path]) is None


def test_a_module_of_other_source_is_stale(source: Path, tmp_path: Path) -> None:
    source.write_text("cdef int a = 2\n")
    assert stale_sources([tmp_path]) == [source]
    reason = why_stale([tmp_path])
    assert reason is not None
    assert f"run: touch {source} && make build" in reason


def test_declarations_count_as_source(source: Path, tmp_path: Path) -> None:
    source.with_suffix(".pxd").write_text("cdef int a\n")
    assert stale_sources([tmp_path]) == [source]


def test_a_module_that_was_never_compiled_is_stale(source: Path, tmp_path: Path) -> None:
    source.with_suffix(EXTENSION_SUFFIXES[0]).unlink()
    assert stale_sources([tmp_path]) == [source]


def test_an_installed_package_without_sources_is_current(source: Path, tmp_path: Path) -> None:
    source.unlink()
    assert stale_sources([tmp_path]) == []


def test_the_build_marks_its_modules() -> None:
    packages = [Path(str(package.__file__)).parent for package in (holdfast_core, holdfast)]
    assert len([source for package in packages for source in package.rglob("*.pyx")]) > 1
    assert stale_sources(packages) == []


def test_a_node_refuses_to_start_on_stale_modules(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source.write_text("cdef int a = 2\n")
    monkeypatch.setattr(holdfast, "__file__", str(tmp_path / "__init__.py"))
    data = tmp_path / "data"
    done = CliRunner().invoke(command, ["serve", "--data", str(data), "--listen", "127.0.0.1:0"])
    assert done.exit_code == 1
    assert "holdfast: native modules were not compiled from the source beside them" in done.output
    assert not data.exists()
