"""Supervised training: a base from scratch (`pretrain`), or the cold start on worked conversations (`sft`).

DeepSeek-R1, section 2.3.1: before RL, the base is fine-tuned on a small set of long, readable traces, so that RL
starts from a policy that thinks where people can read it. The loss is on the completion alone.
"""

import functools
from pathlib import Path

from open_r1 import data, modeling, training
from open_r1.recipe import Recipe
from open_r1.step_process import run_step


def sft(recipe: Recipe, run_dir: Path) -> None:
    """Trains the recipe's model on its data and leaves it in `run_dir/model`."""
    training.begin(recipe)
    tokenizer = modeling.load_tokenizer(recipe)
    if recipe.step == "pretrain":
        load = functools.partial(modeling.build_model, recipe.model, tokenizer)
    else:
        load = functools.partial(modeling.load_model, recipe)
    training.fine_tune(recipe, run_dir, load, tokenizer, data.load_data(recipe))


if __name__ == "__main__":
    run_step(sft)
