"""How a model is shared out over the processes that train it, as recipes/accelerate_configs says it."""

from dataclasses import dataclass

import yaml

from open_r1.places import ACCELERATE_CONFIGS
from open_r1.recipe import Recipe, RecipeError

LAYOUTS = ("ddp", "zero2", "zero3", "fsdp2")  # what can be compared; `one` and `cpu` are recipes' own


@dataclass(frozen=True)
class Layout:
    """`kind`: one, cpu, ddp (each process has all), zero2, zero3, fsdp2 (shares)."""

    kind: str
    num_processes: int

    @property
    def is_deepspeed(self) -> bool:
        return self.kind in ("zero2", "zero3")

    @property
    def shares_weights(self) -> bool:
        return self.kind in ("zero3", "fsdp2")

    @property
    def title(self) -> str:
        names = {"one": "one GPU", "cpu": "CPU", "ddp": "DDP", "zero2": "ZeRO-2", "zero3": "ZeRO-3", "fsdp2": "FSDP2"}
        return names[self.kind]


def layout_of(recipe: Recipe) -> Layout:
    """The layout of the recipe's accelerate config. Raises RecipeError if there is no such file."""
    hardware = recipe.hardware
    file = ACCELERATE_CONFIGS / f"{hardware.accelerate}.yaml"
    if not file.is_file():
        known = ", ".join(found.stem for found in sorted(ACCELERATE_CONFIGS.glob("*.yaml")))
        raise RecipeError(f"{recipe.source}: hardware.accelerate: no {file.name} (known: {known}); name one of them")
    config = yaml.safe_load(file.read_text(encoding="utf-8"))
    kinds = {
        "NO": "one",
        "MULTI_GPU": "cpu" if config.get("use_cpu") else "ddp",
        "DEEPSPEED": f"zero{(config.get('deepspeed_config') or {}).get('zero_stage')}",
        "FSDP": "fsdp2",
    }
    kind = kinds.get(config["distributed_type"])
    if kind not in ("one", "cpu", *LAYOUTS):
        raise RecipeError(f"{recipe.source}: hardware.accelerate: {file.name} cannot be planned; use one of {LAYOUTS}")
    return Layout(kind, hardware.num_processes)
