"""Problems that the computer makes, with worked solutions in several styles, in splits that cannot overlap.

A family is a module of this package: sums from reasoning-gym and explanations of them, small programs, small talk. It
draws problems and writes their solutions down; which split a problem belongs to, and that none comes twice, is decided
here.

A problem belongs to the split that a hash of its `unordered` parts falls into, so no held-out problem is seen in
training, in whatever order its parts stand: `7+5+8` and `8+7+5` are on the same side.
"""

import hashlib
import random
from collections.abc import Hashable, Iterator, Mapping
from types import ModuleType
from typing import Any, Protocol

from open_r1.procedural import chat, explanations, programs, sums
from open_r1.recipe import Procedural

FAMILIES: dict[str, ModuleType] = {
    "basic_arithmetic": sums,
    "tiny_programs": programs,
    "tiny_chat": chat,
    "tiny_explanations": explanations,
}
SPLIT_BUCKETS = {"train": range(0, 8), "validation": range(8, 9), "test": range(9, 10)}
NUM_BUCKETS = 10


class Problem(Protocol):
    """What every family's problems have; equal ones are the same problem."""

    question: str
    unordered: Hashable
    """The problem's parts in an order that all its reorderings share; its `repr` decides the split."""


def split_of(problem: Problem) -> str:
    """The only split in which this problem, or any reordering of its parts, can appear."""
    digest = hashlib.sha256(repr(problem.unordered).encode()).digest()
    bucket = int.from_bytes(digest[:8], "big") % NUM_BUCKETS
    return next(split for split, buckets in SPLIT_BUCKETS.items() if bucket in buckets)


def problems(
    family: str, num_problems: int, split: str, seed: int, parameters: Mapping[str, object] | None = None
) -> Iterator[Problem]:
    """Yields `num_problems` distinct problems of one split; the same arguments give the same problems.

    Raises ValueError if the family has too few distinct problems in that split.
    """
    # reasoning-gym draws item i of seed s from Random(s + i): neighbouring seeds share nearly all items. Hash ours.
    source_seed = int.from_bytes(hashlib.sha256(f"{family}/{split}/{seed}".encode()).digest()[:6], "big")
    max_draws = 1000 * num_problems  # a split is a tenth of the problems or more; past this the family is exhausted
    seen: set[Problem] = set()
    for problem in FAMILIES[family].draw(source_seed, max_draws, **(parameters or {})):
        if problem in seen or split_of(problem) != split:
            continue
        seen.add(problem)
        yield problem
        if len(seen) == num_problems:
            return
    raise ValueError(f"{family} has only {len(seen)} distinct {split} problems here; {num_problems} were asked for")


def rows(source: Procedural, recipe_seed: int = 0) -> Iterator[dict[str, Any]]:
    """Yields a recipe's problems as rows of the family's COLUMNS, each solved in a style drawn by weight."""
    seed = recipe_seed + source.seed
    made = list(problems(source.family, source.num_problems, source.split, seed, source.parameters))
    styles = source.styles or {FAMILIES[source.family].STYLES[-1]: 1.0}
    for problem, style in zip(made, draw_styles(styles, len(made), seed), strict=True):
        yield FAMILIES[source.family].row(problem, style)


def draw_styles(styles: Mapping[str, float], num_problems: int, seed: int) -> list[str]:
    """A style for each problem, drawn with the weights of `styles`."""
    rng = random.Random(f"styles/{seed}")
    return rng.choices(list(styles), weights=list(styles.values()), k=num_problems)
