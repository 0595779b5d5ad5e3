"""Small Python programs with tests: read a number, do to it what the question says, step by step, print it.

A question is `n: take 3, times 5, over 2, add 9`, and a solution is written in one of two styles:

    direct   one expression:   print((int(input())-3)*5//2+9), with no more parentheses than it needs
    steps    a line a step:    n=int(input())  n=n-3  n=n*5  n=n//2  n=n+9  print(n)

Neither thinks. What a program should print is computed here from the steps; no program is run to find it out.
"""

import operator
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

STYLES = ("direct", "steps")
ORIGIN = "tiny_programs"  # as a mistake in a recipe's parameters names it
COLUMNS = ("text", "prompt", "completion", "solution", "verification_info")
# Each word ends in another letter, so that the letter before a number tells what to do with it: a model that has never
# read words learns that within a cold start.
OPERATIONS: dict[str, Callable[[int, int], int]] = {
    "add": operator.add,
    "take": operator.sub,
    "times": operator.mul,
    "over": operator.floordiv,
}
SYMBOLS = {"add": "+", "take": "-", "times": "*", "over": "//"}
BIND_LOOSELY = ("add", "take")
OPERANDS = range(2, 10)
INPUTS = range(0, 1000)
NUM_TESTS = 3  # each is one run of the program in the sandbox
MAX_DRAWS_OF_INPUTS = 5  # some tasks are never told from all of their neighbours, e.g. `over 9, over 9, over 9, add 2`


@dataclass(frozen=True)
class Step:
    """One thing to do to n: a word of OPERATIONS, and the number that goes with it."""

    word: str
    operand: int

    @property
    def code(self) -> str:
        return f"{SYMBOLS[self.word]}{self.operand}"


ALL_STEPS = tuple(Step(word, operand) for word in OPERATIONS for operand in OPERANDS)


@dataclass(frozen=True)
class Problem:
    """What to do to n, in order, and the numbers with which a program is tested; those make it no other problem."""

    steps: tuple[Step, ...]
    inputs: tuple[int, ...] = field(compare=False)

    @property
    def question(self) -> str:
        return "n: " + ", ".join(f"{step.word} {step.operand}" for step in self.steps)

    @property
    def unordered(self) -> list[tuple[str, int]]:
        return sorted((step.word, step.operand) for step in self.steps)

    @property
    def test_cases(self) -> list[dict[str, str]]:
        """As `verification_info` has them: stdin and what a right program writes to stdout."""
        return [
            {"type": "stdin_stdout", "input": f"{n}\n", "output": f"{result(self.steps, n)}\n"} for n in self.inputs
        ]


def result(steps: Sequence[Step], n: int) -> int:
    """What a right program prints for n."""
    for step in steps:
        n = OPERATIONS[step.word](n, step.operand)
    return n


def parameter_names() -> list[str]:
    """The parameters that a recipe can give: those of `draw`."""
    return ["num_steps"]


def draw(seed: int, max_draws: int, num_steps: int = 4) -> Iterator[Problem]:
    """Yields at most `max_draws` problems; some may come twice.

    The tests of each tell it from every task that differs in one step, and a program that always prints the same passes
    at most one of them. What no drawn inputs can test that well is not asked.
    """
    rng = random.Random(seed)
    for _ in range(max_draws):
        steps = tuple(rng.choices(ALL_STEPS, k=num_steps))
        for _ in range(MAX_DRAWS_OF_INPUTS):
            inputs = tuple(rng.sample(INPUTS, NUM_TESTS))
            if _are_telling(steps, inputs):
                yield Problem(steps, inputs)
                break


def neighbours(steps: tuple[Step, ...]) -> Iterator[tuple[Step, ...]]:
    """All tasks that differ in one step, which is another one or is left out."""
    for index, step in enumerate(steps):
        before, after = steps[:index], steps[index + 1 :]
        yield before + after
        yield from ((*before, other, *after) for other in ALL_STEPS if other != step)


def _are_telling(steps: tuple[Step, ...], inputs: tuple[int, ...]) -> bool:
    expected = {n: result(steps, n) for n in inputs}
    if len(set(expected.values())) < len(inputs):
        return False
    return all(any(result(other, n) != expected[n] for n in inputs) for other in neighbours(steps))


def program(problem: Problem, style: str) -> str:
    """A Python program that solves the problem."""
    if style == "direct":
        return f"print({_expression(problem.steps)})"
    return "\n".join(["n=int(input())", *(f"n=n{step.code}" for step in problem.steps), "print(n)"])


def _expression(steps: Sequence[Step]) -> str:
    text, binds_loosely = "int(input())", False
    for step in steps:
        if binds_loosely and step.word not in BIND_LOOSELY:
            text = f"({text})"
        text, binds_loosely = text + step.code, step.word in BIND_LOOSELY
    return text


def row(problem: Problem, style: str) -> dict[str, Any]:
    """The problem with its solution in one style, under the names of COLUMNS."""
    code = program(problem, style)
    content = f"<think></think><answer>```py\n{code}\n```</answer>"
    return {
        "text": f"{problem.question}\n{code}",
        "prompt": [{"role": "user", "content": problem.question}],
        "completion": [{"role": "assistant", "content": content}],
        "solution": code,
        "verification_info": {"language": "python", "test_cases": problem.test_cases},
    }
