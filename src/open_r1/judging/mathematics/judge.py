"""Does an answer mean what the gold means? The policy stands in README.md beside this file; each of its rows is tested.

Gold and answer are taken apart in the same way (reading); numbers agree by exact arithmetic (literals); expressions are
parsed by math-verify, told apart by their values, and left to math-verify's verification where values cannot decide
(algebra). Nothing here has a time limit: whoever calls it gives it a process with a budget (worker).
"""

import functools
import re

import sympy
from sympy import Basic, Rational, Set
from sympy.core.random import seed as seed_sympy

from open_r1.judging.mathematics.algebra import equal_values, is_ours, parsed, proportional, rounds_formula, verified
from open_r1.judging.mathematics.literals import Number, is_unfinished_arithmetic, number, same_number
from open_r1.judging.mathematics.notation import spelled_plainly
from open_r1.judging.mathematics.reading import (
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
from open_r1.judging.mathematics.shortcut import content_of, problem_of, without_algebra
from open_r1.judging.mathematics.units import conversion
from open_r1.judging.verdict import UNPARSED_GOLD, Verdict

MAX_WORDS = 12  # of a gold that is a text; more is a solution, not an answer
CHOICES = {*"abcdefgh", "or", "and"}  # words behind a choice that make it none
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
        if is_ours(error):
            raise  # the judge is broken, and nothing is known of the answer
        return Verdict(0.0, f"cannot be compared with the gold ({type(error).__name__})")
    return Verdict(1.0, "means the same") if equal else Verdict(0.0, "means something else")


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
            return verified(gold.latex, answer.latex)
        case Expression(unit=""), Matrix():
            return verified(gold.latex, answer.latex)
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
            return verified(gold.latex, answer.latex)
        case Sequence() | Matrix(), _:
            return False
        case _, Sequence() | Matrix():
            return False
        case _:
            return verified(_latex_of(gold), _latex_of(answer))


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
        return verified("=".join(gold.sides), "=".join(answer.sides))
    gold_left, gold_right, left, right = sides
    return proportional(gold_left - gold_right, left - right)


def _plain_name(name: str) -> str:
    return re.sub(r"\\text|[\s{}]", "", name)


def _in_degrees(quantity: Expression) -> Expression:
    """An angle in radians, in degrees: the one conversion that is no fraction."""
    if quantity.unit.lower() not in ("rad", "rads", "radian", "radians"):
        return quantity
    return Expression(rf"\frac{{180}}{{\pi}} \cdot ({quantity.latex})", "degree")


def _same_quantity(gold: Expression, answer: Expression) -> bool:
    if gold.unit and answer.unit and (_in_degrees(gold), _in_degrees(answer)) != (gold, answer):
        gold, answer = _in_degrees(gold), _in_degrees(answer)
        return conversion(gold.unit, answer.unit) == 1 and verified(gold.latex, answer.latex)
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
        return isinstance(one, sympy.Expr) and isinstance(other, sympy.Expr) and bool(equal_values(one, other * scaled))
    if gold_number or answer_number:
        written, formula = (gold_number, answer.latex) if gold_number else (answer_number, gold.latex)
        if rounds_formula(written, parsed(formula)):
            return True
    return verified(gold.latex, answer.latex) or _letter_is_factor(gold, answer)


def _letter_is_factor(gold: Expression, answer: Expression) -> bool:
    """`2 m` for `2m`: a single letter behind a number may be meant as algebra."""
    if len(gold.unit) + len(answer.unit) != 1:
        return False
    return verified(f"{gold.latex} {gold.unit}", f"{answer.latex} {answer.unit}")
