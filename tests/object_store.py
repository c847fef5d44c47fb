"""An object store in memory that speaks Google's: no folders, no append, no renaming but of one object.

Served over HTTP, in the part of the JSON interface that gcsfs (behind etils.epath) and TensorStore (behind
Orbax) use: https://cloud.google.com/storage/docs/json_api. Both clients are the real ones. Not here: batches,
which gcsfs sends to Google alone, gRPC, tokens that expire, limits of rate.
"""

import contextlib
import json
import os
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, unquote, urlsplit

os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"  # gcsfs asks for a bucket's kind over gRPC

PAGE = 3  # entries of a listing, so few that clients must turn the page
DATE = "2026-01-01T00:00:00.000Z"


class Store:
    """Objects by "bucket/name": (generation, content)."""

    def __init__(self):
        self.objects: dict[str, tuple[int, bytes]] = {}
        self.buckets = {"bucket"}
        self.refused: dict[str, int] = {}  # method → status of every request that has it
        self.uploads: dict[str, tuple[str, bytearray]] = {}  # resumable ones: id → (name, what has come)
        self.generation = 0
        self.lock = threading.Lock()

    def put(self, name: str, content: bytes) -> int:
        self.generation += 1
        self.objects[name] = self.generation, bytes(content)
        return self.generation

    def metadata(self, name: str) -> dict:
        bucket, _, key = name.partition("/")
        generation, content = self.objects[name]
        fields = {"name": key, "bucket": bucket, "generation": str(generation), "metageneration": "1"}
        return fields | {"size": str(len(content)), "updated": DATE, "timeCreated": DATE}

    def listing(self, bucket: str, query: dict[str, str]) -> dict:
        """A page of objects, and of the folders that a delimiter makes of their names."""
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter")
        entries = {}  # the same name as a folder for all objects in it
        for name in sorted(self.objects):
            key = name.removeprefix(f"{bucket}/")
            if key == name or not key.startswith(prefix) or key < query.get("startOffset", ""):
                continue
            folder, inside, _ = key[len(prefix) :].partition(delimiter) if delimiter else ("", "", "")
            entries[prefix + folder + inside if inside else key] = None if inside else self.metadata(name)
        rest = [name for name in sorted(entries) if name > query.get("pageToken", "")]
        page = rest[: min(PAGE, int(query.get("maxResults", PAGE)))]
        answer: dict = {"kind": "storage#objects"}
        if items := [entries[name] for name in page if entries[name]]:
            answer["items"] = items
        if prefixes := [name for name in page if not entries[name]]:
            answer["prefixes"] = prefixes
        return answer | ({"nextPageToken": page[-1]} if len(page) < len(rest) else {})


class Refusal(Exception):
    """An answer that is none: status and message."""


def handler(store: Store):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # an answer in one piece: of two, the second waits 40 ms for the first's receipt

        def handle(self):
            with contextlib.suppress(ConnectionError):  # gcsfs hangs up once it knows enough
                super().handle()

        def respond(self):
            url = urlsplit(self.path)
            self.query = dict(parse_qsl(url.query, keep_blank_values=True))
            self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            bucket, _, rest = url.path.partition("/b/")[2].partition("/")
            name = f"{bucket}/{unquote(rest.removeprefix('o').removeprefix('/'))}"
            try:
                if self.command in store.refused:
                    raise Refusal(store.refused[self.command], "caller does not have access")
                if bucket not in store.buckets:
                    raise Refusal(404, "The specified bucket does not exist.")
                with store.lock:
                    if self.command == "GET":
                        self.read(bucket, name, rest)
                    elif self.command == "DELETE":
                        self.check(name)
                        del store.objects[name]
                        self.answer(204)
                    elif move := re.fullmatch(r"o/([^/]+)/moveTo/o/([^/]+)", rest):
                        self.move(*(f"{bucket}/{unquote(part)}" for part in move.groups()))
                    else:
                        self.write(bucket, self.query.get("name", ""))
            except Refusal as refusal:
                status, message = refusal.args
                self.answer(status, {"error": {"code": status, "message": message}} if message else b"")

        do_GET = do_POST = do_PUT = do_DELETE = respond

        def answer(self, status, content=b"", headers=()):
            if isinstance(content, dict):
                content = json.dumps(content).encode()
            self.send_response(status)
            for field, value in headers:
                self.send_header(field, str(value))
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def check(self, name, may_be_missing=False):
            """Conditions on the object's generation, which is 0 where there is no object."""
            generation = store.objects.get(name, (0, b""))[0]
            if self.query.get("ifGenerationMatch", str(generation)) != str(generation):
                raise Refusal(412, "At least one of the pre-conditions you specified did not hold.")
            if self.query.get("ifGenerationNotMatch") == str(generation):
                raise Refusal(304, "")
            if not may_be_missing and name not in store.objects:
                raise Refusal(404, f"No such object: {name}")

        def read(self, bucket, name, rest):
            if rest in ("", "o"):
                return self.answer(200, store.listing(bucket, self.query) if rest else {"name": bucket})
            self.check(name)
            if self.query.get("alt") != "media":
                return self.answer(200, store.metadata(name))
            generation, content = store.objects[name]
            headers, size = [("x-goog-generation", generation)], len(content)
            part = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
            if not part:
                return self.answer(200, content, headers)
            first = int(part[1]) if part[1] else max(size - int(part[2]), 0)
            last = min(int(part[2]), size - 1) if part[1] and part[2] else size - 1
            if first >= size:
                raise Refusal(416, "Requested range not satisfiable")
            headers.append(("Content-Range", f"bytes {first}-{last}/{size}"))
            self.answer(206, content[first : last + 1], headers)

        def write(self, bucket, key):
            """An upload whole, with its metadata before it, or in parts."""
            kind, content = self.query["uploadType"], self.body
            if "upload_id" in self.query:
                return self.write_part(self.query["upload_id"])
            if kind == "multipart":
                boundary = re.search(r'boundary="?([^";]+)', self.headers["Content-Type"])[1].encode()
                _, fields, content, _ = content.split(b"--" + boundary, 3)
                key = json.loads(fields.partition(b"\n\n")[2])["name"]
                content = content.partition(b"\n\n")[2].removesuffix(b"\n")
            name = f"{bucket}/{key}"
            if kind == "resumable":
                upload = f"upload{len(store.uploads)}"
                store.uploads[upload] = name, bytearray()
                place = f"http://{self.headers['Host']}{self.path}&upload_id={upload}"
                return self.answer(200, headers=[("Location", place)])
            self.check(name, may_be_missing=True)
            store.put(name, content)
            self.answer(200, store.metadata(name))

        def write_part(self, upload):
            name, came = store.uploads[upload]
            came += self.body
            if self.headers["Content-Range"].endswith("/*"):
                assert len(self.body) % 2**18 == 0, "parts are of 256 KiB"
                return self.answer(308, headers=[("Range", f"bytes=0-{len(came) - 1}")])
            self.check(name, may_be_missing=True)
            store.put(name, came)
            self.answer(200, store.metadata(name))

        def move(self, source, target):
            self.check(source)
            store.put(target, store.objects.pop(source)[1])
            self.answer(200, store.metadata(target))

        def log_message(self, *arguments):
            pass

    return Handler


@contextlib.contextmanager
def served(patch):
    """A new store that gs:// means until the end, in processes started here too; `patch` is pytest's."""
    import fsspec

    store = Store()
    server = ThreadingHTTPServer(("localhost", 0), handler(store))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://localhost:{server.server_port}"
    patch.setenv("STORAGE_EMULATOR_HOST", address)  # of gcsfs
    patch.setenv("FSSPEC_GCS_TOKEN", "anon")
    patch.setitem(fsspec.config.conf, "gcs", {"token": "anon"})
    patch.setenv("TENSORSTORE_GCS_HTTP_URL", address)
    patch.setenv("GOOGLE_AUTH_TOKEN_FOR_TESTING", "invented")
    fsspec.filesystem("gs", finalize_on_close=True).invalidate_cache()  # the one that etils.epath asks for
    yield store
    server.shutdown()
    server.server_close()
