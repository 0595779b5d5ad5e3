"""`accelerate launch`, but it ends with the exit code of the step, and without a traceback of the launcher's own.

A step has said in one line why it ended; what torch's elastic agent adds is two pages on how it noticed. And a signal
that asks the run to stop is sent on to the step's processes, which then end by themselves.

With several nodes this is what is started on each of them, with the same arguments; which one it is on, it sees there.
"""

import contextlib
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Mapping

import psutil
from accelerate.commands import launch
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from open_r1 import endings, signals

RANK_VARIABLES = ("OPEN_R1_MACHINE_RANK", "SLURM_PROCID")
# torchrun's default for --signals-to-handle, without SIGTERM, at which its agent would end all processes.
os.environ["PET_SIGNALS_TO_HANDLE"] = "SIGINT,SIGHUP,SIGQUIT"


def main() -> None:
    """Takes the arguments of `accelerate launch`. A process that signal n ended gives the exit code 128 + n."""
    signals.die_with_launcher()
    os.environ.update(signals.as_launcher())
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    signals.answer_with(_send_on)
    sys.argv[1:] = with_machine_rank(sys.argv[1:])
    exit_code = _launch()
    endings.leave_ending(exit_code)
    sys.exit(exit_code)


def _launch() -> int:
    try:
        launch.main()
    except ChildFailedError as error:
        return exit_code_of(error.failures)
    except subprocess.CalledProcessError as error:
        return error.returncode if error.returncode > 0 else 128 - error.returncode
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 0 if error.code is None else 1
    except Exception:
        endings.leave_ending(1)
        raise
    return 0


def with_machine_rank(argv: list[str]) -> list[str]:
    """The arguments with that of this node's rank, where there are several nodes."""
    if "--num_machines" not in argv or argv[argv.index("--num_machines") + 1] == "1":
        return argv
    rank = next((os.environ[name] for name in RANK_VARIABLES if os.environ.get(name)), None)
    if rank is None:
        sys.exit(f"one of several nodes, but no {' or '.join(RANK_VARIABLES)} says which; start it with open_r1.launch")
    return ["--machine_rank", rank, *argv]


def exit_code_of(failures: Mapping[int, ProcessFailure]) -> int:
    """That of the process which the others only followed, with a line of what each did where there are several."""
    codes = {rank: failure.exitcode for rank, failure in sorted(failures.items())}
    if len(codes) > 1:
        endings = ", ".join(f"process {rank} by {_ending(code)}" for rank, code in codes.items())
        print(f"several processes ended: {endings}", file=sys.stderr)
    cause = min(codes.values(), key=_distance_from_cause)
    return cause if cause > 0 else 128 - cause


def _distance_from_cause(exit_code: int) -> int:
    """Who loses another process fails as well (exit code 1), and torch's agent ends who is left by SIGTERM."""
    if exit_code < 0:
        return 3 if exit_code == -signal.SIGTERM else 0
    return 1 if exit_code > 1 else 2


def _ending(exit_code: int) -> str:
    return f"exit code {exit_code}" if exit_code >= 0 else signal.Signals(-exit_code).name


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
