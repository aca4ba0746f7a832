"""Changed programs are run within limits, in processes that are watched; what was found once is tried for ever."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from nnsight_graph import GraphFormatError, LanguageModel
from nnsight_graph.model.saved import SavedGraph
from nnsight_graph.serialize.container import read
from nnsight_graph.serialize.content import Content
from tests.serialize.fuzz_runs import CORPUS, outcome_of, state_of
from tests.serialize.programs import COLOSSEUM, EIFFEL

pytestmark = pytest.mark.slow

SECONDS = 1_800 if os.environ.get("NNSIGHT_GRAPH_LONG") == "1" else 90


def test_changed_programs() -> None:
    command, root = [sys.executable, "-m", "tests.serialize.fuzz_runs", str(SECONDS)], Path(__file__).parents[2]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    return LanguageModel("nnsight-graph/capitals", dispatch=True)


@pytest.mark.parametrize("path", sorted(CORPUS.glob("*.nng")), ids=lambda path: path.stem)
def test_found_programs(lm: LanguageModel, path: Path) -> None:
    content = Content(*read(path))
    try:
        graph = SavedGraph(content)
    except GraphFormatError:
        return
    inputs = (EIFFEL, COLOSSEUM)[: max(graph._invokes, 1)]
    kwargs = {"max_new_tokens": 3} if graph._document.function else {}
    lm._module.zero_grad(set_to_none=True)
    assert not outcome_of(lm, content, inputs, kwargs, state_of(lm._module)).startswith("!")
