"""Rewrites expressions: what Python decides by truth is asked of the controller."""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence

from .scopes import MUTATORS, mutated, walruses
from .syntax import assign, call, constant, control, function, load, mention, place, thunk
from .triggers import BUILTINS, CONTAINERS, is_call_of, is_save

_KNOWN = BUILTINS | CONTAINERS
_CONSUMERS = (_KNOWN - frozenset("len int float bool str abs round range".split())) | {"zip", "enumerate"}
_MADE = (ast.List, ast.Dict, ast.Set, ast.ListComp, ast.DictComp, ast.SetComp)
_NEGATED = (ast.NotIn, ast.IsNot)


class Expressions(ast.NodeTransformer):
    """Rewrites the expressions of one block.

    Args:
        conditional: Names that some branch or loop of the block stores.
        shadowed: Whether a builtin's name means something else here.
        declare: Makes the statements that declare names as the frame's.
        first: The name of the first parameter of the function around, for ``super()``.
        scan: Whether every ``.save()`` is rewritten.
    """

    def __init__(
        self,
        conditional: set[str],
        shadowed: Callable[[str], bool],
        declare: Callable[[Sequence[str]], list[ast.stmt]],
        first: str,
        scan: bool,
    ) -> None:
        self._conditional = conditional
        self._shadowed = shadowed
        self._declare = declare
        self._first = first
        self._scan = scan
        self._serial = 0
        self._native = 0  # inside functions, lambdas and generators, which run when they like
        self._text = ""  # whose text is written: of an "error", or of a "print"
        self.hoisted: list[ast.stmt] = []

    def block(self, statements: list[ast.stmt]) -> list[ast.stmt]:
        """Rewrite statements; those of a comprehension are made here."""
        raise NotImplementedError

    def fresh(self, kind: str) -> str:
        """A name that is not in use."""
        self._serial += 1
        return f"@{kind}{self._serial}"

    # ------------------------------------------------------------------ names, attributes, items

    def visit_Name(self, node: ast.Name) -> ast.expr:
        if isinstance(node.ctx, ast.Load) and node.id in self._conditional:
            return place(call("use", node), node)
        return node

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        self.generic_visit(node)
        if not isinstance(node.ctx, ast.Load):
            node.value = place(call("owner", node.value), node)
        return node

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.expr:
        """In what is printed, and in errors, which both come later or never: its parts, to be put together then."""
        self.generic_visit(node)
        if self._native or not self._text:
            return node
        parts = [_part(part) for part in node.values]
        return place(call("text", constant(self._text), *[place(part, node) for part in parts]), node)

    def visit_Dict(self, node: ast.Dict) -> ast.expr:
        """Keys are wanted at once."""
        around, self._text = self._text, ""
        self.generic_visit(node)
        self._text = around
        return node

    def visit_BinOp(self, node: ast.BinOp) -> ast.expr:
        """The same of ``"..." % value``."""
        self.generic_visit(node)
        if self._native or not self._text or not isinstance(node.op, ast.Mod) or not isinstance(node.left, (ast.Constant, ast.JoinedStr)):
            return node
        return place(call("filled", node.left, node.right), node)

    def visit_Subscript(self, node: ast.Subscript) -> ast.expr:
        self.generic_visit(node)
        if not isinstance(node.ctx, ast.Load):
            node.value = place(call("stored", node.value), node)
        elif not self._native and not isinstance(node.slice, (ast.Constant, ast.Slice, ast.Tuple, ast.UnaryOp)):
            return place(call("item", node.value, node.slice), node)
        return node

    # ------------------------------------------------------------------ scopes of their own

    def visit_Lambda(self, node: ast.Lambda) -> ast.expr:
        return self._natively(node)

    def visit_GeneratorExp(self, node: ast.GeneratorExp) -> ast.expr:
        return self._natively(node)

    def visit_arg(self, node: ast.arg) -> ast.arg:
        return node  # annotations are left as they are

    def _natively(self, node: ast.expr) -> ast.expr:
        self._native += 1
        self.generic_visit(node)
        self._native -= 1
        return node

    def visit_ListComp(self, node: ast.ListComp) -> ast.expr:
        return self._comprehension(node, "list")

    def visit_SetComp(self, node: ast.SetComp) -> ast.expr:
        return self._comprehension(node, "set")

    def visit_DictComp(self, node: ast.DictComp) -> ast.expr:
        return self._comprehension(node, "dict")

    def _comprehension(self, node: ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp, kind: str) -> ast.expr:
        """A function with a loop, defined before the statement; what it iterates over first is evaluated here."""
        if self._native:
            self.generic_visit(node)
            return node
        out, source, name = self.fresh("out"), self.fresh("source"), self.fresh("comprehension")
        names, first = walruses(node), self.visit(node.generators[0].iter)
        body, start = _element(node, kind, out)
        for generator in reversed(node.generators):
            for condition in reversed(generator.ifs):
                body = [place(ast.If(condition, body, []), condition)]
            loop = place(ast.For(generator.target, generator.iter, body, []), generator.target)
            loop.inner = True  # type: ignore[attr-defined]  # its targets end with it
            body = [loop]
        loop.iter = place(load(source), loop.target)
        body = [place(assign(out, place(start, node)), node), *body, place(ast.Return(load(out)), node)]
        self._define(name, [source], self._declare(names) + self.block(body), node)
        return place(ast.Call(load(name), [first], []), node)

    def _define(self, name: str, parameters: list[str], body: list[ast.stmt], node: ast.expr) -> None:
        self.hoisted.append(place(function(name, parameters, body), node))

    # ------------------------------------------------------------------ conditions

    def _postponed(self, node: ast.expr) -> ast.expr:
        names = walruses(node)
        return self._later(self.visit(node), names, node)

    def _later(self, value: ast.expr, names: Sequence[str], node: ast.expr) -> ast.expr:
        """A value for evaluation later, perhaps: a lambda, or a function where it binds names of the block."""
        if not names:
            return place(thunk(value), node)
        name = self.fresh("later")
        self._define(name, [], [*self._declare(names), place(ast.Return(value), node)], node)
        return place(load(name), node)

    def visit_IfExp(self, node: ast.IfExp) -> ast.expr:
        if self._native:
            return self._as_is(node)
        branches = [node.body, node.orelse]
        facts = _Facts(branches)
        test = self.visit(node.test)
        return facts.finish("select", test, [self._postponed(branch) for branch in branches], node)

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.expr:
        if self._native:
            return self._as_is(node)
        method = "both" if isinstance(node.op, ast.And) else "either"
        first, *others = node.values
        rest = others[0] if len(others) == 1 else place(ast.BoolOp(node.op, others), others[0])
        facts = _Facts([rest])
        left = self.visit(first)
        return facts.finish(method, left, [self._postponed(rest)], node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.expr:
        self.generic_visit(node)
        return place(call("negate", node.operand), node) if isinstance(node.op, ast.Not) and not self._native else node

    def visit_Compare(self, node: ast.Compare) -> ast.expr:
        if self._native:
            return self._as_is(node)
        return self._chain(self.visit(node.left), node.ops, node.comparators, node)

    def _chain(self, left: ast.expr, ops: list[ast.cmpop], comparators: list[ast.expr], node: ast.expr) -> ast.expr:
        facts = _Facts(comparators[1:])
        right = self.visit(comparators[0])
        if len(ops) == 1:
            return _compared(left, ops[0], right, node)
        name = self.fresh("term")
        kept = place(ast.NamedExpr(ast.Name(name, ast.Store()), right), comparators[0])
        first = _compared(left, ops[0], kept, node)
        rest = self._chain(load(name), ops[1:], comparators[1:], node)
        return facts.finish("both", first, [self._later(rest, facts.names, node)], node)

    def _as_is(self, node: ast.expr) -> ast.expr:
        self.generic_visit(node)
        return node

    # ------------------------------------------------------------------ calls

    def visit_Call(self, node: ast.Call) -> ast.expr:
        attribute = node.func if isinstance(node.func, ast.Attribute) else None
        if self._native:
            self.generic_visit(node)
        elif isinstance(node.func, ast.Name) and (node.func.id in _KNOWN or node.func.id in ("print", "super")):
            return self._named(node, node.func)
        elif attribute is not None and is_save(node, self._scan):
            return place(call("save", self.visit(attribute.value)), node)
        else:
            self.generic_visit(node)
        if attribute is not None and attribute.attr in MUTATORS:
            attribute.value = place(call("changed", attribute.value), attribute.value)
        return node

    def _named(self, node: ast.Call, name: ast.Name) -> ast.expr:
        if name.id == "super":
            self.generic_visit(node)
            node.args = node.args or [place(load("__class__"), node), place(load(self._first), node)]
            return node
        generator = node.args[0] if len(node.args) == 1 and isinstance(node.args[0], ast.GeneratorExp) else None
        if generator is not None and name.id in _CONSUMERS and not self._shadowed(name.id):
            if name.id in ("any", "all") and len(generator.generators) == 1:
                return self._comprehension(generator, name.id)
            node.args = [self._comprehension(generator, "list")]
            for keyword in node.keywords:
                self.visit(keyword)
        else:
            around, self._text = self._text, "print" if name.id == "print" else self._text
            self.generic_visit(node)
            self._text = around
        method = "print_" if name.id == "print" else "call"
        return place(call(method, node.func, *node.args, keywords=node.keywords), node)

    def made(self, node: ast.expr) -> ast.expr:
        """The value of an assignment: a container made by it is known as such."""
        if isinstance(node, ast.Tuple):
            node.elts = [self.made(element) for element in node.elts]
            return node
        value: ast.expr = self.visit(node)
        return place(call("new", value), node) if isinstance(node, _MADE) or is_call_of(node, CONTAINERS | {"sorted"}) else value


class _Facts:
    """What expressions bind and change, noted before they are rewritten."""

    __slots__ = ("changed", "names")

    def __init__(self, expressions: Sequence[ast.expr]) -> None:
        self.names = list(dict.fromkeys(name for expression in expressions for name in walruses(expression)))
        self.changed = mutated(expressions)

    def finish(self, method: str, first: ast.expr, later: list[ast.expr], node: ast.expr) -> ast.expr:
        """The call of the controller."""
        extra = [mention(self.names), mention(self.changed)] if self.names or self.changed else []
        return place(call(method, first, *later, *extra), node)


def _part(part: ast.expr) -> ast.expr:
    """A part of an f-string: a text, or ``(value, conversion, format)``."""
    if not isinstance(part, ast.FormattedValue):
        return part
    conversion = constant("" if part.conversion < 0 else f"!{chr(part.conversion)}")
    return ast.Tuple([part.value, conversion, part.format_spec or constant("")], ast.Load())


def _compared(left: ast.expr, op: ast.cmpop, right: ast.expr, node: ast.expr) -> ast.expr:
    negated = constant(isinstance(op, _NEGATED))
    if isinstance(op, (ast.In, ast.NotIn)):
        return place(call("contains", left, right, negated), node)
    if isinstance(op, (ast.Is, ast.IsNot)):
        return place(call("same", left, right, negated), node)
    return place(ast.Compare(left, [op], [right]), node)


def _element(node: ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp, kind: str, out: str) -> tuple[list[ast.stmt], ast.expr]:
    """What a comprehension does with an item, and what it begins with."""
    if isinstance(node, ast.DictComp):
        target = ast.Subscript(load(out), node.key, ast.Store())
        return [place(ast.Assign([target], node.value), node.value)], ast.Dict([], [])
    if kind in ("any", "all"):
        test = node.elt if kind == "any" else place(ast.UnaryOp(ast.Not(), node.elt), node.elt)
        found: list[ast.stmt] = [place(assign(out, constant(kind == "any")), node.elt), place(ast.Break(), node.elt)]
        return [place(ast.If(test, found, []), node.elt)], constant(kind == "all")
    method = ast.Attribute(load(out), "append" if kind == "list" else "add", ast.Load())
    start = ast.List([], ast.Load()) if kind == "list" else call("new", ast.Call(control("empty_set"), [], []))
    return [place(ast.Expr(ast.Call(method, [node.elt], [])), node.elt)], start
