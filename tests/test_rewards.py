"""Accuracy and format: cases and their right verdicts."""

import pytest

from open_r1.recipe import Reward, Thinking
from open_r1.rewards import accuracy_reward, build_rewards
from open_r1.rewards.format import format_reward


def boxed(answer: str) -> str:
    return f"\\boxed{{{answer}}}"


ACCURACY = [  # gold, completion, verdict
    ("12", boxed("12"), 1.0),
    ("12", boxed("13"), 0.0),
    ("12", f"<think>7+5=12</think><answer>{boxed('12')}</answer>", 1.0),
    ("12", boxed("10+2"), 0.0),  # the sum was asked for, not its terms
    ("12", boxed("24-12"), 0.0),
    ("12", boxed(r"3\times 4"), 0.0),
    ("12", boxed("1") + boxed("12"), 0.0),  # two answers are none
    ("12", f"{boxed('12')}, that is {boxed('12')}", 1.0),
    ("12", boxed(""), 0.0),
    ("12", "12", 0.0),  # no box, no answer block
    ("-5", boxed("-5"), 1.0),
    ("0.5", boxed("1/2"), 1.0),
    ("1200", boxed("1,200"), 1.0),
    ("$5$", "<answer>5</answer>", 1.0),
    ("5", f"<think>maybe {boxed('5')} hmm", 0.0),  # thinking that never ends holds no answer
    ("5", f"<think>maybe {boxed('5')}</think> The answer is 6", 0.0),  # what was thought is not what was answered
    ("5", f"<think>a</think><think>b {boxed('5')}", 0.0),
    (r"2\sqrt{3}", boxed(r"2\sqrt{3}"), 1.0),
    (r"2\sqrt{3}", boxed("2"), 0.0),
    (r"\dfrac{9}{7}", boxed(r"\frac{9}{7}"), 1.0),
    (r"$\frac{1}{2}$", boxed(r"\frac12"), 1.0),
    (r"$11\sqrt{2}$", boxed(r"11\sqrt2"), 1.0),
    (r"\pi", boxed(r"\pi"), 1.0),
    ("(6,31,-1)", boxed("(6,31,-1)"), 1.0),
    (r"\text{Yes}", boxed(r"\text{Yes}"), 1.0),
    ("3, 5, 7", boxed("7"), 0.0),
    (r"10-2\sqrt{5}", boxed("10"), 0.0),
    ("", boxed("5"), None),  # a gold that says nothing gives no verdict
]


@pytest.mark.parametrize(("gold", "completion", "verdict"), ACCURACY)
def test_accuracy(gold, completion, verdict):
    assert accuracy_reward([completion], [gold]) == [verdict]


def test_accuracy_reads_a_prefilled_thinking():
    completions = [f"7+5=12</think>{boxed('12')}", boxed("12")]
    assert accuracy_reward(completions, ["12", "12"], thinking=Thinking(prefilled=True)) == [1.0, 0.0]


def test_one_reward_for_each_completion_in_order():
    completions = [[{"role": "assistant", "content": boxed(str(number))}] for number in (1, 2, 3, 2)]
    assert accuracy_reward(completions, ["2"] * 4, prompts=[], trainer_state=None) == [0.0, 1.0, 0.0, 1.0]


FORMAT = [  # completion, prefilled, verdict
    ("<think>a</think><answer>b</answer>", False, 1.0),
    ("<think></think><answer>b</answer>", False, 1.0),
    ("<think>a\nb</think>\n\n<answer>b</answer>\n", False, 1.0),
    ("a</think><answer>b</answer>", True, 1.0),
    ("a</think><answer>b</answer>", False, 0.0),
    ("<think>a</think><answer>b</answer>", True, 0.0),
    ("<think>a</think><answer>b</answer> and more", False, 0.0),
    ("so <think>a</think><answer>b</answer>", False, 0.0),
    ("<think>a</think><answer>b</answer><answer>c</answer>", False, 0.0),
    ("<think>a</think><think>a</think><answer>b</answer>", False, 0.0),
    ("<think>a</think><answer> </answer>", False, 0.0),
    ("<answer>b</answer><think>a</think>", False, 0.0),
    ("<think>a</think>b", False, 0.0),
    ("<think>a", False, 0.0),
    ("", False, 0.0),
]


@pytest.mark.parametrize(("completion", "prefilled", "verdict"), FORMAT)
def test_format(completion, prefilled, verdict):
    assert format_reward([completion], thinking=Thinking(prefilled=prefilled)) == [verdict]


class State:
    global_step = 3


def test_shuffled_rewards_are_the_same_rewards_in_another_order_for_each_step():
    completions, golds = [boxed(str(n % 2)) for n in range(64)], ["1"] * 64
    plain, control = build_rewards([Reward(name="accuracy"), Reward(name="accuracy", shuffled=True)], Thinking(), 0, 64)
    in_order = plain(completions, solution=golds, trainer_state=State)
    first = control(completions, solution=golds, trainer_state=State)
    assert sorted(first) == sorted(in_order)
    assert first != in_order
    assert control(completions, solution=golds, trainer_state=State) == first
    State.global_step += 1
    assert control(completions, solution=golds, trainer_state=State) != first


def test_reward_functions_are_named_as_in_the_recipe():
    rewards = build_rewards(
        [Reward(name="accuracy"), Reward(name="open_r1.rewards.format:format_reward")], Thinking(), 0, 64
    )
    assert [reward.__name__ for reward in rewards] == ["accuracy", "format_reward"]
