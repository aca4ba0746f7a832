"""What a program means: its lines run natively, in order, on private copies of what the sites deliver, until nothing changes any more."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import lru_cache, singledispatchmethod
from types import CodeType
from typing import Any

import torch
from torch import Tensor, nn

from .forward import Content, Forward, Key, Overwritten, Part, run_forward
from .programs import Augment, Compute, Edit, Effect, Program, Read, Save, Site, Statement, Write
from .trees import Tree, apply, clone_tree, copy_tree, leaves, pointer, pointers, same

HIDDEN = "_"
"""A name that no line can use."""


class UnfitError(Exception):
    """The oracle has no answer to this program: it is not one of those that may be asked."""


@dataclass
class Storage:
    """What is known of a storage while lines are executed."""

    ready: int
    """The latest visit that its content needs."""
    site: Key | None = None
    """The site whose current version lives here: edits reach the model."""
    overwritten: Overwritten | None = None
    hazards: set[Hazard] = field(default_factory=set)
    """What went wrong in computing the content."""
    born: int = -1
    """The visit at which it was delivered."""
    real: int | None = None
    """What storage it is in the model."""
    edits: int = 0
    private: bool = False
    """It was edited after a write had retired it."""
    constant: bool = False


@dataclass(frozen=True, eq=False)
class Hazard:
    """A value that the model overwrites in place is used afterwards: an error, unless the library happens to hold a copy."""

    storage: Storage
    edits: int
    """How often it had been edited above the line that uses it: where an edit stands below, that line has a copy."""
    certain: bool


@dataclass
class Cell:
    """The versions of a site: the current one, and what the model's own tensor held when the first write came."""

    tree: Tree
    base: Tree = None
    writes: int = 0


@dataclass(frozen=True)
class Uncertain:
    """An operation that returns a view or a copy, and needs more than its base."""

    storages: frozenset[int]
    ready: int


class Native:
    """The lines of a program on what one forward delivered."""

    def __init__(self, module: nn.Module, program: Program, forward: Forward, differentiable: bool = False) -> None:
        self.module = module
        self.differentiable = differentiable
        self.forward = forward
        self.values: dict[str, Any] = {}
        self.ready: dict[str, int] = {}
        self.storages: dict[int, Storage] = {}
        self.cells: dict[Key, Cell] = {}
        self.kept: list[Tree] = []  # a storage that is alive is not mistaken for another
        self.late: list[str] = []
        self.hazards: set[Hazard] = set()
        self.uncertain: list[Uncertain] = []
        self.ambiguous = False
        self.touched = False
        self.site_edits: list[tuple[int, int | None]] = []
        self.last = -1
        self.saved: dict[str, str] = {}
        self.writes = Counter(self.key(statement.site) for statement in program.statements if isinstance(statement, Write))
        for name, constant in program.constants.items():
            self.bind(name, constant, -1)
            self.storages[pointer(constant)] = Storage(-1, constant=True)

    def key(self, site: Site) -> Key:
        """The site, whatever name the line uses."""
        return self.forward.paths[site.path], "input" if site.kind == "inputs" else site.kind

    def bind(self, name: str, tree: Tree, ready: int) -> None:
        self.values[name], self.ready[name] = tree, ready
        self.last = max(self.last, ready)
        self.kept.append(tree)

    def needs(self, names: tuple[str, ...]) -> int:
        """The latest visit that these values need as they are now."""
        own = [self.ready[name] for name in names]
        return max([-1, *own, *(storage.ready for storage in self.of(names))])

    def of(self, names: tuple[str, ...]) -> list[Storage]:
        """The storages of some names."""
        return [self.storages[at] for name in names for at in pointers(self.values[name]) if at in self.storages]

    def evaluate(self, text: str) -> Any:
        return eval(compiled(text, "eval"), {"torch": torch, "model": self.module}, self.values)

    def run(self, statements: Iterable[Statement], grad: bool = False) -> None:
        """Some lines."""
        with torch.set_grad_enabled(grad):
            for statement in statements:
                self.execute(statement)

    @singledispatchmethod
    def execute(self, statement: Statement) -> None:
        """One line."""
        raise NotImplementedError(statement)

    @execute.register
    def _(self, line: Read) -> None:
        key = self.key(line.site)
        cell = self.cell(key)
        self.bind(line.target, cell.tree[0][0] if line.site.kind == "input" else cell.tree, self.forward.order[key])

    def cell(self, key: Key) -> Cell:
        """The site's versions, opened with a private copy of what is delivered."""
        if key not in self.cells:
            tree = copy_tree(self.forward.delivered[key])
            self.cells[key] = Cell(apply(lambda leaf: leaf.requires_grad_().clone(), tree) if self.differentiable else tree)
            self.adopt(key)
        return self.cells[key]

    def adopt(self, key: Key) -> None:
        """Take note of the storages of a site's current version."""
        cell = self.cells[key]
        part: Part = "final" if cell.writes else "base"
        passes = cell.writes in (0, self.writes[key])  # a version between two writes never meets the model
        self.kept.append(cell.tree)
        for number, leaf in enumerate(leaves(cell.tree)):
            found = self.forward.overwritten.get((key, part, number)) if passes else None
            storage = self.storages.setdefault(pointer(leaf), Storage(self.forward.order[key], born=self.forward.order[key]))
            storage.site, storage.overwritten = key, storage.overwritten or found
            storage.real = self.forward.real.get((key, part, number)) if passes else None

    @execute.register
    def _(self, line: Compute) -> None:
        needs, shared = self.needs(line.operands), {at for name in line.operands for at in pointers(self.values[name])}
        ready = needs
        if line.effect is not Effect.FRESH:
            ready = max(self.ready[line.operands[0]], self.needs(line.operands[1:]))
        versions = [leaf._version for name in line.operands for leaf in leaves(self.values[name])]
        value = self.evaluate(line.expression)
        if versions != [leaf._version for name in line.operands for leaf in leaves(self.values[name])]:
            raise UnfitError(f"{line.expression} changes an operand")
        if line.effect is Effect.FRESH and shared & pointers(value):
            raise UnfitError(f"{line.expression} is a view")
        readers = line.operands[1:] if shared & pointers(value) else line.operands
        hazards = self.use(readers, needs)
        if line.effect is Effect.MAYBE:
            self.uncertain.append(Uncertain(frozenset(shared | pointers(value)), needs))
        for at in pointers(value) - shared:
            self.storages[at] = Storage(needs, hazards=hazards)
        self.bind(line.target, value, ready)

    def use(self, names: tuple[str, ...], when: int, certain: bool = True) -> set[Hazard]:
        """The hazards of reading these values at a visit."""
        found = set[Hazard]()
        for storage in self.of(names):
            found |= storage.hazards
            if storage.overwritten and storage.overwritten.before <= when:
                found.add(Hazard(storage, storage.edits, certain))
        self.touched |= bool(found)
        return found

    def strict(self, hazard: Hazard) -> bool:
        """Whether the library must notice: not where it may hold a copy, or where the overwritten value is the same."""
        storage, over = hazard.storage, hazard.storage.overwritten
        assert over is not None
        copied = storage.private or storage.edits > hazard.edits
        copied |= any(real == storage.real and storage.born < when < over.before for when, real in self.site_edits)
        return hazard.certain and over.changed and not copied

    @execute.register
    def _(self, line: Edit) -> None:
        base, when = line.operands[0], self.needs(line.operands)
        self.check_overlap(line.operands)
        hazards = self.use(line.operands, when)
        touched = pointers(self.values[base])
        if any(self.storages[at].constant for at in touched):
            raise UnfitError("a constant is edited")
        exec(compiled(line.lines()[0], "exec"), {"torch": torch, "model": self.module}, self.values)
        for at in touched:
            self.edit(self.storages[at], when, hazards, str(line.lines()[0]))
        self.ambiguous |= any(maybe.ready != when and touched & maybe.storages for maybe in self.uncertain)
        if line.target:
            self.bind(line.target, self.values[base], self.ready[base])

    def edit(self, storage: Storage, when: int, hazards: set[Hazard], line: str) -> None:
        """What an edit means for a storage."""
        storage.ready, storage.edits = when, storage.edits + 1
        storage.hazards |= hazards
        if storage.site is None:
            storage.private = True
            return
        self.site_edits.append((when, storage.real))
        if when > self.forward.order[storage.site]:
            self.late.append(line)

    def check_overlap(self, names: tuple[str, ...]) -> None:
        """Torch leaves it open what happens where operands overlap in part."""
        base = self.values[names[0]]
        for other in (self.values[name] for name in names[1:]):
            if pointer(base) == pointer(other) and place(base) != place(other):
                raise UnfitError("operands overlap")

    @execute.register
    def _(self, line: Write) -> None:
        key, needs = self.key(line.site), self.needs(line.operands)
        cell, visit = self.cell(key), self.forward.order[key]
        self.last = max(self.last, visit)
        if needs > visit:
            self.late.append(line.lines()[0])
        self.hazards |= self.use(line.operands, needs) | self.use(line.operands, visit, certain=False)
        value = clone_tree(self.evaluate(line.expression))
        if cell.writes == 0:
            cell.base = copy_tree(cell.tree)
        for at in pointers(cell.tree):
            self.storages[at].site = None
        cell.tree = ((value, *cell.tree[0][1:]), cell.tree[1]) if line.site.kind == "input" else value
        cell.writes += 1
        self.adopt(key)

    @execute.register
    def _(self, line: Augment) -> None:
        self.run(line.parts(HIDDEN), torch.is_grad_enabled())

    @execute.register
    def _(self, line: Save) -> None:
        self.saved[line.target] = line.operands[0]
        self.bind(line.target, self.values[line.operands[0]], self.ready[line.operands[0]])

    def finish(self) -> None:
        """After the last line: what is saved, or handed to the model, must be sound."""
        for name in self.saved.values():
            for storage in self.of((name,)):
                self.hazards |= storage.hazards
                if storage.overwritten:
                    self.hazards.add(Hazard(storage, storage.edits, storage.overwritten.before <= self.last))
        for cell in self.cells.values():
            for at in pointers(cell.tree):
                self.hazards |= self.storages[at].hazards

    def contents(self) -> dict[Key, Content]:
        """What the sites hold in the end."""
        found = {}
        for key, cell in self.cells.items():
            base = cell.base if cell.writes else cell.tree
            changed = not same(base, self.forward.delivered[key])
            found[key] = Content(copy_tree(base) if changed else None, (clone_tree(cell.tree),) if cell.writes else None)
        return found

    def results(self) -> dict[str, Tree]:
        """The saved values."""
        return {name: copy_tree(self.values[name]) for name in self.saved}


def place(tensor: Tensor) -> tuple[Any, ...]:
    """Which part of its storage a tensor is."""
    return tensor.storage_offset(), tensor.shape, tensor.stride()


@lru_cache(maxsize=4096)
def compiled(text: str, mode: str) -> CodeType:
    return compile(text, "<line>", mode)


@dataclass(frozen=True)
class Answer:
    """What the contract says of a program."""

    values: dict[str, Tree]
    error: str | None = None
    """The name of the error class, if an error is right."""
    either: str | None = None
    """Why right values are accepted as well as the error."""


def execute(module: nn.Module, program: Program, forward: Forward) -> Native:
    """All lines on what one forward delivered."""
    native = Native(module, program, forward)
    native.run(program.statements)
    native.finish()
    return native


def answer(module: nn.Module, x: Any, program: Program, plain: Forward | None = None, run: Callable[..., Forward] = run_forward) -> Answer:
    """The meaning of a program: its saved values, or its error; `run` makes the forwards."""
    forward = plain or run(module, x, {})
    for _ in range(len(forward.order) + 2):
        native = execute(module, program, forward)
        if native.late:
            return Answer({}, "NNsightError" if forward.overwritten else "OutOfOrderError")
        following = run(module, x, native.contents())
        stable = all(same(tree, following.delivered[key]) for key, tree in forward.delivered.items())
        forward = following
        if stable:
            return judge(execute(module, program, forward))
    raise AssertionError("the delivered values never settle")


def judge(native: Native) -> Answer:
    """Values, an error, or both, of a program without late writes."""
    if any(native.strict(hazard) for hazard in native.hazards):
        return Answer(native.results(), "NNsightError")
    if native.hazards:
        return Answer(native.results(), "NNsightError", "the model overwrites a value that may have been copied")
    if native.touched:
        return Answer(native.results(), "NNsightError", "a line that nothing needs reads an overwritten value")
    if native.ambiguous:
        return Answer(native.results(), "NNsightError", "a view that needs more than its base, and an edit before that")
    return Answer(native.results())
