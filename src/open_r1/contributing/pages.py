"""`make pages`: what a computer knows better in the READMEs of the recipes, and recipes/README.md, the list of all.

In a folder's README the plan stands between `<!-- plan -->` and `<!-- end of plan -->`, the results between
`<!-- results -->` and `<!-- end of results -->`. `--check` writes nothing and says what is stale.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

from open_r1 import planning
from open_r1.contributing.evidence import evidence_of, published_of, results_table
from open_r1.places import ACCELERATE_CONFIGS, RECIPES
from open_r1.recipe import Recipe, RecipeError, load_recipe

PLANNED_STEPS = ("sft", "preferences", "reward_model", "dpo", "grpo", "generate", "distill", "pipeline")
INDEX_HEADER = """# Recipes

Made by `make pages` from the recipes, their plans (`make plan`) and their evidence; CI fails when it is stale. A plan
is computed, never measured: [how, and how far off](../src/open_r1/planning/README.md). A score stands here only if a
`run.json` gave it.

| recipe | what | hardware | planned hours | planned USD | published | ours |
|---|---|---|---|---|---|---|
"""
NOT_ON_GPUS = ("tiny-r1", "tiny-rlaif")


def pages(recipes: Path) -> Iterator[tuple[Path, str]]:
    """(file, its text as it ought to be) of every page. Raises RecipeError."""
    for readme in sorted(recipes.glob("*/README.md")):
        text = readme.read_text(encoding="utf-8")
        for name, table in {"plan": plan_table, "results": results_table}.items():
            if f"<!-- {name} -->" in text:
                text = _filled(readme, text, name, table(readme.parent))
        yield readme, text
    yield recipes / "README.md", index(recipes)


def plan_table(folder: Path) -> str:
    """The plans of a folder's recipes, side by side; stages that only a pipeline starts stand in it once."""
    return planning.markdown([recipe for recipe in _recipes_of(folder) if recipe.step != "pipeline"])


def index(recipes: Path) -> str:
    """The list of all recipes that train, a line each."""
    lines = []
    for folder in sorted(readme.parent for readme in recipes.glob("*/README.md")):
        for recipe in _recipes_of(folder):
            name = (
                f"[{folder.name}]({folder.name}/README.md)/[{recipe.source.name}]({folder.name}/{recipe.source.name})"
            )
            cells = [name, recipe.description, *_planned(recipe), _published(folder, recipe), _ours(folder, recipe)]
            lines.append(f"| {' | '.join(cells)} |")
    return INDEX_HEADER + "\n".join(lines) + "\n"


def _recipes_of(folder: Path) -> list[Recipe]:
    files = [file for file in sorted(folder.glob("*.yaml")) if ACCELERATE_CONFIGS not in file.parents]
    return [recipe for recipe in map(load_recipe, files) if recipe.step in PLANNED_STEPS]


def _planned(recipe: Recipe) -> tuple[str, str, str]:
    """Hardware, hours and dollars."""
    if recipe.source.parent.name in NOT_ON_GPUS:
        return "2 CPU cores", "–", "–"
    summary = planning.summary(recipe)
    hours = "–" if summary.hours is None else f"{summary.hours:,.1f}"
    return summary.hardware, hours, "–" if summary.usd is None else f"{summary.usd:,.0f}"


def _published(folder: Path, recipe: Recipe) -> str:
    scores = [f"{p.benchmark} {p.score:g}" for p in published_of(folder) if p.recipe == recipe.source.name]
    return ", ".join(scores) or "–"


def _ours(folder: Path, recipe: Recipe) -> str:
    if folder.name in NOT_ON_GPUS:
        measured = (folder / "results.json").is_file()
        return f"[measured, three seeds]({folder.name}/README.md)" if measured else "not yet run"
    found = [entry for entry in evidence_of(folder) if entry["recipe"] == recipe.source.name]
    return f"[{len(found)} runs]({folder.name}/README.md#results)" if found else "not yet run"


def _filled(readme: Path, text: str, name: str, table: str) -> str:
    before, _, rest = text.partition(f"<!-- {name} -->")
    _, found, after = rest.partition(f"<!-- end of {name} -->")
    if not found:
        raise RecipeError(
            f"{readme}: `<!-- {name} -->` has no end; write `<!-- end of {name} -->` where the table ends"
        )
    return f"{before}<!-- {name} -->\n{table}\n<!-- end of {name} -->{after}"


def main(arguments: list[str]) -> int:
    """Exit code 0; 1 if something is stale and `--check` was given; 2 for a mistake in a recipe, with one line."""
    try:
        stale = [(file, text) for file, text in pages(RECIPES) if not file.exists() or file.read_text("utf-8") != text]
    except RecipeError as error:
        print(error, file=sys.stderr)
        return 2
    for file, text in stale:
        name = file.relative_to(RECIPES.parent)
        if arguments == ["--check"]:
            print(f"{name}: stale; run `make pages` and commit what it wrote", file=sys.stderr)
        else:
            file.write_text(text, encoding="utf-8")
            print(f"{name}: written")
    return 1 if stale and arguments == ["--check"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
