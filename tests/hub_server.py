"""The part of the Hub that data sets are pushed to, on 127.0.0.1 for tests: real HTTP, what arrives is kept in memory.

`with HubServer(tokens={…}) as hub:` serves from a thread at `hub.url`, to this process or any other. A repository is
made with POST /api/repos/create and written to with the commits of huggingface_hub; `hub.files(repo_id)` is what lies
there, `hub.requests` what was asked. Small files come within the commit; with `large_files=True` those in folders are
asked for one by one, as the Hub does for what goes to its storage of large files.

    hub.faults["POST", "/api/repos/create"] = (status, message)    that answer to all such requests, by their beginning
"""

import base64
import hashlib
import http.server
import json
import threading
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

LICENSES = ("apache-2.0", "mit")


@dataclass
class Repository:
    """What the Hub has of one data set."""

    private: bool
    files: dict[str, bytes] = field(default_factory=lambda: {".gitattributes": b"*.parquet filter=lfs\n"})
    commits: list[str] = field(default_factory=list)
    """Their messages, the first one first."""

    @property
    def sha(self) -> str:
        return hashlib.sha1(str(len(self.commits)).encode()).hexdigest()


class HubServer:
    """A Hub. `tokens` says what each token may: `write` to the namespace of the same user, or only `read`."""

    def __init__(self, tokens: dict[str, tuple[str, str]], large_files: bool = False):
        self.tokens = tokens
        self.large_files = large_files
        self.datasets: dict[str, Repository] = {}
        self.taken: set[str] = set()
        """Names of repositories that are no data sets, for a Hub on which no name is given twice."""
        self.faults: dict[tuple[str, str], tuple[int, str]] = {}
        self.requests: list[tuple[str, str]] = []
        self.large: dict[str, bytes] = {}

    def __enter__(self) -> "HubServer":
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def files(self, repo_id: str) -> dict[str, bytes]:
        """What lies in a data set, but for what the Hub itself has put there."""
        return {name: content for name, content in self.datasets[repo_id].files.items() if name != ".gitattributes"}


class _Handler(http.server.BaseHTTPRequestHandler):
    hub: HubServer

    def do_GET(self) -> None:
        path = self._asked()
        if self._at_fault(path):
            return
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "datasets"] and len(parts) == 4:
            return self._info("/".join(parts[2:]))
        if parts[0] == "datasets" and parts[3:4] == ["resolve"]:
            return self._file("/".join(parts[1:3]), "/".join(parts[5:]))
        self._answer(404, {"error": f"no {path}"})

    do_HEAD = do_GET

    def do_POST(self) -> None:
        path = self._asked()
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self._at_fault(path):
            return
        parts = path.strip("/").split("/")
        if path == "/api/validate-yaml":
            return self._validate(json.loads(body)["content"])
        user, right = self._user()
        if user is None:
            return self._answer(401, {"error": "Invalid username or password."})
        if path == "/api/repos/create":
            return self._create(json.loads(body), user, right)
        repo_id = "/".join(parts[2:4]) if parts[0] == "api" else f"{parts[1]}/{parts[2].removesuffix('.git')}"
        if repo_id not in self.hub.datasets:
            return self._answer(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        if right != "write" or not repo_id.startswith(f"{user}/"):
            return self._answer(403, {"error": "You don't have the rights required"})
        if parts[4:5] == ["preupload"]:
            return self._preupload(json.loads(body)["files"])
        if parts[4:5] == ["commit"]:
            return self._commit(repo_id, [json.loads(line) for line in body.splitlines()])
        if path.endswith("/info/lfs/objects/batch"):
            return self._where_to_put(json.loads(body)["objects"])
        self._answer(404, {"error": f"no {path}"})

    def do_PUT(self) -> None:
        """A large file, on its way to the storage."""
        path = self._asked()
        content = self.rfile.read(int(self.headers["Content-Length"]))
        if not self._at_fault(path):
            self.hub.large[path.rpartition("/")[2]] = content
            self._answer(200, {})

    def _asked(self) -> str:
        path = unquote(self.path.partition("?")[0])
        self.hub.requests.append((self.command, path))
        return path

    def _at_fault(self, path: str) -> bool:
        for (method, beginning), (status, message) in self.hub.faults.items():
            if method == self.command and path.startswith(beginning):
                self._answer(status, {"error": message})
                return True
        return False

    def _user(self) -> tuple[str | None, str]:
        token = (self.headers["Authorization"] or "").removeprefix("Bearer ")
        return self.hub.tokens.get(token, (None, ""))

    def _validate(self, card: str) -> None:
        licenses = [line.partition(": ")[2] for line in card.splitlines() if line.startswith("license: ")]
        errors = [{"message": '"license" must be one of […]'} for name in licenses if name not in LICENSES]
        self._answer(400 if errors else 200, {"errors": errors, "warnings": []})

    def _create(self, asked: dict[str, Any], user: str, right: str) -> None:
        repo_id = f"{asked['organization']}/{asked['name']}"
        assert asked["type"] == "dataset"
        if right != "write" or asked["organization"] != user:
            return self._answer(403, {"error": "You don't have the rights to create a dataset under this namespace"})
        if repo_id in self.hub.datasets or repo_id in self.hub.taken:
            return self._answer(
                409, {"error": "You already created this repo", "url": f"{self.hub.url}/datasets/{repo_id}"}
            )
        self.hub.datasets[repo_id] = Repository(private=asked.get("visibility") == "private")
        self._answer(200, {"url": f"{self.hub.url}/datasets/{repo_id}", "name": repo_id})

    def _info(self, repo_id: str) -> None:
        repository = self.hub.datasets.get(repo_id)
        if repository is None:
            return self._answer(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        siblings = [{"rfilename": name} for name in repository.files]
        self._answer(
            200, {"id": repo_id, "sha": repository.sha, "private": repository.private, "siblings": siblings, "tags": []}
        )

    def _file(self, repo_id: str, name: str) -> None:
        content = self.hub.datasets[repo_id].files[name]
        etag = hashlib.sha1(content).hexdigest()
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": self.hub.datasets[repo_id].sha}
        self._answer(200, content, headers)

    def _preupload(self, files: list[dict[str, Any]]) -> None:
        modes = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if self.hub.large_files and "/" in file["path"] else "regular",
                "shouldIgnore": False,
            }
            for file in files
        ]
        self._answer(200, {"files": modes})

    def _where_to_put(self, objects: list[dict[str, Any]]) -> None:
        answers = [
            {
                "oid": each["oid"],
                "size": each["size"],
                "actions": {"upload": {"href": f"{self.hub.url}/storage/{each['oid']}"}},
            }
            for each in objects
        ]
        self._answer(200, {"transfer": "basic", "objects": answers})

    def _commit(self, repo_id: str, lines: list[dict[str, Any]]) -> None:
        repository = self.hub.datasets[repo_id]
        header, *changes = lines
        if header["value"].get("parentCommit") not in (None, repository.sha):
            return self._answer(412, {"error": "A commit has happened since. Please refresh and try again."})
        for change in changes:
            kind, value = change["key"], change["value"]
            if kind == "file":
                repository.files[value["path"]] = base64.b64decode(value["content"])
            elif kind == "lfsFile":
                repository.files[value["path"]] = self.hub.large[value["oid"]]
            elif kind == "deletedFile":
                del repository.files[value["path"]]
            else:
                raise AssertionError(kind)
        repository.commits.append(header["value"]["summary"])
        url = f"{self.hub.url}/datasets/{repo_id}/commit/{repository.sha}"
        self._answer(200, {"success": True, "commitOid": repository.sha, "commitUrl": url})

    def _answer(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for key, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass
