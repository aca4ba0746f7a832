"""Random modules with the habits of real models: shared storage, in-place operations, tuples, keywords, one module under two names."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Shape:
    """The shape of the input: `[batch, seq, width]`; width is even."""

    batch: int
    seq: int
    width: int


class Residual(nn.Module):
    """`x + inner(x)`."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)  # type: ignore[no-any-return]


class Accumulate(Residual):
    """A residual block that adds in place, as ResNets do: what `inner` returned is overwritten."""

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.inner(x)
        y += x
        return y


class Pair(nn.Module):
    """Returns a tuple `(hidden, extra)`."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first = first
        self.second = second

    def forward(self, x: Tensor) -> Any:
        hidden = self.first(x)
        return hidden, self.second(hidden)


class Named(Pair):
    """Returns a dict with `hidden` and `extra`."""

    def forward(self, x: Tensor) -> Any:
        hidden = self.first(x)
        return {"hidden": hidden, "extra": self.second(x)}


class Unpack(nn.Module):
    """Makes one tensor of what `block` returns; uses the second part or not."""

    def __init__(self, block: nn.Module, both: bool) -> None:
        super().__init__()
        self.block = block
        self.both = both

    def forward(self, x: Tensor) -> Tensor:
        out = self.block(x)
        hidden, extra = out.values() if isinstance(out, dict) else out
        return hidden + 0.5 * extra if self.both else hidden  # type: ignore[no-any-return]


class Gated(nn.Module):
    """A child that is called with keywords."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, hidden: Tensor, gate: Tensor | None = None) -> Tensor:
        y: Tensor = self.inner(hidden)
        return y if gate is None else y * gate


class Keyword(nn.Module):
    """Calls its child as `child(hidden=x)` or `child(x, gate=...)`."""

    def __init__(self, inner: nn.Module, gated: bool) -> None:
        super().__init__()
        self.child = Gated(inner)
        self.gated = gated

    def forward(self, x: Tensor) -> Tensor:
        return self.child(x, gate=torch.sigmoid(x)) if self.gated else self.child(hidden=x)  # type: ignore[no-any-return]


class Flat(nn.Module):
    """Runs `inner` on a view without the leading dimensions, and returns a view again."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x.flatten(0, -2)).unflatten(0, x.shape[:-1])  # type: ignore[no-any-return]


class Moved(Flat):
    """Runs `inner` on a transposed view."""

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x.movedim(0, -2)).movedim(-2, 0)  # type: ignore[no-any-return]


class Split(nn.Module):
    """Returns the two halves of the last dimension: a tuple of two views of one storage."""

    def forward(self, x: Tensor) -> Any:
        half = x.shape[-1] // 2
        return x[..., :half], x[..., half:]


class Halves(nn.Module):
    """Runs `inner` on the left half only."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.split = Split()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.split(x)
        return torch.cat((self.inner(left), right), -1)


class Twice(nn.Module):
    """Calls one module twice, or once under its second name."""

    def __init__(self, inner: nn.Module, both: bool) -> None:
        super().__init__()
        self.once = inner
        self.again = inner
        self.both = both

    def forward(self, x: Tensor) -> Tensor:
        return self.again(self.once(x) if self.both else x)  # type: ignore[no-any-return]


class Table(nn.Module):
    """What it returns is the same for all inputs of a batch."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(9, width, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight[: x.shape[1]] * 1


class Shifted(nn.Module):
    """Adds a table of positions to what goes into a model."""

    def __init__(self, inner: nn.Module, width: int) -> None:
        super().__init__()
        self.table, self.seen, self.inner = Table(width), nn.Identity(), inner

    def forward(self, x: Tensor) -> Any:
        return self.inner(x + self.seen(self.table(x)))


class Stack(nn.Module):
    """Blocks in a ModuleList, reached by index; the last may return anything."""

    def __init__(self, blocks: list[nn.Module], head: nn.Module) -> None:
        super().__init__()
        self.h = nn.ModuleList(blocks)
        self.head = head

    def forward(self, x: Tensor) -> Any:
        for block in self.h:
            x = block(x)
        return self.head(x)


class Maker:
    """Draws modules that keep the shape of a tensor whose last dimension is `width`."""

    def __init__(self, rng: random.Random, inplace: bool) -> None:
        self.rng = rng
        self.inplace = inplace

    def leaf(self, width: int) -> nn.Module:
        """One of torch's own modules."""
        makers: list[Callable[[], nn.Module]] = [
            lambda: nn.Linear(width, width, dtype=torch.float64),
            lambda: nn.LayerNorm(width, dtype=torch.float64),
            nn.ReLU,
            nn.Identity,
            lambda: nn.Dropout(0.5),
            nn.GELU,
        ]
        if self.inplace:
            makers += [lambda: nn.ReLU(inplace=True), lambda: nn.Hardtanh(-2.0, 0.25, inplace=True)]
        return self.rng.choice(makers)()

    def block(self, depth: int, width: int) -> nn.Module:
        """A module of at most `depth` levels that returns one tensor."""
        if depth == 0 or self.rng.random() < 0.35:
            return self.leaf(width)
        return self.rng.choice([self.chain, self.wrap, self.wrap, self.fork])(depth - 1, width)

    def chain(self, depth: int, width: int) -> nn.Module:
        """A Sequential of two or three."""
        return nn.Sequential(*(self.block(depth, width) for _ in range(self.rng.randint(2, 3))))

    def wrap(self, depth: int, width: int) -> nn.Module:
        """A module around one other."""
        kind = self.rng.choice(["residual", "residual", "accumulate", "keyword", "flat", "moved", "halves", "twice"])
        if kind == "halves":
            return Halves(self.block(depth, width // 2)) if width % 4 == 0 else Residual(self.block(depth, width))
        inner, flag = self.block(depth, width), self.rng.random() < 0.5
        if kind == "keyword":
            return Keyword(inner, flag)
        if kind == "twice":
            return Twice(inner, flag)
        if kind == "accumulate" and not self.inplace:
            return Residual(inner)
        return {"residual": Residual, "accumulate": Accumulate, "flat": Flat, "moved": Moved}[kind](inner)

    def several(self, depth: int, width: int) -> nn.Module:
        """A module that returns a tuple or a dict."""
        return self.rng.choice([Pair, Named])(self.block(depth, width), self.block(depth, width))

    def fork(self, depth: int, width: int) -> nn.Module:
        """A module that returns several values, and a parent that makes one of them."""
        return Unpack(self.several(depth, width), self.rng.random() < 0.5)

    def root(self, width: int) -> nn.Module:
        """The whole model."""
        count = self.rng.randint(2, 4)
        blocks = [self.block(2, width) for _ in range(count)]
        if self.rng.random() < 0.4:
            return nn.Sequential(*blocks)
        return Stack(blocks, self.several(1, width) if self.rng.random() < 0.3 else self.block(1, width))


def draw_module(seed: int) -> tuple[nn.Module, Tensor]:
    """A module in eval mode with its input, both in float64; the global random state stays as it was."""
    rng = random.Random(f"module {seed}")
    shape = Shape(rng.randint(2, 3), rng.randint(2, 4), rng.choice([4, 6]))
    generator = torch.Generator().manual_seed(seed)
    for module in candidates(rng, shape.width):
        fill(module, generator)
        x = torch.randn(shape.batch, shape.seq, shape.width, generator=generator, dtype=torch.float64)
        if keeps_input(module, x):
            return module, x
    raise AssertionError("candidates never end")


def draw_batched_module(seed: int) -> tuple[nn.Module, Tensor]:
    """The module of a seed, or one in which something does not depend on the batch."""
    module, x = draw_module(seed)
    if seed % 3:
        return module, x
    with torch.random.fork_rng(devices=[]):
        shifted = Shifted(module, x.shape[-1]).eval()
    fill(shifted.table, torch.Generator().manual_seed(seed))
    return shifted, x


def candidates(rng: random.Random, width: int) -> Iterator[nn.Module]:
    """Modules without end; less than a third of the seeds have in-place operations."""
    maker = Maker(rng, inplace=rng.random() < 0.3)
    while True:
        with torch.random.fork_rng(devices=[]):
            module = maker.root(width)
        yield module.eval()


def fill(module: nn.Module, generator: torch.Generator) -> None:
    """Parameters of a size that keeps values away from zero and from infinity."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.6 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))


def keeps_input(module: nn.Module, x: Tensor) -> bool:
    """Whether a plain forward leaves its argument alone (what a trace does with one that does not is another question)."""
    given = x.clone()
    version = given._version
    with torch.no_grad():
        module(given)
    return given._version == version
