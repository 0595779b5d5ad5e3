"""Labelled answers -> examples from which a judge learns: what it is asked about an answer, and the right verdict."""

import json
import reprlib
from collections.abc import Mapping, Sequence
from typing import Any

from open_r1.feedback.asking import first_labels, request
from open_r1.feedback.reading import no_key_twice, read_verdict
from open_r1.feedback.rubric import Rubric
from open_r1.recipe import Thinking
from open_r1.rewards.completion import Completion, completion_text, prompt_messages


def labelled(
    rubric: Rubric,
    prompt: str | Sequence[Mapping[str, str]],
    completion: Completion,
    scores: str | Mapping[str, int],
    thinking: Thinking = Thinking(),
) -> dict[str, list[dict[str, str]]]:
    """A `prompt`, as the judge will be asked, and a `completion`, the verdict that it should give.

    `scores` has a whole number for each principle of the rubric, as JSON or a mapping; `thinking` is how completions
    mark theirs, where the rubric shows answers alone. Raises ValueError, one line, if the scores are no verdict of this
    rubric, or if no judge is ever asked about the completion.
    """
    messages = prompt_messages(prompt)
    (label,) = first_labels(1)
    verdict = json.dumps({label: _read(scores)}, separators=(",", ":"), default=repr)
    if read_verdict(verdict, rubric, 1) is None:
        raise ValueError(
            f"scores: {reprlib.repr(scores)} is no verdict of {rubric.source.name}: a whole number from "
            f"{rubric.lowest} to {rubric.highest} for each of {', '.join(rubric.names)}"
        )
    if (seen := rubric.seen(completion_text(completion), thinking)) is None:
        raise ValueError(
            f"completion: its thinking never ends, and {rubric.source.name} shows answers alone (sees: answer), so "
            f"that no judge is asked about it; leave it out"
        )
    return {
        "prompt": request(rubric, messages, [seen]),
        "completion": [{"role": "assistant", "content": verdict}],
    }


def _read(scores: Any) -> Any:
    """The scores as they are to stand in a verdict; what is neither JSON nor a mapping stays, and is none."""
    if not isinstance(scores, str):
        return dict(scores) if isinstance(scores, Mapping) else scores
    try:
        return json.loads(scores, object_pairs_hook=no_key_twice)
    except (ValueError, RecursionError):
        return scores
