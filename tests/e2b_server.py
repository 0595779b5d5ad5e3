"""E2B on 127.0.0.1 for tests: speaks what e2b-code-interpreter's client speaks, runs the code here, fails on order.

`with E2BServer() as server:` and the environment E2B_API_URL = E2B_SANDBOX_URL = server.url. A cell is run by a Python
of its own, with no memory of the cell before and no isolation: only for programs that the tests wrote.

Faults are queues: the next request of that kind takes the next one, None being no fault. Creations know
`429`, `500`, ... (any status), `drop` (the connection ends unanswered), `lose` (it is made, but the answer is lost),
`hang` (no answer until the server ends; `on_hang` is called), `late` (the same, but an answer once `is_late_enough` is
set), `garbage` and `echo` (500 with the key in the message); executions
these but `lose`, and `break` (the stream ends in the middle), `silent` (it ends without output), `flood` (it does not
end) and `die` (the kernel is killed); kills any status.
"""

import contextlib
import http.server
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import urllib.parse
from collections import deque
from dataclasses import dataclass, field

KEY = "e2b_key_of_these_tests"


@dataclass
class Machine:
    """What E2B calls a sandbox."""

    id: str
    lifetime_seconds: int
    directory: str
    user: int | None
    cells: list[str] = field(default_factory=list)
    processes: list[subprocess.Popen] = field(default_factory=list)

    @property
    def token(self) -> str:
        return f"token of {self.id}"


class E2BServer:
    """Keeps what clients did: machines alive and `created`, `creations` asked for, `kills`, bytes of each upload.

    The kernels belong to `user`, by default to who runs the tests.
    """

    def __init__(self, user: int | None = None):
        self.user = user
        self.creation_faults: deque[str | None] = deque()
        self.execution_faults: deque[str | None] = deque()
        self.kill_faults: deque[str | None] = deque()
        self.machines: dict[str, Machine] = {}
        self.created: list[Machine] = []
        self.creations: list[dict] = []
        self.kills: list[str] = []
        self.uploads: list[int] = []
        self.max_alive = 0
        self.by_idempotency_key: dict[str, str] = {}
        self.lock = threading.Lock()
        self.is_over = threading.Event()
        self.is_late_enough = threading.Event()
        self.on_hang = lambda: None
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.daemon_threads = True
        self._server.e2b = self
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "E2BServer":
        threading.Thread(target=self._server.serve_forever, args=[0.01], daemon=True).start()
        return self

    def __exit__(self, *exception) -> None:
        self.is_over.set()
        self._server.shutdown()
        self._server.server_close()
        for machine_id in list(self.machines):
            self.end(machine_id)

    def next_fault(self, faults: deque[str | None]) -> str | None:
        with self.lock:
            return faults.popleft() if faults else None

    def create(self, lifetime_seconds: int, idempotency_key: str | None) -> Machine:
        with self.lock:
            known = self.machines.get(self.by_idempotency_key.get(idempotency_key, ""))
            if known:
                return known
            machine = Machine(f"machine{len(self.created)}", lifetime_seconds, tempfile.mkdtemp(), self.user)
            if self.user is not None:
                os.chown(machine.directory, self.user, self.user)
            self.created.append(machine)
            self.machines[machine.id] = machine
            self.max_alive = max(self.max_alive, len(self.machines))
            if idempotency_key:
                self.by_idempotency_key[idempotency_key] = machine.id
            return machine

    def end(self, machine_id: str) -> bool:
        with self.lock:
            machine = self.machines.pop(machine_id, None)
        if machine is None:
            return False
        for process in machine.processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        shutil.rmtree(machine.directory, ignore_errors=True)
        return True


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def e2b(self) -> E2BServer:
        return self.server.e2b

    def log_message(self, *_) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        path = urllib.parse.urlsplit(self.path)
        if path.path == "/v2/sandboxes":
            self.create(json.loads(body))
        elif path.path == "/execute":
            self.execute(json.loads(body))
        elif path.path == "/files":
            self.write_file(urllib.parse.parse_qs(path.query)["path"][0], body)
        else:
            self.answer(404)

    def do_GET(self) -> None:
        self.answer(204 if self.headers["E2b-Sandbox-Id"] in self.e2b.machines else 502)

    def do_DELETE(self) -> None:
        machine_id = self.path.removeprefix("/sandboxes/")
        if fault := self.e2b.next_fault(self.e2b.kill_faults):
            return self.answer(int(fault))
        self.e2b.kills.append(machine_id)
        self.answer(204 if self.e2b.end(machine_id) else 404)

    def create(self, order: dict) -> None:
        self.e2b.creations.append(order)
        fault = self.e2b.next_fault(self.e2b.creation_faults)
        if self.headers["X-API-KEY"] != KEY:
            return self.answer(401, {"code": 401, "message": f"no such key: {self.headers['X-API-KEY']}"})
        if fault == "late":
            self.e2b.on_hang()
            self.e2b.is_late_enough.wait()
        elif self.fails(fault):
            return
        machine = self.e2b.create(order["timeout"], self.headers["Idempotency-Key"])
        if fault == "lose":
            return self.drop()
        answer = {"templateID": order["templateID"], "sandboxID": machine.id, "clientID": "client"}
        self.answer(201, answer | {"envdVersion": "0.4.0", "envdAccessToken": machine.token})

    def execute(self, order: dict) -> None:
        machine = self.e2b.machines.get(self.headers["E2b-Sandbox-Id"])
        fault = self.e2b.next_fault(self.e2b.execution_faults)
        if machine is None or self.headers["E2b-Sandbox-Port"] != "49999":
            return self.answer(502, {"message": "The sandbox was not found"})
        if self.headers["X-Access-Token"] != machine.token or order["language"] not in (None, "python"):
            return self.answer(400, {"message": "no token, or another language"})
        if self.fails(fault):
            return
        machine.cells.append(order["code"])
        self.start_stream()
        self.send(type="number_of_executions", execution_count=len(machine.cells))
        self.send(type="keepalive")
        if fault == "break":
            return self.drop()
        if fault == "flood":
            with contextlib.suppress(OSError):
                while not self.e2b.is_over.is_set():
                    self.send(type="stdout", text="x" * (1 << 16), timestamp=0)
            return self.drop()
        if fault != "silent":
            out, err, exit_code = run_cell(machine, order["code"], is_killed=fault == "die")
            for kind, text in (("stdout", out), ("stderr", err)):
                for start in range(0, len(text), 1 << 20):
                    self.send(type=kind, text=text[start : start + (1 << 20)], timestamp=0)
            if exit_code:
                self.send(type="error", name="KernelDied", value=f"exit code {exit_code}", traceback="")
        self.send(type="end_of_execution")
        self.send_chunk(b"")

    def write_file(self, path: str, body: bytes) -> None:
        """Takes the only part of a multipart body. The path is one of this machine: E2B's `/tmp` is ours."""
        machine = self.e2b.machines.get(self.headers["E2b-Sandbox-Id"])
        if machine is None or self.headers["X-Access-Token"] != machine.token or not path.startswith("/tmp/"):
            return self.answer(502, {"message": "The sandbox was not found"})
        content = body.partition(b"\r\n\r\n")[2].rpartition(b"\r\n--")[0]
        self.e2b.uploads.append(len(content))
        with open(path, "wb") as file:
            file.write(content)
        self.answer(200, [{"name": os.path.basename(path), "path": path, "type": "file"}])

    def fails(self, fault: str | None) -> bool:
        """True if the request got the answer of that fault, or none."""
        if fault is None or fault in ("lose", "break", "silent", "flood", "die"):
            return False
        if fault == "drop":
            self.drop()
        elif fault == "hang":
            self.e2b.on_hang()
            self.e2b.is_over.wait()
            self.drop()
        elif fault == "garbage":
            self.answer(201, raw=b"<html>not what you wanted</html>\n")
        elif fault == "echo":
            self.answer(500, {"code": 500, "message": f"{KEY} made me stumble"})
        else:
            self.answer(int(fault), {"code": int(fault), "message": "on order"})
        return True

    def answer(self, status: int, content=None, raw: bytes | None = None) -> None:
        body = raw if raw is not None else b"" if content is None else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def drop(self) -> None:
        self.wfile.flush()
        self.close_connection = True

    def start_stream(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def send(self, **message) -> None:
        self.send_chunk(json.dumps(message).encode() + b"\n")

    def send_chunk(self, content: bytes) -> None:
        self.wfile.write(b"%x\r\n%b\r\n" % (len(content), content))


def run_cell(machine: Machine, code: str, is_killed: bool) -> tuple[str, str, int]:
    """What the cell wrote to stdout and stderr, and how its Python ended."""
    process = subprocess.Popen(
        [PYTHON, "-I", "-S", "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={"PATH": os.environ["PATH"], "HOME": machine.directory, "LANG": "C.UTF-8"},
        cwd=machine.directory,
        start_new_session=True,
        user=machine.user,
        group=machine.user,
        extra_groups=None if machine.user is None else [],
        text=True,
    )
    machine.processes.append(process)
    if is_killed:
        process.kill()
    out, err = process.communicate(code)
    return out, err, process.returncode


def _python() -> str:
    """A Python that every user may run: the programs' users are made up."""
    if os.getuid() != 0:
        return sys.executable
    for python in (sys.executable, *map(shutil.which, ("python3", "python")), "/usr/bin/python3"):
        with contextlib.suppress(OSError, TypeError):
            if subprocess.run([python, "-c", "import ctypes"], user=20000, group=20000, cwd="/").returncode == 0:
                return python
    raise RuntimeError("no Python here that another user may run")


PYTHON = _python()
