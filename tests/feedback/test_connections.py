"""Strangers who hold connections: closed in time, and never in the way of others."""

import socket
import threading
import time

import pytest
import uvicorn
from labelling import make_site, pair

from rlhf_jax.feedback import connections
from rlhf_jax.feedback.app import make_app


@pytest.fixture
def port(tmp_path, monkeypatch):
    monkeypatch.setattr(connections, "ARRIVES", 1.0)
    monkeypatch.setattr(connections, "MOST_WAITING", 5)
    app = make_app(make_site(tmp_path, [pair(0)]), ["*"])
    config = uvicorn.Config(app, port=0, http=connections.Patient, log_config=None, log_level="critical")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    thread.join()


HEAD = b"POST /questions HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\n"
WHOLE = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


def opened(port: int, sent: bytes) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=10)
    connection.sendall(sent)
    return connection


def is_closed(connection: socket.socket) -> bool:
    """What is answered before, such as that a stranger may not, is read over."""
    try:
        while connection.recv(65536):
            pass
    except ConnectionResetError:
        pass
    except TimeoutError:
        return False
    return True


@pytest.mark.parametrize("sent", [b"", b"GET / HT", HEAD, HEAD + b"Content-Length: 9\r\n\r\ncsrf="])
def test_half_a_request_is_not_waited_for(port, sent):
    start = time.monotonic()
    assert is_closed(opened(port, sent)) and time.monotonic() - start < 8


def test_half_a_request_behind_a_whole_one_is_not_waited_for(port):
    connection = opened(port, WHOLE)
    assert connection.recv(12) == b"HTTP/1.1 403"
    connection.sendall(b"GET / HT")
    time.sleep(2)
    connection.settimeout(5)
    while data := connection.recv(65536):
        assert b"HTTP/1.1 400" not in data


def test_many_half_requests_keep_nobody_out(port):
    held = [opened(port, b"GET / HT") for _ in range(20)]
    assert opened(port, WHOLE).recv(12) == b"HTTP/1.1 403"  # at once, from somebody not signed in
    assert all(is_closed(one) for one in held)
