"""Labelled answers -> examples from which a judge learns: what it is asked about an answer, and the right verdict."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from open_r1.feedback.asking import first_labels, request
from open_r1.feedback.reading import read_verdict
from open_r1.feedback.rubric import Rubric
from open_r1.rewards.completion import Completion, completion_text


def labelled(
    rubric: Rubric,
    prompt: str | Sequence[Mapping[str, str]],
    completion: Completion,
    scores: str | Mapping[str, int],
) -> dict[str, list[dict[str, str]]]:
    """A `prompt`, as the judge will be asked, and a `completion`, the verdict that it should give.

    `scores` has a whole number for each principle of the rubric, as JSON or a mapping. Raises ValueError, one line, if
    it is no verdict of this rubric.
    """
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    given: Any = json.loads(scores) if isinstance(scores, str) else dict(scores)
    (label,) = first_labels(1)
    verdict = json.dumps({label: given}, separators=(",", ":"))
    if read_verdict(verdict, rubric, 1) is None:
        raise ValueError(
            f"scores: {given!r} is no verdict of {rubric.source.name}: a whole number from {rubric.lowest} to "
            f"{rubric.highest} for each of {', '.join(rubric.names)}"
        )
    return {
        "prompt": request(rubric, messages, [completion_text(completion)]),
        "completion": [{"role": "assistant", "content": verdict}],
    }
