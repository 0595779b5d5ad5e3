"""What a program printed, compared with what it should have printed: bytes with bytes, never as anybody's code.

The default compares all lines. Blanks at the end of a line, and empty lines at the end, do not matter (so `\\r\\n` ends
a line as `\\n` does); everything else does: a line too many or too few, blanks in front, case, how a number is written.
No text is decoded: what is not UTF-8 never equals what is expected, and nothing but `\\n` ends a line.

A row whose problem has several right outputs names another rule, a function of CHECKERS, with its parameters:
`"checker": "any_order"`, or `"checker": {"name": "floats", "abs_tolerance": 1e-6}`.
"""

import inspect
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from open_r1.judging.programs.values import is_close
from open_r1.wording import closest

BLANKS = b" \t\r\f\v"
NUMBER = re.compile(rb"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,4})?")
MAX_NUMBER_CHARACTERS = 400


def same_lines(stdout: bytes, expected: bytes) -> bool:
    """True if all lines are the same."""
    return lines(stdout) == lines(expected)


def case_insensitive(stdout: bytes, expected: bytes) -> bool:
    """True if all lines are the same but for the case of ASCII letters: `YES` for `Yes`."""
    return lines(stdout.lower()) == lines(expected.lower())


def any_order(stdout: bytes, expected: bytes) -> bool:
    """True if the lines are the same in any order, each as often as it is expected; empty ones do not count."""
    return Counter(filter(None, lines(stdout))) == Counter(filter(None, lines(expected)))


def tokens(stdout: bytes, expected: bytes) -> bool:
    """True if the words are the same in the same order, however they are spread over blanks and lines."""
    return stdout.split() == expected.split()


def floats(stdout: bytes, expected: bytes, *, abs_tolerance: float = 1e-6, rel_tolerance: float = 1e-6) -> bool:
    """True if the words are the same in the same order, where numbers may differ by either tolerance."""
    theirs, ours = stdout.split(), expected.split()
    return len(theirs) == len(ours) and all(
        word == right or _close(word, right, abs_tolerance, rel_tolerance)
        for word, right in zip(theirs, ours, strict=True)
    )


def _close(word: bytes, right: bytes, abs_tolerance: float, rel_tolerance: float) -> bool:
    if max(len(word), len(right)) > MAX_NUMBER_CHARACTERS:
        return False
    if not (NUMBER.fullmatch(word) and NUMBER.fullmatch(right)):
        return False
    return is_close(float(word), float(right), abs_tolerance, rel_tolerance)


CHECKERS: dict[str, Callable[..., bool]] = {
    "lines": same_lines,
    "any_order": any_order,
    "case_insensitive": case_insensitive,
    "floats": floats,
    "tokens": tokens,
}


def lines(text: bytes) -> list[bytes]:
    """The lines without blanks at their ends, and without the empty ones at the end of all."""
    found = [line.rstrip(BLANKS) for line in text.split(b"\n")]
    while found and not found[-1]:
        found.pop()
    return found


def checker_of(value: str | Mapping[str, Any] | None) -> tuple[str, dict[str, float]]:
    """Name and parameters of the checker that a row asks for. Raises ValueError with what is wrong, and the mend."""
    if value is None:
        return "lines", {}
    if isinstance(value, str):
        value = {"name": value}
    if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
        raise ValueError(f"{value!r} is no checker; give a name, or a dict with a name and parameters")
    name = value["name"]
    if name not in CHECKERS:
        raise ValueError(f"unknown checker {name!r} (known: {', '.join(CHECKERS)}){closest(name, CHECKERS)}")
    parameters = {key: one for key, one in value.items() if key != "name" and one is not None}
    known = [
        parameter.name
        for parameter in inspect.signature(CHECKERS[name]).parameters.values()
        if parameter.kind is parameter.KEYWORD_ONLY
    ]
    for key, one in parameters.items():
        if key not in known:
            raise ValueError(f"{key}: unknown parameter of checker {name}{closest(key, known)}")
        if isinstance(one, bool) or not isinstance(one, int | float) or not (math.isfinite(one) and one >= 0):
            raise ValueError(f"{key} is {one!r}; a tolerance is a number of 0 or more")
    return name, parameters
