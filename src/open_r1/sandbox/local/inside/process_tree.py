"""What a running program and all that descends from it use, read from a /proc that its fork server holds open."""

import contextlib
import os
import resource

PAGE_BYTES = resource.getpagesize()
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


class ProcessTree:
    """The process behind `pidfd` and its descendants; orphans stay below it, in a namespace whose first it is."""

    def __init__(self, proc_fd: int, pidfd: int):
        self.proc_fd = proc_fd
        self.pid = None
        self.server_bytes = self._resident_bytes("self")
        for line in self._read(f"self/fdinfo/{pidfd}").splitlines():
            if line.startswith("Pid:"):
                self.pid = int(line.split()[1])  # as this /proc numbers it

    def use(self) -> tuple[int, float, int]:
        """(bytes of memory, CPU seconds, threads) of all of them together; what has just ended counts nothing.

        A forked process shares the server's pages, which are not counted: a sum of them would say too much.
        """
        num_bytes = seconds = num_threads = 0
        waiting = [] if self.pid is None else [self.pid]
        while waiting:
            pid = waiting.pop()
            with contextlib.suppress(OSError, IndexError, ValueError):
                fields = self._read(f"{pid}/stat").rpartition(")")[2].split()  # from the 3rd field on; see proc(5)
                seconds += sum(map(int, fields[11:15])) / TICKS_PER_SECOND
                num_threads += int(fields[17])
                num_bytes += max(0, int(fields[21]) * PAGE_BYTES - self.server_bytes)
                for thread in self._list(f"{pid}/task"):
                    waiting += map(int, self._read(f"{pid}/task/{thread}/children").split())
        return num_bytes, seconds, num_threads

    def deleted_bytes(self) -> int:
        """Bytes of the files that the first process has open and that have no name any more."""
        num_bytes = 0
        with contextlib.suppress(OSError):
            for fd in self._list(f"{self.pid}/fd"):
                with contextlib.suppress(OSError):
                    status = os.stat(f"{self.pid}/fd/{fd}", dir_fd=self.proc_fd)
                    num_bytes += status.st_blocks * 512 if status.st_nlink == 0 else 0
        return num_bytes

    def _resident_bytes(self, process: str) -> int:
        return int(self._read(f"{process}/statm").split()[1]) * PAGE_BYTES

    def _read(self, path: str) -> str:
        with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self.proc_fd), errors="replace") as file:
            return file.read()

    def _list(self, path: str) -> list[str]:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self.proc_fd)
        try:
            return os.listdir(fd)
        finally:
            os.close(fd)
