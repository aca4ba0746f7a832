"""The readable program: one line per node, with the line of source it came from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..source_location import Location
from .nodes import Const, Graph, Group, Literal, Node, Operand, Ref, Region
from .walk import unused_methods

_INFIX = {
    "add": "+", "sub": "-", "mul": "*", "truediv": "/", "floordiv": "//", "mod": "%", "pow": "**", "matmul": "@", "and_": "&", "or_": "|",
    "xor": "^", "lshift": "<<", "rshift": ">>", "eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">=",
}  # fmt: skip
_IN_PLACE = {f"i{name.rstrip('_')}": f"{sign}=" for name, sign in _INFIX.items()}
_BLOCKS = ("if", "check", "for", "while", "steps")
_FIRST = {"if": 1, "check": 1, "for": 1, "while": 0, "steps": 1}
_WIDTH = 64


def constant_text(value: Any) -> str:
    """A constant in a few words: numbers and strings as they are, tensors by dtype and shape, functions by name."""
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        shape = ", ".join(map(str, value.shape))
        return f"{str(value.dtype).removeprefix('torch.')}[{shape}]"
    if callable(value) and hasattr(value, "__qualname__"):
        module = getattr(value, "__module__", None)
        return f"{module}.{value.__qualname__}" if module else str(value.__qualname__)
    if hasattr(type(value), "_shown_at_once"):  # a graph: perhaps this one
        return f"<{type(value).__name__}>"
    text = repr(value)
    return text if len(text) <= 40 and "\n" not in text else f"<{type(value).__name__}>"


def operand_text(operand: Operand, constants: tuple[Any, ...]) -> str:
    """One operand as Python would write it."""
    if type(operand) is Ref:
        return f"%{operand.node}"
    if type(operand) is Const:
        return constant_text(constants[operand.index]) if constants else f"${operand.index}"
    if type(operand) is Literal:
        return operand.name
    assert type(operand) is Group
    items = [operand_text(item, constants) for item in operand.items]
    if operand.kind == "slice":
        start, stop, step = ("" if item == "None" else item for item in items)
        return f"{start}:{stop}:{step}" if step else f"{start}:{stop}"
    if operand.kind == "dict":
        return "{" + ", ".join(f"{items[i]}: {items[i + 1]}" for i in range(0, len(items), 2)) + "}"
    inner = ", ".join(items) + ("," if operand.kind == "tuple" and len(items) == 1 else "")
    return f"[{inner}]" if operand.kind == "list" else f"({inner})"


def _index_text(operand: Operand, constants: tuple[Any, ...]) -> str:
    if type(operand) is Group and operand.kind == "tuple" and operand.items:
        return ", ".join(operand_text(item, constants) for item in operand.items)
    return operand_text(operand, constants)


def _statement(node: Node, constants: tuple[Any, ...]) -> tuple[bool, str]:
    """Whether the node defines a value, and its right-hand side."""
    target, args = node.target, [operand_text(operand, constants) for operand in node.operands]
    if target in ("read", "parameter"):
        return True, str(node.site).removesuffix(".parameter")
    if target == "copied":
        return True, f"copy of {args[0] if args else str(node.site).removesuffix('.parameter')}"
    if target == "replace":
        return False, f"{str(node.site).removesuffix('inputs')}{args[0]} = {args[1]}, in this run"
    if target == "write" and node.site is not None and node.site.point == "grad":
        return False, f"gradient of {node.site.path.replace('#', '%')} = {args[0]}"
    if target == "write":
        return False, f"{node.site} = {args[0]}"
    if target == "assume":
        return False, f"assume that {args[0]} is {args[1]}"
    if target == "named":
        return True, f"parameter {args[0]}, which is {args[1]}"
    if target == "skip":
        return False, f"skip {str(node.site).removesuffix('.inputs')}, which returns {args[0]}"
    if target == "stop":
        return False, f"stop when {args[0]} is there" if args else "stop"
    if target == "invoke":
        return False, f"invoke {args[0]}:"
    if target in ("trace", "input"):
        return False, _call_of_session(node, args, constants)
    if target == "else":
        return False, "else:"
    if target in _BLOCKS:
        return target != "check", _block_text(target, args)
    if target == "param":
        return True, _param_text(node, args)
    if target == "merge":
        return True, f"{args[1]} if {args[0]} else {args[2]}"
    if target == "result":
        return True, f"{args[0]} carried {args[1]}"
    if target == "cache":
        return False, f"cache the {args[0]} of {_modules_text(node.operands[1])}"
    if target == "grad":
        return True, f"gradient of {args[0]}"
    if target == "under":
        return False, f"from here on {args[0] or 'in the modes around the trace'}"
    if target == "backward":
        named = [f"{name}={operand_text(operand, constants)}" for name, operand in node.keywords]
        return False, f"{args[1]}.backward({', '.join(args[2:] + named)})"
    if target == "save":
        return False, f"save {args[0]}"
    if target == "getitem" and len(args) == 2:
        return True, f"{args[0]}[{_index_text(node.operands[1], constants)}]"
    if target == "setitem" and len(args) == 3:
        return False, f"{args[0]}[{_index_text(node.operands[1], constants)}] = {args[2]}"
    if target == "setattr":
        return False, f"{args[0]}.{args[1]} = {args[2]}"
    if target in _INFIX and len(args) == 2:
        return True, f"{args[0]} {_INFIX[target]} {args[1]}"
    if target in _IN_PLACE and len(args) == 2:
        return True, f"{args[0]} {_IN_PLACE[target]} {args[1]}"
    return target != "log", _call_text(node, args, constants)


def _modules_text(modules: Operand) -> str:
    if type(modules) is not Group:
        return "all modules"
    names = [operand_text(item, ()) or "the model" for item in modules.items]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _call_of_session(node: Node, args: list[str], constants: tuple[Any, ...]) -> str:
    named = [f"{name}={operand_text(operand, constants)}" for name, operand in node.keywords]
    if node.target == "input":
        return f"input {', '.join(args + named)}"
    return f"trace {args[0]}({', '.join(args[1:] + named)}):"


def _param_text(node: Node, args: list[str]) -> str:
    if type(node.operands[1]) is Group:
        return f"{args[1]}, one per turn of {args[0]}"
    return f"item of {args[0]}" if args[1] == "item" else f"carried {args[1]} of {args[0]}"


def _block_text(target: str, args: list[str]) -> str:
    carried = f", carrying {', '.join(args[_FIRST[target]:])}" if args[_FIRST[target] :] else ""
    if target == "for":
        return f"for each item of {args[0]}{carried}:"
    if target == "steps":
        return f"in the steps {args[0].replace('None', '').removesuffix(':1')}{carried}:"
    if target == "check":
        return f"leave unless {args[0]}"
    return f"while{carried}:" if target == "while" else f"if {args[0]}:"


def _call_text(node: Node, args: list[str], constants: tuple[Any, ...]) -> str:
    target = node.target
    if target[0] == "@" and args:
        return f"{args[0]}.{target[1:]}"
    if target == "bound":
        return f"{args[0]}.{args[1]}"
    named = [f"{name}={operand_text(operand, constants)}" for name, operand in node.keywords]
    if target == "call":
        told = [args[1].replace(":", "=")] if args[1] != "mutates:" else []
        return f"{args[0]}({', '.join(args[2:] + named + told)})"
    if target in ("module", "listening"):
        return f"{node.site.path if node.site else ''}({', '.join(args + named)})"
    if target[0] == "." and args:
        return f"{args[0]}{target}({', '.join(args[1:] + named)})"
    return f"{target}({', '.join(args + named)})"


def node_text(node: Node, constants: tuple[Any, ...] = ()) -> str:
    """One node, as in ``%2 = %0 + %1``."""
    defines, text = _statement(node, constants)
    return f"%{node.number} = {text}" if defines else text


def graph_text(graph: Graph, around: int | None = None) -> str:
    """The program, one line per node; with ``around``, three lines to each side of that node and a mark on it.

    >>> from nnsight_graph.graph import Site, build_graph
    >>> print(graph_text(build_graph([("read", Site("fc", "output")), ("mul", 0, float), ("save", 1)], [0], [2.0])))
    %0 = fc.output
    %1 = %0 * 2.0
    save %1
    """
    hidden = unused_methods(graph.body)
    rows = []
    for node, depth in _nested(graph.body, 0):
        if node.number in hidden or (around is not None and abs(node.number - around) > 3):
            continue
        mark = "" if around is None else ("--> " if node.number == around else "    ")
        rows.append(_with_line(mark + "    " * depth + node_text(node, graph.constants), graph, node.number))
        rows += [mark + "    " * depth + text for text in _endings(node, graph.constants)]
    return "\n".join(rows)


def _nested(region: Region, depth: int) -> Iterator[tuple[Node, int]]:
    for node in region.nodes:
        yield node, depth
        for place, inner in enumerate(node.regions):
            if place and inner.nodes:
                yield Node(node.number, "else"), depth
            yield from _nested(inner, depth + 1)


def _endings(node: Node, constants: tuple[Any, ...]) -> list[str]:
    """What stands below a loop's head: what a turn hands to the next, and when it is the last."""
    if node.target not in ("for", "while", "steps"):
        return []
    if not node.regions[0].results:  # it is still being written
        return []
    leave, *following = [operand_text(operand, constants) for operand in node.regions[0].results]
    carried = [f"    carry {', '.join(following)}"] if following else []
    return carried + ([f"    last turn if {leave}"] if leave != "False" else [])


def _with_line(text: str, graph: Graph, number: int) -> str:
    if number >= len(graph.lines) or not graph.lines[number][0]:
        return text
    file, line, _ = graph.lines[number]
    return f"{text:<{_WIDTH}}  # {Location(file, line, '')}"
