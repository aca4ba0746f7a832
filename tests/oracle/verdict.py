"""The library's outcome against the oracle's answer; a smaller program where they differ."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import nnsight_graph as nnsight

from .generate import Case
from .native import Answer, UnfitError, answer
from .traced import Outcome, run_traced, source
from .trees import difference

CAUTIOUS = ("a value that was replaced above and that a container holds", "changes a copy that nothing uses")
"""Refusals of edits that may have been right."""


@dataclass(frozen=True)
class Verdict:
    """Which kind of answer it was, and what is wrong with the outcome, if anything."""

    kind: str
    fault: str | None = None


def judge(case: Case) -> Verdict:
    """Ask both and compare."""
    right = answer(case.module, case.x, case.program, case.plain)
    return compare(loosen(case, right), run_traced(case))


def loosen(case: Case, right: Answer) -> Answer:
    """Tensors of inference mode count no versions: what the model overwrites may have been copied all the time."""
    if case.mode == "inference_mode" and right.error == "NNsightError" and not right.either and right.values:
        return replace(right, either="nothing is counted in inference mode")
    return right


def compare(right: Answer, got: Outcome) -> Verdict:
    """The first difference."""
    kind = f"either: {right.either}: {'error' if got.error else 'values'}" if right.either else right.error or "values"
    return Verdict(kind, got.left or (error_fault(right, got.error) if got.error or not right.either else None) or values_fault(right, got))


def error_fault(right: Answer, error: BaseException | None) -> str | None:
    """An error that is not the right one."""
    if right.error and not error:
        return f"no error, but {right.error} is right"
    if isinstance(error, nnsight.RecordError) and any(text in str(error) for text in CAUTIOUS):
        return None
    if error and not right.error:
        return f"{type(error).__name__}: {error}\nbut values are right"
    if error and right.error and not isinstance(error, getattr(nnsight, right.error)):
        return f"{type(error).__name__}: {error}\nbut {right.error} is right"
    return None


def values_fault(right: Answer, got: Outcome) -> str | None:
    """The first value that is not the right one."""
    if got.error:
        return None
    faults = ((name, difference(right.values[name], got.values[name])) for name in right.values)
    return next((f"{name}: {fault}" for name, fault in faults if fault), None)


def shrink(case: Case, fails: Callable[[Case], bool]) -> Case:
    """Drop statements, from the last to the first, as long as the case fails."""
    index = len(case.program.statements) - 1
    while index >= 0:
        smaller = replace(case, program=case.program.without(index))
        if fails(smaller):
            case, index = smaller, len(smaller.program.statements)
        index -= 1
    return case


def is_wrong(case: Case, kind: str) -> bool:
    """Whether outcome and answer differ where the answer is of this kind; a program without an answer proves nothing."""
    try:
        verdict = judge(case)
    except (UnfitError, ArithmeticError, RuntimeError, LookupError, ValueError, TypeError, AttributeError, AssertionError):
        return False
    return verdict.fault is not None and verdict.kind == kind


def report(case: Case) -> str:
    """A failing case in words: the smallest program, its fault, and its whole source."""
    kind = judge(case).kind
    small = shrink(case, lambda smaller: is_wrong(smaller, kind))
    return f"seed {case.seed}, {kind}: {judge(small).fault}\n\n{source(small)}"
