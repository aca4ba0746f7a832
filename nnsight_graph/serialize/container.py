"""Bytes <-> the text of a document and its tensors: a safetensors container with one entry of metadata."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import safetensors
import safetensors.torch
import torch

from ..errors import GraphFormatError

_KEY = "nnsight_graph"
_HEADER_MAX = 64 << 20
_MAPPED = 1 << 20
"""Tensors of so many bytes are mapped, smaller ones copied: then a file may be written anew while its graph is in use."""
_ALIGNED = 64


def write(path: str | Path, text: bytes, tensors: list[torch.Tensor]) -> bytes:
    """Write a file at once: nobody sees half of one.

    Returns:
        What was written.
    """
    content = pack(text, tensors)
    target = Path(path)
    beside = target.with_name(f".{target.name}.{os.getpid()}")
    if not target.absolute().parent.is_dir():
        raise FileNotFoundError(f"{path}: there is no folder {target.parent}")
    try:
        beside.write_bytes(content)
        os.replace(beside, target)
    finally:
        beside.unlink(missing_ok=True)
    return content


def pack(text: bytes, tensors: list[torch.Tensor]) -> bytes:
    """The bytes of a file."""
    named = {str(place): tensor for place, tensor in enumerate(tensors)}
    content: bytes = safetensors.torch.save(named, metadata={_KEY: text.decode()})
    if not any(tensor.nbytes >= _MAPPED for tensor in tensors):
        return content
    size = int.from_bytes(content[:8], "little")
    padding = -(8 + size) % _ALIGNED  # spaces may follow the header: so the tensors begin where kernels expect them
    return (size + padding).to_bytes(8, "little") + content[8 : 8 + size] + b" " * padding + content[8 + size :]


def read(path: str | Path) -> tuple[bytes, list[torch.Tensor]]:
    """The text of a document, and its tensors.

    Large ones are mapped into memory, if they lie there as torch itself would lay them: elsewhere kernels give other last digits.

    Raises:
        GraphFormatError: the file is no graph file.
        OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        length = os.fstat(file.fileno()).st_size
        if not 2 <= size <= min(_HEADER_MAX, max(length - 8, 0)):
            raise GraphFormatError(f"{Path(path).name} is no graph file: its header would be {size} bytes long")
        header = file.read(size)
    text = _text(header, Path(path).name)
    try:
        with safetensors.safe_open(path, framework="pt") as container:
            names = sorted(container.keys(), key=len)
            if sorted(names) != sorted(str(place) for place in range(len(names))):
                raise GraphFormatError(f"{Path(path).name}: its tensors are not numbered from 0")
            return text, [_apart(container.get_tensor(str(place))) for place in range(len(names))]
    except safetensors.SafetensorError as error:
        raise GraphFormatError(f"{Path(path).name} is no graph file: {error}") from None


def _apart(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor of a file as it is, or a copy."""
    return tensor if tensor.nbytes >= _MAPPED and tensor.data_ptr() % _ALIGNED == 0 else tensor.clone()


def _text(header: bytes, name: str) -> bytes:
    try:
        return msgspec.json.decode(header, type=_Header).__metadata__[_KEY].encode()
    except (msgspec.DecodeError, KeyError, RecursionError, UnicodeError):
        raise GraphFormatError(f"{name} is no graph file: its header has no {_KEY!r}") from None


class _Header(msgspec.Struct):
    __metadata__: dict[str, str]
