"""The blocks of a model: the modules of its main lists."""

from __future__ import annotations

import torch


def block_paths(model: torch.nn.Module) -> list[str]:
    """The paths of the blocks: what stands in the outermost lists of modules with weights, of one class or of several.

    Modules of several classes are blocks where each is a part of the model with modules of its own, and none is one of torch's.

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
            if _are_blocks(module):
                found += [f"{path}.{name}" if path else name for name in module._modules]
            continue
        pending += [(f"{path}.{name}" if path else name, child) for name, child in module._modules.items() if child is not None]
    return found


def _are_blocks(modules: torch.nn.ModuleList) -> bool:
    if not len(modules) or any(next(child.parameters(), None) is None for child in modules):
        return False
    if len({type(child) for child in modules}) == 1:
        return True
    return all(child._modules and not type(child).__module__.startswith("torch.") for child in modules)
