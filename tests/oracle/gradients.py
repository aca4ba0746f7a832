"""Random programs about gradients, run traced and by hand.

By hand, every site passes through an identity whose backward does what the lines about its gradient say: gradients of a value are what
flows back from all that uses it, and an edit is what flows on. Values derived from sites are tapped in the same way.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

import nnsight_graph as nnsight
from nnsight_graph import NNsight

WIDTH = 4
VIEWS = ("{0}[:, 1:]", "{0}[1]")
EDITS: tuple[tuple[str, Callable[[Tensor], Tensor]], ...] = (
    ("{0}.grad = {0}.grad * 2", lambda gradient: gradient * 2),
    ("{0}.grad[:, 0] = 0", lambda gradient: torch.cat([gradient[:, :1] * 0, gradient[:, 1:]], 1)),
    ("{0}.grad += 0.5", lambda gradient: gradient + 0.5),
    ("{0}.grad[:] = -{0}.grad", lambda gradient: -gradient),
)


class Block(nn.Module):
    """A step with a residual path, or two outputs."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.act = nn.Tanh()
        self.residual, self.gated = rng.random() < 0.5, rng.random() < 0.4

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.act(self.a(x))
        out = self.b(hidden) * (hidden.sigmoid() if self.gated else 1)
        return out + x if self.residual else out * 1


class Net(nn.Module):
    """A stack of blocks."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(rng) for _ in range(rng.randint(1, 3)))
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.head(x)


@dataclass
class Backward:
    """What one backward is told: lines that name gradients, then the loss."""

    lines: list[tuple[str, int]] = field(default_factory=list)  # the name of a value, and which edit; -1 is a read
    loss: tuple[str, ...] = ()
    block: bool = False


@dataclass
class Program:
    """Values named in a trace, and backwards through them."""

    seed: int
    writes: dict[str, float]
    names: dict[str, str]  # a site of the model for each name
    derived: dict[str, tuple[str, str]]  # made of another name by an expression in it
    backwards: list[Backward]

    def text(self) -> str:
        """The lines of the trace."""
        sites = {path: "model." + re.sub(r"\.(\d+)", r"[\1]", path) + ".output" for path in (*self.writes, *self.names.values())}
        lines = [f"{sites[path]} = {sites[path]} * {scale}" for path, scale in self.writes.items()]
        lines += [f"{name} = {sites[path]}" for name, path in self.names.items()]
        lines += [f"{name} = {text.format(of)}" for name, (of, text) in self.derived.items()]
        for number, each in enumerate(self.backwards):
            loss = " + ".join(f"{name}.pow(2).sum()" for name in each.loss)
            grads = [EDITS[edit][0].format(name) if edit >= 0 else f"kept.append({name}.grad.clone().save())" for name, edit in each.lines]
            if each.block:
                lines += [f"with ({loss}).backward(retain_graph=True):", *(f"    {line}" for line in grads or ["pass"])]
            else:
                lines += [*grads, f"({loss}).backward(retain_graph=True)"]
            lines.append(f"# {number}")
        return "\n".join(lines)


def draw_program(seed: int) -> Program:
    """A random program."""
    rng = random.Random(seed)
    net = Net(rng)
    paths = [path for path, _ in net.named_modules() if path.count(".") >= 1 or path == "head"]
    writes = {path: rng.choice((0.5, 2.0)) for path in rng.sample(paths, rng.randint(0, 2))}
    names = {f"v{i}": path for i, path in enumerate(rng.sample(paths, rng.randint(1, min(4, len(paths)))))}
    derived = {}
    for i in range(rng.randint(0, 2)):
        derived[f"d{i}"] = (rng.choice(list(names)), rng.choice((*VIEWS, "{0} * 3", "{0}.tanh()", "({0} * 2)[:, :2]")))
    pool = [*names, *derived]
    backwards = []
    for _ in range(rng.randint(1, 3)):
        made = Backward(loss=("out", *rng.sample(pool, rng.randint(0, min(2, len(pool))))), block=rng.random() < 0.3)
        useful = [name for name in pool if name in names or name in made.loss]
        for name in rng.sample(useful, rng.randint(1, len(useful))):
            edits = name in names and not any(of == name and one in made.loss for one, (of, _) in derived.items())
            made.lines += [(name, rng.choice((-1, rng.randrange(len(EDITS)))) if edits else -1) for _ in range(rng.randint(1, 2))]
        backwards.append(made)
    names["out"] = "head"
    return Program(seed, writes, names, derived, backwards)


class _Tap(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, back: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.back = back
        return value.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return ctx.back(gradient), None


def by_hand(program: Program, net: Net, x: Tensor) -> tuple[list[Tensor], dict[str, Tensor]]:
    """The gradients that the lines keep, in their order, and those of the parameters."""
    kept: dict[tuple[int, int], Tensor] = {}
    running = -1

    def back(names: list[str]) -> Callable[[Tensor], Tensor]:
        def passing(gradient: Tensor) -> Tensor:
            for place, (name, edit) in enumerate(program.backwards[running].lines):
                of, text = program.derived.get(name, ("", ""))
                if name in names:
                    gradient = EDITS[edit][1](gradient) if edit >= 0 else gradient
                    kept[running, place] = gradient.clone()
                elif of in names and text in VIEWS:  # the gradient of a slice is that slice of the gradient
                    kept[running, place] = eval(text.format(of), {of: gradient}).clone()
            return gradient

        return passing

    values: dict[str, Tensor] = {}
    handles = []
    for path in {*program.writes, *program.names.values()}:
        mine = [name for name, one in program.names.items() if one == path]

        def hook(_module: Any, _args: Any, output: Tensor, path: str = path, mine: list[str] = mine) -> Tensor:
            output = _Tap.apply(output * program.writes.get(path, 1), back(mine))
            values.update(dict.fromkeys(mine, output))
            return output

        handles.append(net.get_submodule(path).register_forward_hook(hook))
    net(x)
    for handle in handles:
        handle.remove()
    for name, (of, text) in program.derived.items():
        value = eval(text.format(of), {of: values[of]})
        values[name] = value if text in VIEWS else _Tap.apply(value, back([name]))
    net.zero_grad()
    for number, each in enumerate(program.backwards):
        running = number
        torch.stack([values[name].pow(2).sum() for name in each.loss]).sum().backward(retain_graph=True)
    found = [
        kept[number, place] for number, each in enumerate(program.backwards) for place, (_, edit) in enumerate(each.lines) if edit < 0
    ]
    return found, {name: parameter.grad.clone() for name, parameter in net.named_parameters() if parameter.grad is not None}


def traced(program: Program, net: Net, x: Tensor) -> tuple[list[Tensor], dict[str, Tensor]]:
    """The same by a trace."""
    net.zero_grad()
    body = "\n".join("    " + line for line in program.text().splitlines())
    scope = {"model": NNsight(net), "x": x, "kept": [], "nnsight": nnsight}
    exec(compile(f"with model.trace(x):\n{body}\n", "<gradients>", "exec"), scope)
    kept: list[Any] = scope["kept"]  # type: ignore[assignment]
    return [value.value for value in kept], {
        name: parameter.grad.clone() for name, parameter in net.named_parameters() if parameter.grad is not None
    }


def fault(seed: int) -> str:
    """What is wrong with a program's run; nothing, if it is as by hand."""
    program = draw_program(seed)
    net = Net(random.Random(seed))
    torch.manual_seed(seed)
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.5)
    x = torch.randn(3, WIDTH)
    expected, parameters = by_hand(program, net, x)
    found, of_parameters = traced(program, net, x)
    try:
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(of_parameters, parameters, rtol=1e-4, atol=1e-5)
    except AssertionError as error:
        return f"{error}\n\n{program.text()}"
    return ""
