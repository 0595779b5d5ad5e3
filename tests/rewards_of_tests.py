"""Reward functions of a user's own, in a module of their own."""

import os
import random
import signal

import numpy as np


def number_of_characters(completions, **columns):
    """Length of each completion: nearly always different within a group, so that there is something to learn."""
    return [float(len(completion[-1]["content"])) for completion in completions]


def share_of_expected(completions, expected, scale=1.0, **columns):
    """`scale` where the completion is what the column `expected` says."""
    return [scale * float(completion == wanted) for completion, wanted in zip(completions, expected, strict=True)]


async def ones_later(completions, **columns):
    """1.0 for everything, as a coroutine."""
    return [1.0] * len(completions)


def begins_with_a_digit(completions, **columns):
    """1.0 or 0.0: groups of few completions are often all equal."""
    return [float(completion[-1]["content"][:1].isdigit()) for completion in completions]


def drawn_anew(completions, **columns):
    """Chance: the next numbers of the generators that a user's reward may use."""
    return [random.random() + np.random.random() for _ in completions]


def solution_itself(completions, solution, **columns):
    """The number that is the solution, whatever was answered."""
    return [float(number) for number in solution]


def length_if_solution_is_odd(completions, solution, **columns):
    """Length of each completion where the problem's solution is odd, else 0.5 for all: a dead group."""
    return [
        float(len(completion[-1]["content"])) if int(gold) % 2 else 0.5
        for completion, gold in zip(completions, solution, strict=True)
    ]


def breaks_in_the_second_process(completions, **columns):
    """Raises in one process of two; the other only loses its connection."""
    if os.environ["RANK"] == "1":
        raise LookupError("what really happened")
    return [1.0] * len(completions)


def kills_the_second_process(completions, **columns):
    """Ends one process of two as a machine without memory would."""
    if os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGKILL)
    return [1.0] * len(completions)
