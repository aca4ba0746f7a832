"""``rename=`` and ``envoys=`` with dictionaries that are made for many models: by path, by class, by wildcard, through other names."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from nnsight_graph import Envoy, NNsight

X = torch.tensor([[1.0, 2, -3, 4], [-2, 0, 5, 1]])


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.c_proj = nn.Linear(4, 4)

    def forward(self, x):
        return self.c_proj(x)


class Mixer(Attention):
    pass


class Block(nn.Module):
    def __init__(self, mixer):
        super().__init__()
        self.mixer, self.mlp = mixer, nn.Sequential()
        self.mlp.c_proj = nn.Linear(4, 4)

    def forward(self, x):
        return x + self.mlp(self.mixer(x))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Module()
        self.body.h = nn.ModuleList([Block(Attention()), Block(Mixer()), Block(Attention())])
        self.body.final = nn.LayerNorm(4)
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        for block in self.body.h:
            x = block(x)
        return self.head(self.body.final(x))


def paths(model, names):
    return [model.get(name).path for name in names]


def test_a_dotted_key_passes_through_names_given_before():
    model = NNsight(Net(), rename={"body": "model", "model.h": "act"})
    assert model.act is model.model.h is model.body.h
    assert model.act.path == "model.body.h"
    assert not hasattr(model.body, "act")
    with model.trace(X):
        value = model.act[1].output.save()
        out = model.output.save()
    seen = []
    net = model._module
    handle = net.body.h[1].register_forward_hook(lambda _m, _a, output: seen.append(output))
    assert torch.equal(out, net(X))
    handle.remove()
    assert torch.equal(value, seen[0])


def test_one_dictionary_for_many_families():
    names = {"transformer": "model", "body": "model", "gpt_neox": "model", "h": "layers", "blocks": "layers", "model.layers": "layers"}
    names |= {"ln_f": "norm", "final": "norm", "model.norm": "norm", "mixer": "self_attn", "attention": "self_attn", "embed_out": "head"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = NNsight(Net(), rename=names)
    assert model.layers is model.model.layers is model.body.h
    assert model.norm is model.model.norm is model.body.final
    assert paths(model, ["layers.0.self_attn", "head"]) == ["model.body.h.0.mixer", "model.head"]


def test_a_dot_before_a_key_means_nothing():
    model = NNsight(Net(), rename={".h": "layers", ".mlp": "ff"})
    assert model.body.layers is model.body.h
    assert not hasattr(model, "layers")
    assert model.body.layers[2].ff is model.body.h[2].mlp


def test_a_class_is_the_module_of_it_that_another_holds():
    model = NNsight(Net(), rename={Mixer: "state", nn.LayerNorm: ["norm", "ln"], nn.ModuleList: "layers"})
    assert [hasattr(block, "state") for block in model.body.layers] == [False, True, False]
    assert model.body.h[1].state is model.body.h[1].mixer
    assert model.body.norm is model.body.ln is model.body.final
    model = NNsight(Net(), rename={Attention: "attention"})  # subclasses count
    assert paths(model, ["body.h.0.attention", "body.h.1.attention"]) == ["model.body.h.0.mixer", "model.body.h.1.mixer"]


def test_a_star_is_any_one_module():
    model = NNsight(Net(), rename={"*.h": "layers", "*.final": "norm"})
    assert model.layers is model.body.h
    assert model.norm is model.body.final


def test_a_name_may_stand_below_its_first_parts():
    model = NNsight(Net(), rename={"mixer": "attn", "attn.c_proj": "attn.o_proj", "mlp.c_proj": "mlp.down"})
    block = model.body.h[1]
    assert block.attn.o_proj is block.mixer.c_proj
    assert block.mlp.down is block.mlp.c_proj
    assert not hasattr(block.mlp, "o_proj")
    assert not hasattr(block, "o_proj")


@pytest.mark.parametrize(
    ("rename", "message"),
    [
        ({"*.c_proj": "proj"}, r"'\*\.c_proj' means 2 modules in model\.body\.h\.0 \(model\.body\.h\.0\.mixer\.c_proj, "),
        ({Block: "block"}, r"Block means 3 modules in model\.body\.h \("),
        ({"mixer.c_proj": "mlp.o_proj"}, r"'mlp' in 'mlp\.o_proj' holds no model\.body\.h\.0\.mixer\.c_proj"),
        ({"h": "layers", "final": "layers"}, r"'layers' for final would hide model\.body\.h"),
        ({"body": "head"}, r"'head' for body would hide model\.head"),
    ],
)
def test_what_is_refused(rename, message):
    with pytest.raises(ValueError, match=message):
        NNsight(Net(), rename=rename)


@pytest.mark.parametrize("key", ["hed", ".hed", "body.hed", "*.hed", "", "model.hed"])
def test_a_key_that_matches_nothing_is_left_out(key):
    with pytest.warns(UserWarning, match="nothing is called lm_head, for the model has no module '") as seen:
        model = NNsight(Net(), rename={key: "lm_head", "h": "layers"})
    assert seen[0].filename == __file__
    assert model.body.layers is model.body.h
    assert not hasattr(model, "lm_head")


def test_near_names_and_classes_are_told():
    with pytest.warns(UserWarning, match=r"called attn, .* no module 'mixr' or 'atn' \(near: mixer\); .* conv, .* no module Conv1d$"):
        NNsight(Net(), rename={"mixr": "attn", nn.Conv1d: "conv", "atn": "attn", "head": "lm_head"})


def test_printed_paths_are_taken():
    model = NNsight(Net(), rename={"model.body.h": "layers"})
    assert model.layers is model.body.h


# ---------------------------------------------------------------------- envoys


class Own(Envoy):
    pass


class Other(Envoy):
    pass


def kinds(model):
    return [type(model.body.h[i].mixer) for i in range(3)]


def test_a_class_counts_more_than_a_path():
    assert kinds(NNsight(Net(), envoys={"mixer": Other, Mixer: Own})) == [Other, Own, Other]
    assert kinds(NNsight(Net(), envoys={Attention: Other, Mixer: Own})) == [Other, Own, Other]


def test_stars_and_further_names_in_paths():
    model = NNsight(Net(), envoys={"h.*": Own, "layers.1.attn": Other}, rename={"h": "layers", "mixer": "attn"})
    assert {type(block) for block in model.body.h} == {Own}
    assert kinds(model) == [Envoy, Other, Envoy]
    assert type(model.body.h) is Envoy


def test_what_fits_nothing_is_left_out():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = NNsight(Net(), envoys={"attention": Own, "mixer": Own, nn.Conv1d: Own})
    assert kinds(model) == [Own] * 3
    with pytest.warns(UserWarning, match=r"no module's path ends in 'atention'\. Its modules are called body, h") as seen:
        model = NNsight(Net(), envoys={"atention": Other, "mixer": Own})
    assert seen[0].filename == __file__
    assert kinds(model) == [Own] * 3


class Mine(NNsight):
    envoys = {"mixer": Own}  # noqa: RUF012


def test_none_switches_the_choice_of_a_class_off():
    assert kinds(Mine(Net())) == [Own] * 3
    assert kinds(Mine(Net(), envoys=None)) == [Envoy] * 3
    assert kinds(Mine(Net(), envoys={Mixer: Other})) == [Envoy, Other, Envoy]
    assert kinds(NNsight(Net(), envoys=None)) == [Envoy] * 3
