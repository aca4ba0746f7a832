"""Activations by module path: what a cache is read as."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..errors import RecordError, ours
from ..ops.evaluate import first_argument
from .envoy import Envoy
from .stored import Source, Stored, read_index

POINTS = ("output", "inputs")


@dataclass
class Entry:
    """One pass of a module.

    Attributes:
        output: What it returned; ``None`` if the cache keeps no outputs.
        inputs: Its arguments, ``((positional, ...), {name: value})``; ``None`` if the cache keeps no inputs.
    """

    output: Any = None
    inputs: tuple[tuple[Any, ...], dict[str, Any]] | None = None

    @property
    def input(self) -> Any:
        """Its first argument; ``None`` if the cache keeps no inputs."""
        return None if self.inputs is None else first_argument(self.inputs)


class Entries(list[Any]):
    """The passes of a module in their order; ``output``, ``inputs`` and ``input`` are lists with one item per pass."""

    @property
    def output(self) -> list[Any]:
        """What each pass returned."""
        return [entry.output for entry in self]

    @property
    def inputs(self) -> list[Any]:
        """The arguments of each pass."""
        return [entry.inputs for entry in self]

    @property
    def input(self) -> list[Any]:
        """The first argument of each pass."""
        return [entry.input for entry in self]


class CacheDict(dict[str, Any]):
    """Activations by module path: ``cache["model.transformer.h.0"].output``, or ``cache.model.transformer.h[0].output``.

    A module that ran once has an :class:`Entry`; one that ran several times, and every one in a generation, a list of
    entries, whose ``output``, ``inputs`` and ``input`` are lists, one item per pass. Modules that did not run are not there.

    Args:
        data: Entries by path.
        path: The path that this view stands at.
        alias: Further names: what to call it, and the path, or the last name of a path, that it stands for.
        rename: Other names, the other way round: the path, or the last name, and what it is called instead.
        alias_paths: Whole paths that stand for a key.

    Example:
        >>> import torch, nnsight_graph as nnsight
        >>> model = nnsight.NNsight(torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU()))
        >>> with model.trace(torch.ones(1, 2)) as tracer:
        ...     cache = tracer.cache(include_inputs=True)
        >>> list(cache)
        ['model', 'model.0', 'model.1']
        >>> cache.model[0].output.shape, cache["model.1"].input.shape
        (torch.Size([1, 3]), torch.Size([1, 3]))
    """

    def __init__(
        self,
        data: Mapping[str, Any] | None = None,
        path: str = "",
        alias: Mapping[str, str] | None = None,
        rename: Mapping[str, str] | None = None,
        alias_paths: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(data or {})
        self._path = path
        self._alias, self._rename = dict(alias or {}), dict(rename or {})
        self._alias_paths = dict(alias_paths or {})
        self._waiting = ""
        self._source: Source | None = None

    # ------------------------------------------------------------------ by path

    def __getitem__(self, key: Any) -> Any:
        self._refuse_early()
        if isinstance(key, int):
            return self._item(key)
        path = key.path if isinstance(key, Envoy) else key
        for name in (path, f"model.{path}", f"{self._path}.{path}"):
            if (found := self._find(name)) in self:
                return super().__getitem__(found)
        near = difflib.get_close_matches(str(path), list(self), 3)
        hint = f"Near: {', '.join(near)}." if near else f"It has {len(self)} modules."
        raise ours(KeyError, f"{path!r} is not in the cache: it was not asked for, or did not run. {hint}")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise ours(AttributeError, name)
        self._refuse_early()
        below, inner = self._below(name), self._below("model") if name != "model" else None
        if below is None and inner is not None:
            below = inner._below(name)  # a path may leave the root out
        if below is None:
            names = sorted({key[len(self._path) :].lstrip(".").split(".")[0] for key in self if key != self._path})
            raise ours(
                AttributeError, f"{self._path or 'the cache'} has no {name!r} that ran. It has {', '.join(names) or 'nothing below it'}."
            )
        return below

    @property
    def output(self) -> Any:
        """What the module at this path returned; a list if it ran several times."""
        return self[self._path].output

    @property
    def inputs(self) -> Any:
        """The arguments of the module at this path."""
        return self[self._path].inputs

    @property
    def input(self) -> Any:
        """The first argument of the module at this path."""
        return self[self._path].input

    def _item(self, index: int) -> CacheDict:
        start = f"{self._path}."
        names = {key[len(start) :].split(".")[0] for key in (*self, *self._alias_paths) if key.startswith(start)}
        numbers = sorted(int(name) for name in names if name.isdigit())
        chosen = index if index >= 0 else (numbers[index] if -index <= len(numbers) else -1)
        below = self._below(str(chosen))
        if below is None:
            raise ours(IndexError, f"{self._path or 'the cache'} has no [{index}] that ran; it has {numbers}")
        return below

    def _below(self, name: str) -> CacheDict | None:
        path = f"{self._path}.{name}" if self._path else name
        stands = [key for key in (*self, *self._alias_paths) if key == path or key.startswith(f"{path}.")]
        if not stands:
            return None
        real = {self._alias_paths.get(key, key) for key in stands}
        data = {key: entry for key, entry in self.items() if key in real}
        aliases = {key: value for key, value in self._alias_paths.items() if value in real}
        return CacheDict(data, path, self._alias, self._rename, aliases)

    def _find(self, path: str) -> str:
        return self._alias_paths.get(path, path)

    # ------------------------------------------------------------------ as a whole

    def save(self) -> CacheDict:
        """A cache outlives its trace in any case: returns it."""
        return self

    @classmethod
    def load(cls, folder: str | Path) -> CacheDict:
        """A cache that was written to ``folder`` (``tracer.cache(to=folder)``): tensors are read when they are asked for.

        Raises:
            FileNotFoundError: there is none.
            GraphFormatError: the run that wrote it failed, or it is not what it should be.
        """
        folder = Path(os.path.abspath(folder))
        index = read_index(folder)
        made = cls(alias=index.alias, rename=index.rename, alias_paths=index.names)
        made._source = Source(folder, index)
        for key, passes in index.modules.items():
            for one in passes:
                made._add(key, Stored(folder, index.generation, one), index.lists)
        return made

    def _add(self, key: str, entry: Any, lists: bool) -> None:
        """One more pass of a module."""
        known = dict.get(self, key)
        if isinstance(known, Entries):
            known.append(entry)
        elif known is None:
            self[key] = Entries([entry]) if lists else entry
        else:
            self[key] = Entries([known, entry])

    def __repr__(self) -> str:
        if self._waiting:
            return f"CacheDict({self._waiting})"
        rows = [f"{key}: {_description(entry)}" for key, entry in list(self.items())[:12]]
        rows += [f"... {len(self) - 12} more"] if len(self) > 12 else []
        return "\n".join([f"CacheDict of {len(self)} modules", *(f"  {row}" for row in rows)])

    def _refuse_early(self) -> None:
        if self._waiting:
            raise RecordError(f"a cache {self._waiting}; to use an activation in the trace, read it at its module: model.h[0].output")


def _description(entry: Any) -> str:
    if isinstance(entry, list):
        return f"{len(entry)} passes, {_description(entry[0])}" if entry else "no pass"
    if isinstance(entry, Stored):
        return "on disk"
    shown = [f"{point} {_shape(value)}" for point in POINTS if (value := getattr(entry, point)) is not None]
    return ", ".join(shown)


def _shape(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
    if isinstance(value, (tuple, list)):
        return f"({', '.join(map(_shape, value))})"
    return type(value).__name__
