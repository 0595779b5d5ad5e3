"""Sampling that lets ended rows go: the same tokens as one plain call, each row told once, whatever memory allows."""

import functools
from collections import Counter

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LogitsProcessorList,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    StoppingCriteriaList,
)

from open_r1.grpo_trainer import rollout
from open_r1.grpo_trainer.rollout import Sampler, sampling_with

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "initializer_range": 0.6,  # large, so that what is likely differs between rows
    "tie_word_embeddings": False,
    "bos_token_id": None,
    "eos_token_id": None,
}
PAD = 0
EOS = [1, 2, 3]
NO_TOKEN = 99
PROMPTS = [[5, 6, 7, 8, 9], [10], [11, 12, 13], [5, 6]]
MANY_PROMPTS = [[token, *range(4, 4 + token % 5)] for token in range(4, 28)]


def llama(vocab_size: int = 40, **sizes) -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(vocab_size=vocab_size, **{**SIZES, **sizes})).eval()


def mistral() -> MistralForCausalLM:
    torch.manual_seed(0)
    return MistralForCausalLM(MistralConfig(vocab_size=40, sliding_window=4, **SIZES)).eval()


def with_adapter() -> torch.nn.Module:
    model = get_peft_model(llama(), LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    return model.eval()


@pytest.fixture(scope="module")
def model():
    return llama()


def inputs_of(prompts: list[list[int]], num_generations: int, **settings) -> dict:
    """Left-padded prompts, so many times each, and what the trainer says beside it."""
    rows = [prompt for prompt in prompts for _ in range(num_generations)]
    width = max(map(len, rows))
    settings = {"max_new_tokens": 24, "do_sample": False, "pad_token_id": PAD, "eos_token_id": EOS} | settings
    return {
        "input_ids": torch.tensor([[PAD] * (width - len(row)) + row for row in rows]),
        "attention_mask": torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows]),
        "generation_config": GenerationConfig(**settings, disable_compile=True),
    }


class Told:
    """What on_finished was told, in the order in which it was."""

    def __init__(self):
        self.rows: list[int] = []
        self.completions: list[list[int]] = []

    def __call__(self, rows: list[int], completions: list[list[int]]) -> None:
        self.rows += rows
        self.completions += completions


def completions_of(ids_NT: torch.Tensor, inputs: dict, eos: list[int]) -> list[list[int]]:
    """The completions up to and including EOS."""
    completions = []
    for ids in ids_NT[:, inputs["input_ids"].shape[1] :].tolist():
        ends = [position for position, token in enumerate(ids) if token in eos]
        completions.append(ids[: ends[0] + 1] if ends else ids)
    return completions


def assert_as_plain(model, sampler: Sampler, inputs: dict, eos: list[int] = EOS) -> list[list[int]]:
    """The completions, which are those of one plain call, and of which each was told once."""
    plain_NT = model.generate(**inputs)
    told = Told()
    with sampling_with(model, sampler, told):
        sampled_NT = model.generate(**inputs)
    assert sampled_NT.tolist() == plain_NT.tolist()
    completions = completions_of(plain_NT, inputs, eos)
    assert sorted(told.rows) == list(range(len(completions)))
    assert [ids for _, ids in sorted(zip(told.rows, told.completions, strict=True))] == completions
    return completions


class Forwards:
    """Counts what a model's forward passes compute, and lets some of them run out of memory."""

    def __init__(self, model, monkeypatch, max_rows: float = float("inf"), failing: tuple[int, ...] = ()):
        self.num_rows: list[int] = []
        forward = model.forward

        @functools.wraps(forward)
        def counted(*args, **kwargs):
            self.num_rows.append(len(kwargs["input_ids"]))
            if self.num_rows[-1] > max_rows or len(self.num_rows) in failing:
                raise torch.OutOfMemoryError("no memory left")
            return forward(*args, **kwargs)

        monkeypatch.setattr(model, "forward", counted)


# ---- the same tokens as a plain call


@pytest.mark.parametrize("max_batch_size", [None, 1, 3, 5, 100])
@pytest.mark.parametrize(
    "prompts, num_generations",
    [(PROMPTS, 4), (PROMPTS, 1), (PROMPTS[:1], 1), (PROMPTS[:1], 6), ([[4], [9], [14]], 2), ([[4]], 1)],
    ids=["groups", "each once", "one row", "one prompt", "width 1", "one token"],
)
def test_ids_are_those_of_a_plain_call(model, prompts, num_generations, max_batch_size):
    assert_as_plain(model, Sampler(max_batch_size), inputs_of(prompts, num_generations))


def test_rows_end_at_different_steps(model):
    completions = assert_as_plain(model, Sampler(), inputs_of(MANY_PROMPTS, 1))
    assert len(set(map(len, completions))) > 5


def test_rows_that_never_end(model):
    completions = assert_as_plain(model, Sampler(), inputs_of(PROMPTS, 2, eos_token_id=NO_TOKEN), eos=[NO_TOKEN])
    assert {len(ids) for ids in completions} == {24}


def test_rows_that_all_end_at_once(model):
    first_token = model.generate(**inputs_of([[4]], 1, max_new_tokens=1))[0, -1].item()
    completions = assert_as_plain(model, Sampler(), inputs_of([[4]], 3, eos_token_id=first_token), eos=[first_token])
    assert completions == [[first_token]] * 3


def test_without_eos_there_is_no_end(model):
    assert_as_plain(model, Sampler(), inputs_of(PROMPTS, 2, eos_token_id=None, pad_token_id=None), eos=[])


def test_without_a_padding_token_rows_are_padded_with_eos(model):
    completions = assert_as_plain(model, Sampler(), inputs_of(MANY_PROMPTS, 1, pad_token_id=None))
    assert len(set(map(len, completions))) > 1


def test_end_and_padding_of_the_model_hold_where_the_call_has_none(monkeypatch):
    model = llama()
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = EOS, 30
    for settings in ({}, {"num_beams": 2}):  # with and without rows that can go
        inputs = inputs_of(MANY_PROMPTS, 1, eos_token_id=None, pad_token_id=None, **settings)
        completions = assert_as_plain(model, Sampler(), inputs)
        assert len(set(map(len, completions))) > 1


@pytest.mark.parametrize("make", [mistral, with_adapter])
def test_models_of_other_kinds(make):
    model = make()
    for max_batch_size in (None, 5):
        assert_as_plain(model, Sampler(max_batch_size), inputs_of(MANY_PROMPTS[:8], 2))


def test_an_adapter_counts():
    inputs = inputs_of(PROMPTS, 1)
    adapted = with_adapter()
    with adapted.disable_adapter():
        without_NT = adapted.generate(**inputs)
    assert adapted.generate(**inputs).tolist() != without_NT.tolist()


@pytest.mark.parametrize(
    "settings",
    [
        {"repetition_penalty": 1.8},
        {"no_repeat_ngram_size": 2},
        {"suppress_tokens": list(range(10, 25))},
        {"min_new_tokens": 9},
        {"max_new_tokens": None, "max_length": 17},
        {"do_sample": True, "top_k": 1},
        {"do_sample": True, "top_p": 1e-6},
        {"do_sample": True, "temperature": 1e-6},
    ],
    ids=lambda settings: str(next(reversed(settings))),
)
def test_settings_hold(model, settings):
    inputs = inputs_of(MANY_PROMPTS, 2, **settings)
    without = inputs_of(MANY_PROMPTS, 2, do_sample=settings.get("do_sample", False))
    assert model.generate(**inputs).tolist() != model.generate(**without).tolist()
    assert_as_plain(model, Sampler(), inputs)


# ---- no row for nothing


def test_prompts_are_computed_once_and_ended_rows_not_again(model, monkeypatch):
    inputs = inputs_of(MANY_PROMPTS, 4)
    forwards = Forwards(model, monkeypatch)
    completions = assert_as_plain(model, Sampler(), inputs)
    num_rows, longest = 4 * len(MANY_PROMPTS), max(map(len, completions))
    plain, (prefill, *decoding) = forwards.num_rows[:longest], forwards.num_rows[longest:]
    assert plain == [num_rows] * longest
    assert prefill == len(MANY_PROMPTS)
    for step, computed in enumerate(decoding, start=1):
        unfinished = sum(len(ids) > step for ids in completions)
        assert unfinished <= computed <= unfinished / rollout.SHARE_TO_GO_ON


def test_rows_are_told_as_soon_as_they_end(model, monkeypatch):
    forwards = Forwards(model, monkeypatch)
    told_at = {}
    with sampling_with(model, Sampler(), lambda rows, _: told_at.update(dict.fromkeys(rows, len(forwards.num_rows)))):
        ids_NT = model.generate(**(inputs := inputs_of(MANY_PROMPTS, 2)))
    completions = completions_of(ids_NT, inputs, EOS)
    assert told_at == {row: len(ids) for row, ids in enumerate(completions)}


# ---- the same distribution as a plain call


def probabilities(model, prompt: list[int], num_tokens: int, eos: int) -> dict[tuple[int, ...], float]:
    """Of every completion of at most so many tokens."""
    done, open_ = {}, {(): 1.0}
    for _ in range(num_tokens):
        longer = {}
        logits = model(input_ids=torch.tensor([[*prompt, *tokens] for tokens in open_])).logits[:, -1]
        for (tokens, probability), share_V in zip(open_.items(), logits.softmax(dim=-1).tolist(), strict=True):
            for token, share in enumerate(share_V):
                (done if token == eos else longer)[*tokens, token] = probability * share
        open_ = longer
    return done | open_


def chi_square(counts: Counter, expected: dict[tuple[int, ...], float]) -> tuple[float, int]:
    """The statistic and its degrees of freedom; what is expected less than 5 times counts as one."""
    rare = {cell for cell, number in expected.items() if number < 5}
    cells = [(counts[cell], number) for cell, number in expected.items() if cell not in rare]
    cells.append((sum(counts[cell] for cell in rare), sum(expected[cell] for cell in rare)))
    return sum((count - number) ** 2 / number for count, number in cells if number), len(cells) - 1


@torch.no_grad()
@pytest.mark.parametrize("max_batch_size", [None, 700])
def test_what_is_sampled_has_the_distribution_of_the_model(max_batch_size):
    model = llama(vocab_size=6, initializer_range=0.3)
    prompts, eos, num_samples = [[4, 5, 3, 4], [5], [2, 2]], 1, 2000
    inputs = inputs_of(prompts, num_samples, do_sample=True, temperature=1.0, max_new_tokens=3, eos_token_id=eos)
    torch.manual_seed(1)
    with sampling_with(model, Sampler(max_batch_size)):
        completions = completions_of(model.generate(**inputs), inputs, [eos])
    for number, prompt in enumerate(prompts):
        counts = Counter(map(tuple, completions[number * num_samples : (number + 1) * num_samples]))
        of_model = probabilities(model, prompt, num_tokens=3, eos=eos)
        assert counts.keys() <= of_model.keys()
        statistic, freedom = chi_square(counts, {cell: p * num_samples for cell, p in of_model.items()})
        assert freedom > 20
        assert statistic < freedom + 3 * (2 * freedom) ** 0.5


# ---- memory that runs out


@pytest.mark.parametrize("failing", [(1,), (2,), (4,), (7,), (1, 2), (3, 9), (2, 5, 11)])
def test_rows_go_on_where_memory_ran_out(model, monkeypatch, failing):
    inputs = inputs_of(PROMPTS, 4)
    plain_NT = model.generate(**inputs)
    Forwards(model, monkeypatch, failing=failing)
    sampler, told = Sampler(), Told()
    with sampling_with(model, sampler, told):
        assert model.generate(**inputs).tolist() == plain_NT.tolist()
    assert sampler.rows_that_fit <= 16 // 2
    assert sorted(told.rows) == list(range(16))


@pytest.mark.parametrize("failing", range(2, 16))
def test_rows_that_had_ended_stay_as_they_are_where_memory_ran_out(model, monkeypatch, failing):
    inputs = inputs_of(MANY_PROMPTS, 3)  # so many that a few ended ones are still in the cache
    plain_NT = model.generate(**inputs)
    Forwards(model, monkeypatch, failing=(failing,))
    told = Told()
    with sampling_with(model, Sampler(), told):
        assert model.generate(**inputs).tolist() == plain_NT.tolist()
    assert sorted(told.rows) == list(range(len(plain_NT)))


def test_rows_that_fit_are_halved_and_kept(model, monkeypatch):
    inputs = inputs_of(MANY_PROMPTS[:20], 1)
    plain_NT = model.generate(**inputs)
    forwards = Forwards(model, monkeypatch, max_rows=7)
    sampler = Sampler()
    for first_tries in ([20, 10, 5], [5]):
        forwards.num_rows.clear()
        with sampling_with(model, sampler):
            assert model.generate(**inputs).tolist() == plain_NT.tolist()
        assert forwards.num_rows[: len(first_tries)] == first_tries
        assert max(forwards.num_rows[len(first_tries) :]) <= 5
        assert sampler.rows_that_fit == 5


def test_a_limit_is_kept(model, monkeypatch):
    forwards = Forwards(model, monkeypatch)
    sampler = Sampler(max_batch_size=6)
    with sampling_with(model, sampler):
        model.generate(**inputs_of(PROMPTS, 4, eos_token_id=NO_TOKEN))
    assert max(forwards.num_rows) == 6
    assert sampler.rows_that_fit == 6


def test_a_single_row_without_memory_is_an_error(model, monkeypatch):
    Forwards(model, monkeypatch, max_rows=0)
    sampler = Sampler()
    with sampling_with(model, sampler), pytest.raises(torch.OutOfMemoryError):
        model.generate(**inputs_of(PROMPTS, 2))
    assert sampler.rows_that_fit == 1


# ---- calls that are left as they are


@pytest.mark.parametrize(
    "settings",
    [
        {"num_beams": 2},
        {"use_cache": False},
        {"cache_implementation": "static"},
        {"guidance_scale": 1.5},
        {"prompt_lookup_num_tokens": 2},
    ],
    ids=str,
)
def test_settings_that_need_one_plain_call(model, settings):
    prompts, num_generations = (PROMPTS[:1], 1) if "prompt_lookup_num_tokens" in settings else (PROMPTS, 2)
    assert_one_plain_call(model, inputs_of(prompts, num_generations, **settings))


@pytest.mark.parametrize(
    "more",
    [
        {"stopping_criteria": StoppingCriteriaList([lambda ids, _: torch.full((len(ids),), ids.shape[1] > 9)])},
        {"logits_processor": LogitsProcessorList([lambda _, scores: -scores])},
        {"position_ids": torch.arange(5).expand(8, 5)},
    ],
    ids=lambda more: next(iter(more)),
)
def test_inputs_that_need_one_plain_call(model, more):
    assert_one_plain_call(model, inputs_of(PROMPTS, 2) | more)


def test_models_that_need_one_plain_call():
    assert_one_plain_call(mamba(), inputs_of(PROMPTS, 2))


def test_processes_in_step_need_one_plain_call(model, monkeypatch):
    monkeypatch.setattr(rollout, "is_deepspeed_zero3_enabled", lambda: True)
    assert_one_plain_call(model, inputs_of(PROMPTS, 2))


def mamba() -> MambaForCausalLM:
    torch.manual_seed(0)
    return MambaForCausalLM(MambaConfig(vocab_size=40, hidden_size=16, num_hidden_layers=1, state_size=4)).eval()


def assert_one_plain_call(model, inputs: dict) -> None:
    plain = []
    generate = model.generate

    def watched(**given):
        ids = generate(**given)
        plain.append("custom_generate" not in given)  # not reached by the call that is given up
        return ids

    told = Told()
    ids_NT = Sampler().sample(model, watched, told, **inputs)
    assert plain == [True]
    assert ids_NT.tolist() == generate(**inputs).tolist()
    assert told.rows == list(range(len(ids_NT)))
    assert told.completions == completions_of(ids_NT, inputs, EOS)


# ---- model.generate


@pytest.mark.parametrize("make", [llama, with_adapter])
def test_generate_is_the_models_own_again(make):
    model = make()
    with pytest.raises(KeyError), sampling_with(model, Sampler()):
        assert "generate" in vars(model)
        raise KeyError
    assert "generate" not in vars(model)
    model.generate(**inputs_of(PROMPTS, 1), num_beams=1)
