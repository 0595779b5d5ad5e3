r"""What an answer is made of: numbers and expressions, texts, lists, sets, tuples, intervals, equations, matrices.

A plain text (see notation) is taken apart at its outermost commas, brackets and signs, down to expressions, which only
math-verify can read. Gold and answer are read in the same way.
"""

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass

from open_r1.judging.mathematics.literals import number
from open_r1.judging.mathematics.notation import split_outside_brackets
from open_r1.judging.mathematics.units import split_unit

MAX_SIGNS = 4  # \pm in one expression; each doubles what it stands for
MAX_ITEMS = 256


@dataclass(frozen=True)
class Expression:
    """A number or formula, with its unit if it has one."""

    latex: str
    unit: str = ""


@dataclass(frozen=True)
class Text:
    """Words. `marked` if they stand in \\text{}, so that they cannot be a product of letters."""

    words: str
    marked: bool


@dataclass(frozen=True)
class Sequence:
    """Several things: `brackets` is "" for a bare list, "{}" for a set, or the two signs of a tuple or an interval."""

    brackets: str
    items: tuple["Reading", ...]

    @property
    def ordered(self) -> bool:
        return self.brackets not in ("", "{}")


@dataclass(frozen=True)
class Region:
    """Part of the number line, as intervals (Sequences of two); `name` is the variable that lies in it, if given."""

    name: str
    parts: tuple[Sequence, ...]


@dataclass(frozen=True)
class Equation:
    """`sides` are the plain texts between the equals signs."""

    sides: tuple[str, ...]


@dataclass(frozen=True)
class Relation:
    """An inequality that is no region of one variable."""

    latex: str


@dataclass(frozen=True)
class Matrix:
    """`rows` of cells; `latex` is all of it, for comparison with a product that gives a matrix."""

    rows: tuple[tuple["Reading", ...], ...]
    latex: str


Reading = Expression | Text | Sequence | Region | Equation | Relation | Matrix

_AND_OR = (
    r"(?:\\text\s*\{\s*,?\s*(?:and|or)\s*\}|(?<![A-Za-z\\])(?:and|or)(?![A-Za-z])|\\(?:land|lor|wedge|vee)(?![A-Za-z]))"
)
_COMMA = re.compile(rf"\s*(?:[,;]\s*{_AND_OR}?|{_AND_OR})\s*")
_AND = re.compile(r"(?<![A-Za-z])and(?![A-Za-z])|\\(?:land|wedge)(?![A-Za-z])")
_OR = re.compile(rf"\s*{_AND_OR}\s*")
_THOUSANDS = re.compile(r"(?<![\d,.])\d{1,3}(?:,\d{3})+(?!\d|,\d)")
_EQUALS = re.compile(r"\s*(?:=|\\equiv(?![A-Za-z]))\s*")
_APPROXIMATELY = re.compile(r"\s*\\approx(?![A-Za-z])\s*")
_ORDER = re.compile(r"\s*(\\le(?![A-Za-z])|\\ge(?![A-Za-z])|<|>)\s*")
_UNEQUAL = re.compile(r"\s*\\ne(?![A-Za-z])\s*")
_SET_BUILDER = re.compile(r"\\\{\s*(?P<name>[A-Za-z])(?:\s*\\in\s*\\mathbb\{R\})?\s*[:|]\s*(?P<condition>[^:|]+)\\\}")
_WITHOUT = re.compile(r"\s*(?:\\setminus(?![A-Za-z])|\\backslash(?![A-Za-z])|-)\s*")
_IN = re.compile(r"\s*\\in(?![A-Za-z])\s*")
_UNION = re.compile(r"\s*\\cup(?![A-Za-z])\s*")
_MATRIX = re.compile(
    r"(?:[(\[]\s*)?\\begin\s*\{(?P<kind>[pbB]?(?:small)?matrix|array)\}(?:\s*\{[clr|\s]*\})?(?P<body>.*)\\end\s*\{(?P=kind)\}(?:\s*[)\]])?",
    re.DOTALL,
)
_ROWS = re.compile(r"\s*\\\\(?:\s*\[[^\]]*\])?\s*|\s*\\cr(?![A-Za-z])\s*")
_CELLS = re.compile(r"\s*&\s*")
_WORD = re.compile(r"[A-Za-zÀ-ɏ\u0370-\u03ff\u0400-\u04ff\u3040-\u30ff\u4e00-\u9fff]")
_COMMANDS = re.compile(r"\\[A-Za-z]+")
_NAME_SIGNS = re.compile(r"[A-Za-z\\(){}|,'_ \d\[\]]+")
_SUBSCRIPT = re.compile(r"_\s*(?:\{[^{}]*\}|\w)")
_REALS = re.compile(r"\\mathbb\s*\{?\s*R\s*\}?")
_FLIPPED = {"<": ">", ">": "<", r"\le": r"\ge", r"\ge": r"\le"}
_BRACKET_OF = {"<": "()", r"\le": "[]", ">": "()", r"\ge": "[]"}


def read(plain: str) -> Reading:
    """The outermost structure of a plain text, its parts read in turn."""
    plain = _without_outer_group(plain)
    if number(plain) is not None:
        return Expression(plain)
    together = _with_thousands_joined(plain)
    parts = [part for part in split_outside_brackets(together, _COMMA) if part]
    if len(parts) > 1 and not _is_prose(together):
        regions = _alternatives(together)
        return regions if regions else _list(parts)
    readings = [together] if together.startswith(r"\{") else _signs_written_out(together)  # a set holds its own
    return _one(readings[0]) if len(readings) == 1 else Sequence("", tuple(_one(reading) for reading in readings))


def _with_thousands_joined(plain: str) -> str:
    """`1,234` as 1234 where no bracket says that the comma is one of a tuple."""
    parts, end = [], 0
    for match in _THOUSANDS.finditer(plain):
        before = plain[: match.start()]
        if all(before.count(opening) <= before.count(closing) for opening, closing in ("()", "[]", "{}")):
            parts += [plain[end : match.start()], match.group().replace(",", "")]
            end = match.end()
    return "".join([*parts, plain[end:]])


def _list(parts: list[str]) -> Sequence:
    """A bare list, with both values of every `\\pm` in it."""
    items = itertools.chain.from_iterable(_signs_written_out(part) for part in parts[:MAX_ITEMS])
    return Sequence("", tuple(_one(item) for item in items))


def _one(plain: str) -> Reading:
    """What is no bare list."""
    plain = _without_outer_group(plain.strip())
    exact = [part for part in split_outside_brackets(plain, _APPROXIMATELY) if part]
    if len(exact) > 1:
        return _one(exact[-1] if is_name(exact[0]) else exact[0])
    sides = split_outside_brackets(plain, _EQUALS)
    if len(sides) > 1 and all(sides):
        return Equation(tuple(sides))
    region = _region(plain)
    if region is not None:
        return region
    if split_outside_brackets(plain, _ORDER)[1:] or split_outside_brackets(plain, _UNEQUAL)[1:]:
        return Relation(plain)
    matrix = _matrix(plain)
    if matrix is not None:
        return matrix
    sequence = _bracketed(plain)
    if sequence is not None:
        return sequence
    if _is_prose(plain):
        return Text(words_of(plain), marked=r"\text" in plain or " " in plain.strip())
    quantity, unit = split_unit(plain)
    if unit:
        inner = read(quantity)
        return Expression(inner.latex, unit) if isinstance(inner, Expression) and not inner.unit else inner
    return Expression(plain)


def _matrix(plain: str) -> Matrix | None:
    match = _MATRIX.fullmatch(plain)
    if match is None or r"\begin" in match["body"]:
        return None
    rows = [row for row in _ROWS.split(match["body"].replace(r"\hline", "")) if row.strip()]
    return Matrix(tuple(tuple(read(cell.strip()) for cell in _CELLS.split(row)) for row in rows), plain)


def _bracketed(plain: str) -> Sequence | None:
    r"""A set, tuple or interval; None if the outer brackets are not a pair, or hold one thing."""
    if plain.startswith(r"\{") and plain.endswith(r"\}"):
        inside = plain[2:-2].strip()
        items = [part for part in split_outside_brackets(inside, _COMMA) if part]
        if _closes_early(plain[1:], "{", "}"):
            return None
        written_out = itertools.chain.from_iterable(_signs_written_out(item) for item in items[:MAX_ITEMS])
        return Sequence("{}", tuple(_one(item) for item in written_out))
    if plain == r"\emptyset":
        return Sequence("{}", ())
    if len(plain) < 2 or plain[0] not in "([" or plain[-1] not in ")]" or _closes_early(plain, "([", ")]"):
        return None
    items = [part for part in split_outside_brackets(plain[1:-1], _COMMA) if part]
    if len(items) < 2:
        return None
    return Sequence(plain[0] + plain[-1], tuple(read(item) for item in items[:MAX_ITEMS]))


def _closes_early(text: str, opening: str, closing: str) -> bool:
    """True if the bracket at the start closes before the end: `(1,2)(3,4)`."""
    depth = 0
    for position, sign in enumerate(text):
        depth += (sign in opening) - (sign in closing)
        if depth == 0 and position < len(text) - 1:
            return True
    return False


def _region(plain: str) -> Region | None:
    r"""`x\in[2,7]`, `2\le x<5`, `x\ne3`, a union of intervals, or all real numbers; None for anything else."""
    builder = _SET_BUILDER.fullmatch(plain)
    if builder:
        inside = read(builder["condition"])
        return inside if isinstance(inside, Region) and inside.name in ("", builder["name"].strip()) else None
    around = split_outside_brackets(plain, _IN)
    if len(around) == 2 and is_name(around[0]):
        inside = read(around[1])
        if isinstance(inside, Sequence) and inside.ordered and len(inside.items) == 2:
            return Region(around[0], (inside,))
        return Region(around[0], inside.parts) if isinstance(inside, Region) and not inside.name else None
    if _REALS.fullmatch(plain):
        return Region("", (_interval("()", r"-\infty", r"\infty"),))
    holes = _reals_without(plain)
    if holes:
        ends = [r"-\infty", *holes, r"\infty"]
        return Region("", tuple(_interval("()", start, end) for start, end in itertools.pairwise(ends)))
    parts = [_bracketed(part.strip()) for part in split_outside_brackets(plain, _UNION)]
    if len(parts) > 1 and all(part and part.ordered and len(part.items) == 2 for part in parts):
        return Region("", tuple(parts))
    return _inequality(plain)


def _reals_without(plain: str) -> list[str]:
    r"""The numbers that `\mathbb{R}\setminus\{1,2\}` leaves out, in order; empty if that is not what it is."""
    around = split_outside_brackets(plain, _WITHOUT)
    if len(around) != 2 or not _REALS.fullmatch(around[0].strip()):
        return []
    excluded = _bracketed(around[1].strip())
    if excluded is None or excluded.brackets != "{}":
        return []
    numbers = {item.latex: number(item.latex) for item in excluded.items if isinstance(item, Expression)}
    if len(numbers) != len(excluded.items) or None in numbers.values():
        return []
    return sorted(numbers, key=lambda latex: numbers[latex].value)


def _inequality(plain: str) -> Region | None:
    unequal = split_outside_brackets(plain, _UNEQUAL)
    if len(unequal) == 2 and is_name(unequal[0]) and not is_name(unequal[1]):
        hole = unequal[1]
        return Region(unequal[0], (_interval("()", r"-\infty", hole), _interval("()", hole, r"\infty")))
    sides = split_outside_brackets(plain, _ORDER)
    signs = [match.group(1) for match in _ORDER.finditer(plain)]
    if len(signs) != len(sides) - 1 or not all(sides):
        return None
    if len(sides) == 2:
        if is_name(sides[1]) and not is_name(sides[0]):
            sides, signs = sides[::-1], [_FLIPPED[signs[0]]]
        if not is_name(sides[0]) or is_name(sides[1]):
            return None
        bound, bracket = sides[1], _BRACKET_OF[signs[0]]
        if signs[0] in (">", r"\ge"):
            return Region(sides[0], (_interval(bracket[0] + ")", bound, r"\infty"),))
        return Region(sides[0], (_interval("(" + bracket[1], r"-\infty", bound),))
    if len(sides) == 3 and is_name(sides[1]):
        if all(sign in (">", r"\ge") for sign in signs):
            sides, signs = sides[::-1], [_FLIPPED[sign] for sign in reversed(signs)]
        if all(sign in ("<", r"\le") for sign in signs):
            brackets = _BRACKET_OF[signs[0]][0] + _BRACKET_OF[signs[1]][1]
            return Region(sides[1], (_interval(brackets, sides[0], sides[2]),))
    return None


def _alternatives(plain: str) -> Region | None:
    """`x<1 or x>2` as one region, `x>1 and x<2` as an interval; None unless all parts are about the same variable."""
    parts = [part for part in split_outside_brackets(plain, _OR) if part]
    regions = [_region(part) for part in parts]
    if len(parts) < 2 or not all(regions) or len({region.name for region in regions}) > 1:
        return None
    if not _AND.search(plain):
        return Region(regions[0].name, tuple(itertools.chain.from_iterable(region.parts for region in regions)))
    halves = [region.parts[0] for region in regions if len(region.parts) == 1]
    below = [half for half in halves if half.items[0] == Expression(r"-\infty")]
    above = [half for half in halves if half.items[1] == Expression(r"\infty")]
    if len(parts) != 2 or len(below) != 1 or len(above) != 1 or below == above:
        return None
    interval = Sequence(above[0].brackets[0] + below[0].brackets[1], (above[0].items[0], below[0].items[1]))
    return Region(regions[0].name, (interval,))


def _interval(brackets: str, start: str, end: str) -> Sequence:
    return Sequence(brackets, (read(start), read(end)))


def _signs_written_out(plain: str) -> list[str]:
    r"""`1\pm\sqrt2` as its two values. Several \pm are independent, unless a \mp ties them together."""
    count = len(re.findall(r"\\pm(?![A-Za-z])", plain))
    tied = bool(re.search(r"\\mp(?![A-Za-z])", plain))
    if (count == 0 and not tied) or (count > MAX_SIGNS and not tied):
        return [plain]
    if tied:
        return [
            re.sub(r"\\mp(?![A-Za-z])\s*", lower, re.sub(r"\\pm(?![A-Za-z])\s*", upper, plain))
            for upper, lower in (("+", "-"), ("-", "+"))
        ]
    values = []
    for signs in itertools.product("+-", repeat=count):
        remaining = iter(signs)
        values.append(re.sub(r"\\pm(?![A-Za-z])\s*", lambda match, signs=remaining: next(signs), plain))
    return [re.sub(r"(^|[(=])\s*\+", r"\1", value) for value in values]


def _without_outer_group(plain: str) -> str:
    """`(5)` is 5; `(1,2)` stays."""
    plain = plain.strip()
    while plain.startswith("(") and plain.endswith(")") and not _closes_early(plain, "(", ")"):
        inside = plain[1:-1].strip()
        if not inside or len(split_outside_brackets(inside, _COMMA)) > 1:
            break
        plain = inside
    return plain


def is_name(text: str) -> bool:
    r"""True for what stands left of an equals sign without being computed: `x`, `x_1`, `f(x)`, `\angle ABC`."""
    text = _SUBSCRIPT.sub("", text.strip())
    if not text or len(text) > 40 or any(sign.isdigit() for sign in text) or not _NAME_SIGNS.fullmatch(text):
        return bool(text.startswith(r"\text") and "}" in text and not any(sign.isdigit() for sign in text))
    computed = any(command in text for command in (r"\infty", r"\pi", r"\sqrt"))
    return not computed and any(sign.isalpha() for sign in text)


_CHOICE = re.compile(r"\\text\s*\{\s*\(?[A-H]\)?\s*\.?\s*\}")
_ARTICLE = re.compile(r"^(?:an?|the) (?=\w)")
_FUNCTIONS = re.compile(
    r"(?<![A-Za-z])(?:sin|cos|tan|cot|sec|csc|log|ln|exp|sqrt|pi|arcsin|arccos|arctan|max|min|gcd|lcm|det|mod)(?![A-Za-z])"
)


def _is_prose(plain: str) -> bool:
    r"""True if words are all that the text is made of, but for punctuation: `\text{Yes}`, `Evelyn`, `no solution`."""
    inside_text = re.sub(r"\\text\s*\{([^{}]*)\}", r" \1 ", plain)
    if _COMMANDS.search(inside_text) or re.search(r"[=<>^_+*/|{}\\%$]", inside_text):
        return False
    if _CHOICE.match(plain):
        return True
    if any(sign.isdigit() for sign in inside_text):  # `8 AM` is no text with a number but a number with a unit
        return bool(re.match(r"\s*[A-Za-z]{2,}", inside_text)) and r"\text" not in plain.partition(" ")[0][1:]
    letters = [word for word in re.findall(r"[^\W\d_]+", inside_text) if _WORD.match(word)]
    if not letters or _FUNCTIONS.search(inside_text):
        return False
    if r"\text" in plain:
        return bool(re.match(r"\s*\(?\s*\\text", plain))
    return any(len(word) >= 3 for word in letters) or (len(letters) > 1 and any(len(word) >= 2 for word in letters))


def words_of(plain: str) -> str:
    """The words of a text in lower case, without markup, punctuation and the brackets round a choice."""
    text = re.sub(r"\\text\s*\{([^{}]*)\}", r" \1 ", plain)
    return _ARTICLE.sub("", " ".join(re.findall(r"[^\W_]+", text.casefold())))


def expressions(reading: Reading) -> Iterator[str]:
    """The LaTeX of every expression in a reading, for whoever must parse them all."""
    match reading:
        case Expression():
            yield reading.latex
        case Sequence():
            for item in reading.items:
                yield from expressions(item)
        case Region():
            for part in reading.parts:
                yield from expressions(part)
        case Equation():
            sides = reading.sides[1:] if is_name(reading.sides[0]) else reading.sides
            for side in sides:
                yield from expressions(read(side))
        case Relation():
            yield reading.latex
        case Matrix():
            for row in reading.rows:
                for cell in row:
                    yield from expressions(cell)
