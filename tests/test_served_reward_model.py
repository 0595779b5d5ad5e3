"""The reward of a reward model that a server gives: what is asked, what counts as a reward, what stops the run."""

import json

import pytest
from conftest import CPU_TRAINER, sums
from openai_server import OpenAIServer, Reply, classification

from open_r1.check import check_recipe
from open_r1.feedback.reward_models import Rated, ServedRewardModel, read_reward
from open_r1.recipe import Endpoint, RecipeError, Reward, Thinking, load_recipe
from open_r1.rewards import build_rewards
from open_r1.rewards.reward_model import reward_model_reward
from open_r1.step_process import RunStopped

pytest.importorskip("openai")

KEY = "rewards.reward_model.endpoint"
QUESTIONS = [[{"role": "system", "content": "Be brief."}, {"role": "user", "content": f"{n}?"}] for n in range(8)]
ANSWERS = [[{"role": "assistant", "content": "x" * n}] for n in range(8)]


def number_of_characters(body: dict) -> float:
    return len(body["messages"][-1]["content"]) - 0.5


def endpoint(server: OpenAIServer, **more) -> dict:
    return {"base_url": server.address, "model": "teacher", "max_attempts": 1, **more}


def reward_of(server: OpenAIServer, **more):
    """The bound reward of a recipe that names the server."""
    reward = Reward(name="reward_model", endpoint=endpoint(server, **more))
    return build_rewards([reward], Thinking(), 0, 100)[0]


def test_each_conversation_gets_the_servers_number_in_order():
    with OpenAIServer(answer=number_of_characters) as server:
        assert reward_of(server)(ANSWERS, prompts=QUESTIONS) == [n - 0.5 for n in range(8)]


@pytest.mark.parametrize(
    ("extra_body", "options"),
    [
        ({}, {"use_activation": False}),
        ({"activation": False, "priority": 1}, {"use_activation": False, "activation": False, "priority": 1}),
    ],
)
def test_a_conversation_is_sent_as_messages_and_a_logit_asked_for(extra_body, options):
    with OpenAIServer(answer=number_of_characters) as server:
        reward_of(server, extra_body=extra_body)([ANSWERS[2]], prompts=["2?"])
    messages = [{"role": "user", "content": "2?"}, {"role": "assistant", "content": "xx"}]
    assert server.requests == [{"model": "teacher", "messages": messages, **options}]


def test_what_the_server_refuses_has_no_reward_and_is_counted():
    logged = {}
    with OpenAIServer(answer=number_of_characters, faults=[None, 400, None, 413]) as server:
        reward = reward_of(server, max_concurrent_requests=1)
        assert reward(ANSWERS[:4], prompts=QUESTIONS[:4], log_metric=logged.__setitem__) == [-0.5, None, 1.5, None]
    assert logged["rewards/reward_model/failed_share"] == 0.5


def test_what_fails_once_is_asked_again(monkeypatch):
    monkeypatch.setattr("open_r1.generation.client.backoff_seconds", lambda num_tries: 0.0)
    not_finite = Reply(content=classification(float("nan"), "teacher"))
    with OpenAIServer(answer=number_of_characters, faults=[500, not_finite, "drop"]) as server:
        reward = reward_of(server, max_attempts=4, max_concurrent_requests=1)
        assert reward(ANSWERS[:2], prompts=QUESTIONS[:2]) == [-0.5, 0.5]
    assert len(server.requests) == 5


@pytest.mark.parametrize(
    ("fault", "what"),
    [
        (500, "HTTP 500: on order; see what ails the server, or raise rewards.reward_model.endpoint.max_attempts"),
        (
            Reply(content=classification(None, "teacher")),
            "see that rewards.reward_model.endpoint.base_url is a vLLM server of a model with one output, without /v1",
        ),
    ],
    ids=["a server that fails", "answers that are none"],
)
def test_a_server_that_fails_too_often_stops_the_run(fault, what):
    with OpenAIServer(faults=[fault]) as server, pytest.raises(RunStopped) as stopped:
        reward_of(server)(ANSWERS[:1], prompts=QUESTIONS[:1])
    assert str(stopped.value).startswith(f"{KEY}: a request failed, at last with: ")
    assert what in str(stopped.value) and "\n" not in str(stopped.value)


def test_another_address_is_a_mistake():
    with OpenAIServer() as server, pytest.raises(RecipeError) as mistake:
        reward_of(server, base_url=f"{server.url}/v1")(ANSWERS[:1], prompts=QUESTIONS[:1])
    assert f"{KEY}.base_url: " in str(mistake.value) and "mend it (for vLLM without /v1)" in str(mistake.value)


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"base_url": "localhost:8000"}, f"{KEY}.base_url: 'localhost:8000' is no address"),
        ({"extra_body": {"input": "x"}}, f"{KEY}.extra_body.input: the recipe says that elsewhere; remove it"),
        ({"api_key_variable": "KEY_THAT_IS_NOT_THERE"}, f"{KEY}.api_key_variable: no KEY_THAT_IS_NOT_THERE in"),
    ],
)
def test_a_section_that_cannot_work_is_a_mistake(values, line):
    with pytest.raises(RecipeError) as mistake:
        ServedRewardModel(Endpoint(**{"base_url": "http://localhost:1", "model": "m", **values}), KEY)
    assert str(mistake.value).startswith(line)


@pytest.mark.parametrize("value", [-1.25, 3, 0.0, 1e-30])
def test_a_finite_number_is_a_reward(value):
    assert read_reward(json.dumps(classification(value, "m")).encode()) == Rated(value)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "no data"),
        (b"[]", "no data"),
        (b'{"data": []}', "no data"),
        (b'{"data": [null]}', "no data"),
        (b'{"data": [{"probs": [0.1, 0.9]}]}', "no data"),
        (b'{"data": [{"probs": [1.0]}, {"probs": [1.0]}]}', "no data"),
        (b'{"data": [{"probs": [[1.0]]}]}', "no data"),
        (b'{"data": [{"probs": [null]}]}', "no data"),
        (b'{"data": [{"probs": [1' + b"0" * 400 + b"]}]}", "no data"),
        (b'{"data": [{"probs": [NaN]}]}', "nan, no finite number"),
        (b'{"data": [{"probs": [-Infinity]}]}', "-inf, no finite number"),
        (b'{"data": [{"probs": ["1.0"]}]}', "'1.0', no finite number"),
        (b'{"data": [{"probs": [true]}]}', "True, no finite number"),
        (b'{"error": {"message": "overloaded"}}', "overloaded"),
    ],
    ids=lambda value: value[:40] if isinstance(value, bytes) else "",
)
def test_anything_else_is_none(content, reason):
    with pytest.raises(ValueError, match=reason):
        read_reward(content)


@pytest.mark.parametrize(
    ("parameters", "begins"),
    [
        ({"endpoint": {"base_url": "http://localhost:1", "model": "m"}}, True),
        ({"model": "./m", "endpoint": None}, False),
    ],
    ids=["served", "in this process"],
)
def test_a_served_reward_begins_while_others_are_sampled(parameters, begins):
    (reward,) = build_rewards([Reward(name="reward_model", **parameters)], Thinking(), 0, 100)
    assert reward.starts_early == begins


# --- in a recipe

SECTION = {"base_url": "http://localhost:8000", "model": "m"}


def problems_of(write_recipe, **reward) -> list[str]:
    file = write_recipe(
        step="grpo",
        model={"name": "a/policy"},
        data=[sums(8)],
        rewards=[{"name": "reward_model", **reward}],
        trainer={**CPU_TRAINER, "max_steps": 1, "num_generations": 4, "max_completion_length": 8},
    )
    try:
        check_recipe(load_recipe(file))
    except RecipeError as error:
        return [line.removeprefix(f"{file}: ") for line in error.lines]
    return []


@pytest.mark.parametrize(
    ("reward", "line"),
    [
        ({}, "rewards.0: reward_model: give exactly one of model and endpoint (got none)"),
        (
            {"model": "a/b", "endpoint": SECTION},
            "rewards.0: reward_model: give exactly one of model and endpoint (got both)",
        ),
        ({"endpoint": "http://x"}, "rewards.0.endpoint: 'http://x' is wrong: input should be a valid dictionary or "),
        ({"endpoint": {"model": "m"}}, "rewards.0.endpoint.base_url: missing; it has no default"),
        (
            {"endpoint": {**SECTION, "base_url": 8000}},
            "rewards.0.endpoint.base_url: 8000 is wrong: input should be a valid string",
        ),
        (
            {"endpoint": {**SECTION, "timeout_seconds": "1e3"}},
            "rewards.0.endpoint.timeout_seconds: '1e3' is text to YAML, not a number; write 1000.0",
        ),
        (
            {"endpoint": {**SECTION, "max_attempt": 3}},
            "rewards.0.endpoint.max_attempt: unknown key of rewards.0.endpoint; did you mean max_attempts?",
        ),
        (
            {"endpoint": SECTION, "max_length": 100},
            "rewards.0: reward_model: max_length is for the server of endpoint to say; remove it",
        ),
        (
            {"endpoint": SECTION, "dtype": "bfloat16"},
            "rewards.0: reward_model: dtype is for the server of endpoint to say; remove it",
        ),
    ],
    ids=lambda value: "" if isinstance(value, str) else str(list(value.items())[-1:])[:60],
)
def test_mistakes_in_a_recipe_are_lines(reward, line, write_recipe):
    (problem,) = problems_of(write_recipe, **reward)
    assert problem.startswith(line)


def test_a_right_recipe_is_right_and_asks_nobody(write_recipe):
    with OpenAIServer() as server:
        assert problems_of(write_recipe, endpoint=endpoint(server, api_key_variable="KEY_THAT_IS_NOT_THERE")) == []
    assert server.requests == []


def test_a_judge_reward_is_checked_too(write_recipe, tmp_path):
    (tmp_path / "rubric.yaml").write_text("{description: Order., principles: [{name: order, text: It is in order.}]}")
    file = write_recipe(
        step="grpo",
        model={"name": "a/policy"},
        data=[sums(8)],
        rewards=[{"name": "judge", "rubric": "rubric.yaml"}],
        judge={"endpoint": {**SECTION, "base_url": "http://localhost:8000/v1"}},
        trainer={**CPU_TRAINER, "max_steps": 1, "num_generations": 4, "max_completion_length": 8},
    )
    check_recipe(load_recipe(file))


def test_nothing_gets_nothing():
    section = Endpoint(base_url="http://localhost:1", model="m")
    assert reward_model_reward([], [], endpoint=section) == []
