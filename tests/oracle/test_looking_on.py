"""What looks on at a forward, on random modules: caches show what hooks see, scans the shapes of a run."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch

import nnsight_graph as nnsight
from tests.oracle.modules import draw_module
from tests.oracle.trees import Tree, apply, difference

LONG = os.environ.get("NNSIGHT_GRAPH_LONG") == "1"
SEEDS = range(6_000 if LONG else 20 if os.environ.get("NNSIGHT_GRAPH_TINY") == "1" else 200)


def seen_by_hooks(module: torch.nn.Module, x: torch.Tensor, scaled: str) -> dict[str, list[Tree]]:
    """What each module returns, call by call, in a forward in which one of them returns twice as much."""
    seen: dict[str, list[Tree]] = {}
    handles = []
    try:
        for path, child in module.named_modules():
            if path == scaled:
                handles.append(child.register_forward_hook(lambda _module, _args, output: apply(lambda leaf: leaf * 2, output)))

            def look(_module: torch.nn.Module, _args: Any, output: Tree, path: str = path) -> None:
                seen.setdefault(path, []).append(apply(torch.clone, output))

            handles.append(child.register_forward_hook(look))
        with torch.no_grad():
            module(x.clone())
    finally:
        for handle in handles:
            handle.remove()
    return seen


def assert_same_form(right: Tree, got: Any, where: str) -> None:
    """The same nesting, shapes and dtypes."""
    if isinstance(right, torch.Tensor):
        assert (tuple(got.shape), got.dtype) == (tuple(right.shape), right.dtype), where
        return
    if not isinstance(right, dict):
        assert len(got) == len(right), where
    for key in right if isinstance(right, dict) else range(len(right)):
        assert_same_form(right[key], got[key], where)


@pytest.mark.parametrize("part", range(4))
def test_a_cache_holds_what_hooks_see(part: int) -> None:
    for seed in SEEDS[part::4]:
        module, x = draw_module(seed)
        paths = [path for path, child in module.named_modules() if path]
        plain = seen_by_hooks(module, x, "")
        single = [path for path in paths if len(plain.get(path, ())) == 1 and isinstance(plain[path][0], torch.Tensor)]
        scaled = single[seed % len(single)]
        right = seen_by_hooks(module, x, scaled)
        model = nnsight.NNsight(module)
        with torch.no_grad(), model.trace(x.clone()) as tracer:
            cache = tracer.cache()
            envoy = model.get(scaled)
            envoy.output = envoy.output * 2
        for path, calls in right.items():
            got = cache[f"model.{path}" if path else "model"]
            outputs = [entry.output for entry in (got if isinstance(got, list) else [got])]
            assert len(outputs) == len(calls), f"seed {seed}, {path}"
            for one, other in zip(calls, outputs, strict=True):
                assert difference(one, other) is None, f"seed {seed}, {path}"


@pytest.mark.parametrize("part", range(4))
def test_a_scan_shows_the_shapes_of_a_run(part: int) -> None:
    for seed in SEEDS[part::4]:
        module, x = draw_module(seed)
        right = seen_by_hooks(module, x, "")
        model = nnsight.NNsight(module)
        with model.scan(x):
            for path, calls in right.items():
                assert_same_form(calls[0], model.get(path).output if path else model.output, f"seed {seed}, {path}")
