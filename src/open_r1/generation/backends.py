"""Who samples: the recipe says it, and the launcher where it has started a server."""

import os
from typing import TYPE_CHECKING

from open_r1 import vllm_server
from open_r1.generation.endpoint import EndpointBackend
from open_r1.generation.sampling import Backend
from open_r1.nodes import SINGLE_PROCESS_STEPS
from open_r1.recipe import Endpoint, Recipe, Thinking
from open_r1.rewards.completion import resolved_thinking

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

REQUESTS_PER_COPY = Endpoint.model_fields["max_concurrent_requests"].default  # of the model, by all processes together
SECONDS_OF_REQUEST = 4 * 3600.0  # nobody else asks our own server, and what waits there for its turn is not lost


def endpoint_of(recipe: Recipe) -> Endpoint | None:
    """Where the recipe's prompts are answered: its endpoint, or the vLLM started for it; None if in this process.

    The server's address is in the environment of the process that it was started for, and nowhere else.
    """
    section = recipe.evaluate or recipe.distill or recipe.generate or recipe.preferences
    server = recipe.hardware.vllm
    if section.endpoint is not None or server is None or not (url := os.environ.get(vllm_server.URL)):
        return section.endpoint
    processes = 1 if recipe.step in SINGLE_PROCESS_STEPS else recipe.hardware.num_processes
    return Endpoint(
        base_url=f"{url}/v1",
        model=recipe.model_path(recipe.model.name),
        max_concurrent_requests=max(1, REQUESTS_PER_COPY * server.data_parallel_size // processes),
        timeout_seconds=SECONDS_OF_REQUEST,
    )


def endpoint_backend(
    recipe: Recipe, endpoint: Endpoint, tokenizer: "PreTrainedTokenizerBase | None"
) -> EndpointBackend:
    """The backend of an endpoint of the recipe. Raises RecipeError for a mistake in its section."""
    key = "hardware.vllm" if recipe.hardware.vllm is not None else f"{recipe.step}.endpoint"
    return EndpointBackend(endpoint, str(recipe.source), key, thinking_after(tokenizer, recipe.thinking))


def backend_of(
    recipe: Recipe,
    name: str | None,
    revision: str | None,
    tokenizer: "PreTrainedTokenizerBase | None",
    device: "torch.device | str",
) -> Backend:
    """The recipe's endpoint, if it has one; else the model `name`, loaded here. Raises RecipeError."""
    if (endpoint := endpoint_of(recipe)) is not None:
        return endpoint_backend(recipe, endpoint, tokenizer)
    from open_r1.generation.transformers_backend import TransformersBackend
    from open_r1.modeling import load_model

    return TransformersBackend(load_model(recipe, name, revision).to(device), tokenizer)


def thinking_after(tokenizer: "PreTrainedTokenizerBase | None", thinking: Thinking) -> Thinking:
    """The recipe's `thinking` with `prefilled` as the chat template has it; as it stands if there is no template."""
    if tokenizer is None or not tokenizer.chat_template:
        return thinking
    question = [{"role": "user", "content": "1+1=?"}]
    return resolved_thinking(
        tokenizer.apply_chat_template(question, tokenize=False, add_generation_prompt=True), thinking
    )
