"""Which dimension holds an invoke's rows: two scans tell, whatever sizes agree; what they cannot tell is refused."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence
from transformers.utils import ModelOutput

import nnsight_graph as nnsight
from nnsight_graph import NNsightError, RecordError
from nnsight_graph.model.layouts import layouts_of
from tests.model.test_invokes import Call, Chain, Output

Function = Callable[..., Any]


def inputs(length: int, count: int = 2, width: int = 4) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(length)
    return [torch.randn(1, length, width, generator=generator) for _ in range(count)]


def read_in_the_first(model: Any, line: Function, xs: list[torch.Tensor], edit: Function = lambda: None) -> tuple[Any, list[torch.Tensor]]:
    """What ``line`` reads in the first of several invokes, and what all of them return."""
    results = []
    with torch.no_grad(), model.trace() as tracer:
        for number, x in enumerate(xs):
            with tracer.invoke(x):
                if number == 0:
                    read = nnsight.apply(torch.clone, line()).save()
                    edit()
                results.append(model.output.save())
    return read, results


def refusal(model: Any, line: Function, xs: list[torch.Tensor]) -> NNsightError:
    with pytest.raises(NNsightError) as caught, model.trace() as tracer:
        for number, x in enumerate(xs):
            with tracer.invoke(x):
                if number == 0:
                    line()
    frames = traceback.extract_tb(caught.value.__traceback__)
    assert frames[-1].filename == __file__
    return caught.value


# ---------------------------------------------------------------------- one dimension grew


class SequenceFirst(nn.Module):
    """Batch first outside, sequence first inside."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer, self.head = layer, nn.Linear(4, 4)

    def inner(self, x: torch.Tensor) -> torch.Tensor:
        found = self.layer(x.transpose(0, 1))
        return found[0] if isinstance(found, tuple) else found

    def forward(self, x: torch.Tensor) -> Any:
        return self.head(self.inner(x).transpose(0, 1))


class Attention(nn.MultiheadAttention):
    def forward(self, x: torch.Tensor) -> Any:
        return super().forward(x, x, x)


LAYERS: dict[str, Function] = {
    "lstm": lambda: nn.LSTM(4, 4),
    "gru": lambda: nn.GRU(4, 4),
    "rnn": lambda: nn.RNN(4, 4, 2),
    "attention": lambda: Attention(4, 2),
    "encoder layer": lambda: nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0),
    "encoder": lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0), 2, enable_nested_tensor=False),
    "linear": lambda: nn.Linear(4, 4),
}


@pytest.mark.parametrize("length", [1, 2, 3, 5])
@pytest.mark.parametrize("name", LAYERS)
def test_sequence_first(name: str, length: int) -> None:
    torch.manual_seed(0)
    net = SequenceFirst(LAYERS[name]()).eval().requires_grad_(False)
    model, xs = nnsight.NNsight(net), inputs(length, 3)

    def zero() -> None:
        model.layer.hidden_states[:] = 0

    read, (first, *others) = read_in_the_first(model, lambda: model.layer.hidden_states, xs, zero)
    torch.testing.assert_close(read.value, net.inner(xs[0]))
    torch.testing.assert_close(first.value, net.head(torch.zeros(1, length, 4)))
    for x, other in zip(xs[1:], others, strict=True):
        torch.testing.assert_close(other.value, net(x))


def test_sequence_first_is_replaced_and_has_gradients() -> None:
    torch.manual_seed(0)
    net = SequenceFirst(nn.LSTM(4, 4))
    model, (x, y) = nnsight.NNsight(net), inputs(2)
    with model.trace() as tracer:
        with tracer.invoke(x):
            hidden = model.layer.output[0]
            gradient = hidden.grad.save()
            one = model.output.pow(2).sum()
        with tracer.invoke(y):
            model.layer.output = (model.layer.output[0] * 2, model.layer.output[1])
            two = model.output.save()
            ended = model.layer.output[1][0].save()
        one.backward()
    alone = net.inner(x).detach().requires_grad_()
    net.head(alone.transpose(0, 1)).pow(2).sum().backward()
    torch.testing.assert_close(gradient.value, alone.grad)
    torch.testing.assert_close(two.value, net.head(2 * net.inner(y).transpose(0, 1)))
    torch.testing.assert_close(ended.value, net.layer(y.transpose(0, 1))[1][0])


def test_every_tensor_of_a_container_has_its_own_answer() -> None:
    def make(x: torch.Tensor) -> ModelOutput:
        return Output(x.transpose(0, 1), (torch.arange(3.0), {"last": x.movedim(0, -1), "flat": x.flatten(0, 1)}))

    net = Chain(make, lambda out: out.hidden.transpose(0, 1) * 2)
    model, (x, y) = nnsight.NNsight(net), inputs(2)
    with model.trace() as tracer:
        with tracer.invoke(x):
            out = model.first.output
            hidden, table, last = out.hidden.save(), out.states[0].save(), out.states[1]["last"].save()
            whole = model.first.output.save()
        with tracer.invoke(y):
            result = model.output.save()
    assert torch.equal(hidden, x.transpose(0, 1))
    assert torch.equal(table, torch.arange(3.0))
    assert torch.equal(last, x.movedim(0, -1))
    assert torch.equal(result, y * 2)
    assert torch.equal(whole.hidden, x.transpose(0, 1))
    with pytest.raises(NNsightError, match=r"first.output is \[4, 4\].*model.first.rows = \(0, 'tokens'\)"):
        whole.states[1]["flat"].sum()
    error = refusal(model, lambda: model.first.output.states[1]["flat"].sum().save(), [x, y])
    assert "model.first.rows" in str(error)
    error = refusal(model, lambda: model.first.output.states[1]["flat"].save(), [x, y])
    assert "model.first.rows" in str(error)


def test_a_single_invoke_has_everything_wherever_its_rows_lie() -> None:
    model, (x, _) = nnsight.NNsight(Chain(lambda x: x.flatten(0, 1) * 1, lambda flat: flat * 1)), inputs(3)
    with model.trace() as tracer:
        with tracer.invoke(x):
            flat = model.first.output
            flat += 1
            model.first.output = flat
            result = model.output.save()
    torch.testing.assert_close(result.value, x[0] + 1)


def test_what_is_withheld_stays_as_it_is_when_the_rest_is_replaced() -> None:
    net = Chain(lambda x: (x, x.flatten(0, 1)), lambda pair: pair[0] + pair[1].view_as(pair[0]))
    model, (x, y) = nnsight.NNsight(net), inputs(3)
    with model.trace() as tracer:
        with tracer.invoke(x):
            model.first.output = (model.first.output[0] * 3, model.first.output[1])
            one = model.output.save()
        with tracer.invoke(y):
            model.first.output[0][:] = 0
            two = model.output.save()
    torch.testing.assert_close(one.value, 4 * x)
    assert torch.equal(two, torch.zeros_like(y))  # the model uses one memory for both


def test_arguments_have_answers_of_their_own() -> None:
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Call(lambda x, *, mask, side: x * mask + side.transpose(0, 1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(x, mask=torch.ones(x.shape[1], 1), side=x.transpose(0, 1))

    model, (x, y) = nnsight.NNsight(Outer()), inputs(2)
    with model.trace() as tracer:
        with tracer.invoke(x):
            named = model.inner.inputs[1].save()
            model.inner.input = model.inner.input * 0
            one = model.output.save()
        with tracer.invoke(y):
            two = model.output.save()
    assert torch.equal(named["side"], x.transpose(0, 1))
    assert torch.equal(named["mask"], torch.ones(2, 1))
    assert torch.equal(one, x)
    assert torch.equal(two, 2 * y)


def test_operations_inside_a_forward() -> None:
    class Attend(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            q = torch.relu(x.transpose(0, 1))
            heads = torch.tanh(x.unflatten(-1, (2, 2)).transpose(1, 2).flatten(0, 1))
            return q.transpose(0, 1) + heads.unflatten(0, (-1, 2)).transpose(1, 2).flatten(2)

    net = nn.Sequential(Attend())
    model, (x, y) = nnsight.NNsight(net), inputs(2)
    with model.trace() as tracer:
        with tracer.invoke(x):
            source = model[0].source
            read = source.torch_relu_0.output.clone().save()
            source.torch_relu_0.output[:] = 0
        with tracer.invoke(y):
            result = model.output.save()
    assert torch.equal(read, x.transpose(0, 1).relu())
    torch.testing.assert_close(result.value, net(y))
    assert "torch_tanh_0.rows" in str(refusal(model, lambda: model[0].source.torch_tanh_0.output.save(), [x, y]))
    model[0].source.torch_tanh_0.rows = (0, "tokens")
    with model.trace() as tracer:
        with tracer.invoke(x):
            pass
        with tracer.invoke(y):
            heads = model[0].source.torch_tanh_0.output.save()
    torch.testing.assert_close(heads.value, y.unflatten(-1, (2, 2)).transpose(1, 2).flatten(0, 1).tanh())


def test_a_cache_in_an_invoke_has_its_rows() -> None:
    torch.manual_seed(0)
    net = SequenceFirst(nn.LSTM(4, 4)).requires_grad_(False)
    model, (x, y) = nnsight.NNsight(net), inputs(2)
    with model.trace() as tracer:
        with tracer.invoke(x):
            pass
        with tracer.invoke(y):
            cache = tracer.cache(include_inputs=True)
    torch.testing.assert_close(cache["model.layer"].output[0], net.inner(y))
    torch.testing.assert_close(cache["model.layer"].inputs[0][0], y.transpose(0, 1))
    torch.testing.assert_close(cache["model"].output, net(y))


# ---------------------------------------------------------------------- nothing grew


class Positions(nn.Module):
    """A table that is the same for all inputs: as it is, broadcast, and expanded."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.table, self.seen, self.form = nn.Embedding(9, 4), nn.Identity(), form

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = self.table(torch.arange(x.shape[1]))
        if self.form == "broadcast":
            found = found[None]
        if self.form == "expanded":
            found = found.expand(len(x), -1, -1)
        return x + self.seen(found)


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("form", ["plain", "broadcast"])
def test_what_does_not_depend_on_the_batch_is_seen_whole(form: str, count: int) -> None:
    net = Positions(form).requires_grad_(False)
    model, xs = nnsight.NNsight(net), inputs(count, count)
    read, _ = read_in_the_first(model, lambda: model.seen.output, xs)
    right = net.table.weight[:count]
    assert torch.equal(read.value, right if form == "plain" else right[None])


EDITS: dict[str, Function] = {
    "set": lambda h: h.__setitem__(slice(None), 0),
    "method": lambda h: h.mul_(2),
    "view": lambda h: h[..., 1:].zero_(),
    "later": lambda h: h.transpose(-1, -2).neg_(),
}


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("name", EDITS)
@pytest.mark.parametrize("form", ["plain", "broadcast", "expanded"])
def test_one_invoke_cannot_edit_what_all_share(form: str, name: str, grad: bool) -> None:
    net = Positions(form)
    model, xs = nnsight.NNsight(net), inputs(3)
    with torch.set_grad_enabled(grad):
        assert "seen.output is the same for all inputs" in str(refusal(model, lambda: EDITS[name](model.seen.output), xs))


def test_edits_for_all_inputs_and_of_copies_are_fine() -> None:
    net = Positions("plain").requires_grad_(False)
    model, (x, y) = nnsight.NNsight(net), inputs(3)
    with model.trace() as tracer:
        with tracer.invoke(x):
            copy = model.seen.output.clone()
            copy[:] = 0
            copied = copy.save()
        with tracer.invoke(y):
            two = model.output.save()
        with tracer.invoke():
            model.seen.output[:] = 1
    assert torch.equal(copied, torch.zeros(3, 4))
    assert torch.equal(two, y + 1)


def test_rows_of_an_expanded_value_are_replaced() -> None:
    net = Positions("expanded").requires_grad_(False)
    model, (x, y) = nnsight.NNsight(net), inputs(3)
    with model.trace() as tracer:
        with tracer.invoke(x):
            model.seen.output = model.seen.output * 0
            one = model.output.save()
        with tracer.invoke(y):
            two = model.output.save()
    assert torch.equal(one, x)
    assert torch.equal(two, net(y))


# ---------------------------------------------------------------------- something else grew


class Mixture(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate, self.experts = nn.Linear(4, 2), nn.ModuleList(nn.Linear(4, 4) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.flatten(0, -2)
        gate = self.gate(flat)
        chosen, out = gate.argmax(-1), torch.zeros_like(flat)
        for number, expert in enumerate(self.experts):
            at = (chosen == number).nonzero().squeeze(-1)
            out[at] = expert(flat[at])
            out[chosen == number] += expert(flat[chosen == number])
        return (out * gate.sum(-1, keepdim=True)).view_as(x)


def pairs(x: torch.Tensor) -> torch.Tensor:
    return x.sum((-1, -2))[:, None] * x.sum((-1, -2))[None]


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (Mixture, "gate"),
        (Mixture, "experts.0"),
        (Mixture, "experts.1"),
        (lambda: Chain(lambda x: x.transpose(1, 2).flatten(0, 1), lambda x: x), "first"),
        (lambda: Chain(lambda x: x.transpose(0, 1).flatten(0, 1), lambda x: x), "first"),
        (lambda: Chain(pairs, lambda x: x.diagonal()), "first"),
        (lambda: Chain(lambda x: x[:-1], lambda x: torch.cat([x, x[:1]])), "first"),
        (lambda: Chain(lambda x: x[x.sum((1, 2)) > -1e9], lambda x: x), "first"),
    ],
)
@pytest.mark.parametrize("count", [2, 3])
def test_what_depends_on_the_batch_in_another_way_is_refused(make: Function, name: str, count: int) -> None:
    torch.manual_seed(0)
    model, xs = nnsight.NNsight(make().requires_grad_(False)), inputs(2, count)
    module = model.get(name)
    for line in (lambda: module.output.sum().save(), lambda: module.output.zero_(), lambda: setattr(module, "output", torch.zeros(1, 4))):
        text = str(refusal(model, line, xs))
        assert f"{name}.output is [" in text
        assert "outside the invokes" in text
    with model.trace() as tracer:
        for x in xs:
            with tracer.invoke(x):
                pass
        with tracer.invoke():
            whole = module.output.save()
    assert isinstance(whole.value, torch.Tensor)


def test_a_cache_keeps_what_is_known_and_says_of_the_rest_why() -> None:
    torch.manual_seed(0)
    net, (x, y) = Mixture().requires_grad_(False), inputs(2)
    model = nnsight.NNsight(net)
    with model.trace() as tracer:
        with tracer.invoke(x):
            cache = tracer.cache()
        with tracer.invoke(y):
            pass
    torch.testing.assert_close(cache["model"].output, net(x))
    with pytest.raises(NNsightError, match=r"model\.gate\.rows"):
        cache["model.gate"].output + 1


def test_a_float_that_changes_needs_no_new_scan() -> None:
    model, (x, y) = nnsight.NNsight(Call(lambda x, scale: x * scale)), inputs(2)
    for scale in (0.5, 0.25):
        with model.trace() as tracer:
            with tracer.invoke(x, scale):
                pass
            with tracer.invoke(y, scale):
                out = model.output.save()
        assert torch.equal(out, y * scale)
    assert len(model._tree.evidence) == 1


def test_packed_sequences_are_refused() -> None:
    def pack(x: torch.Tensor) -> Any:
        return pack_padded_sequence(x, torch.ones(len(x), dtype=torch.long), batch_first=True)

    model = nnsight.NNsight(Chain(pack, lambda packed: packed.data * 1))
    assert "first.output is [2, 4]" in str(refusal(model, lambda: model.first.output.data.sum().save(), inputs(1)))


class Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor, **_where: Any) -> torch.Tensor:
        return self.fc(x)


class Packs(nn.Module):
    """Drops tokens whose first number is negative, and says where the rows' tokens lie; the merger puts two into one."""

    def __init__(self, grid: bool) -> None:
        super().__init__()
        self.block, self.merger, self.grid = Inner(), Inner(), grid

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kept = x[..., 0] >= 0
        counts = kept.sum(-1)
        ends = torch.nn.functional.pad(counts.cumsum(0), (1, 0)).to(torch.int32)
        grid = torch.stack([torch.ones_like(counts), counts, torch.ones_like(counts)], 1)
        where = {"grid_thw": grid} if self.grid else {"cu_seqlens": ends}
        most = int(counts.max())  # a number that a scan has not
        hidden = self.block(x[kept], **where)[:, :most]
        return self.merger(hidden.view(-1, 2, hidden.shape[-1]).sum(1), **where)


@pytest.mark.parametrize("grid", [True, False])
def test_rows_are_those_that_the_model_packs(grid: bool) -> None:
    torch.manual_seed(0)
    net, xs = Packs(grid).requires_grad_(False), inputs(6, 3)
    for x, count in zip(xs, (2, 6, 4), strict=True):
        x[..., 0] = torch.tensor([1.0] * count + [-1.0] * (6 - count))
    model = nnsight.NNsight(net)
    with model.trace() as tracer:
        with tracer.invoke(xs[0]):
            one = model.block.fc.output.clone().save()
            model.block.input = model.block.input * 0
        with tracer.invoke(xs[1]):
            two = model.merger.output.save()
        with tracer.invoke(xs[2]):
            model.block.fc.output[:] = 1
            three = model.merger.input.save()
        with tracer.invoke():
            whole = model.block.output.save()
    zero = net.block.fc(torch.zeros(2, 4))
    torch.testing.assert_close(one.value, zero)
    torch.testing.assert_close(two.value, net(xs[1]))
    torch.testing.assert_close(three.value, torch.full((2, 4), 2.0))
    torch.testing.assert_close(whole.value, torch.cat([zero, net.block(xs[1][0]), torch.ones(4, 4)]))


# ---------------------------------------------------------------------- declarations


@pytest.mark.parametrize("fold", [lambda x: x.flatten(0, 1), lambda x: x.transpose(1, 2).flatten(0, 1)])
def test_a_declaration_cuts_tokens_and_heads(fold: Function) -> None:
    model, (x, y) = nnsight.NNsight(Chain(fold, lambda flat: flat * 1)), inputs(3)
    model.first.rows = model.second.rows = model.rows = (0, "tokens")
    assert model.first.rows == (0, "tokens")
    with torch.no_grad(), model.trace() as tracer:
        with tracer.invoke(x):
            one = model.first.output.clone().save()
            model.first.output[:] = 0
        with tracer.invoke(torch.cat([y, x])):
            two = model.first.output.save()
            model.second.input = model.second.input * 2
        with tracer.invoke():
            result = model.output.save()
    assert torch.equal(one, fold(x))
    assert torch.equal(two, fold(torch.cat([y, x])))
    assert torch.equal(result, torch.cat([fold(x) * 0, 2 * fold(torch.cat([y, x]))]))


def test_declared_to_have_no_rows_or_another_dimension() -> None:
    model, (x, y) = nnsight.NNsight(Chain(lambda x: x.transpose(0, 1).contiguous(), lambda x: x.transpose(0, 1))), inputs(2)
    model.first.rows = None
    assert model.first.rows is None
    read, _ = read_in_the_first(model, lambda: model.first.output, [x, y])
    assert torch.equal(read.value, torch.cat([x, y]).transpose(0, 1))
    model.first.rows = -2
    read, _ = read_in_the_first(model, lambda: model.first.output, [x, y])
    assert torch.equal(read.value, x.transpose(0, 1))
    model.first.rows = 2
    assert "dimension 2 would hold the 2 rows" in str(refusal(model, lambda: model.first.output.sum(), [x, y]))
    for wrong in ("0", (0,), (0, "heads"), 1.0, True):
        with pytest.raises(NNsightError, match="rows are a dimension"):
            model.first.rows = wrong
    with pytest.raises(AttributeError):
        _ = model.second.rows


def test_a_module_with_an_attribute_of_that_name_keeps_it() -> None:
    class Table(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rows = 5

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(0, 1)

    model, (x, y) = nnsight.NNsight(nn.Sequential(Table())), inputs(3)
    assert model[0].rows == 5
    model[0].rows = 6
    assert model[0]._module.rows == 6
    assert 'model.declare_rows("0", ' in str(refusal(model, lambda: model[0].output.sum(), [x, y]))
    model.declare_rows("0", (0, "tokens"))
    assert model[0].rows == 6
    model.declare_rows("", (0, "tokens"))
    read, _ = read_in_the_first(model, lambda: model[0].output, [x, y])
    assert torch.equal(read.value, x[0])
    with pytest.raises(NNsightError, match="has no 'nothing'"):
        model.declare_rows("nothing", 0)
    with pytest.raises(NNsightError, match="neither a module"):
        model.declare_rows("0.rows", 0)


def test_a_declaration_belongs_to_the_wrapper_and_its_views() -> None:
    net, (x, y) = Chain(lambda x: x.flatten(0, 1), lambda x: x * 1), inputs(3)
    model, other = nnsight.NNsight(net), nnsight.NNsight(net)
    model.first.rows = model.rows = (0, "tokens")
    with model.edit() as edited:
        model.second.output = model.second.output * 2
    read, (_one, _) = read_in_the_first(edited, lambda: edited.first.output, [x, y])
    assert torch.equal(read.value, x[0])
    refusal(other, lambda: other.first.output.sum(), [x, y])


def test_a_declaration_travels_in_a_file(tmp_path: Any) -> None:
    net, (x, y) = Chain(lambda x: x.flatten(0, 1), lambda x: x * 1), inputs(3)
    model = nnsight.NNsight(net)
    model.first.rows = (0, "tokens")
    with model.trace() as tracer:
        with tracer.invoke(x):
            first = model.first.output.save()
        with tracer.invoke(y):
            pass
    assert str(tracer.graph).startswith("rows of first: (0, 'tokens')\n")
    tracer.graph.save(tmp_path / "rows.nng")
    graph = nnsight.load(tmp_path / "rows.nng")
    assert graph == tracer.graph.detach()
    graph.check(nnsight.NNsight(net), x, y)
    assert torch.equal(graph.run(nnsight.NNsight(net), y, x)["first"], y[0])
    assert torch.equal(first, x[0])
    with model.session(batch=True) as session:
        with model.trace(x):
            one = model.first.output.save()
        with model.trace(y):
            two = model.first.output.save()
    assert torch.equal(one, x[0])
    assert torch.equal(two, y[0])
    session.graph.save(tmp_path / "session.nng")
    assert torch.equal(nnsight.load(tmp_path / "session.nng").run(nnsight.NNsight(net))["two"], y[0])


# ---------------------------------------------------------------------- where no scan comes


class Blind(nn.Module):
    """Looks at a number, which a scan has not, before its parts run."""

    def __init__(self, first: Function, inner: nn.Module | None = None) -> None:
        super().__init__()
        self.first, self.inner = Call(first), inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        factor = float(x.sum() * 0 + 1)
        found = self.first(x) * factor
        if self.inner is not None:
            found = self.inner(found)[0]
        return found


def test_without_a_scan_the_first_dimension_counts_if_it_has_their_number() -> None:
    model, (x, y) = nnsight.NNsight(Blind(lambda x: x * 2)), inputs(2)
    read, (one, two) = read_in_the_first(model, lambda: model.first.output, [x, y])
    assert torch.equal(read.value, 2 * x)
    assert torch.equal(two.value, 2 * y)
    assert torch.equal(one.value, 2 * x)


def test_without_a_scan_no_other_dimension_counts() -> None:
    model, (x, y) = nnsight.NNsight(Blind(lambda x: x.transpose(0, 1).contiguous())), inputs(3)
    assert "model.first.rows = 1" in str(refusal(model, lambda: model.first.output.sum(), [x, y]))


def test_without_a_scan_a_number_is_the_same_for_all() -> None:
    model, (x, y) = nnsight.NNsight(Blind(lambda x: x.sum())), inputs(3)
    read, _ = read_in_the_first(model, lambda: model.first.output, [x, y])
    torch.testing.assert_close(read.value, torch.cat([x, y]).sum())


def test_without_a_scan_runs_with_other_numbers_of_rows_tell() -> None:
    model, xs = nnsight.NNsight(Blind(lambda x: x.transpose(0, 1).contiguous())), inputs(3, 3)
    with pytest.raises(NNsightError):
        read_in_the_first(model, lambda: model.first.output, xs[:2])
    read, _ = read_in_the_first(model, lambda: model.first.output, xs)  # three rows of three tokens: only the shapes before tell
    assert torch.equal(read.value, xs[0].transpose(0, 1))


def test_without_a_scan_torch_says_where_its_own_modules_have_rows() -> None:
    torch.manual_seed(0)
    net = Blind(lambda x: x.transpose(0, 1), nn.LSTM(4, 4)).requires_grad_(False)
    model, xs = nnsight.NNsight(net), inputs(2)
    read, _ = read_in_the_first(model, lambda: model.inner.output[0], xs)
    torch.testing.assert_close(read.value, net.inner(xs[0].transpose(0, 1))[0])
    read, _ = read_in_the_first(model, lambda: model.inner.output[1][1], xs)
    torch.testing.assert_close(read.value, net.inner(xs[0].transpose(0, 1))[1][1])


def test_a_choice_that_depends_on_data_hides_neither_way() -> None:
    class Chooses(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.other = nn.Identity(), nn.Identity()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            turned = x.transpose(0, 1)
            return (self.one(turned) if (x.sum() > 0) else self.other(turned)).transpose(0, 1)

    model = nnsight.NNsight(Chooses())
    for sign, name in ((1, "one"), (-1, "other")):
        xs = [sign * torch.rand(1, 2, 4) for _ in range(2)]
        read, _ = read_in_the_first(model, lambda name=name: model.get(name).output, xs)
        assert torch.equal(read.value, xs[0].transpose(0, 1))


class Hits(nn.Module):
    """Calls only the experts that some token chose, by a number that data gives."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.experts, self.norm = nn.Linear(4, 3), nn.ModuleList(nn.Linear(4, 4) for _ in range(3)), nn.LayerNorm(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.flatten(0, 1)
        mask = nn.functional.one_hot(self.gate(flat).argmax(-1), 3).T
        out = torch.zeros_like(flat)
        for number in (mask.sum(-1) > 0).nonzero():
            at = torch.where(mask[number].squeeze(0))[0]
            out.index_add_(0, at, self.experts[number](flat[at]))
        return self.norm(out.view_as(x).transpose(0, 1)).transpose(0, 1)


def test_experts_that_data_chooses_are_refused_and_what_follows_is_known() -> None:
    torch.manual_seed(0)
    net, xs = Hits().requires_grad_(False), inputs(2)
    model = nnsight.NNsight(net)
    used = net.gate(torch.cat(xs)).argmax(-1).unique().tolist()
    for number in used:
        assert f"experts.{number}.output is" in str(refusal(model, lambda number=number: model.experts[number].output.sum().save(), xs))
    read, _ = read_in_the_first(model, lambda: model.norm.output, xs)
    torch.testing.assert_close(read.value, net(xs[0]).transpose(0, 1))


class MaybeSparse(nn.Module):
    """Returns what it chose where it chooses, and a constant where it does not; the sparse ones end a scan."""

    def __init__(self, sparse: bool) -> None:
        super().__init__()
        self.sparse = sparse

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return (x * float(x.sum() * 0 + 1), x.softmax(-1)) if self.sparse else (x, torch.zeros(1))


def test_one_block_does_not_tell_what_does_not_depend_on_the_batch_in_another() -> None:
    net, xs = nn.ModuleList([MaybeSparse(False), MaybeSparse(True)]), inputs(3)

    class Stack(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = net

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for block in self.blocks:
                x = block(x)[0]
            return x

    model = nnsight.NNsight(Stack())
    read, _ = read_in_the_first(model, lambda: model.blocks[1].output[1], xs)
    assert torch.equal(read.value, xs[0].softmax(-1))
    read, _ = read_in_the_first(model, lambda: model.blocks[0].output[1], xs)
    assert torch.equal(read.value, torch.zeros(1))


class Named(nn.ModuleDict):
    """Experts called by names that are made of numbers, which a scan cannot know: it ends here."""

    def forward(self, flat: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
        out = torch.zeros_like(flat)
        for number in chosen.unique():
            at = torch.where(chosen == number)[0]
            out.index_add_(0, at, self[f"expert_{number}"](flat[at]))
        return out


def test_as_many_tokens_by_chance_as_there_are_rows_are_not_taken_for_rows() -> None:
    class Mixture(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.experts, self.norm = Named({f"expert_{number}": nn.Linear(4, 4) for number in range(2)}), nn.LayerNorm(4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            flat = x.flatten(0, 1)
            return self.norm(self.experts(flat, (flat[:, 0] > 0.5).long()).view_as(x))

    torch.manual_seed(0)
    net, xs = Mixture().requires_grad_(False), inputs(3)
    for x, tokens in zip(xs, ([0.6, 0.9, 0.1], [0.1, 0.2, 0.3]), strict=True):
        x[0, :, 0] = torch.tensor(tokens)  # the second expert gets two tokens, both of the first input: so many as there are rows
    model = nnsight.NNsight(net)
    assert "experts.expert_1.output is [2, 4]" in str(refusal(model, lambda: model.experts.expert_1.output.sum().save(), xs))
    read, _ = read_in_the_first(model, lambda: model.norm.output, xs)
    torch.testing.assert_close(read.value, net(xs[0]))


def test_the_size_is_looked_at_again_at_each_visit() -> None:
    def some(x: torch.Tensor) -> torch.Tensor:
        return x if x.shape[1] < 4 else x[:2]

    model = nnsight.NNsight(Chain(some, lambda x: x * 1))
    read_in_the_first(model, lambda: model.first.output, inputs(2))
    with torch.no_grad():
        text = str(refusal(model, lambda: model.first.output.sum(), inputs(4, 3)))
    assert "first.output is [2, 4, 4]: its dimension 0 would hold the 3 rows" in text


# ---------------------------------------------------------------------- the scans


@pytest.mark.parametrize("net", [nn.LSTM(4, 4), nn.TransformerEncoderLayer(4, 2, 8), nn.Sequential(nn.Linear(4, 4), nn.GRU(4, 4))])
def test_invokes_are_not_joined_along_the_tokens(net: nn.Module) -> None:
    """Torch's own layers have rows in their second dimension: joined along the first, inputs would be one sequence."""
    model, (x, y) = nnsight.NNsight(net.eval()), inputs(3)
    with pytest.raises(RecordError, match="they would be one sequence"), model.trace() as tracer:
        with tracer.invoke(x):
            model.output.save()
        with tracer.invoke(y):
            model.output.save()
    with model.trace(x):
        model.output.save()


def test_layers_with_rows_first_are_joined() -> None:
    net, (x, y) = nn.GRU(4, 4, batch_first=True), inputs(3)
    model = nnsight.NNsight(net)
    with model.trace() as tracer:
        with tracer.invoke(x):
            first = model.output[0].save()
        with tracer.invoke(y):
            second = model.output[0].save()
    torch.testing.assert_close(first.value, net(x)[0])
    torch.testing.assert_close(second.value, net(y)[0])


def test_scans_draw_no_random_numbers() -> None:
    model, (x, y) = nnsight.NNsight(nn.Sequential(nn.Dropout(0.5), nn.LSTM(4, 4, 2, batch_first=True, dropout=0.5)).train()), inputs(3)
    before = torch.get_rng_state()
    layouts = layouts_of(model, model._joined([((x,), {}), ((y,), {})], {}), {})
    assert torch.equal(before, torch.get_rng_state())
    assert layouts is not None
    assert layouts.at("0", "out").answers.dim == 0


def test_a_model_is_scanned_once_and_only_for_a_second_invoke(monkeypatch: pytest.MonkeyPatch) -> None:
    from nnsight_graph.model import layouts

    made = []
    real = layouts.scan_sizes
    monkeypatch.setattr(layouts, "scan_sizes", lambda *args: made.append(1) or real(*args))
    model = nnsight.NNsight(SequenceFirst(nn.Linear(4, 4)))
    x, _y = inputs(3)
    with model.trace(x):
        model.layer.output.save()
    with model.trace() as tracer:
        with tracer.invoke(x):
            model.layer.output.save()
        with tracer.invoke():
            model.layer.output.save()
    assert not made
    for length in (3, 4, 5):
        read_in_the_first(model, lambda: model.layer.output, inputs(length, length - 1))
    assert len(made) == 2
    assert model._tree.scan is None


def test_scans_for_rows_do_not_bring_checks() -> None:
    model, (x, y) = nnsight.NNsight(SequenceFirst(nn.Linear(4, 4))), inputs(3)
    read_in_the_first(model, lambda: model.layer.output, [x, y])
    call = model._joined([((x,), {}), ((y,), {})], {})
    assert not model._scanned(call)
