"""A recorded program in the user's hands."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch

from ..errors import RecordError
from ..graph import Graph, fold, graph_text
from ..record import Recording
from ..record.settled import plain
from ..run.failures import rehearsed
from ..run.limits import Limits
from ..run.rehearsal import rehearse
from ..run.site_values import Failure
from ..serialize.content import Content
from .arguments import check_names
from .declared import as_data, text_of
from .estimate import Estimate, estimate
from .invoker import Call
from .rehearsing import CallSource
from .saved import SavedGraph
from .written import content_of

if TYPE_CHECKING:
    from .nnsight import NNsight


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

    __slots__ = ("_batch", "_call", "_rows", "_envoy", "_function", "_kind", "_recording", "_traces")

    def __init__(
        self, recording: Recording, envoy: NNsight, call: Call | None = None, *, kind: str = "trace", function: str = "",
        traces: Sequence[tuple[int, int, bool]] = (), batch: bool = False, rows: Sequence[tuple[str, int | None, bool, int]] | None = None,
    ) -> None:  # fmt: skip
        self._recording = recording
        self._envoy = envoy
        self._call = call
        self._kind, self._function, self._traces, self._batch = kind, function, tuple(traces), batch
        self._rows = as_data(envoy._tree.declared) if rows is None else rows

    def detach(self) -> SavedGraph:
        """The program apart from this trace: data alone, to be run again, or saved.

        Raises:
            FunctionWhitelistError: it uses a function of yours, which is no data; on its line.
            GraphFormatError: it uses a constant that cannot be data; on its line.
        """
        content = self._content(sys._getframe(1))
        return SavedGraph(content._replace(tensors=[tensor.clone() for tensor in content.tensors]), own=not self._recording.foreign)

    def save(self, path: str | Path) -> None:
        """Write the program to a file: ``nnsight_graph.load(path)`` reads it, here or elsewhere.

        Raises:
            FunctionWhitelistError: it uses a function of yours, which is no data; on its line.
            GraphFormatError: it uses a constant that cannot be data; on its line.

        Example:
            >>> import tempfile, torch, nnsight_graph as nnsight
            >>> model = nnsight.NNsight(torch.nn.Identity())
            >>> with model.trace(torch.ones(2)) as tracer:
            ...     out = (model.output + 1).save()
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     tracer.graph.save(f"{folder}/plus.nng")
            ...     print(nnsight.load(f"{folder}/plus.nng").names)
            ['out']
        """
        SavedGraph(self._content(sys._getframe(1))).save(path)

    def _content(self, frame: FrameType) -> Content:
        """What a file of it holds."""
        return content_of(self._recording, self._kind, self._function, self._traces, frame, self._batch, self._rows)

    def run(
        self, model: Any, *inputs: Any, parameters: Mapping[str, Any] | None = None, limits: Limits | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Run the program again, as :meth:`SavedGraph.run` does."""
        return self.detach().run(model, *inputs, parameters=parameters, limits=limits, **kwargs)

    def check(self, model: Any, *inputs: Any, parameters: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        """Try the program on fake tensors, as :meth:`SavedGraph.check` does."""
        self.detach().check(model, *inputs, parameters=parameters, **kwargs)

    def missing(self, model: Any) -> list[str]:
        """What a model lacks to run this, as :meth:`SavedGraph.missing` says."""
        return self.detach().missing(model)

    @property
    def names(self) -> list[str]:
        """The names of what a run returns."""
        return self.detach().names

    @property
    def parameters(self) -> dict[str, Any]:
        """The named constants, with their values."""
        return self.detach().parameters

    @property
    def digest(self) -> str:
        """The hash of what a file of it holds."""
        return self.detach().digest

    @property
    def graph(self) -> Graph:
        """The graph itself, as it was recorded: frozen nodes and lifted constants. Printed, the turns of loops are folded."""
        return self._recording.graph()

    def estimate(self, *args: Any, **kwargs: Any) -> Estimate:
        """How much memory the trace holds for an input, and how far the forward matters to it; nothing runs.

        Args:
            *args: The input, as ``model.trace`` takes it; the graph of a scan has its own.
            **kwargs: Named arguments of the model's call.

        Returns:
            An estimate: print it, or see :attr:`~nnsight_graph.model.estimate.Estimate.nodes`.

        Raises:
            RecordError: there is no input, or one that cannot be scanned.

        Example:
            >>> import torch, nnsight_graph as nnsight
            >>> model = nnsight.NNsight(torch.nn.Sequential(torch.nn.Linear(5, 10), torch.nn.Linear(10, 2)))
            >>> with model.scan(torch.rand(1, 5)) as tracer:
            ...     doubled = (model[0].output * 2).save()
            >>> print(tracer.graph.estimate())
            40 B saved, 80 B at the peak; nothing is needed after 0.output
        """
        check_names(self._envoy, "", kwargs, "estimate")
        call = self._envoy._prepared(plain(args), plain(kwargs)) if args or kwargs else self._call
        if call is None:
            raise RecordError("an estimate needs an input: tracer.graph.estimate(input)")
        source = CallSource(self._envoy, call)
        scan = source.scan(0)
        if scan is None:
            raise RecordError("only a forward or a generation can be estimated, not another method of the model")
        try:
            rehearsal = rehearse(self._envoy._tree.index, source, self._recording)
        except Failure as failure:
            raise rehearsed(failure, self._recording, None) from None
        return estimate(self.graph, rehearsal, scan)

    def unknown(self, *args: Any, **kwargs: Any) -> dict[str, str]:
        """The lines whose values a scan cannot know, and why: they are not checked before a run.

        Args:
            *args: The input; the graph of a scan has its own.
            **kwargs: Named arguments of the model's call.
        """
        return dict(self.estimate(*args, **kwargs).reasons)

    def __str__(self) -> str:
        return text_of(self._rows) + graph_text(fold(self.graph))

    __repr__ = __str__

    def __len__(self) -> int:
        return len(self._recording.entries)

    def __eq__(self, other: Any) -> bool:
        """Whether two programs have the same structure, whatever their numbers and tensors."""
        return isinstance(other, GraphHandle) and self._recording.key == other._recording.key

    def __hash__(self) -> int:
        return hash(self._recording.key)


class OpenGraph(GraphHandle):
    """The program of an open block: printed, it shows what was recorded so far. Once the block has ended, it is all of its program.

    Example:
        >>> import torch, nnsight_graph as nnsight
        >>> model = nnsight.NNsight(torch.nn.Identity())
        >>> with model.trace(torch.ones(2)) as tracer:
        ...     doubled = model.output * 2
        ...     print(len(tracer.graph))
        ...     doubled = doubled.save()
        2
    """

    __slots__ = ("_block",)
    _shown_at_once = True  # by print, in a branch or a loop, too

    def __init__(self, block: Any) -> None:
        if not block._is_open:
            raise RecordError("there is no graph: this block has not begun, or was given up")
        self._block = block

    def __getattr__(self, name: str) -> Any:
        if name not in GraphHandle.__slots__:
            raise AttributeError(name)
        if self._block._is_open:
            raise RecordError("in its open block a graph can be printed; the rest is there when the block has ended")
        return getattr(self._block.graph, name)

    def __str__(self) -> str:
        if not self._block._is_open:
            return str(self._block.graph)
        recorder = self._block._recorder
        entries, constants, indices, places = map(list, (recorder.entries, recorder.constants, recorder.indices, recorder.places))
        with torch._C.DisableTorchFunction():  # looking at the constants is no line of the trace
            return graph_text(Recording.of(entries, constants, indices, places, (), False).whole())

    __repr__ = __str__

    def __copy__(self) -> OpenGraph:
        return self

    def __deepcopy__(self, _memo: Any) -> OpenGraph:
        return self

    def __len__(self) -> int:
        return len(self._block._recorder.entries) if self._block._is_open else len(self._block.graph)
