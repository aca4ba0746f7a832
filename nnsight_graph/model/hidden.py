"""``module.hidden_states``: the tensor in what a module returns, whether that is a tensor or a tuple.

Which of the two it is, is not known while a trace is written; so reading it is a line of the program like any other, on the
module's output, and assigning it replaces that output.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..graph import Site
from ..record.recorder import IN_PLACE, Recorder, is_augmented

if TYPE_CHECKING:
    from .tree import Tree

_READ, _WITH = "passing.hidden_states", "passing.with_hidden_states"


class HiddenStates:
    """The part of an envoy that knows hidden states."""

    _output: Site
    _tree: Tree
    _recorder: Callable[[str], Recorder]

    @property
    def hidden_states(self) -> Any:
        """The tensor in what the module returns: the output itself, or its first item where the module returns a tuple.

        What a block of a transformer returns depends on the family and on the version of transformers. This is its residual
        stream in either case: read it, edit it in place, or assign to it (what else is in a tuple stays).

        Raises:
            RecordError: outside a trace, or in a trace of another model.

        Example:
            >>> import torch, nnsight_graph as nnsight
            >>> model = nnsight.NNsight(torch.nn.Sequential(torch.nn.GRU(2, 3), torch.nn.Identity()))  # a GRU returns a tuple
            >>> with model.trace(torch.ones(4, 2)):
            ...     model[0].hidden_states[:, 0] = 0
            ...     hidden = model[0].hidden_states.save()
            >>> hidden.shape, hidden[:, 0].tolist()
            (torch.Size([4, 3]), [0.0, 0.0, 0.0, 0.0])
        """
        return read_hidden(self)

    @hidden_states.setter
    def hidden_states(self, value: Any) -> None:
        write_hidden(self, value)


def _passing(envoy: HiddenStates, call: int) -> Any:
    """The output as the module returns it; called by what the user's line calls by way of two others."""
    trace = envoy._recorder("hidden_states")
    return trace.read(envoy._output._replace(call=call), envoy._tree, 5)


def read_hidden(envoy: HiddenStates, call: int = 0) -> Any:
    """The hidden states in an output, in an open trace; called by what the user's line calls."""
    whole = _passing(envoy, call)
    trace: Recorder = whole._trace
    return trace.make(trace, trace.put((_READ, whole._index), sys._getframe(2)))


def write_hidden(envoy: HiddenStates, value: Any, call: int = 0, depth: int = 3) -> None:
    """Let the model go on with other hidden states; ``hidden_states += x`` has edited them in place already."""
    whole = _passing(envoy, call)
    trace: Recorder = whole._trace
    if isinstance(value, trace.make) and value._trace is trace and is_augmented(sys._getframe(depth)):
        edit = trace.entries[value._index]
        if edit[0] in IN_PLACE and trace.entries[edit[1]] == (_READ, whole._index):
            return
    number = trace.add(_WITH, (whole, value), depth=depth + 1)
    site = envoy._output._replace(call=call)
    trace.write(site, envoy._tree, trace.make(trace, number), depth + 1)

