"""The subclass of trl.GRPOTrainer: what it samples, judges and computes is TRL's; how often and how wide is ours.

One optimizer step goes through these: `_prepare_inputs` has a rollout sampled, judged and given advantages by TRL and
arranges its rows in micro-batches of our own; `compute_loss` puts these through TRL's loss, one after the other, at the
last of the micro-steps that TRL would have spread them over.

Shapes: W processes, N completions of one process (P prompts x G of each in all of them), F reward functions, T tokens.
"""

import contextlib
import math
import random
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import trl
from accelerate.utils import DistributedType
from trl.data_utils import is_conversational
from trl.trainer.callbacks import SyncRefModelCallback
from trl.trainer.utils import nanstd

from open_r1.grpo_trainer import reference
from open_r1.grpo_trainer.groups import (
    FreshPrompts,
    Rollout,
    dead_groups,
    leave_out_looked_at,
    leave_out_unjudged,
    replace_dead,
)
from open_r1.grpo_trainer.micro_batches import Lengths, MicroBatch, plan
from open_r1.grpo_trainer.rollout import Sampler, sampling_with
from open_r1.grpo_trainer.timing import Phases
from open_r1.grpo_trainer.weighing import weighted
from open_r1.recipe import Grpo
from open_r1.rewards import BoundReward
from open_r1.step_process import RunStopped
from open_r1.training.checkpoints import WholeCheckpoints

PROMPT_KEYS = ("prompt_ids", "prompt_mask")
NOT_COLUMNS = ("prompt", "completion", "completion_ids")  # of a row; TRL gives rewards its other columns
MEAN_OVER_ROWS = ("grpo", "sapo", "dr_grpo", "luspo")  # loss types that divide by the rows of a micro-batch
MEAN_OVER_TOKENS = ("bnpo",)  # by its tokens; the others divide by the tokens of the whole rollout


@dataclass
class _RolloutInHand:
    """What one rollout has so far."""

    inputs: list[dict[str, Any]]
    prompts: list | None = None
    completions: list | None = None
    completion_ids: list[list[int]] | None = None
    being_judged: set[int] = field(default_factory=set)
    """Rows whose rewards have begun."""
    rewards_NF: torch.Tensor | None = None
    dead_P: torch.Tensor | None = None


class GRPOTrainer(WholeCheckpoints, trl.GRPOTrainer):
    """As TRL's, with the same gradient for less work; resumed from any checkpoint it ends with the same weights.

    `savings` says what is saved and how; with all of it switched off the computation is TRL's own. A completion that
    a reward with a weight could not judge is left out of its group, all its rewards with it. `weight_sync_watch` gives
    a context in which vLLM takes over the weights.
    """

    def __init__(
        self,
        *args,
        savings: Grpo,
        weight_sync_watch: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext,
        **kwargs,
    ):
        self.savings = savings
        config = kwargs["args"]
        if savings.merge_rollouts:
            merge_rollouts(config)
        with reference.shared_out_as_the_policy():
            super().__init__(*args, **kwargs)
        if config.sync_ref_model:
            self.remove_callback(SyncRefModelCallback)
            self.add_callback(reference.ReplacesReference(self.ref_model, self.accelerator))
        self.phases = Phases(self.accelerator)
        self.accelerator.backward = _of_something(self.accelerator.backward)
        if self.use_vllm:
            self.vllm_generation.sync_weights = self._watched(self.vllm_generation.sync_weights, weight_sync_watch)
        self._sampler = Sampler(savings.max_generation_batch_size)
        self._fresh_prompts = FreshPrompts(self.train_dataset, config.seed)
        self._in_hand: _RolloutInHand | None = None
        self._micro_batch: Rollout | None = None
        self._weigh_eval_batch: Callable[..., None] | None = None  # while an evaluation lasts
        self._num_judged: dict[str, float] = {}
        self._looked_at: dict[str, torch.Tensor] = {}  # by rewards of weight 0, of all processes
        # A loss whose value depends on which rows share a micro-batch is computed in TRL's own micro-batches.
        self._keeps_micro_batches = (
            self.top_entropy_quantile < 1.0 or self._entropy_bonus_enabled or self.aux_loss_enabled
        )

    # --- A rollout: sampling, judging, log-probabilities

    def _generate_and_score_completions(self, inputs):
        if not self.model.training:
            scored = super()._generate_and_score_completions(inputs)
            self._log_looked_at("eval")
            return scored
        self._logs = _empty_logs()
        if self.savings.dynamic_sampling is None:
            rollout, dead_P = self._roll_out(inputs)
        else:
            rollout, dead_P = self._roll_out_live(inputs)
        self._metrics["train"]["dead_group_share"].append(dead_P.float().mean().item())
        return rollout

    def _roll_out(self, inputs) -> tuple[Rollout, torch.Tensor]:
        """TRL's rollout of these inputs, and the dead ones among the groups of all processes."""
        self._in_hand = hand = _RolloutInHand(inputs)
        noted = set(self._logs["extra"])
        try:
            rollout = super()._generate_and_score_completions(inputs)
        finally:
            self._in_hand = None
        self._log_looked_at("train")
        self._fill_notes(noted)
        if "importance_sampling_ratio" in rollout:
            self._log_engine_ratio(rollout)
        if self.savings.skip_dead_groups:
            rollout["advantages"] = rollout["advantages"].masked_fill(self._dead_rows(hand.dead_P, len(inputs)), 0.0)
        return rollout, hand.dead_P

    def _fill_notes(self, noted: set[str]) -> None:
        """Makes the notes of rewards in the completions table as long as it is: a reward for another task makes none.

        `noted` are the columns that the step's earlier rollouts had notes in.
        """
        num_rows = len(self._logs["prompt"])
        for column, notes in self._logs["extra"].items():
            missing = [None] * (num_rows - len(notes))
            if column in noted:
                notes.extend(missing)
            else:
                notes.extendleft(missing)

    def _log_engine_ratio(self, rollout: Rollout) -> None:
        """As TRL logged it, but of what was computed alone: the rest counts as 1 there, and would hide a drift."""
        computed_NT = rollout["completion_mask"] * rollout.get("tool_mask", 1) > 0
        computed_NT &= ~rollout["old_per_token_logps"].isnan()
        ratio = rollout["importance_sampling_ratio"]  # of each token, or one of each row
        computed = computed_NT if ratio.shape == computed_NT.shape else computed_NT.any(dim=1, keepdim=True)
        name = "sampling/importance_sampling_ratio"
        for kind in ("mean", "max"):
            self._metrics["train"][f"{name}/{kind}"].pop()
        self._log_mean_and_max(name, ratio[computed])

    def _dead_rows(self, dead_P: torch.Tensor, num_rows: int) -> torch.Tensor:
        rows = dead_P.repeat_interleave(self.num_generations)
        start = self.accelerator.process_index * num_rows
        return rows[start : start + num_rows]

    def _roll_out_live(self, inputs) -> tuple[Rollout, torch.Tensor]:
        """A rollout with fresh groups in the place of dead ones, and which of all the groups sampled for it are dead.

        DAPO, arXiv 2503.14476, section 3.2. Where too few live groups are found within the limit, dead ones stay and
        count in every normaliser, as they do without dynamic sampling.
        """
        processes = self.accelerator.num_processes
        with weighted(self._metrics["train"]) as weigh:
            rollouts, dead = map(list, zip(self._roll_out(inputs), strict=True))
            num_groups = len(dead[0])
            weigh(num_groups, self._num_judged)
            unit = processes // math.gcd(processes, self.num_generations)  # rows are shared out evenly
            limit = int(self.savings.dynamic_sampling.max_factor * num_groups)
            while (missing := num_groups - int((~torch.cat(dead)).sum())) > 0:
                room = limit - sum(map(len, dead))
                num_prompts = min(-(-missing // unit), room // unit) * unit
                if num_prompts == 0:
                    break
                rows = [row for row in self._fresh_prompts.draw(num_prompts) for _ in range(self.num_generations)]
                share = len(rows) // processes
                start = self.accelerator.process_index * share
                fresh, fresh_dead_P = self._roll_out([dict(row) for row in rows[start : start + share]])
                rollouts.append(fresh)
                dead.append(fresh_dead_P)
                weigh(num_prompts, self._num_judged)
        sampled_P = torch.cat(dead)
        self._metrics["train"]["dynamic_sampling/factor"].append(len(sampled_P) / num_groups)
        if len(rollouts) == 1:
            return rollouts[0], sampled_P
        return replace_dead(rollouts, dead, self.accelerator, self.num_generations), sampled_P

    def _generate(self, prompts):
        generated = super()._generate(prompts)
        if self._in_hand is None:
            return generated
        _, completion_ids, _, completions, *_ = generated
        hand = self._in_hand
        hand.prompts, hand.completions, hand.completion_ids = prompts, completions, completion_ids
        self._judge([row for row in range(len(prompts)) if row not in hand.being_judged], completion_ids, completions)
        return generated

    def _judge(self, rows: Sequence[int], completion_ids: Sequence[list[int]], completions: Sequence) -> None:
        """Lets the rewards begin with these rows of the rollout in hand."""
        hand = self._in_hand
        if not self.savings.judge_early or not rows:
            return
        hand.being_judged.update(rows)
        inputs = [hand.inputs[row] for row in rows]
        columns = {key: [given[key] for given in inputs] for key in inputs[0] if key not in NOT_COLUMNS}
        columns |= {"prompts": [given["prompt"] for given in inputs], "completion_ids": list(completion_ids)}
        for reward in self.reward_funcs:
            if isinstance(reward, BoundReward):
                reward.start(completions, positions=rows, trainer_state=self.state, **columns)

    def _judge_finished(self, rows: list[int], completion_ids: list[list[int]]) -> None:
        """The same for rows that the sampler has finished while it goes on with others."""
        texts = self._tokenizer.batch_decode(completion_ids, skip_special_tokens=True)
        conversational = is_conversational({"prompt": self._in_hand.inputs[0]["prompt"]})
        completions = [[{"role": "assistant", "content": text}] for text in texts] if conversational else texts
        self._judge(rows, completion_ids, completions)

    def _generate_single_turn(self, prompt_ids, *args, **kwargs):
        with self.phases.measure("generation"), self._sampling():
            completion_ids, logprobs = super()._generate_single_turn(prompt_ids, *args, **kwargs)
        self.phases.count_tokens("generation", sum(map(len, completion_ids)))
        self._wait_for_others()
        return completion_ids, logprobs

    def _sampling(self) -> contextlib.AbstractContextManager:
        """transformers' generate goes on with the rows that have not ended; other backends do so themselves."""
        if self._in_hand is None or not self.savings.shrink_generation or self.use_vllm:
            return contextlib.nullcontext()
        # With tools, or a response that has to be parsed, a completion is more than its text.
        parsed = any(getattr(self._tokenizer, name, None) for name in ("response_template", "response_schema"))
        more_than_text = self.tools or parsed or self.rollout_func is not None
        model = self.accelerator.unwrap_model(self.model_wrapped)
        return sampling_with(model, self._sampler, None if more_than_text else self._judge_finished)

    def _watched(self, sync_weights: Callable[[], None], watch: Callable[[], contextlib.AbstractContextManager]):
        def watched() -> None:
            with self.phases.measure("weight_sync"), watch():
                sync_weights()

        return watched

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list) -> torch.Tensor:
        hand = self._in_hand
        if hand is not None and hand.rewards_NF is not None:
            return hand.rewards_NF
        with self.phases.measure("rewards"):
            rewards_NF = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        num_generations = self.num_generations if self.model.training else self.num_generations_eval
        weights_F = self.reward_weights.to(rewards_NF.device)
        rewards_NF = leave_out_unjudged(rewards_NF, weights_F, num_generations)
        self._num_judged = self._numbers_judged(rewards_NF, weights_F)
        self._looked_at = {
            name: rewards_NF[:, place]
            for place, name in enumerate(self.reward_func_names)
            if weights_F[place] == 0 and not rewards_NF[:, place].isnan().all()
        }
        rewards_NF = leave_out_looked_at(rewards_NF, weights_F)
        if hand is not None:
            hand.rewards_NF = rewards_NF
            each_alone = self.multi_objective_aggregation == "normalize_then_sum"
            hand.dead_P = dead_groups(rewards_NF, weights_F, num_generations, each_alone)
        return rewards_NF

    def _log_looked_at(self, mode: str) -> None:
        """Logs what rewards of weight 0 say of all rows, those too that TRL was not shown (`leave_out_looked_at`)."""
        for name, rewards_N in self._looked_at.items():
            for kind, value in (("mean", rewards_N.nanmean()), ("std", nanstd(rewards_N))):
                self._metrics[mode][f"rewards/{name}/{kind}"][-1] = value.item()
            log = self._logs["rewards"][name]
            for _ in range(min(len(log), len(rewards_N))):
                log.pop()
            log.extend(rewards_N.tolist())

    def _numbers_judged(self, rewards_NF: torch.Tensor, weights_F: torch.Tensor) -> dict[str, float]:
        """How many rows each of the means of rewards is of: those with a verdict, for their sum one that counts."""
        judged_NF = ~rewards_NF.isnan()
        by_any = (judged_NF & (weights_F != 0)).any(dim=1).sum().item()
        numbers = {"reward": by_any, "reward_std": by_any}
        for name, number in zip(self.reward_func_names, judged_NF.sum(dim=0).tolist(), strict=True):
            numbers |= {f"rewards/{name}/mean": number, f"rewards/{name}/std": number}
        return numbers

    def _get_per_token_logps_and_entropies(
        self, model, input_ids, attention_mask, logits_to_keep, batch_size=None, **kwargs
    ):
        score = super()._get_per_token_logps_and_entropies
        if self._in_hand is None:
            scored = score(model, input_ids, attention_mask, logits_to_keep, batch_size=batch_size, **kwargs)
            self._compare_with_old(scored[0], attention_mask[:, -logits_to_keep:])
            return scored
        skipped = self._rows_without_gradient(len(input_ids))
        with self.phases.measure("logprobs"):
            micro_batches = self._plan(
                attention_mask[:, :-logits_to_keep], attention_mask[:, -logits_to_keep:], ~skipped, batch_size
            )
            # nan where nothing is computed: TRL's metrics of the engine leave it out, `_compare_with_old` replaces it.
            logps_NT = torch.where(attention_mask[:, -logits_to_keep:].bool(), torch.nan, 0.0)
            for micro_batch in micro_batches:
                rows, width = micro_batch.rows, min(micro_batch.completion_width, logits_to_keep)
                start = input_ids.shape[1] - logits_to_keep
                columns = slice(max(0, start - micro_batch.prompt_width), start + width)
                ids, mask = input_ids[rows, columns], attention_mask[rows, columns]
                logps, *_ = score(model, ids, mask, width, batch_size=len(rows), **kwargs)
                logps_NT[rows, :width] = logps.to(logps_NT.dtype)
                self.phases.count_tokens("logprobs", int(mask.sum()))
        return logps_NT, None, None

    def _rows_without_gradient(self, num_rows: int) -> torch.Tensor:
        """True for the rows of dead groups, for which the rewards are waited for; none where there is a KL term."""
        if not self.savings.skip_dead_groups or self.beta != 0.0 or self.rollout_func is not None:
            return torch.zeros(num_rows, dtype=torch.bool, device=self.accelerator.device)
        hand = self._in_hand
        self._calculate_rewards(hand.inputs, hand.prompts, hand.completions, hand.completion_ids)
        return self._dead_rows(hand.dead_P, num_rows)

    # --- An optimizer step: rows in micro-batches of our own, through TRL's loss

    def _prepare_inputs(self, generation_batch):
        if not self.model.training:
            return super()._prepare_inputs(generation_batch)
        buffered = self._buffered_inputs
        with self.phases.measure("other"):
            inputs = super()._prepare_inputs(generation_batch)
            if self._buffered_inputs is buffered:
                return inputs
            self._buffered_inputs = self._arranged(self._buffered_inputs)
        return self._buffered_inputs[self._step % self.args.steps_per_generation]

    def _arranged(self, buffered: list[Rollout]) -> list[list[Rollout]]:
        """The rows of TRL's micro-batches in micro-batches of our own: a list of them for each micro-step.

        Rows may change places as long as they stay within one optimizer step and one rollout; all of these are
        computed at the last of their micro-steps, so that the gradients are synchronised right after.
        """
        num_together = math.gcd(self.args.gradient_accumulation_steps, len(buffered))
        steps: list[list[Rollout]] = []
        for start in range(0, len(buffered), num_together):
            steps += [[]] * (num_together - 1) + [self._rearranged(buffered[start : start + num_together])]
        return steps

    def _rearranged(self, given: list[Rollout]) -> list[Rollout]:
        """Some of TRL's micro-batches, which belong to one optimizer step, as ours."""
        max_rows = len(given[0]["prompt_ids"])
        rows = {key: torch.cat([g[key] for g in given]) for key, value in given[0].items() if value.dim() > 0}
        scalars = {key: value for key, value in given[0].items() if value.dim() == 0}
        needed_N = self._needed_rows(rows)
        # bnpo divides by the tokens of TRL's micro-batch: its rows stay among themselves.
        apart = self._keeps_micro_batches or self.loss_type in MEAN_OVER_TOKENS
        num_rows = len(needed_N)
        units = [slice(i, i + max_rows) for i in range(0, num_rows, max_rows)] if apart else [slice(0, num_rows)]
        loss_mask = rows["completion_mask"] * rows.get("tool_mask", 1)
        arranged, positions = [], 0
        for unit in units:
            unit_rows = {key: value[unit] for key, value in rows.items()}
            needed = needed_N[unit].clone()
            if unit == units[-1] and not arranged:
                needed = self._at_least_one(needed)
            for micro_batch in self._plan(unit_rows["prompt_mask"], unit_rows["completion_mask"], needed, max_rows):
                taken = _cut_out(unit_rows, micro_batch)
                if self.loss_type in MEAN_OVER_ROWS:
                    share = len(micro_batch.rows) / max_rows
                elif self.loss_type in MEAN_OVER_TOKENS:
                    share = loss_mask[unit][micro_batch.rows].sum().item() / max(1, loss_mask[unit].sum().item())
                else:
                    share = 1.0
                arranged.append({**scalars, **taken, "loss_share": share, "num_tokens": micro_batch.num_tokens})
                positions += taken["prompt_mask"].numel() + taken["completion_mask"].numel()
        self._metrics["train"]["padded_share"].append(1 - sum(map(_num_tokens, arranged)) / positions)
        return arranged

    def _needed_rows(self, rows: Rollout) -> torch.Tensor:
        """True for the rows that have a gradient; all of them where nothing is skipped."""
        every_row = torch.ones_like(rows["advantages"], dtype=torch.bool)
        if not self.savings.skip_dead_groups or self._keeps_micro_batches:
            return every_row
        no_loss = rows["completion_mask"].sum(dim=1) == 0  # mask_truncated_completions
        return ~no_loss if self.beta != 0.0 else ~no_loss & (rows["advantages"] != 0.0)

    def _at_least_one(self, needed_N: torch.Tensor) -> torch.Tensor:
        """The same, or with one row if no process needs any: gradients of zero move Adam on, missing ones do not."""
        if self.accelerator.gather(needed_N.any().view(1)).any():
            return needed_N
        one = torch.zeros_like(needed_N)
        one[0] = True
        return one

    def _plan(self, prompt_mask, completion_mask, needed_N, max_rows: int) -> list[MicroBatch]:
        lengths_N3 = torch.stack(
            [prompt_mask.sum(dim=1), completion_mask.sum(dim=1).clamp(min=1), needed_N.long()], dim=1
        )
        lengths_WN3 = self.accelerator.gather(lengths_N3).view(-1, *lengths_N3.shape).cpu().numpy()
        micro_batches = plan(
            Lengths(lengths_WN3[..., 0], lengths_WN3[..., 1], lengths_WN3[..., 2].astype(bool)),
            self.accelerator.process_index,
            max_rows,
            sort=self.savings.sort_by_length and not self._keeps_micro_batches,
        )
        if self.savings.trim_padding:
            return micro_batches
        return [MicroBatch(m.rows, prompt_mask.shape[1], completion_mask.shape[1], m.num_tokens) for m in micro_batches]

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        if not self.model.training:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        if not inputs:  # its rows are computed at a later micro-step
            return torch.zeros((), device=self.accelerator.device)
        self._wait_for_others()
        *earlier, last = inputs
        done = torch.zeros((), device=self.accelerator.device)
        with weighted(self._metrics["train"]) as weigh:
            for micro_batch in earlier:
                with self._gradients_stay_here(model):
                    loss = self._loss_of(model, micro_batch)
                    self.accelerator.backward(loss, **self._backward_arguments())
                    done += loss.detach()
                weigh(micro_batch["num_tokens"])
            loss = self._loss_of(model, last)
            weigh(last["num_tokens"])
        return loss + done

    def _loss_of(self, model, micro_batch: Rollout) -> torch.Tensor:
        self._micro_batch = dict(micro_batch)
        loss = super().compute_loss(model, self._micro_batch)
        self._micro_batch = None
        self.phases.count_tokens("backward", _num_tokens(micro_batch))
        return loss * micro_batch["loss_share"]

    @contextlib.contextmanager
    def _gradients_stay_here(self, model) -> Iterator[None]:
        """Until the last micro-batch of an optimizer step the processes' gradients are not exchanged."""
        state = self.accelerator.gradient_state
        at_last_micro_step = state.sync_gradients
        state._set_sync_gradients(False)
        try:
            with self.accelerator.no_sync(model):
                yield
        finally:
            state._set_sync_gradients(at_last_micro_step)

    def _backward_arguments(self) -> dict[str, Any]:
        # transformers scales the loss itself, and so tells DeepSpeed not to
        return {"scale_wrt_gas": False} if self.accelerator.distributed_type == DistributedType.DEEPSPEED else {}

    def _compare_with_old(self, logps_NT: torch.Tensor, mask_NT: torch.Tensor) -> None:
        """Logs how far the policy is from the one that sampled, where they can differ; the same in all processes.

        Rows without a gradient may fill a micro-batch up whose old log-probabilities nobody computed (nan). Their ratio
        is 1, so that their loss is zero, and they are in no metric of it.
        """
        if self._micro_batch is None or "old_per_token_logps" not in self._micro_batch:
            return
        old_NT = self._micro_batch["old_per_token_logps"]
        known_NT = mask_NT.bool() & ~old_NT.isnan()
        self._micro_batch["old_per_token_logps"] = torch.where(old_NT.isnan(), logps_NT.detach(), old_NT)
        self._log_mean_and_max("ratio", (logps_NT.detach() - old_NT)[known_NT].exp())

    def _log_mean_and_max(self, name: str, values: torch.Tensor) -> None:
        """Of all processes' values together; nothing if there are none."""
        local = torch.stack(
            [values.sum(), values.new_tensor(len(values)), values.max() if len(values) else values.sum()]
        )
        total_W, count_W, highest_W = self.accelerator.gather(local[None]).unbind(dim=1)
        if count_W.sum() > 0:
            self._metrics["train"][f"{name}/mean"].append((total_W.sum() / count_W.sum()).item())
            self._metrics["train"][f"{name}/max"].append(highest_W.max().item())

    def training_step(self, model, inputs, num_items_in_batch):
        with self.phases.measure("backward"):
            loss = super().training_step(model, inputs, num_items_in_batch)
        if self.accelerator.sync_gradients:
            for name, value in self.phases.metrics().items():
                self._metrics["train"][name].append(value)
        return loss

    # --- Evaluation

    def evaluate(self, *args, **kwargs) -> dict[str, float]:
        """As TRL's, and training goes on as if it had not been.

        The generators are put back, and neither its completions get into the table of the step nor its seconds and
        tokens into the phases. What vLLM samples next is another sample: its generator cannot be put back.
        """
        logs, phases, log_completions = self._logs, self.phases, self.log_completions
        self._logs, self.phases, self.log_completions = _empty_logs(), Phases(self.accelerator), False
        try:
            with _generators_kept(self.accelerator.device):
                return super().evaluate(*args, **kwargs)
        finally:
            self._logs, self.phases, self.log_completions = logs, phases, log_completions

    def evaluation_loop(self, *args, **kwargs):
        """As transformers', with every problem counting alike: TRL counts a last, smaller batch like a full one.

        A reward's mean is of the problems that it has judged, however they are spread over the batches.
        """
        bound = [reward for reward in self.reward_funcs if isinstance(reward, BoundReward)]
        for reward in bound:
            reward.in_evaluation = True
        try:
            with weighted(self._metrics["eval"]) as self._weigh_eval_batch:
                return super().evaluation_loop(*args, **kwargs)
        finally:
            for reward in bound:
                reward.in_evaluation = False

    def prediction_step(self, model, inputs, *args, **kwargs):
        outputs = super().prediction_step(model, inputs, *args, **kwargs)
        self._weigh_eval_batch(len(inputs), self._num_judged)
        return outputs

    def _determine_best_metric(self, metrics: dict[str, float], trial) -> bool:
        """As transformers', but RunStopped if this evaluation has no value of trainer.metric_for_best_model."""
        name = self.args.metric_for_best_model
        key = name if name is None or name.startswith("eval_") else f"eval_{name}"
        if key is not None and metrics.get(key) is None:
            raise RunStopped(
                f"stopped at step {self.state.global_step}: trainer.metric_for_best_model: {key} has no value in this "
                f"evaluation; name a metric that every evaluation has (of a reward: one that judges rows of eval_data)"
            )
        return super()._determine_best_metric(metrics, trial)

    # --- Resuming

    def _prepare_for_training(self, *args, **kwargs):
        prepared = super()._prepare_for_training(*args, **kwargs)
        if self.is_fsdp_enabled:  # so marked, transformers keeps the processes in step while they sample
            self.model._is_fsdp_managed_module = True
        return prepared

    def _init_training_state(self, *args):
        epochs_trained, micro_steps_trained = super()._init_training_state(*args)
        for _ in range(epochs_trained):  # TRL's sampler begins with the first epoch's order again
            next(iter(self._train_sampler))
        return epochs_trained, micro_steps_trained

    def _get_train_sampler(self, dataset=None):
        self._train_sampler = super()._get_train_sampler(dataset)
        return self._train_sampler

    def extra_state(self) -> dict[str, Any]:
        """What TRL keeps in memory alone: the rollout in use and where in it the run is, and the prompts drawn."""
        between_rollouts = self._step % (self.args.steps_per_generation * self.num_iterations) == 0
        return {
            **super().extra_state(),
            "micro_step": self._step,
            "rollout": None if between_rollouts else self._buffered_inputs,
            "fresh_prompts_drawn": self._fresh_prompts.num_drawn,
            "rows_that_fit": self._sampler.rows_that_fit,
            "rollout_table": {name: _as_lists(log) for name, log in self._logs.items()},
            "reference": reference.weights_of(self.ref_model, self.accelerator) if self.args.sync_ref_model else None,
        }

    def load_extra_state(self, state: dict[str, Any]) -> None:
        super().load_extra_state(state)
        self._step = state["micro_step"]
        if state["rollout"] is not None:
            self._buffered_inputs = [
                [{key: self._prepare_input(value) for key, value in each.items()} for each in micro_batches]
                for micro_batches in state["rollout"]
            ]
        self._fresh_prompts.num_drawn = state["fresh_prompts_drawn"]
        self._sampler.rows_that_fit = state["rows_that_fit"]
        self._logs = _empty_logs()  # TRL's own keep no more rows than one rollout has without dynamic sampling
        for name, log in state["rollout_table"].items():
            if isinstance(log, dict):
                self._logs[name].update({column: deque(values) for column, values in log.items()})
            else:
                self._logs[name].extend(log)
        if self.args.sync_ref_model:
            reference.put_weights(self.ref_model, state["reference"], self.accelerator)

    def _wait_for_others(self) -> None:
        if self.accelerator.num_processes > 1:
            with self.phases.measure("waiting"):
                self.accelerator.wait_for_everyone()


def _of_something(backward: Callable[..., None]) -> Callable[..., None]:
    """`backward`, left out for the loss of a micro-step without rows: DeepSpeed refuses a loss without a graph."""

    def backward_of_something(loss: torch.Tensor, **kwargs) -> None:
        if loss.requires_grad:
            backward(loss, **kwargs)

    return backward_of_something


def merge_rollouts(config: trl.GRPOConfig) -> None:
    """Lets one rollout be as large as an optimizer step where it would be one of several: the policy is the same."""
    per_rollout, per_step = config.steps_per_generation, config.gradient_accumulation_steps
    if config.num_iterations == 1 and per_rollout < per_step and per_step % per_rollout == 0:
        config.generation_batch_size *= per_step // per_rollout
        config.steps_per_generation = per_step


def _cut_out(rows: Rollout, micro_batch: MicroBatch) -> Rollout:
    """The rows of a micro-batch without padding beyond its widths, which may be those of another process."""
    width = rows["completion_mask"].shape[1]
    taken: Rollout = {}
    for key, values in rows.items():
        values = values[micro_batch.rows]
        if key in PROMPT_KEYS:
            values = values[:, max(0, values.shape[1] - micro_batch.prompt_width) :]
        elif values.dim() > 1 and values.shape[1] == width:
            values = values[:, : micro_batch.completion_width]
        taken[key] = values
    return taken


def _num_tokens(micro_batch: Rollout) -> int:
    """Tokens of prompts and completions, without padding."""
    return int(micro_batch["prompt_mask"].sum() + micro_batch["completion_mask"].sum())


@contextlib.contextmanager
def _generators_kept(device: torch.device) -> Iterator[None]:
    """Whatever is drawn within leaves the random numbers that come after as they were."""
    of_python, of_numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            random.setstate(of_python)
            np.random.set_state(of_numpy)


def _empty_logs() -> dict[str, Any]:
    """TRL's columns of the completions table, as long as a rollout is."""
    columns = {name: deque() for name in ("images", "prompt", "completion", "advantages")}
    return {**columns, "rewards": defaultdict(deque), "extra": defaultdict(deque)}


def _as_lists(log):
    return {name: list(values) for name, values in log.items()} if isinstance(log, dict) else list(log)
