"""Named arguments of a call: what the model takes reaches it, and what nobody takes is refused."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch

from nnsight_graph import NNsight, RecordError

X = torch.ones(1, 2)


class Scaled(torch.nn.Module):
    def forward(self, x: torch.Tensor, scale: float = 1, shift: float = 0) -> torch.Tensor:
        return x * scale + shift


class Wrapper(torch.nn.Module):
    """Hands on what it is given."""

    def __init__(self, inner: torch.nn.Module | None = None) -> None:
        super().__init__()
        self.inner = Scaled() if inner is None else inner

    def forward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        return self.inner(*args, **kwargs)

    def twice(self, x: torch.Tensor, times: int = 2) -> torch.Tensor:
        return self(x) * times


class Pictures(torch.nn.Module):
    def forward(self, x: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        return x + kwargs.pop("images", 0) + kwargs.get("scans", 0)


class Doubling(NNsight):
    """Keeps an argument for itself."""

    def interleave(self, function: Any, *args: Any, **kwargs: Any) -> Any:
        factor = kwargs.pop("factor")
        return function(*args, **kwargs) * factor


def with_extra(function: Any) -> Any:
    @functools.wraps(function)
    def wrapped(self: Any, *args: Any, extra: float = 0, **kwargs: Any) -> Any:
        return function(self, *args, **kwargs) + extra

    return wrapped


class Decorated(Scaled):
    forward = with_extra(Scaled.forward)


def traced(module: torch.nn.Module, **kwargs: Any) -> list[float]:
    with NNsight(module).trace(X, **kwargs) as tracer:
        result = tracer.result.save()
    return result.flatten().tolist()


def invoked(module: torch.nn.Module, **kwargs: Any) -> list[float]:
    with NNsight(module).trace() as tracer:
        with tracer.invoke(X, **kwargs):
            result = tracer.result.save()
    return result.flatten().tolist()


def scanned(module: torch.nn.Module, **kwargs: Any) -> list[int]:
    with NNsight(module).scan(X, **kwargs) as tracer:
        shape = tracer.result.shape
    return list(shape)


def called(module: torch.nn.Module, **kwargs: Any) -> list[float]:
    return NNsight(module).trace(X, trace=False, **kwargs).flatten().tolist()


def in_a_session(module: torch.nn.Module, **kwargs: Any) -> list[float]:
    model = NNsight(module)
    with model.session():
        with model.trace(X, **kwargs) as tracer:
            result = tracer.result.save()
    return result.flatten().tolist()


def invoked_in_a_session(module: torch.nn.Module, **kwargs: Any) -> list[float]:
    model = NNsight(module)
    with model.session(), model.trace() as tracer:
        with tracer.invoke(X, **kwargs):
            result = tracer.result.save()
    return result.flatten().tolist()


def edited(module: torch.nn.Module, **kwargs: Any) -> list[float]:
    model = NNsight(module)
    with model.edit() as other:
        model.output = model.output + 1
    return (other(X, **kwargs) - 1).flatten().tolist()


def again(module: torch.nn.Module, **kwargs: Any) -> list[float]:
    model = NNsight(module)
    with model.trace(X) as tracer:
        out = tracer.result.save()
    tracer.graph.check(model, X, **kwargs)
    return tracer.graph.run(model, X, **kwargs)["out"].flatten().tolist()


WAYS = [traced, invoked, called, in_a_session, invoked_in_a_session, edited, again]


@pytest.mark.parametrize("way", WAYS)
def test_what_a_forward_takes_reaches_it(way: Any) -> None:
    assert way(Scaled(), scale=3, shift=1) == [4, 4]
    assert way(Wrapper(), scale=3, shift=1) == [4, 4]
    assert way(Decorated(), scale=3, extra=1) == [4, 4]


@pytest.mark.parametrize("module", [Scaled, Wrapper, Decorated])
@pytest.mark.parametrize("way", [*WAYS, scanned])
@pytest.mark.parametrize(("name", "near"), [("validat", "validate"), ("scann", "scan"), ("sacn", "scan"), ("progres", "progress")])
def test_a_slip_is_refused_and_named(module: Any, way: Any, name: str, near: str) -> None:
    with pytest.raises(RecordError, match=rf"'{name}'.*(near: .*{near}|'{near}')"):
        way(module(), **{name: True})


@pytest.mark.parametrize("way", [*WAYS, scanned])
def test_a_closed_forward_takes_its_own_names(way: Any) -> None:
    with pytest.raises(RecordError, match=r"'scal' is taken by nothing: .*Scaled\.forward has it; near: scale"):
        way(Scaled(), scal=2)
    with pytest.raises(RecordError, match="'elsewhere' is taken by nothing"):
        way(Scaled(), elsewhere=2)


@pytest.mark.parametrize("name", ["span_mask", "mean", "train", "rank", "n", "extra_loss", "text"])
def test_an_open_forward_may_take_what_it_does_not_name(name: str) -> None:
    class Keeps(torch.nn.Module):
        def forward(self, x: torch.Tensor, **kwargs: Any) -> torch.Tensor:
            return x * len(kwargs)

    for way in (traced, invoked, called, in_a_session):
        assert way(Keeps(), **{name: 3}) == [1, 1]


def test_a_name_that_stands_in_the_code_is_known() -> None:
    assert traced(Pictures(), images=2) == traced(Wrapper(Pictures()), images=2) == [3, 3]
    assert traced(Pictures(), scans=2) == [3, 3]  # a letter from an option, but the forward reads it


@pytest.mark.parametrize("name", ["images", "audio", "videos"])
def test_what_only_a_processor_could_use_is_refused(name: str) -> None:
    for way in (traced, invoked, called, in_a_session, scanned):
        with pytest.raises(RecordError, match=f"'{name}' is for a processor"):
            way(Wrapper(), **{name: 1})


def test_options_of_one_call_are_not_those_of_another() -> None:
    with pytest.raises(RecordError, match=r"'run' is an option of model\.trace\(\.\.\.\), not of invoke"):
        invoked(Wrapper(), run=False)
    with pytest.raises(RecordError, match=r"'validate' is an option of model\.trace\(\.\.\.\), not of scan"):
        scanned(Wrapper(), validate=True)
    with pytest.raises(RecordError, match=r"'limits' is an option of graph\.run\(\.\.\.\), not of trace"):
        traced(Scaled(), limits=None)
    with pytest.raises(RecordError, match=r"'parameter' is no argument of graph.check: parameters="):
        again(Scaled(), parameter={})
    with pytest.raises(RecordError, match="'max_new_tokens' is an argument of generate"):
        traced(Wrapper(), max_new_tokens=3)


def test_a_trace_in_a_session_has_options_too() -> None:
    with pytest.raises(RecordError, match=r"model\.session\(run=False\) records it only"):
        in_a_session(Scaled(), run=False)
    assert in_a_session(Scaled(), scan=True, scale=2) == [2, 2]
    assert invoked_in_a_session(Scaled(), validate=True, scale=2) == [2, 2]


@pytest.mark.parametrize("way", [traced, invoked, called, in_a_session, invoked_in_a_session, again])
def test_forward_kwargs_are_handed_on_unlooked_at(way: Any) -> None:
    assert way(Scaled(), forward_kwargs={"scale": 3}, shift=1) == [4, 4]
    assert way(Wrapper(), forward_kwargs={"scale": 3, "shift": 1}) == [4, 4]
    with pytest.raises(TypeError, match="unexpected keyword argument 'validat'"):
        way(Wrapper(), forward_kwargs={"validat": True})


def test_forward_kwargs_that_are_none() -> None:
    assert traced(Scaled(), forward_kwargs=None) == [1, 1]
    with pytest.raises(RecordError, match="forward_kwargs is a dictionary"):
        traced(Scaled(), forward_kwargs=["scale"])
    with pytest.raises(RecordError, match="scale is given twice"):
        traced(Scaled(), scale=2, forward_kwargs={"scale": 3})


def test_a_forward_may_have_an_argument_of_that_name() -> None:
    class Own(torch.nn.Module):
        def forward(self, x: torch.Tensor, forward_kwargs: dict[str, int]) -> torch.Tensor:
            return x * forward_kwargs["scale"]

    assert traced(Own(), forward_kwargs={"scale": 3}) == [3, 3]


def test_other_methods_of_a_model() -> None:
    assert traced(Wrapper(), fn="twice", times=3) == [3, 3]
    with pytest.raises(RecordError, match=r"'time' .*Wrapper\.twice has it; near: times"):
        traced(Wrapper(), fn="twice", time=3)


def test_forwards_put_on_the_module_itself() -> None:
    module = Scaled()
    module.forward = functools.partial(module.forward, shift=1)  # type: ignore[method-assign]
    assert traced(module, scale=3) == [4, 4]
    with pytest.raises(RecordError, match="near: scale"):
        traced(module, scal=3)


def test_hooks_may_take_an_argument() -> None:
    module = Scaled()
    handle = module.register_forward_pre_hook(lambda _module, args, kwargs: (args, {"scale": kwargs["level"]}), with_kwargs=True)
    assert traced(module, level=3) == [3, 3]
    with pytest.raises(RecordError, match="near: validate"):
        traced(module, validat=True)
    handle.remove()


def test_a_subclass_may_keep_an_argument() -> None:
    with Doubling(Scaled()).trace(X, factor=3) as tracer:
        result = tracer.result.save()
    assert result.tolist() == [[3, 3]]


def test_modules_of_torch() -> None:
    linear = torch.nn.Linear(2, 2)
    assert torch.equal(NNsight(linear).trace(input=X, trace=False), linear(X))
    with pytest.raises(RecordError, match=r"'inputs' is taken by nothing.*near: input"):
        NNsight(linear).trace(inputs=X)


def test_the_error_stands_on_the_users_line() -> None:
    model = NNsight(Scaled())
    with pytest.raises(RecordError) as raised, model.trace() as tracer:
        with tracer.invoke(X):
            pass
        with tracer.invoke(X, scal=2):  # here
            pass
    lines = [str(entry.statement) for entry in raised.traceback if str(entry.path) == __file__]
    assert "# here" in lines[-1]


def test_estimates_and_tables_of_sites() -> None:
    model = NNsight(Scaled())
    with model.trace(X) as tracer:
        out = model.output.save()
    assert "output" in str(model.sites("*", X, scale=2))
    for call in (lambda: model.sites("", X, scal=2), lambda: tracer.graph.estimate(X, scal=2), lambda: model(X, scal=2)):
        with pytest.raises(RecordError, match="near: scale"):
            call()
    assert model(X, scale=2).tolist() == [[2, 2]]
