"""One notation for the many in which people and models write the same answer: plain text in, plain text out.

Only the spelling changes here, never the value. All of it takes time linear in the text, and nothing is evaluated.
"""

import re
from collections.abc import Iterator

MAX_NESTING = 64  # brackets within brackets; a deeper answer is not one that a person would write

COMMANDS = r"""
    × \times   · \cdot   ⋅ \cdot   ÷ \div   √ \sqrt   ± \pm   ∓ \mp   ∞ \infty   π \pi   θ \theta   α \alpha   β \beta
    ≤ \le   ⩽ \le   ≥ \ge   ⩾ \ge   ≠ \ne   ≈ \approx   ∪ \cup   ∩ \cap   ∈ \in   ∅ \emptyset   ℝ \mathbb{R}   ° ^\circ
    ½ \frac{1}{2}   ⅓ \frac{1}{3}   ⅔ \frac{2}{3}   ¼ \frac{1}{4}   ¾ \frac{3}{4}   ⅛ \frac{1}{8}
"""
_UNICODE = str.maketrans(
    {sign: f"{command} " for sign, command in zip(COMMANDS.split()[::2], COMMANDS.split()[1::2], strict=True)}
    | {sign: f"^{{{value}}}" for value, sign in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")}
    | {sign: f"_{{{value}}}" for value, sign in enumerate("₀₁₂₃₄₅₆₇₈₉")}
    | dict(zip("−–—﹣－，；：（）＝％“”‘’\u00a0\u2009\u202f", "-----,;:()=%\"\"''   ", strict=True))
)
_SPELLINGS = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (
            r"\\(?:left|right|bigl?|bigr|Bigl?|Bigr|biggl?|biggr|Biggl?|Biggr|displaystyle|textstyle|limits)(?![A-Za-z])\.?",
            "",
        ),
        (r",\\!\s*", ","),
        (r"\{,\}", ","),
        (r"(?<!\\)\\[,;:!> ]|\\(?:quad|qquad|thinspace|hfill)(?![A-Za-z])|~", " "),
        (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
        (r"\\(?:dbinom|tbinom)(?![A-Za-z])", r"\\binom"),
        (
            r"\\(?:mbox|textbf|textrm|textit|textsf|texttt|textnormal|mathrm|mathbf|mathit|mathsf|boldsymbol|operatorname\*?)(?=\s*\{)",
            r"\\text",
        ),
        (r"\{\\(?:rm|bf|it) ([^{}]*)\}", r"\\text{\1}"),
        (r"\\(?:boxed|fbox)(?=\s*\{)", ""),
        (r"\\(?:leqslant|leq)(?![A-Za-z])|<=", r"\\le "),
        (r"\\(?:geqslant|geq)(?![A-Za-z])|>=", r"\\ge "),
        (r"\\neq(?![A-Za-z])|!=", r"\\ne "),
        (r"\\lt(?![A-Za-z])", "<"),
        (r"\\gt(?![A-Za-z])", ">"),
        (r"\\log\s*_\s*(?:e(?![A-Za-z])|\{\s*e\s*\})", r"\\ln "),
        (r"\\(?:infin|infty)(?![A-Za-z])|(?<![A-Za-z\\])(?:infinity|inf|oo)(?![A-Za-z])", r"\\infty "),
        (r"\\varnothing(?![A-Za-z])", r"\\emptyset "),
        (r"\\(?:lbrace|\{)", r"\\{"),
        (r"\\(?:rbrace|\})", r"\\}"),
        (r"\\(?:lbrack)(?![A-Za-z])", "["),
        (r"\\(?:rbrack)(?![A-Za-z])", "]"),
        (r"\\(?:langle)(?![A-Za-z])", "("),
        (r"\\(?:rangle)(?![A-Za-z])", ")"),
        (r"\\(?:lvert|rvert|mid|vert)(?![A-Za-z])", "|"),
        (r"\\(?:colon)(?![A-Za-z])", ":"),
        (r"\^\s*\{?\s*\\(?:circ|degree)\s*\}?|\\degree(?![A-Za-z])", r"^\\circ "),
        (r"\\%|\\text\s*\{\s*percent\s*\}|(?<=[\d}]) percent(?![A-Za-z])", "%"),
        (r"(?<![A-Za-z\\])(sqrt|pi)(?![A-Za-z])", r"\\\1 "),
        (r"(?<=\d)i(?![A-Za-z])", " i"),  # math-verify does not see the i of 2i
        (r"\*\*(?=[\w({\\-])(?<=[\w)}]\*\*)", "^"),
    )
]
_LEAD_IN = re.compile(
    r"(?:(?:so|thus|hence|therefore),?\s+)?(?:the\s+)?(?:final\s+)?answer(?:\s+is|\s*=|\s*:)\s*:?\s*", re.IGNORECASE
)
_ARGUMENTS = {r"\frac": 2, r"\binom": 2, r"\sqrt": 1}
_COMMAND = re.compile(r"\\(?:[A-Za-z]+|.)", re.DOTALL)
_SHORT_EXPONENT = re.compile(r"([\^_])\s*(-?\d+)")
_OPENING, _CLOSING = "([{", ")]}"


def spelled_plainly(text: str) -> str:
    r"""The same answer without delimiters, spacing, sizes and shorthand: `$\dfrac12$.` -> `\frac{1}{2}`."""
    text = text.translate(_UNICODE).strip()
    text = _without_delimiters(text)
    for pattern, replacement in _SPELLINGS:
        text = pattern.sub(replacement, text)
    text = _SHORT_EXPONENT.sub(r"\1{\2}", text)
    text = _with_braces(" ".join(text.split()))
    return _without_frame(text)


def _without_delimiters(text: str) -> str:
    """Without `$`, `\\(`, `\\[` and markdown's stars. A dollar sign that pairs with no other is money."""
    text = re.sub(r"(?<!\\)\\[()\[\]]", " ", text)
    text = text.replace("$$", "$")
    money = text.replace(r"\$", "").count("$") % 2
    if money and text.startswith("$"):
        text = r"\$" + text[1:]
    text = re.sub(r"(?<!\\)\$", " ", text)
    return re.sub(r"\*\*(.+?)\*\*", r"\1", text) if text.startswith("**") else text


def _without_frame(text: str) -> str:
    """Without a lead-in, a final dot, and brace groups or quotes round the whole."""
    before = None
    while before != text:
        before = text
        text = _LEAD_IN.sub("", text, count=1) if _LEAD_IN.match(text) else text
        text = text.strip().rstrip(".,;:").rstrip() if not text.rstrip().endswith("\\") else text.strip()
        if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'`":
            text = text[1:-1]
        if text.startswith("{") and _closing(text, 0) == len(text) - 1:
            text = text[1:-1]
    return text


def _with_braces(text: str) -> str:
    r"""Every argument of \frac, \sqrt and \binom in braces: `\frac12` -> `\frac{1}{2}`, `\sqrt2x` -> `\sqrt{2}x`.

    The value of TeX's shorthand is its first token: `\frac123` is (1/2)3. `\sqrt` of a number takes the whole number
    (`\sqrt12` is meant as the root of 12, whatever TeX prints).
    """
    result, position = [], 0
    while True:
        match = _COMMAND.search(text, position)
        if match is None:
            result.append(text[position:])
            return "".join(result)
        result.append(text[position : match.end()])
        position = match.end()
        command = match.group()
        if command == r"\sqrt":
            position = _skip_spaces(text, position)
            if text[position : position + 1] == "[":
                end = text.find("]", position)
                if end != -1:
                    result.append(text[position : end + 1])
                    position = end + 1
        for _ in range(_ARGUMENTS.get(command, 0)):
            position = _skip_spaces(text, position)
            if position >= len(text) or text[position] == "{":
                if position < len(text) and text[position] == "{" and _ARGUMENTS[command] == 2:
                    end = _closing(text, position)
                    if end is None:
                        break
                    result.append("{" + _with_braces(text[position + 1 : end]) + "}")
                    position = end + 1
                continue
            if text[position] == "(" and command == r"\sqrt":
                end = _closing(text, position)
                if end is not None:
                    result.append("{" + text[position + 1 : end] + "}")
                    position = end + 1
                continue
            number = re.compile(r"\d+").match(text, position) if command == r"\sqrt" else None
            token = number or _COMMAND.match(text, position)
            end = token.end() if token else position + 1
            result.append("{" + text[position:end] + "}")
            position = end


def _skip_spaces(text: str, position: int) -> int:
    while position < len(text) and text[position] == " ":
        position += 1
    return position


def _closing(text: str, start: int) -> int | None:
    """Where the bracket that opens at `start` closes; None if it does not."""
    depth = 0
    for position, sign in brackets(text, start):
        depth += 1 if sign in _OPENING else -1
        if depth == 0:
            return position
    return None


def brackets(text: str, start: int = 0) -> Iterator[tuple[int, str]]:
    r"""Position and sign of each bracket from `start`; of `\{` the position is the brace's."""
    for position in range(start, len(text)):
        if text[position] in "([{)]}":
            yield position, text[position]


def is_balanced(text: str) -> bool:
    """True if braces close and none closes that was not open. Round and square ones may cross: `[0, 1)`."""
    depth = 0
    for _, sign in brackets(text):
        depth += {"{": 1, "}": -1}.get(sign, 0)
        if depth < 0:
            return False
    return depth == 0 and text.count(r"\begin{") == text.count(r"\end{")


def nesting(text: str) -> int:
    """How deep the brackets of the text go."""
    depth = deepest = 0
    for _, sign in brackets(text):
        depth += 1 if sign in _OPENING else -1
        deepest = max(deepest, depth)
    return deepest


def split_outside_brackets(text: str, separator: re.Pattern) -> list[str]:
    """The parts of `text` between the matches of `separator` that stand in no bracket and no environment."""
    parts, start, position, depth = [], 0, 0, 0
    while position < len(text):
        if depth == 0 and (match := separator.match(text, position)) and match.end() > position:
            parts.append(text[start:position])
            start = position = match.end()
            continue
        sign = text[position]
        if sign in _OPENING or text.startswith(r"\begin", position):
            depth += 1
        elif sign in _CLOSING:
            depth = max(0, depth - 1)
        if text.startswith(r"\end", position):
            depth = max(0, depth - 1)
        if sign == "\\" and position + 1 < len(text) and text[position + 1] not in "{}":
            position += 1  # \\ and \% are no brackets, whatever follows
        position += 1
    return [*parts, text[start:]]
