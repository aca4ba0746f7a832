"""One forward under raw hooks: what is delivered where, in which order, with given contents put in, and what the model overwrote."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .trees import Tree, clone_tree, copy_tree, leaves, overwrite, pointer

Key = tuple[str, Literal["input", "output", "result"]]
"""A place once: the first name of the module in `named_modules()`; `.input` and `.inputs` are parts of one cell `(args, kwargs)`."""

Part = Literal["base", "final"]
"""Which tensor of a site: the model's own, or the one that a write put there."""


@dataclass(frozen=True)
class Content:
    """What stands at a site in the end: the model's own tensors take `base`; `replacement`, in a tuple of one, is handed on instead."""

    base: Tree = None
    replacement: tuple[Tree] | None = None


@dataclass(frozen=True)
class Overwritten:
    """The model changed a tensor in place after it had passed a site, and before the visit of number `before`."""

    before: int
    changed: bool


@dataclass
class Watch:
    """A tensor that passed a site, as it was then."""

    key: Key
    part: Part
    leaf: int
    tensor: Tensor
    version: int
    copy: Tensor

    def refresh(self) -> None:
        self.version, self.copy = self.tensor._version, self.tensor.clone()


@dataclass
class Forward:
    """What one forward showed. Made by `run_forward`."""

    contents: dict[Key, Content]
    paths: dict[str, str]
    """The first name of each module, by all its names."""
    delivered: dict[Key, Tree] = field(default_factory=dict)
    order: dict[Key, int] = field(default_factory=dict)
    overwritten: dict[tuple[Key, Part, int], Overwritten] = field(default_factory=dict)
    watched: list[Watch] = field(default_factory=list)
    real: dict[tuple[Key, Part, int], int] = field(default_factory=dict)
    """The storage that a tensor has in the model: equal where the model hands one on."""

    def visit(self, key: Key, passing: Tree) -> Tree:
        """The first visit of a site: record a private copy, then put in what belongs there."""
        self.look()
        if key in self.order:
            return passing
        self.order[key] = len(self.order)
        self.delivered[key] = copy_tree(passing)
        content = self.contents.get(key, Content())
        self.watch(key, "base", passing)
        if content.base is not None:
            overwrite(passing, content.base)
        for watch in self.watched:
            if watch.tensor._version != watch.version:
                watch.refresh()
        if content.replacement is None:
            return passing
        handed = clone_tree(content.replacement[0])
        self.watch(key, "final", handed)
        return handed

    def watch(self, key: Key, part: Part, tree: Tree) -> None:
        for number, leaf in enumerate(leaves(tree)):
            self.real[key, part, number] = pointer(leaf)
            self.watched.append(Watch(key, part, number, leaf, leaf._version, leaf.clone()))

    def look(self) -> None:
        """Notice what the model overwrote since the last visit of any site."""
        for watch in self.watched:
            if watch.tensor._version != watch.version:
                found = Overwritten(len(self.order), not torch.equal(watch.tensor, watch.copy))
                known = self.overwritten.setdefault((watch.key, watch.part, watch.leaf), found)
                if found.changed and not known.changed:
                    self.overwritten[watch.key, watch.part, watch.leaf] = Overwritten(known.before, True)
                watch.refresh()

    def before(self, path: str) -> Callable[..., Any]:
        """A pre-hook with keywords."""
        return lambda module, args, kwargs: self.visit((path, "input"), (args, kwargs))

    def after(self, path: str) -> Callable[..., Any]:
        """A hook."""
        return lambda module, args, output: self.visit((path, "output"), output)


def run_forward(module: nn.Module, x: Tensor, contents: dict[Key, Content]) -> Forward:
    """Run the model on a copy of `x`, with hooks on every module."""
    forward = Forward(contents, first_names(module))
    handles = []
    try:
        for path, child in module.named_modules():
            handles.append(child.register_forward_pre_hook(forward.before(path), with_kwargs=True))
            handles.append(child.register_forward_hook(forward.after(path)))
        with torch.no_grad():
            forward.visit(("", "result"), module(x.clone()))
    finally:
        for handle in handles:
            handle.remove()
    return forward


def first_names(module: nn.Module) -> dict[str, str]:
    """For each name of each module the first name of that module."""
    first = {child: name for name, child in module.named_modules()}
    return {name: first[child] for name, child in module.named_modules(remove_duplicate=False)}
