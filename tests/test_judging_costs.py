"""What judging cost, in run.json; and what a run may be taken up with: a higher cap is no other run."""

import json
import sys
import textwrap

import pytest
from conftest import sums
from openai_server import OpenAIServer
from stand_in_judges import ORDER, QUESTION, likes_length, verdict_by

from open_r1 import launch, running
from open_r1.feedback import judge_of
from open_r1.feedback.spending import spent_in
from open_r1.generation.endpoint import most_tokens
from open_r1.recipe import Judge, load_recipe
from open_r1.resuming import differing_keys
from open_r1.run_record import finish_record, read_record, start_record
from open_r1.step_process import EXIT_STOPPED

RUBRIC = "{description: Order., principles: [{name: order, text: It is in order.}]}"
WORDY = " ".join(["hm"] * 40)  # tokens, to the server
USD = "usd_per_million_"


@pytest.fixture
def preferences_recipe(write_recipe, tmp_path):
    """A recipe whose answers and verdicts come from servers; keys go over its sections."""
    (tmp_path / "rubric.yaml").write_text(RUBRIC)

    def write(url: str = "http://localhost:1/v1", preferences=(), judge=(), name="recipe.yaml"):
        endpoint = {"base_url": url, "model": "teacher", "max_concurrent_requests": 1, "max_attempts": 1}
        sampling = {"samples": 2, "max_completion_length": 8, "rubric": "rubric.yaml", "balance_lengths": False}
        return write_recipe(
            name,
            step="preferences",
            data=[sums(4)],
            preferences={**sampling, "endpoint": endpoint, **dict(preferences)},
            judge={"endpoint": endpoint, "judgements": 2, "max_completion_length": 100, **dict(judge)},
        )

    return write


def answers_and_verdicts(body: dict) -> str:
    """As many letters as the seed says, or a verdict after much thinking."""
    if "response_format" not in body:
        return "m" * (1 + body["seed"] % 9)
    return f"<think>{WORDY}</think>" + verdict_by(likes_length)(body)


def test_a_run_that_meets_its_cap_says_so_and_goes_on_under_a_higher_one(preferences_recipe, tmp_path, capfd):
    pytest.importorskip("openai")
    with OpenAIServer(answer=answers_and_verdicts) as server:
        file = preferences_recipe(server.url)
        judge_of(load_recipe(file), tmp_path / "to_measure").scores(ORDER, [QUESTION], [["x"]])
        cap = sum(most_tokens(server.requests[0], 100)) + 200
        server.requests.clear()
        command = ["preferences", str(file), "--runs", str(tmp_path / "runs")]

        assert launch.main([*command, f"judge.max_tokens={cap}"]) == EXIT_STOPPED
        (run_dir,) = (tmp_path / "runs" / "recipe").glob("seed0-*")
        stopped = read_record(run_dir)
        assert stopped["status"] == "failed"
        assert (
            f"judge.max_tokens: {stopped['judging']['completion_tokens'] + stopped['judging']['prompt_tokens']}"
            in (stopped["error"])
        )
        verdicts = [body for body in server.requests if "response_format" in body]
        assert 0 < len(verdicts) == stopped["judging"]["requests"]
        assert stopped["judging"]["usd"] is None

        prices = [f"judge.{USD}{kind}_tokens=1000000" for kind in ("prompt", "completion")]
        assert launch.main([*command, "judge.max_tokens=100000", *prices]) == 0
    record = read_record(run_dir)
    assert (record["status"], record["attempts"]) == ("done", 2)
    verdicts = [json.dumps(body) for body in server.requests if "response_format" in body]
    answers = [body for body in server.requests if "response_format" not in body]
    assert len(answers) == 4 * 2
    assert len(set(verdicts)) == len(verdicts) == record["judging"]["requests"] > stopped["judging"]["requests"]
    assert record["judging"]["usd"] == record["judging"]["prompt_tokens"] + record["judging"]["completion_tokens"]


# --- run.json


def leave(folder, process: int, requests: int, prompt_tokens: int, completion_tokens: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    entry = {"requests": requests, "prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}
    (folder / f"judging-{process}.json").write_text(json.dumps(entry))


OF_PROMPTS, OF_VERDICTS = ({f"{USD}{kind}_tokens": price} for kind, price in (("prompt", 1.0), ("completion", 2.0)))


@pytest.mark.parametrize(
    ("prices", "usd"),
    [({}, None), (OF_VERDICTS, 6.0), (OF_PROMPTS | OF_VERDICTS, 17.0)],
    ids=["no price", "of verdicts alone", "of both"],
)
def test_what_all_processes_of_all_folders_spent_is_added_up(prices, usd, tmp_path):
    leave(tmp_path / "a", 0, 1, 10_000_000, 1_000_000)
    leave(tmp_path / "a", 1, 2, 1_000_000, 0)
    leave(tmp_path / "b", 0, 3, 0, 2_000_000)
    assert spent_in([tmp_path / "a", tmp_path / "b", tmp_path / "none"], Judge(name="a/b", **prices)) == {
        "requests": 6,
        "prompt_tokens": 11_000_000,
        "completion_tokens": 3_000_000,
        "usd": usd,
    }


@pytest.fixture
def run_of(monkeypatch):
    """Lets a Python program be the process of a step."""

    def be(program: str) -> None:
        argv = [sys.executable, "-c", textwrap.dedent(program)]
        monkeypatch.setattr(running, "command", lambda recipe, run_dir, nodes=None: [*argv, str(run_dir)])

    return be


@pytest.mark.parametrize("exit_code", [0, 1])
def test_whatever_the_end_the_record_has_what_the_process_left(exit_code, preferences_recipe, run_of, tmp_path):
    run_of(f"""
        import pathlib, sys
        run_dir = pathlib.Path(sys.argv[1])
        spent = '{{"requests": 2, "prompt_tokens": 30, "completion_tokens": 4}}'
        (run_dir / "judging-0.json").write_text(spent)
        (run_dir / "reward_model.json").write_text('{{"accuracy": 0.75}}')
        sys.exit({exit_code})
    """)
    assert running.launch(load_recipe(preferences_recipe()), tmp_path / "run") == exit_code
    record = read_record(tmp_path / "run")
    assert record["judging"] == {"requests": 2, "prompt_tokens": 30, "completion_tokens": 4, "usd": None}
    assert record["reward_model"] == {"accuracy": 0.75}


def test_what_the_shares_spent_is_in_it_whether_they_are_taken_up_or_not(preferences_recipe, run_of, tmp_path):
    recipe, run_dir = load_recipe(preferences_recipe()), tmp_path / "run"
    for index, status in enumerate(["done", "failed"]):
        share = run_dir / "shares" / f"{index}-of-2"
        start_record(share, recipe, str(recipe.source), [])
        finish_record(share, status)
        leave(share, 0, 1 + index, 10, 1)
    leave(run_dir, 0, 5, 10, 1)
    run_of("raise SystemExit(0)")
    assert running.launch(recipe, run_dir) == 0
    assert read_record(run_dir)["judging"]["requests"] == 1 + 2 + 5


def test_a_run_without_a_judge_says_nothing_of_one(write_recipe, run_of, tmp_path):
    run_of("raise SystemExit(0)")
    sampling = {"max_completion_length": 8, "endpoint": {"base_url": "http://localhost:1/v1", "model": "m"}}
    file = write_recipe(step="generate", data=[sums(4)], generate=sampling)
    assert running.launch(load_recipe(file), tmp_path / "run") == 0
    assert not {"judging", "reward_model"} & set(read_record(tmp_path / "run"))


# --- which run it is


@pytest.mark.parametrize(
    ("override", "same"),
    [
        ("judge.max_tokens=5", True),
        ("judge.max_usd=5.0", True),
        (f"judge.{USD}prompt_tokens=5.0", True),
        (f"judge.{USD}completion_tokens=5.0", True),
        ("judge.cache=/verdicts", True),
        ("judge.endpoint.max_concurrent_requests=5", True),
        ("judge.endpoint.max_requests_per_minute=5", True),
        ("judge.endpoint.timeout_seconds=5.0", True),
        ("judge.endpoint.max_attempts=5", True),
        ("preferences.endpoint.max_refused_share=0.5", True),
        ("judge.endpoint.base_url=http://elsewhere/v1", False),
        ("judge.endpoint.extra_body={top_k: 5}", False),
        ("judge.judgements=4", False),
        ("judge.max_completion_length=5", False),
        ("preferences.max_pairs=5", False),
    ],
)
def test_caps_prices_cache_and_patience_make_no_other_run(override, same, preferences_recipe):
    recipe, other = (load_recipe(preferences_recipe(), overrides) for overrides in ([], [override]))
    assert (recipe.sha256 == other.sha256) == same


@pytest.mark.parametrize(
    ("override", "same"),
    [
        ("judge.max_tokens=5", True),
        ("judge.cache=/verdicts", True),
        ("rewards.0.endpoint.max_attempts=5", True),
        ("rewards.0.endpoint.timeout_seconds=5.0", True),
        ("rewards.0.endpoint.model=n", False),
        ("judge.judgements=2", False),
    ],
)
def test_a_run_that_trains_is_taken_up_by_name_under_the_same_rule(override, same, write_recipe):
    endpoint = {"base_url": "http://localhost:1", "model": "m"}
    file = write_recipe(
        step="grpo",
        model={"name": "a/b"},
        data=[sums(4)],
        rewards=[{"name": "reward_model", "endpoint": endpoint}, {"name": "judge", "rubric": "rubric.yaml"}],
        judge={"endpoint": endpoint},
        trainer={"max_steps": 1},
    )
    recipe, other = (load_recipe(file, overrides) for overrides in ([], [override]))
    assert (recipe.sha256 == other.sha256) == same
    assert (differing_keys(recipe, other) == []) == same


@pytest.mark.parametrize(
    ("values", "same"),
    [
        ({}, True),
        ({"judge.max_tokens": 5}, True),
        ({"judge": {"max_tokens": 5}}, True),
        ({"preferences.endpoint.max_attempts": 5}, True),
        ({"judge.judgements": 4}, False),
        ({"judge": {"max_tokens": 5, "judgements": 4}}, False),
    ],
    ids=str,
)
def test_a_cap_that_a_pipeline_sets_makes_no_other_pipeline(values, same, preferences_recipe, write_recipe):
    def run_directory(values: dict) -> str:
        stage = {"name": "pairs", "recipe": preferences_recipe().name, "set": values}
        return running.run_directory(load_recipe(write_recipe("pipeline.yaml", step="pipeline", stages=[stage]))).name

    assert (run_directory({}) == run_directory(values)) == same
