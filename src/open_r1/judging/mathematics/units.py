"""Units behind (or before) a quantity, and how one converts into another."""

import functools
import re
from fractions import Fraction

_MONEY_BEFORE = re.compile(r"^(-?)\s*(\\\$|€|£|¥|\\euro|\\pounds)\s*")
_MONEY = {
    r"\$": "dollar",
    "€": "euro",
    r"\euro": "euro",
    "£": "pound sterling",
    r"\pounds": "pound sterling",
    "¥": "yen",
}
_POWER = r"(?:\s*\^\s*\{?\s*[23]\s*\}?)?"
_WORDS = rf"[A-Za-z°µ][A-Za-z.°µ]*{_POWER}(?:[\s/·-]+(?:\\text\{{\s*)?[A-Za-z°µ][A-Za-z.°µ]*\}}?{_POWER})*"
_TEXT = rf"\\text\s*\{{[^{{}}]*\}}{_POWER}"
_DEGREES = re.compile(r"\s*\^\\circ\s*(?:\\text\s*\{\s*([CF])\s*\}|([CF])(?![A-Za-z]))?\s*$")
_MARKED = re.compile(rf"\s*(?P<unit>{_TEXT}(?:\s*(?:/|\\cdot)?\s*{_TEXT})*)\s*$")
_BARE = re.compile(rf"(?<=[\d)}}%.])\s*(?P<unit>{_WORDS})\s*$")
_AFTER_SYMBOL = re.compile(rf"(?<=\\pi )\s*(?P<unit>{_WORDS})\s*$")
_BASE = re.compile(r"(?P<digits>[\dA-Za-z]*\d[\dA-Za-z]*)_\{(?:\\text\s*\{)?(?P<base>\w+)\}{1,2}")
_LETTERS = "mghslLNJWV"  # single letters that are units, if a space stands before them
_MAX_CHARACTERS = 60
# How schoolbooks write what pint's registry calls otherwise, or takes for something else.
_SPELLINGS = [
    (re.compile(pattern, re.IGNORECASE), name)
    for pattern, name in (
        (r"\bsq(?:uare|\.)?\s+(?=[a-z])", "square "),
        (r"\bcu(?:bic|\.)\s+(?=[a-z])", "cubic "),
        (r"\bk(?:m)?ph\b", "km/hour"),
        (r"\bmtrs?\b", "meter"),
        (r"\bhrs?\b\.?", "hour"),
        (r"\bsecs?\b\.?", "second"),
        (r"\bmins?\b\.?", "minute"),
        (r"\byrs?\b\.?", "year"),
        (r"\blbs?\b\.?", "pound"),
        (r"\bdegs?\b\.?", "degree"),
        (r"\brads?\b\.?", "radian"),
        (r"\b(?:bucks?|usd)\b", "dollar"),
        (r"\s+per\s+", "/"),
    )
]


def split_unit(plain: str) -> tuple[str, str]:
    r"""The quantity and its unit, `("5", "cm")` of `5\text{ cm}`; the unit is empty if there is none.

    What stands in `\text{}` behind a quantity is a unit. A bare word is one behind a number, if it has several letters:
    `5x` and `2k` are products.
    """
    money = _MONEY_BEFORE.match(plain)
    if money:
        return money.group(1) + plain[money.end() :].strip(), _MONEY[money.group(2)]
    base = _BASE.fullmatch(plain)
    if base:
        return base["digits"], f"base {base['base']}"
    degrees = _DEGREES.search(plain)
    if degrees and degrees.start() > 0:
        scale = degrees.group(1) or degrees.group(2)
        return plain[: degrees.start()].strip(), f"degree {scale}" if scale else "degree"
    for pattern in (_MARKED, _BARE, _AFTER_SYMBOL):
        match = pattern.search(plain)
        if match is None or not plain[: match.start()].strip() or len(match["unit"]) > _MAX_CHARACTERS:
            continue
        unit = " ".join(re.sub(r"\\text|[{}\\]|cdot", " ", match["unit"]).split())
        letter = unit.partition("^")[0].strip()
        if pattern is not _MARKED and len(letter) == 1 and (letter not in _LETTERS or plain[match.start()] != " "):
            continue  # 5m, 2 k: letters of algebra
        if pattern is not _MARKED and (unit.startswith(("sqrt", "pi", "cos", "sin", "tan", "log", "ln", "x", "e "))):
            continue
        return plain[: match.start()].strip(), unit.strip(" .").replace(" ^", "^")
    return plain, ""


def conversion(gold: str, answer: str) -> Fraction | None:
    """What one of the answer's units is in the gold's; 1 if either has none; None if they measure different things."""
    if not gold or not answer:
        return Fraction(1)
    gold, answer = _spelled(gold), _spelled(answer)
    if _stem(gold) == _stem(answer):
        return Fraction(1)
    return _by_registry(gold, answer)


def _spelled(unit: str) -> str:
    for pattern, name in _SPELLINGS:
        unit = pattern.sub(name, unit)
    return unit.strip()


def _stem(unit: str) -> str:
    """`Apples` and `apple` are the same; so are `mL` and `ml`, but not `M` and `m`."""
    unit = unit if len(unit) < 2 else unit.lower()
    words = [word[:-1] if len(word) > 3 and word.endswith("s") else word for word in unit.split()]
    return " ".join(words)


@functools.lru_cache(maxsize=1)
def _registry():
    import pint

    registry = pint.UnitRegistry(cache_folder=None)
    registry.define("dollar = [currency]")
    registry.define("penny = 0.01 dollar = _ = pennies = cent = cents")
    return registry


@functools.lru_cache(maxsize=4096)
def _by_registry(gold: str, answer: str) -> Fraction | None:
    import pint

    try:
        registry = _registry()
        factor = registry.Quantity(Fraction(1), registry.parse_units(answer)).to(registry.parse_units(gold)).magnitude
        return Fraction(factor).limit_denominator(10**12)
    except (pint.PintError, ValueError, TypeError, AttributeError, ZeroDivisionError, OverflowError):
        return None
