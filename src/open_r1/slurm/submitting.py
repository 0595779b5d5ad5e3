"""A submission: a folder with all that was submitted, and the jobs that sbatch makes of it.

<log_directory>/<recipe>/<run id>/<n>/
    recipe.yaml      the recipe file as it was; the jobs read this one
    run_directory    where they work
    site.yaml        the site, resolved
    <job>.slurm      the script of each job
    jobs.json        name, id, command of each job
    <job>-<id>.log   a line on each attempt; what it said is in <job>-<id>/attempt-<n>.log
"""

import json
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from open_r1 import pipeline
from open_r1.recipe import Recipe, RecipeError
from open_r1.resuming import RECIPE_FILE
from open_r1.slurm.jobs import Job
from open_r1.slurm.rendering import SITE_FILE, script_of
from open_r1.slurm.site import Site, dump_site

RUN_DIRECTORY_FILE = "run_directory"
JOBS_FILE = "jobs.json"
MAX_SUBMISSIONS = 100_000


@dataclass(frozen=True)
class Submission:
    """What is to be submitted. `overrides` are those of the command line, their paths absolute."""

    recipe: Recipe
    overrides: list[str]
    site: Site
    jobs: list[Job]
    run_dir: Path
    folder: Path

    def script(self, job: Job) -> str:
        """The text of a job's sbatch script."""
        return script_of(job, self.recipe, self.overrides, self.site, self.folder)

    def command(self, job: Job, ids: dict[str, str]) -> list[str]:
        """The argv that submits a job, given the ids of those before it."""
        waits = [f"--dependency=afterok:{ids[job.after]}", "--kill-on-invalid-dep=yes"] if job.after else []
        return ["sbatch", "--parsable", *waits, str(self.folder / f"{job.name}.slurm")]

    def write(self) -> None:
        """Makes the folder, which must not be there. Raises RecipeError if it cannot be made."""
        try:
            self.folder.mkdir(parents=True)
            (self.folder / RECIPE_FILE).write_bytes(self.recipe.source.read_bytes())
            (self.folder / RUN_DIRECTORY_FILE).write_text(str(self.run_dir), encoding="utf-8")
            (self.folder / SITE_FILE).write_text(dump_site(self.site), encoding="utf-8")
            for job in self.jobs:
                (self.folder / f"{job.name}.slurm").write_text(self.script(job), encoding="utf-8")
            if self.recipe.step == "pipeline":
                pipeline.prepare(self.recipe, self.run_dir)
        except OSError as error:
            raise RecipeError(
                f"log_directory: {error.filename or self.folder} cannot be written ({error.strerror}); give another in "
                f"the site file"
            ) from None

    def submit(self) -> dict[str, str]:
        """Job -> its id, all of them submitted. Raises RecipeError, and leaves no job behind, if sbatch refuses one."""
        ids: dict[str, str] = {}
        for job in self.jobs:
            command = self.command(job, ids)
            finished = subprocess.run(command, capture_output=True, text=True)
            if finished.returncode:
                if ids:
                    subprocess.run(["scancel", *ids.values()])
                raise RecipeError(f"sbatch refused the job {job.name}: {' '.join(finished.stderr.split())}")
            ids[job.name] = finished.stdout.strip().partition(";")[0]  # id;cluster
            known = [{"job": name, "id": number} for name, number in ids.items()]
            (self.folder / JOBS_FILE).write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")
        return ids

    def shown(self) -> str:
        """What would be written and done, for a dry run."""
        places = {job.name: f"<id of {job.name}>" for job in self.jobs}
        parts = [f"# {self.folder / job.name}.slurm\n{self.script(job)}" for job in self.jobs]
        return "\n".join([*parts, *(shlex.join(self.command(job, places)) for job in self.jobs)])


def check_slurm() -> None:
    """Raises RecipeError if there is no Slurm here to submit to."""
    if shutil.which("sbatch") is None:
        raise RecipeError("there is no sbatch here; submit from a login node of the cluster, or look with --dry-run")


def next_folder(log_directory: Path, name: Sequence[str]) -> Path:
    """The folder of the next submission of a run: the first number that is free."""
    of_run = log_directory.joinpath(*name)
    return next(folder for n in range(1, MAX_SUBMISSIONS) if not (folder := of_run / str(n)).exists())
