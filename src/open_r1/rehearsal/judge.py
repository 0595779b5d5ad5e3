"""A judge and a reward model for rehearsals: a server on this machine whose answers can be read and say nothing.

A model with random weights, which stands in for all others, would write no verdict that can be read.
"""

import functools
import hashlib
import http.server
import json
import threading
from collections.abc import Mapping
from typing import Any

MODEL = "stand-in"


def url_of_judge() -> str:
    """The base URL of a judge: OpenAI's chat completions, each a verdict as the request's JSON schema has it."""
    return f"{url_of_reward_model()}/v1"


@functools.cache
def url_of_reward_model() -> str:
    """The base URL of a reward model: vLLM's /classify.

    It serves, and so does the judge, from a thread of this process from the first call to its end.
    """
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}"


def verdict(schema: Mapping[str, Any], asked: str) -> dict[str, Any]:
    """An object as the JSON schema has it, each number in it drawn from its range by what was asked and its place."""
    return {
        name: verdict(each, f"{asked}/{name}") if each["type"] == "object" else _drawn(each, f"{asked}/{name}")
        for name, each in schema["properties"].items()
    }


def _drawn(number: Mapping[str, Any], asked: str) -> int:
    lowest, highest = number["minimum"], number["maximum"]
    return lowest + _number_of(asked) % (highest - lowest + 1)


def _number_of(asked: str) -> int:
    return int.from_bytes(hashlib.sha256(asked.encode()).digest()[:8])


def _chat_completion(asked: Mapping[str, Any]) -> dict[str, Any]:
    schema = asked["response_format"]["json_schema"]["schema"]
    text = json.dumps(verdict(schema, f"{asked['messages'][-1]['content']}/{asked['seed']}"))
    message = {"role": "assistant", "content": text}
    return {
        "id": "chatcmpl-0",
        "object": "chat.completion",
        "created": 0,
        "model": MODEL,
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    }


def _classification(asked: Mapping[str, Any]) -> dict[str, Any]:
    return {"data": [{"probs": [_number_of(json.dumps(asked["messages"])) / 2**64]}]}


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_) -> None:
        pass

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        answer = _classification(asked) if self.path.endswith("/classify") else _chat_completion(asked)
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
