"""A server on this machine that answers as the Hugging Face hub does."""

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"
ROOT = Path(__file__).parents[1]


@contextmanager
def serve(published: Mapping[str, Path]) -> Iterator[tuple[str, list[str]]]:
    """(address, files asked for) of a hub that has these folders; data sets are named `datasets/NAME`.

    The connection breaks in the weights of a name with "cut"; a name with "portal" is answered by a log-in
    page, one with "busy" by 503, one with "licensed" by 401, and any other that is not there by 404.
    """
    asked: list[str] = []

    class Hub(http.server.BaseHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

        def do_HEAD(self):
            self.do_GET()

        def do_GET(self):
            path = self.path.split("?")[0].strip("/")
            about = path.removeprefix("api/").removeprefix("models/")
            name = next((name for name in published if about == name or about.startswith(f"{name}/")), None)
            if "portal" in path:
                self.answer(200, b"<html>Please log in</html>", {"Content-Type": "text/html"})
            elif "busy" in path:
                self.answer(503, b"busy")
            elif "licensed" in path:
                self.answer(401, b"{}", {"X-Error-Code": "GatedRepo"})
            elif name is None:
                self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})
            elif path.startswith("api/"):
                self.answer(200, json.dumps(self.listed(name, "/tree/" in path)).encode())
            else:  # NAME/resolve/COMMIT/FILE
                file = about.removeprefix(f"{name}/resolve/").partition("/")[2]
                asked.append(file)
                cut = "cut" in name and file.endswith(".safetensors")
                self.answer(200, (published[name] / file).read_bytes(), cut=cut)

        def listed(self, name, tree):
            files = [file for file in published[name].rglob("*") if file.is_file()]
            sizes = {str(file.relative_to(published[name])): file.stat().st_size for file in files}
            if tree:
                return [{"type": "file", "path": path, "size": sizes[path], "oid": "0"} for path in sizes]
            siblings = [{"rfilename": path} for path in sizes]
            return {"id": name, "sha": COMMIT, "siblings": siblings, "private": False, "tags": []}

        def answer(self, status, body, headers=(), cut=False):
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            for name, value in dict(headers).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body[: len(body) // 2] if cut else body)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()


def printed(code: str, address: str, cache: Path) -> list[str]:
    """The lines that `code` prints in a fresh process, as the hub's library reads its address at import."""
    run = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"HF_ENDPOINT": address, "HF_HOME": str(cache), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=240,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.splitlines()
