"""Near-duplicates among the completions that are kept for one prompt."""

import numpy as np

SHINGLE_WORDS = 5


class Seen:
    """The completions kept for one prompt, and whether another is like one of them.

    Two texts are alike if the Jaccard similarity of their sets of word 5-grams (those that both have over those that
    any has; Broder 1997, "On the resemblance and containment of documents") is above `max_similarity`. Words are what
    stands between blanks, in lower case; a text of fewer than 5 words is one shingle as a whole. Texts of the same
    words in the same order are always alike, so with 1.0 these are the only ones.

    A comparison takes time in proportion to the two texts. A kept word costs about 16 bytes, and about 150 more if it
    is new; they are freed with the object: make one for each prompt.
    """

    def __init__(self, max_similarity: float):
        self.max_similarity = max_similarity
        self._texts: set[str] = set()
        self._shingles: list[np.ndarray] = []
        self._word_numbers: dict[str, int] = {}

    def is_duplicate(self, text: str) -> bool:
        """True if the text is alike to one that was added."""
        words = text.lower().split()
        if " ".join(words) in self._texts:
            return True
        if not self._shingles:
            return False
        shingles = self._shingles_of(words)
        return any(_is_similarity_above(self.max_similarity, shingles, kept) for kept in self._shingles)

    def add(self, text: str) -> None:
        """Keeps the text, so that what is like it is a duplicate from now on."""
        words = text.lower().split()
        self._texts.add(" ".join(words))
        if self.max_similarity < 1.0:
            self._shingles.append(self._shingles_of(words))

    def _shingles_of(self, words: list[str]) -> np.ndarray:
        """Hashes of the different shingles, sorted.

        Words are numbered as they come, so the hashes are the same in every process. That two of a million shingles
        share one has a probability of 3e-8.
        """
        numbers = np.array(
            [self._word_numbers.setdefault(word, len(self._word_numbers)) for word in words], dtype=np.uint64
        )
        width = min(len(words), SHINGLE_WORDS)
        # The width is mixed in first: else a word's number could undo it, and a text of 1 word be like one of 2.
        hashes = _mixed(np.full(max(1, len(words) - SHINGLE_WORDS + 1), width + 1, dtype=np.uint64))
        for place in range(width):
            hashes = _mixed(hashes ^ numbers[place : place + len(hashes)])
        return np.unique(hashes)


def _mixed(hashes: np.ndarray) -> np.ndarray:
    """Each 64-bit hash with its bits spread, as MurmurHash3 ends; different ones stay different."""
    hashes = (hashes ^ (hashes >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    hashes = (hashes ^ (hashes >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
    return hashes ^ (hashes >> np.uint64(33))


def _is_similarity_above(limit: float, shingles: np.ndarray, kept: np.ndarray) -> bool:
    smaller, larger = sorted((len(shingles), len(kept)))
    if smaller <= limit * larger:  # all of the smaller in the larger would not be enough
        return False
    merged = np.sort(np.concatenate([shingles, kept]), kind="stable")  # two sorted runs are merged in linear time
    in_both = np.count_nonzero(merged[1:] == merged[:-1])
    return in_both > limit * (smaller + larger - in_both)
