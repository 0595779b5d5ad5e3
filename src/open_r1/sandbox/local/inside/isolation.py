"""The three tiers of isolation: what a fork server does to itself once, before and after each run, and in the child.

A   namespaces (user, mount, pid, net, ipc, uts) + seccomp + rlimits. The server sees a root directory made of
    read-only mounts of the interpreter and its libraries. Each run gets a pid namespace (its end is the end of every
    process in it) and a fresh tmpfs. The server's other namespaces are safe to share by its runs, one after the other:
    a program has no capability in them, no call that would make a socket or an IPC object, and leaves no process.
B   landlock (from its 6th version on) + seccomp + rlimits, where namespaces are not allowed. A program cannot start
    processes, so that its end is the end of all of it; sizes of the scratch directory and the number of threads are
    held by looking at them several times a second.
C   rlimits alone: no protection from a program that means harm.
"""

import contextlib
import math
import os
import resource
import select
import signal
import stat
import sys
from dataclasses import dataclass

import kernel
import seccomp

NOBODY = 65534
SCRATCH = "/program"  # no directory of that name holds anybody's interpreter, as /tmp or /scratch may
DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random")
STACK_BYTES = 64 << 20
NUM_OPEN_FILES = 64
MIN_LANDLOCK_ABI = 6  # before it, signals and abstract sockets go through
_FS_EXECUTE, _FS_WRITE, _FS_READ, _FS_READ_DIR, _FS_TRUNCATE = 1, 2, 4, 8, 1 << 14
_FS_ALL = (1 << 16) - 1
_FS_NO_NODES = _FS_ALL & ~(1 << 6 | 1 << 9 | 1 << 11)  # no device nodes, no sockets
_NET_ALL, _SCOPE_ALL = 3, 3
_MOUNT_FLAGS = 1 | 2 | 4 | 8 | 1024 | 2048  # read-only, nosuid, nodev, noexec, noatime, nodiratime


@dataclass(frozen=True)
class RunLimits:
    """`Limits` of the sandbox, as they reach the fork server."""

    wall_seconds: float
    cpu_seconds: float
    memory_bytes: int
    processes: int
    file_bytes: int
    scratch_bytes: int
    scratch_inodes: int
    output_bytes: int


class Namespaces:
    """Tier A. To be made in a process with one thread, which comes back as the first process of a pid namespace.

    `readable` are the files and directories that programs see, at the paths that they have outside; of `listed` they
    see the names (here: of what is readable alone).
    """

    name = "A"
    holds_scratch = True  # the limits of the scratch directory are its file system's own
    scratch = SCRATCH
    confining_fds: tuple[int, ...] = ()  # what `confine` needs open in the child

    def __init__(self, readable: list[str], listed: list[str], limits: RunLimits, scratch: str):
        self.limits = limits
        self.proc_fd = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        namespaces = (
            kernel.CLONE_NEWUSER
            | kernel.CLONE_NEWNS
            | kernel.CLONE_NEWPID
            | kernel.CLONE_NEWNET
            | kernel.CLONE_NEWIPC
            | kernel.CLONE_NEWUTS
        )
        if os.geteuid() == 0:
            kernel.unshare(kernel.CLONE_NEWNS)
            self._change_root(readable)  # as root, so that directories that only root may enter can be shown
            _become_nobody()
            self._enter(namespaces)
        else:
            self._enter(namespaces)
            self._change_root(readable)
        go_on_as_child()
        self._own_pid_namespace = self._open_proc("self/ns/pid")
        self._filter = kernel.SeccompFilter(seccomp.filter_for(kernel.MACHINE))
        set_rlimits(limits, limits.processes + 1)  # the server itself counts in its user namespace, too

    def _change_root(self, readable: list[str]) -> None:
        """Makes a root of read-only mounts of `readable`, at their own paths, and a place for the scratch directory."""
        kernel.mount("none", "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
        root = "/proc"  # a directory that is always there, and that hides nothing which has yet to be mounted
        kernel.mount("root", root, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "mode=755,size=1m")
        for path in readable:
            self._show(path, root + path, kernel.MS_RDONLY | kernel.MS_NOSUID | kernel.MS_NODEV)
        for path in DEVICES:
            self._show(path, root + path, kernel.MS_NOSUID)
        for path in ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"):
            if os.path.islink(path):  # into /usr, on today's systems
                os.symlink(os.readlink(path), root + path)
        os.symlink(SCRATCH, root + "/dev/shm")  # for the semaphores of multiprocessing
        os.makedirs(root + SCRATCH)
        if not os.path.exists(root + "/tmp"):  # else what programs may read lies there
            os.symlink(SCRATCH, root + "/tmp")
        kernel.pivot_root(root)
        read_only = kernel.MS_RDONLY | kernel.MS_NOSUID | kernel.MS_NODEV
        kernel.mount("root", "/", None, kernel.MS_REMOUNT | kernel.MS_BIND | read_only)

    def _show(self, path: str, target: str, flags: int) -> None:
        """A bind mount of `path` at `target`, with what is mounted beneath it, and these flags on all of it."""
        if os.path.isdir(path):
            os.makedirs(target, exist_ok=True)
        else:
            os.makedirs(os.path.dirname(target), exist_ok=True)
            os.close(os.open(target, os.O_CREAT | os.O_CLOEXEC))
        kernel.mount(path, target, None, kernel.MS_BIND | kernel.MS_REC)
        with open(self._open_proc("self/mountinfo")) as lines:
            points = [line.split()[4].encode().decode("unicode_escape") for line in lines]
        for point in points:
            if point == target or point.startswith(target + "/"):
                # A flag that a mount has already may be locked, and leaving it out be refused. Its bits have the same
                # places in statvfs and in mount(2).
                kept = os.statvfs(point).f_flag & _MOUNT_FLAGS
                kernel.mount("none", point, None, kernel.MS_REMOUNT | kernel.MS_BIND | flags | kept)

    def _enter(self, namespaces: int) -> None:
        """New namespaces in which this user has the number that it has outside, and is the only one."""
        uid, gid = os.getuid(), os.getgid()
        kernel.unshare(namespaces)
        for file, line in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
            fd = self._open_proc(f"self/{file}", os.O_WRONLY)
            os.write(fd, line.encode())
            os.close(fd)

    def _open_proc(self, path: str, flags: int = os.O_RDONLY) -> int:
        return os.open(path, flags | os.O_CLOEXEC, dir_fd=self.proc_fd)

    def before_run(self) -> None:
        """Makes the scratch directory, and a pid namespace for the next child."""
        options = f"size={self.limits.scratch_bytes},nr_inodes={self.limits.scratch_inodes + 1},mode=700"
        kernel.mount("scratch", SCRATCH, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, options)
        kernel.unshare(kernel.CLONE_NEWPID)

    def after_fork(self) -> None:
        """Puts the server's later children into its own pid namespace again."""
        kernel.setns(self._own_pid_namespace, kernel.CLONE_NEWPID)

    def after_run(self) -> None:
        """Throws the scratch directory away; the program's processes are dead by then."""
        kernel.unmount(SCRATCH)

    def confine(self, fork: bool) -> None:
        """Takes from this process, a child, all that it does not need for a run."""
        set_cpu_limit(self.limits)
        kernel.set_capabilities()
        kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
        self._filter.install()


class ScratchDirectory:
    """What the tiers without mounts have in common: a directory on the disk, emptied around each run."""

    scratch: str
    holds_scratch = False

    def before_run(self) -> None:
        """Empties the scratch directory."""
        os.chmod(self.scratch, 0o700)
        empty_directory(self.scratch)

    def after_fork(self) -> None:
        """Nothing: there is no namespace to come back from."""

    def after_run(self) -> None:
        """Ends the processes that are left, and empties the scratch directory."""
        end_children()
        self.before_run()


class Landlock(ScratchDirectory):
    """Tier B. `scratch` is an existing directory that belongs to this server alone."""

    name = "B"

    def __init__(self, readable: list[str], listed: list[str], limits: RunLimits, scratch: str):
        self.limits = limits
        self._kept: tuple[int, ...] = ()
        abi = kernel.landlock_abi()
        if abi < MIN_LANDLOCK_ABI:
            raise OSError(0, f"landlock is at version {abi} here; at least {MIN_LANDLOCK_ABI} is needed (Linux 6.12)")
        self.scratch = scratch
        self.proc_fd = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._ruleset = kernel.landlock_ruleset(_FS_ALL, _NET_ALL, _SCOPE_ALL)
        self.confining_fds = (self._ruleset,)
        for path in readable:
            rights = _FS_EXECUTE | _FS_READ | (_FS_READ_DIR if os.path.isdir(path) else 0)
            kernel.landlock_allow(self._ruleset, path, rights)
        for path in listed:
            kernel.landlock_allow(self._ruleset, path, _FS_READ_DIR)
        for path in DEVICES:
            kernel.landlock_allow(self._ruleset, path, _FS_READ | _FS_WRITE | _FS_TRUNCATE)
        kernel.landlock_allow(self._ruleset, scratch, _FS_NO_NODES)
        if os.geteuid() == 0:
            if not _others_can_reach([os.path.dirname(scratch)]):
                raise OSError(0, f"only root can reach {scratch}; set TMPDIR to a directory for everybody")
            os.chown(scratch, NOBODY, NOBODY)
            # Where only root can reach the interpreter, its programs keep the one capability to walk there: what
            # they may read is landlock's to say.
            self._kept = () if _others_can_reach(readable) else (kernel.CAP_DAC_READ_SEARCH,)
            _become_nobody(self._kept)
        kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
        filters = {fork: seccomp.filter_for(kernel.MACHINE, fork, metadata=False) for fork in (False, True)}
        self._filters = {fork: kernel.SeccompFilter(instructions) for fork, instructions in filters.items()}
        set_rlimits(limits, None)  # a limit on processes would count all of this user, whoever started them

    def confine(self, fork: bool) -> None:
        """Takes from this process, a child, all that it does not need for a run; `fork` is for compilers."""
        set_cpu_limit(self.limits)
        kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)  # the filter keeps it so
        kernel.set_capabilities(*self._kept)
        kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
        kernel.landlock_restrict_self(self._ruleset)
        os.close(self._ruleset)
        self._filters[fork].install()


class Unprotected(ScratchDirectory):
    """Tier C: the limits of one process, and nothing else."""

    name = "C"
    confining_fds: tuple[int, ...] = ()

    def __init__(self, readable: list[str], listed: list[str], limits: RunLimits, scratch: str):
        self.limits = limits
        self.scratch = scratch
        self.proc_fd = os.open("/proc", os.O_RDONLY | os.O_CLOEXEC) if os.path.isdir("/proc/self") else -1
        if sys.platform == "linux":
            kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
        set_rlimits(limits, None)

    def confine(self, fork: bool) -> None:
        """Sets the limit that is not the server's as well."""
        set_cpu_limit(self.limits)


TIERS = {tier.name: tier for tier in (Namespaces, Landlock, Unprotected)}


def _become_nobody(keep: tuple[int, ...] = ()) -> None:
    """From root to a user without rights, in this process for good; it may keep capabilities."""
    os.setgroups([])
    if keep:
        kernel.prctl(kernel.PR_SET_KEEPCAPS, 1)
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    if keep:
        kernel.set_capabilities(*keep)
    kernel.prctl(kernel.PR_SET_DUMPABLE, 1)  # or its own /proc/self would be root's


def _others_can_reach(paths: list[str]) -> bool:
    """True if every directory on the way to these paths lets everybody through."""
    ways = set()
    for path in paths:
        while path != "/":
            ways.add(path)
            path = os.path.dirname(path)
    return all(os.stat(way).st_mode & stat.S_IXOTH for way in ways if os.path.isdir(way))


def go_on_as_child() -> None:
    """Forks, and comes back in the child; the parent waits for its end, and ends it when its own parent is gone."""
    caller = os.pidfd_open(os.getppid())
    child = os.fork()
    if child == 0:
        kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
        os.close(caller)
        return
    ended = os.pidfd_open(child)
    for fd in range(NUM_OPEN_FILES):
        if fd not in (caller, ended):
            with contextlib.suppress(OSError):
                os.close(fd)
    watch = select.poll()
    watch.register(caller, select.POLLIN)
    watch.register(ended, select.POLLIN)
    watch.poll()
    os._exit(0)


def end_children() -> None:
    """Kills and reaps all that descends from this process: it takes in the orphans, until none is left."""
    while True:
        with contextlib.suppress(OSError), open(f"/proc/self/task/{os.getpid()}/children") as children:
            for pid in children.read().split():
                os.kill(int(pid), signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def own_address_bytes() -> int:
    """Address space of this process: what a program's limit has to allow on top, since it begins as a copy."""
    try:
        with open("/proc/self/statm") as sizes:
            return int(sizes.read().split()[0]) * resource.getpagesize()
    except OSError:
        return 0


def set_rlimits(limits: RunLimits, processes: int | None) -> None:
    """The limits of one process, set once for this server and so for every child; all but the CPU's.

    What they cannot hold for the processes of a run together is the tier's, or is looked at.
    """
    address_bytes = limits.memory_bytes + own_address_bytes()
    values = {
        resource.RLIMIT_AS: address_bytes,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_FSIZE: max(limits.file_bytes, limits.output_bytes + 1),  # stdout and stderr are files, too
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_NOFILE: NUM_OPEN_FILES,
        resource.RLIMIT_STACK: STACK_BYTES,
    }
    if processes is not None:
        values[resource.RLIMIT_NPROC] = processes
    for kind, value in values.items():
        _set_rlimit(kind, value, value)


def set_cpu_limit(limits: RunLimits) -> None:
    """The CPU seconds of this process, a child; whole ones, rounded up."""
    seconds = math.ceil(limits.cpu_seconds)
    _set_rlimit(resource.RLIMIT_CPU, seconds, seconds + 1)


def _set_rlimit(kind: int, soft: int, hard: int) -> None:
    _, ceiling = resource.getrlimit(kind)
    if ceiling != resource.RLIM_INFINITY:  # a limit that the user is under already may be the lower one
        soft, hard = min(soft, ceiling), min(hard, ceiling)
    resource.setrlimit(kind, (soft, hard))


def directory_use(path: str) -> tuple[int, int]:
    """(bytes on disk, inodes) of what lies in a directory that a program may be writing to at the moment."""
    num_bytes = num_inodes = 0
    waiting = [path]
    while waiting:
        with contextlib.suppress(OSError), os.scandir(waiting.pop()) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    num_inodes += 1
                    num_bytes += entry.stat(follow_symlinks=False).st_blocks * 512
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
    return num_bytes, num_inodes


def empty_directory(path: str) -> None:
    """Removes all that lies in a directory, however deep: directories are brought to the top first, then entered."""
    token = os.urandom(8).hex()  # no name that is there already
    num_moved = 0
    while names := os.listdir(path):
        for name in names:
            entry = os.path.join(path, name)
            if not stat.S_ISDIR(os.lstat(entry).st_mode):
                os.unlink(entry)
                continue
            os.chmod(entry, 0o700)
            for name in os.listdir(entry):
                num_moved += 1
                target = os.path.join(path, f"{token}.{num_moved}")
                inner = os.path.join(entry, name)
                if stat.S_ISDIR(os.lstat(inner).st_mode):
                    os.chmod(inner, 0o700)  # to move a directory is to write its `..`
                os.rename(inner, target)
            os.rmdir(entry)
