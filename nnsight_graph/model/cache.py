"""What ``tracer.cache()`` gives: activations of all modules, or of many, by path."""

from __future__ import annotations

import contextlib
import difflib
import fnmatch
import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from ..compile.plan import CacheSpec
from ..errors import RecordError, WrongTypeError, ours
from ..ops.nested import map_tensors
from ..ops.passing import as_tuple
from ..record import Recorder
from ..run import ModuleIndex, Run
from ..run.capture import Capture, keeper
from ..source_location import Place, locate, user_place
from .entries import POINTS, CacheDict, Entries, Entry
from .envoy import Envoy
from .shards import Writer, new_source
from .tree import Tree


class Cache:
    """Collects what modules take and return, and moves or converts it as it comes.

    Args:
        modules: Envoys, paths (``"model.transformer.h.0"``) or patterns (``"*.mlp"``); all modules by default.
        device: Where tensors are moved; ``None`` leaves them where they are.
        dtype: What floating-point tensors are converted to.
        detach: Whether tensors leave the autograd graph.
        include_output: Whether outputs are kept.
        include_inputs: Whether arguments are kept.
        rename: Names to be used in place of a module's path, or of the last name of one: ``{"transformer.h": "layers"}``.
        alias: Names to be used beside it: ``{"layers": "transformer.h"}``.

    Attributes:
        cache: The :class:`CacheDict` that it fills.

    Example:
        >>> import torch
        >>> from nnsight_graph import Cache
        >>> collected = Cache(dtype=torch.float16)
        >>> collected.add("model.fc.output", torch.ones(2))
        >>> collected.cache.model.fc.output
        tensor([1., 1.], dtype=torch.float16)
    """

    def __init__(
        self,
        modules: Iterable[Envoy | str] | None = None,
        device: torch.device | str | None = "cpu",
        dtype: torch.dtype | None = None,
        detach: bool | None = True,
        include_output: bool = True,
        include_inputs: bool = False,
        rename: Mapping[str, str] | None = None,
        alias: Mapping[str, str] | None = None,
    ) -> None:
        if not (include_output or include_inputs):
            raise RecordError("a cache without outputs and without inputs keeps nothing: set include_output or include_inputs")
        if dtype is not None and not isinstance(dtype, torch.dtype):
            raise WrongTypeError(f"dtype is a torch.dtype, such as torch.float16, not {dtype!r}")
        self.modules = (modules,) if isinstance(modules, (str, Envoy)) else None if modules is None else tuple(modules)
        self.device = None if device is None else torch.device(device)
        self.dtype, self.detach = dtype, bool(detach)
        self.include_output, self.include_inputs = include_output, include_inputs
        self.rename, self.alias = dict(rename or {}), dict(alias or {})
        self.cache = CacheDict(alias=self.alias, rename=self.rename)
        self.copy = False
        self.lists = False
        self.writer: Writer | None = None
        self._open: dict[str, list[Entry]] = {}

    @property
    def points(self) -> str:
        """What is kept, in words."""
        return " and ".join((["inputs"] if self.include_inputs else []) + (["output"] if self.include_output else []))

    def entry(self, paths: tuple[str, ...] | None) -> tuple[Any, ...]:
        """The cache as an entry of a recording."""
        how = {"detach": self.detach, "copy": self.copy, "device": self.device, "dtype": self.dtype}
        named = tuple(part for name, value in how.items() for part in (name, str(value)))
        return ("cache", self.points, "None" if paths is None else ("list", *paths), ("**", *named))

    def add(self, provider: str, value: Any) -> None:
        """Keep a value, moved and converted.

        Args:
            provider: Where it comes from: a module's path with ``.output`` or ``.inputs`` at its end.
            value: What passed there.

        Raises:
            ValueError: the path does not end so.
        """
        path, _, point = provider.rpartition(".")
        if point not in POINTS or not path:
            raise ours(ValueError, f"{provider!r}: a path ends with .output or .inputs")
        how = CacheSpec(0, self.points, self.detach, self.copy, str(self.device), str(self.dtype), None, -1)
        path, kept = path.removeprefix("model").removeprefix("."), map_tensors(value, keeper(how))
        full = f"model.{path}" if path else "model"
        key = self.name(full)
        other = _substituted(full, {old: new for new, old in self.alias.items()})
        if other != key:
            self.cache._alias_paths[other] = key
        known = dict.get(self.cache, key)
        last = known[-1] if isinstance(known, Entries) else known
        if point == "inputs" and last is not None and last.inputs is None:  # here the output may come first
            last.inputs = kept
        else:
            self.keep(path, point, kept)

    def keep(self, path: str, point: str, value: Any) -> None:
        """Put a value that has been moved and converted where it belongs."""
        key = self.name(f"model.{path}" if path else "model")
        opened = self._open.get(key)
        if point == "output" and opened:
            opened.pop().output = value
            return
        entry = Entry(value) if point == "output" else Entry(inputs=value)
        if point == "inputs" and self.include_output:
            self._open.setdefault(key, []).append(entry)
        self.cache._add(key, entry, self.lists)

    def fill(self, found: Iterable[Any], tree: Tree, complete: bool = True) -> None:
        """Take over what a run has found; the cache can be read from now on.

        Args:
            found: What was kept.
            tree: The model's envoys.
            complete: Whether the run went well.
        """
        for path, point, value, _ in found:
            self.keep(path, point, as_tuple(value) if path in tree.shown and point == "output" else value)
        names = self.names(tree)
        if self.writer is not None:
            self._fill_from_folder(self.writer, names, complete)
        self.cache._waiting = ""
        self.cache._alias_paths.update({name: key for name, key in names.items() if key in self.cache})
        self._open = {}

    def _fill_from_folder(self, writer: Writer, names: Mapping[str, str], complete: bool) -> None:
        passes: dict[str, list[Any]] = {}
        for key, taken in writer.keys.items():
            passes.setdefault(self.name(key), []).extend(taken)
        written = writer.end(passes, names, complete, lists=self.lists, rename=self.rename, alias=self.alias)
        lists = writer.source.index.lists
        if lists:  # perhaps only from this run on
            for key, entry in self.cache.items():
                if not isinstance(entry, Entries):
                    self.cache[key] = Entries([entry])
        for key, entry in written:
            self.cache._add(key, entry, lists)

    # ------------------------------------------------------------------ names

    def name(self, path: str) -> str:
        """What a module is called in the cache."""
        return _substituted(path, self.rename)

    def names(self, tree: Tree) -> dict[str, str]:
        """Other names of modules, and what they are called in the cache."""
        found: dict[str, str] = {}
        index = tree.index
        for plain, module in index.root.named_modules(remove_duplicate=False):
            path = f"model.{plain}" if plain else "model"
            canonical = index.canonical(module, plain)
            key = self.name(f"model.{canonical}" if canonical else "model")
            for other in (path, _substituted(path, {old: new for new, old in self.alias.items()})):
                if other != key:
                    found[other] = key
        for other, plain in tree.names.spellings(index.root).items():
            canonical = index.canonical(index.root.get_submodule(plain), plain)
            found.setdefault(f"model.{other}", self.name(f"model.{canonical}"))
        return found


class Caches:
    """The caches of one trace."""

    def __init__(self, recorder: Recorder, tree: Tree) -> None:
        self._recorder = recorder
        self._tree = tree
        self._known: dict[tuple[Any, ...], Cache] = {}
        self._nodes: dict[int, Cache] = {}
        self._lines: dict[int, Place] = {}

    def add(self, cache: Cache, folder: str | Path | CacheDict | None, frame: FrameType) -> CacheDict:
        """The dictionary of ``cache``, or of one that was asked for with the same words in this place."""
        recorder = self._recorder
        entry = cache.entry(paths_of(cache.modules, self._tree))
        here = (recorder.invoking, entry, _word(folder), str(cache.rename), str(cache.alias))
        known = self._known.get(here)
        if known is None and entry == Cache().entry(None) and here[2:] == ("None", "{}", "{}"):
            known = next((other for words, other in self._known.items() if words[0] == recorder.invoking), None)
        if known is not None:
            return known.cache
        if folder is not None:
            self._write_to(folder, cache)
        if not isinstance(folder, CacheDict):  # what one holds that is there can be read
            cache.cache._waiting = "is filled when its trace has run"
        node = recorder.put(entry, frame)
        self._nodes[node], self._lines[node] = cache, user_place(frame)
        self._known[here] = cache
        return cache.cache

    def _write_to(self, folder: str | Path | CacheDict, cache: Cache) -> None:
        if isinstance(folder, CacheDict):
            source = folder._source
            if source is None:
                raise RecordError("this cache lies in no folder: to= takes a folder, or a whole cache that was written to one")
            cache.rename, cache.alias = cache.rename or folder._rename, cache.alias or folder._alias
            cache.cache = folder
        else:
            source = new_source(folder)
            cache.cache._source = source
        cache.writer = Writer(source, isinstance(folder, CacheDict), cache.include_inputs and cache.include_output)
        there = os.path.realpath(source.folder)
        if any(other.writer is not None and os.path.realpath(other.writer.source.folder) == there for other in self._known.values()):
            raise RecordError(f"{source.folder} is written by another cache of this trace: give each a folder of its own")

    def within(self, numbers: Sequence[int]) -> Caches:
        """The same caches for a program in which nodes have other numbers: those at the places of ``numbers``."""
        made = Caches(self._recorder, self._tree)
        made._nodes = {place: self._nodes[number] for place, number in enumerate(numbers) if number in self._nodes}
        made._lines = {place: self._lines[number] for place, number in enumerate(numbers) if number in self._lines}
        return made

    def captures(self, run: Run, modules: ModuleIndex) -> tuple[Capture, ...]:
        """What keeps their values in a run; to be filled when it is over.

        Raises:
            RecordError: a folder cannot be written to; it has a ``node``.
        """
        writers = {spec.node: self._nodes[spec.node].writer for spec in run.plan.caches}
        _begin({node: writer for node, writer in writers.items() if writer is not None})
        return tuple(
            Capture(spec, run, modules, self._sink(writer) if (writer := writers[spec.node]) is not None else None)
            for spec in run.plan.caches
        )

    def _sink(self, writer: Writer) -> Callable[[str, str, Any], None]:
        shown = self._tree.shown
        if not shown:
            return writer.take

        def take(path: str, point: str, value: Any) -> None:
            writer.take(path, point, as_tuple(value) if path in shown and point == "output" else value)

        return take

    def fill(self, captures: Sequence[Capture], complete: bool) -> None:
        """The run is over: the caches can be read."""
        with contextlib.ExitStack() as all_of_them:  # each, even if another one cannot be written
            for capture in captures:
                all_of_them.callback(self._nodes[capture.spec.node].fill, capture.found, self._tree, complete)
        for capture in captures if complete else ():
            self._tell_of_silence(capture)

    def _tell_of_silence(self, capture: Capture) -> None:
        """Warn of what a cache was asked for by name, or by a pattern, and of which nothing has run."""
        node = capture.spec.node
        lost = [_asked(one) for one in self._nodes[node].modules or () if capture.ran.isdisjoint(paths_of((one,), self._tree) or ())]
        if lost:
            at = locate(self._lines[node])
            text = f"{', '.join(lost)}: asked for, and not in the cache, because it did not run in this forward"
            warnings.warn_explicit(text, UserWarning, at.named.file, at.line)


def _asked(module: Envoy | str) -> str:
    return module.path if isinstance(module, Envoy) else module


def _begin(writers: Mapping[int, Writer]) -> None:
    begun: list[Writer] = []
    try:
        for node, writer in writers.items():
            begun.append(writer)
            try:
                writer.begin()
            except RecordError as error:
                error.node = node  # type: ignore[attr-defined]
                raise
    except BaseException:
        for writer in begun:
            writer.release()
        raise


def _word(folder: str | Path | CacheDict | None) -> str:
    return f"the cache {id(folder)}" if isinstance(folder, CacheDict) else str(folder)


def _substituted(path: str, names: Mapping[str, str]) -> str:
    """A path in which whole paths, or single names, are replaced.

    >>> _substituted("model.transformer.h.0.mlp", {"transformer.h": "layers", "mlp": "feed_forward"})
    'model.layers.0.feed_forward'
    """
    for old, new in names.items():
        plain = old.removeprefix("model.")
        if "." in plain:
            start = f"model.{plain}"
            path = f"model.{new}{path[len(start) :]}" if path == start or path.startswith(f"{start}.") else path
        else:
            path = ".".join(new if part == plain and place else part for place, part in enumerate(path.split(".")))
    return path


def paths_of(modules: tuple[Envoy | str, ...] | None, tree: Tree) -> tuple[str, ...] | None:
    """The canonical paths of the modules that a cache names.

    Raises:
        RecordError: there is no such module, or it belongs to another model.
    """
    if modules is None:
        return None
    known = {path: tree.index.canonical(module, path) for path, module in tree.index.root.named_modules(remove_duplicate=False)}
    known.update((other, known[path]) for other, path in tree.names.spellings(tree.index.root).items())
    found: dict[str, None] = {}
    for module in modules:
        if isinstance(module, Envoy):
            if module._tree is not tree:
                raise RecordError(f"{module.path} belongs to another model than the one that is traced")
            found[module._output.path] = None
            continue
        if not isinstance(module, str):
            raise WrongTypeError(f"a module of a cache is an envoy or a path, not {type(module).__name__}")
        plain = "" if module == "model" else module if module in known else module.removeprefix("model.")
        matches = [plain] if plain in known else [path for path in known if fnmatch.fnmatchcase(path, plain)]
        if not matches:
            near = difflib.get_close_matches(plain, list(known), 3)
            raise RecordError(f"the model has no module {module!r}." + (f" Near: {', '.join(near)}." if near else ""))
        found.update(dict.fromkeys(known[path] for path in matches))
    return tuple(found)
