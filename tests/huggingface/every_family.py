"""What a trace with invokes gives, for every family of transformers: right, or refused with a reason; never another's numbers."""

from __future__ import annotations

import contextlib
import inspect
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from nnsight_graph import CONFIG, LanguageModel, NNsightError
from nnsight_graph.huggingface.padded_alike import BY_LENGTH
from tests.huggingface.families import word_tokenizer
from tests.huggingface.tiny_families import LeftOut, build

UNEQUAL = [[[20, 21, 22, 23, 24, 25, 26], [30, 31, 32, 33]], [[9, 10], [11, 12, 13, 14, 15, 16, 17, 18, 19], [27, 28, 29, 34, 35]]]
EQUAL = [
    [[20, 21, 22, 23], [30, 31, 32, 33], [40, 41, 42, 43], [50, 51, 52, 53]],  # as many prompts as tokens
    [[20, 21, 22, 23, 24, 25], [30, 31, 32, 33, 34, 35], [40, 41, 42, 43, 44, 45]],
]
_MIXING = "mamba shortconv convlayer recurrent rwkv xlstm lightning deltanet linearattn lineardecoder".split()
# Not known, though right here: what it is made of decides; how many tokens fit into an expert; transformers 4.57 with sdpa is not right.
_DEPENDS = ("EncoderDecoder", "NllbMoe", "SwitchTransformers", "Doge")
ADDED, FACTOR = 3.0, -0.5


class Wrong(Exception):
    """A trace gave other numbers than the plain model, or broke."""


class Refused(Exception):
    """A trace was refused; the message is the reason."""


class Block(NamedTuple):
    """A block of the model, and where in its output the tensor stands that it passes on (``None``: it is the output)."""

    path: str
    key: Any


class Family:
    """A tiny model of a class of transformers, to be run plainly and traced."""

    def __init__(self, name: str, attention: str = "eager") -> None:
        self.name, self.model = name, build(name, attention)
        self.takes = inspect.signature(type(self.model).forward).parameters
        self.wrapped = LanguageModel(self.model, tokenizer=word_tokenizer())
        try:
            self.plain(EQUAL[0][0])
        except Exception as error:
            raise LeftOut(f"does not run here: {(str(error) or '-').splitlines()[0]}") from error

    def traced(self, side: str = "right") -> Any:
        """The model, wrapped, that pads on one side."""
        self.wrapped.tokenizer.padding_side = side
        return self.wrapped

    def decoded(self, ids: Sequence[int]) -> list[int]:
        """What the decoder of an encoder-decoder gets for a prompt."""
        return [3, *(50 + token % 7 for token in ids[: 2 + len(ids) % 2])] if "decoder_input_ids" in self.takes else []

    def prompt(self, ids: list[int]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """A prompt for an invoke."""
        return (ids,), {"decoder_input_ids": torch.tensor([self.decoded(ids)])} if self.decoded(ids) else {}

    def plain(self, ids: list[int], hooks: dict[str, Callable[..., Any]] | None = None) -> torch.Tensor:
        """The result of a prompt alone, by the plain model."""
        given = {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids), dtype=torch.long)}
        if self.decoded(ids):
            given["decoder_input_ids"] = torch.tensor([self.decoded(ids)])
        handles = [self.model.get_submodule(path).register_forward_hook(hook) for path, hook in (hooks or {}).items()]
        try:
            with torch.no_grad():
                return result(self.model(**{name: value for name, value in given.items() if name in self.takes}))
        finally:
            for handle in handles:
                handle.remove()

    def outputs(self, ids: list[int]) -> dict[str, Any]:
        """What every module that runs gives at its first call, for a prompt alone."""
        seen: dict[str, Any] = {}

        def note(path: str) -> Callable[..., Any]:
            def hook(_module: Any, _args: Any, output: Any) -> None:
                seen.setdefault(path, copied(output))

            return hook

        self.plain(ids, {path: note(path) for path, _ in self.model.named_modules() if path})
        return seen

    def blocks(self) -> list[Block]:
        """The middle block of each of the outermost lists of modules, of those that run."""
        seen, found, lists = self.outputs(EQUAL[0][0]), [], []
        for path, module in self.model.named_modules():
            has_weights = next(module.parameters(), None) is not None
            if isinstance(module, torch.nn.ModuleList) and has_weights and not any(path.startswith(f"{each}.") for each in lists):
                lists.append(path)
                ran = [f"{path}.{name}" for name in module._modules if f"{path}.{name}" in seen]
                if ran and (key := passed_on(seen[middle := ran[len(ran) // 2]])) != "":
                    found.append(Block(middle, key))
        return found


def result(output: Any) -> torch.Tensor:
    """The main result of a model."""
    return next(value for key, value in output.items() if key != "loss" and isinstance(value, torch.Tensor) and value.is_floating_point())


def result_name(family: Family) -> str:
    with torch.no_grad():
        given = {"decoder_input_ids": torch.tensor([[3]])} if "decoder_input_ids" in family.takes else {}
        output = family.model(input_ids=torch.tensor([EQUAL[0][0]]), **given)
    return next(key for key, value in output.items() if value is result(output))


def copied(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.clone()
    if isinstance(value, (tuple, list)):
        return [copied(each) for each in value]
    return {key: copied(each) for key, each in value.items()} if isinstance(value, dict) else None


def passed_on(output: Any) -> Any:
    """Where the tensor stands that a block passes on; empty where there is none."""
    if isinstance(output, torch.Tensor):
        return None
    places = enumerate(output) if isinstance(output, (tuple, list)) else output.items() if isinstance(output, dict) else ()
    return next((key for key, value in places if isinstance(value, torch.Tensor) and value.is_floating_point()), "")


def check(what: str, got: Any, expected: Any) -> None:
    """Compare two values, and what stands in them.

    Raises:
        Wrong: they differ by more than rounding.
    """
    if isinstance(expected, torch.Tensor):
        got = getattr(got, "value", got)
        if not isinstance(got, torch.Tensor) or got.shape != expected.shape:
            raise Wrong(f"{what} is {list(getattr(got, 'shape', []))}, alone {list(expected.shape)}")
        if expected.is_floating_point() and not torch.allclose(got, expected, rtol=1e-4, atol=2e-5 * top(expected), equal_nan=True):
            raise Wrong(f"{what} differs by {(got - expected).abs().max():.2g} of {top(expected):.2g}")
        if not expected.is_floating_point() and not torch.equal(got, expected):
            raise Wrong(f"{what} differs")
    elif isinstance(expected, (list, dict)):
        for key, value in expected.items() if isinstance(expected, dict) else enumerate(expected):
            if value is not None and key != "loss":
                check(f"{what}[{key!r}]", got[key], value)


def top(value: torch.Tensor) -> float:
    finite = value[value.isfinite() & (value.abs() < 1e30)]
    return max(1.0, finite.abs().max().item()) if finite.numel() else 1.0


def refusing(run: Callable[[], None]) -> None:
    """Run, and tell a refusal from an error of torch's.

    Raises:
        Refused: the library said why not.
        Wrong: another error.
    """
    try:
        run()
    except Wrong:
        raise
    except NNsightError as error:
        if type(error).__module__ == "nnsight_graph.errors" and not isinstance(error.__cause__, Exception):
            raise Refused(str(error).splitlines()[0]) from None
        raise Wrong(f"{type(error).__name__}: {str(error).splitlines()[0][:160]}") from error
    except Exception as error:
        raise Wrong(f"{type(error).__name__}: {(str(error) or '-').splitlines()[0][:160]}") from error


def padded(family: Family, side: str) -> None:
    """Invokes of unequal lengths: each has its result of the prompt alone."""
    lm, name = family.traced(side), result_name(family)
    for prompts in UNEQUAL:
        saved = []
        with lm.trace() as tracer:
            for ids in prompts:
                args, kwargs = family.prompt(ids)
                with tracer.invoke(*args, **kwargs):
                    saved.append(getattr(tracer.result, name).save())
        for ids, got in zip(prompts, saved, strict=True):
            alone, got = family.plain(ids), got.value
            length = len(family.decoded(ids)) or len(ids)
            if alone.shape[1] == length:
                got = got[:, got.shape[1] - length :] if side == "left" and not family.decoded(ids) else got[:, :length]
            check(f"{len(ids)} of {max(map(len, prompts))} tokens: {name}", got, alone)


def place(lm: Any, path: str) -> Any:
    return lm.get(f"model.{path}")


def edited(family: Family, block: Block, assign: bool) -> None:
    """A block's output, read and changed in the second of three invokes."""

    def change(output: Any) -> Any:
        hidden = output if block.key is None else output[block.key]
        if not assign:
            hidden[..., 0] += ADDED
            return None
        if block.key is None:
            return hidden * FACTOR
        if isinstance(output, tuple):
            values = (*output[: block.key], hidden * FACTOR, *output[block.key + 1 :])
            return type(output)(*values) if hasattr(output, "_fields") else values
        output[block.key] = hidden * FACTOR
        return output

    lm, name = family.traced(), result_name(family)
    for prompts in EQUAL:
        results = []
        with lm.trace() as tracer:
            for number, ids in enumerate(prompts):
                args, kwargs = family.prompt(ids)
                with tracer.invoke(*args, **kwargs):
                    envoy = place(lm, block.path)
                    if number == 1:
                        hidden = envoy.output if block.key is None else envoy.output[block.key]
                        before = hidden.clone().save()
                        if not assign:
                            hidden[..., 0] += ADDED
                        elif block.key is None:
                            envoy.output = hidden * FACTOR
                        else:
                            envoy.output[block.key] = hidden * FACTOR
                    results.append(getattr(tracer.result, name).save())
        read = family.outputs(prompts[1])[block.path]
        check("read", before, read if block.key is None else read[block.key])
        calls: list[int] = []

        def hook(_module: Any, _args: Any, output: Any, calls: list[int] = calls) -> Any:
            calls.append(1)
            return change(output) if len(calls) == 1 else None  # a line is of the first call

        for number, (ids, got) in enumerate(zip(prompts, results, strict=True)):
            check(f"result of invoke {number}", got, family.plain(ids, {block.path: hook} if number == 1 else None))


def sites(family: Family) -> dict[str, str]:
    """What comes of reading, in the second of several invokes, what one module of each kind gives."""
    kinds: dict[str, list[str]] = {}
    seen = [family.outputs(prompts[1]) for prompts in EQUAL]
    for path in seen[0]:
        if all(each.get(path) is not None for each in seen):  # mixtures of experts run others for other prompts
            kinds.setdefault(re.sub(r"\.\d+(?=\.|$)", ".N", path), []).append(path)
    found = {each[len(each) // 2]: "right" for each in kinds.values()}
    for prompts, alone in zip(EQUAL, seen, strict=True):
        _read(family, [path for path, outcome in found.items() if outcome == "right"], prompts, alone, found)
    return found


def _read(family: Family, paths: Sequence[str], prompts: Sequence[list[int]], alone: dict[str, Any], found: dict[str, str]) -> None:
    """Read all in one trace; where that is refused, in two of half as many."""

    def read() -> None:
        lm, saved = family.traced(), {}
        with lm.trace() as tracer:
            for number, ids in enumerate(prompts):
                args, kwargs = family.prompt(ids)
                with tracer.invoke(*args, **kwargs):
                    if number == 1:
                        saved = {path: place(lm, path).output.save() for path in paths}
        for path in paths:
            check("it", saved[path], alone[path])

    outcome = told(read) if paths else "right"
    if outcome == "right":
        return
    if len(paths) == 1:
        found[paths[0]] = outcome
        return
    _read(family, paths[: len(paths) // 2], prompts, alone, found)
    _read(family, paths[len(paths) // 2 :], prompts, alone, found)


def told(run: Callable[[], None]) -> str:
    """``"right"``, ``"refused: ..."`` or ``"WRONG: ..."``."""
    try:
        refusing(run)
    except Refused as error:
        return f"refused: {error}"
    except Wrong as error:
        return f"WRONG: {error}"
    return "right"


def parts(name: str) -> dict[str, str]:
    """What came of each part of the examination of a class."""
    family = Family(name)
    found = {f"padded on the {side}": told(lambda side=side: padded(family, side)) for side in ("left", "right")}
    for block in family.blocks():
        found[f"{block.path} edited"] = told(lambda block=block: edited(family, block, assign=False))
        found[f"{block.path} assigned"] = told(lambda block=block: edited(family, block, assign=True))
    return {**found, **{f"{path} read": outcome for path, outcome in sites(family).items()}}


def is_alike(name: str) -> bool:
    """Whether prompts keep their numbers when padded on either side, with either attention; or a side is always refused."""
    if name.startswith((*BY_LENGTH, *_DEPENDS)):
        return False
    found = []
    before, CONFIG.APP.VERIFY_BATCH = CONFIG.APP.VERIFY_BATCH, False
    try:
        for attention in ("eager", "sdpa"):
            with contextlib.suppress(LeftOut):
                family = Family(name, attention)
                if any(_mixes_tokens(module) for module in family.model.modules()):
                    return False
                found += [told(lambda side=side, family=family: padded(family, side)) for side in ("left", "right")]
    finally:
        CONFIG.APP.VERIFY_BATCH = before
    return "right" in found and not any(outcome.startswith("WRONG") for outcome in found)


def _mixes_tokens(module: torch.nn.Module) -> bool:
    """Whether a module looks at other tokens by itself: what it does depends on options and lengths, so it is checked each time."""
    name = type(module).__name__.lower()
    return (isinstance(module, torch.nn.Conv1d) and module.kernel_size != (1,)) or any(part in name for part in _MIXING)
