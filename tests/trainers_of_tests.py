"""GRPO trainers on completions that are given, not sampled: stock and ours, what gradient each optimizer step has.

    model_dir = write_model(directory)
    problems = some_problems(num_prompts=4, num_generations=4, max_tokens=12)
    stock = train(trl.GRPOTrainer, problems, model_dir, directory, loss_type="dapo")
    ours = train(open_r1.grpo_trainer.GRPOTrainer, problems, model_dir, directory, savings=Grpo(), loss_type="dapo")
    difference(ours.steps[0].gradients, stock.steps[0].gradients)
    difference(stock.steps[0].gradients, reference_step(stock, 0).gradients)

Only the edge is replaced: what the sampler would return, and the reward, which is looked up. With `float64` both
trainers compute in it, so that what is left of a difference is no rounding.
"""

import atexit
import contextlib
import copy
import functools
import gc
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

import grpo_reference
import torch
import trl.trainer.grpo_trainer
import trl.trainer.utils
from conftest import CPU_TRAINER, SMALLEST_MODEL
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PrinterCallback, TrainerCallback
from trl import GRPOConfig

from open_r1 import modeling
from open_r1.recipe import Model

Tensors = dict[str, torch.Tensor]
Row = tuple[int, int]
"""Which problem, which of its completions."""

ADAPTER = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}
# Weights of this size, not the usual 0.02, so that what a row attends to shows in its gradient.
ARCHITECTURE = {**SMALLEST_MODEL, "num_hidden_layers": 2, "initializer_range": 0.2}
TEN_DIGITS = "0123456789"
ENGINE_NOISE = 0.4
"""Of each token's log-probability by an engine; no engine is so far off, but here ratios are to go beyond bounds."""
# Far enough from the reference model for a divergence of some 0.1 nats a token.
POLICY_NOISE = 0.05


@dataclass(frozen=True)
class Problem:
    prompt: str
    completions: list[list[int]]
    rewards: list[float | None]

    @property
    def rewards_of_length(self) -> list[float | None]:
        """Another reward, exact in binary: equal where the first is equal in all the group, None where it is None."""
        dead = len(set(self.rewards) - {None}) == 1
        lengths = [0.5 if dead else len(ids) % 4 / 4 for ids in self.completions]
        return [None if r is None else length for r, length in zip(self.rewards, lengths, strict=True)]


@dataclass
class Step:
    """One optimizer step."""

    weights: Tensors
    """Trainable, before the step."""
    gradients: Tensors
    metrics: dict[str, float] = field(default_factory=dict)
    """As logged, the loss among them."""


@dataclass
class Rollout:
    sampled_before_step: int
    rows: list[Row]
    engine_log_probs: dict[Row, list[float]] | None = None
    """None where no engine samples."""
    micro_batches: list[list[Row]] = field(default_factory=list)
    """As TRL made them after its shuffle."""


@dataclass
class Run:
    problems: Sequence[Problem]
    model_dir: Path
    lora: bool
    arguments: GRPOConfig
    steps: list[Step] = field(default_factory=list)
    rollouts: list[Rollout] = field(default_factory=list)


@dataclass(frozen=True)
class ReferenceStep:
    loss: float
    gradients: Tensors


def write_model(directory: Path) -> Path:
    """The directory, with a model of random weights and the character tokenizer in it."""
    torch.manual_seed(0)
    tokenizer = modeling.character_tokenizer()
    modeling.save_model(modeling.build_model(Model(architecture=ARCHITECTURE), tokenizer), tokenizer, directory)
    return directory


def some_problems(
    num_prompts: int,
    num_generations: int,
    max_tokens: int,
    *,
    dead: Sequence[int] = (),
    unjudged: Sequence[Row] = (),
    seed: int = 0,
) -> list[Problem]:
    """Prompts and completions of 1 to `max_tokens` tokens, both lengths among them, a third of them not ended.

    Rewards are exact in binary and not all the same within a group, but for the groups of `dead`; None for the rows
    of `unjudged`.
    """
    rng = random.Random(seed)
    problems = []
    for number in range(num_prompts):
        lengths = [rng.randint(2, max_tokens) for _ in range(num_generations)]
        lengths[number % num_generations], lengths[(number + 1) % num_generations] = 1, max_tokens
        rewards = [rng.choice([0.0, 0.25, 0.5, 1.0]) for _ in range(num_generations)]
        rewards[0], rewards[1] = 0.0, 1.0
        if number in dead:
            rewards = [0.5] * num_generations
        completions: list[list[int]] = []
        for length in lengths:
            ids = _some_tokens(rng, length)
            while ids in completions:  # rows are told apart by their tokens
                ids = _some_tokens(rng, length)
            completions.append(ids)
        problems.append(
            Problem(
                prompt=f"{number}+" + "".join(rng.choices(TEN_DIGITS, k=rng.randint(1, 12))) + "=?",
                completions=completions,
                rewards=[None if (number, i) in unjudged else reward for i, reward in enumerate(rewards)],
            )
        )
    return problems


def _some_tokens(rng: random.Random, num_tokens: int) -> list[int]:
    """Any tokens but the four control tokens (0 to 3), and at the end of two of three an end of sequence (1)."""
    tokens = [rng.randint(4, 104) for _ in range(num_tokens)]
    return tokens if rng.random() < 1 / 3 else [*tokens[:-1], 1]


def train(
    trainer_class: type,
    problems: Sequence[Problem],
    model_dir: Path,
    output_dir: Path,
    *,
    lora: bool = False,
    float64: bool = False,
    follow: Run | None = None,
    savings=None,
    **arguments,
) -> Run:
    """Trains on the problems' completions and gives what each optimizer step was.

    With `follow` each step begins with the weights that it had in that run, whatever the step before made of them.
    `savings` is for our trainer. The other arguments are GRPOConfig's; by default plain SGD that does not move.
    """
    defaults = {
        **CPU_TRAINER,
        "per_device_train_batch_size": 4,
        "num_generations": len(problems[0].completions),
        # longer than any completion, as Dr. GRPO's constant must not be taken for the width of a micro-batch
        "max_completion_length": 4 + max(len(ids) for problem in problems for ids in problem.completions),
        "max_steps": 1,
        "optim": "sgd",
        "learning_rate": 0.0,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }
    config = GRPOConfig(output_dir=str(output_dir), **defaults | arguments)
    run = Run(problems, model_dir, lora, config)
    rewards = [given_reward(problems, lambda problem: problem.rewards)]
    if config.multi_objective_aggregation == "normalize_then_sum":
        rewards.append(given_reward(problems, lambda problem: problem.rewards_of_length))
    bases = (GivenCompletions, *([ExactRewards] if float64 else []), trainer_class)
    with mock.patch.object(trl.trainer.grpo_trainer, "VLLMGeneration", NoEngine):
        trainer = type("TrainerOfTests", bases, {})(
            model=AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32),
            reward_funcs=rewards,
            args=config,
            train_dataset=Dataset.from_dict({"prompt": [problem.prompt for problem in problems]}),
            processing_class=AutoTokenizer.from_pretrained(model_dir, padding_side="left"),
            peft_config=LoraConfig(**ADAPTER) if lora else None,
            callbacks=[EachStep(run, follow)],
            **({} if savings is None else {"savings": savings}),
        )
    trainer.remove_callback(PrinterCallback)
    trainer.run_of_tests = run
    entropy_mask = trainer.get_high_entropy_mask
    trainer.get_high_entropy_mask = lambda entropies, *more: entropy_mask(grpo_reference.rounded(entropies), *more)
    trainer.indices_of_prompt = {
        tuple(trainer.processing_class(problem.prompt)["input_ids"]): number for number, problem in enumerate(problems)
    }
    move_from_reference(trainer.model)
    if not gc.get_freeze_count():
        atexit.register(gc.unfreeze)  # else what is never collected is told as leaked at the end
        gc.freeze()  # each training ends with a collection, three quarters of its time if it looks at all of torch
    with _micro_batches_into(run, trainer), in_float64(trainer) if float64 else contextlib.nullcontext():
        trainer.train()
    return run


def move_from_reference(model: torch.nn.Module) -> None:
    """Moves the trainable weights by noise, so that the policy is not its reference model (nor LoRA's B zero)."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in trainable(model).values():
            parameter += POLICY_NOISE * torch.randn(parameter.shape, generator=generator)


def trainable(model: torch.nn.Module) -> Tensors:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def set_weights(model: torch.nn.Module, weights: Tensors) -> None:
    parameters = trainable(model)
    assert parameters.keys() == weights.keys(), parameters.keys() ^ weights.keys()
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(weights[name])


def given_reward(problems: Sequence[Problem], rewards_of: Callable[[Problem], list[float | None]]):
    rewards = {
        (problem.prompt, tuple(ids)): reward
        for problem in problems
        for ids, reward in zip(problem.completions, rewards_of(problem), strict=True)
    }

    def reward(prompts, completion_ids, **columns):
        return [rewards[prompt, tuple(ids)] for prompt, ids in zip(prompts, completion_ids, strict=True)]

    return reward


class NoEngine:
    """vLLM's place in the trainer; what it would sample and say of it comes from GivenCompletions."""

    def __init__(self, **settings):
        pass

    def sync_weights(self) -> None:
        pass


class GivenCompletions:
    """The sampler's place: the n-th row of a prompt in one call gets the n-th of its problem's completions."""

    def _generate_single_turn(self, prompt_ids, *_args, **_more):
        num_seen = {}
        rows = []
        for ids in prompt_ids:
            problem = self.indices_of_prompt[tuple(ids)]
            number = num_seen.get(problem, 0)
            num_seen[problem] = number + 1
            rows.append((problem, number % self.num_generations))
        run = self.run_of_tests
        log_probs = _engine_log_probs(self, rows) if self.use_vllm else None
        run.rollouts.append(Rollout(self.state.global_step, rows, log_probs))
        completions = [list(run.problems[problem].completions[number]) for problem, number in rows]
        return completions, None if log_probs is None else [log_probs[row] for row in rows]


@torch.no_grad()
def _engine_log_probs(trainer, rows: Sequence[Row]) -> dict[Row, list[float]]:
    """What the policy itself says of its tokens, and noise."""
    said = {}
    for problem, number in rows:
        given = trainer.run_of_tests.problems[problem]
        prompt_ids = trainer.processing_class(given.prompt)["input_ids"]
        sample = grpo_reference.Sample(prompt_ids, given.completions[number], advantage=0.0)
        exact = grpo_reference.log_probs(trainer.model, sample, trainer.temperature).tolist()
        noise = engine_noise((problem, number), len(exact))
        said[problem, number] = [log_prob + wrong for log_prob, wrong in zip(exact, noise, strict=True)]
    return said


def engine_noise(row: Row, num_tokens: int) -> list[float]:
    """The same for a row each time."""
    rng = random.Random(repr(row))
    return [rng.gauss(0.0, ENGINE_NOISE) for _ in range(num_tokens)]


@contextlib.contextmanager
def _micro_batches_into(run: Run, trainer) -> Iterator[None]:
    """Notes which rows TRL puts into which micro-batch."""
    split = trl.trainer.grpo_trainer.split_tensor_dict

    def split_and_note(tensors, num_chunks):
        chunks = split(tensors, num_chunks)
        run.rollouts[-1].micro_batches += [_rows_of(chunk, run, trainer) for chunk in chunks]
        return chunks

    with mock.patch.object(trl.trainer.grpo_trainer, "split_tensor_dict", split_and_note):
        yield


def _rows_of(tensors: Tensors, run: Run, trainer) -> list[Row]:
    rows = []
    for prompt, mask, completion in zip(
        tensors["prompt_ids"], tensors["prompt_mask"], tensors["completion_ids"], strict=True
    ):
        problem = trainer.indices_of_prompt[tuple(prompt[mask.bool()].tolist())]
        ids = completion[completion != trainer.processing_class.pad_token_id].tolist()
        rows.append((problem, run.problems[problem].completions.index(ids)))
    return rows


class EachStep(TrainerCallback):
    def __init__(self, run: Run, follow: Run | None):
        self.run, self.follow = run, follow

    def on_step_begin(self, args, state, control, model=None, **_more):
        if self.follow is not None:
            set_weights(model, self.follow.steps[len(self.run.steps)].weights)

    def on_pre_optimizer_step(self, args, state, control, model=None, **_more):
        parameters = trainable(model)
        self.run.steps.append(
            Step(
                weights={name: parameter.detach().clone() for name, parameter in parameters.items()},
                gradients={
                    name: parameter.grad.clone() for name, parameter in parameters.items() if parameter.grad is not None
                },
            )
        )

    def on_log(self, args, state, control, logs=None, **_more):
        if "loss" in logs:
            self.run.steps[-1].metrics.update(logs)


# ---- everything in float64


class ExactRewards:
    """TRL puts rewards into float32, and so would compute advantages in it."""

    def _calculate_rewards(self, *args, **more):
        return super()._calculate_rewards(*args, **more).double()


class Float64LmHead:
    """TRL's kernel for log-probabilities and entropies, which computes in float32 whatever it is given."""

    @staticmethod
    def apply(hidden, weight, bias, labels, temperature, _chunk_size, softcapping, logit_scale, _outputs):
        assert bias is None and softcapping is None and logit_scale == 1.0
        log_softmax = (hidden @ weight.T / temperature).log_softmax(dim=-1)
        entropies = -(log_softmax.exp() * log_softmax).sum(dim=-1)
        return log_softmax.gather(1, labels[:, None])[:, 0], entropies, None, None, None


@contextlib.contextmanager
def in_float64(trainer) -> Iterator[None]:
    """Lets the trainer compute in float64: model, reference model, rewards, and tensors that TRL makes of numbers."""
    for model in filter(None, (trainer.model, trainer.ref_model)):
        grpo_reference.in_float64(model)
    torch.set_default_dtype(torch.float64)
    try:
        with mock.patch.object(trl.trainer.utils, "_ChunkedLogProbFunction", Float64LmHead):
            yield
    finally:
        torch.set_default_dtype(torch.float32)


# ---- how far apart


def difference(gradients: Tensors, other: Tensors) -> float:
    """The norm of the difference over the norm of `other`, of all parameters as one vector.

    0.0 if both are zero, inf if only `other` is.
    Raises AssertionError if a parameter has a gradient in one of them only.
    """
    assert gradients.keys() == other.keys(), gradients.keys() ^ other.keys()
    apart = norm({name: gradients[name].double() - other[name].double() for name in other})
    if apart == 0:
        return 0.0
    return apart / norm(other) if norm(other) else math.inf


def norm(gradients: Tensors) -> float:
    return sum(gradient.double().square().sum().item() for gradient in gradients.values()) ** 0.5


def from_run(run: Run, other: Run) -> tuple[float, float]:
    """How far a run is from another, at the worst of its steps: the gradient relatively, the loss if above 1."""
    gradients = [
        difference(step.gradients, of_other.gradients) for step, of_other in zip(run.steps, other.steps, strict=True)
    ]
    losses = [
        loss_difference(step.metrics["loss"], of_other.metrics["loss"])
        for step, of_other in zip(run.steps, other.steps, strict=True)
    ]
    return max(gradients), max(losses)


def from_reference(run: Run) -> tuple[float, float]:
    """How far a run is from the papers, in the same way."""
    references = [reference_step(run, number) for number in range(len(run.steps))]
    gradients = [
        difference(step.gradients, reference.gradients) for step, reference in zip(run.steps, references, strict=True)
    ]
    losses = [
        loss_difference(step.metrics["loss"], reference.loss)
        for step, reference in zip(run.steps, references, strict=True)
    ]
    return max(gradients), max(losses)


def loss_difference(loss: float, other: float) -> float:
    return abs(loss - other) / max(1.0, abs(other))


# ---- the reference on what a run did


def reference_step(run: Run, number: int) -> ReferenceStep:
    """Loss and gradient of the run's optimizer step, by the papers."""
    arguments = run.arguments
    accumulation, per_rollout = arguments.gradient_accumulation_steps, arguments.steps_per_generation
    micro_steps = range(number * accumulation, (number + 1) * accumulation)
    window = [
        (run.rollouts[micro_step // (per_rollout * arguments.num_iterations)], micro_step % per_rollout)
        for micro_step in micro_steps
    ]
    policy = _float64_model(run, run.steps[number].weights)
    reference = None if arguments.beta == 0 else _float64_model(run, None)
    old_policies = {
        step: _float64_model(run, run.steps[step].weights)
        for step in {rollout.sampled_before_step for rollout, _ in window}
    }
    loss = grpo_reference.step_loss(
        policy,
        reference,
        [_micro_batch(run, rollout, index, old_policies[rollout.sampled_before_step]) for rollout, index in window],
        arguments,
    )
    parameters = trainable(policy)
    gradients = torch.autograd.grad(loss, list(parameters.values()))
    return ReferenceStep(loss.item(), dict(zip(parameters, gradients, strict=True)))


def _micro_batch(run: Run, rollout: Rollout, index: int, old_policy: PreTrainedModel) -> grpo_reference.MicroBatch:
    samples = _samples(run, rollout)
    # A step takes this share of the rollout: below 1 if a rollout serves several steps, above if a step has several.
    share = run.arguments.gradient_accumulation_steps / run.arguments.steps_per_generation
    return grpo_reference.MicroBatch(
        samples=[samples[row] for row in rollout.micro_batches[index]],
        tokens_per_window=share * sum(sample.num_tokens for sample in samples.values()),
        old_policy=old_policy,
    )


def _samples(run: Run, rollout: Rollout) -> dict[Row, grpo_reference.Sample]:
    tokenizer = _tokenizer(run.model_dir)
    groups = [run.problems[problem] for problem in dict.fromkeys(problem for problem, _ in rollout.rows)]
    rewards = [problem.rewards for problem in groups]
    if run.arguments.multi_objective_aggregation == "normalize_then_sum":
        of_each = [rewards, [problem.rewards_of_length for problem in groups]]
        advantages = grpo_reference.advantages_of_each_reward_alone(of_each, run.arguments.reward_weights)
    else:
        advantages = grpo_reference.advantages(rewards, run.arguments.scale_rewards)
    samples = {}
    for problem, of_group in zip(groups, advantages, strict=True):
        prompt_ids = tokenizer(problem.prompt)["input_ids"]
        for number, (ids, advantage) in enumerate(zip(problem.completions, of_group, strict=True)):
            row = run.problems.index(problem), number
            counts = ids[-1] == tokenizer.eos_token_id or not run.arguments.mask_truncated_completions
            engine = None if rollout.engine_log_probs is None else rollout.engine_log_probs[row]
            samples[row] = grpo_reference.Sample(prompt_ids, ids, advantage, engine, counts)
    return samples


def _float64_model(run: Run, weights: Tensors | None) -> PreTrainedModel:
    """The model with these trainable weights in float64, or as it is on disk if None (the reference model)."""
    model = copy.deepcopy(_model_on_disk(run.model_dir))
    if run.lora and weights is not None:
        model = get_peft_model(model, LoraConfig(**ADAPTER))
    model = grpo_reference.in_float64(model.eval())
    if weights is not None:
        set_weights(model, weights)
    return model


@functools.cache
def _model_on_disk(model_dir: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)


@functools.cache
def _tokenizer(model_dir: Path):
    return AutoTokenizer.from_pretrained(model_dir)
