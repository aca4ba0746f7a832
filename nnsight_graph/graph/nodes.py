"""The data types of the graph; every one is frozen, so that none can hold itself and the garbage collector need not look at them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec


class Site(NamedTuple):
    """A place where a value passes.

    Attributes:
        path: The module's canonical path, ``""`` for the root.
        point: ``"input"`` (first argument), ``"inputs"`` (all arguments), ``"output"``, ``"result"`` (what the traced
            call returned), ``"parameter"`` or ``"call"`` (the module itself, called on a traced value).
        call: Which call of the module within one step, counted from 0.
        step: Which forward of the model within the run, counted from 0; ``"turn"``: the step of the loop around it;
            ``"last"``: the last that came.
    """

    path: str
    point: str
    call: int = 0
    step: int | str = 0

    def __str__(self) -> str:
        name = f"{self.path}.{self.point}" if self.path else self.point
        name = f"{name}@{self.call}" if self.call else name
        return f"{name} [{_STEPS.get(self.step, f'step {self.step}')}]" if self.step else name


_STEPS: dict[int | str, str] = {"turn": "this step", "last": "last step"}


class Ref(msgspec.Struct, frozen=True, gc=False):
    """An operand: the value of the node with this number."""

    node: int


class Const(msgspec.Struct, frozen=True, gc=False):
    """An operand: the lifted constant with this index."""

    index: int


class Literal(msgspec.Struct, frozen=True, gc=False):
    """An operand that belongs to the structure: ``None``, ``True``, ``...``, a dtype, a name."""

    name: str


class Group(msgspec.Struct, frozen=True, gc=False):
    """An operand made of operands: ``kind`` is ``tuple``, ``list``, ``dict`` (keys and values in turn) or ``slice``."""

    kind: str
    items: tuple[Operand, ...]


Operand = Ref | Const | Literal | Group


class Node(msgspec.Struct, frozen=True, gc=False):
    """One recorded line.

    Attributes:
        number: Its place in program order, and the name of its value.
        target: A name: a structural kind (``read``, ``write`` ...) or a row of the op table.
        operands: Positional operands.
        keywords: Named operands.
        site: Where it reads or writes, for the kinds that have one.
        regions: The regions it holds, for the kinds that have them.
    """

    number: int
    target: str
    operands: tuple[Operand, ...] = ()
    keywords: tuple[tuple[str, Operand], ...] = ()
    site: Site | None = None
    regions: tuple[Region, ...] = ()


class Region(msgspec.Struct, frozen=True, gc=False):
    """Nodes in program order.

    Attributes:
        nodes: The nodes.
        results: For the body of a loop: whether to leave after this turn, then what is carried to the next.
    """

    nodes: tuple[Node, ...]
    results: tuple[Operand, ...] = ()


class Turn(NamedTuple):
    """A turn of a bounded loop over steps, whose nodes were recorded one by one.

    Attributes:
        loop: The loop: turns with the same number are of one; a loop inside another has the larger number.
        chosen: The steps that the loop names: ``"2:5:1"``, ``"0,3"``.
        step: The turn's step.
        first, end: The numbers of its first node, and of the first one after it.
        line: Where the loop was written, as in :attr:`Graph.lines`.
    """

    loop: int
    chosen: str
    step: int
    first: int
    end: int
    line: tuple[str, int, str] | None = None


class Graph(msgspec.Struct, frozen=True):
    """A recorded program.

    Attributes:
        body: The top region.
        constants: What was lifted out of the nodes: tensors, numbers, strings, local functions.
        shared: Groups of constants that share storage, named only where the program edits a constant in place.
        lines: For each node number, ``(file, line, source text)`` of where it was written; may be empty.
        turns: The turns of bounded loops over steps, which ``fold`` makes into loops again.
    """

    body: Region
    constants: tuple[Any, ...] = ()
    shared: tuple[tuple[int, ...], ...] = ()
    lines: tuple[tuple[str, int, str], ...] = ()
    turns: tuple[Turn, ...] = ()

    @property
    def sites(self) -> tuple[Site, ...]:
        """The sites the graph touches, in order of first use."""
        return tuple(dict.fromkeys(_sites(self.body)))


def _sites(region: Region) -> Iterator[Site]:
    for node in region.nodes:
        if node.site is not None:
            yield node.site
        for inner in node.regions:
            yield from _sites(inner)
