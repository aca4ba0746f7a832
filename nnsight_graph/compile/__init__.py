"""Graph -> plan: what each line waits for, whose edits it sees, where its value lies and when it dies.

In: a verified graph. Out: a :class:`Plan` that holds no tensor and no module, so one plan serves every run of the same
program, with other constants, on any model that has the paths.

The trick: a line's needs are the set of visits it depends on, by value and by the edits above it. Lines of equal needs
are one segment of straight-line code, and a segment runs at the visit that makes its needs complete - in whatever order
the model reaches its modules.
"""

from .cache import cached_plan
from .lower import lower
from .plan import Plan, Segment, Visit

__all__ = ["Plan", "Segment", "Visit", "cached_plan", "lower"]
