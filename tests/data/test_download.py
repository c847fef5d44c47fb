import contextlib
import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from rlhf_jax.config import DataConfig
from rlhf_jax.data.comparisons import PUBLISHED, load_comparisons
from rlhf_jax.data.download import DownloadError, download
from rlhf_jax.data.tasks.tldr import Tldr

ROOT = Path(__file__).parents[2]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}
CONTENT = bytes(range(256)) * 40


class Server(ThreadingHTTPServer):
    """Serves `files`; `ranges` are the Range headers asked for, `cut_at` where connections break off.

    `slow` are seconds before the second half of a file.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.files = {"/file": CONTENT}
        self.paths, self.ranges = [], []
        self.cut_at = None
        self.resumes = self.tells_length = True
        self.content_type = "application/octet-stream"
        self.slow = 0.0


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server, asked = self.server, self.headers["Range"]
        server.paths.append(self.path)
        server.ranges.append(asked)
        if self.path not in server.files:
            return self.send_error(404)
        content, start = server.files[self.path], 0
        if asked and server.resumes:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= len(content):
                return self.send_error(416)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        self.send_header("Content-Type", server.content_type)
        if server.tells_length:
            self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        rest = content[start : server.cut_at]
        half = len(rest) // 2
        with contextlib.suppress(OSError):  # the other side may be killed
            self.wfile.write(rest[:half])
            time.sleep(server.slow)
            self.wfile.write(rest[half:])

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_file_is_fetched_once(server, tmp_path):
    for _ in range(2):
        path = download(f"{server.url}/file", tmp_path / "new" / "file", len(CONTENT))
        assert path.read_bytes() == CONTENT
    assert server.ranges == [None]
    assert [p.name for p in path.parent.iterdir()] == ["file"]


def test_broken_download_is_resumed(server, tmp_path):
    server.cut_at = 1_000
    with pytest.raises(DownloadError, match="broke off at 1000 of 10240 bytes: run again to resume"):
        download(f"{server.url}/file", tmp_path / "file")
    assert not (tmp_path / "file").exists()
    server.cut_at = None
    assert download(f"{server.url}/file", tmp_path / "file").read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=1000-"]


def test_server_that_cannot_resume_sends_all_again(server, tmp_path):
    (tmp_path / "file.part").write_bytes(b"x" * 1_000)
    server.resumes = False
    assert download(f"{server.url}/file", tmp_path / "file").read_bytes() == CONTENT


def test_part_that_is_already_whole_ends_well(server, tmp_path):
    (tmp_path / "file.part").write_bytes(CONTENT)
    assert download(f"{server.url}/file", tmp_path / "file").read_bytes() == CONTENT


@pytest.mark.parametrize("size", [len(CONTENT) - 1, len(CONTENT) + 1])
def test_wrong_size_is_refused(server, tmp_path, size):
    with pytest.raises(DownloadError, match=f"has 10240 bytes, not {size}"):
        download(f"{server.url}/file", tmp_path / "file", size)
    assert list(tmp_path.iterdir()) == []


def test_missing_file_and_dead_server_are_one_line(server, tmp_path):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))  # and nobody listens
        dead = f"http://127.0.0.1:{silent.getsockname()[1]}/file"
        for url, reason in ((f"{server.url}/gone", "Not Found"), (dead, "Connection refused")):
            with pytest.raises(DownloadError) as error:
                download(url, tmp_path / "file")
            assert str(error.value).startswith(f"cannot download {url} (")
            assert reason in str(error.value)
            assert "\n" not in str(error.value)


FETCH = "import sys; from rlhf_jax.data.download import download; download(*sys.argv[1:])"


def fetching(server, path, count):
    """Processes that fetch the same file at the same time; (exit status, errors) of each."""
    command = [sys.executable, "-c", FETCH, f"{server.url}/file", str(path)]
    started = [
        subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=ENVIRONMENT)
        for _ in range(count)
    ]
    return started


def test_processes_that_share_a_cache_fetch_once_and_all_have_it(server, tmp_path):
    content = server.files["/file"] = hashlib.shake_256(b"file").digest(3_000_000)
    server.slow = 0.3  # so that all of them have started before the first is done
    for process in fetching(server, tmp_path / "file", 5):
        assert process.communicate(timeout=60)[1] == "" and process.returncode == 0
    fetched = (tmp_path / "file").read_bytes()
    assert hashlib.sha256(fetched).digest() == hashlib.sha256(content).digest()
    assert server.ranges == [None]
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_the_next_process_goes_on_where_one_was_killed(server, tmp_path):
    server.files["/file"] = hashlib.shake_256(b"file").digest(3_000_000)
    server.slow = 1.0
    first, second = fetching(server, tmp_path / "file", 2)
    partial = tmp_path / "file.part"
    while not (partial.exists() and partial.stat().st_size):
        time.sleep(0.02)
    owner = first if fetches(first) else second
    owner.kill()
    other = second if owner is first else first
    assert other.communicate(timeout=60)[1] == "" and other.returncode == 0
    owner.communicate()
    assert (tmp_path / "file").read_bytes() == server.files["/file"]
    assert len(server.ranges) == 2 and server.ranges[1].startswith("bytes=")


def fetches(process) -> bool:
    """Whether a process has a connection; the one that waits has none."""
    for file in Path(f"/proc/{process.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed since then
            if os.readlink(file).startswith("socket:"):
                return True
    return False


def test_a_file_of_unknown_length_is_refused(server, tmp_path):
    server.tells_length = False
    with pytest.raises(DownloadError, match="/file: the server does not say how long the file is"):
        download(f"{server.url}/file", tmp_path / "file")


def test_posts_and_comparisons_come_from_the_published_layout(server, tmp_path):
    post = {"id": "t3_a", "subreddit": "tifu", "title": "T", "post": "P", "summary": "S"}
    comparison = {
        "info": post,
        "summaries": [{"text": "a", "policy": "ref"}, {"text": "b", "policy": "ref"}],
        "choice": 0,
        "worker": "w",
        "batch": "batch4",
        "split": "train",
    }
    for split in ("train", "valid", "test"):
        server.files[f"/datasets/tldr_3_filtered/{split}.jsonl"] = json.dumps(post).encode()
    for name in PUBLISHED:
        server.files[f"/dataset/comparisons/{name}.json"] = json.dumps(comparison | {"batch": name}).encode()
    data = DataConfig(url=server.url, cache=str(tmp_path))
    assert {split: posts[0].id for split, posts in Tldr(data).records().items()} == dict.fromkeys(
        ("train", "valid", "test"), "t3_a"
    )
    server.paths.clear()
    assert [c.batch for c in load_comparisons(data, ("batch4",))] == ["batch4"]
    assert server.paths == [f"/dataset/comparisons/{name}.json" for name in PUBLISHED]


def test_a_log_in_page_is_not_kept_as_the_file(server, tmp_path):
    server.content_type = "text/html; charset=utf-8"
    with pytest.raises(DownloadError, match="a web page answers; perhaps this network asks to log in"):
        download(f"{server.url}/file", tmp_path / "file")
    server.content_type = "application/octet-stream"
    assert download(f"{server.url}/file", tmp_path / "file").read_bytes() == CONTENT


@pytest.mark.parametrize("url", ["file", "//file", "ftp:/file", "http://a b/file", "http://[1/file"])
def test_what_is_no_address_is_told(tmp_path, url):
    with pytest.raises(DownloadError, match="cannot download .* put the file at"):
        download(url, tmp_path / "file")
