"""Python runs this before anything else where this folder is in PYTHONPATH: what happens to a job at that moment.

EARLY_SIGNAL is what its batch script gets when the first Python of the first attempt begins. Nobody in Python can have
a handler by then; this one waits for what comes of it. With HOLD_AT=start what trains never begins: so it can be
started where its GPU is not.
"""

import os
import subprocess
import sys
import time

if "SLURM_JOB_ID" in os.environ and "EARLY_SIGNAL" in os.environ:
    marker = os.path.join(os.environ["WITNESSES"], "asked-early")
    if not os.path.exists(marker):
        open(marker, "w").close()
        subprocess.run(["scancel", "--batch", f"--signal={os.environ['EARLY_SIGNAL']}", os.environ["SLURM_JOB_ID"]])
        time.sleep(5)

if os.environ.get("HOLD_AT") == "start" and "open_r1.grpo" in sys.orig_argv:
    open(os.path.join(os.environ["WITNESSES"], "held-0"), "w").close()
    while True:  # until it is ended
        time.sleep(0.02)
