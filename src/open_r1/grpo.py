"""Reasoning by reinforcement alone: GRPO with rewards that a computer checks.

DeepSeek-R1, section 2.2: for each prompt the policy samples a group of completions; each is rewarded by rules (is
the answer right, is the format kept); its advantage is its reward less the group's mean, over the group's standard
deviation (DeepSeekMath, arXiv 2402.03300, section 4.1). No critic, no reward model.
"""

import contextlib
import functools
from pathlib import Path

from accelerate import PartialState
from trl import GRPOConfig

from open_r1 import modeling, training, vllm_server
from open_r1.feedback import ModelJudge, judge_of
from open_r1.feedback.reward_models import load_reward_models
from open_r1.grpo_trainer import GRPOTrainer
from open_r1.recipe import Recipe, RecipeError
from open_r1.rewards import asks_judge, build_rewards
from open_r1.rewards.completion import prefill_problems, resolved_thinking
from open_r1.step_process import JudgeFailed, run_step
from open_r1.training.evaluation import whole_batches
from open_r1.training.watchdog import answers_within

SOME_PROMPT = [{"role": "user", "content": "1+1=?"}]


def grpo(recipe: Recipe, run_dir: Path) -> None:
    """Trains the recipe's policy on its prompts and leaves it in `run_dir/model`, all rollouts in `completions/`."""
    processes = training.begin(recipe)
    tokenizer = modeling.load_tokenizer(recipe)
    rendered_prompt = tokenizer.apply_chat_template(SOME_PROMPT, tokenize=False, add_generation_prompt=True)
    problems = list(prefill_problems(rendered_prompt, recipe.rewards, recipe.thinking))
    if problems:
        raise RecipeError(*(f"{recipe.source}: {problem}" for problem in problems))

    load_reward_models(recipe)
    dataset = training.verified_data(recipe, run_dir, processes)
    held_out = training.verified_data(recipe, run_dir, processes, "eval_data") if recipe.eval_data else None
    completions_into_run_dir(run_dir)
    arguments = GRPOConfig(
        **{**training.trainer_arguments(recipe, run_dir), **vllm_server.trainer_keys()},
        reward_weights=[reward.weight for reward in recipe.rewards],
    )
    judge = _judge(recipe, run_dir, processes)
    model = modeling.load_model(recipe)
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=build_rewards(
            recipe.rewards,
            resolved_thinking(rendered_prompt, recipe.thinking),
            recipe.seed,
            max_completion_tokens=arguments.max_completion_length,
            judge=judge,
        ),
        args=arguments,
        train_dataset=dataset,
        eval_dataset=whole_batches(held_out, recipe, arguments, processes) if held_out else None,
        processing_class=tokenizer,
        peft_config=modeling.lora_config(recipe, model),
        savings=recipe.grpo,
        weight_sync_watch=functools.partial(
            answers_within,
            "the weight sync with vLLM",
            recipe.guards.weight_sync_timeout_seconds,
            rank=processes.process_index,
            run_dir=run_dir,
            key="guards.weight_sync_timeout_seconds",
        ),
    )
    try:
        training.train(trainer, recipe, run_dir, tokenizer)
    except JudgeFailed:
        if judge is not None:
            judge.forget_unreadable()
        raise


def _judge(recipe: Recipe, run_dir: Path, processes: PartialState) -> ModelJudge | None:
    if not asks_judge(recipe.rewards):
        return None
    return judge_of(recipe, run_dir, processes.process_index, processes.num_processes, processes.device)


def completions_into_run_dir(run_dir: Path) -> None:
    """Lets `checkpoints/completions`, where TRL writes its tables, be `run_dir/completions`."""
    (run_dir / "completions").mkdir(exist_ok=True)
    (run_dir / "checkpoints").mkdir(exist_ok=True)
    link = run_dir / "checkpoints" / "completions"
    if not link.is_symlink():
        with contextlib.suppress(FileExistsError):  # another process of this run was first
            link.symlink_to(Path("..") / "completions", target_is_directory=True)


if __name__ == "__main__":
    run_step(grpo)
