"""What columns a run that samples will leave, known before it is run."""

from open_r1.data import columns_of
from open_r1.data.columns import STEPS_THAT_KEEP_COLUMNS, TEXTS_OF_TRAINING
from open_r1.recipe import Recipe, RecipeError
from open_r1.rewards import reward_columns
from open_r1.stages import PROMPTS


def columns_left(recipe: Recipe, folder: str) -> set[str] | None:
    """The columns of kept/ or prompts/ of a run of this recipe; None if its data is on the Hub, or another run's."""
    from open_r1.curation.rejection import RATES
    from open_r1.curation.rows import OF_ANSWER, OF_PAIR, PROVENANCE

    columns = {"id", "prompt", *reward_columns(recipe.rewards)}
    for source in recipe.data if recipe.step in STEPS_THAT_KEEP_COLUMNS else ():
        try:
            given = columns_of(recipe, source)
        except RecipeError:
            return None
        if given is None:
            return None
        columns |= given.difference(TEXTS_OF_TRAINING) | ({"task"} if source.task else set())
    if recipe.step == "preferences":
        return columns.difference(OF_ANSWER) | {*OF_PAIR, *PROVENANCE}
    if folder == PROMPTS:
        return columns | set(RATES)
    rewards = {f"reward_{reward.called}" for reward in recipe.rewards}
    return columns | rewards | {"completion", "num_tokens", *PROVENANCE}
