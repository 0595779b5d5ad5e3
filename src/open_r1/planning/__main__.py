"""`python -m open_r1.planning RECIPE [section.key=value …] [--compute-share 0.4 …]`: what `make plan` calls."""

import argparse
import sys
from dataclasses import fields
from pathlib import Path

from open_r1.check import check_recipe
from open_r1.planning.assumptions import Assumptions
from open_r1.planning.plan import plans_of
from open_r1.planning.tables import text
from open_r1.recipe import RecipeError, load_recipe


def main(argv: list[str] | None = None) -> int:
    """Exit code 0 if it fits, 1 if it does not, 2 for a mistake in the recipe or something that is not known."""
    arguments = _arguments(argv)
    given = {each.name: getattr(arguments, each.name) for each in fields(Assumptions)}
    assumptions = Assumptions(**{name: value for name, value in given.items() if value is not None})
    try:
        recipe = load_recipe(arguments.recipe, arguments.overrides)
        check_recipe(recipe)
        plans = plans_of(recipe, assumptions)
    except RecipeError as error:
        print(error, file=sys.stderr)
        return 2
    print(text(plans))
    return 0 if all(plan.fits for plan in plans) else 1


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="open_r1.planning", description=__doc__)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("overrides", nargs="*", help="section.key=value, checked like the file")
    for each in fields(Assumptions):
        default = "none" if each.default is None else f"{each.default:g}"
        what = f"{each.metadata['meaning']} (default {default}: {each.metadata['source']})".replace("%", "%%")
        number = int if "int" in str(each.type) else float
        parser.add_argument(f"--{each.name.replace('_', '-')}", type=number, metavar="N", help=what)
    return parser.parse_intermixed_args(argv)


if __name__ == "__main__":
    sys.exit(main())
