"""The blocks of a model: the modules of its main lists."""

from __future__ import annotations

import torch


def block_paths(model: torch.nn.Module) -> list[str]:
    """The paths of the blocks: what stands in the outermost lists of modules of one class, with weights.

    >>> net = torch.nn.Module()
    >>> net.h = torch.nn.ModuleList([torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)])
    >>> block_paths(net)
    ['h.0', 'h.1']
    """
    found: list[str] = []
    pending = [("", model)]
    while pending:
        path, module = pending.pop(0)
        if isinstance(module, torch.nn.ModuleList):
            blocks = [child for child in module if next(child.parameters(), None) is not None]
            if blocks and len(blocks) == len(module) and len({type(child) for child in module}) == 1:
                found += [f"{path}.{name}" if path else name for name in module._modules]
            continue
        pending += [(f"{path}.{name}" if path else name, child) for name, child in module._modules.items() if child is not None]
    return found
