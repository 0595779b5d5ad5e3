"""A reward model at work: conversations -> rewards, in the process that asks, or by a server of vLLM's."""

import contextlib
import functools
import json
import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from open_r1.feedback.asking import harmless
from open_r1.generation.client import Api, EndpointClient, said_in
from open_r1.recipe import Endpoint, Recipe, RecipeError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Conversation = Sequence[dict[str, str]]

SOME_CONVERSATION = [{"role": "user", "content": "1+1=?"}, {"role": "assistant", "content": "2"}]
OURS = ("model", "messages", "input")


class RewardModel:
    """A model with one output for a whole conversation, rendered by its own chat template (B rows, T tokens)."""

    def __init__(self, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase"):
        self.model, self.tokenizer = model.eval(), tokenizer

    def rewards(
        self, conversations: Sequence[Conversation], batch_size: int, max_tokens: int | None = None
    ) -> list[float | None]:
        """A reward for each conversation, in order; None for one of more than `max_tokens` tokens.

        None too for what is no finite number, as of weights that training has spoilt.

        Control tokens in what was said are broken up: an answer opens no turn of its own. Conversations of like length
        are computed together, `batch_size` at a time; one by one if the model's config names no token of padding, by
        which it would know the last token of a conversation.
        """
        import torch

        rendered = [
            self.tokenizer.apply_chat_template(conversation, tokenize=True, return_dict=True)["input_ids"]
            for conversation in _harmless(conversations, self.tokenizer.all_special_tokens)
        ]
        rewards: list[float | None] = [None] * len(rendered)
        fits = [row for row, ids in enumerate(rendered) if max_tokens is None or len(ids) <= max_tokens]
        fits.sort(key=lambda row: len(rendered[row]))
        pad_token = self.model.config.get_text_config().pad_token_id
        batch_size = 1 if pad_token is None else batch_size
        for start in range(0, len(fits), batch_size):
            rows = fits[start : start + batch_size]
            width = len(rendered[rows[-1]])
            ids_BT = [rendered[row] + [pad_token] * (width - len(rendered[row])) for row in rows]
            mask_BT = [[1] * len(rendered[row]) + [0] * (width - len(rendered[row])) for row in rows]
            with torch.inference_mode():
                rewards_B = self.model(
                    input_ids=torch.tensor(ids_BT, device=self.model.device),
                    attention_mask=torch.tensor(mask_BT, device=self.model.device),
                    use_cache=False,
                ).logits.squeeze(-1)
            for row, reward in zip(rows, rewards_B.tolist(), strict=True):
                rewards[row] = reward if math.isfinite(reward) else None
        return rewards


def _harmless(conversations: Sequence[Conversation], control_tokens: Sequence[str] = ()) -> list[list[dict[str, str]]]:
    return [
        [{**message, "content": harmless(message["content"], control_tokens)} for message in conversation]
        for conversation in conversations
    ]


def padding_problem(tokenizer: "PreTrainedTokenizerBase", pad_token_id: int | None) -> str | None:
    """What is wrong with this token as the padding of a reward model; None if nothing is.

    transformers looks at the last token that is no padding, a server at the last token: they must be the same.
    """
    if pad_token_id is None or not tokenizer.chat_template:
        return None
    ids = tokenizer.apply_chat_template(SOME_CONVERSATION, tokenize=True, return_dict=True)["input_ids"]
    if ids[-1] != pad_token_id:
        return None
    token = tokenizer.convert_ids_to_tokens(pad_token_id)
    return f"{token!r} is padding and also ends each conversation, so that the token before would be looked at"


def check_padding(recipe: Recipe, tokenizer: "PreTrainedTokenizerBase", pad_token: str | None) -> None:
    """Returns if the recipe's trainer may pad with this token (None: the tokenizer's). Raises RecipeError if not."""
    pad_token_id = tokenizer.pad_token_id if pad_token is None else tokenizer.convert_tokens_to_ids(pad_token)
    if problem := padding_problem(tokenizer, pad_token_id):
        raise RecipeError(
            f"{recipe.source}: trainer.pad_token: {problem}; give another token of the vocabulary, which no text has"
        )


@functools.cache
def reward_model_here(path: str, revision: str | None, dtype: str) -> RewardModel:
    """The reward model of a folder or a Hub id, loaded once in a process, on the accelerator that this one works on.

    Raises RecipeError if there is none, if it is of another kind (transformers would draw the weights that it lacks at
    random), if its tokenizer has no chat template to render a conversation with, or if it takes an end for padding.
    """
    import torch
    from accelerate import PartialState
    from safetensors import SafetensorError
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    try:
        model, loading = AutoModelForSequenceClassification.from_pretrained(
            path, revision=revision, dtype=getattr(torch, dtype), output_loading_info=True
        )
        tokenizer = AutoTokenizer.from_pretrained(path, revision=revision)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:  # the last two of weights, torn or others
        reason = str(error).partition("\n")[0]
        raise RecipeError(f"rewards: reward model {Path(path).name!r} cannot be loaded ({reason})") from error
    if loading["missing_keys"]:
        raise RecipeError(
            f"rewards: {path} is no reward model (it has no {', '.join(sorted(loading['missing_keys']))}); give the "
            f"model of a run of step reward_model, or another with a head for one output"
        )
    if model.config.num_labels != 1:
        raise RecipeError(f"rewards: {path} has {model.config.num_labels} outputs; a reward model has one")
    if not tokenizer.chat_template:
        raise RecipeError(f"rewards: the tokenizer of {path} has no chat template; save one with it")
    if problem := padding_problem(tokenizer, model.config.get_text_config().pad_token_id):
        raise RecipeError(
            f"rewards: {path}: {problem}; train it with another token of the vocabulary as trainer.pad_token"
        )
    return RewardModel(model.to(PartialState().device), tokenizer)


@dataclass(frozen=True)
class Rated:
    """A reward; None if the server refused to give one, for this reason."""

    reward: float | None
    refused: str | None = None


class ServedRewardModel:
    """A reward model in a vLLM server (`vllm serve` of a model for sequence classification), asked at /classify.

    Its own chat template renders the conversations there too. One request is one conversation: {"model", "messages",
    "use_activation": false}, since a reward is the logit and no probability; the answer is {"data": [{"probs": [x]}]}
    (vLLM's entrypoints/pooling/classify/protocol.py, the same from 0.16 on). Before 0.12 or so the key is `activation`,
    and another is not noticed there; `extra_body: {activation: false}` sends it as well.

    `key` is where the section stands, for errors. Raises RecipeError as EndpointClient does.
    """

    def __init__(self, endpoint: Endpoint, key: str):
        self._endpoint, self._lock = endpoint, threading.Lock()
        self._client = EndpointClient(endpoint, None, key)
        self._api = Api(
            "/classify",
            "a vLLM server of a model with one output, without /v1",
            read_reward,
            functools.partial(Rated, None),
            hint=" (for vLLM without /v1)",
        )
        for name in set(OURS) & set(endpoint.extra_body):
            raise self._client.mistake(f"extra_body.{name}", "the recipe says that elsewhere; remove it")

    def rewards(self, conversations: Sequence[Conversation]) -> list[float | None]:
        """A reward for each conversation, in order; None for one that the server refused.

        Raises RunStopped if the server fails or refuses too many; RecipeError if key, model or address are not its own.
        """
        options = {"model": self._endpoint.model, "use_activation": False, **self._endpoint.extra_body}
        bodies = ((row, {**options, "messages": asked}) for row, asked in enumerate(_harmless(conversations)))
        rewards: list[float | None] = [None] * len(conversations)
        with self._lock, contextlib.closing(self._client.answers(self._api, bodies)) as answers:
            for row, rated in answers:
                rewards[row] = rated.reward
        return rewards


@functools.cache
def served_reward_model(section: str, key: str) -> ServedRewardModel:
    """The reward model of an Endpoint section, given as JSON, made once in a process: its counts go on."""
    return ServedRewardModel(Endpoint.model_validate_json(section), key)


def read_reward(content: bytes) -> Rated:
    """The reward in the body of an answer of /classify. Raises ValueError, with one line, if there is none in it."""
    try:
        (entry,) = json.loads(content)["data"]
        (value,) = entry["probs"]
        reward = math.nan if isinstance(value, bool | str) else float(value)
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        raise ValueError(f"the answer has no data[0].probs of one number: {said_in(content)}") from None
    if not math.isfinite(reward):
        raise ValueError(f"the answer's reward is {value!r}, no finite number")
    return Rated(reward)


def load_reward_models(recipe: Recipe) -> None:
    """Loads what the rewards will ask in this process. Raises RecipeError, with the key, if it cannot be had."""
    for index, reward in enumerate(recipe.rewards):
        if reward.name == "reward_model" and (model := reward.parameters.get("model")):
            try:
                reward_model_here(model, reward.parameters.get("revision"), reward.parameters.get("dtype", "float32"))
            except RecipeError as error:
                problem = str(error).removeprefix("rewards: ")
                raise RecipeError(f"{recipe.source}: rewards.{index}.model: {problem}") from error
