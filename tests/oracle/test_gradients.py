"""Random programs about gradients against the same by hand."""

from __future__ import annotations

import os

import pytest

from tests.oracle.gradients import fault

COUNT = 4000 if os.environ.get("NNSIGHT_GRAPH_LONG") == "1" else 40 if os.environ.get("NNSIGHT_GRAPH_TINY") == "1" else 400
PARTS = 4


@pytest.mark.parametrize("part", range(PARTS))
def test_gradients_are_those_by_hand(part: int) -> None:
    faults = {seed: found for seed in range(part, COUNT, PARTS) if (found := fault(seed))}
    if faults:
        seed, found = next(iter(faults.items()))
        pytest.fail(f"{len(faults)} seeds are wrong: {list(faults)[:20]}\n\nseed {seed}\n{found}", pytrace=False)
