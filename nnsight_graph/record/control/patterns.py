"""``match`` on what may be traced: arms that compare the subject as a whole are the tests of an ``if``."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import Any

from .syntax import assign, constant, load, place


def as_tests(node: ast.Match, subject: str) -> list[ast.stmt] | None:
    """The statements that do the same with ``if`` and ``else``, on a variable that holds the subject.

    Returns:
        ``None`` where an arm looks inside the subject, or binds it and has a guard: there Python decides itself.
    """
    arms = [_arm(case, subject) for case in node.cases]
    if None in arms:
        return None
    otherwise: list[ast.stmt] = []
    for case, (test, bound) in zip(reversed(node.cases), reversed(arms), strict=True):  # type: ignore[misc]
        named = [place(assign(name, place(load(subject), case.pattern)), case.pattern) for name in bound]
        if test is not None:
            if case.guard is not None:
                test = place(ast.BoolOp(ast.And(), [test, case.guard]), case.pattern)
            otherwise = [place(ast.If(test, [*named, *case.body], otherwise), case.pattern)]
        elif case.guard is not None:
            otherwise = [*named, place(ast.If(case.guard, case.body, otherwise), case.guard)]
        else:
            otherwise = [*named, *case.body]
    return [place(assign(subject, node.subject), node.subject), *otherwise]


def _arm(case: ast.match_case, subject: str) -> tuple[ast.expr | None, list[str]] | None:
    """The test of an arm, ``None`` if it fits everything, and the names that it gives the subject."""
    bound: list[str] = []
    pattern: ast.pattern | None = case.pattern
    while isinstance(pattern, ast.MatchAs):
        bound += [pattern.name] if pattern.name is not None else []
        pattern = pattern.pattern
    if pattern is None:
        return None, bound
    test = _test(pattern, subject)
    return None if test is None or (bound and case.guard is not None) else (test, bound)


def _test(pattern: ast.pattern, subject: str) -> ast.expr | None:
    if isinstance(pattern, ast.MatchValue):
        return place(ast.Compare(place(load(subject), pattern), [ast.Eq()], [pattern.value]), pattern)
    if isinstance(pattern, ast.MatchSingleton):
        return place(ast.Compare(place(load(subject), pattern), [ast.Is()], [place(constant(pattern.value), pattern)]), pattern)
    if isinstance(pattern, ast.MatchOr):
        tests = [_test(part, subject) for part in pattern.patterns]
        return None if None in tests else place(ast.BoolOp(ast.Or(), tests), pattern)  # type: ignore[arg-type]
    return None


def looks(pattern: ast.pattern) -> Any:
    """Where a pattern looks: nowhere (``None``), at what stands there (``"itself"``), at items (a tuple), or somewhere ``"inside"``."""
    if isinstance(pattern, ast.MatchAs):
        return None if pattern.pattern is None else looks(pattern.pattern)
    if isinstance(pattern, ast.MatchSequence) and not any(isinstance(part, ast.MatchStar) for part in pattern.patterns):
        return tuple(map(looks, pattern.patterns))
    if isinstance(pattern, (ast.MatchSequence, ast.MatchMapping)):
        items: Sequence[ast.pattern] = [part for part in pattern.patterns if not isinstance(part, ast.MatchStar)]
        return "itself" if all(looks(part) is None for part in items) else "inside"
    if isinstance(pattern, ast.MatchOr):
        found = list(map(looks, pattern.patterns))
        return "itself" if all(one in (None, "itself") for one in found) else "inside"
    return "itself"
