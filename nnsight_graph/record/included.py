"""A program that stands at the beginning of another: a persistent edit in a trace."""

from __future__ import annotations

from typing import Any

from ..graph import Site
from .recorder import Recorder
from .recording import Recording

_STEPS = "0:None:1"


def include(recorder: Recorder, recording: Recording) -> None:
    """Write what was recorded before into a trace that has just begun; where the model runs several times, for every step."""
    every = bool(recorder.generating) and not any(map(_names_steps, recording.entries))
    first = len(recorder.entries) + every
    above = {path: proxy._index for path, proxy in recorder.replaced.items()}
    entries = [_moved(_of_this_run(entry, above, -first), first, "turn" if every else 0) for entry in recording.entries]
    places = list(recording.places)
    if any(entry[0] == "under" for entry in entries):
        entries.append(("under", ""))
        places.append(places[-1])
    if every and entries:
        entries = [("steps", _STEPS), *entries, ("end", "False")]
        places = [places[0], *places, places[-1]]
        recorder.open_ended = True
    recorder.entries += entries
    recorder.places += places
    recorder.indices += [len(recorder.constants) + index for index in recording.indices]
    recorder.constants += recording.constants
    recorder.repeats = True
    recorder.replaced = {**recorder.replaced, **{path: recorder.make(recorder, first + node) for path, node in recording.replaced.items()}}
    recorder.edits_constants = recorder.edits_constants or recording.edits_constants
    if recording.foreign:
        recorder.foreign = True
        recorder.strange |= {part.path for entry in recording.entries for part in entry[1:2] if type(part) is Site}


def _of_this_run(entry: tuple[Any, ...], above: dict[str, int], by: int) -> tuple[Any, ...]:
    """A parameter is, below an edit that has replaced it, what stands for it."""
    if entry[0] in ("copied", "parameter") and len(entry) == 2 and entry[1].path in above:
        return ("copied", entry[1], above[entry[1].path] + by)
    return entry


def _names_steps(entry: tuple[Any, ...]) -> bool:
    return entry[0] == "steps" or any(type(part) is Site and part.step != 0 for part in entry[1:2])


def _moved(entry: tuple[Any, ...], by: int, step: int | str) -> tuple[Any, ...]:
    """An entry whose references, and whose steps, are those of the program that it comes into."""
    target, *rest = entry
    return (target, *[_located(part, step) if type(part) is Site else _shifted(part, by) for part in rest])


def _located(site: Site, step: int | str) -> Site:
    return site._replace(step=step) if step and site.step == 0 else site


def _shifted(operand: Any, by: int) -> Any:
    if type(operand) is int:
        return operand + by
    return tuple([_shifted(part, by) for part in operand]) if type(operand) is tuple else operand
