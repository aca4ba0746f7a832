"""Whether two values are the same without their numbers."""

from __future__ import annotations

from typing import Any

import torch

from .scan import Unknown
from .specs import PLAIN, Spec, map_items, spec_of


def on_cpu(spec: Any) -> Any:
    """A spec of the same tensors on the CPU."""
    if isinstance(spec, Spec):
        return Spec(spec.shape, spec.dtype, torch.device("cpu"), spec.requires_grad, spec.layout, spec.stride)
    found = map_items(spec, on_cpu)
    return spec if found is NotImplemented else found


def are_alike(one: Any, other: Any) -> bool:
    """Whether two values, as specs, are the same to what comes later: shapes, dtypes, devices, structure."""
    if isinstance(one, Spec) and isinstance(other, Spec):
        return (one.shape, one.dtype, one.device) == (other.shape, other.dtype, other.device)
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(are_alike(item, other[key]) for key, item in one.items())
    if isinstance(one, (tuple, list)):
        return len(one) == len(other) and all(map(are_alike, one, other))
    return bool(one == other)


def known_alike(one: Any, other: Any) -> bool:
    return type(one) is not Unknown and are_alike(spec_of(one), spec_of(other))


def is_plain(value: Any) -> bool:
    """Whether a value is known as it will be: a number, a shape, a dtype; not a tensor.

    >>> is_plain(torch.Size([2, 3])), is_plain(torch.ones(2))
    (True, False)
    """
    return type(value) in PLAIN or (type(value) in (tuple, list) and all(map(is_plain, value)))
