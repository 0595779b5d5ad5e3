"""How the answers of an evaluation were worked out (direct, pairs, steps), and how often each way was right.

Of sums also how many of the right answers stand below a line that is no true sum: nobody rewards the lines.

python scripts/answers_by_style.py runs/tiny-r1/study/seed0-*/evaluation/completions/cold_start-tiny_sums.parquet
"""

import re
import sys
from collections import defaultdict
from pathlib import Path

import pandas as pd

from open_r1.recipe import Thinking

THINKING = Thinking()
FENCE = "```py\n"


def style_of(completion: str) -> str:
    """Of a sum by the first worked line: no line is direct, one addition in it is steps, more are pairs.

    Of a program by its first line: one that only reads n is steps, any other is direct.
    """
    if FENCE in completion:
        return "steps" if f"{FENCE}n=int(input())\n" in completion else "direct"
    thinking = completion.partition(THINKING.close)[0].replace(THINKING.open, "").strip()
    if not thinking or thinking.startswith("="):  # R1-Zero has no tags; its answer stands behind the last `=`
        return "direct"
    return "steps" if thinking.splitlines()[0].count("+") == 1 else "pairs"


def has_false_line(completion: str) -> bool:
    """True if a worked line, e.g. 7+5=12, is not so."""
    lines = re.findall(r"^(\d+(?:\+\d+)+)=(\d+)$", completion.replace(THINKING.open, "\n"), re.MULTILINE)
    return any(sum(map(int, terms.split("+"))) != int(total) for terms, total in lines)


def main() -> int:
    for file in map(Path, sys.argv[1:]):
        verdicts, right, false = defaultdict(list), 0, 0
        for row in pd.read_parquet(file).itertuples():
            for completion, score in zip(row.completions, row.scores, strict=True):
                verdicts[style_of(completion)].append(score)
                right += score == 1.0
                false += score == 1.0 and has_false_line(completion)
        shares = [f"{style} {len(v)} ({sum(v) / len(v):.1%} right)" for style, v in sorted(verdicts.items())]
        print(f"{file.stem}: {', '.join(shares)}; of {right} right answers {false} below a false line")
    return 0


if __name__ == "__main__":
    sys.exit(main())
