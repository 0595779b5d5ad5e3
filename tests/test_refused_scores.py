"""Scores that would say nothing of the model are refused, with the reason and the mend, and never a number."""

import json
from pathlib import Path

import pyarrow.parquet as parquet
import pytest
from conftest import REPOSITORY
from transformers import AutoTokenizer

from open_r1 import evaluate
from open_r1.benchmarks import refusals
from open_r1.generation import Completion
from open_r1.generation.transformers_backend import TransformersBackend
from open_r1.modeling import CHAT_TEMPLATE, character_tokenizer
from open_r1.recipe import RecipeError, load_recipe

EOS = "<|end|>"
TURNS = (  # the generation prompt and the end of an answer are put in
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}<|user|>{{ message['content'] }}"
    "{% else %}<|assistant|>{{ message['content'] }}END{% endif %}"
    "{% endfor %}PROMPT"
)
PROMPT = "{% if add_generation_prompt %}<|assistant|>{% endif %}"


def template(end: str = EOS, prompt: str = PROMPT) -> str:
    return TURNS.replace("END", end).replace("PROMPT", prompt)


def problem_with(chat_template: str | None, eos_token: str = EOS) -> str | None:
    tokenizer = character_tokenizer()
    tokenizer.chat_template = chat_template
    tokenizer.eos_token = eos_token
    return refusals.template_problem(tokenizer, {tokenizer.eos_token_id})


# --- templates -------------------------------------------------------------------------------------------------------

MISTRAL = (
    "{% for message in messages %}{% if message['role'] == 'user' %}[INST] {{ message['content'] }} [/INST]"
    "{% else %} {{ message['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
)
QWEN3 = (  # an answer is shown behind an empty thinking, which the generation prompt leaves to the model
    "{% for message in messages %}<|user|>{% if message['role'] == 'assistant' %}<think>\n\n</think>\n\n{% endif %}"
    "{{ message['content'] }}<|end|>\n{% endfor %}" + PROMPT
)


@pytest.mark.parametrize(
    "chat_template",
    [
        template(),
        template(end=f"\n{EOS}\n"),
        template(prompt=PROMPT.replace("<|assistant|>", "<|assistant|><think>\n")),
        MISTRAL,
        QWEN3,
        "{{ messages[0]['content'] }}{% if add_generation_prompt %} Answer:{% endif %}",  # for prompts alone
        template().replace("{% else %}", "{% else %}{{ raise_exception('prompts alone') }}"),
    ],
    ids=["turns", "eos on a line", "thinking prefilled", "mistral", "qwen3", "no answers", "answers raise"],
)
def test_a_template_that_can_be_sampled_with(chat_template):
    assert problem_with(chat_template) is None


@pytest.mark.parametrize(
    ("chat_template", "problem"),
    [
        (None, "is missing; give model.chat_template"),
        (template(prompt=""), "renders no generation prompt (the same text with and without"),
        ("{% for message in messages %}{{ message['content'] }}<|end|>{% endfor %}", "renders no generation prompt"),
        ("{% for message in messages %}{{ message['content'] }}{% endfor %}", "renders no generation prompt"),
        (template(end=""), "ends an answer without any token, and sampling ends at '<|end|>'"),
        (template(end="\n"), "ends an answer without any token"),
        (template(end="<|pad|>"), "ends an answer with '<|pad|>', and sampling ends at '<|end|>'"),
        (template().replace("{{ message['content'] }}", "x"), "leaves the question out"),
        ("{{ raise_exception('only for tools') }}", "cannot render a question (only for tools)"),
        ("{% if %}", "cannot render a question ("),
    ],
    ids=lambda value: None if value is None else str(value)[-30:],
)
def test_a_template_that_cannot(chat_template, problem):
    assert problem in problem_with(chat_template)


def test_the_end_of_an_answer_is_the_tokenizers_not_the_templates():
    assert problem_with(template(), eos_token="<|pad|>").startswith("ends an answer with '<|end|>', and sampling ends")


@pytest.mark.parametrize(
    "file", sorted((REPOSITORY / "recipes" / "chat_templates").glob("*.jinja")), ids=lambda f: f.stem
)
def test_the_repositorys_own_templates_can_be_sampled_with(file):
    ends = {"chatml": "<|im_end|>", "deepseek": "<｜end▁of▁sentence｜>", "llama3": "<|eot_id|>", "r1_zero": EOS}
    ends |= {"tulu": "<|end_of_text|>"}
    tokenizer = character_tokenizer()
    (end,) = [token for name, token in ends.items() if file.stem.startswith(name)]
    tokenizer.add_special_tokens({"eos_token": end})
    tokenizer.chat_template = file.read_text()
    assert refusals.template_problem(tokenizer, {tokenizer.eos_token_id}) is None


# --- before anything is sampled --------------------------------------------------------------------------------------


class Script:
    """Answers `<think></think>1` to everything, cut off for `num_cut` of ten questions; keeps what it was asked for."""

    def __init__(self):
        self.num_cut = 0
        self.asked = []

    def sample(self, conversations, sampling, wanted=None):
        self.asked.append(sampling)
        for index in range(len(conversations)):
            yield (index, 0), Completion("<think></think>1", 7, truncated=index % 10 < self.num_cut)


@pytest.fixture
def script(monkeypatch) -> Script:
    """In place of what a model in this process would say."""
    script = Script()
    monkeypatch.setattr(TransformersBackend, "sample", lambda _, *arguments: script.sample(*arguments))
    return script


def evaluated(write_recipe, run_dir, model=None, **section) -> dict:
    """What scores.json says after an evaluation; `model` is a section of the recipe, or a folder, or none."""
    model = {"name": str(model)} if isinstance(model, Path) else model or {}
    run_dir.mkdir(exist_ok=True)
    evaluate.evaluate(load_recipe(write_recipe(step="evaluate", model=model, evaluate=section)), run_dir)
    return json.loads((run_dir / "scores.json").read_text())


@pytest.mark.parametrize(
    ("chat_template", "message"),
    [
        (CHAT_TEMPLATE.replace("add_generation_prompt", "false"), "renders no generation prompt"),
        (CHAT_TEMPLATE.replace("'" + EOS + "'", "''"), "ends an answer without any token"),
    ],
)
def test_a_template_is_refused_before_anything_is_sampled(
    chat_template, message, smallest_model, write_recipe, tmp_path, script
):
    (tmp_path / "template.jinja").write_text(chat_template)
    with pytest.raises(RecipeError, match=message) as error:
        model = {"name": str(smallest_model), "chat_template": "./template.jinja"}
        evaluated(write_recipe, tmp_path, model, benchmarks=["tiny_sums"])
    assert str(error.value).startswith(f"{tmp_path / 'recipe.yaml'}: the chat template of model '{smallest_model}' ")
    assert "\n" not in str(error.value) and script.asked == []


def test_all_models_are_looked_at_before_the_first_is_sampled(smallest_model, write_recipe, tmp_path, script):
    AutoTokenizer.from_pretrained(smallest_model).save_pretrained(tmp_path / "bare")
    (tmp_path / "bare" / "chat_template.jinja").unlink()
    models = {"good": str(smallest_model), "bare": str(tmp_path / "bare")}
    with pytest.raises(RecipeError, match="chat template of model '.*/bare' is missing"):
        evaluated(write_recipe, tmp_path, benchmarks=["tiny_sums"], models=models, num_problems=2)
    assert script.asked == []


# --- truncated completions -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("num_cut", "max_share", "refused"),
    [(6, 0.5, True), (5, 0.5, False), (6, None, False), (1, 0.05, True), (10, 1.0, False)],
)
def test_a_score_of_truncated_completions(num_cut, max_share, refused, smallest_model, write_recipe, tmp_path, script):
    script.num_cut = num_cut
    entry = evaluated(
        write_recipe,
        tmp_path,
        smallest_model,
        benchmarks=["tiny_sums"],
        num_problems=10,
        max_truncated_share=max_share,
    )["model"]["benchmarks"]["tiny_sums"]
    assert ("refused" in entry, entry["pass@1"] is None) == (refused, refused)
    assert (entry["truncated_share"], entry["num_problems"], entry["unjudged"]) == (num_cut / 10, 10, 0)
    if refused:
        assert entry["refused"].startswith(
            f"{10 * num_cut} % of the completions were cut off at 80 tokens or the model's 128 positions "
            f"(evaluate.max_truncated_share: {max_share})"
        )
        assert (entry["pass@1_interval"], entry["pass@k"]) == (None, {}) and "lighteval" not in entry
    rows = parquet.read_table(tmp_path / "completions/model-tiny_sums.parquet").to_pylist()
    assert [row["completions"] for row in rows] == [["<think></think>1"]] * 10  # they stay, to be looked at


def test_a_refused_score_does_not_keep_the_next_from_being_taken(smallest_model, write_recipe, tmp_path, script):
    script.num_cut = 10
    models = {label: str(smallest_model) for label in ("first", "second")}
    scores = evaluated(write_recipe, tmp_path, benchmarks=["tiny_sums"], models=models, num_problems=10)
    assert [score["benchmarks"]["tiny_sums"]["pass@1"] for score in scores.values()] == [None, None]
    assert len(script.asked) == 2


# --- positions -------------------------------------------------------------------------------------------------------


def test_the_limit_is_lowered_to_the_models_positions(smallest_model, write_recipe, tmp_path, script, caplog):
    section = {"benchmarks": ["tiny_sums"], "num_problems": 3, "max_new_tokens": 500}
    entry = evaluated(write_recipe, tmp_path, smallest_model, **section)["model"]["benchmarks"]["tiny_sums"]
    rows = parquet.read_table(tmp_path / "completions/model-tiny_sums.parquet").to_pylist()
    room = 128 - 2 - min(len(row["prompt"]) for row in rows)  # a token a character, and the two roles
    assert entry["max_new_tokens"] == script.asked[0].max_new_tokens == room
    assert f"at most {room} tokens, as the model has 128 positions" in caplog.text


def test_completions_past_the_models_positions_are_truncated(smallest_model, write_recipe, tmp_path, script):
    copy = tmp_path / "math.jsonl"
    copy.write_text(json.dumps({"problem": "1+1?", "solution": "$2$"}) + "\n")  # LightEval's own words are over 128
    section = {"benchmarks": ["math_500"], "copies": {"math_500": str(copy)}, "samples": 1, "max_new_tokens": 50}
    scores = evaluated(write_recipe, tmp_path, smallest_model, **section)
    entry = scores["model"]["benchmarks"]["math_500"]
    assert entry["refused"].startswith(
        "100 % of the completions were cut off at 50 tokens or the model's 128 positions"
    )
    assert parquet.read_table(tmp_path / "completions/model-math_500.parquet")["truncated"].to_pylist() == [[True]]
