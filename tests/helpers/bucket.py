"""A bucket in memory, which `epath` sees at gs:// and TensorStore over HTTP.

Stands in for Google Cloud Storage where there is no network. `epath` reaches it through fsspec
(EPATH_USE_TF=false; otherwise TensorFlow's own file system would look for the real one).
TensorStore, with which Orbax writes arrays, uses the JSON API at $TENSORSTORE_GCS_HTTP_URL.
"""

from __future__ import annotations

import http.server
import itertools
import json
import os
import threading
import urllib.parse
from collections.abc import Mapping
from typing import ClassVar

import fsspec
from fsspec.implementations.memory import MemoryFileSystem


class BucketFileSystem(MemoryFileSystem):
    """Objects by "/BUCKET/NAME", for the whole process."""

    protocol = ("gcs", "gs")
    store: ClassVar[dict] = {}
    pseudo_dirs: ClassVar[list] = [""]

    def __init__(self, *args, **kwargs):
        kwargs.pop("finalize_on_close", None)  # an option of the real file system
        super().__init__(*args, **kwargs)

    @classmethod
    def _strip_protocol(cls, path):
        path = str(path).removeprefix("gcs://").removeprefix("gs://").strip("/")
        return f"/{path}" if path else ""

    def glob(self, path, **kwargs):
        return [found.lstrip("/") for found in super().glob(path, **kwargs)]


class _Server(http.server.BaseHTTPRequestHandler):
    """The part of the JSON API of Cloud Storage that TensorStore uses."""

    protocol_version = "HTTP/1.1"
    generations: ClassVar[dict[str, int]] = {}
    counter = itertools.count(1)
    files = BucketFileSystem()

    def log_message(self, *args):
        pass

    def _key(self) -> tuple[str, dict[str, str]]:
        """The requested object "/BUCKET/NAME", and the query."""
        url = urllib.parse.urlparse(self.path)
        query = dict(urllib.parse.parse_qsl(url.query))
        bucket, _, name = url.path.partition("/b/")[2].partition("/o")
        name = query["name"] if "name" in query else urllib.parse.unquote(name[1:])
        return f"/{bucket}/{name}", query

    def _send(self, code: int, body: bytes = b"{}", headers: Mapping[str, str] = {}):
        self.send_response(code)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _describe(self, key: str) -> dict[str, str]:
        _, bucket, name = key.split("/", 2)
        generation = self.generations.setdefault(key, next(self.counter))
        return {"bucket": bucket, "name": name, "generation": str(generation)}

    def _refused(self, key: str, query: Mapping[str, str]) -> bool:
        wanted = query.get("ifGenerationMatch")
        found = self._describe(key)["generation"] if key in self.files.store else "0"
        if wanted is None or wanted == found:
            return False
        self._send(412)
        return True

    def do_GET(self):
        key, query = self._key()
        if key.endswith("/"):
            prefix = key + query.get("prefix", "")
            names = sorted(k for k in self.files.store if k.startswith(prefix))
            self._send(200, json.dumps({"items": [self._describe(k) for k in names]}).encode())
        elif key not in self.files.store:
            self._send(404)
        else:
            data = self.files.cat_file(key)
            first, _, last = (
                self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
            )
            start, stop = int(first), int(last) + 1 if last else len(data)
            stop = min(stop, len(data))
            headers = {"x-goog-generation": self._describe(key)["generation"]}
            if "Range" in self.headers:
                headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(data)}"
            self._send(206 if "Range" in self.headers else 200, data[start:stop], headers)

    def do_POST(self):
        key, query = self._key()
        data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if not self._refused(key, query):
            self.files.pipe_file(key, data)
            self.generations[key] = next(self.counter)
            self._send(200, json.dumps(self._describe(key)).encode())

    def do_DELETE(self):
        key, query = self._key()
        if key not in self.files.store:
            self._send(404)
        elif not self._refused(key, query):
            self.files.rm_file(key)
            self._send(204, b"")


def serve() -> None:
    """Replaces Google's buckets with this one, for the rest of this process."""
    fsspec.register_implementation("gcs", BucketFileSystem, clobber=True)
    server = http.server.ThreadingHTTPServer(("localhost", 0), _Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    os.environ["TENSORSTORE_GCS_HTTP_URL"] = f"http://localhost:{server.server_port}"
