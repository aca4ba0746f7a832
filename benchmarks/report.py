"""What came out, as rows, as Markdown and as JSON."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from .measure import Estimate
from .scenarios import Reading, Target

NOTHING = "–"


@dataclass(frozen=True)
class Row:
    """A scenario as measured: seconds per call of the hooks, and ratios over them.

    Attributes:
        control: Hooks over hooks: the noise.
        peers: Ratio by the name of a peer.
    """

    name: str
    hooks: float
    control: Estimate
    traced: Estimate
    replayed: Estimate | None
    target: Target
    replay_target: Target
    rounds: int
    peers: dict[str, Estimate] = field(default_factory=dict)


def meets(ratio: Estimate, target: Target, control: Estimate) -> bool | None:
    """Whether a ratio is as small as it should be; ``None`` without a target."""
    if target is None:
        return None
    return ratio.median <= (1.01 + control.spread if target == "within noise" else target)


def scenario_table(rows: Sequence[Row], peers: Sequence[str], with_targets: bool) -> str:
    """The ratios over hooks."""
    targets = ["target", "met"] if with_targets else []
    head = ["scenario", "hooks", "A/A spread", "traced", *targets, "replayed", *targets, *peers]
    return markdown(head, ([*_cells(row, with_targets), *(ratio_text(row.peers.get(peer)) for peer in peers)] for row in rows))


def _cells(row: Row, with_targets: bool) -> Iterable[str]:
    yield row.name
    yield duration_text(row.hooks)
    yield f"{row.control.spread:.1%}"
    for ratio, target in ((row.traced, row.target), (row.replayed, row.replay_target)):
        yield ratio_text(ratio)
        if with_targets:
            yield NOTHING if target is None else str(target)
            yield NOTHING if ratio is None else _yes_or_no(meets(ratio, target, row.control))


def figure_table(readings: Sequence[Reading], with_targets: bool) -> str:
    """The numbers that are no ratios over hooks."""
    head = ["figure", "measured", *(["target", "met"] if with_targets else [])]
    return markdown(head, (_figure_cells(one, with_targets) for one in readings))


def _figure_cells(reading: Reading, with_targets: bool) -> list[str]:
    cells = [reading.name, f"{reading.value:.3g} {reading.unit}"]
    if with_targets:
        met = None if reading.target is None else reading.value <= reading.target * 1.005  # as printed
        cells += [NOTHING if reading.target is None else f"{reading.target:g} {reading.unit}", _yes_or_no(met)]
    return cells


def _yes_or_no(met: bool | None) -> str:
    return NOTHING if met is None else "yes" if met else "**no**"


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose columns stand under each other."""
    lines = [list(head), *map(list, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    texts = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines]
    texts.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(texts)


def ratio_text(ratio: Estimate | None) -> str:
    return NOTHING if ratio is None else f"{ratio.median:.3f} ({ratio.low:.3f}–{ratio.high:.3f})"


def duration_text(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e6:.3g} µs"


def machine() -> dict[str, Any]:
    """What the numbers were measured with."""
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    return {**versions, "threads": torch.get_num_threads(), "machine": platform.machine()}


def as_data(rows: Sequence[Row], readings: Sequence[Reading]) -> dict[str, Any]:
    """Everything, for ``--json``."""
    return {"machine": machine(), "scenarios": [asdict(row) for row in rows], "figures": [asdict(reading) for reading in readings]}
