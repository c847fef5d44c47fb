import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from rlhf_jax.config import DataConfig
from rlhf_jax.data.comparisons import load_comparisons
from rlhf_jax.data.download import DownloadError, download
from rlhf_jax.data.tldr import load_posts

CONTENT = bytes(range(256)) * 40


class Server(ThreadingHTTPServer):
    """Serves `files`; `ranges` are the Range headers asked for, `cut_at` where connections break off."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.files = {"/file": CONTENT}
        self.paths, self.ranges = [], []
        self.cut_at = None
        self.resumes = True


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
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start : server.cut_at])

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
    server.files["/dataset/comparisons/batch4.json"] = json.dumps(comparison).encode()
    data = DataConfig(url=server.url, cache=str(tmp_path))
    assert {split: posts[0].id for split, posts in load_posts(data).items()} == dict.fromkeys(
        ("train", "valid", "test"), "t3_a"
    )
    server.paths.clear()
    assert [c.batch for c in load_comparisons(data, ("batch4",))] == ["batch4"]
    assert server.paths == ["/dataset/comparisons/batch4.json"]
