"""Models, tokenizers, chat templates and LoRA: the only place that builds or loads weights."""

import contextlib
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.utils.logging import disable_progress_bar

from open_r1.recipe import Model, Recipe, RecipeError
from open_r1.wording import closest

disable_progress_bar()  # of loading and writing weights; the bars of training and sampling are others

PAD, EOS, USER, ASSISTANT = "<|pad|>", "<|end|>", "<|user|>", "<|assistant|>"
TAGS = ["<think>", "</think>", "<answer>", "</answer>", "\\boxed{"]
PRINTABLE_ASCII = [chr(code) for code in range(32, 127)]
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ '" + USER + "' + message['content'] }}"
    "{% elif message['role'] == 'assistant' %}{{ '" + ASSISTANT + "' + message['content'] + '" + EOS + "' }}"
    "{% else %}{{ raise_exception('this template knows the roles user and assistant') }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '" + ASSISTANT + "' }}{% endif %}"
)


def character_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of 105 tokens: a character each, one each for the tags and `\\boxed{`, and four control tokens.

    Numbers as digits make carrying learnable for a model of 100,000 parameters; tags as single tokens make the
    format cheap to write. Characters outside printable ASCII have no token and are dropped.
    """
    characters = ["\n", *PRINTABLE_ASCII]
    vocabulary = {token: index for index, token in enumerate([PAD, EOS, USER, ASSISTANT, *TAGS, *characters])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in (PAD, EOS, USER, ASSISTANT)])
    tokenizer.add_tokens([AddedToken(t, special=False, normalized=False) for t in TAGS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=EOS,
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def check_accelerators(recipe: Recipe) -> None:
    """Returns if this machine has the GPUs (or other accelerators) that the recipe asks of a node.

    Raises RecipeError if not: before a model is downloaded for nothing, or trained on a CPU for weeks.
    """
    wanted, found = recipe.hardware.gpus_per_node, torch.accelerator.device_count()
    if found < wanted:
        raise RecipeError(
            f"{recipe.source}: hardware.gpus_per_node: {wanted} asked for, {found} on {socket.gethostname()}; "
            f"`make plan RECIPE=…` tells what it needs, `make rehearse RECIPE=…` runs two steps of it on a CPU"
        )


def load_tokenizer(
    recipe: Recipe, name: str | None = None, revision: str | None = None, own_template: bool = False
) -> PreTrainedTokenizerBase:
    """The tokenizer of `name` (default: the recipe's model) with the recipe's chat template, padding on the left.

    With `own_template` it keeps its own: that of the recipe is for the model that is trained.
    """
    model = recipe.model
    if name is None and model.architecture is not None:
        tokenizer = character_tokenizer()
    else:
        name, revision = (name, revision) if name else (model.name, model.revision)
        with _failure_told(recipe, name):
            tokenizer = AutoTokenizer.from_pretrained(recipe.model_path(name), revision=revision)
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if model.chat_template and not own_template:
        tokenizer.chat_template = recipe.path(model.chat_template).read_text(encoding="utf-8")
    return tokenizer


def load_model(recipe: Recipe, name: str | None = None, revision: str | None = None) -> PreTrainedModel:
    """The causal language model `name` (default: the recipe's model) in the recipe's dtype, on the CPU."""
    model = recipe.model
    name, revision = (name, revision) if name else (model.name, model.revision)
    with _failure_told(recipe, name):
        loaded = AutoModelForCausalLM.from_pretrained(
            recipe.model_path(name),
            revision=revision,
            dtype=getattr(torch, model.dtype),
            attn_implementation=model.attn_implementation,
        )
    loaded.config.use_cache = True
    return loaded


def load_reward_model(recipe: Recipe, name: str | None = None, revision: str | None = None) -> PreTrainedModel:
    """A model with one output for a whole text, its reward, in the recipe's dtype, on the CPU.

    `name` (default: the recipe's model) may be a reward model, or a causal language model, which gets a new head for
    its last token's state: drawn from torch's generator.
    """
    model = recipe.model
    name, revision = (name, revision) if name else (model.name, model.revision)
    with _failure_told(recipe, name):
        return AutoModelForSequenceClassification.from_pretrained(
            recipe.model_path(name),
            revision=revision,
            num_labels=1,
            dtype=getattr(torch, model.dtype),
            attn_implementation=model.attn_implementation,
        )


@contextlib.contextmanager
def _failure_told(recipe: Recipe, name: str) -> Iterator[None]:
    """Turns what from_pretrained raises for a model that is not there, or no model, into one line."""
    try:
        yield
    except (OSError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise RecipeError(f"{recipe.source}: model {name!r} cannot be loaded ({reason})") from error


def build_model(section: Model, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """A model with random weights of the section's architecture, its vocabulary and special tokens the tokenizer's.

    Raises RecipeError (a mistake in `model.architecture`) if transformers does not know the architecture.
    """
    architecture = dict(section.architecture or {})
    model_type = architecture.pop("model_type")
    try:
        config = AutoConfig.for_model(
            model_type,
            **architecture,
            vocab_size=len(tokenizer),
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=None,
        )
    except ValueError as error:
        raise RecipeError(f"model.architecture.model_type: {model_type!r} is not known to transformers") from error
    return AutoModelForCausalLM.from_config(config, dtype=getattr(torch, section.dtype))


def lora_config(recipe: Recipe, model: PreTrainedModel, task_type: str = "CAUSAL_LM"):
    """The peft.LoraConfig of the recipe's model, or None if all weights are trained.

    `task_type` is SEQ_CLS for a reward model, whose new head is then trained as well, and kept whole. Raises
    RecipeError if `target_modules` names what the model has not: PEFT passes over it where something else is found.
    """
    lora = recipe.model.lora
    if lora is None:
        return None
    from peft import LoraConfig

    _check_target_modules(recipe, model)
    return LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.target_modules,
        task_type=task_type,
    )


def _check_target_modules(recipe: Recipe, model: PreTrainedModel) -> None:
    wanted, names = recipe.model.lora.target_modules, [name for name, _ in model.named_modules()]
    if wanted == "all-linear":
        return
    if isinstance(wanted, str):  # an expression, for whole names
        try:
            re.compile(wanted)
        except re.error as error:
            raise RecipeError(
                f"{recipe.source}: model.lora.target_modules: {wanted!r} is no regular expression ({error}); write a "
                f"list of names, or one like .*proj"
            ) from None
        absent = [] if any(re.fullmatch(wanted, name) for name in names) else [wanted]
    else:
        absent = [each for each in wanted if not any(f".{name}".endswith(f".{each}") for name in names)]
    if absent:
        linear = (name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear))
        known = sorted({name.rpartition(".")[2] for name in linear})
        mend = closest(absent[0], known)
        if absent[0] in known:
            mend = f"; write a list, [{absent[0]}], for a text is an expression for the whole name"
        raise RecipeError(
            f"{recipe.source}: model.lora.target_modules: no module is called {absent[0]!r} (linear ones are "
            f"{', '.join(known)}){mend}"
        )


def save_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    directory: Path,
    weights: dict[str, torch.Tensor] | None = None,
) -> None:
    """Writes weights (safetensors), config, generation config and tokenizer; merges LoRA adapters first.

    `weights` are the model's, by name, where it has only its share of them (and no adapters).

    Raises RecipeError if the tokenizer would be read back as another one: AutoTokenizer lets some model types (qwen2,
    phi3, …) overrule the saved class, and such a model would quietly be fed other tokens than it was trained on.
    """
    if hasattr(model, "merge_and_unload"):
        model = model.merge_and_unload()
    if weights is not None:  # gathered one by one, tied ones are no longer the same tensor
        weights = {name: weight for name, weight in weights.items() if name not in model.all_tied_weights_keys}
    model.save_pretrained(directory, state_dict=weights)
    tokenizer.save_pretrained(directory)
    probe = "2+2 = 4,\n\\boxed{4} {x}"
    loaded = AutoTokenizer.from_pretrained(directory)
    if loaded.encode(probe) != tokenizer.encode(probe):
        raise RecipeError(
            f"model.architecture.model_type: AutoTokenizer reads the tokenizer of a {model.config.model_type} model "
            f"back as {type(loaded).__name__}, which gives other tokens; use another architecture, e.g. llama"
        )


def num_parameters(model: PreTrainedModel) -> int:
    """Parameters of the model, tied ones counted once."""
    return sum(parameter.numel() for parameter in model.parameters())
