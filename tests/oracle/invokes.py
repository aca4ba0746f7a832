"""Batches: several inputs in one trace, whose meaning is that of several models side by side, one for each input.

A site of input 2 is `2:h.0` in the meaning and `h.0` in the text. A line that sees several inputs at once means one line for each of
them, so it may only do what treats each row alike; what it saves is compared with the rows put together.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from textwrap import indent
from typing import Any

import torch
from torch import Tensor, nn

import nnsight_graph as nnsight

from .forward import Content, Forward, Key, run_forward
from .generate import Mode
from .native import Answer, answer
from .programs import Program, Save, Site, Statement, envoy
from .traced import Outcome, compiled, hooks_left, plain
from .trees import Tree, apply, same
from .verdict import Verdict, values_fault


@dataclass(frozen=True)
class RowSite(Site):
    """A site of one input; it is written without the number of that input."""

    def __str__(self) -> str:
        return str(Site(self.path.partition(":")[2], self.kind))


@dataclass(frozen=True)
class Block:
    """A `with tracer.invoke(...)`: of input number `own`, or of the first `upto`; outside all of them if `own` is below -1."""

    own: int = -1
    upto: int = 0

    @property
    def header(self) -> str:
        return "if True:" if self.own < -1 else f"with tracer.invoke({f'x{self.own}' if self.own >= 0 else ''}):"

    @property
    def inputs(self) -> list[int]:
        return [self.own] if self.own >= 0 else list(range(self.upto))


@dataclass(frozen=True)
class Line:
    """A statement as it stands in a block, and the statements that it means."""

    block: int
    text: Statement
    meaning: tuple[Statement, ...]


@dataclass(frozen=True)
class Batch:
    """One question to the library: lines in blocks on several inputs."""

    seed: int
    module: nn.Module
    xs: tuple[Tensor, ...]
    blocks: tuple[Block, ...]
    lines: tuple[Line, ...]
    constants: dict[str, Tensor]
    mode: Mode
    plain: Forward
    module_seed: int = 0
    declared: tuple[str, ...] = ()

    @property
    def program(self) -> Program:
        """The meaning: a program on the models side by side."""
        return Program(tuple(statement for line in self.lines for statement in line.meaning), self.constants)

    @property
    def saves(self) -> dict[str, list[str]]:
        """What is saved, and the names that it is put together from."""
        found = [line for line in self.lines if isinstance(line.text, Save)]
        return {str(line.text.target): [str(statement.target) for statement in line.meaning] for line in found}

    def without(self, index: int) -> Batch:
        """The batch less one line and all that need what it bound."""
        gone = {self.lines[index].text.target} - {None}
        kept = list(self.lines[:index])
        for line in self.lines[index + 1 :]:
            if gone.intersection(line.text.operands):
                gone |= {line.text.target} - {None}
            else:
                kept.append(line)
        return replace(self, lines=tuple(kept))


# ---------------------------------------------------------------------- the meaning


def run_side_by_side(module: nn.Module, xs: Iterable[Tensor], contents: dict[Key, Content]) -> Forward:
    """A forward for each input, as one: the same site of all inputs is one visit."""
    whole = Forward(contents, {})
    for number, x in enumerate(xs):
        mine = {(path.partition(":")[2], kind): content for (path, kind), content in contents.items() if path.startswith(f"{number}:")}
        one = run_forward(module, x, mine)
        whole.paths |= {f"{number}:{name}": f"{number}:{first}" for name, first in one.paths.items()}
        whole.delivered |= {(f"{number}:{path}", kind): tree for (path, kind), tree in one.delivered.items()}
        whole.order |= {(f"{number}:{path}", kind): at for (path, kind), at in one.order.items()}
        whole.overwritten |= {((f"{number}:{key[0]}", key[1]), part, leaf): over for (key, part, leaf), over in one.overwritten.items()}
        whole.real |= {((f"{number}:{key[0]}", key[1]), part, leaf): at for (key, part, leaf), at in one.real.items()}
        whole.watched += one.watched
    return whole


def meaning(batch: Batch) -> Answer:
    """The right values, whole ones put together, or the right error."""
    right = answer(batch.module, batch.xs, batch.program, batch.plain, run_side_by_side)
    if not right.values:
        return right
    values = {name: together([right.values[part] for part in parts]) for name, parts in batch.saves.items()}
    return replace(right, values=values)


def together(trees: list[Tree]) -> Tree:
    """Rows under each other."""
    first = trees[0]
    if isinstance(first, Tensor):
        return torch.cat(trees) if len(trees) > 1 else first
    if isinstance(first, dict):
        return {key: together([tree[key] for tree in trees]) for key in first}
    if isinstance(first, (tuple, list)):
        return type(first)(together([tree[place] for tree in trees]) for place in range(len(first)))
    return first


# ---------------------------------------------------------------------- the library


def batch_text(batch: Batch) -> str:
    """The trace in its mode."""
    body = ""
    for number, block in enumerate(batch.blocks):
        lines = [text for line in batch.lines if line.block == number for text in line.text.lines()]
        body += f"{block.header}\n" + indent("\n".join(lines or ["pass"]), "    ") + "\n"
    declared = "".join(f'{envoy(path)}.rows = (0, "tokens")\n' for path in batch.declared)
    return f"{declared}with torch.{batch.mode}():\n    with model.trace() as tracer:\n{indent(body, ' ' * 8)}"


def source(batch: Batch) -> str:
    """The whole program, ready to be pasted."""
    lines = [
        "import nnsight_graph as nnsight",
        "import torch",
        "from tests.oracle.modules import draw_batched_module",
        f"module, _ = draw_batched_module({batch.module_seed})",
        *(f"{name} = torch.tensor({tensor.tolist()}, dtype=torch.float64)" for name, tensor in batch.constants.items()),
        "model = nnsight.NNsight(module)",
        batch_text(batch),
        *(f"print({name})" for name in batch.saves),
    ]
    return "\n".join(lines) + "\n\n" + indent(str(batch.module), "# ")


def run_text(module: nn.Module, text: str, constants: dict[str, Tensor], saves: Iterable[str]) -> tuple[Outcome, dict[str, Any]]:
    """Run a trace, and look at what is left; the saved values as they are, too."""
    namespace: dict[str, Any] = {name: tensor.clone() for name, tensor in constants.items()}
    namespace |= {"torch": torch, "nnsight": nnsight, "model": nnsight.NNsight(module)}
    attributes = [set(vars(child)) for child in module.modules()]
    error, raw = None, {}
    try:
        exec(compiled(text), namespace)
        raw = {name: nnsight.value(namespace[name]) for name in saves}
    except Exception as caught:
        error = caught
    changed = [name for name, tensor in constants.items() if not same(tensor, namespace[name])]
    left = hooks_left(module, attributes) or (f"changed: {', '.join(changed)}" if changed else None)
    return Outcome({name: apply(plain, value) for name, value in raw.items()}, error, left), raw


# ---------------------------------------------------------------------- the verdict


def judge(batch: Batch) -> Verdict:
    """Ask both and compare."""
    right = meaning(batch)
    got, _ = run_text(batch.module, batch_text(batch), batch.constants, batch.saves)
    return compare(right, got)


def compare(right: Answer, got: Outcome) -> Verdict:
    """The first difference. Where a model overwrites what is held, the rows may have been copied: then right values are right."""
    kind = f"either: {right.either}" if right.either else right.error or "values"
    if got.left:
        return Verdict(kind, got.left)
    if got.error is None:
        missing = right.error and not right.values
        return Verdict(kind, f"no error, but {right.error} is right" if missing else values_fault(right, got))
    if right.error is None:
        return Verdict(kind, f"{type(got.error).__name__}: {got.error}\nbut values are right")
    wrong = not isinstance(got.error, getattr(nnsight, right.error))
    return Verdict(kind, f"{type(got.error).__name__}: {got.error}\nbut {right.error} is right" if wrong else None)


def shrink(batch: Batch, kind: str) -> Batch:
    """Drop lines, from the last to the first, as long as the batch is wrong in the same way."""
    index = len(batch.lines) - 1
    while index >= 0:
        smaller = batch.without(index)
        try:
            verdict = judge(smaller)
            wrong = verdict.fault is not None and verdict.kind == kind
        except Exception:  # a program without an answer proves nothing
            wrong = False
        if wrong:
            batch, index = smaller, len(smaller.lines)
        index -= 1
    return batch


def report(batch: Batch) -> str:
    """A failing batch in words: the smallest one, its fault, and its whole source."""
    small = shrink(batch, judge(batch).kind)
    return f"seed {batch.seed}: {judge(small).fault}\n\n{source(small)}"
