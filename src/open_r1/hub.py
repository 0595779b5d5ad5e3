"""What is known of the Hub's models and data sets without the network: recipes/hub/*.yaml -> frozen entries.

The planner counts with it, a rehearsal shrinks it, `make pin` completes it. No torch, nothing is downloaded.
"""

import functools
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError

from open_r1.places import HUB
from open_r1.recipe import RecipeError
from open_r1.recipe.sections import Section
from open_r1.wording import closest

COMMIT = r"^[0-9a-f]{40}$"


class Tokens(Section):
    """A tokenizer's special tokens."""

    bos: str | None = None
    eos: str
    """Ends a document; of a base model it is what generation stops at."""
    pad: str | None = None
    end_of_turn: str | None = None
    """Ends an answer of an instruct model, where that is another token than `eos`."""
    special: list[str]


class HubModel(Section):
    """A model: the fields of its config.json that decide shapes, and its special tokens."""

    revision: str | None = Field(default=None, pattern=COMMIT)
    source: str
    config: dict[str, Any]
    tokens: Tokens


class HubDataset(Section):
    """A data set: its size, and a file with a few rows of its schema that were written for this repository."""

    revision: str | None = Field(default=None, pattern=COMMIT)
    source: str
    rows: dict[str, int]
    """`split`, or `config/split` -> number of rows."""
    tokens_per_row: float | None = Field(default=None, gt=0)
    """Mean, prompt and answer together."""
    fixture: str


def hub_model(name: str, folder: Path = HUB) -> HubModel:
    """The entry of a Hub id in models.yaml. Raises RecipeError, with the mend, if there is none."""
    return _entry(name, folder / "models.yaml", HubModel)


def hub_dataset(name: str, folder: Path = HUB) -> HubDataset:
    """The entry of a Hub id in datasets.yaml. Raises RecipeError, with the mend, if there is none."""
    return _entry(name, folder / "datasets.yaml", HubDataset)


def fixture_of(dataset: HubDataset, folder: Path = HUB) -> Path:
    """The file with rows of the data set's schema."""
    return folder / "fixtures" / dataset.fixture


def _entry(name: str, file: Path, section: type[Section]):
    entries = entries_of(file)
    if name not in entries:
        raise RecipeError(
            f"{file}: nothing is known of {name!r}{closest(name, entries)}; add it, or ask the Hub with `make pin`"
        )
    try:
        return section.model_validate(entries[name])
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise RecipeError(f"{file}: {name}: {where}: {first['msg'][0].lower()}{first['msg'][1:]}") from None


@functools.cache
def entries_of(file: Path) -> dict[str, dict[str, Any]]:
    """Hub id -> entry, as it is written."""
    return yaml.safe_load(file.read_text(encoding="utf-8")) or {}
