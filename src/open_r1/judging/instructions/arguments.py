"""What an instruction may be asked with. Each function gives the argument as the table takes it.

Each raises ValueError with the words that go behind `key: value` if it is not what it should be.
"""

from collections.abc import Callable
from typing import Any

from open_r1.judging.instructions.parts import first_word, plain_line_ends

Argument = Callable[[Any], Any]

RELATIONS = ("less than", "at least", "at most", "around", "exactly")


def number(value: Any) -> int:
    """A whole number from 0 on; 3.0 is one, as Arrow makes floats of a column with nulls."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0 or value % 1:
        raise ValueError("is no whole number from 0 on")
    return int(value)


def position(value: Any) -> int:
    """A whole number from 1 on."""
    if not number(value):
        raise ValueError("is no position; the first is 1")
    return int(value)


def text(value: Any) -> str:
    """A text that is not blank, with plain line ends and no blanks around it."""
    if not isinstance(value, str) or not value.strip():
        raise ValueError("is no text")
    return plain_line_ends(value).strip()


def texts(value: Any) -> tuple[str, ...]:
    """Texts that are not blank, one at least."""
    if not isinstance(value, list | tuple) or not value:
        raise ValueError("is no list of texts")
    return tuple(text(one) for one in value)


def word(value: Any) -> str:
    """A text that begins with a word."""
    if not first_word(text(value)):
        raise ValueError("begins with no word")
    return text(value)


def letter(value: Any) -> str:
    """One sign that is no blank; IFEval asks for `#` and `!`, too."""
    if len(text(value)) != 1:
        raise ValueError("is no single letter")
    return text(value)


def relation(value: Any) -> str:
    """How a count is compared. IFEval asks with the first two, Tulu 3 with all but the first."""
    if value not in RELATIONS:
        raise ValueError(f"is none of {', '.join(RELATIONS)}")
    return value


def language(value: Any) -> str:
    """The ISO 639-1 code of a language that can be told here."""
    from open_r1.rewards.language import SCRIPTS  # rewards import this room, and not the other way round

    if not isinstance(value, str) or value not in SCRIPTS:
        raise ValueError(f"is no language that can be told here; these can: {', '.join(SCRIPTS)}")
    return value
