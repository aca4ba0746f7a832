"""Branches and loops in traces, in both forms, against hooks written by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import nnsight_graph as nnsight

X = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))
Y = torch.randn(1, 4, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def model() -> Any:
    torch.manual_seed(0)
    return nnsight.NNsight(nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Linear(4, 3)))


def with_hook(model: Any, place: int, change: Any, x: Tensor = X) -> Tensor:
    handle = model._module[place].register_forward_hook(lambda _module, _args, output: change(output))
    try:
        return model._module(x)
    finally:
        handle.remove()


def silenced(output: Tensor) -> Tensor:
    return output * 0


# ---------------------------------------------------------------------- the explicit form


@pytest.mark.parametrize("bound", [-1e9, 1e9])
def test_a_branch_takes_part_where_it_is_taken(model: Any, bound: float) -> None:
    with torch.no_grad(), model.trace(X) as tracer:
        with tracer.cond(model[0].output.sum() > bound) as above:
            model[2].output[:] = 0
            inside = (model[1].output + 1).save()
        with above.else_():
            model[2].output = model[2].output * 2
        result = model.output.save()
    with torch.no_grad():
        right = with_hook(model, 2, silenced if bound < 0 else lambda output: output * 2)
    assert torch.equal(result.value, right)
    if bound < 0:
        assert torch.equal(inside.value, model._module[1](model._module[0](X)) + 1)
    else:
        with pytest.raises(nnsight.UnsetValueError, match="the branch it stands in was not taken"):
            inside.value


@pytest.mark.parametrize("bounds", [(1e9, 1e9), (1e9, -1e9), (-1e9, 1e9), (-1e9, -1e9)])
def test_a_chain_takes_the_first_that_holds(model: Any, bounds: tuple[float, float]) -> None:
    with torch.no_grad(), model.trace(X) as tracer:
        names = nnsight.list().save()
        total = model[0].output.sum()
        with tracer.cond(total > bounds[0]) as first:
            names.append("first")
        with first.elif_(total > bounds[1]) as second:
            names.append("second")
        with second.elif_(total > bounds[1]):
            names.append("third")
        with first.else_():
            names.append("other")
    assert names == ["first" if bounds[0] < 0 else "second" if bounds[1] < 0 else "other"]


def test_branches_in_branches(model: Any) -> None:
    with model.trace(X) as tracer:
        seen = nnsight.list().save()
        with tracer.cond(model[0].output.sum() > -1e9):
            with tracer.cond(model[1].output.sum() > -1e9):
                seen.append("both")
            with tracer.cond(model[2].output.sum() > 1e9):
                seen.append("never")
                model[3].output[:] = 0
        result = model.output.save()
    assert seen == ["both"]
    assert torch.equal(result.value, model._module(X))


def test_a_plain_condition(model: Any) -> None:
    with model.trace(X) as tracer:
        with tracer.cond(8 > 0):
            with nnsight.cond(8 % 2 == 1):
                model[2].output[:] = 0
            yes = model[0].output.save()
        result = model.output.save()
    assert torch.equal(result.value, model._module(X))
    assert torch.equal(yes.value, model._module[0](X))


def test_a_condition_that_comes_after_the_site_is_late_whether_it_holds_or_not(model: Any) -> None:
    for bound in (-1e9, 1e9):
        with pytest.raises(nnsight.OutOfOrderError, match=r"changes 1\.output"):
            with model.trace(X) as tracer:
                with tracer.cond(model[3].output.sum() > bound):
                    model[1].output[:] = 0


def test_a_branch_that_is_not_taken_delays_nothing(model: Any) -> None:
    with torch.no_grad(), model.trace(X):
        if model[0].output.sum() > 1e9:
            factor = model[3].output.mean()
        else:
            factor = 2.0
        model[2].output *= factor
        result = model.output.save()
    with torch.no_grad():
        assert torch.equal(result.value, with_hook(model, 2, lambda output: output * 2))


def test_a_condition_of_one_input_decides_about_another(model: Any) -> None:
    for sign in (1, -1):
        with torch.no_grad(), model.trace() as tracer:
            with tracer.invoke(X):
                large = (model[0].output.sum() - 1e9 * sign) < 0
            with tracer.invoke(Y):
                with tracer.cond(large):
                    model[2].output = model[2].output * 3
                one = model.output.save()
            with tracer.invoke(X):
                two = model.output.save()
        with torch.no_grad():
            right = with_hook(model, 2, (lambda output: output * 3) if sign > 0 else (lambda output: output), Y)
            torch.testing.assert_close(one.value, right)
            torch.testing.assert_close(two.value, model._module(X))


def test_names_above_a_branch_keep_the_value_that_it_may_replace(model: Any) -> None:
    for bound in (-1e9, 1e9):
        with torch.no_grad(), model.trace(X):
            old = model[2].output
            if model[0].output.sum() > bound:
                model[2].output = model[2].output * 5
            later = (old + model[3].output.sum()).save()
            new = model[2].output.save()
        with torch.no_grad():
            plain = model._module[2](model._module[1](model._module[0](X)))
            factor = 5 if bound < 0 else 1
            right = plain + model._module[3](plain * factor).sum()
        torch.testing.assert_close(later.value, right)
        torch.testing.assert_close(new.value, plain * factor)


def test_a_module_that_runs_in_no_branch_is_not_missed() -> None:
    class Choice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate, self.rare = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.gate(x)

    model = nnsight.NNsight(Choice())
    with model.trace(X) as tracer:
        with tracer.cond(model.gate.output.sum() > 1e9):
            model.rare.output.save()
        result = model.output.save()
    assert torch.equal(result.value, model._module(X))
    with pytest.raises(nnsight.MissedSiteError, match=r"rare\.output"):
        with model.trace(X) as tracer:
            with tracer.cond(model.gate.output.sum() > -1e9):
                model.rare.output.save()


def test_a_value_of_a_branch_is_not_seen_below_it(model: Any) -> None:
    with pytest.raises(nnsight.CheckError, match="made in a branch or a loop"):
        with model.trace(X) as tracer:
            with tracer.cond(model[0].output.sum() > 0):
                inside = model[1].output + 1
            model[3].output = inside[:, :3]


def test_errors_in_a_branch_stand_on_their_line(model: Any) -> None:
    with pytest.raises(IndexError, match="out of bounds") as caught:
        with model.trace(X) as tracer:
            with tracer.cond(model[0].output.sum() > -1e9):
                model[1].output[:, 77].save()
    assert isinstance(caught.value, nnsight.NNsightError)
    assert str(caught.traceback[-1].statement).strip() == "model[1].output[:, 77].save()"


def test_else_stands_below_its_block(model: Any) -> None:
    with pytest.raises(nnsight.RecordError, match="stand below their block"):
        with model.trace(X) as tracer:
            with tracer.cond(model[0].output.sum() > 0).else_():
                pass
    with pytest.raises(nnsight.RecordError, match="inside a trace"):
        nnsight.cond(True)


def test_the_graph_prints_its_branches(model: Any) -> None:
    with model.trace(X) as tracer:
        if model[0].output.sum() > 0:
            kept = model[1].output * 2
        else:
            kept = model[1].output
        nnsight.save(kept)
    lines = [line.partition("#")[0].strip() for line in str(tracer.graph).splitlines()]
    assert "else:" in lines
    assert any(line.endswith(":") and "= if %" in line for line in lines)
    assert any(" if %" in line and " else %" in line for line in lines)


# ---------------------------------------------------------------------- loops over values


def test_a_loop_over_numbers(model: Any) -> None:
    with torch.no_grad(), model.trace(X) as tracer:
        sums = nnsight.list().save()
        with tracer.iter([0, 2]) as column:
            model[2].output[:, column] = 0
            sums.append(model[0].output[:, column].sum())
        result = model.output.save()

    def change(output: Tensor) -> Tensor:
        output = output.clone()
        output[:, [0, 2]] = 0
        return output

    with torch.no_grad():
        assert torch.equal(result.value, with_hook(model, 2, change))
        first = model._module[0](X)
    assert [value.item() for value in sums] == [first[:, 0].sum().item(), first[:, 2].sum().item()]


def test_loops_in_loops(model: Any) -> None:
    with model.trace(X) as tracer:
        nested = nnsight.list()
        [nested.append([number]) for number in range(3)]
        found = nnsight.list().save()
        with tracer.iter(nested) as item:
            with tracer.iter(item) as number:
                found.append(number)
    assert found == [0, 1, 2]


def test_python_loops_over_a_traced_list(model: Any) -> None:
    with model.trace(X):
        nested = nnsight.list()
        [nested.append([number]) for number in range(3)]
        found = nnsight.list().save()
        for item in nested:
            for number in item:
                found.append(number)
    assert found == [0, 1, 2]


def test_a_loop_without_turns_leaves_its_values_unset(model: Any) -> None:
    with model.trace(X) as tracer:
        with tracer.iter(model[0].output[:0]) as row:
            last = (row * 2).save()
    with pytest.raises(nnsight.UnsetValueError, match="no turn"):
        last.value


def test_a_site_is_not_assigned_in_a_loop_over_values(model: Any) -> None:
    with pytest.raises(nnsight.RecordError, match="assigns to a site of the model in a loop"):
        with model.trace(X) as tracer:
            with tracer.iter([1, 2]):
                model[2].output = model[2].output * 2


def test_the_graph_does_not_grow_with_the_items(model: Any) -> None:
    lengths = []
    for count in (3, 1000):
        with model.trace(X) as tracer:
            total = nnsight.list().save()
            with tracer.iter(list(range(count))) as number:
                total.append(number * 2)
        assert total == [number * 2 for number in range(count)]
        lengths.append(len(tracer.graph))
    assert lengths[0] == lengths[1]


def test_random_numbers_decide(model: Any, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in range(4):
        torch.manual_seed(seed)
        with model.trace(X) as tracer:
            number = torch.randint(low=-10, high=10, size=(1,))
            if number % 2 == 0:
                tracer.log("even", number)
            elif number % 2 == 1:
                tracer.log("odd", number)
            nnsight.save(number)
        torch.manual_seed(seed)
        drawn = torch.randint(low=-10, high=10, size=(1,))
        assert number.item() == drawn.item()
        assert capsys.readouterr().out == f"{'odd' if drawn % 2 else 'even'} {drawn}\n"


# ---------------------------------------------------------------------- containers and names


def test_a_list_with_a_name_holds_what_plain_python_would_have_put_there(model: Any) -> None:
    found: list[Any] = ["before"]
    with torch.no_grad(), model.trace(X):
        for row in model[0].output:
            found.append(row.sum())
        found.append("after")
    with torch.no_grad():
        rows = model._module[0](X)
    assert (found[0], found[-1]) == ("before", "after")
    assert [value.item() for value in found[1:-1]] == [row.sum().item() for row in rows]


def test_an_unset_name(model: Any) -> None:
    with pytest.raises(NameError):
        with model.trace(X):
            if model[0].output.sum() > 1e9:
                rare = model[1].output
            nnsight.save(rare + 1)


def test_raise_and_print_in_a_branch_happen_if_it_is_taken(model: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with model.trace(X):
        if model[0].output.sum() > 1e9:
            print("never")
            raise ValueError("never")
        else:
            print("seen")
    assert capsys.readouterr().out == "seen\n"
    with pytest.raises(ValueError, match="taken"):
        with model.trace(X):
            if model[0].output.sum() > -1e9:
                raise ValueError("taken")


def test_a_module_cannot_be_chosen_by_a_value(model: Any) -> None:
    with pytest.raises(nnsight.RecordError, match="depends on a traced condition"):
        with model.trace(X):
            layer = model[0] if model[0].output.sum() > 0 else model[2]
            layer.output[:] = 0


def test_the_result_of_a_change_can_be_saved(model: Any) -> None:
    with model.trace(X):
        values = nnsight.list().save()
        nothing = values.append(model[0].output.sum()).save()
        kept = [model[0].output.shape[0], 2].save()
        named = dict(one=1).save()  # noqa: C408
        built = nnsight.dict(two=2).save()
    assert nothing is None
    assert len(values) == 1
    assert (list(kept), dict(named), built.value) == ([2, 2], {"one": 1}, {"two": 2})
