"""Rubrics: what a file says, mistakes as one line each, the mean by weights, and a hash that stays."""

import pytest
import yaml

from open_r1.feedback import Principle, Rubric, load_rubric
from open_r1.recipe import RecipeError, Thinking

ORDER, TONE = {"name": "order", "text": "Is it in order?"}, {"name": "tone", "weight": 3.0, "text": "Is it kind?"}
GIVEN = {"description": "Small talk.", "principles": [ORDER, TONE]}
SHOWS = "{{ question }}\n{{ answers[0] }}"


@pytest.fixture
def write_rubric(tmp_path):
    """Writes a rubric with keys over those of GIVEN, None leaving one out, and files beside it; gives its path."""

    def write(files=(), folder="", **keys):
        directory = tmp_path / folder
        directory.mkdir(exist_ok=True)
        for name, text in dict(files).items():
            (directory / name).write_text(text, encoding="utf-8")
        values = {key: value for key, value in {**GIVEN, **keys}.items() if value is not None}
        (directory / "rubric.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
        return directory / "rubric.yaml"

    return write


def test_a_rubric_says_what_its_file_says(write_rubric):
    rubric = load_rubric(write_rubric(files={"ask.jinja": SHOWS}, template="ask.jinja", scale=[0, 5], sees="answer"))
    assert (rubric.description, rubric.lowest, rubric.highest, rubric.sees) == ("Small talk.", 0, 5, "answer")
    assert rubric.principles == [Principle(**ORDER), Principle(**TONE)]
    assert rubric.template_text == SHOWS


def test_what_is_not_said_is_the_default(write_rubric):
    rubric = load_rubric(write_rubric())
    assert (rubric.scale, rubric.sees, rubric.template_text) == ([1, 10], "whole", None)
    assert rubric.principles[0].weight == 1.0


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        ({"descripton": "x"}, "descripton: unknown key of a rubric; did you mean description?"),
        ({"description": None}, "description: missing; it has no default"),
        ({"principles": None}, "principles: missing; it has no default"),
        ({"principles": []}, "principles: there is none; give at least one, with name and text"),
        ({"principles": [ORDER, ORDER]}, "principles: two are named order; a verdict tells them apart by their names"),
        (
            {"principles": [{**ORDER, "wieght": 2.0}]},
            "principles.0.wieght: unknown key of a principle; did you mean weight?",
        ),
        ({"principles": [{"name": "order"}]}, "principles.0.text: missing; it has no default"),
        (
            {"principles": [{**ORDER, "name": "In order"}]},
            "principles.0.name: 'In order' is no name of a principle; write it with a-z, 0-9 and _",
        ),
        (
            {"principles": [{**ORDER, "weight": "1e-1"}]},
            "principles.0.weight: '1e-1' is text to YAML, not a number; write 0.1",
        ),
        ({"principles": [{**ORDER, "weight": 0}]}, "principles.0.weight: 0 is wrong: input should be greater than 0"),
        (
            {"principles": [{**ORDER, "weight": float("inf")}]},
            "principles.0.weight: inf is wrong: input should be a finite number",
        ),
        ({"scale": ["1", 10]}, "scale.0: '1' is text to YAML, not a number; write 1"),
        ({"scale": [10, 1]}, "scale: [10, 1] has no score between; write [lowest, highest], e.g. [1, 10]"),
        ({"scale": [3, 3]}, "scale: [3, 3] has no score between; write [lowest, highest], e.g. [1, 10]"),
        ({"scale": [1, 5, 10]}, "scale: [1, 5, 10] is no scale; write [lowest, highest], e.g. [1, 10]"),
        ({"scale": 10}, "scale: 10 is no scale; write [lowest, highest], e.g. [1, 10]"),
        ({"sees": "answers"}, "sees: unknown sees 'answers'; write answer or whole; did you mean answer?"),
        ({"template": "none.jinja"}, "template: no such file: {folder}/none.jinja"),
        ({"template": "a\0b"}, "template: {folder}/a\0b cannot be read (embedded null byte)"),
        (
            {"template": "typo.jinja"},
            "template: {folder}/typo.jinja asks for 'anwers' (known: principles, scale, question, messages, answers, "
            "labels, marked_question, marked_messages); did you mean answers?",
        ),
        ({"template": "broken.jinja"}, "template: {folder}/broken.jinja, line 2: unexpected '}'"),
    ],
    ids=lambda value: "" if isinstance(value, str) else "-".join(map(str, value.items()))[:40],
)
def test_a_mistake_is_one_line(keys, line, write_rubric):
    file = write_rubric(files={"typo.jinja": "{{ anwers[0] }}", "broken.jinja": "x\n{{ question }"}, **keys)
    with pytest.raises(RecipeError) as mistake:
        load_rubric(file)
    assert mistake.value.lines == [f"{file}: {line}".replace("{folder}", str(file.parent))]


def test_two_mistakes_are_two_lines(write_rubric):
    with pytest.raises(RecipeError) as mistake:
        load_rubric(write_rubric(description=None, scale=[2, 1]))
    assert len(mistake.value.lines) == 2


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (None, "no such rubric"),
        ("- a list", "a rubric is a mapping"),
        ("a: [", "line 1: not valid YAML"),
        ("scale: 1\nscale: 2", "line 2: not valid YAML (scale is given twice)"),
    ],
)
def test_what_is_no_rubric_is_one_line(text, what, tmp_path):
    file = tmp_path / "rubric.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(RecipeError) as mistake:
        load_rubric(file)
    assert mistake.value.lines[0].startswith(f"{file}: {what}") and len(mistake.value.lines) == 1


def test_score_is_the_mean_by_weights_and_share_its_place_on_the_scale():
    rubric = Rubric(**{**GIVEN, "scale": [0, 8], "principles": [Principle(**ORDER), Principle(**TONE)]})
    assert rubric.score({"order": 8, "tone": 4}) == 5.0
    assert (rubric.share(0.0), rubric.share(5.0), rubric.share(8.0)) == (0.0, 0.625, 1.0)


@pytest.mark.parametrize(
    ("sees", "completion", "thinking", "seen"),
    [
        ("whole", "<think>hm</think>4", Thinking(), "<think>hm</think>4"),
        ("whole", "<think>hm", Thinking(), "<think>hm"),
        ("answer", "<think>hm</think>4", Thinking(), "4"),
        ("answer", "<think>hm", Thinking(), None),
        ("answer", "4", Thinking(), "4"),
        ("answer", "4", Thinking(prefilled=True), None),
        ("answer", "[hm]4", Thinking(open="[", close="]"), "4"),
    ],
)
def test_a_judge_sees_the_whole_or_what_follows_the_thinking(sees, completion, thinking, seen, write_rubric):
    assert load_rubric(write_rubric(sees=sees)).seen(completion, thinking) == seen


def test_hash_is_of_the_content_wherever_it_lies_and_whether_defaults_are_written(write_rubric):
    here = load_rubric(write_rubric(files={"a.jinja": SHOWS}, folder="here", template="a.jinja"))
    there = load_rubric(write_rubric(files={"b.jinja": SHOWS}, folder="there", template="b.jinja", scale=[1, 10]))
    assert here.sha256 == there.sha256


@pytest.mark.parametrize(
    "change",
    [
        {"description": "Talk."},
        {"scale": [1, 5]},
        {"sees": "answer"},
        {"principles": [ORDER]},
        {"principles": [TONE, ORDER]},
        {"principles": [ORDER, {**TONE, "weight": 2.0}]},
        {"principles": [ORDER, {**TONE, "text": "Is it?"}]},
        {"files": {"ask.jinja": SHOWS + "!"}},
    ],
    ids=str,
)
def test_hash_is_another_one_of_other_content(change, write_rubric):
    same = {"files": {"ask.jinja": SHOWS}, "template": "ask.jinja"}
    before = load_rubric(write_rubric(**same)).sha256
    assert load_rubric(write_rubric(**{**same, **change})).sha256 != before
