"""Bytes <-> the text of a document and its tensors: a safetensors container with one entry of metadata."""

from __future__ import annotations

from pathlib import Path

import safetensors.torch
import torch

from ..disk import opened, replacing
from ..errors import GraphFormatError
from .tensors import ALIGNED, MAPPED, Tensors

_KEY = "nnsight_graph"


def write(path: str | Path, text: bytes, tensors: list[torch.Tensor]) -> None:
    """Write a file at once: nobody sees half of one, whoever else writes there.

    A graph that was loaded from ``path`` keeps its mapped tensors: they lie in the file that was there, which lives as long as they do.
    """
    content = pack(text, tensors)
    with replacing(path) as beside:
        beside.write_bytes(content)


def pack(text: bytes, tensors: list[torch.Tensor]) -> bytes:
    """The bytes of a file."""
    named = {str(place): tensor for place, tensor in enumerate(tensors)}
    content: bytes = safetensors.torch.save(named, metadata={_KEY: text.decode()})
    if not any(tensor.nbytes >= MAPPED for tensor in tensors):
        return content
    size = int.from_bytes(content[:8], "little")
    padding = -(8 + size) % ALIGNED  # spaces may follow the header: so the tensors begin where kernels expect them
    return (size + padding).to_bytes(8, "little") + content[8 : 8 + size] + b" " * padding + content[8 + size :]


def read(path: str | Path) -> tuple[bytes, list[torch.Tensor]]:
    """The text of a document, and its tensors, all from the file that has this name now.

    Large tensors are mapped into memory; a file may be written anew by this library while its graph is in use.

    Raises:
        GraphFormatError: the file is no graph file.
        OSError: it cannot be read.
    """
    name = Path(path).name
    with opened(path) as file:
        try:
            found = Tensors(file)
            if _KEY not in found.metadata:
                raise GraphFormatError(f"its header has no {_KEY!r}")
            numbers = [str(place) for place in range(len(found.names()))]
            if found.names() != set(numbers):
                raise GraphFormatError("its tensors are not numbered from 0")
            return found.metadata[_KEY].encode(), [found.read(number, mapped=True) for number in numbers]
        except (GraphFormatError, UnicodeError) as error:
            raise GraphFormatError(f"{name} is no graph file: {error}") from None
