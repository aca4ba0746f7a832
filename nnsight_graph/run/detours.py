"""What a run leaves out, or replaces: modules that are skipped, the rest of a forward after a stop, parameters."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import torch

from ..errors import NNsightError
from ..ops.evaluate import CLEAR
from ..ops.nested import clone, map_tensors, tensors_in
from ..ops.rows import Rows, join_rows
from .holding import Holding

VOID = -(1 << 40)
FORWARD = -1


class Detours(Holding):
    """The part of a run that knows stops and skips.

    Attributes:
        ended: The invokes that have been stopped.
        skips: For modules whose input has passed, what they are to return, and of which rows.
        stopped: The node that has ended the forward; -1 while it goes on.
        parameters: What stands for parameters of modules in this run, by path and name.
        left: How many visits are still to come before the forward may be ended by itself; 0 if it may not.
    """

    __slots__ = ("ended", "left", "parameters", "skips", "stopped")

    ended: tuple[int, ...]
    skips: dict[str, tuple[tuple[Rows | None, Any], ...]]
    stopped: int
    left: int
    parameters: dict[str, dict[str, Any]]

    def stop(self, scope: int, node: int, segments: tuple[int, ...], invokes: int) -> None:
        """A stop is reached: of the forward, or of one of its invokes."""
        if scope != FORWARD:
            self.ended = (*self.ended, scope)
            for index in segments:
                self._forsake(index)
            if len(self.ended) < invokes:
                return
        self.stopped = node if self.stopped < 0 else self.stopped

    def _forsake(self, index: int) -> None:
        """A segment that will not run, and all that wait for it."""
        if self.waits[index] < 0:
            return
        self.waits[index] = VOID
        segment = self.plan.segments[index]
        for instruction in segment.code:
            if instruction[0] == CLEAR:
                self.slots[instruction[2]] = None
        for other in segment.downstream:
            self._forsake(other)

    def skip(self, path: str, leaves: tuple[int, ...]) -> None:
        """The module at ``path`` is to return a value in place of running; with a second slot, for these rows."""
        rows = self.slots[leaves[1]] if len(leaves) > 1 else None
        value = clone(self.slots[leaves[0]])
        self.skips = {**self.skips, path: (*self.skips.get(path, ()), (None if rows is None or rows.whole else rows, value))}

    def replace(self, path: str, name: str, leaf: int) -> None:
        """A value stands for a parameter of the module at ``path`` from here on."""
        self.parameters = {**self.parameters, path: {**self.parameters.get(path, {}), name: self.slots[leaf]}}

    def rebound(self, path: str, original: Callable[..., Any]) -> Callable[..., Any]:
        """The forward of a module with other parameters: of a copy of the module that shares all else.

        Raises:
            NNsightError: it is no method of the module, or what was given is no such parameter.
        """
        given = self.parameters.get(path)
        if not given:
            return original
        module = getattr(original, "__self__", None)
        if not isinstance(original, types.MethodType) or not isinstance(module, torch.nn.Module):
            raise NNsightError(f"{path} has a forward that was replaced: its parameters cannot be others for one run")
        made = module.__new__(type(module))
        made.__dict__.update(module.__dict__)
        for name, value in given.items():
            table = "_parameters" if name in module._parameters else "_buffers"
            _check_like(f"{path}.{name}", module.__dict__[table][name], value)
            made.__dict__[table] = {**made.__dict__[table], name: value}
        if isinstance(made, torch.nn.RNNBase):
            made.__dict__["_flat_weights"] = [getattr(made, name) for name in made._flat_weights_names]
        return types.MethodType(original.__func__, made)

    def forward_with_parameters(self, path: str) -> Callable[..., Any]:
        """What stands for the forward of a module whose parameters are others in this run."""

        def forward(original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            try:
                original = self.rebound(path, original)
            except NNsightError as error:
                self.error, self.failed = error, ("refused", self.plan.replaced[path])
                raise Leave from None
            return original(*args, **kwargs)

        return forward

    def forward_of(self, path: str) -> Callable[..., Any]:
        """What stands for the forward of a module that may be skipped."""

        def forward(original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            skips = self.skips.get(path)
            if skips is None:
                return original(*args, **kwargs)
            self.skips = {other: kept for other, kept in self.skips.items() if other != path}
            try:
                return skipped(skips, lambda: original(*args, **kwargs))
            except NNsightError as error:
                self.error, self.failed = error, ("refused", self.plan.skips[path])
                raise Leave from None

        return forward


def _check_like(name: str, old: torch.Tensor, new: Any) -> None:
    if not isinstance(new, torch.Tensor):
        raise NNsightError(f"{name} is a tensor; what stands for it in this run is a {type(new).__name__}")
    if new.shape != old.shape or new.dtype != old.dtype:
        kinds = [f"{tensor.dtype} of {list(tensor.shape)}" for tensor in (old, new)]
        raise NNsightError(f"{name} is {kinds[0]}; what stands for it in this run is {kinds[1]}")


class Leave(BaseException):
    """Ends the forward from inside a hook; a model's ``except Exception`` does not catch it."""


def skipped(skips: tuple[tuple[Rows | None, Any], ...], run: Callable[[], Any]) -> Any:
    """What a module passes on of which some rows, or all, are skipped: it runs only for the others."""
    last = max((place for place, (rows, _) in enumerate(skips) if rows is None), default=-1)
    some = [(rows, value) for rows, value in skips[last + 1 :] if rows is not None]
    if last >= 0:
        whole = skips[last][1]
    elif some and sum(rows.stop - rows.start for rows, _ in some) == some[0][0].size:
        return _stacked([value for _, value in sorted(some, key=lambda piece: piece[0].start)])
    else:
        whole = run()
    for rows, value in some:
        whole = join_rows(whole, rows, value)
    return whole


def _stacked(pieces: list[Any]) -> Any:
    """Rows of all inputs, one after the other."""
    others = [list(tensors_in(piece)) for piece in pieces[1:]]
    count = len(list(tensors_in(pieces[0])))
    if any(len(other) != count for other in others):
        raise NNsightError("the values that invokes put in place of a module have different structures")
    rest = map(iter, others)
    places = list(rest)
    return map_tensors(pieces[0], lambda tensor: torch.cat([tensor, *[next(place) for place in places]]))
