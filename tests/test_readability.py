"""Completions that cannot be read, with the reason, and their like that can."""

import subprocess
import sys

import pytest

from open_r1.curation.readability import FILTERS, keep_problems, unreadable
from open_r1.recipe import Keep, Thinking
from open_r1.rewards.language import SCRIPTS

ENGLISH = (
    "We are looking for the largest number that divides both of them. Since the first one is even and the second one "
    "is not, the answer has to be odd. Let us try three first, because the sum of the digits is easy to see."
)
GERMAN = (
    "Wir suchen die größte Zahl, die beide teilt. Weil die erste gerade ist und die zweite nicht, muss die Antwort "
    "ungerade sein. Versuchen wir es zuerst mit der Drei, denn die Quersumme sieht man leicht."
)
CHINESE = "我们要找能同时整除这两个数的最大整数。因为第一个数是偶数，第二个数是奇数，所以答案一定是奇数。"
LATEX = (
    "Let $f(x) = \\frac{3x-2}{x-2}$. Then\n\\[\n\\sum_{k=1}^\\infty \\frac{1}{k^2} = \\frac{\\pi^2}{6}, \\quad "
    "\\int_0^1 x^n \\, dx = \\frac{1}{n+1}\n\\]\nand so \\(f(-2) + f(-1) + f(0)\\) is the sum that we want:\n"
    "$$f(-2) = \\frac{-8}{-4} = 2$$\n\\begin{align*} a &= 3x^2 \\\\ b &= \\sqrt{x} \\end{align*}\n"
    "It is \\boxed{\\frac{14}{3}}."
)
SUMS = "7+5=12\n12+8=20"
CODE = "Let us see what it prints.\n```python\nfor i in range(3):\n    print(i)\n```\nSo it counts."
LONG_PARAGRAPH = "the number is even and " * 80  # 400 words


def thought(thinking: str, answer: str = "The answer is \\boxed{3}.") -> str:
    return f"<think>\n{thinking}\n</think>\n\n{answer}"


READ_AS = {  # text, keys of keep, thinking.prefilled, reason
    # --- the thinking's form, which is always looked at
    "one block of thinking": (thought(ENGLISH), {}, False, None),
    "no thinking at all": (SUMS, {}, False, None),
    "the thinking goes on from the prompt": (f"{ENGLISH}</think>So 3.", {}, True, None),
    "thinking that never ends": (f"<think>{ENGLISH}", {}, False, "wrong_thinking_format"),
    "thinking of the prompt that never ends": (ENGLISH, {}, True, "wrong_thinking_format"),
    "thinking that ends without a beginning": (f"{ENGLISH}</think>So 3.", {}, False, "wrong_thinking_format"),
    "the same, where nobody knows what the prompt wrote": (f"{ENGLISH}</think>So 3.", {}, None, None),
    "two blocks of thinking": (thought(ENGLISH) + thought(ENGLISH), {}, False, "wrong_thinking_format"),
    "opened twice": (f"<think>{thought(ENGLISH)}", {}, False, "wrong_thinking_format"),
    "opened by the prompt and again": (thought(ENGLISH), {}, True, "wrong_thinking_format"),
    "closed twice": (f"{thought(ENGLISH)}</think>", {}, False, "wrong_thinking_format"),
    "closed twice, where nobody knows what the prompt wrote": ("a</think>b</think>", {}, None, "wrong_thinking_format"),
    "closed before it is opened": ("</think>So 3.<think>", {}, False, "wrong_thinking_format"),
    # --- languages
    "English": (thought(ENGLISH), {"language": "en"}, False, None),
    "English from nowhere asked for": (thought(GERMAN), {}, False, None),
    "German where English is asked for": (thought(GERMAN), {"language": "en"}, False, "mixed_languages"),
    "German where German is asked for": (thought(GERMAN, "Also 3."), {"language": "de"}, False, None),
    "half German": (thought(f"{ENGLISH} {GERMAN}"), {"language": "en"}, False, "mixed_languages"),
    "half German, which is enough": (
        thought(f"{ENGLISH} {GERMAN}"),
        {"language": "en", "min_language_share": 0.4},
        False,
        None,
    ),
    "a Chinese sentence in the thinking": (thought(ENGLISH + CHINESE), {"language": "en"}, False, "mixed_languages"),
    "a Chinese answer to English thinking": (thought(ENGLISH, CHINESE), {"language": "en"}, False, "mixed_languages"),
    "Chinese thinking for a Chinese answer": (thought(CHINESE, CHINESE), {"language": "zh"}, False, None),
    "English where Chinese is asked for": (thought(CHINESE, ENGLISH), {"language": "zh"}, False, "mixed_languages"),
    "formulas are in no language": (thought(LATEX), {"language": "en"}, False, None),
    "no words, no language": (SUMS, {"language": "en"}, False, None),
    # --- paragraphs
    "a paragraph as long as it may be": (thought(LONG_PARAGRAPH), {"max_paragraph_words": 400}, False, None),
    "a paragraph of a word more": (
        thought(f"{LONG_PARAGRAPH}so"),
        {"max_paragraph_words": 400},
        False,
        "long_paragraph",
    ),
    "a long paragraph in the answer": (
        thought("Hm.", LONG_PARAGRAPH),
        {"max_paragraph_words": 300},
        False,
        "long_paragraph",
    ),
    "the same words in two paragraphs": (
        thought(f"{LONG_PARAGRAPH[:1000]}\n{LONG_PARAGRAPH[1000:]}"),
        {"max_paragraph_words": 300},
        False,
        None,
    ),
    "a tag ends a paragraph": (
        f"<think>{'word ' * 30}</think>{'word ' * 30}",
        {"max_paragraph_words": 30},
        False,
        None,
    ),
    "Chinese characters are words": (thought(CHINESE), {"max_paragraph_words": 40}, False, "long_paragraph"),
    "but their punctuation is none": (thought("你好。" * 20), {"max_paragraph_words": 40}, False, None),
    "a formula is a word": (thought("\\frac{1}{2} = " * 50), {"max_paragraph_words": 50}, False, None),
    "a long paragraph that nobody asked about": (thought(LONG_PARAGRAPH), {}, False, None),
    # --- code
    "code in the thinking": (thought(CODE), {"code_in_thinking": False}, False, "code_in_thinking"),
    "code in the thinking, which may be there": (thought(CODE), {"code_in_thinking": True}, False, None),
    "code in the thinking that the prompt opened": (
        f"{CODE}\n</think>So 3.",
        {"code_in_thinking": False},
        True,
        "code_in_thinking",
    ),
    "code in the thinking that perhaps the prompt opened": (
        f"{CODE}\n</think>So 3.",
        {"code_in_thinking": False},
        None,
        "code_in_thinking",
    ),
    "code begins with the thinking": (
        "<think>```\nprint(1)\n```</think>So 3.",
        {"code_in_thinking": False},
        False,
        "code_in_thinking",
    ),
    "code in the answer": (thought(ENGLISH, CODE), {"code_in_thinking": False}, False, None),
    "code before the thinking": (f"{CODE}\n{thought(ENGLISH)}", {"code_in_thinking": False}, False, None),
    "code without thinking": (CODE, {"code_in_thinking": False}, False, None),
    "a word of code is no block": (thought("It is `print(1)`."), {"code_in_thinking": False}, False, None),
}


@pytest.mark.parametrize(("text", "keep", "prefilled", "reason"), READ_AS.values(), ids=READ_AS)
def test_reason(text, keep, prefilled, reason):
    assert unreadable(text, 100, False, Keep(**keep), Thinking(prefilled=prefilled)) == reason


LENGTHS = {  # tokens, truncated, keys of keep, reason
    "any length where none is asked for": (1, False, {}, None),
    "broken off": (100, True, {}, "truncated"),
    "as short as it may be": (10, False, {"min_tokens": 10}, None),
    "too short": (9, False, {"min_tokens": 10}, "too_short"),
    "as long as it may be": (20, False, {"max_tokens": 20}, None),
    "too long": (21, False, {"max_tokens": 20}, "too_long"),
}


@pytest.mark.parametrize(("num_tokens", "truncated", "keep", "reason"), LENGTHS.values(), ids=LENGTHS)
def test_reason_by_length(num_tokens, truncated, keep, reason):
    assert unreadable(SUMS, num_tokens, truncated, Keep(**keep), Thinking(prefilled=False)) == reason


def test_other_tags_are_read_as_the_recipe_says():
    thinking = Thinking(open="[THINK]", close="[/THINK]", prefilled=False)
    assert unreadable("[THINK]a</think>b", 9, False, Keep(), thinking) == "wrong_thinking_format"
    assert unreadable("[THINK]a[/THINK]<think>b", 9, False, Keep(), thinking) is None


def test_the_first_of_several_reasons_is_told():
    keep = Keep(min_tokens=50, max_tokens=60, language="en", max_paragraph_words=20, code_in_thinking=False)
    text = f"{CODE}\n{GERMAN * 2}"
    mended = {  # what is mended, one after the other: text, tokens, truncated -> what is still wrong
        "truncated": (f"<think>{text}", 9, True),
        "too_short": (f"<think>{text}", 9, False),
        "too_long": (f"<think>{text}", 99, False),
        "wrong_thinking_format": (f"<think>{text}", 55, False),
        "mixed_languages": (f"<think>{text}</think>", 55, False),
        "long_paragraph": (f"<think>{CODE}\n{ENGLISH}</think>", 55, False),
        "code_in_thinking": (f"<think>{CODE}</think>", 55, False),
    }
    thinking = Thinking(prefilled=False)
    assert [unreadable(*completion, keep, thinking) for completion in mended.values()] == list(mended)
    assert [reason for reason, _ in FILTERS] == list(mended)


@pytest.mark.parametrize("unit", ["<think>", "</think>", "```\n", "a ", "a", "数", "é", "\n", "$x$", "\\[", "`"])
def test_a_megabyte_is_read(unit):
    keep = Keep(language="en", max_paragraph_words=300, code_in_thinking=False)
    unreadable(thought(unit * (1_000_000 // len(unit))), 9, False, keep, Thinking(prefilled=False))


PROBLEMS = {  # keys of keep, lines
    "nothing asked for": ({}, []),
    "a language that is known": ({"language": "de"}, []),
    "a language that is not": (
        {"language": "english"},
        [f"keep.language: 'english' is not known; give one of {', '.join(SCRIPTS)}"],
    ),
    "one length": ({"min_tokens": 5, "max_tokens": 5}, []),
    "no length": (
        {"min_tokens": 6, "max_tokens": 5},
        [
            "keep.min_tokens: 6 is above keep.max_tokens (5), so no completion could be kept; "
            "lower it, or raise keep.max_tokens"
        ],
    ),
}


@pytest.mark.parametrize(("keep", "lines"), PROBLEMS.values(), ids=PROBLEMS)
def test_problems_of_keep(keep, lines):
    assert list(keep_problems(Keep(**keep))) == lines


def test_keep_is_checked_without_torch():
    script = "import sys, open_r1.curation.readability as r; assert r.keep_problems; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)
