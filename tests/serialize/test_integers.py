"""No pair of integers ends the process, whatever operation it is given to."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from nnsight_graph import Limits
from nnsight_graph.run.limits import Meter

pytestmark = pytest.mark.slow

LEAST = {dtype: torch.iinfo(dtype).min for dtype in (torch.int32, torch.int64)}


def test_every_operation_on_the_smallest_and_the_largest() -> None:
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-m", "tests.serialize.integer_runs"], capture_output=True, text=True, cwd=root, check=False)
    lines = done.stdout.splitlines()
    assert done.returncode == 0, f"status {done.returncode} in {lines[-1:]}: {done.stderr[-500:]}"
    assert lines[-1] == "all"
    assert {".lcm {}", "torch.gcd {}", "floordiv {}", ".div {'rounding_mode': 'trunc'}"} <= set(lines)


@pytest.mark.parametrize("dtype", LEAST)
@pytest.mark.parametrize("function", [torch.lcm, torch.Tensor.lcm, torch.Tensor.lcm_, torch.Tensor.div_, torch.divide])
def test_what_would_end_it_is_refused_and_the_rest_is_not(function: Callable[..., Any], dtype: torch.dtype) -> None:
    meter, named = Meter(Limits()), {} if "lcm" in function.__name__ else {"rounding_mode": "trunc"}
    least, by = torch.tensor([3, LEAST[dtype]], dtype=dtype), torch.tensor([2, -1], dtype=dtype)
    with pytest.raises(OverflowError, match="the smallest integer divided by -1"):
        meter.evaluate(function, [least, by], named)
    near = least + torch.tensor([0, 1], dtype=dtype)
    expected = function(near.clone(), by, **named)
    assert torch.equal(meter.evaluate(function, [near, by], named), expected)
    floats = least.double()
    if named:
        assert torch.equal(meter.evaluate(function, [floats.clone(), by], named), function(floats, by, **named))


def test_small_integers_have_room() -> None:
    given = torch.tensor([-128, -128], dtype=torch.int8), torch.tensor([-1, 5], dtype=torch.int8)
    assert torch.equal(Meter(Limits()).evaluate(torch.lcm, list(given), {}), torch.lcm(*given))
