"""Random programs about gradients, run traced and by hand, alone and as invokes of one batch.

By hand, every version of what passes a site goes through an identity whose backward does what the lines about its gradient say:
gradients of a value are what flows back from all that uses it, and an edit is what flows on. A version ends where an assignment or an
edit in place begins the next; a name read above an assignment stays with the value that was there. Values derived from sites are tapped
in the same way.
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


IN_PLACE: tuple[tuple[str, Callable[[Tensor], Tensor]], ...] = (
    ("{0} *= 2", lambda value: value * 2),
    ("{0}.mul_(0.5).add_(1)", lambda value: value * 0.5 + 1),
    ("{0}[:, 0] = 1", lambda value: torch.cat([torch.ones_like(value[:, :1]), value[:, 1:]], 1)),
    ("{0}[:, 1:].mul_(-1)", lambda value: torch.cat([value[:, :1], -value[:, 1:]], 1)),
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
    events: list[tuple[str, str, Any]]  # what happens at sites, in the order of lines: "read", "write", "edit", "early"
    paths: dict[str, str]  # the site of each name
    derived: dict[str, tuple[str, str]]  # made of another name by an expression in it
    backwards: list[Backward]

    def text(self) -> str:
        """The lines of the trace."""
        lines = []
        for what, subject, how in self.events:
            if what == "read":
                lines.append(f"{subject} = {_site(how)}")
            elif what == "write":
                lines.append(f"{_site(subject)} = {_site(subject)} * {how}")
            else:
                lines.append(IN_PLACE[how][0].format(subject) if what == "edit" else f"kept.append({subject}.grad.clone().save())")
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


def _site(path: str) -> str:
    return "model." + re.sub(r"\.(\d+)", r"[\1]", path) + ".output"


def _draw_events(rng: random.Random, paths: list[str], blocks: bool) -> tuple[list[tuple[str, str, Any]], dict[str, str], set[str]]:
    """What happens at each of some sites; the names; and those of which the model knows nothing in the end."""
    events: list[tuple[str, str, Any]] = []
    names: dict[str, str] = {}
    dead: set[str] = set()
    for path in rng.sample(paths, rng.randint(1, min(4, len(paths)))):
        in_place = not path.endswith(".act")  # autograd needs the result of tanh as it is
        here, present = [], ""
        for _ in range(rng.randint(1, 2)):
            present = f"v{len(names)}"
            names[present] = path
            here.append(("read", present, path))
            here += [("early", present, None)] * (not blocks and rng.random() < 0.3)
            here += [("edit", present, rng.randrange(len(IN_PLACE)))] * (in_place and rng.random() < 0.3)
            if rng.random() < 0.5:
                here.append(("write", path, rng.choice((0.5, 2.0))))
                here += [("early", present, None)] * (not blocks and rng.random() < 0.2)
                if in_place and rng.random() < 0.2:
                    here.append(("edit", present, rng.randrange(len(IN_PLACE))))
                    dead.add(present)
            else:
                break
        at = 0
        for event in here:  # lines about other sites may stand in between
            at = rng.randint(at, len(events))
            events.insert(at, event)
            at += 1
    return events, names, dead


def draw_program(seed: int, net: Net) -> Program:
    """A random program."""
    rng = random.Random(seed)
    paths = [path for path, _ in net.named_modules() if path.count(".") >= 1]
    blocks = rng.random() < 0.3
    events, names, dead = _draw_events(rng, paths, blocks)
    derived = {}
    for i in range(rng.randint(0, 2)):
        derived[f"d{i}"] = (rng.choice(list(names)), rng.choice((*VIEWS, "{0} * 3", "{0}.tanh()", "({0} * 2)[:, :2]")))
    pool = [*names, *derived]
    backwards = []
    for _ in range(rng.randint(1, 3)):
        made = Backward(loss=("out", *rng.sample(pool, rng.randint(0, min(2, len(pool))))), block=blocks)
        useful = [name for name in pool if (name in names and name not in dead) or name in made.loss]
        for name in rng.sample(useful, rng.randint(min(1, len(useful)), len(useful))):
            edits = name in names and not any(of == name and one in made.loss for one, (of, _) in derived.items())
            made.lines += [(name, rng.choice((-1, rng.randrange(len(EDITS)))) if edits else -1) for _ in range(rng.randint(1, 2))]
        backwards.append(made)
    events.append(("read", "out", "head"))
    return Program(seed, events, {**names, "out": "head"}, derived, backwards)


class _Tap(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, back: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.back = back
        return value.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return ctx.back(gradient), None


@dataclass
class _Version:
    """What flows back to one version of a value: the lines that are about it."""

    early: list[int] = field(default_factory=list)
    names: list[str] = field(default_factory=list)


def by_hand(program: Program, net: Net, x: Tensor) -> tuple[list[Tensor], dict[str, Tensor]]:
    """The gradients that the lines keep, in their order, and those of the parameters."""
    kept: dict[tuple[int, int], Tensor] = {}
    running = -1

    def tapped(value: Tensor, version: _Version) -> Tensor:
        def passing(gradient: Tensor) -> Tensor:
            for place in version.early if not running else ():
                kept[-1, place] = gradient.clone()
            for place, (name, edit) in enumerate(program.backwards[running].lines):
                of, text = program.derived.get(name, ("", ""))
                if name in version.names:
                    gradient = EDITS[edit][1](gradient) if edit >= 0 else gradient
                    kept[running, place] = gradient.clone()
                elif of in version.names and text in VIEWS:  # the gradient of a slice is that slice of the gradient
                    kept[running, place] = eval(text.format(of), {of: gradient}).clone()
            return gradient

        return _Tap.apply(value, passing)

    values: dict[str, Tensor] = {}
    handles = []
    for path in dict.fromkeys(program.paths.values()):
        mine = [
            (place, event)
            for place, event in enumerate(program.events)
            if (event[1] if event[0] == "write" else program.paths[event[1]]) == path
        ]

        def hook(_module: Any, _args: Any, output: Tensor, mine: list[Any] = mine) -> Tensor:
            version = _Version()
            at = [(tapped(output, version), version)]  # for each value that the site has had, its last version
            where: dict[str, int] = {}
            for place, (what, subject, how) in mine:
                if what == "read":
                    where[subject] = len(at) - 1
                elif what == "early":
                    at[where[subject]][1].early.append(place)
                elif what == "write":
                    version = _Version()
                    at.append((tapped(at[-1][0] * how, version), version))
                else:
                    version = _Version()
                    at[where[subject]] = (tapped(IN_PLACE[how][1](at[where[subject]][0]), version), version)
            for name, place in where.items():
                values[name] = at[place][0]
                at[place][1].names.append(name)
            return at[-1][0]

        handles.append(net.get_submodule(path).register_forward_hook(hook))
    net(x)
    for handle in handles:
        handle.remove()
    for name, (of, text) in program.derived.items():
        value = eval(text.format(of), {of: values[of]})
        values[name] = value if text in VIEWS else tapped(value, _Version(names=[name]))
    net.zero_grad()
    for number, each in enumerate(program.backwards):
        running = number
        torch.stack([values[name].pow(2).sum() for name in each.loss]).sum().backward(retain_graph=True)
    lines = [(-1, place) for place, event in enumerate(program.events) if event[0] == "early"]
    lines += [(number, place) for number, each in enumerate(program.backwards) for place, (_, edit) in enumerate(each.lines) if edit < 0]
    return [kept[line] for line in lines], _gradients(net)


def _gradients(net: Net) -> dict[str, Tensor]:
    return {name: parameter.grad.clone() for name, parameter in net.named_parameters() if parameter.grad is not None}


def text_of(programs: list[Program]) -> str:
    """The trace of one program, or of several, each in an invoke."""
    if len(programs) == 1:
        return "with model.trace(x[0]):\n" + _indented(programs[0].text())
    invokes = [f"with tracer.invoke(x[{place}]):\n{_indented(program.text())}" for place, program in enumerate(programs)]
    return "with model.trace() as tracer:\n" + _indented("\n".join(invokes))


def _indented(text: str) -> str:
    return "\n".join("    " + line for line in text.splitlines())


def traced(programs: list[Program], net: Net, x: list[Tensor]) -> tuple[list[Tensor], dict[str, Tensor]]:
    """The same by a trace."""
    net.zero_grad()
    scope = {"model": NNsight(net), "x": x, "kept": [], "nnsight": nnsight}
    exec(compile(text_of(programs), "<gradients>", "exec"), scope)
    kept: list[Any] = scope["kept"]  # type: ignore[assignment]
    return [nnsight.value(value) for value in kept], _gradients(net)


def fault(seed: int) -> str:
    """What is wrong with the run of a program, or of two in one batch; nothing, if it is as by hand."""
    net = Net(random.Random(seed))
    programs = [draw_program(seed + 1_000_000 * place, net) for place in range(2 if seed % 3 == 2 else 1)]
    torch.manual_seed(seed)
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.5)
    x = [torch.randn(3, WIDTH) for _ in programs]
    expected: list[Tensor] = []
    parameters: dict[str, Tensor] = {}
    for program, rows in zip(programs, x, strict=True):
        kept, gradients = by_hand(program, net, rows)
        expected += kept
        parameters = {name: gradient + parameters.get(name, 0) for name, gradient in gradients.items()}
    try:
        found, of_parameters = traced(programs, net, x)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(of_parameters, parameters, rtol=1e-4, atol=1e-5)
    except (AssertionError, nnsight.NNsightError) as error:
        return f"{type(error).__name__}: {error}\n\n{text_of(programs)}"
    return ""
