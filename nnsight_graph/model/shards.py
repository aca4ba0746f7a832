"""Activations into a folder: safetensors shards that are written as values come.

A folder has one writer at a time, and says that it is incomplete from the start of a run until that has ended well.
"""

from __future__ import annotations

import contextlib
import math
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import torch

from ..disk import CLAIM, Claim, is_partial, replacing
from ..errors import GraphFormatError, RecordError
from ..serialize.tensors import write_tensors
from .stored import DEPTH, FORMAT, INDEX, Index, Packed, Pass, Source, Stored, is_shard, read_head, shard_path

SHARD_BYTES = 256 * 2**20
"""How much is held in memory before a shard is written."""


def new_source(folder: str | Path) -> Source:
    """A folder that a cache is to be written to.

    Args:
        folder: An empty folder, one that is not there yet, or one in which a run failed.

    Raises:
        RecordError: the folder holds something else.
    """
    path = Path(os.path.abspath(folder))
    _refuse_content(path)
    return Source(path, Index(format=FORMAT, generation=secrets.token_hex(8), complete=False, lists=False, names={}, modules={}))


class Writer:
    """Writes what passes in a run into a folder, which is claimed from :meth:`begin` to :meth:`end`.

    Args:
        source: The folder, and what is known of it.
        appends: Whether it belongs to a cache that is there. Then a run that fails leaves it as it was; else it says that it is incomplete.
        paired: Whether inputs and outputs are kept.
    """

    def __init__(self, source: Source, appends: bool = False, paired: bool = False) -> None:
        self.source, self.appends, self.paired = source, appends, paired
        self.keys: dict[str, list[Pass]] = {}
        self._open: dict[str, list[Pass]] = {}
        self._pending: dict[str, torch.Tensor] = {}
        self._bytes = self._shards = self._count = 0
        self._claim: Claim | None = None

    def begin(self) -> None:
        """Claim the folder.

        Raises:
            RecordError: another writer has claimed it, it holds something else, or others have written there since.
        """
        folder, index = self.source.folder, self.source.index
        if not self.appends and not index.revision:
            folder.mkdir(parents=True, exist_ok=True)
        try:
            claim = Claim(folder)
        except BlockingIOError as error:
            raise RecordError(f"{error.strerror}: a folder has one writer. Give each cache a folder of its own") from None
        except FileNotFoundError:
            raise RecordError(f"{folder} is not there any more") from None
        try:
            index = self.source.index  # of now: another trace may have appended until the folder was claimed
            if self.appends or index.revision:
                self._refuse_changes(index)
            else:
                _refuse_content(folder)
            _sweep(folder, index)
            self._shards = index.shards
            if not self.appends:
                _write(folder, msgspec.structs.replace(index, complete=False))
        except BaseException:
            claim.release()
            raise
        self._claim = claim

    def take(self, path: str, point: str, value: Any) -> None:
        """Write what passed at ``point`` of a module; inputs come before their output."""
        key = f"model.{path}" if path else "model"
        packed = self._packed(value)
        opened = self._open.get(key)
        if point == "output" and opened:
            opened.pop().output = packed
            return
        entry = Pass(output=packed) if point == "output" else Pass(inputs=packed)
        if point == "inputs" and self.paired:
            self._open.setdefault(key, []).append(entry)
        self.keys.setdefault(key, []).append(entry)

    def end(self, passes: Mapping[str, list[Pass]], names: Mapping[str, str], complete: bool, **given: Any) -> list[tuple[str, Stored]]:
        """Write what is left, and the index, and let the folder go.

        Args:
            passes: What was taken, by the names that modules have in the cache.
            names: Other names of modules.
            complete: Whether the run went well.
            **given: What the index says of the cache.

        Returns:
            What has come, by module.
        """
        folder, old = self.source.folder, self.source.index
        try:
            with contextlib.nullcontext() if complete else contextlib.suppress(Exception):  # a run that failed has an error already
                if self.appends and not complete:
                    _sweep(folder, old)
                    return []
                self._flush()
                modules = {**old.modules, **{key: [*old.modules.get(key, ()), *taken] for key, taken in passes.items()}}
                given["lists"] |= old.lists
                index = msgspec.structs.replace(
                    old, revision=old.revision + complete, complete=complete, shards=self._shards, modules=modules,
                    names={**old.names, **names}, **given,
                )  # fmt: skip
                _write(folder, index)
                self.source.index = index
            return [(key, Stored(folder, old.generation, entry)) for key, taken in passes.items() for entry in taken]
        finally:
            self.keys, self._open, self._pending, self._bytes = {}, {}, {}, 0
            self.release()

    def release(self) -> None:
        """Let the folder go."""
        if self._claim is not None:
            self._claim.release()
            self._claim = None

    def _refuse_changes(self, index: Index) -> None:
        folder = self.source.folder
        if index.format != FORMAT:
            raise RecordError(f"{folder} was written by an older version, which did not append: give another folder")
        if not index.revision or not index.complete:
            raise RecordError(f"{folder} is incomplete: the run that wrote it failed. To begin anew, give the folder: to={str(folder)!r}")
        try:
            found = read_head(folder)
        except (GraphFormatError, OSError) as error:
            raise RecordError(f"nothing can be appended: {error}") from None
        if (found.generation, found.revision, found.complete) != (index.generation, index.revision, True):
            raise RecordError(f"others wrote to {folder} since this cache was read: CacheDict.load({str(folder)!r}) reads it again")

    def _packed(self, value: Any, depth: int = 0) -> Packed:
        if isinstance(value, torch.Tensor):
            return self._tensor(value)
        if depth < DEPTH:
            if isinstance(value, Mapping):
                return Packed(named=[(self._key(name, depth + 1), self._packed(item, depth + 1)) for name, item in value.items()])
            if isinstance(value, (tuple, list)):
                items = [self._packed(item, depth + 1) for item in value]
                return Packed(listed=items) if isinstance(value, list) else Packed(tupled=items)
        return _plain(value)

    def _key(self, value: Any, depth: int) -> Packed:
        """A key of a dict, which will be one again."""
        if isinstance(value, tuple) and depth < DEPTH:
            return Packed(tupled=[self._key(item, depth + 1) for item in value])
        return self._tensor(value) if isinstance(value, torch.Tensor) else _plain(value)

    def _tensor(self, value: torch.Tensor) -> Packed:
        name, self._count = str(self._count), self._count + 1
        kept = value.detach().cpu()
        pairs = kept.dtype is torch.complex128  # the file format has no such type
        reference = Packed(tensor=name, shard=self._shards, complex=pairs)
        self._pending[name] = torch.view_as_real(kept.resolve_conj()) if pairs else kept
        self._bytes += value.numel() * value.element_size()
        if self._bytes >= SHARD_BYTES:
            self._flush()
        return reference

    def _flush(self) -> None:
        if not self._pending:
            return
        path = shard_path(self.source.folder, self.source.index.generation, self._shards)
        try:
            with open(path, "xb") as file:
                write_tensors(file, self._pending)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        self._pending, self._bytes = {}, 0
        self._shards += 1


def _plain(value: Any) -> Packed:
    """A value that is no container, as what it is at bottom: subclasses of numbers and strings are no JSON."""
    if value is None or isinstance(value, bool):
        return Packed(plain=value)
    if isinstance(value, int):
        return Packed(plain=int(value))
    if isinstance(value, float):
        plain = float(value)
        return Packed(plain=plain) if math.isfinite(plain) else Packed(number=str(plain))  # type: ignore[arg-type]
    if isinstance(value, str) and _is_unicode(text := str.__str__(value)):
        return Packed(plain=text)
    return Packed(object=f"{type(value).__module__}.{type(value).__qualname__}")


def _is_unicode(text: str) -> bool:
    """Whether it can be written: halves of surrogate pairs cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _refuse_content(folder: Path) -> None:
    """A folder may hold nothing, or what a run left that failed.

    Raises:
        RecordError: it holds something else.
    """
    if not folder.exists():
        return
    refused = f"{folder} is not an empty folder: a cache does not overwrite what is there"
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else {""}
    if INDEX not in names:
        if any(name != CLAIM and not is_partial(name) for name in names):
            raise RecordError(refused)
        return
    try:
        complete = read_head(folder).complete
    except (GraphFormatError, OSError):
        raise RecordError(refused) from None
    if complete:
        raise RecordError(f"{refused}. To append to that cache, give the cache itself: tracer.cache(to=cache)")
    if any(name not in (INDEX, CLAIM) and not is_partial(name) and not is_shard(name) for name in names):
        raise RecordError(refused)


def _sweep(folder: Path, index: Index) -> None:
    """Delete what no index names: shards of runs that failed, and files that a process left that was ended."""
    for path in folder.iterdir():
        number = path.stem.rpartition("-")[2]
        live = path == shard_path(folder, index.generation, int(number)) and int(number) < index.shards if is_shard(path.name) else True
        if is_partial(path.name) or not live:
            path.unlink(missing_ok=True)


def _write(folder: Path, index: Index) -> None:
    with replacing(folder / INDEX) as beside:
        beside.write_bytes(msgspec.json.encode(index))
