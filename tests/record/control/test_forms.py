"""What each form of Python means on traced values."""

from __future__ import annotations

from typing import Any

import pytest

from nnsight_graph.errors import RecordError
from tests.record.control.toy import UNBOUND, Recorded, Trace, plain

pytestmark = pytest.mark.torch_free

LOG: list[Any] = []


@pytest.mark.parametrize("start", [1, 5])
def test_both_branches_are_recorded_and_one_is_taken(start: int) -> None:
    with Trace() as t:
        x = t.input(start)
        if x > 3:
            y = x + 1
            print("large", x)
        else:
            y = x - 1
            print("small", x)
    assert plain(y) == (6 if start == 5 else 0)
    assert t.toy.printed == [("large", 5) if start == 5 else ("small", 1)]


def test_plain_values_keep_plain_python(capsys: pytest.CaptureFixture[str]) -> None:
    with Trace() as t:
        words = [word.upper() for word in "a b c".split() if word != "b"]
        if words:
            print(len(words))
        total = sum(n for n in range(4))
        found = any(n > 2 for n in iter(range(10**9)))  # stops at the first
    assert (words, total, found) == (["A", "C"], 6, True)
    assert capsys.readouterr().out == "2\n"
    assert t.rewritten
    assert t.toy.program == []


@pytest.mark.parametrize("start", [1, 5])
def test_a_name_unset_in_one_branch(start: int) -> None:
    with Trace() as t:
        x = t.input(start)
        if x > 3:
            y = x
    assert plain(y) == (5 if start == 5 else UNBOUND)


def test_the_use_of_an_unset_name_is_a_name_error() -> None:
    def used(start: int) -> Any:
        with Trace() as t:
            x = t.input(start)
            if x > 3:
                y = x
            z = y + 1
        return plain(z)

    assert used(5) == 6
    with pytest.raises(NameError):
        used(1)


def test_an_error_in_the_branch_not_taken() -> None:
    def checked(start: int) -> Any:
        with Trace() as t:
            x = t.input(start)
            if x > 3:
                raise ValueError("too large")
            assert x != 0, "zero"
            y = x + 1
        return plain(y)

    assert checked(1) == 2
    with pytest.raises(ValueError, match="too large"):
        checked(5)
    with pytest.raises(AssertionError, match="zero"):
        checked(0)


def test_a_branch_that_raises_has_no_say() -> None:
    with Trace() as t:
        x = t.input(1)
        if x > 3:
            raise ValueError("too large")
        else:
            y = x
        z = y + 1
    assert plain(z) == 2
    assert not any(line[0] == "bound" for line in t.toy.program)


def test_an_error_caught_in_its_own_branch_is_pythons() -> None:
    with Trace() as t:
        x = t.input(5)
        if x > 3:
            try:
                raise ValueError("x")
            except ValueError:
                y = 1
        else:
            y = 2
    assert plain(y) == 1


def test_an_alias_of_a_list_appended_in_a_loop() -> None:
    first: list[Any] = []
    second = first
    with Trace() as t:
        for v in t.input([1, 2, 3]):
            first.append(v)
            second.append(v * 10)
    assert first == second == [1, 10, 2, 20, 3, 30]
    assert first is second


def test_a_list_of_the_module() -> None:
    LOG.clear()
    with Trace() as t:
        for v in t.input([1, 2, 3]):
            if v > 1:
                LOG.append(v)
    assert LOG == [2, 3]


def test_a_dict_a_set_and_an_augmented_list() -> None:
    counts: dict[Any, Any] = {}
    seen: set[Any] = set()
    grown = [0]
    kept = grown
    with Trace() as t:
        for v in t.input([1, 2, 1]):
            counts[v] = v
            seen.add(v)
            grown += [v]
        grown += [9]
    assert (counts, seen, grown) == ({1: 1, 2: 2}, {1, 2}, [0, 1, 2, 1, 9])
    assert kept is grown


def test_a_list_made_in_the_branch_that_changes_it() -> None:
    with Trace() as t:
        x = t.input(5)
        if x > 3:
            parts = [x]
            parts.append(x + 1)
            y = parts
        else:
            y = 0
    assert plain(y) == [5, 6]


def test_an_unnamed_container_is_refused() -> None:
    holder = {"k": [1]}
    with pytest.raises(RecordError, match="a list is changed inside a traced branch") as caught:
        with Trace() as t:
            x = t.input(5)
            if x > 3:
                holder["k"].append(x)
    assert holder == {"k": [1]}
    assert caught.traceback[-1].lineno + 1 == line_of("holder[\"k\"].append")


def test_a_container_reached_through_a_name_of_the_branch_is_refused() -> None:
    holder = {"k": [1]}
    with pytest.raises(RecordError, match="a list is changed"):
        with Trace() as t:
            if t.input(5) > 3:
                inner = holder["k"]
                inner.append(2)
    assert holder == {"k": [1]}


def test_an_attribute_set_in_an_untaken_branch_is_refused() -> None:
    class Box:
        x = 0

    box, recorded = Box(), Recorded()
    with pytest.raises(RecordError, match="an attribute of a Box"):
        with Trace() as t:
            if t.input(1) > 3:
                box.x = 1
    assert box.x == 0
    with Trace() as t:
        box.x = 3
        if t.input(1) > 3:
            recorded.output = 1
    assert box.x == 3


def test_a_swallowed_refusal_still_fails_the_trace() -> None:
    class Box:
        x = 0

    box = Box()
    with pytest.raises(RecordError, match="an attribute of a Box"):
        with Trace() as t:
            try:
                if t.input(1) > 3:
                    box.x = 1
            except Exception:
                pass


def test_a_module_chosen_by_a_condition_is_refused_where_it_is_used() -> None:
    one, two = object(), object()
    with Trace() as t:
        if t.input(1) > 3:
            layer = one
        else:
            layer = two
    with pytest.raises(RecordError, match="which object `layer` is"):
        with Trace() as t:
            if t.input(1) > 3:
                layer = one
            else:
                layer = two
            print(layer)
    with pytest.raises(RecordError, match="depends on a traced condition"):
        with Trace() as t:
            layer = one if t.input(1) > 3 else two


def test_the_same_object_in_both_branches_is_no_choice() -> None:
    one = object()
    with Trace() as t:
        if t.input(1) > 3:
            layer = one
        else:
            layer = one
        same = layer is one
    assert same is True
    assert t.toy.merged == []


def test_a_refused_name_is_no_obstacle_inside_a_loop() -> None:
    layers = [object(), object()]
    with Trace() as t:
        for v in t.input([1, 2]):
            layer = layers[0]
            kept = v + (1 if layer is layers[0] else 0)
    assert plain(kept) == 3


def test_none_that_a_loop_replaces() -> None:
    best = None
    with Trace() as t:
        for v in t.input([3, 7, 5]):
            if best is None or v > best:
                best = v
    assert plain(best) == 7


@pytest.mark.parametrize("values", [[], [1, 2], [1, 9, 2]])
def test_for_with_break_and_else(values: list[int]) -> None:
    with Trace() as t:
        for v in t.input(values):
            if v > 5:
                found = v
                break
        else:
            found = -1
    assert plain(found) == (9 if 9 in values else -1)


def test_while_on_a_traced_condition() -> None:
    turns = 0
    with Trace() as t:
        n = t.input(13)
        while n > 1:
            turns += 1
            if n % 2 == 0:
                n = n - n % 7
            else:
                n = n - 3
    expected, count = 13, 0
    while expected > 1:
        count += 1
        expected = expected - expected % 7 if expected % 2 == 0 else expected - 3
    assert (plain(n), plain(turns)) == (expected, count)


def test_while_true_left_on_a_traced_condition() -> None:
    i = 0
    with Trace() as t:
        limit = t.input(4)
        while True:
            i += 1
            if i >= limit:
                break
    assert plain(i) == 4


def test_an_endless_loop_left_on_a_traced_condition_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nnsight_graph.record.control.regions._ENDLESS", 20)
    with pytest.raises(RecordError, match="a loop without an end"):
        with Trace() as t:
            for i in iter(int, 1):
                if t.input(1) > i:
                    break


def test_steps_in_with_and_for() -> None:
    out: list[Any] = []
    with Trace() as t:
        with t.steps as step:
            out.append(step)
        for step in t.steps:
            out.append(step * 10)
        with t.iter(t.input([7, 8])) as item:
            out.append(item)
    assert out == [0, 1, 2, 0, 10, 20, 7, 8]


def test_comprehensions() -> None:
    with Trace() as t:
        xs, n = t.input([1, 2, 3]), t.input(2)
        nested = [[a * b for b in xs if b > n] for a in xs]
        flat = [a * b for a in xs if a != n for b in range(a)]
        pairs = {a: a + 1 for a in xs if a > 1}
        squares = {a * a for a in xs}
        last = [(kept := a) for a in xs]
        mixed = [a for a in [1, n, 3] if a > 1]
        texts = [str(a) for a in (1, 2)]
    assert plain(nested) == [[3], [6], [9]]
    assert plain(flat) == [0, 0, 3, 6]
    assert (plain(pairs), plain(squares)) == ({2: 3, 3: 4}, {1, 4, 9})
    assert (plain(last), plain(kept), plain(mixed), texts) == ([1, 2, 3], 3, [2, 3], ["1", "2"])


def test_a_lazy_generator_is_refused() -> None:
    def consume(values: Any) -> list[Any]:
        return list(values)

    with pytest.raises(RecordError, match="iterated over natively"):
        with Trace() as t:
            xs = t.input([1, 2])
            y = 1 if xs[0] > 0 else 2
            z = consume(x for x in xs)


@pytest.mark.parametrize(("a", "b"), [(1, 2), (5, 0), (0, 0)])
def test_expressions(a: int, b: int) -> None:
    with Trace() as t:
        x, y = t.input(a), t.input(b)
        found = [x and y, x or y, not x, 0 < x < y < 3, 1 if x else 2, x in [1, y], x not in (5,), x is None, x is not None]
        count = len(t.input([a, b])), int(x), bool(y), max([x, y]), sorted([x, y]), abs(x), sum([x, y]), any([x, y]), all([x, y])
    expected = [a and b, a or b, not a, 0 < a < b < 3, 1 if a else 2, a in [1, b], a not in (5,), False, True]
    assert plain(found) == expected
    assert plain(count) == (2, a, bool(b), max(a, b), sorted([a, b]), a, a + b, bool(a or b), bool(a and b))


def test_save_of_what_cannot_save_itself() -> None:
    with Trace() as t:
        x = t.input(1)
        pair = [x, x].save()  # type: ignore[attr-defined]
        empty = list().save()  # type: ignore[attr-defined]  # noqa: C408
    assert t.toy.saved == [[x, x], []]
    with Trace(scan=True) as t:
        number = (1 + 2).save()  # type: ignore[attr-defined]
    assert t.toy.saved == [3]


def test_a_traced_index_of_a_plain_list() -> None:
    table = [10, 20, 30]
    with Trace() as t:
        i = t.input(1)
        y = table[i] if i < 3 else 0
    assert plain(y) == 20


def line_of(text: str) -> int:
    with open(__file__, encoding="utf-8") as file:
        return next(number for number, line in enumerate(file, 1) if line.strip().startswith(text))
