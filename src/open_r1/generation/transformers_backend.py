"""Sampling with `model.generate`, in this process: for small models and for machines without vLLM."""

from collections.abc import Collection, Iterator, Sequence

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from open_r1.generation.sampling import Completion, Conversation, Meter, Row, Sampling, Tokens

SEEDS_APART = 1_000_003  # between two batches, so that no batch has the seed of another run's


class TransformersBackend:
    """Samples from a model in this process, until the tokenizer's EOS or one of the model's own ends a completion.

    The tokenizer must pad on the left. `meter` is asked before each batch, and told what it took.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, meter: Meter | None = None):
        self.model = model
        self.tokenizer = tokenizer
        self._meter = meter

    @property
    def stop_token_ids(self) -> set[int]:
        """The tokens that end a completion."""
        ids = self.model.generation_config.eos_token_id
        return {self.tokenizer.eos_token_id, *(ids if isinstance(ids, list) else [ids])} - {None}

    def counts(self) -> dict[str, int]:
        """Nothing: what fails in this process ends it."""
        return {}

    def sample(
        self, conversations: Sequence[Conversation], sampling: Sampling, wanted: Collection[Row] | None = None
    ) -> Iterator[tuple[Row, Completion]]:
        """Yields the completions of one batch after the other; the same seed and batch size give the same text.

        Rows are sorted by prompt length before they are batched, so that padding is small. Each batch has a seed of its
        own, and is sampled as a whole if one of its rows is wanted. Torch's global random state stays as it was.
        """
        prompts = [
            self.tokenizer.apply_chat_template(list(conversation), tokenize=False, add_generation_prompt=True)
            for conversation in conversations
        ]
        rows = [(index, sample) for index in range(len(prompts)) for sample in range(sampling.num_samples)]
        rows.sort(key=lambda row: len(prompts[row[0]]))  # stable: the samples of one prompt stay together
        for number, start in enumerate(range(0, len(rows), sampling.batch_size)):
            batch = rows[start : start + sampling.batch_size]
            if wanted is None or any(row in wanted for row in batch):
                seed = sampling.seed + SEEDS_APART * number
                completions = self._sample_batch([prompts[index] for index, _ in batch], sampling, seed)
                for row, completion in zip(batch, completions, strict=True):
                    if wanted is None or row in wanted:
                        yield row, completion

    @torch.inference_mode()
    def _sample_batch(self, prompts: Sequence[str], sampling: Sampling, seed: int) -> list[Completion]:
        model, tokenizer = self.model, self.tokenizer
        greedy = sampling.temperature == 0
        config = GenerationConfig(
            max_new_tokens=sampling.max_new_tokens,
            do_sample=not greedy,
            **({} if greedy else {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}),
            eos_token_id=sorted(self.stop_token_ids),
            pad_token_id=tokenizer.pad_token_id,
        )
        inputs = tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=False).to(model.device)
        prompt_tokens = inputs["attention_mask"].sum(dim=1).tolist()
        bound = Tokens(sum(prompt_tokens), len(prompts) * sampling.max_new_tokens)
        if self._meter is not None:
            self._meter.take(bound)
        was_training = model.training
        model.eval()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            outputs = model.generate(
                input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], generation_config=config
            )
        model.train(was_training)
        stop = self.stop_token_ids
        sampled = outputs[:, inputs["input_ids"].shape[1] :].tolist()
        completions = [self._completion(*row, stop) for row in zip(sampled, prompt_tokens, strict=True)]
        if self._meter is not None:
            self._meter.settle(bound, bound.prompt, sum(done.num_tokens for done in completions), len(completions))
        return completions

    def _completion(self, ids: list[int], num_prompt_tokens: int, stop_token_ids: set[int]) -> Completion:
        end = next((place for place, token in enumerate(ids) if token in stop_token_ids), None)
        ids = ids if end is None else ids[: end + 1]
        text = self.tokenizer.decode(ids, skip_special_tokens=True)
        return Completion(
            text,
            num_tokens=len(ids),
            truncated=end is None,
            token_ids=tuple(ids),
            num_prompt_tokens=num_prompt_tokens,
        )
