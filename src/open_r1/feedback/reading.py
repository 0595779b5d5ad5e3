"""What a judge wrote -> scores; what is not a verdict through and through is none."""

import json
import re
from typing import Any

from open_r1.feedback.asking import first_labels
from open_r1.feedback.rubric import Rubric

THINKING_CLOSE = "</think>"
FENCED = re.compile(r"```json\s(.*)```", re.DOTALL)


def read_verdict(text: str, rubric: Rubric, num_answers: int) -> list[dict[str, int]] | None:
    """For each answer the score of each principle; None if the text is no verdict.

    A verdict is one JSON object as `schema_of` has it, alone or in a ```json fence, after the thinking if there is any.
    Nothing is guessed or mended: a wrong score would be learned from, one that is missing is only missing.
    """
    text = text.rpartition(THINKING_CLOSE)[2].strip()
    if fenced := FENCED.fullmatch(text):
        text = fenced[1]
    try:
        verdict = json.loads(text, object_pairs_hook=no_key_twice)
    except (ValueError, RecursionError):
        return None
    labels = first_labels(num_answers)
    if not _has_exactly(verdict, labels):
        return None
    scores = [verdict[label] for label in labels]
    if not all(_has_exactly(of_answer, rubric.names) for of_answer in scores):
        return None
    if not all(_is_score(score, rubric) for of_answer in scores for score in of_answer.values()):
        return None
    return scores


def no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The pairs as a dict; raises ValueError if a key is there twice: nobody knows which of the two is meant."""
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a key is there twice")
    return dict(pairs)


def _has_exactly(value: Any, keys: list[str]) -> bool:
    return isinstance(value, dict) and value.keys() == set(keys)


def _is_score(value: Any, rubric: Rubric) -> bool:
    return type(value) is int and rubric.lowest <= value <= rubric.highest  # a bool is an int to isinstance
