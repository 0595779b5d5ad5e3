"""Checkpoints that are whole or not there, and everything in them that a run needs to go on as if nothing had been."""

import os
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback
from transformers.trainer_callback import TrainerState
from transformers.trainer_utils import sort_checkpoints

from open_r1.recipe import Recipe, dump_recipe
from open_r1.resuming import RECIPE_FILE

UNFINISHED = "unfinished"  # no name that transformers would take for a checkpoint
STATE_FILE = "trainer_state.json"


class WholeCheckpoints:
    """Mixin of transformers.Trainer: a checkpoint has its name only when every process has written all of it.

    It is written in a folder of its own and renamed; an older one goes only after that, and is renamed first. So
    whatever moment a process is killed at, each `checkpoint-*` is whole, and the last one is the last that was made.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.recipe: Recipe | None = None  # goes into each checkpoint; who takes one up must agree with it
        self._staging: Path | None = None
        self._state_to_restore: dict[str, Any] | None = None
        self.add_callback(_RestoresLoss(self))

    def extra_state(self) -> dict[str, Any]:
        """What this process keeps in memory alone and needs to go on: tensors, numbers, strings, lists, dicts of them.

        Subclasses add to it. It is read back with weights_only.
        """
        return {
            "loss_since_log": self._tr_loss,
            "loss_logged": self._total_loss_scalar,
            "step_last_logged": self._globalstep_last_logged,
            "metrics_since_log": {mode: dict(metrics) for mode, metrics in self._metrics.items()},
            "tokens_trained": self._total_train_tokens,
        }

    def load_extra_state(self, state: dict[str, Any]) -> None:
        """Takes up what `extra_state` gave, after weights and optimizer are loaded and before training goes on."""
        for mode, metrics in state["metrics_since_log"].items():
            self._metrics[mode].update(metrics)
        self._total_train_tokens = state.get("tokens_trained", 0)  # of an earlier release: none

    def _get_output_dir(self, trial) -> str:
        return str(self._staging) if self._staging else super()._get_output_dir(trial)

    def _save_checkpoint(self, model, trial) -> None:
        folder = Path(self._get_output_dir(trial))
        self._staging = folder / UNFINISHED
        try:
            super()._save_checkpoint(model, trial)
            unfinished = self._staging / f"checkpoint-{self.state.global_step}"
            unfinished.mkdir(parents=True, exist_ok=True)
            torch.save(self.extra_state(), unfinished / _extra_state_file(self.args.process_index))
        finally:
            self._staging = None
        self._best_checkpoint_is_in(folder)
        if self.args.should_save:
            self.state.save_to_json(str(unfinished / STATE_FILE))
            if self.recipe is not None:
                (unfinished / RECIPE_FILE).write_text(dump_recipe(self.recipe), encoding="utf-8")
        self.accelerator.wait_for_everyone()  # a file that another process still writes may be about to be renamed
        for file in unfinished.rglob("*"):
            _to_disk(file)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            _replace(unfinished, folder / unfinished.name)
            self._remove_old_checkpoints(folder)
        self.accelerator.wait_for_everyone()

    def _best_checkpoint_is_in(self, folder: Path) -> None:
        """Names the best checkpoint as it will be called, not as it was while it was written."""
        if self.state.best_model_checkpoint:
            self.state.best_model_checkpoint = str(folder / Path(self.state.best_model_checkpoint).name)
        elif self.state.best_global_step and (folder / f"checkpoint-{self.state.best_global_step}").is_dir():
            self.state.best_model_checkpoint = str(folder / f"checkpoint-{self.state.best_global_step}")

    def _remove_old_checkpoints(self, folder: Path) -> None:
        limit = self.args.save_total_limit
        if not limit or limit < 1:
            return
        checkpoints = [Path(path) for path in sort_checkpoints(str(folder))]
        kept = {checkpoints[-1].name}
        if self.state.best_model_checkpoint:
            kept.add(Path(self.state.best_model_checkpoint).name)
        superfluous = [checkpoint for checkpoint in checkpoints if checkpoint.name not in kept]
        for checkpoint in superfluous[: len(checkpoints) - max(limit, len(kept))]:
            _remove(checkpoint, folder / UNFINISHED)

    def _load_optimizer_and_scheduler(self, checkpoint) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None:
            return
        file = Path(checkpoint) / _extra_state_file(self.args.process_index)
        if file.exists():
            self._state_to_restore = torch.load(file, map_location="cpu", weights_only=True)
            self.load_extra_state(self._state_to_restore)


class _RestoresLoss(TrainerCallback):
    """Gives the trainer back the loss since its last log, which transformers clears just before training begins."""

    def __init__(self, trainer: WholeCheckpoints):
        self._trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        restored = self._trainer._state_to_restore
        if restored is not None:
            self._trainer._tr_loss += restored["loss_since_log"].to(self._trainer._tr_loss.device)
            self._trainer._total_loss_scalar = restored["loss_logged"]
            self._trainer._globalstep_last_logged = restored["step_last_logged"]
            self._trainer._state_to_restore = None


def steps_of(checkpoint: Path) -> TrainerState:
    """The state of the trainer that wrote the checkpoint."""
    return TrainerState.load_from_json(str(checkpoint / STATE_FILE))


def remove_unfinished(folder: Path) -> None:
    """Removes what a process that was killed while it wrote, or removed, a checkpoint left behind."""
    shutil.rmtree(folder / UNFINISHED, ignore_errors=True)


def _extra_state_file(process_index: int) -> str:
    return f"extra_state_{process_index}.pt"


def _replace(unfinished: Path, checkpoint: Path) -> None:
    """Renames; a checkpoint of the same step, which an earlier attempt made, makes way."""
    if checkpoint.exists():
        _remove(checkpoint, unfinished.parent)
    os.replace(unfinished, checkpoint)
    _to_disk(checkpoint.parent)


def _remove(checkpoint: Path, aside: Path) -> None:
    """Removes a checkpoint under another name, so that half of one never bears the name of a whole."""
    aside.mkdir(exist_ok=True)
    doomed = aside / f"removed-{checkpoint.name}"
    shutil.rmtree(doomed, ignore_errors=True)
    os.replace(checkpoint, doomed)
    shutil.rmtree(doomed)


def _to_disk(path: Path) -> None:
    """Waits until a file or a folder's names would outlive a crash of the machine."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
