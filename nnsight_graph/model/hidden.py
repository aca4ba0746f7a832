"""``module.hidden_states``: the tensor in what a module returns, whether that is a tensor or a tuple.

Which of the two it is, is not known while a trace is written; so reading it is a line of the program like any other, on the
module's output, and assigning it replaces that output.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from ..record.recorder import IN_PLACE, Recorder, is_augmented

if TYPE_CHECKING:
    from .envoy import Envoy

_READ, _WITH = "passing.hidden_states", "passing.with_hidden_states"


def read_hidden(envoy: Envoy, call: int = 0) -> Any:
    """The hidden states in an output, in an open trace; called by what the user's line calls."""
    whole = envoy._passing(call, ".hidden_states")
    trace: Recorder = whole._trace
    return trace.make(trace, trace.put((_READ, whole._index), sys._getframe(2)))


def write_hidden(envoy: Envoy, value: Any, call: int = 0, depth: int = 3) -> None:
    """Let the model go on with other hidden states; ``hidden_states += x`` has edited them in place already."""
    whole = envoy._passing(call, ".hidden_states")
    trace: Recorder = whole._trace
    if isinstance(value, trace.make) and value._trace is trace and is_augmented(sys._getframe(depth)):
        edit = trace.entries[value._index]
        if edit[0] in IN_PLACE and trace.entries[edit[1]] == (_READ, whole._index):
            return
    number = trace.add(_WITH, (whole, value), depth=depth + 1)
    site = envoy._sites["output"]._replace(call=call)
    trace.write(site, envoy._tree, trace.make(trace, number), depth + 1)

