"""`make new-recipe NAME=… FROM=…`: a folder of one's own, made of one that there is, that passes `make check`.

YAML and templates are copied with their comments; paths still lead where they led, and what the old folder's recipes
made under runs/ becomes what the new one's will make. Evidence is not copied: nothing has been run.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from open_r1.check import check_recipe
from open_r1.places import RECIPES, RUNS
from open_r1.recipe import RecipeError, is_path, load_recipe

NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
README = """# {name}

What this reproduces, and where that is published. Begun from [{source}](../{source}/README.md).

**Not run yet.**

## Run

{commands}

## Hardware and plan

<!-- plan -->
<!-- end of plan -->

## Published

What to compare with, each score with its source; the same in `evidence/published.json`.

## Results

<!-- results -->
<!-- end of results -->

## What to watch

## Not as in the source
"""


def new_recipe(name: str, source: Path, recipes: Path) -> Path:
    """The new folder, below `recipes`. Raises RecipeError for a name that is taken or none, and for an empty source."""
    if not NAME.fullmatch(name):
        raise RecipeError(f"NAME={name}: a folder's name has small letters, digits, dots and hyphens, e.g. my-grpo")
    source = (source.parent if source.suffix == ".yaml" else source).resolve()
    files = [file for file in sorted(source.glob("*.yaml")) if file.is_file()]
    if not files or not (source / "README.md").is_file() or source.parent != recipes.resolve():
        known = ", ".join(sorted(file.parent.name for file in recipes.glob("*/README.md")))
        raise RecipeError(f"FROM={source}: no folder of recipes (known: {known})")
    folder = recipes / name
    if folder.exists():
        raise RecipeError(f"NAME={name}: {folder} is there already; choose another name, or remove it")
    folder.mkdir()
    copied = {*files, *source.glob("*.jinja")}
    for file in sorted(copied):
        text = file.read_text(encoding="utf-8")
        if file.suffix == ".yaml":
            text = _with_paths_from(folder, text, source, copied)
        (folder / file.name).write_text(text, encoding="utf-8")
    (folder / "evidence").mkdir()
    (folder / "evidence" / "published.json").write_text("[]\n", encoding="utf-8")
    steps = {file.name: load_recipe(folder / file.name).step for file in files}
    commands = [f"    make check RECIPE=recipes/{name}/{file.name}" for file in files]
    commands += [f"    make rehearse RECIPE=recipes/{name}/{file.name}" for file in files]
    commands += [
        f"    make {'r1' if step == 'pipeline' else step} RECIPE=recipes/{name}/{file}"
        for file, step in steps.items()
        if step != "pretrain"
    ]
    text = README.format(name=name, source=source.name, commands="\n".join(commands))
    (folder / "README.md").write_text(text, encoding="utf-8")
    return folder


def _with_paths_from(folder: Path, text: str, source: Path, copied: set[Path]) -> str:
    """A recipe's text with the paths in it as they have to be written in `folder`."""
    for value in sorted(set(_paths_in(yaml.safe_load(text))), key=len, reverse=True):
        target = (source / value).resolve()
        if target in copied:
            continue
        if target.is_relative_to(RUNS.resolve() / source.name):
            new = value.replace(f"runs/{source.name}/", f"runs/{folder.name}/")
        elif target.is_relative_to(source):
            new = f"../{source.name}/{target.relative_to(source)}"
        else:
            continue  # both folders lie beside each other
        text = re.sub(rf"(?<![\w./-]){re.escape(value)}(?![\w./-])", new, text)
    return text


def _paths_in(value: Any) -> Iterator[str]:
    if isinstance(value, dict | list):
        for entry in value.values() if isinstance(value, dict) else value:
            yield from _paths_in(entry)
    elif isinstance(value, str) and (is_path(value) or value.endswith((".yaml", ".jinja", ".jsonl", ".json"))):
        yield value


def main(arguments: list[str]) -> int:
    """Exit code 0, or 2 with a line for each mistake; what was made is checked, and told in any case."""
    if len(arguments) != 2:
        print(
            "make new-recipe needs both: make new-recipe NAME=… FROM=recipes/…",
            file=sys.stderr,
        )
        return 2
    try:
        folder = new_recipe(arguments[0], Path(arguments[1]), RECIPES)
        for file in sorted(folder.glob("*.yaml")):
            check_recipe(load_recipe(file))
    except RecipeError as error:
        print(error, file=sys.stderr)
        return 2
    shown = folder.relative_to(RECIPES.parent)
    print(f"{shown}: {', '.join(sorted(file.name for file in folder.iterdir()))}")
    print(f"next: change {shown}/*.yaml, then `make check RECIPE=…`, `make rehearse RECIPE=…`, `make pages`")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
