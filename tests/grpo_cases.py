"""Cases for GRPO trainers: a value of each factor that decides what the loss of an optimizer step is."""

import itertools
import random
from collections.abc import Sequence
from pathlib import Path

from trainers_of_tests import Problem, Run, some_problems, train

from open_r1.recipe import Grpo

Case = dict[str, str]
"""Factor -> value."""

NUM_PROMPTS, NUM_GENERATIONS, MAX_TOKENS = 6, 4, 12

# Upper clips are tight, so that some ratios are beyond them after a step or two.
LOSSES = {
    "grpo": {"loss_type": "grpo"},
    "two-sided": {"loss_type": "grpo", "delta": 1.5},
    "gspo": {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon": 3e-4, "epsilon_high": 4e-4},
    "dr_grpo": {"loss_type": "dr_grpo"},
    "dapo": {"loss_type": "dapo", "epsilon_high": 0.28},
    "bnpo": {"loss_type": "bnpo"},
    "luspo": {"loss_type": "luspo", "importance_sampling_level": "sequence", "epsilon": 2e-3, "epsilon_high": 2.5e-3},
    "cispo": {"loss_type": "cispo", "epsilon_high": 1.1},
    "sapo": {"loss_type": "sapo"},
    "vespo": {"loss_type": "vespo"},
}
CLIPPED = ("grpo", "two-sided", "gspo", "dr_grpo", "dapo", "bnpo", "luspo")

# Micro-batches of six rows cut through groups.
SHAPES = {
    "one micro-batch": {"per_device_train_batch_size": 24},
    "accumulated": {"per_device_train_batch_size": 6, "gradient_accumulation_steps": 4},
    "steps share a rollout": {"gradient_accumulation_steps": 2, "steps_per_generation": 6, "max_steps": 3},
    "two iterations": {
        "per_device_train_batch_size": 6,
        "gradient_accumulation_steps": 2,
        "num_iterations": 2,
        "max_steps": 3,
    },
    "rollouts share a step": {"gradient_accumulation_steps": 4, "steps_per_generation": 2},
    "rollouts across steps": {"gradient_accumulation_steps": 3, "steps_per_generation": 2, "max_steps": 2},
}
DIVERGENCES = {
    "no KL": {"beta": 0.0},
    "plain KL": {"beta": 0.1, "use_bias_correction_kl": False},
    "corrected KL": {"beta": 0.1, "use_bias_correction_kl": True},
}
SCALES = {
    **{f"scale {scale}": {"scale_rewards": scale} for scale in ("group", "batch", "none")},
    "rewards alone": {"multi_objective_aggregation": "normalize_then_sum", "reward_weights": [1.0, 0.5]},
}
TRUNCATED = {"truncated count": {}, "truncated left out": {"mask_truncated_completions": True}}
TOKENS = {"all tokens": {}, "tokens of high entropy": {"top_entropy_quantile": 0.63}}
ENGINE = {"use_vllm": True, "vllm_importance_sampling_clip_min": 0.6, "vllm_importance_sampling_clip_max": 1.5}
ENGINES = {
    "no engine": {},
    **{
        f"engine's {mode}": {**ENGINE, "vllm_importance_sampling_mode": mode}
        for mode in ("token_truncate", "token_mask", "sequence_truncate", "sequence_mask")
    },
}
SETTINGS = {
    "loss": LOSSES,
    "shape": SHAPES,
    "divergence": DIVERGENCES,
    "scale": SCALES,
    "truncated": TRUNCATED,
    "tokens": TOKENS,
    "engine": ENGINES,
}

DEAD = {"0 dead": (), "half dead": (0, 2, 4), "all dead": range(NUM_PROMPTS)}
# One row of a group, and all rows but one of another.
VERDICTS = {"all judged": (), "some unjudged": ((0, 2), (3, 0), (3, 1), (3, 3))}
WEIGHTS = {"all weights": False, "lora": True}

SAVINGS = ("trim_padding", "sort_by_length", "skip_dead_groups")
FACTORS: dict[str, Sequence[str]] = {
    **{name: list(values) for name, values in SETTINGS.items()},
    "dead": list(DEAD),
    "verdicts": list(VERDICTS),
    "weights": list(WEIGHTS),
    **{saving: [f"{saving}", f"no {saving}"] for saving in SAVINGS},
}


def problems_of(case: Case) -> list[Problem]:
    return some_problems(
        NUM_PROMPTS, NUM_GENERATIONS, MAX_TOKENS, dead=DEAD[case["dead"]], unjudged=VERDICTS[case["verdicts"]]
    )


def savings_of(case: Case) -> Grpo:
    """What is saved, but for merge_rollouts, which makes other rollouts than TRL's."""
    return Grpo(merge_rollouts=False, **{saving: case[saving] == saving for saving in SAVINGS})


def run_case(trainer_class: type, case: Case, model_dir: Path, output_dir: Path, **more) -> Run:
    """The run of one trainer on the case; `more` as for `train`."""
    settings = [values[case[factor]] for factor, values in SETTINGS.items()]
    arguments = {name: value for setting in settings for name, value in setting.items()}
    if case["loss"] == "vespo" and "vllm_importance_sampling_mode" in arguments:  # it refuses the ratio of a sequence
        mode = arguments["vllm_importance_sampling_mode"]
        arguments["vllm_importance_sampling_mode"] = mode.replace("sequence", "token")
    return train(
        trainer_class,
        problems_of(case),
        model_dir,
        output_dir,
        lora=WEIGHTS[case["weights"]],
        **{"learning_rate": 0.3, **arguments, **more},
    )


def drawn_case(**given: str) -> Case:
    """The given values, and of every other factor one at random, the same each time."""
    rng = random.Random(repr(sorted(given.items())))
    return {name: given.get(name) or rng.choice(values) for name, values in FACTORS.items()}


def savings_on_and_off() -> list[Case]:
    """All combinations of the savings, all off first."""
    choices = [(f"no {saving}", saving) for saving in SAVINGS]
    return [dict(zip(SAVINGS, chosen, strict=True)) for chosen in itertools.product(*choices)]


def covering_pairs(factors: dict[str, Sequence[str]]) -> list[Case]:
    """Cases among which each two values of two factors are together at least once, the same cases each time."""
    missing = {
        frozenset({(one, value), (other, of_other)}): None
        for one, other in itertools.combinations(factors, 2)
        for value in factors[one]
        for of_other in factors[other]
    }
    rng = random.Random(0)
    cases = []
    while missing:
        case = dict(sorted(next(iter(missing))))
        for name, values in factors.items():
            if name not in case:
                num_new = {
                    value: sum(frozenset({(name, value), chosen}) in missing for chosen in case.items())
                    for value in values
                }
                case[name] = max(values, key=lambda value: (num_new[value], rng.random()))
        for pair in itertools.combinations(case.items(), 2):
            missing.pop(frozenset(pair), None)
        cases.append({name: case[name] for name in factors})
    return cases
