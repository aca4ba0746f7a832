"""A module's later calls and steps: ``module.call[1].output``, ``module.all()``."""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ..errors import RecordError
from ..record import Recorder
from ..record.branches import emitter_of
from ..record.steps import EVERY, Steps
from .hidden import read_hidden, write_hidden

if TYPE_CHECKING:
    from .envoy import Envoy


class Calls:
    """The calls of a module within one step, by number: ``module.call[0]`` is the first."""

    __slots__ = ("_envoy",)

    def __init__(self, envoy: Envoy) -> None:
        self._envoy = envoy

    def __getitem__(self, number: int) -> Called:
        if type(number) is not int or number < 0:
            raise RecordError("calls are counted from 0, forwards: how many will come is not known when the trace is written")
        return Called(self._envoy, number)


class Called:
    """One call of a module: its ``output``, ``input`` and ``inputs`` are those of that call."""

    __slots__ = ("_envoy", "_number")
    _record_assignment = True

    def __init__(self, envoy: Envoy, number: int) -> None:
        object.__setattr__(self, "_envoy", envoy)
        object.__setattr__(self, "_number", number)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name == "hidden_states":
            return read_hidden(self._envoy, self._number)
        if name not in ("output", "input", "inputs"):
            raise AttributeError(f"a call has .output, .input, .inputs and .hidden_states; {name!r} is an attribute of the module itself")
        return self._envoy._read(name, self._number)

    def skip(self, value: Any) -> None:
        """This call of the module does not run: ``value`` is what it returns; see :meth:`Envoy.skip`."""
        self._envoy._skip(value, self._number)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "hidden_states":
            write_hidden(self._envoy, value, self._number, 2)
            return
        if name not in ("output", "input", "inputs"):
            raise RecordError("of a call, .output, .input, .inputs and .hidden_states can be assigned")
        self._envoy._write(name, value, self._number, 4)


class EveryStep:
    """What ``module.all()`` returns: the switch is on; as a block, or a loop, it is on only there."""

    __slots__ = ("_before", "_envoy", "_steps", "_trace")

    def __init__(self, envoy: Envoy, trace: Recorder) -> None:
        self._envoy = envoy
        self._trace = trace
        self._before = trace.every
        self._steps: Steps | None = None
        trace.mean_every_step(envoy._sites["output"].path)

    def _as_steps(self) -> Steps:
        self._trace.every, self._trace.reads = self._before, {}
        self._steps = Steps(emitter_of(self._trace), EVERY)
        return self._steps

    def __iter__(self) -> Iterator[Any]:
        return iter(self._as_steps())

    def __enter__(self) -> Any:
        return self._as_steps().__enter__()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if self._steps is not None:
            self._steps.__exit__(kind, error, traceback)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._envoy, name)

    def __getitem__(self, index: Any) -> Any:
        return self._envoy[index]
