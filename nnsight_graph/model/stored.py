"""A folder of activations, read: its index, which is checked as a file of a stranger, and what the shards hold, when it is asked for."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec
import torch
from msgspec import UNSET, UnsetType

from ..disk import opened
from ..errors import GraphFormatError, ours
from ..ops.evaluate import first_argument
from ..serialize.tensors import Tensors

INDEX = "index.json"
FORMAT = "nnsight_graph cache 2"
DEPTH = 100
"""How deep containers may stand in each other."""

_FORMATS = ("nnsight_graph cache 1", FORMAT)
_INDEX_MAX = 1 << 30
_SHARD = re.compile(r"activations-(?:[0-9a-f]+-)?[0-9]{5,}\.safetensors")

Number = Annotated[int, msgspec.Meta(ge=0, le=1_000_000_000)]
Names = dict[str, str]
Decoded = TypeVar("Decoded")


class NotKept:
    """Stands for an object that is no tensor, container or plain value, and so is not in the files."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"NotKept({self.name})"


class Packed(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """A value in the index; one of the fields says what it is.

    Attributes:
        tensor: The name of a tensor in its shard.
        shard: The number of the shard.
        complex: Whether it is a complex one of twice the usual precision, kept as pairs.
        plain: A number, a string, a truth value or ``None``.
        number: A float that JSON does not have.
        listed, tupled: Items.
        named: Keys and values.
        object: The class of an object that is not kept.
    """

    tensor: str | UnsetType = UNSET
    shard: Number | UnsetType = UNSET
    complex: bool = False
    plain: bool | int | float | str | UnsetType | None = UNSET
    number: Literal["nan", "inf", "-inf"] | UnsetType = UNSET
    listed: list[Packed] | UnsetType = msgspec.field(default=UNSET, name="list")
    tupled: list[Packed] | UnsetType = msgspec.field(default=UNSET, name="tuple")
    named: list[tuple[Packed, Packed]] | UnsetType = msgspec.field(default=UNSET, name="dict")
    object: str | UnsetType = UNSET

    def __post_init__(self) -> None:
        kinds = (self.tensor, self.plain, self.number, self.listed, self.tupled, self.named, self.object)
        if sum(kind is not UNSET for kind in kinds) != 1 or (self.shard is UNSET) is not (self.tensor is UNSET):
            raise ours(ValueError, "a value is of one kind")


class Pass(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """One pass of a module."""

    output: Packed | UnsetType = UNSET
    inputs: Packed | UnsetType = UNSET


class Head(msgspec.Struct):
    """What an index says of itself.

    Attributes:
        format: The version of the format.
        generation: Stands in the names of the shards: what is written into the folder later has another.
        revision: How many runs have ended well.
        complete: Whether all runs have.
    """

    format: str
    generation: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{0,32}\Z")] = ""
    revision: Number = 0
    complete: bool = True


class Index(Head, forbid_unknown_fields=True, kw_only=True):
    """The index of a folder.

    Attributes:
        shards: The number that the next shard gets.
        lists: Whether a module that ran once has a list, too.
        names: Other names of modules.
        rename, alias: As the cache was given them.
        modules: The passes of each.
    """

    shards: Number = 0
    lists: bool
    names: Names
    rename: Names = {}
    alias: Names = {}
    modules: dict[str, Annotated[list[Pass], msgspec.Meta(min_length=1)]]


class Source:
    """Where a cache lies.

    Attributes:
        folder: The folder.
        index: What its index said when it was read or written last.
    """

    __slots__ = ("folder", "index")

    def __init__(self, folder: Path, index: Index) -> None:
        self.folder, self.index = folder, index


def shard_path(folder: Path, generation: str, number: int) -> Path:
    """The file of a shard."""
    return folder / f"activations-{generation}{'-' if generation else ''}{number:05d}.safetensors"


def is_shard(name: str) -> bool:
    """Whether a file has the name of a shard.

    >>> is_shard("activations-0f3a-00012.safetensors"), is_shard("model.safetensors")
    (True, False)
    """
    return _SHARD.fullmatch(name) is not None


def read_head(folder: Path) -> Head:
    """What the index of a folder says of itself; see :func:`read_index`."""
    return _decoded(folder)[0]


def read_index(folder: Path) -> Index:
    """The index of a folder that a cache was written to.

    Raises:
        FileNotFoundError: there is none.
        GraphFormatError: the folder is incomplete, or its index is not what it should be.
    """
    head, text = _decoded(folder)
    if not head.complete:
        raise GraphFormatError(
            f"{folder} is incomplete: the run that wrote it failed, or has not ended yet. tracer.cache(to=...) may write there anew"
        )
    return _typed(folder, text, Index)


def _decoded(folder: Path) -> tuple[Head, bytes]:
    try:
        with opened(folder / INDEX) as file:
            text = file.read(_INDEX_MAX + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise ours(FileNotFoundError, f"{folder} holds no cache: there is no {INDEX} in it") from None
    except IsADirectoryError:
        raise GraphFormatError(f"{folder / INDEX} is a folder") from None
    if len(text) > _INDEX_MAX:
        raise GraphFormatError(f"{folder / INDEX} is longer than {_INDEX_MAX} bytes")
    head = _typed(folder, text, Head)
    if head.format not in _FORMATS:
        raise GraphFormatError(f"{folder / INDEX} has the format {head.format[:100]!r}; this version reads {FORMAT!r}")
    return head, text


def _typed(folder: Path, text: bytes, kind: type[Decoded]) -> Decoded:
    try:
        return msgspec.json.decode(text, type=kind)
    except (msgspec.DecodeError, RecursionError, UnicodeError) as error:
        raise GraphFormatError(f"{folder / INDEX} cannot be read: {error}") from None


class Stored:
    """One pass of a module, in files: ``output``, ``inputs`` and ``input`` are read each time they are asked for."""

    __slots__ = ("_entry", "_folder", "_generation")

    def __init__(self, folder: Path, generation: str, entry: Pass) -> None:
        self._folder, self._generation, self._entry = folder, generation, entry

    @property
    def output(self) -> Any:
        """What the module returned; ``None`` if that was not kept. Model outputs come back as dicts."""
        return self._read(self._entry.output)

    @property
    def inputs(self) -> Any:
        """Its arguments, ``((positional, ...), {name: value})``; ``None`` if they were not kept."""
        inputs = self._read(self._entry.inputs)
        if inputs is None or (type(inputs) is tuple and list(map(type, inputs)) == [tuple, dict]):
            return inputs
        raise GraphFormatError(f"{self._folder / INDEX}: the inputs of a module are a tuple and a dict")

    @property
    def input(self) -> Any:
        """Its first argument."""
        inputs = self.inputs
        return None if inputs is None else first_argument(inputs)

    def __repr__(self) -> str:
        return f"Stored({', '.join(name for name in ('output', 'inputs') if getattr(self._entry, name) is not UNSET)})"

    def _read(self, packed: Packed | UnsetType) -> Any:
        if packed is UNSET:
            return None
        try:
            return unpacked(packed, self._tensor)
        except (GraphFormatError, RecursionError) as error:
            raise GraphFormatError(f"{self._folder}: {error}") from None

    def _tensor(self, number: int, name: str) -> torch.Tensor:
        path = shard_path(self._folder, self._generation, number)
        try:
            with opened(path) as file:
                return Tensors(file).read(name)
        except (FileNotFoundError, IsADirectoryError):
            raise GraphFormatError(f"there is no {path.name}: it was deleted, or the folder was written anew since") from None
        except GraphFormatError as error:
            raise GraphFormatError(f"{path.name}: {error}") from None


def unpacked(packed: Packed, tensor: Callable[[int, str], torch.Tensor], depth: int = 0) -> Any:
    """A value of the index.

    Args:
        packed: What stands there.
        tensor: Gives a tensor, by the number of its shard and its name.
        depth: How many containers it stands in.

    Raises:
        GraphFormatError: it is not what it should be.
    """
    if depth > DEPTH:
        raise GraphFormatError(f"containers stand in each other more than {DEPTH} deep")
    if packed.tensor is not UNSET:
        value = tensor(packed.shard, packed.tensor)  # type: ignore[arg-type]
        return _complex(value) if packed.complex else value
    if packed.named is not UNSET:
        pairs = [(unpacked(key, tensor, depth + 1), unpacked(item, tensor, depth + 1)) for key, item in packed.named]
        try:
            return dict(pairs)
        except TypeError as error:
            raise GraphFormatError(f"a key of a dict cannot be one: {error}") from None
    if packed.listed is not UNSET:
        return [unpacked(item, tensor, depth + 1) for item in packed.listed]
    if packed.tupled is not UNSET:
        return tuple([unpacked(item, tensor, depth + 1) for item in packed.tupled])
    if packed.number is not UNSET:
        return float(packed.number)
    return NotKept(packed.object) if packed.object is not UNSET else packed.plain


def _complex(pairs: torch.Tensor) -> torch.Tensor:
    try:
        return torch.view_as_complex(pairs)
    except RuntimeError as error:
        raise GraphFormatError(str(error)) from None
