"""Stand-ins for the models of a recipe: the architecture of the Hub's config.json, shrunk, with random weights.

The tokenizer has a token for each byte and the model's own special tokens, and is of the class that AutoTokenizer makes
of the model type, so whatever hangs on it (templates, EOS, padding) is as in the real run.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from open_r1.hub import HubModel, hub_model
from open_r1.places import RECIPES, RUNS
from open_r1.recipe import STAGE_REFERENCE, Recipe, RecipeError, is_path, load_recipe
from open_r1.stages import stage_recipe

HEADS = 4
# The most that a rehearsal has of each; what a config does not have is not added.
AT_MOST = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "max_window_layers": 2,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 64,
    "shared_expert_intermediate_size": 64,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
    "q_lora_rank": 32,
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 16,
    "v_head_dim": 16,
}
LEFT_OUT = ("architectures", "quantization_config", "torch_dtype", "dtype", "transformers_version", "auto_map")
# What the Hub's tokenizers say a turn is, told by the tokens that they have; shortened to what rehearsals need. A
# recipe's own template is used as it is.
TEMPLATES = {
    "<|im_start|>": (
        "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    "<|start_header_id|>": (
        "{{ bos_token }}{% for message in messages %}<|start_header_id|>{{ message.role }}<|end_header_id|>\n\n"
        "{{ message.content }}<|eot_id|>{% endfor %}"
        "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
    ),
    "<｜Assistant｜>": (
        "{{ bos_token }}{% for message in messages %}{% if message.role == 'user' %}<｜User｜>{{ message.content }}"
        "{% elif message.role == 'assistant' %}<｜Assistant｜>{{ message.content.split('</think>')[-1] }}"
        "{{ eos_token }}{% else %}{{ message.content }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<｜Assistant｜><think>\n{% endif %}"
    ),
}


@dataclass(frozen=True)
class StandIn:
    """What is written in the place of a model: the Hub's, or one that another recipe makes of it."""

    hub_name: str
    eos_token: str | None = None
    """What training made the EOS; None: as on the Hub."""
    chat_template: str | None = None
    """What training gave it; None: that of TEMPLATES."""
    rewards: bool = False
    """A reward model: one output for a whole text in the place of the LM head."""

    def directory(self, models: Path) -> Path:
        """Where it is, or is to be written; another one if anything is changed that it is made of."""
        made_of = [asdict(self), shrunk_config(self.hub_model.config), self.hub_model.tokens.model_dump(), TEMPLATES]
        digest = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()
        return models / f"{self.hub_name.replace('/', '--')}-{digest[:8]}"

    @property
    def hub_model(self) -> HubModel:
        """What recipes/hub/models.yaml knows of it. Raises RecipeError if that is nothing."""
        return hub_model(self.hub_name)

    @property
    def turn_template(self) -> str | None:
        """Its chat template; None if neither a recipe nor its tokens say anything of one."""
        tokens = self.hub_model.tokens.special
        return self.chat_template or next((TEMPLATES[token] for token in TEMPLATES if token in tokens), None)

    def write(self, models: Path) -> None:
        """Writes model and tokenizer unless they are there."""
        directory = self.directory(models)
        if directory.exists():
            return
        unfinished = directory.with_name(f"{directory.name}.{os.getpid()}")  # others may write it at the same moment
        shutil.rmtree(unfinished, ignore_errors=True)
        _write(self, unfinished)
        try:
            unfinished.rename(directory)
        except OSError:
            shutil.rmtree(unfinished)


def stand_in_of(recipe: Recipe, name: str) -> StandIn | Path | None:
    """What stands in for a model of the recipe; a path if it is small and shipped, None for another stage's.

    Raises RecipeError if it is to be made by a recipe that is not there.
    """
    if name.startswith(STAGE_REFERENCE):
        return None
    if not is_path(name):
        return StandIn(name)
    directory = recipe.path(name)
    if not directory.is_relative_to(RUNS):
        return directory
    maker = _recipe_that_makes(directory)
    if maker is None:
        raise RecipeError(f"{recipe.source}: {name}: no recipe in recipes/ makes this model")
    return _made_by(maker)


def _made_by(maker: Recipe) -> StandIn | Path:
    """What stands in for the model that a recipe ends with: that with which it begins, if need be with another EOS."""
    if maker.model.name is None:
        raise RecipeError(f"{maker.source}: it makes a model from scratch, for which nothing stands in; ship that")
    begins_with = stand_in_of(maker, maker.model.name)
    if begins_with is None:
        raise RecipeError(f"{maker.source}: model.name: {maker.model.name!r} is a stage of another pipeline's")
    if isinstance(begins_with, Path):
        return begins_with
    template = maker.model.chat_template
    return StandIn(
        begins_with.hub_name,
        maker.trainer.get("eos_token") or begins_with.eos_token,
        maker.path(template).read_text(encoding="utf-8") if template else begins_with.chat_template,
    )


def _recipe_that_makes(directory: Path) -> Recipe | None:
    """The recipe, or the stage's, of a model below runs/: runs/<recipe>/<run>/model, runs/<recipe>/<run>/<stage>/model.

    A stage that begins with another stage's model is told what that begins with.
    """
    parts = directory.relative_to(RUNS).parts
    for length in range(1, len(parts)):
        file = RECIPES.joinpath(*parts[: length - 1], f"{parts[length - 1]}.yaml")
        if file.is_file():
            recipe = load_recipe(file)
            return recipe if recipe.step != "pipeline" else _stage(recipe, parts[-2])
    return None


def _stage(pipeline: Recipe, name: str) -> Recipe | None:
    stages = {stage.name: stage for stage in pipeline.stages}
    if name not in stages:
        return None
    return stage_recipe(pipeline, stages[name], RUNS / _name_of(pipeline) / "latest")


def _name_of(recipe: Recipe) -> Path:
    return recipe.source.resolve().relative_to(RECIPES).with_name(recipe.source.stem)


def shrunk_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """A model's config with fewer and smaller layers and all else as it is: biases, ties, rope, windows, experts.

    Of the heads that share a key there are as many as fit: 28 heads with 4 keys become 4 with 1.
    """
    small = {key: deepcopy(value) for key, value in config.items() if key not in LEFT_OUT}  # for transformers to change
    small |= {key: min(value, AT_MOST[key]) for key, value in small.items() if key in AT_MOST and value is not None}
    heads = config["num_attention_heads"]
    head_size = small["hidden_size"] // HEADS
    small["num_attention_heads"] = HEADS
    if config.get("num_key_value_heads"):
        small["num_key_value_heads"] = max(1, HEADS * config["num_key_value_heads"] // heads)
    if config.get("head_dim"):
        is_usual = config["head_dim"] * heads == config["hidden_size"]
        small["head_dim"] = head_size if is_usual else 2 * head_size
    if config.get("layer_types"):
        small["layer_types"] = small["layer_types"][: small["num_hidden_layers"]]
    return small


def byte_tokenizers(stand_in: StandIn) -> Iterator:
    """Tokenizers of 256 bytes and the model's special tokens: a plain one, then one of the class of its model type."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast
    from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES, tokenizer_class_from_name

    tokens = stand_in.hub_model.tokens
    eos = stand_in.eos_token or tokens.end_of_turn or tokens.eos
    kwargs = {"bos_token": tokens.bos, "eos_token": eos, "pad_token": tokens.pad, "clean_up_tokenization_spaces": False}
    special = dict.fromkeys(
        token for token in (*tokens.special, *kwargs.values(), tokens.eos) if isinstance(token, str)
    )
    vocabulary = {byte: index for index, byte in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}

    def with_special(tokenizer):
        tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in special])
        tokenizer.chat_template = stand_in.turn_template
        return tokenizer

    plain = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    plain.decoder = decoders.ByteLevel()
    yield with_special(PreTrainedTokenizerFast(tokenizer_object=plain, **kwargs))
    name = TOKENIZER_MAPPING_NAMES.get(stand_in.hub_model.config["model_type"])
    if name is not None:
        yield with_special(tokenizer_class_from_name(name)(vocab=vocabulary, merges=[], **kwargs))


def _write(stand_in: StandIn, directory: Path) -> None:
    import torch
    from transformers import (
        AutoConfig,
        AutoModelForCausalLM,
        AutoModelForSequenceClassification,
        AutoTokenizer,
        GenerationConfig,
    )
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()

    config = shrunk_config(stand_in.hub_model.config)
    model_type = config.pop("model_type")
    kind = AutoModelForSequenceClassification if stand_in.rewards else AutoModelForCausalLM
    config |= {"num_labels": 1} if stand_in.rewards else {}
    probe = "2+2 = 4,\n  \\boxed{½ of\t8} def f(x): return {x}\n" + "".join(stand_in.hub_model.tokens.special)
    for tokenizer in byte_tokenizers(stand_in):
        ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
        ids["pad_token_id"] = tokenizer.pad_token_id
        config |= {"vocab_size": len(tokenizer), **ids}
        torch.manual_seed(0)
        try:
            model = kind.from_config(AutoConfig.for_model(model_type, **config), dtype=torch.float32)
        except ValueError as error:
            raise RecipeError(f"recipes/hub/models.yaml: {stand_in.hub_name}: {error}") from error
        tokens = stand_in.hub_model.tokens
        ends = [tokenizer.eos_token, tokens.end_of_turn, tokens.eos]
        ends = list(dict.fromkeys(tokenizer.convert_tokens_to_ids(end) for end in ends if end))
        if not stand_in.rewards:
            model.generation_config = GenerationConfig(**{**ids, "eos_token_id": ends})
        model.save_pretrained(directory)
        tokenizer.save_pretrained(directory)
        read_back = AutoTokenizer.from_pretrained(directory)
        if read_back.encode(probe) == tokenizer.encode(probe) and read_back.decode(read_back.encode(probe)) == probe:
            return
        shutil.rmtree(directory)
    raise RecipeError(
        f"recipes/hub/models.yaml: {stand_in.hub_name}: AutoTokenizer makes of a {model_type} model's bytes other "
        f"tokens than they were written as, so nothing can stand in for it"
    )
