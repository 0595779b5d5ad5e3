"""How training ends early, with everything in a checkpoint, when somebody asks it to."""

import signal

import torch
from transformers import Trainer, TrainerCallback
from transformers.trainer_utils import SaveStrategy

from open_r1 import signals
from open_r1.signals import Interrupted


class StopsWhenAsked(TrainerCallback):
    """Raises Interrupted after the first optimizer step in which a process got SIGTERM or SIGUSR1, all of it saved.

    All processes of a run end at the same step, whichever of them were signalled. A signal in the last step changes
    nothing: there is no more to do than to save the model.
    """

    def __init__(self, trainer: Trainer):
        self._accelerator = trainer.accelerator
        self._interrupted: Interrupted | None = None

    def on_train_begin(self, args, state, control, **kwargs):
        try:
            asked_by = self._asked_by()
        except RuntimeError:  # another process was asked earlier, when it could end at once, and is gone
            asked_by = signals.received()
            if asked_by is None:
                raise
        if asked_by:
            raise Interrupted(asked_by)

    def on_step_end(self, args, state, control, **kwargs):
        if control.should_training_stop:
            return
        asked_by = self._asked_by()
        if asked_by:
            self._interrupted = Interrupted(asked_by, state.global_step)
            # Whatever the recipe keeps of its checkpoints: this one is all that there will be to go on from.
            args.save_strategy, args.save_only_model = SaveStrategy.STEPS, False
            control.should_save = True

    def on_save(self, args, state, control, **kwargs):
        if self._interrupted:
            raise self._interrupted

    def _asked_by(self) -> signal.Signals | None:
        """The signal that any process of the run got, the same in all of them; None if none did."""
        number = int(signals.received() or 0)
        if self._accelerator.num_processes > 1:
            numbers = self._accelerator.gather(torch.tensor([number], device=self._accelerator.device))
            number = int(numbers.max())
        return signal.Signals(number) if number else None
