"""Gradients in a run: hooks on tensors bring them to their visits while a backward goes on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ..errors import NNsightError
from ..ops.nested import shares

Level = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]


class Gradients:
    """What one run listens to. The hooks hold the run: autograd's threads do not know which one it is.

    Args:
        run: The run.
    """

    def __init__(self, run: Any) -> None:
        self._run = run
        self._open: dict[int, list[tuple[int, Any]]] = {}
        self._running = -1

    def listen(self, index: int, ordinal: int, value: Any, levels: list[Level]) -> None:
        """From here on the gradient of a value passes at visit ``index`` when backward ``ordinal`` runs.

        Args:
            index: The visit.
            ordinal: The backward.
            value: What the value is a view of, or holds it.
            levels: Function, further arguments and named ones of each step from there to the value.
        """
        path = list(levels)
        while path and not isinstance(value, torch.Tensor):
            function, others, named = path.pop(0)
            value = function(value, *others, **named)
        if not isinstance(value, torch.Tensor):
            raise NNsightError(f"a {type(value).__name__} has no gradient: .grad belongs to a tensor")
        if not value.requires_grad:
            raise NNsightError(_why_not(value))
        handle = value.register_hook(self._hook(index, ordinal, path))
        self._open.setdefault(ordinal, []).append((index, handle))

    def _hook(self, index: int, ordinal: int, path: list[Level]) -> Callable[..., Any]:
        run = self._run
        changes = index in run.plan.edited or run.plan.visits[index].changes

        def hook(gradient: torch.Tensor) -> torch.Tensor | None:
            if self._running != ordinal or run.seen[index]:
                return None
            passing = gradient.clone() if changes else gradient
            piece = passing
            for function, others, named in path:
                piece = function(piece, *others, **named)
            if changes and path and not shares(piece, passing):
                raise NNsightError("this is a copy, whose gradient cannot be changed: change that of the value it was made of")
            result = run.arrive(index, piece)
            if not changes:
                return None
            if result is None or result is piece:
                return passing
            if path:
                piece.copy_(result)
            return passing if path else torch.as_tensor(result)

        return hook

    def backward(self, ordinal: int, loss: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Run a backward; every gradient that was named has to come."""
        before, self._running = self._running, ordinal
        try:
            loss.backward(*args, **kwargs)
        finally:
            self._running = before
            listening = self._open.pop(ordinal, [])
            for _, handle in listening:
                handle.remove()
        for index, _ in listening:
            if not self._run.seen[index]:
                self._run.failed = ("gradient", index)
                raise NNsightError("gradient")

    def forget(self) -> None:
        """Take away the hooks of backwards that did not run."""
        for listening in self._open.values():
            for _, handle in listening:
                handle.remove()
        self._open = {}


def _why_not(value: torch.Tensor) -> str:
    if value.is_inference():
        return "there is no gradient of a tensor of inference mode: trace outside torch.inference_mode()"
    if not torch.is_grad_enabled():
        return "there is no gradient under torch.no_grad(): trace outside it (generate runs without gradients, too)"
    return "this value does not require a gradient: none of the parameters before it does. Write value.requires_grad_() above .grad"
