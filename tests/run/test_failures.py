"""Runs that fail: the error on the user's line, what was reached before still there, nothing left behind, the next trace as ever."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

import nnsight_graph as nnsight
from tests.run.lines import ends_on

X = torch.tensor([[1.0, 2, -3, 4], [-2, 0, 5, 1]])


class Passing(nn.Module):
    """A linear layer, called in a way given by name."""

    def __init__(self, way):
        super().__init__()
        self.inner, self.unused, self.way = nn.Linear(4, 4), nn.Linear(4, 4), way

    def forward(self, x):
        return getattr(self, self.way)(x)

    def swallowing(self, x):
        try:
            return self.inner(x)
        except Exception:
            return x

    def swallowing_all(self, x):
        try:
            return self.inner(x)
        except BaseException:
            return x

    def bypassing(self, x):
        return self.inner.forward(x)

    def failing(self, x):
        self.inner(x)
        raise KeyError("boom")

    def interrupted(self, x):
        self.inner(x)
        raise KeyboardInterrupt

    def plain(self, x):
        return self.inner(x)


def hooks_of(module):
    return [hook for part in module.modules() for hook in (*part._forward_hooks, *part._forward_pre_hooks)]


def works(model):
    model._module.way = "plain"
    with model.trace(X):
        got = model.inner.output.save()
    assert torch.equal(got.value, model._module.inner(X))
    assert hooks_of(model._module) == []


@pytest.mark.parametrize("way", ["swallowing", "swallowing_all"])
def test_a_model_that_swallows_exceptions(way):
    model = nnsight.NNsight(Passing(way))
    with pytest.raises(RuntimeError, match="invalid for input of size 8") as caught:
        with model.trace(X):
            given = model.inner.input.save()
            model.inner.output.view(3, 3).save()
            late = model.output.save()
    assert isinstance(caught.value, nnsight.NNsightError)
    assert ends_on(caught.value) == ("test_failures.py", "model.inner.output.view(3, 3).save()")
    assert torch.equal(given, X)
    with pytest.raises(nnsight.UnsetValueError, match="its trace failed: RuntimeError"):
        late.value
    works(model)


@pytest.mark.parametrize(("way", "kind"), [("failing", KeyError), ("interrupted", KeyboardInterrupt)])
def test_the_model_raises(way, kind):
    model = nnsight.NNsight(Passing(way))
    with pytest.raises(kind) as caught:
        with model.trace(X):
            model.inner.output.save()
            model.output.save()
    assert ends_on(caught.value)[0] == "test_failures.py"
    works(model)


@pytest.mark.parametrize(("way", "kind"), [("failing", KeyError), ("interrupted", KeyboardInterrupt)])
def test_what_was_reached_before_the_model_raised(way, kind):
    model = nnsight.NNsight(Passing(way))
    with pytest.raises(kind):
        with model.trace(X):
            got = model.inner.output.save()
    assert torch.equal(got.value, model._module.inner(X))


def test_why_a_value_is_missing_after_the_model_raised():
    model = nnsight.NNsight(Passing("failing"))
    with pytest.raises(KeyError):
        with model.trace(X):
            got = model.output.save()
    with pytest.raises(nnsight.UnsetValueError, match="KeyError"):
        got.value


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_inside_a_line(kind):
    def interrupt(_):
        raise kind

    model = nnsight.NNsight(Passing("plain"))
    with pytest.raises(kind):
        with model.trace(X):
            nnsight.apply(interrupt, model.inner.output)
    works(model)


@pytest.mark.parametrize("kind", [ZeroDivisionError, KeyboardInterrupt])
def test_an_exception_in_the_block_runs_nothing(kind):
    model = nnsight.NNsight(Passing("plain"))
    calls = []
    handle = model._module.inner.register_forward_hook(lambda *_: calls.append(1))
    with pytest.raises(kind):
        with model.trace(X):
            got = model.inner.output.save()
            raise kind
    handle.remove()
    assert calls == []
    with pytest.raises(nnsight.UnsetValueError, match=f"given up \\({kind.__name__} in the block\\)"):
        got.value
    works(model)


@pytest.mark.parametrize("way", ["bypassing", "plain"])
@pytest.mark.parametrize(
    "use", [lambda e: e.output.save(), lambda e: e.input.save(), lambda e: setattr(e, "output", X), lambda e: e.output.zero_()]
)
def test_a_module_that_never_ran(way, use):
    model = nnsight.NNsight(Passing(way))
    with pytest.raises(nnsight.MissedSiteError, match=r"(inner|unused)\.(input|output) .*never reached") as caught:
        with model.trace(X):
            result = model.output.save()
            use(model.inner if way == "bypassing" else model.unused)
    assert ends_on(caught.value)[0] == "test_failures.py"
    assert torch.equal(result.value, model._module(X))
    works(model)


LATE = {
    "in place": lambda m: m[0].output.add_(m[2].output.sum()),
    "index": lambda m: m[0].output.__setitem__(0, m[2].output[0]),
    "replaced": lambda m: setattr(m[0], "output", m[2].output * 2),
    "input": lambda m: setattr(m[0], "input", m[1].output),
}


@pytest.mark.parametrize("edit", LATE.values(), ids=LATE)
def test_a_write_that_needs_what_comes_later(edit):
    model = nnsight.NNsight(nn.Sequential(*[nn.Linear(4, 4) for _ in range(3)]))
    with pytest.raises(nnsight.OutOfOrderError, match=r"test_failures.py.* needs [12]\.output \(.*test_failures.py:\d+\).*\.clone\(\)"):
        with model.trace(X):
            edit(model)
    assert hooks_of(model._module) == []


def test_both_lines_are_named():
    model = nnsight.NNsight(nn.Sequential(*[nn.Linear(4, 4) for _ in range(3)]))
    with pytest.raises(nnsight.OutOfOrderError) as caught:
        with model.trace(X):
            early = model[0].input.save()
            late = model[2].output
            model[0].output[:] = late
    first = test_both_lines_are_named.__code__.co_firstlineno
    assert f"line {first + 6} of" in str(caught.value)
    assert f"test_failures.py:{first + 5}" in str(caught.value)
    assert ends_on(caught.value) == ("test_failures.py", "model[0].output[:] = late")
    assert torch.equal(early, X)


def test_a_clone_may_be_edited_from_later():
    model = nnsight.NNsight(nn.Sequential(*[nn.Linear(4, 4) for _ in range(3)]))
    with model.trace(X):
        copy = model[0].output.clone()
        copy += model[2].output
        copy.save()
        got = model.output.save()
    assert torch.equal(got.value, model._module(X))
    assert torch.equal(copy.value, model._module[0](X) + got.value)


def test_what_the_model_overwrites_is_named():
    module = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True), nn.Linear(4, 4))
    model = nnsight.NNsight(module)
    with pytest.raises(
        nnsight.NNsightError,
        match=r"0\.output, read at .*test_failures.py:\d+, was overwritten .* by 1 \(inplace=True\).*output\.clone\(\)",
    ) as caught:
        with model.trace(X):
            lost = model[0].output.save()
            kept = model[2].output.save()
    assert ends_on(caught.value) == ("test_failures.py", "lost = model[0].output.save()")
    assert torch.equal(kept.value, module(X))
    with pytest.raises(nnsight.UnsetValueError):
        lost.value


def test_a_copy_of_what_the_model_overwrites():
    module = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True), nn.Linear(4, 4))
    model = nnsight.NNsight(module)
    with model.trace(X):
        before, after = model[0].output.clone().save(), model[1].output.save()
    assert torch.equal(before.value, module[0](X))
    assert torch.equal(after.value, module[0](X).relu())


def test_inference_mode_copies_by_itself():
    module = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True), nn.Linear(4, 4))
    model = nnsight.NNsight(module)
    with torch.inference_mode(), model.trace(X):
        before = model[0].output.save()
    assert torch.equal(before.value, module[0](X))


def test_the_short_form(monkeypatch):
    model = nnsight.NNsight(Passing("plain"))
    monkeypatch.setattr(nnsight.CONFIG.APP, "DEBUG", False)
    with pytest.raises(RuntimeError) as short:
        with model.trace(X):
            model.inner.output.view(7)
    monkeypatch.undo()
    with pytest.raises(RuntimeError) as long:
        with model.trace(X):
            model.inner.output.view(7)
    assert not getattr(short.value, "__notes__", None)
    notes = "\n".join(getattr(long.value, "__notes__", [])) or str(long.value)
    assert "operands: float32[2, 4] on cpu, 7" in notes
    assert "--> %1 = %0.view(7)" in notes
    assert str(long.value).startswith(str(short.value))


def test_how_python_reports_errors_is_left_alone():
    model = nnsight.NNsight(Passing("plain"))
    before = sys.excepthook, getattr(sys, "tracebacklimit", None)
    with pytest.raises(RuntimeError):
        with model.trace(X):
            assert (sys.excepthook, getattr(sys, "tracebacklimit", None)) == before
            nnsight.apply(lambda _: before == (sys.excepthook, getattr(sys, "tracebacklimit", None)) or 1 / 0, model.inner.output)
            model.inner.output.view(7)
    assert (sys.excepthook, getattr(sys, "tracebacklimit", None)) == before


def test_the_excerpt_shows_a_call_as_it_was_written():
    model = nnsight.NNsight(Passing("plain"))
    with model.trace(X) as tracer:
        nnsight.apply(len, model.inner.output)
        nnsight.apply(repr, model.inner.output)
    assert "mutates" not in str(tracer.graph)
