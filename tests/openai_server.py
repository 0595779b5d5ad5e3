"""OpenAI's chat completions on 127.0.0.1 for tests: real HTTP, answers that the test makes up, failures on order.

`with OpenAIServer() as server:` serves from a thread, at `server.url`, to this process or any other;
`python tests/openai_server.py` serves until it is killed, and prints its URL first.

An answer is what `answer(body)` returns for a request: a text, or a dict, the message as the server sends it, e.g.
{"content": "4", "reasoning_content": "2 and 2"}. Its tokens are its words; one that has more than max_tokens is cut
there and ends with finish_reason "length". Of /classify, which is vLLM's and has no /v1 before it (`server.address`),
it is a number.

Faults are a queue: the next request takes the next one, None being no fault.

    429, 500, …    that status, with OpenAI's error body
    Reply(…)       any status, body and headers
    "drop"         the connection ends without an answer
    "break"        the connection ends in the middle of the answer
    "hang"         no answer, until the client goes (which `wait_until_abandoned` waits for) or the server ends
    "trickle"      the same, but with blanks instead of nothing, as some servers keep connections alive
"""

import contextlib
import http.server
import json
import re
import select
import socket
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

PATIENCE_SECONDS = 30.0  # of whoever waits for clients here: then the test fails instead of hanging


@dataclass(frozen=True)
class Reply:
    """An answer as it is sent; content that is no bytes is made JSON."""

    status: int = 200
    content: Any = b""
    headers: dict[str, str] = field(default_factory=dict)


Fault = int | str | Reply | None


def say_what_was_asked(body: dict[str, Any]) -> str:
    """The last message and the seed: another one for each row."""
    return f"{body['messages'][-1]['content']} with seed {body.get('seed')}"


def completion(message: str | dict[str, Any], model: str = "teacher", max_tokens: int | None = None) -> dict[str, Any]:
    """The body of a chat completion with this message."""
    message = {"content": message} if isinstance(message, str) else dict(message)
    fields = [name for name in ("reasoning_content", "reasoning", "content") if isinstance(message.get(name), str)]
    num_tokens, is_cut = 0, False
    for name in fields:  # in the order in which they were written
        words = re.findall(r"\s*\S+", message[name])
        kept = words if max_tokens is None else words[: max_tokens - num_tokens]
        num_tokens += len(kept)
        if len(kept) < len(words):
            message[name], is_cut = "".join(kept) or None, True
    return {
        "id": "chatcmpl-0",
        "object": "chat.completion",
        "created": 0,
        "model": model,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", **message},
                "finish_reason": "length" if is_cut else "stop",
            }
        ],
        "usage": {"prompt_tokens": 1, "completion_tokens": num_tokens, "total_tokens": 1 + num_tokens},
    }


def classification(number: Any, model: str) -> dict[str, Any]:
    """The body of an answer of vLLM's /classify, of a model with one output."""
    return {
        "id": "classify-0",
        "object": "list",
        "created": 0,
        "model": model,
        "data": [{"index": 0, "label": "LABEL_0", "probs": [number], "num_classes": 1}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 0, "total_tokens": 1},
    }


class OpenAIServer:
    """Keeps what clients sent, in the order it came: `requests` (bodies) and `headers`; and `max_in_flight`.

    With `key`, requests without it are answered 401; a model that is not `model` is answered 404. `on_request` is
    called with each body before anything is answered, in that request's own thread, where it may wait.
    """

    def __init__(
        self,
        answer: Callable[[dict[str, Any]], str | dict[str, Any] | float] = say_what_was_asked,
        faults: list[Fault] | tuple[Fault, ...] = (),
        key: str | None = None,
        model: str = "teacher",
        on_request: Callable[[dict[str, Any]], None] = lambda body: None,
        port: int = 0,
    ):
        self.answer, self.key, self.model, self.on_request = answer, key, model, on_request
        self.faults: deque[Fault] = deque(faults)
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.num_in_flight = self.max_in_flight = self.num_abandoned = 0
        self.changed = threading.Condition()
        self._connections: set[socket.socket] = set()
        self._server = _Server(("127.0.0.1", port), _Handler)
        self._server.openai = self
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        self.url = f"{self.address}/v1"

    def __enter__(self) -> "OpenAIServer":
        threading.Thread(target=self._server.serve_forever, args=[0.01], daemon=True).start()
        return self

    def __exit__(self, *exception) -> None:
        self._server.shutdown()
        with self.changed:
            for connection in self._connections:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)  # who hangs or waits for the next request is woken by it
        self._server.server_close()  # waits for the requests' threads

    def wait_until_requested(self, number: int, patience_seconds: float = PATIENCE_SECONDS) -> None:
        """Returns when so many requests have come."""
        self._wait(lambda: len(self.requests) >= number, f"{number} requests", patience_seconds)

    def wait_until_abandoned(self, number: int) -> None:
        """Returns when so many clients have gone away from requests that hang or trickle."""
        self._wait(lambda: self.num_abandoned >= number, f"{number} abandoned requests", PATIENCE_SECONDS)

    def _wait(self, is_so: Callable[[], bool], what: str, patience_seconds: float) -> None:
        with self.changed:
            if not self.changed.wait_for(is_so, patience_seconds):
                raise TimeoutError(f"no {what} within {patience_seconds:g} s")


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = False  # so that none of them is left when the server has ended
    request_queue_size = 1024  # a burst of connections is not one of the failures that are on order

    def handle_error(self, request, client_address) -> None:
        pass  # clients that go away are what some tests are about


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    @property
    def openai(self) -> OpenAIServer:
        return self.server.openai

    def setup(self) -> None:
        super().setup()
        with self.openai.changed:
            self.openai._connections.add(self.connection)

    def finish(self) -> None:
        with self.openai.changed:
            self.openai._connections.discard(self.connection)
        with contextlib.suppress(OSError):
            super().finish()

    def log_message(self, *_) -> None:
        pass

    def do_GET(self) -> None:
        if self.path.endswith("/models"):
            self.send(Reply(content={"object": "list", "data": [{"id": self.openai.model, "object": "model"}]}))
        elif self.path == "/health":  # vLLM's
            self.send(Reply())
        else:
            self.send(_error(404, f"no {self.path} here"))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server = self.openai
        with server.changed:
            server.requests.append(body)
            server.headers.append(dict(self.headers))
            server.num_in_flight += 1
            server.max_in_flight = max(server.max_in_flight, server.num_in_flight)
            fault = server.faults.popleft() if server.faults else None
            server.changed.notify_all()
        try:
            server.on_request(body)
            self.reply(body, fault)
        finally:
            with server.changed:
                server.num_in_flight -= 1
                server.changed.notify_all()

    def reply(self, body: dict[str, Any], fault: Fault) -> None:
        server = self.openai
        if fault == "drop":
            self.close_connection = True
        elif fault in ("hang", "trickle"):
            self.close_connection = True
            with contextlib.suppress(OSError):
                if fault == "trickle":
                    self.send(Reply(headers={"Content-Length": "1000000"}))
                    while not select.select([self.connection], [], [], 0.01)[0]:
                        self.wfile.write(b" ")
                self.connection.recv(1)  # nothing comes, but the client's end, or ours
            with server.changed:
                server.num_abandoned += 1
                server.changed.notify_all()
        elif isinstance(fault, int):
            self.send(_error(fault, "on order"))
        elif isinstance(fault, Reply):
            self.send(fault)
        elif not (self.path.endswith("/v1/chat/completions") or self.path == "/classify"):
            self.send(_error(404, f"no {self.path} here"))
        elif server.key is not None and self.headers["Authorization"] != f"Bearer {server.key}":
            self.send(_error(401, f"no such key: {self.headers['Authorization']}"))
        elif body["model"] != server.model:
            self.send(_error(404, f"The model `{body['model']}` does not exist."))
        else:
            said = server.answer(body)
            if self.path == "/classify":
                answer = classification(said, server.model)
            else:
                answer = completion(said, server.model, body.get("max_tokens"))
            self.send(Reply(content=answer), breaks=fault == "break")

    def send(self, reply: Reply, breaks: bool = False) -> None:
        content = reply.content if isinstance(reply.content, bytes) else json.dumps(reply.content).encode()
        head = {"Content-Type": "application/json", "Content-Length": str(len(content)), **reply.headers}
        self.send_response(reply.status)
        for name, value in head.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if breaks else content)
        self.close_connection |= breaks


def _error(status: int, message: str) -> Reply:
    return Reply(status, {"error": {"message": message, "type": "made up", "code": status}})


if __name__ == "__main__":
    with OpenAIServer() as openai_server:
        print(openai_server.url, flush=True)
        threading.Event().wait()
