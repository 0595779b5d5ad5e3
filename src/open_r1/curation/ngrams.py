"""Which rows of a training set share a run of consecutive words with a benchmark's problems.

A word is what `text.lower().split()` gives, as in s1. Most rows share nothing, so they are sieved by numpy on their
bytes: every n-gram of words gets a 64-bit hash and is looked up in a table with a place for each of its first 22 bits.
What passes the sieve is compared word by word, so a hash can cost time but never decide.

Shapes: B bytes, W words, R rows; an array of R+1 or W+1 holds where each begins and, last, where all end.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from string import ascii_lowercase, ascii_uppercase

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

DEFAULT_NGRAM = 8
DEFAULT_SHORTEST = 3

# Hashes are sums of values times powers of FACTOR, all modulo 2^64. An odd factor has an inverse, with which the hash
# of any part follows from two running sums, wherever the part stands.
FACTOR = 0x9E3779B97F4A7C15
INVERSE = pow(FACTOR, -1, 2**64)
SIEVE_BITS = 22
CHUNK_BYTES = 1 << 18  # of text at a time: the arrays over it stay in a core's cache
SEPARATORS = b" \t\n\r\x0b\x0c\x1c\x1d\x1e\x1f"  # the ASCII characters at which str.split() splits
OTHER_SEPARATORS = "".join(character for character in map(chr, range(0x80, 0x3001)) if character.isspace())
_PLAIN = bytes.maketrans(SEPARATORS + ascii_uppercase.encode(), b" " * len(SEPARATORS) + ascii_lowercase.encode())
_NOTHING, _SPACE = pa.scalar("", pa.large_string()), pa.scalar(" ", pa.large_string())
_FIRST_BYTES = np.array([(1 << 8 * number) - 1 for number in range(9)], dtype=np.uint64)  # of eight, little-endian
_MIX = np.array([0xD6E8FEB86659FD93, 0xC2B2AE3D27D4EB4F, 0xFF51AFD7ED558CCD], dtype=np.uint64)  # large, odd


@dataclass(frozen=True)
class Match:
    """A row that shares words with a problem: both counted from 0, and the longest run of words that they share."""

    row: int
    benchmark: str
    problem: int
    words: str


class Ngrams:
    """The word n-grams of the benchmarks' problems, and the whole of each problem that is shorter than n words.

    A row matches a problem if n consecutive words are the same. A problem of `shortest` to n-1 words matches if the row
    has all of it, as consecutive words; one of fewer than `shortest` words is never matched (`num_too_short`).

    n = 8, shortest = 8 is s1 (arXiv 2501.19393) and what open-r1 does; n = 10, shortest = 3 is DeepSeekMath (arXiv
    2402.03300, section 2.1). The default is n = 8, shortest = 3: whatever either of them finds is found. s1's rule does
    not see the 32 problems of MATH-500 that have fewer than 8 words; of those, 25 have at least 3. The price are rows
    that share a phrase: 70 of GSM8K's 7,473 training problems match its test set at n = 8, 10 at n = 10.

    `problems` maps a benchmark to its texts. Raises ValueError unless 1 <= shortest <= n.
    """

    def __init__(self, problems: Mapping[str, Sequence[str]], n: int = DEFAULT_NGRAM, shortest: int = DEFAULT_SHORTEST):
        if not 1 <= shortest <= n:
            raise ValueError(f"shortest {shortest}, n {n}: 1 <= shortest <= n is needed")
        self.n, self.shortest = n, shortest
        self.num_too_short = dict.fromkeys(problems, 0)
        self._owners = [(benchmark, number) for benchmark, texts in problems.items() for number in range(len(texts))]
        self._words = [text.lower().split() for texts in problems.values() for text in texts]
        self._powers = _Powers()
        texts = _normalised_beyond_ascii([text for texts in problems.values() for text in texts])
        parts: dict[int, list[tuple[np.ndarray, int]]] = defaultdict(list)
        for first, end in _chunks(texts):
            hashes = self._hashes(texts.slice(first, end - first))
            of_width: dict[int, np.ndarray] = {}
            for problem in range(first, end):
                width = min(n, len(self._words[problem]))
                if width < shortest:
                    self.num_too_short[self._owners[problem][0]] += 1
                    continue
                if width not in of_width:
                    of_width[width] = hashes.of_ngrams(width)
                begin, after = hashes.first_words[problem - first : problem - first + 2]
                parts[width].append((of_width[width][begin : after - width + 1], problem))
        self._sieve = np.zeros(1 << SIEVE_BITS, dtype=bool)
        self._grams = {width: _Grams(of_problems) for width, of_problems in sorted(parts.items())}
        for grams in self._grams.values():
            self._sieve[_places(grams.hashes)] = True

    def matches(self, texts: Sequence[str | None] | pa.Array | pa.ChunkedArray, first_row: int = 0) -> Iterator[Match]:
        """Yields a Match for each pair of a row and a problem that share words, in the order of rows and problems.

        The rows are numbered from `first_row`; None is a blank row. Memory: several times that of the longest text.
        """
        normalised = _normalised_beyond_ascii(texts)
        for first, end in _chunks(normalised):
            chunk = normalised.slice(first, end - first)
            for row, shared in self._shared_by_row(chunk):
                words = chunk[row].as_py().lower().split()
                for problem, run in sorted(self._longest_runs(words, shared).items()):
                    benchmark, number = self._owners[problem]
                    yield Match(first_row + first + row, benchmark, number, " ".join(words[run]))

    def _shared_by_row(self, chunk: pa.LargeStringArray) -> Iterator[tuple[int, list[tuple[int, int, int]]]]:
        """Yields a row and its n-grams (first word in the row, width, place in _grams) of which the hash is known."""
        hashes = self._hashes(chunk)
        shared: dict[int, list[tuple[int, int, int]]] = defaultdict(list)
        for width, grams in self._grams.items():
            of_ngrams = hashes.of_ngrams(width)
            words = np.flatnonzero(self._sieve[_places(of_ngrams)])
            places = np.searchsorted(grams.hashes, of_ngrams[words])
            known = grams.hashes[np.minimum(places, len(grams.hashes) - 1)] == of_ngrams[words]
            words, places = words[known], places[known]
            rows = np.searchsorted(hashes.first_words, words, side="right") - 1
            for row, word, place in zip(rows.tolist(), words.tolist(), places.tolist(), strict=True):
                shared[row].append((word - int(hashes.first_words[row]), width, place))
        yield from sorted(shared.items())

    def _longest_runs(self, words: list[str], shared: Iterable[tuple[int, int, int]]) -> dict[int, slice]:
        """Problem -> the longest run of words that it shares with the row, the first of several; exact."""
        runs: dict[int, slice] = {}
        growing: dict[tuple[int, int], slice] = {}  # (problem, how far the row's words are shifted against its own)
        for word, width, place in sorted(shared):
            for problem, start in self._grams[width].at(place):
                if self._words[problem][start : start + width] != words[word : word + width]:
                    continue
                key = (problem, word - start)
                run = growing.get(key)
                follows = run is not None and word + width == run.stop + 1
                run = growing[key] = slice(run.start if follows else word, word + width)
                longest = runs.get(problem)
                if longest is None or run.stop - run.start > longest.stop - longest.start:
                    runs[problem] = run
        return runs

    def _hashes(self, chunk: pa.LargeStringArray) -> "_WordHashes":
        return _WordHashes(chunk, self._powers)


class _Grams:
    """Hashes of the n-grams of one width, sorted, and for each the problem and the word at which it begins."""

    def __init__(self, of_problems: list[tuple[np.ndarray, int]]):
        hashes = np.concatenate([hashes for hashes, _ in of_problems])
        problems = np.concatenate([np.full(len(hashes), problem) for hashes, problem in of_problems])
        starts = np.concatenate([np.arange(len(hashes)) for hashes, _ in of_problems])
        order = np.argsort(hashes, kind="stable")
        self.hashes, self._problems, self._starts = hashes[order], problems[order], starts[order]

    def at(self, place: int) -> Iterator[tuple[int, int]]:
        """Yields (problem, first word) of the n-grams that have the hash at `place`, the first of that hash."""
        end = np.searchsorted(self.hashes, self.hashes[place], side="right")
        yield from zip(self._problems[place:end].tolist(), self._starts[place:end].tolist(), strict=True)


class _WordHashes:
    """Hashes of the words of some rows, from which those of n-grams are had by subtraction."""

    def __init__(self, chunk: pa.LargeStringArray, powers: "_Powers"):
        # With a space behind every row a word ends where its row does.
        spaced = pc.binary_join_element_wise(chunk, _NOTHING, _SPACE)
        data, row_starts = _bytes_of(spaced)
        plain = np.frombuffer(data.tobytes().translate(_PLAIN) + bytes(8), np.uint8)
        in_word_B = np.concatenate([[False], plain[: len(data)] != ord(" ")])
        edges = np.flatnonzero(in_word_B[1:] != in_word_B[:-1])
        starts_W, ends_W = edges[::2], edges[1::2]
        # A word's first and last eight bytes and its length tell it from nearly all others.
        eight_bytes_from = np.ndarray(len(data) + 1, "<u8", plain, strides=(1,))
        lengths_W = ends_W - starts_W
        used_W = _FIRST_BYTES[np.minimum(lengths_W, 8)]
        first_W = eight_bytes_from[starts_W] & used_W
        last_W = eight_bytes_from[np.maximum(ends_W - 8, starts_W)] & used_W
        hashes_W = (first_W * _MIX[0]) ^ ((last_W + lengths_W.astype(np.uint64)) * _MIX[1])
        hashes_W = (hashes_W ^ (hashes_W >> np.uint64(32))) * _MIX[2]
        self.first_words = np.searchsorted(starts_W, row_starts)
        self._powers = powers
        self._sums = np.zeros(len(starts_W) + 1, dtype=np.uint64)
        np.cumsum(hashes_W * powers.up_to(len(starts_W)), out=self._sums[1:])

    def of_ngrams(self, width: int) -> np.ndarray:
        """The hash of the `width` words from each word on, also of those that run into the next row."""
        num_ngrams = max(0, len(self._sums) - width)
        return (self._sums[width:] - self._sums[:num_ngrams]) * self._powers.inverse[:num_ngrams]


class _Powers:
    """The powers of FACTOR and of its inverse, as many as the longest chunk has needed."""

    def __init__(self):
        self._powers = self.inverse = np.ones(1, dtype=np.uint64)

    def up_to(self, number: int) -> np.ndarray:
        """The first `number` powers; `inverse` then has at least as many."""
        if number > len(self._powers):
            size = max(number, CHUNK_BYTES)
            self._powers, self.inverse = (_powers_of(factor, size) for factor in (FACTOR, INVERSE))
        return self._powers[:number]


def _powers_of(factor: int, size: int) -> np.ndarray:
    powers = np.full(size, factor, dtype=np.uint64)
    powers[0] = 1
    return np.cumprod(powers, out=powers)


def _places(hashes: np.ndarray) -> np.ndarray:
    return hashes >> np.uint64(64 - SIEVE_BITS)


def _normalised_beyond_ascii(texts: Sequence[str | None] | pa.Array | pa.ChunkedArray) -> pa.LargeStringArray:
    """The texts, None as blank; those that are not all ASCII in lower case, and with no spaces but those of ASCII.

    What the lower case of any other character is, Python says: Arrow knows other rules for a few of them.
    """
    if isinstance(texts, pa.ChunkedArray):
        texts = texts.combine_chunks()
    array = texts if isinstance(texts, pa.Array) else pa.array(texts, pa.large_string())
    array = pc.fill_null(array.cast(pa.large_string()), "")
    not_ascii = pc.invert(pc.string_is_ascii(array))
    if not pc.any(not_ascii, min_count=0).as_py():
        return array
    lower = pa.array([text.lower() for text in array.filter(not_ascii).to_pylist()], pa.large_string())
    return pc.replace_with_mask(array, not_ascii, pc.replace_substring_regex(lower, f"[{OTHER_SEPARATORS}]", " "))


def _bytes_of(array: pa.LargeStringArray) -> tuple[np.ndarray, np.ndarray]:
    """The bytes of all rows, one after the other, and the R+1 places at which rows begin."""
    _, offsets, data = array.buffers()
    row_starts = np.frombuffer(offsets, np.int64)[array.offset : array.offset + len(array) + 1]
    if data is None or row_starts[0] == row_starts[-1]:
        return np.zeros(0, np.uint8), row_starts - row_starts[0]
    return np.frombuffer(data, np.uint8)[row_starts[0] : row_starts[-1]], row_starts - row_starts[0]


def _chunks(array: pa.LargeStringArray) -> Iterator[tuple[int, int]]:
    """Yields (first row, end) of as many rows as CHUNK_BYTES hold, at least one at a time."""
    _, row_starts = _bytes_of(array)
    edges = [0]
    while edges[-1] < len(array):
        fits = np.searchsorted(row_starts, row_starts[edges[-1]] + CHUNK_BYTES, side="right") - 1
        edges.append(max(int(fits), edges[-1] + 1))
    yield from pairwise(edges)
