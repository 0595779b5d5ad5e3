"""Runs one program in E2B's machine: `python -I -S -c` of this text, a job on stdin, a report on stdout.

The standard library alone; this file is sent there, and never imported here.
"""

import base64
import contextlib
import ctypes
import json
import math
import os
import resource
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zlib

PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 4, 36, 38
STACK_BYTES = 16 << 20
SECONDS_TO_END = 5

libc = ctypes.CDLL(None)
is_root = os.geteuid() == 0
user = 20000 + os.getpid() % 40000 if is_root else os.getuid()


def num_tasks_of_user():
    """Processes and threads that count against the program's limit before it has begun."""
    num_tasks = 0
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        try:
            if os.stat("/proc/" + pid).st_uid == user:
                num_tasks += len(os.listdir("/proc/" + pid + "/task"))
        except OSError:
            pass
    return num_tasks


def set_limits(limits):
    """What a child does to itself between fork and exec."""
    os.setsid()
    libc.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)  # the next file is root's without; exec would set it as well
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")  # where memory ends, this goes, and not the runner
    cpu_seconds = math.ceil(limits["cpu_seconds"])
    for kind, value in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_CPU, cpu_seconds),  # soft and hard: SIGKILL, which nobody catches
        (resource.RLIMIT_AS, limits["memory_bytes"]),
        (resource.RLIMIT_FSIZE, limits["file_bytes"]),
        (resource.RLIMIT_NPROC, limits["processes"] + limits["num_tasks"]),
        (resource.RLIMIT_STACK, STACK_BYTES),
    ):
        resource.setrlimit(kind, (value, value))
    if is_root:
        os.setgroups([])
        os.setgid(user)
        os.setuid(user)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def descendants():
    parents = {}
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        try:
            with open("/proc/" + pid + "/stat", "rb") as file:
                parents[int(pid)] = int(file.read().rpartition(b")")[2].split()[1])
        except OSError:
            pass
    found, new = set(), {os.getpid()}
    while new:
        new = {pid for pid, parent in parents.items() if parent in new} - found
        found |= new
    return found


def kill_all():
    """Ends what the program has left, and returns its CPU seconds. Orphans are this process's children: it sees the
    last of them go."""
    cpu_seconds = 0.0
    deadline = time.monotonic() + SECONDS_TO_END
    while time.monotonic() < deadline:
        if is_root:
            killer = os.fork()
            if killer == 0:
                try:
                    os.setgid(user)
                    os.setuid(user)
                    os.kill(-1, signal.SIGKILL)  # all of this user at once: a fork bomb cannot run away from it
                finally:
                    os._exit(0)
            os.waitpid(killer, 0)
        else:
            for pid in descendants():
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
        try:
            pid = True
            while pid:
                pid, _, usage = os.wait4(-1, os.WNOHANG)
                cpu_seconds += usage.ru_utime + usage.ru_stime
        except ChildProcessError:
            break
        time.sleep(0.001)
    return cpu_seconds


def num_oom_kills():
    try:
        with open("/proc/vmstat") as file:
            return dict(line.split() for line in file).get("oom_kill", "0")
    except (OSError, ValueError):
        return "0"


def execute(command, directory, stdin, limits):
    """The report on one run of a command."""
    oom_kills = num_oom_kills()
    limits = dict(limits, num_tasks=num_tasks_of_user())
    environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": directory, "TMPDIR": directory}
    environment.update({"LANG": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1", "MALLOC_ARENA_MAX": "1"})
    environment.update({"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"})
    begin = time.monotonic()
    process = subprocess.Popen(
        command,
        cwd=directory,
        env=environment,
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: set_limits(limits),
    )
    ended = os.pidfd_open(process.pid)
    outputs = {pipe.fileno(): bytearray() for pipe in (process.stdout, process.stderr)}
    out, err = outputs.values()
    open_pipes = set(outputs)
    watch = select.poll()
    for fd in (ended, *outputs):
        os.set_blocking(fd, False)
        watch.register(fd, select.POLLIN)

    def read(fd):
        """False if there is no more to read now, or no more to keep."""
        try:
            chunk = os.read(fd, 1 << 16)
        except BlockingIOError:
            return False
        outputs[fd] += chunk
        if not chunk:
            watch.unregister(fd)
            open_pipes.discard(fd)
        return bool(chunk) and len(outputs[fd]) <= limits["output_bytes"]

    is_over, is_too_late = False, False
    while not is_over:
        seconds = begin + limits["wall_seconds"] - time.monotonic()
        is_too_late = seconds <= 0
        if is_too_late or max(len(out), len(err)) > limits["output_bytes"]:
            break
        for fd, _ in watch.poll(math.ceil(seconds * 1000)):
            if fd == ended:
                is_over = True
            else:
                read(fd)
    wall_seconds = time.monotonic() - begin
    if not is_over:
        os.killpg(process.pid, signal.SIGKILL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = exit_code = os.waitstatus_to_exitcode(status)
    cpu_seconds = usage.ru_utime + usage.ru_stime + kill_all()
    for fd in list(open_pipes):
        while read(fd):
            pass

    last_words = bytes(err[-1000:]).strip().rpartition(b"\n")[2]
    # The kernel's account of CPU time, by which it kills, is not exactly the one that it tells.
    if is_too_late or (exit_code == -signal.SIGKILL and cpu_seconds >= 0.8 * limits["cpu_seconds"]):
        status, exit_code = "timeout", None
    elif max(len(out), len(err)) > limits["output_bytes"]:
        status, exit_code = "output_limit", None
    elif exit_code == 0:
        status = "ok"
    elif exit_code == -signal.SIGXFSZ or (exit_code > 0 and b"[Errno 27]" in last_words):
        status = "output_limit"
    elif last_words.startswith(b"MemoryError") or b"std::bad_alloc" in err[-1000:] or num_oom_kills() != oom_kills:
        status = "memory"
    else:
        status = "runtime_error"
    report = {"status": status, "exit_code": exit_code, "wall_seconds": wall_seconds, "cpu_seconds": cpu_seconds}
    for name, output in (("stdout", out), ("stderr", err)):
        written = bytes(output[: limits["output_bytes"]])
        report[name] = base64.b64encode(zlib.compress(written, 1)).decode()
    return report


def run(job, scratch):
    limits = job["limits"]
    for name, content in job["files"].items():
        path = os.path.join(scratch, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(base64.b64decode(content))
    if is_root:
        for directory, _, files in os.walk(scratch):
            for path in (directory, *(os.path.join(directory, name) for name in files)):
                os.chown(path, user, user)
    if job["compiler"]:
        binary = os.path.join(scratch, job["binary"])
        command = [binary]
        kept = os.path.expanduser("~/.open_r1_binary")  # this machine's programs all have the same source
        if os.path.exists(kept):
            shutil.copy(kept, binary)
        else:
            report = execute(job["compiler"], scratch, subprocess.DEVNULL, job["compiler_limits"])
            if report["status"] != "ok":
                return dict(report, status="runtime_error")
            shutil.copy(binary, kept)
    else:
        command = [sys.executable, job["source_name"]]
    with tempfile.TemporaryFile() as stdin:
        stdin.write(base64.b64decode(job["stdin"]))
        stdin.seek(0)
        return execute(command, scratch, stdin, limits)


def main():
    libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    job = json.loads(zlib.decompress(sys.stdin.buffer.read()))
    scratch = tempfile.mkdtemp()
    try:
        print(json.dumps(run(job, scratch)))
    finally:
        subprocess.run(["rm", "-rf", scratch])


main()
