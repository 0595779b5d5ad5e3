"""Programs a second in the local sandbox, beside a plain `python3 -c`, bubblewrap and the floor: a fork and its end.

    python scripts/bench_sandbox.py                  # 1, 2 and 8 programs at a time, five rounds
    python scripts/bench_sandbox.py --in-a-row 10000 # and what so many leave behind

Every round measures all of them, one after the other, so that a busy machine is busy for all; the ratios are taken
within a round, and their median and range told. bubblewrap gets what makes it comparable: its own namespaces, the same
files, the same filter of system calls, limits through prlimit; it is left out if it is not installed. The last line is
one JSON object.
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from open_r1.sandbox import Limits, Program
from open_r1.sandbox.local import LocalSandbox, languages, sandbox

SOURCE = "print(int(input())+1)"
INSIDE = Path(__file__).parents[1] / "src/open_r1/sandbox/local/inside"
PLAIN, ISOLATED_FLAGS = "python3 -c", "python3 -I -S -E -c"


def main() -> int:
    """Measures and prints; the exit code is 1 if a program gave a wrong output."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--at-a-time", type=int, nargs="+", default=[1, 2, 8])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--programs", type=int, default=200, help="of ours in a round; the slower ones run fewer")
    parser.add_argument("--in-a-row", type=int, default=0, help="run so many more, and tell what they leave behind")
    arguments = parser.parse_args()
    tiers = [tier for tier in ("A", "B") if sandbox.refusal(tier) is None]
    peers: dict[str, Callable[[int], list[str]]] = {
        PLAIN: lambda fd: [languages.interpreter(), "-c", SOURCE],
        ISOLATED_FLAGS: lambda fd: [languages.interpreter(), "-I", "-S", "-E", "-c", SOURCE],
    }
    if shutil.which("bwrap"):
        peers["bubblewrap"] = bubblewrap_command
    results: dict[str, dict[str, list[float]]] = {}
    for at_a_time in arguments.at_a_time:
        rates: dict[str, list[float]] = {}
        with tempfile.TemporaryFile() as filter_file:
            filter_file.write(filter_bytes())
            filter_file.flush()
            sandboxes = {tier: LocalSandbox(Limits(), concurrency=at_a_time, tier=tier) for tier in tiers}
            for made in sandboxes.values():
                made.run([Program(SOURCE, "1")] * 4 * at_a_time)  # the servers are up
            for _ in range(arguments.rounds):
                rates.setdefault("fork floor", []).append(fork_floor(at_a_time, 2 * arguments.programs))
                for tier, made in sandboxes.items():
                    rates.setdefault(f"tier {tier}", []).append(ours(made, arguments.programs))
                for name, command in peers.items():
                    rate = subprocesses(command, filter_file.fileno(), at_a_time, max(20, arguments.programs // 4))
                    rates.setdefault(name, []).append(rate)
            for made in sandboxes.values():
                made.close()
        results[str(at_a_time)] = rates
        show(at_a_time, rates, tiers)
    summary = {"programs_per_second": {at: {k: median(v) for k, v in rates.items()} for at, rates in results.items()}}
    summary["ratios"] = {
        at: {
            f"tier {tier} / {peer}": ratio(rates[f"tier {tier}"], values)
            for tier in tiers
            for peer, values in rates.items()
            if not peer.startswith("tier")
        }
        for at, rates in results.items()
    }
    if arguments.in_a_row:
        summary["in_a_row"] = {tier: in_a_row(tier, arguments.in_a_row) for tier in tiers}
    summary["cpus"] = len(os.sched_getaffinity(0))
    print(json.dumps(summary))
    return 0


def ours(made: LocalSandbox, num_programs: int) -> float:
    """Programs a second."""
    programs = [Program(SOURCE, str(number)) for number in range(num_programs)]
    started = time.perf_counter()
    executions = made.run(programs)
    seconds = time.perf_counter() - started
    for number, execution in enumerate(executions):
        if execution.stdout != b"%d\n" % (number + 1):
            sys.exit(f"program {number} gave {execution}")
    return num_programs / seconds


def subprocesses(command: Callable[[int], list[str]], filter_fd: int, at_a_time: int, num_programs: int) -> float:
    """Programs a second, each a process of its own."""

    def run(number: int) -> bytes:
        fd = os.open(f"/proc/self/fd/{filter_fd}", os.O_RDONLY)  # each bubblewrap reads it from its beginning
        try:
            done = subprocess.run(command(fd), input=b"%d" % number, capture_output=True, check=False, pass_fds=[fd])
        finally:
            os.close(fd)
        if done.stdout != b"%d\n" % (number + 1):
            sys.exit(f"{command(fd)[0]}: {done}")
        return done.stdout

    with ThreadPoolExecutor(at_a_time) as threads:
        started = time.perf_counter()
        list(threads.map(run, range(num_programs)))
        return num_programs / (time.perf_counter() - started)


def bubblewrap_command(filter_fd: int) -> list[str]:
    """bubblewrap with what the sandbox has: the same files, all namespaces, a tmpfs, the filter, rlimits."""
    binds = [option for path in languages.readable_by_programs() for option in ("--ro-bind", path, path)]
    links = [
        option
        for path in ("/lib", "/lib64", "/bin")
        if os.path.islink(path)
        for option in ("--symlink", os.readlink(path), path)
    ]
    limits = ["prlimit", "--as=1000000000", "--cpu=5", "--fsize=16777216", "--nofile=64", "--core=0"]
    isolation = ["bwrap", "--unshare-all", "--die-with-parent", "--clearenv", *binds, *links]
    isolation += [
        "--dev",
        "/dev",
        "--tmpfs",
        "/tmp",
        "--chdir",
        "/tmp",
        "--cap-drop",
        "ALL",
        "--seccomp",
        str(filter_fd),
    ]
    return [*limits, *isolation, languages.interpreter(), "-I", "-S", "-E", "-c", SOURCE]


def filter_bytes() -> bytes:
    """The sandbox's own filter, as bubblewrap takes it."""
    code = (
        "import struct, sys, kernel, seccomp\n"
        "instructions = seccomp.filter_for(kernel.MACHINE, True)\n"
        "sys.stdout.buffer.write(b''.join(struct.pack('=HBBI', *one) for one in instructions))\n"
    )
    return subprocess.run([sys.executable, "-c", code], cwd=INSIDE, capture_output=True, check=True).stdout


def fork_floor(at_a_time: int, num_forks: int) -> float:
    """Forks of a warm interpreter a second, each with a pipe that its child writes to and a wait for its end.

    In an interpreter of its own, which has loaded what a fork server has: this one has more to copy.
    """
    code = f"""
import os, select, time, ctypes, json, socket, threading, traceback, {", ".join(languages.PRELOADED)}
started, left, running, watch = time.perf_counter(), {num_forks}, dict(), select.poll()
while left or running:
    while left and len(running) < {at_a_time}:
        readable, writable = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.write(writable, b"1")
            os._exit(0)
        os.close(writable)
        running[readable] = pid
        watch.register(readable, select.POLLIN)
        left -= 1
    for fd, _ in watch.poll():
        os.read(fd, 1)
        os.waitpid(running.pop(fd), 0)
        watch.unregister(fd)
        os.close(fd)
print({num_forks} / (time.perf_counter() - started))
"""
    command = [languages.interpreter(), "-s", "-S", "-c", code]
    return float(subprocess.run(command, capture_output=True, check=True).stdout)


def in_a_row(tier: str, num_programs: int) -> dict[str, list[int]]:
    """Processes, descriptors and resident KiB of the servers and of this process, before and after so many."""
    with LocalSandbox(Limits(), concurrency=2, tier=tier) as made:
        ours(made, 200)
        before = left_behind()
        for _ in range(num_programs // 500):
            ours(made, 500)
        after = left_behind()
    return {name: [before[name], after[name]] for name in before}


def left_behind() -> dict[str, int]:
    """Counts of what could grow."""
    servers, waiting = [], [os.getpid()]
    while waiting:
        children = Path(f"/proc/{waiting[0]}/task/{waiting.pop(0)}/children").read_text().split()
        servers += children
        waiting += map(int, children)
    page = resource.getpagesize() // 1024
    return {
        "processes": len(servers),
        "server_descriptors": sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in servers),
        "server_resident_kib": sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * page for pid in servers),
        "own_descriptors": len(os.listdir("/proc/self/fd")),
        "own_resident_kib": int(Path("/proc/self/statm").read_text().split()[1]) * page,
        "mounts": len(Path("/proc/mounts").read_text().splitlines()),
    }


def show(at_a_time: int, rates: dict[str, list[float]], tiers: list[str]) -> None:
    """A table of one concurrency."""
    print(f"{at_a_time} at a time")
    for name, values in rates.items():
        told = [f"{tier} is {ratio(rates[f'tier {tier}'], values)[0]:.1f}x" for tier in tiers if name != f"tier {tier}"]
        print(f"  {name:22s} {median(values):7.0f}/s ({min(values):.0f} to {max(values):.0f})   {', '.join(told)}")


def median(values: list[float]) -> float:
    return round(statistics.median(values), 1)


def ratio(mine: list[float], other: list[float]) -> list[float]:
    """Median, least and greatest of the rounds' ratios."""
    ratios = sorted(one / two for one, two in zip(mine, other, strict=True))
    return [round(statistics.median(ratios), 2), round(ratios[0], 2), round(ratios[-1], 2)]


if __name__ == "__main__":
    sys.exit(main())
