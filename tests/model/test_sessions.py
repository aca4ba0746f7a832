"""Sessions against plain PyTorch: the same forwards one after the other, by hand."""

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


class Counting(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.one, self.act, self.two = nn.Linear(4, width), nn.Tanh(), nn.Linear(width, 4)
        object.__setattr__(self, "runs", [])

    def forward(self, x):
        self.runs.append(len(x))
        return self.two(self.act(self.one(x)))


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Counting()


@pytest.fixture
def model(net):
    return NNsight(net)


@pytest.fixture(scope="module")
def lm():
    return LanguageModel("nnsight-graph/capitals", dispatch=True)


X = torch.linspace(-1, 1, 8).reshape(2, 4)


def same(value, expected):
    pair = [torch.as_tensor(one.value if isinstance(one, nnsight.Proxy) else one).detach() for one in (value, expected)]
    torch.testing.assert_close(*pair, rtol=0, atol=0)


# ---------------------------------------------------------------------- one after the other


def test_values_flow_without_being_saved(model, net):
    with model.session():
        with model.trace(X):
            hidden = model.one.output
        doubled = hidden * 2 + torch.ones(4)
        with model.trace(X * 3):
            model.one.output[:] = doubled
            out = model.output.save()
        with model.trace(out):
            last = model.output.save()
    expected = net.two(torch.tanh(net.one(X) * 2 + 1))
    same(out, expected)
    same(last, net(expected))
    with pytest.raises(nnsight.UnsetValueError, match="it was not saved"):
        hidden.value


def test_nothing_runs_before_the_end(model, net):
    with model.session():
        with model.trace(X):
            model.output.save()
        assert net.runs == []
    assert net.runs == [2]


def test_between_two_models(net):
    torch.manual_seed(1)
    other = Counting(6)
    a, b = NNsight(net), NNsight(other)
    with a.session():
        with a.trace(X):
            hidden = a.output
        with b.trace(X):
            b.one.input[:] = hidden
            out = b.output.save()
        with a.trace(out):
            again = a.one.output.save()
    same(out, other(net(X)))
    same(again, net.one(other(net(X))))


def test_patching_between_prompts(lm):
    block = lm._module.transformer.h[4].mlp
    kept = []
    ids = [lm.tokenizer(prompt, return_tensors="pt")["input_ids"] for prompt in (EIFFEL, COLOSSEUM)]

    def patch(_module, _args, output):
        output[:, -1] = kept[0]

    with torch.no_grad():
        handle = block.register_forward_hook(lambda _m, _a, output: kept.append(output[:, -1].clone()))
        lm._module(input_ids=ids[0])
        handle.remove()
        handle = block.register_forward_hook(patch)
        expected = lm._module(input_ids=ids[1]).logits
        handle.remove()
        with lm.session():
            with lm.trace(EIFFEL):
                hidden = lm.transformer.h[4].mlp.output[:, -1, :]
                first = lm.lm_head.output.argmax(dim=-1).save()
            with lm.trace(COLOSSEUM):
                lm.transformer.h[4].mlp.output[:, -1, :] = hidden[:]
                second = lm.lm_head.output.save()
    torch.testing.assert_close(second.value, expected)
    assert lm.tokenizer.decode(first[0][-1]) == " Paris"


def test_invokes_generations_and_conditions(lm):
    with lm.session() as session:
        prompts = nnsight.list([EIFFEL, COLOSSEUM])
        with lm.trace() as tracer:
            with tracer.invoke(prompts[0]):
                one = lm.lm_head.output[0, -1].argmax().save()
            with tracer.invoke(prompts[1]):
                two = lm.lm_head.output[0, -1].argmax().save()
        with lm.generate(prompts[0], max_new_tokens=3) as tracer:
            tokens = nnsight.list().save()
            for _ in tracer.iter[:]:
                tokens.append(lm.lm_head.output[0, -1].argmax())
            ids = tracer.result.save()
        with session.cond(one == two):
            with lm.trace(EIFFEL):
                never = lm.lm_head.output.save()
        with session.cond(one != two):
            with lm.trace(EIFFEL):
                taken = lm.lm_head.output[0, -1].argmax().save()
    assert [lm.tokenizer.decode(token) for token in (one, two)] == [" Paris", " Rome"]
    assert len(tokens) == 3
    same(tokens[0], one)
    same(ids[0, -3:], torch.stack([torch.as_tensor(token) for token in tokens]))
    same(taken, one)
    with pytest.raises(nnsight.UnsetValueError, match="a branch that was not taken"):
        never.value


def test_steps_of_generations_meet(lm):
    with lm.session():
        with lm.generate(EIFFEL, max_new_tokens=3) as tracer:
            with tracer.iter[1]:
                hidden = lm.transformer.h[3].mlp.output[:, -1]
        with lm.generate(COLOSSEUM, max_new_tokens=3) as tracer:
            with tracer.iter[2]:
                lm.transformer.h[3].mlp.output[:, -1] = hidden
                patched = lm.transformer.h[3].mlp.output[:, -1].save()
            lm.lm_head.output.save()
    with lm.generate(EIFFEL, max_new_tokens=3) as tracer:
        with tracer.iter[1]:
            expected = lm.transformer.h[3].mlp.output[:, -1].save()
    same(patched, expected.value)


def test_plain_statements_functions_and_prints(model, net, capsys):
    with model.session() as session:
        with model.trace(X):
            hidden = model.one.output
        session.log("shape", hidden.shape)
        scaled = session.apply(lambda value: value / value.norm(), hidden)
        scaled[0] = 0
        noise = torch.rand(2, 4)
        random = torch.rand_like(scaled)
        with model.trace(scaled + noise):
            out = model.one.input.save()
        random.save()
    expected = net.one(X) / net.one(X).norm()
    assert capsys.readouterr().out == "shape torch.Size([2, 4])\n"
    assert (out.value[0] >= 0).all()
    assert (out.value[1] != expected[1]).all()
    assert random.shape == (2, 4)


# ---------------------------------------------------------------------- loops


def test_loops_of_the_seeds(model):
    with model.session() as session:
        li = nnsight.list()
        [li.append([num]) for num in range(3)]
        li2 = nnsight.list().save()
        with session.iter(li) as item, session.iter(item) as inner:
            li2.append(inner)
    assert list(li2) == [0, 1, 2]
    with model.session() as session:
        li = nnsight.list()
        [li.append([num]) for num in range(3)]
        li2 = nnsight.list().save()
        for item in li:
            for inner in item:
                li2.append(inner)
    assert list(li2) == [0, 1, 2]


@pytest.mark.parametrize("form", ["python", "explicit"])
def test_traces_in_a_loop(model, net, form):
    inputs = [X * scale for scale in (1.0, 2.0, 3.0)]
    with model.session() as session:
        outs = nnsight.list().save()
        if form == "python":
            for x in nnsight.list(inputs):
                with model.trace(x):
                    model.act.output[:, 0] = 0
                    outs.append(model.output)
        else:
            with session.iter(inputs) as x:
                with model.trace(x):
                    model.act.output[:, 0] = 0
                    outs.append(model.output)
    assert net.runs == [2, 2, 2]
    for out, x in zip(outs, inputs, strict=True):
        act = torch.tanh(net.one(x))
        act[:, 0] = 0
        same(out, net.two(act))


def test_values_carried_from_turn_to_turn(model, net):
    with model.session():
        x, total = X, 0.0
        for scale in nnsight.list([1.0, 0.5, 2.0, 3.0]):
            with model.trace(x * scale):
                x = model.output
            total = total + x.sum()
            if scale > 1.5:
                break
        x, total = nnsight.save(x), nnsight.save(total)
    expected, summed = X, 0.0
    for scale in (1.0, 0.5, 2.0):
        expected = net(expected * scale)
        summed = summed + expected.sum()
    same(x, expected)
    same(total, summed)
    assert len(net.runs) == 6


def test_while(model, net):
    with model.session():
        x, count = X, 0
        while x.abs().max() > 0.05 and count < 5:
            with model.trace(x):
                model.output[:] = model.output * 0.3
                x = model.output
            count = count + 1
        x, count = nnsight.save(x), nnsight.save(count)
    expected, turns = X, 0
    while expected.abs().max() > 0.05 and turns < 5:
        expected, turns = net(expected) * 0.3, turns + 1
    same(x, expected)
    same(count, turns)


def test_a_thousand_items_are_flat(model, net):
    def recorded(count):
        with model.session() as session:
            total = 0
            for scale in nnsight.list([1.0] * count):
                with model.trace(X):
                    total = total + (model.one.output * scale).sum()
            total = nnsight.save(total)
        return len(session.graph), total

    (few, _), (many, total) = recorded(3), recorded(1000)
    assert few == many
    assert len(net.runs) == 1003
    torch.testing.assert_close(total.value, sum([net.one(X).sum()] * 1000, torch.tensor(0.0)))


# ---------------------------------------------------------------------- memory


def test_a_value_is_freed_after_its_last_use(model):
    alive: list[weakref.ref] = []

    def watched(value):
        made = value.detach().clone()
        alive.append(weakref.ref(made))
        return made

    def living(*_):
        gc.collect()
        return sum(ref() is not None for ref in alive)

    with torch.no_grad(), model.session():
        with model.trace(X):
            kept = nnsight.apply(watched, model.one.output)
        first = nnsight.apply(living).save()
        doubled = kept * 2
        second = nnsight.apply(living).save()
        with model.trace(X):
            model.one.output[:] = doubled
        for _ in nnsight.list([1, 2, 3]):
            with model.trace(X):
                inner = nnsight.apply(watched, model.act.output)
            inner.sum()
        third = nnsight.apply(living).save()
    assert (first, second, third) == (1, 0, 0)


def test_nothing_is_left_behind(model, net):
    with model.session():
        with model.trace(X):
            model.output.save()
        with model.trace(X):
            model.one.output[:] = 0
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())


# ---------------------------------------------------------------------- errors and stops


def test_an_error_names_its_line_and_what_was_saved_before_is_there(model, net):
    with pytest.raises(RuntimeError, match="must match the size") as caught:
        with model.session():
            with model.trace(X):
                before = model.output.save()
            with model.trace(X):
                (model.one.output + torch.ones(3)).save()
            with model.trace(X):
                after = model.output.save()
    assert isinstance(caught.value, NNsightError)
    assert ends_on(caught.value) == ("test_sessions.py", "(model.one.output + torch.ones(3)).save()")
    same(before, net(X))
    assert len(net.runs) == 3
    with pytest.raises(nnsight.UnsetValueError):
        after.value


def test_an_error_between_traces(model, net):
    with pytest.raises(IndexError, match=r"out of bounds|out of range") as caught:
        with model.session():
            with model.trace(X):
                hidden = model.one.output
            hidden[:, 9].save()
            with model.trace(X):
                model.output.save()
    assert ends_on(caught.value) == ("test_sessions.py", "hidden[:, 9].save()")
    assert len(net.runs) == 1


def test_an_error_of_the_model(model):
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        with model.session():
            with model.trace(X):
                first = model.output.save()
            with model.trace(torch.ones(2, 7)):
                model.output.save()
    assert first.shape == (2, 4)


def test_an_error_in_the_block_runs_nothing(model, net):
    with pytest.raises(KeyError):
        with model.session():
            with model.trace(X):
                out = model.output.save()
            raise KeyError("mine")
    assert net.runs == []
    with pytest.raises(nnsight.UnsetValueError, match="given up"):
        out.value
    with pytest.raises(KeyError):
        with model.session(), model.trace(X):
            raise KeyError("mine")
    with model.trace(X):
        fine = model.output.save()
    same(fine, net(X))


def test_stops(model, net, capsys):
    with model.session() as session:
        with model.trace(X):
            first = model.output.save()
        session.log("before")
        nnsight.stop
        session.stop()
        session.log("after")
        with model.trace(X):
            second = model.output.save()
    assert capsys.readouterr().out == "before\n"
    assert len(net.runs) == 1
    same(first, net(X))
    with pytest.raises(nnsight.UnsetValueError, match="the session was stopped before it was reached"):
        second.value


def test_a_stop_in_a_branch_of_a_loop(model, net):
    with model.session():
        seen = nnsight.list().save()
        for scale in nnsight.list([1.0, 2.0, 3.0]):
            with model.trace(X * scale):
                seen.append(model.output.sum())
            if scale == 2.0:
                nnsight.stop()
    assert len(seen) == 2
    assert len(net.runs) == 2


def test_refusals(model, lm):
    def refused(text, body, error=RecordError):
        with pytest.raises(error, match=text):
            with model.session() as session:
                body(session)

    refused("only inside a trace of the session", lambda _: model.one.output)
    refused("a trace is open already", lambda _: model.session().__enter__())
    refused("print\\(session.graph\\)", lambda _: model.trace(X).graph)
    with pytest.raises(RecordError, match="make it above the trace"):
        with lm.session():
            with lm.trace() as tracer:
                with tracer.invoke(EIFFEL):
                    token = lm.lm_head.output
                with tracer.invoke(token):
                    lm.lm_head.output.save()
    with pytest.raises(RecordError, match="belongs to another model"):
        with model.session():
            with model.trace(X):
                lm.lm_head.output.save()
    with pytest.raises(RecordError, match="traces cannot be nested"):
        with model.session():
            with model.trace(X), model.trace(X):
                pass
    with pytest.raises(RecordError, match="stop belongs inside a trace"):
        nnsight.stop()
    with pytest.raises(nnsight.RemoteError):
        model.session(remote=True)


# ---------------------------------------------------------------------- batches, caches, progress


def test_traces_as_one_batch(lm):
    prompts = [EIFFEL, COLOSSEUM, "The capital of France is"]
    forwards = []
    handle = lm._module.register_forward_hook(lambda _m, _a, output: forwards.append(len(output.logits)))
    try:
        outs = {}
        for batch in (False, True):
            with lm.session(batch=batch):
                kept = []
                for place, prompt in enumerate(prompts):
                    with lm.trace(prompt):
                        lm.transformer.h[place].mlp.output[:, -1] = 0
                        kept.append(lm.lm_head.output[:, -1].save())
            outs[batch] = [value.value for value in kept]
    finally:
        handle.remove()
    assert forwards == [1, 1, 1, 3]
    torch.testing.assert_close(outs[True], outs[False], rtol=1e-4, atol=1e-5)


def test_what_depends_is_not_batched(model, net):
    with model.session(batch=True):
        with model.trace(X):
            first = model.output
        with model.trace(X * 2):
            second = model.output.save()
        with model.trace(first):
            third = model.output.save()
    assert net.runs == [4, 2]
    torch.testing.assert_close(second.value, net(X * 2))
    torch.testing.assert_close(third.value, net(net(X)))


def test_a_cache_in_a_session(model, net):
    with model.session():
        with model.trace(X):
            hidden = model.one.output
        with model.trace(hidden * 2) as tracer:
            cache = tracer.cache("two")
    same(cache.model.two.output, net(net.one(X) * 2).detach())


def test_the_graph_and_progress(model, capsys):
    with model.session(progress=True) as session:
        for scale in nnsight.list([1.0, 2.0]):
            with model.trace(X * scale):
                model.output.save()
    text = str(session.graph)
    assert "trace forward(" in text
    assert "    " * 2 + "%" in text
    assert "2trace" in capsys.readouterr().err


def test_a_session_is_compiled_once(model, monkeypatch):
    from nnsight_graph.compile import cache as plans

    made = []
    lower = plans.lower
    monkeypatch.setattr(plans, "lower", lambda *args: made.append(1) or lower(*args))

    def run(numbers):
        with model.session():
            for number in nnsight.list(numbers):
                with model.trace(X):
                    (model.one.output * number + 0.125).sum().save()

    run([1.0, 2.0, 3.0])
    run([4.0])
    assert len(made) == 1


def test_edits_in_place_of_what_a_trace_captures(model, net):
    with model.session():
        total = torch.zeros(2, 4) + 0
        found = torch.zeros(2, 4).clone()
        acc = nnsight.apply(torch.zeros_like, found)
        view = acc[0]
        for scale in nnsight.list([1.0, 2.0]):
            with model.trace(X * scale):
                acc += model.one.output
                seen = (view * 1).save()
        acc.save()
    expected = net.one(X) + net.one(X * 2)
    same(acc, expected)
    same(seen, expected[0])
    same(total, torch.zeros(2, 4))
