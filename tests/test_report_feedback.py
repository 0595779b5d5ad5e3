"""The report of feedback from models: judges' pairs, reward models, DPO, and RL that is watched by the truth."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pyarrow
import pyarrow.parquet
import pytest
from test_report import edges_of, no_pictures, table_text, write_record, write_stages  # noqa: F401

from open_r1.report import pictures, reading, write_report
from open_r1.report.feedback import preference_facts, reward_model_facts
from open_r1.report.pictures import draw_curves, draw_reliability
from open_r1.report.samples import samples_of
from open_r1.report.truth import RewardAndTruth, reward_and_truth

PAIRS = {
    "prompts": 1000,
    "kept": 700,
    "kept_share": 0.7,
    "dropped": {"lengths too different": 100, "scores too close": 200},
    "sampled": 4000,
    "completions_dropped": {"truncated": 3},
    "tokens": 116_136,
    "chosen_tokens": 53.34,
    "rejected_tokens": 16.66,
    "longer_is_chosen": 0.9835,
    "length_correlation": 0.805,
    "judge": {
        "verdicts": 14_000,
        "cached": 1_200,
        "unreadable": 280,
        "refused": 0,
        "position_bias": -0.25,
        "spread": 0.796,
    },
    "sampling_seconds": 44.4,
    "tokens_per_second": 2614.0,
    "counts": {},
}
HELD_OUT = {
    "num_pairs": 147,
    "accuracy": 0.9864,
    "accuracy_stderr": 0.00955,
    "loss": 0.0197,
    "calibration_error": 0.0156,
    "calibration": [
        {"pairs": 2, "confidence": 0.52, "right": 0.0},
        {"pairs": 145, "confidence": 0.998, "right": 1.0},
    ],
    "length_correlation": 0.673,
    "longer_is_chosen": 0.9795,
    "accuracy_if_longer": 1.0,
    "accuracy_if_shorter": None,
    "mean": 0.26,
    "std": 3.566,
}
STOPPED = {"step": 20, "key": "guards.max_eval_drop", "reason": "explained fell <by 0.2>", "stopped": True}
WARNED = {"step": 15, "key": "guards.max_kl", "reason": "far from the reference"}
BY_MODEL, BY_RULE = {"name": "reward_model", "model": "/m"}, {"name": "package.module:explained", "weight": 0.0}
LOGGED_BY = {
    "dpo": (
        "loss",
        "rewards/accuracies",
        "rewards/margins",
        "rewards/chosen",
        "rewards/rejected",
        "logps/chosen",
        "logps/rejected",
    ),
    "reward_model": ("loss", "accuracy", "margin", "mean_reward"),
    "grpo": ("reward", "rewards/explained/mean", "completions/mean_length"),
}


def write_rl(
    folder: Path, rewards: list[dict], evaluated: dict[str, list[float]], parents: Sequence[dict] = (), **recipe
) -> None:
    """A GRPO run that logged a mean on eval_data of each name, every five steps from the very start."""
    recipe = {"step": "grpo", "rewards": rewards, **recipe}
    write_record(folder, "grpo", recipe=recipe, parents=list(parents))
    with (folder / "metrics.jsonl").open("w") as lines:
        for number in range(max(map(len, evaluated.values()))):
            means = {f"eval_rewards/{name}/mean": each[number] for name, each in evaluated.items()}
            lines.write(json.dumps({"step": 5 * number, **means}) + "\n")


def stage_of(folder: Path) -> reading.Run:
    _, (stage,) = reading.read_all(folder, [])
    return stage


@pytest.mark.parametrize(
    ("recipe", "edges"),
    [
        pytest.param(
            {"model": {"name": "{run}/policy/model"}, "judge": {"name": "{run}/judge/model"}},
            {("policy", "fed", "model", True), ("judge", "fed", "model", True)},
            id="a judge that a stage made",
        ),
        pytest.param(
            {"judge": {"name": "org/judge"}}, {("[org/judge]", "fed", "model", True)}, id="a judge from the Hub"
        ),
        pytest.param(
            {"rewards": [{"name": "format"}, {"name": "reward_model", "model": "{run}/judge/model"}]},
            {("judge", "fed", "model", True)},
            id="a reward model that a stage made",
        ),
        pytest.param(
            {"rewards": [{"name": "reward_model", "model": "org/rewards"}]},
            {("[org/rewards]", "fed", "model", True)},
            id="a reward model from the Hub",
        ),
    ],
)
def test_models_that_judge_feed_a_stage(tmp_path, recipe, edges):
    here = json.loads(json.dumps(recipe).replace("{run}", str(tmp_path / "pipeline")))
    made = {"step": "sft", "recipe": {}}
    run = write_stages(
        tmp_path,
        [{"name": "policy"}, {"name": "judge"}, {"name": "fed"}],
        **{"policy": made, "judge": made, "fed": {"step": "grpo", "recipe": here}},
    )
    assert edges_of(run) == edges


def test_a_judge_of_a_stage_that_has_not_begun_is_planned(tmp_path):
    stages = [
        {"name": "judge"},
        {"name": "fed", "set": {"judge.name": "stage:judge", "rewards.0.model": "stage:judge"}},
    ]
    run = write_stages(tmp_path, stages, judge={"step": "sft", "recipe": {}})
    assert edges_of(run) == {("judge", "fed", "model", False)}


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize(
    ("step", "guards", "titles"),
    [
        (
            "dpo",
            {},
            ["Loss", "Pairs in the right order", "Margin", "Implicit rewards", "Log-probability of the answers"],
        ),
        ("reward_model", {}, ["Loss", "Pairs in the right order", "Margin"]),
        ("grpo", {}, ["Reward", "Answer length"]),
        ("grpo", {"truth": "explained"}, ["Reward", "Truth in training", "Answer length"]),
    ],
)
def test_curves_of(tmp_path, step, guards, titles):
    write_record(tmp_path, step, recipe={"step": step, "guards": guards})
    rows = [{"step": number, **dict.fromkeys(LOGGED_BY[step], 0.5)} for number in (1, 2)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [title for title, _ in draw_curves(stage_of(tmp_path), []).meanings] == titles


@pytest.mark.parametrize("step", ["dpo", "reward_model"])
def test_curves_that_were_to_be_expected_are_missed(tmp_path, step):
    write_record(tmp_path, step)
    notes: list[str] = []
    reading.read_all(tmp_path, notes)
    assert notes == [f"{tmp_path.name}: no metrics.jsonl, so no curves"]


FALLING, RISING = [0.2, 0.4, 0.1], [-1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("rewards", "guards", "logged", "titles"),
    [
        (["accuracy", "format"], {}, [], ["pass@1 in training", "Reward format"]),
        (["last_number", "instructions"], {}, ["kl"], ["Reward last_number", "Reward instructions", "Distance"]),
        (
            ["reward_model", "explained"],
            {"truth": "explained"},
            [],
            ["Truth in training", "Reward reward_model"],
        ),
        (["length"], {}, [], ["Reward length"]),
    ],
)
def test_every_reward_has_a_curve(rewards, guards, logged, titles, tmp_path):
    recipe = {"step": "grpo", "rewards": [{"name": name} for name in rewards], "guards": guards}
    keys = [*(f"rewards/{name}/mean" for name in rewards), *logged]
    metrics = pd.DataFrame([dict.fromkeys(["reward", *keys], 0.5)] * 3, index=[1, 2, 3])
    stage = reading.Run("run", tmp_path, {"recipe": recipe}, metrics, {}, {}, {})
    drawn = [title.partition(" from")[0] for title, _ in draw_curves(stage, []).meanings]
    assert drawn == ["Reward", *(title for title in titles if title != "Distance"), *(["Distance"] * len(logged))]


@pytest.mark.parametrize(
    ("rewards", "evaluated", "guards", "truths", "rewarded"),
    [
        pytest.param(
            [BY_MODEL, BY_RULE],
            {"reward_model": RISING, "explained": FALLING},
            {"truth": "explained"},
            ["explained"],
            ["reward_model"],
            id="a truth that is named",
        ),
        pytest.param(
            [BY_MODEL, BY_RULE, {"name": "accuracy", "weight": 0.0}],
            {"reward_model": RISING, "explained": FALLING, "accuracy": FALLING},
            {"truth": "explained"},
            ["explained"],
            ["reward_model"],
            id="what is neither rewarded nor the truth",
        ),
        pytest.param(
            [{**BY_MODEL, "label": "first"}, {**BY_MODEL, "label": "second", "weight": 0.0}],
            {"first": RISING, "second": FALLING},
            {"truth": "second"},
            ["second"],
            ["first"],
            id="another reward model as the truth",
        ),
        pytest.param(
            [BY_MODEL, BY_RULE],
            {"reward_model": RISING, "explained": FALLING},
            {},
            ["explained"],
            ["reward_model"],
            id="rules are the truth where none is named",
        ),
        pytest.param(
            [{"name": "judge", "rubric": "x.yaml"}, {"name": "accuracy"}],
            {"judge": FALLING, "accuracy": FALLING},
            {},
            ["accuracy"],
            ["judge"],
            id="a judge is no truth",
        ),
        pytest.param(
            [{"name": "accuracy"}, {"name": "format"}],
            {"accuracy": FALLING, "format": FALLING},
            {},
            ["accuracy"],
            ["format"],
            id="a format is no truth",
        ),
    ],
)
def test_what_is_wanted_and_what_is_rewarded(tmp_path, rewards, evaluated, guards, truths, rewarded):
    write_rl(tmp_path, rewards, evaluated, guards=guards)
    found = reward_and_truth(stage_of(tmp_path), [])
    assert (list(found.truths), list(found.rewards)) == (truths, rewarded)
    assert {name: list(means) for name, means in (found.truths | found.rewards).items()} == {
        name: evaluated[name] for name in (*truths, *rewarded)
    }
    assert list(found.truths[truths[0]].index) == [0, 5, 10]


@pytest.mark.parametrize(
    ("rewards", "evaluated", "guards"),
    [
        pytest.param([BY_RULE], {"explained": FALLING}, {"truth": "explained"}, id="the truth alone"),
        pytest.param([BY_MODEL, BY_RULE], {"reward_model": RISING}, {"truth": "explained"}, id="no truth logged"),
        pytest.param([BY_MODEL], {"reward_model": RISING}, {}, id="a model's word alone"),
        pytest.param([], {"explained": FALLING, "reward_model": RISING}, {}, id="a record that lost its recipe"),
    ],
)
def test_without_both_there_is_no_picture_of_them(tmp_path, rewards, evaluated, guards):
    write_rl(tmp_path, rewards, evaluated, guards=guards)
    assert reward_and_truth(stage_of(tmp_path), []) is None


TRUTH, REWARD = (pd.Series(means, [0, 5, 10]) for means in (FALLING, RISING))


@pytest.mark.parametrize(
    ("found", "legend", "truth_limits"),
    [
        pytest.param(
            RewardAndTruth({"explained": TRUTH}, {"reward_model": REWARD}, 10, 5),
            ["explained", "reward_model", "best checkpoint (step 5)", "a guard stopped it (step 10)"],
            (-0.03, 1.03),
            id="stopped, the best kept",
        ),
        pytest.param(
            RewardAndTruth({"explained": TRUTH}, {"reward_model": REWARD}, None, 7),
            ["explained", "reward_model"],
            (-0.03, 1.03),
            id="kept where the truth was not looked at",
        ),
        pytest.param(
            RewardAndTruth({"accuracy": TRUTH, "format": TRUTH}, {}, None, None),
            ["accuracy", "format"],
            (-0.03, 1.03),
            id="several rules",
        ),
        pytest.param(
            RewardAndTruth({"explained": TRUTH}, {"judge": TRUTH}, None, None),
            ["explained", "judge"],
            (-0.03, 1.03),
            id="a reward that is a share as well",
        ),
        pytest.param(
            RewardAndTruth({"length": REWARD, "format": TRUTH}, {}, None, None),
            ["length", "format"],
            None,
            id="no share",
        ),
    ],
)
def test_picture_of_reward_and_truth(found, legend, truth_limits):
    figure = pictures._two_axes(found)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == legend
    assert len(figure.axes) == (2 if "reward_model" in legend else 1)
    low, high = figure.axes[0].get_ylim()
    assert (low, high) == truth_limits if truth_limits else low < -1 and high > 3


@pytest.mark.parametrize(
    ("keeps_best", "state", "best"),
    [
        (True, {"best_model_checkpoint": "/gone/checkpoints/checkpoint-10"}, 10),
        (False, {"best_model_checkpoint": "/gone/checkpoints/checkpoint-10"}, None),
        (True, {"best_model_checkpoint": None}, None),
        (True, None, None),
    ],
    ids=["kept", "the last is kept", "none yet", "checkpoints are gone"],
)
def test_the_best_checkpoint_is_the_one_that_the_trainer_kept(tmp_path, keeps_best, state, best):
    trainer = {"load_best_model_at_end": keeps_best}
    write_rl(tmp_path, [BY_MODEL, BY_RULE], {"reward_model": RISING, "explained": FALLING}, trainer=trainer)
    if state is not None:
        for step, content in ((15, state), (5, {"best_model_checkpoint": "checkpoint-5"})):
            folder = tmp_path / "checkpoints" / f"checkpoint-{step}"
            folder.mkdir(parents=True)
            (folder / "trainer_state.json").write_text(json.dumps({**content, "global_step": step}))
    assert reward_and_truth(stage_of(tmp_path), []).best_step == best


def test_a_warning_that_stopped_a_run_is_told_from_one_that_did_not(tmp_path):
    write_rl(tmp_path, [BY_MODEL, BY_RULE], {"reward_model": RISING, "explained": FALLING})
    (tmp_path / "warnings.jsonl").write_text("".join(json.dumps(each) + "\n" for each in (WARNED, STOPPED)))
    page = write_report(tmp_path).read_text(encoding="utf-8")
    told = re.findall(r'<p class="small (\w+)"><strong>(.*?)</strong> (.*?)</p>', page)
    assert told == [
        ("warned", "! warning at step 15:", "far from the reference (guards.max_kl)"),
        ("stopped", "‖ stopped at step 20:", "explained fell &lt;by 0.2&gt; (guards.max_eval_drop)"),
    ]
    assert page.count("data:image/png;base64,") == 1 and "Reward against truth" in page
    terminal = " ".join(table_text(tmp_path).split())
    assert "stopped at step 20: explained fell <by 0.2>" in terminal and "far from" not in terminal
    assert reward_and_truth(stage_of(tmp_path), []).stopped_at == 20


@pytest.mark.parametrize(
    ("in_file", "in_record", "stopped_at"),
    [([STOPPED], [], 20), ([], [STOPPED], 20), ([WARNED], [], None), ([], [], None)],
    ids=["of a run that goes on", "of a record alone", "only a warning", "none"],
)
def test_where_a_guard_stopped_a_run(tmp_path, in_file, in_record, stopped_at):
    write_record(tmp_path, "grpo", warnings=in_record)
    if in_file:
        (tmp_path / "warnings.jsonl").write_text("".join(json.dumps(each) + "\n" for each in in_file))
    assert stage_of(tmp_path).stopped_at == stopped_at


def cells_of(page: str) -> list[list[str]]:
    rows = re.findall(r"<tr>(.*?)</tr>", page, re.DOTALL)
    return [re.findall(r"<td[^>]*>([^<]*)</td>", row) for row in rows]


def test_pairs_are_counted_by_prompts(tmp_path):
    write_record(tmp_path, "preferences", recipe={"step": "preferences"})
    (tmp_path / "preferences.json").write_text(json.dumps(PAIRS))
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert [cells[:3] for cells in cells_of(page)[1:5]] == [
        ["prompts", "1,000", ""],
        ["kept", "700", "70.0 %"],
        ["scores too close", "200", "20.0 %"],
        ["lengths too different", "100", "10.0 %"],
    ]
    assert "2,614 tokens a second, 3 completions dropped (truncated)" in page


IN_ALL = {"requests": 90, "prompt_tokens": 5000, "completion_tokens": 400, "usd": None}


@pytest.mark.parametrize(
    ("in_record", "spent"),
    [
        pytest.param({}, {"tokens of the judge": "1,234 + 10"}, id="going on"),
        pytest.param({"judging": IN_ALL}, {"tokens of the judge": "5,000 + 400"}, id="shares too"),
        pytest.param(
            {"judging": {**IN_ALL, "usd": 1.5}},
            {"tokens of the judge": "5,000 + 400", "cost of the judge": "$1.50"},
            id="priced",
        ),
    ],
)
def test_what_a_judge_said(tmp_path, in_record, spent):
    write_record(tmp_path, "preferences", recipe={"step": "preferences"}, **in_record)
    (tmp_path / "preferences.json").write_text(json.dumps(PAIRS))
    for process, tokens in enumerate((1000, 234)):
        of_process = {"requests": 9, "prompt_tokens": tokens, "completion_tokens": 5}
        (tmp_path / f"judging-{process}.json").write_text(json.dumps(of_process))
    facts = {fact.what: fact.value for fact in preference_facts(stage_of(tmp_path), [])}
    assert facts == {
        "verdicts": "14,000",
        "unreadable": "280 (2.0 %)",
        "refused": "0 (0.0 %)",
        "position bias": "-0.25 points",
        "spread": "0.796 points",
        "correlation with length": "+0.81",
        "longer is chosen": "98.4 %",
        "tokens sampled": "116,136",
        **spent,
    }


@pytest.mark.parametrize(
    ("step", "counts", "dashes"),
    [
        pytest.param(
            "preferences", {**PAIRS, "judge": {**PAIRS["judge"], "position_bias": None}}, 1, id="judged alone"
        ),
        pytest.param("preferences", {"prompts": 3, "kept": 0}, 6, id="counts of another version"),
        pytest.param("generate", {"prompts": 3, "sampled": 3, "kept": 0}, 0, id="another step"),
    ],
)
def test_what_a_judge_did_not_say_is_a_dash(tmp_path, step, counts, dashes):
    write_record(tmp_path, step, recipe={"step": step})
    (tmp_path / f"{step}.json").write_text(json.dumps(counts))
    assert [fact.value for fact in preference_facts(stage_of(tmp_path), [])].count("–") == dashes


def test_samples_of_preferences_are_a_pair_and_what_was_dropped(tmp_path):
    write_record(tmp_path, "preferences", recipe={"step": "preferences"})
    (tmp_path / "preferences.json").write_text(json.dumps(PAIRS))
    prompt = [{"role": "user", "content": "7+5=?"}]
    better, worse = ([{"role": "assistant", "content": text}] for text in ("7+5=12", "12"))
    of_pair = {"chosen": better, "rejected": worse, "chosen_score": 9.5, "rejected_score": 1.0}
    scored = {"prompt": prompt, "completion": "7+5=12", "refused": None, "dropped_for": None}
    tables = {
        "kept": [{"prompt": prompt, **of_pair, "chosen_tokens": 7, "rejected_tokens": 2}],
        "completions": [scored, {**scored, "completion": "7+", "dropped_for": "truncated"}],
    }
    for name, rows in tables.items():
        (tmp_path / name).mkdir()
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / name / "part-00000.parquet")
    stage = stage_of(tmp_path)
    notes: list[str] = []
    assert [(sample.verdict, sample.text, sample.num_tokens) for sample in samples_of(stage, [stage], notes)] == [
        ("chosen: score 9.5", "7+5=12", 7),
        ("rejected: score 1", "12", 2),
        ("dropped: truncated", "7+", None),
    ]
    assert notes == []


def test_what_a_reward_model_is_worth(tmp_path):
    write_record(tmp_path, "reward_model")
    (tmp_path / "reward_model.json").write_text(json.dumps(HELD_OUT))
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert {cells[0]: cells[1] for cells in cells_of(page) if len(cells) == 3} == {
        "accuracy": "98.6 % ± 1.0 %",
        "where the better answer is longer": "100.0 %",
        "where it is shorter": "–",
        "correlation with length": "+0.67",
        "calibration error": "0.0156",
        "loss": "0.0197 nats",
        "rewards": "+0.26 ± 3.57",
    }
    assert page.count("data:image/png;base64,") == 1  # the diagram; it logged nothing


@pytest.mark.parametrize("report", [{}, {"accuracy": float("nan"), "num_pairs": 0}, {"calibration": []}])
def test_a_report_without_numbers_has_no_diagram(report):
    assert draw_reliability(report) is None
    assert all(fact.value.startswith("–") for fact in reward_model_facts(report)[:6])


@pytest.mark.usefixtures("no_pictures")
def test_boxes_say_what_came_out_of_the_stages(tmp_path):
    stages = [{"name": name, "recipe": f"{name}.yaml"} for name in ("pairs", "rewards", "rl", "direct")]
    run = write_stages(
        tmp_path,
        stages,
        pairs={"step": "preferences", "recipe": {"step": "preferences"}},
        rewards={"step": "reward_model", "recipe": {"step": "reward_model"}},
        rl={"step": "grpo", "warnings": [STOPPED]},
        direct={"step": "dpo"},
    )
    (run / "pairs" / "preferences.json").write_text(json.dumps(PAIRS))
    (run / "rewards" / "reward_model.json").write_text(json.dumps(HELD_OUT))
    page = write_report(run).read_text(encoding="utf-8")
    for shown in ("kept 700 of 1,000", "accuracy 98.6 %", "stopped at step 20"):
        texts = re.findall(rf"<text [^>]*>[^<]*{re.escape(shown)}", page)
        assert len(texts) == 2, shown  # for a phone and for a desktop


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("broken", ["warnings.jsonl", "reward_model.json", "preferences.json", "judging-0.json"])
def test_a_broken_file_is_a_note(tmp_path, broken):
    write_record(tmp_path, "preferences", recipe={"step": "preferences"})
    (tmp_path / "preferences.json").write_text(json.dumps(PAIRS))
    (tmp_path / broken).write_text("[1\n")
    assert f"{tmp_path.name}/{broken}: cannot be read" in write_report(tmp_path).read_text(encoding="utf-8")
    assert table_text(tmp_path)
