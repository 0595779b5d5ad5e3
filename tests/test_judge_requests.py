"""What a judge is sent, and what counts as its verdict."""

import json

import pytest
from stand_in_judges import ORDER, QUESTION, shown_in

from open_r1.feedback import Principle, Rubric, load_rubric
from open_r1.feedback.asking import SYSTEM, first_labels, harmless, nonce_for, request, schema_of
from open_r1.feedback.reading import read_verdict
from open_r1.recipe import RecipeError

PRINCIPLES = [Principle(name="order", text="Is it in order?"), Principle(name="tone", text="Is it kind?")]
RUBRIC = Rubric(description="Small talk.", scale=[0, 5], principles=PRINCIPLES)
CONVERSATION = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hello\nthere"},
    {"role": "assistant", "content": "Hi"},
    {"role": "user", "content": "How are you?"},
]


@pytest.fixture
def rubric_with(tmp_path):
    """A rubric of one principle with a template of this text."""

    def load(template: str) -> Rubric:
        (tmp_path / "ask.jinja").write_text(template, encoding="utf-8")
        (tmp_path / "rubric.yaml").write_text(
            "{description: Order., template: ask.jinja, principles: [{name: order, text: 'Is it?'}]}"
        )
        return load_rubric(tmp_path / "rubric.yaml")

    return load


def test_a_request_shows_principles_conversation_and_answers_in_order():
    system, user = request(RUBRIC, CONVERSATION, ["Fine.", "Go\naway", ""])
    shown = shown_in([user])
    assert system == {"role": "system", "content": SYSTEM}
    assert user["role"] == "user" and user["content"].startswith("Small talk.\n")
    assert shown.principles == ["order", "tone"]
    assert shown.asked == [(message["role"], message["content"]) for message in CONVERSATION]
    assert list(shown.answers.items()) == [("A", "Fine."), ("B", "Go\naway"), ("C", "")]
    assert '{"A": {"order": N, "tone": N}, "B": ' in user["content"] and "0 (worst) to 5 (best)" in user["content"]


def test_all_that_is_the_same_for_one_rubric_comes_first():
    one, other = (request(RUBRIC, [{"role": "user", "content": text}], [text])[1]["content"] for text in ("1", "2"))
    assert one.partition("What was asked")[0] == other.partition("What was asked")[0]


def test_a_template_writes_the_only_message(rubric_with):
    rubric = rubric_with(
        "{% for message in messages %}{{ message.role[0] }}{% endfor %} {{ question }}\n"
        "{{ principles[0].name }} {{ principles[0].text }} {{ scale }} {{ labels }}\n{{ answers[0] }}"
    )
    (message,) = request(rubric, CONVERSATION, ["Fine<|im_end|>"])
    first, second, opening, answer, closing = message["content"].split("\n")
    assert message["role"] == "user" and first == "suau How are you?"
    assert second == "order Is it? [1, 10] ['A']"
    assert (opening.replace("<", "</"), answer) == (closing, "Fine<\u200b|im_end|>")


@pytest.mark.parametrize(
    ("template", "what"),
    [
        ("{{ answers[0] }}", "does not show answer B as it is; write {{ answers[0] }}, or a loop over answers"),
        ("{{ answers[0]|upper }} {{ answers[1] }}", "does not show answer A as it is"),
        ("{{ answers[0].missing }}", "fails ('str object' has no attribute 'missing')"),
        ("{{ scale + 1 }}", 'fails (can only concatenate list (not "int") to list)'),
        ("{{ scale[0] / 0 }}", "fails (division by zero)"),
        ("{{ '%d' % question }}", "fails (%d format: a real number is required, not str)"),
        ("{{ '%(a)s' % {} }}", "fails ('a')"),
        ("{{ answers.append(1) }}", "fails (access to attribute 'append' of 'list' object is unsafe.)"),
    ],
)
def test_a_template_that_cannot_ask_is_a_mistake(template, what, rubric_with):
    rubric = rubric_with(template)
    with pytest.raises(RecipeError) as mistake:
        request(rubric, CONVERSATION, ["Fine.", "Bad."])
    assert mistake.value.lines[0].startswith(f"{rubric.source}: template: ask.jinja {what}")


@pytest.mark.parametrize(
    ("text", "broken_after"),
    [
        ("<|im_end|>", "<"),
        ("<|anything new|>", "<"),
        ("<｜end▁of▁sentence｜>", "<"),
        ("<s>", "<"),
        ("</s>", "<"),
        ("[INST]", "["),
        ("[/INST]", "["),
        ("<<SYS>>", "<"),
        ("<</SYS>>", "<"),
        ("<start_of_turn>", "<"),
        ("<end_of_turn>", "<"),
        ("<bos>", "<"),
        ("[gMASK]", "["),
        ("[|endofturn|]", "["),
        ("[TOOL_CALLS]", "["),
        ("<seed:bos>", "<"),
        ("<SPECIAL_11>", "<"),
        ("<extra_id_1>", "<"),
        ("<reserved_106>", "<"),
        ("<end_of_utterance>", "<"),
        ("<BOS_TOKEN>", "<"),
        ("</role>", "<"),
        ("<sep>", "<"),
        ("[EOS]", "["),
        ("[e~[", "["),
        ("]~b]", "]"),
    ],
)
def test_control_tokens_are_broken_up(text, broken_after):
    assert harmless(f"a{text}{text}b") == f"a{text}{text}b".replace(
        broken_after + text[1:2], f"{broken_after}\u200b{text[1:2]}"
    )
    assert text not in harmless(f"a{text}{text}b")


def test_control_tokens_of_a_tokenizer_at_hand_are_broken_up():
    assert harmless("a end: b", ["end:"]) == "a e\u200bnd: b"


def test_a_control_token_inside_another_is_broken_up_as_well():
    assert harmless("<<|im_end|><</s>>") == "<<\u200b|im_end|><<\u200b/s>>"


@pytest.mark.parametrize(
    "text", ["a < b | c > d", "x[1] | [2]", "<think>hm</think>", "a <b>bold</b> <sum>", "[INSTALL]"]
)
def test_other_text_stays_as_it_is(text):
    assert harmless(text) == text


def test_half_of_a_surrogate_pair_can_be_sent():
    assert harmless("a\ud83d") == "a\ufffd"


def test_the_conversation_is_made_harmless_too():
    content = request(ORDER, [{"role": "user", "content": "2?</s><|im_end|>"}], ["4"])[1]["content"]
    assert "2?<\u200b/s><\u200b|im_end|>" in content


def test_of_content_in_parts_the_text_is_shown():
    parts = [{"type": "image"}, {"type": "text", "text": "What<|im_end|>"}, {"type": "text", "text": "is it?"}]
    (_, user) = request(ORDER, [{"role": "user", "content": parts}], ["4"])
    assert shown_in([user]).asked == [("user", "What<\u200b|im_end|>\nis it?")]


def test_the_same_content_has_the_same_nonce_and_other_content_another():
    assert request(ORDER, QUESTION, ["4", "5"]) == request(ORDER, QUESTION, ["4", "5"])
    nonces = {shown_in(request(ORDER, QUESTION, answers)).nonce for answers in (["4", "5"], ["5", "4"], ["45"], ["4"])}
    assert len(nonces) == 4


def spellings(nonce: str) -> list[str]:
    wide = "".join(chr(ord(character) + 0xFEE0) for character in nonce)
    return [nonce, nonce.upper(), wide, f"answer A {nonce}>"]


@pytest.mark.parametrize("spelling", range(4), ids=["as it is", "upper case", "full width", "in a mark"])
def test_a_nonce_stands_in_no_text_however_it_is_spelled(spelling, monkeypatch):
    hashed = iter([b"1", b"2", b"3"])

    class Fixed:
        def __init__(self, content):
            self.hexdigest = lambda: "abcdef" * 10 if next(hashed) < b"3" else "fedcba" * 10

    monkeypatch.setattr("open_r1.feedback.asking.hashlib.sha256", Fixed)
    assert nonce_for([spellings("abcdef")[spelling]]) == "fedcba"


def test_a_nonce_grows_where_all_short_ones_are_taken(monkeypatch):
    class Fixed:
        def __init__(self, content):
            self.hexdigest = lambda: "0" * 64

    monkeypatch.setattr("open_r1.feedback.asking.hashlib.sha256", Fixed)
    assert nonce_for(["000000 and 0000000"]) == "0" * 8


def test_labels_go_on_after_z():
    assert first_labels(28)[:2] + first_labels(28)[25:] == ["A", "B", "Z", "AA", "AB"]


def test_schema_demands_a_score_of_every_principle_for_every_answer_and_nothing_else():
    score = {"type": "integer", "minimum": 0, "maximum": 5}
    of_answer = {
        "type": "object",
        "properties": {"order": score, "tone": score},
        "required": ["order", "tone"],
        "additionalProperties": False,
    }
    assert schema_of(RUBRIC, 2) == {
        "type": "object",
        "properties": {"A": of_answer, "B": of_answer},
        "required": ["A", "B"],
        "additionalProperties": False,
    }


GOOD = '{"A": {"order": 3, "tone": 0}, "B": {"order": 5, "tone": 1}}'
SCORES = [{"order": 3, "tone": 0}, {"order": 5, "tone": 1}]


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        f"\n {GOOD}\n",
        f"<think>A: {{}} or so</think>\n\n{GOOD}",
        f"so it is.</think>{GOOD}",
        f"```json\n{GOOD}\n```",
        f"<think>hm</think>```json {GOOD}```\n",
        json.dumps(json.loads(GOOD), indent=2),
        '{"B": {"tone": 1, "order": 5}, "A": {"tone": 0, "order": 3}}',
    ],
)
def test_a_verdict_is_read(text):
    assert read_verdict(text, RUBRIC, 2) == SCORES


def test_the_shortest_verdict_is_read():
    assert read_verdict('{"A":{"order":7}}', ORDER, 1) == [{"order": 7}]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "A is better.",
        "<think>" + GOOD,
        GOOD + "</think>",
        GOOD + " So B.",
        "Verdict: " + GOOD,
        GOOD + GOOD,
        GOOD[:-1],
        f"```json\n{GOOD}",
        f"So:\n```json\n{GOOD}\n```",
        f"```json\n{GOOD}\n```\nSo B.",
        f"```\n{GOOD}\n```",
        f"```json\n{GOOD}\n``` and\n```json\n{GOOD}\n```",
        f"[{GOOD}]",
        json.dumps(GOOD),
        GOOD.replace("3", "6"),
        GOOD.replace("3", "-1"),
        GOOD.replace("3", "3.0"),
        GOOD.replace("3", "3e0"),
        GOOD.replace("3", '"3"'),
        GOOD.replace("3", "true"),
        GOOD.replace("3", "null"),
        GOOD.replace("3", "NaN"),
        GOOD.replace("3", "Infinity"),
        GOOD.replace("3", "[3]"),
        GOOD.replace("3", "9" * 10_000),
        GOOD.replace(', "tone": 0', ""),
        GOOD.replace('"tone": 0', '"tone": 0, "style": 1'),
        GOOD.replace('"tone": 0', '"tone": 0, "tone": 0'),
        GOOD.replace('"B"', '"A"'),
        GOOD.replace('"B"', '"C"'),
        GOOD.replace('"B"', '"b"'),
        '{"A": {"order": 3, "tone": 0}}',
        '{"A": 3, "B": 5}',
        '{"A": [3, 0], "B": [5, 1]}',
        GOOD[:-1] + ', "C": {"order": 5, "tone": 1}}',
        "[" * 100_000,
        '{"A":' * 100_000,
        "null",
        "3",
    ],
    ids=lambda text: text[:40],
)
def test_anything_else_is_none(text):
    assert read_verdict(text, RUBRIC, 2) is None
