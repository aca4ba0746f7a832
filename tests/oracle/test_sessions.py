"""Random sessions against the oracle."""

from __future__ import annotations

import os

import pytest

from tests.oracle.sessions import draw_sequence, judge, text

COUNT = 4000 if os.environ.get("NNSIGHT_GRAPH_LONG") == "1" else 12 if os.environ.get("NNSIGHT_GRAPH_TINY") == "1" else 160
PARTS = 4


@pytest.mark.parametrize("part", range(PARTS))
def test_sessions_mean_their_traces(part: int) -> None:
    verdicts = {seed: judge(draw_sequence(seed)) for seed in range(part, COUNT, PARTS)}
    wrong = [seed for seed, verdict in verdicts.items() if verdict.fault]
    if wrong:
        first = draw_sequence(wrong[0])
        shown = f"{verdicts[wrong[0]].fault}\n\n{text(first)}\n" + "\n".join(str(case.module) for case in first.cases)
        pytest.fail(f"{len(wrong)} of {len(verdicts)} seeds are wrong: {wrong[:20]}\n\n{shown}", pytrace=False)
    assert sum(verdict.kind == "either" for verdict in verdicts.values()) <= len(verdicts) // 2
