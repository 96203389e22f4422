"""`tools/structure.py` counts what it says it counts, on a tree that was made for it."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import pytest

FILES = {
    "house/__init__.py": "",
    "house/kitchen/__init__.py": "",
    "house/kitchen/stove.py": "from house.cellar import wood\n\n\nclass Fire:\n    pass\n",
    "house/kitchen/store.py": "",
    "house/cellar/__init__.py": "",
    "house/cellar/wood.py": "class Log:\n    pass\n\n\nclass _Own:\n    pass\n",
    "house/cellar/store.py": "class Fire:\n    def burn(self) -> None:\n        from house.kitchen import stove\n",
    "house/garden.py": "from typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n    from house.cellar.wood import Log\n",
}


@pytest.fixture(scope="module")
def structure() -> ModuleType:
    file = Path(__file__).parent.parent / "tools/structure.py"
    spec = importlib.util.spec_from_file_location("structure", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def plant(place: Path, files: Mapping[str, str]) -> None:
    for name, text in files.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(text)


def test_figures_of_a_small_tree(structure: ModuleType, tmp_path: Path) -> None:
    plant(tmp_path, FILES)
    lines = list(structure.report(structure.figures([tmp_path / "house"])))
    assert lines == [
        "modules: 8, lines: 18",
        "cycles of packages, run time: []",
        "cycles of modules, run time: []",
        "cycles of packages, all imports: [2]; the largest: house.cellar house.kitchen",
        "cycles of modules, all imports: []",
        "imports below TYPE_CHECKING: 1, in functions: 1",
        "public classes: 3; names in several modules: 1 (Fire 2)",
        "module names in several packages: 1 (store 2)",
        "modules below 60 lines: 5 (62%)",
        "modules in a folder, most: house.cellar 2, house.kitchen 2, house 1",
        "functions: 1, lines at the median: 2, at most: 2",
    ]


def test_cycles_are_sets_that_reach_each_other(structure: ModuleType) -> None:
    graph = {"a": {"b"}, "b": {"c", "d"}, "c": {"a"}, "d": {"e"}, "e": {"d"}, "f": {"a"}}
    assert structure.cycles(graph) == [["a", "b", "c"], ["d", "e"]]
    assert structure.cycles({"a": {"b"}, "b": {"c"}}) == []


def long(name: str, lines: int) -> str:
    return f"def {name}() -> None:\n" + "    pass\n" * (lines - 1)


#: for each bound a tree that breaks it, and what is said then
BROKEN = {
    "packages": (
        {
            "house/a/x.py": "import house.b.y\n",
            "house/b/y.py": "from typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n    import house.a.z\n",
            "house/a/z.py": "",
        },
        "import each other: house.a, house.b",
    ),
    "modules": (
        {"house/a/x.py": "from house.a import y\n", "house/a/y.py": "import house.a.x\n"},
        "import each other: house.a.x, house.a.y",
    ),
    "classes": (
        {"house/a.py": "class Door:\n    pass\n", "house/b.py": "class Door:\n    pass\n"},
        "class Door stands in house.a, house.b; give each a name of its own",
    ),
    "files": (
        {"house/a/door.py": "", "house/b/door.py": ""},
        "house.a.door, house.b.door have one file name; give each its own",
    ),
    "folders": (
        {f"house/a/door{number}.py": "" for number in range(16)},
        "house.a has 16 modules; at most 15",
    ),
    "imports": (
        {"house/a.py": "def f() -> None:\n    import house.b\n", "house/b.py": ""},
        "house.a imports inside a function; do it at the top, or say in LATE_IMPORTS why not",
    ),
    "small": (
        {"house/c.py": "#\n" * 59, "house/d.py": "#\n" * 60},
        "20.0% of the modules have under 60 lines; at most 15%",
    ),
    "median": (
        {"house/a.py": long("f", 9) + long("g", 9) + "def h() -> None: ...\n"},
        "functions have 9 lines at the median; at most 8",
    ),
    "longest": ({"house/a.py": long("f", 51)}, "house.a.f has 51 lines; at most 50"),
}


@pytest.mark.parametrize(("files", "complaint"), BROKEN.values(), ids=BROKEN)
def test_a_broken_bound_is_said(
    structure: ModuleType, tmp_path: Path, files: dict[str, str], complaint: str
) -> None:
    plant(tmp_path, {"house/__init__.py": "", "house/a/__init__.py": "", "house/b/__init__.py": ""} | files)
    for folder in ("a", "b"):
        if f"house/{folder}.py" in files:
            (tmp_path / f"house/{folder}/__init__.py").unlink()
    assert complaint in list(structure.complaints(structure.figures([tmp_path / "house"])))


def test_a_tree_within_the_bounds_has_no_complaint(structure: ModuleType, tmp_path: Path) -> None:
    plant(
        tmp_path,
        {"house/a.py": "#\n" * 60 + long("f", 50) + "def g() -> None: ...\n" + "def h() -> None: ...\n"},
    )
    assert list(structure.complaints(structure.figures([tmp_path / "house"]))) == []
