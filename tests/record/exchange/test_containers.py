"""What names reach is exchanged: by the containers' own methods, without running anybody's code, and never by half."""

from __future__ import annotations

import argparse
import collections
import dataclasses
import enum
import sys
import threading
import types
from typing import Any, NamedTuple

import pytest

from .blocks import Block, StandIn

pytestmark = pytest.mark.torch_free


class Pair(NamedTuple):
    first: Any
    second: Any


@dataclasses.dataclass
class Open:
    x: Any
    y: Any = 0


@dataclasses.dataclass(frozen=True)
class Frozen:
    x: Any


@dataclasses.dataclass(frozen=True)
class Key:
    layer: int


class Slots:
    __slots__ = ("__dict__", "a", "unset")


class Below(Slots):
    __slots__ = ("b",)


class Layer(enum.Enum):
    ONE = 1


class MyList(list):
    pass


def test_a_list_and_what_stands_in_it():
    numbers: list[Any] = [0]
    deep: dict[str, Any] = {"a": [{"b": []}]}
    with Block() as block:
        numbers.append(block.save(1))
        numbers += [block.save(2)]
        deep["a"][0]["b"].append((block.save(3), [block.save(4)]))
    assert numbers == [0, 1, 2]
    assert deep == {"a": [{"b": [(3, [4])]}]}


def test_what_is_made_in_the_block():
    with Block() as block:
        made = {"h": block.save(1), "deep": [{"again": block.save(2)}], "same": (three := block.save(3), three)}
        listed = [block.save(number) for number in range(5)]
        pairs = dict(zip("ab", (block.save(6), block.save(7)), strict=True))
    assert made == {"h": 1, "deep": [{"again": 2}], "same": (3, 3)}
    assert (listed, pairs) == ([0, 1, 2, 3, 4], {"a": 6, "b": 7})


@pytest.mark.parametrize("make", [
    lambda one, two: collections.defaultdict(list, a=one, b=[two]),
    lambda one, two: collections.OrderedDict(z=one, a=[two]),
    lambda one, two: collections.deque([one, [two]]),
    lambda one, two: collections.Counter(a=one, b=two),
    lambda one, two: MyList([one, {"a": two}]),
    lambda one, two: Pair(one, Pair([two], None)),
    lambda one, two: (one, (two, (one,))),
    lambda one, two: Open(one, [two]),
    lambda one, two: Frozen((one, two)),
    lambda one, two: types.SimpleNamespace(a=one, b=two),
    lambda one, two: argparse.Namespace(a=one, b=[two]),
    lambda one, two: {Layer.ONE: one, Key(2): two, (1, "a"): [one]},
    lambda one, two: [None, 1.5, "text", b"bytes", one, two, print, len, int, Layer.ONE],
])  # fmt: skip
def test_kinds_of_containers(make):
    one, two = [1], "two"
    with Block() as block:
        made = make(block.save(one), block.save(two))
    right = make(one, two)
    assert type(made) is type(right)
    assert made == right


def test_the_order_of_a_dict_stays():
    ordered: Any = collections.OrderedDict(a=0, b=0, c=0)
    with Block() as block:
        ordered["b"] = block.save(1)
        ordered["d"] = block.save(2)
    assert list(ordered.items()) == [("a", 0), ("b", 1), ("c", 0), ("d", 2)]
    ordered.move_to_end("a")
    assert list(reversed(ordered)) == ["a", "d", "c", "b"]


def test_slots_and_attributes():
    made: Any = Below()
    with Block() as block:
        made.a, made.b, made.c = block.save(1), (block.save(2),), [block.save(3)]
    assert (made.a, made.b, made.c) == (1, (2,), [3])
    assert not hasattr(made, "unset")


def test_attributes_of_an_object_whose_method_holds_the_block():
    class Probe:
        def __init__(self) -> None:
            self.found: dict[str, Any] = {}
            self.last: Any = None

        def run(self) -> None:
            with Block() as block:
                self.last = block.save(1)
                self.found["x"] = [block.save(2)]

    probe = Probe()
    probe.run()
    assert (probe.last, probe.found) == (1, {"x": [2]})


def test_what_a_function_that_the_block_calls_keeps():
    kept: list[Any] = []

    def keep(value: Any) -> None:
        kept.append(value)
        STORE["x"] = value

    with Block() as block:
        keep(block.save(1))
    assert kept == [1]
    assert STORE == {"x": 1}


STORE: dict[str, Any] = {}


def test_the_same_object_stays_the_same():
    shared: list[Any] = []
    value = object()
    with Block() as block:
        shared.append(block.save(value))
        pair = (block.save(value), shared)
        again = pair
        both = [shared, shared, pair]
    assert again is pair
    assert both[2] is pair
    assert both[0] is both[1] is shared is pair[1]
    assert shared[0] is value


def test_cycles():
    loop: list[Any] = []
    mapping: dict[str, Any] = {"self": loop}
    with Block() as block:
        loop += [block.save(1), loop, mapping, (loop, block.save(2))]
    assert (loop[0], loop[3][1]) == (1, 2)
    assert loop[1] is loop is loop[3][0] is mapping["self"]


def test_equal_numbers_in_one_set():
    with Block() as block:
        found = {block.save(3), block.save(3.0), 2, "text"}
        frozen = frozenset((block.save(4), 5))
        assert len(found) == 4
    assert found == {3, 2, "text"}
    assert frozen == {4, 5}


def test_keys_of_a_dict():
    with Block() as block:
        found = {"a": 0, block.save("k"): block.save(1), (block.save(2), "x"): 3, "z": 4}
        ordered = collections.OrderedDict([("a", 0), (block.save("b"), 1), ("c", 2)])
    assert list(found.items()) == [("a", 0), ("k", 1), ((2, "x"), 3), ("z", 4)]
    assert (list(ordered), list(reversed(ordered))) == (["a", "b", "c"], ["c", "b", "a"])


def test_what_has_no_hash_stays_a_stand_in():
    with Block() as block:
        among = {block.save([3]), "x"}
        keys = {block.save([4]): 1, "z": block.save(2)}
        frozen = (frozenset((block.save([5]),)), block.save(6))
    assert {type(item) for item in among} == {StandIn, str}
    assert ({type(item) for item in keys}, keys["z"]) == ({StandIn, str}, 2)
    assert ({type(item) for item in frozen[0]}, frozen[1]) == ({StandIn}, 6)


class Guarded:
    """An object that lets nobody look at it by the ordinary ways."""

    def __init__(self) -> None:
        vars(self)["held"] = None

    def _refuse(self, *_: Any) -> Any:
        raise AssertionError("code of the user's ran")

    __getattr__ = __iter__ = __len__ = __contains__ = __eq__ = __hash__ = __repr__ = _refuse
    held_property = property(_refuse)

    def __setattr__(self, name: str, value: Any) -> None:
        self._refuse()


class GuardedList(list):
    __iter__ = __len__ = __getitem__ = __setitem__ = __reversed__ = Guarded._refuse


class GuardedDict(dict):
    __iter__ = __len__ = __getitem__ = __setitem__ = keys = values = items = get = Guarded._refuse


def test_no_code_of_the_users_runs():
    guarded, listed, mapped = Guarded(), GuardedList(), GuardedDict()
    plain: list[Any] = []
    with Block() as block:
        vars(guarded)["held"] = block.save(1)
        list.append(listed, block.save(2))
        dict.__setitem__(mapped, "a", block.save(3))
        plain += [guarded, listed, mapped]
        keys = {Key(1): block.save(4)}
    assert vars(guarded)["held"] == 1
    assert list.__getitem__(listed, 0) == 2
    assert dict.__getitem__(mapped, "a") == 3
    assert keys == {Key(1): 4}


class Counting:
    asked = 0

    def __hash__(self) -> int:
        Counting.asked += 1
        return 1


def test_a_key_with_a_hash_of_its_own_is_not_asked():
    key = Counting()
    with Block() as block:
        found = {key: block.save(1)}
        among = {key, block.save(2)}
        asked = Counting.asked
    assert Counting.asked == asked
    assert ({type(one) for one in found.values()}, {type(one) for one in among}) == ({StandIn}, {StandIn, Counting})


def test_a_list_that_another_thread_iterates():
    shared: list[Any] = [0] * 50
    stop = False
    errors: list[BaseException] = []

    def iterate() -> None:
        try:
            while not stop:
                for _ in shared:
                    pass
                for _ in list(mapped.items()):
                    pass
        except BaseException as error:
            errors.append(error)

    mapped: dict[int, Any] = dict.fromkeys(range(50))
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    thread = threading.Thread(target=iterate)
    thread.start()
    try:
        for number in range(300):
            with Block() as block:
                shared[number % 50] = block.save(number)
                mapped[number % 50] = block.save(number)
            assert shared[number % 50] == mapped[number % 50] == number
    finally:
        stop = True
        thread.join()
        sys.setswitchinterval(before)
    assert not errors


def test_classes_and_modules_are_not_looked_into():
    class Store:
        kept: list[Any] = []  # noqa: RUF012

    with Block() as block:
        Store.kept.append(block.save(1))
        sys.kept_here = [block.save(2)]
    try:
        assert type(Store.kept[0]) is StandIn
        assert type(sys.kept_here[0]) is StandIn
    finally:
        del sys.kept_here


def test_nothing_is_walked_when_all_is_found():
    class Trap(list):
        pass

    large: list[Any] = [[StandIn(1)] for _ in range(5)]
    with Block() as block:
        found = block.save(2)
        _ = large
    assert found == 2
    assert all(type(one[0]) is StandIn for one in large)  # of other blocks, which nobody looked for


def test_the_newest_of_a_large_list_is_found():
    large: list[Any] = [{"n": number} for number in range(50_000)]
    floats: list[Any] = [0.5] * 500_000
    with Block() as block:
        large.append({"n": block.save(1)})
        floats.append(block.save(2))
    assert large[-1] == {"n": 1}
    assert floats[-1] == 2


def test_enough_is_enough():
    large: list[Any] = [[] for _ in range(50_000)]
    with Block() as block:
        large[0].append(block.save(1))
    assert type(large[0][0]) is StandIn
    with Block() as block:
        large[0].append(block.save(2))
        near = large[0]
    assert near == [1, 2]
