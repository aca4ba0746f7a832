"""Random programs: statements are drawn one by one and kept if they run natively on what a plain forward delivers."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from . import operations as rows
from .forward import Forward, Key, run_forward
from .modules import draw_module
from .native import HIDDEN, Native, UnfitError, execute
from .programs import Augment, Compute, Edit, Effect, Program, Read, Save, Site, Statement, Write, envoy
from .trees import leaves, pointers

REFUSALS = (UnfitError, RuntimeError, IndexError, ValueError, TypeError, AttributeError)
"""What shapes that do not fit are told by."""

Mode = Literal["no_grad", "enable_grad", "inference_mode"]


@dataclass(frozen=True)
class Case:
    """One question to the library."""

    seed: int
    module: nn.Module
    x: Tensor
    program: Program
    mode: Mode
    plain: Forward
    """What a forward without any trace shows."""


def draw_case(seed: int, copies: bool = False) -> Case:
    """The case of a seed; the same on every machine. ``copies``: arguments of calls are copied, which Python has to know the number of."""
    module, x = draw_module(seed)
    rng = random.Random(f"program {seed}")
    mode: Mode = rng.choices(("no_grad", "enable_grad", "inference_mode"), (6, 3, 1))[0]
    plain = run_forward(module, x, {})
    program = Writer(rng, module, x, plain, mode, copies).program()
    if mode == "enable_grad" and not runs_with_grad(module, program, plain):
        mode = "no_grad"
    return Case(seed, module, x, program, mode, plain)


def runs_with_grad(module: nn.Module, program: Program, plain: Forward) -> bool:
    """Whether autograd bears the edits: it refuses some of views whose base was edited, with "a leaf Variable that requires grad"."""
    try:
        for differentiable in (False, True):
            Native(module, program, plain, differentiable).run(program.statements, grad=True)
    except RuntimeError:
        return False
    return True


class Writer:
    """Writes one program."""

    def __init__(self, rng: random.Random, module: nn.Module, x: Tensor, plain: Forward, mode: Mode, copies: bool = False) -> None:
        self.rng, self.module, self.plain, self.mode, self.copies = rng, module, plain, mode, copies
        shape = rng.choice([x.shape, x.shape[1:], x.shape[-1:], (1,)])
        constant = torch.randn(shape, generator=torch.Generator().manual_seed(rng.randrange(10**6)), dtype=x.dtype)
        self.constants = {"x": x, "c": (constant * 100).round() / 100}
        self.statements: list[Statement] = []
        self.counter = 0
        self.patience = rng.choice([0.0, 0.0, 0.05, 0.3])  # how often a late write is kept
        self.sites = self.focus()
        self.native = self.run(self.statements)

    def focus(self) -> list[Site]:
        """A few sites, near each other or not: programs about few sites have more to say on each."""
        ordered = [site for key in self.plain.order for site in self.names(key)]
        count = self.rng.randint(2, 5)
        if self.rng.random() < 0.6:
            start = self.rng.randrange(max(1, len(ordered) - count))
            return ordered[start : start + count]
        return self.rng.sample(ordered, min(count, len(ordered)))

    def names(self, key: Key) -> list[Site]:
        """All ways to write a site."""
        path, kind = key
        if kind == "result":
            return [Site("", "result")]
        found = []
        for name in (name for name, first in self.plain.paths.items() if first == path):
            if kind == "output":
                found.append(Site(name, "output"))
                continue
            args, kwargs = self.plain.delivered[key]
            single = len(args) == 1 and not kwargs
            found.append(Site(name, "input" if single and self.rng.random() < 0.7 else "inputs"))
        return found

    def run(self, statements: list[Statement]) -> Native:
        return execute(self.module, Program(tuple(statements), self.constants), self.plain)

    def fresh(self) -> str:
        self.counter += 1
        return f"v{self.counter}"

    def program(self) -> Program:
        """Up to some thirty lines, and something saved."""
        shares: dict[Callable[[], list[Statement]], int] = {
            self.read: 4,
            self.compute: 4,
            self.view: 2,
            self.maybe: 1,
            self.edit: 5,
            self.write: 3,
            self.call: 1,
            self.save: 2,
            self.cross: 2,
            self.augment: 1,
        }
        for _ in range(self.rng.randint(6, 22)):
            drawer = self.rng.choices(list(shares), list(shares.values()))[0]
            for _ in range(5):
                if self.append(drawer()):
                    break
        for _ in range(self.rng.choice((0, 1, 2, 4))):
            self.append(self.save())
        if not any(isinstance(statement, Save) for statement in self.statements) or self.rng.random() < 0.7:
            name = self.fresh()
            self.append([Read(name, Site("", "result")), Save(f"s{self.fresh()}", (name,))])
        return Program(tuple(self.statements), self.constants)

    def append(self, drawn: list[Statement]) -> bool:
        """Keep lines that run, and that are rarely late."""
        if not drawn:
            return False
        late = len(self.native.late)
        try:
            self.native.run(drawn)
            fits = self.sizes_fit(drawn) and (len(self.native.late) == late or self.rng.random() < self.patience)
        except REFUSALS:
            fits = False
        if fits:
            self.statements += drawn
        else:
            self.native = self.run(self.statements)
        return fits

    def sizes_fit(self, drawn: list[Statement]) -> bool:
        """Neither empty nor large."""
        found = [leaf for line in drawn if line.target for leaf in leaves(self.native.values[line.target])]
        return all(0 < leaf.numel() <= 800 for leaf in found)

    def tensors(self, traced: bool = False) -> list[str]:
        """Names of tensors; late ones are drawn more often."""
        found = [name for name, value in self.native.values.items() if isinstance(value, Tensor)]
        found = [name for name in found if name not in self.native.saved and name != HIDDEN and not (traced and name in self.constants)]
        return found + found[-3:]

    def pick(self, traced: bool = True) -> str | None:
        found = self.tensors(traced)
        return self.rng.choice(found) if found else None

    def read(self) -> list[Statement]:
        site, name = self.rng.choice(self.sites), self.fresh()
        value = self.native.cells.get(self.native.key(site))
        tree = value.tree if value else self.plain.delivered[self.native.key(site)]
        lines: list[Statement] = [Read(name, site)]
        if site.kind == "input":
            return lines
        return lines + self.element(name, tree)

    def element(self, name: str, tree: object) -> list[Statement]:
        """Down to a tensor."""
        lines: list[Statement] = []
        while not isinstance(tree, Tensor):
            assert isinstance(tree, (tuple, dict))
            keys = [key for key in (tree if isinstance(tree, dict) else range(len(tree))) if leaves(tree[key])]
            key = self.rng.choice(keys)
            lines.append(Compute(self.fresh(), f"{{0}}[{key!r}]".replace("'", '"'), (name,), Effect.VIEW))
            name, tree = str(lines[-1].target), tree[key]
        return lines

    def compute(self) -> list[Statement]:
        one, two = self.pick(), self.pick(traced=False)
        if not one or not two:
            return []
        if self.rng.random() < 0.5:
            return [Compute(self.fresh(), self.rng.choice(rows.UNARY), (one,))]
        operands = (one, two) if self.rng.random() < 0.5 else (two, one)
        return [Compute(self.fresh(), self.rng.choice(rows.BINARY), operands)]

    def view(self) -> list[Statement]:
        one = self.pick()
        templates = rows.VIEWS + (rows.VIEWS_WITHOUT_GRAD if self.mode != "enable_grad" else ())
        return [Compute(self.fresh(), self.rng.choice(templates), (one,), Effect.VIEW)] if one else []

    def maybe(self) -> list[Statement]:
        one, two = self.pick(), self.pick()
        if not one or not two:
            return []
        if self.rng.random() < 0.15:
            return [Compute(self.fresh(), self.rng.choice(rows.MAYBE_VIEWS_BY_INDEX), (one, two), Effect.MAYBE)]
        return [Compute(self.fresh(), self.rng.choice(rows.MAYBE_VIEWS), (one,), Effect.MAYBE)]

    def edit(self) -> list[Statement]:
        base, other = self.pick(), self.pick(traced=False)
        if not base or not other:
            return []
        number, draw = self.rng.choice(rows.NUMBERS), self.rng.random()
        if draw < 0.45:
            return [Edit(self.rng.choice(rows.EDITS).replace("{n}", number), (base,))]
        if draw < 0.6:
            return [Edit(self.rng.choice(rows.EDITS_THAT_RETURN).replace("{n}", number), (base,), self.fresh())]
        early = [name for name in self.tensors() if self.native.needs((name,)) <= self.native.ready[base]]
        other = self.rng.choice(early) if early and self.rng.random() < 0.7 else other
        return [Edit(self.rng.choice(rows.EDITS_BY_VALUE), (base, other))]

    def cross(self) -> list[Statement]:
        """A reader of two sites above an edit of the earlier one: it can only be computed after the edit."""
        near, far = sorted((self.read(), self.read()), key=lambda lines: self.native.forward.order[self.native.key(lines[0].site)])  # type: ignore[union-attr]
        one, two, reader = str(near[-1].target), str(far[-1].target), self.fresh()
        lines, base = [*near, *far], one
        if self.rng.random() < 0.4:
            lines.append(Compute(self.fresh(), self.rng.choice(rows.VIEWS), (one,), Effect.VIEW))
            base = self.rng.choice([one, str(lines[-1].target)])
            one = str(lines[-1].target)
        template = self.rng.choice([*rows.BINARY, "{0} + {1}.mean()", "{0} * {1}.sum()", "{0}.mean() - {1}"])
        lines.append(Compute(reader, template, (one, two)))
        if self.rng.random() < 0.3:
            lines.append(Save(f"s{self.fresh()}", (reader,)))
        return [*lines, Edit(self.rng.choice(rows.EDITS).replace("{n}", self.rng.choice(rows.NUMBERS)), (base,))]

    def write(self) -> list[Statement]:
        site = self.rng.choice(self.sites)
        if site.kind == "result":
            return []
        tree = self.plain.delivered[self.native.key(site)]
        if site.kind == "input":
            tree = tree[0][0]
        lines: list[Statement] = []
        operands: list[str] = []
        if site.kind == "inputs" and self.copies and self.rng.random() < 0.6:
            lines = [Read(self.fresh(), site)]
            template = self.fill_copy(str(lines[0].target), tree, operands)
        else:
            template = self.fill(tree, operands, lines)
        delivered = self.native.cell(self.native.key(site)).tree
        values = [self.native.values.get(name, delivered) for name in operands]
        if sum(len(pointers(value)) for value in values) > len({at for value in values for at in pointers(value)}):
            return []
        return [*lines, Write(site, template, tuple(operands))] if template and operands else []

    def augment(self) -> list[Statement]:
        """A site on the left of an operator."""
        site, other = self.rng.choice(self.sites), self.pick(traced=False)
        several = site.kind != "input" and not isinstance(self.plain.delivered[self.native.key(site)], Tensor)
        if several or site.kind == "result" or not other:
            return []
        if self.rng.random() < 0.5:
            return [Augment(site, "{0} " + self.rng.choice(("+= 0.5", "*= 2", "-= 0.25")), ())]
        return [Augment(site, self.rng.choice(("{0} += {1}", "{0} -= {1}", "{0} *= {1}")), (other,))]

    def fill_copy(self, name: str, tree: object, operands: list[str]) -> str:
        """A template for the arguments of a call with one of them exchanged, the others as they are."""
        args, kwargs = tree  # type: ignore[misc]
        operands.append(name)
        places = [*range(len(args)), *kwargs]
        place = self.rng.choice(places)
        text = self.fill(kwargs[place] if isinstance(place, str) else args[place], operands, [])
        if not text:
            return ""
        if isinstance(place, str):
            forms = (f'({{0}}[0], {{{{**{{0}}[1], "{place}": {text}}}}})', f"({{0}}[0], dict({{0}}[1], {place}={text}))")
            return self.rng.choice(forms)
        same = self.rng.choice(("{0}[1]", "dict({0}[1])", "{{**{0}[1]}}", "{0}[1].copy()"))
        return f"((*{{0}}[0][:{place}], {text}, *{{0}}[0][{place + 1}:]), {same})"

    def fill(self, tree: object, operands: list[str], lines: list[Statement]) -> str:
        """A template for a value of the form of `tree`, and its operands; empty if a part cannot be had."""
        if isinstance(tree, Tensor):
            fitting = [name for name in self.tensors() if self.native.values[name].shape == tree.shape]
            if not fitting:
                return ""
            operands.append(self.rng.choice(fitting))
            return f"{{{len(operands) - 1}}}"
        if isinstance(tree, dict):
            items = [(key, self.fill(part, operands, lines)) for key, part in tree.items()]
            return "{{" + ", ".join(f'"{key}": {text}' for key, text in items) + "}}" if all(text for _, text in items) else ""
        assert isinstance(tree, tuple)
        parts = [self.fill(part, operands, lines) for part in tree]
        return "(" + "".join(f"{part}, " for part in parts).strip() + ")" if all(parts) else ""

    def call(self) -> list[Statement]:
        """A module of the model on a value of the trace."""
        path, one = self.rng.choice([name for name in self.plain.paths if name]), self.pick()
        name = self.fresh()
        if not one:
            return []
        value: object = None
        try:
            with torch.no_grad():
                value = self.module.get_submodule(path)(self.native.values[one].clone())
        except REFUSALS:
            return []
        lines: list[Statement] = [Compute(name, envoy(path) + "({0})", (one,), Effect.MAYBE)]
        return lines + self.element(name, value)

    def save(self) -> list[Statement]:
        hidden = {*self.constants, *self.native.saved, HIDDEN}
        found = [name for name in self.native.values if name not in hidden]
        return [Save(f"s{self.fresh()}", (self.rng.choice(found),))] if found else []
