"""`python -m open_r1.slurm RECIPE [section.key=value …]`: the same run as `open_r1.launch`, as Slurm jobs."""

import argparse
import re
import sys
from pathlib import Path

from open_r1.check import check_recipe, not_ready
from open_r1.recipe import RecipeError, is_path, load_recipe
from open_r1.running import run_directory
from open_r1.slurm.jobs import Job, jobs_of
from open_r1.slurm.site import VARIABLE, load_site, site_file
from open_r1.slurm.submitting import Submission, check_slurm, next_folder


def main(argv: list[str] | None = None) -> int:
    """Exit code 0 if all jobs were submitted (or shown), 2 for a mistake in recipe or site, or if sbatch refuses."""
    arguments = _arguments(argv)
    try:
        submission = submission_of(arguments)
        if not arguments.dry_run:
            check_slurm()
            submission.write()
            ids = submission.submit()
    except RecipeError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{submission.recipe.source}: {submission.recipe.step} -> {submission.run_dir}")
    if arguments.dry_run:
        print(*(f"{job.name}: {summary(job)}" for job in submission.jobs), sep="\n")
        print(submission.shown())
        for line in () if submission.site.container else not_ready(submission.recipe):
            print(line, file=sys.stderr)
        return 0
    for job in submission.jobs:
        print(f"job {ids[job.name]}: {job.name}: {summary(job)}")
    print(f"scripts and logs: {submission.folder}")
    return 0


def submission_of(arguments: argparse.Namespace) -> Submission:
    """What the command line asks for, all of it checked and nothing written. Raises RecipeError."""
    site = load_site(site_file(arguments.site))
    overrides = [_with_absolute_path(override) for override in arguments.overrides]
    recipe = load_recipe(arguments.recipe, overrides)
    check_recipe(recipe, before_run=site.container is None and not arguments.dry_run)
    runs = arguments.runs.resolve() if arguments.runs else site.path(site.runs)
    run_dir = run_directory(recipe, runs)
    run = run_dir.relative_to(runs)  # tiny-r1/grpo/seed0-01234567
    jobs = jobs_of(recipe, site, re.sub(r"[^\w.-]", "_", "-".join(run.parent.parts)), arguments.shares)
    folder = next_folder(site.path(site.log_directory), run.parts)
    return Submission(recipe, overrides, site, jobs, run_dir, folder)


def summary(job: Job) -> str:
    """What a job is and asks for, in a line."""
    asked = job.resources
    parts = [
        f"{asked.nodes} node{'s' if asked.nodes > 1 else ''}",
        f"{asked.gpus_per_node} GPUs each" if asked.gpus_per_node else "no GPU",
        f"{asked.cpus_per_node} CPUs each",
        f"time limit {asked.time}" if asked.time else "the partition's time limit",
    ]
    parts += [f"{job.num_shares} times, as an array"] if job.num_shares > 1 else []
    parts += [f"after {job.after}"] if job.after else []
    return ", ".join(parts)


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="open_r1.slurm", description=__doc__)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("overrides", nargs="*", help="section.key=value, checked like the file")
    parser.add_argument("--site", type=Path, metavar="FILE", help=f"default: {VARIABLE}, else slurm/site.yaml")
    parser.add_argument("--runs", type=Path, metavar="DIR", help="where run directories are made (default: the site's)")
    parser.add_argument(
        "--shares", type=int, metavar="N", help="split evaluate, generate and distill over so many jobs"
    )
    parser.add_argument("--dry-run", action="store_true", help="check, print the scripts and commands, do nothing")
    arguments = parser.parse_intermixed_args(argv)
    if arguments.shares is not None and arguments.shares < 1:
        parser.error(f"--shares {arguments.shares}: at least 1")
    return arguments


def _with_absolute_path(override: str) -> str:
    """An override whose relative path is meant from where one stands: the job stands somewhere else."""
    key, equals, value = override.partition("=")
    is_relative = is_path(value) and not value.startswith("/")
    return f"{key}={Path(value).resolve()}" if equals and is_relative else override


if __name__ == "__main__":
    sys.exit(main())
