"""What to type to run something again, from what its record says it was started with."""

import shlex
from collections.abc import Sequence
from pathlib import PurePath

from open_r1.report.reading import Run

PYTHON = ".venv/bin/python"
LAUNCH = f"{PYTHON} -m open_r1.launch"
LAUNCHER_PARTS = ("open_r1", "launch.py")
OF_ONE_CALL = ("--stage", "--share")  # with a value each; what only one of several calls was asked for
SWITCHES_OF_ONE_CALL = ("--dry-run",)


def run_command(run: Run) -> str | None:
    """The command that makes a run, or takes it up; None if the record does not know."""
    argv = _launch_arguments(run)
    if argv is not None:
        return f"{LAUNCH} {shlex.join(argv)}"
    return shlex.join(map(str, run.record.get("command") or [])) or None


def stage_command(pipeline: Run, stage: Run) -> str | None:
    """The command that runs one stage, with the overrides of the pipeline: without them it would be another run.

    A stage that is done is moved away first. None if the record does not know the recipe's file.
    """
    argv = _launch_arguments(pipeline)
    if argv is None:
        recipe_file = pipeline.record.get("recipe_file")
        if not recipe_file:
            return None
        argv = ["run", str(recipe_file)]
    command = f"{LAUNCH} {shlex.join(['run', *argv[1:], '--stage', stage.name])}"
    if stage.status != "done":
        return command
    folder = shlex.quote(str(stage.folder))
    return f"mv {folder} {folder}.before\n{command}"


def _launch_arguments(run: Run) -> list[str] | None:
    """STEP RECIPE and all that followed, but for what names a part of the run; None if something else started it."""
    command = [str(word) for word in run.record.get("command") or []]
    if not command or PurePath(command[0]).parts[-2:] != LAUNCHER_PARTS:
        return None
    return _without_parts(command[1:]) or None


def _without_parts(words: Sequence[str]) -> list[str]:
    kept, skip = [], False
    for word in words:
        if skip:
            skip = False
        elif word in OF_ONE_CALL:
            skip = True
        elif word not in SWITCHES_OF_ONE_CALL and not word.startswith(tuple(f"{flag}=" for flag in OF_ONE_CALL)):
            kept.append(word)
    return kept
