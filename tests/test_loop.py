"""A pipeline's loop written out, what stages refer to, and gates between them."""

import json

import pytest
from conftest import sums

from open_r1 import gates, launch, stages
from open_r1 import pipeline as pipeline_step
from open_r1.recipe import Gate, RecipeError, Stage, load_recipe
from open_r1.recipe.loop import SEEDS_APART, references_in
from open_r1.step_process import RunStopped

STAGES = [
    {"name": "cold_start", "recipe": "sft.yaml"},
    {"name": "rl", "recipe": "grpo.yaml", "set": {"model.name": "stage:cold_start"}},
    {"name": "sampling", "recipe": "generate.yaml", "set": {"model": {"name": "stage:rl"}}},
    {"name": "sft", "recipe": "sft.yaml", "set": {"data": [{"path": "stage:sampling/prompts"}, {"path": "./x.jsonl"}]}},
    {
        "name": "scores",
        "recipe": "evaluate.yaml",
        "set": {"evaluate.models": {"base": "./b", "sft": "stage:sft"}},
        "gate": [{"metric": "sft/tiny_sums/pass@1", "at_least": 0.5}],
    },
    {"name": "student", "recipe": "distill.yaml", "set": {"distill.teacher": "stage:sft"}},
    {
        "name": "evaluation",
        "recipe": "evaluate.yaml",
        "set": {"evaluate": {"models": {"rl": "stage:rl", "sft": "stage:sft"}}},
    },
]
LOOP = {"stages": ["sampling", "sft", "scores"], "feeds": {"rl": "sft"}, "rounds": 3}


@pytest.fixture
def pipeline(write_recipe):
    def load(seed: int = 0, **loop):
        return load_recipe(write_recipe(step="pipeline", seed=seed, stages=STAGES, loop=LOOP | loop))

    return load


def test_references_are_found_wherever_they_stand():
    values = {"a.b": "stage:x", "c": {"d": ["no", "stage:y/prompts"]}, "e": 1}
    assert references_in(values) == {"a.b": "stage:x", "c.d.1": "stage:y/prompts"}


def test_one_round_is_the_pipeline_as_it_is_written(pipeline):
    recipe = pipeline(rounds=1)
    assert [stage.model_dump(exclude_defaults=True)["name"] for stage in recipe.stages] == [s["name"] for s in STAGES]
    assert recipe.stages[2].set == STAGES[2]["set"]


def test_rounds_follow_each_other_and_each_begins_with_what_the_last_one_made(pipeline):
    recipe = pipeline(seed=5)
    sets = {stage.name: stage.set for stage in recipe.stages}
    block = ["sampling", "sft", "scores"]
    rounds = [name if number == 1 else f"{name}_{number}" for number in (1, 2, 3) for name in block]
    assert list(sets) == ["cold_start", "rl", *rounds, "student", "evaluation"]
    assert sets["sampling_2"] == {"model.name": "stage:sft", "seed": 5 + SEEDS_APART}
    assert sets["sampling_3"] == {"model.name": "stage:sft_2", "seed": 5 + 2 * SEEDS_APART}
    assert sets["sft_3"]["data.0.path"] == "stage:sampling_3/prompts"
    assert sets["sft_3"]["data"][1] == {"path": "./x.jsonl"}


def test_behind_the_loop_the_last_round_counts_and_all_are_scored(pipeline):
    sets = {stage.name: stage.set for stage in pipeline().stages}
    assert sets["student"] == {"distill.teacher": "stage:sft_3"}
    labels = {"rl": "stage:rl", "sft": "stage:sft", "sft_2": "stage:sft_2", "sft_3": "stage:sft_3"}
    assert sets["evaluation"] == {f"evaluate.models.{label}": name for label, name in labels.items()}


def test_gates_and_labels_inside_are_those_of_their_round(pipeline):
    (second,) = (stage for stage in pipeline().stages if stage.name == "scores_2")
    assert second.set["evaluate.models.sft_2"] == "stage:sft_2"
    assert second.set["evaluate.models.base"] == "./b"
    assert [gate.metric for gate in second.gate] == ["sft_2/tiny_sums/pass@1"]


@pytest.mark.parametrize(
    ("loop", "message"),
    [
        ({"stages": ["sampling", "scores"]}, "loop.stages: sampling, scores do not follow each other in stages"),
        ({"stages": ["sampler"]}, "loop: no stage is called 'sampler'"),
        ({"feeds": {"student": "sft"}}, "loop.feeds.student: it is no stage before the loop"),
        (
            {"feeds": {"rl": "cold_start"}},
            r"loop.feeds.rl: cold_start is no stage of the loop \(sampling, sft, scores\)",
        ),
        ({"feeds": {}}, "loop.feeds: missing; without it every round begins where the first began"),
    ],
)
def test_mistakes_in_a_loop(loop, message, pipeline):
    with pytest.raises(RecipeError, match=message):
        pipeline(**loop)


def test_loop_of_what_is_no_pipeline_is_refused(write_recipe):
    with pytest.raises(RecipeError, match="loop: step evaluate has no stages; remove it"):
        load_recipe(write_recipe(step="evaluate", evaluate={"benchmarks": ["tiny_sums"]}, loop={"stages": ["x"]}))


def test_references_mean_models_and_rows_of_the_run(write_recipe, pipeline, tmp_path):
    write_recipe("sft.yaml", step="sft", model={"name": "./m"}, data=[{"path": "./y.jsonl"}], trainer={"max_steps": 1})
    stage = Stage(
        name="s",
        recipe="sft.yaml",
        set={"model.name": "stage:a", "data": [{"path": "stage:b"}, {"path": "stage:c/prompts"}]},
    )
    recipe = stages.stage_recipe(pipeline(), stage, tmp_path / "run")
    assert recipe.model.name == str(tmp_path / "run/a/model")
    assert [source.path for source in recipe.data] == [str(tmp_path / "run/b/kept"), str(tmp_path / "run/c/prompts")]


# --- gates


@pytest.fixture
def stage_dir(tmp_path):
    """A stage that has scored, sampled and trained."""

    def leave(**files):
        for name, content in files.items():
            suffix = "jsonl" if name == "metrics" else "json"
            text = "\n".join(map(json.dumps, content)) if suffix == "jsonl" else json.dumps(content)
            (tmp_path / f"{name}.{suffix}").write_text(text)
        return tmp_path

    return leave


SCORES = {"rl": {"benchmarks": {"sums": {"pass@1": 0.4}, "other": {"pass@1": None, "refused": "62 % cut off"}}}}
METRICS = [{"step": step, "reward": step / 10, **({"loss": 1.0} if step > 8 else {})} for step in range(11)]


@pytest.mark.parametrize(
    ("files", "gate", "value"),
    [
        ({"scores": SCORES}, {"metric": "rl/sums/pass@1"}, 0.4),
        ({"scores": SCORES}, {"metric": "rl/other/pass@1"}, "62 % cut off"),
        ({"scores": SCORES}, {"metric": "rl/none/pass@1"}, "scores.json has none of rl on none"),
        ({"generate": {"kept": 7, "kept_share": 0.7}}, {"metric": "kept"}, 7.0),
        ({"distill": {"kept_share": 0.7}, "metrics": METRICS}, {"metric": "kept_share"}, 0.7),
        ({"distill": {"kept_share": 0.7}, "metrics": METRICS}, {"metric": "reward", "last_logs": 2}, 0.95),
        ({"metrics": METRICS}, {"metric": "reward"}, 0.55),
        ({"metrics": METRICS}, {"metric": "loss"}, 1.0),
        ({"metrics": METRICS}, {"metric": "accuracy"}, "metrics.jsonl has no accuracy"),
    ],
)
def test_value_of_a_gate(files, gate, value, stage_dir):
    found = gates.value_of(Gate(**gate, at_least=0.0), stage_dir(**files))
    assert found == (value if isinstance(value, str) else pytest.approx(value))


@pytest.mark.parametrize(
    ("demand", "missed"),
    [
        ({"at_least": 0.4}, None),
        ({"at_least": 0.41}, "at least 0.41"),
        ({"at_most": 0.4}, None),
        ({"at_most": 0.39}, "at most 0.39"),
        ({"at_least": 0.1, "at_most": 0.2}, "at most 0.2"),
    ],
)
def test_what_a_gate_misses(demand, missed):
    assert gates.demand_missed(Gate(metric="m", **demand), 0.4) == missed


@pytest.mark.parametrize("metric", ["rl/sums/pass@1", "rl/other/pass@1"])
def test_gate_that_is_missed_stops_with_one_line(metric, pipeline, stage_dir):
    stage = Stage(name="scores", recipe="e.yaml", gate=[Gate(metric=metric, at_least=0.5)])
    with pytest.raises(
        RunStopped, match=rf"recipe.yaml: stages.scores.gate.0: {metric} (is 0.4|has no value \(62)"
    ) as stop:
        gates.check_gate(pipeline(), stage, stage_dir(scores=SCORES))
    assert "\n" not in str(stop.value)


def test_gate_without_a_demand_is_refused(write_recipe):
    with pytest.raises(RecipeError, match="stages.0.gate.0: kept: nothing is demanded of it; give at_least or at_most"):
        load_recipe(
            write_recipe(step="pipeline", stages=[{"name": "a", "recipe": "b.yaml", "gate": [{"metric": "kept"}]}])
        )


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        ("pass@1", "'pass@1' is no score; write <label>/<benchmark>/<metric>, e.g. base/tiny_sums/pass@1"),
        ("bass/tiny_sums/pass@1", "'bass' is not scored there (labels: base); did you mean base?"),
        ("base/tiny_sum/pass@1", "'tiny_sum' is no benchmark there (tiny_sums); did you mean tiny_sums?"),
    ],
)
def test_gate_that_can_have_no_value_is_told_by_the_check(
    metric, message, write_recipe, smallest_model, tmp_path, capsys
):
    write_recipe(
        "e.yaml", step="evaluate", evaluate={"benchmarks": ["tiny_sums"], "models": {"base": str(smallest_model)}}
    )
    gate = [{"metric": metric, "at_least": 0.1}]
    file = write_recipe(step="pipeline", stages=[{"name": "scores", "recipe": "e.yaml", "gate": gate}])
    assert launch.main(["pipeline", str(file), "--runs", str(tmp_path / "runs")]) == 2
    assert f"stages.scores.gate.0.metric: {message}" in capsys.readouterr().err


@pytest.mark.parametrize("step", ["generate", "preferences"])
def test_gate_of_what_is_not_counted_is_told_by_the_check(step, write_recipe, smallest_model, tmp_path, capsys):
    (tmp_path / "rubric.yaml").write_text("{description: D., principles: [{name: order, text: 'In order?'}]}")
    section = {"max_completion_length": 9, "samples": 2}
    of_step = {
        "generate": {"generate": section},
        "preferences": {
            "preferences": {**section, "rubric": "rubric.yaml"},
            "judge": {"name": str(smallest_model)},
        },
    }
    write_recipe("s.yaml", step=step, model={"name": str(smallest_model)}, data=[sums(4)], **of_step[step])
    gate = [{"metric": "kept_shar", "at_least": 0.1}]
    file = write_recipe(step="pipeline", stages=[{"name": "sampled", "recipe": "s.yaml", "gate": gate}])
    assert launch.main(["pipeline", str(file), "--runs", str(tmp_path / "runs")]) == 2
    told = f"gate.0.metric: 'kept_shar' is not counted by step {step} (known: kept, kept_share, sampled, prompts)"
    assert f"{told}; did you mean kept_share?" in capsys.readouterr().err


def test_pipeline_waits_at_its_gate_and_goes_on_when_it_is_lowered(write_recipe, smallest_model, tmp_path, capfd):
    section = {"benchmarks": ["tiny_sums"], "num_problems": 2, "max_new_tokens": 4, "max_truncated_share": None}
    write_recipe("e.yaml", step="evaluate", evaluate={**section, "models": {"base": str(smallest_model)}})
    gate = [{"metric": "base/tiny_sums/pass@1", "at_least": 0.5}]
    two = [{"name": "first", "recipe": "e.yaml", "gate": gate}, {"name": "second", "recipe": "e.yaml"}]
    command = ["pipeline", str(write_recipe(step="pipeline", stages=two)), "--runs", str(tmp_path / "runs")]
    assert launch.main(command) == 3
    assert "base/tiny_sums/pass@1 is 0, but at least 0.5 is demanded" in capfd.readouterr().err
    (run_dir,) = (path for path in (tmp_path / "runs" / "recipe").iterdir() if path.is_dir())
    assert not (run_dir / "second").exists()
    assert launch.main([*command, "stages.first.gate.0.at_least=0.0"]) == 0
    assert "[1/2] first: done already" in capfd.readouterr().out
    assert (run_dir / "second" / "scores.json").exists()


def test_models_without_a_label_have_the_name_of_the_stage_that_made_them(write_recipe, tmp_path):
    two = {"a_scored": {"model": {"name": "stage:a"}}, "b_scored": {"model.name": "stage:b"}, "all": {}}
    written = [{"name": name, "recipe": "e.yaml", "set": values} for name, values in two.items()]
    recipe = load_recipe(write_recipe(step="pipeline", stages=written))
    for name, scores in zip(two, ({"model": 1}, {"model": 2}, {"base": 3}), strict=True):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text(json.dumps({"scores": scores}))
    pipeline_step.gather_scores(recipe, tmp_path)
    assert json.loads((tmp_path / "scores.json").read_text()) == {"a": 1, "b": 2, "base": 3}
