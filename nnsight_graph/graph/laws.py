"""What each kind of node may be, as a table: a new kind is a row."""

from __future__ import annotations

from typing import NamedTuple


class Law(NamedTuple):
    """The shape a kind of node must have.

    Attributes:
        points: The site points it may name; empty when it has no site.
        operands: How many positional operands; ``None`` for any number.
        regions: How many regions it holds.
        value: Whether other nodes may refer to it.
    """

    points: frozenset[str] = frozenset()
    operands: int | None = None
    regions: int = 0
    value: bool = True


_PASSING = frozenset({"input", "inputs", "output"})

LAWS: dict[str, Law] = {
    "read": Law(_PASSING | {"result"}, 0),
    "write": Law(_PASSING | {"grad"}, 1, value=False),
    "grad": Law(frozenset({"grad"}), 1),
    "backward": Law(value=False),
    "under": Law(operands=1, value=False),
    "parameter": Law(frozenset({"parameter"}), 0),
    "copied": Law(frozenset({"parameter"})),
    "replace": Law(frozenset({"inputs"}), 2, value=False),
    "module": Law(frozenset({"call"})),
    "listening": Law(frozenset({"call"})),
    "call": Law(),
    "save": Law(operands=1, value=False),
    "log": Law(value=False),
    "assume": Law(operands=2, value=False),
    "cache": Law(operands=2, value=False),
    "setattr": Law(operands=3, value=False),
    "named": Law(operands=2),
    "bound": Law(operands=2),
    "arranged": Law(operands=2),
    "unpack": Law(operands=2),
    "trace": Law(regions=1, value=False),
    "input": Law(value=False),
    "stop": Law(value=False),
    "skip": Law(frozenset({"inputs"}), 1, value=False),
    "invoke": Law(operands=1, regions=1, value=False),
    "if": Law(operands=1, regions=2),
    "merge": Law(operands=3),
    "for": Law(regions=1),
    "while": Law(regions=1),
    "steps": Law(regions=1),
    "param": Law(operands=2),
    "check": Law(value=False),
    "result": Law(operands=2),
}
"""The structural kinds.

The value of an ``if`` is its truth, that of a loop what it carried out; ``merge`` takes one of two values by an ``if``, ``param``
is the item of a turn (``"item"``), a carried value (``"0"``, ``"1"`` ...) or, of a list with one operand per turn, that turn's;
``check`` leaves a ``while``, ``result`` is a carried value after the loop. The body of ``steps`` takes part in each of the steps
that it names: ``"0:None:1"``, ``"0,3"``.
Lines below an ``under`` work in the
modes that it names, up to the next. A ``grad`` is the gradient of a value in the ``backward`` whose number is its site's
call. A ``trace`` is a call of a model in a session, by the name of its method and with its arguments; its ``input``s are those of its
invokes; ``stop`` ends the session, the forward when a value is there, or its invoke when all above is. ``named`` is a constant with a name;
``assume`` is what Python was told of a value when the program was written.
A ``skip`` puts a value
in place of a module's forward. A ``replace`` puts a value in place of a module's parameter for one run; ``copied`` is a copy of a
parameter. A ``cache`` keeps what modules take and return: ``"output"``, ``"inputs"`` or both, and of
which modules, ``None`` for all. Every other target is an operation of the op table and follows :data:`OPERATION`."""

OPERATION = Law()


def law_of(target: str) -> Law:
    """The law that ``target`` has to follow."""
    return LAWS.get(target, OPERATION)
