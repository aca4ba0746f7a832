"""Activations in files: safetensors shards that are written as values come, and read when they are asked for."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from ..errors import RecordError
from ..ops.evaluate import first_argument

SHARD_BYTES = 256 * 2**20
"""How much is held in memory before a shard is written."""

_INDEX = "index.json"
_FORMAT = "nnsight_graph cache 1"


class NotKept:
    """Stands for an object that is no tensor, container or plain value, and so is not in the files."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"NotKept({self.name})"


class Writer:
    """Writes values into a folder.

    Args:
        folder: An empty folder, or one that is not there yet.

    Raises:
        RecordError: the folder holds something.

    Attributes:
        keys: The modules of which something has come.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if self.folder.exists() and (not self.folder.is_dir() or any(self.folder.iterdir())):
            raise RecordError(f"{self.folder} is not an empty folder: a cache does not overwrite what is there")
        self.keys: dict[str, list[dict[str, Any]]] = {}
        self._open: dict[str, list[dict[str, Any]]] = {}
        self._pending: dict[str, torch.Tensor] = {}
        self._bytes = self._shards = self._count = 0
        self.paired = False

    def take(self, path: str, point: str, value: Any) -> None:
        """Write what passed at ``point`` of a module; inputs come before their output."""
        key = f"model.{path}" if path else "model"
        packed = self._packed(value)
        opened = self._open.get(key)
        if point == "output" and opened:
            opened.pop()["output"] = packed
            return
        entry = {point: packed}
        if point == "inputs" and self.paired:
            self._open.setdefault(key, []).append(entry)
        self.keys.setdefault(key, []).append(entry)

    def close(self, renamed: Mapping[str, str], names: Mapping[str, str], lists: bool) -> Path:
        """Write what is left, and the index; the folder."""
        self._flush()
        self.folder.mkdir(parents=True, exist_ok=True)
        modules = {renamed[key]: passes for key, passes in self.keys.items()}
        index = {"format": _FORMAT, "lists": lists, "names": dict(names), "modules": modules}
        partial = self.folder / f"{_INDEX}.partial"
        partial.write_bytes(msgspec.json.encode(index))
        os.replace(partial, self.folder / _INDEX)
        return self.folder

    def _packed(self, value: Any) -> dict[str, Any]:
        if isinstance(value, torch.Tensor):
            return self._tensor(value)
        if isinstance(value, Mapping):
            return {"dict": [[self._packed(name), self._packed(item)] for name, item in value.items()]}
        if isinstance(value, (tuple, list)):
            return {"list" if isinstance(value, list) else "tuple": [self._packed(item) for item in value]}
        if value is None or isinstance(value, (bool, int, float, str)):
            return {"plain": value}
        return {"object": f"{type(value).__module__}.{type(value).__qualname__}"}

    def _tensor(self, value: torch.Tensor) -> dict[str, Any]:
        name, self._count = str(self._count), self._count + 1
        reference = {"tensor": name, "shard": self._shards}
        self._pending[name] = value.detach().cpu().contiguous()
        self._bytes += value.numel() * value.element_size()
        if self._bytes >= SHARD_BYTES:
            self._flush()
        return reference

    def _flush(self) -> None:
        if not self._pending:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        alone = {name: _alone(value) for name, value in self._pending.items()}
        save_file(alone, _shard(self.folder, self._shards))
        self._pending, self._bytes = {}, 0
        self._shards += 1


def _alone(value: torch.Tensor) -> torch.Tensor:
    """The tensor on storage of its own size, as the file format wants it."""
    whole = value.untyped_storage().nbytes() == value.numel() * value.element_size()
    return value if whole else value.clone()


def _shard(folder: Path, number: int) -> Path:
    return folder / f"activations-{number:05d}.safetensors"


def read_index(folder: Path) -> dict[str, Any]:
    """The index of a folder that a cache was written to.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is not one of this format.
    """
    if not (folder / _INDEX).is_file():
        raise FileNotFoundError(f"{folder} holds no cache: there is no {_INDEX} in it")
    try:
        index = msgspec.json.decode((folder / _INDEX).read_bytes(), type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise ValueError(f"{folder / _INDEX} cannot be read: {error}") from None
    if index.get("format") != _FORMAT:
        raise ValueError(f"{folder / _INDEX} has the format {index.get('format')!r}; this version reads {_FORMAT!r}")
    return index


class Stored:
    """One pass of a module, in files: ``output``, ``inputs`` and ``input`` are read each time they are asked for."""

    def __init__(self, folder: Path, entry: Mapping[str, Any]) -> None:
        self._folder = folder
        self._entry = entry

    @property
    def output(self) -> Any:
        """What the module returned; ``None`` if that was not kept. Model outputs come back as dicts."""
        return self._read("output")

    @property
    def inputs(self) -> Any:
        """Its arguments, ``((positional, ...), {name: value})``; ``None`` if they were not kept."""
        return self._read("inputs")

    @property
    def input(self) -> Any:
        """Its first argument."""
        inputs = self.inputs
        return None if inputs is None else first_argument(inputs)

    def __repr__(self) -> str:
        return f"Stored({', '.join(self._entry)})"

    def _read(self, point: str) -> Any:
        packed = self._entry.get(point)
        return None if packed is None else self._unpacked(packed)

    def _unpacked(self, packed: Mapping[str, Any]) -> Any:
        ((kind, value),) = [(kind, value) for kind, value in packed.items() if kind != "shard"]
        if kind == "tensor":
            with safe_open(_shard(self._folder, packed["shard"]), framework="pt") as shard:
                return shard.get_tensor(value)
        if kind == "dict":
            return {self._unpacked(name): self._unpacked(item) for name, item in value}
        if kind in ("tuple", "list"):
            items = [self._unpacked(item) for item in value]
            return items if kind == "list" else tuple(items)
        return value if kind == "plain" else NotKept(value)
