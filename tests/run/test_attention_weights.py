"""Attention weights of whatever attends while a module's forward runs, read and edited, against attention written by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.attention.bias import causal_lower_right

import nnsight_graph as nnsight
from nnsight_graph import CONFIG, MissedSiteError, NNsight, NNsightError, RecordError
from tests.run.lines import ends_on

torch.manual_seed(0)
X = torch.randn(2, 5, 8)


class Attention(nn.Module):
    """Two heads of four; ``how`` says what attends."""

    def __init__(self, how: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.qkv, self.out, self.how = nn.Linear(8, 24), nn.Linear(8, 8), how
        self.soft = nn.Softmax(-1)
        self.processor = Processor() if how == "processor module" else None
        self.plain = PlainProcessor()

    def heads(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.qkv(x).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4).unbind(0)  # type: ignore[no-any-return]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.heads(x)
        if self.how == "fused":
            found = F.scaled_dot_product_attention(q, k, v)
        elif self.how == "method":
            found = self._attend(q, k, v)
        elif self.how == "module":
            found = self.soft(q @ k.mT / 2) @ v
        elif self.how == "processor":
            found = self.plain(self, q, k, v)
        elif self.how == "processor module":
            found = self.processor(self, q, k, v=v)
        elif self.how == "rows of heads":
            found = self._by_rows(q, k, v)
        else:
            found = torch.softmax(q @ k.mT / 2, dim=-1) @ v
        return self.out(found.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    def _attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        scores = q @ k.mT / 2
        return scores.softmax(-1) @ v

    def _by_rows(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        q, k, v = (part.reshape(-1, 5, 4) for part in (q, k, v))
        return (torch.bmm(q, k.mT) / 2).softmax(-1).bmm(v).view(-1, 2, 5, 4)


class PlainProcessor:
    def __call__(self, attention: Attention, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return attention._attend(q, k, v)


class Processor(nn.Module):
    def forward(self, attention: Attention, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return F.scaled_dot_product_attention(q, k, v)


def by_hand(net: Attention, x: torch.Tensor, change: Callable[[torch.Tensor], Any] | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    q, k, v = net.heads(x)
    weights = (q @ k.mT / 2).softmax(-1)
    changed = weights if change is None else change(weights)
    return weights, net.out((changed @ v).transpose(1, 2).flatten(2))


def without_head(weights: torch.Tensor) -> torch.Tensor:
    return torch.stack([weights[:, 0], torch.zeros_like(weights[:, 1])], 1)


def first_only(weights: torch.Tensor) -> torch.Tensor:
    """Every row of the second prompt looks at the first token alone."""
    return torch.cat([weights[:1], F.one_hot(torch.zeros(1, 2, 5, dtype=torch.long), 5).float()])


HOW = ["fused", "explicit", "method", "module", "processor", "processor module", "rows of heads"]


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("grad", [False, True])
def test_whatever_attends(how: str, grad: bool) -> None:
    net = Attention(how)
    model = NNsight(net)
    weights, _ = by_hand(net, X)
    with torch.set_grad_enabled(grad), model.trace(X):
        read = model.attention_weights.save()
        out = model.output.save()
    torch.testing.assert_close(read.value, weights)
    assert torch.equal(out.value, net(X))
    with torch.set_grad_enabled(grad), model.trace(X):
        model.attention_weights[:, 1] = 0
        in_place = model.output.save()
    torch.testing.assert_close(in_place.value, by_hand(net, X, without_head)[1])
    with torch.set_grad_enabled(grad), model.trace() as tracer:
        with tracer.invoke(X[:1]):
            kept = model.output.save()
        with tracer.invoke(X[1:]):
            model.attention_weights = F.one_hot(torch.zeros(1, 2, 5, dtype=torch.long), 5).float()
            replaced = model.output.save()
    expected = by_hand(net, X, first_only)[1]
    torch.testing.assert_close(torch.cat([kept.value, replaced.value]), expected)


@pytest.mark.parametrize("how", HOW)
def test_gradients(how: str) -> None:
    net = Attention(how)
    model = NNsight(net)
    weights, result = by_hand(net, X, lambda weights: weights * 1)
    weights.retain_grad()
    result.pow(2).sum().backward()
    expected, parameter = weights.grad, net.qkv.weight.grad
    net.zero_grad()
    with model.trace(X):
        got = model.attention_weights.grad.save()
        model.output.pow(2).sum().backward()
    torch.testing.assert_close(got.value, expected)
    torch.testing.assert_close(net.qkv.weight.grad, parameter)
    with model.trace(X):
        derived = torch.autograd.grad(model.output.pow(2).sum(), model.attention_weights)[0].save()
    torch.testing.assert_close(derived.value, expected)
    with model.trace(X):
        read = model.attention_weights
        read.retain_grad()
        read.save("read")
        model.output.pow(2).sum().backward(inputs=[read])
    assert read.value.grad is not None
    torch.testing.assert_close(read.value.grad, expected)


@pytest.mark.parametrize("how", HOW)
def test_edits_and_gradients(how: str) -> None:
    """The softmax needs its own result for its gradient: an edit does not reach it there."""
    net = Attention(how)
    by_hand(net, X, without_head)[1].pow(2).sum().backward()
    expected = net.qkv.weight.grad
    net.zero_grad()
    model = NNsight(net)
    with model.trace(X):
        model.attention_weights[:, 1] = 0
        model.output.pow(2).sum().backward()
    torch.testing.assert_close(net.qkv.weight.grad, expected)


# ---------------------------------------------------------------------- what torch's function is told


class Told(nn.Module):
    """Gives its attention whatever it is told."""

    def __init__(self, **told: Any) -> None:
        super().__init__()
        self.told = told

    def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return F.scaled_dot_product_attention(q, k, v, **self.told)


def heads_of(*shape: int, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(1)
    return tuple(torch.randn(*shape, dtype=dtype) for _ in range(3))


BLIND = torch.ones(5, 5, dtype=torch.bool).tril()
BLIND[2] = False  # a row that sees nothing
CASES: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    "causal": ({"is_causal": True}, (2, 2, 5, 4)),
    "truths": ({"attn_mask": torch.rand(2, 1, 5, 5) > 0.4}, (2, 2, 5, 4)),
    "sees nothing": ({"attn_mask": BLIND}, (2, 2, 5, 4)),
    "numbers": ({"attn_mask": torch.randn(5, 5)}, (2, 2, 5, 4)),
    "scale": ({"scale": 0.1}, (2, 2, 5, 4)),
    "three dimensions": ({"is_causal": True}, (2, 5, 4)),
    "bias": ({"attn_mask": causal_lower_right(5, 5)}, (2, 2, 5, 4)),
}


@pytest.mark.parametrize("case", CASES)
def test_arguments_of_torchs_function(case: str) -> None:
    told, shape = CASES[case]
    net, given = Told(**told), heads_of(*shape)
    eye = torch.eye(5).expand(*shape[:-2], 5, 5)
    expected = F.scaled_dot_product_attention(*given[:2], eye, **told)  # values of a unit matrix show the weights
    model = NNsight(net)
    with model.trace(*given):
        read = model.attention_weights.save()
        out = model.output.save()
    torch.testing.assert_close(read.value, expected)
    assert torch.equal(out.value, net(*given))
    with model.trace(*given):
        model.attention_weights *= 2
        twice = model.output.save()
    torch.testing.assert_close(twice.value, 2 * net(*given))


def test_shared_keys_and_halves() -> None:
    q, k, v = heads_of(2, 4, 5, 8)
    model = NNsight(Told(enable_gqa=True, is_causal=True))
    with model.trace(q, k[:, :2], v[:, :2]):
        model.attention_weights *= 2
        read = model.attention_weights.save()
        twice = model.output.save()
    k, v = (part[:, :2].repeat_interleave(2, 1) for part in (k, v))
    scores = (q @ k.mT * 8**-0.5).masked_fill(~torch.ones(5, 5, dtype=torch.bool).tril(), -torch.inf)
    torch.testing.assert_close(read.value, 2 * scores.softmax(-1))
    torch.testing.assert_close(twice.value, 2 * scores.softmax(-1) @ v)
    halves = [part.bfloat16() for part in (q, k, v)]
    low = NNsight(Told())
    with low.trace(*halves):
        read = low.attention_weights.save()
    assert read.value.dtype is torch.bfloat16
    exact = (halves[0].float() @ halves[1].float().mT * 8**-0.5).softmax(-1)
    torch.testing.assert_close(read.value, exact.bfloat16(), rtol=0.02, atol=1e-3)


def test_dropout_in_training() -> None:
    """The weights are those before dropout; what is left out is drawn once, as it is without a trace."""
    net, given = Told(dropout_p=0.5), heads_of(2, 2, 5, 4)
    q, k, _ = given
    model = NNsight(net)
    outs = {}
    for what in ("plain", "read", "changed"):
        torch.manual_seed(3)
        if what == "plain":
            outs[what] = net(*given)
            after = torch.rand(1)
            continue
        with model.trace(*given):
            if what == "changed":
                model.attention_weights *= 2
            else:
                weights = model.attention_weights.save()
            out = model.output.save()
        outs[what] = out.value
        assert torch.equal(torch.rand(1), after)
    torch.testing.assert_close(weights.value, (q @ k.mT / 2).softmax(-1))
    assert torch.equal(outs["read"], outs["plain"])
    torch.testing.assert_close(outs["changed"], 2 * outs["plain"])


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_nested_tensors_are_refused() -> None:
    given = [torch.nested.nested_tensor([torch.randn(2, 3, 4), torch.randn(2, 2, 4)], layout=torch.strided) for _ in range(3)]
    model = NNsight(Told())
    with pytest.raises(NNsightError, match="nested tensors"):
        with model.trace(*given):
            model.attention_weights.save()


# ---------------------------------------------------------------------- what is not one attention


class Twice(nn.Module):
    def __init__(self, loop: bool) -> None:
        super().__init__()
        self.attention, self.loop = Attention("explicit"), loop

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.attention.heads(x)
        if self.loop:
            pieces = [F.scaled_dot_product_attention(*(part[i : i + 1] for part in (q, k, v))) for i in range(len(x))]
            return torch.cat(pieces)
        one = F.scaled_dot_product_attention(q, k, v)
        return one + (q @ k.mT).softmax(-1) @ v


@pytest.mark.parametrize("stop", [False, True])
def test_several_are_refused(stop: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CONFIG.APP, "AUTO_STOP", "any")
    model = NNsight(Twice(False).eval())
    with pytest.raises(NNsightError, match=r"attends at several places of its forward \(lines \d+, \d+ of .*print\(source\)") as caught:
        with torch.no_grad(), model.trace(X):
            weights = model.attention_weights.save()
            if stop:
                weights.stop()
    assert ends_on(caught.value)[1] == "weights = model.attention_weights.save()"


def test_pieces_are_told_apart() -> None:
    net = Twice(True)
    model = NNsight(net)
    weights = by_hand(net.attention, X)[0]
    with pytest.raises(NNsightError, match=r"piece by piece.*call\[1\]\.attention_weights"):
        with model.trace(X):
            model.attention_weights.save()
    with model.trace(X):
        first, second = model.attention_weights.save(), model.call[1].attention_weights.save()
        model.call[1].attention_weights = torch.zeros(1, 2, 5, 5)
        out = model.output.save()
    torch.testing.assert_close(torch.cat([first.value, second.value]), weights)
    assert out.value[0].any()
    assert not out.value[1].any()


def test_modules_that_do_not_attend_name_those_that_do() -> None:
    block = nn.ModuleDict({"attn": Attention("fused"), "mlp": nn.Linear(8, 8)})

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = block
            self.mixing = Mixing()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.parts["mlp"](self.mixing(self.parts["attn"](x)))  # type: ignore[no-any-return]

    class Mixing(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * x.softmax(1)  # over tokens: no keys

    model = NNsight(Block())
    with pytest.raises(MissedSiteError, match=r"the model has no .* modules inside it attend. Ask parts\.attn\n") as caught:
        with model.trace(X):
            model.attention_weights.save()
    assert ends_on(caught.value)[1] == "model.attention_weights.save()"
    with pytest.raises(MissedSiteError, match=r"mixing has no attention weights: nothing in its forward .* Near: parts\.attn"):
        with model.trace(X):
            model.mixing.attention_weights.save()
    with pytest.raises(RecordError, match=r"parts\.mlp has no attention weights.* Near: parts\.attn"):
        with model.trace(X):
            model.parts["mlp"].attention_weights.save()


def test_lines_of_the_trace_do_not_attend() -> None:
    net = Attention("fused")
    model = NNsight(net)
    with model.trace(X):
        hidden = model.source.self_heads_0.output[0].softmax(-1).save()
        weights = model.attention_weights.softmax(-1).save()
    torch.testing.assert_close(weights.value, by_hand(net, X)[0].softmax(-1))
    torch.testing.assert_close(hidden.value, net.heads(X)[0].softmax(-1))


def test_calls_and_steps() -> None:
    net = Attention("fused")

    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attn = net

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.attn(self.attn(x))  # type: ignore[no-any-return]

    model = NNsight(Shared())
    with model.trace(X):
        both = [model.attn.attention_weights.save(), model.attn.call[1].attention_weights.save()]
    with model.trace(X):
        each = nnsight.list().save()
        for _ in model.attn.iter[:2]:
            each.append(model.attn.attention_weights)
    expected = [by_hand(net, X)[0], by_hand(net, net(X))[0]]
    for read, right, again in zip(both, expected, each, strict=True):
        torch.testing.assert_close(read.value, right)
        torch.testing.assert_close(again, right)


def test_a_forward_without_source() -> None:
    made: dict[str, Any] = {}
    exec("def forward(self, x):\n    return (x @ x.mT).softmax(-1) @ x", made)
    model = NNsight(type("Unseen", (nn.Module,), {"forward": made["forward"]})())
    with model.trace(X):
        weights = model.attention_weights.save()
    torch.testing.assert_close(weights.value, (X @ X.mT).softmax(-1))


# ---------------------------------------------------------------------- torch's own modules

PADDED = torch.tensor([[False] * 5, [False, False, False, True, True]])
MASKS: dict[str, dict[str, Any]] = {
    "none": {},
    "truths": {"attn_mask": ~torch.ones(5, 5, dtype=torch.bool).tril()},
    "numbers": {"attn_mask": torch.randn(5, 5)},
    "causal": {"attn_mask": nn.Transformer.generate_square_subsequent_mask(5), "is_causal": True},
    "padded": {"key_padding_mask": PADDED},
}


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("need", [True, False])
@pytest.mark.parametrize("grad", [True, False])
def test_multihead_attention(mask: str, first: bool, need: bool, grad: bool) -> None:
    torch.manual_seed(0)
    net = nn.MultiheadAttention(8, 2, batch_first=first).eval()
    x = X if first else X.transpose(0, 1)
    result, weights = net(x, x, x, **MASKS[mask], average_attn_weights=False)
    model = NNsight(net)
    with torch.set_grad_enabled(grad), model.trace(x, x, x, need_weights=need, **MASKS[mask]):
        read = model.attention_weights.save()
        out = model.output[0].save()
    torch.testing.assert_close(read.value, weights)
    torch.testing.assert_close(out.value, result)
    with torch.set_grad_enabled(grad), model.trace(x, x, x, need_weights=need, **MASKS[mask]):
        model.attention_weights[:, 1] = 0
        out = model.output[0].save()
    value = F.linear(X, net.in_proj_weight[16:], net.in_proj_bias[16:]).unflatten(-1, (2, 4)).transpose(1, 2)
    expected = net.out_proj((without_head(weights) @ value).transpose(1, 2).flatten(2))
    torch.testing.assert_close(out.value, expected if first else expected.transpose(0, 1))


def test_torchs_function_in_a_forward() -> None:
    class Mine(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.MultiheadAttention(8, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            own = self.inner
            given = (own.in_proj_weight, own.in_proj_bias, None, None, False, 0.0, own.out_proj.weight, own.out_proj.bias)
            return F.multi_head_attention_forward(x, x, x, 8, 2, *given, need_weights=False)[0]

    net, x = Mine(), X.transpose(0, 1)
    model = NNsight(net)
    with model.trace(x):
        read = model.attention_weights.save()
        got = model.attention_weights.grad.save()
        model.output.pow(2).sum().backward()
    torch.testing.assert_close(read.value, net.inner(x, x, x, average_attn_weights=False)[1])
    assert got.value.shape == (2, 2, 5, 5)
    assert got.value.any()


@pytest.mark.parametrize("padded", [False, True])
def test_encoders_do_not_run_past_it(padded: bool) -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    encoder = nn.TransformerEncoder(layer, 2).eval()
    mask = PADDED if padded else None
    model = NNsight(encoder)
    result = encoder(X, src_key_padding_mask=mask)  # with gradients: no fast path
    first = encoder.layers[0](X, src_key_padding_mask=mask)
    weights = encoder.layers[1].self_attn(first, first, first, key_padding_mask=mask, average_attn_weights=False)[1]
    with torch.no_grad(), model.trace(X, src_key_padding_mask=mask):
        read = model.layers[1].self_attn.attention_weights.save()
        out = model.output.save()
    torch.testing.assert_close(read.value, weights)
    torch.testing.assert_close(out.value[~PADDED], result[~PADDED])
    with pytest.raises(MissedSiteError, match=r"Ask layers\.1\.self_attn"):
        with torch.no_grad(), model.trace(X):
            model.layers[1].attention_weights.save()
