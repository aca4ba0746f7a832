"""Graphs as files: data, and nothing but data.

In: a graph, with names for what it saves. Out: bytes, and from bytes the graph again, checked as a file of a stranger has to be.

The trick: the file is a safetensors container. Its tensors are the graph's constants, mapped into memory when it is loaded; its one
metadata entry is the typed graph as JSON. Equal graphs give equal bytes.
"""

from .container import read, write
from .decode import decode
from .document import FORMAT, Document
from .encode import Content, encode

__all__ = ["FORMAT", "Content", "Document", "decode", "encode", "read", "write"]
