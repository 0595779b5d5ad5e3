"""In the place of `vllm serve`: answers /health, and dies when there is a file `die` among the witnesses.

With SERVER=silent in the environment it never answers.
"""

import http.server
import os
import sys
import threading
import time


class Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path.rstrip("/") == "/health" else 404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format, *args):
        pass


def die_on_demand() -> None:
    while not os.path.exists(os.path.join(os.environ["WITNESSES"], "die")):
        time.sleep(0.05)
    print("EngineDeadError: the engine of the stand-in died", file=sys.stderr, flush=True)
    os._exit(17)


print(f"stand-in for vLLM, {' '.join(sys.argv[1:])}", flush=True)
threading.Thread(target=die_on_demand).start()
if os.environ.get("SERVER") != "silent":
    port = int(sys.argv[sys.argv.index("--port") + 1])
    http.server.ThreadingHTTPServer(("0.0.0.0", port), Health).serve_forever()
print("still loading the weights", flush=True)
