"""Numbers as they are written down: exact values without a computer algebra system, and when two of them agree.

This is the short cut of the judge. It decides only what needs no algebra, so the verdict is the same with and without.
"""

import re
from dataclasses import dataclass
from fractions import Fraction

MIN_DIGITS_OF_ROUNDING = 6
MAX_DIGITS = 1000  # a longer literal is left to the judge and its budget
MAX_EXPONENT = 1000

_DIGITS = r"\d{1,3}(?:(?:,| )\d{3})+(?!\d)|\d+"
_DECIMAL = rf"(?:(?:{_DIGITS})(?:\.\d*)?|\.\d+)"
_SIGN = r"(?P<sign>[+-]?) ?"
_LITERAL = re.compile(
    rf"{_SIGN}(?:"
    rf"(?P<whole>\d+) ?(?:"
    rf"\\frac\{{ ?(?P<mixed_over>\d+) ?\}}\{{ ?(?P<mixed_under>\d+) ?\}}|(?<= )(?P<mixed_a>\d+) ?/ ?(?P<mixed_b>\d+))"
    rf"|\\frac\{{ ?(?P<over>[+-]?{_DECIMAL}) ?\}}\{{ ?(?P<under>[+-]?{_DECIMAL}) ?\}}"
    rf"|(?P<numerator>{_DECIMAL}) ?[/:] ?(?P<denominator>[+-]?{_DECIMAL})"
    rf"|(?:(?P<mantissa>{_DECIMAL}) ?(?:\\times|\\cdot|\*|x) ?)?10 ?\^ ?\{{ ?(?P<exponent>[+-]?\d+) ?\}}"
    rf"|(?P<finite>\d*\.\d*)\\overline ?\{{ ?(?P<period>\d+) ?\}}"
    rf"|(?P<e_mantissa>{_DECIMAL})[eE](?P<e_exponent>[+-]?\d+)"
    rf"|(?P<decimal>{_DECIMAL})"
    rf")(?P<percent> ?%| percent)?"
)
# What only numbers, brackets and operations are made of; a literal that is not one of the above is left undone.
_ARITHMETIC = re.compile(
    r"(?:[\d.,\s()\[\]{}+\-*/^!:%|_]|(?<=\d)x(?=\s*\d)|(?<![A-Za-z\\])[ei](?![A-Za-z])|"
    r"\\(?:frac|times|cdot|div|sqrt|binom|ldots|cdots|dots|pi|log|ln|lg|exp|sin|cos|tan|cot|sec|csc|gcd|lcm|min|max)"
    r"(?![A-Za-z]))+"
)


@dataclass(frozen=True)
class Number:
    """An exact value, and how many digits it was written with if it was written as a decimal."""

    value: Fraction
    percent: bool = False
    decimals: int | None = None
    """Digits after the point; None for what is not written with a point."""
    digits: int = 0
    """Significant digits of a decimal."""


def number(plain: str) -> Number | None:
    """The number that `plain`, a text as notation.spelled_plainly gives it, writes down; None if it is not one.

    Integers (with thousands separators), decimals, fractions and ratios, mixed numbers, scientific notation, each
    with or without a percent sign. A product, sum, power or root of numbers is not a number yet.
    """
    if len(plain) > MAX_DIGITS:
        return None
    match = _LITERAL.fullmatch(plain)
    if match is None:
        return None
    parts = match.groupdict()
    decimals, digits = None, 0
    if parts["whole"]:
        over, under = parts["mixed_over"] or parts["mixed_a"], parts["mixed_under"] or parts["mixed_b"]
        if int(under) == 0 or int(over) >= int(under):
            return None  # 2\frac{3}{2} is a product
        value = int(parts["whole"]) + Fraction(int(over), int(under))
    elif parts["over"] or parts["numerator"]:
        under = _decimal(parts["under"] or parts["denominator"])
        if under == 0:
            return None
        value = _decimal(parts["over"] or parts["numerator"]) / under
    elif parts["period"]:
        scale = 10 ** len(parts["finite"].partition(".")[2])
        value = _decimal(parts["finite"]) + Fraction(int(parts["period"]), (10 ** len(parts["period"]) - 1) * scale)
    elif parts["exponent"] or parts["e_exponent"]:
        exponent = int(parts["exponent"] or parts["e_exponent"])
        if abs(exponent) > MAX_EXPONENT:
            return None
        value = _decimal(parts["mantissa"] or parts["e_mantissa"] or "1") * Fraction(10) ** exponent
    else:
        written = parts["decimal"]
        value = _decimal(written)
        if "." in written.rstrip("."):
            decimals = len(written.partition(".")[2])
            digits = len(written.replace(".", "").replace(",", "").lstrip("0"))
    value = -value if parts["sign"] == "-" else value
    return Number(value / 100 if parts["percent"] else value, bool(parts["percent"]), decimals, digits)


def is_unfinished_arithmetic(plain: str) -> bool:
    """True if the text is made of numbers and operations alone and is not a number: `10+2`, `2^{10}`, `\\log_2 8`."""
    return bool(_ARITHMETIC.fullmatch(plain)) and any(sign.isdigit() for sign in plain) and number(plain) is None


def same_number(gold: Number, answer: Number) -> bool:
    """True if the two numbers agree.

    Exactly; or one is a decimal that rounds (or cuts) the other with at least six significant digits, the other having
    no finite decimal; or they differ only in a percent sign on a gold above 1.
    """
    if gold.value == answer.value:
        return True
    if gold.percent != answer.percent:
        bare = gold.value * 100 if gold.percent else gold.value
        asked = answer.value * 100 if answer.percent else answer.value
        return abs(bare) > 1 and bare == asked
    return rounds(answer, gold.value) or rounds(gold, answer.value)


def rounds(decimal: Number, exact: Fraction) -> bool:
    """True if `decimal` writes at least six right digits of `exact`, which has no finite decimal."""
    if decimal.decimals is None or decimal.digits < MIN_DIGITS_OF_ROUNDING or has_finite_decimal(exact):
        return False
    unit = Fraction(1, 10**decimal.decimals) / (100 if decimal.percent else 1)
    return abs(decimal.value - exact) < unit


def has_finite_decimal(value: Fraction) -> bool:
    """True for 1/8, False for 1/3."""
    denominator = value.denominator
    for prime in (2, 5):
        while denominator % prime == 0:
            denominator //= prime
    return denominator == 1


def _decimal(written: str) -> Fraction:
    return Fraction(written.replace(",", "").replace(" ", "").rstrip(".") or 0)
