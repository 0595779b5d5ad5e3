"""Rows of every kind of source become the columns that a step trains on."""

import json

import pandas as pd
import pytest
from conftest import sums

from open_r1.data import load_data
from open_r1.recipe import RecipeError, load_recipe

QUESTION, ANSWER = [{"role": "user", "content": "1+1=?"}], [{"role": "assistant", "content": "2"}]
ROWS = {
    "conversations": {"prompt": QUESTION, "completion": ANSWER},
    "strings": {"prompt": "1+1=?", "completion": "2"},
    "messages": {"messages": [*QUESTION, *ANSWER]},
}


@pytest.fixture
def load(write_recipe):
    def load(step, source, reward_columns=(), **sections):
        sections = {"model": {"name": "a/b"}, "trainer": {"max_steps": 1}} | sections
        if step == "grpo":
            sections["rewards"] = ["accuracy"]
        return load_data(load_recipe(write_recipe(step=step, data=source, **sections)), reward_columns)

    return load


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
