"""Pieces of syntax that rewriting puts in; the names it makes up begin with ``@``, so they meet no name of the user's."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import Any, TypeVar

CONTROL = "@control"
_Node = TypeVar("_Node", bound="ast.stmt | ast.expr | ast.excepthandler")


def place(new: _Node, old: ast.AST) -> _Node:
    """Let ``new`` stand on the first line of ``old``, and only there, else breakpoints hit the wrong branch."""
    if hasattr(old, "lineno"):  # else both were put in, and stand where what is around them stands
        place: Any = old
        same = place.end_lineno == place.lineno
        new.lineno = new.end_lineno = place.lineno
        new.col_offset, new.end_col_offset = place.col_offset, place.end_col_offset if same else place.col_offset
    return new


def load(name: str) -> ast.Name:
    """A name that is read."""
    return ast.Name(name, ast.Load())


def call(method: str, *operands: ast.expr, keywords: Sequence[ast.keyword] = ()) -> ast.Call:
    """A call of the controller."""
    return ast.Call(control(method), list(operands), list(keywords))


def control(attribute: str) -> ast.Attribute:
    """An attribute of the controller."""
    return ast.Attribute(load(CONTROL), attribute, ast.Load())


def assign(name: str, value: ast.expr) -> ast.Assign:
    """``name = value``."""
    return ast.Assign([ast.Name(name, ast.Store())], value)


def constant(value: object) -> ast.Constant:
    """A constant; tuples of constants too."""
    return ast.Constant(value)  # type: ignore[arg-type,unused-ignore]


def arguments(*names: str) -> ast.arguments:
    """The parameters of a function."""
    return ast.arguments(
        posonlyargs=[], args=[ast.arg(name) for name in names], vararg=None, kwonlyargs=[], kw_defaults=[], kwarg=None, defaults=[]
    )


def thunk(body: ast.expr) -> ast.Lambda:
    """``lambda: body``."""
    return ast.Lambda(arguments(), body)


def mention(names: Sequence[str]) -> ast.expr:
    """``lambda: (a, b)``, which is never called: through it the variables themselves can be reached."""
    return thunk(ast.Tuple([load(name) for name in dict.fromkeys(names)], ast.Load())) if names else constant(None)


def function(name: str, parameters: Sequence[str], body: list[ast.stmt]) -> ast.FunctionDef:
    """A function definition."""
    node = ast.FunctionDef(name, arguments(*parameters), body, [], None)
    node.type_params = []  # type: ignore[attr-defined,unused-ignore]
    return node


def shape_of(target: ast.expr) -> tuple[object, ...] | None:
    """``(None, (None, None))`` for ``a, (b, c)``; None for what is not unpacked or has a star in it."""
    if not isinstance(target, (ast.Tuple, ast.List)) or any(isinstance(node, ast.Starred) for node in ast.walk(target)):
        return None
    return tuple(shape_of(element) for element in target.elts)
