"""`accelerate launch`, but it ends with the exit code of the step, and without a traceback of the launcher's own.

A step has said in one line why it ended; what torch's elastic agent adds is two pages on how it noticed.
"""

import logging
import subprocess
import sys

from accelerate.commands import launch
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError


def main() -> None:
    """Takes the arguments of `accelerate launch`."""
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    try:
        launch.main()
    except ChildFailedError as error:
        _, failure = error.get_first_failure()
        sys.exit(failure.exitcode if failure.exitcode > 0 else 1)  # below 0 it is a signal
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode if error.returncode > 0 else 1)


if __name__ == "__main__":
    main()
