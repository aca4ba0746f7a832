"""A module's later calls and steps: ``module.call[1].output``, ``module.all()``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ..errors import RecordError, ours
from ..record import Recorder
from ..record.branches import Iteration, emitter_of
from ..record.steps import EVERY, Steps
from .hidden import HiddenStates, read_hidden, write_hidden

if TYPE_CHECKING:
    from .envoy import Envoy


class Calls:
    """The calls of a module within one step, by number: ``module.call[0]`` is the first."""

    __slots__ = ("_envoy",)

    def __init__(self, envoy: Envoy) -> None:
        self._envoy = envoy

    def __iter__(self) -> Iterator[Called]:
        raise ours(TypeError, "how often a module is called is not known when the trace is written: name the calls, module.call[0]")

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
            raise ours(AttributeError, name)
        if name == "hidden_states":
            return read_hidden(self._envoy, self._number)
        if name == "attention_weights":
            return self._envoy._attention_weights_of(self._envoy)._read("output", self._number)
        if name not in ("output", "input", "inputs"):
            raise ours(
                AttributeError,
                f"a call has .output, .input, .inputs, .hidden_states and .attention_weights; {name!r} is the module's own",
            )
        return self._envoy._read(name, self._number)

    def skip(self, value: Any) -> None:
        """This call of the module does not run: ``value`` is what it returns; see :meth:`Envoy.skip`."""
        self._envoy._skip(value, self._number)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "hidden_states":
            write_hidden(self._envoy, value, self._number, 2)
            return
        if name == "attention_weights":
            self._envoy._attention_weights_of(self._envoy)._write("output", value, self._number, 4)
            return
        if name not in ("output", "input", "inputs"):
            raise RecordError("of a call, .output, .input, .inputs, .hidden_states and .attention_weights can be assigned")
        self._envoy._write(name, value, self._number, 4)


class EveryStep:
    """What ``module.all()`` returns: the switch is on; as a block, or a loop, it is on only there."""

    __slots__ = ("_before", "_envoy", "_steps", "_trace")

    def __init__(self, envoy: Envoy, trace: Recorder) -> None:
        self._envoy = envoy
        self._trace = trace
        self._before = trace.every
        self._steps: Steps | None = None
        trace.mean_every_step(envoy._output.path)

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


class OwnIteration(Iteration):
    """What ``module.iter`` is: as ``tracer.iter``, and a step of it is the module in that step."""

    __slots__ = ("_envoy",)

    def __init__(self, envoy: Envoy, trace: Recorder) -> None:
        super().__init__(emitter_of(trace))
        self._envoy = envoy

    def __getitem__(self, chosen: Any) -> OwnSteps:
        """The module in one step, ``module.iter[2].output``; for ``with`` and ``for``, steps as of ``tracer.iter``."""
        return OwnSteps(self._envoy, self._emitter, chosen)


class OwnSteps(Steps):
    """A module in a step, or in a call where the model runs once; what passes there is read and assigned to as on the module itself.

    Example:
        >>> import torch, nnsight_graph as nnsight
        >>> class Thrice(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.relu = torch.nn.ReLU()
        ...     def forward(self, x):
        ...         return self.relu(self.relu(self.relu(x) - 1) - 1)
        >>> model = nnsight.NNsight(Thrice())
        >>> with model.trace(torch.tensor([3.0])):
        ...     model.relu.iter[1].output += 5
        ...     last = model.relu.iter[2].output.save()
        >>> last
        tensor([6.])
    """

    __slots__ = ("_envoy",)
    _record_assignment = True

    def __init__(self, envoy: Envoy, emitter: Any, chosen: Any) -> None:
        object.__setattr__(self, "_envoy", envoy)
        super().__init__(emitter, chosen)

    @contextmanager
    def _in_step(self) -> Iterator[None]:
        if not self.single:
            raise RecordError("one step has an output: module.iter[2].output; for several: with module.iter[1:3]: ...")
        recorder, before = self._emitter.recorder, self._enter()
        recorder.go_to(self.chosen)
        try:
            yield
        finally:
            recorder.depth -= 1
            recorder.go_to(before)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise ours(AttributeError, name)
        with self._in_step():
            found = getattr(self._envoy, name)
        if isinstance(found, HiddenStates):
            return OwnSteps(found, self._emitter, self.chosen)  # type: ignore[arg-type]
        if callable(found) and not hasattr(type(found), "_trace"):
            raise ours(AttributeError, f"a module in a step has what passes there. For {name}: with tracer.iter[{self.chosen}]: ...")
        return found

    def __getitem__(self, index: Any) -> OwnSteps:
        return OwnSteps(self._envoy[index], self._emitter, self.chosen)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in Steps.__slots__:
            object.__setattr__(self, name, value)
        elif name == "hidden_states":
            with self._in_step():
                write_hidden(self._envoy, value, 0, 2)
        elif name in ("output", "input", "inputs"):
            with self._in_step():
                self._envoy._write(name, value, 0, 4)
        else:
            with self._in_step():
                setattr(self._envoy, name, value)

    def skip(self, value: Any) -> None:
        """The module does not run in this step: ``value`` is what it returns; see :meth:`Envoy.skip`."""
        with self._in_step():
            self._envoy._skip(value)
