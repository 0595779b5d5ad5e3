"""Preferences by AI: prompts answered several times by the policy, judged by a model, and kept as pairs.

What RLAIF (Bai et al., arXiv 2212.08073) puts in the place of people's comparisons, as DeepSeek-R1 did for its helpful
reward model, and Tulu 3 for its DPO.
"""

from pathlib import Path

from open_r1 import training
from open_r1.curation.pairs import leave_pairs
from open_r1.recipe import Recipe
from open_r1.step_process import run_step


def preferences(recipe: Recipe, run_dir: Path) -> None:
    """Leaves completions/, kept/ and preferences.json in `run_dir`; of a share, its completions alone."""
    leave_pairs(recipe, run_dir, training.begin(recipe))


if __name__ == "__main__":
    run_step(preferences)
