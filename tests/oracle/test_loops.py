"""Random programs with loops over values against the oracle."""

from __future__ import annotations

import os

import pytest

pytest.importorskip("nnsight_graph")

from tests.oracle.loops import draw_looped, judge, text

COUNT = 4000 if os.environ.get("NNSIGHT_GRAPH_LONG") == "1" else 20 if os.environ.get("NNSIGHT_GRAPH_TINY") == "1" else 200
PARTS = 4


@pytest.mark.parametrize("part", range(PARTS))
def test_loops_mean_what_they_say(part: int) -> None:
    drawn = {seed: looped for seed in range(part, COUNT, PARTS) if (looped := draw_looped(seed)) is not None}
    verdicts = {seed: judge(looped) for seed, looped in drawn.items()}
    wrong = [seed for seed, verdict in verdicts.items() if verdict.fault]
    if wrong:
        shown = f"{verdicts[wrong[0]].fault}\n\n{text(drawn[wrong[0]])}\n{drawn[wrong[0]].case.module}"
        pytest.fail(f"{len(wrong)} of {len(verdicts)} seeds are wrong: {wrong[:20]}\n\n{shown}", pytrace=False)
    assert sum(verdict.kind == "refused" for verdict in verdicts.values()) <= len(verdicts) * 2 // 3
