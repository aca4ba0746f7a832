"""``with model.edit() as edited:``: lines that take part in every run of a model from then on."""

from __future__ import annotations

from types import FrameType
from typing import TYPE_CHECKING, Any

import torch

from ..errors import RecordError
from ..record import Proxy, Recorder, Recording
from ..record.class_claim import unpacks
from ..source_location import traceback_at
from .block import RecordedBlock
from .handle import GraphHandle, OpenGraph

if TYPE_CHECKING:
    from .nnsight import NNsight

_OF_RUNS = {
    "grad": "takes a gradient", "backward": "runs a backward", "save": "saves a value", "cache": "opens a cache", "stop": "stops the run",
}  # fmt: skip


class Editor(RecordedBlock):
    """A ``with model.edit() as edited:`` block: its lines are recorded, and stand at the beginning of every trace of ``edited``.

    What is recorded is the program, not its values: it is computed anew in each run. Lines of a trace see what the edits have made. In a
    batch an edit sees all rows, in a generation it takes part in every step, unless it names steps itself (``tracer.iter``).

    Example:
        >>> import torch, nnsight_graph as nnsight
        >>> model = nnsight.NNsight(torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU()))
        >>> with model.edit() as edited:
        ...     model[1].output[:] = 7
        >>> with edited.trace(torch.ones(1, 2)):
        ...     out = edited.output.save()
        >>> out.tolist()
        [[7.0, 7.0]]
    """

    __slots__ = ("_edited", "_envoy")

    _again = "this edit was written already; open a new one with model.edit()"

    def __init__(self, envoy: NNsight, edited: NNsight) -> None:
        super().__init__(Recorder(envoy._tree))
        self._envoy, self._edited = envoy, edited
        self._recorder.generating = None

    if TYPE_CHECKING:

        def __enter__(self) -> NNsight: ...

    @property
    def _entered(self) -> Any:
        mode = self._recorder.mode
        pair = mode is not None and mode.frame is not None and unpacks(mode.frame, 2)  # as (tracer, edited)
        return (self, self._edited) if pair else self._edited

    @property
    def graph(self) -> GraphHandle:
        """What was recorded: print it to read the edit; in the block, what was recorded so far."""
        if self._recording is None:
            return OpenGraph(self)
        return GraphHandle(self._recording, self._envoy, kind="edit")

    def _run(self, recording: Recording, _saved: dict[int, Proxy], frame: FrameType) -> BaseException | None:
        for node, entry in enumerate(recording.entries):
            if entry[0] in _OF_RUNS and not (entry[0] == "save" and recording.edits_constants):
                error = RecordError(f"this line {_OF_RUNS[entry[0]]}: that belongs to a trace of the edited model, not to the edit.")
                return error.with_traceback(traceback_at(recording.place(node), frame))
        if recording.edits_constants:
            return RecordError("an edit changes a captured tensor in place: it would grow with every run. Edit a .clone() of it")
        recording.constants = [_as_it_is(value) for value in recording.constants]
        self._edited.__dict__["_edits"] = (*self._edited._edits, recording)
        return None


def _as_it_is(value: Any) -> Any:
    """A captured tensor as it is now; one that is trained stays itself."""
    return value.clone() if isinstance(value, torch.Tensor) and not value.requires_grad else value
