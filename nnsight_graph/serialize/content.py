"""What a file holds, before it is bytes: a document and its tensors."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
import numpy
import torch

from ..errors import GraphFormatError
from ..ops.saved_values import SavedTensor
from .document import (
    FileBytes,
    FileComplex,
    FileConstant,
    FileDevice,
    FileFloat,
    FileFormat,
    FileInt,
    FileRange,
    FileTensor,
    FileText,
)
from .encode import Entry, encode, name_of, not_portable


class Content(NamedTuple):
    """What a file holds.

    Attributes:
        text: The document.
        tensors: Its tensors.
    """

    text: bytes
    tensors: list[torch.Tensor]

    @property
    def digest(self) -> str:
        """The hash of all of it, hexadecimal."""
        made = hashlib.sha256(self.text)
        for tensor in self.tensors:
            made.update(f"{tensor.dtype}{list(tensor.shape)}".encode())
            made.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
        return made.hexdigest()


def content(entries: Sequence[Entry], indices: Sequence[int], constants: Sequence[Any], kind: str, **given: Any) -> Content:
    """The content of a file; see :func:`encode`.

    Raises:
        FunctionWhitelistError: a function of the user's, or an operation that may not stand in a file; it has an ``entry``.
        GraphFormatError: a constant that cannot be data; it has an ``entry``.
    """
    tensors: list[torch.Tensor] = []

    def constant(value: Any) -> FileConstant:
        return _constant(value, tensors)

    return Content(encode(entries, indices, constants, constant, kind, **given), tensors)


def _constant(value: Any, tensors: list[torch.Tensor]) -> FileConstant:
    kind = type(value)
    if kind is int:
        return FileInt(str(value))
    if kind is float:
        return FileFloat(value.hex())
    if kind is str:
        return FileText(value)
    if isinstance(value, torch.Tensor):
        return _tensor(value.detach(), tensors)
    if isinstance(value, (numpy.ndarray, numpy.generic)):
        array = numpy.asarray(value)
        if array.dtype.hasobject or array.dtype.names:
            raise _no_data(value)
        return msgspec.structs.replace(_tensor(torch.from_numpy(array.copy()), tensors), array=True)
    if kind is complex:
        return FileComplex(value.real.hex(), value.imag.hex())
    if kind is bytes:
        return FileBytes(value)
    if kind is torch.device:
        return FileDevice(str(value))
    if kind is range:
        return FileRange(value.start, value.stop, value.step)
    if kind is torch.memory_format:
        return FileFormat(str(value).removeprefix("torch."))  # type: ignore[arg-type]
    raise not_portable(name_of(value)) if callable(value) else _no_data(value)


def _no_data(value: Any) -> GraphFormatError:
    return GraphFormatError(f"a {type(value).__qualname__} cannot be data in a graph file: give tensors, numbers and text")


def _tensor(tensor: torch.Tensor, tensors: list[torch.Tensor]) -> FileTensor:
    if tensor.layout is not torch.strided or tensor.is_quantized or type(tensor) not in (torch.Tensor, torch.nn.Parameter, SavedTensor):
        raise _no_data(tensor)
    strides = list(tensor.stride())
    order = tuple(sorted(range(tensor.dim()), key=lambda place: (-strides[place], place)))
    plain = tensor.cpu().resolve_conj().resolve_neg()
    moved = plain.permute(order)
    if order == tuple(range(tensor.dim())) or not moved.is_contiguous():
        moved, order = plain, ()
    tensors.append(moved.contiguous())
    return FileTensor(len(tensors) - 1, order)
