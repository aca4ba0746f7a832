"""A graph -> the text of its document, and its tensors; equal graphs give equal bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
import numpy
import torch

from ..errors import FunctionWhitelistError, GraphFormatError
from ..graph import Const, Graph, Group, Literal, Node, Operand, Ref, Region
from ..graph.flat import numbered
from ..ops.portable import version
from .allowed import refusal
from .document import (
    FORMAT,
    Document,
    FileBytes,
    FileComplex,
    FileConst,
    FileConstant,
    FileDevice,
    FileFloat,
    FileGroup,
    FileInt,
    FileNode,
    FileOperand,
    FileRegion,
    FileSite,
    FileTensor,
    FileText,
    FileTrace,
)  # fmt: skip


class Content(NamedTuple):
    """What a file holds, before it is bytes.

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


def encode(
    graph: Graph, kind: str, *, function: str = "", saves: Sequence[tuple[int, str]] = (), open_ended: bool = False, edits: bool = False,
    traces: Sequence[tuple[int, int, bool]] = (),
) -> Content:  # fmt: skip
    """The content of a file.

    Args:
        graph: The program.
        kind: What it is: ``"trace"``, ``"session"`` or ``"edit"``.
        function: The method that a trace calls, where it is not the model itself.
        saves: Node and name of each saved value.
        open_ended: Whether it has a loop over an open range of steps.
        edits: Whether it edits a constant in place.
        traces: Node, number of the model and open range, for each trace of a session.

    Raises:
        FunctionWhitelistError: a function of the user's, or an operation that may not stand in a file; it has a ``node``.
        GraphFormatError: a constant that cannot be data; it has a ``node``.
    """
    if graph.shared:
        raise GraphFormatError("the program edits a captured tensor that shares storage with another: give it copies")
    writer = _Writer(graph)
    body = writer.region(graph.body)
    places = writer.places
    document = Document(
        FORMAT, version(), kind, body, tuple(writer.constants), function,  # type: ignore[arg-type]
        tuple(sorted((places[node], name) for node, name in saves)), tuple(sorted(writer.parameters.items())), open_ended, edits,
        tuple(FileTrace(places[node], model, steps) for node, model, steps in traces),
    )  # fmt: skip
    return Content(msgspec.json.encode(document), writer.tensors)


class _Writer:
    """Numbers nodes and constants in program order."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.places = numbered(graph.body)
        self.constants: list[FileConstant] = []
        self.tensors: list[torch.Tensor] = []
        self.parameters: dict[str, int] = {}
        self._known: dict[int, int] = {}
        self._node = 0

    def region(self, region: Region) -> FileRegion:
        """A region, and what is in it."""
        return FileRegion(tuple(map(self.node, region.nodes)), tuple(map(self.operand, region.results)))

    def node(self, node: Node) -> FileNode:
        """A node, if it may stand in a file."""
        self._node = node.number
        self._refuse(node)
        if node.target == "named" and type(node.operands[0]) is Literal and type(node.operands[1]) is Const:
            self.operand(node.operands[1])
            self.parameters[node.operands[0].name] = self._known[node.operands[1].index]
        site = None if node.site is None else FileSite(*node.site)  # type: ignore[arg-type]
        operands = tuple(map(self.operand, node.operands))
        keywords = tuple((name, self.operand(given)) for name, given in node.keywords)
        return FileNode(node.target, operands, site, keywords, tuple(map(self.region, node.regions)))

    def _refuse(self, node: Node) -> None:
        target = node.target
        if target == "call":
            function = self.graph.constants[node.operands[0].index] if type(node.operands[0]) is Const else None
            raise self._not_portable(f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', function)}".lstrip("."))
        why = refusal(target, tuple([name for name, _ in node.keywords]), len(node.operands))
        if why:
            raise self._not_portable(target, why)

    def _not_portable(self, name: str, why: str = "") -> FunctionWhitelistError:
        advice = "What it does has to be written with torch's operations, in the trace, for a graph that leaves this process"
        error = FunctionWhitelistError(f"Function with name `{name}` not in function whitelist. {why or advice}.")
        error.node = self._node  # type: ignore[attr-defined]
        return error

    def operand(self, operand: Operand) -> FileOperand:
        """An operand; constants are numbered in the order in which they are met."""
        if type(operand) is Ref:
            return self.places[operand.node]
        if type(operand) is Literal:
            return operand.name
        if type(operand) is Group:
            return FileGroup(operand.kind, tuple(map(self.operand, operand.items)))  # type: ignore[arg-type]
        assert type(operand) is Const
        place = self._known.get(operand.index)
        if place is None:
            made = self._constant(self.graph.constants[operand.index])
            place = self._known[operand.index] = len(self.constants)
            self.constants.append(made)
        return FileConst(place)

    def _constant(self, value: Any) -> FileConstant:
        kind = type(value)
        if isinstance(value, torch.Tensor):
            return self._tensor(value.detach())
        if isinstance(value, (numpy.ndarray, numpy.generic)):
            array = numpy.asarray(value)
            if array.dtype.hasobject or array.dtype.names:
                raise self._no_data(value)
            return msgspec.structs.replace(self._tensor(torch.from_numpy(array.copy())), array=True)
        if kind is int:
            return FileInt(str(value))
        if kind is float:
            return FileFloat(value.hex())
        if kind is complex:
            return FileComplex(value.real.hex(), value.imag.hex())
        if kind is str:
            return FileText(value)
        if kind is bytes:
            return FileBytes(value)
        if kind is torch.device:
            return FileDevice(str(value))
        if callable(value):
            raise self._not_portable(f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', value)}".lstrip("."))
        raise self._no_data(value)

    def _no_data(self, value: Any) -> GraphFormatError:
        error = GraphFormatError(f"a {type(value).__qualname__} cannot be data in a graph file: give tensors, numbers and text")
        error.node = self._node  # type: ignore[attr-defined]
        return error

    def _tensor(self, tensor: torch.Tensor) -> FileTensor:
        if tensor.layout is not torch.strided or tensor.is_quantized or type(tensor) not in (torch.Tensor, torch.nn.Parameter):
            raise self._no_data(tensor)
        strides = list(tensor.stride())
        order = tuple(sorted(range(tensor.dim()), key=lambda place: (-strides[place], place)))
        plain = tensor.cpu().resolve_conj().resolve_neg()
        moved = plain.permute(order)
        if order == tuple(range(tensor.dim())) or not moved.is_contiguous():
            moved, order = plain, ()
        self.tensors.append(moved.contiguous())
        return FileTensor(len(self.tensors) - 1, order)
