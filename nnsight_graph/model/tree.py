"""What all envoys of one model share."""

from __future__ import annotations

import threading
from collections.abc import Hashable
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakSet, WeakValueDictionary

import torch

from ..errors import ours
from ..run import ModuleIndex
from ..run.evidence import Evidence, Layouts
from ..run.scan import Scan
from .kinds import Kinds
from .names import Names

if TYPE_CHECKING:
    from .envoy import Envoy


_lock = threading.Lock()


class Scanned(NamedTuple):
    """What a scan found that a module takes and returns: specs of tensors, or why that is unknown."""

    inputs: Any
    output: Any


class Tree:
    """What all envoys of one model share: its modules by path, replaced as a whole when the model is."""

    __slots__ = (
        "_root", "_spellings", "assigned", "declared", "envoys", "evidence", "index", "kinds", "layouts", "loaded", "names", "scan",
        "shown", "takes", "views",
    )  # fmt: skip

    def __init__(self, root: torch.nn.Module, kinds: Kinds | None = None) -> None:
        self._root: torch.nn.Module | None = None
        self._spellings: dict[str, list[str]] | None = None
        self.index = ModuleIndex(root)
        self.kinds = kinds  # which class mirrors which module, where that is not Envoy
        self.names = Names()
        self.shown: dict[str, type[Envoy]] = {}  # of modules that are shown in another way, by canonical path
        self.scan: Scan | None = None  # the last one
        self.takes: dict[str, Any] = {}  # what its methods take by name: model/arguments.py
        self.loaded = True  # whether the weights are there
        self.assigned: dict[tuple[str, str], None] = {}  # attributes set before: paths of modules, and names
        self.evidence: dict[Hashable, Evidence] = {}  # of rows, for calls of one structure
        self.layouts: dict[Hashable, Layouts] = {}  # the same, with what was declared
        self.declared: dict[str, Any] = {}  # which dimension holds rows, by canonical path
        self.envoys: WeakValueDictionary[str, Envoy] = WeakValueDictionary()  # parents hold their children: no cycle
        self.views: WeakSet[Envoy] = WeakSet()  # further envoys: the model with edits, copies

    def __reduce_ex__(self, _protocol: Any) -> Any:
        return _empty, (), (self.index.root, self.kinds, self.names, self.shown, self.loaded, self.declared, self.assigned)

    def __setstate__(self, state: Any) -> None:
        self._root, self.kinds, self.names, self.shown, self.loaded, self.declared, self.assigned = state

    def __getattr__(self, name: str) -> Any:
        if name != "index":
            raise ours(AttributeError, name)
        with _lock:
            if self._root is not None:  # of a copy, only now: before, the copy of its model may have been unfinished
                self.index = ModuleIndex(self._root)
                self._root = None
        return self.index

    def kind_of(self, path: str, module: torch.nn.Module) -> type[Envoy] | None:
        """Which class mirrors a module, where that is not Envoy."""
        own = None if self.kinds is None else self.kinds.of(path, module, self.spellings.get(path, ()))
        shown = self.shown.get(self.index.canonical(module, path)) if self.shown else None
        return own if shown is None else shown if own is None else both(shown, own)

    @property
    def spellings(self) -> dict[str, list[str]]:
        """Further spellings of paths, by path."""
        if self._spellings is None:
            self._spellings = self.names.others(self.index.root)
        return self._spellings

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
        self.index, self._spellings = ModuleIndex(root), None
        self.evidence, self.layouts = {}, {}
        for path, envoy in [*self.envoys.items(), *((view._path, view) for view in self.views)]:
            try:
                object.__setattr__(envoy, "_module", root.get_submodule(path))
            except AttributeError:  # the model has no such module any more
                self.envoys.pop(path, None)
            for name in children_at_hand(envoy):
                del envoy.__dict__[name]


def _empty() -> Tree:
    made = object.__new__(Tree)
    made.envoys, made.views, made.scan = WeakValueDictionary(), WeakSet(), None
    made.takes, made.evidence, made.layouts, made._spellings = {}, {}, {}, None
    return made


def both(shown: type[Envoy], own: type[Envoy]) -> type[Envoy]:
    """The class of modules that are shown in another way, and have a class of their own."""
    return type(own.__name__, (shown, own), {"_of_both": True})


def children_at_hand(envoy: Envoy) -> list[str]:
    """The names in an envoy's dictionary that only save looking a child up once more."""
    own, tree, path = envoy.__dict__, envoy._tree, envoy._path
    found = ["_items"] if "_items" in own else []
    for name, value in own.items():
        if getattr(value, "_tree", None) is tree and getattr(value, "_path", None) in _meant(tree, path, name):
            found.append(name)
    return found


def _meant(tree: Tree, path: str, name: str) -> tuple[str | None, ...]:
    """The paths that a name of a child may stand for."""
    below = f"{path}." if path else ""
    return f"{below}{name}", f"{below}{name.removeprefix('E_')}", tree.names.real(path, name)
