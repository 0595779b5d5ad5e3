"""metrics.jsonl of a GRPO run -> what is rewarded beside what is wanted, on the same held-out prompts.

When a policy is optimized against a reward model, what the model says goes on rising after what it stands for has begun
to fall (Gao et al., arXiv 2210.10760, figure 1). Who knows the truth, and does not train on it, can see where.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from open_r1.report.reading import Run, json_object, tolerant
from open_r1.resuming import last_checkpoint
from open_r1.rewards import REWARDS, VERIFIED

EVALUATED = "eval_rewards/{}/mean"
STATE_FILE = "trainer_state.json"


@dataclass(frozen=True)
class RewardAndTruth:
    """Means of rewards on eval_data, by name, each by the step of the evaluation."""

    truths: dict[str, pd.Series]
    """What is wanted, `guards.truth`; without one, all rewards that verify, and functions of the recipe's own."""
    rewards: dict[str, pd.Series]
    """What the policy was trained on and the truth is not."""
    stopped_at: int | None
    """Where a guard ended the run, None if none did."""
    best_step: int | None
    """The checkpoint that became the model, None if it is simply the last."""


def reward_and_truth(stage: Run, notes: list[str]) -> RewardAndTruth | None:
    """None if the run is not GRPO, or did not evaluate two rewards on eval_data of which one can be the truth."""
    if stage.step != "grpo":
        return None
    truth = truth_of(stage)
    truths, rewards = {}, {}
    for reward in stage.recipe.get("rewards") or []:
        name = called(reward)
        key = EVALUATED.format(name)
        means = pd.to_numeric(stage.metrics[key], errors="coerce").dropna() if key in stage.metrics else ()
        if not len(means):
            continue
        if name == truth or (truth is None and _verifies(reward)):
            truths[name] = means
        elif reward.get("weight", 1.0):
            rewards[name] = means
    if not truths or len(truths) + len(rewards) < 2:
        return None
    return RewardAndTruth(truths, rewards, stage.stopped_at, _best_step(stage, notes))


def truth_of(stage: Run) -> str | None:
    """What `guards.truth` names, None if it names nothing."""
    return (stage.recipe.get("guards") or {}).get("truth")


def _best_step(stage: Run, notes: list[str]) -> int | None:
    """As the last checkpoint has it; None if its checkpoints are gone."""
    if not (stage.recipe.get("trainer") or {}).get("load_best_model_at_end"):
        return None
    checkpoint = last_checkpoint(stage.folder / "checkpoints")
    state = tolerant(json_object, checkpoint / STATE_FILE, notes) if checkpoint else None
    name = str((state or {}).get("best_model_checkpoint") or "").rpartition("checkpoint-")[2]
    return int(name) if name.isdecimal() else None


def called(reward: Mapping[str, Any]) -> str:
    """A reward's name in the metrics (see recipe.Reward.called)."""
    return reward.get("label") or str(reward.get("name")).rpartition(":")[2]


def _verifies(reward: Mapping[str, Any]) -> bool:
    return reward.get("name") in VERIFIED or reward.get("name") not in REWARDS
