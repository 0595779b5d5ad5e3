"""The filter of system calls that a program runs under, as classic BPF for x86-64 and arm64.

Everything that an honest program needs to compute, read, write, make threads and processes goes through, in so far as
its tier allows it. What is refused gives EPERM, as a kernel without the privilege would; calls that are newer than this
table, or that glibc has an older way for, give ENOSYS. Another architecture's calls end the process.

There is libseccomp for this, but only where a system package is installed; the filter is a page.
"""

import errno

AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_COLUMN = {"x86_64": 0, "aarch64": 1}
X32_BIT = 0x40000000
FIRST_UNKNOWN = 463  # numbers from here on are newer than what was looked at
NAMESPACES = 0x7E020080  # every CLONE_NEW… flag
CLONE_THREAD = 0x00010000
AF_UNIX, SOCK_STREAM, SOCK_TYPE_MASK = 1, 1, 0xF
TIOCSTI, TIOCLINUX = 0x5412, 0x541C
PR_SET_PDEATHSIG = 1

# name -> (x86-64, arm64); None where an architecture has no such call
REFUSED: dict[str, tuple[int | None, int | None]] = {
    # the network, and messages that outlive a program
    "socket": (41, 198),
    "connect": (42, 203),
    "bind": (49, 200),
    "listen": (50, 201),
    "accept": (43, 202),
    "accept4": (288, 242),
    "shmget": (29, 194),
    "shmat": (30, 196),
    "shmctl": (31, 195),
    "semget": (64, 190),
    "semop": (65, 193),
    "semctl": (66, 191),
    "semtimedop": (220, 192),
    "msgget": (68, 186),
    "msgsnd": (69, 189),
    "msgrcv": (70, 188),
    "msgctl": (71, 187),
    "mq_open": (240, 180),
    "mq_unlink": (241, 181),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    # other processes
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "kcmp": (312, 272),
    "pidfd_getfd": (438, 438),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    "process_mrelease": (448, 448),
    "setpriority": (141, 140),
    "ioprio_set": (251, 30),
    "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119),
    "sched_setattr": (314, 274),
    # namespaces and mounts
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "statmount": (457, 457),
    "listmount": (458, 458),
    # files by ways around their paths, and memory that no limit counts
    "open_by_handle_at": (304, 265),
    "name_to_handle_at": (303, 264),
    "inotify_init": (253, None),
    "inotify_init1": (294, 26),
    "inotify_add_watch": (254, 27),
    "fanotify_init": (300, 262),
    "fanotify_mark": (301, 263),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    # large parts of the kernel that no honest program asks for
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "seccomp": (317, 277),
    "modify_ldt": (154, None),
    "ioperm": (173, None),
    "iopl": (172, None),
    "uselib": (134, None),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "acct": (163, 89),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "adjtimex": (159, 171),
    "clock_adjtime": (305, 266),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "syslog": (103, 116),
    "vhangup": (153, 58),
    "lookup_dcookie": (212, 18),
    "nfsservctl": (180, 42),
}
PROCESSES = {"fork": (57, None), "vfork": (58, None)}
METADATA: dict[str, tuple[int | None, int | None]] = {  # of files that a program may not open, which landlock allows
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "chown": (92, None),
    "fchown": (93, 55),
    "lchown": (94, None),
    "fchownat": (260, 54),
    "utime": (132, None),
    "utimes": (235, None),
    "futimesat": (261, None),
    "utimensat": (280, 88),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
}
CLONE, CLONE3 = (56, 220), (435, 435)
SOCKETPAIR, IOCTL, PERSONALITY, PRCTL = (53, 199), (16, 29), (135, 92), (157, 167)
ON_ITSELF = {"prlimit64": (302, 261), "sched_setaffinity": (203, 122)}  # their first argument is a process, 0 one's own

Instruction = tuple[int, int, int, int]  # code, jump if true, jump if false, k
_LOAD, _AND, _JUMP, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x54, 0x05, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_REFUSE, _UNKNOWN = _ERRNO | errno.EPERM, _ERRNO | errno.ENOSYS


def filter_for(machine: str, fork: bool = True, metadata: bool = True) -> list[Instruction]:
    """The filter's instructions for `machine` (x86_64, aarch64).

    Without `fork` a program can make threads alone; without `metadata` it cannot change a file's mode, owner, times or
    attributes.
    """
    column = _COLUMN[machine]
    code = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, AUDIT_ARCH[machine]),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
        *_return_if(_AT_LEAST, FIRST_UNKNOWN, _UNKNOWN),  # x32 calls too: they have a high bit set
        *_return_if(_EQUAL, CLONE3[column], _UNKNOWN),  # its flags are in memory, where no filter sees them
    ]
    refused = REFUSED | ({} if fork else PROCESSES) | ({} if metadata else METADATA)
    code += _return_if_any([numbers[column] for numbers in refused.values() if numbers[column] is not None], _REFUSE)
    code += _on_call(CLONE[column], [_argument(0), *_return_if(_ANY_BIT, NAMESPACES, _REFUSE)])
    if not fork:
        code += _on_call(CLONE[column], [_argument(0), *_return_unless(_ANY_BIT, CLONE_THREAD, _REFUSE)])
    # Both ends of a stream pair are bound to each other for good; a datagram pair could send to any address.
    code += _on_call(
        SOCKETPAIR[column],
        [
            _argument(0),
            *_return_unless(_EQUAL, AF_UNIX, _REFUSE),
            _argument(1),
            (_AND, 0, 0, SOCK_TYPE_MASK),
            *_return_unless(_EQUAL, SOCK_STREAM, _REFUSE),
        ],
    )
    for request in (TIOCSTI, TIOCLINUX):
        code += _on_call(IOCTL[column], [_argument(1), *_return_if(_EQUAL, request, _REFUSE)])
    code += _on_call(PRCTL[column], [_argument(0), *_return_if(_EQUAL, PR_SET_PDEATHSIG, _REFUSE)])
    for numbers in ON_ITSELF.values():
        code += _on_call(numbers[column], [_argument(0), *_return_unless(_EQUAL, 0, _REFUSE)])
    asks = [_argument(0), *_return_if(_EQUAL, 0, _ALLOW), *_return_unless(_EQUAL, 0xFFFFFFFF, _REFUSE)]
    code += _on_call(PERSONALITY[column], asks)
    return [*code, (_RETURN, 0, 0, _ALLOW)]


def _return_if(test: int, value: int, result: int) -> list[Instruction]:
    return [(test, 0, 1, value), (_RETURN, 0, 0, result)]


def _return_if_any(values: list[int], result: int) -> list[Instruction]:
    """One comparison each, and one return for all: a filter is compiled anew for every program."""
    tests = [(_EQUAL, len(values) - index, 0, value) for index, value in enumerate(values)]
    return [*tests, (_JUMP, 0, 0, 1), (_RETURN, 0, 0, result)]


def _return_unless(test: int, value: int, result: int) -> list[Instruction]:
    return [(test, 1, 0, value), (_RETURN, 0, 0, result)]


def _argument(index: int) -> Instruction:
    return (_LOAD, 0, 0, _ARGUMENTS + 8 * index)  # the low half, on these little-endian machines


def _on_call(number: int, body: list[Instruction]) -> list[Instruction]:
    """The body for this call alone; behind it the number is loaded again."""
    return [(_EQUAL, 0, len(body) + 1, number), *body, (_LOAD, 0, 0, _NUMBER)]
