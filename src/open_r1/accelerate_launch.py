"""`accelerate launch`, but it ends with the exit code of the step, and without a traceback of the launcher's own.

A step has said in one line why it ended; what torch's elastic agent adds is two pages on how it noticed. And a signal
that asks the run to stop is sent on to the step's processes, which then end by themselves.
"""

import contextlib
import logging
import os
import subprocess
import sys

import psutil
from accelerate.commands import launch
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from open_r1 import signals

# torchrun's default for --signals-to-handle, without SIGTERM, at which its agent would end all processes.
os.environ["PET_SIGNALS_TO_HANDLE"] = "SIGINT,SIGHUP,SIGQUIT"


def main() -> None:
    """Takes the arguments of `accelerate launch`. A process that signal n ended gives the exit code 128 + n."""
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    signals.answer_with(_send_on)
    try:
        launch.main()
    except ChildFailedError as error:
        _, failure = error.get_first_failure()
        sys.exit(failure.exitcode if failure.exitcode > 0 else 128 - failure.exitcode)
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode if error.returncode > 0 else 128 - error.returncode)


def _send_on(signum: int) -> None:
    """Sends a signal to the step's processes; ends this one where there are none yet."""
    processes = psutil.Process().children()
    if not processes:
        sys.exit(signals.EXIT_INTERRUPTED)
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):  # it has just ended
            process.send_signal(signum)


if __name__ == "__main__":
    main()
