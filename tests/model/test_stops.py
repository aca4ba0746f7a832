"""Stops, written and by themselves: what is there is right, and what comes after does not run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import nnsight_graph as nnsight
from nnsight_graph import CONFIG, LanguageModel, NNsight, RecordError, UnsetValueError
from tests.huggingface.families import tiny_model

X = torch.linspace(-1, 1, 12).reshape(3, 4)
IDS = torch.tensor([[3, 4, 5, 6]])


class Counting:
    """How many matrix products ran: a profiler is no mode, under which forwards run to their end."""

    def __enter__(self) -> Counting:
        self._profiler = torch.autograd.profiler.profile()
        self._profiler.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._profiler.__exit__(*error)

    @property
    def count(self) -> int:
        return sum(event.name == "aten::addmm" for event in self._profiler.function_events)


class Watching(TorchDispatchMode):
    """A mode that sees every operation."""

    count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += "addmm" in str(function)
        return function(*args, **kwargs or {})


def layers(count: int = 4) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Linear(4, 4) for _ in range(count)))


@pytest.fixture
def net() -> nn.Sequential:
    return layers().eval()


@pytest.fixture
def model(net: nn.Sequential) -> NNsight:
    return NNsight(net)


def products(model: Any, *args: Any, site: int = 1, **kwargs: Any) -> int:
    """How many layers ran for a trace that wants the output of one; its value is checked."""
    expected = model._module[: site + 1](args[0]) if isinstance(model._module, nn.Sequential) else None
    with Counting() as counting:
        with model.trace(*args, **kwargs):
            value = (model[site] if expected is not None else model.transformer.h[site].mlp).output.save()
    if expected is not None:
        torch.testing.assert_close(value.value, expected, rtol=0, atol=0)
    return counting.count


# ---------------------------------------------------------------------- written


def test_a_trace_stops_when_all_above_is_there(net: nn.Sequential, model: NNsight) -> None:
    ran: list[int] = []
    net[2].register_forward_hook(lambda *_: ran.append(2))
    with model.trace(X) as tracer:
        late = model[1].output.save()
        early = model[0].output.save()
        tracer.stop()
        below = (model[0].output * 2).save()
        never = model[3].output.save()
    assert ran == []
    assert torch.equal(late, net[:2](X))
    assert torch.equal(early, net[0](X))
    assert torch.equal(below, net[0](X) * 2)
    with pytest.raises(UnsetValueError, match="the forward was stopped"):
        never.value


def test_a_value_stops_the_forward_whatever_is_above(net: nn.Sequential, model: NNsight) -> None:
    with model.trace(X):
        never = model[1].output.save()
        first = model[0].output.save()
        model[0].output.stop()
    assert torch.equal(first, net[0](X))
    with pytest.raises(UnsetValueError, match="the forward was stopped"):
        never.value


def test_edits_above_a_stop_take_part(net: nn.Sequential, model: NNsight) -> None:
    with model.trace(X) as tracer:
        model[0].output[:, 0] = 0
        second = model[1].output.save()
        tracer.stop()
    hidden = net[0](X)
    hidden = torch.cat([hidden[:, :1] * 0, hidden[:, 1:]], 1)
    assert torch.equal(second, net[1](hidden))


def test_a_stop_above_everything(net: nn.Sequential, model: NNsight) -> None:
    ran: list[int] = []
    net[0].register_forward_hook(lambda *_: ran.append(1))
    with model.trace(X):
        nnsight.stop()
        never = model[0].output.save()
    assert ran == []
    with pytest.raises(UnsetValueError):
        never.value


@pytest.mark.parametrize("both", [True, False])
def test_an_invoke_stops_alone(net: nn.Sequential, model: NNsight, both: bool) -> None:
    ran: list[int] = []
    net[3].register_forward_hook(lambda *_: ran.append(1))
    with model.trace() as tracer:
        with tracer.invoke(X[:1]):
            first = model[0].output.save()
            tracer.stop()
            never = model[2].output.save()
        with tracer.invoke(X[1:]):
            second = model[2].output.save()
            if both:
                tracer.stop()
    torch.testing.assert_close(first.value, net[0](X)[:1])
    torch.testing.assert_close(second.value, net[:3](X)[1:])
    assert ran == ([] if both else [1])
    with pytest.raises(UnsetValueError, match="stopped"):
        never.value


def test_nothing_is_changed_below_the_stop_of_an_invoke(model: NNsight) -> None:
    with pytest.raises(RecordError, match="below the stop of its invoke"):
        with model.trace() as tracer:
            with tracer.invoke(X[:1]):
                tracer.stop()
                model[2].output[:] = 0
            with tracer.invoke(X[1:]):
                model[3].output.save()


@pytest.mark.parametrize("taken", [True, False])
def test_a_stop_in_a_branch(net: nn.Sequential, model: NNsight, taken: bool) -> None:
    ran: list[int] = []
    net[3].register_forward_hook(lambda *_: ran.append(1))
    with model.trace(X) as tracer:
        with tracer.cond((model[0].output.sum() > -1000) == taken):
            tracer.stop()
        last = model[3].output
        nnsight.save(last)
    assert ran == ([] if taken else [1])
    if not taken:
        assert torch.equal(last, net(X))


def test_a_generation_stops() -> None:
    lm = LanguageModel("nnsight-graph/capitals", dispatch=True)
    ran: list[int] = []
    handle = lm._module.register_forward_hook(lambda *_: ran.append(1))
    with lm.generate("The Eiffel Tower is in the city of", max_new_tokens=6) as tracer:
        tokens = nnsight.list().save()
        for step in tracer.iter[0:2]:
            tokens.append(lm.lm_head.output[0, -1].argmax())
        with tracer.iter[1]:
            lm.transformer.h[0].output.save()
            tracer.stop()
    handle.remove()
    assert len(ran) <= 2
    assert len(tokens) == step + 1


def test_a_backward_above_a_stop_is_whole(net: nn.Sequential, model: NNsight) -> None:
    with model.trace(X) as tracer:
        gradient = model[0].output.grad.save()
        model[1].output.sum().backward()
        tracer.stop()
    hidden = net[0](X).detach().requires_grad_()
    net[1](hidden).sum().backward()
    assert torch.equal(gradient, hidden.grad)  # type: ignore[arg-type]
    assert net[0].weight.grad is not None
    with model.trace(X):
        stopping = model[0].output.grad
        stopping.save()
        stopping.stop()
        model[1].output.sum().backward()
    assert torch.equal(stopping, hidden.grad)  # type: ignore[arg-type]


def test_a_session_goes_on_after_a_trace_that_stops(net: nn.Sequential, model: NNsight) -> None:
    with model.session():
        with model.trace(X) as tracer:
            first = model[0].output
            tracer.stop()
        with model.trace(X):
            second = (model[1].output + first).save()
    assert torch.equal(second, net[:2](X) + net[0](X))


# ---------------------------------------------------------------------- by itself


@pytest.fixture
def switched() -> Iterator[None]:
    before = CONFIG.APP.AUTO_STOP
    yield
    CONFIG.APP.AUTO_STOP = before


def test_it_ends_when_all_is_there(model: NNsight, switched: None) -> None:
    assert products(model, X) == 2
    CONFIG.APP.AUTO_STOP = False
    assert products(model, X) == 4


def test_in_a_language_model(switched: None) -> None:
    lm = LanguageModel(tiny_model("gpt2"))
    early = products(lm, IDS, site=0)
    CONFIG.APP.AUTO_STOP = False
    assert early < products(lm, IDS, site=0)


def test_not_in_training(net: nn.Sequential, model: NNsight) -> None:
    net[3].train()
    assert products(model, X) == 4


@pytest.mark.parametrize("hook", ["forward_hook", "forward_pre_hook", "full_backward_hook"])
def test_not_with_hooks_of_the_users(net: nn.Sequential, model: NNsight, hook: str) -> None:
    handle = getattr(net[3], f"register_{hook}")(lambda *_: None)
    assert products(model, X) == 4
    handle.remove()
    assert products(model, X) == 2


def test_not_with_global_hooks(model: NNsight) -> None:
    handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
    try:
        assert products(model, X) == 4
    finally:
        handle.remove()


def test_not_with_hooks_of_accelerate(net: nn.Sequential, model: NNsight) -> None:
    accelerate = pytest.importorskip("accelerate.hooks")
    accelerate.add_hook_to_module(net[3], accelerate.ModelHook())
    assert products(model, X) == 4
    accelerate.remove_hook_from_module(net[3])


def test_not_with_parameters_of_another_kind(net: nn.Sequential, model: NNsight) -> None:
    class Sharded(nn.Parameter):
        pass

    net[3].weight = Sharded(net[3].weight.detach())
    assert products(model, X) == 4


def test_not_with_arguments_that_the_model_may_change(switched: None) -> None:
    lm = LanguageModel(tiny_model("gpt2"))
    CONFIG.APP.AUTO_STOP = False
    whole = products(lm, IDS, site=0)
    CONFIG.APP.AUTO_STOP = True
    transformers = pytest.importorskip("transformers")
    cache = transformers.DynamicCache()
    assert products(lm, IDS, site=0, past_key_values=cache, use_cache=True) == whole
    assert cache.get_seq_length() == 4


def test_not_where_random_numbers_may_be_drawn(switched: None) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTMAEConfig(
        hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=8, image_size=8, patch_size=4,
        decoder_hidden_size=8, decoder_num_hidden_layers=1, decoder_num_attention_heads=2, decoder_intermediate_size=8,
    )  # fmt: skip
    model = NNsight(transformers.ViTMAEForPreTraining(config).eval())
    pixels = torch.zeros(1, 3, 8, 8)

    def count() -> int:
        with Counting() as counting:
            with model.trace(pixels):
                model.vit.embeddings.patch_embeddings.output.save()
        return counting.count

    drawn = count()
    CONFIG.APP.AUTO_STOP = False
    assert drawn == count() > 0


def test_not_in_a_generation(switched: None) -> None:
    lm = LanguageModel("nnsight-graph/capitals", dispatch=True)

    def count() -> int:
        with Counting() as counting:
            with lm.generate("The Eiffel Tower is in the city of", max_new_tokens=2):
                lm.transformer.h[0].mlp.output.save()
        return counting.count

    all_steps = count()
    CONFIG.APP.AUTO_STOP = False
    assert all_steps == count()


def test_a_result_belongs_to_its_block(model: NNsight) -> None:
    with model.trace(X) as tracer:
        model[0].output.save()
    with pytest.raises(RecordError, match="only in its block"):
        print(tracer.result)


@pytest.mark.parametrize("wanted", ["result", "output"])
def test_not_where_the_result_is_wanted(net: nn.Sequential, model: NNsight, wanted: str) -> None:
    with Counting() as counting:
        with model.trace(X) as tracer:
            model[0].output.save()
            out = (tracer.result if wanted == "result" else model.output).save()
    assert counting.count == 4
    assert torch.equal(out, net(X))


def test_not_with_modules_of_other_classes(switched: None) -> None:
    class Own(nn.Linear):
        pass

    net = layers()
    net.append(Own(4, 4))
    model = NNsight(net.eval())
    assert products(model, X) == 5
    CONFIG.APP.AUTO_STOP = "any"
    assert products(model, X) == 2


def test_not_under_a_mode(model: NNsight) -> None:
    with Watching() as watching:
        with model.trace(X):
            model[0].output.save()
    assert watching.count == 4


def test_not_with_modules_that_work_in_place(net: nn.Sequential, model: NNsight) -> None:
    net[2] = nn.ReLU(inplace=True)
    assert products(NNsight(net), X, site=0) == 3


def test_modules_that_were_put_there_since(net: nn.Sequential, model: NNsight) -> None:
    assert products(model, X) == 2
    net[3] = nn.Linear(4, 4).train()
    assert products(model, X) == 4
    seen: list[int] = []
    net[3] = nn.Linear(4, 4).eval()
    net[3].register_forward_hook(lambda *_: seen.append(1))
    assert products(model, X) == 4
    assert seen


def test_a_cache_sees_the_whole_forward(model: NNsight) -> None:
    with model.trace(X) as tracer:
        cache = tracer.cache()
        model[0].output.save()
    assert len(cache) == 5
