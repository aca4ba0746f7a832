"""What Python's own operations would make of numbers, text and containers: measured before it is made."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch

from ..errors import LimitError
from ..ops.ambient import without_modes
from ..ops.evaluate import GROUPS, assign_attribute, set_item
from ..ops.saved_values import SavedTensor
from ..ops.table import name_of

if TYPE_CHECKING:
    from .limits import Limits

_DEEP = 64
_ITEM, _OBJECT = 8, 64
_WALKED, _TYPED = 16, 1024
"""How many items of containers, and how many characters, are looked at, or made, for the price of one operation."""

_PLAIN = frozenset((torch.Tensor, SavedTensor, torch.nn.Parameter, torch.dtype, type(None), bool, float, type(...)))
_TEXT, _SEQUENCES = (str, bytes), (str, bytes, list, tuple)
_EMPTY = "".__sizeof__()
_VIEWS: tuple[Any, ...] = (type({}.keys()), type({}.values()), type({}.items()))
_CONTAINERS: tuple[Any, ...] = (list, tuple, dict, set, frozenset, *_VIEWS)
_SIZED: tuple[Any, ...] = (*_CONTAINERS, *_TEXT)
_MADE: tuple[Any, ...] = (list, tuple, dict, set, frozenset, *_TEXT)
_CODECS = frozenset("utf8 utf16 utf32 utf16le utf16be utf32le utf32be ascii latin1 iso88591".split())

_ADD, _MUL, _POW, _SHIFT, _MOD = ("add", "iadd"), ("mul", "imul"), ("pow", "ipow"), ("lshift", "ilshift"), ("mod", "imod")
_REFLECTED = {".__rmul__": "mul", ".__rpow__": "pow", ".__rlshift__": "lshift", ".__rmod__": "mod", ".__radd__": "add"}
_SHALLOW = frozenset("""
 getitem setitem delitem len truth bool not_ is_ is_not .append .insert .pop .popitem .get .setdefault .keys .values .items .clear
 .extend .update .add .discard iadd""".split())  # what these do with the container itself does not look into its items
_REPEATING = frozenset("combinations tensor_split hsplit vsplit dsplit".split())  # a list of as many tensors as a number says
_LAZY = frozenset("contains .__contains__ .index .count eq ne".split())  # what these do with a range and integers computes no items
_TAKING = frozenset("getitem .get .pop .popitem .setdefault".split())
_SPREADING = frozenset(".extend iadd .update ior .union .intersection .difference .symmetric_difference setitem".split())
"""These take the items out of their second operand, each a value of its own, and put them into a container."""
_NAMES: dict[Any, str] = {set_item: "setitem", assign_attribute: "setattr", **dict.fromkeys(GROUPS.values(), "group")}


def plain_name(function: Any) -> str:
    """The name of the operation that a function is, in whatever modes, with the operands in their usual order.

    >>> import operator
    >>> plain_name(operator.mul), plain_name(print)
    ('mul', '')
    """
    bare = without_modes(function)
    return _NAMES.get(bare) or name_of(bare) or ""


class Plain:
    """Measures what is no tensor.

    Args:
        limits: The limits.
        charge: Told of the work that containers with many items are, in operations.
    """

    def __init__(self, limits: Limits, charge: Callable[[float], None]) -> None:
        self._most, self._bits, self._charge = limits.value_bytes, limits.integer_bits, charge

    def check(self, name: str, values: Sequence[Any]) -> None:
        """Refuse an operation, by its :func:`plain_name`, of which the result, or the work, would be too large.

        Raises:
            LimitError: names the limit.
        """
        if name in (".tolist", "str") and isinstance(values[0], torch.Tensor):
            self._refuse(_listed(values[0].shape if name == ".tolist" else [min(size, 7) for size in values[0].shape]))
            self._charge(values[0].numel() // _WALKED if name == ".tolist" else 0)
        if all(type(value) in _PLAIN for value in values):
            return
        if name in _REFLECTED:
            name, values = _REFLECTED[name], values[::-1]
        if len(values) == 2 and isinstance(values[0], int) and isinstance(values[1], int):
            self._check_bits(name, values[0], values[1])
            return
        lazy = name in _SHALLOW or (name in _LAZY and isinstance(values[0], range) and isinstance(values[1], (int, range)))
        weights = [self.weigh(value) if place or not lazy else 0 for place, value in enumerate(values)]
        self._refuse(max([sum(weights), self._grown(name, values, weights)]))

    def made(self, value: Any, name: str, values: Sequence[Any]) -> Any:
        """The result of an operation on ``values``; what would be taken out of an iterator one by one is a list.

        Making counts as looking does, so what all the containers and texts of a program hold is bounded by its operations.

        Raises:
            LimitError: it is an integer of too many bits, or more items than there may be.
        """
        if isinstance(value, int) and value.bit_length() > self._bits:
            self._refuse_bits(value.bit_length())
        if isinstance(value, _MADE) and not _was_there(value, name, values):
            self._charge(len(value) // (_TYPED if isinstance(value, _TEXT) else _WALKED))
        if not isinstance(value, Iterator):
            return value
        items = list(islice(value, self._most // _OBJECT + 1))
        self._charge(len(items) / _WALKED)
        self._refuse(len(items) * _OBJECT)
        return items

    def weigh(self, value: Any, depth: int = 0) -> int:
        """How many bytes a value takes where each item stands for itself, however often it is the same object; a range, all its items.

        What tensors in it take is known where they are made (see ``held.py``).
        """
        if isinstance(value, _TEXT):
            self._charge(len(value) // _TYPED)
            return len(value) if isinstance(value, bytes) else value.__sizeof__() - _EMPTY
        if isinstance(value, range):
            count = _steps((value.start, value.stop, value.step))
            self._refuse(count * _OBJECT)
            self._charge(count // _WALKED)
            return count * _OBJECT
        if not isinstance(value, _CONTAINERS):
            return _ITEM
        if depth > _DEEP:
            raise LimitError(f"containers stand in each other more than {_DEEP} deep")
        self._charge((len(value) + 1) / _WALKED)
        items = (item for pair in value.items() for item in pair) if isinstance(value, dict) else iter(value)
        total = _ITEM * (len(value) + 1)
        for item in items:
            if type(item) not in _PLAIN:
                total += self.weigh(item, depth + 1)
                self._refuse(total)
        self._refuse(total)
        return total

    # ------------------------------------------------------------------ growth

    def _grown(self, name: str, values: Sequence[Any], weights: list[int]) -> int:
        """How many bytes the result has, or the work takes, where that is more than the operands have."""
        first = values[0]
        if name in _MUL:
            return _times(values, weights)
        if name.rpartition(".")[2] in _REPEATING:
            return max([value for value in values if isinstance(value, int)], default=0) * _OBJECT
        if name in ("str", "torch.tensor", "torch.as_tensor"):
            return weights[0] * 4 + sum(_listed([min(size, 7) for size in item.shape]) for item in _tensors(first))
        if name == "sum" and any(isinstance(item, (list, tuple)) for item in first if isinstance(first, _CONTAINERS)):
            return sum(weights) * len(first)  # each item is added to a copy of those before
        if isinstance(first, _TEXT):
            return _text(name, values, weights)
        if name in _SPREADING:
            return sum(len(value) for value in values[1:] if isinstance(value, _TEXT)) * _OBJECT
        return 0

    def _check_bits(self, name: str, one: int, other: int) -> None:
        if name in _MUL:
            bits = one.bit_length() + other.bit_length()
        elif name in _POW:
            bits = one.bit_length() * max(other, 0)
        elif name in _SHIFT:
            bits = one.bit_length() + max(other, 0)
        else:
            bits = max(one.bit_length(), other.bit_length()) + 1 if name in _ADD else 0
        if name == "round":
            bits = max(bits, -4 * other)  # it is divided by that power of ten
        if bits > self._bits:
            self._refuse_bits(bits)

    def _refuse_bits(self, bits: int) -> None:
        raise LimitError(f"an integer of {bits} bits, more than {self._bits}: Limits(integer_bits=...)")

    def _refuse(self, size: int) -> None:
        if size > self._most:
            raise LimitError(f"a value would take {size} bytes, more than {self._most}: Limits(value_bytes=...)")


def _was_there(value: Any, name: str, values: Sequence[Any]) -> bool:
    """Whether a result is an operand, or was taken out of one."""
    if any(value is operand for operand in values):
        return True
    return name in _TAKING and not (len(values) > 1 and isinstance(values[1], slice))


def _times(values: Sequence[Any], weights: list[int]) -> int:
    count = next((value for value in values if isinstance(value, int)), 0)
    return sum(weights) * max(count, 0)


def _steps(values: Sequence[Any]) -> int:
    """How many items a range has.

    >>> _steps((10,)), _steps((0, 10, 3)), _steps((5, 0))
    (10, 4, 0)
    """
    if not all(isinstance(value, int) for value in values):
        return 0  # it is refused by Python
    start, stop = (0, values[0]) if len(values) == 1 else values[:2]
    step = values[2] if len(values) > 2 else 1
    return max(0, -((start - stop) // step) if step > 0 else -((stop - start) // -step)) if step else 0


def _text(name: str, values: Sequence[Any], weights: list[int]) -> int:
    """What an operation makes of text."""
    first: Any = values[0]
    others = values[1:]
    length = len(first)
    if name in (".encode", ".decode"):
        _check_codec([value for value in others if isinstance(value, str)])
    if name in _MOD:
        wide = sum(_format_width(width) for width in re.findall(r"%[^a-zA-Z%]*" if isinstance(first, str) else rb"%[^a-zA-Z%]*", first))
        return length + 4 * sum(weights) + wide
    if name == ".join" and others:
        joined: Any = others[0]
        return weights[1] + length * (len(joined) if isinstance(joined, _SIZED) else 0)
    if name == ".replace" and len(others) > 1 and type(others[0]) is type(first):
        return length + first.count(others[0]) * len(others[1]) if isinstance(others[1], _TEXT) else 0
    if name == ".zfill" and others and isinstance(others[0], int):
        return max(length, others[0])
    if name == ".translate":
        given = others[0].values() if others and isinstance(others[0], dict) else ()
        return length * max([len(value) for value in given if isinstance(value, str)], default=1)
    if name in (".strip", ".lstrip", ".rstrip") and others and isinstance(others[0], _TEXT):
        return length * len(others[0]) // _OBJECT  # each character is looked up among the others
    if name in ("list", "tuple", "set", "sorted", "enumerate", "zip", "reversed", ".split", ".rsplit", ".splitlines", "unpack"):
        return length * _OBJECT
    return 0


def _check_codec(words: Sequence[str]) -> None:
    for word in words[:1]:
        if re.sub("[-_ ]", "", word).lower() not in _CODECS:
            raise LimitError(f"how long {word[:40]!r} takes cannot be bounded: encode as utf-8, utf-16, utf-32, ascii or latin-1")


def _format_width(spec: Any) -> int:
    """How wide a field of a format may be; a width that is an argument is as wide as any.

    >>> _format_width("%05.2"), _format_width(b"%*") > 1 << 60
    (7, True)
    """
    text = spec.decode("latin1") if isinstance(spec, bytes) else spec
    return 1 << 62 if "*" in text else sum(int(number[:18]) for number in re.findall(r"[0-9]+", text))


def _listed(shape: Sequence[int]) -> int:
    """How many bytes the nested lists of a tensor's numbers take."""
    return sum(math.prod(shape[: place + 1]) for place in range(len(shape))) * _OBJECT // 2


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, _CONTAINERS):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _tensors(item)
