"""Python's own control flow on traced values: each small program runs in a trace, and as plain Python on what hooks captured."""

from __future__ import annotations

import itertools
import linecache
from textwrap import dedent, indent
from typing import Any

import pytest
import torch
from torch import Tensor

import nnsight_graph as nnsight

numbers = itertools.count()

PROGRAMS = {
    "if": """
        if v.sum() > 0:
            r = v * 2
        else:
            r = v - 1
    """,
    "if without else, name bound above": """
        r = v
        if v.sum() > 0:
            r = v * 2
    """,
    "elif chain": """
        s = v.sum()
        if s > 1:
            r = "large"
        elif s > 0:
            r = "small"
        elif s > -1:
            r = "negative"
        else:
            r = "very negative"
    """,
    "nested": """
        r = 0
        if v[0, 0] > 0:
            if v[0, 1] > 0:
                r = v.sum()
            else:
                r = v.mean()
            r = r + 1
        else:
            r = r - v.max()
    """,
    "conditional expression": "r = v * 2 if v.sum() > 0 else v * 3",
    "and, or, not": """
        r = [bool(v.sum() > 0 and v.max() < 10), bool(v.sum() > 0 or v.min() < 0), not v.sum() > 0]
    """,
    "and gives an operand": "r = (v.sum() > 1000) and v.mean()",
    "comparison chain": "r = 1 if -1 < v.sum() < 1 else 2",
    "in": "r = [1 in v.shape, 7 in v.shape, 7 not in v.shape]",
    "for over a tensor": """
        r = 0
        for row in v.T:
            r = r + row.sum() * 2
    """,
    "for over a shape": """
        r = 1
        for size in v.shape:
            r = r * size
    """,
    "for with break and else": """
        r = []
        for item in v[0]:
            if item > 0:
                r.append(item)
                break
        else:
            r.append(-1)
    """,
    "for without break runs else": """
        r = []
        for item in v[0]:
            if item > 1e6:
                break
        else:
            r.append(-1)
    """,
    "continue": """
        r = 0
        for item in v[0]:
            if item < 0:
                continue
            r = r + item
    """,
    "nested for": """
        r = []
        for row in v:
            for item in row:
                r.append(item * 2)
    """,
    "list appended in a loop": """
        r = [0]
        for item in v[0]:
            r.append(item)
        r.append(1)
    """,
    "dict filled in a loop": """
        r = {}
        for place, item in enumerate(v[0]):
            r[place] = item
    """,
    "set filled in a loop": """
        r = set()
        for size in v.shape:
            r.add(size)
    """,
    "while": """
        n = v.abs().sum()
        r = 0
        while n > 0.5:
            n = n / 2
            r = r + 1
    """,
    "while with break": """
        n, r = v.abs().sum() + 1, 0
        while True:
            n = n / 2
            r = r + 1
            if n < 0.5:
                break
    """,
    "comprehension": "r = [item * 2 for item in v[0]]",
    "comprehension with a filter": "r = [item for item in v[0] if item > 0]",
    "nested comprehension": "r = [[item + 1 for item in row] for row in v]",
    "dict comprehension": "r = {place: item for place, item in enumerate(v[0])}",
    "sum of a generator": "r = sum(item for item in v[0])",
    "any of a generator": "r = any(item > 0 for item in v[0])",
    "builtins": "r = [len(v), int(v.sum() * 10), float(v.sum()), bool(v.sum() > 0), abs(v.sum()), round(float(v.sum()), 2)]",
    "min, max, sum, sorted, reversed": "r = [min(v[0]), max(v[0]), sum(v[0]), sorted(v[0]), list(reversed(list(v[0])))]",
    "range": """
        r = 0
        for place in range(v.shape[1]):
            r = r + v[0, place] * place
    """,
    "enumerate and zip": """
        r = []
        for place, (one, two) in enumerate(zip(v[0], v[0] * 2)):
            r.append(one + two + place)
    """,
    "all, any": "r = [all(v[0] > -100), any(v[0] > 100)]",
    "str": "r = str(v.shape[1])",
    "carried through several branches": """
        total, count = 0, 0
        for item in v[0]:
            if item > 0:
                total = total + item
                count += 1
            elif item < -0.5:
                total = total - 1
            else:
                pass
        r = [total, count]
    """,
    "edits in place in a branch": """
        copy = v.clone()
        if v.sum() > 0:
            copy[:, 0] = 0
        else:
            copy[:, 1] = 5
        r = copy
    """,
    "edits in place in a loop": """
        copy = v.clone()
        for place in range(len(v[0])):
            copy[:, place] += place
        r = copy
    """,
    "walrus": """
        if (s := v.sum()) > 0:
            r = s
        else:
            r = -s
    """,
    "lambda and closure": """
        k = v.mean()
        f = lambda t: t + k
        r = f(v) if v.sum() > 0 else f(v * 2)
    """,
    "function defined inside": """
        def double(t):
            return t * 2
        r = double(v) if v.sum() > 0 else double(double(v))
    """,
    "tuple targets": """
        a, b = 1, 2
        if v.sum() > 0:
            a, b = b, a
        r = [a, b]
    """,
    "augmented names": """
        r = 1
        if v.sum() > 0:
            r += 2
        r *= 3
    """,
    "assert that holds": """
        assert v.shape[0] == 1, "one row"
        r = v
    """,
    "assert that holds, with a message of the value": """
        assert v.sum() < 1e9, f"{v.sum():.2f} is {{too}} large"
        r = v
    """,
    "match on literals": """
        match int(v.argmax()):
            case 0:
                r = v * 2
            case 1 | 2:
                r = v + 1
            case _:
                r = v - 1
    """,
    "match with guards and names": """
        match v.argmax().item():
            case 0 if v.sum() > 0:
                r = v * 2
            case None:
                r = v * 5
            case (1 | 2) as k:
                r = v * k
            case n if n > 5:
                r = v
            case n:
                r = v - n
    """,
    "match that falls through": """
        r = v
        match v.argmax().item():
            case 7:
                r = v * 0
    """,
    "match in a loop": """
        r = []
        for item in v[0]:
            match int(item > 0) + int(item > 0.5):
                case 0:
                    continue
                case 2:
                    break
            r.append(item)
    """,
    "match on a shape": """
        match v.shape:
            case (rows, width):
                r = v * rows + width
            case _:
                r = v * 0
    """,
    "plain values stay plain": """
        r = []
        for i in range(3):
            if i == 1:
                continue
            r.append(i)
        r = [*r, v.sum()] if len(r) == 2 else None
    """,
}
SEEDS = (0, 1, 2, 5)


def model_of(seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))


def run(source: str, names: dict[str, Any]) -> Any:
    name = f"<program {next(numbers)}>"
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    exec(compile(source, name, "exec"), names)
    return names["program"]()


def traced(body: str, net: torch.nn.Module, x: Tensor) -> Any:
    source = "def program():\n    with model.trace(x) as tracer:\n        v = model[0].output\n"
    source += indent(dedent(body).strip(), " " * 8) + "\n        r = nnsight.save(r)\n    return r\n"
    return run(source, {"model": nnsight.NNsight(net), "x": x, "nnsight": nnsight, "torch": torch})


def plain(body: str, net: torch.nn.Module, x: Tensor) -> Any:
    source = "def program():\n" + indent(dedent(body).strip(), " " * 4) + "\n    return r\n"
    captured: list[Tensor] = []
    handle = net[0].register_forward_hook(lambda _module, _args, output: captured.append(output))
    with torch.no_grad():
        net(x)
    handle.remove()
    with torch.no_grad():
        return run(source, {"v": captured[0], "torch": torch})


def settled(value: Any) -> Any:
    """Plain values."""
    value = nnsight.value(value)
    if type(value) in (list, tuple):
        return type(value)(map(settled, value))
    if type(value) is dict:
        return {settled(key): settled(item) for key, item in value.items()}
    return value


@pytest.mark.parametrize("body", PROGRAMS.values(), ids=PROGRAMS)
def test_traced_as_plain(body):
    for seed in SEEDS:
        net, x = model_of(seed), torch.randn(1, 3, generator=torch.Generator().manual_seed(seed + 100))
        with torch.no_grad():
            got = settled(traced(body, net, x))
        torch.testing.assert_close(got, plain(body, net, x), rtol=0, atol=0) if not isinstance(got, (set, str)) else None
        if isinstance(got, (set, str)):
            assert got == plain(body, net, x)
