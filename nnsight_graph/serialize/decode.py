"""The text of a document, from anywhere -> a graph that is what it says: typed, verified, and of known operations alone."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec
import torch

from ..errors import CheckError, GraphFormatError
from ..graph import Const, Graph, Group, Literal, Node, Operand, Ref, Region, Site, references_of, verify, walk
from ..ops.portable import is_portable_literal, version
from .allowed import name_refusal, refusal
from .document import (
    FORMAT,
    Document,
    FileBytes,
    FileComplex,
    FileConst,
    FileConstant,
    FileDevice,
    FileFloat,
    FileFormat,
    FileGroup,
    FileInt,
    FileNode,
    FileOperand,
    FileRange,
    FileRegion,
    FileTensor,
    FileText,
)  # fmt: skip
from .shapes import SHAPES, refuse_group, refuse_loops, refuse_shape

_NAMES = {"bound": slice(1, 2), "under": slice(1), "trace": slice(1)}
"""The operands that are names, of the kinds that have some."""

_HOLDING = frozenset(("list", "tuple", "dict", "set"))
_DEPTH = 64
_NODES = 200_000


class Decoded(NamedTuple):
    """A file that was read.

    Attributes:
        graph: The program.
        document: What else stands in the file.
    """

    graph: Graph
    document: Document


def decode(text: bytes, tensors: list[torch.Tensor]) -> Decoded:
    """A document and its tensors as a graph.

    Raises:
        GraphFormatError: names the place in the document, and what is wrong there.
    """
    try:
        versions = msgspec.json.decode(text, type=_Versions)
        if versions.format != FORMAT or versions.ops > version():
            raise GraphFormatError(
                f"the file has version {versions.format} of the format and {versions.ops} of the operations; this release of nnsight_graph "
                f"reads version {FORMAT}, and operations up to {version()}"
            )
        document = msgspec.json.decode(text, type=Document)
    except msgspec.ValidationError as error:
        raise GraphFormatError(f"the graph is not what it should be: {error}") from None
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise GraphFormatError(f"the graph cannot be read: {error}") from None
    reader = _Reader(document, tensors)
    graph = Graph(reader.region(document.body, "$.body", 0), reader.constants)
    try:
        verify(graph)
    except CheckError as error:
        raise GraphFormatError(f"the graph is not what it should be: {error}") from None
    for number, why in refuse_loops(graph):
        raise GraphFormatError(f"the graph is not what it should be: node %{number}: {why}" if number >= 0 else why)
    _check_tables(document, graph)
    return Decoded(graph, document)


class _Versions(msgspec.Struct):
    format: int
    ops: int


class _Wrong(Exception):
    """What is wrong with a node; where it stands is added outside."""


class _Reader:
    def __init__(self, document: Document, tensors: list[torch.Tensor]) -> None:
        self._document, self._tensors = document, tensors
        self._free = 0
        self._literals: dict[str, Literal] = {}
        self._deep: dict[int, int] = {}  # how deep containers stand in containers
        self.constants = tuple(self.constant(place, constant) for place, constant in enumerate(document.constants))

    def region(self, region: FileRegion, path: str, depth: int) -> Region:
        """A region; its nodes are numbered as the file counts them."""
        if depth > _DEPTH:
            raise GraphFormatError(f"{path}: regions stand in each other more than {_DEPTH} deep")
        made = []
        for place, node in enumerate(region.nodes):
            number, self._free = self._free, self._free + 1
            try:
                plain = self._node(number, node)
            except _Wrong as wrong:
                raise GraphFormatError(f"{path}.nodes[{place}]: {wrong}") from None
            regions = []
            for i, inner in enumerate(node.regions):
                regions.append(self.region(inner, f"{path}.nodes[{place}].regions[{i}]", depth + 1))
                self._free += 1
            made.append(msgspec.structs.replace(plain, regions=tuple(regions)) if regions else plain)
        try:
            return Region(tuple(made), tuple([self.operand(given) for given in region.results]))
        except _Wrong as wrong:
            raise GraphFormatError(f"{path}.results: {wrong}") from None

    def _node(self, number: int, node: FileNode) -> Node:
        if number >= _NODES:
            raise _Wrong(f"more than {_NODES} nodes")
        target, given = node.target, node.operands
        for word in (target, *(name for name, _ in node.keywords), *((node.site.path, node.site.point) if node.site else ())):
            if not word.isprintable():
                raise _Wrong(f"{word[:100]!r} cannot be printed")
        names = tuple([name for name, _ in node.keywords]) if node.keywords else ()
        why = refusal(target[:200], names, len(given))
        if target in _NAMES:
            why = why or name_refusal(target, [word if isinstance(word, str) else "" for word in given[_NAMES[target]]])
        if why:
            raise _Wrong(why)
        site = None if node.site is None else Site(node.site.path, node.site.point, node.site.call, node.site.step)
        operands = tuple([Ref(one) if type(one) is int else self.operand(one) for one in given])
        keywords = tuple([(name, self.operand(one)) for name, one in node.keywords]) if names else ()
        made = Node(number, target, operands, keywords, site)
        if target in _HOLDING:
            self._deep[number] = 1 + max([self._deep.get(one, 0) for one in references_of(made)], default=0)
            if self._deep[number] > _DEPTH:
                raise _Wrong(f"containers stand in each other more than {_DEPTH} deep")
        if target[:1] in (".", "@") and not operands:
            raise _Wrong(f"{target} does not take these operands")
        if target in SHAPES and (why := refuse_shape(made, self.constants)):
            raise _Wrong(why)
        if target == "setattr" and (why := name_refusal(target, [self.constants[operands[1].index]])):  # type: ignore[union-attr]
            raise _Wrong(why)
        return made

    def operand(self, given: FileOperand, depth: int = 0) -> Operand:
        """An operand."""
        if type(given) is int:
            return Ref(given)
        if type(given) is FileConst:
            if given.index >= len(self.constants):
                raise _Wrong(f"constant {given.index} of {len(self.constants)}")
            return Const(given.index)
        if type(given) is str:
            return self._literals.get(given) or self._literal(given)
        if depth > _DEPTH:
            raise _Wrong(f"operands stand in each other more than {_DEPTH} deep")
        assert isinstance(given, FileGroup)
        made = Group(given.kind, tuple([self.operand(item, depth + 1) for item in given.items]))
        if made.kind in ("slice", "dict") and (why := refuse_group(made)):
            raise _Wrong(why)
        return made

    def _literal(self, word: str) -> Literal:
        if not word.isprintable():
            raise _Wrong(f"{word[:100]!r} cannot be printed")
        if not is_portable_literal(word):
            raise _Wrong(f"{word[:100]!r} is no dtype")
        made = self._literals[word] = Literal(word)
        return made

    def constant(self, place: int, constant: FileConstant) -> Any:
        """The value of a constant."""
        path = f"$.constants[{place}]"
        try:
            if isinstance(constant, FileTensor):
                return self._tensor(constant, path)
            if isinstance(constant, FileInt):
                return int(constant.text)
            if isinstance(constant, FileFloat):
                return float.fromhex(constant.text)
            if isinstance(constant, FileComplex):
                return complex(float.fromhex(constant.real), float.fromhex(constant.imaginary))
            if isinstance(constant, FileDevice):
                return torch.device(constant.name)
            if isinstance(constant, FileRange):
                return range(constant.start, constant.stop, constant.step)
            if isinstance(constant, FileFormat):
                return getattr(torch, constant.name)
        except (ValueError, OverflowError, RuntimeError) as error:
            raise GraphFormatError(f"{path}: {error}") from None
        assert isinstance(constant, (FileText, FileBytes))
        return constant.text if isinstance(constant, FileText) else constant.content

    def _tensor(self, constant: FileTensor, path: str) -> Any:
        if constant.index >= len(self._tensors):
            raise GraphFormatError(f"{path}: tensor {constant.index} of {len(self._tensors)}")
        tensor = self._tensors[constant.index]
        if constant.order:
            if sorted(constant.order) != list(range(tensor.dim())):
                raise GraphFormatError(f"{path}: {constant.order} is no order of {tensor.dim()} dimensions")
            tensor = tensor.permute([constant.order.index(place) for place in range(tensor.dim())])
        return tensor.numpy() if constant.array else tensor


def _check_tables(document: Document, graph: Graph) -> None:
    """What names nodes and constants names some that are there."""
    if why := name_refusal("trace", [document.function]):
        raise GraphFormatError(f"$.function: {why}")
    numbers = {node.number: node for node in walk(graph.body)}
    saved = {node.operands[0].node for node in numbers.values() if node.target == "save"}  # type: ignore[union-attr]
    taken: set[str] = set()
    for place, (node, name) in enumerate(document.saves):
        if node not in saved:
            raise GraphFormatError(f"$.saves[{place}]: the program saves no node {node}")
        if name in taken:
            raise GraphFormatError(f"$.saves[{place}]: there are two of the name {name[:50]!r}")
        if not name.isprintable():
            raise GraphFormatError(f"$.saves[{place}]: {name[:50]!r} cannot be printed")
        taken.add(name)
    named = {(node.operands[0].name, node.operands[1].index) for node in numbers.values() if node.target == "named"}  # type: ignore[union-attr]
    if set(document.parameters) != named or len(dict(document.parameters)) != len(named):
        raise GraphFormatError("$.parameters: they are not those of the program")
    traces = {number for number, node in numbers.items() if node.target == "trace"}
    for place, trace in enumerate(document.traces):
        if trace.node not in traces:
            raise GraphFormatError(f"$.traces[{place}]: node {trace.node} is no trace")
    if traces != {trace.node for trace in document.traces} or (traces and document.kind != "session"):
        raise GraphFormatError("$.traces: they are not those of the program, or it is no session")
