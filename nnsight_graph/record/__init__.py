"""User code -> entries of a graph.

In: the lines of a trace, run once as ordinary Python over proxies. Out: a :class:`Recording` - entries, constants and
where each line stands.

The trick: the tuple that is written for a line is both the node and the key that its plan is looked up by, so a trace
that was seen before builds no graph at all.
"""

from .functions import apply, log, save, trace
from .proxy import Proxy
from .recorder import Recorder, recording_here
from .recording import Recording

__all__ = ["Proxy", "Recorder", "Recording", "apply", "log", "recording_here", "save", "trace"]
