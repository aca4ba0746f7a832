"""The library against the oracle, on random programs over several steps of one model."""

from __future__ import annotations

import os

import pytest

from nnsight_graph.model import invoker
from nnsight_graph.model import nnsight as wrapper
from tests.oracle.steps import STEPS, draw_steps, judge_steps, report_steps

PARTS = 6
SEEDS = 12_000 if os.environ.get("NNSIGHT_GRAPH_LONG") == "1" else 36 if os.environ.get("NNSIGHT_GRAPH_TINY") == "1" else 480


@pytest.mark.parametrize("part", range(PARTS))
def test_steps_mean_what_a_chain_of_copies_means(part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (wrapper, invoker):
        monkeypatch.setattr(module, "UNKNOWN", STEPS + 2)  # two steps of each open loop never come
    cases = [case for case in map(draw_steps, range(part, SEEDS, PARTS)) if case is not None]
    verdicts = [judge_steps(case) for case in cases]
    wrong = [case for case, verdict in zip(cases, verdicts, strict=True) if verdict.fault]
    if wrong:
        seeds = [case.case.seed for case in wrong][:20]
        pytest.fail(f"{len(wrong)} of {len(cases)} seeds are wrong: {seeds}\n\n{report_steps(wrong[0])}", pytrace=False)
    either = [verdict for verdict in verdicts if verdict.kind.startswith("either") and verdict.kind.endswith("error")]
    assert len(either) <= max(6, len(verdicts) // 5)
    assert len(cases) < 30 or {case.form for case in cases} == {"root", "inner", "calls"}
    assert len(cases) < 30 or sum(case.loop is not None for case in cases) > len(cases) // 3
