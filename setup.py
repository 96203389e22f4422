"""Builds the native modules; everything static is in pyproject.toml.

HOLDFAST_BUILD picks one of three builds:
  plain   what ships (-O2)
  trace   line tracing, so that coverage sees .pyx lines
  asan    AddressSanitizer and UndefinedBehaviorSanitizer
"""

import os
import sys
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

sys.path.insert(0, "core")
from holdfast_core.native_build import beside, mark_of, stale_sources

BUILDS = {
    "plain": (["-O2"], [], []),
    "trace": (["-O0", "-g"], [], [("CYTHON_TRACE_NOGIL", "1"), ("CYTHON_USE_SYS_MONITORING", "0")]),
    "asan": (
        ["-O1", "-g", "-fno-omit-frame-pointer", "-fsanitize=address,undefined"],
        ["-fsanitize=address,undefined"],
        [],
    ),
}
#: puts into each module which source it was compiled from
HEADER = "core/native_source.h"
WARNINGS = ["-Wall", "-Wextra", "-Wno-unused-parameter"]

build = os.environ.get("HOLDFAST_BUILD", "plain")
if build not in BUILDS:
    raise SystemExit(f"HOLDFAST_BUILD is {build!r}; allowed: {', '.join(BUILDS)}")
compile_args, link_args, macros = BUILDS[build]


def extension(source: Path, root: str) -> Extension:
    """One extension a .pyx file, named by its path below its source root."""
    name = ".".join(source.relative_to(root).with_suffix("").parts)
    return Extension(
        name,
        [str(source)],
        include_dirs=[str(source.parent)],
        extra_compile_args=[*compile_args, *WARNINGS, "-include", HEADER],
        extra_link_args=link_args,
        define_macros=[*macros, ("HOLDFAST_SOURCE", f'"{mark_of(source)}"')],
        depends=[HEADER, *map(str, beside(source))],
    )


# cythonize goes by file times: without this, C from older source could be compiled under the mark of the present one
for stale in stale_sources([Path("core"), Path("proxy")]):
    stale.touch()

setup(
    ext_modules=cythonize(
        [extension(f, root) for root in ("core", "proxy") for f in sorted(Path(root).rglob("*.pyx"))],
        include_path=["core", "proxy"],
        # coverage looks for the C file beside the .pyx
        build_dir=None if build == "trace" else f"build/cython-{build}",
        emit_linenums=build != "plain",
        force=build != "plain",
        compiler_directives={
            "language_level": 3,
            "embedsignature": True,
            "auto_pickle": False,
            "warn.unreachable": True,
            "linetrace": build == "trace",
        },
    )
)
