"""``module.source``: the operations inside a forward, by name; each is a place where values pass, as a module is."""

from __future__ import annotations

import difflib
import textwrap
from collections.abc import Iterator
from typing import Any

import torch

from ..errors import NNsightError, RecordError, ours
from ..graph import Site
from ..run.attending import never_attends, no_weights
from ..run.attention import NAME
from ..run.callees import Untold, bound_to, callee
from ..run.instrument import Instrumented, Named, instrumented
from ..run.operations import SOURCE, source_path, unknown
from ..run.wrapped import innermost
from .envoy import Envoy
from .eproperty import eproperty


class Source:
    """The source of a forward, with a name for each of its operations: ``module.source.torch_relu_0``.

    Calls are named after what is called, binary operators ``op_add``, ``op_matmul`` and so on; the number counts those of one name, in
    the order of evaluation. Printing it shows the lines with the names.

    Example:
        >>> import torch, nnsight_graph as nnsight
        >>> model = nnsight.NNsight(torch.nn.Linear(2, 3))
        >>> model.source.names
        ['F_linear_0']
        >>> with model.trace(torch.ones(1, 2)):
        ...     weight = model.source.F_linear_0.inputs[0][1].save()
        >>> weight.shape
        torch.Size([3, 2])
    """

    def __init__(self, envoy: Envoy, path: str, function: Any) -> None:
        self._envoy, self._path, self._function = envoy, path, function
        self._instrumented: Instrumented | None = None if function is None else instrumented(innermost(function))

    @property
    def names(self) -> list[str]:
        """The names of the operations, in the order of the text; none, where only a run can tell what is called."""
        return [] if self._instrumented is None else self._instrumented.names

    def _named(self, name: str) -> Named | None:
        found = self._instrumented
        if found is None:
            return None
        name = name if name in found.names else found.others.get(name, name)
        return next((named for named in found.operations if named.name == name), None)

    def __getattr__(self, name: str) -> OperationEnvoy:
        if name.startswith("__"):
            raise ours(AttributeError, name)
        named = self._named(name)
        if named is None and self._instrumented is not None:
            near = difflib.get_close_matches(name, self.names, 3)
            hint = f" Near: {', '.join(near)}." if near else ""
            raise ours(AttributeError, unknown(name, self._path, self._instrumented) + hint)
        return OperationEnvoy(self._envoy, source_path(self._path, name if named is None else named.name), self, named)

    def __getitem__(self, name: str) -> OperationEnvoy:
        return self.__getattr__(name)

    def __iter__(self) -> Iterator[OperationEnvoy]:
        return iter([self.__getattr__(name) for name in self.names])

    def __len__(self) -> int:
        return len(self.names)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self.names})

    def __reduce__(self) -> Any:
        return _source_at, (self._envoy, _names(self._envoy, self._path))

    def __repr__(self) -> str:
        return self._text()

    def _text(self, only: Named | None = None) -> str:
        """The lines, each with the operations on it; around one operation, five lines to each side."""
        found = self._instrumented
        if found is None:
            return f"{self._path}: what is called here is known when it runs"
        width = max((len(name) for name in self.names), default=0)
        rows = []
        for place, line in enumerate(textwrap.dedent(found.text).splitlines()):
            if only is not None and abs(place + 1 - only.line) > 5:
                continue
            here = [named.name for named in found.operations if named.line == place + 1 and only in (None, named)]
            number = f"{found.first + place:5}"
            rows.append(f"{here[0] if here else '':{width}} {'->' if here else '  '} {number}  {line}".rstrip())
            rows += [f"{name:{width}} -> {'+':>5}" for name in here[1:]]
        return "\n".join(rows)


class OperationEnvoy(Envoy):
    """An operation inside a forward: ``.output``, ``.input``, ``.inputs`` and ``.skip(...)`` are those of a module.

    The module's forward is instrumented only in runs that ask for one of its operations. Of a function that is called, ``.source`` shows
    what is inside it. In loops of the forward the operation's calls are told apart by ``.call[i]``.
    """

    def __init__(self, envoy: Envoy, path: str, source: Source, named: Named | None) -> None:
        set_ = object.__setattr__
        set_(self, "_module", envoy._module)
        set_(self, "_tree", envoy._tree)
        set_(self, "_path", path)
        set_(self, "_envoy", envoy)
        set_(self, "_source", source)
        set_(self, "_named", named)
        set_(self, "_sites", {point: Site(path, point) for point in ("input", "inputs", "output")})
        set_(self, "_output", self._sites["output"])

    @property
    def name(self) -> str:
        """The name of the operation."""
        return str(self._path).rpartition(".")[2]

    @property
    def source(self) -> Source:
        """The source of the function that this operation calls.

        Raises:
            NNsightError: it is a module, or is not written in Python.
        """
        function: Any = None
        if self._named is not None:
            owner = bound_to(self._source._function)
            try:
                function = callee(self._source._instrumented, self._named, owner)
            except Untold:
                function = None
        if isinstance(function, torch.nn.Module):
            raise NNsightError(f"{self.name} calls a module ({type(function).__name__}): use the source of the module itself")
        return Source(self._envoy, self._path, function)

    def __getattr__(self, name: str) -> Any:
        raise ours(
            AttributeError, f"{self.path} is an operation: it has .input, .inputs, .output, .skip(value) and .source, and no {name!r}"
        )

    def __copy__(self) -> OperationEnvoy:
        return self

    def __reduce__(self) -> Any:
        return _operation_at, (self._envoy, _names(self._envoy, self._path))

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in ("input", "inputs", "output", "rows") and not isinstance(getattr(type(self), name, None), eproperty):
            raise RecordError(f"{self.path}.{name} cannot be assigned; what can is .output, .input, .inputs and .rows")
        object.__setattr__(self, name, value)

    def __call__(self, *_args: Any, **_kwargs: Any) -> Any:
        raise RecordError(f"{self.path} is an operation of a forward, and cannot be called from outside")

    def __repr__(self) -> str:
        return f"{self.path}:\n{self._source._text(self._named)}" if self._named is not None else self.path


def source_of(envoy: Envoy) -> Source:
    """The source of a module's forward."""
    module = envoy._module
    function = module.__dict__.get("_old_forward") or module.forward  # accelerate's stands around the module's own
    return Source(envoy, envoy._output.path, function)


def _names(envoy: Envoy, path: str) -> list[str]:
    """The names of the operations that lead from a module to one inside its forward."""
    return [name.rstrip(".") for name in path.removeprefix(envoy._output.path).split(f"{SOURCE}.")[1:]]


def _source_at(envoy: Envoy, names: list[str]) -> Source:
    found = source_of(envoy)
    for name in names:
        found = found[name].source
    return found


def _operation_at(envoy: Envoy, names: list[str]) -> OperationEnvoy:
    source = _source_at(envoy, names[:-1])
    return OperationEnvoy(envoy, source_path(source._path, names[-1]), source, source._named(names[-1]))


def attention_weights_of(envoy: Envoy) -> OperationEnvoy:
    """Where the attention weights of a module pass; whether it attends is seen when it runs.

    Raises:
        RecordError: it is a module that never does.
    """
    if never_attends(envoy._module):
        raise RecordError(no_weights(envoy._output.path, envoy._tree.index.modules))
    path = envoy._output.path
    return OperationEnvoy(envoy, source_path(path, NAME), Source(envoy, path, None), None)


Envoy._source_of = staticmethod(source_of)
Envoy._attention_weights_of = staticmethod(attention_weights_of)
