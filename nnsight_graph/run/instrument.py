"""Operations inside a function as sites: its source with every call, and every binary operator, going through one function of ours.

``self.c_attn(x).split(n)`` becomes ``_operation("split_0", _operation("self_c_attn_0", self.c_attn, x).split, n)``. The function's own
globals, closure, defaults and line numbers stay; nothing of the original is touched: the instrumented one is another function.
"""

from __future__ import annotations

import ast
import copy
import functools
import inspect
import operator
import textwrap
import types
from collections.abc import Callable
from typing import Any, NamedTuple

from ..errors import NNsightError
from ..parsing import parse

Operation = Callable[..., Any]
"""Called with the name of an operation, the function and its arguments."""

_OURS = "_nnsight_graph_operation"
_LEFT_ALONE = frozenset(("super", "locals", "globals", "vars", "dir", "eval", "exec", "isinstance", "hasattr"))
_OPERATORS = {
    ast.Add: "add", ast.Sub: "sub", ast.Mult: "mul", ast.Div: "truediv", ast.FloorDiv: "floordiv", ast.Mod: "mod", ast.Pow: "pow",
    ast.MatMult: "matmul", ast.BitAnd: "and_", ast.BitOr: "or_", ast.BitXor: "xor", ast.LShift: "lshift", ast.RShift: "rshift",
}  # fmt: skip


class Named(NamedTuple):
    """An operation of a function: its name, the line it stands on, and its expression."""

    name: str
    line: int
    expression: ast.expr


class Instrumented:
    """A function whose operations are named.

    Args:
        function: A plain Python function, without decorators around it.

    Attributes:
        function: The function itself.
        operations: Its operations, in the order of the text.
        others: Further names of them, as nnsight 0.8 gives them: by the name that a result is assigned to, and by that of the function
            with assignments to it counted as well.
        text: Its source.
        first: The line of its file that the text begins with.

    Raises:
        NNsightError: its source is not there.
    """

    def __init__(self, function: types.FunctionType) -> None:
        self.function = function
        self.text, self.first = _source(function)
        tree = _definition(self.text, function)
        self.operations: list[Named] = []
        self.others: dict[str, str] = {}
        self.body = parse(textwrap.dedent(self.text)).body[0]
        naming = _Naming(self)
        tree.body = [naming.visit(statement) for statement in tree.body]
        self._code = _compiled(tree, function, self.first)

    @property
    def names(self) -> list[str]:
        """The names of the operations."""
        return [named.name for named in self.operations]

    def calling(self, operation: Operation) -> Callable[..., Any]:
        """The function, with every operation going through ``operation``."""
        own = dict(zip(self.function.__code__.co_freevars, self.function.__closure__ or (), strict=True))
        own[_OURS] = types.CellType(operation)
        closure = tuple(own[name] for name in self._code.co_freevars)
        made = types.FunctionType(self._code, self.function.__globals__, self.function.__name__, self.function.__defaults__, closure)
        made.__kwdefaults__ = self.function.__kwdefaults__
        return made


def instrumented(function: types.FunctionType) -> Instrumented:
    """The same, once for each function; one that closes over values is not kept, since it would keep them, too."""
    return _kept(function) if set(function.__code__.co_freevars) <= {"__class__"} else Instrumented(function)


@functools.lru_cache(maxsize=512)
def _kept(function: types.FunctionType) -> Instrumented:
    return Instrumented(function)


def _source(function: types.FunctionType) -> tuple[str, int]:
    try:
        lines, first = inspect.getsourcelines(function.__code__)  # of a function, it would be those of what it wraps
    except (OSError, TypeError) as error:
        raise NNsightError(f"there is no source of {function.__qualname__}: what it does inside cannot be seen") from error
    return "".join(lines), first


def _definition(text: str, function: types.FunctionType) -> ast.FunctionDef:
    try:
        tree = parse(textwrap.dedent(text)).body[0]
    except (SyntaxError, IndexError):
        tree = ast.Pass()
    if not isinstance(tree, ast.FunctionDef):
        raise NNsightError(f"{function.__qualname__} is not defined by a def of its own: what it does inside cannot be named")
    tree.decorator_list = []
    tree.returns = None
    arguments = tree.args
    for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg):
        if argument is not None:
            argument.annotation = None
    arguments.defaults = [ast.Constant(None) for _ in arguments.defaults]  # never evaluated: the function keeps its own
    arguments.kw_defaults = [default and ast.Constant(None) for default in arguments.kw_defaults]
    return tree


class _Naming(ast.NodeTransformer):
    """Gives each operation a name, in the order of evaluation, and sends it through our function."""

    def __init__(self, owner: Instrumented) -> None:
        self._owner = owner
        self._counts: dict[str, int] = {}
        self._all: dict[str, int] = {}  # assignments count here, too

    def _named(self, base: str, node: ast.expr) -> ast.Constant:
        count = self._counts.get(base, 0)
        self._counts[base] = count + 1
        name = f"{base}_{count}"
        self._owner.operations.append(Named(name, node.lineno, node))
        self._call_too(base, name)
        return ast.copy_location(ast.Constant(name), node)

    def _call_too(self, base: str, name: str) -> None:
        count = self._all.get(base, 0)
        self._all[base] = count + 1
        if name:
            self._owner.others[f"{base}_{count}"] = name

    def visit_Assign(self, node: ast.Assign) -> ast.stmt:
        value = node.value
        self.generic_visit(node)
        if len(node.targets) == 1:
            self._assigned(node.targets[0], value)
        return node

    def _assigned(self, target: ast.expr, value: ast.expr) -> None:
        """The operation whose result a name is assigned has that name, too."""
        last = self._owner.operations[-1] if self._owner.operations else None
        whole = last is not None and (last.expression.lineno, last.expression.col_offset, last.expression.end_col_offset) == (
            value.lineno, value.col_offset, value.end_col_offset,
        )  # fmt: skip
        if isinstance(target, (ast.Name, ast.Attribute)):
            self._call_too(_call_name(target), last.name if last is not None and whole else "")

    def visit_Call(self, node: ast.Call) -> ast.expr:
        if isinstance(node.func, ast.Name) and node.func.id in _LEFT_ALONE:
            return node if node.func.id == "super" else self._inside(node)
        before = copy.deepcopy(node)
        node = self._inside(node)
        name = self._named(_call_name(before.func), before)
        ours = ast.copy_location(ast.Name(_OURS, ast.Load()), node)
        return ast.copy_location(ast.Call(ours, [name, node.func, *node.args], node.keywords), node)

    def visit_BinOp(self, node: ast.BinOp) -> ast.expr:
        original = copy.deepcopy(node)
        word = _OPERATORS[type(node.op)]
        self.generic_visit(node)
        name = self._named(f"op_{word.rstrip('_')}", original)
        ours = ast.copy_location(ast.Name(_OURS, ast.Load()), node)
        return ast.copy_location(ast.Call(ours, [name, ast.copy_location(ast.Constant(word), node), node.left, node.right], []), node)

    def _inside(self, node: ast.Call) -> ast.Call:
        self.generic_visit(node)
        return node

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.expr:
        return node  # texts of errors

    def visit_Raise(self, node: ast.Raise) -> ast.stmt:
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.stmt:
        if node.value is not None:
            value, node.value = node.value, self.visit(node.value)
            self._assigned(node.target, value)
        return node


def _call_name(function: ast.expr) -> str:
    parts = []
    while isinstance(function, ast.Attribute):
        parts.append(function.attr)
        function = function.value
    if isinstance(function, ast.Name):
        return "_".join([function.id, *reversed(parts)])
    return parts[0] if parts else "call"


def called(function: Any) -> Any:
    """What an operation calls: operators go by their names."""
    return getattr(operator, function) if type(function) is str else function


def _compiled(tree: ast.FunctionDef, function: types.FunctionType, first: int) -> types.CodeType:
    """The code of a definition, with the free variables of the function and ours."""
    free = [name for name in (*function.__code__.co_freevars, _OURS) if name != "__class__"]
    around = function.__qualname__.split(".")
    outer = zip(around[-2::-1], around[:0:-1], strict=False)  # each with the part below it: above "<locals>" stands a function
    kind = next((part for part, below in outer if "<locals>" not in (part, below)), "")
    body: list[ast.stmt] = [tree]
    if kind:  # for names that begin with two underscores, and for super()
        body = [ast.ClassDef(name=kind, bases=[], keywords=[], body=body, decorator_list=[])]
        if hasattr(ast, "TypeVar"):
            body[0].type_params = []  # type: ignore[attr-defined]
    given = [ast.Assign(targets=[ast.Name(name, ast.Store())], value=ast.Constant(None)) for name in free]
    factory = parse("def factory(): pass").body[0]
    assert isinstance(factory, ast.FunctionDef)
    factory.body = [*given, *body]
    module = ast.Module(body=[factory], type_ignores=[])
    ast.fix_missing_locations(module)
    ast.increment_lineno(module, first - 1)
    flags = function.__code__.co_flags & _FUTURE
    code: types.CodeType = compile(module, function.__code__.co_filename, "exec", dont_inherit=True, flags=flags)
    for name in ("factory", *([kind] if kind else []), tree.name):
        code = next(part for part in code.co_consts if isinstance(part, types.CodeType) and part.co_name == name)
    return code


_FUTURE = 0x1000000  # from __future__ import annotations
