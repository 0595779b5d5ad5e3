"""Explanations of sums, good and bad, with the score that each deserves: what a small judge learns from.

How good an explanation is can be measured: an answer explains its sum if it names every intermediate sum, in order, and
none besides. It is what the experimenter knows; no reward that a policy is trained on computes it, and whether the
answer is right at all is another question.
"""

import json
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from open_r1.procedural import sums
from open_r1.procedural.sums import Problem
from open_r1.rewards.completion import Completion, completion_text

# The three of the sums, and four ways to spoil the last of them: a wrong sum that is carried on, a line left out, two
# lines that have changed places, and an end before the end.
STYLES = ("direct", "pairs", "slip", "gap", "swap", "stop", "steps")
COLUMNS = ("prompt", "completion", "scores", "solution")
ORIGIN = "tiny_explanations"  # as a mistake in a recipe's parameters names it
PRINCIPLE, LOWEST, HIGHEST = "order", 1, 10
SLIPS = (-10, -2, -1, 1, 2, 10)
NAMED = re.compile(r"=(\d+)")
QUESTION = re.compile(r"(\d+(?:\+\d+)+)=\?")


def parameter_names() -> list[str]:
    """The parameters that a recipe can give: those of the sums."""
    return sums.parameter_names()


def parameter_problem(parameters: Mapping[str, object]) -> str | None:
    """What is wrong with a recipe's parameters, as `key: value is wrong; mend`; None if they make sums."""
    fewest = parameters.get("min_terms")
    return f"min_terms: {fewest} is no sum; give 2 or more" if isinstance(fewest, int) and fewest < 2 else None


def draw(seed: int, max_draws: int, **parameters: object) -> Iterator[Problem]:
    """Yields at most `max_draws` sums; some may come twice. Raises ValueError if one may have one term."""
    if problem := parameter_problem(parameters):
        raise ValueError(f"parameters.{problem}")
    return sums.draw(seed, max_draws, **parameters)


def explanation(problem: Problem, style: str) -> str:
    """The worked lines of a solution, good or spoiled, newline-separated; the same problem gives the same ones.

    Of a single line nothing can be swapped: it stays as it is.
    """
    rng = random.Random(f"{problem.question}/{style}")
    if style == "slip":
        return _with_slip(problem, rng)
    lines = sums.thinking(problem, style if style in sums.STYLES else "steps").split("\n")
    if style == "gap":
        del lines[rng.randrange(len(lines))]
    elif style == "swap" and len(lines) > 1:
        first = rng.randrange(len(lines) - 1)
        lines[first], lines[first + 1] = lines[first + 1], lines[first]
    elif style == "stop":
        lines = lines[: rng.randrange(1, len(lines))] if len(lines) > 1 else []
    return "\n".join(lines)


def share_explained(question: str, text: str) -> float | None:
    """How much of a sum's explanation is there, from 0 to 1, and how much else; None if the question asks for no sum.

    Intermediate sums count that are named in order, each after an equals sign in the thinking, and behind one that is
    left out none does; their number is divided by theirs or, if that is larger, by the number of all that are named. A
    thinking that never ends counts as far as it goes, and a text without one names nothing.
    """
    if (asked := QUESTION.search(question)) is None:
        return None
    terms = [int(term) for term in asked[1].split("+")]
    wanted = [str(sum(terms[:end])) for end in range(2, len(terms) + 1)]
    # As texts: Python makes no number of more than 4300 digits, which a policy may well write.
    named = NAMED.findall(text.partition("<think>")[2].partition("</think>")[0])
    found = 0
    for number in named:
        if found < len(wanted) and number == wanted[found]:
            found += 1
    return found / max(len(wanted), len(named))


def explained(completions: Sequence[Completion], prompts: Sequence, **columns) -> list[float | None]:
    """1.0 for each completion that names every intermediate sum of its prompt in order and none besides, else 0.0.

    None if the prompt asks for no sum. What the experimenter measures: in a recipe its weight is 0, so that no policy
    learns from it.
    """
    questions = [prompt if isinstance(prompt, str) else prompt[-1]["content"] for prompt in prompts]
    shares = [
        share_explained(question, completion_text(completion))
        for question, completion in zip(questions, completions, strict=True)
    ]
    return [None if share is None else float(share == 1.0) for share in shares]


def row(problem: Problem, style: str) -> dict[str, Any]:
    """The problem with an explanation in one style, and its score as JSON, under the names of COLUMNS."""
    thinking = explanation(problem, style)
    answer = thinking.rpartition("=")[2] if style == "slip" else problem.answer
    content = f"<think>{thinking}</think><answer>\\boxed{{{answer}}}</answer>"
    share = share_explained(problem.question, content)
    return {
        "prompt": [{"role": "user", "content": problem.question}],
        "completion": [{"role": "assistant", "content": content}],
        "scores": json.dumps({PRINCIPLE: LOWEST + round((HIGHEST - LOWEST) * share)}),
        "solution": problem.answer,
    }


def _with_slip(problem: Problem, rng: random.Random) -> str:
    total, *rest = problem.terms
    wrong, lines = rng.randrange(len(rest)), []
    for number, term in enumerate(rest):
        right = total + term
        result = right + (rng.choice([slip for slip in SLIPS if right + slip >= 0]) if number == wrong else 0)
        lines.append(f"{total}+{term}={result}")
        total = result
    return "\n".join(lines)
