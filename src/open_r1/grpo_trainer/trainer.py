"""trl.GRPOTrainer where a reward without a verdict is no reward of zero, and judging begins as soon as it can.

Shapes: N completions (P prompts x G of each), F reward functions.
"""

import torch
import trl

from open_r1.rewards import BoundReward


class GRPOTrainer(trl.GRPOTrainer):
    """As TRL's, but a completion that one reward could not judge is left out of its group, all its rewards with it.

    Rewards that are judged in other processes begin when the completions are there, and go on while the trainer
    computes log-probabilities and the other rewards.
    """

    def _generate_and_score_completions(self, inputs):
        self._rows_in_hand = inputs
        return super()._generate_and_score_completions(inputs)

    def _generate(self, prompts):
        generated = super()._generate(prompts)
        _, completion_ids, _, completions, *_ = generated
        columns = {
            key: [row[key] for row in self._rows_in_hand]
            for key in self._rows_in_hand[0]
            if key not in ("prompt", "completion", "completion_ids")
        }
        given = {"prompts": prompts, "completion_ids": completion_ids, "trainer_state": self.state}
        for reward in self.reward_funcs:
            if isinstance(reward, BoundReward):
                reward.start(completions, **given, **columns)
        return generated

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list) -> torch.Tensor:
        rewards_NF = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        return leave_out_unjudged(
            rewards_NF, self.num_generations if self.model.training else self.num_generations_eval
        )


def leave_out_unjudged(rewards_NF: torch.Tensor, num_generations: int) -> torch.Tensor:
    """The rewards, with nan (no verdict) in a whole row if one of its rewards has none where others of its group have.

    TRL adds up what is not nan, so that an answer whose judge broke would stand beside its group as if it were wrong.
    A reward that has no verdict on a whole group (a gold that does not parse, a reward that is not for this kind of
    problem) says nothing about any of them, and the others go on counting.
    """
    rewards_PGF = rewards_NF.view(-1, num_generations, rewards_NF.shape[1])
    missing_PGF = rewards_PGF.isnan()
    alone_PGF = missing_PGF & ~missing_PGF.all(dim=1, keepdim=True)
    return rewards_PGF.masked_fill(alone_PGF.any(dim=2, keepdim=True), torch.nan).view_as(rewards_NF)
