"""What stands for a value says it is a tensor to Python code that asks, and never to torch's C code, which would read its memory."""

import functools

import pytest
import torch

import nnsight_graph as nnsight


@pytest.fixture
def saved():
    model = nnsight.NNsight(torch.nn.Identity())
    with model.trace(torch.tensor([1.0, 2.0, 3.0])):
        return model.output.save(), model.output.sum().save()  # what the block hands on itself stays a stand-in


def test_python_code_sees_a_tensor(saved):
    value, _ = saved
    assert isinstance(value, torch.Tensor)
    assert isinstance(value, (int, torch.Tensor))
    assert torch.is_tensor(value)
    assert value.__class__ is torch.Tensor
    assert [isinstance(item, torch.Tensor) for item in [value]] == [True]
    assert isinstance(value if value is not None else 1, torch.Tensor) in (True, False)  # must not end the process


def test_dispatch_by_class_works(saved):
    @functools.singledispatch
    def kind(_value):
        return "other"

    kind.register(torch.Tensor, lambda _value: "tensor")
    assert kind(saved[0]) == "tensor"


@pytest.mark.parametrize(
    "make",
    [torch.tensor, torch.as_tensor, torch.asarray, torch.ones(2).new_tensor, lambda value: torch.tensor([value, value])[0]],
    ids=["tensor", "as_tensor", "asarray", "new_tensor", "list"],
)
def test_constructors_take_the_value(saved, make):
    assert torch.equal(make(saved[0]), torch.tensor([1.0, 2.0, 3.0]))


def test_a_scalar_fills(saved):
    assert torch.equal(torch.full((2,), saved[1]), torch.tensor([6.0, 6.0]))
    assert isinstance(torch.tensor(saved[0]), torch.Tensor)


@pytest.mark.parametrize("refuse", [torch.Tensor, torch.FloatTensor, torch.nn.Parameter])
def test_what_cannot_take_a_proxy_refuses_it(saved, refuse):
    with pytest.raises((RuntimeError, TypeError)):
        refuse(saved[0])
    assert torch.equal(torch.nn.Parameter(saved[0].value).data, torch.tensor([1.0, 2.0, 3.0]))
