"""Distillation: a small model learns from the verified traces of a large one.

DeepSeek-R1, section 2.4: the teacher answers each prompt, rejection sampling keeps what the rewards verify, and the
student is fine-tuned on what is kept, without any RL of its own.
"""

import functools
import json
from pathlib import Path

from open_r1 import modeling, training
from open_r1.curation.traces import leave_traces, load_kept
from open_r1.recipe import Recipe, RecipeError
from open_r1.shares import COUNTS_OF_TRACES, share_of
from open_r1.step_process import run_step


def distill(recipe: Recipe, run_dir: Path) -> None:
    """Fine-tunes the recipe's model on the teacher's verified traces and leaves it in `run_dir/model`.

    The traces and the count of drops by reason are written first, and are used again if the run is taken up. In the
    directory of a share that is all: its completions, and nothing is trained.
    """
    processes = training.begin(recipe)
    leave_traces(recipe, run_dir, processes)
    if share_of(run_dir):
        return
    kept = load_kept(run_dir)
    if not len(kept):
        counts = json.loads((run_dir / COUNTS_OF_TRACES["distill"]).read_text(encoding="utf-8"))
        raise RecipeError(
            f"{recipe.source}: distill.teacher: none of its traces was verified (dropped: {counts['dropped']})"
        )
    student, tokenizer = functools.partial(modeling.load_model, recipe), modeling.load_tokenizer(recipe)
    training.fine_tune(recipe, run_dir, student, tokenizer, kept)


if __name__ == "__main__":
    run_step(distill)
