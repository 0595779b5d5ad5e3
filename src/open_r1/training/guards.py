"""What stops a run that cannot succeed, with the reason and the key to change."""

import math

from transformers import TrainerCallback

from open_r1.recipe import Guards
from open_r1.step_process import RunStopped

FAILED_SHARE = "failed_share"  # how a metric's name ends that tells what share of a batch a broken judge left out
MAX_UNJUDGED_LOGS = 3


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
