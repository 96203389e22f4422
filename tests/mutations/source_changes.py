"""Every small change of a module: the source again and again, each time with one place changed. Pure.

A change replaces text where the syntax tree says it stands, so that the rest of the file keeps its form and a diff
shows the change alone. What no promise hangs on is left as it is: documentation, annotations, assertions for the type
checker, log lines, decorators, texts of errors.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from difflib import unified_diff
from itertools import pairwise
from typing import NamedTuple

#: an ordering moves its boundary; what is equal, the same or inside becomes what is not
COMPARISONS: dict[type[ast.cmpop], tuple[str, str]] = {
    ast.Lt: ("<", "<="),
    ast.LtE: ("<=", "<"),
    ast.Gt: (">", ">="),
    ast.GtE: (">=", ">"),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.Is: ("is", "is not"),
    ast.IsNot: (r"is\s+not", "is"),
    ast.In: ("in", "not in"),
    ast.NotIn: (r"not\s+in", "in"),
}
ORDERINGS = (ast.Lt, ast.LtE, ast.Gt, ast.GtE)
#: kinds that may leave what is no Python any more
MAY_BREAK = ("statement", "order", "entry")
#: statements without a part of their own that have an effect
EFFECTS = (ast.Expr, ast.Assign, ast.AnnAssign, ast.AugAssign, ast.Delete)
JUMPS = (ast.Raise, ast.Continue, ast.Break, ast.Return)


class SourceChange(NamedTuple):
    """One change. `is_loaded` says that it counts when the module is loaded: it lies in no function. `first` and `last`
    are the lines of the module that have to run for it to be noticed; `before` and `after` those that differ, without
    indentation; `changed` is the function that it lies in, or the module, as it is with the change."""

    kind: str
    function: str
    is_loaded: bool
    first: int
    last: int
    before: str
    after: str
    changed: str
    source: str

    def diff(self, original: str, file: str) -> str:
        """The change as a patch."""
        before, after = original.splitlines(keepends=True), self.source.splitlines(keepends=True)
        return "".join(unified_diff(before, after, f"a/{file}", f"b/{file}", n=2))


def changes(source: str) -> list[SourceChange]:
    """The changes of a module, each once, in the order of their lines."""
    finder = _Finder(source)
    finder.visit(finder.tree)
    return sorted(finder.found.values(), key=lambda change: change.first)


class _Finder(ast.NodeVisitor):
    """Walks a module and collects its changes by the source that they make."""

    def __init__(self, source: str) -> None:
        self.data, self.tree = source.encode(), ast.parse(source)
        self.found: dict[str, SourceChange] = {}
        self._lines = [0]
        for line in self.data.splitlines(keepends=True):
            self._lines.append(self._lines[-1] + len(line))
        self._functions: list[str] = []
        self._depth = 0  # of functions: a table stands outside of them
        self._function: tuple[int, int] | None = None  # the outermost one: where its text begins and ends
        self._statement: ast.stmt | None = None
        self._members: defaultdict[str, set[str]] = defaultdict(set)
        for node in ast.walk(self.tree):
            if (member := _member(node)) is not None:
                self._members[member[0]].add(member[1])

    # --- text ----------------------------------------------------------------------------------------------

    def _at(self, line: int, column: int) -> int:
        return self._lines[line - 1] + column

    def _begin(self, node: ast.expr | ast.stmt) -> int:
        return self._at(node.lineno, node.col_offset)

    def _end(self, node: ast.expr | ast.stmt) -> int:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return self._at(node.end_lineno, node.end_col_offset)

    def _text(self, node: ast.expr | ast.stmt) -> str:
        return self.data[self._begin(node) : self._end(node)].decode()

    def _line_of(self, at: int) -> int:
        return self.data.count(b"\n", 0, at) + 1

    def _change(self, kind: str, begin: int, end: int, text: str) -> None:
        """Replace a stretch of the source, unless that is no change or no Python."""
        changed = self.data[:begin] + text.encode() + self.data[end:]
        if changed == self.data or (kind in MAY_BREAK and not _is_python(changed)):
            return
        first, last = self._line_of(begin), self._line_of(end)
        source, before = changed.decode(), self.data.splitlines()[first - 1 : last]
        after = changed.splitlines()[first - 1 : last + text.count("\n") - self.data[begin:end].count(b"\n")]
        start = min(first, self._statement.lineno) if self._statement is not None else first
        self.found.setdefault(
            source,
            SourceChange(
                kind,
                ".".join(self._functions),
                self._depth == 0,
                start,
                last,
                _stripped(before),
                _stripped(after),
                self._within(changed),
                source,
            ),
        )

    def _within(self, changed: bytes) -> str:
        if self._function is None:
            return changed.decode()
        begin, end = self._function
        return changed[begin : end + len(changed) - len(self.data)].decode()

    def _replace(self, kind: str, node: ast.expr | ast.stmt, text: str) -> None:
        self._change(kind, self._begin(node), self._end(node), text)

    def _between(self, kind: str, left: ast.expr, right: ast.expr, old: str, new: str) -> None:
        """Replace an operator between two operands."""
        begin, end = self._end(left), self._begin(right)
        between = self.data[begin:end].decode()
        word = rf"\b{old}\b" if old[0].isalpha() else re.escape(old)
        self._change(kind, begin, end, re.sub(word, new, between, count=1))

    # --- what is visited -----------------------------------------------------------------------------------

    def visit(self, node: ast.AST) -> None:
        """Visit a node, and remember the statement that it belongs to."""
        if not isinstance(node, ast.stmt):
            super().visit(node)
            return
        outer, self._statement = self._statement, node
        self._statement_changed(node)
        super().visit(node)
        self._statement = outer

    def generic_visit(self, node: ast.AST) -> None:
        """Visit what a node is made of; statements that stand side by side may change places."""
        for field in ("body", "orelse", "finalbody"):
            block = getattr(node, field, None)
            if isinstance(block, list):
                self._neighbours(block)
        super().generic_visit(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        """Its statements; not how it is declared."""
        self._functions.append(node.name)
        for statement in node.body:
            self.visit(statement)
        self._functions.pop()

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        """Its defaults and its statements; not its annotations and decorators."""
        self._functions.append(node.name)
        for default in (*node.args.defaults, *filter(None, node.args.kw_defaults)):
            self.visit(default)
        outer, self._function = self._function, self._function or (self._begin(node), self._end(node))
        self._depth += 1
        self._neighbours(node.body)
        for statement in node.body:
            self.visit(statement)
        self._depth -= 1
        self._function = outer
        self._functions.pop()

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_If(self, node: ast.If) -> None:
        """Its condition and its parts, and all of it left out; but not what only the type checker sees."""
        if ast.unparse(node.test) == "TYPE_CHECKING":
            return
        self._negated(node.test)
        if not node.orelse:
            self._replace("statement", node, "pass")
        self.generic_visit(node)

    def visit_While(self, node: ast.While) -> None:
        """Its condition, and its parts; one that is always true would not end."""
        if not isinstance(node.test, ast.Constant):
            self._negated(node.test)
            self.visit(node.test)
        for statement in (*node.body, *node.orelse):
            self.visit(statement)
        self._neighbours(node.body)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        """Its condition, and its parts."""
        self._negated(node.test)
        self.generic_visit(node)

    def visit_comprehension(self, node: ast.comprehension) -> None:
        """Its conditions, and its parts."""
        for test in node.ifs:
            self._negated(test)
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        """`not` taken away."""
        if isinstance(node.op, ast.Not):
            self._replace("condition", node, f"({self._text(node.operand)})")
        self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        """Each of its operators."""
        operands = [node.left, *node.comparators]
        for left, right, operator in zip(operands, operands[1:], node.ops, strict=False):
            self._between("comparison", left, right, *COMPARISONS[type(operator)])
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        """Each of its operators."""
        old, new = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
        for left, right in pairwise(node.values):
            self._between("boolean operator", left, right, old, new)
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        """A number one more, a truth value the other."""
        if isinstance(node.value, bool):
            self._replace("constant", node, str(not node.value))
        elif isinstance(node.value, int | float):
            self._replace("constant", node, str(node.value + 1))

    def visit_Attribute(self, node: ast.Attribute) -> None:
        """A member of an enumeration: the next one that the module names."""
        if (member := _member(node)) is not None and isinstance(node.ctx, ast.Load):
            enumeration, name = member
            names = sorted(self._members[enumeration])
            other = names[(names.index(name) + 1) % len(names)]
            self._replace("member", node, f"{enumeration}.{other}")
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        """What it is called with; not of a log line."""
        if not _is_log(node):
            self.generic_visit(node)

    def visit_Tuple(self, node: ast.Tuple | ast.List | ast.Set) -> None:
        """Of a table, an element left out."""
        if self._depth == 0 and isinstance(getattr(node, "ctx", ast.Load()), ast.Load) and len(node.elts) > 1:
            for element, following in zip(node.elts, [*node.elts[1:], None], strict=True):
                if following is None:
                    self._replace("entry", element, "")
                elif isinstance(node, ast.Tuple) and len(node.elts) == 2:
                    self._change(
                        "entry", self._begin(element), self._end(following), f"{self._text(following)},"
                    )
                else:
                    self._change("entry", self._begin(element), self._begin(following), "")
        self.generic_visit(node)

    visit_List = visit_Set = visit_Tuple

    def visit_Dict(self, node: ast.Dict) -> None:
        """Of a table, an entry left out."""
        if self._depth == 0:
            for key, value in zip(node.keys, node.values, strict=True):
                begin = self._begin(key) if key is not None else self._begin(value) - 2
                comma = self.data[self._end(value) : self._end(value) + 1] == b","
                self._change("entry", begin, self._end(value) + comma, "")
        self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        """Its value."""
        if node.value is not None:
            self.visit(node.value)

    def visit_Assign(self, node: ast.Assign) -> None:
        """Its value; not `__slots__` and what else only Python reads."""
        if any(isinstance(target, ast.Name) and target.id.startswith("__") for target in node.targets):
            return
        if isinstance(node.value, ast.Tuple) and isinstance(node.targets[0], ast.Tuple):
            for element in node.value.elts:  # several values, and no table
                self.visit(element)
        else:
            self.generic_visit(node)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        """An index or a slice; outside of functions it is a type."""
        if self._depth:
            self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> None:
        """Nothing: what an error says is not what it does."""

    def visit_Assert(self, node: ast.Assert) -> None:
        """Nothing: it is for the type checker."""

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """Nothing: a text."""

    # --- statements ----------------------------------------------------------------------------------------

    def _negated(self, test: ast.expr) -> None:
        if isinstance(test, ast.Compare) and len(test.ops) == 1 and not isinstance(test.ops[0], ORDERINGS):
            return  # its comparison does it
        if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
            return  # so does taking `not` away
        self._replace("condition", test, f"(not ({self._text(test)}))")

    def _statement_changed(self, node: ast.stmt) -> None:
        if isinstance(node, ast.Return) and node.value is not None:
            if not isinstance(node.value, ast.Constant):
                self._replace("return value", node, "return None")
        elif isinstance(node, JUMPS) or self._has_effect(node):
            self._replace("statement", node, "pass")

    def _has_effect(self, node: ast.stmt) -> bool:
        """Whether a statement can be left out, and the module is still a module. What a constructor sets is missed
        by the first who reads it."""
        if isinstance(node, ast.Expr):
            return not isinstance(node.value, ast.Constant) and not _is_log(node.value)
        if isinstance(node, ast.Assign):
            is_first = self._functions[-1:] == ["__init__"]
            return not is_first and not any(
                isinstance(target, ast.Name | ast.Tuple) for target in node.targets
            )
        return isinstance(node, ast.AugAssign | ast.Delete)

    def _neighbours(self, block: list[ast.stmt]) -> None:
        """Change the places of two statements that follow each other, where both call something."""
        if not self._depth or self._functions[-1:] == ["__init__"]:
            return
        for one, other in pairwise(block):
            if _may_change_places(one, other):
                begin, middle = self._begin(one), self.data[self._end(one) : self._begin(other)].decode()
                outer, self._statement = self._statement, one
                self._change("order", begin, self._end(other), self._text(other) + middle + self._text(one))
                self._statement = outer


def _is_python(source: bytes) -> bool:
    try:
        ast.parse(source)
    except SyntaxError:
        return False
    return True


def _stripped(lines: list[bytes]) -> str:
    return " ".join(line.decode().strip() for line in lines).strip()


def _member(node: ast.AST) -> tuple[str, str] | None:
    """The enumeration and the name of a member."""
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        enumeration = node.value.id
        if enumeration[:1].isupper() and not enumeration.isupper() and node.attr.isupper():
            return enumeration, node.attr
    return None


def _is_log(node: ast.expr) -> bool:
    return isinstance(node, ast.Call) and bool(re.match(r"(self\._?)?log\b", ast.unparse(node.func)))


def _may_change_places(one: ast.stmt, other: ast.stmt) -> bool:
    """Whether both call something, one of them for its effect alone, and neither needs a name of the other."""
    both = (one, other)
    if not all(isinstance(node, EFFECTS) and any(_calls(node)) for node in both):
        return False
    if not any(isinstance(node, ast.Expr) for node in both):
        return False
    if any(isinstance(node, ast.Expr) and _is_log(node.value) for node in both):
        return False
    names = [
        {name.id: isinstance(name.ctx, ast.Store) for name in ast.walk(node) if isinstance(name, ast.Name)}
        for node in both
    ]
    return not any(stored for name, stored in names[0].items() if name in names[1]) and not any(
        stored for name, stored in names[1].items() if name in names[0]
    )


def _calls(node: ast.stmt) -> Iterator[ast.Call]:
    return (inner for inner in ast.walk(node) if isinstance(inner, ast.Call))
