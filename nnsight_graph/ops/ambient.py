"""The modes that torch works in, as a word of a graph: gradients on or off, inference mode, autocast."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any

import torch

_DEVICES = ("cpu", "cuda", "mps", "xpu")


def ambient(grad: bool | None = None) -> str:
    """The modes that are on here, as a text: ``"grad=True, inference=False"``, and autocast where it is on.

    Args:
        grad: Whether gradients are on, in place of whether they are here.

    >>> with torch.no_grad():
    ...     print(ambient())
    grad=False, inference=False
    """
    text = f"grad={torch.is_grad_enabled() if grad is None else grad}, inference={torch.is_inference_mode_enabled()}"
    if not getattr(torch._C, "_is_any_autocast_enabled", torch.is_autocast_enabled)():
        return text
    casts = [f"{device}={torch.get_autocast_dtype(device)}" for device in _DEVICES if torch.is_autocast_enabled(device)]
    return ", ".join([text, *casts])


@contextmanager
def modes(text: str) -> Iterator[None]:
    """Work in the modes that ``text`` names; in those that are on anyway, where it is empty."""
    if not text:
        yield
        return
    words = dict(word.split("=") for word in text.split(", "))
    grad, casts = torch.is_grad_enabled(), [(torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)) for device in _DEVICES]
    cached = torch.is_autocast_cache_enabled()
    try:
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode(words.pop("inference") == "True"))
            stack.enter_context(torch.set_grad_enabled(words.pop("grad") == "True"))
            for device in _DEVICES:
                if device in words:
                    stack.enter_context(torch.autocast(device, getattr(torch, words[device].removeprefix("torch."))))
                elif torch.is_autocast_enabled(device):
                    stack.enter_context(torch.autocast(device, enabled=False))
            yield
    finally:  # torch's own blocks are not made for an interrupt at their edges
        if torch.is_grad_enabled() is not grad:
            torch._C._set_grad_enabled(grad)
        for device, (enabled, dtype) in zip(_DEVICES, casts, strict=True):
            if (torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)) != (enabled, dtype):
                torch.set_autocast_enabled(device, enabled)
                torch.set_autocast_dtype(device, dtype)
        if torch.is_autocast_cache_enabled() is not cached:
            torch.set_autocast_cache_enabled(cached)


class Under:
    """A function that works in certain modes."""

    __slots__ = ("function", "modes")

    def __init__(self, text: str, function: Callable[..., Any]) -> None:
        self.modes = text
        self.function = function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with modes(self.modes):
            return self.function(*args, **kwargs)


@cache
def under(text: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """``function`` in the modes that ``text`` names."""
    return Under(text, function) if text else function


def without_modes(function: Callable[..., Any] | None) -> Callable[..., Any] | None:
    """The function itself."""
    return function.function if type(function) is Under else function
