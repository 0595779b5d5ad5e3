"""Programs that attack the machine they run on, as data: what each tries, and how it is seen whether it got through.

Every program is PRELUDE and its own lines. It says ESCAPED when it holds what it should not have, so a sandbox that
does nothing is told from one that holds. What a program cannot see of itself (a killed process, a changed file, a
process that lives on) `test_sandbox_hostile.py` looks for from outside. Names of processes and files that a program
leaves carry W["marker"]. No program has the secret in its text: it knows only what a secret looks like.
"""

import json
import textwrap
from dataclasses import dataclass

SECRET_FORMAT = "R1SECRET-{}"  # and 32 hexadecimal digits
TRIED = "TRIED"  # the last line of a program that came to its end

PRELUDE = '''
import ctypes, errno, os, re, signal, sys, time
W = {world}
libc = ctypes.CDLL(None, use_errno=True)
libc.prctl(15, W["marker"].encode(), 0, 0, 0)  # PR_SET_NAME
NUMBERS = {{
    "x86_64": dict(
        process_vm_readv=310, process_vm_writev=311, unshare=272, setns=308, mount=165, umount2=166, pivot_root=155,
        chroot=161, ptrace=101, personality=135, keyctl=250, add_key=248, bpf=321, perf_event_open=298,
        userfaultfd=323, io_uring_setup=425, open_by_handle_at=304, name_to_handle_at=303, kexec_load=246,
        finit_module=313, clone3=435, clone=56, pidfd_open=434, pidfd_getfd=438, pidfd_send_signal=424, capget=125,
        capset=126, reboot=169, fsopen=430, open_tree=428, memfd_create=319, shmget=29, shmat=30, shmdt=67,
        shmctl=31, semget=64, msgget=68, mq_open=240, inotify_init1=294, fanotify_init=300, syslog=103, prlimit64=302,
        socket=41, setpriority=141, ioprio_set=251, sethostname=170, clock_settime=227, swapon=167, acct=163,
        mknodat=259, rt_sigqueueinfo=129, tgkill=234, memfd_secret=447, kcmp=312, quotactl=179, execveat=322,
        vmsplice=278, landlock_restrict_self=446, seccomp=317, setfsuid=122, io_setup=206, migrate_pages=256,
    ),
    "aarch64": dict(
        process_vm_readv=270, process_vm_writev=271, unshare=97, setns=268, mount=40, umount2=39, pivot_root=41,
        chroot=51, ptrace=117, personality=92, keyctl=219, add_key=217, bpf=280, perf_event_open=241,
        userfaultfd=282, io_uring_setup=425, open_by_handle_at=265, name_to_handle_at=264, kexec_load=104,
        finit_module=273, clone3=435, clone=220, pidfd_open=434, pidfd_getfd=438, pidfd_send_signal=424, capget=90,
        capset=91, reboot=142, fsopen=430, open_tree=428, memfd_create=279, shmget=194, shmat=196, shmdt=197,
        shmctl=195, semget=190, msgget=186, mq_open=180, inotify_init1=26, fanotify_init=262, syslog=116,
        prlimit64=261, socket=198, setpriority=140, ioprio_set=30, sethostname=161, clock_settime=112, swapon=224,
        acct=89, mknodat=33, rt_sigqueueinfo=138, tgkill=131, memfd_secret=447, kcmp=272, quotactl=60, execveat=281,
        vmsplice=75, landlock_restrict_self=446, seccomp=277, setfsuid=151, io_setup=0, migrate_pages=238,
    ),
}}[os.uname().machine]

def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode("utf-8", "replace"))

def attempt(what, function, *arguments):
    """A true result is a success of the attack."""
    try:
        result = function(*arguments)
    except Exception as error:
        say("refused:", what, type(error).__name__, error)
        return None
    say("ESCAPED" if result or result == b"" else "nothing:", what, str(result)[:200])
    return result

def read(path, size=1 << 16):
    with open(path, "rb", buffering=0) as file:
        return file.read(size)

def leak(data):
    """The secret in these bytes, or None."""
    found = re.search(rb"R1SECRET-[0-9a-f]{{32}}", data)
    return found and found.group().decode()

def call(name, *arguments):
    """The result of a system call that may not be in the C library; OSError if it is refused."""
    words = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    libc.syscall.restype = ctypes.c_long
    result = libc.syscall(ctypes.c_long(NUMBERS[name]), *words)
    if result == -1:
        raise OSError(ctypes.get_errno(), name)
    return result

def reached(name, *arguments, refusals=(errno.EPERM, errno.EACCES, errno.ENOSYS)):
    """True if the kernel got past the question whether this process may: also if then the arguments are nonsense."""
    try:
        call(name, *arguments)
    except OSError as error:
        if error.errno in refusals:
            raise
        return f"past the check of permission: {{error}}"
    return True

def others():
    """Processes outside that a program may have heard of, and its parent."""
    return [pid for pid in dict.fromkeys([*W["pids"], W["canary_pid"], os.getppid(), 1]) if pid not in (0, os.getpid())]

def memory(address, size):
    """The bytes at an address of this process, None if there are none: the kernel looks, so no page fault kills."""
    read_fd, write_fd = os.pipe()
    try:
        written = libc.write(write_fd, ctypes.c_void_p(address), ctypes.c_size_t(min(size, 4096)))
        return os.read(read_fd, written) if written > 0 else None
    finally:
        os.close(read_fd)
        os.close(write_fd)
'''


@dataclass(frozen=True)
class Hostile:
    """One attack. `must_hold` says what may not happen."""

    name: str
    kind: str
    must_hold: str
    source: str
    statuses: frozenset[str] = frozenset({"ok"})
    """How the run may end. A program that ends by itself must come to its last line, or be killed by SIGSYS."""
    works_unsandboxed: str = "yes"
    """yes: plain Python says ESCAPED or does damage. perhaps: where the machine allows it (privilege, kernel).
    no: too dangerous, or too slow, to show."""
    slow: bool = False
    """Ends by a limit of time; those run all at once."""
    tiers: str = "AB"
    not_in_a: str = ""
    """Why tier A cannot hold it."""
    not_in_b: str = ""
    """Why tier B cannot hold it."""
    stdin: bytes = b""
    language: str = "python"


def source_of(row: Hostile, world: dict) -> str:
    """What is handed to the sandbox: the row's program, which knows `world`."""
    if row.language != "python":
        source = textwrap.dedent(row.source)
        for name, value in world.items():
            source = source.replace(f"@{name}@", str(value))
        return source
    return PRELUDE.format(world=json.dumps(world)) + textwrap.dedent(row.source) + f"\nsay({TRIED!r})\n"


def _ends(*statuses: str) -> frozenset[str]:
    return frozenset(statuses)


# The first process of a pid namespace survives the signals that it sends itself; then it goes on to its end.
_KILLED_OR_PID_1 = _ends("runtime_error", "ok")
# Where the scratch is a directory that is measured now and then, the program is killed when it is found to be too big.
_SCRATCH_IS_FULL = _ends("ok", "output_limit", "runtime_error")
SCRATCH_IN_B = "the scratch is a plain directory, measured now and then: a program that is fast, or deletes, goes over"


NETWORK = [
    Hostile(
        "tcp_to_loopback",
        "network",
        "no connection comes in",
        """
        import socket
        for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
            attempt(host, lambda: socket.create_connection((host, W["tcp_port"]), timeout=1).sendall(b"hello") or True)
        """,
    ),
    Hostile(
        "tcp_listen",
        "network",
        "no port is opened",
        """
        import socket
        def listen():
            with socket.socket() as server:
                server.bind(("0.0.0.0", 0))
                server.listen()
                return server.getsockname()
        attempt("listen", listen)
        """,
    ),
    Hostile(
        "udp_sendto",
        "network",
        "no datagram comes in",
        """
        import socket
        def send():
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
                return one.sendto(b"hello", ("127.0.0.1", W["udp_port"]))
        attempt("udp", send)
        """,
    ),
    Hostile(
        "udp_connect_and_broadcast",
        "network",
        "no datagram comes in",
        """
        import socket
        def send():
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
                one.connect(("127.255.255.255", W["udp_port"]))
                return one.send(b"hello") or True
        attempt("udp broadcast", send)
        """,
    ),
    Hostile(
        "sctp_mptcp_and_other_protocols",
        "network",
        "no socket of any protocol",
        """
        import socket
        for protocol in (0, 6, 17, 132, 136, 262):
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET):
                attempt(f"{protocol} {kind}", lambda: socket.socket(socket.AF_INET, kind, protocol).fileno())
        """,
    ),
    Hostile(
        "unix_abstract",
        "network",
        "no connection comes in",
        """
        import socket
        def connect():
            with socket.socket(socket.AF_UNIX) as one:
                one.connect("\\0" + W["abstract_name"])
                return one.send(b"hello")
        attempt("abstract", connect)
        """,
    ),
    Hostile(
        "unix_abstract_datagram_from_a_socketpair",
        "network",
        "a socket that may be had is connected nowhere else",
        """
        import socket
        def send(kind):
            one, two = socket.socketpair(socket.AF_UNIX, kind)
            return one.sendto(b"hello", "\\0" + W["abstract_datagram_name"])
        for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM, socket.SOCK_SEQPACKET):
            attempt("sendto", send, kind)
        """,
    ),
    Hostile(
        "unix_path_datagram_from_a_socketpair",
        "network",
        "a socket that may be had is connected nowhere else",
        """
        import socket
        def connect():
            one, two = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
            one.connect(W["unix_datagram_path"])
            return one.send(b"hello")
        attempt("connect", connect)
        """,
    ),
    Hostile(
        "unix_path",
        "network",
        "no connection comes in",
        """
        import socket
        def connect(path):
            with socket.socket(socket.AF_UNIX) as one:
                one.connect(path)
                return one.send(b"hello")
        for path in (W["unix_path"], "/run/docker.sock", "/run/dbus/system_bus_socket", "/run/systemd/journal/socket"):
            attempt(path, connect, path)
        """,
    ),
    Hostile(
        "dns",
        "network",
        "no name is resolved",
        """
        import socket
        for name in ("localhost", "example.org", socket.gethostname()):
            attempt(name, lambda: socket.getaddrinfo(name, 80))
        """,
        works_unsandboxed="no",  # waits for a resolver
    ),
    Hostile(
        "dns_by_hand",
        "network",
        "no question reaches a resolver",
        """
        import socket
        def ask(server):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
                question = b"\\7example\\3org\\0" + bytes([0, 1, 0, 1])
                return one.sendto(bytes([1, 2, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0]) + question, (server, W["udp_port"]))
        for server in ("127.0.0.1", "127.0.0.53"):
            attempt(server, ask, server)
        """,
    ),
    Hostile(
        "vsock",
        "network",
        "no way to the host of this virtual machine",
        """
        import socket
        attempt("vsock", lambda: socket.socket(40, socket.SOCK_STREAM).fileno())
        attempt("vsock datagram", lambda: socket.socket(40, socket.SOCK_DGRAM).fileno())
        """,
        works_unsandboxed="perhaps",
    ),
    Hostile(
        "netlink",
        "network",
        "no netlink socket: routes, audit, uevents",
        """
        import socket
        for protocol in range(23):
            attempt(f"netlink {protocol}", lambda: socket.socket(16, socket.SOCK_RAW, protocol).fileno())
        """,
    ),
    Hostile(
        "raw_and_packet",
        "network",
        "no raw socket",
        """
        import socket
        attempt("raw icmp", lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1).fileno())
        attempt("ping", lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM, 1).fileno())
        attempt("packet", lambda: socket.socket(17, socket.SOCK_RAW, 0x0300).fileno())
        attempt("packet datagram", lambda: socket.socket(17, socket.SOCK_DGRAM, 0).fileno())
        """,
        works_unsandboxed="perhaps",
    ),
    Hostile(
        "every_family",
        "network",
        "no socket of any family: the rare ones hold the kernel's bugs (algorithms, CAN, Bluetooth, TIPC, KCM, XDP)",
        """
        for family in range(50):
            for kind in (1, 2, 3, 5):
                attempt(f"family {family}, kind {kind}", lambda: call("socket", family, kind, 0) + 1)
        """,
    ),
    Hostile(
        "socketpair_of_other_families",
        "network",
        "socketpair makes local pairs only",
        """
        for family in [family for family in range(50) if family != 1]:
            pair = (ctypes.c_int * 2)()
            attempt(f"family {family}", lambda: libc.socketpair(family, 1, 0, pair) == 0)
        """,
        works_unsandboxed="perhaps",
    ),
    Hostile(
        "inherited_sockets",
        "network",
        "no socket is handed down",
        """
        import socket
        for fd in range(3, 1024):
            try:
                one = socket.socket(fileno=fd)
                kind = one.type, one.family
            except OSError:
                continue
            say("ESCAPED: descriptor", fd, kind)
            try:
                one.setblocking(False)
                one.send(b"forged")
            except OSError as error:
                say(error)
            one.detach()
        """,
    ),
]

SECRETS = [
    Hostile(
        "files_of_the_user",
        "secrets",
        "no file of the user, of the repository or in a temporary directory is read",
        """
        for path in W["secret_files"]:
            attempt(path, lambda: leak(read(path)))
        for path in W["repository_files"]:
            attempt(path, read, path)
        """,
    ),
    Hostile(
        "files_of_the_system",
        "secrets",
        "no file of the system is read",
        """
        for path in ("/etc/passwd", "/etc/shadow", "/etc/group", "/etc/hostname", "/etc/machine-id", "/etc/hosts",
                     "/etc/resolv.conf", "/etc/ssh/sshd_config", "/var/log/dpkg.log", "/var/lib/dpkg/status",
                     "/boot/vmlinuz", "/etc/sudoers", "/etc/fstab"):
            attempt(path, read, path, 100)
        """,
    ),
    Hostile(
        "listings",
        "secrets",
        "no directory outside of the interpreter is listed",
        """
        for path in (W["home"], W["repository"], "/root", "/home", "/tmp", "/var", "/etc", "/proc", "/sys", "/run",
                     "/dev/shm", os.path.dirname(W["unix_path"])):
            telling = ("passwd", "hostname", "pyproject.toml", "recipes", "cmdline", "kernel", "log", W["marker"])
            attempt(path, lambda: [name for name in os.listdir(path) if name in telling or W["marker"] in name])
        """,
    ),
    Hostile(
        "keys_and_tokens",
        "secrets",
        "no key, token or cache of the user is read",
        """
        for name in (".ssh/id_rsa", ".ssh/id_ed25519", ".ssh/authorized_keys", ".netrc", ".gitconfig", ".bashrc",
                     ".bash_history", ".aws/credentials", ".cache/huggingface/token", ".config/gh/hosts.yml",
                     ".profile", W["marker"]):
            for home in dict.fromkeys([W["home"], "/root", os.path.expanduser("~")]):
                path = os.path.join(home, name)
                attempt(path, read, path, 100)
        """,
    ),
    Hostile(
        "files_by_other_ways_of_opening",
        "secrets",
        "every system call that opens is refused",
        """
        path, start = W["secret_files"][0], os.getcwd()
        directory, name = os.path.split(path)
        O_PATH = 0o10000000
        def by_directory():
            fd = os.open(directory, O_PATH)
            return leak(os.read(os.open(name, os.O_RDONLY, dir_fd=fd), 4096))
        attempt("openat", by_directory)
        def by_chdir():
            os.chdir(directory)
            return leak(read(name))
        attempt("chdir", by_chdir)
        def by_symlink():
            os.symlink(path, "link to it")
            return leak(read("link to it"))
        os.chdir(start)
        attempt("symlink", by_symlink)
        def by_hard_link():
            os.link(path, "hard link")
            return leak(read("hard link"))
        attempt("hard link", by_hard_link)
        def by_sendfile():
            read_fd, write_fd = os.pipe()
            os.sendfile(write_fd, os.open(path, os.O_RDONLY), 0, 100)
            return leak(os.read(read_fd, 100))
        attempt("sendfile", by_sendfile)
        def by_mmap():
            import mmap
            with open(path, "rb") as file:
                return leak(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)[:])
        attempt("mmap", by_mmap)
        def by_dots():
            return leak(read("../" * 20 + path.lstrip("/")))
        attempt("dots", by_dots)
        def by_rename():
            os.rename(path, "moved")
            os.rename("moved", path)
            return True
        attempt("rename", by_rename)
        """,
    ),
    Hostile(
        "names_and_sizes",
        "secrets",
        "not even the existence and size of a file can be seen",
        """
        for path in [*W["secret_files"], *W["repository_files"]]:
            attempt(path, lambda: os.stat(path).st_size)
            attempt(path, lambda: os.access(path, os.F_OK))
        """,
        tiers="A",
        not_in_b="landlock guards contents and listings, not stat, access, readlink and chdir by a known name",
    ),
    Hostile(
        "proc_of_others",
        "secrets",
        "no environment, memory, command line or descriptor of another process",
        """
        for pid in others():
            for name in ("environ", "cmdline", "status", "maps", "cwd/pyproject.toml", "stat", "limits"):
                attempt(f"/proc/{pid}/{name}", read, f"/proc/{pid}/{name}", 100)
            # Opened and not read: it may be a pipe that says nothing, or whose bytes another process waits for.
            attempt(f"/proc/{pid}/fd/3", lambda: os.open(f"/proc/{pid}/fd/3", os.O_RDONLY | os.O_NONBLOCK))
            attempt(f"/proc/{pid}/mem", lambda: open(f"/proc/{pid}/mem", "rb", buffering=0).fileno())
            attempt(f"/proc/{pid}/root", lambda: os.listdir(f"/proc/{pid}/root"))
            attempt(f"/proc/{pid}/fd", lambda: os.listdir(f"/proc/{pid}/fd"))
        """,
    ),
    Hostile(
        "environment_of_the_parent",
        "secrets",
        "the parent's environment is not read",
        """
        for pid in others():
            attempt(f"/proc/{pid}/environ", lambda: leak(read(f"/proc/{pid}/environ", 1 << 20)))
        """,
    ),
    Hostile(
        "memory_of_the_parent_through_proc",
        "secrets",
        "the parent's memory is not read",
        """
        def scan(pid):
            with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", buffering=0) as mem:
                for line in maps:
                    if " rw" in line and ("heap" in line or len(line.split()) == 5):
                        start, end = (int(part, 16) for part in line.split()[0].split("-"))
                        mem.seek(start)
                        try:
                            if found := leak(mem.read(min(end - start, 1 << 25))):
                                return found
                        except OSError:
                            pass
        for pid in others():
            attempt(pid, scan, pid)
        """,
    ),
    Hostile(
        "proc_self",
        "secrets",
        "/proc is not there: neither oneself, nor what is known of the machine",
        """
        for name in ("self/environ", "self/maps", "self/status", "self/mountinfo", "self/cgroup",
                     "thread-self/comm", "1/comm", "cmdline", "version", "keys", "net/tcp", "mounts", "cpuinfo",
                     "sys/kernel/hostname", "kallsyms", "kcore", "sysrq-trigger", "partitions"):
            attempt(name, read, "/proc/" + name, 100)
        """,
    ),
    Hostile(
        "sys_and_devices",
        "secrets",
        "no device of the machine, no /sys",
        """
        for path in ("/sys/kernel/notes", "/sys/class/dmi/id/sys_vendor", "/sys/fs/cgroup/cgroup.procs",
                     "/sys/kernel/uevent_seqnum", "/dev/mem", "/dev/kmsg", "/dev/vda", "/dev/sda", "/dev/nvme0n1",
                     "/dev/tty", "/dev/ptmx", "/dev/kvm", "/dev/net/tun", "/dev/fuse", "/dev/vsock", "/dev/vhost-net"):
            attempt(path, lambda: os.open(path, os.O_RDONLY | os.O_NONBLOCK))
        """,
    ),
    Hostile(
        "environment",
        "secrets",
        "nothing of the environment is handed down",
        """
        attempt("os.environ", lambda: leak(repr(dict(os.environ)).encode()))
        attempt("getenv", lambda: leak((ctypes.c_char_p(libc.getenv(W["secret_variable"].encode())).value or b"")))
        for name in ("HOME", "USER", "PYTHONPATH", "VIRTUAL_ENV", "SSH_AUTH_SOCK", "HF_TOKEN", "E2B_API_KEY", "TMPDIR"):
            attempt(name, lambda: os.environ.get(name, os.getcwd()) != os.getcwd() and os.environ[name])
        """,
    ),
    Hostile(
        "environment_on_the_stack",
        "secrets",
        "the environment with which the interpreter was started holds nothing either",
        """
        end = ctypes.c_void_p.in_dll(ctypes.CDLL(None), "__libc_stack_end").value
        def scan():
            whole, address = b"", end & ~4095
            while page := memory(address, 4096):
                whole, address = whole + page, address + 4096
            return leak(whole)
        attempt("stack", scan)
        """,
    ),
    Hostile(
        "inherited_descriptors",
        "secrets",
        "no descriptor but the standard three",
        """
        for fd in range(3, 1 << 16):
            try:
                stat = os.fstat(fd)
            except OSError:
                continue
            say("ESCAPED: descriptor", fd, oct(stat.st_mode))
            try:
                os.lseek(fd, 0, 0)
                say(leak(os.read(fd, 4096)))
            except OSError as error:
                say(error)
        """,
    ),
    Hostile(
        "standard_streams_lead_nowhere",
        "secrets",
        "stdin, stdout and stderr are no terminal and no socket of the user, and hold no other's data",
        """
        import stat
        for fd in range(3):
            mode = os.fstat(fd).st_mode
            attempt(f"tty {fd}", os.isatty, fd)
            attempt(f"socket {fd}", stat.S_ISSOCK, mode)
            attempt(f"directory {fd}", lambda: os.listdir(fd))
            attempt(f"read {fd}", lambda: leak(os.pread(fd, 1 << 16, 0)))
        """,
        works_unsandboxed="no",  # depends on the caller
    ),
    Hostile(
        "process_vm_readv",
        "secrets",
        "no memory of another process is read",
        """
        class Part(ctypes.Structure):
            _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]
        buffer = ctypes.create_string_buffer(64)
        local = Part(ctypes.addressof(buffer), 64)
        for pid in others():
            for address in [W["secret_address"], id(os.environ)]:
                remote = Part(address, 64)
                attempt(f"read {pid} at {address:x}", lambda: call("process_vm_readv", pid, ctypes.byref(local), 1,
                        ctypes.byref(remote), 1, 0) and (leak(buffer.raw) or "some bytes"))
        """,
    ),
    Hostile(
        "gc_and_frames",
        "secrets",
        "what the process was forked from knows no secret, no other program, and has no frames to walk",
        """
        import gc
        def texts():
            things = gc.get_objects()
            untracked = [inner for thing in things for inner in gc.get_referents(thing) if type(inner) is dict]
            for thing in (*things, *untracked):
                for value in gc.get_referents(thing):
                    if isinstance(value, (str, bytes, bytearray)):
                        yield value.encode("utf-8", "replace") if isinstance(value, str) else bytes(value)
            for frame in sys._current_frames().values():
                while frame:
                    for value in frame.f_locals.values():
                        yield repr(value).encode("utf-8", "replace")
                    frame = frame.f_back
        attempt("gc", lambda: leak(b"\\n".join(texts())))
        """,
    ),
    Hostile(
        "freed_memory",
        "secrets",
        "the heap holds nothing of an earlier program or its input",
        """
        def scan():
            libc.sbrk.restype = ctypes.c_void_p
            for start in (id(object()), id([]), id({}), id("x" * 5000), id(sys), libc.sbrk(0)):
                page = (start & ~4095) - 4096 * 512
                whole = b"".join(memory(page + 4096 * step, 4096) or b"" for step in range(1024))
                if found := leak(whole):
                    return found
        attempt("heap", scan)
        """,
        works_unsandboxed="perhaps",
    ),
    Hostile(
        "references_to_the_server",
        "secrets",
        "no socket, pipe or shared mapping of the fork server is left among the objects",
        """
        import gc, mmap, socket, _socket
        for thing in gc.get_objects():
            if isinstance(thing, mmap.mmap):
                say("ESCAPED: shared mapping", len(thing))
            if isinstance(thing, _socket.socket) and thing.fileno() >= 0:
                say("ESCAPED: socket", thing)
        """,
        works_unsandboxed="no",  # plain Python has no server
    ),
    Hostile(
        "sysv_memory_of_others",
        "secrets",
        "shared memory outside is not seen",
        """
        libc.shmat.restype = ctypes.c_void_p
        def attach():
            number = call("shmget", W["sysv_secret_key"], 0, 0)
            return leak(ctypes.string_at(libc.shmat(number, None, 0o10000), 100))
        attempt("shmget", attach)
        def by_number(number):
            address = libc.shmat(number, None, 0o10000)
            if address in (None, ctypes.c_void_p(-1).value):
                raise OSError(ctypes.get_errno(), "shmat")
            return leak(ctypes.string_at(address, 100))
        attempt("shmat", by_number, W["sysv_secret_number"])
        """,
    ),
    Hostile(
        "posix_queue_of_others",
        "secrets",
        "message queues outside are not seen",
        """
        attempt("mq_open", lambda: call("mq_open", W["queue_name"].encode(), os.O_RDONLY | os.O_NONBLOCK, 0, 0) + 1)
        """,
    ),
    Hostile(
        "kernel_log",
        "secrets",
        "the kernel's log is not read",
        """
        buffer = ctypes.create_string_buffer(1 << 16)
        attempt("syslog", lambda: call("syslog", 3, buffer, 1 << 16))
        attempt("size", lambda: call("syslog", 10, None, 0))
        """,
        works_unsandboxed="perhaps",
    ),
    Hostile(
        "watching_directories",
        "secrets",
        "nobody hears which files the user opens",
        """
        def watch():
            fd = call("inotify_init1", 0)
            return libc.inotify_add_watch(fd, W["canary_directory"].encode(), 0xFFF) > 0
        attempt("inotify", watch)
        attempt("fanotify", lambda: call("fanotify_init", 0, 0) + 1)
        """,
    ),
    Hostile(
        "sees_processes",
        "secrets",
        "no system call tells that another process exists",
        """
        for pid in [pid for pid in others() if pid > 1]:
            attempt(f"kill {pid}", lambda: os.kill(pid, 0) or True)
            attempt(f"sched_getaffinity {pid}", lambda: os.sched_getaffinity(pid))
            attempt(f"sched_getscheduler {pid}", lambda: os.sched_getscheduler(pid) + 1)
            attempt(f"getpriority {pid}", lambda: os.getpriority(os.PRIO_PROCESS, pid) + 100)
            attempt(f"pidfd_open {pid}", lambda: call("pidfd_open", pid, 0))
            attempt(f"prlimit {pid}", lambda: __import__("resource").prlimit(pid, 7))
        """,
        tiers="A",
        not_in_b="without a pid namespace a few calls (getpgid, getpriority) tell that a process exists; no more",
    ),
]

ESCAPES = [
    Hostile(
        "namespaces",
        "escapes",
        "no new namespace: a user namespace gives capabilities, and those the kernel's less tested half",
        """
        for name, flag in dict(user=0x10000000, mount=0x20000, pid=0x20000000, net=0x40000000, ipc=0x8000000,
                               uts=0x4000000, cgroup=0x2000000, time=0x80, user_and_all=0x7E020000).items():
            attempt(name, lambda: reached("unshare", flag))
        """,
    ),
    Hostile(
        "clone_with_a_namespace",
        "escapes",
        "no new namespace by clone, nor by clone3, whose flags no filter can read",
        """
        def child(name, *arguments):
            pid = call(name, *arguments)
            if pid == 0:
                say("ESCAPED: a child in a user namespace")
                os._exit(0)
            os.waitpid(pid, 0x40000000)
            return pid
        attempt("clone", child, "clone", 0x10000000 | signal.SIGCHLD, 0, 0, 0, 0)
        block = (ctypes.c_uint64 * 11)()
        block[0], block[4] = 0x10000000, signal.SIGCHLD
        attempt("clone3", child, "clone3", ctypes.byref(block), 88)
        """,
        works_unsandboxed="perhaps",
    ),
    Hostile(
        "setns",
        "escapes",
        "no way back into a namespace outside",
        """
        for pid in [os.getpid(), *others()]:
            for flag in (0x10000000, 0x20000, 0x40000000, 0x7E020000):
                attempt(f"{pid} {flag:x}", lambda: reached("setns", call("pidfd_open", pid, 0), flag,
                        refusals=(errno.EPERM, errno.EACCES, errno.ENOSYS, errno.ESRCH, errno.EINVAL)))
            if pid != os.getpid():
                attempt(f"{pid} proc", lambda: os.open(f"/proc/{pid}/ns/user", os.O_RDONLY))
        """,
    ),
    Hostile(
        "mounts",
        "escapes",
        "nothing is mounted, nothing unmounted",
        """
        attempt("mount", lambda: reached("mount", b"x", b".", b"no-such-file-system", 0, None))
        attempt("umount", lambda: reached("umount2", b".", 0))
        attempt("pivot_root", lambda: reached("pivot_root", b".", b"."))
        attempt("fsopen", lambda: reached("fsopen", b"tmpfs", 0))
        attempt("open_tree", lambda: reached("open_tree", -100, b".", 1))
        attempt("chroot", lambda: reached("chroot", b"/"))
        """,
        works_unsandboxed="perhaps",
    ),
    Hostile(
        "unmounting_what_hides_the_host",
        "escapes",
        "what lies beneath a mount stays hidden",
        """
        for path in ("/", "/tmp", "/proc", "/usr", "/root", "/home", os.getcwd(), sys.prefix):
            attempt(f"umount {path}", lambda: libc.umount2(path.encode(), 2) == 0)
            attempt(f"remount {path}", lambda: libc.mount(None, path.encode(), None, 32 | 4096, None) == 0)
            attempt(f"bind {path}", lambda: libc.mount(b"/", path.encode(), None, 4096 | 16384, None) == 0)
        attempt("proc", lambda: libc.mount(b"proc", b".", b"proc", 0, None) == 0)
        attempt("fresh tmpfs", lambda: libc.mount(b"tmpfs", b".", b"tmpfs", 0, None) == 0)
        """,
        works_unsandboxed="no",  # as root it would unmount this machine
    ),
    Hostile(
        "chroot_and_back",
        "escapes",
        "the root directory cannot be left",
        """
        def leave():
            os.mkdir("inner")
            fd = os.open(".", os.O_RDONLY)
            os.chroot("inner")
            os.fchdir(fd)
            for _ in range(64):
                os.chdir("..")
            os.chroot(".")
            return leak(read(W["secret_files"][0]))
        attempt("chroot", leave)
        def dots():
            for _ in range(64):
                os.chdir("..")
            return leak(read(W["secret_files"][0].lstrip("/")))
        attempt("dots", dots)
        """,
    ),
    Hostile(
        "ptrace",
        "escapes",
        "no other process is traced",
        """
        for pid in others():
            for request in (16, 0x4206):  # ATTACH, SEIZE
                if attempt(f"ptrace {pid}", lambda: call("ptrace", request, pid, 0, 0) == 0):
                    libc.waitpid(pid, None, 0x40000000) if request == 16 else None
                    libc.ptrace(17, pid, 0, 0)
        """,
        works_unsandboxed="no",  # would stop init, and the tests
    ),
    Hostile(
        "ptrace_of_a_neighbour",
        "escapes",
        "a process of the same user is not traced",
        """
        def seize():
            if call("ptrace", 0x4206, W["canary_pid"], 0, 0) == 0:
                return True
        attempt("seize", seize)
        """,
        works_unsandboxed="perhaps",  # yama
    ),
    Hostile(
        "process_vm_writev",
        "escapes",
        "no memory of another process is written",
        """
        class Part(ctypes.Structure):
            _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]
        buffer = ctypes.create_string_buffer(b"R1SECRET-", 9)
        local, remote, nowhere = Part(ctypes.addressof(buffer), 9), Part(W["secret_address"], 9), Part(4096, 9)
        def write(pid, there):
            return reached("process_vm_writev", pid, ctypes.byref(local), 1, ctypes.byref(there), 1, 0,
                           refusals=(errno.EPERM, errno.EACCES, errno.ENOSYS, errno.ESRCH))
        attempt("the tests", write, W["pids"][0], remote)
        for pid in others():
            attempt(pid, write, pid, nowhere)
        """,
    ),
    Hostile(
        "descriptors_of_others",
        "escapes",
        "no descriptor is fetched from another process",
        """
        for pid in others():
            def fetch():
                process = call("pidfd_open", pid, 0)
                for number in range(64):
                    try:
                        return call("pidfd_getfd", process, number, 0)
                    except OSError as error:
                        if error.errno != errno.EBADF:
                            raise
            attempt(pid, fetch)
        attempt("kcmp", lambda: call("kcmp", os.getpid(), W["canary_pid"], 2, 0, 0) + 10)
        """,
        works_unsandboxed="perhaps",
    ),
    Hostile(
        "set_uid_programs",
        "escapes",
        "a set-uid program gives no privilege, and there is none to run",
        """
        attempt("no_new_privs is off", lambda: libc.prctl(39, 0, 0, 0, 0) == 0)
        for path in ("/usr/bin/su", "/bin/su", "/usr/bin/sudo", "/usr/bin/mount", "/usr/bin/passwd",
                     "/usr/bin/newuidmap", "/usr/bin/fusermount3", "/usr/bin/pkexec", "/usr/bin/chsh"):
            def execute():
                pid = os.posix_spawn(path, [path, "--version"], {})
                code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                return code in (0, 1) and f"ran, {code}"
            attempt(path, execute)
        """,
    ),
    Hostile(
        "capabilities",
        "escapes",
        "no capability, and none regained; but one may read an interpreter that lies in a closed directory",
        """
        HEADER = (ctypes.c_uint32 * 2)(0x20080522, 0)
        def capabilities():
            data = (ctypes.c_uint32 * 6)()
            call("capget", ctypes.byref(HEADER), ctypes.byref(data))
            only_read = (data[0] | data[1]) in (0, 4) and not any(data[2:])  # CAP_DAC_READ_SEARCH
            return not only_read and list(data)
        attempt("capget", capabilities)
        def regain():
            data = (ctypes.c_uint32 * 6)(*[0xFFFFFFFF] * 6)
            call("capset", ctypes.byref(HEADER), ctypes.byref(data))
            return capabilities()
        attempt("capset", regain)
        attempt("ambient", lambda: libc.prctl(47, 2, 21, 0, 0) == 0)
        for name in ("setuid", "setgid", "seteuid", "setegid"):
            attempt(name, lambda: getattr(os, name)(0) or capabilities())
        attempt("keepcaps", lambda: libc.prctl(8, 1, 0, 0, 0) or os.setresuid(0, 0, 0) or capabilities())
        """,
        works_unsandboxed="perhaps",
    ),
    Hostile(
        "other_identities",
        "escapes",
        "nobody else's identity is taken",
        """
        for name, arguments in (("setgroups", ([0, 4, 27],)), ("setresuid", (65533, 65533, 65533)),
                                ("setresgid", (65533, 65533, 65533)), ("setreuid", (65533, 65533))):
            attempt(name, lambda: getattr(os, name)(*arguments) or True)
        before = call("setfsuid", 65533)
        attempt("setfsuid", lambda: call("setfsuid", 65533) == 65533)
        """,
        works_unsandboxed="perhaps",
        statuses=_ends("ok", "runtime_error"),
    ),
    Hostile(
        "capabilities_through_exec",
        "escapes",
        "a new interpreter has no more than the old one",
        """
        code = '''
        import ctypes, os, socket
        data = (ctypes.c_uint32 * 6)()
        libc = ctypes.CDLL(None)
        libc.capget((ctypes.c_uint32 * 2)(0x20080522, 0), data)
        if any(data) or libc.prctl(39, 0, 0, 0, 0) == 0:
            print("ESCAPED: capabilities", list(data))
        try:
            socket.socket(socket.AF_INET)
            print("ESCAPED: a socket after exec")
        except OSError as error:
            print("refused:", error)
        '''
        import textwrap
        command = ["python", "-I", "-c", textwrap.dedent(code)]
        attempt("spawn", lambda: os.waitpid(os.posix_spawn(sys.executable, command, {}), 0) and None)
        """,
    ),
    Hostile(
        "personality",
        "escapes",
        "address space randomisation is not switched off",
        """
        for flag in (0x0040000, 0x0400000, 0x0100000, 8):
            attempt(hex(flag), lambda: call("personality", flag) + 1)
        """,
        works_unsandboxed="perhaps",
    ),
    Hostile(
        "keyrings",
        "escapes",
        "no key is read or left",
        """
        attempt("add_key", lambda: call("add_key", b"user", W["marker"].encode(), b"value", 5, -4))
        attempt("add_key to the session", lambda: call("add_key", b"user", W["marker"].encode(), b"value", 5, -3))
        attempt("keyctl", lambda: call("keyctl", 0, -3, 0))
        attempt("join a session", lambda: call("keyctl", 1, None))
        """,
        works_unsandboxed="perhaps",
    ),
    Hostile(
        "the_kernels_weak_spots",
        "escapes",
        "bpf, perf, userfaultfd, io_uring, memfd_secret, aio are closed",
        """
        space = ctypes.create_string_buffer(256)
        attempt("bpf", lambda: reached("bpf", 0, space, 128))
        attempt("userfaultfd", lambda: reached("userfaultfd", 1))
        attempt("io_uring", lambda: reached("io_uring_setup", 4, space))
        attributes = ctypes.create_string_buffer(128)
        attributes[0:8] = (1).to_bytes(4, "little") + (112).to_bytes(4, "little")
        attempt("perf_event_open", lambda: reached("perf_event_open", attributes, 0, -1, -1, 0))
        attempt("memfd_secret", lambda: reached("memfd_secret", 0))
        """,
        works_unsandboxed="perhaps",
    ),
    Hostile(
        "open_by_handle",
        "escapes",
        "no file is opened by its number, past every directory",
        """
        handle = ctypes.create_string_buffer(136)
        handle[0:4] = (128).to_bytes(4, "little")
        mount = ctypes.c_int()
        def open_root(path):
            call("name_to_handle_at", -100, path, handle, ctypes.byref(mount), 0)
            return call("open_by_handle_at", os.open(".", os.O_RDONLY), handle, 0)
        for path in (b"/", b".", b".."):
            attempt(path, open_root, path)
        """,
        works_unsandboxed="perhaps",
    ),
    Hostile(
        "privileged_calls",
        "escapes",
        "no kernel is loaded, no module, no clock set, no machine renamed or restarted",
        """
        attempt("finit_module", lambda: reached("finit_module", -1, b"", 0))
        attempt("kexec_load", lambda: reached("kexec_load", 0, 1 << 20, None, 0x7F0000))
        attempt("reboot", lambda: reached("reboot", 0, 0, 0, None))
        attempt("swapon", lambda: reached("swapon", b"/no/such/file", 0))
        attempt("acct", lambda: reached("acct", b"/no/such/file"))
        attempt("sethostname", lambda: reached("sethostname", b"x" * 100, 1000))
        attempt("clock_settime", lambda: reached("clock_settime", 0, (ctypes.c_long * 2)(-1, -1)))
        """,
        works_unsandboxed="perhaps",
    ),
    Hostile(
        "typing_into_the_terminal",
        "escapes",
        "nothing is typed for the user",
        """
        import fcntl
        for fd in range(3):
            for letter in b"id\\n":
                attempt(f"TIOCSTI {fd}", lambda: fcntl.ioctl(fd, 0x5412, bytes([letter])) or True)
            attempt(f"TIOCLINUX {fd}", lambda: fcntl.ioctl(fd, 0x541C, b"\\3") or True)
            attempt(f"TIOCSCTTY {fd}", lambda: fcntl.ioctl(fd, 0x540E, 1) == 0)
        """,
        works_unsandboxed="no",  # the tests have no terminal
    ),
    Hostile(
        "calls_of_32_bits",
        "escapes",
        "the system calls of 32 bits, whose numbers are others, lead past no filter",
        """
        import mmap
        if os.uname().machine == "x86_64":
            code = mmap.mmap(-1, 4096, prot=7)
            #  push rbx; mov eax, 359 (socket); mov ebx, AF; mov ecx, 1; xor edx, edx; int 0x80; pop rbx; ret
            def interrupt(family):
                code.seek(0)
                code.write(bytes.fromhex("53b867010000bb") + family.to_bytes(4, "little")
                           + bytes.fromhex("b90100000031d2cd805bc3"))
                function = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))
                return max(0, function() + 1)
            for family in (1, 2, 16):
                attempt(f"int 0x80, family {family}", interrupt, family)
        """,
        works_unsandboxed="perhaps",
        statuses=_ends("ok", "runtime_error"),  # int 0x80 may end in SIGSYS, or SIGSEGV where the kernel has none
    ),
    Hostile(
        "calls_of_x32",
        "escapes",
        "a system call's number with the x32 bit, or the next 32 bits set, leads past no filter",
        """
        libc.syscall.restype = ctypes.c_long
        number = NUMBERS["socket"]
        for name, bit in (("x32", 1 << 30), ("high bits", 1 << 32), ("sign", -(1 << 32))):
            attempt(name, lambda: libc.syscall(ctypes.c_long(number + bit), 2, 1, 0) + 1)
        """,
        works_unsandboxed="perhaps",
    ),
    Hostile(
        "limits_upward",
        "escapes",
        "no limit is raised, one's own or another's",
        """
        import resource
        for number in range(16):
            soft, hard = resource.getrlimit(number)
            def raise_it(wanted):
                resource.setrlimit(number, (wanted, wanted))
                return hard != resource.RLIM_INFINITY and resource.getrlimit(number)[1] not in range(hard + 1)
            attempt(f"unlimited {number}", raise_it, resource.RLIM_INFINITY)
            if hard != resource.RLIM_INFINITY:
                attempt(f"one more {number}", raise_it, hard + 1)
        """,
        works_unsandboxed="perhaps",
    ),
    Hostile(
        "limits_of_others",
        "escapes",
        "no limit, niceness or affinity of another process is changed",
        """
        import resource
        for pid in [W["canary_pid"]]:
            attempt("prlimit", lambda: resource.prlimit(pid, resource.RLIMIT_NOFILE, (11, 11)))
            attempt("priority", lambda: os.setpriority(os.PRIO_PROCESS, pid, 19) or True)
            attempt("affinity", lambda: os.sched_setaffinity(pid, list(os.sched_getaffinity(0))[:1]) or True)
            attempt("batch", lambda: os.sched_setscheduler(pid, os.SCHED_BATCH, os.sched_param(0)) or True)
            attempt("ioprio", lambda: call("ioprio_set", 1, pid, 3 << 13) == 0)
        """,
    ),
    Hostile(
        "priority_of_all",
        "escapes",
        "the priority of all processes of the user is not changed",
        """
        attempt("user", lambda: call("setpriority", 2, W["uid"], 19) == 0 and W["canary_pid"] and
                os.getpriority(os.PRIO_PROCESS, W["canary_pid"]) == 19)
        """,
        works_unsandboxed="no",  # would slow down everything
    ),
    Hostile(
        "signals_to_others",
        "escapes",
        "no process outside is signalled, by any call",
        """
        pid = W["canary_pid"]
        attempt("kill", lambda: os.kill(pid, signal.SIGKILL) or True)
        attempt("tgkill", lambda: call("tgkill", pid, pid, 9) == 0)
        attempt("sigqueue", lambda: call("rt_sigqueueinfo", pid, 9, ctypes.create_string_buffer(128)) == 0)
        attempt("pidfd", lambda: call("pidfd_send_signal", call("pidfd_open", pid, 0), 9, None, 0) == 0)
        attempt("group", lambda: os.killpg(W["canary_group"], signal.SIGKILL) or True)
        """,
    ),
    Hostile(
        "signals_by_owning_a_descriptor",
        "escapes",
        "no process outside is signalled in the name of a socket (F_SETOWN, F_SETSIG)",
        """
        import fcntl, socket
        def own(pid):
            one, two = socket.socketpair()
            fcntl.fcntl(one, 10, signal.SIGKILL)  # F_SETSIG
            fcntl.fcntl(one, fcntl.F_SETOWN, pid)
            fcntl.fcntl(one, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
            two.send(b"!")
        for pid in (W["canary_pid"], -W["canary_group"]):
            attempt(pid, own, pid)
        """,
    ),
    Hostile(
        "executing_memory",
        "escapes",
        "what is executed is no program brought along",
        """
        def execute():
            fd = call("memfd_create", b"program", 0)
            os.write(fd, b"#!" + sys.executable.encode() + b"\\nprint('ESCAPED: exec of a memfd')\\n")
            return call("execveat", fd, b"", (ctypes.c_char_p * 2)(b"x", None), (ctypes.c_char_p * 1)(None), 0x1000)
        attempt("execveat", execute)
        for path in ("/bin/sh", "/bin/bash", "/usr/bin/env", "/usr/bin/id", "/usr/bin/perl", "/usr/bin/curl"):
            attempt(path, lambda: os.waitstatus_to_exitcode(os.waitpid(os.posix_spawn(path, [path, "-c", "exit 3"], {}),
                    0)[1]) in (0, 1, 2, 3, 22, 125, 126, 127) and "ran")
        """,
    ),
    Hostile(
        "taking_the_filter_away",
        "escapes",
        "the filter stays, whatever is laid upon it",
        """
        import socket
        allow = (ctypes.c_uint64 * 1)(0x7FFF000000000006)
        class Filter(ctypes.Structure):
            _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_void_p)]
        program = Filter(1, ctypes.addressof(allow))
        try:
            call("seccomp", 1, 0, ctypes.byref(program))
        except OSError as error:
            say("refused:", error)
        attempt("a socket", lambda: socket.socket().fileno())
        attempt("a namespace", lambda: reached("unshare", 0x10000000))
        """,
    ),
]

WRITING = [
    Hostile(
        "links_to_outside",
        "writing",
        "nothing outside is changed through a link or dots",
        """
        target = W["canary_file"]
        def through(link):
            link(target, "link")
            try:
                with open("link", "a") as file:
                    return file.write("changed")
            finally:
                os.unlink("link")
        attempt("symlink", through, os.symlink)
        attempt("hard link", through, os.link)
        def by_dots():
            with open("../" * 30 + target.lstrip("/"), "a") as file:
                return file.write("changed")
        attempt("dots", by_dots)
        attempt("plain", lambda: open(target, "a").write("changed"))
        """,
    ),
    Hostile(
        "changing_what_is_outside",
        "writing",
        "no mode, owner, time, attribute, length or name of a file outside is changed",
        """
        target = W["canary_file"]
        attempt("chmod", lambda: os.chmod(target, 0o777) or True)
        attempt("utime", lambda: os.utime(target, (1, 1)) or True)
        attempt("setxattr", lambda: os.setxattr(target, "user.r1", b"x") or True)
        attempt("truncate", lambda: os.truncate(target, 0) or True)
        attempt("rename", lambda: os.rename(target, target + ".moved") or True)
        attempt("unlink", lambda: os.unlink(target) or True)
        attempt("chown", lambda: os.chown(target, 65533, 65533) or True)
        attempt("mkdir", lambda: os.mkdir(os.path.join(os.path.dirname(target), W["marker"])) or True)
        attempt("rmdir", lambda: os.rmdir(W["canary_directory"]) or True)
        """,
    ),
    Hostile(
        "files_elsewhere",
        "writing",
        "no file in any other directory",
        """
        for directory in ("/tmp", "/var/tmp", "/dev/shm", "/", "/dev", "/run", W["home"], W["repository"]):
            path = os.path.join(directory, W["marker"] + "-file")
            attempt(path, lambda: open(path, "x").write("x"))
        """,
        tiers="B",
        not_in_a="its root, /tmp and /dev/shm may be tmpfs of its own; what is seen from outside is the next row",
    ),
    Hostile(
        "files_elsewhere_seen_from_outside",
        "writing",
        "no file appears in any other directory",
        """
        for directory in ("/tmp", "/var/tmp", "/dev/shm", "/", "/dev", "/run", W["home"], W["repository"]):
            try:
                os.makedirs(directory, exist_ok=True)
                open(os.path.join(directory, W["marker"] + "-file"), "x").write("x")
            except OSError as error:
                say("refused:", error)
        """,
    ),
    Hostile(
        "the_interpreter",
        "writing",
        "the interpreter, its library, its packages and their caches are not written",
        """
        import site
        directories = [sys.prefix, os.path.dirname(os.__file__), os.path.dirname(os.__file__) + "/__pycache__",
                       os.path.dirname(sys.executable), *site.getsitepackages(), *sys.path]
        for directory in dict.fromkeys(filter(None, directories)):
            if os.path.isdir(directory) and not os.path.samefile(directory, "."):
                path = os.path.join(directory, W["marker"] + ".pth")
                attempt(path, lambda: open(path, "x").close() or os.unlink(path) or True)
        for path in (os.__file__, re.__file__, sys.executable, re.__cached__):
            attempt(path, lambda: open(path, "r+b").close() or True)
        """,
        works_unsandboxed="perhaps",
    ),
    Hostile(
        "modes_of_the_interpreter",
        "writing",
        "nobody is locked out of the interpreter or the packages, not even by their owner",
        """
        for path in (os.__file__, re.__file__, sys.executable, os.path.dirname(os.__file__)):
            stat = os.stat(path)
            attempt(path, lambda: os.chmod(path, stat.st_mode & 0o7777) or True)
            attempt(path, lambda: os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns)) or True)
            attempt(path, lambda: os.fchmod(os.open(path, os.O_RDONLY), stat.st_mode & 0o7777) or True)
        """,
        works_unsandboxed="perhaps",
    ),
    Hostile(
        "device_nodes",
        "writing",
        "no device node is made",
        """
        import stat
        for name, kind, major, minor in (("null", stat.S_IFCHR, 1, 3), ("kmsg", stat.S_IFCHR, 1, 11),
                                         ("mem", stat.S_IFCHR, 1, 1), ("disk", stat.S_IFBLK, 254, 0)):
            attempt(name, lambda: os.mknod(name, 0o600 | kind, os.makedev(major, minor)) or os.unlink(name) or True)
        """,
        works_unsandboxed="perhaps",
    ),
]

BOMBS = [
    Hostile(
        "fork_bomb",
        "bombs",
        "never more processes at a time than the limit",
        """
        alive = 0
        while alive < 10 * W["processes"]:
            try:
                if os.fork() == 0:
                    time.sleep(1000)
                    os._exit(0)
            except OSError as error:
                say("refused:", error)
                break
            alive += 1
        if alive > W["processes"]:
            say("ESCAPED:", alive, "processes")
        """,
        works_unsandboxed="no",
    ),
    Hostile(
        "fork_bomb_that_never_ends",
        "bombs",
        "it is over when the run is",
        """
        while True:
            try:
                os.fork()
            except OSError:
                pass
        """,
        statuses=_ends("timeout"),
        works_unsandboxed="no",
        slow=True,
    ),
    Hostile(
        "forks_one_after_the_other",
        "bombs",
        "a program that hops from process to process, each within its CPU time, is over at the limit of wall time",
        """
        while True:
            end = time.process_time() + 0.1
            while time.process_time() < end:
                pass
            try:
                if os.fork():
                    os.wait()
                    os._exit(0)
            except OSError:
                time.sleep(0.01)
        """,
        statuses=_ends("timeout", "runtime_error"),
        works_unsandboxed="no",
        slow=True,
    ),
    Hostile(
        "thread_bomb",
        "bombs",
        "never more threads at a time than the limit",
        """
        import threading
        threading.stack_size(1 << 16)
        alive = 0
        while alive < 10 * W["processes"]:
            try:
                threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
            except (RuntimeError, MemoryError) as error:
                say("refused:", error)
                break
            alive += 1
        if alive > W["processes"]:
            say("ESCAPED:", alive, "threads")
        """,
        statuses=_ends("ok", "runtime_error"),
        tiers="A",
        not_in_b="threads are counted now and then; RLIMIT_NPROC would count all that the user runs",
    ),
    Hostile(
        "memory_at_once",
        "bombs",
        "not more memory than the limit",
        """
        whole = bytearray(2 * W["memory_bytes"])
        say("ESCAPED:", len(whole))
        """,
        statuses=_ends("memory"),
    ),
    Hostile(
        "memory_in_small_pieces",
        "bombs",
        "not more memory than the limit",
        """
        pieces = []
        while len(pieces) * 1000 < 2 * W["memory_bytes"]:
            pieces.append(b"x" * 1000 + str(len(pieces)).encode())
        say("ESCAPED:", len(pieces))
        """,
        statuses=_ends("memory", "timeout"),
    ),
    Hostile(
        "memory_of_many_processes",
        "bombs",
        "all processes together not more memory than twice the limit",
        """
        read_fd, write_fd = os.pipe()
        size = W["memory_bytes"] // 2
        for _ in range(8):
            if os.fork() == 0:
                whole = bytearray(b"x") * size
                os.write(write_fd, b"!")
                time.sleep(1000)
        os.close(write_fd)
        total = sum(len(os.read(read_fd, 1)) for _ in range(8)) * size
        if total > 2 * W["memory_bytes"]:
            say("ESCAPED:", total, "bytes in use")
        """,
        statuses=_ends("memory", "runtime_error", "timeout", "ok"),
        works_unsandboxed="no",
    ),
    Hostile(
        "memory_of_nobody",
        "bombs",
        "no memory beyond the limit in files that no process has mapped",
        """
        held, piece = 0, b"x" * (1 << 20)
        try:
            for number in range(4096):
                fd = call("memfd_create", b"", 0)
                try:
                    for _ in range(1 << 10):
                        held += os.write(fd, piece)
                        if held > 2 * W["memory_bytes"]:
                            say("ESCAPED:", held)
                            os._exit(0)
                except OSError as error:
                    if error.errno != errno.EFBIG:
                        raise
        except OSError as error:
            say("refused:", error, held)
        """,
        statuses=_ends("ok", "memory", "output_limit"),
    ),
    Hostile(
        "memory_in_detached_segments",
        "bombs",
        "no memory beyond the limit in System V segments, which no limit counts once they are detached",
        """
        libc.shmat.restype = ctypes.c_void_p
        held, numbers = 0, []
        size = W["memory_bytes"] // 4
        try:
            while held <= 2 * W["memory_bytes"]:
                number = call("shmget", 0, size, 0o1600)
                numbers.append(number)
                address = libc.shmat(number, None, 0)
                if address in (None, ctypes.c_void_p(-1).value):
                    raise OSError(ctypes.get_errno(), "shmat")
                ctypes.memset(address, 1, size)
                libc.shmdt(ctypes.c_void_p(address))
                held += size
            say("ESCAPED:", held)
        except OSError as error:
            say("refused:", error)
        for number in numbers:
            libc.shmctl(number, 0, None)
        """,
        statuses=_ends("ok", "memory"),
    ),
    Hostile(
        "memory_in_pipes_and_sockets",
        "bombs",
        "no memory beyond the limit in the buffers of the kernel",
        """
        import fcntl, socket
        held, kept = 0, []
        try:
            while held <= 2 * W["memory_bytes"]:
                read_fd, write_fd = os.pipe2(os.O_NONBLOCK)
                try:
                    fcntl.fcntl(write_fd, 1031, 1 << 20)
                except OSError:
                    pass
                one, two = socket.socketpair()
                one.setblocking(False)
                kept.append((one, two))
                for write in (lambda piece: os.write(write_fd, piece), one.send):
                    try:
                        while True:
                            held += write(b"x" * (1 << 16))
                    except BlockingIOError:
                        pass
            say("ESCAPED:", held)
        except OSError as error:
            say("refused:", error, held)
        """,
        works_unsandboxed="no",
    ),
    Hostile(
        "full_scratch",
        "bombs",
        "not more in files than the limit of the scratch",
        """
        held = 0
        try:
            for number in range(40):
                with open(f"file {number}", "wb", buffering=0) as file:
                    while file.tell() < W["file_bytes"] - (1 << 20):
                        held += file.write(b"x" * (1 << 20))
        except OSError as error:
            say("refused:", error)
        if held > 1.5 * W["scratch_bytes"]:
            say("ESCAPED:", held)
        """,
        statuses=_SCRATCH_IS_FULL,
        tiers="A",
        not_in_b=SCRATCH_IN_B,
    ),
    Hostile(
        "scratch_of_deleted_files",
        "bombs",
        "a file that is deleted but open counts",
        """
        held, kept = 0, []
        try:
            for number in range(40):
                file = open("file", "wb", buffering=0)
                os.unlink("file")
                kept.append(file)
                while file.tell() < W["file_bytes"] - (1 << 20):
                    held += file.write(b"x" * (1 << 20))
        except OSError as error:
            say("refused:", error)
        if held > 1.5 * W["scratch_bytes"]:
            say("ESCAPED:", held)
        """,
        statuses=_SCRATCH_IS_FULL,
        tiers="A",
        not_in_b=SCRATCH_IN_B,
    ),
    Hostile(
        "inodes",
        "bombs",
        "not more files than the limit",
        """
        number = 0
        try:
            for number in range(3 * W["scratch_inodes"]):
                make = [lambda name: open(name, "x").close(), os.mkdir, lambda name: os.symlink("x", name)]
                make[number % 3](str(number))
        except OSError as error:
            say("refused:", error)
        if number > 1.5 * W["scratch_inodes"]:
            say("ESCAPED:", number)
        """,
        statuses=_SCRATCH_IS_FULL,
        tiers="A",
        not_in_b=SCRATCH_IN_B,
    ),
    Hostile(
        "deep_directories",
        "bombs",
        "a tree deeper than any path may be long is no more than any other, and gone afterwards",
        """
        depth = 0
        try:
            for depth in range(3 * W["scratch_inodes"]):
                os.mkdir("d" * 200)
                os.chdir("d" * 200)
        except OSError as error:
            say("refused:", error)
        if depth > 1.5 * W["scratch_inodes"]:
            say("ESCAPED:", depth)
        """,
        statuses=_SCRATCH_IS_FULL,
        tiers="A",
        not_in_b=SCRATCH_IN_B,
    ),
    Hostile(
        "sparse_file",
        "bombs",
        "no file longer than the limit, even of holes",
        """
        for size in (2 * W["file_bytes"], 1 << 40):
            attempt("truncate", lambda: open("sparse", "wb").truncate(size))
            attempt("fallocate", lambda: os.posix_fallocate(os.open("other", os.O_RDWR | os.O_CREAT), 0, size) or True)
            def seek():
                with open("third", "wb", buffering=0) as file:
                    file.seek(size)
                    return file.write(b"x")
            attempt("seek", seek)
            os.path.exists("other") and os.unlink("other")
        """,
        statuses=_ends("ok", "output_limit"),
        works_unsandboxed="no",
    ),
    Hostile(
        "output",
        "bombs",
        "stdout ends at its limit",
        """
        while True:
            os.write(1, b"x" * 65536)
        """,
        statuses=_ends("output_limit"),
        works_unsandboxed="no",
    ),
    Hostile(
        "output_to_stderr",
        "bombs",
        "stderr ends at its limit",
        """
        while True:
            print("y" * 1000, file=sys.stderr)
        """,
        statuses=_ends("output_limit"),
        works_unsandboxed="no",
    ),
    Hostile(
        "output_of_a_few_large_writes",
        "bombs",
        "stdout ends at its limit, whoever ignores SIGXFSZ",
        """
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        for _ in range(100):
            try:
                os.write(1, b"z" * W["output_bytes"])
            except OSError:
                pass
        os._exit(0)
        """,
        statuses=_ends("output_limit"),
        works_unsandboxed="no",
    ),
    Hostile(
        "sparse_output",
        "bombs",
        "stdout is no terabyte of holes for the reader to hold",
        """
        for fd in (1, 2):
            for size in (1 << 40, W["output_bytes"] + 1):
                for enlarge in (lambda: os.ftruncate(fd, size), lambda: os.posix_fallocate(fd, 0, size),
                                lambda: os.pwrite(fd, b"x", size)):
                    try:
                        enlarge()
                    except OSError as error:
                        pass
        os._exit(0)
        """,
        statuses=_ends("ok", "output_limit"),
        works_unsandboxed="no",
    ),
    Hostile(
        "output_sealed_and_shared",
        "bombs",
        "the reader gets what there is, whatever is done to the file behind stdout",
        """
        import fcntl, mmap
        for fd in (0, 1, 2):
            for action in (lambda: fcntl.fcntl(fd, 1033, 0xF), lambda: fcntl.flock(fd, fcntl.LOCK_EX),
                           lambda: fcntl.fcntl(fd, fcntl.F_SETFL, os.O_APPEND | os.O_NONBLOCK),
                           lambda: fcntl.fcntl(fd, 1024, fcntl.F_WRLCK), lambda: os.fchmod(fd, 0),
                           lambda: os.lseek(fd, 1 << 20, 0), lambda: os.set_blocking(fd, False),
                           lambda: mmap.mmap(fd, 4096).write(b"x" * 4096)):
                try:
                    action()
                except (OSError, ValueError) as error:
                    pass
        os._exit(0)
        """,
        statuses=_ends("ok"),
        works_unsandboxed="no",
    ),
    Hostile(
        "huge_arguments",
        "bombs",
        "the kernel refuses, or the program ends; nothing else is hurt",
        """
        for size in (1 << 16, 1 << 21):
            try:
                os.posix_spawn(sys.executable, ["python", *["x" * size] * 64], {"A": "x" * size})
            except (OSError, MemoryError) as error:
                say("refused:", error)
        """,
        statuses=_ends("ok", "memory"),
        works_unsandboxed="no",
    ),
    Hostile(
        "big_integers",
        "bombs",
        "one long C call ends at the limit",
        "print(len(str(7 ** 10 ** 9)))",
        statuses=_ends("timeout", "memory"),
        works_unsandboxed="no",
        slow=True,
    ),
    Hostile(
        "regular_expression",
        "bombs",
        "one long C call ends at the limit",
        'print(re.match(r"(a|aa)+$", "a" * 100 + "b"))',
        statuses=_ends("timeout"),
        works_unsandboxed="no",
        slow=True,
    ),
    Hostile(
        "endless_recursion",
        "bombs",
        "it ends",
        """
        sys.setrecursionlimit(1 << 30)
        def deeper(number):
            return deeper(number + 1)
        deeper(0)
        """,
        statuses=_ends("memory", "runtime_error", "timeout"),
        works_unsandboxed="no",
        slow=True,
    ),
    Hostile(
        "deep_repr",
        "bombs",
        "recursion in C ends, by a crash or at a limit",
        """
        sys.setrecursionlimit(1 << 30)
        nested = []
        for _ in range(1 << 20):
            nested = [nested]
        print(len(repr(nested)))
        """,
        statuses=_ends("runtime_error", "memory", "timeout"),
        works_unsandboxed="no",
        slow=True,
    ),
    Hostile(
        "crash",
        "bombs",
        "a crash is a runtime_error",
        "ctypes.string_at(8)",
        statuses=_ends("runtime_error"),
        works_unsandboxed="no",
    ),
    Hostile(
        "busy_loop",
        "bombs",
        "it ends at the limit",
        "while True: pass",
        statuses=_ends("timeout"),
        works_unsandboxed="no",
        slow=True,
    ),
    Hostile(
        "busy_threads",
        "bombs",
        "the CPU time of all threads counts together",
        """
        import hashlib, threading
        for _ in range(4):
            threading.Thread(target=lambda: [hashlib.sha256(b"x" * (1 << 22)) for _ in iter(int, 1)]).start()
        """,
        statuses=_ends("timeout"),
        works_unsandboxed="no",
        slow=True,
    ),
    Hostile(
        "sleep",
        "bombs",
        "it ends at the limit of wall time",
        "time.sleep(10 ** 6)",
        statuses=_ends("timeout"),
        works_unsandboxed="no",
        slow=True,
    ),
    Hostile(
        "waiting_for_a_pipe",
        "bombs",
        "it ends at the limit of wall time",
        "os.read(os.pipe()[0], 1)",
        statuses=_ends("timeout"),
        works_unsandboxed="no",
        slow=True,
    ),
    Hostile(
        "open_files",
        "bombs",
        "not more than some thousand descriptors",
        """
        number = 0
        try:
            for number in range(1 << 17):
                os.dup(0)
        except OSError as error:
            say("refused:", error)
        if number > 4096:
            say("ESCAPED:", number)
        """,
        works_unsandboxed="perhaps",
    ),
]

STUBBORN = [
    Hostile(
        "ignored_signals",
        "stubbornness",
        "it ends, ignoring every signal that can be ignored",
        """
        for number in signal.valid_signals():
            try:
                signal.signal(number, signal.SIG_IGN)
            except (OSError, ValueError):
                pass
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        while True:
            time.sleep(0.01)
        """,
        statuses=_ends("timeout"),
        works_unsandboxed="no",
        slow=True,
    ),
    Hostile(
        "ignored_sigxcpu",
        "stubbornness",
        "the limit of CPU time holds for who ignores its signal",
        """
        signal.signal(signal.SIGXCPU, signal.SIG_IGN)
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
        while True:
            pass
        """,
        statuses=_ends("timeout"),
        works_unsandboxed="no",
        slow=True,
    ),
    Hostile(
        "stops_itself",
        "stubbornness",
        "a stopped process ends too",
        "os.kill(os.getpid(), signal.SIGSTOP); time.sleep(1000)",
        statuses=_ends("timeout", "runtime_error"),
        works_unsandboxed="no",
        slow=True,
    ),
    Hostile(
        "stops_its_group",
        "stubbornness",
        "only the program itself is stopped or killed",
        """
        for number in (signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGKILL):
            try:
                os.kill(0, number)
            except OSError as error:
                say("refused:", error)
        """,
        statuses=_ends("ok", "runtime_error", "timeout"),
        works_unsandboxed="no",
        slow=True,
    ),
    Hostile(
        "daemon",
        "stubbornness",
        "a daemon in a session of its own is dead when the run is over",
        """
        try:
            if os.fork() == 0:
                os.setsid()
                if os.fork() == 0:
                    for fd in range(64):
                        try:
                            os.close(fd)
                        except OSError:
                            pass
                    time.sleep(W["daemon_seconds"])
                os._exit(0)
        except OSError as error:
            say("refused:", error)
        """,
    ),
    Hostile(
        "daemon_that_holds_stdout",
        "stubbornness",
        "nobody waits for a daemon that holds the output open",
        """
        try:
            if os.fork() == 0:
                signal.signal(signal.SIGHUP, signal.SIG_IGN)
                if os.fork() == 0:
                    time.sleep(W["daemon_seconds"])
                    print("late")
                os._exit(0)
        except OSError as error:
            say("refused:", error)
        """,
    ),
    Hostile(
        "child_outlives_its_parent",
        "stubbornness",
        "an orphan is dead when the run is over, however its parent ended",
        """
        try:
            if os.fork() == 0:
                time.sleep(W["daemon_seconds"])
                os._exit(0)
        except OSError as error:
            say("refused:", error)
        os.kill(os.getpid(), signal.SIGKILL)
        """,
        statuses=_KILLED_OR_PID_1,
    ),
    Hostile(
        "swarm_of_daemons",
        "stubbornness",
        "daemons that fork again and again, faster than they are killed one by one, all die",
        """
        try:
            for _ in range(3):
                if os.fork() == 0:
                    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
                    while True:
                        if os.fork():
                            os._exit(0)
                        os.setsid()
        except OSError as error:
            say("refused:", error)
        """,
        works_unsandboxed="no",
    ),
    Hostile(
        "closes_everything",
        "stubbornness",
        "a run without descriptors is a run like any other",
        """
        os.closerange(0, 1 << 16)
        os._exit(0)
        """,
        statuses=_ends("ok"),
        works_unsandboxed="no",
    ),
    Hostile(
        "closes_everything_and_stays",
        "stubbornness",
        "closed descriptors are not taken for the end",
        """
        os.closerange(0, 1 << 16)
        while True:
            time.sleep(1000)
        """,
        statuses=_ends("timeout"),
        works_unsandboxed="no",
        slow=True,
    ),
    Hostile(
        "kills_all",
        "stubbornness",
        "kill(-1) reaches nobody outside",
        """
        for number in (signal.SIGTERM, signal.SIGSTOP, signal.SIGKILL):
            try:
                os.kill(-1, number)
            except OSError as error:
                say("refused:", error)
        """,
        statuses=_ends("ok", "runtime_error"),
        works_unsandboxed="no",
    ),
    Hostile(
        "kills_its_parent",
        "stubbornness",
        "the fork server lives on",
        """
        for pid in others():
            for number in (signal.SIGSTOP, signal.SIGTERM, signal.SIGINT, signal.SIGSEGV, signal.SIGKILL):
                try:
                    os.kill(pid, number)
                except OSError as error:
                    say("refused:", error)
            try:
                os.killpg(os.getpgid(pid), signal.SIGKILL)
            except OSError as error:
                say("refused:", error)
        """,
        statuses=_ends("ok", "runtime_error", "timeout"),
        works_unsandboxed="no",
    ),
    Hostile(
        "joins_its_parents_group",
        "stubbornness",
        "a program that joined another group or session is found all the same",
        """
        for pid in (*others(), 0):
            for join in (lambda: os.setpgid(0, pid), lambda: os.setpgid(0, os.getpgid(pid)), os.setsid):
                try:
                    join()
                except OSError as error:
                    say("refused:", error)
        while True:
            time.sleep(1000)
        """,
        statuses=_ends("timeout"),
        works_unsandboxed="no",
        slow=True,
    ),
    Hostile(
        "threads_without_end",
        "stubbornness",
        "threads that outlive the main thread end",
        """
        import threading
        for _ in range(3):
            threading.Thread(target=time.sleep, args=(10 ** 6,)).start()
        """,
        statuses=_ends("timeout"),
        works_unsandboxed="no",
        slow=True,
    ),
    Hostile(
        "main_thread_ends_alone",
        "stubbornness",
        "a process whose first thread is dead, a zombie to whoever looks, ends too",
        """
        import threading
        threading.Thread(target=time.sleep, args=(10 ** 6,), daemon=True).start()
        libc.pthread_exit(None)
        """,
        statuses=_ends("timeout", "runtime_error"),
        works_unsandboxed="no",
        slow=True,
    ),
    Hostile(
        "exit_handler_without_end",
        "stubbornness",
        "an exit handler has no more time than the program",
        """
        import atexit
        @atexit.register
        def stay():
            while True:
                time.sleep(1000)
        """,
        statuses=_ends("timeout"),
        works_unsandboxed="no",
        slow=True,
    ),
    Hostile(
        "exceptions_caught_for_ever",
        "stubbornness",
        "no exception is needed to end it",
        """
        while True:
            try:
                while True:
                    time.sleep(1000)
            except BaseException:
                pass
        """,
        statuses=_ends("timeout"),
        works_unsandboxed="no",
        slow=True,
    ),
    Hostile(
        "another_interpreter",
        "stubbornness",
        "a program that becomes another interpreter is held by the same limits",
        """
        code = "import ctypes, time; ctypes.CDLL(None).prctl(15, %r.encode(), 0, 0, 0); time.sleep(1000)" % W["marker"]
        try:
            os.execv(sys.executable, ["python", "-I", "-c", code])
        except OSError as error:
            say("refused:", error)
            time.sleep(1000)
        """,
        statuses=_ends("timeout"),
        works_unsandboxed="no",
        slow=True,
    ),
    Hostile(
        "traces_its_child",
        "stubbornness",
        "a traced child that stopped dies as any other",
        """
        try:
            child = os.fork()
            if child == 0:
                libc.ptrace(0, 0, 0, 0)
                os.kill(os.getpid(), signal.SIGSTOP)
                time.sleep(1000)
        except OSError as error:
            say("refused:", error)
        time.sleep(1000)
        """,
        statuses=_ends("timeout", "runtime_error"),
        works_unsandboxed="no",
        slow=True,
    ),
    Hostile(
        "cleared_death_signal",
        "stubbornness",
        "whoever takes the signal at the parent's death away still dies",
        """
        libc.prctl(1, 0, 0, 0, 0)  # PR_SET_PDEATHSIG
        libc.prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
        libc.prctl(4, 0, 0, 0, 0)  # PR_SET_DUMPABLE
        time.sleep(1000)
        """,
        statuses=_ends("timeout"),
        works_unsandboxed="no",
        slow=True,
    ),
]

POISON = [
    Hostile(
        "patched_builtins_and_modules",
        "poisoning",
        "the next program has the builtins and modules of Python",
        """
        import builtins, io, json, math
        builtins.int = lambda text: 41
        builtins.open = builtins.len = builtins.sorted = None
        json.dumps = json.loads = lambda *_: "poisoned"
        math.pi = 3
        os.getcwd = lambda: "/poisoned"
        sys.modules["random"] = json
        sys.path.insert(0, "/poisoned")
        sys.meta_path.clear()
        sys.setrecursionlimit(50)
        sys.setswitchinterval(1000)
        io.TextIOWrapper = None
        """,
        works_unsandboxed="no",  # poison needs a next program in the same server
    ),
    Hostile(
        "poisoned_objects_of_c",
        "poisoning",
        "the next program has its own small integers and its own immutable objects",
        """
        for target, value in ((256, 255), (7, 8)):
            ctypes.memmove(id(target) + 24, ctypes.byref(ctypes.c_uint32(value)), 4)
        os._exit(0)
        """,
        statuses=_ends("ok", "runtime_error"),
        works_unsandboxed="no",
    ),
    Hostile(
        "environment_left",
        "poisoning",
        "directory, mask, limits, priority, signals and variables are new for the next program",
        """
        import resource
        os.environ["PYTHONSTARTUP"] = os.environ["LD_PRELOAD"] = os.environ["R1_POISON"] = "poison"
        os.putenv("R1_POISON", "poison")
        libc.setenv(b"MALLOC_ARENA_MAX", b"64", 1)
        os.umask(0o777)
        for number in (resource.RLIMIT_NOFILE, resource.RLIMIT_STACK, resource.RLIMIT_CORE):
            hard = resource.getrlimit(number)[1]
            resource.setrlimit(number, (8 if hard > 8 or hard < 0 else hard, hard))
        for change in (lambda: os.nice(10), lambda: os.sched_setaffinity(0, {0}), lambda: os.chdir("/"),
                       lambda: signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals()),
                       lambda: signal.signal(signal.SIGCHLD, signal.SIG_IGN), lambda: signal.alarm(1),
                       lambda: signal.setitimer(signal.ITIMER_PROF, 0.5), lambda: libc.prctl(29, 50000, 0, 0, 0)):
            try:
                change()
            except OSError as error:
                say("refused:", error)
        """,
        works_unsandboxed="no",
    ),
    Hostile(
        "files_left",
        "poisoning",
        "the next program finds an empty directory, and no module of its predecessor",
        """
        for name in ("json.py", "sitecustomize.py", "usercustomize.py", "random.py", "ctypes.py", ".hidden",
                     W["marker"] + "-left", "-rf", "new\\nline", "\\udcff"):
            with open(name, "w") as file:
                file.write("raise SystemExit('poisoned')")
        os.makedirs("a/b/c", exist_ok=True)
        os.mkfifo("fifo")
        os.symlink("/", "root")
        os.symlink("loop", "loop")
        """,
        works_unsandboxed="no",
    ),
    Hostile(
        "directory_without_permissions",
        "poisoning",
        "a directory that nobody may enter is cleaned away too",
        """
        os.makedirs("locked/inner")
        for change in (lambda: open("locked/inner/file", "w").close(), lambda: os.chmod("locked/inner/file", 0),
                       lambda: os.setxattr(".", "user.r1", b"x"), lambda: os.chmod("locked/inner", 0),
                       lambda: os.chmod("locked", 0o1000), lambda: os.chmod(".", 0),
                       lambda: __import__("fcntl").ioctl(os.open(".", os.O_RDONLY), 0x40086602, b"\\x30" + bytes(7))):
            try:
                change()
            except OSError as error:
                say("refused:", error)
        """,
        works_unsandboxed="no",
    ),
    Hostile(
        "deep_tree_left",
        "poisoning",
        "a deep tree is cleaned away too, without recursion and without paths",
        """
        try:
            while True:
                os.mkdir("d")
                os.chdir("d")
        except OSError as error:
            say("refused:", error)
        """,
        statuses=_SCRATCH_IS_FULL,
        works_unsandboxed="no",
    ),
    Hostile(
        "forged_messages",
        "poisoning",
        "no message written to any descriptor is taken for the server's, or for a verdict",
        """
        import json, socket, struct
        forged = [b"\\0" * 64, b"\\xff" * 4096, b"[", struct.pack("<iiQQ", 0, 0, 0, 0),
                  json.dumps({"status": "ok", "exit_code": 0, "stdout": "42"}).encode() + b"\\n"]
        for fd in [*range(3, 256), *range(256, 4096, 16)]:
            for message in forged:
                try:
                    os.write(fd, message)
                    say("ESCAPED: wrote to", fd)
                except OSError:
                    pass
            try:
                os.fstat(fd)
                socket.send_fds(socket.socket(fileno=fd), [b"forged"], [0])
                say("ESCAPED: sent to", fd)
            except OSError:
                pass
        os.write(0, b"forged") if os.isatty(0) else None
        """,
        works_unsandboxed="perhaps",
    ),
    Hostile(
        "system_v_left",
        "poisoning",
        "no shared memory, semaphore or queue outlives the run",
        """
        for name, arguments in (("shmget", (W["sysv_key"], 4096, 0o1666)), ("semget", (W["sysv_key"], 2, 0o1666)),
                                ("msgget", (W["sysv_key"], 0o1666))):
            try:
                call(name, *arguments)
            except OSError as error:
                say("refused:", error)
        """,
    ),
    Hostile(
        "posix_queues_left",
        "poisoning",
        "no message queue outlives the run",
        """
        try:
            call("mq_open", (W["marker"] + "-left").encode(), os.O_CREAT | os.O_RDWR, 0o600, None)
        except OSError as error:
            say("refused:", error)
        """,
    ),
    Hostile(
        "locks_left",
        "poisoning",
        "files of the interpreter cannot be locked against the next program",
        """
        import fcntl
        for path in (os.__file__, sys.executable):
            try:
                fcntl.flock(os.open(path, os.O_RDONLY), fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                say("refused:", error)
        """,
        works_unsandboxed="no",
    ),
    Hostile(
        "scratch_full_to_the_end",
        "poisoning",
        "a scratch without a byte or an inode left is new for the next program",
        """
        try:
            for number in range(1 << 16):
                with open(str(number), "wb", buffering=0) as file:
                    while file.tell() + 65536 < W["file_bytes"]:
                        file.write(b"x" * 65536)
        except OSError as error:
            say("refused:", error)
        """,
        statuses=_SCRATCH_IS_FULL,
        works_unsandboxed="no",
    ),
    Hostile(
        "source_that_closes_the_wrapper",
        "poisoning",
        "text that would end a wrapper around the source is source",
        '''
        say("""\\'\\'\\')\\n""");
        "\\0"; """ """ ; \'\'\' \'\'\'
        ''',
        works_unsandboxed="no",
    ),
]

SPOOFING = [
    Hostile(
        "exit_code_zero_after_a_failure",
        "status",
        "an exception that nobody caught is a runtime_error, also in a handler at the end",
        """
        import atexit
        atexit.register(lambda: 1 / 0)
        raise ValueError("wrong")
        """,
        statuses=_ends("runtime_error"),
        works_unsandboxed="no",
    ),
    Hostile(
        "claims_to_be_out_of_memory",
        "status",
        "whoever says MemoryError on stderr is believed at most that",
        """
        print("MemoryError", file=sys.stderr)
        sys.exit(1)
        """,
        statuses=_ends("runtime_error", "memory"),
        works_unsandboxed="no",
    ),
    Hostile(
        "claims_to_be_over_its_time",
        "status",
        "a signal that it sends itself is no limit, and no fault of the sandbox",
        "os.kill(os.getpid(), signal.SIGKILL)",
        statuses=_KILLED_OR_PID_1,
        works_unsandboxed="no",
    ),
    Hostile(
        "claims_to_have_written_too_much",
        "status",
        "SIGXFSZ that it sends itself is a signal",
        "signal.signal(signal.SIGXFSZ, signal.SIG_DFL); os.kill(os.getpid(), signal.SIGXFSZ)",
        statuses=_KILLED_OR_PID_1 | {"output_limit"},
        works_unsandboxed="no",
    ),
    Hostile(
        "breaks_the_runner_on_its_way_out",
        "status",
        "what runs after the program is not the program's to change",
        """
        import builtins, traceback, threading
        def nothing(*_, **__):
            os._exit(0)
        sys.excepthook = threading.excepthook = nothing
        sys.stdout = sys.stderr = sys.__stdout__ = sys.__stderr__ = None
        traceback.print_exception = traceback.format_exception = nothing
        sys.exit = sys._exit = builtins.exit = nothing
        frame = sys._getframe()
        while frame:
            for name in list(frame.f_globals):
                if name not in W and name != "frame" and not name.startswith("__"):
                    frame.f_globals[name] = nothing if frame.f_globals is not globals() else frame.f_globals[name]
            frame = frame.f_back
        """,
        statuses=_ends("ok", "runtime_error"),
        works_unsandboxed="no",
    ),
    Hostile(
        "infrastructure_error_at_will",
        "status",
        "no program gets itself out of the count by breaking its sandbox",
        """
        for number in (signal.SIGSYS, signal.SIGBUS, signal.SIGABRT):
            signal.signal(number, signal.SIG_DFL)
        os.closerange(0, 4096)
        libc.munmap(ctypes.c_void_p(id(sys) & ~4095), ctypes.c_size_t(1 << 20))
        os.abort()
        """,
        statuses=_ends("runtime_error"),
        works_unsandboxed="no",
    ),
]

CPP = [
    Hostile(
        "cpp_socket_and_secret",
        "C++",
        "what holds for Python holds for machine code",
        """
        #include <fstream>
        #include <iostream>
        #include <sstream>
        #include <arpa/inet.h>
        #include <sys/socket.h>
        int main() {
            int fd = socket(AF_INET, SOCK_STREAM, 0);
            sockaddr_in to{};
            to.sin_family = AF_INET; to.sin_port = htons(@tcp_port@); to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
            if (fd >= 0) std::cout << "ESCAPED: a socket " << connect(fd, (sockaddr *)&to, sizeof to) << std::endl;
            for (const char *path : {"@secret_file@", "/etc/passwd", "/proc/self/environ"}) {
                std::ifstream file(path);
                std::stringstream text;
                text << file.rdbuf();
                if (file) std::cout << "ESCAPED: read " << path << " " << text.str().substr(0, 60) << std::endl;
            }
            std::cout << "TRIED" << std::endl;
        }
        """,
        language="cpp",
    ),
    Hostile(
        "cpp_secret_by_include",
        "C++",
        "the compiler shows no file in its errors",
        """
        #include "@secret_file@"
        #include "/etc/passwd"
        int main() {}
        """,
        statuses=_ends("runtime_error"),
        language="cpp",
    ),
    Hostile(
        "cpp_secret_by_assembler",
        "C++",
        "the assembler puts no file into the program",
        """
        #include <cstdio>
        #include <cstring>
        asm(".data\\n.globl secret\\nsecret: .incbin \\"@secret_file@\\"\\n.byte 0\\n.text\\n");
        extern "C" char secret[];
        int main() { std::printf("ESCAPED: %s\\n", secret); }
        """,
        statuses=_ends("runtime_error"),
        language="cpp",
    ),
    Hostile(
        "cpp_compile_for_ever",
        "C++",
        "compiling has its limits too",
        """
        template <int A, int B> struct T { static const long v = T<A - 1, B * 2>::v + T<A - 1, B * 2 + 1>::v; };
        template <int B> struct T<0, B> { static const long v = B; };
        int main() { return T<24, 1>::v; }
        """,
        statuses=_ends("timeout", "memory", "runtime_error"),
        works_unsandboxed="no",
        slow=True,
        language="cpp",
    ),
    Hostile(
        "cpp_include_without_end",
        "C++",
        "the compiler does not read a device for ever",
        """
        #include "/dev/zero"
        #include "/dev/stdin"
        int main() {}
        """,
        statuses=_ends("timeout", "memory", "runtime_error", "output_limit"),
        works_unsandboxed="no",
        slow=True,
        language="cpp",
    ),
    Hostile(
        "cpp_errors_without_end",
        "C++",
        "the compiler's words have a limit",
        """
        #define A x y; x y; x y; x y; x y; x y; x y; x y;
        #define B A A A A A A A A
        #define C B B B B B B B B
        #define D C C C C C C C C
        D D D D
        """,
        statuses=_ends("runtime_error", "output_limit", "timeout", "memory"),
        works_unsandboxed="no",
        slow=True,
        language="cpp",
    ),
    Hostile(
        "cpp_huge_object",
        "C++",
        "neither the object file nor the program fills the disk",
        """
        char big[1l << 33] = {1};
        int main() { return big[5]; }
        """,
        statuses=_ends("runtime_error", "output_limit", "timeout", "memory"),
        works_unsandboxed="no",
        slow=True,
        language="cpp",
    ),
    Hostile(
        "cpp_fork_bomb",
        "C++",
        "it is over when the run is",
        """
        #include <unistd.h>
        int main() { for (;;) fork(); }
        """,
        statuses=_ends("timeout"),
        works_unsandboxed="no",
        slow=True,
        language="cpp",
    ),
]

HOSTILE = [*NETWORK, *SECRETS, *ESCAPES, *WRITING, *BOMBS, *STUBBORN, *POISON, *SPOOFING, *CPP]
