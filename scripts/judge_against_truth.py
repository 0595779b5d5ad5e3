"""What the small judge sees of what it is asked for: its scores of sampled explanations beside their true shares.

python scripts/judge_against_truth.py runs/tiny-rlaif/pipeline/seed*/preferences
"""

import sys
from pathlib import Path

import pandas as pd

from open_r1.procedural.explanations import share_explained

LONG = 40  # tokens: an answer that is worked out, step by step or in pairs


def scored(run_dir: Path) -> pd.DataFrame:
    """The judged answers of a `preferences` run: score, num_tokens and truth, the share of the explanation, 0 to 1."""
    files = sorted((run_dir / "completions").glob("part-*.parquet"))
    answers = pd.concat(map(pd.read_parquet, files)).dropna(subset=["score"])
    truth = [share_explained(row.prompt[-1]["content"], row.completion) for row in answers.itertuples()]
    return answers[["score", "num_tokens"]].assign(truth=truth)


def line_on(name: str, answers: pd.DataFrame) -> str:
    """Pearson's correlations of the score with the truth and with the length, and the means beside them."""
    truth, tokens = (answers.score.corr(answers[column]) for column in ("truth", "num_tokens"))
    return (
        f"{name}: {len(answers)} answers, correlation of score with truth {truth:.2f}, with tokens {tokens:.2f}; "
        f"mean score {answers.score.mean():.2f}, whole explanations {(answers.truth == 1.0).mean():.1%}"
    )


def main(arguments: list[str]) -> int:
    """Prints, for each run, what its judge saw of all answers, and of long ones."""
    for run_dir in map(Path, arguments):
        answers = scored(run_dir)
        print(line_on(f"{run_dir.parent.name}, all", answers))
        print(line_on(f"{run_dir.parent.name}, {LONG} tokens or more", answers[answers.num_tokens >= LONG]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
