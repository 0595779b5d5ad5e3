"""The accuracy reward: the answer that follows the thinking, judged by math-verify against the gold answer."""

import functools
import re

from latex2sympy2_extended import NormalizationConfig
from math_verify import LatexExtractionConfig, parse, verify

from open_r1.rewards.completion import ANSWER_CLOSE, ANSWER_OPEN, Completion, after_thinking, completion_text

BOXED = "\\boxed{"
NUMBER = re.compile(r"[+-]?\d[\d,]*(\.\d+)?|[+-]?\.\d+")
UNEVALUATED = re.compile(r"[\d.,\s()]*\d[\d.,\s()]*([-+*/×÷]|\\times|\\cdot|\\div)[-+*/×÷\d.,\s()]*\d.*")
SINGLE_FRACTION = re.compile(r"\s*[+-]?\d+\s*/\s*\d+\s*")
EXTRACTION = [
    LatexExtractionConfig(
        try_extract_without_anchor=True,
        boxed_match_priority=0,
        normalization_config=NormalizationConfig(
            basic_latex=True, units=True, malformed_operators=True, nits=True, boxed="last", equations=True
        ),
    )
]


def accuracy_reward(
    completions: list[Completion], solution: list[str], *, thinking_prefilled: bool = False, **columns
) -> list[float | None]:
    """1.0 if the answer equals the gold answer, 0.0 if not or if there is none, None if the gold does not parse.

    The answer is the one `\\boxed{}` after the thinking (several boxes with different contents are no answer), or
    the `<answer>` block if nothing is boxed. A number is asked for as a number: `\\boxed{10+2}` is no answer to 12.
    A gold without markup (`2\\sqrt{3}`) means what it means boxed. Judged by math-verify, each distinct pair once.
    """
    return [
        _verdict(gold, answer_of(completion_text(completion), thinking_prefilled))
        for completion, gold in zip(completions, solution, strict=True)
    ]


def answer_of(text: str, thinking_prefilled: bool = False) -> str | None:
    """The answer that a completion gives, without its box; None if it gives none, or several different ones."""
    rest = after_thinking(text, thinking_prefilled)
    if rest is None:
        return None
    boxes = set(_boxed(rest))
    if boxes:
        return boxes.pop().strip() or None if len(boxes) == 1 else None
    if rest.count(ANSWER_OPEN) == 1 and ANSWER_CLOSE in rest:
        return rest.partition(ANSWER_OPEN)[2].partition(ANSWER_CLOSE)[0].strip() or None
    return None


def _boxed(text: str) -> list[str]:
    """Contents of every `\\boxed{…}` that is closed."""
    contents, start = [], text.find(BOXED)
    while start != -1:
        depth, position = 1, start + len(BOXED)
        while position < len(text) and depth:
            depth += {"{": 1, "}": -1}.get(text[position], 0)
            position += 1
        if depth:
            break
        contents.append(text[start + len(BOXED) : position - 1])
        start = text.find(BOXED, position)
    return contents


@functools.lru_cache(maxsize=65536)  # a group shares its gold, and many completions end in the same answer
def _verdict(gold: str, answer: str | None) -> float | None:
    parsed_gold = _parsed(gold if BOXED in gold else f"{BOXED}{gold.strip().strip('$').strip()}}}")
    if not parsed_gold:
        return None
    if answer is None:
        return 0.0
    asks_for_number = NUMBER.fullmatch(gold.strip().strip("$").strip())
    if asks_for_number and UNEVALUATED.fullmatch(answer) and not SINGLE_FRACTION.fullmatch(answer):
        return 0.0
    return float(verify(list(parsed_gold), list(_parsed(f"{BOXED}{answer}}}"))))


@functools.lru_cache(maxsize=65536)
def _parsed(boxed: str) -> tuple:
    return tuple(parse(boxed, extraction_config=EXTRACTION, extraction_mode="first_match"))
