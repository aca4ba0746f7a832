"""What holds for every test: nothing is left behind, examples are drawn alike, nothing is fetched from the network."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the tensors of tests are small, and sums come out alike on every machine
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import hypothesis
import pytest

from tests.leftovers.process import changed_process_state, new_threads, process_state, threads

if TYPE_CHECKING:
    from tests.kernel import Kernel

HERE = Path(__file__).parent
HAS_TORCH = find_spec("torch") is not None
if HAS_TORCH:
    from tests.leftovers.torch_state import TorchState, switches

TORCH_STATE = TorchState() if HAS_TORCH else None

hypothesis.settings.register_profile("usual", max_examples=50, deadline=None, derandomize=True)
hypothesis.settings.register_profile("tiny", max_examples=8, deadline=None, derandomize=True)
hypothesis.settings.register_profile("long", max_examples=2000, deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
profile = "long" if os.environ.get("NNSIGHT_GRAPH_LONG") == "1" else "tiny" if os.environ.get("NNSIGHT_GRAPH_TINY") == "1" else "usual"
hypothesis.settings.load_profile(profile)


def is_torch_free(path: Path) -> bool:
    """tests/graph, and the files that say `pytestmark = pytest.mark.torch_free`."""
    return HERE / "graph" in path.parents or "pytestmark = pytest.mark.torch_free" in path.read_text(encoding="utf-8")


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    is_test = collection_path.suffix == ".py" and collection_path.name.startswith("test_")
    return True if is_test and not HAS_TORCH and not is_torch_free(collection_path) else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE / "graph" in item.path.parents:
            item.add_marker("torch_free")
        if HERE / "huggingface" in item.path.parents:  # many families of models
            item.add_marker("slow")


@pytest.fixture(scope="session")
def torch_state() -> TorchState | None:
    return TORCH_STATE


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """Fails a test after which a hook, a replaced function, a mode, a thread or a handler is there that was not there before."""
    process, alive, torch_before = process_state(), threads(), switches() if TORCH_STATE else {}
    yield
    left = changed_process_state(process) + new_threads(alive)
    left += TORCH_STATE.end_of_test(torch_before, profile != "tiny") if TORCH_STATE else []
    if left:
        pytest.fail("the test left behind:\n  " + "\n  ".join(left), pytrace=False)


@pytest.fixture(autouse=True, scope="module")
def nothing_left_in_memory() -> Iterator[None]:
    """The same, once per test file, for the modules that only a search through memory finds."""
    yield
    left = TORCH_STATE.end_of_file() if TORCH_STATE else []
    if left:
        pytest.fail("the tests of this file left behind:\n  " + "\n  ".join(left), pytrace=False)


@pytest.fixture(scope="module")
def kernel() -> Iterator[Kernel]:
    """A notebook's kernel, one for the tests of a module; names that one test defines are there in the next."""
    from tests.kernel import running_kernel

    with running_kernel() as running:
        yield running
