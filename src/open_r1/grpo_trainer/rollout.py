"""Sampling with `model.generate` that pays for no row that has ended and for each prompt once, and tells who has ended.

transformers prepares a call (inputs, logits processors, stopping criteria) and hands it to the loop over tokens that is
here, as `custom_generate`. Rows do not see each other, so that what is sampled has the distribution of a plain call
whoever shares a forward pass; only the order in which random numbers are drawn differs.

Shapes: N rows, T columns so far (left-padded prompts and completions), V tokens of the vocabulary.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn.functional import pad
from transformers import DynamicCache, GenerationConfig, LogitsProcessorList, PreTrainedModel, StoppingCriteriaList
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer
from transformers.generation import GenerationMode
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
from transformers.integrations.fsdp import is_fsdp_managed_module

OnFinished = Callable[[list[int], list[list[int]]], None]
"""Takes the positions of rows that have ended, and their completions' token ids, EOS included and padding not."""

# Of the rows in the cache: with more left, what they save is less than copying the cache of those that are left costs.
SHARE_TO_GO_ON = 0.95
PER_TOKEN = ("attention_mask", "position_ids")  # what a model takes beside the ids, [N, T] as they are
CUT_BY_ROWS = (DynamicLayer, DynamicSlidingWindowLayer)  # other layers of caches keep more than their batch


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

        `generate` is the model's own. Inputs beside input_ids, attention_mask and generation_config, beams and what
        else looks at several rows, processes that have to stay in step, and models whose cache cannot be cut to some
        of its rows, have one plain call. `on_finished` is called once for each row, there only at the end.
        """
        in_step = is_deepspeed_zero3_enabled() or is_fsdp_managed_module(model)
        if inputs.keys() == {"input_ids", "attention_mask", "generation_config"} and not in_step:
            with contextlib.suppress(_OnlyTogether):
                return generate(**inputs, custom_generate=functools.partial(self._sample, on_finished))
        ids_NT = generate(**inputs)
        if on_finished is not None:
            completions_NC = ids_NT[:, inputs["input_ids"].shape[1] :].tolist()
            eos = _eos_tokens(inputs["generation_config"]) or _eos_tokens(model.generation_config)
            on_finished(list(range(len(ids_NT))), [_until_eos(ids, eos) for ids in completions_NC])
        return ids_NT

    def _sample(
        self,
        on_finished: OnFinished | None,
        model: PreTrainedModel,
        input_ids: torch.LongTensor,
        logits_processor: LogitsProcessorList,
        stopping_criteria: StoppingCriteriaList,
        generation_config: GenerationConfig,
        **model_inputs,
    ) -> torch.Tensor:
        """The loop over tokens, as `generate` calls it with all that it has prepared."""
        per_token = {key: model_inputs.pop(key) for key in PER_TOKEN if key in model_inputs}
        cache = model_inputs.pop("past_key_values", None)
        if not _row_by_row(input_ids, per_token, cache, model_inputs, generation_config):
            raise _OnlyTogether
        rollout = _Rollout(
            model,
            model_inputs,
            logits_processor,
            stopping_criteria,
            generation_config.do_sample,
            input_ids.shape[1],
            on_finished,
        )
        pieces = [_Piece(list(range(len(input_ids))), input_ids, per_token)]
        while pieces:
            pieces[:1] = self._finish(rollout, pieces[0])
        width = max(map(len, rollout.completions.values()))
        pad_token = generation_config.pad_token_id
        if pad_token is None:
            pad_token = next(iter(_eos_tokens(generation_config)), 0)  # without EOS nothing is padded
        padded = [rollout.completions[row] for row in range(len(input_ids))]
        completions_NC = torch.tensor([ids + [pad_token] * (width - len(ids)) for ids in padded])
        return torch.cat([input_ids, completions_NC.to(input_ids.device)], dim=1)

    def _finish(self, rollout: "_Rollout", piece: "_Piece") -> list["_Piece"]:
        """Samples a piece's rows to their ends; what is left of it, in smaller pieces, where it is too large."""
        num_rows = len(piece.rows)
        if self.rows_that_fit is not None and num_rows > self.rows_that_fit:
            return piece.split(self.rows_that_fit)
        try:
            rollout.finish(piece)
            return []
        except torch.OutOfMemoryError:
            if num_rows == 1:
                raise
        # Not in the handler, where the exception still holds the cache.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self.rows_that_fit = num_rows // 2
        left = rollout.unfinished()
        return left.split(-(-len(left.rows) // 2))


@contextlib.contextmanager
def sampling_with(model: PreTrainedModel, sampler: Sampler, on_finished: OnFinished | None = None) -> Iterator[None]:
    """Within it, `model.generate` is the sampler's; the model may be a PeftModel."""
    generate = model.generate
    model.generate = lambda **inputs: sampler.sample(model, generate, on_finished, **inputs)
    try:
        yield
    finally:
        del model.generate  # the class has its own


class _OnlyTogether(Exception):
    """Rows of this call cannot go through the model in other company than each other's."""


@dataclass(frozen=True)
class _Piece:
    """Rows that go through the model together, all of the same length so far."""

    rows: list[int]
    ids_NT: torch.Tensor
    per_token: dict[str, torch.Tensor]

    def take(self, positions: list[int] | range) -> "_Piece":
        index = torch.tensor(positions, device=self.ids_NT.device)
        per_token = {key: value_NT[index] for key, value_NT in self.per_token.items()}
        return _Piece([self.rows[position] for position in positions], self.ids_NT[index], per_token)

    def split(self, num_rows: int) -> list["_Piece"]:
        count = len(self.rows)
        return [self.take(range(start, min(start + num_rows, count))) for start in range(0, count, num_rows)]

    def with_tokens(self, tokens_N: torch.Tensor) -> "_Piece":
        per_token = {"attention_mask": pad(self.per_token["attention_mask"], (0, 1), value=1)}
        if "position_ids" in self.per_token:
            positions_NT = self.per_token["position_ids"]
            per_token["position_ids"] = torch.cat([positions_NT, positions_NT[:, -1:] + 1], dim=1)
        return _Piece(self.rows, torch.cat([self.ids_NT, tokens_N[:, None]], dim=1), per_token)


@dataclass
class _Rollout:
    """One call's model and settings, and the completions that have ended."""

    model: PreTrainedModel
    model_inputs: dict[str, Any]
    processors: LogitsProcessorList
    criteria: StoppingCriteriaList
    do_sample: bool
    prompt_width: int
    on_finished: OnFinished | None
    completions: dict[int, list[int]] = field(default_factory=dict)
    """Token ids by row."""
    piece: _Piece | None = None
    """What is being sampled; still good where memory runs out."""

    def finish(self, piece: _Piece) -> None:
        """Samples all rows of a piece to their ends."""
        self.piece = piece
        cache, logits_NV = self._prefilled()
        ended_N = torch.zeros_like(piece.ids_NT[:, 0], dtype=torch.bool)
        while True:
            piece = self.piece.with_tokens(self._next_tokens(logits_NV))
            new_N = self.criteria(piece.ids_NT, None) & ~ended_N
            if new_N.any():
                ended_N |= new_N
                self._let_go(piece, new_N)
                left = (~ended_N).nonzero().flatten().tolist()
                if not left:
                    return
                if len(left) < SHARE_TO_GO_ON * len(piece.rows):
                    piece, ended_N = piece.take(left), ended_N[left]
                    cache.batch_select_indices(torch.tensor(left, device=ended_N.device))
            self.piece = piece
            logits_NV = self._logits(piece, cache, num_new_tokens=1)

    def unfinished(self) -> _Piece:
        """The rows of the piece in hand that have not ended, as far as they have come."""
        rows = self.piece.rows
        return self.piece.take([position for position, row in enumerate(rows) if row not in self.completions])

    def _prefilled(self) -> tuple[DynamicCache, torch.Tensor]:
        """The piece's cache, and the logits of its next tokens. Rows that are the same are computed once."""
        cache = DynamicCache(config=self.model.config)
        ids_and_mask = torch.cat([self.piece.ids_NT, self.piece.per_token["attention_mask"]], dim=1)
        unique, owners_N = ids_and_mask.unique(dim=0, return_inverse=True)
        if len(unique) == len(owners_N):
            return cache, self._logits(self.piece, cache)
        one_of_each = {owner: position for position, owner in enumerate(owners_N.tolist())}
        logits = self._logits(self.piece.take([one_of_each[owner] for owner in range(len(unique))]), cache)
        cache.batch_select_indices(owners_N)
        return cache, logits[owners_N]

    def _logits(self, piece: _Piece, cache: DynamicCache, num_new_tokens: int | None = None) -> torch.Tensor:
        """[N, V] logits of the next tokens; only this many of the ids are new to the cache, all if None."""
        inputs = self.model.prepare_inputs_for_generation(
            piece.ids_NT,
            next_sequence_length=num_new_tokens,
            past_key_values=cache,
            is_first_iteration=num_new_tokens is None,
            **piece.per_token,
            **self.model_inputs,
        )
        logits_NV = self.model(**inputs, return_dict=True).logits[:, -1].float()
        if cache.get_seq_length() != piece.ids_NT.shape[1]:
            raise _OnlyTogether  # the model keeps what it has seen in another way
        return logits_NV

    def _next_tokens(self, logits_NV: torch.Tensor) -> torch.Tensor:
        scores_NV = self.processors(self.piece.ids_NT, logits_NV)
        if not self.do_sample:
            return scores_NV.argmax(dim=-1)
        return torch.multinomial(scores_NV.softmax(dim=-1), num_samples=1).squeeze(1)

    def _let_go(self, piece: _Piece, ended_N: torch.Tensor) -> None:
        rows = [piece.rows[position] for position in ended_N.nonzero().flatten().tolist()]
        completions = piece.ids_NT[ended_N, self.prompt_width :].tolist()
        self.completions |= zip(rows, completions, strict=True)
        if self.on_finished is not None:
            self.on_finished(rows, completions)


def _row_by_row(
    ids_NT: torch.Tensor,
    per_token: dict[str, torch.Tensor],
    cache: Any,
    model_inputs: dict[str, Any],
    config: GenerationConfig,
) -> bool:
    """True if nothing in a call looks at several rows, or keeps more of them than the cache does."""
    return (
        config.get_generation_mode() in (GenerationMode.GREEDY_SEARCH, GenerationMode.SAMPLE)
        and not config.return_dict_in_generate
        and config.guidance_scale in (None, 1)
        and config.watermarking_config is None
        and config.prefill_chunk_size is None
        and "attention_mask" in per_token
        and all(value_NT.shape == ids_NT.shape for value_NT in per_token.values())
        and model_inputs.keys() <= {"use_cache", "logits_to_keep"}
        and type(cache) is DynamicCache
        and not cache.offloading
        and all(type(layer) in CUT_BY_ROWS for layer in cache.layers)
    )


def _eos_tokens(config: GenerationConfig) -> list[int]:
    eos = config.eos_token_id
    return [] if eos is None else [eos] if isinstance(eos, int) else list(eos)


def _until_eos(ids: list[int], eos: list[int]) -> list[int]:
    end = next((position for position, token in enumerate(ids) if token in eos), len(ids))
    return ids[: end + 1]
