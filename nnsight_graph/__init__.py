"""Read and edit the insides of any PyTorch model.

>>> import torch, nnsight_graph as nnsight
>>> model = nnsight.NNsight(torch.nn.Sequential(torch.nn.Linear(5, 10), torch.nn.Linear(10, 2)))
>>> with model.trace(torch.rand(1, 5)):
...     model[0].output[:, 0] = 0
...     out = model[1].output.save()
>>> out.shape
torch.Size([1, 2])
"""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING, Any

from . import old_paths
from .config import CONFIG
from .errors import (
    Cancelation,
    CheckError,
    EarlyStopException,
    FunctionWhitelistError,
    GraphFormatError,
    LimitError,
    MissedProviderError,
    MissedSiteError,
    MisuseError,
    NNsightDeprecationWarning,
    NNsightError,
    OutOfOrderError,
    RecordError,
    RemoteError,
    SkipException,
    UnsetValueError,
    WrongTypeError,
)

if TYPE_CHECKING:
    from .huggingface import LanguageModel, TransformersModel
    from .model import Cache, CacheDict, Editor, Entry, Envoy, IEnvoy, NNsight, OperationEnvoy, ScanningTracer, Session, Source, Tracer
    from .model import InterleavingTracer as InterleavingTracer
    from .model import Invoker as Invoker
    from .model import Limits as Limits
    from .model import SavedGraph as SavedGraph
    from .model import eproperty as eproperty
    from .model import load as load
    from .model import requires_input as requires_input
    from .model import requires_operation_input as requires_operation_input
    from .model import requires_operation_output as requires_operation_output
    from .model import requires_output as requires_output
    from .model.wrapper import WrapperModule as WrapperModule
    from .record import Proxy, apply, log, save, stop, trace, value
    from .record.branches import cond
    from .record.branches import iter as iter
    from .record.constructors import bool_ as bool_
    from .record.constructors import dict_ as dict_
    from .record.constructors import float_ as float_
    from .record.constructors import int_ as int_
    from .record.constructors import list_ as list_
    from .record.constructors import set_ as set_
    from .record.constructors import str_ as str_
    from .record.constructors import tuple_ as tuple_
    from .record.elsewhere import VLLM as VLLM
    from .record.elsewhere import local as local
    from .record.proxy import Object as Object
    from .run.fakes import on_fakes

__version__ = "0.1.0"
logger = logging.getLogger(__name__)
old_paths.put_there()

_LAZY = {
    "LanguageModel": ".huggingface",
    "TransformersModel": ".huggingface",
    "Cache": ".model",
    "CacheDict": ".model",
    "Editor": ".model",
    "Entry": ".model",
    "Envoy": ".model",
    "IEnvoy": ".model",
    "eproperty": ".model",
    "requires_input": ".model",
    "requires_operation_input": ".model",
    "requires_operation_output": ".model",
    "requires_output": ".model",
    "NNsight": ".model",
    "OperationEnvoy": ".model",
    "SavedGraph": ".model",
    "ScanningTracer": ".model",
    "InterleavingTracer": ".model",
    "Invoker": ".model",
    "Limits": ".model",
    "VLLM": ".record.elsewhere",
    "load": ".model",
    "local": ".record.elsewhere",
    "Session": ".model",
    "Source": ".model",
    "Tracer": ".model",
    "Object": ".record.proxy",
    "Proxy": ".record",
    "WrapperModule": ".model.wrapper",
    "apply": ".record",
    "log": ".record",
    "save": ".record",
    "stop": ".record",
    "trace": ".record",
    "value": ".record",
    "cond": ".record.branches",
    "on_fakes": ".run.fakes",
    "iter": ".record.branches",
    **{f"{name}_": ".record.constructors" for name in ("bool", "dict", "float", "int", "list", "set", "str", "tuple")},
}

__all__ = [
    "CONFIG",
    "Cache",
    "CacheDict",
    "Cancelation",
    "CheckError",
    "EarlyStopException",
    "Editor",
    "Entry",
    "Envoy",
    "FunctionWhitelistError",
    "LimitError",
    "MisuseError",
    "GraphFormatError",
    "IEnvoy",
    "InterleavingTracer",
    "Invoker",
    "LanguageModel",
    "TransformersModel",
    "MissedProviderError",
    "MissedSiteError",
    "NNsight",
    "OperationEnvoy",
    "NNsightDeprecationWarning",
    "NNsightError",
    "Object",
    "OutOfOrderError",
    "Proxy",
    "RecordError",
    "RemoteError",
    "SavedGraph",
    "ScanningTracer",
    "Session",
    "Source",
    "SkipException",
    "Tracer",
    "UnsetValueError",
    "WrongTypeError",
    "apply",
    "cond",
    "eproperty",
    "Limits",
    "VLLM",
    "WrapperModule",
    "load",
    "local",
    "log",
    "logger",
    "on_fakes",
    "requires_input",
    "requires_operation_input",
    "requires_operation_output",
    "requires_output",
    "save",
    "stop",
    "trace",
    "value",
]


_MACHINERY = frozenset(("Backend", "Batcher", "Events", "Globals", "Interleaver", "Mediator", "Cancellation"))


def __getattr__(name: str) -> Any:
    """Import what needs torch, or transformers, when it is first asked for."""
    real = name if name in _LAZY else f"{name}_"  # nnsight_graph.list is list_: as a name of this file it would hide Python's own
    if real not in _LAZY:
        hint = ": it is a part of nnsight's threads, see docs/migration.md for what to use instead" if name in _MACHINERY else ""
        raise AttributeError(f"module 'nnsight_graph' has no attribute {name!r}{hint}")
    value = getattr(importlib.import_module(_LAZY[real], __name__), real)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])
