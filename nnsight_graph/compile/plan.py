"""The data of a plan: what runs, what it waits for, and where values lie."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

Instruction = tuple[int, Any, int, int, int, Any, int]
"""``(kind, function, out, a, b, rest, node)``; the kinds are the constants of :mod:`nnsight_graph.ops.evaluate`."""


Passes = dict[tuple[int | str, int], int]
"""Visits of one module's input, or output, by step and call."""


LayoutKey = tuple[str, int, str, str, int, int]
"""Whose rows: of one invoke (``"rows"``, number), or of all before one (``"before"``, count); and at which visit: path, direction
(``"any"`` for rows as such), step (0, or 1 for all later ones), call."""


class CacheSpec(NamedTuple):
    """What a cache keeps.

    Attributes:
        node: The node that asks for it.
        points: ``"output"``, ``"inputs"`` or ``"inputs and output"``.
        detach: Whether values leave the autograd graph.
        copies: Whether values are copied even where they could stay as they are.
        device, dtype: Where they are moved, and what floating-point ones are converted to; ``"None"`` leaves them.
        paths: Of which modules; ``None`` means all.
        layout: The slot with the rows that are kept; ``-1`` for all rows.
    """

    node: int
    points: str
    detach: bool
    copies: bool
    device: str
    dtype: str
    paths: tuple[str, ...] | None
    layout: int


class Segment:
    """Nodes that run together.

    Attributes:
        index: Its place in :attr:`Plan.segments`.
        needs: Bit mask of the visits that everything in it depends on.
        code: Its instructions.
        own: Bit mask of the visits it waits for itself; the others are covered by upstream segments.
        waits: How many upstream segments and visits it counts down before it runs.
        downstream: Segments that wait for it.
        checks: Slots to check for overwriting by the model before it runs.
        held: ``(slot, visits)`` of activations made here that outlive it.
        releases: Slots whose count of users goes down when it has run.
        calls: Whether it calls modules or opaque functions (hooks are deaf meanwhile).
        guard: The branch it stands in, if whether that is taken is known before the segment could run.
        scope: The stop of an invoke that it stands below; 0 if there is none.
        undecided, voids: ``(truth, polarity, segment)``: what is given up, when this has run, unless the truth is so.
    """

    __slots__ = (
        "calls", "checks", "code", "downstream", "guard", "held", "index", "needs", "own", "releases", "scope", "undecided", "voids",
        "waits",
    )  # fmt: skip

    def __init__(self, index: int, needs: int, guard: Guard | None = None, scope: int = 0) -> None:
        self.index = index
        self.scope = scope
        self.needs = needs
        self.guard = guard
        self.voids: tuple[tuple[int, bool, int], ...] = ()
        self.undecided: list[tuple[Slot, bool, int]] = []
        self.code: list[Instruction] = []
        self.own = 0
        self.waits = 0
        self.downstream: list[int] = []
        self.checks: tuple[int, ...] = ()
        self.held: tuple[tuple[int, tuple[int, ...]], ...] = ()
        self.releases: tuple[int, ...] = ()
        self.calls = False


class Visit:
    """What happens when a value passes a site.

    Attributes:
        path: The module's canonical path.
        direction: ``"in"``, ``"out"`` or ``"result"``.
        slot: Where the passing value lies while the visit lasts.
        changes: Whether the passing value may be replaced.
        clears: Whether nothing needs the slot after the visit.
        counted: Whether the slot has other users, that count down with the visit.
        held: As for segments: the slot itself, if it outlives the visit.
        triggers: Segments that wait for this visit.
        musts: ``(segment, node, target slot)`` of edits that have to be done when the visit ends; the slot is ``-1``
            unless the edit is on what may or may not be a view of the passing value.
        nodes: The nodes that read or write here.
        only_kept: Whether the value is saved as it passes, and that is all.
        guards: ``(truth, polarity)`` of the branches its nodes stand in; ``None`` if one stands in none.
        step, call: Which pass of the module it is; the step is a number or ``"last"``.
        optional: Whether only lines of an open loop name it, in turns after the first.
    """

    __slots__ = (
        "call", "changes", "clears", "counted", "direction", "guards", "held", "musts", "nodes", "only_kept", "optional", "path", "slot",
        "step", "triggers",
    )  # fmt: skip

    def __init__(self, path: str, direction: str, slot: int, turn: tuple[int | str, int] = (0, 0)) -> None:
        self.path = path
        self.step, self.call = turn
        self.direction = direction
        self.slot = slot
        self.changes = False
        self.clears = False
        self.counted = False
        self.held: tuple[tuple[int, tuple[int, ...]], ...] = ()
        self.triggers: list[int] = []
        self.musts: list[tuple[int, int, int]] = []
        self.nodes: list[int] = []
        self.only_kept = self.optional = False
        self.guards: tuple[tuple[int, bool], ...] | None = None


class Plan:
    """A compiled graph: it holds no tensor, no module and no state of a run.

    Attributes:
        fixed: Values of the first slots, the same in every run; the run's constants follow them.
        modules: ``(path, is parameter)`` for the slots after the constants.
        layouts: Whose rows, and at which visit, for the slots after those.
        blanks: How many empty slots follow.
        segments: In the order of their first line; the ones that wait for nothing are :attr:`prologue`.
        visits: By number of their bit.
        hooks: For each module path, the visits of its input and of its output, by step and call.
        saved: ``(node, slot, segment, visit)`` of what outlives the run: the segment or visit that brings it, or ``-1``.
        uses: ``(slot, users)`` of values that several segments read.
        unchecked: Slots that the trace itself may edit after the visit: they are not checked for overwriting.
        edited: The visits whose value is edited in place.
        guards: Whether an edit may meet, on the same storage, something read at another site that is still held.
        needs: For each node, the visits it depends on (for messages).
        given: For saved nodes in branches, ``(truth, polarity)`` of the branch.
        ends: Visits that stand for the end of the run.
        came: Visits that stand for the beginning of a step, by its number.
        by_calls: Whether a module's steps are its calls, since the model runs once.
        begins: There, the visits that stand for the beginning of a loop's turn, by the visits of which the first begins it.
        repeats: Whether it knows more than the first call of the first step.
        limit: How many steps it is made for, where it has a loop over all of them; 0 where it has none.
        checked: The shapes of inputs and constants that it was checked for.
        fresh: Whether it has never run.
        caches: What is kept of all modules, or of many.
        virtual: Visits that stand for the completion of branches: no module brings them.
        ends_early: Whether what it wants is there before the model returns, so that the rest of the forward might be left out.
        copied: The nodes that copy parameters.
        derives: Whether a line may differentiate with respect to any value: ``torch.autograd.grad``, a function of the user's.
        replaced: The modules of which parameters are replaced, by path, with the node that does.
        skips: The modules that may be skipped, by path, with the node that says so.
    """

    __slots__ = (
        "begins", "blanks", "by_calls", "caches",
        "came", "checked", "copied", "derives", "edited", "ends", "ends_early", "fixed", "fresh", "given", "guards", "hooks",
        "layouts", "limit", "modules", "needs", "prologue", "repeats", "replaced", "result", "saved", "segments", "skips", "unchecked",
        "uses", "virtual", "visits", "waits",
    )  # fmt: skip

    def __init__(self) -> None:
        self.caches: tuple[CacheSpec, ...] = ()
        self.checked: set[Any] = set()
        self.fresh = True
        self.fixed: tuple[Any, ...] = ()
        self.modules: tuple[tuple[str, bool], ...] = ()
        self.layouts: tuple[LayoutKey, ...] = ()
        self.blanks = 0
        self.segments: list[Segment] = []
        self.prologue: list[int] = []
        self.visits: list[Visit] = []
        self.hooks: dict[str, tuple[Passes, Passes]] = {}
        self.result = -1
        self.saved: tuple[tuple[int, int, int, int], ...] = ()
        self.uses: tuple[tuple[int, int], ...] = ()
        self.waits: list[int] = []
        self.unchecked: frozenset[int] = frozenset()
        self.edited: frozenset[int] = frozenset()
        self.guards = False
        self.needs: dict[int, int] = {}
        self.given: dict[int, tuple[int, bool]] = {}
        self.virtual: tuple[int, ...] = ()
        self.ends: tuple[int, ...] = ()
        self.came: dict[int, int] = {}
        self.by_calls = False
        self.begins: dict[int, tuple[int, ...]] = {}
        self.skips: dict[str, int] = {}
        self.replaced: dict[str, int] = {}
        self.copied: frozenset[int] = frozenset()
        self.ends_early = self.derives = False
        self.repeats = False
        self.limit = 0


class Slot:
    """A place for a value while a graph is compiled; ``index`` is given last."""

    __slots__ = ("cells", "index", "makers", "producer", "saved", "segments", "unchecked")

    def __init__(self, producer: Step | None = None, index: int = -1) -> None:
        self.producer = producer
        self.index = index
        self.segments: set[int] = set()
        self.saved = False
        self.makers: list[tuple[Step, tuple[int, ...]]] = []  # of a slot that is filled again and again
        self.cells: tuple[int, ...] = ()
        self.unchecked = False


class Step:
    """One instruction while a graph is compiled.

    Attributes:
        node: The number of the node it belongs to.
        function: What it calls.
        leaves: Its operands; the last ``len(names)`` are passed by name.
        output: Where the result goes.
        needs: Bit mask of the visits it depends on.
        after: Steps that have to run before it although it does not use their values.
        special: What runs in place of a call, with ``extra``: ``"protect"``, ``"snapshot"``, ``"detach"``, ``"contain"``, ``"join"``,
            ``"piece"``, ``"note edit"``, ``"loop"`` or ``"branch"``.
        guard: The branch it stands in.
        scope: The stop of an invoke that it stands below; 0 if there is none.
        level: How many segments with the same needs, but of other branches, come before it.
    """

    __slots__ = (
        "after", "extra", "function", "guard", "leaves", "level", "names", "needs", "node", "opaque", "output", "scope", "segment",
        "special",
    )  # fmt: skip

    def __init__(self, node: int, function: Callable[..., Any] | None, leaves: list[Slot], needs: int, names: tuple[str, ...] = ()) -> None:
        self.node = node
        self.function = function
        self.leaves = leaves
        self.names = names
        self.needs = needs
        self.after: list[Step] = []
        self.output: Slot | None = None
        self.segment = -1
        self.special: str | None = None
        self.extra: Any = None
        self.opaque = False
        self.scope = self.level = 0
        self.guard: Guard | None = None


class Guard:
    """A branch of an ``if`` while a graph is compiled.

    Attributes:
        slot: Where the truth lies: exactly ``True`` or ``False``, and ``None`` while it is unknown.
        polarity: What it has to be.
        parent: The branch around it.
        step: What makes the truth.
    """

    __slots__ = ("parent", "polarity", "slot", "step")

    def __init__(self, step: Step, slot: Slot, polarity: bool, parent: Guard | None) -> None:
        self.step = step
        self.slot = slot
        self.polarity = polarity
        self.parent = parent

    @property
    def needs(self) -> int:
        """The visits that the truth depends on."""
        return self.step.needs

    def around(self, other: Guard | None) -> bool:
        """Whether ``other`` is this branch or stands in it."""
        while other is not None and other is not self:
            other = other.parent
        return other is self
