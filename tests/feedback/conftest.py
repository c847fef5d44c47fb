"""Chromium, and sites that people open in it."""

import labelling
import pytest
from browsing import CHROMIUM, Person

from rlhf_jax.data.record_json import write_jsonl


@pytest.fixture(scope="module")
def browser():
    quiet = [
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--disable-quic",
    ]
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as play:
        browser = play.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", "--no-first-run", *quiet]
        )
        yield browser
        browser.close()


@pytest.fixture
def start(tmp_path, browser, request):
    """Starts a site with records and a study, and opens browsers for its people."""
    servers, persons = [], []

    def start(records, study="", onboarding=(), samples=()):
        write_jsonl(tmp_path / "tasks.jsonl", records)
        write_jsonl(tmp_path / "samples.jsonl", samples)
        write_jsonl(tmp_path / "onboarding.jsonl", onboarding)
        (tmp_path / "study.toml").write_text(study)
        options = [f"--study={tmp_path / 'study.toml'}"]
        options += [f"--samples={tmp_path / 'samples.jsonl'}"] if samples else []
        servers.append(labelling.Server(tmp_path, *options))

        def person(**options):
            persons.append(Person(browser, servers[0], request.config.getoption("--screenshots"), **options))
            return persons[-1]

        return servers[0], person

    yield start
    for person in persons:
        person.context.close()
    for server in servers:
        server.kill()
    assert [error for person in persons for error in person.errors] == []
