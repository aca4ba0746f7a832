"""Makes a function of a block: same names, same lines, cells in place of the frame's variables."""

from __future__ import annotations
import __future__

import ast
import builtins
import sys
from collections.abc import Sequence
from types import CodeType
from typing import Any, NamedTuple

from .frames import is_function
from .scopes import stored
from .source import Statement
from .statements import Statements
from .syntax import CONTROL, function, load, place

_FUTURES = 0
for _name in __future__.all_feature_names:
    _FUTURES |= getattr(__future__, _name).compiler_flag
VALUE = "@value"


class Rewritten(NamedTuple):
    """A block as a function.

    Attributes:
        code: Its code; the free variables are the frame's names and the controller.
        names: The frame's names that get a cell each.
        stored: Those that the block binds or deletes.
    """

    code: CodeType
    names: tuple[str, ...]
    stored: tuple[str, ...]


def rewrite(code: CodeType, statement: Statement, module: dict[str, Any], local: bool, scan: bool) -> Rewritten:
    """The function for the block of ``statement``.

    Args:
        code: The code that the block stands in.
        statement: The block.
        module: The names of its module.
        local: Whether the code's names are its own: a function's or a class's, not a module's.
        scan: Whether the block is a scan.
    """
    node, item = ast.increment_lineno(statement.node, statement.above), statement.item
    body = _body(node, item)
    owner = _class_of(code, body)
    names = _names(code, body) if local else ()
    kept = [_mangled(name, owner) for name in stored(body)]

    def declare(wanted: Sequence[str]) -> list[ast.stmt]:
        own = [name for name in wanted if _mangled(name, owner) in names]
        others = [name for name in wanted if _mangled(name, owner) not in names and not name.startswith("@")]
        return [*([ast.Nonlocal(own)] if own else []), *([ast.Global(others)] if others else [])]

    def shadowed(name: str) -> bool:
        return name in names or module.get(name, getattr(builtins, name)) is not getattr(builtins, name)

    first = code.co_varnames[0] if code.co_argcount else ""
    new = Statements(body, shadowed, declare, first, scan).block(body)
    declared: list[ast.stmt] = [ast.Nonlocal(list(names))] if names else []
    declared += [ast.Global([name for name in stored(body) if _mangled(name, owner) not in names])]
    inner = place(function(code.co_name, [VALUE], [*[one for one in declared if one.names], *new]), node)  # type: ignore[attr-defined]
    outer: ast.stmt = place(function("@outer", [CONTROL, *names], [inner]), node)
    if owner:
        outer = place(ast.ClassDef(owner, [], [], [outer], []), node)
        outer.type_params = []  # type: ignore[attr-defined,unused-ignore]
    tree = ast.fix_missing_locations(ast.Module([outer], []))
    compiled = compile(tree, statement.file or code.co_filename, "exec", flags=code.co_flags & _FUTURES, dont_inherit=True)
    made = _innermost(compiled, code.co_name, bool(owner)).replace(co_name=statement.function or code.co_name)
    if sys.version_info >= (3, 11):
        made = made.replace(co_qualname=statement.function or code.co_qualname)  # tracebacks show it
    return Rewritten(made, names, tuple(kept))


def _body(node: ast.With, item: int) -> list[ast.stmt]:
    """What the block does after its own item was entered."""
    target, others = node.items[item].optional_vars, node.items[item + 1 :]
    body: list[ast.stmt] = [place(ast.With(others, node.body), node)] if others else list(node.body)
    return [place(ast.Assign([target], place(load(VALUE), target)), target), *body] if target is not None else body


def _names(code: CodeType, body: list[ast.stmt]) -> tuple[str, ...]:
    """The names that need cells: all of a function; of a class those that the block mentions."""
    if is_function(code):
        return tuple(dict.fromkeys(name for name in (*code.co_varnames, *code.co_cellvars, *code.co_freevars) if name.isidentifier()))
    mentioned = [node.id for statement in body for node in ast.walk(statement) if isinstance(node, ast.Name) and node.id != VALUE]
    return tuple(dict.fromkeys([*mentioned, *stored(body)]))


def _class_of(code: CodeType, body: list[ast.stmt]) -> str:
    """The class whose name mangles the private names of the block; empty where there are none."""
    known = {*code.co_names, *code.co_varnames, *code.co_cellvars, *code.co_freevars}
    for node in (inner for statement in body for inner in ast.walk(statement)):
        name = getattr(node, "id", None) or getattr(node, "attr", None)
        if isinstance(name, str) and name.startswith("__") and not name.endswith("__") and name not in known:
            owners = [other[1 : -len(name)] for other in known if other.startswith("_") and other.endswith(name)]
            if owners:
                return owners[0]
    return ""


def _mangled(name: str, owner: str) -> str:
    return f"_{owner}{name}" if owner and name.startswith("__") and not name.endswith("__") else name


def _innermost(code: CodeType, name: str, in_class: bool) -> CodeType:
    path = [*(("@class",) if in_class else ()), "@outer", name]
    for step in path:
        inner = [constant for constant in code.co_consts if isinstance(constant, CodeType)]
        code = next(constant for constant in inner if step in ("@class", constant.co_name))
    return code


