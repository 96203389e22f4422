"""The three native builds (HOLDFAST_BUILD) compile without a warning, and the suite is clean under sanitizers."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("core", "proxy", "tests", "setup.py", "pyproject.toml", "README.md", "LICENSE")
NATIVE = ("tests/core/test_digest.py", "tests/core/blob_files/test_blob_reader.py", "tests/wire/test_head.py")


def built(place: Path, build: str) -> subprocess.CompletedProcess[str]:
    """A copy of the sources with one build made in place."""
    skipped = shutil.ignore_patterns("*.so", "*.c", "__pycache__", "*.egg-info")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, place / name, ignore=skipped)
        else:
            shutil.copy(ROOT / name, place / name)
    return run(place, "setup.py", "-q", "build_ext", "--inplace", "--parallel=2", HOLDFAST_BUILD=build)


def run(place: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=place,
        env={**os.environ, **environment},
        check=False,
        capture_output=True,
        text=True,
        timeout=600,
    )


def compiler_warnings(done: subprocess.CompletedProcess[str]) -> list[str]:
    """Warnings of the C compiler about our modules."""
    return [line for line in (done.stdout + done.stderr).splitlines() if "warning:" in line]


def test_trace_build(tmp_path: Path) -> None:
    done = built(tmp_path, "trace")
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "core").rglob("digest.c")), "coverage looks for the C file beside the .pyx"
    code = "import holdfast_core; print(holdfast_core.Digest.of(b'abc'))"
    assert "ba7816bf" in run(tmp_path, "-c", code, PYTHONPATH="core").stdout


def test_suite_under_sanitizers(tmp_path: Path) -> None:
    done = built(tmp_path, "asan")
    assert done.returncode == 0, done.stderr
    libraries = [
        subprocess.check_output(["gcc", f"-print-file-name={name}"], text=True).strip()
        for name in ("libasan.so", "libubsan.so")
    ]
    environment = {
        "LD_PRELOAD": " ".join(libraries),
        "ASAN_OPTIONS": "detect_leaks=0",
        "UBSAN_OPTIONS": "halt_on_error=1",
        "PYTHONPATH": "core:proxy:tests",
    }
    # in memory: these tests sync 431 times, which took five minutes on a disk that was busy
    with TemporaryDirectory(prefix="holdfast-", dir="/dev/shm") as memory:
        options = ("-q", "-p", "no:cacheprovider", f"--basetemp={memory}/tests")
        done = run(tmp_path, "-m", "pytest", *options, *NATIVE, **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout


def test_an_unknown_build_is_refused(tmp_path: Path) -> None:
    done = run(ROOT, "setup.py", "--version", HOLDFAST_BUILD="fast")
    assert done.returncode != 0
    assert "plain, trace, asan" in done.stdout + done.stderr


def test_the_plain_build_compiles_without_a_warning(tmp_path: Path) -> None:
    done = built(tmp_path, "plain")
    assert done.returncode == 0, done.stderr
    assert compiler_warnings(done) == []
