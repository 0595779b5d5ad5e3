r"""Floating-point values of formulas, to tell at once that two of them differ. Never to say that they are equal.

Reads only what leaves no doubt: numbers, letters, + - times over, powers, \frac, \sqrt, \pi, brackets. Anything else is
None, and is left to math-verify, which takes a hundred times as long.
"""

import cmath
import math
import re

SAFETY = 1e-9  # of the greatest number on the way; the roundings of doubles are 1e-16 of it each
MAX_CHARACTERS = 400  # one call of Python's per bracket
_TOKEN = re.compile(r"\s*(\\(?:frac|sqrt|pi|cdot|times|div)(?![A-Za-z])|\d+(?:\.\d+)?|\.\d+|[A-Za-z]|[-+*/^(){}\[\]])")
_TIMES = (r"\cdot", r"\times", "*")
_DIVIDE = ("/", r"\div")
_STARTS = re.compile(r"\\(?:frac|sqrt|pi)|[\d.A-Za-z({]")


class _UnclearError(ValueError):
    """The formula has something that this module does not read, or that can be read in two ways."""


def certainly_differ(gold: str, answer: str) -> bool:
    """True if two LaTeX formulas have different values where every letter is some positive number.

    False says nothing: they may differ all the same.
    """
    values = [_value(formula) for formula in (gold, answer)]
    if None in values:
        return False
    (one, one_largest), (other, other_largest) = values
    return abs(one - other) > SAFETY * max(one_largest, other_largest)


def _value(latex: str) -> tuple[complex, float] | None:
    """The value and the greatest number on the way to it; None if the formula is not one of ours."""
    if len(latex) > MAX_CHARACTERS:
        return None
    try:
        reader = _Reader(latex)
        value = reader.sum()
        reader.expect_end()
        return (value, reader.largest) if cmath.isfinite(value) else None
    except (_UnclearError, ArithmeticError, ValueError):
        return None


class _Reader:
    """Recursive descent over the tokens of a formula, one method for each level of precedence."""

    def __init__(self, latex: str):
        self.tokens = []
        self.position = 0
        self.largest = 1.0
        start = 0
        while latex[start:].strip():
            match = _TOKEN.match(latex, start)
            if match is None:
                raise _UnclearError
            self.tokens.append(match.group(1))
            start = match.end()

    def sum(self) -> complex:
        value = self.product()
        while self.next in ("+", "-"):
            sign = 1 if self.take() == "+" else -1
            value = self.seen(value + sign * self.product())
        return value

    def product(self) -> complex:
        value, divided = self.signed(), False
        while True:
            if self.next in _TIMES:
                self.take()
                value = self.seen(value * self.signed())
            elif self.next in _DIVIDE:
                self.take()
                value, divided = self.seen(value / self.signed()), True
            elif self.next and _STARTS.match(self.next):
                if divided or (self.next == r"\frac" and self.tokens[self.position - 1][-1].isdigit()):
                    raise _UnclearError  # 1/2x; 2\frac{1}{2} may be a mixed number
                if self.next[0].isdigit() or self.next[0] == ".":
                    raise _UnclearError  # a number behind something is no factor that one writes
                value = self.seen(value * self.power())
            else:
                return value

    def signed(self) -> complex:
        if self.next in ("+", "-"):
            return (1 if self.take() == "+" else -1) * self.signed()
        return self.power()

    def power(self) -> complex:
        base = self.atom()
        if self.next == "^":
            self.take()
            base = self.seen(base ** (self.group() if self.next == "{" else self.atom()))
            if self.next == "^":
                raise _UnclearError
        return base

    def atom(self) -> complex:
        token = self.take()
        if token[0].isdigit() or token[0] == ".":
            return self.seen(complex(float(token)))
        if token == r"\pi":
            return complex(math.pi)
        if token == r"\frac":
            over = self.group()
            return self.seen(over / self.group())
        if token == r"\sqrt":
            degree = self.inside("[", "]") if self.next == "[" else 2
            return self.seen(self.group() ** (1 / degree))
        if token in "({":
            self.position -= 1
            return self.inside(token, ")" if token == "(" else "}")
        if len(token) == 1 and token.isalpha():
            if self.next == "(":
                raise _UnclearError  # f(x)
            if token == "i":
                return 1j
            return complex(math.e if token == "e" else 1 + ord(token) * math.sqrt(2) % 1)
        raise _UnclearError

    def group(self) -> complex:
        return self.inside("{", "}")

    def inside(self, opening: str, closing: str) -> complex:
        if self.take() != opening:
            raise _UnclearError
        value = self.sum()
        if self.take() != closing:
            raise _UnclearError
        return value

    def seen(self, value: complex) -> complex:
        self.largest = max(self.largest, abs(value))
        return value

    @property
    def next(self) -> str | None:
        return self.tokens[self.position] if self.position < len(self.tokens) else None

    def take(self) -> str:
        if self.position >= len(self.tokens):
            raise _UnclearError
        self.position += 1
        return self.tokens[self.position - 1]

    def expect_end(self) -> None:
        if self.position != len(self.tokens):
            raise _UnclearError
