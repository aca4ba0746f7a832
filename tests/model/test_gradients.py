"""Gradients in a trace against ``retain_grad`` and hooks by hand."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import nn

import nnsight_graph as nnsight
from nnsight_graph import LanguageModel, NNsight, NNsightError, RecordError
from tests.run.lines import ends_on

EIFFEL, COLOSSEUM = "The Eiffel Tower is in the city of", "The Colosseum is in the city of"
X = torch.linspace(-1, 1, 12).reshape(3, 4)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.act, self.two = nn.Linear(4, 4), nn.Tanh(), Pair()

    def forward(self, x):
        hidden = self.act(self.one(x))
        left, right = self.two(hidden)
        return left * 2 + right + hidden


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        return self.a(x), self.b(x)


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net()


@pytest.fixture
def model(net):
    return NNsight(net)


@pytest.fixture(scope="module")
def lm():
    return LanguageModel("nnsight-graph/capitals", dispatch=True)


def same(value, expected):
    pair = [torch.as_tensor(one.value if isinstance(one, nnsight.Proxy) else one).detach() for one in (value, expected)]
    torch.testing.assert_close(*pair, rtol=0, atol=0)


def by_hand(net, paths, x=X, loss=lambda out: out.pow(2).sum(), change=None):
    """The gradients of outputs of modules; ``change(path, gradient)`` may replace one on its way."""
    found, handles = {}, []

    def keep(path):
        def hook(_module, _args, output):
            tensor = output[0] if isinstance(output, tuple) else output
            if change is not None:
                tensor.register_hook(lambda gradient: change(path, gradient))
            tensor.register_hook(lambda gradient: found.__setitem__(path, gradient.clone()))

        return hook

    for path in paths:
        handles.append(net.get_submodule(path).register_forward_hook(keep(path)))
    net.zero_grad()
    loss(net(x)).backward()
    for handle in handles:
        handle.remove()
    return found


def loss_of(value):
    return value.pow(2).sum()


def test_gradients_of_outputs_inputs_and_elements(model, net):
    expected = by_hand(net, ["one", "act", "two"])
    weights = [parameter.grad.clone() for parameter in net.parameters()]
    net.zero_grad()
    with model.trace(X):
        one = model.one.output.grad.save()
        act = model.act.output.grad.save()
        given = model.two.input.grad.save()
        left = model.two.output[0].grad.save()
        inside = model.two.a.output.grad.save()
        loss_of(model.output).backward()
    for got, path in ((one, "one"), (act, "act"), (given, "act"), (left, "two"), (inside, "two")):
        same(got, expected[path])
    for parameter, weight in zip(net.parameters(), weights, strict=True):
        same(parameter.grad, weight)


def test_in_any_line_order_and_as_a_block(model, net):
    expected = by_hand(net, ["one", "act"])
    with model.trace(X):
        hidden = model.act.output
        loss = loss_of(model.output)
        late = model.one.output
        with loss.backward():
            act = hidden.grad.save()
            doubled = (late.grad * 2).save()
    same(act, expected["act"])
    same(doubled, expected["one"] * 2)


def test_slices_and_views_have_the_slice_of_the_whole(model, net):
    expected = by_hand(net, ["act"])["act"]
    with model.trace(X):
        hidden = model.act.output
        rows, turned, element = hidden[1:, 2].grad.save(), hidden.T.grad.save(), hidden.reshape(12)[5].grad.save()
        loss_of(model.output).backward()
    same(rows, expected[1:, 2])
    same(turned, expected.T)
    same(element, expected.reshape(12)[5])


def test_values_computed_in_the_trace(model, net):
    hidden = torch.tanh(net.one(X)).detach().requires_grad_()
    scaled = hidden * 3
    scaled.retain_grad()
    left, right = net.two(scaled)
    loss_of(left * 2 + right + scaled).backward()
    with model.trace(X):
        made = model.act.output * 3
        model.act.output = made
        got = made.grad.save()
        replaced = model.act.output.grad.save()
        loss_of(model.output).backward()
    torch.testing.assert_close(got.value, scaled.grad)
    torch.testing.assert_close(replaced.value, scaled.grad)


@pytest.mark.parametrize("how", ["in place", "assigned", "augmented", "slice"])
def test_edits_flow_upstream(model, net, how):
    def change(path, gradient):
        if path != "act":
            return None
        fresh = gradient.clone()
        if how == "slice":
            fresh[:, 1:3] = 0
            return fresh
        return fresh * 2

    expected = by_hand(net, ["act", "one"], change=change)
    weights = [parameter.grad.clone() for parameter in net.parameters()]
    net.zero_grad()
    with model.trace(X):
        act = model.act.output
        if how == "in place":
            act.grad.mul_(2)
        elif how == "assigned":
            act.grad = act.grad * 2
        elif how == "augmented":
            act.grad *= 2
        else:
            act[:, 1:3].grad[:] = 0
        after = act.grad.save()
        one = model.one.output.grad.save()
        loss_of(model.output).backward()
    same(after, expected["act"])
    same(one, expected["one"])
    for parameter, weight in zip(net.parameters(), weights, strict=True):
        same(parameter.grad, weight)


def test_a_gradient_that_is_read_above_its_edit_keeps_its_value(model, net):
    expected = by_hand(net, ["act"])["act"]
    with model.trace(X):
        before = (model.act.output.grad * 1).save()
        model.act.output.grad[:] = 0
        loss_of(model.output).backward()
    same(before, expected)


def test_gradients_of_one_tensor_by_several_names(model, net):
    expected = by_hand(net, ["act"])["act"]
    with model.trace(X):
        act = model.act.output
        before = act[:, 0].grad.sum().save()
        act[:, 1].grad.mul_(3)
        act[0].grad[:] = 1
        after = act.grad.save()
        one = model.one.output.grad.save()
        loss_of(model.output).backward()
    changed = expected.clone()
    changed[:, 1] *= 3
    changed[0] = 1
    torch.testing.assert_close(before.value, expected[:, 0].sum())
    same(after, changed)
    torch.testing.assert_close(one.value, changed * (1 - torch.tanh(net.one(X)).detach() ** 2))
    with pytest.raises(RecordError, match="Take one gradient, and slice it") as caught:
        with model.trace(X):
            act = model.act.output
            whole = act.grad
            act[:, 1].grad.sum().save()
            whole[:] = 0
            loss_of(model.output).backward()
    assert ends_on(caught.value)[1] == "act[:, 1].grad.sum().save()"


def test_a_change_at_one_site_is_not_seen_at_a_later_one(model, net):
    expected = by_hand(net, ["act"])["act"]
    with model.trace(X):
        model.act.output.grad[:] = 0
        later = model.two.input.grad.save()
        here = model.act.output.grad.save()
        loss_of(model.output).backward()
    assert not here.value.any()
    same(later, expected)


def test_several_backwards_each_with_its_gradients(model, net):
    first = by_hand(net, ["act"])["act"]
    second = by_hand(net, ["act"], loss=lambda out: out.sum())["act"]
    with model.trace(X):
        act = model.act.output
        one = act.grad.save()
        loss_of(model.output).backward(retain_graph=True)
        two = act.grad.save()
        model.output.sum().backward()
    same(one, first)
    same(two, second)


@pytest.mark.filterwarnings("ignore:Using backward")
def test_gradients_of_gradients(model, net):
    x = X.clone().requires_grad_()
    hidden = torch.tanh(net.one(x))
    hidden.retain_grad()
    loss_of(hidden).backward(create_graph=True)
    hidden.grad.pow(2).sum().backward()
    y = X.clone().requires_grad_()
    with model.trace(y):
        act = model.act.output
        gradient = act.grad
        loss_of(act).backward(create_graph=True)
        gradient.pow(2).sum().backward()
    torch.testing.assert_close(y.grad, x.grad)


def test_a_probe_is_trained_on_values_of_a_trace(model, net):
    probe = nn.Linear(4, 2)
    plain = nn.Linear(4, 2)
    plain.load_state_dict(probe.state_dict())
    loss_of(plain(torch.tanh(net.one(X)).detach())).backward()
    with model.trace(X):
        out = nnsight.apply(probe, model.act.output.detach())
        loss_of(out).backward()
    for got, expected in zip(probe.parameters(), plain.parameters(), strict=True):
        same(got.grad, expected.grad)


def test_requires_grad_where_parameters_are_frozen(net):
    net.requires_grad_(False)
    model = NNsight(net)
    hidden = torch.tanh(net.one(X)).requires_grad_()
    left, right = net.two(hidden)
    loss_of(left * 2 + right + hidden).backward()
    for mark in (lambda value: setattr(value, "requires_grad", True), lambda value: value.requires_grad_()):
        with model.trace(X):
            mark(model.act.output)
            got = model.act.output.grad.save()
            loss_of(model.output).backward()
        same(got, hidden.grad)


def test_retained_gradients_after_the_trace(model, net):
    expected = by_hand(net, ["act"])["act"]
    with model.trace(X):
        hidden = model.act.output.save()
        hidden.retain_grad()
        loss_of(model.output).backward()
    same(hidden.grad, expected)


def test_rows_of_invokes(lm):
    block = lm._module.transformer.h[2].mlp

    def alone(prompt):
        kept = []
        handle = block.register_forward_hook(lambda _m, _a, output: (output.retain_grad(), kept.append(output)) and None)
        logits = lm._module(**lm.tokenizer(prompt, return_tensors="pt")).logits
        handle.remove()
        logits[0, -1].logsumexp(0).backward()
        return kept[0].grad

    expected = [alone(EIFFEL), alone(COLOSSEUM)]
    with lm.trace() as tracer:
        got, total = [], 0
        for prompt in (EIFFEL, COLOSSEUM):
            with tracer.invoke(prompt):
                got.append(lm.transformer.h[2].mlp.output.grad.save())
                got.append(lm.transformer.h[2].mlp.output[:, -1].grad.save())
                loss = lm.lm_head.output[0, -1].logsumexp(0)
            total = total + loss
        total.backward()
    for place, right in enumerate(expected):
        length = right.shape[1]
        torch.testing.assert_close(got[2 * place].value[:, -length:], right, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(got[2 * place + 1].value, right[:, -1], rtol=1e-4, atol=1e-5)


def test_an_edit_of_one_invokes_gradient_leaves_the_others(lm):
    def traced(edit):
        with lm.trace() as tracer:
            kept, total = [], 0
            for place, prompt in enumerate((EIFFEL, COLOSSEUM)):
                with tracer.invoke(prompt):
                    if edit and place == 0:
                        lm.transformer.h[5].input.grad[:] = 0
                    kept.append(lm.transformer.h[2].input.grad.save())
                    loss = lm.lm_head.output[0, -1].logsumexp(0)
                total = total + loss
            total.backward()
        return [value.value for value in kept]

    plain, edited = traced(False), traced(True)
    assert not edited[0].any()
    torch.testing.assert_close(edited[1], plain[1])


def test_in_a_session_and_in_a_branch(model, net):
    expected = by_hand(net, ["act"])["act"]
    with model.session():
        with model.trace(X):
            gradient = model.act.output.grad
            loss_of(model.output).backward()
        with model.trace(X):
            if model.one.output.sum() < 1e9:
                again = model.act.output.grad.save()
                loss_of(model.output).backward()
        doubled = (gradient * 2).save()
    same(doubled, expected * 2)
    same(again, expected)


def test_nothing_is_left(model, net):
    alive = []
    with model.trace(X):
        hidden = nnsight.apply(lambda value: alive.append(weakref.ref(value)) or value.clone(), model.act.output)
        model.act.output.grad.abs().sum().save()
        loss_of(model.output).backward()
        hidden.sum().detach().save()
    gc.collect()
    assert alive[0]() is None
    assert not any(module._forward_hooks or module._backward_hooks for module in net.modules())


# ---------------------------------------------------------------------- gradients that cannot be


def test_no_backward(model):
    with pytest.raises(NNsightError, match="this gradient has no backward") as caught:
        with model.trace(X):
            model.act.output.grad.save()
    assert ends_on(caught.value)[1] == "model.act.output.grad.save()"


def test_no_path(model):
    with pytest.raises(NNsightError, match="no path leads from the loss") as caught:
        with model.trace(X):
            model.two.b.output.grad.save()
            loss_of(model.two.a.output).backward()
    assert ends_on(caught.value)[1] == "model.two.b.output.grad.save()"


@pytest.mark.parametrize(("mode", "text"), [(torch.no_grad, "under torch.no_grad"), (torch.inference_mode, "inference mode")])
def test_modes_without_gradients(model, mode, text):
    with pytest.raises(NNsightError, match=text) as caught:
        with mode(), model.trace(X):
            model.act.output.grad.save()
            loss_of(model.output).backward()
    assert ends_on(caught.value)[1] == "model.act.output.grad.save()"


def test_frozen_parameters(net):
    net.requires_grad_(False)
    with pytest.raises(NNsightError, match=r"Write value.requires_grad_\(\) above .grad"):
        with NNsight(net).trace(X) as tracer:
            tracer.result.save()
            NNsight(net)  # another wrapper is no matter
            tracer._envoy.act.output.grad.save()
            loss_of(tracer._envoy.output).backward()


def test_a_graph_that_is_gone(model):
    with pytest.raises(RuntimeError, match="second time") as caught:
        with model.trace(X):
            loss_of(model.output).backward()
            loss_of(model.output).backward()
    assert ends_on(caught.value)[1] == "loss_of(model.output).backward()"


def test_a_gradient_of_no_tensor(model):
    with pytest.raises(NNsightError, match="a tuple has no gradient"):
        with model.trace(X):
            model.two.output.grad.save()
            loss_of(model.output).backward()


def test_loops_that_are_recorded_once(model):
    with pytest.raises(RecordError, match="takes a gradient in a loop over values"):
        with model.trace(X) as tracer:
            with tracer.iter(nnsight.list([1, 2])):
                model.act.output.grad.save()
            loss_of(model.output).backward()


# ---------------------------------------------------------------------- retained, by torch, in modes


def test_retained_slices_have_the_slice_of_the_whole(lm):
    block = lm._module.transformer.h[-1].mlp
    kept = []
    handle = block.register_forward_hook(lambda _m, _a, output: (output.retain_grad(), kept.append(output)) and None)
    lm._module(**lm.tokenizer(EIFFEL, return_tensors="pt")).logits.sum().backward()
    handle.remove()
    with lm.trace(EIFFEL):
        hidden = lm.transformer.h[-1].mlp.output[0].save()
        hidden.retain_grad()
        last = lm.transformer.h[-1].mlp.output[:, -1].save()
        last.retain_grad()
        logits = lm.lm_head.output.save()
        logits.sum().backward()
    same(hidden.grad, kept[0].grad[0])
    same(last.grad, kept[0].grad[:, -1])


def test_torch_autograd_grad(model, net):
    hidden = torch.tanh(net.one(X))
    left, right = net.two(hidden)
    expected = torch.autograd.grad(loss_of(left * 2 + right + hidden), hidden)[0]
    with model.trace(X):
        act = model.act.output
        (gradient,) = torch.autograd.grad(loss_of(model.output), act)
        gradient.save()
        norm = gradient.norm().save()
    same(gradient, expected)
    same(norm, expected.norm())
    with pytest.raises(RuntimeError, match="not have been used in the graph") as caught:
        with model.trace(X):
            torch.autograd.grad(loss_of(model.output), model.act.output[0])[0].save()
    assert ends_on(caught.value)[1] == "torch.autograd.grad(loss_of(model.output), model.act.output[0])[0].save()"


def test_steps_of_a_model_that_keeps_its_graph():
    class Steps(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell = nn.Linear(4, 4)

        def forward(self, x):
            return torch.tanh(self.cell(x))

        def several(self, x):
            for _ in range(3):
                x = self(x)
            return x

    torch.manual_seed(0)
    net = Steps()
    kept = []
    handle = net.cell.register_forward_hook(lambda _m, _a, output: (output.retain_grad(), kept.append(output)) and None)
    loss_of(net.several(X)).backward()
    handle.remove()
    model = NNsight(net)
    with model.trace(X, fn="several") as tracer:
        got = []
        for _ in tracer.iter[0:3]:
            got.append(model.cell.output.grad.save())
        loss_of(tracer.result).backward()
    for value, right in zip(got, kept, strict=True):
        same(value, right.grad)


@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpoints_are_right_or_refused(reentrant):
    from torch.utils.checkpoint import checkpoint

    class Saves(Net):
        def forward(self, x):
            return checkpoint(super().forward, x, use_reentrant=reentrant)

    torch.manual_seed(0)
    net = Saves()
    x = X.clone().requires_grad_()
    expected = by_hand(Plain(net), ["net.act"], x=X.clone().requires_grad_())["net.act"]
    model = NNsight(net)

    def traced():
        with model.trace(x):
            act = model.act.output.grad.save()
            loss_of(model.output).backward()
        return act

    if reentrant:  # its forward runs without gradients
        with pytest.raises(NNsightError, match="no_grad"):
            traced()
    else:
        same(traced(), expected)


class Plain(nn.Module):
    """A net without its checkpoint."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return Net.forward(self.net, x)


def test_modes_in_a_trace(model, net):
    with model.trace(X) as tracer:
        one = model.one.output
        with torch.no_grad():
            fixed = (one * 2).save()
            with torch.enable_grad():
                free = (one * 2).save()
        with torch.inference_mode():
            inside = (one + 1).save()
        with torch.autocast("cpu", torch.bfloat16):
            half = (one @ torch.ones(4, 4)).save()
        after = (one * 3).save()
        gradient = one.grad.save()
        loss_of(model.act.output * fixed).backward()
    assert [value.value.requires_grad for value in (fixed, free, inside, half, after)] == [False, True, False, True, True]
    assert inside.value.is_inference()
    assert half.dtype == torch.bfloat16
    same(half, net.one(X).bfloat16() @ torch.ones(4, 4).bfloat16())
    same(fixed, net.one(X) * 2)
    assert "from here on grad=False" in str(tracer.graph)
    hidden = net.one(X).detach().requires_grad_()
    loss_of(torch.tanh(hidden) * (hidden * 2).detach()).backward()
    same(gradient, hidden.grad)


def test_modes_around_and_in_a_trace_and_a_session(model, net):
    with torch.no_grad(), model.trace(X):
        hidden = model.one.output
        with torch.enable_grad():
            probe = (hidden.detach().requires_grad_() * 2).save()
        plain = (hidden * 2).save()
    assert probe.requires_grad
    assert not plain.requires_grad
    with torch.autocast("cpu", torch.bfloat16), model.trace(X):
        half = model.one.output.save()
        with torch.autocast("cpu", enabled=False):
            full = (torch.ones(4, 4) @ half.float().T).save()
    assert (half.dtype, full.dtype) == (torch.bfloat16, torch.float32)
    with model.session():
        with torch.no_grad():
            with model.trace(X):
                one = model.output.save()
            doubled = (one * 2).save()
        with model.trace(X):
            two = model.output.save()
        tripled = (two * 3).save()
    assert [value.value.requires_grad for value in (one, doubled, two, tripled)] == [False, False, True, True]


def test_modes_in_branches_and_loops(model):
    with model.trace(X) as tracer:
        one = model.one.output
        kept = nnsight.list().save()
        with tracer.iter(nnsight.list([1.0, 2.0])) as scale:
            kept.append(one * scale)
            with torch.no_grad():
                kept.append(one * scale)
        with tracer.cond(one.sum() < 1e9):
            with torch.no_grad():
                inner = (one * 2).save()
        outer = (one * 2).save()
    assert [value.requires_grad for value in kept] == [True, False, True, False]
    assert not inner.requires_grad
    assert outer.requires_grad


def test_of_an_output_that_was_edited_in_place():
    """A hook on such a tensor ends the process in torch 2.13 unless its gradient function is asked for first."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    model, x = NNsight(net), torch.randn(1, 3, 4)
    with model.trace(x):
        model[0].output[:, -1] = 0
        gradient = model[0].output.grad.save()
        model.output.sum().backward()
    expected = net[1].weight.sum(0).expand(1, 3, 4)
    torch.testing.assert_close(gradient.value, expected)
