"""What an operation of a function calls, as far as that can be told without running it."""

from __future__ import annotations

import ast
import builtins
import types
from collections.abc import Sequence
from typing import Any

from .instrument import Instrumented, Named

LOOKUPS = frozenset(("get", "get_interface"))


class Untold(Exception):
    """Only a run can tell."""


def callee(function: Instrumented, named: Named, owner: Any) -> Any:
    """The function that an operation calls.

    Args:
        function: Where the operation stands.
        named: The operation.
        owner: What the function's first argument is: the module, for its forward.

    Raises:
        Untold: it hangs on what passes.
    """
    if not isinstance(named.expression, ast.Call):
        raise Untold
    return _Reader(function, owner, named.line).value(named.expression.func)


class _Reader:
    """Follows names to what they stand for, through the plain assignments above a line."""

    def __init__(self, function: Instrumented, owner: Any, line: int) -> None:
        code = function.function.__code__
        cells = zip(code.co_freevars, function.function.__closure__ or (), strict=True)
        self._known = {**vars(builtins), **function.function.__globals__, **{name: cell.cell_contents for name, cell in cells}}
        self._local = dict.fromkeys((*code.co_varnames, *code.co_cellvars))
        self._own = code.co_varnames[0] if code.co_argcount and owner is not None else ""
        self._owner, self._body, self._line = owner, getattr(function.body, "body", ()), line

    def value(self, expression: ast.expr) -> Any:
        """What an expression stands for."""
        if isinstance(expression, ast.Constant):
            return expression.value
        if isinstance(expression, ast.Name):
            return self._of_name(expression.id)
        if isinstance(expression, ast.Attribute):
            return self._looked_up(getattr, self.value(expression.value), expression.attr)
        if isinstance(expression, ast.Subscript):
            return self._looked_up(lambda table, key: table[key], self.value(expression.value), self.value(expression.slice))
        if isinstance(expression, ast.Call) and isinstance(expression.func, ast.Attribute) and expression.func.attr in LOOKUPS:
            return self._looked_up(lambda get, *args: get(*args), self.value(expression.func), *map(self.value, expression.args))
        if isinstance(expression, ast.Compare) and len(expression.ops) == 1 and isinstance(expression.ops[0], (ast.Eq, ast.NotEq)):
            equal = self.value(expression.left) == self.value(expression.comparators[0])
            return bool(equal) is isinstance(expression.ops[0], ast.Eq)
        raise Untold

    @staticmethod
    def _looked_up(look: Any, *values: Any) -> Any:
        try:
            return look(*values)
        except Exception:
            raise Untold from None

    def _of_name(self, name: str) -> Any:
        if name == self._own:
            return self._owner
        if name not in self._local:
            if name not in self._known:
                raise Untold
            return self._known[name]
        found = self._assigned(name, self._body)
        if found is None:
            raise Untold
        return self.value(found)

    def _assigned(self, name: str, body: Sequence[ast.stmt]) -> ast.expr | None:
        """The last expression that a name was assigned before the line."""
        found: ast.expr | None = None
        for statement in body:
            if statement.lineno >= self._line:
                break
            if isinstance(statement, ast.If) and any(_assigns(inner, name) for inner in ast.walk(statement)):
                taken = statement.body if self.value(statement.test) else statement.orelse
                found = self._assigned(name, taken) or found
            elif _assigns(statement, name):
                found = statement.value  # type: ignore[attr-defined]
            elif any(_stores(inner, name) for inner in ast.walk(statement)):
                raise Untold
        return found


def _assigns(node: ast.AST, name: str) -> bool:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) and node.value else []
    return any(isinstance(target, ast.Name) and target.id == name for target in targets)


def _stores(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name and isinstance(node.ctx, ast.Store)


def bound_to(function: Any) -> Any:
    """What the first argument of a method is; ``None`` for a function."""
    return function.__self__ if isinstance(function, types.MethodType) else None
