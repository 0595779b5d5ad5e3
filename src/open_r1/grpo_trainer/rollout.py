"""Sampling with `model.generate` that pays for no row that has ended and for each prompt once, and tells who has ended.

What is sampled has the distribution that one plain call gives: rows do not see each other, so it does not matter which
of them share a call. Only the order in which random numbers are drawn differs.

Shapes: N rows, P columns of their left-padded prompts, T columns of prompts and completions.
"""

import contextlib
import copy
import functools
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from transformers import DynamicCache, GenerationConfig, PreTrainedModel, StoppingCriteria, StoppingCriteriaList
from transformers.cache_utils import DynamicLayer
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
from transformers.integrations.fsdp import is_fsdp_managed_module

OnFinished = Callable[[list[int], list[list[int]]], None]
"""Takes the positions of rows that have ended, and their completions' token ids, EOS included and padding not."""

TOKENS_BETWEEN_LOOKS = 4  # rows that have ended are looked for so often, and go on being computed until then
SHARE_TO_GO_ON = 0.85  # of the rows of a call: with fewer left, a call of these alone is worth its start
# What a generation config may say: where it says more, the call is left as it is.
OF_EACH_ROW_ALONE = (
    *("do_sample", "temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff"),
    *("repetition_penalty", "no_repeat_ngram_size", "suppress_tokens", "renormalize_logits", "remove_invalid_values"),
    *("max_new_tokens", "pad_token_id", "bos_token_id", "eos_token_id"),
)
WITHOUT_EFFECT_HERE = (  # of encoders, of beams, of assistants; max_new_tokens goes before max_length
    *("max_length", "disable_compile", "transformers_version", "decoder_start_token_id", "length_penalty"),
    *("encoder_repetition_penalty", "num_assistant_tokens", "num_assistant_tokens_schedule"),
    *("assistant_confidence_threshold", "assistant_lookbehind", "target_lookbehind", "_from_model_config"),
)
NEUTRAL = {"use_cache": True, "cache_implementation": "dynamic", "num_beams": 1, "num_return_sequences": 1}
NEUTRAL |= {"num_beam_groups": 1, "guidance_scale": 1.0}


class Sampler:
    """Samples as `model.generate` does, at most `rows_that_fit` rows at a time.

    Whoever runs out of memory goes on with half as many, from the tokens that there are; `rows_that_fit` (None where
    nothing ever failed, and no limit was given) then has what fitted, and is to be kept beside checkpoints.
    """

    def __init__(self, max_batch_size: int | None = None):
        self.rows_that_fit = max_batch_size

    def sample(
        self,
        model: PreTrainedModel,
        generate: Callable[..., torch.Tensor],
        on_finished: OnFinished | None = None,
        **inputs,
    ) -> torch.Tensor:
        """What `generate(**inputs)` returns: [N, T] ids, padded after EOS.

        `generate` is the model's own. Inputs beside input_ids, attention_mask and generation_config, a generation
        config for more than sampling row by row, processes that have to stay in step, and models whose cache cannot be
        cut to some of its rows, have one plain call. `on_finished` is called once for each row, there only at the end.
        """
        config = _row_by_row(model, inputs)
        if config is None:
            ids_NT = generate(**inputs)
            if on_finished is not None:
                completions_NC = ids_NT[:, inputs["input_ids"].shape[1] :]
                eos = _eos_tokens(_merged(model, inputs["generation_config"]), ids_NT.device)
                on_finished(list(range(len(ids_NT))), _until_eos(completions_NC, eos))
            return ids_NT
        prompts_NP = inputs["input_ids"]
        eos = _eos_tokens(config, prompts_NP.device)
        rollout = _Rollout(model, generate, config, eos, prompts_NP.shape[1], on_finished)
        self._sample_all(rollout, _Piece(list(range(len(prompts_NP))), prompts_NP, inputs["attention_mask"]))
        width = max(map(len, rollout.completions.values()))
        completions_NC = torch.full((len(prompts_NP), width), _pad_token(config), dtype=prompts_NP.dtype)
        for row, ids in rollout.completions.items():
            completions_NC[row, : len(ids)] = torch.tensor(ids)
        return torch.cat([prompts_NP, completions_NC.to(prompts_NP.device)], dim=1)

    def _sample_all(self, rollout: "_Rollout", piece: "_Piece") -> None:
        pieces = [piece]
        while pieces:
            piece = pieces.pop(0)
            num_rows = len(piece.rows)
            if self.rows_that_fit is not None and num_rows > self.rows_that_fit:
                pieces[:0] = piece.split(self.rows_that_fit)
                continue
            ran_out = False
            try:
                rollout.finish(piece)
            except torch.OutOfMemoryError:
                if len(piece.rows) == 1:
                    raise
                ran_out = True
            if ran_out:  # not in the handler: there the exception still holds the cache
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
                self.rows_that_fit = num_rows // 2
                rollout.take_up(piece)
                if piece.rows:
                    pieces[:0] = piece.split(-(-len(piece.rows) // 2))


@contextlib.contextmanager
def sampling_with(model: PreTrainedModel, sampler: Sampler, on_finished: OnFinished | None = None) -> Iterator[None]:
    """Within it, `model.generate` is the sampler's; the model may be a PeftModel."""
    generate = model.generate
    model.generate = lambda **inputs: sampler.sample(model, generate, on_finished, **inputs)
    try:
        yield
    finally:
        del model.generate  # the class has its own


@dataclass
class _Piece:
    """Rows that go through the model together, all of the same length so far, and none of them at its end."""

    rows: list[int]
    ids_NT: torch.Tensor
    mask_NT: torch.Tensor
    watch: "_Watch | None" = None
    """Of the call that is on its way."""

    def split(self, num_rows: int) -> list["_Piece"]:
        return [
            _Piece(self.rows[start:end], self.ids_NT[start:end], self.mask_NT[start:end])
            for start in range(0, len(self.rows), num_rows)
            for end in [start + num_rows]
        ]


@dataclass
class _Rollout:
    """One call's model and settings, and the completions that have ended."""

    model: PreTrainedModel
    generate: Callable[..., torch.Tensor]
    config: GenerationConfig
    eos: torch.Tensor
    prompt_width: int
    on_finished: OnFinished | None
    completions: dict[int, list[int]] = field(default_factory=dict)
    """Token ids by row."""

    def finish(self, piece: _Piece) -> None:
        """Samples all rows of a piece to their ends, in calls of ever fewer rows."""
        cache = self._prefilled(piece)
        while piece.rows:
            self._call(piece, cache)
            left = self.take_up(piece)
            if not piece.rows:
                return
            if cache.get_seq_length() == piece.ids_NT.shape[1] - 1:
                cache.batch_select_indices(left)
            else:  # the model keeps what it has seen in another way
                cache = _cache_of(self.model)

    def take_up(self, piece: _Piece) -> torch.Tensor:
        """Lets rows that have ended go, those at the limit included; the positions of the others in the piece."""
        watch, piece.watch = piece.watch, None
        if watch is None:  # it has not come as far as the first call
            return torch.arange(len(piece.rows), device=piece.ids_NT.device)
        watch.look()
        piece.ids_NT = watch.ids_NT
        if self._tokens_left(piece) == 0:
            watch.report(torch.ones_like(watch.ended_N))
        left = (~watch.ended_N).nonzero().flatten()
        piece.rows = [piece.rows[position] for position in left.tolist()]
        piece.ids_NT = piece.ids_NT[left]
        new_mask = piece.mask_NT.new_ones((len(left), piece.ids_NT.shape[1] - piece.mask_NT.shape[1]))
        piece.mask_NT = torch.cat([piece.mask_NT[left], new_mask], dim=1)
        return left

    def _call(self, piece: _Piece, cache: DynamicCache) -> None:
        config = copy.copy(self.config)
        config.max_new_tokens = self._tokens_left(piece)
        piece.watch = _Watch(piece.ids_NT, self.eos, functools.partial(self._let_go, piece.rows))
        self.generate(
            input_ids=piece.ids_NT,
            attention_mask=piece.mask_NT,
            generation_config=config,
            stopping_criteria=StoppingCriteriaList([piece.watch]),
            past_key_values=cache,
        )

    def _tokens_left(self, piece: _Piece) -> int:
        return self.config.max_new_tokens - (piece.ids_NT.shape[1] - self.prompt_width)

    def _let_go(self, rows_of_call: list[int], ended_N: torch.Tensor, ids_NT: torch.Tensor) -> None:
        positions = ended_N.nonzero().flatten()
        rows = [rows_of_call[position] for position in positions.tolist()]
        completions = _until_eos(ids_NT[positions, self.prompt_width :], self.eos)
        self.completions |= zip(rows, completions, strict=True)
        if self.on_finished is not None:
            self.on_finished(rows, completions)

    def _prefilled(self, piece: _Piece) -> DynamicCache:
        """A cache with all but the last token of each row, or an empty one where few rows are the same."""
        cache = _cache_of(self.model)
        width = piece.ids_NT.shape[1]
        unique, owners_N = torch.cat([piece.ids_NT, piece.mask_NT], dim=1).unique(dim=0, return_inverse=True)
        if width == 1 or 2 * len(unique) > len(piece.rows):
            return cache
        config = copy.copy(self.config)
        config.max_new_tokens = 1  # of which only what comes before is of use
        ids, mask = unique[:, : width - 1], unique[:, width : 2 * width - 1]
        self.generate(input_ids=ids, attention_mask=mask, generation_config=config, past_key_values=cache)
        if cache.get_seq_length() != width - 1:
            return _cache_of(self.model)
        cache.batch_select_indices(owners_N)
        return cache


class _Watch(StoppingCriteria):
    """Sees each token of a call, reports rows that have ended, and ends the call when enough of them have."""

    def __init__(self, ids_NT: torch.Tensor, eos: torch.Tensor, report: Callable[[torch.Tensor, torch.Tensor], None]):
        self.ids_NT = ids_NT
        self.ended_N = torch.zeros(len(ids_NT), dtype=torch.bool, device=ids_NT.device)
        self._eos, self._report = eos, report
        self._looked_at = ids_NT.shape[1]
        self._is_enough = self.ended_N.clone()

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **kwargs) -> torch.BoolTensor:
        self.ids_NT = input_ids
        if input_ids.shape[1] - self._looked_at >= TOKENS_BETWEEN_LOOKS:
            self.look()
            if len(input_ids) - int(self.ended_N.sum()) < SHARE_TO_GO_ON * len(input_ids):
                self._is_enough = torch.ones_like(self.ended_N)
        return self._is_enough

    def look(self) -> None:
        """Reports the rows that have ended since the last look."""
        new_tokens = self.ids_NT[:, self._looked_at :]
        self._looked_at = self.ids_NT.shape[1]
        self.report(torch.isin(new_tokens, self._eos).any(dim=1))

    def report(self, ended_N: torch.Tensor) -> None:
        """Reports these, but for those that have been."""
        ended_N = ended_N & ~self.ended_N
        if ended_N.any():
            self.ended_N = self.ended_N | ended_N
            self._report(ended_N, self.ids_NT)


def _cache_of(model: PreTrainedModel) -> DynamicCache | None:
    """An empty cache for a model all of whose layers attend to everything; None for another model."""
    if "past_key_values" not in inspect.signature(model.forward).parameters or model.config.is_encoder_decoder:
        return None
    cache = DynamicCache(config=model.config)
    return cache if all(type(layer) is DynamicLayer for layer in cache.layers) else None


def _row_by_row(model: PreTrainedModel, inputs: dict) -> GenerationConfig | None:
    """The settings of a call that can go on with some of its rows alone; None for a call that cannot."""
    if inputs.keys() != {"input_ids", "attention_mask", "generation_config"}:
        return None
    in_step = is_deepspeed_zero3_enabled() or is_fsdp_managed_module(model)
    deferred = inputs["input_ids"].device.type == "mps"  # there generate takes back a token that we would have seen
    config = _merged(model, inputs["generation_config"])
    known = {*OF_EACH_ROW_ALONE, *WITHOUT_EFFECT_HERE}
    more = [
        key
        for key, value in config.to_dict().items()
        if key not in known and value is not None and value != NEUTRAL.get(key, False)
    ]
    if in_step or deferred or more or config.max_new_tokens is None or _cache_of(model) is None:
        return None
    return config


def _merged(model: PreTrainedModel, config: GenerationConfig) -> GenerationConfig:
    """The config with the model's own settings where it has none, as `generate` sees it."""
    merged = copy.deepcopy(config)
    merged.update(**model.generation_config.to_dict(), defaults_only=True, allow_custom_entries=True)
    return merged


def _eos_tokens(config: GenerationConfig, device: torch.device) -> torch.Tensor:
    eos = [] if config.eos_token_id is None else config.eos_token_id
    return torch.tensor(eos, dtype=torch.long, device=device).view(-1)


def _pad_token(config: GenerationConfig) -> int:
    if config.pad_token_id is not None:
        return config.pad_token_id
    eos = _eos_tokens(config, torch.device("cpu"))
    return int(eos[0]) if len(eos) else 0  # without EOS nothing is padded


def _until_eos(completions_NC: torch.Tensor, eos: torch.Tensor) -> list[list[int]]:
    is_eos = torch.isin(completions_NC, eos)
    ends = torch.where(is_eos.any(dim=1), is_eos.int().argmax(dim=1) + 1, completions_NC.shape[1]).tolist()
    return [ids[:end] for ids, end in zip(completions_NC.tolist(), ends, strict=True)]
