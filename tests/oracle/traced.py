"""The same program through the library: its text is executed, as a user would paste it."""

from __future__ import annotations

import itertools
import linecache
from dataclasses import dataclass
from textwrap import indent
from typing import Any

import torch
from torch import Tensor, nn

import nnsight_graph as nnsight

from .generate import Case
from .trees import Tree, apply, same

numbers = itertools.count()


@dataclass(frozen=True)
class Outcome:
    """What the library made of a case: values or an error, and what it left behind."""

    values: dict[str, Tree]
    error: BaseException | None
    left: str | None


def trace_text(case: Case) -> str:
    """The trace in its mode."""
    body = indent("\n".join(case.program.lines() or ["pass"]), " " * 8)
    return f"with torch.{case.mode}():\n    with model.trace(x) as tracer:\n{body}\n"


def source(case: Case) -> str:
    """The whole program, ready to be pasted."""
    constants = {name: tensor for name, tensor in case.program.constants.items() if name != "x"}
    lines = [
        "import nnsight_graph as nnsight",
        "import torch",
        "from tests.oracle.modules import draw_module",
        "",
        f"module, x = draw_module({case.seed})",
        *(f"{name} = torch.tensor({tensor.tolist()}, dtype=torch.float64)" for name, tensor in constants.items()),
        "model = nnsight.NNsight(module)",
        trace_text(case),
        *(f"print({name})" for name in case.program.saves),
    ]
    return "\n".join(lines) + "\n\n" + indent(str(case.module), "# ")


def run_traced(case: Case) -> Outcome:
    """Run it, and look at what is left."""
    x = case.x.clone()
    namespace: dict[str, Any] = {name: tensor.clone() for name, tensor in case.program.constants.items()}
    namespace |= {"torch": torch, "nnsight": nnsight, "x": x, "model": nnsight.NNsight(case.module)}
    attributes = [set(vars(child)) for child in case.module.modules()]
    code = compiled(trace_text(case))
    error, values = None, {}
    try:
        exec(code, namespace)
        values = {name: apply(plain, nnsight.value(namespace[name])) for name in case.program.saves}
    except Exception as caught:
        error = caught
    left = hooks_left(case.module, attributes) or inputs_changed(case, namespace) or forward_changed(case)
    return Outcome(values, error, left)


def compiled(text: str) -> Any:
    """Code whose source can be found by whoever asks for it, as that of a file."""
    name = f"<program {next(numbers)}>"
    linecache.cache.pop(name, None)  # so that it is the newest
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
    for old in [key for key in linecache.cache if key.startswith("<program ")][:-50]:
        del linecache.cache[old]
    return compile(text, name, "exec")


def plain(tensor: Tensor) -> Tensor:
    """A tensor that can be compared anywhere."""
    return torch.frombuffer(bytearray(tensor.detach().contiguous().numpy().tobytes()), dtype=tensor.dtype).reshape(tensor.shape)


def hooks_left(module: nn.Module, attributes: list[set[str]]) -> str | None:
    """A hook or an attribute that was not there before."""
    for (name, child), before in zip(module.named_modules(), attributes, strict=True):
        hooks = [key for key, value in vars(child).items() if key.endswith("_hooks") and value]
        if hooks or set(vars(child)) != before:
            return f"left on {name or 'the model'}: {hooks or set(vars(child)) ^ before}"
    return None


def inputs_changed(case: Case, namespace: dict[str, Any]) -> str | None:
    """A tensor of the user's that is not what it was."""
    changed = [name for name, tensor in case.program.constants.items() if not same(tensor, namespace[name])]
    changed += [] if same(case.x, namespace["x"]) else ["x"]
    return f"changed: {', '.join(sorted(set(changed)))}" if changed else None


def forward_changed(case: Case) -> str | None:
    """A plain forward that differs from that of the untouched model."""
    with torch.no_grad():
        after = case.module(case.x.clone())
    return None if same(case.plain.delivered["", "result"], after) else "a plain forward gives other values than before"
