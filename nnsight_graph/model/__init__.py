"""What the user holds: a model's mirror of envoys, and the tracer that runs what was written about them.

In: an ``nn.Module``. Out: envoys (``model.transformer.h[3].mlp.output``) inside ``with model.trace(...):``, and values
after it.

The trick: an envoy holds no state of a trace. Whatever is being written on this thread is found by a context variable.
"""

from ..run.limits import Limits
from .cache import Cache
from .editor import Editor
from .entries import CacheDict, Entry
from .envoy import Envoy
from .eproperty import IEnvoy, eproperty, requires_input, requires_operation_input, requires_operation_output, requires_output
from .handle import GraphHandle
from .invoker import Invoker
from .nnsight import NNsight
from .operations import OperationEnvoy, Source
from .saved import SavedGraph, load
from .scanning_tracer import ScanningTracer
from .session import Session
from .tracer import InterleavingTracer, Tracer

__all__ = [
    "Cache", "CacheDict", "Editor", "Entry", "Envoy", "GraphHandle", "IEnvoy", "InterleavingTracer", "Invoker", "Limits", "NNsight",
    "OperationEnvoy", "SavedGraph", "ScanningTracer", "Session", "Source", "Tracer",
    "eproperty", "load", "requires_input", "requires_operation_input", "requires_operation_output", "requires_output",
]  # fmt: skip
