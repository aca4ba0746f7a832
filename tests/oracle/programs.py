"""Programs: what stands inside `with model.trace(x) as tracer:`, as data.

A line is a template of Python with `{0}`, `{1}`… for the names it uses: so what the oracle executes, what is traced and what is
printed is one text. A statement that has a body (rows, branches, loops, steps) would return several lines from `lines`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Literal

from torch import Tensor

Kind = Literal["input", "inputs", "output", "result"]


@dataclass(frozen=True)
class Site:
    """A place as a line names it: a module's path (any of its names) and what of it."""

    path: str
    kind: Kind

    def __str__(self) -> str:
        return "tracer.result" if self.kind == "result" else f"{envoy(self.path)}.{self.kind}"


def envoy(path: str) -> str:
    """`h.2.mlp` as `model.h[2].mlp`."""
    return "model" + "".join(f"[{part}]" if part.isdigit() else f".{part}" for part in path.split(".") if part)


class Effect(Enum):
    """What an operation returns: new storage, a view of its first operand, or either."""

    FRESH = "fresh"
    VIEW = "view"
    MAYBE = "maybe"


@dataclass(frozen=True)
class Read:
    """`target = site`."""

    target: str
    site: Site

    @property
    def operands(self) -> tuple[str, ...]:
        return ()

    def lines(self) -> list[str]:
        return [f"{self.target} = {self.site}"]


@dataclass(frozen=True)
class Compute:
    """`target = template` of the operands; calls of modules and elements of containers too."""

    target: str
    template: str
    operands: tuple[str, ...]
    effect: Effect = Effect.FRESH

    @property
    def expression(self) -> str:
        return self.template.format(*self.operands)

    def lines(self) -> list[str]:
        return [f"{self.target} = {self.expression}"]


@dataclass(frozen=True)
class Edit:
    """A line that changes its first operand in place; `target` is another name for it, if the line binds one."""

    template: str
    operands: tuple[str, ...]
    target: str | None = None

    def lines(self) -> list[str]:
        text = self.template.format(*self.operands)
        return [f"{self.target} = {text}" if self.target else text]


@dataclass(frozen=True)
class Write:
    """`site = template` of the operands."""

    site: Site
    template: str
    operands: tuple[str, ...]

    target = None

    @property
    def expression(self) -> str:
        return self.template.format(*self.operands)

    def lines(self) -> list[str]:
        return [f"{self.site} = {self.expression}"]


@dataclass(frozen=True)
class Augment:
    """`site += operand`: an edit in place of what passes; that Python then assigns the same tensor again writes nothing."""

    site: Site
    template: str
    operands: tuple[str, ...]

    target = None

    def lines(self) -> list[str]:
        return [self.template.format(self.site, *self.operands)]

    def parts(self, name: str) -> tuple[Read, Edit]:
        """The two lines, with a name for what was read."""
        return Read(name, self.site), Edit(self.template, (name, *self.operands))


@dataclass(frozen=True)
class Save:
    """`target = operand.save()`."""

    target: str
    operands: tuple[str]

    def lines(self) -> list[str]:
        return [f"{self.target} = {self.operands[0]}.save()"]


Statement = Read | Compute | Edit | Write | Augment | Save


@dataclass(frozen=True)
class Program:
    """Statements in order, and the real tensors they use by name."""

    statements: tuple[Statement, ...]
    constants: dict[str, Tensor] = field(default_factory=dict)

    @property
    def saves(self) -> list[str]:
        """The names that outlive the trace."""
        return [statement.target for statement in self.statements if isinstance(statement, Save)]

    def lines(self) -> list[str]:
        """The body of the trace."""
        return [line for statement in self.statements for line in statement.lines()]

    def without(self, index: int) -> Program:
        """The program less one statement and all that needs the names it bound."""
        gone = {self.statements[index].target} - {None}
        kept = list(self.statements[:index])
        for statement in self.statements[index + 1 :]:
            if gone.intersection(statement.operands):
                gone |= {statement.target} - {None}
            else:
                kept.append(statement)
        return Program(tuple(kept), self.constants)
