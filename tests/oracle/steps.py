"""Programs over several forwards of one model: the same question about a chain of copies of it, one copy for each step.

A model that a method runs three times, with `tracer.iter[2]` around a line, means what three copies in a row mean, with the third
named in the line. So the oracle answers for the chain, and the library is asked about the model and its steps. A loop over steps is,
for the oracle, its body once for each step, with names of its own for each.
"""

from __future__ import annotations

import copy
import random
import re
from collections import Counter
from dataclasses import dataclass, replace
from textwrap import indent
from typing import Any

import torch
from torch import Tensor, nn

import nnsight_graph as nnsight

from .forward import Key, run_forward
from .generate import Case, Mode, Writer, runs_with_grad
from .modules import draw_module
from .native import answer
from .programs import Augment, Compute, Edit, Effect, Program, Read, Save, Site, Statement, Write
from .traced import Outcome, compiled, forward_changed, hooks_left, inputs_changed, plain
from .trees import Tree, apply
from .verdict import Verdict, compare, loosen

STEPS = 3
_COPY = re.compile(r"model\.steps\[(\d+)\]")


class Again(nn.Module):
    """A model with a method that runs it several times."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Any:
        return self.block(x)

    def many(self, x: Tensor, times: int) -> Any:
        for _ in range(times):
            x = self(x)
        return x

    def generate(self, x: Tensor, times: int) -> Any:
        return self.many(x, times)


class Within(nn.Module):
    """Calls a model several times: in its own forward, or by that model's method."""

    def __init__(self, inner: Again) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Any:
        return self.inner.many(x, STEPS)

    def many(self, x: Tensor, times: int) -> Any:
        return self.inner.generate(x, times)


class Chain(nn.Module):
    """Copies of a model in a row."""

    def __init__(self, model: Again, count: int) -> None:
        super().__init__()
        self.steps = nn.ModuleList(copy.deepcopy(model) for _ in range(count))

    def forward(self, x: Tensor) -> Any:
        for step in self.steps:
            x = step(x)
        return x


@dataclass(frozen=True)
class Loop:
    """Where a program has a loop over steps: the statements of each turn, and how its head is written."""

    head: str
    start: int
    turns: tuple[tuple[Statement, ...], ...]

    @property
    def open(self) -> bool:
        """Whether it is open at its end."""
        return "all()" in self.head or "generated" in self.head or re.search(r":\]|::", self.head) is not None

    @property
    def edits_outside(self) -> bool:
        """Whether it is open and edits what was read above it: lines below then wait for the end of the run."""
        outside: dict[str, bool] = {}
        for line in self.turns[0] if self.open else ():
            base = line.operands[0] if line.operands else ""
            if isinstance(line, Edit) and outside.get(base, True):
                return True
            if line.target:
                fresh = isinstance(line, Read) or (isinstance(line, Compute) and line.effect is Effect.FRESH)
                outside[line.target] = not fresh and outside.get(base, True)
        return False


@dataclass(frozen=True)
class StepCase:
    """A case about the chain, and the model that takes its place."""

    case: Case
    model: nn.Module
    loop: Loop | None
    form: str = "root"
    """What runs several times: the model itself, a module inside it that generates, or one that its forward calls."""

    def lines(self) -> list[str]:
        """The body of the trace of the model."""
        statements = list(self.case.program.statements)
        if self.loop is None:
            return [line for statement in statements for line in stepped(statement)]
        size = sum(map(len, self.loop.turns))
        above, below = statements[: self.loop.start], statements[self.loop.start + size :]
        saves = [statement for statement in self.loop.turns[0] if isinstance(statement, Save)]
        inside = [line for statement in self.loop.turns[0] for line in in_turn(statement)]
        return [
            *(line for statement in above for line in stepped(statement)),
            *(f"all_{save.target} = nnsight.list().save()" for save in saves),
            self.loop.head,
            *(f"    {line}" for line in inside or ["pass"]),
            *(line for statement in below for line in stepped(statement)),
        ]

    def text(self) -> str:
        """The trace in its mode."""
        body = indent("\n".join(self.lines() or ["pass"]), " " * 8)
        body = body if self.form == "root" else re.sub(r"\bmodel\b", "model.inner", body)
        call = "x" if self.form == "calls" else f'x, {STEPS}, fn="many"'
        return f"with torch.{self.case.mode}():\n    with model.trace({call}) as tracer:\n{body}\n"


def stepped(statement: Statement) -> list[str]:
    """A statement about the chain as one about the model and a step."""
    step = next((int(part) for part in _COPY.findall(str(getattr(statement, "site", "")))), None)
    lines = [_COPY.sub("model", line) for line in statement.lines()]
    return lines if step is None else [f"with tracer.iter[{step}]:", *(f"    {line}" for line in lines)]


def in_turn(statement: Statement) -> list[str]:
    """The same, in a loop; what is saved goes into a list, too."""
    lines = [_COPY.sub("model", line) for line in statement.lines()]
    return [*lines, f"all_{statement.target}.append({statement.operands[0]})"] if isinstance(statement, Save) else lines


class StepWriter(Writer):
    """Writes a program about a chain, with a loop over steps in some."""

    turn: int | None = None
    outer: frozenset[str] = frozenset()
    unseen: frozenset[str] = frozenset()

    def names(self, key: Key) -> list[Site]:
        """Sites of the copies, and the result."""
        if key[0].split(".")[0] != "steps" and key[1] != "result":
            return []
        found = super().names(key)
        return found if self.turn is None else [site for site in found if site.path.startswith(f"steps.{self.turn}")]

    def tensors(self, traced: bool = False) -> list[str]:
        return [name for name in super().tensors(traced) if name not in self.unseen]

    def append(self, drawn: list[Statement]) -> bool:
        """In a loop a name of the surroundings keeps its value, and what is saved is the turn's."""
        if self.turn is not None:
            for line in drawn:
                if isinstance(line, Edit) and re.match(r"\{0\} \S?=", line.template) and line.operands[0] in self.outer:
                    return False
                if isinstance(line, Save) and line.operands[0] in self.outer:
                    return False
        return super().append(drawn)

    def save(self) -> list[Statement]:
        return [line for line in super().save() if not self.unseen.intersection(line.operands)]

    def draw(self, count: int) -> None:
        """Some statements."""
        for _ in range(count):
            often = [self.read, self.read, self.compute, self.edit, self.edit]
            drawer = self.rng.choice([*often, self.write, self.view, self.cross, self.save])
            for _ in range(5):
                if self.append(drawer()):
                    break

    def looped(self) -> tuple[Program, Loop | None]:
        """A program with a loop; without one, if its body cannot be run in all of its steps."""
        self.draw(self.rng.randint(0, 6))
        head, numbers = self.head()
        start, everything = len(self.statements), self.sites
        self.outer = frozenset(self.native.values)
        self.turn = numbers[0]
        self.sites = self.focus()
        self.draw(self.rng.randint(2, 9))
        body, self.turn, self.sites = self.statements[start:], None, everything
        turns = [tuple(body), *(tuple(moved(line, numbers[0], step, self.outer) for line in body) for step in numbers[1:])]
        for turn in turns[1:]:
            if not Writer.append(self, list(turn)) and turn:
                return Program(tuple(self.statements), self.constants), None
        self.unseen = frozenset(self.native.values) - self.outer
        self.draw(self.rng.randint(0, 6))
        name = self.fresh()
        self.append([Read(name, Site("", "result")), Save(f"s{self.fresh()}", (name,))])
        return Program(tuple(self.statements), self.constants), Loop(head, start, tuple(turns))

    def head(self) -> tuple[str, list[int]]:
        """The line above a loop's body, and its steps."""
        start = self.rng.randrange(STEPS)
        stop = self.rng.randint(start + 1, STEPS)
        numbers = sorted(self.rng.sample(range(STEPS), self.rng.randint(1, STEPS)))
        chosen, steps = self.rng.choice(
            [
                (f"iter[{start}:{stop}]", list(range(start, stop))),
                (f"iter[{start}:]", list(range(start, STEPS))),
                ("iter[:]", list(range(STEPS))),
                ("iter[::2]", list(range(0, STEPS, 2))),
                ("iter.generated", list(range(1, STEPS))),
                (f"iter[{numbers}]", numbers),
                ("all()", list(range(STEPS))),
            ]
        )
        return self.rng.choice([f"with tracer.{chosen}:", f"for step in tracer.{chosen}:"]), steps


def moved(line: Statement, start: int, step: int, outer: frozenset[str]) -> Statement:
    """A line of a loop's body in another of its turns."""

    def name(text: str) -> str:
        return text if text in outer else f"{text}_{step}"

    changes: dict[str, Any] = {"operands": tuple(map(name, line.operands))} if not isinstance(line, Read) else {}
    if isinstance(line, (Read, Write, Augment)) and line.site.path:
        changes["site"] = replace(line.site, path=re.sub(rf"^steps\.{start}", f"steps.{step}", line.site.path))
    if isinstance(line, (Read, Compute, Edit, Save)) and line.target:
        changes["target"] = name(line.target)
    return replace(line, **changes)


def draw_steps(seed: int) -> StepCase | None:
    """The case of a seed; none if its module cannot follow itself."""
    module, x = draw_module(seed)
    rng = random.Random(f"steps {seed}")
    model = Again(module).eval()
    try:
        chain = Chain(model, STEPS).eval()
        plain_forward = run_forward(chain, x, {})
    except (RuntimeError, TypeError, AttributeError, KeyError):
        return None
    result = plain_forward.delivered["", "result"]
    if not isinstance(result, Tensor) or result.shape != x.shape:
        return None
    mode: Mode = rng.choices(("no_grad", "enable_grad", "inference_mode"), (6, 3, 1))[0]
    writer = StepWriter(rng, chain, x, plain_forward, mode)
    program, loop = writer.looped() if rng.random() < 0.7 else (writer.program(), None)
    if mode == "enable_grad" and not runs_with_grad(chain, program, plain_forward):
        mode = "no_grad"
    form = random.Random(f"form {seed}").choice(("root", "root", "inner", "calls"))
    named = any(getattr(line, "site", Site("", "result")).path for line in loop.turns[0]) if loop else True
    if form == "calls" and (not named or repeats(model, x)):  # a loop that names no module has one turn
        form = "inner"
    case = Case(seed, chain, x, program, mode, plain_forward)
    return StepCase(case, model if form == "root" else Within(model).eval(), loop, form)


def repeats(model: nn.Module, x: Tensor) -> bool:
    """Whether one forward calls a module more than once: then its calls are no steps."""
    calls: Counter[nn.Module] = Counter()
    handles = [module.register_forward_hook(lambda module, _args, _output: calls.update([module])) for module in model.modules()]
    with torch.no_grad():
        model(x.clone())
    for handle in handles:
        handle.remove()
    return max(calls.values()) > 1


def judge_steps(steps: StepCase) -> Verdict:
    """Ask both and compare."""
    case = steps.case
    right = loosen(case, answer(case.module, case.x, case.program, case.plain))
    outcome, lists = run_steps(steps)
    known = {name: value for name, value in right.values.items() if name in outcome.values} if not outcome.error else right.values
    if steps.loop and steps.loop.edits_outside and not right.error and isinstance(outcome.error, nnsight.OutOfOrderError):
        right = replace(right, error="OutOfOrderError", either="below an open loop lines wait for the end of the run")
    if right.error in (None, "OutOfOrderError") and isinstance(outcome.error, nnsight.RecordError) and ".clone()" in str(outcome.error):
        right = replace(right, error="RecordError", either="names that are known too late, or lie in a container, and an edit")
    if steps.loop and steps.loop.open and not right.error and case.plain.overwritten and "overwritten in place" in str(outcome.error):
        right = replace(right, error="NNsightError", either="a line of a step reads what the model has overwritten in one before")
    verdict = compare(replace(right, values=known), outcome)
    if verdict.fault or outcome.error:
        return verdict
    turns = steps.loop.turns if steps.loop else ()
    for place, save in enumerate(turns[0] if turns else ()):
        if isinstance(save, Save):
            expected = {f"all_{save.target}": [right.values[str(turn[place].target)] for turn in turns]}
            fault = compare(replace(right, values=expected), replace(outcome, values=lists)).fault
            if fault:
                return Verdict(verdict.kind, fault)
    return verdict


def run_steps(steps: StepCase) -> tuple[Outcome, dict[str, Tree]]:
    """Run it; of what is saved in a loop, the last turn's value, and all of them in lists."""
    case = steps.case
    namespace: dict[str, Any] = {name: tensor.clone() for name, tensor in case.program.constants.items()}
    namespace |= {"torch": torch, "nnsight": nnsight, "x": case.x.clone(), "model": nnsight.NNsight(steps.model)}
    attributes = [set(vars(child)) for child in steps.model.modules()]
    code, error = compiled(steps.text()), None
    values: dict[str, Tree] = {}
    lists: dict[str, Tree] = {}
    turns = steps.loop.turns if steps.loop else ()
    pairs = zip(turns[0], turns[-1], strict=True) if turns else ()
    last = {str(old.target): str(new.target) for old, new in pairs if isinstance(old, Save)}
    try:
        exec(code, namespace)
        hidden = {line.target for turn in turns for line in turn}
        values = {name: apply(plain, nnsight.value(namespace[name])) for name in case.program.saves if name not in hidden}
        values |= {new: apply(plain, nnsight.value(namespace[old])) for old, new in last.items()}
        lists = {f"all_{name}": [apply(plain, item) for item in namespace[f"all_{name}"]] for name in last}
    except Exception as caught:
        error = caught
    return Outcome(values, error, hooks_left(steps.model, attributes) or inputs_changed(case, namespace) or forward_changed(case)), lists


def report_steps(steps: StepCase) -> str:
    """A failing case in words."""
    return f"seed {steps.case.seed}: {judge_steps(steps).fault}\n\n{steps.text()}\n{indent(str(steps.model), '# ')}"
