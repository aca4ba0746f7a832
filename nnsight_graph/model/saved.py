"""Graphs apart from the trace that made them: saved to files, loaded, and run again, on other inputs and other models."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy
import torch

from ..compile import Plan, cached_plan
from ..disk import replacing
from ..errors import GraphFormatError, MisuseError, RecordError, ours
from ..graph import Graph, Site, graph_text, node_text, walk
from ..graph.flat import Flat, flatten
from ..ops.data import released, trusted_program
from ..ops.nested import clone, map_tensors, storage_of
from ..record import Recording
from ..record.settled import plain
from ..run.limits import Limits, Meter
from ..serialize.allowed import FUNCTIONS
from ..serialize.container import read, write
from ..serialize.content import Content, content
from ..serialize.decode import decode
from ..serialize.tensors import write_tensors
from ..source_location import lines_of
from .arguments import check_names
from .constant_edits import edits_constants
from .copies import viewed
from .declared import from_data, text_of
from .invoker import Call
from .lacking import lacking, refuse, vet
from .rehearsing import check
from .running import run_trace
from .session_run import SessionRun, Traced

if TYPE_CHECKING:
    from .nnsight import NNsight


class SavedGraph:
    """A program that can be run again: on other prompts, with other numbers of steps, on another model with the same module paths.

    :func:`load` makes one from a file, ``tracer.graph.detach()`` from a trace.

    Attributes:
        names: The names of what a run returns.
        parameters: The named constants, with their values.

    Example:
        >>> import torch, nnsight_graph as nnsight
        >>> model = nnsight.NNsight(torch.nn.Linear(2, 2))
        >>> with model.trace(torch.ones(1, 2)) as tracer:
        ...     scale = tracer.parameter("scale", 2.0)
        ...     scaled = (model.output * scale).save()
        >>> graph = tracer.graph.detach()
        >>> values = graph.run(model, torch.ones(1, 2), parameters={"scale": 0.0})
        >>> values["scaled"].abs().tolist()
        [[0.0, 0.0]]
    """

    def __init__(self, given: Content, name: str = "<graph>", *, own: bool = False) -> None:
        self._name, self._own = name, own
        self._graph, self._document = decode(*given)
        self._fits: weakref.ref[Any] | None = None  # the modules that it was found to fit last

    # ------------------------------------------------------------------ what it is

    @property
    def names(self) -> list[str]:
        """The names of what a run returns."""
        return [name for _, name in self._document.saves]

    @property
    def parameters(self) -> dict[str, Any]:
        """The named constants, with the values that they have if a run is given no others."""
        return {name: self._graph.constants[index] for name, index in self._document.parameters}

    @property
    def graph(self) -> Graph:
        """The frozen nodes and the constants."""
        return self._graph

    @property
    def kind(self) -> str:
        """What it is: ``"trace"``, ``"session"`` or ``"edit"``."""
        return self._document.kind

    @property
    def digest(self) -> str:
        """The hash of the content: equal for equal programs with equal constants, however their files were written."""
        return self._content.digest

    @cached_property
    def _flat(self) -> Flat:
        """The entries, in which it runs."""
        return flatten(self._graph, _described)

    @cached_property
    def _declared(self) -> list[tuple[str, int | None, bool, int]]:
        """What it declares about rows."""
        return [(one.path, one.dim, one.tokens, one.model) for one in self._document.rows]

    @cached_property
    def _content(self) -> Content:
        """What a file of it holds."""
        flat, held = self._flat, self._document
        return content(
            flat.entries, flat.indices, self._graph.constants, held.kind, function=held.function, saves=held.saves,
            open_ended=held.open_ended, edits=held.edits, traces=[(trace.node, trace.model, trace.open_ended) for trace in held.traces],
            batch=held.batch, rows=self._declared,
        )  # fmt: skip

    def __str__(self) -> str:
        return text_of(self._declared) + graph_text(self._graph)

    def __repr__(self) -> str:
        return f"<{self.kind} graph of {len(list(walk(self._graph.body)))} nodes, {self.digest[:12]}>\n{self}"

    def __len__(self) -> int:
        return len(list(walk(self._graph.body)))

    def __eq__(self, other: Any) -> bool:
        return isinstance(other, SavedGraph) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    # ------------------------------------------------------------------ files

    def save(self, path: str | Path) -> None:
        """Write it to a file, which holds data alone; see :func:`load`."""
        write(path, *self._content)

    # ------------------------------------------------------------------ running

    def missing(self, model: Any) -> list[str]:
        """What a model lacks to run this: modules and parameters that are not there; nothing is run.

        Args:
            model: The model; for a session of several models, a list of them.

        Example:
            >>> import torch, nnsight_graph as nnsight
            >>> model = nnsight.NNsight(torch.nn.Sequential(torch.nn.ReLU()))
            >>> with model.trace(torch.ones(2)) as tracer:
            ...     out = model[0].output.save()
            >>> tracer.graph.detach().missing(nnsight.NNsight(torch.nn.ReLU()))
            ['0']
        """
        return list(dict.fromkeys(name for one, sites in self._models(model) for name in lacking(one, sites)))

    def run(
        self, model: Any, *inputs: Any, parameters: Mapping[str, Any] | None = None, limits: Limits | None = None,
        fn: str | Sequence[str] = (), **kwargs: Any,
    ) -> dict[str, Any]:  # fmt: skip
        """Run the program.

        Args:
            model: The model; for a session of several models, a list of them in the order in which it opens their traces.
            *inputs: The input, as ``model.trace`` takes it; of a program with invokes, one input for each. A session has its own.
            parameters: Values for named constants.
            limits: What the program may take, where it comes from a stranger. What would be more is refused before memory is taken.
            fn: Which methods of the model, other than its forward and ``generate``, a program from a file may call.
            **kwargs: Named arguments of the model's call, such as ``max_new_tokens``.

        Returns:
            The values that the program saves, by name; those that were not reached are left out.

        Raises:
            MissedSiteError: the model lacks modules that the program names.
            LimitError: it would take more than it may.
            RecordError: it needs other inputs, or other parameters.
        """
        recording = self._recording(parameters or {}) if parameters or self._edits else self._plain
        if self.kind == "edit":
            raise RecordError("this is an edit: with graph.edit(model).trace(...): ..., it takes part in every run of the edited model")
        if strange := [] if self._own else sorted(self._functions - FUNCTIONS - ({fn} if isinstance(fn, str) else set(fn))):
            raise RecordError(f"the program calls {strange[0]!r} of the model: graph.run(..., fn={strange[0]!r}) if it may")
        if limits is not None and not isinstance(limits, Limits):
            raise ours(TypeError, f"limits takes Limits(operations=..., value_bytes=...), not {limits!r}")
        meter = None if limits is None else Meter(limits)
        if self.kind == "session":
            if inputs or kwargs:
                given = ", ".join([*(f"{len(inputs)} inputs" for _ in inputs[:1]), *kwargs])
                raise RecordError(f"a session has its own inputs, and takes no others; {given} given")
            return self._run_session(model, recording, meter)
        if self._fits is None or not hasattr(model, "_tree") or model._edits or self._fits() is not model._tree.index:
            refuse(model, self._sites)
            self._fits = weakref.ref(model._tree.index)
        call = self._call(model, inputs, kwargs, "graph.run")
        values: dict[int, Any] = {}
        if not self._own:
            _compiled(recording, call)
        with trusted_program(self._own and meter is None):
            problem, _ = run_trace(model, recording, call, sys._getframe(1), values.__setitem__, meter=meter)
        if problem is not None:
            raise problem
        return self._named(values)

    def check(self, model: Any, *inputs: Any, parameters: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        """Try a trace on fake tensors, for an input: nothing runs, and no weights are needed.

        An edit is tried by itself; of a session, only the modules are looked for.

        Raises:
            MissedSiteError: the model lacks modules that the program names.
            Exception: what a line would raise in a run.
        """
        for one, sites in self._models(model):
            refuse(one, sites)
        if self.kind == "session":
            return
        recording, call = self._recording(parameters or {}), self._call(model, inputs, kwargs, "graph.check")
        plan = _compiled(recording, call)
        with trusted_program(self._own):
            problem = check(model, recording, call, plan, sys._getframe(1), True)
        if problem is not None:
            raise problem

    def edit(self, model: NNsight, *, inplace: bool = False) -> NNsight:
        """A view of ``model`` with this edit; or, in place, the model itself.

        Raises:
            RecordError: it is no edit.
        """
        if self.kind != "edit":
            raise RecordError(f"this is a {self.kind}, not an edit: graph.run(model, ...) runs it")
        refuse(model, self._graph.sites, edited=True)
        edited = model if inplace else viewed(model)
        edited.__dict__["_edits"] = (*edited._edits, self._recording({}))
        return edited

    @staticmethod
    def write_values(values: Mapping[str, Any], path: str | Path) -> list[str]:
        """Write the tensors that a run gave to a safetensors file; the names of values that are none.

        Args:
            values: What :meth:`run` returned.
            path: The file.
        """
        tensors = {name: value for name, value in values.items() if isinstance(value, torch.Tensor)}
        with replacing(path) as beside, open(beside, "wb") as file:
            write_tensors(file, tensors)
        return [name for name in values if name not in tensors]

    def _call(self, model: NNsight, inputs: tuple[Any, ...], kwargs: dict[str, Any], method: str) -> Any:
        function = self._document.function
        invokes = self._invokes
        check_names(model, function, kwargs, method)
        if not invokes:
            call = model._prepared(inputs, kwargs, function)
            if call is None:
                raise MisuseError("the program needs an input: graph.run(model, input)")
            return call
        if len(inputs) != invokes:
            raise MisuseError(f"the program has {invokes} invokes, and needs an input for each; {len(inputs)} were given")
        named = [isinstance(one, Mapping) for one in inputs]
        pairs = [((), dict(one)) if by_name else ((one,), {}) for one, by_name in zip(inputs, named, strict=True)]
        for _, arguments in pairs:
            check_names(model, function, arguments, method)
        given = [model._invoked(args, arguments, function, kwargs) for args, arguments in pairs]
        return model._joined(given, kwargs, function)

    def _models(self, model: Any) -> list[tuple[NNsight, tuple[Site, ...]]]:
        """Each model that is run, with the sites that it is to have: of a session, one for each trace."""
        if self.kind != "session":
            return [(model, self._graph.sites)]
        models = list(model) if isinstance(model, (list, tuple)) else [model]
        wanted = max((trace.model for trace in self._document.traces), default=0) + 1
        if len(models) != wanted:
            raise RecordError(f"the session runs {wanted} models; {len(models)} were given: graph.run([first, second])")
        nodes = {node.number: node for node in walk(self._graph.body)}
        return [(models[trace.model], Graph(nodes[trace.node].regions[0]).sites) for trace in self._document.traces]

    @cached_property
    def _edits(self) -> bool:
        """Whether it may write into its constants."""
        if self._own or self._document.edits:
            return self._document.edits
        return any(isinstance(one, (torch.Tensor, numpy.ndarray)) for one in self._graph.constants) and edits_constants(self._graph)

    @cached_property
    def _sites(self) -> tuple[Site, ...]:
        return self._graph.sites

    @cached_property
    def _invokes(self) -> int:
        """How many inputs it takes, if it has invokes."""
        kinds = [node.operands[0].name for node in self._graph.body.nodes if node.target == "invoke"]  # type: ignore[union-attr]
        return sum(kind.startswith("rows") for kind in kinds)

    @cached_property
    def _functions(self) -> set[str]:
        """The methods of models that it calls."""
        return {self._document.function, *(node.operands[0].name for node in walk(self._graph.body) if node.target == "trace")}  # type: ignore[union-attr]

    def _run_session(self, model: Any, recording: Recording, meter: Meter | None) -> dict[str, Any]:
        nodes = {node.number: node for node in walk(self._graph.body)}
        traces = {}
        for trace, (one, sites) in zip(self._document.traces, self._models(model), strict=True):
            refuse(one, sites)
            name = nodes[trace.node].operands[0].name  # type: ignore[union-attr]
            given, declared = vet if not self._own else None, from_data(self._document.rows, trace.model)
            traces[trace.node] = Traced(one, "" if name == "forward" else name, None, trace.open_ended, False, None, given, declared)
        batch = self._document.batch and meter is None
        run = SessionRun(recording, traces, frozenset(node for node, _ in self._document.saves), sys._getframe(2), batch, meter)
        with trusted_program(self._own and meter is None):
            problem = run.all()
        if problem is not None:
            raise problem
        return self._named(run.values)

    def _named(self, values: Mapping[int, Any]) -> dict[str, Any]:
        found = {name: released(values[node]) for node, name in self._document.saves if node in values}
        apart = partial(_apart, self._own_storages)
        return {name: map_tensors(value, apart) for name, value in found.items()} if self._own_storages else found

    @cached_property
    def _own_storages(self) -> set[int]:
        return {storage_of(tensor) for tensor in self._graph.constants if isinstance(tensor, torch.Tensor)} - {0}

    def _recording(self, parameters: Mapping[str, Any]) -> Recording:
        """The program in the form in which it runs, with these values for named constants."""
        constants = list(self._graph.constants)
        places = dict(self._document.parameters)
        for name, value in parameters.items():
            if name not in places:
                raise RecordError(f"the program has no parameter {name!r}; it has {', '.join(places) or 'none'}")
            constants[places[name]] = plain(value)
        if self._edits:  # the program may write into them; the graph stays as it is
            constants = clone(constants)
        flat = self._flat if not parameters else flatten(Graph(self._graph.body, tuple(constants)), _described)
        made = Recording.of(flat.entries, constants, flat.indices, _places(self._graph, flat, self._name), (), self._edits)
        made.open_ended, made.foreign = self._document.open_ended, not self._own
        made.declared = from_data(self._document.rows)
        return made

    @cached_property
    def _plain(self) -> Recording:
        """The program as it is, with a key whose hash is computed once: it is looked up at every run."""
        made = self._recording({})
        made.keep_key()
        return made


def load(path: str | Path) -> SavedGraph:
    """A graph from a file, checked as a file of a stranger is: it holds data alone, and runs nothing before :meth:`SavedGraph.run`.

    Raises:
        GraphFormatError: the file is no graph file, of an unknown version, or not what it should be; names the place in it.
        OSError: it cannot be read.

    Example:
        >>> import tempfile, torch, nnsight_graph as nnsight
        >>> model = nnsight.NNsight(torch.nn.Linear(2, 2))
        >>> with model.trace(torch.ones(1, 2)) as tracer:
        ...     doubled = (model.output * 2).save()
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     tracer.graph.save(f"{folder}/double.nng")
        ...     graph = nnsight.load(f"{folder}/double.nng")
        >>> torch.equal(graph.run(model, torch.ones(1, 2))["doubled"], doubled.value)
        True
    """
    return SavedGraph(Content(*read(path)), Path(path).name)


def _compiled(recording: Recording, call: Call) -> Plan:
    """The plan of a program that may be anybody's.

    Raises:
        GraphFormatError: its lines do not fit together in a way that only shows here.
    """
    try:
        return cached_plan(recording.key, recording.graph, call.most_steps if recording.open_ended else 1, not call.function)
    except (LookupError, AttributeError, AssertionError, ValueError, TypeError, RecursionError) as error:
        raise GraphFormatError(f"the lines of the program do not fit together: {type(error).__name__}: {error}") from None


def _apart(own: set[int], tensor: torch.Tensor) -> torch.Tensor:
    """A tensor on storage of its own, not on that of a constant: whoever gets it may edit it."""
    return tensor.clone() if storage_of(tensor) in own else tensor


def _described(value: Any) -> Any:
    """What stands for a constant in an entry, as while recording."""
    return (torch.Tensor, value.ndim, str(value.dtype)) if isinstance(value, torch.Tensor) else type(value)


def _places(graph: Graph, flat: Flat, name: str) -> list[Any]:
    """A line for each entry, in a file that is not there: the text of its node, so that errors show it."""
    texts = [
        entry[0] if entry[0] in ("else", "end") else node_text(node, graph.constants)
        for entry, node in zip(flat.entries, flat.origins, strict=True)
    ]
    return lines_of(name.strip("<>"), texts)
