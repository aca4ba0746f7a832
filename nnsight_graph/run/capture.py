"""Keeps what modules take and return in one run: hooks behind all others of the run, so that they see what the model goes on with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from ..compile.plan import CacheSpec
from ..ops.evaluate import literal
from ..ops.layout import Rows
from ..ops.nested import clone, map_tensors, storages_of, versions_of
from ..ops.rows import rows_of
from ..ops.running import current
from .engine import Run
from .modules import ModuleIndex

_asking = current.get
_DIRECTIONS = {"inputs": "in", "output": "out"}
Sink = Callable[[str, str, Any], None]


def keeper(spec: CacheSpec, overwrites: bool = False) -> Callable[[torch.Tensor], torch.Tensor]:
    """What is done with every tensor that a cache keeps; with ``overwrites`` it never stays the model's own."""
    device = None if spec.device == "None" else torch.device(spec.device)
    dtype = None if spec.dtype == "None" else literal(spec.dtype)
    copies, detach = spec.copies or overwrites, spec.detach

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept = tensor.detach() if detach else tensor
        if device is not None and kept.device != device:
            kept = kept.to(device)
        if dtype is not None and kept.dtype != dtype and kept.is_floating_point():
            kept = kept.to(dtype)
        return kept.clone() if (copies or kept.is_inference()) and kept.data_ptr() == tensor.data_ptr() else kept

    return keep


class Capture:
    """What one cache keeps in one run.

    Attributes:
        spec: What it keeps.
        ran: The paths of modules of which something passed.
        found: ``[path, "inputs" or "output", value, versions]`` in the order in which they passed; the versions of a value that
            lies on the model's own storage.
    """

    def __init__(self, spec: CacheSpec, run: Run, modules: ModuleIndex, sink: Sink | None = None) -> None:
        self.spec = spec
        self.run = run
        self.rows: Rows | None = run.slots[spec.layout] if spec.layout >= 0 else None
        self.keep = keeper(spec, sink is not None or modules.overwrites)
        self.found: list[list[Any]] = []
        self.sink = sink
        self._places: dict[int, list[int]] = {}
        self._passed: dict[tuple[str, str], tuple[int, int]] = {}  # the step, and the call in it
        self.ran: set[str] = set()
        self.known, self.watched = modules.overwriting, False
        self.aliases = sink is None and spec.detach and not spec.copies and not modules.overwrites
        self._copy = keeper(spec, True)
        self._modules = modules.modules
        self._edits = bool(run.plan.edited)

    def take(self, path: str, point: str, value: Any) -> None:
        """Keep what passes."""
        self.ran.add(path)
        if self.rows is not None and not self.rows.whole:
            value = self._mine(path, point, value)
        keep = self._copy if self.known and self.aliases and self.known.get((path, point)) else self.keep
        kept = keep(value) if type(value) is torch.Tensor else map_tensors(value, keep)
        if self.sink is not None:
            self.sink(path, point, kept)
            return
        if self._edits or self.watched:
            for address in storages_of(kept):
                self._places.setdefault(address, []).append(len(self.found))
        self.found.append([path, point, kept, versions_of(kept)])

    def take_last(self, path: str, direction: str, value: Any) -> None:
        """Keep what passes where the forward ends: the hooks of the module do not come to their turn."""
        point = next((point for point, name in _DIRECTIONS.items() if name == direction), "")
        if (path, point) in self.places():
            self.take(path, point, value)

    def _mine(self, path: str, point: str, value: Any) -> Any:
        """The invoke's rows of what passes, as far as it is known where they lie."""
        assert self.rows is not None
        step, call = self._passed.get((path, point), (-1, 0))
        call = call + 1 if step == self.run.step else 0
        self._passed[path, point] = self.run.step, call
        layouts = self.run.layouts
        layout = self.rows.layout if layouts is None else layouts.at(path, _DIRECTIONS[point], int(self.run.step > 0), call)
        return rows_of((value,), self.rows._replace(layout=layout.of((layout.answers,))))[0]

    def places(self) -> set[tuple[str, str]]:
        """What it may keep: paths of modules, each with ``"inputs"`` or ``"output"``."""
        points = self.spec.points.split(" and ")
        return {(path, point) for path in (self._modules if self.spec.paths is None else self.spec.paths) for point in points}

    def passed(self) -> set[tuple[str, str]]:
        """What of it has passed."""
        return {(path, point) for path, point, *_ in self.found}

    def part(self, value: Any) -> list[tuple[str, str]]:
        """Before an edit of ``value``: what was kept and lies on its storage gets storage of its own; where that has passed."""
        parted = []
        for address in storages_of(value):
            for place in self._places.pop(address, ()):
                entry = self.found[place]
                if versions_of(entry[2]) == entry[3]:
                    entry[2] = clone(entry[2])
                    entry[3] = versions_of(entry[2])
                    parted.append((entry[0], entry[1]))
        return parted

    def overwritten(self) -> str | None:
        """Where something was kept that the model has changed in place since."""
        changed = [(path, point) for path, point, value, versions in self.found if versions_of(value) != versions]
        self.known.update(dict.fromkeys(changed, True))
        return f"{changed[0][0]}.{changed[0][1]}" if changed else None


def capture_hooks(capture: Capture, path: str) -> Iterator[tuple[str, Callable[..., Any]]]:
    """The hooks of one module, each with the table that it goes into."""
    run, take = capture.run, capture.take

    def after(_module: torch.nn.Module, _args: Any, output: Any, *_late: Any) -> None:
        if _asking() is run and not run.busy:
            take(path, "output", output)

    def before(_module: torch.nn.Module, args: Any, kwargs: Any = None) -> None:
        if kwargs is not None and _asking() is run and not run.busy:
            take(path, "inputs", (args, kwargs))

    if "inputs" in capture.spec.points:
        yield "_forward_pre_hooks", before
    if "output" in capture.spec.points:
        yield "_forward_hooks", after
