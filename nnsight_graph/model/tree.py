"""What all envoys of one model share."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakSet, WeakValueDictionary

import torch

from ..run import ModuleIndex
from ..run.evidence import Evidence, Layouts
from ..run.scan import Scan
from .kinds import Kinds
from .names import Names

if TYPE_CHECKING:
    from .envoy import Envoy


class Scanned(NamedTuple):
    """What a scan found that a module takes and returns: specs of tensors, or why that is unknown."""

    inputs: Any
    output: Any


class Tree:
    """What all envoys of one model share: its modules by path, replaced as a whole when the model is."""

    __slots__ = ("declared", "envoys", "evidence", "index", "kinds", "layouts", "loaded", "names", "scan", "shown", "views")

    def __init__(self, root: torch.nn.Module, kinds: Kinds | None = None) -> None:
        self.index = ModuleIndex(root)
        self.kinds = kinds  # which class mirrors which module, where that is not Envoy
        self.names = Names()
        self.shown: dict[str, type[Envoy]] = {}  # of modules that are shown in another way, by canonical path
        self.scan: Scan | None = None  # the last one
        self.loaded = True  # whether the weights are there
        self.evidence: dict[Hashable, Evidence] = {}  # of rows, for calls of one structure
        self.layouts: dict[Hashable, Layouts] = {}  # the same, with what was declared
        self.declared: dict[str, Any] = {}  # which dimension holds rows, by canonical path
        self.envoys: WeakValueDictionary[str, Envoy] = WeakValueDictionary()  # parents hold their children: no cycle
        self.views: WeakSet[Envoy] = WeakSet()  # the model with edits

    def kind_of(self, path: str, module: torch.nn.Module) -> type[Envoy] | None:
        """Which class mirrors a module, where that is not Envoy."""
        own = None if self.kinds is None else self.kinds.of(path, module)
        shown = self.shown.get(self.index.canonical(module, path)) if self.shown else None
        return own if shown is None else shown if own is None else type(own.__name__, (shown, own), {})

    def names_of(self, path: str) -> list[str]:
        """All paths of a parameter, or a buffer: tied ones have several."""
        owner, _, name = path.rpartition(".")
        module = self.index.root.get_submodule(owner)
        tensor = module._parameters.get(name, module._buffers.get(name))
        found = [
            f"{other}.{one}" if other else one
            for other, each in self.index.modules.items()
            for one, value in (*each._parameters.items(), *each._buffers.items())
            if value is tensor
        ]
        return [path, *(one for one in found if one != path)]

    def replace(self, root: torch.nn.Module) -> None:
        """Let the envoys mirror another module of the same shape (real weights in place of none)."""
        self.index = ModuleIndex(root)
        self.evidence, self.layouts = {}, {}
        for path, envoy in [*self.envoys.items(), *(("", view) for view in self.views)]:
            try:
                object.__setattr__(envoy, "_module", root.get_submodule(path))
            except AttributeError:  # the model has no such module any more
                self.envoys.pop(path, None)
            for name in [name for name, value in envoy.__dict__.items() if name == "_items" or getattr(value, "_tree", None) is self]:
                del envoy.__dict__[name]
