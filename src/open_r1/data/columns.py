"""The columns of what a step trains on, or asks: which a source has to give, conversations, sources joined."""

import reprlib
from collections.abc import Collection, Sequence

from open_r1.recipe import DataSource, Recipe, RecipeError
from open_r1.rewards import reward_columns, rewards_for

STEP_COLUMNS = {
    "pretrain": ("text",),
    "sft": ("prompt", "completion"),
    "grpo": ("prompt",),
    "distill": ("prompt",),
    "generate": ("prompt",),
    "preferences": ("prompt",),
    "dpo": ("prompt", "chosen", "rejected"),
    "reward_model": ("prompt", "chosen", "rejected"),
}
STEPS_THAT_KEEP_COLUMNS = ("generate", "preferences")
# Not kept beside completions that are sampled anew.
TEXTS_OF_TRAINING = ("text", "messages", "completion", "chosen", "rejected")
ROLES = {"prompt": "user", "completion": "assistant", "chosen": "assistant", "rejected": "assistant"}
ANSWERS = ("chosen", "rejected")
LABELLED = ("prompt", "completion", "scores")  # what a rubric's labelled answers are made of
ROWS_AT_ONCE = 1000


def missing_columns(step: str, source: DataSource, has: Collection[str]) -> list[str]:
    """What a step needs of a source that has these columns, under our names, and it does not give.

    Of pairs the prompt is not asked for, whose conversations may begin with it: types are known when rows are loaded.
    """
    needed = LABELLED if source.rubric is not None else STEP_COLUMNS[step]
    if not set(needed).isdisjoint(ANSWERS):
        needed = ANSWERS
    return [column for column in needed if column not in has]


def columns_for(recipe: Recipe, source: DataSource, dataset, wanted: Sequence[str]) -> list[str]:
    """Of the wanted columns those that a source has to give: not what only rewards for other tasks read.

    Of a source whose rows name their own tasks, in a column `task`, all are wanted.
    """
    if source.task is None and "task" in dataset.column_names:
        return list(wanted)
    judging = rewards_for(recipe.rewards, source.task)
    others = set(reward_columns([reward for reward in recipe.rewards if reward not in judging]))
    return [column for column in wanted if column not in others.difference(reward_columns(judging), ["task"])]


def with_task(recipe: Recipe, source: DataSource, dataset):
    """The rows with the source's task as a column, if it has one or some reward asks for it."""
    asked = source.task is not None or any(reward.tasks for reward in recipe.rewards)
    if not asked or (source.task is None and "task" in dataset.column_names):
        return dataset
    import pyarrow

    task = pyarrow.repeat(pyarrow.scalar(source.task, pyarrow.string()), len(dataset))
    return dataset.remove_columns([name for name in ("task",) if name in dataset.column_names]).add_column("task", task)


def with_columns_of_step(recipe: Recipe, source_key: str, source: DataSource, dataset, wanted: Sequence[str]):
    """The rows with the wanted columns (and, for a step that samples, the others), all texts as conversations."""
    if source.rubric is not None:
        return _as_verdicts(recipe, source_key, source, dataset)
    halves = [column for column in ROLES if column in wanted]
    has = set(dataset.column_names)
    are_pairs = "chosen" in wanted and has.issuperset(ANSWERS)
    are_whole = are_pairs and _are_whole(dataset)
    for column in has.intersection(ANSWERS if are_whole else halves) if are_pairs else ():
        _check_filled(f"{recipe.source}: {source_key}", dataset, column)
    if are_pairs and "rejected" in wanted:
        _check_differ(f"{recipe.source}: {source_key}", dataset)
    if are_whole:
        # whatever a column `prompt` has beside them: the last question, or nothing but its text
        features = _replaced(dataset.features, "prompt", {"prompt": dataset.features["chosen"]})
        fn_kwargs = {"key": f"{recipe.source}: {source_key}"}
        dataset = dataset.map(_split_pairs, batched=True, fn_kwargs=fn_kwargs, features=features)
        has.add("prompt")
    splits = "messages" in has and "chosen" not in wanted and bool(halves)
    split = splits and ("messages" in source.columns or not has.issuperset(halves))
    halves_of = ("prompt", "completion")
    gives = has.union(halves_of) if split else has
    missing = [column for column in wanted if column not in gives]
    if missing:
        raise RecipeError(
            f"{recipe.source}: {source_key}.columns: nothing gives {missing[0]}; "
            f"add `{missing[0]}: <one of {', '.join(dataset.column_names)}>`"
        )
    others = has.difference(wanted, TEXTS_OF_TRAINING) if recipe.step in STEPS_THAT_KEEP_COLUMNS else ()
    kept = [column for column in dataset.column_names if column in others or column in wanted]
    if split:
        dataset = dataset.select_columns(["messages", *(column for column in kept if column not in halves_of)])
        dataset = dataset.map(
            _split_messages,
            batched=True,
            remove_columns=["messages"],
            features=_replaced(dataset.features, "messages", dict.fromkeys(halves_of, dataset.features["messages"])),
        )
    dataset = dataset.select_columns([*wanted, *(column for column in kept if column not in wanted)])
    for column in halves:
        if getattr(dataset.features[column], "dtype", None) in ("string", "large_string"):
            dataset = dataset.map(
                _as_conversations,
                batched=True,
                fn_kwargs={"column": column},
                features=_replaced(dataset.features, column, {column: _conversation()}),
            )
    return dataset


def _as_verdicts(recipe: Recipe, source_key: str, source: DataSource, dataset):
    """Labelled answers as what a judge is asked about each, and the verdict that it should give."""
    from open_r1.feedback import load_rubric
    from open_r1.feedback.labels import labelled

    for column in LABELLED:
        if column not in dataset.column_names:
            raise RecipeError(
                f"{recipe.source}: {source_key}.rubric: it needs labelled answers, with prompt, completion and scores; "
                f"add {source_key}.columns.{column}"
            )
    rubric = load_rubric(recipe.path(source.rubric))
    rows = []
    for number, row in enumerate(dataset.select_columns(list(LABELLED))):
        try:
            rows.append(labelled(rubric, **row, thinking=recipe.thinking))
        except ValueError as error:
            raise RecipeError(f"{recipe.source}: {source_key}: row {number}: {error}") from None
    return type(dataset).from_list(rows)


def _split_messages(rows: dict) -> dict:
    messages = rows["messages"]
    return {"prompt": [each[:-1] for each in messages], "completion": [each[-1:] for each in messages]}


def _check_filled(key: str, dataset, column: str) -> None:
    """Raises RecipeError, in the name of the source's `key`, if a row has nothing in the column, or in a message of it.

    A trainer of pairs would end in the middle of its preparation, with a traceback.
    """
    rows = dataset.select_columns([column]).with_format("arrow")
    for batch, table in enumerate(rows.iter(batch_size=ROWS_AT_ONCE)):
        if not _has_nulls(table[column]):
            continue
        for row, text in enumerate(table[column].to_pylist(), batch * ROWS_AT_ONCE):
            what = None
            if text is None:
                what = "nothing"
            elif isinstance(text, list) and not all(map(_says_something, text)):
                what = "a message without content"
            if what:
                raise RecipeError(f"{key}: row {row} has {what} in {column}; fill it, or remove the row")


def _says_something(message: dict | None) -> bool:
    return bool(message) and (message["content"] is not None or bool(message.get("tool_calls")))


def _check_differ(key: str, dataset) -> None:
    """Raises RecipeError, in the name of the source's `key`, if both answers of each pair are the same."""
    if len(dataset) and all(row["chosen"] == row["rejected"] for row in dataset.select_columns(list(ANSWERS))):
        raise RecipeError(f"{key}: chosen and rejected are the same in all {len(dataset)} rows; see its columns")


def _has_nulls(column) -> bool:
    """True if a row of an arrow column is null or, of conversations, a message or its content; quick, unlike a loop."""
    import pyarrow
    import pyarrow.compute

    if column.null_count or not (pyarrow.types.is_list(column.type) or pyarrow.types.is_large_list(column.type)):
        return column.null_count > 0
    messages = pyarrow.compute.list_flatten(column)
    says = pyarrow.types.is_struct(messages.type) and messages.type.get_field_index("content") >= 0
    if messages.null_count or not says:
        return messages.null_count > 0
    return pyarrow.compute.struct_field(messages, "content").null_count > 0


def _are_whole(dataset) -> bool:
    """True if the answers of pairs are conversations with what was asked, and not the answers alone."""
    first = dataset[0]["chosen"] if len(dataset) else None
    return bool(first) and isinstance(first, list) and first[0].get("role") != ROLES["chosen"]


def _split_pairs(rows: dict, key: str) -> dict:
    """Whole conversations that begin alike -> what both begin with, and what follows in each.

    Raises RecipeError in the name of the source's `key` if two do not.
    """
    split = [_common_start(chosen, rejected) for chosen, rejected in zip(rows["chosen"], rows["rejected"], strict=True)]
    if 0 in split:
        begin = [rows[name][split.index(0)][:1] for name in ANSWERS]
        raise RecipeError(
            f"{key}: a chosen conversation begins with {reprlib.repr(begin[0])}, the rejected one with "
            f"{reprlib.repr(begin[1])}: no prompt of both; give pairs of answers to one prompt"
        )
    return {
        "prompt": [chosen[:end] for chosen, end in zip(rows["chosen"], split, strict=True)],
        **{name: [each[end:] for each, end in zip(rows[name], split, strict=True)] for name in ANSWERS},
    }


def _common_start(chosen: list, rejected: list) -> int:
    """How many messages both begin with; the last of each is an answer, also where both are equal."""
    longest = min(len(chosen), len(rejected)) - 1
    return next((end for end in range(longest) if chosen[end] != rejected[end]), longest)


def _as_conversations(rows: dict, column: str) -> dict:
    return {column: [[{"role": ROLES[column], "content": text}] for text in rows[column]]}


def _conversation():
    from datasets import List, Value

    return List({"role": Value("string"), "content": Value("string")})


def _replaced(features, column: str, by: dict):
    from datasets import Features

    return Features({name: kind for name, kind in features.items() if name != column} | by)


def joined(recipe: Recipe, section: str, parts: list):
    """The parts one after the other, under types that fit all of them. Raises RecipeError if there are none."""
    import pyarrow
    from datasets import Features, concatenate_datasets

    common = {}
    for column in dict.fromkeys(column for part in parts for column in part.column_names):
        kinds = {index: part.features[column] for index, part in enumerate(parts) if column in part.column_names}
        first, *others = kinds
        if all(kinds[index] == kinds[first] for index in others):
            continue
        fields = {index: pyarrow.schema([_field(column, kind)]) for index, kind in kinds.items()}
        fitting = fields[first]
        for index in others:
            try:
                fitting = pyarrow.unify_schemas([fitting, fields[index]], promote_options="permissive")
            except pyarrow.ArrowException:
                raise RecipeError(
                    f"{recipe.source}: {section}.{index}.columns: {column} is {fields[index].field(column).type}, but "
                    f"{fitting.field(column).type} in {section}.{first}; write one as the other, or map another column"
                ) from None
        common |= Features.from_arrow_schema(fitting)
    return concatenate_datasets(
        [
            part.cast(
                Features(part.features | {column: common[column] for column in common if column in part.features})
            )
            if any(column in part.features and part.features[column] != common[column] for column in common)
            else part
            for part in parts
        ]
    )


def _field(column: str, kind):
    from datasets import Features

    return Features({column: kind}).arrow_schema.field(column)
