"""What the site's address decides: cookie, encryption, where forms come from, the path before all paths."""

import dataclasses
import re

import pytest
from labelling import make_site, pair
from starlette.testclient import TestClient

from rlhf_jax.feedback import people
from rlhf_jax.feedback.address import parse_address
from rlhf_jax.feedback.app import make_app

URLS = (
    "http://127.0.0.1:8000",
    "http://127.0.0.1:8001",
    "https://example.org",
    "https://example.org:8443",
    "https://example.org/one",
    "https://example.org/two",
)


def test_no_two_sites_of_a_host_share_a_cookie():
    assert len({parse_address(url).cookie for url in URLS}) == len(URLS)


def signed_in(site, base: str):
    """A browser at `base`, and a token to sign in with."""
    client = TestClient(make_app(site, ["*"]), base_url=base, follow_redirects=False)
    with site.store.write() as db:
        _, token = people.add(db, "Ana", "labeler")
    return client, token


@pytest.mark.parametrize("taken_off", [False, True])
def test_a_site_may_have_a_part_of_a_host(tmp_path, taken_off):
    """Whether or not the proxy takes the path off."""
    site = dataclasses.replace(make_site(tmp_path, [pair(0)]), url="https://example.org/label")
    client, token = signed_in(site, "https://example.org")
    prefix = "" if taken_off else "/label"
    joined = client.post(f"{prefix}/join/{token}", headers={"origin": "https://example.org"})
    assert joined.status_code == 303 and joined.headers["location"] == "/label/"
    cookie = joined.headers["set-cookie"]
    assert cookie.startswith("__Secure-session-") and "Path=/label;" in cookie and "Secure" in cookie
    name, value = cookie.split(";")[0].split("=")
    client.cookies.clear()
    client.headers["cookie"] = f"{name}={value}"
    task = client.get(f"{prefix}/task")
    assert task.headers["location"].startswith("/label/task/")
    page = client.get(task.headers["location"] if not taken_off else task.headers["location"][6:])
    assert page.status_code == 200
    links = re.findall(r'(?:href|src|action|data-draft)="([^"#]*)"', page.text)
    assert len(links) > 5 and all(link.startswith("/label/") for link in links)
    assert client.get(f"{prefix}/static/site.css").status_code == 200
    assert "/label/" in client.get("/nowhere").text  # the way back from an error's page


def test_with_https_browsers_are_told_to_keep_to_it(tmp_path):
    site = make_site(tmp_path, [pair(0)])
    for url, said in (("https://example.org", "max-age=2592000"), ("http://testserver", None)):
        client, token = signed_in(dataclasses.replace(site, url=url), url)
        response = client.post(f"/join/{token}", headers={"origin": url})
        assert response.headers.get("strict-transport-security") == said
        cookie = response.headers["set-cookie"]
        assert cookie.startswith("__Host-session-" if said else "session-") and "Path=/;" in cookie


def test_forms_come_from_the_origin_and_not_from_the_path(tmp_path):
    site = dataclasses.replace(make_site(tmp_path, [pair(0)]), url="https://example.org/label")
    client, token = signed_in(site, "https://example.org")
    for origin in ("https://example.org:8443", "https://example.org.evil.example", "null"):
        assert client.post(f"/join/{token}", headers={"origin": origin}).status_code == 403
