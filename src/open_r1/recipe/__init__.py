"""One YAML file -> one frozen `Recipe`, or a `RecipeError` whose every line names file, key and mend.

Nothing here imports torch or touches the network. What needs knowledge of rewards, data or benchmarks is checked
further down, in `check`.

    sections        what a recipe can say: the sections, their keys, units and defaults
    trainer_fields  the keys of `trainer:`, read from the source of the installed TRL and transformers
    reading         file and overrides -> Recipe, and back
"""

from open_r1.recipe.reading import dump_recipe, load_recipe, parse_recipe, section_in, value_problem
from open_r1.recipe.sections import (
    STAGE_REFERENCE,
    DataSource,
    Distill,
    DynamicSampling,
    Endpoint,
    Evaluate,
    Gate,
    Generate,
    Grpo,
    Guards,
    Hardware,
    Judge,
    Keep,
    Loop,
    Lora,
    Mixture,
    Model,
    Preferences,
    Procedural,
    Recipe,
    RecipeError,
    Reward,
    Stage,
    Thinking,
    VllmServer,
    is_path,
)

__all__ = [
    "STAGE_REFERENCE",
    "DataSource",
    "Distill",
    "DynamicSampling",
    "Endpoint",
    "Evaluate",
    "Gate",
    "Generate",
    "Grpo",
    "Guards",
    "Hardware",
    "Judge",
    "Keep",
    "Loop",
    "Lora",
    "Mixture",
    "Model",
    "Preferences",
    "Procedural",
    "Recipe",
    "RecipeError",
    "Reward",
    "Stage",
    "Thinking",
    "VllmServer",
    "dump_recipe",
    "is_path",
    "load_recipe",
    "parse_recipe",
    "section_in",
    "value_problem",
]
