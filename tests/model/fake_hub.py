"""A model hub on this machine: the few answers that huggingface_hub asks for."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "a" * 40


class FakeHub:
    """Serves ``files`` as repository ``acme/tiny``; the first ``failures`` answers are 503."""

    def __init__(self, files: dict[str, bytes], failures: int = 0) -> None:
        self.files, self.failures = files, failures
        self.asked: list[str] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                hub.answer(self)

            def do_GET(self) -> None:
                hub.answer(self)

            def log_message(self, *arguments: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,))
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        path = request.path.split("?")[0]
        self.asked.append(f"{request.command} {path}")
        if self.failures > 0:
            self.failures -= 1
            return send(request, 503, b"", {})
        if path.startswith("/api/models/acme/gated") or path.startswith("/acme/gated"):
            return send(request, 403, b"", {"X-Error-Code": "GatedRepo"})
        if path == "/api/models/acme/tiny/revision/nope":
            return send(request, 404, b"", {"X-Error-Code": "RevisionNotFound"})
        if path.startswith("/api/models/acme/tiny/revision/"):
            siblings = [{"rfilename": name} for name in self.files]
            about = {"id": "acme/tiny", "sha": COMMIT, "siblings": siblings, "tags": []}
            return send(request, 200, json.dumps(about).encode(), {})
        if path.startswith("/api/models/acme/tiny/tree/"):
            return send(request, 200, json.dumps(self.tree()).encode(), {})
        name = path.removeprefix(f"/acme/tiny/resolve/{COMMIT}/")
        if name in self.files:
            data = self.files[name]
            etag = hashlib.sha1(data).hexdigest()
            return send(request, 200, data, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT})
        return send(request, 404, b"", {"X-Error-Code": "RepoNotFound"})

    def tree(self) -> list[dict[str, Any]]:
        return [
            {
                "type": "file",
                "path": name,
                "size": len(data),
                "oid": hashlib.sha1(data).hexdigest(),
            }
            for name, data in self.files.items()
        ]


def send(
    request: BaseHTTPRequestHandler, status: int, body: bytes, headers: dict[str, str]
) -> None:
    request.send_response(status)
    for name, value in headers.items():
        request.send_header(name, value)
    request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    if request.command == "GET":
        request.wfile.write(body)
