"""Preferences by AI: which two answers are a pair, what judges with known tastes leave, what a kill does not lose."""

import contextlib
import dataclasses
import hashlib
import json
import multiprocessing
import multiprocessing.connection
import os
import re
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet as parquet
import pytest
from conftest import CPU_TRAINER, slow_but_for, sums
from openai_server import OpenAIServer, Reply
from stand_in_judges import is_nonsense, likes_the_first, shown_in, verdict_by

from open_r1 import launch, preferences, running
from open_r1.check import check_recipe
from open_r1.curation import pairs, sampling
from open_r1.curation.columns import columns_left
from open_r1.curation.pairs import ALIKE, BEYOND, CLOSE, NOT_SCORED, TOO_FEW, TRUNCATED, UNBALANCED, UNLIKE, pair_of
from open_r1.curation.rows import NOT_ASKED, OF_PAIR, PROVENANCE, REFUSED, write_rows
from open_r1.data import load_data
from open_r1.feedback import load_rubric
from open_r1.recipe import Preferences, RecipeError, dump_recipe, load_recipe
from open_r1.run_record import data_sha256, read_record, weights_sha256
from open_r1.shares import all_shares
from open_r1.signals import EXIT_INTERRUPTED
from open_r1.step_process import RunStopped, run_step

pytest.importorskip("openai")

FORKSERVER = multiprocessing.get_context("forkserver")
FORKSERVER.set_forkserver_preload(["open_r1.preferences", "open_r1.generation.transformers_backend", "openai"])
NUM_PROMPTS, SAMPLES, MAX_TOKENS = 12, 4, 12


# --- which two answers are a pair


def answers(*scored: tuple[float | None, int] | str, number: int = 0) -> list[dict[str, Any]]:
    """Rows of one prompt: (score, tokens) of each answer, or why it was dropped."""
    given = [(None, 9, each) if isinstance(each, str) else (*each, None) for each in scored]
    return [
        {"id": f"{number}-{sample}", "score": score, "num_tokens": tokens, "dropped_for": why}
        for sample, (score, tokens, why) in enumerate(given)
    ]


def section(**keys) -> Preferences:
    return Preferences(**{"samples": 4, "max_completion_length": 9, "rubric": "r.yaml", **keys})


@pytest.mark.parametrize(
    ("rows", "keys", "expected"),
    [
        (answers((5, 9), (4, 9)), {}, CLOSE),
        (answers((5.01, 9), (4, 9)), {}, (0, 1)),
        (answers((4, 9), (5.01, 9)), {}, (1, 0)),
        (answers((5, 9), (4.5, 9)), {"min_margin": 0.5}, CLOSE),
        (answers((5, 9), (4.49, 9)), {"min_margin": 0.5}, (0, 1)),
        (answers((5, 9), (5, 9)), {"min_margin": 0.0}, CLOSE),
        (answers((5, 9), (4.99, 9)), {"min_margin": 0.0}, (0, 1)),
        (answers((5, 9), (9, 9), (4, 9), (1, 9)), {}, (1, 3)),
        (answers((5, 9), (8, 9), (7, 9), (7, 9)), {"rejected": "random"}, (1, 0)),  # the others are too good
        (answers((5, 9)), {}, TOO_FEW),
        (answers((9, 9), TRUNCATED, REFUSED, NOT_SCORED), {}, TOO_FEW),
        (answers(TRUNCATED, REFUSED), {}, TOO_FEW),
        (answers(TRUNCATED, (2, 9), NOT_SCORED, (9, 9)), {}, (3, 1)),
        (answers((9, 20), (1, 10)), {"max_length_ratio": 2.0}, (0, 1)),
        (answers((9, 21), (1, 10)), {"max_length_ratio": 2.0}, UNLIKE),
        (answers((9, 10), (1, 21)), {"max_length_ratio": 2.0}, UNLIKE),
        (answers((9, 10), (1, 21), (5, 19)), {"max_length_ratio": 2.0}, (0, 2)),
        (answers((9, 10), (1, 21), (8, 10)), {"max_length_ratio": 2.0}, UNLIKE),
        (answers((9, 10), (8, 99)), {"max_length_ratio": 2.0}, CLOSE),
        # what floats make of a difference of 1, and of two equal means
        (answers((8.175, 9), (7.175, 9)), {}, CLOSE),
        (answers((7.275, 9), (8.275, 9)), {}, CLOSE),
        (answers((5.05, 9), (5.050000000000001, 9)), {"min_margin": 0.0}, CLOSE),
        (answers((8.176, 9), (7.175, 9)), {}, (0, 1)),
    ],
)
@pytest.mark.parametrize("seed", range(3))
def test_pair_of_a_prompt(rows, keys, expected, seed):
    assert pair_of(rows, section(**keys), seed) == expected


@pytest.mark.parametrize(
    ("keys", "found"),
    [({}, {(2, 3)}), ({"rejected": "random"}, {(2, 1), (2, 3), (2, 4)})],
    ids=["worst", "random"],
)
def test_rejected_answer_is_the_worst_or_any_that_is_worse_by_the_margin(keys, found):
    rows = [answers((8, 9), (5, 9), (9, 9), (1, 9), (7, 9), number=number) for number in range(60)]
    assert {pair_of(each, section(**keys), 0) for each in rows} == found


def test_of_equal_scores_the_seed_draws_and_draws_the_same_again():
    rows = [answers((9, 9), (9, 9), (1, 9), (1, 9), number=number) for number in range(60)]
    drawn = [[pair_of(each, section(), seed) for each in rows] for seed in (0, 0, 1)]
    assert set(drawn[0]) == {(0, 2), (0, 3), (1, 2), (1, 3)}
    assert drawn[0] == drawn[1] != drawn[2]


# --- judges with known tastes


def words(number: int) -> str:
    return " ".join(["word"] * number)


def drawn_from(text: str, number: int) -> int:
    """A number below `number` that is always the same of a text."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4]) % number


def of_any_length(body: dict[str, Any]) -> str:
    """The policy: an answer of one to ten words, which are its tokens, by what is asked and the seed."""
    return words(1 + drawn_from(f"{body['messages'][-1]['content']}/{body['seed']}", 10))


def likes_words(_: int, text: str) -> int:
    """A point for each word."""
    return min(10, len(text.split()))


def likes_words_or_brevity(body: dict[str, Any]) -> str:
    """Of one question in three the shorter answer is liked better."""
    (question,) = [text for name, text in shown_in(body["messages"]).asked if name == "user"]
    likes = likes_words if drawn_from(question, 3) else lambda place, text: 11 - likes_words(place, text)
    return verdict_by(likes)(body)


def nonsense_one_time_in_five(body: dict[str, Any]) -> str:
    return "They are all so good!" if is_nonsense(body) else verdict_by(likes_words)(body)


@dataclasses.dataclass
class Left:
    """What a run has left behind."""

    run_dir: Path
    counts: dict[str, Any]
    completions: list[dict[str, Any]]
    kept: list[dict[str, Any]]

    def scored(self) -> list[list[dict[str, Any]]]:
        """The answers to each prompt that have a score."""
        groups: dict[str, list] = {}
        for row in self.completions:
            groups.setdefault(row["id"].partition("-")[0], []).append(row)
        return [[row for row in group if row["dropped_for"] is None] for group in groups.values()]

    def pairs(self) -> list[tuple[int, int] | str]:
        """What pair_of finds, before lengths are balanced and pairs counted."""
        return [pair_of(group, section(), 0) for group in self.scored()]


def rows_in(run_dir: Path, folder: str) -> list[dict[str, Any]]:
    return [
        row for file in sorted((run_dir / folder).glob("*.parquet")) for row in parquet.read_table(file).to_pylist()
    ]


def left_in(run_dir: Path) -> Left:
    counts = json.loads((run_dir / "preferences.json").read_text())
    left = Left(run_dir, counts, rows_in(run_dir, "completions"), rows_in(run_dir, "kept"))
    # Whatever was asked and kept: every prompt, completion and drop is counted.
    assert counts["prompts"] == counts["kept"] + sum(counts["dropped"].values())
    assert counts["sampled"] == len(left.completions)
    assert counts["tokens"] == sum(row["num_tokens"] for row in left.completions)
    assert (
        Counter(row["dropped_for"] for row in left.completions if row["dropped_for"]) == counts["completions_dropped"]
    )
    assert len(left.kept) == counts["kept"] and len({row["id"] for row in left.kept}) == len(left.kept)
    return left


@pytest.fixture
def recipe_for(write_recipe, tmp_path):
    """Writes a recipe for two servers, the judge's and the policy's, with keys of its sections and other sections."""

    def write(judging: OpenAIServer, answering: OpenAIServer | None = None, num_prompts: int = NUM_PROMPTS, **sections):
        (tmp_path / "rubric.yaml").write_text("{description: D., principles: [{name: order, text: 'In order?'}]}")
        given = {"rubric": "rubric.yaml", "samples": SAMPLES, "max_completion_length": MAX_TOKENS}
        given |= {"prompts_per_shard": 5, "balance_lengths": False}
        if answering is not None:
            given["endpoint"] = {"base_url": answering.url, "model": "teacher", "max_refused_share": 1.0}
        endpoint = {"base_url": judging.url, "model": "teacher"}
        judge = {"max_completion_length": 100, "judgements": 2, **sections.pop("judge", {})}
        values = {
            "step": "preferences",
            "data": [sums(num_prompts)],
            "preferences": given | sections.pop("preferences", {}),
            "judge": {**judge, "endpoint": endpoint | judge.get("endpoint", {})},
            **sections,
        }
        return write_recipe("preferences.yaml", **values)

    return write


@pytest.fixture
def preferred(recipe_for, tmp_path):
    """Runs the step in this process with a judge's and a policy's answers, and gives what it left."""

    def run(
        verdict: Callable,
        answer: Callable = of_any_length,
        faults: Sequence = (),
        no_pair: str | None = None,
        **sections,
    ) -> Left:
        """`no_pair` is what a run that keeps nothing is expected to say."""
        expected = pytest.raises(RunStopped, match=no_pair) if no_pair else contextlib.nullcontext()
        with OpenAIServer(answer=verdict) as judging, OpenAIServer(answer=answer, faults=list(faults)) as answering:
            recipe = recipe_for(judging, answering, **sections)
            with expected:
                prefer(recipe, tmp_path / "run")
        return left_in(tmp_path / "run")

    return run


def prefer(recipe: Path, run_dir: Path) -> Path:
    run_dir.mkdir(parents=True, exist_ok=True)
    preferences.preferences(load_recipe(recipe), run_dir)
    return run_dir


class OneThatEnds:
    """The policy: of all answers to a prompt one alone ends."""

    def __init__(self):
        self._begun, self._lock = set(), threading.Lock()

    def __call__(self, body: dict[str, Any]) -> str:
        question = body["messages"][-1]["content"]
        with self._lock:
            is_first = question not in self._begun
            self._begun.add(question)
        return words(5 if is_first else MAX_TOKENS + 5)


@pytest.mark.parametrize(
    ("policy", "why", "why_not_judged"),
    [
        (lambda body: words(5), ALIKE, {NOT_ASKED: 4 * NUM_PROMPTS}),
        (lambda body: f"<think>{body['seed']}</think> word", ALIKE, {NOT_ASKED: 4 * NUM_PROMPTS}),
        (OneThatEnds(), TOO_FEW, {TRUNCATED: 3 * NUM_PROMPTS, NOT_ASKED: NUM_PROMPTS}),
    ],
    ids=["identical", "identical to the judge", "one alone"],
)
def test_prompts_whose_answers_can_be_no_pair_are_not_judged(policy, why, why_not_judged, preferred, tmp_path):
    (tmp_path / "of_answers.yaml").write_text("{description: D., sees: answer, principles: [{name: a, text: T}]}")
    keys = {"preferences": {"rubric": "of_answers.yaml"}, "judge": {"candidates": 2}}
    left = preferred(verdict_by(likes_the_first), policy, no_pair=f"{why}: {NUM_PROMPTS}", **keys)
    assert left.counts["dropped"] == {why: NUM_PROMPTS} and left.counts["completions_dropped"] == why_not_judged
    assert (left.counts["length_correlation"], left.counts["judge"]["verdicts"]) == (None, 0)


@pytest.mark.parametrize("keys", [{}, {"min_margin": 0.0}], ids=["margin", "no margin"])
def test_of_answers_that_deserve_the_same_there_is_no_pair_if_the_judge_likes_the_first(keys, preferred):
    left = preferred(verdict_by(likes_the_first), no_pair=CLOSE, judge={"candidates": 2}, preferences=keys)
    assert set(left.counts["dropped"]) <= {CLOSE, ALIKE} and left.counts["dropped"][CLOSE] > NUM_PROMPTS / 2
    assert left.counts["judge"]["position_bias"] == 4.0


def test_taste_for_length_is_told_and_its_pairs_are_kept_unbalanced(preferred):
    left = preferred(verdict_by(likes_words))
    assert left.counts["length_correlation"] == pytest.approx(1.0)
    assert left.counts["kept"] > NUM_PROMPTS / 2 and left.counts["longer_is_chosen"] == 1.0
    for row in left.kept:
        assert (row["chosen_score"], row["rejected_score"]) == (row["chosen_tokens"], row["rejected_tokens"])
        assert row["margin"] == row["chosen_tokens"] - row["rejected_tokens"] > 1.0
    for name in ("chosen", "rejected"):
        assert left.counts[f"{name}_tokens"] == pytest.approx(np.mean([row[f"{name}_tokens"] for row in left.kept]))


def test_of_a_taste_for_length_alone_balance_leaves_nothing(preferred):
    left = preferred(verdict_by(likes_words), no_pair=UNBALANCED, preferences={"balance_lengths": True})
    assert left.counts["kept"] == 0
    assert left.counts["dropped"][UNBALANCED] == sum(not isinstance(pair, str) for pair in left.pairs()) > 0


def test_pairs_are_balanced_and_the_rest_is_counted(preferred):
    left = preferred(likes_words_or_brevity, num_prompts=40, preferences={"balance_lengths": True})
    assert left.counts["longer_is_chosen"] == 0.5
    longer = [np.sign(row["chosen_tokens"] - row["rejected_tokens"]) for row in left.kept]
    assert sum(longer) == 0 < len(longer)
    signs = [
        np.sign(group[pair[0]]["num_tokens"] - group[pair[1]]["num_tokens"])
        for group, pair in zip(left.scored(), left.pairs(), strict=True)
        if not isinstance(pair, str)
    ]
    assert left.counts["dropped"][UNBALANCED] == abs(sum(signs)) > 0


def test_correlation_is_pearsons_within_the_answers_to_a_prompt(preferred):
    left = preferred(likes_words_or_brevity, num_prompts=40)
    within = [
        (
            row["score"] - np.mean([r["score"] for r in group]),
            row["num_tokens"] - np.mean([r["num_tokens"] for r in group]),
        )
        for group in left.scored()
        for row in group
    ]
    expected = np.corrcoef(np.array(within).T)[0, 1]
    assert left.counts["length_correlation"] == pytest.approx(expected) and 0.1 < expected < 0.9


def test_unreadable_verdicts_are_none_and_counted_and_in_no_pair(preferred):
    keys = {"num_prompts": 30, "judge": {"judgements": 1}, "guards": {"max_judge_failed_share": 0.5}}
    left = preferred(nonsense_one_time_in_five, **keys)
    unscored = [row for row in left.completions if row["score"] is None]
    assert left.counts["completions_dropped"] == {NOT_SCORED: len(unscored)}
    report = left.counts["judge"]
    assert 0 < report["unreadable"] < report["verdicts"] / 2
    assert len({(str(row["prompt"]), row["completion"]) for row in unscored}) == report["unreadable"]
    for row in left.completions:
        assert row["score"] in (None, likes_words(0, row["completion"]))
    never = {(str(row["prompt"]), row["completion"]) for row in unscored}
    for row in left.kept:
        assert not {(str(row["prompt"]), row[name][0]["content"]) for name in ("chosen", "rejected")} & never


def test_judge_that_breaks_stops_the_run_and_loses_neither_answers_nor_verdicts(recipe_for, tmp_path):
    keys = {"judge": {"judgements": 1}, "guards": {"max_judge_failed_share": 0.01}}
    with OpenAIServer(answer=nonsense_one_time_in_five) as judging, OpenAIServer(answer=of_any_length) as answering:
        recipe = recipe_for(judging, answering, **keys)
        with pytest.raises(RunStopped, match=r"of 20 completions got no verdict \(guards.max_judge_failed_share: 0.01"):
            prefer(recipe, tmp_path / "run")
        num_judged, num_answered = len(judging.requests), len(answering.requests)
        assert not (tmp_path / "run" / "preferences.json").exists()
        with pytest.raises(RunStopped, match="got no verdict"):
            prefer(recipe, tmp_path / "run")
        assert len(answering.requests) == num_answered
        unreadable = [body for body in judging.requests[:num_judged] if is_nonsense(body)]
        assert asked_again(judging.requests[num_judged:]) == asked_again(unreadable) != Counter()


def asked_again(bodies: Sequence[dict[str, Any]]) -> Counter:
    return Counter(json.dumps(body["messages"]) for body in bodies)


def test_one_verdict_that_is_missing_is_one_of_the_run_and_not_of_its_shard(preferred):
    texts = set()

    def nonsense_once(body):
        texts.add(json.dumps(body["messages"]))
        return "Hm." if len(texts) == 1 else verdict_by(likes_words)(body)

    left = preferred(nonsense_once, judge={"judgements": 1}, preferences={"prompts_per_shard": 1})
    assert 0 < left.counts["completions_dropped"][NOT_SCORED] < SAMPLES and left.kept


@pytest.mark.parametrize("cache", [None, "verdicts-of-all"])
def test_what_got_no_verdict_is_judged_again_and_nothing_else(cache, recipe_for, tmp_path):
    """With the verdicts of all attempts; and again by the same command, when the judge has been mended."""
    keys = {"judge": {"judgements": 1, "cache": cache}}
    run_dir = tmp_path / "run"
    with OpenAIServer(answer=nonsense_one_time_in_five) as judging, OpenAIServer(answer=of_any_length) as answering:
        prefer(recipe_for(judging, answering, **keys, guards={"max_judge_failed_share": None}), run_dir)
        (run_dir / "preferences.json").unlink()
        recipe = recipe_for(judging, answering, **keys, guards={"max_judge_failed_share": 0.01})
        judging.answer = lambda body: "No."
        with pytest.raises(
            RunStopped, match=r"of \d+ completions got no verdict .*what got no verdict is judged again"
        ):
            prefer(recipe, run_dir)
        assert not (run_dir / "preferences.json").exists()
        unscored = sum(row["dropped_for"] == NOT_SCORED for row in rows_in(run_dir, "completions"))
        num_asked, judging.answer = len(judging.requests), verdict_by(likes_words)
        left = left_in(prefer(recipe, run_dir))
    assert 0 < len(judging.requests) - num_asked <= unscored
    assert len(answering.requests) == SAMPLES * NUM_PROMPTS
    assert all(row["score"] == likes_words(0, row["completion"]) for group in left.scored() for row in group)
    assert left.counts["completions_dropped"].get(NOT_SCORED) is None and left.counts["judge"]["unreadable"] == 0


def test_answers_that_were_cut_off_or_refused_are_not_judged_and_in_no_pair(preferred):
    too_long = words(MAX_TOKENS + 5)

    def policy(body):
        return too_long if drawn_from(f"long/{body['seed']}", 3) == 0 else of_any_length(body)

    refusing = [400 if number % 5 == 0 else None for number in range(SAMPLES * NUM_PROMPTS)]
    shown = []

    def judge(body):
        shown.extend(shown_in(body["messages"]).answers.values())
        return verdict_by(likes_words)(body)

    left = preferred(judge, policy, refusing)
    why = left.counts["completions_dropped"]
    assert why[TRUNCATED] == sum(row["truncated"] for row in left.completions) > 0
    assert why[REFUSED] == sum(row["refused"] is not None for row in left.completions) > 0
    assert all(row["score"] is None for row in left.completions if row["dropped_for"])
    assert max(len(text.split()) for text in shown) <= 10 and "" not in shown
    assert all(row[name][0]["content"] in shown for row in left.kept for name in ("chosen", "rejected"))
    assert left.kept


def test_more_refusals_than_the_recipe_allows_stop_the_run(recipe_for, tmp_path):
    refusals = [Reply(400, {"message": "no"})] * 3
    with (
        OpenAIServer(answer=verdict_by(likes_words)) as judging,
        OpenAIServer(answer=of_any_length, faults=refusals) as answering,
    ):
        endpoint = {"base_url": answering.url, "model": "teacher", "max_refused_share": 0.01}
        recipe = recipe_for(judging, answering, preferences={"endpoint": endpoint})
        with pytest.raises(RunStopped, match=r"3 of 48 completions were refused .*preferences.endpoint.max_refused"):
            prefer(recipe, tmp_path / "run")
    assert not (tmp_path / "run" / "preferences.json").exists()


def test_no_more_pairs_than_asked_for_are_kept_and_the_rest_is_counted(preferred):
    left = preferred(verdict_by(likes_words), preferences={"max_pairs": 3})
    numbers = [int(row["id"]) for row in left.kept]
    assert len(numbers) == left.counts["kept"] == 3 and numbers == sorted(numbers)
    assert left.counts["dropped"][BEYOND] == sum(not isinstance(pair, str) for pair in left.pairs()) - 3 > 0


def shards_of_scores(folder: Path, groups: Sequence[Sequence[tuple[float, int]]], per_shard: int = 25) -> list[Path]:
    """Files of completions/ with a group of (score, tokens) for each prompt."""
    schema = pairs.schema_of(pyarrow.schema([]))
    files = []
    for start in range(0, len(groups), per_shard):
        rows = [
            {**row, "prompt": [{"role": "user", "content": f"{number}?"}], "completion": "a", "truncated": False}
            for number, group in enumerate(groups[start : start + per_shard], start=start)
            for row in answers(*group, number=number)
        ]
        files.append(folder / f"part-{start:05d}.parquet")
        write_rows(rows, schema, files[-1])
    return files


def keep_of(files: Sequence[Path], run_dir: Path, seed: int = 0, **keys) -> tuple[dict, list[dict]]:
    """The counts and the rows that keep_pairs leaves."""
    counts = pairs.keep_pairs(run_dir, files, section(**keys), seed, dict.fromkeys(PROVENANCE))
    return counts, rows_in(run_dir, "kept")


LONGER, SHORTER, EQUAL = ((9, 20), (1, 10)), ((9, 10), (1, 20)), ((9, 10), (1, 10))


@pytest.mark.parametrize(
    ("groups", "max_pairs", "num_kept"),
    [
        pytest.param([LONGER] * 50 + [SHORTER] * 50, 40, 40, id="even"),
        pytest.param([LONGER] * 50 + [SHORTER] * 50, 41, 40, id="odd, and none of equal length"),
        pytest.param([LONGER] * 50 + [EQUAL] * 10 + [SHORTER] * 50, 41, 41, id="odd"),
        pytest.param([LONGER] * 70 + [SHORTER] * 30, 40, 40, id="balanced before"),
        pytest.param([LONGER] * 50 + [SHORTER] * 50, 200, 100, id="more than there are"),
        pytest.param([EQUAL] * 9, 4, 4, id="all of equal length"),
    ],
)
def test_max_pairs_leaves_balanced_lengths_balanced(groups, max_pairs, num_kept, tmp_path):
    counts, kept = keep_of(shards_of_scores(tmp_path / "completions", groups), tmp_path, max_pairs=max_pairs)
    assert counts["kept"] == len(kept) == num_kept
    assert counts["prompts"] == num_kept + sum(counts["dropped"].values())
    assert sum(np.sign(row["chosen_tokens"] - row["rejected_tokens"]) for row in kept) == 0


@pytest.mark.parametrize("balance", [False, True])
def test_pairs_are_drawn_from_all_of_the_data_and_the_same_again(balance, tmp_path):
    files = shards_of_scores(tmp_path / "completions", [LONGER, SHORTER] * 50)
    drawn = [
        [int(row["id"]) for row in keep_of(files, tmp_path, seed, max_pairs=40, balance_lengths=balance)[1]]
        for seed in (0, 0, 1)
    ]
    assert drawn[0] == drawn[1] != drawn[2]
    assert all(5 <= sum(start <= number < start + 25 for number in drawn[0]) <= 15 for start in range(0, 100, 25))


@pytest.mark.parametrize(
    "group",
    [[(0.1, 5), (0.1, 7), (0.1, 11)], [(1.1, 9), (2.2, 9), (3.3, 9)]],
    ids=["scores", "lengths"],
)
def test_what_does_not_vary_but_for_rounding_has_no_correlation(group, tmp_path):
    counts, _ = keep_of(shards_of_scores(tmp_path / "completions", [group] * 3), tmp_path)
    assert counts["length_correlation"] is None


def test_scores_that_differ_by_rounding_alone_are_equal(preferred, monkeypatch):
    class Rounding:
        def tally(self):
            return {}

        def scores(self, rubric, prompts, groups, thinking, only_to_compare):
            return [[0.1 + 0.2 if index % 2 else 0.3 for index, _ in enumerate(group)] for group in groups]

    monkeypatch.setattr(pairs, "ai_judge_of", lambda *arguments: Rounding())
    left = preferred(verdict_by(likes_words), no_pair=CLOSE, preferences={"min_margin": 0.0})
    assert {row["score"] for group in left.scored() for row in group} == {0.3} and not left.kept


def test_lengths_of_a_pair_are_alike(preferred):
    left = preferred(verdict_by(likes_words), num_prompts=30, preferences={"max_length_ratio": 1.5})
    assert left.counts["dropped"][UNLIKE] > 0 and left.kept
    for row in left.kept:
        assert row["chosen_tokens"] <= 1.5 * row["rejected_tokens"]


# --- what is kept is data


def test_kept_pairs_are_data_of_a_reward_model_and_of_dpo(preferred, write_recipe, smallest_model):
    left = preferred(verdict_by(likes_words))
    for step in ("dpo", "reward_model"):
        recipe = load_recipe(
            write_recipe(
                f"{step}.yaml",
                step=step,
                model={"name": str(smallest_model)},
                data=[{"path": str(left.run_dir / "kept"), "part": [0, 0.5]}],
                eval_data=[{"path": str(left.run_dir / "kept"), "part": [0.5, 1]}],
                trainer={**CPU_TRAINER, "max_steps": 1, **({"eval_strategy": "steps"} if step == "dpo" else {})},
            )
        )
        check_recipe(recipe)
        rows = [row for of_section in ("data", "eval_data") for row in load_data(recipe, section=of_section)]
        given = [{name: row[name] for name in ("prompt", "chosen", "rejected")} for row in left.kept]
        assert sorted(map(str, rows)) == sorted(map(str, given))
        assert [message["role"] for message in rows[0]["chosen"]] == ["assistant"]


def test_kept_pairs_say_what_they_come_from(preferred, tmp_path):
    left = preferred(verdict_by(likes_words), data=[{**sums(NUM_PROMPTS), "task": "math"}])
    row = left.kept[0]
    assert set(row) == {"id", "prompt", "solution", "task", *OF_PAIR, *PROVENANCE}
    assert (row["task"], row["teacher"], row["teacher_sha256"]) == ("math", "teacher", None)
    assert json.loads(row["sampled_with"]) == {
        "temperature": 1.0,
        "top_p": 1.0,
        "max_completion_length": MAX_TOKENS,
        "samples": SAMPLES,
        "seed": 0,
    }
    verified = json.loads(row["verified_by"])
    assert {
        key: verified[key] for key in ("judge", "rubric", "judgements", "candidates", "min_margin", "rejected")
    } == {
        "judge": {"model": "teacher"},
        "rubric": {"file": "rubric.yaml", "sha256": load_rubric(tmp_path / "rubric.yaml").sha256},
        "judgements": 2,
        "candidates": 1,
        "min_margin": 1.0,
        "rejected": "worst",
    }
    assert str(tmp_path) not in json.dumps(row)


def test_columns_of_kept_pairs_are_known_before(preferred, tmp_path):
    row = {"prompt": "1+1=?", "solution": "2", "score": 3, "truncated": True, "pass_rate": 0.5, "margin": 1}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n" + json.dumps({**row, "prompt": "2+2=?"}) + "\n")
    keys = {"data": [{"path": "rows.jsonl"}], "preferences": {"min_margin": 0.0}}
    left = preferred(verdict_by(likes_words), **keys)
    assert set(left.kept[0]) == columns_left(load_recipe(tmp_path / "preferences.yaml"), "kept")


def test_run_without_a_pair_is_not_done_however_often_it_is_started(recipe_for, write_recipe, smallest_model, tmp_path):
    with (
        OpenAIServer(answer=verdict_by(likes_words)) as judging,
        OpenAIServer(answer=lambda body: words(5)) as answering,
    ):
        recipe = recipe_for(judging, answering)
        for _ in range(2):
            told = r"no pair is kept of 12 prompts \(answers all alike: 12\); raise preferences.temperature"
            with pytest.raises(RunStopped, match=told):
                prefer(recipe, tmp_path / "run")
    assert len(answering.requests) == SAMPLES * NUM_PROMPTS
    recipe = write_recipe(
        step="dpo",
        model={"name": str(smallest_model)},
        data=[{"path": str(tmp_path / "run/kept")}],
        trainer={**CPU_TRAINER, "max_steps": 1},
    )
    with pytest.raises(RecipeError, match="kept has no .parquet files"):
        check_recipe(load_recipe(recipe))


def test_every_reason_for_no_pair_has_a_mend():
    assert set(pairs.MENDS) == {TOO_FEW, ALIKE, CLOSE, UNLIKE, UNBALANCED, BEYOND}


# --- shares, processes, kills


def asked(*servers: OpenAIServer) -> Counter:
    return Counter((body["messages"][-1]["content"], body["seed"]) for server in servers for body in server.requests)


@pytest.mark.parametrize("count", [2, 4])
def test_shares_keep_what_one_run_keeps(count, recipe_for, tmp_path):
    with OpenAIServer(answer=likes_words_or_brevity) as judging, OpenAIServer(answer=of_any_length) as answering:
        recipe = recipe_for(judging, answering, preferences={"balance_lengths": True, "rejected": "random"})
        run_dir, whole = tmp_path / "run", prefer(recipe, tmp_path / "whole")
        judging.requests.clear()
        for share in all_shares(count):
            directory = prefer(recipe, share.directory(run_dir))
            assert not (directory / "kept").exists() and not (directory / "preferences.json").exists()
        num_asked = len(judging.requests)
        entries = [{"share": str(s), "seconds": 1.0, "run": str(s.directory(run_dir))} for s in all_shares(count)]
        (run_dir / "run.json").write_text(json.dumps({"shares": entries}))
        prefer(recipe, run_dir)
        assert len(judging.requests) == num_asked
    (run_dir / "run.json").unlink()
    assert data_sha256(run_dir / "kept") == data_sha256(whole / "kept")
    joined, one = left_in(run_dir).counts, left_in(whole).counts
    assert {key: value for key, value in joined.items() if "second" not in key} == {
        key: value for key, value in one.items() if "second" not in key
    }


def test_what_was_finished_is_neither_sampled_nor_judged_again(recipe_for, tmp_path, monkeypatch):
    with OpenAIServer(answer=verdict_by(likes_words)) as judging, OpenAIServer(answer=of_any_length) as answering:
        run_dir = prefer(recipe_for(judging, answering), tmp_path / "run")
        before = data_sha256(run_dir / "kept")
        (run_dir / "preferences.json").unlink()
        monkeypatch.setattr(sampling, "backend_of", lambda *arguments: pytest.fail("it was sampled again"))
        monkeypatch.setattr(pairs, "ai_judge_of", lambda *arguments: pytest.fail("it was judged again"))
        assert data_sha256(prefer(recipe_for(judging, answering), run_dir) / "kept") == before


def as_launched(run_dir: str) -> None:
    """What the launcher starts in its process."""
    sys.argv = ["preferences", run_dir]
    run_step(preferences.preferences)


def started(recipe: Path, run_dir: Path, processes: list):
    """The step's process, put into `processes` before it begins."""
    run_dir.mkdir(exist_ok=True)
    (run_dir / "recipe.yaml").write_text(dump_recipe(load_recipe(recipe)))
    process = FORKSERVER.Process(target=as_launched, args=[str(run_dir)])
    processes.append(process)
    process.start()
    return process


KILLS = {  # whose server's which request kills the process, by what, and what is written down of those before
    "SIGKILL while it judges": ("judge", 40, signal.SIGKILL, 39),
    "SIGKILL at the first verdict": ("judge", 1, signal.SIGKILL, 0),
    "SIGTERM while it judges": ("judge", 40, signal.SIGTERM, 39),
    "SIGTERM while it samples": ("policy", 30, signal.SIGTERM, 9),  # the first shard is a file
    "SIGKILL while it samples": ("policy", 30, signal.SIGKILL, 9),
}


@pytest.mark.parametrize("case", slow_but_for(KILLS, "SIGKILL while it judges", "SIGTERM while it samples"))
def test_killed_and_taken_up_it_keeps_the_same_and_asks_nothing_twice(case, recipe_for, tmp_path):
    whose, at_request, signum, num_written = KILLS[case]
    run_dir, doomed = tmp_path / "run", []
    written = run_dir / {"judge": "verdicts", "policy": "completions"}[whose]

    def kill(body) -> None:
        """At this request, which gets no answer, when all answers before it have been written down."""
        if not doomed or len(servers[whose].requests) != at_request:
            return
        while sum(file.read_bytes().count(b"\n") for file in written.glob("*.jsonl")) < num_written:
            os.sched_yield()
        process = doomed.pop()
        os.kill(process.pid, signum)
        multiprocessing.connection.wait([process.sentinel])

    with (
        OpenAIServer(answer=likes_words_or_brevity, on_request=kill) as judging,
        OpenAIServer(answer=of_any_length, on_request=kill) as answering,
    ):
        servers = {"judge": judging, "policy": answering}
        one = {"model": "teacher", "max_concurrent_requests": 1}
        keys = {"endpoint": {"base_url": answering.url, **one}, "balance_lengths": True, "rejected": "random"}
        recipe = recipe_for(judging, answering, preferences=keys, judge={"endpoint": one})
        whole = prefer(recipe, tmp_path / "whole")
        asked_of_whole = asked(judging), asked(answering)
        for server in servers.values():
            server.requests.clear()
        process = started(recipe, run_dir, doomed)
        process.join()
        assert process.exitcode == (EXIT_INTERRUPTED if signum == signal.SIGTERM else -signum)
        assert not (run_dir / "preferences.json").exists()
        servers[whose].requests.pop()
        again = started(recipe, run_dir, [])
        again.join()
        assert again.exitcode == 0
        assert (asked(judging), asked(answering)) == asked_of_whole
    assert set(asked(judging, answering).values()) == {1}
    assert data_sha256(run_dir / "kept") == data_sha256(whole / "kept")


def test_a_policy_and_a_judge_in_this_process_leave_pairs(write_recipe, smallest_model, tmp_path):
    """With a judge of random weights no verdict can be read: every answer is counted, and none is in a pair."""
    (tmp_path / "ask.jinja").write_text("{{ question }}\n{{ answers[0] }}")
    (tmp_path / "rubric.yaml").write_text("{description: D., template: ask.jinja, principles: [{name: a, text: A}]}")
    recipe = write_recipe(
        step="preferences",
        model={"name": str(smallest_model)},
        data=[sums(3)],
        preferences={"rubric": "rubric.yaml", "samples": 8, "max_completion_length": 100},
        judge={"name": str(smallest_model), "judgements": 1, "max_completion_length": 4},
        guards={"max_judge_failed_share": None},
    )
    with pytest.raises(RunStopped, match="no pair is kept"):
        prefer(recipe, tmp_path / "run")
    left = left_in(tmp_path / "run")
    assert left.counts["dropped"] == {TOO_FEW: 3}
    assert left.counts["judge"]["unreadable"] == left.counts["judge"]["verdicts"] > 0


@pytest.mark.slow
def test_through_the_launcher_the_smallest_model_is_the_policy(recipe_for, smallest_model, tmp_path, capfd):
    with OpenAIServer(answer=verdict_by(likes_words)) as judging:
        recipe = recipe_for(
            judging,
            model={"name": str(smallest_model)},
            preferences={"max_completion_length": 100, "min_margin": 0.0},
            judge={"max_tokens": 1_000_000},
        )
        assert launch.main(["preferences", str(recipe), "--runs", str(tmp_path / "runs")]) == 0
    run_dir = running.run_directory(load_recipe(recipe), tmp_path / "runs")
    left, record = left_in(run_dir), read_record(run_dir)
    assert left.kept and {row["teacher"] for row in left.kept} == {smallest_model.parent.name}
    assert {row["teacher_sha256"] for row in left.kept} == {weights_sha256(smallest_model)}
    assert json.loads(left.kept[0]["verified_by"])["commit"] == record["commit"]
    assert re.search(rf"kept {left.counts['kept']} pairs of {NUM_PROMPTS} prompts; dropped: ", capfd.readouterr().out)


@pytest.mark.slow
def test_two_processes_and_joined_shares_keep_what_one_keeps(recipe_for, smallest_model, tmp_path):
    with OpenAIServer(answer=likes_words_or_brevity) as judging:
        recipe = recipe_for(
            judging, model={"name": str(smallest_model)}, preferences={"max_completion_length": 100, "min_margin": 0.0}
        )
        found = []
        for name, commands, hardware in (
            ("one", [[]], []),
            ("two", [[]], ["hardware.processes_per_node=2", "hardware.threads_per_process=1"]),
            ("shares", [["--share", "0/2"], ["--share", "1/2"], []], []),
        ):
            runs = tmp_path / name
            for command in commands:
                assert launch.main(["preferences", str(recipe), *hardware, *command, "--runs", str(runs)]) == 0
            found.append(left_in(running.run_directory(load_recipe(recipe, hardware), runs)))
    one, *others = found
    assert one.kept
    for other in others:
        assert other.kept == one.kept and other.completions == one.completions
    assert data_sha256(found[2].run_dir / "kept") == data_sha256(one.run_dir / "kept")


# --- the rubric belongs to the run


def rubric_says(tmp_path: Path, text: str) -> None:
    (tmp_path / "rubric.yaml").write_text(f"{{description: D., principles: [{{name: order, text: '{text}'}}]}}")


@pytest.fixture
def with_rubric(write_recipe, smallest_model, tmp_path, monkeypatch):
    """Writes a recipe of a step that reads rubric.yaml; the launcher's processes do nothing, and are done."""
    monkeypatch.setattr(running, "_run", lambda argv, environment: 0)
    answered = {"samples": 2, "max_completion_length": 9}
    labelled = {"procedural": {"family": "tiny_explanations", "num_problems": 4}, "rubric": "rubric.yaml"}
    judge = {"judge": {"name": str(smallest_model)}}
    of_step = {
        "preferences": {"data": [sums(4)], "preferences": {**answered, "rubric": "rubric.yaml"}, **judge},
        "generate": {
            "data": [sums(4)],
            "rewards": ["format", {"name": "judge", "rubric": "rubric.yaml"}],
            "generate": answered,
            **judge,
        },
        "sft": {"data": [labelled], "trainer": CPU_TRAINER},
    }

    def write(step: str):
        rubric_says(tmp_path, "In order?")
        file = write_recipe(f"{step}.yaml", step=step, model={"name": str(smallest_model)}, **of_step[step])
        return load_recipe(file)

    return write


@pytest.mark.parametrize(
    ("step", "key"),
    [("preferences", "preferences.rubric"), ("generate", "rewards.1.rubric"), ("sft", "data.0.rubric")],
)
def test_run_with_another_rubric_is_moved_away(step, key, with_rubric, tmp_path):
    recipe, run_dir = with_rubric(step), tmp_path / "run"
    assert running.launch(recipe, run_dir) == 0
    assert read_record(run_dir)["rubrics"] == {key: load_rubric(tmp_path / "rubric.yaml").sha256}
    assert running.is_done(run_dir, recipe)
    rubric_says(tmp_path, "In any order?")
    assert not running.is_done(run_dir, recipe)
    with pytest.raises(RecipeError, match=rf"{step}.yaml: {key}: it is no longer the rubric that"):
        running.launch(recipe, run_dir, in_place=True)
    assert running.launch(recipe, run_dir) == 0
    assert running.is_done(run_dir, recipe)
    assert read_record(tmp_path / "run.stale1")["rubrics"] != read_record(run_dir)["rubrics"]


def test_record_that_says_nothing_of_rubrics_is_trusted(with_rubric, tmp_path):
    recipe, run_dir = with_rubric("preferences"), tmp_path / "run"
    assert running.launch(recipe, run_dir) == 0
    record = read_record(run_dir)
    del record["rubrics"]
    (run_dir / "run.json").write_text(json.dumps(record))
    assert running.is_done(run_dir, recipe)


@pytest.mark.parametrize("stage", [[], ["--stage", "paired"]])
def test_pipeline_of_which_a_stage_has_another_rubric_is_taken_up(stage, with_rubric, write_recipe, tmp_path):
    stages = [{"name": "paired", "recipe": with_rubric("preferences").source.name}]
    file = write_recipe("pipeline.yaml", step="pipeline", stages=stages)
    recipe = load_recipe(file)
    run_dir = running.run_directory(recipe, tmp_path / "runs")
    for text in ("In order?", "In any order?"):
        rubric_says(tmp_path, text)
        assert not running.is_done(run_dir, recipe)
        assert launch.main(["pipeline", str(file), *stage, "--runs", str(tmp_path / "runs")]) == 0
        assert running.is_done(run_dir, recipe)
    assert not list(run_dir.parent.glob("*.stale*"))


# --- mistakes


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"judge": None}, "judge: missing; step preferences needs it"),
        ({"preferences": None}, "preferences: missing; step preferences needs it"),
        ({"rubric": "none.yaml"}, "preferences.rubric: .*none.yaml: no such rubric"),
        ({"keep": {"max_per_prompt": 1}}, "keep: step preferences samples nothing to keep; remove it"),
        ({"rewards": ["format"]}, "rewards: step preferences does not use it; remove it"),
        ({"model": {}}, "model.name: missing; .* or give preferences.endpoint"),
        ({"samples": 1}, "preferences.samples: 1 is wrong"),
        ({"min_margin": 9}, "preferences.min_margin: no two scores from 1 to 10 differ by more than 9; lower it"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_mistakes_are_told_before_anything_is_sampled(
    sections, message, write_recipe, smallest_model, tmp_path, capsys
):
    (tmp_path / "rubric.yaml").write_text("{description: D., principles: [{name: order, text: 'In order?'}]}")
    keys = {key: sections.pop(key) for key in ("rubric", "samples", "min_margin") if key in sections}
    values = {
        "step": "preferences",
        "model": {"name": str(smallest_model)},
        "data": [sums(4)],
        "preferences": {"rubric": "rubric.yaml", "max_completion_length": 9, **keys},
        "judge": {"name": str(smallest_model)},
        **sections,
    }
    recipe = write_recipe(**{key: value for key, value in values.items() if value is not None})
    assert launch.main(["preferences", str(recipe), "--runs", str(tmp_path / "runs")]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "runs").exists()
