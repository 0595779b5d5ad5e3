"""Arithmetic problems with worked traces, from reasoning-gym's families, in splits that cannot overlap.

The problem, its answer and its difficulty come from reasoning-gym; what is ours is the way a person would write the
solution down, in three styles:

    direct   the answer alone
    pairs    two additions a line:  7+5+8=20, 20+3+9=32, …
    steps    one addition a line:   7+5=12, 12+8=20, …

A problem belongs to the split that a hash of its *sorted* terms falls into, so no held-out problem is seen in
training, in whatever order its terms stand: `7+5+8` and `8+7+5` are on the same side.
"""

import hashlib
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

SPLIT_BUCKETS = {"train": range(0, 8), "validation": range(8, 9), "test": range(9, 10)}
NUM_BUCKETS = 10
STYLES = ("direct", "pairs", "steps")
FAMILIES = {  # family of reasoning-gym -> the parameters without which its problems are not chains of sums
    "basic_arithmetic": {"operators": ["+"], "allow_parentheses": False, "allow_negation": False},
}
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
    def split(self) -> str:
        """The only split in which this problem, or any reordering of its terms, can appear."""
        digest = hashlib.sha256(repr(sorted(self.terms)).encode()).digest()
        bucket = int.from_bytes(digest[:8], "big") % NUM_BUCKETS
        return next(split for split, buckets in SPLIT_BUCKETS.items() if bucket in buckets)


def problems(
    family: str, num_problems: int, split: str, seed: int, parameters: Mapping[str, object] | None = None
) -> Iterator[Problem]:
    """Yields `num_problems` distinct problems of one split; the same arguments give the same problems.

    Raises ValueError if the family has too few distinct problems in that split.
    """
    import reasoning_gym

    # reasoning-gym draws item i of seed s from Random(s + i): neighbouring seeds share nearly all items. Hash ours.
    source_seed = int.from_bytes(hashlib.sha256(f"{family}/{split}/{seed}".encode()).digest()[:6], "big")
    max_draws = 1000 * num_problems  # a split is a tenth of the problems or more; past this the family is exhausted
    dataset = reasoning_gym.create_dataset(
        family, seed=source_seed, size=max_draws, **{**FAMILIES[family], **(parameters or {})}
    )
    seen: set[tuple[int, ...]] = set()
    for index in range(max_draws):
        item = dataset[index]
        terms = tuple(int(term) for term in item["metadata"]["expression"].split(" + "))
        problem = Problem(terms, item["answer"])
        if terms in seen or problem.split != split:
            continue
        seen.add(terms)
        yield problem
        if len(seen) == num_problems:
            return
    raise ValueError(f"{family} has only {len(seen)} distinct {split} problems here; {num_problems} were asked for")


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


def draw_styles(styles: Mapping[str, float], num_problems: int, seed: int) -> list[str]:
    """A style for each problem, drawn with the weights of `styles`."""
    rng = random.Random(f"styles/{seed}")
    return rng.choices(list(styles), weights=list(styles.values()), k=num_problems)
