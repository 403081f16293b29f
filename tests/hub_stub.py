"""A Hub in this process: the few addresses that an upload needs, and a memory of what arrived."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

TOKEN = "hf_aTokenThatMustStandInNoFile00000"
OTHER_TOKEN = TOKEN.replace("00000", "11111")


class HubStub:
    """Repositories by name: whether they are private, and their files."""

    def __init__(self) -> None:
        self.url = ""
        self.private: dict[str, bool | None] = {}
        self.files: dict[str, dict[str, bytes]] = {}
        self.commits: list[tuple[str, str, str]] = []
        """(repository, branch, message) of every commit."""
        self.tokens: set[str] = set()
        """Those that requests came with."""
        self.large: dict[str, bytes] = {}
        """Uploads beside a commit, by their sha256."""

    def text(self, repository: str, name: str) -> str:
        return self.files[repository][name].decode()


@contextmanager
def running(monkeypatch: pytest.MonkeyPatch, *, token: str | None = TOKEN) -> Iterator[HubStub]:
    """A stub that the Hub's own client talks to, logged in with `token`."""
    hub = HubStub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
    monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", hub.url)  # the client behind its plain functions
    monkeypatch.setattr("transformers.utils.hub._hf_api", None, raising=False)  # and the one that transformers keeps
    template = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    monkeypatch.setenv("HF_TOKEN", token) if token else monkeypatch.delenv("HF_TOKEN", raising=False)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(hub: HubStub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def do_HEAD(self) -> None:
            self.send_response(404)
            self.send_header("x-error-code", "EntryNotFound")
            self.end_headers()

        def do_GET(self) -> None:
            self._answer({"error": "Repository not found"}, status=404)

        def do_POST(self) -> None:
            body = self._body()
            hub.tokens.add(str(self.headers.get("authorization")).removeprefix("Bearer "))
            if not hub.tokens <= {TOKEN, OTHER_TOKEN}:
                self._answer({"error": "Invalid username or password."}, status=401)
            elif self.path == "/api/repos/create":
                self._create(json.loads(body))
            elif "/preupload/" in self.path:
                modes = [(file["path"], _mode(file["path"])) for file in json.loads(body)["files"]]
                self._answer({"files": [{"path": p, "uploadMode": m, "shouldIgnore": False} for p, m in modes]})
            elif self.path.endswith("/info/lfs/objects/batch"):
                self._offer_uploads(json.loads(body)["objects"])
            elif "/commit/" in self.path:
                repository, _, branch = self.path.removeprefix("/api/models/").partition("/commit/")
                self._commit(repository, branch, body)
            else:
                self._answer({})

        def do_PUT(self) -> None:
            hub.large[self.path.removeprefix("/large/")] = self._body()
            self._answer({})

        def _create(self, wanted: dict[str, Any]) -> None:
            name = f"{wanted.get('organization') or 'user'}/{wanted['name']}"
            hub.private[name] = wanted.get("private", {"private": True, "public": False}.get(wanted.get("visibility")))
            hub.files.setdefault(name, {})
            self._answer({"url": f"{hub.url}/{name}", "name": name})

        def _offer_uploads(self, objects: list[dict[str, Any]]) -> None:
            offers = [
                {**one, "actions": {"upload": {"href": f"{hub.url}/large/{one['oid']}", "header": {}}}}
                for one in objects
            ]
            self._answer({"transfer": "basic", "objects": offers})

        def _commit(self, repository: str, branch: str, body: bytes) -> None:
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] == "header":
                    hub.commits.append((repository, branch, value["summary"]))
                if line["key"] == "file":
                    hub.files[repository][value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    hub.files[repository][value["path"]] = hub.large[value["oid"]]
            self._answer({"commitUrl": f"{hub.url}/{repository}/commit/0", "commitOid": "0" * 40})

        def _body(self) -> bytes:
            if self.headers.get("transfer-encoding") == "chunked":
                parts = []
                while size := int(self.rfile.readline(), 16):
                    parts.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                return b"".join(parts)
            return self.rfile.read(int(self.headers.get("content-length") or 0))

        def _answer(self, content: Any, status: int = 200) -> None:
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    return Handler


def _mode(path: str) -> str:
    return "lfs" if path.endswith((".safetensors", ".png")) else "regular"
