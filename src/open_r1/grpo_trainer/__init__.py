"""trl.GRPOTrainer that wastes nothing and resumes to the bit.

trainer         the subclass
"""

from open_r1.grpo_trainer.trainer import GRPOTrainer, leave_out_unjudged

__all__ = ["GRPOTrainer", "leave_out_unjudged"]
