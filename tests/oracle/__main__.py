"""`python -m tests.oracle 17` shows one seed in full; `python -m tests.oracle 0 5000` the faults of a range and the kinds of answers."""

from __future__ import annotations

import sys
from collections import Counter

import torch

from .generate import draw_case
from .native import answer
from .traced import source
from .verdict import judge, report


def show(seed: int) -> None:
    """The program, the answer, the fault."""
    case = draw_case(seed, True)
    right = answer(case.module, case.x, case.program, case.plain)
    print(source(case), f"\n\nright: {right.error or 'values'}", f"(or values: {right.either})" if right.either else "")
    print(right.values)
    print("\n" + (report(case) if judge(case).fault else "the library agrees"))


def survey(first: int, last: int) -> None:
    """Each fault in a line, then the kinds."""
    kinds = Counter[str]()
    for seed in range(first, last):
        verdict = judge(draw_case(seed, True))
        kinds[verdict.kind] += 1
        if verdict.fault:
            print(f"seed {seed} ({verdict.kind}): {verdict.fault.splitlines()[0]}")
    print(*(f"{count:6} {kind}" for kind, count in kinds.most_common()), sep="\n")


torch.set_num_threads(1)
arguments = [int(argument) for argument in sys.argv[1:]]
survey(*arguments) if len(arguments) == 2 else show(*arguments)
