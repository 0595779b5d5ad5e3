"""Rewards for form, length, repetition and language: cases and their right verdicts."""

import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from open_r1.recipe import RecipeError, Thinking
from open_r1.rewards import language, length, repetition
from open_r1.rewards.format import code_format_reward, format_reward, reasoning_steps_reward, tag_count_reward
from open_r1.rewards.language import SCRIPTS, language_consistency_reward
from open_r1.rewards.length import cosine_reward, length_reward, soft_overlong_punishment_reward
from open_r1.rewards.repetition import repetition_penalty_reward

PREFILLED = Thinking(prefilled=True)
OTHER_TAGS = Thinking(open="[THINK]", close="[/THINK]")
GIVEN_BY_TRL = {"prompts": [], "trainer_state": None, "log_extra": None, "log_metric": None, "difficulty": [3]}
HOSTILE_LENGTH = 1_000_000  # characters; at a cost that grows with the square a case would take an hour
unhurried = settings(deadline=None)  # hypothesis times by the wall, and the machine may be shared


def as_conversation(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def ids(num_tokens: int) -> list[int]:
    return [7] * num_tokens


# ---- format

FORMAT = [  # completion, thinking, verdict
    ("<think>a</think><answer>b</answer>", Thinking(), 1.0),
    ("<think></think><answer>b</answer>", Thinking(), 1.0),
    ("\n<think>a\nb</think>\n\n<answer>b</answer>\n", Thinking(), 1.0),
    ("<think>思考</think> <answer>é</answer>", Thinking(), 1.0),
    ("<think>a</think><answer>b</answer> and more", Thinking(), 0.0),
    ("so <think>a</think><answer>b</answer>", Thinking(), 0.0),
    ("<think>a</think> so <answer>b</answer>", Thinking(), 0.0),
    ("<think>a</think><answer>b</answer><answer>c</answer>", Thinking(), 0.0),
    ("<think>a</think><think>a</think><answer>b</answer>", Thinking(), 0.0),
    ("<think>a<answer>b</answer></think><answer>c</answer>", Thinking(), 0.0),
    ("<think>a<answer>b</think></answer>", Thinking(), 0.0),
    ("<think>a</think></answer>b<answer>", Thinking(), 0.0),
    ("<answer>b</answer><think>a</think>", Thinking(), 0.0),
    ("<think>a</think><answer> \n</answer>", Thinking(), 0.0),
    ("<think>a</think>b", Thinking(), 0.0),
    ("<think>a", Thinking(), 0.0),
    ("", Thinking(), 0.0),
    ("a</think><answer>b</answer>", PREFILLED, 1.0),
    ("\na</think>\n<answer>b</answer>", PREFILLED, 1.0),
    ("<think>a</think><answer>b</answer>", PREFILLED, 0.0),
    ("a</think><answer>b</answer>", Thinking(), 0.0),
    ("a</think><answer>b</answer>", Thinking(prefilled=False), 0.0),
    ("[THINK]a[/THINK]<answer>b</answer>", OTHER_TAGS, 1.0),
    ("<think>a</think><answer>b</answer>", OTHER_TAGS, 0.0),
]


@pytest.mark.parametrize(("completion", "thinking", "verdict"), FORMAT)
def test_format(completion, thinking, verdict):
    assert format_reward([completion], thinking=thinking) == [verdict]


TAG_COUNT = [
    ("<think>a</think><answer>b</answer>", Thinking(), 1.0),
    ("<answer>b</answer><think>a</think>", Thinking(), 1.0),  # the order is for `format` to judge
    ("<think>a</think>b", Thinking(), 0.5),
    ("<think>a<think>b</think>", Thinking(), 0.25),  # twice is not once
    ("plain", Thinking(), 0.0),
    ("", Thinking(), 0.0),
    ("", PREFILLED, 0.25),  # the prompt's own tag stands
    ("a</think><answer>b</answer>", PREFILLED, 1.0),
    ("<think>a</think><answer>b</answer>", PREFILLED, 0.75),  # the prompt's and one more
    ("[THINK]a[/THINK]<answer>b</answer>", OTHER_TAGS, 1.0),
]


@pytest.mark.parametrize(("completion", "thinking", "reward"), TAG_COUNT)
def test_tag_count(completion, thinking, reward):
    assert tag_count_reward([completion], thinking=thinking) == [reward]


STEPS = [  # completion, steps counted
    ("", 0),
    ("no step is marked here", 0),
    ("Step 1: add. Step 2: carry.", 2),
    ("**Step 1:** add\n### Step 2: carry", 2),
    ("**Step 1**: add", 1),
    ("as in step 1 we add", 0),  # told of, not marked
    ("1. add\n2. carry\n", 2),
    ("1) add\n  2) carry", 2),
    ("it is 1. 2. 3. here", 0),  # not at the start of a line
    ("3.14 is near pi\n2.71 is near e", 0),
    ("- add\n* carry\n• write", 3),
    ("-5 + 7\n--- \n**bold** words", 0),
    ("First, add. Next, carry. Finally, write.", 3),
    ("Secondly, carry.", 1),
    ("at first, nothing; the next, too", 0),
    ("1. First, add\n- **Step 2:** carry", 2),  # one step each, however often it is marked
]


@pytest.mark.parametrize(("completion", "num_steps"), STEPS)
def test_reasoning_steps(completion, num_steps):
    assert reasoning_steps_reward([completion]) == [pytest.approx(num_steps / 3)]


def test_more_than_three_steps_earn_no_more():
    assert reasoning_steps_reward(["1. a\n2. b\n3. c\n4. d"]) == [1.0]


def program(name: str = "python", code: str = "print(1)") -> str:
    return f"```{name}\n{code}\n```"


CODE_FORMAT = [  # answer, language, verdict
    (program(), "python", 1.0),
    (program("py"), "python", 1.0),
    (program("Python"), "python", 1.0),
    (program("python3 title=x"), "python", 1.0),
    (program(), "py", 1.0),
    (f"Here it is:\n\n{program()}\n\nIt prints 1.", "python", 1.0),
    (f"{program()}\nIt prints\n{program('')}", "python", 1.0),  # the output is no second program
    (program("c++"), "cpp", 1.0),
    (program("haskell"), "haskell", 1.0),
    ("  ```python\n  print(1)\n  ```", "python", 1.0),
    ("````python\ns = '''\n```\n'''\n````", "python", 1.0),  # the shorter fence is part of the code
    (f"````\n```\n{program()}\n````", "python", 0.0),  # a longer fence shows fences
    (program(), "cpp", 0.0),
    (program(""), "python", 0.0),
    (f"{program()}\n{program('py')}", "python", 0.0),
    (program(code=" \n"), "python", 0.0),
    ("```python\nprint(1)", "python", 0.0),
    ("```python print(1)```", "python", 0.0),
    ("print(1)", "python", 0.0),
]


@pytest.mark.parametrize(("answer", "language", "verdict"), CODE_FORMAT)
def test_code_format(answer, language, verdict):
    assert code_format_reward([f"<think>a</think><answer>\n{answer}\n</answer>"], language=language) == [verdict]


def test_code_format_asks_for_the_format_too():
    in_thinking = f"<think>\n{program()}\n</think><answer>done</answer>"
    assert code_format_reward([program(), in_thinking, ""]) == [0.0, 0.0, 0.0]


def test_code_format_goes_on_from_a_prefilled_prompt():
    assert code_format_reward([f"a</think><answer>\n{program()}\n</answer>"], thinking=PREFILLED) == [1.0]


@pytest.mark.parametrize(
    "unit", ["<think>", "</think>", "<answer> ", "</answer>", "<", "`", "```\n", "1", " ", "Step ", "-", "\n", "*"]
)
@pytest.mark.parametrize("reward", [format_reward, tag_count_reward, reasoning_steps_reward, code_format_reward])
def test_a_layout_of_a_megabyte_is_read(reward, unit):
    hostile = unit * (HOSTILE_LENGTH // len(unit))
    inside = f"<think>{hostile}</think><answer>{hostile}</answer>"
    assert len(reward([hostile, inside])) == 2


# ---- length

VERDICTS = {"right": 1.0, "wrong": 0.0, "unclear": None}


@pytest.fixture
def read_verdicts(monkeypatch):
    """Completions that say their verdict themselves, in place of math-verify."""

    def accuracy_reward(completions, solution, *, thinking, answer_in, **columns):
        return [VERDICTS[completion] for completion in completions]

    monkeypatch.setattr(length, "accuracy_reward", accuracy_reward)


def length_rewards(completions, lengths_tokens, prompts=None):
    prompts = ["p"] * len(completions) if prompts is None else prompts
    return length_reward(completions, prompts, ["g"] * len(completions), [ids(n) for n in lengths_tokens])


LENGTH = [  # verdicts, lengths in tokens, rewards
    (["right"] * 3, [10, 20, 30], [0.5, 0.0, -0.5]),
    (["wrong"] * 3, [10, 20, 30], [0.0, 0.0, -0.5]),
    (["right", "wrong"], [30, 10], [0.0, 0.0]),  # long but right: raised to the best wrong one
    (["right", "wrong"], [10, 30], [0.5, -0.5]),
    (["right", "wrong", "right"], [20, 25, 30], [0.5, 0.0, 0.0]),
    (["wrong", "right", "right"], [40, 35, 20], [-0.5, -0.25, 0.5]),  # under nought, but not under a wrong one
    (["right", "wrong"], [10, 10], [0.0, 0.0]),
    (["right"], [10], [0.0]),
    (["right"], [0], [0.0]),
    (["right", "unclear", "right"], [10, 1000, 20], [0.5, None, -0.5]),  # without verdict, no part of the group
    (["unclear", "unclear"], [10, 20], [None, None]),
    ([], [], []),
]


@pytest.mark.parametrize(("completions", "lengths_tokens", "rewards"), LENGTH)
def test_length(read_verdicts, completions, lengths_tokens, rewards):
    assert length_rewards(completions, lengths_tokens) == rewards


def test_length_is_measured_inside_each_prompts_own_group(read_verdicts):
    prompts = ["a", "b", "a", "b"]
    assert length_rewards(["right"] * 4, [10, 1000, 20, 3000], prompts) == [0.5, 0.5, -0.5, -0.5]


def test_equal_conversations_are_one_prompt(read_verdicts):
    prompts = [[{"role": "user", "content": "a"}], [{"content": "a", "role": "user"}]]
    assert length_rewards(["right"] * 2, [10, 20], prompts) == [0.5, -0.5]


def test_length_counts_tokens_not_characters():
    answers = [r"\boxed{12} and many words more than in the other one", r"\boxed{12}"]
    assert length_reward(answers, ["p", "p"], ["12", "12"], [ids(3), ids(9)]) == [0.5, -0.5]


def test_length_knows_the_accuracy_of_conversations_and_ignores_other_columns():
    completions = [as_conversation(rf"a</think>\boxed{{{answer}}}") for answer in (12, 13)]
    rewards = length_reward(
        completions, ["p", "p"], ["12", "12"], [ids(10), ids(30)], log_extra=None, difficulty=[3, 3]
    )
    assert rewards == [0.5, -0.5]


def test_what_the_recipe_says_of_thinking_and_answer_reaches_the_accuracy(monkeypatch):
    asked = []

    def accuracy_reward(completions, solution, **parameters):
        asked.append(parameters)
        return [1.0]

    monkeypatch.setattr(length, "accuracy_reward", accuracy_reward)
    parameters = {"thinking": OTHER_TAGS, "answer_in": "boxed"}
    length_reward(["a"], ["p"], ["g"], [ids(1)], **parameters)
    cosine_reward(["a"], ["g"], [ids(1)], max_completion_tokens=10, **parameters)
    assert asked == [parameters, parameters]


groups = st.lists(st.tuples(st.sampled_from(sorted(VERDICTS)), st.integers(0, 50), st.sampled_from("ab")), max_size=12)


@unhurried
@given(groups, st.randoms(use_true_random=False))
def test_length_stays_in_range_and_right_never_scores_under_wrong_in_any_order(batch, order):
    def reward(batch):
        return length_rewards([row[0] for row in batch], [row[1] for row in batch], [row[2] for row in batch])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(length, "accuracy_reward", lambda completions, *_, **__: [VERDICTS[c] for c in completions])
        rewards = reward(batch)
        shuffled = order.sample(range(len(batch)), len(batch))
        assert reward([batch[index] for index in shuffled]) == [rewards[index] for index in shuffled]
    assert [reward is None for reward in rewards] == [verdict == "unclear" for verdict, _, _ in batch]
    assert all(-0.5 <= reward <= 0.5 for reward in rewards if reward is not None)
    for prompt in "ab":
        scores = {
            verdict: [reward for row, reward in zip(batch, rewards, strict=True) if row[0::2] == (verdict, prompt)]
            for verdict in ("right", "wrong")
        }
        assert min(scores["right"], default=1) >= max(scores["wrong"], default=-1)


COSINE = [  # verdict, tokens of at most 100, reward
    ("right", 0, 1.0),
    ("right", 50, 0.75),
    ("right", 100, 0.5),
    ("right", 200, 0.5),  # the cosine would be back at 1.0
    ("right", 25, 0.5 + 0.5 * (1 + 0.5**0.5) / 2),
    ("wrong", 0, -1.0),  # short and wrong: think longer
    ("wrong", 50, -0.75),
    ("wrong", 100, -0.5),
    ("wrong", 200, -0.5),
]


@pytest.mark.parametrize(("verdict", "num_tokens", "reward"), COSINE)
def test_cosine(read_verdicts, verdict, num_tokens, reward):
    assert cosine_reward([verdict], ["g"], [ids(num_tokens)], max_completion_tokens=100) == [pytest.approx(reward)]


def test_cosine_between_other_values(read_verdicts):
    values = {"min_value_wrong": -10.0, "max_value_wrong": 0.0, "min_value_correct": 1.0, "max_value_correct": 2.0}
    rewards = cosine_reward(
        ["right", "right", "wrong", "wrong", "unclear"],
        ["g"] * 5,
        [ids(0), ids(10), ids(0), ids(10), ids(10)],
        max_completion_tokens=10,
        **values,
    )
    assert rewards == [2.0, 1.0, -10.0, 0.0, None]


def test_cosine_gives_no_verdict_where_the_gold_says_nothing():
    completions = [as_conversation(r"\boxed{5}"), r"\boxed{5}", "no answer at all, in many characters" * 9]
    rewards = cosine_reward(completions, ["", "5", "5"], [ids(10)] * 3, max_completion_tokens=10, **GIVEN_BY_TRL)
    assert rewards == [None, 0.5, -0.5]


@unhurried
@given(st.sampled_from(["right", "wrong"]), st.integers(0, 300), st.integers(1, 100))
def test_cosine_stays_between_its_values(verdict, num_tokens, max_completion_tokens):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(length, "accuracy_reward", lambda completions, *_, **__: [VERDICTS[c] for c in completions])
        [reward] = cosine_reward([verdict], ["g"], [ids(num_tokens)], max_completion_tokens=max_completion_tokens)
    low, high = (0.5, 1.0) if verdict == "right" else (-1.0, -0.5)
    assert low <= reward <= high


COSINE_REFUSES = [
    ({"max_completion_tokens": 0}, "max_completion_tokens is 0"),
    ({"max_completion_tokens": 9, "min_value_wrong": 0.0}, "min_value_wrong is 0.0"),
    ({"max_completion_tokens": 9, "max_value_correct": 0.0}, "min_value_correct is 0.5"),
]


@pytest.mark.parametrize(("parameters", "says"), COSINE_REFUSES)
def test_cosine_refuses(parameters, says):
    with pytest.raises(RecipeError, match=says):
        cosine_reward([], [], [], **parameters)


OVERLONG = [  # tokens of at most 100, cache of 40
    (0, 0.0),
    (60, 0.0),
    (61, -1 / 40),
    (80, -0.5),
    (100, -1.0),
    (101, -1.0),
    (1000, -1.0),
]


@pytest.mark.parametrize(("num_tokens", "reward"), OVERLONG)
def test_soft_overlong_punishment(num_tokens, reward):
    rewards = soft_overlong_punishment_reward(["a"], [ids(num_tokens)], max_completion_tokens=100, cache_tokens=40)
    assert rewards == [pytest.approx(reward)]


def test_the_cache_may_be_the_whole_length():
    rewards = soft_overlong_punishment_reward(
        ["many characters, five tokens", ""],
        [ids(5), ids(0)],
        max_completion_tokens=10,
        cache_tokens=10,
        **GIVEN_BY_TRL,
    )
    assert rewards == [-0.5, 0.0]


def test_the_cache_is_a_fifth_of_the_maximum_if_nothing_is_said():
    assert soft_overlong_punishment_reward(["a"] * 3, [ids(80), ids(90), ids(100)], max_completion_tokens=100) == [
        0.0,
        -0.5,
        -1.0,
    ]
    assert soft_overlong_punishment_reward(["a"] * 2, [ids(2), ids(3)], max_completion_tokens=3) == [0.0, -1.0]


@pytest.mark.parametrize("cache_tokens", [0, -1, 101])
def test_soft_overlong_punishment_refuses(cache_tokens):
    with pytest.raises(RecipeError, match=f"cache_tokens is {cache_tokens}; give 1 to 100") as refused:
        soft_overlong_punishment_reward([], [], max_completion_tokens=100, cache_tokens=cache_tokens)
    assert len(refused.value.lines) == 1


@unhurried
@given(st.lists(st.integers(0, 300), max_size=8), st.integers(1, 100), st.data())
def test_soft_overlong_punishment_falls_with_length_between_nought_and_minus_one(lengths, most, data):
    cache = data.draw(st.integers(1, most))
    rewards = soft_overlong_punishment_reward(
        ["a"] * len(lengths), [ids(n) for n in sorted(lengths)], max_completion_tokens=most, cache_tokens=cache
    )
    assert len(rewards) == len(lengths)
    assert all(-1.0 <= reward <= 0.0 for reward in rewards)
    assert rewards == sorted(rewards, reverse=True)


# ---- repetition

REPETITION = [  # completion, size, share of n-grams that are repeats
    ("", 3, 0),
    ("one two", 3, 0),
    ("one two three", 3, 0),
    ("one two three four five six", 3, 0),
    ("no no no no", 3, 1 / 2),
    ("no " * 102, 3, 99 / 100),
    ("No no NO no", 3, 1 / 2),  # whatever the case
    ("no, no! (no) - no", 3, 1 / 2),  # whatever the signs between
    ("a b a b", 2, 1 / 3),
    ("a b a b", 1, 1 / 2),
    ("da da da", 4, 0),
    ("don't don't don't", 2, 1 / 2),  # three words, not six
    ("мир Мир МИР мир", 3, 1 / 2),
    ("straße STRASSE straße strasse", 3, 1 / 2),
    ("नमस्ते दुनिया नमस्ते दुनिया", 2, 1 / 3),  # a word and its vowel signs are one
    ("سلام سلام سلام سلام", 3, 1 / 2),
    ("好好好好", 3, 1 / 2),
    ("今天天气很好", 3, 0),
    ("= = = = = =", 3, 0),  # no words
]


@pytest.mark.parametrize(("completion", "ngram_size", "share"), REPETITION)
def test_repetition(completion, ngram_size, share):
    assert repetition_penalty_reward([completion], ngram_size=ngram_size) == [pytest.approx(-share)]


def test_repetition_penalty_scales():
    assert repetition_penalty_reward(["no no no no"], max_penalty=-0.5) == [-0.25]
    assert repetition_penalty_reward(["no no no no"], max_penalty=0.0) == [0.0]


CHINESE = [
    ("我们我们我们", 2, 1 / 2),  # three words of two characters
    ("三角形,三角形。三角形", 2, 1 / 2),
    ("我们 think 我们 think", 2, 1 / 3),
    ("", 2, 0),
    ("。。。。。。", 2, 0),
]


@pytest.mark.parametrize(("completion", "ngram_size", "share"), CHINESE)
def test_repetition_of_chinese_words(completion, ngram_size, share):
    pytest.importorskip("jieba")
    rewards = repetition_penalty_reward([completion], ngram_size=ngram_size, language="zh")
    assert rewards == [pytest.approx(-share)]


REPETITION_REFUSES = [
    ({"max_penalty": 0.1}, "max_penalty is 0.1"),
    ({"ngram_size": 0}, "ngram_size is 0"),
    ({"language": "en"}, "language is 'en'; give one of any, zh"),
]


@pytest.mark.parametrize(("parameters", "says"), REPETITION_REFUSES)
def test_repetition_refuses(parameters, says):
    with pytest.raises(RecipeError, match=says):
        repetition_penalty_reward([], **parameters)


def test_a_missing_jieba_is_told_with_its_mend(monkeypatch):
    monkeypatch.setitem(sys.modules, "jieba", None)
    repetition._jieba.cache_clear()
    with pytest.raises(RecipeError, match="pip install jieba$"):
        repetition_penalty_reward([], language="zh")


@pytest.mark.parametrize("language", ["any", "zh"])
@pytest.mark.parametrize("unit", ["a", "a ", "=", "的", "三角形面积", "\u0301", "1.", "'"])
def test_repetition_in_a_megabyte_is_counted(unit, language):
    if language == "zh":
        pytest.importorskip("jieba")
    hostile = unit * (HOSTILE_LENGTH // len(unit))
    assert -1.0 <= repetition_penalty_reward([hostile], language=language)[0] <= 0.0


@unhurried
@given(st.lists(st.text(), max_size=6), st.integers(1, 4), st.sampled_from([-2.0, -1.0, 0.0]))
def test_repetition_stays_in_range(completions, ngram_size, max_penalty):
    rewards = repetition_penalty_reward(completions, ngram_size=ngram_size, max_penalty=max_penalty)
    assert len(rewards) == len(completions)
    assert all(max_penalty <= reward <= 0.0 for reward in rewards)


# ---- language

TEXTS = {
    "en": "First we add the two numbers and write the sum below the line. Then we carry one. So the result is even.",
    "de": "Zuerst addieren wir die beiden Zahlen und schreiben die Summe unter den Strich. Also ist die Summe gerade.",
    "fr": "On additionne d'abord les deux nombres et on écrit la somme sous le trait. Le résultat est donc pair.",
    "es": "Primero sumamos los dos números y escribimos el resultado debajo de la línea. Por eso la suma es par.",
    "ru": "Сначала сложим оба числа и запишем сумму под чертой. Значит, результат будет чётным.",
    "zh": "首先把两个数相加,把和写在横线下面。所以结果是偶数。",
    "ja": "まず二つの数を足して、その和を線の下に書きます。したがって結果は偶数です。",
    "ko": "먼저 두 수를 더하고 그 합을 줄 아래에 쓴다. 따라서 결과는 짝수이다.",
    "ar": "نجمع أولا العددين ونكتب المجموع تحت الخط. لذلك تكون النتيجة عددا زوجيا.",
    "hi": "पहले हम दोनों संख्याओं को जोड़ते हैं और योग को रेखा के नीचे लिखते हैं। इसलिए परिणाम सम है।",
}


@pytest.mark.parametrize("target", TEXTS)
@pytest.mark.parametrize("written", TEXTS)
def test_language(written, target):
    assert language_consistency_reward([TEXTS[written]], target_language=target) == [float(written == target)]


NO_WORDS = [
    "",
    " \n",
    "2 + 2 = 4",
    "x y z",
    "7+5=12, 12+3=15",
    r"\frac{1}{2} \alpha",
    "$a = b$",
    "\\[ \\text{area} = 3 \\]",
    "```python\nreturn value\n```",
    "`some code`",
    "ABC, AB",
    "<think></think>",
    "<think>2+2=4</think> So the answer to the question is four.",  # the thinking is judged, and says nothing
]


@pytest.mark.parametrize("completion", NO_WORDS)
def test_a_thinking_without_words_earns_nothing(completion):
    assert language_consistency_reward([completion]) == [0.0]


BESIDE_WORDS = [  # stands inside an English text and does not count
    "$x^2 - 5x + 6 = 0$",
    r"\[ \frac{a}{b} \]",
    r"\(\alpha + \beta\)",
    "3.14 2,000 17",
    "a\u0301 + e\u0301",  # one letter each
    "x, y",
    "ABC",
    "`for i in range(n)`",
    "\n```python\nfor zahl in zahlen: print(zahl)\n```\n",
    r"\begin{align} \cos x \end{align}",
    "laenge=2*zahl",
]


@pytest.mark.parametrize("formula", BESIDE_WORDS)
@pytest.mark.parametrize("target", ["en", "zh"])
def test_formulas_and_code_are_no_words(formula, target):
    completion = TEXTS[target] + f" {formula} " + TEXTS[target]
    assert language_consistency_reward([completion], target_language=target) == [1.0]


MIXED = [  # completion, target, reward
    (f"{TEXTS['en']} {TEXTS['en']}", "en", 1.0),
    ("We know that 面积 means area in this long problem", "en", 9 / 11),  # each Han character is a word
    ("我们 now compute 面积", "zh", 4 / 6),
    (
        "First we add all of the digits. Danach prüfen wir die Summe durch neun. Then we are done with it.",
        "en",
        13 / 20,
    ),
    (
        "First we add all of the digits. Danach prüfen wir die Summe durch neun. Then we are done with it.",
        "de",
        7 / 20,
    ),
    (TEXTS["en"].replace(".", "") + " " + TEXTS["de"].replace(".", ""), "ru", 0.0),
    (r"We see that it follows \text{因此} from the first line", "en", 9 / 11),  # hidden in a formula, still to be read
    (r"We see that it follows $\text{因此}$ from the first line", "en", 9 / 11),
    ("We see 面积面积面积面积面积 here", "en", 3 / 13),  # their number does not make the others Chinese
    ("**First** **we** *add* *the* __two__ `numbers`", "en", 1.0),  # emphasis is no formula
    ("The first of the books costs $5. Aber das zweite Buch kostet mich $7. So we pay the sum of both.", "en", 13 / 19),
    ("So now we can see that $x = 5.$ Aber das zweite Buch kostet mich x=7. So we pay the sum of both.", "en", 13 / 19),
    ("<answer>therefore nothing</answer>", "en", 1.0),
    ("Okay. Wait. Zero? By symmetry. Same integer.", "en", 1.0),  # too short to tell one by one
    ("We get", "en", 1.0),
    ("ja", "zh", 0.0),
]


@pytest.mark.parametrize(("completion", "target", "reward"), MIXED)
def test_language_of_mixed_text(completion, target, reward):
    assert language_consistency_reward([completion], target_language=target) == [pytest.approx(reward)]


def test_a_long_text_without_full_stops_is_not_judged_as_one():
    halves = [" ".join([TEXTS[code].replace(".", "")] * 4) for code in ("en", "de")]
    [reward] = language_consistency_reward([" ".join(halves)])
    assert 0.4 < reward < 0.7


THINKING = [  # completion, thinking, reward for English
    (f"<think>{TEXTS['en']}</think>{TEXTS['de']}", Thinking(), 1.0),
    (f"<think>{TEXTS['de']}</think>{TEXTS['en']}", Thinking(), 0.0),
    (f"{TEXTS['de']}<think>{TEXTS['en']}</think>", Thinking(), 1.0),
    (f"{TEXTS['de']}<think>{TEXTS['en']}", Thinking(), 1.0),  # never ends: all that follows is thinking
    (f"<think>{TEXTS['en']}</think><think>{TEXTS['de']}", Thinking(), 22 / 40),  # two thoughts, one without an end
    (f"{TEXTS['en']}</think>{TEXTS['de']}", Thinking(), 1.0),
    (f"{TEXTS['en']}</think>{TEXTS['de']}", PREFILLED, 1.0),
    (f"{TEXTS['de']}<think>{TEXTS['en']}</think>", PREFILLED, 22 / 40),
    (f"[THINK]{TEXTS['en']}[/THINK]{TEXTS['de']}", OTHER_TAGS, 1.0),
    (f"<answer>{TEXTS['en']}</answer>", Thinking(), 1.0),  # nothing marked as thinking: the whole completion
    (f"<answer>{TEXTS['de']}</answer>", Thinking(), 0.0),
]


@pytest.mark.parametrize(("completion", "thinking", "reward"), THINKING)
def test_the_thinking_is_what_is_judged(completion, thinking, reward):
    assert language_consistency_reward([completion], thinking=thinking) == [pytest.approx(reward)]


@pytest.mark.parametrize("code", ["xx", "english", "EN", ""])
def test_an_unknown_language_is_told_with_the_known_ones(code):
    with pytest.raises(RecipeError, match=f"target_language is {code!r}; give one of ar, bg, .* zh$"):
        language_consistency_reward([], target_language=code)


def test_the_identifier_knows_every_language_that_a_recipe_can_name():
    assert set(language._identifier().labels) == set(SCRIPTS)


def test_the_same_language_from_any_thread():
    language._load_identifier.cache_clear()
    completions = [TEXTS[code] for code in ("en", "de", "zh")] * 4
    with ThreadPoolExecutor(4) as threads:
        rewards = list(threads.map(lambda _: language_consistency_reward(completions), range(8)))
    assert rewards == [[1.0, 0.0, 0.0] * 4] * 8


@pytest.mark.parametrize(
    "unit", ["<think>", "\\[", "\\(", "$", "$a ", "`", "```a", ".", "a", "的", "\n", "=", "\u0301", "a'", "ab cd. "]
)
def test_a_megabyte_has_a_language(unit):
    hostile = f"{TEXTS['en']}{unit * (HOSTILE_LENGTH // len(unit))}x{TEXTS['en']}"
    assert 0.0 <= language_consistency_reward([hostile])[0] <= 1.0


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(), max_size=4))
def test_language_stays_between_nought_and_one(completions):
    rewards = language_consistency_reward(completions)
    assert len(rewards) == len(completions)
    assert all(0.0 <= reward <= 1.0 for reward in rewards)


# ---- all of them

SHOWN_TO_ALL = [
    f"<think>{TEXTS['en']}</think><answer>\n{program()}\n</answer>",
    f"<think>{TEXTS['de']}",
    "",
    "no no no no no",
    r"1. First, \boxed{12}",
]
REWARDS = [
    format_reward,
    tag_count_reward,
    reasoning_steps_reward,
    code_format_reward,
    length_reward,
    cosine_reward,
    soft_overlong_punishment_reward,
    repetition_penalty_reward,
    language_consistency_reward,
]


def call(reward, completions, order):
    """As TRL calls it, rows in the order given."""
    columns = {"prompts": list("ababa"), "solution": ["12", "12", "12", "", "12"], "difficulty": [1, 2, 3, 4, 5]}
    columns["completion_ids"] = [ids(n) for n in (90, 80, 0, 9, 10)]
    columns = {name: [values[index] for index in order] for name, values in columns.items()}
    if reward in (cosine_reward, soft_overlong_punishment_reward):
        columns["max_completion_tokens"] = 100
    return reward(
        completions=[completions[index] for index in order],
        trainer_state=None,
        log_extra=None,
        log_metric=None,
        **columns,
    )


@pytest.mark.parametrize("reward", REWARDS)
def test_a_conversation_is_judged_as_its_text_and_the_order_is_kept(reward):
    in_order = call(reward, SHOWN_TO_ALL, range(5))
    order = random.Random(1).sample(range(5), 5)
    conversations = [as_conversation(text) for text in SHOWN_TO_ALL]
    assert len(set(in_order)) > 1
    assert call(reward, conversations, order) == [in_order[index] for index in order]


def test_no_reward_loads_torch_trl_jieba_or_the_identifier_before_it_is_used():
    loaded = "import sys, open_r1.rewards.{}; print({{'torch', 'trl', 'jieba', 'py3langid'}} & set(sys.modules))"
    script = loaded.format(", open_r1.rewards.".join(["format", "length", "repetition", "language"]))
    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "set()"
