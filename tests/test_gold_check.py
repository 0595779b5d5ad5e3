"""Golds are passed back through the reward before anything is trained on them; `why` explains a verdict."""

import json

import pandas as pd
import pytest
from accelerate import PartialState
from conftest import CPU_TRAINER, TINY

from open_r1 import gold_check, training, why
from open_r1.gold_check import check_golds, judging_reward, judging_rewards, require_verified_golds, row_problems
from open_r1.recipe import RecipeError, load_recipe

TRAINER = {**CPU_TRAINER, "num_generations": 4, "per_device_train_batch_size": 4}
FOLLOWED = '{"func_name": "validate_uppercase"}'
GOOD, BAD = [r"\frac{1}{2}", "(1,2)", r"\text{Yes}", "x^2"], [r"\frac{1}{", ""]


@pytest.fixture
def recipe_with(write_recipe, smallest_model):
    """A GRPO recipe over a file of golds."""

    def recipe_with(golds, **sections):
        file = write_recipe(
            step="grpo",
            model={"name": str(smallest_model)},
            **({"data": [{"path": "golds.jsonl"}], "rewards": ["accuracy"], "trainer": TRAINER} | sections),
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


# --- Other judges by `solution`: each gold by those that are for its row

THINKINGS = {
    "tags": {},
    "prefilled": {"open": "[T]", "close": "[/T]", "prefilled": True},
    "the rest": {"answer_in": "rest"},
}
WORKED = "Half of 36 is 18.\n#### 18"


@pytest.mark.parametrize("thinking", THINKINGS)
@pytest.mark.parametrize(
    ("name", "golds"),
    [("last_number", ["4", "-3", "1,234.50", WORKED, "$5"]), ("final_answer", [*GOOD, r"It is \boxed{7}."])],
)
def test_good_golds_of_the_other_judges_are_all_accepted(name, golds, thinking, recipe_with):
    recipe = load_recipe(recipe_with(golds, rewards=[name], thinking=THINKINGS[thinking]))
    assert check_golds(recipe, golds).failures == ()


@pytest.mark.parametrize(
    ("name", "golds", "reasons"),
    [
        ("last_number", ["4", "four", None], {1: "it has no number", 2: "it has no number"}),
        ("last_number", ["#### 18 or 19"], {0: "its last number is another: 19"}),
        (
            "final_answer",
            [*GOOD, *BAD],
            {4: "the gold cannot be parsed: its brackets do not close", 5: "the gold cannot be parsed"},
        ),
        ("instructions", [FOLLOWED, "2", None], {1: "'2' has to have either", 2: "'null' has to have either"}),
    ],
)
def test_bad_golds_of_the_other_judges_are_named_with_their_reason(name, golds, reasons, recipe_with):
    checked = check_golds(load_recipe(recipe_with(["2"], rewards=[name])), golds)
    assert checked.num_rows == len(golds)
    assert [failure.row for failure in checked.failures] == list(reasons)
    for failure in checked.failures:
        assert failure.reason.startswith(reasons[failure.row])
        assert (failure.gold is None) == (name == "instructions")  # the row is at fault, and no answer was tried


MIX = [("gsm8k", "4"), ("MATH", r"\frac12"), ("ifeval", FOLLOWED), ("gsm8k", "four"), ("ifeval", "4"), (None, "{")]
OF_MIX = [
    {"name": "last_number", "task": "gsm8k"},
    {"name": "final_answer", "task": "MATH"},
    {"name": "instructions", "task": ["ifeval", "more"]},
]


def golds_and_tasks(rows=MIX):
    return [gold for _, gold in rows], [task for task, _ in rows]


@pytest.mark.parametrize("at_a_time", [1, 2, 100])
def test_each_reward_checks_the_rows_of_its_own_tasks(at_a_time, recipe_with, monkeypatch):
    monkeypatch.setattr(gold_check, "GOLDS_AT_A_TIME", at_a_time)
    recipe = load_recipe(recipe_with(["2"], rewards=OF_MIX))
    checked = check_golds(recipe, *golds_and_tasks())
    assert checked.num_rows == 5
    assert [(failure.row, failure.gold) for failure in checked.failures] == [(3, "four"), (4, None)]
    assert check_golds(recipe, ["{"], [None]) is None


def test_rewards_for_the_same_rows_have_all_to_accept_them(recipe_with):
    golds = ["4", r"\sqrt{2}", "x", "#### 18"]
    checked = check_golds(load_recipe(recipe_with(["2"], rewards=["accuracy", "last_number"])), golds)
    assert (checked.num_rows, [failure.row for failure in checked.failures]) == (4, [2, 3])


@pytest.mark.parametrize(
    ("rewards", "ways"),
    [
        (["accuracy", "length", "format"], ["accuracy"]),
        (["length", {"name": "accuracy", "answer_in": "boxed"}], ["length", "accuracy"]),
        ([{"name": "accuracy", "task": "sums"}, {"name": "cosine", "task": "proofs"}], ["accuracy", "cosine"]),
        (["final_answer", "accuracy"], ["final_answer", "accuracy"]),
        (["format"], []),
    ],
)
def test_what_judges_in_the_same_way_is_asked_once(rewards, ways, recipe_with):
    recipe = load_recipe(recipe_with(["2"], rewards=rewards))
    assert [reward.name for reward in judging_rewards(recipe)] == ways
    first = judging_reward(recipe)
    assert (first.name if first else None) == next(iter(ways), None)


def test_instructions_that_nobody_can_read_are_rows_by_which_nothing_can_be_judged(recipe_with):
    golds, tasks = golds_and_tasks()
    problems = row_problems(load_recipe(recipe_with(["2"], rewards=OF_MIX)), {"solution": golds, "task": tasks})
    assert list(problems) == [4]
    assert problems[4].startswith("'4' has to have either func_name or instruction_id_list")


def mixed(recipe_with, rows, **sections):
    """A recipe over rows that name their own tasks."""
    source = {"path": "mix.jsonl", "columns": {"solution": "ground_truth", "task": "dataset"}}
    file = recipe_with(["2"], data=[source], rewards=OF_MIX, **sections)
    lines = [json.dumps({"prompt": f"{row}?", "ground_truth": gold, "dataset": task}) for row, (task, gold) in rows]
    (file.parent / "mix.jsonl").write_text("\n".join(lines) + "\n")
    return file


def test_make_check_data_of_a_mix(recipe_with, capsys):
    assert gold_check.main([str(mixed(recipe_with, enumerate(MIX)))]) == 2
    printed = capsys.readouterr()
    assert ": 3 of 5 golds verified (60.00%) in " in printed.out
    assert "  row 3: 'four': it has no number\n  row 4: '4' has to have either func_name" in printed.out
    assert "60.00% of the golds are accepted by the reward, guards.min_verified_gold_share is 95%" in printed.err


def test_rows_by_which_nothing_can_be_judged_are_not_trained_on(recipe_with, tmp_path):
    recipe = load_recipe(mixed(recipe_with, enumerate(MIX), guards={"min_verified_gold_share": 0.5}))
    rows = training.verified_data(recipe, tmp_path, PartialState(cpu=True))
    assert [prompt[0]["content"] for prompt in rows["prompt"]] == ["0?", "1?", "2?", "3?", "5?"]
    report = json.loads((tmp_path / "gold_check.json").read_text())
    assert [failure["row"] for failure in report["failures"]] == [3, 4]


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


@pytest.mark.parametrize(
    ("reward", "solution", "completion", "notes"),
    [
        ({"name": "last_number"}, "4", "<think></think>It is 3.", ["last_number_answer: 3"]),
        (
            {"name": "final_answer"},
            "4",
            r"<think></think>The final answer is $5$.",
            ["final_answer_answer: $5$", "final_answer_reason: the final answer is: another number"],
        ),
        (
            {"name": "instructions"},
            FOLLOWED,
            "<think></think>no",
            ["instructions_not_followed: change_case:english_cap"],
        ),
        ({"name": "instructions", "task": "ifeval"}, FOLLOWED, "<think></think>no", []),
    ],
)
def test_why_tells_what_the_other_judges_say(reward, solution, completion, notes, write_recipe, smallest_model):
    recipe = load_recipe(
        write_recipe(
            step="generate",
            model={"name": str(smallest_model)},
            data=[{"path": "rows.jsonl"}],
            rewards=[reward],
            generate={"max_completion_length": 9},
        )
    )
    row = {"id": "0-0", "prompt": "?", "completion": completion, "solution": solution, "task": "sums"}
    row |= {f"reward_{reward['name']}": 0.0, "refused": None, "num_tokens": 9, "truncated": False}
    lines = why.explain_sampled_row(pd.Series(row), "kept", recipe).splitlines()
    told = [line.strip() for line in lines if line.startswith("  ")]
    assert [line[: len(note)] for line, note in zip(told, notes, strict=True)] == notes
