"""A judge's scores, against a server whose judges have known tastes: orders, means, cache, caps."""

import asyncio
import json
import math
import statistics
import threading
from collections import Counter
from pathlib import Path

import pytest
from openai_server import OpenAIServer, Reply
from stand_in_judges import ORDER, QUESTION, is_nonsense, likes_length, likes_the_first, shown_in, verdict_by

from open_r1 import vllm_server
from open_r1.feedback import Principle, Rubric, judge_of, judge_problems, load_rubric
from open_r1.feedback.cache import VerdictCache, key_of
from open_r1.feedback.judge import endpoint_of_judge, who_judges
from open_r1.feedback.orders import units_of
from open_r1.feedback.spending import Spending
from open_r1.generation import Completion, Sampling, Tokens
from open_r1.generation.endpoint import most_tokens, read_answer
from open_r1.recipe import (
    Endpoint,
    Generate,
    Hardware,
    Judge,
    Model,
    Preferences,
    Recipe,
    RecipeError,
    Thinking,
    VllmServer,
)
from open_r1.step_process import RunStopped

pytest.importorskip("openai")

ANSWERS = [f"{'m' * length}" for length in range(1, 7)]
PROMPTS = [[{"role": "user", "content": f"Question {number}?"}] for number in range(8)]
GROUPS = [[f"{'x' * length}{number}" for length in range(4)] for number in range(8)]
SAMPLING = Sampling(1.0, 1.0, 100, 1, 64, 0)
USD = "usd_per_million_"
WORDY = " ".join(["hm"] * 40)  # tokens, to the server


def recipe_with(server: OpenAIServer, endpoint: dict | None = None, seed: int = 0, **judge) -> Recipe:
    given = {"base_url": server.url, "model": "teacher", "max_attempts": 1, **(endpoint or {})}
    section = Judge(endpoint=Endpoint(**given), **{"max_completion_length": 100, **judge})
    return Recipe(step="preferences", seed=seed, judge=section)


def tokens_of(server: OpenAIServer) -> int:
    """What the server has counted in all its answers: a token for a prompt, one for each word."""
    return sum(1 + len(server.answer(body).split()) for body in server.requests)


# --- scores


def test_score_is_on_the_rubrics_scale_and_by_its_weights(tmp_path):
    principles = [Principle(name="a", text="", weight=3.0), Principle(name="b", text="")]
    with OpenAIServer(answer=lambda body: '{"A": {"a": 2, "b": 4}}') as server:
        judge = judge_of(recipe_with(server), tmp_path)
        assert judge.scores(Rubric(description="", principles=principles), [QUESTION], [["x"]]) == [[2.5]]


@pytest.mark.parametrize("candidates", [1, 2, 3, 4, 6, 9])
def test_every_answer_gets_its_own_score_in_whatever_company(candidates, tmp_path):
    with OpenAIServer(answer=verdict_by(likes_length)) as server:
        judge = judge_of(recipe_with(server, candidates=candidates), tmp_path)
        scores = judge.scores(ORDER, [QUESTION, PROMPTS[0]], [ANSWERS, ANSWERS[::-1]])
    assert scores == [[1, 2, 3, 4, 5, 6], [6, 5, 4, 3, 2, 1]]
    assert (judge.report()["spread"], judge.report()["unreadable"]) == (0.0, 0)


@pytest.mark.parametrize("group_size", [2, 3, 4, 5])
@pytest.mark.parametrize("candidates", [2, 3, 4])
def test_equally_good_answers_get_equal_scores_from_a_judge_that_likes_the_first(candidates, group_size, tmp_path):
    with OpenAIServer(answer=verdict_by(likes_the_first)) as server:
        judge = judge_of(recipe_with(server, candidates=candidates), tmp_path)
        (scores,) = judge.scores(ORDER, [QUESTION], [ANSWERS[:group_size]])
    together = min(candidates, group_size)
    assert scores == pytest.approx([(9 + (together - 1) * 5) / together] * group_size)
    assert max(scores) - min(scores) < 1e-9
    assert judge.report()["position_bias"] == 4.0


def test_position_bias_is_none_where_answers_are_judged_alone(tmp_path):
    with OpenAIServer(answer=verdict_by(likes_the_first)) as server:
        judge = judge_of(recipe_with(server), tmp_path)
        assert judge.scores(ORDER, [QUESTION], [ANSWERS[:3]]) == [[9, 9, 9]]
    assert judge.report()["position_bias"] is None


def test_spread_is_the_deviation_between_judgements_of_an_answer(tmp_path):
    scores = {}

    def answer(body):
        return json.dumps({"A": {"order": scores.setdefault(body["seed"], 3 + 2 * (len(scores) % 2))}})

    with OpenAIServer(answer=answer) as server:
        judge = judge_of(recipe_with(server, judgements=4, endpoint={"max_concurrent_requests": 1}), tmp_path)
        assert judge.scores(ORDER, [QUESTION], [["x"]]) == [[4.0]]
    assert judge.report()["spread"] == pytest.approx(statistics.stdev([3, 5, 3, 5]))


def test_equal_answers_are_judged_once_and_share_the_score(tmp_path):
    with OpenAIServer(answer=verdict_by(likes_length)) as server:
        judge = judge_of(recipe_with(server, judgements=2, candidates=2), tmp_path)
        assert judge.scores(ORDER, [QUESTION], [["mm", "mm", "mmm", "mm"]]) == [[2, 2, 3, 2]]
        assert judge.scores(ORDER, [QUESTION], [["mm"] * 4]) == [[2, 2, 2, 2]]
    assert [len(shown_in(body["messages"]).answers) for body in server.requests] == [2, 2, 1, 1]


@pytest.mark.parametrize(("sees", "shown"), [("answer", ["4"]), ("whole", ["<think>hm", "<think>hm</think>4"])])
def test_an_answer_that_never_comes_is_the_worst_unasked(sees, shown, tmp_path):
    rubric = Rubric(description="", sees=sees, principles=ORDER.principles)
    with OpenAIServer(answer=lambda body: '{"A": {"order": 8}}') as server:
        judge = judge_of(recipe_with(server, judgements=1), tmp_path)
        (scores,) = judge.scores(rubric, [QUESTION], [["<think>hm", "<think>hm</think>4"]])
    assert scores == ([1.0, 8.0] if sees == "answer" else [8.0, 8.0])
    assert sorted(text for body in server.requests for text in shown_in(body["messages"]).answers.values()) == shown


def test_nothing_to_judge_asks_nothing(tmp_path):
    with OpenAIServer() as server:
        assert judge_of(recipe_with(server), tmp_path).scores(ORDER, [QUESTION], [[]]) == [[]]
    assert not server.requests


# --- what is no verdict


def nonsense_one_time_in_five(body):
    return "I like it." if is_nonsense(body) else verdict_by(likes_length)(body)


@pytest.mark.parametrize("judgements", [1, 4])
def test_unreadable_verdicts_are_none_and_counted_and_never_a_score(judgements, tmp_path):
    with OpenAIServer(answer=nonsense_one_time_in_five) as server:
        judge = judge_of(recipe_with(server, judgements=judgements), tmp_path)
        scores = judge.scores(ORDER, PROMPTS, GROUPS)
    readable = Counter()
    for body in server.requests:
        (answer,) = shown_in(body["messages"]).answers.values()
        readable[answer] += not is_nonsense(body)
    expected = [[likes_length(0, text) if readable[text] else None for text in group] for group in GROUPS]
    assert scores == expected
    assert any(None in group for group in scores) == (judgements == 1)
    assert judge.report()["verdicts"] == 32 * judgements
    assert judge.report()["unreadable"] == sum(map(is_nonsense, server.requests)) > 0


def test_an_order_counts_only_with_its_reverse(tmp_path):
    """One of two verdicts is nonsense, so that the judge's liking of the first would decide."""
    first = threading.Event()

    def answer(body):
        if not first.is_set():
            first.set()
            return "nonsense"
        return verdict_by(likes_the_first)(body)

    with OpenAIServer(answer=answer) as server:
        section = {"judgements": 2, "candidates": 2, "endpoint": {"max_concurrent_requests": 1}}
        judge = judge_of(recipe_with(server, **section), tmp_path)
        assert judge.scores(ORDER, [QUESTION], [["a", "b"]]) == [[None, None]]
    assert judge.report()["position_bias"] is None


@pytest.mark.parametrize(
    ("fault", "count"),
    [
        (Reply(400, {"message": "too long"}), "refused"),
        (
            Reply(
                content={
                    "choices": [{"message": {"content": '{"A": {"order": 8}}'}, "finish_reason": "length"}],
                    "usage": {"completion_tokens": 9},
                }
            ),
            "unreadable",
        ),
    ],
    ids=["refused", "truncated"],
)
def test_what_is_refused_or_cut_off_is_no_verdict(fault, count, tmp_path):
    with OpenAIServer(faults=[fault]) as server:
        judge = judge_of(recipe_with(server, judgements=1), tmp_path)
        assert judge.scores(ORDER, [QUESTION], [["x"]]) == [[None]]
    report = judge.report()
    assert (report["refused"], report["unreadable"]) == ((1, 0) if count == "refused" else (0, 1))
    assert len(VerdictCache(tmp_path / "verdicts")) == (count == "unreadable")


# --- orders


@pytest.mark.parametrize("num_answers", range(1, 8))
@pytest.mark.parametrize("num_candidates", range(1, 6))
@pytest.mark.parametrize("num_judgements", [1, 3, 4])
def test_each_answer_is_shown_as_often_at_each_place(num_judgements, num_answers, num_candidates):
    answers = [f"answer {number}" for number in range(num_answers)]
    units = units_of(QUESTION, answers, num_judgements, num_candidates)
    size = min(num_candidates, num_answers)
    judged = Counter(answer for unit in units for _, shown in unit for answer in shown)
    assert judged.keys() == set(answers) and min(judged.values()) >= num_judgements
    turns = math.ceil(num_judgements / size)  # times that an order is shown in all its rotations
    assert sum(map(len, units)) == math.ceil(num_answers / size) * turns * size
    for unit in units:
        assert len(unit) == size and {len(shown) for _, shown in unit} == {size}
        at_places = [set(place) for place in zip(*(shown for _, shown in unit), strict=True)]
        assert all(len(place) == size for place in at_places)
    keys = [(number, shown) for unit in units for number, shown in unit]
    assert len(set(keys)) == len(keys)


def test_two_answers_are_shown_in_an_order_and_its_reverse():
    for unit in units_of(QUESTION, ANSWERS, 4, 2):
        (even, shown), (odd, reverse) = unit
        assert even % 2 == 0 and odd == even + 1 and shown == reverse[::-1]


def test_orders_are_those_of_the_content_whatever_order_it_comes_in():
    assert units_of(QUESTION, ANSWERS, 4, 3) == units_of(QUESTION, ANSWERS[::-1], 4, 3)
    orders = {str(units_of(prompt, ANSWERS, 2, 6)) for prompt in PROMPTS}
    assert len(orders) == len(PROMPTS)


# --- requests


def test_a_request_has_a_schema_and_each_judgement_a_seed_of_its_own(tmp_path):
    with OpenAIServer(answer=verdict_by(likes_length)) as server:
        judge_of(recipe_with(server, top_p=0.9), tmp_path).scores(ORDER, [QUESTION], [["a", "b"]])
    assert len({body["seed"] for body in server.requests}) == len(server.requests) == 8
    body = server.requests[0]
    assert (body["temperature"], body["top_p"], body["max_tokens"]) == (1.0, 0.9, 100)
    schema = body["response_format"]["json_schema"]
    assert (body["response_format"]["type"], schema["name"], schema["strict"]) == ("json_schema", "verdict", True)
    assert schema["schema"]["required"] == ["A"]


def test_each_request_has_the_schema_of_its_own_answers(tmp_path):
    with OpenAIServer(answer=verdict_by(likes_length)) as server:
        judge_of(recipe_with(server, candidates=3), tmp_path).scores(ORDER, [QUESTION] * 2, [ANSWERS[:5], ["x"]])
    sizes = Counter()
    for body in server.requests:
        labels = list(shown_in(body["messages"]).answers)
        assert body["response_format"]["json_schema"]["schema"]["required"] == labels
        sizes[len(labels)] += 1
    assert sizes == {3: 2 * 6, 1: 4}


@pytest.mark.parametrize(
    ("extra_body", "sent"),
    [({"response_format": None}, None), ({"response_format": {"type": "json_object"}}, {"type": "json_object"})],
)
def test_extra_body_leaves_the_schema_out_or_replaces_it(extra_body, sent, tmp_path):
    with OpenAIServer(answer=verdict_by(likes_length)) as server:
        judge = judge_of(recipe_with(server, endpoint={"extra_body": extra_body}), tmp_path)
        assert judge.scores(ORDER, [QUESTION], [["mm"]]) == [[2.0]]
    assert all(body.get("response_format", None) == sent for body in server.requests)
    assert ("response_format" in server.requests[0]) == (sent is not None)


# --- cache


def test_what_was_judged_is_not_asked_again_by_this_judge_or_another(tmp_path):
    with OpenAIServer(answer=nonsense_one_time_in_five) as server:
        judge = judge_of(recipe_with(server, candidates=2), tmp_path)
        scores = judge.scores(ORDER, PROMPTS, GROUPS)
        num_requests = len(server.requests)
        assert judge.scores(ORDER, PROMPTS, [group[::-1] for group in GROUPS]) == [group[::-1] for group in scores]
        other = judge_of(recipe_with(server, candidates=2), tmp_path)
        assert other.scores(ORDER, PROMPTS[::-1], GROUPS[::-1]) == scores[::-1]
    assert len(server.requests) == num_requests
    assert judge.report()["cached"] * 2 == judge.report()["verdicts"] == 2 * num_requests
    assert other.report()["cached"] == other.report()["verdicts"] == num_requests


def test_nothing_is_asked_where_there_is_nothing_to_compare_and_all_else_with_the_seed_that_it_has(tmp_path):
    groups = [["alone", "alone"], ["a", "b"], ["c"], [], ["dd", "ee", "dd"]]
    servers = [OpenAIServer(answer=verdict_by(likes_length)) for _ in range(2)]
    for server, only_to_compare in zip(servers, (False, True), strict=True):
        with server:
            judge = judge_of(recipe_with(server), tmp_path / str(only_to_compare))
            scores = judge.scores(ORDER, PROMPTS[: len(groups)], groups, only_to_compare=only_to_compare)
    assert scores == [None, [1.0, 1.0], None, None, [2.0, 2.0, 2.0]]
    alone = {("alone",), ("c",)}
    compared = {key: number for key, number in asked(servers[0]).items() if texts_in(key) not in alone}
    assert asked(servers[1]) == compared and len(compared) < len(asked(servers[0]))


def texts_in(asked: tuple[str, int]) -> tuple[str, ...]:
    return tuple(shown_in([{"content": asked[0]}]).answers.values())


def asked(server: OpenAIServer) -> Counter:
    return Counter((body["messages"][-1]["content"], body["seed"]) for body in server.requests)


@pytest.mark.parametrize("ends_after", [0, 1, 17, 63])
def test_a_run_that_is_taken_up_asks_only_for_what_is_missing(ends_after, tmp_path):
    section = {"candidates": 2, "endpoint": {"max_concurrent_requests": 1}}
    with OpenAIServer(answer=nonsense_one_time_in_five) as server:
        whole = judge_of(recipe_with(server, **section), tmp_path / "whole").scores(ORDER, PROMPTS, GROUPS)
    run_dir = tmp_path / "run"
    faults = [*[None] * ends_after, Reply(402)]
    with OpenAIServer(answer=nonsense_one_time_in_five, faults=faults) as ended:
        judge = judge_of(recipe_with(ended, **section), run_dir)
        with pytest.raises(RunStopped, match="HTTP 402"):
            judge.scores(ORDER, PROMPTS, GROUPS)
    for file in (run_dir / "verdicts").glob("*"):
        with file.open("a") as lines:
            lines.write('{"key": "00ff", "text": "half a li')
    with OpenAIServer(answer=nonsense_one_time_in_five) as again:
        judge = judge_of(recipe_with(again, **section), run_dir)
        assert judge.scores(ORDER, PROMPTS, GROUPS) == whole
    assert judge.report()["cached"] == ends_after
    ended.requests.pop()
    assert asked(ended) + asked(again) == asked(server)


def test_a_cache_elsewhere_is_shared_by_runs(tmp_path):
    with OpenAIServer(answer=verdict_by(likes_length)) as server:
        for name in ("one", "other"):
            (tmp_path / name).mkdir()
            recipe = recipe_with(server, cache=str(tmp_path / "shared"))
            judge_of(recipe, tmp_path / name).scores(ORDER, [QUESTION], [["a"]])
    assert len(server.requests) == 4


@pytest.mark.parametrize("cache", ["taken", "taken/verdicts"])
def test_a_cache_that_cannot_be_is_told_before_a_verdict_is_paid_for(cache, tmp_path):
    (tmp_path / "taken").write_text("")
    with OpenAIServer(answer=verdict_by(likes_length)) as server:
        recipe = recipe_with(server, cache=str(tmp_path / cache))
        with pytest.raises(RecipeError, match=rf"judge\.cache: verdicts cannot be kept in \S+{cache} \("):
            judge_of(recipe, tmp_path)
    assert not server.requests


def test_a_cache_that_is_lost_on_the_way_stops_the_run(tmp_path):
    section = {"cache": str(tmp_path / "cache"), "endpoint": {"max_concurrent_requests": 1}}
    with OpenAIServer(answer=verdict_by(likes_length)) as server:
        judge = judge_of(recipe_with(server, **section), tmp_path)
        (tmp_path / "cache").rmdir()
        with pytest.raises(RunStopped, match=r"judge\.cache: verdicts can no longer be written to \S+cache \("):
            judge.scores(ORDER, [QUESTION], [["a", "b"]])
    assert len(server.requests) <= 2


def test_a_verdict_survives_as_it_was(tmp_path):
    verdict = Completion("é\n\u200b", 3, True, num_prompt_tokens=7)
    VerdictCache(tmp_path).add("00ff", verdict)
    VerdictCache(tmp_path).add("01ff", Completion("b", 1, False))
    (read := VerdictCache(tmp_path)).add("02ff", Completion("c", 1, False))
    assert (read.get("00ff"), read.get("00ff").num_prompt_tokens) == (verdict, 7)
    assert [read.get(key) and read.get(key).text for key in ("01ff", "02ff", "03ff")] == ["b", "c", None]
    assert len(list(tmp_path.iterdir())) == 3


def test_a_verdict_that_is_taken_back_is_gone_and_may_come_again(tmp_path):
    first, other = Completion("a", 1, False), Completion("b", 1, False)
    for key in ("00ff", "01ff"):
        VerdictCache(tmp_path).add(key, first)
    (one := VerdictCache(tmp_path)).take_back("00ff")
    one.take_back("02ff")
    assert (one.get("00ff"), one.get("01ff")) == (None, first)
    assert (VerdictCache(tmp_path).get("00ff"), VerdictCache(tmp_path).get("01ff")) == (None, first)
    VerdictCache(tmp_path).add("00ff", other)
    assert VerdictCache(tmp_path).get("00ff") == other


def test_unreadable_verdicts_that_are_forgotten_are_asked_for_again_and_no_others(tmp_path):
    section = {"candidates": 2, "endpoint": {"max_concurrent_requests": 1}}
    with OpenAIServer(answer=nonsense_one_time_in_five) as server:
        judge_of(recipe_with(server, **section), tmp_path).scores(ORDER, PROMPTS, GROUPS)
        again = judge_of(recipe_with(server, **section), tmp_path)  # finds them in the cache
        again.scores(ORDER, PROMPTS, GROUPS)
        before = list(server.requests)
        again.forget_unreadable()
        server.answer = verdict_by(likes_length)
        for _ in range(2):
            scores = judge_of(recipe_with(server, **section), tmp_path).scores(ORDER, PROMPTS, GROUPS)
            assert scores == [[likes_length(0, text) for text in group] for group in GROUPS]
    unreadable, after = [body for body in before if is_nonsense(body)], server.requests[len(before) :]
    assert list(map(without_seed, after)) == list(map(without_seed, unreadable)) != []
    assert all(new["seed"] != old["seed"] for new, old in zip(after, unreadable, strict=True))  # or they would be equal


def without_seed(body: dict) -> dict:
    return {key: value for key, value in body.items() if key != "seed"}


def test_a_line_in_pieces_is_none_and_those_behind_it_are_read(tmp_path):
    VerdictCache(tmp_path).add("00ff", Completion("a", 1, False))
    (file,) = tmp_path.iterdir()
    lines = b'\x00\x00\x00\n{"text": 1}\n{"key": "00ff"}\n{"taken_back": [["x"], 0]}\n{"taken_back": 3}\n[1]\n'
    file.write_bytes(lines + file.read_bytes())
    assert VerdictCache(tmp_path).get("00ff").text == "a"


@pytest.mark.parametrize(
    "change",
    [
        {"who": {"model": "other"}},
        {"messages": [{"role": "user", "content": "x"}]},
        {"schema": {"type": "string"}},
        {"sampling": Sampling(0.5, 1.0, 100, 1, 64, 0)},
        {"sampling": Sampling(1.0, 0.5, 100, 1, 64, 0)},
        {"sampling": Sampling(1.0, 1.0, 50, 1, 64, 0)},
        {"number": 1},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_changes_a_verdict_changes_its_key(change):
    given = {"who": {"model": "one"}, "messages": QUESTION, "schema": {}, "sampling": SAMPLING, "number": 0}
    assert key_of(**{**given, **change}) != key_of(**given)


def test_greedy_verdicts_have_one_key_and_are_asked_for_once(tmp_path):
    with OpenAIServer(answer=verdict_by(likes_length)) as server:
        judge = judge_of(recipe_with(server, temperature=0.0), tmp_path)
        assert judge.scores(ORDER, [QUESTION], [["mm"]]) == [[2.0]]
    assert len(server.requests) == 1


# --- spending


def wordy(body):
    return f"<think>{WORDY}</think>" + verdict_by(likes_length)(body)


CAPS = {  # a cap of so many tokens, as keys of the section
    "max_tokens": lambda tokens: {"max_tokens": tokens},
    "max_usd": lambda tokens: {"max_usd": tokens / 1000, f"{USD}prompt_tokens": 1e3, f"{USD}completion_tokens": 1e3},
}


@pytest.mark.parametrize("key", CAPS)
def test_a_cap_is_never_passed_and_going_on_pays_nothing_twice(key, tmp_path):
    with OpenAIServer(answer=wordy) as server:
        cap, stops = 2500, 0
        while True:
            judge = judge_of(recipe_with(server, **CAPS[key](cap)), tmp_path)
            try:
                scores = judge.scores(ORDER, PROMPTS[:4], GROUPS[:4])
                break
            except RunStopped as stopped:
                stops += 1
                assert f"recipe.yaml: judge.{key}: " in str(stopped) and "\n" not in str(stopped)
                assert "raise it and start again" in str(stopped)
                assert tokens_of(server) == judge.report()["prompt_tokens"] + judge.report()["completion_tokens"] <= cap
                assert len(VerdictCache(tmp_path / "verdicts")) == len(server.requests)
                cap += 1000
    assert scores == [[likes_length(0, text) for text in group] for group in GROUPS[:4]]
    assert stops >= 2 and len(server.requests) == 64 == judge.report()["requests"]
    assert tokens_of(server) <= cap
    if key == "max_usd":
        assert judge.report()["usd"] == pytest.approx(tokens_of(server) / 1000)


def test_with_room_for_all_requests_are_concurrent(tmp_path):
    together = threading.Barrier(16, timeout=30)
    with OpenAIServer(answer=wordy, on_request=lambda body: together.wait()) as server:
        recipe = recipe_with(server, endpoint={"max_concurrent_requests": 16}, max_tokens=1_000_000)
        judge_of(recipe, tmp_path).scores(ORDER, PROMPTS[:1], GROUPS[:1])
    assert server.max_in_flight == 16


def test_near_the_cap_a_request_waits_for_those_in_flight(tmp_path):
    """Room for three at a time at first, while each takes far less than it might."""
    with OpenAIServer(answer=wordy) as server:
        recipe = recipe_with(server)
        judge_of(recipe, tmp_path / "to_measure").scores(ORDER, PROMPTS[:1], [["x"]])
        most = sum(most_tokens(server.requests[0], 100))
        server.max_in_flight = 0
        judge = judge_of(recipe_with(server, max_tokens=3 * most + 100), tmp_path / "run")
        with pytest.raises(RunStopped):
            judge.scores(ORDER, PROMPTS, GROUPS)
    assert server.max_in_flight <= 3
    assert len(server.requests) > 4 * 4


@pytest.fixture
def judge_section():
    return Judge(name="./judge", max_tokens=1000)


def test_what_is_taken_counts_and_not_what_was_set_aside(judge_section):
    spending = Spending(judge_section)
    for _ in range(9):
        spending.take(Tokens(400, 500))
        spending.settle(Tokens(400, 500), 5, 5)
    assert (spending.spent, spending.report()["requests"]) == (Tokens(45, 45), 9)


@pytest.mark.parametrize(
    ("usage", "prompt_tokens"),
    [({"prompt_tokens": 5}, 5), ({}, None), ({"prompt_tokens": None}, None), ({"prompt_tokens": "5"}, None)],
    ids=str,
)
def test_an_answer_tells_the_tokens_of_its_prompt_if_the_server_does(usage, prompt_tokens):
    choice = {"message": {"content": "4"}, "finish_reason": "stop"}
    body = json.dumps({"choices": [choice], "usage": {"completion_tokens": 1, **usage}})
    assert read_answer(body.encode(), Thinking()).num_prompt_tokens == prompt_tokens


@pytest.mark.parametrize(
    ("body", "most"),
    [
        ({"messages": [{"content": "é"}], "max_tokens": 9}, Tokens(33, 9)),
        ({"messages": [], "max_tokens": 9, "max_completion_tokens": 20}, Tokens(16, 20)),
        ({"messages": [], "response_format": {"a": 1}}, Tokens(45, 7)),
    ],
    ids=["bytes", "the higher limit", "schema, and a limit that extra_body leaves out"],
)
def test_a_request_takes_no_more_tokens_than_bytes_and_its_limit(body, most):
    assert most_tokens({"model": "m", **body}, 7) == most


def test_a_prompt_of_unknown_length_counts_as_its_bound(judge_section):
    spending = Spending(judge_section)
    spending.take(Tokens(400, 500))
    spending.settle(Tokens(400, 500), None, 5)
    assert spending.spent == Tokens(400, 5)


def test_a_cap_is_told_with_what_was_spent_and_from_then_on_nobody_gets_anything(judge_section):
    spending = Spending(judge_section, "r.yaml")
    spending.take(Tokens(500, 500))
    spending.settle(Tokens(500, 500), 500, 450)
    with pytest.raises(RunStopped) as stopped:
        spending.take(Tokens(40, 20))
    assert str(stopped.value) == (
        "r.yaml: judge.max_tokens: 950 tokens are spent of 1,000 tokens, and one more request may take 60 tokens; "
        "raise it and start again: no verdict is paid for twice"
    )
    with pytest.raises(RunStopped):
        spending.take(Tokens(1, 1))


def test_who_waits_is_stopped_when_what_was_in_flight_has_left_no_room(judge_section):
    spending = Spending(judge_section)

    async def wait_and_settle() -> None:
        await spending.reserve(Tokens(500, 400))
        waiting = asyncio.create_task(spending.reserve(Tokens(500, 0)))
        await asyncio.sleep(0)
        assert not waiting.done()
        spending.settle(Tokens(500, 400), 500, 400)
        await waiting

    with pytest.raises(RunStopped):
        asyncio.run(wait_and_settle())


def test_processes_share_a_cap(judge_section, tmp_path):
    processes = [Spending.load(judge_section, "r.yaml", tmp_path, index, 4) for index in range(4)]
    for spending in processes:
        spending.take(Tokens(200, 50))
    for spending in processes:
        spending.settle(Tokens(200, 50), 200, 50)
        with pytest.raises(RunStopped, match=r"250 tokens are spent of 250 tokens \(this process' part of 1,000"):
            spending.take(Tokens(1, 0))


@pytest.mark.parametrize("num_processes", [1, 2, 3])
def test_what_earlier_attempts_spent_is_off_the_cap_whoever_goes_on(num_processes, judge_section, tmp_path):
    for index, spent in enumerate([300, 100]):
        spending = Spending.load(judge_section, "r.yaml", tmp_path, index, 2)
        spending.take(Tokens(0, spent))
        spending.settle(Tokens(0, spent), 0, spent)
    left = 600
    processes = [
        Spending.load(judge_section, "r.yaml", tmp_path, index, num_processes) for index in range(num_processes)
    ]
    for spending in processes:
        with pytest.raises(RunStopped):
            while True:
                spending.take(Tokens(0, 1))
                spending.settle(Tokens(0, 1), 0, 1)
                left -= 1
    assert left == 0
    spent = sum(json.loads(file.read_text())["completion_tokens"] for file in tmp_path.glob("judging-*.json"))
    assert spent == 1000


SHARES = [f"shares/{index}-of-4" for index in range(4)]


def spend_all(section: Judge, folder: Path, index: int = 0, num_processes: int = 1) -> int:
    """Lets a process of a run, or of a share, spend all that it may; gives what that was."""
    folder.mkdir(parents=True, exist_ok=True)
    spending = Spending.load(section, "r.yaml", folder, index, num_processes)
    before = spending.spent.completion
    with pytest.raises(RunStopped):
        while True:
            spending.take(Tokens(0, 1))
            spending.settle(Tokens(0, 1), 0, 1)
    return spending.spent.completion - before


@pytest.mark.parametrize(
    ("spent", "left"),
    [
        ([], [250, 250, 250, 250, 0]),
        ([("shares/0-of-4", 250), ("shares/1-of-4", 100)], [0, 150, 250, 250, 0]),
        ([(share, 100) for share in SHARES], [150, 150, 150, 150, 0]),
        ([("", 400)], [150, 150, 150, 150, 0]),
        ([("shares/0-of-2", 400), ("shares/0-of-4", 100)], [50, 150, 150, 150, 0]),
    ],
    ids=["at first", "taken up", "all taken up", "after the whole run", "after another division"],
)
def test_shares_and_who_joins_them_never_pass_the_cap(spent, left, judge_section, tmp_path):
    for folder, tokens in spent:
        leave_spent(tmp_path / folder, tokens)
    for _ in range(2):  # to be taken up again gives no more
        assert [spend_all(judge_section, tmp_path / folder) for folder in [*SHARES, ""]] == left
        left = [0] * len(left)


@pytest.mark.parametrize(
    "order",
    [
        ["shares/0-of-2", "", "shares/1-of-2"],
        ["", "shares/0-of-2", "", "shares/1-of-2"],
        [*SHARES[:3], "", SHARES[3]],
        ["shares/0-of-2", *(f"shares/{index}-of-3" for index in range(3)), "shares/1-of-2"],
    ],
    ids=" ".join,
)
def test_in_no_order_of_shares_and_runs_that_join_them_the_cap_is_passed(order, judge_section, tmp_path):
    assert sum(spend_all(judge_section, tmp_path / folder) for folder in order) <= 1000


def test_who_joins_shares_has_what_they_have_left(judge_section, tmp_path):
    for share in SHARES[:3]:
        leave_spent(tmp_path / share, 200)
    assert [spend_all(judge_section, tmp_path, index, 2) for index in range(2)] == [200, 100]


def test_what_shares_have_spent_is_told_with_the_cap(judge_section, tmp_path):
    leave_spent(tmp_path / SHARES[0], 900)
    with pytest.raises(
        RunStopped, match=r"0 tokens are spent of 100 tokens \(this process' part of 1,000 tokens, less 900"
    ):
        Spending.load(judge_section, "r.yaml", tmp_path).take(Tokens(100, 1))


def test_processes_of_a_share_have_its_part(judge_section, tmp_path):
    share = tmp_path / SHARES[2]
    leave_spent(share, 50)
    spent = [spend_all(judge_section, share, index, 2) for _ in range(9) for index in range(2)]
    assert spent[0] == 100 and 190 < sum(spent) <= 200


def test_what_cannot_be_written_down_stops_the_run_and_loses_no_verdict(tmp_path):
    section = {"endpoint": {"max_concurrent_requests": 1}}
    with OpenAIServer(answer=verdict_by(likes_length)) as server:
        judge = judge_of(recipe_with(server, **section), tmp_path)
        (tmp_path / "judging-0.json.part").mkdir()  # no file can be written under its name
        with pytest.raises(RunStopped, match="judging-0.json: what the judge has spent cannot be written down"):
            judge.scores(ORDER, [QUESTION], [["a", "b"]])
        assert len(server.requests) == 1
        (tmp_path / "judging-0.json.part").rmdir()
        again = judge_of(recipe_with(server, **section), tmp_path)
        again.scores(ORDER, [QUESTION], [["a", "b"]])
    assert again.report()["cached"] == 1


def test_spending_that_cannot_be_read_is_one_line(judge_section, tmp_path):
    (tmp_path / "judging-0.json").write_text("")
    told = r"judging-0.json: what a judge has spent cannot be read .* write \{"
    with pytest.raises(RunStopped, match=told) as stopped:
        Spending.load(judge_section, "r.yaml", tmp_path)
    assert "\n" not in str(stopped.value)


def test_verdicts_of_a_share_are_found_by_who_joins_it_and_by_other_shares(tmp_path):
    with OpenAIServer(answer=verdict_by(likes_length)) as server:
        recipe = recipe_with(server)
        for folder in (SHARES[0], SHARES[1], "", "shares/0-of-2"):
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
            judge_of(recipe, tmp_path / folder).scores(ORDER, [QUESTION], [["a", "b"]])
    assert len(server.requests) == 8
    assert len(list((tmp_path / SHARES[0] / "verdicts").iterdir())) == 1
    assert not list((tmp_path / "verdicts").iterdir())


def leave_spent(folder: Path, tokens: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "judging-9.json").write_text(json.dumps({"requests": 1, "prompt_tokens": 0, "completion_tokens": tokens}))


USAGE = {"usage": {"prompt_tokens": 30, "completion_tokens": 20}}
GOOD = '{"A": {"order": 8}}'


@pytest.mark.parametrize(
    ("message", "finish_reason", "more", "spent"),
    [
        ({"content": GOOD}, "error", USAGE, (2, 31, 23)),
        ({"content": None}, "stop", USAGE, (2, 31, 23)),
        ({"content": GOOD}, "abort", {"usage": {"completion_tokens": 20}}, (2, None, 23)),
        ({"content": GOOD}, "abort", {}, (1, 1, 3)),
        ({"content": None, "refusal": "I will not"}, "stop", USAGE, (1, 30, 20)),
        ({"content": GOOD}, "content_filter", USAGE, (1, 30, 20)),
    ],
    ids=["error", "no content", "prompt not said", "usage not said", "refusal", "moderated"],
)
def test_tokens_of_answers_that_are_of_no_use_are_spent(message, finish_reason, more, spent, tmp_path, monkeypatch):
    monkeypatch.setattr("open_r1.generation.client.backoff_seconds", lambda _: 0.0)
    fault = Reply(content={"choices": [{"message": message, "finish_reason": finish_reason}], **more})
    section = {"judgements": 1, "max_tokens": 100_000, "endpoint": {"max_attempts": 2}}
    with OpenAIServer(answer=lambda body: GOOD, faults=[fault]) as server:
        judge = judge_of(recipe_with(server, **section), tmp_path)
        judge.scores(ORDER, [QUESTION], [["x"]])
    bound = most_tokens(server.requests[0], 100).prompt
    report = judge.report()
    num_requests, prompt_tokens, completion_tokens = spent
    assert (report["requests"], report["completion_tokens"]) == (num_requests, completion_tokens)
    assert report["prompt_tokens"] == (1 + bound if prompt_tokens is None else prompt_tokens)


def test_a_cap_stops_a_request_that_is_asked_again_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr("open_r1.generation.client.backoff_seconds", lambda _: 0.0)
    broken_off = Reply(content={"choices": [{"message": {"content": ""}, "finish_reason": "error"}], **USAGE})
    with OpenAIServer(faults=[broken_off] * 99) as server:
        recipe = recipe_with(server, judgements=1, endpoint={"max_attempts": 99})
        with pytest.raises(RunStopped):
            judge_of(recipe, tmp_path / "to_measure").scores(ORDER, [QUESTION], [["x"]])
        cap = sum(most_tokens(server.requests[0], 100)) + 100
        server.faults.extend([broken_off] * 99)
        server.requests.clear()
        capped = recipe.model_copy(update={"judge": recipe.judge.model_copy(update={"max_tokens": cap})})
        judge = judge_of(capped, tmp_path / "run")
        with pytest.raises(RunStopped, match="judge.max_tokens: 150 tokens are spent"):
            judge.scores(ORDER, [QUESTION], [["x"]])
    assert len(server.requests) == 3


# --- who judges


@pytest.fixture
def model_folder(tmp_path):
    """A folder like a model's, of which nothing is loaded."""
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("model.safetensors", "config.json", "tokenizer.json", "generation_config.json", "chat_template.jinja"):
        (folder / name).write_text("{}")
    return folder


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("model.safetensors", True),
        ("pytorch_model.bin", True),
        ("tokenizer.json", True),
        ("generation_config.json", True),
        ("chat_template.jinja", True),
        ("training_args.bin", False),
        ("README.md", False),
    ],
)
def test_what_changes_a_model_s_verdicts_tells_it_from_others_and_its_folder_does_not(file, changes, model_folder):
    def who():
        return who_judges(Recipe(step="preferences", judge=Judge(name=str(model_folder))))

    before = who()
    model_folder = model_folder.rename(model_folder.with_name("moved"))
    assert who() == before
    (model_folder / file).write_text("{ }")
    assert (who() != before) == changes


def test_weights_of_another_format_are_known_by_their_content(model_folder):
    (model_folder / "model.safetensors").rename(model_folder / "pytorch_model.bin")
    recipe = Recipe(step="preferences", judge=Judge(name=str(model_folder)))
    assert str(model_folder) not in str(who_judges(recipe))


@pytest.mark.parametrize(("hardware", "differ"), [({}, True), ({"judge": VllmServer()}, False)], ids=["here", "served"])
@pytest.mark.parametrize("name", ["a/b", "folder"])
def test_dtype_of_a_model_in_this_process_tells_it_from_others(name, hardware, differ, model_folder):
    section = Judge(name=str(model_folder) if name == "folder" else name)
    one, other = (
        who_judges(Recipe(step="preferences", judge=section, model=Model(dtype=dtype), hardware=Hardware(**hardware)))
        for dtype in ("float32", "bfloat16")
    )
    assert (one != other) == differ


def test_a_server_that_the_launcher_started_is_asked_for_the_judges_name(tmp_path, monkeypatch):
    with OpenAIServer(answer=verdict_by(likes_length), model="someone/judge") as server:
        monkeypatch.setenv(vllm_server.JUDGE_URL, server.url.removesuffix("/v1"))
        section = Judge(name="someone/judge", max_completion_length=100)
        recipe = Recipe(step="preferences", judge=section, hardware=Hardware(judge=VllmServer()))
        assert judge_of(recipe, tmp_path).scores(ORDER, [QUESTION], [["mm"]]) == [[2.0]]
    assert len(server.requests) == 4


@pytest.mark.parametrize(("processes", "at_once"), [(1, 256), (4, 64), (1000, 1)])
def test_every_copy_of_the_judge_has_as_many_requests_at_once(processes, at_once, monkeypatch):
    monkeypatch.setenv(vllm_server.JUDGE_URL, "http://x")
    hardware = Hardware(judge=VllmServer(data_parallel_size=4), processes_per_node=processes)
    recipe = Recipe(step="preferences", judge=Judge(name="someone/judge"), hardware=hardware)
    assert endpoint_of_judge(recipe).max_concurrent_requests == at_once


@pytest.fixture
def judge_here(smallest_model, tmp_path):
    """Makes the judge of a recipe whose judge is a model of random weights in this process."""

    def make(**section):
        given = {"name": str(smallest_model), "max_completion_length": 8, "judgements": 2, **section}
        template = tmp_path / "other.jinja"
        template.write_text("{{ raise_exception('the template of the model that is trained') }}")
        return judge_of(
            Recipe(step="preferences", judge=Judge(**given), model=Model(chat_template=str(template))), tmp_path
        )

    return make


@pytest.fixture
def small_rubric(tmp_path):
    (tmp_path / "ask.jinja").write_text("{{ question }}\n{{ answers[0] }}")
    (tmp_path / "rubric.yaml").write_text(
        "{description: Order., template: ask.jinja, principles: [{name: order, text: ''}]}"
    )
    return load_rubric(tmp_path / "rubric.yaml")


def test_a_model_in_this_process_judges_by_its_own_chat_template(judge_here, small_rubric, tmp_path):
    judge = judge_here()
    assert judge.scores(small_rubric, [QUESTION], [["a", "b"]]) == [[None, None]]
    report = judge.report()
    assert (report["verdicts"], report["unreadable"], report["requests"]) == (4, 4, 4)
    assert report["prompt_tokens"] > 4 * len(QUESTION[0]["content"])
    again = judge_here()
    assert again.scores(small_rubric, [QUESTION], [["a", "b"]]) == [[None, None]]
    assert again.report()["cached"] == 4 and again.report()["requests"] == 4


def test_a_model_in_this_process_is_capped_before_it_begins(judge_here, small_rubric):
    judge = judge_here(max_tokens=200)
    with pytest.raises(RunStopped, match="judge.max_tokens: 0 tokens are spent of 200 tokens"):
        judge.scores(small_rubric, [QUESTION], [["a", "b"]])


def test_a_chat_template_without_a_system_message_is_told_in_one_line(judge_here):
    with pytest.raises(RecipeError, match="judge.name: its chat template does not take what is asked") as mistake:
        judge_here().scores(ORDER, [QUESTION], [["a"]])
    assert len(mistake.value.lines) == 1 and "give the rubric a template" in str(mistake.value)


ENDPOINT = Endpoint(base_url="http://localhost:1/v1", model="m")
NO_LIMIT = Endpoint(base_url="http://localhost:1/v1", model="m", extra_body={"max_tokens": None})
OTHER_LIMIT = NO_LIMIT.model_copy(update={"extra_body": {"max_tokens": None, "max_completion_tokens": 9}})
PAIRS = Preferences(samples=4, max_completion_length=8, rubric="r.yaml")


@pytest.mark.parametrize(
    ("sections", "lines"),
    [
        ({}, []),
        ({"judge": {"name": "a/b"}}, []),
        ({"judge": {"endpoint": ENDPOINT}}, []),
        ({"judge": {"name": "a/b"}, "hardware": Hardware(judge=VllmServer())}, []),
        ({"hardware": Hardware(judge=VllmServer())}, ["judge: missing; hardware.judge serves judge.name"]),
        (
            {"step": "sft", "hardware": Hardware(judge=VllmServer())},
            ["hardware.judge: step sft has no judge; remove it"],
        ),
        (
            {"judge": {}},
            ["judge.name: missing; a Hub id or a path that begins with ./, or give judge.endpoint"],
        ),
        (
            {"judge": {}, "hardware": Hardware(judge=VllmServer())},
            ["judge.name: missing; a Hub id or a path that begins with ./, what hardware.judge serves"],
        ),
        (
            {"judge": {"name": "a/b", "endpoint": ENDPOINT}},
            ["judge.endpoint: cannot go together with judge.name; remove one"],
        ),
        (
            {"judge": {"endpoint": ENDPOINT}, "hardware": Hardware(judge=VllmServer())},
            ["hardware.judge: serves judge.name, but judge.endpoint is another server; remove one"],
        ),
        (
            {"judge": {"name": "a/b", "temperature": 0.0}},
            ["judge.judgements: 4 verdicts at temperature 0 are equal; write judgements: 1, or give judge.temperature"],
        ),
        ({"judge": {"name": "a/b", "temperature": 0.0, "judgements": 1}}, []),
        ({"judge": {"name": "a/b", "temperature": 0.0, "candidates": 2}}, []),
        ({"judge": {"name": "a/b", "candidates": 2, "judgements": 3}}, []),
        (
            {"judge": {"name": "a/b", "candidates": 5}, "preferences": PAIRS},
            [
                "judge.candidates: 5 are more than the 4 answers to a prompt; lower it, or raise preferences.samples",
            ],
        ),
        (
            {"judge": {"name": "a/b", "candidates": 2}, "generate": Generate(max_completion_length=8)},
            ["judge.candidates: 2 are more than the 1 answers to a prompt; lower it, or raise generate.samples"],
        ),
        (
            {"step": "grpo", "judge": {"name": "a/b", "candidates": 6}, "trainer": {"num_generations": 4}},
            ["judge.candidates: 6 are more than the 4 answers to a prompt; lower it, or raise trainer.num_generations"],
        ),
        (
            {"judge": {"endpoint": ENDPOINT, "max_usd": 1.0, f"{USD}prompt_tokens": 1.0}},
            [f"judge.{USD}completion_tokens: missing; judge.max_usd is counted by it"],
        ),
        ({"judge": {"endpoint": NO_LIMIT}}, []),
        (
            {"judge": {"endpoint": NO_LIMIT, "max_tokens": 9}},
            [
                "judge.endpoint.extra_body.max_tokens: null leaves verdicts without a limit, and judge.max_tokens "
                "could be passed; add max_completion_tokens: 1024",
            ],
        ),
        ({"judge": {"endpoint": OTHER_LIMIT, "max_tokens": 9}}, []),
    ],
    ids=lambda value: ("; ".join(value)[:60] or "none") if isinstance(value, list) else "",
)
def test_mistakes_of_the_section_are_lines(sections, lines):
    judge = {"judge": Judge(**sections["judge"])} if "judge" in sections else {}
    recipe = Recipe(**{"step": "preferences", **sections, **judge})
    assert list(judge_problems(recipe)) == lines
