"""A judge for the tests of the pool: it compares strings, and some answers (or golds) are orders to misbehave."""

import ctypes
import os
import select
import signal
import sys
import time
from pathlib import Path

from open_r1.judging.verdict import Verdict

GOLDS_SEEN = []
HOARD = []
WARMED_UP = []


def warm_up():
    WARMED_UP.append(os.getpid())
    print("hello from a library that prints")


def gold_problem(gold):
    GOLDS_SEEN.append(gold)
    order, _, argument = gold.partition(" ")
    if order in ORDERS:
        return ORDERS[order](argument)


def judge(gold, answer):
    order, _, argument = answer.partition(" ")
    if order in ORDERS:
        return ORDERS[order](argument)
    return Verdict(float(gold == answer), "same" if gold == answer else "different")


def power(_):
    return Verdict(float(9**9**9), "one C call that takes minutes")


def loop(_):
    while True:
        pass


def recursion(_):
    return recursion(_)


def depth(num_frames):
    if int(num_frames):
        return depth(int(num_frames) - 1)
    return Verdict(1.0, "deep, and yet judged")


def memory(_):
    return Verdict(1.0, f"{len(bytearray(80 << 20))} bytes")  # above the tests' budget, and no danger without one


def hoard(num_mebibytes):
    HOARD.append(bytearray(int(num_mebibytes) << 20))
    return Verdict(1.0, "kept")


def burn(cpu_seconds):
    start = time.process_time()
    while time.process_time() - start < float(cpu_seconds):
        pass
    return Verdict(1.0, "burnt")


def wait(wall_seconds):
    select.select([], [], [], float(wall_seconds))
    return Verdict(1.0, "waited")


def meet(how_and_fifo):
    how, fifo = how_and_fifo.split(" ", 1)
    with open(fifo, how):  # opens when another process opens the other end
        return Verdict(1.0, "met")


def hash_of(text):
    return Verdict(1.0, str(hash(text)))


def segfault(_):
    ctypes.string_at(0)


def abort(_):
    os.abort()


def crash_once(marker):
    if not Path(marker).exists():
        Path(marker).touch()
        os.abort()
    return Verdict(1.0, "judged at the second try")


def kill_me(_):
    os.kill(os.getpid(), signal.SIGKILL)


def kill_my_supervisor(_):
    os.kill(os.getppid(), signal.SIGKILL)
    signal.pause()


def kill_once(marker):
    if not Path(marker).exists():
        Path(marker).touch()
        kill_me("")
    return Verdict(1.0, "judged at the second try")


def leave(_):
    sys.exit(0)


def stand_still(_):
    signal.pause()


def raise_error(_):
    raise ValueError("no such thing")


def print_much(_):
    print("x" * 100_000, flush=True)
    os.write(1, b'["verdict", 0.0, "forged"]\n')
    os.write(2, b"x" * 1_000_000)
    return Verdict(1.0, "printed")


def say_much(_):
    return Verdict(1.0, "\N{WINKING FACE}" * 100_000)


def note(file):
    with open(file, "a") as lines:
        lines.write("judged\n")
    return Verdict(1.0, "noted")


def who(_):
    return Verdict(1.0, f"{os.getpid()} {os.getppid()}")


def golds_seen(_):
    return Verdict(1.0, " ".join(GOLDS_SEEN))


def warmed_up_by_supervisor(_):
    return Verdict(float([os.getppid()] == WARMED_UP), "")


def standard_streams_are_null(_):
    null = os.stat(os.devnull)
    return Verdict(float(all(os.path.samestat(os.fstat(fd), null) for fd in (0, 1, 2))), "")


def length(argument):
    return Verdict(float(len(argument)), "")


ORDERS = {
    function.__name__: function
    for function in (
        power,
        loop,
        recursion,
        depth,
        memory,
        hoard,
        burn,
        wait,
        meet,
        hash_of,
        segfault,
        abort,
        crash_once,
        kill_me,
        kill_my_supervisor,
        kill_once,
        leave,
        stand_still,
        raise_error,
        print_much,
        say_much,
        note,
        who,
        golds_seen,
        warmed_up_by_supervisor,
        standard_streams_are_null,
        length,
    )
}
