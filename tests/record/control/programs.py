"""Random nested programs on integers and lists."""

from __future__ import annotations

import random
from collections.abc import Callable


class Writer:
    """Writes the lines of one program; `Random(seed)` decides."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.serial = 0
        self.lines: list[str] = []

    def program(self) -> str:
        for _ in range(self.random.randint(2, 5)):
            self.statement(2, 3, False)
        head = ["def program(trace, make):", "    a, b, xs = make(2), make(-1), make([3, 1, 2])", "    c, s, ys = 4, 'x', [5, 6]"]
        return "\n".join([*head, "    out = []", "    alias = out", "    with trace as t:", *self.lines, "    return dict(locals())", ""])

    def put(self, depth: int, text: str) -> None:
        self.lines.append("    " * depth + text)

    def name(self) -> str:
        return self.random.choice("abcde")

    # ------------------------------------------------------------------ expressions

    def number(self, depth: int = 2) -> str:
        pick = self.random.randint(0, 13 if depth else 2)
        inner = lambda: self.number(depth - 1)  # noqa: E731
        if pick <= 1:
            return self.random.choice("aabbc")
        forms: list[Callable[[], str]] = [
            lambda: str(self.random.randint(-2, 5)),
            lambda: f"({inner()} + {inner()})",
            lambda: f"({inner()} - {inner()})",
            lambda: f"(({inner()} * {inner()}) % 7)",
            lambda: f"({inner()} if {self.test(depth - 1)} else {inner()})",
            lambda: f"len({self.collection(depth - 1)})",
            lambda: f"sum({self.comprehension(depth - 1)})",
            lambda: f"abs({inner()})",
            lambda: f"max({inner()}, {inner()})",
            lambda: f"({self.name()} := {inner()})",
            lambda: f"sum({inner()} for q in {self.collection(depth - 1)} if {self.test(0)})",
            lambda: f"({inner()} and {inner()})",
        ]
        return forms[pick - 2]()

    def test(self, depth: int = 1) -> str:
        pick = self.random.randint(0, 8 if depth > 0 else 2)
        inner = lambda: self.test(depth - 1)  # noqa: E731
        compare = self.random.choice(["<", ">", "<=", "==", "!="])
        forms: list[Callable[[], str]] = [
            lambda: f"{self.number(0)} {compare} {self.number(0)}",
            lambda: f"{self.number(0)} % 3 {compare} {self.number(0)}",
            lambda: f"{self.number(0)} < {self.number(0)} <= {self.number(0)}",
            lambda: f"not {inner()}",
            lambda: f"({inner()} and {inner()})",
            lambda: f"({inner()} or {inner()})",
            lambda: f"{self.number(0)} in {self.collection(0)}",
            lambda: f"any({self.test(0)} for p in {self.collection(0)} if p > {self.number(0)})",
            lambda: f"all(p {compare} {self.number(0)} for p in {self.collection(0)})",
        ]
        return forms[pick]()

    def collection(self, depth: int = 1) -> str:
        pick = self.random.randint(0, 7 if depth > 0 else 4)
        if pick == 7:
            return self.comprehension(depth - 1)
        forms = ["xs", "ys", "range(3)", f"[{self.number(0)}, {self.number(0)}]", f"range({self.number(0)} % 4)", "sorted(xs)"]
        return forms[min(pick, len(forms) - 1)]

    def comprehension(self, depth: int) -> str:
        where = f" if {self.test(0)}" if self.random.random() < 0.4 else ""
        second = f" for w in {self.collection(0)}" if self.random.random() < 0.3 else ""
        return f"[v + {self.number(max(depth, 0))} for v in {self.collection(0)}{second}{where}]"

    # ------------------------------------------------------------------ statements

    def body(self, depth: int, budget: int, loop: bool) -> None:
        for _ in range(self.random.randint(1, 3)):
            self.statement(depth, budget - 1, loop)

    def statement(self, depth: int, budget: int, loop: bool) -> None:
        simple = [self.assign, self.assign, self.grow, self.append]
        nested = [self.branch, self.branch, self.loop, self.loop, self.while_, self.guard, self.steps]
        if loop and self.random.random() < 0.3:
            self.jump(depth)
        elif budget <= 0 or self.random.random() < 0.45:
            self.random.choice(simple)(depth)
        else:
            self.random.choice(nested)(depth, budget, loop)

    def assign(self, depth: int) -> None:
        if self.random.random() < 0.15:
            self.put(depth, f"{self.name()}, {self.name()} = {self.number(1)}, {self.number(1)}")
        else:
            self.put(depth, f"{self.name()} = {self.number()}")

    def grow(self, depth: int) -> None:
        self.put(depth, f"{self.random.choice('abc')} += {self.number(1)}")

    def append(self, depth: int) -> None:
        lines = [f"{name}.append({self.number(1)})" for name in ("out", "alias", "ys")] + [f"out += [{self.number(1)}]"]
        self.put(depth, self.random.choice([*lines, f"xs = {self.comprehension(1)}[:4]"]))

    def jump(self, depth: int) -> None:
        self.put(depth, f"if {self.test()}:")
        if self.random.random() < 0.3:
            self.assign(depth + 1)
        self.put(depth + 1, self.random.choice(["break", "continue"]))

    def branch(self, depth: int, budget: int, loop: bool) -> None:
        self.put(depth, f"if {self.test()}:")
        self.body(depth + 1, budget, loop)
        if self.random.random() < 0.3:
            self.put(depth, f"elif {self.test()}:")
            self.body(depth + 1, budget, loop)
        if self.random.random() < 0.6:
            self.put(depth, "else:")
            self.body(depth + 1, budget, loop)

    def loop(self, depth: int, budget: int, loop: bool) -> None:
        self.serial += 1
        target = self.random.choice([f"i{self.serial}", "d", "e"])
        source = self.random.choice(["xs", "list(ys)[:3]", "range(2)", f"range({self.number(0)} % 4)", "enumerate(xs)", "(1, 2)"])
        self.put(depth, f"for {target}, {target}x in {source}:" if "enum" in source else f"for {target} in {source}:")
        self.body(depth + 1, budget, True)
        self.otherwise(depth, budget, loop)

    def while_(self, depth: int, budget: int, loop: bool) -> None:
        self.serial += 1
        count = f"k{self.serial}"
        self.put(depth, f"{count} = 0")
        test = self.random.choice([f"{count} < 3", f"{count} < 3 and {self.test()}", f"{count} < {self.number(0)} % 4", "True"])
        self.put(depth, f"while {test}:")
        self.put(depth + 1, f"{count} += 1")
        if test == "True":
            self.put(depth + 1, f"if {count} > {self.random.choice(['2', 'abs(a) % 3'])}:")
            self.put(depth + 2, "break")
        self.body(depth + 1, budget, True)
        self.otherwise(depth, budget, loop)

    def otherwise(self, depth: int, budget: int, loop: bool) -> None:
        if self.random.random() < 0.25:
            self.put(depth, "else:")
            self.body(depth + 1, budget - 1, loop)

    def guard(self, depth: int, budget: int, loop: bool) -> None:
        self.put(depth, "try:")
        self.body(depth + 1, budget, loop)
        self.put(depth, "finally:")
        self.body(depth + 1, 0, False)

    def steps(self, depth: int, budget: int, loop: bool) -> None:
        self.serial += 1
        self.put(depth, f"with t.all() as n{self.serial}:" if self.random.random() < 0.5 else f"with t.iter(xs) as n{self.serial}:")
        self.body(depth + 1, budget, False)
