"""The system calls that Python has no function for, through libc. Each raises OSError with the call's name.

Linux on x86-64 and arm64. Numbers that are the same on both stand as constants.
"""

import ctypes
import os
import platform
import struct

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x00020000, 0x04000000, 0x08000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 2, 4, 32, 4096, 16384, 1 << 18
MNT_DETACH = 2
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_KEEPCAPS, PR_SET_SECCOMP = 1, 4, 8, 22
PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 36, 38
SECCOMP_MODE_FILTER = 2
CAP_DAC_READ_SEARCH = 2
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_CAPSET = {"x86_64": 126, "aarch64": 91}
_LANDLOCK_CREATE_RULESET, _LANDLOCK_ADD_RULE, _LANDLOCK_RESTRICT_SELF = 444, 445, 446
_CAPABILITY_VERSION_3 = 0x20080522

MACHINE = platform.machine()
_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def unshare(flags: int) -> None:
    """Moves this process (with CLONE_NEWPID: its next children) into new namespaces."""
    _check(_libc.unshare(flags), "unshare")


def setns(fd: int, kind: int) -> None:
    """Moves this process (with CLONE_NEWPID: its next children) into the namespace of `fd`."""
    _check(_libc.setns(fd, kind), "setns")


def mount(source: str, target: str, filesystem: str | None, flags: int, options: str = "") -> None:
    """As mount(2)."""
    kind = None if filesystem is None else filesystem.encode()
    _check(_libc.mount(source.encode(), target.encode(), kind, flags, options.encode()), f"mount {target}")


def unmount(target: str) -> None:
    """Takes a mount away at once, even where a file of it is open."""
    _check(_libc.umount2(target.encode(), MNT_DETACH), f"umount {target}")


def pivot_root(new_root: str) -> None:
    """Makes the mount at `new_root` the root of this mount namespace and lets go of the old one."""
    os.chdir(new_root)
    _check(_syscall(_PIVOT_ROOT[MACHINE], b".", b"."), "pivot_root")  # the old root then lies over the new one
    unmount(".")
    os.chdir("/")


def prctl(option: int, value: int, pointer=0) -> None:
    """As prctl(2) with up to two arguments."""
    _check(_libc.prctl(option, ctypes.c_ulong(value), pointer, 0, 0), f"prctl {option}")


def set_capabilities(*capabilities: int) -> None:
    """Leaves this thread with these capabilities alone, none of them inheritable."""
    mask = sum(1 << capability for capability in capabilities)
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    low, high = mask & 0xFFFFFFFF, mask >> 32
    _check(_syscall(_CAPSET[MACHINE], header, struct.pack("=6I", low, low, 0, high, high, 0)), "capset")


def landlock_abi() -> int:
    """The kernel's version of landlock; 0 if it has none or it is switched off."""
    return max(0, _syscall(_LANDLOCK_CREATE_RULESET, None, 0, 1))


def landlock_ruleset(file_rights: int, network_rights: int, scopes: int) -> int:
    """A descriptor of rules that take all of these rights away, until rules give some of them back."""
    attributes = struct.pack("=QQQ", file_rights, network_rights, scopes)
    fd = _syscall(_LANDLOCK_CREATE_RULESET, attributes, len(attributes), 0)
    _check(fd, "landlock_create_ruleset")
    return fd


def landlock_allow(ruleset_fd: int, path: str, rights: int) -> None:
    """Gives the rights back for what lies beneath `path`, or for the file itself."""
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        rule = struct.pack("=Qi", rights, fd)
        _check(_syscall(_LANDLOCK_ADD_RULE, ruleset_fd, 1, rule, 0), f"landlock_add_rule {path}")
    finally:
        os.close(fd)


def landlock_restrict_self(ruleset_fd: int) -> None:
    """Puts this thread, and all that it will start, under the rules for good."""
    _check(_syscall(_LANDLOCK_RESTRICT_SELF, ruleset_fd, 0), "landlock_restrict_self")


class SeccompFilter:
    """A compiled filter, ready to be put on a process."""

    def __init__(self, instructions: list[tuple[int, int, int, int]]):
        code = b"".join(struct.pack("=HBBI", *instruction) for instruction in instructions)
        self._code = ctypes.create_string_buffer(code, len(code))
        self._program = _SockFprog(len(instructions), ctypes.addressof(self._code))

    def install(self) -> None:
        """Puts the filter on this thread and all that it will start; needs PR_SET_NO_NEW_PRIVS."""
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(self._program))


class _SockFprog(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]


def _syscall(number: int, *arguments) -> int:
    return _libc.syscall(ctypes.c_long(number), *(ctypes.c_long(a) if isinstance(a, int) else a for a in arguments))


def _check(result: int, call: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}")
