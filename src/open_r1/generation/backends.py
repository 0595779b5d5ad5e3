"""Who samples: the recipe says it, and the launcher where it has started a server."""

import os

import torch
from transformers import PreTrainedTokenizerBase

from open_r1 import modeling, vllm_server
from open_r1.generation.endpoint import EndpointBackend
from open_r1.generation.sampling import Backend
from open_r1.generation.transformers_backend import TransformersBackend
from open_r1.recipe import Endpoint, Recipe, Thinking
from open_r1.rewards.completion import resolved_thinking


def backend_of(
    recipe: Recipe,
    endpoint: Endpoint | None,
    key: str,
    name: str | None,
    revision: str | None,
    tokenizer: PreTrainedTokenizerBase | None,
    device: torch.device | str,
) -> Backend:
    """The endpoint if there is one; else the server that the launcher has started; else the model `name`, loaded here.

    `key` is the recipe's, of the endpoint, for errors. Raises RecipeError if it cannot be had.
    """
    if endpoint is None and (url := os.environ.get(vllm_server.URL)):
        endpoint = Endpoint(base_url=f"{url}/v1", model=recipe.model_path(name))
        key = "hardware.vllm"
    if endpoint is not None:
        return EndpointBackend(endpoint, str(recipe.source), key, thinking_after(tokenizer, recipe.thinking))
    return TransformersBackend(modeling.load_model(recipe, name, revision).to(device), tokenizer)


def thinking_after(tokenizer: PreTrainedTokenizerBase | None, thinking: Thinking) -> Thinking:
    """The recipe's `thinking` with `prefilled` as the chat template has it; as it stands if there is no template."""
    if tokenizer is None or not tokenizer.chat_template:
        return thinking
    question = [{"role": "user", "content": "1+1=?"}]
    return resolved_thinking(
        tokenizer.apply_chat_template(question, tokenize=False, add_generation_prompt=True), thinking
    )
