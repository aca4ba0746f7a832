"""Random programs with branches against the oracle."""

from __future__ import annotations

import os

import pytest

pytest.importorskip("nnsight_graph")

from tests.oracle.branches import draw_branched, judge, text

COUNT = 6000 if os.environ.get("NNSIGHT_GRAPH_LONG") == "1" else 20 if os.environ.get("NNSIGHT_GRAPH_TINY") == "1" else 300
PARTS = 4


@pytest.mark.parametrize("part", range(PARTS))
def test_branches_mean_what_they_say(part: int) -> None:
    verdicts = {seed: judge(draw_branched(seed)) for seed in range(part, COUNT, PARTS)}
    wrong = [seed for seed, verdict in verdicts.items() if verdict.fault]
    if wrong:
        first = draw_branched(wrong[0])
        shown = f"{verdicts[wrong[0]].fault}\n\n{text(first)}\n{first.case.module}"
        pytest.fail(f"{len(wrong)} of {len(verdicts)} seeds are wrong: {wrong[:20]}\n\n{shown}", pytrace=False)
    assert sum(verdict.kind == "refused" for verdict in verdicts.values()) <= len(verdicts) // 2
