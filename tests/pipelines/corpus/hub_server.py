"""A server on loopback that plays the part of the Hugging Face Hub's API which reads datasets."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_made_up_for_this_test"


class Hub:
    """Datasets by name, each with one commit; ``requests`` has method, path and authorisation of what was asked.

    Args:
        repositories: name -> path -> content. A name that begins with ``private`` or ``gated`` wants the token.
    """

    def __init__(self, repositories: Mapping[str, Mapping[str, bytes]], revisions: tuple[str, ...]) -> None:
        self.repositories, self.revisions = repositories, revisions
        self.requests: list[tuple[str, str, str | None]] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def commit(self, name: str) -> str:
        return hashlib.sha1(name.encode()).hexdigest()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                return

            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                hub.requests.append((self.command, self.path, self.headers.get("Authorization")))
                code, data, headers = hub.answer(self.path, body, self.headers)
                self.send_response(code)
                for name, value in ({"Content-Length": str(len(data))} | headers).items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(data)

            do_HEAD = do_POST = do_GET

        return Handler

    def answer(self, path: str, body: bytes, headers: Any) -> tuple[int, bytes, dict[str, str]]:
        """Status, body and headers of the answer to one request."""
        url = urlsplit(path)
        parts = unquote(url.path).strip("/").split("/")
        api = parts[:2] == ["api", "datasets"]
        name = "/".join(parts[2:4] if api else parts[1:3])
        files = self.repositories.get(name)
        allowed = headers.get("Authorization") == f"Bearer {TOKEN}"
        if files is None or (name.startswith("private") and not allowed):
            return 401, b"{}", {"X-Error-Code": "RepoNotFound"}
        if name.startswith("gated") and not allowed:
            return 403, b"{}", {"X-Error-Code": "GatedRepo"}
        if not api:  # /datasets/org/name/resolve/revision/path
            return self._file(files.get("/".join(parts[5:])), parts[4], name, headers.get("Range"))
        what, rest = (parts[4], parts[5:]) if len(parts) > 4 else ("revision", ["main"])
        if rest[0] not in (*self.revisions, self.commit(name)):
            return 404, b"{}", {"X-Error-Code": "RevisionNotFound"}
        found: Any = {"id": name, "sha": self.commit(name), "private": False, "gated": False, "tags": []}
        if what == "tree":
            deep = parse_qs(url.query).get("recursive", ["false"])[0].lower() == "true"
            found = self._tree(files, "/".join(rest[1:]), deep)
        elif what == "paths-info":
            asked = json.loads(body)["paths"] if body.startswith(b"{") else parse_qs(body.decode())["paths"]
            found = [_entry(each, files[each]) for each in asked if each in files]
            found += [_folder(each) for each in asked if any(path.startswith(f"{each}/") for path in files)]
        return 200, json.dumps(found).encode(), {"Content-Type": "application/json"}

    def _file(self, data: bytes | None, revision: str, name: str, wanted: str | None) -> tuple[int, bytes, Any]:
        if data is None or revision != self.commit(name):
            return 404, b"", {"X-Error-Code": "EntryNotFound"}
        about = {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": revision, "Accept-Ranges": "bytes"}
        if not wanted:
            return 200, data, about
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        part = data[int(first) : int(last or len(data) - 1) + 1]
        span = f"bytes {first}-{int(first) + len(part) - 1}/{len(data)}"
        return 206, part, about | {"Content-Range": span}

    @staticmethod
    def _tree(files: Mapping[str, bytes], folder: str, deep: bool) -> list[dict[str, Any]]:
        start = f"{folder}/" if folder else ""
        below = {path[len(start) :]: data for path, data in files.items() if path.startswith(start)}
        folders = {path.split("/")[0] for path in below if "/" in path and not deep}
        plain = [_entry(start + path, data) for path, data in sorted(below.items()) if deep or "/" not in path]
        return plain + [_folder(start + each) for each in sorted(folders)]


def _entry(path: str, data: bytes) -> dict[str, Any]:
    return {"type": "file", "path": path, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}


def _folder(path: str) -> dict[str, Any]:
    return {"type": "directory", "path": path, "size": 0, "oid": "0" * 40}
