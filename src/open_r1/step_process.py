"""The process of one step: from a run directory with a resolved recipe to a clear exit code."""

import contextlib
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from open_r1 import signals
from open_r1.recipe import Recipe, RecipeError, load_recipe
from open_r1.resuming import RECIPE_FILE

ERROR_FILE = "error.txt"
WARNINGS_FILE = "warnings.jsonl"
EXIT_FAULT = 1
EXIT_USER_ERROR = 2
EXIT_STOPPED = 3
SECONDS_FOR_LAST_WORDS = 5.0


class RunStopped(RuntimeError):
    """A run that was ended on purpose, with the reason and the key to change. Never shown with a traceback."""


class JudgeFailed(RunStopped):
    """A run that was ended because too much got no verdict."""


def warnings_of(run_dir: Path) -> list[dict[str, Any]]:
    """What a run has warned of, a dict with step, key and reason each; half a line that a kill left is none."""
    file = run_dir / WARNINGS_FILE
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True) if file.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def run_step(step: Callable[[Recipe, Path], None]) -> None:
    """Runs `step(recipe, run_dir)` for the run directory on the command line and exits.

    Exit code 0 if it went through, 2 for a mistake of the user's, 3 for a guard that stopped the run, 75 if a signal
    asked it to stop, 1 for a fault of ours. The reason is left in the run directory for run.json.
    """
    signals.die_with_launcher()
    run_dir = Path(sys.argv[1])
    put_back = signals.answer_with(signals.raise_interrupted)
    try:
        exit_code = _exit_code_of(step, run_dir)
        put_back()
    except signals.Interrupted as interrupted:
        signals.leave_marker(run_dir, interrupted)
        _tell(str(interrupted))
        exit_code = signals.EXIT_INTERRUPTED
    if exit_code or _num_processes() > 1:
        _end(exit_code)


def _exit_code_of(step: Callable[[Recipe, Path], None], run_dir: Path) -> int:
    try:
        step(load_recipe(run_dir / RECIPE_FILE), run_dir)
    except (RecipeError, RunStopped) as error:
        leave_reason(run_dir, str(error))
        _tell(str(error))
        return EXIT_USER_ERROR if isinstance(error, RecipeError) else EXIT_STOPPED
    except Exception:  # noqa: BLE001 - whatever it is, the process ends with it, and as all others do
        leave_reason(run_dir, traceback.format_exc())
        traceback.print_exc()
        return EXIT_FAULT
    return 0


def _end(exit_code: int) -> None:
    """Ends this process; one of several at once, without Python's clearing up.

    The threads of gloo and NCCL live on while the interpreter goes down, and one time in five to ten they end the
    process themselves (`terminate called without an active exception`), with another exit code than ours.
    """
    if _num_processes() == 1:
        sys.exit(exit_code)
    if exit_code in (EXIT_USER_ERROR, EXIT_STOPPED) and not _is_first_process():
        time.sleep(SECONDS_FOR_LAST_WORDS)  # the launcher ends all at the first that ends, and one has to say why
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)


def _num_processes() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def _is_first_process() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _tell(reason: str) -> None:
    if _is_first_process():  # all processes of a run stop for the same reason; one says it
        print(reason, file=sys.stderr)


def leave_reason(run_dir: Path, reason: str) -> None:
    """Writes why the run ends, unless another of its processes has: the others only lose their connections to it."""
    with contextlib.suppress(FileExistsError), (run_dir / ERROR_FILE).open("x", encoding="utf-8") as file:
        file.write(reason + "\n")
