"""Saved values as what they are: a tensor, a number, a list, that also have ``value``.

A tensor changes its class and stays the object it was; everything torch has for plain tensors works on it, since torch functions are
switched off for the class. Copies and pickles of all of these are of the plain types: they can be read where this library is not.
"""

from __future__ import annotations

import copy
from typing import Any, SupportsIndex

import torch
from torch.utils import _pytree


class SavedTensor(torch.Tensor):
    """A tensor that a run has made and a line has saved."""

    __torch_function__: Any = torch._C._disabled_torch_function_impl

    @property
    def value(self) -> torch.Tensor:
        """The tensor itself."""
        return self

    def detach(self) -> torch.Tensor:
        """As of any tensor; of the same class, as ``torch.nn.Parameter(x)`` has to find it."""
        made = torch.Tensor.detach(self)
        if not torch.compiler.is_compiling():  # which cannot follow the next line, and needs it not
            made.__class__ = SavedTensor
        return made

    def __format__(self, spec: str) -> str:
        if self.dim() == 0 and not self.is_meta:
            return format(torch.Tensor.detach(self).item(), spec)
        return object.__format__(self, spec)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        if id(self) not in memo:
            if not self.is_leaf:
                torch.Tensor.__deepcopy__(self, memo)  # type: ignore[no-untyped-call]  # refuses, in torch's words
            plain = torch.Tensor.detach(self).requires_grad_(self.requires_grad)
            plain.grad, plain.__dict__ = self.grad, self.__dict__
            memo[id(self)] = copy.deepcopy(plain, memo)
        return memo[id(self)]

    def __reduce_ex__(self, protocol: SupportsIndex) -> Any:
        function, args = self._reduce_ex_internal(protocol)  # type: ignore[no-untyped-call]
        state = torch._utils._get_obj_state(self)
        return (torch._tensor._rebuild_from_type_v2, (function, torch.Tensor, args, state)) if state else (function, args)

    @property
    def _is_param(self) -> bool:
        return False

    @_is_param.setter
    def _is_param(self, flag: bool) -> None:
        """What ``torch.nn.Parameter(x)`` makes of a tensor of another class it marks so: it shall be one in earnest."""
        self.__class__ = torch.nn.Parameter  # type: ignore[assignment]
        self._is_param = flag


SavedTensor.__name__ = "tensor"  # what torch writes before the numbers that it prints


def _with_value(plain: Any, is_itself: bool = False) -> Any:
    """A subclass of a built-in type that has ``value``: a plain one, or, of what can be changed, the object itself."""

    def reduce(self: Any, _protocol: SupportsIndex) -> Any:
        whole: Any = (plain, () if is_itself else (plain(self),))
        return whole if not is_itself else (*whole, None, iter(self), None) if plain is list else (*whole, None, None, iter(self.items()))

    value = property((lambda self: self) if is_itself else plain, doc="The same, of the plain type; of a list or dict, the object itself.")
    body = {"__slots__": (), "__doc__": "What a run has made and a line has saved.", "__module__": __name__, "value": value}
    return type(f"Saved{plain.__name__.title()}", (plain,), {**body, "_stands_for": plain, "__reduce_ex__": reduce})


WITH_VALUE: dict[type, Any] = {kind: _with_value(kind, kind in (list, dict)) for kind in (float, int, str, tuple, list, dict)}
"""The class of a saved value, by its plain one; tensors apart."""

PLAIN_KIND: dict[type, type] = {saved: plain for plain, saved in WITH_VALUE.items()}
"""The plain class of a saved value; tensors apart."""


def plain_type(kind: type) -> type:
    """The class that a saved value has without ``value``; any other as it is.

    >>> plain_type(WITH_VALUE[float]), plain_type(SavedTensor), plain_type(bool)
    (<class 'float'>, <class 'torch.Tensor'>, <class 'bool'>)
    """
    return torch.Tensor if kind is SavedTensor else PLAIN_KIND.get(kind, kind)


for _plain in (list, tuple, dict):
    # To functions of torch's that look into lists (vmap, compile, export) these are lists.
    _node: Any = _pytree.SUPPORTED_NODES[_plain]
    _register: Any = _pytree.register_pytree_node
    _register(WITH_VALUE[_plain], _node.flatten_fn, _node.unflatten_fn, flatten_with_keys_fn=_node.flatten_with_keys_fn)

getattr(torch.testing._comparison.NumberPair, "_TYPE_TO_DTYPE", {}).update({WITH_VALUE[float]: torch.float64, WITH_VALUE[int]: torch.int64})

# What a pickle names where it has one of these: torch.load, which allows few names, knows the plain types by other means.
torch.serialization.add_safe_globals(list(WITH_VALUE))
