"""Activation checkpoints: their backward pass computes the region again, without the trace, and compares what autograd has saved.

So what a trace computes from values in there is saved apart. The numbers, and the error of an edit in between, stay torch's.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import torch
import torch.utils.checkpoint

_CHECKPOINT = torch.utils.checkpoint.__file__
_top: Callable[[bool], Any] | None = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", None)


def in_checkpoint(frame: FrameType | None) -> bool:
    """Whether ``frame`` runs in an activation checkpoint."""
    while frame is not None:
        if frame.f_code.co_filename == _CHECKPOINT:
            return True
        frame = frame.f_back
    return False


def saves_are_counted() -> bool:
    """Whether a checkpoint counts what autograd saves now."""
    if not torch.is_grad_enabled():
        return False
    if _top is None:  # torch before 2.8
        return in_checkpoint(sys._getframe(1))
    hooks = _top(True)
    return hooks is not None and getattr(hooks[0], "__module__", "") == "torch.utils.checkpoint"


def apart() -> torch.autograd.graph.saved_tensors_hooks:
    """While it is entered, what autograd saves is kept as it is, whatever the hooks around it would do."""
    return torch.autograd.graph.saved_tensors_hooks(_packed, _unpacked)


def _packed(tensor: torch.Tensor) -> tuple[torch.Tensor, int]:
    alone = tensor.detach()  # the tensor itself may be the result of what saves it: a cycle
    return alone, -1 if alone.is_inference() else alone._version


def _unpacked(packed: tuple[torch.Tensor, int]) -> torch.Tensor:
    tensor, version = packed
    if version >= 0 and tensor._version != version:
        raise RuntimeError(
            "one of the variables needed for gradient computation has been modified by an inplace operation: "
            f"[{tensor.type()} {list(tensor.shape)}] is at version {tensor._version}; expected version {version} instead."
        )
    return tensor
