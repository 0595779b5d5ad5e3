"""Sampling with `model.generate`, in this process: for small models and for machines without vLLM."""

from collections.abc import Sequence

import torch
from tqdm import tqdm
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from open_r1.generation.sampling import Completion, Sampling


@torch.inference_mode()
def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    conversations: Sequence[list[dict[str, str]]],
    sampling: Sampling,
    description: str = "sampling",
) -> list[list[Completion]]:
    """For each conversation its `num_samples` completions, in order; the same seed and batch size give the same text.

    Rows are sorted by prompt length before they are batched, so that padding is small; torch's global random state
    is restored afterwards. The tokenizer must pad on the left.
    """
    prompts = [tokenizer.apply_chat_template(c, tokenize=False, add_generation_prompt=True) for c in conversations]
    rows = [index for index in range(len(prompts)) for _ in range(sampling.num_samples)]
    rows.sort(key=lambda index: len(prompts[index]))  # stable: the samples of one prompt stay together
    greedy = sampling.temperature == 0
    config = GenerationConfig(
        max_new_tokens=sampling.max_new_tokens,
        do_sample=not greedy,
        **({} if greedy else {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}),
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    completions: list[list[Completion]] = [[] for _ in prompts]
    was_training = model.training
    model.eval()
    with torch.random.fork_rng(), tqdm(total=len(rows), desc=description, unit="answer", mininterval=1.0) as bar:
        torch.manual_seed(sampling.seed)
        for start in range(0, len(rows), sampling.batch_size):
            batch = rows[start : start + sampling.batch_size]
            inputs = tokenizer(
                [prompts[index] for index in batch], return_tensors="pt", padding=True, add_special_tokens=False
            ).to(model.device)
            outputs = model.generate(
                input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], generation_config=config
            )
            for index, ids in zip(batch, outputs[:, inputs["input_ids"].shape[1] :].tolist(), strict=True):
                completions[index].append(_completion(tokenizer, ids))
            bar.update(len(batch))
    model.train(was_training)
    return completions


def _completion(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> Completion:
    ended = tokenizer.eos_token_id in ids
    if ended:
        ids = ids[: ids.index(tokenizer.eos_token_id) + 1]
    text = tokenizer.decode(ids, skip_special_tokens=True)
    return Completion(text, num_tokens=len(ids), truncated=not ended, token_ids=tuple(ids))
