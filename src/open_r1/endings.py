"""How the processes of one run on several nodes ended: each node leaves a file, and the launcher draws a conclusion."""

import os
from pathlib import Path

from open_r1 import signals

VARIABLE = "OPEN_R1_ENDINGS"
# How a node ends because of another one, or because somebody asked the run to stop: a connection is lost (exit code
# 1), or a signal came, before or after the processes could answer it.
EXIT_LOST_ANOTHER = 1
CONSEQUENCES = {EXIT_LOST_ANOTHER, signals.EXIT_INTERRUPTED, *(128 + signum for signum in signals.SIGNALS)}
MAX_NODES = 10_000


def leave_ending(exit_code: int) -> None:
    """Writes down, on one of several nodes, with what exit code its processes failed: file n for the n-th, from 0."""
    folder = os.environ.get(VARIABLE)
    if not folder or exit_code == 0:
        return
    for number in range(MAX_NODES):
        try:
            with (Path(folder) / str(number)).open("x", encoding="utf-8") as file:
                file.write(str(exit_code))
            return
        except FileExistsError:
            continue
        except OSError:  # the folder cannot be seen from here: the runner's own code has to do
            return


def exit_code_of_nodes(exit_code: int, folder: Path, asked_to_stop: bool) -> int:
    """The exit code of a run on several nodes, from its runner's and those that the nodes left in `folder`.

    A runner only knows the greatest, or the first. But when one node fails the others are asked to stop, and say that
    they were interrupted; and who loses another fails as well, maybe before it.
    """
    files = sorted((file for file in folder.glob("*") if file.name.isdigit()), key=lambda file: int(file.name))
    codes = [int(file.read_text(encoding="utf-8") or EXIT_LOST_ANOTHER) for file in files]
    if exit_code == 0 or not codes:
        return exit_code
    if exit_code not in codes and exit_code not in CONSEQUENCES:  # a node ended without a word: SIGKILL
        return exit_code
    causes = [code for code in codes if code not in CONSEQUENCES]
    if causes:
        return causes[0]
    return signals.EXIT_INTERRUPTED if asked_to_stop else codes[0]
