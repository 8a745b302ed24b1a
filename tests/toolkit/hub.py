"""A Hugging Face hub of a few endpoints, for the real client: repositories in memory, commits, files by revision.

As the hub does, it takes files of some names, and large ones, by git-lfs: the client asks `objects/batch` where to put
what it names by SHA-256, puts it there without its token, has it verified, and commits the name. They come back through
a redirect to where they were put. https://github.com/git-lfs/git-lfs/blob/main/docs/api/batch.md
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

Files = dict[str, bytes]
_LFS_NAMES = (".onnx", ".npz", ".safetensors")  # of those in the .gitattributes that the hub gives a new repository
_LFS_BYTES = 10_000_000  # by git-lfs whatever it is called


class Hub(ThreadingHTTPServer):
    """`commits`: repository -> revision -> files; `main` is the last. `authorisations`: what clients sent.

    `stored`: what came by git-lfs, by the SHA-256 that its sender named; `puts`: each name as often as it came.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.commits: dict[str, dict[str, Files]] = {}
        self.authorisations: set[str | None] = set()
        self.stored: Files = {}
        self.puts: list[str] = []
        self.address = f"http://127.0.0.1:{self.server_port}"
        self.storage = f"http://localhost:{self.server_port}/lfs"  # another host: the client follows no redirect there

    def revision(self, repository: str, name: str) -> tuple[str, Files] | None:
        known = self.commits.get(repository)
        if not known:
            return None
        name = list(known)[-1] if name == "main" else name
        return (name, known[name]) if name in known else None

    def commit(self, repository: str, changed: Files) -> str:
        self.stored |= {_sha256(data): data for name, data in changed.items() if _mode(name, len(data)) == "lfs"}
        known = self.commits[repository]
        name = hashlib.sha1(f"{repository}{len(known)}".encode()).hexdigest()
        known[name] = {**(list(known.values())[-1] if known else {}), **changed}
        return name


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.authorisations.add(self.headers.get("Authorization"))
        path = urlsplit(self.path).path
        if self.headers.get("Authorization") != "Bearer hf_correctcorrect":
            return self._json({"error": f"Bad token {self.headers.get('Authorization')}"}, 401)
        if path == "/api/repos/create":
            fields = json.loads(body)
            repository = f"{fields['organization']}/{fields['name']}"
            self.server.commits.setdefault(repository, {})
            return self._json({"url": f"{self.server.address}/{repository}", "name": repository})
        if match := re.fullmatch(r"/api/models/(.+)/preupload/main", path):
            modes = [
                {"path": file["path"], "uploadMode": _mode(file["path"], file["size"]), "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            return self._json({"files": modes})
        if re.fullmatch(r"/[^/]+/[^/]+\.git/info/lfs/objects/batch", path):
            return self._json({"transfer": "basic", "objects": [self._where(o) for o in json.loads(body)["objects"]]})
        if path == "/lfs/verify":
            named = json.loads(body)
            data = self.server.stored.get(named["oid"], b"")
            whole = (_sha256(data), len(data)) == (named["oid"], named["size"])
            return self._json({} if whole else {"error": "not what was announced"}, 200 if whole else 422)
        if match := re.fullmatch(r"/api/models/(.+)/commit/main", path):
            entries = [json.loads(line) for line in body.splitlines()]
            files = {e["value"]["path"]: base64.b64decode(e["value"]["content"]) for e in entries if e["key"] == "file"}
            large = {e["value"]["path"]: e["value"] for e in entries if e["key"] == "lfsFile"}
            if wrong := [p for p in files if _mode(p, len(files[p])) == "lfs"] + [
                p for p, value in large.items() if _mode(p, value["size"]) == "regular"
            ]:
                return self._json({"error": f"{wrong} came the wrong way"}, 400)
            files |= {file: self.server.stored[value["oid"]] for file, value in large.items()}
            name = self.server.commit(match[1], files)
            return self._json({"commitUrl": f"{self.server.address}/{match[1]}/commit/{name}", "commitOid": name})
        return self._json({"valid": True}) if path == "/api/validate-yaml" else self._json({"error": path}, 404)

    def do_PUT(self) -> None:
        """What a signed address takes; a token beside the signature is refused, as storage does."""
        name = urlsplit(self.path).path.removeprefix("/lfs/")
        data = self.rfile.read(int(self.headers["Content-Length"]))
        if "Authorization" in self.headers or urlsplit(self.path).query != "signed":
            return self._json({"error": "only one way to authorise"}, 400)
        self.server.stored[name] = data
        self.server.puts.append(name)
        return self._send(b"", 200, {})

    def _where(self, named: dict[str, Any]) -> dict[str, Any]:
        """How to upload an object; nothing where it is here."""
        if named["oid"] in self.server.stored:
            return named
        upload = {"href": f"{self.server.storage}/{named['oid']}?signed"}
        return {**named, "actions": {"upload": upload, "verify": {"href": f"{self.server.address}/lfs/verify"}}}

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if match := re.fullmatch(r"/api/models/(.+)/(revision|tree)/([^/]+)", path):
            found = self.server.revision(match[1], match[3])
            if found is None:
                return self._json({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
            if match[2] == "revision":
                return self._json({"id": match[1], "sha": found[0], "siblings": [{"rfilename": n} for n in found[1]]})
            rows = [{"type": "file", "path": n, "size": len(d), "oid": _oid(d)} for n, d in found[1].items()]
            return self._json(rows)
        if (name := path.removeprefix("/lfs/")) in self.server.stored and "Authorization" not in self.headers:
            return self._send(self.server.stored[name], 200, {})
        if match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            found = self.server.revision(match[1], match[2])
            if found is not None and match[3] in found[1]:
                data = found[1][match[3]]
                if _mode(match[3], len(data)) == "lfs":
                    headers = {"X-Linked-Etag": f'"{_sha256(data)}"', "X-Linked-Size": str(len(data))}
                    headers["Location"] = f"{self.server.storage}/{_sha256(data)}?signed"
                    return self._send(b"", 302, {**headers, "X-Repo-Commit": found[0]})
                return self._send(data, 200, {"ETag": f'"{_oid(data)}"', "X-Repo-Commit": found[0]})
        return self._json({"error": "Entry not found"}, 404, {"X-Error-Code": "EntryNotFound"})

    do_HEAD = do_GET  # noqa: N815  # http.server finds its methods by name

    def _json(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self._send(json.dumps(value).encode(), status, {"Content-Type": "application/json", **(headers or {})})

    def _send(self, data: bytes, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # as http.server calls it
        """Nothing: the tests' output is the tests'."""


def _mode(path: str, size: int) -> str:
    return "lfs" if path.endswith(_LFS_NAMES) or size > _LFS_BYTES else "regular"


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@contextmanager
def serving() -> Iterator[Hub]:
    hub = Hub()
    thread = Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        thread.join()
        hub.server_close()
