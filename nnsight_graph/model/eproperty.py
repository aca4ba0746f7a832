"""Properties of one's own on envoys: what passes at a site, shown in another form, and put back from it."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, Protocol, TypeVar, runtime_checkable

from ..errors import MisuseError, RecordError, ours
from ..graph import Site
from ..ops.running import current
from ..record import recording_here
from ..record.name import Name
from ..record.own_values import OwnValues, Shown, is_view, nodes_in
from ..record.recorder import IN_PLACE, Recorder, is_augmented
from ..source_location import is_users

_POINTS = ("output", "input", "inputs")
_Stub = TypeVar("_Stub", bound=Callable[..., Any])


@runtime_checkable
class IEnvoy(Protocol):
    """What an object has to have so that its class can carry an :class:`eproperty`: every :class:`Envoy` does.

    A property whose value is provided needs nothing but the path; one with a ``requires_...`` marker reads the object's own
    ``output``, ``input`` or ``inputs``.

    Attributes:
        path: Where it stands in the model, as in ``model.transformer.h.0``.

    Example:
        >>> import torch, nnsight_graph as nnsight
        >>> isinstance(nnsight.NNsight(torch.nn.Linear(2, 2)), nnsight.IEnvoy)
        True
    """

    @property
    def path(self) -> str | None:
        """Where the object stands in the model."""


class eproperty:
    """A property of an envoy class whose value is what passes at a site, in a form of its own.

    It is written as a decorator of a stub: a method that gives the property its name and its docstring, with a ``requires_...``
    marker that says which site is meant. Reading the property in a trace gives a proxy.

    * ``@name.preprocess``, a function of ``(self, value)``, makes what is read of what passes. Its lines are recorded. A stub that
      takes ``(self, value)`` is that function itself.
    * ``@name.transform``, a function of the preprocessed value alone, or of ``(self, value, raw)``, makes of it what the model goes
      on with, whether lines have edited it in place or not; ``raw`` is what passed.
    * ``@name.postprocess``, a function of ``(self, value)``, makes of an assigned value what is put at the site; where there is
      none, ``transform`` does it.

    Without a marker, and with none of those three as its key, the value is provided while the model runs: :meth:`provide`.

    Args:
        key: ``"output"``, ``"input"`` or ``"inputs"`` name the site in place of a marker; ``"c_proj.input"`` that of a module
            below. What passes at an input is ``(args, kwargs)``: that is what ``preprocess`` gets, and what ``transform`` and
            ``postprocess`` return; with none of the three, ``"input"`` is the first argument, as ``.input`` is.
            Else the name under which the value is provided. By default the name of the stub.
        description: A few words for the printed tree of the model; without them it is not shown there.
        iterate: Accepted; a step is a coordinate here, so that every property has a value in each.

    Example:
        >>> import torch, nnsight_graph as nnsight
        >>> class Halves(nnsight.Envoy):
        ...     @nnsight.eproperty()
        ...     @nnsight.requires_output
        ...     def halves(self):
        ...         '''The output's features as two groups, [batch, 2, features / 2].'''
        ...     @halves.preprocess
        ...     def halves(self, value):
        ...         return value.unflatten(-1, (2, -1))
        ...     @halves.transform
        ...     def halves(value):
        ...         return value.flatten(-2)
        >>> model = nnsight.NNsight(torch.nn.Sequential(torch.nn.Linear(2, 4)), envoys={torch.nn.Linear: Halves})
        >>> with model.trace(torch.ones(1, 2)):
        ...     model[0].halves[:, 0] = 0
        ...     out = model.output.save()
        >>> out[0, :2].tolist()
        [0.0, 0.0]
    """

    def __init__(self, key: str | Callable[..., Any] | None = None, description: str | None = None, iterate: bool = True) -> None:
        self.key = key if isinstance(key, str) else ""
        self.description = description
        self.iterate = iterate
        self.name = self.key
        self._below = ""
        self._point: str | None = None
        self._stub: Callable[[Any], Any] | None = None
        self._preprocess: Callable[[Any, Any], Any] | None = None
        self._postprocess: Callable[[Any, Any], Any] | None = None
        self._transform: Callable[..., Any] | None = None
        self._takes_all = False
        if callable(key):  # @eproperty, without parentheses
            self(key)

    # ------------------------------------------------------------------ how it is written

    def __call__(self, stub: Callable[..., Any]) -> eproperty:
        """Take the stub.

        Raises:
            TypeError: the key names another site than the marker.
        """
        self._stub, self.name, self.__doc__ = stub, stub.__name__, stub.__doc__
        if _needed(stub) == 2:
            self._stub, self._preprocess = None, stub
        marker = getattr(stub, "_requires", None)
        self.key = self.key or self.name
        below, _, point = self.key.rpartition(".")
        self._below, self._point = (below, point) if point in _POINTS else ("", marker)
        if marker is not None and self._point is not None and (marker == "output") != (self._point == "output"):
            raise ours(TypeError, f"{self.name}: the key is {self.key!r}, and the marker says that the value is the {marker}")
        return self

    def preprocess(self, function: Callable[[Any, Any], Any]) -> eproperty:
        """Register what makes the property's value: a function of ``(self, value)``, whose lines are recorded."""
        self._preprocess = function
        return self

    def postprocess(self, function: Callable[[Any, Any], Any]) -> eproperty:
        """Register what makes of an assigned value what is put at the site: a function of ``(self, value)``."""
        self._postprocess = function
        return self

    def transform(self, function: Any) -> eproperty:
        """Register what makes of the property's value, edited or not, what the model goes on with.

        Args:
            function: Of the value alone, or of ``(self, value, raw)``; a ``staticmethod`` is accepted.

        Raises:
            TypeError: it takes something else.
        """
        function = getattr(function, "__func__", function)
        needed = _needed(function)
        if needed not in (0, 1, 3):
            raise ours(TypeError, f"{self.name}: transform is a function of the value alone, without self, or of (self, value, raw)")
        self._transform, self._takes_all = function, needed == 3
        return self

    def _back(self, obj: Any, raw: Any) -> Callable[[Any], Any]:
        """What makes of the property's value what is put at the site."""
        transform: Any = self._transform
        return (lambda value: transform(obj, value, raw)) if self._takes_all else transform

    # ------------------------------------------------------------------ in a trace

    def __get__(self, obj: Any, owner: type | None = None) -> Any:
        if obj is None:
            return self
        trace = self._trace(obj, "is there")
        if self._stub is not None:
            self._stub(obj)  # a decorator of one's own may have something to prepare
        if self._transform is None:
            return self._prepared(obj, self._raw(obj, trace))
        own = trace.own = OwnValues(trace) if trace.own is None else trace.own
        raw = self._raw(obj, trace)
        shown = own.known((self, obj), raw)
        if shown is not None:
            return shown.value
        value = self._prepared(obj, raw)
        if value is raw:  # a name of its own: an edit of the site itself is none of the property
            value = trace.proxy("assigned", (raw, Name(self.name)))
        if any(True for _ in nodes_in(value, trace.make)):
            own.add(Shown(trace, (self, obj), raw, value, self._back(obj, raw)))
        return value

    def __set__(self, obj: Any, value: Any) -> None:
        trace = self._trace(obj, "can be assigned")
        if self._is_edited(trace, value):
            return
        if self._postprocess is not None:
            value = self._postprocess(obj, value)
        elif self._transform is not None and not self._takes_all:
            value = self._transform(value)
        if self._point is None:
            trace.write(self._site(obj), self._owner(obj, trace), value, 3)
        else:
            native, host = self._native(obj)
            native.__set__(host, value)

    def provide(self, obj: Any, value: Any) -> Any:
        """Bring the property's value, while the model runs; for properties whose value is not what a module takes or returns.

        Args:
            obj: The envoy, or whatever else carries the property.
            value: The value.

        Returns:
            What the lines of the trace have made of it, to go on with; the value itself, where there is no trace that asks.

        Raises:
            RecordError: the value is what passes at a site of the module.

        Example:
            >>> import torch, nnsight_graph as nnsight
            >>> class Rounded(nnsight.NNsight):
            ...     @nnsight.eproperty()
            ...     def rounded(self):
            ...         '''The result, rounded.'''
            ...     def interleave(self, function, *args, **kwargs):
            ...         return Rounded.rounded.provide(self, function(*args, **kwargs).round())
            >>> model = Rounded(torch.nn.Identity())
            >>> with model.trace(torch.tensor([1.6, 2.2])) as tracer:
            ...     model.rounded[0] += 10
            ...     result = tracer.result.save()
            >>> result
            tensor([12.,  2.])
        """
        if self._point is not None:
            raise RecordError(f"{self.name} is the {self._point} of {self._below or 'its module'}, so nothing is provided for it")
        run = current.get()
        bring = None if run is None or run.busy else run.outside.get(self._site(obj).path)
        changed = None if bring is None else bring(value)
        return value if changed is None else changed

    # ------------------------------------------------------------------ the site

    def _trace(self, obj: Any, what: str) -> Recorder:
        trace = recording_here()
        if trace is None:
            path = getattr(obj, "path", None) or "tracer"
            raise MisuseError(f"{path}.{self.name} {what} only inside a trace: with model.trace(...): ...")
        return trace

    def _prepared(self, obj: Any, raw: Any) -> Any:
        if self._preprocess is None:
            return raw
        try:
            return self._preprocess(obj, raw)
        except AttributeError as error:  # Python would take it for an attribute that is not there, and look for a module of that name
            raise RecordError(f"the preprocess of {self.name} failed: {error}") from error

    def _raw(self, obj: Any, trace: Recorder) -> Any:
        if self._point is not None:
            native, host = self._native(obj)
            return native.__get__(host, type(host))
        return trace.read(self._site(obj), self._owner(obj, trace), 4)

    def _native(self, obj: Any) -> tuple[Any, Any]:
        """The property of the object, or of the one below, for that point, under all properties of this kind; and that object."""
        host = obj.get(self._below) if self._below else obj
        formed = self._preprocess or self._postprocess or self._transform
        point = "inputs" if self._point == "input" and formed else str(self._point)
        for cls in type(host).__mro__:
            found = vars(cls).get(point)
            if found is not None and not isinstance(found, eproperty):
                return found, host
        raise RecordError(f"{type(host).__name__} has no {point!r}, which {self.name} needs: it belongs on a class made from Envoy")

    def _site(self, obj: Any) -> Site:
        path = getattr(obj, "path", None) or ""
        path = "" if path == "model" else path.removeprefix("model.")
        site = Site(f"{path}.{self.key}" if path else self.key, "output")
        tree = getattr(obj, "_tree", None)
        if tree is not None and site.path in tree.index.modules:
            raise RecordError(f"{site.path} is a module of the model: give the property another key, eproperty(key=...)")
        return site

    def _owner(self, obj: Any, trace: Recorder) -> Any:
        return getattr(obj, "_tree", None) or trace.owner

    def _is_edited(self, trace: Recorder, value: Any) -> bool:
        """Whether this is the assignment half of ``envoy.name += x``, after an edit that reaches the model by itself."""
        if not isinstance(value, trace.make) or value._trace is not trace or trace.entries[value._index][0] not in IN_PLACE:
            return False
        frame: FrameType | None = sys._getframe(2)
        while frame is not None and not is_users(frame.f_code):
            frame = frame.f_back
        if frame is None or not is_augmented(frame):
            return False
        if self._transform is not None:
            return True
        edited = trace.entries[value._index][1]
        return type(edited) is int and self._postprocess is None and _is_of_a_site(trace.entries, edited)


def _needed(function: Any) -> int:
    """How many arguments a function needs by position."""
    return sum(p.default is p.empty and p.kind <= p.POSITIONAL_OR_KEYWORD for p in inspect.signature(function).parameters.values())


def _is_of_a_site(entries: list[Any], node: int) -> bool:
    """Whether a node is surely a view of what passes somewhere."""
    return any(entries[base][0] == "read" and is_view(entries, node, base) for base in range(node, -1, -1))


def _requires(stub: _Stub, point: str) -> _Stub:
    stub._requires = point  # type: ignore[attr-defined]
    return stub


def requires_output(stub: _Stub) -> _Stub:
    """Mark the stub of an :class:`eproperty`: its value is what the module returns."""
    return _requires(stub, "output")


def requires_input(stub: _Stub) -> _Stub:
    """Mark the stub of an :class:`eproperty`: its value is what the module takes; its functions get and return ``(args, kwargs)``."""
    return _requires(stub, "input")


def requires_operation_output(stub: _Stub) -> _Stub:
    """Mark the stub of an :class:`eproperty` on the envoy of an operation: its value is what the operation returns."""
    return _requires(stub, "output")


def requires_operation_input(stub: _Stub) -> _Stub:
    """Mark the stub of an :class:`eproperty` on the envoy of an operation: its value is what the operation takes, ``(args, kwargs)``."""
    return _requires(stub, "input")
