"""What is measured. Importing this fills ``SCENARIOS`` and ``FIGURES``; a new file has to be named below."""

from . import import_time, memory, nodes, small, tiny
from .registry import FIGURES, SCENARIOS, Figure, Reading, Scenario, Target, Variants

__all__ = ["FIGURES", "SCENARIOS", "Figure", "Reading", "Scenario", "Target", "Variants", "import_time", "memory", "nodes", "small", "tiny"]
