"""Does an answer mean what the gold means? The policy stands in README.md beside this file; each of its rows is tested.

Gold and answer are taken apart in the same way (reading); numbers agree by exact arithmetic (literals); expressions are
parsed by math-verify, told apart by their values, and left to math-verify's verification where values cannot decide.
Nothing here has a time limit: whoever calls it gives it a process with a budget (worker).
"""

import functools
import itertools
import re
import traceback
from pathlib import Path

import sympy
from latex2sympy2_extended import NormalizationConfig
from math_verify import LatexExtractionConfig, parse, verify
from sympy import Basic, Float, Integer, MatrixBase, Rational, Set, Tuple
from sympy.core.random import seed as seed_sympy
from sympy.core.relational import Relational
from sympy.logic.boolalg import Boolean

from open_r1.judging.literals import Number, is_unfinished_arithmetic, number, rounds, same_number
from open_r1.judging.notation import spelled_plainly
from open_r1.judging.reading import (
    Equation,
    Expression,
    Matrix,
    Reading,
    Region,
    Relation,
    Sequence,
    Text,
    expressions,
    is_name,
    read,
    words_of,
)
from open_r1.judging.shortcut import content_of, problem_of, without_algebra
from open_r1.judging.units import conversion
from open_r1.judging.values import certainly_differ
from open_r1.judging.verdict import UNPARSED_GOLD, Verdict

MAX_WORDS = 12  # of a gold that is a text; more is a solution, not an answer
EXTRACTION = [
    LatexExtractionConfig(
        boxed_match_priority=0,
        normalization_config=NormalizationConfig(
            basic_latex=True, units=False, malformed_operators=False, nits=False, boxed="last", equations=False
        ),
    )
]
NO_ALARM = 0  # math-verify's own time-outs are wall-clock and need a main thread; here the process has a budget
CHOICES = {*"abcdefgh", "or", "and"}  # words behind a choice that make it none
DIGITS = 30
MAX_DIGITS = 400  # with which sympy may compute a difference to find DIGITS of it
AGREEMENT = Rational(1, 10**200)  # relative; 1/2004! and 1/2006! differ, and so do 10^{90}+1 and 10^{90}+2
WARMING = [
    (r"x^2+3x-6", r"x^{2}-\frac{3x}{2}+6"),
    (r"\frac{\sqrt{3}}{3}", r"-2\sqrt[3]{5}+1"),
    (r"\frac{11\sqrt{2}+a}{4b}", r"3(x+1)(y-2)"),
    (r"12\pi", r"\frac{\pi^2}{6}-e^{2x}"),
    (r"3+4i", r"3-4i"),
    (r"\log_2 5+\ln x", r"\log_{10}(x)-\sin^2 x"),
    (r"\tan x", r"\frac{\cos(2x)}{1-\sin x}"),
    (r"n!", r"\binom{n}{2}\cdot 2^{n-1}"),
    (r"(-\infty,\sqrt{2})", r"x<\sqrt{2}"),
    (r"y=2x+3", r"2x-y+3=0"),
    (r"(1,\sqrt{2})", r"(1,\frac{\sqrt{8}}{2})"),
    (r"|x-1|", r"\sqrt{(x-1)^2}"),
    (r"a_1+a_{n}", r"A\times B\div 2"),
    (r"\begin{pmatrix} 1 \\ \sqrt{2} \end{pmatrix}", r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}"),
]
PROBES = [Rational(n, 997) for n in (1409, -733, 2861, 389, -1877, 4327)]  # where two formulas are compared
MIN_PROBES = 3


def judge(gold: str, answer: str) -> Verdict:
    """1.0 if the answer means what the gold means, 0.0 if not, None if the gold cannot be parsed. Never raises.

    Except MemoryError and RecursionError, which say more of the answer than of the judge: they are the caller's.
    """
    quickly = without_algebra(gold, answer)
    if quickly:
        return quickly
    problem = gold_problem(gold)
    if problem:
        return Verdict(None, f"{UNPARSED_GOLD}: {problem}")
    problem = problem_of(answer)
    if problem:
        return Verdict(0.0, f"the answer cannot be parsed: {problem}")
    seed_sympy(0)  # simplification draws numbers: a verdict must not depend on what was drawn before
    plain_gold, plain_answer = spelled_plainly(content_of(gold)), spelled_plainly(answer)
    if plain_gold == plain_answer:
        return Verdict(1.0, "the same as written")
    try:
        equal = _same(_read(plain_gold), _read(plain_answer))
    except (MemoryError, RecursionError):
        raise
    except Exception as error:  # sympy raises whatever it likes on what nobody would write
        if _is_ours(error):
            raise  # the judge is broken, and nothing is known of the answer
        return Verdict(0.0, f"cannot be compared with the gold ({type(error).__name__})")
    return Verdict(1.0, "means the same") if equal else Verdict(0.0, "means something else")


def _is_ours(error: BaseException) -> bool:
    """True if an error was raised by this package, and not by a library that was given nonsense."""
    *_, last = traceback.extract_tb(error.__traceback__)
    return Path(last.filename).parent == Path(__file__).parent


def warm_up() -> None:
    """Fills the caches of parser, sympy and units with what answers are made of, so that no answer pays for it.

    ANTLR learns its grammar's decisions as it meets them: the first expression of a kind takes ten times the second.
    """
    for gold, answer in WARMING:
        judge(gold, answer)
    conversion("m", "cm")


@functools.lru_cache(maxsize=65536)
def gold_problem(gold: str) -> str | None:
    """Why a gold cannot be judged against; None if it can."""
    content = content_of(gold)
    problem = problem_of(content)
    if problem:
        return problem
    reading = _read(spelled_plainly(content))
    if isinstance(reading, Text):
        count = len(reading.words.split())
        return f"{count} words are a text, not an answer" if count > MAX_WORDS else None
    for latex in expressions(reading):
        if number(latex) is None and parsed(latex) is None:
            return f"math-verify cannot read {latex!r}"
    return None


@functools.lru_cache(maxsize=65536)
def _read(plain: str) -> Reading:
    return read(plain)


def _same(gold: Reading, answer: Reading) -> bool:
    match gold, answer:
        case Equation(), Equation():
            return _same_equation(gold, answer)
        case Equation(), _:
            return is_name(gold.sides[0]) and _same(_read(gold.sides[-1]), answer)
        case _, Equation():
            named = is_name(answer.sides[0]) or all(number_like(side) for side in answer.sides[:-1])
            return named and _same(gold, _read(answer.sides[-1]))
        case Region(), Region():
            return (not gold.name or not answer.name or gold.name == answer.name) and _same_region(gold, answer)
        case Region(parts=(part,)), Sequence(ordered=True):
            return _same_sequence(part, answer)
        case Sequence(ordered=True), Region(parts=(part,)):
            return _same_sequence(gold, part)
        case Sequence(), Sequence():
            return _same_sequence(gold, answer)
        case Region(), Sequence(brackets=""):
            return _same_region(gold, Region("", _intervals(answer)))
        case Sequence(brackets=""), Region():
            return _same_region(Region("", _intervals(gold)), answer)
        case Matrix(), Matrix():
            return _same_matrix(gold, answer)
        case Matrix(), Expression(unit=""):
            return _verified(gold.latex, answer.latex)
        case Expression(unit=""), Matrix():
            return _verified(gold.latex, answer.latex)
        case Matrix(), Sequence(brackets="()"):
            return _same_items(_vector(gold), answer.items)
        case Sequence(brackets="()"), Matrix():
            return _same_items(gold.items, _vector(answer))
        case Sequence(brackets="{}" | "", items=(single,)), _:
            return _same(single, answer)
        case _, Sequence(brackets="{}" | "", items=(single,)):
            return _same(gold, single)
        case Text(), Text():
            return gold.words == answer.words or _choice(gold.words, answer.words)
        case Text(), _:
            return _same_text(gold, answer)
        case _, Text():
            return _same_text(answer, gold)
        case Expression(), Expression():
            return _same_quantity(gold, answer)
        case Relation(), Relation():
            return _verified(gold.latex, answer.latex)
        case Sequence() | Matrix(), _:
            return False
        case _, Sequence() | Matrix():
            return False
        case _:
            return _verified(_latex_of(gold), _latex_of(answer))


def _latex_of(reading: Reading) -> str:
    return reading.latex if isinstance(reading, Expression | Relation) else ""


def number_like(text: str) -> bool:
    """True for a number, or arithmetic of numbers, as it stands in a chain of equals signs."""
    return number(text) is not None or is_unfinished_arithmetic(text)


def _choice(gold: str, answer: str) -> bool:
    """A choice may be followed by what it says: `(C) 12` for `C`."""
    first, *rest = answer.split() or [""]
    return len(gold) == 1 and gold in "abcdefgh" and first == gold and not any(word in CHOICES for word in rest)


def _same_text(text: Text, other: Reading) -> bool:
    """A text against what does not look like one: `C` for `\\text{(C)}`, `\\text{C}` for `C`."""
    return isinstance(other, Expression) and not other.unit and words_of(other.latex) == text.words


def _same_sequence(gold: Sequence, answer: Sequence) -> bool:
    if gold.ordered and answer.ordered:
        return gold.brackets == answer.brackets and _same_items(gold.items, answer.items)
    if gold.ordered or answer.ordered:
        bare = answer if gold.ordered else gold
        pair = gold if gold.ordered else answer
        return bare.brackets == "" and pair.brackets in ("()", "[]") and _same_items(gold.items, answer.items)
    return _same_collection(gold.items, answer.items, repeats_count="{}" not in (gold.brackets, answer.brackets))


def _same_items(gold: tuple[Reading, ...], answer: tuple[Reading, ...]) -> bool:
    return len(gold) == len(answer) and all(_same(one, other) for one, other in zip(gold, answer, strict=True))


def _same_collection(gold: tuple[Reading, ...], answer: tuple[Reading, ...], repeats_count: bool) -> bool:
    """In any order. In a set a thing that is named twice is there once."""
    if not repeats_count:
        covered = all(any(_same(one, other) for other in answer) for one in gold)
        return covered and all(any(_same(one, other) for one in gold) for other in answer)
    if len(gold) != len(answer):
        return False
    left = list(answer)
    for one in gold:
        found = next((index for index, other in enumerate(left) if _same(one, other)), None)
        if found is None:
            return False
        left.pop(found)
    return True


def _same_region(gold: Region, answer: Region) -> bool:
    if _same_collection(gold.parts, answer.parts, repeats_count=False):
        return True
    sets = [_set_of(region) for region in (gold, answer)]
    return None not in sets and bool(sets[0] == sets[1])


def _intervals(items: Sequence) -> tuple[Sequence, ...]:
    """The items of a list if all are intervals, as in `(0,1) or (2,3)`; empty if one is not."""
    pairs = [item for item in items.items if isinstance(item, Sequence) and item.ordered and len(item.items) == 2]
    return tuple(pairs) if len(pairs) == len(items.items) else ()


def _set_of(region: Region) -> Set | None:
    """The region as sympy's set, in which touching intervals are one; None if an end is no real number."""
    intervals = []
    for part in region.parts:
        ends = [parsed(item.latex) if isinstance(item, Expression) else None for item in part.items]
        if not all(isinstance(end, Basic) and end.is_extended_real and end.is_number for end in ends):
            return None
        intervals.append(sympy.Interval(*ends, left_open=part.brackets[0] == "(", right_open=part.brackets[1] == ")"))
    return sympy.Union(*intervals)


def _vector(matrix: Matrix) -> tuple[Reading, ...]:
    """The entries of a matrix of one row or one column; empty for any other."""
    if len(matrix.rows) == 1:
        return matrix.rows[0]
    return tuple(row[0] for row in matrix.rows) if all(len(row) == 1 for row in matrix.rows) else ()


def _same_matrix(gold: Matrix, answer: Matrix) -> bool:
    return len(gold.rows) == len(answer.rows) and all(
        _same_items(one, other) for one, other in zip(gold.rows, answer.rows, strict=True)
    )


def _same_equation(gold: Equation, answer: Equation) -> bool:
    names = gold.sides[0], answer.sides[0]
    if all(is_name(name) for name in names) and _same(_read(gold.sides[-1]), _read(answer.sides[-1])):
        return _plain_name(names[0]) == _plain_name(names[1])
    if len(gold.sides) != 2 or len(answer.sides) != 2:
        return False
    sides = [parsed(side) for side in (*gold.sides, *answer.sides)]
    if not all(isinstance(side, sympy.Expr) for side in sides):
        return _verified("=".join(gold.sides), "=".join(answer.sides))
    gold_left, gold_right, left, right = sides
    return _proportional(gold_left - gold_right, left - right)


def _plain_name(name: str) -> str:
    return re.sub(r"\\text|[\s{}]", "", name)


def _proportional(gold: sympy.Expr, answer: sympy.Expr) -> bool:
    """True if one vanishes where the other does because it is a constant times the other."""
    if gold.free_symbols != answer.free_symbols or not gold.free_symbols:
        return False
    ratio = sympy.cancel(sympy.together(gold / answer))
    return bool(ratio.is_number and ratio.is_finite and not ratio.is_zero)


def _same_quantity(gold: Expression, answer: Expression) -> bool:
    factor = conversion(gold.unit, answer.unit)
    if factor is None:
        return False
    gold_number, answer_number = number(gold.latex), number(answer.latex)
    if gold_number and answer_number:
        if (gold.unit and answer_number.percent) or (answer.unit and gold_number.percent):
            return False
        if factor != 1:
            answer_number = Number(answer_number.value * factor)
        return same_number(gold_number, answer_number)
    if gold_number and is_unfinished_arithmetic(answer.latex):
        return False
    if factor != 1:
        one, other = parsed(gold.latex), parsed(answer.latex)
        scaled = Rational(factor.numerator, factor.denominator)
        return (
            isinstance(one, sympy.Expr) and isinstance(other, sympy.Expr) and bool(_equal_values(one, other * scaled))
        )
    if gold_number or answer_number:
        written, formula = (gold_number, answer.latex) if gold_number else (answer_number, gold.latex)
        if _rounds_formula(written, parsed(formula)):
            return True
    return _verified(gold.latex, answer.latex) or _letter_is_factor(gold, answer)


def _letter_is_factor(gold: Expression, answer: Expression) -> bool:
    """`2 m` for `2m`: a single letter behind a number may be meant as algebra."""
    if len(gold.unit) + len(answer.unit) != 1:
        return False
    return _verified(f"{gold.latex} {gold.unit}", f"{answer.latex} {answer.unit}")


def _rounds_formula(written: Number, formula) -> bool:
    """True if `written` is a decimal with at least six right digits of a formula without a finite decimal, like pi."""
    if written.decimals is None or not isinstance(formula, sympy.Expr) or formula.free_symbols or formula.is_rational:
        return False
    value = formula.evalf(DIGITS)
    return bool(value.is_Float) and rounds(written, _third_for_irrational(value))


def _third_for_irrational(value: Float):
    """The value as a fraction that has, as an irrational number has, no finite decimal."""
    from fractions import Fraction

    exact = Fraction(int(sympy.floor(value * 3 * Integer(10) ** 30)), 3 * 10**30)
    return exact if exact.denominator % 3 == 0 else exact + Fraction(1, 3 * 10**30)


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
        if _is_ours(error):
            raise
        return None


def _exact(expression):
    """Decimals as fractions; where math-verify finds i about, it leaves a symbol for it and calls no letter real."""
    mended: dict[Basic, Basic] = {value: Rational(str(value)) for value in expression.atoms(Float)}
    for symbol in expression.atoms(sympy.Symbol):
        if not symbol.is_real:
            mended[symbol] = sympy.I if symbol.name == "i" else sympy.Symbol(symbol.name, real=True)
    return expression.xreplace(mended) if mended else expression


def _verified(gold: str, answer: str) -> bool:
    if certainly_differ(gold, answer):
        return False
    one, other = parsed(gold), parsed(answer)
    if one is None or other is None:
        return False
    if one == other:
        return True
    if all(_has_values(side) for side in (one, other)):
        equal = _equal_values(one, other)
        if equal is not None:
            return equal
    return verify([one], [other], timeout_seconds=NO_ALARM)


def _has_values(expression) -> bool:
    return isinstance(expression, sympy.Expr) and not isinstance(expression, Set | Tuple | Relational | Boolean)


def _equal_values(gold: sympy.Expr, answer: sympy.Expr) -> bool | None:
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
