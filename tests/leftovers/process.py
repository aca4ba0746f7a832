"""The state of the process that a run must leave as it was; free of torch."""

from __future__ import annotations

import builtins
import contextvars
import inspect
import linecache
import signal
import sys
import threading
import time
from typing import Any

from tests.leftovers.origin import is_package_name

PATIENCE = 2.0  # seconds that a thread may take to end after its test


def process_state() -> dict[str, object]:
    return {
        "sys.excepthook": sys.excepthook,
        "sys.unraisablehook": sys.unraisablehook,
        "sys.displayhook": sys.displayhook,
        "sys.tracebacklimit": getattr(sys, "tracebacklimit", None),
        "sys.gettrace()": sys.gettrace(),
        "sys.getprofile()": sys.getprofile(),
        "threading.excepthook": threading.excepthook,
        "the handler of SIGINT": signal.getsignal(signal.SIGINT),
        "builtins.__import__": builtins.__import__,
        "inspect.getsource": inspect.getsource,
        "linecache.getlines": linecache.getlines,
    }


def changed_process_state(before: dict[str, object]) -> list[str]:
    after = process_state()
    changed = [f"{name} changed: {before[name]!r} -> {after[name]!r}" for name in before if before[name] is not after[name]]
    return changed + package_context() + package_finders()


def _default(var: contextvars.ContextVar[Any]) -> Any:
    try:
        return contextvars.Context().run(var.get)
    except LookupError:
        return None


def package_context() -> list[str]:
    """Context variables that still hold something of the package, such as a run or a recorder."""
    ours = [(var, value) for var, value in contextvars.copy_context().items() if is_package_name(type(value).__module__)]
    kept = [(var.name, value) for var, value in ours if value is not _default(var)]
    return [f"{name} is still {value!r}" for name, value in kept]


def package_finders() -> list[str]:
    return [f"sys.meta_path holds {finder!r}" for finder in sys.meta_path if is_package_name(type(finder).__module__)]


def threads() -> set[threading.Thread]:
    """Python's threads, without those that libraries keep for the whole process and without those that C++ code made."""
    alive = {t for t in threading.enumerate() if not isinstance(t, threading._DummyThread) and not of_library(t)}
    return alive - pooled_by_torch() if len(alive) > 1 else alive


def of_library(thread: threading.Thread) -> bool:
    """The monitor of tqdm's bars, and readers of torch's compiler processes."""
    target = getattr(thread, "_target", None)
    return type(thread).__module__.startswith("tqdm") or str(getattr(target, "__module__", "")).startswith("torch.")


def pooled_by_torch() -> set[threading.Thread]:
    """Threads of the pools in which torch compiles and loads ahead; they live as long as the process."""
    found: set[threading.Thread] = set()
    if compiler := sys.modules.get("torch._inductor.async_compile"):
        found |= compiler.AsyncCompile.pool()._threads
    if pool := getattr(sys.modules.get("torch.utils._functools"), "_prefetch_executor", None):
        found |= pool._threads
    return found


def new_threads(before: set[threading.Thread]) -> list[str]:
    late = threads() - before
    end = time.monotonic() + PATIENCE
    for thread in late:
        thread.join(max(0.0, end - time.monotonic()))
    return [f"thread still alive: {thread.name}" for thread in late if thread.is_alive()]
