"""Near-duplicates against sets of word 5-grams in plain Python."""

import random

import pytest

from open_r1.curation.duplicates import Seen

WORDS = [f"word{number}" for number in range(40)]
LONG = " ".join(WORDS)
OTHER_LAST_WORD = " ".join([*WORDS[:-1], "another"])  # 35 of 36 + 1 shingles: 0.946


def shingles(text: str) -> set[tuple[str, ...]]:
    words = text.lower().split()
    return {tuple(words[start : start + 5]) for start in range(max(1, len(words) - 4))}


def similarity(text: str, other: str) -> float:
    return len(shingles(text) & shingles(other)) / len(shingles(text) | shingles(other))


def is_duplicate(text: str, kept: list[str], max_similarity: float) -> bool:
    seen = Seen(max_similarity)
    for one in kept:
        seen.add(one)
    return seen.is_duplicate(text)


CASES = {  # text, kept texts, max_similarity, verdict
    "nothing is a duplicate of nothing": (LONG, [], 0.5, False),
    "a copy is": (LONG, [LONG], 0.5, True),
    "a copy in other letters and blanks is": (LONG.upper().replace(" ", "\n\t"), [LONG], 1.0, True),
    "one word changed, above the limit": (OTHER_LAST_WORD, [LONG], 35 / 37 - 1e-9, True),
    "one word changed, at the limit": (OTHER_LAST_WORD, [LONG], 35 / 37, False),
    "one word changed, 1.0 wants copies": (OTHER_LAST_WORD, [LONG], 1.0, False),
    "the same shingles are no copy": ("a a a a a a a", ["a a a a a a"], 1.0, False),
    "the same shingles are alike": ("a a a a a a a", ["a a a a a a"], 0.99, True),
    "a part is as like as it is large": (" ".join(WORDS[:22]), [LONG], 0.49, True),
    "a part that is half is not above half": (" ".join(WORDS[:22]), [LONG], 0.5, False),
    "the same words in another order": (" ".join(reversed(WORDS)), [LONG], 0.01, False),
    "the third of those that are kept": (LONG, ["something else", "a third thing", OTHER_LAST_WORD], 0.9, True),
    "short texts that are equal": ("x = 5", ["x = 5"], 0.9, True),
    "short texts that differ": ("x = 5", ["x = 6"], 0.01, False),
    "a short text is no part of a long one": ("word0 word1", [LONG], 0.01, False),
    "empty texts": ("", [" \n"], 0.5, True),
}


@pytest.mark.parametrize(("text", "kept", "max_similarity", "verdict"), CASES.values(), ids=CASES)
def test_duplicate(text, kept, max_similarity, verdict):
    assert is_duplicate(text, kept, max_similarity) == verdict


def test_asking_keeps_nothing():
    seen = Seen(0.5)
    assert not seen.is_duplicate(LONG)
    assert not seen.is_duplicate(LONG)


@pytest.mark.parametrize("seed", range(20))
def test_verdicts_are_those_of_sets_of_tuples(seed):
    draw = random.Random(seed)
    kept = [draw.choices("abc", k=draw.randrange(12)) for _ in range(6)]
    texts = [draw.choices("abc", k=draw.randrange(12)) for _ in range(20)]
    kept, texts = [" ".join(words) for words in kept], [" ".join(words) for words in texts]
    for limit in (0.1, 0.3, 0.5, 0.8):
        expected = [any(similarity(text, one) > limit or text == one for one in kept) for text in texts]
        assert [is_duplicate(text, kept, limit) for text in texts] == expected
