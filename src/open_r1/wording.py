"""The words of error lines that several rooms share."""

import difflib
import re
from collections.abc import Iterable

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def closest(word: str, known: Iterable[str]) -> str:
    """`; did you mean …?` if `known` has something like `word`, else the empty string."""
    matches = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {matches[0]}?" if matches else ""


def number_for_yaml(text: str) -> str:
    """A number that YAML 1.1 reads as text (`1e-6`), written so that it reads it as a number (`1.0e-06`)."""
    written = str(int(text)) if re.fullmatch(r"[+-]?\d+", text) else repr(float(text))
    return written.replace("e", ".0e") if "e" in written and "." not in written else written
