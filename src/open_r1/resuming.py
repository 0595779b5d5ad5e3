"""Which recipe a run may be taken up with: that of its last checkpoint, but for what does no harm.

No torch: a run that would go wrong is refused before anybody waits for it.
"""

import json
import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from itertools import zip_longest
from pathlib import Path
from typing import Any

import yaml

from open_r1.recipe import Recipe, RecipeError, dump_recipe, load_recipe
from open_r1.recipe.sections import NO_PART_OF_RUN
from open_r1.recipe.trainer_fields import trainer_fields, trainer_value

RECIPE_FILE = "recipe.yaml"  # the resolved recipe, in a run directory and in each of its checkpoints
MAY_DIFFER = (
    *NO_PART_OF_RUN,
    "description",
    "trainer.logging_*",
    "trainer.save_*",
    "trainer.report_to",
    "trainer.run_name",
    "guards.*",
    "hardware.usd_per_hour",
    "evaluate",
    "evaluate.*",
)
LENGTH = ("trainer.max_steps", "trainer.num_train_epochs")
NOT_SET = object()


def last_checkpoint(folder: Path) -> Path | None:
    """The last whole checkpoint below `folder`, None if there is none."""
    found = [path for path in folder.glob("checkpoint-*") if path.is_dir() and _step_of(path) is not None]
    return max(found, key=_step_of, default=None)


def check_recipe_of(checkpoint: Path, recipe: Recipe) -> None:
    """Raises RecipeError, a line for each differing key, if going on from the checkpoint would be another run.

    A checkpoint without a recipe was written by an earlier release and is trusted.
    """
    file = checkpoint / RECIPE_FILE
    if not file.exists():
        return
    lines = [
        f"{recipe.source}: {key}: {_text(old)} -> {_text(new)}: {checkpoint.name} was made with the first, so the run "
        f"cannot be taken up with the second; {_mend(key, recipe)}"
        for key, old, new in differing_keys(load_recipe(file), recipe)
    ]
    max_steps = trainer_value(recipe.step, recipe.trainer, "max_steps")
    if not lines and 0 < max_steps < _step_of(checkpoint):
        lines = [f"{recipe.source}: trainer.max_steps: {max_steps} is less than {checkpoint.name} has done; raise it"]
    if lines:
        raise RecipeError(*lines)


def differing_keys(made_with: Recipe, recipe: Recipe) -> list[tuple[str, Any, Any]]:
    """(dotted key, old value, new value) of all that must be the same for a resumed run to end like one in a piece.

    The length of the run is none of it where neither learning rate depends on it. A trainer's key that is not given
    has TRL's default.
    """
    may_differ = MAY_DIFFER + (LENGTH if _ignores_length(made_with) and _ignores_length(recipe) else ())
    return [
        (key, old, new)
        for key, old, new in _differences(_values(made_with), _values(recipe))
        if not any(fnmatchcase(key, pattern) for pattern in may_differ)
    ]


def _ignores_length(recipe: Recipe) -> bool:
    """True if the learning rate of a step does not depend on how many there are to be."""
    schedule, warmup_steps = (
        trainer_value(recipe.step, recipe.trainer, key) for key in ("lr_scheduler_type", "warmup_steps")
    )
    return schedule == "constant" or (
        schedule == "constant_with_warmup" and (warmup_steps == 0 or warmup_steps >= 1)  # below 1 it is a share
    )


def _mend(key: str, recipe: Recipe) -> str:
    if key in LENGTH:
        schedule = trainer_value(recipe.step, recipe.trainer, "lr_scheduler_type")
        return (
            f"the learning rate (trainer.lr_scheduler_type: {schedule}) depends on it: only constant, or "
            f"constant_with_warmup with warmup_steps of at least 1, can be prolonged. Set it back, or begin another run"
        )
    return "set it back, or begin another run (without --resume)"


def _values(recipe: Recipe) -> dict[str, Any]:
    values = yaml.safe_load(dump_recipe(recipe))
    if recipe.trainer:
        defaults = {key: field.default for key, field in trainer_fields(recipe.step).items()}
        values["trainer"] = defaults | values["trainer"]
    return values


def _differences(old: Any, new: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        parts = [(str(name), old.get(name, NOT_SET), new.get(name, NOT_SET)) for name in {**old, **new}]
    elif isinstance(old, list) and isinstance(new, list):
        parts = [(str(index), *pair) for index, pair in enumerate(zip_longest(old, new, fillvalue=NOT_SET))]
    else:
        if old != new:
            yield key, old, new
        return
    for name, old_part, new_part in parts:
        yield from _differences(old_part, new_part, f"{key}.{name}" if key else name)


def _text(value: Any) -> str:
    return "not set" if value is NOT_SET else json.dumps(value, ensure_ascii=False, default=str)


def _step_of(checkpoint: Path) -> int | None:
    match = re.fullmatch(r"checkpoint-(\d+)", checkpoint.name)
    return int(match.group(1)) if match else None
