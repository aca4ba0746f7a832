"""Which operations may stand in a graph that came from somebody else; ``portable.tsv`` is read at the first use."""

from __future__ import annotations

from functools import cache, lru_cache
from pathlib import Path
from typing import NamedTuple

_REASONS = {
    "autograd-internals": "it belongs to torch's autograd; backward passes and gradients are nodes of their own",
    "callable": "it takes a function, and a file holds none",
    "compiler": "it belongs to torch's compilers",
    "device-specific": "it is made for one kind of device: use the operation that works on all of them",
    "distributed": "it concerns several processes",
    "files": "it reads or writes files",
    "format": "format strings can read attributes of whatever they are given",
    "global-state": "it reads or changes settings of the whole process",
    "iterator": "its result is no plain value: use list, tuple or an index",
    "memory": "it can reach memory that is not its arguments'",
    "named-tensors": "torch gave up names of dimensions",
    "nested-layout": "only strided tensors may stand in files",
    "not-an-operation": "it is no operation on values",
    "numpy": "what arrays of numpy can do was not reviewed: use the tensor itself, .tolist or .item",
    "process": "it changes how processes are started",
    "python-object": "it makes or takes arbitrary Python objects",
    "quantized": "quantized tensors may not stand in files",
    "removed": "torch has removed it",
    "sparse": "only strided tensors may stand in files",
    "type": "it is a type, no operation",
    "undocumented": "torch does not document it, and does not promise to check its arguments: use the documented operation",
    "uninitialized": "its result shows old memory: use zeros, zeros_like or new_zeros",
}

_DTYPES = """
 bool uint8 uint16 uint32 uint64 int8 int16 int32 int64 float16 bfloat16 float32 float64 complex32 complex64 complex128
 half float double short int long cfloat cdouble chalf float8_e4m3fn float8_e4m3fnuz float8_e5m2 float8_e5m2fnuz float8_e8m0fnu"""
_FORMATS = "contiguous_format preserve_format channels_last channels_last_3d"
_LITERALS = frozenset("torch." + word for word in f"{_DTYPES} {_FORMATS}".split())


class _Row(NamedTuple):
    allowed: bool
    words: str
    notes: tuple[str, ...]


@cache
def _text() -> str:
    return (Path(__file__).parent / "portable.tsv").read_text(encoding="utf-8")


@cache
def _rows() -> dict[str, tuple[str, str, str]]:
    lines = [line.split("\t") for line in _text().splitlines() if line[0] != "#"]
    return {name: (verdict, words, notes) for name, verdict, words, notes in lines}


@lru_cache(4096)  # names come from files: no more than that is kept
def _row(name: str) -> _Row:
    verdict, words, notes = _rows().get(name, ("deny", "", ""))
    return _Row(verdict == "allow", words, tuple(notes.split()))


def version() -> int:
    """The version of the table: raised whenever a name that was allowed is denied, or takes fewer keywords.

    Example:
        >>> version() >= 1
        True
    """
    return int(_text().partition("\n")[0].rpartition(" ")[2])


def is_portable(name: str) -> bool:
    """Whether an operation may stand in a file. A name without a row may not, nor one of an attribute that nobody reviewed.

    Example:
        >>> is_portable("torch.sum"), is_portable("torch.load"), is_portable("@__globals__"), is_portable(".frobnicate")
        (True, False, False, False)
    """
    return _row(name).allowed


def why_not(name: str) -> str:
    """Why an operation may not stand in a file, for people; empty where it may.

    Example:
        >>> why_not("torch.empty")
        'torch.empty may not stand in a graph file: its result shows old memory: use zeros, zeros_like or new_zeros'
        >>> why_not("torch.sum")
        ''
    """
    row = _row(name)
    if row.allowed:
        return ""
    why = _REASONS.get(row.words)
    if why is None and name[1:].startswith("_"):
        why = "names that begin with an underscore lead out of the graph"
    return f"{name} may not stand in a graph file: {why or 'it is not in the table of portable operations'}"


def keywords_of(name: str) -> frozenset[str]:
    """The keyword arguments that a file may give to an operation, none to one that may not stand in it.

    Example:
        >>> sorted(keywords_of("torch.cumsum"))
        ['axis', 'dim', 'dtype', 'input']
    """
    row = _row(name)
    return frozenset(row.words.split()) if row.allowed else frozenset()


def most_arguments(name: str) -> int | None:
    """How many positional arguments an operation may be given in a file, the object of a method included; None: any number.

    Example:
        >>> most_arguments(".add"), most_arguments("torch.cartesian_prod"), most_arguments("torch.load")
        (2, None, 0)
    """
    row = _row(name)
    if not row.allowed:
        return 0
    return next((int(note[5:]) for note in row.notes if note.startswith("most:")), None)


def may_allocate(name: str) -> bool:
    """Whether results may be larger than all arguments together, so that their size has to be known before the operation runs.

    Numbers can make them so (``torch.zeros``, ``.expand``, ``"a" * 10**9``), or the product of shapes (``matmul``, and every
    operation that broadcasts). Of what is not in the table it is True.

    Example:
        >>> may_allocate("torch.zeros"), may_allocate("add"), may_allocate("torch.relu")
        (True, True, False)
    """
    row = _row(name)
    return not row.allowed or "allocates" in row.notes or "broadcasts" in row.notes


def only_broadcasts(name: str) -> bool:
    """Whether results, and what the operation needs meanwhile, are as large as its arguments broadcast together, and no larger.

    Example:
        >>> only_broadcasts("add"), only_broadcasts("matmul"), only_broadcasts("mul")
        (True, False, False)
    """
    return _row(name).notes[:1] == ("broadcasts",)


def may_trap(name: str) -> bool:
    """Whether an operation of tensors, named without its namespace, may end the process with the smallest integers among its arguments.

    Example:
        >>> may_trap("lcm"), may_trap("div_"), may_trap("gcd")
        (True, True, False)
    """
    return "traps" in _row(f".{name}").notes


def is_portable_literal(name: str) -> bool:
    """Whether a literal may stand in a file: of those that name something of torch only dtypes and memory formats may.

    Dtypes of quantized tensors may not: a view as one would make such a tensor.

    Example:
        >>> is_portable_literal("torch.float32"), is_portable_literal("torch.load"), is_portable_literal("item")
        (True, False, True)
    """
    return not name.startswith("torch.") or name in _LITERALS


def is_reviewed(name: str) -> bool:
    """Whether the table has a row for an operation, whatever it says.

    Example:
        >>> is_reviewed("torch.load"), is_reviewed("@of_my_model")
        (True, False)
    """
    return name in _rows()
