"""Looking at proxies, in the block and after it, records nothing and raises nothing."""

from __future__ import annotations

import inspect
import io
import operator
import pprint
import reprlib
from types import SimpleNamespace

import pytest
import torch
from IPython.core.formatters import DisplayFormatter
from torch import nn

import nnsight_graph as nnsight

X = torch.tensor([[1.0, 2, -3, 4], [-2, 0, 5, 1]])


def by_rich(h):
    """As rich prints it, which looks for attributes by strange names."""
    pretty, console = pytest.importorskip("rich.pretty"), pytest.importorskip("rich.console")
    return pretty.pretty_repr(h), console.Console(file=io.StringIO()).print(h)


class Net(nn.Module):
    """Returns a tensor, a tuple, a dict and an object of a class."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.pair, self.named, self.held = nn.Linear(4, 4), nn.Identity(), nn.Identity(), nn.Identity()

    def forward(self, x):
        hidden = self.inner(x)
        first, second = self.pair((hidden, hidden * 2))
        named = self.named({"logits": first + second})
        return self.held(SimpleNamespace(logits=named["logits"], foo=1)).logits


KINDS = {
    "a tensor": lambda model: model.inner.output,
    "a result": lambda model: model.inner.output @ model.inner.output.T,
    "a tuple": lambda model: model.pair.output,
    "an item": lambda model: model.pair.output[1],
    "a dict": lambda model: model.named.output,
    "an object": lambda model: model.held.output,
    "arguments": lambda model: model.pair.inputs,
    "a shape": lambda model: model.inner.output.shape,
    "a size": lambda model: model.inner.output.shape[0],
    "a number": lambda model: model.inner.output.sum().item(),
    "a list": lambda model: model.inner.output.tolist(),
    "a method": lambda model: model.inner.output.sum,
    "a gradient's owner": lambda model: model.output * 1,
}
LOOKS = {
    "repr": lambda h: (repr(h), str(h), pprint.pformat([h]), reprlib.repr(h)),
    "hasattr of private names": lambda h: [hasattr(h, name) for name in ("_repr_html_", "_ipython_display_", "_x", "__len_hint__")],
    "getattr of private names": lambda h: (getattr(h, "_repr_png_", None), getattr(h, "__html__", None)),
    "hasattr": lambda h: (hasattr(h, "nowhere"), hasattr(h, "shape"), hasattr(h, "grad")),
    "display": lambda h: DisplayFormatter().format(h),
    "rich": lambda h: by_rich(h),
    "members": lambda h: inspect.getmembers(h),
    "dir, vars, type": lambda h: (dir(h), id(h), type(h), inspect.isclass(h), callable(h)),
}


def lines(graph):
    """The program without the places where its lines stand."""
    return [line.partition("#")[0].rstrip() for line in str(graph).splitlines()]


@pytest.mark.parametrize("after", [False, True], ids=["in the block", "after it"])
@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_looking_changes_nothing(kind, look, after):
    torch.manual_seed(0)
    module = Net().requires_grad_(False)
    model, expected = nnsight.NNsight(module), module(X)
    with model.trace(X) as tracer:
        h = kind(model)
        out = model.output.save()
    right = lines(tracer.graph)
    with model.trace(X) as tracer:
        h = kind(model)
        if not after:
            look(h)
        out = model.output.save()
    if after:
        look(h)
    assert lines(tracer.graph) == right
    assert torch.equal(out, expected)


def test_what_is_got_by_name_is_recorded_where_it_is_used():
    module = nn.Linear(4, 4).requires_grad_(False)
    model = nnsight.NNsight(module)
    with model.trace(X):
        total = getattr(model.output, "sum")(-1).save()  # noqa: B009
        turned = operator.attrgetter("T")(model.output)
        turned = (turned * 2).save()
        width = getattr(model.output, "shape")[1].save()  # noqa: B009
    assert torch.equal(total, module(X).sum(-1))
    assert torch.equal(turned, module(X).T * 2)
    assert width == 4


def test_a_name_that_the_value_has_is_found_whatever_tensors_have():
    module = Net().requires_grad_(False)
    model = nnsight.NNsight(module)
    with model.trace(X):
        found = getattr(model.held.output, "logits")  # noqa: B009
        logits = found.save()
        written = model.held.output.logits.save()
    assert torch.equal(logits, module(X))
    assert torch.equal(written, module(X))


def test_a_name_that_a_tensor_does_not_have_is_not_there():
    model = nnsight.NNsight(nn.Linear(4, 4))
    with model.trace(X) as tracer:
        found = getattr(model.output, "nowhere", None), hasattr(model.output, "nowhere"), hasattr(model.output, "shape")
        model.output.save()
    assert found == (None, False, True)
    assert len(tracer.graph) == 2


def test_a_private_name_is_refused_at_once():
    model = nnsight.NNsight(nn.Linear(4, 4))
    with pytest.raises(AttributeError, match=r"_version: names with an underscore.*apply") as caught, model.trace(X):
        model.output._version
    assert isinstance(caught.value, nnsight.NNsightError)


def test_what_was_not_saved_says_so_and_raises_where_it_is_used(capsys):
    model = nnsight.NNsight(nn.Linear(4, 4))
    with model.trace(X):
        kept = model.output.save()
        lost = model.output * 3
    print(lost, [lost])
    printed = capsys.readouterr().out
    assert printed.count("no value") == 2
    assert "`lost = model.output * 3`: it was not saved: add .save() to the line." in printed
    assert not hasattr(lost, "shape")
    uses = (lambda: lost + 1, lambda: lost.shape, lambda: len(lost), lambda: torch.relu(lost), lambda: lost.value, lambda: f"{lost:.2f}")
    for use in uses:
        with pytest.raises(nnsight.UnsetValueError, match="it was not saved"):
            use()
    assert kept.shape == (2, 4)


def test_print_in_the_block_tells_what_is_known_and_where_the_numbers_are(capsys):
    model = nnsight.NNsight(nn.Linear(4, 4))
    with model.trace(X, scan=True):
        print(model.output)
        nnsight.log(model.output.sum() * 0)
    first, second = capsys.readouterr().out.splitlines()
    assert first == "InterventionProxy(output: float32[2, 4] on cpu; see its numbers with nnsight_graph.log(...))"
    assert "0." in second
