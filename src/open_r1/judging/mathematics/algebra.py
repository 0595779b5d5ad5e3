"""What math-verify and sympy say of two expressions. Imported by the judge's workers alone: it takes a second."""

import functools
import itertools
import traceback
from fractions import Fraction
from pathlib import Path

import sympy
from latex2sympy2_extended import NormalizationConfig
from math_verify import LatexExtractionConfig, parse, verify
from sympy import Basic, Float, Integer, MatrixBase, Rational, Set, Tuple
from sympy.core.relational import Relational
from sympy.logic.boolalg import Boolean

from open_r1.judging.mathematics.literals import Number, rounds
from open_r1.judging.mathematics.values import certainly_differ

EXTRACTION = [
    LatexExtractionConfig(
        boxed_match_priority=0,
        normalization_config=NormalizationConfig(
            basic_latex=True, units=False, malformed_operators=False, nits=False, boxed="last", equations=False
        ),
    )
]
NO_ALARM = 0  # math-verify's own time-outs are wall-clock and need a main thread; here the process has a budget
DIGITS = 30
MAX_DIGITS = 400  # with which sympy may compute a difference to find DIGITS of it
AGREEMENT = Rational(1, 10**200)  # relative; 1/2004! and 1/2006! differ, and so do 10^{90}+1 and 10^{90}+2
PROBES = [Rational(n, 997) for n in (1409, -733, 2861, 389, -1877, 4327)]  # where two formulas are compared
MIN_PROBES = 3


@functools.lru_cache(maxsize=65536)
def parsed(latex: str):
    """What math-verify makes of LaTeX, decimals as exact fractions; None if it cannot read it."""
    try:
        found = parse(
            f"\\boxed{{{latex}}}",
            extraction_config=EXTRACTION,
            fallback_mode="no_fallback",
            extraction_mode="first_match",
            parsing_timeout=NO_ALARM,
        )
        return _exact(found[0]) if found and isinstance(found[0], Basic | MatrixBase) else None
    except (MemoryError, RecursionError):
        raise
    except Exception as error:  # the power of a matrix that is not square, …
        if is_ours(error):
            raise
        return None


def _exact(expression):
    """Decimals as fractions; where math-verify finds i about, it leaves a symbol for it and calls no letter real."""
    mended: dict[Basic, Basic] = {value: Rational(str(value)) for value in expression.atoms(Float)}
    for symbol in expression.atoms(sympy.Symbol):
        if not symbol.is_real:
            mended[symbol] = sympy.I if symbol.name == "i" else sympy.Symbol(symbol.name, real=True)
    return expression.xreplace(mended) if mended else expression


def verified(gold: str, answer: str) -> bool:
    """True if two LaTeX formulas mean the same: by their values where they have any, else by math-verify."""
    if certainly_differ(gold, answer):
        return False
    one, other = parsed(gold), parsed(answer)
    if one is None or other is None:
        return False
    if one == other:
        return True
    if all(_has_values(side) for side in (one, other)):
        equal = equal_values(one, other)
        if equal is not None:
            return equal
    return verify([one], [other], timeout_seconds=NO_ALARM)


def _has_values(expression) -> bool:
    return isinstance(expression, sympy.Expr) and not isinstance(expression, Set | Tuple | Relational | Boolean)


def equal_values(gold: sympy.Expr, answer: sympy.Expr) -> bool | None:
    """Whether two formulas have the same values: themselves if there are no variables in them, else at PROBES.

    None if too few of the probes lie where both have a real value (or a complex one, if either is about such).
    """
    symbols = sorted(gold.free_symbols | answer.free_symbols, key=str)
    if not symbols:
        return _close(gold, answer, {})
    is_complex = gold.has(sympy.I) or answer.has(sympy.I)
    agreed = 0
    for shift in range(len(PROBES)):
        points = dict(zip(symbols, itertools.islice(itertools.cycle(PROBES), shift, None), strict=False))
        if not is_complex and not all(side.evalf(DIGITS, subs=points).is_real for side in (gold, answer)):
            continue
        equal = _close(gold, answer, points)
        if equal is False:
            return False
        agreed += equal is True
    return True if agreed >= MIN_PROBES else None


def _close(gold: sympy.Expr, answer: sympy.Expr, points: dict) -> bool | None:
    """True if two values agree to AGREEMENT of the greater; None if either is no finite number."""
    values = [side.evalf(DIGITS, subs=points) for side in (gold, answer)]
    if not all(value.is_number and value.is_finite for value in values):
        infinite = [value for value in values if value in (sympy.oo, -sympy.oo)]
        return values[0] == values[1] if infinite and all(value.is_number for value in values) else None
    largest = max(abs(value).evalf(DIGITS) for value in values)
    if abs(values[0] - values[1]).evalf(DIGITS) > largest / 10 ** (DIGITS - 5):
        return False
    difference = gold - answer
    if not points and difference.is_rational:
        return bool(difference.doit() == 0)
    return bool(abs(difference.evalf(DIGITS, subs=points, maxn=MAX_DIGITS)) <= AGREEMENT * largest)


def proportional(gold: sympy.Expr, answer: sympy.Expr) -> bool:
    """True if one vanishes where the other does because it is a constant times the other."""
    if gold.free_symbols != answer.free_symbols or not gold.free_symbols:
        return False
    ratio = sympy.cancel(sympy.together(gold / answer))
    return bool(ratio.is_number and ratio.is_finite and not ratio.is_zero)


def rounds_formula(written: Number, formula) -> bool:
    """True if `written` is a decimal with at least six right digits of a formula without a finite decimal, like pi."""
    if written.decimals is None or not isinstance(formula, sympy.Expr) or formula.free_symbols or formula.is_rational:
        return False
    value = formula.evalf(DIGITS)
    return bool(value.is_Float) and rounds(written, _third_for_irrational(value))


def _third_for_irrational(value: Float):
    """The value as a fraction that has, as an irrational number has, no finite decimal."""
    exact = Fraction(int(sympy.floor(value * 3 * Integer(10) ** 30)), 3 * 10**30)
    return exact if exact.denominator % 3 == 0 else exact + Fraction(1, 3 * 10**30)


def is_ours(error: BaseException) -> bool:
    """True if an error was raised by this package, and not by a library that was given nonsense."""
    *_, last = traceback.extract_tb(error.__traceback__)
    return Path(last.filename).parent == Path(__file__).parent
