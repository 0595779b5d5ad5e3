"""Sums with worked traces.

The problem, its answer and its difficulty come from reasoning-gym; what is ours is the way a person would write the
solution down, in three styles:

    direct   the answer alone
    pairs    two additions a line:  7+5+8=20, 20+3+9=32, …
    steps    one addition a line:   7+5=12, 12+8=20, …
"""

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

STYLES = ("direct", "pairs", "steps")
COLUMNS = ("text", "prompt", "completion", "solution")
FAMILY = "basic_arithmetic"
ORIGIN = f"reasoning-gym's {FAMILY}"  # as a mistake in a recipe's parameters names it
# The parameters without which the family's problems are not chains of sums.
FIXED_PARAMETERS = {"operators": ["+"], "allow_parentheses": False, "allow_negation": False}
ADDITIONS_PER_LINE = {"pairs": 2, "steps": 1}


@dataclass(frozen=True)
class Problem:
    """A sum: `terms` in the order in which they are asked, `answer` as reasoning-gym computed it."""

    terms: tuple[int, ...]
    answer: str

    @property
    def question(self) -> str:
        return "+".join(map(str, self.terms)) + "=?"

    @property
    def unordered(self) -> list[int]:
        return sorted(self.terms)


def parameter_names() -> list[str]:
    """The parameters that a recipe can give: those of reasoning-gym's family."""
    from reasoning_gym.factory import DATASETS  # costs a second; only recipes that use it pay

    _, config = DATASETS[FAMILY]
    return [name for name in inspect.signature(config).parameters if name not in ("seed", "size")]


def draw(seed: int, max_draws: int, **parameters: object) -> Iterator[Problem]:
    """Yields at most `max_draws` problems; some may come twice."""
    import reasoning_gym

    dataset = reasoning_gym.create_dataset(FAMILY, seed=seed, size=max_draws, **{**FIXED_PARAMETERS, **parameters})
    for index in range(max_draws):
        item = dataset[index]
        yield Problem(tuple(int(term) for term in item["metadata"]["expression"].split(" + ")), item["answer"])


def thinking(problem: Problem, style: str) -> str:
    """The worked lines of a solution, newline-separated; empty for `direct`."""
    if style == "direct":
        return ""
    total, *rest = problem.terms
    stride = ADDITIONS_PER_LINE[style]
    lines = []
    for start in range(0, len(rest), stride):
        group = rest[start : start + stride]
        left = "+".join(map(str, [total, *group]))
        total += sum(group)
        lines.append(f"{left}={total}")
    return "\n".join(lines)


def document(problem: Problem, style: str) -> str:
    """A plain text for pretraining: question, work, answer. No chat markup: the base model has never seen any."""
    return "\n".join(part for part in (problem.question, thinking(problem, style), f"={problem.answer}") if part)


def conversation(problem: Problem, style: str) -> dict[str, list[dict[str, str]]]:
    """A `prompt` and a `completion` of one message each, in the format that the `format` reward asks for."""
    content = f"<think>{thinking(problem, style)}</think><answer>\\boxed{{{problem.answer}}}</answer>"
    return {
        "prompt": [{"role": "user", "content": problem.question}],
        "completion": [{"role": "assistant", "content": content}],
    }


def row(problem: Problem, style: str) -> dict[str, Any]:
    """The problem with its solution in one style, under the names of COLUMNS."""
    return {"text": document(problem, style), **conversation(problem, style), "solution": problem.answer}
