"""Which answers a judge sees together, in which order, and how often.

Judges prefer a place, most of them the first. So every answer of a company is shown once at each place, and a verdict
counts only with those of all places: answers that are equally good get equal scores.
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

    An order that the answers' content decides is cut into companies of `num_candidates`, and each of these is shown in
    all its rotations: of two answers, the order and its reverse. That is done, with another order each time, until all
    are judged often enough. All companies are of one size, for in a larger one fewer are first: the last is filled up
    with answers of the one before, which stay there as well. The judgements of a single answer count by themselves.
    """
    units: list[Unit] = []
    answers = sorted(answers)  # whatever order they came in
    size = min(num_candidates, len(answers))
    judgements_an_order = max(2, size)
    for number in range(0, num_judgements, judgements_an_order):
        for company in _companies(_shuffled(messages, answers, number), size):
            if size > 1:
                units.append([(number + place, company[place:] + company[:place]) for place in range(size)])
            else:
                units += [[(one, company)] for one in range(number, min(number + judgements_an_order, num_judgements))]
    return units


def _shuffled(messages: Sequence[Mapping[str, str]], answers: Sequence[str], number: int) -> list[str]:
    content = json.dumps([[dict(message) for message in messages], list(answers), number])
    seed = int.from_bytes(hashlib.sha256(content.encode()).digest())
    return random.Random(seed).sample(answers, len(answers))


def _companies(answers: Sequence[str], size: int) -> list[Shown]:
    starts = range(0, len(answers), size) if answers else ()
    return [tuple(answers[min(start, len(answers) - size) :][:size]) for start in starts]
