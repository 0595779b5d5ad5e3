"""The site file: what a cluster is like, said once for all recipes (slurm/site.yaml)."""

import os
import re
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from open_r1.places import REPOSITORY
from open_r1.recipe import RecipeError
from open_r1.wording import closest

SHIPPED_SITE = REPOSITORY / "slurm" / "site.yaml"
VARIABLE = "OPEN_R1_SITE"
AS_A_RECIPE = ConfigDict(extra="forbid", frozen=True, strict=True)
TIME_LIMIT = re.compile(
    r"\d+(:\d+){0,2}|\d+-\d+(:\d+){0,2}"
)  # of sbatch: minutes, [hours:]minutes:seconds, days-hours…
NAME_OF_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
OWN_OPTIONS = {  # of sbatch, which come from the recipe or from a key of their own
    *("--array", "--cpus-per-task", "--dependency", "--gpus-per-node", "--gres", "--job-name", "--kill-on-invalid-dep"),
    *("--nodes", "--ntasks", "--ntasks-per-node", "--open-mode", "--output", "--parsable", "--requeue", "--no-requeue"),
    *("--signal", "--time", "--mem", "--partition", "--account", "--qos"),
}


class Container(BaseModel):
    """In what the processes of a run are started on every node; the launcher itself stays outside."""

    model_config = AS_A_RECIPE

    exec: list[str] = []
    """Put before the command, e.g. [apptainer, exec, --nv, /images/open-r1.sif]."""
    srun: list[str] = []
    """Options of srun, for a plugin of Slurm's, e.g. [--container-image=/images/open-r1.sqsh] for pyxis."""
    python: str = "python3"
    """The Python in there that has this package."""


class Site(BaseModel):
    """A cluster, and how jobs are to be there. Relative paths begin at the repository."""

    model_config = AS_A_RECIPE

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    time: dict[
        Literal[
            "default",
            "pretrain",
            "sft",
            "preferences",
            "reward_model",
            "dpo",
            "grpo",
            "generate",
            "distill",
            "evaluate",
        ],
        str,
    ] = {}
    """Time limits as sbatch takes them, of a step or of all (`default`); none: the partition's."""
    gpus_per_node: int = Field(default=8, ge=0)
    """How many GPUs a node has."""
    gres: str | None = None
    """How GPUs are asked for, e.g. gpu:h100 for `--gres=gpu:h100:N`; default: `--gpus-per-node=N`."""
    cpus_per_node: int | None = Field(default=None, gt=0)
    """CPUs that a job asks for on each of its nodes; default: those of its processes, see `resources`."""
    mem: str | None = None
    """Memory that a job asks for on each of its nodes, e.g. 512G; 0: all that there is."""
    sbatch: list[str] = []
    """More options of sbatch, e.g. ["--exclusive", "--constraint=infiniband"]."""
    modules: list[str] = []
    """Loaded before anything is started."""
    setup: list[str] = []
    """Lines of bash, each a command, that the job begins with after that; one that fails ends the job."""
    python: str | None = None
    """The Python that starts the run, e.g. .venv/bin/python; default: the one that submits."""
    container: Container | None = None
    environment: dict[str, str] = {}
    """Variables of every process, e.g. NCCL_SOCKET_IFNAME, GLOO_SOCKET_IFNAME."""
    vllm: list[str] = Field(default=["vllm", "serve"], min_length=1)
    """The command that serves a model, e.g. with the path of another environment's vllm."""
    runs: str = "runs"
    """Where run directories are made; every node must see it."""
    log_directory: str = "runs/slurm"
    """Where what was submitted, and what it said, is kept; every node must see it."""
    shares: dict[Literal["evaluate", "generate", "preferences", "distill"], int] = {}
    """Step -> number of jobs, an array, over which it is split; default: one job."""
    max_restarts: int = Field(default=20, ge=0)
    """How often a job may be queued again, at its time limit or because it had to make way."""
    signal_seconds: int = Field(default=300, gt=0, le=65535)
    """A job is asked to stop so many seconds before its time limit; a checkpoint has to be written in them."""

    @field_validator("time")
    @classmethod
    def _are_time_limits(cls, times: dict[str, str]) -> dict[str, str]:
        for time in times.values():
            if not TIME_LIMIT.fullmatch(time):
                raise ValueError(f"{time!r} is no time limit; write e.g. '12:00:00' or '2-00:00:00'")
        return times

    @field_validator("environment")
    @classmethod
    def _are_variables(cls, environment: dict[str, str]) -> dict[str, str]:
        for name in environment:
            if not NAME_OF_VARIABLE.fullmatch(name):
                raise ValueError(f"{name!r} cannot be the name of a variable; use letters, digits and _")
        return environment

    @field_validator("sbatch")
    @classmethod
    def _are_options(cls, options: list[str]) -> list[str]:
        for option in options:
            if not option.startswith("-"):
                raise ValueError(f"{option!r} is no option; write it as one word, e.g. --constraint=infiniband")
            if option.partition("=")[0] in OWN_OPTIONS:
                raise ValueError(f"{option.partition('=')[0]} is said by the recipe or by a key of its own; remove it")
        return options

    @field_validator("shares")
    @classmethod
    def _are_numbers_of_jobs(cls, shares: dict[str, int]) -> dict[str, int]:
        for step, number in shares.items():
            if number < 1:
                raise ValueError(f"{step} cannot be split over {number} jobs; at least 1")
        return shares

    @field_validator("partition", "account", "qos", "gres", "mem", "sbatch", mode="after")
    @classmethod
    def _are_one_line(cls, value: Any) -> Any:
        for text in value if isinstance(value, list) else [value]:
            if text is not None and ("\n" in text or not text):
                raise ValueError(f"{text!r} must be one line, and not empty")
        return value

    def path(self, value: str) -> Path:
        """A path written in the site file."""
        return Path(os.path.abspath(REPOSITORY / value))

    def time_of(self, step: str) -> str | None:
        """The time limit of a step's job, None for the partition's own."""
        return self.time.get(step, self.time.get("default"))


def site_file(named: Path | None = None) -> Path:
    """The file that was named, else that of OPEN_R1_SITE, else the shipped one."""
    return named or (Path(os.environ[VARIABLE]) if os.environ.get(VARIABLE) else SHIPPED_SITE)


def load_site(file: Path) -> Site:
    """What a site file says. Raises RecipeError, one line for each mistake."""
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"{file}: the site file cannot be read ({error.strerror}); name one with --site") from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark else ""
        raise RecipeError(f"{file}: {where}not valid YAML ({getattr(error, 'problem', error)})") from None
    if not isinstance(values, dict | None):
        raise RecipeError(f"{file}: a site file is a mapping of keys (partition, account, …)")
    try:
        return Site.model_validate(values or {})
    except ValidationError as error:
        raise RecipeError(*(_line(file, entry) for entry in error.errors())) from None


def dump_site(site: Site) -> str:
    """The site file as YAML, every default written out."""
    return yaml.safe_dump(site.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def site_of_this_process() -> Site:
    """The site that OPEN_R1_SITE names, as in the jobs that are rendered here; defaults where it is not set."""
    return load_site(Path(os.environ[VARIABLE])) if os.environ.get(VARIABLE) else Site()


def _line(file: Path, error: dict[str, Any]) -> str:
    key = ".".join(str(part) for part in error["loc"] if part != "[key]")
    if error["type"] == "extra_forbidden":
        section = Container if error["loc"][0] == "container" else Site
        return f"{file}: {key}: unknown key of a site file{closest(str(error['loc'][-1]), section.model_fields)}"
    if error["type"] == "value_error":
        return f"{file}: {key}: {error['ctx']['error']}"
    if error["loc"][0] == "time" and isinstance(error["input"], int):
        return f"{file}: {key}: {error['input']} is a number to YAML, as 12:00:00 is; put it in quotes"
    if error["type"] == "string_type" and isinstance(error["input"], int | float | bool):
        return f"{file}: {key}: {error['input']!r} must be text; put it in quotes"
    return f"{file}: {key}: {error['input']!r} is wrong: {error['msg'][0].lower()}{error['msg'][1:]}"
