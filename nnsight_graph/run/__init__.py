"""Plan + module -> values.

In: a plan, the run's constants, a module and the arguments of its call. Out: the saved values; or an error that knows
the node at fault. A run leaves nothing behind, however it ends.

The trick: hooks stand only on the modules of the plan, only for the run, and each asks first whether the forward that
called it is its own, by a context variable - so two threads may run one model at the same time.
"""

from .detours import Leave
from .engine import Run
from .local import execute, prepare
from .modules import ModuleIndex

__all__ = ["Leave", "ModuleIndex", "Run", "execute", "prepare"]
