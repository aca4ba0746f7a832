"""Rewrites statements: each once, in one flat body; ``break`` and ``continue`` become flags."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from .expressions import Expressions
from .patterns import as_tests, looks
from .scopes import jumps, mutated, rebound_by_functions, stored
from .syntax import assign, call, constant, load, mention, place, shape_of

_REGIONS = (ast.If, ast.For, ast.While, ast.With, ast.Match)
_DISPLAYS = (ast.Tuple, ast.List)
_Bodies = tuple[list[ast.stmt], list[ast.stmt]]
_NO_FLAGS: dict[type[ast.AST], str] = {}


class Statements(Expressions):
    """Rewrites the statements of one block."""

    def __init__(self, body: Sequence[ast.stmt], *options: Any) -> None:
        super().__init__(_conditional(body), *options)
        self._rebound = rebound_by_functions(body)
        self._flags = _NO_FLAGS  # of the innermost loop: by kind of jump
        self._caught = ""  # the variable that holds how deep the innermost `try` with handlers stands

    def block(self, statements: list[ast.stmt]) -> list[ast.stmt]:
        """Rewrite a list of statements; what follows one that may jump runs only if it did not."""
        out: list[ast.stmt] = []
        for index, statement in enumerate(statements):
            around, self.hoisted = self.hoisted, []
            flags = self._flags_of([statement])
            new = self._statement(statement)
            out += self.hoisted + new
            self.hoisted = around
            rest = statements[index + 1 :]
            if isinstance(statement, (ast.Break, ast.Continue, ast.Raise)) or not rest:
                break
            if flags:
                out.append(self._unless(flags, rest, rest[0]))
                break
        return out or [ast.Pass()]

    def _statement(self, node: ast.stmt) -> list[ast.stmt]:
        method: Callable[[Any], list[ast.stmt]] | None = getattr(self, "_" + type(node).__name__.lower(), None)
        if method is not None:
            return method(node)
        self.visit(node)
        return [node]

    # ------------------------------------------------------------------ what regions need to know

    def _flags_of(self, nodes: Iterable[ast.AST]) -> list[str]:
        return [self._flags[kind] for kind in (ast.Break, ast.Continue) if kind in self._flags and kind in jumps(nodes)]

    def _names(self, nodes: Sequence[ast.AST]) -> list[str]:
        return [*stored(nodes), *self._flags_of(nodes), *self._rebound]

    def _branch(self, test: ast.expr, names: list[str], changed: list[str], bodies: _Bodies, at: ast.AST) -> ast.stmt:
        """``for taken in branch(test): if taken: ... else: ...``, with the branches rewritten already."""
        taken = self.fresh("taken")
        inner = place(ast.If(load(taken), *bodies), at)
        source = place(call("branch", test, mention(names), mention(changed)), test if hasattr(test, "lineno") else at)
        return place(ast.For(ast.Name(taken, ast.Store()), source, [inner], []), at)

    def _unless(self, flags: list[str], statements: list[ast.stmt], at: ast.AST) -> ast.stmt:
        names, changed = self._names(statements), mutated(statements)
        test = place(call("clear", *map(load, flags)), at)
        return self._branch(test, names, changed, (self.block(statements), []), at)

    # ------------------------------------------------------------------ branches

    def _if(self, node: ast.If) -> list[ast.stmt]:
        both = [*node.body, *node.orelse]
        names, changed = self._names(both), mutated(both)
        test = self.visit(node.test)
        return [self._branch(test, names, changed, (self.block(node.body), self.block(node.orelse) if node.orelse else []), node)]

    def _assert(self, node: ast.Assert) -> list[ast.stmt]:
        error = place(call("failed", *([node.msg] if node.msg else [])), node)
        test = place(ast.UnaryOp(ast.Not(), node.test), node.test)
        branch = place(ast.If(test, [place(ast.Raise(error, None), node)], []), node)
        return self._if(branch)

    def _raise(self, node: ast.Raise) -> list[ast.stmt]:
        """Recorded where the error would leave a traced region, native elsewhere."""
        self._text = "error"
        self.visit(node)
        self._text = ""
        if node.exc is None:
            return [node]
        deeper = place(call("deeper", *([load(self._caught)] if self._caught else [])), node)
        recorded = place(ast.Expr(place(call("raise_", node.exc, *([node.cause] if node.cause else [])), node)), node)
        return [place(ast.If(deeper, [recorded], [node]), node)]

    def _match(self, node: ast.Match) -> list[ast.stmt]:
        tests = as_tests(node, self.fresh("subject"))
        if tests is not None:
            return self.block(tests)
        where = _tuple(tuple(looks(case.pattern) for case in node.cases))
        node.subject = place(call("matched", self.visit(node.subject), where), node.subject)
        for case in node.cases:
            case.guard = self.visit(case.guard) if case.guard else None
            case.body = self.block(case.body)
        return [node]

    # ------------------------------------------------------------------ loops

    def _for(self, node: ast.For) -> list[ast.stmt]:
        flags = self._open(node)
        outer, self._flags = self._flags, flags
        inner = hasattr(node, "inner")
        names = [*stored(node.body), *([] if inner else stored([node.target])), *self._rebound]
        names += [flags[ast.Break]] if ast.Break in flags and node.orelse else []
        changed, gradients = mutated(node.body), any(map(_names_gradients, node.body))
        body = self._turn(node, flags)
        self._flags = outer
        item = self.fresh("item")
        target = place(ast.Assign([node.target], self._unpacked(node.target, place(load(item), node.target))), node.target)
        self.visit(target.targets[0])
        turn: list[ast.stmt] = [target, *body]
        if ast.Break in flags:
            within = [*names, flags[ast.Break]]
            turn = [self._branch(place(call("clear", load(flags[ast.Break])), node), within, changed, (turn, []), node)]
        leaving = mention([flags[kind] for kind in flags if kind is ast.Break])
        items = call("items", self.visit(node.iter)) if gradients else self.visit(node.iter)
        source = call("iterate", items, mention(names), mention(changed), leaving)
        loop = place(ast.For(ast.Name(item, ast.Store()), place(source, node.iter), turn, []), node)
        return [*self._lowered(flags, ast.Break, node), loop, *self._else(node, flags)]

    def _while(self, node: ast.While) -> list[ast.stmt]:
        flags = self._open(node)
        outer, self._flags = self._flags, flags
        names = [*stored([node.test, *node.body]), *self._rebound]
        changed = mutated([node.test, *node.body])
        body = self._turn(node, flags)
        self._flags = outer
        turns = self.fresh("turns")
        test = place(ast.Call(ast.Attribute(load(turns), "test", ast.Load()), [self.visit(node.test)], []), node.test)
        inner = place(ast.If(test, body, []), node)
        source = call("loop", mention(names), mention(changed), mention([flags[k] for k in flags if k is ast.Break]))
        loop = place(ast.For(ast.Name(turns, ast.Store()), place(source, node), [inner], []), node)
        return [*self._lowered(flags, ast.Break, node), loop, *self._else(node, flags)]

    def _open(self, node: ast.For | ast.While) -> dict[type[ast.AST], str]:
        found = jumps(node.body)
        return {kind: self.fresh(kind.__name__.lower()) for kind in (ast.Break, ast.Continue) if kind in found}

    def _turn(self, node: ast.For | ast.While, flags: dict[type[ast.AST], str]) -> list[ast.stmt]:
        return [*self._lowered(flags, ast.Continue, node), *self.block(node.body)]

    def _lowered(self, flags: dict[type[ast.AST], str], kind: type[ast.AST], at: ast.AST) -> list[ast.stmt]:
        return [place(assign(flags[kind], constant(False)), at)] if kind in flags else []

    def _else(self, node: ast.For | ast.While, flags: dict[type[ast.AST], str]) -> list[ast.stmt]:
        if node.orelse and ast.Break in flags:
            return [self._unless([flags[ast.Break]], node.orelse, node.orelse[0])]
        return self.block(node.orelse) if node.orelse else []

    def _break(self, node: ast.Break) -> list[ast.stmt]:
        return [place(assign(self._flags[ast.Break], constant(True)), node)]

    def _continue(self, node: ast.Continue) -> list[ast.stmt]:
        return [place(assign(self._flags[ast.Continue], constant(True)), node)]

    def _with(self, node: ast.With) -> list[ast.stmt]:
        """Any ``with`` may turn out to be one over steps."""
        item, *others = node.items
        body: list[ast.stmt] = [place(ast.With(others, node.body), node)] if others else node.body
        manager, entered, turn = self.fresh("manager"), self.fresh("entered"), self.fresh("turn")
        inside: list[ast.AST] = [*([item.optional_vars] if item.optional_vars else []), *body]
        names, changed, flags = self._names(inside), mutated(inside), self._flags_of(body)
        kept = place(ast.NamedExpr(ast.Name(manager, ast.Store()), self.visit(item.context_expr)), item.context_expr)
        entry = ast.withitem(place(call("manager", kept), item.context_expr), ast.Name(entered, ast.Store()))
        source = place(call("turns", load(manager), load(entered), mention(names), mention(changed), mention(flags)), item.context_expr)
        block: list[ast.stmt] = []
        if item.optional_vars is not None:
            value = self._unpacked(item.optional_vars, place(load(turn), item.optional_vars))
            block = [place(ast.Assign([self.visit(item.optional_vars)], value), item.optional_vars)]
        loop = place(ast.For(ast.Name(turn, ast.Store()), source, [*block, *self.block(body)], []), item.context_expr)
        return [place(ast.With([entry], [loop]), node)]

    # ------------------------------------------------------------------ errors

    def _try(self, node: ast.Try) -> list[ast.stmt]:
        """The handlers catch what Python raises while recording; ``else`` is skipped where the body jumped."""
        flags, around, before = self._flags_of(node.body), self._caught, []
        if node.handlers:
            self._caught = self.fresh("caught")
            before = [place(assign(self._caught, ast.Attribute(load("@control"), "depth", ast.Load())), node)]
        body = self.block(node.body)
        self._caught = around
        if node.orelse:
            node.orelse = [self._unless(flags, node.orelse, node.orelse[0])] if flags else self.block(node.orelse)
        node.body = body
        for handler in node.handlers:
            handler.type = self.visit(handler.type) if handler.type else None
            handler.body = self.block(handler.body)
        node.finalbody = self.block(node.finalbody) if node.finalbody else []
        return [*before, node]

    _trystar = _try

    # ------------------------------------------------------------------ assignments

    def _assign(self, node: ast.Assign) -> list[ast.stmt]:
        if len(node.targets) == 1 and not isinstance(node.value, _DISPLAYS):
            node.value = self._unpacked(node.targets[0], self.made(node.value))
        else:
            node.value = self.made(node.value)
        node.targets = [self.visit(target) for target in node.targets]
        return [node]

    def _unpacked(self, target: ast.expr, value: ast.expr) -> ast.expr:
        shape = shape_of(target)
        return place(call("unpack", value, _tuple(shape)), value) if shape else value

    def _annassign(self, node: ast.AnnAssign) -> list[ast.stmt]:
        """A name that belongs to another frame cannot be annotated."""
        return self._assign(place(ast.Assign([node.target], node.value), node)) if node.value else [place(ast.Pass(), node)]

    def _augassign(self, node: ast.AugAssign) -> list[ast.stmt]:
        target = node.target
        self.visit(node)
        if not isinstance(target, ast.Name) or target.id not in self._conditional:
            return [node]
        before = self.fresh("before")
        checked = ast.Assign([ast.Name(before, ast.Store()), ast.Name(target.id, ast.Store())], call("grown", load(target.id)))
        return [place(checked, node), node, place(assign(target.id, call("grew", load(before), load(target.id))), node)]

    # ------------------------------------------------------------------ definitions

    def _functiondef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> list[ast.stmt]:
        node.decorator_list = [self.visit(decorator) for decorator in node.decorator_list]
        self.visit(node.args)
        self._natively_all(node.body)
        return [node]

    _asyncfunctiondef = _functiondef

    def _classdef(self, node: ast.ClassDef) -> list[ast.stmt]:
        node.decorator_list = [self.visit(decorator) for decorator in node.decorator_list]
        node.bases = [self.visit(value) for value in node.bases]
        self._natively_all(node.body)
        return [node]

    def _natively_all(self, statements: list[ast.stmt]) -> None:
        self._native += 1
        for statement in statements:
            self.visit(statement)
        self._native -= 1

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AnnAssign:
        node.value = self.visit(node.value) if node.value else None
        return node

    def _global(self, node: ast.Global | ast.Nonlocal) -> list[ast.stmt]:
        return [place(ast.Pass(), node)]  # the body declares all names at its top

    _nonlocal = _global


def _conditional(body: Sequence[ast.stmt]) -> set[str]:
    """The names that a branch, a loop or a part of an expression stores: they may be unset, or refused, when they are read."""
    regions = [node for statement in body for node in ast.walk(statement) if isinstance(node, (*_REGIONS, ast.NamedExpr))]
    return {*stored(regions), *rebound_by_functions(body)}


def _tuple(shape: Any) -> ast.expr:
    return constant(shape) if not isinstance(shape, tuple) else ast.Tuple([_tuple(part) for part in shape], ast.Load())


def _names_gradients(node: ast.AST) -> bool:
    return any(isinstance(inner, ast.Attribute) and inner.attr == "grad" for inner in ast.walk(node))
