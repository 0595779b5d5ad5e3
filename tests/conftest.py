"""Shared by the tests: no network, no telemetry, and recipes that are a few lines long."""

import os
from collections.abc import Iterable
from pathlib import Path

import pytest
import yaml

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

REPOSITORY = Path(__file__).parents[1]
TINY = REPOSITORY / "recipes" / "tiny-r1"
CPU_TRAINER = {"use_cpu": True, "bf16": False, "gradient_checkpointing": False}
SUMS = {"min_terms": 3, "max_terms": 3, "min_digits": 1, "max_digits": 1}
SMALLEST_MODEL = {
    "model_type": "llama",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "tie_word_embeddings": True,
}


def slow_but_for(cases: Iterable[str], *fast: str) -> list:
    """Cases of a test of which all but some are slow ones."""
    return [case if case in fast else pytest.param(case, marks=pytest.mark.slow) for case in cases]


def sums(num_problems: int, **more) -> dict:
    """A procedural data source of short sums."""
    return {"procedural": {"family": "basic_arithmetic", "num_problems": num_problems, "parameters": SUMS, **more}}


def recipe_named(name: str):
    """The recipe `folder/file` of the repository."""
    from open_r1.recipe import load_recipe

    return load_recipe(REPOSITORY / "recipes" / f"{name}.yaml")


@pytest.fixture
def write_recipe(tmp_path):
    """Writes a recipe of the given sections to a file in tmp_path and gives its path."""

    def write(name: str = "recipe.yaml", **sections) -> Path:
        file = tmp_path / name
        file.write_text(yaml.safe_dump(sections, sort_keys=False), encoding="utf-8")
        return file

    return write


@pytest.fixture(scope="session")
def smallest_model(tmp_path_factory) -> Path:
    """A directory with a model of random weights and the character tokenizer."""
    import torch

    from open_r1 import modeling
    from open_r1.recipe import Model

    directory = tmp_path_factory.mktemp("models") / "smallest"
    torch.manual_seed(0)
    tokenizer = modeling.character_tokenizer()
    modeling.save_model(modeling.build_model(Model(architecture=SMALLEST_MODEL), tokenizer), tokenizer, directory)
    return directory
