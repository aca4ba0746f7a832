"""Tuples, lists and dicts of tensors: what passes at a site."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Tree = Any
"""A tensor, or tuples, lists and dicts of trees; anything else counts as a constant."""


def leaves(tree: Tree) -> list[Tensor]:
    """The tensors of a tree, in order."""
    if isinstance(tree, Tensor):
        return [tree]
    parts = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, (tuple, list)) else ()
    return [leaf for part in parts for leaf in leaves(part)]


def apply(change: Callable[[Tensor], Tensor], tree: Tree) -> Tree:
    """The same tree with each tensor changed."""
    if isinstance(tree, Tensor):
        return change(tree)
    if isinstance(tree, dict):
        return {key: apply(change, part) for key, part in tree.items()}
    if isinstance(tree, (tuple, list)):
        return type(tree)(apply(change, part) for part in tree)
    return tree


def pointer(tensor: Tensor) -> int:
    """What tells storages apart while they live."""
    return tensor.untyped_storage().data_ptr()


def pointers(tree: Tree) -> set[int]:
    """The storages of a tree."""
    return {pointer(leaf) for leaf in leaves(tree)}


def copy_tree(tree: Tree) -> Tree:
    """A private copy with the strides of the original; tensors that shared a storage share one again."""
    storages: dict[int, torch.UntypedStorage] = {}

    def copy(tensor: Tensor) -> Tensor:
        if pointer(tensor) not in storages:
            storages[pointer(tensor)] = tensor.untyped_storage().clone()
        empty = torch.empty(0, dtype=tensor.dtype)
        return empty.set_(storages[pointer(tensor)], tensor.storage_offset(), tensor.shape, tensor.stride())

    return apply(copy, tree)


def clone_tree(tree: Tree) -> Tree:
    """By value: each tensor on its own."""
    return apply(Tensor.clone, tree)


def overwrite(target: Tree, value: Tree) -> None:
    """Each tensor of `target` takes the content of its counterpart, in place."""
    for old, new in zip(leaves(target), leaves(value), strict=True):
        old.copy_(new)


def form(tree: Tree) -> Tree:
    """Nesting, shapes and dtypes."""
    if isinstance(tree, Tensor):
        return tuple(tree.shape), tree.dtype
    if isinstance(tree, dict):
        return {key: form(part) for key, part in tree.items()}
    if isinstance(tree, (tuple, list)):
        return type(tree).__name__, [form(part) for part in tree]
    return repr(tree)


def same(one: Tree, other: Tree) -> bool:
    """Bit for bit, except that any NaN equals any NaN."""
    pairs = zip(leaves(one), leaves(other), strict=False)
    return form(one) == form(other) and all(torch.equal(a.nan_to_num(7e77), b.nan_to_num(7e77)) for a, b in pairs)


def difference(right: Tree, got: Tree) -> str | None:
    """The first difference in words, or None."""
    if form(right) != form(got):
        return f"form {form(got)} instead of {form(right)}"
    for number, (a, b) in enumerate(zip(leaves(right), leaves(got), strict=True)):
        if not torch.allclose(a, b, rtol=1e-9, atol=1e-9, equal_nan=True):
            return f"tensor {number}:\n{b}\ninstead of\n{a}"
    return None
