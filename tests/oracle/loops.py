"""Loops over values, by programs whose meaning is known: a loop of two turns means its lines twice."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from textwrap import indent
from typing import Any

import nnsight_graph as nnsight

from .generate import Case, draw_case
from .native import answer
from .programs import Augment, Program, Save, Statement, Write
from .traced import Outcome, compiled, plain
from .trees import apply
from .verdict import Verdict, compare, loosen

BELOW = "below"
REFUSED = ("Edit a .clone()", "known too late", "may share memory", "does not support item assignment", "was overwritten in place")


@dataclass(frozen=True)
class Looped:
    """A program of which some lines stand in a loop."""

    case: Case
    first: int
    end: int
    turns: int
    below: str = ""
    """A name that the loop binds, and that is saved in the last line."""

    @property
    def statements(self) -> tuple[Statement, ...]:
        """The lines, each once."""
        return self.case.program.statements

    @property
    def lines(self) -> list[str]:
        """The body of the trace."""
        parts = [self.statements[: self.first], self.statements[self.first : self.end], self.statements[self.end :]]
        above, inside, below = ([line for statement in part for line in statement.lines()] for part in parts)
        below += [f"nnsight.save({self.below})"] if self.below else []
        return [*above, f"for turn in nnsight.list({[0] * self.turns}):", *(indent(line, "    ") for line in inside), *below]

    @property
    def meaning(self) -> Case:
        """The case without the loop."""
        body = self.statements[self.first : self.end]
        unrolled = (*self.statements[: self.first], *body * self.turns, *self.statements[self.end :])
        unrolled += (Save(BELOW, (self.below,)),) if self.below else ()
        return replace(self.case, program=Program(unrolled, self.case.program.constants))


def draw_looped(seed: int) -> Looped | None:
    """The program of a seed; ``None`` where it has no lines for a loop."""
    case = draw_case(seed)
    rng = random.Random(f"loops {seed}")
    statements = case.program.statements
    fits = [at for at, statement in enumerate(statements) if not isinstance(statement, (Write, Save, Augment))]
    if not fits:
        return None
    first = end = rng.choice(fits)
    while end in fits and end - first < 4:
        end += 1
    turns = rng.choice((1, 1, 2))
    bound = [str(statement.target) for statement in statements[first:end] if statement.target]
    return Looped(case, first, end, turns, rng.choice(bound) if bound and rng.random() < 0.5 else "")


def text(looped: Looped) -> str:
    """The trace in its mode."""
    return f"with torch.{looped.case.mode}():\n    with model.trace(x) as tracer:\n{indent(chr(10).join(looped.lines), ' ' * 8)}\n"


def run(looped: Looped) -> Outcome:
    """The program through the library."""
    case = looped.case
    names: dict[str, Any] = {name: tensor.clone() for name, tensor in case.program.constants.items()}
    names |= {"nnsight": nnsight, "x": case.x.clone(), "model": nnsight.NNsight(case.module), "torch": __import__("torch")}
    try:
        exec(compiled(text(looped)), names)
        found = {name: nnsight.value(names[name]) for name in case.program.saves}
        found |= {BELOW: nnsight.value(names[looped.below])} if looped.below else {}
        return Outcome({name: apply(plain, value) for name, value in found.items()}, None, None)
    except Exception as error:
        return Outcome({}, error, None)


def judge(looped: Looped) -> Verdict:
    """Ask both; a loop runs as a unit, so it may be too late where its lines would not be."""
    case = looped.meaning
    right = loosen(case, answer(case.module, case.x, case.program, case.plain))
    got = run(looped)
    if isinstance(got.error, nnsight.OutOfOrderError) or any(part in str(got.error) for part in REFUSED if got.error):
        return Verdict("refused")
    return compare(right, got)
