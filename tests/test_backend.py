"""Sampling with transformers in this process: seeds, wanted rows, and what ends a completion."""

import pytest
from conftest import TINY

from open_r1.generation import Sampling
from open_r1.generation.transformers_backend import TransformersBackend
from open_r1.modeling import load_model, load_tokenizer
from open_r1.recipe import Model, Recipe

QUESTIONS = ["1+2=?", "1+2+3+4+5+6+7=?", "9+9+9=?"]
CONVERSATIONS = [[{"role": "user", "content": question}] for question in QUESTIONS]
SAMPLING = Sampling(temperature=1.0, top_p=1.0, max_new_tokens=24, num_samples=3, batch_size=4, seed=5)


@pytest.fixture(scope="module")
def backend():
    recipe = Recipe(step="generate", model=Model(name=str(TINY / "models" / "teacher")))
    return TransformersBackend(load_model(recipe), load_tokenizer(recipe))


@pytest.fixture(scope="module")
def everything(backend):
    return dict(backend.sample(CONVERSATIONS, SAMPLING))


def test_every_row_is_sampled_once(everything, backend):
    assert sorted(everything) == [(index, sample) for index in range(3) for sample in range(3)]
    assert backend.counts() == {}


@pytest.mark.parametrize("wanted", [{(0, 0)}, {(1, 2), (2, 0)}, set()])
def test_rows_have_the_same_text_whichever_are_wanted_beside_them(wanted, everything, backend):
    assert dict(backend.sample(CONVERSATIONS, SAMPLING, wanted)) == {row: everything[row] for row in wanted}


def test_another_seed_gives_other_text(everything, backend):
    other = dict(backend.sample(CONVERSATIONS, Sampling(**{**vars(SAMPLING), "seed": 6})))
    assert other != everything


def test_no_two_batches_have_the_same_draws(backend):
    sampling = Sampling(**{**vars(SAMPLING), "num_samples": 8, "batch_size": 4})
    texts = [completion.text for _, completion in backend.sample(CONVERSATIONS[:1], sampling)]
    assert texts[:4] != texts[4:]


def test_completion_ends_at_any_stop_token_of_the_model(everything, backend, monkeypatch):
    newline = backend.tokenizer.convert_tokens_to_ids("+")
    monkeypatch.setattr(backend.model.generation_config, "eos_token_id", [backend.tokenizer.eos_token_id, newline])
    completions = dict(backend.sample(CONVERSATIONS, SAMPLING)).values()
    ended = [completion for completion in completions if not completion.truncated]
    assert any(completion.token_ids[-1] == newline for completion in ended)
    assert all(newline not in completion.token_ids[:-1] for completion in completions)
