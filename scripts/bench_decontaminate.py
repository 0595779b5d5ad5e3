"""Word 8-grams in training data, ours against plain Python: seconds, peak memory, and the same verdicts.

    python scripts/bench_decontaminate.py [--rows 100000] [--problems 3000] [--seed 0]

Plain Python is the usual way, and open-r1's: a row's n-grams, as strings, looked up in a dictionary of those of all
problems. Both sides get the same parquet file of made-up problems, a thousand rows at a time, each in a process of its
own. Seconds begin with its imports behind it, the index of the problems included; peak memory is the whole process's
(Linux). Some rows are planted: a whole problem, one inside a long text, one in other case and spacing, and one reworded
so that it shares no 8 words, which must not match. Ours runs a second time on a tenth of the rows, to show what its
memory depends on. The last line is one JSON object.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

N = 8
ROWS_AT_A_TIME = 1000
ROWS_PER_GROUP = 20_000
BUFFER_BYTES = 1 << 20
WORDS_OF_PROBLEM, WORDS_OF_ROW = (20, 80), (30, 150)
NUM_RARE_WORDS = 20_000
PLANTED_SHARE = 0.001  # of the rows, for each kind
SHARE_BEYOND_ASCII = 0.1
KINDS = ("whole", "inside", "spelled", "reworded")
COMMON_LINES = [
    "the of a is and in to that for are with at how many find if has each what on he she then by all be from",
    "one two three number total value points line such which let where per more than between first second cost",
    "hours real positive integer $x$ $n$ $y$ = + - 2 3 4 5 10 12 100 \\frac{1}{2} \\sqrt{3} $f(x)$ triangle area",
]
COMMON = [word for line in COMMON_LINES for word in line.split()]
SPACES = np.array([" ", "  ", "\n", "\t", " \n "])
SIDES = {"ours": "ours", "plain": "plain Python", "reading": "reading the file alone"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--problems", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)  # one side, in a process of its own
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        print(json.dumps(run_side(arguments.side, arguments.folder, arguments.rows)))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        planted = make(folder, arguments.rows, arguments.problems, np.random.default_rng(arguments.seed))
        size = (folder / "rows.parquet").stat().st_size
        print(f"{arguments.rows} rows ({size / 1e6:.0f} MB of parquet), {arguments.problems} problems", flush=True)
        ours = in_own_process("ours", folder, arguments.rows)
        plain = in_own_process("plain", folder, arguments.rows)
        tenth = in_own_process("ours", folder, arguments.rows // 10)
        reading = in_own_process("reading", folder, arguments.rows)
    found = {(row, problem) for row, problem in ours["matches"]}
    print(f"planted and to be found: {len(planted)}; found: {len(found)}; by plain Python: {len(plain['matches'])}")
    result = {
        "rows": arguments.rows,
        "our_seconds": ours["seconds"],
        "plain_seconds": plain["seconds"],
        "speedup": plain["seconds"] / ours["seconds"],
        "our_cpu_seconds": ours["cpu_seconds"],
        "plain_cpu_seconds": plain["cpu_seconds"],
        "cpu_speedup": plain["cpu_seconds"] / ours["cpu_seconds"],
        "reading_cpu_seconds": reading["cpu_seconds"],
        "our_peak_mib": ours["peak_mib"],
        "our_peak_mib_of_a_tenth": tenth["peak_mib"],
        "plain_peak_mib": plain["peak_mib"],
        "same_verdicts": ours["matches"] == plain["matches"],
        "planted_not_found": len(planted - found),
        "found_not_planted": len(found - planted),
    }
    print(json.dumps({key: round(value, 3) if isinstance(value, float) else value for key, value in result.items()}))


def make(folder: Path, num_rows: int, num_problems: int, rng: np.random.Generator) -> set[tuple[int, int]]:
    """The (row, problem) pairs that have to be found. Writes problems.json and rows.parquet."""
    rare = ["".join(letters) for letters in rng.choice(list("abcdefghijklmnopqrstuvwxyz"), (NUM_RARE_WORDS, 7))]
    vocabulary = np.array([*COMMON, *rare])
    # As in real text, half of the words are few and the rest are spread: neighbours repeat, eight in a row do not.
    shares = np.concatenate([np.full(len(COMMON), 0.6 / len(COMMON)), np.full(len(rare), 0.4 / len(rare))])
    cumulated = np.cumsum(shares)
    cumulated[-1] = 1.0

    def texts(count: int, words: tuple[int, int]) -> list[list[str]]:
        lengths = rng.integers(*words, size=count)
        drawn = vocabulary[np.searchsorted(cumulated, rng.random(lengths.sum()))].tolist()
        ends = np.cumsum(lengths)
        return [drawn[end - length : end] for end, length in zip(ends.tolist(), lengths.tolist(), strict=True)]

    problems = texts(num_problems, WORDS_OF_PROBLEM)
    (folder / "problems.json").write_text(json.dumps([" ".join(words) for words in problems]))
    places = rng.permutation(num_rows)[: len(KINDS) * max(1, round(num_rows * PLANTED_SHARE))].tolist()
    kinds = {row: KINDS[index % len(KINDS)] for index, row in enumerate(places)}
    planted = set()
    with pq.ParquetWriter(folder / "rows.parquet", pa.schema({"problem": pa.string()})) as writer:
        for first in range(0, num_rows, ROWS_PER_GROUP):
            rows = [" ".join(words) for words in texts(min(ROWS_PER_GROUP, num_rows - first), WORDS_OF_ROW)]
            for row in range(first, first + len(rows)):
                if row in kinds:
                    problem = int(rng.integers(num_problems))
                    rows[row - first] = plant(kinds[row], problems[problem], rows[row - first], rng)
                    if kinds[row] != "reworded":
                        planted.add((row, problem))
                elif rng.random() < SHARE_BEYOND_ASCII:
                    rows[row - first] += " Ångström – 5 µm"
            writer.write_table(pa.table({"problem": rows}))
    return planted


def plant(kind: str, problem: list[str], row: str, rng: np.random.Generator) -> str:
    """A row with the problem in it, in one of the KINDS."""
    if kind == "whole":
        return " ".join(problem)
    if kind == "inside":
        words = row.split()
        middle = len(words) // 2
        return " ".join([*words[:middle], *problem, *words[middle:]])
    if kind == "spelled":
        spaces = rng.choice(SPACES, len(problem)).tolist()
        cases = [
            word.upper() if upper else word for word, upper in zip(problem, rng.random(len(problem)) < 0.5, strict=True)
        ]
        return "".join(word + space for word, space in zip(cases, spaces, strict=True))
    return " ".join(word if place % N else "another" for place, word in enumerate(problem))  # 7 words, then a new one


def in_own_process(side: str, folder: Path, num_rows: int) -> dict:
    """What run_side gives, from a fresh interpreter; prints seconds and memory."""
    command = [sys.executable, __file__, "--side", side, "--folder", str(folder), "--rows", str(num_rows)]
    result = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    spent = f"{result['seconds']:.2f} s ({result['cpu_seconds']:.2f} s of CPU), {result['peak_mib']:.0f} MiB"
    print(f"{SIDES[side]}, {num_rows} rows: {spent}", flush=True)
    return result


def run_side(side: str, folder: Path, num_rows: int) -> dict:
    """Matching (row, problem) pairs in order, seconds (the problems' index included), peak memory of this process."""
    if side == "ours":
        from open_r1.curation.ngrams import Ngrams
    problems = json.loads((folder / "problems.json").read_text())
    started, started_cpu = time.monotonic(), time.process_time()
    if side == "ours":
        ngrams = Ngrams({"made": problems}, N, N)
        matches = [
            (match.row, match.problem)
            for first, texts in batches(folder, num_rows)
            for match in ngrams.matches(texts, first)
        ]
    elif side == "plain":
        matches = plain_matches(problems, folder, num_rows)
    else:
        matches = [row for row, texts in batches(folder, num_rows) if texts is None]  # none
    seconds, cpu_seconds = time.monotonic() - started, time.process_time() - started_cpu
    return {"matches": matches, "seconds": seconds, "cpu_seconds": cpu_seconds, "peak_mib": peak_mib()}


def peak_mib() -> float:
    """Most memory that this process has had; getrusage would begin with what the process had that started it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def plain_matches(problems: list[str], folder: Path, num_rows: int) -> list[tuple[int, int]]:
    """The same pairs by a dictionary from an n-gram's text to the problems that have it."""
    problems_of: defaultdict[str, set[int]] = defaultdict(set)
    for problem, text in enumerate(problems):
        for gram in grams_of(text):
            problems_of[gram].add(problem)
    matches = []
    for first, texts in batches(folder, num_rows):
        for row, text in enumerate(texts.to_pylist(), first):
            found = set().union(*(problems_of[gram] for gram in grams_of(text) if gram in problems_of))
            matches += [(row, problem) for problem in sorted(found)]
    return matches


def grams_of(text: str) -> set[str]:
    words = text.lower().split()
    return {" ".join(words[start : start + N]) for start in range(len(words) - N + 1)}


def batches(folder: Path, num_rows: int) -> Iterator[tuple[int, pa.Array]]:
    """Yields (first row, texts) of the first `num_rows` rows."""
    first = 0
    with pq.ParquetFile(folder / "rows.parquet", pre_buffer=False, buffer_size=BUFFER_BYTES) as file:
        for batch in file.iter_batches(ROWS_AT_A_TIME):
            if first >= num_rows:
                return
            texts = batch.column("problem").slice(0, num_rows - first)
            yield first, texts
            first += len(texts)


if __name__ == "__main__":
    main()
