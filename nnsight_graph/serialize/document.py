"""The typed content of a graph file: what msgspec reads and writes, and checks on the way.

All of it is frozen and made of itself, so the garbage collector need not look at it.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

FORMAT = 1
"""The version of the format that this release writes."""

Index = Annotated[int, msgspec.Meta(ge=0, le=10_000_000)]
Text = Annotated[str, msgspec.Meta(max_length=1_000_000)]
Word = Annotated[str, msgspec.Meta(max_length=1_000)]


class FileConst(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False, tag="c"):
    """A constant, by its place in the table."""

    index: Index


class FileGroup(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False, tag="g"):
    """Operands in a tuple, a list, a dict (keys and values in turn) or a slice."""

    kind: Literal["tuple", "list", "dict", "slice"]
    items: tuple[FileOperand, ...]


FileOperand = Index | Word | FileConst | FileGroup
"""A number is the value of that node; a word belongs to the structure."""


class FileSite(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """A place where a value passes."""

    path: Word
    point: Word
    call: Index = 0
    step: Index | Literal["turn", "last", "every"] = 0


class FileNode(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """A node; its number is its place in program order, where the end of each region counts as one."""

    target: Word
    operands: tuple[FileOperand, ...] = ()
    site: FileSite | None = None
    keywords: tuple[tuple[Word, FileOperand], ...] = ()
    regions: tuple[FileRegion, ...] = ()


class FileRegion(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """Nodes, and what a loop hands on."""

    nodes: tuple[FileNode, ...] = ()
    results: tuple[FileOperand, ...] = ()


class FileTensor(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False, tag="t"):
    """A tensor of the container; ``order`` are its dimensions as they lie in memory, where that is another order."""

    index: Index
    order: tuple[Index, ...] = ()
    array: bool = False


class FileInt(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False, tag="i"):
    """An integer, as decimal text."""

    text: Annotated[str, msgspec.Meta(max_length=1_300, pattern=r"^-?[0-9]+$")]


class FileFloat(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False, tag="f"):
    """A float, as hexadecimal text, ``"inf"`` or ``"nan"``."""

    text: Annotated[str, msgspec.Meta(max_length=64)]


class FileComplex(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False, tag="z"):
    """A complex number, as two floats."""

    real: Annotated[str, msgspec.Meta(max_length=64)]
    imaginary: Annotated[str, msgspec.Meta(max_length=64)]


class FileText(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False, tag="s"):
    """A string."""

    text: Text


class FileBytes(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False, tag="b"):
    """A byte string."""

    content: Annotated[bytes, msgspec.Meta(max_length=1_000_000)]


class FileDevice(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False, tag="d"):
    """A device."""

    name: Annotated[str, msgspec.Meta(max_length=32, pattern=r"^[a-z]+(:[0-9]+)?$")]


class FileRange(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False, tag="r"):
    """A range of integers."""

    start: int
    stop: int
    step: int


class FileFormat(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False, tag="m"):
    """A memory format of torch."""

    name: Literal["contiguous_format", "preserve_format", "channels_last", "channels_last_3d"]


FileConstant = FileTensor | FileInt | FileFloat | FileComplex | FileText | FileBytes | FileDevice | FileRange | FileFormat


class FileTrace(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """A trace of a session: its node, which of the session's models it runs, and whether it has a loop over an open range of steps."""

    node: Index
    model: Index
    open_ended: bool = False


class FileRows(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """A declaration: which dimension (or none) holds rows at a path, whether as tokens, and of which of a session's models."""

    path: Word
    dim: Annotated[int, msgspec.Meta(ge=-64, le=64)] | None = None
    tokens: bool = False
    model: Index = 0


class Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A graph file.

    Attributes:
        format: The version of the format.
        ops: The version of the op table.
        kind: What the program is.
        body: Its nodes.
        constants: Its table of constants.
        function: The method that a trace calls, where it is not the model itself.
        saves: The names of what it saves, by node.
        parameters: Constants with a name, by name.
        open_ended: Whether it has a loop over an open range of steps.
        edits: Whether it edits a constant in place.
        traces: The traces of a session.
        batch: Whether they may be run as one batch.
        rows: What was declared of the models about rows.
    """

    format: int
    ops: int
    kind: Literal["trace", "session", "edit"]
    body: FileRegion
    constants: tuple[FileConstant, ...] = ()
    function: Word = ""
    saves: tuple[tuple[Index, Word], ...] = ()
    parameters: tuple[tuple[Word, Index], ...] = ()
    open_ended: bool = False
    edits: bool = False
    traces: tuple[FileTrace, ...] = ()
    batch: bool = False
    rows: tuple[FileRows, ...] = ()
