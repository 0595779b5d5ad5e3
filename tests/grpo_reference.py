"""What GRPO and its relatives say, from their papers: a plain loop over sequences in float64, to test trainers against.

Slow on purpose: one sequence at a time without padding, its own log-softmax, autograd for the gradient. Settings have
the names of trl.GRPOConfig, which is what `arguments` is.

Papers: GRPO (DeepSeekMath, arXiv 2402.03300), R1 (2501.12948), Dr. GRPO (2503.20783), DAPO (2503.14476), CISPO
(MiniMax-M1, 2506.13585, as in ScaleRL, 2510.13786), GSPO (2507.18071), LUSPO (2602.05261), SAPO (2511.20347), VESPO
(2602.10693), two-sided clipping (INTELLECT-2, 2505.07291), the unbiased KL (DeepSeek-V3.2, 2512.02556), GDPO
(2601.05242), tokens of high entropy (2506.01939); the ratio to an engine is that of truncated importance sampling.

Shapes: T completion tokens of one sequence, V words of the vocabulary.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel
from trl import GRPOConfig

# Added to the standard deviation by TRL and by us, by no paper. It makes every advantage a little smaller (by 1e-4 for
# a standard deviation of 1), and is therefore part of what is compared.
ADDED_TO_STD = 1e-4
# VESPO's weight of a sequence is taken between these logarithms (TRL's docstring: as its authors' program does).
VESPO_LOG_WEIGHT_RANGE = (torch.log(torch.tensor(1e-8, dtype=torch.float64)).item(), 20.0)

LOSS_TYPES = ("grpo", "dr_grpo", "dapo", "bnpo", "cispo", "sapo", "luspo", "vespo")


@dataclass(frozen=True)
class Sample:
    """A completion and how much better it is than its group."""

    prompt_ids: Sequence[int]
    completion_ids: Sequence[int]
    advantage: float
    engine_log_probs: Sequence[float] | None = None
    """Of the completion's tokens by the engine that sampled them; None if the policy itself did."""
    counts: bool = True
    """False if `mask_truncated_completions` leaves it out: no token of it is in a sum, yet it is one of the rows."""

    @property
    def num_tokens(self) -> int:
        return len(self.completion_ids) if self.counts else 0


@dataclass(frozen=True)
class MicroBatch:
    """Samples that one forward pass computes, all of one rollout. Only BNPO's normaliser asks which they are."""

    samples: Sequence[Sample]
    tokens_per_window: float
    """Tokens that count in the rollout, times its share that one optimizer step takes of it (DAPO's normaliser)."""
    old_policy: PreTrainedModel
    """The policy that sampled them."""


# ---- advantages


def group_advantages(
    rewards: Sequence[float | None], scale_rewards: str, std_of_all: float | None = None
) -> list[float]:
    """Advantages of one group; 0 for a reward of None, which does not count in the statistics either.

    GRPO, section 4.1.2: A_i = (r_i - mean(r)) / std(r). Dr. GRPO, section 3.2: A_i = r_i - mean(r), with
    `scale_rewards: none`. With `batch` the standard deviation is that of all rewards of the rollout (arXiv
    2508.08221). The papers do not say which standard deviation; here it is that of a sample (n - 1).

    Mean and standard deviation are exact (of fractions), so that equal rewards have no advantage at all.
    """
    given = [reward for reward in rewards if reward is not None]
    if len(given) < 2:
        return [0.0] * len(rewards)
    mean = statistics.mean(given)
    divisor = {"group": statistics.stdev(given) + ADDED_TO_STD, "batch": (std_of_all or 0.0) + ADDED_TO_STD}
    return [0.0 if reward is None else (reward - mean) / divisor.get(scale_rewards, 1.0) for reward in rewards]


def advantages_of_each_reward_alone(
    groups_of_reward: Sequence[Sequence[Sequence[float | None]]], weights: Sequence[float]
) -> list[list[float]]:
    """The advantages of a rollout's groups where every reward has its own (`normalize_then_sum`).

    GDPO, section 3.1: A = sum_k w_k A_k, of each reward's advantage in the group, then less the mean of all, over their
    standard deviation. A row has all rewards or none.
    """
    summed: list[list[float | None]] = []
    for groups in zip(*groups_of_reward, strict=True):
        alone = [group_advantages(group, "group") for group in groups]
        values = [sum(w * a for w, a in zip(weights, row, strict=True)) for row in zip(*alone, strict=True)]
        summed.append([None if r is None else value for r, value in zip(groups[0], values, strict=True)])
    given = [value for group in summed for value in group if value is not None]
    if len(given) < 2:
        return [[0.0] * len(group) for group in summed]
    mean, divisor = statistics.mean(given), statistics.stdev(given) + ADDED_TO_STD
    return [[0.0 if value is None else (value - mean) / divisor for value in group] for group in summed]


def advantages(groups: Sequence[Sequence[float | None]], scale_rewards: str) -> list[list[float]]:
    """The advantages of a rollout's groups."""
    given = [reward for group in groups for reward in group if reward is not None]
    std_of_all = statistics.stdev(given) if len(given) > 1 else None
    return [group_advantages(group, scale_rewards, std_of_all) for group in groups]


# ---- one sequence


def log_probs_and_entropies(
    model: PreTrainedModel, sample: Sample, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """log pi(o_t | q, o_<t) of the T completion tokens, of logits divided by the temperature, in the model's dtype.

    And the entropy of the distribution that each was drawn from.
    """
    ids = torch.tensor([*sample.prompt_ids, *sample.completion_ids])
    first = len(sample.prompt_ids)
    logits_TV = model(input_ids=ids[None]).logits[0, first - 1 : -1] / temperature
    log_softmax_TV = logits_TV - logits_TV.logsumexp(dim=-1, keepdim=True)
    chosen_T = log_softmax_TV[torch.arange(len(logits_TV)), ids[first:]]
    return chosen_T, -(log_softmax_TV.exp() * log_softmax_TV).sum(dim=-1)


def log_probs(model: PreTrainedModel, sample: Sample, temperature: float) -> torch.Tensor:
    """The first of `log_probs_and_entropies`."""
    return log_probs_and_entropies(model, sample, temperature)[0]


def importance_ratio(log_probs_T: torch.Tensor, old_T: torch.Tensor, level: str) -> torch.Tensor:
    """r_t = pi / pi_old of each token (GRPO, equation 3), or their geometric mean for all (GSPO, equation 7)."""
    log_ratio_T = log_probs_T - old_T
    return (log_ratio_T if level == "token" else log_ratio_T.mean().expand_as(log_ratio_T)).exp()


def engine_ratio(old_T: torch.Tensor, engine_T: torch.Tensor, arguments: GRPOConfig) -> torch.Tensor:
    """pi_old / pi_engine of each token, or of all together, within its bounds: cut to them, or 0 beyond them."""
    granularity, beyond = arguments.vllm_importance_sampling_mode.split("_")
    log_ratio_T = old_T - engine_T
    ratio_T = (log_ratio_T if granularity == "token" else log_ratio_T.sum().expand_as(log_ratio_T)).exp()
    lowest, highest = arguments.vllm_importance_sampling_clip_min, arguments.vllm_importance_sampling_clip_max
    if beyond == "truncate":
        return ratio_T.clamp(lowest, highest)
    return ratio_T * ((ratio_T >= lowest) & (ratio_T <= highest))


def k3_divergence(log_probs_T: torch.Tensor, reference_T: torch.Tensor) -> torch.Tensor:
    """pi_ref / pi - log(pi_ref / pi) - 1 of each token (GRPO, equation 4)."""
    log_ratio_T = reference_T - log_probs_T
    return log_ratio_T.exp() - log_ratio_T - 1


def clipped_surrogate(ratio_T: torch.Tensor, advantage: float, arguments: GRPOConfig) -> torch.Tensor:
    """min(r A, clip(r, 1 - e_low, 1 + e_high) A): GRPO, equation 3; DAPO, equation 10, with two epsilons.

    With `delta`, the ratio of the first term is at most delta (INTELLECT-2, section 4.1).
    """
    epsilon_high = arguments.epsilon if arguments.epsilon_high is None else arguments.epsilon_high
    clipped_T = ratio_T.clamp(1 - arguments.epsilon, 1 + epsilon_high)
    unclipped_T = ratio_T if arguments.delta is None else ratio_T.clamp(max=arguments.delta)
    return torch.minimum(unclipped_T * advantage, clipped_T * advantage)


def cispo_surrogate(
    log_probs_T: torch.Tensor, ratio_T: torch.Tensor, advantage: float, arguments: GRPOConfig
) -> torch.Tensor:
    """sg(min(r, e_max)) A log pi: MiniMax-M1, equation 4, without a lower bound; `epsilon_high` is e_max itself."""
    return ratio_T.detach().clamp(max=arguments.epsilon_high) * advantage * log_probs_T


def sapo_surrogate(ratio_T: torch.Tensor, advantage: float, arguments: GRPOConfig) -> torch.Tensor:
    """sigmoid(tau (r - 1)) 4 / tau A, with tau by the sign of the advantage (SAPO, equations 5 and 6)."""
    tau = arguments.sapo_temperature_pos if advantage > 0 else arguments.sapo_temperature_neg
    return torch.sigmoid(tau * (ratio_T - 1)) * 4 / tau * advantage


def vespo_surrogate(
    log_probs_T: torch.Tensor,
    old_T: torch.Tensor,
    of_engine_T: torch.Tensor | None,
    advantage: float,
    arguments: GRPOConfig,
) -> torch.Tensor:
    """sg(phi(W)) A log pi with phi(W) = W^k exp(lambda (1 - W)) of the whole sequence's ratio W (VESPO).

    k and lambda go by the sign of the advantage; phi(1) = 1. The ratios to the engine are factors of W.
    """
    positive = advantage >= 0
    k = arguments.vespo_k_pos if positive else arguments.vespo_k_neg
    decay = arguments.vespo_lambda_pos if positive else arguments.vespo_lambda_neg
    log_weight = (log_probs_T - old_T).sum().detach()
    if of_engine_T is not None:
        log_weight = log_weight + of_engine_T.log().clamp(*VESPO_LOG_WEIGHT_RANGE).sum()
    log_weight = log_weight.clamp(*VESPO_LOG_WEIGHT_RANGE)
    return (k * log_weight + decay * (1 - log_weight.exp())).exp() * advantage * log_probs_T


def token_losses(
    log_probs_T: torch.Tensor,
    old_T: torch.Tensor,
    reference_T: torch.Tensor | None,
    engine_T: torch.Tensor | None,
    advantage: float,
    arguments: GRPOConfig,
) -> tuple[torch.Tensor, torch.Tensor]:
    """-(surrogate) and beta KL of each token.

    R1's KL is the plain estimate (GRPO, equation 3): `use_bias_correction_kl: false`. TRL's default multiplies it
    with the ratio (DeepSeek-V3.2, equation 7), which gives its gradient the right expectation. What the engine sampled
    weighs as much more as the policy would have sampled it more often; in TRL that is not said of the KL.
    """
    ratio_T = importance_ratio(log_probs_T, old_T, arguments.importance_sampling_level)
    of_engine_T = None if engine_T is None else engine_ratio(old_T, engine_T, arguments)
    match arguments.loss_type:
        case "cispo":
            surrogate_T = cispo_surrogate(log_probs_T, ratio_T, advantage, arguments)
        case "sapo":
            surrogate_T = sapo_surrogate(ratio_T, advantage, arguments)
        case "vespo":
            surrogate_T = vespo_surrogate(log_probs_T, old_T, of_engine_T, advantage, arguments)
        case _:
            surrogate_T = clipped_surrogate(ratio_T, advantage, arguments)
    if of_engine_T is not None and arguments.loss_type != "vespo":
        surrogate_T = surrogate_T * of_engine_T
    if reference_T is None:
        return -surrogate_T, torch.zeros_like(surrogate_T)
    divergence_T = k3_divergence(log_probs_T, reference_T)
    if arguments.use_bias_correction_kl:
        divergence_T = divergence_T * ratio_T
    return -surrogate_T, arguments.beta * divergence_T


# ---- one optimizer step


def sample_weight(
    sample: Sample, micro_batch: MicroBatch, window: Sequence[MicroBatch], arguments: GRPOConfig
) -> float:
    """What each token's loss of the sample is multiplied with, so that the step's loss is their sum.

    grpo, sapo: the mean over sequences of the mean over tokens (GRPO, equation 3; SAPO, equation 5).
    luspo: the mean over sequences of the sum over tokens (LUSPO).
    dr_grpo: over a constant, the longest completion allowed (Dr. GRPO, section 3.2 and its listing 1).
    dapo, cispo, vespo: the mean over all tokens of the rollout (DAPO, equation 8; MiniMax-M1, equation 4).
    bnpo: the mean over the tokens of the micro-batch (TRL's docstring), and of that over micro-batches.
    """
    num_sequences = sum(len(of_window.samples) for of_window in window)
    match arguments.loss_type:
        case "grpo" | "sapo":
            return 1 / (num_sequences * sample.num_tokens)
        case "luspo":
            return 1 / num_sequences
        case "dr_grpo":
            return 1 / (num_sequences * arguments.max_completion_length)
        case "dapo" | "cispo" | "vespo":
            return 1 / micro_batch.tokens_per_window
        case "bnpo":
            return 1 / (len(window) * sum(other.num_tokens for other in micro_batch.samples))
    raise ValueError(arguments.loss_type)


def step_loss(
    policy: PreTrainedModel, reference: PreTrainedModel | None, window: Sequence[MicroBatch], arguments: GRPOConfig
) -> torch.Tensor:
    """The loss of one optimizer step, with its graph. `reference` is None if beta is 0."""
    loss = torch.zeros((), dtype=torch.float64)
    for micro_batch in window:
        samples = [sample for sample in micro_batch.samples if sample.counts]
        scored = [log_probs_and_entropies(policy, sample, arguments.temperature) for sample in samples]
        least_entropy = _least_entropy([entropies_T for _, entropies_T in scored], arguments.top_entropy_quantile)
        for sample, (log_probs_T, entropies_T) in zip(samples, scored, strict=True):
            with torch.no_grad():
                old_T = log_probs(micro_batch.old_policy, sample, arguments.temperature)
                reference_T = None if reference is None else log_probs(reference, sample, arguments.temperature)
                engine_T = (
                    None
                    if sample.engine_log_probs is None
                    else torch.tensor(sample.engine_log_probs, dtype=torch.float64)
                )
            of_policy_T, divergence_T = token_losses(
                log_probs_T, old_T, reference_T, engine_T, sample.advantage, arguments
            )
            losses_T = of_policy_T * (rounded(entropies_T) >= least_entropy) + divergence_T
            loss = loss + sample_weight(sample, micro_batch, window, arguments) * losses_T.sum()
    return loss


def rounded(entropies: torch.Tensor) -> torch.Tensor:
    """In whole ten-thousandths: the first tokens of a group have the same entropy, and no last bit may part them."""
    return (entropies.detach().float() * 1e4).round()


def _least_entropy(entropies: Sequence[torch.Tensor], share: float) -> float:
    """That which `share` of a micro-batch's tokens have at least: only these teach (arXiv 2506.01939, equation 5)."""
    if share == 1.0 or not entropies:
        return 0.0
    return torch.quantile(rounded(torch.cat(list(entropies))), 1 - share).item()


# ---- a model that computes in float64


class Float64Norm(torch.nn.Module):
    """transformers' RMS norms compute in float32 whatever they are given: this one does not."""

    def __init__(self, norm: torch.nn.Module):
        super().__init__()
        self.weight, self.epsilon = norm.weight, norm.variance_epsilon

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.weight * hidden / (hidden.pow(2).mean(dim=-1, keepdim=True) + self.epsilon).sqrt()


class Float64Rotary(torch.nn.Module):
    """Nor do these angles: a row that is padded on the left, and so is elsewhere, is the same row."""

    def __init__(self, rotary: torch.nn.Module):
        super().__init__()
        self.frequencies, self.scaling = rotary.inv_freq.double(), rotary.attention_scaling

    def forward(self, hidden: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        angles = position_ids[..., None].double() * self.frequencies
        angles = torch.cat([angles, angles], dim=-1)
        return angles.cos() * self.scaling, angles.sin() * self.scaling


def in_float64(model: torch.nn.Module) -> torch.nn.Module:
    """The model itself (of Llama's kind), now with weights of float64 and computing in it."""
    model.double()
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if hasattr(child, "variance_epsilon"):
                setattr(module, name, Float64Norm(child))
            elif hasattr(child, "inv_freq"):
                setattr(module, name, Float64Rotary(child))
    return model
