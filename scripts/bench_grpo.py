"""A GRPO step of ours against one of trl.GRPOTrainer: the same model, the same completions, the same run.

    python scripts/bench_grpo.py [--rounds 3] [--steps 3] [--model DIRECTORY] [--only training|whole]
                                 [--lengths lognormal|sampled]

Training part: completions are given, so that a step is all that comes after sampling. Their lengths are lognormal, or
those that the model has when it is sampled on the prompts of the tiny recipe; a share of the groups is dead. Whole
step: the tiny recipe itself, in one process of one thread, sampled by each trainer. Both sides take turns, each time
in a new process; a round's first steps are not counted. A ratio is TRL's seconds over ours, the median of the rounds,
and its range; the same is told of the seconds that the process's one core was busy, which other programs disturb less.
Peak memory is what a process takes beyond what it has when the model is loaded. The last line is one JSON object.
"""

import argparse
import itertools
import json
import multiprocessing
import random
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

REPOSITORY = Path(__file__).parents[1]
RECIPE = REPOSITORY / "recipes" / "tiny-r1" / "grpo.yaml"
TEACHER = REPOSITORY / "recipes" / "tiny-r1" / "models" / "teacher"
NUM_PROMPTS, NUM_GENERATIONS, MICRO_BATCHES = 10, 8, 4
MEDIAN_TOKENS, SIGMA, MAX_TOKENS = 96, 0.8, 512  # of lognormal completions
BETA = 0.04
WARM_UP_STEPS = 1

Side = Literal["trl", "ours"]
PROCESSES = multiprocessing.get_context("forkserver")


@dataclass(frozen=True)
class Given:
    """Completions that are trained on, and not sampled."""

    lengths: Literal["lognormal", "sampled"]
    beta: float
    dead_share: float

    @property
    def name(self) -> str:
        return f"{self.lengths} lengths, beta {self.beta:g}, {self.dead_share:.0%} dead"


LENGTHS = ("lognormal", "sampled")
GIVEN = [Given(*values) for values in itertools.product(LENGTHS, (0.0, BETA), (0.0, 0.3, 0.6))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3, help="counted steps of a round")
    parser.add_argument("--model", type=Path, default=TEACHER, help="default: the shipped teacher")
    parser.add_argument("--only", choices=["training", "whole"])
    parser.add_argument("--lengths", choices=LENGTHS, help="of the training part, default: both")
    arguments = parser.parse_args()
    if not (arguments.model / "config.json").is_file():
        parser.error(f"--model: there is no model in {arguments.model}")
    PROCESSES.set_forkserver_preload(["open_r1.grpo", "open_r1.grpo_trainer", "trl", "pandas"])
    model = arguments.model.resolve()
    result: dict[str, object] = {}
    settings: list[Given | None] = [*GIVEN, None]
    if arguments.only:
        settings = GIVEN if arguments.only == "training" else [None]
    if arguments.lengths:
        settings = [given for given in settings if given is None or given.lengths == arguments.lengths]
    for given in settings:
        rounds = [
            {side: in_a_process(side, given, model, arguments.steps, seed) for side in ("trl", "ours")}
            for seed in range(arguments.rounds)
        ]
        name = f"training part: {given.name}" if given else "whole step of the tiny recipe"
        result[name] = comparison(rounds)
        print(f"{name}: {json.dumps(result[name])}", flush=True)
    print(json.dumps(result))


def comparison(rounds: list[dict[Side, dict]]) -> dict[str, object]:
    """Ratios TRL / ours with their range over the rounds, and the seconds of a step that they are made of."""
    wall, busy, memory = (
        [one["trl"][key] / one["ours"][key] for one in rounds] for key in ("seconds", "busy_seconds", "peak_bytes")
    )
    return {
        "speedup": rounded(statistics.median(wall)),
        "speedup_range": [rounded(min(wall)), rounded(max(wall))],
        "busy_speedup": rounded(statistics.median(busy)),
        "busy_speedup_range": [rounded(min(busy)), rounded(max(busy))],
        "peak_memory_ratio": rounded(statistics.median(memory)),
        **{
            f"{side}_{key}": rounded(statistics.median(one[side][key] for one in rounds))
            for side in ("trl", "ours")
            for key in ("seconds", "busy_seconds", "peak_bytes")
        },
    }


def in_a_process(side: Side, given: Given | None, model: Path, num_steps: int, seed: int) -> dict[str, float]:
    """Median seconds of a step, and the bytes that training took at most."""
    receiver, sender = PROCESSES.Pipe(duplex=False)
    process = PROCESSES.Process(target=measure, args=(sender, side, given, model, num_steps, seed))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        raise SystemExit(f"the {side} side of {given} failed; its error is above") from None
    finally:
        process.join()


def measure(sender, side: Side, given: Given | None, model: Path, num_steps: int, seed: int) -> None:
    """Trains a few steps and sends what was measured."""
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as directory:
        make = trainer_of_recipe if given is None else trainer_on_given
        clock = Clock(make(side, given, model, WARM_UP_STEPS + num_steps, seed, Path(directory)))
        before = memory("VmRSS")
        clock.trainer.train()
        steps = [np.subtract(end, start) for start, end in itertools.pairwise(clock.step_ends)][WARM_UP_STEPS - 1 :]
        seconds, busy_seconds = np.median(steps, axis=0)
        sender.send({"seconds": seconds, "busy_seconds": busy_seconds, "peak_bytes": memory("VmHWM") - before})


class Clock:
    """Notes when each optimizer step of a trainer ends, and how long this process had been busy then."""

    def __init__(self, trainer):
        from transformers import TrainerCallback

        self.trainer, self.step_ends = trainer, []
        noted = self.step_ends

        class Noted(TrainerCallback):
            def on_step_end(self, args, state, control, **kwargs):
                noted.append((time.perf_counter(), time.process_time()))

        trainer.add_callback(Noted())


def memory(field: str) -> int:
    """Bytes of a field of /proc/self/status."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def arguments_of(directory: Path, num_steps: int, seed: int) -> dict:
    return {
        "output_dir": str(directory),
        "seed": seed,
        "max_steps": num_steps,
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "disable_tqdm": True,
        "report_to": "none",
        "save_strategy": "no",
        "logging_steps": 1,
    }


def trainer_class(side: Side) -> tuple[type, dict]:
    """The trainer's class and what it is given beside TRL's arguments."""
    import trl

    from open_r1.grpo_trainer import GRPOTrainer
    from open_r1.recipe import Grpo

    return (trl.GRPOTrainer, {}) if side == "trl" else (GRPOTrainer, {"savings": Grpo()})


def trainer_of_recipe(side: Side, _given: None, model: Path, num_steps: int, seed: int, directory: Path):
    """The tiny recipe's trainer; its model is the given one."""
    import trl

    from open_r1 import data, modeling
    from open_r1.recipe import load_recipe
    from open_r1.rewards import build_rewards, reward_columns

    recipe = load_recipe(RECIPE, {"model.name": str(model), "seed": seed})
    more = {"log_completions": False, **arguments_of(directory, num_steps, seed)}
    config = trl.GRPOConfig(**{**recipe.trainer, **more}, reward_weights=[one.weight for one in recipe.rewards])
    kind, given = trainer_class(side)
    return quiet(
        kind(
            model=modeling.load_model(recipe),
            reward_funcs=build_rewards(recipe.rewards, recipe.thinking, seed, config.max_completion_length),
            args=config,
            train_dataset=data.load_data(recipe, reward_columns(recipe.rewards)),
            processing_class=modeling.load_tokenizer(recipe),
            **given,
        )
    )


def trainer_on_given(side: Side, given: Given, model: Path, num_steps: int, seed: int, directory: Path):
    """A trainer on completions that are looked up."""
    import torch
    import trl
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer

    rng = random.Random(seed)
    tokenizer = AutoTokenizer.from_pretrained(model, padding_side="left")
    policy = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    num_problems = NUM_PROMPTS * num_steps
    prompts = ["+".join(str(rng.randint(1, 9)) for _ in range(7)) + f"={number}?" for number in range(num_problems)]
    lengths = lognormal_lengths(rng) if given.lengths == "lognormal" else sampled_lengths(policy, tokenizer, seed)
    completions = {
        tuple(tokenizer(prompt)["input_ids"]): [some_tokens(rng, next(lengths)) for _ in range(NUM_GENERATIONS)]
        for prompt in prompts
    }
    num_dead = round(given.dead_share * NUM_PROMPTS)

    class GivenCompletions:
        def _generate_single_turn(self, prompt_ids, *_arguments, **_more):
            number = itertools.count()
            return [completions[tuple(ids)][next(number) % NUM_GENERATIONS] for ids in prompt_ids], None

    def reward(completions, **_columns):
        alive = range(len(completions) - num_dead * NUM_GENERATIONS)
        return [float(row % 2) if row in alive else 0.5 for row in range(len(completions))]

    kind, more = trainer_class(side)
    config = trl.GRPOConfig(
        **arguments_of(directory, num_steps, seed),
        per_device_train_batch_size=NUM_PROMPTS * NUM_GENERATIONS // MICRO_BATCHES,
        gradient_accumulation_steps=MICRO_BATCHES,
        num_generations=NUM_GENERATIONS,
        max_completion_length=MAX_TOKENS,
        beta=given.beta,
        learning_rate=1e-6,
    )
    return quiet(
        type("Trainer", (GivenCompletions, kind), {})(
            model=policy,
            reward_funcs=reward,
            args=config,
            train_dataset=Dataset.from_dict({"prompt": prompts}),
            processing_class=tokenizer,
            **more,
        )
    )


def lognormal_lengths(rng: random.Random):
    while True:
        yield max(1, min(MAX_TOKENS, round(MEDIAN_TOKENS * rng.lognormvariate(0, SIGMA))))


def sampled_lengths(policy, tokenizer, seed: int):
    """Tokens of the completions that the policy gives on the tiny recipe's prompts, again and again."""
    import torch

    from open_r1 import data
    from open_r1.recipe import load_recipe

    recipe = load_recipe(RECIPE, {"seed": seed, "model.name": str(TEACHER)})
    rows = data.load_data(recipe, ["solution"]).select(range(128))
    texts = [tokenizer.apply_chat_template(row["prompt"], tokenize=False, add_generation_prompt=True) for row in rows]
    inputs = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
    torch.manual_seed(seed)
    with torch.no_grad():
        ids = policy.generate(**inputs, do_sample=True, max_new_tokens=recipe.trainer["max_completion_length"])
    completions = ids[:, inputs["input_ids"].shape[1] :]
    return itertools.cycle((completions != tokenizer.pad_token_id).sum(dim=1).tolist())


def some_tokens(rng: random.Random, num_tokens: int) -> list[int]:
    """Any tokens but the control tokens (0 to 3)."""
    return [rng.randint(4, 100) for _ in range(num_tokens)]


def quiet(trainer):
    """The trainer without its progress lines."""
    from transformers.trainer_callback import PrinterCallback

    trainer.remove_callback(PrinterCallback)
    return trainer


def rounded(value: float) -> float:
    return float(f"{value:.4g}")


if __name__ == "__main__":
    main()
