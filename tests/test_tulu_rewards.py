"""Tulu 3's verifiers of mathematics: the last number of an answer, and its final answer."""

import pytest

from open_r1.recipe import RecipeError, Reward, Thinking
from open_r1.rewards import (
    JUDGED_ELSEWHERE,
    build_rewards,
    columns_of_reward,
    final_answer_reward,
    last_number_reward,
    settable_parameters,
)

HOSTILE_LENGTH = 1_000_000  # characters; at a cost that grows with the square a case would take an hour
WORKED = "Janet sells 16 - 3 - 4 = <<16-3-4=9>>9 eggs.\nShe makes 9 * 2 = $<<9*2=18>>18 a day.\n#### 18"

LAST_NUMBER = [  # gold, answer, verdict
    ("18", "She makes 18 dollars", 1.0),
    ("18", "It is 18 and not 19", 0.0),  # the last one counts
    ("18", "First 19, then 18.", 1.0),
    ("18", "It is 18.0", 1.0),
    ("18", "**18**", 1.0),
    ("18", r"\boxed{18}", 1.0),
    ("18", "018", 1.0),
    ("18", "118", 0.0),
    ("18", "1.8", 0.0),
    ("18", "eighteen", 0.0),
    ("18", "", 0.0),
    ("1234.5", "$1,234.50", 1.0),
    ("1,234.50", "1234.5", 1.0),
    ("1234567", r"1{,}234{,}567", 1.0),
    ("1234", r"\$1,\!234", 1.0),
    ("3", "1,2,3", 1.0),  # no thousands
    ("2345", "1,2345", 1.0),
    ("0.5", "so .5", 1.0),
    ("5", "so .5", 0.0),
    ("0", "-0.00", 1.0),
    ("-5", "it is -5", 1.0),
    ("-5", "it is −5", 1.0),
    ("-5", "it is -$5", 1.0),
    ("-5", r"it is −\$5", 1.0),
    ("5", "2-$5", 1.0),
    ("-5", r"it is \$-5", 1.0),
    ("-5", "it is 5", 0.0),
    ("5", "it is -5", 0.0),
    ("4", "14-10=4, for 10-4", 1.0),  # what is taken away is no negative number
    ("4", "(10)-4", 1.0),
    ("-4", "(-4)", 1.0),
    ("5", "- 5", 1.0),  # a bullet
    ("50", "50%", 1.0),
    ("18", "٣ or 18", 1.0),
    (WORKED, WORKED, 1.0),
    (WORKED, "so 18", 1.0),
    (WORKED, "so 9", 0.0),
    ("#### 1,000", "1000", 1.0),
    ("#### -3 apples 7", "-3", 1.0),
    (18, "18", 1.0),
    ("eighteen", "18", None),
    ("so 18 ####", "18", None),
    ("", "", None),
    (None, "18", None),
]


@pytest.mark.parametrize(("gold", "answer", "verdict"), LAST_NUMBER)
def test_last_number(gold, answer, verdict):
    assert last_number_reward([answer], [gold]) == [verdict]


WHERE = [  # completion, thinking, verdict for the gold 5
    ("<think>5</think>6", Thinking(), 0.0),
    ("<think>6</think>5", Thinking(), 1.0),
    ("<think>5", Thinking(), 0.0),
    ("<think>5</think>", Thinking(), 0.0),
    ("5", Thinking(prefilled=True), 0.0),
    ("6</think>5", Thinking(prefilled=True), 1.0),
    ("[THINK]6[/THINK]5", Thinking(open="[THINK]", close="[/THINK]"), 1.0),
]


@pytest.mark.parametrize(("completion", "thinking", "verdict"), WHERE)
def test_the_number_stands_behind_the_thinking(completion, thinking, verdict):
    assert last_number_reward([completion], ["5"], thinking=thinking) == [verdict]


@pytest.mark.parametrize(("completion", "thinking", "verdict"), WHERE)
def test_the_final_answer_stands_behind_the_thinking(completion, thinking, verdict):
    completion = completion.replace("5", r"\boxed{5}").replace("6", r"\boxed{6}")
    assert final_answer_reward([completion], ["5"], thinking=thinking) == [verdict]


MINERVA = "So it is.\nFinal Answer: The final answer is {}. I hope it is correct."
FINAL_ANSWER = [  # gold, answer, verdict
    ("5", r"So \boxed{5}.", 1.0),
    ("5", r"\boxed{6}, no: \boxed{5}", 1.0),  # the last box
    ("5", r"\boxed{5}, no: \boxed{6}", 0.0),
    ("5", rf"\boxed{{6}} {MINERVA.format('$5$')}", 0.0),  # the first form that is there, right or wrong
    ("5", rf"\boxed{{5}} {MINERVA.format('$6$')}", 1.0),
    ("5", r"\boxed{} The final answer is 5.", 0.0),
    ("5", r"\boxed{5 The final answer is $5$.", 1.0),  # a box that never closes is none
    ("5", MINERVA.format("$5$"), 1.0),
    ("5", MINERVA.format("$6$"), 0.0),
    ("5", "The final answer is $5$ I hope it is correct", 1.0),
    ("0.5", MINERVA.format(r"$\frac{1}{2}$"), 1.0),
    (".25", MINERVA.format(".25"), 1.0),
    ("3.14", "the final answer is 3.14", 1.0),
    ("5", "**The final answer is:** 5", 1.0),
    ("5", "The final answer is: $$\n5\n$$\nSo it is 6.", 1.0),
    ("5", "The final answer is:\n\\[\n5\n\\]", 1.0),
    ("5", "The final answer is 6. No! The final answer is 5.", 1.0),
    ("5", "The final answer is $5$ or $6$.", 0.0),
    ("6", "The final answer is $5$ or $6$.", 0.0),
    ("5", "The final answer is $6$, as $x = 5$.", 0.0),
    ("5", "The final answer is below. $5$", 0.0),
    ("5", "We get $x = 6$, so $5$.", 1.0),
    ("5", "It costs $3, so $x = 5$.", 1.0),
    ("5", r"$5$ of \$3 and \$4", 1.0),  # escaped ones are money
    ("5", "So\n$$\nx = 5\n$$", 1.0),
    ("5", "We get $5$, so $6$.", 0.0),
    ("5", "It costs $5", 0.0),
    ("5", "5", 0.0),
    ("5", "", 0.0),
    (r"\frac{1}{", r"\boxed{5}", None),
    ("", "", None),
    (None, "The final answer is 5.", None),
]


@pytest.mark.parametrize(("gold", "answer", "verdict"), FINAL_ANSWER)
def test_final_answer(gold, answer, verdict):
    assert final_answer_reward([answer], [gold]) == [verdict]


@pytest.mark.parametrize("reward", [last_number_reward, final_answer_reward])
def test_one_reward_for_each_completion_in_order(reward):
    completions = [[{"role": "assistant", "content": f"so ${number}$"}] for number in (1, 2, 3, 2)]
    golds = ["2", "2", "2", ""]
    assert reward(completions, golds, prompts=[], trainer_state=None) == [0.0, 1.0, 0.0, None]


def test_last_number_tells_trl_what_it_saw():
    columns, metrics = {}, {}
    logs = {"log_extra": columns.__setitem__, "log_metric": metrics.__setitem__}
    last_number_reward(["-$1,234.50", "none", "5"], ["5", "5", "none"], **logs)
    assert columns == {"last_number_answer": ["-1234.5", "", "5"]}
    assert metrics == {"last_number/unparsed_gold_share": 1 / 3, "last_number/no_answer_share": 1 / 3}


def test_final_answer_tells_trl_what_it_saw():
    columns, metrics = {}, {}
    logs = {"log_extra": columns.__setitem__, "log_metric": metrics.__setitem__}
    completions = [r"\boxed{5}", "The final answer is 6.", "so $5$", "5", "<think>5"]
    final_answer_reward(completions, ["5", "5", "$$", "5", "5"], **logs)
    assert columns["final_answer_answer"] == ["5", "6", "5", "", ""]
    assert columns["final_answer_reason"] == [
        r"\boxed{}: the same as written",
        "the final answer is: another number",
        "$: the gold cannot be parsed: it says nothing",
        "there is no answer",
        "the thinking never ends",
    ]
    assert metrics["final_answer/unparsed_gold_share"] == 0.2
    assert metrics["final_answer/no_answer_share"] == 0.4


def test_the_budget_of_a_comparison_has_to_be_positive():
    with pytest.raises(RecipeError, match="final_answer: cpu_seconds is 0; give more than 0"):
        final_answer_reward([r"\boxed{5}"], ["5"], cpu_seconds=0)


@pytest.mark.parametrize(("name", "parameters"), [("last_number", []), ("final_answer", ["cpu_seconds"])])
def test_a_recipe_can_name_them(name, parameters):
    (reward,) = build_rewards([Reward(name=name)], Thinking(), 0, 64)
    assert reward(["so $5$", "so $6$"], solution=["5", "5"]) == [1.0, 0.0]
    assert columns_of_reward(Reward(name=name)) == ["solution"]
    assert settable_parameters(name) == parameters
    assert reward.starts_early == (name in JUDGED_ELSEWHERE) == (name == "final_answer")


UNITS = ["1", "1,", "111,", ".", ".1", "-", "$", "-$", "$1", "$$", r"\$", r"\boxed", r"\boxed{", "{", "}", "*", " "]
UNITS += ["\n", "final answer is ", "I hope it is correct", "#", "[", r"\[", "\\", "1{,}111", "٣"]


@pytest.mark.parametrize("unit", UNITS, ids=repr)
def test_a_hostile_answer_takes_time_in_proportion_to_its_length(unit):
    hostile = unit * (HOSTILE_LENGTH // len(unit))
    answers = [hostile, f"{hostile}1111x", f"The final answer is {hostile}", f"The final answer is $${hostile}"]
    assert last_number_reward(answers, ["x7"] * 4) == [0.0] * 4
    assert final_answer_reward(answers, ["x7"] * 4) == [0.0] * 4
