"""What every training run shares: its data, its arguments, how it is resumed and saved.

checkpoints  checkpoints that are whole, and all that a resumed run needs
sharding     weights that no process has all of
interruption the end of a run that is asked to stop
pairs        what a chat template makes of pairs, and how many are left
evaluation   which problems several processes evaluate
metrics      metrics.jsonl and the progress bar
guards       what stops a run that cannot succeed, or warns of one that may not
watchdog     what ends a process that waits for another in vain
"""

from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, set_seed
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from trl import SFTConfig
from trl import SFTTrainer as TrlSFTTrainer

from open_r1 import data, modeling, signals
from open_r1.gold_check import (
    GoldCheck,
    gold_program_column,
    program_columns,
    require_verified_golds,
    require_verified_programs,
    row_problems,
)
from open_r1.recipe import Recipe, RecipeError
from open_r1.recipe.trainer_fields import TRAINER_CONFIGS, trainer_value
from open_r1.resuming import check_recipe_of, last_checkpoint
from open_r1.rewards import best_checkpoint_metric, reward_columns
from open_r1.training.checkpoints import WholeCheckpoints, remove_unfinished, steps_of
from open_r1.training.guards import GuardCallback
from open_r1.training.interruption import StopsWhenAsked
from open_r1.training.metrics import MetricsWriter, Progress
from open_r1.training.sharding import gathered_weights, shares_out_weights

MODEL_DIRECTORY = "model"
SECONDS_OF_SAMPLING = 30 * 24 * 3600  # processes that only sample wait for each other once, at the end
# accelerate names the CPU of several processes `cpu:0`, transformers restores the optimizer to the device of that name,
# and torch knows a CPU by `cpu` alone: without this a run of several CPU processes can never be taken up again.
torch.serialization.register_package(
    priority=100, tagger=lambda storage: None, deserializer=lambda storage, at: storage if at == "cpu:0" else None
)


def begin(recipe: Recipe) -> PartialState:
    """Seeds every generator, joins the processes of this run and gives their state.

    Raises RecipeError if GPUs are missing, or if fewer or more processes work together than the recipe was checked for:
    with a wrong accelerate config each would train alone, on another batch size, and say nothing.
    """
    modeling.check_accelerators(recipe)
    set_seed(recipe.seed)
    # The first call decides backend and timeout; what TrainingArguments says of them later is not heard.
    seconds = trainer_value(recipe.step, recipe.trainer, "ddp_timeout") if recipe.step in TRAINER_CONFIGS else None
    timeout = timedelta(seconds=SECONDS_OF_SAMPLING if seconds is None else seconds)
    samples_on_cpu = recipe.step not in TRAINER_CONFIGS and recipe.hardware.gpus_per_node == 0
    processes = PartialState(cpu=bool(recipe.trainer.get("use_cpu")) or samples_on_cpu, timeout=timeout)
    if processes.num_processes != recipe.hardware.num_processes:
        raise RecipeError(
            f"{recipe.source}: hardware: {recipe.hardware.num_processes} processes were asked for, but "
            f"{processes.num_processes} work together; is distributed_type of the accelerate config "
            f"{recipe.hardware.accelerate} right?"
        )
    return processes


def verified_data(recipe: Recipe, run_dir: Path, processes: PartialState, section: str = "data") -> Dataset:
    """The recipe's data (or eval_data) with what its rewards ask for, but for rows whose programs could not be judged.

    Raises RecipeError, in every process of the run, if the rewards accept too few of the data's own golds.
    """
    gold_column = gold_program_column(recipe, section)
    columns = [*reward_columns(recipe.rewards), *([gold_column] if gold_column else [])]
    dataset = data.load_data(recipe, columns, section)
    problem: list[RecipeError | None] = [None]
    if processes.is_main_process:
        try:
            for checked in filter(None, _checks(recipe, dataset, gold_column, run_dir, section)):
                print(checked.summary())
        except RecipeError as error:
            problem = [error]
    broadcast_object_list(problem)
    if problem[0] is not None:
        raise problem[0]
    refused = row_problems(recipe, dataset)
    return dataset.select([row for row in range(len(dataset)) if row not in refused]) if refused else dataset


def _checks(
    recipe: Recipe, dataset: Dataset, gold_column: str | None, run_dir: Path, section: str
) -> Iterator[GoldCheck | None]:
    if "solution" in dataset.column_names:
        tasks = dataset["task"] if "task" in dataset.column_names else None
        yield require_verified_golds(recipe, dataset["solution"], run_dir, section, tasks)
    if columns := program_columns(recipe, dataset):
        golds = dataset[gold_column] if gold_column else None
        yield require_verified_programs(recipe, columns, golds, run_dir, section)


def trainer_arguments(recipe: Recipe, run_dir: Path) -> dict[str, Any]:
    """Keyword arguments of the TRL config: the recipe's `trainer:` and what the run directory and seed decide."""
    return {
        "report_to": "none",
        "logging_nan_inf_filter": False,  # transformers would hide a nan loss from the guard
        **recipe.trainer,
        **_best_checkpoint(recipe),
        "output_dir": str(run_dir / "checkpoints"),
        "seed": recipe.seed,
    }


def _best_checkpoint(recipe: Recipe) -> dict[str, Any]:
    """By what GRPO's best checkpoint is known: not by the loss, as it is elsewhere."""
    if recipe.step != "grpo" or not recipe.trainer.get("load_best_model_at_end"):
        return {}
    metric = best_checkpoint_metric(recipe)
    if metric is None or recipe.trainer.get("metric_for_best_model"):
        return {}
    return {"metric_for_best_model": metric, "greater_is_better": True}


class SFTTrainer(WholeCheckpoints, TrlSFTTrainer):
    """trl.SFTTrainer with checkpoints that are whole or not there."""


def fine_tune(
    recipe: Recipe, run_dir: Path, load: Callable[[], PreTrainedModel], tokenizer: PreTrainedTokenizerBase, dataset
) -> None:
    """Supervised training with trl.SFTTrainer: loss on `completion` (or on all of `text`), model saved at the end."""
    arguments = SFTConfig(**trainer_arguments(recipe, run_dir))  # first: ZeRO-3 then shares weights out as they load
    model = load()
    trainer = SFTTrainer(
        model=model,
        args=arguments,
        train_dataset=dataset,
        processing_class=tokenizer,
        peft_config=modeling.lora_config(recipe, model),
    )
    check_eos_is_trained(recipe, trainer, tokenizer)
    train(trainer, recipe, run_dir, tokenizer)


def train(trainer: Trainer, recipe: Recipe, run_dir: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Trains from the last checkpoint of the run directory, if there is one, and saves the model to `model/`.

    Raises Interrupted, and saves a checkpoint instead, if a signal asks for it while there is something left to train.
    """
    if trainer.model.can_generate():  # a reward model says nothing
        check_eos_ends_generation(recipe, trainer.model, tokenizer)
    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)
    trainer.add_callback(Progress())
    trainer.add_callback(MetricsWriter(run_dir))
    # last: what it stops at has been written down
    trainer.add_callback(GuardCallback(recipe.guards, run_dir, recipe.rewards, _tasks(trainer.eval_dataset)))
    trainer.add_callback(StopsWhenAsked(trainer))
    trainer.recipe = recipe
    checkpoints = run_dir / "checkpoints"
    if trainer.is_world_process_zero():
        remove_unfinished(checkpoints)
    trainer.accelerator.wait_for_everyone()
    checkpoint = last_checkpoint(checkpoints)
    trainer.args.eval_on_start = trainer.args.eval_on_start and checkpoint is None  # it has been
    if checkpoint is not None:
        check_recipe_of(checkpoint, recipe)
    with signals.answered_with(signals.remember):
        _train_from(checkpoint, trainer, recipe)
        weights = gathered_weights(trainer.accelerator, trainer.model_wrapped)
        if trainer.is_world_process_zero():
            model = trainer.accelerator.unwrap_model(trainer.model)
            modeling.save_model(model, tokenizer, run_dir / MODEL_DIRECTORY, weights)
        trainer.accelerator.wait_for_everyone()


def _tasks(dataset: Dataset | None) -> list[str | None]:
    """The task of each row, None for those of none."""
    if dataset is None:
        return []
    return dataset["task"][:] if "task" in dataset.column_names else [None] * len(dataset)


def _train_from(checkpoint: Path | None, trainer: Trainer, recipe: Recipe) -> None:
    if checkpoint is not None and is_last_step(trainer, checkpoint):  # transformers would train on, a step too many
        if trainer.args.load_best_model_at_end and (best := steps_of(checkpoint).best_model_checkpoint):
            checkpoint = checkpoint.with_name(Path(best).name)
        if shares_out_weights(trainer.accelerator):
            num_steps = steps_of(checkpoint).global_step
            trainer._prepare_for_training(num_steps, trainer.get_train_dataloader(), str(checkpoint))
        else:
            trainer._load_from_checkpoint(str(checkpoint))
    else:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        if trainer.state.global_step == 0:  # transformers says so in a warning and goes on
            raise RecipeError(
                f"{recipe.source}: data: {len(trainer.train_dataset)} rows do not fill one batch, so nothing was "
                f"trained; give more, or a smaller trainer.per_device_train_batch_size"
            )


def is_last_step(trainer: Trainer, checkpoint: Path) -> bool:
    """True if the run that wrote the checkpoint had nothing left to train."""
    state = steps_of(checkpoint)
    *_, max_steps = trainer.set_initial_training_values(trainer.args, trainer.get_train_dataloader())
    return state.global_step >= max_steps


def check_eos_ends_generation(recipe: Recipe, model, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises RecipeError unless sampling from the model stops at the tokenizer's EOS: else it would never stop."""
    ids = model.generation_config.eos_token_id
    ids = ids if isinstance(ids, list) else [ids]
    if tokenizer.eos_token_id is None or tokenizer.eos_token_id not in ids:
        raise RecipeError(
            f"{recipe.source}: model.name: its generation config stops at tokens {ids}, its tokenizer ends a turn with "
            f"{tokenizer.eos_token!r} ({tokenizer.eos_token_id}); set trainer.eos_token to the token that ends a turn"
        )


def check_eos_is_trained(recipe: Recipe, trainer: Trainer, tokenizer: PreTrainedTokenizerBase, num_rows=64) -> None:
    """Raises RecipeError unless the EOS token carries loss in the first `num_rows` rows that were not cut off."""
    rows = trainer.train_dataset.select(range(min(num_rows, len(trainer.train_dataset))))
    for index, row in enumerate(rows):
        ids, learned = _learned_tokens(row)
        if trainer.args.max_length is not None and len(ids) >= trainer.args.max_length:
            continue  # truncated: its end is not there to be learned
        if tokenizer.eos_token_id not in learned:
            raise RecipeError(
                f"{recipe.source}: model.chat_template: {tokenizer.eos_token!r} is not among the trained tokens of row "
                f"{index}, so the model would never learn to stop; end the assistant's turn with it in the template, "
                f"or set trainer.eos_token to the token that does"
            )


def _learned_tokens(row: Mapping[str, Any]) -> tuple[list[int], list[int]]:
    """All tokens of a row, and those that carry loss: of a pair those of the chosen answer."""
    if "chosen_ids" in row:
        return [*row["prompt_ids"], *row["chosen_ids"]], row["chosen_ids"]
    ids = row["input_ids"]
    carries_loss = [label != -100 for label in row["labels"]] if "labels" in row else row.get("completion_mask")
    return ids, [token for token, carries in zip(ids, carries_loss or [1] * len(ids), strict=True) if carries]
