"""An object store in memory that behaves as Google's: no folders, no append, no renaming but of one object.

Served over HTTP, in the part of Google's interface that TensorStore uses, and to etils.epath as gs://.
"""

import fnmatch
import io
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

from etils.epath import backend, gpath


class Upload(io.BytesIO):
    """A file that becomes an object when it is closed."""

    def __init__(self, store: "Store", name: str):
        super().__init__()
        self.store, self.name_of_object = store, name

    def close(self):
        if not self.closed:
            self.store.put(self.name_of_object, self.getvalue())
        super().close()


class Store(backend.Backend):
    """Name, without gs://, → (generation, content)."""

    def __init__(self):
        self.objects: dict[str, tuple[int, bytes]] = {}
        self.generation = 0

    def put(self, name: str, content: bytes) -> int:
        self.generation += 1
        self.objects[name] = self.generation, content
        return self.generation

    def _name(self, path) -> str:
        return str(path).removeprefix("gs://").rstrip("/")

    def _under(self, path) -> list[str]:
        return [name for name in list(self.objects) if name.startswith(self._name(path) + "/")]

    def open(self, path, mode):
        name = self._name(path)
        assert mode in ("r", "rb", "w", "wb"), f"an object store cannot open with mode {mode}"
        if "w" in mode:
            raw = Upload(self, name)
        elif name in self.objects:
            raw = io.BytesIO(self.objects[name][1])
        else:
            raise FileNotFoundError(2, "No such object", str(path))
        return raw if "b" in mode else io.TextIOWrapper(raw, encoding="utf-8", newline="")

    def exists(self, path):
        return self._name(path) in self.objects or self.isdir(path)

    def isdir(self, path):
        return bool(self._under(path))

    def listdir(self, path):
        start = len(self._name(path)) + 1
        return sorted({name[start:].split("/")[0] for name in self._under(path)})

    def glob(self, path):
        pattern = self._name(path)
        depth = pattern.count("/")
        there = {"/".join(name.split("/")[: depth + 1]) for name in self.objects}
        return [f"gs://{name}" for name in sorted(there) if fnmatch.fnmatch(name, pattern)]

    def makedirs(self, path, *, exist_ok=False, mode=None):
        assert exist_ok or not self.exists(path)

    mkdir = makedirs

    def rmtree(self, path):
        if not self.isdir(path):
            raise FileNotFoundError(path)
        for name in self._under(path):
            del self.objects[name]

    def remove(self, path):
        if self.objects.pop(self._name(path), None) is None:
            raise FileNotFoundError(path)

    def replace(self, path, dst):
        assert self._name(path) in self.objects, f"an object store cannot rename the folder {path}"
        self.copy(path, dst, True)
        self.remove(path)

    rename = replace

    def copy(self, path, dst, overwrite):
        self.put(self._name(dst), self.objects[self._name(path)][1])

    def walk(self, top, *, top_down=True, on_error=None):
        raise NotImplementedError

    def stat(self, path):
        raise NotImplementedError


def handler(store: Store):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self, status: int, content: bytes = b"", headers=()):
            self.send_response(status)
            for field, value in headers:
                self.send_header(field, str(value))
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def ask(self):
            url = urlsplit(self.path)
            query = {field: values[0] for field, values in parse_qs(url.query).items()}
            bucket, _, name = re.search(r"/b/([^/]+)/o(/(.*))?$", url.path).groups()
            return bucket, unquote(name or query.get("name", "")), query

        def metadata(self, bucket, name, generation, content):
            fields = {
                "name": name,
                "bucket": bucket,
                "generation": str(generation),
                "size": str(len(content)),
            }
            return fields | {"updated": "2026-01-01T00:00:00Z", "timeCreated": "2026-01-01T00:00:00Z"}

        def refused(self, key, query) -> bool:
            wanted = query.get("ifGenerationMatch")
            return wanted is not None and int(wanted) != store.objects.get(key, (0, b""))[0]

        def do_POST(self):
            bucket, name, query = self.ask()
            content = self.rfile.read(int(self.headers["Content-Length"]))
            if self.refused(f"{bucket}/{name}", query):
                return self.answer(412)
            generation = store.put(f"{bucket}/{name}", content)
            self.answer(200, json.dumps(self.metadata(bucket, name, generation, content)).encode())

        def do_GET(self):
            bucket, name, query = self.ask()
            if not name:
                prefix, first = query.get("prefix", ""), query.get("startOffset", "")
                items = [
                    self.metadata(bucket, key.partition("/")[2], *value)
                    for key, value in sorted(store.objects.items())
                    if key.partition("/")[2].startswith(prefix) and key.partition("/")[2] >= first
                ]
                return self.answer(200, json.dumps({"items": items}).encode())
            if f"{bucket}/{name}" not in store.objects:
                return self.answer(404)
            generation, content = store.objects[f"{bucket}/{name}"]
            if query.get("ifGenerationNotMatch") == str(generation):
                return self.answer(304)
            status, headers = 200, [("x-goog-generation", generation)]
            if part := re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", "")):
                size = len(content)
                first = int(part[1]) if part[1] else size - int(part[2])
                last = min(int(part[2]), size - 1) if part[1] and part[2] else size - 1
                status = 206
                headers.append(("Content-Range", f"bytes {first}-{last}/{size}"))
                content = content[first : last + 1]
            self.answer(status, content, headers)

        def do_DELETE(self):
            bucket, name, query = self.ask()
            if self.refused(f"{bucket}/{name}", query):
                return self.answer(412)
            self.answer(204 if store.objects.pop(f"{bucket}/{name}", None) else 404)

        def log_message(self, *arguments):
            pass

    return Handler


@contextmanager
def served(patch):
    """A new store that gs:// means for etils.epath and TensorStore until the end; `patch` is pytest's."""
    store = Store()
    server = ThreadingHTTPServer(("localhost", 0), handler(store))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    patch.setenv("TENSORSTORE_GCS_HTTP_URL", f"http://localhost:{server.server_port}")
    patch.setenv("GOOGLE_AUTH_TOKEN_FOR_TESTING", "invented")
    patch.setitem(gpath._PREFIX_TO_BACKEND, "gs", store)
    yield store
    server.shutdown()
    server.server_close()
