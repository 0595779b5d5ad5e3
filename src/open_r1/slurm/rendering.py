"""A job -> the sbatch script that runs it, whole: its options, its values, and what all jobs do (job.sh).

Values get into bash by shlex.quote alone, one word of an array each.
"""

import re
import shlex
import sys
from pathlib import Path

from open_r1.places import REPOSITORY
from open_r1.recipe import Recipe
from open_r1.slurm.jobs import Job
from open_r1.slurm.site import VARIABLE, Site

COMMON = Path(__file__).with_name("job.sh")
SITE_FILE = "site.yaml"
PLAIN_WORD = re.compile(r"[\w@%+=:,./-]+")

# Before anything else: the signal may come while the job is still being set up.
TRAPS = """\
launcher='' asked_to_stop=''
# shellcheck disable=SC2317  # the traps do reach it
stop() {
    asked_to_stop=$1
    if [ -n "$launcher" ]; then
        kill -s "$1" "$launcher" 2>/dev/null
    fi
}
trap 'stop USR1' USR1
trap 'stop TERM' TERM
"""


def script_of(job: Job, recipe: Recipe, overrides: list[str], site: Site, folder: Path) -> str:
    """The sbatch script of a job whose submission's folder is `folder`."""
    python = str(site.path(site.python)) if site.python else sys.executable
    command = [
        *(python, "-m", "open_r1.launch", recipe.step, str(recipe.source.resolve()), *overrides),
        *(*job.arguments, "--submitted", str(folder)),
    ]
    values = {
        "job_name": job.name,
        "folder": str(folder),
        "repository": str(REPOSITORY),
        "max_restarts": str(site.max_restarts),
        "num_shares": str(job.num_shares),
    }
    return "\n".join(
        [
            "#!/bin/bash",
            *(f"#SBATCH {_option(option)}" for option in options_of(job, site, folder)),
            "",
            TRAPS,
            *(f"{name}={shlex.quote(value)}" for name, value in values.items()),
            "# shellcheck disable=SC2016  # nothing here is meant to be expanded",
            "command=(",
            *(f"    {shlex.quote(word)}" for word in command),
            ")",
            "",
            *_set_up(site, folder),
            "",
            COMMON.read_text(encoding="utf-8"),
        ]
    )


def options_of(job: Job, site: Site, folder: Path) -> list[str]:
    """The options of sbatch, as `--name=value`."""
    resources = job.resources
    log = f"{_without_patterns(str(folder))}/{job.name}-" + ("%A_%a.log" if job.num_shares > 1 else "%j.log")
    options = {
        "job-name": job.name,
        "partition": site.partition,
        "account": site.account,
        "qos": site.qos,
        "time": resources.time,
        "nodes": resources.nodes,
        "ntasks-per-node": 1,
        "cpus-per-task": resources.cpus_per_node,
        "mem": resources.mem,
        "gpus-per-node": resources.gpus_per_node or None,
        "array": f"0-{job.num_shares - 1}" if job.num_shares > 1 else None,
        "output": log,
        "open-mode": "append",
        "signal": f"B:USR1@{site.signal_seconds}",
    }
    if site.gres and resources.gpus_per_node:
        options |= {"gpus-per-node": None, "gres": f"{site.gres}:{resources.gpus_per_node}"}
    given = [f"--{name}={value}" for name, value in options.items() if value is not None]
    return [*given, "--requeue", *site.sbatch]


def _option(option: str) -> str:
    """As sbatch reads it in a script: with blanks and the like between double quotes."""
    if PLAIN_WORD.fullmatch(option):
        return option
    return '"' + option.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _without_patterns(path: str) -> str:
    return path.replace("%", "%%")


def _set_up(site: Site, folder: Path) -> list[str]:
    """The function that sets the site's environment up; it gives 0 if every line of it does."""
    lines = [f"module load {shlex.quote(module)}" for module in site.modules] + site.setup
    environment = {**site.environment, VARIABLE: str(folder / SITE_FILE)}
    return [
        "# shellcheck disable=SC2016",
        "set_up() {",
        "    set +u  # what a site sources was not written for it",
        *(f"    {{ {line}\n    }} || return" for line in lines),
        *(f"    export {name}={shlex.quote(value)}" for name, value in environment.items()),
        "}",
    ]
