"""Which answers a judge sees together, in which order, and how often.

Judges prefer a place, most of them the first. So every order is asked with its reverse, and counts only with it: of two
answers each is then first once, and two that are equally good get equal scores.
"""

import hashlib
import json
import random
from collections.abc import Mapping, Sequence

Shown = tuple[str, ...]  # answers, in the order in which the judge sees them
Unit = list[tuple[int, Shown]]  # (number of the judgement, what is shown in it): all of it counts, or none


def units_of(
    messages: Sequence[Mapping[str, str]], answers: Sequence[str], num_judgements: int, num_candidates: int
) -> list[Unit]:
    """What a judge is shown of the different answers to one conversation, each in `num_judgements` judgements or more.

    Judgement 0, 2, 4, … has the answers in an order that their content decides, cut into chunks of `num_candidates`;
    judgement 1, 3, … the same chunks, each reversed. An answer that is left over is shown with one of the chunk before,
    which stays there as well if it would leave another one alone. A last judgement without its reverse counts by
    itself, and so does every judgement of a single answer.
    """
    units: list[Unit] = []
    answers = sorted(answers)  # whatever order they came in
    for number in range(0, num_judgements, 2):
        for chunk in _chunks(_shuffled(messages, answers, number), num_candidates):
            judgements = [(number, chunk), (number + 1, chunk[::-1])][: num_judgements - number]
            units += [judgements] if len(chunk) > 1 else [[judgement] for judgement in judgements]
    return units


def _shuffled(messages: Sequence[Mapping[str, str]], answers: Sequence[str], number: int) -> list[str]:
    content = json.dumps([[dict(message) for message in messages], list(answers), number])
    seed = int.from_bytes(hashlib.sha256(content.encode()).digest())
    return random.Random(seed).sample(answers, len(answers))


def _chunks(answers: Sequence[str], size: int) -> list[Shown]:
    chunks = [tuple(answers[start : start + size]) for start in range(0, len(answers), size)]
    if size > 1 and len(chunks) > 1 and len(chunks[-1]) == 1:
        *_, before, (left_over,) = chunks
        chunks[-1] = (before[-1], left_over)
        if len(before) > 2:
            chunks[-2] = before[:-1]
    return chunks
