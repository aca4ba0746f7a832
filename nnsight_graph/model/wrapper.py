"""A module that passes on what it is given, so that the value has a name in the tree of modules."""

from __future__ import annotations

from typing import Any

import torch


class WrapperModule(torch.nn.Module):
    """Returns what it is called with: a value that no module takes or returns is there as its ``.output``.

    Example:
        >>> import torch, nnsight_graph as nnsight
        >>> class Squares(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.squares = nnsight.util.WrapperModule()
        ...     def forward(self, x):
        ...         return self.squares(x * x).sum()
        >>> model = nnsight.NNsight(Squares())
        >>> with model.trace(torch.tensor([1.0, 2.0])):
        ...     model.squares.output[0] = 10
        ...     total = model.output.save()
        >>> total
        tensor(14.)
    """

    def forward(self, *args: Any) -> Any:
        """The argument; several come as a tuple."""
        return args[0] if len(args) == 1 else args
