"""Scans: shapes without a run, checks before a run, numbers while a trace is written."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torch import nn

import nnsight_graph as nnsight
from nnsight_graph import CONFIG, LanguageModel, NNsight, NNsightError, OutOfOrderError, RecordError, ScanningTracer
from nnsight_graph.model import rehearsing as module
from nnsight_graph.run.rehearsal import rehearse
from tests.run.lines import ends_on
from tests.run.untouched import state

X = torch.rand(1, 5)
PROMPT = "The Eiffel Tower is in the city of"


class Counting(nn.Module):
    """Counts its forwards."""

    def __init__(self):
        super().__init__()
        self.layer1, self.layer2, self.spare = nn.Linear(5, 10), nn.Linear(10, 2), nn.Linear(2, 2)
        object.__setattr__(self, "runs", [])

    def forward(self, x):
        self.runs.append(type(x).__name__)
        return self.layer2(self.layer1(x))

    @property
    def real_runs(self):
        return self.runs.count("Tensor")


@pytest.fixture
def net():
    return Counting()


@pytest.fixture
def model(net):
    return NNsight(net)


@pytest.fixture(scope="module")
def lm():
    return LanguageModel("nnsight-graph/capitals", dispatch=True)


# ---------------------------------------------------------------------- model.scan


def test_shapes_are_plain_values_in_the_block_and_after_it(model, net):
    with model.scan(X) as tracer:
        hidden = model.layer1.output
        dim = hidden.shape[-1]
        assert type(dim) is int
        sizes = [hidden.size(-1), hidden.dim(), hidden.numel(), len(hidden), hidden.ndim, hidden.size()]
        twice = torch.cat([hidden, hidden], dim=0).shape
        noise = torch.zeros(hidden.shape)
        assert type(noise) is torch.Tensor
        dtype, device = hidden.dtype, hidden.device
    assert isinstance(tracer, ScanningTracer)
    assert dim == 10
    assert sizes == [10, 2, 10, 1, 2, torch.Size([1, 10])]
    assert twice == torch.Size([2, 10])
    assert (dtype, device) == (torch.float32, torch.device("cpu"))
    assert net.real_runs == 0


def test_what_is_saved_in_a_scan(model):
    with model.scan(X):
        dim = model.layer1.output.shape[-1].save()
        shape = model.layer1.output.shape.save()
        out = (model.layer2.output * 2).save()
        number = model.layer2.output.sum().item().save()
    assert (dim, tuple(shape)) == (10, (1, 10))
    assert out.shape == (1, 2)
    with pytest.raises(nnsight.UnsetValueError, match="a scan cannot know it: it needs numbers that only a run has"):
        number.value


def test_a_scan_needs_no_weights_and_leaves_nothing(net):
    with torch.device("meta"):
        meta = NNsight(Counting())
    before = state(meta._module)
    with meta.scan(X):
        width = meta.layer1.output.shape[-1]
    assert width == 10
    assert state(meta._module) == before
    fresh = LanguageModel("nnsight-graph/capitals")
    with fresh.scan(PROMPT):
        shape = fresh.transformer.h[0].mlp.output.shape
    assert tuple(shape) == (1, 11, 96)
    assert not fresh.dispatched
    assert not any(module._forward_hooks for module in fresh._module.modules())


def test_an_error_in_a_scan_stands_on_its_line(model, net):
    before = state(net)
    with pytest.raises(IndexError, match=r"^index 10 is out of bounds for dimension 1 with size 10") as caught:
        with model.scan(X):
            model.layer1.output[:, 10] = 0
            model.layer2.output.sum()
    assert isinstance(caught.value, NNsightError)
    assert ends_on(caught.value) == ("test_scans.py", "model.layer1.output[:, 10] = 0")
    assert state(net) == before
    with model.trace(X):
        out = model.layer2.output.save()
    assert torch.equal(out.value, net(X))


def test_invokes_steps_branches_and_edits_in_a_scan(lm, model):
    with lm.scan() as tracer:
        with tracer.invoke(PROMPT):
            one = lm.transformer.h[0].mlp.output.save()
            width = lm.transformer.h[0].mlp.output.shape[-1]
        with tracer.invoke(["Rome", "Paris is"]):
            two = lm.transformer.h[0].mlp.output.save()
    assert (one.shape, two.shape, width) == ((1, 11, 96), (2, 11, 96), 96)
    with model.scan(X):
        if model.layer1.output.sum() > 0:
            model.layer1.output[:] = 1
        wide = torch.cat([model.layer2.output, model.layer2.output], dim=-1).save()
    assert wide.shape == (1, 4)


def test_writes_of_another_shape_change_what_comes_later(model):
    with model.scan(X):
        model.layer1.output = torch.zeros(7, 10)
        rows = model.layer2.output.shape[0]
    assert rows == 7


def test_what_the_last_scan_found(model, lm):
    with pytest.raises(RecordError, match="nothing was scanned yet"):
        _ = model.layer1.scanned
    assert "no input was scanned yet" in str(model.sites("*.layer1"))
    with model.scan(X):
        pass
    assert str(model.layer1.scanned.output) == "float32[1, 10] on cpu"
    assert model.layer1._fake_output.shape == (1, 10)
    assert model.layer2._fake_inputs[0][0].shape == (1, 10)
    assert str(model.sites("*.layer1")) == "model.layer1.input   float32[1, 5] on cpu\nmodel.layer1.output  float32[1, 10] on cpu"
    table = lm.sites("*.mlp", PROMPT)
    assert len(table) == 16
    assert str(table[1]) == "model.transformer.h.0.mlp.output  float32[1, 11, 96] on cpu"


# ---------------------------------------------------------------------- validate


def failing(model, **flags):
    with model.trace(X, **flags):
        model.layer1.output[:, 10] = 0
        model.layer2.output.save()


def test_a_wrong_index_is_found_before_the_model_runs(model, net):
    with pytest.raises(IndexError, match=r"^index 10 is out of bounds for dimension 1 with size 10") as caught:
        failing(model, scan=True, validate=True)
    assert net.real_runs == 0
    assert ends_on(caught.value) == ("test_scans.py", "model.layer1.output[:, 10] = 0")
    notes = "\n".join(caught.value.__notes__) if hasattr(caught.value, "__notes__") else str(caught.value)
    assert "operands: float32[1, 10] on cpu, (slice(None, None, None), 10), 0" in notes
    assert "found on fake tensors, before the model ran" in notes
    assert "--> %0[:, 10] = 0" in notes


def test_when_a_trace_is_checked(model, net, monkeypatch):
    def runs_before_it_fails(**flags):
        net.runs.clear()
        with pytest.raises(IndexError):
            failing(model, **flags)
        return net.real_runs

    assert runs_before_it_fails() == 1  # nothing is known of this input
    assert runs_before_it_fails(validate=True) == 0
    assert runs_before_it_fails(validate=False) == 1
    monkeypatch.setattr(CONFIG.APP, "VALIDATE", True)
    assert runs_before_it_fails() == 0
    monkeypatch.setattr(CONFIG.APP, "VALIDATE", "auto")
    with model.trace(X, scan=True):
        pass

    def another():
        with model.trace(X):
            model.layer1.output[:, 11] = 1
            model.layer2.output.sum().save()

    net.runs.clear()
    with pytest.raises(IndexError):
        another()
    assert net.real_runs == 0  # a new program, and the input was scanned
    with pytest.raises(RecordError, match="validate is True, False or 'auto'"):
        model.trace(X, validate="yes")


def test_weights_are_not_loaded_for_a_trace_that_fails():
    fresh = LanguageModel("nnsight-graph/capitals")
    with pytest.raises(IndexError):
        with fresh.trace(PROMPT):
            fresh.transformer.h[0].mlp.output[:, :, 96] = 0
    assert not fresh.dispatched


def test_a_write_that_the_model_cannot_go_on_with(model, net):
    with pytest.raises(RuntimeError, match=r"shapes cannot be multiplied \(1x7 and 10x2\)") as caught:
        with model.trace(X, validate=True):
            model.layer1.output = torch.zeros(1, 7)
            model.layer2.output.save()
    assert net.real_runs == 0
    assert ends_on(caught.value) == ("test_scans.py", "model.layer1.output = torch.zeros(1, 7)")
    notes = "\n".join(getattr(caught.value, "__notes__", [str(caught.value)]))
    assert "layer1.output is float32[1, 10] on cpu; this line assigns float32[1, 7] on cpu, and the model then fails in layer2" in notes


def test_an_edit_that_comes_too_late(model, net):
    with pytest.raises(OutOfOrderError, match=r"changes layer1.output, but needs layer2.output"):
        with model.trace(X, validate=True):
            model.layer1.output[:] = model.layer2.output.sum()
    assert net.real_runs == 0


def test_a_module_that_never_runs(model, net):
    with pytest.raises(nnsight.MissedSiteError, match=r"spare.output .* was never reached"):
        with model.trace(X, validate=True):
            model.spare.output.save()
    assert net.real_runs == 0


def test_a_call_that_would_fail_by_itself():
    fresh = LanguageModel("nnsight-graph/capitals")
    with pytest.raises(RuntimeError, match=r"size of tensor|shape"):
        with fresh.trace(inputs_embeds=torch.zeros(1, 3, 7), validate=True):
            fresh.lm_head.output.save()
    assert not fresh.dispatched


def test_both_branches_loops_and_rows_are_checked(model, lm):
    with pytest.raises(IndexError, match="index 12 is out of bounds") as caught:
        with model.trace(X, validate=True):
            if model.layer1.output.sum() > 1e9:
                model.layer2.input[:, 12] = 0
            model.layer2.output.save()
    assert ends_on(caught.value)[1] == "model.layer2.input[:, 12] = 0"
    with pytest.raises(RuntimeError, match="must match"):
        with model.trace(X, validate=True) as tracer:
            with tracer.iter(nnsight.list([1, 2])) as item:
                (model.layer1.output * item + torch.ones(3)).save()
    with pytest.raises(IndexError, match="index 1 is out of bounds for dimension 0 with size 1") as caught:
        with lm.trace() as tracer:
            with tracer.invoke(PROMPT, validate=True):
                lm.lm_head.output[1].save()
            with tracer.invoke("Rome"):
                lm.lm_head.output[0].save()
    assert ends_on(caught.value)[1] == "lm.lm_head.output[1].save()"
    with pytest.raises(NNsightError, match=r"the rows of this invoke are \[1, 11, 96\]; what is put there is \[2, 11, 96\]"):
        with lm.trace(validate=True) as tracer:
            with tracer.invoke(PROMPT):
                lm.transformer.h[0].mlp.output = torch.zeros(2, 11, 96)
            with tracer.invoke("Rome"):
                lm.lm_head.output.save()


def test_the_steps_of_a_generation_are_checked(lm):
    with pytest.raises(IndexError, match="index 3 is out of bounds for dimension 1 with size 1") as caught:
        with lm.generate(PROMPT, max_new_tokens=3, validate=True) as tracer:
            for _ in tracer.iter[:]:
                lm.lm_head.output[:, 3].save()
    assert "found on fake tensors" in "\n".join(getattr(caught.value, "__notes__", [str(caught.value)]))
    with lm.generate(PROMPT, max_new_tokens=3, validate=True) as tracer:
        tokens = nnsight.list().save()
        for _ in tracer.iter[:]:
            _ = tokens.append(lm.lm_head.output[:, -1].argmax(-1))
        with tracer.iter[0]:
            first = lm.lm_head.input.shape.save()
        result = tracer.result.save()
    assert len(tokens) == 3
    assert result.shape[1] == 14
    assert tuple(first) in ((1, 1, 96), (1, 11, 96))


def test_what_fakes_cannot_know_is_reported_and_blocks_nothing(model, net):
    def users(x):
        raise_on.append(type(x).__name__)
        return x * 2

    raise_on = []
    with model.trace(X, validate=True) as tracer:
        hidden = model.layer1.output
        number = hidden.sum().item()
        picked = hidden[hidden > number]
        mine = nnsight.apply(users, hidden)
        model.layer2.input[:] = mine
        out = (picked.sum() + mine[0, 9]).save()
    assert raise_on == ["Tensor"]
    assert torch.isfinite(out.value)
    unknown = tracer.graph.unknown(X)
    assert unknown["%2 = %1.item()"].startswith("it needs numbers that only a run has")
    assert any("marked with nnsight_graph.on_fakes" in reason for reason in unknown.values())


def test_a_function_that_is_safe_on_fakes(model, net):
    @nnsight.on_fakes
    def widened(x):
        return torch.cat([x, x], dim=-1)

    with pytest.raises(IndexError, match="index 25 is out of bounds for dimension 1 with size 20"):
        with model.trace(X, validate=True):
            nnsight.apply(widened, model.layer1.output)[:, 25].save()
    assert net.real_runs == 0


def test_an_equal_trace_is_checked_once(model, monkeypatch):
    made = []
    monkeypatch.setattr(module, "rehearse", lambda *args: made.append(1) or rehearse(*args))
    for scale in (1.0, 2.0):
        for size in (1, 3):
            with model.trace(torch.rand(size, 5), validate=True):
                (model.layer1.output * scale).save()
    assert len(made) == 4
    for size in (1, 3):
        with model.trace(torch.rand(size, 5), validate=True):
            (model.layer1.output * 2.0).save()
    assert len(made) == 4


# ---------------------------------------------------------------------- numbers on demand


def test_numbers_where_python_needs_them(model):
    def helper(h):
        if h.shape[1] > 3:
            return [torch.full((1,), float(place)) for place in range(h.shape[1])][int(h.shape[0])]
        return None

    with model.trace(X):
        value = helper(model.layer1.output)
        text = f"{model.layer1.output.shape[1]}"
        out = (model.layer1.output * value).save()
    assert value.item() == 1.0
    assert text == "10"
    torch.testing.assert_close(out.value, model._module.layer1(X))


def test_what_depends_on_invokes_to_come_is_refused(lm):
    def last(h):
        return list(range(h.shape[-1]))[-1]

    def length(h):
        return list(range(h.shape[1]))

    def count(h):
        return list(range(h.shape[0]))

    with lm.trace() as tracer:
        with tracer.invoke(PROMPT):
            assert last(lm.transformer.h[0].mlp.output) == 95
            rows = count(lm.transformer.h[0].mlp.output)
        with tracer.invoke("Rome"):
            out = lm.lm_head.output.save()
    assert rows == [0]
    assert out.shape[0] == 1
    with pytest.raises(RecordError, match="it depends on the other inputs"):
        with lm.trace() as tracer:
            with tracer.invoke(PROMPT):
                length(lm.transformer.h[0].mlp.output)


def test_a_number_that_a_later_line_changes_is_refused(model):
    def width(h):
        return len(range(h.shape[0]))

    with pytest.raises(RecordError, match="this was 1 when the line asked for it, and is 7 in the end: a line below gives"):
        with model.trace(X):
            width(model.layer2.output)
            model.layer1.output = torch.zeros(7, 10)
    with model.trace(X):
        n = width(model.layer2.output)
        model.layer1.output = torch.zeros(1, 10)
        out = model.layer2.output.save()
    assert (n, out.shape[0]) == (1, 1)


def test_numbers_that_hang_on_values_are_refused_with_the_reason(model):
    def count(h):
        return len(h.nonzero())

    with pytest.raises(RecordError, match=r"Shapes alone do not tell it: it needs numbers that only a run has"):
        with model.trace(X):
            count(model.layer1.output)


def test_printing_in_a_trace(model, capsys):
    def show(h):
        print(h.shape, h.dtype)

    with model.trace(X):
        show(model.layer1.output)
        print(model.layer1.output)
    assert capsys.readouterr().out == (
        "torch.Size([1, 10]) torch.float32\n"
        "InterventionProxy(layer1.output: float32[1, 10] on cpu; see its numbers with nnsight_graph.log(...))\n"
    )


def test_einops(lm):
    einops = pytest.importorskip("einops")
    from einops import rearrange, reduce, repeat

    hidden = lm._module.transformer.h[0].ln_1
    values = []
    handle = hidden.register_forward_hook(lambda _m, _a, out: values.append(out))
    ids = lm.tokenizer(PROMPT, return_tensors="pt")
    with torch.no_grad():
        lm._module(**ids)
        handle.remove()
        with lm.trace(PROMPT):
            h = lm.transformer.h[0].ln_1.output
            heads = rearrange(h, "b s (n d) -> b n s d", n=4).save()
            mean = reduce(h, "b s d -> b d", "mean").save()
            more = repeat(h, "b s d -> b s d r", r=2).save()
            product = einops.einsum(h, h, "b s d, b t d -> b s t").save()
            packed, shapes = einops.pack([h, h], "b * d")
            first, second = einops.unpack(packed, shapes, "b * d")
            first.save(), second.save()
            lm.transformer.h[0].ln_1.output = rearrange(rearrange(h, "b s (n d) -> b n s d", n=4) * 2, "b n s d -> b s (n d)")
            edited = lm.transformer.h[0].ln_1.output.save()
    real = values[0]
    for got, expected in (
        (heads, rearrange(real, "b s (n d) -> b n s d", n=4)),
        (mean, reduce(real, "b s d -> b d", "mean")),
        (more, repeat(real, "b s d -> b s d r", r=2)),
        (product, einops.einsum(real, real, "b s d, b t d -> b s t")),
        (first, real),
        (second, real),
        (edited, real * 2),
    ):
        torch.testing.assert_close(torch.as_tensor(got.value), expected)


# ---------------------------------------------------------------------- estimates


def test_an_estimate():
    wide = NNsight(nn.Sequential(OrderedDict(a=nn.Linear(100, 1000), b=nn.Linear(1000, 1000), c=nn.Linear(1000, 10))))
    x = torch.rand(8, 100)
    with wide.scan(x) as tracer:
        hidden = wide.a.output
        doubled = hidden * 2
        (doubled + 1).sum(-1).save()
        wide.b.output.save()
    found = tracer.graph.estimate()
    assert found.saved == 8 * 4 + 8 * 1000 * 4
    assert found.peak >= 3 * 8 * 1000 * 4
    assert str(found.last) == "b.output"
    assert [row.held for row in found.nodes][:2] == [32000, 32000]
    assert "32.0 kB saved" in str(found)
    with wide.trace(x) as tracer:
        wide.a.output[0].save()
    assert tracer.graph.estimate(x).saved == 32000
    with pytest.raises(RecordError, match="an estimate needs an input"):
        tracer.graph.estimate()
