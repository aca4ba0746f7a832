"""Turns that a bounded loop over steps recorded one by one -> one loop that holds their nodes once.

Turns fold when they are the same nodes up to their own step, what the turn before made, and single operands. A step that is the
turn's own becomes "this step"; what comes from the turn before is carried; an operand that is the step's number becomes the item
of the loop, one that differs otherwise a list with one operand per turn, for which that turn's stands. Of turns that are not all
alike, each run of at least two that are becomes a loop.

Not folded are turns in which something is saved (each save is a value of its own; a loop keeps the last turn's), turns whose
values a line below takes from another turn than the last, turns that take values from further back than the turn before, and what
stands in a loop over values.
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import groupby
from typing import NamedTuple

import msgspec

from .nodes import Const, Graph, Group, Literal, Node, Operand, Ref, Region, Turn
from .turns import At, Block, Leaf, mapped
from .walk import references_in, references_of, walk

_PLAIN = (int, float, str, complex, bytes)
_ITEM = Literal("item")


class _Carried(NamedTuple):
    """What a turn takes from the one before: from outside in the first, and from the node at a place."""

    first: Operand
    place: int


_Column = Operand | At | _Carried


def fold(graph: Graph) -> Graph:
    """``graph`` with the turns of its bounded loops over steps as loops; it means the same.

    A value that is used below the loop keeps its number and its line.

    >>> from nnsight_graph.graph import Site, Turn, build_graph, graph_text
    >>> entries = [("read", Site("fc", "output", step=2)), ("log", 0), ("read", Site("fc", "output", step=3)), ("log", 2)]
    >>> turns = (Turn(1, "2:4:1", 2, 0, 2), Turn(1, "2:4:1", 3, 2, 4))
    >>> print(graph_text(fold(msgspec.structs.replace(build_graph(entries, []), turns=turns))))
    %4 = in the steps 2:4:
        %0 = fc.output [this step]
        log(%0)
    """
    if not graph.turns:
        return graph
    folding = _Folding(graph)
    for loop in sorted({turn.loop for turn in graph.turns}, reverse=True):  # what stands inside began later
        folding.fold([turn for turn in graph.turns if turn.loop == loop])
    return msgspec.structs.replace(graph, body=folding.body, lines=tuple(folding.lines), turns=())


class _Run(NamedTuple):
    """Turns that are alike, and what each of their leaves becomes: itself, the item, what is carried, or a list."""

    blocks: list[Block]
    leaves: list[_Column]


class _Folding:
    """A graph while its loops are folded, one after the other."""

    def __init__(self, graph: Graph) -> None:
        self.body = graph.body
        self.constants = graph.constants
        self.lines = list(graph.lines)
        self.free = max([len(self.lines), *(node.number + 1 for node in walk(graph.body))])
        self.first: dict[int, int] = {}  # of a loop that was made: the first number in it
        self.uses: list[tuple[int, int]] = []

    def fold(self, turns: list[Turn]) -> None:
        """Fold the turns of one loop."""
        if len(turns) > 1:
            self.uses = [(node.number, reference) for node in walk(self.body) for reference in references_of(node)]
            self.uses += [(n.number, ref) for n in walk(self.body) for r in n.regions for item in r.results for ref in references_in(item)]
            self.body = self._region(self.body, turns)

    def _region(self, region: Region, turns: list[Turn]) -> Region:
        starts = [turn.first for turn in turns]
        nodes: list[Node] = []
        blocks: list[Block] = []

        def turn_of(node: Node) -> int:
            first = self.first.get(node.number, node.number)
            place = bisect_right(starts, first) - 1
            return place if place >= 0 and first < turns[place].end else -1

        for place, members in groupby(region.nodes, turn_of):
            if blocks and (place < 1 or blocks[-1].turn is not turns[place - 1]):
                nodes += self._folded(blocks)
                blocks = []
            if place < 0:
                nodes += [self._opened(node, turns) for node in members]
            else:
                blocks.append(Block(turns[place], [self._opened(node, turns) for node in members], blocks[-1] if blocks else None))
        return Region((*nodes, *self._folded(blocks)), region.results)

    def _opened(self, node: Node, turns: list[Turn]) -> Node:
        if not node.regions or node.target in ("for", "while"):
            return node
        return msgspec.structs.replace(node, regions=tuple(self._region(region, turns) for region in node.regions))

    # ------------------------------------------------------------------ finding turns that are alike

    def _folded(self, blocks: list[Block]) -> list[Node]:
        """The nodes of consecutive turns, those that are alike as loops."""
        found: list[Node] = []
        ends = self._used_below(blocks)
        place = 0
        while place < len(blocks):
            run = self._run(blocks, place, ends)
            found += self._loop(run) if run else blocks[place].nodes
            place += len(run.blocks) if run else 1
        return found

    def _used_below(self, blocks: list[Block]) -> set[int]:
        """The turns after which a loop has to end, since not only the next turn uses their values."""
        turn_of = {number: place for place, block in enumerate(blocks) for number in block.numbers}
        ends = set()
        for user, used in self.uses:
            place = turn_of.get(used)
            if place is not None and turn_of.get(user, -1) not in (place, place + 1):
                ends.add(place)
                blocks[place].whole &= used in blocks[place].visible
        return ends

    def _run(self, blocks: list[Block], start: int, ends: set[int]) -> _Run | None:
        """The turns from ``start`` on that are one loop."""
        stop = start + 1
        while stop < len(blocks) and stop - 1 not in ends and _alike(blocks, start, stop):
            stop += 1
        around = {number for block in blocks for number in block.numbers} if stop > start + 1 else set()
        for end in range(stop, start + 1, -1):
            chosen = blocks[start:end]
            within = {number for block in chosen for number in block.numbers}
            leaves = [self._column(chosen, place, within, around) for place in range(len(chosen[0].leaves))]
            if None not in leaves:
                return _Run(chosen, [leaf for leaf in leaves if leaf is not None])
        return None

    def _column(self, blocks: list[Block], place: int, within: set[int], around: set[int]) -> _Column | None:
        """What one leaf becomes, or ``None`` where it is not alike."""
        first, kind = blocks[0].leaves[place], blocks[1].kinds[place]
        leaves = [block.leaves[place] for block in blocks]
        if isinstance(first, At):
            return _step([leaf for leaf in leaves if isinstance(leaf, At)], [block.turn.step for block in blocks])
        if kind is not None and kind[0] == "own":
            return first
        operands = [leaf for leaf in leaves if not isinstance(leaf, At)]
        if kind is not None:
            return None if _names(operands[0], within) else _Carried(operands[0], kind[1])
        told = [self._told(leaf) for leaf in operands]
        if len(set(told)) == 1:
            return None if _names(operands[0], within) else first
        if told == [(int, repr(block.turn.step)) for block in blocks]:
            return _ITEM
        return None if any(_names(leaf, around) for leaf in operands) else Group("list", tuple(operands))

    def _told(self, leaf: Operand) -> tuple[object, object]:
        """What two equal operands have in common."""
        if type(leaf) is not Const:
            return Ref, leaf
        value = self.constants[leaf.index] if self.constants else leaf
        return (type(value), repr(value)) if type(value) in _PLAIN else (Const, id(value))

    # ------------------------------------------------------------------ making the loop

    def _loop(self, run: _Run) -> list[Node]:
        """The loop that stands for a run, and the values that lines below it use."""
        first, last = run.blocks[0], run.blocks[-1]
        loop = self._new(first.turn.line)
        self.first[loop] = min(self.first.get(number, number) for number in first.numbers)
        carried = list(dict.fromkeys(leaf for leaf in run.leaves if isinstance(leaf, _Carried)))
        used = sorted({last.positions[ref] for user, ref in self.uses if ref in last.positions and user not in last.positions})
        kept = {one.place: index for index, one in enumerate(carried)}
        for place in used:
            if place not in kept:
                kept[place] = len(carried)
                carried.append(_Carried(Literal("unbound"), place))
        params, body = self._body(run, loop, carried)
        results: list[Operand] = [Literal("False"), *(Ref(first.numbers[place]) for _, place in carried)]
        inits = tuple(init for init, _ in carried)
        text = Literal(_text(run.blocks))
        node = Node(loop, "steps", (text, *inits), regions=(Region((*params, *body), tuple(results)),))
        below = [Node(last.numbers[place], "result", (Ref(loop), Literal(str(kept[place])))) for place in used]
        return [node, *below]

    def _body(self, run: _Run, loop: int, carried: list[_Carried]) -> tuple[list[Node], list[Node]]:
        """The loop's parameters, and the first turn's nodes in terms of them."""
        params: dict[Operand, Node] = {}
        line = run.blocks[0].turn.line
        leaves = iter(run.leaves)

        def param(what: Operand, at: tuple[str, int, str] | None) -> Ref:
            if what not in params:
                params[what] = Node(self._new(at), "param", (Ref(loop), what))
            return Ref(params[what].number)

        def becomes(_old: Leaf) -> Leaf:
            new = next(leaves)
            if isinstance(new, _Carried):
                return param(Literal(str(carried.index(new))), line)
            if type(new) is Group:
                return param(new, self.lines[at] if at < len(self.lines) else None)
            return param(_ITEM, line) if type(new) is Literal else new

        body = []
        for node in run.blocks[0].nodes:
            at = node.number
            body.append(mapped(node, becomes, int))
        return list(params.values()), body

    def _new(self, line: tuple[str, int, str] | None) -> int:
        """A number that no node has yet, with the line it came from."""
        if self.lines:
            self.lines += [("", 0, "")] * (self.free - len(self.lines)) + [line or ("", 0, "")]
        self.free += 1
        return self.free - 1


def _names(operand: Operand, numbers: set[int]) -> bool:
    return isinstance(operand, Ref) and operand.node in numbers


def _alike(blocks: list[Block], start: int, stop: int) -> bool:
    """Whether the turn at ``stop`` has the same nodes as the run so far, and takes the same from itself and the turn before."""
    one, other, second = blocks[start], blocks[stop], blocks[start + 1]
    if not (one.whole and other.whole) or one.shape != other.shape or other.kinds != second.kinds:
        return False
    own = [[kind if kind and kind[0] == "own" else None for kind in block.kinds] for block in (one, other)]
    return own[0] == own[1]


def _step(leaves: list[At], steps: list[int]) -> At | None:
    """The step of a site in the loop."""
    first = leaves[0]
    if all(leaf.step == first.step for leaf in leaves):
        return first if first.inner or first.step != "turn" else None  # the step of a loop around it
    return At("turn", False) if not first.inner and [leaf.step for leaf in leaves] == steps else None


def _text(blocks: list[Block]) -> str:
    """The steps of a run, as the loop names them."""
    turn, last = blocks[0].turn, blocks[-1].turn
    if ":" not in turn.chosen:
        return ",".join(str(block.turn.step) for block in blocks)
    _, stop, step = map(int, turn.chosen.split(":"))
    return f"{turn.step}:{min(stop, last.step + step)}:{step}"
