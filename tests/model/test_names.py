"""Further names of modules: ``NNsight(net, rename=...)``."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nnsight_graph import NNsight

X = torch.tensor([[1.0, 2, -3, 4], [-2, 0, 5, 1]])


class Block(nn.Module):
    scale = 2

    def __init__(self):
        super().__init__()
        self.self_attn, self.mlp = nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4), nn.ReLU())
        self.gain = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return self.mlp(self.self_attn(x)) * self.gain + x


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.transformer = nn.Module()
        self.transformer.h = nn.ModuleList([Block() for _ in range(3)])
        self.head = nn.Linear(4, 2)
        self.first = self.transformer.h[0]

    def forward(self, x):
        for block in self.transformer.h:
            x = block(x)
        return self.head(x)


def hooked(net: nn.Module, path: str, change=None):
    """What passes at a module, and the model's result, by a hook of PyTorch."""
    seen = []

    def hook(_module, _args, output):
        seen.append(output.clone())
        return None if change is None else change(output)

    handle = net.get_submodule(path).register_forward_hook(hook)
    result = net(X)
    handle.remove()
    return seen[0], result


def test_paths_and_parts():
    net = Net()
    model = NNsight(net, rename={"transformer.h": "layers", "self_attn": ["attn", "attention"], "mlp.0": "up", ".head": "lm_head"})
    assert model.layers is model.transformer.h is model.get("layers") is model.get("model.layers") is model["layers"]
    assert model.layers[1].attn is model.layers[1].attention is model.transformer.h[1].self_attn is model.get("layers.1.attn")
    assert model.layers[2].up is model.get("transformer.h.2.mlp.0")
    assert model.lm_head is model.head
    assert model.first.attn.path == "model.first.self_attn"
    assert [block.path for block in model.layers[1:]] == ["model.transformer.h.1", "model.transformer.h.2"]
    assert {"layers", "lm_head"} <= set(dir(model))
    assert "attn" in dir(model.layers[0])
    assert not hasattr(model.head, "attn")


def test_values_are_those_of_the_module():
    net = Net()
    model = NNsight(net, rename={"transformer.h": "layers", "self_attn": "attn"})
    with model.trace(X) as tracer:
        first = model.layers[1].attn.output.clone().save()
        model.layers[1].attn.output[:] = 0
        model.layers[2].attn.output = model.layers[2].self_attn.output * 2
        result = model.output.save()
    plain, _ = hooked(net, "transformer.h.1.self_attn")
    torch.testing.assert_close(first.value, plain)
    handle = net.transformer.h[1].self_attn.register_forward_hook(lambda _m, _a, output: output * 0)
    _, expected = hooked(net, "transformer.h.2.self_attn", lambda output: output * 2)
    handle.remove()
    torch.testing.assert_close(result.value, expected)
    assert "layers" not in str(tracer.graph)
    assert "transformer.h.1.self_attn.output" in str(tracer.graph)


def test_model_as_a_name_and_alias():
    model = NNsight(Net(), rename={".transformer": ["model", "mdl"]}, alias={"blocks": "transformer.h"})
    assert model.model.h is model.mdl.h is model.blocks is model.get("model.h") is model.get("model.transformer.h")


def test_the_tree_shows_them():
    model = NNsight(Net(), rename={"transformer.h": "layers", "self_attn": "attn"})
    assert repr(model) == """Net(
  (transformer): Module(
    (h): ModuleList(
      (0-2): 3 x Block(
        (self_attn, attn): Linear(in_features=4, out_features=4, bias=True)
        (mlp): Sequential(
          (0): Linear(in_features=4, out_features=4, bias=True)
          (1): ReLU()
        )
      )
    )
  )
  (head): Linear(in_features=4, out_features=2, bias=True)
  (first): Block(
    (self_attn, attn): Linear(in_features=4, out_features=4, bias=True)
    (mlp): Sequential(
      (0): Linear(in_features=4, out_features=4, bias=True)
      (1): ReLU()
    )
  )
  (layers): the module at transformer.h
)"""
    assert repr(NNsight(Net())) == repr(Net())
    assert repr(model.layers[0].mlp) == repr(Net().first.mlp)


@pytest.mark.parametrize("net", [Net(), nn.Sequential(nn.Linear(1, 1)), nn.ModuleList([nn.ReLU(), nn.ReLU(), nn.Linear(1, 1)]), nn.ReLU()])
def test_it_prints_as_the_module_where_no_name_stands(net):
    model = NNsight(net)
    model._tree.names.at["elsewhere"] = {"a": "b"}
    assert repr(model) == repr(net)


@pytest.mark.parametrize(
    ("rename", "message"),
    [
        ({"self_attn": "mlp"}, r"'mlp' for self_attn would hide model\.transformer\.h\.0\.mlp"),
        ({"self_attn": "attn", "mlp": "attn"}, r"'attn' for mlp would hide model\.transformer\.h\.0\.self_attn"),
        ({"self_attn": "gain"}, r"would hide the attribute model\.transformer\.h\.0\.gain"),
        ({"self_attn": "scale"}, r"would hide the attribute model\.transformer\.h\.0\.scale"),
        ({"self_attn": "forward"}, r"would hide the attribute model\.transformer\.h\.0\.forward"),
        ({"self_attn": "output"}, r"would hide model\.transformer\.h\.0\.output, which every envoy there has"),
        ({".head": "trace"}, r"would hide model\.trace"),
        ({"head": "a.b"}, r"'a' in 'a\.b' holds no model\.head"),
        ({"head": "0"}, "'0' is no name for a module"),
        ({"head": 3}, "3 is no name for a module"),
        ({3: "head"}, "keys of rename are names, paths and classes of modules, not 3"),
        ({torch.Tensor: "head"}, "keys of rename are names, paths and classes"),
    ],
)
def test_errors_at_construction(rename, message):
    with pytest.raises((ValueError, TypeError), match=message):
        NNsight(Net(), rename=rename)


def test_a_name_that_is_there_already_may_be_given_again():
    assert NNsight(Net(), rename={"self_attn": "self_attn", ".transformer.h": "h"}).h[0].self_attn.path == "model.transformer.h.0.self_attn"


def test_it_takes_a_dictionary():
    with pytest.raises(TypeError, match="rename takes a dictionary"):
        NNsight(Net(), rename="standard")


def test_a_module_is_replaced_by_its_further_name():
    net, new = Net(), nn.Linear(4, 4)
    model = NNsight(net, rename={"self_attn": "attn", "transformer.h": "layers", "mlp.0": "up"})
    assert model.layers[0].attn._module is not new
    model.layers[0].attn = new
    assert net.transformer.h[0].self_attn is new
    assert "attn" not in net.transformer.h[0]._modules
    assert model.layers[0].attn._module is new
    model.layers[1].up = new
    assert net.transformer.h[1].mlp[0] is new
    with model.trace(X):
        seen = model.layers[0].attn.output.save()
    torch.testing.assert_close(seen.value, new(X))


def test_caches():
    net = Net()
    model = NNsight(net, rename={"transformer.h": "layers", "self_attn": "attn"})
    with model.trace(X) as tracer:
        cache = tracer.cache()
    assert "model.transformer.h.1.self_attn" in list(cache)
    assert not any("layers" in key for key in cache)
    expected, _ = hooked(net, "transformer.h.1.self_attn")
    for found in (cache.model.layers[1].attn, cache["layers.1.attn"], cache.model.transformer.h[1].attn, cache[model.layers[1].attn]):
        torch.testing.assert_close(found.output, expected)
    assert cache.model.layers[-1].output.shape == (2, 4)
    with model.trace(X) as tracer:
        some = tracer.cache(["*.attn", "layers.2"])
    assert list(some) == [*(f"model.transformer.h.{i}.self_attn" for i in (0, 1, 2)), "model.transformer.h.2"]


def test_two_wrappers_have_names_of_their_own():
    net = Net()
    one, other = NNsight(net, rename={"head": "lm_head"}), NNsight(net)
    assert one.lm_head._module is net.head
    with pytest.raises(AttributeError, match="Near: head"):
        _ = other.lm_head
    with pytest.raises(AttributeError, match="lm_head"):
        _ = one.lm_hea
