"""Rules about the source that no linter checks. Each takes a file's path and text and returns what is wrong.

import-linter and ruff do not read .pyx, so rules about imports and calls look at both kinds of file: Python
through its syntax tree, Cython line by line with strings and comments taken out.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FUNCTION_LINES, FILE_LINES = 60, 700

Rule = Callable[[str, str], list[str]]


@dataclass(frozen=True)
class Source:
    """One file of the project. `path` is relative to its root, with slashes."""

    path: str
    text: str


def sources(*folders: str, endings: tuple[str, ...] = (".py", ".pyx", ".pxd")) -> list[Source]:
    """Every source file below the folders."""
    found = (f for folder in folders for f in sorted((ROOT / folder).rglob("*")) if f.suffix in endings)
    return [Source(f.relative_to(ROOT).as_posix(), f.read_text()) for f in found]


def broken(rule: Rule, files: Iterable[Source]) -> list[str]:
    """What a rule finds over many files."""
    return [problem for f in files for problem in rule(f.path, f.text)]


STRING_OR_COMMENT = re.compile(
    r'"""(?:[^\\]|\\.)*?"""|\'\'\'(?:[^\\]|\\.)*?\'\'\'|"(?:[^"\\\n]|\\.)*"|\'(?:[^\'\\\n]|\\.)*\'|#[^\n]*',
    re.DOTALL,
)


def bare(text: str) -> str:
    """The text without the contents of strings and comments; lines keep their numbers."""
    return STRING_OR_COMMENT.sub(lambda m: '""' + "\n" * m.group().count("\n"), text)


CYTHON_IMPORT = re.compile(r"^\s*(?:from\s+([\w.]+)\s+c?import\b|c?import\s+([\w., ]+))")


def cython_imports(text: str) -> Iterator[tuple[int, str]]:
    """(line, module) of each import and cimport of a Cython file."""
    for number, line in enumerate(bare(text).splitlines(), 1):
        found = CYTHON_IMPORT.match(line)
        if found:
            for name in (found[1] or found[2]).split(","):
                yield number, name.split()[0]


def imports(path: str, text: str) -> Iterator[tuple[int, str]]:
    """(line, module) of each import, those inside functions too; `from a import b` gives a.b."""
    if not path.endswith(".py"):
        yield from cython_imports(text)
        return
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, f"{node.module or ''}.{alias.name}") for alias in node.names)


def within(module: str, packages: Iterable[str]) -> bool:
    """Whether a module is one of the packages or lies in one."""
    return any(module == p or module.startswith(p + ".") for p in packages)


#: folder -> packages it must not import
LAYERS = {
    "core/": ("holdfast", "asyncio", "uvloop", "aiohttp", "h11", "socket"),
    "proxy/holdfast/wire/": ("asyncio", "socket", "ssl", "selectors", "uvloop", "aiohttp"),
}


def layering(path: str, text: str) -> list[str]:
    """The store knows no proxy; wire/ has no sockets and no event loop. (Which modules decide without I/O:
    a contract in pyproject.toml.)"""
    return [
        f"{path}:{line}: imports {module}"
        for folder, banned in LAYERS.items()
        if path.startswith(folder)
        for line, module in imports(path, text)
        if within(module, banned)
    ]


#: the transports, and the programs that start an event loop
LOOP_FILES = re.compile(r"proxy/holdfast/(server/server|process/\w+|cli/[\w/]+)\.py$|^(tests|benchmarks)/")


def loop_imports(path: str, text: str) -> list[str]:
    """Only the transports and the entry points of processes know which event loop runs."""
    if LOOP_FILES.search(path):
        return []
    return [f"{path}:{line}: imports {m}" for line, m in imports(path, text) if within(m, ("uvloop",))]


#: the one module that may ask the machine for time and chance
CLOCK_FILES = ("proxy/holdfast/clock.py",)
TIME_CALL = re.compile(
    r"\btime\.(time|monotonic|perf_counter|sleep)(_ns)?\s*\(|\bsleep\s*\(\s*[0-9._e]+\s*\)|\brandom\s*\.\s*\w+\s*\("
)


def time_and_chance(path: str, text: str) -> list[str]:
    """Time, waits of a literal length and chance come from a Clock that is passed in."""
    if path in CLOCK_FILES or not path.startswith(("core/", "proxy/")):
        return []
    lines = enumerate(bare(text).splitlines(), 1)
    found = [f"{path}:{n}: {hit[0].strip('(')}" for n, line in lines if (hit := TIME_CALL.search(line))]
    banned = ("random", "secrets.SystemRandom", "time.time", "time.monotonic", "time.sleep")
    return found + [f"{path}:{n}: imports {m}" for n, m in imports(path, text) if within(m, banned)]


UNSYNCED = re.compile(
    r"\bwritemap\s*=\s*(?!False)|\b(sync|metasync)\s*=\s*False|\bmap_async\s*=\s*True|MDB_(WRITEMAP|NOSYNC)"
)


def unsynced(path: str, text: str) -> list[str]:
    """LMDB is opened with full sync and without WRITEMAP."""
    lines = enumerate(bare(text).splitlines(), 1)
    return [f"{path}:{n}: {hit[0]}" for n, line in lines if (hit := UNSYNCED.search(line))]


DRAWERS = {
    "utils",
    "util",
    "helpers",
    "helper",
    "common",
    "misc",
    "manager",
    "base",
    "constants",
    "stuff",
    "tools",
}


def names(path: str, text: str) -> list[str]:
    """Files are nouns of the field; none is a drawer of odds and ends."""
    return [f"{path}: the name says nothing"] if Path(path).stem.lower() in DRAWERS else []


CDEF = re.compile(
    r"^[ ]*c(?:p)?def[ ]+(?!class\b|struct\b|enum\b|union\b|extern\b|packed\b|cppclass\b)([^\n=:]*?\b\w+[ ]*\()",
    re.MULTILINE,
)
PYTHON_TYPES = {
    "object",
    "bytes",
    "bytearray",
    "str",
    "unicode",
    "list",
    "dict",
    "tuple",
    "set",
    "frozenset",
    "type",
}


def signature(text: str, start: int) -> str:
    """From `start` to the end of the parameter list and what follows it on its last line."""
    depth = 0
    for place in range(text.index("(", start), len(text)):
        depth += {"(": 1, ")": -1}.get(text[place], 0)
        if depth == 0:
            end = text.find("\n", place)
            return text[start : end if end >= 0 else len(text)]
    return text[start:]


def returns_c(head: str) -> bool:
    """Whether `inline int name(` returns a C value. A class of ours (capital letter) is an object."""
    words = head.replace("*", " * ").rstrip("( ").split()
    kind = [w for w in words[:-1] if w not in ("inline", "public", "api", "readonly", "static")]
    if not kind:
        return False
    return "*" in kind or not (kind[-1] in PYTHON_TYPES or kind[-1][0].isupper())


def exception_rules(path: str, text: str) -> list[str]:
    """A cdef function with a C return says what an exception does: `except …` or `noexcept`."""
    if path.endswith(".py"):
        return []
    code = bare(text)
    found = []
    for hit in CDEF.finditer(code):
        whole = signature(code, hit.start())
        if returns_c(hit[1]) and not re.search(r"\b(except|noexcept)\b", whole[whole.rindex(")") :]):
            found.append(
                f"{path}:{code.count(chr(10), 0, hit.start()) + 1}: {hit[1]}…) says neither except nor noexcept"
            )
    return found


@dataclass(frozen=True, order=True)
class Size:
    """Lines of a function, or of a file."""

    lines: int
    where: str


def python_functions(path: str, text: str) -> list[Size]:
    """Every function of a Python file with its lines."""
    return [
        Size((node.end_lineno or node.lineno) - node.lineno + 1, f"{path}:{node.lineno} {node.name}")
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]


CYTHON_FUNCTION = re.compile(
    r"^(\s*)(?:async\s+)?c?p?def\s+(?!class\b|extern\b|struct\b|enum\b)[^=\n]*?(\w+)\s*\("
)


def cython_functions(path: str, text: str) -> list[Size]:
    """Every function of a Cython file with its lines, by indentation."""
    lines = bare(text).splitlines()
    found = []
    for start, line in enumerate(lines):
        head = CYTHON_FUNCTION.match(line)
        if head:
            found.append(Size(body_end(lines, start, len(head[1])) - start, f"{path}:{start + 1} {head[2]}"))
    return found


def body_end(lines: list[str], start: int, indent: int) -> int:
    """Index after the last line of a body that begins at `start`."""
    last, depth = start, 0
    for number in range(start, len(lines)):
        line = lines[number]
        if number > start and depth == 0 and line.strip() and len(line) - len(line.lstrip()) <= indent:
            break
        depth += line.count("(") - line.count(")")
        last = number if line.strip() else last
    return last + 1


def functions(path: str, text: str) -> list[Size]:
    """Every function of a file with its lines."""
    return python_functions(path, text) if path.endswith(".py") else cython_functions(path, text)


def sizes(path: str, text: str) -> list[str]:
    """No function over 60 lines, no file over 700."""
    found = [f"{s.where}: {s.lines} lines" for s in functions(path, text) if s.lines > FUNCTION_LINES]
    lines = text.count("\n")
    return found + ([f"{path}: {lines} lines"] if lines > FILE_LINES else [])


# spelled in two parts, so that this file does not break its own rule
PLACES = re.compile(
    "|".join(
        (
            "/" + "work/",
            "/" + "root/",
            "/" + r"home/\w+",
            "pypi" + r"\.org/simple",
            "--(extra-)?index" + "-url",
        )
    )
)


def places(path: str, text: str) -> list[str]:
    """No path of one machine and no address of a package index."""
    lines = enumerate(text.splitlines(), 1)
    return [f"{path}:{n}: {hit[0]}" for n, line in lines if (hit := PLACES.search(line))]


SKIPS = {
    "pytest.skip",
    "pytest.mark.skip",
    "pytest.mark.skipif",
    "pytest.importorskip",
    "pytest.mark.xfail",
    "pytest.xfail",
}


def reasoned(call: ast.Call) -> bool:
    """Whether a call to skip gives a reason that is not empty."""
    given = [k.value for k in call.keywords if k.arg in ("reason", "msg")]
    if ast.unparse(call.func) in ("pytest.skip", "pytest.xfail"):
        given += call.args[:1]
    return any(not (isinstance(v, ast.Constant) and not v.value) for v in given)


def silent_skips(path: str, text: str) -> list[str]:
    """Nothing is skipped, or expected to fail, without a reason that is printed."""
    if not path.endswith(".py"):
        return []
    tree = ast.parse(text)
    called = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    return [
        f"{path}:{node.lineno}: {ast.unparse(node)} without a reason"
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and ast.unparse(node) in SKIPS
        and not (id(node) in called and reasoned(called[id(node)]))
    ]


def leaves(module: object) -> list[type[Exception]]:
    """Exceptions defined in a module that nothing in it derives from."""
    own = [
        v
        for v in vars(module).values()
        if isinstance(v, type)
        and issubclass(v, Exception)
        and v.__module__ == getattr(module, "__name__", "")
    ]
    return [c for c in own if not any(c is not other and issubclass(other, c) for other in own)]


def without_row(
    kinds: Iterable[type[Exception]], table: dict[type[Exception], tuple[int, str]], codes: Iterable[str]
) -> list[str]:
    """Each refusal has its own row of the table to status and code, and each code is one of the spec's."""
    found = [f"{kind.__name__} has no row" for kind in kinds if kind not in table]
    found += [f"{kind.__name__}: {code} is no code" for kind, (_, code) in table.items() if code not in codes]
    return found + [
        f"{kind.__name__}: {s} is no error status" for kind, (s, _) in table.items() if not 400 <= s <= 599
    ]
