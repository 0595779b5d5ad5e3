r"""Tulu 3's verifiers of mathematics: the last number of the answer (GSM8K), and its final answer (MATH).

For models that are trained without `\boxed{}` or answer blocks, or that answer in several ways.
"""

import re
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from open_r1.judging.pool import DEFAULT_CPU_SECONDS
from open_r1.recipe import RecipeError, Thinking
from open_r1.rewards.completion import Completion, after_thinking, boxes, completion_text
from open_r1.rewards.math import MAX_SHOWN, judge_completions

T = TypeVar("T")

GOLD_MARK = "####"  # GSM8K's own, before the answer of a worked solution
DIGITS = re.compile(
    r"[0-9]{1,3}(?:(?:,|\{,\}|,\\!|\\,)[0-9]{3})+(?![0-9])(?:\.[0-9]++)?|[0-9]++(?:\.[0-9]++)?|(?<![0-9])\.[0-9]++"
)
BEFORE_DIGITS = re.compile(r"([-−]?)(?:\\?[$€£¥₹])?\Z")
LONGEST_BEFORE_DIGITS = 3  # characters: a minus, and a currency sign with its backslash
FINAL_ANSWER = re.compile(r"\bfinal answer is\b\**:?", re.IGNORECASE)
END_OF_SENTENCE = re.compile(r"\n|\.(?=\s|\Z)|I hope it is correct", re.IGNORECASE)
DISPLAYS = {"$$": "$$", r"\[": r"\]"}
DOLLARS = re.compile(r"(?<!\\)\$\$?")
ALL_IS_ANSWER = Thinking(answer_in="rest")


def last_number_reward(
    completions: Sequence[Completion],
    solution: Sequence[str],
    *,
    thinking: Thinking = Thinking(),
    log_extra: Callable | None = None,
    log_metric: Callable | None = None,
    **columns,
) -> list[float | None]:
    """1.0 if the last number of the answer is the gold's, 0.0 if not or if there is none, None if the gold has none.

    One for each completion, in order. Commas between thousands and currency signs are read away; a minus sign counts
    unless it stands behind what it could be taken from (`10-4` ends with 4). 1,234.50 is 1234.5. The answer is all that
    follows the thinking; a thinking that never ends has none. The gold's number is its last one, or the first behind
    `####` if it is one of GSM8K's worked solutions.

    Source: Tulu 3 (arXiv 2411.15124, section 6), the verifier of GSM8K. Its own compares texts, and reads no sign of a
    whole number. `log_extra` and `log_metric` are TRL's.
    """
    golds = [_gold_number("" if gold is None else str(gold)) for gold in solution]
    numbers = [_last_number(after_thinking(completion_text(one), thinking) or "") for one in completions]
    if log_extra is not None:
        log_extra("last_number_answer", [(number or "")[:MAX_SHOWN] for number in numbers])
    if log_metric is not None:
        log_metric("last_number/unparsed_gold_share", golds.count(None) / max(1, len(golds)))
        log_metric("last_number/no_answer_share", numbers.count(None) / max(1, len(numbers)))
    return [None if gold is None else float(number == gold) for number, gold in zip(numbers, golds, strict=True)]


def final_answer_reward(
    completions: Sequence[Completion],
    solution: Sequence[str],
    *,
    thinking: Thinking = Thinking(),
    cpu_seconds: float = DEFAULT_CPU_SECONDS,
    log_extra: Callable | None = None,
    log_metric: Callable | None = None,
    **columns,
) -> list[float | None]:
    r"""1.0 if the final answer means what the gold means, 0.0 if not or if there is none, None if nobody can say.

    One for each completion, in order. The final answer stands, after the thinking, in the last `\boxed{}`; without one
    behind the last "the final answer is" (Minerva's "Final Answer: The final answer is $x$. I hope it is correct."),
    to the end of its sentence; without that between the last two dollar signs. The first of these forms that is there
    is the answer, and no other: Tulu 3's verifier takes whichever is right, so that guesses pay. It is judged as the
    accuracy reward judges, in processes of its own with `cpu_seconds` of CPU time for each pair.

    Source: Tulu 3 (arXiv 2411.15124, section 6), the verifier of MATH. `log_extra` and `log_metric` are TRL's. Raises
    RecipeError if `cpu_seconds` is not positive.
    """
    if cpu_seconds <= 0:
        raise RecipeError(f"final_answer: cpu_seconds is {cpu_seconds}; give more than 0")
    found = [_final_answer(after_thinking(completion_text(one), thinking)) for one in completions]
    judged, counts = judge_completions([text for text, _ in found], solution, ALL_IS_ANSWER, "both", cpu_seconds)
    if log_extra is not None:
        log_extra("final_answer_answer", [text[:MAX_SHOWN] for text, _ in found])
        reasons = [one.verdict.reason for one in judged]
        log_extra(
            "final_answer_reason",
            [f"{where}: {reason}" if text else where for (text, where), reason in zip(found, reasons, strict=True)],
        )
    if log_metric is not None:
        for name, value in counts.items():
            log_metric(f"final_answer/{name}", value)
    return [one.verdict.score for one in judged]


def _gold_number(gold: str) -> str | None:
    _, mark, answer = gold.rpartition(GOLD_MARK)
    found = DIGITS.search(answer) if mark else None
    return _plain_number(answer, found) if mark else _last_number(gold)


def _last_number(text: str) -> str | None:
    return _plain_number(text, _last(DIGITS.finditer(text)))


def _last(found: Iterable[T]) -> T | None:
    return next(iter(deque(found, maxlen=1)), None)


def _plain_number(text: str, digits: re.Match | None) -> str | None:
    """The one way to write the number that these digits and what stands before them mean; None without digits."""
    if digits is None:
        return None
    whole, _, fraction = re.sub(r"[^0-9.]", "", digits[0]).partition(".")
    whole, fraction = whole.lstrip("0") or "0", fraction.rstrip("0")
    number = f"{whole}.{fraction}" if fraction else whole
    return number if number == "0" or not _is_negative(text, digits.start()) else f"-{number}"


def _is_negative(text: str, start: int) -> bool:
    before = BEFORE_DIGITS.search(text, max(0, start - LONGEST_BEFORE_DIGITS), start)
    previous = text[before.start() - 1 : before.start()] if before.start() else ""
    return bool(before[1]) and not (previous.isalnum() or previous in tuple(")]}"))


def _final_answer(text: str | None) -> tuple[str, str]:
    """The final answer, and where it stood; an empty text, and why, if there is none."""
    if text is None:
        return "", "the thinking never ends"
    box = _last(boxes(text))
    if box is not None:
        return box.strip(), r"\boxed{}"
    phrase = _last(FINAL_ANSWER.finditer(text))
    if phrase is not None:
        return _rest_of_sentence(text[phrase.end() :]), "the final answer is"
    dollars = [match.span() for match in DOLLARS.finditer(text)][-2:]
    if len(dollars) == 2:
        return text[dollars[0][1] : dollars[1][0]].strip(), "$"
    return "", "there is no answer"


def _rest_of_sentence(text: str) -> str:
    """The text to the end of its first sentence, without emphasis and full stop; a displayed formula is read whole."""
    text = text.lstrip(" \t\n*")
    closing = next((closing for opening, closing in DISPLAYS.items() if text.startswith(opening)), None)
    displayed = text.find(closing, len(closing)) + len(closing) if closing and closing in text[len(closing) :] else 0
    end = END_OF_SENTENCE.search(text, displayed)
    return (text[: end.start()] if end else text).rstrip(" \t\n*.")
