"""The fork server: a warm Python that isolates itself, and then forks one confined child for each program.

`python fork_server.py '{"tier": "A", …}'`, with a SOCK_SEQPACKET socket at the descriptor that the settings name. It
answers with {"ready": true} or {"cannot": why}. A job is then one datagram, {"kind": …} and descriptors: the payload
(what only the child reads), stdin, stdout, stderr, and for a compiler the file that it makes, for a binary the binary.
The server itself never sees a program, its input or its output; jobs come one after the other.

This file and its neighbours run by their path, in an interpreter of their own that has no site-packages.
"""

import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import stat
import sys
import time

import isolation
import process_tree
import program

OWN_MODULES = ("isolation", "kernel", "process_tree", "program", "seccomp")
SECONDS_BETWEEN_LOOKS = 0.02
SECONDS_TO_DIE = 10.0
CONFINED = b"1"


def main(settings: dict) -> None:
    """Serves jobs until the other end of the socket is closed."""
    control = socket.socket(fileno=os.dup(settings["control_fd"]))  # its number may be over all limits
    os.close(settings["control_fd"])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.path[:] = [path for path in sys.path if path != os.path.dirname(__file__)] + settings["module_paths"]
    for name in settings["preload"]:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    try:
        limits = isolation.RunLimits(**settings["limits"])
        files = (settings["readable"], settings["module_paths"])
        tier = isolation.TIERS[settings["tier"]](*files, limits, settings["scratch"])
    except OSError as error:
        control.send(json.dumps({"cannot": error.strerror or str(error)}).encode())
        return
    with contextlib.suppress(OSError):  # when the machine runs out of memory, a program goes before a trainer
        fd = os.open("self/oom_score_adj", os.O_WRONLY, dir_fd=tier.proc_fd)
        os.write(fd, b"1000")
        os.close(fd)
    python = program.PythonProgram(tier.scratch)
    for name in OWN_MODULES:
        sys.modules.pop(name, None)
    gc.collect()
    gc.freeze()  # what is here now is never looked at again, so that the children share its pages
    control.send(b'{"ready": true}')
    while True:
        message, fds, _, _ = socket.recv_fds(control, 65536, 8)
        if not message:
            return
        try:
            reply = run_job(tier, python, json.loads(message), fds, control)
        finally:
            for fd in fds:
                os.close(fd)
        control.send(json.dumps(reply).encode())


def run_job(tier, python: program.PythonProgram, job: dict, fds: list[int], control: socket.socket) -> dict:
    """Runs one program to its end. {"wait_status", "killed_for", "wall_seconds", "cpu_seconds"} or {"failed": why}."""
    words_fd, childs_fd = os.pipe()
    try:
        tier.before_run()
        started = time.monotonic()
        pid = os.fork()
        if pid == 0:
            _child(tier, python, job, fds, childs_fd)
        os.close(childs_fd)
        childs_fd = -1
        tier.after_fork()
        killed_for = _wait(tier, pid, fds[2:4], control)
        _, wait_status, usage = os.wait4(pid, 0)
        wall_seconds = time.monotonic() - started
        killed_for = killed_for or _over_in_scratch(tier, deleted_bytes=0)
        if "makes" in job and wait_status == 0:
            _hand_over(os.path.join(tier.scratch, job["makes"]), fds[4])
        tier.after_run()
        words = os.read(words_fd, 4096)
    except OSError as error:
        return {"failed": f"the sandbox could not run the program ({error.strerror or error})"}
    finally:
        os.close(words_fd)
        if childs_fd >= 0:
            os.close(childs_fd)
    if words != CONFINED:
        return {"failed": f"the program could not be confined ({words.decode(errors='replace')})"}
    cpu_seconds = usage.ru_utime + usage.ru_stime
    if killed_for is None and cpu_seconds >= tier.limits.cpu_seconds:
        killed_for = "timeout"  # what its processes used together, or SIGKILL at the end of one's own
    return {
        "wait_status": wait_status,
        "killed_for": killed_for,
        "wall_seconds": wall_seconds,
        "cpu_seconds": cpu_seconds,
    }


def _wait(tier, pid: int, output_fds: list[int], control: socket.socket) -> str | None:
    """Waits for the end of the child, looking at what it uses; kills it when it is over a limit, and says which."""
    limits = tier.limits
    pidfd = os.pidfd_open(pid)
    try:
        watch = select.poll()
        watch.register(pidfd, select.POLLIN)
        watch.register(control, select.POLLRDHUP)
        tree = None
        deadline = time.monotonic() + limits.wall_seconds
        while True:
            seconds = max(0.0, min(SECONDS_BETWEEN_LOOKS, deadline - time.monotonic()))
            events = dict(watch.poll(seconds * 1000))
            if pidfd in events:
                return None
            if events:  # nobody is there to hear how it ends
                os.kill(pid, signal.SIGKILL)
                os._exit(0)
            tree = tree or process_tree.ProcessTree(tier.proc_fd, pidfd)
            reason = "timeout" if time.monotonic() >= deadline else _over(tier, tree, output_fds)
            if reason:
                os.kill(pid, signal.SIGKILL)
                watch.unregister(control)
                if not watch.poll(SECONDS_TO_DIE * 1000):
                    raise OSError(0, f"killed for {reason}, it did not die in {SECONDS_TO_DIE:g} s")
                return reason
    finally:
        os.close(pidfd)


def _over(tier, tree, output_fds: list[int]) -> str | None:
    num_bytes, cpu_seconds, num_threads = tree.use()
    if num_bytes > tier.limits.memory_bytes:
        return "memory"
    if cpu_seconds >= tier.limits.cpu_seconds:
        return "timeout"
    if any(os.fstat(fd).st_size > tier.limits.output_bytes for fd in output_fds):
        return "output_limit"
    if num_threads > tier.limits.processes:
        return "runtime_error"  # where the kernel holds this limit, the program gets an error
    return None if tier.holds_scratch else _over_in_scratch(tier, tree.deleted_bytes())


def _over_in_scratch(tier, deleted_bytes: int) -> str | None:
    if tier.holds_scratch:
        return None
    num_bytes, num_inodes = isolation.directory_use(tier.scratch)
    too_much = num_bytes + deleted_bytes > tier.limits.scratch_bytes or num_inodes > tier.limits.scratch_inodes
    return "runtime_error" if too_much else None


def _hand_over(path: str, target_fd: int) -> None:
    """Copies the file that a compiler made, if it is one."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(0, "the compiler made no regular file")
        position = 0
        while position < status.st_size:
            position += os.sendfile(target_fd, fd, position, status.st_size - position)
    finally:
        os.close(fd)


def _child(tier, python: program.PythonProgram, job: dict, fds: list[int], words_fd: int) -> None:
    """Confines itself and runs the job; never comes back."""
    exit_code = 1
    try:
        try:
            os.setsid()
            signal.signal(signal.SIGINT, signal.default_int_handler)
            payload = os.dup(fds[0])
            extra = os.dup(fds[4]) if job["kind"] == "binary" else -1
            for target, fd in enumerate(fds[1:4]):
                os.dup2(fd, target)
            _close_all_but({payload, extra, words_fd, *tier.confining_fds})
            os.chdir(tier.scratch)
            source = _unpack(payload)
            os.close(payload)
            tier.confine(fork=job["kind"] == "compile")
        except BaseException as error:  # noqa: BLE001  whatever it is, the server has to be told
            os.write(words_fd, f"{type(error).__name__}: {error}"[:1000].encode(errors="replace"))
            os._exit(1)
        os.write(words_fd, CONFINED)
        os.close(words_fd)
        if job["kind"] == "python":
            exit_code = python.run(source)
        elif job["kind"] == "binary":
            program.run_binary(extra)
        else:
            program.run_command(job["command"])
    finally:
        os._exit(exit_code)


def _close_all_but(kept: set[int]) -> None:
    first = 3
    for fd in sorted(fd for fd in kept if fd >= first):
        os.closerange(first, fd)
        first = fd + 1
    os.closerange(first, isolation.NUM_OPEN_FILES)


def _unpack(payload_fd: int) -> bytes:
    """Writes the files of a payload to the working directory and returns the program's source."""
    with open(payload_fd, "rb", closefd=False) as payload:
        payload.seek(0)
        source = b""
        for path, size in json.loads(payload.readline()):
            content = payload.read(size)
            if path is None:
                source = content
                continue
            if os.path.dirname(path):
                os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "wb") as file:
                file.write(content)
    return source


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
