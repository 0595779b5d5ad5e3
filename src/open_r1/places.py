"""Where the parts of the repository lie."""

from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
RECIPES = REPOSITORY / "recipes"
RUNS = REPOSITORY / "runs"
ACCELERATE_CONFIGS = RECIPES / "accelerate_configs"
HUB = RECIPES / "hub"
