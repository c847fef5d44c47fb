"""The site behind nginx, by launch/site/nginx.conf and a certificate made here: a host, or a part of one."""

import re
import shutil
import socket
import ssl
import subprocess
import time
from http.cookiejar import CookieJar
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import HTTPCookieProcessor, HTTPSHandler, ProxyHandler, Request, build_opener

import labelling
import pytest
from labelling import ROOT, pair

from rlhf_jax.data.record_json import write_jsonl

pytestmark = pytest.mark.skipif(
    not (shutil.which("nginx") and shutil.which("openssl")), reason="nginx and openssl are not installed"
)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def configuration(folder, site: int, port: int, path: str) -> str:
    """Ours, with the ports, the certificate and the part of the host of this test."""
    text = (ROOT / "launch" / "site" / "nginx.conf").read_text()
    for old, new in (
        ("listen 443 ssl", f"listen 127.0.0.1:{port} ssl"),
        ("listen 80", f"listen 127.0.0.1:{free_port()}"),
        ("/etc/letsencrypt/live/label.example.org/fullchain.pem", str(folder / "cert.pem")),
        ("/etc/letsencrypt/live/label.example.org/privkey.pem", str(folder / "key.pem")),
        ("127.0.0.1:8000", f"127.0.0.1:{site}"),
        ("location / {", f"location {path}/ {{"),
    ):
        assert old in text, old
        text = text.replace(old, new)
    kinds = "client_body", "proxy", "fastcgi", "uwsgi", "scgi"
    temporary = "".join(f"{kind}_temp_path {folder / kind};\n" for kind in kinds)
    return f"pid {folder / 'pid'};\nevents {{}}\nhttp {{\naccess_log off;\n{temporary}{text}\n}}\n"


class Browser:
    """Keeps cookies, follows redirects, and takes any certificate."""

    def __init__(self):
        trusting = ssl.create_default_context()
        trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
        self.cookies = CookieJar()
        handlers = HTTPSHandler(context=trusting), HTTPCookieProcessor(self.cookies), ProxyHandler({})
        self.opener = build_opener(*handlers)

    def ask(self, url: str, fields: dict | None = None, headers: dict | None = None) -> tuple[int, str]:
        body = None if fields is None else urlencode(fields).encode()
        try:
            with self.opener.open(Request(url, body, headers or {}), timeout=60) as answer:
                return answer.status, answer.read().decode()
        except HTTPError as error:
            return error.code, error.read().decode()


@pytest.mark.parametrize("path", ["", "/label"])
def test_somebody_answers_behind_nginx(tmp_path, path):
    write_jsonl(tmp_path / "tasks.jsonl", [pair(0)])
    port = free_port()
    made = "openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=localhost".split()
    made += ["-keyout", str(tmp_path / "key.pem"), "-out", str(tmp_path / "cert.pem")]
    subprocess.run(made, check=True, capture_output=True)
    url = f"https://localhost:{port}{path}"
    server = labelling.Server(tmp_path, f"--url={url}")
    (tmp_path / "nginx.conf").write_text(configuration(tmp_path, server.port, port, path))
    log = ["-e", str(tmp_path / "error.log"), "-g", "daemon off;"]
    proxy = subprocess.Popen(["nginx", "-c", str(tmp_path / "nginx.conf"), *log])
    origin = f"https://localhost:{port}"
    own = {"Origin": origin, "Sec-Fetch-Site": "same-origin"}
    try:
        browser = Browser()
        link = re.search(r"https://\S+/join/\S+", (tmp_path / "serve.log").read_text())[0]
        assert link.startswith(f"{url}/join/")
        for _ in range(300):
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                time.sleep(0.1)
        status, home = browser.ask(link, {}, own)
        assert status == 200 and "Hello, Administrator" in home
        (cookie,) = browser.cookies
        assert cookie.secure and cookie.path == (path or "/")
        assert cookie.name.startswith("__Secure-" if path else "__Host-")
        for page in ("/task", "/questions", "/admin", "/review", "/static/site.js"):
            assert browser.ask(url + page)[0] == 200, page
        assert browser.ask(f"{url}/nowhere")[0] == 404
        csrf = re.search(r'name="csrf" value="([^"]*)"', browser.ask(f"{url}/admin")[1])[1]
        fields = {"csrf": csrf, "name": "Ana", "role": "labeler"}
        status, invited = browser.ask(f"{url}/admin/people", fields, own)
        assert status == 200 and f"{url}/join/" in invited
        for forged in ({"Origin": "https://localhost"}, own | {"Sec-Fetch-Site": "same-site"}):
            assert browser.ask(f"{url}/admin/people", fields, forged)[0] == 403
    finally:
        proxy.terminate()
        proxy.wait()
        server.kill()
