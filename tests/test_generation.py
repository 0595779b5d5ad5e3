"""Completions in shards: what a kill leaves, what shares and processes divide, and what the step leaves behind."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import textwrap
from collections import Counter

import pyarrow.parquet as parquet
import pytest
from conftest import sums
from openai_server import OpenAIServer

from open_r1 import generate, launch, running
from open_r1.curation import sampling
from open_r1.generation import Completion, Sampling, client, shards
from open_r1.generation.progress import Watch
from open_r1.generation.shards import Journal, Shard, num_journaled, sample_shard, seed_of_shard, shards_of
from open_r1.recipe import RecipeError, load_recipe
from open_r1.run_record import read_record
from open_r1.shares import all_shares
from open_r1.step_process import RunStopped

SAMPLING = Sampling(temperature=1.0, top_p=1.0, max_new_tokens=8, num_samples=2, batch_size=4, seed=7)
CONVERSATIONS = [[{"role": "user", "content": str(number)}] for number in range(3)]


class Counting:
    """A backend whose completions say what was asked; it breaks after `breaks_after` rows."""

    def __init__(self, breaks_after: int | None = None):
        self.asked: list = []
        self.breaks_after = breaks_after

    def sample(self, conversations, sampling, wanted=None):
        rows = [(index, sample) for index in range(len(conversations)) for sample in range(sampling.num_samples)]
        for row in reversed([row for row in rows if wanted is None or row in wanted]):
            if self.breaks_after is not None and len(self.asked) == self.breaks_after:
                raise KeyboardInterrupt
            self.asked.append(row)
            yield (
                row,
                Completion(f"{conversations[row[0]][0]['content']}/{row[1]}/{sampling.seed}", 3, False, (1, 2, 3)),
            )

    def counts(self):
        return {}


def texts(completions_PG) -> list[list[str]]:
    return [[completion.text for completion in group] for group in completions_PG]


# --- shards and journals


@pytest.mark.parametrize(
    ("num_prompts", "per_shard", "bounds"),
    [(0, 4, []), (3, 4, [(0, 3)]), (4, 4, [(0, 4)]), (9, 4, [(0, 4), (4, 8), (8, 9)])],
)
def test_every_prompt_is_in_one_shard(num_prompts, per_shard, bounds):
    assert [(shard.start, shard.stop) for shard in shards_of(num_prompts, per_shard)] == bounds


def test_seeds_of_shards_and_runs_differ():
    seeds = {seed_of_shard(seed, Shard(number, 0, 1)) for seed in range(20) for number in range(20)}
    assert len(seeds) == 400


def test_completions_are_in_order_whatever_order_they_end_in(tmp_path):
    backend, shard = Counting(), Shard(0, 0, 3)
    seed = seed_of_shard(7, shard)
    completions = sample_shard(shard, CONVERSATIONS, backend, SAMPLING, tmp_path, Watch(6, "", shown=False))
    assert texts(completions) == [
        [f"0/0/{seed}", f"0/1/{seed}"],
        [f"1/0/{seed}", f"1/1/{seed}"],
        [f"2/0/{seed}", f"2/1/{seed}"],
    ]
    assert backend.asked[0] == (2, 1)


@pytest.mark.parametrize("breaks_after", range(7))
def test_what_was_finished_is_not_asked_again(breaks_after, tmp_path):
    shard, watch = Shard(0, 0, 3), Watch(6, "", shown=False)
    broken, other = Counting(breaks_after), Counting()
    if breaks_after < 6:
        with pytest.raises(KeyboardInterrupt):
            sample_shard(shard, CONVERSATIONS, broken, SAMPLING, tmp_path, watch)
    else:
        sample_shard(shard, CONVERSATIONS, broken, SAMPLING, tmp_path, watch)
    assert num_journaled(shard, tmp_path) == breaks_after
    completions = sample_shard(shard, CONVERSATIONS, other, SAMPLING, tmp_path, watch)
    assert Counter(broken.asked + other.asked) == Counter((index, sample) for index in range(3) for sample in range(2))
    seed = seed_of_shard(7, shard)
    assert texts(completions) == [[f"{index}/{sample}/{seed}" for sample in range(2)] for index in range(3)]


@pytest.mark.parametrize(
    "half", ['{"row": [1, 0], "te', '{"row": [1, 0], "text": "a", "num_tokens": 1, "truncated": false}']
)
def test_half_a_line_of_a_journal_is_none(half, tmp_path):
    file = tmp_path / "part.jsonl"
    with Journal(file) as journal:
        journal.add((0, 0), Completion("é\ud800\n", 2, True, (5, 6), None))
    with file.open("a") as lines:
        lines.write(half)
    with Journal(file) as journal:
        assert list(journal.finished) == [(0, 0)]
        journal.add((1, 0), Completion("b", 1, False))
    with Journal(file) as journal:
        assert journal.finished == {(0, 0): Completion("é\ud800\n", 2, True), (1, 0): Completion("b", 1, False)}


# --- the step


@pytest.fixture
def write_generate_recipe(write_recipe, smallest_model):
    """Writes a generate recipe with keys of its `generate` section, and other sections, over those of a short run."""

    def write(**sections):
        given = {"samples": 2, "max_completion_length": 64, "batch_size": 6, "prompts_per_shard": 3}
        values = {
            "step": "generate",
            "model": {"name": str(smallest_model)},
            "data": [sums(8)],
            "rewards": ["format"],
            "keep": {"min_reward": 0.0},
            **sections,
        }
        values["generate"] = given | sections.get("generate", {})
        return write_recipe("generate.yaml", **values)

    return write


@pytest.fixture
def generate_in(tmp_path):
    """Runs the step in this process in a directory of tmp_path, with the shares it has taken up, and gives that."""

    def run(recipe_file, name, taken=()):
        run_dir = tmp_path / name
        run_dir.mkdir(parents=True, exist_ok=True)
        if taken:
            entries = [{"share": str(s), "seconds": 1.0, "run": str(s.directory(run_dir))} for s in taken]
            (run_dir / "run.json").write_text(json.dumps({"shares": entries}))
        generate.generate(load_recipe(recipe_file), run_dir)
        return run_dir

    return run


def rows_in(run_dir, folder="completions") -> list[dict]:
    return [
        row for file in sorted((run_dir / folder).glob("*.parquet")) for row in parquet.read_table(file).to_pylist()
    ]


def test_step_leaves_completions_kept_ones_and_pass_rates(write_generate_recipe, generate_in):
    run_dir = generate_in(write_generate_recipe(), "run")
    counts = json.loads((run_dir / "generate.json").read_text())
    completions, kept, prompts = (rows_in(run_dir, folder) for folder in ("completions", "kept", "prompts"))
    assert [row["id"] for row in completions] == [f"{index}-{sample}" for index in range(8) for sample in range(2)]
    assert counts["prompts"] == 8 == len(prompts)
    assert counts["sampled"] == 16 == counts["kept"] + sum(counts["dropped"].values())
    assert counts["kept"] == len(kept) == sum(row["dropped_for"] is None for row in completions)
    assert {row["pass_rate"] for row in prompts} <= {0.0, 0.5, 1.0}
    assert counts["tokens"] == sum(row["num_tokens"] for row in completions)
    assert sorted(path.name for path in (run_dir / "completions").iterdir()) == [
        f"part-0000{n}.parquet" for n in range(3)
    ]


@pytest.mark.parametrize("count", [2, 3, 5])
def test_shares_give_what_one_run_gives(count, write_generate_recipe, generate_in):
    file = write_generate_recipe()
    for share in all_shares(count):
        directory = generate_in(file, f"run/shares/{share.name}")
        assert not (directory / "kept").exists()
    joined, whole = generate_in(file, "run", taken=all_shares(count)), generate_in(file, "whole")
    for folder in ("completions", "kept", "prompts"):
        assert rows_in(joined, folder) == rows_in(whole, folder)


def test_share_that_is_missing_is_sampled_where_all_are_joined(write_generate_recipe, generate_in):
    file = write_generate_recipe()
    generate_in(file, "run/shares/1-of-3")
    joined, whole = generate_in(file, "run", taken=[all_shares(3)[1]]), generate_in(file, "whole")
    assert rows_in(joined) == rows_in(whole)


@pytest.mark.slow
def test_two_processes_give_what_one_gives(write_generate_recipe, tmp_path):
    file, found = write_generate_recipe(), []
    for processes in (1, 2):
        hardware = [f"hardware.processes_per_node={processes}", "hardware.threads_per_process=1"]
        assert launch.main(["generate", str(file), *hardware, "--runs", str(tmp_path / "runs")]) == 0
        found.append(rows_in(running.run_directory(load_recipe(file, hardware), tmp_path / "runs")))
    assert found[0] == found[1]


KILLED = """
    import os, signal, sys
    from pathlib import Path
    from open_r1 import generate
    from open_r1.generation import shards
    from open_r1.recipe import load_recipe

    journal_add, left = shards.Journal.add, int(sys.argv[3])

    def add(self, row, completion):
        global left
        journal_add(self, row, completion)
        with open(sys.argv[4], "a") as asked:
            asked.write(f"{self.file.stem} {row}\\n")
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    shards.Journal.add = add
    generate.generate(load_recipe(sys.argv[1]), Path(sys.argv[2]))
"""


@pytest.mark.slow
def test_killed_ten_times_no_row_is_lost_and_none_is_there_twice(write_generate_recipe, generate_in, tmp_path):
    file = write_generate_recipe(data=[sums(30)], generate={"prompts_per_shard": 7})
    program, run_dir, asked = tmp_path / "killed.py", tmp_path / "run", tmp_path / "asked"
    program.write_text(textwrap.dedent(KILLED))
    run_dir.mkdir()
    endings = []
    for _ in range(11):
        command = [sys.executable, str(program), str(file), str(run_dir), "5", str(asked)]
        endings.append(subprocess.run(command, capture_output=True, env=os.environ).returncode)
    assert endings[:10] == [-signal.SIGKILL] * 10
    generate.generate(load_recipe(file), run_dir)
    assert rows_in(run_dir) == rows_in(generate_in(file, "in_one_piece"))
    assert len(set(asked.read_text().splitlines())) == len(asked.read_text().splitlines()) >= 50


def test_row_that_is_there_is_not_sampled_again(write_generate_recipe, generate_in, monkeypatch):
    file = write_generate_recipe()
    run_dir = generate_in(file, "run")
    monkeypatch.setattr(sampling, "backend_of", lambda *arguments: pytest.fail("it was sampled again"))
    (run_dir / "generate.json").unlink()
    generate_in(file, "run")
    assert (run_dir / "generate.json").exists()


def test_judge_that_breaks_stops_the_run_and_loses_no_completion(write_generate_recipe, generate_in, tmp_path):
    file = write_generate_recipe(rewards=["test_generation:no_verdict"], generate={"max_completion_length": 100})
    with pytest.raises(RunStopped, match=r"(\d) of \1 completions got no verdict \(guards.max_judge_failed_share: 0.1"):
        generate_in(file, "run")
    assert num_journaled(shards.Shard(0, 0, 3), tmp_path / "run") == 6
    assert not (tmp_path / "run" / "generate.json").exists()


def test_reward_model_that_is_none_is_told_before_anything_is_sampled(
    write_generate_recipe, generate_in, smallest_model, monkeypatch
):
    monkeypatch.setattr(sampling, "sample_shard", lambda *arguments: pytest.fail("it was sampled"))
    file = write_generate_recipe(rewards=["format", {"name": "reward_model", "model": str(smallest_model)}])
    with pytest.raises(RecipeError, match=r"generate.yaml: rewards.1.model: .* is no reward model"):
        generate_in(file, "run")


def test_missing_verdicts_of_all_attempts_count_in_the_end(write_generate_recipe, generate_in):
    keys = {"rewards": ["test_generation:no_verdict"], "generate": {"max_completion_length": 100}}
    run_dir = generate_in(write_generate_recipe(**keys, guards={"max_judge_failed_share": None}), "run")
    (run_dir / "generate.json").unlink()
    with pytest.raises(RunStopped, match=r"(\d+) of \1 completions got no verdict .* nothing is sampled twice"):
        generate_in(write_generate_recipe(**keys), "run")


# Of 48 completions a tenth are 4; of 10,000 the first 16 may be anything, and then it is the share that counts.
VERDICTS = [
    (1, 8, 48, False, False),
    (4, 8, 48, False, False),
    (5, 8, 48, False, True),
    (4, 48, 48, True, False),
    (5, 48, 48, True, True),
    (1, 8, 8, True, True),
    (16, 20, 10_000, False, False),
    (17, 20, 10_000, False, True),
    (17, 170, 10_000, False, False),
    (0, 0, 0, True, False),
]


@pytest.mark.parametrize(("unjudged", "judged", "num_completions", "is_whole", "stops"), VERDICTS)
def test_verdicts_that_are_missing_are_a_share_of_the_run_and_not_of_a_shard(
    unjudged, judged, num_completions, is_whole, stops, write_generate_recipe
):
    recipe = load_recipe(write_generate_recipe(guards={"max_judge_failed_share": 0.1}))
    verdicts = {sampling.JUDGED: judged, sampling.UNJUDGED: unjudged}
    with pytest.raises(RunStopped, match=f"{unjudged} of {judged} ") if stops else contextlib.nullcontext():
        sampling.check_judged(recipe, verdicts, num_completions, is_whole)


def no_verdict(completions, **columns):
    """A reward that never knows."""
    return [None] * len(completions)


def test_record_and_kept_rows_say_what_they_come_from(write_generate_recipe, smallest_model, tmp_path):
    file = write_generate_recipe()
    assert launch.main(["generate", str(file), "--runs", str(tmp_path / "runs")]) == 0
    run_dir = running.run_directory(load_recipe(file), tmp_path / "runs")
    (parent,) = read_record(run_dir)["parents"]
    row = rows_in(run_dir, "kept")[0]
    assert row["teacher_sha256"] == parent["weights_sha256"]
    assert json.loads(row["sampled_with"]) == {
        "temperature": 1.0,
        "top_p": 1.0,
        "max_completion_length": 64,
        "samples": 2,
        "seed": 0,
    }
    verified = json.loads(row["verified_by"])
    assert [reward["name"] for reward in verified["rewards"]] == ["format"]
    assert verified["commit"] == read_record(run_dir)["commit"]


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"model": {}}, "model.name: missing; a Hub id or a path that begins with ./, or give generate.endpoint"),
        ({"trainer": {"max_steps": 1}}, "trainer: step generate does not use it; remove it"),
        ({"keep": {"language": "xx"}}, "keep.language: 'xx' is not known; give one of ar, "),
        ({"keep": {"min_tokens": 9, "max_tokens": 3}}, "keep.min_tokens: 9 is above keep.max_tokens"),
    ],
)
def test_mistakes_are_told_before_anything_is_sampled(sections, message, write_generate_recipe, tmp_path, capsys):
    assert launch.main(["generate", str(write_generate_recipe(**sections)), "--runs", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err


def test_keep_is_refused_where_nothing_is_sampled(write_recipe, smallest_model):
    file = write_recipe(
        step="sft",
        model={"name": str(smallest_model)},
        data=[sums(4)],
        keep={"max_per_prompt": 1},
        trainer={"max_steps": 1},
    )
    with pytest.raises(RecipeError, match="keep: step sft samples nothing to keep; remove it"):
        load_recipe(file)


# --- an endpoint


def test_every_row_arrives_from_an_endpoint_that_fails_one_request_in_three(
    write_generate_recipe, tmp_path, monkeypatch
):
    monkeypatch.setattr(client, "_seconds_before_retry", lambda *arguments: 0.0)
    faults = [fault for number in range(12) for fault in (None, None, (500, 429, "drop", "break")[number % 4])]
    with OpenAIServer(faults=faults) as server:
        section = {"endpoint": {"base_url": server.url, "model": "teacher"}, "prompts_per_shard": 3}
        file = write_generate_recipe(model={}, rewards=[], data=[sums(10)], generate=section)
        run_dir = tmp_path / "run"
        run_dir.mkdir()
        generate.generate(load_recipe(file), run_dir)
        asked = Counter((body["messages"][-1]["content"], body["seed"]) for body in server.requests)
    rows = rows_in(run_dir)
    assert [row["id"] for row in rows] == [f"{index}-{sample}" for index in range(10) for sample in range(2)]
    assert len({row["completion"] for row in rows}) == 20 == len(asked)
    counts = json.loads((run_dir / "generate.json").read_text())["counts"]
    failed = sum(fault is not None for fault in faults[: len(server.requests)])
    assert counts["requests"] == 20 + failed and counts["retries"] == failed > 5


def test_endpoint_that_refuses_everything_is_no_data_set(write_generate_recipe, tmp_path):
    with OpenAIServer(faults=[400] * 6) as server:
        section = {"endpoint": {"base_url": server.url, "model": "teacher"}}
        file = write_generate_recipe(model={}, rewards=[], data=[sums(3)], generate=section)
        (tmp_path / "run").mkdir()
        with pytest.raises(RunStopped, match=r"6 of 6 completions were refused by .*max_refused_share: 0.01"):
            generate.generate(load_recipe(file), tmp_path / "run")
    assert not (tmp_path / "run" / "generate.json").exists()
