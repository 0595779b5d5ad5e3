"""The command line of every run: `python -m open_r1.launch STEP RECIPE [key=value …]`, which make calls.

The recipe is checked, and its resolved form written down, before torch is imported by anybody.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from open_r1 import pipeline, run_record, shares, signals, vllm_server
from open_r1.check import check_recipe, not_ready, notes_on
from open_r1.nodes import nodes_of, some_nodes
from open_r1.places import RUNS
from open_r1.recipe import Recipe, RecipeError, dump_recipe, load_recipe
from open_r1.resuming import RECIPE_FILE, check_recipe_of, last_checkpoint
from open_r1.running import (
    MODULES,
    alone_at_work,
    command,
    is_done,
    launch,
    model_parents,
    run_directory,
    same_weights,
)
from open_r1.slurm.site import site_of_this_process
from open_r1.slurm.submitting import RUN_DIRECTORY_FILE
from open_r1.step_process import EXIT_STOPPED, RunStopped
from open_r1.wording import closest


def _point_latest_at(run_dir: Path) -> None:
    latest = run_dir.parent / "latest"
    latest.unlink(missing_ok=True)
    latest.symlink_to(run_dir.name, target_is_directory=True)


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="open_r1.launch", description=__doc__)
    parser.add_argument("step", help=f"{', '.join(MODULES)}, or run for whatever the recipe says")
    parser.add_argument("recipe", type=Path)
    parser.add_argument("overrides", nargs="*", help="section.key=value, checked like the file")
    parser.add_argument("--runs", type=Path, default=RUNS, help="where run directories are made (default: runs/)")
    parser.add_argument(
        "--resume",
        type=Path,
        metavar="RUN_DIR",
        help="take up this run with the recipe as it is now, e.g. with a larger trainer.max_steps",
    )
    parser.add_argument(
        "--share",
        metavar="INDEX/COUNT",
        help=f"only this share of {' or '.join(shares.RESULTS)}, e.g. 0/5, 1/5, …; then run it without, to join them",
    )
    parser.add_argument("--stage", metavar="NAME", help="of a pipeline: only this stage, if its parents are done")
    parser.add_argument(
        "--submitted",
        type=Path,
        metavar="FOLDER",
        help="the recipe as open_r1.slurm copied it there: what is changed after that does not concern the job",
    )
    parser.add_argument("--dry-run", action="store_true", help="check, print the resolved recipe and the command")
    return parser.parse_intermixed_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Exit code 0 if the run is done, 2 for a mistake in the recipe, 75 if it was interrupted, else its process's."""
    try:
        with signals.answered_with(signals.raise_interrupted):
            return _main(_arguments(argv))
    except signals.Interrupted as interrupted:
        print(f"{interrupted}; the same command goes on from here")
        return signals.EXIT_INTERRUPTED


def _main(arguments: argparse.Namespace) -> int:
    pipeline_dir = None
    try:
        in_container = site_of_this_process().container is not None  # whose packages are not ours
        recipe = _recipe_of(arguments)
        run_dir = _run_directory_of(arguments, recipe)
        if arguments.stage is None:
            check_recipe(recipe, before_run=not in_container and not arguments.dry_run)
            parents = model_parents(recipe)
        else:
            whole, pipeline_dir = recipe, run_dir
            recipe, run_dir, parents = pipeline.stage_of_run(whole, pipeline_dir, arguments.stage)
        share = None
        if arguments.share is not None:
            share = shares.parse_share(arguments.share, recipe)
            if is_done(run_dir, recipe, parents):
                print(f"{run_dir} is done already; it needs no share {share}")
                return 0
            run_dir = share.directory(run_dir)
        if arguments.stage is None:
            _check_taken_up(run_dir, recipe, parents, by_name=arguments.resume is not None)
    except RecipeError as error:
        print(error, file=sys.stderr)
        return 2
    except RunStopped as missed:  # the gate of an earlier stage
        print(missed, file=sys.stderr)
        return EXIT_STOPPED
    if arguments.dry_run:
        print(dump_recipe(recipe))
        _print_commands(recipe, run_dir)
        for line in () if in_container else not_ready(recipe):
            print(line, file=sys.stderr)
        return 0
    if is_done(run_dir, recipe, parents):
        print(f"{run_dir} is done already; change the recipe or the seed, or move it away, to run it anew")
    else:
        for note in notes_on(recipe):
            print(note, file=sys.stderr)
        print(f"{recipe.step} -> {run_dir}", flush=True)
        try:
            exit_code = launch(recipe, run_dir, parents, in_place=arguments.resume is not None)
        except RecipeError as error:
            print(error, file=sys.stderr)
            return 2
        if exit_code == signals.EXIT_INTERRUPTED:
            interrupted = signals.interruption_of(run_dir)
            print(f"{recipe.step} was {interrupted}; the same command takes it up again. {run_dir}/run.json")
            return exit_code
        if exit_code:
            print(
                f"{recipe.step} failed (exit code {exit_code}); the same command takes it up again. {run_dir}/run.json"
            )
            if share is None:
                _report(run_dir)
            return exit_code
    if share is not None:
        print(f"share {share} of {recipe.step} is done; when all are, the command without --share joins them")
        return 0
    if pipeline_dir is not None:
        try:
            pipeline.check_gate_of(whole, pipeline_dir, arguments.stage)
        except RunStopped as missed:
            print(missed, file=sys.stderr)
            return EXIT_STOPPED
        with alone_at_work(pipeline_dir):
            if missing := pipeline.finish(whole, pipeline_dir):
                print(f"stage {arguments.stage} is done; not yet: {', '.join(missing)}")
                return 0
        run_dir = pipeline_dir
    _point_latest_at(run_dir)
    _report(run_dir)
    return 0


def _recipe_of(arguments: argparse.Namespace) -> Recipe:
    """The recipe that the command line means, as it was when it was submitted. Raises RecipeError."""
    if arguments.submitted is None:
        recipe = load_recipe(arguments.recipe, arguments.overrides)
    else:
        recipe = load_recipe(arguments.submitted / RECIPE_FILE, arguments.overrides)
        recipe._source = arguments.recipe  # its name, and the folder of its paths
    if arguments.step != "run" and arguments.step not in MODULES:
        raise RecipeError(f"{arguments.step}: unknown step{closest(arguments.step, MODULES)}")
    if arguments.step not in ("run", recipe.step):
        target = "r1" if recipe.step == "pipeline" else recipe.step
        raise RecipeError(
            f"{recipe.source}: step: it is {recipe.step}, not {arguments.step}; run "
            f"`make {target} RECIPE={recipe.source}`"
        )
    if arguments.stage is not None and recipe.step != "pipeline":
        raise RecipeError(f"{recipe.source}: step: {recipe.step} has no stages (a pipeline has); leave --stage out")
    if arguments.stage is not None and arguments.resume is not None:
        raise RecipeError(f"{recipe.source}: --resume: a stage is taken up by itself; leave it out, or --stage")
    return recipe


def _run_directory_of(arguments: argparse.Namespace, recipe: Recipe) -> Path:
    if arguments.resume is not None:
        return arguments.resume.resolve()
    if arguments.submitted is not None:  # a stage's recipe may have been changed since, and would lead elsewhere
        return Path((arguments.submitted / RUN_DIRECTORY_FILE).read_text(encoding="utf-8"))
    return run_directory(recipe, arguments.runs.resolve())


def _print_commands(recipe: Recipe, run_dir: Path) -> None:
    """Prints what would be started, as one would type it."""
    try:
        nodes = nodes_of(recipe)
    except RecipeError:
        nodes = some_nodes(recipe)
        print("# in a Slurm job, where the nodes have other names and the port is the job's own:")
    for _, hosts, argv in vllm_server.server_commands(recipe, nodes):
        print(shlex.join(nodes.on(hosts, argv)))
    print(shlex.join(command(recipe, run_dir, nodes)))


def _check_taken_up(run_dir: Path, recipe: Recipe, parents: Sequence[dict[str, Any]], by_name: bool) -> None:
    """Raises RecipeError if what lies in a run directory cannot be taken up with the recipe.

    `by_name` says that the user named the directory, with --resume; else the recipe did, with its hash.
    """
    record = run_record.read_record(run_dir)
    if not by_name:
        if record is not None and record["recipe_sha256"] != recipe.sha256:
            raise RecipeError(
                f"{recipe.source}: {run_dir} was taken up with another recipe since; give that again with "
                f"`--resume {run_dir}`, or move the directory away to run this one anew"
            )
        return
    checkpoint = last_checkpoint(run_dir / "checkpoints")
    if record is None or checkpoint is None:
        missing = run_record.FILE_NAME if record is None else "checkpoints/checkpoint-*"
        raise RecipeError(
            f"{recipe.source}: --resume {run_dir}: there is no {missing} to take up; give the run directory of a run "
            f"that was trained, or leave --resume out"
        )
    check_recipe_of(checkpoint, recipe)
    if not same_weights(record, parents):
        raise RecipeError(
            f"{recipe.source}: model.name: the weights there are no longer those that {run_dir} began from; put "
            f"them back, or leave --resume out to begin another run"
        )


def _report(run_dir: Path) -> None:
    from open_r1 import report  # matplotlib takes a second, and only a finished run needs it

    report.print_table(run_dir)
    print(f"report: {report.write_report(run_dir)}")


if __name__ == "__main__":
    sys.exit(main())
