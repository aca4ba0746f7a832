"""Whether a callable was made by the package."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from types import CodeType, FunctionType, MethodType

PACKAGE = "nnsight_graph"
FOLDER = str(Path(__file__).resolve().parents[2] / PACKAGE) + os.sep


def is_package_name(name: object) -> bool:
    return isinstance(name, str) and (name == PACKAGE or name.startswith(PACKAGE + "."))


def from_package(value: object) -> bool:
    """True for functions, methods, partials and instances whose code is the package's, also under what `functools.wraps` puts on."""
    kind = type(value)
    if kind is functools.partial:
        return from_package(value.func)  # type: ignore[attr-defined]
    if kind is MethodType:
        return from_package(value.__func__) or is_package_name(type(value.__self__).__module__)  # type: ignore[attr-defined]
    if kind is FunctionType:
        return from_package_function(value)  # type: ignore[arg-type]
    if is_package_name(kind.__module__):
        return True
    wrapped = getattr(value, "__dict__", {}).get("__wrapped__") if callable(value) else None
    return wrapped is not None and from_package(wrapped)


def from_package_function(function: FunctionType) -> bool:
    if is_package_name(function.__module__) or is_package_file(function.__code__):
        return True
    wrapped = function.__dict__.get("__wrapped__")
    return wrapped is not None and from_package(wrapped)


def is_package_file(code: CodeType) -> bool:
    return code.co_filename.startswith((FOLDER, f"<{PACKAGE}"))
