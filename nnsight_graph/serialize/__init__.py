"""Graphs as files: data, and nothing but data.

In: a program as entries, with names for what it saves. Out: bytes, and from bytes the graph again, checked as a file of a stranger
has to be.

The trick: the file is a safetensors container. Its tensors are the graph's constants, the large ones mapped into memory when it is
loaded; its one metadata entry is the typed graph as JSON. Equal graphs give equal bytes. What writes the graph (`encode`) needs no torch.
"""
