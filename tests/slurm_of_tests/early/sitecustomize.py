"""Python runs this before anything else where this folder is in PYTHONPATH: a job is asked to stop at that moment.

EARLY_SIGNAL is what its batch script gets when the first Python of the first attempt begins. Nobody in Python can have
a handler by then; this one waits for what comes of it.
"""

import os
import subprocess
import time

if "SLURM_JOB_ID" in os.environ and "EARLY_SIGNAL" in os.environ:
    marker = os.path.join(os.environ["WITNESSES"], "asked-early")
    if not os.path.exists(marker):
        open(marker, "w").close()
        subprocess.run(["scancel", "--batch", f"--signal={os.environ['EARLY_SIGNAL']}", os.environ["SLURM_JOB_ID"]])
        time.sleep(5)
