"""Where the lines of a trace stand: in which step of the run, and at which call of a module."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ..errors import RecordError
from ..graph import Site
from ..source_location import Place
from .every import EVERY

if TYPE_CHECKING:
    from .proxy import Proxy


class Cursor:
    """The part of a recorder that knows steps.

    Attributes:
        step: The step that lines stand in: a number, ``"turn"`` in a loop over steps, ``"last"`` after an open one.
        every: Modules whose lines mean every step, by path.
        generating: Whether the model runs several forwards, so that the next of a module is the next step's; ``None`` in an edit,
            where that is not known.
        open_ended: Whether a loop over an open range of steps stands above.
        depth: How many loops over steps the line stands in.
        loops, turns: How many bounded loops over steps there were, and their turns.
        nexts: How far modules were moved on, by path.
    """

    reads: dict[Site, Proxy]
    regions: int
    # What most traces never change stays on the class.
    step: int | str = 0
    generating: bool | None = False
    every: tuple[str, ...] = ()
    open_ended = False
    depth = 0
    loops = 0
    turns: tuple[tuple[int, str, int, int, int, Place], ...] = ()
    nexts: dict[str, int] = {}  # noqa: RUF012  (replaced, never filled)
    _by_step: dict[int | str, dict[Site, Proxy]] = {}  # noqa: RUF012  (replaced, never filled)

    def located(self, site: Site) -> Site:
        """The site in the step, and at the call, that the line stands in."""
        if self.every and not self.depth and site.point != "result" and any(_below(site.path, path) for path in self.every):
            return site._replace(step=EVERY)
        if (self.step != 0 or self.nexts) and site.point != "result":
            ahead = 0 if site.call else self.nexts.get(site.path, 0)
            if not ahead:
                return site._replace(step=self.step)
            if isinstance(self.step, str) and (self.generating or self.step == "last"):
                raise RecordError(".next() inside or after an open loop over steps: name the step, as in tracer.iter[2]")
            if isinstance(self.step, str) or not self.generating:
                return site._replace(step=self.step, call=site.call + ahead)
            return site._replace(step=self.step + ahead)
        return site

    def go_to(self, step: int | str) -> None:
        """From here on lines stand in ``step``; what was read there before is known again."""
        if not self.regions:
            self._by_step = {**self._by_step, self.step: self.reads}
        self.step = step
        self.reads = self._by_step.get(step, {}) if not self.regions else {}

    def mean_every_step(self, path: str) -> None:
        """From here on lines about the module at ``path``, and those below it, mean every step."""
        self.every, self.open_ended, self.reads, self._by_step = (*self.every, path), True, {}, {}

    def forget_steps(self) -> None:
        """What was read in other steps may have been replaced: it is read again."""
        self._by_step = {}

    def move_on(self, path: str) -> None:
        """From here on lines about the module at ``path`` mean its next step, or its next call."""
        self.nexts = {**self.nexts, path: self.nexts.get(path, 0) + 1}
        self.reads = {site: proxy for site, proxy in self.reads.items() if site.path != path}

    def rewound(self, step: int | str) -> Callable[[], None]:
        """Begin anew at ``step``, for the lines of one input; what is returned brings back where it stood."""
        kept = self.reads, self.step, self.nexts, self._by_step, self.every
        self.reads, self.step, self.nexts, self._by_step = {}, step, {}, {}

        def back() -> None:
            self.reads, self.step, self.nexts, self._by_step, self.every = kept

        return back


def _below(path: str, above: str) -> bool:
    return not above or path == above or path.startswith(above + ".")
