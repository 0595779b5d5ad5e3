"""Generation: prompts answered by a model, judged by the rewards, and what is verified and readable kept as a data set.

DeepSeek-R1, section 2.3.3 of arXiv 2501.12948: the policy after RL answers each prompt several times, and what is right
and can be read becomes the data of the second SFT. Without rewards nothing is judged; with one sample or many a prompt,
prompts/ says how hard each was (its pass rate).
"""

from pathlib import Path

from open_r1 import training
from open_r1.curation.traces import leave_traces
from open_r1.recipe import Recipe
from open_r1.step_process import run_step


def generate(recipe: Recipe, run_dir: Path) -> None:
    """Leaves completions/, kept/, prompts/ and generate.json in `run_dir`; of a share, its completions alone."""
    leave_traces(recipe, run_dir, training.begin(recipe))


if __name__ == "__main__":
    run_step(generate)
