"""Changes of source code: one comparison, operator, number, truth value or condition made wrong."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip
OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.FloorDiv: ast.Mult, ast.Div: ast.Mult, ast.Mod: ast.Add,
}  # fmt: skip


@dataclass(frozen=True)
class Change:
    """A change of one expression of a file.

    Attributes:
        file: path below the project's root.
        lines: numbers of the first and the last line of the expression.
        start: offset of the expression in bytes of the file.
        end: offset behind it.
        kind: kind of the change.
        old: text of the expression.
        new: text in its place.
        statement: text of its first line, without indentation: what names it in a list that outlives line numbers.
    """

    file: str
    lines: tuple[int, int]
    start: int
    end: int
    kind: str
    old: str
    new: str
    statement: str

    def __str__(self) -> str:
        return f"{self.file}:{self.lines[0]} {self.kind}: {_shorten(self.old)} -> {_shorten(self.new)}"

    @cached_property
    def folder(self) -> str:
        """Folder below ``src``; files of ``src`` itself belong to ``src``."""
        parts = Path(self.file).parts
        return "/".join(parts[:2]) if len(parts) > 2 else parts[0]

    def apply(self, source: bytes) -> bytes:
        return source[: self.start] + f"({self.new})".encode() + source[self.end :]


def list_changes(file: str, source: bytes) -> list[Change]:
    """List all changes of a file: none of docstrings, annotations, messages of errors, and texts with braces."""
    tree = ast.parse(source)
    offsets = [0]
    for line in source.splitlines(keepends=True):
        offsets.append(offsets[-1] + len(line))
    changes = []
    for target, kind, new in _find(tree):
        assert target.end_lineno is not None
        assert target.end_col_offset is not None
        start = offsets[target.lineno - 1] + target.col_offset
        end = offsets[target.end_lineno - 1] + target.end_col_offset
        old = source[start:end].decode()
        statement = source[offsets[target.lineno - 1] : offsets[target.lineno]].decode().strip()
        lines = (target.lineno, target.end_lineno)
        changes.append(Change(file, lines, start, end, kind, old, new or f"not ({old})", statement))
    return [change for change in changes if _compiles(change.apply(source))]


def _find(tree: ast.Module) -> Iterator[tuple[ast.expr, str, str]]:
    """Yield expressions with the kind of their change and their new text; no text: the negation of the old one."""
    skipped = {id(inner) for outer in _list_skipped(tree) for inner in ast.walk(outer)}
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Compare) and type(node.ops[0]) in COMPARISONS:
            ops = [COMPARISONS[type(node.ops[0])](), *node.ops[1:]]
            yield node, "comparison", ast.unparse(ast.Compare(node.left, ops, node.comparators))
        elif isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
            if not (isinstance(node.left, ast.Constant) and isinstance(node.left.value, str)):
                yield node, "operator", ast.unparse(ast.BinOp(node.left, OPERATORS[type(node.op)](), node.right))
        elif isinstance(node, ast.BoolOp):
            other = ast.Or() if isinstance(node.op, ast.And) else ast.And()
            yield node, "boolean", ast.unparse(ast.BoolOp(other, node.values))
        elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
            yield node, "truth", repr(not node.value)
        elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
            yield node, "number", repr(node.value + 1)
        elif isinstance(node, ast.If | ast.IfExp):
            yield node.test, "condition", ""
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.USub):
            yield node, "sign", ast.unparse(node.operand)


def _list_skipped(tree: ast.Module) -> Iterator[ast.AST]:
    for node in ast.walk(tree):
        yield from (getattr(node, name) for name in ("annotation", "returns") if getattr(node, name, None))
        if isinstance(node, ast.Raise | ast.JoinedStr | ast.Assert):
            yield node
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            yield node
        if isinstance(node, ast.Compare) and ast.unparse(node) == "__name__ == '__main__'":
            yield node


def _compiles(source: bytes) -> bool:
    try:
        compile(source, "changed", "exec")
    except (SyntaxError, ValueError):
        return False
    return True


def _shorten(text: str, width: int = 60) -> str:
    text = " ".join(text.split())
    return repr(text if len(text) <= width else text[: width - 3] + "...")
