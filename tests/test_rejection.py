"""Rejection sampling: what is kept verifies again, and what is not kept is counted under its own reason."""

import json
from collections import Counter

import pyarrow
import pyarrow.parquet as parquet
import pytest

from open_r1.curation.rejection import judge, keep_within_limits, schema_of
from open_r1.curation.rows import PROVENANCE, write_rows
from open_r1.generation import Completion
from open_r1.recipe import Keep, Reward, Thinking
from open_r1.rewards import accuracy_reward, build_rewards

THINKING = Thinking(prefilled=False)
RIGHT = "<think>Two and two are four, as everybody knows.</think><answer>4</answer>"
KEEP = Keep(
    language="en",
    max_paragraph_words=20,
    code_in_thinking=False,
    max_similarity=0.7,
    max_per_prompt=2,
    min_tokens=2,
    max_tokens=50,
)
LONG = "first we take the two and add the other two to it and then we look at what we have got there"
# Completion of a prompt whose answer is 4 -> why it is dropped. All that are planted are right, but for one.
PLANTED = {
    RIGHT: None,
    RIGHT.replace("Two and two", "Two  And two"): "near_duplicate",
    "<think>We add the one to the other and look at what comes out.</think><answer>4</answer>": None,
    "<think>Count on from two by two: three, then four, and stop.</think><answer>4</answer>": "beyond max_per_prompt",
    "<think>We just add, 然后我们得到四 and so on.</think><answer>4</answer>": "mixed_languages",
    f"<think>{LONG}</think><answer>4</answer>": "long_paragraph",
    "<think>Run it:\n```python\nprint(2+2)\n```\nAnd so.</think><answer>4</answer>": "code_in_thinking",
    "<think>First.</think><think>Then again.</think><answer>4</answer>": "wrong_thinking_format",
    "<think>Two and two are five, I would say.</think><answer>5</answer>": "accuracy below 1",
}


def rewards_of(*names: str, task: str | None = None):
    return build_rewards([Reward(name=name, task=task) for name in names], THINKING, 0, 64)


def row(identity: int, question: str = "2+2=?", **columns) -> dict:
    return {"id": str(identity), "prompt": [{"role": "user", "content": question}], "solution": "4", **columns}


def completion(text: str, num_tokens: int = 9, **more) -> Completion:
    return Completion(text, num_tokens, more.pop("truncated", False), **more)


@pytest.fixture
def kept_of(tmp_path):
    """Writes judged shards, keeps within limits, and gives counts, kept rows and prompts."""

    def keep(shards: list[list[dict]], section: Keep, columns=("solution",), by_model=()):
        schema = schema_of(pyarrow.schema([(name, pyarrow.string()) for name in columns]), ["accuracy"])
        files = [tmp_path / "completions" / f"part-{number:05d}.parquet" for number in range(len(shards))]
        for file, rows in zip(files, shards, strict=True):
            write_rows(rows, schema, file)
        counts = keep_within_limits(tmp_path, files, section, dict.fromkeys(PROVENANCE, "x"), by_model)
        folders = [parquet.read_table(tmp_path / name).to_pylist() for name in ("kept", "prompts")]
        return counts, *folders

    return keep


def judged(rows, texts_PG, section=KEEP, rewards=None) -> list[dict]:
    groups = [[text if isinstance(text, Completion) else completion(text) for text in group] for group in texts_PG]
    return judge(rows, groups, rewards or rewards_of("accuracy"), section, THINKING)


def test_planted_traces_are_counted_under_their_own_reason_and_the_kept_verify_again(kept_of):
    rows = judged([row(0)], [list(PLANTED)])
    counts, kept, _ = kept_of([rows], KEEP)
    assert counts["dropped"] == dict(Counter(reason for reason in PLANTED.values() if reason))
    assert [each["completion"][0]["content"] for each in kept] == [text for text, why in PLANTED.items() if why is None]
    again = accuracy_reward(
        [each["completion"] for each in kept], [each["solution"] for each in kept], thinking=THINKING
    )
    assert again == [1.0] * len(kept)


@pytest.mark.parametrize(
    ("of_completion", "value", "reason"),
    [
        (completion(RIGHT), 1.0, None),
        (completion("", 0, refused="HTTP 400"), 1.0, "refused"),
        (completion(RIGHT, truncated=True), 1.0, "truncated"),
        (completion(RIGHT), None, "verdict: no verdict"),
        (completion(RIGHT), 0.4, "verdict below 0.5"),
        (completion(RIGHT, 1), 1.0, "too_short"),
        (completion(RIGHT, 51), 1.0, "too_long"),
    ],
)
def test_first_reason_that_applies(of_completion, value, reason):
    def verdict(completions, **columns):
        return [value] * len(completions)

    verdict.is_for = lambda task: True
    (each,) = judged([row(0)], [[of_completion]], KEEP.model_copy(update={"min_reward": 0.5}), [verdict])
    assert each["dropped_for"] == reason
    assert each["reward_verdict"] == (None if reason == "refused" else value)


def test_rewards_of_another_task_say_nothing():
    rows = [row(0, task="math"), row(1, "Ann says hello", task="general")]
    each = judged(
        rows, [[RIGHT], ["<think></think><answer>Hello!</answer>"]], Keep(), rewards_of("accuracy", task="math")
    )
    assert [one["reward_accuracy"] for one in each] == [1.0, None]
    assert [one["dropped_for"] for one in each] == [None, None]


@pytest.mark.parametrize("shards", [1, 2])
def test_prompt_that_stands_in_the_data_twice_is_one_prompt(shards, kept_of):
    texts = [f"<think>{words}</think><answer>4</answer>" for words in ("a b c", "d e f", "a b c", "g h i")]
    rows = judged([row(0), row(1, "other"), row(2)], [texts[:2], texts[:1] * 2, texts[2:]], Keep())
    parts = [rows] if shards == 1 else [rows[:4], rows[4:]]
    counts, kept, _ = kept_of(parts, Keep(max_per_prompt=2, max_similarity=1.0))
    assert counts["dropped"] == {"near_duplicate": 2, "beyond max_per_prompt": 1}
    assert [each["id"] for each in kept] == ["0-0", "0-1", "1-0"]


def test_no_more_than_max_traces_are_kept(kept_of):
    rows = judged([row(index) for index in range(4)], [[RIGHT]] * 4, Keep())
    counts, kept, _ = kept_of([rows[:2], rows[2:]], Keep(max_traces=3))
    assert [each["id"] for each in kept] == ["0-0", "1-0", "2-0"]
    assert counts["dropped"] == {"beyond max_traces": 1}


def test_pass_rate_is_the_share_of_judged_completions_that_verify(kept_of):
    refused, wrong = completion("", 0, refused="HTTP 400"), RIGHT.replace("4<", "5<")
    groups = [[RIGHT, wrong, RIGHT, refused], [wrong] * 4, [refused] * 4]
    rows = judged([row(index, str(index)) for index in range(3)], groups, Keep())
    _, _, prompts = kept_of([rows], Keep())
    assert [each["pass_rate"] for each in prompts] == [pytest.approx(2 / 3), 0.0, None]
    assert [each["num_judged"] for each in prompts] == [3, 4, 0]
    assert [each["id"] for each in prompts] == ["0", "1", "2"]
    assert prompts[0]["prompt"] == row(0, "0")["prompt"] and prompts[0]["solution"] == "4"


def test_a_model_is_asked_about_what_ends_and_what_does_not_counts_as_wrong(kept_of):
    asked = []

    def accuracy(completions, prompts, completion_ids, solution, **columns):  # the only reward that kept_of has
        asked.extend(completion[0]["content"] for completion in completions)
        assert len(prompts) == len(completion_ids) == len(solution) == len(completions)
        return [1.0] * len(completions)

    accuracy.is_for = lambda task: True
    refused, cut_off = completion("", 0, refused="HTTP 400"), completion(RIGHT + "!", truncated=True)
    groups = [[cut_off, completion(RIGHT), refused], [refused] * 3]
    rows = judge([row(0), row(1)], groups, [accuracy], Keep(), THINKING, by_model=("accuracy",))
    assert asked == [RIGHT]
    assert [each["reward_accuracy"] for each in rows] == [None, 1.0, None] + [None] * 3
    counts, kept, prompts = kept_of([rows], Keep(), by_model=[Reward(name="accuracy")])
    assert counts["dropped"] == {"truncated": 1, "refused": 4}
    assert [each["id"] for each in kept] == ["0-1"]
    assert [(each["pass_rate"], each["num_judged"]) for each in prompts] == [(0.5, 2), (None, 0)]


def test_a_model_of_another_task_leaves_what_is_cut_off_to_the_other_rewards(kept_of):
    rows = judged([row(0, task="math")], [[completion(RIGHT, truncated=True)]], Keep())
    of_chat = [Reward(name="judge", rubric="r.yaml", task="chat")]
    _, _, (prompt,) = kept_of([rows], Keep(), ("solution", "task"), of_chat)
    assert (prompt["pass_rate"], prompt["num_judged"]) == (1.0, 1)


def test_columns_that_an_earlier_sampling_left_in_the_data_are_not_kept():
    data = pyarrow.schema(
        [("solution", pyarrow.string()), ("pass_rate", pyarrow.float64()), ("teacher", pyarrow.string())]
    )
    names = schema_of(data, ["accuracy"]).names
    assert [name for name in names if name in data.names] == ["solution"]


def test_kept_rows_hold_their_provenance(kept_of):
    _, kept, _ = kept_of([judged([row(0)], [[RIGHT]])], KEEP)
    assert {name: kept[0][name] for name in PROVENANCE} == dict.fromkeys(PROVENANCE, "x")
    assert json.loads(json.dumps(kept[0]["completion"])) == [{"role": "assistant", "content": RIGHT}]
