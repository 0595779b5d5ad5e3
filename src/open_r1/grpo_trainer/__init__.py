"""trl.GRPOTrainer that wastes nothing and resumes to the bit.

trainer        the subclass
micro_batches  which rows are computed together, and how wide
groups         which groups teach nothing, and how fresh ones take their place
rollout        sampling with model.generate that lets ended rows go
timing         seconds and tokens of each phase of a step
weighing       metrics of parts of a step as one
"""

from open_r1.grpo_trainer.groups import leave_out_unjudged
from open_r1.grpo_trainer.trainer import GRPOTrainer

__all__ = ["GRPOTrainer", "leave_out_unjudged"]
