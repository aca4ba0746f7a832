"""The mirror of a module: where its ``.input`` and ``.output`` hang."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from ..errors import MisuseError, RecordError, ours
from ..graph import Site
from ..record import Proxy, recording_here
from ..record.recorder import Recorder, holds_proxy
from ..record.settled import plain
from ..source_location import on_users_line
from .attributes import attribute
from .copies import NOT_THE_MODULES, made_by, missing, packed, unpacked, viewed
from .declared import Declared, has_rows
from .eproperty import eproperty
from .hidden import HiddenStates
from .mistakes import NoValue, mistaken, no_site, own_sites, refuse_item
from .passes import Calls, EveryStep, OwnIteration
from .printing import printed
from .relatives import Relatives
from .tree import Scanned, Tree

_ASSIGNED = frozenset(("input", "inputs", "output", "nns_input", "nns_inputs", "nns_output", "hidden_states", "attention_weights"))


class Envoy(Relatives, HiddenStates, NoValue):
    """Mirrors one module of a model.

    Submodules are attributes (``model.transformer``), items of lists are indexed (``h[-1]``, ``h[2:4]``), other
    attributes are the module's own. Inside a trace :attr:`output`, :attr:`input` and :attr:`inputs` are what passes.

    Example:
        >>> import torch, nnsight_graph as nnsight
        >>> model = nnsight.NNsight(torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU()))
        >>> model[0].out_features, model[-1].path
        (3, 'model.1')
    """

    _record_assignment = True
    rows = Declared()

    def __init__(self, module: torch.nn.Module, tree: Tree | None = None, path: str = "") -> None:
        set_ = object.__setattr__
        set_(self, "_module", module)
        set_(self, "_tree", tree or Tree(module))
        set_(self, "_path", path)
        canonical = self._tree.index.canonical(module, path)
        set_(self, "_sites", own_sites(module, canonical))
        set_(self, "_output", Site(canonical, "output"))
        self._tree.envoys.setdefault(path, self)  # last: another thread may look at once

    # ------------------------------------------------------------------ what passes

    @property
    def output(self) -> Any:
        """What the module returns: a proxy; assign to it to replace what the model goes on with.

        Raises:
            RecordError: outside a trace, or in a trace of another model.
        """
        trace = recording_here()
        if trace is not None and trace.owner is self._tree and trace.own is None:
            known = trace.reads.get(self._output)
            if known is not None:
                return known
        return self._read("output")

    @output.setter
    def output(self, value: Any) -> None:
        self._write("output", value)

    @property
    def input(self) -> Any:
        """The module's first argument (the first positional one, else the first named one); may be assigned to."""
        return self._read("input")

    @input.setter
    def input(self, value: Any) -> None:
        self._write("input", value)

    @property
    def inputs(self) -> Any:
        """All arguments of the module's call, as ``((positional, ...), {name: value})``; may be assigned to."""
        return self._read("inputs")

    @inputs.setter
    def inputs(self, value: Any) -> None:
        self._write("inputs", value)

    nns_output, nns_input, nns_inputs = output, input, inputs

    def _read(self, point: str, call: int = 0) -> Any:
        trace = recording_here()
        if trace is None:
            raise on_users_line(MisuseError(f"{self.path}.{point} is there only inside a trace: with model.trace(...): ..."))
        site = self._sites.get(point) or no_site(self, point)
        return trace.read(site if not call else site._replace(call=call), self._tree, 4)

    def _write(self, point: str, value: Any, call: int = 0, depth: int = 5) -> None:
        trace = recording_here()
        if trace is None:
            raise on_users_line(MisuseError(f"{self.path}.{point} can be assigned only inside a trace: with model.trace(...): ..."))
        site = self._sites.get(point) or no_site(self, point)
        trace.write(site if not call else site._replace(call=call), self._tree, value, depth)

    def skip(self, value: Any) -> None:
        """The module does not run: ``value`` is what it returns, in the structure that it would return.

        In an invoke only these rows are skipped, and the module runs for the others. Its input is there; what is inside it does not run.

        Args:
            value: A value of the trace that is known when the module's turn comes, or a tensor.

        Raises:
            RecordError: outside a trace.
            OutOfOrderError: ``value`` needs something that the model reaches later.

        Example:
            >>> import torch, nnsight_graph as nnsight
            >>> model = nnsight.NNsight(torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU()))
            >>> with model.trace(-torch.ones(1, 2)):
            ...     model[1].skip(model[1].input)
            ...     same = (model[0].output == model.output).all().save()
            >>> same
            tensor(True)
        """
        self._skip(value)

    def _skip(self, value: Any, call: int = 0) -> None:
        trace = self._recorder("skip")
        site = self._sites.get("inputs") or no_site(self, "skip")
        trace.skip(site._replace(call=call) if call else site, self._tree, value)

    # ------------------------------------------------------------------ later passes

    def next(self) -> Envoy:
        """From here on lines about this module mean its next step (in a generation), or its next call; returns the envoy.

        Raises:
            RecordError: outside a trace.
        """
        self._recorder("next").move_on(self._output.path)
        return self

    def all(self) -> EveryStep:
        """From here on lines about this module, and all below it, mean every step.

        ``with module.all():`` and ``for step in module.all():`` mean so only in their block.

        Raises:
            RecordError: outside a trace.
        """
        return EveryStep(self, self._recorder("all"))

    @property
    def iter(self) -> OwnIteration:
        """Steps of this module (its calls, where the model runs once): ``module.iter[2].output``, ``for step in module.iter[1:3]``."""
        return OwnIteration(self, self._recorder("iter"))

    @property
    def call(self) -> Calls:
        """The calls of this module within one step: ``module.call[1].output`` is what the second returns."""
        return Calls(self)

    @property
    def source(self) -> Any:
        """The source of the module's forward, with a name for each operation: ``print(module.source)``, ``module.source.split_0.output``.

        Returns:
            A :class:`Source`.

        Raises:
            NNsightError: there is no source.
        """
        return self._source_of(self)

    @property
    def attention_weights(self) -> Any:
        """The attention weights of an attention module, ``[batch, heads, queries, keys]``; may be edited and assigned to.

        They are there whatever computes the attention, in the module's forward or in what that calls: where it keeps none (``sdpa``,
        flash attention), they are recomputed from the queries and keys of this layer, and the layer's own result stays as it is unless
        they are changed.

        Raises:
            RecordError: outside a trace, or of a module that never attends. A run raises :class:`MissedSiteError` where nothing attended.
        """
        return self._attention_weights_of(self).output

    @attention_weights.setter
    def attention_weights(self, value: Any) -> None:
        self._attention_weights_of(self).output = value

    _source_of: Callable[[Envoy], Any]
    _attention_weights_of: Callable[[Envoy], Any]

    @property
    def scanned(self) -> Scanned:
        """What the last scan found that the module takes and returns: ``scanned.inputs`` and ``scanned.output``, tensors as specs.

        Example:
            >>> import torch, nnsight_graph as nnsight
            >>> model = nnsight.NNsight(torch.nn.Linear(5, 10))
            >>> with model.scan(torch.rand(1, 5)):
            ...     pass
            >>> print(model.scanned.output)
            float32[1, 10] on cpu
        """
        scan = self._tree.scan
        if scan is None:
            raise RecordError("nothing was scanned yet: with model.scan(input): ...")
        return Scanned(scan.value(self._output._replace(point="inputs")), scan.value(self._output))

    @property
    def _fake_output(self) -> Any:
        return self.scanned.output

    @property
    def _fake_inputs(self) -> Any:
        return self.scanned.inputs

    def _recorder(self, what: str) -> Recorder:
        trace = recording_here()
        if trace is None:
            raise on_users_line(MisuseError(f"{self.path}.{what} is there only inside a trace: with model.trace(...): ..."))
        return trace

    def __call__(self, *args: Any, hook: bool = False, **kwargs: Any) -> Any:
        """Call the module: on traced values as part of the trace, else directly.

        Args:
            *args: Arguments of the module.
            hook: Whether the sites of the module, and of those inside it, are visited by this call: for a module of
                your own that you attached (``model.transformer.h[3].sae = sae``) and that the model never calls.
            **kwargs: Named arguments of the module.
        """
        trace = recording_here()
        if trace is None or not holds_proxy((*args, *kwargs.values()), Proxy):
            return self._module(*plain(args), **plain(kwargs))
        return trace.call_module(self._sites["call"], self._tree, args, kwargs, hook)

    def _record_as_operand(self, recorder: Recorder) -> Any:
        if recorder.target != "call":
            raise RecordError(f"{self.path} is a module, not a value: use {self.path}.output, or call it")
        return recorder.lift(self)

    @classmethod
    def __torch_function__(cls, function: Any, _types: Any, args: Any = (), _kwargs: Any = None) -> Any:
        raise RecordError(f"a module is no value for {getattr(function, '__name__', 'a function')}: use its .output, or call it")

    # ------------------------------------------------------------------ the tree

    @property
    def path(self) -> str:
        """Where the module stands, as in ``model.transformer.h.0``."""
        return f"model.{self._path}" if self._path else "model"

    def get(self, path: str) -> Any:
        """The envoy, or the attribute, at a dotted path below this one.

        Raises:
            AttributeError: names the part that is not there, and what is near.
        """
        if path.startswith("model.") or path == "model":  # as paths are printed; but some models have a part of that name
            try:
                return self._walk(path) if self._child("model") is not None else self._walk(path[6:])
            except AttributeError:
                return self._walk(path[6:])
        return self._walk(path)

    def _walk(self, path: str) -> Any:
        found: Any = self
        for part in path.split(".") if path else ():
            found = found._child(part) or getattr(found, part) if isinstance(found, Envoy) else getattr(found, part)
        return found

    def named_modules(self, include_fn: Callable[[Envoy], bool] | None = None) -> list[tuple[str, Envoy]]:
        """``(path, envoy)`` of this module and all below it; ``include_fn(envoy)`` picks."""
        found = []
        for path, _ in self._module.named_modules():
            envoy = self._at(f"{self._path}.{path}" if self._path and path else path or self._path)
            if include_fn is None or include_fn(envoy):
                found.append((envoy.path, envoy))
        return found

    def modules(self, include_fn: Callable[[Envoy], bool] | None = None, names: bool = False) -> list[Any]:
        """The envoys of this module and all below it; with ``names``, pairs of path and envoy."""
        found = self.named_modules(include_fn)
        return list(found) if names else [envoy for _, envoy in found]

    def _at(self, path: str) -> Envoy:
        """The envoy at a path from the root."""
        envoy: Envoy | None = self._tree.envoys.get(path)
        if envoy is None:
            module = self._tree.index.root.get_submodule(path)
            kind: type[Envoy] = self._tree.kind_of(path, module) or Envoy
            envoy = kind(module, self._tree, path)
        return envoy

    def _child(self, name: str) -> Envoy | None:
        module = self._module._modules.get(name)
        if module is None:
            real = self._tree.names.real(self._path, name) if self._tree.names.at else None
            return None if real is None else self._at(real)
        path = f"{self._path}.{name}" if self._path else name
        if self._tree.index.modules.get(self._tree.index.canonical(module, path)) is not module:  # put there since
            self._tree.replace(self._tree.index.root)
        return self._at(path)

    def _children(self) -> list[Envoy]:
        found: list[Envoy] | None = self.__dict__.get("_items")
        if found is None or len(found) != len(self._module._modules):
            found = [child for name in self._module._modules if (child := self._child(name)) is not None]
            self.__dict__["_items"] = found
        return found

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, str):
            return self.get(index)
        refuse_item(self, index)
        children = self._children()
        try:
            child = children[index]
            if isinstance(child, Envoy) and self._module._modules.get(child._path.rpartition(".")[2]) is not child._module:
                self._tree.replace(self._tree.index.root)  # another module was put there since
                return self._children()[index]
            return child
        except IndexError:
            raise ours(IndexError, f"{self.path} has {len(children)} submodules: there is no {self.path}[{index}]") from None

    def __len__(self) -> int: return len(self._module._modules)

    def __bool__(self) -> bool:
        return True

    def __iter__(self) -> Iterator[Envoy]:
        return iter(self._children())

    def __getattr__(self, name: str) -> Any:
        if name in NOT_THE_MODULES:
            raise ours(AttributeError, missing(self, name))
        child = self._child(name) or (self._child(name[2:]) if name.startswith("E_") else None)
        if child is not None:
            self.__dict__[name] = child
            return child
        return attribute(self, name)

    def _unknown(self, name: str) -> str:
        hint = mistaken(self, name) or self._tree.names.hint(self._module, self._path, name, dir(self))
        return f"{self.path} ({type(self._module).__name__}) has no {name!r}{hint}"

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _ASSIGNED or isinstance(getattr(type(self), name, None), eproperty) or (name == "rows" and not has_rows(self)):
            object.__setattr__(self, name, value)
        elif (trace := recording_here()) is not None and (name in self._module._parameters or name in self._module._buffers):
            path = f"{self._path}.{name}" if self._path else name
            if getattr(self._module, name) is None:
                raise RecordError(f"{self.path}.{name} is None: there is no parameter that another could stand for")
            trace.replace(self._tree.names_of(path), self._tree, value)
        elif trace is not None:
            raise RecordError(f"{self.path}.{name} cannot be assigned in a trace; what can is .output, .input, .inputs, .hidden_states")
        elif name in self._tree.names.below(self._path):
            owner, _, last = self._tree.names.below(self._path)[name].rpartition(".")
            setattr(self._walk(owner), last, value)
        else:
            self.__dict__.pop(name, None)
            self.__dict__.pop("_items", None)
            setattr(self._module, name, value)
            if not self._tree.loaded:
                self._tree.assigned[self._path, name] = None
            if isinstance(value, torch.nn.Module):
                self._tree.replace(self._tree.index.root)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self._tree.names.below(self._path), *self._module._modules, *dir(self._module)})

    def __repr__(self) -> str:
        return printed(self)

    # ------------------------------------------------------------------ copies

    def __copy__(self) -> Any:
        return viewed(self)

    def __reduce__(self) -> Any:
        return *made_by(type(self)), self.__getstate__()

    def __getstate__(self) -> dict[str, Any]:
        return packed(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        unpacked(self, state)
