"""Rows of every kind of source become the columns that a step trains on."""

import itertools
import json
import random
import subprocess
import sys
from collections import Counter

import pandas as pd
import pyarrow
import pyarrow.parquet
import pytest
from conftest import sums

from open_r1.data import FIRST_CHARACTERS, columns_of, load_data, mixture_counts, mixture_problems
from open_r1.recipe import RecipeError, load_recipe

QUESTION, ANSWER = [{"role": "user", "content": "1+1=?"}], [{"role": "assistant", "content": "2"}]
ROWS = {
    "conversations": {"prompt": QUESTION, "completion": ANSWER},
    "strings": {"prompt": "1+1=?", "completion": "2"},
    "messages": {"messages": [*QUESTION, *ANSWER]},
}


IN_ORDER = {  # trainers that take the rows as they stand
    "sft": {"train_sampling_strategy": "sequential"},
    "grpo": {"shuffle_dataset": False},
}


@pytest.fixture
def load(read):
    def load(step, source, reward_columns=(), **sections):
        return load_data(read(step, source, **sections), reward_columns)

    return load


@pytest.fixture
def read(write_recipe):
    def read(step, source, **sections):
        trainer = {"max_steps": 1} | IN_ORDER.get(step, {})
        sections = {"model": {"name": "a/b"}, "trainer": trainer} | sections
        if step == "grpo":
            sections["rewards"] = ["accuracy"]
        return load_recipe(write_recipe(step=step, data=source, **sections))

    return read


@pytest.fixture
def numbered(tmp_path):
    """Writes a parquet file of questions 0, 1, … with a column `level`, and gives its source."""

    def numbered(name, levels, **source):
        rows = [{"prompt": f"{name} {index}", "level": level} for index, level in enumerate(levels)]
        pd.DataFrame(rows).to_parquet(tmp_path / f"{name}.parquet")
        return {"path": f"{name}.parquet", **source}

    return numbered


def questions(dataset) -> list[str]:
    return [row["prompt"][0]["content"] for row in dataset]


def numbers(dataset, name="a") -> list[int]:
    """Numbers of the rows that come from the source `name`, in the order in which they stand."""
    return [int(text.split()[1]) for text in questions(dataset) if text.split()[0] == name]


def refused(recipe) -> list[str]:
    """What load_data says, without the recipe's name."""
    with pytest.raises(RecipeError) as error:
        load_data(recipe)
    return [line.removeprefix(f"{recipe.source}: ") for line in error.value.lines]


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_rows_become_conversations(rows, suffix, load, tmp_path):
    file = tmp_path / f"rows{suffix}"
    if suffix == ".jsonl":
        file.write_text(json.dumps(ROWS[rows]) + "\n")
    else:
        pd.DataFrame([ROWS[rows]]).to_parquet(file)
    assert load("sft", [{"path": str(file)}]).to_list() == [{"prompt": QUESTION, "completion": ANSWER}]


def test_columns_are_mapped_and_the_rest_is_left_out(load, tmp_path):
    (tmp_path / "rows.jsonl").write_text(json.dumps({"problem": "1+1=?", "answer": "2", "level": 3}) + "\n")
    source = {"path": "rows.jsonl", "columns": {"prompt": "problem", "solution": "answer"}}
    assert load("grpo", [source], ["solution"]).to_list() == [{"prompt": QUESTION, "solution": "2"}]


def test_a_column_that_another_is_mapped_to_gives_way(load, tmp_path):
    row = {"problem": "1+1=?", "solution": "One and one are two.", "answer": "2"}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    source = {"path": "rows.jsonl", "columns": {"prompt": "problem", "solution": "answer"}}
    assert load("grpo", [source], ["solution"]).to_list() == [{"prompt": QUESTION, "solution": "2"}]


def test_columns_may_change_places(load, tmp_path):
    row = {"prompt": "2", "solution": "1+1=?"}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    source = {"path": "rows.jsonl", "columns": {"prompt": "solution", "solution": "prompt"}}
    assert load("grpo", [source], ["solution"]).to_list() == [{"prompt": QUESTION, "solution": "2"}]


def test_a_data_set_that_cannot_be_loaded_is_one_line(load, tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"prompt": "1+1=?"}\n{"prompt": [')
    with pytest.raises(RecipeError, match=r"recipe.yaml: data.0.path: rows.jsonl cannot be loaded \(") as error:
        load("grpo", [{"path": "rows.jsonl"}])
    assert "\n" not in str(error.value)
    with pytest.raises(RecipeError, match=r"recipe.yaml: data.0.name: nobody/nothing cannot be loaded \("):
        load("grpo", [{"name": "nobody/nothing"}])


def test_column_that_nothing_gives_is_told_with_the_file_and_the_key(load, tmp_path):
    (tmp_path / "rows.jsonl").write_text(json.dumps({"prompt": "1+1=?"}) + "\n")
    with pytest.raises(RecipeError, match=r"recipe.yaml: data.0.columns: nothing gives solution; add"):
        load("grpo", [{"path": "rows.jsonl"}], ["solution"])


@pytest.mark.parametrize(
    ("step", "columns"),
    [("pretrain", {"text"}), ("sft", {"prompt", "completion"}), ("grpo", {"prompt"})],
)
def test_procedural_source_gives_what_the_step_needs(step, columns, load):
    sections = {"model": {"architecture": {"model_type": "llama"}}} if step == "pretrain" else {}
    rows = load(step, [sums(8)], **sections)
    assert set(rows.column_names) == columns
    assert len(rows) == 8


def test_fraction_takes_a_share_drawn_with_the_seed(load):
    def prompts(**sections):
        return [row["prompt"][0]["content"] for row in load("sft", [{**sums(40), "fraction": 0.25}], **sections)]

    assert len(prompts()) == 10
    assert prompts() == prompts()
    assert prompts() != prompts(seed=1)


def test_sources_follow_each_other(load):
    together = load("sft", [sums(4), sums(6, seed=1)]).to_list()
    assert together == load("sft", [sums(4)]).to_list() + load("sft", [sums(6, seed=1)]).to_list()


def test_problems_that_there_are_not_are_told(load):
    few = {"family": "basic_arithmetic", "num_problems": 40, "split": "validation"}
    few["parameters"] = {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}
    with pytest.raises(RecipeError, match="data.0.procedural: basic_arithmetic has only .* 40 were asked for"):
        load("grpo", [{"procedural": few}], ["solution"])


def test_a_folder_of_parquet_files_is_one_table_in_the_order_of_their_names(load, tmp_path):
    for name, prompt in (("part-00001", "b"), ("part-00000", "a"), ("part-00002", "c")):
        pd.DataFrame([{"prompt": prompt}]).to_parquet(tmp_path / f"{name}.parquet")
    (tmp_path / "part-00003.parquet.part").write_bytes(b"not finished")
    (tmp_path / ".part-00004.parquet").write_bytes(b"hidden")
    assert questions(load("grpo", [{"path": str(tmp_path)}])) == ["a", "b", "c"]


def test_a_column_that_the_first_file_of_a_folder_has_only_nulls_in_has_the_values_of_the_others(load, tmp_path):
    for name, solution in (("part-0", None), ("part-1", "2")):
        table = pyarrow.table({"prompt": ["1+1=?"], "solution": [solution]})
        pyarrow.parquet.write_table(table, tmp_path / f"{name}.parquet")
    assert load("grpo", [{"path": str(tmp_path)}], ["solution"])["solution"][:] == [None, "2"]


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_a_file_that_was_written_again_is_read_again(suffix, load, tmp_path):
    for prompt in ("a", "b"):
        rows = pd.DataFrame([{"prompt": prompt}])
        rows.to_parquet(tmp_path / "rows.parquet")
        rows.to_json(tmp_path / "rows.jsonl", orient="records", lines=True)
        assert questions(load("grpo", [{"path": f"rows{suffix}"}])) == [prompt]


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_a_path_is_no_pattern(suffix, load, tmp_path):
    folder = tmp_path / "runs [1] *"
    folder.mkdir()
    pd.DataFrame([{"prompt": "a"}]).to_parquet(folder / "rows.parquet")
    (folder / "rows.jsonl").write_text('{"prompt": "a"}\n')
    assert questions(load("grpo", [{"path": f"{folder}/rows{suffix}"}])) == ["a"]


def test_files_of_a_folder_that_do_not_fit_together_are_told(read, tmp_path):
    for name, prompt in (("part-0", "1+1=?"), ("part-1", 3)):
        pd.DataFrame([{"prompt": prompt}]).to_parquet(tmp_path / f"{name}.parquet")
    (line,) = refused(read("grpo", [{"path": str(tmp_path)}]))
    assert line.startswith("data.0.path: part-1.parquet does not fit the files before it (")


def make_empty(path):
    path.mkdir()


def make_run(path):
    (path / "kept").mkdir(parents=True)
    pd.DataFrame([{"prompt": "1+1=?"}]).to_parquet(path / "kept" / "part-0.parquet")


def make_file_without_rows(path):
    path.mkdir()
    pyarrow.parquet.write_table(pyarrow.table({"prompt": pyarrow.array([], "string")}), path / "part-0.parquet")


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda path: None, "data.0.path: no such file or folder: "),
        (make_empty, "name the folder that holds them"),
        (make_run, "/rows has no .parquet files; is "),
        (make_file_without_rows, "data.0.path: rows cannot be loaded (it has no rows)"),
    ],
)
def test_a_folder_that_gives_no_rows_is_told(make, told, read, tmp_path):
    make(tmp_path / "rows")
    (line,) = refused(read("grpo", [{"path": "rows"}]))
    assert told in line


def test_columns_of_a_folder_are_those_of_its_first_file(read, tmp_path):
    make_run(tmp_path)
    recipe = read("grpo", [{"path": "kept"}])
    assert columns_of(recipe, recipe.data[0]) == {"prompt"}


def test_columns_of_what_a_stage_will_make_are_not_known(read):
    recipe = read("grpo", [{"path": "stage:traces"}])
    assert columns_of(recipe, recipe.data[0]) is None


@pytest.mark.parametrize(
    "text",
    [
        '[{"prompt": "1+1=?", "level": 1}, {"prompt": ',
        '\n [\n  {"prompt": "1+1=?",\n "level": 1}',
        '{"prompt": "1+1=?", "level": 1}',
        '{"prompt": "1+1=?", "level": 1}\n{"prompt": "2+2=?", "level": 1}',
        '[{"prompt": "' + "é" * 3 * FIRST_CHARACTERS + '", "level": 1}, {',
    ],
    ids=["list", "over lines", "one", "lines", "longer than what is read at once"],
)
def test_columns_of_a_json_file_are_read_from_its_first_row(text, read, tmp_path):
    (tmp_path / "rows.json").write_text(text, encoding="utf-8")
    recipe = read("grpo", [{"path": "rows.json"}])
    assert columns_of(recipe, recipe.data[0]) == {"prompt", "level"}


@pytest.mark.parametrize(("name", "text"), [("rows.jsonl", ""), ("rows.csv", "prompt,level\n"), ("rows.json", "[]")])
def test_a_file_without_rows_is_told(name, text, read, tmp_path):
    (tmp_path / name).write_text(text)
    (line,) = refused(read("grpo", [{"path": name}]))
    assert line == f"data.0.path: {name} cannot be loaded (it has no rows)"


@pytest.mark.parametrize(("name", "text"), [("a.json", "[]"), ("a.json", ""), ("a.jsonl", ""), ("a.csv", "")])
def test_columns_of_a_file_without_rows_are_told_to_be_unreadable(name, text, read, tmp_path):
    (tmp_path / name).write_text(text)
    recipe = read("grpo", [{"path": name}])
    with pytest.raises(RecipeError, match=f"path: .*{name} cannot be read"):
        columns_of(recipe, recipe.data[0])


@pytest.mark.parametrize(
    ("levels", "bounds", "within"),
    [
        ([0.1, 0.09, 0.5, 0.9, 0.91], [0.1, 0.9], [0, 2, 3]),
        ([1, 2, 3], [2, 3], [1, 2]),
        ([1.0, None, float("nan")], [0, 2], [0]),
        (pd.array([1, None, 2], dtype="Int64"), [0, 9], [0, 2]),
        (pd.array([0.7, 0.8], dtype="float32"), [0.7, 0.7], [0]),  # in 32 bits 0.7 is less than in 64
        ([True, False, None], [1, 1], [0]),
    ],
    ids=["ends included", "integers", "nan", "null", "32 bits", "true and false"],
)
def test_where_takes_the_rows_within_its_bounds(levels, bounds, within, load, numbered, tmp_path):
    source = numbered("a", range(len(levels)))
    rows = pd.read_parquet(tmp_path / "a.parquet").assign(level=pd.Series(levels))
    rows.to_parquet(tmp_path / "a.parquet")
    assert numbers(load("grpo", [{**source, "where": {"level": bounds}}])) == within


def test_every_column_of_where_counts_under_the_name_that_it_is_mapped_to(load, numbered):
    source = numbered("a", [1, 2, 3, 4], columns={"pass_rate": "level"})
    assert numbers(load("grpo", [{**source, "where": {"pass_rate": [2, 3]}}])) == [1, 2]


def test_a_row_has_to_be_within_the_bounds_of_each_column(load, numbered, tmp_path):
    source = numbered("a", [1, 2, 3, 4])
    pd.read_parquet(tmp_path / "a.parquet").assign(length=[9, 9, 7, 7]).to_parquet(tmp_path / "a.parquet")
    assert numbers(load("grpo", [{**source, "where": {"level": [2, 4], "length": [9, 9]}}])) == [1]


def test_where_that_leaves_nothing_tells_the_bounds_and_how_many_rows_there_were(read, numbered):
    (line,) = refused(read("grpo", [numbered("a", [1, 2], where={"level": [7, 8]})]))
    assert line == "data.0.where: none of 2 rows has level [7.0, 8.0]; widen the bounds"


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ({"where": {"rate": [0, 1]}}, "data.0.where: no column rate; there are level, prompt"),
        ({"sort_by": "-rate"}, "data.0.sort_by: no column rate; there are level, prompt"),
        ({"where": {"prompt": [0, 1]}}, "data.0.where.prompt: its values are "),
        ({"where": {"level": [1]}}, "data.0.where.level: [1.0] are no bounds; write [lowest, highest]"),
        ({"where": {"level": [2, 1]}}, "data.0.where.level: [2.0, 1.0] are no bounds"),
    ],
)
def test_where_and_sort_by_that_cannot_be_are_told(source, told, read, numbered):
    (line,) = refused(read("grpo", [numbered("a", [1, 2], **source)]))
    assert line.startswith(told)


def test_a_column_of_the_hub_or_of_a_family_that_there_is_not_is_told(read):
    (line,) = refused(read("sft", [{**sums(4), "sort_by": "level"}]))
    assert line == "data.0.sort_by: no column level; there are completion, prompt, solution, text"


@pytest.mark.parametrize("reverse", [False, True])
def test_sort_by_keeps_equals_as_they_stood_and_puts_those_without_a_value_last(reverse, load, numbered):
    levels = random.Random(0).choices([1, 2, 3, None], k=200)
    given = [row for row in range(200) if levels[row] is not None]
    expected = sorted(given, key=lambda row: levels[row], reverse=reverse)
    expected += [row for row in range(200) if levels[row] is None]
    source = numbered("a", pd.array(levels, dtype="Int64"), sort_by="-level" if reverse else "level")
    assert numbers(load("grpo", [source])) == expected


def test_sort_by_lists_is_told(read, numbered):
    (line,) = refused(read("grpo", [numbered("a", [[1], [2]], sort_by="level")]))
    assert line == "data.0.sort_by: list<item: int64> has no order; name a column of numbers or of text"


def test_rows_are_chosen_then_thinned_then_sorted(load, numbered):
    levels = random.Random(0).sample(range(100), 100)
    chosen = numbers(load("grpo", [numbered("a", levels, where={"level": [0, 49]}, fraction=0.5, sort_by="level")]))
    assert len(chosen) == 25
    assert [levels[row] for row in chosen] == sorted(levels[row] for row in chosen)
    assert max(levels[row] for row in chosen) <= 49


def test_a_fraction_is_drawn_and_not_cut_off(load, numbered):
    source = numbered("a", range(40), fraction=0.25)
    assert len(set(numbers(load("grpo", [source])))) == 10
    assert sorted(numbers(load("grpo", [source]))) != sorted(numbers(load("grpo", [source], seed=1)))


@pytest.mark.parametrize(
    ("weights", "num_rows", "counts"),
    [
        ([3, 1], 100, [75, 25]),
        ([1, 1, 1], 100, [34, 33, 33]),
        ([0.35, 0.15, 0.5], 10, [4, 1, 5]),  # 3.5 and 1.5: the first, though 0.35 is a little less in binary
        ([0.7, 0.2, 0.1], 1000, [700, 200, 100]),
        ([1, 1000], 10, [0, 10]),
        ([1e-05, 3e-05], 8, [2, 6]),
        ([2], 7, [7]),
    ],
)
def test_counts_of_a_mixture_are_rounded_by_largest_remainder(weights, num_rows, counts):
    assert mixture_counts(weights, num_rows) == counts


def mix(numbered, *sources, num_rows=40, **mixture):
    """Sources of `data` with their weights, and the mixture: {name: (rows, weight)} as they are named."""
    data = [numbered(name, range(rows), weight=weight, **more) for name, rows, weight, more in sources]
    return {"source": data, "mixture": {"num_rows": num_rows, **mixture}}


def test_a_mixture_has_different_rows_of_each_source_in_its_share(load, numbered):
    rows = load("grpo", **mix(numbered, ("a", 100, 3.0, {}), ("b", 100, 1.0, {})))
    assert (len(rows), len(set(numbers(rows, "a"))), len(set(numbers(rows, "b")))) == (40, 30, 10)


def test_sources_of_a_mixture_take_turns(load, numbered):
    rows = questions(load("grpo", **mix(numbered, ("a", 100, 1.0, {}), ("b", 100, 1.0, {}))))
    assert 10 < sum(one[0] != following[0] for one, following in itertools.pairwise(rows)) < 30


def test_the_seed_decides_a_mixture(load, numbered):
    def rows(**sections):
        return questions(load("grpo", **mix(numbered, ("a", 100, 1.0, {}), ("b", 100, 1.0, {})), **sections))

    assert rows() == rows()
    assert sorted(rows()) != sorted(rows(seed=1))


def test_turns_depend_on_the_seed_even_where_all_rows_are_taken(load, numbered):
    def sources(seed):
        mixture = mix(numbered, ("a", 20, 1.0, {"sort_by": "level"}), ("b", 20, 1.0, {"sort_by": "level"}))
        return [text[0] for text in questions(load("grpo", **mixture, seed=seed))]

    assert sources(0) != sources(1)


def test_another_source_does_not_change_what_is_drawn_from_the_others(load, numbered):
    a, b = ("a", 100, 1.0, {}), ("b", 80, 1.0, {})
    two = load("grpo", **mix(numbered, a, b, num_rows=40))
    three = load("grpo", **mix(numbered, ("c", 90, 2.0, {}), a, b, num_rows=80))
    for name in "ab":
        assert numbers(two, name) == numbers(three, name)


def test_a_sorted_source_stays_sorted_in_a_mixture(load, numbered):
    rows = load("grpo", **mix(numbered, ("a", 100, 1.0, {"sort_by": "-level"}), ("b", 100, 1.0, {})))
    assert numbers(rows, "a") == sorted(numbers(rows, "a"), reverse=True)
    assert numbers(rows, "b") != sorted(numbers(rows, "b"))


def test_a_source_with_fewer_rows_than_its_share_is_told(read, numbered):
    (line,) = refused(read("grpo", **mix(numbered, ("a", 100, 1.0, {}), ("b", 19, 1.0, {}))))
    assert line == (
        "data.1.weight: its share of mixture.num_rows 40 is 20 rows, and it has 19; "
        "lower mixture.num_rows to 38, or set mixture.repeat: true"
    )


@pytest.mark.parametrize("sort_by", [None, "level"])
def test_repeated_rows_are_given_evenly_often(sort_by, load, numbered):
    rows = load("grpo", **mix(numbered, ("a", 100, 1.0, {}), ("b", 7, 1.0, {"sort_by": sort_by}), repeat=True))
    times = Counter(numbers(rows, "b"))
    assert sorted(times.values()) == [2, 3, 3, 3, 3, 3, 3]
    assert (numbers(rows, "b") == sorted(times.elements())) == bool(sort_by)


def test_a_mixture_may_have_one_source(load, numbered):
    assert len(load("grpo", **mix(numbered, ("a", 100, 1.0, {})))) == 40


def test_only_data_is_mixed(read, numbered):
    held_out = {"eval_data": [numbered("h", range(5))]}
    trainer = {"trainer": {"max_steps": 1, "eval_strategy": "steps"}}
    recipe = read("grpo", **mix(numbered, ("a", 100, 1.0, {})), **held_out, **trainer)
    assert len(load_data(recipe, section="eval_data")) == 5


WEIGHTED = {**sums(8), "weight": 1.0}
SORTED = {**sums(8), "sort_by": "solution"}
GRPO_EVALUATES = {"trainer": {"max_steps": 1, "eval_strategy": "steps"}}


@pytest.mark.parametrize(
    ("step", "source", "sections", "told"),
    [
        ("sft", [WEIGHTED, sums(8)], {"mixture": {"num_rows": 4}}, "data.1.weight: missing; mixture needs one for"),
        ("sft", [WEIGHTED], {}, "data.0.weight: only a mixture of data uses it; add mixture"),
        ("sft", [{**sums(8), "weight": float("inf")}], {"mixture": {"num_rows": 4}}, "data.0.weight: inf is not a"),
        (
            "sft",
            [{**WEIGHTED, "weight": 0.1}, {**WEIGHTED, "weight": 9.0}],
            {"mixture": {"num_rows": 4}},
            "data.0.weight: its share of mixture.num_rows 4 is less than a row; raise",
        ),
        (
            "sft",
            [WEIGHTED],
            {"mixture": {"num_rows": 9}},
            "data.0.weight: its share of mixture.num_rows 9 is 9 rows, and",
        ),
        ("sft", [WEIGHTED], {"mixture": {"num_rows": 9, "repeat": True}}, None),
        ("sft", [WEIGHTED], {"mixture": {"num_rows": 8}}, None),
        (
            "grpo",
            [sums(8)],
            {"eval_data": [{**sums(8, split="test"), "weight": 1.0}], **GRPO_EVALUATES},
            "eval_data.0.weight: only a mixture of data uses it; remove it",
        ),
        (
            "grpo",
            [sums(8)],
            {"eval_data": [{**SORTED}], **GRPO_EVALUATES},
            "eval_data.0.sort_by: evaluation does not keep an order; remove it",
        ),
        ("grpo", [SORTED], {}, None),
        (
            "grpo",
            [SORTED],
            {"trainer": {"max_steps": 1}},
            "data.0.sort_by: the trainer shuffles the rows; set trainer.sh",
        ),
        ("sft", [SORTED], {}, None),
        (
            "sft",
            [SORTED],
            {"trainer": {"max_steps": 1}},
            "data.0.sort_by: the trainer's order is random; set trainer.tr",
        ),
        (
            "sft",
            [SORTED],
            {"trainer": {**IN_ORDER["sft"], "packing": True}},
            "data.0.sort_by: packing puts the rows together by length; set trainer.packing: false",
        ),
        ("sft", [SORTED], {"trainer": {**IN_ORDER["sft"], "packing": True, "packing_strategy": "wrapped"}}, None),
        (
            "sft",
            [SORTED],
            {"trainer": {**IN_ORDER["sft"], "shuffle_dataset": True}},
            "data.0.sort_by: the trainer shuf",
        ),
        ("dpo", [SORTED], {}, "data.0.sort_by: the trainer's order is random; set trainer.tr"),
        ("dpo", [SORTED], {"trainer": IN_ORDER["sft"]}, None),
        ("reward_model", [SORTED], {"trainer": IN_ORDER["sft"], "eval_data": [sums(8, split="test")]}, None),
        ("sft", [{**sums(8), "where": {"level": [0, 1]}}], {}, "data.0.where: no column level; there are completion"),
        ("sft", [{"path": "missing.jsonl", "where": {"level": [0, 1]}}], {}, None),  # told by columns_of
    ],
)
def test_problems_of_a_mixture(step, source, sections, told, read):
    problems = list(mixture_problems(read(step, source, **sections)))
    assert len(problems) == bool(told)
    assert not told or problems[0].startswith(told)


def test_a_mixture_of_nothing_is_told(write_recipe):
    sections = {"step": "evaluate", "model": {"name": "a/b"}, "evaluate": {"benchmarks": ["math_500"]}}
    recipe = load_recipe(write_recipe(**sections, mixture={"num_rows": 4}))
    assert list(mixture_problems(recipe)) == ["mixture: step evaluate has no data to mix; remove it"]


def kept_traces(folder, num_rows):
    """Rows as a run that samples leaves them, in two files; a message's parts stand in an order of their own."""
    folder.mkdir()
    rows = [
        {
            "id": f"{number}-0",
            "prompt": [{"content": f"kept {number}", "role": "user"}],
            "completion": [{"content": "<think></think>2", "role": "assistant"}],
            "solution": None,
            "num_tokens": 5,
            "model": "a/teacher",
        }
        for number in range(num_rows)
    ]
    message = pyarrow.list_(pyarrow.struct([("content", "string"), ("role", "string")]))
    kinds = {"id": "string", "prompt": message, "completion": message, "solution": "string"}
    schema = pyarrow.schema(list({**kinds, "num_tokens": pyarrow.int32(), "model": pyarrow.large_string()}.items()))
    for index in range(2):
        table = pyarrow.Table.from_pylist(rows[index::2], schema=schema)
        pyarrow.parquet.write_table(table, folder / f"part-{index:05}.parquet")


def test_kept_traces_are_fine_tuned_on_without_a_column_map(load, tmp_path):
    kept_traces(tmp_path / "kept", 4)
    rows = load("sft", [{"path": "kept"}])
    assert rows.column_names == ["prompt", "completion"]
    assert questions(rows) == ["kept 0", "kept 2", "kept 1", "kept 3"]
    assert rows[0]["completion"] == [{"role": "assistant", "content": "<think></think>2"}]


def test_kept_traces_are_mixed_with_procedural_rows(load, tmp_path):
    kept_traces(tmp_path / "kept", 20)
    data = [{"path": "kept", "weight": 3.0}, {**sums(10), "weight": 1.0}]
    rows = load("sft", data, mixture={"num_rows": 20})
    kept = [row for row in rows if row["prompt"][0]["content"].startswith("kept")]
    made = [row for row in rows if row not in kept]
    assert (len(kept), len(made)) == (15, 5)
    assert kept[0]["completion"] == [{"role": "assistant", "content": "<think></think>2"}]
    assert {message["role"] for row in made for message in row["completion"]} == {"assistant"}


def test_kept_traces_are_not_the_messages_that_they_were_asked_for(load, tmp_path):
    row = {"prompt": QUESTION, "completion": ANSWER, "messages": [*QUESTION, {"role": "assistant", "content": "3"}]}
    pd.DataFrame([row]).to_parquet(tmp_path / "kept.parquet")
    assert load("sft", [{"path": "kept.parquet"}]).to_list() == [{"prompt": QUESTION, "completion": ANSWER}]


def test_messages_that_the_recipe_names_are_split(load, tmp_path):
    row = {"prompt": "unused", "completion": "unused", "chosen": [*QUESTION, *ANSWER]}
    pd.DataFrame([row]).to_parquet(tmp_path / "rows.parquet")
    source = {"path": "rows.parquet", "columns": {"messages": "chosen"}}
    assert load("sft", [source]).to_list() == [{"prompt": QUESTION, "completion": ANSWER}]


def test_messages_of_one_turn_have_no_prompt(load, tmp_path):
    rows = [{"messages": ANSWER}] * 1500 + [{"messages": [*QUESTION, *ANSWER]}]
    pd.DataFrame(rows).to_parquet(tmp_path / "rows.parquet")
    rows = load("sft", [{"path": "rows.parquet"}])
    assert (rows[0]["prompt"], rows[1500]["prompt"]) == ([], QUESTION)


def test_a_prompt_is_taken_from_messages(load, tmp_path):
    pd.DataFrame([{"messages": [*QUESTION, *ANSWER]}]).to_parquet(tmp_path / "rows.parquet")
    assert load("grpo", [{"path": "rows.parquet"}]).to_list() == [{"prompt": QUESTION}]


def test_sources_are_joined_under_types_that_fit_all(load, tmp_path):
    tables = [
        {"prompt": pyarrow.array(["a"]), "level": pyarrow.array([1], "int32"), "solution": pyarrow.array(["1"])},
        {"prompt": pyarrow.array(["b"], "large_string"), "level": pyarrow.array([0.5]), "solution": pyarrow.nulls(1)},
        {"prompt": pyarrow.array(["c"]), "level": pyarrow.nulls(1), "solution": pyarrow.array(["3"], "large_string")},
    ]
    for index, table in enumerate(tables):
        pyarrow.parquet.write_table(pyarrow.table(table), tmp_path / f"{index}.parquet")
    rows = load("grpo", [{"path": f"{index}.parquet"} for index in range(3)], ["level", "solution"])
    assert questions(rows) == ["a", "b", "c"]
    assert (rows["level"][:], rows["solution"][:]) == ([1.0, 0.5, None], ["1", None, "3"])


def test_sources_of_types_that_do_not_fit_are_told(load, tmp_path):
    for index, solution in enumerate(["2", 2]):
        pd.DataFrame([{"prompt": "1+1=?", "solution": solution}]).to_parquet(tmp_path / f"{index}.parquet")
    with pytest.raises(
        RecipeError, match=r"data.1.columns: solution is int64, but \w+ in data.0; write one as the other"
    ):
        load("grpo", [{"path": "0.parquet"}, {"path": "1.parquet"}], ["solution"])


def test_a_message_with_more_parts_than_those_of_others_keeps_them(load, tmp_path):
    called = [{"role": "user", "content": "1+1=?", "name": "Ada"}]
    pd.DataFrame([{"prompt": called, "completion": ANSWER}]).to_parquet(tmp_path / "named.parquet")
    named, made = load("sft", [{"path": "named.parquet"}, sums(1)])
    assert (named["prompt"], made["prompt"][0]["name"]) == (called, None)


def test_a_column_that_is_mapped_to_nothing_is_told(read, tmp_path):
    pd.DataFrame([{"prompt": "1+1=?"}]).to_parquet(tmp_path / "rows.parquet")
    (line,) = refused(read("grpo", [{"path": "rows.parquet", "columns": {"prompt": "question"}}]))
    assert line == "data.0.columns: no column question; there are prompt"


def test_prompts_to_be_answered_keep_the_other_columns_of_the_data(read, tmp_path):
    row = {"problem": "1+1=?", "answer": "2", "level": 3, "messages": [*QUESTION, *ANSWER], "completion": "2"}
    pd.DataFrame([row]).to_parquet(tmp_path / "rows.parquet")
    mapped = {"path": "rows.parquet", "columns": {"prompt": "problem", "solution": "answer"}}
    recipe = read("grpo", [mapped, sums(1)]).model_copy(update={"step": "generate"})
    given, made = load_data(recipe, ["solution"])
    assert given == {"prompt": QUESTION, "solution": "2", "level": 3}
    assert (sorted(made), made["level"]) == (["level", "prompt", "solution"], None)


# --- Pairs

BETTER, WORSE = ANSWER, [{"role": "assistant", "content": "3"}]
SYSTEM = [{"role": "system", "content": "Be short."}]
MORE = [*BETTER, {"role": "user", "content": "And 2+2?"}, {"role": "assistant", "content": "4"}]
PAIR = {"prompt": QUESTION, "chosen": BETTER, "rejected": WORSE}
PAIRS = {  # a row, and what the step is given of it
    "whole conversations": ({"chosen": [*QUESTION, *BETTER], "rejected": [*QUESTION, *WORSE]}, PAIR),
    "whole conversations beside their prompt": (
        {"prompt": "1+1=?", "chosen": [*QUESTION, *BETTER], "rejected": [*QUESTION, *WORSE]},
        PAIR,
    ),
    "whole conversations with a system's turn": (
        {"prompt": "1+1=?", "chosen": [*SYSTEM, *QUESTION, *BETTER], "rejected": [*SYSTEM, *QUESTION, *WORSE]},
        {**PAIR, "prompt": [*SYSTEM, *QUESTION]},
    ),
    "answers": (PAIR, PAIR),
    "answers to a text": ({**PAIR, "prompt": "1+1=?"}, PAIR),
    "texts": ({"prompt": "1+1=?", "chosen": "2", "rejected": "3"}, PAIR),
    "texts that answer a conversation": ({"prompt": QUESTION, "chosen": "2", "rejected": "3"}, PAIR),
    "one goes on for longer": (
        {"chosen": [*QUESTION, *MORE], "rejected": [*QUESTION, *WORSE]},
        {**PAIR, "chosen": MORE},
    ),
    "one is the beginning of the other": (
        {"chosen": [*QUESTION, *BETTER], "rejected": [*QUESTION, *MORE]},
        {**PAIR, "rejected": MORE},
    ),
    "they part late": (
        {"chosen": [*QUESTION, *MORE], "rejected": [*QUESTION, *MORE[:-1], *WORSE]},
        {"prompt": [*QUESTION, *MORE[:-1]], "chosen": MORE[-1:], "rejected": WORSE},
    ),
}
EVALUATED = {"eval_data": [sums(4, split="validation")]}


@pytest.mark.parametrize("case", PAIRS)
@pytest.mark.parametrize("step", ["dpo", "reward_model"])
@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_pairs_become_a_prompt_and_two_answers(case, step, suffix, load, tmp_path):
    row, expected = PAIRS[case]
    rows = pd.DataFrame([{**row, "score_chosen": 9.0}])
    rows.to_json(tmp_path / "pairs.jsonl", orient="records", lines=True)
    rows.to_parquet(tmp_path / "pairs.parquet")
    evaluated = EVALUATED if step == "reward_model" else {}
    assert load(step, [{"path": f"pairs{suffix}"}], **evaluated).to_list() == [expected]


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"chosen": "1+1=? 2", "rejected": "1+1=? 3"}, "nothing gives prompt; add `prompt: <one of chosen, rejected>`"),
        ({"chosen": BETTER, "rejected": WORSE}, "nothing gives prompt; add `prompt: <one of chosen, rejected>`"),
        ({"prompt": QUESTION, "chosen": BETTER}, "nothing gives rejected; add `rejected: <one of prompt, chosen>`"),
        ({"prompt": QUESTION, "completion": BETTER}, "nothing gives chosen; add `chosen: <one of prompt, completion>`"),
    ],
    ids=["texts with the question", "answers to nothing", "one answer", "no pair"],
)
def test_column_that_pairs_lack_is_told(row, told, read, tmp_path):
    (tmp_path / "pairs.jsonl").write_text(json.dumps(row) + "\n")
    (line,) = refused(read("dpo", [{"path": "pairs.jsonl"}]))
    assert line == f"data.0.columns: {told}"


@pytest.mark.parametrize("step", ["dpo", "reward_model"])
@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({**PAIR, "rejected": None}, "nothing in rejected"),
        ({**PAIR, "prompt": None}, "nothing in prompt"),
        ({**PAIR, "chosen": [{"role": "assistant", "content": None}]}, "a message without content in chosen"),
        ({**PAIR, "chosen": [None]}, "a message without content in chosen"),
        ({**PAIR, "prompt": "1+1=?", "chosen": None, "rejected": "3"}, "nothing in chosen"),
    ],
    ids=["answer", "prompt", "content", "message", "text"],
)
def test_pairs_with_nothing_in_them_are_told(row, told, step, read, tmp_path):
    good = {key: "2" if isinstance(row["prompt"], str) else value for key, value in PAIR.items()}
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(each) + "\n" for each in [good] * 100 + [row]))
    (line,) = refused(read(step, [{"path": "pairs.jsonl"}], **(EVALUATED if step == "reward_model" else {})))
    assert line == f"data.0: row 100 has {told}; fill it, or remove the row"


def test_one_pair_of_one_answer_twice_is_a_pair(load, tmp_path):
    rows = [{"chosen": [*QUESTION, *BETTER], "rejected": [*QUESTION, *other]} for other in (BETTER, WORSE)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert load("dpo", [{"path": "pairs.jsonl"}]).to_list() == [{**PAIR, "rejected": BETTER}, PAIR]


@pytest.mark.parametrize("step", ["dpo", "reward_model"])
def test_pairs_of_one_answer_twice_are_told(step, read, tmp_path):
    row = {**PAIR, "rejected": PAIR["chosen"]}
    (tmp_path / "pairs.jsonl").write_text((json.dumps(row) + "\n") * 3)
    (line,) = refused(read(step, [{"path": "pairs.jsonl"}], **(EVALUATED if step == "reward_model" else {})))
    assert line == "data.0: chosen and rejected are the same in all 3 rows; see its columns"


def test_conversations_that_begin_differently_are_told(read, tmp_path):
    row = {"chosen": [*QUESTION, *BETTER], "rejected": [{"role": "user", "content": "1+2=?"}, *WORSE]}
    good = {"chosen": [*QUESTION, *BETTER], "rejected": [*QUESTION, *WORSE]}
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(each) + "\n" for each in (good, row)))
    (line,) = refused(read("dpo", [{"path": "pairs.jsonl"}]))
    assert line.startswith("data.0: a chosen conversation begins with [{")
    assert line.endswith("no prompt of both; give pairs of answers to one prompt")


def test_pairs_of_two_kinds_of_sources_are_joined(load, tmp_path):
    for case in ("texts", "whole conversations"):
        (tmp_path / f"{case}.jsonl").write_text(json.dumps(PAIRS[case][0]) + "\n")
    rows = load("dpo", [{"path": "texts.jsonl"}, {"path": "whole conversations.jsonl"}])
    assert rows.to_list() == [PAIR, PAIR]


def test_columns_of_pairs_are_mapped(load, tmp_path):
    row = {"question": "1+1=?", "good": "2", "bad": "3", "prompt": "another"}
    (tmp_path / "pairs.jsonl").write_text(json.dumps(row) + "\n")
    columns = {"prompt": "question", "chosen": "good", "rejected": "bad"}
    assert load("dpo", [{"path": "pairs.jsonl", "columns": columns}]).to_list() == [PAIR]


# --- Parts


@pytest.mark.parametrize("num_rows", [1, 2, 3, 7, 10, 99])
@pytest.mark.parametrize("cuts", [(0.9,), (0.1, 0.5), (0.05, 0.1, 0.15), (1 / 3, 2 / 3)])
def test_parts_are_apart_and_together_all(cuts, num_rows, load, numbered):
    taken = []
    for start, end in itertools.pairwise([0, *cuts, 1]):
        if round(start * num_rows) < round(end * num_rows):
            taken += numbers(load("grpo", [numbered("a", range(num_rows), part=[start, end])]))
    assert sorted(taken) == list(range(num_rows))


def test_a_part_is_drawn_with_the_seed_and_not_cut_off(load, numbered):
    def part(**sections):
        return numbers(load("grpo", [numbered("a", range(40), part=[0, 0.5])], **sections))

    assert part() == part()
    assert sorted(part()) != sorted(part(seed=1))
    assert sorted(part()) != list(range(20))


def test_a_part_is_of_the_rows_that_where_leaves(load, numbered):
    sources = [numbered("a", range(40), where={"level": [10, 29]}, part=part) for part in ([0, 0.75], [0.75, 1])]
    first, second = (numbers(load("grpo", [source])) for source in sources)
    assert (len(first), len(second)) == (15, 5)
    assert sorted(first + second) == list(range(10, 30))


def test_a_part_is_put_in_order(load, numbered):
    rows = numbers(load("grpo", [numbered("a", range(40), part=[0.5, 1], sort_by="-level")]))
    assert rows == sorted(rows, reverse=True)
    assert len(rows) == 20


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ({"part": [0.5]}, "data.0.part: [0.5] is no part; write [from, to], shares from 0 to 1, e.g. [0.9, 1]"),
        ({"part": [0, 0.5, 1]}, "data.0.part: [0.0, 0.5, 1.0] is no part"),
        ({"part": []}, "data.0.part: [] is no part"),
        ({"part": [0.5, 0.5]}, "data.0.part: [0.5, 0.5] is no part"),
        ({"part": [0.9, 0.1]}, "data.0.part: [0.9, 0.1] is no part"),
        ({"part": [-0.1, 1]}, "data.0.part: [-0.1, 1.0] is no part"),
        ({"part": [0, 1.1]}, "data.0.part: [0.0, 1.1] is no part"),
        ({"part": [0, float("nan")]}, "data.0.part: [0.0, nan] is no part"),
        ({"part": [0, 0.5], "fraction": 0.5}, "data.0.fraction: part says which rows already; remove one"),
        ({"part": [0.99, 1]}, "data.0.part: [0.99, 1.0] of 4 rows is none; widen it"),
        ({"part": [0, 0.1]}, "data.0.part: [0.0, 0.1] of 4 rows is none; widen it"),  # [0.1, 1] has all of them
    ],
)
def test_part_that_cannot_be_is_told(source, told, read, numbered):
    (line,) = refused(read("grpo", [numbered("a", range(4), **source)]))
    assert line.startswith(told)


PEAK = """
import sys, threading, time
from pathlib import Path
import datasets
from open_r1.data import load_data
from open_r1.recipe import load_recipe

def own_memory():
    status = Path("/proc/self/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0]) // 1024

def watch():
    while True:
        peak[0] = max(peak[0], own_memory())
        time.sleep(0.005)

datasets.disable_progress_bars()
peak = [0]
threading.Thread(target=watch, daemon=True).start()
num_rows = sum(1 for row in load_data(load_recipe(sys.argv[1]), ["solution"]))
print(num_rows, peak[0])
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_does_not_grow_with_the_data(read, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))

    def peak_megabytes(num_rows):
        row = {"prompt": "1+1=? " * 500, "solution": "2"}  # 3 kB
        rows = pyarrow.table({key: [value] * num_rows for key, value in row.items()} | {"level": range(num_rows)})
        pyarrow.parquet.write_table(rows, tmp_path / "rows.parquet", row_group_size=num_rows)
        source = {"path": "rows.parquet", "where": {"level": [0, 0.9 * num_rows]}, "sort_by": "-level", "weight": 1.0}
        recipe = read("grpo", [source], mixture={"num_rows": num_rows // 2})
        command = [sys.executable, "-c", PEAK, str(recipe.source)]
        given, peak = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        assert int(given) == num_rows // 2
        return int(peak)

    assert peak_megabytes(100_000) < peak_megabytes(1000) + 100  # of 300 MB
