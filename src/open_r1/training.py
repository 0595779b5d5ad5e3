"""What every training run shares: arguments, metrics, guards, resuming, EOS, saving."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from datasets import Dataset
from transformers import PreTrainedTokenizerBase, Trainer, TrainerCallback, set_seed
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from transformers.trainer_utils import get_last_checkpoint
from trl import SFTConfig, SFTTrainer

from open_r1 import data, modeling
from open_r1.gold_check import (
    GoldCheck,
    gold_program_column,
    judges_programs,
    require_verified_golds,
    require_verified_programs,
    row_problems,
)
from open_r1.recipe import Guards, Recipe, RecipeError
from open_r1.rewards import reward_columns
from open_r1.step_process import RunStopped

METRICS_FILE = "metrics.jsonl"
MODEL_DIRECTORY = "model"
# accelerate names the CPU of several processes `cpu:0`, transformers restores the optimizer to the device of that name,
# and torch knows a CPU by `cpu` alone: without this a run of several CPU processes can never be taken up again.
torch.serialization.register_package(
    priority=100, tagger=lambda storage: None, deserializer=lambda storage, at: storage if at == "cpu:0" else None
)
FAILED_SHARE = "failed_share"  # how a metric's name ends that tells what share of a batch a broken judge left out
MAX_UNJUDGED_LOGS = 3
PROGRESS_METRICS = {"reward": "reward", "completions/mean_length": "tokens", "loss": "loss"}


def begin(recipe: Recipe) -> PartialState:
    """Seeds every generator, joins the processes of this run and gives their state.

    Raises RecipeError if fewer or more processes work together than the recipe was checked for: with a wrong
    accelerate config each would train alone, on another batch size, and say nothing.
    """
    set_seed(recipe.seed)
    processes = PartialState(cpu=bool(recipe.trainer.get("use_cpu")))  # the first call decides the backend
    if processes.num_processes != recipe.hardware.num_processes:
        raise RecipeError(
            f"{recipe.source}: hardware: {recipe.hardware.num_processes} processes were asked for, but "
            f"{processes.num_processes} work together; is distributed_type of the accelerate config "
            f"{recipe.hardware.accelerate} right?"
        )
    return processes


def verified_data(recipe: Recipe, run_dir: Path, processes: PartialState) -> Dataset:
    """The recipe's data with what its rewards ask for, without the rows whose programs could not be judged.

    Raises RecipeError, in every process of the run, if the rewards accept too few of the data's own golds.
    """
    gold_column = gold_program_column(recipe)
    dataset = data.load_data(recipe, [*reward_columns(recipe.rewards), *([gold_column] if gold_column else [])])
    problem: list[RecipeError | None] = [None]
    if processes.is_main_process:
        try:
            for checked in filter(None, _checks(recipe, dataset, gold_column, run_dir)):
                print(checked.summary())
        except RecipeError as error:
            problem = [error]
    broadcast_object_list(problem)
    if problem[0] is not None:
        raise problem[0]
    refused = row_problems(recipe, dataset)
    return dataset.select([row for row in range(len(dataset)) if row not in refused]) if refused else dataset


def _checks(recipe: Recipe, dataset: Dataset, gold_column: str | None, run_dir: Path) -> Iterator[GoldCheck | None]:
    if "solution" in dataset.column_names:
        yield require_verified_golds(recipe, dataset["solution"], run_dir)
    if judges_programs(recipe):
        columns = {name: dataset[name] for name in reward_columns(recipe.rewards)}
        golds = dataset[gold_column] if gold_column else None
        yield require_verified_programs(recipe, columns, golds, run_dir)


def trainer_arguments(recipe: Recipe, run_dir: Path) -> dict[str, Any]:
    """Keyword arguments of the TRL config: the recipe's `trainer:` and what the run directory and seed decide."""
    return {
        "report_to": "none",
        "logging_nan_inf_filter": False,  # transformers would hide a nan loss from the guard
        **recipe.trainer,
        "output_dir": str(run_dir / "checkpoints"),
        "seed": recipe.seed,
    }


def fine_tune(recipe: Recipe, run_dir: Path, model, tokenizer: PreTrainedTokenizerBase, dataset) -> None:
    """Supervised training with trl.SFTTrainer: loss on `completion` (or on all of `text`), model saved at the end."""
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(**trainer_arguments(recipe, run_dir)),
        train_dataset=dataset,
        processing_class=tokenizer,
        peft_config=modeling.lora_config(recipe.model),
    )
    check_eos_is_trained(recipe, trainer, tokenizer)
    train(trainer, recipe, run_dir, tokenizer)


def train(trainer: Trainer, recipe: Recipe, run_dir: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Trains from the last checkpoint of the run directory, if there is one, and saves the model to `model/`."""
    check_eos_ends_generation(recipe, trainer.model, tokenizer)
    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)
    trainer.add_callback(Progress())
    trainer.add_callback(MetricsWriter(run_dir / METRICS_FILE))
    trainer.add_callback(GuardCallback(recipe.guards))  # last: what it stops at has been written down
    checkpoints = run_dir / "checkpoints"
    trainer.train(resume_from_checkpoint=get_last_checkpoint(checkpoints) if checkpoints.is_dir() else None)
    if trainer.state.global_step == 0:  # transformers says so in a warning and goes on
        raise RecipeError(
            f"{recipe.source}: data: {len(trainer.train_dataset)} rows do not fill one batch, so nothing was trained; "
            f"give more, or a smaller trainer.per_device_train_batch_size"
        )
    if trainer.is_world_process_zero():
        modeling.save_model(trainer.accelerator.unwrap_model(trainer.model), tokenizer, run_dir / MODEL_DIRECTORY)
    trainer.accelerator.wait_for_everyone()


def check_eos_ends_generation(recipe: Recipe, model, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises RecipeError unless sampling from the model stops at the tokenizer's EOS: else it would never stop."""
    ids = model.generation_config.eos_token_id
    ids = ids if isinstance(ids, list) else [ids]
    if tokenizer.eos_token_id is None or tokenizer.eos_token_id not in ids:
        raise RecipeError(
            f"{recipe.source}: model.name: its generation config stops at tokens {ids}, its tokenizer ends a turn with "
            f"{tokenizer.eos_token!r} ({tokenizer.eos_token_id}); set trainer.eos_token to the token that ends a turn"
        )


def check_eos_is_trained(recipe: Recipe, trainer: SFTTrainer, tokenizer: PreTrainedTokenizerBase, num_rows=64) -> None:
    """Raises RecipeError unless the EOS token carries loss in the first `num_rows` rows that were not cut off."""
    rows = trainer.train_dataset.select(range(min(num_rows, len(trainer.train_dataset))))
    for index, row in enumerate(rows):
        ids = row["input_ids"]
        if trainer.args.max_length is not None and len(ids) >= trainer.args.max_length:
            continue  # truncated: its end is not there to be learned
        carries_loss = [label != -100 for label in row["labels"]] if "labels" in row else row.get("completion_mask")
        learned = [i for i, c in zip(ids, carries_loss or [1] * len(ids), strict=True) if c]
        if tokenizer.eos_token_id not in learned:
            raise RecipeError(
                f"{recipe.source}: model.chat_template: {tokenizer.eos_token!r} is not among the trained tokens of row "
                f"{index}, so the model would never learn to stop; end the assistant's turn with it in the template, "
                f"or set trainer.eos_token to the token that does"
            )


class MetricsWriter(TrainerCallback):
    """Appends each log as one JSON line; on resuming, drops the lines that will be written again."""

    def __init__(self, file: Path):
        self.file = file

    def on_train_begin(self, args, state, control, **kwargs):
        if state.is_world_process_zero and self.file.exists():
            lines = self.file.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= state.global_step]
            self.file.write_text("".join(kept), encoding="utf-8")

    def on_log(self, args, state, control, logs=None, **kwargs):
        if state.is_world_process_zero and logs and "train_runtime" not in logs:
            with self.file.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps({"step": state.global_step, **logs}) + "\n")


class Progress(ProgressCallback):
    """A progress bar with the few metrics that one watches, instead of a printed dict for every log."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        if state.is_world_process_zero and self.training_bar is not None and logs:
            shown = {name: logs[key] for key, name in PROGRESS_METRICS.items() if isinstance(logs.get(key), float)}
            self.training_bar.set_postfix({name: f"{value:.3g}" for name, value in shown.items()})


class GuardCallback(TrainerCallback):
    """Stops a run that cannot succeed, with the reason and the key to change."""

    def __init__(self, guards: Guards):
        self.guards = guards
        self.num_truncated_logs = 0
        self.num_dead_logs = 0
        self.num_unjudged_logs = 0

    def on_log(self, args, state, control, logs=None, **kwargs):
        logs = logs or {}
        if self.guards.stop_on_non_finite:
            for key in ("loss", "grad_norm"):
                if key in logs and not math.isfinite(logs[key]):
                    raise RunStopped(
                        f"stopped at step {state.global_step}: {key} is {logs[key]}; lower trainer.learning_rate or "
                        f"trainer.max_grad_norm (guards.stop_on_non_finite: false goes on all the same)"
                    )
        self._check_truncation(logs, args, state.global_step)
        self._check_dead_groups(logs, state.global_step)
        self._check_judges(logs, state.global_step)

    def _check_truncation(self, logs, args, step: int) -> None:
        share, limit = logs.get("completions/clipped_ratio"), self.guards.max_truncated_share
        if share is None or limit is None:
            return
        self.num_truncated_logs = self.num_truncated_logs + 1 if share >= limit else 0
        if self.num_truncated_logs >= self.guards.truncated_steps:
            raise RunStopped(
                f"stopped at step {step}: {share:.0%} of the completions were cut off at trainer.max_completion_length"
                f"={args.max_completion_length} tokens, {self.num_truncated_logs} logs in a row: nothing to reward; "
                f"raise it, or train the model to end first (guards.max_truncated_share: null goes on all the same)"
            )

    def _check_dead_groups(self, logs, step: int) -> None:
        share, limit = logs.get("frac_reward_zero_std"), self.guards.max_dead_steps
        if share is None or limit is None:
            return
        self.num_dead_logs = self.num_dead_logs + 1 if share >= 1.0 else 0
        if self.num_dead_logs >= limit:
            raise RunStopped(
                f"stopped at step {step}: in {self.num_dead_logs} logs in a row every group had equal rewards, so "
                f"there is no gradient; choose data of other difficulty in `data`, raise trainer.num_generations, or "
                f"stop earlier with trainer.max_steps (guards.max_dead_steps: null goes on all the same)"
            )

    def _check_judges(self, logs, step: int) -> None:
        shares = {key: value for key, value in logs.items() if key.endswith(FAILED_SHARE)}
        limit = self.guards.max_judge_failed_share
        if not shares or limit is None:
            return
        worst = max(shares, key=shares.get)
        self.num_unjudged_logs = self.num_unjudged_logs + 1 if shares[worst] > limit else 0
        if self.num_unjudged_logs >= MAX_UNJUDGED_LOGS:
            raise RunStopped(
                f"stopped at step {step}: {worst} was {shares[worst]:.0%}, {self.num_unjudged_logs} logs in a row over "
                f"{limit:.0%}: the judge breaks, and what it does not judge teaches nothing; the completions table "
                f"says why (guards.max_judge_failed_share: null goes on all the same)"
            )
