"""Random batches: programs for several inputs, each in a block of its own, and for all of them."""

from __future__ import annotations

import random
import re
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .forward import Forward, Key, run_forward
from .generate import REFUSALS, Mode, Writer, runs_with_grad
from .invokes import Batch, Block, Line, RowSite, run_side_by_side
from .modules import draw_batched_module
from .native import HIDDEN, Native, execute
from .programs import Augment, Compute, Edit, Effect, Program, Read, Save, Site, Statement, Write, envoy
from .trees import leaves

ALIKE = ("{0} * 0.5", "1.0 - {0}", "torch.relu({0})", "{0}.softmax(-1)", "{0}.clone()", "{0}.mean(-1, keepdim=True)")
ALIKE_VIEWS = ("{0}[:, 0]", "{0}[..., 1:]", "{0}.transpose(-1, -2)", "{0}[:, -1:]", "{0}.detach()")
ALIKE_BINARY = ("{0} + {1}", "{0} * {1}", "torch.maximum({0}, {1})")
Style = Literal["writes", "methods", "edits", "all"]
"""Which lines change what passes: assignments; methods that work in place; those and `x[...] = `, `x += `; all of it."""

ALIKE_EDITS = (
    "{0}.mul_(0.25)",
    "{0}[:, 0] = 0",
    "{0} += 0.5",
    "{0} *= -0.75",
    "{0}[..., -1] += 2",
    "{0}.clamp_(min=0)",
    "{0}.transpose(-1, -2).neg_()",
)


class Rows(Writer):
    """Writes the lines of one block; `lines` and `native` are those of the whole batch."""

    def __init__(
        self, rng: random.Random, module: nn.Module, xs: list[Tensor], plain: Forward, mode: Mode, mixing: float, style: str
    ) -> None:
        self.number, self.block, self.blocks = 0, Block(0), [Block(0)]
        self.lines: list[Line] = []
        self.home: dict[str, int] = {}
        self.mixing, self.style = mixing, style
        self.kinds = where_rows_lie(module, xs[0])
        self.shared: set[str] = set()  # names of what all inputs share: no input may edit it
        super().__init__(rng, module, xs[0], plain, mode)
        constant = self.constants.pop("c")
        self.constants = {**{f"x{number}": x for number, x in enumerate(xs)}, "c": constant}
        self.native = self.run([])
        self.places_in_focus = self.focus()

    # ------------------------------------------------------------------ sites of the block

    def focus(self) -> list[Site]:
        """A few sites, the same for all blocks."""
        ordered = [site for key in self.plain.order if key[0].startswith("0:") for site in self.names(key)]
        first = {site: self.plain.paths[site.path].partition(":")[2] for site in ordered}
        ordered = [site for site in ordered if self.kind(first[site], site) != "other"]
        count = self.rng.randint(2, 4)
        start = self.rng.randrange(max(1, len(ordered) - count))
        found = ordered[start : start + count] if self.rng.random() < 0.6 else self.rng.sample(ordered, min(count, len(ordered)))
        odd = [site for site in ordered if self.kind(first[site], site) != "first"]
        found += self.rng.sample(odd, min(len(odd), self.rng.randint(0, 2)))
        return found if any(self.kind(first[site], site) == "first" for site in found) else [*found, RowSite("0:", "result")]

    def kind(self, path: str, site: Site) -> str:
        """Where the rows lie at a site."""
        return self.kinds.get((path, "output" if site.kind in ("output", "result") else "input"), "other")

    def names(self, key: Key) -> list[Site]:
        if key[1] == "result":
            return [RowSite("0:", "result")]
        return [RowSite(site.path, site.kind) for site in super().names(key)]

    @property
    def sites(self) -> list[Site]:
        found = [RowSite(f"{self.block.inputs[0]}:{site.path.partition(':')[2]}", site.kind) for site in self.places_in_focus]
        if self.block.own >= 0:
            return found
        return [site for site in found if self.kind(self.plain.paths[site.path].partition(":")[2], site) == "first"]

    @sites.setter
    def sites(self, found: list[Site]) -> None:
        self.places_in_focus = found

    # ------------------------------------------------------------------ names of the block

    def tensors(self, traced: bool = False) -> list[str]:
        found = super().tensors(traced)
        if self.rng.random() < self.mixing:
            return [name for name in found if name in self.constants or self.home[name] >= 0]
        mine = {f"x{self.block.own}", "c"}
        return [name for name in found if name in mine or self.home.get(name) == self.number]

    def allows(self, statement: Statement) -> bool:
        """Whether the style of this batch has such lines."""
        changes = isinstance(statement, (Edit, Augment))
        if self.style == "writes":
            return not changes
        if isinstance(statement, Write):
            return self.style == "all"
        return not changes or self.style != "methods" or re.search(r"_\([^()]*\)$", statement.template) is not None

    def append(self, drawn: list[Statement]) -> bool:
        shared = self.shared_names(drawn)
        kept = shared is not None and all(map(self.allows, drawn)) and super().append(drawn)
        if kept:
            self.lines += [Line(self.number, statement, (statement,)) for statement in drawn]
            self.home |= {statement.target: self.number for statement in drawn if statement.target}
            self.shared = shared or self.shared
        return kept

    def shared_names(self, drawn: list[Statement]) -> set[str] | None:
        """The names of what all inputs share, below these lines; ``None`` if one of them would change it."""
        known = set(self.shared)
        for statement in drawn:
            at = getattr(statement, "site", None)
            same = at is not None and self.kind(self.plain.paths[at.path].partition(":")[2], at) == "same"
            if isinstance(statement, (Write, Augment)) and same:
                return None
            if isinstance(statement, Edit) and statement.operands[0] in known:
                return None
            views = isinstance(statement, Compute) and statement.effect != Effect.FRESH and known.intersection(statement.operands)
            if statement.target and (same or views):
                known.add(statement.target)
        return known

    def call(self) -> list[Statement]:
        path, one, name = self.rng.choice([path for path, _ in self.module.named_modules() if path]), self.pick(), self.fresh()
        if not one:
            return []
        try:
            with torch.no_grad():
                value = self.module.get_submodule(path)(self.native.values[one].clone())
        except REFUSALS:
            return []
        return [Compute(name, envoy(path) + "({0})", (one,), Effect.MAYBE), *self.element(name, value)]

    def save(self) -> list[Statement]:
        hidden = {*self.constants, *self.native.saved, HIDDEN}
        found = [name for name in self.native.values if name not in hidden and self.home[name] == self.number]
        return [Save(f"s{self.fresh()}", (self.rng.choice(found),))] if found else []

    # ------------------------------------------------------------------ blocks

    def run(self, statements: list[Statement]) -> Native:
        return execute(self.module, Program(tuple(statements), self.constants), self.plain)

    def write_block(self, block: Block, most: int) -> None:
        """The lines of an input, or of all inputs so far."""
        self.number, self.block = len(self.blocks) - 1, block
        self.blocks[-1] = block
        drawers: dict[Any, int] = {self.read: 4, self.compute: 3, self.view: 2, self.maybe: 1, self.edit: 5, self.save: 2}
        drawers |= {self.write: 3, self.augment: 2, self.cross: 2, self.call: 1}
        if self.plain.overwritten:  # a model that changes its own tensors in place sees other tensors where rows were put in
            del drawers[self.write]
        if block.own < 0:
            Whole(self).lines(most)
        for _ in range(self.rng.randint(2, most) if block.own >= 0 else 0):
            drawer = self.rng.choices(list(drawers), list(drawers.values()))[0]
            any(self.append(drawer()) for _ in range(4))
        if block.own >= 0:
            self.append(self.save())
            if self.rng.random() < 0.5:
                name = self.fresh()
                self.append([Read(name, RowSite(f"{block.own}:", "result")), Save(f"s{self.fresh()}", (name,))])
        self.blocks.append(Block())


class Whole:
    """Lines that see the rows of several inputs: each means a line per input."""

    def __init__(self, rows: Rows) -> None:
        self.rows, self.rng = rows, rows.rng
        self.known: list[str] = []

    def lines(self, most: int) -> None:
        for _ in range(self.rng.randint(1, most)):
            drawers = [self.read, self.read, *([self.compute, self.edit, self.edit, self.save, self.write] if self.known else [])]
            drawn = self.rng.choice(drawers)()
            if drawn and self.append(drawn):
                self.known += [statement.target for statement in drawn if statement.target and not isinstance(statement, Save)]
        if self.known:
            self.append([Save(f"s{self.rows.fresh()}", (self.rng.choice(self.known),))])

    def append(self, drawn: list[Statement]) -> bool:
        rows = self.rows
        means = [[self.of(statement, number) for number in rows.block.inputs] for statement in drawn]
        if not all(map(rows.allows, drawn)) or not Writer.append(rows, [statement for several in means for statement in several]):
            return False
        rows.lines += [Line(rows.number, statement, tuple(several)) for statement, several in zip(drawn, means, strict=True)]
        rows.home |= {str(one.target): -1 for several in means for one in several if one.target}
        return True

    def of(self, statement: Statement, number: int) -> Statement:
        """What the line means for one input."""
        changes: dict[str, Any] = {}
        if statement.target:
            changes["target"] = f"{statement.target}_{number}"
        if not isinstance(statement, Read):
            changes["operands"] = tuple(f"{name}_{number}" for name in statement.operands)
        if isinstance(statement, (Read, Write, Augment)):
            changes["site"] = RowSite(re.sub(r"^\d+", str(number), statement.site.path), statement.site.kind)
        return replace(statement, **changes)

    def tensors(self) -> list[str]:
        return [name for name in self.known if isinstance(self.rows.native.values[f"{name}_0"], Tensor)]

    def read(self) -> list[Statement]:
        rows = self.rows
        return rows.read()

    def compute(self) -> list[Statement]:
        found = self.tensors()
        if not found:
            return []
        one, two, name, draw = self.rng.choice(found), self.rng.choice(found), self.rows.fresh(), self.rng.random()
        if draw < 0.4:
            return [Compute(name, self.rng.choice(ALIKE_VIEWS), (one,), Effect.VIEW)]
        return [Compute(name, self.rng.choice(ALIKE), (one,)) if draw < 0.8 else Compute(name, self.rng.choice(ALIKE_BINARY), (one, two))]

    def edit(self) -> list[Statement]:
        found = self.tensors()
        return [Edit(self.rng.choice(ALIKE_EDITS), (self.rng.choice(found),))] if found else []

    def save(self) -> list[Statement]:
        return [Save(f"s{self.rows.fresh()}", (self.rng.choice(self.known),))]

    def write(self) -> list[Statement]:
        rows, site = self.rows, self.rng.choice(self.rows.sites)
        if site.kind in ("result", "inputs") or rows.plain.overwritten:
            return []
        tree = rows.plain.delivered[rows.native.key(site)]
        tree = tree[0][0] if site.kind == "input" else tree
        fitting = [name for name in self.tensors() if isinstance(tree, Tensor) and rows.native.values[f"{name}_0"].shape == tree.shape]
        return [Write(site, "{0}", (self.rng.choice(fitting),))] if fitting else []


def where_rows_lie(module: nn.Module, x: Tensor) -> dict[tuple[str, str], str]:
    """Where the rows lie in the arguments and the output of each module.

    They are in the first dimension, in one other, as tokens in the first, nowhere (it is the same for all), or in some other way.
    """
    rows = torch.randn(5, *x.shape[1:], generator=torch.Generator().manual_seed(0), dtype=x.dtype)
    runs = {size: run_forward(module, rows[:size], {}).delivered for size in (1, 2, 3, 5)}
    found = {(path, kind): _kind(runs, (path, kind)) for path, kind in runs[1] if kind in ("input", "output")}
    return {**found, ("", "input"): "first"}


def _kind(runs: dict[int, dict[Key, Any]], key: Key) -> str:
    shapes = {size: [leaf.shape for leaf in leaves(delivered[key])] for size, delivered in runs.items()}
    if all(shape[0] == size for size, several in shapes.items() if size > 1 for shape in several):
        return "first"
    columns = [[shapes[size][place] for size in runs] for place in range(len(shapes[1]))]
    if all(len(set(column)) == 1 for column in columns):
        return "same"
    grown = [[dim for dim, sizes in enumerate(zip(*column, strict=True)) if len(set(sizes)) > 1] for column in columns]
    if all(len(dims) == 1 for dims in grown):
        if all([shape[dims[0]] for shape in column] == list(runs) for column, dims in zip(columns, grown, strict=True)):
            return "along"
        alone, together = leaves(runs[1][key]), leaves(runs[5][key])
        if grown == [[0]] and torch.equal(alone[0], together[0][: len(alone[0])]):
            return "tokens"
    return "other"


def draw_batch(seed: int, style: Style, mixing: float | None = None, whole: bool | None = None) -> Batch:
    """The batch of a seed; the same on every machine.

    `mixing` is how often a line takes values from other blocks, `whole` whether there are blocks that see several inputs. Writes and
    edits below them are not drawn together there: a write makes a new tensor of the batch, and whose edits still reach the old one is
    not laid down.
    """
    rng = random.Random(f"batch {seed}")
    whole = style != "all" if whole is None else whole
    module_seed = rng.randrange(4000)
    module, x = draw_batched_module(module_seed)
    count = rng.choice((1, 2, 2, 2, 3, 3, 4, 5))
    generator = torch.Generator().manual_seed(seed)
    size = rng.choice((1, 1, 2))
    sizes = [size if rng.random() < 0.7 else rng.randint(1, 3) for _ in range(count)]
    xs = [torch.randn(size, *x.shape[1:], generator=generator, dtype=x.dtype).mul(100).round() / 100 for size in sizes]
    mode: Mode = rng.choices(("no_grad", "enable_grad", "inference_mode"), (6, 3, 1))[0]
    plain = run_side_by_side(module, xs, {})
    writer = Rows(rng, module, xs, plain, mode, rng.choice((0.0, 0.2, 0.5)) if mixing is None else mixing, style)
    for number in range(count):
        writer.write_block(Block(number), 10 if count < 4 else 6)
        if whole and rng.random() < 0.25:
            writer.write_block(Block(-1, number + 1), 5)
    if whole and rng.random() < 0.2:
        writer.write_block(Block(-2, count), 5)
    tokens = tuple(sorted({path for (path, _), kind in writer.kinds.items() if kind == "tokens"}))
    batch = Batch(
        seed, module, tuple(xs), tuple(writer.blocks[:-1]), tuple(writer.lines), writer.constants, mode, plain, module_seed, tokens
    )
    if mode == "enable_grad" and not runs_with_grad(module, batch.program, plain):
        batch = replace(batch, mode="no_grad")
    return batch
