"""Names on the hub, against a server on this machine that answers as the hub does."""

import errno
import hashlib
import http.server
import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import tiny

from rlhf_jax.command_line import explain
from rlhf_jax.data import hub
from rlhf_jax.model import pretrained, transformer

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NAME = "someone/tiny-llama"
ROOT = Path(__file__).parents[2]


@pytest.fixture
def server(tmp_path):
    """(address, list of files asked for) of a hub that has one model and one behind a licence.

    Of someone/cut the connection breaks in the weights, someone/portal is a log-in page.
    """
    folder = tmp_path / "published"
    pretrained.save(folder, tiny.parameters(transformer.specs(tiny.LLAMA, tiny.VOCABULARY)), tiny.LLAMA)
    (folder / "pytorch_model.bin").write_text("a copy nobody needs")
    asked = []

    class Hub(http.server.BaseHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

        def do_HEAD(self):
            self.do_GET()

        def do_GET(self):
            path = self.path.split("?")[0]
            if "portal" in path:
                self.answer(200, b"<html>Please log in</html>", {"Content-Type": "text/html"})
            elif "busy" in path:
                self.answer(503, b"busy")
            elif path.startswith((f"/api/models/{NAME}", "/api/models/someone/cut")):
                siblings = [{"rfilename": file.name} for file in folder.iterdir()]
                files = [
                    {"type": "file", "path": f.name, "size": f.stat().st_size, "oid": "0"}
                    for f in folder.iterdir()
                ]
                info = {"id": NAME, "sha": COMMIT, "siblings": siblings, "private": False, "tags": []}
                self.answer(200, json.dumps(files if "/tree/" in path else info).encode())
            elif path.startswith("/someone/cut/resolve/"):
                weights = path.endswith(".safetensors")
                self.answer(200, (folder / path.rsplit("/")[-1]).read_bytes(), cut=weights)
            elif path.startswith(f"/{NAME}/resolve/"):
                asked.append(path.rsplit("/")[-1])
                self.answer(200, (folder / asked[-1]).read_bytes())
            elif "licensed" in path:
                self.answer(401, b"{}", {"X-Error-Code": "GatedRepo"})
            else:
                self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})

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


def find(name, address, cache):
    """What `folder_of(name)` prints or raises in a fresh process whose hub is `address`."""
    code = (
        "from rlhf_jax.model import pretrained\n"
        "from rlhf_jax.config import ConfigError, ModelConfig\n"
        "try:\n"
        f"    folder, model = pretrained.folder_of({name!r}), ModelConfig(pretrained={name!r})\n"
        "    print(folder, pretrained.architecture(model).kv_heads)\n"
        "except ConfigError as error: print('ConfigError', error)"
    )
    environment = os.environ | {"HF_ENDPOINT": address, "HF_HOME": str(cache), "JAX_PLATFORMS": "cpu"}
    run = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, cwd=ROOT, timeout=120
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


def test_a_hub_name_is_downloaded_once_and_without_what_is_not_read(server, tmp_path):
    address, asked = server
    folder, kv_heads = find(NAME, address, tmp_path / "cache").split()
    assert kv_heads == "2"
    assert {"config.json", "model.safetensors"} <= set(os.listdir(folder))
    assert "pytorch_model.bin" not in asked
    offline = find(NAME, "http://127.0.0.1:9", tmp_path / "cache")
    assert offline.split()[0] == folder


def test_names_that_the_hub_does_not_give_are_one_line(server, tmp_path):
    address, _ = server
    unknown = find("someone/nothing", address, tmp_path / "cache")
    assert unknown.startswith("ConfigError pretrained model 'someone/nothing': the hub does not")
    licensed = find("someone/licensed", address, tmp_path / "cache")
    assert "(401)" in licensed and "HF_TOKEN" in licensed and "\n" not in licensed
    unreachable = find("someone/else", "http://127.0.0.1:9", tmp_path / "cache")
    assert "the hub cannot be reached" in unreachable and "\n" not in unreachable


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("cut", r"the download broke off \(.*\); run again"),
        ("portal", "what answers is not the hub; perhaps this network asks to log in first$"),
        ("busy", "the hub answers with 503 and gives nothing; try again later$"),
    ],
)
def test_a_hub_that_does_not_answer_as_one_is_one_line(server, tmp_path, name, told):
    found = find(f"someone/{name}", server[0], tmp_path / "cache")
    assert re.match(f"ConfigError pretrained model 'someone/{name}': {told}", found) and "\n" not in found


def test_a_full_disk_is_told_as_one(monkeypatch):
    def download(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(hub, "snapshot_download", download)
    status, told = explain(pytest.raises(OSError, pretrained.folder_of, "someone/else").value)
    assert status == 2 and told.startswith(hub.HF_HUB_CACHE) and "No space left on device" in told
