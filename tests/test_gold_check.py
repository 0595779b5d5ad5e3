"""Golds are passed back through the reward before anything is trained on them; `why` explains a verdict."""

import json

import pandas as pd
import pytest
from conftest import CPU_TRAINER, TINY

from open_r1 import gold_check, why
from open_r1.gold_check import check_golds, require_verified_golds
from open_r1.recipe import RecipeError, load_recipe

TRAINER = {**CPU_TRAINER, "num_generations": 4, "per_device_train_batch_size": 4}
GOOD, BAD = [r"\frac{1}{2}", "(1,2)", r"\text{Yes}", "x^2"], [r"\frac{1}{", ""]


@pytest.fixture
def recipe_with(write_recipe, smallest_model):
    """A GRPO recipe over a file of golds."""

    def recipe_with(golds, **sections):
        file = write_recipe(
            step="grpo",
            model={"name": str(smallest_model)},
            data=[{"path": "golds.jsonl"}],
            **({"rewards": ["accuracy"], "trainer": TRAINER} | sections),
        )
        rows = [json.dumps({"prompt": "?", "solution": gold}) for gold in golds]
        (file.parent / "golds.jsonl").write_text("\n".join(rows) + "\n")
        return file

    return recipe_with


@pytest.mark.parametrize("answer_in", ["both", "boxed", "answer"])
def test_good_golds_are_all_accepted(answer_in, recipe_with):
    recipe = load_recipe(recipe_with(GOOD, rewards=[{"name": "accuracy", "answer_in": answer_in}]))
    assert check_golds(recipe, GOOD).failures == ()


def test_a_prefilled_thinking_is_closed(recipe_with):
    recipe = load_recipe(recipe_with(GOOD, thinking={"open": "[T]", "close": "[/T]", "prefilled": True}))
    assert check_golds(recipe, GOOD).verified_share == 1.0


def test_bad_golds_are_named_with_their_row_and_reason(recipe_with):
    checked = check_golds(load_recipe(recipe_with(GOOD)), [*GOOD, *BAD])
    assert checked.verified_share == pytest.approx(4 / 6)
    assert [(failure.row, failure.gold) for failure in checked.failures] == [(4, BAD[0]), (5, "")]
    assert checked.failures[0].reason == "the gold cannot be parsed: its brackets do not close"
    assert checked.summary().startswith("4 of 6 golds verified (66.67%)")


@pytest.mark.parametrize("at_a_time", [1, 3, 4, 6])
def test_rows_are_counted_through_all_pieces(at_a_time, recipe_with, monkeypatch):
    monkeypatch.setattr(gold_check, "GOLDS_AT_A_TIME", at_a_time)
    checked = check_golds(load_recipe(recipe_with(GOOD)), [*GOOD, *BAD])
    assert (checked.num_rows, [failure.row for failure in checked.failures]) == (6, [4, 5])


def test_a_recipe_whose_rewards_read_no_gold_has_nothing_to_check(recipe_with):
    assert check_golds(load_recipe(recipe_with(GOOD, rewards=["format"])), BAD) is None


@pytest.mark.parametrize(
    ("limit", "golds", "stops"),
    [(0.95, GOOD, False), (0.95, [*GOOD, *BAD], True), (0.5, [*GOOD, *BAD], False), (None, BAD, False)],
)
def test_too_few_good_golds_stop_the_run(limit, golds, stops, recipe_with, tmp_path):
    recipe = load_recipe(recipe_with(golds, guards={"min_verified_gold_share": limit}))
    if stops:
        with pytest.raises(RecipeError, match=r"66.67% of the golds are accepted by the reward, guards.min_verified"):
            require_verified_golds(recipe, golds, tmp_path)
    else:
        require_verified_golds(recipe, golds, tmp_path)
    assert (tmp_path / "gold_check.json").exists() == (limit is not None)


def test_golds_of_eval_data_are_checked_too(recipe_with, tmp_path, capsys):
    file = recipe_with(
        GOOD,
        eval_data=[{"path": "held_out.jsonl"}],
        trainer=TRAINER | {"eval_strategy": "epoch"},
    )
    (tmp_path / "held_out.jsonl").write_text(json.dumps({"prompt": "?", "solution": BAD[0]}) + "\n")
    assert gold_check.main([str(file)]) == 2
    printed = capsys.readouterr()
    data, held_out = [line.removeprefix(f"{file}: ") for line in printed.out.splitlines() if "verified" in line]
    assert data.startswith("4 of 4 golds verified")
    assert held_out.startswith("eval_data: 0 of 1 golds verified")
    assert f"{file}: eval_data: 0.00% of the golds are accepted" in printed.err
    with pytest.raises(RecipeError, match="eval_data: 0.00% of the golds"):
        require_verified_golds(load_recipe(file), [BAD[0]], tmp_path, "eval_data")
    assert json.loads((tmp_path / "eval_gold_check.json").read_text())["num_rows"] == 1


def test_the_whole_report_is_left_in_the_run_directory(recipe_with, tmp_path):
    require_verified_golds(
        load_recipe(recipe_with(GOOD, guards={"min_verified_gold_share": 0.1})), BAD + GOOD, tmp_path
    )
    report = json.loads((tmp_path / "gold_check.json").read_text())
    assert (report["num_rows"], len(report["failures"])) == (6, 2)


@pytest.mark.parametrize(("golds", "exit_code"), [(GOOD, 0), ([*GOOD, *BAD], 2)])
def test_make_check_data(golds, exit_code, recipe_with, capsys):
    file = recipe_with(golds)
    assert gold_check.main([str(file)]) == exit_code
    printed = capsys.readouterr()
    assert f"of {len(golds)} golds verified" in printed.out
    assert ("guards.min_verified_gold_share is 95%" in printed.err) == bool(exit_code)


def test_make_check_data_of_a_pipeline_checks_its_stages(capsys):
    assert gold_check.main([str(TINY / "pipeline.yaml")]) == 0
    assert capsys.readouterr().out.count("(100.00%)") == 3


def test_make_check_data_without_golds_is_one_line(capsys):
    assert gold_check.main([str(TINY / "sft.yaml")]) == 2
    assert "none of them judges by a gold answer" in capsys.readouterr().err


def test_why_explains_any_answer(capsys):
    assert why.main(["--gold", "1/3", "--answer", "0.333"]) == 0
    assert why.main(["--gold", r"\sqrt{8}", "--answer", r"2\sqrt{2}"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "0: '0.333' for '1/3': another number",
        r"1: '2\\sqrt{2}' for '\\sqrt{8}': means the same",
    ]


@pytest.fixture
def recipe_that_ran(recipe_with, tmp_path, monkeypatch):
    """A recipe with one table of two completions in its run directory."""
    folder = tmp_path / "run" / "completions"
    folder.mkdir(parents=True)
    table = pd.DataFrame(
        {
            "step": [7, 7, 7],
            "prompt": [[{"role": "user", "content": "1+1=?"}]] * 3,
            "completion": [[{"role": "assistant", "content": rf"\boxed{{{answer}}}"}] for answer in (3, 2, 4)],
            "accuracy": [0.0, 1.0, 0.0],
            "accuracy_answer": ["3", "2", "4"],
            "accuracy_reason": ["another number", "the same as written", "another number"],
            "advantage": [-1.0, 1.0, -1.0],
        }
    )
    table.to_parquet(folder / "completions_00007.parquet")
    monkeypatch.setattr(why, "run_directory", lambda recipe: tmp_path / "run")
    return str(recipe_with(["2"]))


@pytest.mark.parametrize(("asked", "rows"), [([], [0, 1]), (["row=2"], [2]), (["step=7", "row=1"], [1])])
def test_why_shows_completions_of_the_latest_run(asked, rows, recipe_that_ran, capsys):
    assert why.main([recipe_that_ran, *asked]) == 0
    printed = capsys.readouterr().out
    assert [line for line in printed.splitlines() if line.startswith("---")] == [
        f"--- step 7, row {row}" for row in rows
    ]
    assert ("accuracy_reason: the same as written" in printed) == (1 in rows)


@pytest.mark.parametrize(
    ("asked", "line"),
    [
        (["step=8"], "step=8: the run logged steps 7 to 7"),
        (["row=3"], "row=3: step 7 has rows 0 to 2"),
        (["row=x"], "row=x: write step=40 or row=3"),
        (["id=1-0"], "id=1-0: completions of grpo have step and row"),
        (["stage=zero"], "stage=zero: only a pipeline has stages"),
        (["id"], "id: write stage=final_rl, step=40, row=3 or id=12-0"),
    ],
)
def test_why_tells_what_there_is_not(asked, line, recipe_that_ran, capsys):
    assert why.main([recipe_that_ran, *asked]) == 2
    assert capsys.readouterr().err.strip().endswith(line)


@pytest.fixture
def recipe_that_sampled(write_recipe, smallest_model, tmp_path, monkeypatch):
    """A recipe with one shard of four judged completions in its run directory, of which one is kept."""
    rows = [
        {"id": f"{index // 2}-{index % 2}", "completion": rf"\boxed{{{answer}}}", "dropped_for": dropped_for}
        for index, (answer, dropped_for) in enumerate([(2, None), (3, "accuracy below 1"), (2, None), (4, "truncated")])
    ]
    for row in rows:
        row |= {"prompt": [{"role": "user", "content": "1+1=?"}], "solution": "2", "num_tokens": 9, "refused": None}
        row |= {"truncated": row["dropped_for"] == "truncated", "reward_accuracy": float("2" in row["completion"])}
    for folder, some in {"completions": rows, "kept": rows[:1]}.items():
        (tmp_path / "run" / folder).mkdir(parents=True)
        pd.DataFrame(some).to_parquet(tmp_path / "run" / folder / "part-00000.parquet")
    monkeypatch.setattr(why, "run_directory", lambda recipe: tmp_path / "run")
    return str(
        write_recipe(
            step="generate",
            model={"name": str(smallest_model)},
            data=[{"path": "rows.jsonl"}],
            rewards=["accuracy"],
            generate={"samples": 2, "max_completion_length": 9},
        )
    )


BEYOND = f"1-0: dropped: {why.BEYOND}"


@pytest.mark.parametrize(
    ("asked", "told", "reason"),
    [
        ([], ["0-0: kept", "0-1: dropped: accuracy below 1", BEYOND, "1-1: dropped: truncated"], "the same as written"),
        (["id=0-1"], ["0-1: dropped: accuracy below 1"], "another number"),
        (["id=1-0"], [BEYOND], "the same as written"),
    ],
)
def test_why_shows_what_became_of_sampled_completions(asked, told, reason, recipe_that_sampled, capsys):
    assert why.main([recipe_that_sampled, *asked]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("---")] == [f"--- id {one}" for one in told]
    assert f"  accuracy_reason: \\boxed{{}}: {reason}" in lines


def test_why_tells_of_an_id_that_nothing_has(recipe_that_sampled, capsys):
    assert why.main([recipe_that_sampled, "id=2-0"]) == 2
    assert "id=2-0: no completion in" in capsys.readouterr().err
