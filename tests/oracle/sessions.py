"""Random sessions: programs of the oracle one after the other, their tensors made by lines of the session, some in loops.

Each trace has to give what its program gives alone; where one is an error, the session ends with it, and what was saved before is there.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from textwrap import indent
from typing import Any

import torch

import nnsight_graph as nnsight

from .generate import Case, draw_case
from .native import Answer, answer
from .traced import Outcome, compiled, hooks_left, plain
from .trees import apply
from .verdict import Verdict, error_fault, loosen, values_fault


@dataclass(frozen=True)
class Sequence:
    """Programs of one session.

    Attributes:
        cases: The programs.
        made: For each, the names of its tensors that lines of the session make.
        looped: Which traces stand in a loop of two turns.
    """

    cases: tuple[Case, ...]
    made: tuple[frozenset[str], ...]
    looped: frozenset[int]


def draw_sequence(seed: int) -> Sequence:
    """The session of a seed."""
    rng = random.Random(f"session {seed}")
    cases: list[Case] = []
    while len(cases) < 3:
        case = draw_case(rng.randrange(20_000))
        if case.mode != "inference_mode" and (not cases or case.mode == cases[0].mode):
            cases.append(case)
    made = tuple(frozenset(name for name in ("x", *case.program.constants) if rng.random() < 0.5) for case in cases)
    return Sequence(tuple(cases), made, frozenset(place for place in range(3) if rng.random() < 0.3))


def text(sequence: Sequence) -> str:
    """The session in its mode."""
    lines: list[str] = []
    for place, case in enumerate(sequence.cases):
        names = sorted({"x", *case.program.constants})
        lines += [f"{name}__{place} = nnsight.apply(torch.clone, {name}_{place})" for name in names if name in sequence.made[place]]
        body = [renamed(line, place, sequence) for line in case.program.lines() or ["pass"]]
        x = f"x__{place}" if "x" in sequence.made[place] else f"x_{place}"
        trace = [f"with model_{place}.trace({x}) as tracer_{place}:", *(indent(line, "    ") for line in body)]
        if place in sequence.looped:
            trace = [f"with session.iter([0, 1]) as turn_{place}:", *(indent(line, "    ") for line in trace)]
        lines += trace
    body_text = indent("\n".join(lines), " " * 8)
    return f"with torch.{sequence.cases[0].mode}():\n    with model_0.session() as session:\n{body_text}\n"


def renamed(line: str, place: int, sequence: Sequence) -> str:
    """A line of a program with names of its own."""
    made = sequence.made[place]
    tensors = {"x", *sequence.cases[place].program.constants}

    def name(match: re.Match[str]) -> str:
        word = match[0]
        return f"{word}__{place}" if word in tensors and word in made else f"{word}_{place}"

    words = "|".join(sorted((re.escape(word) for word in {"model", "tracer", *tensors}), key=len, reverse=True))
    return re.sub(rf"(?<![\w.\"'])(?:{words}|s?v\d+)(?![\w(])", name, line)


def run(sequence: Sequence) -> tuple[list[Outcome], BaseException | None]:
    """The session through the library: what each program gave, and the error."""
    names: dict[str, Any] = {"nnsight": nnsight, "torch": torch}
    attributes = []
    for place, case in enumerate(sequence.cases):
        names |= {f"{name}_{place}": tensor.clone() for name, tensor in {"x": case.x, **case.program.constants}.items()}
        names[f"model_{place}"] = nnsight.NNsight(case.module)
        attributes.append([set(vars(child)) for child in case.module.modules()])
    error: BaseException | None = None
    try:
        exec(compiled(text(sequence)), names)
    except Exception as caught:
        error = caught
    outcomes = []
    for place, case in enumerate(sequence.cases):
        values: dict[str, Any] = {}
        for name in case.program.saves:
            proxy = names.get(f"{name}_{place}")
            if proxy is not None and (type(proxy) is not nnsight.Proxy or type(proxy._value).__name__ != "Unset"):
                values[name] = apply(plain, nnsight.value(proxy))
        outcomes.append(Outcome(values, None, hooks_left(case.module, attributes[place])))
    return outcomes, error


def judge(sequence: Sequence) -> Verdict:
    """Each program's answer against what its trace gave."""
    answers: list[Answer] = [loosen(case, answer(case.module, case.x, case.program, case.plain)) for case in sequence.cases]
    if any(right.either for right in answers):
        return Verdict("either")
    outcomes, error = run(sequence)
    for place, (right, got) in enumerate(zip(answers, outcomes, strict=True)):
        if got.left:
            return Verdict("values", got.left)
        if right.error:
            return Verdict(right.error, error_fault(right, error))
        if error is not None and len(got.values) < len(sequence.cases[place].program.saves):
            return Verdict("values", f"trace {place}: {type(error).__name__}: {error}\nbut values are right")
        fault = values_fault(right, got)
        if fault:
            return Verdict("values", f"trace {place}: {fault}")
    return Verdict("values", f"{type(error).__name__}: {error}" if error is not None else None)
