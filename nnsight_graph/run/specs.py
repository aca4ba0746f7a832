"""What is known of a value without its numbers: tensors stand as their shapes, dtypes and devices."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from types import NoneType
from typing import Any

import msgspec
import torch

PLAIN = frozenset(
    (NoneType, bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.Size, torch.layout, torch.memory_format)
)
"""Types of values that are kept as they are."""


class Spec(msgspec.Struct, frozen=True):
    """A tensor without its numbers.

    Attributes:
        shape: Its sizes.
        dtype: The type of its numbers.
        device: Where it lies.
        requires_grad: Whether gradients flow to it.
        layout: ``torch.strided`` for almost all tensors.
        stride: Its strides, empty where the layout has none.

    >>> print(spec_of(torch.zeros(2, 3)))
    float32[2, 3] on cpu
    """

    shape: torch.Size
    dtype: torch.dtype
    device: torch.device
    requires_grad: bool = False
    layout: torch.layout = torch.strided
    stride: tuple[int, ...] = ()

    def __str__(self) -> str:
        return f"{str(self.dtype).removeprefix('torch.')}{list(self.shape)} on {self.device}"


class Opaque(msgspec.Struct, frozen=True):
    """A value that is neither tensor, number nor container, such as a cache: only its class is kept."""

    kind: str

    def __str__(self) -> str:
        return self.kind


def spec_of(value: Any) -> Any:
    """``value`` with a :class:`Spec` for every tensor; tuples, dicts, model outputs and plain values stay what they are.

    >>> spec_of((torch.ones(2), 3))[1]
    3
    """
    kind = type(value)
    if kind in PLAIN:
        return value
    if isinstance(value, torch.Tensor):
        strided = value.layout is torch.strided
        return Spec(value.shape, value.dtype, value.device, value.requires_grad, value.layout, value.stride() if strided else ())
    found = map_items(value, spec_of)
    return Opaque(kind.__name__) if found is NotImplemented else found


def map_items(value: Any, change: Callable[[Any], Any]) -> Any:
    """A copy of a container with ``change`` applied to its items; ``NotImplemented`` for what is no container."""
    kind = type(value)
    if kind is tuple or kind is list:
        return kind([change(item) for item in value])
    if kind is dict:
        return {key: change(item) for key, item in value.items()}
    if isinstance(value, dict):
        return _refilled(value, change)
    if isinstance(value, (tuple, list, set, frozenset)):
        items = [change(item) for item in value]
        return kind(*items) if hasattr(value, "_fields") else kind(items)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _fields_changed(value, change)
    return NotImplemented


def _refilled(value: dict[Any, Any], change: Callable[[Any], Any]) -> dict[Any, Any]:
    fresh = copy.copy(value)
    for key, item in value.items():
        fresh[key] = change(item)
    return fresh


def _fields_changed(value: Any, change: Callable[[Any], Any]) -> Any:
    fresh = copy.copy(value)
    for field in dataclasses.fields(value):
        if hasattr(value, field.name):
            object.__setattr__(fresh, field.name, change(getattr(value, field.name)))
    return fresh
