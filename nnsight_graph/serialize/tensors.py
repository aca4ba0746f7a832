"""An open safetensors file <-> tensors.

What is read, header and tensors, comes from the one file that was opened, whatever its name means by now. What is written goes from the
tensors' own memory to that file: no second copy of them, and no file beside it.
"""

from __future__ import annotations

import math
import mmap
import os
import sys
from collections.abc import Mapping
from typing import Any, BinaryIO, NamedTuple

import msgspec
import torch

from ..errors import GraphFormatError

ALIGNED = 64
MAPPED = 1 << 20
"""Tensors of so many bytes may be mapped into memory, smaller ones are copied."""

_HEADER_MAX = 64 << 20
_MAPS = os.name == "posix"  # elsewhere a file that is mapped could not be replaced
_OPTIONS: dict[str, Any] = {"trackfd": False} if sys.version_info >= (3, 13) else {}  # else the file stays open with the map
_NAMES = {
    "BOOL": "bool", "U8": "uint8", "U16": "uint16", "U32": "uint32", "U64": "uint64", "I8": "int8", "I16": "int16", "I32": "int32",
    "I64": "int64", "F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64", "C64": "complex64",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "F8_E8M0": "float8_e8m0fnu",
}  # fmt: skip
_DTYPES = {name: getattr(torch, given) for name, given in _NAMES.items() if hasattr(torch, given)}
_WORDS = {dtype: name for name, dtype in _DTYPES.items()}
_DIMENSIONS = 64


class _Tensor(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    dtype: str
    shape: list[int]
    data_offsets: tuple[int, int]


class Tensors:
    """The tensors of an open file.

    Args:
        file: The file, at its beginning.

    Raises:
        GraphFormatError: it is no safetensors file, or not a whole one.

    Attributes:
        metadata: The text that goes with the tensors.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        length = os.fstat(file.fileno()).st_size
        size = int.from_bytes(file.read(8), "little")
        if not 2 <= size <= min(_HEADER_MAX, max(length - 8, 0)):
            raise GraphFormatError(f"its header would be {size} bytes long")
        self._start, self._length = 8 + size, length
        self.metadata, self._places = _header(file.read(size))
        self._map: mmap.mmap | None = None
        self._refuse_holes()

    def names(self) -> set[str]:
        """The names of the tensors."""
        return set(self._places)

    def read(self, name: str, mapped: bool = False) -> torch.Tensor:
        """A tensor.

        Args:
            name: Its name.
            mapped: Whether it may be mapped into memory, where it is large and lies as torch itself would lay it: elsewhere kernels
                give other last digits.

        Raises:
            GraphFormatError: there is none of that name, or the file has become shorter.
        """
        place = self._places.get(name)
        if place is None:
            raise GraphFormatError(f"there is no tensor {name[:100]!r}")
        begin, size = self._start + place.data_offsets[0], place.data_offsets[1] - place.data_offsets[0]
        dtype = _DTYPES[place.dtype]
        try:
            plain = self._mapped(begin, size) if mapped and _MAPS and size >= MAPPED and begin % ALIGNED == 0 else self._copied(begin, size)
            plain = plain != 0 if dtype is torch.bool else plain.view(dtype)  # what is neither 0 nor 1 is no boolean to torch
            return plain.reshape(place.shape)
        except (RuntimeError, OverflowError, ValueError) as error:
            raise GraphFormatError(f"the tensor {name[:100]!r} cannot be read: {error}") from None

    def _mapped(self, begin: int, size: int) -> torch.Tensor:
        if self._map is None:  # a private copy of each page that is written to
            self._map = mmap.mmap(self._file.fileno(), self._length, access=mmap.ACCESS_COPY, **_OPTIONS)
        return torch.frombuffer(self._map, dtype=torch.uint8, count=size, offset=begin)

    def _copied(self, begin: int, size: int) -> torch.Tensor:
        made = torch.empty(size, dtype=torch.uint8, device="cpu")
        if not size:
            return made
        self._file.seek(begin)
        if self._file.readinto(made.numpy()) != size:  # type: ignore[attr-defined]
            raise GraphFormatError("the file has become shorter")
        return made

    def _refuse_holes(self) -> None:
        """Every byte belongs to one tensor, as the format has it."""
        end = 0
        for name, place in sorted(self._places.items(), key=lambda item: item[1].data_offsets):
            if place.dtype not in _DTYPES:
                raise GraphFormatError(f"the tensor {name[:100]!r} has the type {place.dtype[:100]!r}, which this torch does not have")
            if len(place.shape) > _DIMENSIONS or any(not 0 <= size < 1 << 62 for size in place.shape):
                raise GraphFormatError(f"the tensor {name[:100]!r} has no shape")
            size = math.prod(place.shape) * _DTYPES[place.dtype].itemsize
            if place.data_offsets != (end, end + size):
                raise GraphFormatError(f"the tensor {name[:100]!r} does not lie where it should")
            end += size
        if self._start + end != self._length:
            raise GraphFormatError(f"it is {self._length} bytes long, and should be {self._start + end}")


def write_tensors(file: BinaryIO, named: Mapping[str, torch.Tensor]) -> None:
    """Write tensors to a file.

    Raises:
        GraphFormatError: the file format has none of that kind.
    """
    order = sorted(named, key=lambda name: (-named[name].element_size(), name))  # so that each lies where its type may lie
    header, end = {}, 0
    for name in order:
        tensor = named[name]
        if tensor.dtype not in _WORDS or tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_meta:
            kind = f"{tensor.dtype} in the layout {tensor.layout}"
            raise GraphFormatError(f"a tensor of {kind} cannot stand in a safetensors file: convert it first")
        size = tensor.numel() * tensor.element_size()
        header[name] = _Tensor(_WORDS[tensor.dtype], list(tensor.shape), (end, end + size))
        end += size
    text = msgspec.json.encode(header)
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for name in order:
        plain = named[name].detach().cpu().resolve_conj().resolve_neg().contiguous()
        file.write(plain.reshape(-1).view(torch.uint8).numpy().data)


class _Header(NamedTuple):
    metadata: dict[str, str]
    places: dict[str, _Tensor]


def _header(text: bytes) -> _Header:
    try:
        parts = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
        metadata = msgspec.json.decode(parts.pop("__metadata__", b"{}"), type=dict[str, str])
        return _Header(metadata, {name: msgspec.json.decode(part, type=_Tensor) for name, part in parts.items()})
    except (msgspec.DecodeError, RecursionError, UnicodeError) as error:
        raise GraphFormatError(f"its header cannot be read: {error}") from None
