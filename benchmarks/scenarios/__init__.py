"""What is measured. Importing this fills ``SCENARIOS`` and ``FIGURES``; a new file has to be named below."""

from importlib import import_module

from .registry import FIGURES, SCENARIOS, Figure, Reading, Scenario, Target, Variants

_FILES = "tiny small generation nodes invokes memory early scans files saved_names import_time"  # in the order of the tables
for _file in _FILES.split():
    import_module(f"{__name__}.{_file}")

__all__ = ["FIGURES", "SCENARIOS", "Figure", "Reading", "Scenario", "Target", "Variants"]
