"""The intermediate representation: an intervention graph as plain, frozen data, free of torch.

In: entries as the recorder wrote them (nested tuples of names, references and constant markers).
Out: a :class:`Graph` - nodes in program order, lifted constants, sites - that prints, compares and is verified.

The trick: one node type with regions. What a node may be is a row of the table in ``laws.py``, so there is one
walk, one verifier and one printer for everything that a trace can hold.
"""

from .build import build_graph
from .fold import fold
from .nodes import Const, Graph, Group, Literal, Node, Operand, Ref, Region, Site, Turn
from .text import graph_text, node_text
from .verify import verify
from .walk import operands_of, references_of, unused_methods, walk

__all__ = [
    "Const",
    "Graph",
    "Group",
    "Literal",
    "Node",
    "Operand",
    "Ref",
    "Region",
    "Site",
    "Turn",
    "build_graph",
    "fold",
    "graph_text",
    "node_text",
    "operands_of",
    "references_of",
    "unused_methods",
    "verify",
    "walk",
]
