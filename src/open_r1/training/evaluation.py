"""What several processes evaluate while they train: as much of the data as they can share out evenly."""

from accelerate import PartialState
from datasets import Dataset
from trl import GRPOConfig

from open_r1.recipe import Recipe, RecipeError


def whole_batches(held_out: Dataset, recipe: Recipe, arguments: GRPOConfig, processes: PartialState) -> Dataset:
    """The problems that fill whole batches of all processes: the last would be filled up with the first ones again.

    One process goes through all of them. Raises RecipeError if they do not fill one batch.
    """
    if processes.num_processes == 1:
        return held_out
    num_generations = arguments.num_generations_eval or arguments.num_generations
    per_batch = arguments.per_device_eval_batch_size * processes.num_processes // num_generations
    num_problems = len(held_out) // per_batch * per_batch
    if num_problems == 0:
        raise RecipeError(
            f"{recipe.source}: eval_data: {len(held_out)} problems do not fill one batch of {per_batch} "
            f"(per_device_eval_batch_size x processes / num_generations); give more, or a smaller "
            f"trainer.per_device_eval_batch_size"
        )
    if num_problems < len(held_out) and processes.is_main_process:
        print(f"eval_data: {num_problems} of {len(held_out)} problems are evaluated, whole batches of {per_batch}")
    return held_out.select(range(num_problems))
