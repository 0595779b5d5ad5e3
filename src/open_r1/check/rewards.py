"""Rewards, their judges and rubrics, and the truth that guards look at."""

from collections.abc import Iterable, Iterator, Sequence

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from open_r1.data import columns_of
from open_r1.feedback import judge_problems, load_rubric
from open_r1.feedback.asking import check_template
from open_r1.recipe import Preferences, Recipe, RecipeError, Reward, is_path, value_problem
from open_r1.recipe.trainer_fields import steps_per_rollout, trainer_value
from open_r1.rewards import (
    NOT_FROM_0_TO_1,
    REWARDS,
    asks_judge,
    build_rewards,
    columns_of_reward,
    missing_parameters,
    settable_parameters,
    truths_of,
    types_of_parameters,
)
from open_r1.rewards.completion import prefill_problems
from open_r1.wording import closest


def reward_problems(recipe: Recipe) -> Iterator[str]:
    called = [reward.called for reward in recipe.rewards]
    for index, reward in enumerate(recipe.rewards):
        key = f"rewards.{index}"
        if reward.called in called[:index]:
            yield f"{key}.label: another reward is called {reward.called} already; give one of them a label"
        if reward.last_step is not None and reward.last_step < reward.first_step:
            yield f"{key}.last_step: {reward.last_step} is before first_step {reward.first_step}: it would never count"
        elif recipe.step == "grpo":
            yield from (f"{key}.{problem}" for problem in _step_range_problems(recipe, reward))
        if ":" not in reward.name and reward.name not in REWARDS:
            known = ", ".join(REWARDS)
            yield f"{key}.name: unknown reward {reward.name!r} (known: {known}){closest(reward.name, REWARDS)}"
            continue
        try:
            known = settable_parameters(reward.name)
            unknown = [name for name in reward.parameters if name not in known]
            for name in unknown:
                mend = closest(name, [*known, "weight", "shuffled"])
                yield f"{key}.{name}: unknown parameter of reward {reward.name}{mend}"
            types = types_of_parameters(reward.name)
            wrong = [
                line
                for name, value in reward.parameters.items()
                if name in types and (line := value_problem(f"{key}.{name}", value, types[name]))
            ]
            yield from wrong
            missing = missing_parameters(reward)
            for name in missing:
                yield f"{key}.{name}: missing; reward {reward.name} needs it"
            if unknown or wrong or missing:
                continue
            columns = columns_of_reward(reward)
            yield from _column_problems(recipe, key, reward, columns)
        except RecipeError as error:
            yield f"{key}.name: {error}"
            continue
        if reward.name in REWARDS:
            try:
                _try_on_nothing(recipe, reward, columns)
            except RecipeError as error:
                yield from (f"{key}: {line}" for line in error.lines)
    if recipe.step == "grpo":
        if recipe.rewards and not any(reward.weight for reward in recipe.rewards):
            yield "rewards: all weights are 0, so nothing would be learned; leave weight out where it is to count"
        else:
            yield from _unjudged_sources(recipe)
    template = _chat_template(recipe)
    if template:
        yield from prefill_problems(_render(template), recipe.rewards, recipe.thinking)


def _step_range_problems(recipe: Recipe, reward: Reward) -> Iterator[str]:
    """Steps in which a reward cannot begin or end."""
    max_steps = trainer_value("grpo", recipe.trainer, "max_steps")
    if isinstance(max_steps, int) and 0 < max_steps < reward.first_step:
        yield f"first_step: {reward.first_step} is after trainer.max_steps {max_steps}: it would never count"
        return
    per_rollout = steps_per_rollout(recipe.trainer, recipe.hardware.num_processes)
    for name, step, num_before in (
        ("first_step", reward.first_step, reward.first_step - 1),
        ("last_step", reward.last_step, reward.last_step),
    ):
        if num_before is not None and num_before % per_rollout:
            below = num_before // per_rollout * per_rollout
            around = [end + step - num_before for end in (below, below + per_rollout)]
            mend = " or ".join(str(each) for each in around if each > 0)
            yield (
                f"{name}: {step} is in the middle of a rollout, which is judged once for {per_rollout} steps (trainer."
                f"steps_per_generation x num_iterations, over gradient_accumulation_steps); write {mend}"
            )


def _unjudged_sources(recipe: Recipe) -> Iterator[str]:
    """Rows that get no reward at all; what their own column `task` says is known when they are loaded.

    Rows to train on need a reward that counts; those of eval_data may have one that is only looked at.
    """
    for key, source in recipe.data_sources():
        for_rows = [reward for reward in recipe.rewards if reward.is_for(source.task)]
        if any(reward.weight or key.startswith("eval_data") for reward in for_rows):
            continue
        if source.task is None:
            try:
                columns = columns_of(recipe, source)
            except RecipeError:
                continue  # told with the data
            if columns is None or "task" in columns or "task" in source.columns:
                continue
        rows = "rows of no task" if source.task is None else f"rows of task {source.task!r}"
        only = " but one of weight 0" if for_rows else ""
        yield f"{key}.task: no reward{only} is for {rows}; add one, or remove the source"


def _try_on_nothing(recipe: Recipe, reward: Reward, columns: Sequence[str]) -> None:
    """Raises RecipeError if one of our rewards refuses its parameters, which it does before it looks at anything."""
    anywhere = reward.model_copy(update={"task": None})
    if rubric := anywhere.parameters.get("rubric"):  # as the step will read it
        anywhere = anywhere.model_copy(update={"rubric": str(recipe.path(rubric))})
    (function,) = build_rewards([anywhere], recipe.thinking, recipe.seed, _max_completion_tokens(recipe))
    empty: list = []
    function(empty, prompts=empty, completion_ids=empty, **dict.fromkeys(columns, empty))
    if rubric:
        check_template(load_rubric(recipe.path(rubric)), _num_candidates(recipe))


def _column_problems(recipe: Recipe, key: str, reward: Reward, needed: Iterable[str]) -> Iterator[str]:
    tasks = sorted({source.task for _, source in recipe.data_sources() if source.task})
    from_column = any("task" in source.columns for _, source in recipe.data_sources())  # its values are the data's
    for task in () if from_column else reward.tasks or ():
        if task not in tasks:
            known = f"known: {', '.join(tasks)}" if tasks else "no source has one; give data.0.task"
            yield f"{key}.task: no data is of task {task!r} ({known}){closest(task, tasks)}"
    for source_key, source in recipe.data_sources():
        if not reward.is_for(source.task) and "task" not in source.columns:
            continue
        try:
            given = columns_of(recipe, source)
        except RecipeError:
            continue  # told with the data
        if given is None:  # the Hub's columns are known when the data is loaded; a mapping says which are meant
            given = set(source.columns) | set(needed if not source.columns else ())
        for column in needed:
            if column not in given:
                yield (
                    f"{key}: {reward.name} needs the column {column}, which {source_key} does not give; "
                    f"add {source_key}.columns.{column}"
                )


def _max_completion_tokens(recipe: Recipe) -> int:
    """The most tokens that a completion of this recipe can have."""
    if section := recipe.distill or recipe.generate or recipe.preferences:
        return section.max_completion_length
    value = trainer_value("grpo", recipe.trainer, "max_completion_length")
    return value if isinstance(value, int) else 1  # a wrong type is told with the trainer's keys


def _chat_template(recipe: Recipe) -> str | None:
    """The chat template if it lies on this disk: the recipe's file, or the one beside a local model."""
    if recipe.model.chat_template:
        file = recipe.path(recipe.model.chat_template)
    elif recipe.model.name and is_path(recipe.model.name):
        file = recipe.path(recipe.model.name) / "chat_template.jinja"
    else:
        return None
    return file.read_text(encoding="utf-8") if file.is_file() else None


def _render(template: str) -> str:
    """The prompt that the template makes of one question; the empty string if it needs more than transformers gives."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.globals["raise_exception"] = lambda message: ""
    messages = [{"role": "user", "content": "1+1=?"}]
    try:
        return environment.from_string(template).render(messages=messages, add_generation_prompt=True)
    except jinja2.TemplateError:
        return ""


def ai_judge_problems(recipe: Recipe) -> Iterator[str]:
    yield from judge_problems(recipe)
    asked = asks_judge(recipe.rewards) or recipe.preferences is not None
    if asked and recipe.judge is None and recipe.step != "preferences":  # whose sections are told otherwise
        yield "judge: missing; a judge reward needs it, e.g. {endpoint: {base_url: …, model: …}}"
    elif recipe.judge is not None and not asked:
        yield "judge: nothing asks it; add a judge reward, or remove it"
    if recipe.preferences is not None:
        problems = list(_rubric_problems(recipe, "preferences.rubric", recipe.preferences.rubric))
        yield from problems or _margin_problems(recipe, recipe.preferences)
    for key, source in recipe.data_sources():
        if source.rubric is None:
            continue
        yield from _rubric_problems(recipe, f"{key}.rubric", source.rubric)
        if recipe.step != "sft":
            yield f"{key}.rubric: a judge learns its verdicts by step sft, and this is {recipe.step}; remove it"


def _num_candidates(recipe: Recipe) -> int:
    return recipe.judge.candidates if recipe.judge is not None else 1


def _rubric_problems(recipe: Recipe, key: str, path: str) -> Iterator[str]:
    try:
        check_template(load_rubric(recipe.path(path)), _num_candidates(recipe))
    except RecipeError as error:
        yield from (f"{key}: {line}" for line in error.lines)


def _margin_problems(recipe: Recipe, section: Preferences) -> Iterator[str]:
    lowest, highest = load_rubric(recipe.path(section.rubric)).scale
    if section.min_margin >= highest - lowest:
        yield (
            f"preferences.min_margin: no two scores from {lowest} to {highest} differ by more than "
            f"{section.min_margin:g}; lower it"
        )


def truth_problems(recipe: Recipe) -> Iterator[str]:
    if recipe.step == "grpo" and recipe.guards.max_kl is not None and not trainer_value("grpo", recipe.trainer, "beta"):
        yield "guards.max_kl: with trainer.beta 0 nobody computes it; set trainer.beta, e.g. 0.001, or remove it"
    yield from _signs_of_nothing(recipe)
    truth = recipe.guards.truth
    if truth is None:
        return
    called = [reward.called for reward in recipe.rewards]
    if truth not in called:
        known = f"known: {', '.join(called)}" if called else "there is none"
        yield f"guards.truth: no reward is called {truth!r} ({known}){closest(truth, called)}"
    elif not recipe.eval_data:
        yield "guards.truth: it is looked at on eval_data, which is missing; add it, and trainer.eval_strategy"
    else:
        reward = recipe.rewards[called.index(truth)]
        if reward.name in NOT_FROM_0_TO_1:
            yield f"guards.truth: {reward.name} is no number from 0 to 1; name another reward, e.g. one of weight 0"
        if not reward.counts_always:
            yield (
                f"guards.truth: evaluations before first_step or after last_step of {truth} would have no value of it; "
                f"remove these, or name another reward, e.g. one of weight 0"
            )


def _signs_of_nothing(recipe: Recipe) -> Iterator[str]:
    guards = recipe.guards
    if recipe.step != "grpo" or not guards.stop_on_signs:
        return
    has_truth = guards.max_eval_drop is not None and recipe.eval_data and truths_of(guards, recipe.rewards)
    if not has_truth and guards.min_entropy_share is guards.max_length_drift is guards.max_kl is None:
        yield (
            "guards.stop_on_signs: nothing looks for a sign; set guards.truth (with eval_data), min_entropy_share, "
            "max_length_drift or max_kl, or remove it"
        )
