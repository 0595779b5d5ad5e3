"""A Piston server on 127.0.0.1 for tests: runs Python, and C++ where there is a compiler, here; fails on order.

`with PistonServer() as server:` and the environment PISTON_ENDPOINTS = server.url. No isolation: only for programs that
the tests wrote. It treats files, stdin and output as Piston does with its usual packages.
"""

import base64
import contextlib
import http.server
import json
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

HTTP_FAULTS = {  # name: status, body
    400: (400, b'{"message": "run_timeout cannot exceed the configured limit of 3000"}'),
    429: (429, b'{"message": "too many requests"}'),
    500: (500, b""),
    "message": (200, b'{"message": "python-* runtime is unknown"}'),
    "html": (200, b"<html>"),
    "list": (200, b"[1]"),
    "nothing": (200, b"{}"),
    "no signal": (200, b'{"run": {"stdout": "", "stderr": "", "code": null, "signal": null, "status": "RE"}}'),
    "internal": (200, b'{"run": {"stdout": "", "stderr": "", "code": null, "signal": null, "status": "XX"}}'),
    "busy": (200, b'{"run": {"stdout": "", "stderr": "bash: fork: Resource temporarily unavailable\\n", "code": 254}}'),
}


class PistonServer(http.server.ThreadingHTTPServer):
    """`faults` are used up by the requests, one each (None: no fault); `fault` stays. `orders` are those received.

    While `gate` is not set, programs wait. `num_running` and `max_running` are programs at a time.
    """

    daemon_threads = True

    def __init__(self, output_max_size: int = 1 << 20):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.output_max_size = output_max_size
        self.faults: list = []
        self.fault = None
        self.orders: list[dict] = []
        self.gate = threading.Event()
        self.gate.set()
        self.num_running = self.max_running = 0
        self.lock = threading.Lock()

    def __enter__(self):
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}).start()
        return self

    def __exit__(self, *exception):
        self.gate.set()
        self.shutdown()
        self.server_close()

    def handle_error(self, request, client_address):
        if not isinstance(sys.exc_info()[1], ConnectionError):  # a client may go as it likes
            super().handle_error(request, client_address)

    @contextlib.contextmanager
    def running(self):
        with self.lock:
            self.num_running += 1
            self.max_running = max(self.max_running, self.num_running)
        try:
            yield
        finally:
            with self.lock:
                self.num_running -= 1


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def do_POST(self):
        order = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.running():
            with self.server.lock:
                self.server.orders.append(order)
                fault = (self.server.faults.pop(0) if self.server.faults else None) or self.server.fault
            self.server.gate.wait()
            if self.path != "/api/v2/execute":
                status, body = 404, b"Cannot POST"
            elif not order["files"][0]["content"]:  # as old servers have it
                status, body = 400, b'{"message": "files[0].content is required as a string"}'
            elif fault == "drop":
                self.close_connection = True
                return
            elif isinstance(fault, dict):
                status, body = 200, json.dumps(fault).encode()
            elif fault is not None:
                status, body = HTTP_FAULTS[fault]
            else:
                status, body = 200, json.dumps(execute(order, self.server.output_max_size)).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def execute(order: dict, output_max_size: int) -> dict:
    with tempfile.TemporaryDirectory() as directory:
        code_files = [file["name"] for file in order["files"] if file["encoding"] == "utf8"]
        for file in order["files"]:
            path = Path(directory, file["name"])
            path.parent.mkdir(parents=True, exist_ok=True)
            is_base64 = file["encoding"] == "base64"
            path.write_bytes(base64.b64decode(file["content"]) if is_base64 else file["content"].encode())
        answer = {"language": order["language"], "version": "1.0.0"}
        command = [sys.executable, code_files[0]]
        if order["language"] == "c++":
            for name in code_files:  # as gcc's package has it
                Path(directory, name).rename(Path(directory, f"{name}.cpp"))
            sources = sorted(path.name for path in Path(directory).glob("*.cpp"))
            answer["compile"] = run(["g++", "-std=c++17", *sources], directory, "", 60_000, -1, 1 << 20)
            if answer["compile"]["code"] != 0:
                return {**answer, "run": answer["compile"]}
            command = ["./a.out"]
        stdin = order["stdin"] if order["stdin"].endswith("\n") else order["stdin"] + "\n"
        answer["run"] = run(command, directory, stdin, order["run_timeout"], order["run_memory_limit"], output_max_size)
        return answer


def run(command, directory, stdin, timeout_milliseconds, memory_limit, output_max_size) -> dict:
    begin = time.monotonic()
    process = subprocess.Popen(
        command,
        cwd=directory,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: memory_limit < 0 or resource.setrlimit(resource.RLIMIT_AS, (memory_limit, memory_limit)),
    )
    status = None
    try:
        stdout, stderr = process.communicate(stdin.encode(), timeout_milliseconds / 1000)
    except subprocess.TimeoutExpired:
        status = "TO"
        process.kill()
        stdout, stderr = process.communicate()
    code = process.returncode
    if len(stdout) > output_max_size:
        status, stdout = "OL", stdout[:output_max_size]
    elif len(stderr) > output_max_size:
        status, stderr = "EL", stderr[:output_max_size]
    elif status is None and code != 0:
        status = "SG" if code < 0 else "RE"
    signal_name = signal.Signals(-code).name if code < 0 else None
    return {
        "stdout": stdout.decode(errors="replace"),
        "stderr": stderr.decode(errors="replace"),
        "code": None if code < 0 or status in ("TO", "OL", "EL") else code,
        "signal": "SIGKILL" if status in ("TO", "OL", "EL") else signal_name,
        "status": status,
        "message": None,
        "memory": 8_000_000,
        "cpu_time": 7.0,
        "wall_time": (time.monotonic() - begin) * 1000,
    }
