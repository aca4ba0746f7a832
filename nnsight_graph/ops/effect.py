"""What an operation does to its arguments, and what its result shares with them."""
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import msgspec

Slot = tuple[str, int]
"""An argument by keyword and by position."""


class Effect(msgspec.Struct, frozen=True):
    """What the planner has to know of an operation.

    Attributes:
        mutates: positions written into; the result is that argument, or an alias of it.
        views: positions of which the result always is, or contains, a view (those in ``mutates`` included).
        maybe: positions with which the result sometimes shares storage: known only while running.
        every: ``views`` or ``maybe`` concern all arguments, however many (the position is then 0).
        writes: arguments written into without being the result: running statistics, ``inplace=True``.
        switch: ``writes`` happens only where this argument is given and is neither None nor False.
        random: draws random numbers, or may.
        metadata: depends on shape, dtype and device alone, never on contents; the result is no tensor.
        opaque: nothing is known: the result may share storage with any argument, and nothing is mutated.
    """

    mutates: tuple[int, ...] = ()
    views: tuple[int, ...] = ()
    maybe: tuple[int, ...] = ()
    every: bool = False
    writes: tuple[Slot, ...] = ()
    switch: Slot | None = None
    random: bool = False
    metadata: bool = False
    opaque: bool = False


OPAQUE = Effect(maybe=(0,), every=True, opaque=True)


@cache
def parse(text: str) -> Effect:
    """Reads the second column of the op table.

    Raises:
        ValueError: a word that is not in the table's vocabulary.

    Example:
        >>> parse("random mutates:0")
        Effect(mutates=(0,), views=(0,), maybe=(), every=False, writes=(), switch=None, random=True, metadata=False, opaque=False)
        >>> parse("pure writes:input@0?inplace@1").switch
        ('inplace', 1)
    """
    fields: dict[str, Any] = {}
    for word in text.split():
        head, _, tail = word.partition(":")
        if head in ("random", "metadata", "opaque") and not tail:
            fields[head] = True
        elif head in ("mutates", "view", "maybe") and tail:
            fields["views" if head == "view" else head] = (0,) if tail == "*" else tuple(map(int, tail.split(",")))
            fields["every"] = fields.get("every", False) or tail == "*"
        elif head == "writes" and tail:
            slots, _, switch = tail.partition("?")
            fields["writes"] = tuple(map(_slot, slots.split(",")))
            fields["switch"] = _slot(switch) if switch else None
        elif word != "pure":
            raise ValueError(f"{word!r} is no effect: write pure, metadata, random, opaque, view:0, maybe:0, mutates:0 or writes:name@1")
    if "mutates" in fields:
        fields["views"] = tuple(dict.fromkeys(fields["mutates"] + fields.get("views", ())))
    return OPAQUE if fields.get("opaque") else Effect(**fields)


def _slot(text: str) -> Slot:
    name, _, position = text.partition("@")
    return name, int(position)


_ABSENT = object()


def _at(slot: Slot, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    name, position = slot
    return args[position] if position < len(args) else kwargs.get(name, _ABSENT)


def _pick(positions: tuple[int, ...], every: bool, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
    if every and positions:
        return [*args, *kwargs.values()]
    picked = [args[i] for i in positions if i < len(args)]
    # An argument that is not there by position may have come under any keyword.
    return picked if len(picked) == len(positions) else picked + list(kwargs.values())


def written(effect: Effect, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
    """The arguments of one call that the operation writes into, ``out=`` included.

    Example:
        >>> written(parse("pure writes:input@0?inplace@1"), ["x"], {"inplace": True})
        ['x']
        >>> written(parse("pure writes:input@0?inplace@1"), ["x"], {})
        []
    """
    found = _pick(effect.mutates, False, args, kwargs)
    if effect.switch is None or not any(_at(effect.switch, args, kwargs) is off for off in (_ABSENT, None, False)):
        found += [value for slot in effect.writes if (value := _at(slot, args, kwargs)) is not _ABSENT and value is not None]
    return found if kwargs.get("out") is None else [*found, kwargs["out"]]


def shared(effect: Effect, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
    """The arguments of one call with which the result shares storage, or may.

    Example:
        >>> shared(parse("view:0"), ["x", 1], {})
        ['x']
        >>> shared(parse("maybe:*"), ["ij->ji", "x"], {})
        ['ij->ji', 'x']
    """
    found = _pick(tuple(dict.fromkeys(effect.views + effect.maybe)), effect.every, args, kwargs)
    return found + [value for value in written(effect, args, kwargs) if not any(value is known for known in found)]
