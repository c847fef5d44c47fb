"""Starting the site: the first link, later starts, and errors of use."""

import re
import socket

import labelling
import pytest
from labelling import pair, post, single
from starlette.testclient import TestClient

from rlhf_jax.data.record_json import write_jsonl
from rlhf_jax.feedback import people, serve
from rlhf_jax.feedback.address import hosts_of, parse_address
from rlhf_jax.feedback.app import make_app
from rlhf_jax.feedback.store import Store


@pytest.fixture
def started(monkeypatch):
    """The addresses that would have been listened at; nothing is."""
    found = []

    class Server:
        def __init__(self, config):
            assert not config.access_log and not config.server_header

        def run(self, sockets):
            found.extend(sockets)

    monkeypatch.setattr(serve.uvicorn, "Server", Server)
    monkeypatch.setattr(socket, "create_server", lambda address, family: address)
    return found


def start(folder, *options: str, records=None) -> int:
    write_jsonl(folder / "tasks.jsonl", [pair(0)] if records is None else records)
    return serve.main(
        ["rlhf-jax serve", f"--tasks={folder / 'tasks.jsonl'}", f"--store={folder / 's.sqlite'}", *options]
    )


def test_the_first_start_prints_a_link_and_later_ones_do_not(tmp_path, started, capsys):
    assert start(tmp_path) == 0
    token = re.search(r"http://127\.0\.0\.1:8000/join/([\w-]+)", capsys.readouterr().out)[1]
    with Store(tmp_path / "s.sqlite").read() as db:
        assert people.invited(db, token).role == "administrator"
    assert start(tmp_path, records=[pair(0), pair(1)]) == 0
    out = capsys.readouterr().out
    assert "/join/" not in out and "1 new tasks, 1 known" in out


def test_a_lost_link_is_replaced_on_request(tmp_path, started, capsys):
    start(tmp_path)
    first = re.search(r"/join/([\w-]+)", capsys.readouterr().out)[1]
    start(tmp_path, "--new_link")
    second = re.search(r"/join/([\w-]+)", capsys.readouterr().out)[1]
    with Store(tmp_path / "s.sqlite").read() as db:
        assert people.invited(db, first) is None and people.invited(db, second).role == "administrator"


def test_it_listens_to_this_machine_alone_unless_told(tmp_path, started):
    start(tmp_path)
    start(tmp_path, "--host=0.0.0.0", "--url=https://label.example.org/", "--port=9000")
    assert started == [("127.0.0.1", 8000), ("0.0.0.0", 9000)]


@pytest.mark.parametrize(
    "url, shown, host",
    [
        ("https://label.example.org/", "https://label.example.org", "label.example.org"),
        ("https://Label.Example.org:443", "https://label.example.org", "label.example.org"),
        ("http://label.example.org:80", "http://label.example.org", "label.example.org"),
        ("https://label.example.org:8443", "https://label.example.org:8443", "label.example.org"),
        ("https://bücher.example", "https://xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("http://[::1]:8000", "http://[::1]:8000", "[::1]"),
        ("https://example.org/label/", "https://example.org/label", "example.org"),
    ],
)
def test_the_address_is_written_as_browsers_send_it(url, shown, host):
    address = parse_address(url)
    assert address.url == shown and hosts_of(address, named=False) == [host, "127.0.0.1", "localhost"]
    assert hosts_of(address, named=True) == ["*"]  # whatever a proxy calls it


def test_an_address_of_numbers_and_colons_is_answered_to(tmp_path):
    address = parse_address("http://[::1]:8000")
    site = labelling.make_site(tmp_path, [pair(0)])
    visitor = TestClient(make_app(site, hosts_of(address, named=False)), base_url=address.url)
    assert visitor.get("/").status_code == 403  # a stranger, and no stranger's address


def test_a_batch_that_no_task_is_of_is_told(tmp_path, started, capsys):
    (tmp_path / "study.toml").write_text('[labelers.Ana]\nbatches = ["site", "round2", "rond1"]\n')
    start(tmp_path, f"--study={tmp_path / 'study.toml'}", records=[pair(0), pair(1, batch="round2")])
    assert "Field labelers.Ana.batches of the study: no task is of batch rond1." in capsys.readouterr().out


def test_a_port_in_use_is_an_error_of_use(tmp_path, capsys):
    with socket.create_server(("127.0.0.1", 0)) as other:
        assert start(tmp_path, f"--port={other.getsockname()[1]}") == 2
    captured = capsys.readouterr()
    assert "in use" in captured.err and "/join/" not in captured.out
    assert not (tmp_path / "s.sqlite").exists()


@pytest.mark.parametrize(
    "options, message",
    [
        (["--host=0.0.0.0"], "--host=0.0.0.0 needs --url"),
        (["--url=label.example.org"], "--url"),
        (["--url=https://label.example.org/a//b"], "should have a path of letters"),
        (["--url=https://label.example.org/../x"], "should have a path of letters"),
        (["--port=99999"], "port"),
        (["--study=nowhere.toml"], "nowhere.toml: cannot be read"),
        (["--stduy=x"], "stduy"),
        (["extra"], "unexpected argument 'extra'"),
        (["--tasks=nowhere.jsonl"], "nowhere.jsonl: cannot be read"),
        (["--samples=nowhere.jsonl"], "nowhere.jsonl: cannot be read"),
        (["--store=/nowhere/at/all"], "no such folder"),
        (["--store=/tmp"], "/tmp: a store is a file, and this names a folder"),
        ([f"--store={__file__}"], "test_serve.py: not a store"),
        (["--store=/proc/new.sqlite"], "/proc/new.sqlite: cannot be opened for writing"),
        (["--port=0"], "port"),
        (["--port=web"], "port"),
        (["--url=https://label.example.org:99999"], "--url"),
        (["--url=https://me@label.example.org"], "should be like"),
        (["--url=https://label.example.org/#top"], "should be like"),
    ],
)
def test_an_error_of_use_is_one_line(tmp_path, started, capsys, options, message):
    assert start(tmp_path, *options) == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("rlhf-jax serve: ") and error.count("\n") == 1
    assert started == []


def test_a_bad_record_is_named(tmp_path, started, capsys):
    assert start(tmp_path, records=[single(0), post(1), {"summaries": []}]) == 2
    assert "tasks.jsonl, line 3: field info is missing" in capsys.readouterr().err


def test_a_study_names_its_onboarding(tmp_path, started, capsys):
    (tmp_path / "study.toml").write_text('[onboarding]\nrecords = "set.jsonl"\n')
    assert start(tmp_path, f"--study={tmp_path / 'study.toml'}") == 2
    assert "set.jsonl: cannot be read" in capsys.readouterr().err
    write_jsonl(tmp_path / "set.jsonl", [pair(5, choice=0, worker="r", batch="b", split="train")])
    assert start(tmp_path, f"--study={tmp_path / 'study.toml'}") == 0
    assert "2 new tasks" in capsys.readouterr().out


def test_samples_are_read_before_the_site_is_there(tmp_path, started, capsys):
    write_jsonl(tmp_path / "samples.jsonl", [labelling.sample(0), {"post": {}}])
    assert start(tmp_path, f"--samples={tmp_path / 'samples.jsonl'}") == 2
    assert "samples.jsonl, line 2: field summaries" in capsys.readouterr().err
    write_jsonl(tmp_path / "samples.jsonl", [labelling.sample(0)])
    assert start(tmp_path, f"--samples={tmp_path / 'samples.jsonl'}") == 0


def test_the_command_serves_its_pages(tmp_path):
    write_jsonl(tmp_path / "tasks.jsonl", [pair(0)])
    server = labelling.Server(tmp_path)
    try:
        assert server.link().startswith(server.url)
    finally:
        server.kill()
