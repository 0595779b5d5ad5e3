"""A run in shares is joined to what it would have been in one piece; a share that does not fit is never part of it."""

import json
import re
from pathlib import Path

import pyarrow.parquet as parquet
import pytest
from conftest import CPU_TRAINER, sums

from open_r1 import distill, evaluate, launch, running, shares, training
from open_r1.recipe import RecipeError, load_recipe
from open_r1.run_record import read_record, start_record, update_record
from open_r1.shares import Share, all_shares

TRAINER = {**CPU_TRAINER, "max_steps": 1, "save_strategy": "no", "per_device_train_batch_size": 4}
NUM_PROMPTS = 7


@pytest.fixture
def evaluate_recipe(write_recipe, smallest_model):
    """Three models, so that two shares are two pairs and one."""
    section = {"benchmarks": ["tiny_sums"], "num_problems": 4, "samples": 2, "batch_size": 3, "max_new_tokens": 12}
    section["models"] = {label: str(smallest_model) for label in ("first", "second", "third")}
    return write_recipe("evaluate.yaml", step="evaluate", evaluate=section, hardware={"usd_per_hour": 3600.0})


@pytest.fixture
def write_distill_recipe(write_recipe, smallest_model):
    """Writes a distill recipe with keys of its `distill` section, and other sections, over those of a short run."""

    def write(rewards=("rewards_of_tests:number_of_characters",), keep=None, **keys):
        return write_recipe(
            "distill.yaml",
            step="distill",
            model={"name": str(smallest_model)},
            data=[sums(NUM_PROMPTS)],
            rewards=list(rewards),
            distill={
                **{"teacher": str(smallest_model), "samples": 2, "batch_size": 4, "prompts_per_shard": 2},
                **{"max_completion_length": 64, **keys},
            },
            keep=keep or {"min_reward": 0.0},
            trainer=TRAINER,
            hardware={"usd_per_hour": 3600.0},
        )

    return write


# --- Which share


@pytest.mark.parametrize(
    ("step", "text", "message"),
    [
        ("distill", "5/5", "--share 5/5: there is no such share; they are counted from 0, and the last of 5 is 4/5"),
        ("distill", "0/0", "--share 0/0: there is no such share; .* there must be at least one: 0/1"),
        ("distill", "x", "--share x: it is no share; write index/count, e.g. 0/5 for the first of five"),
        ("distill", "1/2/3", "--share 1/2/3: it is no share"),
        ("distill", "1.0/2", "--share 1.0/2: it is no share"),
        ("distill", "", "--share : it is no share"),
        (
            "sft",
            "0/2",
            r"sft.yaml: step: sft has no shares \(evaluate, generate, distill, preferences have\); leave --share out",
        ),
    ],
)
def test_what_is_no_share_is_one_line_and_exit_code_2(
    step, text, message, write_recipe, write_distill_recipe, smallest_model, tmp_path, capsys
):
    sft = write_recipe("sft.yaml", step="sft", model={"name": str(smallest_model)}, data=[sums(4)], trainer=TRAINER)
    recipe = {"sft": sft, "distill": write_distill_recipe()}[step]
    assert launch.main([step, str(recipe), "--share", text, "--runs", str(tmp_path / "runs")]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error)
    assert error.count("\n") == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("count", [1, 2, 3, 5, 7, 9])
def test_every_item_is_in_one_share_and_shares_are_even(count):
    parts = [share.of("abcdefg") for share in all_shares(count)]
    assert "".join(parts) == "abcdefg"
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_a_directory_tells_its_share(tmp_path):
    assert shares.share_of(Share(5, 2).directory(tmp_path)) == Share(5, 2)
    assert shares.share_of(tmp_path / "shares") is None
    assert shares.share_of(tmp_path / "2-of-5") is None  # not below shares/
    assert shares.share_of(tmp_path / "shares" / "2-of-5.stale1") is None


# --- Which shares a run takes up


PARENTS = [{"name": "base", "run": "x", "weights_sha256": "a"}]


@pytest.fixture
def begun(evaluate_recipe, tmp_path):
    """The recipe and the directory of a run whose record has just been started."""
    recipe = load_recipe(evaluate_recipe)
    run_dir = tmp_path / "run"
    start_record(run_dir, recipe, "x.yaml", PARENTS)
    update_record(run_dir, rubrics={"preferences.rubric": "a"})
    return recipe, run_dir


def leave_share(run_dir, recipe, share: Share, **fields):
    """A share as its own job leaves it, with fields of its record set to something else."""
    directory = share.directory(run_dir)
    start_record(directory, recipe, "x.yaml", PARENTS)
    update_record(directory, **{"status": "done", "seconds": 10.0 + share.index, **fields})


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"status": "failed"}, r"it is not done \(failed\)"),
        ({"status": "interrupted"}, r"it is not done \(interrupted\)"),
        ({"status": "running"}, r"it is not done \(running\)"),
        ({"recipe_sha256": "other"}, "it was made by another recipe"),
        ({"parents": [{**PARENTS[0], "weights_sha256": "b"}]}, "it began from other weights"),
        ({"parents": []}, "it began from other weights"),
        ({"rubrics": {"preferences.rubric": "b"}}, "its rubric was another one"),
    ],
)
def test_a_share_that_does_not_fit_is_not_taken_up_and_told(fields, reason, begun, capsys):
    recipe, run_dir = begun
    leave_share(run_dir, recipe, Share(2, 0), **fields)
    leave_share(run_dir, recipe, Share(2, 1))
    shares.take_up(run_dir, [])
    assert list(shares.taken_up(run_dir)) == [Share(2, 1)]
    assert re.fullmatch(rf"not taken up: share 0/2: {reason}.*\n", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("finished", "taken"),
    [
        ([(2, 0), (3, 0)], [(2, 0)]),  # a half is more than a third
        ([(2, 0), (3, 0), (3, 2)], [(3, 0), (3, 2)]),
        ([(2, 0), (2, 1), (1, 0)], [(2, 0), (2, 1)]),
    ],
)
def test_shares_of_one_count_are_taken_up(finished, taken, begun, capsys):
    recipe, run_dir = begun
    for share in finished:
        leave_share(run_dir, recipe, Share(*share))
    shares.take_up(run_dir, [])
    assert list(shares.taken_up(run_dir)) == [Share(*share) for share in taken]
    assert capsys.readouterr().err.count("this run is joined from shares of") == len(finished) - len(taken)


def test_a_run_that_is_taken_up_keeps_to_its_shares_and_counts_their_seconds_once(begun):
    recipe, run_dir = begun
    update_record(run_dir, seconds=5.0, attempt_started_at=None)
    leave_share(run_dir, recipe, Share(3, 0))
    for number_of_attempt in range(2):
        earlier = shares.shares_in_record(run_dir)
        if number_of_attempt == 1:
            start_record(run_dir, recipe, "x.yaml", PARENTS)  # and killed at once
            earlier = shares.shares_in_record(run_dir)
            start_record(run_dir, recipe, "x.yaml", PARENTS)
            leave_share(run_dir, recipe, Share(2, 0))
            leave_share(run_dir, recipe, Share(2, 1))  # all of two; but a third has been taken
            leave_share(run_dir, recipe, Share(3, 2))
        shares.take_up(run_dir, earlier)
    assert [entry["share"] for entry in read_record(run_dir)["shares"]] == ["0/3", "2/3"]
    assert read_record(run_dir)["seconds"] == pytest.approx(5.0 + 10.0 + 12.0, abs=0.5)


def test_what_a_run_has_done_itself_is_not_taken_from_shares(begun):
    recipe, run_dir = begun
    leave_share(run_dir, recipe, Share(1, 0))
    (run_dir / "scores.json").write_text("{}")
    shares.take_up(run_dir, [])
    assert shares.taken_up(run_dir) == {}


def test_a_share_at_work_holds_the_joining_run_back(begun):
    recipe, run_dir = begun
    leave_share(run_dir, recipe, Share(2, 0))
    with (
        running.alone_at_work(Share(2, 0).directory(run_dir)),
        pytest.raises(RecipeError, match="0-of-2: another process is at work on this run"),
    ):
        running.launch(recipe, run_dir, PARENTS)


def test_shares_stay_where_a_run_from_other_weights_is_moved_away(begun, monkeypatch, capsys):
    recipe, run_dir = begun
    (run_dir / "completions").mkdir()
    new_parents = [{**PARENTS[0], "weights_sha256": "b"}]
    leave_share(run_dir, recipe, Share(2, 0))
    leave_share(run_dir, recipe, Share(2, 1), parents=new_parents)
    monkeypatch.setattr(running, "_run", lambda argv, environment: 0)
    assert running.launch(recipe, run_dir, new_parents) == 0
    assert list(shares.taken_up(run_dir)) == [Share(2, 1)]
    assert not (run_dir / "completions").exists()
    stale = run_dir.with_name("run.stale1")
    assert (read_record(stale)["parents"], (stale / "completions").is_dir()) == (PARENTS, True)


# --- evaluate


def without_seconds(scores: dict) -> dict:
    for score in scores.values():
        for entry in score["benchmarks"].values():
            del entry["seconds"]
    return scores


def answers_of(run_dir) -> dict:
    return {file.name: parquet.read_table(file).to_pylist() for file in (run_dir / "completions").glob("*.parquet")}


def run_here(argv: list[str], environment: dict[str, str]) -> int:
    """What the process of an evaluate step does, in this one: it takes ten seconds to start."""
    run_dir = Path(argv[-1])
    evaluate.evaluate(load_recipe(run_dir / "recipe.yaml"), run_dir)
    return 0


LAUNCHED = pytest.param(running._run, marks=pytest.mark.slow)


@pytest.mark.parametrize("run", [run_here, LAUNCHED], ids=["here", "launched"])
def test_evaluation_joined_from_a_share_is_that_of_one_run(run, evaluate_recipe, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(running, "_run", run)
    whole = tmp_path / "whole"
    whole.mkdir()
    evaluate.evaluate(load_recipe(evaluate_recipe), whole)

    command = ["evaluate", str(evaluate_recipe), "--runs", str(tmp_path / "runs")]
    run_dir = running.run_directory(load_recipe(evaluate_recipe), tmp_path / "runs")
    assert launch.main([*command, "--share", "0/2"]) == 0
    share = Share(2, 0).directory(run_dir)
    assert list(read_record(share)["scores"]) == ["first", "second"]
    assert not (run_dir / "run.json").exists()
    assert [path.name for path in share.parent.iterdir() if not path.name.startswith(".")] == ["0-of-2"]
    made_at = (share / "run.json").stat().st_mtime_ns
    assert launch.main([*command, "--share", "0/2"]) == 0
    assert "0-of-2 is done already" in capfd.readouterr().out

    assert launch.main(command) == 0
    printed = capfd.readouterr()
    assert "third on tiny_sums" in printed.err
    assert "first on tiny_sums" not in printed.err  # it was taken up, not computed
    scores = json.loads((run_dir / "scores.json").read_text())
    assert list(scores) == ["first", "second", "third"]
    assert without_seconds(scores) == without_seconds(json.loads((whole / "scores.json").read_text()))
    assert answers_of(run_dir) == answers_of(whole)
    record = read_record(run_dir)
    seconds_of_share = read_record(share)["seconds"]
    assert record["shares"] == [{"share": "0/2", "seconds": seconds_of_share, "run": str(share)}]
    assert record["cost_usd"] == pytest.approx(record["seconds"]) and record["seconds"] > seconds_of_share
    assert (share / "run.json").stat().st_mtime_ns == made_at

    assert launch.main([*command, "--share", "1/2"]) == 0
    assert "is done already; it needs no share 1/2" in capfd.readouterr().out


@pytest.mark.parametrize("missing", [None, 1], ids=["all shares", "one is missing"])
def test_more_shares_than_pairs_have_a_part_of_one_each(missing, evaluate_recipe, tmp_path, capfd):
    recipe = load_recipe(evaluate_recipe)
    run_dir, whole = tmp_path / "run", tmp_path / "whole"
    whole.mkdir()
    evaluate.evaluate(recipe, whole)
    finished = [share for share in all_shares(7) if share.index != missing]
    for share in finished:
        share.directory(run_dir).mkdir(parents=True)
        evaluate.evaluate(recipe, share.directory(run_dir))
    assert json.loads((Share(7, 0).directory(run_dir) / "scores.json").read_text()) == {}  # a part has no score
    entries = [{"share": str(share), "seconds": 1.0, "run": str(share.directory(run_dir))} for share in finished]
    (run_dir / "run.json").write_text(json.dumps({"shares": entries}))
    capfd.readouterr()
    evaluate.evaluate(recipe, run_dir)
    begins_at = re.search(r"first on tiny_sums: +(\d+)%", capfd.readouterr().err)
    assert (int(begins_at[1]) < 100) == (missing is not None)  # what shares have sampled is not sampled again
    scores = [json.loads((each / "scores.json").read_text()) for each in (run_dir, whole)]
    seconds_of_parts = [
        json.loads(file.read_text())["seconds"]
        for file in run_dir.glob("shares/*/completions/first-tiny_sums.part.json")
    ]
    assert len(seconds_of_parts) == (3 if missing is None else 2)
    assert scores[0]["first"]["benchmarks"]["tiny_sums"]["seconds"] > sum(seconds_of_parts)
    assert without_seconds(scores[0]) == without_seconds(scores[1])
    assert answers_of(run_dir) == answers_of(whole)
    assert not list((run_dir / "completions").glob("*.jsonl"))


@pytest.mark.parametrize(
    ("num_items", "count", "parts"),
    [
        (3, 2, ["ab", "c"]),
        (3, 3, ["a", "b", "c"]),
        (3, 4, ["a0/2", "a1/2", "b", "c"]),
        (3, 7, ["a0/3", "a1/3", "a2/3", "b0/2", "b1/2", "c0/2", "c1/2"]),
        (1, 3, ["a0/3", "a1/3", "a2/3"]),
        (0, 2, ["", ""]),
    ],
)
def test_more_shares_than_items_share_the_items(num_items, count, parts):
    told = [
        "".join(item + (str(part) if part else "") for item, part in share.parts_of("abc"[:num_items]))
        for share in all_shares(count)
    ]
    assert told == parts


# --- distill


@pytest.fixture
def distill_in(tmp_path, monkeypatch):
    """Runs the step in this process, but for its training, in a directory of tmp_path, and gives that."""
    monkeypatch.setattr(training, "fine_tune", lambda *arguments: None)

    def run(recipe_file, name, taken=()):
        run_dir = tmp_path / name
        run_dir.mkdir(parents=True, exist_ok=True)
        if taken:
            entries = [{"share": str(s), "seconds": 1.0, "run": str(s.directory(run_dir))} for s in taken]
            (run_dir / "run.json").write_text(json.dumps({"shares": entries}))
        distill.distill(load_recipe(recipe_file), run_dir)
        return run_dir

    return run


def traces_of(run_dir) -> list[dict]:
    files = sorted((run_dir / "completions").glob("*.parquet"))
    return [row for file in files for row in parquet.read_table(file).to_pylist()]


@pytest.mark.parametrize("count", [3, NUM_PROMPTS + 1])
def test_traces_of_shares_are_those_of_one_run(count, write_distill_recipe, distill_in):
    file = write_distill_recipe()
    for share in all_shares(count):
        distill_in(file, f"run/shares/{share.name}")
    joined = distill_in(file, "run", taken=all_shares(count))
    assert traces_of(joined) == traces_of(distill_in(file, "whole"))
    assert json.loads((joined / "distill.json").read_text())["prompts"] == NUM_PROMPTS


@pytest.mark.parametrize(
    ("limits", "reason"),
    [({"max_per_prompt": 1}, "beyond max_per_prompt"), ({"max_traces": 3}, "beyond max_traces")],
)
def test_limits_are_those_of_the_joined_run(limits, reason, write_distill_recipe, distill_in):
    file = write_distill_recipe(keep={"min_reward": 0.0, **limits})
    for share in all_shares(2):
        distill_in(file, f"run/shares/{share.name}")
    run_dir = distill_in(file, "run", taken=all_shares(2))
    kept = [str(row["prompt"]) for row in parquet.read_table(run_dir / "kept").to_pylist()]
    assert len(kept) == (len(set(kept)) if "max_per_prompt" in limits else 3)
    assert json.loads((run_dir / "distill.json").read_text())["dropped"][reason] > 0


@pytest.mark.slow
def test_distillation_from_shares_through_the_launcher(write_distill_recipe, tmp_path, capfd):
    file = write_distill_recipe(rewards=["format"])
    command = ["distill", str(file), "--runs", str(tmp_path / "runs")]
    run_dir = running.run_directory(load_recipe(file), tmp_path / "runs")
    assert launch.main([*command, "--share", "1/2"]) == 0
    share = Share(2, 1).directory(run_dir)
    assert not (share / "model").exists()
    capfd.readouterr()
    assert launch.main(command) == 0
    assert "sampling: 100%" in capfd.readouterr().err  # the other share
    assert traces_of(run_dir)[2 * 4 :] == traces_of(share)
    assert (run_dir / "model" / "model.safetensors").exists()
    assert read_record(run_dir)["shares"][0]["run"] == str(share)
