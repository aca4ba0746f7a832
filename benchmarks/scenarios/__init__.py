"""What is measured. Importing this fills ``SCENARIOS`` and ``FIGURES``; a new file has to be named below."""

from importlib import import_module

from .registry import FIGURES, SCENARIOS, Figure, Reading, Scenario, Target, Variants

for _file in ("tiny", "small", "generation", "nodes", "invokes", "memory", "early", "scans", "import_time"):  # the order of the tables
    import_module(f"{__name__}.{_file}")

__all__ = ["FIGURES", "SCENARIOS", "Figure", "Reading", "Scenario", "Target", "Variants"]
