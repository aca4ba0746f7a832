"""Bytes <-> the text of a document and its tensors: a safetensors container with one entry of metadata."""

from __future__ import annotations

import json
import os
from pathlib import Path

import safetensors
import safetensors.torch
import torch

from ..errors import GraphFormatError

_KEY = "nnsight_graph"
_HEADER_MAX = 64 << 20


def write(path: str | Path, text: bytes, tensors: list[torch.Tensor]) -> bytes:
    """Write a file at once: nobody sees half of one.

    Returns:
        What was written.
    """
    content = pack(text, tensors)
    target = Path(path)
    beside = target.with_name(f".{target.name}.{os.getpid()}")
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
    return content


def read(path: str | Path) -> tuple[bytes, list[torch.Tensor]]:
    """The text of a document, and its tensors: copies, since a file may change, and in it they lie where kernels give other last digits.

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
            return text, [container.get_tensor(str(place)).clone() for place in range(len(names))]
    except safetensors.SafetensorError as error:
        raise GraphFormatError(f"{Path(path).name} is no graph file: {error}") from None


def _text(header: bytes, name: str) -> bytes:
    try:
        known = json.loads(header)
        text = known["__metadata__"][_KEY]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise GraphFormatError(f"{name} is no graph file: its header has no {_KEY!r}") from None
    if not isinstance(text, str):
        raise GraphFormatError(f"{name} is no graph file: its {_KEY!r} is no text")
    return text.encode()
