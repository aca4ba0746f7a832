"""``tracer.cache()`` against hooks that keep the same by hand."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

import nnsight_graph as nnsight
from nnsight_graph import Cache, CacheDict, Entry, GraphFormatError, LanguageModel, NNsight, NNsightError, RecordError
from nnsight_graph.model import shards
from nnsight_graph.ops.nested import map_tensors

PROMPT = "The Eiffel Tower is in the city of"
OTHERS = ["The Colosseum is in the city of", "The"]


@pytest.fixture(scope="module")
def lm():
    return LanguageModel("nnsight-graph/capitals", dispatch=True)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 3)
        self.act = nn.ReLU()

    def forward(self, x, scale=1.0):
        return x + self.act(self.fc(x)) * scale, {"scaled": x * scale}


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([Block(), Block()])
        self.head = nn.Sequential(nn.Linear(3, 2), nn.Tanh())
        self.again = self.blocks[0]

    def forward(self, x):
        x, _ = self.blocks[0](x, scale=2.0)
        x, _ = self.blocks[1](x)
        return self.head(x)

    def several(self, x, times):
        for _ in range(times):
            x, _ = self.blocks[0](x)
        return self.head(x)


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net()


X = torch.linspace(-1, 1, 12).reshape(4, 3)


def by_hand(module: nn.Module, call, inputs: bool = False):
    """What hooks see: ``{path: [value, ...]}``."""
    found: dict = {}
    undo = []
    for path, child in module.named_modules():
        key = f"model.{path}" if path else "model"

        def after(_module, _args, output, key=key):
            found.setdefault(key, []).append(map_tensors(output, lambda t: t.detach().clone()))

        def before(_module, args, kwargs, key=key):
            found.setdefault(key, []).append(map_tensors((args, kwargs), lambda t: t.detach().clone()))

        undo.append(child.register_forward_pre_hook(before, with_kwargs=True) if inputs else child.register_forward_hook(after))
    call()
    for handle in undo:
        handle.remove()
    return found


def same(value, expected):
    value, expected = (one.value if isinstance(one, nnsight.Proxy) else one for one in (value, expected))
    torch.testing.assert_close(value, expected, rtol=0, atol=0)


def outputs(cache):
    return {key: entry.output for key, entry in cache.items()}


def test_outputs_and_inputs_of_every_module(net):
    expected, arguments = by_hand(net, lambda: net(X)), by_hand(net, lambda: net(X), inputs=True)
    with NNsight(net).trace(X) as tracer:
        cache = tracer.cache(include_inputs=True)
    assert set(cache) == set(expected)
    for key, entry in cache.items():
        assert type(entry) is Entry
        same(entry.output, expected[key][0])
        same(entry.inputs, arguments[key][0])
    assert not cache.model.head.output.requires_grad
    same(cache.model.blocks[0].input, X)
    assert cache.model.blocks[0].inputs[1] == {"scale": 2.0}
    assert cache["model.blocks.0"] is cache["blocks.0"] is cache.model["blocks.0"]


def test_it_sees_what_the_model_finally_used(net):
    model = NNsight(net)
    with model.trace(X) as tracer:
        cache = tracer.cache(include_inputs=True)
        model.blocks[0].fc.output[:, 1] = 7
        model.blocks[1].fc.output = model.blocks[1].fc.output * 2
        model.head.input[:] = 0.5
        read = model.blocks[1].fc.output.save()
    assert (cache.model.blocks[0].fc.output[:, 1] == 7).all()
    assert (cache.model.blocks[0].act.input[:, 1] == 7).all()
    same(cache.model.blocks[1].fc.output, read)
    same(cache.model.head.input, torch.full((4, 3), 0.5))
    same(cache.model.head.output, torch.tanh(net.head[0](torch.full((4, 3), 0.5))).detach())
    assert (cache.model.blocks[1].output[0] != 0.5).all()  # kept as it passed there, though the edit was on the same storage


def test_an_edit_on_shared_storage_leaves_what_was_kept_before(net):
    model = NNsight(nn.Sequential(nn.Linear(3, 3), nn.Identity(), nn.Linear(3, 2)))
    with model.trace(X) as tracer:
        cache = tracer.cache()
        model[1].output[:] = 0
    same(cache.model[0].output, model[0](X).detach())
    same(cache.model[1].output, torch.zeros(4, 3))


def test_a_model_that_works_in_place(net):
    inplace = nn.Sequential(nn.Linear(3, 3), nn.ReLU(inplace=True), nn.Linear(3, 2))
    with NNsight(inplace).trace(X) as tracer:
        cache = tracer.cache()
    same(cache.model[0].output, inplace[0](X).detach())

    class Silent(nn.Module):
        def forward(self, x):
            return x.mul_(2)

    silent = nn.Sequential(nn.Linear(3, 3), Silent())
    with torch.no_grad():
        for _ in range(2):  # seen in the first run, known in the second
            with NNsight(silent).trace(X) as tracer:
                cache = tracer.cache()
            same(cache.model[0].output, silent[0](X))
        model = NNsight(silent)
        for modules in ("model.0", None, "model.1", None):
            with model.trace(X) as tracer:
                cache = tracer.cache(modules, include_inputs=True)
            if modules != "model.1":
                same(cache.model[0].output, silent[0](X))
                same(cache.model[0].input, X)
            if modules != "model.0":
                same(cache.model[1].output, silent[0](X) * 2)
                same(cache.model[1].input, silent[0](X))
        with NNsight(silent).trace(X) as tracer:
            cache = tracer.cache(copy=True)
        same(cache.model[0].output, silent[0](X))
    with torch.inference_mode(), NNsight(silent).trace(X) as tracer:
        cache = tracer.cache()
    same(cache.model[0].output, silent[0](X).detach())


def test_what_is_written_over_only_now_and_then_is_said_or_kept():
    class Sometimes(nn.Module):
        writes = False

        def forward(self, x):
            return x.mul_(2) if self.writes else x * 2

    layers = nn.Sequential(nn.Linear(3, 3), Sometimes())
    model = NNsight(layers)
    with torch.no_grad():
        with model.trace(X) as tracer:
            tracer.cache()
        layers[1].writes = True
        with pytest.raises(NNsightError, match=r"^0.output was overwritten in place by the model after the cache had kept it.*copy=True"):
            with model.trace(X) as tracer:
                tracer.cache()
        with model.trace(X) as tracer:
            cache = tracer.cache()
    same(cache.model[0].output, layers[0](X).detach())


def test_what_the_model_writes_over_in_steps_and_invokes():
    class Adds(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(3, 3)

        def forward(self, x):
            out = self.inner(x)
            out += x
            return out

    layers = nn.Sequential(Adds(), Adds())
    model, right = NNsight(layers), []
    with torch.no_grad(), model.trace() as tracer:
        with tracer.invoke(X[:1]):
            one = tracer.cache()
        with tracer.invoke(X[1:]):
            rest = tracer.cache()
    with torch.no_grad():
        hooks = [layer.inner.register_forward_hook(lambda _m, _a, out: right.append(out.clone())) for layer in layers]
        layers(X)
    for hook in hooks:
        hook.remove()
    for place in range(2):
        same(one.model[place].inner.output, right[place][:1])
        same(rest.model[place].inner.output, right[place][1:])


@pytest.mark.parametrize("how", ["tracer", "value", "input"])
def test_the_module_at_which_the_forward_stops(how):
    model = NNsight(nn.Sequential(*(nn.Linear(2, 2) for _ in range(4))))
    x = torch.ones(1, 2)
    with model.trace(x) as tracer:
        cache = tracer.cache(include_inputs=True)
        if how == "tracer":
            model[1].output.save()
            tracer.stop()
        elif how == "value":
            model[1].output.stop()
        else:
            model[2].input.stop()
    assert list(cache) == ["model", "model.0", "model.1", *(["model.2"] if how == "input" else [])]
    same(cache["model.1"].output, model._module[1](model._module[0](x)).detach())
    if how == "input":
        same(cache["model.2"].input, cache["model.1"].output)


def test_asked_for_what_never_ran():
    net = nn.Sequential(nn.Linear(2, 2))
    net[0].sae = nn.Linear(2, 2)
    model, x = NNsight(net), torch.ones(1, 2)
    with pytest.warns(UserWarning, match=r"^\*\.sae: asked for, and not in the cache, because it did not run in this forward$") as seen:
        with model.trace(x) as tracer:
            cache = tracer.cache(["*.sae", "model.0"])
    assert (seen[0].filename, list(cache)) == (__file__, ["model.0"])
    with model.trace(x) as tracer:
        cache = tracer.cache()  # all that runs: nothing is missing
    assert set(cache) == {"model", "model.0"}


def test_some_modules(net):
    model = NNsight(net)
    expected = by_hand(net, lambda: net(X))
    for modules in (["model.head", "blocks.1.fc"], [model.head, model.blocks[1].fc], (model.get("head"), "model.blocks.1.fc")):
        with model.trace(X) as tracer:
            cache = tracer.cache(modules)
        assert list(cache) == ["model.blocks.1.fc", "model.head"]
        same(cache[model.head].output, expected["model.head"][0])
    for one in ("model", model):
        with model.trace(X) as tracer:
            cache = tracer.cache(one)
        assert list(cache) == ["model"]
    with model.trace(X) as tracer:
        cache = tracer.cache("*.fc")
    assert list(cache) == ["model.blocks.0.fc", "model.blocks.1.fc"]
    same(cache.model.again.fc.output, expected["model.blocks.0.fc"][0])


def test_moved_and_converted(net):
    expected = by_hand(net, lambda: net(X))
    model = NNsight(net)
    with model.trace(X) as tracer:
        half = tracer.cache(dtype=torch.float64, include_inputs=True)
        graph = tracer.cache(detach=False, device=None)
        again = tracer.cache(dtype=torch.float64, include_inputs=True)
        assert tracer.cache() is half
    assert again is half is not graph
    same(half.model.head.output, expected["model.head"][0].double())
    assert half.model.blocks[0].output[1]["scaled"].dtype == torch.float64
    gradient = torch.autograd.grad(graph.model.head.output.sum(), net.blocks[0].fc.weight)[0]
    same(gradient, torch.autograd.grad(net(X).sum(), net.blocks[0].fc.weight)[0])
    with NNsight(nn.Embedding(3, 2)).trace(torch.tensor([0, 2])) as tracer:
        ids = tracer.cache(dtype=torch.float16, include_inputs=True)
    assert ids.model.input.dtype == torch.int64
    assert ids.model.output.dtype == torch.float16


def test_the_rows_of_an_invoke(lm):
    with lm.trace() as tracer:
        with tracer.invoke(PROMPT):
            one = tracer.cache(["*.mlp", "lm_head"], include_inputs=True)
            lm.transformer.h[3].mlp.output[:] = 0
        with tracer.invoke(OTHERS):
            two = tracer.cache(["*.mlp", "lm_head"])
            read = lm.lm_head.output.save()
        with tracer.invoke():
            everything = tracer.cache("*.h.3.mlp")
    assert one is not two
    assert one.model.transformer.h[0].mlp.output.shape[0] == 1
    assert two.model.transformer.h[0].mlp.output.shape[0] == 2
    assert not one.model.transformer.h[3].mlp.output.any()
    assert two.model.transformer.h[3].mlp.output.any()
    same(two.model.lm_head.output, read.detach())
    whole = everything.model.transformer.h[3].mlp.output
    same(whole, torch.cat([one.model.transformer.h[3].mlp.output, two.model.transformer.h[3].mlp.output]))
    assert one.model.lm_head.input.shape[0] == 1


def test_every_step_of_a_generation(lm):
    def plain():
        lm._module.generate(**lm.tokenizer(PROMPT, return_tensors="pt"), max_new_tokens=5, do_sample=False)

    expected = by_hand(lm._module, plain)
    with lm.generate(PROMPT, max_new_tokens=5, do_sample=False) as tracer:
        cache = tracer.cache(["*.attn", "lm_head"])
    for key in cache:
        assert len(cache[key]) == len(expected[key])
        same(list(cache[key].output), expected[key])
    assert cache.model.lm_head.inputs == [None] * len(cache["lm_head"])


def test_a_generation_of_one_step_has_lists_too(lm):
    with lm.generate(PROMPT, max_new_tokens=1) as tracer:
        cache = tracer.cache("lm_head")
    assert isinstance(cache.model.lm_head.output, list)
    assert len(cache.model.lm_head.output) == 1


def test_the_rows_of_beams(lm):
    with lm.generate(num_beams=2, max_new_tokens=3, do_sample=False) as tracer:
        with tracer.invoke(PROMPT):
            one = tracer.cache("lm_head")
        with tracer.invoke(OTHERS[0]):
            two = tracer.cache("lm_head")
    assert [entry.shape[0] for entry in one.model.lm_head.output][1:] == [2] * (len(one.model.lm_head.output) - 1)
    assert one.model.lm_head.output[0].shape == two.model.lm_head.output[0].shape


def test_a_module_that_runs_several_times(net):
    expected = by_hand(net, lambda: net.several(X, 3))
    with NNsight(net).trace(X, 3, fn="several") as tracer:
        cache = tracer.cache(include_inputs=True)
    assert len(cache["model.blocks.0"]) == 3
    same(cache.model.blocks[0].fc.output, expected["model.blocks.0.fc"])
    same(cache.model.blocks[0].act.input, expected["model.blocks.0.fc"])
    assert "model" not in cache

    recurrent = nn.Sequential(shared := nn.Linear(3, 3), nn.ReLU(), shared)
    expected = by_hand(recurrent, lambda: recurrent(X))
    with NNsight(recurrent).trace(X) as tracer:
        cache = tracer.cache(include_inputs=True)
    same(cache.model[0].output, expected["model.0"])
    same(cache.model[2].output, expected["model.0"])
    same(cache.model[0].input, [X, expected["model.1"][0]])


def test_other_names(net):
    with NNsight(net).trace(X) as tracer:
        cache = tracer.cache(rename={"blocks": "layers", "head.0": "unembed"}, alias={"mlp": "fc", "top": "head"})
    assert "model.layers.0.fc" in cache
    assert "model.blocks.0.fc" not in cache
    for same_one in (cache.model.layers[0].fc, cache.model.blocks[0].fc, cache.model.layers[-2].fc):
        assert same_one.output is cache["model.layers.0.fc"].output
    assert cache.model.unembed.output is cache.model.head[0].output
    assert cache.model.top.output is cache["head"].output
    with NNsight(net).trace(X) as tracer:
        cache = tracer.cache(alias={"mlp": "fc"})
    assert cache.model.blocks[1].mlp.output is cache["model.blocks.1.fc"].output


def test_nothing_else_of_the_trace_is_missed_and_nothing_stays(net):
    model = NNsight(net)
    with model.trace(X) as tracer:
        cache = tracer.cache()
        doubled = (model.blocks[0].fc.output * 2).save()
        later = model.head(model.blocks[0].output[0]).sum().save()
    same(doubled, (cache.model.blocks[0].fc.output * 2))
    same(later.detach(), net.head(cache.model.blocks[0].output[0]).sum().detach())
    assert type(cache["model.head"]) is Entry  # the call in the block is none of the model's
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())


def test_what_came_before_an_error_is_kept(net):
    net.head.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError), NNsight(net).trace(X) as tracer:
        cache = tracer.cache()
    assert "model.blocks.1" in cache
    assert "model.head" not in cache


def test_the_same_program_is_compiled_once(net):
    model = NNsight(net)
    keys = []
    for _ in range(2):
        with model.trace(X) as tracer:
            tracer.cache("*.fc", dtype=torch.float16)
        keys.append(hash(tracer.graph))
    assert keys[0] == keys[1]
    assert str(tracer.graph).startswith("cache the output of blocks.0.fc, blocks.1.fc ")


# ---------------------------------------------------------------------- refusals


def test_refusals(net, tmp_path):
    model, other = NNsight(net), NNsight(nn.Linear(1, 1))

    def refused(text, **options):
        with pytest.raises(RecordError, match=text), model.trace(X) as tracer:
            tracer.cache(**options)

    refused("no module 'blocks.7'. Near: blocks", modules=["blocks.7"])
    refused("belongs to another model", modules=[other])
    refused("an envoy or a path, not int", modules=[3])
    refused("keeps nothing", include_output=False)
    refused("dtype is a torch.dtype", dtype="half")
    (tmp_path / "there").write_text("")
    refused("is not an empty folder", to=tmp_path)
    with pytest.raises(RecordError, match="outside branches and loops"), model.trace(X) as tracer:
        with tracer.cond(model.head.output.sum() > 0):
            tracer.cache()
    with pytest.raises(RecordError, match="is filled when its trace has run"), model.trace(X) as tracer:
        tracer.cache().model.head.output.sum()


def test_what_is_not_there(net):
    with NNsight(net).trace(X) as tracer:
        cache = tracer.cache(["blocks.0", "head"])
    with pytest.raises(AttributeError, match="model has no 'tail' that ran"):
        cache.model.tail
    with pytest.raises(IndexError, match=r"has no \[5\] that ran"):
        cache.model.blocks[5]
    with pytest.raises(KeyError, match="was not asked for, or did not run"):
        cache["model.blocks.1"]
    assert "CacheDict of 2 modules" in repr(cache)
    assert "model.head: output float32[4, 2]" in repr(cache)


def test_a_cache_by_hand():
    collected = Cache(include_inputs=True, dtype=torch.float16)
    collected.add("model.fc.inputs", ((torch.ones(2),), {}))
    collected.add("model.fc.output", torch.ones(2))
    assert type(collected.cache) is CacheDict
    same(collected.cache["model.fc"].input, torch.ones(2).half())
    collected.add("model.fc.output", torch.zeros(2))
    assert len(collected.cache.model.fc.output) == 2
    with pytest.raises(ValueError, match="a path ends with"):
        collected.add("fc", torch.ones(2))
    plain = CacheDict({"model.a.0": Entry(1), "model.a.1": Entry(2)})
    assert plain.model.a[1].output == 2
    assert plain.save() is plain


# ---------------------------------------------------------------------- on disk


@pytest.mark.parametrize("limit", [1, 10_000, 2**30])
def test_written_to_a_folder(lm, tmp_path, monkeypatch, limit):
    monkeypatch.setattr(shards, "SHARD_BYTES", limit)
    folder = tmp_path / "activations"
    with lm.generate(PROMPT, max_new_tokens=4) as tracer:
        memory = tracer.cache(["*.attn", "lm_head", "model"], include_inputs=True)
        disk = tracer.cache(["*.attn", "lm_head", "model"], include_inputs=True, rename={"lm_head": "unembed"}, to=folder)
    read_again = CacheDict.load(folder)
    shard_count = len(list(folder.glob("*.safetensors")))
    assert shard_count > 30 if limit == 1 else shard_count == 1 if limit == 2**30 else shard_count > 1
    for stored in (disk, read_again):
        assert len(stored) == len(memory)
        same(stored.model.unembed.output, memory.model.lm_head.output)
        same(stored["model.lm_head"].input, memory.model.lm_head.input)
        for layer in range(8):
            same(stored.model.transformer.h[layer].attn.output, memory.model.transformer.h[layer].attn.output)
        kept = stored.model.transformer.h[1].attn.inputs[0]
        same(kept[0], memory.model.transformer.h[1].attn.inputs[0][0])
        assert "NotKept(transformers" in repr(kept[1])
        same(stored.model.output[1]["logits"], memory.model.output[1]["logits"])
    assert "on disk" in repr(read_again)


def test_a_written_trace_of_one_pass(net, tmp_path):
    with NNsight(net).trace(X) as tracer:
        cache = tracer.cache(to=tmp_path / "a", dtype=torch.bfloat16)
    same(cache.model.again.fc.output, net.blocks[0].fc(X).detach().bfloat16())
    assert isinstance(cache.model.blocks[0].output, tuple)
    same(cache.model.blocks[0].output[1]["scaled"], (X * 2).bfloat16())
    assert json.loads((tmp_path / "a" / "index.json").read_text())["format"].startswith("nnsight_graph cache")


def test_rows_are_written_alone(net, tmp_path):
    model = NNsight(net)
    with model.trace() as tracer:
        with tracer.invoke(X[:1]):
            one = tracer.cache("head", to=tmp_path / "a")
        with tracer.invoke(X[1:]):
            three = tracer.cache("head", to=tmp_path / "b")
    same(torch.cat([one.model.head.output, three.model.head.output]), net(X).detach())


def test_a_folder_that_cannot_be_read(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no cache"):
        CacheDict.load(tmp_path)
    (tmp_path / "index.json").write_text("{")
    with pytest.raises(GraphFormatError, match="cannot be read"):
        CacheDict.load(tmp_path)
    (tmp_path / "index.json").write_text('{"format": "nnsight_graph cache 9"}')
    with pytest.raises(GraphFormatError, match="has the format 'nnsight_graph cache 9'"):
        CacheDict.load(tmp_path)


def test_progress(net, lm, capsys):
    with lm.generate(PROMPT, max_new_tokens=3, min_new_tokens=3, progress=True) as tracer:
        ids = tracer.result.save()
    assert "3/3" in capsys.readouterr().err
    assert ids.shape[1] > 3
    with NNsight(net).trace(X, progress=True) as tracer:
        nnsight.save(tracer.result)
    assert "1step" in (text := capsys.readouterr().err) or "1/1" in text
    with lm.generate(PROMPT, max_new_tokens=3) as tracer:
        tracer.result.save()
    assert capsys.readouterr().err == ""
    assert not lm._module._forward_hooks


def test_values_that_are_added_by_hand():
    """One pass is one entry, whichever of its two values comes first; other names hold at once."""
    tensor, inputs = torch.ones(2), ((torch.ones(2),), {})
    for first, second in (("output", "inputs"), ("inputs", "output")):
        cache = nnsight.Cache(include_inputs=True, alias={"layers": "transformer.h"})
        for point in (first, second):
            cache.add(f"model.fc.{point}", tensor if point == "output" else inputs)
        entry = cache.cache.model.fc
        assert torch.equal(entry.output, tensor)
        assert torch.equal(entry.input, tensor)
    cache.add("model.transformer.h.0.output", tensor)
    assert torch.equal(cache.cache.model.layers[0].output, tensor)
