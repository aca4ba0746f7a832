"""Branches, by programs whose meaning is known: lines in a branch that is taken mean what they mean outside, others mean nothing.

A drawn program gets some of its lines put into branches on traced conditions. Of a branch that is not taken, all that needs its
values is left out of the program. What is left means what the oracle says.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from textwrap import indent
from typing import Any

from torch import Tensor

import nnsight_graph as nnsight

from .generate import Case, draw_case
from .native import answer
from .programs import Program, Save, Statement
from .traced import Outcome, compiled, plain
from .trees import apply, leaves
from .verdict import Verdict, compare, loosen

BELOW = "below"
_SAVING = ("nnsight.save({0})", "{0}.save()", "nnsight.save(({0}, 1))", "other = {0}; other.save()")
_TRUE, _FALSE = "(0 * {0}.sum() == 0)", "(0 * {0}.sum() != 0)"


@dataclass(frozen=True)
class Branch:
    """Lines ``first`` to ``end`` of a program; in a branch that is taken or not, with lines that stand in the other one."""

    first: int
    end: int
    taken: bool
    test: str
    other: tuple[str, ...]
    swapped: bool
    """Whether they stand in the second."""
    known: bool
    """Whether the condition is known before the model runs."""


@dataclass(frozen=True)
class Branched:
    """A program with branches, and the program without them that means the same."""

    case: Case
    branches: tuple[Branch, ...]
    statements: tuple[Statement, ...]
    gone: frozenset[int]
    absent: frozenset[int]
    """Of those, what could not even be written: it needs names that only a branch above binds that is not taken."""
    below: tuple[str, str] | None = None
    """A name that only a branch binds and that is saved in the last line, and how."""

    @property
    def lines(self) -> list[str]:
        """The body of the trace."""
        lines: list[str] = []
        at = 0
        for branch in self.branches:
            lines += self.between(at, branch.first)
            both = [self.between(branch.first, branch.end, not branch.taken) or ["pass"], list(branch.other) or ["pass"]]
            first, second = reversed(both) if branch.swapped else both
            lines += [f"if {branch.test}:", *(indent(line, "    ") for line in first)]
            lines += ["else:", *(indent(line, "    ") for line in second)]
            at = branch.end
        last = [self.below[1].format(self.below[0])] if self.below else []
        return lines + self.between(at, len(self.statements)) + last

    def between(self, first: int, end: int, whole: bool = False) -> list[str]:
        left_out = self.absent if whole else self.gone
        kept = [s for at, s in enumerate(self.statements[first:end], first) if at not in left_out]
        return [line for statement in kept for line in statement.lines()]

    @property
    def meaning(self) -> Case:
        """The case without branches."""
        kept = [statement for at, statement in enumerate(self.statements) if at not in self.gone]
        kept += [Save(BELOW, (self.below[0],))] if self.below else []
        return replace(self.case, program=Program(tuple(kept), self.case.program.constants))


def draw_branched(seed: int) -> Branched:
    """The program of a seed; the same on every machine."""
    case = draw_case(seed)
    rng = random.Random(f"branches {seed}")
    statements = case.program.statements
    branches: list[Branch] = []
    gone: set[int] = set()
    absent: set[int] = set()
    at = 0
    while at < len(statements) - 1 and len(branches) < 3:
        first = rng.randint(at, len(statements) - 1)
        end = rng.randint(first + 1, min(first + 5, len(statements)))
        branches.append(_branch(rng, statements, first, end, gone))
        absent |= gone
        if not branches[-1].taken:
            gone |= set(range(first, end))
        gone |= _dependent(statements, gone)
        at = end
    inside = [s for at, s in enumerate(statements) if at not in gone and any(branch.first <= at < branch.end for branch in branches)]
    bound = [str(s.target) for s in inside if s.target and not isinstance(s, Save)]
    rng = random.Random(f"below {seed}")
    below = (rng.choice(bound), rng.choice(_SAVING)) if bound and rng.random() < 0.7 else None
    return Branched(case, tuple(branches), statements, frozenset(gone), frozenset(absent), below)


def _branch(rng: random.Random, statements: tuple[Statement, ...], first: int, end: int, gone: set[int]) -> Branch:
    taken, known = rng.random() < 0.6, rng.random() < 0.5
    above = [str(s.target) for at, s in enumerate(statements[:first]) if s.target and at not in gone and not isinstance(s, Save)]
    names = above if not known else []
    swapped = rng.random() < 0.3
    truth = taken is not swapped
    test = (_TRUE if truth else _FALSE).format("nnsight.apply(whole, " + rng.choice(names) + ")") if names else f"nnsight.bool({truth})"
    other = tuple(f"nnsight.apply(spoil, {name}, mutates=(0,))" for name in rng.sample(above, min(len(above), rng.randint(0, 2))))
    other = other if taken else ()  # one of the two runs
    return Branch(first, end, taken, test, other, swapped, not names)


def _dependent(statements: tuple[Statement, ...], gone: set[int]) -> set[int]:
    """The lines that need a name which only gone lines bind."""
    names = {statements[at].target for at in gone} - {None}
    found = set(gone)
    for at, statement in enumerate(statements):
        if at not in found and names.intersection(statement.operands):
            found.add(at)
            names |= {statement.target} - {None}
    return found


def whole(value: Any) -> Tensor:
    """One tensor of a value that holds some."""
    return leaves(value)[0].detach()


def spoil(value: Any) -> None:
    """Writes into a value: in a branch that is not taken nobody sees it."""
    whole(value).fill_(99)


def run(branched: Branched) -> Outcome:
    """The program through the library."""
    case = branched.case
    names: dict[str, Any] = {name: tensor.clone() for name, tensor in case.program.constants.items()}
    names |= {"nnsight": nnsight, "x": case.x.clone(), "model": nnsight.NNsight(case.module), "whole": whole, "spoil": spoil}
    names["torch"] = __import__("torch")
    saves = branched.meaning.program.saves
    try:
        exec(compiled(text(branched)), names)
        found = {name: names[branched.below[0] if branched.below and name == BELOW else name] for name in saves}
        values = {name: apply(plain, nnsight.value(value)) for name, value in found.items()}
    except Exception as error:
        return Outcome({}, error, None)
    return Outcome(values, None, None)


def text(branched: Branched) -> str:
    """The trace in its mode."""
    body = indent("\n".join(branched.lines or ["pass"]), " " * 8)
    return f"with torch.{branched.case.mode}():\n    with model.trace(x) as tracer:\n{body}\n"


REFUSED = ("may have been replaced in a branch", "may share memory", "known too late", "Edit a .clone()")


def judge(branched: Branched) -> Verdict:
    """Ask both; a refusal that a branch may bring is no fault."""
    case = branched.meaning
    right = loosen(case, answer(case.module, case.x, case.program, case.plain))
    got = run(branched)
    if isinstance(got.error, nnsight.OutOfOrderError) and not all(branch.known for branch in branched.branches):
        return Verdict("refused")
    if isinstance(got.error, nnsight.NNsightError) and any(part in str(got.error) for part in REFUSED):
        return Verdict("refused")
    return compare(right, got)
