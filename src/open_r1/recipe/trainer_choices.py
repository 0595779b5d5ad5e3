"""The words that a key of `trainer:` may be, where it may be a few: read from the installed TRL and transformers.

transformers has an enum for such a key, and its annotation names that. TRL annotates str, and the trainer compares the
value with each word that it knows, one branch after the other; who misspells one learns it there, at the first step.
"""

import ast
import functools
import importlib.util
from collections.abc import Iterator
from pathlib import Path

ENUM_FILES = {  # enum -> (package, file)
    **dict.fromkeys(
        ("HubStrategy", "IntervalStrategy", "SaveStrategy", "SchedulerType"), ("transformers", "trainer_utils.py")
    ),
    "OptimizerNames": ("transformers", "training_args.py"),
}
TRAINER_FILES = {  # config class -> (package, file) of what compares its values with words
    "SFTConfig": (("trl", "trainer/sft_config.py"), ("trl", "trainer/sft_trainer.py"), ("trl", "data_utils.py")),
    "DPOConfig": (("trl", "trainer/dpo_trainer.py"),),
    "GRPOConfig": (("trl", "trainer/grpo_trainer.py"), ("trl", "generation/vllm_generation.py")),
}
FILES_OF_ALL = (("transformers", "trainer.py"),)
COMPARED = (  # keys that are one of the words in those files, or a list of such, or their default
    "f_divergence_type",
    "importance_sampling_level",
    "loss_type",
    "multi_objective_aggregation",
    "packing_strategy",
    "scale_rewards",
    "train_sampling_strategy",
    "truncation_mode",
    "vllm_importance_sampling_mode",
    "vllm_mode",
)


@functools.cache
def choices_of(class_name: str, key: str, annotation: str, default: str | None) -> tuple[str, ...]:
    """What a key of this config class can be, in alphabetical order; nothing if that is not known."""
    names = {node.id for node in ast.walk(ast.parse(annotation, mode="eval")) if isinstance(node, ast.Name)}
    enum = next((name for name in ENUM_FILES if name in names), None)
    try:
        if enum is not None:
            return tuple(sorted(_members(enum)))
        files = (*TRAINER_FILES.get(class_name, ()), *FILES_OF_ALL) if key in COMPARED else ()
        words = {word for file in files for word in _compared_words(*file, key)}
    except FileNotFoundError:  # another release has it elsewhere; a part of the words would refuse the others
        return ()
    return tuple(sorted(words | {default} if words and default else words))


def _members(enum: str) -> Iterator[str]:
    """Yields the values of an enum of words."""
    tree = parsed(*ENUM_FILES[enum])
    node = next((node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == enum), None)
    for statement in node.body if node else ():
        if isinstance(statement, ast.Assign):
            yield from _words(statement.value)


def _compared_words(package: str, file: str, name: str) -> Iterator[str]:
    """Yields the words that a variable or an attribute of this name is compared with, by ==, != or in."""
    for node in ast.walk(parsed(package, file)):
        if isinstance(node, ast.Compare) and name in (getattr(node.left, "id", None), getattr(node.left, "attr", None)):
            for compared in node.comparators:
                for each in getattr(compared, "elts", [compared]):
                    yield from _words(each)


def _words(value: ast.expr) -> Iterator[str]:
    if isinstance(value, ast.Constant) and isinstance(value.value, str):
        yield value.value


@functools.cache
def parsed(package: str, file: str) -> ast.Module:
    """The source of a file of an installed package, which is found and not imported. Raises FileNotFoundError."""
    path = Path(importlib.util.find_spec(package).origin).parent / file
    return ast.parse(path.read_text(encoding="utf-8"))
