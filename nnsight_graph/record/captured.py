"""What lines take from around the run: parameters of the model, captured tensors, containers of the user's."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import TYPE_CHECKING, Any

import numpy
import torch

from ..errors import RecordError
from ..graph import Site
from ..ops.effect import written
from ..ops.nested import storage_of
from ..ops.table import effect_of
from .name import Name

if TYPE_CHECKING:
    from .proxy import Proxy


class Captured:
    """The part of a recorder that knows what comes from outside.

    Attributes:
        poison: A refusal in the block: the trace may not run, whoever caught it.
        refilled: Containers of the user's that the run fills, with the proxies of what they will hold.
        beside: Containers of the user's that were there when the block began, and that it names.
        replaced: What stands for parameters in this run, by path.
        parameters: Constants with a name: the value, its place among the constants, and what stands for it in an entry.
        edits_constants: Whether a line edits a captured tensor in place.
    """

    entries: list[Any]
    constants: list[Any]
    indices: list[int]
    encode: Callable[[Any], Any]
    repeats: bool
    saved: dict[int, Proxy]
    owner: Any
    regions: int
    depth: int
    step: int | str
    invoking: int
    make: Callable[..., Proxy]
    # What most traces never change stays on the class.
    poison: BaseException | None = None
    refilled: tuple[tuple[Any, Proxy], ...] = ()
    beside: Sequence[Any] = ()
    edits_constants = False
    _lifted: dict[int, int] = {}  # noqa: RUF012  (replaced, never filled)
    _edited: frozenset[int] = frozenset()

    replaced: dict[str, Proxy] = {}  # noqa: RUF012  (replaced, never filled)
    parameters: dict[str, tuple[Any, int, Any]] = {}  # noqa: RUF012  (replaced, never filled)

    def put(self, entry: tuple[Any, ...], frame: FrameType) -> int:
        """Write an entry."""
        raise NotImplementedError

    def add(self, target: str, operands: Any, keywords: Any = None, site: Site | None = None, depth: int = 2) -> int:
        """Write an entry for a call made ``depth`` frames up."""
        raise NotImplementedError

    def _refuse_others(self, owner: Any, site: Site) -> None:
        raise NotImplementedError

    # ------------------------------------------------------------------ parameters

    def parameter(self, path: str, owner: Any, value: torch.Tensor) -> Proxy:
        """A parameter or buffer of the model, as a value."""
        site = Site(path, "parameter")
        self._refuse_others(owner, site)
        if path in self.replaced:
            return self.replaced[path]
        return self.make(self, self.add("parameter", (), None, site, 3))

    def named(self, name: str, value: Any) -> Proxy:
        """A constant with a name; the same constant wherever the name is used.

        Raises:
            RecordError: it is no number, string or tensor, or the name has another value.
        """
        kinds = (int, float, complex, str, bytes, torch.Tensor, numpy.ndarray)
        if isinstance(value, bool) or not isinstance(value, kinds):
            raise RecordError(f"a parameter is a number, a string or a tensor, not {value!r}")
        if name not in self.parameters:
            described = self.encode(value)
            self.parameters = {**self.parameters, name: (value, self.indices[-1], described)}
        else:
            before, index, described = self.parameters[name]
            if before is not value and (type(before) is not type(value) or hasattr(value, "shape") or before != value):
                raise RecordError(f"the parameter {name!r} is {before!r} already: a name has one value")
            self.indices.append(index)
            self.repeats = True
        return self.make(self, self.put(("named", name, described), sys._getframe(2)))

    def replace(self, paths: Sequence[str], owner: Any, value: Any) -> None:
        """A value stands for a parameter of the model, under all its names, in this run.

        Raises:
            RecordError: in a branch, a loop, an invoke or a later step.
        """
        self._refuse_others(owner, Site(paths[0], "parameter"))
        self._refuse_parts(paths[0])
        if not isinstance(value, torch.Tensor) and not hasattr(type(value), "_trace"):
            raise RecordError(f"{paths[0]} is a tensor: a {type(value).__name__} cannot stand for it")
        made = self.make(self, self.add("copied", (value,), None, Site(paths[0], "parameter"), 3))
        for path in paths:
            self._stand_for(path, made, 4)

    def _refuse_parts(self, path: str) -> None:
        if self.regions or self.depth or self.step != 0 or self.invoking:
            raise RecordError(
                f"{path} is a parameter, which may be replaced, or edited in place, for a whole run only: outside branches, loops and "
                "invokes. Here, edit a .clone()."
            )

    def _stand_for(self, path: str, made: Proxy, depth: int) -> None:
        owner, _, name = path.rpartition(".")
        self.add("replace", (Name(name), made), None, Site(owner, "inputs"), depth)
        self.replaced = {**self.replaced, path: made}

    def refuse_edit(self, proxy: Proxy) -> None:
        """Raise for an in-place edit of what may not be edited: a parameter of the model, or a copy of a container of the user's."""
        entry = self.entries[proxy._index]
        while entry[0] == "getitem" and type(entry[1]) is int and self.entries[entry[1]][0] in ("getitem", "parameter"):
            proxy = self.make(self, entry[1])
            entry = self.entries[entry[1]]
        if entry[0] == "parameter":  # the edit is one of a copy, which stands for the parameter in this run
            path = entry[1].path
            self._refuse_parts(path)
            self.entries[proxy._index] = ("copied", entry[1])
            for name in self.owner.names_of(path):
                self._stand_for(name, proxy, 4)
            return
        if entry[0] in ("getitem", "merge"):
            self.refuse_copy(proxy._index)

    # ------------------------------------------------------------------ containers

    def living(self, container: Any) -> Proxy | None:
        """What stands for a container of the user's in the run, if it lives there."""
        return next((proxy for one, proxy in reversed(self.refilled) if one is container), None)

    def refill(self, container: Any, proxy: Proxy) -> None:
        """After the run, ``container`` holds what ``proxy`` stands for."""
        self.refilled = (*self.refilled, (container, proxy))
        if proxy._index not in self.saved:
            self.saved[proxy._index] = proxy
            self.put(("save", proxy._index), sys._getframe(1))

    def refuse_copy(self, index: int) -> None:
        """Raise for a change of a container that was written down as it was: the user's own would not see it."""
        if self._is_copy(index):
            self.poison = RecordError(
                "this changes a list, dict or set that a traced value has chosen, and of which the trace only has a copy. Make it in the "
                "trace, nnsight_graph.list() or nnsight_graph.dict(), or change it by its own name."
            )
            raise self.poison

    def _is_copy(self, operand: Any) -> bool:
        """Whether an operand is, or is chosen from, a container that was written down as it was."""
        if type(operand) is not int:
            kind = operand[0] if type(operand) is tuple and operand else operand
            return kind in ("list", "dict", list, dict, set)
        target, *operands = self.entries[operand]
        if target == "getitem":
            return self._is_copy(operands[0])
        return target == "merge" and any(map(self._is_copy, operands[1:]))

    # ------------------------------------------------------------------ constants

    def protect_constants(self, function_name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Before a native edit of a captured tensor: lines above keep the value it had."""
        if not self._lifted:
            return
        for value in written(effect_of(function_name), args, kwargs):
            if isinstance(value, torch.Tensor):
                address = storage_of(value)
                for index, constant in enumerate(self.constants):
                    if isinstance(constant, torch.Tensor) and storage_of(constant) == address:
                        self._lifted.pop(id(constant), None)
                        self.constants[index] = constant.detach().clone() if not constant.requires_grad else constant.clone()

    def is_edited(self, values: tuple[Any, ...]) -> bool:
        """Whether a captured tensor among ``values`` has a traced edit, so that only the run knows what is in it."""
        if not self.edits_constants:
            return False
        edited = {storage_of(self.constants[index]) for index in self._edited}
        return any(isinstance(value, torch.Tensor) and storage_of(value) in edited for value in values)

    def shared_constants(self) -> tuple[tuple[int, ...], ...]:
        """Groups of tensor constants that lie on one storage."""
        groups: dict[int, list[int]] = {}
        for index, constant in enumerate(self.constants):
            if isinstance(constant, torch.Tensor):
                groups.setdefault(storage_of(constant), []).append(index)
        return tuple(tuple(group) for group in groups.values() if len(group) > 1)
