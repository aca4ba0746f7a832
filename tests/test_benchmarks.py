"""The benchmarks compare the same work: in every scenario all variants give the same results. No timing decides a test."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from benchmarks import __main__ as command
from benchmarks import measure, report
from benchmarks.measure import Budget, Estimate
from benchmarks.scenarios import FIGURES, SCENARIOS, Reading, Variants, memory, nodes

pytestmark = pytest.mark.slow

SHORT = Budget(rounds=1, seconds=0.0, sample=0.0)


@pytest.mark.parametrize("name", [name for name, scenario in SCENARIOS.items() if not scenario.large])
def test_the_variants_agree(name: str) -> None:
    SCENARIOS[name].build().check()


@pytest.mark.parametrize("nodes_", [0, 1, 10])
@pytest.mark.parametrize("lines", [nodes.chain, nodes.chain_of_calls])
def test_chains_agree(nodes_: int, lines: object) -> None:
    Variants(nodes.by_hook(nodes_, lines), nodes.by_trace(nodes_, lines)).check()


def test_layers_reduced_agree() -> None:
    memory.reduce_every_layer(rows=4).check()


def test_a_difference_is_found() -> None:
    with pytest.raises(AssertionError):
        Variants(lambda: 1.0, lambda: 1.0 + 1e-9).check()


FILES = "graph files: 1,000 nodes to bytes and back, and the file of an ablation"


@pytest.mark.parametrize("name", ["compile, per node of a plan not seen before", "peak memory while reducing every layer", FILES])
def test_figures_give_numbers(name: str) -> None:
    readings = FIGURES[name].measure(SHORT)
    assert readings
    assert all(reading.value > 0 for reading in readings)


def test_peak_memory_counts_a_layer_that_is_held() -> None:
    import torch

    def one() -> None:
        torch.zeros(256)
        torch.zeros(256)

    def both() -> None:
        first = torch.zeros(256)
        second = torch.zeros(256)
        del first, second

    assert (memory.peak_bytes(one), memory.peak_bytes(both)) == (1024, 2048)


def test_ratios_are_of_samples_taken_side_by_side() -> None:
    slow_machine = [1.0, 1.0, 10.0, 10.0, 100.0]
    ratio = measure.paired([2 * seconds for seconds in slow_machine], slow_machine)
    assert ratio == Estimate(2.0, 2.0, 2.0)
    assert ratio.spread == 1.0


def test_variants_take_turns() -> None:
    called: list[str] = []
    ticks = itertools.count()
    ways = {"one": lambda: called.append("one"), "two": lambda: called.append("two")}
    taken = measure.interleave(ways, Budget(rounds=4, seconds=60.0, clock=lambda: float(next(ticks)), sample=0.0))
    assert {name: len(values) for name, values in taken.items()} == {"one": 4, "two": 4}
    rounds = called[-8:]
    assert all({*rounds[i : i + 2]} == {"one", "two"} for i in range(0, 8, 2))


def test_within_noise_is_one_per_cent_and_the_spread() -> None:
    control = Estimate(1.0, 0.995, 1.01)
    assert report.meets(Estimate(1.019, 1.0, 1.1), "within noise", control)
    assert not report.meets(Estimate(1.021, 1.0, 1.1), "within noise", control)
    assert report.meets(Estimate(1.5, 1.0, 2.0), None, control) is None


def test_the_command_prints_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "FIGURES", {"size": command.Figure("size", lambda budget: [Reading("size", 2.0, "kB", 1.5)])})
    file = tmp_path / "all.json"
    assert command.main(["tiny: save one", "size", "--rounds", "1", "--seconds", "0", "--target", "--json", str(file)]) == 0
    printed = capsys.readouterr().out
    assert "| tiny: save one output |" in printed
    assert "| size   | 2 kB     | 1.5 kB | **no** |" in printed
    written = json.loads(file.read_text(encoding="utf-8"))
    assert [row["name"] for row in written["scenarios"]] == ["tiny: save one output"]
    assert written["figures"][0]["value"] == 2.0


def test_the_command_answers_by_its_status(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--list"]) == 0
    assert "tiny: save one output" in capsys.readouterr().out
    assert command.main(["no such name"]) == 2
