"""`make rehearse [RECIPE=…]`: that recipe, or all that need a GPU, for two optimizer steps on this machine's CPU."""

import argparse
import os
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from open_r1.check import all_recipes
from open_r1.places import RUNS
from open_r1.recipe import RecipeError, load_recipe
from open_r1.rehearsal.rehearsing import needs_rehearsal, prepare, rehearse
from open_r1.running import alone_at_work


def rehearse_one(file: Path, overrides: list[str], folder: Path) -> int:
    """Exit code 0 if it went well, 1 if not. Prints what it changes, and the result. Raises RecipeError."""
    rehearsal = prepare(file, overrides, folder)
    for each in (rehearsal, *rehearsal.stages):
        print(f"{each.recipe.source}: rehearsed with")
        for change in each.changes:
            print(f"  {change}")
    print(flush=True)
    result = rehearse(rehearsal)
    print(result.line(file))
    return int(bool(result.problem))


def rehearse_all(files: list[Path], folder: Path, at_once: int) -> int:
    """Exit code 0 if all went well, 1 if not, 2 if the mistake is in a recipe. Prints a line for each as it ends."""
    exit_codes, rehearsals = [0], {}
    for file in files:  # here and not in the processes: torch is imported once
        try:
            rehearsals[file] = prepare(file, [], folder)
        except RecipeError as error:
            exit_codes.append(2)
            print(error, file=sys.stderr, flush=True)
    longest_first = sorted(rehearsals, key=lambda file: -len(rehearsals[file].stages))
    with ThreadPoolExecutor(at_once) as pool:
        files_of = {pool.submit(rehearse, rehearsals[file]): file for file in longest_first}
        for job in as_completed(files_of):
            exit_codes.append(int(bool(job.result().problem)))
            print(job.result().line(files_of[job]), flush=True)
    print(f"{exit_codes.count(0) - 1} of {len(files)} recipes rehearsed")
    return max(exit_codes)


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0 if everything was rehearsed, 1 if a run failed, 2 for a mistake in a recipe."""
    cores = len(os.sched_getaffinity(0))
    parser = argparse.ArgumentParser(prog="open_r1.rehearsal", description=__doc__)
    parser.add_argument("recipe", nargs="?", type=Path, help="default: all that do not run on a CPU as they are")
    parser.add_argument("overrides", nargs="*", help="section.key=value, over the recipe")
    parser.add_argument("--runs", type=Path, default=RUNS, help="where rehearsals/ is made (default: runs/)")
    parser.add_argument("--at-once", type=int, default=cores, help=f"of all recipes (default: {cores}, one a core)")
    asked = parser.parse_intermixed_args(arguments)
    folder = asked.runs.resolve() / "rehearsals"
    try:
        with alone_at_work(folder, waits=True):  # they share models, and each deletes what was there
            if asked.recipe is not None:
                return rehearse_one(asked.recipe, asked.overrides, folder)
            return rehearse_all([file for file in all_recipes() if _is_due(file)], folder, asked.at_once)
    except RecipeError as error:
        print(error, file=sys.stderr)
        return 2


def _is_due(file: Path) -> bool:
    try:
        return needs_rehearsal(load_recipe(file))
    except RecipeError:
        return True  # and it will be told


if __name__ == "__main__":
    sys.exit(main())
