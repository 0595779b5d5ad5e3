"""The steps on real TRL trainers, with the smallest model there is: what they leave behind, and what stops them."""

import json

import pandas as pd
import pytest
from conftest import CPU_TRAINER, sums
from openai_server import OpenAIServer
from stand_in_judges import ORDER, likes_length, verdict_by
from transformers import AutoModelForSequenceClassification, TrainerState

from open_r1 import modeling, training
from open_r1.distill import distill
from open_r1.gold_check import JUDGES_BY_SOLUTION
from open_r1.grpo import grpo
from open_r1.recipe import RecipeError, load_recipe
from open_r1.rewards import REWARDS, BoundReward
from open_r1.run_record import weights_sha256
from open_r1.sft import sft
from open_r1.step_process import RunStopped

SHORT = {**CPU_TRAINER, "max_steps": 2, "logging_steps": 1, "save_strategy": "no", "per_device_train_batch_size": 8}
ROLLOUTS = {"num_generations": 4, "max_completion_length": 12, "log_completions": True, "num_completions_to_print": 0}
LETTERS = {"name": "rewards_of_tests:number_of_characters"}


@pytest.fixture
def run(write_recipe, tmp_path, smallest_model):
    """Runs a step in this process and gives its run directory."""

    def run(step, name="run", **sections):
        sections = {"model": {"name": str(smallest_model)}, "data": [sums(16)]} | sections
        recipe = load_recipe(write_recipe(step=step.__name__, **sections))
        run_dir = tmp_path / name
        run_dir.mkdir()
        step(recipe, run_dir)
        return run_dir

    return run


def metrics_of(run_dir) -> list[dict]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def test_sft_leaves_a_model_and_its_metrics(run):
    run_dir = run(sft, trainer=SHORT)
    assert [row["step"] for row in metrics_of(run_dir)] == [1, 2]
    assert (run_dir / "model" / "model.safetensors").exists()


def test_loss_is_on_the_completion_alone(run, monkeypatch):
    seen = []
    monkeypatch.setattr(training, "train", lambda trainer, *_: seen.append(next(iter(trainer.get_train_dataloader()))))
    run(sft, trainer=SHORT)
    tokenizer = modeling.character_tokenizer()
    for ids, labels in zip(seen[0]["input_ids"], seen[0]["labels"], strict=True):
        trained = tokenizer.decode(ids[labels != -100])
        assert trained.startswith("<think>")
        assert trained.endswith("</answer><|end|>")
        assert "=?" in tokenizer.decode(ids)


def test_template_that_does_not_end_the_turn_is_refused(run, tmp_path):
    (tmp_path / "endless.jinja").write_text(modeling.CHAT_TEMPLATE.replace(f" + '{modeling.EOS}'", ""))
    model = {"name": str(tmp_path / "model"), "chat_template": "endless.jinja"}
    tokenizer = modeling.character_tokenizer()
    from open_r1.recipe import Model

    smallest = modeling.build_model(
        Model(
            architecture={
                "model_type": "llama",
                "hidden_size": 8,
                "num_attention_heads": 2,
                "num_hidden_layers": 1,
                "intermediate_size": 8,
            }
        ),
        tokenizer,
    )
    modeling.save_model(smallest, tokenizer, tmp_path / "model")
    with pytest.raises(RecipeError, match=r"model.chat_template: '<\|end\|>' is not among the trained tokens"):
        run(sft, model=model, trainer=SHORT)


@pytest.mark.parametrize("step", [sft, grpo])
def test_model_that_cannot_be_loaded_is_one_line(step, run, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    rewards = {"rewards": [LETTERS]} if step is grpo else {}
    with pytest.raises(RecipeError, match=r"recipe.yaml: model './model' cannot be loaded \(") as error:
        run(step, model={"name": "./model"}, trainer=SHORT, **rewards)
    assert "\n" not in str(error.value)


def test_model_that_would_not_stop_is_refused(smallest_model, write_recipe):
    recipe = load_recipe(write_recipe(step="sft", model={"name": str(smallest_model)}, data=[sums(4)], trainer=SHORT))
    model, tokenizer = modeling.load_model(recipe), modeling.load_tokenizer(recipe)
    training.check_eos_ends_generation(recipe, model, tokenizer)
    model.generation_config.eos_token_id = 5
    with pytest.raises(RecipeError, match="model.name: its generation config stops at tokens"):
        training.check_eos_ends_generation(recipe, model, tokenizer)


def test_grpo_leaves_model_metrics_and_every_completion(run):
    run_dir = run(grpo, rewards=["accuracy", LETTERS], trainer=SHORT | ROLLOUTS)
    rows = metrics_of(run_dir)
    assert [row["step"] for row in rows] == [1, 2]
    assert {"reward", "entropy", "frac_reward_zero_std", "completions/mean_length"} <= rows[0].keys()
    tables = [pd.read_parquet(file) for file in sorted((run_dir / "completions").glob("*.parquet"))]
    assert [len(table) for table in tables] == [8, 8]
    assert {"accuracy", "number_of_characters", "advantage"} <= set(tables[0].columns)


def test_grpo_leaves_what_the_judge_saw(run):
    run_dir = run(grpo, rewards=["accuracy", LETTERS], trainer=SHORT | ROLLOUTS)
    row = metrics_of(run_dir)[0]
    assert row["accuracy/no_answer_share"] == 1.0  # of a model with random weights
    seconds = {"rewards/accuracy/seconds", "rewards/accuracy/seconds_waited"}
    assert {*seconds, "rewards/accuracy/none_share", "accuracy/budget_kills"} <= row.keys()
    table = pd.read_parquet(run_dir / "completions" / "completions_00001.parquet")
    assert set(table["accuracy_reason"]) <= {"there is no answer", "the thinking never ends"}
    assert json.loads((run_dir / "gold_check.json").read_text())["verified_share"] == 1.0


def test_judging_begins_before_the_trainer_asks_for_rewards(run, monkeypatch):
    order = []

    def note(name):
        original = getattr(BoundReward, name)

        def noted(self, *arguments, **columns):
            order.append((name, self.__name__, arguments[0] if arguments else columns["completions"]))
            return original(self, *arguments, **columns)

        monkeypatch.setattr(BoundReward, name, noted)

    note("start")
    note("__call__")
    run(grpo, rewards=["accuracy", LETTERS], trainer=SHORT | ROLLOUTS | {"max_steps": 1})
    *starts, call = [what for what, name, some in order if name == "accuracy" and (what == "start" or len(some) == 8)]
    assert starts
    assert set(starts) == {"start"}
    assert call == "__call__"
    started = [one for what, name, some in order if (what, name) == ("start", "accuracy") for one in some]
    called = next(some for what, name, some in order if (what, name, len(some)) == ("__call__", "accuracy", 8))
    assert sorted(map(str, started)) == sorted(map(str, called))  # else some would be judged twice


def test_golds_that_the_reward_does_not_accept_stop_grpo(run, tmp_path):
    (tmp_path / "golds.jsonl").write_text(json.dumps({"prompt": "?", "solution": r"\frac{1}{"}) + "\n")
    with pytest.raises(RecipeError, match=r"0.00% of the golds are accepted by the reward"):
        run(grpo, rewards=["accuracy"], data=[{"path": "golds.jsonl"}], trainer=SHORT | ROLLOUTS)


def test_programs_are_judged_in_the_trainer_and_rows_without_tests_are_left_out(run, tmp_path):
    tests = [{"type": "stdin_stdout", "input": "1", "output": "1"}]
    rows = [{"prompt": f"row {n}", "verification_info": {"language": "python", "test_cases": tests}} for n in range(5)]
    rows[3]["verification_info"] = {"language": "python", "test_cases": []}
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = [{"path": "rows.jsonl"}]
    run_dir = run(
        grpo,
        rewards=["code", LETTERS],
        data=data,
        guards={"min_verified_gold_share": 0.5},
        trainer=SHORT | ROLLOUTS | {"max_steps": 4},
    )
    row = metrics_of(run_dir)[0]
    assert row["code/runtime_error"] > 0  # a model with random weights writes no programs
    assert {"code/programs_per_second", "code/seconds_waited", "code/judge_failed_share"} <= row.keys()
    (failure,) = json.loads((run_dir / "program_check.json").read_text())["failures"]
    assert failure["row"] == 3
    tables = [pd.read_parquet(file) for file in (run_dir / "completions").glob("*.parquet")]
    assert not pd.concat(tables)["prompt"].astype(str).str.contains("row 3").any()
    assert pd.concat(tables)["code_reason"].str.contains("0 of 1 tests; first failure: test 1: runtime_error").any()
    with pytest.raises(RecipeError, match=r"80.00% of the rows are accepted.*row 3.*make check-data"):
        run(grpo, "again", rewards=["code"], data=data, trainer=SHORT | ROLLOUTS)


@pytest.mark.parametrize(("besides", "memory_limit"), [("cf_code", 256 << 20), ("ioi_code", 256)])  # bytes, MB
def test_every_reward_runs_in_the_trainer(besides, memory_limit, run, head, tmp_path):
    tests = [{"input": "1", "output": "1"}]
    row = {
        "prompt": "1+1=?",
        "solution": "2",
        "task": "math",
        "verification_info": {"language": "python", "test_cases": [{"type": "stdin_stdout", **tests[0]}]},
        **{"official_tests": tests, "input_mode": "stdio", "generated_checker": "", "language": "python"},
        **{"id": "sum", "test_names": ["1"], "test_cases": [["1", "1"]], "grader_files": [["sum.h", ""]]},
        **{"time_limit": 1.0, "memory_limit": memory_limit},
    }
    shouted = row | {"solution": '{"func_name": "validate_uppercase"}', "task": "ifeval"}
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(each) + "\n" for each in (row, shouted) * 4))
    theirs = ["trl.rewards:think_format_reward", {"name": "trl.rewards:get_cosine_scaled_reward", "max_len": 12}]
    keys = {"reward_model": {"model": str(head)}, "judge": {"rubric": str(tmp_path / "rubric.yaml")}}
    keys |= {name: {"task": "math"} for name in JUDGES_BY_SOLUTION} | {"instructions": {"task": "ifeval"}}
    ours = [name for name in REWARDS if name != besides]
    rewards = [{"name": name, **keys.get(name, {})} for name in ours]
    (tmp_path / "rubric.yaml").write_text(json.dumps(ORDER.model_dump(exclude_none=True)))
    with OpenAIServer(answer=verdict_by(likes_length)) as server:
        run_dir = run(
            grpo,
            rewards=[*rewards, *theirs, LETTERS],
            data=[{"path": "rows.jsonl"}],
            judge={"endpoint": {"base_url": server.url, "model": "teacher"}},
            trainer=SHORT | ROLLOUTS,
        )
    means = {key for key in metrics_of(run_dir)[0] if key.startswith("rewards/") and key.endswith("/mean")}
    names = [*ours, "think_format_reward", "get_cosine_scaled_reward", "number_of_characters"]
    assert means == {f"rewards/{name}/mean" for name in names}


@pytest.fixture(scope="module")
def head(smallest_model, tmp_path_factory):
    """A folder with a reward model that knows nothing."""
    folder = tmp_path_factory.mktemp("models") / "head"
    AutoModelForSequenceClassification.from_pretrained(smallest_model, num_labels=1).save_pretrained(folder)
    modeling.character_tokenizer().save_pretrained(folder)
    return folder


def test_two_rewards_of_one_name_stand_side_by_side(run):
    boxed = {"name": "accuracy", "label": "boxed", "answer_in": "boxed", "weight": 0.5}
    run_dir = run(grpo, rewards=["accuracy", boxed, LETTERS], trainer=SHORT | ROLLOUTS)
    assert {"rewards/boxed/mean", "boxed/pairs", "accuracy/pairs"} <= metrics_of(run_dir)[0].keys()
    table = pd.read_parquet(run_dir / "completions" / "completions_00001.parquet")
    assert {"boxed", "boxed_reason", "accuracy", "accuracy_reason"} <= set(table.columns)
    assert set(table["boxed_reason"]) <= {r"there is no \boxed{}", "the thinking never ends"}


def test_reward_counts_in_its_steps_alone_and_the_others_go_on(run):
    late = {**LETTERS, "label": "late", "first_step": 2}
    early = {**LETTERS, "label": "early", "last_step": 1}
    run_dir = run(grpo, rewards=[LETTERS, late, early], trainer=SHORT | ROLLOUTS)
    for step, row in enumerate(metrics_of(run_dir), start=1):
        always = row["rewards/number_of_characters/mean"]
        assert row["reward"] == pytest.approx(2 * always)  # its own, and one of the two
        counting, silent = ("early", "late") if step == 1 else ("late", "early")
        assert row[f"rewards/{counting}/mean"] == always
        assert row[f"rewards/{silent}/mean"] is None
        assert row[f"rewards/{silent}/none_share"] == 0.0


def test_notes_of_a_reward_stand_with_the_rows_that_it_judged(run):
    """Of rollouts of one step some have no row of its task; the first of them, or a later one."""
    chat = {"procedural": {"family": "tiny_chat", "num_problems": 8}, "task": "chat"}
    run_dir = run(
        grpo,
        data=[{**sums(8), "task": "sums"}, chat],
        rewards=[{"name": "accuracy", "task": "sums"}, "rewards_of_tests:begins_with_a_digit"],
        trainer=SHORT | ROLLOUTS | {"max_steps": 8, "per_device_train_batch_size": 4},
        grpo={"dynamic_sampling": {"max_factor": 4.0}},
        guards={"max_truncated_share": None, "max_dead_steps": None},
    )
    tables = [pd.read_parquet(file) for file in (run_dir / "completions").glob("*.parquet")]
    mixed = [table for table in tables if 0 < table["accuracy"].isna().sum() < len(table)]
    assert mixed
    for table in mixed:
        assert table["accuracy_reason"].isna().tolist() == table["accuracy"].isna().tolist()


def test_reward_weights_come_from_the_recipe(run):
    run_dir = run(grpo, rewards=["accuracy", {**LETTERS, "weight": 0.5}], trainer=SHORT | ROLLOUTS)
    row = metrics_of(run_dir)[0]
    expected = row["rewards/accuracy/mean"] + 0.5 * row["rewards/number_of_characters/mean"]
    assert row["reward"] == pytest.approx(expected, rel=1e-4)


def test_one_seed_gives_the_same_weights_bit_for_bit_and_another_gives_others(run):
    sections = {"rewards": [LETTERS], "trainer": SHORT | ROLLOUTS}
    hashes = [
        weights_sha256(run(grpo, name, seed=seed, **sections) / "model")
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    ]
    assert hashes[0] == hashes[1]
    assert hashes[0] != hashes[2]


def test_training_that_diverges_is_stopped(run):
    with pytest.raises(
        RunStopped, match=r"stopped at step \d+: (loss|grad_norm) is (nan|inf); lower trainer.learning_rate"
    ):
        run(sft, trainer=SHORT | {"max_steps": 20, "learning_rate": 1e30, "max_grad_norm": 1e30})


def test_data_that_do_not_fill_a_batch_are_told(run):
    with pytest.raises(RecipeError, match="data: 1 rows do not fill one batch, so nothing was trained"):
        run(grpo, rewards=[LETTERS], data=[sums(1)], trainer=SHORT | ROLLOUTS)


def test_dead_groups_stop_the_run(run):
    with pytest.raises(RunStopped, match="stopped at step 2: in 2 logs in a row every group had equal rewards"):
        run(
            grpo,
            rewards=["format"],
            trainer=SHORT | ROLLOUTS,
            guards={"max_dead_steps": 2, "max_truncated_share": None},
        )


def test_truncated_completions_stop_the_run(run):
    with pytest.raises(
        RunStopped, match="100% of the completions were cut off at trainer.max_completion_length=1 tokens"
    ):
        run(
            grpo,
            rewards=[LETTERS],
            trainer=SHORT | ROLLOUTS | {"max_completion_length": 1},
            guards={"truncated_steps": 2},
        )


def test_metrics_of_a_resumed_run_have_each_step_once(tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 1, "loss": 3}\n{"step": 2, "loss": 2}\n{"step": 3, "lo')  # killed while writing
    writer, state = training.MetricsWriter(tmp_path), TrainerState(global_step=1, is_world_process_zero=True)
    writer.on_train_begin(None, state, None)
    state.global_step = 2
    writer.on_log(None, state, None, logs={"loss": 1.5})
    assert [json.loads(line) for line in file.read_text().splitlines()] == [
        {"step": 1, "loss": 3},
        {"step": 2, "loss": 1.5},
    ]


def test_distill_writes_its_traces_and_trains_on_the_kept_ones(run, smallest_model):
    section = {"teacher": str(smallest_model), "max_completion_length": 64, "batch_size": 16}
    run_dir = run(distill, rewards=["format"], distill=section, keep={"min_reward": 0.0}, trainer=SHORT)
    counts = json.loads((run_dir / "distill.json").read_text())
    assert counts["sampled"] == counts["kept"] + sum(counts["dropped"].values()) == 16
    assert 0 < counts["dropped"]["truncated"] < 16
    assert len(metrics_of(run_dir)) == 2


def test_distill_with_no_verified_trace_says_so(run, smallest_model):
    section = {"teacher": str(smallest_model), "max_completion_length": 8}
    with pytest.raises(RecipeError, match="distill.teacher: none of its traces was verified"):
        run(distill, rewards=["format"], distill=section, trainer=SHORT)
