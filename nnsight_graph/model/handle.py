"""A recorded program in the user's hands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..graph import Graph, fold, graph_text
from ..record import Recording

if TYPE_CHECKING:
    from .envoy import Envoy


class GraphHandle:
    """The program of a trace: ``print(tracer.graph)`` shows it, line by line, with the lines it came from.

    Example:
        >>> import torch, nnsight_graph as nnsight
        >>> model = nnsight.NNsight(torch.nn.Identity())
        >>> with model.trace(torch.ones(2)) as tracer:
        ...     doubled = (model.output * 2).save()
        >>> len(tracer.graph)
        3
    """

    __slots__ = ("_envoy", "_recording")

    def __init__(self, recording: Recording, envoy: Envoy) -> None:
        self._recording = recording
        self._envoy = envoy

    @property
    def graph(self) -> Graph:
        """The graph itself, as it was recorded: frozen nodes and lifted constants. Printed, the turns of loops are folded."""
        return self._recording.graph()

    def __str__(self) -> str:
        return graph_text(fold(self.graph))

    __repr__ = __str__

    def __len__(self) -> int:
        return len(self._recording.entries)

    def __eq__(self, other: Any) -> bool:
        """Whether two programs have the same structure, whatever their numbers and tensors."""
        return isinstance(other, GraphHandle) and self._recording.key == other._recording.key

    def __hash__(self) -> int:
        return hash(self._recording.key)
