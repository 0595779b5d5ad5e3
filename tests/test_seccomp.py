"""The system call filter, run by an interpreter of classic BPF: both architectures, without their machines."""

import errno
import re
import struct
import sys
from pathlib import Path

import pytest

INSIDE = Path(__file__).parents[1] / "src/open_r1/sandbox/local/inside"
sys.path.insert(0, str(INSIDE))
import seccomp  # noqa: E402  the sandbox's inside runs by its path, and so it is imported

sys.path.remove(str(INSIDE))

ALLOW, EPERM, ENOSYS, KILL = "allow", errno.EPERM, errno.ENOSYS, "kill"
NUMBERS = {"x86_64": 0, "aarch64": 1}
HEADERS = {
    "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": Path("/usr/include/asm-generic/unistd.h"),
}
CLONE_THREAD_FLAGS = 0x3D0F00  # what glibc makes a thread with
FORK_FLAGS = 0x1200011


def run(machine, number, *arguments, fork=True, metadata=True, architecture=None):
    """What the filter says of a call."""
    architecture = seccomp.AUDIT_ARCH[architecture or machine]
    data = struct.pack("<IIQ6Q", number, architecture, 0, *arguments, *[0] * (6 - len(arguments)))
    code, pc, accumulator = seccomp.filter_for(machine, fork, metadata), 0, 0
    while True:
        operation, if_true, if_false, k = code[pc]
        pc += 1
        if operation == 0x20:
            (accumulator,) = struct.unpack_from("<I", data, k)
        elif operation == 0x54:
            accumulator &= k
        elif operation == 0x05:
            pc += k
        elif operation == 0x06:
            break
        else:
            holds = {0x15: accumulator == k, 0x35: accumulator >= k, 0x45: bool(accumulator & k)}[operation]
            pc += if_true if holds else if_false
    return {0x7FFF0000: ALLOW, 0x80000000: KILL}.get(k, k & 0xFFFF)


def number_of(machine, name):
    special = {
        "clone": seccomp.CLONE,
        "clone3": seccomp.CLONE3,
        "socketpair": seccomp.SOCKETPAIR,
        "ioctl": seccomp.IOCTL,
        "personality": seccomp.PERSONALITY,
        "prctl": seccomp.PRCTL,
    }
    return (seccomp.REFUSED | seccomp.PROCESSES | seccomp.ON_ITSELF | special)[name][NUMBERS[machine]]


CASES = [
    # call, arguments, with processes, without
    ("socket", (2, 1, 0), EPERM, EPERM),
    ("ptrace", (16, 1), EPERM, EPERM),
    ("unshare", (0x10000000,), EPERM, EPERM),
    ("nfsservctl", (), EPERM, EPERM),
    ("clone3", (), ENOSYS, ENOSYS),
    ("clone", (FORK_FLAGS,), ALLOW, EPERM),
    ("clone", (CLONE_THREAD_FLAGS,), ALLOW, ALLOW),
    ("clone", (0x10000000 | 17,), EPERM, EPERM),
    ("clone", (0x20000000 | CLONE_THREAD_FLAGS,), EPERM, EPERM),
    ("socketpair", (1, 1, 0), ALLOW, ALLOW),
    ("socketpair", (1, 1 | 0x80000 | 0x800, 0), ALLOW, ALLOW),
    ("socketpair", (1, 2, 0), EPERM, EPERM),
    ("socketpair", (2, 1, 0), EPERM, EPERM),
    ("ioctl", (0, 0x5412), EPERM, EPERM),
    ("ioctl", (0, 0x5401), ALLOW, ALLOW),
    ("personality", (0xFFFFFFFF,), ALLOW, ALLOW),
    ("personality", (0,), ALLOW, ALLOW),
    ("personality", (0x0040000,), EPERM, EPERM),
    ("prctl", (1, 0), EPERM, EPERM),
    ("prctl", (4, 1), ALLOW, ALLOW),
    ("prlimit64", (0, 7), ALLOW, ALLOW),
    ("prlimit64", (77, 7), EPERM, EPERM),
    ("sched_setaffinity", (1,), EPERM, EPERM),
]


@pytest.mark.parametrize("machine", NUMBERS)
@pytest.mark.parametrize(("call", "arguments", "with_processes", "without"), CASES)
def test_call(machine, call, arguments, with_processes, without):
    number = number_of(machine, call)
    assert run(machine, number, *arguments, fork=True) == with_processes
    assert run(machine, number, *arguments, fork=False) == without


@pytest.mark.parametrize("machine", NUMBERS)
def test_what_every_program_does_goes_through(machine):
    reading, writing = {"x86_64": (0, 1), "aarch64": (63, 64)}[machine]
    assert run(machine, reading, fork=False) == run(machine, writing, fork=False) == ALLOW


@pytest.mark.parametrize("machine", NUMBERS)
def test_every_refused_call_is_refused(machine):
    numbers = [numbers[NUMBERS[machine]] for numbers in seccomp.REFUSED.values()]
    assert {run(machine, number) for number in numbers if number is not None} == {EPERM}


@pytest.mark.parametrize("machine", NUMBERS)
def test_metadata_is_refused_where_the_tier_says_so(machine):
    numbers = [numbers[NUMBERS[machine]] for numbers in seccomp.METADATA.values()]
    for metadata, verdict in ((True, ALLOW), (False, EPERM)):
        assert {run(machine, number, metadata=metadata) for number in numbers if number is not None} == {verdict}


@pytest.mark.parametrize(("number", "verdict"), [(seccomp.FIRST_UNKNOWN, ENOSYS), (seccomp.X32_BIT | 41, ENOSYS)])
def test_numbers_that_nobody_has_looked_at(number, verdict):
    assert run("x86_64", number) == verdict


def test_another_architecture_ends_the_process():
    assert run("x86_64", 0, architecture="aarch64") == KILL


def test_fork_and_vfork_need_processes():
    assert [run("x86_64", number, fork=False) for number in (57, 58)] == [EPERM, EPERM]
    assert [run("x86_64", number, fork=True) for number in (57, 58)] == [ALLOW, ALLOW]


@pytest.mark.parametrize("machine", NUMBERS)
def test_numbers_are_the_kernels(machine):
    header = HEADERS[machine]
    if not header.is_file():
        pytest.skip(f"no {header}")
    text = header.read_text()
    table = {name: int(number) for name, number in re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", text)}
    ours = seccomp.REFUSED | seccomp.PROCESSES | seccomp.ON_ITSELF | {"clone": seccomp.CLONE, "clone3": seccomp.CLONE3}
    ours |= {"socketpair": seccomp.SOCKETPAIR, "ioctl": seccomp.IOCTL, "personality": seccomp.PERSONALITY}
    ours |= seccomp.METADATA | {"prctl": seccomp.PRCTL}
    wrong = {
        name: (numbers[NUMBERS[machine]], table.get(name))
        for name, numbers in ours.items()
        if name in table and numbers[NUMBERS[machine]] != table[name]
    }
    assert wrong == {}
    assert sum(name in table for name in ours) > 70
