r"""What a text is made of, as IFEval counts it: words, sentences, paragraphs, bullets, highlights, sections, a title.

Every function takes time in proportion to the text, since a policy may well write a megabyte of brackets: no search
begins at many places and runs to the end of the line from each. Lines end with `\n` alone (`plain_line_ends`).
"""

import re
from collections.abc import Iterable, Iterator

WORD = re.compile(r"\w++")
JOINED_WORD = re.compile(r"\w++(?:[-'’./]\w++)*+")
HIGHLIGHT = re.compile(r"\*([^*\n]*+)\*")
DOUBLE_HIGHLIGHT = re.compile(r"\*\*([^*\n]*+)\*\*")
# Stops, and the quotes, brackets and markup that close behind them. Latin ones count before a blank or the end of the
# text, so that 3.14 and example.com are whole; the full-width ones stand without blanks. A run of stops is tried once.
STOP = re.compile(r"(?<![.!?…])([.!?…]++)[\"'”’»)\]*_`]*+(?=\s|\Z)|[。！？]++[”’」』）]*+")
# Abbreviations, each between blanks: before a name or a number, and such as may end a sentence, too.
NEVER_LAST = " mr mrs ms mx dr prof rev hon gen col maj capt cpt lt sgt st mt messrs e.g i.e cf viz vs fig figs eq vol "
MAYBE_LAST = (
    " etc inc ltd co corp jr sr bros dept est approx ca ed eds pp"
    " jan feb mar apr jun jul aug sep sept oct nov dec mon tue wed thu fri sat sun "
)
STARTERS = (  # words that often begin a sentence
    " a an and as at but for he her his how however i if in it its my no on our she so that the their then there"
    " therefore these they this those thus to we what when where while who why with you your "
)
DOTTED = re.compile(r"(?:[A-Za-z]{1,2}\.)+[A-Za-z]{1,2}")  # U.S, a.m, Ph.D
LONGEST_ABBREVIATION = 12  # characters that are looked at before a full stop
NEXT_WORD = re.compile(r"\s*+[\"'“‘(\[*_]*+(\w*+)")
ENDS_OF_FIRST_WORD = re.compile(r"[.,?!'\"]")


def plain_line_ends(text: str) -> str:
    r"""The text with `\n` where Windows (`\r\n`) or an old Mac (`\r`) ends a line."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def num_words(text: str) -> int:
    """Runs of letters, digits and underscores: `don't` is two words, `well-known` too."""
    return sum(1 for _ in WORD.finditer(text))


def num_capital_words(text: str) -> int:
    """Words with a capital letter and no small one; what a hyphen, an apostrophe, a dot or a slash joins is one."""
    return sum(word[0].isupper() for word in JOINED_WORD.finditer(text))


def num_occurrences(text: str, phrase: str, whole_words: bool = False) -> int:
    """How often the phrase stands in the text, in any case; with `whole_words` not as part of a word."""
    text, phrase = text.lower(), phrase.lower()
    return sum(1 for _ in _whole(phrase).finditer(text)) if whole_words else text.count(phrase)


def named_options(text: str, options: Iterable[str]) -> set[str]:
    """Those of the options that the text names, not as part of a word or of a longer option."""
    longest_first = sorted(options, key=len, reverse=True)
    return {match[0] for match in _whole(*longest_first).finditer(text)}


def _whole(*phrases: str) -> re.Pattern:
    return re.compile(rf"(?<!\w)(?:{'|'.join(re.escape(phrase) for phrase in phrases)})(?!\w)")


def num_sentences(text: str) -> int:
    """Sentences: what ends with a stop, and a rest that ends with none; each has a letter or a digit in it.

    A full stop behind a title (`Dr.`) or `e.g.` ends nothing, behind an initial or another abbreviation only what a
    word follows that often begins a sentence. The `1.` before `Add salt.` is a sentence, as it is to both checkers.
    """
    count, start = 0, 0
    for stop in STOP.finditer(text):
        if _ends_sentence(text, stop):
            count += WORD.search(text, start, stop.start()) is not None
            start = stop.end()
    return count + (WORD.search(text, start) is not None)


def _ends_sentence(text: str, stop: re.Match) -> bool:
    stops = stop[1] or "。"
    if not set(stops) <= {".", "…"}:
        return True
    next_word = NEXT_WORD.match(text, stop.end())[1]
    if stops != ".":
        return not next_word[:1].islower()
    before = text[max(0, stop.start() - LONGEST_ABBREVIATION) : stop.start()]
    token = (before.split() or [""])[-1].lstrip("([\"'“‘*_")
    abbreviation = f" {token.casefold()} "
    if abbreviation in NEVER_LAST:
        return False
    is_initial = len(token) == 1 and token.isupper() and token != "I"
    if is_initial or abbreviation in MAYBE_LAST or DOTTED.fullmatch(token):
        return next_word[:1].isupper() and f" {next_word.casefold()} " in STARTERS
    return not (token.isdigit() and next_word[:1].islower())


def first_word(paragraph: str) -> str:
    """The first word in small letters, without quotes before it, up to its first punctuation; empty if there is none.

    Markup is part of it: of `**Note** that` the first word is `**note**`.
    """
    word = (paragraph.split(maxsplit=1) or [""])[0].lstrip("'").lstrip('"')
    return ENDS_OF_FIRST_WORD.split(word, maxsplit=1)[0].lower()


def between(text: str, divider: str) -> list[str] | None:
    """What stands between the dividers, and before the first and behind the last; None if two have nothing between.

    Nothing before the first or behind the last is no part.
    """
    parts = [part.strip() for part in text.split(divider)]
    if not all(parts[1:-1]):
        return None
    return [part for part in parts if part]


def num_placeholders(text: str) -> int:
    """Pairs of square brackets on one line, each to the next that closes: `[name]`, `[]`; `[[x]]` is one."""
    return sum(1 for _ in _bracketed(text))


def _bracketed(text: str) -> Iterator[str]:
    for line in text.split("\n"):
        position = 0
        while (start := line.find("[", position)) != -1 and (end := line.find("]", start)) != -1:
            yield line[start + 1 : end]
            position = end + 1


def num_bullets(text: str) -> int:
    """Lines that begin with `-`, or with `*` and another sign: `---` is a bullet, and `**bold**` is none."""
    lines = (line.lstrip() for line in text.split("\n"))
    return sum(line.startswith("-") or (line[:1] == "*" and line[1:2] not in ("", "*")) for line in lines)


def num_highlights(text: str) -> int:
    """`*marked*` and `**marked**` pieces of a line with something in them; `***marked***` is both, and counts twice."""
    return sum(
        bool(marked[1].strip()) for pattern in (HIGHLIGHT, DOUBLE_HIGHLIGHT) for marked in pattern.finditer(text)
    )


def has_postscript(text: str, marker: str) -> bool:
    """True if the marker stands in the text, in any case; behind each of its dots there may be a blank."""
    pattern = re.escape(marker.lower()).replace(r"\.", r"\.\s?")
    return re.search(pattern, text.lower()) is not None


def num_sections(text: str, splitter: str) -> int:
    """How often the splitter stands before a number, with a blank between them or none: `Section 1`."""
    return sum(1 for _ in re.finditer(rf"{re.escape(splitter)}\s?[0-9]", text))


def has_title(text: str) -> bool:
    """True if a line has `<<…>>` with more in it than blanks and angular brackets at its ends."""
    for line in text.split("\n"):
        start, end = line.find("<<"), line.rfind(">>")
        if 0 <= start < end and line[start:end].lstrip("<").rstrip(">").strip():
            return True
    return False


def without_fence(text: str) -> str:
    """What stands in a fenced block that is the whole text; the text itself if it is none."""
    text = text.strip()
    if text[:7].lower() == "```json":
        text = text[7:]
    return text.removeprefix("```").removesuffix("```").strip()
